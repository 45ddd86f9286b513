//! Offsets of groups without members, over both protocols.

use super::*;

const COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;

/// OffsetCommit, version 2, from nobody, of partition 0; the error.
fn commit(client: &mut Client, member: &str, topic: &str, offset: i64, metadata: &str) -> i16 {
    let generation = if member.is_empty() { -1 } else { 1 };
    let head = Out::new().text("g").i32(generation).text(member).i64(-1);
    let body = head.i32(1).text(topic).i32(1).i32(0).i64(offset).text(metadata);
    let mut answer = client.ask(COMMIT, 2, body);
    assert_eq!(answer.i32(), 1);
    answer.text();
    assert_eq!((answer.i32(), answer.i32()), (1, 0));
    answer.i16()
}

/// OffsetFetch, version 1, of partition 0: offset, metadata, error.
fn committed(client: &mut Client, group: &str, topic: &str) -> (i64, String, i16) {
    let body = Out::new().text(group).i32(1).text(topic).i32(1).i32(0);
    let mut answer = client.ask(OFFSET_FETCH, 1, body);
    assert_eq!(answer.i32(), 1);
    assert_eq!(answer.text(), topic);
    assert_eq!((answer.i32(), answer.i32()), (1, 0));
    (answer.i64(), answer.text(), answer.i16())
}

#[test]
fn an_offset_is_the_same_over_both_protocols() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    produce(&mut client, "t", -1, &batch(&["a", "b", "c"]));
    assert_eq!(committed(&mut client, "g", "t"), (-1, String::new(), 0));
    assert_eq!(commit(&mut client, "", "t", 2, "m"), 0);
    assert_eq!(committed(&mut client, "g", "t"), (2, "m".to_owned(), 0));
    let group = fixture.server.get("/v1/groups/g/lag");
    assert!(group.to_string().contains("\"committed_offset\":2"), "{group}");
    let body = br#"{"offsets":[{"topic":"t","partition":0,"offset":1}]}"#;
    fixture
        .server
        .expect(200, "PUT", "/v1/groups/g/offsets", "application/json", body);
    assert_eq!(committed(&mut client, "g", "t"), (1, String::new(), 0));
    assert_eq!(committed(&mut client, "other", "t"), (-1, String::new(), 0));
    assert_eq!(committed(&mut client, "g", "none"), (-1, String::new(), 0));
}

#[test]
fn commits_are_refused_as_kafka_refuses_them() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    assert_eq!(commit(&mut client, "", "none", 0, ""), 3);
    assert_eq!(commit(&mut client, "", "t", 0, &"m".repeat(4097)), 12);
    assert_eq!(commit(&mut client, "member", "t", 0, ""), 22);
    // A live member over HTTP.
    let poll = br#"{"topics":["t"],"wait_ms":0}"#;
    fixture.server.expect(
        200,
        "POST",
        "/v1/groups/g/members/m/poll",
        "application/json",
        poll,
    );
    assert_eq!(commit(&mut client, "", "t", 0, ""), 25);
}
