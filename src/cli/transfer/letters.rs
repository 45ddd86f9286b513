//! Dead letters, which a group of another server is to find as its own.
//!
//! A server takes a record for a dead letter of a group by its headers, if it died after the group was made there. That another
//! server has made it stays visible, since it has no seal of the new one. An import changes these headers:
//!
//! | header | becomes |
//! |---|---|
//! | `dlq_offset` | the offset that the record has on the new server |
//! | `dlq_died_at` | the time of the import, by the new server's clock |
//! | `dlq_topic_id` | nothing: the topic is found by its name |
//! | `dlq_seal` | nothing: it is another server's |

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

const OFFSET: &str = "dlq_offset";
const DIED_AT: &str = "dlq_died_at";
const TOPIC_ID: &str = "dlq_topic_id";
const SEAL: &str = "dlq_seal";

/// What becomes of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// The offset of its record on the new server.
    pub(super) offset: u64,
    /// The new server's time, in milliseconds since the Unix epoch.
    pub(super) died_at: i64,
}

/// The line of a dead letter, as the new server gets it; everything but its headers stays byte for byte.
/// Errors: it is no record.
pub(super) fn moved(line: &[u8], to: Moved) -> serde_json::Result<Vec<u8>> {
    let mut record: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(line)?;
    let mut headers: Headers = match record.get("headers") {
        Some(headers) => serde_json::from_str(headers.get())?,
        None => Headers(Vec::new()),
    };
    headers.0.retain(|(name, _)| !is_changed(name));
    for (name, value) in [(OFFSET, to.offset.to_string()), (DIED_AT, to.died_at.to_string())] {
        headers.0.push((name.to_owned(), to_raw_value(&value)?));
    }
    record.insert("headers".to_owned(), to_raw_value(&headers)?);
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    Ok(line)
}

/// Takes out of a record what an import may have changed.
pub(super) fn forget(record: &mut Map<String, Value>) {
    if let Some(Value::Object(headers)) = record.get_mut("headers") {
        headers.retain(|name, _| !is_changed(name));
    }
}

fn is_changed(name: &str) -> bool {
    [OFFSET, DIED_AT, TOPIC_ID, SEAL].contains(&name)
}

/// Headers in their order.
struct Headers(Vec<(String, Box<RawValue>)>);

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;
        impl<'de> Visitor<'de> for Rows {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(Headers(rows))
            }
        }
        deserializer.deserialize_map(Rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_dead_letter_keeps_everything_but_four_headers() {
        let line = br#"{"topic":"d","partition":1,"offset":4,"timestamp":5,"key":"k","value":{"n":  1.0},"headers":{"z":["1",{"base64":"/w=="}],"a":"2","dlq_topic_id":"5","dlq_offset":["8","9"],"dlq_group":"g","dlq_died_at":"7","dlq_first_offset":"3","dlq_seal":"ab"}}"#;
        let to = Moved {
            offset: 2,
            died_at: 100,
        };
        let text = String::from_utf8(moved(line, to).unwrap()).unwrap();
        assert!(text.contains(r#""value":{"n":  1.0}"#), "{text}");
        let headers = r#""headers":{"z":["1",{"base64":"/w=="}],"a":"2","dlq_group":"g","dlq_first_offset":"3","dlq_offset":"2","dlq_died_at":"100"}"#;
        assert!(text.contains(headers), "{text}");
        let content = |text: &[u8]| {
            let mut record: Map<String, Value> = serde_json::from_slice(text).unwrap();
            forget(&mut record);
            record
        };
        assert_eq!(content(text.as_bytes()), content(line));
        assert!(moved(b"[]", to).is_err());
        assert!(moved(br#"{"headers":7}"#, to).is_err());
    }
}
