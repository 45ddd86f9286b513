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
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::broker::Broker;
use crate::broker::engine::DamagedRange;
use lag::Lags;
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
        let bucket = BOUNDS_US
            .iter()
            .position(|bound| ns <= bound * 1000)
            .unwrap_or(BOUNDS_US.len());
        row.buckets[bucket].fetch_add(1, Relaxed);
        row.total_ns.fetch_add(ns, Relaxed);
    }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The rows of requests; the first call creates them for the routes' paths.
    pub(crate) fn requests(&self, paths: impl FnOnce() -> Vec<String>) -> Arc<Requests> {
        self.requests
            .get_or_init(|| Arc::new(Requests::new(RouteTable::new(paths()))))
            .clone()
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

/// Writes every metric as text (OpenMetrics 1.0). `body_bytes` is the memory of request bodies now. May block on the
/// disk.
#[must_use]
pub fn encode(broker: &Broker, metrics: &Arc<Metrics>, body_bytes: u64) -> String {
    let lags = Lags::of(broker);
    let mut left_out = lags.left_out();
    let mut partitions = Vec::new();
    for topic in broker.log.topics() {
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
        broker: broker.clone(),
        metrics: Arc::clone(metrics),
        body_bytes,
        partitions,
        lags,
        left_out,
    }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes everything");
    text
}

/// The damage of the partitions that have some.
fn damage(out: &mut Writer<'_>, ranges: &[DamagedRange]) -> fmt::Result {
    let mut rows: BTreeMap<(&str, u32), [u64; 3]> = BTreeMap::new();
    for range in ranges {
        let topic = range
            .name
            .rsplit_once('/')
            .map_or(&*range.name, |(topic, _)| topic);
        let key = (topic, range.partition.index);
        if rows.len() == MAX_SERIES && !rows.contains_key(&key) {
            continue;
        }
        let row = rows.entry(key).or_default();
        row[0] += 1;
        row[1] += range.until.since(range.from);
        row[2] += range.bytes;
    }
    let families = [
        (
            "quipu_damaged_ranges",
            "Ranges of records that cannot be read",
            None,
        ),
        ("quipu_damaged_offsets", "Offsets that cannot be read", None),
        (
            "quipu_damaged",
            "Stored bytes that are damaged",
            Some(Unit::Bytes),
        ),
    ];
    for (index, (name, help, unit)) in families.into_iter().enumerate() {
        out.family(name, help, unit, MetricType::Gauge, |family| {
            for ((topic, partition), row) in &rows {
                let partition = partition.to_string();
                let labels = [("topic", *topic), ("partition", &*partition)];
                family.encode_family(&labels)?.encode_gauge(&row[index])?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

struct Snapshot {
    broker: Broker,
    metrics: Arc<Metrics>,
    body_bytes: u64,
    partitions: Vec<PartitionRow>,
    lags: Lags,
    left_out: u64,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("partitions", &self.partitions.len())
            .finish_non_exhaustive()
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
        let (broker, metrics) = (&self.broker, &self.metrics);
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        out.family(
            "quipu_build_info",
            "The running version",
            None,
            MetricType::Gauge,
            |family| {
                family
                    .encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?
                    .encode_gauge(&1u64)
            },
        )?;
        let uptime = broker.clock.monotonic().since(broker.started).as_secs_f64();
        out.gauge(
            "quipu_uptime",
            "Time since the server started",
            Some(Unit::Seconds),
            uptime,
        )?;
        out.counter(
            "quipu_produced_records",
            "Records appended by producers",
            None,
            count(&broker.counters.produced_records),
        )?;
        out.counter(
            "quipu_produced",
            "Keys, values and headers appended by producers",
            Some(Unit::Bytes),
            count(&broker.counters.produced_bytes),
        )?;
        out.counter(
            "quipu_replayed_requests",
            "Repeated requests and units of streams, answered with their first result",
            None,
            count(&broker.counters.replayed_requests),
        )?;
        out.counter(
            "quipu_fetched_records",
            "Records sent to readers",
            None,
            count(&broker.counters.fetched_records),
        )?;
        out.counter(
            "quipu_fetched",
            "Bytes sent to readers",
            Some(Unit::Bytes),
            count(&broker.counters.fetched_bytes),
        )?;
        out.gauge(
            "quipu_streams",
            "Replays and live tails open now",
            None,
            broker.counters.streams.load(Relaxed),
        )?;
        out.gauge(
            "quipu_connections",
            "Connections open now",
            None,
            metrics.connections.load(Relaxed),
        )?;
        out.counter(
            "quipu_refused_connections",
            "Connections refused above the limit",
            None,
            count(&metrics.refused_connections),
        )?;
        out.counter(
            "quipu_stalled_connections",
            "Connections closed because the client read nothing of its answer",
            None,
            count(&metrics.stalled_connections),
        )?;
        out.gauge(
            "quipu_request_bodies",
            "Request bodies held in memory",
            Some(Unit::Bytes),
            self.body_bytes,
        )?;
        out.gauge(
            "quipu_series_left_out",
            "Partitions and lags above the bound on series",
            None,
            self.left_out,
        )
    }

    fn engine(&self, out: &mut Writer<'_>) -> fmt::Result {
        let counters = self.broker.log.counters();
        let health = self.broker.log.health();
        out.counter(
            "quipu_log_append_requests",
            "Appends to the log",
            None,
            counters.appended_requests,
        )?;
        out.counter(
            "quipu_log_append_records",
            "Records appended to the log",
            None,
            counters.appended_records,
        )?;
        out.counter(
            "quipu_log_append",
            "Bytes appended to the log",
            Some(Unit::Bytes),
            counters.appended_bytes,
        )?;
        out.counter(
            "quipu_log_rounds",
            "Rounds of the committer",
            None,
            counters.rounds,
        )?;
        out.counter(
            "quipu_journal_syncs",
            "Syncs of the journal",
            None,
            counters.journal_syncs,
        )?;
        out.counter(
            "quipu_journal_sync",
            "Time in syncs of the journal",
            Some(Unit::Seconds),
            counters.journal_sync_time.as_secs_f64(),
        )?;
        out.counter(
            "quipu_segment_syncs",
            "Syncs of segments",
            None,
            counters.segment_syncs,
        )?;
        out.gauge(
            "quipu_queued",
            "Appends waiting for the disk",
            Some(Unit::Bytes),
            counters.queued_bytes,
        )?;
        out.gauge(
            "quipu_idempotency_keys",
            "Idempotency keys remembered",
            None,
            counters.remembered_keys,
        )?;
        out.gauge(
            "quipu_idempotency_key",
            "Memory of the idempotency keys",
            Some(Unit::Bytes),
            counters.remembered_key_bytes,
        )?;
        out.gauge(
            "quipu_open_segment_files",
            "Segment files open for writing",
            None,
            counters.open_files,
        )?;
        out.counter(
            "quipu_checkpoints",
            "Checkpoints written",
            None,
            counters.checkpoints,
        )?;
        out.gauge(
            "quipu_open_segments",
            "Segments mapped for reading",
            None,
            counters.open_segments,
        )?;
        let flag = |is_set: bool| u64::from(is_set);
        out.gauge(
            "quipu_log_failed",
            "1 when appends stopped after a failed write, until a restart",
            None,
            flag(health.log_failed.is_some()),
        )?;
        out.gauge(
            "quipu_storage_full",
            "1 when the last append met a full disk",
            None,
            flag(health.storage_full),
        )?;
        out.gauge(
            "quipu_failed_partitions",
            "Partitions whose appends stopped after a failed write",
            None,
            health.failed_partitions.len() as u64,
        )?;
        out.gauge(
            "quipu_damage",
            "Damaged places: ranges of records, and other damage found at the start",
            None,
            (health.damage.len() + health.damaged_ranges.len()) as u64,
        )?;
        damage(out, &health.damaged_ranges)
    }

    fn requests(&self, out: &mut Writer<'_>) -> fmt::Result {
        let Some(requests) = self.metrics.requests.get() else {
            return Ok(());
        };
        let rows = || {
            requests
                .rows
                .iter()
                .enumerate()
                .map(|(slot, row)| (requests.table.labels(Slot(slot)), row))
        };
        let help = "Requests answered";
        out.family("quipu_http_requests", help, None, MetricType::Counter, |family| {
            for ((route, method), row) in rows() {
                for (counter, status) in row.by_class.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
                    let count = counter.load(Relaxed);
                    if count > 0 {
                        let labels = [("route", route), ("method", method), ("status", status)];
                        family
                            .encode_family(&labels)?
                            .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                    }
                }
            }
            Ok(())
        })?;
        let help = "Time from the head of a request to the head of its answer";
        let unit = Some(Unit::Seconds);
        out.family(
            "quipu_http_request_duration",
            help,
            unit,
            MetricType::Histogram,
            |family| {
                for ((route, method), row) in rows() {
                    let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
                    let buckets: Vec<(f64, u64)> = bounds
                        .zip(row.buckets.iter().map(|bucket| bucket.load(Relaxed)))
                        .collect();
                    let count: u64 = buckets.iter().map(|(_, count)| count).sum();
                    if count > 0 {
                        let total = row.total_ns.load(Relaxed) as f64 / 1e9;
                        let labels = [("route", route), ("method", method)];
                        family
                            .encode_family(&labels)?
                            .encode_histogram::<NoLabelSet>(total, count, &buckets, None)?;
                    }
                }
                Ok(())
            },
        )
    }

    fn partitions(&self, out: &mut Writer<'_>) -> fmt::Result {
        let mut gauge = |name, help, unit, value: fn(&PartitionRow) -> u64| {
            out.family(name, help, unit, MetricType::Gauge, |family| {
                for row in &self.partitions {
                    let partition = row.partition.to_string();
                    let labels = [("topic", &*row.topic), ("partition", &partition)];
                    family.encode_family(&labels)?.encode_gauge(&value(row))?;
                }
                Ok(())
            })
        };
        gauge(
            "quipu_partition_log_start_offset",
            "The log start offset",
            None,
            |row| row.log_start_offset,
        )?;
        gauge(
            "quipu_partition_end_offset",
            "One past the last durable offset",
            None,
            |row| row.end_offset,
        )?;
        gauge("quipu_partition_size", "Stored bytes", Some(Unit::Bytes), |row| {
            row.size_bytes
        })
    }
}

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        rows: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        // The encoder ends no help by itself; the text format wants a sentence.
        let help = format!("{help}.");
        rows(&mut self.0.encode_descriptor(name, &help, unit.as_ref(), kind)?)
    }

    fn counter<N>(&mut self, name: &str, help: &str, unit: Option<Unit>, value: N) -> fmt::Result
    where
        N: prometheus_client::encoding::EncodeCounterValue,
    {
        self.family(name, help, unit, MetricType::Counter, |family| {
            family.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge<N>(&mut self, name: &str, help: &str, unit: Option<Unit>, value: N) -> fmt::Result
    where
        N: prometheus_client::encoding::EncodeGaugeValue,
    {
        self.family(name, help, unit, MetricType::Gauge, |family| {
            family.encode_gauge(&value)
        })
    }
}

/// The operating system's figures of the process; those it does not give are left out.
#[allow(
    clippy::disallowed_methods,
    reason = "procfs is no storage: nothing of it goes through the engine's disk"
)]
fn process(out: &mut Writer<'_>) -> fmt::Result {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib * 1024)
        };
        if let Some(resident) = bytes("VmRSS:") {
            out.gauge(
                "process_resident_memory",
                "Resident memory",
                Some(Unit::Bytes),
                resident,
            )?;
        }
        if let Some(anonymous) = bytes("RssAnon:") {
            let help = "Resident memory without mapped files";
            out.gauge("process_anonymous_memory", help, Some(Unit::Bytes), anonymous)?;
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        out.gauge(
            "process_open_fds",
            "Open file descriptors",
            None,
            files.count() as u64,
        )?;
    }
    Ok(())
}
