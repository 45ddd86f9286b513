//! Gives fuzz targets access to the private decoders. Not part of the API.

use bytes::Bytes;

use super::header::RequestHeader;
use super::messages::every;
use super::wire::Reader;

/// A message that was read and written again: its bytes, how many were left after it, the memory of its arrays, and how
/// much that could have been.
pub type Rewritten = (Vec<u8>, usize, usize, usize);

/// Reads bytes as a request or an answer of an API, and writes it again. `None`: there is no such message, or the bytes
/// are not one.
#[must_use]
pub fn rewrite(key: i16, version: i16, is_answer: bool, bytes: Bytes) -> Option<Rewritten> {
    let allowance = Reader::new(bytes.clone().into()).allowance();
    let rewritten = every::rewrite(key, version, is_answer, bytes)?.ok()?;
    Some((rewritten.bytes, rewritten.left, rewritten.charged, allowance))
}

/// Whether bytes begin with the header of a request.
#[must_use]
pub fn has_header(bytes: Bytes) -> bool {
    RequestHeader::read(&mut Reader::new(bytes.into())).is_ok()
}
