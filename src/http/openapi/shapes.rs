//! Parts of the document that no Rust type shows: values that have several forms, and rules between fields.
//!
//! A type here stands for a named schema: fields and parameters name it in their annotations. Its JSON Schema is in
//! [`named`]. [`refine`] adds what a derived schema cannot say.

use serde_json::{Map, Value, json};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::bounds::{NAME, NAME_OR_PATTERN, NAME_WITH_STARS, OFFSET};
use crate::broker::filter::MAX_PATTERNS;
use crate::broker::rights::{self, Right};
use crate::broker::topics::catalog::{KEYS, Kind};

/// Declares types that stand for the schemas of [`named`].
macro_rules! shapes {
    ($($(#[$about:meta])* $name:ident)*) => {
        $(
            $(#[$about])*
            pub(in crate::http) struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new().into()
                }
            }

            impl ToSchema for $name {}
        )*
        /// The names of these types.
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

shapes! {
    /// A time on input.
    Time
    /// Where to begin: an end of the log, or a time.
    Start
    /// Where a fetch begins.
    FetchStart
    /// Where a stream begins.
    StreamStart
    /// Where a stream ends.
    StreamEnd
    /// Where a reset goes.
    ResetTarget
    /// The name of a topic, or a pattern of names.
    TopicOrPattern
    /// The filter of a group.
    GroupFilter
    /// Patterns for the headers of records, as parameters of a query.
    HeaderPatterns
    /// Changes of a topic's configuration.
    ConfigChanges
    /// A record as a producer sends it.
    NewRecord
    /// The same with its topic.
    NewTopicRecord
    /// The values of a record's header.
    HeaderValues
    /// A record of a poll.
    DeliveredRecord
    /// One CloudEvent.
    CloudEvent
    /// A batch of CloudEvents.
    CloudEventBatch
    /// Record batches as they are stored.
    RecordBatches
    /// Bytes of any kind.
    AnyBytes
    /// A line of a stream.
    StreamLine
    /// The name of a token or a principal.
    PrincipalName
    /// What a right is for: a name, or a pattern of names.
    NamePattern
    /// How a group does.
    LagStatus
    /// A Server-Sent Event of a stream.
    StreamEvent
}

/// Base64 as RFC 4648 has it: groups of four, the last one padded, with no bits left over.
const BASE64: &str = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
/// A pattern of a filter: words between dots, of which `*` and `#` stand for others.
const PATTERN: &str = r"^(?:[*#]|[^.*#]*)(?:\.(?:[*#]|[^.*#]*))*$";
/// A cursor of a stream.
const CURSOR: &str = "^[A-Za-z0-9_-]{19,}$";
/// The text of an event's attribute has no control characters.
const ATTRIBUTE: &str = r"^[^\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff]*$";

fn shape(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The schema that a type of this file stands for.
fn named(name: &str) -> Value {
    let cursor = json!({"type": "string", "format": "cursor", "pattern": CURSOR, "description": "The `id` of an event, or `cursor` of an answer"});
    match name {
        "Time" => json!({
            "description": "A time: milliseconds since the Unix epoch, or RFC 3339. Times before 1970 count as 1970.",
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": i64::MAX, "examples": [1_372_636_800_000_i64]},
                {"type": "string", "format": "date-time", "examples": ["2013-07-01T00:00:00Z"]},
            ],
        }),
        "Start" => json!({
            "description": "An end of the log, or the first record whose timestamp is at or after a time.",
            "anyOf": [{"enum": ["earliest", "latest"]}, shape("Time")],
        }),
        "FetchStart" => json!({
            "description": "An offset, or an end of the log.",
            "anyOf": [{"type": "integer", "minimum": 0, "maximum": OFFSET}, {"enum": ["earliest", "latest"]}],
        }),
        "StreamStart" => json!({
            "description": "An end of the log, a time, or a cursor.",
            "anyOf": [{"enum": ["earliest", "latest"]}, shape("Time"), cursor],
        }),
        "StreamEnd" => json!({
            "description": "The end of the log, a time, or a cursor.",
            "anyOf": [{"enum": ["latest"]}, shape("Time"), cursor],
        }),
        "ResetTarget" => json!({
            "description": "An end of the log, a time, an offset, or a shift from the committed offset (or from the log start).",
            "anyOf": [
                shape("Start"),
                {"type": "object", "required": ["offset"], "additionalProperties": false,
                    "properties": {"offset": {"type": "integer", "minimum": 0, "maximum": u64::MAX}}},
                {"type": "object", "required": ["shift"], "additionalProperties": false,
                    "properties": {"shift": {"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}}},
            ],
        }),
        "TopicOrPattern" => json!({
            "description": "The name of a topic, or a pattern of names: `*` stands for one word between dots, `#` for any number of words.",
            "type": "string", "minLength": 1, "maxLength": 249, "pattern": NAME_OR_PATTERN,
        }),
        "GroupFilter" => json!({
            "description": "The fields of a filter, each with its patterns. A record must match one pattern of each field. At most 100 patterns, and 16 KiB.",
            "type": "object", "minProperties": 1, "maxProperties": MAX_PATTERNS,
            "propertyNames": {"pattern": r"^(?:key|header\.[\s\S]+)$"},
            "additionalProperties": {"type": "array", "minItems": 1, "maxItems": MAX_PATTERNS, "items": {"type": "string", "pattern": PATTERN}},
            "examples": [{"header.type": ["order.*", "invoice.paid"], "key": ["c7"]}],
        }),
        "HeaderPatterns" => json!({
            "description": "By `header.NAME`: a pattern of words between dots.",
            "type": "object",
            "propertyNames": {"pattern": r"^header\.[\s\S]+$"},
            "additionalProperties": {"type": "string", "pattern": PATTERN},
            "examples": [{"header.type": "order.*"}],
        }),
        "ConfigChanges" => config(),
        "NewRecord" => record(&json!({"description": "Ignored."}), &[]),
        "NewTopicRecord" => {
            let topic = json!({"type": "string", "pattern": NAME, "description": "The topic's name."});
            record(&topic, &["topic"])
        }
        "HeaderValues" => {
            let one = json!([
                {"type": ["string", "null"]},
                {"type": "object", "required": ["base64"], "additionalProperties": false,
                    "properties": {"base64": {"type": "string", "pattern": BASE64}}},
            ]);
            json!({
                "description": "A string, `{\"base64\":…}` for bytes that are not UTF-8, null for no value, or an array of these.",
                "anyOf": [{"anyOf": one}, {"type": "array", "minItems": 1, "items": {"anyOf": one}}],
            })
        }
        "DeliveredRecord" => json!({
            "description": "A record that a poll delivers.",
            "allOf": [shape("JsonRecord"), {
                "type": "object", "required": ["topic"],
                "properties": {
                    "topic": {"type": "string"},
                    "delivery_count": {"type": "integer", "minimum": 1, "description": "Shared groups: how often it was leased, this time included."},
                    "lease_expires": {"type": "integer", "description": "Shared groups: when this member's lease ends, in milliseconds since the Unix epoch."},
                    "redriven": {"type": "integer", "minimum": 1, "description": "How often it was redriven; only if it was."},
                },
            }],
        }),
        "CloudEvent" => event(),
        "CloudEventBatch" => {
            json!({"type": "array", "minItems": 1, "items": shape("CloudEvent"), "description": "At least one event."})
        }
        "PrincipalName" => {
            json!({"type": "string", "minLength": 1, "maxLength": 249, "pattern": NAME, "description": "1 to 249 of `A-Z a-z 0-9 . _ -`."})
        }
        "NamePattern" => json!({
            "description": "A name, in which `*` stands for any characters.",
            "type": "string", "minLength": 1, "maxLength": 249, "pattern": NAME_WITH_STARS,
        }),
        "StreamLine" => json!({
            "description": "A record; with `data=cloudevents` a CloudEvent.",
            "anyOf": [shape("JsonRecord"), shape("CloudEvent")],
        }),
        "LagStatus" => json!({"enum": ["ok", "behind", "stalled", "losing"]}),
        "StreamEvent" => json!({
            "description": "A Server-Sent Event.",
            "type": "object",
            "properties": {
                "event": {"enum": ["record", "gap", "progress", "error", "end"]},
                "id": {"type": "string", "description": "A cursor over all partitions."},
                "data": {"type": "string", "contentMediaType": "application/json", "description": "By the event: a record, a gap, how far the stream is, a problem, or how it ended."},
                "retry": {"type": "integer", "minimum": 0},
            },
        }),
        "RecordBatches" => {
            json!({"type": "string", "format": "binary", "description": "Record batches of version 2, back to back."})
        }
        _ => json!({"type": "string", "format": "binary", "description": "Any bytes."}),
    }
}

fn config() -> Value {
    let properties = KEYS.iter().map(|key| {
        let mut schema = match &key.kind {
            Kind::Number { low, high, .. } => {
                json!({"type": ["integer", "null"], "minimum": low, "maximum": high})
            }
            Kind::Word { allowed, .. } => {
                let words = allowed.iter().copied().map(Value::from).chain([Value::Null]);
                json!({"enum": words.collect::<Vec<Value>>()})
            }
            Kind::Flag => json!({"type": ["boolean", "null"]}),
        };
        schema["description"] = key.about.into();
        schema["default"] = key.default();
        (key.name.to_owned(), schema)
    });
    json!({
        "description": "Configuration keys with their values; null means the default.",
        "type": "object", "additionalProperties": false, "properties": properties.collect::<Map<String, Value>>(),
    })
}

/// A record with all its fields, of which some must be there.
fn record(topic: &Value, required: &[&str]) -> Value {
    let both = |plain: &str, given: Value| {
        let coded = format!("{plain}_base64");
        json!({"required": [plain, coded], "properties": {plain: given, coded: {"type": "string"}}})
    };
    let bytes = |what: &str| json!({"type": ["string", "null"], "pattern": BASE64, "description": what});
    let time = |what: &str| json!({"description": what, "anyOf": [shape("Time"), {"type": "null"}]});
    json!({
        "description": "A record as a producer sends it.",
        "type": "object", "additionalProperties": false, "required": required,
        "properties": {
            "value": {"description": "Any JSON value, kept byte for byte; absent or null: the record is a tombstone."},
            "value_base64": bytes("The value in base64, if it is not JSON; instead of `value`."),
            "key": {"type": ["string", "null"], "description": "The key; absent or null: the record has no key."},
            "key_base64": bytes("The key in base64, if it is not UTF-8; instead of `key`."),
            "headers": {"type": ["object", "null"], "description": "By name.", "additionalProperties": shape("HeaderValues")},
            "timestamp": time("When it happened; absent: the time of the append."),
            "deliver_at": time("Work queues deliver it no earlier; kept as a header. Other readers see it at once."),
            "partition": {"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX,
                "description": "The partition; absent: chosen by the key. Records without a key go to one that changes from request to request."},
            "offset": {"description": "Ignored."},
            "topic": topic,
        },
        "not": {"anyOf": [both("value", json!({"not": {"type": "null"}})), both("key", json!({"type": "string"}))]},
    })
}

fn event() -> Value {
    let text = |what: &str| json!({"type": ["string", "null"], "minLength": 1, "pattern": ATTRIBUTE, "description": what});
    let needed = |what: &str, example: &str| json!({"type": "string", "minLength": 1, "pattern": ATTRIBUTE, "description": what, "examples": [example]});
    json!({
        "description": "A CloudEvent 1.0.2 in the JSON event format. Any other member is an extension attribute.",
        "type": "object", "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"enum": ["1.0"], "description": "The version of the specification."},
            "id": needed("The event's name; `source` and `id` together are unique.", "7"),
            "source": needed("Where the event happened, a URI reference.", "/shops/7"),
            "type": needed("The kind of event.", "com.example.order.placed"),
            "time": {"type": ["string", "null"], "format": "date-time", "description": "When the event happened; it becomes the record's timestamp."},
            "subject": text("The thing to which the event happened."),
            "datacontenttype": text("The media type of the data; absent: `application/json`."),
            "dataschema": text("The schema of the data, a URI."),
            "partitionkey": text("The record's key."),
            "data": {"description": "Any JSON value if the data is JSON, else a string."},
            "data_base64": {"type": ["string", "null"], "pattern": BASE64, "description": "The data in base64, if it is bytes; instead of `data`."},
        },
        "propertyNames": {"pattern": "^(?:[a-z0-9]+|data_base64)$"},
        "additionalProperties": {"anyOf": [
            {"type": "string", "pattern": ATTRIBUTE},
            {"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX},
            {"type": ["boolean", "null"]},
        ]},
        "anyOf": [
            {"properties": {"datacontenttype": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": r"^[^;/]*/(?:[^;]*\+)?json$"}]}}},
            {"properties": {"data": {"type": ["string", "null"]}}},
        ],
        "not": {"required": ["data", "data_base64"], "properties": {"data": {"not": {"type": "null"}}, "data_base64": {"type": "string"}}},
    })
}

/// Writes the schemas of this file into the document, and adds rules between fields to derived ones.
pub(super) fn refine(schemas: &mut Map<String, Value>) {
    for name in NAMES {
        schemas.insert((*name).to_owned(), named(name));
    }
    if let Some(join) = schemas.get_mut("JoinBody") {
        let [ordered, shared] = joins(join);
        *join = json!({"description": join["description"], "oneOf": [ordered, shared]});
    }
    if let Some(poll) = schemas.get_mut("PollBody") {
        let produce = json!([
            {"properties": {"produce": {"type": ["array", "null"], "maxItems": 0}}},
            {"required": ["ack"], "properties": {"ack": {"type": "string"}}},
        ]);
        let [ordered, shared] = joins(poll);
        let mut alone = poll.clone();
        for field in [
            "topics",
            "type",
            "client_id",
            "session_timeout_ms",
            "start",
            "filter",
        ]
        .iter()
        .chain(&SHARED)
        {
            alone["properties"][*field] = json!({"type": "null"});
        }
        let all = [alone, ordered, shared].map(|mut one| {
            one["anyOf"] = produce.clone();
            one
        });
        *poll = json!({"description": poll["description"], "oneOf": all});
    }
    let no_outputs = json!({"properties": {"produce": {"type": ["array", "null"], "maxItems": 0}}});
    let with =
        |list: &str| json!({"required": [list], "properties": {list: {"type": "array", "minItems": 1}}});
    if let Some(rule) = schemas.get_mut("Rule") {
        let of = |title: &str, words: Value, most: usize, most_names: usize| {
            let mut one = rule.clone();
            one["title"] = title.into();
            one["properties"]["allow"]["items"] = json!({"enum": words});
            one["properties"]["allow"]["maxItems"] = most.into();
            for names in ["topics", "groups"] {
                one["properties"][names]["maxItems"] = most_names.into();
            }
            one
        };
        let names: Vec<&str> = Right::ALL.iter().map(|(name, _)| *name).collect();
        let admin = of("An administrator", json!(["admin"]), 1, 0);
        let rights = of("Rights", json!(names), rights::MAX_RIGHTS, rights::MAX_PATTERNS);
        *rule = json!({"description": rule["description"], "oneOf": [rights, admin]});
    }
    if let Some(of) = schemas.get_mut("PrincipalMatch") {
        let one = |field: &str, other: &str| {
            let mut one = of.clone();
            one["required"] = json!([field]);
            let schema = &mut one["properties"][field];
            schema["type"] = json!(if field == "jwt" { "object" } else { "string" });
            if field == "jwt" {
                schema["minProperties"] = 1.into();
                schema["maxProperties"] = 20.into();
            }
            one["properties"][other] = json!({"type": "null"});
            one
        };
        *of = json!({"description": of["description"], "oneOf": [one("jwt", "cert"), one("cert", "jwt")]});
    }
    if let Some(reset) = schemas.get_mut("ResetBody") {
        for list in ["topics", "partitions"] {
            reset["properties"][list]["uniqueItems"] = true.into();
        }
    }
    let mut rule = |name: &str, rule: Value| {
        if let (Some(Value::Object(schema)), Value::Object(rule)) = (schemas.get_mut(name), rule) {
            schema.extend(rule);
        }
    };
    rule(
        "SettleBody",
        json!({"anyOf": [no_outputs, with("accept"), with("reject")]}),
    );
    rule("CommitBody", json!({"anyOf": [no_outputs, with("offsets")]}));
    let named = |field: &str, what: Value| json!({"required": [field], "properties": {field: what}});
    let (text, list) = (json!({"type": "string"}), json!({"type": "array"}));
    rule(
        "RedriveBody",
        json!({"anyOf": [
            {"properties": {"offsets": {"type": "null"}}}, named("dead_letter_topic", text.clone()),
        ]}),
    );
    let one_topic = json!({"type": "array", "maxItems": 1});
    rule(
        "ResetBody",
        json!({
            "not": {"allOf": [named("topic", text.clone()), named("topics", list)]},
            "anyOf": [{"properties": {"partitions": {"type": "null"}}}, named("topic", text), named("topics", one_topic)],
        }),
    );
}

/// The settings that only shared groups have.
const SHARED: [&str; 4] = ["lease_ms", "max_deliveries", "dead_letter_topic", "order"];

/// A body with the fields of a join as it is for an ordered group, and for a shared one.
fn joins(body: &Value) -> [Value; 2] {
    let needs = |body: &Value, more: &[&str]| {
        let mut needs: Vec<Value> = body["required"].as_array().cloned().unwrap_or_default();
        needs.extend(more.iter().map(|field| Value::from(*field)));
        needs.dedup();
        Value::from(needs)
    };
    let about = body["properties"]["type"]["description"].clone();
    let mut ordered = body.clone();
    ordered["title"] = "An ordered group".into();
    ordered["properties"]["type"] = json!({"enum": ["ordered", null], "description": about});
    for field in SHARED {
        ordered["properties"][field] = json!({"type": "null"});
    }
    let mut shared = body.clone();
    shared["title"] = "A shared group".into();
    shared["properties"]["type"] = json!({"enum": ["shared"], "description": about});
    for one in [&mut ordered, &mut shared] {
        let topics = &mut one["properties"]["topics"];
        topics["type"] = "array".into();
        one["required"] = needs(body, &["topics"]);
        if let Value::Object(one) = one {
            one.remove("description");
        }
    }
    let both = needs(&shared, &["type"]);
    shared["required"] = both;
    [ordered, shared]
}
