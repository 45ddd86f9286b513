//! Damage at rest, systematically: every kind of file × every kind of damage × places in it.
//!
//! Each case damages a copy of a directory that was made once, and then checks:
//! - `verify` changes nothing, and calls it damage if (and only if) records are lost;
//! - the log opens, or refuses and names the reason, if it cannot do anything better;
//! - each record that is read is the one that was written at its offset; only what may be lost is lost, and its range
//!   is reported while the log is open, and in its health;
//! - appends continue, at an offset that was never given before;
//! - a second start finds no more lost than the first, and the damaged bytes are still there;
//! - `repair` loses nothing, repairs what it reports, and has nothing to do the second time.

#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

#[path = "damage/case.rs"]
mod case;
#[path = "damage/harm.rs"]
mod harm;
#[path = "damage/history.rs"]
mod history;
#[path = "damage/identity.rs"]
mod identity;
#[path = "damage/journal.rs"]
mod journal;
#[path = "damage/read.rs"]
mod read;
#[path = "damage/segments.rs"]
mod segments;
#[path = "damage/snapshots.rs"]
mod snapshots;
mod support;

use case::{Expect, run};
use harm::files;
use history::History;

#[test]
fn the_directories_are_what_the_cases_need() {
    let history = History::new();
    for base in history.bases() {
        let problems = run(base, &history.model, &Expect::harmless(), &|_| {});
        assert_eq!(problems, Vec::<String>::new());
        assert!(files(base, "log").len() >= 6, "{:?}", files(base, "log"));
        assert!(files(base, "index").len() >= 3);
    }
}
