//! The rows of a family, bounded in number without going blind: all of them up to a bound; above it only those that need
//! a look, and of these the worst.

use std::cmp::Reverse;

use crate::broker::lag::report::Total;
use crate::broker::lag::window::Status;

/// What a row shows.
pub(super) trait Ranked: Ord {
    /// The lag, which decides what is left out.
    fn total(&self) -> &Total;
}

/// At most `max` rows.
#[derive(Debug)]
pub(super) struct Bounded<T> {
    rows: Vec<T>,
    max: usize,
    seen: u64,
}

impl<T: Ranked> Bounded<T> {
    pub(super) const fn new(max: usize) -> Self {
        let rows = Vec::new();
        Self { rows, max, seen: 0 }
    }

    pub(super) fn push(&mut self, row: T) {
        self.seen += 1;
        self.rows.push(row);
        // Not at each row, so that its cost is small.
        if self.rows.len() >= 2 * self.max.max(64) {
            self.cut();
        }
    }

    /// Whether there were more rows than the bound.
    pub(super) const fn is_above(&self) -> bool {
        self.seen > self.max as u64
    }

    /// The rows, sorted, and how many were left out.
    pub(super) fn finish(mut self) -> (Vec<T>, u64) {
        if self.is_above() {
            self.cut();
        }
        self.rows.sort_unstable();
        let left_out = self.seen - self.rows.len() as u64;
        (self.rows, left_out)
    }

    fn cut(&mut self) {
        self.rows.retain(|row| needs_a_look(row.total()));
        if self.rows.len() > self.max {
            let worst = |a: &T, b: &T| {
                let rank = |row: &T| Reverse((row.total().status, row.total().lag.lag));
                rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
            };
            self.rows.sort_unstable_by(worst);
            self.rows.truncate(self.max);
        }
    }
}

/// Whether there is something to read, or something was lost.
fn needs_a_look(total: &Total) -> bool {
    total.lag.lag > 0 || total.status != Status::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Row(u32, Total);

    impl Ranked for Row {
        fn total(&self) -> &Total {
            &self.1
        }
    }

    impl PartialEq for Row {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    impl Eq for Row {}

    impl PartialOrd for Row {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Row {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.cmp(&other.0)
        }
    }

    fn of(lags: impl IntoIterator<Item = u64>, max: usize) -> (Vec<u32>, u64) {
        let mut rows = Bounded::new(max);
        for (number, lag) in (0..).zip(lags) {
            let mut total = Total::default();
            total.lag.lag = lag;
            rows.push(Row(number, total));
        }
        let (rows, left_out) = rows.finish();
        (rows.into_iter().map(|row| row.0).collect(), left_out)
    }

    #[test]
    fn up_to_the_bound_every_row_is_there() {
        assert_eq!(of([0, 0, 5], 3), (vec![0, 1, 2], 0));
    }

    #[test]
    fn above_the_bound_rows_without_lag_go_then_the_smallest_lag() {
        assert_eq!(of([0, 7, 0, 5], 3), (vec![1, 3], 2));
        assert_eq!(of([1, 7, 2, 5, 0], 2), (vec![1, 3], 3));
        let many = (0..100_000).map(|n| if n % 100 == 0 { n } else { 0 });
        let (rows, left_out) = of(many, 10);
        assert_eq!(rows.len(), 10);
        assert_eq!((rows[0], rows[9], left_out), (99_000, 99_900, 99_990));
    }
}
