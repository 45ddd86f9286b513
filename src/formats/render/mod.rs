//! Records as JSON text, for fetches, streams, polls and the command line.
//!
//! ```json
//! {"partition":3,"offset":1042,"timestamp":1357035420000,"key":"N14228","value":{"a":1},"headers":{"type":"x"}}
//! ```
//!
//! A record goes from the bytes of its batch to the bytes of the answer in one pass: nothing is parsed without need,
//! nothing is allocated per record, and a JSON value is copied unchanged.
//!
//! Rules, in the order of the fields:
//! - `topic` stands first, and only where the renderer was given one.
//! - `key`: a string; `key_base64` where the bytes are not UTF-8; `null` where there is none.
//! - `value`: the stored bytes where they are JSON; `value_base64` where they are not, or are a JSON `null` (which would
//!   read as a tombstone), or nest deeper than [`crate::formats::json::MAX_DEPTH`]; `null` for a tombstone.
//!   A value longer than the renderer's limit comes as `value_text`: its first bytes as text, where what is not UTF-8 is
//!   replaced by U+FFFD and a character that is cut is left out. `value_bytes` is then its whole length, and `truncated` is true.
//! - `headers`: always an object.
//!
//! Producing a rendered record stores the same record again, unless its value was cut, and except for: white space around a value sent as raw bytes,
//! the order between headers of different names, and header names that are not UTF-8, which a producer cannot send as
//! JSON either. A record before 1970, which only a record batch can bring, is refused.

mod headers;
pub(crate) mod text;
pub(crate) mod value;

use quipu_segments::batch::Record;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A JSON document: values keep their line breaks.
    Document,
    /// One record a line (NDJSON, `data:` of Server-Sent Events): line breaks between a value's tokens become spaces.
    Lines,
}

/// Renders the records of one partition.
#[derive(Clone, Debug)]
pub struct RecordRenderer {
    /// The text before the offset's digits, the same for every record.
    head: Vec<u8>,
    layout: Layout,
    /// Longer values are cut.
    value_limit: usize,
}

impl RecordRenderer {
    /// A renderer for the records of `partition`, with `topic` in each if given.
    pub fn new(topic: Option<&str>, partition: u32, layout: Layout) -> Self {
        let mut head = b"{".to_vec();
        if let Some(topic) = topic {
            head.extend_from_slice(b"\"topic\":");
            text::push_string(&mut head, topic);
            head.push(b',');
        }
        head.extend_from_slice(b"\"partition\":");
        push_number(&mut head, partition);
        head.extend_from_slice(b",\"offset\":");
        Self {
            head,
            layout,
            value_limit: usize::MAX,
        }
    }

    /// The same, but of values longer than `limit` bytes only so much; `None`: whole values.
    #[must_use]
    pub fn cutting(self, limit: Option<usize>) -> Self {
        Self {
            value_limit: limit.unwrap_or(usize::MAX),
            ..self
        }
    }

    /// Adds `record` to `out` as one JSON object; the caller adds commas and line ends.
    ///
    /// `json_lines`: the value is known to be JSON without line breaks, and not `null`, so it is copied without a check
    /// ([`quipu_segments::Run::json_lines`] of the record's run).
    #[inline]
    pub fn push(&self, out: &mut Vec<u8>, record: &Record<'_>, json_lines: bool) {
        // One reservation that fits nearly every record, so that the pieces below need not grow the buffer.
        out.reserve(
            self.head.len()
                + record.key.map_or(0, <[u8]>::len)
                + record.value.map_or(0, <[u8]>::len).min(self.value_limit)
                + FIXED_BYTES,
        );
        out.extend_from_slice(&self.head);
        push_number(out, record.offset.get());
        out.extend_from_slice(b",\"timestamp\":");
        push_number(out, record.timestamp.get());
        match record.key {
            Some(key) => text::push_key(out, key),
            None => out.extend_from_slice(b",\"key\":null"),
        }
        match record.value {
            Some(stored) if stored.len() > self.value_limit => value::push_cut(out, stored, self.value_limit),
            Some(stored) if json_lines => {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(stored);
            }
            Some(stored) => value::push_value(out, stored, self.layout),
            None => out.extend_from_slice(b",\"value\":null"),
        }
        if record.headers.is_empty() {
            out.extend_from_slice(b",\"headers\":{}}");
        } else {
            headers::push_headers(out, record.headers.iter());
            out.push(b'}');
        }
    }
}

/// Names, punctuation and the digits of two numbers, without key, value and headers.
const FIXED_BYTES: usize = 128;

#[inline]
pub(crate) fn push_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
