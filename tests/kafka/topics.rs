//! Topics created, deleted, trimmed and widened by admin calls.

use super::*;

const CREATE: i16 = 19;
const DELETE: i16 = 20;
const CREATE_PARTITIONS: i16 = 37;
const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;

/// CreateTopics, version 1, of one topic; the error.
fn create(client: &mut Client, name: &str, partitions: i32, replicas: i16, config: &[(&str, &str)]) -> i16 {
    let mut body = Out::new()
        .i32(1)
        .text(name)
        .i32(partitions)
        .i16(replicas)
        .i32(0)
        .i32(config.len() as i32);
    for (key, value) in config {
        body = body.text(key).text(value);
    }
    let mut answer = client.ask(CREATE, 1, body.i32(30_000).i8(0));
    assert_eq!(answer.i32(), 1);
    assert_eq!(answer.text(), name);
    answer.i16()
}

#[test]
fn a_topic_is_created_as_it_is_asked_for_or_refused_as_kafka_refuses_it() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(create(&mut client, "t", 3, 1, &[("retention.ms", "60000")]), 0);
    let topic = fixture.server.get("/v1/topics/t");
    assert_eq!(
        (
            &topic["partition_count"],
            &topic["config"]["retention_ms"]["value"]
        ),
        (&3.into(), &60_000.into())
    );
    assert_eq!(
        create(&mut client, "default", -1, -1, &[("cleanup.policy", "delete")]),
        0
    );
    assert_eq!(fixture.server.get("/v1/topics/default")["partition_count"], 4);
    for (name, partitions, replicas, config, code) in [
        ("t", 3, 1, &[][..], 36),
        ("u", 0, 1, &[], 37),
        ("u", 1, 3, &[], 38),
        ("u", 1, 0, &[], 38),
        ("not a name", 1, 1, &[], 17),
        ("u", 1, 1, &[("no.such.key", "1")], 40),
        ("u", 1, 1, &[("retention.ms", "soon")], 40),
        ("u", 1, 1, &[("segment.bytes", "1")], 40),
    ] {
        assert_eq!(
            create(&mut client, name, partitions, replicas, config),
            code,
            "{name} {config:?}"
        );
    }
    let fixture = Fixture::with(&[("QUIPU_KAFKA_ANY_REPLICATION", "on")]);
    assert_eq!(create(&mut fixture.client(), "u", 1, 3, &[]), 0);
}

#[test]
fn partitions_are_only_added() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    let widen = |client: &mut Client, name: &str, count: i32| {
        let body = Out::new().i32(1).text(name).i32(count).i32(-1).i32(30_000).i8(0);
        let mut answer = client.ask(CREATE_PARTITIONS, 0, body);
        assert_eq!((answer.i32(), answer.i32()), (0, 1));
        answer.text();
        answer.i16()
    };
    assert_eq!(widen(&mut client, "t", 5), 0);
    for (name, count, code) in [("t", 5, 37), ("t", 2, 37), ("t", -1, 37), ("none", 5, 3)] {
        assert_eq!(widen(&mut client, name, count), code, "{name} {count}");
    }
    assert_eq!(fixture.server.get("/v1/topics/t")["partition_count"], 5);
}

#[test]
fn records_are_deleted_before_an_offset_and_topics_as_a_whole() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    produce(&mut client, "t", -1, &batch(&["a", "b", "c"]));
    let trim = |client: &mut Client, offset: i64| {
        let body = Out::new().i32(1).text("t").i32(1).i32(0).i64(offset).i32(30_000);
        let mut answer = client.ask(DELETE_RECORDS, 0, body);
        answer.i32();
        answer.i32();
        answer.text();
        assert_eq!((answer.i32(), answer.i32()), (1, 0));
        (answer.i64(), answer.i16())
    };
    assert_eq!(trim(&mut client, 2), (2, 0));
    assert_eq!(trim(&mut client, 1), (2, 0), "below: nothing");
    assert_eq!(trim(&mut client, 9), (-1, 1), "beyond");
    assert_eq!(trim(&mut client, -1), (3, 0), "all");
    assert_eq!(fetch(&mut client, "t", 1).0, 1);
    let delete = |client: &mut Client| {
        let mut answer = client.ask(DELETE, 1, Out::new().i32(1).text("t").i32(30_000));
        assert_eq!((answer.i32(), answer.i32()), (0, 1));
        answer.text();
        answer.i16()
    };
    assert_eq!(delete(&mut client), 0);
    assert_eq!(delete(&mut client), 3);
}

#[test]
fn a_topic_that_is_not_there_comes_with_what_the_client_may_do_with_it() {
    let fixture = Fixture::new();
    fixture.server.create_topic("here", 1);
    let mut client = fixture.client();
    let everything = 0xdf8;
    for (name, code, count) in [("here", 0, 1), ("none", 3, 0), ("not a name", 17, 0), ("", 17, 0)] {
        for (asks, operations) in [(1, everything), (0, i32::MIN)] {
            let body = Out::new().i32(1).text(name).raw(&[0, 0, asks]);
            let mut answer = client.ask(METADATA, 8, body);
            assert_eq!((answer.i32(), answer.i32()), (0, 1));
            answer.i32();
            answer.text();
            assert_eq!((answer.i32(), answer.i16()), (fixture.kafka.port().into(), -1));
            answer.text();
            assert_eq!((answer.i32(), answer.i32()), (0, 1));
            assert_eq!((answer.i16(), answer.text().as_str()), (code, name));
            assert_eq!((answer.i8(), answer.i32()), (0, count));
            for _ in 0..count {
                // The error, three numbers, two replicas that are there, and none that is not.
                answer.bytes(2 + 3 * 4 + 2 * 8 + 4);
            }
            assert_eq!((answer.i32(), answer.i32()), (operations, i32::MIN), "{name:?}");
            answer.end();
        }
        let body = Out::new().raw(&[0, 2, name.len() as u8 + 1]).raw(name.as_bytes());
        let body = body.raw(&[0]).i32(10).i8(-1).raw(&[0]);
        let mut answer = client.ask(DESCRIBE_TOPIC_PARTITIONS, 0, body);
        assert_eq!((answer.i8(), answer.i32(), answer.i8()), (0, 0, 2));
        assert_eq!((answer.i16(), answer.i8() as usize), (code, name.len() + 1));
        answer.bytes(name.len() as i32 + 16 + 1);
        assert_eq!(answer.i8(), count as i8 + 1);
        for _ in 0..count {
            answer.bytes(2 + 3 * 4 + 2 * 5 + 3 + 1);
        }
        assert_eq!(answer.i32(), everything, "{name:?}");
        assert_eq!((answer.i8(), answer.i8(), answer.i8()), (0, -1, 0));
        answer.end();
    }
}
