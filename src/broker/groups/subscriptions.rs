//! The topics that a group has subscribed to, in the engine's durable state.
//!
//! ```text
//! key    't' group 0x00 topic_id:u64       the group has subscribed to the topic     (numbers big-endian)
//! value  version=1 subscribed_at:i64
//!
//! key    'p' group 0x00 pattern             the group has subscribed to a pattern of topics
//! value  version=1 subscribed_at:i64
//! ```
//!
//! The first join that names a topic writes its entry, in the append that also commits where the group starts. Lag
//! needs the entry: members do not survive a restart or their own crash, so before the group's first commit only the
//! entry says that the group still has to read these records.
//!
//! The entry also makes `start` count once. If `start` is not `earliest`, the starting offset of every partition is
//! committed together with the entry; a partition without a committed offset is read from its log start. So the `start`
//! of a later join changes nothing in a topic that has an entry or a committed offset.
//!
//! A pattern has an entry of its own, written in the same append as those of the topics that match it then. So `start`
//! counts for these topics only: a topic made later is read from its beginning, even if nobody was a member when it was
//! made. Its own entry follows with the next poll; until then the pattern's entry puts it into the lag.
//!
//! A committed offset without an entry (a commit without membership; data of version 0.1.0) counts as a subscription too.

use std::collections::BTreeSet;

use super::offsets;
use crate::broker::engine::{Log, StateChange, TimestampMs, TopicId};
use crate::broker::state_keys::{PATTERN, SUBSCRIPTION};
use crate::formats::pattern::Pattern;

const VERSION: u8 = 1;

/// The change that subscribes a group to a topic.
pub fn subscribe(group: &str, topic: TopicId, now: TimestampMs) -> StateChange {
    StateChange::set(subscription_key(group, topic), encode(now))
}

/// The change that subscribes a group to a pattern.
pub fn subscribe_to_pattern(group: &str, pattern: &str, now: TimestampMs) -> StateChange {
    StateChange::set(pattern_key(group, pattern), encode(now))
}

fn encode(now: TimestampMs) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&now.get().to_be_bytes());
    value
}

/// When the group subscribed; `None` for a value that this version does not write.
pub fn subscribed_at(value: &[u8]) -> Option<TimestampMs> {
    let (&VERSION, time) = value.split_first()? else {
        return None;
    };
    Some(TimestampMs(i64::from_be_bytes(time.try_into().ok()?)))
}

/// The prefix of the keys of a group's subscriptions.
pub fn subscriptions_prefix(group: &str) -> Vec<u8> {
    [&[SUBSCRIPTION], group.as_bytes(), &[0]].concat()
}

/// The key of a group's subscription to a topic.
pub fn subscription_key(group: &str, topic: TopicId) -> Vec<u8> {
    [&subscriptions_prefix(group)[..], &topic.0.to_be_bytes()].concat()
}

/// The prefix of the keys of a group's patterns.
pub fn patterns_prefix(group: &str) -> Vec<u8> {
    [&[PATTERN], group.as_bytes(), &[0]].concat()
}

/// The key of a group's subscription to a pattern.
pub fn pattern_key(group: &str, pattern: &str) -> Vec<u8> {
    [&patterns_prefix(group)[..], pattern.as_bytes()].concat()
}

/// The pattern of a key that [`pattern_key`] made.
pub fn pattern_of_key(key: &[u8]) -> Option<Pattern> {
    let group = key.strip_prefix(&[PATTERN])?;
    let end = group.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&group[end + 1..]).ok()?.parse().ok()
}

/// The patterns that a group has subscribed to.
pub fn patterns(log: &Log, group: &str) -> Vec<Pattern> {
    let entries = log.state_prefix(&patterns_prefix(group)).into_iter();
    entries.filter_map(|(key, _)| pattern_of_key(&key)).collect()
}

/// Whether a group has subscribed to a pattern.
pub fn knows_pattern(log: &Log, group: &str, pattern: &str) -> bool {
    log.state_get(&pattern_key(group, pattern)).is_some()
}

/// The topic of a key that [`subscription_key`] made.
pub fn topic_of_key(key: &[u8]) -> Option<TopicId> {
    let (before, id) = key.split_last_chunk::<8>()?;
    let is_key = before.first() == Some(&SUBSCRIPTION) && before.last() == Some(&0);
    is_key.then(|| TopicId(u64::from_be_bytes(*id)))
}

/// The topics that have an entry, without deleted topics.
pub fn topics(log: &Log, group: &str) -> BTreeSet<TopicId> {
    let entries = log.state_prefix(&subscriptions_prefix(group)).into_iter();
    entries
        .filter_map(|(key, _)| topic_of_key(&key))
        .filter(|topic| log.topic_by_id(*topic).is_some())
        .collect()
}

/// What a group has subscribed to: names of topics that are not deleted, and patterns; sorted.
pub fn names(log: &Log, group: &str) -> Vec<String> {
    let topics = topics(log, group).into_iter();
    let topics = topics.filter_map(|topic| Some(log.topic_by_id(topic)?.name().to_owned()));
    let patterns = patterns(log, group).into_iter();
    let mut names: Vec<String> = topics
        .chain(patterns.map(|pattern| pattern.to_string()))
        .collect();
    names.sort_unstable();
    names
}

/// Whether the group has begun in a topic: it has an entry, or a committed offset.
pub fn has_begun(log: &Log, group: &str, topic: TopicId) -> bool {
    log.state_get(&subscription_key(group, topic)).is_some()
        || !log.state_prefix(&offsets::topic_prefix(group, topic)).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_version_1_does_not_change() {
        let entry = subscribe("billing", TopicId(258), TimestampMs(1_357_035_420_000));
        assert_eq!(entry.key, b"tbilling\0\0\0\0\0\0\0\x01\x02");
        let value = entry.value.unwrap();
        assert_eq!(value, [1, 0, 0, 1, 0x3b, 0xf5, 0x9d, 0x39, 0x60]);
        assert_eq!(subscribed_at(&value), Some(TimestampMs(1_357_035_420_000)));
        assert_eq!(topic_of_key(&entry.key), Some(TopicId(258)));
        for unreadable in [&value[..8], &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[]] {
            assert_eq!(subscribed_at(unreadable), None, "{unreadable:?}");
        }
        assert_eq!(topic_of_key(b"t\0short"), None);
        let entry = subscribe_to_pattern("billing", "orders.*", TimestampMs(1_357_035_420_000));
        assert_eq!(entry.key, b"pbilling\0orders.*");
        assert_eq!(entry.value.unwrap(), value);
        let pattern = pattern_of_key(&entry.key).map(|pattern| pattern.to_string());
        assert_eq!(pattern.as_deref(), Some("orders.*"));
        for wrong in [
            &b"pbilling"[..],
            b"tbilling\0orders.*",
            b"pbilling\0a*",
            b"pbilling\0\xff",
        ] {
            assert_eq!(pattern_of_key(wrong), None, "{wrong:?}");
        }
    }
}
