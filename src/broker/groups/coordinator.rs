//! The groups that have members: one cell each, behind a lock that is held for memory operations only.
//!
//! A cell is made when the first member joins and stays for a while after the last has gone, so that an acknowledgement
//! which comes late is still known for what it is; then the group costs what it has committed and nothing more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::live::{GroupState, Kind, Live};
use super::ordered::{Joining, Ms, Ordered};
use super::shared::queue::MemberKey;
use super::shared::work::Work;
use super::subscriptions::has_begun;
use crate::broker::engine::{Log, PartitionId, TimestampMs, TopicId};

/// How long a group without members is remembered.
const REMEMBERED_MS: Ms = 600_000;
/// Members of all groups together: each takes about five kilobytes.
const MAX_MEMBERS: usize = 100_000;

/// Every group with members.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// Names this process in `poll_id`s.
    life: u64,
    /// Not below any number that a forgotten cell gave.
    numbers: AtomicU64,
    cells: Mutex<HashMap<Arc<str>, Arc<Cell>>>,
    members: AtomicUsize,
    /// Raised when a topic is made, changed or deleted.
    topics: watch::Sender<u64>,
    /// When who ends sessions looks again.
    looks_at: AtomicU64,
    /// Wakes it: a session may end sooner than that.
    pub(crate) sooner: Notify,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) group: Arc<str>,
    /// Told when a change from outside has ended.
    pub(crate) joinable: Notify,
    core: Mutex<Core>,
}

/// What a cell holds.
#[derive(Debug)]
pub(crate) struct Core {
    /// The members, and in an ordered group their partitions.
    pub(crate) ordered: Ordered,
    /// In a shared group, its records.
    pub(crate) work: Option<Work>,
    /// The names of the topics that each member subscribes to.
    subscriptions: BTreeMap<Arc<str>, BTreeSet<String>>,
    /// Topics that it reads and that are not in the group's durable subscription, because they took the place of deleted
    /// ones under the same names: the next poll writes them.
    pub(crate) unsubscribed: Vec<TopicId>,
    /// The number of the topics' last change that it has seen.
    topics_seen: u64,
    /// Since when it has no members.
    empty_since: Option<Ms>,
    /// Changes of what it has committed that no member makes and that are under way: nobody joins meanwhile.
    outside: usize,
    /// It is not in the table any more.
    is_forgotten: bool,
    counted: usize,
}

impl Coordinator {
    /// No groups. The numbers of this process begin above those of the processes before it, which gave less than a
    /// thousand each millisecond: an epoch of an earlier one is never taken for one of today. JSON keeps such numbers.
    pub(crate) fn new(now: TimestampMs) -> Self {
        let first = u64::try_from(now.get()).unwrap_or(0).saturating_mul(1000);
        Self {
            life: RandomState::new().hash_one("life"),
            numbers: AtomicU64::new(first),
            cells: Mutex::default(),
            members: AtomicUsize::new(0),
            topics: watch::Sender::new(1),
            looks_at: AtomicU64::new(u64::MAX),
            sooner: Notify::new(),
        }
    }

    /// A number that nobody can guess easily, for names.
    pub(crate) fn random() -> u64 {
        RandomState::new().hash_one("member")
    }

    /// Says that topics have changed: every group looks again.
    pub(crate) fn topics_changed(&self) {
        self.topics.send_modify(|change| *change += 1);
    }

    /// Follows changes of topics.
    pub(crate) fn watch_topics(&self) -> watch::Receiver<u64> {
        self.topics.subscribe()
    }

    /// Names this process in `poll_id`s.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Has sessions and leases looked at by then.
    pub(crate) fn look_sooner(&self, at: Option<Ms>) {
        if at.is_some_and(|at| at < self.looks_at.load(Relaxed)) {
            self.sooner.notify_one();
        }
    }

    /// Whether another member may join.
    pub(crate) fn has_room(&self) -> bool {
        self.members.load(Relaxed) < MAX_MEMBERS
    }

    /// The cell of a group, if there is one.
    pub(crate) fn find(&self, group: &str) -> Option<Arc<Cell>> {
        self.cells.lock().get(group).cloned()
    }

    /// The cell of a group, made if need be.
    pub(crate) fn cell(&self, group: &str) -> Arc<Cell> {
        let mut cells = self.cells.lock();
        if let Some(cell) = cells.get(group) {
            return Arc::clone(cell);
        }
        let group: Arc<str> = group.into();
        let core = Core {
            ordered: Ordered::new(self.life, self.numbers.load(Relaxed)),
            work: None,
            subscriptions: BTreeMap::new(),
            unsubscribed: Vec::new(),
            topics_seen: 0,
            empty_since: None,
            outside: 0,
            is_forgotten: false,
            counted: 0,
        };
        let cell = Arc::new(Cell {
            group: Arc::clone(&group),
            joinable: Notify::new(),
            core: Mutex::new(core),
        });
        cells.insert(group, Arc::clone(&cell));
        cell
    }

    /// Forgets a group that has no members: what it has committed is changed by somebody else.
    pub(crate) fn forget(&self, group: &str) {
        let mut cells = self.cells.lock();
        if let Some(cell) = cells.get(group) {
            let mut core = cell.core.lock();
            if core.ordered.members.is_empty() && core.outside == 0 {
                core.is_forgotten = true;
                self.numbers.fetch_max(core.ordered.last_number(), Relaxed);
                drop(core);
                cells.remove(group);
            }
        }
    }

    /// When the group had members last: now, or when the last one went. `None` if that is not remembered.
    pub(crate) fn had_members(&self, group: &str, now: Ms) -> Option<Ms> {
        let cell = self.find(group)?;
        let core = self.lock(&cell, now);
        Some(core.empty_since.unwrap_or(now))
    }

    /// Begins a change of what a group has committed that no member makes. Nobody joins until it has ended, so that no
    /// member goes on from what was before. `None`: the group has members, or one that is gone has a commit on its way.
    pub(crate) fn begin_outside(self: &Arc<Self>, group: &str, now: Ms) -> Option<Outside> {
        loop {
            let cell = self.cell(group);
            let mut core = self.lock(&cell, now);
            if core.is_forgotten {
                continue;
            }
            let is_idle = core.work.as_ref().is_none_or(Work::is_idle);
            if !core.ordered.members.is_empty() || core.ordered.is_committing() || !is_idle {
                return None;
            }
            core.outside += 1;
            drop(core);
            return Some(Outside {
                coordinator: Arc::clone(self),
                cell,
            });
        }
    }

    /// What a group's members are doing.
    pub(crate) fn state(&self, group: &str) -> GroupState {
        self.find(group)
            .map_or(GroupState::Empty, |cell| cell.core.lock().ordered.state())
    }

    /// What is known of a group's members.
    pub(crate) fn live(&self, group: &str) -> Option<Live> {
        let cell = self.find(group)?;
        let core = cell.core.lock();
        if core.ordered.members.is_empty() {
            return None;
        }
        Some(match &core.work {
            Some(work) => Live {
                state: GroupState::Stable,
                kind: Kind::Shared,
                members: core.ordered.members.len(),
                partitions: work.queues.keys().map(|id| (*id, None)).collect(),
            },
            None => Live {
                state: core.ordered.state(),
                kind: Kind::Ordered,
                members: core.ordered.members.len(),
                partitions: core
                    .ordered
                    .partitions()
                    .map(|(id, owner)| (id, owner.cloned()))
                    .collect(),
            },
        })
    }

    /// The group's state, with the sessions ended that are over.
    pub(crate) fn lock<'a>(&self, cell: &'a Cell, now: Ms) -> MutexGuard<'a, Core> {
        let mut core = cell.core.lock();
        for (member, key) in core.ordered.expire(now) {
            if let Some(work) = &mut core.work {
                work.release_all(MemberKey(key));
            }
            tracing::info!(
                group = &*cell.group,
                member = &*member,
                "a member was not heard from within its session: its partitions go to others"
            );
        }
        self.settle(&mut core, now);
        core
    }

    /// Keeps the books after members came, went or were heard from.
    pub(crate) fn settle(&self, core: &mut Core, now: Ms) {
        if core
            .ordered
            .next_deadline()
            .is_some_and(|at| at < self.looks_at.load(Relaxed))
        {
            self.sooner.notify_one();
        }
        let Core {
            ordered,
            subscriptions,
            ..
        } = core;
        let count = ordered.members.len();
        if count != subscriptions.len() {
            subscriptions.retain(|member, _| ordered.members.contains_key(member));
        }
        if count != core.counted {
            self.members.fetch_add(count, Relaxed);
            self.members.fetch_sub(core.counted, Relaxed);
            core.counted = count;
        }
        if count > 0 {
            core.empty_since = None;
        } else if core.empty_since.is_none() {
            core.empty_since = Some(now);
        }
    }

    /// Ends the sessions and leases that are over and forgets groups that have been empty for long. Says when to look
    /// again, and which shared groups have something to be written.
    pub(crate) fn tick(&self, now: Ms) -> (Option<Ms>, Vec<Arc<Cell>>) {
        let cells: Vec<Arc<Cell>> = self.cells.lock().values().cloned().collect();
        let mut next: Option<Ms> = None;
        let mut busy = Vec::new();
        for cell in cells {
            let mut core = self.lock(&cell, now);
            let mut deadline = core.ordered.next_deadline();
            let mut is_idle = !core.ordered.is_committing() && core.outside == 0;
            if let Some(work) = &mut core.work {
                work.expire(now);
                if work.is_due(now) || !work.unsaved().is_empty() {
                    busy.push(Arc::clone(&cell));
                }
                deadline = deadline
                    .into_iter()
                    .chain(work.next_deadline().filter(|at| *at > now))
                    .min();
                is_idle &= work.is_idle();
            }
            let forget_at = core.empty_since.map(|since| since + REMEMBERED_MS);
            drop(core);
            if forget_at.is_some_and(|at| at <= now) && is_idle {
                self.forget(&cell.group);
            } else {
                next = next.into_iter().chain(deadline).chain(forget_at).min();
            }
        }
        self.looks_at.store(next.unwrap_or(u64::MAX), Relaxed);
        (next, busy)
    }
}

/// A change of what a group has committed that no member makes; it ends when this is dropped.
#[derive(Debug)]
pub struct Outside {
    coordinator: Arc<Coordinator>,
    cell: Arc<Cell>,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.cell.core.lock().outside -= 1;
        // What it remembers of who had what does not fit what is committed any more.
        self.coordinator.forget(&self.cell.group);
        self.cell.joinable.notify_waiters();
    }
}

impl Core {
    /// Whether somebody from outside changes what is committed: nobody joins now.
    pub(crate) fn is_closed(&self) -> bool {
        self.outside > 0
    }

    /// Whether this cell was taken out of the table: look for another.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.is_forgotten
    }

    /// Takes a member in; [`Core::refresh`] comes after it.
    pub(crate) fn join(&mut self, joining: Joining, topics: BTreeSet<String>, now: Ms) {
        self.subscriptions.insert(Arc::clone(&joining.member), topics);
        let before = self.ordered.join(joining, now);
        self.topics_seen = 0;
        if let (Some(before), Some(work)) = (before, &mut self.work) {
            work.release_all(MemberKey(before));
        }
    }

    /// Takes a member out.
    pub(crate) fn leave(&mut self, member: &str) {
        if let (Some(key), Some(work)) = (self.ordered.leave(member), &mut self.work) {
            work.release_all(MemberKey(key));
        }
    }

    /// Whether a member subscribes to just these topics.
    pub(crate) fn subscribes(&self, member: &str, topics: &BTreeSet<String>) -> bool {
        self.subscriptions.get(member) == Some(topics)
    }

    /// Changes what a member subscribes to; [`Core::refresh`] comes after it.
    pub(crate) fn subscribe(&mut self, member: &str, topics: &BTreeSet<String>) {
        if let Some(known) = self.subscriptions.get_mut(member) {
            known.clone_from(topics);
            self.topics_seen = 0;
        }
    }

    /// Looks up the subscribed topics and their partitions again, where anything may have changed.
    pub(crate) fn refresh(&mut self, group: &str, log: &Log, coordinator: &Coordinator) {
        let change = *coordinator.topics.borrow();
        if std::mem::replace(&mut self.topics_seen, change) == change {
            return;
        }
        let mut topics: BTreeMap<&str, Option<TopicId>> = BTreeMap::new();
        let mut partitions: BTreeSet<PartitionId> = BTreeSet::new();
        for name in self.subscriptions.values().flatten() {
            topics.entry(name).or_insert_with(|| {
                let topic = log.topic(name)?;
                let id = topic.id();
                partitions.extend((0..topic.partition_count()).map(|index| PartitionId { topic: id, index }));
                Some(id)
            });
        }
        let of_member = |names: &BTreeSet<String>| {
            names
                .iter()
                .filter_map(|name| topics.get(&**name).copied().flatten())
                .collect()
        };
        let subscriptions = self
            .subscriptions
            .iter()
            .map(|(member, names)| (Arc::clone(member), of_member(names)))
            .collect();
        self.unsubscribed = topics.values().flatten().copied().collect();
        self.unsubscribed.retain(|topic| !has_begun(log, group, *topic));
        if let Some(work) = &mut self.work {
            work.refresh(log, group, &partitions);
            // Nobody is assigned any of them.
            self.ordered.refresh(&subscriptions, &BTreeSet::new(), |_| None);
            return;
        }
        let is_new = partitions.iter().any(|id| !self.ordered.knows(*id));
        let committed = if is_new {
            super::committed(log, group)
        } else {
            BTreeMap::new()
        };
        let offset = |id| {
            committed
                .get(&id)
                .map(|committed: &super::offsets::Committed| committed.offset)
        };
        self.ordered.refresh(&subscriptions, &partitions, offset);
    }
}
