//! Administrators' calls of real clients, unchanged. A client that is not installed is named and skipped.

use std::process::Command;

use super::clients::run;
use super::*;
use support::process::python_with;

/// Runs a script with what it needs; it prints `done` at its end.
fn script(fixture: &Fixture, import: &str, script: &str) {
    let Some(python) = python_with(import) else {
        skipped(&format!("no Python can {import}"));
        return;
    };
    let mut command = Command::new(python);
    command.args(["-c", script]);
    assert_eq!(run(fixture, command, "").trim(), "done");
}

#[test]
fn kafka_python_administers_topics() {
    let fixture = Fixture::new();
    let text = r#"
import os
from kafka import KafkaProducer, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
address = os.environ["KAFKA"]
admin = KafkaAdminClient(bootstrap_servers=address)
admin.create_topics([NewTopic("t", 2, 1, topic_configs={"cleanup.policy": "compact", "retention.ms": "-1"})])
try:
    admin.create_topics([NewTopic("t", 2, 1)])
    raise SystemExit("created twice")
except TopicAlreadyExistsError:
    pass
assert "t" in admin.list_topics()
admin.create_partitions({"t": NewPartitions(4)})
described = admin.describe_topics(["t"])
assert len(described[0]["partitions"]) == 4, described
described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "t")])
assert "compact" in repr(described), described
admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "t", {"segment.ms": "9000"})])
described = repr(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "t")]))
assert "9000" in described, described
assert "message.max.bytes" in repr(admin.describe_configs(
    [ConfigResource(ConfigResourceType.BROKER, "0")], config_filter="all"))
assert admin.describe_cluster()["controller_id"] == 0
assert "data" in repr(admin.describe_log_dirs())
producer = KafkaProducer(bootstrap_servers=address, acks="all")
for n in range(10):
    producer.send("t", b"x", key=b"k", partition=0).get(timeout=60)
producer.close()
deleted = admin.delete_records({TopicPartition("t", 0): 7})
consumer = KafkaConsumer(bootstrap_servers=address)
assert consumer.beginning_offsets([TopicPartition("t", 0)]) == {TopicPartition("t", 0): 7}, deleted
consumer.close()
admin.delete_topics(["t"])
assert "t" not in admin.list_topics()
try:
    admin.delete_topics(["t"])
    raise SystemExit("deleted twice")
except UnknownTopicOrPartitionError:
    pass
admin.close()
print("done")
"#;
    script(&fixture, "import kafka; assert kafka.__version__ >= '3'", text);
}

#[test]
fn aiokafka_administers_topics() {
    let fixture = Fixture::new();
    let text = r#"
import asyncio, os
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=os.environ["KAFKA"])
    await admin.start()
    answer = await admin.create_topics([NewTopic("t", 2, 1, topic_configs={"retention.ms": "61000"})])
    assert answer.topic_errors[0][1] == 0, answer
    answer = await admin.create_topics([NewTopic("t", 2, 1)])
    assert answer.topic_errors[0][1] == 36, answer
    await admin.create_partitions({"t": NewPartitions(3)})
    described = await admin.describe_topics(["t"])
    assert len(described[0]["partitions"]) == 3, described
    described = repr(await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "t")]))
    assert "61000" in described, described
    answer = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "t", {"segment.ms": "9000"})])
    described = repr(await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "t")]))
    assert "9000" in described and "61000" not in described, described
    await admin.delete_topics(["t"])
    assert "t" not in await admin.list_topics()
    await admin.close()
    print("done")
asyncio.run(main())
"#;
    script(&fixture, "from aiokafka.admin import NewTopic", text);
}

#[test]
fn confluent_kafka_administers_topics() {
    let fixture = Fixture::new();
    let text = r#"
import os
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, ResourceType)
admin = AdminClient({"bootstrap.servers": os.environ["KAFKA"]})
def code(future):
    try:
        future.result(timeout=60)
        return 0
    except KafkaException as error:
        return error.args[0].code()
def create(*args, **more):
    return code(admin.create_topics([NewTopic(*args, **more)])[args[0]])
assert create("t", 2, 1, config={"retention.ms": "61000"}) == 0
assert create("t", 2, 1) == 36
assert create("u", 1, 3) == 38
assert create("u", 1, 1, config={"nonsense": "1"}) == 40
assert create("assigned", 2, replica_assignment=[[0], [0]]) == 0
assert code(admin.create_partitions([NewPartitions("t", 4)])["t"]) == 0
assert code(admin.create_partitions([NewPartitions("t", 4)])["t"]) == 37
topic = ConfigResource(ResourceType.TOPIC, "t")
def described(resource):
    [future] = admin.describe_configs([resource]).values()
    return {name: entry.value for name, entry in future.result(timeout=60).items()}
configs = described(topic)
assert configs["retention.ms"] == "61000" and len(configs) == 37, configs
change = ConfigResource(ResourceType.TOPIC, "t", incremental_configs=[
    ConfigEntry("segment.ms", "9000", incremental_operation=AlterConfigOpType.SET),
    ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND)])
[future] = admin.incremental_alter_configs([change]).values()
future.result(timeout=60)
configs = described(topic)
assert (configs["segment.ms"], configs["cleanup.policy"]) == ("9000", "delete,compact"), configs
assert described(ConfigResource(ResourceType.BROKER, "0"))["broker.id"] == "0"
producer = Producer({"bootstrap.servers": os.environ["KAFKA"]})
for n in range(10):
    producer.produce("t", b"x", key=b"k", partition=0)
assert producer.flush(60) == 0
[future] = admin.delete_records([TopicPartition("t", 0, 7)]).values()
assert future.result(timeout=60).low_watermark == 7
cluster = admin.describe_cluster(include_authorized_operations=True).result(timeout=60)
assert cluster.controller.id == 0 and cluster.nodes[0].id == 0
for name in ["t", "assigned"]:
    assert code(admin.delete_topics([name])[name]) == 0
assert code(admin.delete_topics(["t"])["t"]) == 3
print("done")
"#;
    script(&fixture, "from confluent_kafka.admin import NewTopic", text);
}
