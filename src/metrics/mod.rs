//! Every metric: its name, its help, and its value.
//!
//! Hot paths raise plain atomics; a request raises one bucket and one sum of a row that the router made ([`requests`]).
//! The engine's counts, positions and lags are read when `/metrics` is requested. Names use base units; each is
//! explained in `docs/operate/monitor.md`, which a test compares with the output.
//!
//! The number of rows is bounded: the setting `metrics_partitions` bounds those by partition and those by group, topic and
//! partition ([`bounded`]), [`MAX_TOPIC_ROWS`] those by topic and by group and topic. `quipu_series_left_out` counts the
//! rest. Every group has its totals.

mod bounded;
mod histogram;
mod kafka;
mod lag;
mod process;
mod requests;
mod routes;
mod text;
mod topics;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::broker::counters::Counters;
use crate::broker::engine::{JOURNAL_SYNC_BOUNDS_US, Log};
use crate::broker::lag::report::Lags;
use crate::broker::topics::skips::{Gap, Skips};
pub use kafka::KafkaCounters;
use lag::LagRows;
pub(crate) use requests::Requests;
use routes::RouteTable;
pub(crate) use routes::{Slot, UNMATCHED};
pub use text::Format;
use text::{Label, Pair, Text, families};
use topics::TopicRows;

/// How many topics, and groups' topics, get rows of their own.
const MAX_TOPIC_ROWS: usize = 10_000;

/// Counters that the hot paths raise; atomics only.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections open now.
    pub connections: AtomicI64,
    /// Connections that were taken.
    pub accepted_connections: AtomicU64,
    /// Connections refused above the limit.
    pub refused_connections: AtomicU64,
    /// Connections closed because the client read nothing of its answer.
    pub stalled_connections: AtomicU64,
    /// TLS handshakes that failed, or were not finished in time.
    pub failed_handshakes: AtomicU64,
    /// Until when the certificate of the server's TLS is valid, in milliseconds; 0 without one.
    pub certificate_expires_ms: AtomicI64,
    /// The Kafka listener's.
    pub kafka: KafkaCounters,
    requests: OnceLock<Arc<Requests>>,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rows of requests; the first call creates them for the routes' paths.
    pub(crate) fn requests(&self, paths: impl FnOnce() -> Vec<String>) -> Arc<Requests> {
        let requests = || Arc::new(Requests::new(RouteTable::new(paths())));
        self.requests.get_or_init(requests).clone()
    }
}

/// What the metrics are read from.
pub struct Sources {
    /// The engine's counters and positions.
    pub log: Log,
    /// What the broker counts.
    pub counters: Arc<Counters>,
    /// The lag of the groups.
    pub lags: Lags,
    /// What the connections count.
    pub metrics: Arc<Metrics>,
    /// Since the broker was made.
    pub uptime: Duration,
    /// Requests whose token or certificate was not valid.
    pub failed_sign_ins: u64,
    /// The memory of request bodies now.
    pub body_bytes: u64,
    /// The most rows by partition.
    pub max_partitions: usize,
}

/// Writes every metric as text. May block on the disk.
pub fn encode(from: &Sources, format: Format) -> String {
    let lags = LagRows::of(&from.lags, from.max_partitions);
    let topics = TopicRows::of(&from.log, from.max_partitions, &lags.places());
    let mut out = Text::new(format);
    service(&mut out, from, lags.left_out() + topics.left_out());
    connections(&mut out, &from.metrics);
    engine(&mut out, &from.log);
    disk(&mut out, &from.log);
    protection(&mut out, from);
    traces(&mut out, &from.counters);
    if let Some(requests) = from.metrics.requests.get() {
        requests.encode(&mut out);
    }
    from.metrics.kafka.encode(&mut out);
    topics.encode(&mut out);
    lags.encode(&mut out);
    process::encode(&mut out);
    out.finish()
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn service(out: &mut Text, from: &Sources, left_out: u64) {
    let counts = &from.counters;
    let version = [([("version", Label::Text(env!("CARGO_PKG_VERSION")))], 1)];
    let reads: [([Pair<'_>; 1], u64); 2] = [
        ([("source", "memory".into())], count(&counts.memory_reads)),
        ([("source", "disk".into())], count(&counts.disk_reads)),
    ];
    families! { out:
        gauges "quipu_build_info", version, "The running version";
        gauge "quipu_uptime_seconds", from.uptime.as_secs_f64(), "Time since the server started";
        counter "quipu_produced_records", count(&counts.produced_records), "Records appended by producers";
        counter "quipu_produced_bytes", count(&counts.produced_bytes), "Keys, values and headers appended by producers";
        counter "quipu_replayed_requests", count(&counts.replayed_requests),
            "Repeated requests and units of streams, answered with their first result";
        counter "quipu_fetched_records", count(&counts.fetched_records), "Records sent to readers";
        counter "quipu_fetched_bytes", count(&counts.fetched_bytes), "Bytes sent to readers";
        counters "quipu_fetch_reads", reads, "Reads of a partition for a reader, by source: memory answered at once, disk had to wait";
        gauge "quipu_streams", counts.streams.load(Relaxed), "Replays and live tails open now";
        gauge "quipu_request_bodies_bytes", from.body_bytes, "Request bodies held in memory";
        gauge "quipu_series_left_out", left_out, "Rows by partition or topic above the bounds on their number";
    }
}

fn connections(out: &mut Text, metrics: &Metrics) {
    let http: [Pair<'_>; 1] = [("listener", "http".into())];
    let kafka: [Pair<'_>; 1] = [("listener", "kafka".into())];
    let of_kafka = &metrics.kafka;
    families! { out:
        gauges "quipu_connections", [(http, metrics.connections.load(Relaxed)), (kafka, of_kafka.connections.load(Relaxed))], "Connections open now";
        counters "quipu_accepted_connections", [(http, count(&metrics.accepted_connections)), (kafka, count(&of_kafka.accepted_connections))], "Connections accepted";
        counters "quipu_refused_connections", [(http, count(&metrics.refused_connections)), (kafka, count(&of_kafka.refused_connections))], "Connections refused above the limit";
        counters "quipu_stalled_connections", [(http, count(&metrics.stalled_connections)), (kafka, count(&of_kafka.stalled_connections))],
            "Connections closed because the client read nothing of its answer";
    }
}

fn engine(out: &mut Text, log: &Log) {
    let counters = log.counters();
    let health = log.health();
    let flag = |is_set: bool| u64::from(is_set);
    let ranges = health.damaged_ranges.iter();
    let skipped = ranges
        .filter(|range| Skips::of(log, range.partition).covers(Gap::of(range)))
        .count();
    let damaged = health.damage.len() + health.damaged_ranges.len() - skipped;
    let sync_seconds = counters.journal_sync_time.as_secs_f64();
    families! { out:
        counter "quipu_log_append_requests", counters.appended_requests, "Appends to the log";
        counter "quipu_log_append_records", counters.appended_records, "Records appended to the log";
        counter "quipu_log_append_bytes", counters.appended_bytes, "Bytes appended to the log";
        counter "quipu_log_rounds", counters.rounds, "Rounds of the committer: the appends of one round share one sync";
        counter "quipu_journal_syncs", counters.journal_syncs, "Syncs of the journal";
        counter "quipu_journal_sync_seconds", sync_seconds, "Time in syncs of the journal";
    }
    let name = "quipu_journal_sync_duration_seconds";
    out.head(
        "histogram",
        name,
        "Time of a sync of the journal, which every durable append waits for",
    );
    let buckets = counters.journal_sync_buckets;
    histogram::rows(out, name, &[], &JOURNAL_SYNC_BOUNDS_US, &buckets, sync_seconds);
    families! { out:
        counter "quipu_segment_syncs", counters.segment_syncs, "Syncs of segments";
        gauge "quipu_queued_bytes", counters.queued_bytes, "Appends waiting for the disk";
        gauge "quipu_idempotency_keys", counters.remembered_keys, "Idempotency keys remembered";
        gauge "quipu_idempotency_key_bytes", counters.remembered_key_bytes, "Memory of the idempotency keys";
        gauge "quipu_open_segment_files", counters.open_files, "Segment files open for writing";
        counter "quipu_checkpoints", counters.checkpoints, "Checkpoints written";
        gauge "quipu_open_segments", counters.open_segments, "Segments mapped for reading";
        counter "quipu_index_rebuilds", counters.index_rebuilds, "Indexes that were made again because they were missing or damaged";
        gauge "quipu_log_failed", flag(health.log_failed.is_some()),
            "1 when appends stopped after a failed write, until a restart";
        gauge "quipu_storage_full", flag(health.storage_full), "1 when the last append met a full disk, or the disk has less than 1 MiB free";
        gauge "quipu_failed_partitions", health.failed_partitions.len() as u64,
            "Partitions whose appends stopped after a failed write";
        gauge "quipu_damage", damaged as u64,
            "Damaged places: ranges of records that are not skipped, and other damage found at the start";
        gauge "quipu_skipped_damage", skipped as u64, "Damaged ranges of records that an operator has skipped";
    }
    topics::damage(out, &health.damaged_ranges);
}

fn disk(out: &mut Text, log: &Log) {
    let usage = log.disk_usage();
    let free = usage.free_bytes.into_iter().map(|bytes| ([], bytes));
    let total = usage.total_bytes.into_iter().map(|bytes| ([], bytes));
    let used: [([Pair<'_>; 1], u64); 5] = [
        ([("use", "topics".into())], usage.topics_bytes),
        ([("use", "journal".into())], usage.journal_bytes),
        ([("use", "keys".into())], usage.keys_bytes),
        ([("use", "audit".into())], usage.internal_bytes),
        ([("use", "state".into())], usage.state_bytes),
    ];
    families! { out:
        gauges "quipu_disk_free_bytes", free, "Free space of the data directory's file system";
        gauges "quipu_disk_total_bytes", total, "Size of the data directory's file system";
        gauges "quipu_disk_used_bytes", used,
            "Bytes of the data directory by use: topics (without indexes), journal, keys (of idempotency), audit, state (checkpoints, and what groups keep)";
    }
}

/// What protects the server: its certificate, its backups, and whom it lets in.
fn protection(out: &mut Text, from: &Sources) {
    let time = |time_ms: &AtomicI64| {
        let ms = Some(time_ms.load(Relaxed)).filter(|ms| *ms != 0);
        ms.map(|ms| ([], ms as f64 / 1e3))
    };
    families! { out:
        gauges "quipu_certificate_expires_timestamp_seconds", time(&from.metrics.certificate_expires_ms),
            "When the server's certificate expires, in seconds since the Unix epoch; no row without TLS";
        counter "quipu_failed_handshakes", count(&from.metrics.failed_handshakes),
            "TLS handshakes that failed or were not finished in time";
        gauges "quipu_last_backup_timestamp_seconds", time(&from.counters.last_backup_ms),
            "When the newest complete backup that is there was begun, in seconds since the Unix epoch; no row while there is none";
        counter "quipu_failed_backups", count(&from.counters.failed_backups), "Backups that failed";
        counter "quipu_failed_sign_ins", from.failed_sign_ins, "Requests whose token or certificate was not valid";
    }
}

fn traces(out: &mut Text, counters: &Counters) {
    families! { out:
        counter "quipu_traces_sent", count(&counters.sent_spans), "Spans that the trace collector took";
        counter "quipu_traces_dropped", count(&counters.dropped_spans), "Spans dropped because the trace collector did not keep up";
    }
}
