//! Shared groups through the API: work queues with leases, retries and dead letters.

use std::time::Duration;

use crate::support::{NOW, Service, expect, has, refused};
use serde_json::{Value, json};

const MEMBERS: &str = "/v1/groups/workers/members";
const NONE: [u64; 0] = [];

async fn jobs(partitions: u32, records: u64) -> Service {
    let service = Service::start();
    service.create_topic("jobs", partitions).await;
    for index in 0..partitions {
        if records > 0 {
            service.append_numbers("jobs", index, 0, records);
        }
    }
    service
}

fn join(name: &str, settings: Value) -> Value {
    let mut body = json!({"topics": ["jobs"], "type": "shared", "member_id": name});
    for (key, value) in settings.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

async fn enter(service: &Service, name: &str, settings: Value) -> Value {
    service.post(MEMBERS, join(name, settings)).await.created()
}

async fn poll(service: &Service, member: &str, ack: &Value, most: u64) -> Value {
    let body = json!({"ack": ack, "max_records": most, "wait_ms": 0});
    let path = format!("/v1/groups/workers/members/{member}/poll");
    service.post(&path, body).await.ok()
}

/// A poll that waits until something comes, or until the time has passed: the clock moves while it waits.
async fn poll_while_time_passes(service: &Service, member: &str, ack: &Value, time: Duration) -> Value {
    let path = format!("/v1/groups/workers/members/{member}/poll");
    let poll = service.post(&path, json!({"ack": ack, "wait_ms": 60_000}));
    let (answer, ()) = tokio::join!(poll, service.pass_in_poll("workers", member, time));
    answer.ok()
}

/// The offsets in a list of records, or of places.
fn offsets_in(rows: &Value) -> Vec<u64> {
    let rows = rows.as_array().expect("a list").iter();
    rows.map(|row| row["offset"].as_u64().unwrap()).collect()
}

fn offsets(polled: &Value) -> Vec<u64> {
    offsets_in(&polled["records"])
}

fn places(offsets: &[u64]) -> Value {
    offsets
        .iter()
        .map(|offset| json!({"topic": "jobs", "partition": 0, "offset": offset}))
        .collect()
}

async fn settle(service: &Service, member: &str, body: Value) -> Vec<u64> {
    let path = format!("/v1/groups/workers/members/{member}/settle");
    offsets_in(&service.post(&path, body).await.ok()["lost"])
}

/// Settles records that the member has all leased.
async fn settle_all(service: &Service, member: &str, body: Value) {
    assert_eq!(settle(service, member, body).await, NONE);
}

async fn committed(service: &Service) -> Option<u64> {
    let offsets = service.get("/v1/groups/workers/offsets").await.json();
    offsets["offsets"][0]["offset"].as_u64()
}

async fn fetch(service: &Service, topic: &str) -> Vec<Value> {
    let uri = format!("/v1/topics/{topic}/partitions/0/records?offset=earliest");
    let page = service.get(&uri).await;
    page.ok()["records"].as_array().expect("records").clone()
}

#[tokio::test]
async fn more_members_than_partitions_share_the_work_and_no_record_is_two_members_at_once() {
    let service = jobs(1, 9).await;
    for name in ["a", "b", "c"] {
        let joined = enter(&service, name, json!({})).await;
        assert_eq!(joined["assignment"], json!([]));
    }
    let a = poll(&service, "a", &Value::Null, 3).await;
    let b = poll(&service, "b", &Value::Null, 3).await;
    let c = poll(&service, "c", &Value::Null, 100).await;
    let found = [offsets(&a), offsets(&b), offsets(&c)];
    assert_eq!(found, [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7, 8]]);
    assert_eq!(a["records"][0]["delivery_count"], 1);
    assert!(a["records"][0]["lease_expires"].as_i64().unwrap() > 1_600_000_000_000);
    let group = service.get("/v1/groups/workers").await.json();
    has(&group, json!({"type": "shared", "state": "stable"}));
    assert_eq!(group["members"].as_array().unwrap().len(), 3);
    // Polls are acknowledged in any order; the committed offset is that of the oldest unsettled record.
    assert_eq!(offsets(&poll(&service, "b", &b["poll_id"], 3).await), NONE);
    assert_eq!(committed(&service).await, Some(0));
    poll(&service, "a", &a["poll_id"], 3).await;
    assert_eq!(committed(&service).await, Some(6));
    poll(&service, "c", &c["poll_id"], 3).await;
    assert_eq!(committed(&service).await, Some(9));
    let lag = service.get("/v1/groups/workers/lag").await.json();
    assert_eq!(lag["lag"], 0);
}

#[tokio::test]
async fn an_accepted_record_is_not_delivered_again_after_a_restart_and_a_leased_one_is() {
    let service = jobs(1, 6).await;
    enter(&service, "a", json!({})).await;
    let polled = poll(&service, "a", &Value::Null, 5).await;
    let lost = settle(&service, "a", json!({"accept": places(&[1, 3, 6])})).await;
    assert_eq!(lost, [6], "there is no such record");
    let path = "/v1/groups/workers/members/a/settle";
    let answer = service.post(path, json!({"accept": places(&[1])})).await.ok();
    assert_eq!(answer, json!({"lost": [], "settled": places(&[1])}));
    let service = service.restart().await;
    let path = "/v1/groups/workers/members/a/poll";
    refused(service.post(path, json!({"wait_ms": 0})), 404, "unknown-member").await;
    let body = json!({"topics": ["jobs"], "type": "shared", "wait_ms": 0});
    let again = service.post(path, body).await.ok();
    assert_eq!(offsets(&again), [0, 2, 4, 5]);
    // The acknowledgement of a poll from before the restart counts for what nobody else holds.
    let body = json!({"topics": ["jobs"], "type": "shared", "member_id": "b"});
    expect(service.post(MEMBERS, body), 201).await;
    let service = service.restart().await;
    enter(&service, "b", json!({})).await;
    assert_eq!(offsets(&poll(&service, "b", &Value::Null, 2).await), [0, 2]);
    let body = json!({"topics": ["jobs"], "type": "shared", "ack": polled["poll_id"], "wait_ms": 0});
    let late = service.post(path, body).await.ok();
    assert_eq!(late["lost"], places(&[0, 2]));
    assert_eq!(late["settled"], places(&[1, 3]));
    assert_eq!(offsets(&late), [5]);
}

#[tokio::test]
async fn what_a_member_has_released_its_acknowledgement_never_accepts() {
    for (restarts, counts) in [(false, true), (false, false), (true, true), (true, false)] {
        let service = jobs(1, 3).await;
        enter(&service, "a", json!({})).await;
        let polled = poll(&service, "a", &Value::Null, 3).await;
        let mut released = places(&[1])[0].clone();
        (released["delay_ms"], released["count"]) = (json!(0), json!(counts));
        settle_all(&service, "a", json!({"release": [released]})).await;
        let service = if restarts {
            service.restart().await
        } else {
            service
        };
        let path = "/v1/groups/workers/members/a/poll";
        let body = json!({"topics": ["jobs"], "type": "shared", "ack": polled["poll_id"], "wait_ms": 0});
        let next = service.post(path, body).await.ok();
        // Who released it is forgotten in a restart: then the answer says that the acknowledgement does not count for it.
        let lost = if restarts { places(&[1]) } else { Value::Null };
        assert_eq!(
            (offsets(&next), &next["lost"]),
            (vec![1], &lost),
            "restarts: {restarts}"
        );
        assert_eq!(next["records"][0]["delivery_count"], 1 + u64::from(counts));
    }
}

#[tokio::test]
async fn an_acknowledgement_counts_although_another_member_released_the_record_or_says_that_it_does_not() {
    let service = jobs(1, 2).await;
    enter(&service, "a", json!({})).await;
    let polled = poll(&service, "a", &Value::Null, 2).await;
    expect(service.delete(&format!("{MEMBERS}/a")), 204).await;
    settle_all(&service, "b", json!({"release": places(&[0])})).await;
    enter(&service, "a", json!({})).await;
    let next = poll(&service, "a", &polled["poll_id"], 2).await;
    assert_eq!((offsets(&next), &next["lost"]), (vec![0], &places(&[0])));
}

#[tokio::test]
async fn a_member_that_leaves_with_an_ack_accepts_what_it_had_and_without_one_gives_it_back() {
    let service = jobs(1, 6).await;
    for name in ["a", "b", "c"] {
        enter(&service, name, json!({})).await;
    }
    let a = poll(&service, "a", &Value::Null, 3).await;
    let b = poll(&service, "b", &Value::Null, 3).await;
    settle_all(&service, "a", json!({"release": places(&[1])})).await;
    let path = format!("{MEMBERS}/a?ack={}", a["poll_id"].as_str().unwrap());
    service.delete(&path).await.with_status(204);
    expect(service.delete("/v1/groups/workers/members/b"), 204).await;
    assert_eq!(offsets(&b), [3, 4, 5]);
    let left = poll(&service, "c", &Value::Null, 10).await;
    assert_eq!(offsets(&left), [1, 3, 4, 5]);
    assert_eq!(committed(&service).await, Some(1));
}

#[tokio::test]
async fn released_records_come_again_and_poison_goes_to_the_dead_letters_without_blocking_others() {
    let service = jobs(1, 3).await;
    enter(&service, "a", json!({"max_deliveries": 2})).await;
    poll(&service, "a", &Value::Null, 10).await;
    let body = json!({"release": places(&[1]), "accept": places(&[0, 2])});
    settle_all(&service, "a", body).await;
    let again = poll(&service, "a", &Value::Null, 10).await;
    assert_eq!(offsets(&again), [1]);
    assert_eq!(again["records"][0]["delivery_count"], 2);
    service.append_numbers("jobs", 0, 3, 1);
    settle_all(&service, "a", json!({"release": places(&[1])})).await;
    let others = poll(&service, "a", &Value::Null, 10).await;
    // The other record's second delivery was its last.
    assert_eq!(offsets(&others), [3]);
    while committed(&service).await != Some(3) {
        tokio::task::yield_now().await;
    }
    let dead = fetch(&service, "jobs.dlq").await;
    assert_eq!(dead.len(), 1);
    let expected = json!({"dlq_topic": "jobs", "dlq_offset": "1", "dlq_group": "workers",
        "dlq_deliveries": "2"});
    has(&dead[0]["headers"], expected);
    assert_eq!(dead[0]["value"], fetch(&service, "jobs").await[1]["value"]);
}

#[tokio::test]
async fn rejected_records_are_dead_letters_with_their_reason_and_go_back_once() {
    let service = jobs(1, 4).await;
    enter(&service, "a", json!({"dead_letter_topic": "graveyard"})).await;
    poll(&service, "a", &Value::Null, 10).await;
    let reject = json!([{"topic": "jobs", "partition": 0, "offset": 2, "reason": "no such customer"},
        {"topic": "jobs", "partition": 0, "offset": 9}]);
    let body = json!({"reject": reject, "accept": places(&[0, 1, 3])});
    let found = settle(&service, "a", body).await;
    assert_eq!(found, [9]);
    let dead = fetch(&service, "graveyard").await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["headers"]["dlq_reason"], json!("no such customer"));
    assert_eq!(committed(&service).await, Some(4));
    let call = json!({"dead_letter_topic": "graveyard"});
    let reply = service.post("/v1/groups/workers/redrive", call.clone()).await;
    let answer = reply.ok();
    has(&answer, json!({"redriven": 1, "at_end": true}));
    let answer = service.post("/v1/groups/workers/redrive", call).await.ok();
    assert_eq!(answer["redriven"], 0, "nothing twice");
    let back = poll(&service, "a", &Value::Null, 10).await;
    assert_eq!(offsets(&back), [2]);
    let expected =
        json!({"topic": "jobs", "partition": 0, "headers": {}, "delivery_count": 1, "redriven": 1});
    has(&back["records"][0], expected);
    assert_eq!(
        committed(&service).await,
        Some(4),
        "a redrive lowers no committed offset"
    );
    has(&group_lag(&service).await, json!({"lag": 1, "leased": 1}));
    settle_all(&service, "a", json!({"accept": places(&[2])})).await;
    assert_eq!(
        fetch(&service, "jobs").await.len(),
        4,
        "nobody else sees it again"
    );
}

#[tokio::test]
async fn a_lease_that_runs_out_counts_and_its_record_goes_to_another_member() {
    let service = jobs(1, 1).await;
    let ending = tokio::spawn(service.app.groups.clone().end_sessions());
    for name in ["a", "b"] {
        enter(&service, name, json!({"lease_ms": 100, "max_deliveries": 3})).await;
    }
    let of_a = poll(&service, "a", &Value::Null, 10).await;
    assert_eq!(offsets(&of_a), [0]);
    // The poll waits until the lease ends.
    let of_b = poll_while_time_passes(&service, "b", &Value::Null, Duration::from_millis(100)).await;
    assert_eq!(offsets(&of_b), [0]);
    assert_eq!(of_b["records"][0]["delivery_count"], 2);
    let body = json!({"accept": places(&[0]), "extend": places(&[0])});
    let found = settle(&service, "a", body).await;
    assert_eq!(found, [0]);
    settle_all(&service, "b", json!({"extend": places(&[0])})).await;
    // A member that leaves gives back its records, and its lease does not count; the third delivery is the last.
    expect(service.delete("/v1/groups/workers/members/b"), 204).await;
    let again = poll(&service, "a", &Value::Null, 10).await;
    assert_eq!(again["records"][0]["delivery_count"], 2);
    for _ in 0..2 {
        settle_all(&service, "a", json!({"release": places(&[0])})).await;
        poll(&service, "a", &Value::Null, 10).await;
    }
    let dead = "/v1/topics/jobs.dlq/partitions/0/records?offset=earliest";
    while service.get(dead).await.status != 200 || committed(&service).await != Some(1) {
        tokio::task::yield_now().await;
    }
    let dead = fetch(&service, "jobs.dlq").await;
    assert_eq!(dead[0]["headers"]["dlq_deliveries"], "3");
    service.app.stopping.send_replace(true);
    ending.await.unwrap();
}

#[tokio::test]
async fn a_delayed_release_waits_and_a_lost_answer_comes_back_when_its_leases_end() {
    let service = jobs(1, 2).await;
    enter(&service, "a", json!({"lease_ms": 150})).await;
    poll(&service, "a", &Value::Null, 1).await;
    let release = json!([{"topic": "jobs", "partition": 0, "offset": 0, "delay_ms": 86_400_000}]);
    settle_all(&service, "a", json!({"release": release})).await;
    // Record 0 is delayed, so this poll leases record 1; its answer counts as lost.
    assert_eq!(offsets(&poll(&service, "a", &Value::Null, 10).await), [1]);
    // No record is leased twice at once.
    assert_eq!(offsets(&poll(&service, "a", &Value::Null, 10).await), NONE);
    let again = poll_while_time_passes(&service, "a", &Value::Null, Duration::from_millis(150)).await;
    assert_eq!(offsets(&again), [1]);
    assert_eq!(again["records"][0]["delivery_count"], 2);
}

#[tokio::test]
async fn groups_keep_their_type_and_settings() {
    let service = jobs(1, 1).await;
    let path = MEMBERS;
    for (settings, pointer) in [
        (json!({"lease_ms": 1}), "/lease_ms"),
        (json!({"max_deliveries": 0}), "/max_deliveries"),
        (json!({"dead_letter_topic": "jobs"}), "/dead_letter_topic"),
        (json!({"type": "ordered", "lease_ms": 1000}), "/lease_ms"),
    ] {
        service.post(path, join("a", settings)).await.invalid(pointer);
    }
    expect(service.post(path, join("a", json!({"lease_ms": 1000}))), 201).await;
    expect(service.post(path, join("b", json!({"lease_ms": 1000}))), 201).await;
    service.post(path, join("c", json!({}))).await.with_status(201);
    let body = json!({"topics": ["jobs"], "member_id": "a"});
    expect(service.post("/v1/groups/plain/members", body), 201).await;
    let to_x = json!({"dead_letter_topic": "x"});
    let other = join("d", json!({"lease_ms": 2000}));
    let (ordered, typo) = (json!({"topics": ["jobs"]}), json!({"accepted": []}));
    for (path, body, status, code) in [
        ("workers/members", other, 409, "group-settings-differ"),
        ("workers/members", ordered, 409, "group-type-mismatch"),
        ("plain/members", join("b", json!({})), 409, "group-type-mismatch"),
        ("plain/members/a/settle", json!({}), 409, "group-type-mismatch"),
        ("plain/redrive", to_x.clone(), 409, "group-type-mismatch"),
        ("none/redrive", to_x.clone(), 404, "unknown-group"),
        ("workers/redrive", to_x, 404, "unknown-topic"),
        ("workers/members/a/settle", typo, 400, "invalid-request"),
    ] {
        let answer = service.post(&format!("/v1/groups/{path}"), body).await;
        answer.problem(status, code);
    }
}

#[tokio::test]
async fn members_are_given_records_of_the_topics_that_they_subscribe_to() {
    let service = jobs(1, 3).await;
    service.create_topic("mail", 1).await;
    service.append_numbers("mail", 0, 0, 3);
    for (name, topic) in [("a", "jobs"), ("b", "mail")] {
        let body = json!({"topics": [topic], "type": "shared", "member_id": name});
        service.post(MEMBERS, body).await.with_status(201);
        let polled = poll(&service, name, &Value::Null, 100).await;
        assert_eq!(offsets(&polled), [0, 1, 2]);
        let mut records = polled["records"].as_array().unwrap().iter();
        assert!(records.all(|record| record["topic"] == topic));
    }
}

#[tokio::test]
async fn what_a_member_has_leased_stays_its_own_when_it_subscribes_to_something_else() {
    let service = jobs(1, 3).await;
    service.create_topic("mail", 1).await;
    let both = json!({"topics": ["jobs", "mail"], "type": "shared", "wait_ms": 0});
    let path = "/v1/groups/workers/members/a/poll";
    let polled = service.post(path, both).await.ok();
    assert_eq!(offsets(&polled), [0, 1, 2]);
    let other = json!({"topics": ["mail"], "type": "shared", "wait_ms": 0});
    service.post(path, other).await.with_status(200);
    enter(&service, "b", json!({})).await;
    assert_eq!(offsets(&poll(&service, "b", &Value::Null, 10).await), NONE);
    settle_all(&service, "a", json!({"accept": places(&[0, 1, 2])})).await;
    assert_eq!(committed(&service).await, Some(3));
}

#[tokio::test]
async fn dead_letters_and_leases_are_listed_and_chosen() {
    let service = jobs(1, 6).await;
    enter(&service, "a", json!({})).await;
    poll(&service, "a", &Value::Null, 5).await;
    let reject = |offset: u64, reason: &str| json!({"topic": "jobs", "partition": 0, "offset": offset, "reason": reason});
    let body = json!({"reject": [reject(0, "bad date"), reject(2, "bad name"), reject(3, "no money")]});
    settle_all(&service, "a", body).await;
    let list = "/v1/groups/workers/dead-letters";
    let all = service.get(list).await.ok();
    assert_eq!(
        all["reasons"],
        json!({"bad date": 1, "bad name": 1, "no money": 1})
    );
    let letters = all["dead_letters"].as_array().unwrap();
    let expected = json!({"dead_letter_topic": "jobs.dlq", "partition": 0, "offset": 1, "state": "waiting",
        "reason": "bad name", "deliveries": 1, "origin": {"topic": "jobs", "partition": 0, "offset": 2}});
    has(&letters[1], expected);
    assert!(letters[1]["died_at"].is_i64());
    assert_eq!(letters[1]["record"]["headers"]["dlq_reason"], "bad name");
    let page = service.get(&format!("{list}?reason=bad&limit=1")).await.ok();
    assert_eq!(offsets_in(&page["dead_letters"]), [0]);
    let cut = service.get(&format!("{list}?value_limit=6")).await.ok();
    has(
        &cut["dead_letters"][0]["record"],
        json!({"value_text": "{\"n\":0", "value_bytes": 7, "truncated": true}),
    );
    service
        .get(&format!("{list}?value_limit="))
        .await
        .invalid("value_limit");
    let after = page["next"].as_str().unwrap();
    let page = service
        .get(&format!("{list}?reason=bad&limit=1&after={after}"))
        .await
        .ok();
    assert_eq!(offsets_in(&page["dead_letters"]), [1]);
    assert_eq!(page["next"], Value::Null);
    let redrive = "/v1/groups/workers/redrive";
    let call = json!({"reason": "bad", "dry_run": true});
    let answer = service.post(redrive, call).await.ok();
    assert_eq!(answer, json!({"redriven": 2, "discarded": 0, "at_end": true}));
    let call =
        json!({"dead_letter_topic": "jobs.dlq", "offsets": [{"partition": 0, "offset": 2}], "discard": true});
    let answer = service.post(redrive, call).await.ok();
    assert_eq!(answer, json!({"redriven": 0, "discarded": 1, "at_end": true}));
    let answer = service.post(redrive, json!({"max_records": 1})).await.ok();
    assert_eq!(answer, json!({"redriven": 1, "discarded": 0, "at_end": false}));
    for (state, expected) in [("waiting", 1), ("redriven", 0), ("discarded", 2)] {
        let page = service.get(&format!("{list}?state={state}")).await.ok();
        assert_eq!(offsets_in(&page["dead_letters"]), [expected], "{state}");
    }
    let leases = service.get("/v1/groups/workers/leases?limit=1").await.ok();
    has(
        &leases["leases"][0],
        json!({"topic": "jobs", "offset": 1, "member_id": "a", "delivery_count": 1}),
    );
    let path = format!(
        "/v1/groups/workers/leases?after={}",
        leases["next"].as_str().unwrap()
    );
    let leases = service.get(&path).await.ok();
    assert_eq!(offsets_in(&leases["leases"]), [4]);
    service.get(&format!("{list}?state=dead")).await.invalid("state");
    service.get(&format!("{list}?after=x")).await.invalid("after");
    service
        .post(redrive, json!({"offsets": []}))
        .await
        .invalid("/offsets");
    for path in ["dead-letters", "leases"] {
        service
            .get(&format!("/v1/groups/none/{path}"))
            .await
            .problem(404, "unknown-group");
    }
}

async fn group_lag(service: &Service) -> Value {
    service.get("/v1/groups/workers/lag").await.json()
}

#[tokio::test]
async fn a_record_that_waits_an_hour_holds_up_no_other_and_lag_counts_what_is_unsettled() {
    let service = jobs(1, 9001).await;
    enter(&service, "w", json!({})).await;
    assert_eq!(offsets(&poll(&service, "w", &Value::Null, 1).await), [0]);
    let release = json!([{"topic": "jobs", "partition": 0, "offset": 0, "delay_ms": 3_600_000}]);
    settle_all(&service, "w", json!({"release": release})).await;
    let mut ack = Value::Null;
    let mut seen = 0;
    loop {
        let polled = poll(&service, "w", &ack, 1000).await;
        if offsets(&polled).is_empty() {
            break;
        }
        seen += offsets(&polled).len();
        ack = polled["poll_id"].clone();
    }
    assert_eq!(seen, 9000);
    let lag = group_lag(&service).await;
    // What is delayed has no age before it is due.
    has(
        &lag,
        json!({"lag": 1, "leased": 0, "delayed": 1, "lag_ms": 0, "status": "ok"}),
    );
    assert_eq!(committed(&service).await, Some(0));
    let group = service.get("/v1/groups/workers").await.json();
    has(
        &group["queue"],
        json!({"leased": 0, "delayed": 1, "waiting": 0, "full": false}),
    );
}

#[tokio::test]
async fn the_lag_of_a_queue_leaves_out_what_is_settled_beyond_an_unsettled_record() {
    let service = jobs(1, 1000).await;
    enter(&service, "w", json!({})).await;
    let polled = poll(&service, "w", &Value::Null, 1000).await;
    let all: Vec<u64> = offsets(&polled)[1..].to_vec();
    settle_all(&service, "w", json!({"accept": places(&all)})).await;
    let lag = group_lag(&service).await;
    has(&lag, json!({"lag": 1, "leased": 1, "delayed": 0}));
    assert!(lag["lag_bytes"].as_u64().unwrap() < 200, "{lag}");
    let service = service.restart().await;
    has(
        &group_lag(&service).await,
        json!({"lag": 1, "leased": 0, "members": 0}),
    );
    // Below the log start nothing is left.
    let trim = "/v1/topics/jobs/partitions/0/records?before=5";
    service.delete(trim).await.with_status(200);
    has(&group_lag(&service).await, json!({"lag": 0, "status": "losing"}));
}

#[tokio::test]
async fn delays_last_over_a_restart() {
    let service = jobs(1, 3).await;
    enter(&service, "w", json!({})).await;
    poll(&service, "w", &Value::Null, 3).await;
    let delay = |offset: u64, delay_ms: u64| json!({"topic": "jobs", "partition": 0, "offset": offset, "delay_ms": delay_ms});
    let body = json!({"release": [delay(0, 3_600_000), delay(2, 300)], "accept": places(&[1])});
    settle_all(&service, "w", body).await;
    let service = service.restart().await;
    enter(&service, "w", json!({})).await;
    assert_eq!(offsets(&poll(&service, "w", &Value::Null, 10).await), NONE);
    let late = poll_while_time_passes(&service, "w", &Value::Null, Duration::from_millis(300)).await;
    assert_eq!(offsets(&late), [2]);
    assert_eq!(late["records"][0]["delivery_count"], 2);
    has(
        &group_lag(&service).await,
        json!({"lag": 2, "leased": 1, "delayed": 1}),
    );
}

#[tokio::test]
async fn late_work_counts_whatever_became_of_the_lease_and_the_session() {
    let service = jobs(1, 6).await;
    let settings = json!({"lease_ms": 100, "session_timeout_ms": 100});
    enter(&service, "a", settings.clone()).await;
    let polled = poll(&service, "a", &Value::Null, 4).await;
    assert_eq!(offsets(&polled), [0, 1, 2, 3]);
    service.pass(Duration::from_millis(100));
    refused(
        service.post("/v1/groups/workers/members/a/heartbeat", json!({})),
        404,
        "unknown-member",
    )
    .await;
    // Its session has ended, and so have its leases: nobody else holds them.
    settle_all(&service, "a", json!({"accept": places(&[0])})).await;
    enter(&service, "b", json!({})).await;
    assert_eq!(offsets(&poll(&service, "b", &Value::Null, 1).await), [1]);
    let body = json!({"topics": ["jobs"], "type": "shared", "ack": polled["poll_id"], "max_records": 9, "wait_ms": 0});
    let late = service.post("/v1/groups/workers/members/a/poll", body).await.ok();
    assert_eq!(late["lost"], places(&[1]));
    assert_eq!(late["settled"], places(&[0]));
    assert_eq!(offsets(&late), [4, 5]);
    // A member that nobody knows settles too.
    settle_all(&service, "stranger", json!({"reject": []})).await;
    assert_eq!(
        settle(&service, "stranger", json!({"accept": places(&[4])})).await,
        [4]
    );
}

#[tokio::test]
async fn a_release_counts_as_a_delivery_unless_it_says_that_it_does_not() {
    let service = jobs(1, 1).await;
    enter(&service, "a", json!({"max_deliveries": 2})).await;
    for count in [false, false, true] {
        let polled = poll(&service, "a", &Value::Null, 1).await;
        assert_eq!(polled["records"][0]["delivery_count"], 1);
        let mut release = places(&[0]);
        release[0]["count"] = json!(count);
        settle_all(&service, "a", json!({"release": release})).await;
    }
    let polled = poll(&service, "a", &Value::Null, 1).await;
    assert_eq!(polled["records"][0]["delivery_count"], 2);
}

#[tokio::test]
async fn a_poll_takes_a_fair_share_of_what_waits() {
    let service = jobs(1, 100).await;
    let path = |name: &str| format!("/v1/groups/workers/members/{name}/poll");
    for name in ["a", "b", "c", "d"] {
        enter(&service, name, json!({})).await;
    }
    for (name, expected) in [("a", 16), ("b", 16), ("c", 16)] {
        let polled = service.post(&path(name), json!({"wait_ms": 0})).await.ok();
        assert_eq!(offsets(&polled).len(), expected, "{name}");
    }
    let polled = poll(&service, "d", &Value::Null, 50).await;
    assert_eq!(offsets(&polled).len(), 50);
    // Two wait, for four members.
    let polled = service.post(&path("a"), json!({"wait_ms": 0})).await.ok();
    assert_eq!(offsets(&polled).len(), 1);
    let service = jobs(1, 1500).await;
    enter(&service, "a", json!({})).await;
    assert_eq!(
        offsets(&poll(&service, "a", &Value::Null, 100_000).await).len(),
        1000
    );
}

#[tokio::test]
async fn a_heartbeat_that_extends_begins_all_leases_of_a_member_anew() {
    let service = jobs(1, 2).await;
    enter(&service, "a", json!({"lease_ms": 400})).await;
    enter(&service, "b", json!({})).await;
    assert_eq!(offsets(&poll(&service, "a", &Value::Null, 2).await), [0, 1]);
    let path = "/v1/groups/workers/members/a/heartbeat";
    for _ in 0..4 {
        service.pass(Duration::from_millis(150));
        service.post(path, json!({"extend": true})).await.ok();
    }
    assert_eq!(offsets(&poll(&service, "b", &Value::Null, 2).await), NONE);
    let body = json!({"topics": ["jobs"], "member_id": "a"});
    expect(service.post("/v1/groups/plain/members", body), 201).await;
    let path = "/v1/groups/plain/members/a/heartbeat";
    refused(
        service.post(path, json!({"extend": true})),
        409,
        "group-type-mismatch",
    )
    .await;
}

#[tokio::test]
async fn the_older_process_of_a_member_settles_and_extends_nothing_any_more() {
    let service = jobs(1, 4).await;
    let polled = async |instance: &str| {
        let body = json!({"topics": ["jobs"], "type": "shared", "instance": instance, "max_records": 1, "wait_ms": 0});
        let path = "/v1/groups/workers/members/a/poll";
        service.post(path, body).await.ok()
    };
    let settle = async |member: &str, instance: Value, body: Value| {
        let mut body = body;
        body["instance"] = instance;
        let path = format!("/v1/groups/workers/members/{member}/settle");
        service.post(&path, body).await
    };
    assert_eq!(offsets(&polled("first").await), [0]);
    let accepted = settle("a", json!("first"), json!({"accept": places(&[0])})).await;
    assert_eq!(accepted.ok(), json!({"lost": [], "settled": []}));
    assert_eq!(offsets(&polled("first").await), [1]);
    assert_eq!(offsets(&polled("second").await), [2]);
    for body in ["accept", "extend"].map(|list| json!({list: places(&[1, 2])})) {
        let stopped = settle("a", json!("first"), body).await;
        stopped.refusal(409, "member-superseded", "none");
    }
    let ends = async || {
        let leases = service.get("/v1/groups/workers/leases").await.ok();
        leases["leases"][0]["lease_expires"].as_i64().unwrap()
    };
    let before = ends().await;
    service.pass(Duration::from_secs(5));
    let heartbeat = "/v1/groups/workers/members/a/heartbeat";
    let body = json!({"instance": "first", "extend": true});
    refused(service.post(heartbeat, body), 409, "member-superseded").await;
    assert_eq!(ends().await, before, "its heartbeat extends nothing");
    let body = json!({"instance": "second", "extend": true});
    service.post(heartbeat, body).await.ok();
    assert_eq!(ends().await, before + 5000, "that of the newer one does");
    // Late work counts, of a process that the server does not know, of a member that it does not know, and of one without
    // a name.
    for (member, instance, offset) in [
        ("a", json!("third"), 1),
        ("b", json!("first"), 3),
        ("a", Value::Null, 2),
    ] {
        let body = json!({"accept": places(&[offset])});
        let answer = settle(member, instance, body).await.ok();
        assert_eq!(answer, json!({"lost": [], "settled": []}), "{member} {offset}");
    }
    settle("a", json!(""), json!({})).await.invalid("/instance");
}

#[tokio::test]
async fn a_record_for_later_is_leased_when_its_time_has_come_and_seen_at_once_by_others() {
    let service = jobs(1, 0).await;
    enter(&service, "a", json!({})).await;
    let (soon, late) = (NOW + 700, "2100-01-01T00:00:00Z");
    let mut records: Vec<Value> = (0..1200)
        .map(|number| json!({"value": number, "deliver_at": late}))
        .collect();
    records.push(json!({"value": "soon", "deliver_at": soon}));
    records.push(json!({"value": "now"}));
    service
        .post("/v1/topics/jobs/records", json!({"records": records}))
        .await
        .ok();
    let first = poll(&service, "a", &Value::Null, 10).await;
    assert_eq!(offsets(&first), [1201]);
    let seen = fetch(&service, "jobs").await;
    assert_eq!(seen[0]["headers"]["deliver_at"], json!("4102444800000"));
    let second = poll_while_time_passes(&service, "a", &first["poll_id"], Duration::from_millis(700)).await;
    assert_eq!(offsets(&second), [1200]);
    assert_eq!(second["records"][0]["delivery_count"], 1);
    has(
        &group_lag(&service).await,
        json!({"lag": 1201, "leased": 1, "delayed": 1200}),
    );
    let wrong = json!({"records": [{"value": 1, "deliver_at": "tomorrow"}]});
    service
        .post("/v1/topics/jobs/records", wrong)
        .await
        .invalid("/records/0/deliver_at");
}
