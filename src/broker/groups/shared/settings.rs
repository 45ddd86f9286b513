//! The settings that a group's first member chose for all, and how they are stored with the group's kind.
//!
//! ```text
//! key    'g' group                                    (see [`super::super::offsets`])
//! value  version=1                                    an ordered group without filter, or one of which only offsets are known
//! value  version=4 kind=0 filter                      an ordered group with a filter
//! value  version=4 kind=1 order:u8 queue filter       a shared group with an order or a filter
//! value  version=3 kind=1 queue                       a shared group with neither
//! value  version=2 kind=1 lease_ms:u32 max_deliveries:u16 length:u8 dead_letter_topic    the same, made by version 0.1.0
//! queue  created_at:i64 lease_ms:u32 max_deliveries:u16 length:u8 dead_letter_topic
//! filter count:u8 { length:u16 field length:u16 pattern }    sorted by field and pattern; count 0: no filter
//! ```
//!
//! Numbers are big-endian. Length 0 of the topic: none was chosen, and each topic has its own dead letter topic. Order 0:
//! none; 1: by key.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::live::GroupType;
use crate::broker::engine::TimestampMs;
use crate::broker::filter::Filter;
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
const VERSION_FILTER: u8 = 4;
const KIND_ORDERED: u8 = 0;
const KIND_SHARED: u8 = 1;

/// In which order a shared group leases the records of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they are free.
    #[default]
    None,
    /// A key's next record only when the one before it is settled.
    Key,
}

impl Order {
    /// The name in requests and answers; `None` has none.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Key => Some("key"),
        }
    }
}

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
    /// The order of the records within a partition.
    pub order: Order,
    /// The records that the group gets; open: all.
    pub filter: Arc<Filter>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            max_deliveries: 5,
            dead_letter_topic: None,
            created_at: TimestampMs(0),
            order: Order::None,
            filter: Arc::default(),
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
    /// An ordered group, or one that only has commits: they look the same. With the records that it gets; open: all.
    Ordered(Arc<Filter>),
    /// A shared group.
    Shared(Settings),
}

/// Bytes that this version does not write: the state is damaged, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group in the state is not readable: {0}")]
pub struct Unreadable(&'static str);

impl Default for GroupValue {
    /// An ordered group without filter.
    fn default() -> Self {
        Self::Ordered(Arc::default())
    }
}

impl GroupValue {
    /// How the group's members share the records.
    pub const fn kind(&self) -> GroupType {
        match self {
            Self::Ordered(_) => GroupType::Ordered,
            Self::Shared(_) => GroupType::Shared,
        }
    }

    /// The records that the group gets; open: all.
    pub const fn filter(&self) -> &Arc<Filter> {
        match self {
            Self::Ordered(filter) => filter,
            Self::Shared(settings) => &settings.filter,
        }
    }

    /// The topic that the group named for its dead letters.
    pub fn dead_letter_topic(&self) -> Option<&str> {
        match self {
            Self::Ordered(_) => None,
            Self::Shared(settings) => settings.dead_letter_topic.as_deref(),
        }
    }

    /// The encoded value. [Check](Settings::check) the settings first.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ordered(filter) if filter.is_open() => vec![VERSION_ORDERED],
            Self::Ordered(filter) => {
                let mut value = vec![VERSION_FILTER, KIND_ORDERED];
                push_filter(&mut value, filter);
                value
            }
            // As the versions without order and filter write it: they can still read it.
            Self::Shared(settings) if settings.order == Order::None && settings.filter.is_open() => {
                let mut value = vec![VERSION_CREATED, KIND_SHARED];
                push_queue(&mut value, settings);
                value
            }
            Self::Shared(settings) => {
                let mut value = vec![VERSION_FILTER, KIND_SHARED, settings.order as u8];
                push_queue(&mut value, settings);
                push_filter(&mut value, &settings.filter);
                value
            }
        }
    }

    /// Decodes a value.
    ///
    /// # Errors
    /// [`Unreadable`]: report it; no member can join the group, because its kind is unknown.
    pub fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = value;
        let [version] = take(&mut rest).map_err(|_| Unreadable("it is empty"))?;
        let value = match version {
            VERSION_ORDERED => Self::default(),
            VERSION_KINDS | VERSION_CREATED | VERSION_FILTER => {
                let has_filter = version == VERSION_FILTER;
                match take(&mut rest)? {
                    [KIND_ORDERED] if has_filter => Self::Ordered(take_filter(&mut rest)?),
                    [KIND_SHARED] => Self::Shared(take_shared(&mut rest, version)?),
                    _ => return Err(Unreadable("its kind is unknown")),
                }
            }
            _ => return Err(Unreadable("its version is not 1, 2, 3 or 4")),
        };
        match rest {
            [] => Ok(value),
            _ => Err(Unreadable("bytes follow it")),
        }
    }
}

/// Appends the settings that are as old as shared groups.
fn push_queue(value: &mut Vec<u8>, settings: &Settings) {
    let topic = settings.dead_letter_topic.as_deref().unwrap_or_default();
    let max_deliveries = u16::try_from(settings.max_deliveries).expect("checked to be small");
    let length = u8::try_from(topic.len()).expect("a topic's name has at most 249 bytes");
    value.extend_from_slice(&settings.created_at.get().to_be_bytes());
    value.extend_from_slice(&settings.lease_ms.to_be_bytes());
    value.extend_from_slice(&max_deliveries.to_be_bytes());
    value.push(length);
    value.extend_from_slice(topic.as_bytes());
}

fn push_filter(value: &mut Vec<u8>, filter: &Filter) {
    let fields = filter.fields();
    let count = fields.values().map(Vec::len).sum::<usize>();
    value.push(u8::try_from(count).expect("a filter has at most 100 patterns"));
    for (field, patterns) in &fields {
        for pattern in patterns {
            for text in [field, pattern] {
                let length = u16::try_from(text.len()).expect("a filter has at most 16 KiB");
                value.extend_from_slice(&length.to_be_bytes());
                value.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// Takes the next bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (taken, after) = rest.split_first_chunk().ok_or(Unreadable("it is too short"))?;
    *rest = after;
    Ok(*taken)
}

fn take_text<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a str, Unreadable> {
    let (text, after) = rest
        .split_at_checked(length)
        .ok_or(Unreadable("it is too short"))?;
    *rest = after;
    std::str::from_utf8(text).map_err(|_| Unreadable("a text in it is not UTF-8"))
}

fn take_shared(rest: &mut &[u8], version: u8) -> Result<Settings, Unreadable> {
    let order = match version {
        VERSION_FILTER => match take(rest)? {
            [0] => Order::None,
            [1] => Order::Key,
            _ => return Err(Unreadable("its order is unknown")),
        },
        _ => Order::None,
    };
    let created_at = match version {
        VERSION_KINDS => 0,
        _ => i64::from_be_bytes(take(rest)?),
    };
    let lease_ms = u32::from_be_bytes(take(rest)?);
    let max_deliveries = u16::from_be_bytes(take(rest)?).into();
    let [length] = take(rest)?;
    let topic = take_text(rest, length.into())?;
    let settings = Settings {
        lease_ms,
        max_deliveries,
        dead_letter_topic: (!topic.is_empty()).then(|| topic.to_owned()),
        created_at: TimestampMs(created_at),
        order,
        filter: match version {
            VERSION_FILTER => take_filter(rest)?,
            _ => Arc::default(),
        },
    };
    match settings.check([]) {
        Ok(()) => Ok(settings),
        Err(_) => Err(Unreadable("a setting is out of range")),
    }
}

fn take_filter(rest: &mut &[u8]) -> Result<Arc<Filter>, Unreadable> {
    let [count] = take(rest)?;
    if count == 0 {
        return Ok(Arc::default());
    }
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..count {
        let length = u16::from_be_bytes(take(rest)?);
        let field = take_text(rest, length.into())?;
        let length = u16::from_be_bytes(take(rest)?);
        let pattern = take_text(rest, length.into())?;
        fields
            .entry(field.to_owned())
            .or_default()
            .push(pattern.to_owned());
    }
    let filter = Filter::from_fields(&fields);
    filter.map(Arc::new).map_err(|_| Unreadable("its filter is none"))
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
            ..Settings::default()
        })
    }

    fn filter(fields: &[(&str, &str)]) -> Arc<Filter> {
        let pairs = fields.iter();
        let pairs = pairs.map(|(field, pattern)| ((*field).to_owned(), vec![(*pattern).to_owned()]));
        Arc::new(Filter::from_fields(&pairs.collect()).unwrap())
    }

    #[test]
    fn a_group_comes_back_as_it_was_and_every_cut_of_it_is_an_error() {
        let long = "n".repeat(249);
        for value in [
            GroupValue::Shared(Settings::default()),
            shared_with(None),
            shared_with(Some("dead")),
            shared_with(Some(&long)),
            GroupValue::Ordered(filter(&[("key", "c7"), ("header.type", "order.*")])),
            GroupValue::Shared(Settings {
                order: Order::Key,
                ..Settings::default()
            }),
            GroupValue::Shared(Settings {
                filter: filter(&[("header.a", "")]),
                dead_letter_topic: Some("dead".to_owned()),
                ..Settings::default()
            }),
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
        assert_eq!(GroupValue::default().encode(), [1]);
        assert_eq!(GroupValue::decode(&[1]), Ok(GroupValue::default()));
        let ordered = GroupValue::Ordered(filter(&[("key", "c7"), ("header.t", "a.*")]));
        let expected = b"\x04\0\x02\0\x08header.t\0\x03a.*\0\x03key\0\x02c7";
        assert_eq!(ordered.encode(), expected);
        let GroupValue::Shared(plain) = shared_with(Some("dead")) else {
            panic!("a shared group");
        };
        let keyed = GroupValue::Shared(Settings {
            order: Order::Key,
            filter: filter(&[("key", "c7")]),
            ..plain
        });
        let expected = b"\x04\x01\x01\0\0\0\0\0\0\0\x05\0\0\x01\x02\x03\x04\x04dead\x01\0\x03key\0\x02c7";
        assert_eq!(keyed.encode(), expected);
        let made = super::super::super::offsets::make_group("g").value.unwrap();
        assert_eq!(GroupValue::decode(&made), Ok(GroupValue::default()));
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
            &[5],
            &[3, 0, 0],
            &[4, 0],
            &[4, 2, 0],
            &[4, 0, 1, 0, 3, b'k', b'e', b'z', 0, 1, b'a'],
            &[4, 0, 1, 0, 3, b'k', b'e', b'y', 0, 2, b'a', b'*'],
            &[4, 0, 1, 0, 3, b'k', b'e', b'y', 0, 1, 0xff],
            &[4, 1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 1, 2, 3, 4, 0, 0],
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
