//! `topic.json` and `FORMAT`.
//!
//! What is accepted has the checksum that it names, and is read again as the same after it was written.

use quipu_segments::fuzzing::{Sealed, crc32fast};
use serde_json::Value;

use super::input::Input;

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
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("it was accepted as JSON");
    assert_eq!(read(&file)["magic"], kind.magic());
    assert_eq!(read(&file)["version"], 1, "no other version is accepted");
    assert_eq!(kind.again(&again), Ok(again));
}
