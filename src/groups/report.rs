//! The lag of a group, read off the log: every partition that the group has committed in, by topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use quipu_segments::{Error, Located, Log, Offset, Partition, Positions, TimestampMs, Topic};

use super::offsets::Committed;
use crate::lag::{Lag, next_unread};

/// The lag of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupLag {
    /// Over all topics.
    pub total: Lag,
    /// By topic, sorted by name.
    pub topics: Vec<TopicLag>,
}

/// The lag of a group in one topic.
#[derive(Clone, Debug)]
pub struct TopicLag {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Over its partitions.
    pub total: Lag,
    /// By partition.
    pub partitions: Vec<PartitionLag>,
}

/// The lag of a group in one partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionLag {
    /// The partition's index.
    pub partition: u32,
    /// What the group committed.
    pub committed_offset: Offset,
    /// When it did.
    pub last_commit: TimestampMs,
    /// The partition's positions.
    pub positions: Positions,
    /// How far the group is behind.
    pub lag: Lag,
}

/// The lag of a group as of now. May block on the disk, where the group has something to read.
#[must_use]
pub fn lag_of(log: &Log, group: &str, now: TimestampMs) -> GroupLag {
    let mut topics: BTreeMap<Arc<str>, TopicLag> = BTreeMap::new();
    let mut topic: Option<(Arc<Topic>, Arc<str>)> = None;
    for (id, committed) in super::committed(log, group) {
        if topic.as_ref().is_none_or(|(topic, _)| topic.id() != id.topic) {
            topic = log.topic_by_id(id.topic).map(|topic| {
                let name = topic.name().into();
                (topic, name)
            });
        }
        let Some((topic, name)) = &topic else {
            continue;
        };
        let Some(partition) = topic.partition(id.index) else {
            continue;
        };
        let row = lag_in(&partition, &committed, topic.spec().settings.retention_ms, now);
        let entry = topics.entry(name.clone()).or_insert_with(|| TopicLag {
            topic: name.clone(),
            total: Lag::default(),
            partitions: Vec::new(),
        });
        entry.total = entry.total.and(row.lag);
        entry.partitions.push(row);
    }
    let topics: Vec<TopicLag> = topics.into_values().collect();
    let total = topics
        .iter()
        .fold(Lag::default(), |total, topic| total.and(topic.total));
    GroupLag { total, topics }
}

fn lag_in(
    partition: &Partition,
    committed: &Committed,
    retention_ms: Option<u64>,
    now: TimestampMs,
) -> PartitionLag {
    let mut positions = partition.positions();
    let mut located = locate(partition, committed, positions);
    if let Err(Error::Trimmed { .. }) = located {
        // The log start moved up between the two looks; it cannot have passed what is read next twice in a row by much.
        positions = partition.positions();
        located = locate(partition, committed, positions);
    }
    let located = located.unwrap_or_else(|error| {
        tracing::warn!(partition = %partition.id(), %error, "lag in time and bytes is left out");
        None
    });
    PartitionLag {
        partition: partition.id().index,
        committed_offset: committed.offset,
        last_commit: committed.last_commit,
        positions,
        lag: Lag::of_partition(committed.offset, positions, located.as_ref(), retention_ms, now),
    }
}

/// `None` with nothing to read: the disk is then not asked.
fn locate(
    partition: &Partition,
    committed: &Committed,
    positions: Positions,
) -> Result<Option<Located>, Error> {
    let next = next_unread(committed.offset, positions);
    if next >= positions.end_offset {
        return Ok(None);
    }
    partition.locate(next).map(Some)
}
