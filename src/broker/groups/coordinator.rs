//! The groups with members: one cell each, behind a lock that is held for memory operations only.
//!
//! The first member's join makes a cell. The cell stays for a while after the last member has gone, so that a late
//! acknowledgement is still recognised; after that the group costs only its durable state.
//!
//! [`Coordinator::lock`] first ends expired sessions. Releasing the lock wakes the waiting polls that the state
//! machines named.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::live::{GroupState, GroupType, Live};
use super::members::{Joining, Members, Ms, Refused};
use super::ordered::partitions::Ordered;
use super::poll_id::PollId;
use super::shared::queue::MemberKey;
use super::shared::work::Work;
use super::subscriptions::has_begun;
use crate::broker::engine::{Log, Offset, PartitionId, TimestampMs, TopicId};

/// How long a group without members is remembered.
const REMEMBERED_MS: Ms = 600_000;
/// The most members of all groups together: each takes about five kilobytes.
const MAX_MEMBERS: usize = 100_000;

/// All groups with members.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// Identifies this process in `poll_id`s.
    life: u64,
    /// At least as large as any number a forgotten cell gave.
    numbers: AtomicU64,
    cells: Mutex<HashMap<Arc<str>, Arc<Cell>>>,
    members: AtomicUsize,
    /// Raised when a topic is created, changed or deleted.
    pub(super) topics: watch::Receiver<u64>,
    /// When the task that ends sessions runs next.
    looks_at: AtomicU64,
    /// Wakes that task, because a session may end sooner.
    pub(crate) sooner: Notify,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) group: Arc<str>,
    /// Notified when an outside change has ended.
    pub(crate) joinable: Notify,
    core: Mutex<Core>,
}

/// How a group shares the records, with its state.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Each partition is read by one member at a time.
    Ordered(Ordered),
    /// Each record is leased to one member at a time.
    Shared(Work),
}

/// The content of a cell.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) members: Members,
    pub(crate) kind: Kind,
    sessions: BTreeMap<Arc<str>, Session>,
    /// Topics that the group reads although its durable subscription lacks them: they replace deleted topics of the
    /// same names. The next poll saves them.
    pub(crate) unsubscribed: Vec<TopicId>,
    /// The number of the last topic change that the cell has seen.
    topics_seen: u64,
    /// Since when the group has no members.
    empty_since: Option<Ms>,
    /// Running changes of the committed offsets by clients that are not members: no member may join meanwhile.
    outside: usize,
    /// The table no longer holds this cell: look it up again.
    pub(crate) is_forgotten: bool,
    counted: usize,
}

/// The state of a member besides its place in [`Members`].
#[derive(Debug)]
struct Session {
    /// The names of the subscribed topics.
    topics: BTreeSet<String>,
    /// Wakes the member's waiting poll. Members of a shared group share it, because any of them may take a free record.
    wake: Arc<Notify>,
    /// Held from before a commit of the member begins until it has ended, so commits land in the order they begin.
    order: Arc<tokio::sync::Mutex<()>>,
}

/// A group's state, locked. Unlocking wakes the polls that have news, and updates the counts.
pub(crate) struct Locked<'a> {
    coordinator: &'a Coordinator,
    core: MutexGuard<'a, Core>,
    now: Ms,
}

impl Deref for Locked<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.core.wake();
        self.coordinator.count(&mut self.core, self.now);
    }
}

impl Coordinator {
    /// No groups. The numbers start above those of earlier processes, which gave fewer than a thousand numbers a
    /// millisecond: so an old epoch is never mistaken for a current one. The numbers fit JSON's exact range.
    pub(crate) fn new(now: TimestampMs, topics: watch::Receiver<u64>) -> Self {
        let first = u64::try_from(now.get()).unwrap_or(0).saturating_mul(1000);
        Self {
            life: RandomState::new().hash_one("life"),
            numbers: AtomicU64::new(first),
            cells: Mutex::default(),
            members: AtomicUsize::new(0),
            topics,
            looks_at: AtomicU64::new(u64::MAX),
            sooner: Notify::new(),
        }
    }

    /// A number that is hard to guess, for names.
    pub(crate) fn random() -> u64 {
        RandomState::new().hash_one("member")
    }

    /// Names this process in `poll_id`s.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Makes the task check sessions and leases no later than `at`.
    pub(crate) fn look_sooner(&self, at: Option<Ms>) {
        if at.is_some_and(|at| at < self.looks_at.load(Relaxed)) {
            self.sooner.notify_one();
        }
    }

    /// Whether there is room for another member.
    pub(crate) fn has_room(&self) -> bool {
        self.members.load(Relaxed) < MAX_MEMBERS
    }

    /// The cell of a group, if there is one.
    pub(crate) fn find(&self, group: &str) -> Option<Arc<Cell>> {
        self.cells.lock().get(group).cloned()
    }

    /// The cell of a group, created if there is none.
    pub(crate) fn cell(&self, group: &str) -> Arc<Cell> {
        let mut cells = self.cells.lock();
        if let Some(cell) = cells.get(group) {
            return Arc::clone(cell);
        }
        let group: Arc<str> = group.into();
        let core = Core {
            members: Members::new(self.life, self.numbers.load(Relaxed)),
            kind: Kind::Ordered(Ordered::default()),
            sessions: BTreeMap::new(),
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

    /// Forgets a group without members, because its committed offsets change from outside.
    pub(crate) fn forget(&self, group: &str) {
        let mut cells = self.cells.lock();
        if let Some(cell) = cells.get(group).cloned() {
            self.forget_cell(&mut cells, &cell, &mut cell.core.lock());
        }
    }

    /// The same, with the locks held. Does nothing while the group has members, or another change from outside runs.
    fn forget_cell(&self, cells: &mut HashMap<Arc<str>, Arc<Cell>>, cell: &Cell, core: &mut Core) {
        if core.members.is_empty() && core.outside == 0 && !core.is_forgotten {
            core.is_forgotten = true;
            self.numbers.fetch_max(core.members.last_number(), Relaxed);
            cells.remove(&cell.group);
        }
    }

    /// When the group last had members: now, or when the last one left. `None` if that is no longer known.
    pub(crate) fn had_members(&self, group: &str, now: Ms) -> Option<Ms> {
        let cell = self.find(group)?;
        let core = self.lock(&cell, now);
        Some(core.empty_since.unwrap_or(now))
    }

    /// Begins a change of the committed offsets from outside the group. No member joins until
    /// [`Coordinator::end_outside`], so no member starts from old offsets. `None`: the group has members, or a former
    /// member's commit is still running.
    pub(crate) fn begin_outside(&self, group: &str, now: Ms) -> Option<Arc<Cell>> {
        loop {
            let cell = self.cell(group);
            let mut core = self.lock(&cell, now);
            if core.is_forgotten {
                continue;
            }
            if !core.members.is_empty() || !core.is_idle() {
                return None;
            }
            core.outside += 1;
            drop(core);
            return Some(cell);
        }
    }

    /// Ends a change that [`Coordinator::begin_outside`] began.
    pub(crate) fn end_outside(&self, cell: &Cell) {
        {
            let mut cells = self.cells.lock();
            let mut core = cell.core.lock();
            core.outside -= 1;
            // The cell's memory of past deliveries no longer matches the committed offsets: nobody may join it in between.
            self.forget_cell(&mut cells, cell, &mut core);
        }
        cell.joinable.notify_waiters();
    }

    /// The group's members and partitions now; `None` if it has no members.
    pub(crate) fn live(&self, group: &str) -> Option<Live> {
        let cell = self.find(group)?;
        let core = cell.core.lock();
        if core.members.is_empty() {
            return None;
        }
        Some(Live {
            state: core.state(),
            kind: core.group_type(),
            members: core.members.len(),
            partitions: match &core.kind {
                Kind::Shared(work) => work.queues.keys().map(|id| (*id, None)).collect(),
                Kind::Ordered(ordered) => ordered
                    .partitions()
                    .map(|(id, owner)| (id, owner.cloned()))
                    .collect(),
            },
        })
    }

    /// The group's state, after its expired sessions are ended.
    pub(crate) fn lock<'a>(&'a self, cell: &'a Cell, now: Ms) -> Locked<'a> {
        let mut core = cell.core.lock();
        for member in core.members.expired(now) {
            core.leave(&member);
            tracing::info!(
                group = &*cell.group,
                member = &*member,
                "a member sent no request within its session timeout: its partitions go to others"
            );
        }
        Locked {
            coordinator: self,
            core,
            now,
        }
    }

    /// Updates the counts after members joined, left or sent a request.
    fn count(&self, core: &mut Core, now: Ms) {
        self.look_sooner(core.members.next_deadline());
        let count = core.members.len();
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

    /// Ends expired sessions and leases, and forgets groups that have long been empty. Returns when to run next, and
    /// the shared groups that have something to write.
    pub(crate) fn tick(&self, now: Ms) -> (Option<Ms>, Vec<Arc<Cell>>) {
        let cells: Vec<Arc<Cell>> = self.cells.lock().values().cloned().collect();
        let mut next: Option<Ms> = None;
        let mut busy = Vec::new();
        for cell in cells {
            let mut core = self.lock(&cell, now);
            let mut deadline = core.members.next_deadline();
            if let Kind::Shared(work) = &mut core.kind {
                work.expire(now);
                if work.is_due(now) || !work.unsaved().is_empty() {
                    busy.push(Arc::clone(&cell));
                }
                let leases = work.next_deadline().filter(|at| *at > now);
                deadline = deadline.into_iter().chain(leases).min();
            }
            let is_idle = core.is_idle() && !core.is_closed();
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

impl Core {
    /// Whether a change from outside is running: no member may join.
    pub(crate) fn is_closed(&self) -> bool {
        self.outside > 0
    }

    /// Whether no write of the group is on its way to the log.
    fn is_idle(&self) -> bool {
        match &self.kind {
            Kind::Ordered(ordered) => !ordered.is_committing(),
            Kind::Shared(work) => work.is_idle(),
        }
    }

    /// How the group shares the records.
    pub(crate) fn group_type(&self) -> GroupType {
        match self.kind {
            Kind::Ordered(_) => GroupType::Ordered,
            Kind::Shared(_) => GroupType::Shared,
        }
    }

    /// The state of its members.
    pub(crate) fn state(&self) -> GroupState {
        match &self.kind {
            _ if self.members.is_empty() => GroupState::Empty,
            Kind::Ordered(ordered) if ordered.is_rebalancing() => GroupState::Rebalancing,
            Kind::Ordered(_) | Kind::Shared(_) => GroupState::Stable,
        }
    }

    /// The state of an ordered group.
    pub(crate) fn ordered(&mut self) -> Option<(&mut Ordered, &mut Members)> {
        match &mut self.kind {
            Kind::Ordered(ordered) => Some((ordered, &mut self.members)),
            Kind::Shared(_) => None,
        }
    }

    /// The state of a shared group.
    pub(crate) fn work(&mut self) -> Option<&mut Work> {
        match &mut self.kind {
            Kind::Ordered(_) => None,
            Kind::Shared(work) => Some(work),
        }
    }

    /// Wakes the polls that have news.
    fn wake(&mut self) {
        if let Kind::Shared(work) = &mut self.kind
            && work.take_freed()
            && let Some(session) = self.sessions.values().next()
        {
            session.wake.notify_waiters();
        }
        for member in self.members.take_woken() {
            if let Some(session) = self.sessions.get(&member) {
                session.wake.notify_waiters();
            }
        }
    }

    /// Adds a member; call [`Core::refresh`] next.
    pub(crate) fn join(&mut self, joining: Joining, topics: BTreeSet<String>, now: Ms) {
        let name = Arc::clone(&joining.member);
        let before = self.members.join(joining, now);
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.join(&name),
            Kind::Shared(work) => {
                if let Some(before) = before {
                    work.release_all(MemberKey(before));
                }
            }
        }
        self.topics_seen = 0;
        if let Some(session) = self.sessions.get_mut(&name) {
            session.topics = topics;
            return;
        }
        let common = match self.kind {
            Kind::Ordered(_) => None,
            Kind::Shared(_) => self.sessions.values().next(),
        };
        let session = Session {
            topics,
            wake: common
                .map(|session| Arc::clone(&session.wake))
                .unwrap_or_default(),
            order: Arc::default(),
        };
        self.sessions.insert(name, session);
    }

    /// The epoch and assignment for a member's answer; a shared group assigns nothing.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub(crate) fn tell(&mut self, member: &str) -> Result<(u64, Vec<PartitionId>), Refused> {
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.tell(&mut self.members, member),
            Kind::Shared(_) => {
                let member = self.members.get(member).ok_or(Refused::Unknown)?;
                Ok((member.epoch, Vec::new()))
            }
        }
    }

    /// Begins a poll. Returns its token and the commits its `ack` requests; leases are acknowledged elsewhere.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub(crate) fn begin_poll(
        &mut self,
        member: &str,
        ack: Option<&PollId>,
        now: Ms,
    ) -> Result<(u64, Vec<(PartitionId, Offset)>), Refused> {
        let token = self.members.begin_poll(member, now)?;
        Ok((token, self.acknowledge(member, ack)))
    }

    /// Begins the commits that an `ack` requests, in an ordered group.
    pub(crate) fn acknowledge(&mut self, member: &str, ack: Option<&PollId>) -> Vec<(PartitionId, Offset)> {
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.acknowledge(&self.members, member, ack),
            Kind::Shared(_) => Vec::new(),
        }
    }

    /// Removes a member: its partitions or leases go to others.
    pub(crate) fn leave(&mut self, member: &str) {
        let Some(key) = self.members.leave(member) else {
            return;
        };
        if let Some(session) = self.sessions.remove(member) {
            session.wake.notify_waiters();
        }
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.leave(&mut self.members, member),
            Kind::Shared(work) => work.release_all(MemberKey(key)),
        }
    }

    /// Wakes a member's waiting poll.
    pub(crate) fn wake_of(&self, member: &str) -> Option<Arc<Notify>> {
        self.sessions.get(member).map(|session| Arc::clone(&session.wake))
    }

    /// The lock that orders a member's commits.
    pub(crate) fn order_of(&self, member: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.sessions
            .get(member)
            .map(|session| Arc::clone(&session.order))
    }

    /// Whether a member subscribes to exactly these topics.
    pub(crate) fn subscribes(&self, member: &str, topics: &BTreeSet<String>) -> bool {
        self.sessions
            .get(member)
            .is_some_and(|session| session.topics == *topics)
    }

    /// Changes a member's subscription; call [`Core::refresh`] next.
    pub(crate) fn subscribe(&mut self, member: &str, topics: &BTreeSet<String>) {
        if let Some(session) = self.sessions.get_mut(member) {
            session.topics.clone_from(topics);
            self.topics_seen = 0;
        }
    }

    /// Looks up the subscribed topics and their partitions again, if they may have changed.
    pub(crate) fn refresh(&mut self, group: &str, log: &Log, coordinator: &Coordinator) {
        let change = *coordinator.topics.borrow();
        if std::mem::replace(&mut self.topics_seen, change) == change {
            return;
        }
        let mut topics: BTreeMap<&str, Option<TopicId>> = BTreeMap::new();
        let mut partitions: BTreeSet<PartitionId> = BTreeSet::new();
        for name in self.sessions.values().flat_map(|session| &session.topics) {
            topics.entry(name).or_insert_with(|| {
                let topic = log.topic(name)?;
                let id = topic.id();
                partitions.extend((0..topic.partition_count()).map(|index| PartitionId::new(id, index)));
                Some(id)
            });
        }
        for (name, session) in &self.sessions {
            if let Some(member) = self.members.get_mut(name) {
                let ids = session.topics.iter();
                member.topics = ids
                    .filter_map(|name| topics.get(&**name).copied().flatten())
                    .collect();
            }
        }
        self.unsubscribed = topics.values().flatten().copied().collect();
        self.unsubscribed.retain(|topic| !has_begun(log, group, *topic));
        match &mut self.kind {
            Kind::Shared(work) => work.refresh(log, group, &partitions),
            Kind::Ordered(ordered) => {
                let is_new = partitions.iter().any(|id| !ordered.knows(*id));
                let committed = if is_new {
                    super::committed(log, group)
                } else {
                    BTreeMap::new()
                };
                let offset = |id| {
                    let committed: Option<&super::offsets::Committed> = committed.get(&id);
                    committed.map(|committed| committed.offset)
                };
                ordered.refresh(&mut self.members, &partitions, offset);
            }
        }
    }
}
