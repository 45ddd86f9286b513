//! Reading what is in memory and verified: the path of nearly every read. Takes microseconds, never waits.
//!
//! The bytes walked here were verified through this map, so that their headers can be believed. Only the index can be
//! wrong about them (if its file is of another log): a mark that does not fit sends the read to the cold path, which
//! finds out.

use std::sync::Arc;

use bytes::Bytes;

use super::inner::{Inner, Plan};
use super::{Run, Span};
use crate::batch::BatchHeader;
use crate::index::Mark;
use crate::types::Offset;

/// A batch that was looked for.
pub(super) struct Found {
    pub(super) position: u64,
    /// From its beginning on; more may follow it.
    pub(super) bytes: Bytes,
}

impl Inner {
    /// A run, if all that is needed for it is in memory.
    pub(super) fn read_warm(&self, span: &Span, max_bytes: usize) -> Option<Run> {
        let plan = self.plan(span, max_bytes)?;
        let far_end = plan.start_end.saturating_add(max_bytes as u64);
        let walk = Walk::new(&plan, far_end)?;
        let Some((start, first)) = walk.first_batch(&plan, span.from)? else {
            return Some(Run::empty(span.from, true));
        };
        if first.base_offset >= span.end {
            return Some(Run::empty(span.from, false));
        }
        let first_end = start + first.total_bytes() as u64;
        if first_end - start > max_bytes as u64 {
            if !span.at_least_one {
                return Some(Run::empty(span.from, false));
            }
            return Some(self.run(&walk, start, first_end, first.next_offset(), plan.readable));
        }

        for mark in plan.near_end {
            let (mut end, mut next_offset) = (start, span.from);
            if mark.position > start {
                walk.check(mark)?;
                end = mark.position;
            }
            let mut moved = false;
            while end < plan.readable {
                let Some(header) = walk.header(end) else {
                    // Beyond what was loaded lies what the run cannot reach; else it is not verified.
                    if end < far_end {
                        return None;
                    }
                    break;
                };
                let batch_end = end + header.total_bytes() as u64;
                if header.base_offset >= span.end || batch_end - start > max_bytes as u64 {
                    break;
                }
                (end, next_offset, moved) = (batch_end, header.next_offset(), true);
            }
            if moved {
                return Some(self.run(&walk, start, end, next_offset, plan.readable));
            }
        }
        None
    }

    fn run(&self, walk: &Walk, start: u64, end: u64, next_offset: Offset, readable: u64) -> Run {
        Run {
            bytes: walk.slice(start, end),
            json_lines: self.json_lines(start, end),
            next_offset,
            at_end: end == readable,
        }
    }

    /// The batch that holds `span.from`, or the first after it, if it is in memory; the inner `None` if there is none.
    #[allow(clippy::option_option, reason = "the outer says whether the inner is known")]
    pub(super) fn find_warm(&self, span: &Span) -> Option<Option<Found>> {
        let plan = self.plan(span, 0)?;
        let walk = Walk::new(&plan, plan.start_end)?;
        let Some((position, header)) = walk.first_batch(&plan, span.from)? else {
            return Some(None);
        };
        if header.base_offset >= span.end {
            return Some(None);
        }
        let end = position + header.total_bytes() as u64;
        let bytes = walk.slice(position, end);
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

    /// The header of the batch at `position`, if all of the batch is here.
    fn header(&self, position: u64) -> Option<BatchHeader> {
        let bytes = self.bytes.get((position - self.start) as usize..)?;
        let header = BatchHeader::peek(bytes).ok()?;
        (header.total_bytes() <= bytes.len()).then_some(header)
    }

    /// `None` unless a batch begins at a mark as the index says.
    fn check(&self, mark: Mark) -> Option<()> {
        (self.header(mark.position)?.base_offset == mark.offset).then_some(())
    }

    /// The batch that holds `from`, or the first after it; the inner `None` if there is none up to the readable end.
    #[allow(clippy::option_option, reason = "the outer says whether the inner is known")]
    fn first_batch(&self, plan: &Plan, from: Offset) -> Option<Option<(u64, BatchHeader)>> {
        let mut position = self.start;
        while position < plan.readable {
            let header = self.header(position)?;
            if header.next_offset() > from {
                return Some(Some((position, header)));
            }
            position += header.total_bytes() as u64;
        }
        Some(None)
    }

    fn slice(&self, start: u64, end: u64) -> Bytes {
        self.bytes
            .slice((start - self.start) as usize..(end - self.start) as usize)
    }
}
