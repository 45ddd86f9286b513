//! Query strings, and times as clients write them.
//!
//! An accepted query has each known parameter at most once, and means the same with every byte percent-encoded. An
//! accepted time is not before 1970, and is the same in milliseconds.

use quipu::formats::time::parse_time;
use quipu::http::fuzzing::fetch_query;
use quipu::http::params::Params;

const NAMES: [&str; 8] = [
    "offset",
    "from",
    "until_offset",
    "until",
    "max_records",
    "max_bytes",
    "wait_ms",
    "min_bytes",
];

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(time) = parse_time(text) {
        assert!(time.get() >= 0, "{text:?}");
        assert_eq!(parse_time(&time.get().to_string()), Some(time));
    }
    let Ok(params) = Params::parse(Some(text), &NAMES, &[]) else {
        assert!(fetch_query(text).is_err());
        return;
    };
    let encoded: Vec<String> = NAMES
        .iter()
        .filter_map(|name| params.get(name).map(|value| (name, value)))
        .map(|(name, value)| {
            let value: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            format!("{name}={value}")
        })
        .collect();
    assert_eq!(
        encoded.len(),
        text.split('&').filter(|part| !part.is_empty()).count()
    );
    let encoded = encoded.join("&");
    let again = Params::parse(Some(&encoded), &NAMES, &[]).expect("the same parameters");
    for name in NAMES {
        assert_eq!(again.get(name), params.get(name));
    }
    assert_eq!(fetch_query(&encoded).ok(), fetch_query(text).ok());
}
