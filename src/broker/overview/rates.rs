//! Counts over the last seconds, as rates; and how soon the disk is full.
//!
//! A rate is judged with the counts of the moment, so it is never older than the request, and covers [`RATE_SPAN`] as
//! that of a group does.

use std::collections::VecDeque;
use std::time::Duration;

use crate::broker::engine::Monotonic;
use crate::broker::lag::window::RATE_SPAN;

/// The shortest span with a rate: over less, one request would look like a storm.
const MIN_RATE_SPAN: Duration = Duration::from_secs(1);
/// The span over which the free space is watched.
pub const SPACE_SPAN: Duration = Duration::from_mins(10);
/// The shortest span that tells how soon the disk is full.
const MIN_SPACE_SPAN: Duration = Duration::from_mins(5);

/// What was written and read since some beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that were appended.
    pub produced_records: u64,
    /// Their stored bytes.
    pub produced_bytes: u64,
    /// Stored bytes that were given to readers.
    pub fetched_bytes: u64,
}

impl Counts {
    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            produced_records: self.produced_records.saturating_add(other.produced_records),
            produced_bytes: self.produced_bytes.saturating_add(other.produced_bytes),
            fetched_bytes: self.fetched_bytes.saturating_add(other.fetched_bytes),
        }
    }
}

/// Counts a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Records appended.
    pub produce: f64,
    /// Stored bytes appended.
    pub produce_bytes: f64,
    /// Stored bytes given to readers.
    pub fetch_bytes: f64,
}

/// Values at times, for as long as a span needs them.
#[derive(Clone, Debug)]
struct Samples<T> {
    samples: VecDeque<(Monotonic, T)>,
}

impl<T> Default for Samples<T> {
    fn default() -> Self {
        Self {
            samples: VecDeque::new(),
        }
    }
}

impl<T: Copy> Samples<T> {
    /// Adds a value; drops those that are older than the first one before the span.
    fn push(&mut self, at: Monotonic, value: T, span: Duration) {
        if self.samples.back().is_some_and(|(last, _)| *last >= at) {
            return;
        }
        self.samples.push_back((at, value));
        while self
            .samples
            .get(1)
            .is_some_and(|(second, _)| at.since(*second) >= span)
        {
            self.samples.pop_front();
        }
    }

    /// The value about a span ago, or the first one, with the time since then.
    fn before(&self, now: Monotonic, span: Duration) -> Option<(Duration, T)> {
        let is_before = |(at, _): &(Monotonic, T)| now.since(*at) >= span;
        let first = self.samples.iter().rposition(is_before).unwrap_or(0);
        let (at, value) = self.samples.get(first)?;
        Some((now.since(*at), *value))
    }
}

/// The counts of a topic, or of the server, over the last seconds.
#[derive(Clone, Debug, Default)]
pub struct Recent(Samples<Counts>);

impl Recent {
    /// Adds the counts of a moment.
    pub fn push(&mut self, at: Monotonic, counts: Counts) {
        self.0.push(at, counts, RATE_SPAN);
    }

    /// The rates up to a moment and its counts; 0 until a second is known.
    pub fn rates(&self, now: Monotonic, counts: Counts) -> Rates {
        let Some((span, before)) = self
            .0
            .before(now, RATE_SPAN)
            .filter(|(span, _)| *span >= MIN_RATE_SPAN)
        else {
            return Rates::default();
        };
        let rate =
            |of: fn(&Counts) -> u64| of(&counts).saturating_sub(of(&before)) as f64 / span.as_secs_f64();
        Rates {
            produce: rate(|counts| counts.produced_records),
            produce_bytes: rate(|counts| counts.produced_bytes),
            fetch_bytes: rate(|counts| counts.fetched_bytes),
        }
    }
}

/// The free space over the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Space(Samples<u64>);

impl Space {
    /// Adds the free space of a moment, in bytes.
    pub fn push(&mut self, at: Monotonic, free_bytes: u64) {
        self.0.push(at, free_bytes, SPACE_SPAN);
    }

    /// Milliseconds until nothing is free at the pace of the last minutes; `None` if that never comes, or is not known
    /// yet.
    pub fn full_in_ms(&self, now: Monotonic, free_bytes: u64) -> Option<u64> {
        let (span, before) = self.0.before(now, SPACE_SPAN)?;
        let used = before.checked_sub(free_bytes).filter(|used| *used > 0)?;
        // A cast of a float saturates: centuries are as good as for ever.
        (span >= MIN_SPACE_SPAN).then(|| (free_bytes as f64 / used as f64 * span.as_millis() as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn counts(records: u64) -> Counts {
        Counts {
            produced_records: records,
            produced_bytes: records * 10,
            fetched_bytes: records * 30,
        }
    }

    #[test]
    fn rates_cover_the_last_ten_seconds_and_the_moment_itself() {
        let mut recent = Recent::default();
        assert_eq!(recent.rates(at(5), counts(9)), Rates::default());
        for second in 0..100 {
            // Ten a second until 50, then a hundred.
            recent.push(at(second), counts(second * 10 + second.saturating_sub(50) * 90));
        }
        let rates = recent.rates(at(100), counts(1000 + 50 * 90));
        assert_eq!(
            (rates.produce, rates.produce_bytes, rates.fetch_bytes),
            (100.0, 1000.0, 3000.0)
        );
        let idle = recent.rates(at(109), counts(990 + 49 * 90));
        assert!(idle.produce < 1.0, "{idle:?}");
        assert!(recent.0.samples.len() < 13);
    }

    #[test]
    fn less_than_a_second_has_no_rate_and_counts_that_began_again_none_below_zero() {
        let mut recent = Recent::default();
        recent.push(at(1), counts(5));
        let half = Monotonic(Duration::from_millis(1500));
        assert_eq!(recent.rates(half, counts(500)), Rates::default());
        assert_eq!(recent.rates(at(3), counts(0)), Rates::default());
        assert!((recent.rates(at(3), counts(7)).produce - 1.0).abs() < 1e-9);
        // The clock stands still.
        recent.push(at(1), counts(100));
        assert!((recent.rates(at(3), counts(7)).produce - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_disk_is_full_when_its_free_space_is_used_at_the_pace_of_the_last_minutes() {
        let mut space = Space::default();
        assert_eq!(space.full_in_ms(at(0), 1000), None);
        space.push(at(0), 1000);
        assert_eq!(space.full_in_ms(at(100), 900), None, "too early to tell");
        assert_eq!(space.full_in_ms(at(300), 900), Some(2_700_000));
        assert_eq!(space.full_in_ms(at(300), 1000), None, "it does not fill");
        assert_eq!(space.full_in_ms(at(300), 1100), None, "it empties");
        assert_eq!(space.full_in_ms(at(300), 0), Some(0));
        for minute in 1..100 {
            space.push(at(minute * 60), 1000);
        }
        assert_eq!(
            space.full_in_ms(at(99 * 60 + 60), 500),
            Some(600_000),
            "only the last ten minutes count"
        );
    }
}
