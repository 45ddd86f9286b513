//! Record batches, version 2: the unit that is written, sent and read. Pure: no I/O.
#![allow(missing_docs, unused_variables, clippy::todo, reason = "signatures first")]

use crate::types::{Offset, ProducerId, TimestampMs};

/// The bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    #[error("{found} bytes are too few: a batch of {needed} begins here")]
    Truncated { needed: usize, found: usize },
    #[error("magic {0}, expected 2")]
    Magic(i8),
    #[error("crc32c {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("{0}")]
    Malformed(&'static str),
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    pub const LOG_APPEND_TIME: i16 = 1 << 3;
    pub fn compression(self) -> i16 {
        self.0 & 7
    }
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }
    pub fn is_transactional(self) -> bool {
        self.0 & (1 << 4) != 0
    }
    pub fn is_control(self) -> bool {
        self.0 & (1 << 5) != 0
    }
}

/// Every field before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    pub batch_length: u32, // bytes after this field: total_bytes() - 12
    pub partition_leader_epoch: i32,
    pub crc: u32,
    pub attributes: Attributes,
    pub last_offset_delta: u32,
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub producer_id: ProducerId,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads and bounds-checks the header at the start of `bytes`; the records need not be there, and the CRC is not checked.
    pub fn peek(bytes: &[u8]) -> Result<Self, BatchError> {
        todo!()
    }
    /// The whole batch's bytes, header included.
    pub fn total_bytes(&self) -> usize {
        todo!()
    }
    /// One past the last offset.
    pub fn next_offset(&self) -> Offset {
        todo!()
    }
    /// Writes all fields as they stand.
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES]) {
        todo!()
    }
}

/// Checks header and CRC-32C of the whole batch at the start of `bytes`.
pub fn verify(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    todo!()
}

/// Checks everything of a batch that came from outside: CRC, every record's bounds, offset deltas 0,1,2,…,count-1, and that nothing follows.
pub fn validate(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    todo!()
}

/// A record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub offset: Offset,
    pub timestamp: TimestampMs, // of log append time batches: the batch's max_timestamp
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// The headers of a record, decoded as they are asked for (bounds were checked when the record was).
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a {
        std::iter::empty()
    }
}

/// Walks the records of one uncompressed batch.
pub struct Records<'a> {
    _b: &'a [u8],
}
impl<'a> Records<'a> {
    pub fn new(batch: &'a [u8]) -> Result<Self, BatchError> {
        todo!()
    }
}
impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Splits a run of whole batches; each item is one batch's bytes with its header (CRC not checked).
pub struct Batches<'a> {
    _b: &'a [u8],
}
impl<'a> Batches<'a> {
    pub fn new(run: &'a [u8]) -> Self {
        todo!()
    }
}
impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Builds one batch record by record, in the buffer that is later written. Offset deltas count from 0.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    buffer: Vec<u8>,
}

impl BatchBuilder {
    pub fn new() -> Self {
        todo!()
    }
    pub fn with_capacity(bytes: usize) -> Self {
        todo!()
    }
    /// Adds a record. Returns its encoded size in bytes.
    pub fn push(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> usize {
        todo!()
    }
    /// Adds all records of `other` behind its own, re-encoding only what depends on the batch (the committer combines small requests so).
    pub fn append(&mut self, other: &BatchBuilder) {
        todo!()
    }
    pub fn record_count(&self) -> u32 {
        todo!()
    }
    /// Bytes of the batch as it stands, header included.
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    pub fn max_timestamp(&self) -> TimestampMs {
        todo!()
    }
    /// Makes all timestamps `time`, by the broker (attribute bit and max_timestamp), at seal.
    pub fn set_log_append_time(&mut self, time: TimestampMs) {
        todo!()
    }
    /// Fills the header in (base offset 0) and the CRC.
    pub fn seal(self) -> SealedBatch {
        todo!()
    }
}

/// A finished batch, whose base offset (outside of the CRC) is still to be given.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    bytes: Vec<u8>,
}

impl SealedBatch {
    /// Takes a batch from outside after [`validate`]; compressed, control, transactional ones and ones with a producer id are for the caller to refuse first.
    pub fn from_validated(bytes: Vec<u8>) -> Result<Self, BatchError> {
        todo!()
    }
    pub fn set_base_offset(&mut self, offset: Offset) {
        todo!()
    }
    pub fn record_count(&self) -> u32 {
        todo!()
    }
    pub fn max_timestamp(&self) -> TimestampMs {
        todo!()
    }
    pub fn as_bytes(&self) -> &[u8] {
        todo!()
    }
}
