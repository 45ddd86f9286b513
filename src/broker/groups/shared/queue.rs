//! One partition of one shared group: which records are free, leased to whom, or settled. Pure: no I/O, no clock.
//!
//! ```text
//!   0 ........ floor ............................. next ............ end
//!   all settled      unsettled records, all        never looked at
//!                    others are settled
//! ```
//!
//! Below `next` only unsettled records take memory. They move through these states; a lease *counts* as a delivery once
//! the record is leased again, or was released as counted:
//!
//! ```text
//!               acquire                                            commit
//!   free ───────────────────▶ leased ─── begin_settle ──▶ settling ──────▶ settled
//!    ▲ ▲                        │                            │
//!    │ ├── release, expire, ────┘    abort: what it was ◀────┘
//!    │ │   leave, give_back
//!    │ └── a late settle takes a free record too
//!    └ acquire finds it delivered as often as allowed: exhausted ─── begin_burial ──▶ settling
//! ```
//!
//! Invariants, which the tests hold against a model:
//! - A record is leased to one member at most, and a settled one is never leased again.
//! - A released record is not leased before its delay is over.
//! - `floor` never falls, and everything below it is settled.
//! - A record that waits, however long, holds up no other, except those of its key in a group that is ordered by key.
//!
//! Groups with an order or a filter look at records before they are leased: see [`looks`] and [`keys`].
//! [`claims`] says who may settle a record, [`writes`] how what happens becomes durable, and `figures` what a queue says of itself.

pub mod claims;
mod figures;
mod keys;
pub mod looks;
pub mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use claims::{Begun, Claim, Outcome};
pub use keys::KeyHash;
pub use writes::Written;

use claims::Named;
use keys::Keys;
use writes::Writing;

use super::codec::{BLOCK, Head, Letter, Saved, Unsettled, block_of};
use crate::broker::engine::{Offset, TimestampMs};

/// The most unsettled records of a partition below `next`: at this bound no record beyond is looked at.
pub const MAX_UNSETTLED: usize = 1_000_000;

/// A moment in milliseconds, of a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// The time: leases go by a clock that only goes forward, delays by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Of the clock that only goes forward.
    pub moment: Moment,
    /// Of the wall clock.
    pub wall: TimestampMs,
}

/// A member of the group: a number that stands for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub u64);

/// A poll of a member, counted by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollNumber(pub u64);

impl PollNumber {
    /// No poll that is known: the record was last leased before a restart, or never.
    const UNKNOWN: Self = Self(0);
}

/// Offsets that settle together, see [`Queue::begin_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(u64);

/// A poll's request to a partition.
#[derive(Clone, Copy, Debug)]
pub struct Leasing {
    /// The time.
    pub now: Now,
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
    /// The most records to look at that nobody has looked at before.
    pub room: usize,
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
    /// It is one record that was redriven: read it from its dead letter.
    pub letter: Option<Letter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    member: MemberKey,
    deadline: Moment,
    /// The record before the lease: the poll that had leased it last, and whether it was released.
    before: (PollNumber, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    record: Unsettled,
    /// The poll that leased it last, whether the lease has ended or not.
    poll: PollNumber,
    /// Its key, if the group is ordered by key and the record was read.
    key: Option<KeyHash>,
    /// It was read while somebody held it, and the group does not want it: it settles as soon as nobody holds it.
    is_unwanted: bool,
    /// It was released before its last lease, and this lease has not counted as a delivery. If that was forgotten in a
    /// crash, the poll whose member released it would count as the last one.
    was_released: bool,
    /// The highest delivery count that a poll has for it whose member released it; 0: none. It may be above the record's
    /// own count, by one: a release may take its lease's delivery back.
    released_at: u32,
    /// The member that has named it in the change that settles it, if that was noted then.
    named_by: Option<MemberKey>,
}

impl Slot {
    const FRESH: Self = Self::of(Unsettled::FRESH);

    const fn of(record: Unsettled) -> Self {
        Self {
            record,
            poll: PollNumber::UNKNOWN,
            key: None,
            is_unwanted: false,
            was_released: false,
            // What a crash forgot: at most one delivery was taken back.
            released_at: if record.is_released {
                record.deliveries.saturating_add(1)
            } else {
                0
            },
            named_by: None,
        }
    }

    /// Whether a poll that delivered it for the `deliveries`th time was the last to lease it.
    fn is_of(&self, poll: PollNumber, deliveries: u32) -> bool {
        self.poll == poll || (self.poll == PollNumber::UNKNOWN && self.record.deliveries <= deliveries)
    }
}

/// One partition of one shared group.
#[derive(Debug)]
pub struct Queue {
    floor: Offset,
    next: Offset,
    /// The unsettled records from `floor` to `next`, those that are settling included.
    open: BTreeMap<Offset, Slot>,
    /// The unsettled records that were redriven, with their dead letters. They lie below `next`, and are not in `open`:
    /// a redrive lowers no floor.
    returned: BTreeMap<Offset, (Slot, Letter)>,
    /// Records whose dead letters were redriven before the change that settles them was reported as durable.
    returning: BTreeMap<Offset, Letter>,
    /// May be leased: neither leased, settling, exhausted, delayed, behind nor unread.
    ready: BTreeSet<Offset>,
    /// Free, and another record of its key comes first.
    behind: BTreeSet<Offset>,
    /// Free, and nobody has read it yet: see [`looks`].
    unread: BTreeSet<Offset>,
    /// In a group that looks at records before it leases them: those below were read.
    seen: Option<Offset>,
    keys: Keys,
    delayed: BTreeSet<(TimestampMs, Offset)>,
    /// Delivered as often as allowed, and passed over by a poll since.
    exhausted: BTreeSet<Offset>,
    /// The leases, those on settling records included.
    leases: BTreeMap<Offset, Lease>,
    /// The leases on records that are not settling, by their end, and by poll.
    deadlines: BTreeSet<(Moment, Offset)>,
    held: BTreeSet<(MemberKey, PollNumber, Offset)>,
    settling: BTreeMap<Offset, ChangeId>,
    /// The offsets each change settles.
    changes: BTreeMap<ChangeId, Vec<Offset>>,
    next_change: u64,
    writing: Option<Writing>,
    max_deliveries: u32,
    /// The blocks whose durable entries are out of date.
    dirty: BTreeSet<u64>,
    /// The redriven records whose durable entries are out of date.
    dirty_returned: BTreeSet<Offset>,
    /// The blocks that have an entry.
    stored: BTreeSet<u64>,
    /// `next` as last written: unsettled records from here on are in no entry.
    stored_next: Offset,
    /// When unsettled records were last deleted.
    lost_at: Option<Moment>,
    /// When a lease last ended because its time was over.
    expired_at: Option<Moment>,
    /// Records that members have settled or released by name; the newest.
    named: BTreeSet<Named>,
    named_order: VecDeque<Named>,
    /// The group was reset: what nobody has leased since is nobody's to settle.
    is_disowned: bool,
    /// A delivery ended, a record was skipped, or a delay began since the last write.
    unsaved: bool,
}

impl Queue {
    /// Begins at `floor`, with nothing leased. `max_deliveries` is at least 1.
    pub fn new(floor: Offset, max_deliveries: u32) -> Self {
        Self {
            floor,
            next: floor,
            open: BTreeMap::new(),
            returned: BTreeMap::new(),
            returning: BTreeMap::new(),
            ready: BTreeSet::new(),
            behind: BTreeSet::new(),
            unread: BTreeSet::new(),
            seen: None,
            keys: Keys::default(),
            delayed: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            held: BTreeSet::new(),
            settling: BTreeMap::new(),
            changes: BTreeMap::new(),
            next_change: 0,
            writing: None,
            max_deliveries: max_deliveries.max(1),
            dirty: BTreeSet::new(),
            dirty_returned: BTreeSet::new(),
            stored: BTreeSet::new(),
            stored_next: floor,
            lost_at: None,
            expired_at: None,
            named: BTreeSet::new(),
            named_order: VecDeque::new(),
            is_disowned: false,
            unsaved: false,
        }
    }

    /// Restores the written state: nothing is leased.
    pub fn restore(saved: Saved, max_deliveries: u32) -> Self {
        let mut queue = Self::new(saved.head.floor, max_deliveries);
        queue.next = saved.head.next;
        queue.stored_next = saved.head.next;
        queue.stored = saved.blocks;
        if saved.is_outdated {
            queue.dirty.extend(queue.stored.iter().copied());
            queue
                .dirty
                .extend(saved.open.iter().map(|(offset, _)| block_of(*offset)));
        }
        for (offset, record) in saved.open {
            queue.open.insert(offset, Slot::of(record));
            queue.make_free(offset);
        }
        for (offset, record, letter) in saved.returned {
            // After a move of the group, it may be to be read anyway.
            if offset < queue.next && !queue.open.contains_key(&offset) {
                queue.returned.insert(offset, (Slot::of(record), letter));
                queue.make_free(offset);
            } else {
                queue.dirty_returned.insert(offset);
            }
        }
        queue.advance_floor();
        queue
    }

    /// Notes that the group was reset: a settle of a record that was leased before is lost, unless it is leased again. This
    /// is not durable: after a restart such a settle counts, as any late one does.
    pub fn disown(&mut self) {
        self.is_disowned = true;
    }

    /// Gives back a record that was settled, from its dead letter; the caller has made that durable. Does nothing if the
    /// record is unsettled anyway. If a change settles it, it is given back with [`Queue::commit`]: a dead letter can be read,
    /// and so redriven, before the append that it came with is reported here.
    pub fn give_back_letter(&mut self, offset: Offset, letter: Letter) {
        if self.settling.contains_key(&offset) {
            self.returning.insert(offset, letter);
        } else if offset < self.next && self.get(offset).is_none() {
            self.returned.insert(offset, (Slot::FRESH, letter));
            self.make_free(offset);
        } else if !self.returned.contains_key(&offset) {
            // The next write removes its entry.
            self.dirty_returned.insert(offset);
            self.unsaved = true;
        }
    }

    /// Settles a redriven record whose dead letter is gone.
    pub fn forget_letter(&mut self, offset: Offset) {
        if self.returned.contains_key(&offset) && !self.settling.contains_key(&offset) {
            self.forget(offset);
            self.dirty_returned.insert(offset);
            self.unsaved = true;
        }
    }

    /// The dead letter of a redriven record.
    pub fn letter(&self, offset: Offset) -> Option<Letter> {
        self.returned.get(&offset).map(|(_, letter)| *letter)
    }

    /// The dead letters of those of these records that were redriven.
    pub fn letters_of(&self, taken: &[(Offset, u32)]) -> BTreeMap<Offset, Letter> {
        let letter = |(offset, _): &(Offset, u32)| Some((*offset, self.letter(*offset)?));
        taken.iter().filter_map(letter).collect()
    }

    /// When the oldest of the redriven records that do not wait for a time was redriven.
    pub fn oldest_redrive(&self) -> Option<TimestampMs> {
        let due = self
            .returned
            .values()
            .filter(|(slot, _)| slot.record.not_before.is_none());
        due.map(|(_, letter)| letter.redriven_at).min()
    }

    /// Leases up to `max` records to a poll, until `deadline`: first those that are free again, in order of offset,
    /// then fresh ones below `end`, unless they must be [read](looks) before. Offsets below `log_start` count as settled. Expires leases first, as
    /// [`Queue::expire`] does.
    ///
    /// The ranges are in order; neighbours with the same delivery count are joined. The caller passes offsets that hold
    /// no record to [`Queue::settle_skipped`], and records it does not deliver to [`Queue::give_back`], which does not
    /// count them as delivered.
    pub fn acquire(&mut self, wanted: &Leasing) -> Vec<Acquired> {
        self.trim(wanted.now.moment, wanted.log_start);
        self.expire(wanted.now);
        let mut acquired: Vec<Acquired> = Vec::new();
        let mut left = wanted.max;
        let lease = |before| Lease {
            member: wanted.member,
            deadline: wanted.deadline,
            before,
        };
        while left > 0 {
            // The end never falls, so leased offsets lie below it. A queue restored over a log that lost its newest
            // records must not lease missing offsets.
            let Some(offset) = self.ready.first().copied().filter(|offset| *offset < wanted.end) else {
                break;
            };
            self.ready.remove(&offset);
            let letter = self.letter(offset);
            let max_deliveries = self.max_deliveries;
            let slot = self.slot(offset);
            if slot.record.deliveries >= max_deliveries {
                self.exhausted.insert(offset);
                continue;
            }
            slot.record.deliveries += 1;
            let was_released = std::mem::replace(&mut slot.record.is_released, false);
            let before = (std::mem::replace(&mut slot.poll, wanted.poll), was_released);
            slot.was_released |= was_released;
            let was_released = slot.was_released;
            add(&mut acquired, offset, slot.record.deliveries, letter);
            if was_released {
                // Written soon: a late acknowledgement of this lease counts after a crash too.
                self.mark(offset);
            }
            self.lease(offset, lease(before));
            left -= 1;
        }
        if self.seen.is_some() {
            return acquired;
        }
        let mut room = self.room(wanted.room);
        while left > 0 && room > 0 && self.next < wanted.end {
            let offset = self.next;
            self.next = offset.plus(1);
            let mut slot = Slot::FRESH;
            slot.record.deliveries = 1;
            slot.poll = wanted.poll;
            self.open.insert(offset, slot);
            self.lease(offset, lease((PollNumber::UNKNOWN, false)));
            add(&mut acquired, offset, 1, None);
            (left, room) = (left - 1, room - 1);
        }
        acquired
    }

    /// Takes back leases of a poll whose answer does not deliver them, as if they had never been leased; if `due` is
    /// given, they wait until then.
    pub fn give_back(
        &mut self,
        member: MemberKey,
        poll: PollNumber,
        offsets: impl IntoIterator<Item = Offset>,
        due: Option<TimestampMs>,
    ) {
        for offset in offsets {
            if !self.held.contains(&(member, poll, offset)) {
                continue;
            }
            let (poll, is_released) = self.leases[&offset].before;
            self.end_lease(offset);
            self.uncount(offset);
            let slot = self.slot(offset);
            slot.poll = poll;
            slot.record.is_released = is_released;
            slot.record.not_before = due;
            if due.is_some() || slot.was_released {
                self.mark(offset);
            }
            self.make_free(offset);
        }
        if self.seen.is_some() {
            return;
        }
        // What nobody was given is as if nobody had looked at it.
        let written = self.writing.as_ref().map(|writing| writing.head.next);
        let written = self.stored_next.max(written.unwrap_or_default());
        while self.next > written
            && let Some((&last, &Slot::FRESH)) = self.open.last_key_value()
            && last.plus(1) == self.next
            && self.ready.remove(&last)
        {
            self.open.remove(&last);
            self.next = last;
        }
    }

    /// Looks at the records up to and including `offset`, as far as the log reaches: they are free. A settle may name
    /// them, because a crash forgets which records were leased. Returns `false`, with nothing changed, if more than
    /// `room` records would have to be looked at.
    pub fn look(&mut self, offset: Offset, end: Offset, room: usize) -> bool {
        let until = offset.plus(1).min(end);
        if until <= self.next {
            return true;
        }
        if until.since(self.next) > self.room(room) as u64 {
            return false;
        }
        while self.next < until {
            let offset = self.next;
            self.next = offset.plus(1);
            self.open.insert(offset, Slot::FRESH);
            self.make_free(offset);
        }
        true
    }

    /// Gives a record back that nobody else holds: it is free at once, or when `due` comes. `counts`: the lease that
    /// ends counts as a delivery.
    pub fn release(
        &mut self,
        member: MemberKey,
        offset: Offset,
        due: Option<TimestampMs>,
        counts: bool,
    ) -> Outcome {
        let outcome = self.outcome(offset, Claim::Member(member));
        if outcome != Outcome::Done {
            return outcome;
        }
        self.note_named(member, offset);
        // A lease that has ended may be missing in the record's count: its member has left, or a crash made it forget.
        let ended = u32::from(!self.leases.contains_key(&offset));
        let slot = self.slot(offset);
        let count = slot.record.deliveries.saturating_add(ended);
        slot.released_at = slot.released_at.max(count);
        if !self.end_lease(offset) {
            self.unfree(offset);
        } else if !counts {
            self.uncount(offset);
        }
        let slot = self.slot(offset);
        slot.was_released = false;
        slot.record.is_released = true;
        slot.record.not_before = due;
        self.make_free(offset);
        self.mark(offset);
        Outcome::Done
    }

    /// Ends all leases of a member that leaves. They do not count as deliveries. Settling records stay; if their write
    /// fails, they are free. Returns whether a record is free now that was not before.
    pub fn leave(&mut self, member: MemberKey) -> bool {
        let held: Vec<Offset> = self.held_by(member).collect();
        for offset in &held {
            self.end_lease(*offset);
            self.uncount(*offset);
            self.make_free(*offset);
            self.mark_if_was_released(*offset);
        }
        let settling: Vec<Offset> = self
            .settling
            .keys()
            .filter(|offset| {
                self.leases
                    .get(offset)
                    .is_some_and(|lease| lease.member == member)
            })
            .copied()
            .collect();
        for offset in settling {
            self.leases.remove(&offset);
            self.uncount(offset);
            self.mark_if_was_released(offset);
        }
        !held.is_empty()
    }

    /// After the end of a lease that does not count: what is written may count it.
    fn mark_if_was_released(&mut self, offset: Offset) {
        if self.get(offset).is_some_and(|slot| slot.was_released) {
            self.mark(offset);
        }
    }

    /// Moves the end of a lease. A lease that has ended begins again, if nobody else holds the record.
    pub fn extend(&mut self, member: MemberKey, offset: Offset, deadline: Moment) -> Outcome {
        let outcome = self.outcome(offset, Claim::Member(member));
        if outcome != Outcome::Done {
            return outcome;
        }
        let before = match self.leases.get(&offset) {
            Some(lease) => lease.before,
            None => (self.slot(offset).poll, false),
        };
        if !self.end_lease(offset) {
            self.unfree(offset);
            // It goes on with the work of the lease that ended, which counts once the record is leased again.
            let slot = self.slot(offset);
            (slot.was_released, slot.released_at) = (false, 0);
            slot.record.deliveries = slot.record.deliveries.max(1);
            slot.record.is_released = false;
            slot.record.not_before = None;
            self.mark(offset);
        }
        let lease = Lease {
            member,
            deadline,
            before,
        };
        self.lease(offset, lease);
        Outcome::Done
    }

    /// Moves the ends of all leases of a member.
    pub fn extend_all(&mut self, member: MemberKey, deadline: Moment) {
        let held: Vec<Offset> = self.held_by(member).collect();
        for offset in held {
            self.extend(member, offset, deadline);
        }
    }

    /// Ends the leases and delays whose time is over. Returns how many records are free that were not before.
    pub fn expire(&mut self, now: Now) -> usize {
        let mut freed = 0;
        while let Some(&(moment, offset)) = self.deadlines.first()
            && moment <= now.moment
        {
            self.end_lease(offset);
            // It counts, if the record is leased again.
            self.slot(offset).was_released = false;
            self.make_free(offset);
            self.mark(offset);
            self.expired_at = Some(now.moment);
            freed += 1;
        }
        while let Some(&(due, offset)) = self.delayed.first()
            && due <= now.wall
        {
            self.delayed.remove(&(due, offset));
            self.slot(offset).record.not_before = None;
            self.make_free(offset);
            freed += 1;
        }
        freed
    }

    /// Settles offsets that hold no readable record (skipped damage, gaps), even if they are leased. Offsets that are
    /// already settling stay with their change. A range that begins beyond [`Queue::next`] is left: a later read meets
    /// it again.
    pub fn settle_skipped(&mut self, from: Offset, until: Offset) {
        let gone: Vec<Offset> = self
            .open
            .range(from..until.max(from))
            .map(|(offset, _)| *offset)
            .filter(|offset| !self.settling.contains_key(offset))
            .collect();
        for offset in gone {
            self.forget(offset);
            self.mark(offset);
        }
        if from <= self.next && until > self.next {
            self.next = until;
            self.unsaved = true;
        }
        self.advance_floor();
    }

    /// Settles the offsets below the log start: the log no longer holds them.
    pub fn trim(&mut self, now: Moment, log_start: Offset) {
        if self.floor < log_start {
            // What nobody has looked at is unsettled, as the floor is.
            self.lost_at = Some(now);
        }
        while let Some((&offset, _)) = self.open.first_key_value()
            && offset < log_start
        {
            self.forget(offset);
        }
        self.next = self.next.max(log_start);
        self.seen = self.seen.map(|seen| seen.max(log_start));
        self.advance_floor();
    }

    /// Changes how often a record is delivered before it becomes a dead letter.
    pub fn set_max_deliveries(&mut self, max_deliveries: u32) {
        self.max_deliveries = max_deliveries.max(1);
        for offset in std::mem::take(&mut self.exhausted) {
            self.make_free(offset);
        }
    }

    fn held_by(&self, member: MemberKey) -> impl Iterator<Item = Offset> {
        let polls = (member, PollNumber(0), Offset::ZERO)..=(member, PollNumber(u64::MAX), Offset::MAX);
        self.held.range(polls).map(|(_, _, offset)| *offset)
    }

    /// An unsettled record.
    fn get(&self, offset: Offset) -> Option<&Slot> {
        let returned = || self.returned.get(&offset).map(|(slot, _)| slot);
        self.open.get(&offset).or_else(returned)
    }

    /// The same, which is known to be unsettled.
    fn slot(&mut self, offset: Offset) -> &mut Slot {
        let slot = match self.returned.get_mut(&offset) {
            Some((slot, _)) => Some(slot),
            None => self.open.get_mut(&offset),
        };
        slot.expect("what is held is unsettled")
    }

    fn lease(&mut self, offset: Offset, lease: Lease) {
        let poll = self.slot(offset).poll;
        self.leases.insert(offset, lease);
        self.deadlines.insert((lease.deadline, offset));
        self.held.insert((lease.member, poll, offset));
        self.hold(offset);
    }

    /// Takes a lease out of the lists of those that may end; `false` if there is none.
    fn unlist_lease(&mut self, offset: Offset) -> bool {
        let Some(lease) = self.leases.get(&offset).copied() else {
            return false;
        };
        let poll = self.slot(offset).poll;
        self.deadlines.remove(&(lease.deadline, offset));
        self.held.remove(&(lease.member, poll, offset));
        true
    }

    /// Ends a lease; `false` if there is none. The caller says what the record is now.
    fn end_lease(&mut self, offset: Offset) -> bool {
        self.unlist_lease(offset);
        self.leases.remove(&offset).is_some()
    }

    /// Takes back the delivery of a lease that ended.
    fn uncount(&mut self, offset: Offset) {
        self.slot(offset).record.deliveries -= 1;
    }

    /// Lists a record that nobody holds.
    fn make_free(&mut self, offset: Offset) {
        let Slot {
            record,
            key,
            is_unwanted,
            ..
        } = *self.slot(offset);
        if is_unwanted {
            self.forget(offset);
            self.mark(offset);
            return self.advance_floor();
        }
        let is_unread = self.seen.is_some_and(|seen| seen <= offset) && self.open.contains_key(&offset);
        match record.not_before {
            Some(due) => drop(self.delayed.insert((due, offset))),
            None if is_unread => drop(self.unread.insert(offset)),
            None if key.is_some() => drop(self.behind.insert(offset)),
            None => drop(self.ready.insert(offset)),
        }
        let Some(key) = key else { return };
        let waits_for_its_time = record.not_before.is_some() && !record.is_released;
        self.turn(key, |keys| match waits_for_its_time {
            true => keys.leave(key, offset),
            false => keys.line_up(key, offset),
        });
    }

    /// Notes that a record is leased or settling.
    fn hold(&mut self, offset: Offset) {
        if let Some(key) = self.slot(offset).key {
            self.turn(key, |keys| keys.take(key, offset));
        }
    }

    /// Changes the records of a key. The one that may be leased then is ready, if it is free; no other is.
    fn turn(&mut self, key: KeyHash, change: impl FnOnce(&mut Keys)) {
        let before = self.keys.first(key);
        change(&mut self.keys);
        let first = self.keys.first(key);
        if let Some(before) = before.filter(|_| before != first)
            && self.ready.remove(&before)
        {
            self.behind.insert(before);
        }
        if let Some(first) = first
            && self.behind.remove(&first)
        {
            self.ready.insert(first);
        }
    }

    /// Takes a record that nobody holds out of its list.
    fn unfree(&mut self, offset: Offset) {
        if !self.ready.remove(&offset)
            && !self.behind.remove(&offset)
            && !self.unread.remove(&offset)
            && !self.exhausted.remove(&offset)
            && let Some(due) = self.slot(offset).record.not_before
        {
            self.delayed.remove(&(due, offset));
        }
    }

    /// Removes a record that is settled or trimmed.
    fn forget(&mut self, offset: Offset) {
        self.settling.remove(&offset);
        if !self.end_lease(offset) {
            self.unfree(offset);
        }
        if let Some(key) = self.get(offset).and_then(|slot| slot.key) {
            self.turn(key, |keys| keys.leave(key, offset));
        }
        self.open.remove(&offset);
        self.returned.remove(&offset);
    }

    /// Notes that a record's entry is out of date.
    fn dirty_at(&mut self, offset: Offset) {
        match self.returned.contains_key(&offset) {
            true => drop(self.dirty_returned.insert(offset)),
            false => drop(self.dirty.insert(block_of(offset))),
        }
    }

    /// The same, and the group's writer is to write it soon.
    fn mark(&mut self, offset: Offset) {
        self.dirty_at(offset);
        self.unsaved = true;
    }

    fn advance_floor(&mut self) {
        self.floor = self.open.keys().next().copied().unwrap_or(self.next);
    }
}

/// Adds an offset after those already acquired.
fn add(acquired: &mut Vec<Acquired>, offset: Offset, deliveries: u32, letter: Option<Letter>) {
    match acquired.last_mut() {
        Some(last)
            if last.until == offset
                && last.deliveries == deliveries
                && last.letter.is_none()
                && letter.is_none() =>
        {
            last.until = offset.plus(1);
        }
        _ => acquired.push(Acquired {
            from: offset,
            until: offset.plus(1),
            deliveries,
            letter,
        }),
    }
}

#[cfg(test)]
mod model;
