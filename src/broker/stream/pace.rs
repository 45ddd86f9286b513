//! When the records of a replay are due: at the pace of their timestamps, times a factor.
//!
//! The schedule is absolute. It begins with the first record, and every later one is due when the time between their
//! timestamps, divided by the factor, has passed since: so the time that records take to write never adds up. A record whose timestamp
//! lies before that of an earlier one is due with that one.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::engine::TimestampMs;

/// The longest wait: about thirty years. A clock cannot add much more.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

/// The schedule of one replay.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Recorded time that passes in one unit of real time; positive and finite.
    speed: f64,
    /// The first record's timestamp, and when it was taken.
    began: Option<(TimestampMs, Instant)>,
    /// The latest timestamp that was taken.
    latest: TimestampMs,
}

impl Pace {
    /// A schedule that has not begun. `speed` is positive and finite.
    pub fn new(speed: f64) -> Self {
        debug_assert!(speed > 0.0 && speed.is_finite(), "a pace of {speed}");
        Self {
            speed,
            began: None,
            latest: TimestampMs(i64::MIN),
        }
    }

    /// When a record with this timestamp is due, were it the next; `None`: at once.
    pub fn due(&self, timestamp: TimestampMs) -> Option<Instant> {
        let (first, began) = self.began?;
        let recorded_ms = self
            .latest
            .max(timestamp)
            .get()
            .saturating_sub(first.get())
            .max(0);
        let seconds = recorded_ms as f64 / 1000.0 / self.speed;
        let wait = Duration::try_from_secs_f64(seconds).map_or(LONGEST, |wait| wait.min(LONGEST));
        Some(began + wait)
    }

    /// Notes that a record was taken; the first one begins the schedule.
    pub fn take(&mut self, timestamp: TimestampMs, now: Instant) {
        self.latest = self.latest.max(timestamp);
        self.began.get_or_insert((timestamp, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes records as a stream does; returns when each was taken, in milliseconds since the first.
    async fn taken_at(speed: f64, timestamps: &[i64], cost: Duration) -> Vec<u128> {
        let mut pace = Pace::new(speed);
        let start = Instant::now();
        let mut times = Vec::new();
        for timestamp in timestamps {
            let timestamp = TimestampMs(*timestamp);
            if let Some(due) = pace.due(timestamp) {
                tokio::time::sleep_until(due).await;
            }
            pace.take(timestamp, Instant::now());
            times.push(start.elapsed().as_millis());
            tokio::time::sleep(cost).await;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn records_come_at_the_pace_of_their_timestamps_times_the_factor() {
        let times = taken_at(60.0, &[1_000_000, 1_060_000, 1_180_000], Duration::ZERO).await;
        assert_eq!(times, [0, 1000, 3000]);
        let times = taken_at(0.5, &[0, 100], Duration::ZERO).await;
        assert_eq!(times, [0, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_each_record_costs_does_not_add_up() {
        let timestamps: Vec<i64> = (0..1000).map(|n| n * 100).collect();
        let times = taken_at(10.0, &timestamps, Duration::from_millis(7)).await;
        for (n, time) in times.iter().enumerate() {
            assert_eq!(*time, n as u128 * 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_from_before_is_due_at_once_and_moves_nothing() {
        let times = taken_at(1.0, &[1000, 3000, 500, 2999, 3001], Duration::ZERO).await;
        assert_eq!(times, [0, 2000, 2000, 2000, 2001]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_never_comes_is_no_panic() {
        let mut pace = Pace::new(f64::MIN_POSITIVE);
        assert_eq!(pace.due(TimestampMs(i64::MAX)), None);
        pace.take(TimestampMs(i64::MIN), Instant::now());
        assert_eq!(pace.due(TimestampMs(i64::MAX)), Some(Instant::now() + LONGEST));
        let mut pace = Pace::new(f64::MAX);
        pace.take(TimestampMs(0), Instant::now());
        assert_eq!(pace.due(TimestampMs(i64::MAX)), Some(Instant::now()));
    }
}
