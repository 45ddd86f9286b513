//! Filters and settings of groups: what members get, what is acknowledged without them, and `PATCH`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{PATIENCE, Rng, Service, expect, has, refused, says};
use serde_json::{Value, json};

const GROUP: &str = "/v1/groups/billing";

/// A service with a topic `orders`.
fn still() -> Service {
    let service = Service::new();
    service.topic("orders", 1);
    service
}

/// The same, with the task that ends sessions and commits what is passed over.
fn service() -> Service {
    let service = still();
    drop(tokio::spawn(service.app.groups.clone().end_sessions()));
    service
}

/// Appends a record for each type, all in one batch.
fn append(service: &Service, partition: u32, types: &[&str]) {
    let headers: Vec<_> = types
        .iter()
        .map(|of| [(&b"type"[..], Some(of.as_bytes()))])
        .collect();
    let samples: Vec<_> = headers
        .iter()
        .map(|headers| (1, None, Some(&b"1"[..]), &headers[..]))
        .collect();
    service.append("orders", partition, true, &samples);
}

fn wanted(ack: &Value) -> Value {
    json!({"topics": ["orders"], "filter": {"header.type": ["order.*"]}, "ack": ack, "wait_ms": 0})
}

async fn poll(service: &Service, member: &str, body: Value) -> Value {
    service
        .post(&format!("{GROUP}/members/{member}/poll"), body)
        .await
        .ok()
}

fn offsets(polled: &Value) -> Vec<u64> {
    let records = polled["records"].as_array().expect("records");
    records
        .iter()
        .map(|record| record["offset"].as_u64().unwrap())
        .collect()
}

async fn committed(service: &Service, partition: usize) -> Option<u64> {
    let answer = service.get(&format!("{GROUP}/offsets")).await;
    let rows = answer.json_or_null()["offsets"].clone();
    let rows = rows.as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["partition"] == partition)?;
    row["offset"].as_u64()
}

/// Waits until so much is committed.
async fn committed_by_itself(service: &Service, partition: usize, offset: u64) {
    let wait = async {
        while committed(service, partition).await != Some(offset) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.expect("it is committed");
}

async fn lag(service: &Service) -> Value {
    service.get(&format!("{GROUP}/lag")).await.ok()
}

/// Counts how often a future is polled.
async fn counted<T>(future: impl Future<Output = T>, count: &AtomicU64) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        count.fetch_add(1, Ordering::SeqCst);
        future.as_mut().poll(context)
    })
    .await
}

#[tokio::test]
async fn a_group_gets_only_what_matches_and_its_ack_commits_what_was_looked_at() {
    let service = service();
    append(
        &service,
        0,
        &["x", "order.made", "x", "x", "order.paid", "order", "x"],
    );
    let polled = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [1, 4]);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(committed(&service, 0).await, None, "two records are in hand");
    // As many as the poll asks for, and no further.
    let mut few = wanted(&Value::Null);
    few["max_records"] = json!(1);
    let first = poll(&service, "a", few.clone()).await;
    assert_eq!(offsets(&first), [1], "the answer before was lost");
    few["ack"] = first["poll_id"].clone();
    let second = poll(&service, "a", few).await;
    assert_eq!(offsets(&second), [4]);
    assert_eq!(committed(&service, 0).await, Some(4));
    let none = poll(&service, "a", wanted(&second["poll_id"])).await;
    assert_eq!(offsets(&none), [0; 0]);
    assert_eq!(
        committed(&service, 0).await,
        Some(7),
        "the trailing records are acknowledged too"
    );
}

#[tokio::test]
async fn what_does_not_match_is_acknowledged_by_the_next_ack_or_by_itself_within_a_second() {
    let service = still();
    append(&service, 0, &["x"; 10]);
    let polled = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!((offsets(&polled), committed(&service, 0).await), (vec![], None));
    drop(tokio::spawn(service.app.groups.clone().end_sessions()));
    let started = std::time::Instant::now();
    poll(&service, "a", wanted(&polled["poll_id"])).await;
    assert_eq!(committed(&service, 0).await, Some(10));
    append(&service, 0, &["x"; 5]);
    poll(&service, "a", wanted(&Value::Null)).await;
    committed_by_itself(&service, 0, 15).await;
    // While a poll waits, too; and a record that matches ends the wait.
    append(&service, 0, &["x"; 5]);
    let mut waiting = wanted(&Value::Null);
    waiting["wait_ms"] = json!(60_000);
    let (polled, ()) = tokio::join!(poll(&service, "a", waiting), async {
        committed_by_itself(&service, 0, 20).await;
        append(&service, 0, &["x", "order.made"]);
    });
    assert_eq!(offsets(&polled), [21]);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(
        committed(&service, 0).await,
        Some(20),
        "not past a record that is in hand"
    );
}

#[tokio::test]
async fn a_waiting_poll_looks_at_what_comes_and_waits_on_without_spinning() {
    let service = Arc::new(service());
    let polls = AtomicU64::new(0);
    let mut waiting = wanted(&Value::Null);
    waiting["wait_ms"] = json!(1500);
    let busy = async {
        for _ in 0..20 {
            append(&service, 0, &["x"; 3]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (polled, ()) = tokio::join!(counted(poll(&service, "a", waiting), &polls), busy);
    assert_eq!(offsets(&polled), [0; 0]);
    let polls = polls.load(Ordering::SeqCst);
    assert!(polls < 400, "the poll was woken {polls} times");
    // On a slow machine the last records come when the poll is over.
    poll(&service, "a", wanted(&Value::Null)).await;
    has(&lag(&service).await, json!({"lag": 0}));
}

#[tokio::test]
async fn a_poll_reads_on_over_much_that_does_not_match_in_bounded_steps() {
    let service = service();
    let value = vec![b'7'; 100_000];
    for _ in 0..10 {
        let headers: &[(&[u8], Option<&[u8]>)] = &[(b"type", Some(b"x"))];
        service.append("orders", 0, true, &vec![(1, None, Some(&value[..]), headers); 10]);
    }
    append(&service, 0, &["order.made"]);
    // One that does not wait looks at a part, and answers empty: that is not the end.
    let polled = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [0; 0]);
    let after = lag(&service).await["lag"].as_u64().unwrap();
    assert!((1..101).contains(&after), "{after}");
    // One that waits reads on.
    let mut waiting = wanted(&polled["poll_id"]);
    waiting["wait_ms"] = json!(60_000);
    assert_eq!(offsets(&poll(&service, "a", waiting).await), [100]);
}

#[tokio::test]
async fn lost_answers_and_restarts_lose_nothing_that_matches() {
    let service = still();
    append(&service, 0, &["order.1", "x", "x", "order.2", "x"]);
    let first = poll(&service, "a", wanted(&Value::Null)).await;
    let again = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!((offsets(&first), offsets(&again)), (vec![0, 3], vec![0, 3]));
    let service = service.restart().await;
    // An `ack` from before the restart still commits what was looked at.
    poll(&service, "a", wanted(&again["poll_id"])).await;
    assert_eq!(committed(&service, 0).await, Some(5));
    has(
        &service.get(GROUP).await.ok()["settings"],
        json!({"filter": {"header.type": ["order.*"]}}),
    );
}

#[tokio::test]
async fn outputs_are_stored_with_an_ack_whether_what_came_before_is_committed_by_itself_or_not() {
    for service in [still(), service()] {
        service.topic("out", 1);
        append(&service, 0, &["x"; 3]);
        let mut ack = Value::Null;
        for round in 0..3 {
            let polled = poll(&service, "a", wanted(&ack)).await;
            assert_eq!(offsets(&polled), [0; 0]);
            // In the second service, what was passed over is committed meanwhile.
            tokio::time::sleep(Duration::from_millis(600)).await;
            append(&service, 0, &["x", "order.1", "x"]);
            let polled = poll(&service, "a", wanted(&polled["poll_id"])).await;
            assert_eq!(offsets(&polled).len(), 1);
            let mut body = wanted(&polled["poll_id"]);
            body["produce"] = json!([{"topic": "out", "value": round}]);
            let produced = poll(&service, "a", body.clone()).await;
            has(&produced["produced"][0], json!({"topic": "out", "offset": round}));
            has(&poll(&service, "a", body).await, json!({"replayed": true}));
            ack = produced["poll_id"].clone();
            append(&service, 0, &["x"; 3]);
        }
        let end = service.partition("orders", 0).positions().end_offset.get();
        assert_eq!(committed(&service, 0).await, Some(end - 3));
    }
}

/// Members of one group, each with the answer that it has not acknowledged.
struct Crowd {
    service: Service,
    rng: Rng,
    held: BTreeMap<&'static str, Value>,
    /// The records that somebody acknowledged, and how often.
    done: BTreeMap<(u64, u64), u32>,
    /// What was sent, and whether it matches.
    sent: BTreeMap<(u64, u64), bool>,
}

impl Crowd {
    fn send(&mut self) {
        let partition = self.rng.below(3);
        let types: Vec<&str> = (0..=self.rng.below(12))
            .map(|_| ["x", "y.z", "order.1"][self.rng.below(3) as usize])
            .collect();
        let end = |service: &Service| {
            let partition = service.partition("orders", partition as u32);
            partition.positions().end_offset.get()
        };
        let first = end(&self.service);
        append(&self.service, partition as u32, &types);
        for (offset, of) in (first..).zip(types) {
            self.sent.insert((partition, offset), of == "order.1");
        }
    }

    fn note_done(&mut self, answer: &Value) {
        for record in answer["records"].as_array().into_iter().flatten() {
            assert_eq!(record["headers"]["type"], "order.1");
            let place = |name: &str| record[name].as_u64().unwrap();
            let times = self
                .done
                .entry((place("partition"), place("offset")))
                .or_default();
            *times += 1;
        }
    }

    /// A poll that acknowledges what the member holds, unless that answer is lost.
    async fn poll(&mut self, member: &'static str, is_lost: bool) {
        let held = self.held.remove(member).filter(|_| !is_lost);
        let mut body = wanted(&held.as_ref().map_or(Value::Null, |held| held["poll_id"].clone()));
        body["max_records"] = json!(1 + self.rng.below(6));
        body["max_bytes"] = json!([20, 50, 1 << 20][self.rng.below(3) as usize]);
        let answer = poll(&self.service, member, body).await;
        assert_eq!(answer.get("lost"), None);
        if let Some(held) = held {
            self.note_done(&held);
        }
        self.held.insert(member, answer);
    }
}

#[tokio::test]
async fn every_record_that_matches_is_done_and_nothing_else_is_ever_delivered() {
    let service = Service::new();
    service.topic("orders", 3);
    drop(tokio::spawn(service.app.groups.clone().end_sessions()));
    let mut crowd = Crowd {
        service,
        rng: Rng::from_environment("filters"),
        held: BTreeMap::new(),
        done: BTreeMap::new(),
        sent: BTreeMap::new(),
    };
    let mut is_clean = true;
    for _ in 0..200 {
        let member = ["a", "b", "c"][crowd.rng.below(3) as usize];
        match crowd.rng.below(40) {
            0..12 => crowd.send(),
            12..37 => crowd.poll(member, false).await,
            37 => crowd.poll(member, true).await,
            38 => tokio::time::sleep(Duration::from_millis(crowd.rng.below(60))).await,
            _ => {
                if let Some(held) = crowd.held.remove(member) {
                    let acks = crowd.rng.below(2) == 0;
                    let path = format!("{GROUP}/members/{member}");
                    let ack = held["poll_id"].as_str().unwrap();
                    let path = if acks { format!("{path}?ack={ack}") } else { path };
                    crowd.service.delete(&path).await.with_status(204);
                    if acks {
                        crowd.note_done(&held);
                    }
                    is_clean &= acks;
                }
            }
        }
    }
    let matching = crowd.sent.iter().filter(|(_, matches)| **matches);
    let expected: Vec<(u64, u64)> = matching.map(|(place, _)| *place).collect();
    for _ in 0..500 {
        for member in ["a", "b", "c"] {
            crowd.poll(member, false).await;
        }
        if crowd.done.len() == expected.len() {
            break;
        }
    }
    let done: Vec<(u64, u64)> = crowd.done.keys().copied().collect();
    assert_eq!(done, expected);
    // Lost answers were not worked on, so no record is done twice.
    assert!(!is_clean || crowd.done.values().all(|times| *times == 1));
    for index in 0..3 {
        let end = crowd
            .service
            .partition("orders", index)
            .positions()
            .end_offset
            .get();
        if end > 0 {
            committed_by_itself(&crowd.service, index as usize, end).await;
        }
    }
    has(&lag(&crowd.service).await, json!({"lag": 0}));
}

#[tokio::test]
async fn another_member_looks_again_at_what_is_not_committed_and_gets_what_was_in_hand() {
    let service = service();
    append(&service, 0, &["x", "x", "order.1", "x"]);
    let polled = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [2]);
    service
        .delete(&format!("{GROUP}/members/a"))
        .await
        .with_status(204);
    let polled = poll(&service, "b", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [2]);
    let path = format!("{GROUP}/members/b?ack={}", polled["poll_id"].as_str().unwrap());
    service.delete(&path).await.with_status(204);
    assert_eq!(committed(&service, 0).await, Some(4));
    // After a reset the members get it again.
    let reset = json!({"topic": "orders", "to": "earliest"});
    service.post(&format!("{GROUP}/offsets/reset"), reset).await.ok();
    let polled = poll(&service, "b", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [2]);
}

#[tokio::test]
async fn what_does_not_match_is_not_in_the_lag_as_far_as_the_server_has_looked() {
    let service = service();
    service
        .post(&format!("{GROUP}/members"), wanted(&Value::Null))
        .await
        .invalid("/ack");
    let join = json!({"topics": ["orders"], "member_id": "a", "filter": {"header.type": ["order.*"]}});
    service.post(&format!("{GROUP}/members"), join).await.created();
    append(&service, 0, &["x", "order.1", "x", "x", "order.2", "x"]);
    has(&lag(&service).await, json!({"lag": 6}));
    let polled = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [1, 4]);
    let found = lag(&service).await;
    has(&found, json!({"lag": 2}));
    let age = found["lag_ms"].as_u64().unwrap();
    assert!(age > 1_000_000, "of the first record in hand: {age}");
    append(&service, 0, &["x", "x"]);
    has(&lag(&service).await, json!({"lag": 4}));
    // A commit of the first one alone.
    let epoch = &polled["epoch"];
    let one = json!({"epoch": epoch, "offsets": [{"topic": "orders", "partition": 0, "offset": 2}]});
    service.post(&format!("{GROUP}/members/a/commit"), one).await.ok();
    has(&lag(&service).await, json!({"lag": 3}));
    poll(&service, "a", wanted(&polled["poll_id"])).await;
    has(
        &lag(&service).await,
        json!({"lag": 0, "lag_ms": 0, "lag_bytes": 0}),
    );
}

#[tokio::test]
async fn patterns_of_topics_and_deleted_topics_go_on_with_a_filter() {
    let service = Service::new();
    service.topic("orders", 1);
    let body = |ack: &Value| json!({"topics": ["ord*", "or.#"], "filter": {"header.type": ["order.*"]}, "ack": ack, "wait_ms": 0});
    service
        .post(&format!("{GROUP}/members/a/poll"), body(&Value::Null))
        .await
        .invalid("/topics/0");
    let body = |ack: &Value| json!({"topics": ["#"], "filter": {"header.type": ["order.*"]}, "ack": ack, "wait_ms": 0});
    append(&service, 0, &["order.1", "x"]);
    let polled = poll(&service, "a", body(&Value::Null)).await;
    assert_eq!(offsets(&polled), [0]);
    service.create_topic("or.new", 1).await;
    let headers: &[(&[u8], Option<&[u8]>)] = &[(b"type", Some(b"order.2"))];
    service.append(
        "or.new",
        0,
        true,
        &[(1, None, Some(b"1"), &[]), (1, None, Some(b"1"), headers)],
    );
    service.delete("/v1/topics/orders").await.with_status(204);
    let polled = poll(&service, "a", body(&polled["poll_id"])).await;
    let record = &polled["records"][0];
    has(record, json!({"topic": "or.new", "offset": 1}));
    has(&lag(&service).await, json!({"lag": 1}));
}

#[tokio::test]
async fn a_filter_must_be_one_and_be_the_same_at_every_join() {
    let service = service();
    let path = format!("{GROUP}/members");
    let many: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    for (filter, pointer) in [
        (json!({}), "/filter"),
        (json!([]), "/filter"),
        (json!({"kye": ["a"]}), "/filter/kye"),
        (json!({"header.": ["a"]}), "/filter/header."),
        (json!({"key": []}), "/filter/key"),
        (json!({"key": "a"}), "/filter/key"),
        (json!({"key": ["a", 7]}), "/filter/key/1"),
        (json!({"header.type": ["a", "or*"]}), "/filter/header.type/1"),
        (json!({"header.a/b": ["a.#b"]}), "/filter/header.a~1b/0"),
        (json!({"key": many}), "/filter/key/100"),
        (json!({"key": ["n".repeat(20_000)]}), "/filter"),
    ] {
        let body = json!({"topics": ["orders"], "member_id": "a", "filter": filter});
        service.post(&path, &body).await.invalid(pointer);
        service
            .post(&format!("{path}/a/poll"), {
                let mut body = body.clone();
                body["wait_ms"] = json!(0);
                body
            })
            .await
            .invalid(pointer);
        let shared = json!({"topics": ["orders"], "type": "shared", "filter": filter});
        service.post(&path, shared).await.invalid(pointer);
    }
    let twice = r#"{"topics":["orders"],"filter":{"key":["a"],"key":["b"]}}"#;
    let answer = service.call(http::Method::POST, &path, twice).await;
    says(&answer.invalid("/filter"), "given twice");
    let alone = json!({"filter": {"key": ["a"]}, "wait_ms": 0});
    service
        .post(&format!("{path}/a/poll"), alone)
        .await
        .invalid("/filter");
    let order = json!({"topics": ["orders"], "order": "key"});
    service.post(&path, order).await.invalid("/order");
    let order = json!({"topics": ["orders"], "type": "shared", "order": "kye"});
    service.post(&path, order).await.invalid("/order");
    service.get(GROUP).await.problem(404, "unknown-group");

    for (kind, group) in [("ordered", "one"), ("shared", "two")] {
        let path = format!("/v1/groups/{group}/members");
        let join =
            |filter: Value| json!({"topics": ["orders"], "type": kind, "member_id": "m", "filter": filter});
        let filter = json!({"key": ["c7", "b"], "header.type": ["order.*"]});
        service.post(&path, join(filter)).await.created();
        let sorted = json!({"key": ["b", "c7", "b"], "header.type": ["order.*"]});
        service.post(&path, join(sorted.clone())).await.created();
        let left_out = json!({"topics": ["orders"], "type": kind, "member_id": "m"});
        service.post(&path, left_out).await.created();
        let other = service.post(&path, join(json!({"key": ["c7"]}))).await;
        says(&other.problem(409, "group-settings-differ"), "order.*");
        let settings = &service.get(&format!("/v1/groups/{group}")).await.ok()["settings"];
        has(
            settings,
            json!({"filter": {"key": ["b", "c7"], "header.type": ["order.*"]}}),
        );
    }
    let plain = json!({"topics": ["orders"], "member_id": "m"});
    service.post("/v1/groups/plain/members", &plain).await.created();
    let settings = &service.get("/v1/groups/plain").await.ok()["settings"];
    assert_eq!(*settings, json!({"filter": null}));
    let filtered = json!({"topics": ["orders"], "member_id": "m", "filter": {"key": ["a"]}});
    refused(
        service.post("/v1/groups/plain/members", filtered),
        409,
        "group-settings-differ",
    )
    .await;
}

#[tokio::test]
async fn settings_of_a_queue_change_for_its_members_and_are_durable() {
    let service = still();
    append(&service, 0, &["order.1", "order.2"]);
    let join = json!({"topics": ["orders"], "type": "shared", "member_id": "a"});
    service.post(&format!("{GROUP}/members"), join).await.created();
    let body = json!({"lease_ms": 500_000, "max_deliveries": 1, "dead_letter_topic": "dead",
        "filter": {"header.type": ["order.#"]}});
    let group = service.patch(GROUP, body).await.ok();
    let settings = json!({"lease_ms": 500_000, "max_deliveries": 1, "dead_letter_topic": "dead", "order": null,
        "filter": {"header.type": ["order.#"]}});
    assert_eq!(group["settings"], settings);
    has(
        &group,
        json!({"group": "billing", "type": "shared", "state": "stable"}),
    );
    // The member that was there already gets leases of the new length, and one delivery.
    let before = service.app.clock.now().get();
    let polled = poll(&service, "a", json!({"max_records": 1, "wait_ms": 0})).await;
    let expires = polled["records"][0]["lease_expires"].as_i64().unwrap();
    assert!(expires - before >= 500_000, "{expires} {before}");
    let place = json!([{"topic": "orders", "partition": 0, "offset": 0}]);
    let release = json!({"release": place});
    service
        .post(&format!("{GROUP}/members/a/settle"), release)
        .await
        .ok();
    let polled = poll(&service, "a", json!({"max_records": 10, "wait_ms": 0})).await;
    assert_eq!(offsets(&polled), [1], "the other one is out of deliveries");
    let dead = async {
        loop {
            let topics = service.get("/v1/topics/dead").await;
            if topics.status == 200 && topics.json()["partitions"][0]["end_offset"] == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, dead).await;
    found.expect("it goes to the new dead letter topic");

    let service = service.restart().await;
    assert_eq!(service.get(GROUP).await.ok()["settings"], settings);
    let null = json!({"lease_ms": null, "max_deliveries": null, "dead_letter_topic": null, "filter": null});
    let group = service.patch(GROUP, null).await.ok();
    let defaults = json!({"lease_ms": 30_000, "max_deliveries": 5, "dead_letter_topic": null, "order": null,
        "filter": null});
    assert_eq!(group["settings"], defaults);
    assert_eq!(service.patch(GROUP, json!({})).await.ok()["settings"], defaults);
    let join = json!({"topics": ["orders"], "type": "shared", "lease_ms": 500_000});
    refused(
        service.post(&format!("{GROUP}/members"), join),
        409,
        "group-settings-differ",
    )
    .await;
}

#[tokio::test]
async fn changes_of_settings_that_cannot_be_are_refused_and_change_nothing() {
    let service = service();
    let members = format!("{GROUP}/members");
    let join = json!({"topics": ["orders"], "type": "shared", "member_id": "a", "lease_ms": 1000});
    service.post(&members, join).await.created();
    for (body, pointer) in [
        (json!({"lease_ms": 99}), "/lease_ms"),
        (json!({"lease_ms": "1s"}), "/lease_ms"),
        (json!({"max_deliveries": 0}), "/max_deliveries"),
        (json!({"dead_letter_topic": "orders"}), "/dead_letter_topic"),
        (json!({"dead_letter_topic": "a b"}), "/dead_letter_topic"),
        (json!({"order": "none"}), "/order"),
        (json!({"filter": {"key": []}}), "/filter/key"),
        (json!({"lease_ms": 5000, "filter": {}}), "/filter"),
        (json!({"type": "ordered"}), "/type"),
        (json!({"leases_ms": 5000}), "/leases_ms"),
    ] {
        service.patch(GROUP, body).await.invalid(pointer);
    }
    refused(service.patch(GROUP, json!({"order": "key"})), 409, "group-active").await;
    refused(service.patch("/v1/groups/none", json!({})), 404, "unknown-group").await;
    expect(service.patch(&format!("{GROUP}?x=1"), json!({})), 400).await;
    let settings = &service.get(GROUP).await.ok()["settings"];
    has(settings, json!({"lease_ms": 1000, "order": null}));
    // Without members the order changes; asking for the present one is no change.
    service.delete(&format!("{members}/a")).await.with_status(204);
    let group = service.patch(GROUP, json!({"order": "key"})).await.ok();
    assert_eq!(group["settings"]["order"], "key");
    let join = json!({"topics": ["orders"], "type": "shared", "member_id": "a", "order": "key"});
    service.post(&members, join).await.created();
    service
        .patch(GROUP, json!({"order": "key", "lease_ms": 2000}))
        .await
        .ok();

    let plain = json!({"topics": ["orders"], "member_id": "m"});
    service.post("/v1/groups/plain/members", plain).await.created();
    for body in [
        json!({"lease_ms": 1000}),
        json!({"max_deliveries": 1}),
        json!({"dead_letter_topic": null}),
        json!({"order": "key"}),
    ] {
        refused(
            service.patch("/v1/groups/plain", body),
            409,
            "group-type-mismatch",
        )
        .await;
    }
}

#[tokio::test]
async fn a_new_filter_holds_for_members_at_once_and_what_was_passed_over_stays_so() {
    let service = service();
    append(&service, 0, &["invoice.1", "order.1"]);
    let polled = poll(&service, "a", wanted(&Value::Null)).await;
    assert_eq!(offsets(&polled), [1]);
    let to = |filter: Value| json!({ "filter": filter });
    let invoices = json!({"header.type": ["invoice.*"]});
    let group = service.patch(GROUP, to(invoices.clone())).await.ok();
    assert_eq!(group["settings"]["filter"], invoices);
    // A poll that names the earlier filter is refused; one without it goes on, and a waiting one follows a change.
    let ack = &polled["poll_id"];
    let path = format!("{GROUP}/members/a/poll");
    let old = service.post(&path, wanted(ack));
    refused(old, 409, "group-settings-differ").await;
    let body = json!({"topics": ["orders"], "ack": ack, "wait_ms": 60_000});
    let (polled, ()) = tokio::join!(poll(&service, "a", body), async {
        append(&service, 0, &["order.2", "invoice.2"]);
    });
    assert_eq!(offsets(&polled), [3]);
    let body = json!({"topics": ["orders"], "ack": polled["poll_id"], "wait_ms": 60_000});
    let (polled, ()) = tokio::join!(poll(&service, "a", body), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        service.patch(GROUP, to(Value::Null)).await.ok();
        append(&service, 0, &["x"]);
    });
    assert_eq!(offsets(&polled), [4]);
    let group = service.get(GROUP).await.ok();
    assert_eq!(group["settings"], json!({"filter": null}));
}

#[tokio::test]
async fn a_dead_letter_topic_that_is_named_later_is_not_matched_by_patterns() {
    let service = service();
    let queue = json!({"topics": ["orders"], "type": "shared", "member_id": "q"});
    service.post("/v1/groups/queue/members", queue).await.created();
    service
        .patch("/v1/groups/queue", json!({"dead_letter_topic": "failed"}))
        .await
        .ok();
    service.topic("failed", 1);
    let all = json!({"topics": ["#"], "wait_ms": 0});
    let assigned = |polled: &Value| {
        let rows = polled["assignment"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| row["topic"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(assigned(&poll(&service, "a", all.clone()).await), ["orders"]);
    service
        .patch("/v1/groups/queue", json!({"dead_letter_topic": null}))
        .await
        .ok();
    assert_eq!(
        assigned(&poll(&service, "a", all.clone()).await),
        ["failed", "orders"]
    );
    service
        .patch("/v1/groups/queue", json!({"dead_letter_topic": "failed"}))
        .await
        .ok();
    assert_eq!(assigned(&poll(&service, "a", all).await), ["orders"]);
}

/// Reads everything; returns the bytes of the answers, and how many there were.
async fn read_all(service: &Service, group: &str, filter: Value) -> (usize, usize, u64) {
    let (mut bytes, mut answers, mut records) = (0, 0, 0);
    let mut ack = Value::Null;
    loop {
        let mut body = json!({"topics": ["orders"], "ack": ack, "wait_ms": 0});
        if !filter.is_null() {
            body["filter"] = filter.clone();
        }
        let answer = service
            .post(&format!("/v1/groups/{group}/members/m/poll"), body)
            .await;
        (bytes, answers) = (bytes + answer.body.len(), answers + 1);
        let polled = answer.ok();
        let count = polled["records"].as_array().unwrap().len() as u64;
        records += count;
        let lag = service.get(&format!("/v1/groups/{group}/lag")).await.ok();
        if count == 0 && lag["lag"] == 0 {
            return (bytes, answers, records);
        }
        ack = polled["poll_id"].clone();
    }
}

#[tokio::test]
async fn a_subscriber_of_one_type_in_fifty_costs_a_fiftieth_of_the_network() {
    let service = service();
    let value = format!("\"{}\"", "v".repeat(198));
    let types: Vec<String> = (0..50).map(|of| format!("type.{of}")).collect();
    for _ in 0..100 {
        let headers = types.iter().map(|of| [(&b"type"[..], Some(of.as_bytes()))]);
        let headers: Vec<_> = headers.collect();
        let sample = |at: usize| (1, None, Some(value.as_bytes()), &headers[at % 50][..]);
        let samples: Vec<_> = (0..100).map(sample).collect();
        service.append("orders", 0, true, &samples);
    }
    let (all, all_answers, everything) = read_all(&service, "all", Value::Null).await;
    let filter = json!({"header.type": ["type.7"]});
    let (some, some_answers, matching) = read_all(&service, "some", filter).await;
    println!("without a filter: {everything} records, {all} bytes in {all_answers} answers");
    println!("one type in 50:   {matching} records, {some} bytes in {some_answers} answers");
    assert_eq!((everything, matching), (10_000, 200));
    assert!(some * 40 < all, "{some} of {all} bytes");
}
