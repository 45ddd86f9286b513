//! Helpers that take more than one request.

use std::time::Instant;

use axum::body::Body;
use http::Method;
use quipu::settings::Config;
use serde_json::Value;

use crate::requests::{NDJSON, Sent};
use crate::support::{Answer, PATIENCE, Service};

/// A service with a topic `t` of four partitions.
pub(crate) async fn start() -> Service {
    with(Config::default()).await
}

pub(crate) async fn with(mut config: Config) -> Service {
    config.limits.max_request_bytes = 4 << 20;
    let service = Service::with(config);
    service.create_topic("t", 4).await;
    service
}

pub(crate) async fn post(service: &Service, request: &Sent) -> Answer {
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    service
        .send(Method::POST, &request.uri, &headers, request.body.clone())
        .await
}

/// Sends a request that the service has not seen before; returns its answer.
pub(crate) async fn appended(service: &Service, request: &Sent) -> Value {
    post(service, request).await.appended()
}

/// Sends a request that the service has answered before; returns its answer.
pub(crate) async fn replayed(service: &Service, request: &Sent) -> Value {
    post(service, request).await.replayed()
}

/// Sends a request that is refused; returns the problem.
pub(crate) async fn refused(service: &Service, request: &Sent, status: u16, code: &str) -> Value {
    post(service, request).await.problem(status, code)
}

/// Sends a stream with a key, whose connection breaks after these bytes; `accepted` of its lines are stored.
pub(crate) async fn break_off(service: &Service, uri: &str, key: &str, bytes: &[u8], accepted: usize) {
    let headers = [("content-type", NDJSON), ("idempotency-key", key)];
    let pieces = [Ok(bytes.to_vec()), Err(std::io::Error::other("gone"))];
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let answer = service.send(Method::POST, uri, &headers, body).await;
    assert_eq!(answer.problem(408, "request-timeout")["accepted"], accepted);
}

pub(crate) async fn configure(service: &Service, change: Value) {
    service.patch("/v1/topics/t", change).await.ok();
}

/// How many records there are in all partitions.
pub(crate) async fn count(service: &Service, topic: &str) -> u64 {
    let about = service.get(&format!("/v1/topics/{topic}")).await.json();
    let partitions = about["partitions"].as_array().expect("partitions").iter();
    partitions
        .map(|partition| partition["end_offset"].as_u64().expect("an offset"))
        .sum()
}

/// Waits until there are so many: records with `ack=written` are readable a moment after the answer.
pub(crate) async fn await_count(service: &Service, expected: u64) {
    let begin = Instant::now();
    while count(service, "t").await < expected {
        assert!(begin.elapsed() < PATIENCE, "there never are {expected} records");
        tokio::task::yield_now().await;
    }
    assert_eq!(count(service, "t").await, expected);
}
