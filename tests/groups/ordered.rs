//! Members of ordered groups through the API: joining, polling, acknowledging, committing, leaving.

use std::time::Duration;

use crate::support::{Answer, Service, expect, has, refused};
use serde_json::{Value, json};

const MEMBERS: &str = "/v1/groups/billing/members";
fn member(name: &str) -> Value {
    json!({"topics": ["orders"], "member_id": name})
}

fn quick(ack: &Value) -> Value {
    json!({"ack": ack, "wait_ms": 0, "max_records": 10})
}

/// [`quick`], from a member that may not have joined yet.
fn quick_join(ack: &Value) -> Value {
    json!({"ack": ack, "topics": ["orders"], "max_records": 10, "wait_ms": 0})
}

async fn orders(partitions: u32, records: u64) -> Service {
    let service = Service::new();
    service.create_topic("orders", partitions).await;
    for index in 0..partitions {
        if records > 0 {
            service.append_numbers("orders", index, 0, records);
        }
    }
    service
}

async fn join(service: &Service, name: &str) -> Value {
    service.post(MEMBERS, member(name)).await.created()
}

async fn ask(service: &Service, member: &str, body: Value) -> Answer {
    service.post(&format!("{MEMBERS}/{member}/poll"), body).await
}

/// A poll that is answered 200.
async fn take(service: &Service, member: &str, body: Value) -> Value {
    ask(service, member, body).await.ok()
}

async fn leave(service: &Service, member: &str) {
    expect(service.delete(&format!("{MEMBERS}/{member}")), 204).await;
}

fn offsets(polled: &Value) -> Vec<(u64, u64)> {
    let records = polled["records"].as_array().expect("records");
    let number = |record: &Value, name: &str| record[name].as_u64().unwrap();
    let place = |record| (number(record, "partition"), number(record, "offset"));
    records.iter().map(place).collect()
}

async fn committed(service: &Service, partition: u64) -> Option<u64> {
    let offsets = service.get("/v1/groups/billing/offsets").await.json();
    let rows = offsets["offsets"].as_array().expect("offsets").clone();
    rows.iter()
        .find(|row| row["partition"] == partition)
        .and_then(|row| row["offset"].as_u64())
}

#[tokio::test]
async fn a_consumer_is_a_loop_of_one_call() {
    let service = orders(1, 25).await;
    let mut seen = Vec::new();
    let mut ack = Value::Null;
    while seen.len() < 25 {
        let polled = take(&service, "a", quick_join(&ack)).await;
        assert_eq!(polled["assignment"], json!([{"topic": "orders", "partition": 0}]));
        assert_eq!(polled["records"][0]["topic"], "orders");
        seen.extend(offsets(&polled));
        ack = polled["poll_id"].clone();
    }
    assert_eq!(seen, (0..25).map(|offset| (0, offset)).collect::<Vec<_>>());
    assert_eq!(committed(&service, 0).await, Some(20));
    let path = format!("/v1/groups/billing/members/a?ack={}", ack.as_str().unwrap());
    service.delete(&path).await.with_status(204);
    assert_eq!(committed(&service, 0).await, Some(25));
    let group = service.get("/v1/groups/billing").await.json();
    has(&group, json!({"state": "empty", "members": []}));
}

#[tokio::test]
async fn a_lost_answer_is_delivered_again_under_another_name() {
    let service = orders(1, 30).await;
    join(&service, "a").await;
    let first = take(&service, "a", quick(&Value::Null)).await;
    let again = take(&service, "a", quick(&Value::Null)).await;
    assert_eq!(offsets(&first), offsets(&again));
    assert_ne!(first["poll_id"], again["poll_id"]);
    // The older `poll_id` no longer commits: the records are delivered once more.
    let third = take(&service, "a", quick(&first["poll_id"])).await;
    assert_eq!(offsets(&third), offsets(&first));
    assert_eq!(committed(&service, 0).await, None);
    let fourth = take(&service, "a", quick(&third["poll_id"])).await;
    assert_eq!(offsets(&fourth)[0], (0, 10));
    assert_eq!(committed(&service, 0).await, Some(10));
}

#[tokio::test]
async fn a_lost_answer_of_many_partitions_comes_again_before_anything_else() {
    let service = orders(6, 4).await;
    let poll = async |ack: &Value| take(&service, "a", quick_join(ack)).await;
    let first = poll(&Value::Null).await;
    for partition in 0..6 {
        service.append_numbers("orders", partition, 4, 20);
    }
    let again = poll(&Value::Null).await;
    assert_eq!(offsets(&again), offsets(&first));
    assert_ne!(again["poll_id"], first["poll_id"]);
    let mut seen = offsets(&first);
    let mut ack = again["poll_id"].clone();
    while seen.len() < 6 * 24 {
        let polled = poll(&ack).await;
        seen.extend(offsets(&polled));
        ack = polled["poll_id"].clone();
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6 * 24, "and nothing comes twice");
}

#[tokio::test]
async fn a_partition_changes_hands_between_two_polls_of_its_owner() {
    let service = orders(2, 10).await;
    join(&service, "a").await;
    let mut body = quick(&Value::Null);
    body["max_records"] = json!(100);
    let held = take(&service, "a", body.clone()).await;
    assert_eq!(offsets(&held).len(), 20);
    let joined = join(&service, "b").await;
    assert_eq!(joined["assignment"], json!([]), "a still works on both");
    let found = &service.get("/v1/groups/billing").await.json()["state"];
    assert_eq!(found, "rebalancing");
    let nothing = take(&service, "b", quick(&Value::Null)).await;
    assert_eq!(offsets(&nothing), []);
    // The owner's poll commits its records, and gives one partition up.
    body["ack"] = held["poll_id"].clone();
    let after = take(&service, "a", body).await;
    assert_eq!(after["assignment"].as_array().unwrap().len(), 1);
    assert_eq!(offsets(&after).len(), 0);
    assert_ne!(after["epoch"], held["epoch"]);
    service.append_numbers("orders", 0, 10, 1);
    service.append_numbers("orders", 1, 10, 1);
    let of_a = take(&service, "a", quick(&Value::Null)).await;
    let of_b = take(&service, "b", quick(&Value::Null)).await;
    let mut all = [offsets(&of_a), offsets(&of_b)].concat();
    all.sort_unstable();
    assert_eq!(all, [(0, 10), (1, 10)], "nothing twice, nothing lost");
    assert_eq!(service.get("/v1/groups/billing").await.json()["state"], "stable");
}

#[tokio::test]
async fn a_waiting_poll_ends_with_a_record_a_rebalance_or_a_newer_poll() {
    let service = std::sync::Arc::new(orders(2, 0).await);
    join(&service, "a").await;
    let wait = json!({"wait_ms": 60_000});
    ask(&service, "a", quick(&Value::Null)).await.with_status(200);
    let poll = |name: &str| {
        let uri = format!("/v1/groups/billing/members/{name}/poll");
        let (service, path, wait) = (service.clone(), uri, wait.clone());
        tokio::spawn(async move { service.post(&path, wait).await })
    };
    let is_polling = |count: usize| {
        let service = service.clone();
        async move {
            let waits = |service: &Service| {
                let members = service.app.groups.describe("billing");
                members.iter().filter(|member| member.is_polling).count()
            };
            while waits(&service) < count {
                tokio::task::yield_now().await;
            }
        }
    };
    let waiting = poll("a");
    is_polling(1).await;
    service.append_numbers("orders", 1, 0, 1);
    assert_eq!(offsets(&waiting.await.unwrap().json()), [(1, 0)]);

    // The answer with the record is lost; the next poll gets the record again, and the one after that waits.
    let again = take(&service, "a", quick(&Value::Null)).await;
    let body = json!({"ack": again["poll_id"], "wait_ms": 60_000});
    let service2 = service.clone();
    let waiting = tokio::spawn(async move { service2.post("/v1/groups/billing/members/a/poll", body).await });
    is_polling(1).await;
    while committed(&service, 1).await.is_none() {
        tokio::task::yield_now().await;
    }
    let joined = service.post(MEMBERS, member("b")).await.json();
    let ended = waiting.await.unwrap().json();
    assert_eq!(ended["assignment"].as_array().unwrap().len(), 1, "{ended}");
    assert_eq!(offsets(&ended), []);
    // One of the two answers gave b its partition.
    let told = joined["assignment"].as_array().unwrap().len();
    let polled = take(&service, "b", quick(&Value::Null)).await;
    assert!(told <= 1 && polled["assignment"].as_array().unwrap().len() == 1);

    let old = poll("a");
    is_polling(1).await;
    let new = ask(&service, "a", quick(&Value::Null)).await;
    assert_eq!(new.status, 200);
    old.await.unwrap().problem(409, "poll-superseded");
}

#[tokio::test]
async fn commits_of_a_member_count_while_it_has_the_partition_and_never_go_back() {
    let service = orders(2, 20).await;
    let joined = service.post(MEMBERS, member("a")).await.json();
    let commit = |epoch: &Value, partition: u32, offset: u64| {
        json!({"epoch": epoch,
        "offsets": [{"topic": "orders", "partition": partition, "offset": offset}]})
    };
    let path = "/v1/groups/billing/members/a/commit";
    let answer = service.post(path, commit(&joined["epoch"], 0, 7)).await.ok();
    assert_eq!(answer["offsets"][0]["offset"], 7);
    let answer = service.post(path, commit(&joined["epoch"], 0, 3)).await.ok();
    assert_eq!(answer["offsets"][0]["offset"], 7, "it says what is committed");
    assert_eq!(committed(&service, 0).await, Some(7));
    refused(service.post(path, commit(&json!(999_999), 0, 9)), 409, "fenced").await;
    let answer = service.post(path, commit(&joined["epoch"], 0, 21)).await;
    answer.problem(400, "invalid-request");
    let answer = service.post(path, commit(&joined["epoch"], 5, 1)).await;
    answer.problem(404, "unknown-partition");
    // Committed records are not delivered.
    let polled = take(&service, "a", json!({"wait_ms": 0})).await;
    assert!(offsets(&polled).contains(&(0, 7)) && !offsets(&polled).contains(&(0, 6)));
    // A new member of the same name fences the old one.
    let instead = service.post(MEMBERS, member("a")).await.json();
    assert_ne!(instead["epoch"], joined["epoch"]);
    refused(service.post(path, commit(&polled["epoch"], 0, 9)), 409, "fenced").await;
    let answer = service
        .post("/v1/groups/billing/members/b/commit", commit(&json!(1), 0, 9))
        .await;
    answer.problem(404, "unknown-member");
    let nothing = json!({"offsets": []});
    refused(
        service.put("/v1/groups/billing/offsets", nothing),
        409,
        "group-active",
    )
    .await;
    let reset = json!({"topic": "orders", "to": "latest"});
    refused(
        service.post("/v1/groups/billing/offsets/reset", reset),
        409,
        "group-active",
    )
    .await;
    refused(service.delete("/v1/groups/billing"), 409, "group-active").await;
    // A member cannot commit in another member's partition either.
    let other = service.post(MEMBERS, member("b")).await.created();
    let path = "/v1/groups/billing/members/b/commit";
    for partition in [0, 1] {
        let body = commit(&other["epoch"], partition, 9);
        refused(service.post(path, body), 409, "fenced").await;
    }
}

#[tokio::test]
async fn an_acknowledgement_of_before_a_restart_counts_unless_somebody_else_was_given_the_partition() {
    for somebody_else in [false, true] {
        let service = orders(1, 20).await;
        let polled = take(&service, "a", quick_join(&Value::Null)).await;
        let service = service.restart().await;
        if somebody_else {
            let of_b = take(&service, "b", quick_join(&Value::Null)).await;
            assert_eq!(offsets(&of_b).len(), 10);
            leave(&service, "b").await;
        }
        let next = take(&service, "a", quick_join(&polled["poll_id"])).await;
        let expected = if somebody_else { (0, 0) } else { (0, 10) };
        assert_eq!(offsets(&next)[0], expected, "somebody else: {somebody_else}");
        let lost = if somebody_else {
            json!([{"topic": "orders", "partition": 0}])
        } else {
            Value::Null
        };
        assert_eq!(next["lost"], lost);
    }
}

#[tokio::test]
async fn an_acknowledgement_of_before_a_restart_undoes_no_change_from_outside() {
    // Each leaves the group at 5, in the middle of what was delivered, or without a committed offset.
    for change in ["reset", "put", "delete", "delete, restart"] {
        let service = orders(1, 20).await;
        let polled = take(&service, "a", quick_join(&Value::Null)).await;
        assert_eq!(offsets(&polled).last(), Some(&(0, 9)));
        let service = service.restart().await;
        let path = "/v1/groups/billing/offsets";
        let expected = match change {
            "reset" => {
                let body = json!({"topic": "orders", "to": {"offset": 5}});
                expect(service.post(&format!("{path}/reset"), body), 200).await;
                (0, 5)
            }
            "put" => {
                let body = json!({"offsets": [{"topic": "orders", "partition": 0, "offset": 5}]});
                expect(service.put(path, body), 200).await;
                (0, 5)
            }
            _ => {
                expect(service.delete("/v1/groups/billing"), 204).await;
                (0, 0)
            }
        };
        let service = if change == "delete, restart" {
            service.restart().await
        } else {
            service
        };
        let next = take(&service, "a", quick_join(&polled["poll_id"])).await;
        assert_eq!(offsets(&next)[0], expected, "{change}");
        assert_eq!(
            next["lost"],
            json!([{"topic": "orders", "partition": 0}]),
            "{change}"
        );
        // What is delivered since then counts.
        let last = take(&service, "a", quick_join(&next["poll_id"])).await;
        assert_eq!(
            (offsets(&last)[0], &last["lost"]),
            ((0, expected.1 + 10), &Value::Null),
            "{change}"
        );
    }
}

#[tokio::test]
async fn a_group_begins_where_its_first_member_says_and_reads_added_partitions_from_their_start() {
    let service = orders(1, 10).await;
    let body = json!({"topics": ["orders"], "start": "latest", "wait_ms": 0});
    let path = "/v1/groups/billing/members/a/poll";
    assert_eq!(offsets(&service.post(path, body.clone()).await.json()), []);
    // The committed start is kept, whatever happens before the first record.
    assert_eq!(committed(&service, 0).await, Some(10));
    expect(service.patch("/v1/topics/orders", json!({"partitions": 2})), 200).await;
    service.append_numbers("orders", 1, 0, 2);
    service.append_numbers("orders", 0, 10, 1);
    let polled = service.post(path, body).await.json();
    let mut found = offsets(&polled);
    found.sort_unstable();
    assert_eq!(found, [(0, 10), (1, 0), (1, 1)]);
}

#[tokio::test]
async fn wrong_requests_of_members_are_refused_by_name() {
    let service = orders(1, 1).await;
    for (name, value) in [
        ("topics", json!([])),
        ("member_id", json!("a b")),
        ("session_timeout_ms", json!(1)),
        ("start", json!("begin")),
        ("type", json!("queue")),
    ] {
        let mut body = json!({"topics": ["orders"]});
        body[name] = value;
        service.post(MEMBERS, body).await.invalid(&format!("/{name}"));
    }
    let answer = service.post(MEMBERS, json!({"topics": ["nothing"]})).await;
    answer.problem(404, "unknown-topic");
    ask(&service, "a", json!({})).await.problem(404, "unknown-member");
    let path = "/v1/groups/billing/members/a/heartbeat";
    refused(service.post(path, json!({})), 404, "unknown-member").await;
    let answer = service.delete("/v1/groups/billing/members/a").await;
    answer.problem(404, "unknown-member");
    join(&service, "a").await;
    for (body, pointer) in [
        (json!({"ack": "nonsense"}), "/ack"),
        (json!({"wait_ms": 60_001}), "/wait_ms"),
        (json!({"max_records": 0}), "/max_records"),
        (json!({"start": "latest"}), "/start"),
        (json!({"member_id": "b"}), "/member_id"),
    ] {
        ask(&service, "a", body).await.invalid(pointer);
    }
    refused(ask(&service, "a", json!({"acks": null})), 400, "invalid-request").await;
    let body = json!({"epoch": 12_345});
    let answer = service.post("/v1/groups/billing/members/a/heartbeat", body).await;
    answer.problem(409, "fenced");
}

#[tokio::test]
async fn a_member_that_is_silent_gives_its_partitions_up_when_its_session_ends() {
    let service = Service::start();
    service.create_topic("orders", 1).await;
    service.append_numbers("orders", 0, 0, 5);
    let ending = tokio::spawn(service.app.groups.clone().end_sessions());
    let join = |name: &str| json!({"topics": ["orders"], "member_id": name, "session_timeout_ms": 100});
    service.post(MEMBERS, join("a")).await.with_status(201);
    let polled = take(&service, "a", quick(&Value::Null)).await;
    assert_eq!(offsets(&polled).len(), 5);
    service.post(MEMBERS, join("b")).await.with_status(201);
    // b waits until it gets the records: a's session ends meanwhile, and b's does not while it is in a poll.
    let get = async {
        let mut of_b = Value::Null;
        while of_b["records"].as_array().is_none_or(Vec::is_empty) {
            let body = json!({"wait_ms": 60_000});
            of_b = take(&service, "b", body).await;
        }
        of_b
    };
    let pass = service.pass_in_poll("billing", "b", Duration::from_millis(100));
    let (of_b, ()) = tokio::join!(get, pass);
    assert_eq!(offsets(&of_b), offsets(&polled));
    let answer = ask(&service, "a", quick(&polled["poll_id"])).await;
    answer.problem(404, "unknown-member");
    // a comes back: its old `ack` commits nothing, and the answer says so.
    let body = json!({"ack": polled["poll_id"], "topics": ["orders"], "wait_ms": 0});
    let told = take(&service, "a", body).await;
    assert_eq!(told["lost"], json!([{"topic": "orders", "partition": 0}]));
    assert_eq!(committed(&service, 0).await, None);
    service.app.stopping.send_replace(true);
    ending.await.unwrap();
}

#[tokio::test]
async fn a_member_that_joins_while_its_group_is_deleted_makes_it_again() {
    let service = orders(1, 1).await;
    join(&service, "a").await;
    leave(&service, "a").await;
    let guard = service.app.groups.alone().await;
    let outside = service.app.groups.begin_outside("billing");
    let outside = outside.expect("nobody is there");
    let router = service.router.clone();
    let request = http::Request::post(MEMBERS)
        .header("content-type", "application/json")
        .body(axum::body::Body::from(member("b").to_string()));
    let joining = tokio::spawn(tower::ServiceExt::oneshot(router, request.unwrap()));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let deleted = service.app.groups.remove((guard, outside), "billing", None).await;
    deleted.unwrap();
    assert_eq!(joining.await.unwrap().unwrap().status(), 201);
    let group = service.get("/v1/groups/billing").await.ok();
    assert_eq!(group["members"][0]["member_id"], "b");
}

#[tokio::test]
async fn an_answer_names_the_partitions_that_its_acknowledgement_lost_and_only_these() {
    let service = orders(2, 5).await;
    let first = take(&service, "a", quick_join(&Value::Null)).await;
    assert_eq!(offsets(&first).len(), 10);
    leave(&service, "a").await;
    join(&service, "b").await;
    let back = |ack: &Value| json!({"ack": ack, "topics": ["orders"], "wait_ms": 60_000});
    // b has both partitions until it polls, and a learns that at once, although it was to wait.
    let told = take(&service, "a", back(&first["poll_id"])).await;
    let (lost, nothing) = (&told["lost"], &told["records"]);
    let of = |partition| json!({"topic": "orders", "partition": partition});
    assert_eq!((lost, nothing), (&json!([of(0), of(1)]), &json!([])));
    assert_eq!(committed(&service, 0).await, None);
    // An acknowledgement that counts has no such field.
    take(&service, "b", quick(&Value::Null)).await;
    let of_a = take(&service, "a", quick(&told["poll_id"])).await;
    assert_eq!((offsets(&of_a).len(), of_a.get("lost")), (5, None));
    let path = format!(
        "/v1/groups/billing/members/a?ack={}",
        first["poll_id"].as_str().unwrap()
    );
    service.delete(&path).await.with_status(204);
}

#[tokio::test]
async fn a_member_that_names_other_topics_still_commits_what_it_had_in_hand() {
    let service = orders(1, 5).await;
    service.create_topic("payments", 1).await;
    let first = take(&service, "a", quick_join(&Value::Null)).await;
    let body = json!({"ack": first["poll_id"], "topics": ["payments"], "wait_ms": 0});
    let next = take(&service, "a", body).await;
    assert_eq!(next["assignment"], json!([{"topic": "payments", "partition": 0}]));
    assert_eq!((next.get("lost"), committed(&service, 0).await), (None, Some(5)));
}

#[tokio::test]
async fn a_reset_is_not_undone_by_an_acknowledgement_of_before_it() {
    for restarts in [false, true] {
        let service = orders(1, 30).await;
        let first = take(&service, "a", quick_join(&Value::Null)).await;
        let second = take(&service, "a", quick_join(&first["poll_id"])).await;
        assert_eq!(offsets(&second)[0], (0, 10));
        let service = if restarts {
            service.restart().await
        } else {
            leave(&service, "a").await;
            service
        };
        let reset = json!({"topic": "orders", "to": "earliest"});
        expect(service.post("/v1/groups/billing/offsets/reset", reset), 200).await;
        let third = take(&service, "a", quick_join(&second["poll_id"])).await;
        assert_eq!(offsets(&third)[0], (0, 0), "restarts: {restarts}");
        assert_eq!(third["lost"], json!([{"topic": "orders", "partition": 0}]));
        assert_eq!(committed(&service, 0).await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_joins_while_the_group_is_set_goes_on_from_there() {
    let service = std::sync::Arc::new(orders(1, 30).await);
    let reset = json!({"topic": "orders", "to": "earliest"});
    let set = json!({"offsets": [{"topic": "orders", "partition": 0, "offset": 20}]});
    expect(service.put("/v1/groups/billing/offsets", set.clone()), 200).await;
    let mut times = 0;
    for round in 0..60 {
        let (service, reset, set) = (std::sync::Arc::clone(&service), reset.clone(), set.clone());
        let path = format!("/v1/groups/billing/members/m{round}");
        let joins = {
            let (service, path) = (std::sync::Arc::clone(&service), path.clone());
            tokio::spawn(async move {
                let body = json!({"topics": ["orders"], "max_records": 1, "wait_ms": 0});
                service.post(&format!("{path}/poll"), body).await.ok()
            })
        };
        // Back and forth.
        let answer = match round % 2 {
            0 => service.post("/v1/groups/billing/offsets/reset", reset).await,
            _ => service.put("/v1/groups/billing/offsets", set).await,
        };
        let polled = joins.await.unwrap();
        if answer.status == 200 {
            times += 1;
            let expected = if round % 2 == 0 { 0 } else { 20 };
            assert_eq!(offsets(&polled)[0], (0, expected), "round {round}");
        } else {
            answer.problem(409, "group-active");
        }
        service.delete(&path).await.with_status(204);
    }
    println!("{times} of 60 came first");
}

#[tokio::test]
async fn an_epoch_of_before_a_restart_is_stale() {
    let service = orders(1, 1).await;
    let before = join(&service, "a").await;
    let service = service.restart().await;
    let after = join(&service, "a").await;
    let is_newer = before["epoch"].as_u64() < after["epoch"].as_u64();
    assert!(is_newer, "{before} {after}");
    let body =
        json!({"epoch": before["epoch"], "offsets": [{"topic": "orders", "partition": 0, "offset": 1}]});
    let answer = service.post("/v1/groups/billing/members/a/commit", body).await;
    answer.problem(409, "fenced");
}

#[tokio::test]
async fn a_stray_acknowledgement_is_refused_and_disturbs_nothing() {
    let service = std::sync::Arc::new(orders(1, 30).await);
    let mut acks = vec![Value::Null];
    for _ in 0..3 {
        let polled = take(&service, "a", quick_join(acks.last().unwrap())).await;
        acks.push(polled["poll_id"].clone());
    }
    // The member waits for more, and a proxy sends an old poll of it again.
    let waiting = {
        let (service, body) = (service.clone(), json!({"ack": acks[3], "wait_ms": 60_000}));
        tokio::spawn(async move { ask(&service, "a", body).await })
    };
    while committed(&service, 0).await != Some(30) {
        tokio::task::yield_now().await;
    }
    for stray in &acks[1..3] {
        let body = json!({"ack": stray, "topics": ["others"], "wait_ms": 0});
        let refused = ask(&service, "a", body).await;
        refused.refusal(409, "poll-superseded", "none");
    }
    service.append_numbers("orders", 0, 30, 1);
    assert_eq!(offsets(&waiting.await.unwrap().ok()), [(0, 30)]);
    // The last acknowledgement again: its answer was lost.
    let again = take(&service, "a", quick(&acks[3])).await;
    assert_eq!(offsets(&again), [(0, 30)]);
}

/// A poll of a process that remembers what it got; or the refusal's code.
async fn turn(service: &Service, ack: &mut Value, instance: Option<&str>) -> Result<usize, String> {
    let mut body = quick_join(ack);
    if let Some(instance) = instance {
        body["instance"] = json!(instance);
    }
    let answer = ask(service, "a", body).await;
    let said = answer.json();
    if answer.status != 200 {
        assert_eq!((answer.status, &said["retryable"]), (409, &json!(false)));
        return Err(said["code"].as_str().unwrap().to_owned());
    }
    *ack = said["poll_id"].clone();
    Ok(offsets(&said).len())
}

#[tokio::test]
async fn of_two_processes_under_one_member_id_the_older_one_is_stopped() {
    let service = orders(1, 100).await;
    let (mut older, mut newer) = (Value::Null, Value::Null);
    turn(&service, &mut older, None).await.unwrap();
    turn(&service, &mut older, None).await.unwrap();
    for _ in 0..2 {
        turn(&service, &mut newer, None).await.unwrap();
        // The first time, it may have lost an answer.
        let _ = turn(&service, &mut older, None).await;
    }
    for _ in 0..3 {
        let refused = turn(&service, &mut older, None).await;
        assert_eq!(refused, Err("member-superseded".to_owned()));
    }
    let mut count = 0;
    while committed(&service, 0).await != Some(100) {
        count += turn(&service, &mut newer, None).await.unwrap();
        assert!(count <= 100, "it makes no progress");
    }
    // Nor does it make the newer one leave.
    let path = format!("{MEMBERS}/a?ack={}", older.as_str().unwrap());
    refused(service.delete(&path), 409, "member-superseded").await;
    turn(&service, &mut newer, None).await.unwrap();
    let path = format!("{MEMBERS}/a?ack={}", newer.as_str().unwrap());
    expect(service.delete(&path), 204).await;
}

/// Polls an idle topic until it is stopped; returns its refusals.
async fn poll_until_stopped(service: std::sync::Arc<Service>) -> Vec<String> {
    let (mut ack, mut refusals) = (Value::Null, Vec::new());
    while refusals.len() < 20 {
        let body = json!({"topics": ["orders"], "ack": ack, "wait_ms": 60_000});
        let answer = ask(&service, "a", body).await;
        let said = answer.json();
        if answer.status == 200 {
            ack = said["poll_id"].clone();
            continue;
        }
        let code = said["code"].as_str().unwrap().to_owned();
        refusals.push(code.clone());
        if code == "member-superseded" {
            break;
        }
    }
    refusals
}

#[tokio::test]
async fn of_two_processes_that_poll_an_idle_topic_without_an_answer_yet_one_is_stopped() {
    let service = std::sync::Arc::new(orders(1, 0).await);
    let mut first = tokio::spawn(poll_until_stopped(service.clone()));
    let mut second = tokio::spawn(poll_until_stopped(service.clone()));
    let (refusals, left) = tokio::select! {
        refusals = &mut first => (refusals.unwrap(), second),
        refusals = &mut second => (refusals.unwrap(), first),
    };
    let stopped = refusals.last().map(String::as_str);
    assert_eq!(stopped, Some("member-superseded"), "{refusals:?}");
    // The other one goes on.
    service.append_numbers("orders", 0, 0, 3);
    while committed(&service, 0).await != Some(3) {
        assert!(!left.is_finished(), "nobody is left");
        tokio::task::yield_now().await;
    }
    left.abort();
}

#[tokio::test]
async fn a_process_with_another_instance_takes_the_member_over() {
    let service = orders(1, 100).await;
    let (mut older, mut newer) = (Value::Null, Value::Null);
    turn(&service, &mut older, Some("first")).await.unwrap();
    turn(&service, &mut newer, Some("second")).await.unwrap();
    let refused = turn(&service, &mut older, Some("first")).await;
    assert_eq!(refused, Err("member-superseded".to_owned()));
    let epoch = service.get("/v1/groups/billing").await.json()["members"][0]["epoch"].clone();
    let path = |call: &str| format!("{MEMBERS}/a/{call}");
    let row = json!([{"topic": "orders", "partition": 0, "offset": 1}]);
    let commit = |instance: &str| json!({"epoch": epoch, "offsets": row, "instance": instance});
    let beat = |instance: &str| json!({"instance": instance});
    for (instance, code) in [("first", "member-superseded"), ("third", "fenced")] {
        refused_with(&service, &path("commit"), commit(instance), code).await;
        refused_with(&service, &path("heartbeat"), beat(instance), code).await;
    }
    let mut joining = member("a");
    joining["instance"] = json!("first");
    refused_with(&service, MEMBERS, joining, "member-superseded").await;
    // The newer one goes on, and its first poll has changed the epoch.
    service.post(&path("heartbeat"), beat("second")).await.ok();
    service.post(&path("commit"), commit("second")).await.ok();
    let mut all = 0;
    while committed(&service, 0).await != Some(100) {
        all += turn(&service, &mut newer, Some("second")).await.unwrap();
        assert!(all <= 100, "it makes no progress");
    }
    // Under another name, the older one is welcome.
    let body = json!({"topics": ["orders"], "instance": "first", "wait_ms": 0});
    take(&service, "b", body).await;
    for instance in ["", "a b", "ü"] {
        let body = json!({"instance": instance});
        ask(&service, "a", body.clone()).await.invalid("/instance");
        service.post(&path("heartbeat"), body).await.invalid("/instance");
    }
}

async fn refused_with(service: &Service, path: &str, body: Value, code: &str) {
    service.post(path, body).await.refusal(409, code, "none");
}

#[tokio::test]
async fn the_waiting_poll_of_the_older_process_is_told_why_it_ends() {
    let service = std::sync::Arc::new(orders(1, 0).await);
    let poll = |instance: &str| {
        let body = json!({"topics": ["orders"], "instance": instance, "wait_ms": 60_000});
        let service = service.clone();
        tokio::spawn(async move { ask(&service, "a", body).await })
    };
    let mut first = Value::Null;
    turn(&service, &mut first, Some("first")).await.unwrap();
    let older = poll("first");
    let is_polling = |service: &Service| {
        let members = service.app.groups.describe("billing");
        members.iter().any(|member| member.is_polling)
    };
    while !is_polling(&service) {
        tokio::task::yield_now().await;
    }
    let newer = poll("second");
    let ended = older.await.unwrap();
    ended.refusal(409, "member-superseded", "none");
    service.append_numbers("orders", 0, 0, 1);
    assert_eq!(offsets(&newer.await.unwrap().ok()), [(0, 0)]);
}

#[tokio::test]
async fn a_member_that_reads_a_deleted_topic_is_told_at_every_poll_until_it_names_others() {
    for kind in ["ordered", "shared"] {
        let service = orders(1, 5).await;
        service.create_topic("payments", 1).await;
        let poll = async |topics: &[&str], ack: &Value| {
            let body = json!({"topics": topics, "type": kind, "ack": ack, "wait_ms": 0});
            ask(&service, "a", body).await
        };
        let both = ["orders", "payments"];
        let first = poll(&both, &Value::Null).await.ok();
        assert_eq!(offsets(&first).len(), 5);
        service.delete("/v1/topics/payments").await.with_status(204);
        // Its acknowledgement counts nevertheless, and the problem says so.
        let told = poll(&both, &first["poll_id"]).await;
        let told = told.refusal(404, "unknown-topic", "partial");
        assert_eq!(told["topic"], "payments");
        let lag = service.get("/v1/groups/billing/lag").await.json();
        assert_eq!(lag["lag"], 0, "{lag}");
        poll(&both, &first["poll_id"]).await.problem(404, "unknown-topic");
        // A topic made later under the same name is another one: the member must ask for it.
        service.create_topic("payments", 1).await;
        service.append_numbers("payments", 0, 0, 1);
        poll(&both, &Value::Null)
            .await
            .refusal(404, "unknown-topic", "none");
        let lag = service.get("/v1/groups/billing/lag").await.json();
        assert_eq!(lag["topics"].as_array().unwrap().len(), 1, "{lag}");
        service.append_numbers("orders", 0, 5, 1);
        let last = poll(&["orders"], &first["poll_id"]).await.ok();
        assert_eq!(offsets(&last), [(0, 5)]);
        let all = poll(&both, &last["poll_id"]).await.ok();
        assert_eq!(all["records"][0]["topic"], "payments");
    }
}

#[tokio::test]
async fn a_waiting_poll_ends_when_its_topic_is_deleted() {
    let service = std::sync::Arc::new(orders(1, 5).await);
    let first = take(&service, "a", quick_join(&Value::Null)).await;
    let waiting = {
        let body = json!({"ack": first["poll_id"], "wait_ms": 60_000});
        let service = service.clone();
        tokio::spawn(async move { ask(&service, "a", body).await })
    };
    while committed(&service, 0).await != Some(5) {
        tokio::task::yield_now().await;
    }
    service.delete("/v1/topics/orders").await.with_status(204);
    let ended = waiting.await.unwrap();
    ended.refusal(404, "unknown-topic", "partial");
}

#[tokio::test]
async fn a_superseded_poll_says_that_its_acknowledgement_is_stored() {
    let service = std::sync::Arc::new(orders(1, 5).await);
    let first = take(&service, "a", quick_join(&Value::Null)).await;
    let waiting = {
        let body = json!({"ack": first["poll_id"], "wait_ms": 60_000});
        let service = service.clone();
        tokio::spawn(async move { ask(&service, "a", body).await })
    };
    while committed(&service, 0).await != Some(5) {
        tokio::task::yield_now().await;
    }
    take(&service, "a", quick(&first["poll_id"])).await;
    let ended = waiting.await.unwrap();
    ended.refusal(409, "poll-superseded", "partial");
}
