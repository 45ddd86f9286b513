//! Turns lines of input into lines of NDJSON records, for `quipu produce`.
//!
//! Every input line becomes exactly one line, so line numbers in the server's answer match the input. Values are never
//! parsed into numbers and back: their bytes are copied.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How lines become records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    /// Whether a line is a value, not a record.
    pub(crate) raw: bool,
    /// The place of the key in the line.
    pub(crate) key_field: Option<Pointer>,
}

impl Shape {
    /// Whether lines are records already and are sent unchanged.
    pub(crate) fn keeps_lines(&self) -> bool {
        !self.raw && self.key_field.is_none()
    }

    /// Appends the record of `line` (without its line break) and a line break to `out`.
    /// Errors: The line's fault; `out` is unchanged.
    pub(crate) fn append(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.raw {
            return self.append_value(line, out);
        }
        match &self.key_field {
            Some(pointer) if !line.trim_ascii().is_empty() => append_with_key(line, pointer, out)?,
            _ => out.extend_from_slice(line),
        }
        out.push(b'\n');
        Ok(())
    }

    fn append_value(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let value = parse(line);
        let key = match &self.key_field {
            None => None,
            Some(pointer) => Some(key(value.as_ref().map_err(String::clone)?, pointer)?),
        };
        out.push(b'{');
        if let Some(key) = key {
            out.extend_from_slice(format!("\"key\":{key},").as_bytes());
        }
        match value {
            // A stored `null` is not a tombstone; only base64 distinguishes them.
            Ok(value) if value.get() != "null" => {
                out.extend_from_slice(b"\"value\":");
                out.extend_from_slice(value.get().as_bytes());
            }
            _ => {
                out.extend_from_slice(b"\"value_base64\":\"");
                out.extend_from_slice(BASE64_STANDARD.encode(line).as_bytes());
                out.push(b'"');
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }
}

fn append_with_key(line: &[u8], pointer: &Pointer, out: &mut Vec<u8>) -> Result<(), String> {
    let record = parse(line)?;
    let key = key(record, pointer)?;
    let members: Members<'_> =
        serde_json::from_str(record.get()).map_err(|_| "a record is a JSON object".to_owned())?;
    out.extend_from_slice(format!("{{\"key\":{key}").as_bytes());
    for (name, value) in members.0 {
        if name != "key" && name != "key_base64" {
            out.extend_from_slice(format!(",{}:{}", quoted(&name), value.get()).as_bytes());
        }
    }
    out.push(b'}');
    Ok(())
}

fn parse(line: &[u8]) -> Result<&RawValue, String> {
    let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    serde_json::from_str(text).map_err(|error| format!("the line is not JSON: {error}"))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The key as a JSON string.
fn key(value: &RawValue, pointer: &Pointer) -> Result<String, String> {
    let Some(found) = pointer.find(value) else {
        return Err(format!("there is no {} to take the key from", pointer.text));
    };
    match found.get().as_bytes().first() {
        Some(b'"') => Ok(found.get().to_owned()),
        Some(b'-' | b'0'..=b'9') => Ok(quoted(found.get())),
        _ => {
            let mut shown: String = found.get().chars().take(40).collect();
            if shown.len() < found.get().len() {
                shown.push('…');
            }
            Err(format!("{pointer} is {shown}; a key is a string or a number"))
        }
    }
}

/// A JSON pointer (RFC 6901).
#[derive(Clone, Debug)]
pub(crate) struct Pointer {
    text: String,
    steps: Vec<String>,
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "a JSON pointer begins with a slash, as /value/aircraft does; {text:?} does not"
            ));
        };
        let steps = rest.split('/');
        let steps = steps.map(|step| step.replace("~1", "/").replace("~0", "~"));
        Ok(Self {
            text: text.to_owned(),
            steps: steps.collect(),
        })
    }
}

impl Pointer {
    fn find<'a>(&self, value: &'a RawValue) -> Option<&'a RawValue> {
        let mut steps = self.steps.iter();
        steps.try_fold(value, |value, step| match value.get().as_bytes().first()? {
            b'{' => {
                let Members(members) = serde_json::from_str(value.get()).ok()?;
                Some(members.into_iter().rfind(|(name, _)| name == step)?.1)
            }
            b'[' if step == "0" || !step.starts_with(['0', '+']) => {
                let items: Vec<&'a RawValue> = serde_json::from_str(value.get()).ok()?;
                items.get(step.parse::<usize>().ok()?).copied()
            }
            _ => None,
        })
    }
}

/// The members of a JSON object in order, with their values unchanged.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaped(raw: bool, key_field: Option<&str>, line: &str) -> Result<String, String> {
        let key_field = key_field.map(|text| text.parse().unwrap());
        let shape = Shape { raw, key_field };
        let mut out = Vec::new();
        shape.append(line.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_raw_line_of_json_is_the_value_as_it_was_written_and_any_other_travels_as_base64() {
        for (line, record) in [
            (r#"{"n":1.10e2,  "b":[]}"#, r#"{"value":{"n":1.10e2,  "b":[]}}"#),
            (
                "12345678901234567890123\r",
                r#"{"value":12345678901234567890123}"#,
            ),
            ("hello", r#"{"value_base64":"aGVsbG8="}"#),
            ("null", r#"{"value_base64":"bnVsbA=="}"#),
            ("", r#"{"value_base64":""}"#),
        ] {
            assert_eq!(shaped(true, None, line).unwrap(), format!("{record}\n"));
        }
    }

    #[test]
    fn the_key_comes_from_the_line_and_replaces_another() {
        for (raw, pointer, line, record) in [
            (
                false,
                "/value/a/1",
                r#"{"value":{"a":["x","\u00e9"]},"key":"old","timestamp":5}"#,
                r#"{"key":"\u00e9","value":{"a":["x","\u00e9"]},"timestamp":5}"#,
            ),
            (
                true,
                "/n",
                r#"{"n":-1.50}"#,
                r#"{"key":"-1.50","value":{"n":-1.50}}"#,
            ),
            (
                true,
                "/a~1b/~0",
                r#"{"a/b":{"~":"k"}}"#,
                r#"{"key":"k","value":{"a/b":{"~":"k"}}}"#,
            ),
            (false, "/value", "  ", "  "),
        ] {
            assert_eq!(shaped(raw, Some(pointer), line).unwrap(), format!("{record}\n"));
        }
    }

    #[test]
    fn a_line_without_a_key_says_what_is_there_instead() {
        for (line, error) in [
            ("{}", "there is no /n to take the key from"),
            (r#"{"n":null}"#, "/n is null; a key is a string or a number"),
            ("hello", "the line is not JSON"),
        ] {
            let found = shaped(true, Some("/n"), line).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
        assert!("value".parse::<Pointer>().is_err());
    }
}
