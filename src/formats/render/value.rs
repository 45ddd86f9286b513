//! The value of a record: JSON unchanged, other bytes as Base64, or the beginning of a long value as text.

use serde::de::IgnoredAny;

use super::text::{push_base64, push_escaped};
use super::{Layout, push_number};
use crate::formats::json::is_json_line;

/// Adds `,"value":…` or `,"value_base64":"…"` for unchecked stored bytes. Cost: one pass over them.
pub(super) fn push_value(out: &mut Vec<u8>, stored: &[u8], layout: Layout) {
    if !is_json_and_not_null(stored) {
        out.extend_from_slice(b",\"value_base64\":\"");
        push_base64(out, stored);
        out.push(b'"');
        return;
    }
    out.extend_from_slice(b",\"value\":");
    let start = out.len();
    out.extend_from_slice(stored);
    if layout == Layout::Lines && memchr::memchr2(b'\n', b'\r', stored).is_some() {
        spaces_for_breaks(&mut out[start..]);
    }
}

/// Whether the bytes are one JSON value (with white space around it) other than `null` that a producer could send: not
/// nested too deep for readers.
pub(crate) fn is_json_and_not_null(stored: &[u8]) -> bool {
    is_json_line(stored) || is_json_over_lines(stored)
}

/// The same for bytes that are not one line: JSON with line breaks or surrounding white space, or no JSON.
#[cold]
fn is_json_over_lines(stored: &[u8]) -> bool {
    let is_json =
        std::str::from_utf8(stored).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    is_json && {
        // Line breaks in JSON stand between tokens, so the meaning stays the same.
        let mut line = stored.trim_ascii().to_vec();
        spaces_for_breaks(&mut line);
        is_json_line(&line)
    }
}

/// Replaces the line breaks between the tokens of valid JSON by spaces; strings have none, because JSON escapes them.
pub(crate) fn spaces_for_breaks(json: &mut [u8]) {
    for byte in json {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

/// Adds the first `limit` bytes of a longer value as `value_text`, with its whole length.
#[cold]
pub(super) fn push_cut(out: &mut Vec<u8>, stored: &[u8], limit: usize) {
    out.extend_from_slice(b",\"value_text\":\"");
    let mut chunks = stored[..limit].utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        push_escaped(out, chunk.valid().as_bytes());
        // Bytes at the end may be the beginning of a character that the limit cuts.
        let is_cut = chunks.peek().is_none() && starts_character(chunk.invalid());
        if !chunk.invalid().is_empty() && !is_cut {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.extend_from_slice(b"\",\"value_bytes\":");
    push_number(out, stored.len());
    out.extend_from_slice(b",\"truncated\":true");
}

/// Whether these bytes are the beginning of a character of UTF-8, and not more.
fn starts_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::json::MAX_DEPTH;

    fn rendered(stored: &[u8], layout: Layout) -> String {
        let mut out = Vec::new();
        push_value(&mut out, stored, layout);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_copied_byte_for_byte() {
        let text = r#"{ "a" : 1.50 }|1e400|-0|12345678901234567890123|"\u00e9"|[ ]|true"#;
        for text in text.split('|').chain(["\"a\u{2028}b\""]) {
            let expected = format!(",\"value\":{text}");
            assert_eq!(rendered(text.as_bytes(), Layout::Lines), expected);
        }
    }

    #[test]
    fn null_and_bytes_that_are_not_json_become_base64() {
        for (stored, base64) in [
            (&b"null"[..], "bnVsbA=="),
            (b" null\n", "IG51bGwK"),
            (b"", ""),
            (b"hello", "aGVsbG8="),
            (b"{\"a\":1", "eyJhIjox"),
            (b"1 2", "MSAy"),
            (b"\"\xff\"", "Iv8i"),
            (b"NaN", "TmFO"),
            (b"\x0c1", "DDE="),
            (b"\"a\nb\"", "ImEKYiI="),
        ] {
            let expected = format!(",\"value_base64\":\"{base64}\"");
            assert_eq!(rendered(stored, Layout::Document), expected);
        }
    }

    #[test]
    fn line_breaks_between_tokens_become_spaces_in_lines_only() {
        let stored = b"{\r\n \"a\\n\": [1,\n2]\n}\n";
        let expected = ",\"value\":{   \"a\\n\": [1, 2] } ";
        assert_eq!(rendered(stored, Layout::Lines), expected);
        let unchanged = format!(",\"value\":{}", str::from_utf8(stored).unwrap());
        assert_eq!(rendered(stored, Layout::Document), unchanged);
    }

    #[test]
    fn of_a_long_value_its_first_bytes_are_text_without_half_a_character() {
        for (stored, limit, text) in [
            (&b"{\"a\":1}"[..], 5, "{\\\"a\\\":"),
            (b"abc", 0, ""),
            ("a\u{20ac}b".as_bytes(), 4, "a\u{20ac}"),
            ("a\u{20ac}b".as_bytes(), 3, "a"),
            ("a\u{20ac}b".as_bytes(), 2, "a"),
            (b"a\xffb\x80c", 4, "a\u{fffd}b\u{fffd}"),
            (b"\xff\n1", 2, "\u{fffd}\\n"),
        ] {
            let mut out = Vec::new();
            push_cut(&mut out, stored, limit);
            let length = stored.len();
            let expected = format!(",\"value_text\":\"{text}\",\"value_bytes\":{length},\"truncated\":true");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{stored:?} {limit}");
        }
    }

    #[test]
    fn json_nested_too_deep_for_producers_becomes_base64() {
        let nested = |depth| [vec![b'['; depth], b"\n".to_vec(), vec![b']'; depth]].concat();
        assert!(rendered(&nested(MAX_DEPTH), Layout::Lines).starts_with(",\"value\":"));
        for depth in [MAX_DEPTH + 1, 100_000] {
            assert!(rendered(&nested(depth), Layout::Lines).starts_with(",\"value_base64\":"));
        }
    }
}
