//! Resets through the API: several topics at once, previews, and groups with live members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Rng, Service, has, says};

const RESET: &str = "/v1/groups/g/offsets/reset";

/// A service with two topics of two partitions each, which hold ten records a partition.
async fn two_topics() -> Service {
    let service = Service::new();
    for topic in ["a", "b"] {
        service.create_topic(topic, 2).await;
        for partition in 0..2 {
            service.append_numbers(topic, partition, 0, 10);
        }
    }
    service
}

async fn commit(service: &Service, topic: &str, partition: u32, offset: u64) {
    let body = json!({"offsets": [{"topic": topic, "partition": partition, "offset": offset}]});
    service.put("/v1/groups/g/offsets", body).await.ok();
}

async fn reset(service: &Service, body: Value) -> Value {
    service.post(RESET, body).await.ok()
}

async fn poll(service: &Service, member: &str, topics: &[&str], ack: &Value) -> Answer {
    let body = json!({"ack": ack, "topics": topics, "wait_ms": 0, "max_records": 4});
    service
        .post(&format!("/v1/groups/g/members/{member}/poll"), body)
        .await
}

/// Topic, partition and offset of the records in an answer.
fn places(polled: &Value) -> Vec<(String, u64, u64)> {
    let records = polled["records"].as_array().expect("records").iter();
    let place = |record: &Value| {
        let number = |name: &str| record[name].as_u64().unwrap();
        let topic = record["topic"].as_str().unwrap().to_owned();
        (topic, number("partition"), number("offset"))
    };
    records.map(place).collect()
}

/// The committed offsets, by topic and partition.
async fn committed(service: &Service) -> Vec<(String, u64, u64)> {
    let answer = service.get("/v1/groups/g/offsets").await.ok();
    places(&json!({"records": answer["offsets"]}))
}

fn all_at(offset: u64) -> Vec<(String, u64, u64)> {
    let topics = ["a", "b"].into_iter();
    let place = |topic: &str| [0, 1].map(|partition| (topic.to_owned(), partition, offset));
    topics.flat_map(place).collect()
}

#[tokio::test]
async fn a_reset_moves_all_topics_of_the_group_at_once_and_says_what_that_means() {
    let service = two_topics().await;
    commit(&service, "a", 1, 4).await;
    commit(&service, "b", 0, 10).await;
    let answer = reset(&service, json!({"to": {"offset": 3}})).await;
    let rows = answer["offsets"].as_array().unwrap();
    let places: Vec<_> = rows
        .iter()
        .map(|row| (row["topic"].as_str().unwrap(), row["partition"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [("a", 0), ("a", 1), ("b", 0), ("b", 1)], "sorted");
    has(
        &rows[0],
        json!({"old_offset": null, "old_timestamp": 0, "old_lag": 10, "new_offset": 3, "new_timestamp": 3000, "new_lag": 7}),
    );
    has(
        &rows[1],
        json!({"old_offset": 4, "old_timestamp": 4000, "old_lag": 6, "new_offset": 3}),
    );
    has(
        &rows[2],
        json!({"old_offset": 10, "old_timestamp": null, "old_lag": 0, "new_offset": 3, "new_lag": 7}),
    );
    assert_eq!(committed(&service).await, all_at(3));
    let service = service.restart().await;
    assert_eq!(committed(&service).await, all_at(3));

    let answer = reset(&service, json!({"topics": ["b"], "to": "latest"})).await;
    let rows = answer["offsets"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    has(
        &rows[0],
        json!({"topic": "b", "new_offset": 10, "new_timestamp": null, "new_lag": 0}),
    );
    let answer = reset(&service, json!({"topics": ["b", "a"], "to": "earliest"})).await;
    assert_eq!(answer["offsets"].as_array().unwrap().len(), 4);
    assert_eq!(committed(&service).await, all_at(0));
}

#[tokio::test]
async fn a_reset_that_names_topics_or_partitions_wrongly_is_refused_at_its_place() {
    let service = two_topics().await;
    commit(&service, "a", 0, 5).await;
    commit(&service, "b", 0, 5).await;
    for (body, pointer) in [
        (json!({"to": "latest", "topics": []}), "/topics"),
        (json!({"to": "latest", "topics": ["a", "a"]}), "/topics/1"),
        (json!({"to": "latest", "topics": ["a"], "topic": "a"}), "/topic"),
        (json!({"to": "latest", "partitions": [0]}), "/partitions"),
        (
            json!({"to": "latest", "topics": ["a", "b"], "partitions": [0]}),
            "/partitions",
        ),
        (
            json!({"to": "latest", "topics": ["a"], "partitions": []}),
            "/partitions",
        ),
        (
            json!({"to": "latest", "topics": ["a"], "partitions": [1, 1]}),
            "/partitions/1",
        ),
        (json!({"to": "latest", "topics": [7]}), "/topics/0"),
        (json!({"to": "latest", "preview": "x"}), "/preview"),
        (json!({"to": "latest", "preview": 1}), "/preview"),
        (json!({"to": "latest", "while_active": 1}), "/while_active"),
        (json!({"topics": ["a"]}), ""),
    ] {
        println!("{body}");
        service.post(RESET, body).await.invalid(pointer);
    }
    let body = json!({"to": "latest", "topics": ["a", "none"]});
    let problem = service.post(RESET, body).await.problem(404, "unknown-topic");
    assert_eq!(problem["pointer"], "/topics/1");
    let expected = [("a".to_owned(), 0, 5), ("b".to_owned(), 0, 5)];
    assert_eq!(committed(&service).await, expected, "nothing was changed");
}

#[tokio::test]
async fn a_preview_holds_until_a_partition_would_move_from_or_to_another_offset() {
    let service = two_topics().await;
    commit(&service, "a", 0, 5).await;
    let wanted = json!({"topic": "a", "to": "latest"});
    let with = |name: &str, value: Value| {
        let mut body = wanted.clone();
        body[name] = value;
        body
    };
    let preview = async || reset(&service, with("dry_run", json!(true))).await["preview"].clone();

    let first = preview().await;
    assert_eq!(preview().await, first, "nothing has changed");
    // The end has moved, and with it the target.
    service.append_numbers("a", 1, 10, 1);
    let outdated = async |preview: &Value| {
        let problem = service.post(RESET, with("preview", preview.clone())).await;
        says(&problem.refusal(412, "preview-outdated", "none"), "dry run");
    };
    outdated(&first).await;
    let second = preview().await;
    assert_ne!(second, first);
    // The group has moved.
    commit(&service, "a", 0, 6).await;
    outdated(&second).await;
    assert_eq!(committed(&service).await, [("a".to_owned(), 0, 6)]);
    let third = preview().await;
    // What happens elsewhere does not count.
    service.append_numbers("b", 1, 10, 1);
    let done = reset(&service, with("preview", third.clone())).await;
    has(&done, json!({"dry_run": false, "preview": third}));
    assert_eq!(
        committed(&service).await,
        [("a".to_owned(), 0, 10), ("a".to_owned(), 1, 11)]
    );
    // It is not the preview of another target, or of another group.
    let fourth =
        reset(&service, json!({"topic": "a", "to": "earliest", "dry_run": true})).await["preview"].clone();
    outdated(&fourth).await;
    service
        .put(
            "/v1/groups/h/offsets",
            json!({"offsets": [
        {"topic": "a", "partition": 0, "offset": 10}, {"topic": "a", "partition": 1, "offset": 11}]}),
        )
        .await
        .ok();
    let body = json!({"topic": "a", "to": "earliest", "preview": fourth});
    service
        .post("/v1/groups/h/offsets/reset", &body)
        .await
        .problem(412, "preview-outdated");
    reset(&service, body).await;
}

#[tokio::test]
async fn live_members_are_in_the_way_unless_the_reset_is_for_them() {
    let service = two_topics().await;
    poll(&service, "m", &["a"], &Value::Null).await.ok();
    let body = json!({"to": "latest"});
    let problem = service.post(RESET, &body).await.problem(409, "group-active");
    says(&problem, "while_active");
    let dry = reset(&service, json!({"to": "latest", "dry_run": true})).await;
    assert_eq!(dry["offsets"].as_array().unwrap().len(), 2);
    let body = json!({"to": "latest", "while_active": true, "preview": dry["preview"]});
    reset(&service, body).await;
    assert_eq!(service.get("/v1/groups/g").await.ok()["state"], "stable");
}

#[tokio::test]
async fn a_member_loses_what_it_had_in_hand_and_reads_from_the_new_offsets() {
    let service = two_topics().await;
    let topics = ["a", "b"];
    let first = poll(&service, "m", &topics, &Value::Null).await.ok();
    assert_eq!(places(&first)[0], ("a".to_owned(), 0, 0));
    reset(
        &service,
        json!({"topics": ["a"], "to": {"offset": 7}, "while_active": true}),
    )
    .await;

    let epoch = &first["epoch"];
    let body = json!({"epoch": epoch, "offsets": [{"topic": "a", "partition": 0, "offset": 2}]});
    service
        .post("/v1/groups/g/members/m/commit", body)
        .await
        .problem(409, "fenced");
    let body = json!({"epoch": epoch});
    service
        .post("/v1/groups/g/members/m/heartbeat", body)
        .await
        .problem(409, "fenced");

    // Every partition that moved, also where the member had nothing in hand.
    let lost = json!([{"topic": "a", "partition": 0}, {"topic": "a", "partition": 1}]);
    let second = poll(&service, "m", &topics, &first["poll_id"]).await.ok();
    assert_eq!(second["lost"], lost);
    assert_ne!(second["epoch"], *epoch);
    assert_eq!(places(&second)[0].2, 7);
    // The answer was lost: the next one says it again. What the member acknowledges of others still counts.
    let again = poll(&service, "m", &topics, &first["poll_id"]).await.ok();
    assert_eq!((&again["lost"], places(&again)), (&lost, places(&second)));
    let third = poll(&service, "m", &topics, &again["poll_id"]).await.ok();
    assert_eq!(third.get("lost"), None, "{third}");
    let (topic, partition, last) = places(&again).pop().unwrap();
    assert!(committed(&service).await.contains(&(topic, partition, last + 1)));
}

#[tokio::test]
async fn a_waiting_poll_is_answered_at_once() {
    let service = Arc::new(two_topics().await);
    commit(&service, "a", 0, 10).await;
    commit(&service, "a", 1, 10).await;
    let waiting = {
        let service = Arc::clone(&service);
        let body = json!({"topics": ["a"], "wait_ms": 60_000, "max_records": 3});
        poll(&service, "m", &["a"], &Value::Null).await.ok();
        tokio::spawn(async move { service.post("/v1/groups/g/members/m/poll", body).await.ok() })
    };
    loop {
        let group = service.get("/v1/groups/g").await.ok();
        if group["members"][0]["polling"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reset(
        &service,
        json!({"topic": "a", "partitions": [1], "to": {"shift": -2}, "while_active": true}),
    )
    .await;
    let polled = waiting.await.unwrap();
    assert_eq!(polled["lost"], json!([{"topic": "a", "partition": 1}]));
    assert_eq!(places(&polled), [("a".to_owned(), 1, 8), ("a".to_owned(), 1, 9)]);
}

#[tokio::test]
async fn an_acknowledgement_of_before_the_reset_commits_nothing_wherever_the_reset_goes() {
    // Into the midst of what was delivered, to its start, and beyond.
    for to in [0, 2, 4, 9] {
        let service = two_topics().await;
        let first = poll(&service, "m", &["a"], &Value::Null).await.ok();
        let body = json!({"topic": "a", "to": {"offset": to}, "while_active": true});
        reset(&service, body).await;
        let second = poll(&service, "m", &["a"], &first["poll_id"]).await.ok();
        assert_eq!(
            committed(&service).await,
            [("a".to_owned(), 0, to), ("a".to_owned(), 1, to)]
        );
        assert_eq!(second["records"][0]["offset"], to);
        assert_eq!(second["lost"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn outputs_are_not_stored_with_what_a_reset_has_taken_back() {
    let service = two_topics().await;
    service.create_topic("out", 1).await;
    let first = poll(&service, "m", &["a"], &Value::Null).await.ok();
    let body = json!({"to": "earliest", "while_active": true});
    reset(&service, body).await;
    let body = json!({"ack": first["poll_id"], "wait_ms": 0, "produce": [{"topic": "out", "value": 1}]});
    let problem = service
        .post("/v1/groups/g/members/m/poll", body)
        .await
        .problem(409, "fenced");
    assert_eq!(problem["lost"], json!([{"topic": "a", "partition": 0}]));
    let out = service
        .get("/v1/topics/out/partitions/0/records?offset=earliest")
        .await
        .ok();
    assert_eq!(out["records"], json!([]));
}

/// Joins a queue over `a` and leases from it.
async fn lease(service: &Service, member: &str, ack: &Value, most: u64) -> Value {
    let body = json!({"ack": ack, "topics": ["a"], "type": "shared", "wait_ms": 0, "max_records": most});
    let path = format!("/v1/groups/g/members/{member}/poll");
    service.post(&path, body).await.ok()
}

async fn settle(service: &Service, member: &str, body: Value) -> Value {
    let path = format!("/v1/groups/g/members/{member}/settle");
    service.post(&path, body).await.ok()
}

fn at(offsets: &[u64]) -> Value {
    let place = |offset| json!({"topic": "a", "partition": 0, "offset": offset});
    offsets.iter().map(place).collect()
}

/// A queue in partition 0 of `a`: so that all records come from there, the other partition is trimmed.
async fn queue() -> Service {
    let service = two_topics().await;
    let path = "/v1/topics/a/partitions/1/records?before=10";
    service.delete(path).await.ok();
    service
}

#[tokio::test]
async fn a_queue_begins_anew_at_the_new_offset_and_what_was_leased_before_is_lost() {
    let service = queue().await;
    let first = lease(&service, "m", &Value::Null, 6).await;
    assert_eq!(places(&first).len(), 6);
    // Settled above the floor, which a reset to the floor takes back.
    settle(&service, "m", json!({"accept": at(&[2, 3])})).await;
    let body = json!({"to": {"offset": 0}, "while_active": true});
    let answer = reset(&service, body).await;
    has(
        &answer["offsets"][0],
        json!({"old_offset": 0, "old_lag": 8, "new_offset": 0, "new_lag": 10}),
    );
    let leases = service.get("/v1/groups/g/leases").await.ok();
    assert_eq!(leases["leases"], json!([]), "leases have ended");
    has(
        &service.get("/v1/groups/g/lag").await.ok(),
        json!({"lag": 10, "leased": 0}),
    );

    let said = settle(
        &service,
        "m",
        json!({"accept": at(&[0]), "release": at(&[1]), "reject": at(&[4]), "extend": at(&[5])}),
    )
    .await;
    assert_eq!(
        (&said["lost"], &said["settled"]),
        (&at(&[0, 1, 4, 5]), &json!([]))
    );
    let second = lease(&service, "n", &Value::Null, 3).await;
    assert_eq!(
        places(&second),
        [0, 1, 2].map(|offset| ("a".to_owned(), 0, offset))
    );
    assert_eq!(second["records"][0]["delivery_count"], 1);
    // The acknowledgement of before: some is somebody else's by now, the rest was leased to nobody since.
    let third = lease(&service, "m", &first["poll_id"], 2).await;
    assert_eq!(third["lost"], at(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(places(&third), [3, 4].map(|offset| ("a".to_owned(), 0, offset)));
    // From here on all is as ever.
    assert_eq!(
        settle(&service, "m", json!({"accept": at(&[3, 4])})).await["lost"],
        json!([])
    );
    let fourth = lease(&service, "n", &second["poll_id"], 9).await;
    assert_eq!(fourth.get("lost"), None);
    lease(&service, "n", &fourth["poll_id"], 9).await;
    assert_eq!(service.get("/v1/groups/g/lag").await.ok()["lag"], 0);
}

#[tokio::test]
async fn a_queue_that_moves_forward_settles_what_it_leaves_behind() {
    let service = queue().await;
    let first = lease(&service, "m", &Value::Null, 3).await;
    reset(&service, json!({"to": {"offset": 8}, "while_active": true})).await;
    let second = lease(&service, "m", &first["poll_id"], 9).await;
    assert_eq!(second["settled"], at(&[0, 1, 2]));
    assert_eq!(places(&second), [8, 9].map(|offset| ("a".to_owned(), 0, offset)));
}

#[tokio::test]
async fn a_queue_without_members_is_reset_over_the_leases_of_those_that_are_gone() {
    let service = queue().await;
    lease(&service, "m", &Value::Null, 3).await;
    settle(&service, "m", json!({"accept": at(&[1])})).await;
    let service = service.restart().await;
    reset(&service, json!({"to": {"offset": 0}})).await;
    let second = lease(&service, "n", &Value::Null, 3).await;
    assert_eq!(
        places(&second),
        [0, 1, 2].map(|offset| ("a".to_owned(), 0, offset))
    );
    let service = service.restart().await;
    let again = lease(&service, "n", &Value::Null, 3).await;
    assert_eq!(places(&again), places(&second), "also after a restart");
}

/// One consumer of two partitions goes on and on, over resets at random and restarts of the server. When it is let go on for
/// the last time, it reads exactly what lies behind the last reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_consumer_ends_exactly_where_the_last_reset_says() {
    let mut rng = Rng::from_environment("a live consumer and resets");
    let mut service = Arc::new(two_topics().await);
    let mut ack = Value::Null;
    for round in 0..6 {
        let is_over = Arc::new(AtomicBool::new(false));
        let consumer = {
            let (service, is_over, mut ack) = (Arc::clone(&service), Arc::clone(&is_over), ack.clone());
            let mut forgets = rng.fork();
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let polled = poll(&service, "m", &["a"], &ack).await.ok();
                    // An answer may be lost.
                    if forgets.below(5) > 0 {
                        ack = polled["poll_id"].clone();
                    }
                    tokio::task::yield_now().await;
                }
                ack
            })
        };
        let mut last = Vec::new();
        for _ in 0..(1 + rng.below(12)) {
            let mut answer = service
                .post(
                    RESET,
                    json!({"to": {"offset": rng.below(11)}, "while_active": true}),
                )
                .await;
            while answer.status == 404 {
                // The consumer has not joined yet.
                tokio::task::yield_now().await;
                answer = service
                    .post(RESET, json!({"to": "earliest", "while_active": true}))
                    .await;
            }
            let answer = answer.ok();
            let rows = answer["offsets"].as_array().unwrap().iter();
            last = rows.map(|row| row["new_offset"].as_u64().unwrap()).collect();
            assert_eq!(last.len(), 2);
            for _ in 0..rng.below(20) {
                tokio::task::yield_now().await;
            }
        }
        // The last reset, and only the acknowledgements of before it come.
        is_over.store(true, Ordering::SeqCst);
        ack = consumer.await.unwrap();
        let to = rng.below(11);
        reset(&service, json!({"to": {"offset": to}, "while_active": true})).await;
        last.fill(to);
        let restarts = rng.below(2) == 0;
        if restarts {
            let only = Arc::try_unwrap(service).unwrap_or_else(|_| panic!("the consumer has ended"));
            service = Arc::new(only.restart().await);
        }
        let (mut read, mut sent) = ([Vec::new(), Vec::new()], ack.clone());
        loop {
            let polled = poll(&service, "m", &["a"], &sent).await.ok();
            for (_, partition, offset) in places(&polled) {
                read[partition as usize].push(offset);
            }
            sent = polled["poll_id"].clone();
            if places(&polled).is_empty() {
                break;
            }
        }
        for (found, from) in read.iter().zip(&last) {
            let expected: Vec<u64> = (*from..10).collect();
            assert_eq!(*found, expected, "round {round}, restarted: {restarts}");
        }
        ack = sent;
    }
}

/// The same for a queue: what its worker does late with records of before the last reset counts nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_queue_ends_exactly_where_the_last_reset_says() {
    let mut rng = Rng::from_environment("a live queue and resets");
    let mut service = Arc::new(two_topics().await);
    lease(&service, "m", &Value::Null, 1).await;
    for round in 0..6 {
        let is_over = Arc::new(AtomicBool::new(false));
        let worker = {
            let (service, is_over, mut chance) = (Arc::clone(&service), Arc::clone(&is_over), rng.fork());
            tokio::spawn(async move {
                let mut polled = lease(&service, "m", &Value::Null, 4).await;
                while !is_over.load(Ordering::SeqCst) {
                    let in_hand = json!(
                        places(&polled)
                            .iter()
                            .map(|(topic, partition, offset)| {
                                json!({"topic": topic, "partition": partition, "offset": offset})
                            })
                            .collect::<Vec<Value>>()
                    );
                    let ack = match chance.below(4) {
                        0 => polled["poll_id"].clone(),
                        1 => {
                            settle(&service, "m", json!({"accept": in_hand})).await;
                            Value::Null
                        }
                        2 => {
                            settle(&service, "m", json!({"release": in_hand})).await;
                            Value::Null
                        }
                        // Its answer was lost: the leases stay.
                        _ => Value::Null,
                    };
                    polled = lease(&service, "m", &ack, 4).await;
                    tokio::task::yield_now().await;
                }
                polled
            })
        };
        for _ in 0..(1 + rng.below(12)) {
            reset(
                &service,
                json!({"to": {"offset": rng.below(11)}, "while_active": true}),
            )
            .await;
            for _ in 0..rng.below(20) {
                tokio::task::yield_now().await;
            }
        }
        is_over.store(true, Ordering::SeqCst);
        let last = worker.await.unwrap();
        let to = rng.below(11);
        reset(&service, json!({"to": {"offset": to}, "while_active": true})).await;
        // Late work with what was leased before.
        let in_hand: Vec<Value> = last["records"].as_array().unwrap().iter().map(|record| {
            json!({"topic": record["topic"], "partition": record["partition"], "offset": record["offset"]})
        }).collect();
        let kept = |name: &str, said: &Value| said[name].as_array().map_or(0, Vec::len);
        let said = settle(&service, "m", json!({"accept": in_hand, "extend": in_hand})).await;
        assert_eq!(
            kept("lost", &said) + kept("settled", &said),
            in_hand.len(),
            "{said}"
        );
        let mut polled = lease(&service, "m", &last["poll_id"], 3).await;
        assert_eq!(
            kept("lost", &polled) + kept("settled", &polled),
            in_hand.len(),
            "{polled}"
        );
        let mut read = Vec::new();
        while !places(&polled).is_empty() {
            read.extend(places(&polled));
            polled = lease(&service, "m", &polled["poll_id"], 3).await;
        }
        read.sort_unstable();
        let expected =
            (0..2).flat_map(|partition| (to..10).map(move |offset| ("a".to_owned(), partition, offset)));
        assert_eq!(read, expected.collect::<Vec<_>>(), "round {round}, to {to}");
        if rng.below(2) == 0 {
            let only = Arc::try_unwrap(service).unwrap_or_else(|_| panic!("the worker has ended"));
            service = Arc::new(only.restart().await);
        }
    }
}
