//! Topics as clients see them: names, configuration, identity.
//!
//! The engine knows partitions, segments and retention; the rest of a topic's configuration means something to the
//! service only and is stored with the topic as *properties*. A configuration key is stored only if it was set; a
//! missing one has its default, even if a later version changes the default.
//!
//! [`KEYS`] is the one table of the keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::changes::{self, CLEANUP_POLICY, Changes, deletes};
use crate::broker::engine::batch::Codec;
use crate::broker::engine::{Ack, Log, Topic, TopicId, TopicSettings, TopicSpec};
use crate::broker::names;
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::partitioner;

/// A configuration key of a topic.
#[derive(Debug)]
pub struct ConfigKey {
    /// The name in JSON; Kafka's name if Kafka has the setting.
    pub name: &'static str,
    /// What it does, with the unit.
    pub about: &'static str,
    /// The values that it takes.
    pub kind: Kind,
}

/// The values of a configuration key.
#[derive(Debug)]
pub enum Kind {
    /// A whole number in `low..=high`; without a default it may be missing, and is shown as null.
    Number {
        /// The smallest.
        low: u64,
        /// The largest.
        high: u64,
        /// The value if it is not set.
        default: Option<u64>,
    },
    /// One of a list of words.
    Word {
        /// The words.
        allowed: &'static [&'static str],
        /// The value if it is not set.
        default: &'static str,
    },
    /// True or false; false unless set.
    Flag,
}

const MIB: u64 = 1 << 20;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const RETENTION_MS: &str = "retention_ms";
const RETENTION_BYTES: &str = "retention_bytes";
const SEGMENT_BYTES: &str = "segment_bytes";
const SEGMENT_MS: &str = "segment_ms";
const MAX_RECORD_BYTES: &str = "max_record_bytes";
const TIMESTAMP_TYPE: &str = "timestamp_type";
const COMPRESSION_TYPE: &str = "compression_type";
const ACK: &str = "ack";
const DEDUPE_WINDOW_MS: &str = "dedupe_window_ms";
const DELETE_PROTECTION: &str = "delete_protection";

/// A property, not a key: partitions were added after the topic was created, so a key's records may lie in two
/// partitions.
const PARTITIONS_RAISED: &str = "partitions_raised";

const ANY: u64 = i64::MAX as u64;

/// Every configuration key, in the order in which it is shown.
pub static KEYS: &[ConfigKey] = &[
    number(
        RETENTION_MS,
        (1, ANY, None),
        "records older than this many milliseconds are deleted, whole segments at a time; null: never",
    ),
    number(
        RETENTION_BYTES,
        (1, ANY, None),
        "the oldest segments of a partition that holds more stored bytes than this are deleted; null: never",
    ),
    // A segment is mapped as a whole: the maximum is a compromise between address space and the number of files.
    number(
        SEGMENT_BYTES,
        (MIB, 1024 * MIB, Some(64 * MIB)),
        "a segment is closed before it grows beyond this many bytes",
    ),
    number(
        SEGMENT_MS,
        (1, ANY, Some(7 * DAY_MS)),
        "a segment is closed this many milliseconds of wall time after it was made",
    ),
    // No request may be larger than this, so no record is.
    number(
        MAX_RECORD_BYTES,
        (1, 32 * MIB, Some(MIB)),
        "a larger record (stored bytes) is refused",
    ),
    word(
        TIMESTAMP_TYPE,
        &["create_time", "log_append_time"],
        "whose time a record carries: the producer's, or the server's when it is appended",
    ),
    word(
        COMPRESSION_TYPE,
        &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
        "how record batches are stored: as their producers send them (those of JSON uncompressed), or always so",
    ),
    word(
        ACK,
        &["durable", "written"],
        "when a produce request without `ack` is answered: when its records are on stable storage, or when \
         the operating system has them",
    ),
    number(
        DEDUPE_WINDOW_MS,
        (1, 7 * DAY_MS, Some(600_000)),
        "for how many milliseconds an Idempotency-Key is remembered",
    ),
    ConfigKey {
        name: DELETE_PROTECTION,
        about: "whether deleting the topic or its records, and lowering its retention, is refused",
        kind: Kind::Flag,
    },
];

const fn number(
    name: &'static str,
    (low, high, default): (u64, u64, Option<u64>),
    about: &'static str,
) -> ConfigKey {
    let kind = Kind::Number { low, high, default };
    ConfigKey { name, about, kind }
}

/// A key whose default is the first of its words.
const fn word(name: &'static str, allowed: &'static [&'static str], about: &'static str) -> ConfigKey {
    let kind = Kind::Word {
        allowed,
        default: allowed[0],
    };
    ConfigKey { name, about, kind }
}

/// Keys of the contract that this version refuses.
const LATER: &[&str] = &["cleanup_policy", "key_index"];

impl ConfigKey {
    /// The default.
    pub fn default(&self) -> Value {
        match self.kind {
            Kind::Number { default, .. } => default.map_or(Value::Null, Value::from),
            Kind::Word { default, .. } => Value::from(default),
            Kind::Flag => Value::from(false),
        }
    }

    /// Checks a value that is not null.
    fn check(&self, value: &Value) -> Result<(), String> {
        let name = self.name;
        match self.kind {
            Kind::Number { low, high, .. } => match value.as_u64() {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                _ => Err(format!(
                    "{name} must be a whole number from {low} to {high}, not {value}"
                )),
            },
            Kind::Word { allowed, .. } => match value.as_str() {
                Some(word) if allowed.contains(&word) => Ok(()),
                _ => Err(format!(
                    "{name} must be one of {}, not {value}",
                    allowed.join(", ")
                )),
            },
            Kind::Flag => match value {
                Value::Bool(_) => Ok(()),
                _ => Err(format!("{name} must be true or false, not {value}")),
            },
        }
    }
}

/// The identity of a topic, unique over time and data directories: a topic recreated under the same name has another.
pub fn public_id(log: &Log, id: TopicId) -> String {
    format!("{}-{:x}", log.directory_id(), id.0)
}

/// Changes of configuration keys from a client: null restores the default.
pub type ConfigChanges = Vec<(String, Value)>;

/// The configuration of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// The properties of the topic, including the keys of [`KEYS`] that were set.
    properties: BTreeMap<String, Value>,
}

impl TopicConfig {
    /// The configuration of a topic.
    pub fn of(spec: &TopicSpec) -> Self {
        Self {
            properties: spec.properties.clone(),
        }
    }

    /// Each key with its current value, and whether it was set.
    pub fn entries(&self) -> impl Iterator<Item = (&'static ConfigKey, Value, bool)> + '_ {
        KEYS.iter().map(|key| match self.properties.get(key.name) {
            Some(value) => (key, value.clone(), true),
            None => (key, key.default(), false),
        })
    }

    /// Applies `changes`.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] for an unknown key or an invalid value, [`Reason::NotSupported`] for a key of a later
    /// version, each with a pointer below `/config`; nothing is changed.
    pub fn apply(&mut self, changes: &[(String, Value)]) -> Result<(), Refusal> {
        check_changes(changes)?;
        for (name, value) in changes {
            if value.is_null() {
                self.properties.remove(name);
            } else {
                self.properties.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }

    /// Applies all changes but that of partitions.
    ///
    /// # Errors
    /// Those of [`TopicConfig::apply`]; nothing is changed.
    fn apply_all(&mut self, changes: &Changes) -> Result<(), Refusal> {
        changes.check_kept()?;
        self.apply(&changes.config)?;
        for (name, word) in &changes.kept {
            match word {
                Some(word) => self
                    .properties
                    .insert((*name).to_owned(), Value::from(word.as_str())),
                None => self.properties.remove(*name),
            };
        }
        Ok(())
    }

    /// A word that the topic keeps, by a name of [`changes`].
    #[must_use]
    pub fn kept(&self, name: &str) -> Option<&str> {
        self.properties.get(name).and_then(Value::as_str)
    }

    /// The first of `wanted` (checked before) that differs from the current value, with that value.
    fn first_difference<'a>(&self, wanted: &'a [(String, Value)]) -> Option<(&'a str, Value)> {
        wanted.iter().find_map(|(name, wanted)| {
            let (key, current, _) = self.entries().find(|(key, ..)| key.name == name)?;
            let wanted = if wanted.is_null() {
                key.default()
            } else {
                wanted.clone()
            };
            (wanted != current).then_some((name.as_str(), current))
        })
    }

    /// The configuration as the engine needs it, with all properties.
    fn into_spec(self, partitions: u32) -> TopicSpec {
        let deletes = deletes(self.kept(CLEANUP_POLICY));
        let retention = |name| current_number(&self.properties, name).filter(|_| deletes);
        let settings = TopicSettings {
            segment_bytes: known(current_number(&self.properties, SEGMENT_BYTES)),
            segment_ms: known(current_number(&self.properties, SEGMENT_MS)),
            retention_ms: retention(RETENTION_MS),
            retention_bytes: retention(RETENTION_BYTES),
        };
        TopicSpec {
            partitions,
            settings,
            properties: self.properties,
        }
    }
}

fn check_changes(changes: &[(String, Value)]) -> Result<(), Refusal> {
    for (name, value) in changes {
        let pointer = || format!("/config/{}", name.replace('~', "~0").replace('/', "~1"));
        if LATER.contains(&name.as_str()) {
            let detail = format!("{name} is not supported by this version");
            return Err(Refusal::new(Reason::NotSupported, detail).at(pointer()));
        }
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            let detail = format!("unknown configuration key {name}; known are {}", known.join(", "));
            return Err(Refusal::invalid(pointer(), detail));
        };
        if !value.is_null() {
            key.check(value)
                .map_err(|detail| Refusal::invalid(pointer(), detail))?;
        }
    }
    Ok(())
}

fn kind_of(name: &str) -> &'static Kind {
    let key = KEYS.iter().find(|key| key.name == name);
    &key.expect("only names of the table are asked for").kind
}

/// The current number: the set value, or the default in [`KEYS`].
fn current_number(properties: &BTreeMap<String, Value>, name: &str) -> Option<u64> {
    let set = properties.get(name).and_then(Value::as_u64);
    set.or_else(|| match kind_of(name) {
        Kind::Number { default, .. } => *default,
        Kind::Word { .. } | Kind::Flag => None,
    })
}

/// The current word.
fn current_word<'a>(properties: &'a BTreeMap<String, Value>, name: &str) -> &'a str {
    let set = properties.get(name).and_then(Value::as_str);
    set.unwrap_or_else(|| match kind_of(name) {
        Kind::Word { default, .. } => default,
        Kind::Number { .. } | Kind::Flag => "",
    })
}

fn known(number: Option<u64>) -> u64 {
    number.expect("the key has a default")
}

/// The largest record of a topic, in stored bytes.
pub fn max_record_bytes(spec: &TopicSpec) -> usize {
    usize::try_from(known(current_number(&spec.properties, MAX_RECORD_BYTES))).unwrap_or(usize::MAX)
}

/// Whether records get the server's time instead of the producer's.
pub fn is_log_append_time(spec: &TopicSpec) -> bool {
    current_word(&spec.properties, TIMESTAMP_TYPE) == "log_append_time"
}

/// How the batches of a topic are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As their producers send them. Records that do not come in batches are not compressed.
    AsSent,
    /// All with this codec, or without one. Batches that come otherwise are stored in this form.
    Always(Option<Codec>),
}

impl Compression {
    /// The codec for records that do not come in batches.
    #[must_use]
    pub fn of_records(self) -> Option<Codec> {
        match self {
            Self::AsSent => None,
            Self::Always(codec) => codec,
        }
    }

    /// The form of a batch that comes with a codec, or without one.
    #[must_use]
    pub fn of_batch(self, sent: Option<Codec>) -> Option<Codec> {
        match self {
            Self::AsSent => sent,
            Self::Always(codec) => codec,
        }
    }
}

/// How a topic's batches are stored.
pub fn compression(spec: &TopicSpec) -> Compression {
    match current_word(&spec.properties, COMPRESSION_TYPE) {
        "producer" => Compression::AsSent,
        name => Compression::Always(Codec::ALL.into_iter().find(|codec| codec.name() == name)),
    }
}

/// Whether a topic is to be compacted. It is not; but its records must be such that it could be.
pub fn compacts(spec: &TopicSpec) -> bool {
    changes::compacts(spec.properties.get(CLEANUP_POLICY).and_then(Value::as_str))
}

/// When a request without `ack` is answered.
pub fn ack(spec: &TopicSpec) -> Ack {
    if current_word(&spec.properties, ACK) == "written" {
        Ack::Written
    } else {
        Ack::Durable
    }
}

/// How long an `Idempotency-Key` is remembered.
pub fn dedupe_window(spec: &TopicSpec) -> Duration {
    Duration::from_millis(known(current_number(&spec.properties, DEDUPE_WINDOW_MS)))
}

/// Whether deleting a topic or its records, and lowering its retention, is refused.
pub fn is_protected(spec: &TopicSpec) -> bool {
    spec.properties.get(DELETE_PROTECTION) == Some(&Value::Bool(true))
}

/// Whether a change of settings makes retention delete earlier: `None` is for ever.
pub fn lowers_retention(before: &TopicSettings, after: &TopicSettings) -> bool {
    let is_lower = |before: Option<u64>, after: Option<u64>| match (before, after) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(after)) => after < before,
    };
    is_lower(before.retention_ms, after.retention_ms)
        || is_lower(before.retention_bytes, after.retention_bytes)
}

/// Refuses to take records of a protected topic away.
pub(super) fn check_protection(topic: &Topic) -> Result<(), Refusal> {
    if !is_protected(&topic.spec()) {
        return Ok(());
    }
    let detail = format!(
        "the topic {} has delete_protection=true: set it to false first, with a change of its own",
        topic.name()
    );
    Err(Refusal::new(Reason::TopicProtected, detail))
}

/// Refuses another topic than the one with that id.
pub(super) fn check_id(log: &Log, topic: &Topic, if_id: Option<&str>) -> Result<(), Refusal> {
    let id = public_id(log, topic.id());
    if if_id.is_none_or(|wanted| wanted == id) {
        return Ok(());
    }
    let detail = format!(
        "the topic {} has the id {id} by now: it was deleted and made again",
        topic.name()
    );
    Err(Refusal::new(Reason::TopicChanged, detail).with("id", id))
}

/// Whether partitions were added after the topic was created.
pub fn partitions_were_raised(spec: &TopicSpec) -> bool {
    spec.properties.get(PARTITIONS_RAISED) == Some(&Value::Bool(true))
}

/// The one partition that has all records of a key so far; `None` if several may: partitions were added, or a producer
/// chose another partition.
///
/// To rely on the answer, take the positions of the other partitions first: records appended after them may change it.
pub fn partition_of_key(log: &Log, topic: &Topic, key: &[u8]) -> Option<u32> {
    let spec = topic.spec();
    let is_placed_by_key =
        !partitions_were_raised(&spec) && log.state_get(&partitioner::keyed_elsewhere(topic.id())).is_none();
    is_placed_by_key.then(|| partitioner::partition_of_key(key, spec.partitions))
}

/// The engine's description of a new topic.
///
/// # Errors
/// Those of [`super::Topics::create`] for an invalid name, number of partitions or configuration.
pub(super) fn new_spec(name: &str, max_partitions: u32, changes: &Changes) -> Result<TopicSpec, Refusal> {
    names::TOPIC.check(name)?;
    check_partitions(max_partitions, changes.partitions)?;
    let mut new = TopicConfig::default();
    new.apply_all(changes)?;
    Ok(new.into_spec(changes.partitions.unwrap_or(1)))
}

fn check_partitions(max_partitions: u32, partitions: Option<u32>) -> Result<(), Refusal> {
    match partitions {
        Some(count) if count == 0 || count > max_partitions => {
            let detail = format!("partitions must be a whole number from 1 to {max_partitions}, not {count}");
            Err(Refusal::invalid("/partitions", detail))
        }
        _ => Ok(()),
    }
}

/// Whether an existing topic matches a client's request to create it.
pub(super) fn compare(topic: &Topic, wanted: &Changes) -> Result<(), Refusal> {
    let differs = |what: String| {
        let detail = format!("the topic {} exists with {what}", topic.name());
        Err(Refusal::new(Reason::TopicExists, detail))
    };
    let count = topic.partition_count();
    if wanted.partitions.is_some_and(|wanted| wanted != count) {
        return differs(format!("{count} partitions")).map_err(|refusal| refusal.with("partitions", count));
    }
    let current = TopicConfig::of(&topic.spec());
    let mut words = wanted
        .kept
        .iter()
        .map(|(name, word)| (name, word, current.kept(name)));
    if let Some((name, _, word)) = words.find(|(_, wanted, current)| wanted.as_deref() != *current) {
        return differs(format!("{name} = {}", word.unwrap_or("null")));
    }
    match current.first_difference(&wanted.config) {
        Some((name, current)) => differs(format!("{name} = {current}")),
        None => Ok(()),
    }
}

/// The engine's description of an altered topic; `None` if nothing changes.
///
/// # Errors
/// Those of [`super::Topics::alter`].
pub(super) fn changed_spec(
    topic: &Topic,
    max_partitions: u32,
    changes: &Changes,
) -> Result<Option<TopicSpec>, Refusal> {
    let spec = topic.spec();
    let (count, partitions) = (topic.partition_count(), changes.partitions);
    let wanted = partitions.unwrap_or(count);
    let mut changed = TopicConfig::of(&spec);
    changed.apply_all(changes)?;
    // First refuse values that no topic can have, then those that this topic cannot: 0 is never a number of partitions.
    let possible = partitions.filter(|&wanted| wanted == 0 || wanted > count);
    check_partitions(max_partitions, possible)?;
    if wanted < count {
        let name = topic.name();
        let detail = format!("the topic {name} has {count} partitions; {wanted} would take some away");
        return Err(Refusal::new(Reason::PartitionsCannotShrink, detail).with("partitions", count));
    }
    if wanted > count {
        changed
            .properties
            .insert(PARTITIONS_RAISED.to_owned(), Value::Bool(true));
    }
    let changed = changed.into_spec(wanted);
    Ok((changed != *spec).then_some(changed))
}

/// The topic of that name.
///
/// # Errors
/// [`Reason::UnknownTopic`].
pub fn find(log: &Log, name: &str) -> Result<Arc<Topic>, Refusal> {
    log.topic(name).ok_or_else(|| unknown_topic(name))
}

/// The refusal of a topic that does not exist.
pub(crate) fn unknown_topic(name: &str) -> Refusal {
    let shown: String = name.chars().take(250).collect();
    Refusal::new(Reason::UnknownTopic, format!("the topic {shown} does not exist"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(value: Value) -> ConfigChanges {
        value.as_object().unwrap().clone().into_iter().collect()
    }

    fn apply(config: &mut TopicConfig, value: Value) {
        config.apply(&changes(value)).unwrap();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = TopicConfig::default();
        assert!(config.entries().all(|(_, _, set)| !set));
        let rows = config.entries();
        let shown: BTreeMap<_, _> = rows.map(|(key, value, _)| (key.name, value)).collect();
        let expected = json!({
            "retention_ms": null, "retention_bytes": null, "segment_bytes": 67_108_864, "segment_ms": 604_800_000,
            "max_record_bytes": 1_048_576, "timestamp_type": "create_time", "compression_type": "producer", "ack": "durable",
            "dedupe_window_ms": 600_000, "delete_protection": false,
        });
        assert_eq!(json!(shown), expected);
    }

    #[test]
    fn every_key_takes_its_bounds_and_nothing_beyond_them() {
        for key in KEYS {
            let (good, bad) = match key.kind {
                Kind::Number { low, high, .. } => (
                    json!([low, high]),
                    json!([low - 1, high + 1, -1, 1.5, low.to_string(), [low]]),
                ),
                Kind::Word { allowed, .. } => (json!(allowed), json!(["", "Durable", 1, true])),
                Kind::Flag => (json!([true, false]), json!(["true", 0, 1, "", []])),
            };
            for value in good.as_array().unwrap() {
                let mut config = TopicConfig::default();
                apply(&mut config, json!({ key.name: value }));
                let mut rows = config.entries();
                let (_, shown, set) = rows.find(|(shown, ..)| shown.name == key.name).unwrap();
                assert_eq!((&shown, set), (value, true));
            }
            for value in bad.as_array().unwrap() {
                let change = [(key.name.to_owned(), value.clone())];
                let refusal = TopicConfig::default().apply(&change).expect_err(key.name);
                assert_eq!(refusal.field, Some(format!("/config/{}", key.name)));
            }
        }
    }

    #[test]
    fn null_restores_a_default() {
        let mut config = TopicConfig::default();
        apply(&mut config, json!({"retention_ms": 5, "segment_ms": 7}));
        apply(&mut config, json!({"retention_ms": null}));
        let settings = config.clone().into_spec(1).settings;
        assert_eq!((settings.retention_ms, settings.segment_ms), (None, 7));
        apply(&mut config, json!({"segment_ms": null}));
        assert_eq!(config, TopicConfig::default());
    }

    #[test]
    fn unknown_keys_and_keys_of_later_versions_are_told_apart() {
        use Reason::{InvalidRequest, NotSupported};
        for (key, value, code, pointer) in [
            ("retention", json!(5), InvalidRequest, "retention"),
            ("a/b~", json!(5), InvalidRequest, "a~1b~0"),
            ("x", json!(null), InvalidRequest, "x"),
            (
                "partitions_raised",
                json!(true),
                InvalidRequest,
                "partitions_raised",
            ),
            ("cleanup_policy", json!("compact"), NotSupported, "cleanup_policy"),
            (
                "compression_type",
                json!("zip"),
                InvalidRequest,
                "compression_type",
            ),
        ] {
            let mut config = TopicConfig::default();
            let refusal = config.apply(&[(key.to_owned(), value)]).unwrap_err();
            assert_eq!(refusal.reason, code);
            assert_eq!(refusal.field, Some(format!("/config/{pointer}")));
            assert_eq!(config, TopicConfig::default());
        }
    }

    #[test]
    fn a_change_with_one_bad_key_changes_nothing() {
        let mut config = TopicConfig::default();
        let change = changes(json!({"ack": "written", "zzz": 1}));
        assert!(config.apply(&change).is_err());
        assert_eq!(config, TopicConfig::default());
    }

    #[test]
    fn only_given_settings_are_compared_and_null_means_the_default() {
        let mut config = TopicConfig::default();
        apply(&mut config, json!({"retention_ms": 5}));
        let same = json!([{}, {"retention_ms": 5}, {"ack": "durable"}, {"segment_ms": null}]);
        for same in same.as_array().unwrap() {
            assert_eq!(config.first_difference(&changes(same.clone())), None, "{same}");
        }
        let wanted = changes(json!({"retention_ms": null}));
        assert_eq!(config.first_difference(&wanted), Some(("retention_ms", json!(5))));
    }

    #[test]
    fn a_topic_that_is_only_compacted_has_no_retention() {
        let apply = |config: &mut TopicConfig, policy: Option<&str>| {
            let changes = Changes {
                config: changes(json!({"retention_ms": 5})),
                kept: vec![(CLEANUP_POLICY, policy.map(str::to_owned))],
                ..Changes::default()
            };
            config.apply_all(&changes).unwrap();
            config.clone().into_spec(1).settings.retention_ms
        };
        let mut config = TopicConfig::default();
        assert_eq!(apply(&mut config, Some("compact")), None);
        assert_eq!(config.kept(CLEANUP_POLICY), Some("compact"));
        let shown = config.entries().find(|(key, ..)| key.name == "retention_ms");
        assert_eq!(shown.map(|(_, value, _)| value), Some(json!(5)));
        assert_eq!(apply(&mut config, Some("compact,delete")), Some(5));
        assert_eq!(apply(&mut config, None), Some(5));
        assert_eq!(config.kept(CLEANUP_POLICY), None);
    }

    #[test]
    fn the_settings_that_the_service_uses_are_read_from_the_topic() {
        let mut config = TopicConfig::default();
        let read = |config: &TopicConfig| {
            let spec = config.clone().into_spec(1);
            (
                max_record_bytes(&spec),
                is_log_append_time(&spec),
                ack(&spec),
                dedupe_window(&spec),
            )
        };
        let found = read(&config);
        assert_eq!(found, (1 << 20, false, Ack::Durable, Duration::from_mins(10)));
        let change = json!({
            "max_record_bytes": 9, "timestamp_type": "log_append_time", "ack": "written", "dedupe_window_ms": 3,
        });
        apply(&mut config, change);
        assert_eq!(read(&config), (9, true, Ack::Written, Duration::from_millis(3)));
    }
}
