//! The topics of a log, by their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Topic;
use crate::io::sync::atomic::{AtomicU64, Ordering};
use crate::io::sync::{Mutex, RwLock};
use crate::types::TopicId;

/// The prefix of internal topics' names. They are recovered, synced and verified as all are, but not shown to callers.
pub(crate) const INTERNAL_PREFIX: &str = "__";

/// Whether a topic is internal.
pub(crate) fn is_internal(name: &str) -> bool {
    name.starts_with(INTERNAL_PREFIX)
}

/// The internal topic of the idempotency keys.
pub(crate) const KEYS: &str = "__keys";

/// The topics that exist.
pub(crate) struct Catalog {
    pub(crate) topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    pub(crate) next_topic_id: AtomicU64,
    /// Topics whose deletion is durable in the journal, until their directories are gone from `topics/` durably.
    /// Added to by the committer, before the round of the deletion counts as published.
    pub(crate) deleting: Mutex<Vec<TopicId>>,
    /// Held while directories are made, changed or removed.
    pub(crate) changing: Mutex<Changing>,
}

/// What earlier, failed changes have left behind.
#[derive(Default)]
pub(crate) struct Changing {
    /// Names whose directories belong, or may belong after a crash, to deleted topics that could not be moved away.
    pub(crate) unmoved: BTreeMap<String, TopicId>,
    /// Whether a sync of `topics/` has failed: until a restart, nobody knows which of its names are on stable storage.
    pub(crate) is_unsyncable: bool,
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
            changing: Mutex::default(),
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
