//! Tests of the queue against a naive model that keeps the state of every offset and scans all of them each time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 8;
const MAX_DELIVERIES: u32 = 3;
const OFFSETS: u64 = 30;
const LEASE_MS: u64 = 10;

/// An offset in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never leased, or given back.
    Free {
        deliveries: u32,
        not_before: u64,
    },
    Exhausted {
        deliveries: u32,
    },
    Leased {
        member: u64,
        poll: u64,
        deadline: u64,
        deliveries: u32,
    },
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    state: State,
    /// Set while the offset is settling; `state` is the state before.
    change: Option<ChangeId>,
}

const FRESH: Cell = Cell::new(State::free(0, 0));
const SETTLED: Cell = Cell::new(State::Settled);

impl State {
    const fn free(deliveries: u32, not_before: u64) -> Self {
        Self::Free {
            deliveries,
            not_before,
        }
    }
}

impl Cell {
    const fn new(state: State) -> Self {
        let change = None;
        Self { state, change }
    }

    fn is_of(&self, changes: &[ChangeId]) -> bool {
        self.change.is_some_and(|change| changes.contains(&change))
    }
}

/// The naive model, and what further checks need.
struct Model {
    cells: Vec<Cell>,
    log_start: u64,
    now: u64,
    /// The durable state of each offset: its deliveries, or `None` for settled.
    durable: Vec<Option<u32>>,
    /// The durable state once the write in flight succeeds, and that write's changes.
    writing: Option<(Vec<Option<u32>>, Vec<ChangeId>)>,
    /// How often each offset was really delivered.
    delivered: Vec<u32>,
    accepted: BTreeSet<u64>,
}

impl Model {
    fn new() -> Self {
        Self {
            cells: vec![FRESH; OFFSETS as usize],
            log_start: 0,
            now: 0,
            durable: vec![Some(0); OFFSETS as usize],
            writing: None,
            delivered: vec![0; OFFSETS as usize],
            accepted: BTreeSet::new(),
        }
    }

    fn floor(&self) -> u64 {
        let first = (self.log_start..OFFSETS).find(|at| self.cells[*at as usize].state != State::Settled);
        first.unwrap_or(OFFSETS)
    }

    fn next(&self) -> u64 {
        let last = (0..OFFSETS).rev().find(|at| self.cells[*at as usize] != FRESH);
        last.map_or(0, |last| last + 1).max(self.floor())
    }

    fn ended(deliveries: u32, not_before: u64) -> State {
        if deliveries >= MAX_DELIVERIES {
            State::Exhausted { deliveries }
        } else {
            State::free(deliveries, not_before)
        }
    }

    fn trim(&mut self, log_start: u64) {
        self.log_start = self.log_start.max(log_start);
        self.cells[..self.log_start as usize].fill(SETTLED);
    }

    fn expire(&mut self) {
        for cell in self.cells.iter_mut().filter(|cell| cell.change.is_none()) {
            match cell.state {
                State::Leased {
                    deadline, deliveries, ..
                } if deadline <= self.now => cell.state = Self::ended(deliveries, 0),
                State::Free {
                    deliveries,
                    not_before,
                } if not_before <= self.now => {
                    cell.state = State::free(deliveries, 0);
                }
                _ => {}
            }
        }
    }

    fn acquire(&mut self, member: u64, poll: u64, log_start: u64, end: u64, max: usize) -> Vec<(u64, u32)> {
        self.trim(log_start);
        self.expire();
        let window_end = self.floor() + WINDOW;
        let mut acquired = Vec::new();
        for at in 0..end.min(window_end) {
            let cell = &mut self.cells[at as usize];
            if acquired.len() < max
                && cell.change.is_none()
                && let State::Free {
                    deliveries,
                    not_before: 0,
                } = cell.state
            {
                let (deliveries, deadline) = (deliveries + 1, self.now + LEASE_MS);
                cell.state = State::Leased {
                    member,
                    poll,
                    deadline,
                    deliveries,
                };
                self.delivered[at as usize] += 1;
                acquired.push((at, deliveries));
            }
        }
        acquired
    }

    fn leased_by(&self, at: u64, member: u64) -> Option<(u64, u32)> {
        let cell = self.cells.get(at as usize).filter(|cell| cell.change.is_none())?;
        match cell.state {
            State::Leased {
                member: owner,
                poll,
                deliveries,
                ..
            } if owner == member => Some((poll, deliveries)),
            _ => None,
        }
    }

    fn begin(&mut self, begun: &Begun, offsets: &[u64], is_taken: impl Fn(&Self, u64) -> bool) {
        let unique: BTreeSet<u64> = offsets.iter().copied().collect();
        let (taken, lost): (Vec<u64>, Vec<u64>) = unique.into_iter().partition(|at| is_taken(self, *at));
        let found: Vec<u64> = begun.taken.iter().map(|(offset, _)| offset.get()).collect();
        assert_eq!(found, taken, "taken");
        assert_eq!(begun.lost.iter().map(|lost| lost.get()).collect::<Vec<_>>(), lost);
        for (offset, deliveries) in &begun.taken {
            let cell = &mut self.cells[offset.get() as usize];
            assert!(
                matches!(cell.state, State::Leased { deliveries: d, .. } | State::Exhausted { deliveries: d } if d == *deliveries)
            );
            cell.change = begun.change;
        }
        assert_eq!(begun.change.is_some(), !taken.is_empty());
    }

    fn image(&self, changes: &[ChangeId]) -> Vec<Option<u32>> {
        let image = |cell: &Cell| match cell.state {
            _ if cell.is_of(changes) => None,
            State::Settled => None,
            State::Free { deliveries, .. } | State::Exhausted { deliveries } => Some(deliveries),
            State::Leased { deliveries, .. } => Some(deliveries - 1),
        };
        self.cells.iter().map(image).collect()
    }

    fn commit(&mut self) {
        let (image, changes) = self.writing.take().unwrap();
        self.durable = image;
        for (at, cell) in self.cells.iter_mut().enumerate() {
            if cell.is_of(&changes) {
                *cell = SETTLED;
                self.accepted.insert(at as u64);
            }
        }
    }

    fn undo(&mut self, changes: &[ChangeId]) {
        for cell in self.cells.iter_mut().filter(|cell| cell.is_of(changes)) {
            cell.change = None;
        }
    }

    /// The process ends; the write in flight was durable, or not.
    fn crash(&mut self, was_durable: bool) {
        if let Some((image, _)) = self.writing.take()
            && was_durable
        {
            for at in 0..OFFSETS {
                if image[at as usize].is_none() && self.durable[at as usize].is_some() {
                    self.accepted.insert(at);
                }
            }
            self.durable = image;
        }
        for (cell, durable) in self.cells.iter_mut().zip(&self.durable) {
            cell.change = None;
            cell.state = durable.map_or(State::Settled, |deliveries| Self::ended(deliveries, 0));
        }
        // The floor is the written one: the next poll sees later trims again.
        self.log_start = 0;
    }
}

#[derive(Clone, Debug)]
enum Op {
    Acquire {
        member: u64,
        trim: u64,
        end: u64,
        max: usize,
    },
    GiveBack {
        member: u64,
        back: u64,
        offsets: Vec<u64>,
    },
    Accept {
        member: u64,
        offsets: Vec<u64>,
    },
    Ack {
        member: u64,
        back: u64,
    },
    Reject {
        member: u64,
        offsets: Vec<u64>,
    },
    DeadLetter,
    Write {
        all: bool,
    },
    Commit,
    Abort,
    Undo,
    UndoSome {
        offsets: Vec<u64>,
    },
    Release {
        member: u64,
        offset: u64,
        delay_ms: u64,
    },
    ReleaseAll {
        member: u64,
    },
    Extend {
        member: u64,
        offset: u64,
        for_ms: u64,
    },
    Pass {
        ms: u64,
    },
    Skip {
        from: u64,
        length: u64,
    },
    Crash {
        was_durable: bool,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    let member = || 0..3_u64;
    let offset = || 0..OFFSETS;
    let offsets = || proptest::collection::vec(0..OFFSETS, 0..12);
    prop_oneof![
        8 => (member(), prop_oneof![9 => Just(0), 1 => 0..OFFSETS / 2], OFFSETS / 2..=OFFSETS, 0..10_usize)
            .prop_map(|(member, trim, end, max)| Op::Acquire { member, trim, end, max }),
        2 => (member(), 0..3_u64, offsets())
            .prop_map(|(member, back, offsets)| Op::GiveBack { member, back, offsets }),
        3 => (member(), offsets()).prop_map(|(member, offsets)| Op::Accept { member, offsets }),
        3 => (member(), 0..3_u64).prop_map(|(member, back)| Op::Ack { member, back }),
        1 => (member(), offsets()).prop_map(|(member, offsets)| Op::Reject { member, offsets }),
        2 => Just(Op::DeadLetter),
        4 => any::<bool>().prop_map(|all| Op::Write { all }),
        4 => Just(Op::Commit),
        1 => Just(Op::Abort),
        1 => Just(Op::Undo),
        1 => offsets().prop_map(|offsets| Op::UndoSome { offsets }),
        3 => (member(), offset(), prop_oneof![Just(0), 1..20_u64])
            .prop_map(|(member, offset, delay_ms)| Op::Release { member, offset, delay_ms }),
        1 => member().prop_map(|member| Op::ReleaseAll { member }),
        1 => (member(), offset(), 0..20_u64)
            .prop_map(|(member, offset, for_ms)| Op::Extend { member, offset, for_ms }),
        3 => (1..8_u64).prop_map(|ms| Op::Pass { ms }),
        1 => (offset(), 1..6_u64).prop_map(|(from, length)| Op::Skip { from, length }),
        1 => any::<bool>().prop_map(|was_durable| Op::Crash { was_durable }),
    ]
}

/// The queue beside the model.
struct Pair {
    queue: Queue,
    model: Model,
    polls: u64,
    /// The changes that wait for a write, in order.
    waiting: Vec<ChangeId>,
    /// The value on disk, and the one that a write in flight would put there.
    disk: Vec<u8>,
    in_flight: Option<Vec<u8>>,
    floor: u64,
}

fn offsets_of(offsets: &[u64]) -> impl Iterator<Item = Offset> {
    offsets.iter().map(|offset| Offset::new(*offset))
}

impl Pair {
    fn new() -> Self {
        let mut queue = Queue::with_window(Offset::ZERO, MAX_DELIVERIES, WINDOW);
        let disk = queue.begin_write(&[]).encode();
        queue.commit();
        Self {
            queue,
            model: Model::new(),
            polls: 0,
            waiting: Vec::new(),
            disk,
            in_flight: None,
            floor: 0,
        }
    }

    /// The number of the poll `back` polls ago.
    fn poll(&self, back: u64) -> PollNumber {
        PollNumber(self.polls.saturating_sub(back))
    }

    fn acquire(&mut self, member: u64, trim: u64, end: u64, max: usize) -> Vec<(u64, u32)> {
        self.polls += 1;
        let wanted = Leasing {
            now: Moment(self.model.now),
            deadline: Moment(self.model.now + LEASE_MS),
            member: MemberKey(member),
            poll: PollNumber(self.polls),
            log_start: Offset::new(trim),
            end: Offset::new(end),
            max,
        };
        self.queue.expire(wanted.now);
        let has_work = self.queue.has_work(wanted.log_start, wanted.end);
        let each =
            |range: Acquired| (range.from.get()..range.until.get()).map(move |at| (at, range.deliveries));
        let acquired: Vec<(u64, u32)> = self.queue.acquire(&wanted).into_iter().flat_map(each).collect();
        // A trim can move the floor over settled offsets that follow it, which `has_work` does not foresee.
        assert!(max == 0 || !has_work || trim > 0 || !acquired.is_empty());
        assert!(has_work || trim > 0 || acquired.is_empty());
        let expected = self.model.acquire(member, self.polls, trim, end, max);
        assert_eq!(acquired, expected);
        for (at, deliveries) in &acquired {
            assert!(
                !self.model.accepted.contains(at),
                "{at} was settled and came again"
            );
            assert!(*deliveries <= self.model.delivered[*at as usize], "{at}");
            assert!(*deliveries <= MAX_DELIVERIES);
        }
        acquired
    }

    fn begun(&mut self, begun: &Begun) {
        self.waiting.extend(begun.change);
    }

    fn write(&mut self, changes: usize) {
        if self.queue.is_writing() {
            return;
        }
        let changes: Vec<ChangeId> = self.waiting.drain(..changes.min(self.waiting.len())).collect();
        let saved = self.queue.begin_write(&changes);
        let image = self.model.image(&changes);
        let floor = self.queue.floor().get();
        for (at, durable) in (floor..OFFSETS).zip(&image[floor as usize..]) {
            let found = found_in(&saved, at);
            assert_eq!(found, *durable, "{at} in {saved:?}");
        }
        self.in_flight = Some(saved.encode());
        self.model.writing = Some((image, changes));
    }

    fn end_write(&mut self, is_durable: bool) {
        let Some(value) = self.in_flight.take() else {
            return;
        };
        if is_durable {
            self.queue.commit();
            self.model.commit();
            self.disk = value;
        } else {
            self.queue.abort();
            let (_, changes) = self.model.writing.take().unwrap();
            self.model.undo(&changes);
        }
    }

    fn apply(&mut self, op: Op) {
        let now = Moment(self.model.now);
        match op {
            Op::Acquire {
                member,
                trim,
                end,
                max,
            } => drop(self.acquire(member, trim, end, max)),
            Op::GiveBack {
                member,
                back,
                offsets,
            } => {
                let poll = self.poll(back);
                self.queue
                    .give_back(MemberKey(member), poll, offsets_of(&offsets));
                for at in offsets {
                    if let Some((held, deliveries)) = self.model.leased_by(at, member)
                        && held == poll.0
                    {
                        self.model.cells[at as usize].state = State::free(deliveries - 1, 0);
                        self.model.delivered[at as usize] -= 1;
                    }
                }
            }
            Op::Accept { member, offsets } => {
                let begun = self.queue.begin_accept(MemberKey(member), offsets_of(&offsets));
                self.model.begin(&begun, &offsets, |model, at| {
                    model.leased_by(at, member).is_some()
                });
                self.begun(&begun);
            }
            Op::Ack { member, back } => {
                let poll = self.poll(back);
                let is_held = |at: &u64| {
                    self.model
                        .leased_by(*at, member)
                        .is_some_and(|(held, _)| held == poll.0)
                };
                let held: Vec<u64> = (0..OFFSETS).filter(is_held).collect();
                assert_eq!(self.queue.held_by(MemberKey(member), poll), held.len());
                let begun = self.queue.begin_ack(MemberKey(member), poll);
                self.model.begin(&begun, &held, |_, _| true);
                assert_eq!(self.queue.held_by(MemberKey(member), poll), 0);
                self.begun(&begun);
            }
            Op::Reject { member, offsets } => {
                let member_key = Some(MemberKey(member));
                let begun = self.queue.begin_dead_letter(member_key, offsets_of(&offsets));
                self.model.begin(&begun, &offsets, |model, at| {
                    model.leased_by(at, member).is_some()
                });
                self.begun(&begun);
            }
            Op::DeadLetter => self.dead_letter(),
            Op::Write { all } => self.write(if all { usize::MAX } else { 1 }),
            Op::Commit => self.end_write(true),
            Op::Abort => self.end_write(false),
            Op::Undo => {
                if let Some(change) = self.waiting.pop() {
                    self.queue.undo(change);
                    self.model.undo(&[change]);
                }
            }
            Op::UndoSome { offsets } => {
                if let Some(change) = self.waiting.last().copied() {
                    if !self.queue.undo_some(change, offsets_of(&offsets)) {
                        self.waiting.pop();
                    }
                    for at in offsets {
                        let cell = &mut self.model.cells[at as usize];
                        cell.change = cell.change.filter(|found| *found != change);
                    }
                }
            }
            Op::Release {
                member,
                offset,
                delay_ms,
            } => {
                let at = Offset::new(offset);
                let released = self.queue.release(now, MemberKey(member), at, delay_ms);
                let expected = match self.model.leased_by(offset, member) {
                    None => Released::Lost,
                    Some((_, deliveries)) => {
                        let not_before = if delay_ms > 0 { now.0 + delay_ms } else { 0 };
                        let state = Model::ended(deliveries, not_before);
                        self.model.cells[offset as usize].state = state;
                        match state {
                            State::Exhausted { .. } => Released::Exhausted,
                            _ => Released::Free,
                        }
                    }
                };
                assert_eq!(released, expected);
            }
            Op::ReleaseAll { member } => {
                self.queue.release_all(MemberKey(member));
                for cell in &mut self.model.cells {
                    if let State::Leased {
                        member: owner,
                        deliveries,
                        ..
                    } = cell.state
                        && owner == member
                    {
                        cell.state = Model::ended(deliveries, 0);
                    }
                }
            }
            Op::Extend {
                member,
                offset,
                for_ms,
            } => {
                let deadline = now.0 + for_ms;
                let at = Offset::new(offset);
                let extended = self.queue.extend(MemberKey(member), at, Moment(deadline));
                let held = self.model.leased_by(offset, member);
                assert_eq!(extended, held.is_some());
                if let Some((poll, deliveries)) = held {
                    let state = State::Leased {
                        member,
                        poll,
                        deadline,
                        deliveries,
                    };
                    self.model.cells[offset as usize].state = state;
                }
            }
            Op::Pass { ms } => {
                self.model.now += ms;
                self.queue.expire(Moment(self.model.now));
                self.model.expire();
            }
            Op::Skip { from, length } => {
                // Beyond the leased offsets the queue settles up to its window; see the test about large ranges.
                let until = (from + length).min(self.model.next());
                self.queue.settle_skipped(Offset::new(from), Offset::new(until));
                for at in from..until {
                    let cell = &mut self.model.cells[at as usize];
                    if cell.change.is_none() {
                        cell.state = State::Settled;
                    }
                }
            }
            Op::Crash { was_durable } => {
                if let Some(value) = self.in_flight.take()
                    && was_durable
                {
                    self.disk = value;
                }
                let saved = Saved::decode(&self.disk).unwrap();
                self.queue = Queue::restore_with_window(&saved, MAX_DELIVERIES, WINDOW);
                self.model.crash(was_durable);
                self.waiting.clear();
                self.floor = saved.floor.get();
            }
        }
        self.check();
    }

    fn dead_letter(&mut self) {
        let is_exhausted = |at: &u64| {
            let cell = self.model.cells[*at as usize];
            cell.change.is_none() && matches!(cell.state, State::Exhausted { .. })
        };
        let exhausted: Vec<u64> = (0..OFFSETS).filter(is_exhausted).collect();
        let found = self.queue.exhausted(usize::MAX).into_iter();
        assert_eq!(found.map(Offset::get).collect::<Vec<_>>(), exhausted);
        // Asked for all offsets, it takes the exhausted ones only.
        let all: Vec<u64> = (0..OFFSETS).collect();
        let begun = self.queue.begin_dead_letter(None, offsets_of(&all));
        self.model.begin(&begun, &all, |_, at| exhausted.contains(&at));
        self.begun(&begun);
    }

    fn check(&mut self) {
        let (queue, model) = (&self.queue, &self.model);
        assert_eq!(queue.floor().get(), model.floor(), "floor");
        assert!(queue.floor().get() >= self.floor, "the floor fell");
        self.floor = queue.floor().get();
        assert!(queue.next().since(queue.floor()) <= WINDOW);
        assert_eq!(queue.next().get(), model.next(), "next");
        let unchanged = || model.cells.iter().filter(|cell| cell.change.is_none());
        let leased = unchanged().filter(|cell| matches!(cell.state, State::Leased { .. }));
        assert_eq!(queue.leased(), leased.count());
        let deadlines = unchanged();
        let first = deadlines.filter_map(|cell| match cell.state {
            State::Leased { deadline, .. } => Some(deadline),
            State::Free { not_before, .. } if not_before > 0 => Some(not_before),
            _ => None,
        });
        assert_eq!(queue.next_deadline(), first.min().map(Moment));
    }
}

/// The deliveries of an offset in a saved state; `None` for settled.
fn found_in(saved: &Saved, offset: u64) -> Option<u32> {
    let mut at = saved.floor.get();
    if offset < at {
        return None;
    }
    for run in &saved.runs {
        at += u64::from(run.length);
        if offset < at {
            return match run.state {
                RunState::Settled => None,
                RunState::Open { deliveries } => Some(deliveries),
            };
        }
    }
    Some(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_queue_does_what_the_model_does_over_crashes_too(ops in proptest::collection::vec(any_op(), 1..120)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
        }
    }

    #[test]
    fn whatever_happened_every_record_is_settled_when_members_go_on(
        ops in proptest::collection::vec(any_op(), 1..80),
        poison in proptest::collection::btree_set(0..OFFSETS, 0..6),
    ) {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
        }
        pair.end_write(true);
        let mut dead: BTreeMap<u64, u32> = BTreeMap::new();
        let mut rounds = 0;
        while pair.queue.floor().get() < OFFSETS {
            rounds += 1;
            prop_assert!(rounds < 40, "the floor stays at {}", pair.queue.floor());
            let before = pair.queue.exhausted(usize::MAX);
            pair.apply(Op::Acquire { member: 1, trim: 0, end: OFFSETS, max: 100 });
            let held: Vec<u64> = (0..OFFSETS).filter(|at| pair.model.leased_by(*at, 1).is_some()).collect();
            let (bad, good): (Vec<u64>, Vec<u64>) = held.into_iter().partition(|at| poison.contains(at));
            pair.apply(Op::Accept { member: 1, offsets: good });
            for offset in bad {
                pair.apply(Op::Release { member: 1, offset, delay_ms: 0 });
            }
            for offset in pair.queue.exhausted(usize::MAX) {
                prop_assert!(poison.contains(&offset.get()) || before.contains(&offset) || rounds == 1);
                dead.insert(offset.get(), 1);
            }
            pair.apply(Op::DeadLetter);
            pair.apply(Op::Write { all: true });
            pair.apply(Op::Commit);
            // The leases of the other members end.
            pair.apply(Op::Pass { ms: 20 });
        }
        prop_assert_eq!(pair.queue.next().get(), OFFSETS);
        prop_assert_eq!(pair.queue.leased(), 0);
    }
}

fn wanted(now: u64, member: u64, poll: u64, end: u64, max: usize) -> Leasing {
    Leasing {
        now: Moment(now),
        deadline: Moment(now + LEASE_MS),
        member: MemberKey(member),
        poll: PollNumber(poll),
        log_start: Offset::ZERO,
        end: Offset::new(end),
        max,
    }
}

fn range(from: u64, until: u64, deliveries: u32) -> Acquired {
    Acquired {
        from: Offset::new(from),
        until: Offset::new(until),
        deliveries,
    }
}

#[test]
fn no_fresh_record_is_leased_beyond_the_window_but_freed_ones_are() {
    let mut queue = Queue::new(Offset::ZERO, 5);
    let leased = queue.acquire(&wanted(0, 1, 1, 100_000, 50_000));
    assert_eq!(leased, [range(0, MAX_WINDOW, 1)]);
    assert!(!queue.has_work(Offset::ZERO, Offset::new(100_000)));
    let ack = queue.begin_accept(MemberKey(1), (1..MAX_WINDOW).map(Offset::new));
    let saved = queue.begin_write(&[ack.change.unwrap()]);
    queue.commit();
    assert!(saved.encode().len() < 20, "settled records in a row take no room");
    assert_eq!(queue.acquire(&wanted(1, 2, 2, 100_000, 10)), []);
    queue.release(Moment(1), MemberKey(1), Offset::ZERO, 0);
    assert_eq!(queue.acquire(&wanted(2, 2, 3, 100_000, 10)), [range(0, 1, 2)]);
    let ack = queue.begin_ack(MemberKey(2), PollNumber(3));
    let saved = queue.begin_write(&[ack.change.unwrap()]);
    assert_eq!((saved.floor, saved.runs), (Offset::new(MAX_WINDOW), vec![]));
    queue.commit();
    let next = queue.acquire(&wanted(3, 2, 4, 100_000, 10));
    assert_eq!(next, [range(MAX_WINDOW, MAX_WINDOW + 10, 1)]);
}

#[test]
fn a_range_without_records_is_passed_over_however_large_it_is() {
    let mut queue = Queue::new(Offset::ZERO, 5);
    queue.acquire(&wanted(0, 1, 1, 10, 10));
    queue.settle_skipped(Offset::new(5), Offset::new(1_000_000));
    assert_eq!(queue.next(), Offset::new(MAX_WINDOW), "as far as the window goes");
    assert!(queue.is_unsaved());
    let ack = queue.begin_ack(MemberKey(1), PollNumber(1));
    assert_eq!(ack.taken.len(), 5);
    let _ = queue.begin_write(&[ack.change.unwrap()]);
    queue.commit();
    assert!(!queue.is_unsaved());
    assert_eq!(queue.floor(), Offset::new(MAX_WINDOW));
    queue.settle_skipped(Offset::new(MAX_WINDOW), Offset::new(1_000_000));
    assert_eq!([queue.floor(), queue.next()], [Offset::new(1_000_000); 2]);
}

#[test]
fn what_a_change_that_is_not_written_would_settle_is_not_in_the_write_of_another() {
    let mut queue = Queue::new(Offset::ZERO, 5);
    queue.acquire(&wanted(0, 1, 1, 2, 2));
    let rejected = queue.begin_dead_letter(Some(MemberKey(1)), [Offset::ZERO]);
    let accepted = queue.begin_accept(MemberKey(1), [Offset::new(1)]);
    let saved = queue.begin_write(&[accepted.change.unwrap()]);
    assert_eq!(saved.floor, Offset::ZERO, "its dead letter is not written yet");
    queue.commit();
    let saved = queue.begin_write(&[rejected.change.unwrap()]);
    assert_eq!(saved.floor, Offset::new(2));
}

#[test]
fn a_lease_that_settled_in_vain_is_free_when_its_member_has_left_meanwhile() {
    let mut queue = Queue::new(Offset::ZERO, 5);
    queue.acquire(&wanted(0, 1, 1, 1, 1));
    let begun = queue.begin_accept(MemberKey(1), [Offset::ZERO]);
    let _ = queue.begin_write(&[begun.change.unwrap()]);
    queue.release_all(MemberKey(1));
    // The record is settling, so it is not leased.
    assert_eq!(queue.acquire(&wanted(0, 2, 2, 1, 1)), []);
    queue.abort();
    assert_eq!(queue.acquire(&wanted(0, 2, 3, 1, 1)), [range(0, 1, 2)]);
}

#[test]
fn a_lease_that_a_crash_cut_short_is_no_delivery_because_it_may_never_have_been_answered() {
    let mut queue = Queue::new(Offset::ZERO, 1);
    queue.acquire(&wanted(0, 1, 1, 2, 2));
    let saved = queue.begin_write(&[]);
    queue.commit();
    queue.give_back(MemberKey(1), PollNumber(1), [Offset::ZERO]);
    let mut queue = Queue::restore(&saved, 1);
    assert_eq!(queue.acquire(&wanted(0, 1, 1, 2, 2)), [range(0, 2, 1)]);
}

#[test]
fn a_record_that_was_delivered_as_often_as_it_may_be_when_the_process_ended_is_not_delivered_again() {
    let mut queue = Queue::new(Offset::ZERO, 1);
    queue.acquire(&wanted(0, 1, 1, 2, 2));
    queue.release_all(MemberKey(1));
    assert!(queue.is_unsaved());
    let saved = queue.begin_write(&[]);
    let mut queue = Queue::restore(&saved, 1);
    assert_eq!(queue.acquire(&wanted(0, 1, 1, 2, 2)), []);
    assert_eq!(queue.exhausted(1), [Offset::ZERO]);
    let begun = queue.begin_dead_letter(None, queue.exhausted(10));
    assert_eq!(begun.taken, [(Offset::ZERO, 1), (Offset::new(1), 1)]);
}
