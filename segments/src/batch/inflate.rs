//! A compressed batch as the uncompressed one that it stands for.

use super::header::{ATTRIBUTES, BATCH_LENGTH, LENGTH_END, put};
use super::{BatchError, BatchHeader, HEADER_BYTES};

/// The most bytes to which the records of a batch may inflate, whatever the limit of requests is: what was stored once
/// can be read for ever, in bounded memory.
pub const MAX_INFLATED_BYTES: usize = 128 << 20;

/// The batch at the start of `batch` without compression, as [`Records`](super::Records) reads it. Its header is the
/// same but for the compression and the length, so its CRC is not right. `limit`: how many bytes its records may take,
/// at most [`MAX_INFLATED_BYTES`]. What follows the batch is not looked at; an uncompressed batch is copied.
///
/// # Errors
/// - Those of [`BatchHeader::peek`], and [`BatchError::Truncated`] where the batch is not all there.
/// - [`BatchError::UnknownCodec`], [`BatchError::NotCompressed`]: the records are not what the attributes say.
/// - [`BatchError::InflatesTooLarge`]: they take more than the limit.
/// - [`BatchError::Malformed`]: they are too short for the header's count.
pub fn inflate(batch: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let (header, batch, _) = BatchHeader::split(batch)?;
    let records = &batch[HEADER_BYTES..];
    let mut out = match header.attributes.codec()? {
        Some(codec) => codec.inflate(records, HEADER_BYTES, limit.min(MAX_INFLATED_BYTES))?,
        None => [&[0; HEADER_BYTES], records].concat(),
    };
    let length = (out.len() - LENGTH_END) as u32;
    let front = out
        .first_chunk_mut::<HEADER_BYTES>()
        .expect("the records are inflated behind it");
    header.encode(front);
    let attributes = header.attributes.with_codec(None);
    put::<ATTRIBUTES, 2>(front, attributes.0.to_be_bytes());
    put::<BATCH_LENGTH, 4>(front, length.to_be_bytes());
    // Checks the count against the length, which a compressed batch's header does not allow.
    BatchHeader::peek(&out)?;
    // The decoders guess how much room they need.
    if out.capacity() / 2 > out.len() {
        out.shrink_to_fit();
    }
    Ok(out)
}
