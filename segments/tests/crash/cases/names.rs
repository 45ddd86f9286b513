//! Names of directories, topics and segment files: their sync may be missing or fail, although the content is synced.

use quipu_segments::sim::{Fault, FaultError, IoKind, SimDisk};
use quipu_segments::{Error, Offset};

use super::{SEEDS, append, open, partition, spec, start, start_empty, try_open, values};

#[test]
fn a_data_directory_made_by_the_first_start_survives_a_power_cut() {
    for seed in 0..SEEDS {
        let (disk, log) = start(seed, spec(1, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 0), [b"1"], "seed {seed}");
    }
}

#[test]
fn a_first_start_that_is_killed_and_then_cut_off_leaves_a_directory_that_opens() {
    for seed in 0..SEEDS {
        for killed in 1..40 {
            for cut in 1..40 {
                let disk = SimDisk::new(seed);
                disk.stop_at(killed);
                let first = try_open(&disk).map(drop);
                let disk = disk.after_kill();
                disk.stop_at(cut);
                let second = try_open(&disk).map(drop);
                let opened = try_open(&disk.after_power_cut()).map(drop);
                assert_eq!(
                    opened.map_err(|error| error.to_string()),
                    Ok(()),
                    "seed {seed}, killed in call {killed}: {first:?}, cut off in call {cut}: {second:?}"
                );
            }
        }
    }
}

#[test]
fn what_a_killed_process_did_not_sync_is_synced_by_the_one_that_serves_it() {
    for seed in 0..SEEDS {
        let (disk, log) = start(seed, spec(1, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        // The next start finds the segment's file, whose name no sync has made durable.
        let disk = disk.after_kill();
        let log = open(&disk);
        append(&log, &[0], b"2").unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 0), [b"1", b"2"], "seed {seed}");
    }
}

#[test]
fn a_topic_that_is_served_after_a_kill_survives_a_power_cut() {
    for seed in 0..8 {
        for stop in 1..60 {
            let (disk, log) = start_empty(seed);
            disk.stop_at(stop);
            if log.create_topic("orders", spec(1, 1 << 20)).is_ok() {
                break;
            }
            let disk = disk.after_kill();
            let log = open(&disk);
            if log.topic("orders").is_some() {
                append(&log, &[0], b"1").unwrap();
                let log = open(&disk.after_power_cut());
                assert_eq!(values(&log, 0), [b"1"], "seed {seed}, stop {stop}");
            }
        }
    }
}

#[test]
fn a_topic_that_could_not_be_made_is_whole_or_gone_after_a_power_cut() {
    for seed in 0..64 {
        let (disk, log) = start_empty(seed);
        disk.fail(Fault::once(IoKind::SyncDir, 0).on("/topics"));
        log.create_topic("orders", spec(1, 1 << 20)).err().unwrap();
        // Also if the process is killed first, and the next one is stopped while it removes the unfinished topic.
        for calls in [None, Some(20), Some(30), Some(40), Some(50)] {
            let mut disk = disk.clone();
            if let Some(calls) = calls {
                disk = disk.after_kill();
                disk.stop_at(calls);
                let _stopped = try_open(&disk);
            }
            let log = open(&disk.after_power_cut());
            let found = log.health().damage;
            assert_eq!(found, Vec::<String>::new(), "seed {seed}, {calls:?}");
        }
    }
}

#[test]
fn a_directory_sync_that_failed_for_one_partition_counts_for_no_other() {
    for seed in 0..SEEDS {
        let (disk, log) = start(seed, spec(2, 1 << 20));
        append(&log, &[0, 1], b"1").unwrap();
        disk.fail(Fault::once(IoKind::SyncDir, 1).on("orders"));
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 0).len(), 1, "seed {seed}");
        assert_eq!(values(&log, 1).len(), 1, "seed {seed}");
    }
}

#[test]
fn a_directory_sync_that_failed_for_a_change_of_the_topic_counts_for_no_partition() {
    for seed in 0..SEEDS {
        let (disk, log) = start(seed, spec(1, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        disk.fail(Fault::once(IoKind::SyncDir, 0));
        assert!(log.alter_topic("orders", spec(1, 2 << 20)).is_err());
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 0), [b"1"], "seed {seed}");
    }
}

#[test]
fn a_topic_whose_deletion_failed_in_the_journal_stays_readable() {
    let (disk, log) = start(0, spec(1, 1 << 20));
    append(&log, &[0], b"1").unwrap();
    disk.fail(Fault::once(IoKind::Sync, 0).on("journal"));
    let failed = log.delete_topic("orders", Vec::new());
    assert!(matches!(failed, Err(Error::LogFailed { in_flight: true, .. })));
    assert_eq!(values(&log, 0), [b"1"]);
}

#[test]
fn a_deletion_that_is_durable_does_not_say_that_nothing_was_done() {
    let (disk, log) = start(0, spec(1, 1 << 20));
    disk.fail(Fault::once(IoKind::Rename, 0).with(FaultError::Full));
    let failed = log.delete_topic("orders", Vec::new());
    assert!(matches!(failed, Err(Error::Io { .. })));
    assert!(open(&disk.after_power_cut()).topic("orders").is_none());
}

#[test]
fn trimmed_files_of_a_deleted_topic_are_not_removed_from_a_new_one_of_its_name() {
    let (_disk, log) = start(0, spec(1, 1 << 20));
    append(&log, &[0], b"old").unwrap();
    let partition = partition(&log, 0);
    partition.trim(Offset::new(1)).unwrap();
    log.delete_topic("orders", Vec::new()).unwrap();
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, &[0], b"new").unwrap();
    log.sync_segments().unwrap();
    assert_eq!(values(&log, 0), [b"new"]);
}

#[test]
fn a_start_on_a_full_disk_does_not_write_trimmed_segments_again() {
    for seed in 0..SEEDS {
        // The last record is kept and needs room, or not even that.
        for (trimmed, room) in [(7, 8 << 10), (8, 0)] {
            let (disk, log) = start(seed, spec(1, 4 << 10));
            for _ in 0..8 {
                append(&log, &[0], &[1; 3_000]).unwrap();
            }
            partition(&log, 0).trim(Offset::new(trimmed)).unwrap();
            // The trimmed files are removed, but no checkpoint is written.
            disk.fail(Fault::once(IoKind::Write, 0).on("checkpoint").onwards());
            assert!(log.sync_segments().is_err());
            let disk = disk.after_power_cut();
            disk.set_capacity(Some(disk.used_bytes() + room));
            let log = open(&disk);
            let kept = vec![[1; 3_000]; 8 - trimmed as usize];
            assert_eq!(values(&log, 0), kept, "seed {seed}, {trimmed}");
            disk.set_capacity(None);
            append(&log, &[0], b"next").unwrap();
            let log = open(&disk.after_power_cut());
            assert_eq!(values(&log, 0).len(), kept.len() + 1, "seed {seed}, {trimmed}");
            assert_eq!(partition(&log, 0).positions().end_offset, Offset::new(9));
        }
    }
}

#[test]
fn a_trimmed_segment_that_a_start_removed_is_not_missed_by_the_next_one() {
    for stop in 1..120 {
        let (disk, log) = start(stop, spec(1, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        log.sync_segments().unwrap();
        partition(&log, 0).trim(Offset::new(1)).unwrap();
        let disk = disk.after_power_cut();
        disk.stop_at(stop);
        if try_open(&disk).is_ok() {
            return;
        }
        let log = open(&disk.after_kill());
        assert_eq!(log.health().damage, Vec::<String>::new(), "stop {stop}");
    }
    panic!("the start makes more calls than expected");
}

#[test]
fn a_topic_made_again_under_the_name_of_one_whose_directory_sync_failed_is_healthy() {
    for dir in ["/orders", "/orders/0"] {
        let (disk, log) = start(1, spec(1, 1 << 20));
        append(&log, &[0], b"of the old one").expect("nothing is wrong");
        disk.fail(Fault::once(IoKind::SyncDir, 0).on(dir));
        log.sync_segments().expect("the checkpoint is written");
        assert_eq!(log.health().failed_partitions.len(), 1, "{dir}");
        log.delete_topic("orders", Vec::new()).expect("nothing is wrong");
        log.create_topic("orders", spec(1, 1 << 20)).expect(dir);
        append(&log, &[0], b"of the new one").expect("nothing is wrong");
        log.sync_segments().expect("nothing is wrong");
        assert_eq!(log.health().failed_partitions, [], "{dir}");
        let found = values(&open(&disk.after_power_cut()), 0);
        assert_eq!(found, [b"of the new one"], "{dir}");
    }
}
