//! Checks whole batches, and splits a run of batches.

use super::header::ATTRIBUTES;
use super::{BatchError, BatchHeader, MAX_INFLATED_BYTES, Record, Records, inflate};
use crate::types::TimestampMs;

/// Checks header and CRC-32C of the whole batch at the start of `bytes`; what follows the batch is not looked at.
///
/// The CRC covers neither base offset nor leader epoch: the caller must know whether the offset is the right one.
///
/// # Errors
/// - Those of [`BatchHeader::peek`], and [`BatchError::Truncated`] where the batch is not all there.
/// - [`BatchError::Checksum`]: other bytes than were sealed, or a batch that was written in part.
pub fn verify(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let (header, batch, _) = BatchHeader::split(bytes)?;
    let found = crc32c::crc32c(&batch[ATTRIBUTES..]);
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
/// Compressed records are inflated for that, up to [`MAX_INFLATED_BYTES`].
/// Two things are not checked: attributes other than compression, and the producer's fields, because the caller decides
/// who may send what; and `max_timestamp`, which some producers set wrong and
/// [`SealedBatch::from_outside`](super::SealedBatch::from_outside) corrects.
///
/// # Errors
/// - Those of [`verify`] and [`inflate()`](super::inflate()).
/// - [`BatchError::Malformed`]: a record does not fit, offsets have gaps, the batch is empty, or bytes follow it.
pub fn validate(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = verify_alone(bytes)?;
    walk(&header, bytes, MAX_INFLATED_BYTES, |_, _| Ok::<_, BatchError>(()))?;
    Ok(header)
}

/// As [`verify`], for bytes that must be one batch and no more.
pub(super) fn verify_alone(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = verify(bytes)?;
    if header.total_bytes() != bytes.len() {
        return Err(BatchError::Malformed("bytes follow the batch"));
    }
    Ok(header)
}

/// What a walk over all records of a batch finds.
pub(super) struct Walked {
    /// The records' largest timestamp.
    pub(super) max_timestamp: TimestampMs,
    /// The batch without compression, if it is compressed: see [`inflate()`](super::inflate()).
    pub(super) inflated: Option<Vec<u8>>,
}

/// Checks all records of a batch, and shows each with its number in the batch to `see`.
///
/// # Errors
/// Those of [`validate`] but for the CRC, and those of `see`.
pub(super) fn walk<E: From<BatchError>>(
    header: &BatchHeader,
    batch: &[u8],
    limit: usize,
    mut see: impl FnMut(u32, &Record<'_>) -> Result<(), E>,
) -> Result<Walked, E> {
    if header.record_count == 0 {
        return Err(BatchError::Malformed("the batch holds no records").into());
    }
    if header.last_offset_delta != header.record_count - 1 {
        return Err(BatchError::Malformed("the last offset delta is not the record count less 1").into());
    }
    let inflated = match header.attributes.codec()? {
        Some(_) => Some(inflate(batch, limit)?),
        None => None,
    };
    // `Records` makes sure that deltas ascend and are at most count - 1, so `count` of them leave no gap.
    let mut max_timestamp = TimestampMs(i64::MIN);
    for (number, record) in (0..).zip(Records::new(inflated.as_deref().unwrap_or(batch))?) {
        let record = record?;
        max_timestamp = max_timestamp.max(record.timestamp);
        see(number, &record)?;
    }
    Ok(Walked {
        max_timestamp,
        inflated,
    })
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
    pub fn new(run: &'a [u8]) -> Self {
        Self { rest: run }
    }

    fn take(&mut self) -> Result<(BatchHeader, &'a [u8]), BatchError> {
        let (header, batch, rest) = BatchHeader::split(self.rest)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::header::{CRC, field, put};
    use crate::batch::{BatchBuilder, HEADER_BYTES, SealedBatch};
    use crate::types::Offset;

    /// A batch with everything in it, at offset 1,000.
    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(
            TimestampMs(5_000),
            Some(b"N14228"),
            Some(b"{\"event\":\"FlightDeparted\"}"),
            &[],
        );
        builder.push(
            TimestampMs(4_000),
            None,
            Some(&[b'x'; 200]),
            &[(b"type", Some(b"a"))],
        );
        builder.push(
            TimestampMs(9_000),
            Some(b""),
            None,
            &[(b"n", None), (b"n", Some(b""))],
        );
        let mut batch = builder.seal();
        batch.set_base_offset(Offset::new(1_000));
        batch.into_bytes()
    }

    /// Makes the CRC right again after bytes were changed.
    fn reseal(batch: &mut [u8]) {
        let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
        put::<CRC, 4>(batch.first_chunk_mut().unwrap(), crc.to_be_bytes());
    }

    /// Walks over all there is, and checks nothing but that it ends.
    fn read_all(bytes: &[u8]) -> usize {
        let mut seen = 0;
        for batch in Batches::new(bytes) {
            let Ok((header, batch)) = batch else { continue };
            let _ = (verify(batch), validate(batch), header.next_offset());
            let Ok(records) = Records::new(batch) else {
                continue;
            };
            let most = records.size_hint().1.unwrap();
            let mut items = 0;
            for record in records {
                items += 1;
                let Ok(record) = record else { continue };
                assert!(record.offset < header.next_offset());
                assert_eq!(record.headers.iter().count(), record.headers.len());
                seen += 1;
            }
            assert!(items <= most, "{items} <= {most}");
        }
        seen
    }

    #[test]
    fn every_flipped_bit_is_detected_but_in_base_offset_and_leader_epoch() {
        let whole = batch();
        let header = verify(&whole).unwrap();
        // If another batch follows, a length that grew finds bytes to cover.
        for behind in [Vec::new(), batch()] {
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut bytes = [&whole[..], &behind].concat();
                    bytes[at] ^= 1 << bit;
                    let found = verify(&bytes);
                    match at {
                        // The base offset: the log knows which one it expects. Only its sign can be told here.
                        0 if bit == 7 => assert!(matches!(found, Err(BatchError::Malformed(_))), "{found:?}"),
                        0..8 => {
                            let found = found.unwrap();
                            assert_ne!(found.base_offset, header.base_offset);
                            let base_offset = header.base_offset;
                            assert_eq!(BatchHeader { base_offset, ..found }, header);
                        }
                        // The leader epoch: it is not used.
                        12..16 => {
                            let found = found.unwrap();
                            let partition_leader_epoch = header.partition_leader_epoch;
                            assert_eq!(
                                BatchHeader {
                                    partition_leader_epoch,
                                    ..found
                                },
                                header
                            );
                        }
                        16 => assert!(matches!(found, Err(BatchError::Magic(_))), "{found:?}"),
                        17..21 => assert!(matches!(found, Err(BatchError::Checksum { .. })), "{found:?}"),
                        _ => assert!(found.is_err(), "byte {at} bit {bit}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_batch_cut_at_any_length_is_truncated() {
        let whole = batch();
        for found in 0..whole.len() {
            let cut = &whole[..found];
            let needed = if found < HEADER_BYTES {
                HEADER_BYTES
            } else {
                whole.len()
            };
            let expected = Some(BatchError::Truncated { needed, found });
            assert_eq!(verify(cut).err(), expected);
            assert_eq!(validate(cut).err(), expected);
            assert_eq!(Records::new(cut).err(), expected);
            assert_eq!(SealedBatch::from_validated(cut.to_vec()).err(), expected);
            let run = [&whole[..], cut].concat();
            let mut batches = Batches::new(&run);
            assert_eq!(batches.next().unwrap().unwrap().1, whole);
            assert_eq!(
                batches.next().and_then(Result::err),
                expected.filter(|_| found > 0)
            );
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn a_batch_whose_records_end_anywhere_is_malformed() {
        let whole = batch();
        for end in HEADER_BYTES..whole.len() {
            let mut bytes = whole[..end].to_vec();
            bytes[8..12].copy_from_slice(&((end - 12) as u32).to_be_bytes());
            reseal(&mut bytes);
            let found = validate(&bytes);
            assert!(matches!(found, Err(BatchError::Malformed(_))), "{end}: {found:?}");
        }
    }

    #[test]
    fn bytes_behind_a_batch_are_refused_from_outside_only() {
        let bytes = [&batch()[..], b"x"].concat();
        assert!(verify(&bytes).is_ok());
        assert_eq!(
            validate(&bytes),
            Err(BatchError::Malformed("bytes follow the batch"))
        );
        assert_eq!(Records::new(&bytes).unwrap().map(Result::unwrap).count(), 3);
        let mut longer = bytes;
        longer[11] += 1;
        reseal(&mut longer);
        assert_eq!(
            validate(&longer),
            Err(BatchError::Malformed("bytes follow the last record of a batch"))
        );
    }

    #[test]
    fn a_count_that_is_not_that_of_the_records_is_malformed() {
        for (count, last_offset_delta) in [(0, 0), (2, 1), (2, 2), (3, 1), (3, 3), (4, 3), (4, 2)] {
            let mut bytes = batch();
            bytes[57..61].copy_from_slice(&i32::to_be_bytes(count));
            bytes[23..27].copy_from_slice(&i32::to_be_bytes(last_offset_delta));
            reseal(&mut bytes);
            let found = validate(&bytes);
            assert!(
                matches!(found, Err(BatchError::Malformed(_))),
                "{count}, {last_offset_delta}: {found:?}"
            );
        }
    }

    #[test]
    fn the_same_offset_twice_is_malformed() {
        // Two records without anything: the offset delta is the fourth byte of each.
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(1), None, None, &[]);
        builder.push(TimestampMs(1), None, None, &[]);
        let mut bytes = builder.seal().into_bytes();
        bytes[HEADER_BYTES + 7 + 3] = 0;
        reseal(&mut bytes);
        assert_eq!(
            validate(&bytes),
            Err(BatchError::Malformed("a record's offset delta is out of order"))
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read_all(&bytes);
        }

        #[test]
        fn random_records_under_a_good_header_never_panic(
            records in prop::collection::vec(any::<u8>(), 0..200),
            count in 0..40_i32,
        ) {
            let mut bytes = [&batch()[..HEADER_BYTES], &records].concat();
            bytes[8..12].copy_from_slice(&((HEADER_BYTES - 12 + records.len()) as u32).to_be_bytes());
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            reseal(&mut bytes);
            read_all(&bytes);
        }

        #[test]
        fn a_changed_batch_with_its_crc_made_right_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            after_the_header in any::<bool>(),
        ) {
            let mut bytes = batch();
            let from = if after_the_header { HEADER_BYTES } else { 0 };
            let changed = bytes.len() - from;
            for (at, value) in changes {
                bytes[from + at.index(changed)] = value;
            }
            reseal(&mut bytes);
            read_all(&[&bytes[..], &batch()].concat());
        }

        #[test]
        fn a_run_is_split_where_batches_meet(counts in prop::collection::vec(1..20_u32, 0..10)) {
            let batches: Vec<_> = counts.iter().map(|&count| {
                let mut builder = BatchBuilder::new();
                for number in 0..count {
                    builder.push(TimestampMs(number.into()), None, Some(&vec![0; number as usize]), &[]);
                }
                builder.seal().into_bytes()
            }).collect();
            let run = batches.concat();
            let split: Vec<_> = Batches::new(&run).map(|batch| batch.unwrap()).collect();
            prop_assert_eq!(split.len(), batches.len());
            for ((header, found), expected) in split.iter().zip(&batches) {
                prop_assert_eq!(*found, &expected[..]);
                prop_assert_eq!(header.crc.to_be_bytes(), field::<CRC, 4>(expected.first_chunk().unwrap()));
            }
            prop_assert_eq!(read_all(&run), counts.iter().sum::<u32>() as usize);
        }
    }
}
