//! Any other media type: the body is one record's value, and the query says the rest.

use std::borrow::Cow;

use axum::response::Response;
use http::header;

use super::body::Incoming;
use super::json::{Placed, append};
use super::{TopicCall, misfit};
use crate::http::budget::Budget;
use crate::http::problem::{Code, Problem};
use crate::records::{ParsedRecord, Placer, is_json_line};

pub(super) async fn produce(call: &TopicCall<'_>, body: &mut Incoming<'_>) -> Result<Response, Problem> {
    let (params, options) = call.params(&["ack", "expected_offset", "key", "partition", "timestamp"])?;
    let partition = params.number("partition", 0, u64::MAX)?;
    let timestamp = params.time("timestamp")?;
    let mut budget = Budget::new(&call.app.bodies);
    let value = body
        .whole(&mut budget, call.app.config.limits.max_request_bytes)
        .await?;
    let record = ParsedRecord {
        partition: partition.map(|partition| u32::try_from(partition).unwrap_or(u32::MAX)),
        timestamp,
        key: params.get("key").map(|key| Cow::Borrowed(key.as_bytes())),
        // A value that is too large is refused below: it need not be looked at.
        json_line: value.len() <= call.rules.max_record_bytes && is_json_line(&value),
        value: Some(Cow::Borrowed(&value)),
        headers: Vec::new(),
    };
    let mut placing = call.placing(options);
    if let Some(content_type) = call.parts.headers.get(header::CONTENT_TYPE) {
        let name = Cow::Borrowed(&b"content-type"[..]);
        placing
            .extra_headers
            .push((name, Cow::Borrowed(content_type.as_bytes())));
    }
    let now = call.now();
    let mut placer = Placer::new(placing, now);
    let placement = placer.add(&record).map_err(|error| {
        let problem = misfit(&error, "");
        match problem.code() {
            Code::UnknownPartition => problem.with("pointer", "partition"),
            _ => problem,
        }
    })?;
    let (bytes, moved) = (placer.bytes(), placer.moved());
    let placed = Placed {
        built: placer.take(now),
        placements: vec![placement],
        bytes,
        moved,
    };
    append(call, options, placed, budget).await
}
