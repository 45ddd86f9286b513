//! The Kafka listener: its connections, its requests by API and how long they take, and the error codes in its answers.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::count;
use super::histogram::Histogram;
use super::text::{Pair, Text, families};

/// What the listener counts. Nothing of it is shown before [`KafkaCounters::register`].
#[derive(Debug, Default)]
pub struct KafkaCounters {
    /// Connections open now.
    pub connections: AtomicI64,
    /// Connections that were taken.
    pub accepted_connections: AtomicU64,
    /// Connections closed at once, above the limit.
    pub refused_connections: AtomicU64,
    /// Connections closed because the client read nothing of its answer.
    pub stalled_connections: AtomicU64,
    apis: OnceLock<Vec<Api>>,
    /// By API and code. Errors are rare, and there are few codes.
    errors: Mutex<BTreeMap<(&'static str, i16), u64>>,
}

#[derive(Debug)]
struct Api {
    name: &'static str,
    requests: AtomicU64,
    /// Made when it is first needed: most APIs are never asked for.
    durations: OnceLock<Box<Histogram>>,
}

impl KafkaCounters {
    /// Makes a row for each API; the first call counts.
    pub(crate) fn register(&self, apis: impl Iterator<Item = &'static str>) {
        let rows = apis.map(|name| Api {
            name,
            requests: AtomicU64::new(0),
            durations: OnceLock::new(),
        });
        let _ = self.apis.get_or_init(|| rows.collect());
    }

    fn rows(&self) -> &[Api] {
        self.apis.get().map(Vec::as_slice).unwrap_or_default()
    }

    fn api(&self, name: &str) -> Option<&Api> {
        self.rows().iter().find(|api| api.name == name)
    }

    /// Counts a request.
    pub(crate) fn count_request(&self, api: &str) {
        if let Some(api) = self.api(api) {
            api.requests.fetch_add(1, Relaxed);
        }
    }

    /// Counts the time from a whole request to its answer.
    pub(crate) fn observe(&self, api: &str, duration: Duration) {
        if let Some(api) = self.api(api) {
            api.durations.get_or_init(Box::default).observe(duration);
        }
    }

    /// Counts an error in an answer, by its code.
    pub(crate) fn count_error(&self, api: &'static str, code: i16) {
        *self.errors.lock().entry((api, code)).or_default() += 1;
    }

    pub(super) fn encode(&self, out: &mut Text) {
        let requests = self.rows().iter();
        let requests = requests.map(|api| ([("api", api.name.into())], count(&api.requests)));
        let errors: Vec<(&str, String, u64)> = (self.errors.lock().iter())
            .map(|((api, code), count)| (*api, code.to_string(), *count))
            .collect();
        let errors = errors.iter().map(|(api, code, count)| {
            let labels: [Pair<'_>; 2] = [("api", (*api).into()), ("code", code.as_str().into())];
            (labels, *count)
        });
        families! { out:
            counters "quipu_kafka_requests", requests, "Requests of Kafka clients, by API";
            counters "quipu_kafka_errors", errors, "Errors in answers to Kafka clients, by API and Kafka's error code";
        }
        let name = "quipu_kafka_request_duration_seconds";
        out.head(
            "histogram",
            name,
            "Time from a whole request of a Kafka client to the sending of its answer, by API",
        );
        for api in self.rows() {
            if let Some(durations) = api.durations.get() {
                let labels: [Pair<'_>; 1] = [("api", api.name.into())];
                durations.read().encode(out, name, &labels);
            }
        }
    }
}
