//! The settings that a shared group's first member chose for all, and how a group's kind is stored.
//!
//! ```text
//! key    'g' group                                    (see [`super::super::offsets`])
//! value  version=1                                    an ordered group, or one of which only offsets are known
//! value  version=3 kind=1 created_at:i64 lease_ms:u32 max_deliveries:u16 length:u8 dead_letter_topic    a shared group
//! value  version=2 kind=1 lease_ms:u32 max_deliveries:u16 length:u8 dead_letter_topic    the same, made by version 0.1.0
//! ```
//!
//! Numbers are big-endian. Length 0: no topic was chosen, and each topic has its own dead letter topic.

use super::super::live::GroupType;
use crate::broker::engine::TimestampMs;
use crate::broker::names::TOPIC;

/// The shortest lease, in milliseconds: a shorter one would end before its answer arrives.
pub const MIN_LEASE_MS: u32 = 100;
/// The longest lease, in milliseconds: 12 hours. Longer work extends its lease.
pub const MAX_LEASE_MS: u32 = 12 * 60 * 60 * 1000;
/// The most deliveries of a record that a group may set.
pub const MAX_DELIVERIES: u32 = 1000;

/// The suffix of a topic's name in its dead letter topic.
const DEAD_LETTER_SUFFIX: &str = ".dlq";

const VERSION_ORDERED: u8 = 1;
const VERSION_KINDS: u8 = 2;
const VERSION_CREATED: u8 = 3;
const KIND_SHARED: u8 = 1;

/// The settings of a shared group, compared as a whole: all its members have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a lease lasts, in milliseconds; from [`MIN_LEASE_MS`] to [`MAX_LEASE_MS`].
    pub lease_ms: u32,
    /// A record delivered this often without being settled is dead-lettered; from 1 to [`MAX_DELIVERIES`].
    pub max_deliveries: u32,
    /// The dead letter topic; `None`: one for each topic, see [`Settings::dead_letter_topic_of`].
    pub dead_letter_topic: Option<String>,
    /// When the group was made: earlier dead letters belong to another group of the same name.
    pub created_at: TimestampMs,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            max_deliveries: 5,
            dead_letter_topic: None,
            created_at: TimestampMs(0),
        }
    }
}

/// A setting that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {detail}")]
pub struct Unfit {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl Settings {
    /// Checks the numbers, and the dead letters' topic for a group that reads `topics`.
    ///
    /// # Errors
    /// [`Unfit`]: the first setting that is out of range, or a dead letter topic that the group reads, because dead
    /// letters would go round in a circle.
    pub fn check<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> Result<(), Unfit> {
        let unfit = |field, detail: String| Err(Unfit { field, detail });
        if !(MIN_LEASE_MS..=MAX_LEASE_MS).contains(&self.lease_ms) {
            let detail = format!(
                "must be from {MIN_LEASE_MS} to {MAX_LEASE_MS}, not {}",
                self.lease_ms
            );
            return unfit("lease_ms", detail);
        }
        if !(1..=MAX_DELIVERIES).contains(&self.max_deliveries) {
            let detail = format!("must be from 1 to {MAX_DELIVERIES}, not {}", self.max_deliveries);
            return unfit("max_deliveries", detail);
        }
        if let Some(name) = &self.dead_letter_topic
            && TOPIC.check(name).is_err()
        {
            return unfit(
                "dead_letter_topic",
                format!("must be a topic's name, not {name:?}"),
            );
        }
        for topic in topics {
            if self.dead_letter_topic.as_deref() == Some(topic) {
                return unfit(
                    "dead_letter_topic",
                    format!("must not be a topic that the group reads: {topic}"),
                );
            }
            let name = self.dead_letter_topic_of(topic);
            if TOPIC.check(&name).is_err() {
                return unfit(
                    "dead_letter_topic",
                    format!(
                        "must be given, because {topic} has no room for {DEAD_LETTER_SUFFIX} in its name"
                    ),
                );
            }
        }
        Ok(())
    }

    /// The dead letter topic of a topic.
    pub fn dead_letter_topic_of(&self, topic: &str) -> String {
        match &self.dead_letter_topic {
            Some(name) => name.clone(),
            None => format!("{topic}{DEAD_LETTER_SUFFIX}"),
        }
    }
}

/// The value of a group's key in the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupValue {
    /// An ordered group, or one that only has commits: they look the same.
    Ordered,
    /// A shared group.
    Shared(Settings),
}

/// Bytes that this version does not write: the state is damaged, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group in the state is not readable: {0}")]
pub struct Unreadable(&'static str);

impl GroupValue {
    /// How the group's members share the records.
    pub const fn kind(&self) -> GroupType {
        match self {
            Self::Ordered => GroupType::Ordered,
            Self::Shared(_) => GroupType::Shared,
        }
    }

    /// The encoded value. [Check](Settings::check) the settings first.
    pub fn encode(&self) -> Vec<u8> {
        let Self::Shared(settings) = self else {
            return vec![VERSION_ORDERED];
        };
        let topic = settings.dead_letter_topic.as_deref().unwrap_or_default();
        let max_deliveries = u16::try_from(settings.max_deliveries).expect("checked to be small");
        let length = u8::try_from(topic.len()).expect("a topic's name has at most 249 bytes");
        let mut value = vec![VERSION_CREATED, KIND_SHARED];
        value.extend_from_slice(&settings.created_at.get().to_be_bytes());
        value.extend_from_slice(&settings.lease_ms.to_be_bytes());
        value.extend_from_slice(&max_deliveries.to_be_bytes());
        value.push(length);
        value.extend_from_slice(topic.as_bytes());
        value
    }

    /// Decodes a value.
    ///
    /// # Errors
    /// [`Unreadable`]: report it; no member can join the group, because its kind is unknown.
    pub fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        let (&version, rest) = value.split_first().ok_or(Unreadable("it is empty"))?;
        match version {
            VERSION_ORDERED if rest.is_empty() => Ok(Self::Ordered),
            VERSION_ORDERED => Err(Unreadable("bytes follow it")),
            VERSION_KINDS => shared(rest, false).map(Self::Shared),
            VERSION_CREATED => shared(rest, true).map(Self::Shared),
            _ => Err(Unreadable("its version is not 1, 2 or 3")),
        }
    }
}

fn shared(rest: &[u8], has_time: bool) -> Result<Settings, Unreadable> {
    let short = Unreadable("it is too short");
    let (&kind, rest) = rest.split_first().ok_or(short)?;
    if kind != KIND_SHARED {
        return Err(Unreadable("its kind is unknown"));
    }
    let (created_at, rest) = match has_time {
        true => rest.split_first_chunk::<8>().ok_or(short)?,
        false => (&[0; 8], rest),
    };
    let (lease_ms, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
    let (max_deliveries, rest) = rest.split_first_chunk::<2>().ok_or(short)?;
    let (&length, topic) = rest.split_first().ok_or(short)?;
    if topic.len() < length.into() {
        return Err(short);
    }
    if topic.len() > length.into() {
        return Err(Unreadable("bytes follow it"));
    }
    let topic = std::str::from_utf8(topic).map_err(|_| Unreadable("its dead letters' topic is not UTF-8"))?;
    let settings = Settings {
        lease_ms: u32::from_be_bytes(*lease_ms),
        max_deliveries: u16::from_be_bytes(*max_deliveries).into(),
        dead_letter_topic: (!topic.is_empty()).then(|| topic.to_owned()),
        created_at: TimestampMs(i64::from_be_bytes(*created_at)),
    };
    match settings.check([]) {
        Ok(()) => Ok(settings),
        Err(_) => Err(Unreadable("a setting is out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared_with(topic: Option<&str>) -> GroupValue {
        GroupValue::Shared(Settings {
            lease_ms: 258,
            max_deliveries: 772,
            dead_letter_topic: topic.map(str::to_owned),
            created_at: TimestampMs(5),
        })
    }

    #[test]
    fn a_group_comes_back_as_it_was_and_every_cut_of_it_is_an_error() {
        let long = "n".repeat(249);
        for value in [
            GroupValue::Shared(Settings::default()),
            shared_with(None),
            shared_with(Some("dead")),
            shared_with(Some(&long)),
        ] {
            let bytes = value.encode();
            assert_eq!(GroupValue::decode(&bytes), Ok(value));
            for length in 0..bytes.len() {
                assert!(GroupValue::decode(&bytes[..length]).is_err(), "{length}");
            }
            let longer = [&bytes[..], b"x"].concat();
            assert_eq!(GroupValue::decode(&longer), Err(Unreadable("bytes follow it")));
        }
    }

    #[test]
    fn the_layouts_do_not_change() {
        assert_eq!(GroupValue::Ordered.encode(), [1]);
        assert_eq!(GroupValue::decode(&[1]), Ok(GroupValue::Ordered));
        let made = super::super::super::offsets::make_group("g").value.unwrap();
        assert_eq!(GroupValue::decode(&made), Ok(GroupValue::Ordered));
        let found = shared_with(Some("dead")).encode();
        let mut expected = vec![3, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 1, 2, 3, 4, 4];
        expected.extend_from_slice(b"dead");
        assert_eq!(found, expected);
        let old = [2, 1, 0, 0, 1, 2, 3, 4, 4, b'd', b'e', b'a', b'd'];
        let GroupValue::Shared(settings) = GroupValue::decode(&old).unwrap() else {
            panic!("a shared group");
        };
        let GroupValue::Shared(expected) = shared_with(Some("dead")) else {
            panic!("a shared group");
        };
        assert_eq!(
            settings,
            Settings {
                created_at: TimestampMs(0),
                ..expected
            }
        );
    }

    #[test]
    fn values_that_no_version_writes_are_refused() {
        for bytes in [
            &[][..],
            &[1, 0],
            &[4],
            &[3, 1, 0, 0, 0, 0, 0, 0, 0],
            &[2, 2, 0, 0, 1, 2, 0, 5, 0],
            &[2, 1, 0, 0, 0, 99, 0, 5, 0],
            &[2, 1, 0, 0, 1, 2, 0, 0, 0],
            &[2, 1, 0, 0, 1, 2, 3, 0xe9, 0],
            &[2, 1, 0, 0, 1, 2, 0, 5, 1, 0xff],
            &[2, 1, 0, 0, 1, 2, 0, 5, 1, b'/'],
        ] {
            assert!(GroupValue::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn every_setting_takes_its_bounds_and_nothing_beyond_them() {
        let with = |lease_ms, max_deliveries| Settings {
            lease_ms,
            max_deliveries,
            ..Settings::default()
        };
        for good in [with(100, 1), with(43_200_000, 1000), Settings::default()] {
            assert_eq!(good.check(["orders"]), Ok(()));
        }
        for (bad, field) in [
            (with(99, 1), "lease_ms"),
            (with(43_200_001, 1), "lease_ms"),
            (with(100, 0), "max_deliveries"),
            (with(100, 1001), "max_deliveries"),
        ] {
            assert_eq!(bad.check(["orders"]).unwrap_err().field, field);
        }
    }

    #[test]
    fn dead_letters_never_go_where_they_came_from_nor_to_a_name_that_no_topic_can_have() {
        let to = |topic: &str| Settings {
            dead_letter_topic: Some(topic.to_owned()),
            ..Settings::default()
        };
        let long = "n".repeat(246);
        assert_eq!(to("dead").dead_letter_topic_of("orders"), "dead");
        assert_eq!(Settings::default().dead_letter_topic_of("orders"), "orders.dlq");
        assert!(to("dead").check(["orders", &long]).is_ok());
        assert!(to("orders").check(["trades", "orders"]).is_err());
        assert!(to("a b").check([]).is_err());
        assert!(Settings::default().check([long.as_str()]).is_err());
        assert!(Settings::default().check(["n".repeat(245).as_str()]).is_ok());
    }
}
