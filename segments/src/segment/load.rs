//! Opens a segment: its map, and the base part of its index, from the index files or from the log.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::cold::Cold;
use super::inner::{Base, BaseSum, Gaps, Inner, OpenMap};
use super::intervals::Intervals;
use super::walk::{Course, Step, Walker};
use super::{BatchNote, Span};
use crate::error::{At, Error, Result};
use crate::files::slots::read_if_exists;
use crate::io::disk::OpenMode;
use crate::segment::index::{self, Index};
use crate::types::{FilePos, Offset};

impl Inner {
    /// Returns the map; makes it if needed.
    pub(super) fn open(self: &Arc<Self>, _cold: &Cold<'_>, span: &Span) -> Result<Arc<OpenMap>> {
        let readable = {
            let state = self.state.read();
            if state.closed {
                return Err(Error::Trimmed {
                    offset: span.from,
                    log_start_offset: span.segment_end,
                    end_offset: span.segment_end,
                });
            }
            if let Some(open) = &state.map
                && open.map.len() >= state.tail.end()
            {
                return Ok(Arc::clone(open));
            }
            state.tail.end()
        };
        let path = self.file("log");
        let map = self
            .pool
            .disk
            .open(&path, OpenMode::Read)
            .and_then(|file| file.map(self.map_bytes.max(readable)));
        let map = match map {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note_missing(span);
                return Err(Error::Damaged {
                    place: path.display().to_string(),
                    what: "the file is missing".into(),
                    damaged_from: self.base,
                    damaged_until: span.segment_end,
                });
            }
            Err(error) => return Err(Error::reading(format!("opening {}", path.display()), error)),
        };
        let permit = self.pool.reserve();
        let open = Arc::new(OpenMap { map, _permit: permit });
        {
            let mut state = self.state.write();
            state.map = Some(Arc::clone(&open));
            state.verified.clear();
        }
        self.pool.enqueue(self);
        Ok(open)
    }

    /// The verified ranges of this map.
    pub(super) fn verified(&self, open: &Arc<OpenMap>) -> Intervals {
        let state = self.state.read();
        match &state.map {
            Some(map) if Arc::ptr_eq(map, open) => state.verified.clone(),
            _ => Intervals::default(),
        }
    }

    /// Adds the ranges that a walk has verified to the state, unless the map was closed or distrusted meanwhile.
    pub(super) fn hand_in(&self, open: &Arc<OpenMap>, walker: &Walker) {
        self.heal(&walker.fresh);
        let mut state = self.state.write();
        if !state.is_distrusted && state.map.as_ref().is_some_and(|map| Arc::ptr_eq(map, open)) {
            state.verified.merge(&walker.fresh);
        }
    }

    /// The index of everything before the tail: from memory, from the files, or made from the log.
    pub(super) fn load_base(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        open: &Arc<OpenMap>,
        span: &Span,
    ) -> Result<Base> {
        let end = {
            let state = self.state.read();
            if let Some(base) = &state.base
                && base.index.end() == state.tail.start()
            {
                return Ok(base.clone());
            }
            state.tail.start()
        };
        let index = self
            .read_index_files(end)
            .unwrap_or_else(|| Index::new(self.base, 0));
        if index.end() < end {
            return self.rebuild(cold, open, index, span);
        }
        let base = Base {
            index: Arc::new(index),
            doubted_to: end,
            gaps: Gaps::None,
        };
        self.keep_base(open, &base);
        Ok(base)
    }

    /// What lookups over many segments must know about the base; from the header of `.index` if that covers all of it.
    pub(super) fn base_sum(self: &Arc<Self>, cold: &Cold<'_>, span: &Span) -> Result<BaseSum> {
        let end = {
            let state = self.state.read();
            if let Some(sum) = state.base_sum() {
                return Ok(sum);
            }
            state.tail.start()
        };
        let mut header = [0; index::HEADER_BYTES];
        let read = self
            .pool
            .disk
            .open(&self.file("index"), OpenMode::Read)
            .and_then(|file| file.read_at(&mut header, 0));
        if let Ok(read) = read
            && let Ok(summary) = index::summary(&header[..read], self.base, end)
            && summary.end == end
        {
            let sum = BaseSum {
                max_timestamp: summary.max_timestamp,
                gaps: Gaps::None,
            };
            self.state.write().base_sum = Some(sum);
            return Ok(sum);
        }
        let open = self.open(cold, span)?;
        let base = self.load_base(cold, &open, span)?;
        Ok(BaseSum {
            max_timestamp: base.index.max_timestamp(),
            gaps: base.gaps,
        })
    }

    /// Completes `index` up to the tail by walking the log behind it, keeps it, and tries to write it to the files.
    ///
    /// Every batch is verified on the way: this makes it safe to go on behind damage.
    pub(super) fn rebuild(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        open: &Arc<OpenMap>,
        mut index: Index,
        span: &Span,
    ) -> Result<Base> {
        self.pool.count_rebuild();
        let mut doubted_to = index.end();
        let (start, end) = (index.end(), self.state.read().tail.start());
        let mut walker = self.scan(open, &index, span);
        let mut gaps = Gaps::None;
        loop {
            match walker.step()? {
                Step::Damage(damage) if doubted_to > 0 && damage.position == doubted_to => {
                    // No batch begins where the index from the files ends: they may belong to another log.
                    doubted_to = 0;
                    gaps = Gaps::None;
                    index = Index::new(self.base, 0);
                    walker = self.scan(open, &index, span);
                }
                Step::Batch(position, header) => index.push(&BatchNote {
                    base_offset: header.base_offset,
                    next_offset: header.next_offset(),
                    max_timestamp: header.max_timestamp,
                    position: FilePos(position),
                    bytes: header.total_bytes() as u64,
                    json_lines: false,
                }),
                Step::Damage(damage) => {
                    self.note_damage(&damage, span);
                    index.skip_to(damage.resume);
                    gaps = gaps.max(if damage.is_unreadable {
                        Gaps::Unreadable
                    } else {
                        Gaps::Damaged
                    });
                }
                Step::End => break,
            }
        }
        self.hand_in(open, &walker);
        tracing::debug!(log = %self.file("log").display(), start, end, "an index was made from its log");
        // Skipped bytes may be readable later, so an index without them is not stored.
        if gaps == Gaps::None
            && let Err(error) = self.write_index_files(cold, &index)
        {
            // The disk may be full: the index is made again when it is needed.
            tracing::warn!(log = %self.file("log").display(), %error, "an index could not be written");
        }
        let base = Base {
            index: Arc::new(index),
            doubted_to,
            gaps,
        };
        self.keep_base(open, &base);
        Ok(base)
    }

    /// A walk from the end of an index to the tail.
    fn scan(&self, open: &Arc<OpenMap>, index: &Index, span: &Span) -> Walker {
        let state = self.state.read();
        let course = Course {
            start: index.end(),
            end: state.tail.start(),
            next_offset: index.next_offset(),
            // The index is kept longer than the view of this read: the end of that view is not the end of the log.
            limit: state
                .tail
                .first_offset()
                .or(state.published_to)
                .unwrap_or(if span.sealed {
                    span.segment_end
                } else {
                    Offset::MAX
                }),
            marks: Vec::new(),
            doubted_to: 0,
        };
        drop(state);
        Walker::new(Arc::clone(&open.map), self.verified(open), self.base, course)
    }

    fn keep_base(&self, open: &Arc<OpenMap>, base: &Base) {
        let mut state = self.state.write();
        state.base_sum = Some(BaseSum {
            max_timestamp: base.index.max_timestamp(),
            gaps: base.gaps,
        });
        // Loaded indexes are bounded by the open maps.
        if state.map.as_ref().is_some_and(|map| Arc::ptr_eq(map, open)) {
            state.base = Some(base.clone());
        }
    }

    /// The index in the files, if it is whole and belongs to this segment. It may cover less than `log_bytes`.
    pub(super) fn read_index_files(&self, log_bytes: u64) -> Option<Index> {
        let read = |extension| self.read_file(&self.file(extension));
        let (offsets, times) = match (read("index"), read("timeindex")) {
            (Ok(offsets), Ok(times)) => (offsets, times),
            // Normal after a kill: the index is written when the segment is synced.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(log = %self.file("log").display(), "a log has no index");
                return None;
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(log = %self.file("log").display(), %error, "the index of a log could not be read");
                return None;
            }
        };
        match index::decode(&offsets, &times, self.base, log_bytes) {
            Ok(index) => Some(index),
            Err(error) => {
                tracing::warn!(log = %self.file("log").display(), %error, "the index of a log is of no use");
                None
            }
        }
    }

    fn read_file(&self, path: &std::path::Path) -> io::Result<Vec<u8>> {
        let file = self.pool.disk.open(path, OpenMode::Read)?;
        let len = file.len()?.min(index::MAX_FILE_BYTES);
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes both files under other names and renames them, without a sync: checksums show what a power cut has torn,
    /// and a killed process leaves no torn file. Files of another version stay as they are, because the log is enough.
    pub(super) fn write_index_files(&self, _cold: &Cold<'_>, index: &Index) -> Result<()> {
        if self.state.read().closed {
            return Ok(());
        }
        let (offsets, times) = index::encode(index);
        let mut files = Vec::with_capacity(2);
        for (extension, contents) in [("index", offsets), ("timeindex", times)] {
            let path = self.file(extension);
            if let Some(header) = read_if_exists(&*self.pool.disk, &path)?
                && let Some(version) = index::version_of_another(&header)
            {
                tracing::warn!(
                    path = %path.display(),
                    version,
                    known = index::VERSION,
                    "an index of another version is left as it is: opening this segment scans its log"
                );
                return Ok(());
            }
            files.push((extension, path, contents));
        }
        for (extension, path, contents) in files {
            let beside = self.file(&format!("{extension}.new"));
            self.pool
                .disk
                .open(&beside, OpenMode::Create)
                .and_then(|file| {
                    file.write_all_at(&[IoSlice::new(&contents)], 0)?;
                    file.set_len(contents.len() as u64)
                })
                .and_then(|()| self.pool.disk.rename(&beside, &path))
                .at("writing", &path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Rig, disks, seeds};
    use crate::io::disk::RealDisk;
    use crate::segment::index::{self, Index};
    use crate::segment::read::{ReadRequest, read};
    use crate::segment::{Access, BatchNote};
    use crate::sim::Rng;
    use crate::types::{FilePos, Offset, TimestampMs};

    fn rig(disk: RealDisk) -> Rig {
        let mut rig = Rig::new(disk, 8, 0);
        rig.fill(300);
        rig.segments[0].write_index().unwrap();
        rig
    }

    /// Reads every batch by itself, cold and then warm, and looks up one time in each.
    fn assert_readable(rig: &Rig, context: &str) {
        let view = rig.view();
        for (index, batch) in rig.written.iter().enumerate() {
            let request = ReadRequest::new(Offset::new(batch.base() + index as u64 % 10), 1);
            for access in [Access::Cold, Access::Warm] {
                let fetched = read(&view, request, access).unwrap();
                let fetched = fetched.unwrap_or_else(|| panic!("batch {index} is not warm: {context}"));
                assert_eq!(fetched.runs[0].bytes, batch.bytes, "batch {index}: {context}");
            }
            assert_eq!(
                crate::segment::read::offset_for_time(&view, TimestampMs(batch.times[3])).unwrap(),
                Some((Offset::new(batch.base() + 3), TimestampMs(batch.times[3]))),
                "{context}"
            );
        }
    }

    type Sabotage = fn(&std::path::Path);

    #[test]
    fn an_index_that_is_missing_damaged_or_torn_is_made_anew() {
        for disk in disks() {
            let sabotage: [(&str, Sabotage); 7] = [
                ("missing", |path| fs::remove_file(path).unwrap()),
                ("empty", |path| fs::write(path, []).unwrap()),
                ("cut", |path| {
                    let contents = fs::read(path).unwrap();
                    fs::write(path, &contents[..contents.len() - 1]).unwrap();
                }),
                ("longer", |path| {
                    let contents = fs::read(path).unwrap();
                    fs::write(path, [&contents[..], &[0]].concat()).unwrap();
                }),
                ("flipped in the header", |path| {
                    let mut contents = fs::read(path).unwrap();
                    contents[30] ^= 1;
                    fs::write(path, contents).unwrap();
                }),
                ("flipped in an entry", |path| {
                    let mut contents = fs::read(path).unwrap();
                    contents[75] ^= 1;
                    fs::write(path, contents).unwrap();
                }),
                ("zeros", |path| {
                    let len = fs::read(path).unwrap().len();
                    fs::write(path, vec![0; len]).unwrap();
                }),
            ];
            for (name, break_it) in sabotage {
                for which in 0..2 {
                    let mut rig = rig(disk.clone());
                    rig.reopen();
                    break_it(&rig.segments[0].index_paths()[which]);
                    assert_readable(&rig, name);
                    assert_eq!(rig.pool.index_rebuilds(), 1, "{name}");
                    // The new index was also written to the files.
                    rig.reopen();
                    assert_readable(&rig, name);
                    assert_eq!(rig.pool.index_rebuilds(), 0, "{name}, after a restart");
                }
            }
        }
    }

    #[test]
    fn an_index_of_another_segment_is_made_anew() {
        for disk in disks() {
            let mut rig = rig(disk);
            rig.roll();
            rig.fill(300);
            rig.segments[1].write_index().unwrap();
            for (from, to) in rig.segments[0]
                .index_paths()
                .iter()
                .zip(rig.segments[1].index_paths())
            {
                fs::copy(from, to).unwrap();
            }
            rig.reopen();
            assert_readable(&rig, "copied");
            assert_eq!(rig.pool.index_rebuilds(), 1);
        }
    }

    #[test]
    fn an_index_of_another_log_with_the_same_name_never_makes_it_look_damaged() {
        for disk in disks() {
            let mut other = Rig::new(disk.clone(), 8, 0);
            for i in 0..400 {
                other.append(&[i * 10], 333);
            }
            other.segments[0].write_index().unwrap();
            // The other log is shorter: its index covers a part of this one, and its header does not show the mistake.
            let mut rig = Rig::new(disk, 8, 0);
            rig.fill(300);
            assert!(rig.segments[0].readable() > other.segments[0].readable());
            for (from, to) in other.segments[0]
                .index_paths()
                .iter()
                .zip(rig.segments[0].index_paths())
            {
                fs::copy(from, to).unwrap();
            }
            rig.reopen();
            let view = rig.view();
            for batch in &rig.written {
                let request = ReadRequest::new(batch.note.base_offset, 1);
                let fetched = read(&view, request, Access::Cold).unwrap().unwrap();
                assert_eq!(fetched.runs[0].bytes, batch.bytes);
            }
        }
    }

    #[test]
    fn no_index_whatever_it_says_changes_what_is_read() {
        for seed in seeds(100) {
            let mut random = Rng::new(seed.0);
            let mut rig = Rig::new(disks()[seed.0 as usize % 2].clone(), 8, 1000);
            rig.fill(150);
            // Stretches that begin anywhere, often where a batch does, with any offsets, but with correct checksums.
            let mut lie = Index::new(Offset::new(1000), 0);
            let (mut offset, log_bytes) = (1000, rig.segments[0].readable().get());
            while lie.end() < log_bytes {
                let (position, bytes) = match random.below(3) {
                    0 => (lie.end(), random.below(20_000) + 1),
                    _ => {
                        let next = rig.written.iter().find(|w| w.start() > lie.end());
                        offset = next.map_or(offset, |w| offset.max(w.base()));
                        (lie.end(), next.map_or(log_bytes, |w| w.start()) - lie.end())
                    }
                };
                offset += random.below(3) * random.below(30);
                lie.push(&BatchNote {
                    base_offset: Offset::new(offset),
                    next_offset: Offset::new(offset + 1),
                    max_timestamp: TimestampMs(random.below(1000) as i64),
                    position: FilePos(position),
                    bytes: bytes.min(log_bytes - position),
                    json_lines: true,
                });
                offset += 1;
                if random.chance(1, 10) {
                    lie.skip_to((lie.end() + random.below(50)).min(log_bytes));
                }
            }
            let (offsets, times) = index::encode(&lie);
            let [offset_path, time_path] = rig.segments[0].index_paths();
            fs::write(offset_path, offsets).unwrap();
            fs::write(time_path, times).unwrap();
            rig.reopen();
            let view = rig.view();
            let mut from = 1000 + random.below(100);
            while from < view.end_offset.get() {
                let request = ReadRequest::new(Offset::new(from), random.below(40_000) as usize);
                for access in [Access::Warm, Access::Cold, Access::Warm] {
                    let Some(fetched) = read(&view, request, access).unwrap() else {
                        continue;
                    };
                    let first = rig.written.iter().position(|w| w.next() > from).unwrap();
                    let expected = rig.written[first..].iter().flat_map(|w| &w.bytes);
                    let found = &fetched.runs[0].bytes;
                    assert!(
                        found.iter().eq(expected.take(found.len())),
                        "{request:?} {access:?}"
                    );
                    from = from.max(fetched.next_offset.get() - random.below(15));
                    break;
                }
                from += random.below(30);
            }
        }
    }

    #[test]
    fn an_index_of_the_beginning_is_completed() {
        for disk in disks() {
            let mut rig = rig(disk);
            rig.fill(200);
            rig.reopen();
            assert_readable(&rig, "prefix");
            assert_eq!(rig.pool.index_rebuilds(), 1);
            let view = rig.view();
            let request = ReadRequest::new(Offset::ZERO, usize::MAX).until(Offset::new(2000));
            let fetched = read(&view, request, Access::Warm).unwrap().unwrap();
            assert!(fetched.runs[0].json_lines, "what was written keeps its flags");
            let request = ReadRequest {
                until: None,
                ..request
            };
            let fetched = read(&view, request, Access::Warm).unwrap().unwrap();
            assert!(!fetched.runs[0].json_lines, "what was scanned has none");
        }
    }

    #[test]
    fn an_index_that_covers_more_than_the_log_is_made_anew() {
        for disk in disks() {
            let mut rig = rig(disk);
            let last = rig.written.pop().unwrap();
            rig.next_offset = last.base();
            rig.reopen();
            rig.segments[0] = std::sync::Arc::new(crate::segment::Segment::new(
                std::sync::Arc::clone(&rig.pool),
                rig.path(),
                Offset::ZERO,
                super::super::testing::MAP_BYTES,
                last.note.position,
            ));
            assert_readable(&rig, "shorter log");
            assert_eq!(rig.pool.index_rebuilds(), 1);
        }
    }

    #[test]
    fn what_is_appended_after_a_restart_joins_the_index_that_was_there() {
        for disk in disks() {
            let mut rig = rig(disk);
            for round in 0..4 {
                rig.reopen();
                rig.fill(30);
                if round % 2 == 0 {
                    assert_readable(&rig, "before it is written");
                }
                rig.segments[0].write_index().unwrap();
                assert_readable(&rig, "after it is written");
                rig.fill(30);
                assert_readable(&rig, "with a new tail");
                rig.segments[0].write_index().unwrap();
                assert_eq!(rig.pool.index_rebuilds(), 0, "round {round}");
            }
        }
    }

    #[test]
    fn an_index_that_cannot_be_written_costs_nothing_but_the_next_scan() {
        for disk in disks() {
            let mut rig = rig(disk);
            rig.reopen();
            for path in rig.segments[0].index_paths() {
                fs::remove_file(&path).unwrap();
                fs::create_dir(path).unwrap();
            }
            assert_readable(&rig, "no place for an index");
            assert!(rig.segments[0].write_index().is_ok(), "nothing was published");
            rig.fill(1);
            assert!(rig.segments[0].write_index().is_err());
            assert_readable(&rig, "still no place");
        }
    }
}
