//! The whole engine on real files.

#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use quipu_segments::batch::Batches;
use quipu_segments::{
    Ack, AppendRequest, Error, Log, Offset, Options, Part, Partition, ReadRequest, Receipt, StateChange,
    TopicSettings, TopicSpec,
};
use support::{NOW, append_one, partition, records, roomy_options as options, store};
use tempfile::TempDir;

fn open(dir: &Path) -> Log {
    Log::open(dir, options()).expect("opens")
}

/// A log in a new directory with the topic `orders`, and its first partition.
fn orders(partitions: u32) -> (TempDir, Log, Arc<Partition>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("orders", spec(partitions)).unwrap();
    let partition = partition(&log, 0);
    (dir, log, partition)
}

fn spec(partitions: u32) -> TopicSpec {
    support::spec(partitions, 16 << 10)
}

fn part(partition: &Arc<Partition>, value: &str) -> Part {
    support::part(Arc::clone(partition), records(NOW, &[value.as_bytes()]))
}

fn append(log: &Log, partition: &Arc<Partition>, value: &str) -> Result<u64, Error> {
    append_one(log, partition, value.as_bytes())
}

/// Looks at the state whenever it is woken.
struct LooksAtState {
    log: Log,
    seen: Mutex<Option<bool>>,
}

impl std::task::Wake for LooksAtState {
    fn wake(self: Arc<Self>) {
        let is_there = self.log.state_get(b"said of it").is_some();
        *self.seen.lock().expect("nobody panics with it") = Some(is_there);
    }
}

#[test]
fn a_reader_that_sees_a_record_sees_the_state_change_of_its_append() {
    let (_dir, log, partition) = orders(1);
    let seen = Mutex::default();
    let looks = Arc::new(LooksAtState {
        log: log.clone(),
        seen,
    });
    let waker = std::task::Waker::from(Arc::clone(&looks));
    let mut wait = std::pin::pin!(partition.wait_for(Offset::ZERO));
    let mut context = std::task::Context::from_waker(&waker);
    assert!(wait.as_mut().poll(&mut context).is_pending());
    let state = vec![StateChange::set("said of it", vec![1])];
    let request = AppendRequest {
        state,
        ..AppendRequest::of(vec![part(&partition, "a")])
    };
    store(&log, request).expect("durable");
    assert_eq!(*looks.seen.lock().expect("nobody panics with it"), Some(true));
}

fn read_all(partition: &Partition) -> Vec<(u64, String)> {
    let (found, lost) = support::read_all(partition);
    assert_eq!(lost, []);
    let text = |value| String::from_utf8(value).expect("text");
    let found = found.into_iter();
    found.map(|(offset, value)| (offset.get(), text(value))).collect()
}

fn numbered(count: u64) -> Vec<(u64, String)> {
    let record = |number| (number, format!("value {number}"));
    (0..count).map(record).collect()
}

fn fill(log: &Log, partition: &Arc<Partition>, from: u64, to: u64) {
    for number in from..to {
        let offset = append(log, partition, &format!("value {number}")).unwrap();
        assert_eq!(offset, number);
    }
}

#[test]
fn appended_records_are_read_back_over_segments_and_restarts() {
    let (dir, log, first) = orders(2);
    fill(&log, &first, 0, 500);
    assert!(first.stats().unwrap().segments > 2);
    assert_eq!(read_all(&first), numbered(500));
    log.close().unwrap();
    drop((log, first));

    let log = open(dir.path());
    let partition = partition(&log, 0);
    assert_eq!(read_all(&partition), numbered(500));
    fill(&log, &partition, 500, 600);
    assert_eq!(read_all(&partition), numbered(600));
    assert!(log.health().damage.is_empty(), "{:?}", log.health());
}

#[test]
fn acknowledged_records_are_there_after_a_stop_without_a_close() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let log = open(dir.path());
        if round == 0 {
            log.create_topic("orders", spec(1)).unwrap();
        }
        let partition = partition(&log, 0);
        assert_eq!(read_all(&partition), numbered(round * 400));
        fill(&log, &partition, round * 400, (round + 1) * 400);
        if round % 2 == 1 {
            log.sync_segments().unwrap();
        }
        assert!(log.health().damage.is_empty(), "{:?}", log.health());
    }
}

#[test]
fn a_lost_segment_file_comes_back_from_the_journal() {
    let (dir, log, first) = orders(1);
    fill(&log, &first, 0, 20);
    drop((log, first));
    std::fs::remove_dir_all(dir.path().join("topics/orders/0")).unwrap();
    let log = open(dir.path());
    assert_eq!(read_all(&partition(&log, 0)), numbered(20));
}

#[test]
fn bytes_behind_the_end_that_nobody_acknowledged_are_cut() {
    let (dir, log, first) = orders(1);
    fill(&log, &first, 0, 20);
    drop((log, first));
    let segment = |base: u64| dir.path().join(format!("topics/orders/0/{base:020}.log"));
    let path = segment(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes.extend_from_within(..100);
    std::fs::write(&path, &bytes).unwrap();
    std::fs::write(segment(20), b"begun").unwrap();
    let log = open(dir.path());
    let partition = partition(&log, 0);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length as u64);
    assert_eq!(read_all(&partition), numbered(20));
    fill(&log, &partition, 20, 30);
    assert_eq!(read_all(&partition), numbered(30));
}

#[test]
fn the_journal_goes_round_its_files_many_times() {
    let (dir, log, _) = orders(3);
    let second = partition(&log, 1);
    let value = "x".repeat(10_000);
    for number in 0..1000 {
        assert_eq!(append(&log, &second, &value).unwrap(), number);
    }
    let files = std::fs::read_dir(dir.path().join("journal")).unwrap().count();
    assert!(files <= 3, "{files} journal files");
    drop((log, second));
    let log = open(dir.path());
    assert_eq!(read_all(&partition(&log, 1)).len(), 1000);
}

#[test]
fn an_unexpected_offset_stores_nothing_of_the_request() {
    let (_dir, log, a) = orders(2);
    let b = partition(&log, 1);
    append(&log, &a, "one").unwrap();
    let second = part(&b, "two").expecting(Some(Offset::new(5)));
    let state = vec![StateChange::set("k", "v")];
    let request = AppendRequest {
        state,
        ..AppendRequest::of(vec![part(&a, "two"), second])
    };
    let ticket = log.append(request).unwrap();
    log.run_round().unwrap();
    assert!(matches!(
        ticket.wait(),
        Err(Error::OffsetMismatch { end_offset, .. }) if end_offset == Offset::ZERO
    ));
    assert_eq!(a.positions().end_offset.get(), 1);
    assert_eq!(b.positions().end_offset.get(), 0);
    assert_eq!(log.state_get(b"k"), None);
}

#[test]
fn small_requests_of_one_round_become_one_batch_and_each_gets_its_offsets() {
    let (_dir, log, partition) = orders(1);
    let queue = |number| {
        let part = part(&partition, &format!("value {number}"));
        log.append(AppendRequest::of(vec![part])).unwrap()
    };
    let tickets: Vec<_> = (0..50).map(queue).collect();
    // Nothing is readable before the round.
    assert_eq!(partition.positions().end_offset, Offset::ZERO);
    log.run_round().unwrap();
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.wait().unwrap().base_offsets[0].get(), number as u64);
    }
    let fetched = partition.read(ReadRequest::new(Offset::ZERO, 1 << 20)).unwrap();
    assert_eq!(Batches::new(&fetched.runs[0].bytes).count(), 1);
    assert_eq!(read_all(&partition), numbered(50));
}

#[test]
fn the_state_is_as_durable_as_the_records_and_changes_with_them() {
    let dir = tempfile::tempdir().unwrap();
    for close in [false, true, false] {
        let log = open(dir.path());
        let set = [("a", "1"), ("b", "2"), ("gone", "x")];
        let set = set.map(|(key, value)| StateChange::set(key, value)).into();
        for state in [set, vec![StateChange::remove("gone")]] {
            let ticket = log.append(AppendRequest::of_state(state)).unwrap();
            assert_eq!(log.state_get(b"nothing"), None);
            log.run_round().unwrap();
            ticket.wait().unwrap();
        }
        if close {
            log.close().unwrap();
        }
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.state_get(b"a").as_deref(), Some(&b"1"[..]));
        assert_eq!(log.state_prefix(b"").len(), 2);
    }
}

#[test]
fn trimmed_segments_are_gone_and_offsets_go_on() {
    let (dir, log, first) = orders(1);
    fill(&log, &first, 0, 500);
    let before = first.stats().unwrap();
    let refused = first.trim(Offset::new(501));
    assert!(matches!(refused, Err(Error::OutOfRange { .. })));
    assert_eq!(first.trim(Offset::new(300)).unwrap().get(), 300);
    assert_eq!(first.trim(Offset::new(10)).unwrap().get(), 300, "never down");
    log.sync_segments().unwrap();
    let after = first.stats().unwrap();
    assert!(after.segments < before.segments, "{after:?}");
    assert!(after.size_bytes < before.size_bytes, "{after:?}");
    assert_eq!(read_all(&first), numbered(500)[300..]);
    let trimmed = first.read(ReadRequest::new(Offset::new(299), 1));
    assert!(matches!(trimmed, Err(Error::Trimmed { .. })));
    assert_eq!(first.trim(Offset::new(500)).unwrap().get(), 500);
    assert_eq!(first.stats().unwrap().segments, 0);
    drop((log, first));
    let log = open(dir.path());
    let partition = partition(&log, 0);
    assert_eq!(partition.positions().log_start_offset.get(), 500);
    assert_eq!(append(&log, &partition, "next").unwrap(), 500);
    assert_eq!(read_all(&partition), [(500, "next".to_owned())]);
}

#[test]
fn a_trim_changes_the_state_with_it_or_not_at_all() {
    let (dir, log, first) = orders(1);
    fill(&log, &first, 0, 10);
    let change = |value: &[u8]| vec![StateChange::set("why", value)];
    assert_eq!(
        first.trim_with(Offset::new(4), change(b"asked")).unwrap().get(),
        4
    );
    assert!(first.trim_with(Offset::new(11), change(b"refused")).is_err());
    drop((log, first));
    let log = open(dir.path());
    assert_eq!(log.state_get(b"why").as_deref(), Some(&b"asked"[..]));
    assert_eq!(partition(&log, 0).positions().log_start_offset.get(), 4);
}

#[test]
fn an_internal_topic_of_a_caller_is_kept_and_not_listed() {
    let (dir, log, _) = orders(1);
    for name in ["orders", "__keys", "notes"] {
        assert!(
            log.prepare_topic(name, TopicSettings::default()).is_err(),
            "{name}"
        );
    }
    assert!(log.internal_topic("__notes").is_none());
    let topic = log.prepare_topic("__notes", TopicSettings::default()).unwrap();
    assert_eq!(
        log.prepare_topic("__notes", TopicSettings::default())
            .unwrap()
            .id(),
        topic.id()
    );
    append(&log, &topic.partition(0).unwrap(), "a note").unwrap();
    assert!(log.disk_usage().internal_bytes > 0);
    assert_eq!(log.disk_usage().keys_bytes, 0);
    drop((log, topic));
    let log = open(dir.path());
    assert_eq!(log.topics().len(), 1);
    assert!(log.topic("__notes").is_none());
    assert!(log.delete_topic("__notes", Vec::new()).is_err());
    assert!(log.internal_topic("orders").is_none());
    let topic = log.internal_topic("__notes").unwrap();
    assert_eq!(read_all(&topic.partition(0).unwrap()), [(0, "a note".to_owned())]);
}

#[test]
fn a_deleted_topic_stays_deleted_and_its_name_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let first = log.create_topic("orders", spec(1)).unwrap();
    let partition = first.partition(0).unwrap();
    fill(&log, &partition, 0, 10);
    log.delete_topic("orders", Vec::new()).unwrap();
    let refused = append(&log, &partition, "late");
    assert!(matches!(refused, Err(Error::NotFound(_))));
    let gone = partition.read(ReadRequest::new(Offset::ZERO, 1));
    assert!(matches!(gone, Err(Error::NotFound(_))));
    let second = log.create_topic("orders", spec(1)).unwrap();
    assert_ne!(first.id(), second.id());
    append(&log, &second.partition(0).unwrap(), "new").unwrap();
    drop((log, first, second, partition));
    let log = open(dir.path());
    assert_eq!(read_all(&self::partition(&log, 0)), [(0, "new".to_owned())]);
    log.delete_topic("orders", Vec::new()).unwrap();
    drop(log);
    let log = open(dir.path());
    assert!(log.topic("orders").is_none());
}

#[test]
fn a_topic_can_grow_and_keeps_its_properties() {
    let (dir, log, _) = orders(1);
    let mut wider = spec(3);
    wider.properties.insert("ack".into(), "written".into());
    log.alter_topic("orders", wider.clone()).unwrap();
    let narrower = log.alter_topic("orders", spec(2));
    assert!(matches!(narrower, Err(Error::Invalid(_))));
    append(&log, &partition(&log, 2), "value 0").unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!(*log.topic("orders").unwrap().spec(), wider);
    assert_eq!(read_all(&partition(&log, 2)), numbered(1));
}

#[test]
fn a_directory_is_opened_once_at_a_time_and_only_if_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let again = Log::open(dir.path(), options());
    assert!(matches!(again, Err(Error::Directory(_))));
    drop(log);
    drop(open(dir.path()));
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("thesis.txt"), "years of work").unwrap();
    let refused = Log::open(other.path(), options());
    assert!(matches!(refused, Err(Error::Directory(_))));
}

#[test]
fn threads_of_its_own_serve_many_producers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        background: true,
        ..options()
    };
    let log = Log::open(dir.path(), options.clone()).unwrap();
    let topic = log.create_topic("orders", spec(4)).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (log, topic) = (log.clone(), Arc::clone(&topic));
            std::thread::spawn(move || {
                for number in 0..100 {
                    let partition = topic.partition((thread + number) % 4).unwrap();
                    let ack = [Ack::Written, Ack::Durable, Ack::Durable][number as usize % 3];
                    let request = AppendRequest::of(vec![part(&partition, &"y".repeat(2000))]);
                    let request = AppendRequest { ack, ..request };
                    log.append(request).unwrap().wait().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    log.close().unwrap();
    let count = |log: &Log| -> usize {
        let partitions = (0..4).map(|index| partition(log, index));
        partitions.map(|partition| read_all(&partition).len()).sum()
    };
    assert_eq!(count(&log), 800);
    let late = part(&partition(&log, 0), "late");
    let refused = log.append(AppendRequest::of(vec![late]));
    assert!(matches!(refused, Err(Error::Closed)));
    drop((log, topic));
    let log = Log::open(dir.path(), options).unwrap();
    assert_eq!(count(&log), 800);
}

#[test]
fn a_queue_that_nobody_empties_is_bounded_in_memory_however_small_the_requests() {
    const QUEUE_BYTES: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        queue_bytes: QUEUE_BYTES,
        ..options()
    };
    let log = Log::open(dir.path(), options).unwrap();
    let partition = log.create_topic("t", spec(1)).unwrap().partition(0).unwrap();
    let request = || AppendRequest::of(vec![part(&partition, "x")]);
    // A caller may go away before the answer: its request stays.
    let mut queued = 0;
    let refusal = loop {
        match log.append(request()) {
            Ok(_gone) => queued += 1,
            Err(error) => break error,
        }
        assert!(log.counters().queued_bytes <= QUEUE_BYTES);
    };
    assert!(matches!(refusal, Error::Overloaded { .. }), "{refusal}");
    // With its part, its ticket and its buffer, a request takes at least half a KiB.
    let is_right = (100..=QUEUE_BYTES / 512).contains(&queued);
    assert!(is_right, "{queued} requests are queued");
    while log.run_round().unwrap() {}
    assert_eq!(log.counters().queued_bytes, 0);
    assert_eq!(partition.positions().end_offset, Offset::new(queued));
    store(&log, request()).unwrap();
}

#[test]
fn a_receipt_notes_where_the_records_of_its_append_lie_and_lasts() {
    let (dir, log, _) = orders(3);
    let on = |index| partition(&log, index);
    append(&log, &on(2), "before").unwrap();
    let receipt = |parts: &[u32]| Receipt {
        key: b"receipt".to_vec(),
        value: b"of it".to_vec(),
        parts: parts.to_vec(),
    };
    let request = |receipt| AppendRequest {
        receipts: vec![receipt],
        ..AppendRequest::of(vec![part(&on(0), "a"), part(&on(2), "b")])
    };
    assert!(matches!(
        log.append(request(receipt(&[0, 2]))),
        Err(Error::Invalid(_))
    ));
    let key = Receipt {
        key: vec![0, 1],
        ..receipt(&[0])
    };
    assert!(matches!(log.append(request(key)), Err(Error::Invalid(_))));
    assert_eq!(log.state_get(b"receipt"), None);
    store(&log, request(receipt(&[1, 0, 1]))).unwrap();
    let expected = [
        &b"of it"[..],
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &[0; 8],
        &[0, 0, 0, 0, 0, 0, 0, 1],
    ]
    .concat();
    assert_eq!(log.state_get(b"receipt").as_deref(), Some(&expected[..]));
    let alone = AppendRequest {
        receipts: vec![receipt(&[])],
        ..AppendRequest::default()
    };
    store(&log, alone).unwrap();
    assert_eq!(log.state_get(b"receipt").as_deref(), Some(&b"of it"[..]));
    store(&log, request(receipt(&[0, 1]))).unwrap();
    drop(log);
    let log = open(dir.path());
    let expected = [&b"of it"[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]].concat();
    assert_eq!(log.state_get(b"receipt").as_deref(), Some(&expected[..]));
}

#[test]
fn a_request_with_two_parts_for_a_partition_is_refused_wherever_they_stand() {
    let (_dir, log, first) = orders(40);
    let parts = |indexes: &[u32]| {
        let part = |index: &u32| part(&partition(&log, *index), "twice");
        AppendRequest::of(indexes.iter().map(part).collect())
    };
    let all: Vec<u32> = (0..40).collect();
    for indexes in [vec![0, 0], vec![1, 0, 1], [&all[..], &[7]].concat()] {
        let refused = log.append(parts(&indexes));
        let Err(Error::Invalid(reason)) = refused else {
            panic!("{indexes:?} are taken");
        };
        assert!(reason.contains("two parts are for orders/"), "{reason}");
    }
    store(&log, parts(&all)).expect("durable");
    assert_eq!(read_all(&first).len(), 1, "nothing of the refused ones is stored");
}
