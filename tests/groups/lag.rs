//! Lag: the report, its history and the picture, through the router. The clock stands until a test moves it, and the
//! test feeds the history.

use crate::support::{NOW, Service, has, invalid, refused};
use quipu::broker::groups::live::GroupState;
use quipu_segments::{Offset, TopicSettings};
use serde_json::{Value, json};

/// A service with the topic `orders` of `partitions`.
fn with_orders(partitions: u32) -> Service {
    let service = Service::start();
    service.topic("orders", partitions);
    service
}

/// With three partitions of ten records.
fn with_three_times_ten() -> Service {
    let service = with_orders(3);
    for partition in 0..3 {
        append(&service, partition, 10, NOW);
    }
    service
}

async fn commit(service: &Service, group: &str, partition: u32, offset: u64) {
    let row = json!({"topic": "orders", "partition": partition, "offset": offset});
    let body = json!({ "offsets": [row] });
    let answer = service.put(&format!("/v1/groups/{group}/offsets"), &body).await;
    answer.ok();
}

fn append(service: &Service, partition: u32, count: usize, timestamp: i64) {
    service.append_at("orders", partition, &vec![timestamp; count]);
}

/// Takes a sample of the groups at that many seconds after the start.
fn look(service: &Service, second: i64) {
    service.set_time(NOW + second * 1000);
    service.app.lags.sample();
}

fn trim(service: &Service, partition: u32, before: u64) {
    let partition = service.partition("orders", partition);
    partition.trim(Offset::new(before)).unwrap();
}

async fn lag(service: &Service, group: &str) -> Value {
    service.get(&format!("/v1/groups/{group}/lag")).await.ok()
}

#[tokio::test]
async fn the_report_has_every_field_of_a_partition_a_topic_and_a_group() {
    let service = with_orders(2);
    append(&service, 0, 2000, NOW - 8400);
    commit(&service, "billing", 0, 0).await;
    commit(&service, "billing", 1, 0).await;
    look(&service, 0);
    service.set_time(NOW + 10_000);
    commit(&service, "billing", 0, 800).await;
    append(&service, 1, 200, NOW + 9000);
    let lag = lag(&service, "billing").await;
    let total = json!({"lag": 1400, "lag_ms": 18_400, "consume_rate": 80.0, "produce_rate": 20.0,
        "drain_ms": null, "expires_ms": null, "status": "ok"});
    has(&lag, json!({"group": "billing", "state": "empty", "members": 0}));
    has(&lag, &total);
    has(&lag["topics"][0], &total);
    assert_eq!(lag["topics"][0]["topic"], "orders");
    let body = json!({"partition": 0, "committed_offset": 800, "end_offset": 2000, "log_start_offset": 0,
        "lag": 1200, "lag_ms": 18_400, "member_id": null, "last_commit": NOW + 10_000, "consume_rate": 80.0,
        "produce_rate": 0.0, "drain_ms": 15_000, "expires_ms": null, "status": "ok"});
    has(&lag["topics"][0]["partitions"][0], &body);
    let body =
        json!({"lag": 200, "lag_ms": 1000, "consume_rate": 0.0, "produce_rate": 20.0, "drain_ms": null});
    has(&lag["topics"][0]["partitions"][1], &body);
    let all = service.get("/v1/lag").await.ok();
    let body = json!({"group": "billing", "state": "empty", "members": 0});
    has(&all["groups"][0], &body);
    has(&all["groups"][0], &total);
    assert_eq!(all["groups"][0].get("topics"), None);
}

#[tokio::test]
async fn the_scope_is_every_partition_of_the_topics_that_the_group_has_subscribed_to_or_committed_in() {
    let service = with_orders(3);
    service.topic("left", 1);
    append(&service, 0, 10, NOW - 1000);
    append(&service, 2, 5, NOW - 2000);
    commit(&service, "g", 0, 4).await;
    let left = json!({"topic": "left", "partition": 0, "offset": 0});
    let body = json!({ "offsets": [left] });
    service.put("/v1/groups/g/offsets", &body).await.ok();
    trim(&service, 2, 2);
    poll(&service, "m1", json!({"topics": ["orders"]})).await;
    let lag = service.app.lags.of("g");
    let names: Vec<&str> = lag.topics.iter().map(|topic| &*topic.topic).collect();
    assert_eq!(lag.state, GroupState::Stable);
    assert_eq!(lag.members, 1);
    assert_eq!(names, ["left", "orders"]);
    let rows = lag.topics[1].partitions.iter().map(|row| {
        let (committed, lag) = (row.committed_offset.map(Offset::get), row.total.lag);
        (committed, lag.lag, lag.lag_ms, row.member.as_deref())
    });
    // A partition without a committed offset is read from its log start.
    let m1 = Some("m1");
    let wanted = [(Some(4), 6, 1000, m1), (None, 0, 0, m1), (None, 3, 2000, m1)];
    assert_eq!(rows.collect::<Vec<_>>(), wanted);
}

/// Polls as a member of the group `g`, with the fields in `join`.
async fn poll(service: &Service, member: &str, mut join: Value) -> Value {
    join["wait_ms"] = json!(0);
    let uri = format!("/v1/groups/g/members/{member}/poll");
    service.post(&uri, &join).await.ok()
}

async fn leave(service: &Service, member: &str) {
    let left = service.delete(&format!("/v1/groups/g/members/{member}")).await;
    assert_eq!(left.status, 204, "{}", left.text());
}

/// The lag of the group `g`; the report, the list and the metrics must agree on it.
async fn told(service: &Service) -> u64 {
    let report = lag(service, "g").await;
    let list = service.get("/v1/lag").await.ok()["groups"][0].clone();
    let metrics = service.get("/metrics").await;
    let metrics = metrics.text();
    let of_partitions = metrics
        .lines()
        .filter(|line| line.starts_with("quipu_group_lag_records{group=\"g\""))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64);
    let told = report["lag"].as_u64().unwrap();
    assert_eq!(list["lag"], told, "{list}");
    assert_eq!(of_partitions.sum::<u64>(), told, "{metrics}");
    told
}

/// The group's lag while the member lives, after it left or fell silent, and after a restart.
async fn told_without_members(service: Service, goes: bool) -> (Vec<u64>, Service) {
    let mut all = vec![told(&service).await];
    if goes {
        leave(&service, "m").await;
    } else {
        service.set_time(NOW + 600_000);
    }
    all.push(told(&service).await);
    let service = service.restart().await;
    all.push(told(&service).await);
    (all, service)
}

#[tokio::test]
async fn a_member_that_is_gone_before_its_first_commit_leaves_the_lag_behind() {
    for (kind, goes) in [
        ("ordered", true),
        ("ordered", false),
        ("shared", true),
        ("shared", false),
    ] {
        let service = with_three_times_ten();
        let body = json!({"topics": ["orders"], "type": kind, "max_records": 1});
        let polled = poll(&service, "m", body).await;
        assert_eq!(polled["records"].as_array().unwrap().len(), 1);
        let (lags, service) = told_without_members(service, goes).await;
        assert_eq!(lags, [30, 30, 30], "{kind}, leaves: {goes}");
        // The lag stays, and after a minute the group is stalled.
        for second in 600..=670 {
            look(&service, second);
        }
        let lag = lag(&service, "g").await;
        assert_eq!(lag["lag"], 30, "{kind}");
        assert_eq!(lag["status"], "stalled", "{kind}");
    }
}

#[tokio::test]
async fn partitions_without_a_commit_count_beside_those_that_have_one() {
    for kind in ["ordered", "shared", "outside"] {
        let service = with_three_times_ten();
        if kind == "outside" {
            // As `quipu consume --group` commits, without membership.
            commit(&service, "g", 1, 10).await;
            assert_eq!(told(&service).await, 20);
            assert_eq!(told(&service.restart().await).await, 20);
            continue;
        }
        let join = json!({"topics": ["orders"], "type": kind, "max_records": 10});
        let polled = poll(&service, "m", join).await;
        poll(&service, "m", json!({"ack": polled["poll_id"], "max_records": 1})).await;
        let (lags, _) = told_without_members(service, true).await;
        assert_eq!(lags, [20, 20, 20], "{kind}");
    }
}

#[tokio::test]
async fn a_partition_that_is_added_counts_at_once_with_and_without_members() {
    for (kind, start) in [
        ("ordered", "earliest"),
        ("ordered", "latest"),
        ("shared", "latest"),
    ] {
        let service = with_orders(1);
        append(&service, 0, 10, NOW);
        let body = json!({"topics": ["orders"], "type": kind, "start": start, "max_records": 1});
        poll(&service, "m", body).await;
        let before = told(&service).await;
        assert_eq!(before, if start == "latest" { 0 } else { 10 }, "{kind} {start}");
        let grown = json!({"partitions": 2});
        service.patch("/v1/topics/orders", grown).await.ok();
        append(&service, 1, 5, NOW);
        append(&service, 0, 2, NOW);
        let (lags, _) = told_without_members(service, true).await;
        assert_eq!(lags, [before + 7; 3], "{kind} {start}");
    }
}

#[tokio::test]
async fn the_first_start_in_a_topic_holds_for_all_who_join_later() {
    let service = with_orders(1);
    append(&service, 0, 10, NOW);
    poll(&service, "m", json!({"topics": ["orders"], "max_records": 1})).await;
    leave(&service, "m").await;
    let polled = poll(&service, "n", json!({"topics": ["orders"], "start": "latest"})).await;
    assert_eq!(polled["records"].as_array().unwrap().len(), 10);
    assert_eq!(told(&service).await, 10);
}

#[tokio::test]
async fn a_topic_that_a_group_gave_up_counts_until_it_is_deleted_and_one_made_again_if_it_is_asked_for() {
    for kind in ["ordered", "shared"] {
        let service = with_orders(1);
        service.topic("trades", 2);
        append(&service, 0, 10, NOW);
        service.append_at("trades", 1, &[NOW; 4]);
        let join = |topics: &[&str]| json!({"topics": topics, "type": kind, "max_records": 1});
        poll(&service, "m", join(&["orders"])).await;
        poll(&service, "m", join(&["trades"])).await;
        assert_eq!(told(&service).await, 14);
        assert_eq!(service.delete("/v1/topics/trades").await.status, 204);
        assert_eq!(told(&service).await, 10);
        service.create_topic("trades", 1).await;
        service.append_at("trades", 0, &[NOW; 3]);
        // The new topic of that name is another one, in which the member must ask to go on.
        let silent = service.post("/v1/groups/g/members/m/poll", json!({"wait_ms": 0}));
        refused(silent, 404, "unknown-topic").await;
        assert_eq!(told(&service).await, 10);
        poll(&service, "m", join(&["orders", "trades"])).await;
        let (lags, service) = told_without_members(service, true).await;
        assert_eq!(lags, [13, 13, 13], "{kind}");
        assert_eq!(service.delete("/v1/groups/g").await.status, 204);
        assert!(service.app.log.state_prefix(b"t").is_empty());
    }
}

#[tokio::test]
async fn a_group_that_is_not_there_has_no_lag_no_history_and_no_picture() {
    let service = with_orders(1);
    for path in ["lag", "lag/history", "lag.svg"] {
        refused(service.get(&format!("/v1/groups/g/{path}")), 404, "unknown-group").await;
        invalid(service.get(&format!("/v1/groups/a%20b/{path}")), "group").await;
    }
}

#[tokio::test]
async fn lag_is_zero_the_moment_everything_is_read_however_quiet_the_topic_is() {
    let service = with_orders(1);
    append(&service, 0, 5, NOW - 3_600_000);
    commit(&service, "g", 0, 3).await;
    look(&service, 0);
    assert_eq!(lag(&service, "g").await["lag_ms"], 3_600_000);
    commit(&service, "g", 0, 5).await;
    let expected = json!({"lag": 0, "lag_ms": 0, "lag_bytes": 0, "drain_ms": 0});
    has(&lag(&service, "g").await, expected);
    for hour in 1..5 {
        look(&service, hour * 3600);
        assert_eq!(lag(&service, "g").await["lag_ms"], 0);
        assert_eq!(lag(&service, "g").await["status"], "ok");
    }
}

#[tokio::test]
async fn a_queue_whose_workers_lease_and_never_settle_is_stalled() {
    for settles in [false, true] {
        let service = with_orders(1);
        append(&service, 0, 70, NOW);
        let body = json!({"topics": ["orders"], "type": "shared", "lease_ms": 1000, "max_deliveries": 1000,
            "max_records": 100, "wait_ms": 0});
        let mut status = Value::Null;
        for second in 0..=65 {
            // Everything is leased again as soon as its lease has ended, so that nothing ever waits.
            service.set_time(NOW + second * 1000);
            let polled = poll(&service, "m", body.clone()).await;
            let records = polled["records"].as_array().unwrap();
            assert_eq!(records.len() as i64, 70 - if settles { second } else { 0 });
            if settles {
                let first = json!({"topic": "orders", "partition": 0, "offset": records[0]["offset"]});
                let uri = "/v1/groups/g/members/m/settle";
                service.post(uri, json!({"accept": [first]})).await.ok();
            }
            look(&service, second);
            status = lag(&service, "g").await["status"].clone();
        }
        assert_eq!(status, if settles { "ok" } else { "stalled" });
    }
}

#[tokio::test]
async fn an_empty_group_keeps_its_lag_over_a_restart() {
    let service = with_orders(1);
    append(&service, 0, 10, NOW - 1000);
    commit(&service, "g", 0, 4).await;
    look(&service, 1);
    let before = lag(&service, "g").await;
    let service = service.restart().await;
    service.set_time(NOW + 1000);
    let after = lag(&service, "g").await;
    for field in ["lag", "lag_ms", "lag_bytes"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(after["lag"], 6);
}

#[tokio::test]
async fn what_retention_took_is_no_lag_but_a_loss_for_a_minute() {
    let service = with_orders(1);
    append(&service, 0, 100, NOW - 1000);
    commit(&service, "g", 0, 10).await;
    for second in 0..70 {
        look(&service, second);
    }
    let row = async |service: &Service| lag(service, "g").await["topics"][0]["partitions"][0].clone();
    assert_eq!(row(&service).await["status"], "stalled");
    trim(&service, 0, 40);
    let expected = json!({"lag": 60, "committed_offset": 10, "status": "losing"});
    has(&row(&service).await, expected);
    assert_eq!(lag(&service, "g").await["status"], "losing");
    trim(&service, 0, 100);
    let nothing = row(&service).await;
    has(&nothing, json!({"lag": 0, "lag_ms": 0, "lag_bytes": 0}));
    for second in 70..140 {
        look(&service, second);
    }
    // Nothing was lost in the last minute.
    assert_eq!(row(&service).await["status"], "ok");
}

#[tokio::test]
async fn a_group_is_stalled_after_a_minute_without_a_commit_and_behind_while_it_loses_ground() {
    let service = with_orders(2);
    append(&service, 0, 100, NOW);
    append(&service, 1, 10, NOW);
    commit(&service, "g", 0, 0).await;
    commit(&service, "g", 1, 0).await;
    let mut statuses = Vec::new();
    for second in 0..=75 {
        service.set_time(NOW + second * 1000);
        append(&service, 1, 5, NOW);
        commit(&service, "g", 1, second as u64).await;
        look(&service, second);
        let lag = lag(&service, "g").await;
        let status = |index: usize| {
            let status = &lag["topics"][0]["partitions"][index]["status"];
            status.as_str().unwrap().to_owned()
        };
        assert_eq!(lag["status"], status(0).max(status(1)), "the worst");
        statuses.push((status(0), status(1)));
    }
    assert_eq!(statuses[59], ("ok".to_owned(), "ok".to_owned()));
    assert_eq!(statuses[61], ("stalled".to_owned(), "behind".to_owned()));
    let found = &service.get("/v1/lag").await.ok()["groups"][0]["status"];
    assert_eq!(found, "stalled");
    commit(&service, "g", 0, 0).await;
    service.set_time(NOW + 76_000);
    commit(&service, "g", 0, 0).await;
    let found = &lag(&service, "g").await["topics"][0]["partitions"][0]["status"];
    assert_eq!(found, "ok");
}

#[tokio::test]
async fn unread_data_expires_by_the_topics_retention() {
    let service = Service::start();
    let settings = TopicSettings {
        retention_ms: Some(600_000),
        ..TopicSettings::default()
    };
    service.topic_with("orders", 1, settings);
    append(&service, 0, 10, NOW - 1000);
    commit(&service, "g", 0, 4).await;
    assert_eq!(lag(&service, "g").await["expires_ms"], 599_000);
    commit(&service, "g", 0, 10).await;
    assert_eq!(lag(&service, "g").await["expires_ms"], Value::Null);
}

#[tokio::test]
async fn what_is_remembered_of_a_record_follows_every_move() {
    let service = with_orders(1);
    for n in 0..10 {
        append(&service, 0, 1, NOW - 10_000 + n * 1000);
    }
    commit(&service, "g", 0, 2).await;
    look(&service, 0);
    let seen = async || {
        let lag = lag(&service, "g").await;
        let bytes = lag["lag_bytes"].as_u64().unwrap();
        (lag["lag_ms"].as_i64().unwrap(), bytes)
    };
    let first = seen().await;
    assert_eq!(first, seen().await);
    assert_eq!(first.0, 8000);
    append(&service, 0, 1, NOW);
    let more = seen().await;
    assert!(more.0 == 8000 && more.1 > first.1, "{more:?}");
    commit(&service, "g", 0, 5).await;
    assert_eq!(seen().await.0, 5000);
    commit(&service, "g", 0, 1).await;
    assert_eq!(seen().await.0, 9000);
    trim(&service, 0, 7);
    assert_eq!(seen().await.0, 3000);
}

#[tokio::test]
async fn the_history_has_a_step_every_ten_seconds_by_partition_and_in_total() {
    let service = with_orders(2);
    append(&service, 0, 100, NOW);
    append(&service, 1, 10, NOW);
    commit(&service, "g", 0, 0).await;
    commit(&service, "g", 1, 0).await;
    for second in 0..=60 {
        service.set_time(NOW + second * 1000);
        commit(&service, "g", 0, second as u64).await;
        look(&service, second);
    }
    let history = service.get("/v1/groups/g/lag/history?window_ms=60000").await.ok();
    has(&history, json!({"group": "g", "step_ms": 10_000}));
    let expected_times: Value = (0..=6).map(|step| json!(NOW + step * 10_000)).collect();
    assert_eq!(history["times"], expected_times);
    assert_eq!(history["total"]["lag"], json!([110, 100, 90, 80, 70, 60, 50]));
    let found = &history["total"]["lag_ms"];
    assert_eq!(*found, json!([0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000]));
    let series = history["series"].as_array().unwrap();
    assert_eq!(series.len(), 2);
    let expected = json!({"topic": "orders", "partition": 0, "lag": [100, 90, 80, 70, 60, 50, 40]});
    has(&series[0], expected);
    assert!(series[1]["lag_bytes"][0].as_u64().unwrap() > 0);
    assert_eq!(history["series_left_out"], 0);

    let uri = "/v1/groups/g/lag/history?topic=orders&partition=1";
    let one = service.get(uri).await.ok();
    assert_eq!(one["series"].as_array().unwrap().len(), 1);
    assert_eq!(one["series"][0]["partition"], 1);
    // The default is an hour, but the server is younger.
    assert_eq!(one["times"], expected_times);
    assert_eq!(one["total"]["lag"], json!([10, 10, 10, 10, 10, 10, 10]));
    assert_eq!(one["series"][0]["lag"], one["total"]["lag"]);
    let by = service.get("/v1/groups/g/lag/history?by=group").await.ok();
    assert_eq!(by["series"].as_array().unwrap().len(), 1);
    assert_eq!(by["series"][0].get("topic"), None);
    let answer = service.get("/v1/groups/g/lag/history?window_ms=86400000").await;
    let found = &answer.ok()["total"]["lag"];
    assert_eq!(*found, json!([110]), "one step of five minutes");
}

#[tokio::test]
async fn history_begins_with_the_server_and_ends_with_the_group() {
    let service = with_orders(1);
    commit(&service, "g", 0, 0).await;
    let history = service.get("/v1/groups/g/lag/history").await.ok();
    has(&history, json!({"series": [], "times": []}));
    assert_eq!(history["total"]["lag"], json!([]));
    look(&service, 0);
    service.delete("/v1/groups/g").await;
    look(&service, 1);
    commit(&service, "g", 0, 0).await;
    let found = &service.get("/v1/groups/g/lag/history").await.ok()["series"];
    assert_eq!(*found, json!([]));
}

#[tokio::test]
async fn the_picture_is_an_svg_that_no_cache_keeps() {
    let service = with_orders(12);
    for partition in 0..12 {
        append(&service, partition, 10 * (partition as usize + 1), NOW);
        commit(&service, "g", partition, 0).await;
    }
    let empty = service.get("/v1/groups/g/lag.svg").await;
    assert!(empty.text().contains("no history yet"), "{}", empty.text());
    for second in (0..600).step_by(10) {
        look(&service, second);
    }
    for query in [
        "",
        "?by=topic",
        "?by=group&metric=lag_ms",
        "?metric=lag_bytes&window_ms=600000&theme=dark",
    ] {
        let answer = service.get(&format!("/v1/groups/g/lag.svg{query}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("image/svg+xml"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.text().starts_with("<svg ") && answer.text().ends_with("</svg>\n"));
        assert!(answer.text().contains("<path "), "{}", answer.text());
    }
    let many = service.get("/v1/groups/g/lag.svg?topic=orders").await;
    let many = many.text();
    assert!(many.contains("Lag of g in orders"), "{many}");
    assert!(many.contains(">4 others<"), "{many}");
    assert!(many.contains("prefers-color-scheme:dark"));
    let uri = "/v1/groups/g/lag.svg?topic=orders&partition=3&theme=light";
    let one = service.get(uri).await;
    let one = one.text();
    assert!(one.contains("Lag of g in orders/3"), "{one}");
    assert!(one.contains(">40 records<"), "{one}");
    assert!(!one.contains("prefers-color-scheme"));
}

#[tokio::test]
async fn wrong_input_of_history_and_picture_is_refused_at_its_place() {
    let service = with_orders(1);
    commit(&service, "g", 0, 0).await;
    for path in ["lag/history", "lag.svg"] {
        for (query, pointer) in [
            ("window=1", "window"),
            ("window_ms=59999", "window_ms"),
            ("window_ms=86400001", "window_ms"),
            ("window_ms=1h", "window_ms"),
            ("by=member", "by"),
            ("partition=0", "partition"),
            ("topic=orders&partition=-1", "partition"),
            ("by=topic&by=group", "by"),
        ] {
            invalid(service.get(&format!("/v1/groups/g/{path}?{query}")), pointer).await;
        }
        let answer = service.get(&format!("/v1/groups/g/{path}?topic=none")).await;
        assert_eq!(answer.problem(404, "unknown-topic")["pointer"], "topic");
        let uri = format!("/v1/groups/g/{path}?topic=orders&partition=1");
        let answer = service.get(&uri).await;
        assert_eq!(answer.problem(404, "unknown-partition")["pointer"], "partition");
    }
    for (name, value) in [("metric", "records"), ("theme", "blue"), ("width", "3")] {
        let uri = format!("/v1/groups/g/lag.svg?{name}={value}");
        service.get(&uri).await.invalid(name);
    }
    invalid(service.get("/v1/groups/g/lag?window_ms=60000"), "window_ms").await;
}

/// The picture in docs/operate/monitor.md: two hours of a group that falls behind in one of its four partitions.
#[tokio::test]
async fn the_picture_in_the_documentation_is_what_the_service_draws() {
    let service = with_orders(4);
    let mut state = 11u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut end, mut committed) = ([0u64; 4], [0u64; 4]);
    for step in 0..=240 {
        let now = NOW + step * 30_000;
        service.set_time(now);
        for partition in 0..4 {
            let index = partition as usize;
            let is_burst = partition == 1 && (70..95).contains(&step);
            let produced = 20 + random(20) + if is_burst { 55 } else { 0 };
            append(&service, partition, produced as usize, now - 200);
            end[index] += produced;
            let is_down = partition == 3 && (140..215).contains(&step);
            let speed = if is_down {
                0
            } else {
                34 + random(30) + 8 * partition as u64
            };
            committed[index] = (committed[index] + speed).min(end[index] - random(14).min(produced));
            commit(&service, "billing", partition, committed[index]).await;
        }
        service.app.lags.sample();
    }
    let picture = service.get("/v1/groups/billing/lag.svg?window_ms=7200000").await;
    let svg = picture.text();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/lag.svg");
    if std::env::var_os("QUIPU_UPDATE_DOCS").is_some() {
        std::fs::write(&path, svg).unwrap();
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    // Run this test with QUIPU_UPDATE_DOCS=1, and look at docs/operate/lag.svg.
    assert!(documented == svg);
}
