//! Backups over HTTP: the calls, what a restored server has, and what clients that held something from after the backup get.

#![allow(
    clippy::disallowed_methods,
    reason = "they restore into directories of their own"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use http::Method;
use quipu::settings::Config;
use quipu_segments::{IfDamaged, Progress, restore};
use serde_json::{Value, json};
use support::{Service, has};
use tempfile::TempDir;

/// A service that keeps backups in `dir`.
fn service(dir: &TempDir) -> Service {
    Service::with(config(dir))
}

fn config(dir: &TempDir) -> Config {
    Config {
        backup_dir: Some(dir.path().join("backups")),
        ..Config::default()
    }
}

/// Makes a backup, and waits for its end.
async fn back_up(service: &Service, name: &str) -> Value {
    let begun = service.post("/v1/backups", json!({"name": name})).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let location = format!("/v1/backups/{name}");
    assert_eq!(begun.header("location"), Some(&*location));
    has(
        &begun.json(),
        json!({"name": name, "state": "running", "finished": null}),
    );
    ended(service, name).await
}

async fn ended(service: &Service, name: &str) -> Value {
    loop {
        let found = service.get(&format!("/v1/backups/{name}")).await.ok();
        if found["state"] != "running" {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A service on a data directory that is made of a backup.
fn restored(dir: &TempDir, name: &str) -> Service {
    let data = tempfile::tempdir().expect("a temporary directory");
    let copy = dir.path().join("backups").join(name);
    restore(&copy, data.path(), IfDamaged::Refuse, &Progress::default()).expect("the backup is whole");
    Service::in_dir(data)
}

async fn produce(service: &Service, topic: &str, values: impl IntoIterator<Item = u64>) {
    let records: Vec<Value> = values
        .into_iter()
        .map(|n| json!({"value": n, "partition": 0}))
        .collect();
    let uri = format!("/v1/topics/{topic}/records");
    service.post(&uri, json!({"records": records})).await.ok();
}

fn values(page: &Value) -> Vec<u64> {
    let records = page["records"].as_array().expect("records").iter();
    records
        .map(|record| record["value"].as_u64().expect("a number"))
        .collect()
}

#[tokio::test]
async fn a_backup_is_made_listed_described_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    service.create_topic("orders", 3).await;
    produce(&service, "orders", 0..5).await;
    let empty = service.get("/v1/backups").await.ok();
    assert_eq!(empty, json!({"backups": []}));
    let done = back_up(&service, "monday").await;
    has(&done, json!({"name": "monday", "state": "done"}));
    assert!(done["bytes"].as_u64() > Some(300), "{done}");
    assert!(done["finished"].as_i64() >= done["started"].as_i64(), "{done}");
    assert_eq!(done["error"], Value::Null);
    back_up(&service, "tuesday").await;
    for name in ["monday", "tuesday"] {
        let again = service.post("/v1/backups", json!({"name": name})).await;
        again.problem(409, "backup-exists");
    }
    // It is read from the disk: also after a restart.
    let service = service.restart().await;
    assert_eq!(service.get("/v1/backups/monday").await.ok(), done);
    let page = service.get("/v1/backups?limit=1").await.ok();
    assert_eq!((&page["backups"][0], &page["next"]), (&done, &json!("monday")));
    let rest = service.get("/v1/backups?limit=1&after=monday").await.ok();
    assert_eq!(rest["backups"][0]["name"], "tuesday");
    assert_eq!(rest["next"], Value::Null);
    service.delete("/v1/backups/monday").await.with_status(204);
    service
        .get("/v1/backups/monday")
        .await
        .problem(404, "unknown-backup");
    service
        .delete("/v1/backups/monday")
        .await
        .problem(404, "unknown-backup");
    let restored = restored(&dir, "tuesday");
    let page = restored
        .get("/v1/topics/orders/partitions/0/records?offset=0")
        .await
        .ok();
    assert_eq!(values(&page), [0, 1, 2, 3, 4]);
    let entries = service.get("/v1/audit").await.ok();
    let actions = entries["entries"].as_array().unwrap().iter();
    let actions: Vec<&str> = actions.map(|entry| entry["action"].as_str().unwrap()).collect();
    // The clock stands still, so their order is not told.
    let count = |name: &str| actions.iter().filter(|action| **action == name).count();
    assert_eq!(
        (count("backup.create"), count("backup.delete"), actions.len()),
        (2, 1, 4)
    );
}

#[tokio::test]
async fn without_a_directory_every_call_says_so() {
    let service = Service::start();
    service
        .post("/v1/backups", json!({"name": "a"}))
        .await
        .problem(501, "not-supported");
    for method in [Method::GET, Method::DELETE] {
        let answer = service.call(method, "/v1/backups/a", "").await;
        answer.problem(501, "not-supported");
    }
    service.get("/v1/backups").await.problem(501, "not-supported");
}

#[tokio::test]
async fn a_name_that_is_no_name_reaches_no_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("backups/mine")).unwrap();
    std::fs::write(dir.path().join("outside"), "x").unwrap();
    let service = service(&dir);
    let long = "x".repeat(101);
    for name in [
        "",
        ".",
        "..",
        "../outside",
        "/tmp/x",
        "a/b",
        ".hidden",
        "a b",
        "a\\b",
        "\u{e9}",
        &long,
    ] {
        service
            .post("/v1/backups", json!({"name": name}))
            .await
            .invalid("/name");
    }
    for name in ["..", "%2e%2e", "..%2foutside", "%2ftmp", ".removing-a", "a%00"] {
        for method in [Method::GET, Method::DELETE] {
            let answer = service.call(method, &format!("/v1/backups/{name}"), "").await;
            assert!([400, 404].contains(&answer.status), "{name}: {}", answer.text());
        }
    }
    for body in [
        json!({}),
        json!({"name": 7}),
        json!({"name": "a", "to": "/tmp"}),
        json!([]),
    ] {
        let answer = service.post("/v1/backups", body).await;
        answer.problem(400, "invalid-request");
    }
    assert!(dir.path().join("outside").exists());
    // What is no backup is neither overwritten nor removed.
    std::fs::write(dir.path().join("backups/mine/notes"), "x").unwrap();
    let answer = service.delete("/v1/backups/mine").await;
    assert!(answer.status >= 400, "{}", answer.text());
    let failed = service.post("/v1/backups", json!({"name": "mine"})).await;
    assert_eq!(failed.status, 202);
    let failed = ended(&service, "mine").await;
    has(&failed, json!({"state": "failed"}));
    assert!(!failed["error"].as_str().unwrap().contains('/'), "{failed}");
    assert!(dir.path().join("backups/mine/notes").exists());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_a_failed_backup_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("backups"), "a file").unwrap();
    let service = service(&dir);
    service.create_topic("orders", 1).await;
    let begun = service.post("/v1/backups", json!({"name": "a"})).await;
    // The directory is looked at before anything begins.
    assert!(begun.status >= 400, "{}", begun.text());
    produce(&service, "orders", 0..2).await;
}

#[tokio::test]
async fn what_clients_hold_from_after_the_backup_is_never_taken_for_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let old = service(&dir);
    old.create_topic("orders", 1).await;
    produce(&old, "orders", 0..10).await;
    let join = json!({"topics": ["orders"], "max_records": 2, "ack": null});
    let poll = "/v1/groups/billing/members/a/poll";
    let early = old.post(poll, &join).await.ok();
    assert_eq!(values(&early), [0, 1]);
    let acked = json!({"topics": ["orders"], "max_records": 2, "ack": early["poll_id"]});
    let before = old.post(poll, &acked).await.ok();
    let early_cursor = cursor_after(&old, 3).await;
    back_up(&old, "noon").await;

    // After the backup: records, a poll, a cursor and a cached answer.
    produce(&old, "orders", 100..110).await;
    let acked = json!({"topics": ["orders"], "max_records": 10, "ack": before["poll_id"]});
    let after = old.post(poll, &acked).await.ok();
    let cursor = cursor_after(&old, 15).await;
    let closed = "/v1/topics/orders/partitions/0/records?offset=10&until_offset=14";
    let cached = old.get(closed).await;
    assert_eq!(values(&cached.json()), [100, 101, 102, 103]);
    let tag = cached.header("etag").unwrap().to_owned();
    let old_closed = "/v1/topics/orders/partitions/0/records?offset=0&until_offset=4";
    let old_tag = old.get(old_closed).await.header("etag").unwrap().to_owned();
    let topic_id = old.get("/v1/topics/orders").await.ok()["id"].clone();
    let deduplicated = keyed(&old, "first").await;
    drop(old);

    // The restored server gives the same offsets to other records.
    let new = restored(&dir, "noon");
    produce(&new, "orders", 200..220).await;
    let expired = |answer: &Value| has(answer, json!({"retryable": false, "outcome": "none"}));
    for cursor in [&cursor, &early_cursor] {
        let streamed = new.get(&format!("/v1/topics/orders/records?from={cursor}")).await;
        expired(&streamed.problem(410, "cursor-expired"));
        let until = format!("/v1/topics/orders/records?last=2&until={cursor}");
        new.get(&until).await.problem(410, "cursor-expired");
    }
    for (uri, tag) in [(closed, &tag), (old_closed, &old_tag)] {
        let answer = new.get_with(uri, &[("if-none-match", tag)]).await;
        assert_eq!(answer.status, 200, "a tag from before a restore matches");
        assert_ne!(answer.header("etag"), Some(&**tag));
    }
    let fresh = new.get_with(closed, &[("if-none-match", &tag)]).await.json();
    assert_eq!(values(&fresh), [200, 201, 202, 203]);
    let changed = format!("/v1/topics/orders?if_id={}", topic_id.as_str().unwrap());
    new.delete(&changed).await.problem(412, "topic-changed");

    // A member's next poll is refused once; it goes on from the committed offset, which was 2 at that time.
    for poll_id in [&after["poll_id"], &before["poll_id"]] {
        let stale = json!({"topics": ["orders"], "max_records": 5, "ack": poll_id});
        let problem = new.post(poll, &stale).await.problem(410, "poll-expired");
        has(
            &problem,
            json!({"pointer": "/ack", "retryable": false, "outcome": "none"}),
        );
        let leave = format!("/v1/groups/billing/members/a?ack={}", poll_id.as_str().unwrap());
        new.delete(&leave).await.problem(410, "poll-expired");
    }
    let offsets = new.get("/v1/groups/billing/offsets").await.ok();
    assert_eq!(offsets["offsets"][0]["offset"], 2);
    let again = new
        .post(poll, json!({"topics": ["orders"], "max_records": 9, "ack": null}))
        .await
        .ok();
    assert_eq!(values(&again), [2, 3, 4, 5, 6, 7, 8, 9, 200]);
    // A key from after the backup is unknown, as its records are.
    assert_ne!(keyed(&new, "first").await, deduplicated);
}

/// The cursor of a stream that has read that many records.
async fn cursor_after(service: &Service, count: usize) -> String {
    let uri = format!("/v1/topics/orders/records?max_records={count}");
    let page = service.get_as(&uri, "application/json").await.ok();
    page["cursor"].as_str().expect("a cursor").to_owned()
}

/// The offset that a keyed request was stored at.
async fn keyed(service: &Service, key: &str) -> Value {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let body = r#"{"records":[{"value":1}]}"#;
    let answer = service
        .send(Method::POST, "/v1/topics/orders/records", &headers, body)
        .await;
    answer.ok()["offsets"][0]["offset"].clone()
}

#[tokio::test]
async fn keys_and_queues_from_before_the_backup_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let old = service(&dir);
    old.create_topic("orders", 1).await;
    let stored = keyed(&old, "k").await;
    produce(&old, "orders", 1..6).await;
    let poll = "/v1/groups/work/members/a/poll";
    let join = json!({"topics": ["orders"], "type": "shared", "max_records": 3});
    let leased = old.post(poll, &join).await.ok();
    assert_eq!(leased["records"].as_array().unwrap().len(), 3);
    let accept = json!({"accept": [{"topic": "orders", "partition": 0, "offset": 1}]});
    old.post("/v1/groups/work/members/a/settle", &accept).await.ok();
    back_up(&old, "noon").await;
    let new = restored(&dir, "noon");
    assert_eq!(keyed(&new, "k").await, stored);
    let end = new
        .get("/v1/topics/orders/partitions/0/offsets?at=latest")
        .await
        .ok();
    assert_eq!(end["offset"], 6);
    let again = new
        .post(
            poll,
            json!({"topics": ["orders"], "type": "shared", "max_records": 9}),
        )
        .await
        .ok();
    let offsets = again["records"].as_array().unwrap().iter();
    let offsets: Vec<u64> = offsets.map(|record| record["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [0, 2, 3, 4, 5]);
}

/// The value of a metric without labels; `None` if it has no row.
async fn metric(service: &Service, name: &str) -> Option<f64> {
    let text = service.get("/metrics").await;
    let value = text
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a number"))
}

#[tokio::test]
async fn the_metrics_know_the_newest_backup_over_restarts_and_count_those_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);
    let seconds = |backup: &Value| backup["started"].as_i64().unwrap() as f64 / 1e3;
    let (newest, failed) = (
        "quipu_last_backup_timestamp_seconds",
        "quipu_failed_backups_total",
    );
    assert_eq!(
        (metric(&service, newest).await, metric(&service, failed).await),
        (None, Some(0.0))
    );
    let first = back_up(&service, "a").await;
    assert_eq!(metric(&service, newest).await, Some(seconds(&first)));
    service.pass(Duration::from_secs(90));
    let second = back_up(&service, "b").await;
    assert_eq!(seconds(&second), seconds(&first) + 90.0);
    assert_eq!(metric(&service, newest).await, Some(seconds(&second)));
    // One that fails is counted, and is not the newest.
    service.pass(Duration::from_secs(90));
    let foreign = dir.path().join("backups/mine");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("notes"), "x").unwrap();
    has(&back_up(&service, "mine").await, json!({"state": "failed"}));
    let after = (metric(&service, newest).await, metric(&service, failed).await);
    assert_eq!(after, (Some(seconds(&second)), Some(1.0)));
    let service = service.restart().await;
    service.app.backups.look_back();
    let restarted = (metric(&service, newest).await, metric(&service, failed).await);
    assert_eq!(restarted, (Some(seconds(&second)), Some(0.0)));
    // Who removes backups must hear that they are missing.
    for (name, left) in [("b", Some(seconds(&first))), ("a", None)] {
        let path = format!("/v1/backups/{name}");
        assert_eq!(service.delete(&path).await.status, 204);
        assert_eq!(metric(&service, newest).await, left);
    }
}

#[test]
fn backups_may_not_lie_in_the_data_directory() {
    let load = |data: &str, backups: &str| {
        Config::load(
            None,
            [],
            &[("data", data.to_owned()), ("backup_dir", backups.to_owned())],
        )
    };
    assert!(load("/var/lib/quipu", "/backups").is_ok());
    assert!(load("/var/lib/quipu", "/var/lib/quipu-backups").is_ok());
    for inside in ["/var/lib/quipu/backups", "/var/lib/quipu"] {
        assert!(load("/var/lib/quipu", inside).is_err(), "{inside}");
    }
    assert!(load("quipu-data", "quipu-data/backups").is_err());
    assert!(!Path::new("quipu-data").exists());
}
