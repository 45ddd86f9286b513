//! The two copies of a topic's description.
//!
//! `topic.json` is the truth about whether a topic exists, and `topic.copy.json` beside it says the same: without its
//! description a topic's records cannot be served, however whole they are. Whichever is missing or damaged is written
//! again from the other when the log is opened; a damaged `topic.json` is kept as `topic.json.damaged`. Where neither
//! can be read the topic is reported and not served, and nothing in its directory is touched.
//!
//! Crash: a change writes `topic.json` first, so the copy may be older until the next start makes them equal.

use std::path::Path;

use crate::catalog::{TOPIC_MAGIC, replace_file};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::identity::keep_aside;
use crate::layout::{Layout, TOPIC_COPY, TOPIC_FILE};
use crate::slots::read_if_exists;
use crate::topic::{self, SealError, TopicBody, seal_json, unseal_json};

/// What is wrong with a copy that is whole: a change that was cut short leaves it like that.
pub(crate) const OLDER: &str = "it says something else";

/// What the description of a topic's directory is worth.
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
            return Err(Error::version(path, version, topic::VERSION));
        }
    })
}

/// Writes whichever copy is wrong again, and keeps a damaged `topic.json` aside. Says what was mended.
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
        .map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
    Ok(Some(format!(
        "{}: {what}; it was written again from its copy{kept}",
        path.display()
    )))
}

/// What is known of every topic, by the name of its directory; changes nothing.
///
/// # Errors
/// As of [`read`].
pub(crate) fn read_all(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(String, Described)>> {
    let dir = layout.topics_dir();
    let entries = disk
        .list(&dir)
        .map_err(|error| Error::io(format!("listing {}", dir.display()), error))?;
    let dirs = entries.into_iter().filter(|entry| entry.is_dir);
    dirs.map(|entry| {
        Ok((
            entry.name.clone(),
            read(disk, &dir.join(&entry.name), &entry.name)?,
        ))
    })
    .collect()
}

/// Mends the descriptions that can be, and gives those that can be served.
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
