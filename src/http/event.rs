//! A CloudEvent as the OpenAPI document shows it.

use utoipa::ToSchema;

/// A CloudEvent 1.0.2 in the JSON event format. Any other member is an extension attribute: its name has lower-case
/// ASCII letters and digits, its value is a string, a boolean or a 32-bit integer.
#[derive(ToSchema)]
#[schema(as = CloudEvent)]
#[expect(dead_code, reason = "describes what is read and written by hand")]
pub(super) struct EventDoc {
    /// The version of the specification.
    #[schema(pattern = "^1\\.0$", example = "1.0")]
    specversion: String,
    /// The event's name; `source` and `id` together are unique.
    #[schema(min_length = 1)]
    id: String,
    /// Where the event happened, a URI reference.
    #[schema(min_length = 1, example = "/shops/7")]
    source: String,
    /// The kind of event.
    #[serde(rename = "type")]
    #[schema(min_length = 1, example = "com.example.order.placed")]
    type_: String,
    /// When the event happened, RFC 3339; it becomes the record's timestamp.
    time: Option<String>,
    /// The thing to which the event happened.
    subject: Option<String>,
    /// The media type of the data; absent: `application/json`.
    datacontenttype: Option<String>,
    /// The schema of the data, a URI.
    dataschema: Option<String>,
    /// The record's key.
    partitionkey: Option<String>,
    /// Any JSON value if the data is JSON, else a string.
    data: Option<serde_json::Value>,
    /// The data in base64, if it is bytes; used instead of `data`.
    data_base64: Option<String>,
}
