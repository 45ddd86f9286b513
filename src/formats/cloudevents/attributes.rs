//! The legal names and values of event attributes, and the meaning of a content type for the data.
//!
//! Readers and renderer share these rules, so every event written here can be read here.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{CONTENT_TYPE, PREFIX};
use crate::formats::json::ParsedRecord;
use crate::formats::time::parse_rfc3339;
use quipu_segments::TimestampMs;

/// The most attributes of one event, far above the header limit of a server: each takes more memory than it has bytes.
const MAX_ATTRIBUTES: usize = 10_000;

/// The attributes of every event, in the order in which missing ones are reported.
pub(super) const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// Whether an attribute can have this name: lower-case letters and digits, and not `data`.
pub(super) fn is_name(name: &[u8]) -> bool {
    name != b"data" && is_word(name)
}

fn is_word(name: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty() && name.iter().all(legal)
}

/// Whether the specification defines the attribute, or it has a meaning here.
pub(super) fn is_known(name: &[u8]) -> bool {
    is_text(name) || name == b"specversion"
}

/// Whether the attribute must be a non-empty text.
pub(super) fn is_text(name: &[u8]) -> bool {
    matches!(
        name,
        b"id"
            | b"source"
            | b"type"
            | b"subject"
            | b"datacontenttype"
            | b"dataschema"
            | b"time"
            | b"partitionkey"
            | b"specversion"
    )
}

/// The fault of an attribute, if it has one.
pub(super) fn fault(name: &[u8], value: &[u8]) -> Option<Cow<'static, str>> {
    if name == b"data" {
        return Some("data is no attribute: it is the body".into());
    }
    if !is_word(name) {
        return Some("an attribute's name is lower-case ASCII letters and digits".into());
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return Some("the value is not UTF-8".into());
    };
    if text.chars().any(is_forbidden) {
        return Some("the value has a control character or a code point that is no character".into());
    }
    match name {
        b"specversion" if text != "1.0" => Some(format!("specversion must be 1.0, not {text:?}").into()),
        b"time" if instant(text).is_none() => {
            Some(format!("time must be RFC 3339 as in 2018-04-05T17:31:00Z, not {text:?}").into())
        }
        _ if text.is_empty() && is_text(name) => Some("the value is empty".into()),
        _ => None,
    }
}

/// Whether a character is forbidden in an event's strings.
fn is_forbidden(character: char) -> bool {
    let code = character as u32;
    character.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// A time in the one form that RFC 3339 allows.
fn instant(text: &str) -> Option<TimestampMs> {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let (start, rest) = bytes.split_at_checked(shape.len())?;
    let fits = start.iter().zip(shape).all(|(byte, shape)| match shape {
        b'd' => byte.is_ascii_digit(),
        other => byte.eq_ignore_ascii_case(other),
    });
    // The point and the digits behind it, at least one.
    let fraction = match rest.strip_prefix(b".") {
        None => 0,
        Some(digits) => 1 + digits.iter().take_while(|byte| byte.is_ascii_digit()).count(),
    };
    let offset = &rest[fraction..];
    let is_offset = match offset {
        b"Z" | b"z" => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    if !fits || !is_offset || fraction == 1 {
        return None;
    }
    let offset = std::str::from_utf8(offset).ok()?;
    // At most nine digits of a second here; the standard sets no bound.
    let normal = format!(
        "{}{}{}",
        text.get(..shape.len())?,
        text.get(shape.len()..shape.len() + fraction.min(10))?,
        if offset == "-00:00" { "Z" } else { offset }
    );
    parse_rfc3339(&normal.to_ascii_uppercase())
}

/// A set of names.
#[derive(Default)]
pub(super) struct Names<'a> {
    /// Comparing with each name is cheaper than hashing while they are few, as they usually are.
    few: Vec<Cow<'a, [u8]>>,
    many: HashSet<Cow<'a, [u8]>>,
}

impl Names<'_> {
    fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }
}

impl<'a> Names<'a> {
    /// Whether the name is new.
    pub(super) fn insert(&mut self, name: Cow<'a, [u8]>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < 16 {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}

/// A record under construction from an event's attributes.
#[derive(Default)]
pub(super) struct Draft<'a> {
    record: ParsedRecord<'a>,
    names: Names<'a>,
    content_type: Option<Cow<'a, [u8]>>,
    /// A bit for each of [`REQUIRED`].
    required: u8,
}

impl<'a> Draft<'a> {
    /// Notes that the event has a member of this name.
    ///
    /// # Errors
    /// The name is repeated, or the event has too many.
    pub(super) fn name(&mut self, name: Cow<'a, [u8]>) -> Result<(), Cow<'static, str>> {
        if !self.names.insert(name) {
            return Err("it is given twice".into());
        }
        // A null member takes a place too.
        if self.names.len() > MAX_ATTRIBUTES {
            return Err("too many attributes".into());
        }
        Ok(())
    }

    /// Adds an attribute; its name was noted before.
    ///
    /// # Errors
    /// The attribute's fault.
    pub(super) fn attribute(&mut self, name: &[u8], value: Cow<'a, [u8]>) -> Result<(), Cow<'static, str>> {
        if let Some(fault) = fault(name, &value) {
            return Err(fault);
        }
        if let Some(index) = REQUIRED.iter().position(|required| required.as_bytes() == name) {
            self.required |= 1 << index;
        }
        match name {
            b"partitionkey" => self.record.key = Some(value.clone()),
            b"time" => self.record.timestamp = std::str::from_utf8(&value).ok().and_then(instant),
            b"datacontenttype" => self.content_type = Some(value.clone()),
            _ => {}
        }
        let header: Cow<'_, [u8]> = match name {
            b"datacontenttype" => Cow::Borrowed(CONTENT_TYPE),
            _ => Cow::Owned([PREFIX, name].concat()),
        };
        self.record.headers.push((header, Some(value)));
        Ok(())
    }

    /// The encoding of the data, by `datacontenttype`.
    pub(super) fn content(&self) -> Content {
        self.content_type.as_deref().map_or(Content::Json, Content::of)
    }

    /// The record, without a value yet; or the name of a missing attribute.
    pub(super) fn finish(self) -> Result<ParsedRecord<'a>, &'static str> {
        let missing = (0..REQUIRED.len()).find(|index| self.required & 1 << index == 0);
        missing.map_or(Ok(self.record), |index| Err(REQUIRED[index]))
    }
}

/// The encoding of data, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON; also the default without a content type.
    Json,
    /// Text in UTF-8, which readers get as a string.
    Text,
    /// Bytes; an event may send them as a string, which stands for its UTF-8.
    Bytes,
    /// Text in an encoding other than UTF-8: bytes that no string stands for.
    Encoded,
}

impl Content {
    pub(super) fn of(content_type: &[u8]) -> Self {
        let lower = content_type.to_ascii_lowercase();
        let mut parts = lower.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let essence = parts.next().unwrap_or_default();
        let (main, sub) = match memchr::memchr(b'/', essence) {
            Some(at) => (&essence[..at], &essence[at + 1..]),
            None => (essence, &b""[..]),
        };
        if sub == b"json" || sub.ends_with(b"+json") {
            return Self::Json;
        }
        let charset = parts.find_map(|part| part.strip_prefix(b"charset="));
        match charset.map(|charset| unquoted(charset.trim_ascii())) {
            None if main == b"text" || sub == b"xml" || sub.ends_with(b"+xml") => Self::Text,
            None => Self::Bytes,
            Some(b"utf-8" | b"utf8" | b"us-ascii") => Self::Text,
            Some(_) => Self::Encoded,
        }
    }
}

/// A parameter's value without the quotes around it.
pub(crate) fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_nothing_else() {
        for (text, millis) in [
            ("2018-04-05T17:31:00Z", 1_522_949_460_000),
            ("2018-04-05t17:31:00z", 1_522_949_460_000),
            ("2018-04-05T19:31:00.25+02:00", 1_522_949_460_250),
            ("2018-04-05T17:31:00.123999999999Z", 1_522_949_460_123),
            ("2018-04-05T17:31:00-00:00", 1_522_949_460_000),
            ("1969-12-31T23:59:59Z", 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ] {
            assert_eq!(instant(text), Some(TimestampMs(millis)), "{text}");
        }
        assert!(instant("2016-12-31T23:59:60Z").is_some(), "a leap second");
        let wrong = "1522949460000 2018-04-05 2018-04-05T17:31:00 2018-04-05T17:31Z 2018-04-05T17:31:00.Z \
            2018-04-05T17:31:00+0200 2018-04-05T17:31:00Z[UTC] 2018-13-05T17:31:00Z 2018-04-05T25:31:00Z \
            20180405T173100Z 2018-04-05T17:31:00Zx 2018-04-05T17:31:0\u{fc}Z";
        for text in wrong.split(' ').chain(["", "2018-04-05 17:31:00Z"]) {
            assert_eq!(instant(text), None, "{text}");
        }
    }

    #[test]
    fn the_content_type_says_how_data_is_written() {
        for (content, texts) in [
            (Content::Json, "application/json|text/json"),
            (Content::Json, "Application/JSON; charset=utf-16"),
            (Content::Json, "application/vnd.x+json;v=1"),
            (Content::Text, "text/plain|text/plain; Charset=\"UTF-8\""),
            (Content::Text, "application/xml|image/svg+xml"),
            (Content::Text, "application/x; charset=utf-8"),
            (Content::Encoded, "text/plain; charset=latin1"),
            (Content::Bytes, "application/octet-stream|application/jsonx|json"),
        ] {
            for text in texts.split('|') {
                assert_eq!(Content::of(text.as_bytes()), content, "{text}");
            }
        }
    }

    #[test]
    fn names_are_lower_case_letters_and_digits() {
        for name in ["id", "a", "7", "traceparent", "comexampleextension1"] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in ["", "Id", "a_b", "a-b", "data", "data_base64", "\u{e9}"] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn values_are_text_without_control_characters() {
        assert_eq!(fault(b"x", b""), None, "an extension may be empty");
        assert_eq!(fault(b"subject", "caf\u{e9} \u{1f600}".as_bytes()), None);
        for value in [&b"a\nb"[..], b"\x7f", b"\xc2\x85", "\u{fffe}".as_bytes(), b"\xff"] {
            assert!(fault(b"x", value).is_some(), "{value:?}");
        }
        let texts = "id source type subject datacontenttype dataschema time partitionkey specversion";
        for name in texts.split(' ') {
            assert!(fault(name.as_bytes(), b"").is_some(), "{name}");
        }
    }
}
