//! The known damage of a partition: found by readers, by the log's own threads, or while the log was opened.
//!
//! A segment notes the damaged stretches of its own file (see `segment::known`); the partition notes the damage that
//! lies in no file (a segment is missing or ends early). A note stays until a read finds the bytes whole, or the log
//! start has passed them. Nothing of this is stored: after a restart the next read finds the damage again, and recovery
//! reads at once what it suspects.

use crate::io::sync::Mutex;
use crate::io::sync::atomic::{AtomicBool, Ordering};
use crate::types::{Offset, PartitionId};

/// The largest number of ranges kept for a segment, and for a partition's notes. Reads find the damage beyond it.
pub(crate) const MAX_RANGES: usize = 1000;

/// A range of offsets that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// The partition.
    pub partition: PartitionId,
    /// Its name as operators know it: `orders/3`.
    pub name: String,
    /// The first offset that cannot be read.
    pub from: Offset,
    /// One past the last offset that cannot be read.
    pub until: Offset,
    /// Stored bytes that are damaged; 0 where they are missing.
    pub bytes: u64,
    /// The file and the position, for the operator; not for clients.
    pub place: String,
    /// What was found against what was expected.
    pub what: String,
}

/// A damaged range of a partition, before the partition's name is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) from: Offset,
    /// `None`: up to where the segment ends.
    pub(crate) until: Option<Offset>,
    pub(crate) bytes: u64,
    pub(crate) place: String,
    pub(crate) what: String,
}

/// Damage that lies in no existing file.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    ranges: Mutex<Vec<Known>>,
    /// Whether there are any: reads check this flag instead of taking the lock.
    any: AtomicBool,
}

impl Notes {
    /// Adds a range, unless all of it is known; says whether it was new.
    pub(crate) fn add(&self, known: Known) -> bool {
        let mut ranges = self.ranges.lock();
        let is_known = ranges
            .iter()
            .any(|range| range.from <= known.from && range.until >= known.until);
        if is_known || ranges.len() >= MAX_RANGES {
            return false;
        }
        ranges.retain(|range| !(known.from <= range.from && known.until >= range.until));
        ranges.push(known);
        self.any.store(true, Ordering::Release);
        true
    }

    /// Removes the ranges that overlap `from..until`: those offsets were read and are whole.
    pub(crate) fn heal(&self, from: Offset, until: Offset) {
        if !self.any.load(Ordering::Acquire) || until <= from {
            return;
        }
        let mut ranges = self.ranges.lock();
        ranges.retain(|range| range.from >= until || range.until.is_some_and(|end| end <= from));
        self.any.store(!ranges.is_empty(), Ordering::Release);
    }

    pub(crate) fn list(&self) -> Vec<Known> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.ranges.lock().clone()
    }
}

/// Sorts ranges, limits them to `start..end`, and joins those that overlap.
pub(crate) fn merge(mut all: Vec<Known>, start: Offset, end: Offset) -> Vec<(Offset, Offset, Known)> {
    all.sort_by_key(|known| known.from);
    let mut merged: Vec<(Offset, Offset, Known)> = Vec::new();
    for known in all {
        let (from, until) = (
            known.from.max(start),
            known.until.map_or(end, |until| until.min(end)),
        );
        if from >= until {
            continue;
        }
        match merged.last_mut() {
            Some((_, last, first)) if from < *last => {
                *last = until.max(*last);
                first.bytes += known.bytes;
            }
            _ => merged.push((from, until, known)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(from: u64, until: u64) -> Known {
        Known {
            from: Offset::new(from),
            until: Some(Offset::new(until)),
            bytes: 1,
            place: String::new(),
            what: String::new(),
        }
    }

    fn ranges(notes: &Notes) -> Vec<(u64, u64)> {
        merge(notes.list(), Offset::new(5), Offset::new(100))
            .into_iter()
            .map(|(from, until, _)| (from.get(), until.get()))
            .collect()
    }

    #[test]
    fn what_is_known_is_noted_once_and_stays_until_it_is_read_whole() {
        let notes = Notes::default();
        assert!(notes.add(known(10, 20)));
        assert!(!notes.add(known(10, 20)));
        assert!(!notes.add(known(12, 15)));
        assert!(notes.add(known(30, 40)));
        notes.heal(Offset::new(20), Offset::new(30));
        assert_eq!(ranges(&notes), [(10, 20), (30, 40)]);
        notes.heal(Offset::new(10), Offset::new(20));
        assert_eq!(ranges(&notes), [(30, 40)]);
    }

    #[test]
    fn ranges_are_in_order_within_the_log_and_do_not_overlap() {
        let notes = Notes::default();
        for (from, until) in [(60, 70), (0, 5), (2, 8), (65, 75), (75, 80), (99, 200)] {
            notes.add(known(from, until));
        }
        assert_eq!(ranges(&notes), [(5, 8), (60, 75), (75, 80), (99, 100)]);
    }
}
