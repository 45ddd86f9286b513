//! Reads bytes that are in memory and verified: the path of nearly every read. Takes microseconds and does not wait,
//! unless the kernel has dropped pages from its cache since (or the disk has no memory maps).
//!
//! These bytes were verified through this map, so their headers can be trusted. Only the index can be wrong about them
//! (if its file belongs to another log): if a mark does not fit, the read takes the cold path, which finds the fault.

use std::sync::Arc;

use bytes::Bytes;

use super::inner::{Inner, Plan};
use super::{Run, Span};
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::segment::index::Mark;
use crate::types::Offset;

/// A batch that was looked for.
pub(super) struct Found {
    pub(super) position: u64,
    /// The batch from its first byte on; more may follow it.
    pub(super) bytes: Bytes,
}

impl Inner {
    /// A run, if everything needed for it is in memory.
    pub(super) fn read_warm(&self, span: &Span, max_bytes: usize) -> Option<Run> {
        let plan = self.plan(span, max_bytes)?;
        let max_bytes = max_bytes as u64;
        // The first batch ends within its stretch, so the run ends at most `max_bytes` behind that stretch. Of the
        // batch behind the run only the header is read.
        let far_end = plan
            .start_end
            .saturating_add(max_bytes)
            .saturating_add(HEADER_BYTES as u64);
        let mut walk = Walk::new(&plan, far_end)?;
        let Some((start, first)) = walk.first_batch(&plan, span.from)? else {
            return Some(Run::empty(span.from, true));
        };
        if first.base_offset >= span.end {
            return Some(Run::empty(span.from, false));
        }
        let first_end = start + first.total_bytes() as u64;
        if start >= plan.start_end {
            // The offset lies between two stretches: the run begins in the second.
            walk = Walk::new(
                &plan,
                far_end.max(first_end).saturating_add(start - plan.start_end),
            )?;
        }
        if first_end - start > max_bytes {
            if !span.at_least_one {
                return Some(Run::empty(span.from, false));
            }
            return self.run(&walk, start, first_end, first.next_offset(), plan.readable);
        }

        for mark in plan.near_end {
            let (mut end, mut next_offset) = (start, span.from);
            if mark.position > start {
                walk.check(mark)?;
                end = mark.position;
            }
            let mut moved = false;
            while end < plan.readable && end - start < max_bytes {
                let header = walk.header(end)?;
                let batch_end = end + header.total_bytes() as u64;
                if header.base_offset >= span.end || batch_end - start > max_bytes {
                    break;
                }
                (end, next_offset, moved) = (batch_end, header.next_offset(), true);
            }
            if moved {
                return self.run(&walk, start, end, next_offset, plan.readable);
            }
        }
        None
    }

    fn run(&self, walk: &Walk, start: u64, end: u64, next_offset: Offset, readable: u64) -> Option<Run> {
        Some(Run {
            bytes: walk.slice(start, end)?,
            json_lines: self.json_lines(start, end),
            next_offset,
            at_end: end == readable,
        })
    }

    /// The batch that holds `span.from`, or the first after it, if it is in memory. The inner `None`: there is none.
    #[allow(clippy::option_option, reason = "the outer says whether the inner is known")]
    pub(super) fn find_warm(&self, span: &Span) -> Option<Option<Found>> {
        let plan = self.plan(span, 0)?;
        let mut walk = Walk::new(&plan, plan.start_end.saturating_add(HEADER_BYTES as u64))?;
        let Some((position, header)) = walk.first_batch(&plan, span.from)? else {
            return Some(None);
        };
        if header.base_offset >= span.end {
            return Some(None);
        }
        let end = position + header.total_bytes() as u64;
        if end > plan.start_end {
            walk = Walk::new(&plan, end)?;
        }
        let bytes = walk.slice(position, end)?;
        Some(Some(Found { position, bytes }))
    }
}

/// Verified bytes of a log file.
struct Walk {
    bytes: Bytes,
    start: u64,
}

impl Walk {
    fn new(plan: &Plan, far_end: u64) -> Option<Self> {
        let start = plan.start.position;
        let end = far_end.min(plan.verified_to).min(plan.readable);
        let bytes = Arc::clone(&plan.map).bytes(start, end).ok()?;
        let walk = Self { bytes, start };
        walk.check(plan.start)?;
        Some(walk)
    }

    /// The header of the batch at `position`, if these verified bytes hold it.
    fn header(&self, position: u64) -> Option<BatchHeader> {
        BatchHeader::peek(self.bytes.get((position - self.start) as usize..)?).ok()
    }

    /// `None` unless a batch with the mark's offset begins at the mark.
    fn check(&self, mark: Mark) -> Option<()> {
        (self.header(mark.position)?.base_offset == mark.offset).then_some(())
    }

    /// The batch that holds `from`, or the first after it. The inner `None`: there is none up to the readable end.
    #[allow(clippy::option_option, reason = "the outer says whether the inner is known")]
    fn first_batch(&self, plan: &Plan, from: Offset) -> Option<Option<(u64, BatchHeader)>> {
        let mut position = self.start;
        while position < plan.readable {
            let header = self.header(position)?;
            if header.next_offset() > plan.limit {
                // Its base offset must be wrong, which the CRC does not show. The cold path reports it.
                return None;
            }
            if header.next_offset() > from {
                return Some(Some((position, header)));
            }
            position += header.total_bytes() as u64;
        }
        Some(None)
    }

    /// The bytes `start..end`, unless they reach beyond what was loaded: they can if the index is wrong.
    fn slice(&self, start: u64, end: u64) -> Option<Bytes> {
        let (start, end) = ((start - self.start) as usize, (end - self.start) as usize);
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}
