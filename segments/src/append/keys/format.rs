//! The record that remembers a request with an idempotency key, in the internal partition.
//!
//! # The record's key
//! | bytes | field |
//! |---|---|
//! | varint | topic id; for a key of the whole log, the id of the internal topic itself |
//! | n | the caller's key |
//!
//! # The record's value
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 16 | fingerprint of the request |
//! | varint | when it expires: milliseconds since the Unix epoch, zigzag |
//! | varint | count of parts |
//! | each: varint, varint | index of the partition, first offset |
//! | n | the caller's note |
//!
//! A varint has seven bits a byte, the lowest first, the top bit set on all but the last byte, and no more bytes than
//! it needs. Nothing here has a checksum, because the record batch has one. Bytes from the disk are decoded or refused:
//! they never cause a panic, and no allocation trusts a count.

use crate::types::{Offset, TimestampMs, TopicId};

/// The version of the value.
const VERSION: u8 = 1;
/// The most bytes of a varint.
pub(super) const MAX_VARINT: usize = 10;
/// The value's bytes before its varints.
pub(super) const FIXED_BYTES: usize = 17;

/// The decoded value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// The fingerprint of the request that was stored.
    pub(crate) fingerprint: [u8; 16],
    /// When the key is forgotten.
    pub(crate) expires: TimestampMs,
    /// The index of each part's partition, and its first offset; in the request's order.
    pub(crate) parts: Vec<(u32, Offset)>,
    /// The caller's note.
    pub(crate) note: &'a [u8],
}

/// The record's key.
pub(crate) fn encode_id(topic: TopicId, key: &[u8]) -> Vec<u8> {
    let mut id = Vec::with_capacity(MAX_VARINT + key.len());
    put_varint(&mut id, topic.0);
    id.extend_from_slice(key);
    id
}

/// The topic and the caller's key that a record's key stands for.
pub(crate) fn decode_id(mut id: &[u8]) -> Option<(TopicId, &[u8])> {
    let topic = take_varint(&mut id)?;
    Some((TopicId(topic), id))
}

impl<'a> Entry<'a> {
    /// The record's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let parts = self.parts.len() * 2 * MAX_VARINT;
        let mut value = Vec::with_capacity(FIXED_BYTES + 2 * MAX_VARINT + parts + self.note.len());
        value.push(VERSION);
        value.extend_from_slice(&self.fingerprint);
        let expires = self.expires.get();
        put_varint(&mut value, ((expires << 1) ^ (expires >> 63)) as u64);
        put_varint(&mut value, self.parts.len() as u64);
        for (partition, base_offset) in &self.parts {
            put_varint(&mut value, u64::from(*partition));
            put_varint(&mut value, base_offset.get());
        }
        value.extend_from_slice(self.note);
        value
    }

    /// Reads a record's value; the error says what is wrong with it.
    pub(crate) fn decode(value: &'a [u8]) -> Result<Self, &'static str> {
        const CUT: &str = "it ends in the middle of a field";
        let (version, rest) = value.split_first().ok_or(CUT)?;
        if *version != VERSION {
            return Err("it is of a version that this program does not know");
        }
        let (fingerprint, mut rest) = rest.split_first_chunk::<16>().ok_or(CUT)?;
        let expires = take_varint(&mut rest).ok_or(CUT)?;
        let count = take_varint(&mut rest).ok_or(CUT)?;
        // Each part takes two bytes at least.
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= rest.len() / 2)
            .ok_or("it is too short for its parts")?;
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let partition = take_varint(&mut rest).ok_or(CUT)?;
            let base_offset = take_varint(&mut rest).ok_or(CUT)?;
            let partition = u32::try_from(partition).map_err(|_| "the index of a partition is too large")?;
            parts.push((
                partition,
                Offset::try_new(base_offset).ok_or("an offset is too large")?,
            ));
        }
        Ok(Self {
            fingerprint: *fingerprint,
            expires: TimestampMs((expires >> 1) as i64 ^ -((expires & 1) as i64)),
            parts,
            note: rest,
        })
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number off the front of `bytes`; `None` if they end within it, it does not fit, or it is longer than needed.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for at in 0..MAX_VARINT {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if at == MAX_VARINT - 1 && bits > 1 || at > 0 && byte == 0 {
            return None;
        }
        number |= bits << (7 * at);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_comes_back_whatever_is_in_it(
            topic: u64, key: Vec<u8>, fingerprint: [u8; 16], expires: i64,
            parts in proptest::collection::vec((any::<u32>(), 0..=i64::MAX as u64), 0..8), note: Vec<u8>,
        ) {
            let id = encode_id(TopicId(topic), &key);
            prop_assert_eq!(decode_id(&id), Some((TopicId(topic), &key[..])));
            let parts = parts.into_iter().map(|(index, base)| (index, Offset::new(base))).collect();
            let entry = Entry { fingerprint, expires: TimestampMs(expires), parts, note: &note };
            let value = entry.encode();
            prop_assert_eq!(Entry::decode(&value), Ok(entry));
        }

        #[test]
        fn any_bytes_are_an_entry_that_encodes_to_them_or_none(mut value: Vec<u8>, has_version: bool) {
            if has_version && let Some(version) = value.first_mut() {
                *version = VERSION;
            }
            if let Ok(entry) = Entry::decode(&value) {
                prop_assert_eq!(entry.encode(), value.clone());
            }
            if let Some((topic, key)) = decode_id(&value) {
                prop_assert_eq!(encode_id(topic, key), value);
            }
        }
    }

    #[test]
    fn a_cut_entry_and_one_that_promises_more_parts_than_it_has_bytes_are_none() {
        let entry = Entry {
            fingerprint: [7; 16],
            expires: TimestampMs(1_700_000_000_000),
            parts: vec![(3, Offset::new(70_000)), (4, Offset::new(1))],
            note: b"",
        };
        let value = entry.encode();
        for length in 0..value.len() {
            assert!(Entry::decode(&value[..length]).is_err(), "{length} bytes");
        }
        let mut long = vec![VERSION];
        long.extend_from_slice(&[0; 17]);
        put_varint(&mut long, u64::MAX);
        assert_eq!(Entry::decode(&long), Err("it is too short for its parts"));
        let mut future = value;
        future[0] = 2;
        assert!(Entry::decode(&future).is_err());
    }
}
