//! Reads a partition over its segments.
//!
//! A [`View`] is a consistent snapshot of a partition. Reads take no lock against appends or retention: segments grow
//! only beyond the view's end, and a segment that was removed meanwhile returns [`Error::Trimmed`].

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::segment::{Access, Segment, Span};
use crate::types::{FilePos, Offset, TimestampMs};

/// A consistent snapshot of a partition, taken under its lock.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) log_start_offset: Offset,
    /// One past the last readable record. Batches of the last segment are checked against it: until something is
    /// published in that segment, this is exactly where its readable records end.
    pub(crate) end_offset: Offset,
    /// In order of base offset; the last may be empty.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The first offset wanted.
    pub from: Offset,
    /// Exclusive end; `None`: the partition's end.
    pub until: Option<Offset>,
    /// Stored bytes at most, counted from the batch that holds `from`; one batch is always returned.
    pub max_bytes: usize,
}

impl ReadRequest {
    /// From `from` to the partition's end, as much as `max_bytes` allow.
    pub fn new(from: Offset, max_bytes: usize) -> Self {
        let until = None;
        Self {
            from,
            until,
            max_bytes,
        }
    }

    /// The same up to an offset, exclusive.
    #[must_use]
    pub fn until(self, until: Offset) -> Self {
        let until = Some(until);
        Self { until, ..self }
    }
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
    /// The first run may begin before the requested offset, the last may end after `until`.
    pub runs: Vec<Run>,
    /// One past the last record in `runs`; the requested offset if `runs` is empty.
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
    /// The time from which retention counts the age of its segment: the earlier of the segment's largest timestamp and
    /// its last append. `None` at the end, and if it is unknown because a part of the segment could not be read.
    pub retention_time: Option<TimestampMs>,
    /// Where its batch lies: the base offset of its segment, and the position in that segment; `None` at the end.
    pub batch: Option<(Offset, FilePos)>,
}

impl View {
    /// The segment that would hold `offset`.
    fn segment_of(&self, offset: Offset) -> usize {
        self.segments
            .partition_point(|segment| segment.base_offset() <= offset)
            .saturating_sub(1)
    }

    /// The part of a segment that lies in `from..end`.
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
/// - [`Error::Damaged`]: `from` lies in damage; continue from `damaged_until`.
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
        // Each segment begins where the one before ends: a gap means that a segment is missing or too short.
        let base = view
            .segments
            .get(segment)
            .map_or(view.end_offset, |segment| segment.base_offset());
        if base > fetched.next_offset {
            if !fetched.runs.is_empty() {
                break;
            }
            let (place, what) = match segment
                .checked_sub(1)
                .and_then(|before| view.segments.get(before))
            {
                Some(before) => (
                    before.log_path().display().to_string(),
                    "it ends before the next segment begins, or a file between them is missing",
                ),
                None => (format!("the segment before {base:020}.log"), "it is missing"),
            };
            return Err(Error::Damaged {
                place,
                what: what.into(),
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
            // The next read begins at this error, and reports it.
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
/// Exact: timestamps may go backwards from record to record, and the first record in offset order is found. Takes well
/// below a millisecond if the batches around it are in memory.
///
/// # Errors
/// - [`Error::Damaged`]: the record could lie in damage; the caller decides whether to begin before or behind it.
/// - [`Error::Io`]: a file could not be opened or mapped.
pub(crate) fn offset_for_time(view: &View, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>> {
    for index in view.segment_of(view.log_start_offset)..view.segments.len() {
        let segment = &view.segments[index];
        let span = view.span(index, view.log_start_offset, view.end_offset);
        let found = segment.may_reach(time, &span).and_then(|may_reach| {
            if may_reach {
                segment.first_at_or_after(time, &span)
            } else {
                Ok(None)
            }
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

/// Where `offset` lies. An offset below the log start counts as the log start, one above the end as the end.
///
/// Damage is passed over: reports call this, and must work in spite of damage.
///
/// # Errors
/// [`Error::Io`]: a file could not be opened, mapped or read. [`Error::Trimmed`]: the segment was removed meanwhile.
pub(crate) fn locate(view: &View, offset: Offset) -> Result<Located> {
    let offset = offset.max(view.log_start_offset);
    if offset < view.end_offset {
        for index in view.segment_of(offset)..view.segments.len() {
            let segment = &view.segments[index];
            let span = view.span(index, offset, view.end_offset);
            let first = match segment.first_record(&span) {
                Ok(Some(first)) => first,
                Ok(None) | Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(in_view(error, view)),
            };
            return Ok(Located {
                bytes_to_end: bytes_to_end(view, index, first.position),
                next: Some((first.offset, first.timestamp)),
                retention_time: segment.retention_time(&span)?,
                batch: Some((segment.base_offset(), first.position)),
            });
        }
    }
    Ok(Located {
        bytes_to_end: 0,
        next: None,
        retention_time: None,
        batch: None,
    })
}

/// Brings the result of an earlier [`locate`] up to date without reading a record: only the bytes behind the record
/// have changed. `None` if its record was deleted meanwhile, or cannot be found this way: then call [`locate`] again.
pub(crate) fn relocate(view: &View, located: &Located) -> Option<Located> {
    let ((next, _), (base, position)) = located.next.zip(located.batch)?;
    if next < view.log_start_offset || next >= view.end_offset {
        return None;
    }
    let index = view.segment_of(next);
    let segment = view
        .segments
        .get(index)
        .filter(|segment| segment.base_offset() == base)?;
    Some(Located {
        bytes_to_end: bytes_to_end(view, index, position),
        retention_time: segment
            .retention_time(&view.span(index, next, view.end_offset))
            .ok()?,
        ..*located
    })
}

/// Stored bytes from a position in a segment to the end of the log.
fn bytes_to_end(view: &View, segment: usize, position: FilePos) -> u64 {
    let bytes = |segment: &Arc<Segment>| segment.readable().get();
    let behind: u64 = view.segments[segment + 1..].iter().map(bytes).sum();
    behind + bytes(&view.segments[segment]).saturating_sub(position.get())
}

/// Adds the partition's end to an error of a segment, which does not know it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Codec;
    use crate::io::disk::RealDisk;
    use crate::segment::testing::{Rig, Written, disks, seeds};
    use crate::sim::Rng;

    fn request(from: u64, until: Option<u64>, max_bytes: usize) -> ReadRequest {
        ReadRequest {
            from: Offset::new(from),
            until: until.map(Offset::new),
            max_bytes,
        }
    }

    /// The expected results, from a plain list of all batches.
    struct Model<'a> {
        batches: &'a [Written],
        log_start: u64,
        end: u64,
    }

    impl Model<'_> {
        /// The batches that a read returns.
        fn read(&self, request: &ReadRequest) -> &[Written] {
            let (from, end) = (
                request.from.get(),
                request.until.map_or(self.end, |until| until.get().min(self.end)),
            );
            let first = self.batches.partition_point(|batch| batch.next() <= from);
            let mut last = first;
            let mut bytes = 0;
            while from < end && last < self.batches.len() && self.batches[last].base() < end {
                bytes += self.batches[last].bytes.len();
                if last > first && bytes > request.max_bytes {
                    break;
                }
                last += 1;
            }
            &self.batches[first..last]
        }

        fn records(&self) -> impl Iterator<Item = (&Written, u64, i64)> {
            self.batches.iter().flat_map(|batch| {
                batch
                    .times
                    .iter()
                    .enumerate()
                    .map(move |(i, time)| (batch, batch.base() + i as u64, *time))
            })
        }

        fn for_time(&self, time: i64) -> Option<(Offset, TimestampMs)> {
            self.records()
                .find(|(_, offset, at)| *offset >= self.log_start && *at >= time)
                .map(|(_, offset, at)| (Offset::new(offset), TimestampMs(at)))
        }

        fn locate(&self, offset: u64) -> Located {
            let offset = offset.max(self.log_start);
            let Some((batch, next, time)) = self.records().find(|(_, at, _)| *at >= offset) else {
                return Located {
                    bytes_to_end: 0,
                    next: None,
                    retention_time: None,
                    batch: None,
                };
            };
            let bytes = |from: u64| -> u64 {
                self.batches
                    .iter()
                    .filter(|batch| batch.base() >= from)
                    .map(|batch| batch.note.bytes)
                    .sum()
            };
            Located {
                bytes_to_end: bytes(batch.base()),
                next: Some((Offset::new(next), TimestampMs(time))),
                retention_time: self
                    .batches
                    .iter()
                    .filter(|other| other.segment == batch.segment)
                    .map(|other| other.note.max_timestamp)
                    .max(),
                // A list has no positions.
                batch: None,
            }
        }
    }

    fn compare(rig: &Rig, random: &mut Rng, published: bool) {
        let (first, end) = (rig.segments[0].base_offset().get(), rig.view().end_offset.get());
        // The view does not always show the whole log: retention moves its start, other rounds its end.
        let log_start = match random.below(3) {
            0 => first + random.below(end - first + 1),
            _ => first,
        };
        let mut view = rig.view();
        view.log_start_offset = Offset::new(log_start);
        if published && random.chance(1, 3) {
            let seen = rig.written.partition_point(|batch| batch.base() <= log_start);
            let at = seen as u64 + random.below((rig.written.len() - seen) as u64 + 1);
            if let Some(batch) = rig.written[..at as usize].last() {
                view.end_offset = batch.note.next_offset.max(view.log_start_offset);
            }
        }
        let end = view.end_offset.get();
        let model = Model {
            batches: &rig.written[..rig.written.partition_point(|batch| batch.base() < end)],
            log_start,
            end,
        };

        let from = log_start + random.below(end - log_start + 1);
        let until = random.chance(1, 2).then(|| random.below(end + 20));
        let max_bytes = match random.below(5) {
            0 => 0,
            1 => random.below(2_000),
            2 => random.below(100_000),
            3 => random.below(2_000_000),
            _ => u64::MAX,
        };
        let request = request(from, until, max_bytes as usize);
        let expected = model.read(&request);
        let warm_before = read(&view, request, Access::Warm).unwrap();
        let cold = read(&view, request, Access::Cold).unwrap().unwrap();
        let mut all = vec![cold];
        all.extend(warm_before);
        if rig.pool.max_open > rig.segments.len() && !expected.is_empty() {
            let warm = read(&view, request, Access::Warm).unwrap();
            let warm = warm.unwrap_or_else(|| panic!("{request:?} was read a moment ago and is not warm"));
            all.push(warm);
        }
        for fetched in all {
            let found: Vec<u8> = fetched.runs.iter().flat_map(|run| run.bytes.to_vec()).collect();
            let wanted: Vec<u8> = expected.iter().flat_map(|batch| batch.bytes.clone()).collect();
            assert!(
                found == wanted,
                "{request:?}: {} bytes, {} expected",
                found.len(),
                wanted.len()
            );
            let found = fetched.next_offset.get();
            assert_eq!(found, expected.last().map_or(from, Written::next), "{request:?}");
            assert_eq!(fetched.log_start_offset.get(), log_start);
            assert_eq!(fetched.end_offset.get(), end);
            let mut rest = expected;
            for run in &fetched.runs {
                let mut bytes = 0;
                while bytes < run.bytes.len() {
                    bytes += rest[0].bytes.len();
                    assert!(!run.json_lines || rest[0].note.json_lines, "{request:?}");
                    rest = &rest[1..];
                }
                assert_eq!(bytes, run.bytes.len(), "a run ends within a batch");
            }
        }

        let time = random.below(2_200) as i64 - 100;
        let found = offset_for_time(&view, TimestampMs(time)).unwrap();
        assert_eq!(found, model.for_time(time), "at {time}");
        let offset = random.below(end + 5);
        let located = locate(&view, Offset::new(offset)).unwrap();
        if located.next.is_some() {
            assert_eq!(relocate(&view, &located), Some(located));
        }
        let located = Located {
            batch: None,
            ..located
        };
        let expected = model.locate(offset);
        if end == rig.next_offset {
            assert_eq!(located, expected, "{offset}");
        } else {
            // More is readable already than the view shows.
            assert_eq!(located.next, expected.next, "{offset}");
            assert!(located.bytes_to_end >= expected.bytes_to_end, "{offset}");
        }
    }

    fn sabotage_an_index(rig: &Rig, random: &mut Rng) {
        let segment = &rig.segments[random.below(rig.segments.len() as u64) as usize];
        let path = &segment.index_paths()[random.below(2) as usize];
        let Ok(mut contents) = std::fs::read(path) else {
            return;
        };
        match random.below(4) {
            0 => std::fs::remove_file(path).unwrap(),
            1 => std::fs::write(path, &contents[..random.below(contents.len() as u64) as usize]).unwrap(),
            2 => {
                let at = random.below(contents.len() as u64) as usize;
                contents[at] ^= 1 << random.below(8);
                std::fs::write(path, contents).unwrap();
            }
            _ => {
                let other = &rig.segments[random.below(rig.segments.len() as u64) as usize];
                if let Ok(contents) = std::fs::read(&other.index_paths()[0]) {
                    std::fs::write(&segment.index_paths()[0], contents).unwrap();
                }
            }
        }
    }

    fn append(rig: &mut Rig, random: &mut Rng) {
        let mut notes = Vec::new();
        for _ in 0..1 + random.below(30) {
            if random.chance(1, 10) {
                rig.next_offset += random.below(50);
            }
            // A clock that mostly goes forward.
            let now = rig.written.len() as i64;
            let times: Vec<i64> = (0..1 + random.below(20))
                .map(|_| match random.below(30) {
                    0 => random.below(2_000) as i64,
                    _ => now + random.below(5) as i64,
                })
                .collect();
            let value_bytes = match random.below(100) {
                0 => 50_000,
                1..5 => random.below(10_000),
                _ => random.below(200),
            };
            let json_lines = !random.chance(1, 10);
            rig.codec = Codec::ALL.get(random.below(10) as usize).copied();
            notes.push(rig.write(&times, value_bytes as usize, json_lines));
        }
        rig.segments.last().unwrap().publish(&notes);
    }

    fn run_model(seed: u64, disk: RealDisk) {
        let mut random = Rng::new(seed);
        let base = random.below(1_000_000);
        let max_open = [1, 2, 100][random.below(3) as usize];
        let mut rig = Rig::new(disk, max_open, base);
        append(&mut rig, &mut random);
        let mut published = true;
        for _ in 0..80 {
            match random.below(20) {
                0..6 => {
                    append(&mut rig, &mut random);
                    published = true;
                }
                6 => {
                    // A segment begins at the offset after the last one of the segment before: retention relies on it.
                    if random.chance(1, 2) {
                        rig.segments.last().unwrap().write_index().unwrap();
                    }
                    if rig.written.last().unwrap().segment + 1 == rig.segments.len() && rig.segments.len() < 8
                    {
                        rig.roll();
                        append(&mut rig, &mut random);
                    }
                }
                7 => rig.segments.last().unwrap().write_index().unwrap(),
                8 => {
                    if random.chance(1, 2) {
                        for segment in &rig.segments {
                            segment.write_index().unwrap();
                        }
                    }
                    rig.reopen();
                    published = false;
                    if random.chance(1, 2) {
                        sabotage_an_index(&rig, &mut random);
                    }
                }
                _ => compare(&rig, &mut random, published),
            }
        }
    }

    #[test]
    fn a_partition_reads_like_a_plain_list_of_its_batches() {
        for seed in seeds(40) {
            for disk in disks() {
                run_model(seed.0, disk);
            }
        }
    }

    #[test]
    fn reads_outside_of_the_log_say_where_it_is() {
        let mut rig = Rig::new(RealDisk::new(), 4, 100);
        rig.fill(5);
        let mut view = rig.view();
        view.log_start_offset = Offset::new(115);
        let error = read(&view, request(114, None, 100), Access::Warm).unwrap_err();
        assert!(
            matches!(&error, Error::Trimmed { offset, log_start_offset, end_offset }
                if (offset.get(), log_start_offset.get(), end_offset.get()) == (114, 115, 150)),
            "{error:?}"
        );
        let error = read(&view, request(151, None, 100), Access::Warm).unwrap_err();
        assert!(
            matches!(&error, Error::OutOfRange { offset, log_start_offset, end_offset }
                if (offset.get(), log_start_offset.get(), end_offset.get()) == (151, 115, 150)),
            "{error:?}"
        );
        let fetched = read(&view, request(150, None, 100), Access::Warm)
            .unwrap()
            .unwrap();
        assert!(fetched.runs.is_empty());
        assert_eq!(fetched.next_offset, Offset::new(150));
        assert_eq!(rig.pool.open_count(), 0, "nothing was opened for any of it");
    }

    #[test]
    fn a_read_goes_on_over_the_border_of_segments_while_bytes_remain() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            rig.fill(5);
            rig.roll();
            rig.fill(5);
            rig.roll();
            let batch = rig.written[0].bytes.len();
            let view = rig.view();
            let runs = |max_bytes| {
                let fetched = read(&view, request(30, None, max_bytes), Access::Cold)
                    .unwrap()
                    .unwrap();
                let lens: Vec<usize> = fetched.runs.iter().map(|run| run.bytes.len() / batch).collect();
                (lens, fetched.next_offset.get())
            };
            assert_eq!(runs(batch * 2), (vec![2], 50));
            assert_eq!(runs(batch * 3 - 1), (vec![2], 50));
            assert_eq!(runs(batch * 3), (vec![2, 1], 60));
            assert_eq!(runs(usize::MAX), (vec![2, 5], 100));
            assert_eq!(runs(0), (vec![1], 40));
        }
    }

    #[test]
    fn times_that_go_backwards_are_found_at_their_first_record() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            rig.append(&[50, 10, 70, 20], 10);
            rig.append(&[5, 60], 10);
            rig.roll();
            rig.append(&[1, 2, 3], 10);
            rig.append(&[100, 71], 10);
            let view = rig.view();
            let at = |time| {
                offset_for_time(&view, TimestampMs(time))
                    .unwrap()
                    .map(|(offset, time)| (offset.get(), time.get()))
            };
            assert_eq!(at(i64::MIN), Some((0, 50)));
            assert_eq!(at(50), Some((0, 50)));
            assert_eq!(at(51), Some((2, 70)));
            assert_eq!(at(71), Some((9, 100)));
            assert_eq!(at(101), None);
        }
    }

    #[test]
    fn a_time_that_could_lie_in_damage_is_not_answered_from_behind_it() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            rig.fill(100);
            rig.segments[0].write_index().unwrap();
            rig.reopen();
            rig.flip(50, 300);
            let view = rig.view();
            let at = |time| offset_for_time(&view, TimestampMs(time));
            assert_eq!(at(4990).unwrap(), Some((Offset::new(499), TimestampMs(4990))));
            let error = at(5000).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            // One stretch later, the index knows that everything before is earlier.
            assert_eq!(at(9000).unwrap(), Some((Offset::new(900), TimestampMs(9000))));
        }
    }

    #[test]
    fn a_report_goes_on_in_spite_of_damage() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            rig.fill(100);
            rig.roll();
            rig.fill(10);
            rig.reopen();
            rig.flip(50, 300);
            let located = locate(&rig.view(), Offset::new(503)).unwrap();
            assert_eq!(located.next, Some((Offset::new(510), TimestampMs(5100))));
            assert_eq!(located.retention_time, Some(TimestampMs(9990)));
            std::fs::remove_file(rig.segments[0].log_path()).unwrap();
            rig.reopen();
            let located = locate(&rig.view(), Offset::new(503)).unwrap();
            assert_eq!(located.next, Some((Offset::new(1000), TimestampMs(10_000))));
        }
    }
}
