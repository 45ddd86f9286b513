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
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot, watch};

use super::classic::rebalance::{Classic, Phase};
use super::classic::{Answer, CallNumber, MAX_SAID_BYTES, stored, views};
use super::consumers::regex::TopicRegex;
use super::live::{GroupState, GroupType, Live};
use super::members::{Asking, Begun, Joining, Members, Ms, Refused};
use super::ordered::partitions::{Acknowledged, Ordered};
use super::patterns::{Candidates, is_pattern};
use super::poll_id::PollId;
use super::processes::AnswerNumber;
use super::shared::queue::Now;
use super::shared::settings::GroupValue;
use super::shared::work::Work;
use super::subscriptions::{self, has_begun};
use crate::broker::caller::Who;
use crate::broker::engine::{Log, Offset, PartitionId, TimestampMs, TopicId};
use crate::broker::filter::Filter;
use crate::broker::rights::Right;

/// How long a group without members is remembered.
const REMEMBERED_MS: Ms = 600_000;
/// The most members of all groups together: each takes about five kilobytes.
const MAX_MEMBERS: usize = 100_000;
/// The most memory, in bytes, of what the members of all groups together subscribe to.
const MAX_SUBSCRIBED_BYTES: usize = 512 << 20;

/// The most ids that are promised in all groups together; they are not members yet.
const MAX_PROMISED: usize = 20_000;
/// How soon a group is forgotten that nobody came to.
const BLANK_MS: Ms = 1_000;

/// All groups with members.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// Identifies this process in `poll_id`s.
    life: u64,
    /// The data directory, as each `poll_id` has it.
    directory: u64,
    /// At least as large as any number a forgotten cell gave.
    numbers: AtomicU64,
    cells: Mutex<HashMap<Arc<str>, Arc<Cell>>>,
    members: AtomicUsize,
    /// The ids that classic groups have promised.
    promised: AtomicUsize,
    /// What classic members have said of themselves and are assigned, in bytes.
    said_bytes: AtomicUsize,
    /// The memory of what they subscribe to, in bytes.
    subscribed: AtomicUsize,
    /// The unsettled records that the queues of all groups remember.
    unsettled: AtomicUsize,
    max_unsettled: usize,
    /// Raised when a topic is created, changed or deleted.
    pub(super) topics: watch::Receiver<u64>,
    /// When the task that ends sessions runs next.
    looks_at: AtomicU64,
    /// The earliest time that [`Coordinator::look_sooner`] was asked for since that task began to run.
    wanted_at: AtomicU64,
    /// Wakes that task, because a session may end sooner.
    pub(crate) sooner: Notify,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) group: Arc<str>,
    /// Notified when an outside change has ended.
    pub(crate) joinable: Notify,
    /// Notified when a write of the group has ended.
    pub(crate) written: Notify,
    /// Held by the poll that reads records of a shared group before they are leased.
    pub(crate) looking: tokio::sync::Mutex<()>,
    core: Mutex<Core>,
}

/// How a group shares the records, with its state.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Each partition is read by one member at a time.
    Ordered(Ordered),
    /// Each record is leased to one member at a time.
    Shared(Work),
    /// The members assign the partitions to each other.
    Classic(Box<Classic>),
}

/// The content of a cell.
#[derive(Debug)]
pub(crate) struct Core {
    /// The members of an ordered or shared group. Those of a classic one are in its kind.
    pub(crate) members: Members,
    pub(crate) kind: Kind,
    /// The calls of classic members that wait for an answer.
    pub(crate) waiting: HashMap<CallNumber, oneshot::Sender<Answer>>,
    /// Of an ordered group, the records that it gets; open: all. A shared group has it in its settings.
    pub(crate) filter: Arc<Filter>,
    sessions: BTreeMap<Arc<str>, Session>,
    /// Topics that the group reads although its durable subscription lacks them. The next poll saves them.
    pub(crate) unsubscribed: Vec<TopicId>,
    /// The number of the last topic change that the cell has seen.
    topics_seen: u64,
    /// Since when the group has no members.
    empty_since: Option<Ms>,
    /// Running changes of the committed offsets by clients that are not members: no member may join meanwhile.
    outside: usize,
    /// Those of them that began with live members: see [`Coordinator::begin_closing`].
    closing: usize,
    /// One of them has changed what the memory of the group does not know.
    is_stale: bool,
    /// The table no longer holds this cell: look it up again.
    pub(crate) is_forgotten: bool,
    counted: usize,
    counted_promised: usize,
    counted_said_bytes: usize,
    /// The memory of what the members subscribe to, in bytes.
    subscribed: usize,
    counted_subscribed: usize,
    counted_unsettled: usize,
    /// A classic member has said something, or was assigned something, since that was counted.
    pub(crate) has_said_more: bool,
}

/// The state of a member besides its place in [`Members`].
#[derive(Debug)]
struct Session {
    /// The names of the subscribed topics, and patterns.
    topics: BTreeSet<String>,
    /// The memory of the names, in bytes, as of the last [`Core::refresh`].
    bytes: usize,
    /// The topics that had these names when the member subscribed. A topic made later under the name of a deleted one is
    /// not read: the member must subscribe again.
    bound: BTreeMap<String, Option<TopicId>>,
    /// A subscribed topic that is deleted.
    deleted: Option<String>,
    /// It fetches by itself: its topics are names alone, and need not exist.
    is_consumer: bool,
    /// It also reads the topics whose names match.
    regex: Option<Arc<TopicRegex>>,
    /// For whom it polls: it reads only what they may read.
    who: Who,
    /// Wakes the member's waiting poll. Members of a shared group share it, because any of them may take a free record.
    wake: Arc<Notify>,
    /// Held from before a commit of the member begins until it has ended, so commits land in the order they begin.
    order: Arc<tokio::sync::Mutex<()>>,
}

impl Session {
    fn subscribe(&mut self, topics: BTreeSet<String>) {
        self.topics = topics;
        (self.is_consumer, self.regex) = (false, None);
        self.bound.clear();
    }

    /// Finds the topics of new names, and notes deleted topics.
    fn bind(&mut self, log: &Log) {
        self.deleted = None;
        // Each name is also in `bound`.
        self.bytes = self.topics.iter().map(|name| 2 * name.len() + 128).sum();
        if self.is_consumer {
            return self.follow(log);
        }
        for name in self.topics.iter().filter(|name| !is_pattern(name)) {
            let find = || log.topic(name).map(|topic| topic.id());
            let bound = self.bound.entry(name.clone()).or_insert_with(find);
            *bound = bound.filter(|id| log.topic_by_id(*id).is_some());
            if bound.is_none() {
                self.deleted.get_or_insert_with(|| name.clone());
            }
        }
    }
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
    pub(crate) fn new(
        directory: u64,
        now: TimestampMs,
        topics: watch::Receiver<u64>,
        max_unsettled: usize,
    ) -> Self {
        let first = u64::try_from(now.get()).unwrap_or(0).saturating_mul(1000);
        Self {
            life: RandomState::new().hash_one("life"),
            directory,
            numbers: AtomicU64::new(first),
            cells: Mutex::default(),
            members: AtomicUsize::new(0),
            promised: AtomicUsize::new(0),
            said_bytes: AtomicUsize::new(0),
            subscribed: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
            max_unsettled,
            topics,
            looks_at: AtomicU64::new(u64::MAX),
            wanted_at: AtomicU64::new(u64::MAX),
            sooner: Notify::new(),
        }
    }

    /// A number that is hard to guess, for names.
    pub(crate) fn random() -> u64 {
        RandomState::new().hash_one("member")
    }

    /// Names the data directory in `poll_id`s.
    pub(crate) fn directory(&self) -> u64 {
        self.directory
    }

    /// Names this process in `poll_id`s.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Makes the task check sessions and leases no later than `at`.
    pub(crate) fn look_sooner(&self, at: Option<Ms>) {
        let Some(at) = at else { return };
        // In this order, so that a task that is about to wait sees the one, or this the other.
        self.wanted_at.fetch_min(at, SeqCst);
        if at < self.looks_at.load(SeqCst) {
            self.sooner.notify_one();
        }
    }

    /// Whether there is room for another member.
    pub(crate) fn has_room(&self) -> bool {
        self.members.load(Relaxed) < MAX_MEMBERS && self.may_subscribe()
    }

    /// Whether members may subscribe to more.
    pub(crate) fn may_subscribe(&self) -> bool {
        self.subscribed.load(Relaxed) < MAX_SUBSCRIBED_BYTES
    }

    /// Whether what classic members say of themselves finds room.
    pub(crate) fn has_memory(&self) -> bool {
        self.said_bytes.load(Relaxed) < MAX_SAID_BYTES
    }

    /// Whether another id may be promised to a member that is to join with it.
    pub(crate) fn may_promise(&self) -> bool {
        self.promised.load(Relaxed) < MAX_PROMISED
    }

    /// How many records queues may still look at before the server remembers as many unsettled ones as allowed.
    pub(crate) fn room(&self) -> usize {
        self.max_unsettled.saturating_sub(self.unsettled.load(Relaxed))
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
            waiting: HashMap::new(),
            filter: Arc::default(),
            sessions: BTreeMap::new(),
            unsubscribed: Vec::new(),
            topics_seen: 0,
            empty_since: None,
            outside: 0,
            closing: 0,
            is_stale: false,
            is_forgotten: false,
            counted: 0,
            counted_promised: 0,
            counted_said_bytes: 0,
            subscribed: 0,
            counted_subscribed: 0,
            counted_unsettled: 0,
            has_said_more: false,
        };
        let cell = Arc::new(Cell {
            group: Arc::clone(&group),
            joinable: Notify::new(),
            written: Notify::new(),
            looking: tokio::sync::Mutex::new(()),
            core: Mutex::new(core),
        });
        cells.insert(group, Arc::clone(&cell));
        cell
    }

    /// How the members of a group share the records; `None` if it has no members.
    pub(crate) fn kind_of_members(&self, group: &str) -> Option<GroupType> {
        let cell = self.find(group)?;
        let core = cell.core.lock();
        (core.member_count() > 0).then(|| core.group_type())
    }

    /// The groups that are classic, as they were stored, with their members.
    pub(crate) fn load_classic(&self, log: &Log, now: Ms) {
        for group in stored::groups(log) {
            match stored::load(log, &group) {
                Ok(Some(generation)) if !generation.members.is_empty() => {
                    let cell = self.cell(&group);
                    let kind = Kind::Classic(Box::new(Classic::load(generation, now)));
                    self.lock(&cell, now).become_kind(kind);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(group, %error, "the members of this group have to join again");
                }
            }
        }
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
        if core.member_count() == 0 && core.outside == 0 && !core.is_forgotten {
            core.is_forgotten = true;
            self.unsettled.fetch_sub(core.counted_unsettled, Relaxed);
            recount(&self.promised, &mut core.counted_promised, 0);
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
            if core.member_count() > 0 || !core.is_idle() {
                return None;
            }
            core.outside += 1;
            drop(core);
            return Some(cell);
        }
    }

    /// Begins a change of the committed offsets of a group that may have members. From now on no member joins, and no
    /// settle begins; a settle that has begun goes on. Returns the locks that order the members' commits, always in the
    /// same order: the caller takes all of them, and then waits until the group is [idle](Core::is_idle).
    pub(crate) fn begin_closing(
        &self,
        group: &str,
        now: Ms,
    ) -> (Arc<Cell>, Vec<Arc<tokio::sync::Mutex<()>>>) {
        loop {
            let cell = self.cell(group);
            let mut core = self.lock(&cell, now);
            if core.is_forgotten {
                continue;
            }
            core.outside += 1;
            core.closing += 1;
            // Members of a queue settle; they commit nothing.
            let sessions = core
                .sessions
                .values()
                .filter(|_| core.group_type() == GroupType::Ordered);
            let orders = sessions.map(|session| Arc::clone(&session.order)).collect();
            drop(core);
            return (cell, orders);
        }
    }

    /// Ends a change that [`Coordinator::begin_outside`] began, or [`Coordinator::begin_closing`]. Unless the group's memory
    /// is in step with what was changed, it is forgotten after the last of them.
    pub(crate) fn end_outside(&self, cell: &Cell, is_closing: bool, is_in_step: bool) {
        {
            let mut cells = self.cells.lock();
            let mut core = cell.core.lock();
            core.outside -= 1;
            core.closing -= usize::from(is_closing);
            core.is_stale |= !is_in_step;
            if core.is_stale {
                // The cell's memory of past deliveries no longer matches the committed offsets: nobody may join it in
                // between.
                self.forget_cell(&mut cells, cell, &mut core);
            }
        }
        cell.joinable.notify_waiters();
    }

    /// The group's members and partitions now; `None` if it has no members.
    pub(crate) fn live(&self, group: &str, log: &Log) -> Option<Live> {
        let cell = self.find(group)?;
        let core = cell.core.lock();
        if core.member_count() == 0 {
            return None;
        }
        Some(Live {
            state: core.state(),
            kind: core.group_type(),
            members: core.member_count(),
            partitions: match &core.kind {
                Kind::Classic(classic) => views::partitions(classic, log),
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
            core.end_session(&member);
            tracing::info!(
                group = &*cell.group,
                member = &*member,
                "a member sent no request within its session timeout, or did not give its partitions up in time"
            );
        }
        if let Kind::Classic(classic) = &mut core.kind {
            for member in classic.advance(now) {
                tracing::info!(
                    group = &*cell.group,
                    member = &*member,
                    "a member sent no request within its session timeout, or did not ask for its assignment"
                );
            }
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
        if let Kind::Classic(classic) = &core.kind {
            let save = Some(now).filter(|_| classic.wants_save());
            self.look_sooner(save.or(classic.next_deadline()));
        }
        let count = core.member_count();
        let (promised, is_blank) = match &core.kind {
            Kind::Classic(classic) if !core.is_forgotten => (classic.promised(), classic.is_blank()),
            Kind::Classic(_) | Kind::Ordered(_) | Kind::Shared(_) => (0, false),
        };
        if is_blank {
            self.look_sooner(Some(now + BLANK_MS));
        }
        recount(&self.promised, &mut core.counted_promised, promised);
        if count != core.counted || std::mem::take(&mut core.has_said_more) {
            let said = match &core.kind {
                Kind::Classic(classic) => classic.said_bytes(),
                Kind::Ordered(_) | Kind::Shared(_) => 0,
            };
            recount(&self.said_bytes, &mut core.counted_said_bytes, said);
        }
        recount(&self.members, &mut core.counted, count);
        let subscribed = core.subscribed;
        recount(&self.subscribed, &mut core.counted_subscribed, subscribed);
        if let Kind::Shared(work) = &mut core.kind
            && let Some(unsettled) = work.take_unsettled()
        {
            recount(&self.unsettled, &mut core.counted_unsettled, unsettled);
        }
        if count > 0 {
            core.empty_since = None;
        } else if core.empty_since.is_none() {
            core.empty_since = Some(now);
        }
    }

    /// Ends expired sessions and leases, and forgets groups that have long been empty. Returns when to run next, and
    /// the groups that have something to write.
    pub(crate) fn tick(&self, at: Now) -> (Option<Ms>, Vec<Arc<Cell>>) {
        let now = at.moment.0;
        let cells: Vec<Arc<Cell>> = self.cells.lock().values().cloned().collect();
        let mut next: Option<Ms> = None;
        let mut busy = Vec::new();
        self.wanted_at.store(u64::MAX, SeqCst);
        for cell in cells {
            let mut core = self.lock(&cell, now);
            let mut deadline = core.members.next_deadline();
            let Core { kind, members, .. } = &mut *core;
            if let Kind::Ordered(ordered) = kind
                && let Some(due) = ordered.passed_due()
            {
                if due <= now {
                    busy.push(Arc::clone(&cell));
                } else {
                    deadline = deadline.into_iter().chain([due]).min();
                }
            }
            if let Kind::Classic(classic) = kind {
                deadline = classic.next_deadline();
                if classic.wants_save() {
                    busy.push(Arc::clone(&cell));
                }
            }
            if let Kind::Shared(work) = kind {
                work.expire(at);
                work.forget_members(|name| members.get(name).is_some());
                if work.is_due(now) || !work.unsaved().is_empty() {
                    busy.push(Arc::clone(&cell));
                }
                let leases = work.next_deadline(at).filter(|due| *due > now);
                deadline = deadline.into_iter().chain(leases).min();
            }
            let is_idle = core.is_idle() && !core.is_closed();
            // A queue stays in memory: what is delayed or leased in it shows in the group's lag.
            let forget_at = match &core.kind {
                Kind::Classic(classic) if classic.is_blank() => {
                    core.empty_since.map(|since| since + BLANK_MS)
                }
                Kind::Ordered(_) | Kind::Classic(_) => core.empty_since.map(|since| since + REMEMBERED_MS),
                Kind::Shared(_) => None,
            };
            drop(core);
            if forget_at.is_some_and(|at| at <= now) && is_idle {
                self.forget(&cell.group);
            } else {
                next = next.into_iter().chain(deadline).chain(forget_at).min();
            }
        }
        self.looks_at.store(next.unwrap_or(u64::MAX), SeqCst);
        // A group may have asked after it was looked at.
        let wanted = Some(self.wanted_at.load(SeqCst)).filter(|wanted| *wanted < u64::MAX);
        next = next.into_iter().chain(wanted).min();
        self.looks_at.store(next.unwrap_or(u64::MAX), SeqCst);
        (next, busy)
    }
}

/// Counts a part of a sum anew.
fn recount(sum: &AtomicUsize, counted: &mut usize, now: usize) {
    if now != *counted {
        sum.fetch_add(now, Relaxed);
        sum.fetch_sub(*counted, Relaxed);
        *counted = now;
    }
}

impl Core {
    /// Whether a change from outside is running: no member may join.
    pub(crate) fn is_closed(&self) -> bool {
        self.outside > 0
    }

    /// Whether what members settle may still be written: no change from outside keeps them out, or it waits for that.
    pub(crate) fn is_writable(&self) -> bool {
        !self.is_forgotten && (self.outside == 0 || self.closing > 0)
    }

    /// Whether no write of the group is on its way to the log.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.kind {
            Kind::Ordered(ordered) => !ordered.is_committing(),
            Kind::Shared(work) => work.is_idle(),
            Kind::Classic(classic) => classic.is_idle(),
        }
    }

    /// How many members it has.
    pub(crate) fn member_count(&self) -> usize {
        match &self.kind {
            Kind::Classic(classic) => classic.members().len(),
            Kind::Ordered(_) | Kind::Shared(_) => self.members.len(),
        }
    }

    /// Makes the group another kind; it has no members.
    pub(crate) fn become_kind(&mut self, kind: Kind) {
        self.kind = kind;
        self.waiting.clear();
        self.unsubscribed.clear();
        self.topics_seen = 0;
    }

    /// The state of a classic group.
    pub(crate) fn classic(&mut self) -> Option<&mut Classic> {
        match &mut self.kind {
            Kind::Classic(classic) => Some(classic),
            Kind::Ordered(_) | Kind::Shared(_) => None,
        }
    }

    /// How the group shares the records.
    pub(crate) fn group_type(&self) -> GroupType {
        match self.kind {
            Kind::Ordered(_) => GroupType::Ordered,
            Kind::Shared(_) => GroupType::Shared,
            Kind::Classic(_) => GroupType::Classic,
        }
    }

    /// The state of its members.
    pub(crate) fn state(&self) -> GroupState {
        match &self.kind {
            _ if self.member_count() == 0 => GroupState::Empty,
            Kind::Ordered(ordered) if ordered.is_rebalancing() => GroupState::Rebalancing,
            Kind::Classic(classic) if classic.phase() != Phase::Stable => GroupState::Rebalancing,
            Kind::Ordered(_) | Kind::Shared(_) | Kind::Classic(_) => GroupState::Stable,
        }
    }

    /// The state of an ordered group.
    pub(crate) fn ordered(&mut self) -> Option<(&mut Ordered, &mut Members)> {
        match &mut self.kind {
            Kind::Ordered(ordered) => Some((ordered, &mut self.members)),
            Kind::Shared(_) | Kind::Classic(_) => None,
        }
    }

    /// Applies the group's settings, after they are durable.
    pub(crate) fn apply(&mut self, value: &GroupValue) {
        match (value, &mut self.kind) {
            (GroupValue::Shared(settings), Kind::Shared(work)) => work.apply(settings.clone()),
            // An equal filter is kept as it is: what was read with it still counts.
            (GroupValue::Ordered(filter), Kind::Ordered(_)) if self.filter != *filter => {
                self.filter = Arc::clone(filter);
            }
            _ => {}
        }
    }

    /// The state of a shared group.
    pub(crate) fn work(&mut self) -> Option<&mut Work> {
        match &mut self.kind {
            Kind::Ordered(_) | Kind::Classic(_) => None,
            Kind::Shared(work) => Some(work),
        }
    }

    /// Wakes the polls that have news, and answers calls that wait.
    fn wake(&mut self) {
        if let Kind::Classic(classic) = &mut self.kind {
            for (call, answer) in classic.take_answers() {
                if let Some(waiting) = self.waiting.remove(&call) {
                    // The caller may have gone away.
                    let _ = waiting.send(answer);
                }
            }
        }
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
        self.members.join(joining, now);
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.join(&name),
            // Leases of an earlier session of this name are still its own.
            Kind::Shared(work) => drop(work.member(&name)),
            Kind::Classic(_) => debug_assert!(false, "members of a classic group join in another way"),
        }
        self.topics_seen = 0;
        if let Some(session) = self.sessions.get_mut(&name) {
            session.subscribe(topics);
            return;
        }
        let common = match self.kind {
            Kind::Ordered(_) | Kind::Classic(_) => None,
            Kind::Shared(_) => self.sessions.values().next(),
        };
        let session = Session {
            topics,
            bytes: 0,
            bound: BTreeMap::new(),
            deleted: None,
            is_consumer: false,
            regex: None,
            who: Who::Anyone,
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
            Kind::Shared(_) | Kind::Classic(_) => {
                let member = self.members.get(member).ok_or(Refused::Unknown)?;
                Ok((member.epoch, Vec::new()))
            }
        }
    }

    /// How a poll of this group identifies itself.
    fn asking<'a>(&self, ack: Option<&PollId>, instance: Option<&'a str>) -> Asking<'a> {
        Asking {
            ack: ack.map(|ack| AnswerNumber::of(ack, self.members.life)),
            instance,
            is_ordered: matches!(self.kind, Kind::Ordered(_)),
        }
    }

    /// Whether a poll may begin, or a process join.
    ///
    /// # Errors
    /// Those of [`Members::check_poll_of`].
    pub(crate) fn check_poll_of(
        &self,
        member: &str,
        ack: Option<&PollId>,
        instance: Option<&str>,
    ) -> Result<(), Refused> {
        self.check_polls(member)?;
        self.members.check_poll_of(member, self.asking(ack, instance))
    }

    /// In an ordered group, the partitions in which outputs must not be stored with this `ack`.
    pub(crate) fn unfit_for_outputs(&self, member: &str, ack: Option<&PollId>) -> Vec<PartitionId> {
        let (Kind::Ordered(ordered), Some(ack)) = (&self.kind, ack) else {
            return Vec::new();
        };
        ordered.unfit_for_outputs(&self.members, member, ack)
    }

    /// Begins a poll. Returns it and what its `ack` leads to; leases are acknowledged elsewhere.
    ///
    /// # Errors
    /// Those of [`Members::begin_poll`].
    pub(crate) fn begin_poll(
        &mut self,
        member: &str,
        ack: Option<&PollId>,
        instance: Option<&str>,
        now: Ms,
    ) -> Result<(Begun, Acknowledged), Refused> {
        self.check_polls(member)?;
        let asking = self.asking(ack, instance);
        let begun = self.members.begin_poll(member, asking, now)?;
        let acknowledged = match &mut self.kind {
            Kind::Ordered(ordered) => ordered.acknowledge(&mut self.members, member, ack, begun.is_repeated),
            Kind::Shared(_) | Kind::Classic(_) => Acknowledged::default(),
        };
        Ok((begun, acknowledged))
    }

    /// Begins the commits that the `ack` of a leaving member requests, in an ordered group.
    ///
    /// # Errors
    /// [`Refused::MemberSuperseded`]: a process that is no longer the member wants to leave.
    pub(crate) fn acknowledge(
        &mut self,
        member: &str,
        ack: Option<&PollId>,
    ) -> Result<Vec<(PartitionId, Offset)>, Refused> {
        if self.check_poll_of(member, ack, None) == Err(Refused::MemberSuperseded) {
            return Err(Refused::MemberSuperseded);
        }
        Ok(match &mut self.kind {
            Kind::Ordered(ordered) => {
                let acknowledged = ordered.acknowledge(&mut self.members, member, ack, false);
                acknowledged.commits
            }
            Kind::Shared(_) | Kind::Classic(_) => Vec::new(),
        })
    }

    /// Removes a member that leaves: its partitions or leases go to others.
    pub(crate) fn leave(&mut self, member: &str) {
        self.end_session(member);
        if let Kind::Shared(work) = &mut self.kind {
            work.leave(member);
        }
    }

    /// Removes a member: its partitions go to others. Its leases end when their time is over.
    fn end_session(&mut self, member: &str) {
        if self.members.leave(member).is_none() {
            return;
        }
        if let Some(session) = self.sessions.remove(member) {
            session.wake.notify_waiters();
            self.weigh();
        }
        if let Kind::Ordered(ordered) = &mut self.kind {
            ordered.leave(&mut self.members, member);
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
            session.subscribe(topics.clone());
            self.topics_seen = 0;
        }
    }

    /// Notes for whom a member joins or polls; call [`Core::refresh`] next.
    pub(crate) fn act_for(&mut self, member: &str, who: &Who) {
        if let Some(session) = self.sessions.get_mut(member)
            && !session.who.is_same(who)
        {
            session.who = who.clone();
            self.topics_seen = 0;
        }
    }

    /// The topics that a member subscribes to by name.
    pub(crate) fn named_topics_of(&self, member: &str) -> impl Iterator<Item = &String> {
        let topics = self.sessions.get(member).map(|session| &session.topics);
        topics.into_iter().flatten().filter(|name| !is_pattern(name))
    }

    /// A topic that a member subscribes to and that is deleted, as of the last [`Core::refresh`].
    pub(crate) fn deleted_topic_of(&self, member: &str) -> Option<&str> {
        self.sessions.get(member)?.deleted.as_deref()
    }

    /// Forgets everything about a topic that no member subscribes to. `false`: a member does, by this name or under
    /// another, or a write of a former member is still running.
    pub(crate) fn forget_topic(&mut self, name: &str, topic: Option<TopicId>) -> bool {
        let is_named = self
            .sessions
            .values()
            .any(|session| session.topics.contains(name));
        let is_named =
            is_named || matches!(&self.kind, Kind::Classic(classic) if views::subscribes(classic, name));
        let Some(topic) = topic else { return !is_named };
        let is_read = self
            .members
            .iter()
            .any(|(_, member)| member.topics.contains(&topic));
        if is_named || is_read {
            return false;
        }
        match &mut self.kind {
            Kind::Classic(_) => true,
            Kind::Ordered(ordered) => ordered.forget_topic(topic),
            Kind::Shared(work) => {
                let mut queues = work.queues.iter().filter(|(id, _)| id.topic == topic);
                if queues.any(|(_, queue)| queue.is_writing() || queue.is_settling()) {
                    return false;
                }
                work.queues.retain(|id, _| id.topic != topic);
                true
            }
        }
    }

    /// The topics that each subscribed pattern matches.
    fn matched(&self, log: &Log) -> BTreeMap<String, Vec<TopicId>> {
        let polling = self.sessions.values().filter(|session| !session.is_consumer);
        let subscribed = polling.flat_map(|session| &session.topics);
        let patterns: BTreeSet<&String> = subscribed.filter(|name| is_pattern(name)).collect();
        if patterns.is_empty() {
            return BTreeMap::new();
        }
        let candidates = Candidates::of(log);
        let matching = |text: &String| {
            let pattern = text.parse().ok()?;
            let ids = candidates.matching(&pattern).map(|topic| topic.id());
            Some((text.clone(), ids.collect()))
        };
        patterns.into_iter().filter_map(matching).collect()
    }

    /// Looks up the subscribed topics and their partitions again, if they may have changed.
    pub(crate) fn refresh(&mut self, group: &str, log: &Log, coordinator: &Coordinator) {
        let change = *coordinator.topics.borrow();
        if std::mem::replace(&mut self.topics_seen, change) == change || matches!(self.kind, Kind::Classic(_))
        {
            return;
        }
        let mut topics: BTreeMap<TopicId, u32> = BTreeMap::new();
        let (matched, by_regex) = (self.matched(log), self.matched_by_regex(log));
        for (name, session) in &mut self.sessions {
            session.bind(log);
            let mut read: BTreeSet<TopicId> = session.bound.values().flatten().copied().collect();
            let patterns = session.topics.iter().filter(|_| !session.is_consumer);
            let patterns = patterns.filter_map(|name| matched.get(name));
            read.extend(patterns.flatten());
            let regex = session.regex.as_ref();
            read.extend(
                regex
                    .and_then(|regex| by_regex.get(regex.text()))
                    .into_iter()
                    .flatten(),
            );
            if !session.who.is_same(&Who::Anyone) {
                read.retain(|id| {
                    let topic = log.topic_by_id(*id);
                    topic.is_some_and(|topic| session.who.may_topic(Right::Read, topic.name()))
                });
            }
            for id in &read {
                let count = || log.topic_by_id(*id).map_or(0, |topic| topic.partition_count());
                topics.entry(*id).or_insert_with(count);
            }
            if let Some(member) = self.members.get_mut(name) {
                member.topics = read;
            }
        }
        self.weigh();
        let partitions = topics.iter();
        let partitions =
            partitions.flat_map(|(id, count)| (0..*count).map(|index| PartitionId::new(*id, index)));
        let mut partitions: BTreeSet<PartitionId> = partitions.collect();
        self.unsubscribed = topics.into_keys().collect();
        self.unsubscribed.retain(|topic| !has_begun(log, group, *topic));
        match &mut self.kind {
            Kind::Classic(_) => {}
            Kind::Shared(work) => {
                // Unsettled records stay when members leave.
                for id in subscriptions::topics(log, group) {
                    let count = log.topic_by_id(id).map_or(0, |topic| topic.partition_count());
                    partitions.extend((0..count).map(|index| PartitionId::new(id, index)));
                }
                work.refresh(log, group, &partitions);
            }
            Kind::Ordered(ordered) => {
                // A member that no longer subscribes to a topic may still acknowledge what it was given of it.
                let in_hand = ordered.in_hand().filter(|id| log.topic_by_id(id.topic).is_some());
                partitions.extend(in_hand);
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

#[path = "consumer_cells.rs"]
pub(crate) mod consumers;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::groups::classic::{Denied, Joining as ClassicJoining, MAX_GROUP_MEMBERS};
    use crate::broker::groups::shared::queue::Moment;

    fn joining(fresh: &str) -> ClassicJoining {
        ClassicJoining {
            member: None,
            fresh: fresh.into(),
            instance: None,
            client_id: None,
            address: None,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), bytes::Bytes::new())],
            session_timeout: 6_000,
            rebalance_timeout: 6_000,
            needs_id: true,
            may_skip: false,
        }
    }

    #[test]
    fn a_classic_group_has_so_many_members() {
        let mut classic = Classic::default();
        for number in 0..=MAX_GROUP_MEMBERS {
            let joining = ClassicJoining {
                needs_id: false,
                ..joining(&number.to_string())
            };
            let joined = classic.join(&joining, 0);
            let is_full = matches!(joined, Err(Denied::Full));
            assert_eq!(is_full, number == MAX_GROUP_MEMBERS, "{number}: {joined:?}");
        }
    }

    #[test]
    fn a_group_that_nobody_came_to_is_forgotten() {
        let (_sender, topics) = watch::channel(0);
        let coordinator = Coordinator::new(1, TimestampMs(0), topics, 1000);
        let joining = joining("m");
        let cell = coordinator.cell("ghost");
        {
            let mut core = coordinator.lock(&cell, 0);
            core.become_kind(Kind::Classic(Box::default()));
            let denied = core.classic().expect("it is classic").join(&joining, 0);
            assert!(matches!(denied, Err(Denied::MemberIdRequired(_))), "{denied:?}");
        }
        assert_eq!(coordinator.promised.load(Relaxed), 1);
        let now = |at| Now {
            moment: Moment(at),
            wall: TimestampMs(0),
        };
        coordinator.tick(now(5_000));
        assert!(coordinator.find("ghost").is_some());
        coordinator.tick(now(6_001));
        assert_eq!(coordinator.promised.load(Relaxed), 0);
        coordinator.tick(now(7_002));
        assert!(
            coordinator.find("ghost").is_none(),
            "the promise is over, and nobody came"
        );
    }
}
