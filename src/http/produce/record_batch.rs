//! `application/vnd.apache.kafka.record-batch`: batches that are stored as they came, for one partition.
//!
//! They come from outside, so everything in them is checked; what this version cannot keep the promises of (compression,
//! transactions, control records, producers' sequences) is refused rather than stored.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use quipu_segments::batch::{BatchError, BatchHeader, Batches, Records as BatchRecords, SealedBatch, verify};
use quipu_segments::{Records, TimestampMs};
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Incoming;
use super::{Options, TopicCall};
use crate::http::budget::Budget;
use crate::http::json_answer;
use crate::http::problem::{Code, Problem};
use crate::partitioner::partition_of_key;
use crate::records::Built;

/// Bodies up to this size are checked on the worker that received them: about a millisecond of checksum.
const INLINE_BYTES: usize = 2 << 20;

/// Where the records lie.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchesProduced)]
pub(super) struct BatchesDoc {
    /// The first record's offset.
    first_offset: u64,
    /// The last record's offset.
    last_offset: u64,
    /// How many records there are.
    records: u64,
}

/// A body's batches, checked.
struct Checked {
    batches: Vec<SealedBatch>,
    record_count: u32,
    moved: bool,
}

pub(super) async fn produce(
    call: &TopicCall<'_>,
    partition: u32,
    body: &mut Incoming<'_>,
) -> Result<Response, Problem> {
    let (_, options) = call.params(&["ack", "expected_offset"])?;
    let mut budget = Budget::new(&call.app.bodies);
    let bytes = body
        .whole(&mut budget, call.app.config.limits.max_request_bytes)
        .await?;
    let (length, now) = (bytes.len(), call.now());
    let checked = if length <= INLINE_BYTES {
        check(call, partition, bytes, now)?
    } else {
        call.blocking(move |call| check(call, partition, bytes, now))
            .await?
    };
    append(call, options, partition, checked, length).await
}

async fn append(
    call: &TopicCall<'_>,
    options: Options,
    partition: u32,
    checked: Checked,
    bytes: usize,
) -> Result<Response, Problem> {
    let records = u64::from(checked.record_count);
    let built = Built {
        partition,
        records: Records::Sealed(checked.batches),
        record_count: checked.record_count,
        // Nobody has looked at the values: whoever reads them will.
        json_lines: false,
    };
    let request = call.append_request(vec![built], options, checked.moved)?;
    let appended = call.app.log.append(request)?.await?;
    let first_offset = appended.base_offsets.first().copied().unwrap_or_default().get();
    call.count(records, bytes);
    let answer = BatchesDoc {
        first_offset,
        last_offset: first_offset + records - 1,
        records,
    };
    Ok(json_answer(StatusCode::OK, &answer))
}

fn check(call: &TopicCall<'_>, partition: u32, body: Bytes, now: TimestampMs) -> Result<Checked, Problem> {
    if body.is_empty() {
        return Err(Problem::invalid("", "the body holds no batch"));
    }
    let mut checked = Checked {
        batches: Vec::new(),
        record_count: 0,
        moved: false,
    };
    let mut at = 0;
    for (index, batch) in Batches::new(&body).enumerate() {
        let wrong = |error: BatchError| Problem::invalid("", format!("batch {index}, at byte {at}: {error}"));
        let (_, bytes) = batch.map_err(wrong)?;
        let header = verify(bytes).map_err(wrong)?;
        refuse_later(&header, index)?;
        // A body of one batch is that batch, without a copy if nobody else holds it.
        let owned = if bytes.len() == body.len() {
            body.clone().into()
        } else {
            bytes.to_vec()
        };
        let mut sealed = SealedBatch::from_outside(owned).map_err(wrong)?;
        check_records(call, partition, sealed.as_bytes(), index, &mut checked.moved)?;
        checked.record_count = checked
            .record_count
            .checked_add(header.record_count)
            .ok_or_else(|| Problem::new(Code::RequestTooLarge, "too many records in one request"))?;
        if call.rules.log_append_time {
            sealed.set_log_append_time(now);
        }
        at += bytes.len();
        checked.batches.push(sealed);
    }
    Ok(checked)
}

fn refuse_later(header: &BatchHeader, index: usize) -> Result<(), Problem> {
    let what = if header.attributes.compression() != 0 {
        "is compressed"
    } else if header.attributes.is_transactional() {
        "is transactional"
    } else if header.attributes.is_control() {
        "is a control batch"
    } else if header.producer_id.0 >= 0 {
        "has a producer id"
    } else {
        return Ok(());
    };
    let detail = format!("batch {index} {what}, which this version does not support");
    Err(Problem::new(Code::NotSupported, detail))
}

/// Holds every record of a valid batch against the limits.
fn check_records(
    call: &TopicCall<'_>,
    partition: u32,
    batch: &[u8],
    index: usize,
    moved: &mut bool,
) -> Result<(), Problem> {
    let limits = &call.app.config.limits;
    let records = BatchRecords::new(batch).map_err(|error| Problem::invalid("", error.to_string()))?;
    for (number, record) in records.enumerate() {
        let record = record.map_err(|error| Problem::invalid("", error.to_string()))?;
        let key = record.key.map_or(0, <[u8]>::len);
        let headers: usize = record
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum();
        let size = key + record.value.map_or(0, <[u8]>::len) + headers;
        let bounds = [
            (
                "bytes of a record's key, value and headers",
                size,
                call.rules.max_record_bytes,
            ),
            ("bytes of a key", key, limits.max_key_bytes),
            ("bytes of a record's headers", headers, limits.max_header_bytes),
            (
                "headers of a record",
                record.headers.len(),
                limits.max_headers_per_record,
            ),
        ];
        for (what, size, limit) in bounds {
            if size > limit {
                let detail = format!("record {number} of batch {index}: {size} {what}; {limit} are allowed");
                return Err(Problem::new(Code::RecordTooLarge, detail));
            }
        }
        if !*moved && let Some(key) = record.key {
            *moved = partition_of_key(key, call.partitions) != partition;
        }
    }
    Ok(())
}
