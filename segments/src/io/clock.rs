//! The seam to the clocks: wall time for timestamps and retention, monotonic time for durations.
//!
//! The operator may set the wall clock, so it may jump in either direction; nothing is ordered by it. The monotonic
//! clock only goes forward, and means nothing outside the process.

#![allow(clippy::disallowed_methods, reason = "this is the seam to the clocks")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// The operating system's clocks.
#[derive(Clone, Debug)]
pub struct SystemClock {
    /// Where [`Monotonic`] counts from.
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    /// The wall time; a clock set before 1970 gives a negative number.
    fn now(&self) -> TimestampMs {
        wall_time(SystemTime::now())
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }
}

/// The operating system's wall time; before 1970 it is negative.
pub(super) fn wall_time(time: SystemTime) -> TimestampMs {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => TimestampMs(millis(since)),
        Err(before) => TimestampMs(-millis(before.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic();
        let second = clock.monotonic();
        assert!(second >= first, "{second:?} after {first:?}");
        let found = first.since(second);
        assert_eq!(found, Duration::ZERO.max(first.0.saturating_sub(second.0)));
    }

    #[test]
    fn wall_time_is_in_milliseconds_since_1970() {
        // 2020-01-01 and 2200-01-01: seconds or microseconds would fall outside.
        let now = SystemClock::new().now().get();
        assert!((1_577_836_800_000..7_258_118_400_000).contains(&now), "{now}");
    }
}
