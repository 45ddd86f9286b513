//! The meaning of a record in JSON, by serde_json and the table in `src/formats/json/parse.rs`: slow and simple.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quipu::formats::time::parse_time;
use quipu_segments::TimestampMs;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::record::Header;

/// A record as it should be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) partition: Option<u64>,
    pub(super) timestamp: Option<TimestampMs>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) json_line: bool,
    pub(super) headers: Vec<Header>,
}

/// An object's members in order, repeated names too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

fn members(json: &str) -> Option<Vec<(String, &RawValue)>> {
    let Members(members) = serde_json::from_str(json).ok()?;
    let repeats = members
        .iter()
        .enumerate()
        .any(|(at, (name, _))| members[..at].iter().any(|(earlier, _)| earlier == name));
    (!repeats).then_some(members)
}

/// The records of a body, each as its text.
pub(super) fn records(body: &[u8]) -> Option<Vec<&str>> {
    let members = members(std::str::from_utf8(body).ok()?)?;
    let [(name, list)] = &members[..] else { return None };
    let list: Vec<&RawValue> = serde_json::from_str(list.get()).ok()?;
    (name == "records" && !list.is_empty()).then(|| list.into_iter().map(RawValue::get).collect())
}

/// A record.
pub(super) fn record(json: &[u8]) -> Option<Expected> {
    let mut expected = Expected {
        json_line: true,
        ..Expected::default()
    };
    for (name, raw) in members(std::str::from_utf8(json).ok()?)? {
        let raw = raw.get();
        let is_null = raw == "null";
        match &*name {
            "offset" | "topic" => {}
            "value" | "key" | "timestamp" | "partition" | "headers" | "value_base64" | "key_base64"
                if is_null => {}
            "value" => {
                expected.json_line = is_one_line(raw);
                set(&mut expected.value, raw.into())?;
            }
            "value_base64" => {
                let bytes = base64(raw)?;
                expected.json_line = is_json_line(&bytes);
                set(&mut expected.value, bytes)?;
            }
            "key" => set(&mut expected.key, string(raw)?.into())?,
            "key_base64" => set(&mut expected.key, base64(raw)?)?,
            "timestamp" => expected.timestamp = Some(timestamp(raw)?),
            "partition" => {
                let digits = digits(raw)?;
                expected.partition = Some(digits.parse().unwrap_or(u64::MAX));
            }
            "headers" => {
                for (name, value) in members(raw)? {
                    header(&mut expected.headers, &name, value.get())?;
                }
            }
            _ => return None,
        }
    }
    Some(expected)
}

fn set(field: &mut Option<Vec<u8>>, bytes: Vec<u8>) -> Option<()> {
    field.replace(bytes).is_none().then_some(())
}

fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

fn base64(raw: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(string(raw)?).ok()
}

fn digits(raw: &str) -> Option<&str> {
    raw.bytes().all(|byte| byte.is_ascii_digit()).then_some(raw)
}

fn timestamp(raw: &str) -> Option<TimestampMs> {
    if raw.starts_with('"') {
        let text = string(raw)?;
        return text.contains('-').then(|| parse_time(&text)).flatten();
    }
    digits(raw)?.parse().ok().map(TimestampMs)
}

fn header(headers: &mut Vec<Header>, name: &str, raw: &str) -> Option<()> {
    if raw.starts_with('[') {
        let values: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
        for value in &values {
            headers.push((name.into(), header_value(value.get())?));
        }
        return (!values.is_empty()).then_some(());
    }
    headers.push((name.into(), header_value(raw)?));
    Some(())
}

fn header_value(raw: &str) -> Option<Option<Vec<u8>>> {
    match raw.as_bytes().first()? {
        b'"' => Some(Some(string(raw)?.into())),
        b'n' => Some(None),
        b'{' => {
            let members = members(raw)?;
            let [(name, value)] = &members[..] else {
                return None;
            };
            (name == "base64").then_some(())?;
            Some(Some(base64(value.get())?))
        }
        _ => None,
    }
}

fn is_one_line(raw: &str) -> bool {
    !raw.contains(['\n', '\r'])
}

/// Whether stored bytes can be a `value` in a line of JSON, nesting within the limit included.
pub(super) fn is_json_line(bytes: &[u8]) -> bool {
    let Some(raw) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| serde_json::from_str::<&RawValue>(text).ok())
    else {
        return false;
    };
    raw.get().len() == bytes.len() && bytes != b"null" && is_one_line(raw.get()) && depth(bytes) <= 512
}

/// How deep arrays and objects of valid JSON nest.
pub(super) fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
