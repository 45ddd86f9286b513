//! Calls of administrators, with the answers that Kafka 4.4 was seen to give to the same requests.

use serde_json::json;

use super::*;

const CREATE_TOPICS: i16 = 19;
const DELETE_TOPICS: i16 = 20;
const DESCRIBE_ACLS: i16 = 29;
const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;
const DESCRIBE_CONFIGS: i16 = 32;
const ALTER_CONFIGS: i16 = 33;
const DESCRIBE_LOG_DIRS: i16 = 35;
const CREATE_PARTITIONS: i16 = 37;
const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
const DESCRIBE_CLUSTER: i16 = 60;
const DESCRIBE_PRODUCERS: i16 = 61;
const DESCRIBE_TRANSACTIONS: i16 = 65;
const LIST_TRANSACTIONS: i16 = 66;
const LIST_CONFIG_RESOURCES: i16 = 74;
const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// A topic of a CreateTopics request, versions 1 to 4.
pub(crate) struct New<'a> {
    name: &'a str,
    partitions: i32,
    replicas: i16,
    /// The brokers of each partition.
    assignment: &'a [&'a [i32]],
    configs: &'a [(&'a str, Option<&'a str>)],
}

impl<'a> New<'a> {
    fn of(name: &'a str, partitions: i32, replicas: i16) -> Self {
        Self {
            name,
            partitions,
            replicas,
            assignment: &[],
            configs: &[],
        }
    }

    pub(crate) fn configured(name: &'a str, configs: &'a [(&'a str, Option<&'a str>)]) -> Self {
        Self {
            configs,
            ..Self::of(name, 1, 1)
        }
    }

    fn write(&self, out: Out) -> Out {
        let mut out = out
            .text(self.name)
            .i32(self.partitions)
            .i16(self.replicas)
            .i32(self.assignment.len() as i32);
        for (index, brokers) in self.assignment.iter().enumerate() {
            out = out.i32(index as i32).i32(brokers.len() as i32);
            out = brokers.iter().fold(out, |out, broker| out.i32(*broker));
        }
        out = out.i32(self.configs.len() as i32);
        self.configs.iter().fold(out, |out, config| pair(out, *config))
    }
}

fn pair(out: Out, (name, value): (&str, Option<&str>)) -> Out {
    match value {
        Some(value) => out.text(name).text(value),
        None => out.text(name).null(),
    }
}

/// The codes of a CreateTopics answer, version 1 to 4.
fn create(client: &mut Client, version: i16, topics: &[New<'_>], validate_only: bool) -> Vec<(String, i16)> {
    let head = Out::new().i32(topics.len() as i32);
    let body = topics.iter().fold(head, |out, topic| topic.write(out));
    let mut answer = client.ask(CREATE_TOPICS, version, body.i32(1000).i8(validate_only.into()));
    if version >= 2 {
        assert_eq!(answer.i32(), 0, "no throttle");
    }
    let rows = (0..answer.i32()).map(|_| {
        let row = (answer.text(), answer.i16());
        answer.text();
        row
    });
    let rows: Vec<_> = rows.collect();
    answer.end();
    rows
}

pub(crate) fn create_one(client: &mut Client, topic: New<'_>) -> i16 {
    create(client, 4, &[topic], false)[0].1
}

#[test]
fn topics_are_created_and_refused_as_kafka_does_it() {
    let fixture = Fixture::with(&[("QUIPU_KAFKA_PARTITIONS", "3")]);
    let mut client = fixture.client();
    assert_eq!(create_one(&mut client, New::of("a.b", 2, 1)), 0);
    assert_eq!(fixture.server.get("/v1/topics/a.b")["partition_count"], 2);
    let one: &[&[i32]] = &[&[0], &[0]];
    let assigned = |assignment, partitions, replicas| New {
        assignment,
        ..New::of("assigned", partitions, replicas)
    };
    let cases: Vec<(&str, New<'_>, i16)> = vec![
        ("exists", New::of("a.b", 2, 1), 36),
        ("exists, and more is wrong", New::of("a.b", 0, 7), 36),
        ("no partitions", New::of("new", 0, 1), 37),
        ("fewer than none", New::of("new", -2, 1), 37),
        ("too many partitions", New::of("new", i32::MAX, 1), 37),
        ("replicas", New::of("new", 1, 2), 38),
        ("no replicas", New::of("new", 1, 0), 38),
        ("name", New::of("not a name", 1, 1), 17),
        ("empty name", New::of("", 1, 1), 17),
        ("the server's own", New::of("__mine", 1, 1), 17),
        ("a_b beside a.b", New::of("a_b", 1, 1), 17),
        (
            "unknown config",
            New::configured("new", &[("retention", Some("1"))]),
            40,
        ),
        (
            "config of another form",
            New::configured("new", &[("retention.ms", Some("1d"))]),
            40,
        ),
        (
            "config out of its range",
            New::configured("new", &[("segment.bytes", Some("1000"))]),
            40,
        ),
        (
            "config that has one value",
            New::configured("new", &[("min.insync.replicas", Some("2"))]),
            40,
        ),
        (
            "null config",
            New::configured("new", &[("retention.ms", None)]),
            40,
        ),
        ("assignment with partitions", assigned(one, 2, -1), 42),
        ("assignment with replicas", assigned(one, -1, 1), 42),
        ("assignment to others", assigned(&[&[0], &[1]], -1, -1), 39),
        ("assignment to several", assigned(&[&[0, 1]], -1, -1), 39),
        ("assignment to none", assigned(&[&[]], -1, -1), 39),
        ("assignment", assigned(one, -1, -1), 0),
        ("defaults", New::of("defaults", -1, -1), 0),
    ];
    for (name, topic, code) in cases {
        assert_eq!(create_one(&mut client, topic), code, "{name}");
    }
    assert_eq!(fixture.server.get("/v1/topics/assigned")["partition_count"], 2);
    assert_eq!(fixture.server.get("/v1/topics/defaults")["partition_count"], 3);
    fixture.server.expect(404, "GET", "/v1/topics/new", "", b"");
    // Version 1, as old clients send it; the same name twice; some of several.
    assert_eq!(
        create(&mut client, 1, &[New::of("old", 1, 1)], false),
        [("old".to_owned(), 0)]
    );
    let several = [
        New::of("twice", 1, 1),
        New::of("once", 1, 1),
        New::of("twice", 1, 1),
    ];
    let expected = [("twice".to_owned(), 42), ("once".to_owned(), 0)];
    assert_eq!(create(&mut client, 4, &several, false), expected);
    // Only asked whether it could be.
    assert_eq!(create(&mut client, 4, &[New::of("dry", 1, 1)], true)[0].1, 0);
    assert_eq!(create(&mut client, 4, &[New::of("dry", 0, 1)], true)[0].1, 37);
    assert_eq!(create(&mut client, 4, &[New::of("once", 1, 1)], true)[0].1, 36);
    fixture.server.expect(404, "GET", "/v1/topics/dry", "", b"");
    let audit = fixture.server.get("/v1/audit");
    let entries = audit["entries"].as_array().expect("entries");
    let is_of = |resource: &str| {
        entries
            .iter()
            .any(|entry| entry["action"] == "topic.create" && entry["resource"] == resource)
    };
    assert!(is_of("topics/a.b") && !is_of("topics/dry"), "{audit}");
}

#[test]
fn replicas_are_taken_as_one_if_that_is_set() {
    let fixture = Fixture::with(&[("QUIPU_KAFKA_ANY_REPLICATION", "on")]);
    let mut client = fixture.client();
    assert_eq!(create_one(&mut client, New::of("t", 1, 3)), 0);
    assert_eq!(create_one(&mut client, New::of("u", 1, 0)), 38);
}

/// The configurations of a resource by name: value, source and type.
fn describe(
    client: &mut Client,
    (kind, name): (i8, &str),
    keys: Option<&[&str]>,
) -> Result<Vec<(String, String, i8)>, i16> {
    let head = Out::new().i32(1).i8(kind).text(name);
    let body = match keys {
        Some(keys) => keys
            .iter()
            .fold(head.i32(keys.len() as i32), |out, key| out.text(key)),
        None => head.i32(-1),
    };
    let mut answer = client.ask(DESCRIBE_CONFIGS, 2, body.i8(1));
    assert_eq!((answer.i32(), answer.i32()), (0, 1));
    let code = answer.i16();
    answer.text();
    assert_eq!((answer.i8(), answer.text().as_str()), (kind, name));
    let mut rows = Vec::new();
    for _ in 0..answer.i32() {
        let (name, value) = (answer.text(), answer.text());
        let (is_read_only, source, is_sensitive) = (answer.i8(), answer.i8(), answer.i8());
        assert_eq!(
            (is_read_only, is_sensitive),
            (i8::from(kind == BROKER), 0),
            "{name}"
        );
        let synonyms: Vec<_> = (0..answer.i32())
            .map(|_| (answer.text(), answer.text(), answer.i8()))
            .collect();
        if let Some(first) = synonyms.first() {
            assert_eq!((&first.1, first.2), (&value, source), "{name}");
        }
        rows.push((name, value, source));
    }
    answer.end();
    if code == 0 { Ok(rows) } else { Err(code) }
}

fn value(client: &mut Client, topic: &str, key: &str) -> (String, i8) {
    let mut rows = describe(client, (TOPIC, topic), Some(&[key])).expect("a topic");
    assert_eq!(rows.len(), 1, "{key}");
    let (name, value, source) = rows.remove(0);
    assert_eq!(name, key);
    (value, source)
}

/// Replaces the configuration of a resource.
fn replace(
    client: &mut Client,
    (kind, name): (i8, &str),
    configs: &[(&str, Option<&str>)],
    dry: bool,
) -> i16 {
    let head = Out::new().i32(1).i8(kind).text(name).i32(configs.len() as i32);
    let body = configs.iter().fold(head, |out, config| pair(out, *config));
    altered(client.ask(ALTER_CONFIGS, 1, body.i8(dry.into())), kind, name)
}

/// Changes single configurations.
fn alter(
    client: &mut Client,
    (kind, name): (i8, &str),
    configs: &[(&str, i8, Option<&str>)],
    dry: bool,
) -> i16 {
    let head = Out::new().i32(1).i8(kind).text(name).i32(configs.len() as i32);
    let body = configs.iter().fold(head, |out, (key, operation, value)| {
        let out = out.text(key).i8(*operation);
        match value {
            Some(value) => out.text(value),
            None => out.null(),
        }
    });
    altered(
        client.ask(INCREMENTAL_ALTER_CONFIGS, 0, body.i8(dry.into())),
        kind,
        name,
    )
}

fn altered(mut answer: In, kind: i8, name: &str) -> i16 {
    assert_eq!((answer.i32(), answer.i32()), (0, 1));
    let code = answer.i16();
    let said = answer.text();
    assert_eq!(code != 0, !said.is_empty(), "{said}");
    assert_eq!((answer.i8(), answer.text().as_str()), (kind, name));
    answer.end();
    code
}

#[test]
fn configurations_have_kafkas_names_and_true_sources() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let configs = [
        ("retention.ms", Some("60000")),
        ("message.timestamp.type", Some("LogAppendTime")),
        ("max.message.bytes", Some("1234")),
        // What has one value may be given with it.
        ("min.insync.replicas", Some("1")),
        ("unclean.leader.election.enable", Some("False")),
    ];
    assert_eq!(create_one(&mut client, New::configured("t", &configs)), 0);
    let topic = fixture.server.get("/v1/topics/t");
    let expected =
        json!({"retention_ms": 60_000, "timestamp_type": "log_append_time", "max_record_bytes": 1222});
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&topic["config"][key]["value"], value, "{topic}");
    }
    let rows = describe(&mut client, (TOPIC, "t"), None).expect("a topic");
    assert_eq!(rows.len(), 37, "{rows:?}");
    // No keys are all of them, as Kafka has it.
    assert_eq!(describe(&mut client, (TOPIC, "t"), Some(&[])), Ok(rows.clone()));
    let set: Vec<_> = rows.iter().filter(|row| row.2 == 1).map(|row| &*row.0).collect();
    assert_eq!(
        set,
        ["max.message.bytes", "message.timestamp.type", "retention.ms"]
    );
    for (key, shown) in [
        ("retention.ms", ("60000", 1)),
        ("message.timestamp.type", ("LogAppendTime", 1)),
        ("cleanup.policy", ("delete", 5)),
        ("retention.bytes", ("-1", 5)),
        ("segment.ms", ("604800000", 5)),
        ("flush.messages", ("9223372036854775807", 5)),
        ("compression.type", ("producer", 5)),
    ] {
        let (value, source) = value(&mut client, "t", key);
        assert_eq!((&*value, source), shown, "{key}");
    }
    assert_eq!(
        describe(&mut client, (TOPIC, "t"), Some(&["no.such.key"])),
        Ok(vec![])
    );
    assert_eq!(describe(&mut client, (TOPIC, "none"), None), Err(3));
    assert_eq!(describe(&mut client, (TOPIC, "not a name"), None), Err(17));
    // The node: by its id, and no other.
    let node = describe(&mut client, (BROKER, "0"), None).expect("the node");
    let of_node = |name: &str| {
        let found = node.iter().find(|row| row.0 == name);
        found.map(|row| (&*row.1, row.2))
    };
    assert_eq!(of_node("num.partitions"), Some(("4", 4)));
    assert_eq!(of_node("message.max.bytes"), Some(("1048588", 5)));
    assert_eq!(of_node("log.cleanup.policy"), Some(("delete", 5)));
    let address = format!("PLAINTEXT://{}", fixture.kafka);
    assert_eq!(of_node("advertised.listeners"), Some((&*address, 4)));
    assert_eq!(describe(&mut client, (BROKER, ""), None), Ok(vec![]));
    for other in ["1", "-1", "x"] {
        assert_eq!(describe(&mut client, (BROKER, other), None), Err(42), "{other}");
    }
    assert_eq!(describe(&mut client, (99, "t"), None), Err(42));
}

#[test]
fn configurations_are_replaced_or_changed_one_by_one() {
    let fixture = Fixture::new();
    let body = br#"{"partitions":1,"config":{"ack":"written","segment_ms":5000}}"#;
    fixture
        .server
        .expect(201, "PUT", "/v1/topics/t", "application/json", body);
    let mut client = fixture.client();
    let (t, mut is) = ((TOPIC, "t"), 0);
    let mut check = |client: &mut Client, key: &str, shown: (&str, i8)| {
        is += 1;
        let (value, source) = value(client, "t", key);
        assert_eq!((&*value, source), shown, "{key}, check {is}");
    };
    // All that is not given has its default then, but for what Kafka does not know.
    assert_eq!(
        replace(&mut client, t, &[("retention.ms", Some("7000"))], true),
        0
    );
    check(&mut client, "retention.ms", ("-1", 5));
    assert_eq!(
        replace(&mut client, t, &[("retention.ms", Some("7000"))], false),
        0
    );
    check(&mut client, "retention.ms", ("7000", 1));
    check(&mut client, "segment.ms", ("604800000", 5));
    assert_eq!(
        fixture.server.get("/v1/topics/t")["config"]["ack"]["value"],
        "written"
    );
    // Key by key.
    let changes = [
        ("segment.ms", 0, Some("9000")),
        ("cleanup.policy", 2, Some("compact")),
        ("retention.ms", 1, None),
    ];
    assert_eq!(alter(&mut client, t, &changes, true), 0);
    check(&mut client, "retention.ms", ("7000", 1));
    assert_eq!(alter(&mut client, t, &changes, false), 0);
    check(&mut client, "segment.ms", ("9000", 1));
    check(&mut client, "cleanup.policy", ("delete,compact", 1));
    check(&mut client, "retention.ms", ("-1", 5));
    assert_eq!(
        alter(&mut client, t, &[("cleanup.policy", 3, Some("delete"))], false),
        0
    );
    check(&mut client, "cleanup.policy", ("compact", 1));
    // What is refused changes nothing.
    for (name, changes, code) in [
        (
            "unknown",
            [("segment.ms", 0, Some("1")), ("x", 0, Some("1"))].as_slice(),
            40,
        ),
        ("value", &[("segment.ms", 0, Some("x"))], 40),
        ("policy", &[("cleanup.policy", 0, Some("shred"))], 40),
        ("no policy", &[("cleanup.policy", 3, Some("compact"))], 40),
        ("no list", &[("segment.ms", 2, Some("1"))], 40),
        ("one value", &[("preallocate", 0, Some("true"))], 40),
        ("null", &[("segment.ms", 0, None)], 42),
        (
            "twice",
            &[("segment.ms", 0, Some("1")), ("segment.ms", 1, None)],
            42,
        ),
        ("operation", &[("segment.ms", 4, Some("1"))], 42),
    ] {
        assert_eq!(alter(&mut client, t, changes, false), code, "{name}");
    }
    assert_eq!(replace(&mut client, t, &[("retention.ms", None)], false), 42);
    assert_eq!(replace(&mut client, (TOPIC, "none"), &[], false), 3);
    assert_eq!(
        replace(
            &mut client,
            (BROKER, "0"),
            &[("num.partitions", Some("9"))],
            false
        ),
        42
    );
    check(&mut client, "segment.ms", ("9000", 1));
    check(&mut client, "cleanup.policy", ("compact", 1));
    // The word outlives a crash, and the defaults come back.
    drop(client);
    let fixture = fixture.restart_after_kill();
    let mut client = fixture.client();
    check(&mut client, "cleanup.policy", ("compact", 1));
    assert_eq!(replace(&mut client, t, &[], false), 0);
    check(&mut client, "cleanup.policy", ("delete", 5));
    check(&mut client, "segment.ms", ("604800000", 5));
}

#[test]
fn a_protected_topic_is_neither_deleted_nor_emptied() {
    let fixture = Fixture::new();
    let body = br#"{"partitions":1,"config":{"delete_protection":true}}"#;
    fixture
        .server
        .expect(201, "PUT", "/v1/topics/t", "application/json", body);
    let mut client = fixture.client();
    assert_eq!(delete(&mut client, "t"), 44);
    assert_eq!(
        replace(&mut client, (TOPIC, "t"), &[("retention.ms", Some("1"))], false),
        44
    );
    assert_eq!(
        delete_records(&mut client, "t", &[(0, -1)]),
        [(0, -1, 44)],
        "policy"
    );
    // What Kafka does not know is not replaced.
    assert_eq!(replace(&mut client, (TOPIC, "t"), &[], false), 0);
    assert_eq!(delete(&mut client, "t"), 44);
}

fn delete(client: &mut Client, name: &str) -> i16 {
    let mut answer = client.ask(DELETE_TOPICS, 3, Out::new().i32(1).text(name).i32(1000));
    assert_eq!((answer.i32(), answer.i32()), (0, 1));
    assert_eq!(answer.text(), name);
    let code = answer.i16();
    answer.end();
    code
}

/// The id of a topic as Kafka has it, from the one that HTTP shows.
fn topic_id(fixture: &Fixture, name: &str) -> [u8; 16] {
    let topic = fixture.server.get(&format!("/v1/topics/{name}"));
    let id = topic["id"].as_str().expect("an id");
    let parts: Vec<[u8; 8]> = id
        .split('-')
        .map(|part| u64::from_str_radix(part, 16).expect("a number").to_be_bytes())
        .collect();
    parts.concat().try_into().expect("two parts of 8 bytes")
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c"] {
        fixture.server.create_topic(name, 1);
    }
    let mut client = fixture.client();
    assert_eq!(delete(&mut client, "a"), 0);
    assert_eq!(delete(&mut client, "a"), 3);
    // Version 6, flexible: by its name or its id.
    let by = |client: &mut Client, name: Option<&str>, id: [u8; 16]| {
        let name = match name {
            Some(name) => [&[name.len() as u8 + 1], name.as_bytes()].concat(),
            None => vec![0],
        };
        let body = Out::new()
            .raw(&[0, 2])
            .raw(&name)
            .raw(&id)
            .raw(&[0])
            .i32(1000)
            .raw(&[0]);
        let mut answer = client.ask(DELETE_TOPICS, 6, body);
        answer.i8();
        assert_eq!((answer.i32(), answer.i8()), (0, 2));
        let length = i32::from(answer.i8()) - 1;
        let name = answer.bytes(length);
        let id = answer.bytes(16);
        (
            String::from_utf8(name).expect("a name"),
            <[u8; 16]>::try_from(id).expect("16 bytes"),
            answer.i16(),
        )
    };
    let (id, zero) = (topic_id(&fixture, "b"), [0; 16]);
    assert_eq!(by(&mut client, Some("b"), id), ("b".to_owned(), id, 42), "both");
    assert_eq!(
        by(&mut client, None, zero),
        (String::new(), zero, 42),
        "neither of both"
    );
    assert_eq!(by(&mut client, None, [7; 16]), (String::new(), [7; 16], 100));
    assert_eq!(by(&mut client, None, id), ("b".to_owned(), id, 0));
    assert_eq!(by(&mut client, None, id), (String::new(), id, 100));
    let id = topic_id(&fixture, "c");
    assert_eq!(by(&mut client, Some("c"), zero), ("c".to_owned(), id, 0));
    assert_eq!(fixture.server.get("/v1/topics")["topics"], json!([]));
}

#[test]
fn partitions_are_added_and_never_taken_away() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    let raise = |client: &mut Client, name: &str, count: i32, assignment: Option<&[&[i32]]>, dry: bool| {
        let body = Out::new().i32(1).text(name).i32(count);
        let body = match assignment {
            Some(rows) => rows.iter().fold(body.i32(rows.len() as i32), |out, row| {
                let out = out.i32(row.len() as i32);
                row.iter().fold(out, |out, broker| out.i32(*broker))
            }),
            None => body.i32(-1),
        };
        let mut answer = client.ask(CREATE_PARTITIONS, 1, body.i32(1000).i8(dry.into()));
        assert_eq!((answer.i32(), answer.i32()), (0, 1));
        assert_eq!(answer.text(), name);
        answer.i16()
    };
    for (count, code) in [(2, 37), (1, 37), (0, 37), (-1, 37), (i32::MAX, 37)] {
        assert_eq!(raise(&mut client, "t", count, None, false), code, "{count}");
    }
    assert_eq!(raise(&mut client, "none", 3, None, false), 3);
    assert_eq!(raise(&mut client, "t", 4, Some(&[&[0]]), false), 39);
    assert_eq!(raise(&mut client, "t", 3, Some(&[&[1]]), false), 39);
    assert_eq!(raise(&mut client, "t", 4, None, true), 0);
    assert_eq!(fixture.server.get("/v1/topics/t")["partition_count"], 2);
    assert_eq!(raise(&mut client, "t", 3, None, false), 0);
    assert_eq!(raise(&mut client, "t", 4, Some(&[&[0]]), false), 0);
    assert_eq!(fixture.server.get("/v1/topics/t")["partition_count"], 4);
}

/// Of each partition the log start then, and the code.
fn delete_records(client: &mut Client, topic: &str, before: &[(i32, i64)]) -> Vec<(i32, i64, i16)> {
    let body = Out::new().i32(1).text(topic).i32(before.len() as i32);
    let body = before
        .iter()
        .fold(body, |out, (index, offset)| out.i32(*index).i64(*offset));
    let mut answer = client.ask(DELETE_RECORDS, 1, body.i32(1000));
    assert_eq!((answer.i32(), answer.i32()), (0, 1));
    assert_eq!(answer.text(), topic);
    let rows = (0..answer.i32()).map(|_| (answer.i32(), answer.i64(), answer.i16()));
    let rows = rows.collect();
    answer.end();
    rows
}

#[test]
fn the_oldest_records_are_deleted() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    produce(&mut client, "t", -1, &batch(&["a", "b", "c", "d"]));
    assert_eq!(
        delete_records(&mut client, "t", &[(0, 2), (1, 0), (7, 0)]),
        [(0, 2, 0), (1, 0, 0), (7, -1, 3)]
    );
    assert_eq!(
        delete_records(&mut client, "t", &[(0, 5)]),
        [(0, -1, 1)],
        "beyond the end"
    );
    assert_eq!(
        delete_records(&mut client, "t", &[(0, -2)]),
        [(0, -1, 1)],
        "no offset"
    );
    assert_eq!(
        delete_records(&mut client, "t", &[(0, 1)]),
        [(0, 2, 0)],
        "below the start"
    );
    assert_eq!(fetch(&mut client, "t", 1).0, 1);
    assert_eq!(
        delete_records(&mut client, "t", &[(0, -1)]),
        [(0, 4, 0)],
        "all of them"
    );
    assert_eq!(delete_records(&mut client, "none", &[(0, -1)]), [(0, -1, 3)]);
}

#[test]
fn there_are_no_access_control_lists_and_no_transactions() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let filter = || Out::new().i8(1).null().i8(1).null().null().i8(1).i8(1);
    let mut answer = client.ask(DESCRIBE_ACLS, 1, filter());
    assert_eq!((answer.i32(), answer.i16()), (0, 54));
    answer.text();
    assert_eq!(answer.i32(), 0);
    answer.end();
    let creation = Out::new()
        .i32(1)
        .i8(2)
        .text("t")
        .i8(3)
        .text("User:u")
        .text("*")
        .i8(3)
        .i8(3);
    let mut answer = client.ask(CREATE_ACLS, 1, creation);
    assert_eq!((answer.i32(), answer.i32(), answer.i16()), (0, 1, 54));
    let mut answer = client.ask(DELETE_ACLS, 1, Out::new().i32(1).raw(&filter().0));
    assert_eq!((answer.i32(), answer.i32(), answer.i16()), (0, 1, 54));
    // Flexible from their first versions on.
    let body = Out::new().raw(&[0, 2, 2, b't', 3]).i32(0).i32(9).raw(&[0, 0]);
    let mut answer = client.ask(DESCRIBE_PRODUCERS, 0, body);
    answer.i8();
    assert_eq!((answer.i32(), answer.bytes(4)), (0, vec![2, 2, b't', 3]));
    assert_eq!(
        (answer.i32(), answer.i16(), answer.bytes(3)),
        (0, 0, vec![0, 1, 0])
    );
    assert_eq!((answer.i32(), answer.i16()), (9, 3));
    let body = Out::new().raw(&[0, 2, 2, b'x', 0]);
    let mut answer = client.ask(DESCRIBE_TRANSACTIONS, 0, body);
    answer.i8();
    assert_eq!((answer.i32(), answer.i8(), answer.i16()), (0, 2, 105));
    let body = Out::new().raw(&[0, 3, 6]).raw(b"Empty").raw(&[2, b'?', 1, 0]);
    let mut answer = client.ask(LIST_TRANSACTIONS, 0, body);
    answer.i8();
    assert_eq!(
        (answer.i32(), answer.i16(), answer.bytes(5)),
        (0, 0, vec![2, 2, b'?', 1, 0])
    );
}

#[test]
fn the_node_its_disk_and_its_topics_are_described() {
    let fixture = Fixture::new();
    for (name, partitions) in [("a", 3), ("b", 1), ("c", 2)] {
        fixture.server.create_topic(name, partitions);
    }
    let mut client = fixture.client();
    produce(&mut client, "b", -1, &batch(&["x"]));
    let mut answer = client.ask(DESCRIBE_CLUSTER, 1, Out::new().raw(&[0, 0, 1, 0]));
    answer.i8();
    assert_eq!((answer.i32(), answer.i16(), answer.bytes(2)), (0, 0, vec![0, 1]));
    assert_eq!(answer.i8(), 17, "the cluster's id has 16 characters");
    answer.bytes(16);
    assert_eq!((answer.i32(), answer.i8(), answer.i32()), (0, 2, 0), "one broker");
    assert_eq!(answer.i8(), 10);
    assert_eq!(
        (answer.bytes(9), answer.i32()),
        (b"127.0.0.1".to_vec(), i32::from(fixture.kafka.port()))
    );
    assert_eq!((answer.bytes(2), answer.i32()), (vec![0, 0], i32::MIN));
    for (endpoint, code) in [(2, 114), (9, 115)] {
        let mut answer = client.ask(DESCRIBE_CLUSTER, 1, Out::new().raw(&[0, 0, endpoint, 0]));
        answer.i8();
        assert_eq!((answer.i32(), answer.i16()), (0, code), "{endpoint}");
    }
    // The sizes of partitions.
    let sizes = |client: &mut Client, body: Out| {
        let mut answer = client.ask(DESCRIBE_LOG_DIRS, 1, body);
        assert_eq!((answer.i32(), answer.i32(), answer.i16()), (0, 1, 0));
        assert_eq!(answer.text(), "data");
        let topics: Vec<_> = (0..answer.i32())
            .map(|_| {
                let name = answer.text();
                let partitions = (0..answer.i32()).map(|_| {
                    let row = (answer.i32(), answer.i64());
                    assert_eq!((answer.i64(), answer.i8()), (0, 0));
                    row
                });
                (name, partitions.collect::<Vec<_>>())
            })
            .collect();
        answer.end();
        topics
    };
    let all = sizes(&mut client, Out::new().i32(-1));
    assert_eq!(
        all.iter()
            .map(|(name, rows)| (&**name, rows.len()))
            .collect::<Vec<_>>(),
        [("a", 3), ("b", 1), ("c", 2)]
    );
    assert!(all[1].1[0].1 > 0, "{all:?}");
    let asked = Out::new()
        .i32(2)
        .text("b")
        .i32(2)
        .i32(0)
        .i32(7)
        .text("none")
        .i32(0);
    assert_eq!(sizes(&mut client, asked), [all[1].clone()]);
    // Topics in pages of two partitions.
    let mut seen = Vec::new();
    let mut cursor = Out::new().i8(-1);
    loop {
        let body = Out::new().raw(&[0, 1]).i32(2).raw(&cursor.0).raw(&[0]);
        let mut answer = client.ask(DESCRIBE_TOPIC_PARTITIONS, 0, body);
        answer.i8();
        assert_eq!(answer.i32(), 0);
        for _ in 1..answer.i8() {
            assert_eq!((answer.i16(), answer.i8()), (0, 2));
            let name = String::from_utf8(answer.bytes(1)).expect("a name");
            answer.bytes(17);
            for _ in 1..answer.i8() {
                assert_eq!(answer.i16(), 0);
                seen.push((name.clone(), answer.i32()));
                assert_eq!((answer.i32(), answer.i32()), (0, 0), "leader and epoch");
                // One replica, in sync; nothing else.
                assert_eq!((answer.i8(), answer.i32()), (2, 0));
                assert_eq!((answer.i8(), answer.i32()), (2, 0));
                assert_eq!(answer.bytes(4), [1, 1, 1, 0]);
            }
            assert_eq!(answer.i32(), 0xdf8, "everything that concerns a topic");
            answer.i8();
        }
        if answer.i8() < 0 {
            break;
        }
        assert_eq!(answer.i8(), 2);
        let name = answer.bytes(1);
        cursor = Out::new().i8(1).raw(&[2]).raw(&name).i32(answer.i32()).raw(&[0]);
    }
    let expected = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)];
    assert_eq!(seen, expected.map(|(name, index)| (name.to_owned(), index)));
    // What has a configuration.
    let mut answer = client.ask(LIST_CONFIG_RESOURCES, 1, Out::new().raw(&[0, 3, 2, 4, 0]));
    answer.i8();
    assert_eq!((answer.i32(), answer.i16(), answer.i8()), (0, 0, 5));
    let rows = (0..4).map(|_| {
        let row = answer.bytes(4);
        (char::from(row[1]), row[2])
    });
    assert_eq!(rows.collect::<Vec<_>>(), [('a', 2), ('b', 2), ('c', 2), ('0', 4)]);
    let mut answer = client.ask(LIST_CONFIG_RESOURCES, 1, Out::new().raw(&[0, 2, 7, 0]));
    answer.i8();
    assert_eq!((answer.i32(), answer.i16()), (0, 35));
    let mut answer = client.ask(LIST_CONFIG_RESOURCES, 0, Out::new().raw(&[0, 0]));
    answer.i8();
    assert_eq!((answer.i32(), answer.i16(), answer.i8()), (0, 0, 1));
}
