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
