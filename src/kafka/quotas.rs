//! What a principal may use, over all its connections and over HTTP.
//!
//! A request above it waits, and with it everything behind it on its connection: clients are slowed, and see no error.
//! What keeps a member of a group alive, and what it commits, never waits for itself.

use std::sync::Arc;
use std::time::Duration;

use super::Kafka;
use crate::broker::caller::Caller;
use crate::broker::rights::quota::Quota;

/// How often a request looks whether another one has ended.
const RETRY: Duration = Duration::from_millis(20);

/// APIs whose requests pass: commits of offsets, and the calls of members.
const PASSING: [i16; 5] = [8, 11, 12, 13, 14];

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

/// Waits until a request of so many bytes may begin, or the server stops. `None`: nothing is limited.
pub(crate) async fn begin(kafka: &Kafka, caller: &Caller, key: i16, bytes: usize) -> Option<InFlight> {
    let grant = caller
        .grant()
        .filter(|grant| grant.principal.quota.is_limited())?;
    let quota = &grant.principal.quota;
    let mut stopping = kafka.broker.stopping.subscribe();
    let mut must_pass = PASSING.contains(&key);
    while let Err(exceeded) = quota.begin(kafka.broker.clock.monotonic(), must_pass) {
        let wait = match exceeded.what {
            "connections" => RETRY,
            _ => exceeded.retry_after,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopping.wait_for(|stopping| *stopping) => must_pass = true,
        }
    }
    let in_flight = InFlight(Arc::clone(quota));
    in_flight.pay(kafka, bytes);
    Some(in_flight)
}
