//! The requests of the tests: one of each kind, and streams of lines.

use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, SealedBatch};
use serde_json::{Value, json};

use crate::support::NOW;

pub(crate) const JSON: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const EVENT: &str = "application/cloudevents+json";
pub(crate) const EVENTS: &str = "application/cloudevents-batch+json";
pub(crate) const BATCH: &str = "application/vnd.apache.kafka.record-batch";
pub(crate) const RECORDS: &str = "/v1/topics/t/records";
pub(crate) const TO_PARTITION: &str = "/v1/topics/t/partitions/1/records";

/// Lines that make a unit of NDJSON.
pub(crate) const UNIT_LINES: usize = 10_000;

/// A produce request.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) uri: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn sent(uri: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Sent {
    let (uri, body, headers) = (uri.to_owned(), body.into(), Vec::new());
    Sent { uri, headers, body }.with("content-type", content_type)
}

impl Sent {
    /// Its headers as HTTP/1.1 writes them.
    pub(crate) fn head(&self) -> String {
        let line = |(name, value): &(String, String)| format!("{name}: {value}\r\n");
        let headers: String = self.headers.iter().map(line).collect();
        format!("{headers}Content-Length: {}\r\n", self.body.len())
    }

    /// With another value of a header.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.with("idempotency-key", key)
    }

    pub(crate) fn to(mut self, uri: &str) -> Self {
        self.uri = uri.to_owned();
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

pub(crate) fn json_records() -> Sent {
    let record = |n| match n % 2 {
        0 => json!({"key": format!("k{n}"), "value": n}),
        _ => json!({"value": n}),
    };
    let records: Vec<Value> = (0..20).map(record).collect();
    sent(RECORDS, JSON, json!({"records": records}).to_string())
}

pub(crate) fn lines(count: usize) -> Vec<u8> {
    let line = |n: usize| match n % 3 {
        0 => format!("{{\"value\":{n}}}\n"),
        _ => format!("{{\"key\":\"k{n}\",\"value\":{n}}}\n"),
    };
    (0..count).map(line).collect::<String>().into_bytes()
}

pub(crate) fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "partitionkey": id, "data": 1})
}

pub(crate) fn binary_event() -> Sent {
    sent(RECORDS, "text/plain", "hello")
        .with("ce-specversion", "1.0")
        .with("ce-id", "1")
        .with("ce-source", "/s")
        .with("ce-type", "t")
}

pub(crate) fn batch(values: &[&str]) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(TimestampMs(NOW), None, Some(value.as_bytes()), &[]);
    }
    builder.seal()
}

/// A request of each kind, and how many records it has.
pub(crate) fn kinds() -> Vec<(&'static str, Sent, u64)> {
    let three = json!([event("1"), event("2"), event("3")]).to_string();
    let batches = [batch(&["1", "2"]).as_bytes(), batch(&["3"]).as_bytes()].concat();
    let units = 2 * UNIT_LINES + 5;
    let (with_key, written) = (format!("{RECORDS}?key=a"), format!("{RECORDS}?ack=written"));
    let (stream, large) = (sent(RECORDS, NDJSON, lines(units)), vec![b'x'; 400 << 10]);
    let raw_with_key = sent(&with_key, "application/octet-stream", "hello");
    vec![
        ("json", json_records(), 20),
        ("ndjson", sent(RECORDS, NDJSON, lines(30)), 30),
        ("ndjson of three units", stream, units as u64),
        ("raw", sent(RECORDS, "text/plain", "hello"), 1),
        ("raw with a key", raw_with_key, 1),
        ("raw, large", sent(RECORDS, "text/plain", large), 1),
        ("structured", sent(RECORDS, EVENT, event("1").to_string()), 1),
        ("batched", sent(RECORDS, EVENTS, three), 3),
        ("binary", binary_event(), 1),
        ("batch", sent(TO_PARTITION, BATCH, batches), 3),
        ("written", json_records().to(&written), 20),
    ]
}

/// The kinds of requests, each under a key of its own.
pub(crate) fn keyed_kinds() -> Vec<(&'static str, Sent, u64)> {
    let keyed = |(name, request, records): (&'static str, Sent, u64)| {
        (name, request.key(&name.replace([' ', ','], "-")), records)
    };
    kinds().into_iter().map(keyed).collect()
}
