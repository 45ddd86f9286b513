//! `application/json`: a list of records, appended as one.

use axum::response::Response;

use super::body::Incoming;
use super::idempotency::Key;
use super::whole::{Attempt, Placed, produce as produce_whole};
use super::{TopicCall, misfit};
use crate::broker::produce::placing::Placer;
use crate::broker::refusal::Reason;
use crate::formats::json::parse_records;
use crate::http::problem::Problem;

pub(super) async fn produce(call: &TopicCall<'_>, body: &mut Incoming<'_>) -> Result<Response, Problem> {
    let (params, options) = call.params(&["ack", "expected_offset", "repartition"])?;
    let key = Key::of(call, &params, None)?;
    produce_whole(call, options, key, body, place).await
}

fn place(call: &TopicCall<'_>, attempt: &Attempt, body: &[u8]) -> Result<Placed, Problem> {
    let mut placer = Placer::new(call.placing(attempt.options, attempt.first), attempt.now);
    let mut placements = Vec::new();
    let most = call.max_encoded_bytes(attempt.first);
    parse_records(body, |index, record| {
        let placement = placer
            .add(&record)
            .map_err(|error| misfit(&error, &format!("/records/{index}")))?;
        placements.push(placement);
        // Records without content take more room in a batch than in JSON.
        if placer.bytes() > most {
            let detail =
                format!("the records take more than {most} bytes as they are stored; split the request");
            return Err(Problem::new(Reason::RequestTooLarge, detail));
        }
        Ok(())
    })?;
    Ok(Placed::of(placer, placements, attempt.now))
}
