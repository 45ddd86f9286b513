//! Append requests: records for partitions and changes of the state, stored together or not at all.

use std::sync::Arc;

use crate::batch::{BatchBuilder, SealedBatch};
use crate::files::state::StateChange;
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::topic::partition::Partition;
use crate::types::{Ack, Offset, TimestampMs, TopicId};

/// Records for one partition.
#[derive(Debug)]
pub enum Records {
    /// Records that may be combined with those of other requests into one batch.
    Loose(BatchBuilder),
    /// Whole batches, which stay as they are.
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

    /// How many offsets they take.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Loose(builder) => u64::from(builder.record_count()),
            Self::Sealed(batches) => batches.iter().map(|batch| u64::from(batch.offset_count())).sum(),
        }
    }
}

/// A request's records in one partition: consecutive offsets, readable together.
pub struct Part {
    /// The partition to append to.
    pub partition: Arc<Partition>,
    /// The records, at least one.
    pub records: Records,
    /// A condition: append only if this is the partition's next offset.
    pub expected_offset: Option<Offset>,
    /// A hint that is kept in the index: every value is JSON without line breaks (or absent), so that readers need not
    /// check.
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

/// An idempotency key: its request is appended once, however often it is sent.
///
/// The first request that is stored with a key is remembered with its answer, in the same round as its records: after a
/// crash both are there, or neither. Until `expires`, a request with the same topic, key and fingerprint appends
/// nothing and gets the answer of the first. A request that failed is not remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The topic of the key: all parts of the request belong to it, and the key is forgotten with it. `None` for a key
    /// of the whole log: the parts belong to any topics. There is at least one part.
    pub topic: Option<TopicId>,
    /// The key, from 1 byte to 1 KiB.
    pub key: Vec<u8>,
    /// Stands for the request's contents: a request with the same key and another fingerprint is refused.
    pub fingerprint: [u8; 16],
    /// When the key is forgotten, by the wall clock of the log.
    pub expires: TimestampMs,
    /// Kept with the key for the caller, who gets it back with the answer to a repetition; at most 1 MiB.
    pub note: Vec<u8>,
}

/// A change of the state that notes where records of its own request lie: the value is followed by the first offset of
/// each of these parts, in 8 bytes each, big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The key, as in a [`StateChange`].
    pub key: Vec<u8>,
    /// The beginning of its value; at most 1 MiB with the offsets.
    pub value: Vec<u8>,
    /// The places of the parts in [`AppendRequest::parts`].
    pub parts: Vec<u32>,
}

impl Receipt {
    pub(super) fn value_bytes(&self) -> usize {
        self.value.len() + self.parts.len() * size_of::<u64>()
    }

    /// The change, now that the parts have their offsets.
    pub(crate) fn change(self, base_offsets: &[Offset]) -> StateChange {
        let mut value = self.value;
        for part in self.parts {
            value.extend_from_slice(&base_offsets[part as usize].get().to_be_bytes());
        }
        StateChange::set(self.key, value)
    }
}

/// One request: after a crash it is stored whole or not at all.
#[derive(Default)]
pub struct AppendRequest {
    /// The records, at most one part a partition.
    pub parts: Vec<Part>,
    /// Changes of the state, stored with the records.
    pub state: Vec<StateChange>,
    /// Changes of the state that note where the records lie.
    pub receipts: Vec<Receipt>,
    /// When it is answered.
    pub ack: Ack,
    /// Its idempotency key, if it must be appended once. Call [`Log::prepare_keys`](crate::Log::prepare_keys) first.
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
