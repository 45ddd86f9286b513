//! Counts how often each latency was seen, to a 64th of its size.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::output::count;

/// Buckets in each power of two.
const STEPS: u64 = 64;

/// Latencies in microseconds by bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Counts one latency.
    pub(super) fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    /// Adds the counts of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        let buckets = self.counts.len().max(other.counts.len());
        self.counts.resize(buckets, 0);
        let pairs = self.counts.iter_mut().zip(&other.counts);
        pairs.for_each(|(sum, count)| *sum += count);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The latency that this part of all does not exceed, in milliseconds.
    fn quantile_ms(&self, part: f64) -> f64 {
        let rank = (part * self.total as f64).ceil() as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        bucket.map_or(0, |bucket| upper(bucket).min(self.max)) as f64 / 1000.0
    }

    fn max_ms(&self) -> f64 {
        self.max as f64 / 1000.0
    }

    /// Counts by powers of two: the upper bound in microseconds, and how many lie below it and not below the one before.
    fn rows(&self) -> Vec<(u64, u64)> {
        let mut rows: Vec<(u64, u64)> = Vec::new();
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let bound = (upper(bucket) + 1).next_power_of_two();
            match rows.last_mut() {
                Some((last, sum)) if *last == bound => *sum += count,
                _ => rows.push((bound, *count)),
            }
        }
        rows
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "p50": self.quantile_ms(0.5),
            "p90": self.quantile_ms(0.9),
            "p99": self.quantile_ms(0.99),
            "max": self.max_ms(),
            "histogram": self.rows().iter().map(|(bound, count)| {
                json!({"below_ms": *bound as f64 / 1000.0, "count": count})
            }).collect::<Vec<_>>(),
        })
    }
}

impl std::fmt::Display for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "latency: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            self.quantile_ms(0.5),
            self.quantile_ms(0.9),
            self.quantile_ms(0.99),
            self.max_ms()
        )?;
        let rows = self.rows();
        let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (bound, number) in rows {
            let bar = "#".repeat(((number as f64 / most as f64) * 20.0).ceil() as usize);
            let (ms, count) = (bound as f64 / 1000.0, count(number));
            write!(f, "\n  < {ms:>10.2} ms {count:>10} {bar}")?;
        }
        Ok(())
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let shift = micros.ilog2() - STEPS.ilog2();
    (u64::from(shift) * STEPS + (micros >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let first = bucket - shift * STEPS;
    ((first + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_a_bucket_that_is_a_64th_wide() {
        for micros in (0..5000).chain([1 << 20, (1 << 40) + 12345, u64::MAX / 2]) {
            let upper = upper(bucket(micros));
            assert!(upper >= micros, "{micros}: {upper}");
            assert!(upper - micros <= micros / STEPS, "{micros}: {upper}");
        }
    }

    #[test]
    fn quantiles_and_rows_follow_from_what_was_counted() {
        let mut one = Histogram::default();
        (1..=90).for_each(|_| one.add(Duration::from_micros(100)));
        let mut other = Histogram::default();
        (1..=10).for_each(|_| other.add(Duration::from_millis(50)));
        one.merge(&other);
        let json = one.to_json();
        let near = |name: &str, ms: f64| (json[name].as_f64().unwrap() - ms).abs() <= ms / 50.0;
        let is_near = near("p50", 0.1) && near("p90", 0.1) && near("p99", 50.0);
        assert!(is_near && json["max"] == 50.0, "{json}");
        assert_eq!(one.rows(), [(128, 90), (65_536, 10)]);
        assert!(one.to_string().starts_with("latency: p50 0.10 ms"), "{one}");
        assert_eq!(Histogram::default().to_json()["p99"], 0.0);
    }
}
