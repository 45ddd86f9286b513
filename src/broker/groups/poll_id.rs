//! `poll_id`: an opaque string that describes what a poll delivered.
//!
//! The string holds everything, so an `ack` sent before a restart still works after it. It is a [`token`] of:
//!
//! ```text
//! version=1  directory:u64  life:u64  generation:u64  epoch:varint  number:varint  count:varint  { topic_id:varint partition:varint base:varint next_offset-base:varint }  leases  crc32:u32
//! leases     { topic_id:varint partition:varint count:varint { gap:varint length:varint deliveries:varint } }
//! ```
//!
//! A poll of an ordered group has no leases, and one of a shared group nothing before them. The ranges of a partition
//! are in order; a gap counts the offsets from the end of the range before, at first from 0.
//!
//! `base` was the committed offset at delivery. If the committed offset is lower now, the group was reset since, and
//! the acknowledgement must not undo the reset.
//!
//! `generation` is the group's at delivery: if it is another by now, the group was made again or its offsets were set from
//! outside. Strings of earlier versions, whose checksum covers other names, lack it: it is 0, as in groups of that time.
//!
//! `directory` is the identity of the data directory, which changes when a backup is restored: what was delivered after the
//! backup may be other records by now, so such a string has expired. Strings of earlier versions lack it; they are older
//! than any backup.
//!
//! `life` names the server's process, `epoch` is the member's epoch at delivery. The checksum also covers the names of
//! the group and the member, which the string omits: no member can acknowledge another's poll by mistake. It does not
//! prevent forgery: a client that may poll may commit as well.

use crate::broker::engine::{Offset, PartitionId, TopicId};
use crate::formats::token::{self, VERSION, push_varint, take_varint};

/// The most partitions that one poll delivers from.
pub const MAX_PARTITIONS: usize = 256;
/// The most leased records in one `poll_id`: as many as a poll leases.
pub const MAX_LEASED: usize = 1000;

/// The records a poll delivered from one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The partition.
    pub partition: PartitionId,
    /// The committed offset at delivery, or 0; not above `next`.
    pub base: Offset,
    /// One past the last delivered offset.
    pub next: Offset,
}

/// A range of records that a poll leased, all delivered equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasedRange {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset.
    pub from: Offset,
    /// One past the last offset.
    pub until: Offset,
    /// How often each was delivered, that time included.
    pub deliveries: u32,
}

/// The content of a `poll_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollId {
    /// The server's process.
    pub life: u64,
    /// The group's [generation](super::generation).
    pub generation: u64,
    /// The member's epoch.
    pub epoch: u64,
    /// The number of the answer within this process.
    pub number: u64,
    /// The deliveries of each partition, in an ordered group.
    pub reach: Vec<Reach>,
    /// The leases, in a shared group: sorted by partition and offset, at most [`MAX_LEASED`] ranges.
    pub leased: Vec<LeasedRange>,
}

/// Why a string is not taken for a `poll_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It was not made for this member.
    Foreign,
    /// It was made for this member of this group, by the server of another data directory.
    OtherDirectory,
}

impl PollId {
    /// Whether anything was delivered.
    pub fn has_records(&self) -> bool {
        !self.reach.is_empty() || !self.leased.is_empty()
    }

    /// The topics of what was delivered, some of them more than once.
    pub fn topics(&self) -> impl Iterator<Item = TopicId> {
        let reach = self.reach.iter().map(|reach| reach.partition.topic);
        reach.chain(self.leased.iter().map(|range| range.partition.topic))
    }

    /// Encodes the string for a member of a group.
    pub fn encode(&self, directory: u64, group: &str, member: &str) -> String {
        let mut bytes = Vec::with_capacity(40 + self.reach.len() * 8);
        bytes.push(VERSION);
        bytes.extend_from_slice(&directory.to_be_bytes());
        bytes.extend_from_slice(&self.life.to_be_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        for number in [self.epoch, self.number, self.reach.len() as u64] {
            push_varint(&mut bytes, number);
        }
        for Reach {
            partition,
            base,
            next,
        } in &self.reach
        {
            debug_assert!(base <= next, "{partition}: {base} was committed of {next}");
            let delivered = next.get().saturating_sub(base.get());
            for number in [
                partition.topic.0,
                u64::from(partition.index),
                base.get(),
                delivered,
            ] {
                push_varint(&mut bytes, number);
            }
        }
        for ranges in self.leased.chunk_by(|a, b| a.partition == b.partition) {
            let id = ranges[0].partition;
            for number in [id.topic.0, u64::from(id.index), ranges.len() as u64] {
                push_varint(&mut bytes, number);
            }
            let mut behind = Offset::ZERO;
            for range in ranges {
                let gap = range.from.since(behind);
                let length = range.until.since(range.from);
                for number in [gap, length, u64::from(range.deliveries)] {
                    push_varint(&mut bytes, number);
                }
                behind = range.until;
            }
        }
        token::seal(bytes, &names(group, member))
    }

    /// Decodes the string.
    ///
    /// # Errors
    /// Why it is none of this member's, in this data directory.
    pub fn decode(text: &str, directory: u64, group: &str, member: &str) -> Result<Self, Unreadable> {
        let names = names(group, member);
        let (life, rest) = match token::open(text, &names) {
            Some((of, rest)) => match rest.split_first_chunk::<8>() {
                Some(_) if of != directory => return Err(Unreadable::OtherDirectory),
                Some((life, rest)) => (u64::from_be_bytes(*life), rest.to_vec()),
                None => return Err(Unreadable::Foreign),
            },
            None => Self::open_earlier(text, &names).ok_or(Unreadable::Foreign)?,
        };
        Self::read(life, &rest).ok_or(Unreadable::Foreign)
    }

    /// Opens a string of an earlier version: without the directory, and at first without the generation, too.
    fn open_earlier(text: &str, names: &[&[u8]]) -> Option<(u64, Vec<u8>)> {
        if let Some(found) = token::open(text, &names[..4]) {
            return Some(found);
        }
        let (life, rest) = token::open(text, &names[..3])?;
        Some((life, [&[0; 8], &rest[..]].concat()))
    }

    fn read(life: u64, with_generation: &[u8]) -> Option<Self> {
        let (generation, mut rest) = with_generation.split_first_chunk::<8>()?;
        let generation = u64::from_be_bytes(*generation);
        let epoch = take_varint(&mut rest)?;
        let number = take_varint(&mut rest)?;
        let count = usize::try_from(take_varint(&mut rest)?)
            .ok()
            .filter(|count| *count <= MAX_PARTITIONS)?;
        let mut reach = Vec::with_capacity(count);
        for _ in 0..count {
            let topic = TopicId(take_varint(&mut rest)?);
            let index = u32::try_from(take_varint(&mut rest)?).ok()?;
            let base = Offset::try_new(take_varint(&mut rest)?)?;
            let next = Offset::try_new(base.get().checked_add(take_varint(&mut rest)?)?)?;
            reach.push(Reach {
                partition: PartitionId::new(topic, index),
                base,
                next,
            });
        }
        Some(Self {
            life,
            generation,
            epoch,
            number,
            reach,
            leased: take_leased(rest)?,
        })
    }
}

fn take_leased(mut rest: &[u8]) -> Option<Vec<LeasedRange>> {
    let mut leased = Vec::new();
    let mut records = 0_u64;
    while !rest.is_empty() {
        let topic = TopicId(take_varint(&mut rest)?);
        let index = u32::try_from(take_varint(&mut rest)?).ok()?;
        let count = take_varint(&mut rest)?;
        let mut behind = Offset::ZERO;
        for _ in 0..count {
            let from = behind.checked_add(take_varint(&mut rest)?)?;
            let until = from.checked_add(take_varint(&mut rest)?)?;
            let deliveries = u32::try_from(take_varint(&mut rest)?).ok()?;
            records = records.checked_add(until.since(from))?;
            if records > MAX_LEASED as u64 {
                return None;
            }
            leased.push(LeasedRange {
                partition: PartitionId::new(topic, index),
                from,
                until,
                deliveries,
            });
            behind = until;
        }
    }
    Some(leased)
}

/// The names that the checksum covers, separated so that member `c` of group `ab` is not member `bc` of group `a`. Without
/// the last byte: those of strings that lack the directory. Without the last two: of those that lack the generation, too.
fn names<'a>(group: &'a str, member: &'a str) -> [&'a [u8]; 5] {
    [group.as_bytes(), &[0], member.as_bytes(), &[0], &[1]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIRECTORY: u64 = 0x1234_5678_9abc_def0;

    fn poll_id() -> impl Strategy<Value = PollId> {
        let partition = (any::<u64>(), any::<u32>(), 0_u64..(1 << 61), 0_u64..(1 << 61));
        (any::<[u64; 4]>(), prop::collection::vec(partition, 0..20)).prop_map(
            |([life, generation, epoch, number], reach)| PollId {
                life,
                generation,
                epoch,
                number,
                reach: reach
                    .into_iter()
                    .map(|(topic, index, base, delivered)| Reach {
                        partition: PartitionId::new(TopicId(topic), index),
                        base: Offset::new(base),
                        next: Offset::new(base + delivered),
                    })
                    .collect(),
                leased: Vec::new(),
            },
        )
    }

    fn leased() -> impl Strategy<Value = PollId> {
        let range = (0_u64..1000, 1_u64..7, 1_u32..1000);
        let partition = (any::<u64>(), any::<u32>(), prop::collection::vec(range, 1..30));
        prop::collection::vec(partition, 0..5).prop_map(|partitions| {
            let mut leased = Vec::new();
            for (topic, index, ranges) in partitions {
                let mut behind = 0;
                for (gap, length, deliveries) in ranges {
                    let from = behind + gap;
                    behind = from + length;
                    leased.push(LeasedRange {
                        partition: PartitionId::new(TopicId(topic), index),
                        from: Offset::new(from),
                        until: Offset::new(behind),
                        deliveries,
                    });
                }
            }
            PollId {
                life: 1,
                generation: 4,
                epoch: 2,
                number: 3,
                reach: Vec::new(),
                leased,
            }
        })
    }

    proptest! {
        #[test]
        fn a_poll_id_decodes_for_its_own_member_only(id in prop_oneof![poll_id(), leased()], cut in any::<prop::sample::Index>()) {
            let text = id.encode(DIRECTORY, "billing", "a");
            let decode = |text: &str, group, member| PollId::decode(text, DIRECTORY, group, member);
            prop_assert_eq!(decode(&text, "billing", "a"), Ok(id));
            prop_assert_eq!(decode(&text, "billing", "b"), Err(Unreadable::Foreign));
            prop_assert_eq!(decode(&text, "billin", "ga"), Err(Unreadable::Foreign));
            prop_assert_eq!(decode(&text[..cut.index(text.len())], "billing", "a"), Err(Unreadable::Foreign));
            let elsewhere = PollId::decode(&text, DIRECTORY + 1, "billing", "a");
            prop_assert_eq!(elsewhere, Err(Unreadable::OtherDirectory));
            let of_another = PollId::decode(&text, DIRECTORY + 1, "billing", "b");
            prop_assert_eq!(of_another, Err(Unreadable::Foreign));
        }

        #[test]
        fn any_other_string_decodes_to_none_without_a_panic(text in ".{0,80}") {
            prop_assert_eq!(PollId::decode(&text, DIRECTORY, "billing", "a"), Err(Unreadable::Foreign));
        }
    }

    #[test]
    fn a_poll_id_of_an_earlier_version_has_generation_0() {
        let mut bytes = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 7];
        for number in [11, 12, 1, 3, 0, 40, 2] {
            push_varint(&mut bytes, number);
        }
        let text = token::seal(bytes, &names("billing", "a")[..3]);
        let reach = Reach {
            partition: PartitionId::new(TopicId(3), 0),
            base: Offset::new(40),
            next: Offset::new(42),
        };
        let expected = PollId {
            life: 7,
            generation: 0,
            epoch: 11,
            number: 12,
            reach: vec![reach],
            leased: Vec::new(),
        };
        assert_eq!(PollId::decode(&text, DIRECTORY, "billing", "a"), Ok(expected));
        let of_another = PollId::decode(&text, DIRECTORY, "billing", "b");
        assert_eq!(of_another, Err(Unreadable::Foreign));
    }

    #[test]
    fn a_poll_id_of_the_version_before_this_one_is_of_every_directory() {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&7_u64.to_be_bytes());
        bytes.extend_from_slice(&5_u64.to_be_bytes());
        for number in [11, 12, 0] {
            push_varint(&mut bytes, number);
        }
        let text = token::seal(bytes, &names("billing", "a")[..4]);
        let found = PollId::decode(&text, DIRECTORY, "billing", "a").unwrap();
        assert_eq!(
            (found.life, found.generation, found.epoch, found.number),
            (7, 5, 11, 12)
        );
    }

    #[test]
    fn a_poll_id_that_names_more_records_than_a_poll_leases_is_refused() {
        let of = |lengths: &[u64]| {
            let mut from = 0;
            let range = |length: &u64| {
                from += length + 1;
                LeasedRange {
                    partition: PartitionId::new(TopicId(1), 0),
                    from: Offset::new(from - length - 1),
                    until: Offset::new(from - 1),
                    deliveries: 1,
                }
            };
            let id = PollId {
                life: 1,
                generation: 4,
                epoch: 2,
                number: 3,
                reach: Vec::new(),
                leased: lengths.iter().map(range).collect(),
            };
            PollId::decode(&id.encode(DIRECTORY, "g", "m"), DIRECTORY, "g", "m").is_ok()
        };
        assert!(of(&[1000]) && of(&[400, 600]));
        assert!(!of(&[1001]) && !of(&[400, 601]) && !of(&[1 << 50]));
    }

    #[test]
    fn the_largest_poll_id_of_a_queue_has_at_most_8_kib() {
        let range = |at: u64| LeasedRange {
            partition: PartitionId::new(TopicId(1_000_000 + at / 8), 100_000),
            from: Offset::new((1 << 40) + at * 300),
            until: Offset::new((1 << 40) + at * 300 + 1),
            deliveries: 1000,
        };
        let id = PollId {
            life: u64::MAX,
            generation: u64::MAX,
            epoch: 1 << 53,
            number: 1 << 53,
            reach: Vec::new(),
            leased: (0..MAX_LEASED as u64 / 2).map(range).collect(),
        };
        let one = PollId {
            leased: (0..MAX_LEASED as u64)
                .map(|at| LeasedRange {
                    partition: range(0).partition,
                    ..range(at)
                })
                .collect(),
            ..id.clone()
        };
        for id in [id, one] {
            let text = id.encode(u64::MAX, "group", "member");
            assert!(text.len() <= 8192, "{} bytes", text.len());
            assert_eq!(PollId::decode(&text, u64::MAX, "group", "member"), Ok(id));
        }
    }
}
