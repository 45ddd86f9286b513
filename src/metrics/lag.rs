//! The metrics of groups: by group, by group and topic, by group, topic and partition.
//!
//! Each of the three has its own bound ([`MAX_SERIES`]). Sums include unlisted series: the total of a group is right
//! however many partitions it reads.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::{MAX_SERIES, Writer};
use crate::broker::Broker;
use crate::broker::lag::report::{self, GroupLag, Total};

/// The rows of the groups' metrics.
#[derive(Debug, Default)]
pub struct Lags {
    groups: Vec<GroupRow>,
    topics: Vec<TopicRow>,
    partitions: Vec<PartitionRow>,
    left_out: u64,
}

#[derive(Debug)]
struct GroupRow {
    group: Arc<str>,
    members: usize,
    total: Total,
}

#[derive(Debug)]
struct TopicRow {
    group: Arc<str>,
    topic: Arc<str>,
    total: Total,
}

#[derive(Debug)]
struct PartitionRow {
    group: Arc<str>,
    topic: Arc<str>,
    partition: u32,
    committed_offset: Option<u64>,
    total: Total,
}

impl Lags {
    /// The current lag of every group. May block on the disk.
    #[must_use]
    pub fn of(broker: &Broker) -> Self {
        let mut lags = Self::default();
        for name in broker.groups.names() {
            let lag = report::lag_of(broker, &name);
            lags.push(name.into(), lag, MAX_SERIES);
        }
        lags
    }

    /// Series beyond the bound: rows of one of the three kinds.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn push(&mut self, group: Arc<str>, lag: GroupLag, max: usize) {
        for topic in lag.topics {
            for row in topic.partitions {
                let row = PartitionRow {
                    group: group.clone(),
                    topic: topic.topic.clone(),
                    partition: row.partition,
                    committed_offset: row.committed_offset.map(|offset| offset.get()),
                    total: row.total,
                };
                self.left_out += push(&mut self.partitions, row, max);
            }
            let row = TopicRow {
                group: group.clone(),
                topic: topic.topic,
                total: topic.total,
            };
            self.left_out += push(&mut self.topics, row, max);
        }
        let row = GroupRow {
            group,
            members: lag.members,
            total: lag.total,
        };
        self.left_out += push(&mut self.groups, row, max);
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) -> fmt::Result {
        self.by_partition(out)?;
        self.by_topic(out)?;
        self.by_group(out)
    }

    fn by_partition(&self, out: &mut Writer<'_>) -> fmt::Result {
        let families: [(_, _, _, Figure<PartitionRow, Option<f64>>); 4] = [
            (
                "quipu_group_lag_records",
                "Records that a group has yet to read in a partition",
                None,
                |row| Some(row.total.lag.lag as f64),
            ),
            (
                "quipu_group_lag",
                "Age of the next record of a group in a partition, 0 with nothing to read",
                Some(Unit::Seconds),
                |row| Some(seconds(&row.total)),
            ),
            (
                "quipu_group_lag",
                "Stored bytes that a group has yet to read in a partition",
                Some(Unit::Bytes),
                |row| Some(row.total.lag.lag_bytes as f64),
            ),
            (
                "quipu_group_committed_offset",
                "The committed offset of a group in a partition",
                None,
                |row| row.committed_offset.map(|offset| offset as f64),
            ),
        ];
        for (name, help, unit, figure) in families {
            gauges(out, name, help, unit, &self.partitions, |row| {
                let partition = row.partition.to_string();
                let labels = [
                    ("group", row.group.to_string()),
                    ("topic", row.topic.to_string()),
                    ("partition", partition),
                ];
                Some((labels, figure(row)?))
            })?;
        }
        Ok(())
    }

    fn by_topic(&self, out: &mut Writer<'_>) -> fmt::Result {
        let families: [(_, _, _, Figure<Total, f64>); 3] = [
            (
                "quipu_group_topic_lag_records",
                "Records that a group has yet to read in a topic",
                None,
                |total| total.lag.lag as f64,
            ),
            (
                "quipu_group_topic_max_lag",
                "Age of the oldest next record of a group in a topic, 0 with nothing to read",
                Some(Unit::Seconds),
                seconds,
            ),
            (
                "quipu_group_topic_lag",
                "Stored bytes that a group has yet to read in a topic",
                Some(Unit::Bytes),
                |total| total.lag.lag_bytes as f64,
            ),
        ];
        for (name, help, unit, figure) in families {
            gauges(out, name, help, unit, &self.topics, |row| {
                let labels = [("group", row.group.to_string()), ("topic", row.topic.to_string())];
                Some((labels, figure(&row.total)))
            })?;
        }
        Ok(())
    }

    fn by_group(&self, out: &mut Writer<'_>) -> fmt::Result {
        let families: [(_, _, Figure<GroupRow, f64>); 2] = [
            ("quipu_group_members", "Members of a group", |row| {
                row.members as f64
            }),
            (
                "quipu_group_status",
                "Status of a group over the last minute: 0 ok, 1 behind (the lag grew throughout), 2 stalled (lag and no \
                 commit), 3 losing (unread data was deleted)",
                |row| row.total.status.number() as f64,
            ),
        ];
        for (name, help, figure) in families {
            gauges(out, name, help, None, &self.groups, |row| {
                Some(([("group", row.group.to_string())], figure(row)))
            })?;
        }
        Ok(())
    }
}

/// A figure of a family's row.
type Figure<T, N> = fn(&T) -> N;

/// Adds rows up to the bound; returns how many were left out.
fn push<T>(rows: &mut Vec<T>, row: T, max: usize) -> u64 {
    if rows.len() >= max {
        return 1;
    }
    rows.push(row);
    0
}

fn seconds(total: &Total) -> f64 {
    total.lag.lag_ms as f64 / 1e3
}

fn gauges<T, L: EncodeLabelSet>(
    out: &mut Writer<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    rows: &[T],
    series: impl Fn(&T) -> Option<(L, f64)>,
) -> fmt::Result {
    out.family(name, help, unit, MetricType::Gauge, |family| {
        for (labels, value) in rows.iter().filter_map(series) {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    })
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
        let group = |_| GroupLag {
            total,
            topics: vec![TopicLag {
                topic: "t".into(),
                total,
                partitions: (0..5).map(row).collect(),
            }],
            ..GroupLag::default()
        };
        let mut lags = Lags::default();
        for name in ["a", "b", "c", "d"] {
            lags.push(name.into(), group(()), 3);
        }
        assert_eq!(
            (lags.partitions.len(), lags.topics.len(), lags.groups.len()),
            (3, 3, 3)
        );
        assert_eq!(lags.left_out(), 17 + 1 + 1);
        assert!(lags.topics.iter().all(|row| row.total.lag.lag == 35));
    }
}
