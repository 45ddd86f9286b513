//! Random histories of an ordered group: consumers that join, poll, lose answers, give up, fall silent and leave, over
//! a log that grows, with commits that land late or fail, and resets of the live group. All invariants are checked after
//! each step.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::broker::groups::members::{Asking, Joining};
use crate::broker::groups::processes::AnswerNumber;

type Commits = Vec<(PartitionId, Offset)>;

const PARTITIONS: u32 = 2;
const SESSION: Ms = 100;

fn id(index: u32) -> PartitionId {
    PartitionId::new(TopicId(1), index)
}

fn name(client: usize) -> Arc<str> {
    format!("c{client}").into()
}

/// Records of a partition: first and next offset, and the epoch since which their owner has the partition.
type Given = (PartitionId, Offset, Offset, u64);

/// A consumer: the answer that it has not acknowledged yet, and its running poll.
#[derive(Default)]
struct Client {
    ack: Option<PollId>,
    /// The step in which it was given that answer.
    given_at: u64,
    epoch: u64,
    poll: Option<(u64, Commits, bool)>,
    /// The last answer that was sent to it, even if it was lost: first and next offset of each partition, and the epoch
    /// since which it has had the partition.
    last: Option<(PollId, Vec<Given>)>,
    /// The acknowledgements that it has sent as a member, oldest first.
    sent: Vec<PollId>,
    /// The partitions that the last one of these lost.
    lost: Vec<PartitionId>,
    /// Unfinished commits of a poll that it gave up: it begins no others before these have ended.
    left_behind: Vec<(PartitionId, Offset)>,
    /// Unfinished commits of what its polls passed over.
    passing: Vec<(PartitionId, Offset)>,
}

impl Client {
    fn is_idle(&self) -> bool {
        self.poll.is_none() && self.left_behind.is_empty() && self.passing.is_empty()
    }
}

/// A group of clients over a log, and everything that happened.
struct World {
    members: Members,
    group: Ordered,
    now: Ms,
    ends: BTreeMap<PartitionId, u64>,
    durable: BTreeMap<PartitionId, u64>,
    clients: Vec<Client>,
    /// How often each record was processed.
    processed: HashMap<(PartitionId, u64), u32>,
    /// Whether nothing has happened that may deliver a record twice.
    is_clean: bool,
    step: u64,
    /// When each partition was last held by somebody else than a client.
    held_by_others: HashMap<(usize, PartitionId), u64>,
    /// Whether only some of the records match.
    has_filter: bool,
    /// When each partition was last reset.
    reset_at: HashMap<PartitionId, u64>,
    /// Where those begin that were reset and not delivered from since.
    begins: HashMap<PartitionId, u64>,
    /// The partitions that a reset has taken back from a client, until an answer that says so arrives.
    untold: HashMap<usize, BTreeSet<PartitionId>>,
    /// Records that a reset has passed over.
    skipped: BTreeSet<(PartitionId, u64)>,
}

#[derive(Clone, Debug)]
enum Op {
    Produce(u32, u64),
    Join(usize),
    Begin(usize),
    /// The commits of a poll end: durable or not.
    EndCommit(usize, bool),
    /// A poll reads and delivers so many; its answer arrives or is lost.
    Deliver(usize, u64, bool),
    GiveUp(usize),
    Leave(usize, bool),
    Silence(Ms),
    Forget(usize),
    /// A late duplicate of a poll.
    Stray(usize, prop::sample::Index),
    /// The server begins to commit what members have passed over.
    BeginPassed,
    /// One of these commits ends: durable or not.
    EndPassed(usize, bool),
    /// The group is reset in a partition, live.
    Reset(u32, prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0_usize..4;
    prop_oneof![
        3 => (0..PARTITIONS, 1_u64..20).prop_map(|(index, count)| Op::Produce(index, count)),
        2 => client.clone().prop_map(Op::Join),
        6 => client.clone().prop_map(Op::Begin),
        6 => (client.clone(), prop::bool::weighted(0.95)).prop_map(|(client, ok)| Op::EndCommit(client, ok)),
        6 => (client.clone(), 1_u64..30, prop::bool::weighted(0.9)).prop_map(|(client, most, arrives)| Op::Deliver(client, most, arrives)),
        2 => client.clone().prop_map(Op::GiveUp),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, acks)| Op::Leave(client, acks)),
        2 => (1..SESSION * 3).prop_map(Op::Silence),
        1 => client.clone().prop_map(Op::Forget),
        2 => Just(Op::BeginPassed),
        2 => (client.clone(), prop::bool::weighted(0.9)).prop_map(|(client, ok)| Op::EndPassed(client, ok)),
        2 => (client, any::<prop::sample::Index>()).prop_map(|(client, which)| Op::Stray(client, which)),
        1 => (0..PARTITIONS, any::<prop::sample::Index>()).prop_map(|(index, to)| Op::Reset(index, to)),
    ]
}

impl World {
    fn new() -> Self {
        Self {
            members: Members::new(7, 0),
            group: Ordered::default(),
            now: 0,
            ends: (0..PARTITIONS).map(|index| (id(index), 0)).collect(),
            durable: BTreeMap::new(),
            clients: (0..4).map(|_| Client::default()).collect(),
            processed: HashMap::new(),
            is_clean: true,
            step: 0,
            held_by_others: HashMap::new(),
            has_filter: false,
            reset_at: HashMap::new(),
            begins: HashMap::new(),
            untold: HashMap::new(),
            skipped: BTreeSet::new(),
        }
    }

    fn matches(&self, offset: u64) -> bool {
        !self.has_filter || offset % 3 == 1
    }

    fn join(&mut self, client: usize) {
        // A member of that name is replaced.
        self.is_clean &= self.members.get(&name(client)).is_none() && self.clients[client].ack.is_none();
        self.clients[client].last = None;
        self.take_in(client);
        self.refresh();
        let told = self.group.tell(&mut self.members, &name(client));
        self.clients[client].epoch = told.unwrap().0;
    }

    fn take_in(&mut self, client: usize) {
        let joining = Joining {
            member: name(client),
            client_id: None,
            address: None,
            session_timeout: SESSION,
            instance: None,
        };
        self.members.join(joining, self.now);
        self.group.join(&name(client));
        let member = self.members.get_mut(&name(client)).expect("it has joined");
        member.topics = BTreeSet::from([TopicId(1)]);
    }

    fn refresh(&mut self) {
        let partitions = self.ends.keys().copied().collect();
        let durable = self.durable.clone();
        let committed = |id| durable.get(&id).map(|offset| Offset::new(*offset));
        self.group.refresh(&mut self.members, &partitions, committed);
    }

    /// As the coordinator begins a poll.
    fn begin_poll(&mut self, client: usize, ack: Option<&PollId>) -> Result<(u64, Commits), Refused> {
        let asking = Asking {
            ack: ack.map(|ack| AnswerNumber::of(ack, self.members.life)),
            instance: None,
            is_ordered: true,
        };
        let begun = self.members.begin_poll(&name(client), asking, self.now)?;
        let acknowledged = self
            .group
            .acknowledge(&mut self.members, &name(client), ack, begun.is_repeated);
        if let Some(ack) = ack {
            self.check_lost(client, ack, &acknowledged.lost);
        }
        let given_at = self.clients[client].given_at;
        for (id, next) in acknowledged.commits.iter().filter(|_| !self.has_filter) {
            let is_old = self.reset_at(*id) > given_at;
            assert!(
                !is_old,
                "{id}: {next} of an answer from before a reset is committed"
            );
        }
        Ok((begun.token, acknowledged.commits))
    }

    fn reset_at(&self, id: PartitionId) -> u64 {
        self.reset_at.get(&id).copied().unwrap_or(0)
    }

    /// An `ack` names as lost exactly those of its partitions that somebody else has had since its answer, or that were
    /// reset; one that comes again, the same as the first time.
    fn check_lost(&mut self, client: usize, ack: &PollId, lost: &[PartitionId]) {
        if self.clients[client].sent.last() != Some(ack) {
            let given_at = self.clients[client].given_at;
            let had = |id: &PartitionId| self.held_by_others.get(&(client, *id)).copied().unwrap_or(0);
            let partitions = ack.reach.iter().map(|reach| reach.partition);
            let is_lost = |id: &PartitionId| had(id).max(self.reset_at(*id)) > given_at;
            self.clients[client].lost = partitions.filter(is_lost).collect();
            self.clients[client].sent.push(ack.clone());
        }
        assert_eq!(lost, self.clients[client].lost, "of {ack:?}");
    }

    fn note_holders(&mut self) {
        for (id, holder) in self.group.partitions() {
            for client in (0..4).filter(|client| holder.is_some_and(|holder| *holder != name(*client))) {
                self.held_by_others.insert((client, id), self.step);
            }
        }
    }

    /// As the coordinator takes a member out.
    fn take_out(&mut self, client: usize) {
        self.members.leave(&name(client)).expect("a member");
        self.clients[client].sent.clear();
        self.untold.remove(&client);
        self.group.leave(&mut self.members, &name(client));
        self.note_holders();
    }

    fn land(&mut self, commits: &[(PartitionId, Offset)], is_durable: bool) {
        if is_durable {
            for (id, next) in commits {
                let before = self.durable.insert(*id, next.get());
                assert!(
                    before.is_none_or(|before| before <= next.get()),
                    "{id}: a commit of {next} after {before:?}"
                );
            }
        }
        self.group
            .end_commit(&mut self.members, commits, is_durable, false);
    }

    /// Ends the commits that a client's poll has begun.
    fn end_commit(&mut self, client: usize, is_durable: bool) {
        let left_behind = std::mem::take(&mut self.clients[client].left_behind);
        if !left_behind.is_empty() {
            self.land(&left_behind, is_durable);
        }
        let Some((token, commits, false)) = self.clients[client].poll.clone() else {
            return;
        };
        self.clients[client].poll = None;
        self.land(&commits, is_durable);
        if !is_durable {
            // Answered as an error; the client asks again with the same acknowledgement.
            let _ = self.members.end_poll(&name(client), token, self.now);
        } else if self.members.wait(&name(client), token).is_ok() {
            self.group.go_on(&mut self.members, &name(client));
            self.clients[client].poll = Some((token, Vec::new(), true));
        }
    }

    fn deliver(&mut self, client: usize, most: u64, arrives: bool) {
        let Some((token, _, true)) = self.clients[client].poll else {
            return;
        };
        if self.members.check_poll(&name(client), token).is_err() {
            self.clients[client].poll = None;
            return;
        }
        let (places, _) = self.group.readable(&name(client)).expect("a member");
        let mut left = most;
        let mut ranges = Vec::new();
        for place in places {
            let (id, from) = (place.partition, place.from);
            let end = place.until.map_or(self.ends[&id], Offset::get);
            let count = left.min(end.saturating_sub(from.get()));
            if count > 0 {
                ranges.push((id, from, from.plus(count)));
                left -= count;
            }
        }
        let has_match = |(_, from, next): &(PartitionId, Offset, Offset)| {
            (from.get()..next.get()).any(|offset| self.matches(offset))
        };
        if !ranges.is_empty() && !ranges.iter().any(has_match) {
            let passed = self
                .group
                .pass(&mut self.members, &name(client), token, &ranges, self.now);
            assert!(passed.is_ok(), "it is in that poll");
            return;
        }
        self.check_lost_come_first(client, most, &ranges);
        let answer = self
            .group
            .deliver(&mut self.members, &name(client), token, ranges.clone(), self.now)
            .unwrap();
        let answer = answer.expect("nothing happened in between");
        self.clients[client].poll = None;
        let owned_since = |id: &PartitionId| self.group.slots[id].owned_since;
        let rows = ranges.iter();
        let sent = rows.map(|(id, from, next)| (*id, *from, *next, owned_since(id)));
        self.clients[client].last = Some((answer.poll_id.clone(), sent.collect()));
        for (id, from, _) in &ranges {
            assert!(answer.assignment.contains(id));
            let begin = self.begins.remove(id).filter(|_| !self.has_filter);
            assert!(
                begin.is_none_or(|begin| begin == from.get()),
                "{id} goes on at {from}, not {begin:?}"
            );
        }
        let untold = self.untold.get(&client).into_iter().flatten();
        for id in untold {
            assert!(
                answer.moved.contains(id),
                "c{client} is not told of the reset of {id}"
            );
        }
        if arrives {
            self.untold.remove(&client);
        }
        if arrives {
            for (id, from, next) in ranges {
                let offsets = from.get()..next.get();
                let matching: Vec<u64> = offsets.filter(|offset| self.matches(*offset)).collect();
                for offset in matching {
                    *self.processed.entry((id, offset)).or_default() += 1;
                }
            }
            self.clients[client].epoch = answer.epoch;
            self.clients[client].ack = Some(answer.poll_id);
            self.clients[client].given_at = self.step;
        } else {
            // Lost records were not processed. They may be delivered again, and each is still processed once. The client
            // repeats its `ack`, or has forgotten it.
            let repeats = most.is_multiple_of(2);
            let sent = self.clients[client].sent.last().cloned();
            self.clients[client].ack =
                sent.filter(|sent| repeats && self.clients[client].ack.as_ref() == Some(sent));
        }
    }

    /// If the poll does not acknowledge the last answer, the records of that answer come before all others: as many as
    /// the poll takes, from partitions that the member still has.
    fn check_lost_come_first(&self, client: usize, most: u64, ranges: &[(PartitionId, Offset, Offset)]) {
        let asking = &self.clients[client];
        let Some((poll_id, last)) = asking
            .last
            .as_ref()
            .filter(|(id, _)| asking.ack.as_ref() != Some(id))
        else {
            return;
        };
        let mut left = most;
        let mut expected = Vec::new();
        for (id, from, next, owned_since) in last {
            let slot = &self.group.slots[id];
            let mut from = slot.committed.unwrap_or(Offset::ZERO).max(*from);
            if slot.passed.is_some() {
                from = from.max(slot.position);
            }
            if slot.holder() != Some(&name(client))
                || slot.owned_since != *owned_since
                || slot.moved > poll_id.number
                || slot.is_committing_passed()
                || from >= *next
                || left == 0
            {
                continue;
            }
            let count = left.min(next.since(from));
            expected.push((*id, from, from.plus(count)));
            left -= count;
        }
        let begin = &ranges[..expected.len().min(ranges.len())];
        let is_again = |(got, lost): (&(PartitionId, Offset, Offset), &(PartitionId, Offset, Offset))| {
            (got.0, got.1) == (lost.0, lost.1) && got.2 >= lost.2
        };
        assert!(
            begin.len() == expected.len() && begin.iter().zip(&expected).all(is_again),
            "{poll_id:?} was lost with {expected:?}, and the next answer begins with {ranges:?}"
        );
    }

    fn apply(&mut self, op: Op) {
        self.step += 1;
        match op {
            Op::Produce(index, count) => *self.ends.get_mut(&id(index)).unwrap() += count,
            Op::Join(client) if self.clients[client].is_idle() => self.join(client),
            Op::Begin(client) if self.clients[client].is_idle() => {
                let ack = self.clients[client].ack.clone();
                match self.begin_poll(client, ack.as_ref()) {
                    Ok((token, commits)) => self.clients[client].poll = Some((token, commits, false)),
                    Err(refused) => assert_eq!(refused, Refused::Unknown),
                }
            }
            Op::EndCommit(client, is_durable) => self.end_commit(client, is_durable),
            Op::Deliver(client, most, arrives) => self.deliver(client, most, arrives),
            Op::GiveUp(client) => {
                if let Some((token, commits, is_waiting)) = self.clients[client].poll.take() {
                    let _ = self.members.end_poll(&name(client), token, self.now);
                    if !is_waiting {
                        self.clients[client].left_behind = commits;
                    }
                }
            }
            Op::Leave(client, acks) if self.clients[client].is_idle() => {
                let ack = self.clients[client].ack.take();
                self.clients[client].last = None;
                self.is_clean &= acks || ack.is_none();
                if self.members.get(&name(client)).is_some() {
                    let ack = ack.as_ref().filter(|_| acks);
                    let acknowledged = self
                        .group
                        .acknowledge(&mut self.members, &name(client), ack, false);
                    self.land(&acknowledged.commits, true);
                    self.take_out(client);
                } else {
                    self.is_clean &= ack.is_none();
                }
            }
            Op::Silence(by) => {
                self.now += by;
                for gone in self.members.expired(self.now) {
                    let client = (0..4).find(|client| name(*client) == gone).unwrap();
                    self.take_out(client);
                    self.is_clean &= self.clients[client].ack.is_none();
                    self.clients[client].last = None;
                }
            }
            // A client that has restarted without a memory.
            Op::Forget(client) if self.clients[client].poll.is_none() => {
                self.is_clean &= self.clients[client].ack.take().is_none();
            }
            Op::Stray(client, which) => self.send_stray(client, &which),
            Op::BeginPassed => self.begin_passed(),
            Op::EndPassed(client, is_durable) => self.end_passed(client, is_durable),
            // It waits for commits that run.
            Op::Reset(index, to) if !self.group.is_committing() => self.reset(id(index), to),
            _ => {}
        }
        self.note_holders();
        self.check();
    }

    /// As somebody resets the live group.
    fn reset(&mut self, id: PartitionId, to: prop::sample::Index) {
        let end = self.ends[&id];
        let to = to.index(usize::try_from(end).unwrap() + 1) as u64;
        let before = self.durable.insert(id, to).unwrap_or(0);
        self.skipped.extend((before..to).map(|offset| (id, offset)));
        self.is_clean = false;
        self.reset_at.insert(id, self.step);
        self.begins.insert(id, to);
        let holder = self.group.slots.get(&id).and_then(Slot::holder).cloned();
        let client = holder.and_then(|holder| (0..4).find(|client| name(*client) == holder));
        let epoch = client.and_then(|client| Some(self.members.get(&name(client))?.epoch));
        self.group.move_to(&mut self.members, &[(id, Offset::new(to))]);
        if let Some(client) = client {
            self.untold.entry(client).or_default().insert(id);
            let now = self.members.get(&name(client)).map(|member| member.epoch);
            assert_ne!(now, epoch, "c{client} is fenced");
        }
    }

    /// As the server commits what members have passed over, when that is due.
    fn begin_passed(&mut self) {
        for member in self.group.due_passed(self.now + 1000) {
            let client = (0..4).find(|client| name(*client) == member).unwrap();
            let asking = &self.clients[client];
            let is_committing = matches!(asking.poll, Some((_, _, false))) || !asking.left_behind.is_empty();
            if is_committing || !asking.passing.is_empty() {
                // It would wait for the member's turn to commit.
                self.group.end_passing(&member);
                continue;
            }
            self.clients[client].passing = self.group.begin_passed(&member, self.now);
            if self.clients[client].passing.is_empty() {
                self.group.end_passing(&member);
            }
        }
    }

    fn end_passed(&mut self, client: usize, is_durable: bool) {
        let commits = std::mem::take(&mut self.clients[client].passing);
        if !commits.is_empty() {
            self.land(&commits, is_durable);
            self.group.end_passing(&name(client));
        }
    }

    /// A poll whose `ack` was acknowledged before the last one is refused, and changes nothing.
    fn send_stray(&mut self, client: usize, which: &prop::sample::Index) {
        let sent = &self.clients[client].sent;
        let Some((_, before)) = sent.split_last().filter(|(_, before)| !before.is_empty()) else {
            return;
        };
        let stray = before[which.index(before.len())].clone();
        let state = format!("{:?} {:?}", self.members, self.group);
        let refused = self.begin_poll(client, Some(&stray)).unwrap_err();
        // One of before the client forgot everything is of an older process.
        assert!(matches!(refused, Refused::Superseded | Refused::MemberSuperseded));
        assert_eq!(format!("{:?} {:?}", self.members, self.group), state);
    }

    /// Checks the invariants that hold at every moment.
    fn check(&self) {
        for (slot_id, slot) in &self.group.slots {
            assert!(slot.committed.map_or(0, Offset::get) <= self.ends[slot_id]);
            let found = slot.committed.map(Offset::get);
            assert_eq!(found, self.durable.get(slot_id).copied());
            let committed = slot.committed.unwrap_or(Offset::ZERO);
            if slot.passed.is_some() {
                let passed = committed.get()..slot.position.get();
                let left = passed.clone().find(|offset| self.matches(*offset));
                assert_eq!(left, None, "{slot_id}: {passed:?} is passed over");
            }
            if let Some(owner) = slot.holder() {
                assert!(
                    self.members.get(owner).is_some(),
                    "{slot_id} is held by somebody who is gone"
                );
            }
        }
        for (name, reader) in &self.group.readers {
            assert!(self.members.get(name).is_some(), "{name} is gone");
            for (id, _, next) in reader.delivery.iter().flat_map(|delivery| &delivery.ranges) {
                let slot = &self.group.slots[id];
                assert_eq!(slot.holder(), Some(name), "{name} works on {id}");
                let committed = slot.committed.unwrap_or(Offset::ZERO);
                assert!(
                    committed == slot.base || committed >= *next,
                    "{id}: {committed} is committed in the midst of a delivery to {next} after {}",
                    slot.base
                );
            }
        }
    }

    /// All members go on until every record is acknowledged.
    fn drain(&mut self) {
        self.step += 1;
        for client in 0..4 {
            self.end_passed(client, true);
            self.end_commit(client, true);
            self.deliver(client, 1, true);
        }
        if self.members.is_empty() {
            self.join(0);
        }
        for _ in 0..200 {
            for client in 0..4 {
                self.apply(Op::Begin(client));
                self.apply(Op::EndCommit(client, true));
                self.apply(Op::Deliver(client, 50, true));
                self.apply(Op::BeginPassed);
                self.apply(Op::EndPassed(client, true));
            }
            if self.durable.values().sum::<u64>() == self.ends.values().sum::<u64>() {
                return;
            }
        }
        panic!(
            "{:?} of {:?} are committed: {:?}",
            self.durable, self.ends, self.group
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2500))]
    #[test]
    fn every_record_is_processed_and_once_where_nothing_went_wrong(
        has_filter: bool,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new();
        world.has_filter = has_filter;
        for op in ops {
            world.apply(op);
        }
        world.drain();
        for (id, end) in &world.ends {
            for offset in 0..*end {
                if !world.matches(offset) {
                    continue;
                }
                let times = world.processed.get(&(*id, offset)).copied().unwrap_or(0);
                let is_skipped = world.skipped.contains(&(*id, offset));
                prop_assert!(times >= 1 || is_skipped, "{id} {offset} was lost");
                prop_assert!(times == 1 || !world.is_clean, "{id} {offset} was processed {times} times");
            }
        }
        prop_assert!(!world.group.is_rebalancing());
    }
}

/// A world where one client has joined, over partitions with so many records each.
fn alone_over(ends: &[u64]) -> World {
    let mut world = World::new();
    world.ends = (0..).map(id).zip(ends.iter().copied()).collect();
    world.join(0);
    world
}

/// Polls for so many records, with or without an `ack`; returns the delivered ranges by partition.
fn poll(world: &mut World, most: u64, acks: bool) -> Vec<(u32, u64, u64)> {
    if !acks {
        world.clients[0].ack = None;
    }
    world.apply(Op::Begin(0));
    world.apply(Op::EndCommit(0, true));
    world.apply(Op::Deliver(0, most, true));
    let (_, sent) = world.clients[0].last.as_ref().expect("an answer");
    sent.iter()
        .map(|(id, from, next, _)| (id.index, from.get(), next.get()))
        .collect()
}

#[test]
fn a_lost_answer_comes_again_before_anything_else_and_in_parts_if_the_polls_are_smaller() {
    let mut world = alone_over(&[4, 4, 4, 4, 4, 4]);
    let first = poll(&mut world, 10, false);
    assert_eq!(first, [(0, 0, 4), (1, 0, 4), (2, 0, 2)]);
    // New records wait until all lost records are delivered again.
    world.apply(Op::Produce(0, 50));
    assert_eq!(poll(&mut world, 10, false), first);
    assert_eq!(poll(&mut world, 6, false), [(0, 0, 4), (1, 0, 2)]);
    // Lost again, and the next poll asks for fewer records.
    assert_eq!(poll(&mut world, 3, false), [(0, 0, 3)]);
    assert_eq!(poll(&mut world, 4, true), [(0, 3, 4), (1, 0, 3)]);
    let rest = poll(&mut world, 100, true);
    assert_eq!(rest[..2], [(1, 3, 4), (2, 0, 2)]);
    assert_eq!(rest.len(), 6, "and then all others");
}

#[test]
fn a_member_that_takes_its_own_place_is_given_first_what_the_one_before_had_in_hand() {
    let mut world = alone_over(&[4, 4, 4]);
    poll(&mut world, 4, false);
    let second = poll(&mut world, 4, true);
    world.join(0);
    assert_eq!(poll(&mut world, 4, false), second);
}

#[test]
fn what_was_read_before_a_reset_is_neither_delivered_nor_passed_over_after_it() {
    let mut world = alone_over(&[9]);
    world.apply(Op::Begin(0));
    world.apply(Op::EndCommit(0, true));
    let (token, ..) = world.clients[0].poll.clone().unwrap();
    world.group.readable(&name(0)).unwrap();
    let read = vec![(id(0), Offset::ZERO, Offset::new(5))];
    let World { group, members, .. } = &mut world;
    group.move_to(members, &[(id(0), Offset::ZERO)]);
    assert_eq!(group.pass(members, &name(0), token, &read, 0).unwrap(), None);
    assert_eq!(
        group.deliver(members, &name(0), token, read.clone(), 0).unwrap(),
        None
    );
    let (places, is_new) = group.readable(&name(0)).unwrap();
    assert!(
        is_new && places[0].from == Offset::ZERO,
        "the poll is answered at once"
    );
    let answer = group.deliver(members, &name(0), token, read, 0).unwrap().unwrap();
    assert_eq!(answer.moved, [id(0)]);
}

#[test]
fn one_member_of_thousands_costs_no_more_than_its_own_partitions() {
    let mut world = World::new();
    world.ends = (0..1000).map(|index| (id(index), 0)).collect();
    for client in 0..1000 {
        world.take_in(client);
    }
    world.refresh();
    assert!(!world.group.is_rebalancing());
    let count = |client| world.group.held_by(&name(client)).count();
    let mut held: Vec<usize> = (0..1000).map(count).collect();
    held.dedup();
    assert_eq!(held, [1]);
}
