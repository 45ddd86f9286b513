//! Topics: what they are made of, and the file that says so.
//!
//! `topic.json` is the truth about whether a topic exists: it is written in a staging directory, synced, and renamed
//! into place with that directory. It is JSON, so that an operator can read it, on one line:
//!
//! | field | |
//! |---|---|
//! | `magic` | `quipu-topic`; of `FORMAT`, `quipu-data` |
//! | `version` | 1 |
//! | `crc32` | CRC-32 (IEEE) of the magic, the version in decimal digits, and the body's bytes, one after the other |
//! | `body` | `name`, `id`, `partitions`, `settings` and `properties`; of `FORMAT`, `id` (16 hexadecimal digits) and `made` (ms) |
//!
//! The four fields are the same in every version, and the checksum covers the version: so a version from the future and a
//! flipped bit differ.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::partition::Partition;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::TopicId;

/// The most partitions that one topic may have.
pub(crate) const MAX_PARTITIONS: u32 = 1 << 20;
/// The largest segment that may be asked for, in bytes.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 1 << 31;

/// What the engine needs to know of a topic's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    /// A segment is closed before it would grow beyond this many bytes. At least 1 MiB is sensible.
    #[serde(deserialize_with = "segment_bytes")]
    pub segment_bytes: u64,
    /// A segment is closed when it was made this many milliseconds ago.
    pub segment_ms: u64,
    /// Records older than this many milliseconds are deleted, a segment at a time; `None`: never.
    pub retention_ms: Option<u64>,
    /// The oldest segments of a partition are deleted while the rest holds this many bytes; `None`: never.
    pub retention_bytes: Option<u64>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segment_ms: 7 * 24 * 3600 * 1000,
            retention_ms: None,
            retention_bytes: None,
        }
    }
}

/// What a topic is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// How many partitions it has; raised, never lowered.
    pub partitions: u32,
    /// What the engine goes by.
    pub settings: TopicSettings,
    /// Kept with the topic for the caller; means nothing to the engine.
    pub properties: BTreeMap<String, serde_json::Value>,
}

/// A topic that exists, or existed when it was looked up.
pub struct Topic {
    name: String,
    id: TopicId,
    /// Changed by `alter_topic` only, under the catalog's lock.
    inner: RwLock<Inner>,
    /// Set by the committer in the round of the deletion.
    deleted: AtomicBool,
}

struct Inner {
    spec: Arc<TopicSpec>,
    partitions: Arc<[Arc<Partition>]>,
}

impl Topic {
    pub(crate) fn new(name: String, id: TopicId, spec: TopicSpec, partitions: Vec<Arc<Partition>>) -> Self {
        assert_eq!(spec.partitions as usize, partitions.len(), "partitions of {name}");
        let inner = Inner {
            spec: Arc::new(spec),
            partitions: partitions.into(),
        };
        Self {
            name,
            id,
            inner: RwLock::new(inner),
            deleted: AtomicBool::new(false),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, which no other topic of this data directory ever has.
    #[must_use]
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// What it is made of at the moment.
    #[must_use]
    pub fn spec(&self) -> Arc<TopicSpec> {
        Arc::clone(&self.inner.read().spec)
    }

    /// How many partitions it has at the moment.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.inner.read().partitions.len() as u32
    }

    /// A partition by its index.
    #[must_use]
    pub fn partition(&self, index: u32) -> Option<Arc<Partition>> {
        self.inner.read().partitions.get(index as usize).cloned()
    }

    /// All partitions, in order.
    #[must_use]
    pub fn partitions(&self) -> Arc<[Arc<Partition>]> {
        Arc::clone(&self.inner.read().partitions)
    }

    /// Whether it has been deleted since it was looked up.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        for partition in &*self.partitions() {
            partition.set_deleted();
        }
    }

    pub(crate) fn replace(&self, spec: TopicSpec, partitions: Vec<Arc<Partition>>) {
        let settings = Arc::new(spec.settings.clone());
        for partition in &partitions {
            partition.set_settings(Arc::clone(&settings));
        }
        *self.inner.write() = Inner {
            spec: Arc::new(spec),
            partitions: partitions.into(),
        };
    }
}

/// The body of `topic.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicBody {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    #[serde(deserialize_with = "partitions")]
    pub(crate) partitions: u32,
    pub(crate) settings: TopicSettings,
    #[serde(default)]
    pub(crate) properties: BTreeMap<String, serde_json::Value>,
}

// What is read is made in memory: the numbers of a file are held against the same bounds as those of a caller.

fn partitions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    within(u32::deserialize(deserializer)?, MAX_PARTITIONS)
}

fn segment_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(u64::deserialize(deserializer)?, MAX_SEGMENT_BYTES)
}

fn within<N: PartialOrd + From<u8> + Display, E: serde::de::Error>(number: N, most: N) -> Result<N, E> {
    if number < N::from(1) || number > most {
        return Err(E::custom(format!("{number}, expected 1 to {most}")));
    }
    Ok(number)
}

/// The version of `topic.json` and of `FORMAT`.
pub(crate) const VERSION: u32 = 1;

#[derive(Deserialize)]
struct SealedJson<'a> {
    magic: &'a str,
    version: u32,
    crc32: u32,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// A small JSON file with magic, version and checksum.
pub(crate) fn seal_json(magic: &str, body: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_string(body).expect("strings, numbers and maps of them always serialize");
    let crc = checksum(magic, VERSION, &body);
    sealed(magic, VERSION, crc, &body)
}

fn sealed(magic: &str, version: u32, crc: u32, body: &str) -> Vec<u8> {
    format!("{{\"magic\":\"{magic}\",\"version\":{version},\"crc32\":{crc},\"body\":{body}}}\n").into_bytes()
}

fn checksum(magic: &str, version: u32, body: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [magic, &version.to_string(), body] {
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// What keeps a sealed JSON file from being read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SealError {
    Version(u32),
    Damaged(String),
}

/// Opens what [`seal_json`] made.
pub(crate) fn unseal_json<T: DeserializeOwned>(magic: &str, bytes: &[u8]) -> Result<T, SealError> {
    let damaged = |what: String| SealError::Damaged(what);
    let sealed: SealedJson<'_> = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if sealed.magic != magic {
        return Err(damaged(format!("magic {:?}, expected {magic:?}", sealed.magic)));
    }
    let crc = checksum(magic, sealed.version, sealed.body.get());
    if crc != sealed.crc32 {
        return Err(damaged(format!("crc32 {crc}, expected {}", sealed.crc32)));
    }
    if sealed.version != VERSION {
        return Err(SealError::Version(sealed.version));
    }
    serde_json::from_str(sealed.body.get()).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_file_comes_back_and_a_changed_one_does_not() {
        let body = TopicBody {
            name: "orders".into(),
            id: TopicId(4),
            partitions: 6,
            settings: TopicSettings::default(),
            properties: BTreeMap::from([("ack".to_owned(), "written".into())]),
        };
        let bytes = seal_json("quipu-topic", &body);
        assert_eq!(unseal_json::<TopicBody>("quipu-topic", &bytes), Ok(body));
        let changed = String::from_utf8(bytes.clone())
            .unwrap()
            .replace("\"partitions\":6", "\"partitions\":7");
        assert!(unseal_json::<TopicBody>("quipu-topic", changed.as_bytes()).is_err());
        let text = String::from_utf8(bytes).unwrap();
        let flipped = text.replace("\"version\":1", "\"version\":3");
        let found = unseal_json::<TopicBody>("quipu-topic", flipped.as_bytes());
        assert!(matches!(found, Err(SealError::Damaged(_))), "{found:?}");
    }

    #[test]
    fn a_topic_file_with_more_partitions_or_larger_segments_than_there_can_be_is_damaged() {
        let body = TopicBody {
            name: "orders".into(),
            id: TopicId(4),
            partitions: MAX_PARTITIONS,
            settings: TopicSettings {
                segment_bytes: MAX_SEGMENT_BYTES,
                ..TopicSettings::default()
            },
            properties: BTreeMap::new(),
        };
        assert!(unseal_json::<TopicBody>("t", &seal_json("t", &body)).is_ok());
        for (partitions, segment_bytes) in [(u32::MAX, 1), (0, 1), (1, u64::MAX), (1, 0)] {
            let mut wrong = body.clone();
            wrong.partitions = partitions;
            wrong.settings.segment_bytes = segment_bytes;
            let found = unseal_json::<TopicBody>("t", &seal_json("t", &wrong));
            assert!(matches!(found, Err(SealError::Damaged(_))), "{found:?}");
        }
    }

    #[test]
    fn a_version_from_the_future_is_named_whatever_its_body() {
        let body = "{\"new\":true}";
        let future = sealed("quipu-topic", 2, checksum("quipu-topic", 2, body), body);
        assert_eq!(
            unseal_json::<TopicBody>("quipu-topic", &future),
            Err(SealError::Version(2))
        );
    }
}
