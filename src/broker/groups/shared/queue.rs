//! One partition of one shared group: which records are free, leased to whom, or settled. Pure: no I/O, no clock.
//!
//! ```text
//!   0 ........ floor ............................ next ............ end
//!   all settled      slots: free, leased, settled      never leased
//! ```
//!
//! A slot moves through these states; *delivered* counts each lease when it begins:
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
//! A settled state is durable before it takes effect: [`Queue::begin_write`] gives the value to write, and
//! [`Queue::commit`] or [`Queue::abort`] reports the result. One write at a time: two in flight could end in the other
//! order, or the earlier could fail, and the later value would then claim a change that never happened.
//!
//! A crash ends the leases, as in Kafka: leased offsets are free again, with the delivery counts that were last
//! written. Those counts never exceed the truth, but may lack the newest deliveries: a delivery alone writes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::codec::{Run, RunState, Saved};
use crate::broker::engine::Offset;

/// The most offsets between the floor and the first that was never leased. No fresh record beyond is leased, so a
/// record that is never settled stops the partition before its memory grows without bound.
pub const MAX_WINDOW: u64 = 8192;

/// A moment in milliseconds, of a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// A member of the group. The coordinator gives each number once while the queue is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub u64);

/// A poll of a member, counted by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollNumber(pub u64);

/// Offsets that settle together, see [`Queue::begin_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(u64);

/// A poll's request to a partition.
#[derive(Clone, Copy, Debug)]
pub struct Leasing {
    /// The time.
    pub now: Moment,
    /// When the leases end.
    pub deadline: Moment,
    /// The member that takes the leases.
    pub member: MemberKey,
    /// The poll that takes the leases.
    pub poll: PollNumber,
    /// The partition's log start.
    pub log_start: Offset,
    /// The partition's end.
    pub end: Offset,
    /// The most records to lease.
    pub max: usize,
}

/// A range of leased offsets with the same delivery count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The first offset.
    pub from: Offset,
    /// One past the last offset.
    pub until: Offset,
    /// How often each was delivered, including this time.
    pub deliveries: u32,
}

/// The offsets that a change would settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Write it and then commit it, or undo it; `None` if no offset was taken.
    pub change: Option<ChangeId>,
    /// The offsets that settle, with their delivery counts, in order.
    pub taken: Vec<(Offset, u32)>,
    /// The requested offsets that are not (or no longer) leased to this member, in order.
    pub lost: Vec<Offset>,
}

/// The state of a record after its lease ended unsettled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Free, at once or after the delay.
    Free,
    /// Delivered as often as allowed: see [`Queue::exhausted`].
    Exhausted,
    /// Not leased to this member; nothing changed.
    Lost,
}

/// Leases and delays that ended because their time was over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Offsets that can be leased now and could not before.
    pub free: usize,
    /// Offsets to dead-letter now.
    pub exhausted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    member: MemberKey,
    poll: PollNumber,
    deadline: Moment,
    /// Including this one.
    deliveries: u32,
}

/// A slot that is neither settled nor settling.
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

    /// The durable form: an open lease may still be given back, so it is not counted as a delivery yet.
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
    /// Part of a change that is not durable yet; a failed write restores `was`.
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
    /// The offsets from `floor` on; the first, if there is one, is not settled.
    slots: VecDeque<Slot>,
    max_deliveries: u32,
    window: u64,
    /// Free and not delayed. This and the next four follow from `slots`; only `index` and `unindex` change them.
    ready: BTreeSet<Offset>,
    delayed: BTreeSet<(Moment, Offset)>,
    exhausted: BTreeSet<Offset>,
    deadlines: BTreeSet<(Moment, Offset)>,
    /// How many leases each poll holds.
    polls: BTreeMap<(MemberKey, PollNumber), usize>,
    /// The offsets each change settles; those below the floor were trimmed meanwhile.
    changes: BTreeMap<ChangeId, Vec<Offset>>,
    next_change: u64,
    /// The changes whose write is in flight.
    writing: Option<Vec<ChangeId>>,
    /// A record was settled, or a delivery ended, since the last write.
    unsaved: bool,
}

impl Queue {
    /// Begins at `floor`, with nothing leased. `max_deliveries` is at least 1.
    pub fn new(floor: Offset, max_deliveries: u32) -> Self {
        Self::with_window(floor, max_deliveries, MAX_WINDOW)
    }

    /// Restores the written state: every unsettled offset is free, or exhausted.
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

    /// All offsets below are settled. Once written, this is the group's committed offset.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// The first offset that was neither leased nor skipped.
    pub fn next(&self) -> Offset {
        self.floor.plus(self.slots.len() as u64)
    }

    /// How many offsets are leased.
    pub fn leased(&self) -> usize {
        self.deadlines.len()
    }

    /// How many records all polls of a member hold together.
    pub fn leased_to(&self, member: MemberKey) -> usize {
        let polls = (member, PollNumber(0))..=(member, PollNumber(u64::MAX));
        self.polls.range(polls).map(|(_, leases)| leases).sum()
    }

    /// How many offsets a poll still holds.
    pub fn held_by(&self, member: MemberKey, poll: PollNumber) -> usize {
        self.polls.get(&(member, poll)).copied().unwrap_or(0)
    }

    /// Whether [`Queue::acquire`] with these positions would lease a record, as of the last [`Queue::expire`].
    pub fn has_work(&self, log_start: Offset, end: Offset) -> bool {
        let floor = self.floor.max(log_start);
        let fresh = self.next().max(log_start) < end.min(floor.plus(self.window));
        fresh || self.ready.range(floor..end.max(floor)).next().is_some()
    }

    /// The next time at which [`Queue::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Moment> {
        let first = |set: &BTreeSet<(Moment, Offset)>| set.first().map(|(moment, _)| *moment);
        first(&self.deadlines)
            .into_iter()
            .chain(first(&self.delayed))
            .min()
    }

    /// At most `max` offsets that were delivered as often as allowed, in order. Dead-letter them with
    /// [`Queue::begin_dead_letter`], without a member.
    pub fn exhausted(&self, max: usize) -> Vec<Offset> {
        self.exhausted.iter().take(max).copied().collect()
    }

    /// Whether a write without changes would save something: skipped damage, or deliveries that ended unsettled.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Leases up to `max` records to a poll, until `deadline`: first those that are free again, in order of offset,
    /// then fresh ones below `end`. Offsets below `log_start` count as settled. Expires leases first, as
    /// [`Queue::expire`] does.
    ///
    /// The ranges are in order; neighbours with the same delivery count are joined. The caller passes offsets that hold
    /// no record to [`Queue::settle_skipped`], and records it does not deliver to [`Queue::give_back`], which does not
    /// count them as delivered.
    pub fn acquire(&mut self, wanted: &Leasing) -> Vec<Acquired> {
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
            // The end never falls, so leased offsets lie below it. A queue restored over a log that lost its newest
            // records must not lease missing offsets.
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

    /// Takes back the leases of a poll whose answer does not deliver them, as if they had never been leased.
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
        // A record that was never delivered is fresh again, and takes no room in the window.
        while let Some(Slot::Open(Open::Free {
            deliveries: 0,
            not_before: None,
        })) = self.slots.back()
        {
            self.pop_back();
        }
    }

    /// Begins to settle those of `offsets` that `member` has leased.
    pub fn begin_accept(&mut self, member: MemberKey, offsets: impl IntoIterator<Item = Offset>) -> Begun {
        self.begin(offsets, |open| open.lease_of(member).is_some())
    }

    /// Begins to settle every record that a poll delivered and still leases.
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

    /// Begins to settle `offsets` as dead letters: those that `member` has leased or, without a member, those that are
    /// [exhausted](Queue::exhausted). Append the dead letters together with the write.
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

    /// Returns the value that makes `changes`, and everything settled before, durable. Its floor is the group's
    /// committed offset once it is written. [`Queue::commit`] or [`Queue::abort`] must follow.
    ///
    /// Other changes that have begun are written later.
    ///
    /// # Panics
    /// If a write is in flight, or one of `changes` is not waiting for one: the coordinator writes one at a time.
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
    pub fn is_settling(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether a write is in flight.
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

    /// The write failed: its offsets return to their states before the change.
    ///
    /// # Panics
    /// If no write is in flight.
    pub fn abort(&mut self) {
        for change in self.end_write() {
            self.undo(change);
        }
        self.unsaved = true;
    }

    /// Undoes a change that was not written: its offsets return to their states before it.
    ///
    /// # Panics
    /// If the change's write is in flight.
    pub fn undo(&mut self, change: ChangeId) {
        self.assert_not_in_flight(change);
        let offsets = self.changes.remove(&change).unwrap_or_default();
        self.reopen(offsets);
    }

    /// Takes offsets out of a change that is not being written, and restores their states. Returns `false` if the
    /// change is empty and therefore removed.
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

    /// Ends a lease of `member`: the record is free after `delay_ms`, or exhausted if it was delivered as often as
    /// allowed.
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

    /// Ends all leases of a member that leaves, counting each as a delivery. Settling records stay; if their write
    /// fails, they are free.
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

    /// Moves the end of a lease; `false` if this member does not hold it.
    pub fn extend(&mut self, member: MemberKey, offset: Offset, deadline: Moment) -> bool {
        let Some(lease) = self.lease_at(offset, member) else {
            return false;
        };
        self.set(offset, Slot::Open(Open::Leased(Lease { deadline, ..lease })));
        true
    }

    /// Ends the leases and delays whose time is over.
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

    /// Settles offsets that hold no readable record (skipped damage, gaps), even if they are leased. Offsets that are
    /// already settling stay with their change.
    ///
    /// Settles only the part of a range inside the window; a later read meets the rest again.
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

    /// Settles the offsets below the log start: the log no longer holds them.
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

    /// The durable value after `changes`.
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
        // Leave out trailing slots that were never delivered: they are fresh after a crash.
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
                // The request names this offset twice.
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

    /// Restores the states from before the change; offsets trimmed meanwhile are gone.
    fn reopen(&mut self, offsets: Vec<Offset>) {
        for offset in offsets {
            if let Some(Slot::Settling { was, .. }) = self.slot(offset) {
                self.set(offset, Slot::Open(was));
            }
        }
    }

    /// The state of a record after a delivery that did not settle it.
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

/// Adds an offset after those already acquired.
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
