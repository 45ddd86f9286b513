//! Record batches, version 2: the unit that is written, sent and read. Pure: no I/O.
//!
//! The format is Kafka's (the protocol documentation, "Record Batch" and "Record"; magic 2), bit for bit, so that a batch
//! goes from a producer to the disk to a consumer untouched. What quipu needs beyond it stands beside the log, never in here.
//! All integers are big-endian. The byte table of a batch stands beside its constants in `header.rs`, that of a record in `records.rs`.
//!
//! - Writing: [`BatchBuilder`] encodes records into the buffer that is later written; [`BatchBuilder::seal`] makes a
//!   [`SealedBatch`] of it in place, whose base offset is given last, because it lies outside of the CRC.
//! - Reading: [`BatchHeader::peek`] looks at a header, [`verify`] at the CRC, [`validate`] at everything;
//!   [`Batches`] splits a run of batches, [`Records`] walks one.
//!
//! Invariants: bytes handed to the readers are input, wherever they come from: they give a [`BatchError`] or a value that
//! lies within them, never a panic, and nothing is allocated on a length's word (nothing is allocated at all).
//! A batch that was cut short by a crash is [`BatchError::Truncated`], and one that was half written [`BatchError::Checksum`].

mod builder;
mod check;
mod header;
mod records;
mod sealed;
mod varint;

pub use builder::{BatchBuilder, MAX_BATCH_BYTES};
pub use check::{Batches, validate, verify};
pub use header::{Attributes, BatchHeader, HEADER_BYTES};
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
}
