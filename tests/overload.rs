//! A disk that does not keep up: the journal's sync blocks until the test releases it.
//!
//! The service runs in this process on the test's own disk, so the measured memory includes that of the clients. For
//! that reason this binary has one test.
#![allow(clippy::disallowed_methods, reason = "it tests a running server")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use quipu::http::app::App;
use quipu::server::{self, Server};
use quipu::settings::Config;
use quipu_segments::SystemClock;
use support::disk::{Closed, Gate, gated};
use support::{Connection, PATIENCE, anonymous_bytes, read_partition};

const MIB: u64 = 1 << 20;
const QUEUE_BYTES: u64 = 8 * MIB;
const BODY_BYTES: u64 = 32 * MIB;
const PRODUCERS: usize = 48;
const STREAMS: usize = 12;
/// How often a refused producer tries again while the disk hangs.
const TRIES: usize = 20;
const RECORDS: &str = "/v1/topics/t/records";
const JSON: &str = "application/json";

fn config(data: &Path) -> Config {
    let mut config = Config {
        data: data.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        journal_file_bytes: 16 << 20,
        queue_bytes: QUEUE_BYTES,
        ..Config::default()
    };
    config.limits.max_request_bytes = 2 << 20;
    config.limits.max_in_flight_bytes = BODY_BYTES;
    config
}

/// Half a MiB of one record with this key.
fn body(key: &str) -> Vec<u8> {
    let value = "v".repeat(512 << 10);
    format!("{{\"records\":[{{\"key\":\"{key}\",\"value\":\"{value}\"}}]}}").into_bytes()
}

/// The state that producers and the test share.
#[derive(Default)]
struct Shared {
    acknowledged: Mutex<BTreeSet<String>>,
    refused: Mutex<BTreeSet<String>>,
    /// Producers that were refused so often that they now wait for the disk.
    given_up: AtomicUsize,
    refusals: AtomicU64,
    released: AtomicBool,
}

fn check_refusal(answer: &support::Answer) {
    answer.refusal(503, "overloaded", "none");
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
}

/// Sends one record after another until one is accepted after the disk was released.
fn produce(address: std::net::SocketAddr, number: usize, shared: &Shared) {
    let mut connection = Connection::open(address).expect("it accepts");
    let mut tries = 0;
    loop {
        let was_released = shared.released.load(SeqCst);
        let key = format!("{number}.{tries}");
        let answer = connection.call("POST", RECORDS, JSON, &body(&key));
        tries += 1;
        if answer.status == 200 {
            // Acknowledged before the sync returned.
            assert!(shared.released.load(SeqCst));
            shared.acknowledged.lock().unwrap().insert(key);
            if was_released {
                return;
            }
            continue;
        }
        check_refusal(&answer);
        shared.refusals.fetch_add(1, SeqCst);
        shared.refused.lock().unwrap().insert(key);
        if tries == TRIES {
            shared.given_up.fetch_add(1, SeqCst);
            while !shared.released.load(SeqCst) {
                std::thread::yield_now();
            }
        }
    }
}

/// Uploads 4 MiB in a stream, as fast as the server takes it.
fn stream(address: std::net::SocketAddr, number: usize, shared: &Shared) {
    const LINES: usize = 64;
    let mut connection = Connection::open(address).expect("it accepts");
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    connection.begin("POST", RECORDS, headers);
    let value = "s".repeat(64 << 10);
    let key = |line: usize| format!("s{number}.{line}");
    for line in 0..LINES {
        let line = format!("{{\"key\":\"{}\",\"value\":\"{value}\"}}\n", key(line));
        connection.chunk(line.as_bytes());
    }
    connection.chunk(b"");
    let answer = connection.answered();
    let (all, accepted) = match answer.status {
        200 => (answer.json()["records"].as_u64().unwrap(), LINES as u64),
        _ => {
            let problem = answer.json();
            assert_eq!(answer.status, 503, "{problem}");
            assert_eq!(problem["code"], "overloaded", "{problem}");
            assert!(answer.header("retry-after").is_some());
            let accepted = problem["accepted"].as_u64().unwrap();
            (accepted, accepted)
        }
    };
    assert_eq!(all, accepted);
    let mut acknowledged = shared.acknowledged.lock().unwrap();
    acknowledged.extend((0..accepted as usize).map(key));
    let refused = (accepted as usize..LINES).map(key);
    shared.refused.lock().unwrap().extend(refused);
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::yield_now();
    }
}

/// Checks the server's counts of what waits for the disk.
fn check_accounts(app: &App) {
    let queued = app.log.counters().queued_bytes;
    assert!(queued <= QUEUE_BYTES, "{queued} bytes queued");
    let bodies = app.body_bytes_in_flight();
    assert!(bodies <= BODY_BYTES, "{bodies} bytes of bodies");
}

#[test]
fn producers_are_refused_before_memory_grows_reads_go_on_and_nothing_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gate = Arc::new(Gate::default());
    let start = || -> Server {
        let config = config(&directory.path().join("data"));
        let (disk, clock) = (Arc::new(gated(&gate)), Arc::new(SystemClock::new()));
        runtime.block_on(server::start_on(config, disk, clock)).unwrap()
    };
    let server = start();
    let (address, app) = (server.addr(), server.app().clone());
    let connect = || Connection::open(address).expect("it accepts");
    let mut reader = connect();
    let made = reader.request("PUT", "/v1/topics/t", JSON, b"{\"partitions\":1}");
    assert_eq!(made.unwrap().status, 201);
    let shared = Shared::default();
    for number in 0..10 {
        let key = format!("before {number}");
        let answer = reader.request("POST", RECORDS, JSON, &body(&key)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        shared.acknowledged.lock().unwrap().insert(key);
    }

    gate.close();
    let before = anonymous_bytes("self");
    std::thread::scope(|scope| {
        let closed = Closed(&gate);
        for number in 0..PRODUCERS {
            let shared = &shared;
            scope.spawn(move || produce(address, number, shared));
        }
        gate.wait_until_felt();
        // The queue takes 15 of them, and the hanging round a few more; all others are refused again and again.
        wait("that producers are refused", || {
            check_accounts(&app);
            shared.given_up.load(SeqCst) >= PRODUCERS / 2
        });
        let refused_then = shared.refusals.load(SeqCst);
        let least = (PRODUCERS / 2 * TRIES) as u64;
        assert!(refused_then >= least, "{refused_then} refusals");
        // Streams are not refused: they are held back at their sockets.
        for number in 0..STREAMS {
            let shared = &shared;
            scope.spawn(move || stream(address, number, shared));
        }
        // Reads and reports go on; a wait for a record that does not come ends in time.
        for number in 0..50 {
            let offset = number % 10;
            let path = format!("/v1/topics/t/partitions/0/records?offset={offset}&max_bytes=1");
            let answer = reader.get(&path);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let found = &answer.json()["records"][0]["key"];
            assert_eq!(*found, format!("before {}", number % 10));
            check_accounts(&app);
        }
        let at_end = reader.get("/v1/topics/t/partitions/0/records?offset=10&wait_ms=50");
        assert_eq!(at_end.status, 200);
        assert_eq!(at_end.json()["end_offset"].as_u64(), Some(10));
        assert_eq!(reader.get("/health/ready").status, 200);
        assert_eq!(reader.get("/metrics").status, 200);
        // More calls wait for the disk than there are threads for them, and reads still go on.
        let mut waiting: Vec<Connection> = (0..600).map(|_| connect()).collect();
        for connection in &mut waiting {
            connection.begin("DELETE", "/v1/topics/t/partitions/0/records?before=0", "");
        }
        let mut other = connect();
        for _ in 0..20 {
            assert_eq!(other.get("/metrics").status, 200);
            assert_eq!(other.get("/v1/topics/t").status, 200);
        }
        drop(waiting);
        check_accounts(&app);
        let during = anonymous_bytes("self");
        println!(
            "{} refusals; anonymous memory: {} KiB before, {} KiB while the disk hangs",
            shared.refusals.load(SeqCst),
            before >> 10,
            during >> 10
        );
        // The queue, the round, the bodies, and the memory of the clients in this process.
        let clients = (PRODUCERS as u64) * 2 * MIB + 600 * (64 << 10);
        let allowed = before + 2 * QUEUE_BYTES + BODY_BYTES + clients + 64 * MIB;
        assert!(during < allowed, "{during} bytes, {allowed} allowed");
        shared.released.store(true, SeqCst);
        drop(closed);
    });
    drop(reader);

    let check = |address| {
        let mut found = BTreeSet::new();
        read_partition(&mut Connection::open(address).unwrap(), "t", 0, 0, |record| {
            let key = record.key.unwrap();
            assert!(found.insert(key.clone()), "{key} is there twice");
        });
        let acknowledged = shared.acknowledged.lock().unwrap();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let refused = shared.refused.lock().unwrap();
        let stored: Vec<_> = refused.intersection(&found).collect();
        assert!(stored.is_empty(), "refused and stored: {stored:?}");
    };
    check(address);
    drop(app);
    runtime.block_on(server.shutdown()).unwrap();
    let server = start();
    check(server.addr());
    runtime.block_on(server.shutdown()).unwrap();
}
