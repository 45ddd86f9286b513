//! Every key that the service keeps in the engine's durable state, by its first byte, and the topic that it belongs to.
//!
//! ```text
//! 'g' group                                      a group exists                     groups/offsets
//! 'o' group 0x00 topic_id:u64 partition:u32      a committed offset                 groups/offsets
//! 't' group 0x00 topic_id:u64                    a subscription                     groups/subscriptions
//! 'p' group 0x00 pattern                         a subscription to a pattern        groups/subscriptions
//! 's' group 0x00 topic_id:u64 partition:u32      a queue                            groups/shared/codec
//! 'r' group 0x00 topic_id:u64 partition:u32      what became of dead letters       groups/shared/letters
//! 'R' group 0x00 topic_id:u64 partition:u32      redriven records                  groups/shared/codec
//! 'a' group 0x00 member 0x00 slot:u8              what an acknowledgement produced    groups/repeats
//! 'v' group                                      a group's generation               groups/generation
//! 'c' group                                      a classic group                    groups/classic/stored
//! 'm' group 0x00 member                          a member of its generation         groups/classic/stored
//! 'A' time_ms:u64 …                               an entry of the audit log        audit
//! 'k' name                                       a token that the server made         access/records
//! 'P' name                                       rules for JWTs or certificates       access/records
//! 'D'                                            what salts are made up with          access/records
//! 'L'                                            what dead letters are sealed with   groups/shared/seal
//! 'd' topic_id:u64 partition:u32 offset:u64      damage that is skipped             topics/skips
//! 'i'                                            the ids that producers were given    produce/producer_ids
//! "keyed-elsewhere/" topic_id:u64                a record not where its key says    formats/partitioner
//! ```
//!
//! Numbers are big-endian, and a group's name has no byte 0. The modules at the right document the values. The entries
//! of a topic are removed in the append that deletes the topic, so a crash leaves all of them or none.

use crate::broker::engine::{Log, StateChange, TopicId};

pub(super) const GROUP: u8 = b'g';
pub(super) const OFFSET: u8 = b'o';
pub(super) const SUBSCRIPTION: u8 = b't';
pub(super) const PATTERN: u8 = b'p';
pub(super) const QUEUE: u8 = b's';
pub(super) const REDRIVE: u8 = b'r';
pub(super) const RETURNED: u8 = b'R';
pub(super) const PRODUCED: u8 = b'a';
pub(super) const GENERATION: u8 = b'v';
pub(super) const CLASSIC: u8 = b'c';
pub(super) const CLASSIC_MEMBER: u8 = b'm';
pub(super) const SKIP: u8 = b'd';
pub(super) const AUDIT: u8 = b'A';
pub(super) const TOKEN: u8 = b'k';
pub(super) const PRINCIPAL: u8 = b'P';
pub(super) const DECOY: u8 = b'D';
pub(super) const SEAL: u8 = b'L';
pub(super) const PRODUCER_IDS: u8 = b'i';

/// The topic that a key belongs to; `None` for a key that belongs to no topic.
pub fn topic_of(key: &[u8]) -> Option<TopicId> {
    let id = match *key.first()? {
        OFFSET | SUBSCRIPTION | QUEUE | REDRIVE | RETURNED => {
            let name = key.iter().position(|byte| *byte == 0)?;
            key.get(name + 1..)?
        }
        SKIP => &key[1..],
        // Also begins a token's key, whose name has no slash.
        _ => key.strip_prefix(b"keyed-elsewhere/")?,
    };
    Some(TopicId(u64::from_be_bytes(*id.first_chunk()?)))
}

/// The changes that remove everything that belongs to a topic. Cost: a walk over all of the state.
pub fn removals_of_topic(log: &Log, topic: TopicId) -> Vec<StateChange> {
    let entries = log.state_prefix(b"").into_iter();
    entries
        .filter(|(key, _)| topic_of(key) == Some(topic))
        .map(|(key, _)| StateChange::remove(key))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_topic_that_it_names() {
        let seven: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1];
        for (prefix, expected) in [
            (&b"ogroup\0"[..], Some(TopicId(7))),
            (b"tgroup\0", Some(TopicId(7))),
            (b"sgroup\0", Some(TopicId(7))),
            (b"rgroup\0", Some(TopicId(7))),
            (b"Rgroup\0", Some(TopicId(7))),
            (b"d", Some(TopicId(7))),
            (b"keyed-elsewhere/", Some(TopicId(7))),
            (b"ggroup\0", None),
            (b"pgroup\0", None),
            (b"agroup\0", None),
            (b"vgroup\0", None),
            (b"cgroup\0", None),
            (b"mgroup\0", None),
            (b"A", None),
            (b"keyed-nowhere/", None),
        ] {
            assert_eq!(topic_of(&[prefix, seven].concat()), expected, "{prefix:?}");
            assert_eq!(topic_of(prefix), None, "{prefix:?}");
        }
        assert_eq!(topic_of(b""), None);
    }
}
