//! The source of random numbers: small, seeded, the same on every machine.

/// A splitmix64 generator. Two with the same seed give the same numbers for ever, so that a seed reproduces a run.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that begins at `seed`; every seed is fine.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if `end` is 0. (The bias of the remainder does not matter here.)
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next_u64() % end }
    }

    /// An index below `end`.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("it is below a usize")
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// True with a probability of `times` in `of`.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// A separate generator, so that the draws of one part do not change those of another.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }
}

/// How a power cut treats things that may be kept or lost: all in the same way, or each independently.
///
/// Independent draws alone would almost never keep all or lose all of many pages, which are the commonest cases.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mood {
    KeepAll,
    LoseAll,
    /// Each is kept with a probability of so many in 16.
    Each(u64),
}

impl Mood {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        match rng.below(6) {
            0 => Self::KeepAll,
            1 => Self::LoseAll,
            _ => Self::Each(rng.between(1, 15)),
        }
    }

    pub(super) fn keeps(self, rng: &mut Rng) -> bool {
        match self {
            Self::KeepAll => true,
            Self::LoseAll => false,
            Self::Each(times) => rng.chance(times, 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_another_seed_others() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_them() {
        let mut rng = Rng::new(1);
        let drawn: Vec<u64> = (0..1_000).map(|_| rng.between(3, 6)).collect();
        assert!(drawn.iter().all(|n| (3..=6).contains(n)));
        assert!((3..=6).all(|n| drawn.contains(&n)));
        assert_eq!(rng.below(0), 0);
    }
}
