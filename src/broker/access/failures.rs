//! Sign-ins that fail: all are counted, and the log has a bounded number of lines about them, for each listener and cause
//! by itself, so that many of one kind do not hide another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::Failure;
use crate::broker::caller::{Caller, Shown};
use crate::broker::engine::Monotonic;
use crate::broker::sparing::Sparing;

/// The sign-ins that have failed since the start.
#[derive(Default)]
pub(super) struct Failures {
    count: AtomicU64,
    /// By listener and cause: which have a line. A handful, since neither comes from a client.
    lines: Mutex<BTreeMap<(&'static str, Failure), Sparing>>,
}

impl Failures {
    pub(super) fn total(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Counts one, and writes a line if there were not many just before.
    pub(super) fn count(&self, now: Monotonic, listener: &'static str, caller: &Caller, failure: Failure) {
        self.count.fetch_add(1, Relaxed);
        let address = caller.address.map(|address| address.ip());
        if !self
            .lines
            .lock()
            .entry((listener, failure))
            .or_default()
            .takes(now, address)
        {
            return;
        }
        tracing::warn!(
            request_id = %caller.request_id,
            address = caller.address.map(|address| tracing::field::display(Shown(address))),
            listener,
            reason = reason(failure),
            "a sign-in failed"
        );
    }

    /// Writes a line for what got none in a while that has ended. To be called often.
    pub(super) fn tell_left_out(&self, now: Monotonic) {
        let left_out: Vec<_> = {
            let lines = self.lines.lock();
            let lines = lines.iter();
            lines
                .filter_map(|(of, sparing)| Some((*of, sparing.left_out(now)?)))
                .collect()
        };
        for ((listener, failure), left_out) in left_out {
            tracing::warn!(
                left_out = left_out.events,
                most_from = %left_out.from(),
                listener,
                reason = reason(failure),
                "more sign-ins failed, which have no line of their own"
            );
        }
    }
}

fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::Wrong => "what was presented is not valid",
        Failure::NoRules => "no rules are for what was presented",
    }
}
