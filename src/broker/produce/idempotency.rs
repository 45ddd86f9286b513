//! Idempotency keys: a repeated call is appended once, and answered as the first time.
//!
//! The log stores a key in the same round as the records of its call, and remembers it for the topic's
//! `dedupe_window_ms` ([`Once`]). Keys of calls over several topics are the server's own, and are remembered for the
//! longest of the topics' times. A fingerprint of the whole call is stored with it, to tell a repetition from another
//! call with the same key, and a note from which the answer is made again.
//!
//! The wire chooses what a fingerprint covers besides the records ([`Covered`]).
//!
//! Each unit of an upload has its own key, made of the call's key and the unit's number: a retry appends the missing
//! units.

use std::sync::atomic::Ordering::{Acquire, Release};

use xxhash_rust::xxh3::Xxh3;

use super::Producer;
use crate::broker::access::secret::digest;
use crate::broker::blocking::Share;
use crate::broker::caller::Caller;
use crate::broker::engine::{Appended, Once, TimestampMs, Topic, TopicId};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::catalog;

const MAX_KEY_BYTES: usize = 255;

/// A hash of everything in a call, or in one unit of it.
pub type Fingerprint = [u8; 16];

/// The texts of a call that its fingerprint covers besides the records, in order.
#[derive(Default)]
pub struct Covered(Xxh3);

impl Covered {
    /// Adds a text with its length before it, so that different texts never make the same bytes.
    pub fn add(&mut self, text: &[u8]) {
        self.0.update(&(text.len() as u64).to_be_bytes());
        self.0.update(text);
    }
}

/// The key of a call, with the hash of everything that its fingerprint covers except the records.
pub struct Key {
    /// The topic; `None` for a key of the server.
    topic: Option<TopicId>,
    key: Vec<u8>,
    hasher: Xxh3,
}

impl Key {
    /// A key for calls to a topic, or (`None`) one of the server, for calls to several topics. Such a key is the caller's own: a
    /// digest of whoever has signed in is a part of it.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] (without a field) for a key that is not 1 to 255 characters of visible ASCII.
    pub fn new(
        caller: &Caller,
        topic: Option<TopicId>,
        key: &[u8],
        covered: Covered,
    ) -> Result<Box<Self>, Refusal> {
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
            return Err(Refusal::new(
                Reason::InvalidRequest,
                "Idempotency-Key must be 1 to 255 characters of visible ASCII, without spaces",
            ));
        }
        let mut key = key.to_vec();
        if let (None, Some(name)) = (topic, caller.principal()) {
            // No client's key has such a byte.
            key.push(1);
            key.extend_from_slice(&digest(name.as_bytes())[..16]);
        }
        Ok(Box::new(Self {
            topic,
            key,
            hasher: covered.0,
        }))
    }

    /// A hasher to continue with the records, or with those of one unit.
    pub fn hasher(&self) -> Xxh3 {
        self.hasher.clone()
    }

    /// What to remember of a unit; a call that is no upload has the one unit 0. [`expiry`] says until when.
    pub(super) fn once(
        &self,
        unit: u32,
        fingerprint: Fingerprint,
        expires: TimestampMs,
        note: Vec<u8>,
    ) -> Once {
        Once {
            topic: self.topic,
            key: self.of_unit(unit),
            fingerprint,
            expires,
            note,
        }
    }

    /// The key of a unit. A client's key has no byte 0, so it never equals the key of a later unit.
    fn of_unit(&self, unit: u32) -> Vec<u8> {
        let mut key = self.key.clone();
        if unit > 0 {
            key.push(0);
            key.extend_from_slice(&unit.to_be_bytes());
        }
        key
    }
}

/// When a key is forgotten that is stored with records of a topic at the time `now`.
pub(super) fn expiry(topic: &Topic, now: TimestampMs) -> TimestampMs {
    let window = catalog::dedupe_window(&topic.spec()).as_millis();
    let window = i64::try_from(window).unwrap_or(i64::MAX);
    TimestampMs(now.get().saturating_add(window))
}

impl Producer {
    /// Prepares the log for keys, if it is not prepared: that waits for the disk, once in the life of a data directory.
    ///
    /// # Errors
    /// Those of [`Log::prepare_keys`](crate::broker::engine::Log::prepare_keys).
    pub async fn prepare_keys(&self) -> Result<(), Refusal> {
        if self.keys_prepared.load(Acquire) {
            return Ok(());
        }
        let (log, is_prepared) = (self.log.clone(), self.keys_prepared.clone());
        let prepare = move || {
            log.prepare_keys()?;
            is_prepared.store(true, Release);
            Ok(())
        };
        self.blocking.attempt(Share::Change, prepare).await
    }

    /// The result of the unit's first append; `None` if none is known. Call this before checking anything that may have
    /// changed since then, like limits and the number of partitions.
    ///
    /// # Errors
    /// [`Reason::IdempotencyKeyReused`] if the key belongs to another call.
    pub(super) fn recall(
        &self,
        key: &Key,
        unit: u32,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Appended>, Refusal> {
        let known = self.log.recall(key.topic, &key.of_unit(unit), fingerprint);
        Ok(known.transpose()?)
    }
}

/// The fingerprint of what was hashed.
pub fn fingerprint(hasher: &Xxh3) -> Fingerprint {
    hasher.digest128().to_be_bytes()
}

/// How a body's records of one topic were placed the first time: from this and the body, the placement is computed
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// The topic's partitions at the time.
    pub partitions: u32,
    /// The partition of records without a key.
    pub unkeyed: Option<u32>,
}

/// The first byte of a note is its kind.
const FIRST: u8 = b'p';
const PARTS: u8 = b'u';
const COUNT: u8 = b'b';

/// The note of a whole call: of each of its topics, in the order in which the body names them first.
pub(super) fn encode_firsts(firsts: impl Iterator<Item = First>) -> Vec<u8> {
    // No topic has so many partitions.
    let numbers = firsts.flat_map(|first| [first.partitions, first.unkeyed.unwrap_or(u32::MAX)]);
    encode(FIRST, &numbers.collect::<Vec<_>>())
}

pub(super) fn decode_firsts(note: &[u8]) -> Result<Vec<First>, Refusal> {
    let numbers = decode(FIRST, note).ok_or_else(unreadable)?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() || pairs.iter().any(|[partitions, _]| *partitions == 0) {
        return Err(unreadable());
    }
    let first = |[partitions, unkeyed]: &[u32; 2]| First {
        partitions: *partitions,
        unkeyed: (*unkeyed != u32::MAX).then_some(*unkeyed),
    };
    Ok(pairs.iter().map(first).collect())
}

/// The note of a unit: the partition of each part, and how many records it has.
pub(super) fn encode_parts(parts: &[(u32, u32)]) -> Vec<u8> {
    let numbers: Vec<u32> = parts
        .iter()
        .flat_map(|(partition, records)| [*partition, *records])
        .collect();
    encode(PARTS, &numbers)
}

pub(super) fn decode_parts(note: &[u8]) -> Result<Vec<(u32, u32)>, Refusal> {
    let numbers = decode(PARTS, note).ok_or_else(unreadable)?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.iter().any(|[_, records]| *records == 0) {
        return Err(unreadable());
    }
    Ok(pairs
        .iter()
        .map(|[partition, records]| (*partition, *records))
        .collect())
}

/// The note of record batches: how many records they have.
pub(super) fn encode_count(records: u32) -> Vec<u8> {
    encode(COUNT, &[records])
}

pub(super) fn decode_count(note: &[u8]) -> Result<u32, Refusal> {
    match decode(COUNT, note).as_deref() {
        Some([records]) if *records > 0 => Ok(*records),
        _ => Err(unreadable()),
    }
}

fn encode(kind: u8, numbers: &[u32]) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
    std::iter::once(kind).chain(numbers).collect()
}

fn decode(kind: u8, note: &[u8]) -> Option<Vec<u32>> {
    let (numbers, rest) = note.strip_prefix(&[kind])?.as_chunks::<4>();
    let numbers = numbers.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
    rest.is_empty().then_some(numbers)
}

/// The fingerprint is that of the same request, so a note of another kind is an internal error.
#[cold]
pub(super) fn unreadable() -> Refusal {
    tracing::error!("what is remembered of an idempotency key does not fit its request");
    Refusal::new(
        Reason::Internal,
        "the request was appended before, and its answer cannot be made again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_as_they_were_and_no_other_bytes_are_taken_for_one() {
        let first = |partitions, unkeyed| First { partitions, unkeyed };
        let encode_all = |firsts: &[First]| encode_firsts(firsts.iter().copied());
        for firsts in [
            vec![first(1, None)],
            vec![first(10_000, Some(9_999))],
            vec![first(3, None), first(1, Some(0)), first(7, None)],
        ] {
            assert_eq!(decode_firsts(&encode_all(&firsts)).unwrap(), firsts);
        }
        let parts = vec![(0, 1), (7, 10_000)];
        assert_eq!(decode_parts(&encode_parts(&parts)).unwrap(), parts);
        assert_eq!(decode_count(&encode_count(3)).unwrap(), 3);
        for wrong in [
            &b""[..],
            b"p",
            b"x\0\0\0\x01",
            &encode_all(&[]),
            &encode_all(&[first(0, None)]),
            &encode_all(&[first(1, None), first(0, None)]),
            &encode_parts(&[(1, 0)]),
            &encode_count(0),
        ] {
            assert!(decode_firsts(wrong).is_err(), "{wrong:?}");
            assert!(decode_parts(wrong).is_err(), "{wrong:?}");
            assert!(decode_count(wrong).is_err(), "{wrong:?}");
        }
        for cut in 0..9 {
            let note = encode_parts(&[(1, 2)]);
            assert!(cut == 1 || decode_parts(&note[..cut]).is_err(), "{cut}");
        }
    }
}
