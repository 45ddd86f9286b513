//! The progress bar of `quipu replay`: how much of the recorded time has passed, and how long the rest takes.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Args, Sums};
use crate::cli::api;
use crate::cli::output::{rate, records, time_ms};

/// Steps of the progress bar.
const STEPS: f64 = 10_000.0;

/// The bar on standard error.
pub(super) struct Progress {
    pub(super) bar: ProgressBar,
    /// Recorded time from where to where, milliseconds since the Unix epoch.
    span: Option<(i64, i64)>,
}

impl Progress {
    pub(super) fn new(args: &Args, chosen: &[&api::Partition]) -> Self {
        let first = chosen.iter().filter_map(|p| p.first_timestamp).min();
        let last = chosen.iter().filter_map(|p| p.last_timestamp).max();
        let until = args.until.map_or(i64::MAX, |until| until.0);
        let span = first.zip(last);
        let span = span.map(|(first, last)| (first.max(args.from.0), last.min(until)));
        let span = span.filter(|(from, until)| from <= until);
        // If the records go to the same terminal, the bar would only be in their way.
        let target = if args.to.is_none() && io::stdout().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg} {eta} left") {
            bar.set_style(style);
        }
        Self { bar, span }
    }

    pub(super) fn set(&self, sums: &Sums, timestamp: Option<i64>) {
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.bar.elapsed();
        let (count, rate) = (records(sums.records), rate(sums.records, elapsed));
        let message = format!("{count}, {rate}/s, at {}", time_ms(timestamp));
        if let (Some(span), Some(timestamp)) = (self.span, timestamp) {
            self.bar.set_position((fraction(span, timestamp) * STEPS) as u64);
        }
        self.bar.set_message(message);
    }
}

/// Which part of the recorded time has passed, from 0 to 1.
fn fraction((from, until): (i64, i64), timestamp: i64) -> f64 {
    if until <= from {
        return 1.0;
    }
    (timestamp.saturating_sub(from) as f64 / until.saturating_sub(from) as f64).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_has_passed_is_a_share_of_the_recorded_time() {
        for (span, timestamp, expected) in [
            ((10_000, 20_000), 15_000, 0.5),
            ((10_000, 20_000), 5_000, 0.0),
            ((10_000, 20_000), 30_000, 1.0),
            ((5, 5), 5, 1.0),
            ((i64::MIN, i64::MAX), i64::MAX, 1.0),
        ] {
            assert_eq!(fraction(span, timestamp), expected, "{span:?} {timestamp}");
        }
    }
}
