//! What a principal may use, over all its connections and over HTTP.
//!
//! A request above it waits, and with it everything behind it on its connection: clients are slowed, and see no error.
//! What keeps a member of a group alive, also when it connects again, and what it commits, never waits for itself; and a
//! fetch does not wait for long, since some clients send heartbeats behind it: then it is answered without records, and its
//! client asks again.
//!
//! It waits before more than its beginning is read, so that what waits takes none of the memory that others need.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Kafka;
use super::apis::FETCH;
use super::frames::Beginning;
use super::session::Session;
use crate::broker::rights::quota::Quota;

/// How often a request looks whether another one has ended.
const RETRY: Duration = Duration::from_millis(20);
/// The same for a debt, of which some may be given back.
const RETRY_DEBT: Duration = Duration::from_secs(1);

/// How long a fetch waits: much less than the shortest session of a member, which is 6 s.
const FETCH_WAIT: Duration = Duration::from_secs(2);

/// APIs whose requests pass: OffsetCommit and OffsetFetch, FindCoordinator, and the calls of members; and with what every
/// client begins its connection or goes on with it, SaslHandshake, ApiVersions and SaslAuthenticate.
const PASSING: [i16; 11] = [8, 9, 10, 11, 12, 13, 14, 17, 18, 36, 68];

/// A request that a quota counts until this is dropped.
pub(crate) struct InFlight {
    quota: Arc<Quota>,
    /// The bytes of the request that were paid for, until all of them are there.
    coming: u64,
}

impl InFlight {
    /// All of the request is there.
    pub(crate) fn has_come(&mut self) {
        self.coming = 0;
    }

    /// Counts the bytes of the answer.
    pub(crate) fn pay(&self, kafka: &Kafka, bytes: usize) {
        // What it runs into debt with, the next request waits for.
        let _ = self.quota.pay(bytes as u64, kafka.broker.clock.monotonic());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.coming > 0 {
            self.quota.give_back(self.coming);
        }
        self.quota.end();
    }
}

/// A fetch has waited for long enough: it is not counted, and there is nothing for it.
pub(crate) struct Slowed;

/// Waits until a request that begins like this may go on, or the server stops. Its bytes are paid for before they come, so
/// that requests do not pass all at once. `None`: nothing is limited.
///
/// # Errors
/// [`Slowed`].
pub(crate) async fn begin(
    kafka: &Kafka,
    session: &Session,
    Beginning { key, bytes }: Beginning,
) -> Result<Option<InFlight>, Slowed> {
    let Some(quota) = session.quota() else {
        return Ok(None);
    };
    let mut stopping = kafka.broker.stopping.subscribe();
    let mut must_pass = key.is_some_and(|key| PASSING.contains(&key));
    let end = Instant::now() + FETCH_WAIT;
    while let Err(exceeded) = quota.begin(kafka.broker.clock.monotonic(), must_pass) {
        let wait = match exceeded.what {
            "connections" => RETRY,
            _ => exceeded.retry_after.min(RETRY_DEBT),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = tokio::time::sleep_until(end), if key == Some(FETCH) => return Err(Slowed),
            _ = stopping.wait_for(|stopping| *stopping) => must_pass = true,
        }
    }
    let coming = bytes as u64;
    let in_flight = InFlight { quota, coming };
    in_flight.pay(kafka, bytes);
    Ok(Some(in_flight))
}
