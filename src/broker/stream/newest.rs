//! The newest records of several partitions: where a stream that asks for the last N begins in each of them.
//!
//! The chosen records of a partition are always its last ones, without a hole, so that one offset for each partition
//! says it all and a cursor can name it. To that end, a record counts as new as the newest candidate before it in its
//! partition (a running maximum, as when an offset is looked up by time): a record that came late hides none before it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merge::Rank;
use crate::broker::engine::{Offset, TimestampMs};

/// A record that may be among the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    timestamp: TimestampMs,
    rank: Rank,
    offset: Offset,
    lane: usize,
}

/// The newest records so far: by timestamp, then by topic and partition, then by offset. Memory: `count` candidates.
#[derive(Clone, Debug)]
pub struct Newest {
    count: usize,
    oldest_first: BinaryHeap<Reverse<Candidate>>,
}

impl Newest {
    /// Will hold at most `count` records.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            oldest_first: BinaryHeap::new(),
        }
    }

    /// Takes in the last records of a partition, in the order of their offsets: `count` of them, or all that it has.
    pub fn add(&mut self, lane: usize, rank: Rank, mut records: Vec<(TimestampMs, Offset)>) {
        let mut latest = TimestampMs(i64::MIN);
        for (timestamp, _) in &mut records {
            latest = latest.max(*timestamp);
            *timestamp = latest;
        }
        for (timestamp, offset) in records.into_iter().rev() {
            let candidate = Reverse(Candidate {
                timestamp,
                rank,
                offset,
                lane,
            });
            if self.oldest_first.len() < self.count {
                self.oldest_first.push(candidate);
            } else if let Some(mut oldest) = self.oldest_first.peek_mut()
                && candidate < *oldest
            {
                *oldest = candidate;
            } else {
                // Those before it are older still.
                return;
            }
        }
    }

    /// The first of the newest records of each partition that has any.
    pub fn firsts(self) -> impl Iterator<Item = (usize, Offset)> {
        let mut newest = self.oldest_first.into_vec();
        newest.sort_unstable_by_key(|Reverse(candidate)| (candidate.lane, candidate.offset));
        newest.dedup_by_key(|Reverse(candidate)| candidate.lane);
        newest
            .into_iter()
            .map(|Reverse(candidate)| (candidate.lane, candidate.offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where each list begins if the newest `count` of all are taken; its length where it has none of them.
    fn begins(lists: &[Vec<i64>], count: usize) -> Vec<usize> {
        let mut newest = Newest::new(count);
        for (lane, list) in lists.iter().enumerate() {
            let from = list.len().saturating_sub(count);
            let of = |at: usize| (TimestampMs(list[at]), Offset::new(at as u64));
            newest.add(lane, (0, lane as u32), (from..list.len()).map(of).collect());
        }
        let mut begins: Vec<usize> = lists.iter().map(Vec::len).collect();
        for (lane, first) in newest.firsts() {
            begins[lane] = first.get() as usize;
        }
        begins
    }

    #[test]
    fn the_newest_are_chosen_by_timestamp_then_partition_then_offset() {
        assert_eq!(begins(&[vec![1, 4], vec![2, 3, 5]], 3), [1, 1]);
        // The later partition first.
        assert_eq!(begins(&[vec![7, 7], vec![7]], 2), [1, 0]);
        // Fewer than were asked for.
        assert_eq!(begins(&[vec![1, 2], vec![]], 9), [0, 0]);
    }

    #[test]
    fn a_record_that_came_late_hides_none_of_those_before_it() {
        assert_eq!(begins(&[vec![90, 100, 1], vec![50, 60]], 3), [0, 2]);
        assert_eq!(begins(&[vec![90, 100, 1], vec![50, 95]], 3), [1, 1]);
    }

    proptest! {
        #[test]
        fn exactly_as_many_as_were_asked_for_are_chosen_and_none_left_out_is_newer(
            lists in prop::collection::vec(prop::collection::vec(0..30_i64, 0..20), 1..6),
            count in 1..40_usize,
        ) {
            let begins = begins(&lists, count);
            let chosen: usize = lists.iter().zip(&begins).map(|(list, begin)| list.len() - begin).sum();
            prop_assert_eq!(chosen, count.min(lists.iter().map(Vec::len).sum()));
            let sorted: Vec<Vec<i64>> = lists.iter().map(|list| { let mut list = list.clone(); list.sort_unstable(); list }).collect();
            let begins = self::begins(&sorted, count);
            let of = |is_chosen: bool| sorted.iter().zip(&begins).flat_map(move |(list, begin)| {
                list.iter().enumerate().filter(move |(at, _)| (at >= begin) == is_chosen).map(|(_, timestamp)| *timestamp)
            });
            prop_assert!(of(false).max() <= of(true).min() || of(true).next().is_none());
        }
    }
}
