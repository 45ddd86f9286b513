//! The headers of requests and answers.
//!
//! ```text
//! request  key:i16 version:i16 correlation:i32 client_id:i16-text  and tagged fields if the version is flexible
//! answer   correlation:i32                                         and tagged fields if the version is flexible
//! ```
//!
//! An answer of ApiVersions never has tagged fields, so that a client reads it whatever it asked for.

use bytes::Bytes;

use super::wire::{Malformed, Reader, Version, Writer};

/// The key of ApiVersions.
pub(crate) const API_VERSIONS: i16 = 18;

/// The first bytes of every request, the same in all versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub(crate) key: i16,
    pub(crate) version: i16,
    /// The answer carries the same number.
    pub(crate) correlation: i32,
    /// What the client calls itself; it may be null, and need not be UTF-8.
    pub(crate) client_id: Option<Bytes>,
}

impl RequestHeader {
    /// Reads it; tagged fields after it are still to be skipped, by [`skip_tags`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Malformed> {
        let (key, version, correlation) = (reader.i16()?, reader.i16()?, reader.i32()?);
        // The client id never has a compact length.
        let classic = Version {
            number: version,
            is_flexible: false,
        };
        let length = reader.text_length(classic)?;
        Ok(Self {
            key,
            version,
            correlation,
            client_id: length.map(|length| reader.take(length)).transpose()?,
        })
    }
}

/// Skips the tagged fields of a header.
///
/// # Errors
/// [`Malformed`].
pub(crate) fn skip_tags(reader: &mut Reader, version: Version) -> Result<(), Malformed> {
    match version.is_flexible {
        true => reader.tags(|_, _| Ok(false)),
        false => Ok(()),
    }
}

/// Begins an answer.
pub(crate) fn begin_answer(writer: &mut Writer, key: i16, correlation: i32, version: Version) {
    writer.i32(correlation);
    if version.is_flexible && key != API_VERSIONS {
        writer.varint(0);
    }
}
