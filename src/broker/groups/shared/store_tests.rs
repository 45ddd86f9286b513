//! Tests of what shared groups append, over a log.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::codec::{block_key, state_key};
use super::super::dead_letter::{Origin, delivered_too_often};
use super::super::queue::{Acquired, Claim, Leasing, MemberKey, Moment, Now, PollNumber, Queue};
use super::super::store::{self, Settlement, dead_letter_topic, load, read_letters, records_of};
use super::*;
use crate::broker::engine::batch::BatchBuilder;
use crate::broker::engine::sim::{SimClock, SimDisk};
use crate::broker::engine::{
    AppendRequest, Log, Offset, Options, Part, Partition, PartitionId, ReadRequest, Records, TimestampMs,
    Topic,
};
use crate::broker::groups::changes_for_deleted_group;
use crate::broker::groups::offsets::{Committed, group_key, offset_key};
use crate::broker::limits::Limits;
use crate::broker::refusal::{Outcome, Value};
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
    topics(log).create(name, Some(partitions), &[]).unwrap().0
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
        partition: partition.id().index,
        group,
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

fn redrive_all(log: &Log, group: &str, max: u64) -> Result<Redriven, Refusal> {
    redrive(log, &Rotation::default(), group, "jobs.dlq", max, NOW)
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
    assert_eq!(contents(&dead), [(0, 3, "3".to_owned(), 7)]);
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
        partition: 0,
        group: "g",
    };
    let found = read_letters(&log, &partition, origin, &offsets, |_, _| String::new(), 10);
    assert_eq!(found.letters.len(), 2, "12 bytes of keys and values");
    assert_eq!(found.unread, [10, 19].map(Offset::new));
}

#[test]
fn dead_letters_go_where_their_keys_say_and_come_back_to_where_they_were_once() {
    let log = new_log();
    let jobs = make(&log, "jobs", 3);
    let dead = make(&log, "jobs.dlq", 4);
    let partition = jobs.partition(2).unwrap();
    produce(&log, &partition, 0..6);
    kill_all(&log, &partition, "g", &dead);
    for (partition, _, value, _) in contents(&dead) {
        let key = format!("key-{value}");
        assert_eq!(
            partition,
            crate::formats::partitioner::partition_of_key(key.as_bytes(), 4)
        );
    }
    let expected = |sent, at_end| Redriven {
        sent,
        passed: 0,
        at_end,
    };
    assert_eq!(redrive_all(&log, "g", 4).unwrap(), expected(4, false));
    assert_eq!(redrive_all(&log, "g", 4).unwrap(), expected(2, true));
    assert_eq!(redrive_all(&log, "g", 4).unwrap(), expected(0, true));
    let back = contents(&jobs);
    assert_eq!(back.len(), 12);
    let mut values: Vec<&str> = back[6..].iter().map(|(_, _, value, _)| &**value).collect();
    values.sort_unstable();
    assert_eq!(values, ["0", "1", "2", "3", "4", "5"]);
    assert!(
        back.iter()
            .all(|(partition, time, value, headers)| *partition == 2
                && time.to_string() == *value
                && *headers == 1)
    );
    let mark = crate::formats::partitioner::keyed_elsewhere(jobs.id());
    assert!(log.state_get(&mark).is_some(), "keys lie elsewhere than they say");
}

#[test]
fn dead_letters_of_other_groups_and_other_records_are_passed_over() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    let dead = make(&log, "jobs.dlq", 1);
    produce(&log, &partition, 0..3);
    kill_all(&log, &partition, "other", &dead);
    produce(&log, &dead.partition(0).unwrap(), 50..52);
    kill_all(&log, &partition, "g", &dead);
    let done = redrive_all(&log, "g", 100).unwrap();
    let expected = Redriven {
        sent: 3,
        passed: 5,
        at_end: true,
    };
    assert_eq!(done, expected);
    let done = redrive_all(&log, "other", 2).unwrap();
    assert_eq!(done.sent, 2, "each group is as far as it is");
    assert!(!done.at_end, "each group is as far as it is");
}

#[test]
fn a_dead_letter_whose_topic_is_gone_stops_the_call_until_the_topic_is_back() {
    let log = new_log();
    let jobs = make(&log, "jobs", 1).partition(0).unwrap();
    let gone = make(&log, "gone", 5).partition(4).unwrap();
    let dead = make(&log, "jobs.dlq", 1);
    produce(&log, &jobs, 0..2);
    produce(&log, &gone, 2..3);
    kill_all(&log, &jobs, "g", &dead);
    kill_all(&log, &gone, "g", &dead);
    kill_all(&log, &jobs, "g", &dead);
    topics(&log).delete("gone").unwrap();
    for sent in [2, 0] {
        let refusal = redrive_all(&log, "g", 100).unwrap_err();
        assert_eq!(refusal.reason, Reason::UnknownTopic);
        assert_eq!(refusal.value("redriven"), Some(&Value::Number(sent)));
        assert_eq!(refusal.value("dead_letter_offset"), Some(&Value::Number(2)));
        let outcome = if sent > 0 { Outcome::Partial } else { Outcome::None };
        assert_eq!(refusal.outcome, outcome);
    }
    let fewer = make(&log, "gone", 1);
    assert_eq!(redrive_all(&log, "g", 100).unwrap().sent, 3);
    assert_eq!(contents(&fewer), [(0, 2, "2".to_owned(), 1)]);
    let refusal = redrive(&log, &Rotation::default(), "g", "nothing", 1, NOW).unwrap_err();
    assert_eq!(refusal.reason, Reason::UnknownTopic);
}

#[test]
fn a_position_that_cannot_be_read_sends_nothing() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    let dead = make(&log, "jobs.dlq", 1);
    produce(&log, &partition, 0..1);
    kill_all(&log, &partition, "g", &dead);
    for value in [
        vec![],
        vec![2, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![1, 0],
        vec![1; 10],
        vec![1, 255, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let key = position_key("g", dead.partition(0).unwrap().id());
        write(&log, AppendRequest::of_state(vec![StateChange::set(key, value)]));
        assert_eq!(redrive_all(&log, "g", 9).unwrap_err().reason, Reason::Internal);
    }
}

#[test]
fn large_dead_letters_go_back_in_several_requests() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    let dead = make(&log, "jobs.dlq", 1);
    for number in 0..5_u8 {
        let mut records = BatchBuilder::new();
        records.push(NOW, None, Some(&vec![number; 800 << 10]), &[]);
        let part = Part::new(partition.clone(), Records::Loose(records));
        write(&log, AppendRequest::of(vec![part]));
        let offsets = [(Offset::new(number.into()), 1)];
        let found = read(&log, &partition, "g", &offsets);
        bury(&log, "g", &dead, &found);
    }
    assert_eq!(redrive_all(&log, "g", 100).unwrap().sent, 5);
    assert_eq!(partition.positions().end_offset, Offset::new(10));
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
    topics(log).skip(partition, range, NOW).unwrap();
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
fn damaged_dead_letters_stop_the_call_until_they_are_skipped() {
    let log = damaged_log("jobs.dlq", |log, dead, numbers| {
        let jobs = log.topic("jobs").unwrap().partition(0).unwrap();
        produce(log, &jobs, numbers.clone());
        let offsets: Vec<(Offset, u32)> = numbers.map(|at| (Offset::new(at.into()), 1)).collect();
        let found = read(log, &jobs, "g", &offsets);
        let dead = log.topic_by_id(dead.id().topic).unwrap();
        bury(log, "g", &dead, &found);
    });
    for sent in [3, 0] {
        let refusal = redrive_all(&log, "g", 100).unwrap_err();
        assert_eq!(refusal.reason, Reason::CorruptData);
        assert_eq!(refusal.value("redriven"), Some(&Value::Number(sent)));
    }
    let dead = log.topic("jobs.dlq").unwrap().partition(0).unwrap();
    skip_damage(&log, &dead);
    let done = redrive_all(&log, "g", 100).unwrap();
    assert_eq!((done.sent, done.at_end), (3, true));
}

#[test]
fn what_a_group_or_a_topic_had_goes_with_it() {
    let log = new_log();
    let partition = make(&log, "jobs", 1).partition(0).unwrap();
    let dead = make(&log, "jobs.dlq", 1);
    produce(&log, &partition, 0..3);
    for group in ["g", "h"] {
        kill_all(&log, &partition, group, &dead);
        redrive_all(&log, group, 1).unwrap();
        accept(&log, &partition, group, 3, &[1]);
    }
    let keys = |changes: Vec<StateChange>| -> Vec<Vec<u8>> {
        assert!(changes.iter().all(|change| change.value.is_none()));
        changes.into_iter().map(|change| change.key).collect()
    };
    let dead = dead.partition(0).unwrap().id();
    let jobs: PartitionId = partition.id();
    assert_eq!(
        keys(changes_for_deleted_group(&log, "g")),
        [
            group_key("g"),
            offset_key("g", jobs),
            state_key("g", jobs),
            block_key("g", jobs, 0),
            position_key("g", dead)
        ]
    );
    assert_eq!(
        keys(removals_of_topic(&log, jobs.topic)),
        [
            offset_key("g", jobs),
            offset_key("h", jobs),
            state_key("g", jobs),
            block_key("g", jobs, 0),
            state_key("h", jobs),
            block_key("h", jobs, 0)
        ]
    );
    let found = keys(removals_of_topic(&log, dead.topic));
    assert_eq!(found, [position_key("g", dead), position_key("h", dead)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn dead_letters_go_back_once_over_a_kill_at_any_call_of_the_disk(calls in 1..60_u64, max in 1..9_u64) {
        let disk = SimDisk::new(calls);
        let log = open(&disk).unwrap();
        let jobs = make(&log, "jobs", 2);
        let dead = make(&log, "jobs.dlq", 2);
        for index in 0..2 {
            let partition = jobs.partition(index).unwrap();
            produce(&log, &partition, index * 10..index * 10 + 6);
            kill_all(&log, &partition, "g", &dead);
        }
        disk.stop_at(disk.calls() + calls);
        let mut told = 0;
        while let Ok(done) = redrive_all(&log, "g", max) {
            told += done.sent;
            if done.at_end {
                break;
            }
        }
        drop(log);
        let log = open(&disk.after_kill()).unwrap();
        let jobs = log.topic("jobs").unwrap();
        let back = contents(&jobs).len() as u64 - 12;
        prop_assert!(back >= told, "{told} were said to be sent, {back} are there");
        let rest = redrive_all(&log, "g", 100).unwrap();
        prop_assert_eq!(back + rest.sent, 12);
        let mut values: Vec<String> = contents(&jobs).into_iter().map(|(_, _, value, _)| value).collect();
        values.sort_unstable();
        for pair in values.chunks(2) {
            prop_assert_eq!(&pair[0], &pair[1], "each is there twice");
        }
    }
}
