//! `Idempotency-Key`: a request that is repeated is appended once, and answered as the first time.
//!
//! The log remembers a key with the records of its request, in one round, for the topic's `dedupe_window_ms` ([`crate::broker::engine::Once`]).
//! Here is what a request says in short, so that another one with the same key is told from a repetition, and what is
//! remembered for the answer.
//!
//! A repetition is what agrees in the query (decoded and sorted), the content type as it was sent, the headers of a CloudEvent, the
//! partition in the path, and the decoded body. `traceparent` is not part of it: each try may have its own.
//!
//! Of NDJSON each unit has a key of its own, made of the request's and its number: so a retry appends the units that are missing.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use xxhash_rust::xxh3::Xxh3;

use super::TopicCall;
use crate::broker::engine::{Appended, Once, TimestampMs, TopicId};
use crate::broker::refusal::Reason;
use crate::broker::topics::catalog;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::{Work, blocking};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const MAX_KEY_BYTES: usize = 255;

/// What a request says, in short.
pub(super) type Fingerprint = [u8; 16];

/// The key of a request, with all that its fingerprint is made of but the body.
pub(super) struct Key {
    topic: TopicId,
    key: Vec<u8>,
    window: Duration,
    hasher: Xxh3,
}

impl Key {
    /// The key that the request carries, if it does; `partition` is that of its path.
    ///
    /// # Errors
    /// 400 for two keys, and for one that is not 1 to 255 characters of visible ASCII.
    pub(super) fn of(
        call: &TopicCall<'_>,
        params: &Params,
        partition: Option<u32>,
    ) -> Result<Option<Box<Self>>, Problem> {
        let mut keys = call.parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = keys.next() else {
            return Ok(None);
        };
        let wrong = |detail| Err(Problem::invalid(IDEMPOTENCY_KEY.as_str(), detail));
        if keys.next().is_some() {
            return wrong("Idempotency-Key is given twice");
        }
        let key = key.as_bytes();
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
            return wrong("Idempotency-Key must be 1 to 255 characters of visible ASCII, without spaces");
        }
        Ok(Some(Box::new(Self {
            topic: call.topic.id(),
            key: key.to_vec(),
            window: catalog::dedupe_window(&call.topic.spec()),
            hasher: said_beside_the_body(call, params, partition),
        })))
    }

    /// Hashes what follows, the body or a unit of it, into a fingerprint.
    pub(super) fn hasher(&self) -> Xxh3 {
        self.hasher.clone()
    }

    /// Has the log made ready for keys, if it is not: that waits for the disk, once in the life of a data directory.
    ///
    /// # Errors
    /// Those of [`crate::broker::engine::Log::prepare_keys`].
    pub(super) async fn prepare(&self, call: &TopicCall<'_>) -> Result<(), Problem> {
        use std::sync::atomic::Ordering::{Acquire, Release};
        if call.app.keys_prepared.load(Acquire) {
            return Ok(());
        }
        let app = call.app.clone();
        blocking(app.blocking.clone(), Work::Change, move || {
            app.log.prepare_keys()?;
            app.keys_prepared.store(true, Release);
            Ok(())
        })
        .await
    }

    /// What the request was answered, if it is known that it was: it is looked at before anything that may have changed since,
    /// as limits and the number of partitions.
    ///
    /// # Errors
    /// 422 where the key belongs to another request.
    pub(super) fn recall(
        &self,
        call: &TopicCall<'_>,
        unit: u32,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Appended>, Problem> {
        let known = call.app.log.recall(self.topic, &self.of_unit(unit), fingerprint);
        Ok(known.transpose()?)
    }

    /// Has a unit remembered from `now` on; a request that is not NDJSON is its own unit 0.
    pub(super) fn once(&self, unit: u32, fingerprint: Fingerprint, now: TimestampMs, note: Vec<u8>) -> Once {
        let window = i64::try_from(self.window.as_millis()).unwrap_or(i64::MAX);
        Once {
            topic: self.topic,
            key: self.of_unit(unit),
            fingerprint,
            expires: TimestampMs(now.get().saturating_add(window)),
            note,
        }
    }

    /// No client's key holds a zero, so no unit's key is one of a client.
    fn of_unit(&self, unit: u32) -> Vec<u8> {
        let mut key = self.key.clone();
        if unit > 0 {
            key.push(0);
            key.extend_from_slice(&unit.to_be_bytes());
        }
        key
    }
}

pub(super) fn fingerprint(hasher: &Xxh3) -> Fingerprint {
    hasher.digest128().to_be_bytes()
}

/// Hashes all that a request says but its body; each text with its length before it, so that no two requests run together alike.
fn said_beside_the_body(call: &TopicCall<'_>, params: &Params, partition: Option<u32>) -> Xxh3 {
    let mut hasher = Xxh3::new();
    let mut add = |text: &[u8]| {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text);
    };
    let number = |number: usize| (number as u64).to_be_bytes();
    let query = params.sorted();
    add(&number(query.len()));
    for (name, value) in query {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    let headers = &call.parts.headers;
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    add(&[u8::from(content_type.is_some())]);
    add(content_type.unwrap_or_default());
    let mut event: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| name.starts_with("ce-"))
        .collect();
    // One name's values keep their order.
    event.sort_by_key(|(name, _)| *name);
    add(&number(event.len()));
    for (name, value) in event {
        add(name.as_bytes());
        add(value);
    }
    add(&partition.map_or([0; 5], |index| {
        let [a, b, c, d] = index.to_be_bytes();
        [1, a, b, c, d]
    }));
    hasher
}

/// How the records of a body were placed the first time: with this, its placement is found again from the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    /// The topic's partitions at the time.
    pub(super) partitions: u32,
    /// Where records without a key went.
    pub(super) unkeyed: Option<u32>,
}

/// Notes begin with what they are.
const FIRST: u8 = b'p';
const PARTS: u8 = b'u';
const COUNT: u8 = b'b';

impl First {
    pub(super) fn encode(self) -> Vec<u8> {
        // No topic has so many partitions.
        let unkeyed = self.unkeyed.unwrap_or(u32::MAX);
        encode(FIRST, &[self.partitions, unkeyed])
    }

    pub(super) fn decode(note: &[u8]) -> Result<Self, Problem> {
        match decode(FIRST, note).as_deref() {
            Some([partitions, unkeyed]) if *partitions > 0 => Ok(Self {
                partitions: *partitions,
                unkeyed: (*unkeyed != u32::MAX).then_some(*unkeyed),
            }),
            _ => Err(unreadable()),
        }
    }
}

/// The note of a unit of NDJSON: the partition of each part, and how many records it has.
pub(super) fn encode_parts(parts: &[(u32, u32)]) -> Vec<u8> {
    let numbers: Vec<u32> = parts
        .iter()
        .flat_map(|(partition, records)| [*partition, *records])
        .collect();
    encode(PARTS, &numbers)
}

pub(super) fn decode_parts(note: &[u8]) -> Result<Vec<(u32, u32)>, Problem> {
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

pub(super) fn decode_count(note: &[u8]) -> Result<u32, Problem> {
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

/// The fingerprint says that it is the same request, so the note is of the same kind.
#[cold]
pub(super) fn unreadable() -> Problem {
    tracing::error!("what is remembered of an idempotency key does not fit its request");
    Problem::new(
        Reason::Internal,
        "the request was appended before, and its answer cannot be made again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_as_they_were_and_no_other_bytes_are_taken_for_one() {
        for first in [
            First {
                partitions: 1,
                unkeyed: None,
            },
            First {
                partitions: 10_000,
                unkeyed: Some(9_999),
            },
        ] {
            assert_eq!(First::decode(&first.encode()).unwrap(), first);
        }
        let parts = vec![(0, 1), (7, 10_000)];
        assert_eq!(decode_parts(&encode_parts(&parts)).unwrap(), parts);
        assert_eq!(decode_count(&encode_count(3)).unwrap(), 3);
        let first = First {
            partitions: 0,
            unkeyed: None,
        };
        for wrong in [
            &b""[..],
            b"p",
            b"x\0\0\0\x01",
            &first.encode(),
            &encode_parts(&[(1, 0)]),
            &encode_count(0),
        ] {
            assert!(First::decode(wrong).is_err(), "{wrong:?}");
            assert!(decode_parts(wrong).is_err(), "{wrong:?}");
            assert!(decode_count(wrong).is_err(), "{wrong:?}");
        }
        for cut in 0..9 {
            let note = encode_parts(&[(1, 2)]);
            assert!(cut == 1 || decode_parts(&note[..cut]).is_err(), "{cut}");
        }
    }
}
