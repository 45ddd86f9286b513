#!/usr/bin/env python3
"""Writes test fixtures with kafka-python, an implementation of Kafka's formats that shares no code with quipu.

    scripts/kafka-fixtures.py            writes every fixture to its place in the repository
    scripts/kafka-fixtures.py murmur2    prints the partition vectors (tests/fixtures/murmur2.json)

Needs kafka-python 3.0.12 (`pip install kafka-python==3.0.12`). The output depends on nothing but this file and that
version, so a second run changes no file.
"""

import base64
import json
import pathlib
import random
import sys

from kafka.partitioner.default import DefaultPartitioner, murmur2

ROOT = pathlib.Path(__file__).resolve().parent.parent
MURMUR2 = ROOT / "tests" / "fixtures" / "murmur2.json"
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


def main(arguments):
    if arguments == ["murmur2"]:
        sys.stdout.write(murmur2_json())
    elif not arguments:
        MURMUR2.parent.mkdir(parents=True, exist_ok=True)
        MURMUR2.write_text(murmur2_json())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
