//! Reading a partition over its segments.
//!
//! A [`View`] is one consistent look at a partition. Nothing here is locked against appends or retention: segments only
//! grow beyond the view's end, and one that was removed meanwhile says so.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::segment::{Access, Segment, Span};
use crate::types::{Offset, TimestampMs};

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
    /// Stored bytes at most, counted from the batch that holds `from`; one batch is always returned.
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
    /// The first offset that is kept.
    pub log_start_offset: Offset,
    /// One past the last readable record.
    pub end_offset: Offset,
}

/// Where an offset lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Stored bytes from the batch that holds it to the end of the log.
    pub bytes_to_end: u64,
    /// The first record at or after it, with its timestamp; `None` at the end.
    pub next: Option<(Offset, TimestampMs)>,
    /// The largest timestamp of its segment, which retention by time goes by; `None` at the end.
    pub segment_max_timestamp: Option<TimestampMs>,
}

impl View {
    /// The segment that would hold `offset`.
    fn segment_of(&self, offset: Offset) -> usize {
        self.segments
            .partition_point(|segment| segment.base_offset() <= offset)
            .saturating_sub(1)
    }

    /// What of a segment lies in `from..end`.
    fn span(&self, segment: usize, from: Offset, end: Offset) -> Span {
        let next = self.segments.get(segment + 1).map(|next| next.base_offset());
        Span {
            from,
            end,
            segment_end: next.unwrap_or(self.end_offset),
            sealed: next.is_some(),
            at_least_one: true,
        }
    }
}

/// Reads whole batches from the one that holds `request.from` on, over as many segments as it takes.
///
/// A read that begins before damaged bytes returns the healthy part. `from` at the end returns nothing. `None` for
/// [`Access::Warm`] when something is not in memory: then read [`Access::Cold`] where waiting for the disk is fine.
///
/// # Errors
/// - [`Error::Trimmed`], [`Error::OutOfRange`]: `from` lies below the log start, or above the end.
/// - [`Error::Damaged`]: `from` lies in damage; go on from `damaged_until`.
/// - [`Error::Io`]: a file could not be opened or mapped.
pub(crate) fn read(view: &View, request: ReadRequest, access: Access) -> Result<Option<Fetched>> {
    let from = request.from;
    if from < view.log_start_offset {
        return Err(Error::Trimmed {
            offset: from,
            log_start_offset: view.log_start_offset,
            end_offset: view.end_offset,
        });
    }
    if from > view.end_offset {
        return Err(Error::OutOfRange {
            offset: from,
            log_start_offset: view.log_start_offset,
            end_offset: view.end_offset,
        });
    }
    let end = request
        .until
        .map_or(view.end_offset, |until| until.min(view.end_offset));
    let mut fetched = Fetched {
        runs: Vec::new(),
        next_offset: from,
        log_start_offset: view.log_start_offset,
        end_offset: view.end_offset,
    };
    let mut left = request.max_bytes;
    let mut segment = view.segment_of(from);
    while fetched.next_offset < end {
        // Segments follow on from each other: where one is missing, its offsets are.
        let base = view
            .segments
            .get(segment)
            .map_or(view.end_offset, |segment| segment.base_offset());
        if base > fetched.next_offset {
            if !fetched.runs.is_empty() {
                break;
            }
            return Err(Error::Damaged {
                place: format!("the segment before {base:020}.log"),
                what: "it is missing".into(),
                damaged_from: fetched.next_offset,
                damaged_until: base,
            });
        }
        let mut span = view.span(segment, fetched.next_offset, end);
        span.at_least_one = fetched.runs.is_empty();
        let run = match view.segments[segment].read(&span, left, access) {
            Ok(Some(run)) => run,
            Ok(None) => return Ok(None),
            Err(error) if fetched.runs.is_empty() => return Err(in_view(error, view)),
            // The next read begins there, and says so.
            Err(_) => break,
        };
        let at_end = run.at_end;
        if !run.bytes.is_empty() {
            left = left.saturating_sub(run.bytes.len());
            fetched.next_offset = run.next_offset;
            fetched.runs.push(Run {
                bytes: run.bytes,
                json_lines: run.json_lines,
            });
        }
        if !at_end || (left == 0 && !fetched.runs.is_empty()) {
            break;
        }
        segment += 1;
    }
    Ok(Some(fetched))
}

/// The first record whose timestamp is at or after `time`, with its timestamp; `None` if there is none up to the end.
///
/// Exact: timestamps may go backwards from record to record, and the first in order of offsets is found. Takes well below
/// a millisecond when the batches about it are in memory.
///
/// # Errors
/// - [`Error::Damaged`]: the record could lie in damage; decide on either side of it.
/// - [`Error::Io`]: a file could not be opened or mapped.
pub(crate) fn offset_for_time(view: &View, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>> {
    for index in view.segment_of(view.log_start_offset)..view.segments.len() {
        let segment = &view.segments[index];
        let found = segment.max_timestamp().and_then(|largest| {
            if largest < Some(time) {
                return Ok(None);
            }
            segment.first_at_or_after(time, &view.span(index, view.log_start_offset, view.end_offset))
        });
        match found {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            // Removed since the view was taken.
            Err(Error::Trimmed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Where `offset` lies; one below the log start counts as that, one above the end as that.
///
/// Damage is passed over: this is for reports, which go on in spite of it.
///
/// # Errors
/// [`Error::Io`]: a file could not be opened or mapped. [`Error::Trimmed`]: the segment was removed meanwhile.
pub(crate) fn locate(view: &View, offset: Offset) -> Result<Located> {
    let offset = offset.max(view.log_start_offset);
    if offset < view.end_offset {
        for index in view.segment_of(offset)..view.segments.len() {
            let segment = &view.segments[index];
            let span = view.span(index, offset, view.end_offset);
            let Some(first) = segment
                .first_record(&span)
                .map_err(|error| in_view(error, view))?
            else {
                continue;
            };
            let behind: u64 = view.segments[index + 1..]
                .iter()
                .map(|segment| segment.readable().get())
                .sum();
            return Ok(Located {
                bytes_to_end: behind + segment.readable().get().saturating_sub(first.position.get()),
                next: Some((first.offset, first.timestamp)),
                segment_max_timestamp: segment.max_timestamp()?,
            });
        }
    }
    Ok(Located {
        bytes_to_end: 0,
        next: None,
        segment_max_timestamp: None,
    })
}

/// A segment does not know where its partition ends.
fn in_view(error: Error, view: &View) -> Error {
    match error {
        Error::Trimmed {
            offset,
            log_start_offset,
            ..
        } => Error::Trimmed {
            offset,
            log_start_offset,
            end_offset: view.end_offset,
        },
        error => error,
    }
}
