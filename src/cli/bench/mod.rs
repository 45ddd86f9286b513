//! `quipu bench`: puts load on a server and measures how long its answers take.
//!
//! Each run makes a topic of its own and deletes it at the end, also after Ctrl-C. Every connection is a thread with one
//! request at a time, so a slow server gets less load, and latencies leave out how long a request waited to be sent.

mod histogram;
mod load;

use std::time::Duration;

use clap::Subcommand;
use http::Method;
use quipu::formats::units;
use serde_json::json;

use self::histogram::Histogram;
use super::api::topic_route;
use super::connect::Connect;
use super::deliver::random_key;
use super::input::MAX_LINE_BYTES;
use super::output::{self, bytes, rate, records, took};
use super::signal::Interrupt;

pub(crate) const EXAMPLES: &str = "Examples:
  quipu bench produce --duration 30s --connections 8
  quipu bench fetch --records 1000000 --record-bytes 1kB
  quipu bench tail --rate 5000 --output json";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Appends records; the latency is the time from sending a request until its records are durable
    #[command(after_help = "Examples:\n  quipu bench produce --duration 30s --connections 8")]
    Produce {
        #[command(flatten)]
        load: Load,
        /// Records of each request, if they fit into 16 MiB
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        batch: u64,
    },
    /// Appends records, then reads all of them; the latency is the time of one fetch
    #[command(after_help = "Examples:\n  quipu bench fetch --records 1000000 --record-bytes 1kB")]
    Fetch(Load),
    /// Follows the topic while records are appended; the latency is the time from before an append until a reader has the record
    #[command(after_help = "Examples:\n  quipu bench tail --rate 5000 --output json")]
    Tail {
        #[command(flatten)]
        load: Load,
        /// Records appended each second
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        rate: u64,
    },
}

/// The flags that all loads have.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Load {
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=128))]
    connections: u64,
    /// How long to run, as 30s [default: 10s, without --records]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    duration: Option<Duration>,
    /// Stop after this many records; for `fetch`, the number of records to append first [default for fetch: 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Size of a record's value, as 100 or 1kB
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = size)]
    record_bytes: u64,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Do not delete the topic at the end
    #[arg(long)]
    keep: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    let span = units::parse_duration(text).filter(|span| !span.is_zero());
    span.ok_or_else(|| format!("{text:?} is not a span like 10s or 1m"))
}

/// The largest value of a record.
const MAX_VALUE_BYTES: u64 = 1 << 20;

fn size(text: &str) -> Result<u64, String> {
    let size = text.parse().ok().or_else(|| units::parse_bytes(text));
    size.filter(|size| (16..=MAX_VALUE_BYTES).contains(size))
        .ok_or_else(|| format!("{text:?} is not a size from 16 bytes to 1MiB"))
}

impl Load {
    /// Bytes of the longest key: a record's number.
    const KEY_BYTES: u64 = 20;
    /// Bytes of a line but for its key and value, at most.
    const LINE_BYTES: u64 = 32;

    /// How many of `records` go into one request, which the server must take and every connection holds in memory.
    fn in_one_request(&self, records: u64) -> u64 {
        let line = self.record_bytes + Self::KEY_BYTES + Self::LINE_BYTES;
        records.min(MAX_LINE_BYTES as u64 / line)
    }

    fn duration(&self) -> Duration {
        let default = if self.records.is_some() { 86_400 } else { 10 };
        self.duration.unwrap_or(Duration::from_secs(default))
    }
}

/// What a run did.
#[derive(Debug, Default)]
struct Sums {
    records: u64,
    /// Bytes of the records' values.
    bytes: u64,
    requests: u64,
    /// Requests that were sent again, as the server was busy or away.
    retries: u64,
    elapsed: Duration,
    latencies: Histogram,
}

pub(crate) fn run(action: Action, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = &connect.client()?;
    let interrupt = &Interrupt::watch()?;
    let (name, load) = match &action {
        Action::Produce { load, .. } => ("produce", *load),
        Action::Fetch(load) => ("fetch", *load),
        Action::Tail { load, .. } => ("tail", *load),
    };
    let topic = &random_key().replace("quipu-", "bench-");
    let config = json!({"max_record_bytes": MAX_VALUE_BYTES + Load::KEY_BYTES});
    let body = json!({"partitions": load.partitions, "config": config});
    client.send(&Method::PUT, &topic_route(topic), Some(&body))?;
    let run = load::Run {
        client,
        topic,
        load,
        interrupt,
    };
    let result = match action {
        Action::Produce { batch, .. } => run.produce(batch),
        Action::Fetch(_) => run.fetch(),
        Action::Tail { rate, .. } => run.tail(rate),
    };
    let deleted = if load.keep {
        output::note(format_args!("the topic is {topic}"));
        Ok(())
    } else {
        client.send(&Method::DELETE, &topic_route(topic), None).map(drop)
    };
    report(name, load, &result?, is_json)?;
    deleted.map_err(|failure| anyhow::anyhow!("topic {topic} could not be deleted: {failure}"))
}

fn report(name: &str, load: Load, sums: &Sums, is_json: bool) -> anyhow::Result<()> {
    let seconds = sums.elapsed.as_secs_f64().max(1e-9);
    let bytes_rate = sums.bytes as f64 / seconds;
    if is_json {
        return Ok(output::json(&json!({
            "bench": name,
            "connections": load.connections,
            "partitions": load.partitions,
            "record_bytes": load.record_bytes,
            "records": sums.records,
            "bytes": sums.bytes,
            "requests": sums.requests,
            "retries": sums.retries,
            "seconds": seconds,
            "records_rate": sums.records as f64 / seconds,
            "bytes_rate": bytes_rate,
            "latency_ms": sums.latencies.to_json(),
        }))?);
    }
    let retries = match sums.retries {
        0 => String::new(),
        retries => format!(", {retries} retries"),
    };
    let sentence = format!(
        "{name}: {} ({}) in {} over {} connections: {} records/s, {}/s{retries}",
        records(sums.records),
        bytes(sums.bytes),
        took(sums.elapsed),
        load.connections,
        rate(sums.records, sums.elapsed),
        bytes(bytes_rate as u64),
    );
    output::line(format_args!("{}\n{}", output::wrapped(&sentence), sums.latencies))?;
    Ok(())
}
