//! Traces: a produce continues its caller's trace, and a consumer's work links to it. A collector that is away stops
//! nothing.

use std::net::TcpListener;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::collector::Collector;
use super::support::{Connection, PATIENCE, Server};

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
    server.stop();

    let spans = collector.spans();
    let names: Vec<_> = spans
        .iter()
        .map(|span| span["name"].as_str().expect("a name"))
        .collect();
    let fetch = "GET /v1/topics/{topic}/partitions/{partition}/records";
    let expected = [
        "POST /v1/topics/{topic}/records",
        "POST /v1/groups/{group}/members/{member}/poll",
        fetch,
    ];
    assert_eq!(names, expected);
    let link = json!([{"traceId": &PRODUCER[3..35], "spanId": &PRODUCER[36..52]}]);

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
