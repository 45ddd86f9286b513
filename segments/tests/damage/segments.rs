//! Damage to log files and their indexes.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use quipu_segments::batch::Batches;

use super::case::{Cases, Expect};
use super::harm::{ends, files, offsets_in, partition_of};
use super::history::History;
use super::read::Lost;

#[test]
fn a_damaged_log_costs_the_records_that_it_touches_and_no_other() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in history.bases() {
        for path in ends(files(base, "log")) {
            let bytes = fs::read(base.join(&path)).unwrap();
            let lengths: Vec<usize> = Batches::new(&bytes).map(|batch| batch.unwrap().1.len()).collect();
            let (first, last) = (lengths[0], bytes.len() - lengths[lengths.len() - 1]);
            let middle: usize = lengths[..lengths.len() / 2].iter().sum();
            // In headers (base offset, length, magic, checksum, count), in records, and at the ends.
            let mut bits: Vec<usize> = [0, middle, last]
                .iter()
                .flat_map(|start| [0, 7, 11, 16, 23, 70].map(|at| start + at))
                .collect();
            bits.extend([first - 1, bytes.len() / 2, bytes.len() - 1]);
            // Bytes that the journal still has are written again: a power cut can leave the same damage.
            let expect = |touched: &Range<usize>| Expect {
                may_lose: Lost::from([(partition_of(&path), offsets_in(&bytes, touched))]),
                is_harmless: history.is_killed(base),
                ..Expect::default()
            };
            cases.harms(base, &path, &bits, |_, range| Expect {
                evidence: (!history.is_killed(base)).then(|| path.clone()),
                ..expect(range)
            });
            cases.missing(base, &path, &expect(&(0..bytes.len())));
        }
    }
    cases.end(200);
}

#[test]
fn a_log_of_another_segment_is_never_served() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in history.bases() {
        let logs = files(base, "log");
        for path in &ends(logs.clone()) {
            let bytes = fs::read(base.join(path)).unwrap();
            let expect = Expect {
                may_lose: Lost::from([(partition_of(path), offsets_in(&bytes, &(0..bytes.len())))]),
                is_harmless: history.is_killed(base),
                ..Expect::default()
            };
            // A batch does not name its partition: one of another partition with fitting offsets cannot be recognised.
            let is_other = |other: &&PathBuf| *other != path && other.parent() == path.parent();
            for other in logs.iter().filter(is_other) {
                cases.exchanged(base, path, other, &expect);
            }
        }
    }
    cases.end(12);
}

#[test]
fn a_damaged_missing_or_foreign_index_costs_nothing() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    // The indexes that a killed process leaves are no different.
    let base = &history.closed;
    for extension in ["index", "timeindex"] {
        let all = files(base, extension);
        for path in &ends(all.clone()) {
            let bytes = fs::read(base.join(path)).unwrap();
            let bits = [0, 8, 13, 17, 25, 33, 41, 50, 64, bytes.len() - 1];
            // A power cut leaves zeros or an empty file if a file was not synced.
            cases.harms(base, path, &bits, |harm, _| Expect {
                is_harmless: harm.starts_with("zeroed") || harm == "cut to 0",
                ..Expect::default()
            });
            cases.missing(base, path, &Expect::harmless());
            for other in all.iter().filter(|other| *other != path) {
                // An index of the same base may fit in every field.
                let expect = Expect {
                    is_harmless: other.file_name() == path.file_name(),
                    ..Expect::default()
                };
                cases.exchanged(base, path, other, &expect);
            }
        }
    }
    cases.end(150);
}
