//! The contract of fetches.
#![allow(clippy::disallowed_methods, reason = "a test damages files")]

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http_body::Body as _;
use http_body_util::BodyExt;
use proptest::prelude::*;
use quipu_segments::batch::{Batches, Records};
use serde_json::{Value, json};
use support::{Answer, Sample, Service, contains, expect, request};
use tower::ServiceExt;

const RECORDS: &str = "/v1/topics/t/partitions/0/records";
const NDJSON: &str = "application/x-ndjson";
const BATCHES: &str = "application/vnd.apache.kafka.record-batch";

/// A service with a topic `t` of one partition.
async fn service() -> Service {
    let service = Service::new();
    service.create_topic("t", 1).await;
    service
}

/// A service whose topic holds the numbers 0..30 in three batches of ten.
async fn service_with_numbers() -> Service {
    let service = service().await;
    for first in [0, 10, 20] {
        service.append_numbers("t", 0, first, 10);
    }
    service
}

/// The answer to a fetch of the partition with this query.
async fn fetch(service: &Service, query: &str) -> Answer {
    service.get(&format!("{RECORDS}?{query}")).await.with_status(200)
}

async fn fetch_as(service: &Service, query: &str, media_type: &str) -> Answer {
    let uri = format!("{RECORDS}?{query}");
    service.get_as(&uri, media_type).await.with_status(200)
}

async fn refused(service: &Service, query: &str, status: u16, code: &str) -> Value {
    let uri = format!("{RECORDS}?{query}");
    service.get(&uri).await.problem(status, code)
}

async fn trim(service: &Service, before: u64) {
    service.delete(&format!("{RECORDS}?before={before}")).await.ok();
}

/// The numbers in the records of a JSON answer.
fn numbers(answer: &Answer) -> Vec<u64> {
    let answer = answer.json();
    let number = |record: &Value| record["value"]["n"].as_u64().unwrap();
    answer["records"].as_array().unwrap().iter().map(number).collect()
}

fn positions(answer: &Answer) -> [Option<u64>; 3] {
    ["next-offset", "log-start-offset", "end-offset"]
        .map(|name| answer.header(name).map(|text| text.parse().unwrap()))
}

#[tokio::test]
async fn a_json_answer_has_the_fields_and_the_order_of_the_contract() {
    let service = service().await;
    let value = br#"{"event":"FlightDeparted"}"#;
    let headers = [(&b"type"[..], Some(&b"FlightDeparted"[..]))];
    let sample: Sample<'_> = (1_357_035_420_000, Some(b"N14228"), Some(value), &headers);
    service.append("t", 0, true, &[sample]);
    service.append("t", 0, false, &[(7, None, None, &[])]);
    let answer = fetch(&service, "offset=0").await;
    assert_eq!(
        answer.text(),
        concat!(
            r#"{"topic":"t","partition":0,"records":["#,
            r#"{"partition":0,"offset":0,"timestamp":1357035420000,"key":"N14228","value":{"event":"FlightDeparted"},"headers":{"type":"FlightDeparted"}},"#,
            r#"{"partition":0,"offset":1,"timestamp":7,"key":null,"value":null,"headers":{}}"#,
            r#"],"next_offset":2,"log_start_offset":0,"end_offset":2}"#,
            "\n"
        )
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("vary"), Some("accept"));
    assert_eq!(positions(&answer), [Some(2), Some(0), Some(2)]);
}

#[tokio::test]
async fn lines_carry_the_positions_in_headers() {
    let service = service().await;
    let first: Sample<'_> = (1, Some(b"k"), Some(b"{\n\"a\":\r\n1}"), &[]);
    service.append("t", 0, false, &[first, (2, None, Some(b"2"), &[])]);
    let answer = fetch_as(&service, "offset=0", NDJSON).await;
    assert_eq!(
        answer.text(),
        concat!(
            r#"{"partition":0,"offset":0,"timestamp":1,"key":"k","value":{ "a":  1},"headers":{}}"#,
            "\n",
            r#"{"partition":0,"offset":1,"timestamp":2,"key":null,"value":2,"headers":{}}"#,
            "\n"
        )
    );
    assert_eq!(answer.header("content-type"), Some(NDJSON));
    assert_eq!(positions(&answer), [Some(2), Some(0), Some(2)]);
    let document = fetch(&service, "offset=0&max_records=1").await;
    contains(document.text(), "\"value\":{\n\"a\":\r\n1}");
    let nothing = fetch_as(&service, "offset=2", NDJSON).await;
    assert_eq!(nothing.text(), "");
    assert_eq!(positions(&nothing), [Some(2), Some(0), Some(2)]);
}

#[tokio::test]
async fn batches_are_given_whole_as_they_are_stored() {
    let service = service_with_numbers().await;
    let whole = fetch_as(&service, "offset=0", BATCHES).await;
    assert_eq!(whole.header("content-type"), Some(BATCHES));
    assert_eq!(positions(&whole), [Some(30), Some(0), Some(30)]);
    let length = whole.body.len().to_string();
    assert_eq!(whole.header("content-length"), Some(&*length));
    let ranges = |answer: &Answer| -> Vec<(u64, u64)> {
        Batches::new(&answer.body)
            .map(|batch| {
                let (header, bytes) = batch.unwrap();
                quipu_segments::batch::verify(bytes).unwrap();
                (header.base_offset.get(), header.next_offset().get())
            })
            .collect()
    };
    assert_eq!(ranges(&whole), [(0, 10), (10, 20), (20, 30)]);
    for (query, expected, next) in [
        ("offset=15", vec![(10, 20), (20, 30)], 30),
        ("offset=15&max_records=3", vec![(10, 20)], 20),
        ("offset=15&max_bytes=1", vec![(10, 20)], 20),
        ("offset=5&until_offset=12", vec![(0, 10), (10, 20)], 20),
        ("offset=30", vec![], 30),
    ] {
        let answer = fetch_as(&service, query, BATCHES).await;
        assert_eq!(ranges(&answer), expected, "{query}");
        assert_eq!(positions(&answer)[0], Some(next), "{query}");
    }
}

#[tokio::test]
async fn the_client_chooses_the_representation() {
    let service = service_with_numbers().await;
    let uri = format!("{RECORDS}?offset=0");
    for (accept, media_type) in [
        ("*/*", "application/json"),
        ("application/x-ndjson;q=0.9, application/json;q=0.5", NDJSON),
        (
            "application/*;q=0.1, application/vnd.apache.kafka.record-batch",
            BATCHES,
        ),
    ] {
        let answer = service.get_as(&uri, accept).await.with_status(200);
        assert_eq!(answer.header("content-type"), Some(media_type), "{accept}");
    }
    for accept in ["text/html", "application/json;q=0", "text/event-stream"] {
        service.get_as(&uri, accept).await.problem(406, "not-acceptable");
    }
}

#[tokio::test]
async fn a_fetch_begins_at_an_offset_a_word_or_a_time() {
    let service = service_with_numbers().await;
    for (query, first) in [
        ("offset=0", Some(0)),
        ("offset=17", Some(17)),
        ("offset=earliest", Some(0)),
        ("offset=latest", None),
        ("offset=30", None),
        ("from=0", Some(0)),
        ("from=17000", Some(17)),
        ("from=1970-01-01T00:00:16.001Z", Some(17)),
        ("from=29001", None),
    ] {
        let answer = fetch(&service, query).await;
        let found = numbers(&answer);
        assert_eq!(found.first().copied(), first, "{query}");
        assert_eq!(answer.json()["next_offset"], 30, "{query}");
        assert_eq!(found.len() as u64, 30 - first.unwrap_or(30), "{query}");
    }
}

#[tokio::test]
async fn a_fetch_ends_before_until_and_at_its_limits() {
    let service = service_with_numbers().await;
    for (query, range, next) in [
        ("offset=5&until_offset=25", 5..25, 25),
        ("offset=5&until_offset=5", 5..5, 5),
        ("offset=5&until_offset=99", 5..30, 30),
        ("offset=5&until=12000", 5..12, 12),
        ("offset=5&until=11001", 5..12, 12),
        ("offset=20&until=12000", 20..20, 20),
        ("offset=5&until=99000", 5..30, 30),
        ("offset=5&until=12000&until_offset=9", 5..9, 9),
        ("offset=5&until=12000&until_offset=20", 5..12, 12),
        ("from=5000&until=12000", 5..12, 12),
        ("offset=5&max_records=7", 5..12, 12),
        ("offset=5&max_records=1", 5..6, 6),
        ("offset=5&max_bytes=1", 5..6, 6),
        ("offset=0&max_records=999999999&max_bytes=999999999", 0..30, 30),
    ] {
        let answer = fetch(&service, query).await;
        assert_eq!(numbers(&answer), range.collect::<Vec<_>>(), "{query}");
        assert_eq!(answer.json()["next_offset"], next, "{query}");
        assert_eq!(positions(&answer)[0], Some(next), "{query}");
    }
    // `max_bytes` cuts within a batch, at the record that would exceed it.
    let answer = fetch(&service, "offset=0&max_bytes=60").await;
    let found = numbers(&answer).len();
    assert!((2..10).contains(&found), "{found}");
}

#[tokio::test]
async fn next_offset_leads_through_everything_once() {
    let service = service_with_numbers().await;
    let all = "max_records=7 max_bytes=1 max_bytes=100 max_records=10 max_records=1&max_bytes=1";
    for limits in all.split(' ') {
        let mut seen = Vec::new();
        let mut offset = 0;
        while offset < 30 {
            let answer = fetch(&service, &format!("offset={offset}&{limits}")).await;
            seen.extend(numbers(&answer));
            let next = answer.json()["next_offset"].as_u64().unwrap();
            assert!(next > offset, "{limits}: stuck at {offset}");
            offset = next;
        }
        assert_eq!(seen, (0..30).collect::<Vec<_>>(), "{limits}");
    }
}

#[tokio::test]
async fn offsets_outside_of_the_log_say_where_it_lies() {
    let service = service_with_numbers().await;
    trim(&service, 12).await;
    for query in "offset=11 offset=0 offset=3&until_offset=5 offset=3&wait_ms=60000".split(' ') {
        let problem = refused(&service, query, 410, "offset-trimmed").await;
        assert_eq!(problem["log_start_offset"], 12, "{query}");
        assert_eq!(problem["end_offset"], 30, "{query}");
    }
    let beyond = "offset=4611686018427387904 offset=9223372036854775807 offset=31 offset=31&wait_ms=60000";
    for query in beyond.split(' ') {
        let problem = refused(&service, query, 416, "offset-out-of-range").await;
        assert_eq!(problem["outcome"], "none", "{query}");
        assert_eq!(problem["log_start_offset"], 12, "{query}");
        assert_eq!(problem["end_offset"], 30, "{query}");
    }
    let answer = fetch(&service, "offset=earliest").await;
    assert_eq!(numbers(&answer), (12..30).collect::<Vec<_>>());
    assert_eq!(answer.json()["log_start_offset"], 12);
    // A closed range that lies before the log start has no records any more.
    let answer = fetch(&service, "offset=earliest&until_offset=5").await;
    let found = (numbers(&answer), &answer.json()["next_offset"]);
    assert_eq!(found, (vec![], &json!(12)));
}

#[tokio::test]
async fn bad_parameters_are_named_and_what_is_not_there_is_404() {
    let service = service().await;
    for (query, pointer) in [
        ("", "offset"),
        ("?offset=x", "offset"),
        ("?offset=-1", "offset"),
        ("?offset=1.5", "offset"),
        ("?offset=99999999999999999999", "offset"),
        ("?offset=first", "offset"),
        ("?offset=", "offset"),
        ("?offset=0&from=0", "from"),
        ("?offset=0&limit=3", "limit"),
        ("?offset=0&offset=1", "offset"),
        ("?offset=0&max_records=0", "max_records"),
        ("?offset=0&wait_ms=60001", "wait_ms"),
    ] {
        let problem = service.get(&format!("{RECORDS}{query}")).await.invalid(pointer);
        assert_eq!(problem["outcome"], "none", "{query}");
    }
    for (uri, code) in [
        ("/v1/topics/u", "unknown-topic"),
        ("/v1/topics/u/partitions/0/records?offset=0", "unknown-topic"),
        ("/v1/topics/t/partitions/1/records?offset=0", "unknown-partition"),
        ("/v1/nothing", "not-found"),
    ] {
        service.get(uri).await.refusal(404, code, "none");
    }
}

#[tokio::test]
async fn of_a_value_longer_than_value_limit_only_the_beginning_is_sent() {
    let service = service_with_numbers().await;
    // `{"n":9}` has seven bytes, `{"n":10}` eight.
    for media_type in ["application/json", NDJSON] {
        let answer = fetch_as(&service, "offset=9&max_records=2&value_limit=7", media_type).await;
        for part in [
            r#""value":{"n":9},"headers""#,
            r#""value_text":"{\"n\":10","value_bytes":8,"truncated":true,"headers":{}}"#,
        ] {
            contains(answer.text(), part);
        }
    }
    for (limit, text) in [("0", json!("")), ("8", Value::Null)] {
        let query = format!("offset=10&until_offset=11&value_limit={limit}");
        let record = fetch(&service, &query).await.json()["records"][0].clone();
        assert_eq!(record["value_text"], text, "{record}");
    }
    service
        .get(&format!("{RECORDS}?offset=0&value_limit=x"))
        .await
        .invalid("value_limit");
    for media_type in [BATCHES, "application/cloudevents-batch+json"] {
        let answer = service
            .get_as(&format!("{RECORDS}?offset=0&value_limit=5"), media_type)
            .await;
        answer.invalid("value_limit");
    }
}

#[tokio::test]
async fn a_closed_range_never_changes_and_is_not_sent_twice() {
    let service = service_with_numbers().await;
    let uri = format!("{RECORDS}?offset=5&until_offset=25");
    let first = service.get(&uri).await.with_status(200);
    assert_eq!(first.header("cache-control"), Some("private, no-cache"));
    assert_eq!(first.header("vary"), Some("accept"));
    assert_eq!(positions(&first), [Some(25), None, None]);
    let members: Vec<String> = first.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["next_offset", "partition", "records", "topic"]);
    let tag = first.header("etag").unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");

    service.append_numbers("t", 0, 30, 10);
    trim(&service, 3).await;
    let again = service.get(&uri).await.with_status(200);
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("etag"), Some(tag.as_str()));

    for wanted in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"other\", {tag}"),
        "*".to_owned(),
    ] {
        let answer = expect(service.get_with(&uri, &[("if-none-match", &wanted)]), 304).await;
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("etag"), Some(tag.as_str()));
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        assert_eq!(positions(&answer), [None; 3]);
    }
    expect(service.get_with(&uri, &[("if-none-match", "\"other\"")]), 200).await;
    // Trimmed meanwhile: the client's copy is out of date.
    trim(&service, 6).await;
    let answer = service.get_with(&uri, &[("if-none-match", &tag)]).await;
    answer.problem(410, "offset-trimmed");
}

#[tokio::test]
async fn answers_that_differ_have_tags_that_differ() {
    let service = service_with_numbers().await;
    let mut tags = Vec::new();
    for query in [
        "offset=5&until_offset=25",
        "offset=6&until_offset=25",
        "offset=5&until_offset=24",
        "offset=5&until_offset=25&max_records=3",
        "offset=5&until_offset=25&max_bytes=3",
        "offset=5&until_offset=5",
        "offset=5&until_offset=25&until=9000",
    ] {
        for accept in ["application/json", NDJSON, BATCHES] {
            let answer = fetch_as(&service, query, accept).await;
            let tag = answer.header("etag");
            tags.push(tag.unwrap_or_else(|| panic!("{query}")).to_owned());
        }
    }
    for query in ["value_limit=7", "value_limit=8"] {
        let answer = fetch(&service, &format!("offset=5&until_offset=25&{query}")).await;
        tags.push(answer.header("etag").unwrap().to_owned());
    }
    // The same range has the same tag, whichever parameters ask for it.
    let by_time = fetch(&service, "from=5000&until_offset=25&max_records=500").await;
    assert_eq!(by_time.header("etag"), Some(tags[0].as_str()));
    let count = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), count);

    service.delete("/v1/topics/t").await.with_status(204);
    service.create_topic("t", 1).await;
    service.append_numbers("t", 0, 0, 30);
    let other = fetch(&service, "offset=5&until_offset=25").await;
    assert!(!tags.iter().any(|tag| Some(tag.as_str()) == other.header("etag")));
}

#[tokio::test]
async fn whatever_may_change_is_not_stored() {
    let service = service_with_numbers().await;
    for query in "offset=5 offset=5&until_offset=31 offset=5&until=9000 offset=latest".split(' ') {
        let uri = format!("{RECORDS}?{query}");
        let answer = expect(service.get_with(&uri, &[("if-none-match", "*")]), 200).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{query}");
        assert_eq!(answer.header("etag"), None, "{query}");
        assert_eq!(positions(&answer)[1..], [Some(0), Some(30)], "{query}");
    }
}

#[tokio::test]
async fn head_answers_with_the_headers_of_get_and_no_body() {
    let service = service_with_numbers().await;
    for query in ["offset=5", "offset=5&until_offset=20", "offset=30"] {
        for accept in ["application/json", NDJSON, BATCHES] {
            let uri = format!("{RECORDS}?{query}");
            let get = service.get_as(&uri, accept).await.with_status(200);
            let headers = [("accept", accept)];
            let head = expect(service.send(Method::HEAD, &uri, &headers, ""), 200).await;
            assert!(head.body.is_empty());
            assert_eq!(head.headers, get.headers, "{query} {accept}");
            assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()));
        }
    }
    expect(service.head(&format!("{RECORDS}?offset=31")), 416).await;
}

/// The answer to a poll during which `meanwhile` happens; must come far sooner than the minute that it may wait.
async fn poll(service: &Service, query: &str, meanwhile: impl AsyncFnOnce()) -> Answer {
    let uri = format!("{RECORDS}?{query}&wait_ms=60000");
    let polled = tokio::time::timeout(Duration::from_secs(30), async {
        let (answer, ()) = tokio::join!(service.get(&uri), async {
            // Lets the poll begin to wait; the outcome is the same if it has not.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            meanwhile().await;
        });
        answer
    });
    let ended = polled.await;
    ended.expect("the poll ends when there is a reason, not by its time")
}

#[tokio::test]
async fn a_poll_ends_when_a_record_comes() {
    let service = service_with_numbers().await;
    for (query, first) in [
        ("offset=30", 30),
        ("offset=latest", 31),
        ("from=99999999", 32),
        ("offset=33&until_offset=35", 33),
    ] {
        let answer = poll(&service, query, async || {
            service.append_numbers("t", 0, first, 1);
        });
        assert_eq!(numbers(&answer.await.with_status(200)), [first], "{query}");
    }
}

#[tokio::test]
async fn a_poll_that_finds_something_does_not_wait() {
    let service = service_with_numbers().await;
    for (query, count) in [
        ("offset=29", 1),
        ("offset=0&max_records=3&min_bytes=1000000", 3),
        ("offset=0&max_bytes=20&min_bytes=1000000", 1),
        ("offset=5&until_offset=5", 0),
        ("offset=5&until_offset=20&min_bytes=1000000", 15),
        ("offset=5&until=9000&min_bytes=1000000", 4),
        ("offset=30&min_bytes=0", 0),
    ] {
        let answer = poll(&service, query, async || {}).await.with_status(200);
        assert_eq!(numbers(&answer).len(), count, "{query}");
    }
}

#[tokio::test]
async fn a_poll_waits_for_min_bytes_or_the_time_where_it_ends() {
    let service = service_with_numbers().await;
    let answer = poll(&service, "offset=29&min_bytes=1000", async || {
        service.append_numbers("t", 0, 30, 1);
        tokio::task::yield_now().await;
        let text = format!("{{\"n\":31,\"pad\":\"{}\"}}", "x".repeat(1000));
        service.append("t", 0, true, &[(31_000, None, Some(text.as_bytes()), &[])]);
    });
    assert_eq!(numbers(&answer.await.with_status(200)), [29, 30, 31]);
    // It does not pass a time that comes meanwhile.
    let answer = poll(&service, "offset=32&until=40000&min_bytes=1000000", async || {
        service.append_numbers("t", 0, 39, 3);
    });
    let answer = answer.await.with_status(200);
    assert_eq!(numbers(&answer), [39]);
    assert_eq!(answer.json()["next_offset"], 33);
}

#[tokio::test]
async fn a_poll_ends_by_its_time_with_what_there_is() {
    let service = service_with_numbers().await;
    let answer = fetch(&service, "offset=30&wait_ms=10").await;
    let found = (numbers(&answer), &answer.json()["next_offset"]);
    assert_eq!(found, (vec![], &json!(30)));
    let answer = fetch(&service, "offset=29&wait_ms=10&min_bytes=100000").await;
    assert_eq!(numbers(&answer), [29]);
}

#[tokio::test]
async fn a_poll_ends_when_the_topic_is_deleted_the_server_stops_or_the_log_closes() {
    let service = service_with_numbers().await;
    let answer = poll(&service, "offset=30", async || {
        service.delete("/v1/topics/t").await.with_status(204);
    });
    answer.await.problem(404, "unknown-topic");
    service.create_topic("t", 1).await;
    let answer = poll(&service, "offset=0", async || {
        service.app.stopping.send_replace(true);
    });
    assert!(numbers(&answer.await.with_status(200)).is_empty());
    service.app.stopping.send_replace(false);
    let answer = poll(&service, "offset=0", async || {
        let log = service.app.log.clone();
        let answer = tokio::task::spawn_blocking(move || log.close().unwrap()).await;
        answer.unwrap();
    })
    .await;
    assert!(matches!(answer.status, 200 | 503), "{}", answer.status);
}

#[tokio::test]
async fn a_poll_whose_client_went_away_is_forgotten() {
    let service = service_with_numbers().await;
    let uri = format!("{RECORDS}?offset=30&wait_ms=60000");
    let abandoned = tokio::time::timeout(Duration::from_millis(20), service.get(&uri)).await;
    assert!(abandoned.is_err());
    service.append_numbers("t", 0, 30, 1);
    assert_eq!(numbers(&service.get(&uri).await.with_status(200)), [30]);
}

#[tokio::test]
async fn a_large_body_is_rendered_as_it_is_read_and_a_small_one_has_a_length() {
    let service = service().await;
    for first in [0, 5000] {
        service.append_numbers("t", 0, first, 5000);
    }
    let ask = async |query: &str, accept: &str| {
        let uri = format!("{RECORDS}?{query}");
        let request = request(Method::GET, &uri, &[("accept", accept)], "");
        service.router.clone().oneshot(request).await.unwrap().into_body()
    };
    for accept in ["application/json", NDJSON] {
        let small = ask("offset=0", accept).await;
        assert!(small.size_hint().exact().is_some());
        let mut large = ask("offset=0&max_records=10000", accept).await;
        assert_eq!(large.size_hint().exact(), None);
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        while let Some(frame) = large.frame().await {
            chunks.push(frame.unwrap().into_data().unwrap().to_vec());
        }
        assert!(chunks.len() > 5, "{} chunks", chunks.len());
        assert!(chunks.iter().all(|chunk| chunk.len() < 70_000));
        let text = String::from_utf8(chunks.concat()).unwrap();
        if accept == NDJSON {
            assert_eq!(text.lines().count(), 10_000);
            for (line, n) in text.lines().zip(0..) {
                let record: Value = serde_json::from_str(line).unwrap();
                assert_eq!((&record["offset"], &record["value"]["n"]), (&json!(n), &json!(n)));
            }
        } else {
            let document: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(document["records"].as_array().unwrap().len(), 10_000);
            assert_eq!(document["next_offset"], 10_000);
        }
    }
}

#[tokio::test]
async fn fetched_records_are_counted_once_and_not_for_head() {
    use std::sync::atomic::Ordering::Relaxed;
    let service = service_with_numbers().await;
    fetch(&service, "offset=5&max_records=7").await;
    let bytes = service.app.counters.fetched_bytes.load(Relaxed);
    assert_eq!(service.app.counters.fetched_records.load(Relaxed), 7);
    assert!(bytes > 7 * 8, "{bytes}");
    expect(service.head(&format!("{RECORDS}?offset=5")), 200).await;
    assert_eq!(service.app.counters.fetched_records.load(Relaxed), 7);
}

#[tokio::test]
async fn what_lies_before_damage_is_given_and_the_damage_is_named() {
    let service = service_with_numbers().await;
    let service = service.restart_after(|dir| {
        let path = dir.join("topics/t/0/00000000000000000000.log");
        let mut bytes = std::fs::read(&path).unwrap();
        let mut batches = Batches::new(&bytes);
        let first = batches.next().unwrap().unwrap().1.len();
        let second = batches.next().unwrap().unwrap().1.len();
        bytes[first + second - 3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    });
    for accept in ["application/json", NDJSON, BATCHES] {
        let healthy = fetch_as(&service, "offset=0", accept).await;
        assert_eq!(positions(&healthy)[0], Some(10));
        let behind = fetch_as(&service, "offset=20", accept).await;
        assert_eq!(positions(&behind)[0], Some(30));
        for offset in [10, 15] {
            let uri = format!("{RECORDS}?offset={offset}");
            let problem = service.get_as(&uri, accept).await.problem(500, "corrupt-data");
            assert_eq!(problem["damaged_until_offset"], 20);
            assert!(problem["damaged_offset"].as_u64().unwrap() <= offset, "{problem}");
            assert!(!problem.to_string().contains("topics/t"), "{problem}");
        }
    }
    let topic = service.get("/v1/topics/t").await.ok();
    assert_eq!(topic["partitions"][0]["end_offset"], 30);
}

#[tokio::test]
async fn values_that_were_sent_as_json_are_not_looked_at_again() {
    let service = service().await;
    let rows = (0..3000).map(|n| format!("{{\"value\":{{\"n\":{n}}}}}\n"));
    let lines: String = rows.collect();
    expect(service.post_as("/v1/topics/t/records", NDJSON, lines), 200).await;
    let request = quipu_segments::ReadRequest::new(quipu_segments::Offset::ZERO, 1 << 20);
    let fetched = service.partition("t", 0).read(request).unwrap();
    assert!(!fetched.runs.is_empty());
    assert!(fetched.runs.iter().all(|run| run.json_lines));
    let answer = fetch(&service, "offset=0&max_records=3000").await;
    assert_eq!(numbers(&answer), (0..3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_fetched_can_be_produced_again_as_it_stands() {
    let service = service().await;
    for copy in ["lines", "document"] {
        service.create_topic(copy, 1).await;
    }
    let headers: &[RawHeader<'_>] = &[
        (b"a", Some(b"1")),
        (b"a", Some(b"\xff")),
        (b"b", Some("ü".as_bytes())),
        (b"c", None),
    ];
    let samples: &[Sample<'_>] = &[
        (1, Some(b"k\"\n"), Some(b"{\"a\" : 1.50}"), headers),
        (2, Some(b"\xfe"), Some(b"not JSON"), &[]),
        (3, Some(b""), Some(b"null"), &[]),
        (4, None, Some(b""), &[]),
        (5, None, None, &[]),
        (6, None, Some(b"{\n}"), &[]),
    ];
    service.append("t", 0, false, samples);
    let lines = fetch_as(&service, "offset=0", NDJSON).await;
    let produced = service.post_as("/v1/topics/lines/records", NDJSON, lines.body.clone());
    expect(produced, 200).await;
    let uri = "/v1/topics/lines/partitions/0/records?offset=0";
    let copied = service.get_as(uri, NDJSON).await.with_status(200);
    assert_eq!(copied.text(), lines.text());

    let document = fetch(&service, "offset=0").await;
    let start = document.text().find("\"records\":").unwrap();
    let end = document.text().rfind(",\"next_offset\"").unwrap();
    let body = format!("{{{}}}", &document.text()[start..end]);
    let uri = "/v1/topics/document/records";
    expect(service.post_as(uri, "application/json", body), 200).await;
    let uri = "/v1/topics/document/partitions/0/records?offset=0";
    let copied = service.get(uri).await.with_status(200);
    let text = document.text();
    let renamed = text.replace("\"topic\":\"t\"", "\"topic\":\"document\"");
    assert_eq!(copied.text(), renamed);
}

type RawHeader<'a> = (&'a [u8], Option<&'a [u8]>);
/// A header's name, and its value.
type Header = (String, Option<Vec<u8>>);
type Stored = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<String>().prop_map(|text| json!({"text": text, "list": [1, 2.5, null]})
            .to_string()
            .into_bytes()),
        any::<f64>().prop_map(|number| json!(number).to_string().into_bytes()),
        Just(b"null".to_vec()),
        Just(b"{\r\n \"a\" : [1,\n2] }".to_vec()),
        "[ \\n]{0,2}(null|true|1|\"x\"|\\{\\}|nul|1x)[ \\n]{0,2}".prop_map(String::into_bytes),
    ]
}

fn stored() -> impl Strategy<Value = Stored> {
    let bytes_or_text = |below: usize| {
        let bytes = prop::collection::vec(any::<u8>(), 0..below);
        prop::option::of(prop_oneof![bytes, any::<String>().prop_map(String::into_bytes)])
    };
    let headers = prop::collection::vec(("[ab\"ü]{0,2}", bytes_or_text(8)), 0..5);
    let value = prop::option::of(values());
    (0..i64::MAX / 2, bytes_or_text(20), value, headers)
}

/// Parses a rendered record as a producer's request would be, with the values' text unchanged.
fn parsed(record: &serde_json::value::RawValue) -> (u64, Stored) {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rendered<'a> {
        partition: u32,
        offset: u64,
        timestamp: i64,
        key: Option<String>,
        key_base64: Option<String>,
        #[serde(borrow)]
        value: Option<&'a serde_json::value::RawValue>,
        value_base64: Option<String>,
        headers: serde_json::Map<String, Value>,
    }
    let rendered: Rendered<'_> = serde_json::from_str(record.get()).unwrap();
    assert_eq!(rendered.partition, 0);
    let base64 = |text: &str| STANDARD.decode(text).unwrap();
    let header_value = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        other => Some(base64(other["base64"].as_str().unwrap())),
    };
    let mut headers = Vec::new();
    for (name, value) in &rendered.headers {
        match value {
            Value::Array(values) => {
                assert!(values.len() > 1, "an array where a name does not repeat");
                headers.extend(values.iter().map(|value| (name.clone(), header_value(value))));
            }
            value => headers.push((name.clone(), header_value(value))),
        }
    }
    let key = rendered
        .key
        .map(String::into_bytes)
        .or(rendered.key_base64.as_deref().map(base64));
    let rows = rendered.value.filter(|raw| raw.get() != "null");
    let value = rows
        .map(|raw| raw.get().as_bytes().to_vec())
        .or(rendered.value_base64.as_deref().map(base64));
    (rendered.offset, (rendered.timestamp, key, value, headers))
}

/// The part of a stored record that a rendered one keeps.
fn kept(stored: &Stored, lines: bool) -> Stored {
    let (timestamp, key, value, mut headers) = stored.clone();
    // A stable sort by name: names that repeat keep the order of their values.
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    let value = value.map(|value| {
        let is_json =
            std::str::from_utf8(&value).is_ok_and(|text| serde_json::from_str::<Value>(text).is_ok());
        if !is_json || value.trim_ascii() == b"null" {
            return value;
        }
        let value = value.trim_ascii().to_vec();
        let is_break = |byte| lines && matches!(byte, b'\n' | b'\r');
        let space = |byte| if is_break(byte) { b' ' } else { byte };
        value.into_iter().map(space).collect()
    });
    (timestamp, key, value, headers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_record_comes_back_from_its_json(batches in prop::collection::vec(prop::collection::vec(stored(), 1..5), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let service = service().await;
            for batch in &batches {
                let headers: Vec<Vec<RawHeader<'_>>> = batch.iter().map(|record| record.3.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect()).collect();
                let samples: Vec<Sample<'_>> = batch.iter().zip(&headers).map(|((timestamp, key, value, _), headers)| (*timestamp, key.as_deref(), value.as_deref(), &headers[..])).collect();
                service.append("t", 0, false, &samples);
            }
            let stored: Vec<&Stored> = batches.iter().flatten().collect();

            let answer = fetch(&service, "offset=0").await;
            #[derive(serde::Deserialize)]
            struct Document<'a> {
                #[serde(borrow)]
                records: Vec<&'a serde_json::value::RawValue>,
            }
            let document: Document<'_> = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(document.records.len(), stored.len());
            for ((record, stored), offset) in document.records.iter().zip(&stored).zip(0..) {
                assert_eq!(parsed(record), (offset, kept(stored, false)));
            }

            let answer = fetch_as(&service, "offset=0", NDJSON).await;
            let lines: Vec<&str> = answer.text().split_terminator('\n').collect();
            assert_eq!(lines.len(), stored.len());
            for ((line, stored), offset) in lines.iter().zip(&stored).zip(0..) {
                let record = serde_json::from_str(line).unwrap();
                assert_eq!(parsed(record), (offset, kept(stored, true)));
            }

            let answer = fetch_as(&service, "offset=0", BATCHES).await;
            let mut count = 0;
            for batch in Batches::new(&answer.body) {
                for (record, stored) in Records::new(batch.unwrap().1).unwrap().zip(&stored[count..]) {
                    let record = record.unwrap();
                    assert_eq!(record.offset.get(), count as u64);
                    assert_eq!((record.key, record.value), (stored.1.as_deref(), stored.2.as_deref()));
                    count += 1;
                }
            }
            assert_eq!(count, stored.len());
        });
    }
}
