//! Any other media type: the body is one record's value, and the query has the rest of the record.

use std::borrow::Cow;

use http::header;

use super::body::Incoming;
use super::{TopicCall, not_a_type, whole};
use crate::broker::engine::TimestampMs;
use crate::broker::produce::placing::Placer;
use crate::broker::produce::whole::{Attempt, Placed};
use crate::broker::refusal::Refusal;
use crate::formats::json::{ParsedRecord, is_json_line, without_mark};
use crate::http::Answer;
use crate::http::problem::Problem;

/// As much of a body is looked at to see whether it begins as a list of records does.
const MOST_START_BYTES: usize = 1024;
const HINT: &str = "the body looks like a list of records, but its content-type makes it the value of one record; \
    to store each record, send application/json";

/// The parts of the record that the query gives.
#[derive(Clone)]
struct Said {
    partition: Option<u64>,
    timestamp: Option<TimestampMs>,
    key: Option<String>,
}

pub(super) async fn produce(call: &TopicCall<'_>, is_json: bool, body: &mut Incoming<'_>) -> Answer {
    let (params, options) = call.params(&["ack", "expected_offset", "key", "partition", "timestamp"])?;
    let said = Said {
        partition: params.number("partition", 0, u64::MAX)?,
        timestamp: params.time("timestamp")?,
        key: params.get("key").map(str::to_owned),
    };
    let key = call.key(&params, None)?;
    let place = move |call: &TopicCall<'_>, attempt: &Attempt, body: &[u8]| place(call, attempt, &said, body);
    let inspect = move |body: &[u8]| inspect(is_json, body);
    whole::produce(call, options, key, body, inspect, place).await
}

/// Looks for a body that becomes one record although it begins as a list of records does: as another JSON type it is
/// refused, as any other type it gets a hint.
fn inspect(is_json: bool, body: &[u8]) -> Result<Option<&'static str>, Problem> {
    let start = &body[..body.len().min(MOST_START_BYTES)];
    let tokens: [&[u8]; 4] = [b"{", b"\"records\"", b":", b"["];
    let rest = tokens.iter().try_fold(without_mark(start), |rest, token| {
        rest.trim_ascii_start().strip_prefix(*token)
    });
    match rest {
        Some(_) if is_json => Err(not_a_type(
            "the body looks like a list of records, but its content-type is another JSON type",
        )),
        looks_like_records => Ok(looks_like_records.map(|_| HINT)),
    }
}

fn place(call: &TopicCall<'_>, attempt: &Attempt, said: &Said, value: &[u8]) -> Result<Placed, Refusal> {
    let record = ParsedRecord {
        partition: said.partition,
        timestamp: said.timestamp,
        key: said.key.as_deref().map(|key| Cow::Borrowed(key.as_bytes())),
        // A value that is too large is refused below, so it is not parsed.
        json_line: value.len() <= call.target.rules.max_record_bytes && is_json_line(value),
        value: Some(Cow::Borrowed(value)),
        headers: Vec::new(),
    };
    let mut placing = call.placing(attempt);
    if let Some(content_type) = call.parts.headers.get(header::CONTENT_TYPE) {
        let name = Cow::Borrowed(&b"content-type"[..]);
        placing
            .extra_headers
            .push((name, Cow::Borrowed(content_type.as_bytes())));
    }
    let mut placer = Placer::new(placing, attempt.now);
    let placement = placer
        .add(&record)
        .map_err(|misfit| misfit.refuse("", "partition"))?;
    Ok(Placed::of(&call.target, placer, vec![placement], attempt.now))
}
