//! Crashes that once took something, each by itself. Where chance decides what a power cut takes, many seeds are tried.

#[path = "cases/journal.rs"]
mod journal;
#[path = "cases/names.rs"]
mod names;
#[path = "cases/reads.rs"]
mod reads;
#[path = "cases/segments.rs"]
mod segments;
#[path = "cases/state.rs"]
mod state;

use std::path::Path;
use std::sync::Arc;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Appended, Disk, Error, Log, Options, Part, Partition, Records, StateChange,
    TimestampMs, TopicSettings, TopicSpec,
};

use super::check;

const DIR: &str = "/quipu/data";
const SEEDS: u64 = 16;
/// The time at which a log is opened, and the timestamp of its records.
const NOW: TimestampMs = TimestampMs(1_000_000);

fn options() -> Options {
    Options {
        journal_file_bytes: 256 << 10,
        journal_files: 2,
        max_request_bytes: 128 << 10,
        background: false,
        ..Options::default()
    }
}

fn try_open_with(disk: Arc<dyn Disk>, clock: &SimClock, options: Options) -> Result<Log, Error> {
    Log::open_with(disk, Arc::new(clock.clone()), Path::new(DIR), options)
}

fn try_open(disk: &SimDisk) -> Result<Log, Error> {
    try_open_with(Arc::new(disk.clone()), &SimClock::new(NOW), options())
}

fn open(disk: &SimDisk) -> Log {
    try_open(disk).expect("nothing is wrong")
}

/// An empty directory on a new disk.
fn start_empty(seed: u64) -> (SimDisk, Log) {
    let disk = SimDisk::new(seed);
    let log = open(&disk);
    (disk, log)
}

/// A directory with one topic, orders, on a new disk.
fn start(seed: u64, spec: TopicSpec) -> (SimDisk, Log) {
    let (disk, log) = start_empty(seed);
    log.create_topic("orders", spec).expect("nothing is wrong");
    (disk, log)
}

fn spec(partitions: u32, segment_bytes: u64) -> TopicSpec {
    let settings = TopicSettings {
        segment_bytes,
        ..TopicSettings::default()
    };
    TopicSpec {
        partitions,
        settings,
        properties: Default::default(),
    }
}

/// A partition of orders.
fn partition(log: &Log, index: u32) -> Arc<Partition> {
    let topic = log.topic("orders").expect("it was made");
    topic.partition(index).expect("it has that many")
}

/// One record of the same time and value for each of the partitions.
fn request(log: &Log, partitions: &[u32], time: TimestampMs, value: &[u8]) -> AppendRequest {
    let parts = partitions.iter().map(|index| {
        let mut builder = BatchBuilder::new();
        builder.push(time, None, Some(value), &[]);
        Part {
            partition: partition(log, *index),
            records: Records::Loose(builder),
            expected_offset: None,
            json_lines: false,
        }
    });
    AppendRequest {
        parts: parts.collect(),
        state: Vec::new(),
        ack: Ack::Durable,
        once: None,
    }
}

fn store(log: &Log, request: AppendRequest) -> Result<Appended, Error> {
    let ticket = log.append(request)?;
    while log.run_round()? {}
    ticket.wait()
}

fn append(log: &Log, partitions: &[u32], value: &[u8]) -> Result<Appended, Error> {
    store(log, request(log, partitions, NOW, value))
}

fn change(key: &str, value: &[u8]) -> StateChange {
    StateChange {
        key: key.into(),
        value: Some(value.to_vec()),
    }
}

fn set_state(log: &Log, key: &str, value: &[u8]) -> Result<Appended, Error> {
    let request = AppendRequest {
        state: vec![change(key, value)],
        ..AppendRequest::default()
    };
    store(log, request)
}

/// The values in a partition.
fn values(log: &Log, index: u32) -> Vec<Vec<u8>> {
    let partition = partition(log, index);
    let from = partition.positions().log_start_offset;
    let records = check::read_from(&partition, from, 1 << 20).expect("all of it is readable");
    records
        .into_iter()
        .map(|(_, record)| record.value.expect("no value is missing"))
        .collect()
}
