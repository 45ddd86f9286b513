//! The seam to the clocks: wall time for timestamps and retention, monotonic time for durations.

use std::time::Duration;

use crate::types::TimestampMs;

/// Monotonic time since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// The time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The wall time.
    fn now(&self) -> TimestampMs;
    /// The monotonic time.
    fn monotonic(&self) -> Monotonic;
}
