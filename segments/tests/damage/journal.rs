//! Damage to the journal's files, and files that are not this journal's.

use std::fs;
use std::path::Path;

use super::case::{Cases, Expect};
use super::harm::files;
use super::history::History;

#[test]
fn a_damaged_journal_costs_nothing_that_the_segments_have_and_a_foreign_one_is_not_replayed() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in history.bases() {
        // A file that is no longer needed is not damage, nor is the last round: it may never have been acknowledged.
        let expect = Expect {
            may_lose_state: history.is_killed(base),
            ..Expect::harmless()
        };
        for path in files(base, "journal") {
            let bits = bits(&fs::read(base.join(&path)).unwrap());
            cases.harms(base, &path, &bits, |_, _| expect.clone());
            cases.missing(base, &path, &expect);
            if history.is_killed(base) {
                end_early(&mut cases, base, &path, &expect);
            }
            let name = format!("{}: there twice", path.display());
            cases.case(base, &name, &expect, &|dir| {
                fs::copy(dir.join(&path), dir.join("journal/00000000000000000900.journal")).unwrap();
            });
        }
        for path in files(&history.early, "journal") {
            let name = format!("an old {} came back", path.display());
            added(&mut cases, base, &name, &history.early, &path);
        }
        for path in files(&history.foreign, "journal") {
            let name = format!("{} of another directory", path.display());
            added(&mut cases, base, &name, &history.foreign, &path);
        }
    }
    cases.end(40);
}

/// Places in the file's header, in its first round, and in later ones.
fn bits(bytes: &[u8]) -> [usize; 10] {
    let used = bytes
        .chunks(4096)
        .take_while(|block| block.iter().any(|byte| *byte != 0))
        .count()
        * 4096;
    [
        0,
        9,
        20,
        33,
        4096,
        4100,
        4105,
        4130,
        used.saturating_sub(4000),
        used / 2 / 4096 * 4096 + 40,
    ]
}

/// Cuts a file and all behind it: then only the checkpoint, or the end mark in the file before, shows that it existed.
fn end_early(cases: &mut Cases<'_>, base: &Path, path: &Path, expect: &Expect) {
    for length in [None, Some(0), Some(40), Some(4096)] {
        let name = format!("{} and all behind it: cut to {length:?}", path.display());
        cases.case(base, &name, expect, &|dir| {
            for later in files(base, "journal").iter().filter(|later| **later > *path) {
                fs::remove_file(dir.join(later)).unwrap();
            }
            match length {
                None => fs::remove_file(dir.join(path)).unwrap(),
                Some(length) => {
                    let bytes = fs::read(dir.join(path)).unwrap();
                    fs::write(dir.join(path), &bytes[..length]).unwrap();
                }
            }
        });
    }
}

/// Adds a file of another directory beside the existing ones.
fn added(cases: &mut Cases<'_>, base: &Path, name: &str, from: &Path, path: &Path) {
    cases.case(base, name, &Expect::harmless(), &|dir| {
        if !dir.join(path).exists() {
            fs::copy(from.join(path), dir.join(path)).unwrap();
        }
    });
}
