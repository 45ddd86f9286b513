//! Work queues that look at records before they lease them: `order` by key, and `filter`.

use crate::support::{Service, has};
use serde_json::{Value, json};

const NONE: [u64; 0] = [];

async fn jobs(settings: Value, records: Value) -> Service {
    let service = Service::new();
    service.create_topic("jobs", 1).await;
    produce(&service, records).await;
    for name in ["a", "b"] {
        enter(&service, name, &settings).await;
    }
    service
}

async fn produce(service: &Service, records: Value) {
    let body = json!({"records": records});
    service.post("/v1/topics/jobs/records", body).await.ok();
}

async fn enter(service: &Service, name: &str, settings: &Value) {
    let mut body = json!({"topics": ["jobs"], "type": "shared", "member_id": name});
    for (key, value) in settings.as_object().expect("an object") {
        body[key] = value.clone();
    }
    service.post("/v1/groups/workers/members", body).await.created();
}

fn keys(keys: &[Option<&str>]) -> Value {
    keys.iter().map(|key| json!({"key": key, "value": 1})).collect()
}

async fn poll_for(service: &Service, member: &str, ack: &Value, wait_ms: u64) -> Value {
    let body = json!({"ack": ack, "max_records": 100, "wait_ms": wait_ms});
    let path = format!("/v1/groups/workers/members/{member}/poll");
    service.post(&path, body).await.ok()
}

async fn poll(service: &Service, member: &str) -> Vec<u64> {
    offsets(&poll_for(service, member, &Value::Null, 0).await)
}

fn offsets(polled: &Value) -> Vec<u64> {
    let rows = polled["records"].as_array().expect("a list").iter();
    rows.map(|row| row["offset"].as_u64().unwrap()).collect()
}

async fn settle(service: &Service, member: &str, how: &str, offset: u64, with: Value) {
    let mut place = json!({"topic": "jobs", "partition": 0, "offset": offset});
    for (key, value) in with.as_object().expect("an object") {
        place[key] = value.clone();
    }
    let path = format!("/v1/groups/workers/members/{member}/settle");
    let answer = service.post(&path, json!({how: [place]})).await.ok();
    assert_eq!(answer["lost"], json!([]));
}

async fn lag(service: &Service) -> Value {
    service.get("/v1/groups/workers/lag").await.json()
}

#[tokio::test]
async fn a_keys_next_record_waits_until_the_one_before_is_settled_and_other_keys_go_on() {
    let order = json!({"order": "key"});
    let records = keys(&[Some("x"), Some("x"), Some("y"), None, None, Some("x")]);
    let service = jobs(order.clone(), records).await;
    assert_eq!(poll(&service, "a").await, [0, 2, 3, 4]);
    assert_eq!(poll(&service, "b").await, NONE);
    assert_eq!(lag(&service).await["lag"], 6);
    // A delayed release holds the key.
    settle(&service, "a", "release", 0, json!({"delay_ms": 3_600_000})).await;
    assert_eq!(poll(&service, "b").await, NONE);
    settle(&service, "a", "release", 0, json!({})).await;
    assert_eq!(poll(&service, "b").await, [0]);
    settle(&service, "b", "reject", 0, json!({"reason": "bad"})).await;
    assert_eq!(poll(&service, "a").await, [1]);
    // After a restart the keys are read again: the record that was leased comes first.
    let service = service.restart().await;
    enter(&service, "b", &order).await;
    assert_eq!(poll(&service, "b").await, [1, 2, 3, 4]);
    settle(&service, "b", "accept", 1, json!({})).await;
    assert_eq!(poll(&service, "b").await, [5]);
}

#[tokio::test]
async fn a_settled_record_wakes_a_poll_that_waits_for_its_key() {
    let service = jobs(json!({"order": "key"}), keys(&[Some("x"), Some("x")])).await;
    assert_eq!(poll(&service, "a").await, [0]);
    let (polled, ()) = tokio::join!(poll_for(&service, "b", &Value::Null, 60_000), async {
        tokio::task::yield_now().await;
        settle(&service, "a", "accept", 0, json!({})).await;
    });
    assert_eq!(offsets(&polled), [1]);
}

#[tokio::test]
async fn a_record_that_waits_for_its_time_does_not_hold_its_key() {
    let records =
        json!([{"key": "x", "value": 1, "deliver_at": 4_102_444_800_000_i64}, {"key": "x", "value": 2}]);
    let service = jobs(json!({"order": "key"}), records).await;
    assert_eq!(poll(&service, "a").await, [1]);
    has(&lag(&service).await, json!({"lag": 2}));
}

#[tokio::test]
async fn what_does_not_match_is_never_leased_and_is_not_in_the_lag() {
    let row = |key: &str| json!({"key": key, "value": 1});
    let records: Vec<Value> = (0..1500)
        .map(|number| row(if number == 1400 { "x" } else { "y" }))
        .collect();
    let service = jobs(json!({"filter": {"key": ["x"]}}), Value::from(records)).await;
    assert_eq!(lag(&service).await["lag"], 1500);
    let polled = poll_for(&service, "a", &Value::Null, 0).await;
    assert_eq!(offsets(&polled), [1400]);
    has(&lag(&service).await, json!({"lag": 1}));
    assert_eq!(
        offsets(&poll_for(&service, "a", &polled["poll_id"], 0).await),
        NONE
    );
    has(&lag(&service).await, json!({"lag": 0}));
    let offsets = service.get("/v1/groups/workers/offsets").await.json();
    assert_eq!(offsets["offsets"][0]["offset"], 1500);
}

#[tokio::test]
async fn another_filter_and_the_end_of_the_order_hold_for_what_was_looked_at_before() {
    let service = jobs(
        json!({"order": "key"}),
        keys(&[Some("x"), Some("x"), Some("y"), Some("y")]),
    )
    .await;
    assert_eq!(poll(&service, "a").await, [0, 2]);
    let group = "/v1/groups/workers";
    service.patch(group, json!({"filter": {"key": ["x"]}})).await.ok();
    settle(&service, "a", "accept", 0, json!({})).await;
    // What does not match any more is settled once nobody holds it.
    assert_eq!(poll(&service, "b").await, [1]);
    has(&lag(&service).await, json!({"lag": 2, "leased": 2}));
    settle(&service, "a", "release", 2, json!({})).await;
    has(&lag(&service).await, json!({"lag": 1, "leased": 1}));
}
