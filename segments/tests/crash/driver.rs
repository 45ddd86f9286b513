//! Drives a log, as a seed decides, through everything that it can do and that can happen to it.

use quipu_segments::sim::{Lie, Rng, SimClock, SimDisk};
use quipu_segments::{Error, Log, Options, Ticket, TimestampMs};

use super::check::Restart;
use super::hook::HookedDisk;
use super::model::{Model, RequestId};
use backup::Taken;
use once::{Client, Key};

const DIR: &str = "/quipu/data";
/// More calls than any run makes: an engine in an endless loop is stopped there.
const MOST_CALLS: u64 = 300_000;

/// What a run counted, to check that runs do what they are made for.
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
    /// Requests that repeated a stored one, by a key and by a producer's sequence; and keys that had expired.
    pub(crate) repeated: u64,
    pub(crate) repeated_batches: u64,
    pub(crate) expired: u64,
    /// Repetitions of a request that the same round stored.
    pub(crate) repeated_at_once: u64,
    /// Stored parts with batches that lack records.
    pub(crate) gaps: u64,
    /// Backups that were finished, those that were not, and those of both that were restored and compared.
    pub(crate) backups: u64,
    pub(crate) failed_backups: u64,
    pub(crate) restored: u64,
    /// Reads or openings that met a flipped bit and reported it.
    pub(crate) reported: u64,
    pub(crate) calls: u64,
    pub(crate) trace_hash: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.closes += other.closes;
        self.requests += other.requests;
        self.durable += other.durable;
        self.unknown += other.unknown;
        self.failed_calls += other.failed_calls;
        self.full += other.full;
        self.repeated += other.repeated;
        self.repeated_batches += other.repeated_batches;
        self.expired += other.expired;
        self.repeated_at_once += other.repeated_at_once;
        self.gaps += other.gaps;
        self.backups += other.backups;
        self.failed_backups += other.failed_backups;
        self.restored += other.restored;
        self.reported += other.reported;
        self.calls += other.calls;
        // The order in which runs end must not matter.
        self.trace_hash ^= other.trace_hash;
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The machine stops at this call, and at no other; `None`: anything may happen at any time.
    pub(crate) stop_at: Option<u64>,
    pub(crate) verbose: bool,
    pub(crate) sabotage: Option<Sabotage>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            stop_at: None,
            verbose: false,
            sabotage: None,
        }
    }
}

/// A precaution of the engine that is removed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sabotage {
    /// The sync of the journal.
    JournalSync,
    /// The sync of a directory that follows a rename.
    SyncAfterRename,
    /// The check of the last journalled round's checksum.
    TornRounds,
    /// The lookup of the keys of requests that are appended once.
    KeyLookup,
    /// The record that makes a key durable.
    KeyEntry,
    /// The syncs of a backup's files.
    BackupSync,
}

struct Waiting {
    id: RequestId,
    ticket: Ticket,
    /// Whether it must be stored, if that is known.
    expected: Option<bool>,
    /// How many calls had failed when it was queued.
    since: usize,
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
    /// Whether segments are synced in the middle of rounds, as a thread beside the committer would.
    interleaved: bool,
    markers: Vec<Vec<u8>>,
    /// Keys that clients use again now and then.
    keys: Vec<Key>,
    clients: Vec<Client>,
    /// What happened since the log was last open and whole.
    restart: Restart,
    /// The backups that were taken, or begun.
    backups: Vec<Taken>,
    restores: u64,
    /// Where restores were cut short, each with what its backup had to hold.
    halves: Vec<(std::path::PathBuf, Model)>,
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

mod append;
mod backup;
mod excuse;
mod faults;
mod observe;
mod once;
mod operate;
mod restart;

fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Invalid(_)
            | Error::RecordTooLarge { .. }
            | Error::RequestTooLarge { .. }
            | Error::NotFound(_)
            | Error::TopicExists(_)
            | Error::OffsetMismatch { .. }
            | Error::KeyReused
            | Error::TooManyKeys { .. }
            | Error::OutOfOrderSequence { .. }
            | Error::ProducerFenced { .. }
            | Error::OutOfRange { .. }
            | Error::Overloaded { .. }
            | Error::StorageFull
            | Error::PartitionFailed(_)
            | Error::KeysFailed(_)
            | Error::LogFailed { in_flight: false, .. }
            | Error::Closed
    )
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say!(self, "the promise was broken here");
        } else {
            // The disk's hook holds the log, which holds the disk.
            self.drop_log();
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
            first_journal_file_bytes: [64 << 10, 4 << 20][(plan.seed % 2) as usize],
            journal_files: rng.between(2, 4) as u32,
            max_request_bytes: (journal_file_bytes / 2) as usize,
            queue_bytes: 4 << 20,
            max_open_segments: [1, 2, 64][rng.index(3)],
            max_open_files: [Some(1), Some(3), None][rng.index(3)],
            background: false,
            key_bytes: [2 << 10, 256 << 20, 256 << 20][rng.index(3)],
            key_log_bytes: [Some(120), Some(1 << 10)][rng.index(2)],
            ignore_keys: matches!(plan.sabotage, Some(Sabotage::KeyLookup)),
            lose_keys: matches!(plan.sabotage, Some(Sabotage::KeyEntry)),
            trust_torn_rounds: matches!(plan.sabotage, Some(Sabotage::TornRounds)),
            ..Options::default()
        };
        let disk = SimDisk::new(rng.next_u64());
        match plan.sabotage {
            Some(Sabotage::JournalSync) => disk.lie(Lie::Sync("/journal/".into())),
            Some(Sabotage::BackupSync) => disk.lie(Lie::Sync("/backups/".into())),
            Some(Sabotage::SyncAfterRename) => disk.lie(Lie::SyncDirAfterRename),
            Some(Sabotage::TornRounds | Sabotage::KeyLookup | Sabotage::KeyEntry) | None => {}
        }
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
            keys: Vec::new(),
            clients: Vec::new(),
            restart: Restart::Close,
            backups: Vec::new(),
            restores: 0,
            halves: Vec::new(),
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
        // If every call is tried as a stop, there must not be too many.
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
        self.restore_backups();
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

    fn step(&mut self) {
        let random = self.plan.stop_at.is_none();
        match self.rng.below(104) {
            100..104 => self.backup(),
            0..45 => {
                for _ in 0..self.rng.between(1, 5) {
                    self.append();
                }
                if self.rng.chance(7, 8) {
                    self.run_rounds();
                }
            }
            45..50 => self.run_rounds(),
            50..56 => self.sync_segments(),
            56..62 => {
                // One pass appends keys again; the next moves the start of the key log past the old ones.
                for _ in 0..self.rng.between(1, 3) {
                    if !self.disk.is_off() {
                        self.retention();
                    }
                }
            }
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
            // With every call tried as a stop, also a stop in a backup.
            91..95 => self.backup(),
            _ => {}
        }
        if self.full && self.rng.chance(1, 8) {
            say!(self, "space returns");
            self.disk.set_capacity(None);
            self.full = false;
        }
        self.check_health();
        // A log that has failed is restarted sooner or later.
        if self.log.as_ref().is_some_and(|log| {
            let health = log.health();
            health.log_failed.is_some() || !health.failed_partitions.is_empty()
        }) && self.rng.chance(1, 3)
        {
            self.crash();
        }
    }
}
