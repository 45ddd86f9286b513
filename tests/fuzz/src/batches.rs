//! Record batches from a producer, a segment or the journal.
//!
//! An accepted header is written back byte for byte. A batch that `verify` accepts has the CRC-32C that it names. A
//! batch that `validate` accepts gives exactly the records that it promises, at offsets without gaps, and a batch built
//! from these gives the same records again. Compressed records are read only after they were inflated, never beyond the
//! limit; what was inflated compresses again, and inflates to the same.

use quipu_segments::batch::{
    BatchBuilder, BatchError, BatchHeader, Batches, Codec, HEADER_BYTES, Records, SealedBatch, inflate,
    validate, verify,
};
use quipu_segments::fuzzing::crc32c::crc32c;

use super::input::Input;
use super::record::Owned;

/// How many bytes the records of a batch may inflate to.
const LIMIT: usize = 1 << 20;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let mut bytes = input.rest().to_vec();
    if choice & 1 == 1 {
        reseal(&mut bytes, choice & 2 == 2);
    }
    if let Ok(header) = BatchHeader::peek(&bytes) {
        let mut again = [0; HEADER_BYTES];
        header.encode(&mut again);
        assert_eq!(again[..], bytes[..HEADER_BYTES]);
    }
    let mut at = 0;
    for batch in Batches::new(&bytes) {
        let Ok((header, batch)) = batch else { break };
        assert_eq!(batch.len(), header.total_bytes());
        assert_eq!(batch, &bytes[at..at + batch.len()]);
        at += batch.len();
        one(&header, batch);
    }
}

/// Corrects magic and CRC of the batches, and the first batch's length if `all`.
pub(super) fn reseal(bytes: &mut [u8], all: bool) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    if all {
        let length = (bytes.len() - 12) as u32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
    }
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= HEADER_BYTES) {
        rest[16] = 2;
        let Ok(header) = BatchHeader::peek(rest) else {
            break;
        };
        let Some(batch) = rest.get_mut(..header.total_bytes()) else {
            break;
        };
        let crc = crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        at += batch.len();
    }
}

fn one(header: &BatchHeader, batch: &[u8]) {
    let crc = u32::from_be_bytes(batch[17..21].try_into().expect("four bytes"));
    assert_eq!(verify(batch).is_ok(), crc32c(&batch[21..]) == crc);
    let inflated = inflate(batch, LIMIT);
    if header.attributes.compression() != 0 {
        assert!(Records::new(batch).is_err());
    }
    let plain = match &inflated {
        // What takes more than the limit may be valid all the same, and takes too long here.
        Err(BatchError::InflatesTooLarge { .. }) => return,
        Err(_) => {
            assert!(validate(batch).is_err());
            return;
        }
        Ok(plain) => {
            assert!(plain.len() <= HEADER_BYTES + LIMIT.max(batch.len()));
            plain
        }
    };
    let is_valid = validate(batch).is_ok();
    let sealed = SealedBatch::from_outside(batch.to_vec());
    assert_eq!(sealed.is_ok(), is_valid, "{sealed:?}");

    let mut owned = Vec::new();
    let mut last = None;
    let mut broken = false;
    for record in Records::new(plain).expect("a batch that is whole and not compressed") {
        assert!(!broken, "an error ends the walk");
        let Ok(record) = record else {
            broken = true;
            continue;
        };
        assert!(last < Some(record.offset) && record.offset < header.next_offset());
        assert!(record.offset >= header.base_offset);
        last = Some(record.offset);
        assert_eq!(record.headers.iter().count(), record.headers.len());
        owned.push(Owned::of(&record));
    }
    assert!(owned.len() <= header.record_count as usize);
    let Ok(sealed) = sealed else { return };
    assert!(!broken);
    assert_eq!(owned.len(), header.record_count as usize);
    assert_eq!(
        last.map(|last| last.plus(1)),
        Some(header.next_offset()),
        "no gaps"
    );
    // Only `max_timestamp` and the leader epoch are corrected.
    assert_eq!(validate(sealed.as_bytes()).as_ref(), Ok(&sealed.header()));
    let largest = owned.iter().map(|record| record.timestamp).max();
    assert_eq!(Some(sealed.max_timestamp()), largest);

    for codec in Codec::ALL {
        let packed = sealed
            .clone()
            .with_codec(Some(codec), None)
            .expect("it was inflated before");
        assert!(validate(packed.as_bytes()).is_ok());
        let again = inflate(packed.as_bytes(), LIMIT).expect("it was just compressed");
        assert_eq!(again[HEADER_BYTES..], plain[HEADER_BYTES..]);
    }

    let mut builder = BatchBuilder::new();
    for record in &owned {
        record.push_to(&mut builder);
    }
    let mut built = builder.seal();
    built.set_base_offset(header.base_offset);
    let again: Vec<Owned> = Records::new(built.as_bytes())
        .expect("a batch")
        .map(|record| Owned::of(&record.expect("a record")))
        .collect();
    assert_eq!(again, owned);
    assert_eq!(built.header().next_offset(), header.next_offset());
}
