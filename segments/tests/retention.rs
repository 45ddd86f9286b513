//! Retention by time: a segment's age counts from the earlier of its largest timestamp and its last append.

#![allow(clippy::disallowed_methods, reason = "the test sets the times of files")]

mod support;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{Log, RealDisk, TimestampMs, TopicSettings, TopicSpec};
use support::{TOPIC, of_parts, options, part, partition, records, store, try_open_with};

const RETENTION_MS: u64 = 10_000;
/// The time at which the log is first opened.
const BEGIN: i64 = 1_700_000_000_000;
/// A time in microseconds, taken for milliseconds by mistake.
const FUTURE: i64 = 1_795_883_238_369_000;

fn make_topic(log: &Log) {
    let spec = TopicSpec {
        settings: TopicSettings {
            retention_ms: Some(RETENTION_MS),
            ..TopicSettings::default()
        },
        ..support::plain_spec(1)
    };
    log.create_topic(TOPIC, spec).unwrap();
}

fn append_at(log: &Log, timestamp: i64) {
    let records = records(TimestampMs(timestamp), &[b"value"]);
    store(log, of_parts(vec![part(partition(log, 0), records)])).unwrap();
}

/// How many records are left after retention.
fn left(log: &Log) -> u64 {
    log.apply_retention().unwrap();
    let positions = partition(log, 0).positions();
    positions.end_offset.since(positions.log_start_offset)
}

#[test]
fn a_segment_goes_by_its_newest_timestamp_or_its_last_append_whichever_is_earlier() {
    // The timestamp, the time of the append, and the time of retention: each as time after the beginning.
    for (timestamp, appended, looks, is_kept) in [
        (FUTURE, 0, RETENTION_MS, true),
        (FUTURE, 0, RETENTION_MS + 1, false),
        (FUTURE, 5_000, RETENTION_MS + 5_000, true),
        (BEGIN - 5_000, 0, RETENTION_MS - 5_000, true),
        (BEGIN - 5_000, 0, RETENTION_MS - 4_999, false),
        (BEGIN - 1_000_000, 0, 0, false),
    ] {
        let case = format!("{timestamp} {appended} {looks}");
        let clock = SimClock::new(TimestampMs(BEGIN));
        let log = try_open_with(Arc::new(SimDisk::new(1)), &clock, options()).unwrap();
        make_topic(&log);
        // The last append counts, not the first.
        append_at(&log, timestamp);
        clock.advance(Duration::from_millis(appended));
        append_at(&log, timestamp);
        let located = partition(&log, 0).locate(quipu_segments::Offset::ZERO).unwrap();
        let expected = timestamp.min(BEGIN + appended as i64);
        assert_eq!(located.retention_time, Some(TimestampMs(expected)), "{case}");
        clock.advance(Duration::from_millis(looks - appended.min(looks)));
        assert_eq!(left(&log) == 2, is_kept, "{case}");
    }
}

#[test]
fn after_a_restart_the_time_of_the_last_append_is_when_its_file_was_written() {
    // The file's modification time after the beginning, and the time of retention after the restart.
    for (written, looks, is_kept) in [
        (0, RETENTION_MS, true),
        (0, RETENTION_MS + 1, false),
        (5_000, RETENTION_MS + 5_000, true),
    ] {
        let case = format!("{written} {looks}");
        let dir = tempfile::tempdir().unwrap();
        let clock = SimClock::new(TimestampMs(BEGIN));
        let open = || {
            let disk = Arc::new(RealDisk::new());
            Log::open_with(disk, Arc::new(clock.clone()), dir.path(), options()).unwrap()
        };
        let log = open();
        make_topic(&log);
        append_at(&log, FUTURE);
        log.close().unwrap();
        drop(log);
        let path = dir.path().join("topics/orders/0/00000000000000000000.log");
        let modified = UNIX_EPOCH + Duration::from_millis((BEGIN + written) as u64);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
        // The machine starts with a wrong clock, which is corrected later.
        clock.set_wall(TimestampMs(0));
        let log = open();
        clock.set_wall(TimestampMs(BEGIN));
        assert_eq!(left(&log), 1, "{case}: never too soon");
        clock.advance(Duration::from_millis(looks));
        assert_eq!(left(&log) == 1, is_kept, "{case}");
        clock.advance(Duration::from_millis(RETENTION_MS));
        assert_eq!(left(&log), 0, "{case}: not for ever");
    }
}

#[test]
fn a_clock_that_is_set_back_and_put_right_again_deletes_nothing_too_soon() {
    let clock = SimClock::new(TimestampMs(BEGIN));
    let log = try_open_with(Arc::new(SimDisk::new(1)), &clock, options()).unwrap();
    make_topic(&log);
    append_at(&log, FUTURE);
    clock.set_wall(TimestampMs(0));
    append_at(&log, FUTURE);
    clock.set_wall(TimestampMs(BEGIN + RETENTION_MS as i64));
    assert_eq!(left(&log), 2);
    clock.advance(Duration::from_millis(1));
    assert_eq!(left(&log), 0);
}
