//! Opening a data directory: what is there, what the journal adds, what is cut.
//!
//! The truth is the newest checkpoint and the journal after it. Every batch of those rounds is written again at its
//! position, whatever the segment seems to hold: after a failed writeback the page cache may show bytes that the disk
//! lacks. Then each partition's tail is decided:
//!
//! | the active segment's file | the evidence is whole | it is not (a journal file or the checkpoint is damaged or missing) |
//! |---|---|---|
//! | ends where the evidence says | keep | keep |
//! | is longer | cut: it was never acknowledged | keep the whole batches that follow on, cut the rest |
//! | is shorter, or missing | keep the positions, report damage: reads there say so | the same |
//! | other segments begin after it, which the evidence does not name | remove | keep, in order |
//!
//! All of it is synced and a new checkpoint written before anything is served. Opening twice in a row, or crashing in
//! the middle of opening, ends in the same state: nothing is cut or removed that a second pass would need.
//!
//! Two things that only an acknowledged-as-written record could need are given up when the machine (not the process)
//! stops: see `Ack::Written`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::Batches;
use crate::catalog::{Catalog, replace_file};
use crate::checkpoint::{self, Checkpoint, Entry};
use crate::clock::Clock;
use crate::describe;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::engine::{Engine, Snapshots};
use crate::error::{Error, Result};
use crate::identity::keep_aside;
use crate::journal::format::Item;
use crate::journal::replay::{self, Scan};
use crate::journal::writer::{Journal, Mark};
use crate::layout::{Layout, parse_index_name, parse_log_name};
use crate::options::Options;
use crate::partition::{Active, Beginning, Partition};
use crate::read::ReadRequest;
use crate::request::Committer;
use crate::segment::{self, Segment, SegmentPool};
use crate::slots::Slots;
use crate::state::{self, State};
use crate::topic::{Topic, TopicBody, TopicSpec};
use crate::types::{FilePos, Offset, PartitionId, TimestampMs, TopicId};

/// What a partition is known to hold.
struct Known {
    log_start_offset: Offset,
    active: Option<(Offset, FilePos, TimestampMs)>,
    next_offset: Offset,
    /// Rounds below this one are in the segments already.
    round: u64,
    /// Segments that the journal names, each with its end as far as the journal knows.
    named: BTreeMap<Offset, FilePos>,
    /// Whether a checkpoint or the journal says anything at all.
    is_evident: bool,
}

/// What a partition is made of: its log start, its next offset, its segments in order, and the one that is appended to.
type Contents = (Offset, Offset, Vec<Arc<Segment>>, Option<Active>);

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
        (std::cmp::Ordering::Equal, _) => Tail::Keep,
        (std::cmp::Ordering::Less, _) => Tail::Short,
        (std::cmp::Ordering::Greater, true) => Tail::Cut,
        (std::cmp::Ordering::Greater, false) => Tail::Scan,
    }
}

/// Everything that recovery reads and decides on.
struct Recovery<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    now: TimestampMs,
    known: HashMap<PartitionId, Known>,
    /// What the journal adds to each file, in its order, until [`Recovery::flush`] writes it.
    pending: BTreeMap<PathBuf, Vec<(FilePos, Vec<u8>)>>,
    pending_bytes: usize,
    /// Files that were written: to be synced before anything is served.
    touched: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    /// Directories with new or removed names.
    touched_dirs: BTreeSet<PathBuf>,
    damage: Vec<String>,
    is_whole: bool,
    /// Topics that the checkpoint knows, and the id that it would have given next.
    checkpointed: HashSet<TopicId>,
    next_topic_id: u64,
    /// Whether the journal has records of topics that are not served: its files are kept.
    has_orphans: bool,
    /// Where damage shows without reading: the first offset, and how far to read.
    suspects: Vec<(PartitionId, Offset, Offset)>,
    /// Files that are held open at most, before they are synced and closed.
    max_touched: usize,
}

/// Journalled bytes that recovery holds before it writes them. Rounds go from partition to partition; gathered, they cost a
/// thousand partitions a thousand syncs for each so many bytes, and not one for every few hundred batches.
const MAX_PENDING_BYTES: usize = 32 << 20;

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    layout: Layout,
    options: Options,
    (directory_id, mended): (u64, Option<String>),
    max_open_files: usize,
) -> Result<Arc<Engine>> {
    for dir in [
        layout.topics_dir(),
        layout.journal_dir(),
        layout.staging_dir(),
        layout.deleted_dir(),
    ] {
        disk.create_dir_all(&dir)
            .map_err(|error| Error::io(format!("making {}", dir.display()), error))?;
    }
    disk.sync_dir(&layout.root)
        .map_err(|error| Error::io("syncing the data directory", error))?;

    let paths = [layout.checkpoint(0), layout.checkpoint(1)];
    let (checkpoint_slots, found) =
        Slots::open(Arc::clone(&disk), paths, checkpoint::MAGIC, checkpoint::VERSION)?;
    let checkpoint = found.payload.as_deref().and_then(Checkpoint::decode);
    let is_foreign = |checkpoint: &Checkpoint| checkpoint.directory_id != directory_id;
    let foreign_checkpoint = checkpoint.as_ref().is_some_and(is_foreign);
    let checkpoint = checkpoint.filter(|_| !foreign_checkpoint);
    let scan = {
        let (sequence, round, expected) = checkpoint.as_ref().map_or((0, 0, false), |checkpoint| {
            (checkpoint.sequence, checkpoint.round, checkpoint.journal_expected)
        });
        replay::scan_with(
            &*disk,
            &layout,
            directory_id,
            (sequence, round),
            expected,
            options.round_decoder(),
        )?
    };
    for what in &scan.mended {
        tracing::warn!("{what}");
    }
    let described = describe::read_all(&*disk, &layout)?;
    let paths = [layout.state(0), layout.state(1)];
    let (state_slots, found) = Slots::open(Arc::clone(&disk), paths, state::MAGIC, state::VERSION)?;

    // Every file has been looked at, and none is of a version that this program does not know: only now may anything change.
    scan.make_durable(&*disk)?;
    // What an earlier process made or renamed is served from here on, whether or not it came to sync the name. And what it
    // moved away must not come back when half of it is removed.
    disk.sync_dir(&layout.topics_dir())
        .map_err(|error| Error::io("syncing the topics' directory", error))?;
    remove_children(&*disk, &layout.staging_dir())?;
    remove_children(&*disk, &layout.deleted_dir())?;
    let is_fresh = scan.all_files.is_empty() && described.is_empty() && mended.is_none();
    let mut damage = scan.damage.clone();
    // One slot that is not whole is what a crash in the middle of its write leaves. With none that is whole, the
    // journal's beginning is not known either: a checkpoint is written before there is a journal.
    if checkpoint.is_none() && !is_fresh {
        let kept = keep_slots([layout.checkpoint(0), layout.checkpoint(1)], &*disk);
        let what = if foreign_checkpoint {
            "is of another data directory"
        } else {
            "and its second slot are damaged or missing"
        };
        damage.push(format!("{} {what}{kept}", layout.checkpoint(0).display()));
    }
    let is_whole = damage.is_empty();
    damage.extend(mended);
    let mut topics = describe::mend_all(&*disk, &layout, described, &mut damage);
    for path in &scan.foreign {
        let aside = path.with_extension("foreign");
        disk.rename(path, &aside)
            .map_err(|error| Error::io(format!("putting {} aside", path.display()), error))?;
        damage.push(format!(
            "{} is of another data directory: it was left out, and is kept as {}",
            path.display(),
            aside.display()
        ));
    }
    let snapshot = found.payload.as_deref().and_then(State::decode);
    let needed = checkpoint
        .as_ref()
        .and_then(|checkpoint| checkpoint.state_generation);
    // The first snapshot is written before the first checkpoint: without one, a torn slot is what a first start left.
    if snapshot.is_none() && !is_fresh {
        let kept = keep_slots([layout.state(0), layout.state(1)], &*disk);
        damage.push(format!(
            "{} and its second slot are damaged or missing: offsets that groups committed before the journal's beginning \
             are lost; commit them anew{kept}",
            layout.state(0).display()
        ));
    } else if needed.is_some_and(|needed| found.generation < needed) {
        // A slot that is torn is what a crash in its write leaves, unless a checkpoint was written after it.
        let kept: String = found
            .damaged_paths
            .iter()
            .map(|path| keep_aside(&*disk, path))
            .collect();
        damage.push(format!(
            "{}: the newest snapshot of the state is damaged or missing and the one before it is used: offsets that groups \
             committed between them are lost; commit them anew{kept}",
            found.damaged.first().map_or_else(|| layout.state(0).display().to_string(), String::clone)
        ));
    }
    let mut state = snapshot.unwrap_or_default();
    checkpoint_slots.reserve()?;
    state_slots.reserve()?;

    let mut recovery = Recovery {
        disk: &*disk,
        layout: &layout,
        now: clock.now(),
        known: known_from(checkpoint.as_ref()),
        pending: BTreeMap::new(),
        pending_bytes: 0,
        touched: BTreeMap::new(),
        touched_dirs: BTreeSet::new(),
        damage,
        is_whole,
        checkpointed: checkpoint.iter().flat_map(Checkpoint::topics).collect(),
        next_topic_id: checkpoint
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.next_topic_id),
        has_orphans: false,
        suspects: Vec::new(),
        max_touched: max_open_files,
    };
    let deleting = checkpoint
        .as_ref()
        .map_or(&[][..], |checkpoint| &checkpoint.deleting);
    let deleted = recovery.replay(&scan, &topics, deleting, &mut state)?;
    for body in topics.extract_if(.., |body| deleted.contains(&body.id)) {
        let (from, to) = (layout.topic_dir(&body.name), layout.deleted(body.id));
        let moved = disk
            .rename(&from, &to)
            .and_then(|()| disk.sync_dir(&layout.topics_dir()));
        moved.map_err(|error| Error::io(format!("moving {} away", from.display()), error))?;
        disk.remove_dir_all(&to)
            .map_err(|error| Error::io(format!("removing {}", to.display()), error))?;
    }

    let largest_id = topics
        .iter()
        .map(|body| body.id.0)
        .chain(deleted.iter().map(|id| id.0))
        .max();
    let next_topic_id = largest_id
        .map_or(1, |id| id + 1)
        .max(
            checkpoint
                .as_ref()
                .map_or(1, |checkpoint| checkpoint.next_topic_id),
        )
        .max(recovery.known.keys().map(|id| id.topic.0 + 1).max().unwrap_or(1));
    let queue = Committer::new(options.queue_bytes, options.max_request_bytes);
    let pool = SegmentPool::new(Arc::clone(&disk), options.max_open_segments);
    let mut recovered = Vec::new();
    for mut body in topics {
        // A copy of its description may be from before partitions were added.
        let indexes = recovery.known.keys().filter(|id| id.topic == body.id);
        body.partitions = body
            .partitions
            .max(indexes.map(|id| id.index + 1).max().unwrap_or(0));
        recovered.push(recovery.topic(body, &pool, &queue)?);
    }
    recovery.sync()?;
    let mut lost: Vec<u64> = recovery
        .known
        .keys()
        .map(|id| id.topic)
        .filter(|id| !deleted.contains(id))
        .map(|id| id.0)
        .collect();
    lost.dedup();
    recovery.damage.extend(
        lost.iter()
            .map(|id| format!("the directory of topic {id} is missing or not served")),
    );
    let damage = std::mem::take(&mut recovery.damage);
    for what in &damage {
        tracing::error!(
            damage = what,
            "the data directory is damaged: what is healthy is served; run quipu verify"
        );
    }

    // From here on a new journal: everything before it is in the segments, and a checkpoint says so.
    let last_sequence = scan.all_files.iter().map(|(sequence, ..)| *sequence).max();
    let next = Mark {
        round: scan.next_round.max(1),
        sequence: last_sequence
            .map_or(1, |sequence| sequence + 1)
            .max(checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.sequence)),
    };
    let mut snapshots = Snapshots {
        checkpoint: checkpoint_slots,
        state: state_slots,
        state_generation: 0,
        round: next.round,
        failed_dirs: BTreeSet::new(),
    };
    // Also where nothing has changed: the process that wrote the newest one may have been killed before it was synced. And
    // into both slots: what only the older one lacks was in journal files that are used again from here on.
    let payload = state.encode();
    state.changed = false;
    snapshots.state.write(&payload)?;
    snapshots.state_generation = snapshots.state.generation();
    snapshots.state.write(&payload)?;
    let entries = recovered.iter().flat_map(|topic| topic.partitions().to_vec());
    let fresh = Checkpoint {
        directory_id,
        next_topic_id,
        sequence: next.sequence,
        round: next.round,
        journal_expected: false,
        deleting: Vec::new(),
        partitions: entries
            .map(|partition| Entry {
                round: next.round,
                ..partition.writer.lock().synced
            })
            .collect(),
        state_generation: Some(snapshots.state_generation),
    };
    snapshots.checkpoint.write(&fresh.encode())?;
    if checkpoint.is_none() && !is_fresh {
        // Over both slots, before journal files move: one that was not whole when it was read may be the next time.
        snapshots.checkpoint.write(&fresh.encode())?;
    }
    let leftovers = leftovers(&*disk, &scan, &options, is_whole && !recovery.has_orphans)?;
    let suspects = std::mem::take(&mut recovery.suspects);
    let journal = Journal::start(
        Arc::clone(&disk),
        layout.clone(),
        directory_id,
        options.journal_file_bytes,
        next,
        leftovers,
    )?;
    // Two files are enough to go on for ever: with the second one made now, a disk that runs full does not stop what
    // needs no more space than the journal's.
    match journal.add_spare(1) {
        Err(Error::StorageFull) => tracing::warn!("the disk is full: there is one journal file only"),
        added => drop(added?),
    }
    // Now the journal file is there, and a checkpoint that expects it makes its loss known.
    snapshots.checkpoint.write(
        &Checkpoint {
            journal_expected: true,
            ..fresh
        }
        .encode(),
    )?;
    drop(recovery);
    for (id, from, until) in suspects {
        let topic = recovered.iter().find(|topic| topic.id() == id.topic);
        if let Some(partition) = topic.and_then(|topic| topic.partition(id.index)) {
            look(&partition, from, until);
        }
    }
    let catalog = Catalog::new(recovered, next_topic_id);
    Ok(Arc::new(Engine::new(
        disk,
        clock,
        layout,
        options,
        directory_id,
        queue,
        journal,
        catalog,
        state,
        pool,
        snapshots,
        damage,
        max_open_files,
    )))
}

/// Reads a stretch in which damage is suspected, so that what is damaged is known from the start.
fn look(partition: &Partition, mut from: Offset, until: Offset) {
    while from < until {
        let request = ReadRequest {
            from,
            until: Some(until),
            max_bytes: 1 << 20,
        };
        match partition.read(request) {
            Ok(fetched) if fetched.next_offset > from => from = fetched.next_offset,
            Err(Error::Damaged { damaged_until, .. }) if damaged_until > from => from = damaged_until,
            _ => break,
        }
    }
}

/// Keeps slots of which neither can be used, before they are written over.
fn keep_slots(paths: [PathBuf; 2], disk: &dyn Disk) -> String {
    paths.iter().map(|path| keep_aside(disk, path)).collect()
}

fn known_from(checkpoint: Option<&Checkpoint>) -> HashMap<PartitionId, Known> {
    let entries = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.partitions);
    entries
        .iter()
        .map(|entry| {
            let known = Known {
                log_start_offset: entry.log_start_offset,
                active: entry.active,
                next_offset: entry.next_offset,
                round: entry.round,
                named: BTreeMap::new(),
                is_evident: true,
            };
            (entry.id, known)
        })
        .collect()
}

impl Known {
    fn nothing() -> Self {
        Self {
            log_start_offset: Offset::ZERO,
            active: None,
            next_offset: Offset::ZERO,
            round: 0,
            named: BTreeMap::new(),
            is_evident: false,
        }
    }
}

impl Recovery<'_> {
    /// Applies the journal: state, log starts, and every batch at its position. Returns the topics that it deletes.
    fn replay(
        &mut self,
        scan: &Scan,
        topics: &[TopicBody],
        deleting: &[TopicId],
        state: &mut State,
    ) -> Result<HashSet<TopicId>> {
        let mut deleted: HashSet<TopicId> = deleting.iter().copied().collect();
        scan.for_each(|_, items| {
            deleted.extend(items.iter().filter_map(|item| match item {
                Item::TopicDeleted(id) => Some(*id),
                _ => None,
            }));
            Ok(())
        })?;
        let names: HashMap<TopicId, &TopicBody> = topics.iter().map(|body| (body.id, body)).collect();
        scan.for_each(|round, items| {
            for item in items {
                match *item {
                    Item::State { key, value } => state.apply(key, value),
                    Item::TopicDeleted(_) => {}
                    Item::LogStart { partition, offset } => {
                        let known = self.known.entry(partition).or_insert_with(Known::nothing);
                        known.is_evident = true;
                        known.log_start_offset = known.log_start_offset.max(offset);
                    }
                    Item::Append { partition, segment_base, position, bytes, .. } => {
                        if deleted.contains(&partition.topic) {
                            continue;
                        }
                        let Some(body) = names.get(&partition.topic) else {
                            self.has_orphans = true;
                            let what = format!("round {round} of the journal has records of topic {}, whose directory is missing", partition.topic.0);
                            if !self.damage.contains(&what) {
                                self.damage.push(what);
                            }
                            continue;
                        };
                        self.append(body, partition, segment_base, position, bytes, round)?;
                    }
                }
            }
            Ok(())
        })?;
        // What becomes of the tails is decided by the files.
        self.flush()?;
        Ok(deleted)
    }

    /// Has journalled batches written at their position, again or for the first time.
    fn append(
        &mut self,
        body: &TopicBody,
        partition: PartitionId,
        segment_base: Offset,
        position: FilePos,
        bytes: &[u8],
        round: u64,
    ) -> Result<()> {
        let malformed = || {
            Error::Directory(format!(
                "round {round} of the journal holds a batch that is none: use a newer quipu"
            ))
        };
        let mut next_offset = None;
        for batch in Batches::new(bytes) {
            let (header, _) = batch.map_err(|_| malformed())?;
            next_offset = Some(header.next_offset());
        }
        let next_offset = next_offset.ok_or_else(malformed)?;
        let end = position.plus(bytes.len() as u64);
        let known = self.known.entry(partition).or_insert_with(Known::nothing);
        known.is_evident = true;
        if round < known.round {
            return Ok(());
        }
        let named = known.named.entry(segment_base).or_insert(end);
        *named = end.max(*named);
        let is_newer = known.active.is_none_or(|(base, ..)| segment_base > base);
        if is_newer {
            if let Some((base, known_end, _)) = known.active {
                // The segment before ended there.
                let named = known.named.entry(base).or_insert(known_end);
                *named = known_end.max(*named);
            }
            known.active = Some((segment_base, end, self.now));
        } else if let Some((base, known_end, _)) = &mut known.active
            && *base == segment_base
        {
            *known_end = end.max(*known_end);
        }
        known.next_offset = next_offset.max(known.next_offset);

        let dir = self
            .layout
            .topic_dir(&body.name)
            .join(partition.index.to_string());
        let path = dir.join(format!("{segment_base:020}.log"));
        let runs = self.pending.entry(path).or_default();
        match runs.last_mut() {
            Some((start, run)) if start.plus(run.len() as u64) == position => run.extend_from_slice(bytes),
            _ => runs.push((position, bytes.to_vec())),
        }
        self.pending_bytes += bytes.len();
        if self.pending_bytes >= MAX_PENDING_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what the journal adds, file by file.
    fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        for (path, runs) in std::mem::take(&mut self.pending) {
            let context = |error| Error::io(format!("writing {}", path.display()), error);
            let file = if let Some(file) = self.touched.get(&path) {
                Arc::clone(file)
            } else {
                if self.touched.len() >= self.max_touched {
                    self.sync_touched()?;
                }
                let dir = path.parent().unwrap_or(&self.layout.root);
                let file = match self.disk.open(&path, OpenMode::ReadWrite) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        self.disk.create_dir_all(dir).map_err(context)?;
                        self.disk.open(&path, OpenMode::Create).map_err(context)?
                    }
                    Err(error) => return Err(context(error)),
                };
                // Also where it is there already: the process that made it may have ended before it synced the name.
                self.touched_dirs.insert(dir.to_path_buf());
                self.touched.insert(path.clone(), Arc::clone(&file));
                file
            };
            for (position, run) in runs {
                file.write_all_at(&[IoSlice::new(&run)], position.get())
                    .map_err(context)?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and makes all that was written durable.
    fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.sync_touched()
    }

    fn sync_touched(&mut self) -> Result<()> {
        for file in self.touched.values() {
            file.start_writeback();
        }
        for (path, file) in std::mem::take(&mut self.touched) {
            file.sync_data()
                .map_err(|error| Error::io(format!("syncing {}", path.display()), error))?;
        }
        for dir in std::mem::take(&mut self.touched_dirs) {
            self.disk
                .sync_dir(&dir)
                .map_err(|error| Error::io(format!("syncing {}", dir.display()), error))?;
        }
        Ok(())
    }

    fn topic(&mut self, body: TopicBody, pool: &Arc<SegmentPool>, queue: &Committer) -> Result<Arc<Topic>> {
        let settings = Arc::new(body.settings.clone());
        // A topic that the checkpoint should know and does not was not served when that was written: its directory or
        // its description has been restored. Nothing says then what of it was acknowledged, so all of it stays.
        let is_restored = body.id.0 < self.next_topic_id && !self.checkpointed.contains(&body.id);
        let is_whole = self.is_whole;
        self.is_whole &= !is_restored;
        self.touched_dirs.insert(self.layout.topic_dir(&body.name));
        let mut partitions = Vec::with_capacity(body.partitions as usize);
        for index in 0..body.partitions {
            let id = PartitionId {
                topic: body.id,
                index,
            };
            let dir = self.layout.topic_dir(&body.name).join(index.to_string());
            let known = self.known.remove(&id).unwrap_or_else(Known::nothing);
            let (log_start_offset, next_offset, segments, active) =
                self.partition(id, &dir, known, settings.segment_bytes, pool)?;
            let beginning = Beginning {
                id,
                name: format!("{}/{index}", body.name),
                dir,
                settings: Arc::clone(&settings),
                log_start_offset,
                next_offset,
                segments,
                active,
            };
            partitions.push(Partition::new(beginning, Arc::clone(pool), queue.clone()));
        }
        self.is_whole = is_whole;
        let spec = TopicSpec {
            partitions: body.partitions,
            settings: body.settings,
            properties: body.properties,
        };
        Ok(Arc::new(Topic::new(body.name, body.id, spec, partitions)))
    }

    /// Decides what a partition is made of, and makes its directory so.
    fn partition(
        &mut self,
        id: PartitionId,
        dir: &Path,
        mut known: Known,
        segment_bytes: u64,
        pool: &Arc<SegmentPool>,
    ) -> Result<Contents> {
        let (mut files, missing) = self.list_segments(dir)?;
        if self.is_whole {
            // Segments that nothing names were begun by a round that is not there.
            let from = known.active.map_or(known.next_offset, |(base, ..)| base);
            for base in files.keys().copied().collect::<Vec<_>>() {
                let is_newer = match known.active {
                    Some(_) => base > from,
                    None => base >= from,
                };
                // A named one may lie behind the active one of the checkpoint, never behind the journal's.
                if (is_newer || self.is_stray(&known, base)) && !known.named.contains_key(&base) {
                    self.remove_segment(dir, base)?;
                    files.remove(&base);
                }
            }
        } else if known.active.is_none() {
            // Nothing is known but its files, or only that it once ended at `next_offset`.
            if !known.is_evident {
                known.log_start_offset = files.keys().next().copied().unwrap_or_default();
                known.next_offset = files.keys().next_back().copied().unwrap_or_default();
            }
            if let Some((base, _)) = files.range(known.next_offset..).next() {
                known.active = Some((*base, FilePos::ZERO, self.now));
                known.next_offset = *base;
            }
        }

        // Segments before the active one end where the journal says, else where their file does.
        for (base, end) in known.named.clone() {
            if known.active.is_some_and(|(active, ..)| active == base) {
                continue;
            }
            // Also where it ends there: a process that was killed may have cut it and not synced that.
            if let Some(length) = files.get_mut(&base)
                && *length >= end.get()
                && self.is_whole
            {
                self.cut(dir, base, end)?;
                *length = end.get();
            }
        }
        if let Some((base, end, made)) = known.active {
            let length = files.get(&base).copied().unwrap_or(0);
            let mut end = end;
            match decide_tail(length, end, self.is_whole) {
                Tail::Keep => {}
                Tail::Cut => self.cut(dir, base, end)?,
                Tail::Scan => {
                    let (valid_end, next) = self.scan_tail(id, dir, base, end, length, known.next_offset)?;
                    (end, known.next_offset) = (valid_end, next);
                    let follows = files.keys().any(|other| *other > base);
                    if !follows && valid_end.get() < length {
                        self.keep_tail(dir, base, valid_end, length);
                        self.cut(dir, base, valid_end)?;
                    }
                }
                // All of it was trimmed, and an earlier process has removed the file.
                Tail::Short if known.next_offset <= known.log_start_offset => {}
                Tail::Short => {
                    tracing::warn!(
                        log = %dir.join(format!("{base:020}.log")).display(),
                        found = length,
                        expected = end.get(),
                        "a log file is shorter than it was"
                    );
                    self.suspects
                        .push((id, base.max(known.log_start_offset), known.next_offset));
                    // With its directory, perhaps: what is appended next needs it.
                    self.disk
                        .create_dir_all(dir)
                        .map_err(|error| Error::io(format!("making {}", dir.display()), error))?;
                    self.touched_dirs.insert(dir.to_path_buf());
                }
            }
            files.insert(base, end.get());
            known.active = Some((base, end, made));
            if !self.is_whole {
                self.follow(id, dir, &mut known, &mut files)?;
            }
        }

        // An offset below the log start was given once, even if the evidence for it is lost.
        known.next_offset = known.next_offset.max(known.log_start_offset);
        // What lies wholly below the log start was trimmed: a crash may have left its files.
        let bases: Vec<Offset> = files.keys().copied().collect();
        for (index, base) in bases.iter().enumerate() {
            let end = bases.get(index + 1).copied().unwrap_or(known.next_offset);
            if end <= known.log_start_offset && end > *base {
                self.remove_segment(dir, *base)?;
                files.remove(base);
                if known.active.is_some_and(|(active, ..)| active == *base) {
                    known.active = None;
                }
            }
        }

        let (start, next) = (known.log_start_offset, known.next_offset);
        if start < next && files.keys().next().is_none_or(|first| *first > start) {
            self.suspects.push((id, start, start.plus(1)));
        }
        let lost = missing.into_iter().filter(|base| *base >= start && *base < next);
        self.suspects.extend(lost.map(|base| (id, base, base.plus(1))));

        let mut segments = Vec::with_capacity(files.len());
        let mut active = None;
        for (base, length) in files {
            let capacity = segment_bytes.max(length);
            let segment = Arc::new(Segment::new(
                Arc::clone(pool),
                dir,
                base,
                capacity,
                FilePos(length),
            ));
            if let Some((active_base, position, made)) = known.active
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
        Ok((known.log_start_offset, known.next_offset, segments, active))
    }

    /// Whether a segment lies between ones that the journal names without being named itself.
    fn is_stray(&self, known: &Known, base: Offset) -> bool {
        known.named.keys().next().is_some_and(|first| base > *first)
    }

    /// Goes on over segments that no evidence names, when the evidence is not whole.
    fn follow(
        &mut self,
        id: PartitionId,
        dir: &Path,
        known: &mut Known,
        files: &mut BTreeMap<Offset, u64>,
    ) -> Result<()> {
        let Some((active, ..)) = known.active else {
            return Ok(());
        };
        let later: Vec<(Offset, u64)> = files
            .range(active..)
            .skip(1)
            .map(|(base, length)| (*base, *length))
            .collect();
        for (base, length) in later {
            if base < known.next_offset {
                self.damage.push(format!(
                    "{} begins before offset {}, where the one before it ends: it is left out",
                    dir.join(format!("{base:020}.log")).display(),
                    known.next_offset
                ));
                files.remove(&base);
                continue;
            }
            let (end, next) = self.scan_tail(id, dir, base, FilePos::ZERO, length, base)?;
            files.insert(base, end.get());
            known.active = Some((base, end, self.now));
            known.next_offset = next;
        }
        Ok(())
    }

    /// The end of the last whole batch from `from` on, and the offset after it. Damage before it is passed over: what
    /// follows was as likely acknowledged.
    fn scan_tail(
        &mut self,
        id: PartitionId,
        dir: &Path,
        base: Offset,
        from: FilePos,
        length: u64,
        next_offset: Offset,
    ) -> Result<(FilePos, Offset)> {
        let path = dir.join(format!("{base:020}.log"));
        let begin = (from, next_offset);
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

    /// The log files with their lengths, and the bases of indexes that have lost theirs.
    fn list_segments(&self, dir: &Path) -> Result<(BTreeMap<Offset, u64>, Vec<Offset>)> {
        let entries = match self.disk.list(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(Error::io(format!("listing {}", dir.display()), error)),
        };
        let mut files = BTreeMap::new();
        let mut missing = Vec::new();
        for entry in entries {
            if let Some(base) = parse_log_name(&entry.name) {
                files.insert(base, entry.len);
            } else if let Some(base) = parse_index_name(&entry.name) {
                missing.push(base);
            }
        }
        missing.retain(|base| !files.contains_key(base));
        Ok((files, missing))
    }

    fn cut(&mut self, dir: &Path, base: Offset, end: FilePos) -> Result<()> {
        let path = dir.join(format!("{base:020}.log"));
        let context = |error| Error::io(format!("cutting {}", path.display()), error);
        if self.touched.len() >= self.max_touched {
            self.sync_touched()?;
        }
        let file = match self.touched.get(&path) {
            Some(file) => Arc::clone(file),
            None => self.disk.open(&path, OpenMode::ReadWrite).map_err(context)?,
        };
        file.set_len(end.get()).map_err(context)?;
        self.touched.insert(path, file);
        Ok(())
    }

    fn remove_segment(&mut self, dir: &Path, base: Offset) -> Result<()> {
        for extension in ["log", "index", "timeindex"] {
            let path = dir.join(format!("{base:020}.{extension}"));
            self.touched.remove(&path);
            match self.disk.remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("removing {}", path.display()), error)),
            }
        }
        self.touched_dirs.insert(dir.to_path_buf());
        Ok(())
    }
}

fn remove_children(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let entries = disk
        .list(dir)
        .map_err(|error| Error::io(format!("listing {}", dir.display()), error))?;
    for entry in entries {
        let path = dir.join(&entry.name);
        let removed = if entry.is_dir {
            disk.remove_dir_all(&path)
        } else {
            disk.remove_file(&path)
        };
        removed.map_err(|error| Error::io(format!("removing {}", path.display()), error))?;
    }
    Ok(())
}

/// The journal files that may be used again: all of the right length, unless something is damaged, when they are
/// kept aside as evidence.
fn leftovers(disk: &dyn Disk, scan: &Scan, options: &Options, is_healthy: bool) -> Result<Vec<PathBuf>> {
    let (file_bytes, journal_files) = (options.journal_file_bytes, options.journal_files as usize);
    let mut usable = Vec::new();
    for (_, path, length) in &scan.all_files {
        if scan.foreign.contains(path) {
            continue;
        }
        let context = |error| Error::io(format!("putting {} aside", path.display()), error);
        if !is_healthy {
            disk.rename(path, &path.with_extension("damaged"))
                .map_err(context)?;
        } else if *length == file_bytes && usable.len() < journal_files {
            usable.push(path.clone());
        } else {
            disk.remove_file(path).map_err(context)?;
        }
    }
    Ok(usable)
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
