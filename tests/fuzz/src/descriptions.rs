//! `topic.json` and `FORMAT`.
//!
//! An accepted file has the checksum that it names, and is read back the same after it was written.

use quipu_segments::fuzzing::{Sealed, crc32fast};
use serde::Deserialize;

use super::input::Input;

/// The fields that every sealed file has; the rest is ignored, numbers beyond any type included.
#[derive(Deserialize)]
struct Head {
    magic: String,
    version: u32,
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let kind = if choice & 1 == 1 {
        Sealed::Topic
    } else {
        Sealed::Format
    };
    let file = if choice & 2 == 2 {
        let (magic, version, body) = (kind.magic(), 1 + (choice >> 7), input.rest());
        let crc = crc32fast::hash(&[format!("{magic}{version}").as_bytes(), body].concat());
        let head = format!("{{\"magic\":\"{magic}\",\"version\":{version},\"crc32\":{crc},\"body\":");
        [head.as_bytes(), body, b"}\n"].concat()
    } else {
        input.rest().to_vec()
    };
    let Ok(again) = kind.again(&file) else { return };
    let head: Head = serde_json::from_slice(&file).expect("it was accepted as JSON");
    assert_eq!(head.magic, kind.magic());
    assert_eq!(head.version, 1, "no other version is accepted");
    // A number with a fraction or an exponent may change in its last bit; no such number is ever written.
    let has_fraction = serde_json::from_slice(&again).is_ok_and(|value| has_fraction(&value));
    assert!(has_fraction || kind.again(&again) == Ok(again));
}

fn has_fraction(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => number.is_f64(),
        serde_json::Value::Array(values) => values.iter().any(has_fraction),
        serde_json::Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}
