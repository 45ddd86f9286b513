//! Segments: syncs that fail, rounds that are refused after a part of them was written, and the cuts that follow.

use quipu_segments::batch::BatchBuilder;
use quipu_segments::sim::{Fault, FaultError, IoKind, SimDisk};
use quipu_segments::{Error, Log, Offset, Records, TimestampMs};

use super::{NOW, SEEDS, append, check, open, partition, request, spec, start, store, try_open, values};

#[test]
fn a_failed_segment_sync_loses_nothing_that_the_journal_has() {
    for seed in 0..SEEDS {
        let (disk, log) = start(seed, spec(2, 1 << 20));
        append(&log, &[0, 1], b"1").unwrap();
        disk.fail(Fault::once(IoKind::Sync, 0).on("topics"));
        log.sync_segments().unwrap();
        assert_eq!(log.health().failed_partitions.len(), 1);
        append(&log, &[1], b"2").unwrap();
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!((values(&log, 0), values(&log, 1).len()), (vec![b"1".to_vec()], 2));
    }
}

#[test]
fn what_a_failed_sync_has_lost_is_never_read_as_if_it_were_there() {
    let mut damaged = 0;
    for seed in 0..64 {
        let (disk, log) = start(seed, spec(1, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        log.sync_segments().unwrap();
        // This read maps the segment, so that later appends count as verified.
        assert_eq!(values(&log, 0).len(), 1);
        append(&log, &[0], &[2; 40_000]).unwrap();
        disk.fail(Fault::once(IoKind::Sync, 0).on("topics"));
        log.sync_segments().unwrap();
        let partition = partition(&log, 0);
        // Read again while the bytes are still in memory: later reads must not count them as verified.
        let _seen = check::read_from(&partition, Offset::ZERO, 1 << 20).unwrap();
        disk.evict_dropped();
        // This read must verify the bytes again.
        match check::read_from(&partition, Offset::ZERO, 1 << 20) {
            Ok(records) => assert_eq!(records.len(), 2, "seed {seed}"),
            Err(error) => {
                assert!(matches!(error, Error::Damaged { .. }), "seed {seed}: {error}");
                damaged += 1;
            }
        }
        let log = open(&disk.after_kill());
        assert_eq!(log.health().damage, Vec::<String>::new(), "seed {seed}");
        assert_eq!(values(&log, 0)[1], [2; 40_000], "seed {seed}");
    }
    assert!(damaged > 8, "{damaged} of 64 have lost something");
}

#[test]
fn a_segment_of_a_refused_round_that_cannot_be_removed_hides_nothing() {
    let (disk, log) = start(0, spec(2, 4 << 10));
    append(&log, &[0], &[1; 2_000]).unwrap();
    // The round makes a second segment in the first partition, and fails in the other partition.
    disk.fail(Fault::once(IoKind::Create, 1));
    disk.fail(Fault::once(IoKind::Remove, 0));
    append(&log, &[0, 1], &[2; 3_000]).unwrap_err();
    let _refused = append(&log, &[0], &[3; 1_000]);
    let _refused = append(&log, &[0], &[4; 3_000]);
    log.sync_segments().unwrap();
    let before = values(&log, 0);
    let log = open(&disk.after_kill());
    assert_eq!(values(&log, 0), before);
}

/// Appends a record of one byte that is younger than the others.
fn append_young(log: &Log, partitions: &[u32]) {
    let young = request(log, partitions, TimestampMs(2_000_000), b"1");
    store(log, young).unwrap();
}

/// Runs a round that is written in the first partition, and fails in the second one.
fn fail_in_second(disk: &SimDisk, log: &Log) {
    let write = Fault::once(IoKind::Write, 0).on("orders/1");
    disk.fail(write.with(FaultError::Full));
    append(log, &[0, 1], &[0xab; 9_000]).unwrap_err();
}

/// Checks the lengths of the values in the first partition, and that nothing lies between the batches.
fn assert_lengths(log: &Log, expected: &[usize]) {
    let lengths: Vec<usize> = values(log, 0).iter().map(Vec::len).collect();
    assert_eq!(lengths, expected);
    let partition = partition(log, 0);
    // Only the first record is that young: the search behind it reads the segment to its end.
    let found = partition.offset_for_time_from(TimestampMs(2_000_000), Offset::new(1));
    assert!(matches!(found, Ok(None)), "{found:?}");
}

/// Appends three more records, of which the second fills the segment, and checks all of them after a power cut too.
fn assert_appends_survive(disk: &SimDisk, log: &Log) {
    for (value, bytes) in [(3, 100), (4, 16_300), (5, 100)] {
        append(log, &[0], &vec![value; bytes]).unwrap();
    }
    assert_lengths(log, &[1, 100, 16_300, 100]);
    log.sync_segments().unwrap();
    let log = open(&disk.after_power_cut());
    assert_lengths(&log, &[1, 100, 16_300, 100]);
}

#[test]
fn what_a_refused_round_left_in_a_segment_is_cut_also_after_a_shorter_round_was_written_over_it() {
    let (disk, log) = start(0, spec(2, 16 << 10));
    append_young(&log, &[0, 1]);
    fail_in_second(&disk, &log);
    assert_appends_survive(&disk, &log);
}

#[test]
fn a_segment_that_is_cut_when_it_is_closed_is_cut_again_if_its_round_fails_then() {
    let (disk, log) = start(0, spec(1, 16 << 10));
    append_young(&log, &[0]);
    // Two requests in a round: the first goes into the segment; the other needs a new segment, which cannot be made.
    let requests = [9_000, 14_000].map(|bytes| {
        let mut records = BatchBuilder::new();
        records.push(NOW, None, Some(&vec![0xab; bytes]), &[]);
        let mut request = request(&log, &[0], NOW, b"");
        request.parts[0].records = Records::Sealed(vec![records.seal()]);
        request
    });
    disk.fail(Fault::once(IoKind::Create, 0).with(FaultError::Full));
    let tickets = requests.map(|request| log.append(request).unwrap());
    while log.run_round().unwrap() {}
    for ticket in tickets {
        ticket.wait().unwrap_err();
    }
    assert_appends_survive(&disk, &log);
}

#[test]
fn a_segment_that_was_cut_when_it_was_closed_stays_so_after_a_power_cut() {
    for seed in 0..SEEDS {
        let (disk, log) = start(seed, spec(2, 16 << 10));
        append_young(&log, &[0, 1]);
        log.sync_segments().unwrap();
        fail_in_second(&disk, &log);
        // The next round's sync makes the failed round's bytes durable; then the segment is cut and closed.
        append(&log, &[0], &[3; 100]).unwrap();
        log.sync_segments().unwrap();
        append(&log, &[0], &[4; 16_300]).unwrap();
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_lengths(&log, &[1, 100, 16_300]);
    }
}

#[test]
fn a_cut_that_a_killed_opening_did_not_sync_is_not_relied_on() {
    for calls in 40..90 {
        for seed in 0..SEEDS {
            let (disk, log) = start(seed, spec(1, 16_384));
            append(&log, &[0], b"1").unwrap();
            log.sync_segments().unwrap();
            disk.fail(Fault::once(IoKind::Write, 0).on("topics"));
            append(&log, &[0], &[9; 3_000]).unwrap_err();
            let disk = disk.after_power_cut();
            // The next process cuts the refused bytes, and is killed before or after it syncs the cut.
            disk.stop_at(calls);
            let _stopped = try_open(&disk);
            let disk = disk.after_kill();
            let log = open(&disk);
            // Closes the segment that was cut.
            append(&log, &[0], &[2; 16_400]).unwrap();
            append(&log, &[0], &[3; 16_400]).unwrap();
            log.sync_segments().unwrap();
            let log = open(&disk.after_power_cut());
            assert_eq!(values(&log, 0).len(), 3, "seed {seed}, stopped at {calls}");
            let partition = partition(&log, 0);
            let later = partition.offset_for_time(TimestampMs(2_000_000));
            assert_eq!(later.unwrap(), None, "seed {seed}, stopped at {calls}");
            assert_eq!(log.damaged_ranges(), [], "seed {seed}, stopped at {calls}");
        }
    }
}
