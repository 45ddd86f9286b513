//! Opening a data directory: what is there, what the journal adds, what is cut.
//!
//! The truth is the newest checkpoint and the journal after it. [`open`] tells the story:
//! 1. `evidence`: everything that says what the directory holds is read, and what is damaged is reported;
//! 2. `replay`: every batch of the journal's rounds is written again at its position, and `known` notes what that says of
//!    each partition;
//! 3. `tail`: what a partition's files hold is compared with what is known of it: kept, cut or removed;
//! 4. `begin`: with all of that durable, a new checkpoint is written and a new journal begun;
//! 5. `keys`: what is remembered of requests that are appended once is read from the partition that holds it.
//!
//! Nothing is served before the last step is done.
//!
//! Crash: opening twice in a row, or crashing in the middle of opening, ends in the same state: nothing is cut or removed
//! that a second pass would need.
//!
//! Two things that only an acknowledged-as-written record could need are given up when the machine (not the process)
//! stops: see `Ack::Written`.

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

/// Opens the data directory that `directory_id` names, and gives the engine that goes on from what is there; `mended` is
/// what was wrong with what the directory says of itself.
///
/// # Errors
/// [`Error::Directory`] for a version that this program does not know, of which nothing was changed; else what the disk
/// said, and the next start does it again.
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

    // Every file has been looked at, and none is of a version that this program does not know: only now may anything change.
    evidence.scan.make_durable(&*disk)?;
    // What an earlier process made or renamed is served from here on, whether or not it came to sync the name. And what it
    // moved away must not come back when half of it is removed.
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

/// What recovery decides on, from the evidence to the topics.
struct Recovery<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    now: TimestampMs,
    /// What is known of each partition; taken out when it is rebuilt.
    known: HashMap<PartitionId, Known>,
    /// What the journal adds to each file, in its order, until [`Recovery::flush`] writes it.
    pending: BTreeMap<PathBuf, Vec<(FilePos, Vec<u8>)>>,
    pending_bytes: usize,
    /// Files that were written: to be synced before anything is served.
    touched: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    /// Directories with new or removed names.
    touched_dirs: BTreeSet<PathBuf>,
    /// Files that are held open at most, before they are synced and closed.
    max_touched: usize,
    /// What is damaged, for the operator.
    damage: Vec<String>,
    /// Whether the evidence is whole; of the topic that is being rebuilt, while one is.
    is_whole: bool,
    /// Topics that the checkpoint knows, and the id that it would have given next.
    checkpointed: HashSet<TopicId>,
    next_topic_id: u64,
    /// Whether the journal has records of topics that are not served: its files are kept.
    has_orphans: bool,
    /// Where damage shows without reading: the first offset, and how far to read.
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

    /// An id that was never given, as far as anything says.
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

    /// Makes the topics of what their directories and the journal have.
    fn rebuild(
        &mut self,
        topics: Vec<TopicBody>,
        pool: &Arc<SegmentPool>,
        queue: &Arc<Queue>,
    ) -> Result<Vec<Arc<Topic>>> {
        let mut rebuilt = Vec::new();
        for mut body in topics {
            // A copy of its description may be from before partitions were added.
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
        // A topic that the checkpoint should know and does not was not served when that was written: its directory or
        // its description has been restored. Nothing says then what of it was acknowledged, so all of it stays.
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

    /// Says what the evidence knows and no topic has.
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

/// Removes the directories of topics whose deletion is in the journal, and takes them out of `topics`.
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

/// Reads the stretches in which damage is suspected, so that what is damaged is known from the start.
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
