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
//!               acquire                  begin_accept,              commit
//!   free ───────────────────▶ leased ─── begin_reject ──▶ settling ──────▶ settled
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
//!
//! # What is durable
//! A settled state is durable before it takes effect: [`Queue::begin_write`] gives the entries to write, and
//! [`Queue::commit`] or [`Queue::abort`] reports the result. One write at a time: two in flight could end in the other
//! order, or the earlier could fail, and the later entries would then claim a change that never happened. Unsettled
//! records are written in blocks of [`BLOCK`] offsets, and a write has only the blocks that changed, so its size does
//! not grow with the number of unsettled records.
//!
//! Delays are written with the time of the wall clock at which they end. A crash ends the leases: leased records are
//! free again, with the delivery counts that were last written. Those counts never exceed the truth, but may lack the
//! newest deliveries: a lease alone writes nothing.

mod keys;
pub mod looks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use keys::KeyHash;

use keys::Keys;

use super::codec::{BLOCK, Head, Letter, Saved, Unsettled, block_of};
use crate::broker::engine::{Offset, TimestampMs};

/// The most unsettled records of a partition below `next`: at this bound no record beyond is looked at.
pub const MAX_UNSETTLED: usize = 1_000_000;

/// How many records that members settled or released by name are remembered, for their acknowledgements.
const MAX_NAMED: usize = 10_000;

/// A record that a member has settled or released by name, with the poll that delivered it.
type Named = (MemberKey, PollNumber, Offset);

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

/// Who settles a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A member that names the record: it may settle what nobody else holds.
    Member(MemberKey),
    /// A member that acknowledges a poll: the same, unless it has released the record, or the record was leased again
    /// since.
    Poll {
        /// The member.
        member: MemberKey,
        /// The poll.
        poll: PollNumber,
        /// How often the record had been delivered in that poll, that time included.
        deliveries: u32,
    },
}

impl Claim {
    const fn member(self) -> MemberKey {
        match self {
            Self::Member(member) | Self::Poll { member, .. } => member,
        }
    }
}

/// What became of a record that a settle named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As requested.
    Done,
    /// Somebody else holds it, or it does not exist: nothing changed.
    Lost,
    /// It was settled before: nothing changed.
    Settled,
    /// An acknowledged poll delivered it, and it was released or leased again by the same member: nothing changed.
    Left,
}

/// The offsets that a change would settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Write it and then commit it, or undo it; `None` if no offset was taken.
    pub change: Option<ChangeId>,
    /// The offsets that settle, with their delivery counts, in order.
    pub taken: Vec<(Offset, u32)>,
    /// The requested offsets that somebody else holds or that do not exist, in order.
    pub lost: Vec<Offset>,
    /// The requested offsets that were settled before, in order.
    pub settled: Vec<Offset>,
}

/// What one write changes in the durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The floor, which is the group's committed offset, and the first offset that was never looked at.
    pub head: Head,
    /// The blocks that changed, each with its unsettled records in order; an empty one is removed.
    pub blocks: Vec<(u64, Vec<(Offset, Unsettled)>)>,
    /// The redriven records that changed; `None`: it is settled.
    pub returned: Vec<(Offset, Option<(Unsettled, Letter)>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    member: MemberKey,
    deadline: Moment,
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
}

impl Slot {
    const FRESH: Self = Self::of(Unsettled::FRESH);

    const fn of(record: Unsettled) -> Self {
        Self {
            record,
            poll: PollNumber::UNKNOWN,
            key: None,
            is_unwanted: false,
        }
    }

    /// Whether a poll that delivered it for the `deliveries`th time was the last to lease it.
    fn is_of(&self, poll: PollNumber, deliveries: u32) -> bool {
        self.poll == poll || (self.poll == PollNumber::UNKNOWN && self.record.deliveries <= deliveries)
    }
}

/// A write in flight.
#[derive(Debug)]
struct Writing {
    changes: Vec<ChangeId>,
    head: Head,
    /// The blocks that it writes; the flag: whether it leaves an entry.
    blocks: Vec<(u64, bool)>,
    returned: Vec<Offset>,
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
    /// Records that a member has settled or released by name, with the poll that delivered them; the newest
    /// [`MAX_NAMED`].
    named: BTreeSet<Named>,
    named_order: VecDeque<Named>,
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
            named: BTreeSet::new(),
            named_order: VecDeque::new(),
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

    /// All offsets below are settled. Once written, this is the group's committed offset.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// The first offset that nobody has looked at.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// How many records below [`Queue::next`] are unsettled.
    pub fn unsettled(&self) -> usize {
        self.open.len() + self.returned.len()
    }

    /// One past the last offset that was looked at, less the unsettled records below: each settled record moves it by
    /// one.
    pub fn settled(&self) -> Offset {
        Offset::new(self.next.get() - self.unsettled() as u64)
    }

    /// How many records are leased.
    pub fn leased(&self) -> usize {
        self.leases.len()
    }

    /// How many records wait for their time.
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// The records of a partition that ends at `end` that may be leased now, as far as it is known.
    pub fn waiting(&self, end: Offset) -> u64 {
        (self.ready.len() + self.unread.len()) as u64 + end.get().saturating_sub(self.next.get())
    }

    /// The first unsettled record that was not redriven and does not wait for its time; [`Queue::next`] if all of them
    /// do.
    pub fn first_due(&self) -> Offset {
        let is_own = |offset: &&Offset| self.open.contains_key(offset);
        let firsts = [
            self.ready.iter().find(is_own),
            self.behind.first(),
            self.unread.first(),
            self.exhausted.iter().find(is_own),
            self.leases.keys().find(is_own),
            self.settling.keys().find(is_own),
        ];
        firsts.into_iter().flatten().min().copied().unwrap_or(self.next)
    }

    /// Whether something is due that nobody holds, in a partition that ends at `end`. A record behind another one of its
    /// key is not due.
    pub fn has_due(&self, end: Offset) -> bool {
        let is_due = |list: &BTreeSet<Offset>| !list.is_empty();
        is_due(&self.ready) || is_due(&self.unread) || is_due(&self.exhausted) || self.next < end
    }

    /// When unsettled records were last deleted, by retention or a trim.
    pub fn lost_at(&self) -> Option<Moment> {
        self.lost_at
    }

    /// Whether a member holds a record.
    pub fn is_leased_to(&self, offset: Offset, member: MemberKey) -> bool {
        self.leases
            .get(&offset)
            .is_some_and(|lease| lease.member == member)
    }

    /// How many records all polls of a member hold together.
    pub fn leased_to(&self, member: MemberKey) -> usize {
        self.held_by(member).count()
    }

    /// The leases: each offset with its member, delivery count and end.
    pub fn leases(&self) -> impl Iterator<Item = (Offset, MemberKey, u32, Moment)> {
        self.leases.iter().map(|(offset, lease)| {
            let deliveries = self.get(*offset).map_or(0, |slot| slot.record.deliveries);
            (*offset, lease.member, deliveries, lease.deadline)
        })
    }

    /// The next end of a lease.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(moment, _)| *moment)
    }

    /// The next end of a delay.
    pub fn next_due(&self) -> Option<TimestampMs> {
        self.delayed.first().map(|(time, _)| *time)
    }

    /// At most `max` offsets that were delivered as often as allowed and would be leased now, in order: see
    /// [`Queue::begin_burial`].
    pub fn exhausted(&self, max: usize) -> Vec<Offset> {
        self.exhausted.iter().take(max).copied().collect()
    }

    /// Whether a write without changes would save something.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
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
        let lease = Lease {
            member: wanted.member,
            deadline: wanted.deadline,
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
            slot.poll = wanted.poll;
            add(&mut acquired, offset, slot.record.deliveries, letter);
            if was_released {
                // Written with the next settle: a late acknowledgement of this lease counts after a crash too.
                self.dirty_at(offset);
            }
            self.lease(offset, lease);
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
            self.lease(offset, lease);
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
            self.end_lease(offset);
            self.uncount(offset);
            let slot = self.slot(offset);
            slot.poll = PollNumber::UNKNOWN;
            slot.record.not_before = due;
            if due.is_some() {
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

    /// Whether one of these offsets is in a change whose result is not known yet: the caller waits for it, and asks
    /// again.
    pub fn is_any_settling(&self, offsets: impl IntoIterator<Item = Offset>) -> bool {
        !self.settling.is_empty()
            && offsets
                .into_iter()
                .any(|offset| self.settling.contains_key(&offset))
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

    /// Begins to settle those of `offsets` that the claim covers. The caller has [looked](Queue::look) at them.
    pub fn begin_settle(&mut self, offsets: impl IntoIterator<Item = (Offset, Claim)>) -> Begun {
        let mut begun = Begun::default();
        for (offset, claim) in offsets {
            match self.outcome(offset, claim) {
                Outcome::Done => {
                    if let Claim::Member(member) = claim {
                        self.note_named(member, offset);
                    }
                    self.take(offset, &mut begun);
                }
                Outcome::Lost => begun.lost.push(offset),
                Outcome::Settled => begun.settled.push(offset),
                Outcome::Left => {}
            }
        }
        self.finish(begun)
    }

    /// Begins to settle those of `offsets` that are [exhausted](Queue::exhausted). Append their dead letters together
    /// with the write.
    pub fn begin_burial(&mut self, offsets: impl IntoIterator<Item = Offset>) -> Begun {
        let mut begun = Begun::default();
        for offset in offsets {
            if self.exhausted.contains(&offset) {
                self.take(offset, &mut begun);
            }
        }
        self.finish(begun)
    }

    /// What a claim may do with a record.
    fn outcome(&self, offset: Offset, claim: Claim) -> Outcome {
        if self.settling.contains_key(&offset) {
            // Of this same change: the request names the record twice.
            return Outcome::Left;
        }
        let Some(slot) = self.get(offset) else {
            let was_seen = offset < self.next;
            return if was_seen { Outcome::Settled } else { Outcome::Lost };
        };
        let lease = self.leases.get(&offset);
        if lease.is_some_and(|lease| lease.member != claim.member()) {
            return Outcome::Lost;
        }
        let Claim::Poll { poll, deliveries, .. } = claim else {
            return Outcome::Done;
        };
        // A poll from before a redrive did not deliver the record that was redriven.
        let is_new = slot.poll == PollNumber::UNKNOWN && slot.record.deliveries == 0;
        let is_new_again = is_new && self.returned.contains_key(&offset);
        let is_of_poll = slot.is_of(poll, deliveries) && !is_new_again;
        match (is_of_poll, lease.is_some()) {
            (true, true) => Outcome::Done,
            (true, false) if slot.record.is_released => Outcome::Left,
            (true, false) => Outcome::Done,
            (false, true) => Outcome::Left,
            (false, false) => Outcome::Lost,
        }
    }

    /// Notes that a member settles or releases a record by name: its acknowledgement of the poll does not mean it.
    fn note_named(&mut self, member: MemberKey, offset: Offset) {
        let named = (member, self.slot(offset).poll, offset);
        if named.1 != PollNumber::UNKNOWN && self.named.insert(named) {
            self.named_order.push_back(named);
            if self.named_order.len() > MAX_NAMED
                && let Some(oldest) = self.named_order.pop_front()
            {
                self.named.remove(&oldest);
            }
        }
    }

    /// What a claim may do with a record if outputs go with it. Of the records that an acknowledged poll delivered, those
    /// that its member has settled or released by name are left out. What was leased to it again comes with outputs once
    /// more.
    pub fn outcome_with_outputs(&self, offset: Offset, claim: Claim) -> Outcome {
        match (self.outcome(offset, claim), claim) {
            (outcome, Claim::Poll { member, poll, .. }) if outcome != Outcome::Done => {
                let is_named = self.named.contains(&(member, poll, offset));
                let is_again = outcome == Outcome::Left && self.leases.contains_key(&offset);
                match outcome {
                    _ if is_named => Outcome::Left,
                    _ if is_again => Outcome::Lost,
                    _ => outcome,
                }
            }
            (outcome, _) => outcome,
        }
    }

    fn take(&mut self, offset: Offset, begun: &mut Begun) {
        if !self.unlist_lease(offset) {
            self.unfree(offset);
        }
        self.settling.insert(offset, ChangeId(self.next_change));
        self.hold(offset);
        begun.taken.push((offset, self.slot(offset).record.deliveries));
    }

    fn finish(&mut self, mut begun: Begun) -> Begun {
        begun.taken.sort_unstable();
        for list in [&mut begun.lost, &mut begun.settled] {
            list.sort_unstable();
            list.dedup();
        }
        if !begun.taken.is_empty() {
            let change = ChangeId(self.next_change);
            self.next_change += 1;
            let taken = begun.taken.iter().map(|(offset, _)| *offset).collect();
            self.changes.insert(change, taken);
            begun.change = Some(change);
        }
        begun
    }

    /// Returns the entries that make `changes`, and everything before, durable. Its floor is the group's committed
    /// offset once it is written. [`Queue::commit`] or [`Queue::abort`] must follow.
    ///
    /// Other changes that have begun are written later.
    ///
    /// # Panics
    /// If a write is in flight, or one of `changes` is not waiting for one: the coordinator writes one at a time.
    #[must_use]
    pub fn begin_write(&mut self, changes: &[ChangeId]) -> Written {
        assert!(
            self.writing.is_none(),
            "a write of the queue at {} is in flight",
            self.floor
        );
        for change in changes {
            assert!(self.changes.contains_key(change), "there is no {change:?}");
            for offset in &self.changes[change] {
                match self.returned.contains_key(offset) {
                    true => self.dirty_returned.insert(*offset),
                    false => self.dirty.insert(block_of(*offset)),
                };
            }
        }
        // The records that were looked at since the last write are in no entry yet.
        let fresh: Vec<Offset> = self
            .open
            .range(self.stored_next.min(self.next)..)
            .map(|(offset, _)| *offset)
            .collect();
        self.dirty.extend(fresh.into_iter().map(block_of));
        let is_settled = |offset: &Offset| {
            self.settling
                .get(offset)
                .is_some_and(|change| changes.contains(change))
        };
        let floor = self.open.keys().find(|offset| !is_settled(offset));
        let head = Head {
            floor: floor.copied().unwrap_or(self.next),
            next: self.next,
        };
        // What lies below the floor has no entry.
        let below: Vec<u64> = self.stored.range(..block_of(head.floor)).copied().collect();
        self.dirty.extend(below);
        let mut blocks = Vec::with_capacity(self.dirty.len());
        let mut writes = Vec::with_capacity(self.dirty.len());
        for number in std::mem::take(&mut self.dirty) {
            let first = Offset::new(number * BLOCK);
            let rows: Vec<(Offset, Unsettled)> = self
                .open
                .range(first..first.plus(BLOCK))
                .filter(|(offset, _)| !is_settled(offset))
                .map(|(offset, slot)| (*offset, self.durable(*offset, slot.record)))
                .collect();
            // Also with nothing to remove the block is remembered: if this write fails, it is out of date again.
            writes.push((number, !rows.is_empty()));
            if !rows.is_empty() || self.stored.contains(&number) {
                blocks.push((number, rows));
            }
        }
        let dirty_returned = std::mem::take(&mut self.dirty_returned);
        let returned = dirty_returned.iter().map(|offset| {
            let record = self.returned.get(offset).filter(|_| !is_settled(offset));
            let entry = record.map(|(slot, letter)| (self.durable(*offset, slot.record), *letter));
            (*offset, entry)
        });
        let returned = returned.collect();
        self.writing = Some(Writing {
            changes: changes.to_vec(),
            head,
            blocks: writes,
            returned: dirty_returned.into_iter().collect(),
        });
        self.unsaved = false;
        Written {
            head,
            blocks,
            returned,
        }
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
        let writing = self.writing.take().expect("a write ends once, after it began");
        for (number, has_entry) in writing.blocks {
            if has_entry {
                self.stored.insert(number);
            } else {
                self.stored.remove(&number);
            }
        }
        self.stored_next = writing.head.next;
        for change in writing.changes {
            for offset in self.changes.remove(&change).into_iter().flatten() {
                if self.settling.get(&offset) == Some(&change) {
                    self.forget(offset);
                }
                if let Some(letter) = self.returning.remove(&offset) {
                    self.give_back_letter(offset, letter);
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
        let writing = self.writing.take().expect("a write ends once, after it began");
        self.dirty
            .extend(writing.blocks.into_iter().map(|(number, _)| number));
        self.dirty_returned.extend(writing.returned);
        for change in writing.changes {
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
        if !self.end_lease(offset) {
            self.unfree(offset);
        } else if !counts {
            self.uncount(offset);
        }
        let record = &mut self.slot(offset).record;
        record.is_released = true;
        record.not_before = due;
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
        }
        !held.is_empty()
    }

    /// Moves the end of a lease. A lease that has ended begins again, if nobody else holds the record.
    pub fn extend(&mut self, member: MemberKey, offset: Offset, deadline: Moment) -> Outcome {
        let outcome = self.outcome(offset, Claim::Member(member));
        if outcome != Outcome::Done {
            return outcome;
        }
        if !self.end_lease(offset) {
            self.unfree(offset);
            // It goes on with the work of the lease that ended, which counts once the record is leased again.
            let record = &mut self.slot(offset).record;
            record.deliveries = record.deliveries.max(1);
            record.is_released = false;
            record.not_before = None;
            self.mark(offset);
        }
        self.lease(offset, Lease { member, deadline });
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
            self.make_free(offset);
            self.mark(offset);
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

    /// The durable form: an open lease may still be given back, so it is not counted as a delivery yet.
    fn durable(&self, offset: Offset, record: Unsettled) -> Unsettled {
        match self.leases.contains_key(&offset) {
            true => Unsettled {
                deliveries: record.deliveries - 1,
                ..record
            },
            false => record,
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

    /// Restores the states from before the change; offsets trimmed meanwhile are gone.
    fn reopen(&mut self, offsets: Vec<Offset>) {
        for offset in offsets {
            if self.settling.remove(&offset).is_none() {
                continue;
            }
            match self.leases.get(&offset).copied() {
                Some(lease) => self.lease(offset, lease),
                None => self.make_free(offset),
            }
            if let Some(letter) = self.returning.remove(&offset) {
                self.give_back_letter(offset, letter);
            }
        }
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

    fn assert_not_in_flight(&self, change: ChangeId) {
        let in_flight = self
            .writing
            .as_ref()
            .is_some_and(|writing| writing.changes.contains(&change));
        assert!(!in_flight, "{change:?} is being written");
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
#[path = "queue_model.rs"]
mod model;
