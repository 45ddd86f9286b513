"""kafka-python 2.0.2 and 3."""

import os
import threading
import time

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.structs import OffsetAndMetadata

from shared import CODECS, COUNT, KAFKA, PARTITIONS, PATIENCE, PREFIX, check, key, parts, timestamp, until, value

IS_OLD = kafka.__version__.startswith("2.")
if IS_OLD:
    from kafka.oauth.abstract import AbstractTokenProvider
else:
    from kafka.net.sasl.oauth import AbstractTokenProvider
ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor}
if not IS_OLD:
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

    # The old one's does not settle, with Kafka neither.
    ASSIGNORS |= {"sticky": StickyPartitionAssignor, "cooperative-sticky": CooperativeStickyAssignor}


# The old version asks for the broker's version first, and has 2 s for that unless it is told otherwise.
PROBE = {"api_version_auto_timeout_ms": 60_000} if IS_OLD else {}


def producer(**settings):
    return KafkaProducer(bootstrap_servers=KAFKA, **{"retries": 5, **PROBE, **settings})


def consumer(*topics, **settings):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **PROBE, **settings}
    return KafkaConsumer(*topics, bootstrap_servers=KAFKA, **settings)


def admin():
    return KafkaAdminClient(bootstrap_servers=KAFKA, **PROBE)


def send_all(topic, codec="none", count=COUNT, **settings):
    settings = {"acks": "all", **settings}
    sender = producer(compression_type=None if codec == "none" else codec, linger_ms=20, **settings)
    headers = [("codec", codec.encode())]
    sent = [sender.send(topic, key=key(n), value=value(n), timestamp_ms=timestamp(n), headers=headers) for n in range(count)]
    sender.flush(PATIENCE)
    for future in sent:
        future.get(PATIENCE)
    sender.close()


def assigned(topic):
    """A consumer of all partitions of a topic, and the partitions."""
    reader = consumer()
    partitions = [TopicPartition(topic, p) for p in sorted(until(topic, lambda: reader.partitions_for_topic(topic)))]
    reader.assign(partitions)
    return reader, partitions


def read_all(topic, count=COUNT):
    reader, partitions = assigned(topic)
    assert len(partitions) == PARTITIONS, partitions
    reader.seek_to_beginning()
    found = {partition.partition: [] for partition in partitions}
    def read():
        for partition, records in reader.poll(500).items():
            found[partition.partition] += [(r.offset, (r.key, r.value, r.timestamp, list(r.headers))) for r in records]
        return sum(map(len, found.values())) >= count
    until(f"{count} records of {topic}", read)
    reader.close()
    return found


def records():
    for acks in (0, 1, "all"):
        send_all(f"{PREFIX}-none-{acks}", acks=acks)
        check(f"{PREFIX}-none-{acks}", "none", read_all(f"{PREFIX}-none-{acks}"))


def idempotent():
    send_all(f"{PREFIX}-none-idempotent", enable_idempotence=True, acks="all")
    check(f"{PREFIX}-none-idempotent", "none", read_all(f"{PREFIX}-none-idempotent"))


def codecs():
    for codec in CODECS[1:]:
        for acks in (0, 1, "all"):
            topic = f"{PREFIX}-{codec}-{acks}"
            send_all(topic, codec, acks=acks)
            check(topic, codec, read_all(topic))


def binary():
    """Bytes that are no JSON, an empty value, a tombstone, a record without a key."""
    topic, sender = f"{PREFIX}-binary", producer()
    sent = [(b"\x00\xff", b"\xfe\x00"), (b"empty", b""), (b"tombstone", None), (None, b"no key")]
    offsets = [sender.send(topic, key=k, value=v, partition=1).get(PATIENCE).offset for k, v in sent]
    assert offsets == [0, 1, 2, 3], offsets
    found = read_all(topic, len(sent))
    assert [(record[0], record[1]) for _, record in found[1]] == sent, found


def times():
    topic = f"{PREFIX}-times"
    send_all(topic)
    reader, partitions = assigned(topic)
    ends = reader.end_offsets(partitions)
    assert sum(ends.values()) == COUNT, ends
    assert set(reader.beginning_offsets(partitions).values()) == {0}
    middle = timestamp(COUNT // 2)
    found = reader.offsets_for_times({partition: middle for partition in partitions})
    for partition, at in found.items():
        reader.seek(partition, at.offset)
    numbers = []
    def read():
        numbers.extend(record.timestamp for records in reader.poll(500).values() for record in records)
        return len(numbers) >= COUNT - COUNT // 2
    until("the later half", read)
    assert sorted(numbers) == [timestamp(n) for n in range(COUNT // 2, COUNT)], numbers
    late = reader.offsets_for_times({partition: timestamp(COUNT) for partition in partitions})
    assert set(late.values()) == {None}, late
    reader.seek_to_end(partitions[0])
    assert reader.position(partitions[0]) == ends[partitions[0]]
    reader.close()


def offset_and_metadata(offset, text):
    return OffsetAndMetadata(offset, text) if IS_OLD else OffsetAndMetadata(offset, text, -1)


def commits():
    """Offsets of a group without members."""
    topic = f"{PREFIX}-commits"
    send_all(topic)
    partition = TopicPartition(topic, 1)
    first = consumer(group_id=f"{PREFIX}-commits")
    first.assign([partition])
    assert first.committed(partition) is None
    first.commit({partition: offset_and_metadata(7, "seven")})
    assert first.committed(partition) == 7
    first.close()
    second = consumer(group_id=f"{PREFIX}-commits")
    second.assign([partition])
    assert second.committed(partition) == 7
    assert second.committed(TopicPartition(topic, 0)) is None
    assert second.position(partition) == 7
    second.close()


class Member(threading.Thread):
    """A member of a group; it polls in a thread of its own, because old versions wait in `poll` until all have joined."""

    def __init__(self, topic, group, assignor, seen, **settings):
        super().__init__(daemon=True)
        self.consumer = consumer(
            topic, group_id=group, partition_assignment_strategy=[assignor], heartbeat_interval_ms=200,
            session_timeout_ms=45_000, metadata_max_age_ms=1000, **settings)
        self.seen, self.lock, self.ends, self.failure = seen, threading.Lock(), False, None
        self.start()

    def run(self):
        try:
            while not self.ends:
                with self.lock:
                    for partition, records in self.consumer.poll(100).items():
                        self.seen.extend((partition.partition, record.offset, record.key) for record in records)
                time.sleep(0.01)
        except Exception as error:
            self.failure = error

    def has(self, count):
        assert self.failure is None, self.failure
        return len(self.assignment()) == count

    def assignment(self):
        return set(self.consumer.assignment())

    def commit(self):
        with self.lock:
            self.consumer.commit()

    def close(self):
        self.ends = True
        self.join(PATIENCE)
        self.consumer.close()


def groups():
    for name, assignor in ASSIGNORS.items():
        topic, group = f"{PREFIX}-group-{name}", f"{PREFIX}-{name}"
        send_all(topic)
        seen = []
        first = Member(topic, group, assignor, seen)
        until("the first has all", lambda: first.has(PARTITIONS) and len(seen) == COUNT)
        first.commit()
        assert sorted(key for _, _, key in seen) == sorted(map(key, range(COUNT)))
        second = Member(topic, group, assignor, seen)
        until("each has a half", lambda: first.has(2) and second.has(2))
        assert first.assignment() | second.assignment() == {TopicPartition(topic, p) for p in range(PARTITIONS)}
        assert len(seen) == COUNT, "a record was read again although it was committed"
        send_all(topic)
        until("both read the rest", lambda: first.has(2) and second.has(2) and len(seen) >= 2 * COUNT)
        assert len(set(seen)) == len(seen) == 2 * COUNT, seen
        first.commit()
        second.commit()
        first.close()
        until("the second has all", lambda: second.has(PARTITIONS))
        with second.lock:
            ends = second.consumer.end_offsets(list(second.assignment()))
            assert {p: second.consumer.committed(p) for p in ends} == ends
        assert len(seen) == 2 * COUNT, "a record was read again although it was committed"
        second.close()


def static():
    """A static member comes back within its session and gets what it had."""
    topic, seen = f"{PREFIX}-static", []
    send_all(topic)

    def join(name):
        return Member(topic, f"{PREFIX}-static", RangePartitionAssignor, seen, group_instance_id=name)

    first, second = join("one"), join("two")
    until("each has a half", lambda: first.has(2) and second.has(2))
    had, other = first.assignment(), second.assignment()
    first.close()
    again = join("one")
    until("it has them again", lambda: again.has(2))
    assert (again.assignment(), second.assignment()) == (had, other)
    again.close()
    second.close()


def topics():
    """Creates, lists, describes, grows and deletes topics; deletes records where it can; reads and changes a configuration."""
    topic, client = f"{PREFIX}-topics", admin()
    client.create_topics([NewTopic(topic, 3, 1, topic_configs={"retention.ms": "3600000"})])
    assert topic in client.list_topics()
    described = client.describe_topics([topic])[0]
    assert len(described["partitions"]) == 3, described
    assert config(client, topic)["retention.ms"] == "3600000"
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "7200000"})])
    assert config(client, topic)["retention.ms"] == "7200000"
    client.create_partitions({topic: NewPartitions(5)})
    assert len(client.describe_topics([topic])[0]["partitions"]) == 5
    if not IS_OLD:
        sender, first = producer(), TopicPartition(topic, 0)
        for _ in range(10):
            sender.send(topic, b"1", partition=0)
        sender.close(PATIENCE)
        client.delete_records({first: 4})
        reader = consumer()
        assert reader.beginning_offsets([first]) == {first: 4}
        assert reader.end_offsets([first]) == {first: 10}
        reader.close()
    try:
        client.create_topics([NewTopic(topic, 3, 1)])
        raise AssertionError("a topic was created twice")
    except kafka.errors.TopicAlreadyExistsError:
        pass
    client.delete_topics([topic])
    assert topic not in client.list_topics()
    client.close()


def config(client, topic):
    """The configuration of a topic, {name: value}."""
    found = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    if IS_OLD:
        return {entry[0]: entry[1] for entry in found[0].resources[0][4]}
    return {name: entry["value"] for name, entry in found["topic"][topic].items()}


def list_groups():
    """Lists, describes and deletes groups; reads their offsets, and changes them where it can."""
    topic, group, client = f"{PREFIX}-listed", f"{PREFIX}-listed", admin()
    send_all(topic)
    seen = []
    one = Member(topic, group, RangePartitionAssignor, seen)
    until("it has all", lambda: one.has(PARTITIONS) and len(seen) == COUNT)
    one.commit()
    listed = client.list_consumer_groups() if IS_OLD else client.list_groups()
    assert group in str(listed), listed
    described = client.describe_consumer_groups([group]) if IS_OLD else client.describe_groups([group])
    assert "Stable" in str(described) or "STABLE" in str(described), described
    offsets = client.list_consumer_group_offsets(group) if IS_OLD else client.list_group_offsets({group: None})
    found = offsets if IS_OLD else offsets[group]
    assert sum(at.offset for at in found.values()) == COUNT, offsets
    one.close()
    if not IS_OLD:
        at = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        client.alter_group_offsets(group, {at[0]: offset_and_metadata(1, ""), at[1]: offset_and_metadata(2, "")})
        client.delete_group_offsets(group, [at[1]])
        found = client.list_group_offsets({group: None})[group]
        assert found[at[0]].offset == 1 and at[1] not in found, found
    client.delete_consumer_groups([group]) if IS_OLD else client.delete_groups([group])
    listed = client.list_consumer_groups() if IS_OLD else client.list_groups()
    assert group not in str(listed), listed
    client.close()


class Bearer(AbstractTokenProvider):
    """Has one JWT."""

    def __init__(self, secret):
        self.secret = secret

    def token(self):
        return self.secret


def signed_in(secret=os.environ.get("TOKEN")):
    """How to sign in."""
    how = {"security_protocol": os.environ["PROTOCOL"], "sasl_mechanism": os.environ["MECHANISM"]}
    if os.environ["MECHANISM"] == "OAUTHBEARER":
        how["sasl_oauth_token_provider"] = Bearer(secret)
    else:
        how["sasl_plain_username"], how["sasl_plain_password"] = "admin", secret
    return {**how, "ssl_cafile": os.environ["CA"]} if os.environ["CA"] else how


def sign_in():
    sent = producer(acks="all", **signed_in()).send(f"{PREFIX}-{IS_OLD}", b"x").get(PATIENCE)
    partition = TopicPartition(sent.topic, sent.partition)
    reader = consumer(**signed_in())
    reader.assign([partition])
    found = until("the record", lambda: reader.poll(500))
    assert [record.value for record in found[partition]] == [b"x"], found


def refused():
    """A wrong secret; the old version has one word for all that goes wrong with a connection."""
    try:
        wrong = signed_in(os.environ["WRONG"])
        producer(**wrong, api_version_auto_timeout_ms=5000) if IS_OLD else KafkaConsumer(bootstrap_servers=KAFKA, bootstrap_timeout_ms=5000, **wrong)
        raise AssertionError("it has signed in")
    except (kafka.errors.NoBrokersAvailable if IS_OLD else kafka.errors.KafkaError):
        pass


def kills():
    """Sends numbers until the file says that it ends; each is stored in the end."""
    sender, sent = producer(enable_idempotence=True, acks="all", retries=2**31 - 1, delivery_timeout_ms=600_000), []
    while not os.path.exists(os.environ["QUIPU_TEST_STOP"]):
        sent.append(sender.send(f"{PREFIX}-kills", b"%d" % len(sent), partition=0))
        # A bounded number is under way.
        sent[max(0, len(sent) - 500)].get(600)
    print(len(sent), end=" ")
    for future in sent:
        future.get(600)
    sender.close()


parts({each.__name__: each for each in (records, idempotent, codecs, binary, times, commits, groups, static, topics, list_groups, sign_in, refused, kills)})
