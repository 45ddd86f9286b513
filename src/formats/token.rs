//! Opaque strings that clients keep and send back: Base64 (URL alphabet, no padding) of a version, eight bytes that name
//! where the string is from, varints, and a CRC-32 over all of that.
//!
//! The checksum guards against mistakes, not against forgery.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crc32fast::Hasher;

/// The first byte. With it the first character is a letter, so no such string looks like a time.
pub const VERSION: u8 = 1;

/// The origin and the varints of a string; `None` if it is damaged. The checksum covers `beside` too, which the string
/// omits.
pub fn open(text: &str, beside: &[&[u8]]) -> Option<(u64, Vec<u8>)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (covered, crc) = bytes.split_last_chunk::<4>()?;
    let (&version, rest) = covered.split_first()?;
    let (origin, rest) = rest.split_first_chunk::<8>()?;
    let is_whole = version == VERSION && u32::from_be_bytes(*crc) == checksum(covered, beside);
    is_whole.then(|| (u64::from_be_bytes(*origin), rest.to_vec()))
}

/// The string of `bytes`, which begin with the version and the origin.
pub fn seal(mut bytes: Vec<u8>, beside: &[&[u8]]) -> String {
    let crc = checksum(&bytes, beside);
    bytes.extend_from_slice(&crc.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn checksum(bytes: &[u8], beside: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    beside.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Adds a varint (LEB128: seven bits a byte, the lowest first).
pub fn push_varint(bytes: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 10];
    let len = put_varint(&mut digits, number);
    bytes.extend_from_slice(&digits[..len]);
}

/// Writes a varint to the beginning of `bytes`, which have room for ten; returns its length.
pub(super) fn put_varint(bytes: &mut [u8], mut number: u64) -> usize {
    let mut len = 0;
    while number >= 0x80 {
        bytes[len] = number as u8 | 0x80;
        number >>= 7;
        len += 1;
    }
    bytes[len] = number as u8;
    len + 1
}

/// Takes a varint from the beginning of `bytes`; `None` if none of 64 bits is there.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        let shifted = bits.checked_shl(shift)?;
        number |= (shifted >> shift == bits).then_some(shifted)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
