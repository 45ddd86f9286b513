#!/usr/bin/env python3
"""Writes test fixtures with kafka-python, an implementation of Kafka's formats that shares no code with quipu.

    scripts/kafka-fixtures.py            writes every fixture to its place in the repository
    scripts/kafka-fixtures.py murmur2    prints the partition vectors (tests/fixtures/murmur2.json)

Needs kafka-python 3.0.12 (`pip install kafka-python==3.0.12`). The output depends on nothing but this file and that
version (and zlib's, in the gzip batch), so a second run changes no file. Batches go to segments/tests/fixtures: each
with a JSON file of its fields as kafka-python reads them back, which are compared with what was put in first.
"""

import base64
import json
import pathlib
import random
import struct
import sys

from kafka.partitioner.default import DefaultPartitioner, murmur2
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "segments" / "tests"))

from kafka_read import describe_run, hexed  # noqa: E402

MURMUR2 = ROOT / "tests" / "fixtures" / "murmur2.json"
BATCHES = ROOT / "segments" / "tests" / "fixtures"
PARTITION_COUNTS = [1, 6, 16, 1024]


class Cluster:
    """What the partitioner asks of the cluster's metadata: one topic, `t`, all of whose partitions are available."""

    def __init__(self, partitions):
        self._partitions = set(range(partitions))

    def topics(self):
        return {"t"}

    def partitions_for_topic(self, topic):
        return self._partitions

    available_partitions_for_topic = partitions_for_topic


def murmur2_keys():
    rng = random.Random(2013)
    keys = [b"", b"a", b"key", b"kafka", b"orders", b"0", b"1", b"42", b"null", b" ", b"\x00", b"\xff", b"\n"]
    # Tail numbers of aircraft, the keys of the flights data set.
    keys += [
        tail.encode()
        for tail in (
            "N14228 N24211 N619AA N804JB N668DN N39463 N516JB N829AS N593JB N3ALAA N793JB N657JB N29129 N53441 "
            "N3DUAA N708JB N76515 N595JB N542MQ N644JB N971DL N730MQ N633AA N3739P N532UA N34222 N9EAMQ N725MQ"
        ).split()
    ]
    keys += [b"N%d%s" % (rng.randrange(100, 1000), rng.choice([b"AA", b"DN", b"JB", b"MQ", b"UA", b"US"])) for _ in range(60)]
    keys += [text.encode() for text in ("ключ", "鍵", "キー", "clé", "Größe", "🗝", "👩‍👩‍👧", "מפתח", "e\u0301", "\u00e9", "Ω≈ç√∫")]
    keys += [b"user-%d" % number for number in range(40)]
    # Every length, so that each remainder modulo 4 is met with signed and unsigned bytes.
    for length in range(41):
        keys.append(bytes(rng.randrange(256) for _ in range(length)))
        keys.append(bytes(rng.randrange(128, 256) for _ in range(length)))
        keys.append(bytes([0xFF if length % 2 else 0x80]) * length)
        keys.append(bytes(length))
    return list(dict.fromkeys(keys))


def murmur2_vectors():
    partitioner = DefaultPartitioner()
    clusters = {count: Cluster(count) for count in PARTITION_COUNTS}
    for key in murmur2_keys():
        yield {
            "key_base64": base64.b64encode(key).decode(),
            "hash": murmur2(key) & 0x7FFFFFFF,
            "partitions": {
                str(count): partitioner.partition("t", key, key, None, None, cluster)
                for count, cluster in clusters.items()
            },
        }


def murmur2_json():
    lines = ",\n".join(json.dumps(vector) for vector in murmur2_vectors())
    return '{"vectors":[\n' + lines + "\n]}\n"


class Builder(DefaultRecordBatchBuilder):
    """kafka-python's builder, which leaves to the broker what only brokers set."""

    def __init__(self, attributes=0, log_append_time=None, last_offset_delta=None, **producer):
        fields = {"is_transactional": False, "producer_id": -1, "producer_epoch": -1, "base_sequence": -1}
        super().__init__(magic=2, compression_type=attributes & 7, batch_size=1 << 30, **(fields | producer))
        self._broker_attributes = attributes & ~7
        self._log_append_time = log_append_time
        self._last_offset_delta = last_offset_delta

    def _get_attributes(self, include_compression_type=True):
        return super()._get_attributes(include_compression_type) | self._broker_attributes

    def build(self):
        if self._log_append_time is not None:
            self._broker_attributes |= self.TIMESTAMP_TYPE_MASK
            self._max_timestamp = self._log_append_time
        if self._last_offset_delta is not None:
            self._last_offset = self._last_offset_delta
        return super().build()


NOON = 1_357_041_600_000


def batch_fixtures():
    """Name, builder, records (offset delta, timestamp, key, value, headers), and what the log sets: base offset and leader epoch."""
    yield "single", Builder(), [(0, NOON, b"N14228", b'{"event":"FlightDeparted"}', [])]
    yield "nulls_and_empties", Builder(), [
        (number, NOON, key, value, [])
        for number, (key, value) in enumerate((key, value) for key in (None, b"", b"k") for value in (None, b"", b"v"))
    ]
    lengths = [1, 63, 64, 127, 128, 300, 8191, 8192, 9000]
    yield "binary", Builder(), [
        (number, NOON + number, bytes(range(256)), bytes((at * 7 + number) % 256 for at in range(length)), [])
        for number, length in enumerate(lengths)
    ]
    yield "headers", Builder(), [
        (0, NOON, b"a", b"1", [("type", b"FlightDeparted")]),
        (1, NOON, b"b", b"2", [("null", None), ("empty", b""), ("", b"no name"), ("", None)]),
        (2, NOON, b"c", b"3", [("again", b"1"), ("other", b"2"), ("again", b"3"), ("again", None)]),
        (3, NOON, None, None, [("ключ", "значение".encode()), ("鍵", b"\x00\xff"), ("🗝", "🚪".encode())]),
        (4, NOON, b"d", b"4", [("n%d" % number, bytes(number)) for number in range(70)]),
        (5, NOON, b"e", b"5", [("x" * 200, b"y" * 300)]),
        (6, NOON, b"f", b"6", []),
    ]
    steps = [0, -1, 1, -63, -64, -65, 63, 64, 8_191, -8_192, -8_193, 86_400_000, -86_400_000, -NOON, 31_536_000_000_000]
    yield "timestamps", Builder(), [(number, NOON + step, b"k", b"v", []) for number, step in enumerate(steps)]
    yield "many", Builder(), [
        (number, NOON + number * 977 % 5000, b"%d" % (number % 7), b"value %d" % number, []) for number in range(300)
    ]
    yield "idempotent", Builder(producer_id=4_000_000_042, producer_epoch=7, base_sequence=99), [
        (number, NOON, b"k", b"v", []) for number in range(3)
    ]
    yield "transactional", Builder(is_transactional=True, producer_id=42, producer_epoch=0, base_sequence=0), [
        (0, NOON, b"k", b"v", [])
    ]
    # A commit marker: its key is version 0, type 1, its value version 0, coordinator epoch 5.
    yield "control", Builder(0x20, is_transactional=True, producer_id=42, producer_epoch=0), [
        (0, NOON, struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 5), [])
    ]
    yield "log_append_time", Builder(log_append_time=NOON + 5), [
        (0, NOON, b"k", b"earlier", []),
        (1, NOON + 9, b"k", b"later", []),
        (2, NOON - 1000, b"k", b"much earlier", []),
    ]
    # What compaction leaves: gaps, the first offset and the last ones gone too.
    yield "compacted", Builder(last_offset_delta=9005), [(delta, NOON + delta, b"%d" % delta, b"kept", []) for delta in (2, 3, 70, 9000)]
    yield "stored", Builder(), [(number, NOON, b"k", b"v", []) for number in range(2)], (1 << 40, 3)
    yield "gzip", Builder(1), [(number, NOON, b"key", b"the same value again and again", []) for number in range(20)]


def write_batches():
    BATCHES.mkdir(parents=True, exist_ok=True)
    for name, builder, records, *log in batch_fixtures():
        for record in records:
            assert builder.append(*record), name
        data = builder.build()
        base_offset, leader_epoch = log[0] if log else (0, 0)
        struct.pack_into(">q", data, 0, base_offset)
        struct.pack_into(">i", data, 12, leader_epoch)
        if data[22] & 7:
            # The time and the system, which the gzip format begins with, must not be in a fixture.
            struct.pack_into("<i", data, 61 + 4, 0)
            data[61 + 9] = 0xFF
            struct.pack_into(">I", data, 17, calc_crc32c(memoryview(data)[21:]))
        (described,) = describe_run(bytes(data))
        for (delta, timestamp, key, value, headers), found in zip(records, described["records"], strict=True):
            assert found["offset"] == base_offset + delta, name
            assert (found["key"], found["value"]) == (hexed(key), hexed(value)), name
            assert found["headers"] == [[hexed(n.encode()), hexed(v)] for n, v in headers], name
            # What the producer said: what is read is another time where the broker gives it.
            found["produced_timestamp"] = timestamp
        (BATCHES / f"{name}.batch").write_bytes(data)
        lines = ",\n".join(json.dumps(record) for record in described.pop("records"))
        header = json.dumps(described)[:-1]
        (BATCHES / f"{name}.json").write_text(header + ', "records": [\n' + lines + "\n]}\n")


def main(arguments):
    if arguments == ["murmur2"]:
        sys.stdout.write(murmur2_json())
    elif not arguments:
        MURMUR2.parent.mkdir(parents=True, exist_ok=True)
        MURMUR2.write_text(murmur2_json())
        write_batches()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
