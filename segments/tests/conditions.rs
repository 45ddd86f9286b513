//! What a request is told that comes second in a round, when the round fails.

use std::path::Path;
use std::sync::Arc;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{
    AppendRequest, Error, Log, Offset, Options, Part, Records, Ticket, TimestampMs, TopicSettings, TopicSpec,
};

fn open(disk: &SimDisk) -> Log {
    let options = Options {
        journal_file_bytes: 256 << 10,
        journal_files: 2,
        max_request_bytes: 128 << 10,
        background: false,
        ..Options::default()
    };
    let clock = SimClock::new(TimestampMs(1_000_000));
    let log = Log::open_with(
        Arc::new(disk.clone()),
        Arc::new(clock),
        Path::new("/data"),
        options,
    )
    .unwrap();
    let spec = TopicSpec {
        partitions: 1,
        settings: TopicSettings::default(),
        properties: Default::default(),
    };
    log.create_topic("orders", spec).unwrap();
    log
}

/// Queues a record that is to have that offset.
fn expect(log: &Log, offset: u64) -> Ticket {
    let mut builder = BatchBuilder::new();
    builder.push(TimestampMs(1), None, Some(b"value"), &[]);
    let part = Part {
        partition: log.topic("orders").unwrap().partition(0).unwrap(),
        records: Records::Loose(builder),
        expected_offset: Some(Offset::new(offset)),
        json_lines: false,
    };
    log.append(AppendRequest {
        parts: vec![part],
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn nobody_is_told_of_an_end_that_a_failed_round_would_have_had() {
    let faults = [
        Fault::once(IoKind::Write, 0).on(".log").with(FaultError::Full),
        Fault::once(IoKind::Write, 0).on(".log"),
        Fault::once(IoKind::Write, 0).on(".journal"),
        Fault::once(IoKind::Sync, 0).on(".journal"),
    ];
    for fault in faults {
        let disk = SimDisk::new(1);
        let log = open(&disk);
        disk.fail(fault.clone());
        let (first, second) = (expect(&log, 0), expect(&log, 0));
        while log.run_round().unwrap_or(false) {}
        assert!(first.wait().is_err(), "{fault:?}");
        let answer = second.wait().unwrap_err();
        assert!(
            !matches!(answer, Error::OffsetMismatch { .. }),
            "{fault:?}: {answer}"
        );
        if let Error::LogFailed { in_flight, .. } = answer {
            assert!(!in_flight, "{fault:?}: nothing of it was stored");
        }
    }
}

#[test]
fn the_second_of_two_that_expect_the_same_offset_is_told_the_end_once_it_is_durable() {
    let disk = SimDisk::new(1);
    let log = open(&disk);
    let (first, second) = (expect(&log, 0), expect(&log, 0));
    while log.run_round().unwrap() {}
    first.wait().unwrap();
    let Err(Error::OffsetMismatch { end_offset, .. }) = second.wait() else {
        panic!("both have offset 0");
    };
    assert_eq!(end_offset, Offset::new(1));
}
