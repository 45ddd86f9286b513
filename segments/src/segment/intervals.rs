//! Which bytes of a map have been verified: a set of disjoint ranges, nearly always one.

/// Sorted, disjoint, non-adjacent ranges of byte positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Intervals {
    ranges: Vec<(u64, u64)>,
}

impl Intervals {
    /// Adds `start..end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // The log is verified from front to back and grows at its end: the last range is the one to look at.
        if let Some(last) = self.ranges.last_mut()
            && last.0 <= start
        {
            if start <= last.1 {
                last.1 = last.1.max(end);
            } else {
                self.ranges.push((start, end));
            }
            return;
        }
        let first = self.ranges.partition_point(|range| range.1 < start);
        let after = self.ranges.partition_point(|range| range.0 <= end);
        let (mut start, mut end) = (start, end);
        if first < after {
            start = start.min(self.ranges[first].0);
            end = end.max(self.ranges[after - 1].1);
        }
        self.ranges.splice(first..after, [(start, end)]);
    }

    /// Adds all of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        for (start, end) in &other.ranges {
            self.insert(*start, *end);
        }
    }

    /// The end of the range that holds the byte at `position`.
    pub(super) fn end_of(&self, position: u64) -> Option<u64> {
        let after = self.ranges.partition_point(|range| range.0 <= position);
        let (_, end) = self.ranges[..after].last()?;
        (*end > position).then_some(*end)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_and_overlapping_ranges_become_one() {
        let mut set = Intervals::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (20, 30), (5, 7), (0, 5), (45, 100)] {
            set.insert(start, end);
        }
        assert_eq!(set.ranges, [(0, 7), (10, 40), (45, 100)]);
        set.insert(0, 200);
        assert_eq!(set.ranges, [(0, 200)]);
    }

    #[test]
    fn it_holds_the_same_bytes_as_a_plain_array() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..200 {
            let mut set = Intervals::default();
            let mut model = [false; 64];
            for _ in 0..20 {
                let start = random(60);
                let end = start + random(5);
                set.insert(start, end);
                model[start as usize..end as usize].fill(true);
                for position in 0..64u64 {
                    let rest = &model[position as usize..];
                    let expected = rest[0]
                        .then(|| position + rest.iter().position(|held| !held).unwrap_or(rest.len()) as u64);
                    assert_eq!(set.end_of(position), expected, "{set:?} at {position}");
                }
            }
        }
    }
}
