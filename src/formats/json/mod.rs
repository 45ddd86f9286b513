//! Reads records from the JSON that clients send. Pure: no I/O, no HTTP.
//!
//! - [`parse_record`] reads one record object in place (an NDJSON line), [`parse_records`] a whole `{"records":[…]}`,
//!   [`parse_addressed`] one in which each record names its topic ([`parse_addressed_list`]: only the array):
//!   keys and values are borrowed from the body, and a value is kept byte for byte. A JSON pointer locates an error.
//! - [`is_json_line`] tells whether stored bytes can be copied into a line of JSON as a `value`.
//!
//! Invariants: no input makes this code panic, recurse, or allocate more than a constant times its own length.

/// Text without the byte order mark that some editors write before it.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

mod lists;
mod parse;
mod scan;

pub(crate) use lists::items;
pub use lists::{parse_addressed, parse_addressed_list, parse_records};
pub use parse::{
    AddressedRecord, DELIVER_AT, ParsedHeader, ParsedRecord, RecordError, is_json_line, json_fault,
    parse_record,
};
pub(crate) use parse::{base64, not_utf8, null, token};
pub use scan::MAX_DEPTH;
pub(crate) use scan::{Fault, Scanner, Text};
