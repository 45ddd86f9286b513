//! The Kafka listener: its connections, its requests by API, and the error codes in its answers.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::count;
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
    requests: OnceLock<Vec<(&'static str, AtomicU64)>>,
    /// By API and code. Errors are rare, and there are few codes.
    errors: Mutex<BTreeMap<(&'static str, i16), u64>>,
}

impl KafkaCounters {
    /// Makes a row for each API; the first call counts.
    pub(crate) fn register(&self, apis: impl Iterator<Item = &'static str>) {
        let rows = || apis.map(|api| (api, AtomicU64::new(0))).collect();
        let _ = self.requests.get_or_init(rows);
    }

    /// Counts a request.
    pub(crate) fn count_request(&self, api: &str) {
        let rows = self.requests.get().into_iter().flatten();
        if let Some((_, counter)) = rows.into_iter().find(|(name, _)| *name == api) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Counts an error in an answer, by its code.
    pub(crate) fn count_error(&self, api: &'static str, code: i16) {
        *self.errors.lock().entry((api, code)).or_default() += 1;
    }

    pub(super) fn encode(&self, out: &mut Text) {
        let rows = self.requests.get().map(Vec::as_slice).unwrap_or_default();
        let requests = rows
            .iter()
            .map(|(api, counter)| ([("api", (*api).into())], count(counter)));
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
    }
}
