//! Topics and their partitions, as the log has them in memory.
//!
//! Read `partition` first: it holds the positions and what readers see. `catalog` lists the topics by name.

pub(crate) mod catalog;
pub(crate) mod partition;

use std::sync::Arc;

use crate::files::description::TopicSpec;
use crate::io::sync::RwLock;
use crate::io::sync::atomic::{AtomicBool, Ordering};
use crate::topic::partition::Partition;
use crate::types::TopicId;

/// A topic that exists, or existed when it was looked up.
pub struct Topic {
    name: String,
    id: TopicId,
    /// Changed by `alter_topic` only, under the catalog's lock.
    inner: RwLock<Inner>,
    /// Set by the committer in the round of the deletion.
    deleted: AtomicBool,
}

struct Inner {
    spec: Arc<TopicSpec>,
    partitions: Arc<[Arc<Partition>]>,
}

impl Topic {
    pub(crate) fn new(name: String, id: TopicId, spec: TopicSpec, partitions: Vec<Arc<Partition>>) -> Self {
        assert_eq!(spec.partitions as usize, partitions.len(), "partitions of {name}");
        let inner = Inner {
            spec: Arc::new(spec),
            partitions: partitions.into(),
        };
        Self {
            name,
            id,
            inner: RwLock::new(inner),
            deleted: AtomicBool::new(false),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, which no other topic of this data directory ever has.
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Its partition count, settings and properties at the moment.
    pub fn spec(&self) -> Arc<TopicSpec> {
        Arc::clone(&self.inner.read().spec)
    }

    /// How many partitions it has at the moment.
    pub fn partition_count(&self) -> u32 {
        self.inner.read().partitions.len() as u32
    }

    /// A partition by its index.
    pub fn partition(&self, index: u32) -> Option<Arc<Partition>> {
        self.inner.read().partitions.get(index as usize).cloned()
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> Arc<[Arc<Partition>]> {
        Arc::clone(&self.inner.read().partitions)
    }

    /// Whether it has been deleted since it was looked up.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        for partition in &*self.partitions() {
            partition.set_deleted();
        }
    }

    pub(crate) fn replace(&self, spec: TopicSpec, partitions: Vec<Arc<Partition>>) {
        let settings = Arc::new(spec.settings.clone());
        for partition in &partitions {
            partition.set_settings(Arc::clone(&settings));
        }
        *self.inner.write() = Inner {
            spec: Arc::new(spec),
            partitions: partitions.into(),
        };
    }
}
