//! Classic groups over bare sockets: the codes that Kafka 4.4 was seen to answer with, and other kinds of groups.

use super::*;

const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const JOIN: i16 = 11;
const HEARTBEAT: i16 = 12;
const LEAVE: i16 = 13;
const SYNC: i16 = 14;
const DESCRIBE: i16 = 15;
const LIST: i16 = 16;
const DELETE: i16 = 42;
const OFFSET_DELETE: i16 = 47;
const SUBSCRIPTION: &[u8] = b"\0\x01\0\0\0\x01\0\x01t\xff\xff\xff\xff";
const ASSIGNMENT: &[u8] = b"\0\x01\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\xff\xff\xff\xff";

/// A member that joins, with what a test changes.
#[derive(Clone, Copy)]
struct Join<'a> {
    group: &'a str,
    session: i32,
    member: &'a str,
    instance: Option<&'a str>,
    protocol_type: &'a str,
    protocols: &'a [&'a str],
}

const JOINS: Join<'static> = Join {
    group: "g",
    session: 10_000,
    member: "",
    instance: None,
    protocol_type: "consumer",
    protocols: &["range"],
};

impl Join<'_> {
    /// Version 5.
    fn request(&self) -> Out {
        let mut out = Out::new()
            .text(self.group)
            .i32(self.session)
            .i32(30_000)
            .text(self.member);
        out = match self.instance {
            Some(instance) => out.text(instance),
            None => out.null(),
        };
        out = out.text(self.protocol_type).i32(self.protocols.len() as i32);
        for name in self.protocols {
            out = out.text(name).bytes(SUBSCRIPTION);
        }
        out
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Joined {
    error: i16,
    generation: i32,
    leader: String,
    member: String,
    members: usize,
}

fn joined(mut answer: In) -> Joined {
    answer.i32();
    let (error, generation) = (answer.i16(), answer.i32());
    answer.text();
    let (leader, member) = (answer.text(), answer.text());
    Joined {
        error,
        generation,
        leader,
        member,
        members: answer.i32() as usize,
    }
}

fn join(client: &mut Client, join: Join<'_>) -> Joined {
    joined(client.ask(JOIN, 5, join.request()))
}

/// A member with the id that it was promised.
fn join_with_id(client: &mut Client, with: Join<'_>) -> Joined {
    let promised = join(client, with);
    assert_eq!(promised.error, 79);
    join(
        client,
        Join {
            member: &promised.member,
            ..with
        },
    )
}

/// Version 3; the leader gives partition 0 to `to`.
fn sync(client: &mut Client, (member, generation): (&str, i32), to: &[&str]) -> (i16, Vec<u8>) {
    let mut out = Out::new()
        .text("g")
        .i32(generation)
        .text(member)
        .null()
        .i32(to.len() as i32);
    for member in to {
        out = out.text(member).bytes(ASSIGNMENT);
    }
    let mut answer = client.ask(SYNC, 3, out);
    answer.i32();
    let (error, length) = (answer.i16(), answer.i32());
    (error, answer.bytes(length))
}

fn heartbeat(client: &mut Client, member: &str, instance: Option<&str>, generation: i32) -> i16 {
    let out = Out::new().text("g").i32(generation).text(member);
    let out = match instance {
        Some(instance) => out.text(instance),
        None => out.null(),
    };
    let mut answer = client.ask(HEARTBEAT, 3, out);
    answer.i32();
    answer.i16()
}

fn commit(client: &mut Client, group: &str, who: (&str, i32), what: (&str, i64, &str)) -> i16 {
    let head = Out::new()
        .text(group)
        .i32(who.1)
        .text(who.0)
        .null()
        .i32(1)
        .text(what.0);
    let out = head.i32(1).i32(0).i64(what.1).i32(0).text(what.2);
    let mut answer = client.ask(OFFSET_COMMIT, 7, out);
    answer.i32();
    answer.i32();
    answer.text();
    answer.i32();
    answer.i32();
    answer.i16()
}

/// The offset, leader epoch and metadata, version 5.
fn committed(client: &mut Client) -> (i64, i32, String) {
    let out = Out::new().text("g").i32(1).text("t").i32(1).i32(0);
    let mut answer = client.ask(OFFSET_FETCH, 5, out);
    answer.i32();
    answer.i32();
    answer.text();
    answer.i32();
    answer.i32();
    let found = (answer.i64(), answer.i32(), answer.text());
    assert_eq!(answer.i16(), 0);
    found
}

/// The error, state, protocol type, protocol and the number of members, version 5 without its flexible form: 4.
fn describe(client: &mut Client, group: &str) -> (i16, String, String, String, i32) {
    let mut answer = client.ask(DESCRIBE, 4, Out::new().i32(1).text(group).i8(0));
    answer.i32();
    assert_eq!(answer.i32(), 1);
    let error = answer.i16();
    assert_eq!(answer.text(), group);
    (error, answer.text(), answer.text(), answer.text(), answer.i32())
}

fn delete(client: &mut Client, group: &str) -> i16 {
    let mut answer = client.ask(DELETE, 1, Out::new().i32(1).text(group));
    answer.i32();
    answer.i32();
    answer.text();
    answer.i16()
}

#[test]
fn members_are_refused_as_kafka_refuses_them() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    for (with, code) in [
        (
            Join {
                session: 5_999,
                ..JOINS
            },
            26,
        ),
        (
            Join {
                session: 1_800_001,
                ..JOINS
            },
            26,
        ),
        (Join { group: "", ..JOINS }, 24),
        (
            Join {
                protocol_type: "",
                ..JOINS
            },
            23,
        ),
        (
            Join {
                protocols: &[],
                ..JOINS
            },
            23,
        ),
        (
            Join {
                member: "nobody",
                ..JOINS
            },
            25,
        ),
    ] {
        assert_eq!(join(&mut client, with).error, code);
    }
    let promised = join(&mut client, JOINS);
    assert_eq!((promised.error, promised.generation), (79, -1));
    let pending = &*promised.member;
    assert_eq!(heartbeat(&mut client, pending, None, 1), 25);
    assert_eq!(commit(&mut client, "g", (pending, 1), ("t", 0, "")), 25);
    assert_eq!(
        commit(&mut client, "h", (pending, 1), ("t", 0, "")),
        22,
        "an unknown group"
    );
    let one = join(
        &mut client,
        Join {
            member: pending,
            ..JOINS
        },
    );
    assert_eq!(
        (one.error, one.generation, &one.leader, one.members),
        (0, 1, &one.member, 1)
    );
    let who = (&*one.member, 1);
    // Before Sync.
    assert_eq!(heartbeat(&mut client, who.0, None, 1), 0);
    assert_eq!(commit(&mut client, "g", who, ("t", 0, "")), 27);
    assert_eq!(sync(&mut client, (who.0, 2), &[]).0, 22);
    assert_eq!(sync(&mut client, who, &[who.0]), (0, ASSIGNMENT.to_vec()));
    let long = "x".repeat(4097);
    for (who, what, code) in [
        (who, ("t", 3, "meta"), 0),
        ((who.0, 2), ("t", 3, ""), 22),
        ((who.0, 0), ("t", 3, ""), 22),
        (("nobody", 1), ("t", 3, ""), 25),
        (("", -1), ("t", 3, ""), 25),
        (who, ("t", 3, &*long), 12),
        (who, ("none", 3, ""), 3),
    ] {
        assert_eq!(commit(&mut client, "g", who, what), code, "{who:?}");
    }
    assert_eq!(committed(&mut client), (3, 0, "meta".to_owned()));
    assert_eq!(
        commit(&mut client, "g", who, ("t", 1_000, "")),
        0,
        "beyond the end"
    );
    assert_eq!(committed(&mut client).0, 1_000);
    assert_eq!(commit(&mut client, "g", who, ("t", -1, "")), 0);
    assert_eq!(committed(&mut client), (-1, -1, String::new()));
    assert_eq!(
        join(
            &mut client,
            Join {
                protocols: &["sticky"],
                ..JOINS
            }
        )
        .error,
        23
    );
    assert_eq!(
        join(
            &mut client,
            Join {
                protocol_type: "connect",
                ..JOINS
            }
        )
        .error,
        23
    );
}

#[test]
fn a_rebalance_waits_for_all_members_and_a_static_restart_needs_none() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    let named = Join {
        instance: Some("i1"),
        ..JOINS
    };
    let first = join(&mut one, named);
    assert_eq!(
        (first.error, first.generation),
        (0, 1),
        "a static member joins at once"
    );
    sync(&mut one, (&first.member, 1), &[&first.member]);
    // Another one joins; its answer comes when the first has joined again.
    let promised = join(&mut two, JOINS);
    let again = Join {
        member: &promised.member,
        ..JOINS
    };
    two.send(&again.request().frame(JOIN, 5, 77));
    while heartbeat(&mut one, &first.member, Some("i1"), 1) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(heartbeat(&mut one, &first.member, Some("i1"), 1), 27);
    assert_eq!(
        commit(&mut one, "g", (&first.member, 1), ("t", 0, "")),
        0,
        "of the old generation"
    );
    assert_eq!(sync(&mut one, (&first.member, 1), &[]).0, 27);
    let rejoined = join(
        &mut one,
        Join {
            member: &first.member,
            ..named
        },
    );
    let (number, answer) = two.receive();
    let second = joined(answer);
    assert_eq!((number, second.error, second.generation), (77, 0, 2));
    assert_eq!((rejoined.generation, rejoined.members, second.members), (2, 2, 0));
    assert_eq!((&rejoined.leader, &second.leader), (&first.member, &first.member));
    two.send(
        &Out::new()
            .text("g")
            .i32(2)
            .text(&second.member)
            .null()
            .i32(0)
            .frame(SYNC, 3, 78),
    );
    assert_eq!(
        sync(&mut one, (&first.member, 2), &[&second.member]),
        (0, Vec::new())
    );
    let (_, mut answer) = two.receive();
    assert_eq!((answer.i32(), answer.i16()), (0, 0));
    assert_eq!(answer.i32(), ASSIGNMENT.len() as i32);

    // The process of the first one starts again.
    let mut restarted = fixture.client();
    let taken_over = join(&mut restarted, named);
    assert_eq!(
        (taken_over.error, taken_over.generation, taken_over.members),
        (0, 2, 0)
    );
    assert_eq!(taken_over.leader, first.member, "the old id");
    assert_ne!(taken_over.member, first.member);
    assert_eq!(heartbeat(&mut one, &first.member, Some("i1"), 2), 82);
    assert_eq!(heartbeat(&mut restarted, &taken_over.member, Some("i1"), 2), 0);
    assert_eq!(heartbeat(&mut two, &second.member, None, 2), 0);

    // Over a restart of the server nobody has to join again.
    let fixture = fixture.restart_after_kill();
    let mut client = fixture.client();
    assert_eq!(heartbeat(&mut client, &taken_over.member, Some("i1"), 2), 0);
    assert_eq!(commit(&mut client, "g", (&second.member, 2), ("t", 0, "")), 0);
    let group = fixture.server.get("/v1/groups/g");
    assert_eq!(
        (group["type"].as_str(), group["state"].as_str()),
        (Some("classic"), Some("stable"))
    );
    let members = group["members"].as_array().expect("a list");
    assert_eq!(members.len(), 2, "{group}");
    let of = |id: &str| {
        members
            .iter()
            .find(|row| row["member_id"] == id)
            .expect("a member")
    };
    let expected = serde_json::json!([{"topic": "t", "partition": 0}]);
    assert_eq!(of(&second.member)["assignment"], expected);
    assert_eq!(
        (&of(&second.member)["epoch"], &of(&second.member)["client_id"]),
        (&2.into(), &"test".into())
    );
}

#[test]
fn one_group_has_one_kind_and_is_the_same_over_http() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let json = "application/json";
    let ask = |status: u16, method: &str, path: &str, body: &str| {
        fixture.server.expect(status, method, path, json, body.as_bytes())
    };
    assert_eq!(describe(&mut client, "g").1, "Dead");
    // An HTTP member.
    ask(
        201,
        "POST",
        "/v1/groups/g/members",
        r#"{"topics":["t"],"member_id":"h"}"#,
    );
    assert_eq!(join(&mut client, JOINS).error, 23);
    assert_eq!(commit(&mut client, "g", ("", -1), ("t", 0, "")), 25);
    assert_eq!(
        describe(&mut client, "g"),
        (0, "Dead".into(), String::new(), String::new(), 0)
    );
    assert_eq!(delete(&mut client, "g"), 68);
    ask(204, "DELETE", "/v1/groups/g/members/h", "");
    assert_eq!(commit(&mut client, "g", ("", -1), ("t", 0, "")), 0);

    let one = join_with_id(&mut client, JOINS);
    sync(&mut client, (&one.member, 1), &[&one.member]);
    let live = describe(&mut client, "g");
    assert_eq!(live, (0, "Stable".into(), "consumer".into(), "range".into(), 1));
    produce(&mut client, "t", -1, &batch(&["a", "b", "c"]));
    assert_eq!(commit(&mut client, "g", (&one.member, 1), ("t", 1, "")), 0);
    let lag = fixture.server.get("/v1/groups/g/lag");
    assert_eq!(
        (&lag["lag"], &lag["topics"][0]["partitions"][0]["member_id"]),
        (&2.into(), &(&*one.member).into())
    );
    for (method, path, body) in [
        ("POST", "/v1/groups/g/members", r#"{"topics":["t"]}"#),
        (
            "POST",
            "/v1/groups/g/members/h/poll",
            r#"{"topics":["t"],"wait_ms":0}"#,
        ),
        (
            "POST",
            "/v1/groups/g/members/h/commit",
            r#"{"epoch":1,"offsets":[]}"#,
        ),
        (
            "PUT",
            "/v1/groups/g/offsets",
            r#"{"offsets":[{"topic":"t","partition":0,"offset":0}]}"#,
        ),
        ("POST", "/v1/groups/g/offsets/reset", r#"{"to":"earliest"}"#),
        (
            "POST",
            "/v1/groups/g/offsets/reset",
            r#"{"to":"earliest","while_active":true}"#,
        ),
        ("DELETE", "/v1/groups/g", ""),
    ] {
        let problem = ask(409, method, path, body);
        assert_eq!(problem["code"], "group-active", "{method} {path}");
    }
    // Single offsets: the member subscribes to the topic.
    let offset_delete = |client: &mut Client| {
        let mut answer = client.ask(
            OFFSET_DELETE,
            0,
            Out::new().text("g").i32(1).text("t").i32(1).i32(0),
        );
        let error = answer.i16();
        answer.i32();
        if answer.i32() == 0 {
            return (error, 0);
        }
        answer.text();
        answer.i32();
        answer.i32();
        (error, answer.i16())
    };
    assert_eq!(offset_delete(&mut client), (0, 86));
    let list = |client: &mut Client| {
        let mut answer = client.ask(LIST, 2, Out::new());
        answer.i32();
        answer.i16();
        let rows = (0..answer.i32()).map(|_| (answer.text(), answer.text()));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(list(&mut client), [("g".to_owned(), "consumer".to_owned())]);
    // It is removed over HTTP, and then the group takes HTTP members again, where it was.
    ask(204, "DELETE", &format!("/v1/groups/g/members/{}", one.member), "");
    assert_eq!(heartbeat(&mut client, &one.member, None, 1), 25);
    assert_eq!(describe(&mut client, "g").1, "Empty");
    let polled = ask(
        200,
        "POST",
        "/v1/groups/g/members/h/poll",
        r#"{"topics":["t"],"wait_ms":0}"#,
    );
    assert_eq!(polled["records"][0]["offset"], 1, "{polled}");
    ask(204, "DELETE", "/v1/groups/g/members/h", "");
    assert_eq!(offset_delete(&mut client), (0, 0));
    assert_eq!(delete(&mut client, "g"), 0);
    assert_eq!(delete(&mut client, "g"), 69);

    // A queue is no group for this protocol, with or without members.
    ask(
        201,
        "POST",
        "/v1/groups/g/members",
        r#"{"topics":["t"],"member_id":"h","type":"shared"}"#,
    );
    ask(204, "DELETE", "/v1/groups/g/members/h", "");
    assert_eq!(join(&mut client, JOINS).error, 23);
    assert_eq!(commit(&mut client, "g", ("", -1), ("t", 0, "")), 69);
}

#[test]
fn a_rebalance_does_not_wait_for_a_client_whose_connection_is_gone() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let one = join_with_id(&mut client, JOINS);
    sync(&mut client, (&one.member, 1), &[&one.member]);
    let mut gone = fixture.client();
    let promised = join(&mut gone, JOINS).member;
    gone.send(
        &Join {
            member: &promised,
            ..JOINS
        }
        .request()
        .frame(JOIN, 5, 9),
    );
    while describe(&mut client, "g").4 < 2 {
        std::thread::yield_now();
    }
    drop(gone);
    while describe(&mut client, "g").4 > 1 {
        std::thread::yield_now();
    }
    let again = join(
        &mut client,
        Join {
            member: &one.member,
            ..JOINS
        },
    );
    assert_eq!((again.error, again.generation, again.members), (0, 2, 1));
    let mut answer = client.ask(LEAVE, 1, Out::new().text("g").text(&one.member));
    assert_eq!((answer.i32(), answer.i16()), (0, 0));
    assert_eq!(describe(&mut client, "g").1, "Empty");
}

#[test]
fn an_empty_instance_id_is_none() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let one = join_with_id(&mut client, JOINS);
    sync(&mut client, (&one.member, 1), &[&one.member]);
    assert_eq!(heartbeat(&mut client, &one.member, Some(""), 1), 0);
    let head = Out::new().text("g").i32(1).text(&one.member).text("");
    let row = head.i32(1).text("t").i32(1).i32(0).i64(0).i32(0).text("");
    let mut answer = client.ask(OFFSET_COMMIT, 7, row);
    answer.bytes(4 + 4 + 3 + 4 + 4);
    assert_eq!(answer.i16(), 0);
}
