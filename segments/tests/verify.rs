//! Damage at rest: `verify` finds it and changes nothing, and the log opens and serves the rest.

#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quipu_segments::{Error, Finding, Log, Offset, Verified, verify};
use support::{TOPIC, append_one, partition, read_all, read_from, roomy_options, spec};

fn open(dir: &Path) -> Log {
    Log::open(dir, roomy_options()).expect("opens")
}

/// A directory with 300 records of 200 bytes in several segments.
fn directory(close: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = log.create_topic(TOPIC, spec(2, 16 << 10)).unwrap();
    let partition = topic.partition(0).unwrap();
    for number in 0..300_u32 {
        append_one(&log, &partition, format!("{number:0200}").as_bytes()).unwrap();
    }
    if close {
        log.close().unwrap();
    }
    dir
}

/// The files in a directory, in the order of their names.
fn files(dir: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut files = files(dir.join("topics/orders/0"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files
}

/// A closed directory, and its second segment.
fn with_second_segment() -> (tempfile::TempDir, PathBuf) {
    let dir = directory(true);
    let path = logs(dir.path())[1].clone();
    (dir, path)
}

/// Every file with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in files(dir.to_owned()) {
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn verified(dir: &Path) -> Verified {
    let before = contents(dir);
    let verified = verify(dir, &mut |_| {}).expect("it can be looked at");
    assert!(contents(dir) == before, "looking has changed something");
    verified
}

fn damage(dir: &Path) -> Vec<Finding> {
    let mut findings = verified(dir).findings;
    findings.retain(|finding| finding.is_damage);
    findings
}

/// The only damage, and the offsets that it costs.
fn one_damage(dir: &Path) -> (Finding, Offset, Offset) {
    let found = damage(dir);
    let [finding] = &found[..] else {
        panic!("{found:?}")
    };
    let (from, until) = finding.offsets.expect("offsets");
    (finding.clone(), from, until)
}

/// The offsets that can be read, if a client continues behind damage as the errors say.
fn readable(dir: &Path) -> Vec<u64> {
    let (found, _) = read_all(&partition(&open(dir), 0));
    found.iter().map(|(offset, _)| offset.get()).collect()
}

#[test]
fn a_clean_directory_has_nothing_to_find() {
    let dir = directory(true);
    let verified = verified(dir.path());
    assert_eq!(verified.findings, []);
    assert_eq!(verified.topics, 1);
    assert_eq!(verified.partitions, 2);
    assert_eq!(verified.records, 300);
    assert!(verified.segments > 3 && verified.bytes > 60_000, "{verified:?}");
}

#[test]
fn a_directory_that_was_not_closed_is_not_damaged() {
    let dir = directory(false);
    assert_eq!(damage(dir.path()), []);
    assert_eq!(readable(dir.path()).len(), 300);
}

#[test]
fn a_flipped_bit_costs_its_batch_alone_and_is_named_by_file_position_and_offset() {
    let (dir, path) = with_second_segment();
    let mut bytes = fs::read(&path).unwrap();
    let position = bytes.len() / 2;
    bytes[position] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (finding, from, until) = one_damage(dir.path());
    assert_eq!(finding.path, path);
    assert_eq!(until.since(from), 1);
    let is_before = finding.position.is_some_and(|at| at.get() <= position as u64);
    assert!(is_before, "{finding:?}");
    let readable = readable(dir.path());
    assert_eq!(readable.len(), 299);
    assert!(!readable.contains(&from.get()));
}

#[test]
fn a_zeroed_block_costs_the_batches_in_it() {
    let (dir, path) = with_second_segment();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..8192].fill(0);
    fs::write(&path, bytes).unwrap();
    let (finding, from, until) = one_damage(dir.path());
    let readable = readable(dir.path());
    assert_eq!(readable.len() as u64, 300 - until.since(from));
    assert!(until.since(from) < 20, "{finding:?}");
}

#[test]
fn a_missing_segment_costs_its_offsets_and_nothing_after_it() {
    let (dir, path) = with_second_segment();
    fs::remove_file(&path).unwrap();
    let (finding, from, until) = one_damage(dir.path());
    let lost = until.since(from);
    assert!((20..100).contains(&lost), "{finding:?}");
    assert_eq!(readable(dir.path()).len() as u64, 300 - lost);
}

#[test]
fn a_truncated_last_segment_is_reported_and_its_offsets_are_not_given_again() {
    let dir = directory(true);
    let path = logs(dir.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let (_, from, until) = one_damage(dir.path());
    assert_eq!(until, Offset::new(300));
    assert_eq!(readable(dir.path()).len() as u64, from.get());
    let log = open(dir.path());
    let known = log.health().damaged_ranges;
    let [range] = &known[..] else { panic!("{known:?}") };
    assert_eq!((range.from, range.until), (from, until), "known from the start");
    let partition = partition(&log, 0);
    append_one(&log, &partition, b"next").unwrap();
    assert_eq!(partition.positions().end_offset.get(), 301);
    let fetched = partition.read(read_from(Offset::new(300), 1)).unwrap();
    assert_eq!(fetched.next_offset.get(), 301);
}

#[test]
fn a_wrong_index_is_a_note_and_costs_no_record() {
    let dir = directory(true);
    let paths = logs(dir.path());
    fs::copy(paths[0].with_extension("index"), paths[1].with_extension("index")).unwrap();
    fs::write(paths[2].with_extension("timeindex"), b"torn").unwrap();
    let verified = verified(dir.path());
    assert!(!verified.is_damaged(), "{:?}", verified.findings);
    assert_eq!(verified.findings.len(), 2);
    assert_eq!(readable(dir.path()).len(), 300);
}

#[test]
fn without_any_checkpoint_every_whole_batch_is_kept() {
    for close in [true, false] {
        let dir = directory(close);
        fs::remove_file(dir.path().join("checkpoint.0")).unwrap();
        fs::remove_file(dir.path().join("checkpoint.1")).unwrap();
        assert!(!damage(dir.path()).is_empty());
        assert_eq!(readable(dir.path()).len(), 300, "closed: {close}");
        assert_eq!(readable(dir.path()).len(), 300, "once more");
    }
}

#[test]
fn a_torn_checkpoint_falls_back_on_the_one_before() {
    let dir = directory(true);
    for slot in ["checkpoint.0", "checkpoint.1"] {
        let path = dir.path().join(slot);
        let whole = fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn[40] ^= 0xff;
        fs::write(&path, &torn).unwrap();
        let copy = tempfile::tempdir().unwrap();
        for (path, bytes) in contents(dir.path()) {
            let target = copy.path().join(path.strip_prefix(dir.path()).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, bytes).unwrap();
        }
        assert_eq!(readable(copy.path()).len(), 300, "{slot}");
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_lost_journal_costs_nothing_that_is_in_the_segments() {
    let dir = directory(false);
    for path in files(dir.path().join("journal")) {
        fs::remove_file(path).unwrap();
    }
    assert!(!damage(dir.path()).is_empty());
    assert_eq!(readable(dir.path()).len(), 300);
}

#[test]
fn a_damaged_round_in_the_middle_is_damage_and_a_torn_last_round_is_not() {
    let dir = directory(false);
    let journals = files(dir.path().join("journal"));
    let path = journals.last().unwrap();
    let whole = fs::read(path).unwrap();
    let blocks = whole.chunks(4096).skip(1);
    let rounds = blocks.take_while(|block| block[4..8] == *b"RND1").count();
    assert!(rounds > 3, "{rounds}");
    // The last round is torn: a power cut before the end of the sync leaves this.
    let mut torn = whole.clone();
    torn[rounds * 4096 + 50..rounds * 4096 + 60].fill(0xa5);
    fs::write(path, &torn).unwrap();
    assert_eq!(damage(dir.path()), []);
    // An earlier round is torn: this is damage, because a round begins only when the one before is durable.
    let mut damaged = whole;
    damaged[(rounds - 1) * 4096 + 50] ^= 1;
    fs::write(path, &damaged).unwrap();
    assert_eq!(damage(dir.path()).len(), 1);
    assert_eq!(readable(dir.path()).len(), 300, "the segments have them all");
}

#[test]
fn a_directory_in_use_or_of_something_else_is_refused() {
    let dir = directory(true);
    let log = open(dir.path());
    let refused = verify(dir.path(), &mut |_| {});
    assert!(matches!(refused, Err(Error::Directory(_))));
    drop(log);
    let other = tempfile::tempdir().unwrap();
    let refused = verify(other.path(), &mut |_| {});
    assert!(matches!(refused, Err(Error::Directory(_))));
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
}
