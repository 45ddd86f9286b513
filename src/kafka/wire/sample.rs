//! Values for tests: small numbers, both ends of each type, texts of a few letters.

/// A source of values, the same for the same seed.
pub(crate) struct Sampler(u64);

impl Sampler {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(crate) fn bool(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }

    pub(crate) fn number(&mut self) -> i64 {
        match self.next() % 8 {
            0 => -1,
            1 => 0,
            2 => i64::MAX,
            3 => i64::MIN,
            _ => self.next() as i64,
        }
    }

    pub(crate) fn text(&mut self) -> String {
        let length = match self.next() % 16 {
            0 => 0,
            1 => 2000,
            _ => self.next() % 20,
        };
        (0..length)
            .map(|_| char::from(b'a' + (self.next() % 26) as u8))
            .collect()
    }
}
