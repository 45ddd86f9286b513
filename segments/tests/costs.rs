//! What each fault costs, row by row of the table in docs/operate/reliability.md, for both acknowledgements, on the simulated disk.
//!
//! Each test checks one row. The crash test and the damage test check that the rows hold at every call and every place.

mod support;

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use quipu_segments::sim::{Fault, IoKind, SimClock, SimDisk};
use quipu_segments::{Ack, Disk, Error, Log, Offset, OpenMode, TimestampMs, verify_on};
use support::{DIR, NOW, TOPIC, partition, read_all, records, roomy_options, set_state, spec, try_open_with};

const LOG: &str = "/quipu/data/topics/orders/0/00000000000000000000.log";
const ACKS: [Ack; 2] = [Ack::Durable, Ack::Written];
/// How many seeds are tried where chance decides what a power cut takes.
const SEEDS: u64 = 16;
/// How many records a [`history`] has: half of them with each acknowledgement.
const RECORDS: u64 = 120;

/// With room for everything that these tests write: no journal file is reused, and it ends with the last round.
fn open(disk: &SimDisk) -> Log {
    try_open_with(Arc::new(disk.clone()), &SimClock::new(NOW), roomy_options()).expect("it opens")
}

/// A log with a topic of two partitions.
fn make(disk: &SimDisk) -> Log {
    let log = open(disk);
    log.create_topic(TOPIC, spec(2, 16 << 10)).expect("a new topic");
    log
}

fn acks_and_calls() -> impl Iterator<Item = (Ack, IoKind)> {
    let of_ack = |ack| [IoKind::Write, IoKind::Sync].map(|kind| (ack, kind));
    ACKS.into_iter().flat_map(of_ack)
}

fn value(number: u64) -> Vec<u8> {
    format!("{number:0300}").into_bytes()
}

/// Appends a record in a round of its own. Returns the producer's answer, which may come before the round has ended.
fn append_to(log: &Log, index: u32, ack: Ack, number: u64) -> Result<u64, Error> {
    let records = records(TimestampMs(number as i64), &[&value(number)]);
    let mut request = support::of_parts(vec![support::part(partition(log, index), records)]);
    request.ack = ack;
    let ticket = log.append(request)?;
    let round = log.run_round();
    match pin!(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Ok(answer?.base_offsets[0].get()),
        Poll::Pending => Err(round.expect_err("a round that ends well answers")),
    }
}

fn append(log: &Log, ack: Ack, number: u64) -> Result<u64, Error> {
    append_to(log, 0, ack, number)
}

/// How many of twenty records were acknowledged before the first that was refused.
fn append_until_refused(log: &Log, ack: Ack) -> u64 {
    let is_stored = |number: &u64| append(log, ack, *number).is_ok();
    (0..20).take_while(is_stored).count() as u64
}

/// Appends records; each must get its number as offset.
fn append_all(log: &Log, ack: Ack, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(append(log, ack, number).expect("nothing is wrong"), number);
    }
}

fn commit(log: &Log, value: &[u8]) -> Result<(), Error> {
    set_state(log, "group", value).map(drop)
}

/// The offsets of partition 0 that can be read, each record compared with what was written there; and the ranges that
/// are reported as damaged.
fn read(log: &Log) -> (Vec<u64>, Vec<(u64, u64)>) {
    let partition = partition(log, 0);
    assert_eq!(partition.positions().log_start_offset, Offset::ZERO);
    let (found, damaged) = read_all(&partition);
    for (offset, found) in &found {
        assert_eq!(*found, value(offset.get()), "offset {offset}");
    }
    let ranges = damaged.iter().map(|(from, until)| (from.get(), until.get()));
    (
        found.iter().map(|(offset, _)| offset.get()).collect(),
        ranges.collect(),
    )
}

/// Checks that everything up to an offset is there, and that nothing is reported.
#[track_caller]
fn assert_whole(log: &Log, count: u64, when: &str) {
    assert_eq!(read(log), ((0..count).collect(), Vec::new()), "{when}");
    assert_eq!(log.health().damage, Vec::<String>::new(), "{when}");
}

/// A log that was stopped: records with both acknowledgements in turn, most of them in synced segments, the last twenty
/// durable only in the journal; and so is a committed offset.
fn fill(disk: &SimDisk, is_clean: bool) {
    let log = make(disk);
    for number in 0..RECORDS {
        let ack = ACKS[number as usize % 2];
        assert_eq!(append(&log, ack, number).unwrap(), number);
        if number == RECORDS - 20 {
            commit(&log, b"synced").unwrap();
            log.sync_segments().unwrap();
        }
    }
    commit(&log, b"newest").unwrap();
    if is_clean {
        log.close().unwrap();
    }
}

/// What a power cut leaves of [`fill`].
fn history(disk: &SimDisk, is_clean: bool) -> SimDisk {
    fill(disk, is_clean);
    disk.after_power_cut()
}

fn committed(log: &Log) -> Option<Vec<u8>> {
    log.state_get(b"group").map(|value| value.to_vec())
}

/// The files below a directory whose names end with `end`.
fn files(disk: &SimDisk, dir: &str, end: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(dir);
    let entries = disk.list(&dir).unwrap().into_iter();
    entries
        .map(|entry| dir.join(entry.name))
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

fn set_len(disk: &SimDisk, path: &Path, len: u64) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    file.set_len(len).unwrap();
}

fn write(disk: &SimDisk, path: &Path, position: u64, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&[IoSlice::new(bytes)], position).unwrap();
}

fn zero(disk: &SimDisk, path: &Path, position: u64, len: usize) {
    write(disk, path, position, &vec![0; len]);
}

/// Checks that all of a [`history`] is there, and its newest committed offset; damage may be reported.
#[track_caller]
fn assert_all(log: &Log, what: &str) {
    assert_eq!(read(log), ((0..RECORDS).collect(), Vec::new()), "{what}");
    assert_eq!(committed(log).as_deref(), Some(&b"newest"[..]), "{what}");
}

#[test]
fn a_killed_process_loses_nothing_by_either_acknowledgement() {
    for ack in ACKS {
        for calls in 1..80 {
            let disk = SimDisk::new(calls);
            let log = make(&disk);
            disk.stop_at(calls);
            let acknowledged = append_until_refused(&log, ack);
            let log = open(&disk.after_kill());
            let (found, damaged) = read(&log);
            assert_eq!(damaged, []);
            let count = found.len() as u64;
            // The record whose append was interrupted is there whole or not at all.
            let what = format!("{ack:?}, {calls}: {acknowledged} acknowledged, {count} there");
            assert!((acknowledged..=acknowledged + 1).contains(&count), "{what}");
            assert_eq!(append(&log, ack, count).unwrap(), count);
        }
    }
}

#[test]
fn a_power_cut_takes_nothing_durable_and_of_written_only_the_round_that_was_not_synced() {
    let mut lost = 0;
    for ack in ACKS {
        for calls in 1..80 {
            for seed in 0..SEEDS {
                let disk = SimDisk::new(seed);
                let log = make(&disk);
                disk.stop_at(calls);
                let acknowledged = append_until_refused(&log, ack);
                let partition = partition(&log, 0);
                let readable = partition.positions().end_offset.get();
                let log = open(&disk.after_power_cut());
                let (found, damaged) = read(&log);
                let count = found.len() as u64;
                let what = format!("{ack:?}, seed {seed}, stopped at {calls}: {count} are there");
                assert_eq!(damaged, [], "{what}");
                assert!(count >= readable, "{what}, {readable} were readable");
                let least = match ack {
                    Ack::Durable => acknowledged,
                    Ack::Written => acknowledged.saturating_sub(1),
                };
                assert!(count >= least, "{what}, {acknowledged} acknowledged");
                lost += acknowledged.saturating_sub(count);
                // The offsets of lost records are given again.
                assert_eq!(append(&log, ack, count).unwrap(), count, "{what}");
            }
        }
    }
    // Otherwise no power cut came between an answer and its sync, and the test has tried nothing.
    assert!(lost > 0);
}

#[test]
fn a_full_disk_refuses_appends_loses_nothing_and_takes_them_again_by_itself() {
    for ack in ACKS {
        let disk = SimDisk::new(0);
        let log = make(&disk);
        append_all(&log, ack, 0..5);
        disk.set_capacity(Some(disk.used_bytes()));
        let stored = (5..200).find(|number| append(&log, ack, *number).is_err());
        let stored = stored.expect("the disk is full");
        for n in 0..50_u8 {
            let refused = append(&log, ack, stored);
            assert!(matches!(refused, Err(Error::StorageFull)), "{ack:?}: {refused:?}");
            commit(&log, &[n]).expect("commits go on");
        }
        assert!(log.health().storage_full);
        assert_whole(&log, stored, "reads go on");
        disk.set_capacity(None);
        append_all(&log, ack, stored..stored + 5);
        assert!(!log.health().storage_full);
        for disk in [disk.after_kill(), disk.after_power_cut()] {
            let log = open(&disk);
            assert_whole(&log, stored + 5, "after a restart");
            assert_eq!(committed(&log), Some(vec![49]));
        }
    }
}

#[test]
fn a_failed_journal_ends_appends_until_a_restart_and_costs_what_was_in_flight_at_most() {
    let mut lost = 0;
    for (ack, kind) in acks_and_calls() {
        for seed in 0..SEEDS {
            let disk = SimDisk::new(seed);
            let log = make(&disk);
            append_all(&log, ack, 0..3);
            // Fail once only: a second sync would succeed, but prove nothing.
            disk.fail(Fault::once(kind, 0).on(".journal"));
            let in_flight = append(&log, ack, 3);
            let what = format!("{ack:?}, {kind:?}, seed {seed}: {in_flight:?}");
            match ack {
                Ack::Durable => assert!(matches!(in_flight, Err(Error::LogFailed { .. })), "{what}"),
                // This append is answered before the sync.
                Ack::Written => assert_eq!(in_flight.is_ok(), kind == IoKind::Sync, "{what}"),
            }
            assert!(log.health().log_failed.is_some(), "{what}");
            for ack in ACKS {
                let refused = append(&log, ack, 4);
                assert!(matches!(refused, Err(Error::LogFailed { .. })), "{what}");
            }
            assert!(commit(&log, b"1").is_err(), "{what}");
            assert_whole(&log, 3, "reads go on, and what was in flight is not readable");
            for disk in [disk.after_kill(), disk.after_power_cut()] {
                let log = open(&disk);
                let count = read(&log).0.len() as u64;
                assert!((3..=4).contains(&count), "{what}: {count} there");
                lost += u64::from(in_flight.is_ok() && count == 3);
                append_all(&log, ack, count..count + 2);
                assert_whole(&log, count + 2, &what);
            }
        }
    }
    // Otherwise no round was lost whose sync had failed, and the test has tried nothing.
    assert!(lost > 0);
}

#[test]
fn a_failed_segment_ends_its_partitions_appends_until_a_restart_and_loses_nothing() {
    for (ack, kind) in acks_and_calls() {
        for seed in 0..SEEDS {
            let disk = SimDisk::new(seed);
            let log = make(&disk);
            append_all(&log, ack, 0..3);
            append_to(&log, 1, ack, 0).unwrap();
            disk.fail(Fault::once(kind, 0).on("topics/orders/0"));
            if kind == IoKind::Write {
                append(&log, ack, 3).expect_err("its write fails");
            } else {
                log.sync_segments().unwrap();
            }
            let what = format!("{ack:?}, {kind:?}, seed {seed}");
            assert_eq!(log.health().failed_partitions.len(), 1, "{what}");
            for _ in 0..2 {
                let refused = append(&log, ack, 3).expect_err(&what);
                assert!(matches!(refused, Error::PartitionFailed(_)), "{what}: {refused}");
            }
            // The other partitions go on, and so does the journal.
            append_to(&log, 1, ack, 1).expect(&what);
            commit(&log, b"1").expect(&what);
            for disk in [disk.after_kill(), disk.after_power_cut()] {
                let log = open(&disk);
                assert_whole(&log, 3, &what);
                append_all(&log, ack, 3..5);
                assert_whole(&log, 5, &what);
            }
        }
    }
}

#[test]
fn an_index_that_is_damaged_missing_or_anothers_costs_nothing() {
    for is_clean in [true, false] {
        // Indexes are never synced, so a power cut may take them: only a kill leaves all of them.
        let disk = SimDisk::new(0);
        fill(&disk, is_clean);
        let whole = disk.after_kill();
        let indexes = [".index", ".timeindex"].map(|end| files(&whole, "topics/orders/0", end));
        assert!(indexes.iter().all(|files| files.len() >= 2), "{indexes:?}");
        for paths in &indexes {
            for harm in ["damaged", "missing", "another's"] {
                let disk = whole.after_kill();
                match harm {
                    "damaged" => disk.damage(&paths[0], 40, 1),
                    "missing" => disk.remove_file(&paths[0]).unwrap(),
                    _ => {
                        let other = disk.contents(&paths[1]).unwrap();
                        set_len(&disk, &paths[0], 0);
                        write(&disk, &paths[0], 0, &other);
                    }
                }
                let log = open(&disk);
                assert_whole(&log, RECORDS, harm);
                let partition = partition(&log, 0);
                for number in [0, 7, RECORDS - 1] {
                    let found = partition.offset_for_time(TimestampMs(number as i64)).unwrap();
                    assert_eq!(found.map(|(offset, _)| offset.get()), Some(number), "{harm}");
                }
                log.close().unwrap();
                let is_made_again = disk.contents(&paths[0]) == whole.contents(&paths[0]);
                assert!(is_made_again, "{harm}: {}", paths[0].display());
            }
        }
    }
}

#[test]
fn a_file_that_is_kept_twice_costs_nothing_when_one_copy_is_lost_and_is_written_again() {
    let twice = "checkpoint.0 checkpoint.1 state.0 state.1 topics/orders/topic.json topics/orders/topic.copy.json FORMAT";
    for is_clean in [true, false] {
        let whole = history(&SimDisk::new(0), is_clean);
        for name in twice.split(' ') {
            for is_missing in [true, false] {
                let disk = whole.after_kill();
                let path = Path::new(DIR).join(name);
                if is_missing {
                    disk.remove_file(&path).unwrap();
                } else {
                    disk.damage(&path, 20, 0xff);
                }
                let what = format!("{name}, missing: {is_missing}, after a clean stop: {is_clean}");
                let log = open(&disk);
                assert_all(&log, &what);
                log.close().unwrap();
                drop(log);
                let verified = verify_on(&disk, Path::new(DIR), &mut |_| {}).unwrap();
                let mut wrong = verified.findings;
                wrong.retain(|finding| finding.is_fault || finding.is_damage);
                assert_eq!(wrong, [], "{what}");
            }
        }
    }
}

#[test]
fn a_damaged_log_file_costs_the_records_that_the_journal_no_longer_has_and_they_are_reported() {
    type Harm = fn(&SimDisk, u64);
    let harms: [(&str, Harm); 4] = [
        ("a bit", |disk, len| disk.damage(Path::new(LOG), len / 2, 1)),
        ("a block", |disk, len| {
            zero(disk, Path::new(LOG), len / 2 / 4096 * 4096, 4096)
        }),
        ("its end", |disk, len| set_len(disk, Path::new(LOG), len - 1000)),
        ("all of it", |disk, _| disk.remove_file(Path::new(LOG)).unwrap()),
    ];
    for (harm, damage) in harms {
        // A segment that was synced long ago.
        let whole = history(&SimDisk::new(0), true);
        let disk = whole.after_kill();
        let len = disk.contents(Path::new(LOG)).unwrap().len() as u64;
        let in_it = len / (len / 40).max(1);
        damage(&disk, len);
        for _ in 0..2 {
            let log = open(&disk);
            let (found, damaged) = read(&log);
            let lost: Vec<u64> = damaged.iter().flat_map(|(from, until)| *from..*until).collect();
            assert!(!lost.is_empty(), "{harm}: {lost:?}");
            assert!(lost.len() as u64 <= in_it * 2, "{harm}: {lost:?}");
            if harm == "a bit" {
                assert_eq!(lost.len(), 1, "a batch");
            }
            // Everything else is there.
            let mut all = [found, lost].concat();
            all.sort_unstable();
            assert_eq!(all, (0..RECORDS).collect::<Vec<_>>(), "{harm}");
            let known = log.damaged_ranges();
            let rows = known.iter();
            let known: Vec<_> = rows.map(|range| (range.from.get(), range.until.get())).collect();
            assert_eq!(known, damaged, "{harm}: health says the same");
            assert_eq!(committed(&log).as_deref(), Some(&b"newest"[..]));
            log.close().unwrap();
        }
        // Bytes that the journal still has are written again from it.
        for ack in ACKS {
            let disk = SimDisk::new(0);
            let log = make(&disk);
            append_all(&log, ack, 0..30);
            let disk = disk.after_kill();
            damage(&disk, disk.contents(Path::new(LOG)).unwrap().len() as u64);
            assert_whole(&open(&disk), 30, harm);
        }
    }
}

/// The journal files that have rounds, and where the last round of the last one begins.
fn rounds(disk: &SimDisk) -> (Vec<PathBuf>, u64) {
    let is_round = |block: &[u8]| block.get(4..8) == Some(&b"RND1"[..]);
    let mut all = files(disk, "journal", ".journal");
    all.retain(|path| disk.contents(path).unwrap().chunks(4096).any(is_round));
    let last = all.last().map_or(0, |path| {
        let bytes = disk.contents(path).unwrap();
        bytes.chunks(4096).rposition(is_round).unwrap_or(0) as u64 * 4096
    });
    (all, last)
}

#[test]
fn a_damaged_journal_file_costs_what_only_it_held_and_after_a_clean_stop_nothing() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        for harm in ["a block", "missing"] {
            let disk = history(&SimDisk::new(seed), false);
            let (journals, last) = rounds(&disk);
            let path = journals.last().expect("it was not stopped in order");
            let evidence = disk.contents(path).unwrap();
            match harm {
                // Not the last round: that one would be taken for torn.
                "a block" => zero(&disk, path, last - 8192, 4096),
                _ => journals.iter().for_each(|path| disk.remove_file(path).unwrap()),
            }
            let harmed = disk.contents(path);
            let log = open(&disk);
            let is_reported = !log.health().damage.is_empty();
            assert!(is_reported, "{harm}, seed {seed}");
            let (found, _) = read(&log);
            // Records in synced segments are there; of the rest, everything that the power cut left is kept.
            let synced = RECORDS - 20;
            let is_there = found.iter().copied().take(synced as usize).eq(0..synced);
            assert!(is_there, "{harm}, seed {seed}: {found:?}");
            lost += RECORDS - found.len() as u64;
            let state = committed(&log);
            let is_known = matches!(state.as_deref(), Some(b"newest" | b"synced"));
            assert!(is_known, "{harm}, seed {seed}: {state:?}");
            if let Some(harmed) = harmed {
                assert_ne!(harmed, evidence);
                let kept = disk.list(&Path::new(DIR).join("journal")).unwrap();
                let rows = kept.iter();
                let mut kept = rows.map(|entry| Path::new(DIR).join("journal").join(&entry.name));
                // The file is kept.
                assert!(kept.any(|path| disk.contents(&path) == Some(harmed.clone())));
            }
        }
    }
    assert!(lost > 0, "nothing was in the journal alone: nothing was tried");

    let whole = history(&SimDisk::new(0), true);
    for path in files(&whole, "journal", ".journal") {
        for is_missing in [true, false] {
            let disk = whole.after_kill();
            if is_missing {
                disk.remove_file(&path).unwrap();
            } else {
                zero(&disk, &path, 0, 64 << 10);
            }
            let log = open(&disk);
            assert_all(&log, "after a clean stop");
        }
    }
}

#[test]
fn one_wrong_bit_in_the_journal_costs_nothing() {
    for seed in 0..SEEDS {
        let whole = history(&SimDisk::new(seed), false);
        let (journals, last) = rounds(&whole);
        let path = journals.last().expect("it was not stopped in order");
        // In the last round, which could be taken for torn, and in one before it.
        for position in [last + 5, last + 40, last - 4096 + 30] {
            let disk = whole.after_kill();
            disk.damage(path, position, 1 << (seed % 8));
            let log = open(&disk);
            assert_whole(&log, RECORDS, "one wrong bit");
            assert_eq!(committed(&log).as_deref(), Some(&b"newest"[..]), "seed {seed}");
        }
    }
}

#[test]
fn both_slots_of_the_state_damaged_cost_committed_offsets_and_no_record() {
    for is_clean in [true, false] {
        let disk = history(&SimDisk::new(0), is_clean);
        for name in ["state.0", "state.1"] {
            disk.damage(&Path::new(DIR).join(name), 40, 0xff);
        }
        let log = open(&disk);
        assert_eq!(read(&log), ((0..RECORDS).collect(), Vec::new()));
        // The offsets that the journal still has are there.
        let expected = (!is_clean).then(|| b"newest".to_vec());
        assert_eq!(committed(&log), expected);
        let damage = log.health().damage;
        assert!(damage.iter().any(|what| what.contains("state")), "{damage:?}");
        commit(&log, b"anew").expect("commits go on");
        log.close().unwrap();
        drop(log);
        let found = committed(&open(&disk.after_power_cut()));
        assert_eq!(found.as_deref(), Some(&b"anew"[..]));
    }
}
