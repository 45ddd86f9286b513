//! The metrics of groups: by group, by group and topic, by group, topic and partition.
//!
//! Every group has its totals. The other two kinds of rows are bounded ([`Bounded`]): above the bound there are only rows
//! with lag, the worst ones. Sums include the rows that are left out: the total of a group is right however many
//! partitions it reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::MAX_TOPIC_ROWS;
use super::bounded::{Bounded, Ranked};
use super::text::{Pair, Text, families};
use crate::broker::lag::Lag;
use crate::broker::lag::report::{GroupLag, Lags, Total};

/// The rows of the groups' metrics.
#[derive(Debug, Default)]
pub(super) struct LagRows {
    groups: Vec<Row<Members>>,
    topics: Vec<Row<Arc<str>>>,
    partitions: Vec<Row<Place>>,
    left_out: u64,
}

/// Of a group: its members, and of a queue its waiting dead letters.
type Members = (usize, Option<u64>);

/// The topic, the partition and the committed offset.
type Place = (Arc<str>, u32, Option<u64>);

#[derive(Debug)]
struct Row<T> {
    group: Arc<str>,
    of: T,
    total: Total,
}

impl<T: Ord> Ranked for Row<T> {
    fn total(&self) -> &Total {
        &self.total
    }
}

impl<T: Ord> Ord for Row<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.group, &self.of).cmp(&(&other.group, &other.of))
    }
}

impl<T: Ord> PartialOrd for Row<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Row<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for Row<T> {}

impl Row<Members> {
    fn labels(&self) -> [Pair<'_>; 1] {
        [("group", (&*self.group).into())]
    }
}

impl Row<Arc<str>> {
    fn labels(&self) -> [Pair<'_>; 2] {
        [("group", (&*self.group).into()), ("topic", (&*self.of).into())]
    }
}

impl Row<Place> {
    fn labels(&self) -> [Pair<'_>; 3] {
        let (topic, partition, _) = &self.of;
        [
            ("group", (&*self.group).into()),
            ("topic", (&**topic).into()),
            ("partition", (*partition).into()),
        ]
    }
}

impl LagRows {
    /// The current lag of every group, with at most `max` rows by partition. May block on the disk.
    pub(super) fn of(lags: &Lags, max: usize) -> Self {
        Self::from(lags.all(), max)
    }

    fn from(groups: impl Iterator<Item = (String, GroupLag)>, max: usize) -> Self {
        let (mut topics, mut partitions) = (Bounded::new(MAX_TOPIC_ROWS), Bounded::new(max));
        let mut totals = Vec::new();
        for (name, lag) in groups {
            let group: Arc<str> = name.into();
            for topic in lag.topics {
                for row in topic.partitions {
                    let committed_offset = row.committed_offset.map(|offset| offset.get());
                    partitions.push(Row {
                        group: group.clone(),
                        of: (topic.topic.clone(), row.partition, committed_offset),
                        total: row.total,
                    });
                }
                topics.push(Row {
                    group: group.clone(),
                    of: topic.topic,
                    total: topic.total,
                });
            }
            totals.push(Row {
                group,
                of: (lag.members, lag.dead_letters),
                total: lag.total,
            });
        }
        let ((topics, more_topics), (partitions, more_partitions)) = (topics.finish(), partitions.finish());
        Self {
            groups: totals,
            topics,
            partitions,
            left_out: more_topics + more_partitions,
        }
    }

    /// Rows beyond the bounds.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The topics and partitions of the rows by partition.
    pub(super) fn places(&self) -> BTreeSet<(&str, u32)> {
        let rows = self.partitions.iter();
        rows.map(|row| (&*row.of.0, row.of.1)).collect()
    }

    pub(super) fn encode(&self, out: &mut Text) {
        self.totals(out);
        self.by_topic(out);
        self.by_partition(out);
    }

    fn totals(&self, out: &mut Text) {
        let rows = |figure: fn(&Total) -> u64| {
            let rows = self.groups.iter();
            rows.map(move |row| (row.labels(), figure(&row.total)))
        };
        let seconds = |figure: fn(&Lag) -> Option<u64>| {
            let rows = self.groups.iter();
            rows.filter_map(move |row| {
                let milliseconds = figure(&row.total.lag)?;
                Some((row.labels(), milliseconds as f64 / 1e3))
            })
        };
        let members = self.groups.iter().map(|row| (row.labels(), row.of.0));
        let dead_letters = self.groups.iter();
        let dead_letters = dead_letters.filter_map(|row| Some((row.labels(), row.of.1?)));
        families! { out:
            gauges "quipu_group_total_lag_records", rows(|total| total.lag.lag), "Records that a group has yet to read, over all topics";
            gauges "quipu_group_total_lag_bytes", rows(|total| total.lag.lag_bytes), "Stored bytes that a group has yet to read, over all topics";
            gauges "quipu_group_max_lag_seconds", seconds(|lag| Some(lag.lag_ms)),
                "Age of the oldest next record of a group, over all topics, 0 with nothing to read";
            gauges "quipu_group_expires_seconds", seconds(|lag| lag.expires_ms),
                "Time until retention deletes unread records of a group; no row where it will not";
            gauges "quipu_group_members", members, "Members of a group";
            gauges "quipu_group_status", rows(|total| total.status.number()),
                "Status of a group over the last minute: 0 ok, 1 behind (the lag grew throughout), 2 stalled (lag and no commit), 3 losing (unread data was deleted)";
            gauges "quipu_queue_dead_letters", dead_letters, "Dead letters of a work queue that wait to be redriven or discarded";
        }
    }

    fn by_topic(&self, out: &mut Text) {
        let rows = |figure: fn(&Lag) -> u64| {
            let rows = self.topics.iter();
            rows.map(move |row| (row.labels(), figure(&row.total.lag)))
        };
        let of_queues = |figure: fn(&Lag) -> Option<u64>| {
            let rows = self.topics.iter();
            rows.filter_map(move |row| Some((row.labels(), figure(&row.total.lag)?)))
        };
        let oldest = self.topics.iter();
        let oldest = oldest.map(|row| (row.labels(), row.total.lag.lag_ms as f64 / 1e3));
        families! { out:
            gauges "quipu_group_topic_lag_records", rows(|lag| lag.lag), "Records that a group has yet to read in a topic";
            gauges "quipu_group_topic_max_lag_seconds", oldest,
                "Age of the oldest next record of a group in a topic, 0 with nothing to read";
            gauges "quipu_group_topic_lag_bytes", rows(|lag| lag.lag_bytes), "Stored bytes that a group has yet to read in a topic";
            gauges "quipu_queue_unsettled_records", of_queues(|lag| lag.leased.map(|_| lag.lag)),
                "Records of a topic that a work queue has not settled";
            gauges "quipu_queue_leased_records", of_queues(|lag| lag.leased), "Records of a topic that are leased to members of a work queue";
            gauges "quipu_queue_delayed_records", of_queues(|lag| lag.delayed), "Records of a topic that a work queue leases only later";
            gauges "quipu_queue_waiting_records", of_queues(Lag::waiting), "Records of a topic that a work queue has neither settled, leased nor delayed";
        }
    }

    fn by_partition(&self, out: &mut Text) {
        let rows = |figure: fn(&Lag) -> u64| {
            let rows = self.partitions.iter();
            rows.map(move |row| (row.labels(), figure(&row.total.lag)))
        };
        let age = self.partitions.iter();
        let age = age.map(|row| (row.labels(), row.total.lag.lag_ms as f64 / 1e3));
        let committed = self.partitions.iter();
        let committed = committed.filter_map(|row| Some((row.labels(), row.of.2?)));
        families! { out:
            gauges "quipu_group_lag_records", rows(|lag| lag.lag), "Records that a group has yet to read in a partition";
            gauges "quipu_group_lag_seconds", age,
                "Age of the next record of a group in a partition, 0 with nothing to read";
            gauges "quipu_group_lag_bytes", rows(|lag| lag.lag_bytes), "Stored bytes that a group has yet to read in a partition";
            gauges "quipu_group_committed_offset", committed, "The committed offset of a group in a partition";
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::{Offset, Positions};

    use super::*;
    use crate::broker::lag::report::{PartitionLag, TopicLag};

    /// A topic whose partitions have a lag of their own index.
    fn topic() -> TopicLag {
        let row = |partition: u32| {
            let mut total = Total::default();
            total.lag.lag = partition.into();
            PartitionLag {
                partition,
                committed_offset: None,
                last_commit: None,
                positions: Positions {
                    log_start_offset: Offset::ZERO,
                    end_offset: Offset::new(7),
                    written_offset: Offset::new(7),
                },
                member: None,
                total,
            }
        };
        let partitions: Vec<_> = (0..5).map(row).collect();
        let total = partitions
            .iter()
            .fold(Total::default(), |sum, row| sum.and(row.total));
        TopicLag {
            topic: "t".into(),
            total,
            partitions,
        }
    }

    #[test]
    fn totals_are_never_cut_and_above_the_bound_partitions_are_those_with_the_most_lag() {
        let names = ["a", "b", "c", "d"];
        let groups = names.map(|name| {
            let topics = vec![topic()];
            let total = topics[0].total;
            let lag = GroupLag {
                total,
                topics,
                ..GroupLag::default()
            };
            (name.to_owned(), lag)
        });
        let all = LagRows::from(groups.clone().into_iter(), 20);
        assert_eq!((all.partitions.len(), all.left_out()), (20, 0));
        let lags = LagRows::from(groups.into_iter(), 6);
        let found: Vec<_> = lags
            .partitions
            .iter()
            .map(|row| (&*row.group, row.of.1))
            .collect();
        assert_eq!(
            found,
            [("a", 3), ("a", 4), ("b", 3), ("b", 4), ("c", 4), ("d", 4)]
        );
        assert_eq!(lags.left_out(), 14);
        assert_eq!((lags.groups.len(), lags.topics.len()), (4, 4));
        assert!(lags.groups.iter().all(|row| row.total.lag.lag == 10));
        assert!(lags.topics.iter().all(|row| row.total.lag.lag == 10));
    }
}
