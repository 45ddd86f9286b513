//! A group's committed offsets, as they lie in the engine's durable state.
//!
//! ```text
//! key    'g' group                                  a group exists
//! value  version=1
//!
//! key    'o' group 0x00 topic_id:u64 partition:u32  its committed offset there      (numbers big-endian)
//! value  version=1 offset:u64 last_commit:i64 has_metadata:u8 metadata (UTF-8, to the end)
//!        version=2 leader_epoch:u32 and the same: with the epoch that a Kafka client committed
//! ```
//!
//! A group's name has no byte 0, so the offsets of one group are all keys that begin with `'o' group 0x00`. Keys carry
//! the topic's id, not its name: a topic recreated under the same name starts with nothing committed. All keys of a
//! commit are written in one journal round, so a crash leaves all of them or none.

use crate::broker::engine::{Offset, PartitionId, StateChange, TimestampMs, TopicId};
use crate::broker::state_keys::{GROUP, OFFSET};

const VERSION: u8 = 1;
const VERSION_EPOCH: u8 = 2;
const PARTITION_ID_BYTES: usize = 12;

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next record to read.
    pub offset: Offset,
    /// When it was committed.
    pub last_commit: TimestampMs,
    /// The leader epoch that a Kafka client sent with it; it gets it back.
    pub leader_epoch: Option<u32>,
    /// The metadata that the consumer sent with it.
    pub metadata: Option<String>,
}

/// Bytes that this version does not write: the state is damaged, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a committed offset in the state is not readable: {0}")]
pub struct Unreadable(&'static str);

impl Committed {
    /// The encoded value.
    pub fn encode(&self) -> Vec<u8> {
        let metadata = self.metadata.as_deref().unwrap_or_default();
        let mut value = Vec::with_capacity(22 + metadata.len());
        match self.leader_epoch {
            None => value.push(VERSION),
            Some(epoch) => {
                value.push(VERSION_EPOCH);
                value.extend_from_slice(&epoch.to_be_bytes());
            }
        }
        value.extend_from_slice(&self.offset.get().to_be_bytes());
        value.extend_from_slice(&self.last_commit.get().to_be_bytes());
        value.push(u8::from(self.metadata.is_some()));
        value.extend_from_slice(metadata.as_bytes());
        value
    }

    /// Decodes a value.
    ///
    /// # Errors
    /// [`Unreadable`]: report it; the group cannot continue from there.
    pub fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        let (&version, rest) = value.split_first().ok_or(Unreadable("it is empty"))?;
        let short = Unreadable("it is too short");
        let (leader_epoch, rest) = match version {
            VERSION => (None, rest),
            VERSION_EPOCH => {
                let (epoch, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
                (Some(u32::from_be_bytes(*epoch)), rest)
            }
            _ => return Err(Unreadable("its version is not 1 or 2")),
        };
        let (offset, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
        let (last_commit, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
        let (&has_metadata, metadata) = rest.split_first().ok_or(short)?;
        let metadata = match has_metadata {
            0 if metadata.is_empty() => None,
            1 => Some(
                String::from_utf8(metadata.to_vec()).map_err(|_| Unreadable("its metadata is not UTF-8"))?,
            ),
            _ => return Err(Unreadable("its metadata is malformed")),
        };
        Ok(Self {
            offset: Offset::try_new(u64::from_be_bytes(*offset))
                .ok_or(Unreadable("its offset is too large"))?,
            last_commit: TimestampMs(i64::from_be_bytes(*last_commit)),
            leader_epoch,
            metadata,
        })
    }
}

/// The change that creates a group.
pub fn make_group(group: &str) -> StateChange {
    StateChange::set(group_key(group), vec![VERSION])
}

/// The change that commits.
pub fn commit(group: &str, partition: PartitionId, committed: &Committed) -> StateChange {
    StateChange::set(offset_key(group, partition), committed.encode())
}

/// The prefix of every group's key.
pub fn groups_prefix() -> [u8; 1] {
    [GROUP]
}

/// The prefix of every committed offset's key.
pub fn all_offsets_prefix() -> [u8; 1] {
    [OFFSET]
}

/// The key that records that a group exists.
pub fn group_key(group: &str) -> Vec<u8> {
    [&[GROUP], group.as_bytes()].concat()
}

/// The group of a key that [`group_key`] made.
pub fn group_of_key(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(&[GROUP])?).ok()
}

/// The prefix of the keys of a group's offsets.
pub fn offsets_prefix(group: &str) -> Vec<u8> {
    [&[OFFSET], group.as_bytes(), &[0]].concat()
}

/// The prefix of the keys of a group's offsets in a topic.
pub fn topic_prefix(group: &str, topic: TopicId) -> Vec<u8> {
    [&offsets_prefix(group)[..], &topic.0.to_be_bytes()].concat()
}

/// The key of a group's offset in a partition.
pub fn offset_key(group: &str, partition: PartitionId) -> Vec<u8> {
    with_partition(offsets_prefix(group), partition)
}

/// A group's key that ends with a partition. `prefix` ends in byte 0.
pub(super) fn with_partition(mut prefix: Vec<u8>, partition: PartitionId) -> Vec<u8> {
    prefix.extend_from_slice(&partition.topic.0.to_be_bytes());
    prefix.extend_from_slice(&partition.index.to_be_bytes());
    prefix
}

/// The partition at the end of a key.
pub fn partition_of_key(key: &[u8]) -> Option<PartitionId> {
    let (before, id) = key.split_last_chunk::<PARTITION_ID_BYTES>()?;
    let (topic, index) = id.split_first_chunk::<8>()?;
    (before.last() == Some(&0)).then_some(PartitionId::new(
        TopicId(u64::from_be_bytes(*topic)),
        u32::from_be_bytes(index.try_into().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(metadata: Option<&str>) -> Committed {
        Committed {
            offset: Offset::new(0x0102_0304_0506),
            last_commit: TimestampMs(1_357_035_420_000),
            leader_epoch: None,
            metadata: metadata.map(str::to_owned),
        }
    }

    #[test]
    fn a_committed_offset_comes_back_as_it_was() {
        for metadata in [None, Some(""), Some("batch 7 ✓")] {
            for leader_epoch in [None, Some(0), Some(u32::MAX)] {
                let value = Committed {
                    leader_epoch,
                    ..committed(metadata)
                };
                assert_eq!(Committed::decode(&value.encode()), Ok(value));
            }
        }
    }

    #[test]
    fn the_layout_of_version_2_does_not_change() {
        let value = Committed {
            leader_epoch: Some(7),
            ..committed(None)
        };
        let expected = [
            &[2, 0, 0, 0, 7][..],
            &[0, 0, 1, 2, 3, 4, 5, 6],
            &[0, 0, 1, 0x3b, 0xf5, 0x9d, 0x39, 0x60],
            &[0],
        ];
        assert_eq!(value.encode(), expected.concat());
        for length in 0..value.encode().len() {
            assert!(Committed::decode(&value.encode()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn the_layout_of_version_1_does_not_change() {
        let value = committed(Some("m")).encode();
        let expected = [
            &[1][..],
            &[0, 0, 1, 2, 3, 4, 5, 6],
            &[0, 0, 1, 0x3b, 0xf5, 0x9d, 0x39, 0x60],
            &[1],
            b"m",
        ]
        .concat();
        assert_eq!(value, expected);
        let key = offset_key("billing", PartitionId::new(TopicId(258), 3));
        assert_eq!(key, b"obilling\0\0\0\0\0\0\0\x01\x02\0\0\0\x03");
        assert_eq!(group_key("billing"), b"gbilling");
    }

    #[test]
    fn every_cut_of_a_value_is_an_error_and_not_a_panic() {
        let value = committed(None).encode();
        for length in 0..value.len() {
            assert!(Committed::decode(&value[..length]).is_err(), "{length}");
        }
        let mut later = value.clone();
        later[0] = 3;
        let found = Committed::decode(&later);
        assert_eq!(found, Err(Unreadable("its version is not 1 or 2")));
        let mut large = value;
        large[1] = 0x80;
        let found = Committed::decode(&large);
        assert_eq!(found, Err(Unreadable("its offset is too large")));
    }

    #[test]
    fn keys_give_their_group_and_partition_back_and_one_groups_keys_never_begin_anothers() {
        let id = PartitionId::new(TopicId(u64::MAX), u32::MAX);
        assert_eq!(partition_of_key(&offset_key("a", id)), Some(id));
        assert_eq!(group_of_key(&group_key("a.b")), Some("a.b"));
        assert!(!offset_key("ab", id).starts_with(&offsets_prefix("a")));
        assert_eq!(partition_of_key(b"o\0short"), None);
        assert_eq!(group_of_key(b"xa"), None);
    }
}
