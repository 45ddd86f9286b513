//! How many dead letters of each group wait, without reading their topics at each question.
//!
//! For each partition of a topic of dead letters there is a bit for each waiting dead letter, by group. The first
//! question reads the partition from its log start; a later one reads what was appended since. Not durable: after a
//! restart the partition is read again.
//!
//! A bit is right because:
//! - A dead letter that is buried is found when the partition is read to its end.
//! - A redrive clears the bits of what it took, once its append is durable. One that is read later than that has its
//!   [fate](super::letters::Fate) in the state.
//! - Bits below the log start are dropped: retention has deleted those dead letters.
//! - A group that is made again under its name has another `created_at`: the bits of the earlier one are dropped.
//!
//! Damaged dead letters are not counted.
//!
//! Cost: a question reads at most [`LOOK_BYTES`] of each partition, so after a start the count of a larger one is that of
//! what was read so far; the lag's sampler asks every second. Then it reads only what is new, and counts 64 offsets in
//! one step. Memory: about 24 bytes for 64 offsets and group with a waiting dead letter among them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::codec::block_of;
use super::dead_letter::{self, DeadLetter};
use super::letters::{Fate, Fates};
use super::store::{read_records, records_of};
use crate::broker::engine::{Error, Log, Offset, Partition, PartitionId, ReadRequest, TimestampMs};

/// The most stored bytes of a partition that one question reads.
const LOOK_BYTES: usize = 16 << 20;
/// Stored bytes per read.
const READ_BYTES: usize = 1 << 20;

/// The waiting dead letters of all groups, as far as the server has looked.
#[derive(Debug, Default)]
pub struct WaitingLetters(Mutex<BTreeMap<PartitionId, Arc<Mutex<Seen>>>>);

/// The waiting dead letters in one partition.
#[derive(Debug, Default)]
struct Seen {
    /// The next offset to read.
    next: Offset,
    groups: BTreeMap<Box<str>, Bits>,
}

/// The waiting dead letters of one group in one partition.
#[derive(Debug, Default)]
struct Bits {
    /// When the group was made.
    since: TimestampMs,
    /// 64 offsets in a word, by their block; no word is 0.
    words: BTreeMap<u64, u64>,
}

impl WaitingLetters {
    /// How many dead letters of a group wait in a partition. `since_of` says when a group was made, if it exists. May
    /// block on the disk.
    pub fn count(
        &self,
        log: &Log,
        partition: &Partition,
        group: &str,
        since_of: &dyn Fn(&str) -> Option<TimestampMs>,
    ) -> u64 {
        let seen = {
            let mut partitions = self.0.lock();
            if !partitions.contains_key(&partition.id()) {
                partitions.retain(|id, _| log.topic_by_id(id.topic).is_some());
            }
            Arc::clone(partitions.entry(partition.id()).or_default())
        };
        let mut seen = seen.lock();
        seen.read_on(log, partition, since_of);
        seen.drop_below(partition.positions().log_start_offset);
        let bits = seen.groups.get(group);
        let bits = bits.filter(|bits| since_of(group) == Some(bits.since));
        bits.map_or(0, Bits::count)
    }

    /// Clears the bits of dead letters that do not wait any more. Call it once that is durable.
    pub fn clear(&self, id: PartitionId, group: &str, offsets: impl IntoIterator<Item = Offset>) {
        let Some(seen) = self.0.lock().get(&id).cloned() else {
            return;
        };
        let mut seen = seen.lock();
        if let Some(bits) = seen.groups.get_mut(group) {
            offsets.into_iter().for_each(|offset| bits.clear(offset));
        }
    }

    /// Forgets a partition, because nobody knows which of its dead letters still wait. It is read again.
    pub fn forget(&self, id: PartitionId) {
        self.0.lock().remove(&id);
    }
}

impl Seen {
    /// Reads what it has not read yet, or [`LOOK_BYTES`] of that.
    fn read_on(&mut self, log: &Log, partition: &Partition, since_of: &dyn Fn(&str) -> Option<TimestampMs>) {
        let mut sinces: BTreeMap<Box<str>, Option<TimestampMs>> = BTreeMap::new();
        let mut since_of = |group: &str| match sinces.get(group) {
            Some(since) => *since,
            None => *sinces.entry(group.into()).or_insert(since_of(group)),
        };
        let mut bytes = 0;
        let end = partition.positions().end_offset;
        while self.next < end && bytes < LOOK_BYTES {
            let from = self.next;
            let fetched = match read_records(partition, ReadRequest::new(from, READ_BYTES).until(end)) {
                Ok(fetched) if fetched.next_offset > from => fetched,
                Err(Error::Trimmed { log_start_offset, .. }) if log_start_offset > from => {
                    self.next = log_start_offset;
                    continue;
                }
                Err(Error::Damaged { damaged_until, .. }) => {
                    self.next = damaged_until.max(from.plus(1));
                    continue;
                }
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(partition = partition.name(), %error, "dead letters cannot be counted now");
                    return;
                }
            };
            bytes += fetched.runs.iter().map(|run| run.bytes.len()).sum::<usize>();
            let mut fates: Option<(Box<str>, u64, Fates)> = None;
            for record in records_of(&fetched) {
                let is_new = (from..end).contains(&record.offset);
                let Some(letter) = dead_letter::read(&record).ok().filter(|_| is_new) else {
                    continue;
                };
                let since = since_of(letter.group);
                let Some(since) = since.filter(|since| letter.died_at.unwrap_or_default() >= *since) else {
                    continue;
                };
                if waits(log, partition.id(), record.offset, &letter, &mut fates) {
                    self.bits_of(letter.group, since).set(record.offset);
                }
            }
            self.next = fetched.next_offset;
        }
    }

    fn bits_of(&mut self, group: &str, since: TimestampMs) -> &mut Bits {
        let bits = self.groups.entry(group.into()).or_default();
        if bits.since != since {
            *bits = Bits {
                since,
                words: BTreeMap::new(),
            };
        }
        bits
    }

    fn drop_below(&mut self, log_start: Offset) {
        self.groups.retain(|_, bits| {
            bits.drop_below(log_start);
            !bits.words.is_empty()
        });
    }
}

impl Bits {
    fn set(&mut self, offset: Offset) {
        *self.words.entry(block_of(offset)).or_default() |= bit_of(offset);
    }

    fn clear(&mut self, offset: Offset) {
        if let Entry::Occupied(mut word) = self.words.entry(block_of(offset)) {
            *word.get_mut() &= !bit_of(offset);
            if *word.get() == 0 {
                word.remove();
            }
        }
    }

    fn drop_below(&mut self, offset: Offset) {
        let block = block_of(offset);
        if self
            .words
            .first_key_value()
            .is_some_and(|(first, _)| *first <= block)
        {
            self.words = self.words.split_off(&block);
            if let Entry::Occupied(mut word) = self.words.entry(block) {
                *word.get_mut() &= !(bit_of(offset) - 1);
                if *word.get() == 0 {
                    word.remove();
                }
            }
        }
    }

    fn count(&self) -> u64 {
        self.words.values().map(|word| u64::from(word.count_ones())).sum()
    }
}

fn bit_of(offset: Offset) -> u64 {
    1 << (offset.get() % u64::from(u64::BITS))
}

/// Whether a dead letter waits. `last` keeps the fates that were looked up last. One whose fate cannot be read counts as
/// waiting: nobody can redrive it.
fn waits(
    log: &Log,
    id: PartitionId,
    offset: Offset,
    letter: &DeadLetter<'_>,
    last: &mut Option<(Box<str>, u64, Fates)>,
) -> bool {
    let block = block_of(offset);
    let is_known = last
        .as_ref()
        .is_some_and(|(group, number, _)| **group == *letter.group && *number == block);
    if !is_known {
        let fates = Fates::load_block(log, letter.group, id, offset).unwrap_or_default();
        *last = Some((letter.group.into(), block, fates));
    }
    let fates = last.as_ref().map(|(_, _, fates)| fates.of(offset));
    fates.is_none_or(|fate| fate == Fate::Waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_for_each_offset_is_set_cleared_and_dropped_below_the_log_start() {
        let mut bits = Bits::default();
        let offsets = [0, 3, 63, 64, 130, 200];
        for offset in offsets {
            bits.set(Offset::new(offset));
        }
        bits.set(Offset::new(3));
        assert_eq!(bits.count(), 6);
        for (log_start, left) in [(0, 6), (3, 5), (4, 4), (64, 3), (65, 2), (130, 2), (131, 1)] {
            bits.drop_below(Offset::new(log_start));
            assert_eq!(bits.count(), left, "from {log_start} on");
        }
        for offset in [199, 200, 200, 3] {
            bits.clear(Offset::new(offset));
        }
        assert!(bits.words.is_empty());
    }
}
