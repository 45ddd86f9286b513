//! Running out of file handles: the disk is healthy, so nothing is marked as failed, and the log continues by itself.

mod support;

use std::sync::Arc;

use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{Error, Log, Offset, Options};
use support::{NOW, TOPIC, append, open, options, partition, plain_spec, spec, try_open_with, values};

/// How many files the log has open besides segments: two of the journal, and one for a short time.
const OTHERS: usize = 3;

fn open_with(disk: &SimDisk, max_open_files: Option<usize>) -> Log {
    let options = Options {
        max_open_files,
        ..options()
    };
    try_open_with(Arc::new(disk.clone()), &SimClock::new(NOW), options).expect("it opens")
}

fn assert_healthy(log: &Log, when: &str) {
    let health = log.health();
    assert_eq!(health.failed_partitions, [], "{when}");
    assert_eq!(health.log_failed, None, "{when}");
    assert!(!health.storage_full, "{when}");
}

fn assert_out_of_handles<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(error @ Error::Overloaded { .. }) => {
            assert!(error.to_string().contains("no file handle left"), "{error}");
        }
        other => panic!("expected a lack of file handles: {other:?}"),
    }
}

#[test]
fn a_round_over_more_partitions_than_free_handles_is_stored_and_survives_a_power_cut() {
    // How many files the log may open, and how many the process may: only the second is limited, only the first, both.
    for (max_open_files, handles) in [(None, 4), (Some(4), usize::MAX), (Some(1), 1), (Some(100), 20)] {
        for segment_bytes in [1 << 20, 300] {
            let case = format!("{max_open_files:?} {handles} {segment_bytes}");
            let disk = SimDisk::new(1);
            let log = open_with(&disk, max_open_files);
            let all: Vec<u32> = (0..60).collect();
            log.create_topic(TOPIC, spec(60, segment_bytes)).unwrap();
            disk.limit_open_files(Some(handles.saturating_add(OTHERS)));
            for round in 0..4u8 {
                append(&log, &all, &[round; 100]).expect(&case);
                let most = max_open_files.unwrap_or(60).max(1) as u64;
                assert!(log.counters().open_files <= most, "{case}");
            }
            assert_healthy(&log, &case);
            let disk = disk.after_power_cut();
            disk.limit_open_files(Some(handles.saturating_add(OTHERS)));
            let log = open_with(&disk, Some(max_open_files.unwrap_or(4).min(handles)));
            for index in all {
                let expected: Vec<_> = (0..4u8).map(|round| vec![round; 100]).collect();
                assert_eq!(values(&log, index), expected, "{case}, partition {index}");
            }
            assert_healthy(&log, &case);
        }
    }
}

#[test]
fn appends_without_any_handle_are_refused_with_the_reason_and_go_on_when_there_is_one() {
    let disk = SimDisk::new(1);
    let log = open_with(&disk, None);
    log.create_topic(TOPIC, plain_spec(3)).unwrap();
    append(&log, &[0], b"before").unwrap();
    log.sync_segments().unwrap();
    disk.limit_open_files(Some(0));
    assert_out_of_handles(append(&log, &[1, 2], b"refused"));
    assert_out_of_handles(append(&log, &[0, 1], b"refused"));
    assert_healthy(&log, "without handles");
    disk.limit_open_files(None);
    append(&log, &[0, 1, 2], b"after").unwrap();
    assert_eq!(values(&log, 0), [&b"before"[..], b"after"]);
    assert_eq!(values(&log, 1), [b"after"]);
    assert_healthy(&log, "with handles again");
}

#[test]
fn a_sync_that_lacks_handles_fails_nothing_and_writes_no_checkpoint_before_it_is_done() {
    for seed in 0..8 {
        let disk = SimDisk::new(seed);
        let log = open_with(&disk, None);
        log.create_topic(TOPIC, plain_spec(5)).unwrap();
        append(&log, &[0, 1, 2, 3, 4], b"a").unwrap();
        disk.limit_open_files(Some(0));
        let checkpoints = log.counters().checkpoints;
        assert_out_of_handles(log.sync_segments());
        assert_eq!(log.counters().checkpoints, checkpoints);
        assert_healthy(&log, "without handles");
        // One free handle is enough: files that are synced are closed for it.
        disk.limit_open_files(Some(OTHERS));
        log.sync_segments().unwrap();
        assert_eq!(log.counters().checkpoints, checkpoints + 1);
        append(&log, &[0, 4], b"b").unwrap();
        assert_healthy(&log, "with handles again");
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 4), [b"a", b"b"], "seed {seed}");
        assert_eq!(values(&log, 2), [b"a"], "seed {seed}");
    }
}

#[test]
fn a_journal_that_lacks_handles_for_its_next_file_refuses_rounds_until_there_are_some() {
    let disk = SimDisk::new(1);
    let log = open_with(&disk, None);
    log.create_topic(TOPIC, plain_spec(1)).unwrap();
    append(&log, &[0], b"first").unwrap();
    disk.limit_open_files(Some(0));
    let mut refused = 0;
    // Far more than fits in both files of the journal.
    for _ in 0..40 {
        match append(&log, &[0], &[7; 60 << 10]) {
            Ok(_) => assert_eq!(refused, 0, "no handle came back"),
            refusal => {
                assert_out_of_handles(refusal);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    assert_healthy(&log, "without handles");
    disk.limit_open_files(None);
    let appended = append(&log, &[0], b"last").unwrap();
    let end = partition(&log, 0).positions().end_offset;
    assert_eq!(appended.base_offsets[0].plus(1), end);
    let log = open(&disk.after_power_cut());
    assert_eq!(values(&log, 0).last().unwrap(), b"last");
}

#[test]
fn topics_that_lack_a_handle_are_made_and_changed_once_there_is_one_without_a_restart() {
    for (kind, part) in [
        (IoKind::Create, "topic.new"),
        (IoKind::SyncDir, "/staging"),
        (IoKind::SyncDir, "/topics"),
        (IoKind::SyncDir, "/deleted"),
    ] {
        let (disk, log) = support::start(1, plain_spec(1));
        let lack = || disk.fail(Fault::once(kind, 0).on(part).with(FaultError::Handles));
        lack();
        let created = log.create_topic("payments", plain_spec(2));
        assert_eq!(created.is_err(), part != "/deleted", "{part}");
        disk.clear_faults();
        if created.is_err() {
            log.create_topic("payments", plain_spec(2)).expect(part);
        }
        lack();
        let altered = log.alter_topic(TOPIC, plain_spec(3));
        disk.clear_faults();
        if altered.is_err() {
            log.alter_topic(TOPIC, plain_spec(3)).expect(part);
        }
        lack();
        // The topic is deleted in any case; its directory is moved away when a new topic takes the name.
        let deleted = log.delete_topic("payments", Vec::new());
        assert_eq!(deleted.is_err(), matches!(part, "/topics" | "/deleted"), "{part}");
        disk.clear_faults();
        log.create_topic("payments", plain_spec(1)).expect(part);
        append(&log, &[0, 2], b"a").unwrap();
        assert_healthy(&log, part);
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 2), [b"a"], "{part}");
        assert_eq!(log.topic("payments").unwrap().partition_count(), 1, "{part}");
    }
}

#[test]
fn a_read_that_lacks_a_handle_is_refused_with_the_reason_and_reports_no_damage() {
    let (disk, log) = support::start(1, plain_spec(1));
    append(&log, &[0], b"a").unwrap();
    let disk = disk.after_power_cut();
    drop(log);
    let log = open(&disk);
    disk.limit_open_files(Some(0));
    let orders = partition(&log, 0);
    assert_out_of_handles(orders.read(support::read_from(Offset::ZERO, 1 << 10)));
    assert_eq!(orders.damaged_ranges(), []);
    disk.limit_open_files(None);
    assert_eq!(values(&log, 0), [b"a"]);
}
