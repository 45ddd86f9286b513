//! A topic's description, and the two files that hold it.
//!
//! A topic exists because its description is there: in `topic.json`, and again in `topic.copy.json` beside it, because
//! without a description even whole records cannot be served. If one of the two is missing or damaged, it is written
//! again from the other when the log is opened; a damaged `topic.json` is kept as `topic.json.damaged`. If neither can
//! be read, the topic is reported and not served, and nothing in its directory is touched.
//!
//! Crash: a change writes `topic.json` first, so the copy may be older until the next start makes them equal.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::layout::{Layout, TOPIC_COPY, TOPIC_FILE};
use super::sealed::{SealError, VERSION, keep_aside, replace_file, seal_json, unseal_json};
use super::slots::read_if_exists;
use crate::error::{At, Error, Result};
use crate::io::disk::Disk;
use crate::types::TopicId;

/// The magic of `topic.json`.
pub(crate) const TOPIC_MAGIC: &str = "quipu-topic";
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
    /// A segment takes no more batches once it is this many milliseconds old.
    pub segment_ms: u64,
    /// Records older than this many milliseconds are deleted, a segment at a time; `None`: never.
    pub retention_ms: Option<u64>,
    /// The oldest segments of a partition are deleted as long as the rest still holds this many bytes; `None`: never.
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

impl TopicSettings {
    /// The defaults, but with segments of `segment_bytes`.
    pub fn segments_of(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            ..Self::default()
        }
    }
}

/// A topic's partition count, settings and properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// How many partitions it has; raised, never lowered.
    pub partitions: u32,
    /// The settings that the engine uses.
    pub settings: TopicSettings,
    /// Kept with the topic for the caller; means nothing to the engine.
    pub properties: BTreeMap<String, serde_json::Value>,
}

impl TopicSpec {
    /// A topic without properties.
    pub fn new(partitions: u32, settings: TopicSettings) -> Self {
        let properties = BTreeMap::new();
        Self {
            partitions,
            settings,
            properties,
        }
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

// What a file describes is made in memory, so its numbers have the same bounds as those of a caller.

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

/// The bytes of `topic.json` and of its copy.
pub(crate) fn description(name: &str, id: TopicId, spec: &TopicSpec) -> Vec<u8> {
    let body = TopicBody {
        name: name.to_owned(),
        id,
        partitions: spec.partitions,
        settings: spec.settings.clone(),
        properties: spec.properties.clone(),
    };
    seal_json(TOPIC_MAGIC, &body)
}

/// What is wrong with a copy that is whole but differs: a crash during a change leaves it like that.
pub(crate) const OLDER: &str = "it says something else";

/// What the two copies of a topic's description say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Described {
    /// Both copies say this.
    Whole(TopicBody),
    /// `topic.json` says this; the copy does not, for this reason.
    CopyFault(TopicBody, String),
    /// The copy says this; `topic.json` does not, for this reason.
    Fault(TopicBody, String),
    /// Neither can be read, for this reason.
    Unknown(String),
}

/// Reads both copies of a topic's description, and changes nothing.
///
/// # Errors
/// [`Error::Directory`] for a version that this program does not know; [`Error::Io`] if a file cannot be read.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Described> {
    let first = read_one(disk, &dir.join(TOPIC_FILE), name)?;
    let second = read_one(disk, &dir.join(TOPIC_COPY), name)?;
    Ok(match (first, second) {
        (Ok(body), Ok(copy)) if body == copy => Described::Whole(body),
        (Ok(body), Ok(_)) => Described::CopyFault(body, OLDER.into()),
        (Ok(body), Err(what)) => Described::CopyFault(body, what),
        (Err(what), Ok(copy)) => Described::Fault(copy, what),
        (Err(what), Err(_)) => Described::Unknown(what),
    })
}

fn read_one(disk: &dyn Disk, path: &Path, name: &str) -> Result<std::result::Result<TopicBody, String>> {
    let Some(bytes) = read_if_exists(disk, path)? else {
        return Ok(Err("missing".into()));
    };
    Ok(match unseal_json::<TopicBody>(TOPIC_MAGIC, &bytes) {
        Ok(body) if body.name == name => Ok(body),
        Ok(body) => Err(format!("it describes the topic {}", body.name)),
        Err(SealError::Damaged(what)) => Err(format!("damaged ({what})")),
        Err(SealError::Version(version)) => {
            return Err(Error::version(path, version, VERSION));
        }
    })
}

/// Writes the copy that is wrong again, and keeps a damaged `topic.json` aside. Says what was mended.
///
/// # Errors
/// What the disk said; the next start does it again.
pub(crate) fn mend(disk: &dyn Disk, dir: &Path, described: &Described) -> Result<Option<String>> {
    let (body, name, what) = match described {
        Described::Whole(_) | Described::Unknown(_) => return Ok(None),
        Described::CopyFault(body, what) => (body, TOPIC_COPY, what),
        Described::Fault(body, what) => (body, TOPIC_FILE, what),
    };
    let path = dir.join(name);
    let kept = if name == TOPIC_FILE {
        keep_aside(disk, &path)
    } else {
        String::new()
    };
    replace_file(disk, &path, &seal_json(TOPIC_MAGIC, body))
        .and_then(|()| disk.sync_dir(dir))
        .at("writing", &path)?;
    Ok(Some(format!(
        "{}: {what}; it was written again from its copy{kept}",
        path.display()
    )))
}

/// The description of every topic, by the name of its directory; changes nothing.
///
/// # Errors
/// As for [`read`].
pub(crate) fn read_all(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(String, Described)>> {
    let dir = layout.topics_dir();
    let entries = disk.list(&dir).at("listing", &dir)?;
    let dirs = entries.into_iter().filter(|entry| entry.is_dir);
    dirs.map(|entry| {
        Ok((
            entry.name.clone(),
            read(disk, &dir.join(&entry.name), &entry.name)?,
        ))
    })
    .collect()
}

/// Mends the descriptions that can be mended, and returns those of the topics that can be served.
pub(crate) fn mend_all(
    disk: &dyn Disk,
    layout: &Layout,
    all: Vec<(String, Described)>,
    damage: &mut Vec<String>,
) -> Vec<TopicBody> {
    let mut topics: Vec<TopicBody> = Vec::new();
    for (name, described) in all {
        let dir = layout.topics_dir().join(&name);
        // Needs a little space, which may not be there: then it is mended at a later start.
        match mend(disk, &dir, &described) {
            Ok(mended) => {
                if matches!(described, Described::Fault(..)) {
                    damage.extend(mended);
                }
            }
            Err(error) => tracing::warn!(topic = name, %error, "a topic's description was not mended"),
        }
        match described {
            Described::Whole(body) | Described::CopyFault(body, _) | Described::Fault(body, _) => {
                topics.push(body);
            }
            Described::Unknown(what) => damage.push(format!(
                "{}: {what}, and {TOPIC_COPY} beside it is of no use either: the topic {name} is not served, its files are \
                 left alone; restore one of the two from a backup and restart",
                dir.join(TOPIC_FILE).display(),
            )),
        }
    }
    topics
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
            settings: TopicSettings::segments_of(MAX_SEGMENT_BYTES),
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
}
