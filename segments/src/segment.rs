//! One segment: a log file and its two derived indexes.
#![allow(
    missing_docs,
    unused_variables,
    dead_code,
    clippy::todo,
    reason = "signatures first"
)]
use crate::disk::Disk;
use crate::error::Result;
use crate::types::{FilePos, Offset, TimestampMs};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What all segments of a log share: the disk and the bounded pool of open maps and loaded indexes (least recently used closed).
pub(crate) struct SegmentPool {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) max_open: usize,
}
impl SegmentPool {
    pub(crate) fn new(disk: Arc<dyn Disk>, max_open: usize) -> Arc<Self> {
        todo!()
    }
    /// Maps open now (for metrics).
    pub(crate) fn open_count(&self) -> usize {
        todo!()
    }
}

/// A batch that has become durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNote {
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) max_timestamp: TimestampMs,
    pub(crate) position: FilePos,
    pub(crate) bytes: u64,
    pub(crate) json_lines: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only what is mapped and verified already; never waits for the disk.
    Warm,
    /// Opens, maps, populates and verifies what is missing.
    Cold,
}

/// A run of whole batches of one segment.
pub(crate) struct Run {
    pub(crate) bytes: Bytes,
    pub(crate) json_lines: bool,
    pub(crate) next_offset: Offset,
}

pub(crate) struct Segment {
    base: Offset,
}

impl Segment {
    /// A segment whose log file holds (or will hold) valid batches up to `readable`. `map_bytes`: what it may grow to.
    /// Nothing is opened. A new segment's file is made by the committer before the first read.
    pub(crate) fn new(
        pool: Arc<SegmentPool>,
        dir: &Path,
        base_offset: Offset,
        map_bytes: u64,
        readable: FilePos,
    ) -> Self {
        todo!()
    }
    pub(crate) fn base_offset(&self) -> Offset {
        todo!()
    }
    pub(crate) fn log_path(&self) -> PathBuf {
        todo!()
    }
    pub(crate) fn readable(&self) -> FilePos {
        todo!()
    }
    /// Adds durable batches to the index, then moves `readable` to the last one's end (Release). Committer only, in order, without gaps.
    pub(crate) fn publish(&self, batches: &[BatchNote]) {
        todo!()
    }
    /// Moves `readable` over bytes that are known valid at recovery, without notes: the index over them is loaded or rebuilt on demand.
    pub(crate) fn recovered(&self, readable: FilePos) {
        todo!()
    }
    /// Writes `.index` and `.timeindex` (derived: no sync needed), e.g. at roll and at close.
    pub(crate) fn write_index(&self) -> Result<()> {
        todo!()
    }
    /// The largest timestamp in it, loading the index if need be.
    pub(crate) fn max_timestamp(&self) -> Result<Option<TimestampMs>> {
        todo!()
    }
    /// Forgets the map; readers that hold slices keep theirs. Called before its files are removed.
    pub(crate) fn close(&self) {
        todo!()
    }
    /// The run of whole batches that begins with the one holding `from` (or the first after it), at most `max_bytes`
    /// unless the first batch alone is larger, not beyond batches whose base offset is >= `end`. `None` for `Access::Warm` when something is missing.
    pub(crate) fn read(
        &self,
        from: Offset,
        end: Offset,
        max_bytes: usize,
        access: Access,
    ) -> Result<Option<Run>> {
        todo!()
    }
    /// Position of the batch that holds `offset`, (or `readable` if none).
    pub(crate) fn position_of(&self, offset: Offset) -> Result<FilePos> {
        todo!()
    }
    /// The first record at or after `from` whose timestamp is at or after `time`, below `end`.
    pub(crate) fn first_at_or_after(
        &self,
        time: TimestampMs,
        from: Offset,
        end: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>> {
        todo!()
    }
}
