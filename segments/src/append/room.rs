//! Room for new producers: who is forgotten when there are as many as may be remembered, and what is kept of that.
//!
//! The topic with the most producers gives one up, the one that has been silent for longest. So whoever may write to some
//! topics can take the room of others only up to an equal share: the producers of a topic that has fewer than that are never
//! forgotten because of those of another. (Within a topic nothing can be told apart: whoever may write to it may also send
//! in the name of any of its producers.)
//!
//! A producer that is forgotten may be about to repeat a batch, and the repetition can no longer be told from a new batch. For
//! as long as it would have been remembered otherwise, a batch of an unknown producer in that topic must begin at sequence 0,
//! as that of a new producer does. [`Forgotten`] keeps until when.
//!
//! # The state's key and value
//! | bytes | field |
//! |---|---|
//! | 1, 1 | 0, `q` |
//! | 8 | topic id (big-endian) |
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | until when, in milliseconds since the Unix epoch |

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, btree_set};

use super::producers::ProducerKey;
use crate::files::codec::Fields;
use crate::files::state::{RESERVED_PREFIX, State, StateChange};
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::types::{TimestampMs, TopicId};

const PREFIX: [u8; 2] = [RESERVED_PREFIX, b'q'];
const KEY_BYTES: usize = 2 + 8;
const VERSION: u8 = 1;
const VALUE_BYTES: usize = 1 + 8;
/// Journal bytes of a change of what is kept of a topic.
pub(super) const CHANGE_BYTES: usize = KEY_BYTES + VALUE_BYTES + ITEM_OVERHEAD_BYTES;
/// Times are rounded up to this, so that most producers that are forgotten change nothing in the state.
const GRAIN_MS: i64 = 3600 * 1000;

/// A producer, by when it was last used.
type Used = (TimestampMs, ProducerKey);

/// All producers in the order of their last use: of the log, and of each topic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ByUse {
    all: BTreeSet<Used>,
    of_topic: BTreeMap<TopicId, BTreeSet<Used>>,
    /// How many producers each topic has.
    sizes: BTreeSet<(usize, TopicId)>,
}

impl ByUse {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn insert(&mut self, used: Used) {
        if self.all.insert(used) {
            self.change(used.1.topic(), |of_topic| of_topic.insert(used));
        }
    }

    pub(super) fn remove(&mut self, used: &Used) {
        if self.all.remove(used) {
            self.change(used.1.topic(), |of_topic| of_topic.remove(used));
        }
    }

    fn change(&mut self, topic: TopicId, change: impl FnOnce(&mut BTreeSet<Used>) -> bool) {
        let of_topic = self.of_topic.entry(topic).or_default();
        self.sizes.remove(&(of_topic.len(), topic));
        change(of_topic);
        match of_topic.len() {
            0 => drop(self.of_topic.remove(&topic)),
            size => drop(self.sizes.insert((size, topic))),
        }
    }

    /// All, those that have been silent for longest first.
    pub(super) fn silent(&self) -> impl Iterator<Item = &Used> {
        self.all.iter()
    }

    /// The producers that make room for `count` others: each of the topic that has the most left, the one that has been
    /// silent for longest, except those that are to be kept.
    pub(super) fn crowded(&self, count: usize, is_kept: impl Fn(&ProducerKey) -> bool) -> Vec<Used> {
        let mut found = Vec::new();
        let mut waiting = self.sizes.iter().rev().peekable();
        // The topics that are the largest, or were before they gave some up, with what they have left.
        let mut largest: BinaryHeap<(usize, TopicId)> = BinaryHeap::new();
        let mut of_topic: HashMap<TopicId, btree_set::Iter<'_, Used>> = HashMap::new();
        while found.len() < count {
            while let Some((size, topic)) = waiting.peek()
                && largest.peek().is_none_or(|(most, _)| most < size)
            {
                largest.push((*size, *topic));
                of_topic.insert(*topic, self.of_topic[topic].iter());
                waiting.next();
            }
            let Some((size, topic)) = largest.pop() else {
                return found;
            };
            let rest = of_topic.get_mut(&topic);
            let next = rest.and_then(|rest| rest.find(|(_, key)| !is_kept(key)));
            if let Some(used) = next {
                found.push(*used);
                largest.push((size - 1, topic));
            }
        }
        found
    }
}

/// Until when unknown producers of a topic may be ones that were forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    until: BTreeMap<TopicId, TimestampMs>,
    /// What the round changes.
    round: BTreeMap<TopicId, TimestampMs>,
}

impl Forgotten {
    /// Loads what the state holds of `topics`. Returns the keys that are to be removed from it, and how many cannot be read.
    pub(super) fn load(state: &State, topics: &HashSet<TopicId>) -> (Self, Vec<Vec<u8>>, usize) {
        let (mut forgotten, mut gone, mut wrong) = (Self::default(), Vec::new(), 0);
        for (key, value) in state.prefix(&PREFIX) {
            match (decode_key(&key), decode_value(&value)) {
                (Some(topic), Some(until)) if topics.contains(&topic) => {
                    forgotten.until.insert(topic, until);
                }
                (Some(_), Some(_)) => gone.push(key.into()),
                _ => {
                    wrong += 1;
                    gone.push(key.into());
                }
            }
        }
        (forgotten, gone, wrong)
    }

    /// Whether a producer of the topic may have been forgotten that would still be remembered.
    pub(super) fn may_have(&self, topic: TopicId, now: TimestampMs) -> bool {
        self.until.get(&topic).is_some_and(|until| now < *until)
    }

    /// Notes that the round forgets a producer of the topic, which would have been remembered until then.
    pub(super) fn forget(&mut self, topic: TopicId, until: TimestampMs) {
        let until = until.get().saturating_add(GRAIN_MS - 1);
        let until = TimestampMs(until - until.rem_euclid(GRAIN_MS));
        let noted = self.round.get(&topic).or_else(|| self.until.get(&topic));
        if noted.is_none_or(|noted| *noted < until) {
            self.round.insert(topic, until);
        }
    }

    /// The round's changes of the state.
    pub(super) fn changes(&self) -> impl Iterator<Item = StateChange> {
        self.round
            .iter()
            .map(|(topic, until)| StateChange::set(encode_key(*topic), encode_value(*until)))
    }

    /// Keeps the round's changes.
    pub(super) fn publish(&mut self) {
        self.until.append(&mut self.round);
    }

    /// Drops the round's changes.
    pub(super) fn forget_round(&mut self) {
        self.round.clear();
    }

    /// Forgets a deleted topic; returns the key that is to be removed from the state, if there is one.
    pub(super) fn forget_topic(&mut self, topic: TopicId) -> Option<Vec<u8>> {
        self.until.remove(&topic).map(|_| encode_key(topic))
    }
}

fn encode_key(topic: TopicId) -> Vec<u8> {
    [&PREFIX[..], &topic.0.to_be_bytes()].concat()
}

fn decode_key(key: &[u8]) -> Option<TopicId> {
    let topic = key.strip_prefix(&PREFIX)?.try_into().ok()?;
    Some(TopicId(u64::from_be_bytes(topic)))
}

fn encode_value(until: TimestampMs) -> Vec<u8> {
    [&[VERSION][..], &until.get().to_le_bytes()].concat()
}

fn decode_value(value: &[u8]) -> Option<TimestampMs> {
    let mut fields = Fields::new(value);
    let version = fields.u8()?;
    let until = TimestampMs(fields.i64()?);
    (version == VERSION && fields.is_empty()).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PartitionId;

    fn used(topic: u64, ms: i64) -> Used {
        let partition = PartitionId::new(TopicId(topic), 0);
        (TimestampMs(ms), ProducerKey::new(partition, ms))
    }

    fn times(found: &[Used]) -> Vec<(u64, i64)> {
        found
            .iter()
            .map(|(used, key)| (key.topic().0, used.get()))
            .collect()
    }

    #[test]
    fn the_largest_topics_give_up_their_most_silent_producers_and_small_ones_none() {
        let mut by_use = ByUse::default();
        // Topic 1 has the oldest producers, topic 2 the most.
        for (topic, range) in [(1, 0..3), (2, 10..16), (3, 20..25)] {
            range.for_each(|ms| by_use.insert(used(topic, ms)));
        }
        let found = by_use.crowded(4, |_| false);
        assert_eq!(times(&found), [(2, 10), (2, 11), (3, 20), (3, 21)]);
        let kept = by_use.crowded(2, |key| *key == used(2, 10).1);
        assert_eq!(times(&kept), [(2, 11), (2, 12)]);
        assert_eq!(by_use.crowded(100, |_| false).len(), 14, "no more than there are");
        for (topic, range) in [(1, 0..3), (2, 10..16), (3, 20..25)] {
            range.for_each(|ms| by_use.remove(&used(topic, ms)));
        }
        assert_eq!(by_use, ByUse::default());
    }

    #[test]
    fn what_is_kept_of_forgotten_producers_survives_and_ends() {
        let (topic, other) = (TopicId(3), TopicId(4));
        let mut forgotten = Forgotten::default();
        forgotten.forget(topic, TimestampMs(GRAIN_MS + 1));
        assert!(
            !forgotten.may_have(topic, TimestampMs(0)),
            "the round is not durable"
        );
        let mut state = State::default();
        for change in forgotten.changes() {
            state.apply(&change.key, change.value.as_deref());
        }
        forgotten.publish();
        forgotten.forget(topic, TimestampMs(2 * GRAIN_MS));
        assert_eq!(forgotten.changes().count(), 0, "it is noted until then");
        let (loaded, gone, wrong) = Forgotten::load(&state, &HashSet::from([topic]));
        assert_eq!((gone.len(), wrong), (0, 0));
        for forgotten in [&forgotten, &loaded] {
            assert!(forgotten.may_have(topic, TimestampMs(2 * GRAIN_MS - 1)));
            assert!(!forgotten.may_have(topic, TimestampMs(2 * GRAIN_MS)));
            assert!(!forgotten.may_have(other, TimestampMs(0)));
        }
        state.apply(&[&PREFIX[..], b"cut"].concat(), Some(b""));
        let (_, gone, wrong) = Forgotten::load(&state, &HashSet::new());
        assert_eq!((gone.len(), wrong), (2, 1));
        assert_eq!(forgotten.forget_topic(topic), Some(encode_key(topic)));
        assert_eq!(forgotten.forget_topic(topic), None);
    }
}
