//! Crashes that once took something, each by itself. Where chance decides what a power cut takes, many seeds are tried.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{
    Ack, AppendRequest, Appended, Disk, Error, Log, Offset, OpenMode, Options, Part, Records, StateChange,
    TimestampMs, TopicSettings, TopicSpec,
};

use super::check;
use super::hook::HookedDisk;

const DIR: &str = "/quipu/data";
const SEEDS: u64 = 16;

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

#[test]
fn what_a_killed_process_did_not_sync_is_synced_by_the_one_that_serves_it() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        append(&log, "orders", &[0], b"1").unwrap();
        // The next start finds the segment's file, whose name nobody has made durable.
        let disk = disk.after_kill();
        let log = open(&disk);
        let log = (
            append(&log, "orders", &[0], b"2").unwrap(),
            open(&disk.after_power_cut()),
        )
            .1;
        assert_eq!(values(&log, "orders", 0), [b"1", b"2"], "seed {seed}");
    }
}

#[test]
fn a_topic_that_is_served_after_a_kill_survives_a_power_cut() {
    for seed in 0..8 {
        for stop in 1..60 {
            let disk = SimDisk::new(seed);
            let log = open(&disk);
            disk.stop_at(stop);
            if log.create_topic("orders", spec(1, 1 << 20)).is_ok() {
                break;
            }
            let disk = disk.after_kill();
            let log = open(&disk);
            if log.topic("orders").is_some() {
                append(&log, "orders", &[0], b"1").unwrap();
                let log = open(&disk.after_power_cut());
                assert_eq!(values(&log, "orders", 0), [b"1"], "seed {seed}, stop {stop}");
            }
        }
    }
}

#[test]
fn a_failed_segment_sync_loses_nothing_that_the_journal_has() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(2, 1 << 20)).unwrap();
        append(&log, "orders", &[0, 1], b"1").unwrap();
        disk.fail(Fault::once(IoKind::Sync, 0).on("topics"));
        log.sync_segments().unwrap();
        assert_eq!(log.health().failed_partitions.len(), 1);
        append(&log, "orders", &[1], b"2").unwrap();
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(
            (values(&log, "orders", 0), values(&log, "orders", 1).len()),
            (vec![b"1".to_vec()], 2)
        );
    }
}

#[test]
fn a_directory_sync_that_failed_for_one_partition_counts_for_no_other() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(2, 1 << 20)).unwrap();
        append(&log, "orders", &[0, 1], b"1").unwrap();
        disk.fail(Fault::once(IoKind::SyncDir, 1).on("orders"));
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(
            (values(&log, "orders", 0).len(), values(&log, "orders", 1).len()),
            (1, 1),
            "seed {seed}"
        );
    }
}

#[test]
fn what_is_published_during_a_sync_is_in_the_checkpoint_after_the_next() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let hooked = HookedDisk::new(disk.clone());
        let clock = Arc::new(SimClock::new(TimestampMs(1_000_000)));
        let log = Log::open_with(Arc::new(hooked.clone()), clock, Path::new(DIR), options()).unwrap();
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        let syncing = log.clone();
        hooked.before_journal_sync(move || syncing.sync_segments().unwrap());
        append(&log, "orders", &[0], b"1").unwrap();
        hooked.unhook();
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, "orders", 0), [b"1"], "seed {seed}");
    }
}

#[test]
fn a_topic_whose_deletion_failed_in_the_journal_stays_readable() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, "orders", &[0], b"1").unwrap();
    disk.fail(Fault::once(IoKind::Sync, 0).on("journal"));
    assert!(matches!(
        log.delete_topic("orders", Vec::new()),
        Err(Error::LogFailed { in_flight: true, .. })
    ));
    assert_eq!(values(&log, "orders", 0), [b"1"]);
}

#[test]
fn a_deletion_that_is_durable_does_not_say_that_nothing_was_done() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    disk.fail(Fault::once(IoKind::Rename, 0).with(FaultError::Full));
    assert!(matches!(
        log.delete_topic("orders", Vec::new()),
        Err(Error::Io { .. })
    ));
    assert!(open(&disk.after_power_cut()).topic("orders").is_none());
}

#[test]
fn trimmed_files_of_a_deleted_topic_are_not_removed_from_a_new_one_of_its_name() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, "orders", &[0], b"old").unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    partition.trim(Offset::new(1)).unwrap();
    log.delete_topic("orders", Vec::new()).unwrap();
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, "orders", &[0], b"new").unwrap();
    log.sync_segments().unwrap();
    assert_eq!(values(&log, "orders", 0), [b"new"]);
}

#[test]
fn state_changes_go_on_for_ever_on_a_disk_that_is_full_from_the_start() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    assert!(matches!(
        append(&log, "orders", &[0], &[0; 10_000]),
        Err(Error::StorageFull)
    ));
    for n in 0..300_u32 {
        set_state(&log, "offset", &n.to_le_bytes()).unwrap();
    }
    assert!(
        disk.calls_by_kind()[&IoKind::Rename] > 2,
        "journal files were used again"
    );
    let disk = disk.after_power_cut();
    let log = open(&disk);
    assert_eq!(
        log.state_get(b"offset").as_deref(),
        Some(&299_u32.to_le_bytes()[..])
    );
    disk.set_capacity(None);
    append(&log, "orders", &[0], &[0; 10_000]).unwrap();
}

#[test]
fn a_journal_file_that_a_full_disk_has_no_room_for_leaves_nothing_behind() {
    let disk = SimDisk::new(0);
    let options = Options {
        journal_files: 4,
        ..options()
    };
    let clock = Arc::new(SimClock::new(TimestampMs(1_000_000)));
    let log = Log::open_with(Arc::new(disk.clone()), clock, Path::new(DIR), options).unwrap();
    let used = disk.used_bytes();
    disk.set_capacity(Some(used + (100 << 10)));
    for n in 0..300_u32 {
        set_state(&log, "offset", &n.to_le_bytes()).unwrap();
    }
    assert_eq!(disk.used_bytes(), used);
}

#[test]
fn appends_end_with_an_answer_when_a_failed_sync_keeps_every_journal_file() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(2, 1 << 20)).unwrap();
    append(&log, "orders", &[0], b"1").unwrap();
    disk.fail(Fault::once(IoKind::Sync, 0).on("topics"));
    log.sync_segments().unwrap();
    let stored = (0..200)
        .take_while(|_| append(&log, "orders", &[1], &[7; 10_000]).is_ok())
        .count();
    assert!(
        (10..100).contains(&stored),
        "{stored} requests went into two journal files"
    );
    assert!(log.health().log_failed.is_some());
    let log = open(&disk.after_power_cut());
    assert_eq!(
        (values(&log, "orders", 0).len(), values(&log, "orders", 1).len()),
        (1, stored)
    );
}

#[test]
fn a_checkpoint_for_a_failed_partition_names_no_journal_file_that_is_recycled_after_it() {
    // Somewhere here the failing partition's first round is the first of the second journal file.
    for filled in 15..30 {
        let disk = SimDisk::new(0);
        let log = open(&disk);
        log.create_topic("orders", spec(2, 1 << 20)).unwrap();
        append(&log, "orders", &[0], b"1").unwrap();
        for _ in 0..filled {
            append(&log, "orders", &[1], &[7; 10_000]).unwrap();
        }
        log.sync_segments().unwrap();
        append(&log, "orders", &[0], &[8; 10_000]).unwrap();
        disk.fail(Fault::once(IoKind::Sync, 0).on("topics/orders/0"));
        log.sync_segments().unwrap();
        assert_eq!(log.health().failed_partitions.len(), 1);
        let log = open(&disk.after_power_cut());
        assert_eq!(log.health().damage, Vec::<String>::new(), "{filled} appends");
        assert_eq!(values(&log, "orders", 0).len(), 2);
    }
}

#[test]
fn a_first_snapshot_of_the_state_that_is_torn_is_not_damage() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        set_state(&log, "key", &[7; 9_000]).unwrap();
        disk.stop_at(3 + seed % 3);
        log.sync_segments().unwrap_err();
        let log = open(&disk.after_power_cut());
        assert_eq!(log.health().damage, Vec::<String>::new(), "seed {seed}");
        assert_eq!(log.state_get(b"key").as_deref(), Some(&[7; 9_000][..]));
    }
}

#[test]
fn a_trimmed_segment_that_a_start_removed_is_not_missed_by_the_next_one() {
    for stop in 1..120 {
        let disk = SimDisk::new(stop);
        let log = open(&disk);
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        append(&log, "orders", &[0], b"1").unwrap();
        log.sync_segments().unwrap();
        log.topic("orders")
            .unwrap()
            .partition(0)
            .unwrap()
            .trim(Offset::new(1))
            .unwrap();
        let disk = disk.after_power_cut();
        disk.stop_at(stop);
        let clock = SimClock::new(TimestampMs(1_000_000));
        if try_open(&disk, &clock).is_ok() {
            return;
        }
        let log = open(&disk.after_kill());
        assert_eq!(log.health().damage, Vec::<String>::new(), "stop {stop}");
    }
    panic!("the start makes more calls than expected");
}

#[test]
fn an_index_made_while_reads_failed_is_not_kept() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, "orders", &[0], b"1").unwrap();
    let disk = disk.after_kill();
    let log = open(&disk);
    disk.fail(Fault::once(IoKind::Read, 0).on(".log").onwards());
    let partition = |log: &Log| log.topic("orders").unwrap().partition(0).unwrap();
    let _unreadable = partition(&log).offset_for_time(TimestampMs(0));
    let log = open(&disk.after_kill());
    let found = partition(&log).offset_for_time(TimestampMs(0)).unwrap();
    assert_eq!(found, Some((Offset::ZERO, TimestampMs(1_000_000))));
}

#[test]
fn a_record_that_cannot_be_read_for_a_moment_is_not_passed_over() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, "orders", &[0], &[1; 9_000]).unwrap();
    append(&log, "orders", &[0], &[0xab; 9_000]).unwrap();
    let disk = disk.after_kill();
    let log = open(&disk);
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    disk.fail(Fault::once(IoKind::Read, 0).on(".log").onwards());
    for time in [0, 1_000_000] {
        assert!(matches!(
            partition.offset_for_time(TimestampMs(time)),
            Err(Error::Damaged { .. } | Error::Io { .. })
        ));
    }
    assert!(matches!(partition.locate(Offset::ZERO), Err(Error::Io { .. })));
    disk.clear_faults();
    let first = Some((Offset::ZERO, TimestampMs(1_000_000)));
    assert_eq!(partition.offset_for_time(TimestampMs(0)).unwrap(), first);
    assert_eq!(partition.locate(Offset::ZERO).unwrap().next, first);
}

/// A log that holds two records and two commits, stopped, the last round only in the journal.
fn stopped(disk: &SimDisk) -> SimDisk {
    let log = open(disk);
    log.create_topic("orders", spec(1, 1 << 20)).unwrap();
    append(&log, "orders", &[0], b"1").unwrap();
    set_state(&log, "offset", b"1").unwrap();
    log.sync_segments().unwrap();
    set_state(&log, "offset", b"2").unwrap();
    append(&log, "orders", &[0], b"2").unwrap();
    disk.after_power_cut()
}

#[test]
fn a_bit_flipped_in_the_last_round_of_the_journal_does_not_make_it_a_torn_one() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let disk = stopped(&disk);
        let path = Path::new(DIR).join("journal");
        for bit in (0..200 * 8).step_by(7) {
            let disk = disk.after_kill();
            // The last round is the last block that is not zeros.
            let journal = disk.list(&path).unwrap().into_iter().rev().find_map(|entry| {
                let path = path.join(entry.name);
                let bytes = disk.contents(&path)?;
                let last = bytes
                    .chunks(4096)
                    .rposition(|block| block.starts_with(b"QUIPUJNL") || block[4..8] == *b"RND1")?;
                (last > 0).then_some((path, last as u64 * 4096))
            });
            let (path, position) = journal.expect("a round was written");
            disk.damage(&path, position + bit / 8, 1 << (bit % 8));
            let log = open(&disk);
            let what = log.health().damage;
            assert!(
                values(&log, "orders", 0).len() == 2 || !what.is_empty(),
                "seed {seed}, bit {bit}"
            );
            assert_eq!(
                log.state_get(b"offset").as_deref(),
                Some(&b"2"[..]),
                "seed {seed}, bit {bit}"
            );
        }
    }
}

#[test]
fn a_newest_snapshot_of_the_state_that_is_damaged_is_reported() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    for value in [b"1", b"2", b"3"] {
        set_state(&log, "offset", value).unwrap();
        log.sync_segments().unwrap();
    }
    let disk = disk.after_power_cut();
    for slot in ["state.0", "state.1"] {
        let disk = disk.after_kill();
        disk.damage(&Path::new(DIR).join(slot), 40, 1);
        let log = open(&disk);
        let is_newest = log.state_get(b"offset").as_deref() == Some(b"3");
        assert_eq!(
            log.health().damage.is_empty(),
            is_newest,
            "{slot}: {:?}",
            log.health().damage
        );
    }
}

#[test]
fn a_snapshot_of_the_state_that_a_killed_process_did_not_sync_is_not_relied_on() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.fail(Fault::once(IoKind::Sync, 2).on("/state."));
        // Its first snapshot is written, and the sync of that fails.
        assert!(try_open(&disk, &SimClock::new(TimestampMs(1_000_000))).is_err());
        let disk = disk.after_kill();
        drop(open(&disk));
        let log = open(&disk.after_power_cut());
        assert_eq!(log.health().damage, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn retention_deletes_nothing_that_could_not_be_read_for_a_moment() {
    let disk = SimDisk::new(0);
    let clock = SimClock::new(TimestampMs(1_000_000));
    let log = try_open(&disk, &clock).unwrap();
    let mut spec = spec(1, 1 << 20);
    spec.settings.retention_ms = Some(1_000);
    log.create_topic("orders", spec).unwrap();
    append(&log, "orders", &[0], &[1; 9_000]).unwrap();
    clock.advance(Duration::from_millis(900));
    let topic = log.topic("orders").unwrap();
    let mut young = request(&log, "orders", &[0], b"");
    let mut records = BatchBuilder::new();
    records.push(TimestampMs(1_000_900), None, Some(&[0xab; 9_000]), &[]);
    young.parts[0].records = Records::Loose(records);
    let ticket = log.append(young).unwrap();
    while log.run_round().unwrap() {}
    ticket.wait().unwrap();
    drop(topic);
    let disk = disk.after_kill();
    let log = try_open(&disk, &clock).unwrap();
    // The index is made of what can be read, without the young record.
    clock.advance(Duration::from_millis(200));
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    disk.fail(Fault::once(IoKind::Read, 1).on(".log").onwards());
    let _unreadable = partition.offset_for_time(TimestampMs(0));
    log.apply_retention().unwrap();
    assert_eq!(partition.positions().log_start_offset, Offset::ZERO);
}

#[test]
fn a_round_that_recovery_has_only_seen_in_the_cache_is_whole_or_gone_after_a_power_cut() {
    for stop in 1..90 {
        let disk = SimDisk::new(stop);
        let log = open(&disk);
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        // Killed before the journal's sync: the round is in the cache only.
        disk.fail(Fault::once(IoKind::Sync, 0).on("journal"));
        let change = StateChange {
            key: b"key".to_vec(),
            value: Some(b"value".to_vec()),
        };
        let request = AppendRequest {
            state: vec![change],
            ..request(&log, "orders", &[0], b"1")
        };
        let _ticket = log.append(request).unwrap();
        log.run_round().unwrap_err();
        let disk = disk.after_kill();
        disk.stop_at(stop);
        let _opened = try_open(&disk, &SimClock::new(TimestampMs(1_000_000)));
        let log = open(&disk.after_power_cut());
        assert_eq!(
            log.state_get(b"key").is_some(),
            values(&log, "orders", 0).len() == 1,
            "stop {stop}"
        );
    }
}

#[test]
fn a_segment_of_a_refused_round_that_cannot_be_removed_hides_nothing() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(2, 4 << 10)).unwrap();
    append(&log, "orders", &[0], &[1; 2_000]).unwrap();
    // The round makes a second segment of the first partition, and fails in the other one.
    disk.fail(Fault::once(IoKind::Create, 1));
    disk.fail(Fault::once(IoKind::Remove, 0));
    append(&log, "orders", &[0, 1], &[2; 3_000]).unwrap_err();
    let _refused = append(&log, "orders", &[0], &[3; 1_000]);
    let _refused = append(&log, "orders", &[0], &[4; 3_000]);
    log.sync_segments().unwrap();
    let before = values(&log, "orders", 0);
    let log = open(&disk.after_kill());
    assert_eq!(values(&log, "orders", 0), before);
}

#[test]
fn a_directory_sync_that_failed_for_a_change_of_the_topic_counts_for_no_partition() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        append(&log, "orders", &[0], b"1").unwrap();
        disk.fail(Fault::once(IoKind::SyncDir, 0));
        assert!(log.alter_topic("orders", spec(1, 2 << 20)).is_err());
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, "orders", 0), [b"1"], "seed {seed}");
    }
}

/// Appends a record of one byte that is younger than the others.
fn append_young(log: &Log, partitions: &[u32]) {
    let mut young = request(log, "orders", partitions, b"");
    for part in &mut young.parts {
        let mut records = BatchBuilder::new();
        records.push(TimestampMs(2_000_000), None, Some(b"1"), &[]);
        part.records = Records::Loose(records);
    }
    let ticket = log.append(young).unwrap();
    while log.run_round().unwrap() {}
    ticket.wait().unwrap();
}

/// The lengths of the values in the first partition, which nothing lies between.
fn assert_lengths(log: &Log, expected: &[usize]) {
    let lengths: Vec<usize> = values(log, "orders", 0).iter().map(Vec::len).collect();
    assert_eq!(lengths, expected);
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    // Only the first record is that young: behind it the segment is searched to its end.
    let found = partition.offset_for_time_from(TimestampMs(2_000_000), Offset::new(1));
    assert!(matches!(found, Ok(None)), "{found:?}");
}

#[test]
fn what_a_refused_round_left_in_a_segment_is_cut_also_after_a_shorter_round_was_written_over_it() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(2, 16 << 10)).unwrap();
    append_young(&log, &[0, 1]);
    // The round is written in the first partition, and fails in the other one.
    disk.fail(
        Fault::once(IoKind::Write, 0)
            .on("orders/1")
            .with(FaultError::Full),
    );
    append(&log, "orders", &[0, 1], &[0xab; 9_000]).unwrap_err();
    append(&log, "orders", &[0], &[3; 100]).unwrap();
    append(&log, "orders", &[0], &[4; 16_300]).unwrap();
    append(&log, "orders", &[0], &[5; 100]).unwrap();
    assert_lengths(&log, &[1, 100, 16_300, 100]);
    log.sync_segments().unwrap();
    let log = open(&disk.after_power_cut());
    assert_lengths(&log, &[1, 100, 16_300, 100]);
}

#[test]
fn a_segment_that_is_cut_when_it_is_closed_is_cut_again_if_its_round_fails_then() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    log.create_topic("orders", spec(1, 16 << 10)).unwrap();
    append_young(&log, &[0]);
    // Two requests in a round: the first goes into the segment, and the one that is made for the other fails.
    let mut first = request(&log, "orders", &[0], b"");
    let mut batches = request(&log, "orders", &[0], b"");
    for (request, bytes) in [(&mut first, 9_000), (&mut batches, 14_000)] {
        let mut records = BatchBuilder::new();
        records.push(TimestampMs(1_000_000), None, Some(&vec![0xab; bytes]), &[]);
        request.parts[0].records = Records::Sealed(vec![records.seal()]);
    }
    disk.fail(Fault::once(IoKind::Create, 0).with(FaultError::Full));
    let tickets = [log.append(first).unwrap(), log.append(batches).unwrap()];
    while log.run_round().unwrap() {}
    for ticket in tickets {
        ticket.wait().unwrap_err();
    }
    append(&log, "orders", &[0], &[3; 100]).unwrap();
    append(&log, "orders", &[0], &[4; 16_300]).unwrap();
    append(&log, "orders", &[0], &[5; 100]).unwrap();
    assert_lengths(&log, &[1, 100, 16_300, 100]);
    log.sync_segments().unwrap();
    let log = open(&disk.after_power_cut());
    assert_lengths(&log, &[1, 100, 16_300, 100]);
}

#[test]
fn a_segment_that_was_cut_when_it_was_closed_stays_so_after_a_power_cut() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(2, 16 << 10)).unwrap();
        append_young(&log, &[0, 1]);
        log.sync_segments().unwrap();
        disk.fail(
            Fault::once(IoKind::Write, 0)
                .on("orders/1")
                .with(FaultError::Full),
        );
        append(&log, "orders", &[0, 1], &[0xab; 9_000]).unwrap_err();
        // What the failed round has left gets durable with the next one; then the segment is cut and closed.
        append(&log, "orders", &[0], &[3; 100]).unwrap();
        log.sync_segments().unwrap();
        append(&log, "orders", &[0], &[4; 16_300]).unwrap();
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_lengths(&log, &[1, 100, 16_300]);
    }
}

#[test]
fn a_journal_file_whose_name_may_not_be_durable_is_not_written() {
    for seed in 0..SEEDS {
        for more in 4..9 {
            let disk = SimDisk::new(seed);
            let log = open(&disk);
            let set = |n: u8| set_state(&log, &n.to_string(), &[n; 50_000]);
            // Four go into a file: the first one has no use any more, and is renamed.
            for n in 0..5 {
                set(n).unwrap();
            }
            disk.fail(Fault::once(IoKind::SyncDir, 0).on("journal"));
            log.sync_segments().unwrap_err();
            let stored = (5..5 + more).take_while(|n| set(*n).is_ok()).count() as u8;
            let log = open(&disk.after_power_cut());
            for n in 0..5 + stored {
                let found = log.state_get(n.to_string().as_bytes());
                assert_eq!(found.as_deref(), Some(&[n; 50_000][..]), "seed {seed}, round {n}");
            }
        }
    }
}

#[test]
fn a_journal_file_that_is_missing_or_cut_is_missed_from_its_first_round_on() {
    // Four rounds go into a file: the one that is damaged is full, has some rounds, or is the one behind a full one.
    for rounds in 1..14_u8 {
        let disk = SimDisk::new(0);
        let options = Options {
            journal_files: 4,
            ..options()
        };
        let clock = Arc::new(SimClock::new(TimestampMs(1_000_000)));
        let log = Log::open_with(Arc::new(disk.clone()), clock, Path::new(DIR), options).unwrap();
        for n in 0..rounds {
            set_state(&log, "key", &[n; 50_000]).unwrap();
        }
        let disk = disk.after_power_cut();
        let dir = Path::new(DIR).join("journal");
        // The newest file with rounds, and without the spare ones behind it, which would prove that it is there.
        let has_rounds = |path: &Path| {
            disk.contents(path)
                .is_some_and(|bytes| bytes.get(4100..4104) == Some(&b"RND1"[..]))
        };
        let files: Vec<_> = disk
            .list(&dir)
            .unwrap()
            .iter()
            .map(|entry| dir.join(&entry.name))
            .collect();
        let current = files.iter().rposition(|path| has_rounds(path)).unwrap();
        for length in [None, Some(0), Some(40), Some(4096)] {
            let disk = disk.after_kill();
            for spare in &files[current + 1..] {
                disk.remove_file(spare).unwrap();
            }
            match length {
                None => disk.remove_file(&files[current]).unwrap(),
                Some(length) => disk
                    .open(&files[current], OpenMode::ReadWrite)
                    .unwrap()
                    .set_len(length)
                    .unwrap(),
            }
            let log = open(&disk);
            assert!(!log.health().damage.is_empty(), "{rounds} rounds, {length:?}");
        }
    }
}

#[test]
fn what_a_failed_sync_has_lost_is_never_read_as_if_it_were_there() {
    let mut damaged = 0;
    for seed in 0..64 {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        append(&log, "orders", &[0], b"1").unwrap();
        log.sync_segments().unwrap();
        // Read, so that what is appended from here on is known without a look at the disk.
        assert_eq!(values(&log, "orders", 0).len(), 1);
        append(&log, "orders", &[0], &[2; 40_000]).unwrap();
        disk.fail(Fault::once(IoKind::Sync, 0).on("topics"));
        log.sync_segments().unwrap();
        let partition = log.topic("orders").unwrap().partition(0).unwrap();
        // Read again while it is there, which must not count for later.
        let _seen = check::read_from(&partition, Offset::ZERO, 1 << 20).unwrap();
        disk.evict_dropped();
        // What is read is verified there once more.
        match check::read_from(&partition, Offset::ZERO, 1 << 20) {
            Ok(records) => assert_eq!(records.len(), 2, "seed {seed}"),
            Err(error) => {
                assert!(matches!(error, Error::Damaged { .. }), "seed {seed}: {error}");
                damaged += 1;
            }
        }
        let log = open(&disk.after_kill());
        assert_eq!(log.health().damage, Vec::<String>::new(), "seed {seed}");
        assert_eq!(values(&log, "orders", 0)[1], [2; 40_000], "seed {seed}");
    }
    assert!(damaged > 8, "{damaged} of 64 have lost something");
}

#[test]
fn a_cut_that_a_killed_opening_did_not_sync_is_not_relied_on() {
    for calls in 40..90 {
        for seed in 0..SEEDS {
            let disk = SimDisk::new(seed);
            let log = open(&disk);
            log.create_topic("orders", spec(1, 16_384)).unwrap();
            append(&log, "orders", &[0], b"1").unwrap();
            log.sync_segments().unwrap();
            disk.fail(Fault::once(IoKind::Write, 0).on("topics"));
            append(&log, "orders", &[0], &[9; 3_000]).unwrap_err();
            let disk = disk.after_power_cut();
            // The next process cuts what was refused, and is killed before or after it has synced that.
            disk.stop_at(calls);
            let _stopped = try_open(&disk, &SimClock::new(TimestampMs(1_000_000)));
            let disk = disk.after_kill();
            let log = open(&disk);
            // Closes the segment that was cut.
            append(&log, "orders", &[0], &[2; 16_400]).unwrap();
            append(&log, "orders", &[0], &[3; 16_400]).unwrap();
            log.sync_segments().unwrap();
            let log = open(&disk.after_power_cut());
            assert_eq!(
                values(&log, "orders", 0).len(),
                3,
                "seed {seed}, stopped at {calls}"
            );
            let partition = log.topic("orders").unwrap().partition(0).unwrap();
            let later = partition.offset_for_time(TimestampMs(2_000_000));
            assert_eq!(later.unwrap(), None, "seed {seed}, stopped at {calls}");
            assert_eq!(log.damaged_ranges(), [], "seed {seed}, stopped at {calls}");
        }
    }
}

#[test]
fn a_topic_that_could_not_be_made_is_whole_or_gone_after_a_power_cut() {
    for seed in 0..64 {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        disk.fail(Fault::once(IoKind::SyncDir, 0).on("/topics"));
        log.create_topic("orders", spec(1, 1 << 20)).err().unwrap();
        // Also when the process alone ends first, and the next one is stopped while it removes what was begun.
        for calls in [None, Some(20), Some(30), Some(40), Some(50)] {
            let disk = match calls {
                None => disk.after_power_cut(),
                Some(calls) => {
                    let disk = disk.after_kill();
                    disk.stop_at(calls);
                    let _stopped = try_open(&disk, &SimClock::new(TimestampMs(1_000_000)));
                    disk.after_power_cut()
                }
            };
            let log = open(&disk);
            assert_eq!(
                log.health().damage,
                Vec::<String>::new(),
                "seed {seed}, {calls:?}"
            );
        }
    }
}
