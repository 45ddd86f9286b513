//! Topics: their catalog, their changes and descriptions, offsets by time, and the damaged records that an operator
//! skipped.
//!
//! [`Topics`] is the only way to change a topic. A change reads the current state, decides and writes, one change at a
//! time: changes are rare, so one lock for all topics is enough. [`Topics::changes`] tells groups and streams when a
//! topic was created, altered or deleted.

pub mod catalog;
pub mod changes;
pub mod describe;
pub mod lookup;
pub mod skips;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::broker::audit;
use crate::broker::caller::Caller;
use crate::broker::engine::{
    Error, Log, Offset, Partition, PartitionId, StateChange, TimestampMs, Topic, TopicSpec,
};
use crate::broker::limits::Limits;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::state_keys;
use catalog::TopicConfig;
use changes::Changes;
use skips::Gap;

/// The topics of a log. Its changes block on the disk, and are durable when they return. Clones share it.
#[derive(Clone)]
pub struct Topics {
    log: Log,
    max_partitions: u32,
    /// Held during a change.
    changing: Arc<Mutex<()>>,
    /// Raised with each change, once it is durable.
    feed: watch::Sender<u64>,
}

impl Topics {
    /// The topics of `log`.
    pub fn new(log: impl Into<Log>, limits: &Limits) -> Self {
        Self {
            log: log.into(),
            max_partitions: limits.max_partitions,
            changing: Arc::default(),
            feed: watch::Sender::new(1),
        }
    }

    /// Follows creations, changes and deletions of topics: each raises the number.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.feed.subscribe()
    }

    /// Creates a topic, or finds an existing one that matches; returns whether it was created.
    ///
    /// If `partitions` is `None`, a new topic has 1, and any number matches an existing one. The same holds for
    /// configuration keys that are not given.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] for an invalid name, number of partitions or configuration; [`Reason::TopicExists`]
    /// if the topic exists and differs; those of the engine.
    pub fn create(
        &self,
        caller: &Caller,
        name: &str,
        partitions: Option<u32>,
        config: &[(String, Value)],
    ) -> Result<(Arc<Topic>, bool), Refusal> {
        self.create_with(caller, name, &Changes::of(partitions, config))
    }

    /// The same for everything that a new topic may have.
    ///
    /// # Errors
    /// Those of [`Topics::create`].
    pub fn create_with(
        &self,
        caller: &Caller,
        name: &str,
        changes: &Changes,
    ) -> Result<(Arc<Topic>, bool), Refusal> {
        let new = self.may_create(caller, name, changes)?;
        let _one_at_a_time = self.changing.lock();
        if let Some(topic) = self.log.topic(name) {
            catalog::compare(&topic, changes)?;
            return Ok((topic, false));
        }
        let detail = format!("partitions {}{}", new.partitions, changes.listed());
        let entry = audit::entry(&self.log, caller, "topic.create", &path(name), detail);
        audit::store(&self.log, entry)?;
        let topic = self.log.create_topic(name, new)?;
        self.announce();
        Ok((topic, true))
    }

    /// The description of the topic that [`Topics::create_with`] would create, if there were none of that name.
    ///
    /// # Errors
    /// Those of [`Topics::create`], but for [`Reason::TopicExists`] and the engine's.
    pub fn may_create(&self, caller: &Caller, name: &str, changes: &Changes) -> Result<TopicSpec, Refusal> {
        caller.check_topic(Right::Create, name)?;
        catalog::new_spec(name, self.max_partitions, changes)
    }

    /// What [`Topics::alter`] would change, if it were called now: the topic, and its new description unless that is the
    /// same.
    ///
    /// # Errors
    /// Those of [`Topics::alter`], but for the engine's.
    pub fn may_alter(
        &self,
        caller: &Caller,
        name: &str,
        partitions: Option<u32>,
        config: &[(String, Value)],
        if_id: Option<&str>,
    ) -> Result<(Arc<Topic>, Option<TopicSpec>), Refusal> {
        let changes = |_: &TopicConfig| Ok(Changes::of(partitions, config));
        let (topic, _, changed) = self.may_alter_by(caller, name, if_id, changes)?;
        Ok((topic, changed))
    }

    /// What [`Topics::alter_by`] would change, if it were called now: the topic, the changes that were asked for, and its
    /// new description unless that is the same.
    ///
    /// # Errors
    /// Those of [`Topics::alter_by`], but for the engine's.
    pub fn may_alter_by(
        &self,
        caller: &Caller,
        name: &str,
        if_id: Option<&str>,
        changes: impl FnOnce(&TopicConfig) -> Result<Changes, Refusal>,
    ) -> Result<(Arc<Topic>, Changes, Option<TopicSpec>), Refusal> {
        caller.check_topic(Right::Configure, name)?;
        let topic = self.find(name, if_id)?;
        let changes = changes(&TopicConfig::of(&topic.spec()))?;
        let changed = catalog::changed_spec(&topic, self.max_partitions, &changes)?;
        if let Some(changed) = &changed
            && catalog::lowers_retention(&topic.spec().settings, &changed.settings)
        {
            // It is a way to delete records.
            caller.check_topic(Right::Delete, name)?;
            catalog::check_protection(&topic)?;
        }
        Ok((topic, changes, changed))
    }

    /// The topic that [`Topics::delete`] would delete.
    ///
    /// # Errors
    /// Those of [`Topics::delete`], but for the engine's.
    pub fn may_delete(
        &self,
        caller: &Caller,
        name: &str,
        if_id: Option<&str>,
    ) -> Result<Arc<Topic>, Refusal> {
        caller.check_topic(Right::Delete, name)?;
        let topic = self.find(name, if_id)?;
        catalog::check_protection(&topic)?;
        Ok(topic)
    }

    /// Checks whether [`Topics::trim`] would move the log start of a topic's partitions.
    ///
    /// # Errors
    /// [`Reason::TopicChanged`], [`Reason::TopicProtected`].
    pub fn may_trim(&self, caller: &Caller, topic: &Topic, if_id: Option<&str>) -> Result<(), Refusal> {
        caller.check_topic(Right::Delete, topic.name())?;
        catalog::check_id(&self.log, topic, if_id)?;
        catalog::check_protection(topic)
    }

    /// The topic of that name, if it is the one with that id.
    fn find(&self, name: &str, if_id: Option<&str>) -> Result<Arc<Topic>, Refusal> {
        let topic = catalog::find(&self.log, name)?;
        catalog::check_id(&self.log, &topic, if_id)?;
        Ok(topic)
    }

    /// Raises a topic's partitions and changes its configuration, both or neither.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`]; [`Reason::TopicChanged`] if it does not have the id `if_id`;
    /// [`Reason::PartitionsCannotShrink`]; [`Reason::TopicProtected`] for lower retention of a protected topic; those of [`catalog::TopicConfig::apply`] and of
    /// the engine.
    pub fn alter(
        &self,
        caller: &Caller,
        name: &str,
        partitions: Option<u32>,
        config: &[(String, Value)],
        if_id: Option<&str>,
    ) -> Result<Arc<Topic>, Refusal> {
        self.alter_by(caller, name, if_id, |_| Ok(Changes::of(partitions, config)))
    }

    /// The same for changes that depend on what the topic has: nothing else changes it meanwhile.
    ///
    /// # Errors
    /// Those of [`Topics::alter`] and of `changes`.
    pub fn alter_by(
        &self,
        caller: &Caller,
        name: &str,
        if_id: Option<&str>,
        changes: impl FnOnce(&TopicConfig) -> Result<Changes, Refusal>,
    ) -> Result<Arc<Topic>, Refusal> {
        let _one_at_a_time = self.changing.lock();
        let (topic, changes, changed) = self.may_alter_by(caller, name, if_id, changes)?;
        let Some(changed) = changed else {
            return Ok(topic);
        };
        let detail = format!("partitions {}{}", changed.partitions, changes.listed());
        let entry = audit::entry(&self.log, caller, "topic.alter", &path(name), detail);
        audit::store(&self.log, entry)?;
        let topic = self.log.alter_topic(name, changed)?;
        self.announce();
        Ok(topic)
    }

    /// Deletes a topic with its data and, in the same append, everything about it in the state.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`]; [`Reason::TopicChanged`] if it does not have the id `if_id`; [`Reason::TopicProtected`];
    /// those of the engine.
    pub fn delete(&self, caller: &Caller, name: &str, if_id: Option<&str>) -> Result<(), Refusal> {
        let _one_at_a_time = self.changing.lock();
        let topic = self.may_delete(caller, name, if_id)?;
        let mut state = state_keys::removals_of_topic(&self.log, topic.id());
        let detail = format!("id {}", catalog::public_id(&self.log, topic.id()));
        state.push(audit::entry(
            &self.log,
            caller,
            "topic.delete",
            &path(name),
            detail,
        ));
        match self.log.delete_topic(name, state) {
            Err(Error::NotFound(_)) => return Err(catalog::unknown_topic(name)),
            other => other?,
        }
        self.announce();
        Ok(())
    }

    /// Moves the log start of a partition up to `before`; returns the new log start.
    ///
    /// # Errors
    /// [`Reason::OffsetOutOfRange`] above the end; those of [`Topics::may_trim`] and of the engine.
    pub fn trim(
        &self,
        caller: &Caller,
        topic: &Topic,
        partition: &Arc<Partition>,
        before: Offset,
        if_id: Option<&str>,
    ) -> Result<Offset, Refusal> {
        self.may_trim(caller, topic, if_id)?;
        let resource = format!(
            "{}/partitions/{}/records",
            path(topic.name()),
            partition.id().index
        );
        let detail = format!("before {before}");
        let entry = audit::entry(&self.log, caller, "records.delete", &resource, detail);
        Ok(partition.trim_with(before, vec![entry])?)
    }

    /// Makes consumers skip damaged offsets.
    ///
    /// # Errors
    /// [`Reason::NotDamaged`] unless each of them is damaged now: nothing is changed. Those of the engine for offsets
    /// outside of the log, and for an append.
    pub fn skip(
        &self,
        caller: &Caller,
        partition: &Partition,
        range: Gap,
        now: TimestampMs,
    ) -> Result<(), Refusal> {
        self.check_skips(caller, partition.id())?;
        let _one_at_a_time = self.changing.lock();
        let entry = damage_entry(&self.log, caller, "damage.skip", partition.name(), range);
        skips::skip(&self.log, partition, range, now, entry)?;
        tracing::warn!(
            partition = partition.name(),
            damaged_offset = range.from.get(),
            damaged_until_offset = range.until.get(),
            "damaged records are skipped from now on"
        );
        Ok(())
    }

    /// Undoes a skip: reads report these offsets as damaged again. Offsets that were not skipped stay as they are.
    ///
    /// # Errors
    /// Those of the engine; whether the skip was undone is unknown then.
    pub fn take_back(
        &self,
        caller: &Caller,
        partition: PartitionId,
        range: Gap,
        now: TimestampMs,
    ) -> Result<(), Refusal> {
        self.check_skips(caller, partition)?;
        let _one_at_a_time = self.changing.lock();
        let name = self.log.topic_by_id(partition.topic);
        let name = name.map_or_else(String::new, |topic| {
            format!("{}/{}", topic.name(), partition.index)
        });
        let entry = damage_entry(&self.log, caller, "damage.unskip", &name, range);
        Ok(skips::take_back(&self.log, partition, range, now, entry)?)
    }

    fn check_skips(&self, caller: &Caller, partition: PartitionId) -> Result<(), Refusal> {
        match self.log.topic_by_id(partition.topic) {
            Some(topic) => caller.check_topic(Right::Configure, topic.name()),
            None => Ok(()),
        }
    }

    /// Raises the number of the last change: those who watch topics look again.
    pub fn announce(&self) {
        self.feed.send_modify(|change| *change += 1);
    }
}

fn path(topic: &str) -> String {
    format!("topics/{topic}")
}

/// `name`: topic, slash, partition.
fn damage_entry(log: &Log, caller: &Caller, action: &str, name: &str, range: Gap) -> StateChange {
    let name = name.replace('/', "/partitions/");
    let detail = format!("offsets {} until {}", range.from, range.until);
    audit::entry(log, caller, action, &format!("topics/{name}/damage"), detail)
}

/// The partition of a topic.
///
/// # Errors
/// [`Reason::UnknownPartition`].
pub fn partition(topic: &Topic, index: u32) -> Result<Arc<Partition>, Refusal> {
    topic
        .partition(index)
        .ok_or_else(|| unknown_partition(topic, index))
}

/// Refuses a partition that the topic does not have; `asked` is the caller's wording.
pub fn unknown_partition(topic: &Topic, asked: impl fmt::Debug) -> Refusal {
    let (name, count) = (topic.name(), topic.partition_count());
    let detail = format!("the topic {name} has {count} partitions, from 0; {asked:?} is none of them");
    Refusal::new(Reason::UnknownPartition, detail).with("partition_count", count)
}
