//! Configurations of the node, as tools look them up by Kafka's names: read-only, with their values here.

use super::super::call::{Call, NODE};
use super::configs::{DEFAULT, OF_SETTINGS};
use super::topic_configs::{TOPIC_SETTINGS, Type};
use crate::broker::groups::MAX_METADATA_BYTES;

/// A configuration of the node.
pub(crate) struct NodeConfig {
    pub(crate) name: &'static str,
    pub(crate) value: Option<String>,
    pub(crate) kind: Type,
    /// Where the value comes from.
    pub(crate) source: i8,
    pub(crate) about: &'static str,
}

/// All of them.
pub(crate) fn of(call: &Call) -> Vec<NodeConfig> {
    use Type::{Boolean, Int, List, Long};
    let (settings, id) = (&call.settings, NODE.to_string());
    let listener = call.listener();
    let fixed = [
        (
            "auto.create.topics.enable",
            settings.auto_create.to_string(),
            Boolean,
            "the setting kafka_auto_create",
        ),
        (
            "advertised.listeners",
            listener.clone(),
            List,
            "where clients reach this server",
        ),
        ("broker.id", id.clone(), Int, "there is one node"),
        (
            "connections.max.idle.ms",
            settings.idle_timeout.as_millis().to_string(),
            Long,
            "the setting idle_timeout_ms",
        ),
        (
            "default.replication.factor",
            "1".to_owned(),
            Int,
            "there is one node",
        ),
        (
            "delete.topic.enable",
            "true".to_owned(),
            Boolean,
            "whoever has the right may",
        ),
        ("listeners", listener, List, "where clients reach this server"),
        ("node.id", id, Int, "there is one node"),
        (
            "num.partitions",
            settings.partitions.to_string(),
            Int,
            "the setting kafka_partitions",
        ),
        (
            "offset.metadata.max.bytes",
            MAX_METADATA_BYTES.to_string(),
            Int,
            "the longest note beside a committed offset",
        ),
    ];
    let own = fixed.into_iter().map(|(name, value, kind, about)| NodeConfig {
        name,
        value: Some(value),
        kind,
        source: OF_SETTINGS,
        about,
    });
    // What topics have that set nothing.
    let of_topics = TOPIC_SETTINGS.iter().filter(|row| !row.of_broker.is_empty());
    let of_topics = of_topics.map(|row| NodeConfig {
        name: row.of_broker,
        value: Some(row.default()),
        kind: row.kind,
        source: DEFAULT,
        about: "what topics have that do not set it",
    });
    let mut all: Vec<NodeConfig> = own.chain(of_topics).collect();
    all.sort_by_key(|row| row.name);
    all
}
