//! How far a group is behind: now, from positions alone, and recently, from samples of them.
//!
//! `lag` counts offsets from the next record to the end. The next record is never below the log start, because deleted
//! records can no longer be read and are no lag. `lag_ms` is the age of the next record by its own timestamp. A sum
//! over partitions adds `lag` and `lag_bytes`, takes the oldest `lag_ms` and the nearest `expires_ms`.
//!
//! - This file: the current figures. Pure: no log, no clock.
//! - [`window`]: rates and a status, judged by the samples of the last minute. Pure.
//! - [`series`]: a day of points in little memory. Pure.
//! - [`history`]: the windows and series of every group and partition, and their memory bound.
//! - [`plot`]: a part of the history in steps, for an answer or a chart. Pure.
//! - [`overview`]: the current figures of many groups, chosen, sorted and in pages.
//! - [`memo`]: the history as it is kept over a restart.
//! - [`sampler`]: the thin loop that feeds the history, and keeps it.
//!
//! Windows are in memory only: a restart empties them. The current figures need neither them nor the history.

pub mod history;
pub mod memo;
pub mod overview;
pub mod plot;
pub mod report;
pub mod sampler;
pub mod series;
pub mod window;

use crate::broker::engine::{Located, Offset, Positions, TimestampMs};

/// A group's next record in a partition: its committed offset, or the log start if that is higher or nothing is
/// committed.
pub fn next_unread(committed: Option<Offset>, positions: Positions) -> Offset {
    committed.unwrap_or(Offset::ZERO).max(positions.log_start_offset)
}

/// How far a group is behind in one partition, or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Offsets between the next record and the end.
    pub lag: u64,
    /// The age of the next record in milliseconds; 0 with nothing to read.
    pub lag_ms: u64,
    /// Stored bytes between the next record and the end, from the start of its batch.
    pub lag_bytes: u64,
    /// Milliseconds until retention by time deletes unread records; `None` without such retention or with nothing to
    /// read.
    pub expires_ms: Option<u64>,
    /// Of a shared group: how many of the records are leased.
    pub leased: Option<u64>,
    /// Of a shared group: how many of the records wait for their time.
    pub delayed: Option<u64>,
}

impl Lag {
    /// The lag of one partition. `located` locates the next record; `None` leaves out the figures that need it.
    pub fn of_partition(
        committed: Option<Offset>,
        positions: Positions,
        located: Option<&Located>,
        retention_ms: Option<u64>,
        now: TimestampMs,
    ) -> Self {
        let lag = positions.end_offset.since(next_unread(committed, positions));
        let Some(located) = located.filter(|_| lag > 0) else {
            return Self {
                lag,
                ..Self::default()
            };
        };
        let lag_ms = located
            .next
            .map_or(0, |(_, timestamp)| millis_from(timestamp, now));
        let expires_ms = retention_ms
            .zip(located.retention_time)
            .map(|(retention_ms, newest)| {
                let age_ms = i128::from(now.get()) - i128::from(newest.get());
                let left_ms = i128::from(retention_ms) - age_ms;
                u64::try_from(left_ms.max(0)).unwrap_or(u64::MAX)
            });
        Self {
            lag,
            lag_ms,
            lag_bytes: located.bytes_to_end,
            expires_ms,
            ..Self::default()
        }
    }

    /// Of a shared group: how many of the records are neither leased nor delayed, those that nobody has looked at included.
    pub fn waiting(&self) -> Option<u64> {
        let held = self.leased?.saturating_add(self.delayed?);
        Some(self.lag.saturating_sub(held))
    }

    /// Adds another partition.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            lag: self.lag.saturating_add(other.lag),
            lag_ms: self.lag_ms.max(other.lag_ms),
            lag_bytes: self.lag_bytes.saturating_add(other.lag_bytes),
            expires_ms: self.expires_ms.into_iter().chain(other.expires_ms).min(),
            leased: plus(self.leased, other.leased),
            delayed: plus(self.delayed, other.delayed),
        }
    }
}

/// The sum of what is there.
fn plus(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).reduce(u64::saturating_add)
}

/// From `earlier` to `now`; 0 if `earlier` is later.
fn millis_from(earlier: TimestampMs, now: TimestampMs) -> u64 {
    u64::try_from(i128::from(now.get()) - i128::from(earlier.get())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(log_start: u64, end: u64) -> Positions {
        Positions {
            log_start_offset: Offset::new(log_start),
            end_offset: Offset::new(end),
            written_offset: Offset::new(end + 7),
        }
    }

    fn located(timestamp: i64, newest: i64) -> Located {
        Located {
            bytes_to_end: 500,
            next: Some((Offset::new(3), TimestampMs(timestamp))),
            retention_time: Some(TimestampMs(newest)),
            batch: None,
        }
    }

    fn lag(
        committed: u64,
        positions: Positions,
        located: Option<Located>,
        retention: Option<u64>,
        now: i64,
    ) -> Lag {
        Lag::of_partition(
            Some(Offset::new(committed)),
            positions,
            located.as_ref(),
            retention,
            TimestampMs(now),
        )
    }

    #[test]
    fn lag_counts_to_the_durable_end_and_not_to_what_is_only_written() {
        assert_eq!(lag(3, positions(0, 10), None, None, 0).lag, 7);
    }

    #[test]
    fn a_commit_below_the_log_start_goes_on_at_the_log_start() {
        assert_eq!(lag(3, positions(8, 10), None, None, 0).lag, 2);
    }

    #[test]
    fn without_a_commit_every_stored_record_is_lag() {
        let lag = Lag::of_partition(None, positions(8, 10), None, None, TimestampMs(0));
        assert_eq!(lag.lag, 2);
    }

    #[test]
    fn with_nothing_to_read_every_figure_is_zero() {
        let all = lag(10, positions(0, 10), Some(located(1, 1)), Some(5), 1000);
        assert_eq!(all, Lag::default());
        // A commit above the end.
        assert_eq!(lag(12, positions(0, 10), None, None, 0), Lag::default());
    }

    #[test]
    fn the_age_of_the_next_record_is_never_negative() {
        let found = lag(3, positions(0, 10), Some(located(400, 400)), None, 1000).lag_ms;
        assert_eq!(found, 600);
        let found = lag(3, positions(0, 10), Some(located(4000, 4000)), None, 1000).lag_ms;
        assert_eq!(found, 0);
        let found = lag(3, positions(0, 10), Some(located(i64::MIN, 0)), None, i64::MAX).lag_ms;
        assert_eq!(found, u64::MAX);
    }

    #[test]
    fn unread_data_expires_with_the_newest_record_of_its_segment() {
        let expires =
            |retention, now| lag(3, positions(0, 10), Some(located(400, 700)), retention, now).expires_ms;
        assert_eq!(expires(Some(1000), 1000), Some(700));
        assert_eq!(expires(Some(1000), 5000), Some(0), "already due");
        assert_eq!(expires(None, 5000), None, "kept for ever");
        assert_eq!(expires(Some(u64::MAX), 0), Some(u64::MAX));
    }

    #[test]
    fn a_sum_adds_records_and_bytes_and_keeps_the_oldest_age_and_the_nearest_expiry() {
        let a = Lag {
            lag: 1,
            lag_ms: 50,
            lag_bytes: 10,
            expires_ms: Some(9),
            leased: Some(1),
            delayed: None,
        };
        let b = Lag {
            lag: 2,
            lag_ms: 40,
            lag_bytes: 20,
            expires_ms: Some(3),
            leased: Some(2),
            delayed: None,
        };
        let none = Lag::default();
        assert_eq!(
            a.and(b),
            Lag {
                lag: 3,
                lag_ms: 50,
                lag_bytes: 30,
                expires_ms: Some(3),
                leased: Some(3),
                delayed: None,
            }
        );
        assert_eq!(a.and(none).expires_ms, Some(9));
        assert_eq!(none.and(none), none);
    }
}
