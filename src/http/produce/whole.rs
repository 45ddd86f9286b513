//! Bodies that are one append: each is read whole, placed by [`whole`](crate::broker::produce::whole), and answered
//! with the positions of its records.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::body::Incoming;
use super::{Call, INLINE_BYTES, Options, positions, replayed};
use crate::broker::budget::Budget;
use crate::broker::produce::idempotency::{Key, fingerprint};
use crate::broker::produce::placing::Placement;
use crate::broker::produce::whole::{Attempt, Placed, Places};
use crate::broker::refusal::Refusal;
use crate::http::Answer;
use crate::http::problem::Problem;
use crate::http::{HoldsBodies, fresh};

/// Positions up to this many bytes take no share of the budget: such an answer is written in one piece.
const MOST_UNCOUNTED_BYTES: usize = 8 << 10;

/// Reads the body and appends the records that `place` makes from it. `inspect` refuses the body, or returns the hint of
/// the answer.
pub(super) async fn produce<T: Clone + Send + 'static>(
    call: &Call<'_, T>,
    options: Options,
    key: Option<Box<Key>>,
    body: &mut Incoming<'_>,
    inspect: impl FnOnce(&[u8]) -> Result<Option<&'static str>, Problem>,
    place: impl Fn(&Call<'_, T>, &Attempt, &[u8]) -> Result<Placed, Refusal> + Clone + Send + 'static,
) -> Answer {
    let mut budget = body.budget();
    let bytes = body
        .whole(&mut budget, call.producer.limits.max_request_bytes)
        .await?;
    let hint = inspect(&bytes)?;
    let attempt = Attempt {
        options,
        now: call.producer.now(),
        firsts: None,
    };
    match key {
        None => {
            let placed = work(call, &bytes, move |call, body| place(call, &attempt, body)).await?;
            drop(bytes);
            let appended = call.producer.append_whole(options, placed)?;
            Ok(answer(appended.await?, hint, budget))
        }
        // Boxed because it is rarer: the future of a request without a key stays small.
        Some(key) => Box::pin(produce_once(call, attempt, key, bytes, hint, budget, place)).await,
    }
}

async fn produce_once<T: Clone + Send + 'static>(
    call: &Call<'_, T>,
    attempt: Attempt,
    key: Box<Key>,
    bytes: Bytes,
    hint: Option<&'static str>,
    budget: Budget<'_>,
    place: impl Fn(&Call<'_, T>, &Attempt, &[u8]) -> Result<Placed, Refusal> + Clone + Send + 'static,
) -> Answer {
    let mut hasher = key.hasher();
    let fingerprint = work(call, &bytes, move |_, body| {
        hasher.update(body);
        Ok(fingerprint(&hasher))
    })
    .await?;
    let place = |attempt: Attempt| {
        let place = place.clone();
        work(call, &bytes, move |call, body| place(call, &attempt, body))
    };
    let places = call
        .producer
        .append_once(attempt, &key, fingerprint, place)
        .await?;
    drop(bytes);
    let is_replayed = places.is_replayed;
    Ok(replayed(is_replayed, answer(places, hint, budget)))
}

/// The positions of records. `budget` is the request's share: a long answer keeps it until its client has read it.
fn answer(places: Places, hint: Option<&'static str>, mut budget: Budget<'_>) -> Response {
    let mut placements = places.placements;
    placements.shrink_to_fit();
    let held_bytes = placements.len() * size_of::<Placement>();
    if held_bytes > MOST_UNCOUNTED_BYTES {
        // The answer is sent even if the budget has too little: the records are stored already.
        budget.try_cover(held_bytes);
    } else {
        drop(budget.take());
    }
    let held = budget.take();
    let is_holding = held.is_some();
    let body = positions(placements, places.parts, places.names, hint, held);
    let mut response = (fresh("application/json"), body).into_response();
    if is_holding {
        response.extensions_mut().insert(HoldsBodies);
    }
    response
}

/// Works on the body: a small one at once, a larger one on a blocking thread.
async fn work<T: Clone + Send + 'static, R: Send + 'static>(
    call: &Call<'_, T>,
    bytes: &Bytes,
    work: impl FnOnce(&Call<'_, T>, &[u8]) -> Result<R, Refusal> + Send + 'static,
) -> Result<R, Refusal> {
    if bytes.len() <= INLINE_BYTES {
        return work(call, bytes);
    }
    let bytes = bytes.clone();
    // Boxed because it is rarer: the future of a small request stays small.
    Box::pin(call.blocking(move |call| work(call, &bytes))).await
}
