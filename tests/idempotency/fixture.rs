//! What the tests ask of the service beyond one request.

use std::time::Instant;

use quipu::settings::Config;
use serde_json::Value;

use crate::requests::Sent;
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
        .send(http::Method::POST, &request.uri, &headers, request.body.clone())
        .await
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

/// Waits until there are so many: what was acknowledged as written is readable a moment later.
pub(crate) async fn await_count(service: &Service, expected: u64) {
    let begin = Instant::now();
    while count(service, "t").await < expected {
        assert!(begin.elapsed() < PATIENCE, "there never are {expected} records");
        tokio::task::yield_now().await;
    }
    assert_eq!(count(service, "t").await, expected);
}
