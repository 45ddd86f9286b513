//! JSON strings, written by hand: most keys and header values need no escape and are copied whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Adds `text` as a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Adds `,"key":"…"`, or `,"key_base64":"…"` where the bytes are not UTF-8.
#[inline]
pub(super) fn push_key(out: &mut Vec<u8>, key: &[u8]) {
    if is_plain(key) {
        out.extend_from_slice(b",\"key\":\"");
        out.extend_from_slice(key);
        out.push(b'"');
    } else if let Ok(text) = std::str::from_utf8(key) {
        out.extend_from_slice(b",\"key\":");
        push_string(out, text);
    } else {
        out.extend_from_slice(b",\"key_base64\":\"");
        push_base64(out, key);
        out.push(b'"');
    }
}

/// Adds `bytes` in the standard Base64 alphabet, padded, without quotes.
pub(crate) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("room for four digits per three bytes was made above");
    debug_assert_eq!(
        written,
        out.len() - start,
        "padded Base64 has a length that its input gives"
    );
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Whether every byte is printable ASCII (or DEL) other than `"` and `\`, so that the text can be copied into a JSON
/// string.
///
/// Eight bytes at a time: a subtraction that borrows leaves the high bit of a byte that is below a bound, and an
/// exclusive or makes the searched bytes zero. Bytes above 0x7f are refused by their own high bit. A borrow may also
/// mark the byte above a true hit, but never one without a hit.
#[inline]
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut bad = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20);
        let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        bad |= (control | quote | backslash | word) & HIGHS;
    }
    bad == 0 && rest.iter().all(|&byte| is_plain_byte(byte))
}

#[inline]
fn is_plain_byte(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\'
}

/// Adds UTF-8 text with `"`, `\` and control characters escaped.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean = 0;
    for (at, &byte) in text.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0x00..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text[clean..at]);
        clean = at + 1;
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'0', b'0', high, low]);
        }
    }
    out.extend_from_slice(&text[clean..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_single_byte_is_judged_plain_or_not_in_every_place_of_a_word() {
        for byte in 0..=255_u8 {
            for place in 0..19 {
                let mut text = [b'a'; 19];
                text[place] = byte;
                assert_eq!(is_plain(&text), is_plain_byte(byte), "{byte:#04x} at {place}");
            }
        }
    }

    #[test]
    fn control_characters_quotes_and_backslashes_are_escaped() {
        let mut out = Vec::new();
        push_string(&mut out, "a\"b\\c\n\r\t\u{8}\u{c}\u{1}\u{1f}ü\u{2028}");
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001fü\u{2028}\"");
    }

    proptest! {
        #[test]
        fn plain_text_is_text_that_needs_no_escape(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(is_plain(&bytes), bytes.iter().all(|&byte| is_plain_byte(byte)));
        }

        #[test]
        fn a_string_comes_back_from_a_parser_as_it_was(text in any::<String>()) {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn base64_is_appended_behind_what_is_there(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut out = b"x".to_vec();
            push_base64(&mut out, &bytes);
            prop_assert_eq!(STANDARD.decode(&out[1..]).unwrap(), bytes);
        }
    }
}
