//! The server's own log: a line for each change, for each answer of 500, and with `access_log` for each request.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::support::{Connection, Server};

const JSON: &str = "application/json";

/// Runs a server with these settings, lets `work` call it, and stops it; returns the lines of its log.
fn lines(settings: &[(&str, &str)], work: impl FnOnce(&Server)) -> Vec<Value> {
    let dir = TempDir::new().expect("a temporary directory");
    let data = dir.path().join("data");
    let settings = [&[("QUIPU_LOG_FORMAT", "json")], settings].concat();
    let server = Server::start_with_settings(&data, &settings);
    work(&server);
    server.stop();
    log(&data)
}

fn log(data: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(data.with_extension("log")).expect("the log");
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    text.lines().map(parse).collect()
}

/// The fields of the lines with that message.
fn with_message<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    let fields = lines.iter().map(|line| &line["fields"]);
    fields.filter(|fields| fields["message"] == message).collect()
}

const BODY: &[u8] = br#"{"records":[{"key":"a","value":1},{"key":"b","value":2}]}"#;

fn produce(connection: &mut Connection) {
    connection
        .call("POST", "/v1/topics/orders/records", JSON, BODY)
        .with_status(200);
}

#[test]
fn a_change_is_a_line_with_request_id_and_address_and_daily_work_is_none() {
    let mut id = String::new();
    let lines = lines(&[], |server| {
        server.create_topic("orders", 1);
        let mut connection = server.connect();
        produce(&mut connection);
        connection.get("/v1/topics/orders").with_status(200);
        let answer = connection.call(
            "DELETE",
            "/v1/topics/orders/partitions/0/records?before=1",
            "",
            b"",
        );
        id = answer
            .header("x-request-id")
            .expect("an answer to a change has an id")
            .to_owned();
        let refused = connection
            .call("DELETE", "/v1/topics/none", "", b"")
            .with_status(404);
        assert_ne!(refused.header("x-request-id"), Some(&*id));
    });
    let changes = with_message(&lines, "a change was asked for");
    let shown: Vec<_> = changes
        .iter()
        .map(|line| {
            (
                line["method"].as_str().unwrap(),
                line["uri"].as_str().unwrap(),
                line["status"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("PUT", "/v1/topics/orders", 201),
        ("DELETE", "/v1/topics/orders/partitions/0/records?before=1", 200),
        ("DELETE", "/v1/topics/none", 404),
    ];
    assert_eq!(shown, expected);
    assert_eq!(changes[1]["request_id"], *id);
    assert!(changes[1]["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(with_message(&lines, "a request was answered").is_empty());
}

#[test]
fn a_dry_run_is_no_change_in_the_log() {
    let lines = lines(&[], |server| {
        server.create_topic("orders", 1);
        let mut connection = server.connect();
        let join = br#"{"topics":["orders"],"type":"shared","wait_ms":0}"#;
        connection
            .call("POST", "/v1/groups/work/members/m/poll", JSON, join)
            .with_status(200);
        for (method, path, body, status) in [
            ("PATCH", "/v1/topics/orders?dry_run=true", "{}", 200),
            ("DELETE", "/v1/topics/orders?dry_run=true", "", 200),
            ("DELETE", "/v1/topics/orders?dry_run=true&if_id=other", "", 412),
            (
                "DELETE",
                "/v1/topics/orders/partitions/0/records?before=0&dry_run=true",
                "",
                200,
            ),
            ("POST", "/v1/groups/work/redrive", r#"{"dry_run":true}"#, 200),
            ("POST", "/v1/groups/work/redrive", r#"{"dry_run":false}"#, 200),
            (
                "POST",
                "/v1/groups/work/offsets/reset",
                r#"{"to":"earliest","dry_run":true}"#,
                200,
            ),
            (
                "POST",
                "/v1/groups/none/offsets/reset",
                r#"{"to":"earliest","dry_run":true}"#,
                404,
            ),
        ] {
            let kind = if body.is_empty() { "" } else { JSON };
            let answer = connection.call(method, path, kind, body.as_bytes());
            let answer = answer.with_status(status);
            assert!(answer.header("x-request-id").is_some(), "{method} {path}");
        }
    });
    let methods = |message| {
        let found = with_message(&lines, message).into_iter();
        let found = found.map(|line| format!("{} {}", line["method"].as_str().unwrap(), line["status"]));
        found.collect::<Vec<_>>()
    };
    let dry = [
        "PATCH 200",
        "DELETE 200",
        "DELETE 412",
        "DELETE 200",
        "POST 200",
        "POST 200",
        "POST 404",
    ];
    assert_eq!(methods("a dry run was asked for"), dry);
    assert_eq!(methods("a change was asked for"), ["PUT 201", "POST 200"]);
}

#[test]
fn with_an_access_log_each_request_is_a_line_with_its_route_status_duration_and_bytes() {
    let mut id = String::new();
    let mut sent = 0;
    let lines = lines(&[("QUIPU_ACCESS_LOG", "on")], |server| {
        server.create_topic("orders", 1);
        let mut connection = server.connect();
        produce(&mut connection);
        let records = connection
            .get("/v1/topics/orders/partitions/0/records?offset=0")
            .with_status(200);
        sent = records.body.len();
        let problem = connection.get("/v1/groups/none").with_status(404);
        id = problem
            .header("x-request-id")
            .expect("a problem has an id")
            .to_owned();
    });
    let requests = with_message(&lines, "a request was answered");
    let find = |route: &str, method: &str| {
        let found = requests
            .iter()
            .find(|line| line["route"] == route && line["method"] == method);
        *found.unwrap_or_else(|| panic!("no {method} {route} in {requests:?}"))
    };
    let produced = find("/v1/topics/{topic}/records", "POST");
    assert_eq!(
        (&produced["status"], &produced["received_bytes"]),
        (&200.into(), &BODY.len().into())
    );
    assert!(produced["duration_ms"].as_f64().unwrap() > 0.0);
    let fetched = find("/v1/topics/{topic}/partitions/{partition}/records", "GET");
    assert_eq!(
        (&fetched["sent_bytes"], &fetched["is_whole"]),
        (&sent.into(), &true.into())
    );
    let missing = find("/v1/groups/{group}", "GET");
    assert_eq!(
        (&missing["status"], &missing["request_id"]),
        (&404.into(), &(&*id).into())
    );
    let line = lines
        .iter()
        .find(|line| line["fields"]["message"] == "a request was answered");
    assert_eq!(line.unwrap()["target"], "quipu::access");
}

#[test]
fn an_answer_that_the_client_did_not_take_is_not_whole() {
    let lines = lines(&[("QUIPU_ACCESS_LOG", "on")], |server| {
        server.create_topic("orders", 1);
        let mut connection = server.connect();
        connection.ask("/v1/topics/orders/records?follow=true");
        connection.answering();
    });
    let requests = with_message(&lines, "a request was answered");
    let stream = requests
        .iter()
        .find(|line| line["route"] == "/v1/topics/{topic}/records");
    assert_eq!(stream.expect("the stream has ended")["is_whole"], false);
}

#[test]
fn a_change_names_who_asked_for_it_and_never_the_token() {
    const ADMIN: &str = "the-first-administrators-token";
    let settings = [("QUIPU_AUTH", "tokens"), ("QUIPU_ADMIN_TOKEN", ADMIN)];
    let mut secret = String::new();
    let lines = lines(&settings, |server| {
        let mut connection = server.connect();
        let mut call = |token: &str, method: &str, path: &str, body: &str| {
            let header = match token {
                "" => String::new(),
                token => format!("Authorization: Bearer {token}\r\n"),
            };
            let answer = connection.request_with(method, path, JSON, &header, body.as_bytes());
            answer.expect("an answer")
        };
        let deployer = r#"{"name":"deployer","rules":[{"allow":["create"],"topics":["orders"]}]}"#;
        let made = call(ADMIN, "POST", "/v1/tokens", deployer).with_status(201);
        secret = made.json()["token"].as_str().expect("a secret").to_owned();
        call(&secret, "PUT", "/v1/topics/orders", r#"{"partitions":1}"#).with_status(201);
        call(&secret, "DELETE", "/v1/topics/orders", "").with_status(403);
        call("", "DELETE", "/v1/topics/orders", "").with_status(401);
    });
    let changes = with_message(&lines, "a change was asked for");
    let shown = |line: &&Value| {
        (
            line["uri"].clone(),
            line["status"].clone(),
            line["principal"].clone(),
        )
    };
    let shown: Vec<_> = changes.iter().map(shown).collect();
    let orders = "/v1/topics/orders";
    let expected: [(Value, Value, Value); 4] = [
        ("/v1/tokens".into(), 201.into(), "admin".into()),
        (orders.into(), 201.into(), "deployer".into()),
        (orders.into(), 403.into(), "deployer".into()),
        (orders.into(), 401.into(), Value::Null),
    ];
    assert_eq!(shown, expected);
    for line in &lines {
        let line = line.to_string();
        assert!(!line.contains(ADMIN) && !line.contains(&secret), "{line}");
    }
}

#[test]
fn an_answer_of_500_is_a_line_with_the_id_that_the_client_has_and_another_says_why() {
    let dir = TempDir::new().expect("a temporary directory");
    let data = dir.path().join("data");
    let start = || Server::start_with_settings(&data, &[("QUIPU_LOG_FORMAT", "json")]);
    let server = start();
    server.create_topic("orders", 1);
    for _ in 0..3 {
        produce(&mut server.connect());
    }
    server.stop();
    // The first of three batches that have the same size.
    let segment = data.join("topics/orders/0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).expect("the only segment");
    let batch = bytes.len() / 3;
    bytes[batch - 3] ^= 1;
    std::fs::write(&segment, bytes).expect("it is ours");
    let server = start();
    let mut connection = server.connect();
    let answer = connection.get("/v1/topics/orders/partitions/0/records?offset=0");
    answer.problem(500, "corrupt-data");
    let id = answer.header("x-request-id").expect("a problem has an id");
    connection
        .get("/v1/topics/orders/partitions/0/records?offset=2")
        .with_status(200);
    server.stop();
    let lines = log(&data);
    let message = "a request was answered 500: the lines before say why";
    let found: Vec<_> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line["fields"]["message"] == message)
        .collect();
    let [(place, line)] = found[..] else {
        panic!("not one: {found:?}")
    };
    assert_eq!(line["level"], "ERROR");
    let fields = &line["fields"];
    let shown = [&fields["request_id"], &fields["method"], &fields["route"]];
    assert_eq!(
        shown,
        [id, "GET", "/v1/topics/{topic}/partitions/{partition}/records"]
    );
    let says_why = |line: &Value| line.to_string().contains("orders/0") && line["level"] != "INFO";
    assert!(lines[..place].iter().any(says_why), "{lines:?}");
}

#[test]
fn the_level_is_a_setting() {
    let lines = lines(
        &[("QUIPU_LOG_LEVEL", "warn"), ("QUIPU_ACCESS_LOG", "on")],
        |server| {
            server.create_topic("orders", 1);
        },
    );
    assert!(lines.is_empty(), "{lines:?}");
}
