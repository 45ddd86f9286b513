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
fn a_journal_that_is_not_synced_is_noticed() {
    assert_noticed(Sabotage::JournalSync);
}

#[test]
fn a_rename_whose_directory_is_not_synced_is_noticed() {
    assert_noticed(Sabotage::SyncAfterRename);
}

#[test]
fn a_key_that_is_not_looked_up_is_noticed() {
    assert_noticed(Sabotage::KeyLookup);
}

#[test]
fn a_key_whose_entry_is_not_stored_is_noticed() {
    assert_noticed(Sabotage::KeyEntry);
}

#[test]
fn a_torn_round_that_is_taken_for_a_whole_one_is_noticed() {
    assert_noticed(Sabotage::TornRounds);
}
