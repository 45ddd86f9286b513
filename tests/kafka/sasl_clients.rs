//! Real clients that sign in, unchanged. A client that is not installed is named and skipped.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::sasl::{ADMIN, closed};
use super::secure;
use super::*;
use crate::authority::Authority;
use support::process::python_with;

/// How a client reaches a server and signs in: the address, the protocol, the mechanism, the secret of the token `app`, and
/// the file of the server's authority.
struct How<'a> {
    address: SocketAddr,
    protocol: &'a str,
    mechanism: &'a str,
    secret: &'a str,
    authority: PathBuf,
}

fn run(mut command: Command, how: &How<'_>, directory: &Path) -> String {
    let output = command
        .env("KAFKA", how.address.to_string())
        .env("PROTOCOL", how.protocol)
        .env("MECHANISM", how.mechanism)
        .env("TOKEN", how.secret)
        .env("CA", &how.authority)
        .current_dir(directory)
        .output()
        .expect("the client runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let (protocol, mechanism) = (how.protocol, how.mechanism);
    assert!(output.status.success(), "{protocol} {mechanism}: {out}{err}");
    out.trim().to_owned()
}

/// Runs a script that prints `done` with each way of signing in.
fn each_way(import: &str, script: &str) {
    let Some(python) = python_with(import) else {
        skipped(&format!("no Python can {import}"));
        return;
    };
    let run_with = |how: &How<'_>, directory: &Path| {
        let mut command = Command::new(&python);
        command.args(["-c", script]);
        assert_eq!(run(command, how, directory), "done");
    };
    let rules = json!([{"allow": ["read", "write", "create", "describe"], "topics": ["*"], "groups": ["*"]}]);
    let fixture = closed(&[]);
    let secret = fixture.token("app", &json!({"rules": rules}));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let how = How {
            address: fixture.kafka,
            protocol: "SASL_PLAINTEXT",
            mechanism,
            secret: &secret,
            authority: PathBuf::new(),
        };
        run_with(&how, fixture.data());
    }
    let server = secure::server(&Authority::new("clients"));
    let body = json!({"name": "app", "rules": rules}).to_string();
    let made = secure::http(&server, "POST", "/v1/tokens", &body);
    let secret = made.split('"').find(|part| part.starts_with("quipu_"));
    let secret = secret.unwrap_or_else(|| panic!("no token in {made}"));
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let how = How {
            address: server.server.kafka_addr().expect("it listens"),
            protocol: "SASL_SSL",
            mechanism,
            secret,
            authority: server.ca_file(),
        };
        run_with(&how, server.dir());
    }
    server.stop();
}

#[test]
fn kafka_python_signs_in() {
    let script = r#"
import os
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
how = {
    "bootstrap_servers": os.environ["KAFKA"], "security_protocol": os.environ["PROTOCOL"],
    "sasl_mechanism": os.environ["MECHANISM"], "sasl_plain_username": "app",
    "sasl_plain_password": os.environ["TOKEN"]}
if os.environ["CA"]:
    how["ssl_cafile"] = os.environ["CA"]
topic = "t" + os.environ["MECHANISM"]
producer = KafkaProducer(acks="all", **how)
sent = producer.send(topic, b"x").get(timeout=60)
producer.close()
consumer = KafkaConsumer(auto_offset_reset="earliest", **how)
partition = TopicPartition(topic, sent.partition)
consumer.assign([partition])
consumer.seek_to_beginning()
found = []
while not found:
    for records in consumer.poll(timeout_ms=1000).values():
        found += [record.value for record in records]
assert found == [b"x"], found
consumer.close()
print("done")
"#;
    each_way("import kafka", script);
}

#[test]
fn aiokafka_signs_in() {
    let script = r#"
import asyncio, os
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.helpers import create_ssl_context
async def main():
    how = {
        "bootstrap_servers": os.environ["KAFKA"], "security_protocol": os.environ["PROTOCOL"],
        "sasl_mechanism": os.environ["MECHANISM"], "sasl_plain_username": "app",
        "sasl_plain_password": os.environ["TOKEN"]}
    if os.environ["CA"]:
        how["ssl_context"] = create_ssl_context(cafile=os.environ["CA"])
    topic = "t" + os.environ["MECHANISM"]
    producer = AIOKafkaProducer(acks="all", **how)
    await producer.start()
    sent = await producer.send_and_wait(topic, b"x")
    await producer.stop()
    consumer = AIOKafkaConsumer(auto_offset_reset="earliest", **how)
    await consumer.start()
    consumer.assign([TopicPartition(topic, sent.partition)])
    record = await asyncio.wait_for(consumer.getone(), 60)
    assert record.value == b"x", record
    await consumer.stop()
    print("done")
asyncio.run(main())
"#;
    each_way("import aiokafka", script);
}

#[test]
fn confluent_kafka_signs_in() {
    let script = r#"
import os
from confluent_kafka import Consumer, OFFSET_BEGINNING, Producer, TopicPartition
how = {
    "bootstrap.servers": os.environ["KAFKA"], "security.protocol": os.environ["PROTOCOL"],
    "sasl.mechanisms": os.environ["MECHANISM"], "sasl.username": "app", "sasl.password": os.environ["TOKEN"]}
if os.environ["CA"]:
    how["ssl.ca.location"] = os.environ["CA"]
topic = "t" + os.environ["MECHANISM"]
places = []
producer = Producer({"acks": "all", **how})
producer.produce(topic, b"x", on_delivery=lambda error, message: places.append((error, message.partition())))
assert producer.flush(60) == 0
[(error, partition)] = places
assert error is None, error
consumer = Consumer({"group.id": "g", "enable.auto.commit": False, **how})
consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
message = consumer.poll(60)
assert message is not None and message.error() is None and message.value() == b"x", message
consumer.close()
print("done")
"#;
    each_way("import confluent_kafka", script);
}

#[test]
fn kcat_signs_in() {
    let probe = Command::new("kcat")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        skipped("kcat is not installed");
        return;
    }
    let fixture = closed(&[]);
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let settings = [
            "security.protocol=SASL_PLAINTEXT".to_owned(),
            format!("sasl.mechanisms={mechanism}"),
            "sasl.username=admin".to_owned(),
            format!("sasl.password={ADMIN}"),
        ];
        let mut command = Command::new("kcat");
        command.args(["-b", &fixture.kafka.to_string(), "-L"]);
        for setting in &settings {
            command.args(["-X", setting]);
        }
        let how = How {
            address: fixture.kafka,
            protocol: "SASL_PLAINTEXT",
            mechanism,
            secret: ADMIN,
            authority: PathBuf::new(),
        };
        let out = run(command, &how, fixture.data());
        assert!(out.contains("1 brokers"), "{out}");
    }
}
