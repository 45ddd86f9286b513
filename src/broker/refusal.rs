//! Every "no" of the service, in words that no protocol owns.
//!
//! A [`Refusal`] has a [`Reason`] that programs act on, a sentence for people, whether anything was stored, and the
//! values that a caller needs to go on. Each wire maps reasons to its own errors in one exhaustive match: the HTTP API
//! to a problem with a status and a code (`http::problem`).

use std::time::Duration;

use crate::broker::engine::batch::BatchError;
use crate::broker::engine::{Error, Offset};

/// Why something is refused. A variant exists only where a caller acts differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The call says something that it must not; [`Refusal::field`] names what.
    InvalidRequest,
    /// The topic does not exist.
    UnknownTopic,
    /// The topic has no such partition.
    UnknownPartition,
    /// The group does not exist.
    UnknownGroup,
    /// The group has no such member.
    UnknownMember,
    /// There is no backup of that name.
    UnknownBackup,
    /// A backup of that name exists.
    BackupExists,
    /// A backup is being made, and only one is at a time.
    BackupRunning,
    /// A topic of that name exists and differs.
    TopicExists,
    /// Another topic has the name by now.
    TopicChanged,
    /// The topic is protected against deletion.
    TopicProtected,
    /// Partitions are only ever added.
    PartitionsCannotShrink,
    /// The group has live members.
    GroupActive,
    /// The member acts with an epoch, or for a partition, that it no longer has; or the producer with an epoch.
    Fenced,
    /// A newer poll of the member has taken this one's place.
    PollSuperseded,
    /// A newer process has taken the member over from the one that asks.
    MemberSuperseded,
    /// The group is of another type.
    GroupTypeMismatch,
    /// The group was begun with other settings.
    GroupSettingsDiffer,
    /// The idempotency key was used by another request.
    IdempotencyKeyReused,
    /// A producer's batch does not follow its last one.
    OutOfOrderSequence,
    /// A producer was forgotten to make room for others, and its batch may be a repetition.
    ForgottenProducer,
    /// `expected_offset` is not the next offset.
    OffsetMismatch,
    /// The reset would do something else by now than its preview says.
    PreviewOutdated,
    /// The offset lies below the log start.
    OffsetTrimmed,
    /// The offset lies above the end.
    OffsetOutOfRange,
    /// A cursor names a topic that is gone, or the data directory was restored from a backup since.
    CursorExpired,
    /// The data directory was restored from a backup since the poll that is acknowledged.
    PollExpired,
    /// The bytes of a record batch are not those that its producer sent.
    CorruptBatch,
    /// A record batch contradicts itself, or the rules of producers' batches.
    InvalidBatch,
    /// A record batch has times that only the server gives.
    InvalidTimestamp,
    /// A record batch is not compressed as it says, or in a way that there is not.
    UnknownCompression,
    /// One record is above its topic's limit.
    RecordTooLarge,
    /// The request is above the limit.
    RequestTooLarge,
    /// Nobody has signed in, or with something that is not valid here.
    Unauthenticated,
    /// Whoever calls may not do that.
    Forbidden,
    /// No token and no principal has the name.
    UnknownPrincipal,
    /// Another token or principal has the name.
    PrincipalExists,
    /// The caller has used up what it may use for now.
    QuotaExceeded,
    /// The contract has it, this version does not.
    NotSupported,
    /// Records that were to be skipped can be read.
    NotDamaged,
    /// Stored bytes are damaged.
    CorruptData,
    /// Something failed that should not.
    Internal,
    /// The disk cannot follow, or too much is in flight.
    Overloaded,
    /// The server is stopping.
    ShuttingDown,
    /// The journal or the partition's segment failed.
    LogFailed,
    /// The disk is full.
    StorageFull,
}

impl Reason {
    /// When it is worth trying again, unless the refusal says otherwise.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Overloaded | Self::QuotaExceeded => Some(Duration::from_secs(1)),
            Self::StorageFull => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

/// Whether a refused call stored something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was stored.
    #[default]
    None,
    /// A part was stored; the refusal's values say which.
    Partial,
    /// It cannot be known.
    Unknown,
}

/// A value that goes with a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count, an offset, a number of milliseconds.
    Number(i64),
    /// A name.
    Text(String),
    /// Records or partitions.
    Places(Vec<Place>),
    /// Records of the call, by their places in it from 0.
    Indexes(Vec<u32>),
}

/// A record, or a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: Option<Offset>,
}

impl From<Vec<Place>> for Value {
    fn from(places: Vec<Place>) -> Self {
        Self::Places(places)
    }
}

impl From<Vec<u32>> for Value {
    fn from(indexes: Vec<u32>) -> Self {
        Self::Indexes(indexes)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<Offset> for Value {
    fn from(offset: Offset) -> Self {
        offset.get().into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// One "no".
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// A sentence for people: the thing, what is wrong, found against expected, the next step. Names no path of this machine.
    pub detail: String,
    /// Whether something was stored.
    pub outcome: Outcome,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// The part of the call at fault: an argument by its name, or a field of its document by JSON pointer (RFC 6901).
    pub field: Option<String>,
    /// What the caller needs to go on, by name: `end_offset`, `partition_count`.
    pub values: Vec<(&'static str, Value)>,
}

impl Refusal {
    /// A refusal with nothing stored.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            outcome: Outcome::None,
            retry_after: reason.retry_after(),
            field: None,
            values: Vec::new(),
        }
    }

    /// A call that is not valid, with the argument or field at fault.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Reason::InvalidRequest, detail).at(field)
    }

    /// The server is stopping.
    pub fn stopping() -> Self {
        Self::new(Reason::ShuttingDown, "the server is stopping")
    }

    /// Names the argument or field at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds a value that the caller needs to go on.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.values.push((name, value.into()));
        self
    }

    /// The value of that name.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Says whether something was stored.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    fn with_positions(self, log_start_offset: Offset, end_offset: Offset) -> Self {
        self.with("log_start_offset", log_start_offset)
            .with("end_offset", end_offset)
    }
}

impl From<BatchError> for Refusal {
    /// A record batch from outside that is not one.
    fn from(error: BatchError) -> Self {
        let reason = match error {
            // Versions 0 and 1 are known, and are no record batches; of no other is there anything to say.
            BatchError::Magic(0 | 1) => Reason::InvalidBatch,
            BatchError::Truncated { .. } | BatchError::Checksum { .. } | BatchError::Magic(_) => {
                Reason::CorruptBatch
            }
            BatchError::UnknownCodec(_) | BatchError::NotCompressed(_) => Reason::UnknownCompression,
            BatchError::InflatesTooLarge { .. } => Reason::RequestTooLarge,
            _ => Reason::InvalidBatch,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<Error> for Refusal {
    /// Callers see no paths: an error that may name one is put in general words and logged here, once.
    fn from(error: Error) -> Self {
        let told = |reason| Self::new(reason, error.to_string());
        match &error {
            Error::Invalid(detail) => Self::new(Reason::InvalidRequest, detail.clone()),
            Error::RecordTooLarge { .. } => told(Reason::RecordTooLarge),
            Error::RequestTooLarge { .. } => told(Reason::RequestTooLarge),
            Error::NotFound(what) => Self::new(Reason::UnknownTopic, format!("{what} does not exist")),
            Error::TopicExists(_) => told(Reason::TopicExists),
            Error::OffsetMismatch { end_offset, .. } => {
                told(Reason::OffsetMismatch).with("end_offset", *end_offset)
            }
            Error::Trimmed {
                log_start_offset,
                end_offset,
                ..
            } => told(Reason::OffsetTrimmed).with_positions(*log_start_offset, *end_offset),
            Error::OutOfRange {
                log_start_offset,
                end_offset,
                ..
            } => told(Reason::OffsetOutOfRange).with_positions(*log_start_offset, *end_offset),
            // The engine has logged it when it first met it.
            Error::Damaged {
                damaged_from,
                damaged_until,
                ..
            } => Self::new(
                Reason::CorruptData,
                format!(
                    "offsets {damaged_from} to {damaged_until} (exclusive) cannot be read; go on from there"
                ),
            )
            .with("damaged_offset", *damaged_from)
            .with("damaged_until_offset", *damaged_until),
            Error::Overloaded { .. } => told(Reason::Overloaded),
            Error::KeyReused => Self::new(
                Reason::IdempotencyKeyReused,
                "the Idempotency-Key was used before, by a request with another query, content type or body; a new request needs a new key",
            ),
            Error::TooManyKeys { retry_after } => Self {
                // A second more than the whole ones, so that the first key has expired by then.
                retry_after: Some(Duration::from_secs(retry_after.as_secs().saturating_add(1))),
                ..Self::new(
                    Reason::Overloaded,
                    "as many idempotency keys are remembered as there is memory for; shorten the topics' dedupe_window_ms, or raise the server's max_idempotency_bytes",
                )
            },
            Error::OutOfOrderSequence { expected, found } => told(Reason::OutOfOrderSequence)
                .with("expected_sequence", *expected)
                .with("sequence", *found),
            Error::ProducerForgotten { found } => told(Reason::ForgottenProducer).with("sequence", *found),
            Error::ProducerFenced { .. } => told(Reason::Fenced),
            Error::StorageFull => Self::new(
                Reason::StorageFull,
                "the server's disk is full; appends go on by themselves when there is space",
            ),
            Error::PartitionFailed(_) => Self::new(
                Reason::LogFailed,
                "appends to this partition stopped after a failed write, until a restart",
            ),
            Error::KeysFailed(_) => Self::new(
                Reason::LogFailed,
                "idempotency keys cannot be stored after a failed write, until a restart; requests without one, and repetitions, go on",
            ),
            Error::LogFailed { in_flight, .. } => Self {
                outcome: if *in_flight {
                    Outcome::Unknown
                } else {
                    Outcome::None
                },
                ..Self::new(
                    Reason::LogFailed,
                    "appends stopped after a failed write, until a restart",
                )
            },
            Error::Closed => Self::stopping(),
            other => {
                tracing::error!(error = %other, "a request failed");
                // A part may have been done, and show after a restart.
                Self::new(Reason::Internal, "the server could not do it; its log says why")
                    .outcome(Outcome::Unknown)
            }
        }
    }
}
