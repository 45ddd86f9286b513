//! Drives a log by a seed, through everything that it can do and that can happen to it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{Fault, FaultError, IoKind, Rng, SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Clock, Error, Log, Offset, Options, Part, Partition, Records, StateChange, Ticket,
    TimestampMs, Topic, TopicSettings, TopicSpec,
};

use super::check::{self, Restart};
use super::hook::HookedDisk;
use super::model::{
    Change, Existence, Fate, Model, Name, PartPlan, Rec, Request, RequestId, TopicModel, retains,
};

const DIR: &str = "/quipu/data";
/// More calls than any run makes: an engine that goes round in circles is stopped there.
const MOST_CALLS: u64 = 300_000;

/// What a run counted, to see that runs do what they are for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) power_cuts: u64,
    pub(crate) kills: u64,
    pub(crate) closes: u64,
    pub(crate) requests: u64,
    pub(crate) durable: u64,
    pub(crate) unknown: u64,
    pub(crate) failed_calls: u64,
    pub(crate) full: u64,
    pub(crate) calls: u64,
    pub(crate) trace_hash: u64,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Everything stops at this call, for the only time; `None`: anything may happen at any time.
    pub(crate) stop_at: Option<u64>,
    pub(crate) verbose: bool,
}

struct Waiting {
    id: RequestId,
    ticket: Ticket,
    /// Whether it must be stored, where that is known.
    expected: Option<bool>,
}

pub(crate) struct Driver {
    plan: Plan,
    rng: Rng,
    disk: SimDisk,
    clock: SimClock,
    options: Options,
    log: Option<Log>,
    hooked: Option<HookedDisk>,
    model: Model,
    waiting: Vec<Waiting>,
    full: bool,
    /// Whether segments are synced in the middle of rounds, as by a thread beside the committer's.
    interleaved: bool,
    markers: Vec<Vec<u8>>,
    /// What happened since the log was last open and whole.
    restart: Restart,
    tally: Tally,
}

macro_rules! say {
    ($self:ident, $($text:tt)*) => {
        if $self.plan.verbose {
            for call in $self.disk.take_trace() {
                eprintln!("    {call}");
            }
            eprintln!("{}", format_args!($($text)*));
        }
    };
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Invalid(_)
            | Error::RecordTooLarge { .. }
            | Error::RequestTooLarge { .. }
            | Error::NotFound(_)
            | Error::TopicExists(_)
            | Error::OffsetMismatch { .. }
            | Error::OutOfRange { .. }
            | Error::Overloaded { .. }
            | Error::StorageFull
            | Error::PartitionFailed(_)
            | Error::LogFailed { in_flight: false, .. }
            | Error::Closed
    )
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say!(self, "the promise was broken here");
        }
    }
}

impl Driver {
    /// Runs the plan to its end.
    ///
    /// # Panics
    /// If a promise is broken.
    pub(crate) fn run(plan: Plan) -> Tally {
        let mut rng = Rng::new(plan.seed);
        let journal_file_bytes = [256 << 10, 512 << 10, 1 << 20][rng.index(3)];
        let options = Options {
            journal_file_bytes,
            journal_files: rng.between(2, 4) as u32,
            max_request_bytes: (journal_file_bytes / 2) as usize,
            queue_bytes: 4 << 20,
            max_open_segments: [1, 2, 64][rng.index(3)],
            max_open_files: [Some(1), Some(3), None][rng.index(3)],
            background: false,
            ..Options::default()
        };
        let disk = SimDisk::new(rng.next_u64());
        if plan.verbose {
            disk.record_trace();
        }
        let mut driver = Self {
            clock: SimClock::new(TimestampMs(1_700_000_000_000)),
            plan,
            disk,
            options,
            log: None,
            hooked: None,
            model: Model::default(),
            waiting: Vec::new(),
            full: false,
            interleaved: rng.chance(1, 2),
            markers: Vec::new(),
            restart: Restart::Close,
            tally: Tally::default(),
            rng,
        };
        driver.go();
        driver.tally
    }

    fn go(&mut self) {
        if let Some(call) = self.plan.stop_at {
            self.disk.stop_at(call);
        }
        self.open();
        // Where every call is tried, there shall not be too many.
        let most = if self.plan.stop_at.is_some() { 14 } else { 70 };
        let steps = self.rng.between(10, most);
        for _ in 0..steps {
            if self.plan.stop_at.is_some() && self.tally.power_cuts + self.tally.kills > 0 {
                break;
            }
            self.step();
            if self.disk.is_off() {
                self.crash();
            }
        }
        self.run_rounds();
        self.crash();
        self.append();
        self.run_rounds();
        self.observe();
        self.count_calls();
    }

    fn count_calls(&mut self) {
        self.tally.calls += self.disk.calls();
        self.tally.failed_calls += self.disk.failed_calls();
        self.tally.trace_hash = self.tally.trace_hash.rotate_left(7) ^ self.disk.trace_hash();
    }

    fn log(&self) -> Log {
        self.log.clone().expect("the log is open between steps")
    }

    /// Whether a call may fail for no fault of the log's.
    fn is_troubled(&self) -> bool {
        self.full || self.disk.is_off() || self.disk.failed_calls() > 0
    }

    fn step(&mut self) {
        let random = self.plan.stop_at.is_none();
        match self.rng.below(100) {
            0..45 => {
                for _ in 0..self.rng.between(1, 5) {
                    self.append();
                }
                if self.rng.chance(7, 8) {
                    self.run_rounds();
                }
            }
            45..50 => self.run_rounds(),
            50..58 => self.sync_segments(),
            58..62 => self.retention(),
            62..66 => self.trim(),
            66..71 => self.create_topic(),
            71..73 => self.delete_topic(),
            73..76 => self.alter_topic(),
            76..84 => self.observe(),
            84..87 => self.close(),
            87..91 if random => self.crash(),
            91..95 if random => {
                let calls = self.rng.between(1, [5, 40, 200][self.rng.clone().index(3)]);
                say!(self, "will stop in {calls} calls");
                self.disk.stop_at(calls);
            }
            95..98 if random => self.plan_fault(),
            98..100 if random => self.fill_up(),
            _ => {}
        }
        if self.full && self.rng.chance(1, 8) {
            say!(self, "space returns");
            self.disk.set_capacity(None);
            self.full = false;
        }
        // A log that has failed is restarted sooner or later.
        if self.log.as_ref().is_some_and(|log| {
            let health = log.health();
            health.log_failed.is_some() || !health.failed_partitions.is_empty()
        }) && self.rng.chance(1, 3)
        {
            self.crash();
        }
    }

    fn plan_fault(&mut self) {
        use IoKind::{Create, Look, Open, Read, Remove, Rename, SetLen, Sync, SyncDir, Write};
        const KINDS: [IoKind; 14] = [
            Write, Write, Write, Sync, Sync, Sync, SyncDir, Rename, Create, Open, SetLen, Remove, Read, Look,
        ];
        let kind = KINDS[self.rng.index(KINDS.len())];
        let mut fault = Fault::once(kind, self.rng.below(6));
        if matches!(kind, Write | Create | Rename | SetLen) && self.rng.chance(1, 3) {
            fault = fault.with(FaultError::Full);
        }
        if self.rng.chance(1, 4) {
            fault = fault.onwards();
        }
        match self.rng.below(6) {
            0 => fault = fault.on("journal"),
            1 => fault = fault.on("topics"),
            2 => fault = fault.on("checkpoint"),
            _ => {}
        }
        say!(self, "{fault:?}");
        self.disk.fail(fault);
    }

    fn fill_up(&mut self) {
        let room = [0, 4 << 10, 64 << 10, 300 << 10][self.rng.index(4)];
        say!(self, "space for {room} bytes is left");
        self.disk.set_capacity(Some(self.disk.used_bytes() + room));
        self.full = true;
        self.tally.full += 1;
    }

    // Opening, closing, crashing.

    /// Opens the log, whatever happens meanwhile, and compares all of it.
    fn open(&mut self) {
        for attempt in 0.. {
            assert!(attempt < 20, "the log cannot be opened");
            if self.plan.stop_at.is_none() && attempt < 3 {
                match self.rng.below(8) {
                    0 | 1 => self
                        .disk
                        .stop_at([20, 100, 400].map(|most| self.rng.between(1, most))[attempt]),
                    2 => self.plan_fault(),
                    _ => {}
                }
            }
            let disk = HookedDisk::new(self.disk.clone());
            let clock = Arc::new(self.clock.clone());
            match Log::open_with(
                Arc::new(disk.clone()),
                clock,
                Path::new(DIR),
                self.options.clone(),
            ) {
                Ok(log) => {
                    self.hooked = Some(disk.clone());
                    if self.interleaved {
                        let (log, mut rng) = (log.clone(), self.rng.fork());
                        disk.before_journal_sync(move || {
                            if rng.chance(1, 3) {
                                // What it meets, the log remembers.
                                let _result = log.sync_segments();
                            }
                        });
                    }
                    let healthy = self.disk.failed_calls() == 0 && !self.disk.is_off();
                    if self.plan.stop_at.is_none() {
                        self.disk.clear_faults();
                        self.disk.stop_at(MOST_CALLS);
                    }
                    // Where the machine has stopped there is nothing to check.
                    if !self.disk.is_off() {
                        say!(self, "opened after {:?}", self.restart);
                        match check::after_restart(&log, &mut self.model, self.restart, healthy) {
                            Ok(()) => {
                                self.log = Some(log);
                                return;
                            }
                            Err(error) => assert!(self.disk.is_off(), "after {:?}: {error}", self.restart),
                        }
                    }
                }
                Err(error) => {
                    say!(self, "opening fails: {error}");
                    let troubled = self.disk.is_off() || self.disk.failed_calls() > 0;
                    assert!(
                        troubled || self.full && self.model.last_topic_id.is_none(),
                        "the log cannot be opened: {error}"
                    );
                    if !self.disk.is_off() && self.disk.failed_calls() == 0 {
                        self.disk.set_capacity(None);
                        self.full = false;
                    }
                }
            }
            self.next_disk();
        }
    }

    /// Ends every handle of the log.
    fn drop_log(&mut self) {
        self.log = None;
        if let Some(disk) = self.hooked.take() {
            disk.unhook();
        }
    }

    fn next_disk(&mut self) {
        say!(self, "this run of the machine or the process ends");
        self.count_calls();
        assert!(self.disk.calls() < MOST_CALLS, "the log goes round in circles");
        let trouble = self.disk.failed_calls() > 0;
        let power_cut = self.rng.chance(2, 3);
        self.disk = if power_cut {
            self.disk.after_power_cut()
        } else {
            self.disk.after_kill()
        };
        self.restart = match (power_cut, self.restart) {
            (true, _) | (_, Restart::PowerCut) => Restart::PowerCut,
            (_, Restart::KillAfterFault) => Restart::KillAfterFault,
            _ if trouble => Restart::KillAfterFault,
            _ => Restart::Kill,
        };
        if power_cut {
            self.tally.power_cuts += 1;
        } else {
            self.tally.kills += 1;
        }
        say!(self, "{:?}", self.restart);
    }

    fn crash(&mut self) {
        // Answers that were given before the stop count.
        self.take_answers(false);
        for waiting in self.waiting.drain(..) {
            self.tally.unknown += 1;
            drop(waiting);
        }
        self.restart = Restart::Kill;
        self.next_disk();
        self.drop_log();
        self.open();
    }

    fn close(&mut self) {
        say!(self, "close");
        let log = self.log();
        let result = log.close();
        self.take_answers(result.is_ok());
        match result {
            Ok(()) => {
                assert!(self.waiting.is_empty(), "close answers what is queued");
                assert!(
                    log.append(AppendRequest::default()).is_err(),
                    "a closed log takes no appends"
                );
                drop(log);
                self.drop_log();
                self.tally.closes += 1;
                if self.disk.failed_calls() > 0 || self.disk.is_off() {
                    self.restart = Restart::Kill;
                    self.next_disk();
                } else if self.rng.chance(1, 2) {
                    // What was closed in order needs no luck.
                    self.count_calls();
                    self.disk = self.disk.after_power_cut();
                    self.tally.power_cuts += 1;
                    self.restart = Restart::Close;
                } else {
                    self.disk.clear_faults();
                    self.restart = Restart::Close;
                }
                self.open();
            }
            Err(error) => {
                say!(self, "close fails: {error}");
                assert!(self.is_troubled(), "close: {error}");
                drop(log);
                self.crash();
            }
        }
    }

    // Appending.

    fn marker(&mut self) -> Vec<u8> {
        let marker = format!("marker/{}", self.model.next_request).into_bytes();
        self.markers.push(marker.clone());
        marker
    }

    fn changes(&mut self) -> (Vec<Change>, Option<Vec<u8>>) {
        let marker = self.marker();
        let mut changes = vec![(marker.clone(), Some(b"here".to_vec()))];
        for _ in 0..self.rng.below(4) {
            let key = format!("key/{}", self.rng.below(8)).into_bytes();
            let len = [3, 40, 5_000][self.rng.index(3)];
            let mut value = format!("{}:", self.model.next_request).into_bytes();
            value.resize(len, b'.');
            if changes.iter().all(|(other, _)| *other != key) {
                changes.push((key, self.rng.chance(3, 4).then_some(value)));
            }
        }
        if self.markers.len() > 12 && self.model.open_requests().is_empty() {
            let old = self.markers.drain(..6);
            changes.extend(old.filter(|old| *old != marker).map(|old| (old, None)));
        }
        (changes, Some(marker))
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        self.log()
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions().to_vec())
            .collect()
    }

    fn append(&mut self) {
        let mut partitions = self.partitions();
        if partitions.is_empty() {
            self.create_topic();
            partitions = self.partitions();
        }
        let wanted = [1, 1, 1, 2, 3, 8][self.rng.index(6)];
        let state_only = partitions.is_empty() || self.rng.chance(1, 8);
        let mut chosen = Vec::new();
        while !state_only && !partitions.is_empty() && chosen.len() < wanted {
            chosen.push(partitions.swap_remove(self.rng.index(partitions.len())));
        }
        let id = self.model.next_request;
        let mut expected = (self.waiting.is_empty() && !state_only).then_some(true);
        let (mut parts, mut plans) = (Vec::new(), Vec::new());
        for (part, partition) in chosen.into_iter().enumerate() {
            let (records, plan) = self.records(id, part as u32);
            let expected_offset = if expected.is_some() && self.rng.chance(1, 8) {
                let next = partition.positions().written_offset;
                Some(if self.rng.chance(2, 3) {
                    next
                } else {
                    expected = Some(false);
                    next.plus(self.rng.between(1, 3))
                })
            } else {
                None
            };
            let key = (partition.id().topic, partition.id().index);
            plans.push(PartPlan {
                partition: key,
                records: plan,
            });
            parts.push(Part {
                partition,
                records,
                expected_offset,
                json_lines: self.rng.chance(1, 2),
            });
        }
        let (state, marker) = if state_only || self.rng.chance(1, 4) {
            self.changes()
        } else {
            (Vec::new(), None)
        };
        let ack = if self.rng.chance(1, 3) {
            Ack::Written
        } else {
            Ack::Durable
        };
        let request = AppendRequest {
            parts,
            state: state
                .iter()
                .map(|(key, value)| StateChange {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
            ack,
        };
        say!(
            self,
            "append {id} {ack:?} {:?} state {}",
            plans
                .iter()
                .map(|plan| (plan.partition.0.0, plan.partition.1, plan.records.len()))
                .collect::<Vec<_>>(),
            state.len()
        );
        let id = self.model.new_request(Request {
            parts: plans,
            state,
            marker,
            ack,
            fate: Fate::Unknown,
            bases: None,
        });
        self.tally.requests += 1;
        match self.log().append(request) {
            Ok(ticket) => self.waiting.push(Waiting {
                id,
                ticket,
                expected: if state_only { Some(true) } else { expected },
            }),
            Err(error) => {
                say!(self, "append {id} is refused: {error}");
                assert!(
                    self.is_troubled() || matches!(error, Error::Overloaded { .. }),
                    "append {id}: {error}"
                );
                assert!(is_refusal(&error), "append {id}: {error}");
                self.model.refuse(id);
            }
        }
    }

    /// Records for one part, in both forms, within what a request may have.
    fn records(&mut self, request: RequestId, part: u32) -> (Records, Vec<Rec>) {
        let count = [1, 1, 2, 5, 20, 100][self.rng.index(6)];
        let size = [0, 10, 100, 100, 1_000, 12_000][self.rng.index(6)].min(12_000 / count);
        let mut plan = Vec::new();
        for index in 0..count {
            let name = Name {
                request,
                part,
                index: index as u32,
            };
            let timestamp = self.clock.now().get() + self.rng.below(2_000) as i64 - 1_000;
            let len = size / 2 + self.rng.index(size / 2 + 1);
            plan.push(Rec::make(name, timestamp, len, &mut self.rng));
        }
        let build = |records: &[Rec]| {
            let mut builder = BatchBuilder::new();
            for record in records {
                let headers: Vec<(&[u8], Option<&[u8]>)> = record
                    .header
                    .iter()
                    .map(|(name, value)| (&name[..], value.as_deref()))
                    .collect();
                builder.push(
                    TimestampMs(record.timestamp),
                    record.key.as_deref(),
                    record.value.as_deref(),
                    &headers,
                );
            }
            builder
        };
        let records = if self.rng.chance(1, 3) {
            let batch = self.rng.between(1, count as u64) as usize;
            Records::Sealed(plan.chunks(batch).map(|records| build(records).seal()).collect())
        } else {
            Records::Loose(build(&plan))
        };
        (records, plan)
    }

    fn run_rounds(&mut self) {
        let log = self.log();
        let mut whole = false;
        for _ in 0..1_000 {
            match log.run_round() {
                Ok(true) => {}
                Ok(false) => {
                    whole = true;
                    break;
                }
                Err(error) => {
                    say!(self, "the round fails: {error}");
                    assert!(self.is_troubled(), "round: {error}");
                    break;
                }
            }
        }
        self.take_answers(whole);
    }

    /// Takes the answers that are there; `all`: they must be.
    fn take_answers(&mut self, all: bool) {
        let mut context = Context::from_waker(Waker::noop());
        for mut waiting in std::mem::take(&mut self.waiting) {
            let id = waiting.id;
            match Pin::new(&mut waiting.ticket).poll(&mut context) {
                Poll::Pending => {
                    assert!(
                        !all || self.disk.is_off(),
                        "request {id} was not answered by its round"
                    );
                    self.waiting.push(waiting);
                }
                Poll::Ready(Ok(appended)) => {
                    assert!(
                        waiting.expected != Some(false),
                        "request {id} expected another offset, and was stored"
                    );
                    self.stored(id, appended.base_offsets);
                }
                Poll::Ready(Err(error)) => {
                    say!(self, "request {id}: {error}");
                    let mismatch = matches!(error, Error::OffsetMismatch { .. });
                    assert!(
                        self.is_troubled() || mismatch && waiting.expected != Some(true),
                        "request {id} failed though nothing is wrong: {error}"
                    );
                    let only_full = self.disk.failed_calls() == 0 && !self.disk.is_off();
                    let request = &self.model.requests[&id];
                    assert!(
                        !only_full || !request.parts.is_empty(),
                        "request {id} changes only state, which has its space: {error}"
                    );
                    if is_refusal(&error) {
                        self.model.refuse(id);
                    } else {
                        self.tally.unknown += 1;
                    }
                }
            }
        }
        self.settle_written();
    }

    fn stored(&mut self, id: RequestId, bases: Vec<Offset>) {
        let request = self.model.requests.get_mut(&id).expect("it was appended");
        assert_eq!(bases.len(), request.parts.len(), "one base offset for each part");
        say!(self, "request {id} {:?} at {bases:?}", request.ack);
        self.tally.durable += u64::from(request.ack == Ack::Durable);
        request.bases = Some(bases.clone());
        if request.ack == Ack::Written {
            request.fate = Fate::Written;
            return;
        }
        let topics: Vec<_> = request.parts.iter().map(|part| part.partition.0).collect();
        for topic in topics {
            // A topic that takes records has not been deleted, whatever was answered to that.
            let topic = self
                .model
                .topics
                .get_mut(&topic)
                .expect("requests go to topics that were made");
            if let Some(deletion) = topic.deletion.take_if(|deletion| *deletion < id) {
                topic.exists = Existence::Yes;
                self.model.refuse(deletion);
            }
        }
        let bases: Vec<_> = bases.into_iter().map(Some).collect();
        self.model.settle(id, &bases);
    }

    /// What is readable is durable, whatever was asked for.
    fn settle_written(&mut self) {
        if self.disk.is_off() {
            return;
        }
        let log = self.log();
        for id in self.model.open_requests() {
            let request = &self.model.requests[&id];
            let (Fate::Written, Some(bases)) = (request.fate, &request.bases) else {
                continue;
            };
            let readable = request.parts.iter().zip(bases).all(|(part, base)| {
                let topic = log.topic_by_id(part.partition.0);
                topic
                    .and_then(|topic| topic.partition(part.partition.1))
                    .is_some_and(|partition| {
                        partition.positions().end_offset >= base.plus(part.records.len() as u64)
                    })
            });
            let marked = request
                .marker
                .as_ref()
                .is_none_or(|marker| log.state_get(marker).is_some());
            if readable && marked {
                let bases: Vec<_> = bases.iter().copied().map(Some).collect();
                self.model.settle(id, &bases);
            }
        }
    }

    // Everything else.

    fn sync_segments(&mut self) {
        say!(self, "sync segments");
        if let Err(error) = self.log().sync_segments() {
            say!(self, "sync segments fails: {error}");
            assert!(self.is_troubled(), "sync_segments: {error}");
        }
    }

    fn retention(&mut self) {
        let by = self.rng.below(4_000);
        say!(self, "retention, {by} ms later");
        self.clock.advance(Duration::from_millis(by));
        if self.rng.chance(1, 8) {
            self.clock.set_wall(TimestampMs(self.clock.now().get() - 3_000));
        }
        // What becomes readable by the rounds of the new log starts could be below them at once.
        self.run_rounds();
        self.observe();
        if self.disk.is_off() {
            return;
        }
        let ends: BTreeMap<_, _> = self
            .partitions()
            .iter()
            .map(|p| (p.id(), p.positions().end_offset))
            .collect();
        let result = self.log().apply_retention();
        for (id, topic) in &mut self.model.topics {
            for (index, part) in &mut topic.partitions {
                let id = quipu_segments::PartitionId {
                    topic: *id,
                    index: *index,
                };
                if let Some(end) = ends.get(&id).filter(|_| topic.retention) {
                    part.start_at_most = part.start_at_most.max(end.get());
                }
            }
        }
        if let Err(error) = result {
            say!(self, "retention fails: {error}");
            assert!(self.is_troubled(), "apply_retention: {error}");
        }
        self.take_answers(false);
        self.observe();
    }

    fn trim(&mut self) {
        let partitions = self.partitions();
        if partitions.is_empty() {
            return;
        }
        self.run_rounds();
        self.observe();
        if self.disk.is_off() {
            return;
        }
        let partition = &partitions[self.rng.index(partitions.len())];
        let positions = partition.positions();
        let (start, end) = (positions.log_start_offset.get(), positions.end_offset.get());
        let beyond = u64::from(self.rng.chance(1, 8));
        let before = Offset::new(self.rng.between(start.saturating_sub(2), end + beyond));
        say!(self, "trim {} before {before}, has {positions:?}", partition.id());
        let result = partition.trim(before);
        let part = self.model.part_mut((partition.id().topic, partition.id().index));
        match result {
            Ok(now) => {
                assert!(before.get() <= end, "trim beyond the end");
                assert_eq!(now.get(), start.max(before.get()), "the log start after a trim");
                (part.start, part.start_at_most) = (now.get(), part.start_at_most.max(now.get()));
            }
            Err(error) => {
                say!(self, "trim fails: {error}");
                let beyond = before.get() > end && matches!(error, Error::OutOfRange { .. });
                assert!(beyond || self.is_troubled(), "trim: {error}");
                if !beyond && !is_refusal(&error) {
                    let part = self.model.part_mut((partition.id().topic, partition.id().index));
                    part.start_at_most = part.start_at_most.max(before.get());
                }
            }
        }
        self.take_answers(false);
    }

    fn spec(&mut self, partitions: u32) -> TopicSpec {
        TopicSpec {
            partitions,
            settings: TopicSettings {
                segment_bytes: [4 << 10, 16 << 10, 64 << 10][self.rng.index(3)],
                segment_ms: [1_000, 1 << 40][self.rng.index(2)],
                retention_ms: self.rng.chance(1, 5).then_some(5_000),
                retention_bytes: self.rng.chance(1, 5).then_some(20_000),
            },
            properties: BTreeMap::from([("n".to_owned(), self.rng.below(100).into())]),
        }
    }

    fn create_topic(&mut self) {
        let name = ["a", "b", "c", "d", "e"][self.rng.index(5)].to_owned();
        let partitions = [1, 1, 2, 3, 9][self.rng.index(5)];
        let spec = self.spec(partitions);
        say!(self, "create {name} {spec:?}");
        let known = self.model.topic_named(&name);
        match self.log().create_topic(&name, spec.clone()) {
            Ok(topic) => {
                assert!(
                    known.is_none_or(|id| self.model.topics[&id].exists == Existence::Maybe),
                    "{name} exists"
                );
                self.model.creating.retain(|(other, _)| *other != name);
                assert!(
                    self.model.last_topic_id.is_none_or(|last| last < topic.id()),
                    "a topic's id is repeated"
                );
                self.model.last_topic_id = Some(topic.id());
                self.model.topics.insert(topic.id(), TopicModel::new(name, spec));
            }
            Err(Error::TopicExists(_)) => {
                assert!(
                    known.is_some() || !self.model.creating.is_empty(),
                    "{name} does not exist"
                );
            }
            Err(error) => {
                say!(self, "create fails: {error}");
                assert!(self.is_troubled(), "create_topic: {error}");
                assert!(
                    self.log()
                        .topic(&name)
                        .is_none_or(|topic| Some(topic.id()) == known),
                    "{name} was not made"
                );
                self.model.creating.push((name, spec));
            }
        }
        self.take_answers(false);
    }

    fn topic(&mut self) -> Option<Arc<Topic>> {
        let topics = self.log().topics();
        (!topics.is_empty()).then(|| Arc::clone(&topics[self.rng.index(topics.len())]))
    }

    fn delete_topic(&mut self) {
        self.run_rounds();
        let Some(topic) = self.topic().filter(|_| self.waiting.is_empty()) else {
            return;
        };
        let (id, name) = (topic.id(), topic.name().to_owned());
        let (state, marker) = self.changes();
        let changes = state
            .iter()
            .map(|(key, value)| StateChange {
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        let request = self.model.new_request(Request {
            parts: Vec::new(),
            state,
            marker,
            ack: Ack::Durable,
            fate: Fate::Unknown,
            bases: None,
        });
        say!(self, "delete {name} {id:?} by request {request}");
        match self.log().delete_topic(&name, changes) {
            Ok(()) => {
                assert!(
                    topic.is_deleted()
                        && self.log().topic(&name).is_none()
                        && self.log().topic_by_id(id).is_none()
                );
                self.model.settle(request, &[]);
                let topic = self.model.topics.get_mut(&id).expect("it was made");
                if let Some(earlier) = topic.deletion.take() {
                    self.model.refuse(earlier);
                }
                self.model.topics.get_mut(&id).expect("it was made").exists = Existence::No;
            }
            Err(error) => {
                say!(self, "delete fails: {error}");
                assert!(self.is_troubled(), "delete_topic: {error}");
                let topic = self.model.topics.get_mut(&id).expect("it was made");
                if is_refusal(&error) || topic.deletion.is_some() {
                    self.model.refuse(request);
                } else {
                    topic.exists = Existence::Maybe;
                    topic.deletion = Some(request);
                }
            }
        }
        self.take_answers(false);
    }

    fn alter_topic(&mut self) {
        let Some(topic) = self.topic() else { return };
        let partitions = topic.partition_count() + [0, 0, 1, 3][self.rng.index(4)];
        let spec = self.spec(partitions);
        say!(self, "alter {} {spec:?}", topic.name());
        let result = self.log().alter_topic(topic.name(), spec.clone());
        let known = self.model.topics.get_mut(&topic.id()).expect("it was made");
        known.retention |= retains(&spec);
        match result {
            Ok(altered) => {
                assert_eq!((*altered.spec()).clone(), spec);
                for index in 0..spec.partitions {
                    known.partitions.entry(index).or_default();
                }
                known.specs = vec![spec];
            }
            Err(error) => {
                known.specs.push(spec);
                say!(self, "alter fails: {error}");
                assert!(self.is_troubled(), "alter_topic: {error}");
            }
        }
        self.take_answers(false);
    }

    /// Reads what is readable, in several ways; nothing of it may ever be taken back.
    fn observe(&mut self) {
        if self.disk.is_off() {
            return;
        }
        let log = self.log();
        let failed = self.disk.failed_calls();
        let mut rng = self.rng.fork();
        let max_bytes = [1, 3_000, 1 << 20][rng.index(3)];
        let from = |start, end| rng.between(start, end);
        let result = check::observe(&log, &mut self.model, max_bytes, from).and_then(|()| self.search());
        if let Err(error) = result {
            say!(self, "reading fails: {error}");
            let excused = self.disk.is_off() || self.disk.failed_calls() > failed;
            assert!(excused, "reading: {error}");
            return;
        }
        if self.model.open_requests().is_empty() {
            check::check_state(&log, &self.model);
        }
    }

    /// Looks for offsets and times.
    fn search(&mut self) -> Result<(), Error> {
        let partitions = self.partitions();
        if partitions.is_empty() {
            return Ok(());
        }
        let partition = &partitions[self.rng.index(partitions.len())];
        let (id, positions) = (partition.id(), partition.positions());
        let (start, end) = (positions.log_start_offset, positions.end_offset);
        let known = self.model.topics[&id.topic].partitions[&id.index].clone();
        let time = self.clock.now().get() + self.rng.below(12_000) as i64 - 10_000;
        let record = |offset: u64| {
            self.model
                .record(known.records[&offset])
                .expect("it was appended")
        };
        let first = (start.get()..end.get()).find(|offset| record(*offset).timestamp >= time);
        let offset = Offset::new(self.rng.clone().between(start.get(), end.get()));
        let failed = self.disk.failed_calls();
        let found = partition.offset_for_time(TimestampMs(time))?;
        let located = partition.locate(offset)?;
        if self.disk.is_off() || self.disk.failed_calls() > failed {
            // What cannot be read is passed over like damage.
            return Ok(());
        }
        assert_eq!(
            found.map(|(offset, time)| (offset.get(), time.get())),
            first.map(|offset| (offset, record(offset).timestamp)),
            "the first record of {id} at or after {time}, {positions:?}"
        );
        let expected = (offset < end).then(|| (offset, TimestampMs(record(offset.get()).timestamp)));
        assert_eq!(located.next, expected, "offset {offset} of {id}, {positions:?}");
        assert_eq!(located.bytes_to_end == 0, offset == end);
        Ok(())
    }
}
