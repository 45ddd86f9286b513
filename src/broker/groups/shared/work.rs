//! The memory of a shared group: its settings, a queue for each partition, and the settles that wait to be written.
//!
//! A group has one writer at a time: it takes all waiting settles, writes them in one append, and answers the waiters.
//! Later settles go into the next append, so a queue never has two writes in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::queue::looks::Seen;
use super::queue::{Acquired, ChangeId, Leasing, MemberKey, Moment, Now, PollNumber, Queue};
use super::settings::Settings;
use super::store::{self, Settlement};
use crate::broker::engine::{Log, Offset, PartitionId, TimestampMs, Topic};
use crate::broker::groups::members::Ms;
use crate::broker::groups::outputs::{Outgoing, Produced};
use crate::broker::refusal::Refusal;
use crate::formats::json::ParsedRecord;

/// Dead letters and outputs in one append, in bytes of keys, values and headers; at least one settle is written.
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
    /// The outputs that go with it.
    pub(crate) outgoing: Option<Outgoing>,
    /// The size of the letters and outputs, in bytes.
    pub(crate) bytes: usize,
    /// Receives the result.
    pub(crate) done: Done,
}

/// Receives the result of a settle: where its outputs lie, if it has some.
pub(crate) type Done = oneshot::Sender<Result<Option<Produced>, Refusal>>;

/// The content of one write.
pub(crate) struct Batch {
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) letters: Letters,
    /// The waiters, each with the outputs of its call.
    pub(crate) calls: Vec<(Done, Option<Outgoing>)>,
}

/// A shared group.
pub(crate) struct Work {
    pub(crate) settings: Settings,
    pub(crate) queues: BTreeMap<PartitionId, Queue>,
    /// The members that are known by name: those that have joined, and those that still hold leases.
    members: BTreeMap<Arc<str>, MemberKey>,
    last_member: u64,
    pending: Vec<Pending>,
    /// A writer is running.
    is_writing: bool,
    /// Records may have become free: see [`Work::take_freed`].
    is_freed: bool,
    /// Queues may remember more or fewer records: see [`Work::take_unsettled`].
    is_changed: bool,
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
            members: BTreeMap::new(),
            last_member: 0,
            pending: Vec::new(),
            is_writing: false,
            is_freed: false,
            is_changed: false,
            turn: 0,
            paused_until: 0,
        }
    }

    /// Applies other settings: to new leases, and to how often records are delivered from now on.
    pub(crate) fn apply(&mut self, settings: Settings) {
        if self.settings == settings {
            return;
        }
        if self.settings.max_deliveries != settings.max_deliveries {
            for queue in self.queues.values_mut() {
                queue.set_max_deliveries(settings.max_deliveries);
            }
        }
        let looks_otherwise =
            self.settings.order != settings.order || self.settings.filter != settings.filter;
        self.settings = settings;
        if looks_otherwise {
            for queue in self.queues.values_mut() {
                queue.set_looking(self.settings.looks());
            }
        }
        self.is_freed = true;
    }

    /// Whether records may have become free since the last call, so that waiting polls must check.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.is_freed)
    }

    /// Notes that records may have become free.
    pub(crate) fn free(&mut self) {
        self.is_freed = true;
    }

    /// The number that stands for a member's name. A member that joins again, or settles after its session has ended, is
    /// the same member.
    pub(crate) fn member(&mut self, name: &str) -> MemberKey {
        if let Some(key) = self.members.get(name) {
            return *key;
        }
        self.last_member += 1;
        let key = MemberKey(self.last_member);
        self.members.insert(name.into(), key);
        key
    }

    /// The number of a member that is known.
    pub(crate) fn known_member(&self, name: &str) -> Option<MemberKey> {
        self.members.get(name).copied()
    }

    /// The names of all members.
    pub(crate) fn names(&self) -> BTreeMap<MemberKey, Arc<str>> {
        let members = self.members.iter();
        members.map(|(name, key)| (*key, Arc::clone(name))).collect()
    }

    /// Forgets the names of members that have neither a session nor a lease.
    pub(crate) fn forget_members(&mut self, has_session: impl Fn(&str) -> bool) {
        if self.queues.values().any(Queue::is_settling) {
            return;
        }
        let queues = &self.queues;
        self.members
            .retain(|name, key| has_session(name) || queues.values().any(|queue| queue.leased_to(*key) > 0));
    }

    /// Loads the queues of new partitions, and drops those of deleted topics and of topics that the group gave up.
    pub(crate) fn refresh(&mut self, log: &Log, group: &str, partitions: &BTreeSet<PartitionId>) {
        // A leased record can still be settled by its member after the group drops the topic, and must not go to
        // another. In a deleted topic there is nothing to settle.
        self.queues.retain(|id, queue| {
            partitions.contains(id)
                || queue.is_writing()
                || ((queue.leased() > 0 || queue.is_settling() || queue.is_unsaved())
                    && log.topic_by_id(id.topic).is_some())
        });
        for id in partitions {
            self.load(log, group, *id);
        }
        self.is_freed = true;
    }

    /// The queue of a partition, loaded if it is not in memory.
    pub(crate) fn load(&mut self, log: &Log, group: &str, id: PartitionId) -> &mut Queue {
        let max_deliveries = self.settings.max_deliveries;
        self.is_changed = true;
        let looks = self.settings.looks();
        self.queues.entry(id).or_insert_with(|| {
            let log_start = || {
                let topic = log.topic_by_id(id.topic)?;
                Some(topic.partition(id.index)?.positions().log_start_offset)
            };
            let mut queue = store::load(log, group, id, max_deliveries)
                .unwrap_or_else(|| Queue::new(log_start().unwrap_or(Offset::ZERO), max_deliveries));
            if looks {
                queue.set_looking(true);
            }
            queue
        })
    }

    /// Loads a partition's queue again after a reset: nothing is leased, and what was leased before no longer counts.
    pub(crate) fn reload(&mut self, log: &Log, group: &str, id: PartitionId) {
        if self.queues.remove(&id).is_some() {
            self.load(log, group, id).disown();
        }
        (self.is_freed, self.is_changed) = (true, true);
    }

    /// How many records all queues remember as unsettled, if that may have changed since the last call.
    pub(crate) fn take_unsettled(&mut self) -> Option<usize> {
        std::mem::take(&mut self.is_changed).then(|| self.queues.values().map(Queue::unsettled).sum())
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
        self.is_changed = true;
        self.queues
            .get_mut(&id)
            .map(|queue| queue.acquire(wanted))
            .unwrap_or_default()
    }

    /// Takes in what a reader saw of a partition.
    pub(crate) fn saw(
        &mut self,
        id: PartitionId,
        now: Now,
        from: Offset,
        until: Offset,
        seen: &[Seen],
        room: usize,
    ) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.saw(now, from, until, seen, room);
            self.is_changed = true;
        }
    }

    /// Takes back leases that a poll does not deliver; if `due` is given, the records wait until then.
    pub(crate) fn give_back(
        &mut self,
        id: PartitionId,
        member: MemberKey,
        poll: PollNumber,
        offsets: impl IntoIterator<Item = Offset>,
        due: Option<TimestampMs>,
    ) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.give_back(member, poll, offsets, due);
            (self.is_freed, self.is_changed) = (true, true);
        }
    }

    /// How many records a member has leased.
    pub(crate) fn leased_to(&self, member: MemberKey) -> usize {
        self.queues.values().map(|queue| queue.leased_to(member)).sum()
    }

    /// Begins all leases of a member anew.
    pub(crate) fn extend_all(&mut self, name: &str, now: Ms) {
        let deadline = Moment(now.saturating_add(self.settings.lease_ms.into()));
        if let Some(key) = self.known_member(name) {
            for queue in self.queues.values_mut() {
                queue.extend_all(key, deadline);
            }
        }
    }

    /// Ends the leases of a member that leaves.
    pub(crate) fn leave(&mut self, name: &str) {
        let Some(key) = self.members.remove(name) else {
            return;
        };
        for queue in self.queues.values_mut() {
            queue.leave(key);
        }
        self.is_freed = true;
    }

    /// Ends the leases and delays whose time is over.
    pub(crate) fn expire(&mut self, now: Now) {
        for queue in self.queues.values_mut() {
            if queue.expire(now) > 0 {
                self.is_freed = true;
            }
        }
    }

    /// When [`Work::expire`] has something to do, or dead letters are retried.
    pub(crate) fn next_deadline(&self, now: Now) -> Option<Ms> {
        let leases = self.queues.values().filter_map(Queue::next_deadline);
        let due = self.queues.values().filter_map(Queue::next_due).min();
        let due = due.map(|due| {
            let wait = due.get().saturating_sub(now.wall.get());
            now.moment.0.saturating_add(u64::try_from(wait).unwrap_or(0))
        });
        let retry = (!self.exhausted(1).is_empty()).then_some(self.paused_until);
        leases.map(|moment| moment.0).chain(due).chain(retry).min()
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

    /// The next write, of at most so many bytes unless one call alone has more; `None` ends the writer.
    pub(crate) fn next_batch(&mut self, most: usize) -> Option<Batch> {
        if self.pending.is_empty() {
            self.is_writing = false;
            return None;
        }
        let mut changes: BTreeMap<PartitionId, Vec<ChangeId>> = BTreeMap::new();
        let (mut letters, mut calls, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut taken = 0;
        for pending in &self.pending {
            let is_alone = pending.outgoing.as_ref().is_some_and(Outgoing::is_doomed);
            if taken > 0 && (is_alone || bytes + pending.bytes > most) {
                break;
            }
            bytes += pending.bytes;
            taken += 1;
            if is_alone {
                break;
            }
        }
        for pending in self.pending.drain(..taken) {
            for (id, change) in pending.changes {
                changes.entry(id).or_default().extend(change);
            }
            letters.extend(pending.letters);
            calls.push((pending.done, pending.outgoing));
        }
        let mut settlements = Vec::with_capacity(changes.len());
        for (id, changes) in changes {
            // The partition may be deleted, with everything to settle in it.
            if let Some(queue) = self.queues.get_mut(&id) {
                let written = queue.begin_write(&changes);
                settlements.push(Settlement {
                    partition: id,
                    written,
                });
            }
        }
        Some(Batch {
            settlements,
            letters,
            calls,
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
        // The records of a failed settle may be free, and a bound may be further away.
        (self.is_freed, self.is_changed) = (true, true);
    }

    /// Whether no write is running or waiting.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_writing && !self.queues.values().any(Queue::is_settling)
    }
}
