//! Random histories of a queue, against a model that is written from the contract: a list of records, each with a plain
//! state, and loops over all of them.
//!
//! This file: the model, and what each step does to it and to the queue. `writes`: becoming durable, and crashes. `check`:
//! what must be equal after each step. `steps` and `histories`: the tests.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::codec::{self, Saved};
use super::looks::Seen;
use super::*;
use crate::broker::engine::{PartitionId, TopicId};

mod check;
mod histories;
mod steps;
mod writes;

use steps::{Step, rules, step};

const MAX_DELIVERIES: u32 = 3;
const LEASE_MS: u64 = 100;

/// What a queue knows of an unsettled record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    lease: Option<(MemberKey, Moment)>,
    /// The poll that leased it last; `None`: unknown since a restart, or never leased.
    poll: Option<PollNumber>,
    deliveries: u32,
    is_released: bool,
    /// The poll before the lease, and whether the record was released then.
    before: (Option<PollNumber>, bool),
    /// It was released before a lease that has not counted as a delivery.
    was_released: bool,
    /// The highest delivery count of a poll whose member released it; after a crash, what that may have been.
    released_at: u32,
    due: Option<TimestampMs>,
    change: Option<ChangeId>,
    is_exhausted: bool,
    /// It was redriven, and is read from its dead letter.
    is_returned: bool,
    /// The queue was told what is in it.
    is_seen: bool,
    /// It is not wanted, and was held when that was seen.
    is_unwanted: bool,
}

/// What a record consists of, as far as queues ask.
#[derive(Clone, Copy, Debug)]
struct Content {
    key: Option<u8>,
    tag: u8,
    deliver_at: Option<TimestampMs>,
    /// The offset has no record, as compaction leaves it.
    is_gap: bool,
}

/// The settings of a group.
#[derive(Clone, Copy, Debug)]
struct Rules {
    by_key: bool,
    /// Wants records with this tag only.
    tag: Option<u8>,
}

impl Rules {
    const NONE: Self = Self {
        by_key: false,
        tag: None,
    };

    fn looks(self) -> bool {
        self.by_key || self.tag.is_some()
    }

    fn wants(self, content: Content) -> bool {
        self.tag.is_none_or(|tag| tag == content.tag)
    }
}

impl Record {
    fn is_ready(&self) -> bool {
        self.lease.is_none() && self.due.is_none() && self.change.is_none() && !self.is_exhausted
    }

    fn is_delayed(&self) -> bool {
        self.lease.is_none() && self.due.is_some() && self.change.is_none()
    }

    fn is_in_hand(&self) -> bool {
        self.lease.is_some() || self.change.is_some()
    }

    /// Whether it waits for its `deliver_at`, and was not given back with a delay.
    fn is_for_later(&self) -> bool {
        self.is_delayed() && !self.is_released
    }

    /// What a crash leaves of it.
    fn after_a_crash(self) -> Self {
        let deliveries = self.deliveries - u32::from(self.lease.is_some() && !self.was_released);
        let is_free_again = self.lease.is_none() && (self.is_released || self.was_released);
        let is_mistakable = self.released_at > 0 && deliveries <= self.released_at;
        let is_released = is_free_again || is_mistakable;
        Self {
            deliveries,
            is_released,
            released_at: u32::from(is_released) * (deliveries + 1),
            due: self.due,
            is_returned: self.is_returned,
            ..Self::default()
        }
    }
}

/// The unsettled records, from offset 0 to the end of the log.
type Records = BTreeMap<u64, Record>;

/// A record in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Given {
    member: MemberKey,
    poll: PollNumber,
    offset: u64,
}

impl Given {
    fn is(&self, poll: PollNumber, offset: u64) -> bool {
        (self.poll, self.offset) == (poll, offset)
    }
}

/// A write in flight.
struct Flight {
    changes: Vec<ChangeId>,
    /// The entries that it writes, and the records after it.
    written: Written,
    records: Records,
    released: BTreeSet<Given>,
}

struct Pair {
    queue: Queue,
    /// Decides what is in each record.
    seed: u64,
    rules: Rules,
    records: Records,
    end: u64,
    log_start: u64,
    /// The records and entries that a crash leaves.
    durable: Records,
    head: Vec<u8>,
    blocks: BTreeMap<u64, Vec<u8>>,
    returned: BTreeMap<u64, Vec<u8>>,
    flight: Option<Flight>,
    /// Changes that wait to be written.
    changes: Vec<ChangeId>,
    now: Now,
    polls: Vec<(MemberKey, PollNumber, Vec<Acquired>)>,
    last_poll: u64,
    /// What polls were given, whatever became of it.
    given: Vec<Given>,
    /// What of that its member has released, now and in what a crash leaves.
    released: BTreeSet<Given>,
    durable_released: BTreeSet<Given>,
    /// What members have named since the queue was loaded.
    named: BTreeSet<(MemberKey, PollNumber, u64)>,
}

fn at(offset: u64) -> Offset {
    Offset::new(offset)
}

impl Pair {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut queue = Queue::new(Offset::ZERO, MAX_DELIVERIES);
        queue.set_looking(rules.looks());
        Self {
            queue,
            seed,
            rules,
            records: Records::new(),
            end: 0,
            log_start: 0,
            durable: Records::new(),
            head: Vec::new(),
            blocks: BTreeMap::new(),
            returned: BTreeMap::new(),
            flight: None,
            changes: Vec::new(),
            now: Now {
                moment: Moment(1),
                wall: TimestampMs(1_000_000),
            },
            polls: Vec::new(),
            last_poll: 0,
            given: Vec::new(),
            released: BTreeSet::new(),
            durable_released: BTreeSet::new(),
            named: BTreeSet::new(),
        }
    }

    fn expire(&mut self) {
        for record in self.records.values_mut().filter(|record| record.change.is_none()) {
            if record
                .lease
                .is_some_and(|(_, deadline)| deadline <= self.now.moment)
            {
                record.lease = None;
                record.was_released = false;
            }
            if record.lease.is_none() && record.due.is_some_and(|due| due <= self.now.wall) {
                record.due = None;
            }
        }
        self.settle_unwanted();
    }

    /// What is not wanted settles once nobody holds it.
    fn settle_unwanted(&mut self) {
        self.records
            .retain(|_, record| !record.is_unwanted || record.is_in_hand());
    }

    fn content(&self, offset: u64) -> Content {
        let mut random = self.seed ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random = (random ^ (random >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random ^= random >> 29;
        let is_one_in = |bits: u32, count: u64| (random >> bits).is_multiple_of(count);
        Content {
            key: (!is_one_in(0, 4)).then_some((random >> 8) as u8 % 4),
            tag: (random >> 16) as u8 % 2,
            deliver_at: is_one_in(24, 5).then_some(TimestampMs(1_000_000 + (random >> 32) as i64 % 1500)),
            is_gap: is_one_in(48, 11),
        }
    }

    /// The key that orders a record; none if nobody knows it.
    fn key_of(&self, offset: u64, record: &Record) -> Option<u8> {
        let content = self.content(offset);
        let has_order = self.rules.by_key && record.is_seen && !record.is_returned && !content.is_gap;
        content.key.filter(|_| has_order)
    }

    /// The records that the contract allows to lease now: what is free, and of each key the first unsettled record that
    /// does not wait for its `deliver_at`, while no other one is in hand.
    fn leasable(&self) -> BTreeSet<u64> {
        let mut held: BTreeSet<u8> = BTreeSet::new();
        for (offset, record) in self.records.iter().filter(|(_, record)| record.is_in_hand()) {
            held.extend(self.key_of(*offset, record));
        }
        let mut found = BTreeSet::new();
        for (offset, record) in &self.records {
            let key = self.key_of(*offset, record);
            if record.is_ready() && key.is_none_or(|key| !held.contains(&key)) {
                found.insert(*offset);
            }
            // In line: what comes later in the partition comes later.
            held.extend(key.filter(|_| !record.is_for_later()));
        }
        if self.rules.looks() {
            let is_known = |offset: &u64| self.records[offset].is_seen || self.records[offset].is_returned;
            found.retain(is_known);
        }
        found
    }

    /// A reader reads some records and tells the queue; `shift`: it is late, or ahead.
    fn look(&mut self, count: u64, shift: i64, room: usize) {
        let own = self.records.iter().filter(|(_, record)| !record.is_returned);
        let first = own
            .filter(|(_, record)| !record.is_seen)
            .map(|(offset, _)| *offset);
        let first = first.min().filter(|_| self.rules.looks());
        let next = self.queue.next().get();
        let unseen = first.filter(|first| *first < next || room > 0);
        assert_eq!(self.queue.unseen(at(self.end), room), unseen.map(at));
        let Some(first) = first else {
            self.queue.saw(self.now, at(0), at(self.end), &[], room);
            return;
        };
        let from = first.saturating_add_signed(shift);
        let until = (from + count).min(self.end);
        let records = (from..until).filter(|offset| !self.content(*offset).is_gap);
        let seen = records.map(|offset| {
            let content = self.content(offset);
            Seen {
                offset: at(offset),
                is_wanted: self.rules.wants(content),
                due: content.deliver_at,
                key: content
                    .key
                    .filter(|_| self.rules.by_key)
                    .map(|key| KeyHash::of(&[key])),
            }
        });
        let seen: Vec<Seen> = seen.collect();
        self.queue
            .saw(self.now, at(from), at(until.max(from)), &seen, room);
        if from > first {
            return;
        }
        let mut room = room;
        for offset in first..until {
            let content = self.content(offset);
            let Some(mut record) = self
                .records
                .get(&offset)
                .copied()
                .filter(|record| !record.is_returned)
            else {
                continue;
            };
            if content.is_gap {
                record.is_seen = true;
                match record.change {
                    Some(_) => drop(self.records.insert(offset, record)),
                    None => drop(self.records.remove(&offset)),
                }
                continue;
            }
            let is_wanted = self.rules.wants(content);
            if offset >= next && is_wanted {
                if room == 0 {
                    break;
                }
                room -= 1;
            }
            if record.is_seen {
                continue;
            }
            (record.is_seen, record.is_unwanted) = (true, !is_wanted);
            if let Some(due) = content.deliver_at
                && due > self.now.wall
                && !record.is_in_hand()
                && is_wanted
            {
                record.due = record.due.max(Some(due));
            }
            self.records.insert(offset, record);
        }
        self.settle_unwanted();
    }

    /// What the contract says of a settle: `None` if it counts.
    fn outcome(&self, offset: u64, claim: Claim) -> Outcome {
        let Some(record) = self.records.get(&offset) else {
            return if offset < self.end {
                Outcome::Settled
            } else {
                Outcome::Lost
            };
        };
        if record.lease.is_some_and(|(member, _)| member != claim.member()) {
            return Outcome::Lost;
        }
        let Claim::Poll { poll, deliveries, .. } = claim else {
            return Outcome::Done;
        };
        let is_last = match record.poll {
            Some(last) => last == poll,
            // Polls from before a redrive did not deliver the record that was redriven.
            None if record.is_returned && record.deliveries == 0 => false,
            None => record.deliveries <= deliveries,
        };
        match record.lease {
            Some(_) if is_last => Outcome::Done,
            None if is_last && !record.is_released => Outcome::Done,
            Some(_) => Outcome::Left,
            // It was released: by whom, is forgotten in a crash.
            None if is_last && self.named.contains(&(claim.member(), poll, offset)) => Outcome::Left,
            None => Outcome::Lost,
        }
    }

    /// Settles some records, as a caller does: it waits while one of them is settling, and looks at all of them first.
    fn settle(&mut self, claims: Vec<(u64, Claim)>) {
        let offsets = || claims.iter().map(|(offset, _)| at(*offset));
        let is_settling = claims.iter().any(|(offset, _)| {
            self.records
                .get(offset)
                .is_some_and(|record| record.change.is_some())
        });
        assert_eq!(self.queue.is_any_settling(offsets()), is_settling);
        if is_settling {
            return;
        }
        if let Some(last) = offsets().max() {
            assert!(self.queue.look(last, at(self.end), usize::MAX));
        }
        claims
            .iter()
            .for_each(|(offset, claim)| self.check_claim(*offset, *claim));
        let begun = self
            .queue
            .begin_settle(claims.iter().map(|(offset, claim)| (at(*offset), *claim)));
        let with = |wanted: Outcome| -> Vec<Offset> {
            let of = claims
                .iter()
                .filter(|(offset, claim)| self.outcome(*offset, *claim) == wanted);
            of.map(|(offset, _)| at(*offset)).collect()
        };
        let (taken, lost, settled) = (with(Outcome::Done), with(Outcome::Lost), with(Outcome::Settled));
        assert_eq!(begun.lost, lost);
        assert_eq!(begun.settled, settled);
        self.took(&begun, &taken);
    }

    /// What a member has released, its acknowledgement of the poll never accepts. And an acknowledgement that does not count
    /// is always answered as lost or settled, unless its member has released the record or holds it again. Whatever was
    /// given back, left and forgotten in crashes before.
    fn check_claim(&self, offset: u64, claim: Claim) {
        let Claim::Poll { member, poll, .. } = claim else {
            return;
        };
        let given = Given { member, poll, offset };
        let is_released = self.released.contains(&given);
        match self.queue.outcome(at(offset), claim) {
            Outcome::Done => assert!(!is_released, "{given:?} was released and would be accepted"),
            Outcome::Left => {
                let record = &self.records[&offset];
                let is_held = record.lease.is_some_and(|(holder, _)| holder == member);
                assert!(
                    is_released || is_held,
                    "{given:?} does not count, and nobody says so"
                );
            }
            Outcome::Lost | Outcome::Settled => {}
        }
    }

    fn took(&mut self, begun: &Begun, expected: &[Offset]) {
        let taken: Vec<Offset> = begun.taken.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(taken, expected);
        assert_eq!(begun.change.is_some(), !taken.is_empty());
        for (offset, deliveries) in &begun.taken {
            let record = self.records.get_mut(&offset.get()).expect("it was unsettled");
            assert_eq!(record.deliveries, *deliveries);
            record.change = begun.change;
        }
        self.changes.extend(begun.change);
    }

    fn run(&mut self, step: Step) {
        let past_end = self.end + 3;
        match step {
            Step::Append(count) => {
                let fresh = self.end..self.end + count;
                self.records
                    .extend(fresh.map(|offset| (offset, Record::default())));
                self.end += count;
            }
            Step::Acquire { member, max, room } => self.acquire(MemberKey(member), max, room),
            Step::GiveBack {
                poll,
                from,
                is_put_off,
            } => {
                let Some((member, number, leased)) = pick(&self.polls, poll).cloned() else {
                    return;
                };
                let offsets: Vec<u64> = offsets_of(&leased);
                let back = &offsets[from % (offsets.len() + 1)..];
                let due = is_put_off.then(|| TimestampMs(self.now.wall.get() + 200));
                self.queue
                    .give_back(member, number, back.iter().map(|offset| at(*offset)), due);
                for offset in back {
                    let Some(record) = self.records.get_mut(offset) else {
                        continue;
                    };
                    let is_held = record.lease.is_some_and(|(holder, _)| holder == member)
                        && record.poll == Some(number)
                        && record.change.is_none();
                    if is_held {
                        record.lease = None;
                        (record.poll, record.is_released) = record.before;
                        record.deliveries -= 1;
                        record.due = due;
                        self.given.retain(|given| !given.is(number, *offset));
                    }
                }
            }
            Step::Accept { member, from, count } => {
                let from = from % past_end;
                let claim = Claim::Member(MemberKey(member));
                self.settle((from..from + count).map(|offset| (offset, claim)).collect());
            }
            Step::Ack { poll } => {
                let Some((member, number, leased)) = pick(&self.polls, poll).cloned() else {
                    return;
                };
                let claims = leased.iter().flat_map(|range| {
                    let claim = Claim::Poll {
                        member,
                        poll: number,
                        deliveries: range.deliveries,
                    };
                    (range.from.get()..range.until.get()).map(move |offset| (offset, claim))
                });
                self.settle(claims.collect());
            }
            Step::Release {
                member,
                offset,
                delay,
                counts,
            } => self.release(MemberKey(member), offset % past_end, delay, counts),
            Step::Extend { member, offset } => self.extend(MemberKey(member), offset % past_end),
            Step::ExtendAll(member) => {
                let member = MemberKey(member);
                let deadline = self.deadline();
                self.queue.extend_all(member, deadline);
                let held = self.records.values_mut().filter(|record| {
                    record.change.is_none() && record.lease.is_some_and(|(holder, _)| holder == member)
                });
                for record in held {
                    record.lease = Some((member, deadline));
                }
            }
            Step::Leave(member) => {
                let member = MemberKey(member);
                self.queue.leave(member);
                for record in self.records.values_mut() {
                    if record.lease.is_some_and(|(holder, _)| holder == member) {
                        record.lease = None;
                        record.deliveries -= 1;
                    }
                }
            }
            Step::Bury(most) => {
                let exhausted: Vec<u64> = self
                    .records
                    .iter()
                    .filter(|(_, record)| record.is_exhausted && record.change.is_none())
                    .map(|(offset, _)| *offset)
                    .collect();
                let expected: Vec<Offset> = exhausted.iter().take(most).map(|offset| at(*offset)).collect();
                assert_eq!(self.queue.exhausted(most), expected);
                let begun = self.queue.begin_burial(expected.clone());
                self.took(&begun, &expected);
            }
            Step::Advance(ms) => {
                self.now.moment.0 += ms;
                self.now.wall.0 += ms as i64;
                self.queue.expire(self.now);
                self.expire();
            }
            Step::Trim(to) => {
                self.log_start = self.log_start.max(to % (self.end + 1));
                self.queue.trim(self.now.moment, at(self.log_start));
                self.trimmed();
            }
            Step::Skip { from, count } => {
                let from = from % (self.end + 1);
                let until = (from + count).min(self.end);
                if from > self.queue.next().get() || until <= from {
                    return;
                }
                self.queue.settle_skipped(at(from), at(until));
                self.records.retain(|offset, record| {
                    !(from..until).contains(offset) || record.change.is_some() || record.is_returned
                });
            }
            Step::BeginWrite(changes) => self.begin_write(changes),
            Step::EndWrite { is_durable } => self.end_write(is_durable),
            Step::Undo(change) => {
                if let Some(change) = self.waiting_change(change) {
                    self.queue.undo(change);
                    self.undone(change);
                }
            }
            Step::SplitOff { change, from } => {
                let Some(change) = self.waiting_change(change) else {
                    return;
                };
                let all: Vec<u64> = self.offsets_in(change);
                let out: Vec<u64> = all[from % (all.len() + 1)..].to_vec();
                let rest = self.queue.split_off(change, out.iter().map(|offset| at(*offset)));
                assert_eq!(rest.is_some(), !out.is_empty());
                // What was trimmed meanwhile may keep the change alive.
                let is_left = self.queue.changes.contains_key(&change);
                assert!(is_left || out.len() == all.len());
                for offset in &out {
                    self.records.get_mut(offset).expect("it is in the change").change = rest;
                }
                self.changes.extend(is_left.then_some(change));
                self.changes.extend(rest);
            }
            Step::Crash { has_written } => self.crash(has_written),
            Step::Redrive(offset) => self.redrive(offset),
            Step::ForgetLetter(offset) => {
                let letters = self.records.iter().filter(|(_, record)| record.is_returned);
                let letters: Vec<u64> = letters.map(|(offset, _)| *offset).collect();
                if let Some(offset) = pick(&letters, offset as usize) {
                    self.queue.forget_letter(at(*offset));
                    if self.records[offset].change.is_none() {
                        self.records.remove(offset);
                    }
                }
            }
            Step::Look { count, shift, room } => self.look(count, shift, room),
            Step::Alter(rules) => {
                self.rules = rules;
                self.queue.set_looking(rules.looks());
                for record in self.records.values_mut() {
                    (record.is_seen, record.is_unwanted, record.is_exhausted) = (false, false, false);
                }
            }
            Step::MaxDeliveries(most) => {
                self.queue.set_max_deliveries(most);
                for record in self.records.values_mut() {
                    record.is_exhausted = false;
                }
            }
        }
    }

    fn trimmed(&mut self) {
        self.records
            .retain(|offset, record| *offset >= self.log_start || record.is_returned);
    }

    /// Gives a settled record back, which is durable at once.
    fn redrive(&mut self, offset: u64) {
        // Only what is durably settled has a dead letter.
        let next = self.durable_next();
        if next == 0 {
            return;
        }
        let offset = offset % next;
        let is_settled = |records: &Records| !records.contains_key(&offset);
        let is_in_flight = self
            .flight
            .as_ref()
            .is_some_and(|flight| !is_settled(&flight.records));
        if !is_settled(&self.records) || !is_settled(&self.durable) || is_in_flight {
            return;
        }
        self.queue.give_back_letter(at(offset), letter(offset));
        self.given.retain(|given| given.offset != offset);
        for released in [&mut self.released, &mut self.durable_released] {
            released.retain(|given| given.offset != offset);
        }
        if let Some(flight) = &mut self.flight {
            flight.released.retain(|given| given.offset != offset);
        }
        let record = Record {
            is_returned: true,
            ..Record::default()
        };
        self.returned
            .insert(offset, codec::encode_returned(Unsettled::FRESH, letter(offset)));
        self.records.insert(offset, record);
        self.durable.insert(offset, record);
        if let Some(flight) = &mut self.flight {
            flight.records.insert(offset, record);
        }
    }

    fn durable_next(&self) -> u64 {
        match self.head.is_empty() {
            true => 0,
            false => Saved::decode(&self.head, [])
                .expect("it is readable")
                .head
                .next
                .get(),
        }
    }

    fn deadline(&self) -> Moment {
        Moment(self.now.moment.0 + LEASE_MS)
    }

    fn acquire(&mut self, member: MemberKey, max: usize, room: usize) {
        self.last_poll += 1;
        let poll = PollNumber(self.last_poll);
        let deadline = self.deadline();
        let next = self.queue.next().get();
        let acquired = self.queue.acquire(&Leasing {
            now: self.now,
            deadline,
            member,
            poll,
            log_start: at(self.log_start),
            end: at(self.end),
            max,
            room,
        });
        self.expire();
        let next = next.max(self.log_start);
        let max_deliveries = self.queue.max_deliveries;
        let mut expected = Vec::new();
        let leasable = self.leasable();
        for (offset, record) in &mut self.records {
            let is_beyond = *offset >= next + room as u64 && !self.rules.looks();
            if expected.len() == max || is_beyond {
                break;
            }
            if !leasable.contains(offset) {
                continue;
            }
            if record.deliveries >= max_deliveries {
                record.is_exhausted = true;
                continue;
            }
            record.deliveries += 1;
            record.lease = Some((member, deadline));
            record.before = (record.poll, record.is_released);
            record.was_released |= record.is_released;
            record.poll = Some(poll);
            record.is_released = false;
            expected.push((*offset, record.deliveries));
            self.given.push(Given {
                member,
                poll,
                offset: *offset,
            });
        }
        for range in &acquired {
            let record = self.records[&range.from.get()];
            let expected = record.is_returned.then(|| letter(range.from.get()));
            assert_eq!(range.letter, expected);
        }
        let ranges = acquired.iter();
        let found = ranges
            .flat_map(|range| (range.from.get()..range.until.get()).map(|offset| (offset, range.deliveries)));
        assert_eq!(found.collect::<Vec<_>>(), expected);
        self.polls.push((member, poll, acquired));
    }

    fn release(&mut self, member: MemberKey, offset: u64, delay: Option<i64>, counts: bool) {
        let due = delay.map(|delay| TimestampMs(self.now.wall.get() + delay));
        if self.queue.is_any_settling([at(offset)]) {
            return;
        }
        assert!(self.queue.look(at(offset), at(self.end), usize::MAX));
        let outcome = self.queue.release(member, at(offset), due, counts);
        assert_eq!(outcome, self.outcome(offset, Claim::Member(member)));
        if outcome == Outcome::Done {
            let record = self.records.get_mut(&offset).expect("it is unsettled");
            let count = record.deliveries + u32::from(record.lease.is_none());
            record.released_at = record.released_at.max(count);
            record.deliveries -= u32::from(record.lease.is_some() && !counts);
            record.lease = None;
            record.is_released = true;
            record.was_released = false;
            record.due = due;
            record.is_exhausted = false;
            let of_member = self
                .given
                .iter()
                .filter(|given| given.member == member && given.offset == offset);
            self.released.extend(of_member.copied());
            self.named.extend(record.poll.map(|poll| (member, poll, offset)));
        }
    }

    fn extend(&mut self, member: MemberKey, offset: u64) {
        if self.queue.is_any_settling([at(offset)]) {
            return;
        }
        assert!(self.queue.look(at(offset), at(self.end), usize::MAX));
        let deadline = self.deadline();
        let outcome = self.queue.extend(member, at(offset), deadline);
        assert_eq!(outcome, self.outcome(offset, Claim::Member(member)));
        if outcome == Outcome::Done {
            let record = self.records.get_mut(&offset).expect("it is unsettled");
            if record.lease.is_none() {
                record.deliveries = record.deliveries.max(1);
                record.before = (record.poll, false);
                record.is_released = false;
                (record.was_released, record.released_at) = (false, 0);
                record.due = None;
                record.is_exhausted = false;
                self.released.retain(|given| given.offset != offset);
            }
            record.lease = Some((member, deadline));
        }
    }

    fn offsets_in(&self, change: ChangeId) -> Vec<u64> {
        let of = self
            .records
            .iter()
            .filter(|(_, record)| record.change == Some(change));
        of.map(|(offset, _)| *offset).collect()
    }

    /// Takes out one of the changes that wait.
    fn waiting_change(&mut self, index: usize) -> Option<ChangeId> {
        (!self.changes.is_empty()).then(|| self.changes.remove(index % self.changes.len()))
    }

    fn undone(&mut self, change: ChangeId) {
        for record in self.records.values_mut() {
            if record.change == Some(change) {
                record.change = None;
                record.is_exhausted = false;
            }
        }
    }
}

/// The dead letter of a record.
fn letter(offset: u64) -> Letter {
    Letter {
        partition: PartitionId::new(TopicId(9), 3),
        offset: at(offset + 1000),
        redriven: 1,
        redriven_at: TimestampMs(77),
    }
}

fn pick<T>(list: &[T], index: usize) -> Option<&T> {
    (!list.is_empty()).then(|| &list[index % list.len()])
}

fn offsets_of(leased: &[Acquired]) -> Vec<u64> {
    let ranges = leased.iter();
    ranges
        .flat_map(|range| range.from.get()..range.until.get())
        .collect()
}
