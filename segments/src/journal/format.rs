//! The bytes of a journal file: a header block, then rounds, each beginning on a block of 4 KiB.
//!
//! # Header (the first block)
//! | bytes | field |
//! |---|---|
//! | 8 | magic `QUIPUJNL` |
//! | 4 | version, 1 |
//! | 4 | CRC-32 (IEEE) of the two fields before and of the 24 bytes that follow |
//! | 8 | sequence: the file's number, never repeated in a data directory |
//! | 8 | id of the data directory |
//! | 8 | length of the file |
//!
//! # Round
//! | bytes | field |
//! |---|---|
//! | 4 | CRC-32 (IEEE) of the rest of the round up to its last item, started from the file's sequence |
//! | 4 | magic `RND1` |
//! | 8 | number: one more than the round before, over all files |
//! | 4 | length of the payload |
//! | 4 | count of items |
//! | 8 | zero |
//! | n | items, then zeros up to the block's end |
//!
//! A round without items is the end mark: the last round of a full file, in which room is kept for it. It is synced
//! before a round goes to the next file, so it proves that the next file, which is whole by then, is in use.
//!
//! # Item
//! | bytes | field |
//! |---|---|
//! | 1 | kind |
//! | append (1) | topic 8, partition 4, segment base 8, position 8, flags 1 (1: values are JSON on one line), length 4, record batches |
//! | state (2) | length of key 4, length of value 4 (`u32::MAX`: removed), key, value |
//! | topic deleted (3) | topic 8 |
//! | log start moved (4) | topic 8, partition 4, offset 8 |
//!
//! One checksum covers a whole round, so a round is there or it is not: this makes a request over several partitions
//! atomic. The checksum starts from the sequence, so that old rounds in a recycled file are never taken for new ones.

use std::io::IoSlice;

use crate::batch::{self, Batches};
use crate::files::codec::{Fields, FrameError, checksum};
use crate::types::{FilePos, Offset, PartitionId, TopicId};

/// Rounds begin on multiples of this many bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// The bytes of a round before its items.
pub(crate) const ROUND_HEADER_BYTES: usize = 32;
/// The most that an item takes beside its batches, key or value.
pub(crate) const ITEM_OVERHEAD_BYTES: usize = 34;

const MAGIC: [u8; 8] = *b"QUIPUJNL";
/// Version of a journal file.
pub(crate) const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const ROUND_MAGIC: u32 = u32::from_le_bytes(*b"RND1");
const REMOVED: u32 = u32::MAX;
/// Batches up to this size are copied into the round's buffer; larger ones are written from where they are.
const COPY_BYTES: usize = 8 << 10;

const KIND_APPEND: u8 = 1;
const KIND_STATE: u8 = 2;
const KIND_TOPIC_DELETED: u8 = 3;
const KIND_LOG_START: u8 = 4;

/// The identity of a journal file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) sequence: u64,
    pub(crate) directory_id: u64,
    pub(crate) file_bytes: u64,
}

impl FileHeader {
    /// The header block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&VERSION.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        for number in [self.sequence, self.directory_id, self.file_bytes] {
            block.extend_from_slice(&number.to_le_bytes());
        }
        let crc = checksum(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        block.resize(BLOCK_BYTES as usize, 0);
        block
    }

    /// The header at the start of `bytes`.
    ///
    /// These 40 bytes are the same in every version, so that a newer version can be told from damage.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Damaged("shorter than a header");
        let header = bytes.get(..HEADER_BYTES).ok_or(short)?;
        let mut fields = Fields::new(header);
        if fields.bytes(8) != Some(&MAGIC) {
            return Err(FrameError::Damaged("another magic"));
        }
        let (version, crc) = (fields.u32(), fields.u32());
        if crc != Some(checksum(header)) {
            return Err(FrameError::Damaged("the header's checksum does not match"));
        }
        if version != Some(VERSION) {
            return Err(FrameError::Version(version.unwrap_or_default()));
        }
        let mut number = || fields.u64().ok_or(FrameError::Damaged("shorter than a header"));
        Ok(Self {
            sequence: number()?,
            directory_id: number()?,
            file_bytes: number()?,
        })
    }
}

fn seeded(sequence: u64) -> crc32fast::Hasher {
    // Spread over all bits, so that neighbouring sequences start far apart.
    crc32fast::Hasher::new_with_initial((sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32)
}

/// Builds one round; large batches are borrowed, not copied.
pub(crate) struct RoundBuilder<'a> {
    /// The round's header and everything that was copied.
    buffer: Vec<u8>,
    /// Borrowed bytes, each with the position in `buffer` that it follows.
    borrowed: Vec<(usize, &'a [u8])>,
    borrowed_bytes: usize,
    items: u32,
}

impl<'a> RoundBuilder<'a> {
    /// Begins a round in a buffer that is used again.
    pub(crate) fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(ROUND_HEADER_BYTES, 0);
        Self {
            buffer,
            borrowed: Vec::new(),
            borrowed_bytes: 0,
            items: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items == 0
    }

    fn begin(&mut self, kind: u8) {
        self.items += 1;
        self.buffer.push(kind);
    }

    fn partition(&mut self, id: PartitionId) {
        self.buffer.extend_from_slice(&id.topic.0.to_le_bytes());
        self.buffer.extend_from_slice(&id.index.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// Adds whole batches, with their final offsets, that lie at `position` of a segment.
    pub(crate) fn append(
        &mut self,
        partition: PartitionId,
        segment_base: Offset,
        position: FilePos,
        json_lines: bool,
        bytes: &'a [u8],
    ) {
        self.begin(KIND_APPEND);
        self.partition(partition);
        self.u64(segment_base.get());
        self.u64(position.get());
        self.buffer.push(u8::from(json_lines));
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        if bytes.len() <= COPY_BYTES {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.borrowed.push((self.buffer.len(), bytes));
            self.borrowed_bytes += bytes.len();
        }
    }

    pub(crate) fn state(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.begin(KIND_STATE);
        self.buffer.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let length = value.map_or(REMOVED, |value| value.len() as u32);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value.unwrap_or_default());
    }

    pub(crate) fn topic_deleted(&mut self, topic: TopicId) {
        self.begin(KIND_TOPIC_DELETED);
        self.u64(topic.0);
    }

    pub(crate) fn log_start(&mut self, partition: PartitionId, offset: Offset) {
        self.begin(KIND_LOG_START);
        self.partition(partition);
        self.u64(offset.get());
    }

    /// The bytes that the round takes in the file, up to the end of its last block.
    pub(crate) fn file_bytes(&self) -> u64 {
        ((self.buffer.len() + self.borrowed_bytes) as u64).next_multiple_of(BLOCK_BYTES)
    }

    /// Fills in the header and calls `write` with the round as a list of buffers, padded to whole blocks.
    pub(crate) fn finish<T>(
        &mut self,
        sequence: u64,
        round: u64,
        write: impl FnOnce(&[IoSlice<'_>]) -> T,
    ) -> T {
        let payload = self.buffer.len() - ROUND_HEADER_BYTES + self.borrowed_bytes;
        self.buffer[4..8].copy_from_slice(&ROUND_MAGIC.to_le_bytes());
        self.buffer[8..16].copy_from_slice(&round.to_le_bytes());
        self.buffer[16..20].copy_from_slice(&(payload as u32).to_le_bytes());
        self.buffer[20..24].copy_from_slice(&self.items.to_le_bytes());
        let mut hasher = seeded(sequence);
        let mut from = 4;
        for (cut, bytes) in &self.borrowed {
            hasher.update(&self.buffer[from..*cut]);
            hasher.update(bytes);
            from = *cut;
        }
        hasher.update(&self.buffer[from..]);
        let crc = hasher.finalize();
        self.buffer[..4].copy_from_slice(&crc.to_le_bytes());

        const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
        let padding = self.file_bytes() as usize - ROUND_HEADER_BYTES - payload;
        let mut slices = Vec::with_capacity(self.borrowed.len() * 2 + 2);
        let mut from = 0;
        for (cut, bytes) in &self.borrowed {
            slices.push(IoSlice::new(&self.buffer[from..*cut]));
            slices.push(IoSlice::new(bytes));
            from = *cut;
        }
        slices.push(IoSlice::new(&self.buffer[from..]));
        slices.push(IoSlice::new(&ZEROS[..padding]));
        write(&slices)
    }

    /// Gives the buffer back for the next round.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

/// One item of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Append {
        partition: PartitionId,
        segment_base: Offset,
        position: FilePos,
        json_lines: bool,
        bytes: &'a [u8],
    },
    State {
        key: &'a [u8],
        value: Option<&'a [u8]>,
    },
    TopicDeleted(TopicId),
    LogStart {
        partition: PartitionId,
        offset: Offset,
    },
}

/// A round, as it stands in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round<'a> {
    pub(crate) number: u64,
    /// The bytes that it takes, up to the end of its last block.
    pub(crate) file_bytes: u64,
    items: u32,
    payload: &'a [u8],
}

impl<'a> Round<'a> {
    /// The round at the start of `bytes`, if there is a whole one of the file `sequence`.
    pub(crate) fn decode(bytes: &'a [u8], sequence: u64) -> Option<Self> {
        let round = Self::frame(bytes)?;
        let mut hasher = seeded(sequence);
        hasher.update(&bytes[4..ROUND_HEADER_BYTES + round.payload.len()]);
        (hasher.finalize() == Fields::new(bytes).u32()?).then_some(round)
    }

    /// Corrects round `number` if exactly one bit of it is wrong; returns its bytes up to the end of its last block.
    /// `None` for anything else, above all for a torn round.
    ///
    /// A bit that was flipped on the medium or on its way would make the last round, though acknowledged, look as if a
    /// power cut had torn it. The checksum tells which bit it was; if everything else then fits (every item, and the
    /// checksum of every batch), this is no coincidence. Costs some passes over the round.
    pub(crate) fn mend(bytes: &[u8], sequence: u64, number: u64) -> Option<Vec<u8>> {
        let header = bytes.get(..ROUND_HEADER_BYTES)?;
        let mut fields = Fields::new(header);
        let (crc, magic) = (fields.u32()?, fields.u32()?);
        let (found, length) = (fields.u64()?, fields.u32()?);
        let wrong = (magic ^ ROUND_MAGIC).count_ones() + (found ^ number).count_ones();
        if wrong > 1 {
            return None;
        }
        let block_end = |length: u32| {
            let end = (ROUND_HEADER_BYTES as u64 + u64::from(length)).next_multiple_of(BLOCK_BYTES);
            usize::try_from(end).ok().filter(|end| *end <= bytes.len())
        };
        let with_flip = |length: u32, bit: usize| {
            let mut round = bytes[..block_end(length)?].to_vec();
            round[bit / 8] ^= 1 << (bit % 8);
            let is_whole = Round::decode(&round, sequence).is_some_and(|round| round.is_sound());
            is_whole.then_some(round)
        };
        if block_end(length).is_some() {
            let end = ROUND_HEADER_BYTES + length as usize;
            let mut hasher = seeded(sequence);
            hasher.update(&bytes[4..end]);
            let syndrome = hasher.finalize() ^ crc;
            let bit = match syndrome.count_ones() {
                0 => return None,
                1 => Some(syndrome.trailing_zeros() as usize),
                _ => flipped_bit(syndrome, end - 4).map(|bit| bit + 32),
            };
            if let Some(round) = bit.and_then(|bit| with_flip(length, bit)) {
                return Some(round);
            }
        }
        // The length says how much the checksum covers: in case it is wrong itself, each of its bits is tried.
        (0..32)
            .filter(|_| wrong == 0)
            .find_map(|bit| with_flip(length ^ (1 << bit), 16 * 8 + bit as usize))
    }

    /// Whether it says that the journal goes on in the next file.
    pub(crate) fn is_end_mark(&self) -> bool {
        self.items == 0
    }

    /// Whether its items are what this program writes, and the checksum of each batch in them matches.
    fn is_sound(&self) -> bool {
        self.items().is_some_and(|items| {
            items.iter().all(|item| match item {
                Item::Append { bytes, .. } => Batches::new(bytes)
                    .all(|batch| batch.is_ok_and(|(_, bytes)| batch::verify(bytes).is_ok())),
                _ => true,
            })
        })
    }

    /// The round at the start of `bytes`, whole or torn: its checksum is not checked.
    pub(crate) fn frame(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let _crc = fields.u32()?;
        if fields.u32()? != ROUND_MAGIC {
            return None;
        }
        let number = fields.u64()?;
        let length = fields.u32()? as usize;
        let items = fields.u32()?;
        fields.u64()?;
        let payload = fields.bytes(length)?;
        let file_bytes = ((ROUND_HEADER_BYTES + length) as u64).next_multiple_of(BLOCK_BYTES);
        Some(Self {
            number,
            file_bytes,
            items,
            payload,
        })
    }

    /// Its items, in order. `None` if they are not what this program writes: as the checksum matches, that is a fault
    /// of a program, not of the disk.
    pub(crate) fn items(&self) -> Option<Vec<Item<'a>>> {
        let mut fields = Fields::new(self.payload);
        let mut items = Vec::new();
        for _ in 0..self.items {
            items.push(item(&mut fields)?);
        }
        fields.is_empty().then_some(items)
    }
}

/// Which bit of `len` bytes is wrong, if one wrong bit explains `syndrome`: their CRC-32 XOR the expected one.
fn flipped_bit(syndrome: u32, len: usize) -> Option<usize> {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let bits = len * 8;
    let mut off = 1_u32;
    for behind in 1..=bits {
        off = (off >> 1) ^ (POLYNOMIAL & (off & 1).wrapping_neg());
        if off == syndrome {
            return Some(bits - behind);
        }
    }
    None
}

fn item<'a>(fields: &mut Fields<'a>) -> Option<Item<'a>> {
    let kind = fields.u8()?;
    Some(match kind {
        KIND_APPEND => {
            let partition = partition(fields)?;
            let segment_base = Offset::try_new(fields.u64()?)?;
            let position = FilePos(fields.u64()?);
            let json_lines = fields.u8()? & 1 == 1;
            let length = fields.u32()?;
            let bytes = fields.bytes(length as usize)?;
            Item::Append {
                partition,
                segment_base,
                position,
                json_lines,
                bytes,
            }
        }
        KIND_STATE => {
            let (key, value) = (fields.u32()?, fields.u32()?);
            let key = fields.bytes(key as usize)?;
            let value = if value == REMOVED {
                None
            } else {
                Some(fields.bytes(value as usize)?)
            };
            Item::State { key, value }
        }
        KIND_TOPIC_DELETED => Item::TopicDeleted(TopicId(fields.u64()?)),
        KIND_LOG_START => Item::LogStart {
            partition: partition(fields)?,
            offset: Offset::try_new(fields.u64()?)?,
        },
        _ => return None,
    })
}

fn partition(fields: &mut Fields<'_>) -> Option<PartitionId> {
    Some(PartitionId::new(TopicId(fields.u64()?), fields.u32()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchBuilder;
    use crate::types::TimestampMs;

    const ID: PartitionId = PartitionId::new(TopicId(7), 3);

    fn round(big: &[u8], sequence: u64, number: u64) -> Vec<u8> {
        let mut builder = RoundBuilder::new(Vec::new());
        builder.append(ID, Offset::new(5), FilePos(4096), true, b"small");
        builder.append(ID, Offset::new(5), FilePos(5000), false, big);
        builder.state(b"key", Some(b"value"));
        builder.state(b"gone", None);
        builder.topic_deleted(TopicId(9));
        builder.log_start(ID, Offset::new(77));
        let expected = builder.file_bytes();
        let bytes = builder.finish(sequence, number, |slices| {
            slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect::<Vec<u8>>()
        });
        assert_eq!(bytes.len() as u64, expected);
        bytes
    }

    #[test]
    fn a_round_comes_back_with_its_items_in_order() {
        let big = vec![0xab; 20_000];
        let bytes = round(&big, 12, 44);
        let found = Round::decode(&bytes, 12).expect("whole");
        assert_eq!((found.number, found.file_bytes), (44, bytes.len() as u64));
        let items = found.items().expect("known items");
        assert_eq!(items.len(), 6);
        let first = Item::Append {
            partition: ID,
            segment_base: Offset::new(5),
            position: FilePos(4096),
            json_lines: true,
            bytes: b"small",
        };
        assert_eq!(items[0], first);
        assert!(matches!(items[1], Item::Append { bytes, .. } if bytes == big));
        assert_eq!(
            items[2],
            Item::State {
                key: b"key",
                value: Some(b"value")
            }
        );
        assert_eq!(
            items[3],
            Item::State {
                key: b"gone",
                value: None
            }
        );
        assert_eq!(items[4], Item::TopicDeleted(TopicId(9)));
        assert_eq!(
            items[5],
            Item::LogStart {
                partition: ID,
                offset: Offset::new(77)
            }
        );
    }

    #[test]
    fn a_round_of_the_file_before_recycling_is_not_taken() {
        let bytes = round(b"", 12, 44);
        assert!(Round::decode(&bytes, 12).is_some());
        for other in [0, 11, 13, 12 << 32] {
            assert!(Round::decode(&bytes, other).is_none(), "sequence {other}");
        }
    }

    #[test]
    fn a_torn_round_is_not_there_at_all() {
        let bytes = round(&[1; 9000], 12, 44);
        let payload_end = ROUND_HEADER_BYTES + u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
        for position in (0..payload_end).step_by(97) {
            let mut torn = bytes.clone();
            torn[position] ^= 0x10;
            assert!(Round::decode(&torn, 12).is_none(), "byte {position}");
        }
        assert!(Round::decode(&bytes[..5000], 12).is_none());
    }

    #[test]
    fn one_wrong_bit_anywhere_is_set_right_and_two_are_not() {
        let mut batch = BatchBuilder::new();
        batch.push(TimestampMs(7), Some(b"key"), Some(&[7; 300]), &[]);
        let batch = batch.seal();
        let mut builder = RoundBuilder::new(Vec::new());
        builder.append(ID, Offset::new(5), FilePos(4096), true, batch.as_bytes());
        builder.state(b"key", Some(b"value"));
        let bytes: Vec<u8> = builder.finish(5, 17, |slices| {
            slices.iter().flat_map(|slice| slice.iter().copied()).collect()
        });
        let covered = ROUND_HEADER_BYTES + Round::decode(&bytes, 5).unwrap().payload.len();
        for bit in 0..covered * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Round::decode(&flipped, 5).is_none(), "bit {bit}");
            assert_eq!(Round::mend(&flipped, 5, 17).as_ref(), Some(&bytes), "bit {bit}");
            let other = (bit + 1 + bit * 7 % 100) % (covered * 8);
            flipped[other / 8] ^= 1 << (other % 8);
            assert_eq!(Round::mend(&flipped, 5, 17), None, "bits {bit} and {other}");
        }
        assert_eq!(Round::mend(&bytes, 5, 17), None, "nothing is wrong");
    }

    #[test]
    fn a_header_says_which_file_it_is_and_every_flip_is_noticed() {
        let header = FileHeader {
            sequence: 3,
            directory_id: 9,
            file_bytes: 1 << 20,
        };
        let block = header.encode();
        assert_eq!(block.len() as u64, BLOCK_BYTES);
        assert_eq!(FileHeader::decode(&block), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = FileHeader::decode(&flipped);
            assert!(
                matches!(found, Err(FrameError::Damaged(_))),
                "bit {bit}: {found:?}"
            );
        }
    }
}
