//! Partitions' next records in the order of their timestamps.
//!
//! Only the next record of each partition is compared, so records of one partition keep the order of their offsets,
//! even if their timestamps do not. Records with equal timestamps come in the order of topics and partitions. Cost a
//! record: the logarithm of the number of partitions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::broker::engine::TimestampMs;

/// The topic's place in the stream, and the partition: the order of records with equal timestamps.
pub type Rank = (usize, u32);

/// A partition's next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Head {
    /// The record's timestamp.
    pub timestamp: TimestampMs,
    /// The order among equal timestamps.
    pub rank: Rank,
    /// The caller's number for the partition.
    pub lane: usize,
}

/// The next record of each partition that has one.
#[derive(Clone, Debug, Default)]
pub struct Merge(BinaryHeap<Reverse<Head>>);

impl Merge {
    /// Adds a partition's next record; the partition must have none here.
    pub fn push(&mut self, head: Head) {
        debug_assert!(
            self.0.iter().all(|Reverse(other)| other.lane != head.lane),
            "{head:?} has a head already"
        );
        self.0.push(Reverse(head));
    }

    /// The record that comes next.
    pub fn peek(&self) -> Option<Head> {
        self.0.peek().map(|Reverse(head)| *head)
    }

    /// Takes the record that comes next.
    pub fn pop(&mut self) -> Option<Head> {
        self.0.pop().map(|Reverse(head)| head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges lists of timestamps; returns timestamp, list and place in it.
    fn merged(lists: &[Vec<i64>]) -> Vec<(i64, usize, usize)> {
        let mut merge = Merge::default();
        let mut at = vec![0; lists.len()];
        let head = |lane: usize, at: usize| {
            lists[lane].get(at).map(|timestamp| Head {
                timestamp: TimestampMs(*timestamp),
                rank: (0, lane as u32),
                lane,
            })
        };
        for lane in 0..lists.len() {
            if let Some(head) = head(lane, 0) {
                merge.push(head);
            }
        }
        let mut all = Vec::new();
        while let Some(next) = merge.pop() {
            all.push((next.timestamp.get(), next.lane, at[next.lane]));
            at[next.lane] += 1;
            if let Some(head) = head(next.lane, at[next.lane]) {
                merge.push(head);
            }
        }
        all
    }

    #[test]
    fn equal_times_come_in_the_order_of_partitions() {
        let rows = merged(&[vec![5, 5], vec![5], vec![4, 5]]).into_iter();
        let order: Vec<usize> = rows.map(|(_, lane, _)| lane).collect();
        assert_eq!(order, [2, 0, 0, 1, 2]);
    }

    #[test]
    fn topics_come_before_partitions_whatever_they_are_called() {
        let mut merge = Merge::default();
        for (rank, lane) in [((1, 0), 0), ((0, 9), 1), ((0, 2), 2)] {
            merge.push(Head {
                timestamp: TimestampMs(1),
                rank,
                lane,
            });
        }
        let order: Vec<usize> = std::iter::from_fn(|| merge.pop()).map(|head| head.lane).collect();
        assert_eq!(order, [2, 1, 0]);
    }

    proptest! {
        #[test]
        fn sorted_lists_come_out_sorted_and_every_list_keeps_its_order(
            lists in prop::collection::vec(prop::collection::vec(0..50_i64, 0..20), 0..6),
            sorted: bool,
        ) {
            let mut lists = lists;
            if sorted {
                lists.iter_mut().for_each(|list| list.sort_unstable());
            }
            let all = merged(&lists);
            prop_assert_eq!(all.len(), lists.iter().map(Vec::len).sum::<usize>());
            if sorted {
                prop_assert!(all.is_sorted());
            }
            for (lane, list) in lists.iter().enumerate() {
                let places: Vec<usize> = all.iter().filter(|(_, of, _)| *of == lane).map(|(.., at)| *at).collect();
                prop_assert_eq!(places, (0..list.len()).collect::<Vec<_>>());
            }
        }
    }
}
