//! Bodies that are one append: read whole, placed, appended, and answered with each record's position.
//!
//! With an idempotency key the body is kept until it is answered: where it was appended before, it is placed again as it was
//! the first time, which gives the positions of then.

use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;

use super::body::Incoming;
use super::idempotency::{First, Key, REPLAYED, fingerprint, unreadable};
use super::{INLINE_BYTES, Options, TopicCall, ok, positions};
use crate::broker::engine::{Appended, Offset, Once, TimestampMs};
use crate::broker::produce::placing::{Built, Placement, Placer};
use crate::http::HoldsBodies;
use crate::http::budget::Budget;
use crate::http::problem::Problem;

/// Positions of an answer that takes no part of the budget, in bytes: it is written in one piece.
const MOST_UNCOUNTED_BYTES: usize = 8 << 10;

/// One placing of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) options: Options,
    pub(super) now: TimestampMs,
    /// How it was placed before: what it must fit into has been looked at then.
    pub(super) first: Option<First>,
}

/// A body's records, placed.
pub(super) struct Placed {
    built: Vec<Built>,
    placements: Vec<Placement>,
    bytes: usize,
    moved: bool,
    unkeyed: Option<u32>,
}

impl Placed {
    /// What a placer has placed.
    pub(super) fn of(mut placer: Placer<'_>, placements: Vec<Placement>, now: TimestampMs) -> Self {
        Self {
            bytes: placer.bytes(),
            moved: placer.moved(),
            unkeyed: placer.unkeyed_partition(),
            built: placer.take(now),
            placements,
        }
    }
}

/// Where records are, but for the offsets at which their parts begin.
struct Places {
    /// The partition of each part.
    parts: Vec<u32>,
    placements: Vec<Placement>,
}

impl Placed {
    fn split(self) -> (Places, Vec<Built>) {
        let places = Places {
            parts: self.built.iter().map(|built| built.partition).collect(),
            placements: self.placements,
        };
        (places, self.built)
    }
}

/// Reads the body and appends what `place` makes of it.
pub(super) async fn produce(
    call: &TopicCall<'_>,
    options: Options,
    key: Option<Box<Key>>,
    body: &mut Incoming<'_>,
    place: impl Fn(&TopicCall<'_>, &Attempt, &[u8]) -> Result<Placed, Problem> + Clone + Send + 'static,
) -> Result<Response, Problem> {
    let mut budget = Budget::new(&call.app.bodies);
    let bytes = body
        .whole(&mut budget, call.app.config.limits.max_request_bytes)
        .await?;
    let attempt = Attempt {
        options,
        now: call.now(),
        first: None,
    };
    match key {
        None => {
            let placed = work(call, &bytes, move |call, body| place(call, &attempt, body)).await?;
            drop(bytes);
            let (places, appended) = append(call, options, placed, None).await?;
            Ok(answer(places, appended.base_offsets, budget))
        }
        // Rarer, and boxed for that: the future of a request without a key stays small.
        Some(key) => Box::pin(produce_once(call, attempt, key, bytes, budget, place)).await,
    }
}

async fn produce_once(
    call: &TopicCall<'_>,
    mut attempt: Attempt,
    key: Box<Key>,
    bytes: Bytes,
    budget: Budget<'_>,
    place: impl Fn(&TopicCall<'_>, &Attempt, &[u8]) -> Result<Placed, Problem> + Clone + Send + 'static,
) -> Result<Response, Problem> {
    let mut hasher = key.hasher();
    let fingerprint = work(call, &bytes, move |_, body| {
        hasher.update(body);
        Ok(fingerprint(&hasher))
    })
    .await?;
    key.prepare(call).await?;
    let mut places = None;
    let appended = match key.recall(call, 0, &fingerprint)? {
        Some(appended) => appended,
        None => {
            let place = place.clone();
            let placed = work(call, &bytes, move |call, body| place(call, &attempt, body)).await?;
            let first = First {
                partitions: call.partitions,
                unkeyed: placed.unkeyed,
            };
            let once = key.once(0, fingerprint, attempt.now, first.encode());
            let (new, appended) = append(call, attempt.options, placed, Some(once)).await?;
            places = Some(new);
            appended
        }
    };
    if let (Some(places), None) = (places, &appended.repeated) {
        return Ok(answer(places, appended.base_offsets, budget));
    }
    attempt.first = Some(First::decode(appended.repeated.as_deref().unwrap_or_default())?);
    let placed = work(call, &bytes, move |call, body| place(call, &attempt, body)).await?;
    let (places, _) = placed.split();
    if places.parts.len() != appended.base_offsets.len() {
        return Err(unreadable());
    }
    drop(bytes);
    call.count_replayed();
    let mut response = answer(places, appended.base_offsets, budget);
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Appends what was placed; counts it where it was not there before.
async fn append(
    call: &TopicCall<'_>,
    options: Options,
    placed: Placed,
    once: Option<Once>,
) -> Result<(Places, Appended), Problem> {
    let (bytes, moved) = (placed.bytes, placed.moved);
    let (places, built) = placed.split();
    let mut request = call.append_request(built, options, moved)?;
    request.once = once;
    let appended = call.app.log.append(request)?.await?;
    if appended.repeated.is_none() {
        call.count(places.placements.len() as u64, bytes);
    }
    Ok((places, appended))
}

/// The positions of records. `budget` is what the request holds: a long answer goes on holding it until its client has read it.
fn answer(places: Places, base_offsets: Vec<Offset>, mut budget: Budget<'_>) -> Response {
    let parts: Vec<_> = places.parts.into_iter().zip(base_offsets).collect();
    let mut placements = places.placements;
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
    response
}

/// Works on the body, where that holds nobody up.
async fn work<T: Send + 'static>(
    call: &TopicCall<'_>,
    bytes: &Bytes,
    work: impl FnOnce(&TopicCall<'_>, &[u8]) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes.len() <= INLINE_BYTES {
        return work(call, bytes);
    }
    let bytes = bytes.clone();
    call.blocking(move |call| work(call, &bytes)).await
}
