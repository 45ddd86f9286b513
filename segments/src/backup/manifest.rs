//! The two files that say what a copy is: `backup.json` and `contents.json`, sealed as `files/sealed` has it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::files::description::TopicBody;
use crate::files::layout::BACKUP_FILE;
use crate::files::sealed::{self, SealError, replace_file, seal_json, unseal_json};
use crate::files::slots::{list_if_exists, read_if_exists};
use crate::io::disk::{Disk, RealDisk};
use crate::types::{Offset, TimestampMs};

const MAGIC: &str = "quipu-backup";
const CONTENTS_MAGIC: &str = "quipu-backup-contents";
/// The file with the state.
pub(super) const STATE_FILE: &str = "state";
/// The directory with the segments.
pub(super) const TOPICS_DIR: &str = "topics";
const CONTENTS_FILE: &str = "contents.json";
/// The longest name of a backup.
const MAX_NAME_BYTES: usize = 100;
/// What the names of copies begin with that are being removed.
pub(super) const REMOVING: &str = ".removing-";

/// Whether a copy is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    /// It is being written.
    Running,
    /// It is whole and durable.
    Done,
    /// It was not finished, and never will be.
    Failed,
}

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its name.
    pub name: String,
    /// Whether it is whole.
    pub state: BackupState,
    /// The id of the data directory that it was taken from.
    pub directory_id: String,
    /// When it was begun.
    pub started: TimestampMs,
    /// When it was finished, or failed.
    pub finished: Option<TimestampMs>,
    /// The bytes of all its files.
    pub bytes: u64,
    /// The bytes that were written for it; the others are shared with other files.
    pub copied_bytes: u64,
    /// How many files of segments and indexes it has.
    pub files: u64,
    /// How many of them are damaged, as the files of the log are that they were made of; and how many ranges of offsets
    /// are in none of them, because files of the log were missing or too short.
    #[serde(default)]
    pub damaged_files: u64,
    /// For how many microseconds no round of appends could begin.
    pub held_us: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// Length and checksum of its `contents.json`.
    contents: Option<Sum>,
}

/// The length of a file in bytes, and the CRC-32 (IEEE) of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl Sum {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            crc32: crc32fast::hash(bytes),
        }
    }
}

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) next_topic_id: u64,
    /// Every round below this one is in the copy.
    pub(super) round: u64,
    pub(super) state: Sum,
    pub(super) topics: Vec<TopicContents>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicContents {
    pub(super) description: TopicBody,
    /// One for each partition, in order.
    pub(super) partitions: Vec<PartitionContents>,
}

impl TopicContents {
    /// Every file with its place below the directory of topics.
    pub(super) fn places(&self) -> impl Iterator<Item = (PathBuf, &FileContents)> + Clone {
        let id = self.description.id.0;
        let partitions = self.partitions.iter().enumerate();
        partitions.flat_map(move |(index, partition)| {
            let files = partition.files.iter();
            files.map(move |file| (place(id, index).join(&file.name), file))
        })
    }
}

/// The directory of a partition in a copy.
pub(super) fn place(topic: u64, partition: usize) -> PathBuf {
    Path::new(&topic.to_string()).join(partition.to_string())
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartitionContents {
    pub(super) log_start_offset: Offset,
    pub(super) next_offset: Offset,
    pub(super) active: Option<ActiveContents>,
    pub(super) files: Vec<FileContents>,
}

/// The segment that is appended to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ActiveContents {
    pub(super) base_offset: Offset,
    pub(super) position: u64,
    pub(super) made: TimestampMs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileContents {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) sum: Sum,
    /// When the file that it was made of was last written.
    pub(super) modified: Option<TimestampMs>,
    /// The checksum that the same file had in an earlier copy, if it is another one: it has been damaged since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) whole_crc32: Option<u32>,
}

impl FileContents {
    /// What it held before it was damaged, or holds.
    pub(super) fn whole(&self) -> Sum {
        Sum {
            crc32: self.whole_crc32.unwrap_or(self.sum.crc32),
            ..self.sum
        }
    }
}

impl Backup {
    /// A copy that begins now.
    pub(crate) fn begun(name: &str, directory_id: u64, now: TimestampMs) -> Self {
        Self {
            name: name.to_owned(),
            state: BackupState::Running,
            directory_id: format!("{directory_id:016x}"),
            started: now,
            finished: None,
            bytes: 0,
            copied_bytes: 0,
            files: 0,
            damaged_files: 0,
            held_us: 0,
            error: None,
            contents: None,
        }
    }

    /// Writes it in place of what was there; the caller must sync the directory.
    pub(super) fn write(&self, disk: &dyn Disk, copy: &Path) -> Result<()> {
        let path = copy.join(BACKUP_FILE);
        replace_file(disk, &path, &seal_json(MAGIC, self)).at("writing", &path)
    }

    /// Writes its contents, and notes their checksum.
    pub(super) fn write_contents(&mut self, disk: &dyn Disk, copy: &Path, contents: &Contents) -> Result<()> {
        let path = copy.join(CONTENTS_FILE);
        let sealed = seal_json(CONTENTS_MAGIC, contents);
        self.contents = Some(Sum::of(&sealed));
        replace_file(disk, &path, &sealed).at("writing", &path)
    }

    /// The contents of a whole copy.
    ///
    /// # Errors
    /// [`Error::Directory`] if the copy is not whole, or its list of files is damaged.
    pub(super) fn read_contents(&self, disk: &dyn Disk, copy: &Path) -> Result<Contents> {
        let Some(expected) = self.contents.filter(|_| self.state == BackupState::Done) else {
            return Err(Error::Directory(format!(
                "{} is not a whole backup: it was not finished",
                copy.display()
            )));
        };
        let path = copy.join(CONTENTS_FILE);
        let bytes = read_if_exists(disk, &path)?.unwrap_or_default();
        if Sum::of(&bytes) != expected {
            return Err(damaged(&path, "its checksum is not what backup.json says"));
        }
        unseal_json(CONTENTS_MAGIC, &bytes).map_err(|error| refusal(&path, error))
    }
}

/// What a file of a backup is refused with.
pub(super) fn damaged(path: &Path, what: &str) -> Error {
    Error::Directory(format!("the backup is damaged: {}: {what}", path.display()))
}

fn refusal(path: &Path, error: SealError) -> Error {
    match error {
        SealError::Version(version) => Error::version(path, version, sealed::VERSION),
        SealError::Damaged(what) => damaged(path, &what),
    }
}

/// Checks a backup's name, which is also the name of a directory.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with('.');
    match fits && name.bytes().all(is_known) {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "a backup's name has 1 to {MAX_NAME_BYTES} of the characters A-Z a-z 0-9 . _ -, and does not begin with a dot"
        ))),
    }
}

/// Whether a directory is a backup, whole or not.
pub fn is_backup(dir: &Path) -> bool {
    RealDisk::new().exists(&dir.join(BACKUP_FILE)).unwrap_or(false)
}

/// Reads what a copy says about itself; `None` if there is no such file.
///
/// # Errors
/// [`Error::Directory`] if the file is damaged or of another version.
pub(super) fn read(disk: &dyn Disk, copy: &Path) -> Result<Option<Backup>> {
    let path = copy.join(BACKUP_FILE);
    let Some(bytes) = read_if_exists(disk, &path)? else {
        return Ok(None);
    };
    unseal_json(MAGIC, &bytes)
        .map(Some)
        .map_err(|error| refusal(&path, error))
}

/// A backup in `dir`. One that says that it is running is not finished by anybody who could be asked: it has failed.
pub(crate) fn find(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Option<Backup>> {
    let copy = dir.join(name);
    if !disk.exists(&copy).at("looking for", &copy)? {
        return Ok(None);
    }
    let interrupted = || Backup {
        state: BackupState::Failed,
        ..Backup::begun(name, 0, TimestampMs(0))
    };
    let mut found = match read(disk, &copy) {
        Ok(Some(found)) => found,
        Ok(None) => Backup {
            error: Some("it was interrupted as it began".into()),
            ..interrupted()
        },
        Err(Error::Directory(_)) => Backup {
            error: Some("its backup.json is damaged, or of another version".into()),
            ..interrupted()
        },
        Err(error) => return Err(error),
    };
    if found.state == BackupState::Running {
        found.state = BackupState::Failed;
        found.error = Some("it was interrupted by a stop of the server".into());
    }
    // The directory may have been renamed.
    name.clone_into(&mut found.name);
    Ok(Some(found))
}

/// All backups in `dir`.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<Backup>> {
    let mut found = Vec::new();
    for entry in list_if_exists(disk, dir)? {
        if entry.is_dir && check_name(&entry.name).is_ok() {
            found.extend(find(disk, dir, &entry.name)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["monday", "2026-11-29_22.00", "A", &"x".repeat(100)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(101);
        for name in [
            "", ".", "..", ".hidden", "../up", "a/b", "/etc", "a\\b", "a b", "a\0", "ä", "%2e", &long,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
