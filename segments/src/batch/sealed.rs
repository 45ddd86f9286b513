//! A finished batch, in the bytes that are written.

use super::builder::header_of;
use super::check::validate_times;
use super::header::{
    ATTRIBUTES, BASE_OFFSET, BASE_SEQUENCE, CRC, MAX_TIMESTAMP, PRODUCER_EPOCH, PRODUCER_ID, put,
};
use super::{Attributes, BatchError, BatchHeader};
use crate::types::{Offset, ProducerId, TimestampMs};

/// A finished batch, whose base offset (which the CRC does not cover) is still to be set.
///
/// The bytes are one whole batch with a header that [`BatchHeader::peek`] accepts.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    bytes: Vec<u8>,
}

impl SealedBatch {
    /// Takes a batch from outside after [`validate`](super::validate); the caller must first refuse compressed, control
    /// and transactional ones.
    ///
    /// Only the header is checked again. [`SealedBatch::from_outside`] does both at once.
    ///
    /// # Errors
    /// Those of [`BatchHeader::peek`]; [`BatchError::Truncated`] or [`BatchError::Malformed`] where `bytes` are not exactly one batch.
    pub fn from_validated(bytes: Vec<u8>) -> Result<Self, BatchError> {
        let header = BatchHeader::peek(&bytes)?;
        let (needed, found) = (header.total_bytes(), bytes.len());
        if found < needed {
            return Err(BatchError::Truncated { needed, found });
        }
        if found > needed {
            return Err(BatchError::Malformed("bytes follow the batch"));
        }
        Ok(Self { bytes })
    }

    /// Takes a batch from outside: checks what [`validate`](super::validate) checks, and corrects `max_timestamp` to
    /// the records' largest, as Kafka's broker does (lookups by time rely on it).
    ///
    /// The caller decides which attributes and producers it accepts, by [`SealedBatch::header`].
    ///
    /// # Errors
    /// Those of [`validate`](super::validate).
    pub fn from_outside(bytes: Vec<u8>) -> Result<Self, BatchError> {
        let (header, max_timestamp) = validate_times(&bytes)?;
        let mut batch = Self { bytes };
        if header.max_timestamp != max_timestamp {
            batch.set_max_timestamp(header.attributes, max_timestamp);
        }
        Ok(batch)
    }

    /// Takes what the builder sealed.
    pub(super) fn from_sealed(bytes: Vec<u8>) -> Self {
        debug_assert!(super::validate(&bytes).is_ok(), "{:?}", super::validate(&bytes));
        Self { bytes }
    }

    /// Sets the first record's offset, and so those of all. Cost: a write of eight bytes, as the CRC does not cover it.
    ///
    /// # Panics
    /// If the last record's offset, or the one after it, would be above [`Offset::MAX`].
    pub fn set_base_offset(&mut self, offset: Offset) {
        let last_offset_delta = u64::from(self.header().last_offset_delta);
        assert!(
            offset.checked_add(last_offset_delta + 1).is_some(),
            "a batch from offset {offset} on runs out of offsets"
        );
        put::<BASE_OFFSET, 8>(header_of(&mut self.bytes), offset.get().to_be_bytes());
    }

    /// Sets all timestamps to `time`, given by the broker (attribute bit and max_timestamp). Cost: a CRC of the whole
    /// batch. Free before the seal: [`BatchBuilder::set_log_append_time`](super::BatchBuilder::set_log_append_time).
    pub fn set_log_append_time(&mut self, time: TimestampMs) {
        let mut attributes = self.header().attributes;
        attributes.0 |= Attributes::LOG_APPEND_TIME;
        self.set_max_timestamp(attributes, time);
    }

    /// Makes it a batch of an idempotent producer, which numbers the first record `base_sequence`. Cost: a CRC of the
    /// whole batch.
    pub fn set_producer(&mut self, producer: ProducerId, epoch: i16, base_sequence: i32) {
        let header = header_of(&mut self.bytes);
        put::<PRODUCER_ID, 8>(header, producer.0.to_be_bytes());
        put::<PRODUCER_EPOCH, 2>(header, epoch.to_be_bytes());
        put::<BASE_SEQUENCE, 4>(header, base_sequence.to_be_bytes());
        self.set_crc();
    }

    fn set_crc(&mut self) {
        let crc = crc32c::crc32c(&self.bytes[ATTRIBUTES..]);
        put::<CRC, 4>(header_of(&mut self.bytes), crc.to_be_bytes());
    }

    fn set_max_timestamp(&mut self, attributes: Attributes, max_timestamp: TimestampMs) {
        let header = header_of(&mut self.bytes);
        put::<ATTRIBUTES, 2>(header, attributes.0.to_be_bytes());
        put::<MAX_TIMESTAMP, 8>(header, max_timestamp.0.to_be_bytes());
        self.set_crc();
    }

    /// The fields before the records.
    pub fn header(&self) -> BatchHeader {
        BatchHeader::peek(&self.bytes).expect("a sealed batch has a header that was checked")
    }

    /// How many records it holds.
    pub fn record_count(&self) -> u32 {
        self.header().record_count
    }

    /// The largest timestamp; the log append time, if the batch has one.
    pub fn max_timestamp(&self) -> TimestampMs {
        self.header().max_timestamp
    }

    /// The bytes that are written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the buffer up: to `Bytes`, or to [`BatchBuilder::with_buffer`](super::BatchBuilder::with_buffer) for another batch.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl From<SealedBatch> for Vec<u8> {
    fn from(batch: SealedBatch) -> Self {
        batch.into_bytes()
    }
}

impl TryFrom<Vec<u8>> for SealedBatch {
    type Error = BatchError;

    /// As [`SealedBatch::from_outside`].
    fn try_from(bytes: Vec<u8>) -> Result<Self, BatchError> {
        Self::from_outside(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Records, validate};

    fn sealed() -> SealedBatch {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(5_000), None, Some(b"a"), &[]);
        builder.push(TimestampMs(7_000), None, Some(b"b"), &[]);
        builder.push(TimestampMs(6_000), None, Some(b"c"), &[]);
        builder.seal()
    }

    #[test]
    fn a_base_offset_leaves_the_batch_valid() {
        let mut batch = sealed();
        for offset in [0, 41, i64::MAX as u64 - 3] {
            batch.set_base_offset(Offset::new(offset));
            let header = validate(batch.as_bytes()).unwrap();
            assert_eq!(header, batch.header());
            assert_eq!(header.next_offset(), Offset::new(offset + 3));
        }
    }

    #[test]
    #[should_panic(expected = "runs out of offsets")]
    fn a_base_offset_too_large_for_the_last_record_is_not_given() {
        sealed().set_base_offset(Offset::new(i64::MAX as u64 - 2));
    }

    #[test]
    fn log_append_time_after_the_seal_is_every_records_timestamp() {
        let mut batch = sealed();
        batch.set_log_append_time(TimestampMs(100));
        assert_eq!(validate(batch.as_bytes()), Ok(batch.header()));
        assert_eq!(batch.max_timestamp(), TimestampMs(100));
        for record in Records::new(batch.as_bytes()).unwrap() {
            assert_eq!(record.unwrap().timestamp, TimestampMs(100));
        }
    }

    #[test]
    fn a_producer_after_the_seal_is_in_the_header_and_the_batch_stays_valid() {
        let mut batch = sealed();
        batch.set_producer(ProducerId(77), 3, 41);
        let header = validate(batch.as_bytes()).unwrap();
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (ProducerId(77), 3, 41)
        );
    }

    #[test]
    fn a_wrong_max_timestamp_from_outside_is_corrected() {
        for wrong in [-1, 0, 5_000, 6_999, 8_000, i64::MAX] {
            let mut bytes = sealed();
            bytes.set_max_timestamp(Attributes(0), TimestampMs(wrong));
            let batch = SealedBatch::from_outside(bytes.into_bytes()).unwrap();
            assert_eq!(batch.as_bytes(), sealed().as_bytes());
        }
    }

    #[test]
    fn bytes_that_are_not_one_batch_are_no_sealed_batch() {
        let bytes = sealed().into_bytes();
        assert_eq!(
            SealedBatch::from_validated(bytes.clone()).unwrap().as_bytes(),
            bytes
        );
        assert_eq!(SealedBatch::try_from(bytes.clone()).unwrap().into_bytes(), bytes);
        let longer = [&bytes[..], &[0]].concat();
        assert!(SealedBatch::from_validated(longer.clone()).is_err());
        assert!(SealedBatch::from_outside(longer).is_err());
        let mut damaged = bytes;
        *damaged.last_mut().unwrap() ^= 1;
        let found = SealedBatch::from_outside(damaged);
        assert!(matches!(found, Err(BatchError::Checksum { .. })), "{found:?}");
    }
}
