//! Links between operations: which value of an answer is a parameter of which other operation.

use serde_json::{Map, Value, json};

const TOPIC: (&str, &str) = ("topic", "$request.path.topic");
const PARTITION: (&str, &str) = ("partition", "$request.path.partition");
const GROUP: (&str, &str) = ("group", "$request.path.group");
const MEMBER: (&str, &str) = ("member", "$request.path.member");
const JOINED: (&str, &str) = ("member", "$response.body#/member_id");

/// An operation and the status of its answer, the operation that follows, and where its parameters come from.
type Link = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const LINKS: &[Link] = &[
    ("create_topic", "201", "describe_topic", &[TOPIC]),
    ("create_topic", "201", "produce", &[TOPIC]),
    ("create_topic", "201", "delete_topic", &[TOPIC]),
    (
        "create_topic",
        "201",
        "alter_topic",
        &[TOPIC, ("if_id", "$response.body#/id")],
    ),
    (
        "create_topic",
        "200",
        "delete_topic",
        &[TOPIC, ("if_id", "$response.body#/id")],
    ),
    ("produce", "200", "stream_topic", &[TOPIC]),
    (
        "produce",
        "200",
        "fetch",
        &[
            TOPIC,
            ("partition", "$response.body#/offsets/0/partition"),
            ("offset", "$response.body#/offsets/0/offset"),
        ],
    ),
    (
        "fetch",
        "200",
        "fetch",
        &[TOPIC, PARTITION, ("offset", "$response.body#/next_offset")],
    ),
    (
        "stream_topic",
        "200",
        "stream_topic",
        &[TOPIC, ("from", "$response.body#/cursor")],
    ),
    ("join_group", "201", "poll", &[GROUP, JOINED]),
    ("join_group", "201", "heartbeat", &[GROUP, JOINED]),
    ("join_group", "201", "commit", &[GROUP, JOINED]),
    ("join_group", "201", "leave_group", &[GROUP, JOINED]),
    ("poll", "200", "settle_records", &[GROUP, MEMBER]),
    (
        "poll",
        "200",
        "leave_group",
        &[GROUP, MEMBER, ("ack", "$response.body#/poll_id")],
    ),
    ("join_group", "201", "describe_group", &[GROUP]),
    ("join_group", "201", "group_lag", &[GROUP]),
    ("commit_offsets", "200", "read_offsets", &[GROUP]),
    ("commit_offsets", "200", "reset_offsets", &[GROUP]),
    ("commit_offsets", "200", "delete_group", &[GROUP]),
    ("settle_records", "200", "list_dead_letters", &[GROUP]),
    ("list_dead_letters", "200", "redrive_group", &[GROUP]),
];

/// Adds the links of an operation to its answers.
pub(super) fn add(id: &str, responses: &mut Map<String, Value>) {
    for (_, status, target, parameters) in LINKS.iter().filter(|(of, ..)| *of == id) {
        let parameters: Map<String, Value> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
            .collect();
        if let Some(response) = responses.get_mut(*status) {
            response["links"][*target] = json!({"operationId": target, "parameters": parameters});
        }
    }
}

/// How many links there are.
#[cfg(test)]
pub(super) const fn count() -> usize {
    LINKS.len()
}
