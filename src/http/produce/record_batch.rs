//! `application/vnd.apache.kafka.record-batch`: batches that are stored as they came, for one partition.
//!
//! They come from outside, so everything in them is checked; what this version cannot keep the promises of (compression,
//! transactions, control records) is refused rather than stored.
//!
//! A batch with a producer id goes alone. The log keeps its producer's sequence: what was appended before is answered with the
//! offsets of then, a gap and an older epoch are refused.

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::TopicCall;
use super::body::Incoming;
use super::idempotency::{Key, REPLAYED, decode_count, encode_count, fingerprint};
use crate::broker::engine::batch::{
    BatchError, BatchHeader, Batches, Records as BatchRecords, SealedBatch, verify,
};
use crate::broker::engine::{Appended, Records, TimestampMs};
use crate::broker::produce::placing::Built;
use crate::broker::refusal::Reason;
use crate::formats::partitioner::partition_of_key;
use crate::http::budget::Budget;
use crate::http::json_answer;
use crate::http::problem::Problem;

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
    let (params, options) = call.params(&["ack", "expected_offset"])?;
    let key = Key::of(call, &params, Some(partition))?;
    let mut budget = Budget::new(&call.app.bodies);
    let bytes = body
        .whole(&mut budget, call.app.config.limits.max_request_bytes)
        .await?;
    let (length, now) = (bytes.len(), call.now());
    let mut once = None;
    if let Some(key) = key {
        let (mut hasher, body) = (key.hasher(), bytes.clone());
        let mut hash = move || {
            hasher.update(&body);
            fingerprint(&hasher)
        };
        let fingerprint = if length <= INLINE_BYTES {
            hash()
        } else {
            call.blocking(move |_| Ok(hash())).await?
        };
        key.prepare(call).await?;
        if let Some(appended) = key.recall(call, 0, &fingerprint)? {
            return answer(call, &appended, 0);
        }
        once = Some((key, fingerprint));
    }
    let checked = if length <= INLINE_BYTES {
        check(call, partition, bytes, now)?
    } else {
        call.blocking(move |call| check(call, partition, bytes, now))
            .await?
    };
    let records = checked.record_count;
    let built = Built {
        partition,
        records: Records::Sealed(checked.batches),
        record_count: records,
        // Nobody has looked at the values: whoever reads them will.
        json_lines: false,
    };
    let mut request = call.append_request(vec![built], options, checked.moved)?;
    request.once = once.map(|(key, fingerprint)| key.once(0, fingerprint, now, encode_count(records)));
    let appended = call.app.log.append(request)?.await?;
    if appended.repeated.is_none() {
        call.count(u64::from(records), length);
    }
    answer(call, &appended, records)
}

/// The answer for `records` records, or for as many as there were the first time.
fn answer(call: &TopicCall<'_>, appended: &Appended, records: u32) -> Result<Response, Problem> {
    let records = match appended.repeated.as_deref() {
        // Nothing is noted of a producer's batch, which is the same one.
        None | Some([]) => records,
        Some(note) => decode_count(note)?,
    };
    let first_offset = appended.base_offsets.first().copied().unwrap_or_default().get();
    let body = BatchesDoc {
        first_offset,
        last_offset: first_offset + u64::from(records) - 1,
        records: records.into(),
    };
    let mut response = json_answer(StatusCode::OK, &body);
    if appended.repeated.is_some() {
        call.count_replayed();
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
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
        if header.producer_id.0 >= 0 && bytes.len() < body.len() {
            let detail = format!("batch {index} has a producer id, and then is a body by itself");
            return Err(Problem::invalid("", detail));
        }
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
            .ok_or_else(|| Problem::new(Reason::RequestTooLarge, "too many records in one request"))?;
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
    } else {
        return Ok(());
    };
    let detail = format!("batch {index} {what}, which this version does not support");
    Err(Problem::new(Reason::NotSupported, detail))
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
                return Err(Problem::new(Reason::RecordTooLarge, detail));
            }
        }
        if !*moved && let Some(key) = record.key {
            *moved = partition_of_key(key, call.partitions) != partition;
        }
    }
    Ok(())
}
