//! Tests of the simulation itself: if one of the engine's precautions is removed, it must find a loss soon.

use super::driver::{Plan, Sabotage};
use super::farm;

/// A loss must be found within so many seeds.
const SEEDS: u64 = 1_000;

fn assert_noticed(sabotage: Sabotage) {
    let plan = |seed| Plan {
        sabotage: Some(sabotage),
        ..Plan::new(seed)
    };
    let harvest = farm::run_all(0..SEEDS, farm::cores(), 1, plan, |_| ());
    let found = harvest.failures.first();
    let found = found.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed for {SEEDS} seeds"));
    eprintln!(
        "{sabotage:?} is noticed by seed {}: {}",
        found.plan.seed, found.what
    );
}

#[test]
fn the_loss_of_a_precaution_is_noticed() {
    for sabotage in [
        Sabotage::JournalSync,
        Sabotage::SyncAfterRename,
        Sabotage::KeyLookup,
        Sabotage::KeyEntry,
        Sabotage::TornRounds,
        Sabotage::BackupSync,
    ] {
        assert_noticed(sabotage);
    }
}
