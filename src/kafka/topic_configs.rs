//! Kafka's names for a topic's configuration, and what they are here.
//!
//! A key that has a counterpart is that; one of Kafka's others is taken only with the value that describes how the server
//! works anyhow, so that no client is promised what is not done.

use serde_json::Value;

use super::messages::admin::CreatableTopicConfigs;
use crate::broker::engine::Topic;
use crate::broker::topics::catalog::TopicConfig;

/// Where a value comes from: set for the topic, or the default.
const SET: i8 = 1;
const DEFAULT: i8 = 5;

/// How a key's values are written.
#[derive(Clone, Copy)]
enum Form {
    /// A number.
    Number,
    /// A number; -1 stands for no limit.
    Limit,
    /// `CreateTime` or `LogAppendTime`.
    TimestampType,
}

/// Kafka's name, the name here, and the form.
const SAME: [(&str, &str, Form); 6] = [
    ("retention.ms", "retention_ms", Form::Limit),
    ("retention.bytes", "retention_bytes", Form::Limit),
    ("segment.bytes", "segment_bytes", Form::Number),
    ("segment.ms", "segment_ms", Form::Number),
    ("max.message.bytes", "max_record_bytes", Form::Number),
    ("message.timestamp.type", "timestamp_type", Form::TimestampType),
];

/// Kafka's other names that clients set, with the only value that is true here.
const FIXED: [(&str, &str); 4] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("min.insync.replicas", "1"),
    ("unclean.leader.election.enable", "false"),
];

/// The change of the configuration that a key of Kafka's means: none, or one. Null restores the default.
///
/// # Errors
/// Why the value cannot be set.
pub(super) fn change(name: &str, value: Option<&str>) -> Result<Option<(String, Value)>, String> {
    if let Some((_, own, form)) = SAME.iter().find(|(kafkas, ..)| *kafkas == name) {
        let value = match value {
            None => Value::Null,
            Some(text) => read(*form, text).ok_or_else(|| format!("{name} cannot be {text}"))?,
        };
        return Ok(Some(((*own).to_owned(), value)));
    }
    match (FIXED.iter().find(|(kafkas, _)| *kafkas == name), value) {
        (Some((_, only)), Some(value)) if value != *only => {
            Err(format!("{name} can only be {only}, not {value}"))
        }
        (Some(_), _) => Ok(None),
        (None, _) => Err(format!("{name} is not supported")),
    }
}

fn read(form: Form, text: &str) -> Option<Value> {
    match form {
        Form::Limit if text == "-1" => Some(Value::Null),
        Form::Number | Form::Limit => text.parse::<u64>().ok().map(Value::from),
        Form::TimestampType => match text {
            "CreateTime" => Some("create_time".into()),
            "LogAppendTime" => Some("log_append_time".into()),
            _ => None,
        },
    }
}

fn show(form: Form, value: &Value) -> String {
    match (form, value) {
        (Form::TimestampType, value) if value == "log_append_time" => "LogAppendTime".to_owned(),
        (Form::TimestampType, _) => "CreateTime".to_owned(),
        (_, Value::Null) => "-1".to_owned(),
        (_, value) => value.to_string(),
    }
}

/// The configuration of a topic: Kafka's name, the value, and whether it was set.
pub(super) fn entries(topic: &Topic) -> Vec<(&'static str, String, bool)> {
    let config = TopicConfig::of(&topic.spec());
    let own = |(kafkas, own, form): &(&'static str, &'static str, Form)| {
        let (_, value, is_set) = config.entries().find(|(key, ..)| key.name == *own)?;
        Some((*kafkas, show(*form, &value), is_set))
    };
    let same = SAME.iter().filter_map(own);
    let fixed = FIXED
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned(), false));
    same.chain(fixed).collect()
}

/// The same, as the answer to a creation.
pub(super) fn created(topic: &Topic) -> Vec<CreatableTopicConfigs> {
    let row = |(name, value, is_set): (&'static str, String, bool)| CreatableTopicConfigs {
        name: name.into(),
        value: Some(value.into()),
        read_only: false,
        config_source: if is_set { SET } else { DEFAULT },
        is_sensitive: false,
    };
    entries(topic).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_changed_as_kafka_writes_it() {
        let changed = |name, value| change(name, value).unwrap();
        assert_eq!(
            changed("retention.ms", Some("1000")),
            Some(("retention_ms".into(), 1000.into()))
        );
        assert_eq!(
            changed("retention.ms", Some("-1")),
            Some(("retention_ms".into(), Value::Null))
        );
        assert_eq!(
            changed("segment.bytes", None),
            Some(("segment_bytes".into(), Value::Null))
        );
        let time = changed("message.timestamp.type", Some("LogAppendTime"));
        assert_eq!(time, Some(("timestamp_type".into(), "log_append_time".into())));
        assert_eq!(changed("cleanup.policy", Some("delete")), None);
        for (name, value) in [
            ("retention.ms", "x"),
            ("cleanup.policy", "compact"),
            ("no.such.key", "1"),
        ] {
            assert!(change(name, Some(value)).is_err(), "{name}");
        }
    }
}
