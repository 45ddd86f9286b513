//! Idempotency keys: requests that are remembered, on disk and in memory, so that they are appended once.
//!
//! On disk, a remembered request is a record in the only partition of the internal topic `__keys` (`format` has its
//! bytes). It is appended in the same round as its request: one sync stores both, and no snapshot is needed. In memory
//! it is an entry of a bounded map (`map`), in which the committer looks keys up. Opening the log fills the map from
//! the partition; of several records of a key the newest counts.
//!
//! Retention moves the partition's log start up to the first record that is needed. If few records keep a long log from
//! being trimmed, they are appended again, a few at a time, by an operation in a round. A record that has expired or
//! was replaced by then is not.
//!
//! Crash: a record that was appended again may be there twice, with the same contents; the log start passes the old one
//! only when the new one is durable. A damaged record is reported and its key forgotten; other keys are not affected.

mod format;
mod map;

#[cfg(feature = "fuzzing")]
pub(crate) use format::decode_id;
pub(crate) use format::{Entry, encode_id};
pub(crate) use map::{ById, Keys, Remembered};

use super::request::Once;
use crate::batch::HEADER_BYTES;
use crate::error::{Error, Result};
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::options::Options;
use crate::types::Offset;

/// The largest key, in bytes.
const MAX_KEY_BYTES: usize = 1 << 10;
/// The largest note, in bytes.
const MAX_NOTE_BYTES: usize = 1 << 20;

/// The most bytes that a record takes in the journal besides key and value: their lengths, and a batch of its own.
const RECORD_OVERHEAD_BYTES: usize = HEADER_BYTES + 32 + ITEM_OVERHEAD_BYTES;

/// A record of the partition that is to be appended again.
pub(crate) struct Kept {
    pub(crate) offset: Offset,
    pub(crate) id: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Kept {
    /// The most bytes that it takes in the journal.
    pub(crate) fn bytes(&self) -> usize {
        self.id.len() + self.value.len() + RECORD_OVERHEAD_BYTES
    }
}

impl Keys {
    /// An empty map with the bounds that the options set.
    pub(crate) fn of(options: &Options) -> Self {
        let limit = usize::try_from(options.key_bytes).unwrap_or(usize::MAX);
        Self::new(limit, options.key_block_offsets().unwrap_or(map::BLOCK_OFFSETS))
    }
}

impl Once {
    /// The most bytes that its record takes in the journal, with `parts` parts.
    ///
    /// # Errors
    /// [`Error::Invalid`]: nothing can be remembered under this key.
    pub(crate) fn record_bytes(&self, parts: usize) -> Result<usize> {
        if !(1..=MAX_KEY_BYTES).contains(&self.key.len()) || self.note.len() > MAX_NOTE_BYTES {
            return Err(Error::Invalid(format!(
                "a key has 1 to {MAX_KEY_BYTES} bytes, and its note {MAX_NOTE_BYTES} at most"
            )));
        }
        let varints = (3 + 2 * parts) * format::MAX_VARINT;
        let lengths = format::FIXED_BYTES + varints + RECORD_OVERHEAD_BYTES;
        Ok(self.key.len() + self.note.len() + lengths)
    }
}
