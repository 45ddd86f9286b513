//! One partition of one shared group: which records are free, leased to whom, or settled. Pure: no I/O, no clock.
//!
//! ```text
//!   0 ........ floor ............................ next ............ end
//!   all settled      slots: free, leased, settled      never leased
//! ```
//!
//! A slot goes these ways; *delivered* counts a lease, when it begins:
//!
//! ```text
//!               acquire                  begin_accept,              commit
//!   free ───────────────────▶ leased ─── begin_dead_letter ──▶ settling ──────▶ settled
//!    ▲                          │                                 │
//!    ├── release, expire, ──────┤          abort: what it was ◀───┘
//!    │   release_all            ▼
//!    └── give_back          exhausted ─── begin_dead_letter ──▶ settling
//!        (not delivered)    (delivered max_deliveries times)
//! ```
//!
//! Invariants, which the tests hold against a model:
//! - An offset is leased to one member at most, and a settled one is never leased again.
//! - `floor` never falls, and everything below it is settled.
//! - `next - floor` is at most [`MAX_WINDOW`], which bounds the memory and the durable value.
//!
//! Settling is durable before it is done: [`Queue::begin_write`] gives what is to be written, and [`Queue::commit`] or
//! [`Queue::abort`] says how that went. One write at a time: two in flight could end in the other order, or one of
//! them fail, and then the later value would say of the earlier change what never happened.
//!
//! A crash forgets the leases, as in Kafka: what was leased is free again, with the deliveries that were last written. Those
//! never exceed what happened, but the last ones may be missing: a delivery alone writes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::codec::{Run, RunState, Saved};
use crate::broker::engine::Offset;

/// The most offsets between the floor and the first that was never leased. No fresh record is leased beyond: one that is
/// never settled holds the rest up at some point, before it costs memory without bound.
pub const MAX_WINDOW: u64 = 8192;

/// A moment in milliseconds, of a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// A member of the group: given once by the coordinator, and not again while the queue is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub u64);

/// A poll of a member, counted by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollNumber(pub u64);

/// Offsets that settle together, see [`Queue::begin_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(u64);

/// What a poll asks of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The time.
    pub now: Moment,
    /// When the leases end.
    pub deadline: Moment,
    /// Whose they are.
    pub member: MemberKey,
    /// Which of its polls asks.
    pub poll: PollNumber,
    /// The partition's log start.
    pub log_start: Offset,
    /// The partition's end.
    pub end: Offset,
    /// Records at most.
    pub max: usize,
}

/// A range of offsets that was leased, each delivered as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The first.
    pub from: Offset,
    /// One past the last.
    pub until: Offset,
    /// How often each was delivered, this time included.
    pub deliveries: u32,
}

/// What a change may settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// To be written and then committed, or undone; `None` where nothing was taken.
    pub change: Option<ChangeId>,
    /// What settles, with how often it was delivered, in order.
    pub taken: Vec<(Offset, u32)>,
    /// What was asked for and is not this member's (any more), in order.
    pub lost: Vec<Offset>,
}

/// What became of a lease that ended without being settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is free, at once or after the delay.
    Free,
    /// It was delivered as often as it may be: see [`Queue::exhausted`].
    Exhausted,
    /// It was not this member's, and nothing changed.
    Lost,
}

/// How many leases ended by themselves, or delays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Offsets that can be leased now and could not before.
    pub free: usize,
    /// Offsets that are to be dead-lettered now.
    pub exhausted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    member: MemberKey,
    poll: PollNumber,
    deadline: Moment,
    /// This one included.
    deliveries: u32,
}

/// What is not settled, nor about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Free {
        deliveries: u32,
        not_before: Option<Moment>,
    },
    /// Waits for its dead letter.
    Exhausted {
        deliveries: u32,
    },
    Leased(Lease),
}

impl Open {
    const fn deliveries(self) -> u32 {
        match self {
            Self::Free { deliveries, .. } | Self::Exhausted { deliveries } => deliveries,
            Self::Leased(lease) => lease.deliveries,
        }
    }

    /// What is written: a lease that has not ended may still be given back, and is no delivery then.
    const fn ended_deliveries(self) -> u32 {
        match self {
            Self::Leased(lease) => lease.deliveries - 1,
            Self::Free { .. } | Self::Exhausted { .. } => self.deliveries(),
        }
    }

    fn lease_of(self, member: MemberKey) -> Option<Lease> {
        match self {
            Self::Leased(lease) if lease.member == member => Some(lease),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Open(Open),
    /// Part of a change that is not durable yet; `was` is what it is again if that fails.
    Settling {
        was: Open,
        change: ChangeId,
    },
    Settled,
}

/// One partition of one shared group.
#[derive(Debug)]
pub struct Queue {
    floor: Offset,
    /// The offsets from `floor` on; the first, where there is one, is not settled.
    slots: VecDeque<Slot>,
    max_deliveries: u32,
    window: u64,
    /// Free and not delayed. This and the next four are found from `slots`, and change in `index` and `unindex` only.
    ready: BTreeSet<Offset>,
    delayed: BTreeSet<(Moment, Offset)>,
    exhausted: BTreeSet<Offset>,
    deadlines: BTreeSet<(Moment, Offset)>,
    /// How many leases each poll holds.
    polls: BTreeMap<(MemberKey, PollNumber), usize>,
    /// What settles, by change; offsets below the floor were trimmed meanwhile.
    changes: BTreeMap<ChangeId, Vec<Offset>>,
    next_change: u64,
    /// The changes whose write is in flight.
    writing: Option<Vec<ChangeId>>,
    /// Something was settled, or a delivery ended, that no write has said yet.
    unsaved: bool,
}

impl Queue {
    /// Begins at `floor`, with nothing leased. `max_deliveries` is at least 1.
    #[must_use]
    pub fn new(floor: Offset, max_deliveries: u32) -> Self {
        Self::with_window(floor, max_deliveries, MAX_WINDOW)
    }

    /// Goes on from what was written: all that is not settled is free, or exhausted.
    #[must_use]
    pub fn restore(saved: &Saved, max_deliveries: u32) -> Self {
        Self::restore_with_window(saved, max_deliveries, MAX_WINDOW)
    }

    fn with_window(floor: Offset, max_deliveries: u32, window: u64) -> Self {
        Self {
            floor,
            slots: VecDeque::new(),
            max_deliveries: max_deliveries.max(1),
            window,
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            polls: BTreeMap::new(),
            changes: BTreeMap::new(),
            next_change: 0,
            writing: None,
            unsaved: false,
        }
    }

    fn restore_with_window(saved: &Saved, max_deliveries: u32, window: u64) -> Self {
        let mut queue = Self::with_window(saved.floor, max_deliveries, window);
        for run in &saved.runs {
            for _ in 0..run.length {
                let slot = match run.state {
                    RunState::Settled => Slot::Settled,
                    RunState::Open { deliveries } => Slot::Open(queue.ended(deliveries, None)),
                };
                queue.push(slot);
            }
        }
        queue.advance_floor();
        queue
    }

    /// All offsets below are settled: the group's committed offset, once it is written.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// The first offset that was never leased, or passed over.
    #[must_use]
    pub fn next(&self) -> Offset {
        self.floor.plus(self.slots.len() as u64)
    }

    /// How many offsets are leased.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.deadlines.len()
    }

    /// How many records are leased to a member, those of all its polls together.
    #[must_use]
    pub fn leased_to(&self, member: MemberKey) -> usize {
        let polls = (member, PollNumber(0))..=(member, PollNumber(u64::MAX));
        self.polls.range(polls).map(|(_, leases)| leases).sum()
    }

    /// How many offsets a poll still holds.
    #[must_use]
    pub fn held_by(&self, member: MemberKey, poll: PollNumber) -> usize {
        self.polls.get(&(member, poll)).copied().unwrap_or(0)
    }

    /// Whether [`Queue::acquire`] with the same positions would lease something, as of the last [`Queue::expire`].
    #[must_use]
    pub fn has_work(&self, log_start: Offset, end: Offset) -> bool {
        let floor = self.floor.max(log_start);
        let fresh = self.next().max(log_start) < end.min(floor.plus(self.window));
        fresh || self.ready.range(floor..end.max(floor)).next().is_some()
    }

    /// The next moment at which [`Queue::expire`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let first = |set: &BTreeSet<(Moment, Offset)>| set.first().map(|(moment, _)| *moment);
        first(&self.deadlines)
            .into_iter()
            .chain(first(&self.delayed))
            .min()
    }

    /// Offsets that were delivered as often as they may be, at most `max`, in order: they are to be dead-lettered, by
    /// [`Queue::begin_dead_letter`] of no member.
    #[must_use]
    pub fn exhausted(&self, max: usize) -> Vec<Offset> {
        self.exhausted.iter().take(max).copied().collect()
    }

    /// Whether a write with no changes would say something new: damage was passed over, or deliveries ended unsettled.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Leases up to `max` records to a poll, until `deadline`: what was free before and is again, in order of offset,
    /// then fresh ones below `end`. What lies below `log_start` counts as settled. Ends leases first, as
    /// [`Queue::expire`] does.
    ///
    /// The ranges are in order and do not touch where they have the same count of deliveries.
    /// Offsets where there turns out to be no record go to [`Queue::settle_skipped`], and what is not delivered after all to
    /// [`Queue::give_back`]; the latter does not count as a delivery.
    pub fn acquire(&mut self, wanted: &Wanted) -> Vec<Acquired> {
        self.trim(wanted.log_start);
        self.expire(wanted.now);
        let mut acquired: Vec<Acquired> = Vec::new();
        let mut left = wanted.max;
        let lease = |deliveries| {
            Slot::Open(Open::Leased(Lease {
                member: wanted.member,
                poll: wanted.poll,
                deadline: wanted.deadline,
                deliveries,
            }))
        };
        while left > 0 {
            // The end never falls, so what was leased lies below it; a queue that was restored over a log that lost
            // its newest records must not hand out what is not there.
            let Some(offset) = self.ready.first().copied().filter(|offset| *offset < wanted.end) else {
                break;
            };
            let Some(Slot::Open(free)) = self.slot(offset) else {
                unreachable!("what is ready is open: {offset}");
            };
            let deliveries = free.deliveries() + 1;
            self.set(offset, lease(deliveries));
            add(&mut acquired, offset, deliveries);
            left -= 1;
        }
        let fresh_end = wanted.end.min(self.floor.plus(self.window));
        while left > 0 && self.next() < fresh_end {
            let offset = self.next();
            self.push(lease(1));
            add(&mut acquired, offset, 1);
            left -= 1;
        }
        acquired
    }

    /// Takes back what a poll leased and its answer does not deliver: it is as if it had not been leased.
    pub fn give_back(
        &mut self,
        member: MemberKey,
        poll: PollNumber,
        offsets: impl IntoIterator<Item = Offset>,
    ) {
        for offset in offsets {
            if let Some(lease) = self.lease_at(offset, member)
                && lease.poll == poll
            {
                let open = Open::Free {
                    deliveries: lease.deliveries - 1,
                    not_before: None,
                };
                self.set(offset, Slot::Open(open));
            }
        }
        // What was never delivered is fresh again, so that it takes no room in the window.
        while let Some(Slot::Open(Open::Free {
            deliveries: 0,
            not_before: None,
        })) = self.slots.back()
        {
            self.pop_back();
        }
    }

    /// Begins to settle what `member` has leased of `offsets`.
    pub fn begin_accept(&mut self, member: MemberKey, offsets: impl IntoIterator<Item = Offset>) -> Begun {
        self.begin(offsets, |open| open.lease_of(member).is_some())
    }

    /// Begins to settle all that a poll delivered and is still leased by it.
    pub fn begin_ack(&mut self, member: MemberKey, poll: PollNumber) -> Begun {
        let held = self.held_by(member, poll);
        let is_held = |slot: &Slot| match slot {
            Slot::Open(Open::Leased(lease)) => lease.member == member && lease.poll == poll,
            _ => false,
        };
        let found = self.slots.iter().enumerate().filter(|(_, slot)| is_held(slot));
        let offsets: Vec<Offset> = found
            .take(held)
            .map(|(at, _)| self.floor.plus(at as u64))
            .collect();
        debug_assert_eq!(offsets.len(), held, "the count of a poll's leases is wrong");
        self.begin_accept(member, offsets)
    }

    /// Begins to settle `offsets` as dead letters: what `member` has leased of them, or, without a member, what is
    /// [exhausted](Queue::exhausted). The dead letters go into the same append as the write.
    pub fn begin_dead_letter(
        &mut self,
        member: Option<MemberKey>,
        offsets: impl IntoIterator<Item = Offset>,
    ) -> Begun {
        self.begin(offsets, |open| match member {
            Some(member) => open.lease_of(member).is_some(),
            None => matches!(open, Open::Exhausted { .. }),
        })
    }

    /// What is to be written so that `changes`, and what was settled before, is durable. The floor in it is the group's
    /// committed offset from then on. Then comes [`Queue::commit`] or [`Queue::abort`].
    ///
    /// Other changes that have begun stay as they are: they are written later.
    ///
    /// # Panics
    /// If a write is in flight, or one of `changes` is not waiting for one: the coordinator writes one after the other.
    #[must_use]
    pub fn begin_write(&mut self, changes: &[ChangeId]) -> Saved {
        assert!(
            self.writing.is_none(),
            "a write of the queue at {} is in flight",
            self.floor
        );
        for change in changes {
            assert!(self.changes.contains_key(change), "there is no {change:?}");
        }
        self.writing = Some(changes.to_vec());
        self.unsaved = false;
        self.saved(changes)
    }

    /// Whether changes have begun that are not durable yet.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether a write is in flight.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The write is durable: what it settled is settled.
    ///
    /// # Panics
    /// If no write is in flight.
    pub fn commit(&mut self) {
        for change in self.end_write() {
            for offset in self.changes.remove(&change).into_iter().flatten() {
                if let Some(Slot::Settling { .. }) = self.slot(offset) {
                    self.set(offset, Slot::Settled);
                }
            }
        }
        self.advance_floor();
    }

    /// The write failed: what it would have settled is what it was before its change began.
    ///
    /// # Panics
    /// If no write is in flight.
    pub fn abort(&mut self) {
        for change in self.end_write() {
            self.undo(change);
        }
        self.unsaved = true;
    }

    /// Gives up a change that was not written: what it would have settled is what it was before.
    ///
    /// # Panics
    /// If the change's write is in flight.
    pub fn undo(&mut self, change: ChangeId) {
        self.assert_not_in_flight(change);
        let offsets = self.changes.remove(&change).unwrap_or_default();
        self.reopen(offsets);
    }

    /// Takes offsets out of a change that is not being written: they are what they were before. `false` if nothing is
    /// left of the change, and so it is gone.
    ///
    /// # Panics
    /// If the change's write is in flight.
    pub fn undo_some(&mut self, change: ChangeId, offsets: impl IntoIterator<Item = Offset>) -> bool {
        self.assert_not_in_flight(change);
        let out: BTreeSet<Offset> = offsets.into_iter().collect();
        let Some(all) = self.changes.remove(&change) else {
            return false;
        };
        let (undone, left): (Vec<Offset>, Vec<Offset>) =
            all.into_iter().partition(|offset| out.contains(offset));
        self.reopen(undone);
        let is_left = !left.is_empty();
        if is_left {
            self.changes.insert(change, left);
        }
        is_left
    }

    /// Ends a lease of `member`: the record is free again after `delay_ms`, unless it was delivered as often as it may be.
    pub fn release(&mut self, now: Moment, member: MemberKey, offset: Offset, delay_ms: u64) -> Released {
        let Some(lease) = self.lease_at(offset, member) else {
            return Released::Lost;
        };
        let not_before = (delay_ms > 0).then(|| Moment(now.0.saturating_add(delay_ms)));
        let open = self.ended(lease.deliveries, not_before);
        self.set(offset, Slot::Open(open));
        self.unsaved = true;
        match open {
            Open::Exhausted { .. } => Released::Exhausted,
            _ => Released::Free,
        }
    }

    /// Ends all leases of a member that leaves; they were deliveries. Those that settle stay, and if that fails, they
    /// are free.
    pub fn release_all(&mut self, member: MemberKey) -> Expired {
        let mut ended = Expired::default();
        for at in 0..self.slots.len() {
            let offset = self.floor.plus(at as u64);
            match self.slots[at] {
                Slot::Open(open) if open.lease_of(member).is_some() => {
                    let open = self.ended(open.deliveries(), None);
                    self.set(offset, Slot::Open(open));
                    ended.count(open);
                    self.unsaved = true;
                }
                Slot::Settling { was, change } if was.lease_of(member).is_some() => {
                    let was = self.ended(was.deliveries(), None);
                    self.set(offset, Slot::Settling { was, change });
                }
                _ => {}
            }
        }
        ended
    }

    /// Moves the end of a lease; `false` if it is not this member's.
    pub fn extend(&mut self, member: MemberKey, offset: Offset, deadline: Moment) -> bool {
        let Some(lease) = self.lease_at(offset, member) else {
            return false;
        };
        self.set(offset, Slot::Open(Open::Leased(Lease { deadline, ..lease })));
        true
    }

    /// Ends the leases whose deadline has come, and the delays.
    pub fn expire(&mut self, now: Moment) -> Expired {
        let mut ended = Expired::default();
        while let Some(&(moment, offset)) = self.deadlines.first()
            && moment <= now
        {
            let Some(Slot::Open(open)) = self.slot(offset) else {
                unreachable!("what has a deadline is open: {offset}");
            };
            let open = self.ended(open.deliveries(), None);
            self.set(offset, Slot::Open(open));
            ended.count(open);
            self.unsaved = true;
        }
        while let Some(&(moment, offset)) = self.delayed.first()
            && moment <= now
        {
            let Some(Slot::Open(open)) = self.slot(offset) else {
                unreachable!("what is delayed is open: {offset}");
            };
            let open = Open::Free {
                deliveries: open.deliveries(),
                not_before: None,
            };
            self.set(offset, Slot::Open(open));
            ended.count(open);
        }
        ended
    }

    /// Settles offsets that hold no record that can be read (damage that was given up, gaps), whoever has leased them;
    /// what settles already is left to its change.
    ///
    /// Of a range that reaches beyond the window only as much is settled as fits; the rest is met again.
    pub fn settle_skipped(&mut self, from: Offset, until: Offset) {
        let end = until.min(self.next());
        let mut offset = from.max(self.floor);
        while offset < end {
            if let Some(Slot::Open(_)) = self.slot(offset) {
                self.set(offset, Slot::Settled);
                self.unsaved = true;
            }
            offset = offset.plus(1);
        }
        if from > self.next() {
            self.advance_floor();
            return;
        }
        let window_end = self.floor.plus(self.window);
        while self.next() < until.min(window_end) {
            self.push(Slot::Settled);
            self.unsaved = true;
        }
        self.advance_floor();
        if self.slots.is_empty() && self.floor < until {
            self.floor = until;
            self.unsaved = true;
        }
    }

    /// Settles what lies below the log start: it is not there any more.
    pub fn trim(&mut self, log_start: Offset) {
        while self.floor < log_start
            && let Some(slot) = self.slots.pop_front()
        {
            self.unindex(self.floor, slot);
            self.floor = self.floor.plus(1);
        }
        self.floor = self.floor.max(log_start);
        self.advance_floor();
    }

    /// What is durable once `changes` are.
    fn saved(&self, changes: &[ChangeId]) -> Saved {
        let states = self.slots.iter().map(|slot| match slot {
            Slot::Settled => RunState::Settled,
            Slot::Settling { change, .. } if changes.contains(change) => RunState::Settled,
            Slot::Open(open) | Slot::Settling { was: open, .. } => RunState::Open {
                deliveries: open.ended_deliveries(),
            },
        });
        let mut saved = Saved {
            floor: self.floor,
            runs: Vec::new(),
        };
        for state in states {
            if saved.runs.is_empty() && state == RunState::Settled {
                saved.floor = saved.floor.plus(1);
                continue;
            }
            match saved.runs.last_mut() {
                Some(run) if run.state == state => run.length += 1,
                _ => saved.runs.push(Run { length: 1, state }),
            }
        }
        // What comes last and was never delivered is fresh after a crash.
        if saved
            .runs
            .last()
            .is_some_and(|last| last.state == RunState::NEVER_DELIVERED)
        {
            saved.runs.pop();
        }
        saved
    }

    fn begin(&mut self, offsets: impl IntoIterator<Item = Offset>, is_taken: impl Fn(Open) -> bool) -> Begun {
        let mut begun = Begun::default();
        let change = ChangeId(self.next_change);
        for offset in offsets {
            match self.slot(offset) {
                Some(Slot::Open(was)) if is_taken(was) => {
                    self.set(offset, Slot::Settling { was, change });
                    begun.taken.push((offset, was.deliveries()));
                }
                // Named twice in one request.
                Some(Slot::Settling { change: same, .. }) if same == change => {}
                _ => begun.lost.push(offset),
            }
        }
        begun.taken.sort_unstable();
        begun.lost.sort_unstable();
        begun.lost.dedup();
        if !begun.taken.is_empty() {
            self.next_change += 1;
            let taken = begun.taken.iter().map(|(offset, _)| *offset).collect();
            self.changes.insert(change, taken);
            begun.change = Some(change);
        }
        begun
    }

    fn end_write(&mut self) -> Vec<ChangeId> {
        self.writing.take().expect("a write ends once, after it began")
    }

    fn assert_not_in_flight(&self, change: ChangeId) {
        let in_flight = self.writing.as_ref().is_some_and(|all| all.contains(&change));
        assert!(!in_flight, "{change:?} is being written");
    }

    /// Makes what settled what it was before; what was trimmed meanwhile is gone.
    fn reopen(&mut self, offsets: Vec<Offset>) {
        for offset in offsets {
            if let Some(Slot::Settling { was, .. }) = self.slot(offset) {
                self.set(offset, Slot::Open(was));
            }
        }
    }

    /// What a record is after a delivery that settled nothing.
    fn ended(&self, deliveries: u32, not_before: Option<Moment>) -> Open {
        if deliveries >= self.max_deliveries {
            Open::Exhausted { deliveries }
        } else {
            Open::Free {
                deliveries,
                not_before,
            }
        }
    }

    fn slot(&self, offset: Offset) -> Option<Slot> {
        let at = offset.get().checked_sub(self.floor.get())?;
        self.slots.get(usize::try_from(at).ok()?).copied()
    }

    fn lease_at(&self, offset: Offset, member: MemberKey) -> Option<Lease> {
        match self.slot(offset)? {
            Slot::Open(open) => open.lease_of(member),
            _ => None,
        }
    }

    /// Changes a slot that is there.
    fn set(&mut self, offset: Offset, slot: Slot) {
        let at = offset.since(self.floor) as usize;
        let before = std::mem::replace(&mut self.slots[at], slot);
        self.unindex(offset, before);
        self.index(offset, slot);
    }

    fn push(&mut self, slot: Slot) {
        self.index(self.next(), slot);
        self.slots.push_back(slot);
    }

    fn pop_back(&mut self) {
        if let Some(slot) = self.slots.pop_back() {
            self.unindex(self.next(), slot);
        }
    }

    fn advance_floor(&mut self) {
        while let Some(Slot::Settled) = self.slots.front() {
            self.slots.pop_front();
            self.floor = self.floor.plus(1);
        }
    }

    fn index(&mut self, offset: Offset, slot: Slot) {
        match slot {
            Slot::Open(Open::Free { not_before: None, .. }) => drop(self.ready.insert(offset)),
            Slot::Open(Open::Free {
                not_before: Some(moment),
                ..
            }) => drop(self.delayed.insert((moment, offset))),
            Slot::Open(Open::Exhausted { .. }) => drop(self.exhausted.insert(offset)),
            Slot::Open(Open::Leased(lease)) => {
                self.deadlines.insert((lease.deadline, offset));
                *self.polls.entry((lease.member, lease.poll)).or_insert(0) += 1;
            }
            Slot::Settling { .. } | Slot::Settled => {}
        }
    }

    fn unindex(&mut self, offset: Offset, slot: Slot) {
        match slot {
            Slot::Open(Open::Free { not_before: None, .. }) => drop(self.ready.remove(&offset)),
            Slot::Open(Open::Free {
                not_before: Some(moment),
                ..
            }) => drop(self.delayed.remove(&(moment, offset))),
            Slot::Open(Open::Exhausted { .. }) => drop(self.exhausted.remove(&offset)),
            Slot::Open(Open::Leased(lease)) => {
                self.deadlines.remove(&(lease.deadline, offset));
                let poll = (lease.member, lease.poll);
                if let Some(count) = self.polls.get_mut(&poll) {
                    *count -= 1;
                    if *count == 0 {
                        self.polls.remove(&poll);
                    }
                }
            }
            Slot::Settling { .. } | Slot::Settled => {}
        }
    }
}

impl Expired {
    fn count(&mut self, open: Open) {
        match open {
            Open::Exhausted { .. } => self.exhausted += 1,
            _ => self.free += 1,
        }
    }
}

/// Adds an offset behind what was acquired.
fn add(acquired: &mut Vec<Acquired>, offset: Offset, deliveries: u32) {
    match acquired.last_mut() {
        Some(last) if last.until == offset && last.deliveries == deliveries => last.until = offset.plus(1),
        _ => acquired.push(Acquired {
            from: offset,
            until: offset.plus(1),
            deliveries,
        }),
    }
}

#[cfg(test)]
#[path = "queue_model.rs"]
mod model;
