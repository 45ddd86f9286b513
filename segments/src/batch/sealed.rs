//! A finished batch, in the bytes that are written.

use bytes::BytesMut;

use super::check::{verify_alone, walk};
use super::header::{
    ATTRIBUTES, BASE_OFFSET, BASE_SEQUENCE, BATCH_LENGTH, CRC, LENGTH_END, MAX_TIMESTAMP,
    PARTITION_LEADER_EPOCH, PRODUCER_EPOCH, PRODUCER_ID, put,
};
use super::{Attributes, BatchError, BatchHeader, Codec, HEADER_BYTES, MAX_INFLATED_BYTES, Record, inflate};
use crate::types::{Offset, ProducerId, TimestampMs};

/// A finished batch, whose base offset (which the CRC does not cover) is still to be set.
///
/// The bytes are one whole batch with a header that [`BatchHeader::peek`] accepts.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    bytes: Buffer,
}

/// The bytes of a batch.
#[derive(Clone, Debug)]
enum Buffer {
    /// Those that the builder has written.
    Built(Vec<u8>),
    /// A piece of a request, which is not copied.
    Cut(BytesMut),
}

impl Buffer {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Built(bytes) => bytes,
            Self::Cut(bytes) => bytes,
        }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Built(bytes) => bytes,
            Self::Cut(bytes) => bytes,
        }
    }
}

impl SealedBatch {
    /// Takes a batch from outside after [`validate`](super::validate); the caller must first refuse control and
    /// transactional ones.
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
        Ok(Self {
            bytes: Buffer::Built(bytes),
        })
    }

    /// Takes a batch from outside: checks what [`validate`](super::validate) checks, and corrects `max_timestamp` to
    /// the records' largest, as Kafka's broker does (lookups by time rely on it).
    ///
    /// The caller decides which attributes and producers it accepts, by [`SealedBatch::header`].
    ///
    /// # Errors
    /// Those of [`validate`](super::validate).
    pub fn from_outside(bytes: Vec<u8>) -> Result<Self, BatchError> {
        verify_alone(&bytes)?;
        let mut batch = Self {
            bytes: Buffer::Built(bytes),
        };
        batch.check_records(MAX_INFLATED_BYTES, |_, _| Ok::<_, BatchError>(()))?;
        Ok(batch)
    }

    /// Takes a piece of a request that must be one batch, after a check of its header and its CRC. Nothing is copied:
    /// the batch keeps the memory of the request.
    ///
    /// [`SealedBatch::check_records`] comes next, once the caller accepts what [`SealedBatch::header`] says.
    ///
    /// # Errors
    /// Those of [`verify`](super::verify), and [`BatchError::Malformed`] where bytes follow the batch.
    pub fn verified(bytes: BytesMut) -> Result<Self, BatchError> {
        verify_alone(&bytes)?;
        Ok(Self {
            bytes: Buffer::Cut(bytes),
        })
    }

    /// Checks all records, inflated to at most `limit` bytes, and shows each with its number in the batch to `see`.
    /// Corrects what a producer may set wrong: `max_timestamp`, and the leader epoch, which is stored as 0. Returns the
    /// batch without compression if it is compressed: see [`inflate()`](super::inflate()).
    ///
    /// # Errors
    /// Those of [`validate`](super::validate) but for the CRC, and those of `see`.
    pub fn check_records<E: From<BatchError>>(
        &mut self,
        limit: usize,
        see: impl FnMut(u32, &Record<'_>) -> Result<(), E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let header = self.header();
        let walked = walk(&header, self.as_bytes(), limit, see)?;
        if header.max_timestamp != walked.max_timestamp {
            self.set_max_timestamp(header.attributes, walked.max_timestamp);
        }
        put::<PARTITION_LEADER_EPOCH, 4>(self.front(), 0_i32.to_be_bytes());
        Ok(walked.inflated)
    }

    /// The same records with another compression. `inflated` is what [`SealedBatch::check_records`] returned, if the
    /// caller still has it. Cost: the compression, and a CRC of the whole batch; none if the compression is that already.
    ///
    /// # Errors
    /// Those of [`inflate()`](super::inflate()), if there is something to inflate.
    pub fn with_codec(self, codec: Option<Codec>, inflated: Option<Vec<u8>>) -> Result<Self, BatchError> {
        let header = self.header();
        let before = header.attributes.codec()?;
        if before == codec {
            return Ok(self);
        }
        let plain = match (before, inflated) {
            (None, _) => None,
            (Some(_), Some(inflated)) => Some(inflated),
            (Some(_), None) => Some(inflate(self.as_bytes(), MAX_INFLATED_BYTES)?),
        };
        let bytes = match codec {
            Some(codec) => {
                let plain = plain.as_deref().unwrap_or(self.as_bytes());
                codec.deflate(&plain[HEADER_BYTES..], HEADER_BYTES)
            }
            None => plain.expect("a batch that was compressed is inflated"),
        };
        let mut batch = Self {
            bytes: Buffer::Built(bytes),
        };
        let length = (batch.as_bytes().len() - LENGTH_END) as u32;
        let front = batch.front();
        header.encode(front);
        put::<BATCH_LENGTH, 4>(front, length.to_be_bytes());
        put::<ATTRIBUTES, 2>(front, header.attributes.with_codec(codec).0.to_be_bytes());
        batch.set_crc();
        Ok(batch)
    }

    /// Takes what the builder sealed.
    pub(super) fn from_sealed(bytes: Vec<u8>) -> Self {
        debug_assert!(super::validate(&bytes).is_ok(), "{:?}", super::validate(&bytes));
        Self {
            bytes: Buffer::Built(bytes),
        }
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
        put::<BASE_OFFSET, 8>(self.front(), offset.get().to_be_bytes());
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
        let header = self.front();
        put::<PRODUCER_ID, 8>(header, producer.0.to_be_bytes());
        put::<PRODUCER_EPOCH, 2>(header, epoch.to_be_bytes());
        put::<BASE_SEQUENCE, 4>(header, base_sequence.to_be_bytes());
        self.set_crc();
    }

    fn set_crc(&mut self) {
        let crc = crc32c::crc32c(&self.as_bytes()[ATTRIBUTES..]);
        put::<CRC, 4>(self.front(), crc.to_be_bytes());
    }

    fn front(&mut self) -> &mut [u8; HEADER_BYTES] {
        let front = self.bytes.as_mut().first_chunk_mut();
        front.expect("a sealed batch has a header that was checked")
    }

    fn set_max_timestamp(&mut self, attributes: Attributes, max_timestamp: TimestampMs) {
        let header = self.front();
        put::<ATTRIBUTES, 2>(header, attributes.0.to_be_bytes());
        put::<MAX_TIMESTAMP, 8>(header, max_timestamp.0.to_be_bytes());
        self.set_crc();
    }

    /// The fields before the records.
    pub fn header(&self) -> BatchHeader {
        BatchHeader::peek(self.as_bytes()).expect("a sealed batch has a header that was checked")
    }

    /// How many records it holds.
    pub fn record_count(&self) -> u32 {
        self.header().record_count
    }

    /// How many offsets it takes: more than records where compaction has removed some.
    pub fn offset_count(&self) -> u32 {
        self.header().last_offset_delta + 1
    }

    /// The largest timestamp; the log append time, if the batch has one.
    pub fn max_timestamp(&self) -> TimestampMs {
        self.header().max_timestamp
    }

    /// The bytes that are written.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    /// Gives the buffer up: to `Bytes`, or to [`BatchBuilder::with_buffer`](super::BatchBuilder::with_buffer) for another
    /// batch. Copies a piece of a request whose memory others have, too.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        match self.bytes {
            Buffer::Built(bytes) => bytes,
            Buffer::Cut(bytes) => bytes.into(),
        }
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

    /// Random batches: each record a timestamp, a key and a value.
    type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn batch_of(records: &[Plain]) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        for (time, key, value) in records {
            builder.push(
                TimestampMs(*time),
                key.as_deref(),
                value.as_deref(),
                &[(b"h", Some(b"v"))],
            );
        }
        builder.seal()
    }

    fn plain_of(batch: &[u8]) -> Vec<Plain> {
        let records = Records::new(batch).unwrap().map(Result::unwrap);
        let owned = records.map(|record| {
            let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
            (record.timestamp.0, key, value)
        });
        owned.collect()
    }

    #[test]
    fn a_compressed_batch_is_checked_as_an_uncompressed_one() {
        for codec in Codec::ALL {
            let mut batch = sealed().with_codec(Some(codec), None).unwrap();
            assert_eq!(batch.header().attributes.codec(), Ok(Some(codec)));
            // What a producer may set wrong, and then the CRC over it.
            put::<PARTITION_LEADER_EPOCH, 4>(batch.front(), (-1_i32).to_be_bytes());
            batch.set_max_timestamp(batch.header().attributes, TimestampMs(1));
            let bytes = BytesMut::from(batch.as_bytes());
            let at = bytes.as_ptr();
            let mut taken = SealedBatch::verified(bytes).unwrap();
            let mut seen = Vec::new();
            let inflated = taken.check_records(1000, |number, record| {
                seen.push((number, record.timestamp.0));
                Ok::<_, BatchError>(())
            });
            assert_eq!(seen, [(0, 5_000), (1, 7_000), (2, 6_000)]);
            assert_eq!(
                plain_of(&inflated.unwrap().unwrap()),
                plain_of(sealed().as_bytes())
            );
            assert_eq!(taken.max_timestamp(), TimestampMs(7_000));
            assert_eq!(taken.header().partition_leader_epoch, 0);
            assert_eq!(validate(taken.as_bytes()), Ok(taken.header()));
            assert_eq!(taken.as_bytes().as_ptr(), at, "it was not copied");
        }
    }

    #[test]
    fn compressed_batches_that_lie_are_refused() {
        for codec in Codec::ALL {
            let good = sealed().with_codec(Some(codec), None).unwrap();
            let changed = |change: &dyn Fn(&mut BatchHeader)| {
                let mut batch = good.clone();
                let mut header = batch.header();
                change(&mut header);
                header.encode(batch.front());
                batch.set_crc();
                SealedBatch::from_outside(batch.into_bytes()).map(drop)
            };
            let malformed = |what| Err(BatchError::Malformed(what));
            let count = |count: u32| {
                changed(&|header| (header.record_count, header.last_offset_delta) = (count, count - 1))
            };
            assert_eq!(count(3), Ok(()));
            assert_eq!(count(2), malformed("bytes follow the last record of a batch"));
            assert_eq!(count(4), malformed("the batch is too short for its record count"));
            assert_eq!(
                count(1_000_000),
                malformed("the batch is too short for its record count")
            );
            let gap = changed(&|header| header.last_offset_delta = 3);
            assert_eq!(
                gap,
                malformed("the last offset delta is not the record count less 1")
            );
            for other in 5..8 {
                let found = changed(&|header| header.attributes.0 = other);
                assert_eq!(found, Err(BatchError::UnknownCodec(other)));
            }
            for other in Codec::ALL.into_iter().filter(|other| *other != codec) {
                let found = changed(&|header| header.attributes = header.attributes.with_codec(Some(other)));
                assert_eq!(found, Err(BatchError::NotCompressed(other)), "{codec} as {other}");
            }
            let plain = changed(&|header| header.attributes = header.attributes.with_codec(None));
            assert!(
                matches!(plain, Err(BatchError::Malformed(_))),
                "{codec} as none: {plain:?}"
            );
        }
    }

    #[test]
    fn a_bomb_is_refused_in_bounded_memory() {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(0), None, Some(&vec![0; 10 << 20]), &[]);
        let bomb = builder.seal();
        for codec in Codec::ALL {
            let mut bomb = bomb.clone().with_codec(Some(codec), None).unwrap();
            let refused = bomb.check_records(1 << 20, |_, _| Ok::<_, BatchError>(()));
            assert_eq!(
                refused,
                Err(BatchError::InflatesTooLarge { limit: 1 << 20 }),
                "{codec}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_batch_has_the_same_records_in_each_compression(
            records in proptest::collection::vec(proptest::arbitrary::any::<Plain>(), 1..30),
            producer in proptest::bool::ANY,
        ) {
            let mut batch = batch_of(&records);
            if producer {
                batch.set_producer(ProducerId(9), 1, 5);
            }
            let mut last = batch.clone();
            for codec in Codec::ALL.into_iter().map(Some).chain([None]) {
                let packed = last.with_codec(codec, None).unwrap();
                let header = validate(packed.as_bytes()).unwrap();
                let same = BatchHeader {
                    attributes: batch.header().attributes,
                    batch_length: batch.header().batch_length,
                    crc: batch.header().crc,
                    ..header
                };
                proptest::prop_assert_eq!(same, batch.header());
                let inflated = inflate(packed.as_bytes(), MAX_INFLATED_BYTES).unwrap();
                proptest::prop_assert_eq!(plain_of(&inflated), plain_of(batch.as_bytes()));
                last = packed;
            }
            proptest::prop_assert_eq!(last.as_bytes(), batch.as_bytes());
        }

        #[test]
        fn a_flipped_byte_of_a_compressed_batch_is_noticed_or_outside_of_the_crc(
            records in proptest::collection::vec(proptest::arbitrary::any::<Plain>(), 1..6),
            codec in proptest::sample::select(&Codec::ALL[..]),
            flip in 1_u8..,
        ) {
            let good = batch_of(&records).with_codec(Some(codec), None).unwrap().into_bytes();
            for at in 0..good.len() {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let found = SealedBatch::from_outside(bytes);
                match (at, found) {
                    // The base offset, which the log sets, and the leader epoch, which is set to 0.
                    (0..8 | 12..16, Ok(batch)) => proptest::prop_assert_eq!(&batch.as_bytes()[8..], &good[8..]),
                    (0..8, Err(BatchError::Malformed(_))) => {}
                    (8..12, Err(BatchError::Truncated { .. } | BatchError::Malformed(_) | BatchError::Checksum { .. })) => {}
                    (16, Err(BatchError::Magic(_))) => {}
                    (17.., Err(BatchError::Checksum { .. } | BatchError::Malformed(_))) => {}
                    (at, found) => proptest::prop_assert!(false, "byte {}: {:?}", at, found),
                }
            }
        }
    }
}
