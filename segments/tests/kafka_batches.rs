//! Record batches against kafka-python, which shares no code with this crate.
//!
//! The fixtures are kafka-python's batches and what it reads in them; `scripts/kafka-fixtures.py` writes them. The
//! other direction, kafka-python reading ours, runs if the Python of `QUIPU_TEST_PYTHON`, or `python3`, has kafka-python, and else says so.

#![allow(clippy::disallowed_methods, reason = "tests read their fixtures")]

#[path = "../../tests/support/skipped.rs"]
mod skipped;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use quipu_segments::batch::{
    BatchBuilder, BatchError, BatchHeader, Batches, Codec, HEADER_BYTES, MAX_INFLATED_BYTES, Record, Records,
    SealedBatch, inflate, validate, verify,
};
use quipu_segments::{Offset, TimestampMs};
use serde::Deserialize;

/// A batch as `kafka_read.py` describes it; bytes are hex.
#[derive(Debug, PartialEq, Deserialize)]
struct Described {
    base_offset: u64,
    total_bytes: usize,
    leader_epoch: i32,
    crc: u32,
    attributes: i16,
    last_offset_delta: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    record_count: u32,
    records: Vec<DescribedRecord>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct DescribedRecord {
    offset: u64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
    /// In fixtures: the producer's timestamp, if the broker set another one.
    #[serde(default)]
    produced_timestamp: Option<i64>,
}

impl Described {
    fn of(header: &BatchHeader, records: Vec<DescribedRecord>) -> Self {
        Self {
            base_offset: header.base_offset.get(),
            total_bytes: header.total_bytes(),
            leader_epoch: header.partition_leader_epoch,
            crc: header.crc,
            attributes: header.attributes.0,
            last_offset_delta: header.last_offset_delta,
            base_timestamp: header.base_timestamp.0,
            max_timestamp: header.max_timestamp.0,
            producer_id: header.producer_id.0,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            record_count: header.record_count,
            records,
        }
    }
}

impl DescribedRecord {
    fn of(record: &Record<'_>) -> Self {
        let headers = record.headers.iter();
        Self {
            offset: record.offset.get(),
            timestamp: record.timestamp.0,
            key: record.key.map(hex),
            value: record.value.map(hex),
            headers: headers.map(|(name, value)| (hex(name), value.map(hex))).collect(),
            produced_timestamp: None,
        }
    }

    fn push_to(&self, builder: &mut BatchBuilder) {
        let bytes = |(name, value): &(String, Option<String>)| (unhex(name), value.as_deref().map(unhex));
        let headers: Vec<_> = self.headers.iter().map(bytes).collect();
        let headers = headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        let headers: Vec<_> = headers.collect();
        builder.push(
            TimestampMs(self.produced_timestamp.unwrap_or(self.timestamp)),
            self.key.as_deref().map(unhex).as_deref(),
            self.value.as_deref().map(unhex).as_deref(),
            &headers,
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "{text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Every fixture: its name, its bytes, and its description without the producer's timestamps.
fn fixtures() -> Vec<(String, Vec<u8>, Described)> {
    let mut fixtures: Vec<_> = std::fs::read_dir(tests().join("fixtures"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "batch"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let described = std::fs::read(path.with_extension("json")).unwrap();
            let described = serde_json::from_slice(&described).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, std::fs::read(path).unwrap(), described)
        })
        .collect();
    fixtures.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(fixtures.len(), 13, "fixtures went missing or were added");
    fixtures
}

/// Decodes a whole batch, compressed or not.
fn describe(batch: &[u8]) -> Described {
    let header = verify(batch).unwrap();
    let plain = inflate(batch, MAX_INFLATED_BYTES).unwrap();
    let records = Records::new(&plain).unwrap();
    let records = records.map(|record| DescribedRecord::of(&record.unwrap()));
    Described::of(&header, records.collect())
}

#[test]
fn batches_of_kafka_python_are_read_field_by_field() {
    for (name, batch, mut expected) in fixtures() {
        for record in &mut expected.records {
            record.produced_timestamp = None;
        }
        assert_eq!(describe(&batch), expected, "{name}");
    }
}

#[test]
fn batches_of_kafka_python_are_valid_unless_with_gaps() {
    for (name, batch, _) in fixtures() {
        let expected = match name.as_str() {
            "compacted" => Some(BatchError::Malformed(
                "the last offset delta is not the record count less 1",
            )),
            _ => None,
        };
        assert_eq!(validate(&batch).err(), expected, "{name}");
        assert_eq!(SealedBatch::from_outside(batch.clone()).err(), expected, "{name}");
        if expected.is_none() {
            let sealed = SealedBatch::from_outside(batch.clone()).unwrap();
            // Only the leader epoch, which quipu stores as 0.
            let expected = [&batch[..12], &[0; 4], &batch[16..]].concat();
            assert_eq!(sealed.as_bytes(), expected, "{name}: nothing was to correct");
        }
    }
}

/// Compressed batches as twelve clients have sent them, each with what other decoders found in it: the number of records,
/// and the CRC-32 of what the records inflate to.
#[test]
fn compressed_batches_of_clients_are_taken_and_inflate_to_what_other_decoders_find() {
    let text = std::fs::read_to_string(tests().join("fixtures/clients.txt")).unwrap();
    let mut found = std::collections::BTreeSet::new();
    for line in text.lines() {
        let [client, codec, records, crc, batch] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let batch = unhex(batch);
        let header = validate(&batch).unwrap_or_else(|error| panic!("{client}, {codec}: {error}"));
        assert_eq!(header.record_count.to_string(), records, "{client}, {codec}");
        let named = header.attributes.codec().unwrap().unwrap();
        assert_eq!(named.name(), codec, "{client}");
        let plain = inflate(&batch, MAX_INFLATED_BYTES).unwrap();
        let found_crc = crc32fast::hash(&plain[HEADER_BYTES..]);
        assert_eq!(format!("{found_crc:08x}"), crc, "{client}, {codec}");
        let mut sealed = SealedBatch::verified(batch[..].into()).unwrap();
        let inflated = sealed.check_records(plain.len(), |_, record| {
            assert!(record.value.is_some());
            Ok::<_, BatchError>(())
        });
        assert_eq!(inflated.unwrap().as_deref(), Some(&plain[..]));
        // Whatever these clients send as the leader epoch; nothing else is to correct.
        let expected = [&batch[..12], &[0; 4], &batch[16..]].concat();
        assert_eq!(sealed.as_bytes(), expected, "{client}, {codec}");
        for other in Codec::ALL {
            let packed = sealed.clone().with_codec(Some(other), None).unwrap();
            let again = inflate(packed.as_bytes(), MAX_INFLATED_BYTES).unwrap();
            assert_eq!(
                again[HEADER_BYTES..],
                plain[HEADER_BYTES..],
                "{client}, {codec}, {other}"
            );
        }
        found.insert(client.to_owned());
    }
    assert_eq!(found.len(), 12, "{found:?}");
}

#[test]
fn the_same_records_give_the_bytes_that_kafka_python_writes() {
    let mut compared = 0;
    for (name, expected, described) in fixtures() {
        // Our builder does not write producers, markers, compression or gaps; nor leader epochs, which the log sets.
        let fresh = described.producer_id == -1
            && described.attributes & !8 == 0
            && described.last_offset_delta + 1 == described.record_count;
        if !fresh {
            continue;
        }
        let mut builder = BatchBuilder::new();
        for record in &described.records {
            record.push_to(&mut builder);
        }
        if described.attributes & 8 != 0 {
            builder.set_log_append_time(TimestampMs(described.max_timestamp));
        }
        let mut sealed = builder.seal();
        sealed.set_base_offset(Offset::new(described.base_offset));
        let mut bytes = sealed.into_bytes();
        bytes[12..16].copy_from_slice(&described.leader_epoch.to_be_bytes());
        assert!(
            bytes == expected,
            "{name}: ours {}, theirs {}",
            hex(&bytes),
            hex(&expected)
        );
        compared += 1;
    }
    assert_eq!(compared, 8);
}

#[test]
fn a_run_of_batches_of_kafka_python_is_split_where_they_meet() {
    let fixtures = fixtures();
    let batches = fixtures.iter().map(|(_, batch, _)| batch.as_slice());
    let run: Vec<u8> = batches.collect::<Vec<_>>().concat();
    let split: Vec<_> = Batches::new(&run).map(|batch| batch.unwrap().1).collect();
    let whole: Vec<_> = fixtures.iter().map(|(_, batch, _)| batch.as_slice()).collect();
    assert_eq!(split, whole);
}

/// Batches of all shapes that our builder makes.
fn our_batches() -> Vec<SealedBatch> {
    let mut batches = Vec::new();
    let mut offset = Offset::ZERO;
    let mut seal = |builder: BatchBuilder| {
        let mut batch = builder.seal();
        batch.set_base_offset(offset);
        offset = batch.header().next_offset();
        batches.push(batch);
    };

    let mut plain = BatchBuilder::new();
    for (key, value) in [
        (None, None),
        (Some(&b""[..]), Some(&b""[..])),
        (Some(b"key"), None),
        (None, Some(b"value")),
    ] {
        plain.push(TimestampMs(1_357_035_420_000), key, value, &[]);
    }
    seal(plain);

    let mut times = BatchBuilder::new();
    let base = 1_357_035_420_000;
    for time in [base, 0, -1, i64::from(i32::MAX), 1 << 50, base + 1] {
        times.push(TimestampMs(time), Some(b"k"), Some(b"v"), &[]);
    }
    seal(times.clone());
    times.set_log_append_time(TimestampMs(1_700_000_000_000));
    seal(times);

    let mut headers = BatchBuilder::new();
    let long = [b'h'; 300];
    headers.push(TimestampMs(5), None, None, &[(b"", None), (b"", Some(b""))]);
    let various: [(&[u8], Option<&[u8]>); 4] = [
        (b"again", Some(b"1")),
        ("ключ".as_bytes(), Some(&long)),
        (b"again", None),
        (&long, Some(&[0, 255])),
    ];
    headers.push(TimestampMs(6), Some(b"k"), Some(b"v"), &various);
    headers.push(TimestampMs(7), None, None, &[(&b"n"[..], Some(&b"v"[..])); 100]);
    seal(headers);

    let mut many = BatchBuilder::new();
    for number in 0..10_000_i64 {
        let mut one = BatchBuilder::new();
        let value = vec![number as u8; number as usize % 150];
        let key = number.to_string();
        let time = TimestampMs(9_000 - number);
        one.push(time, Some(key.as_bytes()), Some(&value), &[]);
        many.append(&one);
    }
    seal(many);

    let mut large = BatchBuilder::new();
    large.push(TimestampMs(8), None, Some(&vec![b'x'; 2_100_000]), &[]);
    seal(large);
    batches
}

#[test]
fn kafka_python_reads_our_batches() {
    let probe = ["-B", "-c", "import kafka.record.memory_records"];
    let python = std::env::var_os("QUIPU_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let kafka = Command::new(&python).args(probe).output();
    if !kafka.is_ok_and(|output| output.status.success()) {
        skipped::skipped("no Python with kafka-python (QUIPU_TEST_PYTHON)");
        return;
    }
    let batches = our_batches();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for batch in &batches {
        file.write_all(batch.as_bytes()).unwrap();
    }
    let output = Command::new(&python)
        .arg("-B")
        .arg(tests().join("kafka_read.py"))
        .arg(file.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let rows = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    let read: Vec<Described> = rows.map(Result::unwrap).collect();
    assert_eq!(read.len(), batches.len());
    for (read, batch) in read.iter().zip(&batches) {
        let is_same = *read == describe(batch.as_bytes());
        assert!(is_same, "batch at offset {}", read.base_offset);
    }
}
