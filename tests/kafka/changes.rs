//! What Kafka's clients change as administrators do: a line in the log for each, with who it was and by which request.

use serde_json::{Value, json};

use super::failures::{lines, wait_until};
use super::sasl::{ADMIN, all, closed, scram};
use super::*;

/// The request of each API that changes something, for a topic `t` and a group `g`, with the resource that its line names.
fn requests() -> Vec<(&'static str, i16, i16, Out, &'static str)> {
    let topic = || Out::new().i32(1).text("t");
    let none = |out: Out| out.i32(0).i32(0);
    let config = || topic_config(Out::new().i32(1).i8(2).text("t"));
    vec![
        (
            "CreateTopics",
            19,
            1,
            none(topic().i32(1).i16(1)).i32(0).i8(0),
            "topics/t",
        ),
        (
            "CreateTopics",
            19,
            1,
            none(Out::new().i32(1).text("dry").i32(1).i16(1)).i32(0).i8(1),
            "topics/dry",
        ),
        (
            "CreatePartitions",
            37,
            0,
            topic().i32(2).i32(-1).i32(0).i8(0),
            "topics/t",
        ),
        ("AlterConfigs", 33, 0, config().i8(0), "topics/t"),
        (
            "DeleteRecords",
            21,
            0,
            topic().i32(1).i32(0).i64(-1).i32(0),
            "topics/t/partitions/0/records",
        ),
        ("OffsetCommit", 8, 2, commit(0), ""),
        (
            "OffsetDelete",
            47,
            0,
            Out::new().text("g").i32(1).text("t").i32(1).i32(0),
            "groups/g/offsets",
        ),
        (
            "LeaveGroup",
            13,
            1,
            Out::new().text("g").text("gone"),
            "groups/g/members",
        ),
        ("DeleteGroups", 42, 0, Out::new().i32(1).text("g"), "groups/g"),
        ("DeleteTopics", 20, 1, topic().i32(0), "topics/t"),
    ]
}

/// A commit of nobody.
fn commit(offset: i64) -> Out {
    let head = Out::new().text("g").i32(-1).text("").i64(-1);
    head.i32(1).text("t").i32(1).i32(0).i64(offset).null()
}

fn topic_config(out: Out) -> Out {
    out.i32(1).text("retention.ms").text("3600000")
}

#[test]
fn each_change_is_a_line_with_who_asked_and_its_result() {
    let fixture = closed(&[]);
    let small = fixture.token(
        "small",
        &json!({"rules": [{"allow": ["describe"], "topics": ["x"]}]}),
    );
    let large = fixture.token("large", &json!({"rules": all()}));
    for (name, secret, is_allowed) in [("small", &small, false), ("large", &large, true)] {
        let mut client = fixture.client();
        scram(&mut client, "SCRAM-SHA-256", name, secret).expect("signed in");
        for (api, key, version, body, resource) in requests() {
            let before = fixture.server.log().lines().count();
            client.ask(key, version, body);
            if resource.is_empty() {
                continue;
            }
            let dry = if resource == "topics/dry" {
                "a dry run was asked for"
            } else {
                "a change was asked for"
            };
            let words = [
                dry,
                "request_id=",
                "address=127.0.0.1:",
                &format!("principal=\"{name}\""),
                &format!("api=\"{api}\""),
                &format!("resource=\"{resource}"),
            ];
            let log = || {
                fixture
                    .server
                    .log()
                    .lines()
                    .skip(before)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            wait_until(
                || !lines(&log(), &words).is_empty(),
                || format!("{words:?}\n{}", log()),
            );
            let log = log();
            let line = lines(&log, &words)[0];
            let is_done = line.contains("error_code=0");
            // Nobody has that member.
            assert_eq!(is_done, is_allowed && api != "LeaveGroup", "{line}");
        }
    }
    // What was done is in the audit log as well, with the same ids.
    let audit = fixture
        .http(ADMIN, "GET", "/v1/audit?limit=1000", &Value::Null)
        .ok();
    let log = fixture.server.log();
    for action in [
        "topic.create",
        "topic.alter",
        "records.delete",
        "offsets.delete",
        "group.delete",
        "topic.delete",
    ] {
        let entries = audit["entries"].as_array().expect("entries").iter();
        let mut of_large = entries.filter(|entry| entry["action"] == action && entry["principal"] == "large");
        let entry = of_large.next().unwrap_or_else(|| panic!("{action} in {audit}"));
        let id = entry["request_id"].as_str().expect("an id");
        assert_eq!(
            lines(&log, &["was asked for", &format!("request_id={id} ")]).len(),
            1,
            "{action} {id}"
        );
    }
}

#[test]
fn offsets_that_nobodys_commit_moves_back_are_a_line_and_those_that_go_on_are_none() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let told = || {
        lines(
            &fixture.server.log(),
            &["were moved back by a commit from outside", "group=\"g\""],
        )
        .len()
    };
    for offset in [3, 5, 5] {
        client.ask(8, 2, commit(offset));
    }
    assert_eq!(told(), 0);
    client.ask(8, 2, commit(4));
    wait_until(|| told() == 1, || fixture.server.log());
    // Over HTTP, too.
    let body = json!({"offsets": [{"topic": "t", "partition": 0, "offset": 0}]}).to_string();
    fixture.server.expect(
        200,
        "PUT",
        "/v1/groups/g/offsets",
        "application/json",
        body.as_bytes(),
    );
    wait_until(|| told() == 2, || fixture.server.log());
}

#[test]
fn refused_changes_do_not_fill_the_log() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for number in 0..200 {
        client.ask(20, 1, Out::new().i32(1).text(&format!("none{number}")).i32(0));
    }
    let told = lines(&fixture.server.log(), &["api=\"DeleteTopics\""]).len();
    assert!((10..=30).contains(&told), "{told} lines");
}
