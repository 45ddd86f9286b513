//! A log on a simulated disk under shuttle, what its users were told, and the comparison after it is opened again.
//!
//! A thread that is told something (by an answer, a read, the state) notes it, and cuts the power right then by chance:
//! if it was not durable at that moment, it is missing in the comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quipu_segments::batch::{BatchBuilder, Batches, Records as BatchRecords};
use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Disk, Error, Fetched, Log, Offset, Once, Options, Part, Partition, ReadRequest,
    Records, StateChange, Ticket, TimestampMs, Topic, TopicId, TopicSettings, TopicSpec,
};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

const DIR: &str = "/data";
pub(crate) const TOPIC: &str = "topic";
/// How many scheduling steps a test may take, before it counts as an endless loop.
const MOST_STEPS: usize = 400_000;

/// Schedules that each scheduler runs of each scenario.
fn schedules() -> usize {
    number("QUIPU_SCHEDULES").map_or(500, |count| count as usize)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}

/// The sums over all runs of this process.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) told: AtomicU64,
    pub(crate) cuts: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Runs a scenario under random schedules, and under ones with few changes of priority, which find faults that need a
/// thread to be delayed for long.
///
/// `QUIPU_SCHEDULES`: how many of each; `QUIPU_SEED`: which ones; `QUIPU_SCHEDULE`: one that a failure has printed.
pub(crate) fn explore(name: &str, scenario: impl Fn(&Tally) + Clone + Send + Sync + 'static) {
    let tally = Arc::new(Tally::default());
    let shared = Arc::clone(&tally);
    let run = move || scenario(&shared);
    if let Ok(schedule) = std::env::var("QUIPU_SCHEDULE") {
        let scheduler = shuttle::scheduler::ReplayScheduler::new_from_encoded(&schedule);
        Runner::new(scheduler, config()).run(run);
        return;
    }
    let seed = number("QUIPU_SEED").unwrap_or_else(|| {
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(name)
    });
    let count = schedules();
    println!("{name}: QUIPU_SEED={seed}");
    Runner::new(RandomScheduler::new_from_seed(seed, count), config()).run(run.clone());
    for depth in [2, 4] {
        Runner::new(PctScheduler::new_from_seed(seed, depth, count / 2), config()).run(run.clone());
    }
    let [told, cuts, refused] =
        [&tally.told, &tally.cuts, &tally.refused].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{name}: {} schedules; told {told} times, {cuts} power cuts, {refused} refusals",
        count / 2 * 4
    );
    assert!(told > 0, "nobody was told anything: the scenario tests nothing");
}

/// Runs a scenario with an engine or a disk that breaks its promises, and asserts that this is noticed.
pub(crate) fn notices(name: &str, scenario: impl Fn(&Tally) + Clone + Send + Sync + 'static) {
    let mut config = config();
    config.failure_persistence = shuttle::FailurePersistence::None;
    let run = std::panic::AssertUnwindSafe(|| {
        let scheduler = RandomScheduler::new_from_seed(number("QUIPU_SEED").unwrap_or(1), 2_000);
        Runner::new(scheduler, config).run(move || scenario(&Tally::default()))
    });
    match std::panic::catch_unwind(run) {
        Ok(runs) => panic!("{name}: {runs} schedules have shown nothing"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            println!("{name}: noticed: {text}");
        }
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    // shuttle treats all orderings as `SeqCst`, and warns of weaker ones: see the engine's `sync` module.
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config
}

/// `true` one time in `of`.
pub(crate) fn chance(of: u32) -> bool {
    thread_rng().gen_ratio(1, of)
}

/// A record's name, unique over all that are appended in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordId {
    pub(crate) producer: String,
    pub(crate) request: u64,
    /// How many partitions the request has records for.
    pub(crate) parts: u32,
    /// The record's number in the part, and how many records the part has.
    pub(crate) index: u32,
    pub(crate) count: u32,
}

impl RecordId {
    fn value(&self, bytes: usize) -> Vec<u8> {
        let Self {
            producer,
            request,
            parts,
            index,
            count,
        } = self;
        let mut value = format!("{producer}/{request}/{parts}/{index}/{count}/").into_bytes();
        let fill = value.iter().fold(request.wrapping_mul(31), |hash, byte| {
            hash.wrapping_mul(131) + u64::from(*byte)
        });
        while value.len() < bytes {
            value.push((fill >> (value.len() % 7)) as u8);
        }
        value
    }

    fn of(value: &[u8]) -> Option<Self> {
        let mut fields = value.splitn(6, |byte| *byte == b'/');
        let mut next = || std::str::from_utf8(fields.next()?).ok();
        let id = Self {
            producer: next()?.to_owned(),
            request: next()?.parse().ok()?,
            parts: next()?.parse().ok()?,
            index: next()?.parse().ok()?,
            count: next()?.parse().ok()?,
        };
        (id.value(value.len()) == value).then_some(id)
    }
}

type Place = (TopicId, u32, u64);

/// What users were told.
#[derive(Default)]
struct History {
    /// Records that were read, or whose append was acknowledged as durable.
    durable: BTreeMap<Place, RecordId>,
    /// Records whose append was acknowledged as written.
    written: BTreeMap<Place, RecordId>,
    /// Log starts that were seen.
    starts: BTreeMap<(TopicId, u32), u64>,
    /// Values of the state that were seen.
    state: BTreeMap<String, u64>,
    /// Topics whose deletion was acknowledged.
    deleted: BTreeSet<TopicId>,
    /// Requests that were sent with a key, by producer and number, with when it expires.
    keyed: BTreeMap<(String, u64), TimestampMs>,
    /// The disk of the next run, once the power was cut.
    next: Option<SimDisk>,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Closed, and opened again on what the process left.
    Close,
    /// Closed; then the power is cut.
    CloseAndCut,
    /// Dropped without being closed.
    Drop,
    /// The power is cut while it is open.
    Cut,
}

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    pub(crate) log: Log,
    pub(crate) topic: Arc<Topic>,
    options: Options,
    cuts: bool,
    even: bool,
    /// What may fail while the power is on.
    allowed: fn(&Error) -> bool,
    history: Mutex<History>,
    tally: Tally,
}

/// What a scenario begins with.
pub(crate) struct Setup {
    pub(crate) options: Options,
    pub(crate) partitions: u32,
    pub(crate) settings: TopicSettings,
    /// Whether observers cut the power by chance.
    pub(crate) cuts: bool,
    /// Whether every request has one record for each partition, so that it is known how many come.
    pub(crate) even: bool,
    pub(crate) allowed: fn(&Error) -> bool,
    /// What the log sees of the disk.
    pub(crate) wrap: fn(SimDisk) -> Arc<dyn Disk>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            options: Options {
                journal_file_bytes: 72 << 10,
                first_journal_file_bytes: 64 << 10,
                journal_files: 2,
                max_request_bytes: 8 << 10,
                max_open_files: Some(64),
                ..Options::default()
            },
            partitions: 1,
            settings: TopicSettings::default(),
            cuts: true,
            even: false,
            allowed: |_| false,
            wrap: |disk| Arc::new(disk),
        }
    }
}

impl World {
    pub(crate) fn new(setup: Setup) -> Arc<Self> {
        let disk = SimDisk::new(thread_rng().r#gen());
        let clock = SimClock::new(TimestampMs(1_700_000_000_000));
        let log = Log::open_with(
            (setup.wrap)(disk.clone()),
            Arc::new(clock.clone()),
            Path::new(DIR),
            setup.options.clone(),
        )
        .expect("an empty disk can be opened");
        let spec = TopicSpec::new(setup.partitions, setup.settings);
        let topic = log
            .create_topic(TOPIC, spec)
            .expect("a healthy disk takes a topic");
        Arc::new(Self {
            disk,
            clock,
            log,
            topic,
            options: setup.options,
            cuts: setup.cuts,
            even: setup.even,
            allowed: setup.allowed,
            history: Mutex::default(),
            tally: Tally::default(),
        })
    }

    pub(crate) fn partition(&self, index: u32) -> Arc<Partition> {
        self.topic
            .partition(index)
            .expect("the scenario knows how many there are")
    }

    /// Held for memory operations only: no other thread runs meanwhile.
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_off(&self) -> bool {
        self.history().next.is_some()
    }

    /// Cuts the power now, unless another thread has done it.
    pub(crate) fn cut(&self) {
        let disk = self.disk.after_power_cut();
        let mut history = self.history();
        // The first cut has the disk as it was then; after that nothing can be written.
        if history.next.is_none() {
            history.next = Some(disk);
            self.tally.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Cuts the power one time in three, at a random moment.
    pub(crate) fn cut_at_some_time(&self) {
        if chance(3) {
            for _ in 0..thread_rng().gen_range(0..300) {
                shuttle::thread::yield_now();
            }
            self.cut();
        }
    }

    /// Notes that a user was told something.
    fn told(&self) {
        self.told_often(12);
    }

    /// The same, with a power cut one time in `often`.
    fn told_often(&self, often: u32) {
        self.tally.told.fetch_add(1, Ordering::Relaxed);
        if self.cuts && chance(often) {
            self.cut();
        }
    }

    /// Checks that an error is allowed: on a machine that is off, every error is.
    pub(crate) fn refused(&self, error: &Error) {
        self.tally.refused.fetch_add(1, Ordering::Relaxed);
        assert!(
            matches!(error, Error::Closed) || (self.allowed)(error) || self.is_off(),
            "unexpected: {error:?}"
        );
    }

    /// Checks the error of a call, if it is one; returns its value.
    pub(crate) fn allow<T>(&self, result: quipu_segments::Result<T>) -> Option<T> {
        result.map_err(|error| self.refused(&error)).ok()
    }

    /// An append that has an id of its own.
    pub(crate) fn request(
        &self,
        producer: &str,
        request: u64,
        to: &[&Arc<Partition>],
        count: u32,
        bytes: usize,
        ack: Ack,
    ) -> AppendRequest {
        let parts = to
            .iter()
            .map(|partition| {
                let mut records = BatchBuilder::new();
                for index in 0..count {
                    let id = RecordId {
                        producer: producer.to_owned(),
                        request,
                        parts: to.len() as u32,
                        index,
                        count,
                    };
                    let time = TimestampMs(1_700_000_000_000 + request as i64);
                    records.push(time, None, Some(&id.value(bytes)), &[]);
                }
                let records = if chance(4) {
                    Records::Sealed(vec![records.seal()])
                } else {
                    Records::Loose(records)
                };
                Part::new(Arc::clone(partition), records)
            })
            .collect();
        let change = StateChange::set(producer.as_bytes().to_vec(), request.to_string().into_bytes());
        AppendRequest {
            parts,
            state: vec![change],
            ack,
            ..AppendRequest::default()
        }
    }

    /// Appends `requests` requests, one after the other, and waits for their answers in one of several ways. Returns
    /// how many were acknowledged; ends early if the log refuses for ever.
    pub(crate) fn produce(self: &Arc<Self>, producer: &str, requests: u64, bytes: usize) -> u64 {
        self.produce_to(&self.topic, producer, requests, bytes)
    }

    /// The same, each request with a key that other producers send too: the first one stores it.
    pub(crate) fn produce_once(self: &Arc<Self>, producer: &str, requests: u64, expires: TimestampMs) -> u64 {
        assert!(self.even, "who repeats a request sends it to the same partitions");
        if self.allow(self.log.prepare_keys()).is_none() {
            return 0;
        }
        let keys = (1..=requests).map(|request| ((producer.to_owned(), request), expires));
        self.history().keyed.extend(keys);
        self.send(&self.topic, producer, requests, 20, Some(expires))
    }

    /// The same, to another topic.
    pub(crate) fn produce_to(
        self: &Arc<Self>,
        topic: &Topic,
        producer: &str,
        requests: u64,
        bytes: usize,
    ) -> u64 {
        self.send(topic, producer, requests, bytes, None)
    }

    fn send(
        self: &Arc<Self>,
        topic: &Topic,
        producer: &str,
        requests: u64,
        bytes: usize,
        expires: Option<TimestampMs>,
    ) -> u64 {
        let mut stored = 0;
        for request in 1..=requests {
            let all = topic.partitions();
            loop {
                let to: Vec<&Arc<Partition>> = if self.even || chance(2) {
                    all.iter().collect()
                } else {
                    vec![&all[thread_rng().gen_range(0..all.len())]]
                };
                let ack = if chance(3) { Ack::Written } else { Ack::Durable };
                let most = if self.even { 1 } else { 2 };
                let count = thread_rng().gen_range(1..=most);
                let mut append = self.request(producer, request, &to, count, bytes, ack);
                append.once = expires.map(|expires| once(topic, producer, request, expires));
                let partitions: Vec<u32> = to.iter().map(|partition| partition.id().index).collect();
                match self.log.append(append).map(|ticket| self.wait(ticket)) {
                    Ok(None) => break,
                    Ok(Some(Ok(appended))) => {
                        stored += u64::from(appended.repeated.is_none());
                        let note = request.to_string().into_bytes();
                        assert!(appended.repeated.is_none_or(|known| known == note));
                        for (index, base) in partitions.iter().zip(appended.base_offsets) {
                            for record in 0..count {
                                let id = RecordId {
                                    producer: producer.to_owned(),
                                    request,
                                    parts: partitions.len() as u32,
                                    index: record,
                                    count,
                                };
                                self.note((topic.id(), *index, base.get() + u64::from(record)), id, ack);
                            }
                        }
                        self.told();
                        break;
                    }
                    // Send it again later, when there is room.
                    Err(Error::Overloaded { .. } | Error::StorageFull)
                    | Ok(Some(Err(Error::Overloaded { .. } | Error::StorageFull)))
                        if !self.is_off() =>
                    {
                        self.tally.refused.fetch_add(1, Ordering::Relaxed);
                        shuttle::thread::yield_now();
                    }
                    Err(error) | Ok(Some(Err(error))) => {
                        self.refused(&error);
                        return stored;
                    }
                }
            }
        }
        stored
    }

    /// Waits for an answer in one of several ways; `None` if the answer was given up.
    fn wait(&self, ticket: Ticket) -> Option<quipu_segments::Result<quipu_segments::Appended>> {
        let way = thread_rng().gen_range(0..8);
        if way == 0 {
            drop(ticket);
            return None;
        }
        if way > 3 {
            return Some(ticket.wait());
        }
        // Poll once with a waker that does nothing; then give up, hand the ticket to another thread, or wait here.
        let mut ticket = Box::pin(ticket);
        if let Poll::Ready(answer) = pin!(&mut ticket).poll(&mut Context::from_waker(Waker::noop())) {
            return Some(answer);
        }
        match way {
            1 => None,
            2 => shuttle::thread::spawn(move || Some(shuttle::future::block_on(ticket)))
                .join()
                .expect("it waits only"),
            _ => Some(shuttle::future::block_on(ticket)),
        }
    }

    fn note(&self, place: Place, id: RecordId, ack: Ack) {
        let history = &mut *self.history();
        let others = [&history.durable, &history.written].map(|known| known.get(&place));
        for other in others.into_iter().flatten() {
            assert_eq!(*other, id, "two records have the offset {place:?}");
        }
        match ack {
            Ack::Durable => history.durable.insert(place, id),
            Ack::Written => history.written.insert(place, id),
        };
    }

    /// Checks and notes the records that were read; returns the next offset.
    pub(crate) fn take(&self, partition: &Partition, from: u64, fetched: &Fetched) -> u64 {
        let positions = partition.positions();
        assert!(
            fetched.end_offset <= positions.end_offset,
            "an end beyond the end: {fetched:?} {positions:?}"
        );
        assert!(
            fetched.next_offset <= fetched.end_offset,
            "read beyond the end: {fetched:?}"
        );
        let mut next = None;
        for run in &fetched.runs {
            for (offset, id) in records(&run.bytes) {
                assert_eq!(next.unwrap_or(offset), offset, "a gap: {fetched:?}");
                next = Some(offset + 1);
                let place = (partition.id().topic, partition.id().index, offset);
                self.note(place, id, Ack::Durable);
            }
        }
        assert_eq!(next.unwrap_or(from), fetched.next_offset.get(), "{fetched:?}");
        if next.is_some() {
            self.told();
        }
        fetched.next_offset.get()
    }

    /// Reads once from `from`, warm if it can be; `None` after a failure.
    pub(crate) fn read(&self, partition: &Partition, from: u64) -> Option<u64> {
        let request = ReadRequest::new(Offset::new(from), if chance(2) { 1 } else { 1 << 20 });
        let warm = chance(2).then(|| partition.try_read(request)).flatten();
        let fetched = match warm.unwrap_or_else(|| partition.read(request)) {
            Ok(fetched) => fetched,
            Err(Error::Trimmed { log_start_offset, .. }) if log_start_offset.get() > from => {
                // The log start must be as durable as the records.
                self.started_at(partition.id().topic, partition.id().index, log_start_offset);
                return Some(log_start_offset.get());
            }
            Err(error) => {
                self.refused(&error);
                return None;
            }
        };
        let is_read = !fetched.runs.is_empty() || fetched.end_offset.get() <= from;
        assert!(is_read, "nothing was read at {from}: {fetched:?}");
        Some(self.take(partition, from, &fetched))
    }

    /// Follows a partition until `until`, or the end of the log; returns the offset that it reached. A thread that
    /// waits for a record that is there, and is not woken, is a deadlock: shuttle finds it.
    pub(crate) fn follow(&self, partition: &Arc<Partition>, from: u64, until: u64) -> u64 {
        let mut next = from;
        while next < until {
            if chance(8) {
                // A waiter that gives up at once must not take away another one's wake-up.
                let _pending =
                    pin!(partition.wait_for(Offset::new(next))).poll(&mut Context::from_waker(Waker::noop()));
            }
            partition.wait_for(Offset::new(next)).wait();
            match self.read(partition, next) {
                Some(now) if now > next => next = now,
                // Woken without a record: the log was closed, the topic deleted, or the machine is off.
                _ => break,
            }
        }
        next
    }

    /// Looks at the state of a producer.
    pub(crate) fn watch(&self, producer: &str) {
        let Some(value) = state(&self.log, producer) else {
            return;
        };
        {
            let mut history = self.history();
            let known = history.state.entry(producer.to_owned()).or_default();
            assert!(
                *known <= value,
                "the state of {producer} goes back from {known} to {value}"
            );
            *known = value;
        }
        self.told();
    }

    /// Notes a log start that was seen.
    pub(crate) fn started_at(&self, topic: TopicId, partition: u32, offset: Offset) {
        {
            let mut history = self.history();
            let known = history.starts.entry((topic, partition)).or_default();
            if *known >= offset.get() {
                return;
            }
            *known = offset.get();
        }
        self.told_often(3);
    }

    /// Notes that a topic's deletion was acknowledged.
    pub(crate) fn deleted(&self, topic: TopicId) {
        self.history().deleted.insert(topic);
        self.told();
    }

    /// Ends the run, if it has not ended, opens the log again and compares. All other threads have ended.
    pub(crate) fn end(self: Arc<Self>, tally: &Tally) {
        let end = [End::Close, End::CloseAndCut, End::Drop, End::Cut][thread_rng().gen_range(0..4)];
        self.end_by(end, tally);
    }

    pub(crate) fn end_by(self: Arc<Self>, end: End, tally: &Tally) {
        let world = Arc::into_inner(self).expect("the other threads have ended");
        let was_off = world.is_off();
        let mut closed = false;
        if end == End::Cut && !was_off {
            world.cut();
        }
        if matches!(end, End::Close | End::CloseAndCut) {
            closed = world.allow(world.log.close()).is_some() && !was_off;
        }
        drop(world.topic);
        drop(world.log);
        let disk_failed = world.disk.failed_calls() > 0;
        let history = world.history.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lost_power = was_off || matches!(end, End::CloseAndCut | End::Cut);
        let disk = match history.next.clone() {
            Some(disk) => disk,
            None if lost_power => world.disk.after_power_cut(),
            None => world.disk.clone(),
        };
        disk.clear_faults();
        disk.set_capacity(None);
        let options = Options {
            background: false,
            ..world.options
        };
        let log = Log::open_with(Arc::new(disk), Arc::new(world.clock), Path::new(DIR), options)
            .expect("it opens again");
        assert_eq!(log.health(), quipu_segments::Health::default());
        // Written records survive the end of the process; and a power cut, if the log was closed before. On a failing
        // disk this is not promised.
        let found = compare(&log, &history, (closed || !lost_power) && !disk_failed);
        for id in found.values().filter(|id| id.index == 0) {
            if let Some(expires) = history.keyed.get(&(id.producer.clone(), id.request)) {
                assert_remembered(&log, id, *expires);
            }
        }
        for (sum, count) in [
            (&tally.told, &world.tally.told),
            (&tally.cuts, &world.tally.cuts),
            (&tally.refused, &world.tally.refused),
        ] {
            sum.fetch_add(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// The key of a request that several send.
fn once(topic: &Topic, producer: &str, request: u64, expires: TimestampMs) -> Once {
    Once {
        topic: Some(topic.id()),
        key: format!("{producer}/{request}").into_bytes(),
        fingerprint: [1; 16],
        expires,
        note: request.to_string().into_bytes(),
    }
}

/// Checks that a stored request is not appended again, unless its key has expired.
fn assert_remembered(log: &Log, id: &RecordId, expires: TimestampMs) {
    if expires != TimestampMs(i64::MAX) {
        return;
    }
    let topic = log.topic(TOPIC).expect("it has records");
    let mut records = BatchBuilder::new();
    records.push(TimestampMs(1), None, Some(b"again"), &[]);
    let part = Part::new(topic.partition(0).expect("it has one"), Records::Loose(records));
    let ticket = log.append(AppendRequest {
        parts: vec![part],
        once: Some(once(&topic, &id.producer, id.request, expires)),
        ..AppendRequest::default()
    });
    log.run_round().expect("a healthy log");
    let appended = ticket.and_then(Ticket::wait).expect("a healthy log");
    assert!(appended.repeated.is_some(), "{id:?} would be there twice");
}

fn state(log: &Log, producer: &str) -> Option<u64> {
    let value = log.state_get(producer.as_bytes())?;
    let text = std::str::from_utf8(&value).expect("the state is text");
    Some(text.parse().expect("the state is a number"))
}

fn records(bytes: &[u8]) -> Vec<(u64, RecordId)> {
    let mut all = Vec::new();
    for batch in Batches::new(bytes) {
        let (_, batch) = batch.expect("a run is whole batches");
        for record in BatchRecords::new(batch).expect("a batch holds records") {
            let record = record.expect("a batch holds whole records");
            let id = record.value.and_then(RecordId::of);
            let id = id.unwrap_or_else(|| panic!("no record of ours: {record:?}"));
            all.push((record.offset.get(), id));
        }
    }
    all
}

/// Compares a log that was opened again with what its users were told.
fn compare(log: &Log, history: &History, keeps_written: bool) -> BTreeMap<Place, RecordId> {
    let mut found: BTreeMap<Place, RecordId> = BTreeMap::new();
    let mut starts = BTreeMap::new();
    let mut is_whole = true;
    for topic in log.topics() {
        assert!(
            !history.deleted.contains(&topic.id()),
            "the deleted topic {} is back",
            topic.id().0
        );
        for partition in &*topic.partitions() {
            let place = (topic.id(), partition.id().index);
            let positions = partition.positions();
            starts.insert(place, positions.log_start_offset.get());
            is_whole &= positions.log_start_offset == Offset::ZERO;
            let mut next = positions.log_start_offset;
            while next < positions.end_offset {
                let read = partition.read(ReadRequest::new(next, 1 << 20));
                let read = read.expect("everything is readable");
                for (offset, id) in read.runs.iter().flat_map(|run| records(&run.bytes)) {
                    found.insert((place.0, place.1, offset), id);
                }
                next = read.next_offset;
            }
        }
    }
    for (place, start) in &history.starts {
        if let Some(now) = starts.get(place) {
            assert!(
                start <= now,
                "the log start of {place:?} went back from {start} to {now}"
            );
        }
    }
    let written = keeps_written.then_some(&history.written);
    for ((topic, partition, offset), id) in history.durable.iter().chain(written.into_iter().flatten()) {
        // Trimmed, or deleted with its topic (which may be durable without having been acknowledged).
        let start = starts.get(&(*topic, *partition));
        if start.is_none_or(|start| offset < start) {
            continue;
        }
        let now = found.get(&(*topic, *partition, *offset));
        assert_eq!(now, Some(id), "lost: {offset} of {partition}, {found:?}");
    }
    if !is_whole || !history.deleted.is_empty() {
        return found;
    }
    // Requests must be there whole, once, and with their changes of the state.
    let mut requests: BTreeMap<(&str, u64), (u32, u32)> = BTreeMap::new();
    for id in found.values() {
        let (expected, count) = requests.entry((&id.producer, id.request)).or_default();
        *expected = id.parts * id.count;
        *count += 1;
    }
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for ((producer, request), (expected, count)) in requests {
        assert_eq!(
            expected, count,
            "request {request} of {producer} is there in part, or twice: {found:?}"
        );
        let last = last.entry(producer).or_default();
        *last = (*last).max(request);
    }
    for (producer, request) in &last {
        assert_eq!(state(log, producer), Some(*request), "the state of {producer}");
    }
    for (producer, request) in &history.state {
        assert!(
            last.get(producer.as_str()) >= Some(request),
            "the state of {producer} was {request}: {last:?}"
        );
    }
    found
}

/// Runs each function in its own thread, and waits for all of them.
pub(crate) fn together(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let handles: Vec<_> = threads.into_iter().map(shuttle::thread::spawn).collect();
    for handle in handles {
        handle.join().expect("a thread that panics ends the test");
    }
}
