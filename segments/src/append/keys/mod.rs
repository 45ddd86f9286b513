//! Requests that are appended once: what is remembered of them, on disk and in memory.
//!
//! What is remembered is a record, in the one partition of a topic of the log itself (`__keys`; `format` has its bytes). It
//! is appended in the round of its request, so it is stored if the request is, by the same sync, and costs no snapshot.
//! In memory it is an entry of a bounded map (`map`), which the committer looks keys up in, and which is made of the
//! partition when the log is opened: of several records of a key the newest counts.
//!
//! Retention moves the log start up to what is still needed. What is needed and holds up a log that is mostly not is
//! appended again, a few records at a time, as a round's own operation; where the entry has expired or was replaced by then,
//! nothing is.
//!
//! Crash: a record that was appended again is there twice, and says the same; the log start moves only when the new one is
//! durable. A damaged record is reported, and its key is not remembered; nothing else suffers.

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

/// What a record takes in the journal besides its key and its value, at most: the lengths around them, and a batch of its own.
const RECORD_OVERHEAD_BYTES: usize = HEADER_BYTES + 32 + ITEM_OVERHEAD_BYTES;

/// A record of the partition, as it is appended again.
pub(crate) struct Kept {
    pub(crate) offset: Offset,
    pub(crate) id: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Kept {
    /// What it takes in the journal, at most.
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
