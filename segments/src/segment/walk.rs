//! Walking the batches of a log file that are not verified yet, past damage if need be.
//!
//! Every batch that is walked over is brought into memory and its CRC-32C checked, unless that was done for this map
//! before. The CRC does not cover a batch's length and base offset. A wrong length makes the CRC fail; a wrong offset shows
//! by its neighbours: offsets rise, and at a mark (where the index says that a stretch begins) they are known exactly.
//!
//! From damage the walk goes on at the next byte where a batch begins whose CRC is right and whose offsets fit between its
//! neighbours: where the damaged header says that the next batch is, else wherever one is found. Marks bound the search.
//! What lies between is lost, and its offsets are known by what is around it. (A record that itself contains a batch with
//! fitting offsets could be taken for one if the length field of the batch around it is what was damaged; the index's
//! marks leave that little room.)

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::intervals::Intervals;
use crate::batch::{self, BatchHeader, HEADER_BYTES};
use crate::disk::Mapping;
use crate::error::{Error, Result};
use crate::index::{MAX_RELATIVE_OFFSET, Mark};
use crate::types::Offset;

/// How much is brought into memory at once.
const WINDOW_BYTES: u64 = 256 * 1024;
/// The unit in which a disk fails, and memory is mapped.
const PAGE_BYTES: u64 = 4096;

/// What the walk comes to next.
pub(super) enum Step {
    /// A healthy batch at a position.
    Batch(u64, BatchHeader),
    /// Bytes that hold no healthy batch.
    Damage(Damage),
    /// The end of what was to be walked.
    End,
}

/// A damaged stretch of the log.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    /// Where the first damaged batch begins.
    pub(super) position: u64,
    /// Where healthy batches go on, or the end of the walk.
    pub(super) resume: u64,
    /// The first offset that is lost.
    pub(super) from: Offset,
    /// The first offset that is not; `None`: there is nothing healthy up to the end of the walk.
    pub(super) until: Option<Offset>,
    /// What was found at `position`.
    pub(super) what: String,
    /// Whether the marks around it are right, so that it is the log that is damaged and not the index that is wrong.
    pub(super) confirmed: bool,
}

/// Why there is no healthy batch at a position.
enum Fault {
    Damage(String),
    /// Not the fault of the stored bytes: ends the walk.
    Io(Error),
}

/// A walk over `position..end` of a log file.
pub(super) struct Walker {
    map: Arc<dyn Mapping>,
    /// Verified before, and by this walk.
    verified: Intervals,
    /// Verified by this walk.
    pub(super) fresh: Intervals,
    /// The segment's base offset.
    base: Offset,
    position: u64,
    end: u64,
    /// Offsets of what comes are not below it.
    next_offset: Offset,
    /// Offsets of what comes are below it.
    limit: Option<Offset>,
    /// Where stretches begin, in order.
    marks: Vec<Mark>,
    /// Whether a mark (or the file's beginning) was found to be right, and none was passed since.
    at_home: bool,
    /// Bytes in memory, from `window_start` on.
    window: Bytes,
    window_start: u64,
}

/// Where and how far to walk.
pub(super) struct Course {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) next_offset: Offset,
    pub(super) limit: Option<Offset>,
    pub(super) marks: Vec<Mark>,
}

impl Walker {
    pub(super) fn new(map: Arc<dyn Mapping>, verified: Intervals, base: Offset, course: Course) -> Self {
        Self {
            map,
            verified,
            fresh: Intervals::default(),
            base,
            position: course.start,
            end: course.end,
            next_offset: course.next_offset,
            limit: course.limit,
            marks: course.marks,
            at_home: course.start == 0,
            window: Bytes::new(),
            window_start: 0,
        }
    }

    /// Where the next step begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Goes on to the next batch, past damage, or to the end.
    ///
    /// # Errors
    /// Only what is not the stored bytes' fault (memory has run out).
    pub(super) fn step(&mut self) -> Result<Step> {
        if self.position >= self.end {
            return Ok(Step::End);
        }
        match self.batch_at(self.position) {
            Ok(header) => {
                let position = self.position;
                self.accept(position, &header);
                Ok(Step::Batch(position, header))
            }
            Err(Fault::Damage(what)) => Ok(Step::Damage(self.pass_damage(what)?)),
            Err(Fault::Io(error)) => Err(error),
        }
    }

    /// The bytes `start..end`, which this walk has found healthy.
    pub(super) fn bytes(&self, start: u64, end: u64) -> io::Result<Bytes> {
        Arc::clone(&self.map).bytes(start, end)
    }

    /// Moves behind a healthy batch.
    fn accept(&mut self, position: u64, header: &BatchHeader) {
        let end = position + header.total_bytes() as u64;
        if self
            .verified
            .end_of(position)
            .is_none_or(|verified| verified < end)
        {
            self.verified.insert(position, end);
            self.fresh.insert(position, end);
        }
        self.position = end;
        self.next_offset = header.next_offset();
        // A chain of healthy batches that ends exactly at a mark confirms it as well as the batch there would.
        self.at_home |= self.mark_at(position).is_some() || self.mark_at(end).is_some();
    }

    /// The mark that says what begins at `position`.
    fn mark_at(&self, position: u64) -> Option<Mark> {
        let at = self.marks.partition_point(|mark| mark.position < position);
        self.marks
            .get(at)
            .copied()
            .filter(|mark| mark.position == position)
    }

    /// The first mark beyond `position`.
    fn mark_after(&self, position: u64) -> Option<Mark> {
        let at = self.marks.partition_point(|mark| mark.position <= position);
        self.marks.get(at).copied()
    }

    /// Checks the batch at `position` against itself and its neighbours.
    fn batch_at(&mut self, position: u64) -> Result<BatchHeader, Fault> {
        let next_mark = self.mark_after(position);
        let region_end = next_mark.map_or(self.end, |mark| mark.position).min(self.end);
        let known = self.verified.end_of(position);
        let header = self.sound_batch_at(position, region_end, known.is_some())?;
        let upper = next_mark.map(|mark| mark.offset).or(self.limit);
        self.check_offsets(position, &header, upper)?;
        if known.is_none() {
            self.check_gap(position, &header, region_end)?;
        }
        Ok(header)
    }

    /// Checks header, length and (unless `verified`) CRC of the batch at `position`, which must end by `region_end`.
    fn sound_batch_at(
        &mut self,
        position: u64,
        region_end: u64,
        verified: bool,
    ) -> Result<BatchHeader, Fault> {
        let header_end = position + HEADER_BYTES as u64;
        if header_end > region_end {
            return Err(Fault::Damage(format!(
                "{} bytes are too few for a batch",
                region_end - position
            )));
        }
        let bytes = self.window(position, header_end)?;
        let header = BatchHeader::peek(bytes).map_err(|error| Fault::Damage(error.to_string()))?;
        let end = position + header.total_bytes() as u64;
        if end > region_end {
            return Err(Fault::Damage(format!(
                "a batch of {} bytes where {} are left",
                header.total_bytes(),
                region_end - position
            )));
        }
        if verified {
            return Ok(header);
        }
        let bytes = self.window(position, end)?;
        batch::verify(bytes).map_err(|error| Fault::Damage(error.to_string()))
    }

    /// Checks that a batch's offsets fit between those around it.
    fn check_offsets(&self, position: u64, header: &BatchHeader, upper: Option<Offset>) -> Result<(), Fault> {
        let base = header.base_offset;
        let misfit = |expected: String| {
            Err(Fault::Damage(format!(
                "a batch of offsets {base} to {} where {expected}",
                header.next_offset()
            )))
        };
        if let Some(mark) = self.mark_at(position)
            && mark.offset != base
        {
            return misfit(format!("offset {} is expected", mark.offset));
        }
        if base < self.next_offset {
            return misfit(format!("offsets from {} on are expected", self.next_offset));
        }
        if let Some(upper) = upper
            && header.next_offset() > upper
        {
            return misfit(format!("offsets below {upper} are expected"));
        }
        if base.since(self.base) > MAX_RELATIVE_OFFSET {
            return misfit(format!("the segment begins with {}", self.base));
        }
        Ok(())
    }

    /// A batch that leaves offsets out must not reach into those of the next: then it is its own base offset, which no CRC
    /// covers, that is wrong.
    fn check_gap(&mut self, position: u64, header: &BatchHeader, region_end: u64) -> Result<(), Fault> {
        if header.base_offset == self.next_offset || self.mark_at(position).is_some() {
            return Ok(());
        }
        let next = position + header.total_bytes() as u64;
        if next >= region_end {
            return Ok(());
        }
        match self.sound_batch_at(next, region_end, false) {
            Ok(following)
                if following.base_offset < header.next_offset()
                    && following.base_offset >= self.next_offset =>
            {
                Err(Fault::Damage(format!(
                    "a batch of offsets {} to {} before one that begins with {}",
                    header.base_offset,
                    header.next_offset(),
                    following.base_offset
                )))
            }
            Err(Fault::Io(error)) => Err(Fault::Io(error)),
            Ok(_) | Err(Fault::Damage(_)) => Ok(()),
        }
    }

    /// Finds where healthy batches go on behind the damage at the present position, and moves there.
    fn pass_damage(&mut self, what: String) -> Result<Damage> {
        let (position, from) = (self.position, self.next_offset);
        let mut until = None;
        let mut resume = position;
        while resume < self.end {
            resume = self.search(resume)?;
            if resume >= self.end {
                break;
            }
            match self.batch_at(resume) {
                Ok(header) => {
                    until = Some(header.base_offset);
                    break;
                }
                Err(Fault::Damage(_)) => {}
                Err(Fault::Io(error)) => return Err(error),
            }
        }
        self.position = resume;
        self.next_offset = until.unwrap_or(from);
        // The index is right if a mark near the damage is. One that was passed over is not known to be.
        self.at_home &= self
            .mark_after(position)
            .is_none_or(|mark| mark.position > resume);
        let confirmed = self.at_home
            || (until.is_some() && self.mark_at(resume).is_some())
            || match self.mark_after(resume) {
                Some(mark) if mark.position < self.end => self.is_batch(mark.position)?,
                _ => false,
            };
        Ok(Damage {
            position,
            resume,
            from,
            until,
            what,
            confirmed,
        })
    }

    /// The next position after `from`, which is damaged, where a healthy batch begins; the next mark or the end if there is
    /// none before.
    fn search(&mut self, from: u64) -> Result<u64> {
        let region_end = self
            .mark_after(from)
            .map_or(self.end, |mark| mark.position)
            .min(self.end);
        // The length in the header may be right and something else wrong.
        let header_end = from + HEADER_BYTES as u64;
        if header_end <= region_end
            && let Ok(bytes) = self.window(from, header_end)
            && let Ok(header) = BatchHeader::peek(bytes)
        {
            let next = from + header.total_bytes() as u64;
            if next == region_end {
                return Ok(next);
            }
            if next < region_end && self.is_batch(next)? {
                return Ok(next);
            }
        }
        let mut position = from + 1;
        while position + HEADER_BYTES as u64 <= region_end {
            match self.window(position, position + HEADER_BYTES as u64) {
                Ok(_) => {}
                Err(Fault::Io(error)) => return Err(error),
                Err(Fault::Damage(_)) => {
                    position = (position / PAGE_BYTES + 1) * PAGE_BYTES;
                    continue;
                }
            }
            match self.next_candidate(position, region_end) {
                Ok(candidate) => {
                    if self.is_batch(candidate)? {
                        return Ok(candidate);
                    }
                    position = candidate + 1;
                }
                Err(searched) => position = searched,
            }
        }
        Ok(region_end)
    }

    /// The next position in the window that looks like a batch's beginning, or how far it was searched in vain.
    fn next_candidate(&self, position: u64, region_end: u64) -> Result<u64, u64> {
        let skip = (position - self.window_start) as usize;
        let window_end = self.window_start + self.window.len() as u64;
        let bytes = &self.window[skip..(window_end.min(region_end) - self.window_start) as usize];
        let last = bytes.len() - HEADER_BYTES;
        for at in 0..=last {
            // Magic, then the base offset: what sorts out nearly everything.
            if bytes[at + 16] != 2 {
                continue;
            }
            let base = u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            if base >= self.next_offset.get() && base - self.next_offset.get() <= MAX_RELATIVE_OFFSET {
                return Ok(position + at as u64);
            }
        }
        Err(position + last as u64 + 1)
    }

    fn is_batch(&mut self, position: u64) -> Result<bool> {
        match self.batch_at(position) {
            Ok(_) => Ok(true),
            Err(Fault::Damage(_)) => Ok(false),
            Err(Fault::Io(error)) => Err(error),
        }
    }

    /// The bytes `start..end`, brought into memory.
    fn window(&mut self, start: u64, end: u64) -> Result<&[u8], Fault> {
        let window_end = self.window_start + self.window.len() as u64;
        if start < self.window_start || end > window_end {
            self.window = Bytes::new();
            self.window_start = start;
            self.window = self.load(start, end)?;
        }
        let from = (start - self.window_start) as usize;
        Ok(&self.window[from..from + (end - start) as usize])
    }

    /// Loads at least `start..end`: more if that can be read, too.
    fn load(&self, start: u64, end: u64) -> Result<Bytes, Fault> {
        let page_end = end.next_multiple_of(PAGE_BYTES).min(self.end.max(end));
        let far_end = (start + WINDOW_BYTES).min(self.end).max(page_end);
        let mut failure = None;
        for loaded in [far_end, page_end, end] {
            let result = self
                .map
                .populate(start, loaded)
                .and_then(|()| Arc::clone(&self.map).bytes(start, loaded));
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failure = Some(error),
            }
        }
        let error = failure.expect("three attempts were made");
        if error.kind() == io::ErrorKind::OutOfMemory {
            return Err(Fault::Io(Error::io("reading a segment", error)));
        }
        Err(Fault::Damage(error.to_string()))
    }
}
