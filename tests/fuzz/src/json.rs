//! Records in JSON: the body `{"records":[…]}`, a line of NDJSON, and CloudEvents.
//!
//! The parser accepts what serde_json accepts (with the rules of the format on top) and reads the same from it, except
//! for its limits on nesting and on the number of headers. An accepted record is rendered back from its batch as the
//! same record, its value byte for byte. Whether bytes are "JSON on one line" is decided as by serde_json. An accepted
//! event is JSON, and its record is rendered as the same event.

use quipu::formats::cloudevents::{EventRenderer, parse_event, parse_events};
use quipu::formats::json::{
    ParsedRecord, RecordError, is_json_line, parse_addressed, parse_record, parse_records,
};
use quipu::formats::render::{Layout, RecordRenderer};
use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, Record, Records, SealedBatch};

use super::oracle::{self, Expected};

pub fn run(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    match choice {
        0xe0..0xf0 => event(text),
        0xf0.. => events(text),
        _ if choice % 3 == 0 => line(text),
        _ if choice % 3 == 1 => body(text),
        _ => assert_eq!(is_json_line(text), oracle::is_json_line(text)),
    }
}

fn owned(record: &ParsedRecord<'_>) -> Expected {
    Expected {
        partition: record.partition,
        timestamp: record.timestamp,
        key: record.key.as_deref().map(<[u8]>::to_vec),
        value: record.value.as_deref().map(<[u8]>::to_vec),
        json_line: record.json_line,
        headers: record
            .headers
            .iter()
            .map(|(name, value)| (name.to_vec(), value.as_deref().map(<[u8]>::to_vec)))
            .collect(),
    }
}

/// Whether the error is a limit of the parser's own, so that JSON which serde_json reads may be refused.
fn is_bound(error: &RecordError, text: &[u8]) -> bool {
    (error.detail.contains("nest deeper") && oracle::depth(text) > 512)
        || (error.detail.contains("too many headers") && text.len() > 10_000)
}

/// Checks that serde_json refuses the text as well, or that it is beyond a limit of the parser.
fn assert_right(error: &RecordError, text: &[u8], expected: Option<&impl std::fmt::Debug>) {
    let is_right = expected.is_none() || is_bound(error, text);
    assert!(is_right, "{error}, but {expected:?}");
}

fn line(text: &[u8]) {
    let expected = oracle::record(text);
    match parse_record(text) {
        Ok(record) => {
            assert_eq!(Some(owned(&record)), expected);
            render(&record);
        }
        Err(error) => assert_right(&error, text, expected.as_ref()),
    }
}

fn body(text: &[u8]) {
    let record = |json: &str| oracle::record(json.as_bytes());
    let expected: Option<Vec<_>> =
        oracle::records(text).and_then(|records| records.into_iter().map(record).collect());
    // A list whose records name their topics is a list like any other.
    let mut found = Vec::new();
    let count = parse_addressed(text, |_, addressed| {
        found.push(owned(&addressed.record));
        Ok::<(), RecordError>(())
    });
    if count.is_ok() {
        assert_eq!(Some(found), expected);
    }
    let mut found = Vec::new();
    let count = parse_records(text, |index, record| {
        assert_eq!(index, found.len());
        found.push(owned(&record));
        Ok::<(), RecordError>(())
    });
    match count {
        Ok(count) => {
            assert_eq!(count, found.len());
            assert_eq!(Some(found), expected);
        }
        Err(error) => assert_right(&error, text, expected.as_ref()),
    }
}

fn event(text: &[u8]) {
    let Ok(record) = parse_event(text) else {
        return;
    };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        // serde_json has another limit on nesting.
        assert!(error.to_string().contains("recursion"), "{error}");
    }
    let batch = stored(&record, TimestampMs(7));
    let stored = first(&batch);
    for layout in [Layout::Lines, Layout::Document] {
        let mut text = Vec::new();
        EventRenderer::new("t", 3, layout).push(&mut text, &stored, record.json_line);
        assert!(layout == Layout::Document || !text.contains(&b'\n'));
        let again = parse_event(&text).expect("what was rendered is read");
        let (mut expected, mut again) = (owned(&record), owned(&again));
        if layout == Layout::Lines && !record.json_line {
            again.json_line = false;
            break_no_lines(&mut expected.value);
            break_no_lines(&mut again.value);
        }
        assert_eq!(again, expected);
    }
}

fn events(text: &[u8]) {
    let mut found = 0;
    let count = parse_events(text, |index, _| {
        assert_eq!(index, found);
        found += 1;
        Ok::<(), RecordError>(())
    });
    if let Ok(count) = count {
        assert_eq!(count, found);
        let all: Vec<&serde_json::value::RawValue> = match serde_json::from_slice(text) {
            Ok(all) => all,
            Err(error) => {
                assert!(error.to_string().contains("recursion"), "{error}");
                return;
            }
        };
        assert_eq!(all.len(), count);
        let is_event = |event: &&serde_json::value::RawValue| parse_event(event.get().as_bytes()).is_ok();
        assert!(all.iter().all(is_event));
    }
}

/// The only record of a batch.
fn first(batch: &SealedBatch) -> Record<'_> {
    let mut records = Records::new(batch.as_bytes()).expect("a batch");
    records.next().expect("its record").expect("whole")
}

/// A batch with this record only.
fn stored(record: &ParsedRecord<'_>, otherwise: TimestampMs) -> SealedBatch {
    let headers: Vec<(&[u8], Option<&[u8]>)> = record
        .headers
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()))
        .collect();
    let (key, value) = (record.key.as_deref(), record.value.as_deref());
    let mut builder = BatchBuilder::new();
    builder.push(record.timestamp.unwrap_or(otherwise), key, value, &headers);
    builder.seal()
}

/// Checks that an accepted record comes back from its batch.
fn render(record: &ParsedRecord<'_>) {
    let timestamp = record.timestamp.unwrap_or(TimestampMs(7));
    let batch = stored(record, timestamp);
    let stored = first(&batch);
    for layout in [Layout::Lines, Layout::Document] {
        let mut text = Vec::new();
        RecordRenderer::new(Some("t"), 3, layout).push(&mut text, &stored, record.json_line);
        assert!(layout == Layout::Document || !text.contains(&b'\n'));
        let again = parse_record(&text).expect("what was rendered is read");
        let mut expected = owned(record);
        expected.partition = Some(3);
        expected.timestamp = Some(timestamp);
        let mut again = owned(&again);
        if !record.json_line {
            // In a line the line breaks became spaces, so it can be read as a line.
            again.json_line = false;
            if layout == Layout::Lines {
                break_no_lines(&mut expected.value);
                break_no_lines(&mut again.value);
            }
        }
        assert_eq!(again, expected);
    }
}

fn break_no_lines(value: &mut Option<Vec<u8>>) {
    for byte in value.iter_mut().flatten() {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}
