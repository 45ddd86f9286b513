//! The whole engine on a simulated disk, through crashes and faults by the thousand, beside a plain model.
//!
//! Each seed is a run of its own: topics, appends, reads, trims and restarts by chance, with power cuts and kills at any I/O
//! call, failing calls and full disks. After every restart all that is there is compared with what was acknowledged.
//!
//! `QUIPU_SEEDS=n` runs more seeds, `QUIPU_SEED=s` runs one and says what it does, `QUIPU_FIRST_SEED=s` begins
//! elsewhere, `QUIPU_FAILURES=n` goes on until n seeds have failed.

#[path = "crash/cases.rs"]
mod cases;
#[path = "crash/check.rs"]
mod check;
#[path = "crash/driver.rs"]
mod driver;
#[path = "crash/hook.rs"]
mod hook;
#[path = "crash/model.rs"]
mod model;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use driver::{Driver, Plan, Tally};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")),
    )
}

fn run(plan: Plan) -> Tally {
    match catch_unwind(AssertUnwindSafe(|| Driver::run(plan))) {
        Ok(tally) => tally,
        Err(panic) => {
            eprintln!("failed: {plan:?}; again with QUIPU_SEED={}", plan.seed);
            resume_unwind(panic);
        }
    }
}

#[test]
fn promises_hold_through_crashes_and_faults_of_any_seed() {
    if let Some(seed) = number("QUIPU_SEED") {
        eprintln!(
            "{:?}",
            run(Plan {
                seed,
                stop_at: number("QUIPU_STOP_AT"),
                verbose: true
            })
        );
        return;
    }
    let first = number("QUIPU_FIRST_SEED").unwrap_or(0);
    let seeds = number("QUIPU_SEEDS").unwrap_or(250);
    let mut failures = number("QUIPU_FAILURES").unwrap_or(1);
    let mut failed = Vec::new();
    let mut sum = Tally::default();
    for seed in first..first + seeds {
        let plan = Plan {
            seed,
            stop_at: None,
            verbose: false,
        };
        let Ok(tally) = catch_unwind(|| run(plan)) else {
            failed.push(seed);
            failures -= 1;
            if failures == 0 {
                break;
            }
            continue;
        };
        sum.power_cuts += tally.power_cuts;
        sum.kills += tally.kills;
        sum.closes += tally.closes;
        sum.requests += tally.requests;
        sum.durable += tally.durable;
        sum.unknown += tally.unknown;
        sum.failed_calls += tally.failed_calls;
        sum.full += tally.full;
        sum.calls += tally.calls;
    }
    eprintln!("{seeds} seeds: {sum:?}");
    assert!(failed.is_empty(), "these seeds fail: {failed:?}");
    if seeds >= 250 {
        assert!(
            sum.power_cuts > seeds
                && sum.kills > seeds / 4
                && sum.closes > seeds / 4
                && sum.durable > 20 * seeds,
            "the runs do not do what they are for: {sum:?}"
        );
        assert!(
            sum.failed_calls > seeds / 8 && sum.full > seeds / 8 && sum.unknown > seeds / 4,
            "{sum:?}"
        );
    }
}

#[test]
fn promises_hold_through_a_stop_at_every_call_of_a_run() {
    let rounds = number("QUIPU_SEEDS").map_or(1, |seeds| seeds.div_ceil(250));
    for seed in 0..rounds {
        let calls = run(Plan {
            seed,
            stop_at: Some(u64::MAX / 2),
            verbose: false,
        })
        .calls;
        for stop_at in 1..=calls {
            run(Plan {
                seed,
                stop_at: Some(stop_at),
                verbose: false,
            });
        }
    }
}

#[test]
fn a_seed_makes_the_same_calls_again() {
    for seed in 0..8 {
        let plan = Plan {
            seed,
            stop_at: None,
            verbose: false,
        };
        assert_eq!(run(plan).trace_hash, run(plan).trace_hash, "seed {seed}");
    }
}
