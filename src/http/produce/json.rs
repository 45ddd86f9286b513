//! `application/json`: a list of records, appended as one.

use axum::response::Response;
use quipu_segments::TimestampMs;

use super::body::Incoming;
use super::{INLINE_BYTES, Options, TopicCall, misfit, ok, positions};
use crate::http::HoldsBodies;
use crate::http::budget::Budget;
use crate::http::problem::{Code, Problem};
use crate::records::{Built, Placement, Placer, parse_records};

/// Positions of an answer that takes no part of the budget, in bytes: it is written in one piece.
const MOST_UNCOUNTED_BYTES: usize = 8 << 10;

/// A body's records, placed.
pub(super) struct Placed {
    pub(super) built: Vec<Built>,
    pub(super) placements: Vec<Placement>,
    pub(super) bytes: usize,
    pub(super) moved: bool,
}

pub(super) async fn produce(call: &TopicCall<'_>, body: &mut Incoming<'_>) -> Result<Response, Problem> {
    let (_, options) = call.params(&["ack", "expected_offset", "repartition"])?;
    let mut budget = Budget::new(&call.app.bodies);
    let bytes = body
        .whole(&mut budget, call.app.config.limits.max_request_bytes)
        .await?;
    let now = call.now();
    let placed = if bytes.len() <= INLINE_BYTES {
        place(call, options, &bytes, now)?
    } else {
        call.blocking(move |call| place(call, options, &bytes, now))
            .await?
    };
    append(call, options, placed, budget).await
}

fn place(call: &TopicCall<'_>, options: Options, body: &[u8], now: TimestampMs) -> Result<Placed, Problem> {
    let mut placer = Placer::new(call.placing(options), now);
    let mut placements = Vec::new();
    let most = call.max_encoded_bytes();
    parse_records(body, |index, record| {
        let placement = placer
            .add(&record)
            .map_err(|error| misfit(&error, &format!("/records/{index}")))?;
        placements.push(placement);
        // Records without content take more room in a batch than in JSON.
        if placer.bytes() > most {
            let detail =
                format!("the records take more than {most} bytes as they are stored; split the request");
            return Err(Problem::new(Code::RequestTooLarge, detail));
        }
        Ok(())
    })?;
    let (bytes, moved) = (placer.bytes(), placer.moved());
    Ok(Placed {
        built: placer.take(now),
        placements,
        bytes,
        moved,
    })
}

/// Appends what was placed and answers with its positions. `budget` is what the request holds: a long answer goes on
/// holding it until its client has read it.
pub(super) async fn append(
    call: &TopicCall<'_>,
    options: Options,
    placed: Placed,
    mut budget: Budget<'_>,
) -> Result<Response, Problem> {
    let mut parts: Vec<_> = placed
        .built
        .iter()
        .map(|built| (built.partition, quipu_segments::Offset::ZERO))
        .collect();
    let request = call.append_request(placed.built, options, placed.moved)?;
    let appended = call.app.log.append(request)?.await?;
    for ((_, base), given) in parts.iter_mut().zip(appended.base_offsets) {
        *base = given;
    }
    call.count(placed.placements.len() as u64, placed.bytes);
    let mut placements = placed.placements;
    placements.shrink_to_fit();
    let held_bytes = placements.len() * size_of::<Placement>();
    if held_bytes > MOST_UNCOUNTED_BYTES {
        // What there is of it will do where there is no more: the records are in, and must be answered for.
        budget.try_cover(held_bytes);
    } else {
        drop(budget.take());
    }
    let held = budget.take();
    let is_holding = held.is_some();
    let mut response = ok(positions(placements, parts, held));
    if is_holding {
        response.extensions_mut().insert(HoldsBodies);
    }
    Ok(response)
}
