//! `application/vnd.apache.kafka.record-batch`: batches for one partition, checked by
//! [`record_batch`](crate::broker::produce::record_batch).

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Incoming;
use super::{TopicCall, replayed};
use crate::broker::produce::idempotency::fingerprint;
use crate::broker::produce::record_batch::Range;
use crate::http::Answer;
use crate::http::json_answer;

/// Bodies up to this size are hashed on the worker that received them.
const INLINE_BYTES: usize = 2 << 20;

/// Where the records are stored.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchesProduced)]
pub(super) struct BatchesDoc {
    /// The first record's offset.
    first_offset: u64,
    /// The last record's offset.
    last_offset: u64,
    /// The number of records.
    records: u64,
}

pub(super) async fn produce(call: &TopicCall<'_>, partition: u32, body: &mut Incoming<'_>) -> Answer {
    let (params, options) = call.params(&["ack", "expected_offset"])?;
    let key = call.key(&params, Some(partition))?;
    let mut budget = body.budget();
    let bytes = body
        .whole(&mut budget, call.producer.limits.max_request_bytes)
        .await?;
    let producer = call.producer;
    let now = producer.now();
    let mut once = None;
    if let Some(key) = key {
        let (mut hasher, body) = (key.hasher(), bytes.clone());
        let mut hash = move || {
            hasher.update(&body);
            fingerprint(&hasher)
        };
        let fingerprint = if bytes.len() <= INLINE_BYTES {
            hash()
        } else {
            call.blocking(move |_| Ok(hash())).await?
        };
        if let Some(range) = producer.recall_batches(&key, &fingerprint).await? {
            return Ok(answer(range));
        }
        once = Some((key, fingerprint));
    }
    let checked = producer
        .check_batches(&call.target, partition, bytes, now)
        .await?;
    let range = producer.append_batches(&call.target, partition, options, checked, once, now);
    Ok(answer(range.await?))
}

fn answer(range: Range) -> Response {
    let first_offset = range.first_offset.get();
    let body = BatchesDoc {
        first_offset,
        last_offset: first_offset + u64::from(range.records) - 1,
        records: range.records.into(),
    };
    replayed(range.is_replayed, json_answer(StatusCode::OK, &body))
}
