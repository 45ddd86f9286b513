"""What the scripts of Python share: the records that every client sends, patience, and the parts that are asked for.

    SCRIPT.py KAFKA PREFIX PART...

KAFKA is the address, PREFIX begins the names of all topics and groups, each PART is a function of the script. A part
fails by raising. `../main.rs` says what the parts are.
"""

import sys
import time

COUNT = 100
PARTITIONS = 4
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
KAFKA, PREFIX = sys.argv[1:3]
# Ends a script that hangs, and decides nothing else.
PATIENCE = 240


def key(n):
    return b"key-%d" % n


def value(n):
    return ('{"n":%d,"text":"h\u00e9llo %s"}' % (n, "x" * 100)).encode()


def timestamp(n):
    return 1_700_000_000_000 + 1000 * n


def expected(n, codec):
    """A record as `check` wants it: key, value, timestamp, headers."""
    return key(n), value(n), timestamp(n), [("codec", codec.encode())]


def check(topic, codec, found):
    """Compares the records that were read, {partition: [(offset, record)]}, with those that were sent."""
    for partition, records in found.items():
        offsets = [offset for offset, _ in records]
        assert offsets == list(range(len(offsets))), f"offsets in {topic}/{partition}: {offsets}"
        numbers = [int(record[0].split(b"-")[1]) for _, record in records]
        assert numbers == sorted(numbers), f"order in {topic}/{partition}: {numbers}"
    records = sorted((record for rows in found.values() for _, record in rows), key=lambda record: record[2])
    assert records == [expected(n, codec) for n in range(COUNT)], f"{topic}: {records}"


def until(what, attempt):
    """Calls `attempt` until it returns something true; returns that."""
    end = time.monotonic() + PATIENCE
    while True:
        found = attempt()
        if found:
            return found
        assert time.monotonic() < end, f"waited in vain: {what}"


def parts(names):
    """Runs the parts that are asked for, from a dictionary of functions."""
    for part in sys.argv[3:]:
        print(f"{part}:", end=" ", flush=True)
        names[part]()
        print("passed", flush=True)
