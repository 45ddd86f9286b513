//! The loop that samples every group about once a second (see [`super::history`]) until the server stops.
//!
//! [`Lags::sample`] does the work; the loop only waits. If a sample takes longer than the interval, the missed ones are not
//! made up for.

use std::time::Duration;

use tokio::sync::watch;

use crate::broker::lag::report::Lags;

/// Samples every group repeatedly, until `stopping` becomes true.
pub async fn run(lags: Lags, mut stopping: watch::Receiver<bool>) {
    loop {
        let sampling = lags.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || sampling.sample()).await {
            tracing::error!(%error, "sampling the groups' lag failed; the next sample follows");
        }
        tokio::select! {
            () = tokio::time::sleep(pause(lags.history.sample_interval(), lags.clock.now().get())) => {}
            // An error means that the service is gone, which also ends this loop.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
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
