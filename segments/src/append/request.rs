//! What callers hand in: records for partitions and changes of the state, stored together or not at all.

use std::sync::Arc;

use crate::batch::{BatchBuilder, SealedBatch};
use crate::files::state::StateChange;
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::topic::partition::Partition;
use crate::types::{Ack, Offset, TimestampMs, TopicId};

/// Records for one partition.
#[derive(Debug)]
pub enum Records {
    /// May be combined with those of other requests into one batch.
    Loose(BatchBuilder),
    /// Stay the batches that they are.
    Sealed(Vec<SealedBatch>),
}

impl Records {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Loose(builder) => builder.len(),
            Self::Sealed(batches) => batches
                .iter()
                .map(|batch| batch.as_bytes().len() + ITEM_OVERHEAD_BYTES)
                .sum(),
        }
    }

    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Loose(builder) => u64::from(builder.record_count()),
            Self::Sealed(batches) => batches.iter().map(|batch| u64::from(batch.record_count())).sum(),
        }
    }
}

/// A request's records in one partition: consecutive offsets, readable together.
pub struct Part {
    /// Where they go.
    pub partition: Arc<Partition>,
    /// The records, at least one.
    pub records: Records,
    /// Append only if this is the next offset to be given.
    pub expected_offset: Option<Offset>,
    /// A hint that is kept in the index: every value is JSON without line breaks (or absent), so that readers need
    /// not look.
    pub json_lines: bool,
}

impl Part {
    /// Records without a condition, whose values may be any bytes.
    pub fn new(partition: Arc<Partition>, records: Records) -> Self {
        Self {
            partition,
            records,
            expected_offset: None,
            json_lines: false,
        }
    }

    /// Sets the condition.
    #[must_use]
    pub fn expecting(self, expected_offset: Option<Offset>) -> Self {
        Self {
            expected_offset,
            ..self
        }
    }

    /// Sets the hint.
    #[must_use]
    pub fn json_lines(self, json_lines: bool) -> Self {
        Self { json_lines, ..self }
    }
}

/// Makes a request one that is appended once, however often it is sent.
///
/// The first request with a key that is stored is remembered with what it was answered, in the very round of its records: after a
/// crash both are there, or neither. Until `expires` a request of the same topic and key with the same fingerprint appends
/// nothing and is answered as the first was. One that failed is not remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The topic whose keys these are: that of all of the request's parts, of which there is at least one.
    pub topic: TopicId,
    /// The key, from 1 byte to 1 KiB.
    pub key: Vec<u8>,
    /// What the request says, in short: another request with the same key is refused by it.
    pub fingerprint: [u8; 16],
    /// When the key is forgotten, by the wall clock of the log.
    pub expires: TimestampMs,
    /// Kept with the key for the caller, who gets it back with the answer to a repetition; at most 1 MiB.
    pub note: Vec<u8>,
}

/// One request: after a crash all of it is there, or none.
#[derive(Default)]
pub struct AppendRequest {
    /// The records, at most one part a partition.
    pub parts: Vec<Part>,
    /// Changes of the state, stored with the records.
    pub state: Vec<StateChange>,
    /// When it is answered.
    pub ack: Ack,
    /// Has it appended once, whatever its sender repeats. [`Log::prepare_keys`](crate::Log::prepare_keys) comes first.
    pub once: Option<Once>,
}

impl AppendRequest {
    /// Records only, answered when they are durable.
    pub fn of(parts: Vec<Part>) -> Self {
        Self {
            parts,
            ..Self::default()
        }
    }

    /// Changes of the state only, answered when they are durable.
    pub fn of_state(state: Vec<StateChange>) -> Self {
        Self {
            state,
            ..Self::default()
        }
    }
}
