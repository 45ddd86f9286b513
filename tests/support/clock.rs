//! A clock that a test moves by hand.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use quipu_segments::{Clock, Monotonic, SystemClock, TimestampMs};

/// The time of [`HandClock::standing`].
pub const NOW: i64 = 1_700_000_000_000;
const NOT_SET: i64 = i64::MIN;

/// A clock that stands still until it is moved, or one that runs as the system's does until its wall time is set.
pub struct HandClock {
    wall: AtomicI64,
    /// The source of the monotonic time; without it, the monotonic time is the time since [`NOW`].
    system: Option<SystemClock>,
}

impl HandClock {
    pub fn standing() -> Self {
        Self {
            wall: AtomicI64::new(NOW),
            system: None,
        }
    }

    pub fn running() -> Self {
        Self {
            wall: AtomicI64::new(NOT_SET),
            system: Some(SystemClock::new()),
        }
    }

    pub fn set(&self, now: i64) {
        self.wall.store(now, Ordering::SeqCst);
    }

    pub fn pass(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).expect("a time of a test");
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> TimestampMs {
        match (self.wall.load(Ordering::SeqCst), &self.system) {
            (NOT_SET, Some(system)) => system.now(),
            (wall, _) => TimestampMs(wall),
        }
    }

    fn monotonic(&self) -> Monotonic {
        match &self.system {
            Some(system) => system.monotonic(),
            None => {
                let passed = self.wall.load(Ordering::SeqCst).saturating_sub(NOW);
                Monotonic(Duration::from_millis(u64::try_from(passed).unwrap_or(0)))
            }
        }
    }
}
