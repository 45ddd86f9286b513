//! The durable state of one partition of one shared group.
//!
//! ```text
//! key    's' group 0x00 topic_id:u64 partition:u32              the head    (numbers of keys are big-endian)
//! value  version=2 floor:varint next:varint
//! key    's' group 0x00 topic_id:u64 partition:u32 block:u64    the unsettled records of 64 offsets
//! value  version=1 runs
//! run    settled:varint length:varint state:varint [not_before:varint]
//! state  4 * deliveries + 2 * is_released + has_not_before
//! ```
//!
//! A redriven record has an entry of its own, as long as it is unsettled; its key has the offset that it had first:
//!
//! ```text
//! key    'R' group 0x00 topic_id:u64 partition:u32 offset:u64
//! value  version=1 topic_id:varint partition:varint offset:varint redriven:varint redriven_at:varint state:varint [not_before:varint]
//! ```
//!
//! Block `n` has the offsets from `64 n` on. A run is a number of settled offsets, then a number of unsettled ones in
//! the same state; what follows the last run is settled. Below `floor` everything is settled, from `next` on nobody has
//! looked at a record; entries of blocks say nothing about either. A varint has seven bits a byte, the lowest first,
//! with the top bit set on all but the last byte.
//!
//! The floor is also written as the group's committed offset ([`super::super::offsets`]), in the same request, so that
//! readers of committed offsets need no knowledge of shared groups. A head whose floor differs from the committed
//! offset is stale: the group was moved since.
//!
//! Version 1 of the head had all records in one value, and is still read; the next write replaces it:
//!
//! ```text
//! value  version=1 floor:varint count:varint runs
//! run    length:varint state:varint    (lengths add up to count; state 0: settled; n: unsettled, delivered n - 1 times)
//! ```
//!
//! Each state has exactly one encoding, and no other is accepted: no run is empty, neighbours differ or are apart, and no
//! varint has a byte too many.

use std::collections::BTreeSet;

use super::settings::MAX_DELIVERIES;
use crate::broker::engine::{Offset, PartitionId, TimestampMs, TopicId};
use crate::broker::groups::offsets::with_partition;
use crate::broker::state_keys::{QUEUE, RETURNED};

/// The offsets of a block.
pub const BLOCK: u64 = 64;

const HEAD_VERSION: u8 = 2;
const OLD_HEAD_VERSION: u8 = 1;
const BLOCK_VERSION: u8 = 1;
const RETURNED_VERSION: u8 = 1;
/// The most offsets in a head of version 1.
const OLD_MAX_OFFSETS: u64 = 8192;

/// An unsettled record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// How often it was delivered.
    pub deliveries: u32,
    /// It was released, and whether a poll had it before that or after it cannot be told by the count: no acknowledgement
    /// from before a crash counts.
    pub is_released: bool,
    /// It is not leased before this time.
    pub not_before: Option<TimestampMs>,
}

impl Unsettled {
    /// Never leased.
    pub const FRESH: Self = Self {
        deliveries: 0,
        is_released: false,
        not_before: None,
    };
}

/// The dead letter of a redriven record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The partition that it is in.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// How often the record was redriven, this time included.
    pub redriven: u32,
    /// When.
    pub redriven_at: TimestampMs,
}

/// The extent of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// All offsets below are settled.
    pub floor: Offset,
    /// From here on, nobody has looked at a record.
    pub next: Offset,
}

/// The durable part of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its extent.
    pub head: Head,
    /// The unsettled records from the floor to `next`, in order.
    pub open: Vec<(Offset, Unsettled)>,
    /// The unsettled records that were redriven.
    pub returned: Vec<(Offset, Unsettled, Letter)>,
    /// The blocks that have an entry.
    pub blocks: BTreeSet<u64>,
    /// The entries are not those of the records: the next write must replace all of them.
    pub is_outdated: bool,
}

/// Bytes that this version does not write: the state is damaged, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of a shared group in a partition is not readable: {0}")]
pub struct Unreadable(&'static str);

/// The block of an offset.
pub const fn block_of(offset: Offset) -> u64 {
    offset.get() / BLOCK
}

impl Head {
    /// The encoded value.
    pub fn encode(self) -> Vec<u8> {
        let mut value = vec![HEAD_VERSION];
        put(&mut value, self.floor.get());
        put(&mut value, self.next.get());
        value
    }

    /// Decodes a value of version 2.
    fn decode(mut rest: &[u8]) -> Result<Self, Unreadable> {
        let floor = take_offset(&mut rest)?;
        let next = take_offset(&mut rest)?;
        if !rest.is_empty() {
            return Err(Unreadable("bytes follow its extent"));
        }
        if next < floor {
            return Err(Unreadable("its extent is malformed"));
        }
        Ok(Self { floor, next })
    }
}

impl Saved {
    /// A queue of which only the floor is known; `blocks` have entries that say nothing of it.
    pub fn at(floor: Offset, blocks: BTreeSet<u64>) -> Self {
        Self {
            head: Head { floor, next: floor },
            open: Vec::new(),
            returned: Vec::new(),
            is_outdated: !blocks.is_empty(),
            blocks,
        }
    }

    /// Decodes a head with its blocks, each given by its number.
    ///
    /// # Errors
    /// [`Unreadable`]: report it and continue from the committed offset; records settled above it are delivered again.
    pub fn decode<'a>(
        head: &[u8],
        blocks: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> Result<Self, Unreadable> {
        let (&version, rest) = head.split_first().ok_or(Unreadable("it is empty"))?;
        let head = match version {
            OLD_HEAD_VERSION => return decode_old(rest, blocks.into_iter().map(|(number, _)| number)),
            HEAD_VERSION => Head::decode(rest)?,
            _ => return Err(Unreadable("its version is neither 1 nor 2")),
        };
        let mut saved = Self::at(head.floor, BTreeSet::new());
        saved.head = head;
        for (number, value) in blocks {
            let records = decode_block(number, value)?;
            let within = |(offset, _): &(Offset, Unsettled)| (head.floor..head.next).contains(offset);
            saved.open.extend(records.into_iter().filter(within));
            saved.blocks.insert(number);
        }
        Ok(saved)
    }
}

/// The value of a block with these records, in order.
pub fn encode_block(number: u64, records: &[(Offset, Unsettled)]) -> Vec<u8> {
    let mut value = vec![BLOCK_VERSION];
    let mut behind = number * BLOCK;
    let mut left = records;
    while let Some(&(first, state)) = left.first() {
        let is_next = |(at, (offset, other)): &(usize, &(Offset, Unsettled))| {
            offset.get() == first.get() + *at as u64 && *other == state
        };
        let length = left.iter().enumerate().take_while(is_next).count();
        put(&mut value, first.get() - behind);
        put(&mut value, length as u64);
        put_state(&mut value, state);
        behind = first.get() + length as u64;
        left = &left[length..];
    }
    value
}

fn put_state(value: &mut Vec<u8>, state: Unsettled) {
    let flags = u64::from(state.is_released) << 1 | u64::from(state.not_before.is_some());
    put(value, u64::from(state.deliveries) << 2 | flags);
    if let Some(not_before) = state.not_before {
        put_time(value, not_before);
    }
}

/// Times of delays and redrives are not before 1970.
fn put_time(value: &mut Vec<u8>, time: TimestampMs) {
    put(value, u64::try_from(time.get()).unwrap_or(0));
}

fn take_time(rest: &mut &[u8]) -> Result<TimestampMs, Unreadable> {
    let time = i64::try_from(take(rest)?);
    time.map(TimestampMs)
        .map_err(|_| Unreadable("a time is too large"))
}

/// The value of a redriven record.
pub fn encode_returned(state: Unsettled, letter: Letter) -> Vec<u8> {
    let mut value = vec![RETURNED_VERSION];
    for number in [
        letter.partition.topic.0,
        letter.partition.index.into(),
        letter.offset.get(),
        letter.redriven.into(),
    ] {
        put(&mut value, number);
    }
    put_time(&mut value, letter.redriven_at);
    put_state(&mut value, state);
    value
}

/// Decodes the value of a redriven record.
///
/// # Errors
/// [`Unreadable`]: report it; the record is not delivered, and its dead letter stays.
pub fn decode_returned(value: &[u8]) -> Result<(Unsettled, Letter), Unreadable> {
    let (&version, mut rest) = value
        .split_first()
        .ok_or(Unreadable("a redriven record is empty"))?;
    if version != RETURNED_VERSION {
        return Err(Unreadable("the version of a redriven record is not 1"));
    }
    let large = Unreadable("a number is too large");
    let topic = TopicId(take(&mut rest)?);
    let index = u32::try_from(take(&mut rest)?).map_err(|_| large)?;
    let letter = Letter {
        partition: PartitionId::new(topic, index),
        offset: take_offset(&mut rest)?,
        redriven: u32::try_from(take(&mut rest)?).map_err(|_| large)?,
        redriven_at: take_time(&mut rest)?,
    };
    let state = take_state(&mut rest)?;
    match rest.is_empty() {
        true => Ok((state, letter)),
        false => Err(Unreadable("bytes follow a redriven record")),
    }
}

fn decode_block(number: u64, value: &[u8]) -> Result<Vec<(Offset, Unsettled)>, Unreadable> {
    let (&version, mut rest) = value.split_first().ok_or(Unreadable("a block is empty"))?;
    if version != BLOCK_VERSION {
        return Err(Unreadable("the version of a block is not 1"));
    }
    let malformed = Unreadable("the runs of a block are malformed");
    let first = number
        .checked_mul(BLOCK)
        .and_then(Offset::try_new)
        .filter(|first| first.checked_add(BLOCK).is_some())
        .ok_or(Unreadable("the number of a block is too large"))?;
    let mut records: Vec<(Offset, Unsettled)> = Vec::new();
    let mut at = 0;
    while !rest.is_empty() {
        let settled = take(&mut rest)?;
        let length = take(&mut rest)?;
        let state = take_state(&mut rest)?;
        let is_same = settled == 0 && records.last().is_some_and(|(_, last)| *last == state);
        let begin = settled.saturating_add(at);
        let end = begin.saturating_add(length);
        if length == 0 || end > BLOCK || is_same {
            return Err(malformed);
        }
        records.extend((begin..end).map(|at| (first.plus(at), state)));
        at = end;
    }
    match records.is_empty() {
        true => Err(malformed),
        false => Ok(records),
    }
}

fn take_state(rest: &mut &[u8]) -> Result<Unsettled, Unreadable> {
    let state = take(rest)?;
    let deliveries = state >> 2;
    if deliveries > u64::from(MAX_DELIVERIES) {
        return Err(Unreadable("a count of deliveries is too large"));
    }
    let not_before = match state & 1 {
        0 => None,
        _ => Some(take_time(rest)?),
    };
    Ok(Unsettled {
        deliveries: deliveries as u32,
        is_released: state & 2 != 0,
        not_before,
    })
}

/// Decodes a head of version 1.
fn decode_old(mut rest: &[u8], blocks: impl Iterator<Item = u64>) -> Result<Saved, Unreadable> {
    let malformed = Unreadable("its runs are malformed");
    let floor = take_offset(&mut rest)?;
    let mut left = take(&mut rest)?;
    if left > OLD_MAX_OFFSETS {
        return Err(Unreadable("it has too many offsets"));
    }
    let next = floor
        .checked_add(left)
        .ok_or(Unreadable("its offsets are too large"))?;
    let mut saved = Saved::at(floor, blocks.collect());
    saved.head.next = next;
    saved.is_outdated = true;
    let mut before: Option<u64> = None;
    while left > 0 {
        let from = next.get() - left;
        let length = take(&mut rest)?;
        left = left
            .checked_sub(length)
            .ok_or(Unreadable("its runs are longer than their count says"))?;
        let state = take(&mut rest)?;
        if state > u64::from(MAX_DELIVERIES) + 1 {
            return Err(Unreadable("a count of deliveries is too large"));
        }
        let is_first_settled = before.is_none() && state == 0;
        if length == 0 || is_first_settled || before == Some(state) {
            return Err(malformed);
        }
        if let Some(deliveries) = state.checked_sub(1) {
            let record = Unsettled {
                deliveries: deliveries as u32,
                ..Unsettled::FRESH
            };
            let offsets = (from..from + length).map(|offset| (Offset::new(offset), record));
            saved.open.extend(offsets);
        }
        before = Some(state);
    }
    if before == Some(1) {
        return Err(malformed);
    }
    if !rest.is_empty() {
        return Err(Unreadable("bytes follow its runs"));
    }
    Ok(saved)
}

fn put(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}

fn take_offset(rest: &mut &[u8]) -> Result<Offset, Unreadable> {
    Offset::try_new(take(rest)?).ok_or(Unreadable("its offsets are too large"))
}

fn take(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, behind) = rest.split_first().ok_or(Unreadable("it is too short"))?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            if byte == 0 && shift > 0 {
                return Err(Unreadable("a number has a byte too many"));
            }
            return Ok(number);
        }
    }
    // Nine bytes hold 63 bits, enough for every offset.
    Err(Unreadable("a number is too large"))
}

/// The prefix of the keys of a group's states.
pub fn states_prefix(group: &str) -> Vec<u8> {
    [&[QUEUE], group.as_bytes(), &[0]].concat()
}

/// The key of a group's head in a partition, and the prefix of the keys of its blocks.
pub fn state_key(group: &str, partition: PartitionId) -> Vec<u8> {
    with_partition(states_prefix(group), partition)
}

/// The key of a block.
pub fn block_key(group: &str, partition: PartitionId, number: u64) -> Vec<u8> {
    let mut key = state_key(group, partition);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The prefix of the keys of a group's redriven records.
pub fn returned_prefix(group: &str) -> Vec<u8> {
    [&[RETURNED], group.as_bytes(), &[0]].concat()
}

/// The prefix of the keys of a group's redriven records of a partition.
pub fn returned_of(group: &str, partition: PartitionId) -> Vec<u8> {
    with_partition(returned_prefix(group), partition)
}

/// The key of a redriven record, by the offset that it had first.
pub fn returned_key(group: &str, partition: PartitionId, offset: Offset) -> Vec<u8> {
    let mut key = returned_of(group, partition);
    key.extend_from_slice(&offset.get().to_be_bytes());
    key
}

/// The number of a block or an offset, from the end of its key.
pub fn number_of(rest: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::groups::offsets::partition_of_key;

    fn state() -> impl Strategy<Value = Unsettled> {
        let not_before = prop::option::of(prop_oneof![Just(0), 0..i64::MAX].prop_map(TimestampMs));
        let state = (0..=MAX_DELIVERIES, any::<bool>(), not_before);
        let any = state.prop_map(|(deliveries, is_released, not_before)| Unsettled {
            deliveries,
            is_released,
            not_before,
        });
        prop_oneof![3 => Just(Unsettled::FRESH), 2 => any]
    }

    /// A block with at least one record.
    fn block() -> impl Strategy<Value = (u64, Vec<(Offset, Unsettled)>)> {
        let number = prop_oneof![Just(0), 0..1000_u64, Just((Offset::MAX.get() - BLOCK) / BLOCK)];
        (
            number,
            prop::collection::btree_map(0..BLOCK, state(), 1..=BLOCK as usize),
        )
            .prop_map(|(number, rows)| {
                let first = Offset::new(number * BLOCK);
                let rows = rows.into_iter().map(|(at, state)| (first.plus(at), state));
                (number, rows.collect())
            })
    }

    proptest! {
        #[test]
        fn a_block_comes_back_as_it_was_and_has_one_encoding(
            (number, rows) in block(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let value = encode_block(number, &rows);
            prop_assert_eq!(decode_block(number, &value), Ok(rows));
            let mut other = value.clone();
            let at = at.index(value.len());
            other[at] = byte;
            for bytes in [other, value[..at].to_vec(), noise.clone(), [&[1][..], &noise].concat()] {
                if let Ok(rows) = decode_block(number, &bytes) {
                    prop_assert_eq!(encode_block(number, &rows), bytes);
                }
            }
        }

        #[test]
        fn a_head_comes_back_as_it_was(floor in 0..=Offset::MAX.get(), looked in any::<u64>(), noise in prop::collection::vec(any::<u8>(), 0..40)) {
            let next = floor.saturating_add(looked).min(Offset::MAX.get());
            let head = Head { floor: Offset::new(floor), next: Offset::new(next) };
            let value = head.encode();
            prop_assert_eq!(Saved::decode(&value, []).map(|saved| saved.head), Ok(head));
            for length in 0..value.len() {
                prop_assert!(Saved::decode(&value[..length], []).is_err(), "{}", length);
            }
            let _ = Saved::decode(&noise, []);
            let _ = Saved::decode(&[&[1][..], &noise].concat(), []);
            if let Ok(saved) = Saved::decode(&[&[2][..], &noise].concat(), []) {
                prop_assert_eq!(saved.head.encode(), [&[2][..], &noise].concat());
            }
        }
    }

    const fn delivered(deliveries: u32) -> Unsettled {
        Unsettled {
            deliveries,
            ..Unsettled::FRESH
        }
    }

    #[test]
    fn the_layouts_do_not_change() {
        let head = Head {
            floor: Offset::new(1000),
            next: Offset::new(1303),
        };
        assert_eq!(head.encode(), [2, 0xe8, 7, 0x97, 10]);
        let late = Unsettled {
            deliveries: 3,
            is_released: true,
            not_before: Some(TimestampMs(300)),
        };
        let rows = [
            (960, late),
            (1000, delivered(1)),
            (1001, delivered(1)),
            (1003, delivered(0)),
        ];
        let rows = rows.map(|(offset, state)| (Offset::new(offset), state));
        let value = encode_block(15, &rows);
        assert_eq!(value, [1, 0, 1, 15, 0xac, 2, 39, 2, 4, 1, 1, 0]);
        assert_eq!(decode_block(15, &value), Ok(rows.to_vec()));
        let id = PartitionId::new(TopicId(258), 3);
        assert_eq!(state_key("jobs", id), b"sjobs\0\0\0\0\0\0\0\x01\x02\0\0\0\x03");
        let key = block_key("jobs", id, 15);
        assert_eq!(key, b"sjobs\0\0\0\0\0\0\0\x01\x02\0\0\0\x03\0\0\0\0\0\0\0\x0f");
        assert_eq!(number_of(&key[state_key("jobs", id).len()..]), Some(15));
    }

    #[test]
    fn a_head_of_version_1_is_read_and_replaced_as_a_whole() {
        let value = [1, 0xe8, 7, 0xaf, 2, 1, 3, 0xac, 2, 0, 1, 1, 1, 2];
        let saved = Saved::decode(&value, []).unwrap();
        assert!(saved.is_outdated);
        assert_eq!((saved.head.floor.get(), saved.head.next.get()), (1000, 1303));
        let open = [(1000, delivered(2)), (1301, delivered(0)), (1302, delivered(1))];
        assert_eq!(
            saved.open,
            open.map(|(offset, state)| (Offset::new(offset), state))
        );
        let mut queue = super::super::queue::Queue::restore(saved, 5);
        let written = queue.begin_write(&[]);
        assert_eq!(written.head.encode(), [2, 0xe8, 7, 0x97, 10]);
        assert_eq!(
            written
                .blocks
                .iter()
                .map(|(number, _)| *number)
                .collect::<Vec<_>>(),
            [15, 20]
        );
    }

    #[test]
    fn what_no_queue_writes_is_refused() {
        for (bytes, what) in [
            (&[][..], "it is empty"),
            (&[3, 0, 0], "its version is neither 1 nor 2"),
            (&[2, 0, 0, 0], "bytes follow its extent"),
            (&[2, 5, 4], "its extent is malformed"),
            (&[1, 0, 0, 0], "bytes follow its runs"),
            (&[1, 0, 1, 2, 1], "its runs are longer than their count says"),
            (&[1, 0, 1, 0, 1], "its runs are malformed"),
            (&[1, 0, 1, 1, 0], "its runs are malformed"),
            (&[1, 0, 2, 1, 2, 1, 2], "its runs are malformed"),
            (&[1, 0, 1, 1, 1], "its runs are malformed"),
            (&[1, 0, 1, 1, 2, 0], "bytes follow its runs"),
            (&[1, 0x80, 0, 0], "a number has a byte too many"),
            (&[1, 0, 0x81, 0x40], "it has too many offsets"),
            (&[1, 0, 1, 1, 0xea, 7], "a count of deliveries is too large"),
            (
                &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0],
                "a number is too large",
            ),
            (
                &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 1, 1],
                "its offsets are too large",
            ),
        ] {
            assert_eq!(Saved::decode(bytes, []), Err(Unreadable(what)), "{bytes:?}");
        }
        for (bytes, what) in [
            (&[][..], "a block is empty"),
            (&[2, 0, 1, 0], "the version of a block is not 1"),
            (&[1], "the runs of a block are malformed"),
            (&[1, 0, 0, 0], "the runs of a block are malformed"),
            (&[1, 60, 5, 0], "the runs of a block are malformed"),
            (&[1, 0, 1, 4, 0, 1, 4], "the runs of a block are malformed"),
            (&[1, 0, 1, 0xa4, 0x1f], "a count of deliveries is too large"),
            (&[1, 0, 1], "it is too short"),
        ] {
            assert_eq!(decode_block(0, bytes), Err(Unreadable(what)), "{bytes:?}");
        }
    }

    #[test]
    fn entries_say_nothing_below_the_floor_or_beyond_next() {
        let head = Head {
            floor: Offset::new(2),
            next: Offset::new(5),
        };
        let rows: Vec<_> = (0..8).map(|offset| (Offset::new(offset), delivered(1))).collect();
        let value = encode_block(0, &rows);
        let saved = Saved::decode(&head.encode(), [(0, &value[..])]).unwrap();
        assert_eq!(saved.open, rows[2..5]);
        assert_eq!(saved.blocks, BTreeSet::from([0]));
    }

    #[test]
    fn keys_give_their_partition_back_and_one_groups_keys_never_begin_anothers() {
        let id = PartitionId::new(TopicId(u64::MAX), u32::MAX);
        assert_eq!(partition_of_key(&state_key("a", id)), Some(id));
        assert!(!state_key("ab", id).starts_with(&states_prefix("a")));
        assert_eq!(partition_of_key(b"s\0short"), None);
    }
}
