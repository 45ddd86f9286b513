//! What can go wrong, and what the caller does about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::types::Offset;

/// The result of the engine's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine. [`Error::kind`] says what the caller can do.
///
/// It is `Clone`, because one failed round answers every request in it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Input that can never be stored or read: nothing was done; change the request.
    #[error("{0}")]
    Invalid(String),
    /// A record larger than its topic allows: nothing was stored; send a smaller one.
    #[error("a record of {size} bytes is larger than the limit of {limit} bytes")]
    RecordTooLarge {
        /// The record's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A request whose records are larger than one round can take: nothing was stored; split it.
    #[error("a request of {size} bytes in record batch format is larger than the limit of {limit} bytes")]
    RequestTooLarge {
        /// The request's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The topic or the partition is not there (any more).
    #[error("{0} does not exist")]
    NotFound(String),
    /// A topic of that name is there already.
    #[error("the topic {0} exists already")]
    TopicExists(String),
    /// The partition's next offset is not the expected one: nothing was stored.
    #[error("expected the next offset {expected}, but it is {end_offset}")]
    OffsetMismatch {
        /// What the request expected.
        expected: Offset,
        /// The partition's next offset, which is its durable `end_offset` when this error is answered.
        end_offset: Offset,
    },
    /// A backup of that name is there already.
    #[error("the backup {0} exists already")]
    BackupExists(String),
    /// A backup was cancelled, because the process is to end.
    #[error("the backup was cancelled")]
    Cancelled,
    /// The offset lies below the log start: go on from `log_start_offset`.
    #[error("offset {offset} has been trimmed: the log starts at {log_start_offset}")]
    Trimmed {
        /// The offset asked for.
        offset: Offset,
        /// The first offset that is still kept.
        log_start_offset: Offset,
        /// One past the last durable record.
        end_offset: Offset,
    },
    /// The offset lies above the end.
    #[error("offset {offset} is above the end of the log, {end_offset}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// The first offset that is still kept.
        log_start_offset: Offset,
        /// One past the last durable record.
        end_offset: Offset,
    },
    /// Stored bytes are not what was written: the log can be read again from `damaged_until` on.
    #[error(
        "{place} is damaged: {what}; offsets {damaged_from} to {damaged_until} (exclusive) cannot be read; run quipu verify"
    )]
    Damaged {
        /// The file and the position, for the operator's log; not for clients.
        place: String,
        /// What was found against what was expected.
        what: String,
        /// The first offset that cannot be read.
        damaged_from: Offset,
        /// One past the last offset that cannot be read.
        damaged_until: Offset,
    },
    /// The log cannot take this now, for a temporary reason: nothing was stored; try again later.
    #[error("{reason}; try again")]
    Overloaded {
        /// Why: too much waits for the disk, no file handle is free, or another partition's write failed in the round.
        reason: String,
    },
    /// Another request used this idempotency key, and it has not expired: nothing was stored; use another key.
    #[error("the key was used before by a request that says something else")]
    KeyReused,
    /// The remembered idempotency keys take all the memory that they may: nothing was stored. Requests without a key
    /// are still stored, and repetitions are still answered.
    #[error("too many keys are remembered; the first of them expires in {} s", retry_after.as_secs())]
    TooManyKeys {
        /// How long until the first of them expires.
        retry_after: Duration,
    },
    /// A batch does not continue its producer's sequence: nothing was stored; a batch before it is missing.
    #[error("expected the producer's sequence {expected}, but the batch begins with {found}")]
    OutOfOrderSequence {
        /// The sequence that the batch should begin with.
        expected: i32,
        /// The batch's first sequence.
        found: i32,
    },
    /// A batch of a producer that is not known, in a topic some of whose producers were forgotten to make room for others:
    /// nothing was stored; it may be a repetition. The producer begins anew, with a new epoch or id and sequence 0.
    #[error(
        "the producer is not known, and its batch begins with sequence {found}: it may be one that was forgotten to make room for others, and the batch a repetition"
    )]
    ProducerForgotten {
        /// The batch's first sequence.
        found: i32,
    },
    /// A batch of an older producer epoch: nothing was stored; a newer instance of the producer has replaced this one.
    #[error("the producer's epoch {found} is over: it is {epoch}")]
    ProducerFenced {
        /// The newest epoch that is known.
        epoch: i16,
        /// The batch's epoch.
        found: i16,
    },
    /// The disk is full: nothing was stored; appends work again as soon as there is space.
    #[error("the disk is full; nothing was stored")]
    StorageFull,
    /// A write or a sync of this partition's segment failed: appends to it are refused until a restart.
    #[error("appends to this partition stopped after a failed write: {0}; restart to recover")]
    PartitionFailed(String),
    /// As [`Error::PartitionFailed`], for the partition that stores the keys: requests with new keys are refused until
    /// a restart. Requests without a key are still stored, and repetitions are still answered.
    #[error("keys cannot be stored after a failed write: {0}; restart to recover")]
    KeysFailed(String),
    /// A write or a sync of the journal failed: all appends are refused until a restart. What was in flight may or may not be stored.
    #[error("the journal failed: {reason}; restart to recover")]
    LogFailed {
        /// What failed.
        reason: String,
        /// Whether the request may be stored nevertheless.
        in_flight: bool,
    },
    /// The log is being closed: nothing was stored.
    #[error("the log is closing")]
    Closed,
    /// The data directory is in use by another process, or is not one, or is of another format.
    #[error("{0}")]
    Directory(String),
    /// Any other failure of the file system.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The cause.
        source: Arc<io::Error>,
    },
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Change the request.
    Invalid,
    /// Send less at once.
    TooLarge,
    /// Look for something else.
    NotFound,
    /// The state is not what the request assumed.
    Conflict,
    /// Read from another offset.
    OutOfRange,
    /// Skip the damaged range, or restore it.
    Damaged,
    /// Try again later, unchanged.
    Busy,
    /// Make space.
    Full,
    /// Restart the process, after a look at its log.
    Failed,
}

impl Error {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::Directory(_) => ErrorKind::Invalid,
            Self::RecordTooLarge { .. } | Self::RequestTooLarge { .. } => ErrorKind::TooLarge,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::TopicExists(_)
            | Self::BackupExists(_)
            | Self::OffsetMismatch { .. }
            | Self::KeyReused
            | Self::OutOfOrderSequence { .. }
            | Self::ProducerForgotten { .. }
            | Self::ProducerFenced { .. } => ErrorKind::Conflict,
            Self::Trimmed { .. } | Self::OutOfRange { .. } => ErrorKind::OutOfRange,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Overloaded { .. } | Self::TooManyKeys { .. } | Self::Closed | Self::Cancelled => {
                ErrorKind::Busy
            }
            Self::StorageFull => ErrorKind::Full,
            Self::PartitionFailed(_) | Self::KeysFailed(_) | Self::LogFailed { .. } | Self::Io { .. } => {
                ErrorKind::Failed
            }
        }
    }

    /// The message without the names of files.
    pub fn without_path(&self) -> String {
        match self {
            Self::StorageFull => "the disk is full".into(),
            Self::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// Whether the cause passes by itself, so that the same call may work later without a restart.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.kind(), ErrorKind::Full | ErrorKind::Busy)
    }

    /// No file handle is free. The message names no path, because clients see it.
    pub(crate) fn out_of_handles() -> Self {
        Self::Overloaded {
            reason: "the server has no file handle left: close connections or raise its limit of open files (ulimit -n)".into(),
        }
    }

    /// A file of a version that this program does not know: nothing may be changed.
    pub(crate) fn version(path: &std::path::Path, found: u32, known: u32) -> Self {
        Self::Directory(format!(
            "{} is of version {found}, this program knows version {known}: nothing was changed; use the quipu that wrote it, or a newer one",
            path.display()
        ))
    }

    /// Wraps an I/O error with what was being done. A full disk becomes [`Error::StorageFull`], and a lack of file handles
    /// [`Error::Overloaded`].
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::StorageFull;
        }
        Self::reading(what, source)
    }

    /// The same for a call that only reads: never [`Error::StorageFull`], whatever the file system answers.
    pub(crate) fn reading(what: impl Into<String>, source: io::Error) -> Self {
        if is_out_of_handles(&source) {
            return Self::out_of_handles();
        }
        Self::Io {
            what: what.into(),
            source: Arc::new(source),
        }
    }
}

/// Adds to an I/O error which file or directory it is about.
pub(crate) trait At<T> {
    /// Wraps the error like [`Error::io`], with what was being done (`"reading"`) and where.
    fn at(self, doing: &str, path: impl AsRef<std::path::Path>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &str, path: impl AsRef<std::path::Path>) -> Result<T> {
        self.map_err(|error| Error::io(format!("{doing} {}", path.as_ref().display()), error))
    }
}

/// Whether an I/O error says that this process, or the system, has no file handle left. That is no fault of the disk:
/// the call did nothing, and can be made again.
pub(crate) fn is_out_of_handles(error: &io::Error) -> bool {
    let handles = [Errno::MFILE, Errno::NFILE];
    error
        .raw_os_error()
        .is_some_and(|code| handles.iter().any(|errno| errno.raw_os_error() == code))
}

/// Whether an I/O error says that there is no space (or no quota) left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
