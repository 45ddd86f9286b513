//! Groups without members, and their lag, through the router.

use crate::support::{NOW, Service, has, invalid, refused};
use http::Method;
use quipu_segments::TopicSettings;
use serde_json::{Value, json};

const G: &str = "/v1/groups/g";
const OFFSETS: &str = "/v1/groups/g/offsets";
const RESET: &str = "/v1/groups/g/offsets/reset";
async fn commit(service: &Service, group: &str, offsets: Value) {
    let body = json!({ "offsets": offsets });
    let uri = format!("/v1/groups/{group}/offsets");
    service.put(&uri, &body).await.ok();
}

/// A row of a commit to partition 0 of `orders`.
fn at(offset: u64) -> Value {
    json!({"topic": "orders", "partition": 0, "offset": offset})
}

/// A service with the topic `orders` of so many partitions, the first of which has records with these timestamps.
fn with_orders(partitions: u32, timestamps: &[i64]) -> Service {
    let service = Service::start();
    service.topic("orders", partitions);
    if !timestamps.is_empty() {
        service.append_at("orders", 0, timestamps);
    }
    service
}

#[tokio::test]
async fn a_commit_makes_the_group_and_is_there_after_a_restart() {
    let service = with_orders(2, &[1, 2, 3]);
    refused(service.get("/v1/groups/billing"), 404, "unknown-group").await;
    refused(service.get("/v1/groups/billing/offsets"), 404, "unknown-group").await;
    let offsets = json!([
        {"topic": "orders", "partition": 1, "offset": 0, "metadata": null},
        {"topic": "orders", "partition": 0, "offset": 2, "metadata": "batch 7"},
    ]);
    let body = json!({ "offsets": offsets });
    let answer = service.put("/v1/groups/billing/offsets", &body).await.ok();
    assert_eq!(answer["offsets"], offsets);

    let service = service.restart().await;
    let answer = service.get("/v1/groups/billing/offsets").await.ok();
    // Sorted by topic and partition.
    assert_eq!(answer["offsets"], json!([offsets[1], offsets[0]]));
    let group = service.get("/v1/groups/billing").await.ok();
    let expected = json!({"group": "billing", "state": "empty", "type": "ordered", "topics": [],
        "members": [], "settings": {"filter": null}});
    assert_eq!(group, expected);
}

#[tokio::test]
async fn what_was_read_can_be_committed_as_it_stands() {
    let service = with_orders(1, &[]);
    commit(&service, "a", json!([at(0)])).await;
    let read = service.get("/v1/groups/a/offsets").await.ok();
    assert_eq!(service.put("/v1/groups/b/offsets", &read).await.ok(), read);
}

#[tokio::test]
async fn a_group_with_nothing_committed_exists_once_it_was_made_and_goes_when_it_is_deleted() {
    let service = Service::start();
    commit(&service, "g", json!([])).await;
    assert_eq!(service.get(OFFSETS).await.ok(), json!({"offsets": []}));
    assert_eq!(service.get("/v1/groups").await.ok()["groups"][0]["group"], "g");
    let deleted = service.delete(G).await;
    assert_eq!((deleted.status, deleted.text()), (204, ""));
    service.delete(G).await.problem(404, "unknown-group");
    assert_eq!(service.get("/v1/groups").await.ok(), json!({"groups": []}));
}

#[tokio::test]
async fn a_deleted_group_takes_its_offsets_with_it_and_nobody_elses() {
    let service = with_orders(1, &[1, 2]);
    for group in ["a", "ab"] {
        commit(&service, group, json!([at(1)])).await;
    }
    service.delete("/v1/groups/a").await;
    commit(&service, "a", json!([])).await;
    let found = service.get("/v1/groups/a/offsets").await.ok();
    assert_eq!(found, json!({"offsets": []}));
    let found = &service.get("/v1/groups/ab/offsets").await.ok()["offsets"][0]["offset"];
    assert_eq!(found, 1);
}

#[tokio::test]
async fn lists_are_sorted_and_go_on_after_the_last_name() {
    let service = Service::start();
    for group in ["c", "a", "b"] {
        commit(&service, group, json!([])).await;
    }
    let names = |answer: &Value| -> Vec<String> {
        let rows = answer["groups"].as_array().unwrap();
        rows.iter()
            .map(|row| row["group"].as_str().unwrap().to_owned())
            .collect()
    };
    for path in ["/v1/groups", "/v1/lag"] {
        let first = service.get(&format!("{path}?limit=2")).await.ok();
        assert_eq!(names(&first), ["a", "b"]);
        let next = first["next"].as_str().unwrap();
        let second = service.get(&format!("{path}?limit=2&after={next}")).await.ok();
        assert_eq!(names(&second), ["c"]);
        assert_eq!(second.get("next"), None);
        service.get(&format!("{path}?limit=0")).await.invalid("limit");
        service.get(&format!("{path}?offset=1")).await.invalid("offset");
    }
}

#[tokio::test]
async fn a_commit_that_cannot_be_is_refused_at_its_place_and_nothing_is_committed() {
    let service = with_orders(2, &[1, 2, 3]);
    let good = at(1);
    let other = json!({"topic": "orders", "partition": 1, "offset": 0});
    let row = |name: &str, value: Value| {
        let mut row = good.clone();
        row[name] = value;
        row
    };
    for (name, value, status, code) in [
        ("offset", json!(4), 400, "invalid-request"),
        ("offset", json!(-1), 400, "invalid-request"),
        ("offset", json!(u64::MAX), 400, "invalid-request"),
        ("offset", json!("1"), 400, "invalid-request"),
        ("metadata", json!("x".repeat(4097)), 400, "invalid-request"),
        ("ofset", json!(1), 400, "invalid-request"),
        ("partition", json!(2), 404, "unknown-partition"),
        ("topic", json!("none"), 404, "unknown-topic"),
        // The same partition twice.
        ("partition", json!(1), 400, "invalid-request"),
    ] {
        let body = json!({"offsets": [other, row(name, value)]});
        let problem = service.put(OFFSETS, &body).await.refusal(status, code, "none");
        assert_eq!(problem["pointer"], format!("/offsets/1/{name}"), "{body}");
        refused(service.get(G), 404, "unknown-group").await;
    }
    let more = "{\"offsets\":[],\"more\":1}";
    for body in ["", "{", "[]", "{}", "{\"offsets\":[]} x", more] {
        let answer = service.call(Method::PUT, OFFSETS, body).await;
        answer.problem(400, "invalid-request");
    }
    commit(&service, "g", json!([at(3)])).await;
}

#[tokio::test]
async fn a_wrong_body_is_400_whether_or_not_the_group_exists() {
    let service = with_orders(1, &[]);
    commit(&service, "g", json!([at(0)])).await;
    let members = "members members/m/poll members/m/settle members/m/commit members/m/heartbeat";
    for group in ["g", "nobody"] {
        for path in members.split(' ').chain(["redrive", "offsets/reset"]) {
            let path = format!("/v1/groups/{group}/{path}");
            let answer = service.call(Method::POST, &path, r#"{"nothing":1}"#).await;
            answer.invalid("/nothing");
        }
    }
}

#[tokio::test]
async fn a_name_that_no_group_can_have_is_refused() {
    let service = Service::start();
    for name in ["__x", "a%20b", "%2e", "a%2Fb", "%ff", &"a".repeat(250)] {
        for path in ["", "/offsets", "/lag"] {
            invalid(service.get(&format!("/v1/groups/{name}{path}")), "group").await;
        }
    }
}

#[tokio::test]
async fn a_topic_made_again_under_the_same_name_begins_with_nothing_committed() {
    let service = with_orders(1, &[1, 2]);
    service.topic("other", 1);
    let offsets = json!([
        {"topic": "orders", "partition": 0, "offset": 2},
        {"topic": "other", "partition": 0, "offset": 0},
    ]);
    commit(&service, "g", offsets).await;
    assert_eq!(service.delete("/v1/topics/orders").await.status, 204);
    let everything = quipu::broker::groups::offsets::all_offsets_prefix();
    // The topic's deletion removed its committed offsets.
    assert_eq!(service.app.log.state_prefix(&everything).len(), 1);
    service.topic("orders", 1);
    let service = service.restart().await;
    let offsets = service.get(OFFSETS).await.ok();
    assert_eq!(offsets["offsets"].as_array().unwrap().len(), 1);
    assert_eq!(offsets["offsets"][0]["topic"], "other");
    // The group outlives the topic.
    assert_eq!(service.get(G).await.ok()["group"], "g");
}

#[tokio::test]
async fn offsets_of_a_topic_that_is_gone_are_not_shown_even_if_they_were_not_removed() {
    let service = with_orders(1, &[]);
    commit(&service, "g", json!([at(0)])).await;
    service.delete_topic("orders", Vec::new());
    assert_eq!(service.get(OFFSETS).await.ok(), json!({"offsets": []}));
    assert_eq!(service.get("/v1/groups/g/lag").await.ok()["topics"], json!([]));
}

#[tokio::test]
async fn a_reset_says_what_it_would_do_and_then_does_it() {
    let service = with_orders(2, &[100, 300, 200, 400]);
    let committed = json!([{"topic": "orders", "partition": 0, "offset": 2, "metadata": "m"}]);
    commit(&service, "g", committed.clone()).await;
    let reset = async |body: Value| service.post(RESET, &body).await;
    // The running maximum is 100, 300, 300, 400, and the timestamps are 100, 300, 200, 400.
    let row = |partition, old: Option<u64>, new: u64| {
        let timestamps = if partition == 0 {
            &[100, 300, 200, 400][..]
        } else {
            &[]
        };
        let at = |offset: u64| timestamps.get(offset as usize);
        let lag = |offset: u64| timestamps.len() as u64 - offset;
        let before = old.unwrap_or(0);
        json!({"topic": "orders", "partition": partition, "old_offset": old, "new_offset": new,
            "old_timestamp": at(before), "new_timestamp": at(new), "old_lag": lag(before), "new_lag": lag(new)})
    };

    let body = json!({"topic": "orders", "to": "latest", "dry_run": true});
    let answer = reset(body).await.ok();
    has(
        &answer,
        json!({"dry_run": true, "offsets": [row(0, Some(2), 4), row(1, None, 0)]}),
    );
    let offsets = service.get(OFFSETS).await.ok();
    assert_eq!(offsets["offsets"], committed);

    let mut old = 2;
    for (to, new) in [
        (json!("earliest"), 0),
        (json!("latest"), 4),
        (json!(250), 1),
        (json!("1970-01-01T00:00:00.350Z"), 3),
        (json!(401), 4),
        (json!("0001-01-01T00:00:00Z"), 0),
        (json!("9999-12-31T23:59:59Z"), 4),
        (json!("1969-12-31T23:59:59.999Z"), 0),
        (json!({"offset": 3}), 3),
        (json!({"offset": 99}), 4),
        (json!({"shift": -1}), 3),
        (json!({"shift": -100}), 0),
        (json!({"shift": 100}), 4),
    ] {
        let body = json!({"topic": "orders", "partitions": [0], "to": to});
        let answer = reset(body).await.ok();
        has(
            &answer,
            json!({"dry_run": false, "offsets": [row(0, Some(old), new)]}),
        );
        let offsets = service.get(OFFSETS).await.ok();
        assert_eq!(offsets["offsets"][0]["offset"], new, "{to}");
        assert_eq!(offsets["offsets"][0]["metadata"], "m");
        old = new;
    }
}

#[tokio::test]
async fn a_reset_stays_within_what_is_kept() {
    let service = with_orders(1, &[1, 2, 3, 4]);
    commit(&service, "g", json!([at(1)])).await;
    let partition = service.app.log.topic("orders").unwrap().partition(0).unwrap();
    partition.trim(quipu_segments::Offset::new(2)).unwrap();
    for to in [
        json!("earliest"),
        json!({"offset": 0}),
        json!({"shift": -5}),
        json!(0),
    ] {
        let body = json!({"topic": "orders", "to": to, "dry_run": true});
        let answer = service.post(RESET, &body).await.ok();
        assert_eq!(answer["offsets"][0]["new_offset"], 2, "{to}");
    }
    // A commit below the log start is taken, and goes on at the log start.
    commit(&service, "g", json!([at(0)])).await;
    assert_eq!(service.get("/v1/groups/g/lag").await.ok()["lag"], 2);
}

#[tokio::test]
async fn a_reset_that_cannot_be_is_refused_at_its_place() {
    let service = with_orders(1, &[]);
    let good = json!({"topic": "orders", "to": "latest"});
    service.post(RESET, &good).await.problem(404, "unknown-group");
    commit(&service, "g", json!([])).await;
    for (name, value, status, code, at) in [
        ("to", json!("end"), 400, "invalid-request", ""),
        ("topic", json!("none"), 404, "unknown-topic", ""),
        ("partitions", json!([0, 1]), 404, "unknown-partition", "/1"),
        ("partitions", json!([u64::MAX]), 400, "invalid-request", "/0"),
        ("partitions", json!([0, 0]), 400, "invalid-request", "/1"),
        ("partitions", json!([]), 400, "invalid-request", ""),
        ("dryrun", json!(true), 400, "invalid-request", ""),
    ] {
        let mut body = good.clone();
        body[name] = value;
        let problem = service.post(RESET, &body).await.problem(status, code);
        assert_eq!(problem["pointer"], format!("/{name}{at}"), "{body}");
    }
}

#[tokio::test]
async fn lag_counts_records_their_age_their_bytes_and_what_retention_leaves() {
    let service = Service::start();
    let retention = TopicSettings {
        retention_ms: Some(60_000),
        ..TopicSettings::default()
    };
    service.topic_with("orders", 2, retention);
    service.topic("kept", 1);
    service.append_at("orders", 0, &[NOW - 9000, NOW - 5000, NOW - 7000]);
    service.append_at("orders", 1, &[NOW - 1000, NOW - 500]);
    service.append_at("kept", 0, &[NOW + 1000]);
    let body = json!([{"topic": "orders", "partition": 0, "offset": 1}, {"topic": "orders", "partition": 1,
        "offset": 2}, {"topic": "kept", "partition": 0, "offset": 0}]);
    commit(&service, "g", body).await;
    service.set_time(NOW + 100);
    let lag = service.get("/v1/groups/g/lag").await.ok();
    assert_eq!((&lag["group"], &lag["state"]), (&json!("g"), &json!("empty")));
    assert_eq!((&lag["lag"], &lag["lag_ms"]), (&json!(3), &json!(5100)));
    assert_eq!(lag["expires_ms"], 60_000 - 5100, "the nearest");
    assert_eq!(lag["topics"][0]["topic"], "kept");
    let kept = &lag["topics"][0]["partitions"][0];
    has(kept, json!({"lag": 1, "lag_ms": 0, "expires_ms": null}));
    assert!(kept["lag_bytes"].as_u64().unwrap() > 0);
    let behind = &lag["topics"][1]["partitions"][0];
    let expected = json!({"partition": 0, "committed_offset": 1, "end_offset": 3, "log_start_offset": 0,
        "last_commit": NOW});
    has(behind, expected);
    assert_eq!((&behind["lag"], &behind["lag_ms"]), (&json!(2), &json!(5100)));
    let expected = json!({"lag": 0, "lag_ms": 0, "lag_bytes": 0, "expires_ms": null});
    has(&lag["topics"][1]["partitions"][1], expected);
    assert_eq!(
        lag["lag_bytes"].as_u64().unwrap(),
        kept["lag_bytes"].as_u64().unwrap() + behind["lag_bytes"].as_u64().unwrap()
    );

    let all = service.get("/v1/lag").await.ok();
    let summary = &all["groups"][0];
    has(summary, json!({"group": "g", "lag": 3, "lag_ms": 5100}));
    assert_eq!(summary.get("topics"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_and_deletions_at_once_leave_no_offset_without_its_group() {
    let service = std::sync::Arc::new(Service::start());
    service.topic("orders", 4);
    let tasks: Vec<_> = (0..40)
        .map(|i| {
            let service = service.clone();
            tokio::spawn(async move {
                if i % 4 == 3 {
                    let status = service.delete(G).await.status;
                    assert!(status == 204 || status == 404, "{status}");
                } else {
                    let body = json!([{"topic": "orders", "partition": i % 4, "offset": 0}]);
                    commit(&service, "g", body).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    service.delete(G).await;
    let prefix = quipu::broker::groups::offsets::offsets_prefix("g");
    assert_eq!(service.app.log.state_prefix(&prefix).len(), 0);
    service.get(G).await.problem(404, "unknown-group");
}

#[tokio::test]
async fn a_topic_that_a_group_has_given_up_is_forgotten() {
    for kind in ["ordered", "shared"] {
        let service = Service::new();
        for topic in ["orders", "payments", "others"] {
            service.create_topic(topic, 1).await;
            service.append_numbers(topic, 0, 0, 5);
        }
        let poll = async |topics: &[&str], ack: &Value| {
            let body = json!({"topics": topics, "type": kind, "ack": ack, "wait_ms": 0});
            service.post("/v1/groups/billing/members/a/poll", body).await.ok()
        };
        let first = poll(&["orders", "payments"], &Value::Null).await;
        let again = poll(&["orders", "payments"], &first["poll_id"]).await;
        let forget = |topic: &str| format!("/v1/groups/billing/offsets?topic={topic}");
        refused(service.delete(&forget("payments")), 409, "group-active").await;
        poll(&["orders"], &again["poll_id"]).await;
        let lag = async || {
            let lag = service.get("/v1/groups/billing/lag").await.json();
            let topics = lag["topics"].as_array().unwrap().iter();
            let names = topics.map(|row| row["topic"].as_str().unwrap().to_owned());
            names.collect::<Vec<String>>()
        };
        assert_eq!(lag().await, ["orders", "payments"]);
        service.delete(&forget("payments")).await.with_status(204);
        assert_eq!(lag().await, ["orders"]);
        let committed = service.get("/v1/groups/billing/offsets").await.text().to_owned();
        assert!(!committed.contains("payments"), "{committed}");
        for unknown in ["payments", "others", "nothing"] {
            refused(service.delete(&forget(unknown)), 404, "unknown-topic").await;
        }
        // Whoever joins later begins anew: while other members live, and after a restart.
        let join = json!({"topics": ["payments"], "type": kind, "max_records": 9, "wait_ms": 0});
        let member = "/v1/groups/billing/members/b";
        let begins = async |service: &Service| {
            let polled = service.post(&format!("{member}/poll"), &join).await.ok();
            assert_eq!(polled["records"].as_array().unwrap().len(), 5, "{kind}");
            let ack = polled["poll_id"].as_str().unwrap();
            let left = service.delete(&format!("{member}?ack={ack}")).await;
            left.with_status(204);
            service.delete(&forget("payments")).await.with_status(204);
        };
        begins(&service).await;
        begins(&service).await;
        let service = service.restart().await;
        begins(&service).await;
    }
    let service = Service::new();
    let path = "/v1/groups/billing/offsets";
    invalid(service.delete(path), "topic").await;
    invalid(service.delete(&format!("{path}?topic=a/b")), "topic").await;
    invalid(service.delete(&format!("{path}?topics=a")), "topics").await;
    refused(service.delete(&format!("{path}?topic=a")), 404, "unknown-group").await;
}
