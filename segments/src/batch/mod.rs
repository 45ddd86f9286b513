//! Record batches, version 2: the unit that is written, sent and read. Pure: no I/O.
//!
//! The format is Kafka's (the protocol documentation, "Record Batch" and "Record"; magic 2), bit for bit, so that a
//! batch goes from a producer to the disk to a consumer untouched. What quipu adds is stored beside the log, never in a
//! batch. All integers are big-endian. `header.rs` has the byte table of a batch, `records.rs` that of a record.
//!
//! - Writing: [`BatchBuilder`] encodes records into the buffer that is later written; [`BatchBuilder::seal`] turns it
//!   into a [`SealedBatch`] in place. The base offset is set last: the CRC does not cover it.
//! - Reading: [`BatchHeader::peek`] looks at a header, [`verify`] at the CRC, [`validate`] at everything;
//!   [`Batches`] splits a run of batches, [`Records`] walks one.
//! - Compression: all records of a batch are compressed as one piece, which [`inflate()`] takes apart; the header stays
//!   as it is. A batch is stored and sent in the form that its producer chose.
//!
//! Invariants: readers treat all bytes as untrusted input. They return a [`BatchError`] or a value that lies within the
//! bytes, never panic, and allocate nothing, whatever lengths the bytes name; [`inflate()`] allocates what it inflates,
//! up to a limit. A batch that was cut short by a crash is [`BatchError::Truncated`], and one that was half written
//! [`BatchError::Checksum`].

mod builder;
mod check;
mod codec;
mod header;
mod inflate;
mod records;
mod sealed;
mod varint;

pub use builder::{BatchBuilder, MAX_BATCH_BYTES};
pub use check::{Batches, validate, verify};
pub use codec::Codec;
pub use header::{Attributes, BatchHeader, HEADER_BYTES};
pub use inflate::{MAX_INFLATED_BYTES, inflate};
pub use records::{HeaderIter, Headers, Record, RecordPlace, Records};
pub use sealed::SealedBatch;

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does: it may be whole once more are there.
    #[error("{found} bytes are too few: a batch of {needed} begins here")]
    Truncated {
        /// The bytes of the batch, or of its header where that is cut already.
        needed: usize,
        /// The bytes that are there.
        found: usize,
    },
    /// Another version of the format, or no batch at all (unwritten space has magic 0).
    #[error("magic {0}, expected 2")]
    Magic(i8),
    /// The bytes are not those that the batch was sealed with.
    #[error("crc32c {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// The CRC-32C of the bytes that are there.
        found: u32,
        /// The CRC-32C that the header names.
        expected: u32,
    },
    /// A field contradicts the format or another field.
    #[error("{0}")]
    Malformed(&'static str),
    /// The attributes name a compression that there is not.
    #[error("compression {0}, expected 0 (none), 1 (gzip), 2 (snappy), 3 (lz4) or 4 (zstd)")]
    UnknownCodec(i16),
    /// The records are not what the attributes say.
    #[error("the records are not whole {0} data, as the attributes say")]
    NotCompressed(Codec),
    /// The records take more than is allowed: nothing beyond that was inflated.
    #[error("the records inflate to more than {limit} bytes")]
    InflatesTooLarge {
        /// The most that is allowed.
        limit: usize,
    },
}
