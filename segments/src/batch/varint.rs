//! Variable-length integers: zigzag, then seven bits a byte, the lowest first, the top bit set on all but the last byte.
//!
//! Nearly all integers in batches (lengths, deltas) fit one or two bytes: those are read without a loop.

/// The most bytes of an `i32`.
pub(super) const MAX_VARINT: usize = 5;
/// The most bytes of an `i64`.
pub(super) const MAX_VARLONG: usize = 10;

/// Takes an `i32` off the front of `bytes`; `None` if they end within it, or it does not fit.
#[inline(always)]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let raw = match **bytes {
        [low, ref rest @ ..] if low < 0x80 => {
            *bytes = rest;
            u32::from(low)
        }
        [low, high, ref rest @ ..] if high < 0x80 => {
            *bytes = rest;
            u32::from(low & 0x7f) | u32::from(high) << 7
        }
        _ => u32::try_from(take_long(bytes, MAX_VARINT)?).ok()?,
    };
    Some((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Takes an `i64` off the front of `bytes`; `None` if they end within it, or it does not fit.
#[inline(always)]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let raw = match **bytes {
        [low, ref rest @ ..] if low < 0x80 => {
            *bytes = rest;
            u64::from(low)
        }
        [low, high, ref rest @ ..] if high < 0x80 => {
            *bytes = rest;
            u64::from(low & 0x7f) | u64::from(high) << 7
        }
        _ => take_long(bytes, MAX_VARLONG)?,
    };
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

/// Takes up to `max` bytes, before the zigzag is undone.
#[inline(never)]
fn take_long(bytes: &mut &[u8], max: usize) -> Option<u64> {
    let mut raw = 0_u64;
    for (at, &byte) in bytes.iter().take(max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if at == MAX_VARLONG - 1 && bits > 1 {
            return None;
        }
        raw |= bits << (7 * at);
        if byte < 0x80 {
            *bytes = bytes.get(at + 1..)?;
            return Some(raw);
        }
    }
    None
}

/// How many bytes `value` takes.
#[inline(always)]
pub(super) fn len_i32(value: i32) -> usize {
    bytes_of(32 - (zigzag_i32(value) | 1).leading_zeros())
}

/// How many bytes `value` takes.
#[inline(always)]
pub(super) fn len_i64(value: i64) -> usize {
    bytes_of(64 - (zigzag_i64(value) | 1).leading_zeros())
}

#[inline(always)]
fn bytes_of(bits: u32) -> usize {
    bits.div_ceil(7) as usize
}

#[inline(always)]
fn zigzag_i32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

#[inline(always)]
fn zigzag_i64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// A few integers on the stack, which go into a buffer by one copy.
pub(super) struct Scratch<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Scratch<N> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    #[inline(always)]
    pub(super) fn put_byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline(always)]
    pub(super) fn put_i32(&mut self, value: i32) {
        self.put_raw(u64::from(zigzag_i32(value)));
    }

    #[inline(always)]
    pub(super) fn put_i64(&mut self, value: i64) {
        self.put_raw(zigzag_i64(value));
    }

    #[inline(always)]
    fn put_raw(&mut self, mut raw: u64) {
        while raw >= 0x80 {
            self.put_byte(raw as u8 | 0x80);
            raw >>= 7;
        }
        self.put_byte(raw as u8);
    }

    #[inline(always)]
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written_i32(value: i32) -> Vec<u8> {
        let mut scratch = Scratch::<MAX_VARINT>::new();
        scratch.put_i32(value);
        scratch.as_bytes().to_vec()
    }

    fn written_i64(value: i64) -> Vec<u8> {
        let mut scratch = Scratch::<MAX_VARLONG>::new();
        scratch.put_i64(value);
        scratch.as_bytes().to_vec()
    }

    #[test]
    fn known_integers_have_the_bytes_of_the_protocol() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (8191, &[0xfe, 0x7f]),
            (8192, &[0x80, 0x80, 0x01]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            assert_eq!(written_i32(value), bytes, "{value}");
            assert_eq!(written_i64(value.into()), bytes, "{value}");
        }
        assert_eq!(written_i64(i64::MIN), [[0xff; 9].as_slice(), &[0x01]].concat());
    }

    #[test]
    fn an_integer_too_large_or_too_long_is_refused() {
        for bytes in [
            &[0xff, 0xff, 0xff, 0xff, 0x10][..],
            &[0x80; 5],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ] {
            assert_eq!(take_i32(&mut &*bytes), None, "{bytes:x?}");
        }
        let too_large = [[0xff; 9].as_slice(), &[0x02]].concat();
        assert_eq!(take_i64(&mut &*too_large), None);
        assert_eq!(take_i64(&mut &[0x80; 11][..]), None);
        assert_eq!(take_i64(&mut &[][..]), None);
    }

    proptest! {
        #[test]
        fn integers_read_back_and_end_where_they_should(value: i64, shift in 0..64_u32, behind: Vec<u8>) {
            let value = value >> shift;
            let bytes = written_i64(value);
            prop_assert_eq!(bytes.len(), len_i64(value));
            for cut in 0..bytes.len() {
                prop_assert_eq!(take_i64(&mut &bytes[..cut]), None);
            }
            let all = [&bytes[..], &behind].concat();
            let mut rest = &all[..];
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert_eq!(rest, &behind[..]);

            let small = value as i32;
            let bytes = written_i32(small);
            prop_assert_eq!(bytes.len(), len_i32(small));
            let all = [&bytes[..], &behind].concat();
            let mut rest = &all[..];
            prop_assert_eq!(take_i32(&mut rest), Some(small));
            prop_assert_eq!(rest, &behind[..]);
        }
    }
}
