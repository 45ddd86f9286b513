//! The contract of produce requests, through the router as the server uses it; [`races`] is over the real binary. [`several`]
//! has requests to several topics.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

mod batches;
mod races;
mod several;
#[path = "../support/mod.rs"]
mod support;
mod uploads;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use batches::batch;
use bytes::Bytes;
use futures_util::stream;
use http::Method;
use proptest::prelude::*;
use quipu::broker::limits::Limits;
use quipu::formats::partitioner::{keyed_elsewhere, partition_of_key};
use quipu::settings::Config;
use quipu_segments::batch::{BatchBuilder, BatchHeader, Batches, Records as BatchRecords, SealedBatch};
use quipu_segments::{Offset, ReadRequest, TimestampMs, Topic, TopicSettings, TopicSpec};
use serde_json::{Value, json};
use support::{Answer, NOW, Service, has, invalid, refused, says};
use uploads::many_lines;

const NDJSON: &str = "application/x-ndjson";
const TEXT: [(&str, &str); 1] = [("content-type", "text/plain")];
const BATCH: &str = "application/vnd.apache.kafka.record-batch";

const RECORDS: &str = "/v1/topics/t/records";
const TO_PARTITION: &str = "/v1/topics/t/partitions/0/records";
/// A service, with helpers to read what it stored.
struct Server(Service);

impl Deref for Server {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

/// Partition and offset of each record that was produced.
#[track_caller]
fn offsets(answer: &Answer) -> Vec<(u64, u64)> {
    let number = |position: &Value, name: &str| position[name].as_u64().unwrap();
    let answer = answer.ok();
    let positions = answer["offsets"].as_array().unwrap().iter();
    positions
        .map(|position| (number(position, "partition"), number(position, "offset")))
        .collect()
}

/// A record as it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    offset: u64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Stored {
    fn value(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap()).unwrap()
    }
}

impl Server {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a topic `t` of so many partitions.
    fn with_topic(partitions: u32) -> Self {
        let server = Self::new();
        server.topic("t", partitions, json!({}));
        server
    }

    /// With the default limits, changed by `change`.
    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut config = Config::default();
        change(&mut config.limits);
        Self(Service::with(config))
    }

    fn topic(&self, name: &str, partitions: u32, properties: Value) -> Arc<Topic> {
        let properties: BTreeMap<String, Value> = serde_json::from_value(properties).unwrap();
        let spec = TopicSpec {
            partitions,
            settings: TopicSettings::default(),
            properties,
        };
        self.app.log.create_topic(name, spec).unwrap()
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        self.send(Method::POST, path, headers, body).await
    }

    async fn json(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.post_as(path, "application/json", body).await
    }

    async fn ndjson(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.post_as(path, NDJSON, body).await
    }

    async fn batches(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.post_as(path, BATCH, body).await
    }

    /// Everything that is stored in a partition, batch by batch, with the hint that all values are JSON in one line.
    fn runs(&self, topic: &str, partition: u32) -> (Vec<u8>, bool) {
        let partition = self.app.log.topic(topic).unwrap().partition(partition).unwrap();
        let (mut bytes, mut json_lines) = (Vec::new(), true);
        let mut from = Offset::ZERO;
        loop {
            let request = ReadRequest::new(from, 1 << 20);
            let fetched = partition.read(request).unwrap();
            for run in &fetched.runs {
                bytes.extend_from_slice(&run.bytes);
                json_lines &= run.json_lines;
            }
            if fetched.next_offset == from {
                return (bytes, json_lines);
            }
            from = fetched.next_offset;
        }
    }

    fn stored(&self, topic: &str, partition: u32) -> Vec<Stored> {
        let (bytes, _) = self.runs(topic, partition);
        let owned = |(name, value): (&[u8], Option<&[u8]>)| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            (name, value.map(<[u8]>::to_vec))
        };
        let mut all = Vec::new();
        for batch in Batches::new(&bytes) {
            let (_, batch) = batch.unwrap();
            for record in BatchRecords::new(batch).unwrap() {
                let record = record.unwrap();
                all.push(Stored {
                    offset: record.offset.get(),
                    timestamp: record.timestamp.0,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: record.headers.iter().map(owned).collect(),
                });
            }
        }
        all
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn streamed(bytes: &[u8], chunk: usize) -> Body {
    let chunks: Vec<_> = bytes
        .chunks(chunk)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    Body::from_stream(stream::iter(chunks))
}

// ---- application/json

#[tokio::test]
async fn records_are_stored_as_sent_and_answered_in_request_order() {
    let server = Server::with_topic(3);
    let body = r#"{"records":[
        {"partition":2,"key":"a","value":{ "x" : 1.50,"y":"\u00e9" },"headers":{"h":["1",{"base64":"/w=="}]},"timestamp":7},
        {"partition":0,"value":1e400},
        {"partition":2,"key_base64":"/w==","value_base64":"AP8="}
    ]}"#;
    let answer = server.json(RECORDS, body).await;
    assert_eq!(offsets(&answer), [(2, 0), (0, 0), (2, 1)]);
    let second = server.stored("t", 2);
    assert_eq!(
        second[0],
        Stored {
            offset: 0,
            timestamp: 7,
            key: Some(b"a".to_vec()),
            value: Some(br#"{ "x" : 1.50,"y":"\u00e9" }"#.to_vec()),
            headers: vec![
                ("h".into(), Some(b"1".to_vec())),
                ("h".into(), Some(b"\xff".to_vec()))
            ],
        }
    );
    assert_eq!(second[1].key.as_deref(), Some(&b"\xff"[..]));
    assert_eq!(second[1].value.as_deref(), Some(&b"\x00\xff"[..]));
    assert_eq!(server.stored("t", 0)[0].value(), "1e400");
    let answer = server.json(RECORDS, r#"{"records":[{"partition":2}]}"#).await;
    assert_eq!(offsets(&answer), [(2, 2)]);
    assert_eq!(server.stored("t", 2)[2].value, None, "no value is a tombstone");
}

#[tokio::test]
async fn keys_choose_the_partition_and_records_without_one_stay_together_and_rotate() {
    let server = Server::with_topic(6);
    let body = r#"{"records":[{"key":"key"},{"value":1},{"key":"N14228"},{"value":2}]}"#;
    let first = offsets(&server.json(RECORDS, body).await);
    assert_eq!(first[0].0, u64::from(partition_of_key(b"key", 6)));
    assert_eq!(first[2].0, u64::from(partition_of_key(b"N14228", 6)));
    assert_eq!(first[1].0, first[3].0);
    let mut seen: Vec<u64> = Vec::new();
    for _ in 0..6 {
        let answer = server.json(RECORDS, r#"{"records":[{"value":1}]}"#).await;
        seen.push(offsets(&answer)[0].0);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn what_a_fetch_returned_can_be_produced_again() {
    let server = Server::with_topic(4);
    let record = r#"{"partition":3,"offset":1042,"timestamp":1357035420000,"key":"N14228","value":{"event":"x"},"headers":{"type":"y"},"topic":"other"}"#;
    let body = format!("{{\"records\":[{record}]}}");
    assert_eq!(offsets(&server.json(RECORDS, body.clone()).await), [(3, 0)]);
    assert_eq!(server.stored("t", 3)[0].timestamp, 1_357_035_420_000);
    let answer = server.json("/v1/topics/t/records?repartition=true", body).await;
    assert_eq!(offsets(&answer)[0].0, u64::from(partition_of_key(b"N14228", 4)));
    let answer = server.ndjson(RECORDS, record).await;
    assert_eq!(answer.ok()["partitions"][0]["partition"], 3);
}

#[tokio::test]
async fn a_keyed_record_elsewhere_than_its_key_says_marks_the_topic() {
    let server = Server::new();
    let topic = server.topic("t", 6, json!({}));
    let marked = || server.app.log.state_get(&keyed_elsewhere(topic.id())).is_some();
    let home = partition_of_key(b"key", 6);
    let record = |partition: u32| format!("{{\"records\":[{{\"key\":\"key\",\"partition\":{partition}}}]}}");
    server.json(RECORDS, record(home)).await.ok();
    let answer = server.json(RECORDS, r#"{"records":[{"partition":5}]}"#).await;
    answer.ok();
    let uri = "/v1/topics/t/records?repartition=true";
    server.json(uri, record(home + 1)).await.ok();
    assert!(!marked());
    server.json(RECORDS, record((home + 1) % 6)).await.ok();
    assert!(marked());
}

#[tokio::test]
async fn one_wrong_record_refuses_them_all_and_names_its_field() {
    let server = Server::with_topic(2);
    for (record, pointer) in [
        (r#"{"vlaue":1}"#, "/vlaue"),
        (r#"{"key":1}"#, "/key"),
        (r#"{"key":"\ud800"}"#, "/key"),
        (r#"{"value":1,"value":1}"#, "/value"),
        (r#"{"value":NaN}"#, "/value"),
        (r#"{"key":"a","key_base64":"YQ=="}"#, "/key_base64"),
        (r#"{"headers":{"a":[1]}}"#, "/headers/a/0"),
        (r#"{"headers":{"b":"ok","a":5}}"#, "/headers/a"),
        (r#"{"timestamp":"yesterday"}"#, "/timestamp"),
        (r#"{"value_base64":"*"}"#, "/value_base64"),
        (r#"{"headers":{"a":{"base64":"YQ"}}}"#, "/headers/a/base64"),
        ("7", ""),
    ] {
        let body = format!("{{\"records\":[{{}},{{}},{{}},{record}]}}");
        let answer = server.json(RECORDS, body).await;
        let problem = answer.problem(400, "invalid-request");
        assert_eq!(problem["pointer"], format!("/records/3{pointer}"), "{record}");
        assert_eq!(problem["outcome"], "none");
        let is_ours = !problem["detail"].to_string().contains("Invalid");
        assert!(is_ours, "it has the words of a library: {problem}");
    }
    let wrong = "|{}|[]|{\"records\":[]}|{\"records\":[{}]}x|{\"records\":[{}],\"more\":1}|\u{feff}{}";
    for body in wrong.split('|') {
        server.json(RECORDS, body).await.problem(400, "invalid-request");
    }
    assert!(server.stored("t", 0).is_empty() && server.stored("t", 1).is_empty());
}

#[tokio::test]
async fn hostile_json_is_refused_and_harms_nothing() {
    let server = Server::with_topic(1);
    let deep = format!("{{\"records\":[{{\"value\":{}", "[".repeat(2_000_000));
    server.json(RECORDS, deep).await.invalid("/records/0/value");
    let body = &b"{\"records\":[{\"value\":\"\xff\"}]}"[..];
    server.json(RECORDS, body).await.invalid("/records/0/value");
    let headers = "\"\",".repeat(100_000);
    let many = format!("{{\"records\":[{{\"headers\":{{\"a\":[{headers}\"\"]}}}}]}}");
    let answer = server.json(RECORDS, many).await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    server.json(RECORDS, r#"{"records":[{"value":1}]}"#).await.ok();
}

#[tokio::test]
async fn line_breaks_in_a_value_are_kept_and_told_to_readers() {
    let server = Server::with_topic(2);
    let body =
        "{\"records\":[{\"partition\":0,\"value\":{\"a\":\n1}},\n{\"partition\":1,\n\"value\":[1, 2]}]}";
    server.json(RECORDS, body).await.ok();
    assert_eq!(server.stored("t", 0)[0].value(), "{\"a\":\n1}");
    assert!(!server.runs("t", 0).1);
    assert!(server.runs("t", 1).1);
}

#[tokio::test]
async fn what_is_not_there_is_unknown() {
    let server = Server::with_topic(2);
    let records = r#"{"records":[{}]}"#;
    let path = "/v1/topics/x/records";
    let json = "application/json";
    for (content_type, body) in [(json, records), ("text/plain", "raw"), (NDJSON, "{}")] {
        let answer = server.post_as(path, content_type, body).await;
        answer.refusal(404, "unknown-topic", "none");
    }
    let answer = server.json(RECORDS, r#"{"records":[{},{"partition":2}]}"#).await;
    let problem = answer.problem(404, "unknown-partition");
    assert_eq!(problem["pointer"], "/records/1/partition");
    let answer = server.json("/v1/topics/%ff/records", records).await;
    answer.problem(400, "invalid-request");
    assert!(server.stored("t", 0).is_empty());
}

#[tokio::test]
async fn times_are_the_clocks_where_records_name_none_or_the_topic_wants_its_own() {
    let server = Server::new();
    server.topic("create", 1, json!({}));
    server.topic("append", 1, json!({"timestamp_type": "log_append_time"}));
    let body = r#"{"records":[{"timestamp":"2013-07-01T00:00:00Z"},{}]}"#;
    let line = "{\"timestamp\":5}\n";
    for topic in ["create", "append"] {
        let path = format!("/v1/topics/{topic}/records");
        server.json(&path, body).await.ok();
        server.set_time(NOW + 1);
        let answer = server.post(&format!("{path}?timestamp=9"), &TEXT, "raw").await;
        answer.ok();
        server.ndjson(&path, line).await.ok();
        server.set_time(NOW);
    }
    let times = |topic| -> Vec<i64> {
        let stored = server.stored(topic, 0).into_iter();
        stored.map(|record| record.timestamp).collect()
    };
    assert_eq!(times("create"), [1_372_636_800_000, NOW, 9, 5]);
    assert_eq!(times("append"), [NOW, NOW, NOW + 1, NOW + 1]);
}

#[tokio::test]
async fn a_record_above_its_topics_limit_is_too_large() {
    let server = Server::with(|limits| {
        (limits.max_key_bytes, limits.max_headers_per_record) = (10, 2);
        limits.max_header_bytes = 20;
    });
    server.topic("t", 1, json!({"max_record_bytes": 100}));
    let value = |bytes: usize| {
        let value = "1".repeat(bytes);
        format!("{{\"records\":[{{\"key\":\"1234\",\"value\":{value}}}]}}")
    };
    server.json(RECORDS, value(96)).await.ok();
    let answer = server.json(RECORDS, value(97)).await;
    assert_eq!(answer.problem(413, "record-too-large")["pointer"], "/records/0");
    for record in [
        r#"{"key":"12345678901"}"#,
        r#"{"headers":{"a":["","",""]}}"#,
        r#"{"headers":{"a":"12345678901234567890"}}"#,
    ] {
        let answer = server.json(RECORDS, format!("{{\"records\":[{record}]}}")).await;
        answer.problem(413, "record-too-large");
    }
    server.post(RECORDS, &TEXT, vec![b'x'; 100]).await.ok();
    let answer = server.post(RECORDS, &TEXT, vec![b'x'; 101]).await;
    answer.problem(413, "record-too-large");
    assert_eq!(server.stored("t", 0).len(), 2);
}

#[tokio::test]
async fn a_request_above_the_limit_is_too_large_however_it_is_sent() {
    let server = Server::with(|limits| limits.max_request_bytes = 1000);
    server.topic("t", 1, json!({}));
    let body = |bytes: usize| {
        let value = "x".repeat(bytes - r#"{"records":[{"value":""}]}"#.len());
        format!("{{\"records\":[{{\"value\":\"{value}\"}}]}}").into_bytes()
    };
    let json = ("content-type", "application/json");
    server.post(RECORDS, &[json], body(1000)).await.ok();
    server
        .post(RECORDS, &[json], streamed(&body(1000), 99))
        .await
        .ok();
    let zstd = zstd::encode_all(&body(1001)[..], 1).unwrap();
    for (headers, body) in [
        (vec![json, ("content-length", "1001")], Body::from(body(1001))),
        (vec![json], streamed(&body(1001), 99)),
        (vec![json], streamed(&body(1001), 2000)),
        (vec![json, ("content-encoding", "gzip")], gzip(&body(1001)).into()),
        (vec![json, ("content-encoding", "zstd")], zstd.into()),
        (TEXT.to_vec(), vec![b'x'; 1001].into()),
    ] {
        let answer = server.post(RECORDS, &headers, body).await;
        assert_eq!(answer.problem(413, "request-too-large")["outcome"], "none");
    }
    // As lines there is no such limit.
    let lines = "{\"value\":\"0123456789\"}\n".repeat(200);
    assert_eq!(server.ndjson(RECORDS, lines).await.ok()["records"], 200);
}

#[tokio::test]
async fn empty_records_that_outgrow_the_limit_as_batches_are_refused() {
    let server = Server::with(|limits| limits.max_request_bytes = 3000);
    server.topic("t", 1, json!({}));
    let body = |records: usize| format!("{{\"records\":[{}]}}", vec!["{}"; records].join(","));
    server.json(RECORDS, body(300)).await.ok();
    refused(server.json(RECORDS, body(900)), 413, "request-too-large").await;
}

// ---- query and headers

#[tokio::test]
async fn ack_is_the_requests_or_the_topics() {
    let server = Server::new();
    server.topic("t", 1, json!({"ack": "written"}));
    for query in ["", "?ack=durable", "?ack=written"] {
        let path = format!("/v1/topics/t/records{query}");
        server.json(&path, r#"{"records":[{}]}"#).await.ok();
        server.ndjson(&path, "{}\n").await.ok();
        server.post(&path, &TEXT, "raw").await.ok();
    }
    let uri = "/v1/topics/t/records?ack=all";
    server.json(uri, r#"{"records":[{}]}"#).await.invalid("ack");
}

#[tokio::test]
async fn records_are_appended_only_at_the_expected_offset() {
    let server = Server::with_topic(2);
    let body = r#"{"records":[{"partition":1},{"partition":1}]}"#;
    let path = |offset: u64| format!("/v1/topics/t/records?expected_offset={offset}");
    let answer = server.json(&path(1), body).await;
    assert_eq!(answer.problem(412, "offset-mismatch")["end_offset"], 0);
    assert_eq!(offsets(&server.json(&path(0), body).await), [(1, 0), (1, 1)]);
    let answer = server.json(&path(0), body).await;
    assert_eq!(answer.problem(412, "offset-mismatch")["end_offset"], 2);
    let raw = "/v1/topics/t/records?partition=1&expected_offset=";
    let answer = server.post(&format!("{raw}3"), &TEXT, "x").await;
    answer.problem(412, "offset-mismatch");
    server.post(&format!("{raw}2"), &TEXT, "x").await.ok();
    for wrong in ["-1", "x", "9223372036854775808", ""] {
        let uri = format!("/v1/topics/t/records?expected_offset={wrong}");
        server.json(&uri, body).await.invalid("expected_offset");
    }
    let two = r#"{"records":[{"partition":1},{"partition":0}]}"#;
    server.json(&path(3), two).await.invalid("expected_offset");
    assert_eq!(server.stored("t", 1).len(), 3);
}

#[tokio::test]
async fn unknown_parameters_are_refused_by_name() {
    let server = Server::with_topic(1);
    const TEXTS: &str = "text/plain";
    for (path, content_type, name) in [
        ("records?akc=durable", "application/json", "akc"),
        ("records?key=a", "application/json", "key"),
        ("records?partition=0", NDJSON, "partition"),
        ("records?repartition=true", TEXTS, "repartition"),
        ("records?repartition=1", NDJSON, "repartition"),
        ("records?timestamp=yesterday", TEXTS, "timestamp"),
        ("records?ack=written&ack=written", TEXTS, "ack"),
        ("partitions/0/records?repartition=true", BATCH, "repartition"),
    ] {
        let path = &format!("/v1/topics/t/{path}");
        invalid(server.post(path, &[("content-type", content_type)], "{}"), name).await;
    }
    assert!(server.stored("t", 0).is_empty());
}

#[tokio::test]
async fn a_traceparent_is_kept_with_every_record_that_has_none() {
    let server = Server::with_topic(1);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let own = r#"{"headers":{"a":"b","traceparent":"own"}}"#;
    for (content_type, body) in [
        ("application/json", format!("{{\"records\":[{{}},{own}]}}")),
        (NDJSON, format!("{{}}\n{own}\n")),
    ] {
        let headers = [("content-type", content_type), ("traceparent", trace)];
        server.post(RECORDS, &headers, body).await.ok();
    }
    let headers = [TEXT[0], ("traceparent", trace)];
    server.post(RECORDS, &headers, "raw").await.ok();
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    let mut stored = server.stored("t", 0);
    let last = &mut stored.last_mut().unwrap().headers;
    assert!(last.pop() == Some(header("content-type", "text/plain")));
    let added = vec![header("traceparent", trace)];
    let kept = vec![header("a", "b"), header("traceparent", "own")];
    let headers: Vec<_> = stored.into_iter().map(|record| record.headers).collect();
    assert_eq!(headers, [added.clone(), kept.clone(), added.clone(), kept, added]);
}

// ---- codings

#[tokio::test]
async fn compressed_bodies_are_taken_in_every_type() {
    let server = Server::with_topic(1);
    let batch = batch(&["1"]);
    let bodies: [(&str, &str, &[u8]); 4] = [
        (RECORDS, "application/json", br#"{"records":[{"value":1}]}"#),
        (RECORDS, NDJSON, b"{\"value\":1}\n"),
        (RECORDS, "text/plain", b"1"),
        (TO_PARTITION, BATCH, &batch),
    ];
    for (path, content_type, body) in bodies {
        for (coding, body) in [
            ("gzip", gzip(body)),
            ("GZIP", gzip(body)),
            ("zstd", zstd::encode_all(body, 3).unwrap()),
            ("identity", body.to_vec()),
        ] {
            let headers = [("content-type", content_type), ("content-encoding", coding)];
            server.post(path, &headers, streamed(&body, 3)).await.ok();
            let answer = server.post(path, &headers, body[..body.len() - 1].to_vec()).await;
            if coding != "identity" {
                answer.problem(400, "invalid-request");
            }
        }
        let headers = [("content-type", content_type), ("content-encoding", "br")];
        let answer = server.post(path, &headers, body.to_vec()).await;
        answer.problem(415, "unsupported-media-type");
        assert_eq!(answer.headers["accept-encoding"], "gzip, zstd");
    }
    for record in server.stored("t", 0) {
        assert!(["1", ""].contains(&record.value()), "{record:?}");
    }
}

// ---- raw

#[tokio::test]
async fn any_other_type_is_one_records_value() {
    let server = Server::with_topic(4);
    let path = "/v1/topics/t/records?key=a%20key&partition=2&timestamp=2013-07-01T00:00:00Z";
    let answer = server.post_as(path, "image/png; x=1", &b"\x89PNG\r\n"[..]).await;
    assert_eq!(offsets(&answer), [(2, 0)]);
    assert_eq!(
        server.stored("t", 2),
        [Stored {
            offset: 0,
            timestamp: 1_372_636_800_000,
            key: Some(b"a key".to_vec()),
            value: Some(b"\x89PNG\r\n".to_vec()),
            headers: vec![("content-type".into(), Some(b"image/png; x=1".to_vec()))],
        }]
    );
    let answer = server.post("/v1/topics/t/records?key=key", &TEXT, "x").await;
    let partition = partition_of_key(b"key", 4);
    assert_eq!(offsets(&answer)[0].0, u64::from(partition));
    let stored = server.stored("t", partition).pop().unwrap();
    let content_type = ("content-type".to_owned(), Some(b"text/plain".to_vec()));
    assert_eq!((stored.headers, stored.timestamp), (vec![content_type], NOW));
    let answer = server.post("/v1/topics/t/records?partition=4", &TEXT, "x").await;
    assert_eq!(answer.problem(404, "unknown-partition")["pointer"], "partition");
    let answer = server.post("/v1/topics/t/records?partition=-1", &TEXT, "x").await;
    answer.problem(400, "invalid-request");
}

#[tokio::test]
async fn types_that_clients_send_unasked_are_refused_with_the_types_that_there_are() {
    let server = Server::with_topic(1);
    let body = r#"{"records":[{"value":1}]}"#;
    let problem = refused(server.post(RECORDS, &[], body), 415, "unsupported-media-type").await;
    says(&problem, "application/x-ndjson");
    let types = "application/x-www-form-urlencoded|multipart/form-data; boundary=x|text/json|application/x-json|application/json5|\
        application/vnd.kafka.json.v2+json|application/x-ldjson|application/stream+json|application/problem+json|Application/Geo+JSON; x=1";
    for content_type in types.split('|') {
        let answer = server.post_as(RECORDS, content_type, body);
        let problem = refused(answer, 415, "unsupported-media-type").await;
        says(&problem, "application/x-ndjson");
    }
    assert!(server.stored("t", 0).is_empty());
    for kind in ["ndjson", "jsonl", "x-jsonlines", "jsonlines", "x-jsonl"] {
        let content_type = &*format!("application/{kind}");
        let answer = server.post_as(RECORDS, content_type, "\u{feff}{}\n{}\n").await;
        assert_eq!(answer.ok()["records"], 2, "{content_type}");
        let problem = server.post_as(RECORDS, content_type, "{}\n\u{feff}{}\n").await;
        let problem = problem.problem(400, "invalid-request");
        has(&problem, json!({"line": 2, "accepted": 1}));
        says(&problem, "found a byte order mark");
    }
    let text = format!("\u{feff}{body}");
    server.json(RECORDS, text).await.ok();
    // A browser sends a string as text.
    for (content_type, value, is_hinted) in [
        ("text/plain;charset=UTF-8", body, true),
        (
            "application/octet-stream",
            "\u{feff} {\r\n\"records\" : [ {",
            true,
        ),
        ("text/plain", "{\"records\":1}", false),
        ("application/problem+json", "{\"title\":\"records\"}", false),
    ] {
        let answer = server.post_as(RECORDS, content_type, value).await.ok();
        assert_eq!(server.stored("t", 0).last().unwrap().value(), value);
        let hint = answer["hint"].as_str().unwrap_or_default();
        assert_eq!(hint.contains("application/json"), is_hinted, "{value}: {answer}");
    }
}

#[tokio::test]
async fn a_partition_is_refused_by_the_number_that_was_sent_or_the_largest_that_is_kept() {
    let server = Server::with_topic(1);
    for (number, said) in [
        ("1", "1 is none"),
        ("4294967296", "4294967296 is none"),
        ("18446744073709551614", "18446744073709551614 is none"),
        ("18446744073709551616", "18446744073709551615 or more is none"),
        (
            "340282366920938463463374607431768211457",
            "18446744073709551615 or more is none",
        ),
    ] {
        let record = format!("{{\"partition\":{number}}}");
        let body = format!("{{\"records\":[{record}]}}");
        for answer in [
            server.json(RECORDS, body).await,
            server.ndjson(RECORDS, record).await,
        ] {
            says(&answer.problem(404, "unknown-partition"), said);
        }
    }
}

#[tokio::test]
async fn times_are_rfc_3339_in_all_its_range() {
    let server = Server::with_topic(1);
    for (time, millis) in [
        ("0001-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", 0),
        ("2013-07-01T00:00:00.0019Z", 1_372_636_800_001),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ] {
        let record = format!("{{\"records\":[{{\"timestamp\":\"{time}\"}}]}}");
        server.json(RECORDS, record).await.ok();
        let raw = format!("/v1/topics/t/records?timestamp={time}");
        server.post(&raw, &TEXT, "raw").await.ok();
        let event = json!({"specversion": "1.0", "id": "1", "source": "/", "type": "t", "time": time});
        let event = server.post_as(RECORDS, "application/cloudevents+json", event.to_string());
        event.await.ok();
        let stored = server.stored("t", 0);
        for record in &stored[stored.len() - 3..] {
            assert_eq!(record.timestamp, millis, "{time}");
        }
        let older = stored.iter().filter(|record| record.timestamp < millis).count();
        for path in [RECORDS, TO_PARTITION] {
            let begin = if path == RECORDS { "from" } else { "offset" };
            for (query, expected) in [
                (format!("from={time}"), &stored[older..]),
                (format!("{begin}=earliest&until={time}"), &stored[..older]),
            ] {
                let answer = server
                    .get_as(&format!("{path}?{query}"), NDJSON)
                    .await
                    .with_status(200);
                let lines = answer.text().lines();
                let found = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["offset"].clone());
                let expected: Vec<u64> = expected.iter().map(|record| record.offset).collect();
                assert_eq!(found.collect::<Vec<_>>(), expected, "{path}?{query}");
            }
        }
    }
    let path = "/v1/topics/t/records?timestamp=2024-01-01T00:00:00+02:00";
    let answer = server.post(path, &TEXT, "raw").await;
    let problem = answer.problem(400, "invalid-request");
    says(&problem, "%2B");
}

#[tokio::test]
async fn readers_are_told_which_raw_values_are_json_in_one_line() {
    for (value, is_json) in [
        ("{\"a\": 1}", true),
        ("1", true),
        ("null", false),
        ("", false),
        ("text", false),
        ("[1,\n2]", false),
        ("1\n", false),
    ] {
        let server = Server::with_topic(1);
        server.post(RECORDS, &TEXT, value).await.ok();
        assert_eq!(server.stored("t", 0)[0].value(), value);
        assert_eq!(server.runs("t", 0).1, is_json, "{value:?}");
    }
}

// ---- NDJSON

#[tokio::test]
async fn a_closed_log_is_a_server_that_stops() {
    let server = Server::with_topic(1);
    server.app.log.close().unwrap();
    refused(server.json(RECORDS, r#"{"records":[{}]}"#), 503, "shutting-down").await;
    let answer = server.ndjson(RECORDS, "{}\n").await;
    assert_eq!(answer.problem(503, "shutting-down")["outcome"], "none");
}

// ---- bodies in flight, and refusals

#[tokio::test]
async fn a_bodys_part_of_the_budget_comes_back_after_every_answer() {
    let server = Server::with(|limits| limits.max_in_flight_bytes = 1 << 20);
    server.topic("t", 2, json!({}));
    let (lines, _) = many_lines();
    server.ndjson(RECORDS, streamed(&lines, 5000)).await.ok();
    let answer = server.ndjson(RECORDS, streamed(b"{}\n{}\nx", 2)).await;
    answer.problem(400, "invalid-request");
    let large = format!("{{\"records\":[{{\"value\":\"{}\"}}]}}", "x".repeat(900_000));
    let answer = server.json(RECORDS, streamed(large.as_bytes(), 10_000)).await;
    answer.ok();
    let answer = server.json("/v1/topics/x/records", large.clone()).await;
    answer.problem(404, "unknown-topic");
    refused(server.json(RECORDS, large + "x"), 400, "invalid-request").await;
    assert_eq!(server.app.body_bytes_in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_writes_all_before_it_reads_finds_the_refusal() {
    let server = Server::with_topic(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, quipu::http::router(server.app.clone())).into_future());
    let cases = [
        ("/v1/topics/x/records", "application/json", "404"),
        (RECORDS, "application/json", "413"),
        ("/v1/topics/t/records?akc=1", "text/plain", "400"),
        (RECORDS, NDJSON, "413"),
        (TO_PARTITION, "text/plain", "415"),
    ];
    let client = tokio::task::spawn_blocking(move || {
        for (path, content_type, status) in cases {
            let length = 48 << 20;
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            let chunk = vec![b'x'; 1 << 20];
            for _ in 0..48 {
                stream.write_all(&chunk).unwrap();
            }
            let mut answer = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
            let expected = format!("HTTP/1.1 {status}");
            assert_eq!(answer, expected.as_bytes(), "{path} {content_type}");
        }
    });
    client.await.unwrap();
    serving.abort();
}

// ---- all JSON

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_json_value_comes_back_byte_for_byte(values in prop::collection::vec(any::<(String, f64, Option<i64>)>(), 1..20)) {
        let values: Vec<String> = values.iter().map(|(text, float, number)| json!({text: [float, number, text]}).to_string()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::with_topic(1);
            let records: Vec<String> = values.iter().map(|value| format!("{{\"value\":{value}}}")).collect();
            server.json(RECORDS, format!("{{\"records\":[{}]}}", records.join(","))).await.ok();
            server.ndjson(RECORDS, records.join("\n")).await.ok();
            let stored: Vec<String> = server.stored("t", 0).iter().map(|record| record.value().to_owned()).collect();
            assert_eq!(stored, [&values[..], &values[..]].concat());
        });
    }
}
