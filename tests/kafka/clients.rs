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

fn is_kcat_there() -> bool {
    let mut probe = Command::new("kcat");
    let status = probe
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = status.is_ok_and(|status| status.success());
    if !is_there {
        println!("skipped: kcat is not installed");
    }
    is_there
}

#[test]
fn kcat_produces_and_consumes() {
    if !is_kcat_there() {
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

#[test]
fn kcat_reads_as_a_member_of_a_group_and_goes_on_where_it_was() {
    if !is_kcat_there() {
        return;
    }
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    for (input, expected) in [("one\ntwo\n", "one\ntwo\n"), ("three\n", "three\n")] {
        kcat(&fixture, "-P -t t", input);
        let out = kcat(&fixture, "-X auto.offset.reset=earliest -e -q -G g t", "");
        assert_eq!(out, expected);
        let lag = fixture.server.get("/v1/groups/g/lag");
        assert_eq!(
            (&lag["lag"], &lag["state"]),
            (&0.into(), &"empty".into()),
            "{lag}"
        );
    }
}

#[test]
fn two_members_of_kafka_python_share_a_topic_and_commit_over_a_restart_of_the_server() {
    let Some(python) = python_with("import kafka") else {
        println!("skipped: kafka-python is not installed");
        return;
    };
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 4);
    let script = r#"
import os, sys, time
from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import OffsetAndMetadata
address = os.environ["KAFKA"]
producer = KafkaProducer(bootstrap_servers=address, acks="all")
for n in range(40):
    producer.send("t", partition=n % 4, value=str(n).encode()).get(timeout=60)
producer.close()
def consumer():
    return KafkaConsumer("t", bootstrap_servers=address, group_id="g", auto_offset_reset="earliest",
        enable_auto_commit=False, heartbeat_interval_ms=200, session_timeout_ms=10000, max_poll_records=5,
        retry_backoff_ms=100)
found = set()
def poll(member):
    for records in member.poll(timeout_ms=200).values():
        found.update(record.value for record in records)
one = consumer()
while len(one.assignment()) < 4:
    poll(one)
two = consumer()
while len(one.assignment()) != 2 or len(two.assignment()) != 2:
    poll(one)
    poll(two)
assert not set(one.assignment()) & set(two.assignment())
while len(found) < 40:
    poll(one)
    poll(two)
print("restart", flush=True)
sys.stdin.readline()
one.commit()
two.commit()
assert len(one.assignment()) == 2 and len(two.assignment()) == 2
two.close()
while len(one.assignment()) < 4:
    poll(one)
for partition in one.assignment():
    assert one.committed(partition) == 10, (partition, one.committed(partition))
one.close()
print("done", flush=True)
"#;
    use std::io::{BufRead as _, Write as _};
    // The server comes back under the same address.
    let port = fixture.kafka.to_string();
    let mut child = Command::new(python)
        .args(["-c", script])
        .env("KAFKA", &port)
        .current_dir(fixture.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().and_then(Result::ok).unwrap_or_default();
    assert_eq!(next(), "restart");
    let fixture = fixture.restart_after_kill_at(&port);
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"\n")
        .expect("it reads");
    assert_eq!(next(), "done", "the server's log says:\n{}", fixture.server.log());
    assert!(child.wait().expect("it ends").success());
    let group = fixture.server.get("/v1/groups/g/lag");
    assert_eq!(
        (&group["lag"], &group["members"]),
        (&0.into(), &0.into()),
        "{group}"
    );
}
