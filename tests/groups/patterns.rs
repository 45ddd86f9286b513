//! Topic patterns in the subscriptions of groups: `orders.*`.

use std::collections::BTreeSet;

use crate::support::{Service, invalid, refused};
use serde_json::{Value, json};

const POLL: &str = "/v1/groups/g/members/m/poll";

/// A service with topics of one partition with one record.
async fn with(topics: &[&str]) -> Service {
    let service = Service::new();
    for topic in topics {
        add(&service, topic).await;
    }
    service
}

async fn add(service: &Service, topic: &str) {
    service.create_topic(topic, 1).await;
    service.append_numbers(topic, 0, 0, 1);
}

fn body(topics: &[&str], kind: &str, ack: &Value) -> Value {
    json!({"topics": topics, "type": kind, "ack": ack, "wait_ms": 0})
}

async fn poll(service: &Service, topics: &[&str], kind: &str, ack: &Value) -> Value {
    service.post(POLL, body(topics, kind, ack)).await.ok()
}

/// The topics of an answer's records.
fn read(polled: &Value) -> BTreeSet<&str> {
    let records = polled["records"].as_array().expect("records").iter();
    records.map(|record| record["topic"].as_str().unwrap()).collect()
}

async fn lag(service: &Service) -> (u64, Vec<String>) {
    let lag = service.get("/v1/groups/g/lag").await.ok();
    let topics = lag["topics"].as_array().unwrap().iter();
    let names = topics.map(|row| row["topic"].as_str().unwrap().to_owned());
    (lag["lag"].as_u64().unwrap(), names.collect())
}

#[tokio::test]
async fn a_pattern_brings_the_topics_that_match_it_now_and_later_from_their_beginning() {
    for kind in ["ordered", "shared"] {
        let service = with(&["orders.eu", "orders.us", "orders", "orders.eu.old", "payments"]).await;
        let mut join = body(&["orders.*"], kind, &Value::Null);
        join["start"] = json!("latest");
        let first = service.post(POLL, &join).await.ok();
        assert_eq!(read(&first), [].into(), "they start at their end");
        add(&service, "orders.asia").await;
        add(&service, "payments.asia").await;
        let second = service.post(POLL, &join).await.ok();
        assert_eq!(read(&second), ["orders.asia"].into(), "{kind}");
        // One that is made while the group has no members is in the lag, and is read from its beginning too.
        let path = format!(
            "/v1/groups/g/members/m?ack={}",
            second["poll_id"].as_str().unwrap()
        );
        service.delete(&path).await.with_status(204);
        add(&service, "orders.africa").await;
        let wanted = ["orders.africa", "orders.asia", "orders.eu", "orders.us"];
        let (records, topics) = lag(&service).await;
        assert_eq!((records, topics), (1, wanted.map(str::to_owned).to_vec()));
        let service = service.restart().await;
        assert_eq!(lag(&service).await.0, 1);
        let third = service.post(POLL, &join).await.ok();
        assert_eq!(read(&third), ["orders.africa"].into());
    }
}

#[tokio::test]
async fn a_hash_stands_for_any_number_of_words_and_names_and_patterns_go_together() {
    let service = with(&["orders", "orders.eu", "orders.eu.old", "order", "payments"]).await;
    let all = poll(&service, &["orders.#", "payments"], "ordered", &Value::Null).await;
    let expected = ["orders", "orders.eu", "orders.eu.old", "payments"];
    assert_eq!(read(&all), expected.into());
}

#[tokio::test]
async fn a_waiting_poll_gets_the_records_of_a_topic_that_is_made_meanwhile() {
    let service = std::sync::Arc::new(Service::new());
    let waiting = {
        let mut body = body(&["orders.*"], "ordered", &Value::Null);
        body["wait_ms"] = json!(60_000);
        let service = service.clone();
        // The first answer has the assignment, the next one the record.
        tokio::spawn(async move {
            loop {
                let polled = service.post(POLL, body.clone()).await.ok();
                if !read(&polled).is_empty() {
                    return polled;
                }
                body["ack"] = polled["poll_id"].clone();
            }
        })
    };
    while !service
        .app
        .groups
        .describe("g")
        .iter()
        .any(|member| member.is_polling)
    {
        tokio::task::yield_now().await;
    }
    add(&service, "orders.eu").await;
    assert_eq!(read(&waiting.await.unwrap()), ["orders.eu"].into());
}

#[tokio::test]
async fn a_pattern_never_brings_dead_letters_and_matches_nothing_without_an_error() {
    let service = with(&["jobs", "jobs.dlq", "failed"]).await;
    let queue = json!({"topics": ["jobs"], "type": "shared", "dead_letter_topic": "failed", "wait_ms": 0});
    service.post("/v1/groups/work/members/w/poll", queue).await.ok();
    for kind in ["ordered", "shared"] {
        let path = format!("/v1/groups/{kind}/members/m/poll");
        let polled = service.post(&path, body(&["#"], kind, &Value::Null)).await.ok();
        assert_eq!(read(&polled), ["jobs"].into());
        let nothing = service.post(&path, body(&["none.*"], kind, &polled["poll_id"]));
        assert_eq!(nothing.await.ok()["records"], json!([]));
    }
    // One that becomes a dead-letter topic leaves the groups that a pattern brought it to.
    add(&service, "later").await;
    let poll_all = async || {
        let path = "/v1/groups/ordered/members/m/poll";
        let polled = service
            .post(path, body(&["#"], "ordered", &Value::Null))
            .await
            .ok();
        polled["assignment"].as_array().unwrap().len()
    };
    assert_eq!(poll_all().await, 2);
    let queue = json!({"topics": ["jobs"], "type": "shared", "dead_letter_topic": "later", "wait_ms": 0});
    service.post("/v1/groups/work2/members/w/poll", queue).await.ok();
    assert_eq!(poll_all().await, 1);
    // A queue that names its own dead letters does not read them either.
    let own = json!({"topics": ["*"], "type": "shared", "dead_letter_topic": "own", "wait_ms": 0});
    add(&service, "own").await;
    let polled = service.post("/v1/groups/own/members/m/poll", own).await.ok();
    assert_eq!(read(&polled), ["jobs"].into());
    let lag = service.get("/v1/groups/own/lag").await.ok();
    assert_eq!(lag["topics"].as_array().unwrap().len(), 1, "{lag}");
    // By its name, anybody can read them.
    let polled = poll(&service, &["jobs.dlq"], "ordered", &Value::Null).await;
    assert_eq!(read(&polled), ["jobs.dlq"].into());
}

#[tokio::test]
async fn a_topic_that_a_pattern_brought_goes_without_an_error_and_comes_again_from_its_beginning() {
    let service = with(&["orders.eu", "orders.us"]).await;
    let first = poll(&service, &["orders.*"], "ordered", &Value::Null).await;
    service.delete("/v1/topics/orders.eu").await.with_status(204);
    let second = poll(&service, &["orders.*"], "ordered", &first["poll_id"]).await;
    assert_eq!(
        (second["assignment"].as_array().unwrap().len(), second.get("lost")),
        (1, None)
    );
    add(&service, "orders.eu").await;
    let third = poll(&service, &["orders.*"], "ordered", &second["poll_id"]).await;
    assert_eq!(read(&third), ["orders.eu"].into());
}

#[tokio::test]
async fn a_topic_that_is_forgotten_is_not_brought_back_by_a_pattern_that_nobody_uses() {
    let service = with(&["orders.eu", "payments"]).await;
    poll(&service, &["orders.*"], "ordered", &Value::Null).await;
    let forget = "/v1/groups/g/offsets?topic=orders.eu";
    refused(service.delete(forget), 409, "group-active").await;
    poll(&service, &["payments"], "ordered", &Value::Null).await;
    assert_eq!(lag(&service).await.0, 2);
    service.delete(forget).await.with_status(204);
    assert_eq!(lag(&service).await, (1, vec!["payments".to_owned()]));
    refused(service.delete(forget), 404, "unknown-topic").await;
    // A group that is deleted leaves no pattern behind.
    service.delete("/v1/groups/g/members/m").await.with_status(204);
    service.delete("/v1/groups/g").await.with_status(204);
    assert!(service.app.log.state_prefix(b"p").is_empty());
}

#[tokio::test]
async fn a_wrong_pattern_is_refused_at_its_place() {
    let service = with(&["orders"]).await;
    for wrong in ["orders*", "a.#b", "a b.*", "__keys.#"] {
        let join = json!({"topics": ["orders", wrong]});
        invalid(service.post("/v1/groups/g/members", &join), "/topics/1").await;
        invalid(service.post(POLL, &join), "/topics/1").await;
    }
    refused(service.get("/v1/groups/g"), 404, "unknown-group").await;
}
