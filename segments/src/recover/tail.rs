//! Decides which segments a partition has and where each ends: compares its files with the checkpoint and the journal.
//!
//! | the active segment's file | the evidence is whole | it is not (a journal file or the checkpoint is damaged or missing) |
//! |---|---|---|
//! | ends where the evidence says | keep | keep |
//! | is longer | cut: the rest was never acknowledged as durable | keep the whole batches that follow, cut the rest |
//! | is shorter, or missing | keep the positions, report damage: reads of the lost offsets fail | the same |
//! | other segments begin after it, which the evidence does not name | remove | keep, in order |
//!
//! The files already hold all batches of the journal. Bytes that are cut, but may have been acknowledged (the evidence
//! is not whole), are first copied to a file beside the log.
//!
//! Crash: each cut or removal may be durable or not. The evidence is still there, so the next start decides the same
//! and repeats those that are not.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Recovery;
use super::known::Known;
use crate::error::{At, Result};
use crate::files::layout::{parse_index_name, parse_log_name};
use crate::files::sealed::replace_file;
use crate::files::slots::list_if_exists;
use crate::io::disk::OpenMode;
use crate::segment::{self, Segment, SegmentPool};
use crate::topic::partition::Active;
use crate::types::{FilePos, Offset, PartitionId, TimestampMs};

/// The segments and positions of a partition.
pub(super) struct Contents {
    pub(super) log_start_offset: Offset,
    pub(super) next_offset: Offset,
    /// In order of their base offsets.
    pub(super) segments: Vec<Arc<Segment>>,
    /// The segment that is appended to.
    pub(super) active: Option<Active>,
}

/// A partition while recovery decides about it.
struct Draft<'a> {
    id: PartitionId,
    dir: &'a Path,
    known: Known,
    /// The log files of the partition, each with its end.
    files: BTreeMap<Offset, u64>,
    /// When the log files were last written.
    modified: BTreeMap<Offset, TimestampMs>,
}

/// The files in a partition's directory, see [`Recovery::list_segments`].
type Listing = (BTreeMap<Offset, u64>, BTreeMap<Offset, TimestampMs>, Vec<Offset>);

/// What happens to the bytes behind the end that the evidence names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Keep,
    Cut,
    Scan,
    Short,
}

/// The decision table over a file's length.
fn decide_tail(file_bytes: u64, known_end: FilePos, is_whole: bool) -> Tail {
    match (file_bytes.cmp(&known_end.get()), is_whole) {
        (Ordering::Equal, _) => Tail::Keep,
        (Ordering::Less, _) => Tail::Short,
        (Ordering::Greater, true) => Tail::Cut,
        (Ordering::Greater, false) => Tail::Scan,
    }
}

impl Recovery<'_> {
    /// Decides which segments a partition has, and changes its directory to that.
    pub(super) fn partition(
        &mut self,
        id: PartitionId,
        dir: &Path,
        known: Known,
        segment_bytes: u64,
        pool: &Arc<SegmentPool>,
    ) -> Result<Contents> {
        let (files, modified, missing) = self.list_segments(dir)?;
        let mut draft = Draft {
            id,
            dir,
            known,
            files,
            modified,
        };
        if self.is_whole {
            self.remove_unnamed(&mut draft)?;
        } else {
            draft.guess_active(self.now);
        }
        self.cut_closed(&mut draft)?;
        self.settle_active(&mut draft)?;
        // Every offset below the log start was given to a record, even if the evidence for it is lost.
        draft.known.next_offset = draft.known.next_offset.max(draft.known.log_start_offset);
        self.remove_trimmed(&mut draft)?;
        self.suspect_missing(&draft, missing);
        Ok(draft.finish(segment_bytes, pool))
    }

    /// Removes segments that no evidence names: they were begun by a round that the journal does not have.
    fn remove_unnamed(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        let known = &draft.known;
        let from = known.active.map_or(known.next_offset, |(base, ..)| base);
        for base in draft.files.keys().copied().collect::<Vec<_>>() {
            let is_newer = match known.active {
                Some(_) => base > from,
                None => base >= from,
            };
            // A segment that the journal names may lie behind the checkpoint's active one, never behind the journal's.
            if (is_newer || known.is_stray(base)) && !known.named.contains_key(&base) {
                self.remove_segment(draft.dir, base)?;
                draft.files.remove(&base);
            }
        }
        Ok(())
    }

    /// Cuts closed segments where the journal says that they end; the others end where their file ends.
    fn cut_closed(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        if !self.is_whole {
            return Ok(());
        }
        for (base, end) in &draft.known.named {
            if draft.known.active.is_some_and(|(active, ..)| active == *base) {
                continue;
            }
            // Also if the file ends there: a process that was killed may have cut it and not synced that.
            if let Some(length) = draft.files.get_mut(base)
                && *length >= end.get()
            {
                self.cut(draft.dir, *base, *end)?;
                *length = end.get();
            }
        }
        Ok(())
    }

    /// Decides about the active segment's tail, and about the segments behind it.
    fn settle_active(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        let Some((base, known_end, made)) = draft.known.active else {
            return Ok(());
        };
        let (id, dir) = (draft.id, draft.dir);
        let length = draft.files.get(&base).copied().unwrap_or(0);
        let mut end = known_end;
        match decide_tail(length, known_end, self.is_whole) {
            Tail::Keep => {}
            Tail::Cut => self.cut(dir, base, end)?,
            Tail::Scan => {
                let begin = (known_end, draft.known.next_offset);
                (end, draft.known.next_offset) = self.scan_tail(id, dir, base, begin, length)?;
                let follows = draft.files.keys().any(|other| *other > base);
                if !follows && end.get() < length {
                    self.keep_tail(dir, base, end, length);
                    self.cut(dir, base, end)?;
                }
            }
            // All of it was trimmed, and an earlier process has removed the file.
            Tail::Short if draft.known.next_offset <= draft.known.log_start_offset => {}
            Tail::Short => self.suspect_short(draft, base, length, end)?,
        }
        draft.files.insert(base, end.get());
        draft.known.active = Some((base, end, made));
        if !self.is_whole {
            self.follow(draft, base)?;
        }
        Ok(())
    }

    /// Keeps the positions of an active segment although its file is shorter, and notes the segment as suspect.
    fn suspect_short(
        &mut self,
        draft: &Draft<'_>,
        base: Offset,
        found: u64,
        expected: FilePos,
    ) -> Result<()> {
        let dir = draft.dir;
        tracing::warn!(
            log = %dir.join(format!("{base:020}.log")).display(),
            found,
            expected = expected.get(),
            "a log file is shorter than it was"
        );
        let from = base.max(draft.known.log_start_offset);
        self.suspects.push((draft.id, from, draft.known.next_offset));
        // The directory may be missing too, and the next append needs it.
        self.disk.create_dir_all(dir).at("making", dir)?;
        self.touched_dirs.insert(dir.to_path_buf());
        Ok(())
    }

    /// If the evidence is not whole: adds the segments behind the active one, which the evidence does not name.
    fn follow(&mut self, draft: &mut Draft<'_>, active: Offset) -> Result<()> {
        let later: Vec<(Offset, u64)> = draft
            .files
            .range(active..)
            .skip(1)
            .map(|(base, length)| (*base, *length))
            .collect();
        for (base, length) in later {
            if base < draft.known.next_offset {
                self.damage.push(format!(
                    "{} begins before offset {}, where the one before it ends: it is left out",
                    draft.dir.join(format!("{base:020}.log")).display(),
                    draft.known.next_offset
                ));
                draft.files.remove(&base);
                continue;
            }
            let (end, next) = self.scan_tail(draft.id, draft.dir, base, (FilePos::ZERO, base), length)?;
            draft.files.insert(base, end.get());
            draft.known.active = Some((base, end, self.now));
            draft.known.next_offset = next;
        }
        Ok(())
    }

    /// Removes segments that lie wholly below the log start: they were trimmed, and a crash may have left their files.
    fn remove_trimmed(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        let known = &mut draft.known;
        let bases: Vec<Offset> = draft.files.keys().copied().collect();
        for (index, base) in bases.iter().enumerate() {
            let end = bases.get(index + 1).copied().unwrap_or(known.next_offset);
            if end <= known.log_start_offset && end > *base {
                self.remove_segment(draft.dir, *base)?;
                draft.files.remove(base);
                if known.active.is_some_and(|(active, ..)| active == *base) {
                    known.active = None;
                }
            }
        }
        Ok(())
    }

    /// Notes as suspect where segments are missing: at the log start, and where an index exists without its log file.
    fn suspect_missing(&mut self, draft: &Draft<'_>, missing: Vec<Offset>) {
        let (id, start, next) = (draft.id, draft.known.log_start_offset, draft.known.next_offset);
        if start < next && draft.files.keys().next().is_none_or(|first| *first > start) {
            self.suspects.push((id, start, start.plus(1)));
        }
        let lost = missing.into_iter().filter(|base| *base >= start && *base < next);
        self.suspects.extend(lost.map(|base| (id, base, base.plus(1))));
    }

    /// Returns the end of the last whole batch at or behind `begin` (a position and its offset), and the offset after
    /// it. Damage before that batch is passed over: the batches behind damage may have been acknowledged just as well.
    fn scan_tail(
        &mut self,
        id: PartitionId,
        dir: &Path,
        base: Offset,
        begin: (FilePos, Offset),
        length: u64,
    ) -> Result<(FilePos, Offset)> {
        let path = dir.join(format!("{base:020}.log"));
        let checked = segment::check(
            self.disk,
            &path,
            base,
            begin,
            FilePos(length),
            None,
            segment::Depth::Sealed,
        )?;
        let mut end = FilePos(length);
        for stretch in checked.damage {
            match stretch.until {
                Some(until) => self.suspects.push((id, stretch.from, until)),
                // Nothing healthy follows.
                None => end = stretch.position,
            }
        }
        Ok((end, checked.next_offset))
    }

    /// Copies bytes to a file beside the log before they are cut, because they may have been acknowledged.
    fn keep_tail(&self, dir: &Path, base: Offset, end: FilePos, length: u64) {
        let path = dir.join(format!("{base:020}.log"));
        let aside = dir.join(format!("{base:020}.log.damaged-{end}"));
        let kept = self.disk.open(&path, OpenMode::Read).and_then(|file| {
            let mut bytes = vec![0; usize::try_from(length - end.get()).unwrap_or_default()];
            let read = file.read_at(&mut bytes, end.get())?;
            bytes.truncate(read);
            if bytes.iter().all(|byte| *byte == 0) {
                return Ok(false);
            }
            replace_file(self.disk, &aside, &bytes).map(|()| true)
        });
        match kept {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                log = %path.display(), position = end.get(), kept = %aside.display(),
                "bytes behind the last whole record are cut, and kept aside"
            ),
            Err(error) => {
                tracing::warn!(log = %path.display(), %error, "bytes that are cut could not be kept")
            }
        }
    }

    /// The log files with their lengths, the times of their last writes, and the bases of indexes without a log file.
    fn list_segments(&self, dir: &Path) -> Result<Listing> {
        let mut files = BTreeMap::new();
        let mut modified = BTreeMap::new();
        let mut missing = Vec::new();
        for entry in list_if_exists(self.disk, dir)? {
            if let Some(base) = parse_log_name(&entry.name) {
                files.insert(base, entry.len);
                modified.extend(entry.modified.map(|time| (base, time)));
            } else if let Some(base) = parse_index_name(&entry.name) {
                missing.push(base);
            }
        }
        missing.retain(|base| !files.contains_key(base));
        Ok((files, modified, missing))
    }

    fn cut(&mut self, dir: &Path, base: Offset, end: FilePos) -> Result<()> {
        let path = dir.join(format!("{base:020}.log"));
        if self.touched.len() >= self.max_touched {
            self.sync_touched()?;
        }
        let file = match self.touched.get(&path) {
            Some(file) => Arc::clone(file),
            None => self.disk.open(&path, OpenMode::ReadWrite).at("cutting", &path)?,
        };
        file.set_len(end.get()).at("cutting", &path)?;
        self.touched.insert(path, file);
        Ok(())
    }

    fn remove_segment(&mut self, dir: &Path, base: Offset) -> Result<()> {
        for extension in ["log", "index", "timeindex"] {
            let path = dir.join(format!("{base:020}.{extension}"));
            self.touched.remove(&path);
            match self.disk.remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.at("removing", &path)?,
            }
        }
        // All of a partition may be trimmed, and a power cut may have taken its directory.
        if self.disk.exists(dir).at("looking for", dir)? {
            self.touched_dirs.insert(dir.to_path_buf());
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// If no active segment is known: takes the first one at or behind `next_offset`. Without any evidence,
    /// `next_offset` and the log start come from the files, too.
    fn guess_active(&mut self, now: TimestampMs) {
        let known = &mut self.known;
        if known.active.is_some() {
            return;
        }
        if !known.is_evident {
            known.log_start_offset = self.files.keys().next().copied().unwrap_or_default();
            known.next_offset = self.files.keys().next_back().copied().unwrap_or_default();
        }
        if let Some((base, _)) = self.files.range(known.next_offset..).next() {
            known.active = Some((*base, FilePos::ZERO, now));
            known.next_offset = *base;
        }
    }

    fn finish(self, segment_bytes: u64, pool: &Arc<SegmentPool>) -> Contents {
        let mut segments = Vec::with_capacity(self.files.len());
        let mut active = None;
        for (base, length) in self.files {
            let capacity = segment_bytes.max(length);
            let segment = Arc::new(Segment::new(
                Arc::clone(pool),
                self.dir,
                base,
                capacity,
                FilePos(length),
            ));
            // Not limited by the present clock, which may be wrong: a machine that starts with a clock of 1970 must not
            // delete everything once its clock is right.
            if let Some(modified) = self.modified.get(&base) {
                segment.note_append(*modified);
            }
            if let Some((active_base, position, made)) = self.known.active
                && active_base == base
            {
                active = Some(Active {
                    segment: Arc::clone(&segment),
                    position,
                    made,
                    capacity,
                    file: None,
                });
            }
            segments.push(segment);
        }
        Contents {
            log_start_offset: self.known.log_start_offset,
            next_offset: self.known.next_offset,
            segments,
            active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_cut_only_when_the_evidence_is_whole() {
        let end = FilePos(100);
        assert_eq!(decide_tail(100, end, true), Tail::Keep);
        assert_eq!(decide_tail(100, end, false), Tail::Keep);
        assert_eq!(decide_tail(101, end, true), Tail::Cut);
        assert_eq!(decide_tail(101, end, false), Tail::Scan);
        assert_eq!(decide_tail(99, end, true), Tail::Short);
        assert_eq!(decide_tail(0, end, false), Tail::Short);
        assert_eq!(decide_tail(0, FilePos(0), true), Tail::Keep);
    }
}
