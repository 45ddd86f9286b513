//! Runs seeds on all cores, and reports which fail: the same ones, whatever the number of cores.

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use super::driver::{Driver, Plan, Tally};

thread_local! {
    /// Takes the panics of this thread while it runs a seed.
    static QUIET: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) plan: Plan,
    /// The message and the place of the panic.
    pub(crate) what: String,
}

/// The results of many runs.
#[derive(Default)]
pub(crate) struct Harvest {
    pub(crate) seeds: u64,
    pub(crate) sum: Tally,
    /// Lowest seed first.
    pub(crate) failures: Vec<Failure>,
}

/// How many runs are done at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs one plan; a panic is caught and not printed.
pub(crate) fn run(plan: Plan) -> Result<Tally, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_quiet = QUIET.with_borrow_mut(|quiet| match quiet {
                Some(text) => {
                    text.push_str(&info.to_string());
                    true
                }
                None => false,
            });
            if !is_quiet {
                loud(info);
            }
        }));
    });
    QUIET.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| Driver::run(plan)));
    let what = QUIET.take().unwrap_or_default();
    result.map_err(|_| Failure { plan, what })
}

/// Runs `plan` with every seed of `seeds`, `jobs` at a time, until `most` have failed. Seeds are begun in order and
/// always completed, so all seeds below a failing one are run: the lowest `most` failures are always the same.
pub(crate) fn run_all(
    seeds: Range<u64>,
    jobs: usize,
    most: usize,
    plan: impl Fn(u64) -> Plan + Sync,
    progress: impl Fn(&Harvest) + Sync,
) -> Harvest {
    let next = AtomicU64::new(seeds.start);
    let harvest = Mutex::new(Harvest::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let result = run(plan(seed));
                    let mut harvest = harvest.lock().expect("nothing panics under this lock");
                    harvest.seeds += 1;
                    match result {
                        Ok(tally) => harvest.sum.add(&tally),
                        Err(failure) => harvest.failures.push(failure),
                    }
                    progress(&harvest);
                    if harvest.failures.len() >= most {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut harvest = harvest.into_inner().expect("nothing panics under this lock");
    let failures = &mut harvest.failures;
    failures.sort_by_key(|failure| (failure.plan.seed, failure.plan.stop_at));
    failures.truncate(most);
    harvest
}
