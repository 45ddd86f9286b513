//! The flights of a year, 655,867 events, through the real binary: loaded by one streamed request, read byte for byte.
//!
//! The file is large and not part of the tree. `QUIPU_TEST_FLIGHTS` names it (NDJSON, gzip); without it the test says
//! that it is skipped. `QUIPU_TEST_PYTHON` names a Python with kafka-python, whose partitioner is then compared too.
//! The printed timings (`cargo test --test flights -- --nocapture`) are for the documentation; none is asserted.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use flate2::read::GzDecoder;
use quipu::formats::partitioner::partition_of_key;
use serde_json::json;
use serde_json::value::RawValue;
use support::{Server, has, python_with, read_partition};

const TOPIC: &str = "flights";
const PARTITIONS: u32 = 6;
const EVENTS: usize = 655_867;
/// The server's memory while it loads, file pages not counted.
const MAX_ANONYMOUS_BYTES: u64 = 128 << 20;
const JULY: &str = "2013-07-01T00:00:00Z";
const JULY_MS: i64 = 1_372_636_800_000;

#[derive(serde::Deserialize)]
struct Flight<'a> {
    key: &'a str,
    timestamp: i64,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[test]
fn a_year_of_flights_goes_in_by_one_request_and_comes_out_byte_for_byte() {
    let Some(path) = std::env::var_os("QUIPU_TEST_FLIGHTS") else {
        support::skipped("QUIPU_TEST_FLIGHTS does not name the file of flights");
        return;
    };
    let mut text = String::new();
    GzDecoder::new(File::open(path).expect("the file is there"))
        .read_to_string(&mut text)
        .expect("it is gzip");
    let flight = |line| serde_json::from_str(line).expect("a record");
    let flights: Vec<Flight> = text.lines().map(flight).collect();
    assert_eq!(flights.len(), EVENTS);
    // A single request keeps the order of its lines, so this is each partition's whole contents.
    let mut expected: Vec<Vec<&Flight>> = vec![Vec::new(); PARTITIONS as usize];
    for flight in &flights {
        expected[partition_of_key(flight.key.as_bytes(), PARTITIONS) as usize].push(flight);
    }
    check_partitioner(&flights);

    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let server = Server::start(&data);
    server.create_topic(TOPIC, PARTITIONS);
    let idle = server.anonymous_bytes();
    let begin = Instant::now();
    let peak = load(&server, text.as_bytes());
    let (took, from, to) = (begin.elapsed().as_secs_f64(), idle >> 10, peak >> 10);
    println!("loaded in {took:.2} s, RssAnon {from} KiB idle, {to} KiB at most");
    assert!(peak < MAX_ANONYMOUS_BYTES, "RssAnon was {peak} bytes");

    let begin = Instant::now();
    check_contents(&server, &expected);
    println!("read back and compared in {:.2} s", begin.elapsed().as_secs_f64());
    check_july(&server, &expected);

    server.stop();
    let server = Server::start(&data);
    let took = server.ready_after.as_secs_f64() * 1e3;
    println!("ready {took:.1} ms after the restart");
    check_july(&server, &expected);
    check_contents(&server, &expected);
    server.stop();
}

/// Sends everything in one chunked request; returns the largest `RssAnon` seen meanwhile.
fn load(server: &Server, text: &[u8]) -> u64 {
    let mut connection = server.connect();
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    connection.begin("POST", &format!("/v1/topics/{TOPIC}/records"), headers);
    let mut peak = 0;
    // Not a divisor of a line or a unit: chunks end anywhere.
    for chunk in text.chunks(1_000_003) {
        connection.chunk(chunk);
        peak = peak.max(server.anonymous_bytes());
    }
    connection.chunk(b"");
    let answer = connection.answered();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["records"], EVENTS, "{answer}");
    let of_partitions = answer["partitions"].as_array().expect("an array");
    let rows = of_partitions.iter();
    let sum: u64 = rows.map(|p| p["records"].as_u64().expect("a number")).sum();
    assert_eq!(sum, EVENTS as u64, "{answer}");
    peak.max(server.anonymous_bytes())
}

fn check_contents(server: &Server, expected: &[Vec<&Flight>]) {
    let mut connection = server.connect();
    for (partition, expected) in expected.iter().enumerate() {
        let mut flights = expected.iter();
        read_partition(&mut connection, TOPIC, partition as u32, 0, |record| {
            let flight = flights.next().expect("no more than were sent");
            let at = format!("offset {} of {partition}", record.offset);
            assert_eq!(record.value.get(), flight.value.get(), "{at}");
            assert_eq!(record.key.as_deref(), Some(flight.key), "{at}");
            assert_eq!(record.timestamp, flight.timestamp, "{at}");
        });
        assert_eq!(flights.len(), 0, "missing at the end of {partition}");
    }
}

/// Each partition's first record of July, found by time.
fn check_july(server: &Server, expected: &[Vec<&Flight>]) {
    let mut connection = server.connect();
    let mut took = Vec::new();
    for (partition, flights) in expected.iter().enumerate() {
        let mut times = flights.iter().map(|flight| flight.timestamp);
        let offset = times
            .position(|time| time >= JULY_MS)
            .expect("there were flights");
        let path = format!("/v1/topics/{TOPIC}/partitions/{partition}/records?from={JULY}&max_records=1");
        let begin = Instant::now();
        let answer = connection.get(&path);
        took.push(begin.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let record = &answer["records"][0];
        assert_eq!(record["offset"], offset, "{partition}: {answer}");
        assert_eq!(record["timestamp"], flights[offset].timestamp, "{answer}");
        assert_eq!(record["key"], flights[offset].key, "{answer}");

        let uri = format!("/v1/topics/{TOPIC}/partitions/{partition}/offsets?at={JULY}");
        let expected = json!({"offset": offset, "timestamp": flights[offset].timestamp});
        has(&connection.get(&uri).json(), expected);
    }
    let slowest = took.iter().max().expect("there are partitions");
    println!(
        "lookups by time in {} partitions, {:.2} ms at most",
        took.len(),
        slowest.as_secs_f64() * 1e3
    );
}

/// Asks an independent implementation for the partition of each key.
fn check_partitioner(flights: &[Flight]) {
    const SCRIPT: &str = "
import sys
from kafka.partitioner.default import murmur2
for line in sys.stdin:
    print((murmur2(line.rstrip('\\n').encode()) & 0x7fffffff) % int(sys.argv[1]))
";
    let Some(python) = python_with("from kafka.partitioner.default import murmur2") else {
        support::skipped("the comparison with kafka-python, which is not installed");
        return;
    };
    let keys = flights.iter().map(|flight| flight.key);
    let home = |key: &str| partition_of_key(key.as_bytes(), PARTITIONS);
    let keys: BTreeMap<&str, u32> = keys.map(|key| (key, home(key))).collect();
    let mut input = String::new();
    for key in keys.keys() {
        writeln!(input, "{key}").expect("a string takes it");
    }
    let mut child = Command::new(python)
        .args(["-c", SCRIPT, &PARTITIONS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it started before");
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let lines = stdout.lines().map(|line| line.expect("text"));
    let theirs: Vec<u32> = lines.map(|line| line.parse().expect("a partition")).collect();
    let written = writer.join().expect("it only writes");
    written.expect("all keys were read");
    assert!(child.wait().expect("it ends").success());
    assert!(keys.values().eq(&theirs), "kafka-python places keys elsewhere");
    println!("kafka-python places all {} keys likewise", theirs.len());
}
