//! How `quipu consume` prints a record: as it came, its value alone, or by a template (`--format '%k %v\n'`).

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use quipu::formats::pattern::Pattern;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cli::output::time_ms;

/// A record's line, its value and headers as they were sent.
#[derive(Debug, Deserialize)]
pub(super) struct Record<'a> {
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    partition: u32,
    pub(super) offset: u64,
    timestamp: i64,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    value_base64: Option<Cow<'a, str>>,
    headers: Option<serde_json::Map<String, Value>>,
}

impl<'a> Record<'a> {
    /// Reads a line.
    /// Errors: The line is not a record.
    pub(super) fn parse(line: &'a [u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(line)
            .map_err(|error| anyhow::anyhow!("the server sent a line that is no record: {error}"))
    }

    /// Whether it has that key, if one is asked for, and each of these headers with a value that matches one of the
    /// patterns of its name.
    pub(super) fn matches(&self, key: Option<&str>, headers: &[(String, Pattern)]) -> bool {
        let has = |(name, _): &(String, Pattern)| {
            let found = self.headers.as_ref().and_then(|headers| headers.get(name));
            let is_wanted = |value: Vec<u8>| {
                let mut of_name = headers.iter().filter(|(other, _)| other == name);
                of_name.any(|(_, pattern)| pattern.matches(&value))
            };
            found.is_some_and(|found| header_values(found).any(is_wanted))
        };
        key.is_none_or(|key| self.key.as_deref() == Some(key)) && headers.iter().all(has)
    }
}

/// A header's values as bytes: one, or several where its name repeats.
fn header_values(found: &Value) -> impl Iterator<Item = Vec<u8>> {
    let values = match found {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    values.iter().map(|value| match value {
        Value::String(text) => text.clone().into_bytes(),
        value => decoded(value.get("base64").and_then(Value::as_str)),
    })
}

fn decoded(text: Option<&str>) -> Vec<u8> {
    text.and_then(|text| BASE64_STANDARD.decode(text).ok())
        .unwrap_or_default()
}

/// A template of `--format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    Topic,
    Partition,
    Offset,
    Time,
    Key,
    Value,
    Headers,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '\\' => Part::Char(match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('\\') => '\\',
                    other => return Err(unknown('\\', other, "\\n, \\t, \\r, \\0 and \\\\")),
                }),
                '%' => match chars.next() {
                    Some('%') => Part::Char('%'),
                    Some('t') => Part::Topic,
                    Some('p') => Part::Partition,
                    Some('o') => Part::Offset,
                    Some('d') => Part::Time,
                    Some('k') => Part::Key,
                    Some('v') => Part::Value,
                    Some('h') => Part::Headers,
                    other => return Err(unknown('%', other, "%t, %p, %o, %d, %k, %v, %h and %%")),
                },
                c => Part::Char(c),
            });
        }
        Ok(Self(parts))
    }
}

fn unknown(mark: char, found: Option<char>, known: &str) -> String {
    let found = found.map_or_else(|| format!("{mark} at the end"), |c| format!("{mark}{c}"));
    format!("{found} means nothing here; there are {known}")
}

impl Format {
    /// What `--raw` is: each value with a line break.
    pub(super) fn raw() -> Self {
        Self(vec![Part::Value, Part::Char('\n')])
    }

    /// Appends the record of `topic`.
    pub(super) fn append(&self, record: &Record<'_>, topic: &str, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                Part::Topic => out.extend_from_slice(record.topic.as_deref().unwrap_or(topic).as_bytes()),
                Part::Partition => out.extend_from_slice(record.partition.to_string().as_bytes()),
                Part::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                Part::Time => out.extend_from_slice(time_ms(Some(record.timestamp)).as_bytes()),
                Part::Key => match &record.key {
                    Some(key) => out.extend_from_slice(key.as_bytes()),
                    None => out.extend_from_slice(&decoded(record.key_base64.as_deref())),
                },
                Part::Value => match record.value {
                    Some(value) => out.extend_from_slice(value.get().as_bytes()),
                    None => out.extend_from_slice(&decoded(record.value_base64.as_deref())),
                },
                Part::Headers => append_headers(record, out),
            }
        }
    }
}

/// `name=value,name=value`.
fn append_headers(record: &Record<'_>, out: &mut Vec<u8>) {
    let mut is_first = true;
    for (name, found) in record.headers.iter().flatten() {
        for value in header_values(found) {
            if !std::mem::replace(&mut is_first, false) {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(&value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        br#"{"partition":3,"offset":7,"timestamp":1357035420000,"key":"k","value":{"n": 1.50},
        "headers":{"type":"T","many":["a",{"base64":"Yg=="}]}}"#;

    fn formatted(format: &str, line: &[u8]) -> String {
        let mut out = Vec::new();
        let format: Format = format.parse().unwrap();
        format.append(&Record::parse(line).unwrap(), "t", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_verb_is_a_part_of_the_record_and_each_escape_a_character() {
        let text = formatted(r"%t/%p@%o %d\t%k=%v %h 100%%\n", LINE);
        let headers = headers_in_order();
        let expected = format!("t/3@7 2013-01-01T10:17:00Z\tk={{\"n\": 1.50}} {headers} 100%\n");
        assert_eq!(text, expected);
    }

    /// The map's order is the JSON library's.
    fn headers_in_order() -> String {
        let order: serde_json::Map<String, Value> = serde_json::from_str(r#"{"type":1,"many":2}"#).unwrap();
        let parts = order
            .keys()
            .map(|name| if name == "type" { "type=T" } else { "many=a,many=b" });
        parts.collect::<Vec<_>>().join(",")
    }

    #[test]
    fn bytes_are_printed_as_they_are_and_a_tombstone_as_nothing() {
        let base64 = br#"{"partition":0,"offset":0,"timestamp":0,"key_base64":"a2V5","value_base64":"aGk="}"#;
        assert_eq!(formatted("%k:%v", base64), "key:hi");
        let tombstone = br#"{"partition":0,"offset":0,"timestamp":0,"value":null}"#;
        assert_eq!(formatted("%k:%v:%h", tombstone), "::");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for wrong in ["%x", "%", r"\x", "a\\"] {
            let error = wrong.parse::<Format>().unwrap_err();
            assert!(error.contains("means nothing here"), "{wrong}");
        }
    }

    #[test]
    fn records_are_chosen_by_key_and_headers() {
        let record = Record::parse(LINE).unwrap();
        let header = |name: &str, value: &str| vec![(name.to_owned(), value.parse().unwrap())];
        assert!(record.matches(Some("k"), &header("type", "T")));
        assert!(record.matches(None, &header("many", "b")));
        assert!(!record.matches(Some("x"), &[]));
        assert!(!record.matches(None, &header("type", "U")));
        assert!(!record.matches(None, &header("none", "")));
        assert!(record.matches(None, &header("many", "*")));
        let several = [header("many", "x.#"), header("type", "T"), header("many", "b")].concat();
        assert!(record.matches(None, &several));
        assert!(!record.matches(None, &several[..2]));
    }
}
