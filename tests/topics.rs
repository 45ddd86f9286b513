//! The contract of topics.

mod support;

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
    ] {
        let body = json!({"config": {name: value}});
        service.put(A, body).await.invalid(&format!("/config/{name}"));
    }
    for later in ["cleanup_policy", "compression", "key_index"] {
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
    let first = "ack dedupe_window_ms max_record_bytes retention_bytes";
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
