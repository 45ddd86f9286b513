//! Records, decoded in place, without a copy.
//!
//! | field | as | notes |
//! |---|---|---|
//! | length | varint | bytes after this field |
//! | attributes | 1 byte | no bit has a meaning; written 0 |
//! | timestamp delta | varlong | added to the base timestamp; negative where the clock went back |
//! | offset delta | varint | added to the base offset |
//! | key length, key | varint, bytes | −1: null |
//! | value length, value | varint, bytes | −1: null |
//! | header count | varint | |
//! | header: key length, key | varint, bytes | UTF-8 by the protocol; not checked here |
//! | header: value length, value | varint, bytes | −1: null |
//!
//! A record is checked to its last byte before it is handed out, its headers too: what a caller reaches through a
//! [`Record`] cannot fail any more.

use super::varint::{take_i32, take_i64};
use super::{BatchError, BatchHeader, HEADER_BYTES};
use crate::types::{Offset, TimestampMs};

/// The least bytes of a record: seven fields of one byte, with neither key nor value nor headers.
pub(super) const MIN_RECORD_BYTES: usize = 7;

/// A record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The record's offset in its partition.
    pub offset: Offset,
    /// The producer's time; in batches with log append time, the batch's `max_timestamp`.
    pub timestamp: TimestampMs,
    /// The key, if there is one. An empty key counts as one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in the order in which they were written.
    pub headers: Headers<'a>,
}

/// The headers of a record, decoded as they are asked for (bounds were checked when the record was).
///
/// A name may repeat. Names are UTF-8 by the protocol, but nothing has checked that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// Exactly `count` headers, which [`Headers::take`] has checked.
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each name with its value.
    #[inline]
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter {
            rest: self.bytes,
            left: self.count,
        }
    }

    /// Takes the rest of a record's `body`: the count, and headers up to the very end.
    #[inline(always)]
    fn take(mut body: &'a [u8]) -> Result<Self, BatchError> {
        let count =
            take_i32(&mut body).ok_or(BatchError::Malformed("a record's header count does not fit it"))?;
        let headers = Self {
            bytes: body,
            count: usize::try_from(count)
                .map_err(|_| BatchError::Malformed("a record's header count is negative"))?,
        };
        let end = if headers.is_empty() {
            Some(body)
        } else {
            headers.walk()
        };
        match end {
            Some([]) => Ok(headers),
            Some(_) => Err(BatchError::Malformed("bytes follow the fields of a record")),
            None => Err(BatchError::Malformed("a record's header does not fit it")),
        }
    }

    /// Walks over all headers; returns the bytes after them, or `None` if one does not fit.
    fn walk(&self) -> Option<&'a [u8]> {
        let mut rest = self.bytes;
        for _ in 0..self.count {
            take_header(&mut rest)?;
        }
        Some(rest)
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// What [`Headers::iter`] returns.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let header = take_header(&mut self.rest);
        debug_assert!(
            header.is_some(),
            "headers are walked over before they are handed out"
        );
        header
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}

#[inline]
fn take_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let name = take_nullable(rest)??;
    Some((name, take_nullable(rest)?))
}

/// Takes a length and its bytes; the outer `None` where they do not fit, the inner one for null.
#[inline(always)]
fn take_nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = take_i32(rest)?;
    if len < 0 {
        // Null is always written as −1, so any other negative length is damage.
        return (len == -1).then_some(None);
    }
    let (bytes, behind) = rest.split_at_checked(len as usize)?;
    *rest = behind;
    Some(Some(bytes))
}

/// The place of a walk in a batch, for callers that cannot keep a borrow of the batch. See [`Records::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// From the next record to the end of the batch.
    rest_bytes: usize,
    left: u32,
    next_offset_delta: u32,
}

/// Walks the records of one uncompressed batch.
///
/// Offsets ascend, but may have gaps, which compaction leaves. The CRC is not checked: see [`verify`](super::verify).
/// The first error ends the walk.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    /// The records still to come; empty after an error.
    rest: &'a [u8],
    /// How many the header says are still to come.
    left: u32,
    base_offset: Offset,
    last_offset_delta: u32,
    /// The least offset delta that the next record may have.
    next_offset_delta: u32,
    base_timestamp: TimestampMs,
    /// The timestamp of all records, if the broker gave it.
    log_append_time: Option<TimestampMs>,
}

impl<'a> Records<'a> {
    /// Begins at the first record of the batch at the start of `batch`; what follows the batch is not looked at.
    ///
    /// # Errors
    /// - Those of [`BatchHeader::peek`], and [`BatchError::Truncated`] where the batch is not all there.
    /// - [`BatchError::Malformed`]: the batch is compressed: [`inflate()`](super::inflate()) it first.
    pub fn new(batch: &'a [u8]) -> Result<Self, BatchError> {
        let (header, batch, _) = BatchHeader::split(batch)?;
        Self::of(&header, &batch[HEADER_BYTES..])
    }

    /// Where the walk stands, before the record that comes next.
    #[inline]
    pub fn place(&self) -> RecordPlace {
        RecordPlace {
            rest_bytes: self.rest.len(),
            left: self.left,
            next_offset_delta: self.next_offset_delta,
        }
    }

    /// Continues a walk over `batch` at `place`.
    ///
    /// # Errors
    /// As for [`Records::new`], and [`BatchError::Malformed`] for a place that this batch does not have.
    #[inline]
    pub fn resume(batch: &'a [u8], place: RecordPlace) -> Result<Self, BatchError> {
        let mut records = Self::new(batch)?;
        let begin = records.rest.len().checked_sub(place.rest_bytes);
        let (Some(begin), true) = (begin, place.left <= records.left) else {
            return Err(BatchError::Malformed("a place that the batch does not have"));
        };
        records.rest = &records.rest[begin..];
        records.left = place.left;
        records.next_offset_delta = place.next_offset_delta;
        Ok(records)
    }

    /// Passes over the records before `offset`, whose keys, values and headers are not looked at. What cannot be read is left
    /// to the next call of [`Records::next`], which returns the error.
    #[inline]
    pub fn skip_to(&mut self, offset: Offset) {
        let Some(wanted) = offset.get().checked_sub(self.base_offset.get()) else {
            return;
        };
        while self.left > 0 {
            let mut rest = self.rest;
            let body = take_nullable(&mut rest).flatten();
            let Some(delta) = body.and_then(take_offset_delta) else {
                return;
            };
            let is_in_order = (self.next_offset_delta..=self.last_offset_delta).contains(&delta);
            if !is_in_order || u64::from(delta) >= wanted {
                return;
            }
            self.rest = rest;
            self.left -= 1;
            self.next_offset_delta = delta + 1;
        }
    }

    /// Begins at the first of `records`, which are all that follows `header` in its batch.
    fn of(header: &BatchHeader, records: &'a [u8]) -> Result<Self, BatchError> {
        if header.attributes.compression() != 0 {
            return Err(BatchError::Malformed(
                "a compressed batch is read after it was inflated",
            ));
        }
        Ok(Self {
            rest: records,
            left: header.record_count,
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            next_offset_delta: 0,
            base_timestamp: header.base_timestamp,
            log_append_time: header
                .attributes
                .is_log_append_time()
                .then_some(header.max_timestamp),
        })
    }

    #[inline(always)]
    fn decode(&mut self) -> Result<Record<'a>, BatchError> {
        let mut body = take_nullable(&mut self.rest)
            .flatten()
            .ok_or(BatchError::Malformed("a record's length does not fit the batch"))?;
        body = body
            .get(1..)
            .ok_or(BatchError::Malformed("a record has no attributes"))?;
        let timestamp_delta = take_i64(&mut body).ok_or(BatchError::Malformed(
            "a record's timestamp delta does not fit it",
        ))?;
        let offset_delta =
            take_i32(&mut body).ok_or(BatchError::Malformed("a record's offset delta does not fit it"))?;
        let offset_delta = u32::try_from(offset_delta)
            .ok()
            .filter(|delta| (self.next_offset_delta..=self.last_offset_delta).contains(delta))
            .ok_or(BatchError::Malformed("a record's offset delta is out of order"))?;
        let key = take_nullable(&mut body).ok_or(BatchError::Malformed("a record's key does not fit it"))?;
        let value =
            take_nullable(&mut body).ok_or(BatchError::Malformed("a record's value does not fit it"))?;
        let headers = Headers::take(body)?;
        self.next_offset_delta = offset_delta + 1;
        Ok(Record {
            // In range, because the header's last offset is.
            offset: self.base_offset.plus(offset_delta.into()),
            // Deltas wrap around here as they do in the builder (and in Java), so that any timestamp comes back.
            timestamp: self
                .log_append_time
                .unwrap_or(TimestampMs(self.base_timestamp.0.wrapping_add(timestamp_delta))),
            key,
            value,
            headers,
        })
    }
}

/// The offset delta of a record's body.
#[inline(always)]
fn take_offset_delta(body: &[u8]) -> Option<u32> {
    let mut body = body.get(1..)?;
    take_i64(&mut body)?;
    take_i32(&mut body)?.try_into().ok()
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let record = match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.decode()
            }
            None if self.rest.is_empty() => return None,
            None => Err(BatchError::Malformed("bytes follow the last record of a batch")),
        };
        if record.is_err() {
            self.left = 0;
            self.rest = &[];
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error may come first, and one may come instead of the end.
        (0, Some(self.left as usize + 1))
    }
}

impl std::iter::FusedIterator for Records<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Attributes;
    use crate::types::ProducerId;

    /// A batch of `count` records as they are given, at offset 100, with room for offset deltas to 9. Its CRC is wrong.
    fn batch_of(records: &[u8], count: u32) -> Vec<u8> {
        let header = BatchHeader {
            base_offset: Offset::new(100),
            batch_length: (HEADER_BYTES - 12 + records.len()) as u32,
            partition_leader_epoch: 0,
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: 9,
            base_timestamp: TimestampMs(1_000),
            max_timestamp: TimestampMs(1_000),
            producer_id: ProducerId::NONE,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: count,
        };
        let mut bytes = [0; HEADER_BYTES];
        header.encode(&mut bytes);
        [&bytes[..], records].concat()
    }

    fn malformed(record: &[u8]) -> &'static str {
        // Padded with whole records behind it, so that it has bytes to run into.
        let good = [12, 0, 0, 2, 1, 1, 0];
        let bytes = batch_of(&[record, &good, &good, &good].concat(), 1);
        let mut records = Records::new(&bytes).unwrap();
        let Some(Err(BatchError::Malformed(message))) = records.next() else {
            panic!("{record:?} was decoded");
        };
        assert!(records.next().is_none(), "nothing follows an error");
        message
    }

    #[test]
    fn a_walk_goes_on_from_any_place_as_if_it_had_not_stopped() {
        let records = [
            [12, 0, 1, 0, 1, 1, 0],
            [12, 0, 3, 4, 1, 1, 0],
            [12, 0, 5, 18, 1, 1, 0],
        ]
        .concat();
        let bytes = batch_of(&records, 3);
        let offsets = |records: Records<'_>| {
            records
                .map(|record| record.unwrap().offset.get())
                .collect::<Vec<_>>()
        };
        let mut walk = Records::new(&bytes).unwrap();
        for left in [&[100, 102, 109][..], &[102, 109], &[109], &[]] {
            assert_eq!(offsets(Records::resume(&bytes, walk.place()).unwrap()), left);
            assert_eq!(offsets(walk.clone()), left);
            walk.next();
        }
        let other = batch_of(&records[..7], 1);
        assert!(Records::resume(&other, Records::new(&bytes).unwrap().place()).is_err());
    }

    #[test]
    fn a_walk_skips_to_the_first_record_that_is_not_before_an_offset() {
        let records = [
            [12, 0, 1, 0, 1, 1, 0],
            [12, 0, 3, 4, 1, 1, 0],
            [12, 0, 5, 18, 1, 1, 0],
        ]
        .concat();
        let bytes = batch_of(&records, 3);
        for from in 0..=111 {
            let mut skipped = Records::new(&bytes).unwrap();
            skipped.skip_to(Offset::new(from));
            let offsets = |records: Records<'_>| {
                let offsets = records.map(|record| record.unwrap().offset.get());
                offsets.collect::<Vec<_>>()
            };
            let mut expected = offsets(Records::new(&bytes).unwrap());
            expected.retain(|offset| *offset >= from);
            assert_eq!(offsets(skipped), expected, "{from}");
        }
        // The error is found where the record is read.
        for broken in 0..3 {
            let mut records = records.clone();
            records[broken * 7] = 127;
            let bytes = batch_of(&records, 3);
            let mut skipped = Records::new(&bytes).unwrap();
            skipped.skip_to(Offset::new(200));
            assert!(
                matches!(skipped.next(), Some(Err(BatchError::Malformed(_)))),
                "{broken}"
            );
            assert!(skipped.next().is_none());
        }
    }

    #[test]
    fn the_least_record_is_read() {
        let bytes = batch_of(&[12, 0, 1, 18, 1, 1, 0], 1);
        let record = Records::new(&bytes).unwrap().next().unwrap().unwrap();
        assert_eq!(record.offset, Offset::new(109));
        assert_eq!(record.timestamp, TimestampMs(999));
        assert_eq!((record.key, record.value), (None, None));
        assert!(record.headers.is_empty());
        assert_eq!(record.headers.iter().next(), None);
    }

    #[test]
    fn gaps_between_offsets_are_read() {
        let bytes = batch_of(&[12, 0, 0, 4, 1, 1, 0, 12, 0, 0, 14, 1, 1, 0], 2);
        let rows = Records::new(&bytes).unwrap();
        let offsets: Vec<_> = rows.map(|record| record.unwrap().offset.get()).collect();
        assert_eq!(offsets, [102, 107]);
    }

    #[test]
    fn a_batch_that_compaction_emptied_has_no_records() {
        let bytes = batch_of(&[], 0);
        assert!(Records::new(&bytes).unwrap().next().is_none());
    }

    #[test]
    fn headers_come_in_their_order_with_repeated_and_null_ones() {
        let bytes = batch_of(&[30, 0, 0, 0, 1, 1, 6, 2, b'a', 2, b'1', 2, b'a', 1, 0, 0], 1);
        let record = Records::new(&bytes).unwrap().next().unwrap().unwrap();
        let headers: Vec<_> = record.headers.into_iter().collect();
        assert_eq!(
            headers,
            [
                (&b"a"[..], Some(&b"1"[..])),
                (&b"a"[..], None),
                (&b""[..], Some(&b""[..]))
            ]
        );
        assert_eq!(record.headers.iter().len(), 3);
    }

    #[test]
    fn a_record_whose_fields_do_not_fit_is_malformed() {
        for (record, expected) in [
            (
                &[127, 0, 0, 0, 1, 1, 0][..],
                "a record's length does not fit the batch",
            ),
            (&[1, 0, 0, 0, 1, 1, 0], "a record's length does not fit the batch"),
            (&[0xff; 7], "a record's length does not fit the batch"),
            (&[0, 0, 0, 0, 1, 1, 0], "a record has no attributes"),
            (
                &[2, 0, 0, 0, 1, 1, 0],
                "a record's timestamp delta does not fit it",
            ),
            (
                &[12, 0, 0xff, 0xff, 0xff, 0xff, 0xff],
                "a record's timestamp delta does not fit it",
            ),
            (&[4, 0, 0, 0, 1, 1, 0], "a record's offset delta does not fit it"),
            (&[12, 0, 0, 1, 1, 1, 0], "a record's offset delta is out of order"),
            (
                &[12, 0, 0, 20, 1, 1, 0],
                "a record's offset delta is out of order",
            ),
            (&[6, 0, 0, 0, 1, 1, 0], "a record's key does not fit it"),
            (&[12, 0, 0, 0, 8, 1, 0], "a record's key does not fit it"),
            (&[12, 0, 0, 0, 3, 1, 0], "a record's key does not fit it"),
            (&[12, 0, 0, 0, 1, 8, 0], "a record's value does not fit it"),
            (&[12, 0, 0, 0, 1, 5, 0], "a record's value does not fit it"),
            (&[10, 0, 0, 0, 1, 1, 0], "a record's header count does not fit it"),
            (&[12, 0, 0, 0, 1, 1, 1], "a record's header count is negative"),
            (&[14, 0, 0, 0, 1, 1, 0, 0], "bytes follow the fields of a record"),
            (&[12, 0, 0, 0, 1, 1, 2], "a record's header does not fit it"),
            (&[12, 0, 0, 0, 1, 1, 126], "a record's header does not fit it"),
            // A header's name is not null, and a null value is −1.
            (&[16, 0, 0, 0, 1, 1, 2, 1, 1], "a record's header does not fit it"),
            (&[16, 0, 0, 0, 1, 1, 2, 0, 3], "a record's header does not fit it"),
        ] {
            assert_eq!(malformed(record), expected, "{record:?}");
        }
    }
}
