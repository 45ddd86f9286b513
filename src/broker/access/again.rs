//! The token that a connection has presented last. Clients send the same one with every request, and to compare it costs less
//! than to read it, to hash it and to look it up in what all connections share.
//!
//! A grant says itself when it is over, so whatever ends a token (or its secret) ends what is remembered of it. JWTs are not
//! remembered here: they are verified again after a minute.

use std::sync::Arc;

use parking_lot::Mutex;

use super::secret;
use crate::broker::engine::TimestampMs;
use crate::broker::rights::grant::Grant;

/// What a connection has presented last, as it was sent, and what that gave. The default is nothing.
#[derive(Default)]
pub struct Again(Mutex<Option<(Box<[u8]>, Arc<Grant>)>>);

impl Again {
    /// What it gave, if it comes again and is not over.
    pub fn grant(&self, presented: &[u8], now: TimestampMs) -> Option<Arc<Grant>> {
        let last = self.0.lock();
        let (known, grant) = last.as_ref()?;
        let comes_again = secret::is_same(known, presented) && !grant.is_over(now);
        comes_again.then(|| Arc::clone(grant))
    }

    /// Remembers what a token gave; returns it as the connection's own.
    pub fn keep(&self, presented: &[u8], grant: Arc<Grant>) -> Arc<Grant> {
        let Some(own) = grant.apart() else {
            return grant;
        };
        *self.0.lock() = Some((presented.into(), Arc::clone(&own)));
        own
    }
}
