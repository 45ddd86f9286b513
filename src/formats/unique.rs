//! JSON whose objects have no name twice.
//!
//! Parsers disagree about which of two equal names counts. Where one program checks a document and another acts on it,
//! that is a hole, so such a document is refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses a document; numbers that are no JSON number in Rust, and nesting beyond 128 levels, are errors too.
///
/// # Errors
/// A message that says what is wrong, and where.
pub fn parse_unique(json: &[u8]) -> Result<Value, String> {
    let Unique(value) = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok(value)
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let Unique(value) = members.next_value()?;
            if all.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:?} is given twice")));
            }
            all.insert(name, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_twice_is_refused_at_any_depth() {
        for same in [
            r#"{"a":1,"b":[null,true,-1,1.5,"x",{"a":2}]}"#,
            "[]",
            "\"\"",
            "18446744073709551615",
        ] {
            let expected: Value = serde_json::from_str(same).unwrap();
            assert_eq!(parse_unique(same.as_bytes()), Ok(expected));
        }
        for (twice, what) in [
            (r#"{"a":1,"a":1}"#, "\"a\" is given twice"),
            (r#"{"a":1,"\u0061":2}"#, "\"a\" is given twice"),
            (r#"[{"b":{"a":1,"c":{},"a":[]}}]"#, "\"a\" is given twice"),
            (r#"{"a":1} x"#, "trailing characters"),
            (r#"{"a":1e999}"#, "number out of range"),
            ("", "EOF"),
            (&"[".repeat(1000), "recursion limit"),
        ] {
            let error = parse_unique(twice.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{twice}: {error}");
        }
    }
}
