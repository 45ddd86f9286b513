//! Walks over the batches of a log file, verifies those that are not verified yet, and finds the way past damage.
//!
//! The walk brings every batch into memory and checks its CRC-32C, unless that was done before for this map. The CRC
//! does not cover a batch's length and base offset. A wrong length makes the CRC fail. A wrong offset does not fit its
//! neighbours: offsets rise, and at a mark (where the index says that a stretch begins) they are known exactly.
//!
//! Behind damage the walk continues at the next byte where a batch begins whose CRC is right and whose offsets fit
//! between its neighbours. It looks first where the damaged header says that the next batch begins, then at every byte;
//! each search ends at the next mark. The bytes between are lost; the batches around them show which offsets that were.
//! (A record may itself contain a batch with fitting offsets. If the length field of the outer batch is damaged, the
//! inner one could be taken for a real one; the marks leave little room for that.)

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::intervals::Intervals;
use crate::batch::{self, BatchHeader, HEADER_BYTES};
use crate::error::{Error, Result};
use crate::io::disk::Mapping;
use crate::segment::index::{MAX_RELATIVE_OFFSET, Mark};
use crate::types::Offset;

/// How much is brought into memory at once.
const WINDOW_BYTES: u64 = 256 * 1024;
/// The unit in which a disk fails and memory is mapped.
const PAGE_BYTES: u64 = 4096;

/// What the walk finds next.
pub(super) enum Step {
    /// A healthy batch at a position.
    Batch(u64, BatchHeader),
    /// Bytes that hold no healthy batch.
    Damage(Damage),
    /// The end of the walk.
    End,
}

/// A damaged stretch of the log.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    /// Where the first damaged batch begins.
    pub(super) position: u64,
    /// Where healthy batches begin again, or the end of the walk.
    pub(super) resume: u64,
    /// The first offset that is lost.
    pub(super) from: Offset,
    /// The first offset that is not lost; `None`: no healthy batch follows up to the end of the walk.
    pub(super) until: Option<Offset>,
    /// What was found at `position`.
    pub(super) what: String,
    /// Whether the log is certainly damaged. If not, the marks may be wrong instead.
    pub(super) confirmed: bool,
    /// Whether some of it may be whole, because the disk could not read it.
    pub(super) is_unreadable: bool,
}

/// Why there is no healthy batch at a position.
enum Fault {
    Damage(String),
    /// Not caused by the stored bytes: ends the walk.
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
    /// The next offsets are not below this one.
    next_offset: Offset,
    /// All following offsets are below this one.
    limit: Offset,
    /// Marks below this position could be wrong.
    doubted_to: u64,
    /// Where stretches begin, in order.
    marks: Vec<Mark>,
    /// Whether a mark was found right, and none was skipped since. (The one at 0 proves nothing: all logs begin there.)
    at_home: bool,
    /// Whether `position` lies directly behind damage, so that offsets were lost.
    behind_damage: bool,
    /// Whether the disk failed to read something in this step.
    met_unreadable: bool,
    /// Bytes in memory, from `window_start` on.
    window: Bytes,
    window_start: u64,
}

/// Where and how far to walk.
pub(super) struct Course {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) next_offset: Offset,
    pub(super) limit: Offset,
    pub(super) marks: Vec<Mark>,
    /// Marks below this position come from a file, which could belong to another log.
    pub(super) doubted_to: u64,
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
            doubted_to: course.doubted_to,
            marks: course.marks,
            at_home: false,
            behind_damage: false,
            met_unreadable: false,
            window: Bytes::new(),
            window_start: 0,
        }
    }

    /// Where the next step begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Moves to the next batch, past damage, or to the end.
    ///
    /// # Errors
    /// Only errors that the stored bytes did not cause (memory has run out).
    pub(super) fn step(&mut self) -> Result<Step> {
        if self.position >= self.end {
            return Ok(Step::End);
        }
        self.met_unreadable = false;
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

    /// Moves behind the next batch if it is healthy; stays at damage and at the end.
    ///
    /// # Errors
    /// As of [`Walker::step`].
    pub(super) fn step_if_healthy(&mut self) -> Result<bool> {
        if self.position >= self.end {
            return Ok(false);
        }
        match self.batch_at(self.position) {
            Ok(header) => {
                self.accept(self.position, &header);
                Ok(true)
            }
            Err(Fault::Damage(_)) => Ok(false),
            Err(Fault::Io(error)) => Err(error),
        }
    }

    /// Where the walk ends.
    pub(super) fn end(&self) -> u64 {
        self.end
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
        self.behind_damage = false;
        // Healthy batches that end exactly at a mark confirm the mark as well as the batch that begins there would.
        let reached = self
            .mark_at(end)
            .is_some_and(|mark| mark.offset == self.next_offset);
        self.at_home |= reached || (position > 0 && self.mark_at(position).is_some());
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

    /// The offset that a batch at `position` must stay below.
    fn upper(&self, position: u64) -> Offset {
        self.mark_after(position)
            .map_or(self.limit, |mark| mark.offset)
            .min(self.limit)
    }

    /// Checks the batch at `position`: its own checksum, and its offsets against its neighbours.
    fn batch_at(&mut self, position: u64) -> Result<BatchHeader, Fault> {
        let next_mark = self.mark_after(position);
        let region_end = next_mark.map_or(self.end, |mark| mark.position).min(self.end);
        let known = self.verified.end_of(position);
        let header = self.sound_batch_at(position, region_end, known.is_some())?;
        self.check_offsets(position, &header)?;
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
    fn check_offsets(&self, position: u64, header: &BatchHeader) -> Result<(), Fault> {
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
        let upper = self.upper(position);
        if header.next_offset() > upper {
            return misfit(format!("offsets below {upper} are expected"));
        }
        if base.since(self.base) > MAX_RELATIVE_OFFSET {
            return misfit(format!("the segment begins with {}", self.base));
        }
        Ok(())
    }

    /// Checks a batch whose base offset does not continue where the batch before it ended. No CRC covers the base
    /// offset, so it could be wrong.
    ///
    /// Offsets may be left out between batches. But with a base offset that is too large, the batch reaches into the
    /// next one's offsets; and behind damage, with any wrong base offset, it does not end where the next one begins. If
    /// the next batch is damaged too, this cannot be checked: then a batch that leaves offsets out counts as damaged.
    fn check_gap(&mut self, position: u64, header: &BatchHeader, region_end: u64) -> Result<(), Fault> {
        if header.base_offset == self.next_offset || self.mark_at(position).is_some() {
            return Ok(());
        }
        let next = position + header.total_bytes() as u64;
        let following = if next < region_end {
            match self.sound_batch_at(next, region_end, false) {
                Ok(following) => Some(following.base_offset),
                Err(Fault::Damage(_)) => None,
                Err(Fault::Io(error)) => return Err(Fault::Io(error)),
            }
        } else {
            Some(self.upper(position)).filter(|upper| *upper != Offset::MAX)
        };
        let plausible = match following.filter(|following| *following >= self.next_offset) {
            Some(following) if self.behind_damage => following == header.next_offset(),
            Some(following) => following >= header.next_offset(),
            None => self.behind_damage || next >= region_end,
        };
        if plausible {
            return Ok(());
        }
        let expected = following.map_or("damage".into(), |offset| format!("offset {offset}"));
        Err(Fault::Damage(format!(
            "a batch of offsets {} to {} between offset {} and {expected}",
            header.base_offset,
            header.next_offset(),
            self.next_offset
        )))
    }

    /// Finds where healthy batches begin again behind the damage at `self.position`, and moves there.
    fn pass_damage(&mut self, what: String) -> Result<Damage> {
        let (position, from) = (self.position, self.next_offset);
        let mut until = None;
        let mut resume = position;
        self.behind_damage = true;
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
        // The index is right if a mark near the damage is right. A mark that was skipped proves nothing.
        self.at_home &= self
            .mark_after(position)
            .is_none_or(|mark| mark.position > resume);
        let confirmed = position >= self.doubted_to
            || self.at_home
            || (until.is_some() && resume < self.doubted_to && self.mark_at(resume).is_some())
            || match self.mark_after(resume) {
                Some(mark) if mark.position < self.end.min(self.doubted_to) => {
                    self.is_batch(mark.position)?
                }
                _ => false,
            };
        Ok(Damage {
            position,
            resume,
            from,
            until,
            what,
            confirmed,
            is_unreadable: self.met_unreadable,
        })
    }

    /// The next position after the damaged batch at `from` where a healthy batch begins. The next mark, or the end of
    /// the walk, if there is none before that.
    fn search(&mut self, from: u64) -> Result<u64> {
        let region_end = self
            .mark_after(from)
            .map_or(self.end, |mark| mark.position)
            .min(self.end);
        // The length in the header may still be right.
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

    /// The next position in the window where a batch seems to begin, or as `Err` the position from which to search on.
    fn next_candidate(&self, position: u64, region_end: u64) -> Result<u64, u64> {
        let skip = (position - self.window_start) as usize;
        let window_end = self.window_start + self.window.len() as u64;
        let bytes = &self.window[skip..(window_end.min(region_end) - self.window_start) as usize];
        let last = bytes.len() - HEADER_BYTES;
        for at in 0..=last {
            // The magic and the base offset exclude nearly all positions.
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

    /// Brings the bytes `start..end` into memory and returns them.
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

    /// Loads at least `start..end`, and more if the disk can read it.
    fn load(&mut self, start: u64, end: u64) -> Result<Bytes, Fault> {
        let page_end = end.next_multiple_of(PAGE_BYTES).min(self.end.max(end));
        let far_end = (start + WINDOW_BYTES).min(self.end).max(page_end);
        let mut failure = None;
        let mut tried = 0;
        for loaded in [far_end, page_end, end] {
            if loaded == tried {
                continue;
            }
            tried = loaded;
            let result = self
                .map
                .populate(start, loaded)
                .and_then(|()| Arc::clone(&self.map).bytes(start, loaded));
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failure = Some(error),
            }
        }
        let error = failure.expect("an attempt was made");
        if error.kind() == io::ErrorKind::OutOfMemory {
            return Err(Fault::Io(Error::reading("reading a segment", error)));
        }
        // A file that has become shorter stays damaged: these bytes will not be readable later.
        self.met_unreadable |= error.kind() != io::ErrorKind::UnexpectedEof;
        Err(Fault::Damage(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::{BadSectors, Rig, disks, seeds};
    use crate::batch::Batches;
    use crate::error::Error;
    use crate::io::disk::Disk;
    use crate::segment::Access;
    use crate::segment::read::{ReadRequest, read};
    use crate::sim::Rng;
    use crate::types::Offset;

    /// Reads everything and continues behind damage. Returns the offsets of the batches, and those of the damage.
    fn read_past_damage(rig: &Rig, max_bytes: usize) -> (Vec<u64>, Vec<(u64, u64)>) {
        let view = rig.view();
        let (mut seen, mut lost) = (Vec::new(), Vec::new());
        let mut from = view.log_start_offset;
        while from < view.end_offset {
            let request = ReadRequest::new(from, max_bytes);
            match read(&view, request, Access::Cold) {
                Ok(fetched) => {
                    let fetched = fetched.expect("cold reads always answer");
                    assert!(fetched.next_offset > from, "nothing at {from}, and no damage");
                    for run in &fetched.runs {
                        for batch in Batches::new(&run.bytes) {
                            let (header, bytes) = batch.unwrap();
                            let mut rows = rig.written.iter();
                            let written = rows.find(|w| w.note.base_offset == header.base_offset);
                            let written = written.unwrap_or_else(|| panic!("{header:?} was never written"));
                            assert_eq!(bytes, written.bytes, "at {}", header.base_offset);
                            seen.push(header.base_offset.get());
                        }
                    }
                    from = fetched.next_offset;
                }
                Err(Error::Damaged {
                    damaged_from,
                    damaged_until,
                    ..
                }) => {
                    assert!(
                        damaged_from <= from && from < damaged_until,
                        "{from} is not in {damaged_from}..{damaged_until}"
                    );
                    lost.push((damaged_from.get(), damaged_until.get()));
                    from = damaged_until;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(from, view.end_offset);
        (seen, lost)
    }

    /// Checks that reads return all batches except `damaged`, in order, and report only those as lost.
    fn check(rig: &Rig, damaged: &BTreeSet<usize>, max_bytes: usize, context: &str) {
        let (seen, lost) = read_past_damage(rig, max_bytes);
        let rows = (0..rig.written.len()).filter(|index| !damaged.contains(index));
        let healthy: Vec<u64> = rows.map(|index| rig.written[index].base()).collect();
        assert_eq!(seen, healthy, "{context}; lost {lost:?}, damaged {damaged:?}");
        for (index, batch) in rig.written.iter().enumerate() {
            let mut rows = lost.iter();
            let reported = rows.any(|(from, until)| *from <= batch.base() && batch.next() <= *until);
            assert_eq!(
                reported,
                damaged.contains(&index),
                "batch {index} at {}, {context}; lost {lost:?}",
                batch.base()
            );
        }
    }

    fn partition(random: &mut Rng, disk: impl Disk) -> Rig {
        let base = random.below(1000);
        let mut rig = Rig::new(disk, 1 + random.below(3) as usize, base);
        for segment in 0..1 + random.below(3) {
            if segment > 0 {
                rig.roll();
            }
            for _ in 0..1 + random.below(80) {
                let count = 1 + random.below(12);
                let times: Vec<i64> = (0..count).map(|_| random.below(1000) as i64).collect();
                let value_bytes = match random.below(20) {
                    0 => random.below(20_000),
                    _ => random.below(300),
                };
                rig.append(&times, value_bytes as usize);
            }
            if !random.chance(1, 3) {
                rig.segments.last().unwrap().write_index().unwrap();
            }
        }
        rig
    }

    #[test]
    fn random_damage_loses_the_batches_that_it_hits_and_no_others() {
        for seed in seeds(60) {
            for disk in disks() {
                let mut random = Rng::new(seed.0);
                let mut rig = partition(&mut random, disk.clone());
                if !random.chance(1, 4) {
                    rig.reopen();
                }
                let mut damaged = BTreeSet::new();
                for _ in 0..1 + random.below(4) {
                    let hit = random.below(rig.written.len() as u64) as usize;
                    let batch = &rig.written[hit];
                    let rows = rig.written.iter().filter(|w| w.segment == batch.segment);
                    let segment_end = rows.map(|w| w.end()).max().unwrap();
                    let at = batch.start() + random.below(batch.note.bytes);
                    let len = match random.below(3) {
                        0 => 1,
                        1 => 1 + random.below(60),
                        _ => 1 + random.below(10_000),
                    };
                    let len = len.min(segment_end - at);
                    rig.damage(
                        batch.segment,
                        at,
                        |bytes| {
                            let zeros = random.chance(1, 2);
                            for byte in bytes {
                                *byte = if zeros {
                                    0
                                } else {
                                    *byte ^ (1 + random.below(255) as u8)
                                };
                            }
                        },
                        len as usize,
                    );
                }
                for (index, batch) in rig.written.iter().enumerate() {
                    let log = std::fs::read(rig.segments[batch.segment].log_path()).unwrap();
                    let mut stored = log[batch.start() as usize..batch.end() as usize].to_vec();
                    // The leader epoch is never read, and no checksum covers it.
                    stored[12..16].fill(0);
                    if stored != batch.bytes {
                        damaged.insert(index);
                    }
                    // Restore it, because later the bytes that were read are compared with those that were written.
                    rig.damage(batch.segment, batch.start() + 12, |bytes| bytes.fill(0), 4);
                }
                let max_bytes = [1, 1000, 50_000, usize::MAX][random.below(4) as usize];
                check(&rig, &damaged, max_bytes, &format!("{disk:?}"));
                // And again, with the damage that is known now.
                check(&rig, &damaged, max_bytes, &format!("again, {disk:?}"));
            }
        }
    }

    #[test]
    fn pages_that_cannot_be_read_cost_the_batches_on_them_and_are_never_touched() {
        for seed in seeds(60) {
            for disk in disks() {
                let mut random = Rng::new(seed.0);
                let disk = BadSectors::new(disk, std::io::ErrorKind::Other);
                let mut rig = partition(&mut random, disk.clone());
                rig.reopen();
                for _ in 0..1 + random.below(3) {
                    let page = random.below(20) * 4096;
                    let pages = 1 + random.below(4);
                    disk.0.bad.lock().push(page..page + pages * 4096);
                }
                let damaged = rig
                    .written
                    .iter()
                    .enumerate()
                    .filter(|(_, w)| {
                        let bad = disk.0.bad.lock();
                        bad.iter().any(|bad| bad.start < w.end() && w.start() < bad.end)
                    })
                    .map(|(index, _)| index)
                    .collect();
                let max_bytes = [1, 5000, usize::MAX][random.below(3) as usize];
                check(&rig, &damaged, max_bytes, "bad pages");
                // A disk may be able to read the bytes later: earlier failures must not count then.
                disk.0.bad.lock().clear();
                check(&rig, &BTreeSet::new(), max_bytes, "good again");
            }
        }
    }

    #[test]
    fn want_of_memory_is_not_taken_for_damage() {
        for disk in disks() {
            let disk = BadSectors::new(disk, std::io::ErrorKind::OutOfMemory);
            let mut rig = Rig::new(disk.clone(), 4, 0);
            rig.fill(100);
            rig.reopen();
            disk.0.bad.lock().push(50_000..60_000);
            let request = ReadRequest::new(Offset::ZERO, usize::MAX);
            let error = read(&rig.view(), request, Access::Cold).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            disk.0.bad.lock().clear();
            check(&rig, &BTreeSet::new(), 5000, "with memory again");
        }
    }

    #[test]
    fn random_bytes_are_damage_from_one_end_to_the_other() {
        for seed in seeds(30) {
            let mut random = Rng::new(seed.0);
            let mut rig = Rig::new(disks()[seed.0 as usize % 2].clone(), 4, 1000);
            let bytes = (0..random.below(60_000) + 1)
                // Many bytes are 2, the magic of a batch.
                .map(|_| {
                    if random.chance(1, 2) {
                        random.below(3) as u8
                    } else {
                        random.below(256) as u8
                    }
                })
                .collect();
            rig.write_bytes(bytes, &[1, 2, 3], true);
            rig.segments[0].publish(&[rig.written[0].note]);
            rig.reopen();
            check(&rig, &BTreeSet::from([0]), 100, "garbage");
            assert_eq!(rig.newest_timestamp(), None);
        }
    }

    #[test]
    fn a_file_cut_below_what_was_readable_is_damage_from_there_on() {
        for disk in disks() {
            for indexed in [false, true] {
                for cut in [0, 61, 5000, 4096 * 3, 100_000] {
                    let mut rig = Rig::new(disk.clone(), 4, 7);
                    rig.fill(100);
                    if indexed {
                        rig.segments[0].write_index().unwrap();
                    }
                    rig.roll();
                    rig.fill(3);
                    rig.reopen();
                    let healthy = rig.written[..100].iter().take_while(|w| w.end() <= cut).count();
                    assert!(healthy < 100);
                    let file = std::fs::OpenOptions::new()
                        .write(true)
                        .open(rig.segments[0].log_path())
                        .unwrap();
                    file.set_len(cut).unwrap();
                    let text = format!("{disk:?}, indexed {indexed}, cut at {cut}");
                    check(&rig, &(healthy..100).collect(), 5000, &text);
                }
            }
        }
    }

    #[test]
    fn a_missing_file_is_damage_of_its_segment_alone() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            rig.fill(10);
            rig.roll();
            rig.fill(20);
            rig.roll();
            rig.fill(10);
            rig.reopen();
            std::fs::remove_file(rig.segments[1].log_path()).unwrap();
            check(&rig, &(10..30).collect(), usize::MAX, "missing");
        }
    }

    #[test]
    fn a_base_offset_that_is_too_large_is_found_in_the_last_batch_too() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            rig.fill(30);
            rig.reopen();
            for byte in 0..8 {
                rig.flip(29, byte);
                check(&rig, &BTreeSet::from([29]), 5000, &format!("byte {byte}"));
                rig.flip(29, byte);
                rig.reopen();
            }
            check(&rig, &BTreeSet::new(), 5000, "healed");
        }
    }

    #[test]
    fn offsets_may_be_left_out_between_batches() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 4, 0);
            for _ in 0..200 {
                rig.next_offset += 7;
                rig.fill(1);
            }
            check(&rig, &BTreeSet::new(), 5000, "published");
            rig.reopen();
            check(&rig, &BTreeSet::new(), 5000, "scanned");
            let view = rig.view();
            let request = ReadRequest::new(Offset::new(17), 1);
            let fetched = read(&view, request, Access::Cold).unwrap().unwrap();
            assert_eq!(fetched.runs[0].bytes, rig.written[1].bytes);
        }
    }
}
