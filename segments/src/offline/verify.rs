//! Checks a data directory offline: every byte that matters, without changing any.
//!
//! What the next start repairs by itself (a tail that was never acknowledged as durable, an index that does not fit,
//! records that the journal still has) is a note or a fault. What no start can bring back is damage, and is reported
//! with file, position and offsets. To decide which it is, the journal and the checkpoint are read as in `recover`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::batch::Batches;
use crate::error::{At, Error, Result};
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::description::TopicBody;
use crate::files::description::{self, Described};
use crate::files::layout::{Layout, TOPIC_COPY, TOPIC_FILE, parse_log_name};
use crate::files::slots::{Slots, list_if_exists, read_if_exists};
use crate::files::state::{self, State};
use crate::io::disk::{Disk, RealDisk};
use crate::journal::format::Item;
use crate::journal::replay;
use crate::offline::finding::{Finding, Verified, partition_name, restore};
use crate::recover::identity::{self, Identity};
use crate::segment::index;
use crate::segment::{DamagedStretch, Depth, check};
use crate::types::{FilePos, Offset, PartitionId, TopicId};

/// What the checkpoint and the journal say about a partition.
#[derive(Default)]
struct Evidence {
    active: Option<(Offset, FilePos)>,
    next_offset: Offset,
    log_start_offset: Offset,
    /// Ranges of segments that the journal has: the next start writes them again.
    journalled: Vec<(Offset, FilePos, FilePos)>,
}

struct Verifier<'a> {
    disk: &'a dyn Disk,
    layout: Layout,
    verified: Verified,
    progress: &'a mut dyn FnMut(&Verified),
    evidence: HashMap<PartitionId, Evidence>,
    deleted: Vec<TopicId>,
    /// The partition that is being checked.
    current: Option<PartitionId>,
    /// Whether checkpoint and journal are whole.
    is_whole: bool,
}

/// Checks a data directory that no server has open. `progress` is called after every file.
///
/// # Errors
/// [`Error::Directory`] if it is in use, is not a data directory, or is of a version that this program does not know;
/// [`Error::Io`] if a directory cannot be listed. Damage is not an error: it is in [`Verified::findings`].
pub fn verify(dir: &Path, progress: &mut dyn FnMut(&Verified)) -> Result<Verified> {
    verify_on(&RealDisk::new(), dir, progress)
}

/// The same on any disk.
///
/// # Errors
/// As for [`verify`].
pub fn verify_on(disk: &dyn Disk, dir: &Path, progress: &mut dyn FnMut(&Verified)) -> Result<Verified> {
    let layout = Layout::new(dir);
    let lock = layout.lock();
    let is_locked = disk.exists(&lock).at("looking at", &lock)?;
    // A missing lock file is not made: nothing is changed.
    let _lock = is_locked.then(|| lock_directory(disk, &layout)).transpose()?;
    look(disk, layout, progress)
}

/// Takes the lock of a data directory.
pub(crate) fn lock_directory(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn Send + Sync>> {
    let root = layout.root.display();
    disk.lock(&layout.lock())
        .map_err(|_| Error::Directory(format!("{root} is in use: stop the server first")))
}

/// Checks a directory whose lock is held.
pub(crate) fn look(disk: &dyn Disk, layout: Layout, progress: &mut dyn FnMut(&Verified)) -> Result<Verified> {
    let Some(identity) = identity::find(disk, &layout)? else {
        return Err(Error::Directory(format!(
            "{} is not a quipu data directory: it has no FORMAT",
            layout.root.display()
        )));
    };
    let mut verifier = Verifier {
        disk,
        layout,
        verified: Verified::default(),
        progress,
        evidence: HashMap::new(),
        deleted: Vec::new(),
        current: None,
        is_whole: true,
    };
    verifier.identity(&identity);
    verifier.evidence(identity.id)?;
    verifier.topics()?;
    Ok(verifier.verified)
}

impl Verifier<'_> {
    fn note(&mut self, path: &Path, what: impl Into<String>, advice: &str) {
        self.find(false, path, None, None, what.into(), advice);
    }

    /// Notes a fault: a file that can be written again from elsewhere.
    fn fault(&mut self, path: &Path, what: impl Into<String>, advice: &str) {
        self.find(false, path, None, None, what.into(), advice);
        if let Some(finding) = self.verified.findings.last_mut() {
            finding.is_fault = true;
        }
    }

    fn damage(&mut self, path: &Path, what: impl Into<String>, advice: &str) {
        self.find(true, path, None, None, what.into(), advice);
    }

    fn find(
        &mut self,
        is_damage: bool,
        path: &Path,
        position: Option<FilePos>,
        offsets: Option<(Offset, Offset)>,
        what: String,
        advice: &str,
    ) {
        let path = path.to_path_buf();
        let partition = offsets.and_then(|_| path.parent().map(partition_name));
        let advice = match (offsets, &partition) {
            (Some((from, until)), Some(partition)) if advice.is_empty() => restore(partition, from, until),
            _ => advice.into(),
        };
        self.verified.findings.push(Finding {
            is_damage,
            is_fault: false,
            path,
            position,
            offsets,
            partition_id: self.current.filter(|_| partition.is_some()),
            partition,
            what,
            advice,
        });
    }

    /// Says what is wrong with `FORMAT`.
    fn identity(&mut self, identity: &Identity) {
        if let Some(what) = &identity.fault {
            let path = self.layout.format();
            let advice = format!("{MENDS}, with the id that the other files carry");
            self.fault(&path, what, &advice);
        }
    }

    /// Reads the checkpoint and says what is wrong with it.
    fn checkpoint(&mut self, id: u64) -> Result<Option<Checkpoint>> {
        let paths = [self.layout.checkpoint(0), self.layout.checkpoint(1)];
        let found = Slots::read(self.disk, &paths, checkpoint::MAGIC, checkpoint::VERSION)?;
        let checkpoint = found.payload.as_deref().and_then(Checkpoint::decode);
        let is_foreign = checkpoint.as_ref().is_some_and(|found| found.directory_id != id);
        let checkpoint = checkpoint.filter(|_| !is_foreign);
        if checkpoint.is_some() {
            self.slots(&paths, &found.faults);
            return Ok(checkpoint);
        }
        self.is_whole = false;
        let what = if is_foreign {
            "it is of another data directory"
        } else {
            "both slots of the checkpoint are damaged or missing"
        };
        let advice =
            "start the server: it keeps every whole batch that it finds, and what is here as .damaged";
        self.damage(&paths[0], what, advice);
        Ok(None)
    }

    /// Says what is wrong with the state's snapshot.
    fn state(&mut self, is_expected: bool) -> Result<Option<State>> {
        let paths = [self.layout.state(0), self.layout.state(1)];
        let found = Slots::read(self.disk, &paths, state::MAGIC, state::VERSION)?;
        let state = found.payload.as_deref().and_then(State::decode);
        if state.is_some() {
            self.slots(&paths, &found.faults);
        } else if is_expected || !found.damaged.is_empty() {
            let what = "both slots of the state are damaged or missing";
            let advice = "restore them from a backup, or commit the groups' offsets anew";
            self.damage(&paths[0], what, advice);
        }
        Ok(state)
    }

    /// Reports each slot that is not whole, if the other one is.
    fn slots(&mut self, paths: &[PathBuf; 2], faults: &[Option<String>; 2]) {
        for (path, fault) in paths.iter().zip(faults) {
            if let Some(what) = fault {
                let advice = format!("{MENDS} from the other slot, which is whole");
                self.fault(path, what, &advice);
            }
        }
    }

    /// Reads the checkpoint, the state's snapshot and the journal.
    fn evidence(&mut self, id: u64) -> Result<()> {
        let checkpoint = self.checkpoint(id)?;
        // Without a snapshot only the journal's changes remain, as they would at a start.
        let mut state = self.state(checkpoint.is_some())?.unwrap_or_default();
        let (sequence, round, expected) = checkpoint.as_ref().map_or((0, 0, false), |checkpoint| {
            (checkpoint.sequence, checkpoint.round, checkpoint.journal_expected)
        });
        for entry in checkpoint.iter().flat_map(|checkpoint| &checkpoint.partitions) {
            let evidence = Evidence {
                active: entry.active.map(|(base, position, _)| (base, position)),
                next_offset: entry.next_offset,
                log_start_offset: entry.log_start_offset,
                journalled: Vec::new(),
            };
            self.evidence.insert(entry.id, evidence);
        }
        self.deleted = checkpoint.map_or_else(Vec::new, |checkpoint| checkpoint.deleting);
        let scan = replay::scan(self.disk, &self.layout, id, sequence, round, expected)?;
        for path in &scan.foreign {
            let advice = format!("{MENDS}: it puts the file aside as .foreign, and replays nothing of it");
            self.fault(path, "a journal file of another data directory", &advice);
        }
        let journal_dir = self.layout.journal_dir();
        for what in &scan.damage {
            self.is_whole = false;
            let advice = "start the server: it keeps every whole batch that it finds in the segments";
            self.damage(&journal_dir, what, advice);
        }
        let (evidence, deleted) = (&mut self.evidence, &mut self.deleted);
        scan.for_each(|_, items| {
            for item in items {
                match *item {
                    Item::State { key, value } => state.apply(key, value),
                    Item::TopicDeleted(topic) => deleted.push(topic),
                    Item::LogStart { partition, offset } => {
                        let known = evidence.entry(partition).or_default();
                        known.log_start_offset = known.log_start_offset.max(offset);
                    }
                    Item::Append {
                        partition,
                        segment_base,
                        position,
                        bytes,
                        ..
                    } => {
                        let known = evidence.entry(partition).or_default();
                        let end = position.plus(bytes.len() as u64);
                        known.journalled.push((segment_base, position, end));
                        known.active = known.active.max(Some((segment_base, end)));
                        let last = Batches::new(bytes).last().and_then(std::result::Result::ok);
                        if let Some((header, _)) = last {
                            known.next_offset = known.next_offset.max(header.next_offset());
                        }
                    }
                }
            }
            Ok(())
        })?;
        self.verified.state = state.prefix(&[]);
        Ok(())
    }

    fn topics(&mut self) -> Result<()> {
        let dir = self.layout.topics_dir();
        let mut seen = Vec::new();
        let entries = list_if_exists(self.disk, &dir)?.into_iter();
        for entry in entries.filter(|entry| entry.is_dir) {
            let topic_dir = dir.join(&entry.name);
            let path = topic_dir.join(TOPIC_FILE);
            let body = match description::read(self.disk, &topic_dir, &entry.name)? {
                Described::Whole(body) => body,
                // A directory from before there were copies has none either.
                Described::CopyFault(body, what) if what == "missing" => body,
                Described::CopyFault(body, what) if what == description::OLDER => {
                    let advice = format!("{MENDS} from {TOPIC_FILE}: a change of the topic was cut short");
                    self.note(&topic_dir.join(TOPIC_COPY), what, &advice);
                    body
                }
                Described::CopyFault(body, what) => {
                    let advice = format!("{MENDS} from {TOPIC_FILE}, which is whole");
                    self.fault(&topic_dir.join(TOPIC_COPY), what, &advice);
                    body
                }
                Described::Fault(body, what) => {
                    self.fault(&path, what, &format!("{MENDS} from {TOPIC_COPY}, which is whole"));
                    body
                }
                Described::Unknown(what) => {
                    let what = format!("{what}, and {TOPIC_COPY} beside it is of no use either");
                    let advice = "restore one of the two from a backup; until then the topic is not served, and its log files \
                                  are left alone";
                    self.damage(&path, what, advice);
                    continue;
                }
            };
            seen.push(body.id);
            if !self.deleted.contains(&body.id) {
                self.topic(&body)?;
            }
        }
        let missing = self.evidence.keys().map(|id| id.topic);
        let missing = missing.filter(|id| !seen.contains(id) && !self.deleted.contains(id));
        for TopicId(id) in missing.collect::<BTreeSet<_>>() {
            let what = format!("the directory of topic number {id} is missing or cannot be told");
            self.damage(&dir, what, "restore it from a backup");
        }
        Ok(())
    }

    fn topic(&mut self, body: &TopicBody) -> Result<()> {
        self.verified.topics += 1;
        for index in 0..body.partitions {
            self.verified.partitions += 1;
            let id = PartitionId::new(body.id, index);
            self.current = Some(id);
            let evidence = self.evidence.remove(&id).unwrap_or_default();
            let dir = self.layout.topic_dir(&body.name).join(index.to_string());
            self.partition(&dir, &evidence)?;
        }
        Ok(())
    }

    fn partition(&mut self, dir: &Path, evidence: &Evidence) -> Result<()> {
        let entries = list_if_exists(self.disk, dir)?.into_iter();
        let logs = entries.filter_map(|entry| Some((parse_log_name(&entry.name)?, entry.len)));
        let mut files: Vec<(Offset, u64)> = logs.collect();
        let is_missing = |base: Offset| !files.iter().any(|(other, _)| *other == base);
        if let Some((base, end)) = evidence.active
            && is_missing(base)
            && end > FilePos::ZERO
        {
            files.push((base, 0));
        }
        files.sort_unstable();
        // What lies wholly below the log start was trimmed.
        let expected_first = evidence.log_start_offset;
        if let Some((first, _)) = files.first()
            && *first > expected_first
            && evidence.next_offset > expected_first
        {
            let path = dir.join(format!("{expected_first:020}.log"));
            let offsets = Some((expected_first, *first));
            let what = "the log files of these offsets are missing".into();
            self.find(true, &path, None, offsets, what, RESTORE);
        }
        for (position, (base, length)) in files.iter().enumerate() {
            let next = files.get(position + 1).map(|(next, _)| *next);
            let end = next.unwrap_or(evidence.next_offset);
            if end <= evidence.log_start_offset && end > *base {
                continue;
            }
            self.segment(dir, *base, *length, next, evidence)?;
            (self.progress)(&self.verified);
        }
        Ok(())
    }

    fn segment(
        &mut self,
        dir: &Path,
        base: Offset,
        length: u64,
        next: Option<Offset>,
        evidence: &Evidence,
    ) -> Result<()> {
        let path = dir.join(format!("{base:020}.log"));
        self.verified.segments += 1;
        self.verified.bytes += length;
        let mut end = FilePos(length);
        if let Some((active, known_end)) = evidence.active
            && self.is_whole
        {
            if base > active {
                let advice = "nothing: the next start removes it";
                self.note(&path, "no acknowledged record is in it", advice);
                return Ok(());
            }
            if base == active {
                if length > known_end.get() {
                    let more = length - known_end.get();
                    let what = format!("{more} bytes follow the last acknowledged record");
                    let advice = "nothing: the next start cuts them";
                    self.find(false, &path, Some(known_end), None, what, advice);
                    end = known_end;
                } else if length < known_end.get() && !covers(evidence, base, FilePos(length), known_end) {
                    let what = format!("{length} bytes, expected {known_end}");
                    let checked = self.batches(&path, base, FilePos(length), None, evidence)?;
                    let offsets = Some((checked, evidence.next_offset));
                    self.find(true, &path, Some(FilePos(length)), offsets, what, RESTORE);
                    return self.index(&path, base, length);
                }
            }
        }
        // No record of the last segment can lie at or above the next offset to be given.
        let is_active = evidence.active.is_some_and(|(active, _)| active == base);
        let limit = next.or_else(|| (is_active && self.is_whole).then_some(evidence.next_offset));
        let reached = self.batches(&path, base, end, limit, evidence)?;
        let newest = self.verified.findings.last();
        if let Some(next) = next
            && reached < next
            && newest.is_none_or(|finding| finding.path != path)
        {
            let what = format!("it ends before offset {next}, where the next segment begins");
            self.find(true, &path, Some(end), Some((reached, next)), what, RESTORE);
        }
        self.index(&path, base, length)
    }

    /// Checks the batches of a log file; returns the offset after the last healthy one.
    fn batches(
        &mut self,
        path: &Path,
        base: Offset,
        end: FilePos,
        limit: Option<Offset>,
        evidence: &Evidence,
    ) -> Result<Offset> {
        if end == FilePos::ZERO {
            return Ok(base);
        }
        let checked = check(
            self.disk,
            path,
            base,
            (FilePos::ZERO, base),
            end,
            limit,
            Depth::Inflated,
        )?;
        self.verified.batches += checked.batches;
        self.verified.records += checked.records;
        for DamagedStretch {
            position,
            resume,
            from,
            until,
            what,
        } in checked.damage
        {
            let until = until.or(limit).unwrap_or_else(|| evidence.next_offset.max(from));
            if covers(evidence, base, position, resume) {
                let advice = "nothing: the journal has these records, and the next start writes them again";
                self.find(false, path, Some(position), None, what, advice);
            } else {
                self.find(true, path, Some(position), Some((from, until)), what, RESTORE);
            }
        }
        Ok(checked.next_offset)
    }

    fn index(&mut self, log: &Path, base: Offset, length: u64) -> Result<()> {
        let paths = [log.with_extension("index"), log.with_extension("timeindex")];
        let [first, second] = [&paths[0], &paths[1]].map(|path| read_if_exists(self.disk, path));
        let (first, second) = match (first?, second?) {
            (Some(first), Some(second)) => (first, second),
            (None, None) => return Ok(()),
            (first, _) => {
                let missing = &paths[usize::from(first.is_some())];
                self.note(missing, "missing, its twin is there", REBUILT);
                return Ok(());
            }
        };
        if let Err(error) = index::decode(&first, &second, base, length) {
            // Zeros, or nothing: a power cut leaves that of a file that was not synced.
            let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
            let culprit = usize::from(index::summary(&first, base, length).is_ok());
            if error.is_fault() && !is_blank(&first) && !is_blank(&second) {
                self.fault(&paths[culprit], error.to_string(), REBUILT);
            } else {
                self.note(&paths[culprit], error.to_string(), REBUILT);
            }
        }
        Ok(())
    }
}

/// The advice for a file that is written again from elsewhere.
const MENDS: &str = "nothing is lost: the next start writes it again (or quipu verify DIR --repair)";
/// The advice for an index that does not fit.
const REBUILT: &str =
    "nothing is lost: it is made again from the log when it is needed (or by quipu verify DIR --repair)";
/// The advice is made from the offsets (see [`restore`]).
const RESTORE: &str = "";

/// Whether the journal has all bytes of a range.
fn covers(evidence: &Evidence, base: Offset, mut from: FilePos, to: FilePos) -> bool {
    let ranges = evidence
        .journalled
        .iter()
        .filter(|(segment, ..)| *segment == base);
    let ranges: BTreeSet<_> = ranges.map(|(_, start, end)| (*start, *end)).collect();
    for (start, end) in ranges {
        if start <= from && end > from {
            from = end;
        }
    }
    from >= to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_covered_only_without_a_gap() {
        let base = Offset::new(5);
        let range = |start, end| (base, FilePos(start), FilePos(end));
        let evidence = Evidence {
            journalled: vec![range(300, 400), range(100, 200), range(200, 300)],
            ..Default::default()
        };
        assert!(covers(&evidence, base, FilePos(120), FilePos(400)));
        assert!(!covers(&evidence, base, FilePos(50), FilePos(150)));
        assert!(!covers(&evidence, base, FilePos(120), FilePos(401)));
        assert!(!covers(&evidence, Offset::new(6), FilePos(120), FilePos(130)));
    }
}
