//! Reads bytes that are not in memory yet, or not verified. Waits for the disk.
//!
//! One thread at a time does this for a segment. It holds its own reference to the map, so that it completes even if
//! the pool closes the segment meanwhile. At the end it adds the ranges that it verified to the segment's state.

use std::io;
use std::sync::Arc;

use super::inner::{Gaps, Inner, OpenMap};
use super::walk::{Course, Damage, Step, Walker};
use super::warm::Found;
use super::{Run, Span};
use crate::batch::{self, BatchHeader, MAX_INFLATED_BYTES, Records};
use crate::error::{Error, Result};
use crate::io::sync::MutexGuard;
use crate::segment::index::{Index, Mark};
use crate::types::{Offset, TimestampMs};

/// How much is verified beyond the end of a read, so that most reads of small pieces are warm.
const AHEAD_BYTES: u64 = 512 * 1024;

/// Proof that this thread holds the segment's `cold` lock, so that no other thread works on the disk for the segment.
pub(super) type Cold<'a> = MutexGuard<'a, ()>;

/// What the body of a walk returns.
enum Verdict<T> {
    Done(T),
    /// Either the log is damaged here, or the index is wrong.
    Doubt(Damage),
}

/// Where a walk begins.
#[derive(Clone, Copy)]
enum Begin {
    /// At the stretch that holds an offset.
    Offset(Offset),
    /// At the stretch that holds an offset, or at a later one: the first that can hold a timestamp this large.
    Time(Part, Offset, TimestampMs),
}

/// A part of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Base,
    Tail,
}

impl Inner {
    /// Reads a run; loads and verifies what is missing.
    pub(super) fn read_cold(self: &Arc<Self>, span: &Span, max_bytes: usize) -> Result<Run> {
        self.touch();
        let cold = self.cold.lock();
        // Another thread may have loaded it while this one waited.
        if let Some(run) = self.read_warm(span, max_bytes) {
            return Ok(run);
        }
        let max_bytes = max_bytes as u64;
        self.walk(&cold, Begin::Offset(span.from), span, |walker, base| {
            let readable = walker.end();
            let mut run: Option<(u64, u64, Offset)> = None;
            let mut at_end = false;
            loop {
                match walker.step()? {
                    Step::Batch(position, header) => {
                        if header.next_offset() <= span.from {
                            continue;
                        }
                        let end = position + header.total_bytes() as u64;
                        let start = run.map_or(position, |(start, ..)| start);
                        let fits = end - start <= max_bytes || (run.is_none() && span.at_least_one);
                        if header.base_offset >= span.end || !fits {
                            break;
                        }
                        run = Some((start, end, header.next_offset()));
                        at_end = end == readable;
                        if end - start >= max_bytes {
                            break;
                        }
                    }
                    Step::Damage(damage) => {
                        if !damage.confirmed {
                            return Ok(Verdict::Doubt(damage));
                        }
                        self.note_damage(&damage, span);
                        if run.is_some() {
                            break;
                        }
                        if damage.until.is_none_or(|until| span.from < until) {
                            return Err(self.damaged(&damage, span));
                        }
                    }
                    Step::End => {
                        at_end = true;
                        break;
                    }
                }
            }
            let Some((start, end, next_offset)) = run else {
                return Ok(Verdict::Done(Run::empty(span.from, at_end)));
            };
            let bytes = walker
                .bytes(start, end)
                .map_err(|error| Error::reading(format!("reading {}", self.file("log").display()), error))?;
            // The bytes behind the run are likely to be read next. Their own read reports damage in them.
            let ahead = if self.state.read().is_distrusted {
                0
            } else {
                AHEAD_BYTES
            };
            while walker.position() < end + ahead && walker.step_if_healthy()? {}
            Ok(Verdict::Done(Run {
                bytes,
                json_lines: self.state.read().json_lines(base, start, end),
                next_offset,
                at_end,
            }))
        })
    }

    /// The batch that holds `offset`, or the first healthy one after it; `None` if there is none below `span.end`.
    pub(super) fn find_cold(self: &Arc<Self>, span: &Span) -> Result<Option<Found>> {
        self.touch();
        let cold = self.cold.lock();
        self.walk(&cold, Begin::Offset(span.from), span, |walker, _| {
            loop {
                match walker.step()? {
                    Step::Batch(position, header) => {
                        if header.next_offset() <= span.from {
                            continue;
                        }
                        if header.base_offset >= span.end {
                            return Ok(Verdict::Done(None));
                        }
                        return Ok(Verdict::Done(Some(Found {
                            position,
                            bytes: self.batch_bytes(walker, position, &header)?,
                        })));
                    }
                    Step::Damage(damage) if !damage.confirmed => return Ok(Verdict::Doubt(damage)),
                    // The disk may be able to read these bytes later, and they could hold the batch: do not skip them.
                    Step::Damage(damage) if damage.is_unreadable => {
                        return Err(Error::io(
                            self.damaged(&damage, span).to_string(),
                            io::ErrorKind::Other.into(),
                        ));
                    }
                    Step::Damage(damage) => self.note_damage(&damage, span),
                    Step::End => return Ok(Verdict::Done(None)),
                }
            }
        })
    }

    /// The first record of the span whose timestamp is at or after `time`.
    pub(super) fn first_at_or_after(
        self: &Arc<Self>,
        time: TimestampMs,
        span: &Span,
    ) -> Result<Option<(Offset, TimestampMs)>> {
        self.touch();
        let cold = self.cold.lock();
        let sum = self.base_sum(&cold, span)?;
        let (tail_max, tail_first) = {
            let state = self.state.read();
            (state.tail.max_timestamp(), state.tail.first_offset())
        };
        // If `span.from` lies in the tail, the base cannot hold the record.
        if (sum.max_timestamp >= Some(time) || sum.gaps > Gaps::None)
            && tail_first.is_none_or(|first| span.from < first)
        {
            let begin = Begin::Time(Part::Base, span.from, time);
            if let Some(found) = self.first_in(&cold, begin, time, span)? {
                return Ok(Some(found));
            }
        }
        if tail_max >= Some(time) {
            return self.first_in(&cold, Begin::Time(Part::Tail, span.from, time), time, span);
        }
        Ok(None)
    }

    fn first_in(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        begin: Begin,
        time: TimestampMs,
        span: &Span,
    ) -> Result<Option<(Offset, TimestampMs)>> {
        self.walk(cold, begin, span, |walker, _| {
            loop {
                match walker.step()? {
                    Step::Batch(position, header) => {
                        if header.base_offset >= span.end {
                            return Ok(Verdict::Done(None));
                        }
                        if header.max_timestamp < time || header.next_offset() <= span.from {
                            continue;
                        }
                        let bytes = self.batch_bytes(walker, position, &header)?;
                        let found = first_record(&bytes, &header, span.from, |timestamp| timestamp >= time);
                        if let Some(found) = found {
                            return Ok(Verdict::Done(
                                Some(found).filter(|(offset, _)| *offset < span.end),
                            ));
                        }
                    }
                    Step::Damage(damage) if !damage.confirmed => return Ok(Verdict::Doubt(damage)),
                    // The damaged bytes could hold the record: a later one might not be the first.
                    Step::Damage(damage) => {
                        self.note_damage(&damage, span);
                        if damage.until.is_none_or(|until| span.from < until) {
                            return Err(self.damaged(&damage, span));
                        }
                    }
                    Step::End => return Ok(Verdict::Done(None)),
                }
            }
        })
    }

    fn batch_bytes(&self, walker: &Walker, position: u64, header: &BatchHeader) -> Result<bytes::Bytes> {
        walker
            .bytes(position, position + header.total_bytes() as u64)
            .map_err(|error| Error::reading(format!("reading {}", self.file("log").display()), error))
    }

    /// Opens the segment, prepares a walk from `begin`, and lets `body` walk. If the log does not fit an index that
    /// came from a file, the index is made again from the log and `body` is called once more.
    fn walk<T>(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        begin: Begin,
        span: &Span,
        mut body: impl FnMut(&mut Walker, Option<&Index>) -> Result<Verdict<T>>,
    ) -> Result<T> {
        let open = self.open(cold, span)?;
        loop {
            let (course, base) = self.course(cold, &open, begin, span)?;
            let mut walker = Walker::new(Arc::clone(&open.map), self.verified(&open), self.base, course);
            let verdict = body(&mut walker, base.as_deref());
            self.hand_in(&open, &walker);
            match verdict? {
                Verdict::Done(value) => return Ok(value),
                Verdict::Doubt(damage) => {
                    tracing::warn!(
                        log = %self.file("log").display(),
                        position = damage.position,
                        what = damage.what,
                        "a log does not fit its index, which is made anew"
                    );
                    // Then no part of the index comes from a file, so the second call of `body` is the last.
                    self.rebuild(cold, &open, Index::new(self.base, 0), span)?;
                }
            }
        }
    }

    /// Where to walk, and the base index if the walk needs it.
    fn course(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        open: &Arc<OpenMap>,
        begin: Begin,
        span: &Span,
    ) -> Result<(Course, Option<Arc<Index>>)> {
        let in_tail = match begin {
            Begin::Offset(offset) => self.state.read().in_tail(offset),
            Begin::Time(part, ..) => part == Part::Tail,
        };
        // The start of the tail cannot move while this thread holds the `cold` lock.
        let base = if in_tail {
            None
        } else {
            Some(self.load_base(cold, open, span)?)
        };
        let state = self.state.read();
        let doubted_to = base.as_ref().map_or(0, |base| base.doubted_to);
        let has_gaps = base.as_ref().is_some_and(|base| base.gaps > Gaps::None);
        let base = base.map(|base| base.index);
        let part = base.as_deref().unwrap_or(&state.tail);
        let stretch = match begin {
            Begin::Offset(offset) => part.find(offset),
            // A record at or after the time could lie in what the index leaves out.
            Begin::Time(_, offset, _) if has_gaps => part.find(offset),
            Begin::Time(_, offset, time) => part.find(offset).max(part.find_time(time)),
        };
        let mut marks: Vec<Mark> = part.marks_from(stretch).collect();
        // Search only the base here: for a time that it does not reach, the tail's own index is the faster way.
        let end = match begin {
            Begin::Time(Part::Base, ..) => part.end(),
            _ => state.tail.end(),
        };
        if base.is_some() {
            marks.extend(state.tail.marks_from(0));
        }
        // Damage may lie before the first stretch of the log; it has no entry.
        let (start, next_offset) = match marks.first() {
            Some(mark) if stretch > 0 || in_tail => (mark.position, mark.offset),
            _ => (part.start(), self.base),
        };
        let course = Course {
            start,
            end,
            next_offset,
            limit: span.limit(state.published_to),
            marks,
            doubted_to,
        };
        drop(state);
        Ok((course, base))
    }

    /// The error for a read that begins in damage.
    pub(super) fn damaged(&self, damage: &Damage, span: &Span) -> Error {
        Error::Damaged {
            place: format!("{} at byte {}", self.file("log").display(), damage.position),
            what: damage.what.clone(),
            damaged_from: damage.from,
            damaged_until: damage.until.unwrap_or(span.segment_end),
        }
    }
}

/// The first record of a batch, from offset `from` on, whose timestamp `fits`. A compressed batch is inflated for that;
/// for one whose records cannot be read all the same: its first offset (or `from`, if that is later) and its largest
/// timestamp.
pub(super) fn first_record(
    bytes: &[u8],
    header: &BatchHeader,
    from: Offset,
    fits: impl Fn(TimestampMs) -> bool,
) -> Option<(Offset, TimestampMs)> {
    let inflated = match header.attributes.compression() {
        0 => None,
        _ => batch::inflate(bytes, MAX_INFLATED_BYTES).ok(),
    };
    let Ok(records) = Records::new(inflated.as_deref().unwrap_or(bytes)) else {
        return Some((header.base_offset.max(from), header.max_timestamp));
    };
    records
        .map_while(|record| record.ok())
        .map(|record| (record.offset, record.timestamp))
        .find(|(offset, timestamp)| *offset >= from && fits(*timestamp))
}
