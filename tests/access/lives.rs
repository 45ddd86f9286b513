//! What ends with a token: streams, polls, uploads, sessions.

use std::io::Read;

use serde_json::{Value, json};

use crate::support::client::Connection;
use crate::world::{ADMIN, World, bearer, rule};

/// A live tail, of which one record has been read.
fn tail(world: &World, token: &str) -> Connection {
    try_tail(world, token).expect("a record comes")
}

/// The same with a token that may end before that.
fn try_tail(world: &World, token: &str) -> Option<Connection> {
    let path = "/v1/topics/orders/records?follow=true";
    let mut connection = world.begin(token, "GET", path, "Accept: application/x-ndjson\r\n");
    let head = connection.answer_head().ok()?;
    let mut byte = [0];
    let has_begun = head.status == 200 && connection.stream.read_exact(&mut byte).is_ok();
    has_begun.then_some(connection)
}

/// Reads until the stream breaks off; `true` if that is without its final chunk.
fn breaks_off(mut connection: Connection) -> bool {
    let mut rest = Vec::new();
    match connection.stream.read_to_end(&mut rest) {
        Ok(_) => !rest.ends_with(b"0\r\n\r\n"),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// The wall time, in milliseconds.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_millis() as u64
}

fn reader() -> Value {
    json!([rule("read describe", "orders", "g")])
}

#[test]
fn a_revoked_token_ends_its_stream_its_poll_and_its_upload() {
    let world = World::new();
    world.topic("orders", 1);
    let token = world.token("mine", json!([rule("read write describe", "orders", "g")]));
    let stream = tail(&world, &token);
    let join = json!({"topics": ["orders"], "start": "latest", "wait_ms": 60000}).to_string();
    let mut poll = world.server.connect();
    let (at, headers) = ("/v1/groups/g/members/m/poll", bearer(&token));
    poll.send_request_with("POST", at, "application/json", &headers, join.as_bytes())
        .unwrap();
    let mut upload = world.begin(
        &token,
        "POST",
        "/v1/topics/orders/records",
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n",
    );
    upload.chunk(b"{\"value\":1}\n");
    let begin = std::time::Instant::now();
    while world.get(ADMIN, "/v1/groups/g").json()["members"][0]["polling"] != true {
        assert!(begin.elapsed() < crate::support::PATIENCE, "the poll waits");
    }
    world.admin("DELETE", "/v1/tokens/mine", &Value::Null);
    world
        .get(&token, "/v1/topics/orders")
        .problem(401, "unauthenticated");
    assert!(breaks_off(stream));
    poll.answered().problem(401, "unauthenticated");
    upload.answered().problem(401, "unauthenticated");
    world
        .call(ADMIN, "DELETE", "/v1/tokens/mine", &Value::Null)
        .problem(404, "not-found");
}

#[test]
fn other_rules_and_the_end_of_a_tokens_time_end_its_streams() {
    let world = World::new();
    world.topic("orders", 1);
    let token = world.token("mine", reader());
    let stream = tail(&world, &token);
    world.admin(
        "PATCH",
        "/v1/tokens/mine",
        &json!({"rules": [rule("describe", "orders", "")]}),
    );
    assert!(breaks_off(stream));
    world
        .get(&token, "/v1/topics/orders/records")
        .problem(403, "forbidden");
    assert_eq!(world.get(&token, "/v1/topics/orders").status, 200);
    // It is given back for a short time, or for a longer one if a tail did not begin within that.
    let given_back = (0..6).find_map(|round| {
        let ends = now_ms() + (1500 << round);
        let change = json!({"rules": reader(), "expires": ends});
        world.call(ADMIN, "PATCH", "/v1/tokens/mine", &change);
        Some((try_tail(&world, &token)?, ends))
    });
    let (stream, ends) = given_back.expect("a tail begins");
    assert!(breaks_off(stream));
    assert!(now_ms() >= ends, "the stream breaks off when the token ends");
    world
        .get(&token, "/v1/topics/orders")
        .problem(401, "unauthenticated");
    world.admin("PATCH", "/v1/tokens/mine", &json!({"expires": null}));
    assert_eq!(world.get(&token, "/v1/topics/orders").status, 200);
}

#[test]
fn a_rotated_tokens_former_secret_works_during_the_overlap_and_not_longer() {
    let world = World::new();
    world.topic("orders", 1);
    let first = world.token("mine", reader());
    let rotated = world.admin(
        "POST",
        "/v1/tokens/mine/rotate",
        &json!({"overlap_ms": 3_600_000}),
    );
    let second = rotated["token"].as_str().unwrap().to_owned();
    let is_valid = |token: &str| world.get(token, "/v1/topics/orders").status == 200;
    assert!(first != second && is_valid(&first) && is_valid(&second));
    assert!(world.admin("GET", "/v1/tokens/mine", &Value::Null)["overlap_until"].is_u64());
    let stream = tail(&world, &first);
    let rotated = world.admin("POST", "/v1/tokens/mine/rotate", &Value::Null);
    let third = rotated["token"].as_str().unwrap().to_owned();
    assert!(!is_valid(&first) && !is_valid(&second) && is_valid(&third));
    assert!(breaks_off(stream));
    let world = world.restart();
    assert_eq!(world.get(&third, "/v1/topics/orders").status, 200);
    world
        .get(&second, "/v1/topics/orders")
        .problem(401, "unauthenticated");
}

#[test]
fn what_becomes_of_a_token_counts_on_connections_that_have_used_it() {
    let world = World::new();
    world.topic("orders", 1);
    let mut connection = world.server.connect();
    let mut status = |token: &str| {
        let answer = connection.request_with("GET", "/v1/topics/orders", "", &bearer(token), b"");
        answer.expect("the connection stays open").status
    };
    let (one, two) = (world.token("one", reader()), world.token("two", reader()));
    assert_eq!([&one, &one, &two, &one].map(|token| status(token)), [200; 4]);
    let other = if one.ends_with('a') { "b" } else { "a" };
    let wrong = format!("{}{other}", &one[..one.len() - 1]);
    for wrong in [
        &wrong,
        &one[1..],
        &one[..one.len() - 1],
        &format!("{one}{one}"),
        "",
    ] {
        assert_eq!([status(wrong), status(&one)], [401, 200], "{wrong}");
    }
    let with_rules = |rules: Value| world.admin("PATCH", "/v1/tokens/one", &json!({"rules": rules}));
    with_rules(json!([rule("describe", "others", "")]));
    assert_eq!([&one, &one].map(|token| status(token)), [403; 2]);
    with_rules(reader());
    assert_eq!(status(&one), 200);
    let rotate = |body: &Value| {
        let rotated = world.admin("POST", "/v1/tokens/one/rotate", body);
        rotated["token"].as_str().expect("a secret").to_owned()
    };
    let second = rotate(&json!({"overlap_ms": 3_600_000}));
    assert_eq!([&one, &second, &one].map(|token| status(token)), [200; 3]);
    let third = rotate(&Value::Null);
    assert_eq!(
        [&one, &second, &third].map(|token| status(token)),
        [401, 401, 200]
    );
    assert_eq!([&third, &third].map(|token| status(token)), [200; 2]);
    let fourth = rotate(&Value::Null);
    assert_eq!([&third, &fourth].map(|token| status(token)), [401, 200]);
    world.admin("DELETE", "/v1/tokens/one", &Value::Null);
    assert_eq!([&fourth, &two].map(|token| status(token)), [401, 200]);
}

#[test]
fn a_session_dies_with_its_token() {
    let world = World::new();
    world.topic("orders", 1);
    let token = world.token("mine", reader());
    let begun = world.call("", "POST", "/v1/session", &json!({"token": token}));
    let cookie = begun
        .with_status(204)
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let with = |cookie: &str| {
        world
            .call_with(
                "",
                "GET",
                "/v1/me",
                &format!("Cookie: {cookie}\r\n"),
                &Value::Null,
            )
            .ok()
    };
    assert_eq!(with(&cookie)["principal"], "mine");
    world.admin("DELETE", "/v1/tokens/mine", &Value::Null);
    assert_eq!(with(&cookie)["principal"], Value::Null);
    let headers = format!("Cookie: {cookie}\r\n");
    world
        .call_with("", "GET", "/v1/topics", &headers, &Value::Null)
        .problem(401, "unauthenticated");
    // A token made later under the name is another.
    world.token("mine", reader());
    assert_eq!(with(&cookie)["principal"], Value::Null);
}
