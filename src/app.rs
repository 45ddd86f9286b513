//! What every request shares.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use quipu_segments::{Clock, Log, Monotonic};
use tokio::sync::watch;

use crate::config::Config;
use crate::groups::Groups;
use crate::http::budget::Pool;
use crate::lag::history::History;
use crate::metrics::Metrics;
use crate::partitioner::Rotation;

/// The service's state, cheap to clone: the log, the settings, the metrics.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// The parts of an [`App`].
pub struct Inner {
    /// The engine.
    pub log: Log,
    /// The settings in force.
    pub config: Config,
    /// Every metric.
    pub metrics: Metrics,
    /// The clock that the engine uses too.
    pub clock: Arc<dyn Clock>,
    /// The order of changes to groups.
    pub groups: Groups,
    /// What is remembered of the groups' lag.
    pub history: History,
    /// What request bodies may hold at once.
    pub(crate) bodies: Pool,
    /// Where requests' records without keys go.
    pub rotation: Rotation,
    /// Set once the log can take requests with idempotency keys ([`Log::prepare_keys`]).
    pub(crate) keys_prepared: AtomicBool,
    /// Becomes true when the server begins to stop: long polls then end at once with what they have.
    pub stopping: watch::Sender<bool>,
    /// Set once the log has been opened and recovered.
    pub ready: AtomicBool,
    /// When the parts were put together.
    pub started: Monotonic,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(log: Log, config: Config, clock: Arc<dyn Clock>) -> Self {
        crate::damage::look_again(&log);
        Self(Arc::new(Inner {
            log,
            metrics: Metrics::new(),
            started: clock.monotonic(),
            groups: Groups::new(clock.now()),
            clock,
            history: History::default(),
            bodies: Pool::new(config.limits.max_in_flight_bytes),
            rotation: Rotation::default(),
            keys_prepared: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
            ready: AtomicBool::new(true),
            config,
        }))
    }

    /// Whether the server has begun to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Bytes of request bodies held in memory now.
    #[must_use]
    pub fn body_bytes_in_flight(&self) -> u64 {
        self.bodies.held_bytes()
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
