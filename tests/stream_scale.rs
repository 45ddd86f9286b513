//! Many streams at once: the memory of a follower that waits, and of a reader that reads nothing.

#![allow(clippy::disallowed_methods, reason = "the test has time-outs of its own")]

mod support;

use std::io::{BufRead, Read};

use serde_json::json;
use support::{Connection, Server};

const SETTINGS: &[(&str, &str)] = &[
    ("QUIPU_MAX_REQUEST_BYTES", "1048576"),
    ("QUIPU_JOURNAL_FILE_BYTES", "4194304"),
    ("QUIPU_JOURNAL_FILES", "2"),
];
/// The most memory of the server for a follower that waits, in bytes.
const FOLLOWER_BYTES: u64 = 40 << 10;
/// The same for 256 partitions: the stream has a place and a wait for each.
const WIDE_FOLLOWER_BYTES: u64 = 72 << 10;
/// The most memory of the server for a reader that reads nothing, in bytes.
const READER_BYTES: u64 = 256 << 10;

/// How many of `count` connections this process and its server may have open; prints a message if it is fewer.
fn allowed(count: u64) -> u64 {
    let limit = quipu_segments::raise_file_limit();
    // Connections have about five eighths of the server's files.
    let most = limit.saturating_sub(2000) * 5 / 8;
    if most < count {
        println!(
            "SCALED DOWN: the limit of open files is {limit}: {most} streams instead of {count} (ulimit -Hn)"
        );
    }
    most.min(count)
}

fn open(server: &Server, path: &str, accept: &str) -> Connection {
    let mut connection = server.connect();
    connection.begin("GET", path, &format!("Accept: {accept}\r\n"));
    let head = connection.reply_head();
    assert_eq!(head.status, 200);
    connection
}

/// Reads lines until one begins with this.
fn read_until(connection: &mut Connection, begin: &str) -> String {
    loop {
        let mut line = String::new();
        // An end.
        assert!(connection.stream.read_line(&mut line).expect("it goes on") > 0);
        if line.starts_with(begin) {
            return line;
        }
    }
}

fn post(server: &Server, topic: &str, value: u64) {
    let path = format!("/v1/topics/{topic}/records");
    let body = json!({"records": [{"key": "k", "value": value}]}).to_string();
    server.expect(200, "POST", &path, "application/json", body.as_bytes());
}

/// Opens so many followers of a topic while others work; then each follower gets the one record that comes.
fn followers(count: u64, partitions: u32, accept: &str, line: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start_with_settings(&dir.path().join("data"), SETTINGS);
    server.create_topic("quiet", partitions);
    server.create_topic("busy", 1);
    post(&server, "busy", 0);
    let path = "/v1/topics/quiet/records?follow=true";
    // Memory that the first follower makes the server allocate once.
    drop(open(&server, path, accept));
    let before = server.anonymous_bytes();
    let mut all: Vec<Connection> = (0..count).map(|_| open(&server, path, accept)).collect();
    let each = server.anonymous_bytes().saturating_sub(before) / count;
    println!("{count} followers of {partitions} partitions ({accept}): {each} bytes each");
    let most = if partitions < 64 {
        FOLLOWER_BYTES
    } else {
        WIDE_FOLLOWER_BYTES
    };
    assert!(each <= most, "{each} bytes a follower");
    for value in 1..20 {
        post(&server, "busy", value);
    }
    let page = server.get("/v1/topics/busy/partitions/0/records?offset=0");
    let found = page["records"].as_array().map(Vec::len);
    assert_eq!(found, Some(20));
    post(&server, "quiet", 77);
    for connection in &mut all {
        // The record.
        assert!(read_until(connection, line).contains("\"value\":77"));
    }
    drop(all);
    server.stop();
}

#[test]
fn a_thousand_followers_that_wait_cost_little_and_hold_up_nobody() {
    followers(allowed(1000), 4, "text/event-stream", "data: ");
    followers(allowed(1000), 4, "application/x-ndjson", "{");
}

#[test]
fn followers_of_256_partitions_cost_little() {
    followers(allowed(500), 256, "text/event-stream", "data: ");
}

#[test]
#[ignore = "takes ten thousand connections; scripts and releases run it"]
fn ten_thousand_followers_that_wait_cost_little_and_hold_up_nobody() {
    followers(allowed(10_000), 4, "text/event-stream", "data: ");
}

#[test]
fn readers_that_read_nothing_of_a_large_replay_are_held_by_their_connections_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start_with_settings(&dir.path().join("data"), SETTINGS);
    server.create_topic("t", 3);
    let body = format!("{{\"value\":\"{}\"}}\n", "x".repeat(1000)).repeat(1000);
    for _ in 0..30 {
        let path = "/v1/topics/t/records";
        server.expect(200, "POST", path, "application/x-ndjson", body.as_bytes());
    }
    // Memory that reading makes the server allocate once.
    drop(open(&server, "/v1/topics/t/records", "text/event-stream"));
    let before = server.anonymous_bytes();
    for path in ["/v1/topics/t/records", "/v1/topics/t/records?order=timestamp"] {
        for accept in ["text/event-stream", "application/x-ndjson"] {
            let mut readers: Vec<Connection> = (0..100).map(|_| open(&server, path, accept)).collect();
            let mut fetched = 0;
            let mut quiet = 0;
            // Until all are held up.
            while quiet < 10 {
                let now = metric(&server, "quipu_fetched_bytes_total ");
                quiet = if now == fetched { quiet + 1 } else { 0 };
                fetched = now;
            }
            let each = server.anonymous_bytes().saturating_sub(before) / 100;
            println!("{path} as {accept}: {each} bytes for each reader that reads nothing");
            assert!(each <= READER_BYTES, "{each} bytes a reader");
            // They are held back, not dropped.
            let mut some = vec![0; 1 << 20];
            readers[42].stream.read_exact(&mut some).expect("it goes on");
            drop(readers);
            while metric(&server, "quipu_streams ") > 0 {
                std::thread::yield_now();
            }
        }
    }
    server.stop();
}

fn metric(server: &Server, name: &str) -> u64 {
    let answer = server.connect().get("/metrics");
    let text = String::from_utf8(answer.body).expect("text");
    let mut rows = text.lines();
    let line = rows.find(|line| line.starts_with(name)).expect("it is there");
    line[name.len()..].trim().parse().expect("a number")
}
