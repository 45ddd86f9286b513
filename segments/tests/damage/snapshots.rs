//! Damage to the slots of the checkpoint and of the state.

use std::fs;
use std::path::Path;

use super::case::{Cases, Expect};
use super::harm::change;
use super::history::History;

#[test]
fn a_damaged_checkpoint_or_state_costs_nothing_while_one_slot_is_whole() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in history.bases() {
        for path in ["checkpoint.0", "checkpoint.1", "state.0", "state.1"].map(Path::new) {
            let bits: Vec<usize> = (0..48).step_by(5).chain([8, 9]).collect();
            // Bytes behind the payload mean nothing.
            cases.harms(base, path, &bits, |_, range| Expect {
                is_harmless: range.start >= 4096,
                ..Expect::default()
            });
            cases.missing(base, path, &Expect::default());
        }
        both_checkpoints(&mut cases, &history, base);
        let lost = Expect {
            may_lose_state: true,
            ..Expect::default()
        };
        let slots = ["state.0", "state.1"];
        cases.case(base, "both slots of the state missing", &lost, &|dir| {
            remove(dir, &slots);
        });
        cases.case(base, "both slots of the state damaged", &lost, &|dir| {
            flip(dir, &slots, 33);
        });
    }
    cases.end(150);
}

fn both_checkpoints(cases: &mut Cases<'_>, history: &History, base: &Path) {
    let both = ["checkpoint.0", "checkpoint.1"];
    let expect = Expect::default();
    cases.case(base, "no checkpoint", &expect, &|dir| remove(dir, &both));
    cases.case(base, "a damaged checkpoint in both slots", &expect, &|dir| {
        flip(dir, &both, 40);
    });
    for (name, from) in [
        ("an old", &history.early),
        ("another directory's", &history.foreign),
    ] {
        let name = format!("{name} checkpoint in both slots");
        let expect = Expect {
            evidence: Some(both[0].into()),
            ..Expect::default()
        };
        cases.case(base, &name, &expect, &|dir| {
            for name in &both {
                fs::copy(from.join(name), dir.join(name)).unwrap();
            }
        });
        let name = format!("{name} of two");
        cases.case(base, &name, &Expect::harmless(), &|dir| {
            fs::copy(from.join(both[0]), dir.join(both[0])).unwrap();
        });
    }
}

fn remove(dir: &Path, names: &[&str]) {
    for name in names {
        fs::remove_file(dir.join(name)).unwrap();
    }
}

fn flip(dir: &Path, names: &[&str], at: usize) {
    for name in names {
        change(dir, Path::new(name), |bytes| bytes[at] ^= 1);
    }
}
