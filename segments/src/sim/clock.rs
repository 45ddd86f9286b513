//! A clock that moves only when a test moves it.

use std::sync::Arc;
use std::time::Duration;

use crate::io::clock::{Clock, Monotonic};
use crate::io::sync::Mutex;
use crate::types::TimestampMs;

/// A settable [`Clock`]; clones show the same time.
#[derive(Clone, Debug)]
pub struct SimClock(Arc<Mutex<(TimestampMs, Monotonic)>>);

impl SimClock {
    /// A clock that shows `wall`, and a monotonic time of 0.
    pub fn new(wall: TimestampMs) -> Self {
        Self(Arc::new(Mutex::new((wall, Monotonic::default()))))
    }

    /// Sets the wall time, also backwards; the monotonic time stays.
    pub fn set_wall(&self, wall: TimestampMs) {
        self.0.lock().0 = wall;
    }

    /// Sets the monotonic time.
    ///
    /// # Panics
    /// If it would go backwards.
    pub fn set_monotonic(&self, monotonic: Monotonic) {
        let mut now = self.0.lock();
        assert!(
            now.1 <= monotonic,
            "monotonic time goes from {:?} to {monotonic:?}",
            now.1
        );
        now.1 = monotonic;
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        now.0 = TimestampMs(
            now.0
                .get()
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        );
        now.1 = Monotonic(now.1.0.saturating_add(by));
    }
}

impl Clock for SimClock {
    fn now(&self) -> TimestampMs {
        self.0.lock().0
    }

    fn monotonic(&self) -> Monotonic {
        self.0.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_goes_backwards_when_told_and_monotonic_time_does_not_follow() {
        let clock = SimClock::new(TimestampMs(1_000));
        let other = clock.clone();
        clock.advance(Duration::from_millis(500));
        clock.set_wall(TimestampMs(200));
        assert_eq!(other.now(), TimestampMs(200));
        assert_eq!(other.monotonic(), Monotonic(Duration::from_millis(500)));
    }
}
