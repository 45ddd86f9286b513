//! The state that all HTTP requests share: the broker, and the state that only this wire needs.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::broker::Broker;
use crate::broker::engine::{Clock, Log};
use crate::metrics::Metrics;
use crate::settings::{Config, Secret};
use crate::traces::Tracer;

/// The service's state, cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// The parts of an [`App`].
pub struct Inner {
    /// The service, which knows no wire.
    pub broker: Broker,
    /// The settings in force.
    pub config: Config,
    /// The counters of the wire.
    pub metrics: Arc<Metrics>,
    /// Takes spans, if requests are traced.
    pub(crate) tracer: Option<Tracer>,
    /// The OpenAPI document, made at the first request for it.
    pub(crate) openapi: OnceLock<Bytes>,
}

impl App {
    /// Builds the service's state.
    #[must_use]
    pub fn new(log: impl Into<Log>, config: Config, clock: Arc<dyn Clock>) -> Self {
        Self::with_metrics(log, config, clock, Arc::new(Metrics::new()))
    }

    /// The same, with counters that others count in already.
    #[must_use]
    pub(crate) fn with_metrics(
        log: impl Into<Log>,
        config: Config,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let broker = Broker::new(log, clock, config.limits.clone(), config.offsets_retention);
        if let Some(dir) = &config.backup_dir {
            broker.backups.keep_in(dir.clone());
        }
        if config.asks_for_tokens() {
            broker.access.turn_on();
        }
        broker
            .access
            .set_admin_token(config.admin_token.as_ref().map(Secret::reveal));
        let start = |endpoint: &String| Tracer::start(endpoint, &broker.counters);
        Self(Arc::new(Inner {
            tracer: config.otlp_endpoint.as_ref().and_then(start),
            broker,
            metrics,
            openapi: OnceLock::new(),
            config,
        }))
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

impl Deref for Inner {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.broker
    }
}
