"""confluent-kafka, and so librdkafka of today."""

import os

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType)
from confluent_kafka import ConsumerGroupTopicPartitions

from shared import CODECS, COUNT, KAFKA, PARTITIONS, PATIENCE, PREFIX, check, key, parts, timestamp, until, value

# librdkafka's own default places keys by CRC-32; this one places them as Java's client and quipu do.
PLACING = {"partitioner": "murmur2_random"}


def consumer(group="none", **settings):
    settings = {"auto.offset.reset": "earliest", "enable.auto.commit": False, **settings}
    return Consumer({"bootstrap.servers": KAFKA, "group.id": f"{PREFIX}-{group}", **settings})


def admin():
    return AdminClient({"bootstrap.servers": KAFKA})


def produce(topic, rows, **settings):
    """Sends (keyword arguments of `produce`); returns the offsets in the order of the answers."""
    offsets = []

    def delivered(error, message):
        assert error is None, error
        offsets.append(message.offset())

    sender = Producer({"bootstrap.servers": KAFKA, "linger.ms": 20, **PLACING, **settings})
    for row in rows:
        sender.produce(topic, on_delivery=delivered, **row)
    assert sender.flush(PATIENCE) == 0, "records are still waiting"
    assert len(offsets) == len(rows)
    return offsets


def send_all(topic, codec="none", **settings):
    rows = [dict(key=key(n), value=value(n), timestamp=timestamp(n), headers=[("codec", codec.encode())]) for n in range(COUNT)]
    produce(topic, rows, **{"compression.type": codec, **settings})


def partitions_of(reader, topic):
    return sorted(reader.list_topics(topic, timeout=PATIENCE).topics[topic].partitions)


def read_all(topic, count=COUNT):
    reader = consumer()
    assert partitions_of(reader, topic) == list(range(PARTITIONS))
    reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    found = {partition: [] for partition in range(PARTITIONS)}

    def read():
        message = reader.poll(0.5)
        if message is not None:
            assert message.error() is None, message.error()
            record = message.key(), message.value(), message.timestamp()[1], message.headers() or []
            found[message.partition()].append((message.offset(), record))
        return sum(map(len, found.values())) >= count

    until(f"{count} records of {topic}", read)
    reader.close()
    return found


def records():
    for acks in (0, 1, "all"):
        send_all(f"{PREFIX}-none-{acks}", acks=acks)
        check(f"{PREFIX}-none-{acks}", "none", read_all(f"{PREFIX}-none-{acks}"))


def idempotent():
    send_all(f"{PREFIX}-none-idempotent", **{"enable.idempotence": True})
    check(f"{PREFIX}-none-idempotent", "none", read_all(f"{PREFIX}-none-idempotent"))


def codecs():
    for codec in CODECS[1:]:
        for acks in (0, 1, "all"):
            topic = f"{PREFIX}-{codec}-{acks}"
            send_all(topic, codec, acks=acks)
            check(topic, codec, read_all(topic))


def binary():
    """Bytes that are no JSON, an empty value, a tombstone, a record without a key."""
    topic = f"{PREFIX}-binary"
    sent = [(b"\x00\xff", b"\xfe\x00"), (b"empty", b""), (b"tombstone", None), (None, b"no key")]
    offsets = produce(topic, [dict(key=k, value=v, partition=1) for k, v in sent])
    assert offsets == [0, 1, 2, 3], offsets
    found = read_all(topic, len(sent))
    assert [(record[0], record[1]) for _, record in found[1]] == sent, found


def times():
    topic = f"{PREFIX}-times"
    send_all(topic)
    reader = consumer()
    every = range(PARTITIONS)
    marks = {p: reader.get_watermark_offsets(TopicPartition(topic, p), timeout=PATIENCE) for p in every}
    assert {low for low, _ in marks.values()} == {0}
    assert sum(high for _, high in marks.values()) == COUNT, marks
    middle = timestamp(COUNT // 2)
    reader.assign(reader.offsets_for_times([TopicPartition(topic, p, middle) for p in every], timeout=PATIENCE))
    numbers = []

    def read():
        message = reader.poll(0.5)
        if message is not None:
            assert message.error() is None, message.error()
            numbers.append(message.timestamp()[1])
        return len(numbers) >= COUNT - COUNT // 2

    until("the later half", read)
    assert sorted(numbers) == [timestamp(n) for n in range(COUNT // 2, COUNT)], numbers
    late = reader.offsets_for_times([TopicPartition(topic, p, timestamp(COUNT)) for p in every], timeout=PATIENCE)
    assert {at.offset for at in late} == {OFFSET_END}, late
    reader.seek(TopicPartition(topic, 0, 3))
    message = until("the record of a seek", lambda: next_of(reader, 0))
    assert message.offset() == 3
    reader.close()


def next_of(reader, partition):
    message = reader.poll(0.5)
    return message if message is not None and message.partition() == partition else None


def commits():
    """Offsets of a group without members."""
    topic = f"{PREFIX}-commits"
    send_all(topic)
    first = consumer("commits")
    assert first.committed([TopicPartition(topic, 1)], timeout=PATIENCE)[0].offset < 0
    first.commit(offsets=[TopicPartition(topic, 1, 7, metadata="seven")], asynchronous=False)
    first.close()
    second = consumer("commits")
    one, other = second.committed([TopicPartition(topic, 1), TopicPartition(topic, 0)], timeout=PATIENCE)
    assert (one.offset, one.metadata) == (7, "seven"), one
    assert other.offset < 0, other
    second.close()


def member(topic, group, strategy, **settings):
    reader = consumer(group, **{
        "partition.assignment.strategy": strategy, "heartbeat.interval.ms": 200, "session.timeout.ms": 45_000,
        "topic.metadata.refresh.interval.ms": 1000, **settings})
    reader.subscribe([topic])
    return reader


def polled(members, seen):
    """Lets each member poll; notes what it got."""
    for each in members:
        while (message := each.poll(0.05)) is not None:
            assert message.error() is None, message.error()
            seen.append((message.partition(), message.offset(), message.key()))


def has(each, count):
    return len(each.assignment()) == count


def committed(each):
    try:
        each.commit(asynchronous=False)
    except KafkaException as error:
        # Nothing new was read.
        assert error.args[0].name() == "_NO_OFFSET", error


def groups():
    for strategy in ("range", "roundrobin", "cooperative-sticky"):
        topic = f"{PREFIX}-group-{strategy}"
        send_all(topic)
        seen, first = [], member(topic, strategy, strategy)
        until("the first has all", lambda: polled([first], seen) or has(first, PARTITIONS) and len(seen) == COUNT)
        assert sorted(key for _, _, key in seen) == sorted(map(key, range(COUNT)))
        committed(first)
        second = member(topic, strategy, strategy)
        both = [first, second]
        until("each has a half", lambda: polled(both, seen) or all(has(each, 2) for each in both))
        assert {(at.topic, at.partition) for each in both for at in each.assignment()} == {(topic, p) for p in range(PARTITIONS)}
        send_all(topic)
        until("both read the rest", lambda: polled(both, seen) or len(seen) >= 2 * COUNT)
        assert len(set(seen)) == len(seen) == 2 * COUNT, seen
        for each in both:
            committed(each)
        first.close()
        until("the second has all", lambda: polled([second], seen) or has(second, PARTITIONS))
        at = second.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=PATIENCE)
        assert sum(each.offset for each in at) == 2 * COUNT, at
        assert len(seen) == 2 * COUNT, "a record was read again although it was committed"
        second.close()


def consumers():
    """Members by the server-side protocol; the server assigns."""
    for assignor in ("uniform", "range"):
        topic = f"{PREFIX}-consumers-{assignor}"
        send_all(topic)

        def join():
            reader = consumer(f"consumers-{assignor}", **{
                "group.protocol": "consumer", "group.remote.assignor": assignor, "topic.metadata.refresh.interval.ms": 1000})
            reader.subscribe([topic])
            return reader

        seen, first = [], join()
        until("the first has all", lambda: polled([first], seen) or has(first, PARTITIONS) and len(seen) == COUNT)
        committed(first)
        second = join()
        both = [first, second]
        until("each has a half", lambda: polled(both, seen) or all(has(each, 2) for each in both))
        assert {(at.topic, at.partition) for each in both for at in each.assignment()} == {(topic, p) for p in range(PARTITIONS)}
        send_all(topic)
        until("both read the rest", lambda: polled(both, seen) or len(seen) == 2 * COUNT)
        for each in both:
            committed(each)
        first.close()
        until("the second has all", lambda: polled([second], seen) or has(second, PARTITIONS))
        assert len({(partition, offset) for partition, offset, _ in seen}) == len(seen) == 2 * COUNT, "a record came twice"
        second.close()


def static():
    """A static member comes back within its session and gets what it had."""
    topic = f"{PREFIX}-static"
    send_all(topic)

    def join(name):
        return member(topic, "static", "range", **{"group.instance.id": name})

    seen, first, second = [], join("one"), join("two")
    until("each has a half", lambda: polled([first, second], seen) or has(first, 2) and has(second, 2))
    had, other = ({at.partition for at in each.assignment()} for each in (first, second))
    first.close()
    again = join("one")
    until("it has them again", lambda: polled([again, second], seen) or {at.partition for at in again.assignment()} == had)
    assert {at.partition for at in second.assignment()} == other
    again.close()
    second.close()


def done(futures):
    return {name: future.result(PATIENCE) for name, future in futures.items()}


def topics():
    """Creates, lists, describes, grows and deletes topics; deletes records; reads and changes a configuration."""
    topic, client = f"{PREFIX}-topics", admin()
    done(client.create_topics([NewTopic(topic, 3, 1, config={"retention.ms": "3600000"})]))
    assert len(client.list_topics(timeout=PATIENCE).topics[topic].partitions) == 3
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entry = done(client.describe_configs([resource]))[resource]["retention.ms"]
    assert entry.value == "3600000" and not entry.is_default, entry
    change = ConfigEntry("retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)
    done(client.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])]))
    assert done(client.describe_configs([resource]))[resource]["retention.ms"].value == "7200000"
    node = client.describe_cluster().result(PATIENCE).controller.id
    broker = ConfigResource(ResourceType.BROKER, str(node))
    assert "log.retention.ms" in done(client.describe_configs([broker]))[broker]
    done(client.create_partitions([NewPartitions(topic, 5)]))
    assert len(client.list_topics(timeout=PATIENCE).topics[topic].partitions) == 5
    produce(topic, [dict(value=b"1", partition=0) for _ in range(10)])
    done(client.delete_records([TopicPartition(topic, 0, 4)]))
    at = TopicPartition(topic, 0)
    assert client.list_offsets({at: OffsetSpec.earliest()})[at].result(PATIENCE).offset == 4
    assert client.list_offsets({at: OffsetSpec.latest()})[at].result(PATIENCE).offset == 10
    try:
        done(client.create_topics([NewTopic(topic, 3, 1)]))
        raise AssertionError("a topic was created twice")
    except KafkaException as error:
        assert error.args[0].name() == "TOPIC_ALREADY_EXISTS", error
    done(client.delete_topics([topic]))
    assert topic not in client.list_topics(timeout=PATIENCE).topics


def list_groups():
    """Lists, describes and deletes groups; reads and changes their offsets."""
    topic, group, client = f"{PREFIX}-listed", f"{PREFIX}-listed", admin()
    send_all(topic)
    seen, one = [], member(topic, "listed", "range")
    until("it has all", lambda: polled([one], seen) or has(one, PARTITIONS) and len(seen) == COUNT)
    committed(one)
    listed = client.list_consumer_groups().result(PATIENCE)
    assert not listed.errors, listed.errors
    assert {each.group_id: each.state.name for each in listed.valid}[group] == "STABLE"
    described = client.describe_consumer_groups([group])[group].result(PATIENCE)
    assert (described.state.name, len(described.members)) == ("STABLE", 1), described
    assert len(described.members[0].assignment.topic_partitions) == PARTITIONS
    one.close()
    asked = ConsumerGroupTopicPartitions(group)
    found = client.list_consumer_group_offsets([asked])[group].result(PATIENCE)
    assert sum(at.offset for at in found.topic_partitions) == COUNT, found
    to = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p, 1) for p in range(PARTITIONS)])
    client.alter_consumer_group_offsets([to])[group].result(PATIENCE)
    found = client.list_consumer_group_offsets([asked])[group].result(PATIENCE)
    assert [at.offset for at in found.topic_partitions] == [1] * PARTITIONS, found
    done(client.delete_consumer_groups([group]))
    assert group not in {each.group_id for each in client.list_consumer_groups().result(PATIENCE).valid}


def signed_in(secret=os.environ.get("TOKEN")):
    """How to sign in."""
    how = {"security.protocol": os.environ["PROTOCOL"], "sasl.mechanisms": os.environ["MECHANISM"]}
    if os.environ["MECHANISM"] == "OAUTHBEARER":
        how["oauth_cb"] = lambda _: (secret, 4_000_000_000.0)
    else:
        how["sasl.username"], how["sasl.password"] = "admin", secret
    return {**how, "ssl.ca.location": os.environ["CA"]} if os.environ["CA"] else how


def sign_in():
    assert produce(PREFIX, [dict(value=b"x", partition=1)], **signed_in()) == [0]
    reader = consumer(**signed_in())
    reader.assign([TopicPartition(PREFIX, 1, OFFSET_BEGINNING)])
    message = until("the record", lambda: reader.poll(0.5))
    assert message.error() is None and message.value() == b"x", message.error()


def refused():
    """It tries for ever, and tells why."""
    errors = []
    sender = Producer({"bootstrap.servers": KAFKA, "error_cb": errors.append, **signed_in(os.environ["WRONG"])})
    until("the error", lambda: sender.poll(0.1) or errors)
    assert errors[0].name() == "_AUTHENTICATION" and "the token is not valid here" in errors[0].str(), errors


def kills():
    """Sends numbers until the file says that it ends; each is stored in the end."""
    sent, stored = 0, []

    def delivered(error, message):
        assert error is None, error
        stored.append(message.offset())

    sender = Producer({"bootstrap.servers": KAFKA, "enable.idempotence": True, "message.timeout.ms": 600_000})
    while not os.path.exists(os.environ["QUIPU_TEST_STOP"]):
        sender.produce(f"{PREFIX}-kills", b"%d" % sent, partition=0, on_delivery=delivered)
        sent += 1
        # A bounded number is under way.
        while sender.poll(0) == 0 and len(sender) > 500:
            sender.poll(0.1)
    assert sender.flush(600) == 0, "records are still waiting"
    assert stored == list(range(sent)), stored
    print(sent, end=" ")


def readers(**settings):
    """Two members that read and commit until the file says that they end; prints what they read."""
    settings = settings or {"partition.assignment.strategy": "cooperative-sticky", "heartbeat.interval.ms": 200}
    both = [consumer("readers", **settings) for _ in range(2)]
    for each in both:
        each.subscribe(["read"])
    while not os.path.exists(os.environ["QUIPU_TEST_STOP"]):
        for each in both:
            while (message := each.poll(0.05)) is not None:
                assert message.error() is None, message.error()
                print(f"{message.partition()}@{message.offset()}", flush=True)
            try:
                each.commit(asynchronous=False)
            except KafkaException as error:
                assert error.args[0].retriable() or error.args[0].name() in PASSING, error
    for each in both:
        each.close()


# Nothing new was read; or it is committed the next time; or, with the server-side protocol, read again.
PASSING = ("_NO_OFFSET", "_WAIT_COORD", "_TRANSPORT", "_TIMED_OUT", "_ASSIGNMENT_LOST", "UNKNOWN_MEMBER_ID", "STALE_MEMBER_EPOCH")


def server_side_readers():
    readers(**{"group.protocol": "consumer"})


parts({each.__name__: each for each in (
    records, idempotent, codecs, binary, times, commits, groups, static, consumers, topics, list_groups, sign_in, refused, kills, readers,
    server_side_readers)})
