//! Checks of whole batches, and the way from one batch to the next.

use super::header::ATTRIBUTES;
use super::{BatchError, BatchHeader, HEADER_BYTES, Records};
use crate::types::TimestampMs;

/// Checks header and CRC-32C of the whole batch at the start of `bytes`; what follows the batch is not looked at.
///
/// The CRC covers neither base offset nor leader epoch: whether the offset is the right one is for the caller to know.
///
/// # Errors
/// - Those of [`BatchHeader::peek`], and [`BatchError::Truncated`] where the batch is not all there.
/// - [`BatchError::Checksum`]: other bytes than were sealed, or a batch that was written in part.
pub fn verify(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::peek(bytes)?;
    let covered = bytes
        .get(ATTRIBUTES..header.total_bytes())
        .ok_or(BatchError::Truncated {
            needed: header.total_bytes(),
            found: bytes.len(),
        })?;
    let found = crc32c::crc32c(covered);
    if found != header.crc {
        return Err(BatchError::Checksum {
            found,
            expected: header.crc,
        });
    }
    Ok(header)
}

/// Checks everything of a batch that came from outside: CRC, every record's bounds, offset deltas 0,1,2,…,count-1, and that nothing follows.
///
/// Two things are not checked. Who may send it is the caller's decision: attributes other than compression, and the
/// producer's fields, are as they came. And `max_timestamp` is the producer's word, which some get wrong:
/// [`SealedBatch::from_outside`](super::SealedBatch::from_outside) sets it right.
///
/// # Errors
/// - Those of [`verify`].
/// - [`BatchError::Malformed`]: a record does not fit, offsets have gaps, the batch is empty or compressed, or bytes follow it.
pub fn validate(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    validate_times(bytes).map(|(header, _)| header)
}

/// As [`validate`]; returns the records' largest timestamp too.
pub(super) fn validate_times(bytes: &[u8]) -> Result<(BatchHeader, TimestampMs), BatchError> {
    let header = verify(bytes)?;
    if header.total_bytes() != bytes.len() {
        return Err(BatchError::Malformed("bytes follow the batch"));
    }
    if header.record_count == 0 {
        return Err(BatchError::Malformed("the batch holds no records"));
    }
    if header.last_offset_delta != header.record_count - 1 {
        return Err(BatchError::Malformed(
            "the last offset delta is not the record count less 1",
        ));
    }
    // Deltas ascend and end by count - 1, which `Records` sees to: so `count` of them leave no gap.
    let mut max_timestamp = TimestampMs(i64::MIN);
    for record in Records::of(&header, bytes.get(HEADER_BYTES..).unwrap_or_default())? {
        max_timestamp = max_timestamp.max(record?.timestamp);
    }
    Ok((header, max_timestamp))
}

/// Splits a run of whole batches; each item is one batch's bytes with its header (CRC not checked).
///
/// The first error ends the walk: a batch that is cut off at the end is [`BatchError::Truncated`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    /// What is still to be split; empty after an error.
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Begins at the start of `run`.
    #[must_use]
    pub fn new(run: &'a [u8]) -> Self {
        Self { rest: run }
    }

    fn take(&mut self) -> Result<(BatchHeader, &'a [u8]), BatchError> {
        let header = BatchHeader::peek(self.rest)?;
        let (batch, rest) =
            self.rest
                .split_at_checked(header.total_bytes())
                .ok_or(BatchError::Truncated {
                    needed: header.total_bytes(),
                    found: self.rest.len(),
                })?;
        self.rest = rest;
        Ok((header, batch))
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = self.take();
        if batch.is_err() {
            self.rest = &[];
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for Batches<'_> {}
