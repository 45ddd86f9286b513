//! The header of a batch: its 61 bytes, read with bounds checks and written as they stand.
//!
//! | position | bytes | field | notes |
//! |---:|---:|---|---|
//! | 0 | 8 | base offset | the first record's offset; outside of the CRC, so that the log can set it last |
//! | 8 | 4 | batch length | bytes after this field: the batch's total less 12; at least 49 |
//! | 12 | 4 | partition leader epoch | outside of the CRC; quipu writes 0 and does not use it |
//! | 16 | 1 | magic | 2 |
//! | 17 | 4 | CRC | CRC-32C of everything from the attributes to the end |
//! | 21 | 2 | attributes | bits 0–2 compression, 3 log append time, 4 transactional, 5 control, 6 delete horizon |
//! | 23 | 4 | last offset delta | the last offset less the base offset; stays when compaction removes records |
//! | 27 | 8 | base timestamp | what the records' timestamp deltas are added to; milliseconds |
//! | 35 | 8 | max timestamp | the largest timestamp; every record's, if the log append time bit is set |
//! | 43 | 8 | producer id | −1: none |
//! | 51 | 2 | producer epoch | −1: none |
//! | 53 | 4 | base sequence | −1: none |
//! | 57 | 4 | record count | |
//! | 61 | | records | |

use super::records::MIN_RECORD_BYTES;
use super::{BatchError, Codec};
use crate::types::{Offset, ProducerId, TimestampMs};

/// The bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// The bytes of base offset and batch length, which the batch length does not count.
pub(super) const LENGTH_END: usize = 12;
/// The least batch length: a header and no records.
const MIN_BATCH_LENGTH: i32 = (HEADER_BYTES - LENGTH_END) as i32;
const MAGIC: i8 = 2;

pub(super) const BASE_OFFSET: usize = 0;
pub(super) const BATCH_LENGTH: usize = 8;
pub(super) const PARTITION_LEADER_EPOCH: usize = 12;
const MAGIC_BYTE: usize = 16;
pub(super) const CRC: usize = 17;
/// Where the bytes that the CRC covers begin.
pub(super) const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
pub(super) const MAX_TIMESTAMP: usize = 35;
pub(super) const PRODUCER_ID: usize = 43;
pub(super) const PRODUCER_EPOCH: usize = 51;
pub(super) const BASE_SEQUENCE: usize = 53;
pub(super) const RECORD_COUNT: usize = 57;

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    /// The bit that says that the broker gave the time, one for all records.
    pub const LOG_APPEND_TIME: i16 = 1 << 3;

    /// The bits that say how the records are compressed.
    const COMPRESSION: i16 = 7;

    /// The compression: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are none that there is.
    #[must_use]
    pub fn compression(self) -> i16 {
        self.0 & Self::COMPRESSION
    }

    /// How the records are compressed; `None` if they are not.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`].
    pub fn codec(self) -> Result<Option<Codec>, BatchError> {
        match self.compression() {
            0 => Ok(None),
            bits => Codec::of(bits).map(Some).ok_or(BatchError::UnknownCodec(bits)),
        }
    }

    /// The same with another compression.
    #[must_use]
    pub(super) fn with_codec(self, codec: Option<Codec>) -> Self {
        Self(self.0 & !Self::COMPRESSION | codec.map_or(0, Codec::bits))
    }

    /// Whether every record's timestamp is the batch's max timestamp.
    #[must_use]
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & (1 << 4) != 0
    }

    /// Whether the records are markers for brokers and clients, not data.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & (1 << 5) != 0
    }
}

/// Every field before the records.
///
/// If [`BatchHeader::peek`] returned it, it is within bounds: lengths and counts fit an `i32`, and offsets an `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record that was ever in the batch.
    pub base_offset: Offset,
    /// The bytes after this field: [`BatchHeader::total_bytes`] less 12.
    pub batch_length: u32,
    /// The epoch of the partition's leader, for replication; not covered by the CRC.
    pub partition_leader_epoch: i32,
    /// The CRC-32C of everything from the attributes to the end.
    pub crc: u32,
    /// Compression, kind of timestamp, and what the batch is for.
    pub attributes: Attributes,
    /// The last offset less the base offset.
    pub last_offset_delta: u32,
    /// What the records' timestamp deltas are added to.
    pub base_timestamp: TimestampMs,
    /// The largest timestamp of the records, as the producer says; with log append time, the timestamp of all of them.
    pub max_timestamp: TimestampMs,
    /// Who wrote the batch, for finding duplicates.
    pub producer_id: ProducerId,
    /// The producer's epoch, which fences older ones; −1 without a producer.
    pub producer_epoch: i16,
    /// The producer's number of the first record; −1 without a producer.
    pub base_sequence: i32,
    /// How many records the batch holds; in an uncompressed batch no more than fit its bytes.
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads and bounds-checks the header at the start of `bytes`; the records need not be there, and the CRC is not checked.
    ///
    /// # Errors
    /// - [`BatchError::Truncated`]: fewer than [`HEADER_BYTES`] are there.
    /// - [`BatchError::Magic`]: unwritten space, or another version of the format.
    /// - [`BatchError::Malformed`]: a negative or impossible number.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Self, BatchError> {
        // The magic first: messages of older versions may be shorter than this version's header.
        if let Some(&magic) = bytes.get(MAGIC_BYTE)
            && magic as i8 != MAGIC
        {
            return Err(BatchError::Magic(magic as i8));
        }
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(BatchError::Truncated {
            needed: HEADER_BYTES,
            found: bytes.len(),
        })?;
        let base_offset = i64::from_be_bytes(field::<BASE_OFFSET, 8>(header));
        let batch_length = i32::from_be_bytes(field::<BATCH_LENGTH, 4>(header));
        let attributes = Attributes(i16::from_be_bytes(field::<ATTRIBUTES, 2>(header)));
        let last_offset_delta = i32::from_be_bytes(field::<LAST_OFFSET_DELTA, 4>(header));
        let record_count = i32::from_be_bytes(field::<RECORD_COUNT, 4>(header));
        if base_offset < 0 {
            return Err(BatchError::Malformed("the base offset is negative"));
        }
        if batch_length < MIN_BATCH_LENGTH {
            return Err(BatchError::Malformed(
                "the batch length is less than the header's",
            ));
        }
        if last_offset_delta < 0 {
            return Err(BatchError::Malformed("the last offset delta is negative"));
        }
        if base_offset >= i64::MAX - i64::from(last_offset_delta) {
            return Err(BatchError::Malformed("the last offset is out of range"));
        }
        if record_count < 0 {
            return Err(BatchError::Malformed("the record count is negative"));
        }
        // Callers may size something by the count, so it must not promise more than the bytes can hold.
        let record_bytes = (batch_length - MIN_BATCH_LENGTH) as usize;
        if attributes.compression() == 0 && record_count as usize > record_bytes / MIN_RECORD_BYTES {
            return Err(BatchError::Malformed(
                "the batch is too short for its record count",
            ));
        }
        Ok(Self {
            base_offset: Offset::new(base_offset as u64),
            batch_length: batch_length as u32,
            partition_leader_epoch: i32::from_be_bytes(field::<PARTITION_LEADER_EPOCH, 4>(header)),
            crc: u32::from_be_bytes(field::<CRC, 4>(header)),
            attributes,
            last_offset_delta: last_offset_delta as u32,
            base_timestamp: TimestampMs(i64::from_be_bytes(field::<BASE_TIMESTAMP, 8>(header))),
            max_timestamp: TimestampMs(i64::from_be_bytes(field::<MAX_TIMESTAMP, 8>(header))),
            producer_id: ProducerId(i64::from_be_bytes(field::<PRODUCER_ID, 8>(header))),
            producer_epoch: i16::from_be_bytes(field::<PRODUCER_EPOCH, 2>(header)),
            base_sequence: i32::from_be_bytes(field::<BASE_SEQUENCE, 4>(header)),
            record_count: record_count as u32,
        })
    }

    /// The header of the batch at the start of `bytes`, the whole batch, and what follows it.
    ///
    /// # Errors
    /// Those of [`BatchHeader::peek`], and [`BatchError::Truncated`] where the batch is not all there.
    #[inline]
    pub(super) fn split(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), BatchError> {
        let header = Self::peek(bytes)?;
        let needed = header.total_bytes();
        match bytes.split_at_checked(needed) {
            Some((batch, rest)) => Ok((header, batch, rest)),
            None => Err(BatchError::Truncated {
                needed,
                found: bytes.len(),
            }),
        }
    }

    /// The whole batch's bytes, header included.
    pub fn total_bytes(&self) -> usize {
        self.batch_length as usize + LENGTH_END
    }

    /// One past the last offset.
    ///
    /// # Panics
    /// If that is above [`Offset::MAX`], which [`BatchHeader::peek`] rules out.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.last_offset_delta) + 1)
    }

    /// Writes all fields as they stand, the CRC too, and the magic.
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES]) {
        put::<BASE_OFFSET, 8>(out, self.base_offset.get().to_be_bytes());
        put::<BATCH_LENGTH, 4>(out, self.batch_length.to_be_bytes());
        put::<PARTITION_LEADER_EPOCH, 4>(out, self.partition_leader_epoch.to_be_bytes());
        put::<MAGIC_BYTE, 1>(out, MAGIC.to_be_bytes());
        put::<CRC, 4>(out, self.crc.to_be_bytes());
        put::<ATTRIBUTES, 2>(out, self.attributes.0.to_be_bytes());
        put::<LAST_OFFSET_DELTA, 4>(out, self.last_offset_delta.to_be_bytes());
        put::<BASE_TIMESTAMP, 8>(out, self.base_timestamp.0.to_be_bytes());
        put::<MAX_TIMESTAMP, 8>(out, self.max_timestamp.0.to_be_bytes());
        put::<PRODUCER_ID, 8>(out, self.producer_id.0.to_be_bytes());
        put::<PRODUCER_EPOCH, 2>(out, self.producer_epoch.to_be_bytes());
        put::<BASE_SEQUENCE, 4>(out, self.base_sequence.to_be_bytes());
        put::<RECORD_COUNT, 4>(out, self.record_count.to_be_bytes());
    }
}

/// The `N` bytes at `AT`; the compiler checks that they lie in the header.
#[inline(always)]
pub(super) fn field<const AT: usize, const N: usize>(header: &[u8; HEADER_BYTES]) -> [u8; N] {
    const { assert!(AT + N <= HEADER_BYTES) };
    std::array::from_fn(|at| header[AT + at])
}

/// Sets the `N` bytes at `AT`; the compiler checks that they lie in the header.
#[inline(always)]
pub(super) fn put<const AT: usize, const N: usize>(header: &mut [u8; HEADER_BYTES], bytes: [u8; N]) {
    const { assert!(AT + N <= HEADER_BYTES) };
    header[AT..AT + N].copy_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            base_offset: Offset::new(7),
            batch_length: 49 + 70,
            partition_leader_epoch: 3,
            crc: 0xdead_beef,
            attributes: Attributes(Attributes::LOG_APPEND_TIME),
            last_offset_delta: 9,
            base_timestamp: TimestampMs(-5),
            max_timestamp: TimestampMs(1_357_035_420_000),
            producer_id: ProducerId(77),
            producer_epoch: 2,
            base_sequence: 1_000,
            record_count: 10,
        }
    }

    fn encoded(header: &BatchHeader) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        header.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = header();
        assert_eq!(BatchHeader::peek(&encoded(&header)), Ok(header));
        assert_eq!(header.total_bytes(), 61 + 70);
        assert_eq!(header.next_offset(), Offset::new(17));
    }

    #[test]
    fn a_header_cut_at_any_length_is_truncated() {
        let bytes = encoded(&header());
        for found in 0..HEADER_BYTES {
            assert_eq!(
                BatchHeader::peek(&bytes[..found]),
                Err(BatchError::Truncated {
                    needed: HEADER_BYTES,
                    found
                })
            );
        }
    }

    #[test]
    fn unwritten_space_and_old_messages_have_the_wrong_magic() {
        assert_eq!(BatchHeader::peek(&[0; 4096]), Err(BatchError::Magic(0)));
        assert_eq!(BatchHeader::peek(&[0; 17]), Err(BatchError::Magic(0)));
        let mut bytes = encoded(&header());
        bytes[MAGIC_BYTE] = 1;
        assert_eq!(BatchHeader::peek(&bytes[..34]), Err(BatchError::Magic(1)));
    }

    #[test]
    fn impossible_numbers_are_malformed() {
        let cases: [(&str, usize, &[u8]); 8] = [
            ("negative base offset", BASE_OFFSET, &(-1_i64).to_be_bytes()),
            (
                "last offset above the largest",
                BASE_OFFSET,
                &(i64::MAX - 9).to_be_bytes(),
            ),
            ("no room for the header", BATCH_LENGTH, &48_i32.to_be_bytes()),
            ("negative batch length", BATCH_LENGTH, &(-1_i32).to_be_bytes()),
            (
                "negative last offset delta",
                LAST_OFFSET_DELTA,
                &(-1_i32).to_be_bytes(),
            ),
            ("negative record count", RECORD_COUNT, &(-1_i32).to_be_bytes()),
            (
                "eleven records in ten records' bytes",
                RECORD_COUNT,
                &11_i32.to_be_bytes(),
            ),
            ("more records than memory", RECORD_COUNT, &i32::MAX.to_be_bytes()),
        ];
        for (case, at, value) in cases {
            let mut bytes = encoded(&header());
            bytes[at..at + value.len()].copy_from_slice(value);
            let found = BatchHeader::peek(&bytes);
            assert!(
                matches!(found, Err(BatchError::Malformed(_))),
                "{case}: {found:?}"
            );
        }
    }

    #[test]
    fn the_largest_offset_can_be_reached_but_not_passed() {
        let mut header = header();
        header.base_offset = Offset::new(i64::MAX as u64 - 10);
        let read = BatchHeader::peek(&encoded(&header)).unwrap();
        assert_eq!(read.next_offset(), Offset::MAX);
    }

    #[test]
    fn attributes_are_the_bits_of_the_protocol() {
        let all = Attributes(0b11_1100);
        assert!(all.is_log_append_time() && all.is_transactional() && all.is_control());
        assert_eq!(all.compression(), 4);
        let none = Attributes(0b100_0000);
        assert!(!none.is_log_append_time() && !none.is_transactional() && !none.is_control());
        assert_eq!(none.compression(), 0);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_an_accepted_header_is_written_back_the_same(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            small in any::<bool>(),
        ) {
            if let Some(magic) = bytes.get_mut(MAGIC_BYTE) {
                *magic = 2;
            }
            if small && bytes.len() >= HEADER_BYTES {
                for at in [BASE_OFFSET, BATCH_LENGTH, LAST_OFFSET_DELTA, RECORD_COUNT] {
                    bytes[at] = 0;
                }
                bytes[RECORD_COUNT + 1] = 0;
            }
            if let Ok(header) = BatchHeader::peek(&bytes) {
                let _ = (header.total_bytes(), header.next_offset());
                prop_assert_eq!(&encoded(&header)[..], &bytes[..HEADER_BYTES]);
            }
        }
    }
}
