//! Kafka's configurations of topics, all of Kafka 4.4's by name, and which setting of this server each of them is.
//!
//! Some are settings here, some are words that a topic keeps. The others mean nothing here: they have one value, and only
//! that one is taken, so that nobody relies on what does not happen.

use serde_json::Value;

use crate::broker::produce::BATCH_OVERHEAD_BYTES;
use crate::broker::refusal::Refusal;
use crate::broker::topics::catalog::{ConfigKey, KEYS, Kind, TopicConfig};
use crate::broker::topics::changes::{
    CLEANUP_POLICY, Changes, DELETE_RETENTION_MS, MIN_CLEANABLE_DIRTY_RATIO, MIN_COMPACTION_LAG_MS,
};

/// The type of a configuration; the numbers are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// What a configuration is here.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// A configuration key of topics.
    Key(&'static str),
    /// The same, of records: Kafka's is of batches, which have [`BATCH_OVERHEAD_BYTES`] more.
    KeyOfRecords(&'static str),
    /// A word that a topic keeps, and its default.
    Kept(&'static str, &'static str),
    /// Nothing: it has this value.
    Only(&'static str),
}

use Meaning::{Kept, Key, KeyOfRecords, Only};
use Type::{Boolean, Double, Int, List, Long, String as Words};

/// A configuration of topics.
#[derive(Debug)]
pub(crate) struct TopicSetting {
    /// Kafka's name.
    pub(crate) name: &'static str,
    /// Its type.
    pub(crate) kind: Type,
    meaning: Meaning,
    /// The name of the brokers' configuration that gives its default; empty: none.
    pub(crate) of_broker: &'static str,
}

/// The longest value of a configuration, in bytes: a list is searched for each of its words, and values are repeated in
/// messages.
pub(crate) const MAX_VALUE_BYTES: usize = 4096;

const NEVER: &str = "9223372036854775807";

/// Every configuration, by name.
#[rustfmt::skip]
pub(crate) static TOPIC_SETTINGS: &[TopicSetting] = &[
    row("cleanup.policy", List, Kept(CLEANUP_POLICY, "delete"), "log.cleanup.policy"),
    row("compression.gzip.level", Int, Only("-1"), "compression.gzip.level"),
    row("compression.lz4.level", Int, Only("9"), "compression.lz4.level"),
    row("compression.type", Words, Key("compression_type"), "compression.type"),
    row("compression.zstd.level", Int, Only("3"), "compression.zstd.level"),
    row("delete.retention.ms", Long, Kept(DELETE_RETENTION_MS, "86400000"), "log.cleaner.delete.retention.ms"),
    row("errors.deadletterqueue.group.enable", Boolean, Only("false"), ""),
    row("file.delete.delay.ms", Long, Only("60000"), "log.segment.delete.delay.ms"),
    row("flush.messages", Long, Only(NEVER), "log.flush.interval.messages"),
    row("flush.ms", Long, Only(NEVER), "log.flush.interval.ms"),
    row("follower.replication.throttled.replicas", List, Only(""), ""),
    row("index.interval.bytes", Int, Only("4096"), "log.index.interval.bytes"),
    row("leader.replication.throttled.replicas", List, Only(""), ""),
    row("local.retention.bytes", Long, Only("-2"), "log.local.retention.bytes"),
    row("local.retention.ms", Long, Only("-2"), "log.local.retention.ms"),
    row("max.compaction.lag.ms", Long, Only(NEVER), "log.cleaner.max.compaction.lag.ms"),
    row("max.decompressed.message.bytes", Int, Only("2147483639"), "max.decompressed.message.bytes"),
    row("max.message.bytes", Int, KeyOfRecords("max_record_bytes"), "message.max.bytes"),
    row("message.timestamp.after.max.ms", Long, Only(NEVER), "log.message.timestamp.after.max.ms"),
    row("message.timestamp.before.max.ms", Long, Only(NEVER), "log.message.timestamp.before.max.ms"),
    row("message.timestamp.type", Words, Key("timestamp_type"), "log.message.timestamp.type"),
    row("min.cleanable.dirty.ratio", Double, Kept(MIN_CLEANABLE_DIRTY_RATIO, "0.5"), "log.cleaner.min.cleanable.ratio"),
    row("min.compaction.lag.ms", Long, Kept(MIN_COMPACTION_LAG_MS, "0"), "log.cleaner.min.compaction.lag.ms"),
    row("min.insync.replicas", Int, Only("1"), "min.insync.replicas"),
    row("preallocate", Boolean, Only("false"), "log.preallocate"),
    row("remote.copy.lag.bytes", Long, Only("-1"), "log.remote.copy.lag.bytes"),
    row("remote.copy.lag.ms", Long, Only("0"), "log.remote.copy.lag.ms"),
    row("remote.log.copy.disable", Boolean, Only("false"), ""),
    row("remote.log.delete.on.disable", Boolean, Only("false"), ""),
    row("remote.storage.enable", Boolean, Only("false"), ""),
    row("retention.bytes", Long, Key("retention_bytes"), "log.retention.bytes"),
    row("retention.ms", Long, Key("retention_ms"), "log.retention.ms"),
    row("segment.bytes", Int, Key("segment_bytes"), "log.segment.bytes"),
    row("segment.index.bytes", Int, Only("10485760"), "log.index.size.max.bytes"),
    row("segment.jitter.ms", Long, Only("0"), "log.roll.jitter.ms"),
    row("segment.ms", Long, Key("segment_ms"), "log.roll.ms"),
    row("unclean.leader.election.enable", Boolean, Only("false"), "unclean.leader.election.enable"),
];

const fn row(name: &'static str, kind: Type, meaning: Meaning, of_broker: &'static str) -> TopicSetting {
    TopicSetting {
        name,
        kind,
        meaning,
        of_broker,
    }
}

/// Kafka's words for this server's, where they differ.
const WORDS: [(&str, &str); 2] = [
    ("CreateTime", "create_time"),
    ("LogAppendTime", "log_append_time"),
];
/// Kafka's word for "no limit".
const NO_LIMIT: &str = "-1";

/// The configuration of that name.
pub(crate) fn find(name: &str) -> Result<&'static TopicSetting, Refusal> {
    let found = TOPIC_SETTINGS.iter().find(|row| row.name == name);
    found.ok_or_else(|| {
        let shown: String = name.chars().take(250).collect();
        Refusal::invalid(shown.clone(), format!("unknown topic config name: {shown}"))
    })
}

impl TopicSetting {
    /// The value of a topic that does not set it.
    pub(crate) fn default(&self) -> String {
        match self.meaning {
            Key(name) => text_of(&key(name).default()),
            KeyOfRecords(name) => of_batch(&key(name).default()),
            Kept(_, default) | Only(default) => default.to_owned(),
        }
    }

    /// The value of a topic, and whether it was set.
    pub(crate) fn current(&self, of: &TopicConfig) -> (String, bool) {
        let find = |name: &str| {
            let mut entries = of.entries();
            entries.find(|(key, _, is_set)| key.name == name && *is_set)
        };
        let set = match self.meaning {
            Key(name) => find(name).map(|(_, value, _)| text_of(&value)),
            KeyOfRecords(name) => find(name).map(|(_, value, _)| of_batch(&value)),
            Kept(name, _) => of.kept(name).map(str::to_owned),
            Only(_) => None,
        };
        let is_set = set.is_some();
        (set.unwrap_or_else(|| self.default()), is_set)
    }

    /// What it does, for people.
    pub(crate) fn about(&self) -> String {
        match self.meaning {
            Key(name) => key(name).about.replace("null:", "-1:"),
            KeyOfRecords(name) => format!("{}; and {BATCH_OVERHEAD_BYTES} more for its batch", key(name).about),
            Kept(..) => {
                "this server keeps the value; it does not compact, and a topic that is only compacted keeps everything"
                    .to_owned()
            }
            Only(_) => "this server has this value and takes no other".to_owned(),
        }
    }

    /// Adds the change to a value.
    ///
    /// # Errors
    /// A value that it cannot have, as far as that can be said here; the rest is the broker's.
    pub(crate) fn set(&self, text: &str, changes: &mut Changes) -> Result<(), Refusal> {
        let text = text.trim();
        match self.meaning {
            Key(name) => {
                let value = value_of(key(name), text).ok_or_else(|| self.wrong(text))?;
                changes.config.push((name.to_owned(), value));
            }
            KeyOfRecords(name) => {
                let bytes = text.parse::<usize>().ok();
                let bytes = bytes.and_then(|bytes| bytes.checked_sub(BATCH_OVERHEAD_BYTES));
                let value = Value::from(bytes.ok_or_else(|| self.wrong(text))?);
                changes.config.push((name.to_owned(), value));
            }
            Kept(name, _) => {
                let words: Vec<&str> = text.split(',').map(str::trim).collect();
                changes.kept.push((name, Some(words.join(","))));
            }
            Only(value) if self.is_same(text, value) => {}
            Only(value) => {
                let detail = format!(
                    "{} is {value:?} on this server, which takes no other value",
                    self.name
                );
                return Err(Refusal::invalid(self.name, detail));
            }
        }
        Ok(())
    }

    /// Adds the change to its default.
    pub(crate) fn reset(&self, changes: &mut Changes) {
        match self.meaning {
            Key(name) | KeyOfRecords(name) => changes.config.push((name.to_owned(), Value::Null)),
            Kept(name, _) => changes.kept.push((name, None)),
            Only(_) => {}
        }
    }

    fn is_same(&self, one: &str, other: &str) -> bool {
        match self.kind {
            Boolean => one.eq_ignore_ascii_case(other),
            Int | Long => one.parse::<i64>().is_ok_and(|one| Ok(one) == other.parse()),
            Double => one.parse::<f64>().is_ok_and(|one| Ok(one) == other.parse()),
            Words | List => one == other,
        }
    }

    fn wrong(&self, text: &str) -> Refusal {
        let shown: String = text.chars().take(250).collect();
        let name = self.name;
        Refusal::invalid(name, format!("invalid value {shown:?} for configuration {name}"))
    }
}

fn key(name: &str) -> &'static ConfigKey {
    let key = KEYS.iter().find(|key| key.name == name);
    key.expect("a test looks up every key of the table")
}

/// A text as a value of a configuration key; `None`: it is none.
fn value_of(key: &ConfigKey, text: &str) -> Option<Value> {
    match key.kind {
        Kind::Number { default: None, .. } if text == NO_LIMIT => Some(Value::Null),
        Kind::Number { .. } => text.parse::<u64>().ok().map(Value::from),
        Kind::Word { allowed, .. } => {
            let known = WORDS.iter().find(|(kafkas, _)| *kafkas == text);
            let word = known.map_or(text, |(_, own)| *own);
            // This server's word for something that Kafka calls otherwise is not Kafka's.
            let is_own = WORDS.iter().any(|(_, own)| *own == text);
            (allowed.contains(&word) && !is_own).then(|| Value::from(word))
        }
        Kind::Flag => text.to_ascii_lowercase().parse::<bool>().ok().map(Value::from),
    }
}

/// The largest batch of a topic with that largest record, as Kafka writes it.
fn of_batch(record_bytes: &Value) -> String {
    let bytes = record_bytes.as_u64().unwrap_or_default();
    (bytes + BATCH_OVERHEAD_BYTES as u64).to_string()
}

/// A value as Kafka writes it.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => NO_LIMIT.to_owned(),
        Value::String(word) => {
            let known = WORDS.iter().find(|(_, own)| own == word);
            known.map_or(word.as_str(), |(kafkas, _)| *kafkas).to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_configuration_takes_its_default_and_shows_it() {
        assert!(TOPIC_SETTINGS.is_sorted_by(|one, other| one.name < other.name));
        for row in TOPIC_SETTINGS {
            assert_eq!(
                row.current(&TopicConfig::default()),
                (row.default(), false),
                "{}",
                row.name
            );
            let mut changes = Changes::default();
            row.set(&row.default(), &mut changes)
                .unwrap_or_else(|refusal| panic!("{refusal:?}"));
            assert!(!row.about().is_empty());
            let mut changes = Changes::default();
            row.reset(&mut changes);
            assert!(
                changes.config.iter().all(|(_, value)| value.is_null()),
                "{}",
                row.name
            );
            if let Only(_) = row.meaning {
                assert!(row.set("12345", &mut changes).is_err(), "{}", row.name);
            }
        }
    }

    fn set(name: &str, text: &str) -> Option<Value> {
        let mut changes = Changes::default();
        find(name).unwrap().set(text, &mut changes).ok()?;
        changes.config.pop().map(|(_, value)| value)
    }

    #[test]
    fn values_are_read_as_kafka_writes_them() {
        assert_eq!(set("retention.ms", "-1"), Some(Value::Null));
        assert_eq!(set("retention.ms", " 5 "), Some(json!(5)));
        assert_eq!(set("segment.bytes", "-1"), None);
        // Kafka's default, of a batch with a record of 1 MiB.
        assert_eq!(find("max.message.bytes").unwrap().default(), "1048588");
        assert_eq!(set("max.message.bytes", "1048588"), Some(json!(1 << 20)));
        assert_eq!(set("max.message.bytes", "11"), None);
        assert_eq!(set("retention.ms", "5s"), None);
        assert_eq!(
            set("message.timestamp.type", "LogAppendTime"),
            Some(json!("log_append_time"))
        );
        assert_eq!(set("message.timestamp.type", "log_append_time"), None);
        assert_eq!(text_of(&json!("log_append_time")), "LogAppendTime");
        assert!(find("retention_ms").is_err());
    }

    #[test]
    fn what_has_no_meaning_here_takes_its_one_value_however_it_is_written() {
        let takes = |name: &str, text: &str| find(name).unwrap().set(text, &mut Changes::default()).is_ok();
        assert!(takes("preallocate", "FALSE") && !takes("preallocate", "true"));
        assert!(takes("min.insync.replicas", "1") && !takes("min.insync.replicas", "2"));
        assert!(takes("flush.messages", NEVER) && !takes("flush.messages", "1"));
    }
}
