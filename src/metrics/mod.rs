//! Every metric, once: name, unit, help.
//!
//! Hot paths raise plain atomics; a request raises one counter and one bucket of a row that the router made. The
//! engine's counts, positions and lags are read when `/metrics` is requested. Names use base units.
//!
//! At most [`MAX_SERIES`] partitions are listed, and as many groups, groups' topics and groups' partitions each (see
//! [`lag`]); `quipu_series_left_out` counts the rest.

pub mod lag;
mod routes;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::broker::counters::Counters;
use crate::broker::engine::{DamagedRange, Log};
use crate::broker::lag::report::Lags;
use lag::LagRows;
use routes::{RouteTable, Slot};

/// How many partitions, groups, groups' topics and groups' partitions get series of their own.
pub const MAX_SERIES: usize = 10_000;

/// The upper bounds of the request histogram's buckets, in microseconds; one more bucket takes the rest.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Counters that the hot paths raise; atomics only.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections open now.
    pub connections: AtomicI64,
    /// Connections refused above the limit.
    pub refused_connections: AtomicU64,
    /// Connections closed because the client read nothing of its answer.
    pub stalled_connections: AtomicU64,
    requests: OnceLock<Arc<Requests>>,
}

/// Counts of requests, a row for each route and method.
#[derive(Debug)]
pub(crate) struct Requests {
    table: RouteTable,
    rows: Box<[Row]>,
}

#[derive(Debug, Default)]
struct Row {
    /// By the first digit of the status, from 1.
    by_class: [AtomicU64; 5],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    total_ns: AtomicU64,
}

impl Requests {
    fn new(table: RouteTable) -> Self {
        let rows = (0..table.len()).map(|_| Row::default()).collect();
        Self { table, rows }
    }

    /// The row of a request.
    pub(crate) fn find(&self, method: &http::Method, path: &str) -> Slot {
        self.table.find(method, path)
    }

    /// Counts an answer whose head was ready after `duration`.
    pub(crate) fn observe(&self, slot: Slot, status: StatusCode, duration: Duration) {
        let row = &self.rows[slot.0];
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        row.by_class[class].fetch_add(1, Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| ns <= bound * 1000);
        row.buckets[bucket.unwrap_or(BOUNDS_US.len())].fetch_add(1, Relaxed);
        row.total_ns.fetch_add(ns, Relaxed);
    }
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

/// A partition's positions.
#[derive(Debug)]
struct PartitionRow {
    topic: Arc<str>,
    partition: u32,
    log_start_offset: u64,
    end_offset: u64,
    size_bytes: u64,
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
    /// The memory of request bodies now.
    pub body_bytes: u64,
}

/// Writes every metric as text (OpenMetrics 1.0). May block on the disk.
pub fn encode(from: Sources) -> String {
    let lags = LagRows::of(&from.lags);
    let mut left_out = lags.left_out();
    let mut partitions = Vec::new();
    for topic in from.log.topics() {
        let name: Arc<str> = topic.name().into();
        for partition in topic.partitions().iter() {
            if partitions.len() == MAX_SERIES {
                left_out += 1;
                continue;
            }
            let positions = partition.positions();
            partitions.push(PartitionRow {
                topic: name.clone(),
                partition: partition.id().index,
                log_start_offset: positions.log_start_offset.get(),
                end_offset: positions.end_offset.get(),
                size_bytes: partition.size_bytes(),
            });
        }
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot {
        from,
        partitions,
        lags,
        left_out,
    }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes everything");
    text
}

/// Writes families, a row each: the method of [`Writer`], the name, its unit if it has one, the value, and the help.
macro_rules! families {
    ($out:ident: $($kind:ident $name:literal $($unit:ident)?, $value:expr, $help:literal;)+) => {
        $($out.$kind(($name, $help, None$(.or(Some(prometheus_client::registry::Unit::$unit)))?), $value)?;)+
    };
}
pub(crate) use families;

/// The damage of the partitions that have some.
fn damage(out: &mut Writer<'_>, ranges: &[DamagedRange]) -> fmt::Result {
    let mut rows: BTreeMap<(&str, u32), [u64; 3]> = BTreeMap::new();
    for range in ranges {
        let split = range.name.rsplit_once('/');
        let topic = split.map_or(&*range.name, |(topic, _)| topic);
        let key = (topic, range.partition.index);
        if rows.len() == MAX_SERIES && !rows.contains_key(&key) {
            continue;
        }
        let row = rows.entry(key).or_default();
        row[0] += 1;
        row[1] += range.until.since(range.from);
        row[2] += range.bytes;
    }
    let damaged = |index: usize| {
        let rows = rows.iter();
        rows.map(move |((topic, partition), row)| (partition_labels(topic, *partition), row[index]))
    };
    families! { out:
        gauges "quipu_damaged_ranges", damaged(0), "Ranges of records that cannot be read";
        gauges "quipu_damaged_offsets", damaged(1), "Offsets that cannot be read";
        gauges "quipu_damaged" Bytes, damaged(2), "Stored bytes that are damaged";
    }
    Ok(())
}

fn partition_labels(topic: &str, partition: u32) -> [(&'static str, String); 2] {
    [("topic", topic.to_owned()), ("partition", partition.to_string())]
}

struct Snapshot {
    from: Sources,
    partitions: Vec<PartitionRow>,
    lags: LagRows,
    left_out: u64,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        self.service(&mut out)?;
        self.engine(&mut out)?;
        self.requests(&mut out)?;
        self.partitions(&mut out)?;
        self.lags.encode(&mut out)?;
        process(&mut out)
    }
}

impl Snapshot {
    fn service(&self, out: &mut Writer<'_>) -> fmt::Result {
        let (counts, metrics) = (&self.from.counters, &self.from.metrics);
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1u64)];
        families! { out:
            gauges "quipu_build_info", version.into_iter(), "The running version";
            gauge "quipu_uptime" Seconds, self.from.uptime.as_secs_f64(), "Time since the server started";
            counter "quipu_produced_records", count(&counts.produced_records), "Records appended by producers";
            counter "quipu_produced" Bytes, count(&counts.produced_bytes), "Keys, values and headers appended by producers";
            counter "quipu_replayed_requests", count(&counts.replayed_requests),
                "Repeated requests and units of streams, answered with their first result";
            counter "quipu_fetched_records", count(&counts.fetched_records), "Records sent to readers";
            counter "quipu_fetched" Bytes, count(&counts.fetched_bytes), "Bytes sent to readers";
            gauge "quipu_streams", counts.streams.load(Relaxed), "Replays and live tails open now";
            gauge "quipu_connections", metrics.connections.load(Relaxed), "Connections open now";
            counter "quipu_refused_connections", count(&metrics.refused_connections), "Connections refused above the limit";
            counter "quipu_stalled_connections", count(&metrics.stalled_connections),
                "Connections closed because the client read nothing of its answer";
            gauge "quipu_request_bodies" Bytes, self.from.body_bytes, "Request bodies held in memory";
            gauge "quipu_series_left_out", self.left_out, "Partitions and lags above the bound on series";
        }
        Ok(())
    }

    fn engine(&self, out: &mut Writer<'_>) -> fmt::Result {
        let counters = self.from.log.counters();
        let health = self.from.log.health();
        let flag = |is_set: bool| u64::from(is_set);
        let damaged = health.damage.len() + health.damaged_ranges.len();
        families! { out:
            counter "quipu_log_append_requests", counters.appended_requests, "Appends to the log";
            counter "quipu_log_append_records", counters.appended_records, "Records appended to the log";
            counter "quipu_log_append" Bytes, counters.appended_bytes, "Bytes appended to the log";
            counter "quipu_log_rounds", counters.rounds, "Rounds of the committer";
            counter "quipu_journal_syncs", counters.journal_syncs, "Syncs of the journal";
            counter "quipu_journal_sync" Seconds, counters.journal_sync_time.as_secs_f64(), "Time in syncs of the journal";
            counter "quipu_segment_syncs", counters.segment_syncs, "Syncs of segments";
            gauge "quipu_queued" Bytes, counters.queued_bytes, "Appends waiting for the disk";
            gauge "quipu_idempotency_keys", counters.remembered_keys, "Idempotency keys remembered";
            gauge "quipu_idempotency_key" Bytes, counters.remembered_key_bytes, "Memory of the idempotency keys";
            gauge "quipu_open_segment_files", counters.open_files, "Segment files open for writing";
            counter "quipu_checkpoints", counters.checkpoints, "Checkpoints written";
            gauge "quipu_open_segments", counters.open_segments, "Segments mapped for reading";
            gauge "quipu_log_failed", flag(health.log_failed.is_some()),
                "1 when appends stopped after a failed write, until a restart";
            gauge "quipu_storage_full", flag(health.storage_full), "1 when the last append met a full disk, or the disk has less than 1 MiB free";
            gauge "quipu_failed_partitions", health.failed_partitions.len() as u64,
                "Partitions whose appends stopped after a failed write";
            gauge "quipu_damage", damaged as u64, "Damaged places: ranges of records, and other damage found at the start";
        }
        damage(out, &health.damaged_ranges)
    }

    fn requests(&self, out: &mut Writer<'_>) -> fmt::Result {
        let Some(requests) = self.from.metrics.requests.get() else {
            return Ok(());
        };
        let labels = |slot| requests.table.labels(Slot(slot));
        let rows = || (requests.rows.iter().enumerate()).map(|(slot, row)| (labels(slot), row));
        let head = ("quipu_http_requests", "Requests answered", None);
        out.family(head, MetricType::Counter, |family| {
            for ((route, method), row) in rows() {
                for (counter, status) in row.by_class.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
                    let count = counter.load(Relaxed);
                    if count > 0 {
                        let labels = [("route", route), ("method", method), ("status", status)];
                        let mut metric = family.encode_family(&labels)?;
                        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                    }
                }
            }
            Ok(())
        })?;
        let help = "Time from the head of a request to the head of its answer";
        let head = ("quipu_http_request_duration", help, Some(Unit::Seconds));
        out.family(head, MetricType::Histogram, |family| {
            for ((route, method), row) in rows() {
                let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
                let counts = row.buckets.iter().map(|bucket| bucket.load(Relaxed));
                let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                let count: u64 = buckets.iter().map(|(_, count)| count).sum();
                if count > 0 {
                    let total = row.total_ns.load(Relaxed) as f64 / 1e9;
                    let labels = [("route", route), ("method", method)];
                    let mut metric = family.encode_family(&labels)?;
                    metric.encode_histogram::<NoLabelSet>(total, count, &buckets, None)?;
                }
            }
            Ok(())
        })
    }

    fn partitions(&self, out: &mut Writer<'_>) -> fmt::Result {
        let each = |value: fn(&PartitionRow) -> u64| {
            let rows = self.partitions.iter();
            rows.map(move |row| (partition_labels(&row.topic, row.partition), value(row)))
        };
        families! { out:
            gauges "quipu_partition_log_start_offset", each(|row| row.log_start_offset), "The log start offset";
            gauges "quipu_partition_end_offset", each(|row| row.end_offset), "One past the last durable offset";
            gauges "quipu_partition_size" Bytes, each(|row| row.size_bytes), "Stored bytes";
        }
        Ok(())
    }
}

struct Writer<'a>(DescriptorEncoder<'a>);

/// A family's name, its help, and its unit if it has one.
type Head = (&'static str, &'static str, Option<Unit>);

impl Writer<'_> {
    fn family(
        &mut self,
        (name, help, unit): Head,
        kind: MetricType,
        rows: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        // The encoder ends no help by itself; the text format wants a sentence.
        let help = format!("{help}.");
        rows(&mut self.0.encode_descriptor(name, &help, unit.as_ref(), kind)?)
    }

    fn counter(&mut self, head: Head, value: impl EncodeCounterValue) -> fmt::Result {
        let write =
            |family: &mut MetricEncoder<'_>| family.encode_counter::<NoLabelSet, _, u64>(&value, None);
        self.family(head, MetricType::Counter, write)
    }

    fn gauge(&mut self, head: Head, value: impl EncodeGaugeValue) -> fmt::Result {
        self.family(head, MetricType::Gauge, |family| family.encode_gauge(&value))
    }

    /// A gauge with labels.
    fn gauges<L: EncodeLabelSet, N: EncodeGaugeValue>(
        &mut self,
        head: Head,
        mut rows: impl Iterator<Item = (L, N)>,
    ) -> fmt::Result {
        self.family(head, MetricType::Gauge, |family| {
            rows.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
        })
    }
}

/// The operating system's figures of the process; those it does not give are left out.
#[allow(clippy::disallowed_methods, reason = "procfs is no storage")]
fn process(out: &mut Writer<'_>) -> fmt::Result {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib * 1024)
        };
        if let Some(resident) = bytes("VmRSS:") {
            families! { out: gauge "process_resident_memory" Bytes, resident, "Resident memory"; }
        }
        if let Some(anonymous) = bytes("RssAnon:") {
            families! { out: gauge "process_anonymous_memory" Bytes, anonymous, "Resident memory without mapped files"; }
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        families! { out: gauge "process_open_fds", files.count() as u64, "Open file descriptors"; }
    }
    Ok(())
}
