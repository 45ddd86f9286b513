//! The lag of a row over the last five minutes, drawn as bars.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time that the bars show; below, their number.
pub(crate) const TREND: Duration = Duration::from_secs(300);
const CELLS: usize = 20;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A row's lags of the last [`TREND`].
#[derive(Debug, Default)]
pub(crate) struct Trend(VecDeque<(Instant, u64)>);

impl Trend {
    /// Adds a lag seen at `at`, which is not before the last one.
    pub(crate) fn push(&mut self, at: Instant, lag: u64) {
        self.0.push_back((at, lag));
        // Keep one older lag: it is the value at the beginning of the time shown.
        let is_past = |(second, _): &(Instant, u64)| at.duration_since(*second) > TREND;
        while self.0.get(1).is_some_and(is_past) {
            self.0.pop_front();
        }
    }

    /// One bar for each part of the time, for the largest lag in it.
    pub(crate) fn sparkline(&self, now: Instant) -> String {
        let span = TREND / CELLS as u32;
        let mut cells: [Option<u64>; CELLS] = [None; CELLS];
        let mut last: [Option<u64>; CELLS] = [None; CELLS];
        let mut before = None;
        for (at, lag) in &self.0 {
            let back = (now.duration_since(*at).as_nanos() / span.as_nanos()) as usize;
            let Some(index) = CELLS.checked_sub(back + 1) else {
                before = Some(*lag);
                continue;
            };
            cells[index] = cells[index].max(Some(*lag));
            last[index] = Some(*lag);
        }
        for (cell, last) in cells.iter_mut().zip(last) {
            // A part in which no lag was seen repeats the one before.
            *cell = cell.or(before);
            before = last.or(before);
        }
        spark(&cells)
    }
}

/// Bars from 0 to the largest value.
fn spark(cells: &[Option<u64>]) -> String {
    let most = cells.iter().flatten().copied().max().unwrap_or(0);
    // The lowest bar means 0 and nothing else.
    let bar = |value: u64| match value {
        0 => LEVELS[0],
        _ => LEVELS[((value as f64 / most as f64 * 7.0).round() as usize).clamp(1, 7)],
    };
    cells.iter().map(|cell| cell.map_or(' ', bar)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_go_from_nothing_to_the_most() {
        assert_eq!(spark(&[None, Some(0), Some(1), Some(50), Some(100)]), " ▁▂▅█");
        assert_eq!(spark(&[Some(0), Some(0)]), "▁▁");
        assert_eq!(spark(&[Some(u64::MAX)]), "█");
    }

    #[test]
    fn a_trend_shows_five_minutes_and_what_was_not_seen_as_it_was_before() {
        let start = Instant::now();
        let mut trend = Trend::default();
        for (second, lag) in [(0, 8), (310, 4), (312, 2), (600, 0)] {
            trend.push(start + Duration::from_secs(second), lag);
        }
        let line = trend.sparkline(start + Duration::from_secs(600));
        assert_eq!(line.chars().count(), CELLS);
        assert_eq!(line, format!("█{}▁", "▅".repeat(18)));
        assert_eq!(trend.0.len(), 4);
        trend.push(start + Duration::from_secs(901), 0);
        assert_eq!(trend.0.len(), 2, "one from before, and the last");
    }
}
