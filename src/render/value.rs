//! The value of a record: raw where it is JSON, Base64 where it is not.

use serde::de::IgnoredAny;

use super::Layout;
use super::text::push_base64;

/// Adds `,"value":…` or `,"value_base64":"…"` for stored bytes that nobody has looked at yet. Cost: one pass over them.
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
        // In valid JSON a raw line break stands only between tokens: in strings it would be a bare control character.
        for byte in &mut out[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

/// Whether the bytes are one JSON text (white space around it is part of it) other than `null`.
fn is_json_and_not_null(stored: &[u8]) -> bool {
    let text = stored.trim_ascii();
    let begins_like_json = matches!(
        text.first(),
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f')
    );
    // Form feeds count as white space for `trim_ascii` but not in JSON, so the parser gets all of the bytes.
    begins_like_json
        && std::str::from_utf8(stored).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(stored: &[u8], layout: Layout) -> String {
        let mut out = Vec::new();
        push_value(&mut out, stored, layout);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_copied_byte_for_byte() {
        for text in [
            "{ \"a\" : 1.50 }",
            "1e400",
            "-0",
            "12345678901234567890123",
            "\"\\u00e9\"",
            "[ ]",
            "true",
            "\"a\u{2028}b\"",
        ] {
            assert_eq!(
                rendered(text.as_bytes(), Layout::Lines),
                format!(",\"value\":{text}")
            );
        }
    }

    #[test]
    fn what_is_not_json_and_null_itself_travel_as_base64() {
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
            assert_eq!(
                rendered(stored, Layout::Document),
                format!(",\"value_base64\":\"{base64}\"")
            );
        }
    }

    #[test]
    fn line_breaks_between_tokens_become_spaces_in_lines_only() {
        let stored = b"{\r\n \"a\\n\": [1,\n2]\n}\n";
        assert_eq!(
            rendered(stored, Layout::Lines),
            ",\"value\":{   \"a\\n\": [1, 2] } "
        );
        assert_eq!(
            rendered(stored, Layout::Document),
            format!(",\"value\":{}", std::str::from_utf8(stored).unwrap())
        );
    }

    #[test]
    fn a_deeply_nested_value_is_still_json() {
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(is_json_and_not_null(&deep));
    }
}
