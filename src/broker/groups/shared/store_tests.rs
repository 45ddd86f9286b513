//! Tests of what shared groups append, over a log.

use std::path::Path;
use std::sync::Arc;

use super::super::codec::{Letter, Unsettled, block_key, encode_returned, returned_key, state_key};
use super::super::dead_letter::{Origin, delivered_too_often};
use super::super::letters::{Fate, Fates, fates_prefix};
use super::super::queue::{Acquired, Claim, Leasing, MemberKey, Moment, Now, PollNumber, Queue};
use super::super::store::{self, Settlement, dead_letter_topic, load, read_letters, records_of};
use super::*;
use crate::broker::caller::Caller;
use crate::broker::engine::batch::BatchBuilder;
use crate::broker::engine::sim::{SimClock, SimDisk};
use crate::broker::engine::{
    AppendRequest, Log, Offset, Options, Part, Partition, PartitionId, ReadRequest, Records, TimestampMs,
    Topic,
};
use crate::broker::groups::offsets::{Committed, group_key, offset_key};
use crate::broker::groups::{changes_for_deleted_group, generation};
use crate::broker::limits::Limits;
use crate::broker::state_keys::removals_of_topic;
use crate::broker::topics::Topics;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
const ME: MemberKey = MemberKey(7);

/// A log on a simulated disk, which can stop at any call as if the process was killed.
fn open(disk: &SimDisk) -> Result<Log, Error> {
    let options = Options {
        journal_file_bytes: 4 << 20,
        journal_files: 2,
        max_request_bytes: 3 << 20,
        ..Options::default()
    };
    Log::open_with(
        Arc::new(disk.clone()),
        Arc::new(SimClock::new(NOW)),
        Path::new("/data"),
        options,
    )
}

fn new_log() -> Log {
    open(&SimDisk::new(1)).unwrap()
}

fn topics(log: &Log) -> Topics {
    Topics::new(log.clone(), &Limits::default())
}

fn make(log: &Log, name: &str, partitions: u32) -> Arc<Topic> {
    topics(log)
        .create(&Caller::default(), name, Some(partitions), &[])
        .unwrap()
        .0
}

/// Appends records whose value is their number.
fn produce(log: &Log, partition: &Arc<Partition>, numbers: std::ops::Range<u32>) {
    let mut records = BatchBuilder::new();
    for number in numbers {
        let key = format!("key-{number}");
        let value = number.to_string();
        let time = TimestampMs(i64::from(number));
        records.push(
            time,
            Some(key.as_bytes()),
            Some(value.as_bytes()),
            &[(b"h", Some(b"1"))],
        );
    }
    let part = Part::new(partition.clone(), Records::Loose(records)).json_lines(true);
    write(log, AppendRequest::of(vec![part]));
}

/// Every record of a topic: partition, timestamp, value, how many headers.
fn contents(topic: &Topic) -> Vec<(u32, i64, String, usize)> {
    let mut all = Vec::new();
    for partition in &*topic.partitions() {
        let end = partition.positions().end_offset;
        let mut from = partition.positions().log_start_offset;
        while from < end {
            let request = ReadRequest::new(from, 1 << 20);
            let fetched = partition.read(request).unwrap();
            for record in records_of(&fetched) {
                all.push((
                    partition.id().index,
                    record.timestamp.0,
                    String::from_utf8(record.value.unwrap().to_vec()).unwrap(),
                    record.headers.len(),
                ));
            }
            from = fetched.next_offset;
        }
    }
    all
}

fn lease(queue: &mut Queue, partition: &Partition, max: usize) -> Vec<Acquired> {
    queue.acquire(&Leasing {
        now: Now {
            moment: Moment(0),
            wall: NOW,
        },
        deadline: Moment(10),
        member: ME,
        poll: PollNumber(1),
        log_start: partition.positions().log_start_offset,
        end: partition.positions().end_offset,
        max,
        room: usize::MAX,
    })
}

fn claims<const N: usize>(offsets: [u64; N]) -> [(Offset, Claim); N] {
    offsets.map(|offset| (Offset::new(offset), Claim::Member(ME)))
}

fn all_of(partition: &Partition) -> Vec<(Offset, u32)> {
    let positions = partition.positions();
    let range = positions.log_start_offset.get()..positions.end_offset.get();
    range.map(|offset| (Offset::new(offset), 2)).collect()
}

fn read(log: &Log, partition: &Partition, group: &str, offsets: &[(Offset, u32)]) -> store::Found {
    let origin = Origin {
        topic: partition.name().split('/').next().unwrap(),
        topic_id: partition.id().topic,
        partition: partition.id().index,
        group,
        died_at: NOW,
        redriven: 0,
    };
    read_letters(
        log,
        partition,
        origin,
        offsets,
        |_, count| delivered_too_often(count),
        1 << 20,
    )
}

fn write(log: &Log, request: AppendRequest) {
    log.append(request).unwrap().wait().unwrap();
}

/// Leases the first `leased` records for a group, accepts some of them, and writes that down.
fn accept(log: &Log, partition: &Partition, group: &str, leased: usize, accepted: &[u64]) {
    let mut queue = Queue::new(Offset::ZERO, 5);
    lease(&mut queue, partition, leased);
    let begun = queue.begin_settle(accepted.iter().flat_map(|offset| claims([*offset])));
    let settlement = Settlement {
        partition: partition.id(),
        written: queue.begin_write(&[begun.change.unwrap()]),
    };
    let request = store::settle(log, &Rotation::default(), group, &[settlement], [], NOW);
    write(log, request.unwrap());
}

/// Writes the letters that were found to the topic `dead`.
fn bury(log: &Log, group: &str, dead: &Arc<Topic>, found: &store::Found) {
    let letters = found.letters.iter().map(|letter| (dead, letter));
    let request = store::settle(log, &Rotation::default(), group, &[], letters, NOW);
    write(log, request.unwrap());
}

/// Makes dead letters of all records of a partition, as a settle does, but without the queue's state.
fn kill_all(log: &Log, partition: &Partition, group: &str, dead: &Arc<Topic>) {
    let found = read(log, partition, group, &all_of(partition));
    bury(log, group, dead, &found);
}

#[test]
fn a_settle_is_one_append_of_states_offsets_and_dead_letters_and_is_found_again() {
    let disk = SimDisk::new(1);
    let log = open(&disk).unwrap();
    let jobs = make(&log, "jobs", 2);
    let partition = jobs.partition(1).unwrap();
    produce(&log, &partition, 0..10);
    // Nothing is committed.
    assert!(load(&log, "g", partition.id(), 5).is_none());
    let mut queue = Queue::new(Offset::ZERO, 5);
    assert_eq!(lease(&mut queue, &partition, 8).len(), 1);

    let accepted = queue.begin_settle(claims([0, 1, 5]));
    let rejected = queue.begin_settle(claims([3]));
    let found = read(&log, &partition, "g", &rejected.taken);
    let dead = dead_letter_topic(&log, &topics(&log), "jobs.dlq").unwrap();
    assert_eq!(dead.partition_count(), 1);
    let again = dead_letter_topic(&log, &topics(&log), "jobs.dlq").unwrap();
    assert_eq!(again.id(), dead.id());
    let settlement = Settlement {
        partition: partition.id(),
        written: queue.begin_write(&[accepted.change.unwrap(), rejected.change.unwrap()]),
    };
    let letters = found.letters.iter().map(|letter| (&dead, letter));
    let request = store::settle(&log, &Rotation::default(), "g", &[settlement], letters, NOW).unwrap();
    assert_eq!((request.parts.len(), request.state.len()), (1, 3));
    write(&log, request);
    queue.commit();

    drop(log);
    let log = open(&disk.after_kill()).unwrap();
    let value = log.state_get(&offset_key("g", partition.id())).unwrap();
    let committed = Committed::decode(&value).unwrap();
    assert_eq!((committed.offset, committed.last_commit), (Offset::new(2), NOW));
    let dead = log.topic("jobs.dlq").unwrap();
    assert_eq!(contents(&dead), [(0, 3, "3".to_owned(), 9)]);
    let mut queue = load(&log, "g", partition.id(), 5).unwrap();
    let offsets: Vec<u64> = lease(&mut queue, &partition, 100)
        .iter()
        .flat_map(|range| range.from.get()..range.until.get())
        .collect();
    assert_eq!(offsets, [2, 4, 6, 7, 8, 9]);
}

#[test]
fn a_group_that_was_moved_knows_of_nothing_settled_where_it_is_now() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    produce(&log, &partition, 0..4);
    accept(&log, &partition, "g", 4, &[2, 3]);
    assert_eq!(load(&log, "g", partition.id(), 5).unwrap().next(), Offset::new(4));

    let moved = Committed {
        offset: Offset::new(1),
        last_commit: NOW,
        leader_epoch: None,
        metadata: None,
    };
    let damaged = StateChange::set(state_key("h", partition.id()), vec![9]);
    let state = vec![
        crate::broker::groups::offsets::commit("g", partition.id(), &moved),
        crate::broker::groups::offsets::commit("h", partition.id(), &moved),
        damaged,
    ];
    write(&log, AppendRequest::of_state(state));
    for group in ["g", "h"] {
        let queue = load(&log, group, partition.id(), 5).unwrap();
        assert_eq!(queue.floor(), Offset::new(1), "{group}");
        assert_eq!(queue.next(), Offset::new(1), "{group}");
    }
}

#[test]
fn letters_are_read_up_to_a_size_and_trimmed_records_are_missing() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    produce(&log, &partition, 0..10);
    produce(&log, &partition, 10..20);
    partition.trim(Offset::new(3)).unwrap();
    let offsets: Vec<(Offset, u32)> = [1, 2, 5, 9, 10, 19].map(|at| (Offset::new(at), 1)).to_vec();
    let found = read(&log, &partition, "g", &offsets);
    assert_eq!(found.missing, [1, 2].map(Offset::new));
    assert!(found.unread.is_empty() && found.error.is_none());
    let rows = found.letters.iter();
    let values: Vec<&[u8]> = rows.map(|letter| letter.value.as_deref().unwrap()).collect();
    assert_eq!(values, [&b"5"[..], b"9", b"10", b"19"]);

    let origin = Origin {
        topic: "jobs",
        topic_id: partition.id().topic,
        partition: 0,
        group: "g",
        died_at: NOW,
        redriven: 0,
    };
    let read = |most| read_letters(&log, &partition, origin, &offsets, |_, _| String::new(), most);
    let two: usize = read(usize::MAX).letters[..2]
        .iter()
        .map(ParsedRecord::bytes)
        .sum();
    // The first one in any case.
    for (most, count) in [(two, 2), (two - 1, 1), (0, 1)] {
        let found = read(most);
        assert_eq!(found.letters.len(), count, "{most} bytes");
        assert_eq!(found.unread, [5, 9, 10, 19].map(Offset::new)[count..]);
    }
}

/// A log whose topic `name` has nine records in three batches, the second of which is damaged.
fn damaged_log(name: &str, fill: impl Fn(&Log, &Arc<Partition>, std::ops::Range<u32>)) -> Log {
    let disk = SimDisk::new(1);
    let log = open(&disk).unwrap();
    make(&log, "jobs", 1);
    make(&log, "jobs.dlq", 1);
    let partition = log.topic(name).unwrap().partition(0).unwrap();
    for first in [0, 3, 6] {
        fill(&log, &partition, first..first + 3);
    }
    log.close().unwrap();
    drop(log);
    let path = format!("/data/topics/{name}/0/{:020}.log", 0);
    let bytes = disk.contents(Path::new(&path)).unwrap();
    let key = bytes.windows(5).position(|bytes| bytes == b"key-4").unwrap();
    disk.damage(Path::new(&path), key as u64, 1);
    open(&disk).unwrap()
}

fn skip_damage(log: &Log, partition: &Partition) {
    let range = crate::broker::topics::skips::Gap {
        from: Offset::new(3),
        until: Offset::new(6),
    };
    topics(log)
        .skip(&Caller::default(), partition, range, NOW)
        .unwrap();
}

#[test]
fn damaged_records_are_not_read_and_are_missing_once_they_are_skipped() {
    let log = damaged_log("jobs", produce);
    let partition = log.topic("jobs").unwrap().partition(0).unwrap();
    let offsets: Vec<(Offset, u32)> = [1, 3, 5, 7].map(|at| (Offset::new(at), 1)).to_vec();
    let found = read(&log, &partition, "g", &offsets);
    assert_eq!((found.letters.len(), found.missing.len()), (2, 0));
    assert_eq!(found.unread, [3, 5].map(Offset::new));
    assert!(matches!(found.error, Some(Error::Damaged { .. })));
    skip_damage(&log, &partition);
    let found = read(&log, &partition, "g", &offsets);
    assert_eq!((found.letters.len(), found.unread.len()), (2, 0));
    assert_eq!(found.missing, [3, 5].map(Offset::new));
    assert!(found.error.is_none());
}

#[test]
fn what_a_group_or_a_topic_had_goes_with_it() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    let dead = make(&log, "jobs.dlq", 1);
    produce(&log, &partition, 0..3);
    for group in ["g", "h"] {
        kill_all(&log, &partition, group, &dead);
        let mut fates = Fates::default();
        fates.set(Offset::ZERO, Fate::Redriven);
        let mut state = fates.changes(group, dead.partition(0).unwrap().id());
        let letter = Letter {
            partition: dead.partition(0).unwrap().id(),
            offset: Offset::ZERO,
            redriven: 1,
            redriven_at: NOW,
        };
        let key = returned_key(group, partition.id(), Offset::ZERO);
        state.push(StateChange::set(key, encode_returned(Unsettled::FRESH, letter)));
        write(&log, AppendRequest::of_state(state));
        accept(&log, &partition, group, 3, &[1]);
    }
    let keys = |changes: Vec<StateChange>| -> Vec<Vec<u8>> {
        assert!(changes.iter().all(|change| change.value.is_none()));
        changes.into_iter().map(|change| change.key).collect()
    };
    let dead = dead.partition(0).unwrap().id();
    let jobs: PartitionId = partition.id();
    let fate_key = |group| {
        let number = 0_u64.to_be_bytes();
        [
            offsets::with_partition(fates_prefix(group), dead),
            number.to_vec(),
        ]
        .concat()
    };
    assert_eq!(
        keys(changes_for_deleted_group(&log, "g")),
        [
            group_key("g"),
            generation::key("g"),
            offset_key("g", jobs),
            state_key("g", jobs),
            block_key("g", jobs, 0),
            returned_key("g", jobs, Offset::ZERO),
            fate_key("g")
        ]
    );
    assert_eq!(
        keys(removals_of_topic(&log, jobs.topic)),
        [
            returned_key("g", jobs, Offset::ZERO),
            returned_key("h", jobs, Offset::ZERO),
            offset_key("g", jobs),
            offset_key("h", jobs),
            state_key("g", jobs),
            block_key("g", jobs, 0),
            state_key("h", jobs),
            block_key("h", jobs, 0)
        ]
    );
    let found = keys(removals_of_topic(&log, dead.topic));
    assert_eq!(found, [fate_key("g"), fate_key("h")]);
}
