//! The lag of all groups, chosen, sorted and in pages; and its history. The clock stands until a test moves it.

use serde_json::{Value, json};

use crate::support::{NOW, Service, has, invalid};

/// A service whose groups `billing`, `audit`, `Mail` and `idle` are 5, 9, 2 and 0 records behind in partitions whose records
/// are of different ages; `audit` also reads `payments`, where it is 3 behind.
async fn with_groups() -> Service {
    let service = Service::start();
    service.topic("orders", 4);
    service.topic("payments", 1);
    for (partition, age) in [(0, 100), (1, 500), (2, 900), (3, 0)] {
        service.append_at("orders", partition, &[NOW - age; 10]);
    }
    service.append_at("payments", 0, &[NOW - 50; 3]);
    for (group, partition, offset) in [
        ("billing", 0, 5),
        ("audit", 1, 1),
        ("Mail", 2, 8),
        ("idle", 3, 10),
    ] {
        commit(&service, group, "orders", partition, offset).await;
        for other in (0..4).filter(|other| *other != partition) {
            commit(&service, group, "orders", other, 10).await;
        }
    }
    commit(&service, "audit", "payments", 0, 0).await;
    service
}

async fn commit(service: &Service, group: &str, topic: &str, partition: u32, offset: u64) {
    let body = json!({"offsets": [{"topic": topic, "partition": partition, "offset": offset}]});
    service
        .put(&format!("/v1/groups/{group}/offsets"), &body)
        .await
        .ok();
}

async fn groups(service: &Service, query: &str) -> (Vec<String>, Option<String>) {
    let answer = service.get(&format!("/v1/lag?{query}")).await.ok();
    let rows = answer["groups"].as_array().expect("groups").iter();
    let names = rows.map(|row| row["group"].as_str().unwrap().to_owned());
    (names.collect(), answer["next"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn groups_are_sorted_by_their_figures_the_worst_first_in_pages_of_any_size() {
    let service = with_groups().await;
    let retention = json!({"config": {"retention_ms": 60_000}});
    service.patch("/v1/topics/payments", retention).await.ok();
    for (sort, order) in [
        ("", ["Mail", "audit", "billing", "idle"]),
        ("sort=name", ["Mail", "audit", "billing", "idle"]),
        ("sort=lag", ["audit", "billing", "Mail", "idle"]),
        ("sort=lag_ms", ["Mail", "audit", "billing", "idle"]),
        ("sort=expires_ms", ["audit", "Mail", "billing", "idle"]),
    ] {
        assert_eq!(
            groups(&service, sort).await,
            (order.map(str::to_owned).to_vec(), None),
            "{sort}"
        );
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let (page, next) = groups(&service, &format!("{sort}&limit=3{after}")).await;
            found.extend(page);
            let Some(next) = next else { break };
            after = format!("&after={next}");
        }
        assert_eq!(found, order, "{sort} in pages");
    }
}

#[tokio::test]
async fn the_next_page_of_one_order_is_refused_in_another() {
    let service = with_groups().await;
    let sorts = ["name", "lag", "lag_ms", "expires_ms"];
    for first in sorts {
        let (_, next) = groups(&service, &format!("sort={first}&limit=1")).await;
        let next = next.expect("there are more groups");
        for then in sorts.into_iter().filter(|then| *then != first) {
            let uri = format!("/v1/lag?sort={then}&after={next}");
            invalid(service.get(&uri), "after").await;
        }
        assert_eq!(
            groups(&service, &format!("sort={first}&after={next}"))
                .await
                .0
                .len(),
            3
        );
    }
}

#[tokio::test]
async fn groups_are_chosen_by_topic_status_and_name() {
    let service = with_groups().await;
    let names = async |query: &str| groups(&service, query).await.0;
    assert_eq!(names("topic=payments").await, ["audit"]);
    assert_eq!(names("topic=orders&sort=lag&limit=2").await, ["audit", "billing"]);
    assert_eq!(names("q=ai").await, ["Mail"]);
    assert_eq!(
        names("q=I&topic=orders&sort=lag").await,
        ["audit", "billing", "Mail", "idle"]
    );
    assert_eq!(names("q=nobody").await, [""; 0]);
    assert_eq!(names("status=ok").await.len(), 4);
    // A minute without a commit.
    for second in 0..=61 {
        service.set_time(NOW + second * 1000);
        service.app.lags.sample();
    }
    assert_eq!(
        names("status=stalled&sort=lag").await,
        ["audit", "billing", "Mail"]
    );
    assert_eq!(names("status=ok").await, ["idle"]);
    assert_eq!(names("status=ok,stalled&q=i").await.len(), 4);
    assert_eq!(names("status=losing").await, [""; 0]);
}

#[tokio::test]
async fn a_summary_of_a_queue_has_what_it_holds() {
    let service = with_groups().await;
    let join = json!({"topics": ["payments"], "type": "shared", "wait_ms": 0, "max_records": 2});
    let polled = service.post("/v1/groups/work/members/m/poll", &join).await.ok();
    assert_eq!(polled["records"].as_array().unwrap().len(), 2);
    let settle = json!({
        "reject": [{"topic": "payments", "partition": 0, "offset": 0}],
        "release": [{"topic": "payments", "partition": 0, "offset": 1, "delay_ms": 9000}],
    });
    service
        .post("/v1/groups/work/members/m/settle", settle)
        .await
        .ok();
    service
        .post("/v1/groups/work/members/m/poll", json!({"wait_ms": 0}))
        .await
        .ok();
    let answer = service.get("/v1/lag?q=work&sort=lag").await.ok();
    let summary = &answer["groups"][0];
    has(
        summary,
        json!({"group": "work", "lag": 2, "leased": 1, "delayed": 1, "dead_letters": 1}),
    );
    assert_eq!(summary.get("topics"), None);
}

#[tokio::test]
async fn wrong_input_of_the_lists_is_refused_at_its_place() {
    let service = with_groups().await;
    for (query, pointer) in [
        ("sort=age", "sort"),
        ("sort=", "sort"),
        ("status=bad", "status"),
        ("status=ok,", "status"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("sort=lag&after=audit", "after"),
        ("sort=lag&after=lag.x.audit", "after"),
        ("after=audit", "after"),
        ("sort=lag&sort=lag", "sort"),
        ("group=audit", "group"),
    ] {
        invalid(service.get(&format!("/v1/lag?{query}")), pointer).await;
    }
    let problem = service
        .get("/v1/lag?topic=none")
        .await
        .problem(404, "unknown-topic");
    assert_eq!(problem["pointer"], "topic");
    for (query, pointer) in [
        ("steps=1", "steps"),
        ("steps=361", "steps"),
        ("steps=x", "steps"),
        ("window_ms=59999", "window_ms"),
        ("window_ms=86400001", "window_ms"),
        ("by=group", "by"),
    ] {
        invalid(service.get(&format!("/v1/lag/history?{query}")), pointer).await;
    }
}

#[tokio::test]
async fn the_history_of_all_groups_has_a_series_each_the_worst_first() {
    let service = with_groups().await;
    let nothing = service.get("/v1/lag/history").await.ok();
    has(&nothing, json!({"times": [], "series": [], "series_left_out": 0}));
    for second in (0..=60).step_by(10) {
        service.set_time(NOW + second * 1000);
        commit(&service, "billing", "orders", 0, 5 + second as u64 / 20).await;
        service.app.lags.sample();
    }
    let history = service.get("/v1/lag/history?window_ms=60000").await.ok();
    has(&history, json!({"step_ms": 10_000, "series_left_out": 0}));
    let times: Value = (0..=6).map(|step| json!(NOW + step * 10_000)).collect();
    assert_eq!(history["times"], times);
    let series = history["series"].as_array().unwrap();
    let names: Vec<&Value> = series.iter().map(|row| &row["group"]).collect();
    assert_eq!(names, ["audit", "billing", "Mail", "idle"]);
    assert_eq!(series[0]["lag"], json!(vec![12; 7]));
    assert_eq!(series[1]["lag"], json!([5, 5, 4, 4, 3, 3, 2]));
    assert_eq!(series[1]["lag_ms"][6], 60_100);
    assert!(series[0]["lag_bytes"][0].as_u64().unwrap() > 0);
    assert_eq!(series[3]["lag"], json!(vec![0; 7]));
    // As many steps as asked for, and no more.
    let few = service.get("/v1/lag/history?window_ms=60000&steps=3").await.ok();
    has(&few, json!({"step_ms": 20_000}));
    assert_eq!(few["series"][1]["lag"], json!([4, 3, 2]));
    let hour = service.get("/v1/lag/history?steps=60").await.ok();
    has(&hour, json!({"step_ms": 60_000}));
}

#[tokio::test]
async fn the_history_goes_on_over_a_restart_with_a_gap_while_the_server_was_down() {
    let service = with_groups().await;
    for second in (0..=20).step_by(10) {
        service.set_time(NOW + second * 1000);
        service.app.lags.sample();
    }
    service.app.lags.keep_history();
    let service = service.restart().await;
    let path = "/v1/groups/billing/lag/history?window_ms=60000&by=group";
    let before = service.get(path).await.ok();
    assert_eq!(before["total"]["lag"], json!([5, 5, 5]), "as it was kept");
    for second in (40..=50).step_by(10) {
        service.set_time(NOW + second * 1000);
        commit(&service, "billing", "orders", 0, 7).await;
        service.app.lags.sample();
    }
    let after = service.get(path).await.ok();
    assert_eq!(after["total"]["lag"], json!([5, 5, 5, null, 3, 3]));
    assert_eq!(after["times"][0], NOW);
    let all = service.get("/v1/lag/history?window_ms=60000").await.ok();
    assert_eq!(all["series"].as_array().unwrap().len(), 4);
    let picture = service.get("/v1/groups/billing/lag.svg").await;
    assert!(!picture.text().contains("no history yet"));

    // A group that is gone by then has none.
    service.app.lags.keep_history();
    let service = service.restart().await;
    service.delete("/v1/groups/Mail").await.with_status(204);
    service.set_time(NOW + 60_000);
    service.app.lags.sample();
    let all = service.get("/v1/lag/history?window_ms=60000").await.ok();
    assert_eq!(all["series"].as_array().unwrap().len(), 3);

    // What cannot be read is no history, and no failure.
    service.app.lags.keep_history();
    let service = service.restart_after(|data| {
        let path = data.join("memos/lag-history");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    });
    assert_eq!(service.get(path).await.ok()["times"], json!([]));
}
