//! Shared by most tests of the engine: a log on a simulated disk, its topic, appends and reads.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::path::Path;
use std::sync::Arc;

use quipu_segments::batch::{BatchBuilder, Batches, Records as BatchRecords};
use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{
    AppendRequest, Appended, Disk, Error, Fetched, Log, Offset, Options, Part, Partition, ReadRequest,
    Records, StateChange, Ticket, TimestampMs, TopicSettings, TopicSpec,
};

/// Where the log lies on a simulated disk.
pub(crate) const DIR: &str = "/quipu/data";
/// The time at which a log is opened, and the timestamp of its records.
pub(crate) const NOW: TimestampMs = TimestampMs(1_000_000);
/// The topic of most tests.
pub(crate) const TOPIC: &str = "orders";

/// A small journal, and no threads: the test itself runs rounds and syncs.
pub(crate) fn options() -> Options {
    Options {
        journal_file_bytes: 256 << 10,
        journal_files: 2,
        max_request_bytes: 128 << 10,
        background: false,
        ..Options::default()
    }
}

/// The same, with room in one journal file for everything that a test writes.
pub(crate) fn roomy_options() -> Options {
    Options {
        journal_file_bytes: 1 << 20,
        max_request_bytes: 512 << 10,
        ..options()
    }
}

pub(crate) fn try_open_with(disk: Arc<dyn Disk>, clock: &SimClock, options: Options) -> Result<Log, Error> {
    Log::open_with(disk, Arc::new(clock.clone()), Path::new(DIR), options)
}

pub(crate) fn try_open(disk: &SimDisk) -> Result<Log, Error> {
    try_open_with(Arc::new(disk.clone()), &SimClock::new(NOW), options())
}

pub(crate) fn open(disk: &SimDisk) -> Log {
    try_open(disk).expect("nothing is wrong")
}

/// An empty directory on a new disk.
pub(crate) fn start_empty(seed: u64) -> (SimDisk, Log) {
    let disk = SimDisk::new(seed);
    let log = open(&disk);
    (disk, log)
}

/// A directory with one topic, [`TOPIC`], on a new disk.
pub(crate) fn start(seed: u64, spec: TopicSpec) -> (SimDisk, Log) {
    let (disk, log) = start_empty(seed);
    log.create_topic(TOPIC, spec).expect("nothing is wrong");
    (disk, log)
}

pub(crate) fn spec(partitions: u32, segment_bytes: u64) -> TopicSpec {
    TopicSpec::new(partitions, TopicSettings::segments_of(segment_bytes))
}

/// A topic of the default settings.
pub(crate) fn plain_spec(partitions: u32) -> TopicSpec {
    spec(partitions, TopicSettings::default().segment_bytes)
}

/// A partition of [`TOPIC`].
pub(crate) fn partition(log: &Log, index: u32) -> Arc<Partition> {
    let topic = log.topic(TOPIC).expect("it was made");
    topic.partition(index).expect("it has that many")
}

/// Records without a key, one for each value.
pub(crate) fn records(time: TimestampMs, values: &[&[u8]]) -> Records {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(time, None, Some(value), &[]);
    }
    Records::Loose(builder)
}

pub(crate) fn part(partition: Arc<Partition>, records: Records) -> Part {
    Part::new(partition, records)
}

pub(crate) fn of_parts(parts: Vec<Part>) -> AppendRequest {
    AppendRequest::of(parts)
}

/// One record of the same time and value for each of the partitions.
pub(crate) fn request(log: &Log, partitions: &[u32], time: TimestampMs, value: &[u8]) -> AppendRequest {
    let part = |index: &u32| part(partition(log, *index), records(time, &[value]));
    of_parts(partitions.iter().map(part).collect())
}

/// Queues one record.
pub(crate) fn queue(log: &Log, partition: &Arc<Partition>, value: &[u8]) -> Ticket {
    let part = part(Arc::clone(partition), records(NOW, &[value]));
    log.append(of_parts(vec![part]))
        .expect("there is room in the queue")
}

pub(crate) fn store(log: &Log, request: AppendRequest) -> Result<Appended, Error> {
    let ticket = log.append(request)?;
    while log.run_round()? {}
    ticket.wait()
}

pub(crate) fn append(log: &Log, partitions: &[u32], value: &[u8]) -> Result<Appended, Error> {
    store(log, request(log, partitions, NOW, value))
}

/// Appends one record, alone in its request, and returns its offset.
pub(crate) fn append_one(log: &Log, partition: &Arc<Partition>, value: &[u8]) -> Result<u64, Error> {
    let part = part(Arc::clone(partition), records(NOW, &[value]));
    store(log, of_parts(vec![part])).map(|appended| appended.base_offsets[0].get())
}

pub(crate) fn change(key: &str, value: &[u8]) -> StateChange {
    StateChange::set(key, value.to_vec())
}

pub(crate) fn set_state(log: &Log, key: &str, value: &[u8]) -> Result<Appended, Error> {
    let state = vec![change(key, value)];
    store(log, AppendRequest::of_state(state))
}

pub(crate) fn read_from(from: Offset, max_bytes: usize) -> ReadRequest {
    ReadRequest::new(from, max_bytes)
}

/// The offsets and values of the records that were read.
pub(crate) fn values_in(fetched: &Fetched) -> Vec<(Offset, Vec<u8>)> {
    let mut found = Vec::new();
    for run in &fetched.runs {
        for batch in Batches::new(&run.bytes) {
            for record in BatchRecords::new(batch.expect("whole").1).expect("not compressed") {
                let record = record.expect("whole");
                found.push((record.offset, record.value.expect("no value is missing").to_vec()));
            }
        }
    }
    found
}

/// Records by offset, and ranges of offsets.
type Read = (Vec<(Offset, Vec<u8>)>, Vec<(Offset, Offset)>);

/// All records of a partition that can be read, and the ranges that cannot.
pub(crate) fn read_all(partition: &Partition) -> Read {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    let positions = partition.positions();
    let mut from = positions.log_start_offset;
    while from < positions.end_offset {
        match partition.read(read_from(from, 4096)) {
            Ok(fetched) => {
                found.extend(
                    values_in(&fetched)
                        .into_iter()
                        .filter(|(offset, _)| *offset >= from),
                );
                assert!(fetched.next_offset > from, "a read goes on from {from}");
                from = fetched.next_offset;
            }
            Err(Error::Damaged {
                damaged_from,
                damaged_until,
                ..
            }) => {
                let damaged = damaged_from..damaged_until;
                assert!(damaged.contains(&from), "{from} is not in {damaged:?}");
                lost.push((from, damaged_until));
                from = damaged_until;
            }
            Err(error) => panic!("offset {from}: {error}"),
        }
    }
    (found, lost)
}

/// The values in a partition of [`TOPIC`], of which all are readable.
pub(crate) fn values(log: &Log, index: u32) -> Vec<Vec<u8>> {
    let (found, lost) = read_all(&partition(log, index));
    assert_eq!(lost, [], "partition {index}");
    found.into_iter().map(|(_, value)| value).collect()
}

/// Faults of which each fails the next round: in a segment, or in the journal.
pub(crate) fn failing_rounds() -> [Fault; 4] {
    [
        Fault::once(IoKind::Write, 0).on(".log").with(FaultError::Full),
        Fault::once(IoKind::Write, 0).on(".log"),
        Fault::once(IoKind::Write, 0).on(".journal"),
        Fault::once(IoKind::Sync, 0).on(".journal"),
    ]
}
