//! The history as it is kept over a restart, in a memo of the log: a loss of it costs only pictures.
//!
//! ```text
//! version=1  first_slot  count { at-at_before:zigzag interval_ms }  count { group tracks }
//! group      length name
//! tracks     count { topic_id partition count { first_slot points length runs } }
//! ```
//!
//! Numbers are varints; `runs` are those of [`series`](super::series). The sampler writes it often while it is small, and
//! seldom when it is large: see [`Remembering`].

use std::sync::Arc;
use std::time::Duration;

use super::history::{MAX_TRACKS, SlotTime};
use super::series::{Series, Slot};
use crate::broker::engine::{Monotonic, PartitionId, TimestampMs, TopicId};
use crate::formats::token::{push_varint, take_varint};

/// The name of the memo.
pub const NAME: &str = "lag-history";

const VERSION: u8 = 1;
/// How many bytes a second the sampler writes on average.
const BYTES_PER_SECOND: u64 = 256 << 10;
const LEAST_PAUSE: Duration = Duration::from_secs(10);
const MOST_PAUSE: Duration = Duration::from_hours(1);

/// The partitions of a group with their points.
pub(super) type Tracks = Vec<(PartitionId, Series)>;

/// The points of all groups, as they are remembered.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    pub(super) first_slot: Slot,
    pub(super) slots: Vec<SlotTime>,
    pub(super) groups: Vec<(Arc<str>, Tracks)>,
}

impl Memo {
    /// Whether no group has any history.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let put = push_varint;
        put(&mut bytes, self.first_slot);
        put(&mut bytes, self.slots.len() as u64);
        let mut before = 0;
        for slot in &self.slots {
            let difference = slot.at.get().wrapping_sub(before);
            put(&mut bytes, ((difference << 1) ^ (difference >> 63)) as u64);
            put(&mut bytes, slot.interval_ms.unsigned_abs());
            before = slot.at.get();
        }
        put(&mut bytes, self.groups.len() as u64);
        for (group, tracks) in &self.groups {
            put(&mut bytes, group.len() as u64);
            bytes.extend_from_slice(group.as_bytes());
            put(&mut bytes, tracks.len() as u64);
            for (id, series) in tracks {
                let chunks = series.chunks();
                for number in [id.topic.0, id.index.into(), chunks.len() as u64] {
                    put(&mut bytes, number);
                }
                for (first, points, runs) in chunks {
                    for number in [first, points.into(), runs.len() as u64] {
                        put(&mut bytes, number);
                    }
                    bytes.extend_from_slice(&runs);
                }
            }
        }
        bytes
    }

    /// Reads the bytes; `None` if this version did not write them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        if version != VERSION {
            return None;
        }
        let rest = &mut &*rest;
        let mut memo = Self {
            first_slot: take_varint(rest)?,
            ..Self::default()
        };
        let mut at = 0_i64;
        for _ in 0..take_varint(rest)? {
            let coded = take_varint(rest)?;
            at = at.wrapping_add((coded >> 1) as i64 ^ -((coded & 1) as i64));
            memo.slots.push(SlotTime {
                at: TimestampMs(at),
                interval_ms: i64::try_from(take_varint(rest)?).ok()?,
            });
        }
        let next_slot = memo.first_slot.checked_add(memo.slots.len() as Slot)?;
        let mut room = MAX_TRACKS;
        for _ in 0..take_varint(rest)? {
            let name = take(rest)?;
            let name: Arc<str> = std::str::from_utf8(name).ok()?.into();
            let mut tracks = Vec::new();
            for _ in 0..take_varint(rest)? {
                room = room.checked_sub(1)?;
                let topic = TopicId(take_varint(rest)?);
                let index = u32::try_from(take_varint(rest)?).ok()?;
                let mut chunks = Vec::new();
                for _ in 0..take_varint(rest)? {
                    let first = take_varint(rest)?;
                    let points = u32::try_from(take_varint(rest)?).ok()?;
                    chunks.push((first, points, take(rest)?.into()));
                }
                let series = Series::of_chunks(chunks, next_slot)?;
                tracks.push((PartitionId::new(topic, index), series));
            }
            memo.groups.push((name, tracks));
        }
        rest.is_empty().then_some(memo)
    }
}

/// Bytes with their length before them.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(rest)?).ok()?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

/// When the history is written next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remembering {
    next: Option<Monotonic>,
}

impl Remembering {
    /// Whether it is time; the first time is one pause after the start.
    pub fn is_due(&mut self, now: Monotonic) -> bool {
        let next = *self.next.get_or_insert(Monotonic(now.0 + LEAST_PAUSE));
        now >= next
    }

    /// Notes that so many bytes were written, or could not be.
    pub fn wrote(&mut self, now: Monotonic, bytes: u64) {
        let pause = Duration::from_secs(bytes / BYTES_PER_SECOND);
        self.next = Some(Monotonic(now.0 + pause.clamp(LEAST_PAUSE, MOST_PAUSE)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::Point;
    use super::*;

    fn some() -> Memo {
        let mut series = Series::new(3);
        for slot in 3..2000 {
            series.push(Point {
                lag: slot % 7 * 1000,
                next_timestamp: (slot % 7 > 0).then_some(TimestampMs(slot as i64 * -5)),
                bytes: slot * 11,
            });
        }
        let times = (0..1999).map(|slot| SlotTime {
            at: TimestampMs(1_700_000_000_000 + slot * 10_000),
            interval_ms: 10_000,
        });
        let late = Series::new(2000);
        let id = |index| PartitionId::new(TopicId(9), index);
        Memo {
            first_slot: 1,
            slots: times.collect(),
            groups: vec![
                ("a".into(), vec![(id(0), series.clone()), (id(7), late)]),
                ("b".into(), vec![(id(1), series)]),
            ],
        }
    }

    /// A group, a partition, and what was seen there.
    type Row = (String, PartitionId, Vec<(Slot, Point)>);

    fn parts(memo: &Memo) -> Vec<Row> {
        let groups = memo.groups.iter();
        let rows =
            groups.flat_map(|(name, tracks)| tracks.iter().map(move |(id, series)| (name, id, series)));
        rows.map(|(name, id, series)| (name.to_string(), *id, series.points(0).collect()))
            .collect()
    }

    #[test]
    fn a_history_comes_back_as_it_was() {
        let memo = some();
        let found = Memo::decode(&memo.encode()).unwrap();
        assert_eq!((found.first_slot, &found.slots), (memo.first_slot, &memo.slots));
        assert_eq!(parts(&found), parts(&memo));
        assert_eq!(found.encode(), memo.encode());
        let empty = Memo::default().encode();
        assert!(Memo::decode(&empty).unwrap().groups.is_empty());
    }

    #[test]
    fn no_cut_and_no_changed_byte_makes_it_panic() {
        let bytes = some().encode();
        for length in 0..bytes.len().min(3000) {
            assert!(Memo::decode(&bytes[..length]).is_none(), "{length}");
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x81;
            drop(Memo::decode(&changed));
        }
        assert!(Memo::decode(&[&bytes[..], &[0]].concat()).is_none());
    }

    #[test]
    fn a_large_history_is_written_seldom() {
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        let mut remembering = Remembering::default();
        assert!(!remembering.is_due(at(100)) && !remembering.is_due(at(109)) && remembering.is_due(at(110)));
        remembering.wrote(at(110), 1000);
        assert!(!remembering.is_due(at(119)) && remembering.is_due(at(120)));
        remembering.wrote(at(120), 90 << 20);
        assert!(!remembering.is_due(at(479)) && remembering.is_due(at(480)));
    }
}
