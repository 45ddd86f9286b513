//! Damaged ranges that an operator skipped, so that consumers continue after them.
//!
//! The engine knows the damage; the skips are kept here, in the engine's durable state:
//!
//! ```text
//! key    'd' topic_id:u64 partition:u32 damaged_offset:u64     (numbers big-endian)
//! value  version=1 damaged_until_offset:u64 skipped_at:i64
//! ```
//!
//! A skip hides no readable record: every read tries the stored bytes first, and looks for a skip only if they are
//! damaged. A file restored from a backup is therefore served again. Skips are deleted with their topic; a crash leaves
//! all of a change or none.

use std::sync::Arc;

use crate::broker::engine::{
    AppendRequest, DamagedRange, Error, Log, Offset, Partition, PartitionId, ReadRequest, StateChange,
    StateEntry, TimestampMs, Topic, TopicId,
};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::state_keys::{SKIP, removals_of_topic};

const VERSION: u8 = 1;

/// A range of offsets; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first offset.
    pub from: Offset,
    /// One past the last.
    pub until: Offset,
}

impl Gap {
    /// The offsets of a damaged range.
    pub fn of(range: &DamagedRange) -> Self {
        Self {
            from: range.from,
            until: range.until,
        }
    }
}

/// A damaged range, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The offsets.
    pub range: Gap,
    /// Whether consumers skip it.
    pub skipped: bool,
}

/// The skipped ranges of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips(Vec<Gap>);

impl Skips {
    /// The ranges in the state; an unreadable value is logged and left out, so that its range is reported as damaged.
    pub fn of(log: &Log, partition: PartitionId) -> Self {
        Self::among(&log.state_prefix(&partition_prefix(partition)), partition)
    }

    /// The same, from a state that is read without a log.
    pub fn among(state: &[StateEntry], partition: PartitionId) -> Self {
        let prefix = partition_prefix(partition);
        let mut ranges = Vec::new();
        for (key, value) in state.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            match decode(key, value) {
                Some(gap) => ranges.push(gap),
                None => {
                    tracing::error!(%partition, "a skipped range in the state is not readable: it is left out")
                }
            }
        }
        Self(ranges)
    }

    /// The end of the skipped offsets that begin at `offset`, without a hole; `None` if `offset` is not skipped.
    pub fn end_of(&self, offset: Offset) -> Option<Offset> {
        let mut end = offset;
        // Ranges are ordered by their start, so one pass is enough.
        for gap in &self.0 {
            if gap.from <= end && gap.until > end {
                end = gap.until;
            }
        }
        (end > offset).then_some(end)
    }

    /// Whether all of a range is skipped.
    pub fn covers(&self, range: Gap) -> bool {
        self.end_of(range.from).is_some_and(|end| end >= range.until)
    }

    /// Splits a damaged range into skipped and unskipped parts.
    fn split(&self, range: Gap) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut from = range.from;
        while from < range.until {
            let (until, skipped) = match self.end_of(from) {
                Some(end) => (end.min(range.until), true),
                None => {
                    let next = self.0.iter().map(|gap| gap.from).find(|start| *start > from);
                    (next.unwrap_or(range.until).min(range.until), false)
                }
            };
            rows.push(Row {
                range: Gap { from, until },
                skipped,
            });
            from = until;
        }
        rows
    }
}

/// All known damaged ranges, by topic, partition and offset. Does not touch the disk.
pub fn all(log: &Log) -> Vec<(Arc<Topic>, Arc<Partition>, Row)> {
    let mut rows = Vec::new();
    for topic in log.topics() {
        for partition in &*topic.partitions() {
            let known = known(log, partition).into_iter();
            rows.extend(known.map(|row| (Arc::clone(&topic), Arc::clone(partition), row)));
        }
    }
    rows
}

/// The known damaged ranges of a partition, in order. Does not touch the disk.
pub fn known(log: &Log, partition: &Partition) -> Vec<Row> {
    let ranges = partition.damaged_ranges();
    if ranges.is_empty() {
        return Vec::new();
    }
    let skips = Skips::of(log, partition.id());
    let ranges = ranges.iter().map(Gap::of);
    ranges.flat_map(|range| skips.split(range)).collect()
}

/// Reads skipped ranges, so that their damage is known again after a restart. Blocks.
pub fn look_again(log: &Log) {
    for (key, value) in log.state_prefix(&[SKIP]) {
        let Some((gap, partition)) = decode(&key, &value).zip(partition_of_key(&key)) else {
            continue;
        };
        let partition = log
            .topic_by_id(partition.topic)
            .and_then(|topic| topic.partition(partition.index));
        if let Some(partition) = partition {
            let from = gap.from.max(partition.positions().log_start_offset);
            // The engine notes the damage that a read finds.
            let _noted = partition.read(at(from, gap.until));
        }
    }
}

/// [`super::Topics::skip`], one at a time.
pub(super) fn skip(
    log: &Log,
    partition: &Partition,
    range: Gap,
    now: TimestampMs,
    entry: StateChange,
) -> Result<(), Refusal> {
    check_damaged(partition, range)?;
    let id = partition.id();
    if Skips::of(log, id).covers(range) {
        return Ok(());
    }
    let until = Skips::of(log, id)
        .0
        .iter()
        .filter(|gap| gap.from == range.from)
        .fold(range.until, |until, gap| until.max(gap.until));
    append(log, vec![put(id, Gap { until, ..range }, now), entry])?;
    if log.topic_by_id(id.topic).is_none() {
        // The topic was deleted meanwhile: a skip written after its deletion would never be removed.
        append(log, removals_of_topic(log, id.topic))?;
    }
    Ok(())
}

/// [`super::Topics::take_back`], one at a time.
pub(super) fn take_back(
    log: &Log,
    partition: PartitionId,
    range: Gap,
    now: TimestampMs,
    entry: StateChange,
) -> Result<(), Error> {
    let mut changes = Vec::new();
    for gap in Skips::of(log, partition).0 {
        if gap.until <= range.from || gap.from >= range.until {
            continue;
        }
        changes.push(StateChange::remove(key(partition, gap.from)));
        for (from, until) in [(gap.from, range.from), (range.until, gap.until)] {
            if from < until {
                changes.push(put(partition, Gap { from, until }, now));
            }
        }
    }
    if !changes.is_empty() {
        changes.push(entry);
    }
    append(log, changes)
}

/// [`Partition::offset_for_time`], without skipped offsets.
///
/// # Errors
/// Those of [`Partition::offset_for_time`].
pub fn offset_for_time(
    log: &Log,
    partition: &Partition,
    time: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, Error> {
    let mut from = Offset::ZERO;
    loop {
        let result = partition.offset_for_time_from(time, from);
        let Err(Error::Damaged {
            damaged_from,
            damaged_until,
            ..
        }) = result
        else {
            return result;
        };
        let range = Gap {
            from: damaged_from.max(from).max(partition.positions().log_start_offset),
            until: damaged_until,
        };
        if damaged_until <= from || !Skips::of(log, partition.id()).covers(range) {
            return result;
        }
        from = damaged_until;
    }
}

fn at(from: Offset, until: Offset) -> ReadRequest {
    ReadRequest::new(from, 1).until(until)
}

fn check_damaged(partition: &Partition, range: Gap) -> Result<(), Refusal> {
    let mut from = range.from;
    while from < range.until {
        match partition.read(at(from, range.until)) {
            Err(Error::Damaged { damaged_until, .. }) if damaged_until > from => from = damaged_until,
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let detail = format!("offset {from} can be read: only damaged offsets can be skipped");
                return Err(Refusal::new(Reason::NotDamaged, detail).with("healthy_offset", from));
            }
        }
    }
    Ok(())
}

fn append(log: &Log, state: Vec<StateChange>) -> Result<(), Error> {
    if state.is_empty() {
        return Ok(());
    }
    log.append(AppendRequest::of_state(state))?.wait().map(drop)
}

fn put(partition: PartitionId, gap: Gap, now: TimestampMs) -> StateChange {
    let mut value = vec![VERSION];
    value.extend_from_slice(&gap.until.get().to_be_bytes());
    value.extend_from_slice(&now.get().to_be_bytes());
    StateChange::set(key(partition, gap.from), value)
}

fn partition_prefix(partition: PartitionId) -> Vec<u8> {
    let mut key = vec![SKIP];
    key.extend_from_slice(&partition.topic.0.to_be_bytes());
    key.extend_from_slice(&partition.index.to_be_bytes());
    key
}

fn key(partition: PartitionId, from: Offset) -> Vec<u8> {
    let mut key = partition_prefix(partition);
    key.extend_from_slice(&from.get().to_be_bytes());
    key
}

fn partition_of_key(key: &[u8]) -> Option<PartitionId> {
    let (topic, rest) = key.strip_prefix(&[SKIP])?.split_first_chunk::<8>()?;
    let (index, _) = rest.split_first_chunk::<4>()?;
    Some(PartitionId::new(
        TopicId(u64::from_be_bytes(*topic)),
        u32::from_be_bytes(*index),
    ))
}

fn decode(key: &[u8], value: &[u8]) -> Option<Gap> {
    let (_, from) = key.split_last_chunk::<8>()?;
    let (until, at) = value.strip_prefix(&[VERSION])?.split_first_chunk::<8>()?;
    let gap = Gap {
        from: Offset::try_new(u64::from_be_bytes(*from))?,
        until: Offset::try_new(u64::from_be_bytes(*until))?,
    };
    (at.len() == 8 && gap.from < gap.until).then_some(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: u64, until: u64) -> Gap {
        Gap {
            from: Offset::new(from),
            until: Offset::new(until),
        }
    }

    #[test]
    fn a_skip_round_trips_and_a_cut_one_is_refused() {
        let id = PartitionId::new(TopicId(258), 3);
        let change = put(id, gap(100, 250), TimestampMs(7));
        let value = change.value.unwrap();
        assert_eq!(change.key, b"d\0\0\0\0\0\0\x01\x02\0\0\0\x03\0\0\0\0\0\0\0d");
        assert_eq!(value, b"\x01\0\0\0\0\0\0\0\xfa\0\0\0\0\0\0\0\x07");
        assert_eq!(decode(&change.key, &value), Some(gap(100, 250)));
        assert_eq!(partition_of_key(&change.key), Some(id));
        for length in 0..value.len() {
            assert_eq!(decode(&change.key, &value[..length]), None, "{length}");
        }
        let later = [&[2], &value[1..]].concat();
        assert_eq!(decode(&change.key, &later), None);
    }

    #[test]
    fn skips_that_touch_are_one_and_a_hole_ends_them() {
        let skips = Skips(vec![gap(10, 20), gap(15, 30), gap(30, 40), gap(50, 60)]);
        let end = |offset| skips.end_of(Offset::new(offset)).map(Offset::get);
        assert_eq!(
            [9, 10, 19, 39, 40, 50].map(end),
            [None, Some(40), Some(40), Some(40), None, Some(60)]
        );
        assert!(skips.covers(gap(12, 40)) && !skips.covers(gap(12, 41)));
        let rows: Vec<(u64, u64, bool)> = skips
            .split(gap(5, 55))
            .iter()
            .map(|row| (row.range.from.get(), row.range.until.get(), row.skipped))
            .collect();
        assert_eq!(
            rows,
            [(5, 10, false), (10, 40, true), (40, 50, false), (50, 55, true)]
        );
    }
}
