//! The golden data directories of the engine, served: clients can read what earlier versions wrote.
#![allow(clippy::disallowed_methods, reason = "tests copy data directories")]

#[path = "../segments/tests/golden/listing.rs"]
#[allow(unreachable_pub, dead_code, reason = "other tests use it too")]
mod listing;
mod support;

use std::path::Path;

use serde_json::json;
use support::Service;

/// A service over a copy of a golden directory.
fn serve(name: &str) -> Service {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("segments/tests/golden/{name}.txt"));
    let text = std::fs::read_to_string(path).expect("a listing");
    let dir = tempfile::tempdir().expect("a directory");
    listing::write_tree(dir.path(), &listing::from_text(&text));
    Service::in_dir(dir)
}

#[tokio::test]
async fn a_directory_of_format_1_is_served_with_its_topics_groups_and_records() {
    for (name, orders_end, committed) in [
        ("v1/clean", 24, 11),
        ("v1/killed", 32, 20),
        ("v1/power-cut", 32, 20),
    ] {
        let service = serve(name);
        assert_eq!(service.get("/v1/info").await.ok()["data_format"], 1, "{name}");
        let topic = service.get("/v1/topics/orders").await.ok();
        assert_eq!(topic["partition_count"], 3, "{name}: {topic}");

        let uri = format!("/v1/topics/orders/partitions/0/records?offset={}", orders_end - 1);
        let record = &service.get(&uri).await.ok()["records"][0];
        assert_eq!(record["offset"], orders_end - 1, "{name}: {record}");
        assert_eq!(record["key"], "N14228", "{name}: {record}");
        let found = &record["value"];
        assert_eq!(*found, json!({ "number": orders_end - 1 }), "{name}: {record}");

        let offsets = service.get("/v1/groups/billing/offsets").await.ok();
        let mut rows = offsets["offsets"].as_array().expect("a list").iter();
        let of_orders = rows
            .find(|offset| offset["topic"] == "orders")
            .expect("it has committed there");
        assert_eq!(of_orders["offset"], committed, "{name}: {offsets}");
        service.app.log.close().expect("it closes");
    }
}
