//! The progress bar of `quipu replay`: how much of the recorded time has passed, and how long the rest takes.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Args, Sums};
use crate::cli::api;
use crate::cli::output::{brief_ms, millis, rate, records, time_ms};

/// Steps of the progress bar.
const STEPS: f64 = 10_000.0;

/// The bar on standard error.
pub(super) struct Progress {
    pub(super) bar: ProgressBar,
    /// Recorded time from where to where, milliseconds since the Unix epoch.
    span: Option<(i64, i64)>,
    speed: Option<f64>,
    started: Instant,
}

impl Progress {
    pub(super) fn new(args: &Args, chosen: &[&api::Partition]) -> Self {
        let first = chosen.iter().filter_map(|p| p.first_timestamp).min();
        let last = chosen.iter().filter_map(|p| p.last_timestamp).max();
        let until = args.until.map_or(i64::MAX, |until| until.0);
        let span = first.zip(last);
        let span = span.map(|(first, last)| (first.max(args.from.0), last.min(until)));
        let span = span.filter(|(from, until)| from <= until);
        // On one terminal with the records it would only be in their way.
        let target = if args.to.is_none() && io::stdout().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            span,
            speed: args.speed,
            started: Instant::now(),
        }
    }

    pub(super) fn set(&self, sums: &Sums, timestamp: Option<i64>) {
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.started.elapsed();
        let (count, rate) = (records(sums.records), rate(sums.records, elapsed));
        let mut message = format!("{count}, {rate}/s, at {}", time_ms(timestamp));
        if let (Some(span), Some(timestamp)) = (self.span, timestamp) {
            let fraction = fraction(span, timestamp);
            self.bar.set_position((fraction * STEPS) as u64);
            if let Some(left) = time_left(span, timestamp, self.speed, elapsed) {
                message += &format!(", {} left", brief_ms(millis(left)));
            }
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

/// How long the rest takes: exactly with a pace, else as long as what was done in proportion.
fn time_left(span: (i64, i64), timestamp: i64, speed: Option<f64>, elapsed: Duration) -> Option<Duration> {
    let seconds = match speed {
        Some(speed) => span.1.saturating_sub(timestamp).max(0) as f64 / 1000.0 / speed,
        None => match fraction(span, timestamp) {
            0.0 => return None,
            done => elapsed.as_secs_f64() * (1.0 - done) / done,
        },
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_recorded_time() {
        let span = (10_000, 20_000);
        let second = Duration::from_secs(1);
        for (timestamp, speed, elapsed, left, why) in [
            (15_000, Some(10.0), second, second / 2, "exactly, with a pace"),
            (15_000, None, second * 3, second * 3, "half of it is done"),
            (
                30_000,
                None,
                second,
                Duration::ZERO,
                "timestamps may be out of order",
            ),
        ] {
            assert_eq!(time_left(span, timestamp, speed, elapsed), Some(left), "{why}");
        }
        assert_eq!(time_left(span, 5_000, None, second), None);
        assert_eq!(fraction((5, 5), 5), 1.0);
        assert_eq!(fraction((i64::MIN, i64::MAX), i64::MAX), 1.0);
    }
}
