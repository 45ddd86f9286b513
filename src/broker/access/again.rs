//! The token that was valid last on a connection. Clients send the same one with every request, and to compare it costs less
//! than to read it, to hash it and to look it up in what all connections share.
//!
//! A grant says itself when it is over, so whatever ends a token (or its secret) ends what is remembered of it. JWTs are not
//! remembered here: they are verified again after a minute.

use std::sync::Arc;

use parking_lot::Mutex;

use super::secret;
use crate::broker::engine::TimestampMs;
use crate::broker::rights::grant::Grant;

/// A longer one is not remembered: so many bytes are kept for each connection.
const MOST_BYTES: usize = 512;

/// What was valid last on a connection, as it was sent, and what that gave. The default is nothing.
#[derive(Default)]
pub struct Again(Mutex<Option<Last>>);

struct Last {
    presented: Box<[u8]>,
    grant: Arc<Grant>,
}

impl Again {
    /// What it gave, if it comes again and is not over.
    pub fn grant(&self, presented: &[u8], now: TimestampMs) -> Option<Arc<Grant>> {
        let last = self.0.lock();
        let last = last.as_ref()?;
        let comes_again = secret::is_same(&last.presented, presented) && !last.grant.is_over(now);
        comes_again.then(|| Arc::clone(&last.grant))
    }

    /// Remembers what a token gave; returns it as the connection's own.
    pub fn keep(&self, presented: &[u8], grant: Arc<Grant>) -> Arc<Grant> {
        let own = grant.apart().filter(|_| presented.len() <= MOST_BYTES);
        let Some(own) = own else {
            return grant;
        };
        *self.0.lock() = Some(Last {
            presented: presented.into(),
            grant: Arc::clone(&own),
        });
        own
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::access::Access;
    use crate::broker::access::testing::{access, token};
    use crate::broker::caller::Caller;
    use crate::broker::engine::Clock;
    use crate::broker::engine::sim::SimClock;

    /// Makes a token, and presents it on a connection.
    async fn presented(access: &Access, name: &str) -> (String, Again) {
        let token = access
            .create_token(&Caller::default(), token(name))
            .await
            .unwrap();
        let again = Again::default();
        again.keep(token.as_bytes(), access.bearer(&token).await.unwrap());
        (token, again)
    }

    #[tokio::test]
    async fn a_secret_that_was_replaced_is_over_whatever_the_clock_says() {
        let clock = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
        let access = access(&clock);
        let (token, again) = presented(&access, "one").await;
        assert!(again.grant(token.as_bytes(), clock.now()).is_some());
        let rotated = access
            .rotate_token(&Caller::default(), "one", Duration::ZERO)
            .await;
        rotated.unwrap();
        let stepped_back = TimestampMs(1_600_000_000_000);
        assert!(again.grant(token.as_bytes(), stepped_back).is_none());
    }

    #[tokio::test]
    async fn the_administrators_token_and_a_tokens_equal_secret_do_not_end_each_other() {
        let clock = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
        let access = access(&clock);
        let caller = Caller::default();
        let (token, as_one) = presented(&access, "one").await;
        access.set_admin_token(Some(&token));
        let as_admin = Again::default();
        let grant = as_admin.keep(token.as_bytes(), access.bearer(&token).await.unwrap());
        assert_eq!(&*grant.principal.name, "admin");
        access.revoke_token(&caller, "one").await.unwrap();
        assert!(as_one.grant(token.as_bytes(), clock.now()).is_none());
        assert!(as_admin.grant(token.as_bytes(), clock.now()).is_some());
        let (other, as_two) = presented(&access, "two").await;
        access.set_admin_token(Some(&other));
        assert!(as_admin.grant(token.as_bytes(), clock.now()).is_none());
        access.set_admin_token(None);
        assert!(as_two.grant(other.as_bytes(), clock.now()).is_some());
        assert_eq!(&*access.bearer(&other).await.unwrap().principal.name, "two");
    }

    #[tokio::test]
    async fn what_is_long_is_not_remembered() {
        let clock = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
        let access = access(&clock);
        for (count, is_remembered) in [(MOST_BYTES, true), (MOST_BYTES + 1, false)] {
            let token = "t".repeat(count);
            access.set_admin_token(Some(&token));
            let again = Again::default();
            again.keep(token.as_bytes(), access.bearer(&token).await.unwrap());
            let grant = again.grant(token.as_bytes(), clock.now());
            assert_eq!(grant.is_some(), is_remembered, "{count}");
        }
    }
}
