//! The contract of CloudEvents, in through produce and out through fetch: over the router, and with the CNCF's Python SDK over the
//! real binary (`QUIPU_TEST_PYTHON` names a Python that has the package `cloudevents`; without one that test says so and ends).
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

mod support;

use std::io::Write as _;
use std::process::Command;

use http::Method;
use quipu::formats::partitioner::partition_of_key;
use serde_json::{Value, json};
use support::service::Headers;
use support::{Answer, Sample, Server, Service, expect, has, invalid, python_with, refused};

const RECORDS: &str = "/v1/topics/t/records";
const EVENT: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const CE: [(&str, &str); 4] = [
    ("ce-specversion", "1.0"),
    ("ce-id", "a-1"),
    ("ce-source", "/shops/7"),
    ("ce-type", "com.example.order.placed"),
];

async fn service(partitions: u32) -> Service {
    let service = Service::new();
    service.create_topic("t", partitions).await;
    service
}

async fn binary(service: &Service, uri: &str, more: &[(&str, &str)], body: &str) -> Answer {
    let headers = [&CE[..], more].concat();
    service.send(Method::POST, uri, &headers, body.to_owned()).await
}

fn event(id: &str, more: Value) -> Value {
    let mut event =
        json!({"specversion": "1.0", "id": id, "source": "/shops/7", "type": "com.example.order.placed"});
    for (name, value) in more.as_object().expect("members") {
        event[name] = value.clone();
    }
    event
}

fn range(partition: u32, query: &str) -> String {
    format!("/v1/topics/t/partitions/{partition}/records?{query}")
}

/// The records of a partition as JSON shows them.
async fn records(service: &Service, partition: u32) -> Vec<Value> {
    let answer = service.get(&range(partition, "offset=0")).await.ok();
    answer["records"].as_array().expect("records").clone()
}

/// The records of a partition as events.
async fn events(service: &Service, partition: u32) -> Vec<Value> {
    let answer = expect(service.get_as(&range(partition, "offset=0"), BATCH), 200).await;
    assert_eq!(answer.header("content-type"), Some(BATCH));
    answer.json().as_array().expect("an array").clone()
}

#[tokio::test]
async fn an_event_is_a_record_as_the_kafka_binding_has_it_in_every_mode() {
    let service = service(1).await;
    let body = json!({"time": "2018-04-05T17:31:00Z", "partitionkey": "N14228",
        "datacontenttype": "application/json", "retries": 5, "data": {"total": 1}});
    let sent = event("a-1", body);
    let content_type = "application/cloudevents+json; charset=UTF-8";
    let one = service.post_as(RECORDS, content_type, sent.to_string()).await;
    assert_eq!(one.ok(), json!({"offsets": [{"partition": 0, "offset": 0}]}));
    let two = service
        .post_as(RECORDS, BATCH, json!([sent, sent]).to_string())
        .await;
    let expected = json!({"offsets": [{"partition": 0, "offset": 1}, {"partition": 0, "offset": 2}]});
    assert_eq!(two.ok(), expected);
    let more = [
        ("ce-time", "2018-04-05T17:31:00Z"),
        ("ce-partitionkey", "N14228"),
        ("ce-retries", "5"),
        ("content-type", "application/json"),
    ];
    let three = binary(&service, RECORDS, &more, r#"{"total":1}"#).await;
    assert_eq!(three.ok(), json!({"offsets": [{"partition": 0, "offset": 3}]}));
    let records = records(&service, 0).await;
    assert_eq!(records.len(), 4);
    for (offset, record) in records.iter().enumerate() {
        let found = record;
        let expected = json!({"partition": 0, "offset": offset, "timestamp": 1_522_949_460_000_i64,
            "key": "N14228", "value": {"total": 1}, "headers": {"ce_specversion": "1.0", "ce_id": "a-1",
            "ce_source": "/shops/7", "ce_type": "com.example.order.placed", "ce_time": "2018-04-05T17:31:00Z",
            "ce_partitionkey": "N14228", "ce_retries": "5", "content-type": "application/json"}});
        assert_eq!(found, &expected);
    }
    let mut back = sent.clone();
    back["retries"] = "5".into();
    assert_eq!(events(&service, 0).await, vec![back; 4]);
}

#[tokio::test]
async fn the_key_chooses_the_partition_unless_the_query_does() {
    let service = service(6).await;
    let rows = (0..20).map(|n| event("x", json!({"partitionkey": format!("k{n}")})));
    let batch: Vec<Value> = rows.collect();
    let reply = service.post_as(RECORDS, BATCH, json!(batch).to_string()).await;
    let answer = reply.ok();
    for (n, position) in answer["offsets"].as_array().unwrap().iter().enumerate() {
        let found = &position["partition"];
        assert_eq!(found, partition_of_key(format!("k{n}").as_bytes(), 6));
    }
    let to = format!("{RECORDS}?partition=4");
    let answer = service.post_as(&to, BATCH, json!(batch).to_string()).await.ok();
    let positions = answer["offsets"].as_array().unwrap();
    assert!(positions.iter().all(|position| position["partition"] == 4));
    binary(&service, &to, &[], "x").await.with_status(200);
    for (partition, status, code) in [
        ("6", 404, "unknown-partition"),
        ("99999999999", 404, "unknown-partition"),
        ("x", 400, "invalid-request"),
    ] {
        let uri = format!("{RECORDS}?partition={partition}");
        let answer = service.post_as(&uri, BATCH, json!(batch).to_string()).await;
        assert_eq!(answer.problem(status, code)["pointer"], "partition");
    }
    let answer = service
        .post_as(&format!("{RECORDS}?key=a"), EVENT, batch[0].to_string())
        .await;
    answer.invalid("key");
}

#[tokio::test]
async fn events_outrank_the_content_type_and_a_type_of_whole_events_outranks_headers() {
    let service = service(1).await;
    let types = [
        "application/json",
        "application/x-ndjson",
        "application/vnd.apache.kafka.record-batch",
        "text/plain",
    ];
    for content_type in types {
        let answer = binary(&service, RECORDS, &[("content-type", content_type)], "{not json").await;
        answer.with_status(200);
    }
    let structured = event("of-the-body", json!({}));
    let headers = [("content-type", EVENT)];
    let answer = binary(&service, RECORDS, &headers, &structured.to_string()).await;
    answer.with_status(200);
    let records = records(&service, 0).await;
    for (record, content_type) in records.iter().zip(types) {
        assert_eq!(record["headers"]["content-type"], content_type);
        assert_eq!(record["value_base64"], "e25vdCBqc29u");
    }
    assert_eq!(records[4]["headers"]["ce_id"], "of-the-body");
    let to_partition = "/v1/topics/t/partitions/0/records";
    let batch = [("content-type", "application/vnd.apache.kafka.record-batch")];
    let answer = binary(&service, to_partition, &batch, "x").await;
    answer.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_of_the_request_is_stored() {
    let service = service(1).await;
    let good = event("1", json!({}));
    let bad = |more| event("1", more).to_string();
    let fraction = event("1", json!({"x": 1.5}));
    let without_source = json!({"specversion": "1.0", "id": "1", "type": "t"});
    for (content_type, body, pointer) in [
        (EVENT, without_source.to_string(), "/source"),
        (EVENT, bad(json!({"specversion": "0.3"})), "/specversion"),
        (EVENT, event("", json!({})).to_string(), "/id"),
        (EVENT, event("1", json!({"My": "x"})).to_string(), "/My"),
        (
            EVENT,
            bad(json!({"data": 1, "data_base64": "AA=="})),
            "/data_base64",
        ),
        (EVENT, json!([good]).to_string(), ""),
        (EVENT, String::new(), ""),
        (BATCH, "[]".to_owned(), ""),
        (BATCH, good.to_string(), ""),
        (BATCH, json!([good, without_source]).to_string(), "/1/source"),
        (BATCH, json!([good, fraction]).to_string(), "/1/x"),
    ] {
        let answer = service.post_as(RECORDS, content_type, body.clone()).await;
        let problem = answer.problem(400, "invalid-request");
        assert_eq!(problem["pointer"], pointer, "{body}");
        assert_eq!(problem["outcome"], "none");
    }
    for (name, value) in [
        ("ce-my_ext", "x"),
        ("ce-x", "%C0%A0"),
        ("ce-time", "yesterday"),
        ("ce-datacontenttype", "text/plain"),
        ("ce-id", "twice"),
    ] {
        invalid(binary(&service, RECORDS, &[(name, value)], "x"), name).await;
    }
    for missing in 0..CE.len() {
        let mut headers = CE.to_vec();
        let (name, _) = headers.remove(missing);
        invalid(service.send(Method::POST, RECORDS, &headers, "x"), name).await;
    }
    assert_eq!(records(&service, 0).await, [] as [Value; 0]);
}

#[tokio::test]
async fn limits_are_those_of_records_and_name_the_event() {
    let service = service(1).await;
    let large = "x".repeat(1 << 20);
    let many: serde_json::Map<String, Value> = (0..100).map(|n| (format!("x{n}"), "".into())).collect();
    for event in [
        event("1", json!({"data": large})),
        event("1", json!({"partitionkey": "k".repeat(40 << 10)})),
        event("1", Value::Object(many)),
    ] {
        let body = json!([{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}, event]);
        let answer = service.post_as(RECORDS, BATCH, body.to_string()).await;
        assert_eq!(answer.problem(413, "record-too-large")["pointer"], "/1");
    }
    refused(binary(&service, RECORDS, &[], &large), 413, "record-too-large").await;
    assert_eq!(records(&service, 0).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_condition_and_a_coding_work_as_for_records() {
    let service = service(2).await;
    let one = event("1", json!({"data": 1})).to_string();
    let at = |offset: u64| format!("{RECORDS}?partition=1&ack=durable&expected_offset={offset}");
    service.post_as(&at(0), EVENT, one.clone()).await.with_status(200);
    let answer = &service.post_as(&at(0), EVENT, one.clone()).await;
    let found = &answer.problem(412, "offset-mismatch")["end_offset"];
    assert_eq!(found, 1);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(one.as_bytes()).unwrap();
    let headers = [("content-type", EVENT), ("content-encoding", "gzip")];
    let body = gzip.finish().unwrap();
    expect(service.send(Method::POST, &at(1), &headers, body), 200).await;
    assert_eq!(events(&service, 1).await.len(), 2);
}

#[tokio::test]
async fn the_trace_of_the_request_and_that_of_the_event_stay_apart() {
    let service = service(1).await;
    let headers = [("content-type", EVENT), ("traceparent", "00-of-the-request")];
    let sent = event("1", json!({"traceparent": "00-of-the-event"}));
    let body = sent.to_string();
    expect(service.send(Method::POST, RECORDS, &headers, body), 200).await;
    let expected = json!({"traceparent": "00-of-the-request", "ce_traceparent": "00-of-the-event"});
    has(&records(&service, 0).await[0]["headers"], expected);
    assert_eq!(events(&service, 0).await, [sent]);
}

#[tokio::test]
async fn any_record_is_fetched_as_an_event() {
    let service = service(2).await;
    let headers: Headers<'_> = &[(b"h", Some(b"x")), (b"H", Some(b"y"))];
    let sample: Sample<'_> = (1_357_035_420_000, Some(b"k"), Some(b"{\"a\": 1}"), headers);
    service.append("t", 1, false, &[sample]);
    let at = |offset: u64| {
        json!({"specversion": "1.0", "id": format!("t/1/{offset}"),
        "source": "/v1/topics/t/partitions/1", "type": "quipu.record"})
    };
    let mut first = at(0);
    for (name, value) in [
        ("time", json!("2013-01-01T10:17:00Z")),
        ("partitionkey", json!("k")),
        ("h", json!("x")),
        ("data", json!({"a": 1})),
    ] {
        first[name] = value;
    }
    assert_eq!(events(&service, 1).await, [first]);
    let answer = service.get_as(&range(1, "offset=0"), BATCH).await;
    for (name, value) in [
        ("next-offset", "1"),
        ("log-start-offset", "0"),
        ("end-offset", "1"),
        ("cache-control", "no-store"),
        ("vary", "accept"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let answer = expect(service.get_as(&range(0, "offset=0"), BATCH), 200).await;
    assert_eq!(answer.text(), "[]\n");
    // Fetched events can be produced again, and still say where they came from.
    let fetched = service.get_as(&range(1, "offset=0"), BATCH).await;
    expect(service.post_as(RECORDS, BATCH, fetched.body.clone()), 200).await;
    let copied = [events(&service, 0).await, events(&service, 1).await].concat();
    assert_eq!(copied.len(), 2);
    assert_eq!(copied[0], copied[1]);
}

#[tokio::test]
async fn a_closed_range_of_events_has_a_tag_of_its_own() {
    let service = service(1).await;
    service.append_numbers("t", 0, 0, 5000);
    let uri = range(0, "offset=0&until_offset=4000&max_records=4000");
    let answer = service.get_as(&uri, BATCH).await.with_status(200);
    // More than one chunk.
    assert_eq!(answer.json().as_array().unwrap().len(), 4000);
    assert_eq!(answer.header("end-offset"), None);
    let tag = answer.header("etag").expect("a tag").to_owned();
    assert_ne!(service.get(&uri).await.header("etag"), Some(&*tag));
    let asked = [("accept", BATCH), ("if-none-match", &*tag)];
    let again = expect(service.get_with(&uri, &asked), 304).await;
    assert_eq!(again.header("etag"), Some(&*tag));
    let found = &service.get_as(&uri, EVENT).await.problem(406, "not-acceptable")["status"];
    assert_eq!(found, 406);
}

#[tokio::test]
async fn a_stream_gives_structured_events_where_the_query_or_the_client_asks_for_them() {
    const STREAM: &str = "text/event-stream";
    let service = service(1).await;
    let sent = event("a", json!({"data": {"n": [1, 2]}, "subject": "x"}));
    expect(service.post_as(RECORDS, EVENT, sent.to_string()), 200).await;
    expect(service.post_as(RECORDS, "text/plain", "plain\ntext"), 200).await;

    let structured = |text: &str| -> Vec<Value> {
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "{}")
            .map(|data| serde_json::from_str(data).expect("a JSON value on one line"))
            .collect()
    };
    let uri = format!("{RECORDS}?data=cloudevents");
    let by_query = service.get_as(&uri, STREAM).await;
    let found = structured(by_query.text());
    assert_eq!(found[0], sent);
    assert_eq!(found[1]["type"], "quipu.record");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(by_query.header("content-type"), Some(STREAM));

    let by_accept = service.get_as(RECORDS, &format!("{STREAM}, {EVENT}")).await;
    assert_eq!(structured(by_accept.text()), found);
    let uri = format!("{RECORDS}?data=records");
    let plain = service.get_as(&uri, &format!("{STREAM}, {EVENT}")).await;
    assert_eq!(structured(plain.text())[0]["headers"]["ce_id"], "a");
    let lines = service.get(&format!("{RECORDS}?data=cloudevents")).await;
    let rows = lines.text().lines();
    let all = rows.map(|line| serde_json::from_str(line).expect("JSON"));
    let lines: Vec<Value> = all.collect();
    assert_eq!(lines, found);
    invalid(service.get(&format!("{RECORDS}?data=events")), "data").await;
}

#[test]
fn the_python_sdk_sends_in_every_mode_and_reads_what_comes_back() {
    let Some(python) = python_with("import cloudevents.core.bindings.http") else {
        support::skipped("no Python with the package cloudevents");
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&directory.path().join("data"));
    server.create_topic("t", 1);
    let text = format!("http://{}", server.address);
    let output = Command::new(python)
        .args(["-c", include_str!("cloudevents/sdk.py"), &text])
        .output()
        .expect("it started before");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{wrong}");
    server.stop();
}
