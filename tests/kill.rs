//! The real binary is killed under load, again and again on one data directory, and owes nobody anything afterwards.
//!
//! Producers of every shape run at once: small JSON requests over several partitions, long NDJSON streams of short and of
//! long lines, and requests of a MiB of record batches. A ledger remembers what was sent and what was answered. After
//! each kill the server starts again, and what it serves is compared with the ledger:
//! - an acknowledged request is there, whole, once, at its offsets;
//! - one that was in flight is there whole or not at all, over all its partitions (a stream: a prefix of its units);
//! - a producer's requests are in the order in which it sent them.
//!
//! The moment of each kill hangs on a seed, which is printed and can be given as `QUIPU_TEST_SEED`.
#![allow(
    clippy::disallowed_methods,
    reason = "a test of the real binary lives in the real world"
)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use quipu_segments::TimestampMs;
use quipu_segments::batch::BatchBuilder;
use serde_json::Value;
use support::{Connection, PATIENCE, Rng, Server, read_partition};

const TOPIC: &str = "events";
const PARTITIONS: u32 = 6;
const KILLS: u32 = 10;
/// A stream is cut after so many lines, or after a MiB.
const UNIT_LINES: u64 = 10_000;

/// What a request is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// A few records over several partitions.
    Json,
    /// Lines so short that units end by their number of lines.
    ShortLines,
    /// Lines so long that units end by their bytes.
    LongLines,
    /// A MiB of record batches to one partition.
    Batches,
}

/// A request that was sent.
struct Sent {
    shape: Shape,
    records: u64,
    answer: Option<Acknowledged>,
}

/// What the server promised.
enum Acknowledged {
    /// Partition and offset of each record.
    Each(Vec<(u32, u64)>),
    /// Partition, first and last offset and number of records.
    Ranges(Vec<(u32, u64, u64, u64)>),
}

/// Who sent what: the key is (round of the kill, producer, sequence).
type Id = (u32, u32, u64);
type Ledger = BTreeMap<Id, Sent>;

/// A record that the server served: who sent it, and which one of its request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    offset: u64,
    id: Id,
    index: u64,
}

#[test]
fn acknowledged_requests_survive_ten_kills_under_load_and_those_in_flight_are_whole_or_absent() {
    let mut rng = Rng::from_environment("kill");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic(TOPIC, PARTITIONS);

    let mut history: Vec<Vec<Seen>> = vec![Vec::new(); PARTITIONS as usize];
    for round in 0..KILLS {
        let ledger = run_until_killed(server, round, &mut rng);
        server = Server::start(&data);
        let new = read_new(&server, &mut history);
        compare(&ledger, &new);
        let answered = ledger.values().filter(|sent| sent.answer.is_some()).count();
        println!(
            "kill {round}: {answered} requests acknowledged, {} in flight, ready after {:?}",
            ledger.len() - answered,
            server.ready_after
        );
    }

    // What was found after each kill is found again, from the first record on, and offline too.
    let mut again = vec![Vec::new(); PARTITIONS as usize];
    read_new(&server, &mut again);
    for (partition, (then, now)) in history.iter().zip(&again).enumerate() {
        assert!(
            then == now,
            "partition {partition} is not what it was after an earlier kill"
        );
    }
    server.stop();
    let verify = Command::new(env!("CARGO_BIN_EXE_quipu"))
        .arg("verify")
        .arg(&data)
        .output()
        .expect("it starts");
    assert!(
        verify.status.success(),
        "quipu verify: {}{}",
        String::from_utf8_lossy(&verify.stdout),
        String::from_utf8_lossy(&verify.stderr)
    );
}

/// Lets producers of all shapes loose and kills the server at a moment of the generator's choice.
fn run_until_killed(server: Server, round: u32, rng: &mut Rng) -> Ledger {
    use Shape::{Batches, Json, LongLines, ShortLines};
    let ledger = Mutex::new(Ledger::new());
    let (acknowledged, acknowledgements) = mpsc::channel();
    let address = server.address;
    std::thread::scope(|scope| {
        let producers = [Json, Json, Json, Json, ShortLines, LongLines, Batches, Batches];
        for (producer, shape) in producers.into_iter().enumerate() {
            let (ledger, acknowledged, rng) = (&ledger, acknowledged.clone(), rng.fork());
            scope.spawn(move || {
                produce(
                    address,
                    shape,
                    (round, producer as u32),
                    rng,
                    ledger,
                    &acknowledged,
                )
            });
        }
        drop(acknowledged);

        // In every other round each shape is acknowledged once at least, so that none goes untested on a slow machine.
        let mut left = 1 + rng.below(600);
        let mut missing = if round.is_multiple_of(2) {
            vec![Json, ShortLines, LongLines, Batches]
        } else {
            Vec::new()
        };
        while left > 0 || !missing.is_empty() {
            let shape = acknowledgements
                .recv_timeout(PATIENCE)
                .expect("the producers get answers");
            left = left.saturating_sub(1);
            missing.retain(|m| *m != shape);
        }
        // Off the beat of the acknowledgements.
        std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        server.kill();
    });
    ledger.into_inner().expect("no producer panicked")
}

/// Sends requests one after the other until the server is gone.
fn produce(
    address: SocketAddr,
    shape: Shape,
    (round, producer): (u32, u32),
    mut rng: Rng,
    ledger: &Mutex<Ledger>,
    acknowledged: &Sender<Shape>,
) {
    let Ok(mut connection) = Connection::open(address) else {
        return;
    };
    for sequence in 0.. {
        let id = (round, producer, sequence);
        let (path, content_type, body, records) = request(shape, id, &mut rng);
        ledger.lock().expect("no producer panicked").insert(
            id,
            Sent {
                shape,
                records,
                answer: None,
            },
        );
        let Ok(answer) = exchange(&mut connection, &path, content_type, &body) else {
            return;
        };
        ledger
            .lock()
            .expect("no producer panicked")
            .get_mut(&id)
            .expect("just inserted")
            .answer = Some(answer);
        // The receiver is gone once the kill is decided.
        let _ = acknowledged.send(shape);
    }
}

fn exchange(
    connection: &mut Connection,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> io::Result<Acknowledged> {
    let answer = connection.request("POST", path, content_type, body)?;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let answer = answer.json();
    let number = |value: &Value, name: &str| {
        value[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {value}"))
    };
    let partition = |value: &Value| number(value, "partition") as u32;
    Ok(if let Some(offsets) = answer["offsets"].as_array() {
        Acknowledged::Each(
            offsets
                .iter()
                .map(|o| (partition(o), number(o, "offset")))
                .collect(),
        )
    } else if let Some(partitions) = answer["partitions"].as_array() {
        let range = |p: &Value| {
            (
                partition(p),
                number(p, "first_offset"),
                number(p, "last_offset"),
                number(p, "records"),
            )
        };
        Acknowledged::Ranges(partitions.iter().map(range).collect())
    } else {
        let partition = path
            .split('/')
            .nth_back(1)
            .and_then(|p| p.parse().ok())
            .expect("a partition's path");
        let (first, last) = (number(&answer, "first_offset"), number(&answer, "last_offset"));
        Acknowledged::Ranges(vec![(partition, first, last, number(&answer, "records"))])
    })
}

/// Path, content type, body and number of records of a request.
fn request(shape: Shape, id: Id, rng: &mut Rng) -> (String, &'static str, Vec<u8>, u64) {
    let records_path = format!("/v1/topics/{TOPIC}/records");
    match shape {
        Shape::Json => {
            let count = 1 + rng.below(6);
            let records: Vec<_> = (0..count).map(|index| line(id, index, 0, rng)).collect();
            let body = format!(r#"{{"records":[{}]}}"#, records.join(","));
            (records_path, "application/json", body.into_bytes(), count)
        }
        Shape::ShortLines | Shape::LongLines => {
            let (count, padding) = if shape == Shape::ShortLines {
                (UNIT_LINES + 2000, 0)
            } else {
                (1200, 2000)
            };
            let mut body = String::new();
            for index in 0..count {
                body += &line(id, index, padding, rng);
                body.push('\n');
            }
            (records_path, "application/x-ndjson", body.into_bytes(), count)
        }
        Shape::Batches => {
            let partition = rng.below(u64::from(PARTITIONS));
            let mut body = Vec::new();
            for batch in 0..4 {
                let mut builder = BatchBuilder::new();
                for index in batch * 16..(batch + 1) * 16 {
                    let value = value(id, index, 16_000);
                    builder.push(TimestampMs(1_357_035_420_000), None, Some(value.as_bytes()), &[]);
                }
                body.extend_from_slice(builder.seal().as_bytes());
            }
            let path = format!("/v1/topics/{TOPIC}/partitions/{partition}/records");
            (path, "application/vnd.apache.kafka.record-batch", body, 64)
        }
    }
}

fn line(id: Id, index: u64, padding: usize, rng: &mut Rng) -> String {
    format!(
        r#"{{"key":"k{}","value":{}}}"#,
        rng.below(40),
        value(id, index, padding)
    )
}

fn value((round, producer, sequence): Id, index: u64, padding: usize) -> String {
    format!(
        r#"[{round},{producer},{sequence},{index},"{}"]"#,
        "p".repeat(padding)
    )
}

/// Reads what lies beyond `history`, and adds it there.
fn read_new(server: &Server, history: &mut [Vec<Seen>]) -> Vec<(u32, Seen)> {
    let mut connection = server.connect();
    let mut new = Vec::new();
    for (partition, seen) in history.iter_mut().enumerate() {
        let partition = partition as u32;
        let from = seen.last().map_or(0, |seen| seen.offset + 1);
        read_partition(&mut connection, TOPIC, partition, from, |record| {
            let (round, producer, sequence, index, padding): (u32, u32, u64, u64, String) =
                serde_json::from_str(record.value.get()).expect("a value of this test");
            assert!(
                padding.bytes().all(|byte| byte == b'p'),
                "partition {partition}, {}",
                record.offset
            );
            let record = Seen {
                offset: record.offset,
                id: (round, producer, sequence),
                index,
            };
            seen.push(record);
            new.push((partition, record));
        });
    }
    new
}

/// Holds the ledger of one round against the records that are new since the round before.
fn compare(ledger: &Ledger, new: &[(u32, Seen)]) {
    let mut of_request: HashMap<Id, Vec<(u32, Seen)>> = HashMap::new();
    let mut last_of_producer: HashMap<(u32, u32), (u64, u64)> = HashMap::new();
    for (partition, seen) in new {
        of_request.entry(seen.id).or_default().push((*partition, *seen));
        // Within a partition, a producer's requests come in their order, and the records of each in theirs.
        let place = (seen.id.2, seen.index);
        let before = last_of_producer.insert((*partition, seen.id.1), place);
        assert!(
            before < Some(place),
            "partition {partition}: {seen:?} comes after {before:?}"
        );
    }
    for (id, found) in &of_request {
        let sent = ledger
            .get(id)
            .unwrap_or_else(|| panic!("{id:?} was never sent in this round: {:?}", found[0]));
        assert!(
            found.len() as u64 <= sent.records,
            "{id:?} has records twice: {} of {}",
            found.len(),
            sent.records
        );
    }
    let nothing = Vec::new();
    for (id, sent) in ledger {
        let found = of_request.get(id).unwrap_or(&nothing);
        let count = found.len() as u64;
        let mut indexes: Vec<_> = found.iter().map(|(_, seen)| seen.index).collect();
        indexes.sort_unstable();
        assert!(
            indexes.iter().copied().eq(0..count),
            "{:?} {id:?}: not the first {count} records",
            sent.shape
        );
        match &sent.answer {
            Some(answer) => {
                assert_eq!(count, sent.records, "{:?} {id:?} was acknowledged", sent.shape);
                check_offsets(*id, answer, found);
            }
            None => check_in_flight(*id, sent, count),
        }
        if matches!(sent.shape, Shape::Json | Shape::Batches) {
            for pair in found.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
                assert_eq!(
                    pair[0].1.offset + 1,
                    pair[1].1.offset,
                    "{id:?} is one unit in its partition"
                );
            }
        }
    }
}

fn check_offsets(id: Id, answer: &Acknowledged, found: &[(u32, Seen)]) {
    match answer {
        Acknowledged::Each(offsets) => {
            for (partition, seen) in found {
                let promised = offsets[seen.index as usize];
                assert_eq!(
                    (*partition, seen.offset),
                    promised,
                    "record {} of {id:?}",
                    seen.index
                );
            }
        }
        Acknowledged::Ranges(ranges) => {
            for (partition, first, last, records) in ranges {
                let offsets: Vec<_> = found
                    .iter()
                    .filter(|f| f.0 == *partition)
                    .map(|f| f.1.offset)
                    .collect();
                let expected = (Some(first), Some(last), *records as usize);
                assert_eq!(
                    (offsets.first(), offsets.last(), offsets.len()),
                    expected,
                    "{id:?} in {partition}"
                );
            }
            assert_eq!(
                ranges.iter().map(|range| range.3).sum::<u64>(),
                found.len() as u64,
                "{id:?}"
            );
        }
    }
}

fn check_in_flight(id: Id, sent: &Sent, count: u64) {
    let whole = match sent.shape {
        Shape::Json | Shape::Batches => count == 0 || count == sent.records,
        Shape::ShortLines => count.is_multiple_of(UNIT_LINES) || count == sent.records,
        // Where a unit ends hangs on its bytes; that a prefix is there was checked already.
        Shape::LongLines => true,
    };
    assert!(
        whole,
        "{:?} {id:?} was in flight: {count} of {} records are there",
        sent.shape, sent.records
    );
}
