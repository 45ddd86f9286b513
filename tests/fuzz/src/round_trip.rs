//! Records of any bytes: built into a batch, read from it, rendered as JSON, and read from that.
//!
//! A batch gives its records back as they were. Rendered records are JSON, on one line in the layout for lines, and
//! produce the same records again, except for what `quipu::formats::render` says is not kept.

use quipu::formats::json::{is_json_line, parse_record};
use quipu::formats::render::{Layout, RecordRenderer};
use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, Records, SealedBatch, validate};
use serde::de::IgnoredAny;

use super::input::Input;
use super::record::Owned;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut records = Vec::new();
    while !input.is_empty() && records.len() < 64 {
        let key = input.short().map(<[u8]>::to_vec);
        let value = match input.u8() {
            0 => None,
            1 => input.short().map(<[u8]>::to_vec),
            _ => Some(input.part().to_vec()),
        };
        let headers = (0..input.u8() & 31)
            .map(|_| {
                let name = input.short().unwrap_or_default().to_vec();
                (name, input.short().map(<[u8]>::to_vec))
            })
            .collect();
        records.push(Owned {
            timestamp: TimestampMs(input.u64() as i64),
            key,
            value,
            headers,
        });
    }
    if records.is_empty() {
        return;
    }
    let mut builder = BatchBuilder::new();
    for record in &records {
        record.push_to(&mut builder);
    }
    let batch = builder.seal();
    assert_eq!(validate(batch.as_bytes()), Ok(batch.header()));
    let again = SealedBatch::from_outside(batch.as_bytes().to_vec()).expect("what was sealed");
    assert_eq!(again.as_bytes(), batch.as_bytes(), "nothing is to be corrected");
    let mut count = 0;
    for (stored, record) in Records::new(batch.as_bytes()).expect("a batch").zip(&records) {
        let stored = stored.expect("a record");
        assert_eq!(Owned::of(&stored), *record);
        let is_line = record.value.as_deref().is_none_or(is_json_line);
        for layout in [Layout::Lines, Layout::Document] {
            for known in [false, is_line] {
                let mut text = Vec::new();
                RecordRenderer::new(None, 0, layout).push(&mut text, &stored, known);
                rendered(record, &text, layout);
            }
        }
        count += 1;
    }
    assert_eq!(count, records.len());
}

pub(super) fn rendered(record: &Owned, text: &[u8], layout: Layout) {
    serde_json::from_slice::<IgnoredAny>(text).expect("JSON");
    assert!(layout == Layout::Document || !text.contains(&b'\n'));
    let parsed = parse_record(text);
    if record.timestamp < TimestampMs(0) {
        assert_eq!(
            parsed.expect_err("no time that a producer can name").pointer,
            "/timestamp"
        );
        return;
    }
    let parsed = parsed.expect("what was rendered can be produced");
    assert_eq!(parsed.timestamp, Some(record.timestamp));
    assert_eq!(parsed.key.as_deref(), record.key.as_deref());
    match (&parsed.value, &record.value) {
        (None, None) => {}
        (Some(parsed), Some(stored)) => {
            // Raw bytes lose the white space around them, and their line breaks in a line.
            let is_line = layout == Layout::Lines;
            let space = |byte: &u8| {
                if is_line && matches!(byte, b'\n' | b'\r') {
                    b' '
                } else {
                    *byte
                }
            };
            let spaced: Vec<u8> = stored.iter().map(space).collect();
            let same = **parsed == stored[..] || **parsed == *spaced.trim_ascii();
            assert!(same, "{parsed:?} of {stored:?}");
        }
        (parsed, stored) => panic!("{parsed:?} of {stored:?}"),
    }
    if record
        .headers
        .iter()
        .all(|(name, _)| std::str::from_utf8(name).is_ok())
    {
        let headers: Vec<_> = parsed
            .headers
            .iter()
            .map(|(name, value)| (name.to_vec(), value.as_deref().map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(headers, record.grouped());
    }
}
