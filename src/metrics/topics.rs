//! The metrics of topics and partitions: sizes, positions, damage.

use std::collections::{BTreeMap, BTreeSet};

use super::MAX_TOPIC_ROWS;
use super::text::{Pair, Text, families};
use crate::broker::engine::{DamagedRange, Log};

/// The rows of the topics' metrics.
#[derive(Debug, Default)]
pub(super) struct TopicRows {
    topics: Vec<TopicRow>,
    partitions: Vec<PartitionRow>,
    left_out: u64,
}

/// A topic: sums over its partitions.
#[derive(Debug, Default)]
struct TopicRow {
    topic: String,
    partitions: usize,
    size_bytes: u64,
    records: u64,
    end_offsets: u64,
}

/// A partition's positions.
#[derive(Debug)]
struct PartitionRow {
    /// In [`TopicRows::topics`].
    topic: usize,
    partition: u32,
    log_start_offset: u64,
    end_offset: u64,
    size_bytes: u64,
}

impl TopicRows {
    /// The positions of all partitions; with more than `max` of them, those of `with_lag` only.
    pub(super) fn of(log: &Log, max: usize, with_lag: &BTreeSet<(&str, u32)>) -> Self {
        let mut rows = Self::default();
        let topics = log.topics();
        let count: usize = topics.iter().map(|topic| topic.partition_count() as usize).sum();
        for topic in &topics {
            let mut sum = TopicRow {
                topic: topic.name().to_owned(),
                ..TopicRow::default()
            };
            for partition in topic.partitions().iter() {
                let (index, positions) = (partition.id().index, partition.positions());
                let row = PartitionRow {
                    topic: rows.topics.len(),
                    partition: index,
                    log_start_offset: positions.log_start_offset.get(),
                    end_offset: positions.end_offset.get(),
                    size_bytes: partition.size_bytes(),
                };
                sum.partitions += 1;
                sum.size_bytes += row.size_bytes;
                sum.records += row.end_offset.saturating_sub(row.log_start_offset);
                sum.end_offsets += row.end_offset;
                let is_shown = count <= max || with_lag.contains(&(topic.name(), index));
                match is_shown && rows.topics.len() < MAX_TOPIC_ROWS {
                    true => rows.partitions.push(row),
                    false => rows.left_out += 1,
                }
            }
            match rows.topics.len() < MAX_TOPIC_ROWS {
                true => rows.topics.push(sum),
                false => rows.left_out += 1,
            }
        }
        rows
    }

    /// Rows beyond the bounds.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn encode(&self, out: &mut Text) {
        let topics = |figure: fn(&TopicRow) -> u64| {
            let rows = self.topics.iter();
            rows.map(move |row| ([("topic", row.topic.as_str().into())], figure(row)))
        };
        let partitions = |figure: fn(&PartitionRow) -> u64| {
            let rows = self.partitions.iter();
            rows.map(move |row| (labels(&self.topics[row.topic].topic, row.partition), figure(row)))
        };
        families! { out:
            gauges "quipu_topic_partitions", topics(|row| row.partitions as u64), "Partitions of a topic";
            gauges "quipu_topic_size_bytes", topics(|row| row.size_bytes), "Stored bytes of a topic";
            gauges "quipu_topic_records", topics(|row| row.records), "Offsets between the start and the end of a topic's partitions";
            counters "quipu_topic_appended_records", topics(|row| row.end_offsets), "Records that were ever appended to a topic";
            gauges "quipu_partition_log_start_offset", partitions(|row| row.log_start_offset), "The log start offset of a partition";
            gauges "quipu_partition_end_offset", partitions(|row| row.end_offset), "One past the last durable offset of a partition";
            gauges "quipu_partition_size_bytes", partitions(|row| row.size_bytes), "Stored bytes of a partition";
        }
    }
}

/// The damage of the partitions that have some.
pub(super) fn damage(out: &mut Text, ranges: &[DamagedRange]) {
    let mut rows: BTreeMap<(&str, u32), [u64; 3]> = BTreeMap::new();
    for range in ranges {
        let split = range.name.rsplit_once('/');
        let topic = split.map_or(&*range.name, |(topic, _)| topic);
        let key = (topic, range.partition.index);
        if rows.len() == MAX_TOPIC_ROWS && !rows.contains_key(&key) {
            continue;
        }
        let row = rows.entry(key).or_default();
        row[0] += 1;
        row[1] += range.until.since(range.from);
        row[2] += range.bytes;
    }
    let damaged = |index: usize| {
        let rows = rows.iter();
        rows.map(move |((topic, partition), row)| (labels(topic, *partition), row[index]))
    };
    families! { out:
        gauges "quipu_damaged_ranges", damaged(0), "Ranges of records of a partition that cannot be read";
        gauges "quipu_damaged_offsets", damaged(1), "Offsets of a partition that cannot be read";
        gauges "quipu_damaged_bytes", damaged(2), "Stored bytes of a partition that are damaged";
    }
}

fn labels(topic: &str, partition: u32) -> [Pair<'_>; 2] {
    [("topic", topic.into()), ("partition", partition.into())]
}
