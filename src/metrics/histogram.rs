//! A histogram of durations of requests, and how one is written.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::text::{Pair, Text};

/// The upper bounds of the buckets in microseconds; one more bucket takes the rest.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Counts durations: each raises two atomics.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    total_ns: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub(super) fn observe(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| ns <= bound * 1000);
        self.buckets[bucket.unwrap_or(BOUNDS_US.len())].fetch_add(1, Relaxed);
        self.total_ns.fetch_add(ns, Relaxed);
    }

    /// What it has counted up to now.
    pub(super) fn read(&self) -> Counted {
        Counted {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Relaxed)),
            seconds: self.total_ns.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// A histogram as it was at a moment.
pub(super) struct Counted {
    buckets: [u64; BOUNDS_US.len() + 1],
    seconds: f64,
}

impl Counted {
    /// How many durations.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Writes its rows.
    pub(super) fn encode(&self, out: &mut Text, name: &str, labels: &[Pair<'_>]) {
        rows(out, name, labels, &BOUNDS_US, &self.buckets, self.seconds);
    }
}

/// The rows of one histogram; `counts` has one more entry than `bounds_us`.
pub(super) fn rows(
    out: &mut Text,
    name: &str,
    labels: &[Pair<'_>],
    bounds_us: &[u64],
    counts: &[u64],
    total_seconds: f64,
) {
    let mut sum = 0;
    let bounds = bounds_us.iter().map(|us| (*us as f64 / 1e6).to_string());
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
        sum += count;
        let with_bound = [labels, &[("le", bound.as_str().into())]].concat();
        out.row(name, "_bucket", &with_bound, sum);
    }
    out.row(name, "_sum", labels, total_seconds);
    out.row(name, "_count", labels, sum);
}
