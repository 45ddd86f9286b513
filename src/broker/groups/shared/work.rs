//! The memory of a shared group: its settings, a queue for each partition, and the settles that wait to be written.
//!
//! A group has one writer at a time: it takes all waiting settles, writes them in one append, and answers the waiters.
//! Later settles go into the next append, so a queue never has two writes in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::queue::{Acquired, ChangeId, Expired, Leasing, MemberKey, Moment, PollNumber, Queue};
use super::settings::Settings;
use super::store::{self, Settlement};
use crate::broker::engine::{Log, Offset, PartitionId, Topic};
use crate::broker::groups::members::Ms;
use crate::broker::refusal::Refusal;
use crate::formats::json::ParsedRecord;

/// Dead letters in one append, in bytes of keys and values; at least one settle is written.
pub(crate) const WRITE_BYTES: usize = 4 << 20;
/// How long dead letters wait after a failed write.
const PAUSE_MS: Ms = 1000;

/// Changes that are written together, each with its partition; without a change, expired leases are written.
pub(crate) type Changes = Vec<(PartitionId, Option<ChangeId>)>;
/// Dead letters, each with its destination topic.
pub(crate) type Letters = Vec<(Arc<Topic>, ParsedRecord<'static>)>;

/// A settle that waits to be written.
pub(crate) struct Pending {
    pub(crate) changes: Changes,
    /// Its dead letters.
    pub(crate) letters: Letters,
    /// The size of the letters, in bytes.
    pub(crate) bytes: usize,
    /// Receives the result.
    pub(crate) done: oneshot::Sender<Result<(), Refusal>>,
}

/// The content of one write.
pub(crate) struct Batch {
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) letters: Letters,
    pub(crate) done: Vec<oneshot::Sender<Result<(), Refusal>>>,
}

/// A shared group.
pub(crate) struct Work {
    pub(crate) settings: Settings,
    pub(crate) queues: BTreeMap<PartitionId, Queue>,
    pending: Vec<Pending>,
    /// A writer is running.
    is_writing: bool,
    /// Records may have become free: see [`Work::take_freed`].
    is_freed: bool,
    /// The partition where the next poll starts.
    turn: usize,
    /// Exhausted records wait until then.
    paused_until: Ms,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("settings", &self.settings)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl Work {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            queues: BTreeMap::new(),
            pending: Vec::new(),
            is_writing: false,
            is_freed: false,
            turn: 0,
            paused_until: 0,
        }
    }

    /// Whether records may have become free since the last call, so that waiting polls must check.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.is_freed)
    }

    /// Notes that records may have become free.
    pub(crate) fn free(&mut self) {
        self.is_freed = true;
    }

    /// Loads the queues of new partitions, and drops those of deleted ones.
    pub(crate) fn refresh(&mut self, log: &Log, group: &str, partitions: &BTreeSet<PartitionId>) {
        // A leased record can still be settled by its member after the group drops the topic, and must not go to
        // another. In a deleted topic there is nothing to settle.
        self.queues.retain(|id, queue| {
            partitions.contains(id)
                || queue.is_writing()
                || ((queue.leased() > 0 || queue.is_settling()) && log.topic_by_id(id.topic).is_some())
        });
        for id in partitions {
            let max_deliveries = self.settings.max_deliveries;
            self.queues.entry(*id).or_insert_with(|| {
                let log_start = || {
                    let topic = log.topic_by_id(id.topic)?;
                    Some(topic.partition(id.index)?.positions().log_start_offset)
                };
                store::load(log, group, *id, max_deliveries)
                    .unwrap_or_else(|| Queue::new(log_start().unwrap_or(Offset::ZERO), max_deliveries))
            });
        }
        self.is_freed = true;
    }

    /// The partitions; each poll starts with another one.
    pub(crate) fn places(&mut self) -> Vec<PartitionId> {
        let mut places: Vec<PartitionId> = self.queues.keys().copied().collect();
        if !places.is_empty() {
            let count = places.len();
            places.rotate_left(self.turn % count);
            self.turn = self.turn.wrapping_add(1);
        }
        places
    }

    /// Leases records of one partition to a poll.
    pub(crate) fn acquire(&mut self, id: PartitionId, wanted: &Leasing) -> Vec<Acquired> {
        self.queues
            .get_mut(&id)
            .map(|queue| queue.acquire(wanted))
            .unwrap_or_default()
    }

    /// Takes back the leases that a poll does not deliver.
    pub(crate) fn give_back(
        &mut self,
        id: PartitionId,
        member: MemberKey,
        poll: PollNumber,
        from: Offset,
        until: Offset,
    ) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.give_back(member, poll, (from.get()..until.get()).map(Offset::new));
            self.is_freed = true;
        }
    }

    /// How many records a member has leased.
    pub(crate) fn leased_to(&self, member: MemberKey) -> usize {
        self.queues.values().map(|queue| queue.leased_to(member)).sum()
    }

    /// Ends the leases of a member that left.
    pub(crate) fn release_all(&mut self, member: MemberKey) {
        for queue in self.queues.values_mut() {
            queue.release_all(member);
        }
        self.is_freed = true;
    }

    /// Ends the leases and delays whose time is over.
    pub(crate) fn expire(&mut self, now: Ms) {
        let mut ended = Expired::default();
        for queue in self.queues.values_mut() {
            let of_queue = queue.expire(Moment(now));
            ended.free += of_queue.free;
        }
        if ended.free > 0 {
            self.is_freed = true;
        }
    }

    /// When [`Work::expire`] has something to do, or dead letters are retried.
    pub(crate) fn next_deadline(&self) -> Option<Ms> {
        let deadlines = self
            .queues
            .values()
            .filter_map(Queue::next_deadline)
            .map(|moment| moment.0);
        let retry = (!self.exhausted(1).is_empty()).then_some(self.paused_until);
        deadlines.chain(retry).min()
    }

    /// Records that were delivered too often, by partition.
    pub(crate) fn exhausted(&self, most: usize) -> Vec<(PartitionId, Vec<Offset>)> {
        let of_queue = |(id, queue): (&PartitionId, &Queue)| (*id, queue.exhausted(most));
        self.queues
            .iter()
            .map(of_queue)
            .filter(|(_, offsets)| !offsets.is_empty())
            .collect()
    }

    /// Whether exhausted records are to be dead-lettered now.
    pub(crate) fn is_due(&self, now: Ms) -> bool {
        self.paused_until <= now && self.queues.values().any(|queue| !queue.exhausted(1).is_empty())
    }

    /// Makes exhausted records wait for a while.
    pub(crate) fn pause(&mut self, now: Ms) {
        self.paused_until = now + PAUSE_MS;
    }

    /// The partitions with ended leases or skipped offsets that are not written yet.
    pub(crate) fn unsaved(&self) -> Changes {
        let unsaved = self.queues.iter().filter(|(_, queue)| queue.is_unsaved());
        unsaved.map(|(id, _)| (*id, None)).collect()
    }

    /// Queues a settle; `true` if the caller must start a writer.
    pub(crate) fn submit(&mut self, pending: Pending) -> bool {
        self.pending.push(pending);
        !std::mem::replace(&mut self.is_writing, true)
    }

    /// The next write; `None` ends the writer.
    pub(crate) fn next_batch(&mut self) -> Option<Batch> {
        if self.pending.is_empty() {
            self.is_writing = false;
            return None;
        }
        let mut changes: BTreeMap<PartitionId, Vec<ChangeId>> = BTreeMap::new();
        let (mut letters, mut done, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut taken = 0;
        for pending in &self.pending {
            if taken > 0 && bytes + pending.bytes > WRITE_BYTES {
                break;
            }
            bytes += pending.bytes;
            taken += 1;
        }
        for pending in self.pending.drain(..taken) {
            for (id, change) in pending.changes {
                changes.entry(id).or_default().extend(change);
            }
            letters.extend(pending.letters);
            done.push(pending.done);
        }
        let mut settlements = Vec::with_capacity(changes.len());
        for (id, changes) in changes {
            // The partition may be deleted, with everything to settle in it.
            if let Some(queue) = self.queues.get_mut(&id) {
                let saved = queue.begin_write(&changes);
                settlements.push(Settlement { partition: id, saved });
            }
        }
        Some(Batch {
            settlements,
            letters,
            done,
        })
    }

    /// Ends a write.
    pub(crate) fn end_batch(&mut self, partitions: impl Iterator<Item = PartitionId>, is_durable: bool) {
        for id in partitions {
            if let Some(queue) = self.queues.get_mut(&id) {
                if is_durable {
                    queue.commit();
                } else {
                    queue.abort();
                }
            }
        }
        // The window may have moved, or the records of a failed settle are leased again.
        self.is_freed = true;
    }

    /// Whether no write is running or waiting.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_writing && !self.queues.values().any(Queue::is_settling)
    }
}
