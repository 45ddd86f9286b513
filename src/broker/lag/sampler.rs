//! The loop that samples every group about once a second (see [`super::history`]) until the server stops, and keeps the
//! history beside the log from time to time and in the end.
//!
//! [`Lags::sample`] and [`Lags::keep_history`] do the work; the loop only waits. If a sample takes longer than the interval, the missed ones are not
//! made up for.

use std::time::Duration;

use tokio::sync::watch;

use crate::broker::lag::memo::Remembering;
use crate::broker::lag::report::Lags;

/// Samples every group repeatedly, until `stopping` becomes true.
pub async fn run(lags: Lags, mut stopping: watch::Receiver<bool>) {
    let mut remembering = Remembering::default();
    loop {
        let sampling = lags.clone();
        let is_due = remembering.is_due(lags.clock.monotonic());
        let sample = move || {
            sampling.sample();
            is_due.then(|| sampling.keep_history())
        };
        match tokio::task::spawn_blocking(sample).await {
            Ok(None) => {}
            Ok(Some(bytes)) => remembering.wrote(lags.clock.monotonic(), bytes),
            Err(error) => tracing::error!(%error, "sampling the groups' lag failed; the next sample follows"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause(lags.history.sample_interval(), lags.clock.now().get())) => {}
            // An error means that the service is gone, which also ends this loop.
            _ = stopping.wait_for(|stopping| *stopping) => break,
        }
    }
    // This fails only if it panics or the runtime ends: then an earlier one is there.
    let _ = tokio::task::spawn_blocking(move || lags.keep_history()).await;
}

/// The time until the next multiple of the interval by the wall clock, so that points lie at round times.
fn pause(interval: Duration, now_ms: i64) -> Duration {
    let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let left_ms = interval_ms - now_ms.rem_euclid(interval_ms);
    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_at_round_times() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, 1_700_000_000_250), Duration::from_millis(750));
        assert_eq!(pause(second, 1_700_000_000_000), second);
        assert_eq!(pause(second, -250), Duration::from_millis(250));
        assert_eq!(pause(second * 10, 1_700_000_003_000), second * 7);
    }
}
