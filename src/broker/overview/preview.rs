//! What a deletion, or a change of retention, would take away: records, bytes, and who reads them.
//!
//! A preview is refused for the same reasons as the change itself. It may block on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{list, readers};
use crate::broker::caller::Caller;
use crate::broker::engine::{Error, Offset, Partition, PartitionId, TimestampMs, Topic};
use crate::broker::groups::Groups;
use crate::broker::refusal::Refusal;
use crate::broker::topics::Topics;

/// What would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Records, counted by offsets.
    pub records: u64,
    /// Stored bytes. Space is freed by whole segments, so it may take until later ones go too.
    pub size_bytes: u64,
    /// The groups that lose offsets, or have yet to read some of the records, and that the caller may describe; by name.
    pub groups: Vec<String>,
}

/// What deleting a topic would take away.
///
/// # Errors
/// Those of [`Topics::delete`].
pub fn deletion(
    caller: &Caller,
    topics: &Topics,
    groups: &Groups,
    name: &str,
    if_id: Option<&str>,
) -> Result<Preview, Refusal> {
    let topic = topics.may_delete(caller, name, if_id)?;
    Ok(Preview {
        records: list::records(&topic),
        size_bytes: list::size(&topic),
        groups: readers(caller, groups, &BTreeSet::from([topic.id()]))
            .remove(&topic.id())
            .unwrap_or_default(),
    })
}

/// What moving the log start of a partition would take away.
///
/// # Errors
/// Those of [`Topics::trim`].
pub fn trim(
    caller: &Caller,
    topics: &Topics,
    groups: &Groups,
    topic: &Topic,
    partition: &Arc<Partition>,
    before: Offset,
    if_id: Option<&str>,
) -> Result<Preview, Refusal> {
    topics.may_trim(caller, topic, if_id)?;
    let positions = partition.positions();
    if before > positions.end_offset {
        return Err(Error::OutOfRange {
            offset: before,
            log_start_offset: positions.log_start_offset,
            end_offset: positions.end_offset,
        }
        .into());
    }
    Ok(starts(caller, groups, topic, &[(Arc::clone(partition), before)]))
}

/// What a change of a topic would take away, once retention runs with the new settings. Partitions take nothing away.
///
/// # Errors
/// Those of [`Topics::alter`].
pub fn change(
    caller: &Caller,
    topics: &Topics,
    groups: &Groups,
    name: &str,
    change: (Option<u32>, &[(String, Value)]),
    (if_id, now): (Option<&str>, TimestampMs),
) -> Result<Preview, Refusal> {
    let (topic, changed) = topics.may_alter(caller, name, change.0, change.1, if_id)?;
    let Some(changed) = changed else {
        return Ok(Preview::default());
    };
    let partitions = topic.partitions();
    let moved = partitions.iter().filter_map(|partition| {
        let start = partition.would_start(&changed.settings, now)?;
        Some((Arc::clone(partition), start))
    });
    Ok(starts(caller, groups, &topic, &moved.collect::<Vec<_>>()))
}

/// What goes when the log starts of these partitions move.
fn starts(caller: &Caller, groups: &Groups, topic: &Topic, moved: &[(Arc<Partition>, Offset)]) -> Preview {
    let mut preview = Preview::default();
    let mut ends: BTreeMap<PartitionId, Offset> = BTreeMap::new();
    for (partition, before) in moved {
        let start = partition.positions().log_start_offset;
        if *before > start {
            preview.records += before.since(start);
            preview.size_bytes += bytes_between(partition, start, *before);
            ends.insert(partition.id(), *before);
        }
    }
    if !ends.is_empty() {
        preview.groups = unread(caller, groups, topic, &ends);
    }
    preview
}

/// The groups that have yet to read records before these ends.
fn unread(
    caller: &Caller,
    groups: &Groups,
    topic: &Topic,
    ends: &BTreeMap<PartitionId, Offset>,
) -> Vec<String> {
    let mut names = groups.names();
    names.retain(|name| caller.sees_group(name));
    names.retain(|name| {
        let (scope, committed) = groups.scope(name);
        let is_unread = |(id, end): (&PartitionId, &Offset)| {
            committed.get(id).is_none_or(|committed| committed.offset < *end)
        };
        scope.contains(&topic.id()) && ends.iter().any(is_unread)
    });
    names
}

/// The stored bytes of a range of offsets; what cannot be read counts by its share of the offsets.
fn bytes_between(partition: &Partition, from: Offset, until: Offset) -> u64 {
    let to_end = |offset| partition.locate(offset).map(|located| located.bytes_to_end);
    match (to_end(from), to_end(until)) {
        (Ok(from), Ok(until)) => from.saturating_sub(until),
        _ => {
            let positions = partition.positions();
            let all = positions.end_offset.since(positions.log_start_offset).max(1);
            let share = u128::from(partition.size_bytes()) * u128::from(until.since(from)) / u128::from(all);
            u64::try_from(share).unwrap_or(u64::MAX)
        }
    }
}
