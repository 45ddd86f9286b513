//! Idempotent retries: the header `Idempotency-Key`, and the sequences of producers in record batches. The tests use
//! the router with a clock that they move, and the real binary with `kill -9`. This file has what holds for all
//! requests.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

mod fixture;
mod producers;
mod requests;
mod restarts;
mod several;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use quipu::settings::Config;
use serde_json::json;

use fixture::{appended, await_count, configure, count, post, refused, replayed, start, with};
use requests::{
    BATCH, JSON, NDJSON, RECORDS, TO_PARTITION, batch, binary_event, json_records, keyed_kinds, kinds, lines,
    sent,
};
use support::Answer;

#[tokio::test]
async fn every_kind_of_request_is_appended_once_and_answered_as_the_first_time_over_restarts() {
    let mut service = start().await;
    let mut first = Vec::new();
    let kinds = keyed_kinds();
    for (_, request, records) in &kinds {
        let before = count(&service, "t").await;
        first.push(appended(&service, request).await);
        await_count(&service, before + records).await;
    }
    let total = count(&service, "t").await;
    for round in 0..3 {
        for ((name, request, _), first) in kinds.iter().zip(&first) {
            assert_eq!(
                replayed(&service, request).await,
                *first,
                "{name} in round {round}"
            );
        }
        assert_eq!(count(&service, "t").await, total);
        if round == 0 {
            // Changes the partitions and limits, so that the requests would now be placed differently, or refused.
            let change = json!({"partitions": 11, "config": {"max_record_bytes": 3}});
            configure(&service, change).await;
        }
        if round == 1 {
            service = service.restart().await;
        }
    }
    // One round of requests since the restart; a stream counts each of its units.
    let units = kinds.len() as u64 + 2;
    assert_eq!(service.metric("quipu_replayed_requests_total").await, units);
    assert_eq!(service.metric("quipu_idempotency_keys").await, units);
    assert!(service.metric("quipu_idempotency_key_bytes").await > 0);
    // Replayed records do not count as produced.
    assert_eq!(service.metric("quipu_produced_records_total").await, 0);
}

#[tokio::test]
async fn requests_without_a_key_and_with_other_keys_are_appended_each_time() {
    let service = start().await;
    for key in ["", "", "a", "b", "A", "!", "~", &"x".repeat(255)] {
        let request = json_records();
        let request = if key.is_empty() { request } else { request.key(key) };
        appended(&service, &request).await;
    }
    assert_eq!(count(&service, "t").await, 8 * 20);
}

#[tokio::test]
async fn a_key_is_1_to_255_characters_of_visible_ascii_and_given_once() {
    let service = start().await;
    for (_, request, _) in kinds() {
        for key in ["", "a b", "\u{e9}", &"x".repeat(256), "a\tb"] {
            let answer = post(&service, &request.clone().key(key)).await;
            answer.invalid("idempotency-key");
        }
        let mut twice = request.key("a");
        twice.headers.push(("idempotency-key".to_owned(), "a".to_owned()));
        post(&service, &twice).await.invalid("idempotency-key");
    }
    assert_eq!(count(&service, "t").await, 0);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused_in_whatever_it_differs() {
    let service = start().await;
    for (name, request, records) in keyed_kinds() {
        let before = count(&service, "t").await + records;
        appended(&service, &request).await;
        await_count(&service, before).await;
        let separator = if request.uri.contains('?') { '&' } else { '?' };
        let other = || request.clone();
        let unwritten = request.uri.replace("?ack=written", "?repartition=false");
        let (_, content_type) = &request.headers[0];
        let mut others = vec![
            other().to(&format!("{unwritten}{separator}ack=durable")),
            other().to(&format!("{}{separator}expected_offset=0", request.uri)),
            other().with("content-type", &format!("{content_type}; x=1")),
        ];
        let mut body = request.body.clone();
        match name {
            "json" | "structured" | "batched" | "written" | "ndjson" => body.push(b' '),
            "batch" => body = batch(&["1", "2"]).as_bytes().to_vec(),
            "ndjson of three units" => body[9] = b'9',
            _ => drop(body.remove(0)),
        }
        others.push(other().body(body));
        match name {
            "batch" => others.push(other().to("/v1/topics/t/partitions/2/records")),
            "binary" => others.extend([other().with("ce-id", "2"), other().with("ce-more", "")]),
            _ => {}
        }
        // The same key for another kind of request.
        let (_, key) = request.headers.last().expect("the key");
        others.push(sent(RECORDS, "application/other", "x").key(key));
        others.push(sent(RECORDS, NDJSON, "{\"value\":0}").key(key));
        for (index, other) in others.iter().enumerate() {
            let problem = refused(&service, other, 422, "idempotency-key-reused").await;
            assert_eq!(problem["retryable"], false, "{name} {index}");
            assert_eq!(problem["outcome"], "none", "{name} {index}");
        }
        assert_eq!(count(&service, "t").await, before, "{name}");
        replayed(&service, &request).await;
    }
}

#[tokio::test]
async fn what_a_request_says_is_the_same_however_it_is_written() {
    let service = start().await;
    let uri = format!("{RECORDS}?key=a%20b&partition=2&ack=durable");
    let request = sent(&uri, "text/plain", "hello").key("k");
    let first = appended(&service, &request).await;
    for uri in [
        "?ack=durable&partition=2&key=a+b",
        "?%6bey=%61%20b&partition=2&ack=durable",
        "?key=a%20b&partition=2&ack=durable&",
    ] {
        let again = request.clone().to(&format!("{RECORDS}{uri}"));
        assert_eq!(replayed(&service, &again).await, first, "{uri}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").unwrap();
    let gzip = request.clone().body(gzip.finish().unwrap());
    let gzip = gzip.with("content-encoding", "gzip");
    assert_eq!(replayed(&service, &gzip).await, first);
    let traced = request.with("traceparent", "00-ab-cd-01").with("user-agent", "x");
    assert_eq!(replayed(&service, &traced).await, first);
    assert_eq!(count(&service, "t").await, 1);
}

#[tokio::test]
async fn a_key_is_the_topics_also_where_a_topic_of_the_same_name_is_made_again() {
    let service = start().await;
    service.create_topic("other", 4).await;
    let request = json_records().key("k");
    appended(&service, &request).await;
    let other = request.clone().to("/v1/topics/other/records");
    appended(&service, &other).await;
    refused(&service, &other.body("{}"), 422, "idempotency-key-reused").await;
    service.delete("/v1/topics/t").await.with_status(204);
    refused(&service, &request, 404, "unknown-topic").await;
    service.create_topic("t", 4).await;
    appended(&service, &request).await;
    replayed(&service, &request).await;
    assert_eq!(count(&service, "t").await, 20);
}

#[tokio::test]
async fn a_key_is_remembered_for_the_window_of_its_topic_and_no_longer() {
    let service = start().await;
    let request = json_records().key("k");
    appended(&service, &request).await;
    service.pass(Duration::from_millis(599_999));
    replayed(&service, &request).await;
    service.pass(Duration::from_millis(1));
    appended(&service, &request).await;
    // The window begins again with the new append.
    service.pass(Duration::from_secs(599));
    replayed(&service, &request).await;
    configure(&service, json!({"config": {"dedupe_window_ms": 1000}})).await;
    let brief = json_records().key("brief");
    appended(&service, &brief).await;
    service.pass(Duration::from_millis(999));
    replayed(&service, &brief).await;
    service.pass(Duration::from_millis(1));
    appended(&service, &brief.clone().body(r#"{"records":[{}]}"#)).await;
    let service = service.restart().await;
    service.pass(Duration::from_secs(2));
    appended(&service, &brief).await;
}

#[tokio::test]
async fn only_what_was_appended_is_remembered() {
    let service = start().await;
    let conditional = |offset: u64| {
        let uri = format!("{RECORDS}?partition=1&expected_offset={offset}");
        sent(&uri, "text/plain", "x").key("k")
    };
    let large = vec![b'x'; 2 << 20];
    for (request, status, code) in [
        (conditional(1), 412, "offset-mismatch"),
        (sent(RECORDS, JSON, "{\"records\":["), 400, "invalid-request"),
        (sent(RECORDS, NDJSON, "nonsense"), 400, "invalid-request"),
        (sent(RECORDS, BATCH, "x"), 415, "unsupported-media-type"),
        (sent(TO_PARTITION, BATCH, "x"), 400, "invalid-request"),
        (binary_event().with("ce-id", ""), 400, "invalid-request"),
        (sent(RECORDS, "a/b", large), 413, "record-too-large"),
        (sent("/v1/topics/none/records", JSON, "{}"), 404, "unknown-topic"),
    ] {
        refused(&service, &request.key("k"), status, code).await;
    }
    let first = appended(&service, &conditional(0)).await;
    // The condition of a repetition is not checked again.
    assert_eq!(replayed(&service, &conditional(0)).await, first);
    refused(&service, &conditional(1), 422, "idempotency-key-reused").await;
    refused(&service, &conditional(0).key("other"), 412, "offset-mismatch").await;
    assert_eq!(count(&service, "t").await, 1);
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_append() {
    let service = start().await;
    for (name, request, records) in keyed_kinds() {
        let before = count(&service, "t").await;
        let all = join_all((0..32).map(|_| post(&service, &request))).await;
        for answer in &all {
            assert_eq!((answer.status, answer.json()), (200, all[0].json()), "{name}");
        }
        await_count(&service, before + records).await;
        if !name.contains("units") {
            let is_new = |answer: &&Answer| !answer.headers.contains_key("idempotency-replayed");
            assert_eq!(all.iter().filter(is_new).count(), 1, "{name}");
        }
        let other = request.clone().body([&request.body[..], b" "].concat());
        if name == "json" {
            let both = [&request.clone().key("new"), &other.key("new")];
            let answers = join_all(both.map(|request| post(&service, request))).await;
            let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 422], "one of them is first");
        }
    }
}

#[tokio::test]
async fn at_the_bound_new_keys_are_refused_and_nothing_that_is_promised_is_forgotten() {
    let config = Config {
        max_idempotency_bytes: 16 << 10,
        ..Config::default()
    };
    let service = with(config).await;
    let request = |n: u32| json_records().key(&format!("key-{n}"));
    let mut taken = 0;
    let refused = loop {
        let answer = post(&service, &request(taken)).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "there is no bound");
    };
    let problem = refused.problem(503, "overloaded");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("dedupe_window_ms"), "{problem}");
    let retry_after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((600..=602).contains(&retry_after), "{retry_after}");
    assert!(taken > 10);
    let stream = post(&service, &sent(RECORDS, NDJSON, lines(5)).key("stream")).await;
    assert_eq!(stream.problem(503, "overloaded")["accepted"], 0);
    assert_eq!(count(&service, "t").await, u64::from(taken) * 20);
    for n in 0..taken {
        replayed(&service, &request(n)).await;
    }
    appended(&service, &json_records()).await;
    assert!(service.metric("quipu_idempotency_key_bytes").await <= 16 << 10);
    service.pass(Duration::from_secs(retry_after));
    appended(&service, &request(taken)).await;
}
