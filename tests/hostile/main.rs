//! Hostile clients, or clients that behave like them: requests that are smuggled, oversized, slow, cut off, and too
//! many, sent to the real binary over bare sockets. Other clients' requests do not suffer, nothing is stored that was
//! not requested, and memory and file handles stay bounded and are given back.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod cut;
mod many;
mod mistakes;
mod oversized;
mod slow;
mod smuggled;

use std::io::{ErrorKind, Read};
use std::time::Instant;

use support::{Connection, Fetched, PATIENCE, Server, read_partition};
use tempfile::TempDir;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const RECORDS: &str = "/v1/topics/t/records";
const MIB: usize = 1 << 20;
/// The most memory of the server whatever clients do, without file pages: bodies, queue, answers, and its own.
const MAX_ANONYMOUS_BYTES: u64 = 256 << 20;

/// A server with a topic `t` of one partition.
struct Fixture {
    server: Server,
    directory: TempDir,
}

impl Fixture {
    fn new(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start_with_settings(&directory.path().join("data"), settings);
        server.create_topic("t", 1);
        Self { server, directory }
    }

    /// Appends a record with this key, which must succeed: other clients' requests do not suffer.
    fn append(&self, key: &str) {
        self.post(&format!("{{\"records\":[{{\"key\":\"{key}\"}}]}}"));
    }

    /// Appends this JSON document, which must succeed.
    fn post(&self, document: &str) {
        self.server
            .expect(200, "POST", RECORDS, JSON, document.as_bytes());
    }

    /// Appends this JSON document, again as long as the server says that it is overloaded: it may say so while others hold its
    /// memory, and nothing else.
    fn post_in_the_end(&self, document: &str) {
        wait_until("it is accepted", || {
            let answer = self.upload(JSON, "", document.as_bytes()).answered();
            let is_refused = answer.status == 503 && answer.json()["code"] == "overloaded";
            assert!(answer.status == 200 || is_refused, "{}", answer.text());
            !is_refused
        });
    }

    /// A connection that has asked for this path, whose answer is unread.
    fn ask(&self, path: &str) -> Connection {
        let mut connection = self.server.connect();
        connection.ask(path);
        connection
    }

    /// Begins a request to append, with these headers and this first part of its body.
    fn begin(&self, headers: &str, body: &[u8]) -> Connection {
        let mut connection = self.server.connect();
        connection.begin("POST", RECORDS, headers);
        // A refusal is readable by a client that is still sending.
        connection.say(body);
        connection
    }

    /// The same with the whole body.
    fn upload(&self, content_type: &str, headers: &str, body: &[u8]) -> Connection {
        let length = body.len();
        self.begin(
            &format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n{headers}"),
            body,
        )
    }

    #[track_caller]
    fn check_memory(&self, when: &str) {
        self.check_memory_below(MAX_ANONYMOUS_BYTES, when);
    }

    #[track_caller]
    fn check_memory_below(&self, most: u64, when: &str) {
        let bytes = self.server.anonymous_bytes();
        println!("{when}: {} KiB of anonymous memory", bytes >> 10);
        assert!(bytes < most, "{when}: {bytes} bytes of anonymous memory");
    }

    /// Ends it in order; a restart finds exactly these keys.
    fn finish(self, expected: &[String]) {
        self.finish_with(key, expected);
    }

    /// The same for another part of each record.
    fn finish_with(self, part: fn(Fetched) -> String, expected: &[String]) {
        let is_kept = parts(&self.server, "t", 0, part) == expected;
        assert!(is_kept, "there is something else than what was accepted");
        self.server.stop();
        let server = Server::start(&self.directory.path().join("data"));
        let is_kept = parts(&server, "t", 0, part) == expected;
        assert!(is_kept, "there is something else after a restart");
        server.stop();
    }

    /// The keys of the partition's records.
    fn keys(&self) -> Vec<String> {
        parts(&self.server, "t", 0, key)
    }
}

fn key(record: Fetched) -> String {
    record.key.unwrap_or_default()
}

/// A part of each record of a partition.
fn parts(server: &Server, topic: &str, partition: u32, part: fn(Fetched) -> String) -> Vec<String> {
    let mut parts = Vec::new();
    read_partition(&mut server.connect(), topic, partition, 0, |record| {
        assert_eq!(record.offset, parts.len() as u64);
        parts.push(part(record));
    });
    parts
}

/// All that the server still sends before it closes, reset or not.
fn read_to_the_end(connection: &mut Connection) -> Vec<u8> {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let mut all = Vec::new();
    if let Err(error) = connection.stream.read_to_end(&mut all) {
        let is_closed = matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted);
        assert!(is_closed, "the server does not close: {error}");
    }
    all
}

/// Waits for something that the server does in its own time.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "it does not come about that {what}");
        std::thread::yield_now();
    }
}

/// The number of files that the server has open.
fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .expect("it runs")
        .count()
}
