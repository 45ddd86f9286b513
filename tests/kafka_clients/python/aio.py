"""aiokafka."""

import asyncio
import os

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.helpers import create_ssl_context

from shared import CODECS, COUNT, KAFKA, PARTITIONS, PATIENCE, PREFIX, check, key, parts, timestamp, value

ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor}


async def until(what, attempt):
    """Awaits `attempt` until it returns something true."""
    async def wait():
        while not await attempt():
            pass
    await asyncio.wait_for(wait(), PATIENCE)


async def send_all(topic, codec="none", **settings):
    codec_of, settings = None if codec == "none" else codec, {"acks": "all", **settings}
    async with AIOKafkaProducer(bootstrap_servers=KAFKA, compression_type=codec_of, linger_ms=20, **settings) as sender:
        headers = [("codec", codec.encode())]
        sent = [await sender.send(topic, value(n), key(n), timestamp_ms=timestamp(n), headers=headers) for n in range(COUNT)]
        await asyncio.wait_for(asyncio.gather(*sent), PATIENCE)


def consumer(*topics, **settings):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **settings}
    return AIOKafkaConsumer(*topics, bootstrap_servers=KAFKA, **settings)


async def read_all(topic, count=COUNT):
    found = {partition: [] for partition in range(PARTITIONS)}
    async with consumer() as reader:
        partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        reader.assign(partitions)
        await reader.seek_to_beginning()

        async def read():
            for partition, records in (await reader.getmany(timeout_ms=500)).items():
                found[partition.partition] += [(r.offset, (r.key, r.value, r.timestamp, list(r.headers))) for r in records]
            return sum(map(len, found.values())) >= count

        await until(f"{count} records of {topic}", read)
        assert reader.partitions_for_topic(topic) in (set(range(PARTITIONS)), None)
    return found


async def records():
    for acks in (0, 1, "all"):
        await send_all(f"{PREFIX}-none-{acks}", acks=acks)
        check(f"{PREFIX}-none-{acks}", "none", await read_all(f"{PREFIX}-none-{acks}"))


async def idempotent():
    await send_all(f"{PREFIX}-none-idempotent", enable_idempotence=True)
    check(f"{PREFIX}-none-idempotent", "none", await read_all(f"{PREFIX}-none-idempotent"))


async def codecs():
    for codec in CODECS[1:]:
        for acks in (0, 1, "all"):
            topic = f"{PREFIX}-{codec}-{acks}"
            await send_all(topic, codec, acks=acks)
            check(topic, codec, await read_all(topic))


async def binary():
    """Bytes that are no JSON, an empty value, a tombstone, a record without a key."""
    topic = f"{PREFIX}-binary"
    sent = [(b"\x00\xff", b"\xfe\x00"), (b"empty", b""), (b"tombstone", None), (None, b"no key")]
    async with AIOKafkaProducer(bootstrap_servers=KAFKA) as sender:
        offsets = [(await sender.send_and_wait(topic, v, k, partition=1)).offset for k, v in sent]
    assert offsets == [0, 1, 2, 3], offsets
    found = await read_all(topic, len(sent))
    assert [(record[0], record[1]) for _, record in found[1]] == sent, found


async def times():
    topic = f"{PREFIX}-times"
    await send_all(topic)
    async with consumer() as reader:
        partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        assert sum(ends.values()) == COUNT, ends
        assert set((await reader.beginning_offsets(partitions)).values()) == {0}
        middle = timestamp(COUNT // 2)
        for partition, at in (await reader.offsets_for_times({p: middle for p in partitions})).items():
            reader.seek(partition, at.offset)
        numbers = []

        async def read():
            found = await reader.getmany(timeout_ms=500)
            numbers.extend(record.timestamp for records in found.values() for record in records)
            return len(numbers) >= COUNT - COUNT // 2

        await until("the later half", read)
        assert sorted(numbers) == [timestamp(n) for n in range(COUNT // 2, COUNT)], numbers
        late = await reader.offsets_for_times({p: timestamp(COUNT) for p in partitions})
        assert set(late.values()) == {None}, late


async def commits():
    """Offsets of a group without members."""
    topic, partition = f"{PREFIX}-commits", TopicPartition(f"{PREFIX}-commits", 1)
    await send_all(topic)
    async with consumer(group_id=f"{PREFIX}-commits") as first:
        first.assign([partition])
        assert await first.committed(partition) is None
        await first.commit({partition: (7, "seven")})
    async with consumer(group_id=f"{PREFIX}-commits") as second:
        second.assign([partition])
        assert await second.committed(partition) == 7
        assert await second.position(partition) == 7


async def member(topic, group, assignor, **settings):
    each = consumer(
        topic, group_id=f"{PREFIX}-{group}", partition_assignment_strategy=[assignor], heartbeat_interval_ms=200,
        session_timeout_ms=45_000, metadata_max_age_ms=1000, **settings)
    await each.start()
    return each


async def polled(members, seen):
    """Lets each member poll; notes what it got."""
    for each in members:
        for partition, records in (await each.getmany(timeout_ms=50)).items():
            seen.extend((partition.partition, record.offset, record.key) for record in records)


async def settled(members, seen, sizes, count):
    """Polls until the members have so many partitions each, and so many records are seen."""
    async def look():
        await polled(members, seen)
        return [len(each.assignment()) for each in members] == sizes and len(seen) >= count
    await until(f"{sizes} partitions and {count} records", look)


async def groups():
    for name, assignor in ASSIGNORS.items():
        topic, seen = f"{PREFIX}-group-{name}", []
        await send_all(topic)
        first = await member(topic, name, assignor)
        await settled([first], seen, [PARTITIONS], COUNT)
        assert sorted(key for _, _, key in seen) == sorted(map(key, range(COUNT)))
        await first.commit()
        # `start` of the second returns only when the first has joined again.
        task = asyncio.create_task(member(topic, name, assignor))
        await settled([first], seen, [2], COUNT)
        second = await task
        both = [first, second]
        await settled(both, seen, [2, 2], COUNT)
        assert first.assignment() | second.assignment() == {TopicPartition(topic, p) for p in range(PARTITIONS)}
        await send_all(topic)
        await settled(both, seen, [2, 2], 2 * COUNT)
        assert len(set(seen)) == len(seen) == 2 * COUNT, seen
        for each in both:
            await each.commit()
        await first.stop()
        await settled([second], seen, [PARTITIONS], 2 * COUNT)
        for partition, end in (await second.end_offsets(list(second.assignment()))).items():
            assert await second.committed(partition) == end
        assert len(seen) == 2 * COUNT, "a record was read again although it was committed"
        await second.stop()


async def static():
    """A static member comes back within its session and gets what it had."""
    topic, seen = f"{PREFIX}-static", []
    await send_all(topic)
    first = await member(topic, "static", RangePartitionAssignor, group_instance_id="one")
    task = asyncio.create_task(member(topic, "static", RangePartitionAssignor, group_instance_id="two"))
    await settled([first], seen, [2], 0)
    second = await task
    await settled([first, second], seen, [2, 2], 0)
    had, other = first.assignment(), second.assignment()
    await first.stop()
    again = await member(topic, "static", RangePartitionAssignor, group_instance_id="one")
    await settled([again, second], seen, [2, 2], 0)
    assert (again.assignment(), second.assignment()) == (had, other)
    await again.stop()
    await second.stop()


async def topics():
    """Creates, lists, describes, grows and deletes topics; deletes records; reads and changes a configuration."""
    topic, client = f"{PREFIX}-topics", AIOKafkaAdminClient(bootstrap_servers=KAFKA)
    await client.start()
    await client.create_topics([NewTopic(topic, 3, 1, topic_configs={"retention.ms": "3600000"})])
    assert topic in await client.list_topics()
    assert len((await client.describe_topics([topic]))[0]["partitions"]) == 3

    async def retention():
        found = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {entry[0]: entry[1] for entry in found[0].resources[0][4]}["retention.ms"]

    assert await retention() == "3600000"
    await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "7200000"})])
    assert await retention() == "7200000"
    await client.create_partitions({topic: NewPartitions(5)})
    assert len((await client.describe_topics([topic]))[0]["partitions"]) == 5
    first = TopicPartition(topic, 0)
    async with AIOKafkaProducer(bootstrap_servers=KAFKA) as sender:
        for _ in range(10):
            await sender.send_and_wait(topic, b"1", partition=0)
    assert await client.delete_records({first: RecordsToDelete(4)}) == {first: 4}
    async with consumer() as reader:
        assert await reader.beginning_offsets([first]) == {first: 4}
        assert await reader.end_offsets([first]) == {first: 10}
    answer = await client.create_topics([NewTopic(topic, 3, 1)])
    assert answer.topic_errors[0][1] == TopicAlreadyExistsError.errno, answer
    await client.delete_topics([topic])
    assert topic not in await client.list_topics()
    await client.close()


async def list_groups():
    """Lists and describes groups, and reads their offsets."""
    topic, group, client = f"{PREFIX}-listed", f"{PREFIX}-listed", AIOKafkaAdminClient(bootstrap_servers=KAFKA)
    await send_all(topic)
    await client.start()
    seen, one = [], await member(topic, "listed", RangePartitionAssignor)
    await settled([one], seen, [PARTITIONS], COUNT)
    await one.commit()
    assert group in [name for name, _ in await client.list_consumer_groups()]
    described = await client.describe_consumer_groups([group])
    assert "Stable" in str(described), described
    offsets = await client.list_consumer_group_offsets(group)
    assert sum(at.offset for at in offsets.values()) == COUNT, offsets
    await one.stop()
    await client.close()


class Bearer(AbstractTokenProvider):
    """Has one JWT."""

    def __init__(self, secret):
        self.secret = secret

    async def token(self):
        return self.secret


def signed_in(secret=os.environ.get("TOKEN")):
    """How to sign in."""
    how = {"security_protocol": os.environ["PROTOCOL"], "sasl_mechanism": os.environ["MECHANISM"]}
    if os.environ["MECHANISM"] == "OAUTHBEARER":
        how["sasl_oauth_token_provider"] = Bearer(secret)
    else:
        how["sasl_plain_username"], how["sasl_plain_password"] = "admin", secret
    return {**how, "ssl_context": create_ssl_context(cafile=os.environ["CA"])} if os.environ["CA"] else how


async def sign_in():
    async with AIOKafkaProducer(bootstrap_servers=KAFKA, **signed_in()) as sender:
        sent = await sender.send_and_wait(PREFIX, b"x")
    async with consumer(**signed_in()) as reader:
        reader.assign([TopicPartition(PREFIX, sent.partition)])
        assert (await asyncio.wait_for(reader.getone(), PATIENCE)).value == b"x"


async def refused():
    sender = AIOKafkaProducer(bootstrap_servers=KAFKA, **signed_in(os.environ["WRONG"]))
    try:
        await sender.start()
        raise AssertionError("it has signed in")
    except KafkaError:
        await sender.stop()


async def kills():
    """Sends numbers until the file says that it ends; each is stored in the end."""
    sent = []
    async with AIOKafkaProducer(bootstrap_servers=KAFKA, enable_idempotence=True, request_timeout_ms=600_000) as sender:
        while not os.path.exists(os.environ["QUIPU_TEST_STOP"]):
            sent.append(await sender.send(f"{PREFIX}-kills", b"%d" % len(sent), partition=0))
            # A bounded number is under way.
            await sent[max(0, len(sent) - 500)]
        print(len(sent), end=" ")
        await asyncio.gather(*sent)


async def readers():
    """Two members that read and commit until the file says that they end; prints what they read."""
    def one():
        return consumer("read", group_id=f"{PREFIX}-readers", partition_assignment_strategy=[StickyPartitionAssignor],
                        heartbeat_interval_ms=200)
    both = [one(), one()]
    await asyncio.gather(*(each.start() for each in both))
    while not os.path.exists(os.environ["QUIPU_TEST_STOP"]):
        for each in both:
            found = await each.getmany(timeout_ms=50)
            for partition, records in found.items():
                for record in records:
                    print(f"{partition.partition}@{record.offset}", flush=True)
            if found:
                await each.commit()
    for each in both:
        await each.stop()


def blocking(part):
    return lambda: asyncio.run(part())


parts({each.__name__: blocking(each) for each in (records, idempotent, codecs, binary, times, commits, groups, static, topics, list_groups, sign_in, refused, kills, readers)})
