//! `topics` in a poll of a member: they change what this member reads, and nothing else.

use std::collections::BTreeSet;

use crate::support::{Answer, Service, invalid, refused};
use serde_json::{Value, json};

/// A service with three topics of one partition with two records each.
async fn topics() -> Service {
    let service = Service::new();
    for topic in ["jobs", "mail", "other"] {
        service.create_topic(topic, 1).await;
        service.append_numbers(topic, 0, 0, 2);
    }
    service
}

async fn ask(service: &Service, member: &str, body: Value) -> Answer {
    let path = format!("/v1/groups/g/members/{member}/poll");
    service.post(&path, body).await
}

fn naming(topics: &[&str], kind: &str, ack: &Value) -> Value {
    json!({"topics": topics, "type": kind, "ack": ack, "max_records": 100, "wait_ms": 0})
}

/// The topics of an answer's records.
fn read(polled: &Value) -> BTreeSet<&str> {
    let records = polled["records"].as_array().expect("records").iter();
    records.map(|record| record["topic"].as_str().unwrap()).collect()
}

async fn lag(service: &Service) -> Vec<(String, u64)> {
    let lag = service.get("/v1/groups/g/lag").await.ok();
    let topics = lag["topics"].as_array().unwrap().iter();
    let row = |row: &Value| {
        let name = row["topic"].as_str().unwrap().to_owned();
        (name, row["lag"].as_u64().unwrap())
    };
    topics.map(row).collect()
}

#[tokio::test]
async fn topics_in_a_poll_change_what_this_member_reads_and_no_other_and_the_group_remembers_them() {
    for kind in ["ordered", "shared"] {
        let service = topics().await;
        let a = ask(&service, "a", naming(&["jobs"], kind, &Value::Null))
            .await
            .ok();
        let b = ask(&service, "b", naming(&["mail"], kind, &Value::Null))
            .await
            .ok();
        assert_eq!((read(&a), read(&b)), (["jobs"].into(), ["mail"].into()), "{kind}");
        // What it had in hand is acknowledged by the poll that names other topics.
        let a = ask(&service, "a", naming(&["other"], kind, &a["poll_id"]))
            .await
            .ok();
        assert_eq!((read(&a), a.get("lost")), (["other"].into(), None), "{kind}");
        for topic in ["jobs", "mail", "other"] {
            service.append_numbers(topic, 0, 2, 1);
        }
        // A poll without topics goes on with the last ones.
        let polled = json!({"ack": a["poll_id"], "max_records": 100, "wait_ms": 0});
        let a = ask(&service, "a", polled).await.ok();
        assert_eq!(read(&a), ["other"].into(), "{kind}");
        let b = ask(&service, "b", naming(&["mail"], kind, &b["poll_id"]))
            .await
            .ok();
        assert_eq!((read(&b), b.get("lost")), (["mail"].into(), None), "{kind}");
        let service = service.restart().await;
        let expected = [("jobs", 1), ("mail", 1), ("other", 1)];
        let expected = expected.map(|(topic, lag)| (topic.to_owned(), lag));
        assert_eq!(lag(&service).await, expected, "{kind}");
    }
}

#[tokio::test]
async fn a_poll_with_wrong_topics_is_refused_and_changes_nothing() {
    for kind in ["ordered", "shared"] {
        let service = topics().await;
        let a = ask(&service, "a", naming(&["jobs"], kind, &Value::Null))
            .await
            .ok();
        let ack = &a["poll_id"];
        let unknown = ask(&service, "a", naming(&["mail", "nothing"], kind, ack)).await;
        unknown.refusal(404, "unknown-topic", "none");
        for (topics, pointer) in [(&[][..], "/topics"), (&["mail", "orders*"], "/topics/1")] {
            invalid(
                async { ask(&service, "a", naming(topics, kind, ack)).await },
                pointer,
            )
            .await;
        }
        assert_eq!(lag(&service).await, [("jobs".to_owned(), 2)], "{kind}");
        let polled = json!({"ack": ack, "wait_ms": 0});
        let a = ask(&service, "a", polled).await.ok();
        assert_eq!((read(&a), a.get("lost")), ([].into(), None), "{kind}");
        assert_eq!(lag(&service).await, [("jobs".to_owned(), 0)], "{kind}");
    }
}

#[tokio::test]
async fn a_queue_never_subscribes_to_the_topic_of_its_own_dead_letters() {
    let service = topics().await;
    let mut first = naming(&["jobs"], "shared", &Value::Null);
    first["dead_letter_topic"] = json!("other");
    ask(&service, "a", first).await.ok();
    for member in ["a", "new"] {
        let own = naming(&["jobs", "other"], "shared", &Value::Null);
        invalid(async { ask(&service, member, own).await }, "/topics").await;
    }
    refused(
        async { ask(&service, "new", json!({"wait_ms": 0})).await },
        404,
        "unknown-member",
    )
    .await;
    assert_eq!(lag(&service).await.len(), 1);
}

#[tokio::test]
async fn a_queues_poll_that_fails_says_that_something_is_stored_only_if_its_ack_has_stored_something() {
    let service = topics().await;
    let a = ask(&service, "a", naming(&["jobs", "mail"], "shared", &Value::Null))
        .await
        .ok();
    let settle =
        |list: &str, offset: u64| json!({list: [{"topic": "jobs", "partition": 0, "offset": offset}]});
    service.delete("/v1/topics/mail").await.with_status(204);
    for (list, offset) in [("accept", 0), ("release", 1)] {
        let path = "/v1/groups/g/members/a/settle";
        service.post(path, settle(list, offset)).await.ok();
    }
    // One record is settled, the other is released, and the others' topic is gone: the ack settles nothing.
    let ack = json!({"ack": a["poll_id"], "wait_ms": 0});
    ask(&service, "a", ack.clone())
        .await
        .refusal(404, "unknown-topic", "none");
    let b = ask(&service, "b", naming(&["jobs", "other"], "shared", &Value::Null))
        .await
        .ok();
    assert_eq!(b["records"].as_array().unwrap().len(), 3);
    service.delete("/v1/topics/other").await.with_status(204);
    let ack = json!({"ack": b["poll_id"], "wait_ms": 0});
    ask(&service, "b", ack.clone())
        .await
        .refusal(404, "unknown-topic", "partial");
    ask(&service, "b", ack)
        .await
        .refusal(404, "unknown-topic", "none");
}
