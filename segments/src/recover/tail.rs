//! Deciding what a partition is made of: what its files hold against what is known of it.
//!
//! | the active segment's file | the evidence is whole | it is not (a journal file or the checkpoint is damaged or missing) |
//! |---|---|---|
//! | ends where the evidence says | keep | keep |
//! | is longer | cut: it was never acknowledged | keep the whole batches that follow on, cut the rest |
//! | is shorter, or missing | keep the positions, report damage: reads there say so | the same |
//! | other segments begin after it, which the evidence does not name | remove | keep, in order |
//!
//! By now the files have all that the journal adds. What is cut without proof that nobody was told about it is kept
//! aside first.
//!
//! Crash: cuts and removals may be durable or not, one by one; the evidence is still there, so the next start decides the
//! same and does again what is missing of it.

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

/// What a partition is made of.
pub(super) struct Contents {
    pub(super) log_start_offset: Offset,
    pub(super) next_offset: Offset,
    /// In order.
    pub(super) segments: Vec<Arc<Segment>>,
    /// The one that is appended to.
    pub(super) active: Option<Active>,
}

/// A partition while it is decided on.
struct Draft<'a> {
    id: PartitionId,
    dir: &'a Path,
    known: Known,
    /// The log files that make it up, each with its end.
    files: BTreeMap<Offset, u64>,
    /// When the log files were last written.
    modified: BTreeMap<Offset, TimestampMs>,
}

/// What lies in a partition's directory, see [`Recovery::list_segments`].
type Listing = (BTreeMap<Offset, u64>, BTreeMap<Offset, TimestampMs>, Vec<Offset>);

/// What becomes of the bytes behind the end that the evidence names.
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
    /// Decides what a partition is made of, and makes its directory so.
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
        // An offset below the log start was given once, even if the evidence for it is lost.
        draft.known.next_offset = draft.known.next_offset.max(draft.known.log_start_offset);
        self.remove_trimmed(&mut draft)?;
        self.suspect_missing(&draft, missing);
        Ok(draft.finish(segment_bytes, pool))
    }

    /// Removes segments that nothing names: they were begun by a round that is not there.
    fn remove_unnamed(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        let known = &draft.known;
        let from = known.active.map_or(known.next_offset, |(base, ..)| base);
        for base in draft.files.keys().copied().collect::<Vec<_>>() {
            let is_newer = match known.active {
                Some(_) => base > from,
                None => base >= from,
            };
            // A named one may lie behind the active one of the checkpoint, never behind the journal's.
            if (is_newer || known.is_stray(base)) && !known.named.contains_key(&base) {
                self.remove_segment(draft.dir, base)?;
                draft.files.remove(&base);
            }
        }
        Ok(())
    }

    /// Cuts the segments before the active one where the journal says that they end; others end where their file does.
    fn cut_closed(&mut self, draft: &mut Draft<'_>) -> Result<()> {
        if !self.is_whole {
            return Ok(());
        }
        for (base, end) in &draft.known.named {
            if draft.known.active.is_some_and(|(active, ..)| active == *base) {
                continue;
            }
            // Also where it ends there: a process that was killed may have cut it and not synced that.
            if let Some(length) = draft.files.get_mut(base)
                && *length >= end.get()
            {
                self.cut(draft.dir, *base, *end)?;
                *length = end.get();
            }
        }
        Ok(())
    }

    /// Decides the active segment's tail, and what follows it.
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

    /// Keeps the positions of an active segment whose file is shorter than they say.
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
        // With its directory, perhaps: what is appended next needs it.
        self.disk.create_dir_all(dir).at("making", dir)?;
        self.touched_dirs.insert(dir.to_path_buf());
        Ok(())
    }

    /// Goes on over segments behind the active one that no evidence names, when the evidence is not whole.
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

    /// Removes what lies wholly below the log start: it was trimmed, and a crash may have left its files.
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

    /// Has a look where segments are missing: at the log start, and where an index has lost its log file.
    fn suspect_missing(&mut self, draft: &Draft<'_>, missing: Vec<Offset>) {
        let (id, start, next) = (draft.id, draft.known.log_start_offset, draft.known.next_offset);
        if start < next && draft.files.keys().next().is_none_or(|first| *first > start) {
            self.suspects.push((id, start, start.plus(1)));
        }
        let lost = missing.into_iter().filter(|base| *base >= start && *base < next);
        self.suspects.extend(lost.map(|base| (id, base, base.plus(1))));
    }

    /// The end of the last whole batch from `begin` on, a position and its offset, and the offset after it. Damage before
    /// it is passed over: what follows was as likely acknowledged.
    fn scan_tail(
        &mut self,
        id: PartitionId,
        dir: &Path,
        base: Offset,
        begin: (FilePos, Offset),
        length: u64,
    ) -> Result<(FilePos, Offset)> {
        let path = dir.join(format!("{base:020}.log"));
        let checked = segment::check(self.disk, &path, base, begin, FilePos(length), None)?;
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

    /// Keeps bytes that are about to be cut without proof that nobody was told about them.
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

    /// The log files with their lengths, when they were written, and the bases of indexes that have lost theirs.
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
        self.touched_dirs.insert(dir.to_path_buf());
        Ok(())
    }
}

impl Draft<'_> {
    /// Where nothing is known but the files, or only that the partition once ended at `next_offset`: goes by the files.
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
            // Not bounded by the clock of this opening, which may be wrong: a machine that starts with a clock of 1970 must not
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
