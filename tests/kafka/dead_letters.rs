//! The dead letters of a queue are written by the server, in the name of whoever has named their topic. No call of Kafka's
//! protocol is a way to write there.

use serde_json::{Value, json};

use super::sasl::{ADMIN, closed, scram};
use super::*;

const QUEUE: &str = "workers";
const SECRET: &str = "secret";

/// One array of one name.
fn one(head: Out, name: &str) -> Out {
    head.i32(1).text(name)
}

fn compact(name: &str) -> Vec<u8> {
    [&[name.len() as u8 + 1], name.as_bytes()].concat()
}

/// A change of one configuration of a resource of this type.
fn alter(key: i16, kind: i8, name: &str, (setting, value): (&str, &str)) -> Out {
    let resource = Out::new().i32(1).i8(kind).text(name).i32(1).text(setting);
    let entry = match key {
        44 => resource.i8(0),
        _ => resource,
    };
    entry.text(value).i8(0)
}

#[test]
fn no_call_writes_to_the_dead_letters_of_a_queue() {
    let fixture = closed(&[("QUIPU_KAFKA_AUTO_CREATE", "on")]);
    fixture.topic("jobs");
    fixture.topic(SECRET);
    let settings = json!({"topics": ["jobs"], "type": "shared", "dead_letter_topic": SECRET, "max_deliveries": 1, "wait_ms": 0});
    let poll = format!("/v1/groups/{QUEUE}/members/m/poll");
    fixture.http(ADMIN, "POST", &poll, &settings).ok();
    let rights = ["read", "write", "create", "delete", "configure", "describe"];
    let rules = json!([
        {"allow": rights, "topics": ["jobs"], "groups": ["*"]},
        {"allow": ["describe"], "topics": [SECRET]},
    ]);
    let token = fixture.token("mallory", &json!({"rules": rules}));
    let client = || {
        let mut client = fixture.client();
        assert_eq!(scram(&mut client, "SCRAM-SHA-256", "mallory", &token), Ok(0));
        client
    };
    // Each with where its code stands after the correlation id.
    let join = Out::new().text(QUEUE).i32(10_000).text("").text("consumer");
    let commit = Out::new().text(QUEUE).i32(-1).text("").i64(-1);
    let heartbeat = Out::new()
        .raw(&[0])
        .raw(&compact(QUEUE))
        .raw(&compact("m2"))
        .i32(0)
        .raw(&[0, 0])
        .i32(10_000)
        .raw(&[2])
        .raw(&compact("jobs"))
        .raw(&[0, 0, 1, 0]);
    let config = 8;
    for (what, key, version, body, at) in [
        (
            "a produce",
            PRODUCE,
            3,
            produce_request(SECRET, 0, -1, &batch(&["x"])),
            20,
        ),
        ("a join", 11, 0, join.i32(1).text("range").bytes(b""), 0),
        ("a heartbeat", 68, 1, heartbeat, 5),
        (
            "a commit",
            8,
            2,
            one(commit, "jobs").i32(1).i32(0).i64(0).text(""),
            18,
        ),
        (
            "a commit in the dead letters",
            8,
            2,
            one(Out::new().text("mine").i32(-1).text("").i64(-1), SECRET)
                .i32(1)
                .i32(0)
                .i64(0)
                .text(""),
            20,
        ),
        (
            "a group's setting",
            44,
            0,
            alter(44, 32, QUEUE, ("dead_letter_topic", "jobs")),
            config,
        ),
        (
            "a group's setting",
            33,
            0,
            alter(33, 32, QUEUE, ("dead_letter_topic", "jobs")),
            config,
        ),
        (
            "a topic's setting",
            44,
            0,
            alter(44, 2, "jobs", ("dead_letter_topic", SECRET)),
            config,
        ),
        (
            "a topic's setting",
            44,
            0,
            alter(44, 2, SECRET, ("retention.ms", "1")),
            config,
        ),
        ("a topic", 20, 1, one(Out::new(), SECRET).i32(1000), 16),
        (
            "a group that is in use",
            42,
            0,
            one(Out::new(), QUEUE),
            8 + 2 + QUEUE.len(),
        ),
    ] {
        let mut client = client();
        client.send(&body.frame(key, version, 1));
        let answer = client.receive().1.rest();
        let code = &answer[at..at + 2];
        assert!(code != [0, 0], "{what} ({key}): {answer:?}");
    }
    let group = fixture
        .http(ADMIN, "GET", &format!("/v1/groups/{QUEUE}"), &Value::Null)
        .ok();
    assert_eq!(group["type"], "shared");
    assert_eq!(group["settings"]["dead_letter_topic"], SECRET);
    let path = format!("/v1/topics/{SECRET}/partitions/0/offsets?at=latest");
    let end = fixture.http(ADMIN, "GET", &path, &Value::Null).ok();
    assert_eq!(end["offset"], 0, "nothing was written");

    // Without members it may be deleted, by whoever may. A queue of that name made anew has nothing of it, and whoever may not
    // write to the dead letters cannot name them again.
    let leave = format!("/v1/groups/{QUEUE}/members/m");
    assert_eq!(fixture.http(ADMIN, "DELETE", &leave, &Value::Null).status, 204);
    let mut mallory = client();
    mallory.send(&one(Out::new(), QUEUE).frame(42, 0, 1));
    let answer = mallory.receive().1.rest();
    let at = 8 + 2 + QUEUE.len();
    assert_eq!(answer[at..at + 2], [0, 0]);
    let again = fixture.http(&token, "POST", &poll, &settings);
    again.problem(403, "forbidden");
    let mut joined = client();
    let join = Out::new().text(QUEUE).i32(10_000).text("").text("consumer");
    let mut answer = joined.ask(11, 0, join.i32(1).text("range").bytes(b""));
    assert_eq!(answer.i16(), 0);
    let end = fixture.http(ADMIN, "GET", &path, &Value::Null).ok();
    assert_eq!(end["offset"], 0, "nothing was written");
}
