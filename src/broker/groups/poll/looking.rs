//! How a queue with an order or a filter reads records before it leases them: see
//! [`looks`](crate::broker::groups::shared::queue::looks).
//!
//! A poll reads on while it has found fewer records than it may take, within bounds; then it answers, or goes on if it
//! may wait. One poll of a group reads at a time: the others would read the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Polling;
use crate::broker::engine::batch::Record;
use crate::broker::engine::{Offset, Partition, PartitionId, Topic};
use crate::broker::fetch::page::{PageLimits, Unit};
use crate::broker::fetch::unreadable;
use crate::broker::filter::Filter;
use crate::broker::groups::Groups;
use crate::broker::groups::shared::later::deliver_at;
use crate::broker::groups::shared::queue::KeyHash;
use crate::broker::groups::shared::queue::looks::Seen;
use crate::broker::groups::shared::settings::Order;
use crate::broker::refusal::{Reason, Refusal};

/// The most records that a poll looks at before it checks again whether its wait is over.
const LOOKED_RECORDS: u64 = 10_000;
/// The same in stored bytes.
const LOOKED_BYTES: u64 = 4 << 20;
/// The most records that it looks at at once.
const RECORDS_AT_ONCE: u64 = 1000;
/// The same in stored bytes; one record is read, however large.
const BYTES_AT_ONCE: u64 = 1 << 20;
/// The fewest records that it looks at at once.
const FEWEST_AT_ONCE: u64 = 16;

/// What a poll has looked at.
#[derive(Default)]
pub(super) struct Looking {
    records: u64,
    bytes: u64,
    /// How many records it looked at last.
    step: u64,
    /// Partitions that cannot be read.
    pub(super) faulty: BTreeSet<PartitionId>,
    /// The first error of reading them.
    pub(super) fault: Option<Refusal>,
}

impl Looking {
    /// Whether the poll has looked at as much as it may at once.
    pub(super) fn is_enough(&self) -> bool {
        self.records >= LOOKED_RECORDS || self.bytes >= LOOKED_BYTES
    }
}

/// Where a poll looks on.
pub(super) struct Unseen {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    pub(super) from: Offset,
    /// How many records the poll may still take.
    pub(super) left: usize,
    pub(super) order: Order,
    pub(super) filter: Arc<Filter>,
}

impl Unseen {
    fn see(&self, record: &Record<'_>) -> Seen {
        let key = record.key.filter(|_| self.order == Order::Key);
        Seen {
            offset: record.offset,
            is_wanted: self.filter.matches(record),
            due: deliver_at(record),
            key: key.map(KeyHash::of),
        }
    }
}

impl Groups {
    /// Reads some records, and tells their queue what is in them.
    ///
    /// # Errors
    /// A record cannot be decoded.
    pub(super) async fn look_at(
        &self,
        polling: &Polling<'_>,
        unseen: &Unseen,
        looking: &mut Looking,
    ) -> Result<(), Refusal> {
        let id = unseen.partition.id();
        // Not much more than is needed: what is looked at and not leased takes memory.
        let wanted = (unseen.left as u64).max(looking.step * 2);
        looking.step = wanted.clamp(FEWEST_AT_ONCE, RECORDS_AT_ONCE);
        looking.records += looking.step;
        let limits = PageLimits {
            from: unseen.from,
            until: None,
            max_records: looking.step,
            max_bytes: BYTES_AT_ONCE,
            unit: Unit::Records,
        };
        let page = match self.fetcher.read_page(&unseen.partition, limits).await {
            Ok(page) => page,
            // Deleted or trimmed meanwhile: the poll looks the partition up again.
            Err(refusal) if matches!(refusal.reason, Reason::UnknownTopic | Reason::OffsetTrimmed) => {
                return Ok(());
            }
            Err(refusal) => {
                let refusal = refusal
                    .with("topic", unseen.topic.name())
                    .with("partition", id.index);
                looking.fault.get_or_insert(refusal);
                looking.faulty.insert(id);
                return Ok(());
            }
        };
        looking.bytes += page.stored_bytes;
        let mut seen = Vec::new();
        for record in page.records() {
            let (record, _) = record.map_err(unreadable)?;
            seen.push(unseen.see(&record));
        }
        let (_, mut core) = self.lock(&polling.cell);
        if let Some(work) = core.work()
            && work.settings.order == unseen.order
            && work.settings.filter == unseen.filter
        {
            let room = self.coordinator.room();
            work.saw(id, self.now(), unseen.from, page.next_offset, &seen, room);
        }
        Ok(())
    }
}
