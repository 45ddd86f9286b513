//! CloudEvents: structured (one event as JSON), batched (an array of them), and binary (attributes in headers, data in the body).
//!
//! What becomes of an event is the matter of [`crate::formats::cloudevents`]; an event is a record like any other from there on.

use axum::response::Response;
use http::HeaderMap;

use super::body::Incoming;
use super::idempotency::Key;
use super::whole::{Attempt, Placed, produce as produce_whole};
use super::{TopicCall, misfit};
use crate::broker::produce::placing::{Placement, Placer};
use crate::broker::refusal::Reason;
use crate::formats::cloudevents::{parse_event, parse_events, read_binary};
use crate::formats::json::{ParsedRecord, is_json_line};
use crate::http::problem::{Code, Problem};

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

/// Refuses what looks like binary mode and is not: as a raw body it would lose what its headers say.
///
/// # Errors
/// 400 for attributes that every event has, but `ce-specversion`.
pub(super) fn refuse_half_an_event(headers: &HeaderMap) -> Result<(), Problem> {
    let found = ["ce-id", "ce-source", "ce-type"]
        .into_iter()
        .find(|name| headers.contains_key(*name));
    match found {
        None => Ok(()),
        Some(name) => Err(Problem::invalid(
            "ce-specversion",
            format!("the header {name} is a CloudEvent's, and ce-specversion is missing"),
        )),
    }
}

pub(super) async fn produce(
    call: &TopicCall<'_>,
    mode: Mode,
    body: &mut Incoming<'_>,
) -> Result<Response, Problem> {
    let (params, options) = call.params(&["ack", "expected_offset", "partition"])?;
    let partition = params
        .number("partition", 0, u64::MAX)?
        .map(|partition| u32::try_from(partition).unwrap_or(u32::MAX));
    let key = Key::of(call, &params, None)?;
    let place = move |call: &TopicCall<'_>, attempt: &Attempt, body: &[u8]| {
        place(call, attempt, mode, partition, body)
    };
    produce_whole(call, options, key, body, place).await
}

fn place(
    call: &TopicCall<'_>,
    attempt: &Attempt,
    mode: Mode,
    partition: Option<u32>,
    body: &[u8],
) -> Result<Placed, Problem> {
    let mut placer = Placer::new(call.placing(attempt.options, attempt.first), attempt.now);
    let mut placements: Vec<Placement> = Vec::new();
    let most = call.max_encoded_bytes(attempt.first);
    let mut add = |mut record: ParsedRecord<'_>, pointer: &str| {
        record.partition = partition;
        let placement = placer.add(&record).map_err(|error| {
            let problem = misfit(&error, pointer);
            match problem.code() {
                Code::Refused(Reason::UnknownPartition) => problem.with("pointer", "partition"),
                _ => problem,
            }
        })?;
        placements.push(placement);
        // Attributes are headers, whose names are longer than in JSON.
        if placer.bytes() > most {
            let detail =
                format!("the events take more than {most} bytes as they are stored; split the batch");
            return Err(Problem::new(Reason::RequestTooLarge, detail));
        }
        Ok(())
    };
    match mode {
        Mode::Structured => add(parse_event(body)?, "")?,
        Mode::Batched => {
            parse_events(body, |index, record| add(record, &format!("/{index}")))?;
        }
        Mode::Binary => {
            let headers = call.parts.headers.iter();
            let mut record = read_binary(
                headers.map(|(name, value)| (name.as_str(), value.as_bytes())),
                body,
            )?;
            // A value that is too large is refused: it need not be looked at.
            record.json_line =
                body.is_empty() || (body.len() <= call.rules.max_record_bytes && is_json_line(body));
            add(record, "")?;
        }
    }
    Ok(Placed::of(placer, placements, attempt.now))
}
