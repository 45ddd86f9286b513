//! One segment: a log file `{base offset:020}.log` of whole record batches, and its two derived indexes beside it.
//!
//! - Writing: the committer writes batches to the log file itself, and calls [`Segment::publish`] when they are
//!   durable. Only then are they readable. Publishing changes memory only.
//! - Reading: the first read maps the file. Bytes are brought into memory and verified (CRC-32C) once for each map,
//!   then handed out as slices of it. Batches that are published while the map exists are not verified again, unless a
//!   sync of the file has failed: then every read verifies. An [`Access::Warm`] read finds everything in memory or
//!   gives up; an [`Access::Cold`] read loads.
//! - [`SegmentPool`] bounds how many segments are open at once.
//!
//! Invariants: readers never pass `readable`; bytes below it never change while the segment lives; the bytes that a
//! read returns were verified. Damage is reported by its offsets, and everything around it stays readable.
//!
//! What a crash leaves: recovery repairs a log file before it makes the [`Segment`]. Indexes may be missing, old or
//! torn; their checksums and headers show it. The first read that needs such an index makes it again from the log.
//!
//! Modules: `inner` holds the state in memory, `known` the damage that was found; `warm` and `cold` are the two ways to
//! read; `walk` verifies and finds the way past damage; `load` opens and makes indexes; `pool`; `intervals`; `check`.

mod check;
mod cold;
pub(crate) mod damage;
pub(crate) mod index;
mod inner;
mod intervals;
mod known;
mod load;
mod pool;
pub(crate) mod read;
#[cfg(test)]
pub(crate) mod testing;
mod walk;
mod warm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::BatchHeader;
use crate::error::Result;
use crate::io::sync::atomic::Ordering;
use crate::segment::damage::Known;
use crate::segment::index::{Index, MAX_LOG_BYTES};
use crate::types::{FilePos, Offset, TimestampMs};

pub(crate) use check::{Checked, DamagedStretch, Depth, check};
use inner::{BaseSum, Gaps, Inner};
pub(crate) use known::log_damage;
pub(crate) use pool::SegmentPool;

/// A batch that has become durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNote {
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) max_timestamp: TimestampMs,
    pub(crate) position: FilePos,
    pub(crate) bytes: u64,
    /// Every value is one line of JSON.
    pub(crate) json_lines: bool,
}

/// How much a read may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only what is mapped and verified already; never waits for the disk.
    Warm,
    /// Opens, maps, populates and verifies what is missing.
    Cold,
}

/// Which offsets of a segment are wanted, and what is known about its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The first offset wanted.
    pub(crate) from: Offset,
    /// Batches that begin at or after this offset are not wanted.
    pub(crate) end: Offset,
    /// Where the segment's offsets end: the next segment's base, or the partition's `end_offset`.
    pub(crate) segment_end: Offset,
    /// Whether the segment has a successor, so that it holds nothing beyond `segment_end`.
    pub(crate) sealed: bool,
    /// Whether the first batch is returned even if it is larger than `max_bytes`.
    pub(crate) at_least_one: bool,
}

impl Span {
    /// The offset that no healthy batch of the segment reaches beyond, given the end of what was published in it.
    ///
    /// For the last segment, `segment_end` comes from a view; more may have been published since the view was taken.
    fn limit(&self, published_to: Option<Offset>) -> Offset {
        match published_to {
            Some(published_to) if !self.sealed => published_to,
            _ => self.segment_end,
        }
    }

    /// For operations that are not about offsets: the whole segment, with no known end.
    pub(crate) fn whole(base: Offset) -> Self {
        Self {
            from: base,
            end: Offset::MAX,
            segment_end: Offset::MAX,
            sealed: false,
            at_least_one: true,
        }
    }
}

/// A run of whole batches of one segment.
#[derive(Debug)]
pub(crate) struct Run {
    /// Whole batches, verified; empty if no wanted batch fits.
    pub(crate) bytes: Bytes,
    /// Every value in it is known to be JSON without line breaks.
    pub(crate) json_lines: bool,
    /// One past the last offset in `bytes`; the requested offset if `bytes` is empty.
    pub(crate) next_offset: Offset,
    /// Nothing readable follows in this segment.
    pub(crate) at_end: bool,
}

impl Run {
    fn empty(from: Offset, at_end: bool) -> Self {
        Self {
            bytes: Bytes::new(),
            json_lines: true,
            next_offset: from,
            at_end,
        }
    }
}

/// The first record at or after an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstRecord {
    /// Where the batch that holds it begins.
    pub(crate) position: FilePos,
    pub(crate) offset: Offset,
    pub(crate) timestamp: TimestampMs,
}

/// One segment of a partition. Cheap to make: nothing is opened before the first read.
pub(crate) struct Segment {
    inner: Arc<Inner>,
}

impl Segment {
    /// A segment whose log file holds (or will hold) valid batches up to `readable`. `map_bytes`: the size that it may
    /// grow to. Nothing is opened. The committer makes a new segment's file before the first read.
    ///
    /// # Panics
    /// If `map_bytes` or `readable` is larger than [`MAX_LOG_BYTES`].
    pub(crate) fn new(
        pool: Arc<SegmentPool>,
        dir: &Path,
        base_offset: Offset,
        map_bytes: u64,
        readable: FilePos,
    ) -> Self {
        assert!(
            map_bytes.max(readable.get()) <= MAX_LOG_BYTES,
            "a segment of {map_bytes} bytes, more than {MAX_LOG_BYTES}"
        );
        let inner = Inner::new(pool, dir.to_path_buf(), base_offset, map_bytes, readable.get());
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The offset that names the segment: none of its records has a lower one.
    pub(crate) fn base_offset(&self) -> Offset {
        self.inner.base
    }

    /// The path of its log file.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.inner.file("log")
    }

    /// The paths of its index files, which may not be there.
    pub(crate) fn index_paths(&self) -> [PathBuf; 2] {
        [self.inner.file("index"), self.inner.file("timeindex")]
    }

    /// One past the last byte that readers may see.
    pub(crate) fn readable(&self) -> FilePos {
        self.inner.readable()
    }

    /// Adds durable batches to the index, then moves `readable` to the end of the last one (Release). Committer only,
    /// in order, without gaps. Cost: a lock that is held for memory operations only, and rarely an allocation.
    ///
    /// # Panics
    /// If the batches do not follow each other from `readable` on.
    pub(crate) fn publish(&self, batches: &[BatchNote]) {
        self.inner.publish(batches);
    }

    /// Writes `.index` and `.timeindex` (derived: no sync needed), e.g. at roll and at close, and frees the index
    /// entries of everything published since the last call. Does nothing if nothing was published. May wait for the
    /// disk: if there is no index of the bytes before those, the log is scanned for it.
    ///
    /// # Errors
    /// Those of the disk. Nothing is lost then.
    pub(crate) fn write_index(&self) -> Result<()> {
        let inner = &self.inner;
        let cold = inner.cold.lock();
        let tail = {
            let state = inner.state.read();
            if state.closed || state.tail.end() == state.tail.start() {
                return Ok(());
            }
            state.tail.clone()
        };
        let (whole, doubted_to, gaps) = if tail.start() == 0 {
            (tail, 0, Gaps::None)
        } else {
            let base = match inner.loaded_base() {
                Some(base) => base,
                None => {
                    let span = Span::whole(inner.base);
                    let open = inner.open(&cold, &span)?;
                    inner.load_base(&cold, &open, &span)?
                }
            };
            let mut whole = Index::clone(&base.index);
            whole.append(&tail);
            (whole, base.doubted_to, base.gaps)
        };
        // Readers would take an index with gaps for a complete one, so it is not written.
        if gaps == Gaps::None {
            inner.write_index_files(&cold, &whole)?;
        }
        inner.fold(whole, doubted_to, gaps);
        Ok(())
    }

    /// Makes the index again from the log and writes it, whatever the index files hold. `false` if the log is damaged
    /// or the index could not be written; for a damaged log no index is written.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn rebuild_index(&self) -> Result<bool> {
        let inner = &self.inner;
        let cold = inner.cold.lock();
        let span = Span::whole(inner.base);
        let open = inner.open(&cold, &span)?;
        inner.rebuild(&cold, &open, Index::new(inner.base, 0), &span)?;
        let is_written = inner.read_index_files(self.readable().get()).is_some();
        Ok(is_written && inner.known_damage().is_empty())
    }

    /// The largest timestamp in the segment. Loads the index if needed; later calls are cheap. `None` if there is no
    /// record, or if the disk could not read a part of the log when the index was made. Damaged batches do not count.
    ///
    /// # Errors
    /// As of [`Segment::read`]: the log may have to be scanned.
    pub(crate) fn max_timestamp_in(&self, span: &Span) -> Result<Option<TimestampMs>> {
        let sum = self.sum(span)?;
        Ok(sum.max_timestamp.filter(|_| sum.gaps < Gaps::Unreadable))
    }

    /// Notes the time of an append before it is durable: if it fails, the segment is only kept longer. The latest time
    /// counts: a clock that is set back does not age the segment. Committer and recovery call it, one at a time.
    pub(crate) fn note_append(&self, time: TimestampMs) {
        let last_append = &self.inner.last_append;
        last_append.store(
            time.get().max(last_append.load(Ordering::Relaxed)),
            Ordering::Relaxed,
        );
    }

    /// Retention counts the segment's age from this time: the earlier of its largest timestamp and its last append, so
    /// that a timestamp in the future does not keep it for ever. `None` as for [`Segment::max_timestamp_in`].
    ///
    /// # Errors
    /// As of [`Segment::read`]: the log may have to be scanned.
    pub(crate) fn retention_time(&self, span: &Span) -> Result<Option<TimestampMs>> {
        let newest = self.max_timestamp_in(span)?;
        Ok(match self.inner.last_append.load(Ordering::Relaxed) {
            i64::MIN => newest,
            last_append => newest.map(|newest| newest.min(TimestampMs(last_append))),
        })
    }

    /// Whether the segment may hold a record at or after `time`: it does, or a part of it could not be read.
    ///
    /// # Errors
    /// As of [`Segment::max_timestamp_in`].
    pub(crate) fn may_reach(&self, time: TimestampMs, span: &Span) -> Result<bool> {
        let sum = self.sum(span)?;
        Ok(sum.max_timestamp >= Some(time) || sum.gaps > Gaps::None)
    }

    /// The largest timestamp and the gaps of the whole segment, base and tail.
    fn sum(&self, span: &Span) -> Result<BaseSum> {
        let inner = &self.inner;
        let with_tail = |base: BaseSum, tail: &Index| BaseSum {
            max_timestamp: base.max_timestamp.max(tail.max_timestamp()),
            ..base
        };
        {
            let state = inner.state.read();
            if let Some(base) = state.base_sum() {
                return Ok(with_tail(base, &state.tail));
            }
        }
        let cold = inner.cold.lock();
        let base = inner.base_sum(&cold, span)?;
        Ok(with_tail(base, &inner.state.read().tail))
    }

    /// The damaged stretches that were found in it since it was opened.
    pub(crate) fn known_damage(&self) -> Vec<Known> {
        self.inner.known_damage()
    }

    /// Makes every read verify its bytes from now on, because a sync of the file has failed.
    pub(crate) fn distrust(&self) {
        self.inner.distrust();
    }

    /// Drops the map; slices that readers hold stay valid. Called before the segment's files are removed: later reads
    /// fail with [`Error::Trimmed`](crate::Error::Trimmed). Waits for reads that are using the disk.
    pub(crate) fn close(&self) {
        self.inner.close();
    }

    /// The run of whole batches that begins with the one that holds `span.from` (or the first after it), at most
    /// `max_bytes` (unless the first batch alone is larger and `span.at_least_one`). `None` for [`Access::Warm`] if
    /// something is not in memory.
    ///
    /// # Errors
    /// - [`Error::Damaged`](crate::Error::Damaged): `span.from` lies in damage. Damage behind it ends the run.
    /// - [`Error::Trimmed`](crate::Error::Trimmed): the segment was closed.
    /// - [`Error::Io`](crate::Error::Io): opening failed (too many files or maps).
    pub(crate) fn read(&self, span: &Span, max_bytes: usize, access: Access) -> Result<Option<Run>> {
        if self.readable() == FilePos::ZERO {
            return Ok(Some(Run::empty(span.from, true)));
        }
        if let Some(run) = self.inner.read_warm(span, max_bytes) {
            return Ok(Some(run));
        }
        match access {
            Access::Warm => Ok(None),
            Access::Cold => self.inner.read_cold(span, max_bytes).map(Some),
        }
    }

    /// The first readable record at or after `span.from`, below `span.end`. Damage is passed over.
    ///
    /// # Errors
    /// As of [`Segment::read`], but not for damage; [`Error::Io`](crate::Error::Io) where the disk cannot read bytes.
    pub(crate) fn first_record(&self, span: &Span) -> Result<Option<FirstRecord>> {
        let mut span = *span;
        while self.readable() != FilePos::ZERO && span.from < span.end {
            let found = match self.inner.find_warm(&span) {
                Some(found) => found,
                None => self.inner.find_cold(&span)?,
            };
            let Some(found) = found else { break };
            let Ok(header) = BatchHeader::peek(&found.bytes) else {
                break;
            };
            let first = cold::first_record(&found.bytes, &header, span.from, |_| true);
            if let Some((offset, timestamp)) = first {
                return Ok((offset < span.end).then_some(FirstRecord {
                    position: FilePos(found.position),
                    offset,
                    timestamp,
                }));
            }
            // Compaction may have removed the batch's last records.
            span.from = header.next_offset();
        }
        Ok(None)
    }

    /// The first record of the span whose timestamp is at or after `time`. Exact: it reads the records.
    ///
    /// # Errors
    /// As of [`Segment::read`]; [`Error::Damaged`](crate::Error::Damaged) if the record could lie in damaged bytes.
    pub(crate) fn first_at_or_after(
        &self,
        time: TimestampMs,
        span: &Span,
    ) -> Result<Option<(Offset, TimestampMs)>> {
        if self.readable() == FilePos::ZERO {
            return Ok(None);
        }
        self.inner.first_at_or_after(time, span)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Rig, disks};
    use super::*;
    use crate::error::Error;

    fn cold(rig: &Rig, from: u64, max_bytes: usize) -> Result<Run> {
        let run = rig.segments[0].read(&rig.span(from), max_bytes, Access::Cold)?;
        Ok(run.expect("cold reads always answer"))
    }

    fn warm(rig: &Rig, from: u64, max_bytes: usize) -> Option<Run> {
        rig.segments[0]
            .read(&rig.span(from), max_bytes, Access::Warm)
            .unwrap()
    }

    /// The bytes of batches `from..to`.
    fn bytes(rig: &Rig, from: usize, to: usize) -> Vec<u8> {
        rig.written[from..to]
            .iter()
            .flat_map(|batch| batch.bytes.clone())
            .collect()
    }

    #[test]
    fn a_segment_without_records_reads_as_nothing_and_opens_nothing() {
        for disk in disks() {
            let rig = Rig::new(disk, 8, 40);
            let run = warm(&rig, 40, 100).unwrap();
            assert!(run.bytes.is_empty() && run.at_end);
            assert_eq!(rig.newest_timestamp(), None);
            assert_eq!(rig.pool.open_count(), 0);
        }
    }

    #[test]
    fn a_run_begins_with_the_batch_that_holds_the_offset_and_ends_with_a_whole_one() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 8, 40);
            rig.fill(100);
            let batch = rig.written[0].bytes.len();
            for (from, max_bytes, first, last) in [
                (40, batch * 3, 0, 3),
                (49, batch * 3, 0, 3),
                (50, batch * 3 + batch - 1, 1, 4),
                (1035, 1 << 20, 99, 100),
                (540, 0, 50, 51),
                (540, 1, 50, 51),
                (540, batch, 50, 51),
                (40, usize::MAX, 0, 100),
            ] {
                for access in [Access::Cold, Access::Warm] {
                    let run = rig.segments[0].read(&rig.span(from), max_bytes, access).unwrap();
                    let run = run.unwrap_or_else(|| panic!("{from} is not warm"));
                    let found = run.bytes;
                    assert_eq!(found, bytes(&rig, first, last), "{from} {max_bytes} {access:?}");
                    assert_eq!(run.next_offset.get(), rig.written[last - 1].next());
                    assert_eq!(run.at_end, last == 100);
                    assert!(run.json_lines);
                }
            }
        }
    }

    #[test]
    fn a_run_stops_before_batches_at_the_end_asked_for() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 8, 0);
            rig.fill(100);
            for access in [Access::Cold, Access::Warm] {
                for (end, last) in [(500, 50), (501, 51), (509, 51), (510, 51)] {
                    let span = Span {
                        end: Offset::new(end),
                        ..rig.span(200)
                    };
                    let run = rig.segments[0].read(&span, usize::MAX, access).unwrap().unwrap();
                    assert_eq!(run.bytes, bytes(&rig, 20, last), "{end} {access:?}");
                    assert!(!run.at_end);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_when_something_was_read_before() {
        let mut rig = Rig::new(disks()[0].clone(), 8, 0);
        rig.fill(3);
        for access in [Access::Cold, Access::Warm] {
            let span = Span {
                at_least_one: false,
                ..rig.span(0)
            };
            let run = rig.segments[0].read(&span, 100, access).unwrap().unwrap();
            assert!(run.bytes.is_empty() && !run.at_end, "{access:?}");
            assert_eq!(run.next_offset, Offset::ZERO);
        }
    }

    #[test]
    fn the_first_read_is_cold_and_what_is_published_then_is_warm() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 8, 0);
            rig.fill(20);
            assert!(warm(&rig, 0, 100).is_none());
            assert_eq!(cold(&rig, 0, 100).unwrap().bytes, bytes(&rig, 0, 1));
            rig.fill(3000);
            let tail = warm(&rig, 30_190, usize::MAX).unwrap();
            assert_eq!(tail.bytes, bytes(&rig, 3019, 3020));
            assert!(tail.at_end);
            assert_eq!(warm(&rig, 0, usize::MAX).unwrap().bytes, bytes(&rig, 0, 3020));
        }
    }

    #[test]
    fn after_a_restart_the_tail_is_read_without_the_index_of_the_rest() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 8, 0);
            rig.fill(2000);
            rig.reopen();
            rig.fill(50);
            let found = cold(&rig, 20_100, usize::MAX).unwrap().bytes;
            assert_eq!(found, bytes(&rig, 2010, 2050));
            assert_eq!(rig.pool.index_rebuilds(), 0);
            // The batches from before the restart have no index, so the log is scanned.
            let found = cold(&rig, 19_990, usize::MAX).unwrap().bytes;
            assert_eq!(found, bytes(&rig, 1999, 2050));
            assert_eq!(rig.pool.index_rebuilds(), 1);
            assert_eq!(warm(&rig, 5, usize::MAX).unwrap().bytes, bytes(&rig, 0, 2050));
        }
    }

    #[test]
    fn readers_and_the_committer_do_not_disturb_each_other() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 1, 0);
            rig.fill(1);
            let segment = Arc::clone(&rig.segments[0]);
            let beside = tempfile::tempdir().unwrap();
            std::fs::copy(
                segment.log_path(),
                beside.path().join(segment.log_path().file_name().unwrap()),
            )
            .unwrap();
            let other = Arc::new(Segment::new(
                Arc::clone(&rig.pool),
                beside.path(),
                Offset::ZERO,
                1 << 20,
                segment.readable(),
            ));
            let stop = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (segment, other, stop) = (&segment, &other, &stop);
                    scope.spawn(move || {
                        let mut from = 0;
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) || from < 20_000 {
                            let readable = segment.readable();
                            let span = Span {
                                from: Offset::new(from),
                                end: Offset::MAX,
                                segment_end: Offset::MAX,
                                sealed: false,
                                at_least_one: true,
                            };
                            let run = segment.read(&span, 10_000, Access::Cold).unwrap().unwrap();
                            if run.bytes.is_empty() {
                                assert!(readable <= segment.readable());
                                std::thread::yield_now();
                                continue;
                            }
                            for batch in crate::batch::Batches::new(&run.bytes) {
                                let (header, bytes) = batch.unwrap();
                                crate::batch::verify(bytes).unwrap();
                                assert_eq!(header.base_offset.get(), from);
                                from = header.next_offset().get();
                            }
                            if thread == 0 && from % 7 == 0 {
                                // The pool keeps one segment open, so this closes the one that is being read.
                                other.read(&span, 1, Access::Cold).ok();
                            }
                        }
                    });
                }
                for i in 1..2000 {
                    rig.fill(1);
                    if i % 300 == 0 {
                        segment.write_index().unwrap();
                    }
                }
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            });
        }
    }

    #[test]
    fn an_index_that_was_written_is_used_and_keeps_its_flags() {
        for disk in disks() {
            let mut rig = Rig::new(disk, 8, 0);
            rig.fill(1000);
            rig.segments[0].write_index().unwrap();
            rig.fill(1000);
            rig.segments[0].write_index().unwrap();
            rig.reopen();
            assert_eq!(rig.newest_timestamp(), Some(TimestampMs(199_990)));
            assert_eq!(rig.pool.open_count(), 0, "the header of a file says it");
            let run = cold(&rig, 12_345, 5000).unwrap();
            assert_eq!(run.bytes[..], bytes(&rig, 1234, 2000)[..run.bytes.len()]);
            assert!(run.json_lines);
            assert_eq!(rig.pool.index_rebuilds(), 0);
        }
    }

    #[test]
    fn a_damaged_batch_costs_no_more_than_its_own_records() {
        for disk in disks() {
            for indexed in [false, true] {
                // Every byte of the header except the leader epoch, which no CRC covers, and some bytes of the records.
                for byte in (0..12).chain(16..70).chain([200, 900]) {
                    let mut rig = Rig::new(disk.clone(), 8, 1000);
                    rig.fill(60);
                    if indexed {
                        rig.segments[0].write_index().unwrap();
                    }
                    rig.reopen();
                    rig.flip(20, byte);
                    let context = format!("{disk:?}, indexed {indexed}, byte {byte}");
                    let before = cold(&rig, 1005, usize::MAX).unwrap();
                    assert_eq!(before.bytes, bytes(&rig, 0, 20), "{context}");
                    assert!(!before.at_end, "{context}");
                    for from in [1200, 1205, 1209] {
                        let error = cold(&rig, from, usize::MAX).unwrap_err();
                        let Error::Damaged {
                            damaged_from,
                            damaged_until,
                            ..
                        } = &error
                        else {
                            panic!("{context}: {error}")
                        };
                        assert_eq!(damaged_from.get(), 1200, "{context}: {error}");
                        assert_eq!(damaged_until.get(), 1210, "{context}: {error}");
                    }
                    let behind = cold(&rig, 1210, usize::MAX).unwrap();
                    assert_eq!(behind.bytes, bytes(&rig, 21, 60), "{context}");
                    assert_eq!(rig.newest_timestamp(), Some(TimestampMs(15_990)), "{context}");
                }
            }
        }
    }
}
