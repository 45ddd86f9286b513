//! CloudEvents: structured (one event as JSON), batched (an array of them), and binary (attributes in headers, data in the body).
//!
//! [`crate::formats::cloudevents`] makes a record from an event; after that it is a record like any other.

use http::{HeaderMap, HeaderName};

use super::body::Incoming;
use super::{Listed, TopicCall, whole};
use crate::broker::produce::whole::{Attempt, Placed};
use crate::broker::refusal::Refusal;
use crate::formats::cloudevents::{parse_event, parse_events, read_binary};
use crate::formats::json::{ParsedRecord, is_json_line, without_mark};
use crate::http::Answer;
use crate::http::problem::Problem;

/// How events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The body is one event.
    Structured,
    /// The body is an array of events.
    Batched,
    /// The headers are an event, the body is its data.
    Binary,
}

/// Refuses CloudEvents headers without `ce-specversion`: read as a raw body, the record would lose these headers.
///
/// # Errors
/// 400 if a header has an attribute that every event has (`ce-id`, `ce-source`, `ce-type`).
pub(super) fn refuse_half_an_event(headers: &HeaderMap) -> Result<(), Problem> {
    let is_attribute = |name: &&HeaderName| matches!(name.as_str(), "ce-id" | "ce-source" | "ce-type");
    headers.keys().find(is_attribute).map_or(Ok(()), |name| {
        let detail = format!("the header {name} belongs to a CloudEvent, but ce-specversion is missing");
        Err(Problem::invalid("ce-specversion", detail))
    })
}

pub(super) async fn produce(call: &TopicCall<'_>, mode: Mode, body: &mut Incoming<'_>) -> Answer {
    let (params, options) = call.params(&["ack", "expected_offset", "partition"])?;
    let partition = params.number("partition", 0, u64::MAX)?;
    let key = call.key(&params, None)?;
    let place = move |call: &TopicCall<'_>, attempt: &Attempt, body: &[u8]| {
        place(call, attempt, mode, partition, body)
    };
    whole::produce(call, options, key, body, |_| Ok(None), place).await
}

fn place(
    call: &TopicCall<'_>,
    attempt: &Attempt,
    mode: Mode,
    partition: Option<u64>,
    body: &[u8],
) -> Result<Placed, Refusal> {
    let mut listed = Listed::new(call, attempt, "partition");
    let mut add = |mut record: ParsedRecord<'_>, index: Option<usize>| {
        record.partition = partition;
        listed.add(&record, || {
            index.map_or_else(String::new, |index| format!("/{index}"))
        })
    };
    match mode {
        Mode::Structured => add(parse_event(without_mark(body))?, None)?,
        Mode::Batched => {
            parse_events(without_mark(body), |index, record| add(record, Some(index)))?;
        }
        Mode::Binary => {
            let headers = call.parts.headers.iter();
            let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
            let mut record = read_binary(headers, body)?;
            // A value that is too large is refused later, so it is not parsed.
            let is_small = body.len() <= call.target.rules.max_record_bytes;
            record.json_line = body.is_empty() || (is_small && is_json_line(body));
            add(record, None)?;
        }
    }
    Ok(listed.placed())
}
