//! The checkpoint: up to where every partition's segments are known to be on stable storage.
//!
//! Recovery begins from it: journal rounds below [`Checkpoint::round`] need no replay, and a journal file is recycled
//! only once a durable checkpoint no longer needs it. It is written into two slots in turn (see `slots`).
//!
//! # Payload
//! | bytes | field |
//! |---|---|
//! | 8 | id of the data directory |
//! | 8 | the next topic id to be given |
//! | 8 | sequence of the first journal file that is needed |
//! | 8 | the first round that is needed |
//! | 4 | 1 if that journal file was there when this was written, else 0 |
//! | 4, each 8 | count of topics whose deletion is journalled and not yet done on disk, their ids |
//! | 4 | count of partitions |
//! | each 64 | topic 8, index 4, flags 4 (1: it has an active segment), log start 8, base of the active segment 8, its synced position 8, the next offset 8, when the active segment was made (ms) 8, the first round that this partition needs 8 |
//! | 8 | generation of the state's snapshot that was the newest then; may be missing |

use crate::files::codec::Fields;
use crate::types::{FilePos, Offset, PartitionId, TimestampMs, TopicId};

/// Magic of a checkpoint's frame.
pub(crate) const MAGIC: [u8; 8] = *b"QUIPUCHK";
/// Version of a checkpoint's payload.
pub(crate) const VERSION: u32 = 1;

/// What is known to be on stable storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) directory_id: u64,
    pub(crate) next_topic_id: u64,
    pub(crate) sequence: u64,
    pub(crate) round: u64,
    /// Whether the journal file `sequence` exists: not after a clean stop, nor until recovery has begun a new one.
    pub(crate) journal_expected: bool,
    /// Topics whose deletion is durable, while their directories may still be there.
    pub(crate) deleting: Vec<TopicId>,
    pub(crate) partitions: Vec<Entry>,
    /// Changes of the state before [`Checkpoint::round`] are in its snapshot of this generation, and nowhere else: an
    /// older snapshot would lose them. `None` in checkpoints from before this field existed.
    pub(crate) state_generation: Option<u64>,
}

/// One partition in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: PartitionId,
    pub(crate) log_start_offset: Offset,
    /// The active segment: its base offset, the position up to which it is synced, and when it was made.
    pub(crate) active: Option<(Offset, FilePos, TimestampMs)>,
    /// The offset after the last one that is synced.
    pub(crate) next_offset: Offset,
    /// Rounds below this one hold nothing that the partition still needs.
    pub(crate) round: u64,
}

impl Checkpoint {
    /// The topics that it knows.
    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.partitions.iter().map(|entry| entry.id.topic)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40 + self.partitions.len() * 64);
        for number in [self.directory_id, self.next_topic_id, self.sequence, self.round] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&u32::from(self.journal_expected).to_le_bytes());
        out.extend_from_slice(&(self.deleting.len() as u32).to_le_bytes());
        for id in &self.deleting {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        out.extend_from_slice(&(self.partitions.len() as u32).to_le_bytes());
        for entry in &self.partitions {
            let (base, position, made) = entry.active.unwrap_or_default();
            out.extend_from_slice(&entry.id.topic.0.to_le_bytes());
            out.extend_from_slice(&entry.id.index.to_le_bytes());
            out.extend_from_slice(&u32::from(entry.active.is_some()).to_le_bytes());
            let numbers = [
                entry.log_start_offset.get(),
                base.get(),
                position.get(),
                entry.next_offset.get(),
                made.get().cast_unsigned(),
                entry.round,
            ];
            for number in numbers {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        if let Some(generation) = self.state_generation {
            out.extend_from_slice(&generation.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let mut checkpoint = Self {
            directory_id: fields.u64()?,
            next_topic_id: fields.u64()?,
            sequence: fields.u64()?,
            round: fields.u64()?,
            journal_expected: fields.u32()? == 1,
            deleting: Vec::new(),
            partitions: Vec::new(),
            state_generation: None,
        };
        for _ in 0..fields.u32()? {
            checkpoint.deleting.push(TopicId(fields.u64()?));
        }
        for _ in 0..fields.u32()? {
            let id = PartitionId::new(TopicId(fields.u64()?), fields.u32()?);
            let has_active = fields.u32()? == 1;
            let log_start_offset = Offset::try_new(fields.u64()?)?;
            let base = Offset::try_new(fields.u64()?)?;
            let position = FilePos(fields.u64()?);
            let next_offset = Offset::try_new(fields.u64()?)?;
            let made = TimestampMs(fields.i64()?);
            let round = fields.u64()?;
            let active = has_active.then_some((base, position, made));
            checkpoint.partitions.push(Entry {
                id,
                log_start_offset,
                active,
                next_offset,
                round,
            });
        }
        if !fields.is_empty() {
            checkpoint.state_generation = Some(fields.u64()?);
        }
        fields.is_empty().then_some(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_as_it_was_and_a_cut_one_not_at_all() {
        let id = PartitionId::new(TopicId(7), 3);
        let active = Some((Offset::new(100), FilePos(4096), TimestampMs(-5)));
        let entry = Entry {
            id,
            log_start_offset: Offset::new(9),
            active,
            next_offset: Offset::new(120),
            round: 5,
        };
        let bare = Entry {
            active: None,
            ..entry
        };
        let checkpoint = Checkpoint {
            directory_id: 1,
            next_topic_id: 8,
            sequence: 3,
            round: 44,
            journal_expected: true,
            deleting: vec![TopicId(5)],
            partitions: vec![entry, bare],
            state_generation: Some(12),
        };
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes).as_ref(), Some(&checkpoint));
        let older = Checkpoint {
            state_generation: None,
            ..checkpoint
        };
        let without = bytes.len() - 8;
        assert_eq!(Checkpoint::decode(&bytes[..without]), Some(older));
        for length in (0..bytes.len()).filter(|length| *length != without) {
            assert_eq!(Checkpoint::decode(&bytes[..length]), None, "length {length}");
        }
    }
}
