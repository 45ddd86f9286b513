//! Quotas: what is refused, what waits, and what is never refused.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::support::client::Connection;
use crate::world::{World, rule};

/// Counts the bytes that a thread moves over a connection.
struct Counted {
    socket: TcpStream,
    bytes: Arc<AtomicUsize>,
    moving: JoinHandle<()>,
}

impl Counted {
    fn begin(
        connection: &Connection,
        mut step: impl FnMut(&mut TcpStream) -> io::Result<usize> + Send + 'static,
    ) -> Self {
        let socket = connection.stream.get_ref().try_clone().expect("a socket");
        let (bytes, mut moved) = (
            Arc::new(AtomicUsize::new(0)),
            socket.try_clone().expect("a socket"),
        );
        let count = Arc::clone(&bytes);
        let moving = std::thread::spawn(move || {
            while let Ok(some @ 1..) = step(&mut moved) {
                count.fetch_add(some, Relaxed);
            }
        });
        Self {
            socket,
            bytes,
            moving,
        }
    }

    /// How many they were. Closes the connection.
    fn end(self) -> usize {
        let bytes = self.bytes.load(Relaxed);
        let _ = self.socket.shutdown(Shutdown::Both);
        self.moving.join().expect("it only counts");
        bytes
    }
}

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

#[test]
fn looking_at_offsets_is_no_acknowledgement() {
    let world = World::new();
    world.topic("orders", 1);
    let row = json!({"offsets": [{"topic": "orders", "partition": 0, "offset": 0}]});
    let at = "/v1/groups/g/offsets";
    world.admin("PUT", at, &row);
    let rights = rule("read write describe", "orders", "g");
    let token = limited(&world, "slow", rights, json!({"requests_per_second": 1}));
    let refused = (0..50)
        .map(|_| world.get(&token, at))
        .find(|answer| answer.status != 200);
    refused
        .expect("the rate is exceeded")
        .problem(429, "quota-exceeded");
    for _ in 0..10 {
        assert_eq!(world.call(&token, "PUT", at, &row).status, 200);
    }
}

#[test]
fn what_acknowledgements_bring_along_is_counted() {
    let world = World::new();
    world.topic("in", 2);
    world.topic("out", 0);
    let rights = rule("read write describe", "in out", "g q");
    let token = limited(&world, "slow", rights, json!({"bytes_per_second": 10_000}));
    let at = "/v1/groups/q/members/m";
    let join = json!({"topics": ["in"], "type": "shared", "wait_ms": 0, "max_records": 1});
    let polled = world.call(&token, "POST", &format!("{at}/poll"), &join).ok();
    assert_eq!(
        world.get(&token, "/v1/topics/out").status,
        200,
        "there is no debt yet"
    );
    let large = json!([{"topic": "out", "value": "x".repeat(500_000)}]);
    let place = &polled["records"][0];
    let place = json!({"topic": place["topic"], "partition": place["partition"], "offset": place["offset"]});
    let settle = json!({"accept": [place], "produce": large});
    world.call(&token, "POST", &format!("{at}/settle"), &settle).ok();
    world.get(&token, "/v1/topics/out").problem(429, "quota-exceeded");
    // More acknowledgements are not refused.
    let beat = world.call(&token, "POST", &format!("{at}/heartbeat"), &Value::Null);
    assert_eq!(beat.status, 200, "{}", beat.text());
}

#[test]
fn whoever_has_used_up_a_quota_still_signs_out() {
    let world = World::new();
    let token = limited(
        &world,
        "slow",
        rule("read", "a", ""),
        json!({"requests_per_second": 1}),
    );
    let begun = world.call("", "POST", "/v1/session", &json!({"token": token}));
    let begun = begun.with_status(204);
    let cookie = begun.header("set-cookie").unwrap().split(';').next().unwrap();
    let cookie = format!("Cookie: {cookie}\r\n");
    let with = |method: &str, path: &str| world.call_with("", method, path, &cookie, &Value::Null);
    let refused = (0..50).any(|_| with("GET", "/v1/topics").status == 429);
    assert!(refused, "the rate is exceeded");
    assert_eq!(with("GET", "/health/ready").status, 200);
    assert_eq!(with("DELETE", "/v1/session").status, 204);
    with("GET", "/v1/topics").problem(401, "unauthenticated");
}

#[test]
fn a_stream_waits_until_its_bytes_are_paid_for() {
    let world = World::new();
    world.admin("PUT", "/v1/topics/orders", &json!({"partitions": 1}));
    // More than the kernel buffers for a connection.
    let value = "x".repeat(500_000);
    for _ in 0..40 {
        let body = json!({"records": [{"value": value}]});
        world.admin("POST", "/v1/topics/orders/records", &body);
    }
    let path = "/v1/topics/orders/records";
    let rights = rule("read", "orders", "");
    let token = limited(&world, "slow", rights.clone(), json!({"bytes_per_second": 1}));
    let mut slow = world.begin(&token, "GET", path, "Accept: application/x-ndjson\r\n");
    slow.answering();
    let mut part = vec![0; 64 << 10];
    let taken = Counted::begin(&slow, move |socket| socket.read(&mut part));
    // Others read all of it meanwhile, several times.
    let free = world.token("free", json!([rights]));
    for _ in 0..3 {
        assert!(world.get(&free, path).body.len() > 20_000_000);
    }
    // What the slow one got until then is its first part, which costs days.
    let taken = taken.end();
    assert!(taken < 2_000_000, "{taken}");
    // A new stream of the same principal, over another connection, is refused until then.
    world.get(&token, path).problem(429, "quota-exceeded");
}

#[test]
fn a_debt_outlives_other_rules_and_another_secret() {
    let world = World::new();
    world.topic("orders", 0);
    let rights = rule("write describe", "orders", "");
    let token = limited(&world, "slow", rights, json!({"bytes_per_second": 1}));
    let records = json!({"records": [{"value": "x".repeat(100_000)}]});
    let at = "/v1/topics/orders/records";
    assert_eq!(world.call(&token, "POST", at, &records).status, 200);
    let rules = json!({"rules": [rule("describe", "orders", "")]});
    world.admin("PATCH", "/v1/tokens/slow", &rules);
    world
        .get(&token, "/v1/topics/orders")
        .problem(429, "quota-exceeded");
    let rotated = world.admin("POST", "/v1/tokens/slow/rotate", &Value::Null);
    let token = rotated["token"].as_str().unwrap();
    world
        .get(token, "/v1/topics/orders")
        .problem(429, "quota-exceeded");
}

#[test]
fn an_upload_waits_until_its_bytes_are_paid_for() {
    let world = World::new();
    world.topic("orders", 0);
    let at = "/v1/topics/orders/records";
    let kind = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    let rights = rule("write", "orders", "");
    let slow = limited(&world, "slow", rights.clone(), json!({"bytes_per_second": 1}));
    let slow = world.begin(&slow, "POST", at, kind);
    // Far more than the kernel buffers for a connection.
    let line = format!("{{\"value\":\"{}\"}}\n", "x".repeat(100_000));
    let part = format!("{:x}\r\n{line}\r\n", line.len()).repeat(400);
    let (whole, mut at_byte) = (part.clone().into_bytes(), 0);
    let taken = Counted::begin(&slow, move |socket| {
        let written = socket.write(&whole[at_byte..])?;
        at_byte += written;
        Ok(written)
    });
    // Others upload all of it meanwhile, several times.
    let free = world.token("free", json!([rights]));
    for _ in 0..3 {
        let mut free = world.begin(&free, "POST", at, kind);
        free.say(part.as_bytes());
        free.chunk(b"");
        free.answered().ok();
    }
    // What the slow one got rid of until then is what the kernel buffers.
    let taken = taken.end();
    assert!(taken < part.len() / 3, "{taken}");
}
