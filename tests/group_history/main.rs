//! Groups under random histories, with the real binary: members join, leave, die, stall and lose answers, while the
//! server is killed and partitions are added. What members saw is compared with what groups promise:
//!
//! - ordered groups (see `ordered_check`): every record is processed at least once, and is delivered exactly once, in
//!   order, on clean hand-overs; a fenced member commits nothing; only resets move committed offsets back;
//! - shared groups (see `shared_check`): every record is accepted or in the dead letters, never both, and never leased
//!   to two members at once; nothing is given early; a dead letter is redriven once;
//! - what members produce with their acknowledgements (see `outputs_check`): each record has one output;
//! - `pipeline`: the same from a user's side, through three groups.
//!
//! The checkers are pure, and are tested themselves with histories that were tampered with. Read `world` (the server)
//! and `run` (a world from beginning to end) first.
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
mod outputs;
mod outputs_check;
mod pipeline;
mod produce;
mod redrive;
mod run;
mod shared;
mod shared_check;
mod world;

use std::fmt::Debug;
use std::path::Path;

/// Runs as many worlds as the environment asks for.
fn rounds(test: &str, world: impl Fn(&mut support::Rng)) {
    let mut rng = support::Rng::from_environment(test);
    let rounds = std::env::var("QUIPU_TEST_ROUNDS");
    for _ in 0..rounds.map_or(1, |rounds| rounds.parse().expect("QUIPU_TEST_ROUNDS is a number")) {
        world(&mut rng);
    }
}

/// Writes a failed history to a file, if `QUIPU_TEST_KEEP` names a directory.
fn dump(name: &Path, events: &[impl Debug]) {
    if let Some(directory) = std::env::var_os("QUIPU_TEST_KEEP") {
        let lines: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
        let parent = name.parent().and_then(Path::file_name).unwrap_or_default();
        let to = Path::new(&directory).join(parent).with_extension("history");
        std::fs::write(&to, lines.join("\n")).expect("the directory is there");
        println!("the history is in {}", to.display());
    }
}
