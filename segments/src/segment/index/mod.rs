//! The sparse index of one segment: where to begin to look for an offset or a time.
//!
//! The log is divided into *stretches* of whole batches, each [`STRETCH_BYTES`] long (more where a batch is). Each
//! stretch has an entry: its first offset and position, whether all its values are JSON on one line, and the largest
//! timestamp of everything before it. A lookup finds the stretch by binary search, then walks its batches.
//!
//! An index is derived from the log: losing it costs only a scan. In memory it covers any part `start..end` of a log
//! file (a segment that is appended to after a restart has one index for the bytes from before and one for those
//! since). [`mod@format`] has the files, which always begin at 0.
//!
//! Invariants: entries rise strictly in offset and position; `earlier` never falls; a stretch ends where the next
//! begins, and the last one ends at `end`.

mod format;

pub(crate) use format::{HEADER_BYTES, MAX_FILE_BYTES, VERSION, decode, encode, summary, version_of_another};

use crate::segment::BatchNote;
use crate::types::{Offset, TimestampMs};

/// How much of the log an entry covers: small enough that walking a stretch takes a microsecond or two, large enough
/// that the index of a segment of 64 MiB fits in 80 KiB.
pub(crate) const STRETCH_BYTES: u64 = 16 * 1024;

/// The largest log file: positions in an index are 32 bits.
pub(crate) const MAX_LOG_BYTES: u64 = u32::MAX as u64;

/// How far the first offset of a batch may lie above its segment's base: 31 bits, as in the record batch's own deltas.
/// Even with the smallest records, a log of [`MAX_LOG_BYTES`] holds fewer offsets.
pub(crate) const MAX_RELATIVE_OFFSET: u64 = i32::MAX as u64;

/// The flag of an entry, above the 31 bits of the relative offset.
const JSON_LINES: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// First offset less the segment's base, with [`JSON_LINES`].
    relative: u32,
    position: u32,
}

impl Entry {
    fn relative(self) -> u64 {
        u64::from(self.relative & !JSON_LINES)
    }

    fn position(self) -> u64 {
        u64::from(self.position)
    }
}

/// Where a stretch begins: a batch of exactly this offset at exactly this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: u64,
    pub(crate) offset: Offset,
}

/// The index of a part of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    /// The segment's base, which offsets are relative to.
    base: Offset,
    /// The bytes of the log that are covered.
    start: u64,
    end: u64,
    /// One past the last offset covered; `base` while nothing is covered.
    next_offset: Offset,
    max_timestamp: Option<TimestampMs>,
    entries: Vec<Entry>,
    /// For each entry the largest timestamp before its stretch: `i64::MIN` if there is none, `i64::MAX` behind damage.
    earlier: Vec<i64>,
    /// The next batch begins a new stretch, however short the last one is, because damage lies between them.
    broken: bool,
}

impl Index {
    /// An empty index that begins at byte `start` of the log file. `base`: the segment's base offset.
    pub(crate) fn new(base: Offset, start: u64) -> Self {
        Self {
            base,
            start,
            end: start,
            next_offset: base,
            max_timestamp: None,
            entries: Vec::new(),
            earlier: Vec::new(),
            broken: false,
        }
    }

    /// The first byte covered.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// One past the last byte covered.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether it has no entry: it covers nothing, or only damage.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first offset of the first stretch.
    pub(crate) fn first_offset(&self) -> Option<Offset> {
        self.entries.first().map(|entry| self.offset_of(*entry))
    }

    /// One past the last offset; the segment's base while nothing is covered.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The largest timestamp covered.
    pub(crate) fn max_timestamp(&self) -> Option<TimestampMs> {
        self.max_timestamp
    }

    /// Adds the batch that begins where the index ends.
    ///
    /// # Panics
    /// If it begins elsewhere, or its offset or position is too large for an index: the committer rolls before that.
    pub(crate) fn push(&mut self, note: &BatchNote) {
        let position = note.position.get();
        assert_eq!(
            position, self.end,
            "a batch at {position} cannot follow an index that ends at {}",
            self.end
        );
        let relative = note.base_offset.since(self.base);
        assert!(
            note.base_offset >= self.base && relative <= MAX_RELATIVE_OFFSET,
            "a batch at offset {} does not belong in the segment {}",
            note.base_offset,
            self.base
        );
        match self.entries.last_mut() {
            Some(last) if !self.broken && position - last.position() < STRETCH_BYTES => {
                if !note.json_lines {
                    last.relative &= !JSON_LINES;
                }
            }
            _ => {
                let flag = if note.json_lines { JSON_LINES } else { 0 };
                self.entries.push(Entry {
                    relative: relative as u32 | flag,
                    position: u32::try_from(position).expect("log files are at most 4 GiB"),
                });
                // The timestamps in the damage are unknown: a lookup of any time begins before it, and meets it.
                let earlier = if self.broken {
                    i64::MAX
                } else {
                    self.max_timestamp.map_or(i64::MIN, TimestampMs::get)
                };
                self.earlier
                    .push(self.earlier.last().map_or(earlier, |last| earlier.max(*last)));
                self.broken = false;
            }
        }
        self.end = position + note.bytes;
        self.next_offset = note.next_offset;
        self.max_timestamp = self.max_timestamp.max(Some(note.max_timestamp));
    }

    /// Counts the bytes up to `position` as covered although they are damaged.
    pub(crate) fn skip_to(&mut self, position: u64) {
        debug_assert!(position >= self.end);
        self.end = position;
        self.broken = true;
    }

    /// Adds all entries of `later`, which must begin where this index ends.
    pub(crate) fn append(&mut self, later: &Self) {
        assert_eq!(
            later.start, self.end,
            "an index that begins elsewhere cannot follow"
        );
        let before = if self.broken {
            i64::MAX
        } else {
            let before = self.max_timestamp.map_or(i64::MIN, TimestampMs::get);
            self.earlier.last().map_or(before, |last| before.max(*last))
        };
        self.entries.extend_from_slice(&later.entries);
        self.earlier
            .extend(later.earlier.iter().map(|earlier| (*earlier).max(before)));
        if !later.is_empty() {
            self.next_offset = later.next_offset;
        }
        self.max_timestamp = self.max_timestamp.max(later.max_timestamp);
        self.end = later.end;
        self.broken = later.broken || (later.is_empty() && self.broken);
    }

    /// The stretch that holds `offset`, if any does; the first for lower offsets. 0 if the index is empty.
    pub(crate) fn find(&self, offset: Offset) -> usize {
        let relative = offset.since(self.base);
        self.entries
            .partition_point(|entry| entry.relative() <= relative)
            .saturating_sub(1)
    }

    /// The stretch that holds the byte at `position`; the first one for lower positions.
    pub(crate) fn find_position(&self, position: u64) -> usize {
        self.entries
            .partition_point(|entry| entry.position() <= position)
            .saturating_sub(1)
    }

    /// The last stretch before which every timestamp is smaller than `time`: the first record at or after `time` is not
    /// before it.
    pub(crate) fn find_time(&self, time: TimestampMs) -> usize {
        self.earlier
            .partition_point(|earlier| *earlier < time.get())
            .saturating_sub(1)
    }

    /// Where a stretch begins.
    pub(crate) fn mark(&self, stretch: usize) -> Option<Mark> {
        self.entries.get(stretch).map(|entry| Mark {
            position: entry.position(),
            offset: self.offset_of(*entry),
        })
    }

    /// Where a stretch ends.
    pub(crate) fn stretch_end(&self, stretch: usize) -> u64 {
        self.entries
            .get(stretch + 1)
            .map_or(self.end, |next| next.position())
    }

    /// All stretches from one on.
    pub(crate) fn marks_from(&self, stretch: usize) -> impl Iterator<Item = Mark> + '_ {
        self.entries[stretch.min(self.entries.len())..]
            .iter()
            .map(|entry| Mark {
                position: entry.position(),
                offset: self.offset_of(*entry),
            })
    }

    /// Whether all stretches that overlap `start..end` hold only JSON on one line.
    pub(crate) fn json_lines(&self, start: u64, end: u64) -> bool {
        let first = self.find_position(start);
        self.entries[first.min(self.entries.len())..]
            .iter()
            .take_while(|entry| entry.position() < end)
            .all(|entry| entry.relative & JSON_LINES != 0)
    }

    fn offset_of(&self, entry: Entry) -> Offset {
        // Cannot overflow: entries come from valid offsets, or were checked when they were read from a file.
        self.base.plus(entry.relative())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FilePos;

    pub(super) fn note(offset: u64, records: u64, time: i64, position: u64, bytes: u64) -> BatchNote {
        BatchNote {
            base_offset: Offset::new(offset),
            next_offset: Offset::new(offset + records),
            max_timestamp: TimestampMs(time),
            position: FilePos(position),
            bytes,
            json_lines: true,
        }
    }

    /// 100 batches of 4 KiB with 10 records each, base 1000, times that go back once.
    pub(super) fn sample() -> Index {
        let mut index = Index::new(Offset::new(1000), 0);
        for i in 0..100u64 {
            let time = if i == 50 { 10 } else { 1000 + i as i64 };
            let mut note = note(1000 + i * 10, 10, time, i * 4096, 4096);
            note.json_lines = i != 9;
            index.push(&note);
        }
        index
    }

    #[test]
    fn an_entry_is_made_every_16_kib() {
        let index = sample();
        assert_eq!(index.entries.len(), 25);
        assert_eq!(index.mark(1).unwrap().position, 16_384);
        assert_eq!(index.mark(1).unwrap().offset, Offset::new(1040));
        assert_eq!(index.stretch_end(24), 100 * 4096);
        assert_eq!(index.mark(25), None);
    }

    #[test]
    fn offsets_are_found_in_the_stretch_that_holds_them() {
        let index = sample();
        let find = |offset| index.find(Offset::new(offset));
        assert_eq!((find(0), find(1000), find(1039), find(1040)), (0, 0, 0, 1));
        assert_eq!(find(5_000_000_000), 24);
    }

    #[test]
    fn times_are_found_at_the_last_stretch_that_can_hold_the_first() {
        let index = sample();
        let find = |time| index.find_time(TimestampMs(time));
        assert_eq!(find(i64::MIN), 0);
        assert_eq!(find(1000), 0);
        assert_eq!(find(1003), 0);
        assert_eq!(find(1004), 1);
        assert_eq!(find(i64::MAX), 24);
    }

    #[test]
    fn one_value_that_is_not_json_clears_the_flag_of_its_stretch_alone() {
        let index = sample();
        assert!(index.json_lines(0, 2 * 16_384));
        assert!(!index.json_lines(0, 2 * 16_384 + 1));
        assert!(!index.json_lines(9 * 4096, 10 * 4096));
        assert!(index.json_lines(3 * 16_384, u64::MAX));
    }

    #[test]
    fn two_halves_make_a_whole() {
        let whole = sample();
        let mut first = Index::new(Offset::new(1000), 0);
        let mut second = Index::new(Offset::new(1000), 52 * 4096);
        for i in 0..100u64 {
            let time = if i == 50 { 10 } else { 1000 + i as i64 };
            let mut note = note(1000 + i * 10, 10, time, i * 4096, 4096);
            note.json_lines = i != 9;
            if i < 52 { &mut first } else { &mut second }.push(&note);
        }
        first.append(&second);
        assert_eq!(first, whole);
    }

    #[test]
    fn after_damage_a_new_stretch_begins() {
        let mut index = Index::new(Offset::ZERO, 0);
        index.push(&note(0, 1, 5, 0, 100));
        index.skip_to(150);
        index.push(&note(3, 1, 4, 150, 100));
        assert_eq!(
            index.mark(1),
            Some(Mark {
                position: 150,
                offset: Offset::new(3)
            })
        );
        assert_eq!(index.max_timestamp(), Some(TimestampMs(5)));
    }

    #[test]
    fn no_time_is_looked_up_past_damage_that_could_hold_it() {
        let mut index = Index::new(Offset::ZERO, 0);
        index.push(&note(0, 1, 5, 0, 100));
        index.skip_to(150);
        index.push(&note(3, 1, 7, 150, STRETCH_BYTES));
        index.push(&note(4, 1, 9, 150 + STRETCH_BYTES, 100));
        assert_eq!(index.find_time(TimestampMs(9)), 0);
        let mut tail = Index::new(Offset::ZERO, index.end());
        tail.push(&note(5, 1, 11, index.end(), 100));
        index.append(&tail);
        assert_eq!(index.find_time(TimestampMs(11)), 0);
    }

    #[test]
    #[should_panic(expected = "cannot follow")]
    fn a_gap_in_positions_is_refused() {
        let mut index = Index::new(Offset::ZERO, 0);
        index.push(&note(0, 1, 5, 7, 100));
    }
}
