//! Health, metrics, information and the description of the API, through the router.

mod support;

use http::Method;
use quipu::settings::Config;
use serde_json::{Value, json};
use support::{Answer, NOW, Service, contains, has, refused};

/// The methods that an answer allows, sorted.
fn allowed(answer: &Answer) -> Vec<&str> {
    let allowed = answer.header("allow").unwrap().split(',').map(str::trim);
    let mut allowed: Vec<_> = allowed.collect();
    allowed.sort_unstable();
    allowed
}

#[tokio::test]
async fn a_path_that_nothing_has_is_a_problem_and_never_empty() {
    let service = Service::start();
    for path in [
        "/assets/none.js",
        "/assets/",
        "/v1",
        "/v1/nothing",
        "/v1/groups/",
        "/openapi.yaml",
        "//",
    ] {
        service.get(path).await.problem(404, "not-found");
    }
    refused(service.call(Method::POST, "/v1/nothing", "{}"), 404, "not-found").await;
}

#[tokio::test]
async fn a_method_that_a_path_has_not_is_a_problem_that_names_those_it_has() {
    let service = Service::start();
    let answer = service.call(Method::POST, "/v1/groups", "{}").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    let answer = service.call(Method::PATCH, "/v1/groups/g/offsets", "{}").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(allowed(&answer), ["DELETE", "GET", "HEAD", "PUT"]);
    let answer = service.call(Method::OPTIONS, "/v1/info", "").await;
    answer.problem(405, "method-not-allowed");
}

#[tokio::test]
async fn head_answers_as_get_does_without_the_body() {
    let service = Service::start();
    for path in ["/health/live", "/v1/info", "/openapi.json", "/v1/groups"] {
        let answer = service.call(Method::HEAD, path, "").await;
        assert_eq!((answer.status, answer.text()), (200, ""), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let found = service.call(Method::HEAD, "/v1/groups/none", "").await.status;
    assert_eq!(found, 404);
}

#[tokio::test]
async fn every_documented_operation_is_answered_by_its_handler() {
    let service = Service::start();
    let document = service.get("/openapi.json").await.ok();
    assert_eq!(document["info"]["title"], "quipu");
    assert_eq!(document["info"]["license"]["name"], "Apache-2.0");
    let schemas = &document["components"]["schemas"];
    let needed = |body: &str| {
        let forms = schemas[body]["oneOf"].as_array().unwrap().iter();
        forms.map(|form| form["required"].clone()).collect::<Vec<_>>()
    };
    let [ordered, shared] = [json!(["topics"]), json!(["topics", "type"])];
    assert_eq!(needed("JoinBody"), [ordered.clone(), shared.clone()]);
    assert_eq!(needed("PollBody"), [Value::Null, ordered, shared]);
    let paths = document["paths"].as_object().unwrap();
    for path in "/openapi.json /metrics /health/live /health/ready /v1/info /v1/groups/{group}".split(' ') {
        assert!(paths.contains_key(path), "{path}");
    }
    let mut json_bodies = 0;
    for (path, item) in paths {
        let segments = path.split('/').map(|s| if s.starts_with('{') { "0" } else { s });
        let uri = segments.collect::<Vec<_>>().join("/");
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let body = &operation["requestBody"];
            if body["content"]["application/json"].is_object() && body["content"]["*/*"].is_null() {
                json_bodies += 1;
                service.put("/v1/topics/0", json!({})).await;
                service.put("/v1/groups/0/offsets", json!({"offsets": []})).await;
                let form = "application/x-www-form-urlencoded";
                for content_type in [None, Some("text/plain"), Some("text/json"), Some(form)] {
                    let headers: Vec<_> = content_type.map(|it| ("content-type", it)).into_iter().collect();
                    let answer = service.send(method.clone(), &uri, &headers, "{}").await;
                    answer.problem(415, "unsupported-media-type");
                }
                if body["required"] == true {
                    let answer = service.call(method.clone(), &uri, " ").await;
                    answer.invalid("");
                }
            }
            let answer = service.call(method.clone(), &uri, "").await;
            assert_ne!(answer.status, 405, "{method} {path}");
            let is_unknown = answer.status == 404 && answer.text().contains("nothing is at ");
            assert!(!is_unknown, "{method} {path}");
        }
        let answer = service.call(Method::TRACE, &uri, "").await;
        answer.problem(405, "method-not-allowed");
        let rows = item.as_object().unwrap().keys();
        let mut documented: Vec<_> = rows.map(|m| m.to_ascii_uppercase()).collect();
        if documented.contains(&"GET".to_owned()) && !documented.contains(&"HEAD".to_owned()) {
            documented.push("HEAD".to_owned());
        }
        documented.sort_unstable();
        assert_eq!(allowed(&answer), documented, "{path}");
    }
    assert!(json_bodies >= 11, "{json_bodies} operations take JSON");
}

#[tokio::test]
async fn a_healthy_server_is_live_and_ready_and_a_stopping_one_is_not_ready() {
    let service = Service::start();
    assert_eq!(service.get("/health/live").await.ok(), json!({"status": "live"}));
    let found = service.get("/health/ready").await.ok();
    assert_eq!(found, json!({"status": "ready", "degraded": []}));
    service.app.stopping.send_replace(true);
    service.get("/health/ready").await.problem(503, "shutting-down");
    assert_eq!(service.get("/health/live").await.ok(), json!({"status": "live"}));
}

#[tokio::test]
async fn a_server_that_takes_appends_is_ready_for_writes_and_other_purposes_are_refused() {
    let service = Service::start();
    let ready = service.get("/health/ready?for=writes").await.ok();
    assert_eq!(ready, json!({"status": "ready", "degraded": []}));
    for wrong in ["for=reads", "for=", "for=writes&for=writes"] {
        service
            .get(&format!("/health/ready?{wrong}"))
            .await
            .invalid("for");
    }
    service.get("/health/ready?verbose=1").await.invalid("verbose");
}

#[tokio::test]
async fn the_status_has_the_disk_and_what_of_it_is_used() {
    let service = Service::start();
    service.topic("orders", 2);
    service.append_numbers("orders", 1, 0, 100);
    let status = service.get("/v1/status").await.ok();
    assert_eq!(
        (&status["degraded"], &status["full_in_ms"]),
        (&json!([]), &Value::Null)
    );
    let disk = &status["disk"];
    let (free, total) = (
        disk["free_bytes"].as_u64().unwrap(),
        disk["total_bytes"].as_u64().unwrap(),
    );
    assert!(0 < free && free < total, "{disk}");
    let used = &disk["used_bytes"];
    let size = service.get("/v1/topics/orders").await.ok()["size_bytes"].clone();
    assert_eq!(used["topics"], size);
    assert_eq!(used["journal"], 16 << 20, "two files of 8 MiB");
    for part in ["idempotency_keys", "state"] {
        assert!(used[part].is_u64(), "{used}");
    }
    let none = json!({"produce_rate": 0.0, "produce_bytes_rate": 0.0, "fetch_bytes_rate": 0.0});
    assert_eq!(status["rates"], none);
    service.get("/v1/status?verbose=1").await.invalid("verbose");
}

#[tokio::test]
async fn information_has_the_version_and_the_limits_in_force() {
    let mut config = Config::default();
    config.limits.max_key_bytes = 77;
    let service = Service::with(config);
    let info = service.get("/v1/info").await.ok();
    let expected = json!({"version": env!("CARGO_PKG_VERSION"), "data_format": 1, "uptime_ms": 0});
    has(&info, expected);
    assert_eq!(info["limits"]["max_key_bytes"], 77);
    assert_eq!(info["limits"]["max_request_bytes"], 32 << 20);
    let features = info["features"].as_array().unwrap();
    assert!(features.iter().all(Value::is_string));
    service.get("/v1/info?verbose=1").await.invalid("verbose");
}

#[tokio::test]
async fn metrics_have_positions_lag_and_the_engines_counts() {
    let service = Service::start();
    service.topic("orders", 2);
    service.append_at("orders", 1, &[NOW - 3000, NOW - 2000]);
    let offsets = json!({"offsets": [{"topic": "orders", "partition": 1, "offset": 1}]});
    service.put("/v1/groups/g/offsets", &offsets).await.ok();
    let answer = service.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let has = |line: &str| {
        let text = answer.text();
        let is_there = text.lines().any(|found| found == line);
        assert!(is_there, "no line {line:?} in\n{text}");
    };
    has("quipu_partition_end_offset{topic=\"orders\",partition=\"0\"} 0");
    has("quipu_partition_end_offset{topic=\"orders\",partition=\"1\"} 2");
    has("quipu_partition_log_start_offset{topic=\"orders\",partition=\"1\"} 0");
    has("quipu_group_lag_records{group=\"g\",topic=\"orders\",partition=\"1\"} 1");
    has("quipu_group_lag_seconds{group=\"g\",topic=\"orders\",partition=\"1\"} 2");
    has("quipu_group_committed_offset{group=\"g\",topic=\"orders\",partition=\"1\"} 1");
    has("quipu_group_topic_lag_records{group=\"g\",topic=\"orders\"} 1");
    has("quipu_group_topic_max_lag_seconds{group=\"g\",topic=\"orders\"} 2");
    has("quipu_group_members{group=\"g\"} 0");
    has("quipu_group_status{group=\"g\"} 0");
    has("quipu_group_total_lag_records{group=\"g\"} 1");
    has("quipu_group_max_lag_seconds{group=\"g\"} 2");
    has("quipu_topic_appended_records_total{topic=\"orders\"} 2");
    has("quipu_log_failed 0");
    has("quipu_storage_full 0");
    has("quipu_log_append_records_total 2");
    has("quipu_series_left_out 0");
    let rows = answer.text().lines();
    let mut names: Vec<_> = rows.filter(|line| line.starts_with("# TYPE")).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a metric is given twice");
}

#[tokio::test]
async fn metrics_are_openmetrics_only_where_that_is_asked_for() {
    let service = Service::start();
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
        text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
    for (accept, is_open) in [
        (prometheus, true),
        ("application/openmetrics-text", true),
        ("text/plain", false),
        ("*/*", false),
        ("application/json", false),
    ] {
        let answer = service.get_as("/metrics", accept).await.with_status(200);
        let found = answer.header("content-type").unwrap();
        assert_eq!(
            found.starts_with("application/openmetrics-text; version=1.0.0"),
            is_open,
            "{accept}"
        );
        assert_eq!(answer.text().ends_with("# EOF\n"), is_open, "{accept}");
        assert_eq!(
            answer.text().contains("# UNIT quipu_uptime_seconds seconds\n"),
            is_open,
            "{accept}"
        );
        assert_eq!(
            answer.text().contains("# TYPE quipu_log_rounds counter\n"),
            is_open,
            "{accept}"
        );
        assert_eq!(
            answer.text().contains("# TYPE quipu_log_rounds_total counter\n"),
            !is_open,
            "{accept}"
        );
        contains(answer.text(), "\nquipu_log_rounds_total ");
    }
}
