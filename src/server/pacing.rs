//! Counts the bytes of a body, and slows it to what its principal may use.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::broker::engine::Clock;
use crate::broker::rights::quota::Quota;

/// A poll's answer waits no longer for debts: its member's session would end meanwhile.
const LONGEST_FIRST: Duration = Duration::from_secs(5);

/// When a body waits until its principal's debt is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slowed {
    /// Before each part.
    FromTheFirst,
    /// Before each part but the first.
    AfterTheFirst,
    /// It does not, and runs into debt.
    Never,
}

/// Counts a body, and slows it.
pub(super) struct Pacing {
    quota: Arc<Quota>,
    clock: Arc<dyn Clock>,
    waits: bool,
    /// Until the debt is paid.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Pacing {
    /// `None`: bytes are not limited.
    pub(super) fn begin(quota: &Arc<Quota>, clock: &Arc<dyn Clock>, how: Slowed) -> Option<Self> {
        quota.limits().bytes_per_second?;
        let mut pacing = Self {
            quota: Arc::clone(quota),
            clock: Arc::clone(clock),
            waits: how != Slowed::Never,
            waiting: None,
        };
        if how == Slowed::FromTheFirst {
            let debt = pacing.quota.pay(0, pacing.clock.monotonic());
            pacing.wait(debt.map(|debt| debt.min(LONGEST_FIRST)));
        }
        Some(pacing)
    }

    /// Ready when the next part may pass.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// Counts a part that has passed.
    pub(super) fn pay(&mut self, bytes: u64) {
        let debt = self.quota.pay(bytes, self.clock.monotonic());
        self.wait(debt.filter(|_| self.waits));
    }

    fn wait(&mut self, debt: Option<Duration>) {
        self.waiting = debt.map(|debt| Box::pin(tokio::time::sleep(debt)));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::broker::engine::TimestampMs;
    use crate::broker::engine::sim::SimClock;
    use crate::broker::rights::quota::Limits;

    /// How long a body waits before each of its parts, of 1000 bytes each, at 1000 bytes a second.
    async fn waits(how: Slowed, parts: usize) -> Vec<u64> {
        let sim = Arc::new(SimClock::new(TimestampMs(0)));
        let clock: Arc<dyn Clock> = sim.clone();
        let quota = Arc::new(Quota::new(Limits {
            bytes_per_second: Some(1000),
            ..Limits::default()
        }));
        // The first second's worth and five more are used up.
        quota.pay(6000, clock.monotonic());
        let mut pacing = Pacing::begin(&quota, &clock, how).expect("bytes are limited");
        let mut waits = Vec::new();
        for _ in 0..parts {
            let begin = tokio::time::Instant::now();
            poll_fn(|cx| pacing.poll_ready(cx)).await;
            let waited = begin.elapsed();
            sim.advance(waited);
            waits.push(waited.as_secs());
            pacing.pay(1000);
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn each_part_waits_until_the_parts_before_it_are_paid_for() {
        assert_eq!(waits(Slowed::AfterTheFirst, 4).await, [0, 6, 1, 1]);
        assert_eq!(waits(Slowed::FromTheFirst, 4).await, [5, 1, 1, 1]);
        assert_eq!(waits(Slowed::Never, 4).await, [0, 0, 0, 0]);
    }

    #[test]
    fn without_a_limit_of_bytes_there_is_nothing_to_count() {
        let clock: Arc<dyn Clock> = Arc::new(SimClock::new(TimestampMs(0)));
        let quota = Arc::new(Quota::new(Limits {
            connections: Some(1),
            ..Limits::default()
        }));
        assert!(Pacing::begin(&quota, &clock, Slowed::FromTheFirst).is_none());
    }
}
