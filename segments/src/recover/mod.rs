//! Opens a data directory: reads it, writes the journal's batches again, cuts what was never acknowledged as durable.
//!
//! The truth is the newest checkpoint and the journal after it. [`open`] runs these steps:
//! 1. `evidence` reads everything that says what the directory holds, and reports damage;
//! 2. `replay` writes every batch of the journal's rounds again at its position, and `known` notes what the checkpoint
//!    and the journal say about each partition;
//! 3. `tail` compares each partition's files with that, and keeps, cuts or removes them;
//! 4. `begin`, once all of that is durable, writes a new checkpoint and begins a new journal;
//! 5. `Engine::load_keys` reads the remembered idempotency keys from their partition.
//!
//! Nothing is served before the last step is done.
//!
//! Crash: opening twice in a row, or again after a crash in the middle, ends in the same state: nothing is cut or
//! removed that a second pass would need.
//!
//! If the machine stops, and not only the process, records that were acknowledged only as written may be lost: see
//! `Ack::Written`.

mod begin;
mod evidence;
pub(crate) mod identity;
mod known;
mod replay;
mod tail;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use begin::{Recovered, begin};
use evidence::{Evidence, Settled};
use known::{Known, known_from};

use crate::append::queue::Queue;
use crate::engine::Engine;
use crate::error::{At, Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::description::{MAX_PARTITIONS, TopicBody, TopicSpec};
use crate::files::layout::Layout;
use crate::io::clock::Clock;
use crate::io::disk::{Disk, DiskFile};
use crate::options::Options;
use crate::segment::SegmentPool;
use crate::segment::read::ReadRequest;
use crate::topic::Topic;
use crate::topic::catalog::Catalog;
use crate::topic::partition::{Beginning, Partition};
use crate::types::{FilePos, Offset, PartitionId, TimestampMs, TopicId};

/// Opens the data directory with the id `directory_id`, and returns an engine that continues from its contents.
/// `mended`: what was wrong with its `FORMAT` file.
///
/// # Errors
/// [`Error::Directory`] if a file has a version that this program does not know: no file was changed. Otherwise errors
/// of the disk: the next start repeats the work.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    layout: Layout,
    options: Options,
    (directory_id, mended): (u64, Option<String>),
    max_open_files: usize,
) -> Result<Arc<Engine>> {
    make_directories(&*disk, &layout)?;
    let mut evidence = Evidence::read(&disk, &layout, options.round_decoder(), directory_id, mended)?;

    // Every file has been read, and this program knows the versions of all: only now may anything change.
    evidence.scan.make_durable(&*disk)?;
    evidence.checkpoint_slots.make_durable()?;
    evidence.state_slots.make_durable()?;
    // An earlier process may not have synced the names that it made or renamed; they are used from here on. And a
    // directory that it moved away must not come back when half of it is removed.
    disk.sync_dir(&layout.topics_dir())
        .map_err(|error| Error::io("syncing the topics' directory", error))?;
    remove_children(&*disk, &layout.staging_dir())?;
    remove_children(&*disk, &layout.deleted_dir())?;
    let Settled {
        mut topics,
        mut state,
        damage,
        is_whole,
    } = evidence.settle(&*disk, &layout)?;
    evidence.checkpoint_slots.reserve()?;
    evidence.state_slots.reserve()?;

    let mut recovery = Recovery::new(
        &*disk,
        &layout,
        clock.now(),
        evidence.checkpoint.as_ref(),
        damage,
        is_whole,
        max_open_files,
    );
    let deleted = recovery.replay(&evidence.scan, &topics, evidence.deleting(), &mut state)?;
    remove_deleted(&*disk, &layout, &mut topics, &deleted)?;
    let next_topic_id = recovery.next_topic_id(&topics, &deleted);
    let queue = Queue::new(options.queue_bytes, options.max_request_bytes);
    let pool = SegmentPool::new(Arc::clone(&disk), options.max_open_segments);
    let topics = recovery.rebuild(topics, &pool, &queue)?;
    recovery.sync()?;
    recovery.report_lost(&deleted);
    let Recovery {
        damage,
        suspects,
        has_orphans,
        ..
    } = recovery;
    for what in &damage {
        tracing::error!(
            damage = what,
            "the data directory is damaged: what is healthy is served; run quipu verify"
        );
    }

    let recovered = Recovered {
        topics: &topics,
        next_topic_id,
        state: &mut state,
        is_healthy: is_whole && !has_orphans,
    };
    let (journal, snapshots) = begin(&disk, &layout, &options, evidence, recovered)?;
    look_at_suspects(&topics, suspects);
    let catalog = Catalog::new(topics, next_topic_id);
    let engine = Engine::new(
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
    );
    engine.load_keys()?;
    Ok(Arc::new(engine))
}

/// What recovery collects and decides, from the evidence to the topics.
struct Recovery<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    now: TimestampMs,
    /// What the evidence says about each partition; taken out when the partition is rebuilt.
    known: HashMap<PartitionId, Known>,
    /// The journal's batches for each file, in the journal's order, until [`Recovery::flush`] writes them.
    pending: BTreeMap<PathBuf, Vec<(FilePos, Vec<u8>)>>,
    pending_bytes: usize,
    /// Files that were written: to be synced before anything is served.
    touched: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    /// Directories with new or removed names.
    touched_dirs: BTreeSet<PathBuf>,
    /// How many files are held open at most, before they are synced and closed.
    max_touched: usize,
    /// What is damaged, for the operator.
    damage: Vec<String>,
    /// Whether the evidence is whole; while a topic is rebuilt, whether it is whole for that topic.
    is_whole: bool,
    /// Topics that the checkpoint names, and the next topic id in it.
    checkpointed: HashSet<TopicId>,
    next_topic_id: u64,
    /// Whether the journal has records of topics that are not served: its files are kept.
    has_orphans: bool,
    /// Where damage is suspected before anything is read: the first offset, and the offset up to which to read.
    suspects: Vec<(PartitionId, Offset, Offset)>,
}

impl<'a> Recovery<'a> {
    fn new(
        disk: &'a dyn Disk,
        layout: &'a Layout,
        now: TimestampMs,
        checkpoint: Option<&Checkpoint>,
        damage: Vec<String>,
        is_whole: bool,
        max_touched: usize,
    ) -> Self {
        Self {
            disk,
            layout,
            now,
            known: known_from(checkpoint),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            touched: BTreeMap::new(),
            touched_dirs: BTreeSet::new(),
            max_touched,
            damage,
            is_whole,
            checkpointed: checkpoint.into_iter().flat_map(Checkpoint::topics).collect(),
            next_topic_id: checkpoint.map_or(0, |checkpoint| checkpoint.next_topic_id),
            has_orphans: false,
            suspects: Vec::new(),
        }
    }

    /// An id that no topic has had, as far as the evidence shows.
    fn next_topic_id(&self, topics: &[TopicBody], deleted: &HashSet<TopicId>) -> u64 {
        let served = topics.iter().map(|body| body.id);
        let known = served
            .chain(deleted.iter().copied())
            .chain(self.known.keys().map(|id| id.topic));
        known
            .map(|id| id.0 + 1)
            .max()
            .unwrap_or(1)
            .max(self.next_topic_id)
    }

    /// Builds the topics from their directories and the journal.
    fn rebuild(
        &mut self,
        topics: Vec<TopicBody>,
        pool: &Arc<SegmentPool>,
        queue: &Arc<Queue>,
    ) -> Result<Vec<Arc<Topic>>> {
        let mut rebuilt = Vec::new();
        for mut body in topics {
            // Its description may be a copy from before partitions were added.
            let is_of_topic = |id: &&PartitionId| id.topic == body.id && id.index < MAX_PARTITIONS;
            let indexes = self.known.keys().filter(is_of_topic);
            let known = indexes.map(|id| id.index + 1).max().unwrap_or(0);
            body.partitions = body.partitions.max(known);
            rebuilt.push(self.topic(body, pool, queue)?);
        }
        Ok(rebuilt)
    }

    fn topic(&mut self, body: TopicBody, pool: &Arc<SegmentPool>, queue: &Arc<Queue>) -> Result<Arc<Topic>> {
        let settings = Arc::new(body.settings.clone());
        // If the checkpoint should name this topic but does not, it was written while the topic was not served: the
        // directory or description has been restored. Nothing shows then which records were acknowledged, so all stay.
        let is_restored = body.id.0 < self.next_topic_id && !self.checkpointed.contains(&body.id);
        let is_whole = self.is_whole;
        self.is_whole &= !is_restored;
        self.touched_dirs.insert(self.layout.topic_dir(&body.name));
        let mut partitions = Vec::with_capacity(body.partitions as usize);
        for index in 0..body.partitions {
            let id = PartitionId::new(body.id, index);
            let dir = self.layout.topic_dir(&body.name).join(index.to_string());
            let known = self.known.remove(&id).unwrap_or_else(Known::nothing);
            let contents = self.partition(id, &dir, known, settings.segment_bytes, pool)?;
            let beginning = Beginning {
                id,
                name: format!("{}/{index}", body.name),
                dir,
                settings: Arc::clone(&settings),
                log_start_offset: contents.log_start_offset,
                next_offset: contents.next_offset,
                segments: contents.segments,
                active: contents.active,
            };
            partitions.push(Partition::new(
                beginning,
                Arc::clone(pool),
                Arc::clone(queue) as _,
            ));
        }
        self.is_whole = is_whole;
        let spec = TopicSpec {
            partitions: body.partitions,
            settings: body.settings,
            properties: body.properties,
        };
        Ok(Arc::new(Topic::new(body.name, body.id, spec, partitions)))
    }

    /// Reports the partitions that the evidence names and no topic has.
    fn report_lost(&mut self, deleted: &HashSet<TopicId>) {
        let mut left: Vec<PartitionId> = self.known.keys().copied().collect();
        left.retain(|id| !deleted.contains(&id.topic));
        left.sort_unstable();
        for id in &left {
            if id.index >= MAX_PARTITIONS {
                let what = "the checkpoint or the journal names partition";
                self.damage.push(format!("{what} {id}, which no topic can have"));
            }
        }
        let possible = left.iter().filter(|id| id.index < MAX_PARTITIONS);
        let lost: BTreeSet<TopicId> = possible.map(|id| id.topic).collect();
        let message = |id: &TopicId| format!("the directory of topic {} is missing or not served", id.0);
        self.damage.extend(lost.iter().map(message));
    }
}

fn make_directories(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    let [topics, journal] = [layout.topics_dir(), layout.journal_dir()];
    for dir in [topics, journal, layout.staging_dir(), layout.deleted_dir()] {
        disk.create_dir_all(&dir).at("making", &dir)?;
    }
    disk.sync_dir(&layout.root)
        .map_err(|error| Error::io("syncing the data directory", error))
}

fn remove_children(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let entries = disk.list(dir).at("listing", dir)?;
    for entry in entries {
        let path = dir.join(&entry.name);
        let removed = if entry.is_dir {
            disk.remove_dir_all(&path)
        } else {
            disk.remove_file(&path)
        };
        removed.at("removing", &path)?;
    }
    Ok(())
}

/// Removes the directories of topics whose deletion is in the journal, and takes these topics out of `topics`.
fn remove_deleted(
    disk: &dyn Disk,
    layout: &Layout,
    topics: &mut Vec<TopicBody>,
    deleted: &HashSet<TopicId>,
) -> Result<()> {
    for body in topics.extract_if(.., |body| deleted.contains(&body.id)) {
        let (from, to) = (layout.topic_dir(&body.name), layout.deleted(body.id));
        let moved = disk
            .rename(&from, &to)
            .and_then(|()| disk.sync_dir(&layout.topics_dir()));
        moved.map_err(|error| Error::io(format!("moving {} away", from.display()), error))?;
        disk.remove_dir_all(&to).at("removing", &to)?;
    }
    Ok(())
}

/// Reads the ranges in which damage is suspected, so that the damage is known from the start.
fn look_at_suspects(topics: &[Arc<Topic>], suspects: Vec<(PartitionId, Offset, Offset)>) {
    for (id, from, until) in suspects {
        let topic = topics.iter().find(|topic| topic.id() == id.topic);
        if let Some(partition) = topic.and_then(|topic| topic.partition(id.index)) {
            look(&partition, from, until);
        }
    }
}

fn look(partition: &Partition, mut from: Offset, until: Offset) {
    while from < until {
        let request = ReadRequest::new(from, 1 << 20).until(until);
        match partition.read(request) {
            Ok(fetched) if fetched.next_offset > from => from = fetched.next_offset,
            Err(Error::Damaged { damaged_until, .. }) if damaged_until > from => from = damaged_until,
            _ => break,
        }
    }
}
