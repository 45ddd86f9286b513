//! Damage as clients and operators see it: located, counted, skipped on purpose, and skips taken back.

#![allow(clippy::disallowed_methods, reason = "the test damages files on purpose")]

mod support;

use std::path::Path;

use http::Method;
use quipu::settings::Config;
use quipu_segments::TopicSettings;
use serde_json::{Value, json};
use support::{Answer, NOW, Service};

const PARTITION: &str = "/v1/topics/t/partitions/0";
const LOG: &str = "topics/t/0/00000000000000000000.log";

/// Ten records in ten batches, of which `count` from `first` on are damaged.
async fn damaged(first: usize, count: usize) -> Service {
    damaged_with(Config::default(), first, count).await
}

async fn damaged_with(config: Config, first: usize, count: usize) -> Service {
    let service = Service::with(config);
    service.topic_with("t", 2, TopicSettings::default());
    for number in 0..10 {
        service.append_at("t", 0, &[NOW + number]);
    }
    service.restart_after(|dir| damage(dir, first, count))
}

fn damage(dir: &Path, first: usize, count: usize) {
    let path = dir.join(LOG);
    let mut bytes = std::fs::read(&path).unwrap();
    let batch = bytes.len() / 10;
    for number in first..first + count {
        bytes[number * batch + batch - 3] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
}

async fn records(service: &Service, query: &str) -> Answer {
    service.get(&format!("{PARTITION}/records?{query}")).await
}

async fn fetch(service: &Service, offset: u64) -> Answer {
    records(service, &format!("offset={offset}")).await
}

async fn corrupt(service: &Service, offset: u64) {
    fetch(service, offset).await.problem(500, "corrupt-data");
}

async fn ready(service: &Service) -> Value {
    service.get("/health/ready").await.ok()
}

/// Deletes the records before an offset.
async fn trim(service: &Service, before: u64) {
    let uri = format!("{PARTITION}/records?before={before}");
    service.delete(&uri).await.ok();
}

/// Commits offset 3 in a group, and returns the group's lag.
async fn lag_from_3(service: &Service) -> Value {
    let commit = json!({"offsets": [{"topic": "t", "partition": 0, "offset": 3}]});
    service.put("/v1/groups/g/offsets", &commit).await.ok();
    service.get("/v1/groups/g/lag").await.ok()
}

async fn fetch_lines(service: &Service, offset: u64) -> Answer {
    let headers = [
        ("accept", "application/x-ndjson"),
        ("origin", "https://page.example"),
    ];
    let uri = format!("{PARTITION}/records?offset={offset}");
    service.send(Method::GET, &uri, &headers, "").await
}

/// A gap in the form of an answer.
fn gap(from: u64, until: u64) -> Value {
    json!([{"offset": from, "until_offset": until, "reason": "damaged"}])
}

fn range(from: u64, until: u64) -> Value {
    json!({"damaged_offset": from, "damaged_until_offset": until})
}

async fn skip(service: &Service, from: u64, until: u64) -> Answer {
    let path = format!("{PARTITION}/damage/skip");
    service.post(&path, &range(from, until)).await
}

async fn unskip(service: &Service, from: u64, until: u64) -> Answer {
    let query = format!("damaged_offset={from}&damaged_until_offset={until}");
    service.delete(&format!("{PARTITION}/damage/skip?{query}")).await
}

/// How many places are damaged and not skipped, how many are skipped, and how many there are in the partition.
async fn damage_metrics(service: &Service) -> [String; 3] {
    let metrics = service.get("/metrics").await.text().to_owned();
    let names = [
        "quipu_damage",
        "quipu_skipped_damage",
        "quipu_damaged_ranges{topic=\"t\",partition=\"0\"}",
    ];
    names.map(|name| {
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name}: {metrics}")).to_owned()
    })
}

#[tokio::test]
async fn the_damage_of_all_topics_is_listed_in_parts() {
    let service = damaged(2, 2).await;
    assert_eq!(service.get("/v1/damage").await.ok(), json!({"damage": []}));
    corrupt(&service, 2).await;
    skip(&service, 2, 3).await.ok();
    let row = |from: u64, until: u64, skipped: bool| json!({"topic": "t", "partition": 0, "damaged_offset": from, "damaged_until_offset": until, "skipped": skipped});
    let all = service.get("/v1/damage").await.ok();
    assert_eq!(all, json!({"damage": [row(2, 3, true), row(3, 4, false)]}));
    let first = service.get("/v1/damage?limit=1").await.ok();
    assert_eq!(first["damage"], json!([row(2, 3, true)]));
    let next = first["next"].as_str().unwrap();
    let second = service
        .get(&format!("/v1/damage?limit=1&after={next}"))
        .await
        .ok();
    assert_eq!(second, json!({"damage": [row(3, 4, false)]}));
    let status = service.get("/v1/status").await.ok();
    assert_eq!(status["degraded"], ready(&service).await["degraded"]);
    assert_eq!(service.get("/v1/topics").await.ok()["topics"][0]["damaged"], true);
    for (query, pointer) in [
        ("limit=0", "limit"),
        ("after=t/0", "after"),
        ("after=t/0/x", "after"),
        ("q=t", "q"),
    ] {
        service.get(&format!("/v1/damage?{query}")).await.invalid(pointer);
    }
}

/// Ranges, and whether each is skipped.
fn rows(body: &Value) -> Vec<(u64, u64, bool)> {
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
    let row = |row| {
        let (from, until) = (number(row, "damaged_offset"), number(row, "damaged_until_offset"));
        (from, until, row["skipped"].as_bool().unwrap())
    };
    body["damage"].as_array().unwrap().iter().map(row).collect()
}

async fn known(service: &Service) -> Vec<(u64, u64, bool)> {
    rows(&service.get(&format!("{PARTITION}/damage")).await.ok())
}

fn offsets(body: &Value) -> Vec<u64> {
    let records = body["records"].as_array().unwrap().iter();
    records.map(|record| record["offset"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn damage_met_by_a_read_is_listed_counted_and_on_health_until_it_is_gone() {
    let service = damaged(3, 2).await;
    assert_eq!(known(&service).await, [], "nobody has read it yet");
    assert_eq!(ready(&service).await["status"], "ready");
    corrupt(&service, 3).await;
    for _ in 0..2 {
        assert_eq!(known(&service).await, [(3, 5, false)]);
        let health = ready(&service).await;
        assert_eq!(health["status"], "degraded");
        let [row] = &health["degraded"].as_array().unwrap()[..] else {
            panic!("{health}")
        };
        assert_eq!(row["what"], "damage");
        assert_eq!(row["partition"], "t/0");
        assert_eq!(row["damaged_offset"], 3);
        assert_eq!(row["damaged_until_offset"], 5);
        let detail = row["detail"].as_str().unwrap();
        assert!(detail.contains("quipu topic skip"), "{row}");
        let has_path = health.to_string().contains(".log");
        assert!(!has_path, "clients see no paths: {health}");
        let metrics = service.get("/metrics").await;
        let metrics = metrics.text();
        for line in [
            "quipu_damage 1",
            "quipu_damaged_ranges{topic=\"t\",partition=\"0\"} 1",
            "quipu_damaged_offsets{topic=\"t\",partition=\"0\"} 2",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        assert!(metrics.contains("quipu_damaged_bytes{topic=\"t\",partition=\"0\"} "));
        let topic = service.get("/v1/topics/t").await.ok();
        assert_eq!(topic["partitions"][0]["damaged_offset"], 3);
        assert_eq!(topic["partitions"][0]["damaged_until_offset"], 5);
        corrupt(&service, 4).await;
    }
    // Consumers stop no longer at what is skipped; what can not be read is still counted.
    skip(&service, 3, 4).await.ok();
    assert_eq!(damage_metrics(&service).await, ["1", "0", "1"], "a part is left");
    skip(&service, 4, 5).await.ok();
    assert_eq!(damage_metrics(&service).await, ["0", "1", "1"]);
    unskip(&service, 3, 5).await.ok();
    assert_eq!(damage_metrics(&service).await, ["1", "0", "1"]);
    // The log start moves past it: nothing is damaged any more.
    trim(&service, 5).await;
    assert_eq!(known(&service).await, []);
    assert_eq!(ready(&service).await["status"], "ready");
    let metrics = service.get("/metrics").await;
    assert!(!metrics.text().contains("quipu_damaged_ranges{"));
}

#[tokio::test]
async fn damage_that_lag_reports_pass_over_is_known_all_the_same() {
    let service = damaged(3, 2).await;
    let lag = lag_from_3(&service).await;
    assert_eq!(lag["lag"], 7);
    assert_eq!(known(&service).await, [(3, 5, false)]);
}

#[tokio::test]
async fn damage_that_shows_without_reading_is_known_from_the_start() {
    let service = damaged(0, 0).await;
    let service = service.restart_after(|dir| {
        let path = dir.join(LOG);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert_eq!(known(&service).await, [(5, 10, false)]);
    assert_eq!(ready(&service).await["status"], "degraded");
    assert_eq!(offsets(&fetch(&service, 0).await.ok()), [0, 1, 2, 3, 4]);
    service.append_at("t", 0, &[NOW]);
    assert_eq!(offsets(&fetch(&service, 10).await.ok()), [10]);
}

#[tokio::test]
async fn a_skipped_range_is_passed_over_and_the_gap_is_reported() {
    let service = damaged_with(Config::default(), 3, 2).await;
    corrupt(&service, 3).await;
    assert_eq!(rows(&skip(&service, 3, 5).await.ok()), [(3, 5, true)]);
    assert_eq!(rows(&skip(&service, 3, 5).await.ok()), [(3, 5, true)], "again");

    let before = fetch(&service, 0).await.ok();
    assert_eq!((offsets(&before), before.get("gaps")), (vec![0, 1, 2], None));
    let behind = fetch(&service, 3).await;
    assert_eq!(behind.header("gaps"), Some("3-5"));
    let behind = behind.ok();
    assert_eq!(offsets(&behind), [5, 6, 7, 8, 9]);
    assert_eq!(behind["gaps"], gap(3, 5));
    assert_eq!(behind["next_offset"], 10);
    let middle = fetch(&service, 4).await.ok();
    assert_eq!(middle["gaps"], gap(4, 5));
    let lines = fetch_lines(&service, 3).await;
    assert_eq!(lines.header("gaps"), Some("3-5"));
    assert_eq!(lines.header("next-offset"), Some("10"));
    assert_eq!(lines.text().lines().count(), 5);

    // A bounded answer with a gap may change later.
    let bounded = records(&service, "offset=3&until_offset=7").await;
    assert_eq!(bounded.header("etag"), None);
    assert_eq!(bounded.header("cache-control"), Some("no-store"));
    assert_eq!(offsets(&bounded.ok()), [5, 6]);
    let inside = records(&service, "offset=3&until_offset=4").await.ok();
    assert_eq!((offsets(&inside), &inside["next_offset"]), (vec![], &json!(4)));
    assert_eq!(inside["gaps"], gap(3, 4));

    // It is still reported as damaged.
    let health = ready(&service).await;
    assert_eq!(health["degraded"][0]["skipped"], true);
    let lag = lag_from_3(&service).await;
    assert_eq!(lag["topics"][0]["partitions"][0]["lag"], 7);
}

#[tokio::test]
async fn times_are_looked_up_past_what_is_skipped() {
    let service = damaged(3, 2).await;
    let at = |time: i64| format!("{PARTITION}/offsets?at={time}");
    service.get(&at(NOW + 6)).await.problem(500, "corrupt-data");
    skip(&service, 3, 5).await.ok();
    assert_eq!(service.get(&at(NOW + 6)).await.ok()["offset"], 6);
    assert_eq!(service.get(&at(NOW + 3)).await.ok()["offset"], 5);
    assert_eq!(service.get(&at(NOW + 2)).await.ok()["offset"], 2);
    let fetched = records(&service, &format!("from={}", NOW + 4)).await.ok();
    assert_eq!(offsets(&fetched), [5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn a_skip_is_durable_can_be_taken_back_and_hides_nothing_that_can_be_read() {
    let service = damaged(3, 2).await;
    skip(&service, 3, 5).await.ok();
    let service = service.restart_after(|_| {});
    let after_restart = known(&service).await;
    assert_eq!(after_restart, [(3, 5, true)], "before any read");
    assert_eq!(offsets(&fetch(&service, 3).await.ok()), [5, 6, 7, 8, 9]);

    let half_skipped = unskip(&service, 4, 5).await.ok();
    assert_eq!(rows(&half_skipped), [(3, 4, true), (4, 5, false)]);
    let half = fetch(&service, 3).await.ok();
    assert_eq!((offsets(&half), &half["next_offset"]), (vec![], &json!(4)));
    assert_eq!(half["gaps"], gap(3, 4));
    corrupt(&service, 4).await;
    for _ in 0..2 {
        assert_eq!(rows(&unskip(&service, 0, 100).await.ok()), [(3, 5, false)]);
    }
    corrupt(&service, 3).await;

    // The file comes back from a backup: it is served, and no gap is reported, skipped or not.
    skip(&service, 3, 5).await.ok();
    let service = service.restart_after(|dir| damage(dir, 3, 2));
    let whole = fetch(&service, 3).await;
    assert_eq!(whole.header("gaps"), None);
    assert_eq!(offsets(&whole.ok()), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(known(&service).await, []);
}

#[tokio::test]
async fn only_what_is_damaged_is_skipped() {
    let service = damaged(3, 2).await;
    for (from, until, healthy) in [(2, 5, 2), (3, 6, 5), (0, 1, 0), (3, 10, 5), (9, 10, 9)] {
        let problem = skip(&service, from, until).await.problem(409, "not-damaged");
        assert_eq!(problem["healthy_offset"], healthy, "{from} {until}");
    }
    skip(&service, 11, 12).await.problem(416, "offset-out-of-range");
    for (from, until) in [(5, 5), (5, 3)] {
        skip(&service, from, until).await.invalid("/damaged_until_offset");
    }
    let path = format!("{PARTITION}/damage/skip");
    let negative = json!({"damaged_offset": -1, "damaged_until_offset": 5});
    let more = json!({"damaged_offset": 3, "damaged_until_offset": 5, "partition": 0});
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"damaged_offset": 3}), ""),
        (negative, "/damaged_offset"),
        (range(3, u64::MAX), "/damaged_until_offset"),
        (more, "/partition"),
    ] {
        service.post(&path, &body).await.invalid(pointer);
    }
    unskip(&service, 5, 5).await.problem(400, "invalid-request");
    service.delete(&path).await.problem(400, "invalid-request");
    service.get(&path).await.problem(405, "method-not-allowed");
    let answer = service.get("/v1/topics/t/partitions/7/damage").await;
    answer.problem(404, "unknown-partition");
    let path = "/v1/topics/x/partitions/0/damage/skip";
    let answer = service.post(path, &range(3, 5)).await;
    answer.problem(404, "unknown-topic");
    // Nothing of that was stored.
    assert_eq!(known(&service).await, [(3, 5, false)]);
    trim(&service, 4).await;
    skip(&service, 3, 5).await.problem(410, "offset-trimmed");
}

#[tokio::test]
async fn a_skip_goes_with_its_topic() {
    let service = damaged(3, 2).await;
    skip(&service, 3, 5).await.ok();
    assert_eq!(service.app.log.state_prefix(b"d").len(), 1);
    assert_eq!(service.delete("/v1/topics/t").await.status, 204);
    assert_eq!(service.app.log.state_prefix(b"d").len(), 0);
    service.topic("t", 1);
    assert_eq!(known(&service).await, []);
}

#[tokio::test]
async fn damage_up_to_the_end_is_skipped_and_the_reader_waits_behind_it() {
    let service = damaged(8, 2).await;
    corrupt(&service, 8).await;
    skip(&service, 8, 10).await.ok();
    let end = records(&service, "offset=8&wait_ms=60000").await.ok();
    // It answers at once, without the wait.
    assert_eq!((offsets(&end), &end["next_offset"]), (vec![], &json!(10)));
    assert_eq!(end["gaps"][0]["until_offset"], 10);
    service.append_at("t", 0, &[NOW]);
    assert_eq!(offsets(&fetch(&service, 8).await.ok()), [10]);
    let uri = format!("{PARTITION}/records?offset=8");
    assert_eq!(service.call(Method::HEAD, &uri, "").await.status, 200);
}
