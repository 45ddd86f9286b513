//! Real clients, unchanged: kcat, and kafka-python in the environment of `QUIPU_TEST_PYTHON`. A client that is not
//! installed is named and skipped.

use std::process::{Command, Stdio};

use super::*;
use support::process::python_with;

pub(crate) fn run(fixture: &Fixture, mut command: Command, input: &str) -> String {
    use std::io::Write as _;
    let mut child = command
        .env("KAFKA", fixture.kafka.to_string())
        .current_dir(fixture.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("the client reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the client ends");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{out}{err}\nthe server's log says:\n{}",
        fixture.server.log()
    );
    out.into_owned()
}

fn kcat(fixture: &Fixture, arguments: &str, input: &str) -> String {
    let mut command = Command::new("kcat");
    command
        .args(["-b", &fixture.kafka.to_string()])
        .args(arguments.split(' '));
    run(fixture, command, input)
}

#[test]
fn kcat_produces_and_consumes() {
    let is_there = Command::new("kcat")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !is_there.is_ok_and(|status| status.success()) {
        println!("skipped: kcat is not installed");
        return;
    }
    let fixture = Fixture::new();
    for (acks, flags) in [("all", "-X enable.idempotence=true"), ("1", "-K:"), ("0", "-p 2")] {
        kcat(
            &fixture,
            &format!("-P -t made-{acks} -X acks={acks} {flags}"),
            "k1:one\nk2:two\nk3:three\n",
        );
        let topic = fixture.server.get(&format!("/v1/topics/made-{acks}"));
        assert_eq!(topic["partition_count"], 4, "{topic}");
        let out = kcat(&fixture, &format!("-C -t made-{acks} -o beginning -e -q"), "");
        let mut lines: Vec<&str> = out.lines().collect();
        lines.sort_unstable();
        let expected = if acks == "1" {
            ["one", "three", "two"]
        } else {
            ["k1:one", "k2:two", "k3:three"]
        };
        assert_eq!(lines, expected, "acks {acks}");
    }
    let listed = kcat(&fixture, "-L -t made-all", "");
    assert!(
        listed.contains("topic \"made-all\" with 4 partitions"),
        "{listed}"
    );
}

#[test]
fn kafka_python_produces_and_consumes() {
    let Some(python) = python_with("import kafka") else {
        println!("skipped: kafka-python is not installed");
        return;
    };
    let fixture = Fixture::new();
    let script = r#"
import json, os
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
address = os.environ["KAFKA"]
producer = KafkaProducer(
    bootstrap_servers=address, acks="all",
    key_serializer=str.encode, value_serializer=lambda value: json.dumps(value).encode())
for n in range(100):
    sent = producer.send("events", key=f"k{n % 7}", value={"n": n})
    sent.get(timeout=60)
producer.close()
consumer = KafkaConsumer(
    bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False,
    value_deserializer=lambda value: json.loads(value))
partitions = [TopicPartition("events", p) for p in consumer.partitions_for_topic("events")]
consumer.assign(partitions)
ends = consumer.end_offsets(partitions)
assert sum(ends.values()) == 100, ends
assert set(consumer.beginning_offsets(partitions).values()) == {0}
consumer.seek_to_beginning()
found = []
while len(found) < 100:
    for records in consumer.poll(timeout_ms=1000).values():
        found += [record.value["n"] for record in records]
assert sorted(found) == list(range(100)), found
consumer.close()
print("done")
"#;
    let mut command = Command::new(python);
    command.args(["-c", script]);
    assert_eq!(run(&fixture, command, "").trim(), "done");
    let topic = fixture.server.get("/v1/topics/events");
    assert_eq!(topic["partition_count"], 4, "{topic}");
}
