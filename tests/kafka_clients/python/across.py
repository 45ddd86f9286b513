"""What a Kafka consumer sees of what was done over HTTP, and does for it: kafka-python."""

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.partitioner.default import murmur2
from kafka.structs import OffsetAndMetadata

from shared import KAFKA, PATIENCE, parts, until


def consumer(**settings):
    return KafkaConsumer(bootstrap_servers=KAFKA, auto_offset_reset="earliest", enable_auto_commit=False, **settings)


def keys():
    """Each key lies in the partition that this client's partitioner chooses for it."""
    reader = consumer()
    partitions = [TopicPartition("keyed", p) for p in range(7)]
    reader.assign(partitions)
    found = []

    def read():
        for records in reader.poll(500).values():
            found.extend(records)
        return len(found) >= 203

    until("all records", read)
    for record in found:
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 7, record
    assert len({record.key for record in found}) == 203


def commit():
    sender = KafkaProducer(bootstrap_servers=KAFKA)
    for _ in range(100):
        sender.send("across", b"1", partition=1)
    sender.flush(PATIENCE)
    reader = consumer(group_id="across")
    partition = TopicPartition("across", 1)
    reader.assign([partition])
    reader.commit({partition: OffsetAndMetadata(30, "so far", -1)})
    reader.close()


def after_reset():
    reader = consumer(group_id="across")
    partition = TopicPartition("across", 1)
    reader.assign([partition])
    assert reader.committed(partition) == 5
    found = until("a record", lambda: reader.poll(500))
    assert found[partition][0].offset == 5, found


parts({"keys": keys, "commit": commit, "after_reset": after_reset})
