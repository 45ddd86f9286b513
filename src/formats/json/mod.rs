//! Records between the JSON in which clients write them and the batches in which they are stored. Pure: no I/O, no HTTP.
//!
//! - [`parse_record`] reads one record object in place (an NDJSON line), [`parse_records`] a whole `{"records":[…]}`: keys and values
//!   are borrowed from the body, and a value is kept byte for byte. They tell what is wrong by a JSON pointer.
//! - [`is_json_line`] says whether stored bytes can stand as a `value` in a line of JSON as they are.
//!
//! Invariants: no input makes anything here panic, recurse, or allocate more than a constant times its own length.

/// Text without the byte order mark that some editors write before it.
#[must_use]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

mod parse;
mod scan;

pub use parse::{ParsedHeader, ParsedRecord, RecordError, is_json_line, parse_record, parse_records};
pub(crate) use parse::{base64, not_utf8, null, token};
pub use scan::MAX_DEPTH;
pub(crate) use scan::{Fault, Scanner, Text};
