//! The limits of a record: the same limits, in the same words, for JSON, CloudEvents, raw bodies and record batches.
//!
//! Records that were stored before (dead letters, a repeated request) are checked against [`RecordLimits::NONE`].

use super::TopicRules;
use crate::broker::limits::Limits;
use crate::broker::refusal::{Reason, Refusal};

/// The limits of one record. Headers that the server adds do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    /// Key, value, and names and values of the headers together, in bytes.
    pub max_record_bytes: usize,
    /// The key, in bytes.
    pub max_key_bytes: usize,
    /// How many headers.
    pub max_headers: usize,
    /// Names and values of the headers together, in bytes.
    pub max_header_bytes: usize,
}

impl RecordLimits {
    /// No limits.
    pub const NONE: Self = Self {
        max_record_bytes: usize::MAX,
        max_key_bytes: usize::MAX,
        max_headers: usize::MAX,
        max_header_bytes: usize::MAX,
    };

    /// The limits of the server and of a topic.
    pub fn of(limits: &Limits, rules: &TopicRules) -> Self {
        Self {
            max_record_bytes: rules.max_record_bytes,
            max_key_bytes: limits.max_key_bytes,
            max_headers: limits.max_headers_per_record,
            max_header_bytes: limits.max_header_bytes,
        }
    }

    /// Checks a record with a key, a value and headers of so many bytes each; returns the bytes of all of them.
    ///
    /// # Errors
    /// [`Misfit::TooLarge`] with the first limit that it exceeds.
    #[inline]
    pub fn check(
        &self,
        key: usize,
        value: usize,
        headers: impl ExactSizeIterator<Item = usize>,
    ) -> Result<usize, Misfit> {
        let within = |what, size, limit| {
            if size > limit {
                Err(Misfit::TooLarge { what, size, limit })
            } else {
                Ok(size)
            }
        };
        within("bytes of a key", key, self.max_key_bytes)?;
        within("headers of a record", headers.len(), self.max_headers)?;
        let headers = headers.sum();
        within("bytes of a record's headers", headers, self.max_header_bytes)?;
        within(
            "bytes of a record's key, value and headers",
            key + value + headers,
            self.max_record_bytes,
        )
    }
}

/// Checks that the records of a request, which take `bytes` as they are stored, take at most `limit`.
///
/// Empty records are larger in a batch than in JSON, and events' attributes become headers with longer names. The
/// journal could take far more at once.
///
/// # Errors
/// [`Reason::RequestTooLarge`].
#[inline]
pub fn check_stored_bytes(bytes: usize, limit: usize) -> Result<(), Refusal> {
    if bytes <= limit {
        return Ok(());
    }
    let detail = format!("the records take more than {limit} bytes as stored; split the request");
    Err(Refusal::new(Reason::RequestTooLarge, detail))
}

/// Why a well-formed record is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The topic has fewer partitions.
    UnknownPartition {
        /// The partition that the record names.
        partition: u64,
        /// How many there are.
        partitions: u32,
    },
    /// All records must go to one partition, and this one goes to another than those before it.
    SecondPartition {
        /// The partition of the records before.
        first: u32,
        /// The partition of this one.
        second: u32,
    },
    /// A part of it is too large.
    TooLarge {
        /// The part, with its unit.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
}

impl Misfit {
    /// The refusal of the record at `pointer` in its document; `partition` is the field that named its partition.
    #[cold]
    pub fn refuse(&self, pointer: &str, partition: &str) -> Refusal {
        match self {
            Self::UnknownPartition {
                partition: found,
                partitions,
            } => {
                // A number that is larger was cut to that one.
                let more = if *found == u64::MAX { " or more" } else { "" };
                let detail =
                    format!("the topic has {partitions} partitions, from 0; {found}{more} is none of them");
                Refusal::new(Reason::UnknownPartition, detail).at(partition)
            }
            Self::SecondPartition { first, second } => Refusal::invalid(
                "expected_offset",
                format!(
                    "expected_offset is for records of one partition; these go to {first} and to {second}"
                ),
            ),
            Self::TooLarge { what, size, limit } => Refusal::new(
                Reason::RecordTooLarge,
                format!("{size} {what}; {limit} are allowed"),
            )
            .at(pointer),
        }
    }
}
