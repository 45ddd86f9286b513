//! `poll_id`: an opaque string that describes what a poll delivered.
//!
//! The string holds everything, so an `ack` sent before a restart still works after it. It is a [`token`] of:
//!
//! ```text
//! version=1  life:u64  epoch:varint  number:varint  count:varint  { topic_id:varint partition:varint base:varint next_offset-base:varint }  crc32:u32
//! ```
//!
//! `base` was the committed offset at delivery. If the committed offset is lower now, the group was reset since, and
//! the acknowledgement must not undo the reset.
//!
//! `life` names the server's process, `epoch` is the member's epoch at delivery. The checksum also covers the names of
//! the group and the member, which the string omits: no member can acknowledge another's poll by mistake. It does not
//! prevent forgery: a client that may poll may commit as well.

use crate::broker::engine::{Offset, PartitionId, TopicId};
use crate::formats::token::{self, VERSION, push_varint, take_varint};

/// The most partitions that one poll delivers from.
pub const MAX_PARTITIONS: usize = 256;

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

/// The content of a `poll_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollId {
    /// The server's process.
    pub life: u64,
    /// The member's epoch.
    pub epoch: u64,
    /// The number of the answer within this process.
    pub number: u64,
    /// The deliveries of each partition.
    pub reach: Vec<Reach>,
}

impl PollId {
    /// Encodes the string for a member of a group.
    pub fn encode(&self, group: &str, member: &str) -> String {
        let mut bytes = Vec::with_capacity(24 + self.reach.len() * 8);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.life.to_be_bytes());
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
        token::seal(bytes, &names(group, member))
    }

    /// Decodes the string; `None` if it was not made for this member.
    pub fn decode(text: &str, group: &str, member: &str) -> Option<Self> {
        let (life, rest) = token::open(text, &names(group, member))?;
        let mut rest = &rest[..];
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
        rest.is_empty().then_some(Self {
            life,
            epoch,
            number,
            reach,
        })
    }
}

/// The names that the checksum covers, separated so that member `c` of group `ab` is not member `bc` of group `a`.
fn names<'a>(group: &'a str, member: &'a str) -> [&'a [u8]; 3] {
    [group.as_bytes(), &[0], member.as_bytes()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn poll_id() -> impl Strategy<Value = PollId> {
        let partition = (any::<u64>(), any::<u32>(), 0_u64..(1 << 61), 0_u64..(1 << 61));
        (
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            prop::collection::vec(partition, 0..20),
        )
            .prop_map(|(life, epoch, number, reach)| PollId {
                life,
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
            })
    }

    proptest! {
        #[test]
        fn a_poll_id_decodes_for_its_own_member_only(id in poll_id(), cut in any::<prop::sample::Index>()) {
            let text = id.encode("billing", "a");
            prop_assert_eq!(PollId::decode(&text, "billing", "a"), Some(id));
            prop_assert_eq!(PollId::decode(&text, "billing", "b"), None);
            prop_assert_eq!(PollId::decode(&text, "billin", "ga"), None);
            prop_assert_eq!(PollId::decode(&text[..cut.index(text.len())], "billing", "a"), None);
        }

        #[test]
        fn any_other_string_decodes_to_none_without_a_panic(text in ".{0,80}") {
            prop_assert_eq!(PollId::decode(&text, "billing", "a"), None);
        }
    }
}
