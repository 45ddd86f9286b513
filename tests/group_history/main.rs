//! Groups under randomised histories, of the real binary: members that join, leave, die, stall and lose answers, while
//! the server is killed and partitions are added. What members saw is held against what groups promise:
//!
//! - ordered groups (see `ordered_check`): every record is processed at least once, on clean hand-overs delivered exactly
//!   once, in order; who is fenced commits nothing; committed offsets go back by resets only;
//! - shared groups (see `shared_check`): every record is accepted or in the dead letters, never both, never two members'
//!   at once; what is sent back is sent back once.
//!
//! The checkers are pure and are tested themselves, with histories that were tampered with.
//! `QUIPU_TEST_SEED` decides what is done, `QUIPU_TEST_ROUNDS` in how many worlds.
#![allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test of the real binary lives in the real world"
)]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod ordered;
mod ordered_check;
mod produce;
mod run;
mod shared;
mod shared_check;
mod world;

use std::fmt::Debug;
use std::path::Path;

/// Makes as many worlds as are wanted.
fn rounds(test: &str, world: impl Fn(&mut support::Rng)) {
    let mut rng = support::Rng::from_environment(test);
    let rounds = std::env::var("QUIPU_TEST_ROUNDS");
    for _ in 0..rounds.map_or(1, |rounds| rounds.parse().expect("QUIPU_TEST_ROUNDS is a number")) {
        world(&mut rng);
    }
}

/// Keeps a history that failed, where `QUIPU_TEST_KEEP` is a directory.
fn dump(name: &Path, events: &[impl Debug]) {
    if let Some(directory) = std::env::var_os("QUIPU_TEST_KEEP") {
        let lines: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
        let parent = name.parent().and_then(Path::file_name).unwrap_or_default();
        let to = Path::new(&directory).join(parent).with_extension("history");
        std::fs::write(&to, lines.join("\n")).expect("the directory is there");
        println!("the history is in {}", to.display());
    }
}
