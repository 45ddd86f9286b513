//! Kafka's encoding of messages: numbers, texts, arrays and tagged fields, by version.
//!
//! A message is declared once by [`messages!`](crate::kafka::wire::messages), which gives it [`Field::read`] and [`Field::write`]. The reader is
//! over bytes from outside, so:
//!
//! - nothing panics, whatever the bytes are ([`Malformed`] instead);
//! - nothing is allocated by a length that the bytes name: texts and byte fields are slices of the frame, and an array is
//!   refused if it has more elements than bytes are left;
//! - all arrays of a frame together take at most [`Reader::allowance`] bytes of memory, as a few bytes of a frame may be a
//!   large structure.
//!
//! Layout (Kafka's protocol guide): numbers are big-endian; a text or an array has a length before it, an `i16` or `i32`
//! with -1 for null; in *flexible* versions lengths are unsigned varints of the length plus 1 with 0 for null, and each
//! structure ends with its tagged fields (a count, then tag, size and bytes of each). Unknown tags are skipped.

mod fields;
mod macros;
mod reader;
#[cfg(test)]
pub(crate) mod sample;
mod writer;

pub(crate) use fields::{Field, Nullable, Records, Text, Uuid, present};
pub(crate) use macros::{messages, plain, put};
pub(crate) use reader::Reader;
pub(crate) use writer::Writer;

use std::ops::RangeInclusive;

#[cfg(any(test, feature = "fuzzing"))]
use bytes::Bytes;

/// The version that a message is read or written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its number.
    pub(crate) number: i16,
    /// Whether lengths are compact, and structures end with tagged fields.
    pub(crate) is_flexible: bool,
}

/// Bytes that are no message of that kind and version: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A whole request or answer, without its header.
pub(crate) trait Message: Field {
    /// The versions that can be read and written.
    const VERSIONS: RangeInclusive<i16>;
    /// The first flexible version.
    const FLEXIBLE: i16;

    /// How a version is encoded.
    fn version(number: i16) -> Version {
        Version {
            number,
            is_flexible: number >= Self::FLEXIBLE,
        }
    }

    /// Reads a message. Bytes after it are ignored, as Kafka ignores them.
    ///
    /// # Errors
    /// [`Malformed`], also for a version that is not in [`Message::VERSIONS`].
    fn decode(reader: &mut Reader, number: i16) -> Result<Self, Malformed> {
        if !Self::VERSIONS.contains(&number) {
            return Err(Malformed("a version that is not known"));
        }
        Self::read(reader, Self::version(number))
    }

    /// The message as bytes; byte fields are not copied.
    #[cfg(any(test, feature = "fuzzing"))]
    fn encode(&self, number: i16) -> Vec<Bytes> {
        let mut writer = Writer::default();
        self.write(&mut writer, Self::version(number));
        writer.finish()
    }
}
