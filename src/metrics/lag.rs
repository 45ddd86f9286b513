//! The metrics of groups: by group, by group and topic, by group, topic and partition.
//!
//! Each of the three has its own bound ([`MAX_SERIES`]). Sums include unlisted series: the total of a group is right
//! however many partitions it reads.

use std::fmt;
use std::sync::Arc;

use super::{MAX_SERIES, Writer, families};
use crate::broker::lag::Lag;
use crate::broker::lag::report::{GroupLag, Lags, Total};

/// The rows of the groups' metrics.
#[derive(Debug, Default)]
pub struct LagRows {
    groups: Vec<GroupRow>,
    topics: Vec<Row<Arc<str>>>,
    partitions: Vec<PartitionRow>,
    left_out: u64,
}

/// A row with the number of members, and of a queue its waiting dead letters.
type GroupRow = Row<(usize, Option<u64>)>;

/// A row with the topic, the partition and the committed offset.
type PartitionRow = Row<(Arc<str>, u32, Option<u64>)>;

#[derive(Debug)]
struct Row<T> {
    group: Arc<str>,
    of: T,
    total: Total,
}

impl LagRows {
    /// The current lag of every group. May block on the disk.
    pub fn of(lags: &Lags) -> Self {
        let mut rows = Self::default();
        for (name, lag) in lags.all() {
            rows.push(name.into(), lag, MAX_SERIES);
        }
        rows
    }

    /// Series beyond the bound: rows of one of the three kinds.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn push(&mut self, group: Arc<str>, lag: GroupLag, max: usize) {
        for topic in lag.topics {
            for row in topic.partitions {
                let committed_offset = row.committed_offset.map(|offset| offset.get());
                let of = (topic.topic.clone(), row.partition, committed_offset);
                self.left_out += push(&mut self.partitions, &group, of, row.total, max);
            }
            self.left_out += push(&mut self.topics, &group, topic.topic, topic.total, max);
        }
        let of = (lag.members, lag.dead_letters);
        self.left_out += push(&mut self.groups, &group, of, lag.total, max);
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) -> fmt::Result {
        let by_partition = |figure: Figure| {
            let rows = self.partitions.iter();
            rows.map(move |row| (partition_labels(row), figure(&row.total)))
        };
        let topic_labels =
            |row: &Row<Arc<str>>| [("group", row.group.to_string()), ("topic", row.of.to_string())];
        let by_topic = |figure: Figure| {
            let rows = self.topics.iter();
            rows.map(move |row| (topic_labels(row), figure(&row.total)))
        };
        let of_queues = |figure: fn(&Lag) -> Option<u64>| {
            let rows = self.topics.iter();
            rows.filter_map(move |row| Some((topic_labels(row), figure(&row.total.lag)?)))
        };
        let group_labels = |group: &Arc<str>| [("group", group.to_string())];
        let by_group = |figure: fn(&GroupRow) -> f64| {
            let rows = self.groups.iter();
            rows.map(move |row| (group_labels(&row.group), figure(row)))
        };
        let dead_letters = self.groups.iter();
        let dead_letters = dead_letters.filter_map(|row| Some((group_labels(&row.group), row.of.1?)));
        let committed = |row: &PartitionRow| Some((partition_labels(row), row.of.2? as f64));
        families! { out:
            gauges "quipu_group_lag_records", by_partition(records), "Records that a group has yet to read in a partition";
            gauges "quipu_group_lag" Seconds, by_partition(seconds),
                "Age of the next record of a group in a partition, 0 with nothing to read";
            gauges "quipu_group_lag" Bytes, by_partition(bytes), "Stored bytes that a group has yet to read in a partition";
            gauges "quipu_group_committed_offset", self.partitions.iter().filter_map(committed),
                "The committed offset of a group in a partition";
            gauges "quipu_group_topic_lag_records", by_topic(records), "Records that a group has yet to read in a topic";
            gauges "quipu_group_topic_max_lag" Seconds, by_topic(seconds),
                "Age of the oldest next record of a group in a topic, 0 with nothing to read";
            gauges "quipu_group_topic_lag" Bytes, by_topic(bytes), "Stored bytes that a group has yet to read in a topic";
            gauges "quipu_group_members", by_group(|row| row.of.0 as f64), "Members of a group";
            gauges "quipu_group_status", by_group(|row| row.total.status.number() as f64),
                "Status of a group over the last minute: 0 ok, 1 behind (the lag grew throughout), 2 stalled (lag and no \
                 commit), 3 losing (unread data was deleted)";
            gauges "quipu_queue_unsettled_records", of_queues(|lag| lag.leased.map(|_| lag.lag)),
                "Records of a topic that a work queue has not settled";
            gauges "quipu_queue_leased_records", of_queues(|lag| lag.leased), "Records of a topic that are leased to members of a work queue";
            gauges "quipu_queue_delayed_records", of_queues(|lag| lag.delayed), "Records of a topic that a work queue leases only later";
            gauges "quipu_queue_waiting_records", of_queues(Lag::waiting), "Records of a topic that a work queue has neither settled, leased nor delayed";
            gauges "quipu_queue_dead_letters", dead_letters, "Dead letters of a work queue that wait to be redriven or discarded";
        }
        Ok(())
    }
}

type Figure = fn(&Total) -> f64;

fn records(total: &Total) -> f64 {
    total.lag.lag as f64
}

fn seconds(total: &Total) -> f64 {
    total.lag.lag_ms as f64 / 1e3
}

fn bytes(total: &Total) -> f64 {
    total.lag.lag_bytes as f64
}

fn partition_labels(row: &PartitionRow) -> [(&'static str, String); 3] {
    let (topic, partition, _) = &row.of;
    [
        ("group", row.group.to_string()),
        ("topic", topic.to_string()),
        ("partition", partition.to_string()),
    ]
}

/// Adds a row up to the bound; returns how many were left out.
fn push<T>(rows: &mut Vec<Row<T>>, group: &Arc<str>, of: T, total: Total, max: usize) -> u64 {
    if rows.len() >= max {
        return 1;
    }
    let group = group.clone();
    rows.push(Row { group, of, total });
    0
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::{Offset, Positions};

    use super::*;
    use crate::broker::lag::report::{PartitionLag, TopicLag};

    #[test]
    fn series_beyond_the_bound_are_counted_and_still_summed() {
        let row = |partition| PartitionLag {
            partition,
            committed_offset: None,
            last_commit: None,
            positions: Positions {
                log_start_offset: Offset::ZERO,
                end_offset: Offset::new(7),
                written_offset: Offset::new(7),
            },
            member: None,
            total: Total::default(),
        };
        let mut total = Total::default();
        total.lag.lag = 35;
        let topic = || TopicLag {
            topic: "t".into(),
            total,
            partitions: (0..5).map(row).collect(),
        };
        let mut lags = LagRows::default();
        for name in ["a", "b", "c", "d"] {
            let topics = vec![topic()];
            let lag = GroupLag {
                total,
                topics,
                ..GroupLag::default()
            };
            lags.push(name.into(), lag, 3);
        }
        let found = [lags.partitions.len(), lags.topics.len(), lags.groups.len()];
        assert_eq!(found, [3; 3]);
        assert_eq!(lags.left_out(), 17 + 1 + 1);
        assert!(lags.topics.iter().all(|row| row.total.lag.lag == 35));
    }
}
