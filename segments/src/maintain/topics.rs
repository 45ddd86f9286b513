//! Makes, changes and removes the topics of a log on disk.
//!
//! - Made: a directory with the description is written and synced in `staging/`, renamed into `topics/`, and that is
//!   synced. Partitions have no files before their first append, so a topic of thousands costs no more than one of one.
//! - Changed: a new description is written beside the old one, synced and renamed over it.
//! - Deleted: a journal record first (with the state's changes); then the directory is renamed into `deleted/` and
//!   removed.
//!
//! Crash: a topic exists if its directory is in `topics/` with a description and the journal has no record of its
//! deletion. The next start removes everything in `staging/` and `deleted/`.

use std::path::Path;
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Error, Result, is_out_of_handles};
use crate::files::description::{MAX_PARTITIONS, MAX_SEGMENT_BYTES, TopicSpec, description};
use crate::files::layout::{TOPIC_COPY, TOPIC_FILE};
use crate::files::sealed::replace_file;
use crate::files::state::StateChange;
use crate::io::sync::atomic::Ordering;
use crate::ticket::block_on;
use crate::topic::Topic;
use crate::topic::catalog::Changing;
use crate::topic::partition::{Beginning, Partition};
use crate::types::{Offset, PartitionId, TopicId};

/// The longest name of a topic: a little less than the longest file name.
const MAX_NAME_BYTES: usize = 249;

impl Engine {
    /// Makes a topic; it is durable when this returns.
    pub(crate) fn create_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        check_name(name)?;
        check_spec(&spec)?;
        let mut changing = self.catalog.changing.lock();
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if self.catalog.get(name).is_some() {
            return Err(Error::TopicExists(name.to_owned()));
        }
        if let Some(id) = changing.unmoved.get(name).copied() {
            self.move_away(name, id, &mut changing)?;
        }
        let id = TopicId(self.catalog.next_topic_id());
        let topic = self.make_topic(name, id, spec, &mut changing);
        // The id is used up even on an error: the topic may exist after a restart. It is used up last: if a checkpoint
        // has a higher next id but not the topic's partitions, recovery takes the topic for a restored one (see
        // `recover`).
        self.catalog.next_topic_id.store(id.0 + 1, Ordering::Release);
        topic
    }

    fn make_topic(
        &self,
        name: &str,
        id: TopicId,
        spec: TopicSpec,
        changing: &mut Changing,
    ) -> Result<Arc<Topic>> {
        let staging = self.layout.staging_dir().join(id.0.to_string());
        let target = self.layout.topic_dir(name);
        let context = |error| Error::io(format!("making {}", target.display()), error);
        if changing.is_unsyncable {
            return Err(context(self.unsyncable()));
        }
        if self.disk.exists(&target).map_err(context)? {
            return Err(Error::Directory(format!(
                "{} is there already and is not a topic: move it away first",
                target.display()
            )));
        }
        let sealed = description(name, id, &spec);
        let staged = self
            .disk
            .create_dir_all(&staging)
            .and_then(|()| replace_file(&*self.disk, &staging.join(TOPIC_FILE), &sealed))
            .and_then(|()| replace_file(&*self.disk, &staging.join(TOPIC_COPY), &sealed))
            .and_then(|()| self.disk.sync_dir(&staging))
            .and_then(|()| self.disk.rename(&staging, &target));
        if let Err(error) = staged {
            // On a full disk clients try again and again: staged files must not use up the space that is left.
            self.remove_staged(&staging);
            return Err(context(error));
        }
        if let Err(error) = self.sync_topics_dir(changing) {
            // Move it back, so that after a restart it is most likely not there. Its files stay until the next start:
            // after a crash the directory may have either name, and half a topic would look damaged.
            if let Err(error) = self.disk.rename(&target, &staging) {
                tracing::warn!(topic = name, %error, "a topic that could not be made is there after a restart");
            }
            // Not reported as a full disk, which would mean that nothing was done: after a crash the topic may exist.
            return Err(Error::Io {
                what: format!("syncing the name of {}", target.display()),
                source: Arc::new(error),
            });
        }
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
        let sealed = description(name, topic.id(), &spec);
        replace_file(&*self.disk, &dir.join(TOPIC_FILE), &sealed).map_err(context)?;
        // The change is made from here on, so no error may say that nothing was done; the next start repairs the copy.
        if let Err(error) = replace_file(&*self.disk, &dir.join(TOPIC_COPY), &sealed) {
            tracing::warn!(topic = name, %error, "the copy of a topic's description was not changed: the next start does it");
        }
        // If this sync fails, the syncer must know: names of new partitions may have depended on it too. Not reported
        // as a full disk, which would mean that nothing was done.
        self.sync_dir_once(&dir, &mut self.snapshots.lock().failed_dirs)
            .map_err(|error| Error::Io {
                what: format!("syncing the names in {}", dir.display()),
                source: Arc::new(error),
            })?;
        let mut partitions = topic.partitions().to_vec();
        partitions
            .extend((count..spec.partitions).map(|index| self.new_partition(name, topic.id(), index, &spec)));
        topic.replace(spec, partitions);
        Ok(topic)
    }

    /// Deletes a topic and applies the state's changes with it; durable when this returns.
    pub(crate) fn delete_topic(&self, name: &str, state: Vec<StateChange>) -> Result<()> {
        let mut changing = self.catalog.changing.lock();
        let topic = self
            .catalog
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("the topic {name}")))?;
        let id = topic.id();
        block_on(self.queue.delete_topic(Arc::clone(&topic), state)?)?;
        // The deletion is durable from here on: if the rest fails now, the next start does it. Taking the lock waits
        // for the syncer's work on the topic's files by name; afterwards the syncer sees the deletion. So it never
        // touches the files of a later topic with the same name. Closing the segments does the same for readers.
        drop(self.removing.lock());
        for partition in &*topic.partitions() {
            partition.close_segments();
        }
        changing.unmoved.insert(name.to_owned(), id);
        self.move_away(name, id, &mut changing)
    }

    /// Moves the directory of a topic whose deletion is durable in the journal out of `topics/`, durably, and removes it.
    fn move_away(&self, name: &str, id: TopicId, changing: &mut Changing) -> Result<()> {
        let (from, to) = (self.layout.topic_dir(name), self.layout.deleted(id));
        // An earlier attempt may have moved it already.
        let moved = match self.disk.exists(&to) {
            Ok(true) => Ok(()),
            Ok(false) => self.disk.rename(&from, &to),
            Err(error) => Err(error),
        };
        let moved = moved
            .and_then(|()| self.disk.sync_dir(&self.layout.deleted_dir()))
            .and_then(|()| self.sync_topics_dir(changing));
        if let Err(error) = moved {
            // Not reported as a full disk, which would mean that nothing was done.
            return Err(Error::Io {
                what: format!("moving {} away, which is deleted", from.display()),
                source: Arc::new(error),
            });
        }
        // A later topic of this name has its own directories: a failed sync of the old ones says nothing about them.
        // Once the lock is held, a sync that met the old ones has ended, and later syncs skip a deleted topic.
        let failed_dirs = &mut self.snapshots.lock().failed_dirs;
        failed_dirs.retain(|dir| !dir.starts_with(&from));
        changing.unmoved.remove(name);
        self.catalog.deleting.lock().retain(|other| *other != id);
        if let Err(error) = self.disk.remove_dir_all(&to) {
            tracing::warn!(path = %to.display(), %error, "a deleted topic's files stay until the next start");
        }
        Ok(())
    }

    /// Never tries again after a failure: a success would prove nothing about the names from before.
    fn sync_topics_dir(&self, changing: &mut Changing) -> std::io::Result<()> {
        if changing.is_unsyncable {
            return Err(self.unsyncable());
        }
        let result = self.disk.sync_dir(&self.layout.topics_dir());
        changing.is_unsyncable = result.as_ref().is_err_and(|error| !is_out_of_handles(error));
        result
    }

    #[cold]
    fn unsyncable(&self) -> std::io::Error {
        std::io::Error::other(format!(
            "an earlier sync of {} failed: restart the server",
            self.layout.topics_dir().display()
        ))
    }

    /// The next start removes what stays.
    fn remove_staged(&self, staging: &Path) {
        match self.disk.remove_dir_all(staging) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %staging.display(), %error, "what was begun of a topic stays until the next start");
            }
            _ => {}
        }
    }

    fn new_partition(&self, name: &str, topic: TopicId, index: u32, spec: &TopicSpec) -> Arc<Partition> {
        let beginning = Beginning {
            id: PartitionId::new(topic, index),
            name: format!("{name}/{index}"),
            dir: self.layout.topic_dir(name).join(index.to_string()),
            settings: Arc::new(spec.settings.clone()),
            log_start_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            segments: Vec::new(),
            active: None,
        };
        Partition::new(beginning, Arc::clone(&self.pool), Arc::clone(&self.queue) as _)
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::batch::BatchBuilder;
    use crate::segment::read::{self, ReadRequest};
    use std::collections::BTreeSet;

    use crate::append::request::{AppendRequest, Part, Records};
    use crate::files::description::TopicSettings;
    use crate::io::disk::Disk;
    use crate::segment::Access;
    use crate::sim::{Fault, IoKind, SimClock, SimDisk};
    use crate::types::TimestampMs;
    use crate::{Log, Options};

    fn append(log: &Log, topic: &Topic, value: &str) {
        let mut records = BatchBuilder::new();
        records.push(TimestampMs(1), None, Some(value.as_bytes()), &[]);
        let part = Part::new(topic.partition(0).unwrap(), Records::Loose(records));
        let request = AppendRequest::of(vec![part]);
        let ticket = log.append(request).unwrap();
        log.run_round().unwrap();
        ticket.wait().unwrap();
    }

    fn begin() -> (Arc<SimDisk>, Log, TopicSpec) {
        let options = Options {
            journal_file_bytes: 1 << 20,
            max_request_bytes: 512 << 10,
            background: false,
            ..Options::default()
        };
        let clock = SimClock::new(TimestampMs(1));
        let disk = Arc::new(SimDisk::new(1));
        let log = Log::open_with(disk.clone(), Arc::new(clock), Path::new("/data"), options).unwrap();
        let spec = TopicSpec::new(1, TopicSettings::default());
        (disk, log, spec)
    }

    #[test]
    fn a_name_whose_deleted_topic_could_not_be_moved_away_can_be_taken_once_it_can() {
        for kind in [IoKind::Rename, IoKind::SyncDir] {
            let (disk, log, spec) = begin();
            let old = log.create_topic("orders", spec.clone()).unwrap();
            append(&log, &old, "of the old one");
            disk.fail(Fault::once(kind, 0).on("/deleted").onwards());
            assert!(matches!(
                log.delete_topic("orders", Vec::new()),
                Err(Error::Io { .. })
            ));
            assert!(log.topic("orders").is_none());
            let refused = log.create_topic("orders", spec.clone());
            assert!(matches!(&refused, Err(Error::Io { what, .. }) if what.contains("which is deleted")));
            disk.clear_faults();
            let new = log.create_topic("orders", spec).unwrap();
            assert_ne!(new.id(), old.id());
            append(&log, &new, "of the new one");
        }
    }

    #[test]
    fn after_a_failed_sync_of_the_topics_directory_no_topic_is_made_until_a_restart() {
        let (disk, log, spec) = begin();
        disk.fail(Fault::once(IoKind::SyncDir, 0).on("/topics"));
        assert!(log.create_topic("orders", spec.clone()).is_err());
        let refused = log.create_topic("payments", spec).err().unwrap();
        assert!(refused.to_string().contains("an earlier sync of"), "{refused}");
        assert!(!disk.exists(Path::new("/data/topics/payments")).unwrap());
    }

    #[test]
    fn a_sync_that_a_deletion_overtakes_is_not_held_against_the_next_topic_of_that_name() {
        let (disk, log, spec) = begin();
        let mut failed_dirs = BTreeSet::new();
        let dir = Path::new("/data/topics/orders");
        // The syncer reaches the directory after the topic was moved away.
        assert!(log.engine().sync_dir_once(dir, &mut failed_dirs).is_err());
        log.create_topic("orders", spec).unwrap();
        log.engine().sync_dir_once(dir, &mut failed_dirs).unwrap();
        disk.fail(Fault::once(IoKind::SyncDir, 0).on("/orders"));
        for _ in ["a failed sync", "is not tried again"] {
            assert!(log.engine().sync_dir_once(dir, &mut failed_dirs).is_err());
        }
    }

    #[test]
    fn a_read_that_a_deletion_overtakes_does_not_see_the_next_topic_of_that_name() {
        let (_disk, log, spec) = begin();
        let old = log.create_topic("orders", spec.clone()).unwrap();
        append(&log, &old, "of the old one");
        // A read takes this view first, and is then delayed.
        let view = old.partition(0).unwrap().view();
        log.delete_topic("orders", Vec::new()).unwrap();
        let new = log.create_topic("orders", spec).unwrap();
        append(&log, &new, "of the new one");

        let request = ReadRequest::new(Offset::ZERO, 1);
        let late = read::read(&view, request, Access::Cold);
        assert!(matches!(late, Err(Error::Trimmed { .. })), "{late:?}");
        let answer = old.partition(0).unwrap().read(request);
        assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
        assert_eq!(log.counters().open_segments, 0);
        assert!(new.partition(0).unwrap().read(request).is_ok());
    }
}
