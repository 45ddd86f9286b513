//! A CloudEvent as the OpenAPI document shows it.

use utoipa::ToSchema;

/// A CloudEvent 1.0.2 in the JSON event format. Any other member is an extension attribute: its name lower-case ASCII letters and
/// digits, its value a string, a boolean or an integer of 32 bits.
#[derive(ToSchema)]
#[schema(as = CloudEvent)]
#[expect(dead_code, reason = "describes what is read and written by hand")]
pub(super) struct EventDoc {
    /// The version of the specification.
    #[schema(pattern = "^1\\.0$", example = "1.0")]
    specversion: String,
    /// Names the event; with `source` it is unique.
    #[schema(min_length = 1)]
    id: String,
    /// Where it happened, a URI reference.
    #[schema(min_length = 1, example = "/shops/7")]
    source: String,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(min_length = 1, example = "com.example.order.placed")]
    type_: String,
    /// When it happened, RFC 3339; the record's timestamp.
    time: Option<String>,
    /// What it happened to.
    subject: Option<String>,
    /// The media type of the data; absent: `application/json`.
    datacontenttype: Option<String>,
    /// The schema of the data, a URI.
    dataschema: Option<String>,
    /// The record's key.
    partitionkey: Option<String>,
    /// Any JSON value where the data is JSON, else a string.
    data: Option<serde_json::Value>,
    /// The data where it is bytes, in place of `data`.
    data_base64: Option<String>,
}
