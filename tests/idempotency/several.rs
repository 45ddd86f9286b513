//! Requests to several topics: their keys belong to the server.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::fixture::{appended, configure, count, post, refused, replayed, start};
use crate::requests::{JSON, RECORDS, Sent, json_records, sent};
use crate::support::Service;

const TO_TOPICS: &str = "/v1/records";

/// A service with topics `t` and `u`, of four partitions each.
async fn with_two_topics() -> Service {
    let service = start().await;
    service.create_topic("u", 4).await;
    service
}

/// Ten records in `t` and ten in `u`, with and without keys.
fn request() -> Sent {
    let record = |n: u32| {
        let topic = if n % 4 < 2 { "t" } else { "u" };
        match n % 2 {
            0 => json!({"topic": topic, "key": format!("k{n}"), "value": n}),
            _ => json!({"topic": topic, "value": n}),
        }
    };
    let records: Vec<_> = (0..20).map(record).collect();
    sent(TO_TOPICS, JSON, json!({"records": records}).to_string()).key("k")
}

async fn counts(service: &Service) -> (u64, u64) {
    (count(service, "t").await, count(service, "u").await)
}

#[tokio::test]
async fn a_request_is_appended_once_and_answered_as_the_first_time_over_changes_and_restarts() {
    let mut service = with_two_topics().await;
    let request = request();
    let first = appended(&service, &request).await;
    assert_eq!(first["offsets"].as_array().unwrap().len(), 20);
    assert_eq!(counts(&service).await, (10, 10));
    for round in 0..4 {
        assert_eq!(replayed(&service, &request).await, first, "{round}");
        match round {
            // Now the records would be placed differently, or refused.
            0 => {
                configure(
                    &service,
                    json!({"partitions": 11, "config": {"max_record_bytes": 1}}),
                )
                .await
            }
            1 => service = service.restart().await,
            2 => {
                // The key is not forgotten with a topic: else the records of the other one would be stored twice.
                service.delete("/v1/topics/u").await.with_status(204);
                service = service.restart().await;
            }
            _ => {}
        }
    }
    assert_eq!(count(&service, "t").await, 10);
    assert_eq!(service.metric("quipu_idempotency_keys").await, 1);
    assert_eq!(service.metric("quipu_produced_records_total").await, 0);
    assert_eq!(service.metric("quipu_replayed_requests_total").await, 1);
}

#[tokio::test]
async fn the_key_is_the_servers_and_no_topics() {
    let service = with_two_topics().await;
    let request = request();
    appended(&service, &request).await;
    // Keys of topics are others.
    appended(&service, &json_records().key("k")).await;
    refused(
        &service,
        &request.clone().to(RECORDS),
        422,
        "idempotency-key-reused",
    )
    .await;
    let other = |body: &str| request.clone().body(body);
    for wrong in [
        other(r#"{"records":[{"topic":"t"}]}"#),
        other(r#"{"records":[{"topic":"u"}]}"#),
        request.clone().to("/v1/records?ack=durable"),
        request
            .clone()
            .with("content-type", "application/json; charset=utf-8"),
    ] {
        refused(&service, &wrong, 422, "idempotency-key-reused").await;
    }
    // Found before it is read: the second request is not JSON.
    refused(&service, &other("nonsense"), 422, "idempotency-key-reused").await;
    for key in ["", "a b", "\u{e9}", &"x".repeat(256)] {
        let answer = post(&service, &request.clone().key(key)).await;
        answer.invalid("idempotency-key");
    }
    assert_eq!(counts(&service).await, (30, 10));
    replayed(&service, &request.with("traceparent", "00-ab-cd-01")).await;
}

#[tokio::test]
async fn the_window_is_the_longest_of_the_topics() {
    let service = with_two_topics().await;
    configure(&service, json!({"config": {"dedupe_window_ms": 1000}})).await;
    let only = sent(TO_TOPICS, JSON, r#"{"records":[{"topic":"t"}]}"#).key("only");
    appended(&service, &only).await;
    appended(&service, &request()).await;
    service.pass(Duration::from_millis(999));
    replayed(&service, &only).await;
    service.pass(Duration::from_millis(1));
    appended(&service, &only).await;
    service.pass(Duration::from_millis(599_000 - 1));
    replayed(&service, &request()).await;
    service.pass(Duration::from_millis(1));
    appended(&service, &request()).await;
    assert_eq!(counts(&service).await, (22, 20));
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free_and_many_at_once_are_one_append() {
    let service = with_two_topics().await;
    let wrong = sent(TO_TOPICS, JSON, r#"{"records":[{"topic":"t"},{"topic":"none"}]}"#).key("k");
    refused(&service, &wrong, 404, "unknown-topic").await;
    let request = request();
    let all = join_all((0..32).map(|_| post(&service, &request))).await;
    for answer in &all {
        assert_eq!((answer.status, answer.json()), (200, all[0].json()));
    }
    let new = all
        .iter()
        .filter(|answer| answer.header("idempotency-replayed").is_none());
    assert_eq!(new.count(), 1);
    assert_eq!(counts(&service).await, (10, 10));
}
