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
        skipped("kcat is not installed");
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
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let words: Vec<String> = (0..50)
            .map(|n| format!("departed departed departed {n}"))
            .collect();
        let lines = words.join("\n") + "\n";
        kcat(&fixture, &format!("-P -t packed-{codec} -p 0 -z {codec}"), &lines);
        let out = kcat(
            &fixture,
            &format!("-C -t packed-{codec} -p 0 -o beginning -e -q"),
            "",
        );
        assert_eq!(out, lines, "{codec}");
        let uri = format!("/v1/topics/packed-{codec}/partitions/0/records?offset=49");
        let page = fixture.server.get(&uri);
        assert_eq!(page["next_offset"], 50, "{page}");
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
        skipped("kafka-python is not installed");
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

/// Two consumers, each in a thread of its own: kafka-python before 3 waits for a rebalance within `poll`.
const TWO_MEMBERS: &str = r#"
import os, sys, threading, time
from kafka import KafkaConsumer, KafkaProducer
address = os.environ["KAFKA"]
producer = KafkaProducer(bootstrap_servers=address, acks="all")
for n in range(40):
    producer.send("t", partition=n % 4, value=str(n).encode()).get(timeout=60)
producer.close()
found = set()
class Member(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.wish, self.held = "poll", set()
        self.start()
    def run(self):
        consumer = KafkaConsumer("t", bootstrap_servers=address, group_id="g", auto_offset_reset="earliest",
            enable_auto_commit=False, heartbeat_interval_ms=200, session_timeout_ms=45000, max_poll_records=5,
            retry_backoff_ms=100)
        while self.wish != "leave":
            if self.wish == "poll":
                for records in consumer.poll(timeout_ms=200).values():
                    found.update(record.value for record in records)
            elif self.wish == "commit":
                consumer.commit()
                self.wish = "rest"
            else:
                time.sleep(0.05)
            self.held = set(consumer.assignment())
        committed = {consumer.committed(partition) for partition in self.held}
        assert committed == {10}, committed
        consumer.close()
        self.wish = "gone"
def wait_until(condition):
    while not condition():
        time.sleep(0.05)
one = Member()
wait_until(lambda: len(one.held) == 4)
two = Member()
wait_until(lambda: len(one.held) == 2 and len(two.held) == 2)
assert not one.held & two.held
wait_until(lambda: len(found) == 40)
one.wish = two.wish = "rest"
print("restart", flush=True)
sys.stdin.readline()
one.wish = two.wish = "commit"
wait_until(lambda: one.wish == "rest" and two.wish == "rest")
print("committed", flush=True)
sys.stdin.readline()
two.wish, one.wish = "leave", "poll"
wait_until(lambda: len(one.held) == 4)
one.wish = "leave"
wait_until(lambda: one.wish == "gone" and two.wish == "gone")
print("done", flush=True)
"#;

#[test]
fn two_members_of_kafka_python_share_a_topic_and_commit_over_a_restart_of_the_server() {
    use std::io::{BufRead as _, Write as _};

    let Some(python) = python_with("import kafka") else {
        skipped("kafka-python is not installed");
        return;
    };
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 4);
    let address = fixture.kafka.to_string();
    let mut child = Command::new(python)
        .args(["-c", TWO_MEMBERS])
        .env("KAFKA", &address)
        .current_dir(fixture.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().and_then(Result::ok).unwrap_or_default();
    let mut stdin = child.stdin.take().expect("piped");
    let epochs = |fixture: &Fixture| {
        let group = fixture.server.get("/v1/groups/g");
        let members = group["members"].as_array().cloned().unwrap_or_default();
        let row = |row: &serde_json::Value| (row["member_id"].clone(), row["epoch"].clone());
        members.iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(next(), "restart");
    let before = epochs(&fixture);
    assert_eq!(before.len(), 2);
    // The server comes back at the address that the clients know.
    let fixture = fixture.restart_after_kill_at(&address);
    stdin.write_all(b"\n").expect("it reads");
    assert_eq!(
        next(),
        "committed",
        "the server's log says:\n{}",
        fixture.server.log()
    );
    assert_eq!(epochs(&fixture), before, "a restart is no rebalance");
    stdin.write_all(b"\n").expect("it reads");
    assert_eq!(next(), "done", "the server's log says:\n{}", fixture.server.log());
    assert!(child.wait().expect("it ends").success());
    let group = fixture.server.get("/v1/groups/g/lag");
    assert_eq!(
        (&group["lag"], &group["members"]),
        (&0.into(), &0.into()),
        "{group}"
    );
}
