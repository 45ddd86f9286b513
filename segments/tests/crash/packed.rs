//! Batches as clients and compaction leave them: compressed, and without some of their records.

use std::collections::BTreeSet;

use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, BatchHeader, Codec, HEADER_BYTES, SealedBatch};

use crate::model::Rec;

/// The batch of `records`, and the numbers of those that it lacks. `dice` decides instead of a random number, so that a seed
/// does the same with and without compression: half of the batches are compressed, a quarter has gaps.
pub(crate) fn packed(records: &[Rec], dice: u64) -> (SealedBatch, BTreeSet<u32>) {
    let mut builder = BatchBuilder::new();
    for record in records {
        record.push_to(&mut builder);
    }
    let (codec, rest) = (Codec::ALL.get((dice % 8) as usize), dice / 8);
    let mut lacks = BTreeSet::new();
    if rest.is_multiple_of(4) && records.len() > 1 {
        // The first, the last or both are among them, or none of the two.
        let every = 2 + rest / 4 % 3;
        lacks = (0..records.len() as u32)
            .filter(|number| (u64::from(*number) + rest / 16).is_multiple_of(every))
            .collect();
    }
    let mut batch = builder.seal();
    if !lacks.is_empty() {
        batch = without(&batch, records, &lacks);
    }
    let batch = batch.with_codec(codec.copied(), None);
    (batch.expect("there is nothing to inflate"), lacks)
}

/// The batch without some records. Those that stay keep their offsets, and the header keeps the last one's.
fn without(batch: &SealedBatch, records: &[Rec], lacks: &BTreeSet<u32>) -> SealedBatch {
    let stays = |number: &u32| !lacks.contains(number);
    let rows = (0..).zip(records).filter(|(number, _)| stays(number));
    let max_timestamp = rows.map(|(_, record)| record.timestamp).max();
    let mut bytes = vec![0; HEADER_BYTES];
    for (_, record) in (0..)
        .zip(split(&batch.as_bytes()[HEADER_BYTES..]))
        .filter(|(number, _)| stays(number))
    {
        bytes.extend_from_slice(record);
    }
    let header = BatchHeader {
        batch_length: (bytes.len() - 12) as u32,
        record_count: (records.len() - lacks.len()) as u32,
        max_timestamp: TimestampMs(max_timestamp.expect("one record stays")),
        ..batch.header()
    };
    header.encode(bytes.first_chunk_mut().expect("its room is in front"));
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    SealedBatch::from_validated(bytes).expect("it is one batch")
}

/// The records of a batch, each in its bytes: a length (a varint, twice as large as it is) and so many bytes.
fn split(mut records: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !records.is_empty() {
        let ends = |byte: &u8| *byte < 0x80;
        let varint = records.iter().position(ends).expect("a varint ends") + 1;
        let digits = records[..varint].iter().rev();
        let twice = digits.fold(0, |sum, digit| sum << 7 | usize::from(digit & 0x7f));
        let (record, behind) = records.split_at(varint + twice / 2);
        found.push(record);
        records = behind;
    }
    found
}
