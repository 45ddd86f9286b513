//! Dead letters that are too large for one append, or too many for one answer.

use serde_json::{Value, json};

use crate::support::Service;
use crate::support::service::Headers;

const RECORDS: u64 = 40;

/// A topic with records that together are larger than the largest request, in their values or in their headers.
async fn large(in_headers: bool) -> Service {
    let service = Service::new();
    service.create_topic("jobs", 1).await;
    let bulk = format!("\"{}\"", "x".repeat(900 << 10)).into_bytes();
    let headers = [(&b"h"[..], Some(&bulk[..]))];
    for _ in 0..RECORDS {
        let sample: (&[u8], Headers<'_>) = match in_headers {
            true => (b"1", &headers),
            false => (&bulk, &[]),
        };
        service.append("jobs", 0, true, &[(0, None, Some(sample.0), sample.1)]);
    }
    service
}

/// The places of all records, once they are leased.
async fn lease_all(service: &Service) -> Value {
    let mut places = Vec::new();
    while (places.len() as u64) < RECORDS {
        let body = json!({"topics": ["jobs"], "type": "shared", "max_deliveries": 2, "max_bytes": 32 << 20, "wait_ms": 0});
        let polled = service.post("/v1/groups/workers/members/a/poll", body).await.ok();
        let records = polled["records"].as_array().expect("a list");
        assert!(!records.is_empty(), "{} are leased", places.len());
        let place = |record: &Value| json!({"topic": "jobs", "partition": 0, "offset": record["offset"]});
        places.extend(records.iter().map(place));
    }
    places.into()
}

async fn letters(service: &Service) -> u64 {
    let topic = service.get("/v1/topics/jobs.dlq").await.json();
    topic["records"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn a_settle_rejects_all_that_it_names_also_if_that_is_too_large_for_one_append() {
    for in_headers in [false, true] {
        let service = large(in_headers).await;
        // The second time they are redriven: their dead letters are read from those of the first time.
        for round in 1..=2 {
            let reject = json!({"reject": lease_all(&service).await});
            let path = "/v1/groups/workers/members/a/settle";
            let settled = service.post(path, reject).await.ok();
            assert_eq!((&settled["lost"], &settled["settled"]), (&json!([]), &json!([])));
            assert_eq!(letters(&service).await, round * RECORDS);
            let leases = service.get("/v1/groups/workers/leases").await.ok();
            assert_eq!(leases["leases"], json!([]));
            let redriven = service.post("/v1/groups/workers/redrive", json!({})).await.ok();
            assert_eq!(redriven["redriven"], RECORDS);
        }
    }
}

#[tokio::test]
async fn records_that_were_delivered_too_often_are_buried_however_large_they_are() {
    for in_headers in [false, true] {
        let service = large(in_headers).await;
        for _ in 0..2 {
            let all = lease_all(&service).await;
            let release = all.as_array().expect("a list").iter();
            let release: Value = release.cloned().collect();
            let path = "/v1/groups/workers/members/a/settle";
            service.post(path, json!({"release": release})).await.ok();
        }
        // A poll finds that they are exhausted, and the dead letters are written beside it.
        while letters(&service).await < RECORDS {
            let body = json!({"wait_ms": 10});
            let polled = service.post("/v1/groups/workers/members/a/poll", body).await.ok();
            assert_eq!(polled["records"], json!([]));
        }
    }
}

#[tokio::test]
async fn a_list_stops_at_32_mib_and_goes_on_behind_what_it_has() {
    for in_headers in [false, true] {
        let service = large(in_headers).await;
        let reject = json!({"reject": lease_all(&service).await});
        service
            .post("/v1/groups/workers/members/a/settle", reject)
            .await
            .ok();
        let list = async |query: &str| {
            let path = format!("/v1/groups/workers/dead-letters?limit={RECORDS}{query}");
            service.get(&path).await.ok()
        };
        let offsets = |list: &Value| -> Vec<u64> {
            let letters = list["dead_letters"].as_array().expect("a list").iter();
            letters
                .map(|letter| letter["offset"].as_u64().expect("a number"))
                .collect()
        };
        let first = list("").await;
        let mut found = offsets(&first);
        let count = found.len() as u64;
        assert!((1..RECORDS).contains(&count), "{count} of {RECORDS}");
        let rest = list(&format!(
            "&after={}",
            first["next"].as_str().expect("there are more")
        ))
        .await;
        found.extend(offsets(&rest));
        assert_eq!(found, (0..RECORDS).collect::<Vec<_>>());
        assert_eq!(rest["next"], Value::Null);
        for page in [&first, &rest] {
            assert_eq!(page["reasons"], json!({"rejected": RECORDS}));
        }
        // Values are cut before they are counted; headers are whole.
        let cut = list("&value_limit=0").await;
        let expected = if in_headers { count } else { RECORDS };
        assert_eq!(offsets(&cut).len() as u64, expected);
        assert_eq!(cut["next"].is_null(), !in_headers);
    }
}

#[tokio::test]
async fn a_list_counts_a_thousand_reasons_and_says_how_many_dead_letters_have_others() {
    const LETTERS: u64 = 1200;
    let service = Service::new();
    service.create_topic("jobs", 1).await;
    service.append_numbers("jobs", 0, 0, LETTERS);
    let poll = json!({"topics": ["jobs"], "type": "shared", "max_records": LETTERS, "wait_ms": 0});
    let mut leased = 0;
    while leased < LETTERS {
        let polled = service
            .post("/v1/groups/workers/members/a/poll", &poll)
            .await
            .ok();
        let records = polled["records"].as_array().expect("a list");
        assert!(!records.is_empty(), "{leased} are leased");
        leased += records.len() as u64;
    }
    let reject = |offset: u64| {
        // The last hundred have reasons that others have, too.
        let reason = format!("reason {}", offset % 1100);
        json!({"topic": "jobs", "partition": 0, "offset": offset, "reason": reason})
    };
    let body = json!({"reject": (0..LETTERS).map(reject).collect::<Vec<_>>()});
    service
        .post("/v1/groups/workers/members/a/settle", body)
        .await
        .ok();
    let list = service.get("/v1/groups/workers/dead-letters?limit=1").await.ok();
    let reasons = list["reasons"].as_object().expect("an object");
    let counted: u64 = reasons.values().filter_map(Value::as_u64).sum();
    assert_eq!((reasons.len(), counted), (1000, 1100));
    assert_eq!(list["other_reasons"], 100);
    assert_eq!(list["reasons"]["reason 0"], 2);
    let discard = json!({"discard": true, "reason": "reason 1"});
    service.post("/v1/groups/workers/redrive", discard).await.ok();
    let few = service
        .get("/v1/groups/workers/dead-letters?state=discarded&limit=1")
        .await
        .ok();
    assert_eq!(few["other_reasons"], Value::Null);
}
