//! What a check of a data directory finds, and how bad it is.
//!
//! There are three degrees. *Damage*: data is lost, and no start brings it back. A *fault*: a file is not as it was
//! written, but nothing is lost, because the data is stored elsewhere too; the next start or `repair` writes the file
//! again. A *note*: something that a crash leaves and the next start cleans up.

use std::path::{Path, PathBuf};

use crate::files::state::StateEntry;
use crate::types::{FilePos, Offset, PartitionId};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether data is lost.
    pub is_damage: bool,
    /// Whether the file is not as it was written, though nothing is lost. A finding that is neither is a note.
    pub is_fault: bool,
    /// The file.
    pub path: PathBuf,
    /// Where in the file.
    pub position: Option<FilePos>,
    /// The offsets that cannot be read, the second exclusive.
    pub offsets: Option<(Offset, Offset)>,
    /// The partition of these offsets, such as `orders/3`.
    pub partition: Option<String>,
    /// The id of that partition, as the state's keys may contain it.
    pub partition_id: Option<PartitionId>,
    /// What was found against what was expected.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What was checked, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Topics with a description.
    pub topics: u64,
    /// Partitions of these topics.
    pub partitions: u64,
    /// Log files.
    pub segments: u64,
    /// Healthy batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of log files.
    pub bytes: u64,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// The state as the next start would have it, in order of its keys. Entries only in a damaged snapshot are missing.
    pub state: Vec<StateEntry>,
}

impl Verified {
    /// Whether data is lost.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_damage)
    }
}

/// The name of the partition in this directory, as operators know it: `orders/3`.
pub(crate) fn partition_name(dir: &Path) -> String {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    format!("{}/{}", name(dir.parent()), name(Some(dir)))
}

/// What to do about records that are lost.
pub(crate) fn restore(partition: &str, from: Offset, until: Offset) -> String {
    format!(
        "restore the file from a backup; or go on without these offsets: quipu verify DIR --repair --skip \
         {partition}:{from}-{until}"
    )
}
