//! Building a batch in the buffer that is written.
//!
//! The buffer begins with room for the header, and records follow as they are pushed: sealing fills in the header and
//! hands on the buffer. In a record only three varints at its front depend on the batch (length, timestamp delta,
//! offset delta), so joining two batches writes those again and copies the rest.

use super::header::ATTRIBUTES;
use super::varint::{MAX_VARINT, MAX_VARLONG, Scratch, len_i32, len_i64, take_i32, take_i64};
use super::{Attributes, BatchHeader, HEADER_BYTES, SealedBatch};
use crate::batch::header::{CRC, LENGTH_END, put};
use crate::types::{Offset, ProducerId, TimestampMs};

/// The most bytes of a batch, header included: Kafka holds the size in an `i32`. Record counts stay far below that.
pub const MAX_BATCH_BYTES: usize = i32::MAX as usize;

/// The most bytes of a record before its key length: length, attributes, timestamp delta, offset delta.
const MAX_PREFIX: usize = MAX_VARINT + 1 + MAX_VARLONG + MAX_VARINT;

/// Builds one batch record by record, in the buffer that is later written. Offset deltas count from 0.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    /// Empty, or room for the header and then the records.
    buffer: Vec<u8>,
    record_count: u32,
    /// The first record's timestamp.
    base_timestamp: TimestampMs,
    /// The records' largest timestamp.
    max_timestamp: TimestampMs,
    log_append_time: Option<TimestampMs>,
}

impl BatchBuilder {
    /// Begins an empty batch. Nothing is allocated before the first record, and then hardly more than it needs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an empty batch with room for `bytes`, header included.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::with_buffer(Vec::with_capacity(bytes))
    }

    /// Begins an empty batch in a buffer that is used again; its contents are dropped, its capacity is kept.
    pub fn with_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            buffer,
            ..Self::default()
        }
    }

    /// Adds a record. Returns its encoded size in bytes.
    ///
    /// Cost: one copy; the buffer grows as a `Vec` does, and nothing else is allocated.
    ///
    /// # Panics
    /// If the batch would outgrow [`MAX_BATCH_BYTES`]. Check first with [`BatchBuilder::len`] and
    /// [`BatchBuilder::record_bytes_at_most`].
    pub fn push(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> usize {
        if self.record_count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp.0);
        let offset_delta = self.record_count as i32;
        let body_bytes =
            1 + len_i64(timestamp_delta) + len_i32(offset_delta) + tail_bytes(key, value, headers);
        self.begin_record(body_bytes);
        let before = self.buffer.len();

        // From here on every length fits an i32, because the whole batch does.
        let mut scratch = Scratch::<{ MAX_PREFIX + MAX_VARINT }>::new();
        scratch.put_i32(body_bytes as i32);
        scratch.put_byte(0);
        scratch.put_i64(timestamp_delta);
        scratch.put_i32(offset_delta);
        scratch.put_i32(nullable_len(key));
        self.buffer.extend_from_slice(scratch.as_bytes());
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.put_i32(nullable_len(value));
        self.buffer.extend_from_slice(value.unwrap_or_default());
        self.put_i32(headers.len() as i32);
        for &(name, value) in headers {
            self.put_i32(name.len() as i32);
            self.buffer.extend_from_slice(name);
            self.put_i32(nullable_len(value));
            self.buffer.extend_from_slice(value.unwrap_or_default());
        }

        self.record_count += 1;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let record_bytes = self.buffer.len() - before;
        debug_assert_eq!(record_bytes, len_i32(body_bytes as i32) + body_bytes);
        record_bytes
    }

    /// Adds all records of `other` behind its own, re-encoding only what depends on the batch (the committer combines
    /// small requests this way).
    ///
    /// Only records are taken over, not the log append time of `other`.
    ///
    /// # Panics
    /// If the batch would outgrow [`MAX_BATCH_BYTES`].
    pub fn append(&mut self, other: &BatchBuilder) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.buffer.clear();
            self.buffer.extend_from_slice(&other.buffer);
            self.record_count = other.record_count;
            self.base_timestamp = other.base_timestamp;
            self.max_timestamp = other.max_timestamp;
            return;
        }
        let mut rest = &other.buffer[HEADER_BYTES..];
        // Deltas grow by a byte or two: room for that as well.
        self.buffer.reserve(rest.len() + 4 * other.record_count as usize);
        let timestamp_shift = other.base_timestamp.0.wrapping_sub(self.base_timestamp.0);
        while !rest.is_empty() {
            let (timestamp_delta, tail) =
                take_record(&mut rest).expect("the builder's own records are whole");
            let timestamp_delta = timestamp_delta.wrapping_add(timestamp_shift);
            let offset_delta = self.record_count as i32;
            let body_bytes = 1 + len_i64(timestamp_delta) + len_i32(offset_delta) + tail.len();
            self.begin_record(body_bytes);
            let mut scratch = Scratch::<MAX_PREFIX>::new();
            scratch.put_i32(body_bytes as i32);
            scratch.put_byte(0);
            scratch.put_i64(timestamp_delta);
            scratch.put_i32(offset_delta);
            self.buffer.extend_from_slice(scratch.as_bytes());
            self.buffer.extend_from_slice(tail);
            self.record_count += 1;
        }
        self.max_timestamp = self.max_timestamp.max(other.max_timestamp);
    }

    /// How many records were added.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Bytes of the batch as it stands, header included (also while it is empty).
    pub fn len(&self) -> usize {
        self.buffer.len().max(HEADER_BYTES)
    }

    /// Whether no record was added.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The `max_timestamp` that sealing would write: the log append time, if set, else the records' largest timestamp; 0 while empty.
    pub fn max_timestamp(&self) -> TimestampMs {
        self.log_append_time.unwrap_or(self.max_timestamp)
    }

    /// Whether the records of `other` may join this batch: both are stamped by the broker, or neither is.
    pub fn can_append(&self, other: &Self) -> bool {
        self.log_append_time.is_some() == other.log_append_time.is_some()
    }

    /// Makes sealing set all timestamps to `time`, given by the broker (attribute bit and max_timestamp).
    pub fn set_log_append_time(&mut self, time: TimestampMs) {
        self.log_append_time = Some(time);
    }

    /// Makes room for `bytes` more: before many [`BatchBuilder::append`], so that the buffer grows once.
    pub fn reserve(&mut self, bytes: usize) {
        self.buffer.reserve(bytes);
    }

    /// The most bytes that such a record takes, whatever batch it goes to.
    pub fn record_bytes_at_most(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> usize {
        MAX_PREFIX + tail_bytes(key, value, headers)
    }

    /// Fills in the header (base offset 0) and the CRC. The buffer is handed on, not copied.
    ///
    /// The batch has no producer (id, epoch and sequence −1), and 0 for its leader epoch.
    ///
    /// # Panics
    /// If the batch is empty: it would have no last offset.
    #[must_use]
    pub fn seal(mut self) -> SealedBatch {
        assert!(
            self.record_count > 0,
            "a batch is sealed with at least one record"
        );
        let mut header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_length: (self.buffer.len() - LENGTH_END) as u32,
            partition_leader_epoch: 0,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: self.record_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: ProducerId::NONE,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: self.record_count,
        };
        if let Some(time) = self.log_append_time {
            header.attributes.0 |= Attributes::LOG_APPEND_TIME;
            header.max_timestamp = time;
        }
        header.encode(header_of(&mut self.buffer));
        let crc = crc32c::crc32c(&self.buffer[ATTRIBUTES..]);
        put::<CRC, 4>(header_of(&mut self.buffer), crc.to_be_bytes());
        SealedBatch::from_sealed(self.buffer)
    }

    /// Makes room for a record of `body_bytes`, and for the header in front of the first.
    #[inline(always)]
    fn begin_record(&mut self, body_bytes: usize) {
        let record_bytes = MAX_VARINT.saturating_add(body_bytes);
        let total = self.len().saturating_add(record_bytes);
        assert!(
            total <= MAX_BATCH_BYTES,
            "a batch of {total} bytes is larger than the format's {MAX_BATCH_BYTES}"
        );
        if self.buffer.is_empty() {
            if self.buffer.capacity() == 0 {
                // Most batches of single-record requests get no second record: no room for more is reserved.
                self.buffer.reserve_exact(total);
            }
            self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        }
        self.buffer.reserve(record_bytes);
    }

    #[inline(always)]
    fn put_i32(&mut self, value: i32) {
        let mut scratch = Scratch::<MAX_VARINT>::new();
        scratch.put_i32(value);
        self.buffer.extend_from_slice(scratch.as_bytes());
    }
}

/// The header at the front of a buffer that holds a record.
pub(super) fn header_of(buffer: &mut [u8]) -> &mut [u8; HEADER_BYTES] {
    buffer
        .first_chunk_mut()
        .expect("room for the header comes before the first record")
}

/// Takes a record off the front of `rest`: returns its timestamp delta, and all bytes after its offset delta.
#[inline(always)]
fn take_record<'a>(rest: &mut &'a [u8]) -> Option<(i64, &'a [u8])> {
    let body_bytes = take_i32(rest)? as usize;
    let (body, behind) = rest.split_at_checked(body_bytes)?;
    *rest = behind;
    let mut tail = body.get(1..)?;
    let timestamp_delta = take_i64(&mut tail)?;
    take_i32(&mut tail)?;
    Some((timestamp_delta, tail))
}

/// The bytes of a record from its key length on.
#[inline(always)]
fn tail_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], Option<&[u8]>)]) -> usize {
    let mut bytes = nullable_bytes(key) + nullable_bytes(value) + len_i32(headers.len() as i32);
    for &(name, value) in headers {
        bytes += nullable_bytes(Some(name)) + nullable_bytes(value);
    }
    bytes
}

/// For a length that does not fit an `i32` this is wrong, but then the batch is refused for its size.
#[inline(always)]
fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    len_i32(nullable_len(bytes)) + bytes.map_or(0, <[u8]>::len)
}

#[inline(always)]
fn nullable_len(bytes: Option<&[u8]>) -> i32 {
    bytes.map_or(-1, |bytes| bytes.len() as i32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Records, validate};

    type OwnedHeaders = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    /// A record's fields, owned, to compare what was pushed with what is read.
    #[derive(Clone, Debug, PartialEq)]
    struct Owned {
        timestamp: i64,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: OwnedHeaders,
    }

    impl Owned {
        fn push_to(&self, builder: &mut BatchBuilder) -> usize {
            let rows = self.headers.iter();
            let headers: Vec<_> = rows.map(|(n, v)| (n.as_slice(), v.as_deref())).collect();
            let most =
                BatchBuilder::record_bytes_at_most(self.key.as_deref(), self.value.as_deref(), &headers);
            let before = builder.len();
            let bytes = builder.push(
                TimestampMs(self.timestamp),
                self.key.as_deref(),
                self.value.as_deref(),
                &headers,
            );
            assert_eq!(builder.len(), before + bytes);
            assert!(bytes <= most, "{bytes} <= {most}");
            bytes
        }
    }

    fn build(records: &[Owned]) -> BatchBuilder {
        let mut builder = BatchBuilder::new();
        for record in records {
            record.push_to(&mut builder);
        }
        builder
    }

    /// The records of a batch that must be valid and begin at `base`.
    fn read(batch: &[u8], base: Offset) -> Vec<Owned> {
        let header = validate(batch).unwrap();
        assert_eq!(header.base_offset, base);
        let records: Vec<_> = Records::new(batch).unwrap().map(Result::unwrap).collect();
        for (record, count) in records.iter().zip(0..) {
            assert_eq!(record.offset, base.plus(count));
            assert_eq!(record.headers.iter().len(), record.headers.len());
        }
        let owned = records.iter().map(|record| Owned {
            timestamp: record.timestamp.0,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(n, v)| (n.to_vec(), v.map(<[u8]>::to_vec)))
                .collect(),
        });
        owned.collect()
    }

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..max)
    }

    fn record() -> impl Strategy<Value = Owned> {
        let timestamp = prop_oneof![
            4 => 1_357_035_420_000..1_357_035_430_000_i64,
            1 => any::<i64>(),
            1 => prop::sample::select(vec![i64::MIN, -1, 0, i64::MAX]),
        ];
        let value = prop_oneof![3 => bytes(100), 1 => bytes(9_000)];
        let headers = prop::collection::vec((bytes(20), prop::option::of(bytes(200))), 0..4);
        (
            timestamp,
            prop::option::of(bytes(100)),
            prop::option::of(value),
            headers,
        )
            .prop_map(|(timestamp, key, value, headers)| Owned {
                timestamp,
                key,
                value,
                headers,
            })
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were_pushed(
            records in prop::collection::vec(record(), 1..80),
            base in 0..i64::MAX as u64 - 100,
        ) {
            let builder = build(&records);
            prop_assert_eq!(builder.record_count() as usize, records.len());
            prop_assert_eq!(builder.max_timestamp().0, records.iter().map(|r| r.timestamp).max().unwrap());
            let len = builder.len();
            let mut batch = builder.seal();
            batch.set_base_offset(Offset::new(base));
            prop_assert_eq!(batch.as_bytes().len(), len);
            prop_assert_eq!(batch.record_count() as usize, records.len());
            prop_assert_eq!(read(batch.as_bytes(), Offset::new(base)), records);
        }

        #[test]
        fn batches_put_together_are_the_batch_that_was_built_at_once(
            parts in prop::collection::vec(prop::collection::vec(record(), 0..20), 1..8),
            from_the_start in any::<bool>(),
        ) {
            let records = parts.concat();
            prop_assume!(!records.is_empty());
            let mut parts = parts.iter().map(|part| build(part));
            let mut all = if from_the_start { parts.next().unwrap() } else { BatchBuilder::with_capacity(4096) };
            for part in parts {
                all.append(&part);
            }
            prop_assert_eq!(all.max_timestamp(), build(&records).max_timestamp());
            prop_assert_eq!(all.seal().into_bytes(), build(&records).seal().into_bytes());
        }
    }

    #[test]
    fn many_single_records_put_together_are_the_batch_that_was_built_at_once() {
        // Past both steps of the offset delta's size.
        let rows = (0..9_000).map(|number| Owned {
            timestamp: 1_000_000 - number * 7 % 10_000,
            key: Some(number.to_string().into_bytes()),
            value: None,
            headers: Vec::new(),
        });
        let records: Vec<_> = rows.collect();
        let mut all = BatchBuilder::new();
        for record in &records {
            all.append(&build(std::slice::from_ref(record)));
        }
        let batch = all.seal();
        assert_eq!(read(batch.as_bytes(), Offset::ZERO), records);
        assert_eq!(batch.into_bytes(), build(&records).seal().into_bytes());
    }

    #[test]
    fn a_fresh_batch_has_the_header_that_kafka_producers_write() {
        let mut builder = BatchBuilder::new();
        assert!(builder.is_empty());
        assert_eq!(builder.len(), HEADER_BYTES);
        builder.push(TimestampMs(50), None, Some(b"a"), &[]);
        builder.push(TimestampMs(70), None, Some(b"b"), &[]);
        builder.push(TimestampMs(40), None, Some(b"c"), &[]);
        let header = builder.seal().header();
        assert_eq!(
            header,
            BatchHeader {
                base_offset: Offset::ZERO,
                batch_length: 49 + 3 * 8,
                partition_leader_epoch: 0,
                crc: header.crc,
                attributes: Attributes(0),
                last_offset_delta: 2,
                base_timestamp: TimestampMs(50),
                max_timestamp: TimestampMs(70),
                producer_id: ProducerId(-1),
                producer_epoch: -1,
                base_sequence: -1,
                record_count: 3,
            }
        );
    }

    #[test]
    fn log_append_time_is_every_records_timestamp() {
        let mut builder = BatchBuilder::new();
        builder.set_log_append_time(TimestampMs(9_000));
        builder.push(TimestampMs(50), None, None, &[]);
        builder.push(TimestampMs(10_000), None, None, &[]);
        assert_eq!(builder.max_timestamp(), TimestampMs(9_000));
        let batch = builder.seal();
        assert!(batch.header().attributes.is_log_append_time());
        assert_eq!(batch.max_timestamp(), TimestampMs(9_000));
        for record in read(batch.as_bytes(), Offset::ZERO) {
            assert_eq!(record.timestamp, 9_000);
        }
    }

    #[test]
    fn only_the_own_log_append_time_counts_when_batches_are_put_together() {
        let mut other = BatchBuilder::new();
        other.push(TimestampMs(50), None, None, &[]);
        other.set_log_append_time(TimestampMs(9_000));
        let mut builder = BatchBuilder::new();
        builder.append(&other);
        builder.append(&other);
        assert_eq!(builder.max_timestamp(), TimestampMs(50));
        builder.set_log_append_time(TimestampMs(60));
        assert_eq!(builder.seal().max_timestamp(), TimestampMs(60));
    }

    #[test]
    fn a_buffer_is_used_again_without_what_it_held() {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(1), None, Some(&[7; 1000]), &[]);
        let buffer = builder.seal().into_bytes();
        let capacity = buffer.capacity();
        let mut builder = BatchBuilder::with_buffer(buffer);
        assert!(builder.is_empty());
        builder.push(TimestampMs(2), None, Some(b"v"), &[]);
        let batch = builder.seal().into_bytes();
        assert_eq!(batch.capacity(), capacity);
        assert_eq!(batch.len(), HEADER_BYTES + 8);
        assert_eq!(read(&batch, Offset::ZERO)[0].value.as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn a_single_record_is_built_with_one_allocation() {
        let mut builder = BatchBuilder::new();
        builder.push(
            TimestampMs(1),
            Some(b"key"),
            Some(&[7; 1000]),
            &[(b"name", Some(b"value"))],
        );
        let capacity = builder.buffer.capacity();
        assert!(
            capacity <= builder.len() + MAX_VARINT,
            "{capacity} bytes for {}",
            builder.len()
        );
        let before = builder.buffer.as_ptr();
        assert_eq!(builder.seal().as_bytes().as_ptr(), before);
    }

    #[test]
    #[should_panic(expected = "at least one record")]
    fn an_empty_batch_is_not_sealed() {
        let _ = BatchBuilder::new().seal();
    }

    #[test]
    #[should_panic(expected = "larger than the format's")]
    fn a_batch_too_large_for_the_format_is_not_built() {
        // One slice many times over, so that the test needs no memory for what is refused.
        let value = vec![0; 1 << 20];
        let headers = vec![(&b"name"[..], Some(&value[..])); 2_048];
        BatchBuilder::new().push(TimestampMs(0), None, None, &headers);
    }
}
