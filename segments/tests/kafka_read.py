#!/usr/bin/env python3
"""Reads a run of record batches with kafka-python and prints what it finds, one JSON object a batch and line.

    kafka_read.py FILE

Bytes are written as hex, null as null. A batch that kafka-python finds anything wrong with ends it with an error.
"""

import json
import pathlib
import sys

from kafka.record.memory_records import MemoryRecords


def hexed(data):
    return None if data is None else bytes(data).hex()


def describe(batch):
    assert batch.magic == 2, batch
    assert batch.validate_crc(), "kafka-python computes another CRC"
    return {
        "base_offset": batch.base_offset,
        "total_bytes": batch.size_in_bytes,
        "leader_epoch": batch.leader_epoch,
        "crc": batch.crc,
        "attributes": batch.attributes,
        "last_offset_delta": batch.last_offset_delta,
        "base_timestamp": batch.first_timestamp,
        "max_timestamp": batch.max_timestamp,
        "producer_id": batch.producer_id,
        "producer_epoch": batch.producer_epoch,
        "base_sequence": batch.base_sequence,
        "record_count": batch.records_count,
        "records": [
            {
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": hexed(record.key),
                "value": hexed(record.value),
                "headers": [[hexed(name.encode()), hexed(value)] for name, value in record.headers],
            }
            for record in batch
        ],
    }


def describe_run(data):
    records = MemoryRecords(data)
    described = [describe(batch) for batch in records]
    assert records.valid_bytes() == len(data), "the last batch is cut off"
    return described


if __name__ == "__main__":
    for described in describe_run(pathlib.Path(sys.argv[1]).read_bytes()):
        print(json.dumps(described))
