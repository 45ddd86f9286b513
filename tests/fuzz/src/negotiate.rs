//! `Accept`.
//!
//! The chosen type is one that an element of the header allows, and the same whether the elements are in one field or
//! in several. Without elements it is JSON.

use http::HeaderValue;
use quipu::http::fuzzing::accept;

use super::input::Input;

const TYPES: [&str; 3] = [
    "application/json",
    "application/x-ndjson",
    "application/vnd.apache.kafka.record-batch",
];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut text = Vec::new();
    while !input.is_empty() && text.len() < 1 << 16 {
        match input.u8() {
            choice @ 0..3 => text.extend_from_slice(TYPES[usize::from(choice)].as_bytes()),
            choice => text.push(choice),
        }
    }
    let Ok(field) = HeaderValue::from_bytes(&text) else {
        return;
    };
    let chosen = accept(vec![field]);
    let Ok(text) = std::str::from_utf8(&text) else {
        return;
    };
    if !text.is_ascii() {
        return;
    }
    let split: Vec<HeaderValue> = text
        .split(',')
        .filter_map(|element| HeaderValue::from_str(element.trim()).ok())
        .collect();
    let again = accept(split);
    assert_eq!(chosen.as_ref().ok(), again.as_ref().ok(), "in several fields");
    let Ok(chosen) = chosen else { return };
    let allows = |element: &str| {
        let range = element.split(';').next().unwrap_or_default().trim();
        let (main, sub) = chosen.split_once('/').expect("a media type");
        range == "*/*"
            || range.split_once('/').is_some_and(|(m, s)| {
                m.eq_ignore_ascii_case(main) && (s == "*" || s.eq_ignore_ascii_case(sub))
            })
    };
    assert!(
        (chosen == TYPES[0] && text.split(',').all(|element| element.trim().is_empty()))
            || text.split(',').any(allows),
        "{chosen} of {text:?}"
    );
}
