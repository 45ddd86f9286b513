//! The numbers of the log. Each kind has its own type, so that the compiler refuses one in the place of another.
//!
//! An *offset* numbers a record in a partition, a *position* is a byte in a file, a *timestamp* is wall time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a record in its partition, from 0. At most `i64::MAX`, as in the record batch format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The largest offset that a record batch can carry.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Makes an offset.
    ///
    /// # Panics
    /// If `value` is above `i64::MAX`: check input with [`Offset::try_new`] first.
    pub const fn new(value: u64) -> Self {
        assert!(value <= i64::MAX as u64, "an offset is at most i64::MAX");
        Self(value)
    }

    /// Makes an offset from an unchecked number; `None` if it is above `i64::MAX`.
    pub const fn try_new(value: u64) -> Option<Self> {
        if value <= i64::MAX as u64 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `count` records later; `None` past the largest offset.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(value) => Self::try_new(value),
            None => None,
        }
    }

    /// The offset `count` records later.
    ///
    /// # Panics
    /// Past the largest offset, which a partition reaches after 290,000 years at a million records a second.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        match self.checked_add(count) {
            Some(offset) => offset,
            None => panic!("a partition has run out of offsets"),
        }
    }

    /// How many offsets lie in `earlier..self`; 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A byte position in a file, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePos(pub u64);

impl FilePos {
    /// The beginning of a file.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` later.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FilePos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall time in milliseconds since the Unix epoch. Producers choose it, so it may go backwards from record to record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    /// The plain number of milliseconds.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// The number of a topic in its data directory: given once and never again, also after the topic is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub u64);

/// A partition: its topic, and its index in that topic. Never given to another partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The index in the topic, from 0.
    pub index: u32,
}

impl PartitionId {
    /// The partition of this index.
    pub const fn new(topic: TopicId, index: u32) -> Self {
        Self { topic, index }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic.0, self.index)
    }
}

/// The id of an idempotent producer, by which its duplicates are found; [`ProducerId::NONE`] in other batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl ProducerId {
    /// The value in a batch without a producer.
    pub const NONE: Self = Self(-1);
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// When the records are on stable storage.
    #[default]
    Durable,
    /// When the operating system has the records: they survive the process, not the machine.
    Written,
}

/// The three named positions of a partition, with `log_start_offset <= end_offset <= written_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The first offset that is still kept.
    pub log_start_offset: Offset,
    /// One past the last durable record: readers never pass it.
    pub end_offset: Offset,
    /// One past the last record that the operating system has: the next offset to be given.
    pub written_offset: Offset,
}
