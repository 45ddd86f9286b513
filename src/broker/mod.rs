//! Everything the service decides, for any wire: it knows no HTTP, no status code and no HTML.

pub mod access;
pub mod audit;
pub mod backups;
pub mod blocking;
pub mod budget;
pub mod caller;
pub mod counters;
pub mod engine;
pub mod fetch;
pub mod filter;
pub mod groups;
pub mod jwt;
pub mod lag;
pub mod limits;
pub mod names;
pub mod overview;
pub mod produce;
pub mod refusal;
pub mod rights;
pub mod sparing;
pub mod state_keys;
pub mod stream;
pub mod topics;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::access::Access;
use self::audit::Audit;
use self::backups::Backups;
use self::blocking::Blocking;
use self::budget::Pool;
use self::counters::Counters;
use self::engine::{Clock, Log, Monotonic};
use self::fetch::Fetcher;
use self::groups::Groups;
use self::lag::report::Lags;
use self::limits::Limits;
use self::overview::traffic::Traffic;
use self::produce::Producer;
use self::topics::Topics;

/// The service without its wires, cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Parts>);

/// The parts of a [`Broker`].
pub struct Parts {
    /// The engine.
    pub log: Log,
    /// The clock that the engine uses too.
    pub clock: Arc<dyn Clock>,
    /// What was changed, by whom.
    pub audit: Audit,
    /// Copies of the log.
    pub backups: Backups,
    /// The topics, and the only way to change them.
    pub topics: Topics,
    /// Who may do what.
    pub access: Access,
    /// The threads for work that blocks.
    pub blocking: Blocking,
    /// The memory for requests that arrive.
    pub bodies: Pool,
    /// What one client may ask for.
    pub limits: Limits,
    /// For how long committed offsets of groups without members are kept; `None`: for ever.
    pub offsets_retention: Option<Duration>,
    /// The counters of the hot paths.
    pub counters: Arc<Counters>,
    /// Reads partitions.
    pub fetcher: Fetcher,
    /// The groups.
    pub groups: Groups,
    /// How far the groups are behind, now and in the last day.
    pub lags: Lags,
    /// How fast topics are written and read, and how the disk fills.
    pub traffic: Traffic,
    /// Appends records of producers.
    pub producer: Arc<Producer>,
    /// When the broker was made.
    started: Monotonic,
    /// Becomes true when the server begins to stop: long polls then end at once with what they have.
    pub stopping: watch::Sender<bool>,
}

impl Broker {
    /// Puts the parts together.
    pub fn new(
        log: impl Into<Log>,
        clock: Arc<dyn Clock>,
        limits: Limits,
        offsets_retention: Option<Duration>,
    ) -> Self {
        let log = log.into();
        topics::skips::look_again(&log);
        let (blocking, counters) = (Blocking::default(), Arc::new(Counters::default()));
        let rotation = Arc::default();
        let stopping = watch::Sender::new(false);
        let fetcher = Fetcher::new(&log, &blocking, &counters, &stopping);
        let started = clock.monotonic();
        let topics = Topics::new(log.clone(), &limits);
        let uses = groups::Uses {
            log: log.clone(),
            clock: Arc::clone(&clock),
            blocking: blocking.clone(),
            topics: topics.clone(),
            fetcher: fetcher.clone(),
            rotation: Arc::clone(&rotation),
            stopping: stopping.subscribe(),
            counters: Arc::clone(&counters),
        };
        let groups = Groups::new(uses, limits.max_queue_records);
        Self(Arc::new(Parts {
            access: Access::new(log.clone(), Arc::clone(&clock)),
            audit: Audit::new(log.clone(), blocking.clone()),
            backups: Backups::new(log.clone(), Arc::clone(&counters)),
            lags: Lags::new(log.clone(), Arc::clone(&clock), groups.clone()),
            traffic: Traffic::new(log.clone(), Arc::clone(&clock)),
            groups,
            fetcher,
            producer: Arc::new(Producer::new(
                log.clone(),
                Arc::clone(&clock),
                blocking.clone(),
                limits.clone(),
                Arc::clone(&counters),
                rotation,
                stopping.subscribe(),
            )),
            log,
            topics,
            clock,
            blocking,
            bodies: Pool::new(limits.max_in_flight_bytes),
            limits,
            offsets_retention,
            counters,
            stopping,
            started,
        }))
    }

    /// Since the broker was made.
    pub fn uptime(&self) -> Duration {
        self.clock.monotonic().since(self.started)
    }

    /// Whether the server has begun to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

#[cfg(test)]
impl Broker {
    /// Opens the log on a simulated disk, with small files.
    pub(crate) fn on(
        disk: &engine::sim::SimDisk,
        clock: &engine::sim::SimClock,
    ) -> Result<Self, engine::Error> {
        let options = engine::Options {
            journal_file_bytes: 4 << 20,
            journal_files: 2,
            max_request_bytes: 1 << 20,
            ..engine::Options::default()
        };
        let (disk, clock) = (Arc::new(disk.clone()), Arc::new(clock.clone()));
        let log = Log::open_with(disk, clock.clone(), std::path::Path::new("/data"), options)?;
        Ok(Self::new(log, clock, Limits::default(), None))
    }
}

impl Deref for Broker {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
