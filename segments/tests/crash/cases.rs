//! Crashes that once took something, each by itself. Where chance decides what a power cut takes, many seeds are tried.

use std::path::Path;
use std::sync::Arc;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Appended, Error, Log, Offset, Options, Part, Records, StateChange, TimestampMs,
    TopicSettings, TopicSpec,
};

use super::check;

const DIR: &str = "/quipu/data";
const SEEDS: u64 = 64;

fn options() -> Options {
    Options {
        journal_file_bytes: 256 << 10,
        journal_files: 2,
        max_request_bytes: 128 << 10,
        background: false,
        ..Options::default()
    }
}

fn try_open(disk: &SimDisk, clock: &SimClock) -> Result<Log, Error> {
    Log::open_with(
        Arc::new(disk.clone()),
        Arc::new(clock.clone()),
        Path::new(DIR),
        options(),
    )
}

fn open(disk: &SimDisk) -> Log {
    try_open(disk, &SimClock::new(TimestampMs(1_000_000))).expect("nothing is wrong")
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

fn request(log: &Log, topic: &str, partitions: &[u32], value: &[u8]) -> AppendRequest {
    let topic = log.topic(topic).expect("it was made");
    let parts = partitions.iter().map(|index| {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(1_000_000), None, Some(value), &[]);
        Part {
            partition: topic.partition(*index).expect("it has that many"),
            records: Records::Loose(builder),
            expected_offset: None,
            json_lines: false,
        }
    });
    AppendRequest {
        parts: parts.collect(),
        state: Vec::new(),
        ack: Ack::Durable,
    }
}

fn append(log: &Log, topic: &str, partitions: &[u32], value: &[u8]) -> Result<Appended, Error> {
    let ticket = log.append(request(log, topic, partitions, value))?;
    while log.run_round()? {}
    ticket.wait()
}

fn set_state(log: &Log, key: &str, value: &[u8]) -> Result<Appended, Error> {
    let change = StateChange {
        key: key.into(),
        value: Some(value.to_vec()),
    };
    let ticket = log.append(AppendRequest {
        state: vec![change],
        ..AppendRequest::default()
    })?;
    while log.run_round()? {}
    ticket.wait()
}

/// The values in a partition.
fn values(log: &Log, topic: &str, index: u32) -> Vec<Vec<u8>> {
    let partition = log
        .topic(topic)
        .expect("it was made")
        .partition(index)
        .expect("it has that many");
    let from = partition.positions().log_start_offset;
    let records = check::read_from(&partition, from, 1 << 20).expect("all of it is readable");
    records
        .into_iter()
        .map(|(_, record)| record.value.expect("no value is missing"))
        .collect()
}

#[test]
fn a_data_directory_made_by_the_first_start_survives_a_power_cut() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        append(&log, "orders", &[0], b"1").unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, "orders", 0), [b"1"], "seed {seed}");
    }
}
