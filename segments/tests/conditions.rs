//! What the second request of a round is answered if both expect an offset, and if the round fails.

mod support;

use quipu_segments::{Error, Log, Offset, Ticket};
use support::{NOW, failing_rounds, of_parts, part, partition, plain_spec, records, start};

/// Queues a record that expects this offset.
fn expect(log: &Log, offset: u64) -> Ticket {
    let mut part = part(partition(log, 0), records(NOW, &[b"value"]));
    part.expected_offset = Some(Offset::new(offset));
    log.append(of_parts(vec![part])).unwrap()
}

#[test]
fn a_failed_round_never_answers_with_the_end_offset_that_it_would_have_had() {
    for fault in failing_rounds() {
        let (disk, log) = start(1, plain_spec(1));
        disk.fail(fault.clone());
        let (first, second) = (expect(&log, 0), expect(&log, 0));
        while log.run_round().unwrap_or(false) {}
        assert!(first.wait().is_err(), "{fault:?}");
        let answer = second.wait().unwrap_err();
        let is_mismatch = matches!(answer, Error::OffsetMismatch { .. });
        assert!(!is_mismatch, "{fault:?}: {answer}");
        if let Error::LogFailed { in_flight, .. } = answer {
            assert!(!in_flight, "{fault:?}: nothing of it was stored");
        }
    }
}

#[test]
fn the_second_of_two_requests_that_expect_the_same_offset_gets_the_durable_end_offset() {
    let (_disk, log) = start(1, plain_spec(1));
    let (first, second) = (expect(&log, 0), expect(&log, 0));
    while log.run_round().unwrap() {}
    first.wait().unwrap();
    let Err(Error::OffsetMismatch { end_offset, .. }) = second.wait() else {
        panic!("both have offset 0");
    };
    assert_eq!(end_offset, Offset::new(1));
}
