//! CloudEvents 1.0.2 as records, and records as CloudEvents. Pure: no I/O, no HTTP.
//!
//! An event is stored in the binary mode of the CloudEvents Kafka binding, so a Kafka client reads the same event from
//! the record:
//!
//! | in the event | in the record |
//! |---|---|
//! | an attribute or extension | the header `ce_` and its name; a boolean or an integer in its canonical text |
//! | `datacontenttype` | the header `content-type` |
//! | data | the value: JSON byte for byte as it was sent, a string as its UTF-8, `data_base64` decoded |
//! | no data | no value |
//! | `partitionkey` | the key, and the header `ce_partitionkey` |
//! | `time` | the timestamp, if it can hold the time, and the header `ce_time` |
//!
//! - [`parse_event`] and [`parse_events`] read the JSON event format, one event or a batch; [`read_binary`] reads the
//!   headers of HTTP's binary mode. All check the rules of [`attributes`], and an error names the wrong member.
//! - [`EventRenderer`] writes records as events: a record that came as an event becomes that event again, any other
//!   gets attributes made from its topic, partition and offset.
//!
//! Invariants: no input makes this code panic, recurse, or allocate more than a constant times its own length. The
//! reader accepts whatever the renderer writes. If the record came from an event, the reader restores the same headers
//! and value (except for line breaks between JSON tokens, if the event had to fit one line).

mod attributes;
mod binary;
mod read;
mod render;

pub(crate) use attributes::unquoted;
pub use binary::read_binary;
pub use read::{parse_event, parse_events};
pub use render::EventRenderer;

/// The prefix of the headers that hold attributes.
const PREFIX: &[u8] = b"ce_";
/// The header that holds `datacontenttype`.
const CONTENT_TYPE: &[u8] = b"content-type";
