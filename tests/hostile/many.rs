//! Very many connections: idle ones, waiting ones, and more than there are file handles.

use super::{Fixture, JSON, MIB, RECORDS, open_files, read_to_the_end, wait_until};
use crate::support::{Connection, Server, skipped};

const CONNECTIONS: usize = 10_000;
/// The most memory of the server for an idle or waiting connection, in bytes.
const EACH_BYTES: u64 = 64 << 10;
/// Files that the log may open or close meanwhile.
pub(super) const SOME_FILES: usize = 16;

/// Whether this process, and so the server that it starts, may open so many files; prints a message if not.
pub(super) fn may_open(files: u64) -> bool {
    let limit = quipu_segments::raise_file_limit();
    if limit < files {
        skipped(&format!(
            "the limit of open files is {limit}, and the test needs {files} (ulimit -Hn)"
        ));
    }
    limit >= files
}

/// The work of other clients meanwhile.
pub(super) fn work(fixture: &Fixture, keys: &mut Vec<String>) {
    for _ in 0..50 {
        let key = format!("others' {}", keys.len());
        fixture.append(&key);
        let path = format!("/v1/topics/t/partitions/0/records?offset={}", keys.len());
        let fetched = fixture.server.get(&path);
        assert_eq!(fetched["records"][0]["key"], key, "{fetched}");
        keys.push(key);
    }
}

pub(super) fn wait_for_files(server: &Server, files: usize) {
    wait_until("the handles are given back", || {
        open_files(server) <= files + SOME_FILES
    });
}

#[test]
fn ten_thousand_connections_idle_and_waiting_hold_up_nobody_and_are_given_back() {
    // Connections have at most five eighths of the server's files.
    if !may_open(CONNECTIONS as u64 * 8 / 5 + 2000) {
        return;
    }
    let fixture = Fixture::new(&[("QUIPU_MAX_CONNECTIONS", "10100")]);
    fixture.server.create_topic("quiet", 1);
    let mut keys = Vec::new();
    work(&fixture, &mut keys);
    let files = open_files(&fixture.server);
    let before = fixture.server.anonymous_bytes();
    let mut most = 0;
    for round in 0..2 {
        let ask = |_| fixture.ask("/health/live");
        let mut connections: Vec<Connection> = (0..CONNECTIONS).map(ask).collect();
        for connection in &mut connections {
            connection.answered().with_status(200);
        }
        let idle = fixture.server.anonymous_bytes();
        let handles = open_files(&fixture.server);
        assert!(
            handles <= files + CONNECTIONS + SOME_FILES,
            "{handles} files, {files} before"
        );
        work(&fixture, &mut keys);

        let path = format!("/v1/topics/quiet/partitions/0/records?offset={round}&wait_ms=60000");
        for connection in &mut connections {
            connection.ask(&path);
        }
        work(&fixture, &mut keys);
        let waiting = fixture.server.anonymous_bytes();
        let body = format!("{{\"records\":[{{\"value\":{round}}}]}}");
        let path = "/v1/topics/quiet/records";
        fixture.server.expect(200, "POST", path, JSON, body.as_bytes());
        for connection in &mut connections {
            let answer = connection.answered().with_status(200);
            // Without the record, the wait of a minute ended before the append.
            assert_eq!(answer.json()["records"][0]["value"], round, "{}", answer.text());
        }
        drop(connections);
        wait_for_files(&fixture.server, files);
        work(&fixture, &mut keys);
        let after = fixture.server.anonymous_bytes();
        println!(
            "{CONNECTIONS} connections, KiB of anonymous memory: {} before, {} idle, {} waiting, {} after; {handles} files, {files} without",
            before >> 10,
            idle >> 10,
            waiting >> 10,
            after >> 10
        );
        let bound = before + CONNECTIONS as u64 * EACH_BYTES;
        assert!(
            idle.max(waiting) < bound,
            "{idle} idle, {waiting} waiting, {bound} allowed"
        );
        // Memory that the server keeps is used again.
        let now = idle.max(waiting).max(after);
        assert!(round == 0 || now < most + most / 4, "grows from {most} to {now}");
        most = now;
    }
    fixture.finish(&keys);
}

#[test]
fn connections_that_have_uploaded_keep_little() {
    const UPLOADERS: usize = 200;
    if !may_open(2000) {
        return;
    }
    let fixture = Fixture::new(&[]);
    let before = fixture.server.anonymous_bytes();
    let (value, blanks) = ("v".repeat(1000), " ".repeat(MIB));
    let body = format!("{{\"records\":[{{\"value\":\"{value}\"}}]}}{blanks}");
    let connections: Vec<Connection> = (0..UPLOADERS)
        .map(|_| {
            let mut connection = fixture.upload(JSON, "", body.as_bytes());
            connection.answered().with_status(200);
            connection
        })
        .collect();
    let during = fixture.server.anonymous_bytes();
    let each = during.saturating_sub(before) / UPLOADERS as u64;
    println!(
        "{UPLOADERS} connections after an upload of 1 MiB each: {} KiB before, {} KiB with them",
        before >> 10,
        during >> 10
    );
    assert!(each < 160 << 10, "{each} bytes a connection");
    drop(connections);
}

#[test]
fn connections_never_take_the_files_that_the_log_needs() {
    const PARTITIONS: u32 = 400;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start_with_open_files(&directory.path().join("data"), 256);
    server.create_topic("t", PARTITIONS);
    let fixture = Fixture { server, directory };
    let mut producer = fixture.server.connect();
    assert_eq!(producer.get("/health/live").status, 200);
    // Far more than there are descriptors. Some are answered, some are refused with an answer, some are only closed.
    let mut others: Vec<Connection> = Vec::new();
    let mut refused = 0;
    for _ in 0..600 {
        let mut connection = fixture.server.connect();
        let _ = connection.send_head("GET", "/health/live", "");
        match connection.answer_head() {
            Ok(head) if head.status == 200 => others.push(connection),
            Ok(head) => {
                assert_eq!(head.status, 503, "{head:?}");
                assert_eq!(head.header("retry-after"), Some("1"), "{head:?}");
                refused += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(others.len() > 50, "{} answered, {refused} refused", others.len());
    assert!(refused > 300, "{} answered, {refused} refused", others.len());
    // Segments of more partitions than may be open at once are made, written and read meanwhile.
    let mut write_and_read = |offset: u64| {
        for partition in 0..PARTITIONS {
            let path = format!("{RECORDS}?partition={partition}");
            producer.call("POST", &path, "text/plain", b"1").with_status(200);
        }
        for partition in 0..PARTITIONS {
            let path = format!("/v1/topics/t/partitions/{partition}/records?offset={offset}");
            let answer = producer.get(&path);
            assert_eq!(answer.json()["records"][0]["value"], 1, "{}", answer.text());
        }
        let ready = producer.get("/health/ready").ok();
        assert_eq!(ready, serde_json::json!({"status": "ready", "degraded": []}));
    };
    write_and_read(0);
    // Connections that end make room.
    for connection in &mut others {
        connection.hang_up();
        read_to_the_end(connection);
    }
    drop(others);
    write_and_read(1);
    loop {
        let mut connection = fixture.server.connect();
        let _ = connection.send_head("GET", "/health/live", "");
        if connection.answer_head().is_ok_and(|head| head.status == 200) {
            break;
        }
    }
    fixture.server.stop();
}
