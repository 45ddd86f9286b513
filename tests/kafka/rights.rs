//! Every API that is offered, for somebody who may not do what it does: the code is Kafka's, and whether there is such a
//! topic or group shows nowhere.
//!
//! An API without a row in [`ROWS`] fails the first test.

use std::collections::BTreeSet;

use serde_json::json;

use super::sasl::{ADMIN, all, closed, scram};
use super::*;

/// What an API refuses.
struct Row {
    key: i16,
    version: i16,
    /// The rights that it needs, on the topic and the group of that name.
    needs: &'static [&'static str],
    /// A request for a topic or a group.
    request: fn(&str) -> Out,
    /// The code, and where it stands in the answer, in bytes after the correlation id. Names have [`NAME`]'s length.
    refused: (i16, usize),
}

/// A topic and a group that are there.
const NAME: &str = "there-is";
/// The same that are not, with a name of the same length.
const ABSENT: &str = "there-no";

const fn row(
    key: i16,
    version: i16,
    needs: &'static [&'static str],
    request: fn(&str) -> Out,
    refused: (i16, usize),
) -> Row {
    Row {
        key,
        version,
        needs,
        request,
        refused,
    }
}

const READ: &[&str] = &["read"];
const WRITE: &[&str] = &["write"];
const DESCRIBE: &[&str] = &["describe"];
const CONFIGURE: &[&str] = &["configure"];
/// Nobody is refused as a whole: what may not be seen is not shown.
const NOTHING: &[&str] = &[];

#[rustfmt::skip]
static ROWS: &[Row] = &[
    row(0, 3, WRITE, |name| produce_request(name, 0, -1, &batch(&["x"])), (29, 22)),
    row(1, 4, READ, |name| fetch_request(name, 0, (0, 0, 1000)), (29, 26)),
    row(2, 1, DESCRIBE, |name| one(Out::new().i32(-1), name).i32(1).i32(0).i64(-1), (29, 22)),
    row(3, 1, DESCRIBE, |name| one(Out::new(), name), (29, 33)),
    row(8, 2, &["read", "write"], |name| {
        let head = Out::new().text(name).i32(-1).text("").i64(-1);
        one(head, name).i32(1).i32(0).i64(0).text("")
    }, (30, 22)),
    row(9, 2, &["describe", "read"], |name| one(Out::new().text(name), name).i32(1).i32(0), (30, 4)),
    row(10, 0, &["describe", "read", "write", "delete"], |name| Out::new().text(name), (30, 0)),
    row(11, 0, READ, |name| {
        Out::new().text(name).i32(10_000).text("").text("consumer").i32(1).text("range").bytes(b"")
    }, (30, 0)),
    row(12, 0, READ, |name| Out::new().text(name).i32(1).text("m"), (30, 0)),
    row(13, 0, &["read", "write"], |name| Out::new().text(name).text("m"), (30, 0)),
    row(14, 0, READ, |name| Out::new().text(name).i32(1).text("m").i32(0), (30, 0)),
    row(15, 0, DESCRIBE, |name| one(Out::new(), name), (30, 4)),
    row(16, 0, NOTHING, |_| Out::new(), (0, 0)),
    // Who has signed in may do so again: a mechanism that is none, as in the tests of SASL, ends the connection.
    row(17, 1, NOTHING, |_| Out::new().text("SCRAM-SHA-256"), (0, 0)),
    row(18, 0, NOTHING, |_| Out::new(), (0, 0)),
    row(19, 1, &["create"], |name| one(Out::new(), name).i32(1).i16(1).i32(0).i32(0).i32(1000).i8(0), (29, 14)),
    row(20, 1, &["delete"], |name| one(Out::new(), name).i32(1000), (29, 18)),
    row(21, 0, &["delete"], |name| one(Out::new(), name).i32(1).i32(0).i64(0).i32(1000), (29, 34)),
    row(22, 0, WRITE, |_| Out::new().null().i32(1000), (31, 4)),
    row(23, 2, DESCRIBE, |name| one(Out::new(), name).i32(1).i32(0).i32(-1).i32(0), (29, 22)),
    // There are no access control lists, whoever asks.
    row(29, 1, NOTHING, acl_filter, (54, 4)),
    row(30, 1, NOTHING, |name| {
        Out::new().i32(1).i8(2).text(name).i8(3).text("User:x").text("*").i8(3).i8(3)
    }, (54, 8)),
    row(31, 1, NOTHING, |name| Out::new().i32(1).raw(&acl_filter(name).0), (54, 8)),
    row(32, 1, DESCRIBE, |name| Out::new().i32(1).i8(2).text(name).i32(-1).i8(0), (29, 8)),
    row(33, 0, CONFIGURE, |name| Out::new().i32(1).i8(2).text(name).i32(0).i8(0), (29, 8)),
    row(35, 1, NOTHING, |name| one(Out::new(), name).i32(1).i32(0), (0, 8)),
    // Nothing goes on after a handshake that was not.
    row(36, 0, NOTHING, |_| Out::new().bytes(b"x"), (34, 0)),
    row(37, 0, CONFIGURE, |name| one(Out::new(), name).i32(9).i32(-1).i32(1000).i8(0), (29, 18)),
    row(42, 0, &["delete"], |name| one(Out::new(), name), (30, 18)),
    row(44, 0, CONFIGURE, |name| Out::new().i32(1).i8(2).text(name).i32(0).i8(0), (29, 8)),
    row(47, 0, WRITE, |name| one(Out::new().text(name), name).i32(1).i32(0), (30, 0)),
    row(50, 0, NOTHING, |_| Out::new().raw(&[0, 0, 0]), (31, 5)),
    row(51, 0, NOTHING, |name| {
        Out::new().raw(&[0, 2]).raw(&compact(name)).raw(&[1, 0, 1, 0])
    }, (31, 15)),
    row(60, 0, NOTHING, |_| Out::new().raw(&[0, 0, 0]), (0, 5)),
    row(61, 0, READ, |name| {
        Out::new().raw(&[0, 2]).raw(&compact(name)).raw(&[2]).i32(0).raw(&[0, 0])
    }, (29, 20)),
    // There are no transactions, whoever asks.
    row(65, 0, NOTHING, |name| Out::new().raw(&[0, 2]).raw(&compact(name)).raw(&[0]), (105, 6)),
    row(66, 0, NOTHING, |_| Out::new().raw(&[0, 1, 1, 0]), (0, 5)),
    row(68, 0, READ, |name| {
        let ids = Out::new().raw(&[0]).raw(&compact(name)).raw(&compact("")).i32(0).raw(&[0, 0]);
        ids.i32(10_000).raw(&[2]).raw(&compact(name)).raw(&[0, 1, 0])
    }, (30, 5)),
    row(69, 0, DESCRIBE, |name| Out::new().raw(&[0, 2]).raw(&compact(name)).raw(&[0, 0]), (30, 6)),
    row(74, 1, NOTHING, |_| Out::new().raw(&[0, 1, 0]), (0, 5)),
    row(75, 0, DESCRIBE, |name| {
        Out::new().raw(&[0, 2]).raw(&compact(name)).raw(&[0]).i32(10).raw(&[0xff, 0])
    }, (29, 6)),
];

/// An array of one name.
fn one(head: Out, name: &str) -> Out {
    head.i32(1).text(name)
}

fn acl_filter(name: &str) -> Out {
    Out::new().i8(2).text(name).i8(3).null().null().i8(1).i8(1)
}

/// A text with a compact length.
fn compact(name: &str) -> Vec<u8> {
    [&[name.len() as u8 + 1], name.as_bytes()].concat()
}

/// The answer to a row's request, of a client of its own.
fn answer(fixture: &Fixture, secret: (&str, &str), row: &Row, name: &str) -> Vec<u8> {
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", secret.0, secret.1), Ok(0));
    client.send(&(row.request)(name).frame(row.key, row.version, 1));
    client.receive().1.rest()
}

#[track_caller]
fn check(row: &Row, answer: &[u8], who: &str) {
    let (code, at) = row.refused;
    let found = answer
        .get(at..at + 2)
        .unwrap_or_else(|| panic!("{}, {who}: {answer:?}", row.key));
    assert_eq!(found, code.to_be_bytes(), "API {}, {who}: {answer:?}", row.key);
}

fn fixture() -> Fixture {
    let fixture = closed(&[("QUIPU_KAFKA_AUTO_CREATE", "off")]);
    fixture
        .http(
            ADMIN,
            "PUT",
            &format!("/v1/topics/{NAME}"),
            &json!({"partitions": 1}),
        )
        .created();
    let offsets = json!({"offsets": [{"topic": NAME, "partition": 0, "offset": 0}]});
    fixture
        .http(ADMIN, "PUT", &format!("/v1/groups/{NAME}/offsets"), &offsets)
        .ok();
    fixture
}

#[test]
fn each_api_has_a_row() {
    let fixture = Fixture::new();
    let mut answer = fixture.client().ask(API_VERSIONS, 0, Out::new());
    assert_eq!(answer.i16(), 0);
    let offered: BTreeSet<i16> = (0..answer.i32())
        .map(|_| {
            let key = answer.i16();
            answer.i32();
            key
        })
        .collect();
    let rows: BTreeSet<i16> = ROWS.iter().map(|row| row.key).collect();
    assert_eq!(rows, offered);
}

#[test]
fn whoever_may_do_nothing_learns_nothing() {
    let fixture = fixture();
    let secret = fixture.token("nothing", &json!({"rules": []}));
    let others = json!([{"allow": all()[0]["allow"], "topics": ["other-*"], "groups": ["other-*"]}]);
    let other = fixture.token("others", &json!({"rules": others}));
    for row in ROWS {
        for who in [("nothing", &secret), ("others", &other)] {
            let found = answer(&fixture, (who.0, who.1), row, NAME);
            // Of topics of its own it may say something: it gets the id of a producer.
            if (row.key, who.0) != (22, "others") {
                check(row, &found, who.0);
            }
            let absent = answer(&fixture, (who.0, who.1), row, ABSENT);
            let named = String::from_utf8_lossy(&absent).replace(ABSENT, NAME);
            // The nonce of a handshake, and the id of a producer, are always new; neither has a name.
            if ![22].contains(&row.key) {
                assert_eq!(
                    String::from_utf8_lossy(&found),
                    named,
                    "API {}, {}",
                    row.key,
                    who.0
                );
            }
        }
    }
}

#[test]
fn every_other_right_is_not_enough() {
    let fixture = fixture();
    for row in ROWS.iter().filter(|row| !row.needs.is_empty()) {
        let rights = ["read", "write", "create", "delete", "configure", "describe"];
        let others: Vec<&str> = rights
            .into_iter()
            .filter(|right| !row.needs.contains(right))
            .collect();
        let rules = json!([{"allow": others, "topics": ["*"], "groups": ["*"]}]);
        let name = format!("but-{}", row.key);
        let secret = fixture.token(&name, &json!({"rules": rules}));
        for asked in [NAME, ABSENT] {
            check(row, &answer(&fixture, (&name, &secret), row, asked), &name);
        }
    }
}

#[test]
fn what_is_listed_is_what_may_be_seen() {
    let fixture = fixture();
    let secret = fixture.token("nothing", &json!({"rules": []}));
    let of_groups = json!([{"allow": all()[0]["allow"], "groups": ["*"]}]);
    let of_groups = fixture.token("groups", &json!({"rules": of_groups}));
    let lists: [(i16, i16, Out); 6] = [
        (METADATA, 1, Out::new().i32(-1)),
        (9, 2, Out::new().text(NAME).i32(-1)),
        (16, 0, Out::new()),
        (35, 1, Out::new().i32(-1)),
        (74, 1, Out::new().raw(&[0, 1, 0])),
        (75, 0, Out::new().raw(&[0, 1]).i32(10).raw(&[0xff, 0])),
    ];
    for (key, version, body) in lists {
        let mut shown = Vec::new();
        for who in [("nothing", &*secret), ("groups", &*of_groups), ("admin", ADMIN)] {
            let mut client = fixture.client();
            assert_eq!(scram(&mut client, "SCRAM-SHA-256", who.0, who.1), Ok(0));
            client.send(&body.clone().frame(key, version, 1));
            let found = client.receive().1.rest();
            shown.push(String::from_utf8_lossy(&found).contains(NAME));
        }
        // Who may do everything with the group sees the group, and not the topic in its offsets.
        let lists_groups = key == 16;
        assert_eq!(shown, [false, lists_groups, true], "API {key}");
    }
}

#[test]
fn a_classic_group_is_described_without_topics_that_may_not_be_seen() {
    let fixture = fixture();
    let mut admin = fixture.client();
    assert_eq!(scram(&mut admin, "SCRAM-SHA-256", "admin", ADMIN), Ok(0));
    let subscription = Out::new().i16(0).i32(1).text(NAME).bytes(b"");
    let assignment = Out::new().i16(0).i32(1).text(NAME).i32(1).i32(0).bytes(b"");
    let head = Out::new().text("team").i32(60_000).text("").text("consumer");
    let mut answer = admin.ask(11, 0, head.i32(1).text("range").bytes(&subscription.0));
    assert_eq!(answer.i16(), 0);
    let generation = answer.i32();
    let (_, _, member) = (answer.text(), answer.text(), answer.text());
    let head = Out::new().text("team").i32(generation).text(&member).i32(1);
    assert_eq!(admin.ask(14, 0, head.text(&member).bytes(&assignment.0)).i16(), 0);
    let groups = json!({"allow": ["describe"], "groups": ["*"]});
    let topics = json!({"allow": ["describe"], "topics": [NAME]});
    let without = fixture.token("without", &json!({"rules": [groups]}));
    let with = fixture.token("with", &json!({"rules": [groups, topics]}));
    for (name, secret, count) in [
        ("without", &*without, 0),
        ("with", &*with, 2),
        ("admin", ADMIN, 2),
    ] {
        let mut client = fixture.client();
        assert_eq!(scram(&mut client, "SCRAM-SHA-256", name, secret), Ok(0));
        let found = client.ask(15, 0, Out::new().i32(1).text("team")).rest();
        let found = String::from_utf8_lossy(&found);
        assert!(found.contains(&member), "{found}");
        assert_eq!(found.matches(NAME).count(), count, "{name}");
    }
}

#[test]
fn an_old_fetch_of_offsets_says_that_the_group_is_refused() {
    let fixture = fixture();
    let secret = fixture.token("nothing", &json!({"rules": []}));
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "nothing", &secret), Ok(0));
    let mut answer = client.ask(9, 1, one(Out::new().text(NAME), NAME).i32(1).i32(0));
    assert_eq!((answer.i32(), answer.text()), (1, NAME.to_owned()));
    assert_eq!((answer.i32(), answer.i32(), answer.i64()), (1, 0, -1));
    assert_eq!((answer.text(), answer.i16()), (String::new(), 30));
}

#[test]
fn names_of_the_servers_own_are_no_topics() {
    let fixture = fixture();
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "admin", ADMIN), Ok(0));
    // A sign-in was refused, and a token made: the audit log has entries.
    fixture.token("one", &json!({"rules": []}));
    for name in ["__audit", "__keys", "__consumer_offsets"] {
        assert_eq!(produce(&mut client, name, -1, &batch(&["x"])).0, 3, "{name}");
        assert_eq!(fetch(&mut client, name, 0).0, 3, "{name}");
        let body = one(Out::new(), name).i32(1).i16(1).i32(0).i32(0).i32(1000).i8(0);
        let mut answer = client.ask(19, 1, body);
        answer.i32();
        answer.text();
        assert_eq!(answer.i16(), 17, "{name}");
        for key in [20, 37] {
            let body = match key {
                20 => one(Out::new(), name).i32(1000),
                _ => one(Out::new(), name).i32(9).i32(-1).i32(1000).i8(0),
            };
            let mut answer = client.ask(key, i16::from(key == 20), body);
            answer.bytes(8);
            answer.text();
            assert_eq!(answer.i16(), 3, "{name}");
        }
    }
}
