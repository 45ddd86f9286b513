//! Golden data directories, served: clients can read what earlier versions wrote. Those of the engine are in its own tests.
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
    serve_listed(&format!("segments/tests/golden/{name}.txt"))
}

fn serve_listed(path: &str) -> Service {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
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

/// Version 0.1.0 had the state of a queue in one value, and redrove dead letters by appending their records again.
///
/// Of ten records, it had delivered eight: 0, 2 and 5 are accepted, 3 and 4 rejected, 6 is released, 1 and 7 are leased. The
/// dead letter of 3 is redriven, as record 10; that of 4 waits.
#[tokio::test]
async fn a_queue_of_version_0_1_0_goes_on_where_it_was() {
    let service = serve_listed("tests/golden/queue-0.1.0.txt");
    let lag = service.get("/v1/groups/workers/lag").await.ok();
    assert_eq!(
        (&lag["lag"], &lag["dead_letters"]),
        (&json!(6), &json!(1)),
        "{lag}"
    );
    let body = json!({"topics": ["jobs"], "type": "shared", "max_records": 100, "wait_ms": 0});
    let path = "/v1/groups/workers/members/a";
    let polled = service.post(&format!("{path}/poll"), &body).await.ok();
    let delivered = polled["records"].as_array().expect("records").iter();
    let delivered: Vec<_> = delivered
        .map(|record| [record["offset"].as_u64(), record["delivery_count"].as_u64()].map(Option::unwrap))
        .collect();
    assert_eq!(delivered, [[1, 1], [6, 2], [7, 1], [8, 1], [9, 1], [10, 1]]);
    let group = service.get("/v1/groups/workers").await.ok();
    assert_eq!(group["settings"]["lease_ms"], 60_000, "{group}");
    assert_eq!(group["settings"]["max_deliveries"], 7, "{group}");

    let letters = service.get("/v1/groups/workers/dead-letters").await.ok();
    let letters = letters["dead_letters"].as_array().expect("dead letters");
    assert_eq!((letters.len(), &letters[0]["origin"]["offset"]), (1, &json!(4)));
    let redriven = service.post("/v1/groups/workers/redrive", json!({})).await.ok();
    assert_eq!(redriven["redriven"], 1);
    let again = service.post(&format!("{path}/poll"), &body).await.ok();
    assert_eq!(
        (&again["records"][0]["offset"], &again["records"][0]["redriven"]),
        (&json!(4), &json!(1))
    );

    // Its next write is in the form of today, which is read again.
    let accept: Vec<_> = [1, 4, 7, 8, 9, 10]
        .map(|offset| json!({"topic": "jobs", "partition": 0, "offset": offset}))
        .into();
    let settled = service
        .post(&format!("{path}/settle"), json!({"accept": accept}))
        .await
        .ok();
    assert_eq!(settled, json!({"lost": [], "settled": []}));
    let service = service.restart().await;
    let last = service.post(&format!("{path}/poll"), &body).await.ok();
    let last = last["records"].as_array().expect("records");
    assert_eq!((last.len(), &last[0]["offset"]), (1, &json!(6)));
    service.app.log.close().expect("it closes");
}
