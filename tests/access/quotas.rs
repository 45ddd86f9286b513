//! Quotas: what is refused, what waits, and what is never refused.

use serde_json::{Value, json};

use crate::world::{World, rule};

fn limited(world: &World, name: &str, rules: Value, quotas: Value) -> String {
    let body = json!({"name": name, "rules": [rules], "quotas": quotas});
    let made = world.admin("POST", "/v1/tokens", &body);
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn requests_above_the_rate_are_refused_and_acknowledgements_are_not() {
    let world = World::new();
    world.topic("orders", 5);
    let token = limited(
        &world,
        "slow",
        rule("read describe", "orders", "g"),
        json!({"requests_per_second": 1}),
    );
    let poll = json!({"topics": ["orders"], "wait_ms": 0});
    let at = "/v1/groups/g/members/m/poll";
    let mut last = world.call(&token, "POST", at, &poll).ok();
    let mut refused = None;
    for _ in 0..50 {
        let answer = world.get(&token, "/v1/topics/orders");
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 200);
    }
    let refused = refused.expect("the rate is exceeded");
    let problem = refused.problem(429, "quota-exceeded");
    assert_eq!(problem["retryable"], true);
    assert_eq!(refused.header("retry-after"), Some("1"));
    for _ in 0..10 {
        last = world
            .call(&token, "POST", at, &json!({"ack": last["poll_id"], "wait_ms": 0}))
            .ok();
        let beat = world.call(&token, "POST", "/v1/groups/g/members/m/heartbeat", &Value::Null);
        assert_eq!(beat.status, 200, "{}", beat.text());
    }
    // Another principal is not concerned.
    let other = world.token("other", json!([rule("describe", "orders", "")]));
    assert_eq!(world.get(&other, "/v1/topics/orders").status, 200);
}

#[test]
fn a_large_request_passes_and_its_debt_refuses_the_next() {
    let world = World::new();
    world.topic("orders", 0);
    let token = limited(
        &world,
        "slow",
        rule("write", "orders", ""),
        json!({"bytes_per_second": 1}),
    );
    let records = json!({"records": [{"value": "x".repeat(100_000)}]});
    let at = "/v1/topics/orders/records";
    assert_eq!(world.call(&token, "POST", at, &records).status, 200);
    let refused = world.call(&token, "POST", at, &records);
    refused.problem(429, "quota-exceeded");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds > 1000, "{seconds}");
    // Other limits are other quotas: the debt is forgotten with them.
    world.admin("PATCH", "/v1/tokens/slow", &json!({"quotas": null}));
    assert_eq!(world.call(&token, "POST", at, &records).status, 200);
}

#[test]
fn requests_in_flight_are_counted_until_their_answers_end() {
    let world = World::new();
    world.topic("orders", 1);
    let token = limited(
        &world,
        "few",
        rule("read describe", "orders", ""),
        json!({"connections": 1}),
    );
    let mut stream = world.begin(
        &token,
        "GET",
        "/v1/topics/orders/records?follow=true",
        "Accept: text/event-stream\r\n",
    );
    stream.answering();
    let refused = world.get(&token, "/v1/topics/orders");
    assert_eq!(refused.problem(429, "quota-exceeded")["quota"], "connections");
    drop(stream);
    let begin = std::time::Instant::now();
    while world.get(&token, "/v1/topics/orders").status != 200 {
        assert!(
            begin.elapsed() < crate::support::PATIENCE,
            "the stream's place is free again"
        );
        std::thread::yield_now();
    }
}

#[test]
fn quotas_are_at_least_one() {
    let world = World::new();
    for name in ["bytes_per_second", "requests_per_second", "connections"] {
        let body = json!({"name": "x", "rules": [], "quotas": {name: 0}});
        let answer = world.call(crate::world::ADMIN, "POST", "/v1/tokens", &body);
        answer.invalid(&format!("/quotas/{name}"));
    }
}
