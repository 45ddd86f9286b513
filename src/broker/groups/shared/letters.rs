//! What became of a group's dead letters: each is durably waiting, redriven or discarded.
//!
//! ```text
//! key    'r' group 0x00 topic_id:u64 partition:u32            of a topic of dead letters (numbers are big-endian)
//! value  version=1 offset:u64                                 those below were redriven (written by version 0.1.0 only)
//! key    'r' group 0x00 topic_id:u64 partition:u32 block:u64  64 offsets from 64 * block on
//! value  version=1 states                                     two bits an offset: 0 waiting, 1 redriven, 2 discarded
//! ```
//!
//! A dead letter without an entry waits. The dead letters themselves stay in their topic, for everybody to read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::codec::{BLOCK, Letter, block_of, number_of};
use super::dead_letter::{self, DeadLetter};
use super::store::{read_records, records_of};
use crate::broker::engine::batch::{Record, SealedBatch};
use crate::broker::engine::{
    Error, Log, Offset, Partition, PartitionId, ReadRequest, StateChange, TimestampMs, Topic,
};
use crate::broker::groups::offsets::with_partition;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::state_keys::REDRIVE;
use crate::broker::topics::skips::Skips;

const VERSION: u8 = 1;
/// Stored bytes per read.
const READ_BYTES: usize = 1 << 20;

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for somebody to redrive or discard it.
    Waiting,
    /// It was given back to its group.
    Redriven,
    /// It was settled for good.
    Discarded,
}

impl Fate {
    /// The name in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }

    /// The fate of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Waiting, Self::Redriven, Self::Discarded]
            .into_iter()
            .find(|fate| fate.name() == name)
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Redriven => 1,
            Self::Discarded => 2,
        }
    }
}

/// The fates of a group's dead letters in one partition.
#[derive(Debug, Default)]
pub struct Fates {
    redriven_below: Offset,
    blocks: BTreeMap<u64, [u8; 16]>,
    dirty: BTreeSet<u64>,
}

/// The prefix of the keys of a group's fates.
pub fn fates_prefix(group: &str) -> Vec<u8> {
    [&[REDRIVE], group.as_bytes(), &[0]].concat()
}

fn fates_key(group: &str, partition: PartitionId) -> Vec<u8> {
    with_partition(fates_prefix(group), partition)
}

fn unreadable(group: &str, partition: PartitionId) -> Refusal {
    tracing::error!(group, %partition, "what became of dead letters is not readable");
    let detail = "what became of dead letters is not readable in the server's state";
    Refusal::new(Reason::Internal, detail)
}

impl Fates {
    /// Reads the entries.
    ///
    /// # Errors
    /// [`Reason::Internal`]: one is not readable. Nothing is redriven from there: it might be given back twice.
    pub fn load(log: &Log, group: &str, partition: PartitionId) -> Result<Self, Refusal> {
        let mut fates = Self::default();
        let key = fates_key(group, partition);
        for (found, value) in log.state_prefix(&key) {
            let taken = fates.take(&found[key.len()..], &value);
            taken.ok_or_else(|| unreadable(group, partition))?;
        }
        Ok(fates)
    }

    /// Reads the entries that say what became of one dead letter and of those in its block.
    ///
    /// # Errors
    /// As [`Fates::load`].
    pub fn load_block(
        log: &Log,
        group: &str,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Self, Refusal> {
        let mut fates = Self::default();
        let key = fates_key(group, partition);
        for suffix in [&[][..], &block_of(offset).to_be_bytes()] {
            if let Some(value) = log.state_get(&[&key[..], suffix].concat()) {
                let taken = fates.take(suffix, &value);
                taken.ok_or_else(|| unreadable(group, partition))?;
            }
        }
        Ok(fates)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (&VERSION, value) = value.split_first()? else {
            return None;
        };
        if key.is_empty() {
            self.redriven_below = Offset::try_new(u64::from_be_bytes(value.try_into().ok()?))?;
        } else {
            self.blocks.insert(number_of(key)?, value.try_into().ok()?);
        }
        Some(())
    }

    /// Whether all dead letters wait.
    pub fn is_empty(&self) -> bool {
        self.redriven_below == Offset::ZERO && self.blocks.is_empty()
    }

    /// What became of a dead letter.
    pub fn of(&self, offset: Offset) -> Fate {
        if offset < self.redriven_below {
            return Fate::Redriven;
        }
        let at = (offset.get() % BLOCK) as usize;
        let states = self.blocks.get(&block_of(offset));
        match states.map_or(0, |states| states[at / 4] >> (at % 4 * 2) & 3) {
            0 => Fate::Waiting,
            1 => Fate::Redriven,
            _ => Fate::Discarded,
        }
    }

    /// Changes what becomes of a dead letter.
    pub fn set(&mut self, offset: Offset, fate: Fate) {
        let at = (offset.get() % BLOCK) as usize;
        let number = block_of(offset);
        let states = self.blocks.entry(number).or_default();
        states[at / 4] = states[at / 4] & !(3 << (at % 4 * 2)) | fate.bits() << (at % 4 * 2);
        self.dirty.insert(number);
    }

    /// The changes of the durable state since the last call.
    pub fn changes(&mut self, group: &str, partition: PartitionId) -> Vec<StateChange> {
        let key = fates_key(group, partition);
        let change = |number: u64| {
            let value = [&[VERSION], &self.blocks[&number][..]].concat();
            StateChange::set([&key[..], &number.to_be_bytes()].concat(), value)
        };
        std::mem::take(&mut self.dirty).into_iter().map(change).collect()
    }
}

/// The dead letters of a group in one partition of their topic.
pub struct Mailbox<'a> {
    /// The log.
    pub log: &'a Log,
    /// The group.
    pub group: &'a str,
    /// Those that died before belong to an earlier group of the same name.
    pub since: TimestampMs,
    /// The partition.
    pub partition: &'a Partition,
}

impl Mailbox<'_> {
    /// Reads the group's dead letters in `from..`, in order, until `visit` returns false or the end as it is now.
    ///
    /// # Errors
    /// [`Reason::CorruptData`]: dead letters cannot be read; skip the damage, or repair it. Those of `visit`.
    pub fn walk(
        &self,
        from: Offset,
        mut visit: impl FnMut(&Record<'_>, DeadLetter<'_>) -> Result<bool, Refusal>,
    ) -> Result<(), Refusal> {
        let positions = self.partition.positions();
        let (mut at, end) = (from.max(positions.log_start_offset), positions.end_offset);
        while at < end {
            let request = ReadRequest::new(at, READ_BYTES).until(end);
            let fetched = match read_records(self.partition, request) {
                Ok(fetched) => fetched,
                Err(error) => match self.behind(at, &error) {
                    Some(behind) => {
                        at = behind;
                        continue;
                    }
                    None => return Err(error.into()),
                },
            };
            for record in records_of(&fetched) {
                if record.offset < at || record.offset >= end {
                    continue;
                }
                let Ok(letter) = dead_letter::read(&record) else {
                    continue;
                };
                let died_at = letter.died_at.unwrap_or_default();
                if letter.group == self.group && died_at >= self.since && !visit(&record, letter)? {
                    return Ok(());
                }
            }
            if fetched.next_offset <= at {
                break;
            }
            at = fetched.next_offset;
        }
        Ok(())
    }

    /// Where to go on behind records that cannot be read and may be skipped.
    fn behind(&self, at: Offset, error: &Error) -> Option<Offset> {
        let behind = match error {
            Error::Trimmed { log_start_offset, .. } => Some(*log_start_offset),
            Error::Damaged { damaged_until, .. } => Skips::of(self.log, self.partition.id())
                .end_of(at)
                .map(|skipped| skipped.min(*damaged_until)),
            _ => None,
        };
        behind.filter(|behind| *behind > at)
    }
}

/// The record that was redriven, read from its dead letter, at the offset that it had first; `None` if it is gone. May
/// wait for the disk.
///
/// # Errors
/// Those of the read.
pub fn read_original(log: &Log, letter: Letter, offset: Offset) -> Result<Option<SealedBatch>, Error> {
    let topic = log.topic_by_id(letter.partition.topic);
    let Some(partition) = topic.and_then(|topic| topic.partition(letter.partition.index)) else {
        return Ok(None);
    };
    let request = ReadRequest::new(letter.offset, 1).until(letter.offset.plus(1));
    let fetched = match read_records(&partition, request) {
        Ok(fetched) => fetched,
        Err(Error::Trimmed { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let record = records_of(&fetched).find(|record| record.offset == letter.offset);
    Ok(record.map(|record| dead_letter::original(&record, offset)))
}

/// The topic that a dead letter comes from, if it is still there.
pub fn origin_of(log: &Log, letter: &DeadLetter<'_>) -> Option<Arc<Topic>> {
    match letter.topic_id {
        // In a copy of another server's dead letter, the id may be that of some other topic here.
        Some(id) => log.topic_by_id(id).filter(|topic| topic.name() == letter.topic),
        None => log.topic(letter.topic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dead_letter_has_its_own_fate_and_it_is_found_again() {
        let mut fates = Fates::default();
        let all = [
            (0, Fate::Redriven),
            (3, Fate::Discarded),
            (63, Fate::Redriven),
            (64, Fate::Discarded),
        ];
        for (offset, fate) in all {
            fates.set(Offset::new(offset), fate);
        }
        fates.set(Offset::new(5), Fate::Discarded);
        fates.set(Offset::new(5), Fate::Waiting);
        let id = PartitionId::new(crate::broker::engine::TopicId(7), 1);
        let changes = fates.changes("g", id);
        assert_eq!(changes.len(), 2);
        assert!(fates.changes("g", id).is_empty());
        let prefix = fates_key("g", id).len();
        let mut again = Fates::default();
        for change in &changes {
            again
                .take(&change.key[prefix..], change.value.as_deref().unwrap())
                .unwrap();
        }
        for offset in 0..130 {
            let expected = all
                .iter()
                .find(|(at, _)| *at == offset)
                .map_or(Fate::Waiting, |(_, fate)| *fate);
            assert_eq!(again.of(Offset::new(offset)), expected, "{offset}");
        }
    }

    #[test]
    fn what_version_0_1_0_redrove_stays_redriven() {
        let mut fates = Fates::default();
        assert!(fates.take(&[], &[1, 0, 0, 0, 0, 0, 0, 0, 9]).is_some());
        assert_eq!(fates.of(Offset::new(8)), Fate::Redriven);
        assert_eq!(fates.of(Offset::new(9)), Fate::Waiting);
        for wrong in [&[][..], &[2, 0, 0, 0, 0, 0, 0, 0, 9], &[1, 0]] {
            assert!(fates.take(&[], wrong).is_none());
            assert!(fates.take(&[0; 8], wrong).is_none());
        }
    }
}
