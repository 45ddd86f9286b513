//! The paths in a data directory. Only the names of segment files are also built elsewhere: in `segment` and `recover`.
//!
//! ```text
//! quipu-data/
//!   LOCK                       held while a process has the directory open
//!   FORMAT                     what the directory is, its version and its id
//!   checkpoint.0  checkpoint.1     two slots, written in turn, in place
//!   state.0  state.1               snapshots of the key-value state, likewise
//!   journal/{sequence:020}.journal
//!   topics/{topic}/topic.json  topic.copy.json
//!   topics/{topic}/{partition}/{base_offset:020}.log  .index  .timeindex
//!   staging/{id}/              a topic that is being made
//!   deleted/{id}/              a topic that is being removed
//!   memos/{name}               what the service can do without
//!   RESTORING                  only while a copy is being restored: what is there is not whole
//! ```

use std::path::{Path, PathBuf};

use crate::types::{Offset, TopicId};

/// The paths of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("FORMAT")
    }

    pub(crate) fn checkpoint(&self, slot: u64) -> PathBuf {
        self.root.join(format!("checkpoint.{slot}"))
    }

    pub(crate) fn state(&self, slot: u64) -> PathBuf {
        self.root.join(format!("state.{slot}"))
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn journal(&self, sequence: u64) -> PathBuf {
        self.journal_dir().join(format!("{sequence:020}.journal"))
    }

    pub(crate) fn topics_dir(&self) -> PathBuf {
        self.root.join("topics")
    }

    pub(crate) fn topic_dir(&self, name: &str) -> PathBuf {
        self.topics_dir().join(name)
    }

    pub(crate) fn staging_dir(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn deleted_dir(&self) -> PathBuf {
        self.root.join("deleted")
    }

    pub(crate) fn memos_dir(&self) -> PathBuf {
        self.root.join("memos")
    }

    pub(crate) fn restoring(&self) -> PathBuf {
        self.root.join("RESTORING")
    }

    pub(crate) fn deleted(&self, id: TopicId) -> PathBuf {
        self.deleted_dir().join(id.0.to_string())
    }
}

/// The file of a topic's description, in the topic's directory.
pub(crate) const TOPIC_FILE: &str = "topic.json";
/// A second copy of it.
pub(crate) const TOPIC_COPY: &str = "topic.copy.json";

/// The file that says what a copy of a log is, in the copy's directory (see `backup`).
pub(crate) const BACKUP_FILE: &str = "backup.json";

/// The base offset of a log file's name; `None` for any other file.
pub(crate) fn parse_log_name(name: &str) -> Option<Offset> {
    parse_number(name.strip_suffix(".log")?).and_then(Offset::try_new)
}

/// The base offset of an index file's name (not of a time index, which never is alone); `None` for any other file.
pub(crate) fn parse_index_name(name: &str) -> Option<Offset> {
    parse_number(name.strip_suffix(".index")?).and_then(Offset::try_new)
}

/// The sequence of a journal file's name; `None` for any other file.
pub(crate) fn parse_journal_name(name: &str) -> Option<u64> {
    parse_number(name.strip_suffix(".journal")?)
}

fn parse_number(digits: &str) -> Option<u64> {
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_twenty_digits_are_taken_for_segments() {
        let found = parse_log_name("00000000000000048192.log");
        assert_eq!(found, Some(Offset::new(48_192)));
        for wrong in [
            "48192.log",
            "00000000000000048192.index",
            "+0000000000000048192.log",
            "99999999999999999999.log",
        ] {
            assert_eq!(parse_log_name(wrong), None, "{wrong}");
        }
    }
}
