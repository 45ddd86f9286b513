//! The groups with members: one cell each, behind a lock that is held for memory operations only.
//!
//! The first member's join makes a cell. The cell stays for a while after the last member has gone, so that a late
//! acknowledgement is still recognised; after that the group costs only its durable state.
//!
//! [`Coordinator::lock`] first ends expired sessions. Releasing the lock wakes the waiting polls that the state
//! machines named.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::cell::{Cell, Core, Kind};
use super::classic::rebalance::Classic;
use super::classic::{MAX_SAID_BYTES, stored, views};
use super::live::{GroupType, Live};
use super::members::{Members, Ms};
use super::shared::queue::Now;
use crate::broker::engine::{Log, TimestampMs};

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
    pub(super) subscribed: AtomicUsize,
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

    /// The number of the last topic change.
    pub(crate) fn change(&self) -> u64 {
        *self.topics.borrow()
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

    /// Whether there is room for this member of the group: for one that is there already in any case.
    pub(crate) fn has_room_for(&self, group: &str, member: &str) -> bool {
        let is_there = |cell: Arc<Cell>| cell.core.lock().sessions.contains_key(member);
        self.has_room() || self.find(group).is_some_and(is_there)
    }

    /// Whether members may subscribe to more.
    pub(crate) fn may_subscribe(&self) -> bool {
        self.subscribed.load(Relaxed) < MAX_SUBSCRIBED_BYTES
    }

    /// Whether what classic members say of themselves finds room.
    pub(crate) fn has_memory(&self) -> bool {
        self.said_bytes.load(Relaxed) < MAX_SAID_BYTES
    }

    /// Whether those that are there already may say more than before, and be assigned more.
    pub(crate) fn has_memory_for_members(&self) -> bool {
        self.said_bytes.load(Relaxed) < 2 * MAX_SAID_BYTES
    }

    /// Lets others have said so much.
    #[cfg(test)]
    pub(crate) fn fill(&self, bytes: usize) {
        self.said_bytes.fetch_add(bytes, Relaxed);
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
        let members = Members::new(self.life, self.numbers.load(Relaxed));
        let cell = Arc::new(Cell::new(Arc::clone(&group), members));
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
            self.unsettled.fetch_sub(core.counted.unsettled, Relaxed);
            recount(&self.promised, &mut core.counted.promised, 0);
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
        let expired = core.members.expired(now);
        for member in &expired {
            core.end_session(member);
            tracing::info!(
                group = &*cell.group,
                member = &**member,
                "a member sent no request within its session timeout, or did not give its partitions up in time"
            );
        }
        if !expired.is_empty() {
            // Once for all of them: it looks at every partition.
            core.assign_again();
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
        recount(&self.promised, &mut core.counted.promised, promised);
        if count != core.counted.members || std::mem::take(&mut core.has_said_more) {
            let said = match &core.kind {
                Kind::Classic(classic) => classic.said_bytes(),
                Kind::Ordered(_) | Kind::Shared(_) => 0,
            };
            recount(&self.said_bytes, &mut core.counted.said_bytes, said);
        }
        recount(&self.members, &mut core.counted.members, count);
        let subscribed = core.subscribed;
        recount(&self.subscribed, &mut core.counted.subscribed, subscribed);
        if let Kind::Shared(work) = &mut core.kind
            && let Some(unsettled) = work.take_unsettled()
        {
            recount(&self.unsettled, &mut core.counted.unsettled, unsettled);
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
    fn a_classic_group_has_no_more_members_with_ids_that_were_promised_before() {
        let mut classic = Classic::default();
        for number in 0..MAX_GROUP_MEMBERS - 2 {
            let joining = ClassicJoining {
                needs_id: false,
                ..joining(&number.to_string())
            };
            classic.join(&joining, 0).expect("there is room");
        }
        let mut promised = Vec::new();
        for number in 0..3 {
            let denied = classic.join(&joining(&format!("p{number}")), 0);
            match denied {
                Err(Denied::MemberIdRequired(id)) => promised.push(id),
                denied => assert!(matches!(denied, Err(Denied::Full)), "{denied:?}"),
            }
        }
        // Nobody takes a place that is promised.
        let at_once = ClassicJoining {
            needs_id: false,
            ..joining("late")
        };
        assert!(matches!(classic.join(&at_once, 0), Err(Denied::Full)));
        for id in &promised {
            let joining = ClassicJoining {
                member: Some(Arc::clone(id)),
                ..joining("unused")
            };
            classic.join(&joining, 0).expect("its place is promised");
        }
        assert_eq!(classic.members().len(), MAX_GROUP_MEMBERS);
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
