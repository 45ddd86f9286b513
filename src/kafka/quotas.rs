//! What a principal may use, over all its connections and over HTTP.
//!
//! A request above it waits, and with it everything behind it on its connection: clients are slowed, and see no error.
//! What keeps a member of a group alive, and what it commits, never waits for itself; and a fetch does not wait for long,
//! since some clients send heartbeats behind it: then it is answered without records, and its client asks again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Kafka;
use super::apis::FETCH;
use crate::broker::caller::Caller;
use crate::broker::rights::quota::Quota;

/// How often a request looks whether another one has ended.
const RETRY: Duration = Duration::from_millis(20);

/// How long a fetch waits: much less than the shortest session of a member, which is 6 s.
const FETCH_WAIT: Duration = Duration::from_secs(2);

/// APIs whose requests pass: OffsetCommit and OffsetFetch, FindCoordinator, and the calls of members.
const PASSING: [i16; 8] = [8, 9, 10, 11, 12, 13, 14, 68];

/// A request that a quota counts until this is dropped.
pub(crate) struct InFlight(Arc<Quota>);

impl InFlight {
    /// Counts the bytes of the answer.
    pub(crate) fn pay(&self, kafka: &Kafka, bytes: usize) {
        // What it runs into debt with, the next request waits for.
        let _ = self.0.pay(bytes as u64, kafka.broker.clock.monotonic());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A fetch has waited for long enough: it is not counted, and there is nothing for it.
pub(crate) struct Slowed;

/// Waits until a request of so many bytes may begin, or the server stops. `None`: nothing is limited.
///
/// # Errors
/// [`Slowed`].
pub(crate) async fn begin(
    kafka: &Kafka,
    caller: &Caller,
    key: i16,
    bytes: usize,
) -> Result<Option<InFlight>, Slowed> {
    let grant = caller.grant().filter(|grant| grant.principal.quota.is_limited());
    let Some(grant) = grant else { return Ok(None) };
    let quota = &grant.principal.quota;
    let mut stopping = kafka.broker.stopping.subscribe();
    let mut must_pass = PASSING.contains(&key);
    let end = Instant::now() + FETCH_WAIT;
    while let Err(exceeded) = quota.begin(kafka.broker.clock.monotonic(), must_pass) {
        let wait = match exceeded.what {
            "connections" => RETRY,
            _ => exceeded.retry_after,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = tokio::time::sleep_until(end), if key == FETCH => return Err(Slowed),
            _ = stopping.wait_for(|stopping| *stopping) => must_pass = true,
        }
    }
    let in_flight = InFlight(Arc::clone(quota));
    in_flight.pay(kafka, bytes);
    Ok(Some(in_flight))
}
