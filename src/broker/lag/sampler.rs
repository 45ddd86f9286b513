//! The loop that feeds the history: a look at every group each second or so (see [`super::history`]), until the server
//! stops.
//!
//! [`tick`] is all of it; the loop only waits. A look that takes longer than the interval is followed by the next whole
//! one: none are caught up with.

use std::time::Duration;

use crate::broker::Broker;
use crate::broker::lag::report;

/// Looks at every group once. May block on the disk, where a slot is due and a group's next record is not known.
pub fn tick(broker: &Broker) {
    let now = broker.clock.now();
    let rows = report::rows(broker, broker.history.is_slot_due(now));
    broker.history.sample(now, &rows);
}

/// Looks at every group again and again, until the server begins to stop.
pub async fn run(broker: Broker) {
    let mut stopping = broker.stopping.subscribe();
    loop {
        let ticking = broker.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || tick(&ticking)).await {
            tracing::error!(%error, "a look at the groups' lag failed; the next one follows");
        }
        tokio::select! {
            () = tokio::time::sleep(pause(broker.history.sample_interval(), broker.clock.now().get())) => {}
            // An error means that the service is gone, which is as good a reason to stop.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Until the next multiple of the interval by the wall clock, so that points lie at round times.
fn pause(interval: Duration, now_ms: i64) -> Duration {
    let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let left_ms = interval_ms - now_ms.rem_euclid(interval_ms);
    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_at_round_times() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, 1_700_000_000_250), Duration::from_millis(750));
        assert_eq!(pause(second, 1_700_000_000_000), second);
        assert_eq!(pause(second, -250), Duration::from_millis(250));
        assert_eq!(pause(second * 10, 1_700_000_003_000), second * 7);
    }
}
