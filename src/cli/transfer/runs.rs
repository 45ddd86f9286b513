//! How many records of a partition lie below an offset, where some offsets have no record.

/// The offsets of the records that were seen, in order, as runs without gaps.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The first offset of each run, and how many records come before it.
    starts: Vec<(u64, u64)>,
    /// One past the last offset.
    next: u64,
    count: u64,
}

impl Runs {
    /// Adds the next record; `false` if its offset is not above the last one's.
    pub(super) fn push(&mut self, offset: u64) -> bool {
        if self.count > 0 && offset < self.next {
            return false;
        }
        if self.count == 0 || offset > self.next {
            self.starts.push((offset, self.count));
        }
        self.next = offset.saturating_add(1);
        self.count += 1;
        true
    }

    /// Which one of them has this offset, from 0.
    pub(super) fn number_of(&self, offset: u64) -> Option<u64> {
        let number = self.below(offset);
        (self.below(offset.checked_add(1)?) > number).then_some(number)
    }

    /// Whether a record with this offset, or a later one, was seen.
    pub(super) fn is_past(&self, offset: u64) -> bool {
        self.count > 0 && offset < self.next
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many lie below `offset`.
    pub(super) fn below(&self, offset: u64) -> u64 {
        let run = self.starts.partition_point(|(start, _)| *start < offset);
        let Some(&(start, before)) = run.checked_sub(1).and_then(|run| self.starts.get(run)) else {
            return 0;
        };
        let end = self.starts.get(run).map_or(self.count, |(_, before)| *before);
        (before + (offset - start)).min(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_below_an_offset_are_counted_over_gaps() {
        let mut runs = Runs::default();
        assert_eq!(runs.below(7), 0);
        assert!(!runs.is_past(0));
        let offsets = [5, 6, 9, 10, 11, 20];
        assert!(offsets.into_iter().all(|offset| runs.push(offset)));
        assert!(!runs.push(20) && !runs.push(3));
        for offset in 0..30 {
            let expected = offsets.iter().filter(|other| **other < offset).count() as u64;
            assert_eq!(runs.below(offset), expected, "below {offset}");
            let number = offsets.contains(&offset).then_some(expected);
            assert_eq!(runs.number_of(offset), number, "{offset}");
            assert_eq!(runs.is_past(offset), offset <= 20, "{offset}");
        }
        assert_eq!(runs.below(u64::MAX), 6);
        assert_eq!(runs.number_of(u64::MAX), None);
    }
}
