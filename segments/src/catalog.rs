//! The topics of a log, and their making, changing and removal on disk.
//!
//! - Made: the description is written in `staging/`, synced, renamed into `topics/`, and both directories are synced.
//!   Partitions have no files before their first append, so a topic of thousands costs no more than one of one.
//! - Changed: the description is written beside, synced and renamed over the old one.
//! - Deleted: a journal record first (with the state's changes); then the directory is renamed into `deleted/` and
//!   removed.
//!
//! Crash: a topic is there if its directory is in `topics/` with a description and the journal has no record of its
//! deletion. What is in `staging/` and `deleted/` is removed at the next start.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::disk::{Disk, OpenMode};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::layout::TOPIC_FILE;
use crate::partition::{Beginning, Partition};
use crate::state::StateChange;
use crate::ticket::block_on;
use crate::topic::{MAX_PARTITIONS, MAX_SEGMENT_BYTES, Topic, TopicBody, TopicSpec, seal_json};
use crate::types::{Offset, PartitionId, TopicId};

/// The magic of `topic.json`.
pub(crate) const TOPIC_MAGIC: &str = "quipu-topic";
/// The longest name of a topic: what a file name may take, with room to spare.
const MAX_NAME_BYTES: usize = 249;

/// The topics that exist.
pub(crate) struct Catalog {
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    next_topic_id: AtomicU64,
    /// Topics whose deletion is durable in the journal, until their directories are gone from `topics/` durably.
    /// Added to by the committer, before the round of the deletion counts as published.
    deleting: Mutex<Vec<TopicId>>,
    /// Held while directories are made, changed or removed.
    changing: Mutex<()>,
}

impl Catalog {
    pub(crate) fn new(topics: Vec<Arc<Topic>>, next_topic_id: u64) -> Self {
        let topics = topics
            .into_iter()
            .map(|topic| (topic.name().to_owned(), topic))
            .collect();
        Self {
            topics: RwLock::new(topics),
            next_topic_id: AtomicU64::new(next_topic_id),
            deleting: Mutex::new(Vec::new()),
            changing: Mutex::new(()),
        }
    }

    pub(crate) fn list(&self) -> Vec<Arc<Topic>> {
        self.topics.read().values().cloned().collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    pub(crate) fn get_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.topics
            .read()
            .values()
            .find(|topic| topic.id() == id)
            .cloned()
    }

    pub(crate) fn deleting(&self) -> Vec<TopicId> {
        self.deleting.lock().clone()
    }

    pub(crate) fn next_topic_id(&self) -> u64 {
        self.next_topic_id.load(Ordering::Acquire)
    }

    /// Takes a deleted topic out. The committer calls it when the deletion is durable.
    pub(crate) fn forget(&self, topic: &Topic) {
        self.deleting.lock().push(topic.id());
        let mut topics = self.topics.write();
        if topics
            .get(topic.name())
            .is_some_and(|known| known.id() == topic.id())
        {
            topics.remove(topic.name());
        }
    }
}

impl Engine {
    /// Makes a topic; it is durable when this returns.
    pub(crate) fn create_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        check_name(name)?;
        check_spec(&spec)?;
        let _changing = self.catalog.changing.lock();
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if self.catalog.get(name).is_some() {
            return Err(Error::TopicExists(name.to_owned()));
        }
        let id = TopicId(self.catalog.next_topic_id.fetch_add(1, Ordering::AcqRel));
        let staging = self.layout.staging_dir().join(id.0.to_string());
        let target = self.layout.topic_dir(name);
        let context = |error| Error::io(format!("making {}", target.display()), error);
        if self.disk.exists(&target).map_err(context)? {
            return Err(Error::Directory(format!(
                "{} is there already and is not a topic: move it away first",
                target.display()
            )));
        }
        self.disk.create_dir_all(&staging).map_err(context)?;
        write_description(&*self.disk, &staging, name, id, &spec).map_err(context)?;
        self.disk.sync_dir(&staging).map_err(context)?;
        self.disk.rename(&staging, &target).map_err(context)?;
        self.disk.sync_dir(&self.layout.topics_dir()).map_err(context)?;
        let partitions = (0..spec.partitions)
            .map(|index| self.new_partition(name, id, index, &spec))
            .collect();
        let topic = Arc::new(Topic::new(name.to_owned(), id, spec, partitions));
        self.catalog
            .topics
            .write()
            .insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    /// Changes a topic; the change is durable when this returns.
    pub(crate) fn alter_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        check_spec(&spec)?;
        let _changing = self.catalog.changing.lock();
        let topic = self
            .catalog
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("the topic {name}")))?;
        let count = topic.partition_count();
        if spec.partitions < count {
            return Err(Error::Invalid(format!(
                "{name} has {count} partitions, and they are never lowered"
            )));
        }
        let dir = self.layout.topic_dir(name);
        let context = |error| Error::io(format!("changing {}", dir.display()), error);
        write_description(&*self.disk, &dir, name, topic.id(), &spec).map_err(context)?;
        // If it fails, the syncer must know: names of new partitions may have waited for it as well.
        self.sync_dir_once(&dir, &mut self.snapshots.lock().failed_dirs)
            .map_err(context)?;
        let mut partitions = topic.partitions().to_vec();
        partitions
            .extend((count..spec.partitions).map(|index| self.new_partition(name, topic.id(), index, &spec)));
        topic.replace(spec, partitions);
        Ok(topic)
    }

    /// Deletes a topic and applies the state's changes with it; durable when this returns.
    pub(crate) fn delete_topic(&self, name: &str, state: Vec<StateChange>) -> Result<()> {
        let _changing = self.catalog.changing.lock();
        let topic = self
            .catalog
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("the topic {name}")))?;
        let id = topic.id();
        block_on(self.queue.delete_topic(topic, state)?)?;
        // Durable in the journal from here on: what follows is done again at the next start if it does not come to
        // its end now. What the syncer does to files by their names it does before, or finds the topic deleted: a
        // topic made later under the name has files of the same names.
        drop(self.removing.lock());
        let (from, to) = (self.layout.topic_dir(name), self.layout.deleted(id));
        let moved = self
            .disk
            .rename(&from, &to)
            .and_then(|()| self.disk.sync_dir(&self.layout.deleted_dir()))
            .and_then(|()| self.disk.sync_dir(&self.layout.topics_dir()));
        if let Err(error) = moved {
            // Not as a full disk: that would say that nothing was done.
            return Err(Error::Io {
                what: format!("moving {} away, which is deleted", from.display()),
                source: Arc::new(error),
            });
        }
        self.catalog.deleting.lock().retain(|other| *other != id);
        if let Err(error) = self.disk.remove_dir_all(&to) {
            tracing::warn!(path = %to.display(), %error, "a deleted topic's files stay until the next start");
        }
        Ok(())
    }

    fn new_partition(&self, name: &str, topic: TopicId, index: u32, spec: &TopicSpec) -> Arc<Partition> {
        let beginning = Beginning {
            id: PartitionId { topic, index },
            name: format!("{name}/{index}"),
            dir: self.layout.topic_dir(name).join(index.to_string()),
            settings: Arc::new(spec.settings.clone()),
            log_start_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            segments: Vec::new(),
            active: None,
        };
        Partition::new(beginning, Arc::clone(&self.pool), self.queue.clone())
    }
}

/// Writes `topic.json` beside and renames it into place, synced; the directory is for the caller to sync.
fn write_description(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    id: TopicId,
    spec: &TopicSpec,
) -> std::io::Result<()> {
    let body = TopicBody {
        name: name.to_owned(),
        id,
        partitions: spec.partitions,
        settings: spec.settings.clone(),
        properties: spec.properties.clone(),
    };
    replace_file(disk, &dir.join(TOPIC_FILE), &seal_json(TOPIC_MAGIC, &body))
}

/// Writes a small file beside, syncs it and renames it into place; the directory is for the caller to sync.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let file = disk.open(&beside, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    disk.rename(&beside, path)
}

fn check_name(name: &str) -> Result<()> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && name != "." && name != "..";
    if fits && name.bytes().all(is_known) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "a topic's name has 1 to {MAX_NAME_BYTES} of the characters A-Z a-z 0-9 . _ -, and is not . or .."
    )))
}

fn check_spec(spec: &TopicSpec) -> Result<()> {
    if !(1..=MAX_PARTITIONS).contains(&spec.partitions) {
        return Err(Error::Invalid(format!(
            "a topic has 1 to {MAX_PARTITIONS} partitions"
        )));
    }
    if spec.settings.segment_bytes == 0 || spec.settings.segment_bytes > MAX_SEGMENT_BYTES {
        return Err(Error::Invalid(format!(
            "segment_bytes must be from 1 to {MAX_SEGMENT_BYTES}"
        )));
    }
    Ok(())
}
