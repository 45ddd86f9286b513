//! The contract of topics.

mod support;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{JSON, Service, expect, has, refused};

const A: &str = "/v1/topics/a";
const ORDERS: &str = "/v1/topics/orders";
#[tokio::test]
async fn a_topic_is_made_once_and_repeating_it_is_harmless() {
    let service = Service::new();
    let body = json!({"partitions": 6, "config": {"retention_ms": 5000}});
    let made = service.put(ORDERS, body).await.with_status(201);
    assert_eq!(made.header("location"), Some(ORDERS));
    let made = made.json();
    has(&made, json!({"name": "orders", "partition_count": 6}));
    assert_eq!(made["partitions"].as_array().unwrap().len(), 6);

    for same in [
        json!({"partitions": 6, "config": {"retention_ms": 5000}}),
        json!({"partitions": 6}),
        json!({"partitions": 6, "config": {"ack": "durable", "segment_ms": null}}),
        json!({}),
    ] {
        let again = service.put(ORDERS, same).await.ok();
        assert_eq!(again, made);
    }
    for other in [
        json!({"partitions": 5}),
        json!({"partitions": 6, "config": {"retention_ms": 5001}}),
        json!({"partitions": 6, "config": {"retention_ms": null}}),
    ] {
        service.put(ORDERS, other).await.problem(409, "topic-exists");
    }
}

#[tokio::test]
async fn a_topic_has_one_partition_where_nobody_says_otherwise() {
    let service = Service::new();
    let made = service.send(Method::PUT, A, &[], "").await.created();
    assert_eq!(made["partition_count"], 1);
}

#[tokio::test]
async fn names_are_checked_when_a_topic_is_made() {
    let service = Service::new();
    let longest = "n".repeat(249);
    for good in ["a", "A.b_c-9", "_a", longest.as_str()] {
        service.create_topic(good, 1).await;
    }
    let too_long = "n".repeat(250);
    for bad in [".", "..", "__a", "a%20b", "a%2Fb", "%C3%BC", "%FF", &too_long] {
        let answer = service.put(&format!("/v1/topics/{bad}"), json!({})).await;
        answer.problem(400, "invalid-request");
    }
    refused(service.get("/v1/topics/a%2Fb"), 404, "unknown-topic").await;
}

#[tokio::test]
async fn what_a_topic_cannot_be_is_refused_where_it_is_said() {
    let service = Service::new();
    for (body, pointer) in [
        (json!({"partitions": 0}), "/partitions"),
        (json!({"partitions": 10_001}), "/partitions"),
        (json!({"partitions": "6"}), "/partitions"),
        (json!({"config": {"retention": 5}}), "/config/retention"),
        (json!({"config": {"ack": true}}), "/config/ack"),
    ] {
        service.put(A, body).await.invalid(pointer);
    }
    for (name, value) in [
        ("segment_bytes", json!(1_048_575)),
        ("timestamp_type", json!("mine")),
        ("delete_protection", json!("true")),
        ("delete_protection", json!(1)),
    ] {
        let body = json!({"config": {name: value}});
        service.put(A, body).await.invalid(&format!("/config/{name}"));
    }
    for later in ["cleanup_policy", "key_index"] {
        let answer = service.put(A, json!({"config": {later: "x"}})).await;
        let problem = answer.problem(501, "not-supported");
        assert_eq!(problem["pointer"], format!("/config/{later}"));
    }
    refused(service.put(A, json!({"partition": 6})), 400, "invalid-request").await;
    let answer = service.put("/v1/topics/a?partitions=6", json!({})).await;
    answer.problem(400, "invalid-request");
    for (body, pointer) in [
        (r#"{"partitions":1.5}"#, "/partitions"),
        (r#"{"partitions":-1}"#, "/partitions"),
        (r#"{"config":[]}"#, "/config"),
        (r#"{"config":{"ack":"durable","ack":"written"}}"#, "/config"),
        ("[]", ""),
        ("[3]", ""),
        ("6", ""),
        (r#"{"partition":6}"#, "/partition"),
        (r#"{"partitions":1,"partitions":2}"#, ""),
        ("{} {}", ""),
        ("{", ""),
    ] {
        service.send(Method::PUT, A, JSON, body).await.invalid(pointer);
    }
    for wrong in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-ndjson")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        let answer = service.send(Method::PUT, A, wrong, "{}").await;
        answer.problem(415, "unsupported-media-type");
    }
    let answer = service.send(Method::PUT, A, JSON, "x".repeat(70_000)).await;
    answer.problem(413, "request-too-large");
    service.get(A).await.problem(404, "unknown-topic");
}

#[tokio::test]
async fn a_new_topic_needs_no_body_and_a_change_does() {
    let service = Service::new();
    for (headers, body) in [
        (&[][..], ""),
        (&[("content-type", "application/x-www-form-urlencoded")], ""),
        (JSON, " \n"),
        (JSON, "{}"),
        (
            &[("content-type", "Application/JSON; charset=utf-8")],
            r#"{"config":null}"#,
        ),
        (
            &[("content-type", "application/merge-patch+json")],
            r#"{"partitions":null,"config":{}}"#,
        ),
    ] {
        service.delete(A).await;
        let answer = service.send(Method::PUT, A, headers, body).await;
        assert_eq!(answer.created()["partition_count"], 1, "{body:?}");
        let missing = service.send(Method::PATCH, A, headers, "").await;
        missing.problem(400, "invalid-request");
    }
}

#[tokio::test]
async fn a_description_tells_positions_size_times_and_where_settings_come_from() {
    let service = Service::new();
    let body = json!({"partitions": 2, "config": {"segment_ms": 9000}});
    service.put(A, body).await.with_status(201);
    service.append_numbers("a", 1, 3, 4);
    let topic = service.get(A).await.ok();
    let expected = json!({"partition": 0, "log_start_offset": 0, "end_offset": 0, "size_bytes": 0,
        "segments": 0, "first_timestamp": null, "last_timestamp": null});
    assert_eq!(topic["partitions"][0], expected);
    let second = &topic["partitions"][1];
    let expected = json!({"partition": 1, "log_start_offset": 0, "end_offset": 4, "first_timestamp": 3000,
        "last_timestamp": 6000});
    has(second, expected);
    assert!(second["size_bytes"].as_u64().unwrap() > 61, "{second}");
    assert_eq!(second["segments"], 1);
    let expected = json!({"value": 9000, "default": 604_800_000, "source": "topic"});
    assert_eq!(topic["config"]["segment_ms"], expected);
    let expected = json!({"value": 1_048_576, "default": 1_048_576, "source": "default"});
    assert_eq!(topic["config"]["max_record_bytes"], expected);
    let expected = json!({"value": null, "default": null, "source": "default"});
    assert_eq!(topic["config"]["retention_ms"], expected);
    let keys = topic["config"].as_object().unwrap().keys().cloned();
    let keys = keys.collect::<Vec<String>>().join(" ");
    let first = "ack compression_type dedupe_window_ms delete_protection max_record_bytes retention_bytes";
    let second = "retention_ms segment_bytes segment_ms timestamp_type";
    assert_eq!(keys, format!("{first} {second}"));
}

#[tokio::test]
async fn lists_are_by_name_and_in_parts() {
    let service = Service::new();
    for name in ["c", "a", "b"] {
        service.create_topic(name, 1).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let topics = list["topics"].as_array().unwrap();
        topics
            .iter()
            .map(|topic| topic["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = service.get("/v1/topics").await.ok();
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert_eq!(all.get("next"), None);
    assert_eq!(all["topics"][0]["partition_count"], 1);
    assert_eq!(all["topics"][0]["config"]["ack"]["value"], "durable");
    assert_eq!(all["topics"][0].get("partitions"), None);

    let first = service.get("/v1/topics?limit=2").await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["next"], "b");
    let second = service.get("/v1/topics?limit=2&after=b").await.ok();
    assert_eq!((names(&second), second.get("next")), (vec!["c".to_owned()], None));
    let behind_nothing = service.get("/v1/topics?after=aa").await.ok();
    assert_eq!(names(&behind_nothing), ["b", "c"]);
    for wrong in ["limit=0", "limit=1001", "limit=x", "page=2"] {
        let answer = service.get(&format!("/v1/topics?{wrong}")).await;
        answer.problem(400, "invalid-request");
    }
}

/// The names of a list.
fn names(list: &Value) -> Vec<&str> {
    let topics = list["topics"].as_array().unwrap();
    topics
        .iter()
        .map(|topic| topic["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_list_has_each_topics_figures_and_a_description_has_them_too() {
    let service = Service::new();
    service.create_topic("a", 2).await;
    service.create_topic("b", 1).await;
    service.append_numbers("a", 0, 0, 5);
    service.append_numbers("a", 1, 7, 3);
    let offsets = json!({"offsets": [{"topic": "a", "partition": 0, "offset": 1}]});
    for group in ["second", "first"] {
        service
            .put(&format!("/v1/groups/{group}/offsets"), &offsets)
            .await
            .ok();
    }
    service
        .delete("/v1/topics/a/partitions/0/records?before=2")
        .await
        .ok();
    let list = service.get("/v1/topics?config=false").await.ok();
    let [a, b] = &list["topics"].as_array().unwrap()[..] else {
        panic!("{list}")
    };
    let expected = json!({"name": "a", "partition_count": 2, "records": 6, "produce_rate": 0.0, "produce_bytes_rate": 0.0,
        "last_timestamp": 9000, "groups": ["first", "second"], "damaged": false});
    has(a, expected);
    assert_eq!((a.get("config"), a.get("partitions")), (None, None));
    assert!(a["size_bytes"].as_u64().unwrap() > 100, "{a}");
    assert!(a["id"].as_str().unwrap().len() > 16);
    let expected = json!({"records": 0, "size_bytes": 0, "last_timestamp": null, "groups": []});
    has(b, expected);
    let described = service.get(A).await.ok();
    for (name, value) in a.as_object().unwrap() {
        assert_eq!(described[name], *value, "{name}");
    }
    // The time of the newest record follows what is appended.
    service.append_numbers("a", 0, 20, 1);
    assert_eq!(
        service.get("/v1/topics?q=a").await.ok()["topics"][0]["last_timestamp"],
        20_000
    );
}

#[tokio::test]
async fn rates_are_those_of_the_last_ten_seconds() {
    let service = Service::start();
    service.topic("a", 2);
    service.topic("b", 1);
    service.app.traffic.sample();
    for second in 1..=12 {
        service.pass(Duration::from_secs(1));
        service.append_numbers("a", second % 2, 0, 10);
        service.append_numbers("b", 0, 0, if second > 10 { 100 } else { 0 } + 1);
        if second == 11 {
            let fetched = service.get("/v1/topics/a/partitions/0/records?offset=0").await;
            assert_eq!(fetched.ok()["records"].as_array().unwrap().len(), 50);
        }
        service.app.traffic.sample();
    }
    let list = service.get("/v1/topics?sort=rate").await.ok();
    assert_eq!(names(&list), ["b", "a"]);
    let (b, a) = (&list["topics"][0], &list["topics"][1]);
    assert_eq!(
        (&a["produce_rate"], &b["produce_rate"]),
        (&json!(10.0), &json!(21.0))
    );
    for of in ["produce_bytes_rate", "fetch_bytes_rate"] {
        assert!(a[of].as_f64().unwrap() > 10.0, "{of} of {a}");
    }
    assert_eq!(b["fetch_bytes_rate"], 0.0);
    let rates = &service.get("/v1/status").await.ok()["rates"];
    assert_eq!(rates["produce_rate"], 31.0);
    service.delete("/v1/topics/b").await.with_status(204);
    service.app.traffic.sample();
    let rates = &service.get("/v1/status").await.ok()["rates"];
    assert_eq!(rates["produce_rate"], 31.0, "what was written stays written");
    service.pass(Duration::from_secs(11));
    let list = service.get("/v1/topics").await.ok();
    assert_eq!(list["topics"][0]["produce_rate"], 0.0);
}

#[tokio::test]
async fn lists_are_searched_sorted_and_paged_without_a_topic_lost_or_twice() {
    let service = Service::new();
    let sizes = [
        ("x-1", 3),
        ("X-2", 40),
        ("x-3", 0),
        ("y-1", 7),
        ("x-4", 40),
        ("x-5", 1),
    ];
    for (name, records) in sizes {
        service.create_topic(name, 1).await;
        if records > 0 {
            service.append_numbers(name, 0, 100, records);
        }
    }
    for (query, expected) in [
        ("", &["X-2", "x-1", "x-3", "x-4", "x-5", "y-1"][..]),
        ("sort=size", &["X-2", "x-4", "y-1", "x-1", "x-5", "x-3"]),
        ("sort=size&q=X", &["X-2", "x-4", "x-1", "x-5", "x-3"]),
        ("sort=name&q=-1", &["x-1", "y-1"]),
        ("q=nothing", &[]),
        ("sort=rate&q=y", &["y-1"]),
    ] {
        let all = service.get(&format!("/v1/topics?{query}")).await.ok();
        assert_eq!(
            (names(&all), all.get("next")),
            (expected.to_vec(), None),
            "{query}"
        );
        for limit in 1..4 {
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let page = service
                    .get(&format!("/v1/topics?{query}&limit={limit}{after}"))
                    .await
                    .ok();
                found.extend(names(&page).into_iter().map(str::to_owned));
                let Some(next) = page["next"].as_str() else {
                    break;
                };
                assert_eq!(names(&page).len(), limit);
                after = format!("&after={next}");
            }
            assert_eq!(found, expected, "{query} by {limit}");
        }
    }
    for (query, pointer) in [
        ("sort=age", "sort"),
        ("sort=", "sort"),
        ("config=no", "config"),
        ("sort=size&after=x-1", "after"),
        ("sort=rate&after=x:y", "after"),
        ("order=name", "order"),
    ] {
        service.get(&format!("/v1/topics?{query}")).await.invalid(pointer);
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let service = Service::new();
    service
        .put(A, json!({"partitions": 2, "config": {"segment_ms": 1000}}))
        .await
        .with_status(201);
    for number in 0..4 {
        service.append_numbers("a", 0, number, 1);
    }
    service.append_numbers("a", 1, 0, 2);
    let commit = |group: &str, offset: u64| {
        let body = json!({"offsets": [{"topic": "a", "partition": 0, "offset": offset}]});
        let uri = format!("/v1/groups/{group}/offsets");
        let service = &service;
        async move { service.put(&uri, body).await.ok() }
    };
    commit("done", 4).await;
    commit("behind", 1).await;
    let before = service.get(A).await.ok();

    let topic = service.delete("/v1/topics/a?dry_run=true").await.ok();
    has(
        &topic,
        json!({"dry_run": true, "records": 6, "groups": ["behind", "done"]}),
    );
    assert_eq!(topic["size_bytes"], before["size_bytes"]);
    let records = "/v1/topics/a/partitions/0/records";
    let some = service
        .delete(&format!("{records}?before=3&dry_run=true"))
        .await
        .ok();
    has(
        &some,
        json!({"dry_run": true, "records": 3, "groups": ["behind"]}),
    );
    let partition = before["partitions"][0]["size_bytes"].as_u64().unwrap();
    assert_eq!(some["size_bytes"].as_u64().unwrap(), partition / 4 * 3);
    let none = json!({"dry_run": true, "records": 0, "size_bytes": 0, "groups": []});
    assert_eq!(
        service
            .delete(&format!("{records}?before=0&dry_run=true"))
            .await
            .ok(),
        none
    );
    refused(
        service.delete(&format!("{records}?before=5&dry_run=true")),
        416,
        "offset-out-of-range",
    )
    .await;

    // All records are decades old.
    let lower = json!({"config": {"retention_ms": 1000}});
    let change = service.patch("/v1/topics/a?dry_run=true", &lower).await.ok();
    has(&change, json!({"records": 6, "groups": ["behind", "done"]}));
    let harmless = json!({"partitions": 3, "config": {"ack": "written"}});
    assert_eq!(
        service.patch("/v1/topics/a?dry_run=true", harmless).await.ok(),
        none
    );
    let fewer = service.patch("/v1/topics/a?dry_run=true", json!({"partitions": 1}));
    refused(fewer, 409, "partitions-cannot-shrink").await;
    assert_eq!(service.get(A).await.ok(), before, "nothing was changed");

    for uri in ["/v1/topics/a?dry_run=1", "/v1/topics/a?dry_run="] {
        service.delete(uri).await.invalid("dry_run");
        service.patch(uri, json!({})).await.invalid("dry_run");
    }
    service.delete("/v1/topics/a?force=true").await.invalid("force");
    refused(
        service.delete("/v1/topics/none?dry_run=true"),
        404,
        "unknown-topic",
    )
    .await;
    assert_eq!(
        service
            .delete(&format!("{records}?before=3&dry_run=false"))
            .await
            .ok()["log_start_offset"],
        3
    );
}

#[tokio::test]
async fn a_change_that_is_meant_for_another_topic_is_refused() {
    let service = Service::new();
    let first = service.create_topic("a", 1).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    service
        .delete(&format!("/v1/topics/a?if_id={first}&dry_run=true"))
        .await
        .ok();
    service
        .delete(&format!("/v1/topics/a?if_id={first}"))
        .await
        .with_status(204);
    let second = service.create_topic("a", 1).await["id"].clone();
    service.append_numbers("a", 0, 0, 3);
    for dry_run in ["", "&dry_run=true"] {
        let query = format!("if_id={first}{dry_run}");
        let answer = service.delete(&format!("/v1/topics/a?{query}")).await;
        assert_eq!(answer.refusal(412, "topic-changed", "none")["id"], second);
        let answer = service
            .patch(&format!("/v1/topics/a?{query}"), json!({"partitions": 2}))
            .await;
        answer.refusal(412, "topic-changed", "none");
        let answer = service
            .delete(&format!("/v1/topics/a/partitions/0/records?before=2&{query}"))
            .await;
        answer.refusal(412, "topic-changed", "none");
    }
    let topic = service.get(A).await.ok();
    assert_eq!(
        (&topic["partition_count"], &topic["records"]),
        (&json!(1), &json!(3))
    );
    let id = second.as_str().unwrap();
    service
        .patch(&format!("/v1/topics/a?if_id={id}"), json!({"partitions": 2}))
        .await
        .ok();
    service
        .delete(&format!("/v1/topics/a/partitions/0/records?before=2&if_id={id}"))
        .await
        .ok();
    refused(
        service.delete(&format!("/v1/topics/b?if_id={id}")),
        404,
        "unknown-topic",
    )
    .await;
}

#[tokio::test]
async fn a_protected_topic_loses_nothing_until_the_protection_is_taken_away() {
    let service = Service::new();
    let config = json!({"retention_ms": 1000, "retention_bytes": 5000, "delete_protection": true});
    let made = service.put(A, json!({"config": config})).await.created();
    let setting = json!({"value": true, "default": false, "source": "topic"});
    assert_eq!(made["config"]["delete_protection"], setting);
    service.append_numbers("a", 0, 0, 3);
    let records = "/v1/topics/a/partitions/0/records?before=2";
    for uri in [
        A,
        "/v1/topics/a?dry_run=true",
        records,
        &format!("{records}&dry_run=true"),
    ] {
        service.delete(uri).await.refusal(409, "topic-protected", "none");
    }
    for lower in [
        json!({"retention_ms": 999}),
        json!({"retention_bytes": 1}),
        json!({"retention_ms": 1, "delete_protection": false}),
    ] {
        for uri in [A, "/v1/topics/a?dry_run=true"] {
            let answer = service.patch(uri, json!({"config": lower})).await;
            answer.refusal(409, "topic-protected", "none");
        }
    }
    let longer =
        json!({"partitions": 2, "config": {"retention_ms": null, "retention_bytes": 5001, "ack": "written"}});
    service.patch(A, longer).await.ok();
    refused(
        service.patch(A, json!({"config": {"retention_ms": 1_u64 << 40}})),
        409,
        "topic-protected",
    )
    .await;
    let service = service.restart().await;
    service.delete(A).await.problem(409, "topic-protected");
    service
        .patch(A, json!({"config": {"delete_protection": null}}))
        .await
        .ok();
    service.delete(records).await.ok();
    service.delete(A).await.with_status(204);
}

#[tokio::test]
async fn partitions_are_raised_and_never_lowered() {
    let service = Service::new();
    service.create_topic("a", 3).await;
    let raised = service.patch(A, json!({"partitions": 5})).await.ok();
    assert_eq!(raised["partition_count"], 5);
    assert_eq!(raised["partitions"].as_array().unwrap().len(), 5);
    service.append_numbers("a", 4, 0, 1);
    service.patch(A, json!({"partitions": 5})).await.with_status(200);
    let answer = service.patch(A, json!({"partitions": 4})).await;
    answer.problem(409, "partitions-cannot-shrink");
    refused(service.patch(A, json!({"partitions": 0})), 400, "invalid-request").await;
    let answer = service.patch(A, json!({"partitions": 10_001})).await;
    answer.problem(400, "invalid-request");
    assert_eq!(service.get(A).await.json()["partition_count"], 5);
}

#[tokio::test]
async fn a_setting_is_changed_and_taken_back_all_or_nothing_and_survives_a_restart() {
    let service = Service::new();
    expect(service.put(A, json!({"config": {"retention_ms": 5000}})), 201).await;
    let setting = |topic: &Value, key: &str| {
        let setting = topic["config"][key].clone();
        (setting["value"].clone(), setting["source"].clone())
    };

    let body = json!({"config": {"retention_ms": null, "ack": "written", "max_record_bytes": 99}});
    let changed = service.patch(A, body).await.ok();
    assert_eq!(setting(&changed, "retention_ms"), (Value::Null, json!("default")));
    assert_eq!(setting(&changed, "ack"), (json!("written"), json!("topic")));

    let body = json!({"partitions": 2, "config": {"ack": "durable", "zzz": 1}});
    service.patch(A, body).await.problem(400, "invalid-request");
    assert_eq!(service.get(A).await.json(), changed);
    assert_eq!(service.patch(A, json!({})).await.ok(), changed);

    let service = service.restart().await;
    assert_eq!(service.get(A).await.ok(), changed);
    refused(service.patch("/v1/topics/b", json!({})), 404, "unknown-topic").await;
}

#[tokio::test]
async fn a_topic_made_again_under_the_same_name_is_another_topic() {
    let service = Service::new();
    let first = service.create_topic("a", 1).await;
    service.append_numbers("a", 0, 0, 3);
    let gone = service.delete(A).await.with_status(204);
    assert!(gone.body.is_empty());
    service.delete(A).await.problem(404, "unknown-topic");
    service.get(A).await.problem(404, "unknown-topic");
    let second = service.create_topic("a", 1).await;
    assert_ne!(first["id"], second["id"]);
    assert_eq!(second["partitions"][0]["end_offset"], 0);

    let service = service.restart().await;
    assert_eq!(service.get(A).await.json()["id"], second["id"]);
    let elsewhere = Service::new();
    let other = elsewhere.put(A, json!({})).await.created();
    assert_ne!(other["id"], first["id"]);
}

#[tokio::test]
async fn the_log_start_moves_up_and_never_down() {
    let service = Service::new();
    service.create_topic("a", 2).await;
    service.append_numbers("a", 1, 0, 10);
    let records = "/v1/topics/a/partitions/1/records";
    for (before, start) in [(0, 0), (4, 4), (2, 4), (10, 10)] {
        let answer = service.delete(&format!("{records}?before={before}")).await.ok();
        assert_eq!(answer, json!({"log_start_offset": start}), "before {before}");
    }
    let answer = service.delete(&format!("{records}?before=11")).await;
    let problem = answer.problem(416, "offset-out-of-range");
    has(&problem, json!({"log_start_offset": 10, "end_offset": 10}));
    for wrong in ["", "?before=", "?before=-1", "?before=latest", "?offset=3"] {
        let answer = service.delete(&format!("{records}{wrong}")).await;
        answer.problem(400, "invalid-request");
    }
    let service = service.restart().await;
    let topic = service.get(A).await.json();
    assert_eq!(topic["partitions"][1]["log_start_offset"], 10);
}

#[tokio::test]
async fn an_offset_is_found_by_time_even_where_clocks_went_back() {
    let service = Service::new();
    service.create_topic("a", 1).await;
    let offsets = "/v1/topics/a/partitions/0/offsets";
    let at = async |service: &Service, at: &str| {
        let found = service.get(&format!("{offsets}?at={at}")).await.ok();
        (found["offset"].as_u64().unwrap(), found["timestamp"].as_i64())
    };
    assert_eq!(at(&service, "earliest").await, (0, None));
    assert_eq!(at(&service, "latest").await, (0, None));
    assert_eq!(at(&service, "5").await, (0, None));
    for timestamp in [1000, 5000, 2000, 6000] {
        service.append("a", 0, true, &[(timestamp, None, Some(b"1"), &[])]);
    }
    assert_eq!(at(&service, "earliest").await, (0, Some(1000)));
    assert_eq!(at(&service, "latest").await, (4, None));
    for (time, expected) in [
        ("0", (0, Some(1000))),
        ("1000", (0, Some(1000))),
        ("1001", (1, Some(5000))),
        ("5000", (1, Some(5000))),
        ("1970-01-01T00:00:05.5Z", (3, Some(6000))),
        ("6001", (4, None)),
        ("9999-12-31T23:59:59Z", (4, None)),
        ("0001-01-01T00:00:00Z", (0, Some(1000))),
        ("1969-12-31T23:59:59.999Z", (0, Some(1000))),
    ] {
        assert_eq!(at(&service, time).await, expected, "at={time}");
    }
    expect(service.delete("/v1/topics/a/partitions/0/records?before=2"), 200).await;
    assert_eq!(at(&service, "earliest").await, (2, Some(2000)));
    assert_eq!(at(&service, "0").await, (2, Some(2000)));
    for wrong in ["", "?at=", "?at=first", "?at=-1", "?at=earliest&x=1"] {
        refused(service.get(&format!("{offsets}{wrong}")), 400, "invalid-request").await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let service = Service::new();
    service.create_topic("a", 2).await;
    for uri in ["/v1/topics/b", "/v1/topics/b/partitions/0/offsets?at=latest"] {
        service.get(uri).await.problem(404, "unknown-topic");
    }
    for partition in ["2", "-1", "x", "01"] {
        let uri = format!("/v1/topics/a/partitions/{partition}/offsets?at=latest");
        service.get(&uri).await.problem(404, "unknown-partition");
        let uri = format!("/v1/topics/a/partitions/{partition}/records?before=0");
        service.delete(&uri).await.problem(404, "unknown-partition");
    }
}
