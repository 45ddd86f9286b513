//! What a work queue holds, as lag, the group's description and the metrics say it: unsettled, leased, delayed, waiting,
//! and dead letters that wait.

use crate::support::{Service, has};
use serde_json::{Value, json};

fn places(offsets: &[u64]) -> Vec<Value> {
    let place = |offset: &u64| json!({"topic": "jobs", "partition": 0, "offset": offset});
    offsets.iter().map(place).collect()
}

/// A queue of 20 records: 5 are leased, 2 delayed, 10 wait, 3 are dead letters.
async fn queue() -> Service {
    let service = Service::new();
    service.create_topic("jobs", 1).await;
    service.append_numbers("jobs", 0, 0, 20);
    let poll = json!({"topics": ["jobs"], "type": "shared", "max_records": 10, "wait_ms": 0});
    service.post("/v1/groups/work/members/m/poll", poll).await.ok();
    let mut delayed = places(&[3, 4]);
    delayed
        .iter_mut()
        .for_each(|place| place["delay_ms"] = json!(60_000));
    let settle = json!({"reject": places(&[0, 1, 2]), "release": delayed});
    service
        .post("/v1/groups/work/members/m/settle", settle)
        .await
        .ok();
    let plain = json!({"topics": ["jobs"], "wait_ms": 0});
    service.post("/v1/groups/plain/members/m/poll", plain).await.ok();
    service
}

/// A row of the summary of all groups.
async fn summary(service: &Service, group: &str) -> Value {
    let all = service.get("/v1/lag").await.ok();
    let mut rows = all["groups"].as_array().unwrap().iter();
    rows.find(|row| row["group"] == group).unwrap().clone()
}

#[tokio::test]
async fn lag_and_description_say_what_a_queue_holds_and_how_many_dead_letters_wait() {
    let service = queue().await;
    let expected = json!({"lag": 17, "leased": 5, "delayed": 2, "dead_letters": 3});
    has(&service.get("/v1/groups/work/lag").await.ok(), &expected);
    has(&summary(&service, "work").await, &expected);
    let group = service.get("/v1/groups/work").await.ok();
    let held = json!({"leased": 5, "delayed": 2, "waiting": 10, "dead_letters": 3});
    has(&group["queue"], held);
    let plain = summary(&service, "plain").await;
    for field in ["leased", "delayed", "dead_letters"] {
        assert_eq!(plain.get(field), None, "an ordered group has no {field}");
    }
    let redrive = json!({"max_records": 1});
    service.post("/v1/groups/work/redrive", redrive).await.ok();
    let discard = json!({"max_records": 1, "discard": true});
    service.post("/v1/groups/work/redrive", discard).await.ok();
    let expected = json!({"lag": 18, "dead_letters": 1});
    has(&summary(&service, "work").await, &expected);
    let service = service.restart().await;
    has(&summary(&service, "work").await, &expected);
    let trim = "/v1/topics/jobs.dlq/partitions/0/records?before=3";
    service.delete(trim).await.with_status(200);
    has(&summary(&service, "work").await, json!({"dead_letters": 0}));
    service.delete("/v1/topics/jobs.dlq").await.with_status(204);
    has(&summary(&service, "work").await, json!({"dead_letters": 0}));
}

#[tokio::test]
async fn metrics_say_what_queues_hold_by_topic_and_their_dead_letters_by_group() {
    let service = queue().await;
    let answer = service.get("/metrics").await;
    let lines: Vec<&str> = answer.text().lines().collect();
    for (name, value) in [("unsettled", 17), ("leased", 5), ("delayed", 2), ("waiting", 10)] {
        let line = format!("quipu_queue_{name}_records{{group=\"work\",topic=\"jobs\"}} {value}");
        assert!(lines.contains(&&*line), "{line} in {lines:?}");
    }
    let dead = "quipu_queue_dead_letters{group=\"work\"} 3";
    assert!(lines.contains(&dead), "{lines:?}");
    let queues = lines.iter().filter(|line| line.starts_with("quipu_queue_"));
    assert_eq!(queues.count(), 5, "an ordered group has none");
    for name in ["unsettled_records", "dead_letters"] {
        let kind = format!("# TYPE quipu_queue_{name} gauge");
        assert!(lines.contains(&&*kind), "{kind}");
    }
}

#[tokio::test]
async fn a_look_at_the_lag_reads_a_large_topic_of_dead_letters_in_parts() {
    let service = Service::new();
    service.create_topic("jobs", 1).await;
    let value = json!("x".repeat(1_000_000)).to_string();
    for _ in 0..20 {
        service.append("jobs", 0, true, &[(0, None, Some(value.as_bytes()), &[])]);
    }
    let all: Vec<u64> = (0..20).collect();
    let poll = json!({"topics": ["jobs"], "type": "shared", "max_records": 1, "wait_ms": 0});
    service.post("/v1/groups/work/members/m/poll", poll).await.ok();
    for some in all.chunks(2) {
        let reject = json!({"reject": places(some)});
        let path = "/v1/groups/work/members/m/settle";
        service.post(path, reject).await.ok();
    }
    let service = service.restart().await;
    let count = async || summary(&service, "work").await["dead_letters"].as_u64().unwrap();
    let first = count().await;
    assert!((10..20).contains(&first), "{first} after one look");
    assert_eq!((count().await, count().await), (20, 20));
}
