//! Reads that fail for a moment: a later read must not depend on the failure.

use std::sync::Arc;
use std::time::Duration;

use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{Error, Offset, TimestampMs};

use super::{
    NOW, append, check, open, options, partition, request, spec, start, store, try_open_with, values,
};

#[test]
fn an_index_made_while_reads_failed_is_not_kept() {
    let (disk, log) = start(0, spec(1, 1 << 20));
    append(&log, &[0], b"1").unwrap();
    let disk = disk.after_kill();
    let log = open(&disk);
    disk.fail(Fault::once(IoKind::Read, 0).on(".log").onwards());
    let _unreadable = partition(&log, 0).offset_for_time(TimestampMs(0));
    let log = open(&disk.after_kill());
    let found = partition(&log, 0).offset_for_time(TimestampMs(0)).unwrap();
    assert_eq!(found, Some((Offset::ZERO, NOW)));
}

#[test]
fn a_record_that_cannot_be_read_for_a_moment_is_not_passed_over() {
    let (disk, log) = start(0, spec(1, 1 << 20));
    append(&log, &[0], &[1; 9_000]).unwrap();
    append(&log, &[0], &[0xab; 9_000]).unwrap();
    let disk = disk.after_kill();
    let log = open(&disk);
    let partition = partition(&log, 0);
    disk.fail(Fault::once(IoKind::Read, 0).on(".log").onwards());
    for time in [0, 1_000_000] {
        let error = partition.offset_for_time(TimestampMs(time)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. } | Error::Io { .. }));
    }
    assert!(matches!(partition.locate(Offset::ZERO), Err(Error::Io { .. })));
    disk.clear_faults();
    let first = Some((Offset::ZERO, NOW));
    assert_eq!(partition.offset_for_time(TimestampMs(0)).unwrap(), first);
    assert_eq!(partition.locate(Offset::ZERO).unwrap().next, first);
}

#[test]
fn retention_deletes_nothing_that_could_not_be_read_for_a_moment() {
    let disk = SimDisk::new(0);
    let clock = SimClock::new(NOW);
    let log = try_open_with(Arc::new(disk.clone()), &clock, options()).unwrap();
    let mut spec = spec(1, 1 << 20);
    spec.settings.retention_ms = Some(1_000);
    log.create_topic("orders", spec).unwrap();
    append(&log, &[0], &[1; 9_000]).unwrap();
    clock.advance(Duration::from_millis(900));
    let young = request(&log, &[0], TimestampMs(1_000_900), &[0xab; 9_000]);
    store(&log, young).unwrap();
    let disk = disk.after_kill();
    let log = try_open_with(Arc::new(disk.clone()), &clock, options()).unwrap();
    // The index is made from the bytes that can be read, without the young record.
    clock.advance(Duration::from_millis(200));
    let partition = partition(&log, 0);
    disk.fail(Fault::once(IoKind::Read, 1).on(".log").onwards());
    let _unreadable = partition.offset_for_time(TimestampMs(0));
    log.apply_retention().unwrap();
    assert_eq!(partition.positions().log_start_offset, Offset::ZERO);
}

#[test]
fn a_read_whose_file_cannot_be_opened_never_says_that_the_disk_is_full() {
    for error in [FaultError::Io, FaultError::Full] {
        let (disk, log) = start(0, spec(1, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        let disk = disk.after_kill();
        let log = open(&disk);
        disk.fail(Fault::once(IoKind::Open, 0).with(error).on(".log"));
        let refused = check::read_from(&partition(&log, 0), Offset::ZERO, 1 << 20);
        assert!(matches!(refused, Err(Error::Io { .. })), "{error:?}: {refused:?}");
        assert_eq!(values(&log, 0), [b"1"]);
    }
}
