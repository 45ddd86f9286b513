//! A record as clients write it: one JSON object, read in place.
//!
//! | field | is |
//! |---|---|
//! | `value` | any JSON value, kept byte for byte; absent or `null`: a tombstone |
//! | `value_base64` | bytes that are not JSON, or the bytes `null` |
//! | `key` · `key_base64` | a string · any bytes; absent or `null`: no key |
//! | `headers` | an object: each a string, `{"base64":…}`, `null` (a header without a value) or an array of those |
//! | `timestamp` | milliseconds since the Unix epoch, or RFC 3339 |
//! | `partition` | a whole number |
//! | `deliver_at` | a time as in `timestamp`, kept as the header [`DELIVER_AT`] in milliseconds |
//! | `offset`, `topic` | any value, ignored: so a record that a fetch returned can be sent again |
//!
//! In a list for several topics ([`parse_addressed`](super::parse_addressed)) `topic` is a string that each record must have.
//!
//! Any other field, and a field that comes twice, is an error. `null` stands for an absent field wherever a client's
//! serializer may write it: in `key`, `headers`, `timestamp`, `partition`, `deliver_at`, and the fields in base64.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quipu_segments::TimestampMs;

use super::scan::{Fault, Scanner, Text};
use crate::formats::time::parse_time;

/// A record, borrowed from the JSON it was read from, except for strings with escapes and base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedRecord<'a> {
    /// The partition that the record names; it may not exist.
    pub partition: Option<u64>,
    /// The timestamp that the record names.
    pub timestamp: Option<TimestampMs>,
    /// The key's bytes.
    pub key: Option<Cow<'a, [u8]>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Cow<'a, [u8]>>,
    /// Whether the value can be copied into a line of JSON: it is JSON without line breaks, or absent.
    pub json_line: bool,
    /// The headers in order; a name may repeat.
    pub headers: Vec<ParsedHeader<'a>>,
}

impl ParsedRecord<'_> {
    /// The bytes of key, value and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let size = |bytes: &Option<Cow<'_, [u8]>>| bytes.as_ref().map_or(0, |bytes| bytes.len());
        let headers = self.headers.iter().map(|(name, value)| name.len() + size(value));
        size(&self.key) + size(&self.value) + headers.sum::<usize>()
    }
}

/// The header that says when work queues may deliver a record: milliseconds since the Unix epoch, as text.
pub const DELIVER_AT: &str = "deliver_at";

/// A header's name and value.
pub type ParsedHeader<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// A record that names its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressedRecord<'a> {
    /// The name of the topic, which may not exist.
    pub topic: Cow<'a, [u8]>,
    /// The record.
    pub record: ParsedRecord<'a>,
}

/// Why JSON is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct RecordError {
    /// The JSON pointer (RFC 6901) of the field, from the record, or from the body in [`parse_records`](super::parse_records).
    pub pointer: String,
    /// The fault.
    pub detail: String,
}

impl RecordError {
    #[cold]
    pub(crate) fn new(pointer: impl Into<String>, fault: Fault) -> Self {
        Self {
            pointer: pointer.into(),
            detail: format!("{} (at byte {})", fault.what(), fault.at()),
        }
    }

    #[cold]
    pub(crate) fn within(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

/// Reads one record object, the whole of `line` but for white space.
///
/// Cost: one pass; nothing is allocated unless the record has headers, escapes or base64.
///
/// # Errors
/// The fault, with the pointer to the field.
pub fn parse_record(line: &[u8]) -> Result<ParsedRecord<'_>, RecordError> {
    if let Err(error) = std::str::from_utf8(line) {
        let parse = |prefix: &[u8]| parse_record(prefix).err();
        return Err(not_utf8(line, error.valid_up_to(), parse));
    }
    let mut scanner = Scanner::new(line);
    let record = record(&mut scanner)?;
    scanner.end().map_err(|fault| RecordError::new("", fault))?;
    Ok(record)
}

/// Whether `bytes` are one JSON value, without white space around it or line breaks in it, that a reader takes for a
/// value: any but `null`, which a reader takes for a tombstone.
pub fn is_json_line(bytes: &[u8]) -> bool {
    if bytes == b"null" || matches!(bytes.first(), None | Some(b' ' | b'\t' | b'\n' | b'\r')) {
        return false;
    }
    let mut scanner = Scanner::new(bytes);
    scanner.value() == Ok(false) && scanner.position() == bytes.len() && std::str::from_utf8(bytes).is_ok()
}

/// Why `bytes` are not one JSON value, with the byte; `None` if they are one.
pub fn json_fault(bytes: &[u8]) -> Option<String> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Some(not_utf8(bytes, error.valid_up_to(), |_| None).detail);
    }
    let mut scanner = Scanner::new(bytes);
    let fault = scanner.value().and_then(|_| scanner.end()).err()?;
    Some(RecordError::new("", fault).detail)
}

/// The error for JSON that is UTF-8 only up to a byte: it names the field being read there.
#[cold]
pub(crate) fn not_utf8(
    json: &[u8],
    valid: usize,
    parse: impl FnOnce(&[u8]) -> Option<RecordError>,
) -> RecordError {
    let prefix = json.get(..valid).unwrap_or_default();
    let pointer = parse(prefix).map_or_else(String::new, |error| error.pointer);
    RecordError::new(pointer, Fault::new(valid, "bytes that are not UTF-8"))
}

/// A name as a token of a JSON pointer.
pub(crate) fn token(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .replace('~', "~0")
        .replace('/', "~1")
}

#[cold]
pub(super) fn unknown(name: Text<'_>, known: &str) -> RecordError {
    let decoded = name.decode().unwrap_or(Cow::Borrowed(name.raw));
    let shown = String::from_utf8_lossy(&decoded);
    let what = format!("unknown field {shown:?}; known here: {known}");
    RecordError::new(format!("/{}", token(&decoded)), Fault::new(name.at, what))
}

const FIELDS: [&str; 10] = [
    "value",
    "key",
    "timestamp",
    "partition",
    "headers",
    "value_base64",
    "key_base64",
    DELIVER_AT,
    "offset",
    "topic",
];
const VALUE: usize = 0;
const KEY: usize = 1;
const TIMESTAMP: usize = 2;
const PARTITION: usize = 3;
const HEADERS: usize = 4;
const VALUE_BASE64: usize = 5;
const KEY_BASE64: usize = 6;
const DELIVERED_AT: usize = 7;
const TOPIC: usize = 9;

pub(super) fn record<'a>(scanner: &mut Scanner<'a>) -> Result<ParsedRecord<'a>, RecordError> {
    fields::<false>(scanner, &mut None)
}

pub(super) fn addressed<'a>(scanner: &mut Scanner<'a>) -> Result<AddressedRecord<'a>, RecordError> {
    let mut topic = None;
    let record = fields::<true>(scanner, &mut topic)?;
    let missing = || RecordError::new("/topic", Fault::new(scanner.position(), "topic is missing"));
    let topic = topic.ok_or_else(missing)?;
    Ok(AddressedRecord { topic, record })
}

/// Reads a record. If it is `ADDRESSED`, its topic is put into `topic`, else any `topic` is ignored.
#[inline]
fn fields<'a, const ADDRESSED: bool>(
    scanner: &mut Scanner<'a>,
    topic: &mut Option<Cow<'a, [u8]>>,
) -> Result<ParsedRecord<'a>, RecordError> {
    let top = |fault| RecordError::new("", fault);
    let mut record = ParsedRecord {
        json_line: true,
        ..ParsedRecord::default()
    };
    let mut deliver_at = None;
    // A bit for each of FIELDS.
    let mut seen = 0_u32;
    scanner.expect(b'{', "an object, as a record is").map_err(top)?;
    if scanner.eat(b'}') {
        return Ok(record);
    }
    loop {
        let name = scanner.string("a field's name").map_err(top)?;
        let field = match name.escaped {
            true => field_of(&name.decode().map_err(top)?),
            false => field_of(name.raw),
        };
        let Some(field) = field else {
            return Err(unknown(name, &FIELDS.join(", ")));
        };
        let here = |fault| RecordError::new(format!("/{}", FIELDS[field]), fault);
        if seen & 1 << field != 0 {
            let what = format!("{} is given twice", FIELDS[field]);
            return Err(here(Fault::new(name.at, what)));
        }
        seen |= 1 << field;
        let both = || {
            let what = "the plain field and the one in base64 exclude each other";
            here(Fault::new(name.at, what))
        };
        scanner.expect(b':', "':'").map_err(here)?;
        scanner.space();
        match field {
            VALUE => {
                let from = scanner.position();
                let breaks = scanner.value().map_err(here)?;
                let value = scanner.since(from);
                if value != b"null" {
                    if record.value.is_some() {
                        return Err(both());
                    }
                    record.value = Some(Cow::Borrowed(value));
                    record.json_line = !breaks;
                }
            }
            KEY if !null(scanner) => {
                if record.key.is_some() {
                    return Err(both());
                }
                let text = scanner.string("a string (a key of other bytes is key_base64)");
                record.key = Some(text.and_then(Text::decode).map_err(here)?);
            }
            TIMESTAMP if !null(scanner) => record.timestamp = Some(timestamp(scanner).map_err(here)?),
            DELIVERED_AT if !null(scanner) => deliver_at = Some(timestamp(scanner).map_err(here)?),
            PARTITION if !null(scanner) => {
                let number = whole_number(scanner, "a partition is a whole number").map_err(here)?;
                record.partition = Some(number);
            }
            HEADERS if !null(scanner) => record.headers = headers(scanner)?,
            VALUE_BASE64 if !null(scanner) => {
                if record.value.is_some() {
                    return Err(both());
                }
                let value = base64(scanner).map_err(here)?;
                record.json_line = is_json_line(&value);
                record.value = Some(value.into());
            }
            KEY_BASE64 if !null(scanner) => {
                if record.key.is_some() {
                    return Err(both());
                }
                record.key = Some(base64(scanner).map_err(here)?.into());
            }
            KEY | TIMESTAMP | PARTITION | HEADERS | VALUE_BASE64 | KEY_BASE64 | DELIVERED_AT => {}
            TOPIC if ADDRESSED && !null(scanner) => {
                let text = scanner.string("a topic's name, a string");
                *topic = Some(text.and_then(Text::decode).map_err(here)?);
            }
            TOPIC if ADDRESSED => {}
            _ => {
                scanner.value().map_err(here)?;
            }
        }
        if scanner.eat(b'}') {
            if let Some(TimestampMs(time)) = deliver_at {
                let value = time.to_string().into_bytes();
                record
                    .headers
                    .push((Cow::Borrowed(DELIVER_AT.as_bytes()), Some(value.into())));
            }
            return Ok(record);
        }
        scanner.expect(b',', "',' or '}'").map_err(here)?;
    }
}

#[inline]
fn field_of(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"value" => VALUE,
        b"key" => KEY,
        b"timestamp" => TIMESTAMP,
        b"partition" => PARTITION,
        b"headers" => HEADERS,
        b"value_base64" => VALUE_BASE64,
        b"key_base64" => KEY_BASE64,
        b"deliver_at" => DELIVERED_AT,
        b"offset" => 8,
        b"topic" => TOPIC,
        _ => return None,
    })
}

/// Skips a `null`, if one comes next.
#[inline]
pub(crate) fn null(scanner: &mut Scanner<'_>) -> bool {
    if scanner.peek() != Some(b'n') {
        return false;
    }
    // Any other token with an n is no JSON; the caller refuses it.
    let mut ahead = scanner.clone();
    let found = ahead.value().is_ok();
    if found {
        *scanner = ahead;
    }
    found
}

#[inline]
fn whole_number(scanner: &mut Scanner<'_>, what: &'static str) -> Result<u64, Fault> {
    let from = scanner.position();
    scanner.whole_number().ok_or_else(|| Fault::new(from, what))
}

fn timestamp(scanner: &mut Scanner<'_>) -> Result<TimestampMs, Fault> {
    const WHAT: &str =
        "a time is milliseconds since the Unix epoch, or RFC 3339 as in \"2013-07-01T00:00:00Z\"";
    let from = scanner.position();
    if scanner.peek() == Some(b'"') {
        let text = scanner.string("a time")?.decode()?;
        // Milliseconds must be a number: a string of digits is more likely a mistake than a time.
        let text = std::str::from_utf8(&text).ok().filter(|text| text.contains('-'));
        return text.and_then(parse_time).ok_or_else(|| Fault::new(from, WHAT));
    }
    let millis = i64::try_from(whole_number(scanner, WHAT)?);
    millis.map(TimestampMs).map_err(|_| Fault::new(from, WHAT))
}

pub(crate) fn base64(scanner: &mut Scanner<'_>) -> Result<Vec<u8>, Fault> {
    let text = scanner.string("a string in base64")?;
    let decoded = BASE64_STANDARD.decode(text.decode()?);
    let what = "not base64: RFC 4648 has A-Z a-z 0-9 + / in groups of four, the last one padded with =";
    decoded.map_err(|_| Fault::new(text.at, what))
}

/// The most headers of one record, far above the limit of a server: each takes more memory than it has bytes in JSON.
const MAX_HEADERS: usize = 10_000;
/// The most bytes of their names, counted again for each value of a name.
const MAX_NAME_BYTES: usize = 4 << 20;

/// A header's value; `None` if it has none.
type HeaderValue<'a> = Option<Cow<'a, [u8]>>;

fn headers<'a>(scanner: &mut Scanner<'a>) -> Result<Vec<ParsedHeader<'a>>, RecordError> {
    let top = |fault| RecordError::new("/headers", fault);
    let mut headers: Vec<ParsedHeader<'a>> = Vec::new();
    scanner.expect(b'{', "an object of headers").map_err(top)?;
    if scanner.eat(b'}') {
        return Ok(headers);
    }
    let mut names = std::collections::HashSet::new();
    let mut name_bytes = 0;
    loop {
        let text = scanner.string("a header's name").map_err(top)?;
        let name = text.decode().map_err(top)?;
        let here = |fault| RecordError::new(format!("/headers/{}", token(&name)), fault);
        // While they are few, as they usually are, comparing with each earlier name is cheaper than a set.
        let repeated = if headers.len() <= 16 {
            headers.iter().any(|(earlier, _)| *earlier == name)
        } else {
            if names.is_empty() {
                names.extend(headers.iter().map(|(name, _)| name.clone()));
            }
            !names.insert(name.clone())
        };
        if repeated {
            let what = "the name is given twice: put the values into an array";
            return Err(here(Fault::new(text.at, what)));
        }
        scanner.expect(b':', "':'").map_err(here)?;
        let is_array = scanner.eat(b'[');
        for index in 0.. {
            let value = header_value(scanner).map_err(|error| match is_array {
                true => error.within(&format!("/headers/{}/{index}", token(&name))),
                false => error.within(&format!("/headers/{}", token(&name))),
            })?;
            name_bytes += name.len();
            if headers.len() == MAX_HEADERS || name_bytes > MAX_NAME_BYTES {
                return Err(here(Fault::new(text.at, "too many headers")));
            }
            headers.push((name.clone(), value));
            if !is_array || scanner.eat(b']') {
                break;
            }
            scanner.expect(b',', "',' or ']'").map_err(here)?;
        }
        if scanner.eat(b'}') {
            return Ok(headers);
        }
        scanner.expect(b',', "',' or '}'").map_err(top)?;
    }
}

fn header_value<'a>(scanner: &mut Scanner<'a>) -> Result<HeaderValue<'a>, RecordError> {
    let top = |fault| RecordError::new("", fault);
    scanner.space();
    match scanner.peek() {
        Some(b'"') => {
            let text = scanner.string("a string").and_then(Text::decode);
            Ok(Some(text.map_err(top)?))
        }
        Some(b'{') => {
            scanner.expect(b'{', "{").map_err(top)?;
            let name = scanner.string("\"base64\"").map_err(top)?;
            if &*name.decode().map_err(top)? != b"base64" {
                return Err(unknown(name, "base64"));
            }
            let here = |fault| RecordError::new("/base64", fault);
            scanner.expect(b':', "':'").map_err(here)?;
            let value = base64(scanner).map_err(here)?;
            scanner.expect(b'}', "'}'").map_err(top)?;
            Ok(Some(value.into()))
        }
        _ if null(scanner) => Ok(None),
        _ => {
            let expected = "a header's value: a string, {\"base64\":…}, null, or an array of those";
            Err(top(scanner.unexpected(expected)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::json::{MAX_DEPTH, parse_addressed, parse_addressed_list, parse_records};

    fn parse(json: &str) -> ParsedRecord<'_> {
        parse_record(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn a_record_of_several_topics_names_its_topic_and_is_otherwise_like_any_other() {
        let body = br#"{"records":[{"topic":"a","key":"k","value":[1, 2]},{"value":1,"topic":"b\u002dc","offset":{}}]}"#;
        let mut found = Vec::new();
        let count = parse_addressed(body, |index, addressed| {
            found.push((index, addressed));
            Ok::<(), RecordError>(())
        });
        assert_eq!(count, Ok(2));
        let (topics, records): (Vec<_>, Vec<_>) = found
            .iter()
            .map(|(_, addressed)| (&*addressed.topic, &addressed.record))
            .unzip();
        assert_eq!(topics, [&b"a"[..], b"b-c"]);
        assert_eq!(*records[0], parse(r#"{"key":"k","value":[1, 2]}"#));
        assert_eq!(*records[1], parse(r#"{"value":1}"#));
        for (wrong, pointer) in [
            (&br#"{"records":[]}"#[..], "/records"),
            (br#"{"records":[{"topic":"a"},{"value":1}]}"#, "/records/1/topic"),
            (br#"{"records":[{}]}"#, "/records/0/topic"),
            (br#"{"records":[{"topic":null}]}"#, "/records/0/topic"),
            (br#"{"records":[{"topic":7}]}"#, "/records/0/topic"),
            (br#"{"records":[{"topic":"a","topic":"a"}]}"#, "/records/0/topic"),
            (br#"{"records":[{"topic":"a","tpic":"a"}]}"#, "/records/0/tpic"),
            (br#"{"records":[{"topic":"a","key":1}]}"#, "/records/0/key"),
            (b"{\"records\":[{\"topic\":\"\xff\"}]}", "/records/0/topic"),
            (br#"{"topic":"a","records":[{}]}"#, "/topic"),
        ] {
            let error = parse_addressed(wrong, |_, _| Ok::<(), RecordError>(())).unwrap_err();
            assert_eq!(error.pointer, pointer, "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn a_list_within_another_document_has_the_pointers_of_that() {
        let mut topics = Vec::new();
        let list = r#" [{"topic":"a","value":1}, {"topic":"b"}] "#;
        let count = parse_addressed_list(list, "/produce", |_, addressed| {
            topics.push(addressed.topic);
            Ok::<(), RecordError>(())
        });
        assert_eq!((count, topics), (Ok(2), vec![b"a"[..].into(), b"b"[..].into()]));
        let ignore = |_, _: AddressedRecord<'_>| Ok::<(), RecordError>(());
        assert_eq!(parse_addressed_list("[]", "/produce", ignore), Ok(0));
        for (wrong, pointer) in [
            ("{}", "/produce"),
            ("null", "/produce"),
            ("[{}", "/produce/0/topic"),
            (r#"[{"topic":"a"}"#, "/produce"),
            (r#"[{"topic":"a"}]]"#, "/produce"),
            (
                r#"[{"topic":"a"},{"topic":"a","partition":-1}]"#,
                "/produce/1/partition",
            ),
        ] {
            let error = parse_addressed_list(wrong, "/produce", ignore).unwrap_err();
            assert_eq!(error.pointer, pointer, "{wrong}");
        }
    }

    fn pointer(json: &[u8]) -> String {
        let error = parse_record(json).expect_err(&String::from_utf8_lossy(json));
        assert!(!error.detail.is_empty());
        error.pointer
    }

    fn bytes(text: &str) -> Option<Cow<'_, [u8]>> {
        Some(text.as_bytes().into())
    }

    fn records(body: &[u8]) -> Result<usize, RecordError> {
        parse_records(body, |_, _| Ok(()))
    }

    #[test]
    fn a_whole_number_may_have_a_fraction_of_zeros() {
        let record = parse(r#"{"partition":10.00,"timestamp":5.0}"#);
        assert_eq!(
            (record.partition, record.timestamp),
            (Some(10), Some(TimestampMs(5)))
        );
    }

    #[test]
    fn every_field_is_read() {
        let json = r#" {"partition":3,"offset":1042,"timestamp":1357035420000,"key":"N14228","value":{ "event" : "FlightDeparted"},"headers":{"type":"FlightDeparted"},"topic":"t"} "#;
        let record = parse(json);
        let expected = ParsedRecord {
            partition: Some(3),
            timestamp: Some(TimestampMs(1_357_035_420_000)),
            key: bytes("N14228"),
            value: bytes(r#"{ "event" : "FlightDeparted"}"#),
            json_line: true,
            headers: vec![(b"type"[..].into(), bytes("FlightDeparted"))],
        };
        assert_eq!(record, expected);
        for part in [record.key, record.value] {
            let holds = matches!(part, Some(Cow::Borrowed(_)));
            assert!(holds, "what has no escapes is not copied");
        }
    }

    #[test]
    fn an_absent_and_a_null_value_are_tombstones_and_a_null_in_base64_is_a_value() {
        let json_line = true;
        assert_eq!(
            parse("{}"),
            ParsedRecord {
                json_line,
                ..ParsedRecord::default()
            }
        );
        assert_eq!(parse("{ }"), parse("{}"));
        assert_eq!(parse(r#"{"value":null}"#), parse("{}"));
        let record = parse(r#"{"value_base64":"bnVsbA=="}"#);
        assert_eq!(record.value, bytes("null"));
        assert!(!record.json_line, "readers take a null for a tombstone");
        assert_eq!(parse(r#"{"value_base64":""}"#).value, bytes(""));
        assert_eq!(parse(r#"{"value":"null"}"#).value, bytes("\"null\""));
    }

    #[test]
    fn null_stands_for_an_absent_key_partition_time_and_headers() {
        for nulls in [
            r#"{"key":null,"partition":null,"timestamp":null,"headers":null}"#,
            r#"{"key_base64":null,"value_base64":null}"#,
        ] {
            assert_eq!(parse(nulls), parse("{}"));
        }
        let all = parse(r#"{"key":null,"key_base64":"YQ==","value":null,"value_base64":"YQ=="}"#);
        let swapped = parse(r#"{"value_base64":"YQ==","value":null,"key_base64":"YQ==","key":null}"#);
        assert_eq!((&all.key, &all.value), (&bytes("a"), &bytes("a")));
        assert_eq!(all, swapped);
        assert_eq!(parse(r#"{"key":""}"#).key, bytes(""), "an empty key is a key");
    }

    #[test]
    fn escapes_are_decoded_in_names_keys_and_headers_and_kept_in_values() {
        let record = parse(r#"{"k\u0065y":"\u00e9\ud83d\ude00","value":"\u00e9","headers":{"\u0061":"\n"}}"#);
        assert_eq!(record.key, bytes("\u{e9}\u{1f600}"));
        assert_eq!(record.value, bytes(r#""\u00e9""#));
        assert_eq!(record.headers, [(b"a"[..].into(), bytes("\n"))]);
    }

    #[test]
    fn header_values_are_strings_base64_null_or_arrays_of_those() {
        let record =
            parse(r#"{"headers":{"a":"x","b":{"base64":"/w=="},"c":["1",{"base64":"Mg=="},null],"d":null}}"#);
        let expected: [(&str, Option<&[u8]>); 6] = [
            ("a", Some(b"x")),
            ("b", Some(b"\xff")),
            ("c", Some(b"1")),
            ("c", Some(b"2")),
            ("c", None),
            ("d", None),
        ];
        let rows = record.headers.iter();
        let headers = rows.map(|(name, value)| (&**name, value.as_deref()));
        let holds = headers.eq(expected.map(|(name, value)| (name.as_bytes(), value)));
        assert!(holds, "{record:?}");
    }

    #[test]
    fn timestamps_are_milliseconds_or_rfc_3339() {
        for (json, millis) in [
            ("0", 0),
            ("1372636800000", 1_372_636_800_000),
            ("9223372036854775807", i64::MAX),
            ("\"2013-07-01T00:00:00Z\"", 1_372_636_800_000),
            ("\"2013-07-01T02:00:00.5+02:00\"", 1_372_636_800_500),
        ] {
            let json = format!("{{\"timestamp\":{json}}}");
            assert_eq!(parse(&json).timestamp, Some(TimestampMs(millis)), "{json}");
        }
        let wrong = r#"-1 1.5 1e3 9223372036854775808 true {} "1372636800000" "yesterday" "" NaN"#;
        for json in wrong.split(' ') {
            let json = format!("{{\"timestamp\":{json}}}");
            assert_eq!(pointer(json.as_bytes()), "/timestamp", "{json}");
        }
    }

    #[test]
    fn offset_and_topic_may_be_anything_that_is_json() {
        let json = r#"{"offset":null,"topic":{"a":[]},"value":1}"#;
        assert_eq!(parse(json).value, bytes("1"));
        assert_eq!(pointer(br#"{"offset":NaN}"#), "/offset");
    }

    #[test]
    fn a_fault_has_its_pointer() {
        for row in [
            r#"/vlaue {"vlaue":1}"#,
            r#"/a~1b~0c {"a/b~c":1}"#,
            r#"/offset {"offset":1,"offset":1}"#,
            r#"/key {"key":7} {"key":["a"]} {"key":"\ud800"} {"key":nul}"#,
            r#"/key_base64 {"key":"a","key_base64":"YQ=="} {"key_base64":"a"} {"key_base64":"_w=="}"#,
            r#"/value {"value":1,"value":2} {"value":1,"v\u0061lue":2} {"value_base64":"YQ==","value":1} {"value":1"#,
            r#"/value {"value":NaN} {"value":01} {"value":{"a":}} {"value":"\q"} {"value":}"#,
            r#"/value_base64 {"value_base64":7}"#,
            r#"/partition {"partition":-1} {"partition":"1"} {"partition":1.5} {"partition":1.01} {"partition":1.} {"partition":1.0e1} {"partition":01.0}"#,
            r#"/headers {"headers":[]}"#,
            r#"/headers/a {"headers":{"a":1}} {"headers":{"a":"1","a":"2"}} {"headers":{"a":{"base64":"","x":1}}}"#,
            r#"/headers/a/0 {"headers":{"a":[]}}"#,
            r#"/headers/a/1 {"headers":{"a":["x",["y"]]}}"#,
            r#"/headers/a/base64 {"headers":{"a":{"base64":1}}}"#,
            r#"/headers/a/bas64 {"headers":{"a":{"bas64":""}}}"#,
            r#"/headers/a~1b {"headers":{"a/b":1}}"#,
            " [] 1 { \u{feff}{}",
            r#" {"value":1,}"#,
        ] {
            let (expected, all) = row.split_once(' ').unwrap();
            for json in all.split(' ') {
                assert_eq!(pointer(json.as_bytes()), expected, "{json}");
            }
        }
        for (json, expected) in [("", ""), ("{} {}", ""), (r#"{"value" 1}"#, "/value")] {
            assert_eq!(pointer(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_named_by_the_field_they_are_in() {
        assert_eq!(pointer(b"{\"key\":\"\xff\"}"), "/key");
        assert_eq!(pointer(b"{\"value\":[\"a\",\"\xc3\"]}"), "/value");
        assert_eq!(pointer(b"{\"headers\":{\"h\":\"\xed\xa0\x80\"}}"), "/headers/h");
        assert_eq!(pointer(b"{}\xff"), "");
        let error = records(b"{\"records\":[{},{\"key\":\"\xff\"}]}").unwrap_err();
        assert_eq!(error.pointer, "/records/1/key");
        assert!(error.detail.contains("UTF-8"), "{error}");
    }

    #[test]
    fn deep_nesting_is_refused_with_its_field() {
        let nested = |depth: usize| format!("{{\"value\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_record(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(pointer(nested(MAX_DEPTH + 1).as_bytes()), "/value");
        assert_eq!(pointer(nested(1_000_000).as_bytes()), "/value");
        assert_eq!(pointer("{\"value\":".repeat(100_000).as_bytes()), "/value");
        let headers = "{\"headers\":".repeat(100_000);
        assert_eq!(pointer(headers.as_bytes()), "/headers/headers/headers");
        assert!(records("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(records("{\"records\":[".repeat(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn many_headers_are_read_and_too_many_are_refused() {
        let named = |count: usize| {
            let all: Vec<String> = (0..count).map(|number| format!("\"{number}\":\"\"")).collect();
            format!("{{\"headers\":{{{}}}}}", all.join(","))
        };
        assert_eq!(parse(&named(MAX_HEADERS)).headers.len(), MAX_HEADERS);
        assert_eq!(pointer(named(MAX_HEADERS + 1).as_bytes()), "/headers/10000");
        let repeated = format!("{{\"headers\":{{\"a\":[{}\"\"]}}}}", "\"\",".repeat(MAX_HEADERS));
        assert_eq!(pointer(repeated.as_bytes()), "/headers/a");
        let twice = named(100).replace("\"99\":", "\"3\":");
        assert_eq!(pointer(twice.as_bytes()), "/headers/3");
        let name = "a".repeat(1 << 20);
        let long = format!(r#"{{"headers":{{"\n{name}":["","","","",""]}}}}"#);
        assert!(parse_record(long.as_bytes()).is_err());
    }

    #[test]
    fn a_body_is_one_list_of_at_least_one_record() {
        let two = br#" { "records" : [ {"value":1} , {"key":"a"} ] } "#;
        assert_eq!(records(two), Ok(2));
        for (body, expected) in [
            (r#"{"records":[]}"#, "/records"),
            ("{}", "/records"),
            ("", ""),
            ("[]", ""),
            (r#"{"records":{}}"#, "/records"),
            (r#"{"records":null}"#, "/records"),
            (r#"{"records":[{}],"records":[{}]}"#, "/records"),
            (r#"{"records":[{}],"x":1}"#, "/x"),
            (r#"{"record":[{}]}"#, "/record"),
            (r#"{"records":[{}]}{}"#, ""),
            (r#"{"records":[{}]"#, ""),
            (r#"{"records":[{}"#, "/records"),
            (r#"{"records":[{},]}"#, "/records/1"),
            (r#"{"records":[{},1]}"#, "/records/1"),
            (r#"{"records":[{},{},{},{"vlaue":1}]}"#, "/records/3/vlaue"),
        ] {
            let found = records(body.as_bytes()).expect_err(body).pointer;
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn only_one_line_json_other_than_null_is_copied_into_a_line() {
        for line in ["1", "\"a\"", "{\"a\": [1, 2]}", "\"null\""] {
            assert!(is_json_line(line.as_bytes()), "{line}");
        }
        for no_line in [
            "", "null", " 1", "1 ", "1\n", "[1,\n2]", "[1,\r2]", "1 2", "abc", "{",
        ] {
            assert!(!is_json_line(no_line.as_bytes()), "{no_line:?}");
        }
        assert!(!is_json_line(b"\"\xff\""));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_record(&bytes);
            let _ = records(&bytes);
            let _ = is_json_line(&bytes);
        }

        #[test]
        fn no_cut_and_no_changed_byte_makes_it_panic(cut in 0_usize..200, at in 0_usize..200, byte in any::<u8>()) {
            let json = r#"{"partition":3,"timestamp":"2013-07-01T00:00:00Z","key":"N\u00e9","value":{"a":[1,-2.5e3,null]},"headers":{"t":["x",{"base64":"YQ=="}]}}"#;
            let mut bytes = json.as_bytes().to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = parse_record(&bytes);
            bytes.truncate(cut);
            prop_assert!(cut >= json.len() || parse_record(&bytes).is_err());
        }
    }
}
