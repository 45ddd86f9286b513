//! The golden data directories of the engine, served: what earlier versions wrote is there for clients too.
#![allow(clippy::disallowed_methods, reason = "tests copy data directories")]

#[path = "../segments/tests/golden/listing.rs"]
#[allow(unreachable_pub, dead_code, reason = "other tests use it too")]
mod listing;

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use quipu::app::App;
use quipu::settings::Config;
use quipu_segments::{Log, SystemClock};
use serde_json::{Value, json};
use tower::ServiceExt;

async fn get(app: &App, uri: &str) -> Value {
    let request = Request::get(uri).body(Body::empty()).expect("a request");
    let answer = quipu::http::router(app.clone())
        .oneshot(request)
        .await
        .expect("an answer");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(status, StatusCode::OK, "{uri}: {body:?}");
    serde_json::from_slice(&body).expect("JSON")
}

/// A service over a copy of a golden directory.
fn serve(name: &str) -> (App, tempfile::TempDir) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("segments/tests/golden/{name}.txt"));
    let text = std::fs::read_to_string(path).expect("a listing");
    let dir = tempfile::tempdir().expect("a directory");
    listing::write_tree(dir.path(), &listing::from_text(&text));
    let mut config = Config {
        journal_file_bytes: 4 << 20,
        ..Config::default()
    };
    config.limits.max_request_bytes = 1 << 20;
    let log = Log::open(dir.path(), config.log_options()).expect("it opens");
    (App::new(log, config, Arc::new(SystemClock::new())), dir)
}

#[tokio::test]
async fn a_directory_of_format_1_is_served_with_its_topics_groups_and_records() {
    for (name, orders_end, committed) in [
        ("v1/clean", 24, 11),
        ("v1/killed", 32, 20),
        ("v1/power-cut", 32, 20),
    ] {
        let (app, _dir) = serve(name);
        assert_eq!(get(&app, "/v1/info").await["data_format"], 1, "{name}");
        let topic = get(&app, "/v1/topics/orders").await;
        assert_eq!(topic["partition_count"], 3, "{name}: {topic}");

        let uri = format!("/v1/topics/orders/partitions/0/records?offset={}", orders_end - 1);
        let record = &get(&app, &uri).await["records"][0];
        assert_eq!(record["offset"], orders_end - 1, "{name}: {record}");
        assert_eq!(record["key"], "N14228", "{name}: {record}");
        assert_eq!(
            record["value"],
            json!({ "number": orders_end - 1 }),
            "{name}: {record}"
        );

        let offsets = get(&app, "/v1/groups/billing/offsets").await;
        let of_orders = offsets["offsets"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|offset| offset["topic"] == "orders")
            .expect("it has committed there");
        assert_eq!(of_orders["offset"], committed, "{name}: {offsets}");
        app.log.close().expect("it closes");
    }
}
