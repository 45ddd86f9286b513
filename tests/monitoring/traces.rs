//! Traces: a produce continues its caller's trace, and a consumer's work links to it. A collector that is away stops
//! nothing.

use std::io::{BufRead as _, Read as _};
use std::net::TcpListener;
use std::time::Instant;

use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, Codec};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::collector::Collector;
use super::support::{Connection, PATIENCE, Server};
use super::wire::{Client, Out};

const PRODUCER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CONSUMER: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01";
const UNSAMPLED: &str = "00-cccccccccccccccccccccccccccccccc-dddddddddddddddd-00";

/// A call within a trace, which must be answered with 200.
fn call(connection: &mut Connection, (method, path): (&str, &str), traceparent: Option<&str>, body: &str) {
    let trace = traceparent.map(|value| format!("traceparent: {value}\r\n"));
    let answer = connection.request_with(
        method,
        path,
        "application/json",
        &trace.unwrap_or_default(),
        body.as_bytes(),
    );
    answer.expect("an answer").with_status(200);
}

const PRODUCE: (&str, &str) = ("POST", "/v1/topics/orders/records");
const POLL: (&str, &str) = ("POST", "/v1/groups/billing/members/m/poll");
const FETCH: (&str, &str) = ("GET", "/v1/topics/orders/partitions/0/records?offset=0");

/// The names of spans.
fn names(spans: &[Value]) -> Vec<&str> {
    let names = spans.iter().map(|span| span["name"].as_str());
    names.map(|name| name.expect("a name")).collect()
}

#[test]
fn a_produce_continues_the_callers_trace_and_who_reads_it_links_to_it() {
    let collector = Collector::start();
    let dir = TempDir::new().expect("a temporary directory");
    let server = Server::start_with_settings(
        &dir.path().join("data"),
        &[("QUIPU_OTLP_ENDPOINT", &collector.endpoint)],
    );
    server.create_topic("orders", 1);
    let mut connection = server.connect();
    let record = r#"{"records":[{"value":1},{"value":2}]}"#;
    call(&mut connection, PRODUCE, Some(PRODUCER), record);
    call(&mut connection, PRODUCE, Some(UNSAMPLED), record);
    call(&mut connection, PRODUCE, None, record);
    call(&mut connection, POLL, Some(CONSUMER), r#"{"topics":["orders"]}"#);
    call(&mut connection, FETCH, None, "");
    call(&mut connection, FETCH, Some(UNSAMPLED), "");

    let spans = collector.spans_until_stopped(server, 3);
    let names = names(&spans);
    let fetch = "GET /v1/topics/{topic}/partitions/{partition}/records";
    let expected = [
        "POST /v1/topics/{topic}/records",
        "POST /v1/groups/{group}/members/{member}/poll",
        fetch,
    ];
    assert_eq!(names, expected);
    let link = json!([link(PRODUCER)]);

    let produced = &spans[0];
    assert_eq!(produced["traceId"], PRODUCER[3..35]);
    assert_eq!(produced["parentSpanId"], PRODUCER[36..52]);
    assert_eq!((&produced["kind"], &produced["links"]), (&2.into(), &json!([])));
    assert_eq!(attribute(produced, "messaging.destination.name"), "orders");
    assert_eq!(
        attribute(produced, "http.route"),
        PRODUCE.1.replace("orders", "{topic}")
    );
    let time = |name: &str| {
        produced[name]
            .as_str()
            .expect("a time")
            .parse::<u64>()
            .expect("nanoseconds")
    };
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));

    let polled = &spans[1];
    assert_eq!(polled["traceId"], CONSUMER[3..35]);
    assert_eq!(polled["parentSpanId"], CONSUMER[36..52]);
    assert_eq!(polled["links"], link);
    assert_eq!(attribute(polled, "messaging.consumer.group.name"), "billing");

    let fetched = &spans[2];
    assert_eq!((fetched.get("parentSpanId"), &fetched["links"]), (None, &link));
    let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| span["spanId"].as_str()).collect();
    assert_eq!(ids.len(), 3);
    assert_ne!(fetched["traceId"], produced["traceId"]);
}

/// The link to the span that a `traceparent` names.
fn link(traceparent: &str) -> Value {
    json!({"traceId": &traceparent[3..35], "spanId": &traceparent[36..52]})
}

/// A server that sends its traces to the collector and listens for Kafka's clients.
fn traced(collector: &Collector, dir: &TempDir) -> Server {
    let settings = [
        ("QUIPU_OTLP_ENDPOINT", &*collector.endpoint),
        ("QUIPU_KAFKA_LISTEN", "127.0.0.1:0"),
    ];
    Server::start_with_settings(&dir.path().join("data"), &settings)
}

#[test]
fn every_way_to_store_a_record_over_http_keeps_its_trace_and_every_way_to_read_it_links_to_it() {
    let collector = Collector::start();
    let dir = TempDir::new().expect("a temporary directory");
    let server = traced(&collector, &dir);
    let mut connection = server.connect();
    // One topic for each way to store, each in a trace of its own.
    let ways = [
        (
            "json",
            "/v1/topics/json/records",
            "application/json",
            r#"{"records":[{"value":1}]}"#,
        ),
        (
            "lines",
            "/v1/topics/lines/records",
            "application/x-ndjson",
            "{\"value\":1}\n",
        ),
        (
            "raw",
            "/v1/topics/raw/records",
            "application/octet-stream",
            "bytes",
        ),
        (
            "events",
            "/v1/topics/events/records",
            "application/cloudevents+json",
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1}"#,
        ),
        (
            "several",
            "/v1/records",
            "application/json",
            r#"{"records":[{"topic":"several","value":1}]}"#,
        ),
    ];
    let trace = |at: usize| format!("00-{:032x}-00f067aa0ba902b7-01", at + 1);
    for (at, (topic, path, media, body)) in ways.into_iter().enumerate() {
        server.create_topic(topic, 1);
        let header = format!("traceparent: {}\r\n", trace(at));
        let answer = connection.request_with("POST", path, media, &header, body.as_bytes());
        answer.expect("an answer").with_status(200);
    }
    let topics = ways.map(|(topic, ..)| topic);
    let all: Vec<_> = (0..ways.len()).map(|at| link(&trace(at))).collect();
    let mut expected = Vec::new();
    let mut read = |method: &str, path: &str, accept: &str, body: &Value, links: &[Value]| {
        let headers = format!("traceparent: {CONSUMER}\r\naccept: {accept}\r\n");
        let media = if method == "GET" { "" } else { "application/json" };
        let body = if method == "GET" {
            String::new()
        } else {
            body.to_string()
        };
        let answer = connection.request_with(method, path, media, &headers, body.as_bytes());
        answer.expect("an answer").with_status(200);
        expected.push((format!("{method} {path} as {accept}"), links.to_vec()));
    };
    for (topic, links) in topics.iter().zip(&all) {
        let path = format!("/v1/topics/{topic}/partitions/0/records?offset=0");
        read(
            "GET",
            &path,
            "application/json",
            &Value::Null,
            std::slice::from_ref(links),
        );
    }
    let path = "/v1/topics/json/partitions/0/records?offset=0";
    read(
        "GET",
        path,
        "application/vnd.apache.kafka.record-batch",
        &Value::Null,
        &all[..1],
    );
    let ordered = json!({"topics": topics, "max_records": 100});
    let queue = json!({"topics": topics, "type": "shared", "max_records": 100});
    read(
        "POST",
        "/v1/groups/ordered/members/m/poll",
        "application/json",
        &ordered,
        &all,
    );
    read(
        "POST",
        "/v1/groups/queue/members/m/poll",
        "application/json",
        &queue,
        &all,
    );
    for accept in ["application/x-ndjson", "text/event-stream", "application/json"] {
        read("GET", "/v1/topics/raw/records", accept, &Value::Null, &all[2..3]);
        let path = format!("/v1/records?topics={}", topics.join(","));
        read("GET", &path, accept, &Value::Null, &all);
    }
    // A live tail that its reader leaves, without a trace of its own.
    let mut tail = server.connect();
    tail.ask("/v1/topics/lines/records?follow=true");
    let head = tail.answering();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    let mut size = String::new();
    tail.stream.read_line(&mut size).expect("a chunk");
    tail.stream.read_exact(&mut [0]).expect("a record");
    drop(tail);

    let spans = collector.spans_until_stopped(server, all.len() + expected.len() + 1);
    let (produced, read): (Vec<&Value>, Vec<&Value>) = spans.iter().partition(|span| {
        let name = span["name"].as_str().expect("a name");
        name.starts_with("POST") && !name.ends_with("/poll")
    });
    let parents: Vec<_> = produced.iter().map(|span| span["traceId"].clone()).collect();
    let sent: Vec<_> = all.iter().map(|link| link["traceId"].clone()).collect();
    assert_eq!(parents, sent);
    let (tailed, read): (Vec<&Value>, Vec<&Value>) = read
        .into_iter()
        .partition(|span| span.get("parentSpanId").is_none());
    assert_eq!(read.len(), expected.len());
    for (span, (what, links)) in read.iter().zip(&expected) {
        let mut found = span["links"].as_array().expect("links").clone();
        // A poll and a stream of several topics take them in any order.
        found.sort_by_key(|link| link["traceId"].to_string());
        assert_eq!(
            (&found, &span["traceId"]),
            (links, &CONSUMER[3..35].into()),
            "{what}"
        );
    }
    let tailed: Vec<_> = tailed
        .iter()
        .map(|span| (&span["name"], &span["links"]))
        .collect();
    assert_eq!(
        tailed,
        [(&"GET /v1/topics/{topic}/records".into(), &json!([all[1]]))]
    );
}

#[test]
fn a_trace_goes_from_kafka_clients_to_consumers_over_http_and_back_in_a_header() {
    let collector = Collector::start();
    let dir = TempDir::new().expect("a temporary directory");
    let server = traced(&collector, &dir);
    server.create_topic("orders", 1);
    let mut kafka = Client::to(server.kafka.expect("it listens"));
    let mut connection = server.connect();
    // What the tracing of a Kafka client does: the context is a header of the record. A compressed batch is no other.
    let batch = |trace: &str, codec: Option<Codec>| {
        let mut builder = BatchBuilder::new();
        let header: (&[u8], Option<&[u8]>) = (b"traceparent", Some(trace.as_bytes()));
        builder.push(TimestampMs(1_700_000_000_000), None, Some(b"1"), &[header]);
        let sealed = builder.seal().with_codec(codec, None);
        sealed.expect("a batch").into_bytes()
    };
    for (trace, codec) in [(PRODUCER, None), (CONSUMER, Some(Codec::Zstd)), (UNSAMPLED, None)] {
        let head = Out::new().null().i16(-1).i32(30_000).i32(1).text("orders");
        let mut answer = kafka.ask(0, 3, head.i32(1).i32(0).bytes(&batch(trace, codec)));
        assert_eq!(
            (answer.i32(), answer.text(), answer.i32()),
            (1, "orders".to_owned(), 1)
        );
        assert_eq!((answer.i32(), answer.i16()), (0, 0));
    }
    call(&mut connection, POLL, None, r#"{"topics":["orders"]}"#);
    // A record over HTTP has the header for a Kafka client.
    let trace = "00-eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-ffffffffffffffff-01";
    call(
        &mut connection,
        PRODUCE,
        Some(trace),
        r#"{"records":[{"value":1}]}"#,
    );
    let head = Out::new().i32(-1).i32(0).i32(1).i32(1 << 20).i8(0);
    let asked = head.i32(1).text("orders").i32(1).i32(0).i64(3).i32(1 << 20);
    let fetched = kafka.ask(1, 4, asked).rest();
    let header = [b"\x16traceparent".as_slice(), b"\x6e", trace.as_bytes()].concat();
    assert!(
        fetched.windows(header.len()).any(|part| part == header),
        "{fetched:?}"
    );

    let spans = collector.spans_until_stopped(server, 2);
    let names = names(&spans);
    // Requests of Kafka's protocol have no context of their own, and no span.
    let expected = [
        "POST /v1/groups/{group}/members/{member}/poll",
        "POST /v1/topics/{topic}/records",
    ];
    assert_eq!(names, expected);
    assert_eq!(spans[0]["links"], json!([link(PRODUCER), link(CONSUMER)]));
}

#[test]
fn a_stop_sends_the_spans_that_are_not_sent_yet() {
    let collector = Collector::start();
    let begin = Instant::now();
    // A stop waits for two seconds at most, which a slow machine may exceed once.
    loop {
        let dir = TempDir::new().expect("a temporary directory");
        let server = traced(&collector, &dir);
        server.create_topic("orders", 1);
        let record = r#"{"records":[{"value":1}]}"#;
        call(&mut server.connect(), PRODUCE, Some(PRODUCER), record);
        server.stop();
        let spans = collector.spans();
        if names(&spans) == ["POST /v1/topics/{topic}/records"] {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{spans:?}");
    }
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a str {
    let mut attributes = span["attributes"].as_array().expect("attributes").iter();
    let found = attributes.find(|attribute| attribute["key"] == name);
    found
        .and_then(|it| it["value"]["stringValue"].as_str())
        .unwrap_or_else(|| panic!("no {name} in {span}"))
}

#[test]
fn a_collector_that_is_away_stops_nothing_and_what_is_lost_is_counted() {
    // A port where nobody listens.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let dir = TempDir::new().expect("a temporary directory");
    let data = dir.path().join("data");
    let endpoint = format!("http://{address}");
    let server = Server::start_with_settings(&data, &[("QUIPU_OTLP_ENDPOINT", &endpoint)]);
    server.create_topic("orders", 1);
    let mut connection = server.connect();
    let begin = Instant::now();
    loop {
        call(
            &mut connection,
            PRODUCE,
            Some(PRODUCER),
            r#"{"records":[{"value":1}]}"#,
        );
        let metrics = connection.get("/metrics");
        let line = metrics
            .text()
            .lines()
            .find(|line| line.starts_with("quipu_traces_dropped_total "));
        if line.is_some_and(|line| line != "quipu_traces_dropped_total 0") {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "nothing is counted");
    }
    let warnings = server
        .log()
        .matches("the trace collector does not take spans")
        .count();
    assert_eq!(warnings, 1);
    server.stop();
}
