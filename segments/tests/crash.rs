//! The whole engine on a simulated disk, through thousands of crashes and faults, compared with a plain model.
//!
//! Each seed is a separate run: random topics, appends, reads, trims and restarts, with power cuts and kills at any I/O
//! call, failing calls, flipped bits and full disks. After every restart, everything in the log is compared with what
//! was acknowledged.
//!
//! `scripts/simulate` runs any number of seeds. It sets `QUIPU_SEEDS=n`, `QUIPU_FIRST_SEED=s` and `QUIPU_JOBS=j`;
//! `QUIPU_FAILURES=n` continues until n seeds have failed; `QUIPU_SEED=s` runs one seed and prints what it does.

#[path = "crash/cases.rs"]
mod cases;
#[path = "crash/check.rs"]
mod check;
#[path = "crash/driver.rs"]
mod driver;
#[path = "crash/farm.rs"]
mod farm;
#[path = "crash/hook.rs"]
mod hook;
#[path = "crash/model.rs"]
mod model;
#[path = "crash/packed.rs"]
mod packed;
#[path = "crash/sabotage.rs"]
mod sabotage;
mod support;

use driver::{Driver, Plan};
use farm::{Failure, Harvest};

/// The seeds that `cargo test` runs.
const SEEDS: u64 = 3_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")))
}

fn report(failures: &[Failure]) {
    for Failure { plan, what } in failures {
        let seed = plan.seed;
        eprintln!(
            "seed {seed} fails: {what}\n  again, with all that it does: scripts/simulate --seed {seed}"
        );
    }
    let seeds: Vec<u64> = failures.iter().map(|failure| failure.plan.seed).collect();
    assert!(seeds.is_empty(), "these seeds fail: {seeds:?}");
}

/// Prints the progress, about a hundred times.
fn progress(seeds: u64, harvest: &Harvest) {
    let step = (seeds / 100).clamp(1, 1_000);
    if harvest.seeds.is_multiple_of(step) {
        eprintln!(
            "{} of {seeds} seeds, {} power cuts, {} failures",
            harvest.seeds,
            harvest.sum.power_cuts,
            harvest.failures.len()
        );
    }
}

#[test]
fn promises_hold_through_crashes_and_faults_of_any_seed() {
    if let Some(seed) = number("QUIPU_SEED") {
        let stop_at = number("QUIPU_STOP_AT");
        let plan = Plan {
            stop_at,
            verbose: true,
            ..Plan::new(seed)
        };
        eprintln!("{:?}", Driver::run(plan));
        return;
    }
    let first = number("QUIPU_FIRST_SEED").unwrap_or(0);
    let seeds = number("QUIPU_SEEDS").unwrap_or(SEEDS);
    let jobs = number("QUIPU_JOBS").map_or_else(farm::cores, |jobs| jobs as usize);
    let most = number("QUIPU_FAILURES").unwrap_or(1) as usize;
    let is_long = number("QUIPU_SEEDS").is_some();
    let harvest = farm::run_all(first..first + seeds, jobs, most, Plan::new, |harvest| {
        if is_long {
            progress(seeds, harvest);
        }
    });
    let sum = harvest.sum;
    eprintln!("{} seeds: {sum:?}", harvest.seeds);
    report(&harvest.failures);
    if seeds >= 250 {
        assert!(
            sum.power_cuts > seeds
                && sum.kills > seeds / 4
                && sum.closes > seeds / 4
                && sum.durable > 20 * seeds,
            "the runs do not do what they are for: {sum:?}"
        );
        assert!(sum.repeated > seeds / 2, "{sum:?}");
        assert!(sum.repeated_batches > seeds / 4, "{sum:?}");
        assert!(sum.expired > seeds / 8, "{sum:?}");
        assert!(sum.repeated_at_once > seeds / 16, "{sum:?}");
        assert!(sum.failed_calls > seeds / 8, "{sum:?}");
        assert!(sum.full > seeds / 8, "{sum:?}");
        assert!(sum.unknown > seeds / 4, "{sum:?}");
        assert!(sum.backups > seeds / 2, "{sum:?}");
        assert!(sum.failed_backups > seeds / 16, "{sum:?}");
        assert!(sum.restored > seeds / 2, "{sum:?}");
        assert!(sum.gaps > seeds, "{sum:?}");
    }
}

#[test]
fn promises_hold_through_a_stop_at_every_call_of_a_run() {
    let rounds = number("QUIPU_SEEDS").map_or(1, |seeds| seeds.div_ceil(250));
    for seed in 0..rounds {
        let plan = |stop_at| Plan {
            stop_at: Some(stop_at),
            ..Plan::new(seed)
        };
        let calls = Driver::run(plan(u64::MAX / 2)).calls;
        let harvest = farm::run_all(1..calls + 1, farm::cores(), 1, plan, |_| ());
        if let Some(Failure { plan, what }) = harvest.failures.first() {
            let stop_at = plan.stop_at.unwrap_or_default();
            panic!("QUIPU_STOP_AT={stop_at} scripts/simulate --seed {seed} fails: {what}");
        }
    }
}

#[test]
fn a_seed_makes_the_same_calls_again() {
    for seed in 0..8 {
        let hash = || Driver::run(Plan::new(seed)).trace_hash;
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}
