//! Reading a partition over its segments.
#![allow(
    missing_docs,
    unused_variables,
    dead_code,
    clippy::todo,
    reason = "signatures first"
)]
use crate::error::Result;
use crate::segment::{Access, Segment};
use crate::types::{Offset, TimestampMs};
use bytes::Bytes;
use std::sync::Arc;

/// One consistent look at a partition, taken under its lock.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) log_start_offset: Offset,
    pub(crate) end_offset: Offset,
    /// In order of base offset; the last may be empty.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The first offset wanted.
    pub from: Offset,
    /// Exclusive end, `None`: the partition's end.
    pub until: Option<Offset>,
    /// Stored bytes at most; one batch is always returned.
    pub max_bytes: usize,
}

/// A run of whole batches, as they lie on disk.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whole batches, back to back, each verified; [`crate::batch::Batches`] splits them.
    pub bytes: Bytes,
    /// Every value in it is known to be JSON without line breaks.
    pub json_lines: bool,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The first may begin before the offset asked for, the last may end after `until`.
    pub runs: Vec<Run>,
    /// One past the last record in `runs`; the offset asked for where that is empty.
    pub next_offset: Offset,
    pub log_start_offset: Offset,
    pub end_offset: Offset,
}

/// Where an offset lies.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    /// Stored bytes from the batch that holds it to the end of the log.
    pub bytes_to_end: u64,
    /// The first record at or after it, with its timestamp; `None` at the end.
    pub next: Option<(Offset, TimestampMs)>,
    /// The largest timestamp of its segment, which retention by time goes by; `None` at the end.
    pub segment_max_timestamp: Option<TimestampMs>,
}

/// A read that begins before damaged bytes returns the healthy part; one that begins in them is [`crate::Error::Damaged`].
/// Trimmed / OutOfRange (from > end) as errors; from == end: empty.
pub(crate) fn read(view: &View, request: ReadRequest, access: Access) -> Result<Option<Fetched>> {
    todo!()
}
pub(crate) fn offset_for_time(view: &View, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>> {
    todo!()
}
pub(crate) fn locate(view: &View, offset: Offset) -> Result<Located> {
    todo!()
}
