//! Streams that are cut off, anywhere and by anything: a client that resumes loses nothing and gets nothing twice.
//!
//! A client reads Server-Sent Events from a bare socket and hangs up after any number of bytes. Between two connections
//! the server is stopped, killed, started again, or given partitions, while producers go on. In the end the client's
//! records are compared with those in the partitions.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::events::EventReader;
use crate::support::{Connection, Rng, Server};
use serde_json::{Value, json};

const SETTINGS: &[(&str, &str)] = &[
    ("QUIPU_MAX_REQUEST_BYTES", "1048576"),
    ("QUIPU_JOURNAL_FILE_BYTES", "4194304"),
    ("QUIPU_JOURNAL_FILES", "2"),
];
const TOPICS: [&str; 2] = ["left", "right"];
/// Texts of one to four bytes a character.
const TEXTS: [&str; 5] = ["plain", "naïve", "漢字", "🦀 crab", "line\\nbreak"];

/// Undoes the chunked coding of an answer that may be cut anywhere.
#[derive(Default)]
struct Unchunked {
    line: Vec<u8>,
    /// Bytes left of the chunk and of the line break after it.
    left: usize,
    is_over: bool,
}

impl Unchunked {
    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for &byte in bytes {
            // After the last chunk only line breaks may follow.
            assert!(!self.is_over || byte == b'\r' || byte == b'\n');
            if self.left > 0 {
                if self.left > 2 {
                    body.push(byte);
                }
                self.left -= 1;
            } else if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let digits = std::str::from_utf8(&line).expect("digits").trim();
                if !digits.is_empty() {
                    let size = usize::from_str_radix(digits, 16).expect("a chunk's size");
                    self.is_over |= size == 0;
                    self.left = if size == 0 { 0 } else { size + 2 };
                }
            } else {
                self.line.push(byte);
            }
        }
        body
    }
}

/// The stream that a client asks for.
#[derive(Clone, Debug)]
struct Wish {
    path: String,
    key: Option<String>,
    header: Option<String>,
    topics: Vec<&'static str>,
}

impl Wish {
    fn random(rng: &mut Rng) -> Self {
        let topics = if rng.below(2) == 0 {
            vec![TOPICS[0]]
        } else {
            TOPICS.to_vec()
        };
        let mut query = vec![format!("topics={}", topics.join(","))];
        let key = (rng.below(3) == 0).then(|| format!("k{}", rng.below(4)));
        let header = (rng.below(4) == 0).then(|| format!("h{}", rng.below(3)));
        query.extend(key.iter().map(|key| format!("key={key}")));
        query.extend(header.iter().map(|value| format!("header.kind={value}")));
        if rng.below(2) == 0 {
            query.push("order=timestamp".to_owned());
        }
        if rng.below(3) > 0 {
            query.push("follow=true".to_owned());
        }
        Self {
            path: format!("/v1/records?{}", query.join("&")),
            key,
            header,
            topics,
        }
    }

    fn wants(&self, record: &Value) -> bool {
        self.key.as_ref().is_none_or(|key| record["key"] == *key)
            && self
                .header
                .as_ref()
                .is_none_or(|value| record["headers"]["kind"] == *value)
    }
}

/// A client that resumes.
#[derive(Default)]
struct Client {
    reader: EventReader,
    got: BTreeMap<(String, u64), Vec<Value>>,
    /// The last answer said that nothing is left.
    is_told_all: bool,
}

impl Client {
    /// Connects and reads at most so many bytes of the answer; an answer that ends, or stays silent, ends it too.
    fn read(&mut self, address: SocketAddr, wish: &Wish, mut most: usize) {
        self.is_told_all = false;
        self.reader.reconnected();
        let Ok(mut connection) = Connection::open(address) else {
            return;
        };
        let mut headers = "Accept: text/event-stream\r\n".to_owned();
        if !self.reader.last_id.is_empty() {
            headers += &format!("Last-Event-ID: {}\r\n", self.reader.last_id);
        }
        if connection.send_head("GET", &wish.path, &headers).is_err() {
            return;
        }
        let Ok(head) = connection.answer_head() else {
            return;
        };
        match head.status {
            200 => {}
            204 => {
                self.is_told_all = true;
                return;
            }
            503 => return,
            other => panic!("{other} for {wish:?}"),
        }
        // An answer that is complete at once has a length instead of chunks.
        let mut chunks = (head.header("transfer-encoding") == Some("chunked")).then(Unchunked::default);
        if let Some(length) = head.header("content-length") {
            most = most.min(length.parse().expect("a number"));
        }
        let stream = connection.stream.get_ref();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a socket");
        while most > 0 {
            let Ok(bytes) = connection.stream.fill_buf() else {
                return;
            };
            let taken = bytes.len().min(most);
            if taken == 0 {
                return;
            }
            let bytes = &bytes[..taken];
            let body = chunks
                .as_mut()
                .map_or_else(|| bytes.to_vec(), |chunks| chunks.feed(bytes));
            connection.stream.consume(taken);
            most -= taken;
            for event in self.reader.feed(&body) {
                match &*event.name {
                    "record" => self.take(event.json()),
                    "end" => {}
                    other => panic!("an event {other}: {}", event.data),
                }
                assert!(!event.id.is_empty(), "an event without an id: {event:?}");
            }
        }
    }

    fn take(&mut self, mut record: Value) {
        let topic = record["topic"].take();
        let topic = topic.as_str().unwrap_or(TOPICS[0]).to_owned();
        record.as_object_mut().expect("an object").remove("topic");
        let place = (topic, record["partition"].as_u64().expect("a number"));
        let all = self.got.entry(place.clone()).or_default();
        if let Some(last) = all.last() {
            let is_later = last["offset"].as_u64() < record["offset"].as_u64();
            assert!(is_later, "{place:?}: {record} comes behind {last}");
        }
        all.push(record);
    }
}

/// Produces until it must stop, whatever happens to the server.
fn produce(address: &Mutex<SocketAddr>, stop: &AtomicBool, partitions: &Mutex<[u64; 2]>, mut rng: Rng) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let topic = rng.below(2) as usize;
        let partitions = partitions.lock().expect("nobody panics with it")[topic];
        let records: Vec<Value> = (0..=rng.below(20))
            .map(|_| {
                number += 1;
                json!({
                    "key": format!("k{}", rng.below(4)), "timestamp": 1_000_000 + rng.below(1000),
                    "partition": rng.below(partitions),
                    "value": {"n": number, "text": TEXTS[rng.below(5) as usize].repeat(rng.below(20) as usize)},
                    "headers": {"kind": format!("h{}", rng.below(3))},
                })
            })
            .collect();
        let body = json!({ "records": records }).to_string();
        let path = format!("/v1/topics/{}/records", TOPICS[topic]);
        let address = *address.lock().expect("nobody panics with it");
        // The result does not matter: only the records in the partitions count in the end.
        let _ = Connection::open(address).and_then(|mut connection| {
            connection.request("POST", &path, "application/json", body.as_bytes())
        });
    }
}

/// All records that a wish should return, by partition.
fn truth(server: &Server, wish: &Wish) -> BTreeMap<(String, u64), Vec<Value>> {
    let mut all = BTreeMap::new();
    for topic in &wish.topics {
        let described = server.get(&format!("/v1/topics/{topic}"));
        for partition in 0..described["partition_count"].as_u64().expect("a number") {
            let mut records = Vec::new();
            let mut offset = 0;
            loop {
                let path = format!(
                    "/v1/topics/{topic}/partitions/{partition}/records?offset={offset}&max_records=100000"
                );
                let page = server.get(&path);
                let found = page["records"].as_array().expect("a list");
                records.extend(found.iter().filter(|record| wish.wants(record)).cloned());
                offset = page["next_offset"].as_u64().expect("a number");
                if page["next_offset"] == page["end_offset"] {
                    break;
                }
            }
            if !records.is_empty() {
                all.insert(((*topic).to_owned(), partition), records);
            }
        }
    }
    all
}

fn one_life(rng: &mut Rng, data: &Path) {
    let mut server = Some(Server::start_with_settings(data, SETTINGS));
    let counts = [1 + rng.below(4), 1 + rng.below(3)];
    for (topic, count) in TOPICS.iter().zip(counts) {
        let server = server.as_ref().expect("it runs");
        server.create_topic(topic, count as u32);
    }
    let wish = Wish::random(rng);
    println!("{wish:?}, partitions {counts:?}");
    let address = Arc::new(Mutex::new(server.as_ref().expect("it runs").address));
    let partitions = Arc::new(Mutex::new(counts));
    let stop = Arc::new(AtomicBool::new(false));
    let producer = {
        let (address, partitions, stop, rng) = (
            Arc::clone(&address),
            Arc::clone(&partitions),
            Arc::clone(&stop),
            rng.fork(),
        );
        std::thread::spawn(move || produce(&address, &stop, &partitions, rng))
    };
    let mut client = Client::default();
    let mut restarts = 0;
    for _ in 0..40 {
        let most = match rng.below(3) {
            0 => rng.below(600),
            1 => rng.below(5_000),
            _ => rng.below(50_000),
        };
        let at = *address.lock().expect("nobody panics with it");
        client.read(at, &wish, most as usize);
        match rng.below(20) {
            0 | 1 if restarts < 6 => {
                restarts += 1;
                let old = server.take().expect("it runs");
                if rng.below(2) == 0 {
                    old.kill();
                } else {
                    old.stop();
                }
                let new = Server::start_with_settings(data, SETTINGS);
                *address.lock().expect("nobody panics with it") = new.address;
                server = Some(new);
            }
            2 => {
                let mut counts = partitions.lock().expect("nobody panics with it");
                let topic = rng.below(2) as usize;
                counts[topic] += 1;
                let body = format!(r#"{{"partitions":{}}}"#, counts[topic]);
                let path = format!("/v1/topics/{}", TOPICS[topic]);
                let running = server.as_ref().expect("it runs");
                running.expect(200, "PATCH", &path, "application/json", body.as_bytes());
            }
            _ => {}
        }
    }
    stop.store(true, Ordering::SeqCst);
    producer.join().expect("it produces to the end");
    let server = server.expect("it runs");
    let last = Wish {
        path: wish.path.replace("&follow=true", ""),
        ..wish
    };
    let mut most = 1000;
    // Ignore what it was told while producers were running.
    client.is_told_all = false;
    while !client.is_told_all {
        client.read(server.address, &last, most);
        most = most * 3 / 2;
        assert!(most < 1 << 40, "it never has all");
    }
    let wanted = truth(&server, &last);
    let count: usize = wanted.values().map(Vec::len).sum();
    println!("{count} records");
    assert!(wanted.keys().eq(client.got.keys()), "records of other partitions");
    for (place, wanted) in &wanted {
        let got = &client.got[place];
        let first = wanted.iter().zip(got).position(|(wanted, got)| wanted != got);
        let differ = first.map(|at| (&wanted[at], &got[at]));
        assert_eq!(differ, None, "{place:?}");
        assert_eq!(wanted.len(), got.len(), "{place:?}");
    }
    server.stop();
}

#[test]
fn a_client_that_resumes_has_every_record_once_whatever_cut_it_off() {
    let mut rng = Rng::from_environment("a_client_that_resumes_has_every_record_once_whatever_cut_it_off");
    let lives = std::env::var("QUIPU_TEST_LIVES").map_or(3, |lives| lives.parse().expect("a number"));
    for _ in 0..lives {
        let dir = tempfile::tempdir().expect("a temporary directory");
        one_life(&mut rng, &dir.path().join("data"));
    }
}

/// A server with some megabytes in a topic.
fn with_megabytes(data: &Path) -> Server {
    let server = Server::start_with_settings(data, SETTINGS);
    server.create_topic("t", 3);
    let line = format!("{{\"value\":\"{}\"}}\n", "x".repeat(1000));
    let body = line.repeat(1000);
    for _ in 0..12 {
        let path = "/v1/topics/t/records";
        server.expect(200, "POST", path, "application/x-ndjson", body.as_bytes());
    }
    server
}

#[test]
fn lines_that_are_cut_off_in_the_middle_never_look_complete() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    for (is_killed, query) in [
        (true, ""),
        (true, "?follow=true"),
        (false, "?follow=true"),
        (false, "?speed=0.000001"),
    ] {
        let server = if data.exists() {
            Server::start_with_settings(&data, SETTINGS)
        } else {
            with_megabytes(&data)
        };
        let mut connection = server.connect();
        let path = format!("/v1/topics/t/records{query}");
        connection.begin("GET", &path, "");
        let head = connection.reply_head();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        let mut some = [0; 200];
        connection.stream.read_exact(&mut some).expect("a record");
        let mut chunks = Unchunked::default();
        let mut bytes = chunks.feed(&some).len();
        // A follower that has read everything is idle when the server stops.
        let mut rest = Vec::new();
        if is_killed {
            server.kill();
            // It breaks in any way, or ends without a final chunk.
            let _ = connection.stream.read_to_end(&mut rest);
        } else {
            let reading = std::thread::spawn(move || {
                let _ = connection.stream.read_to_end(&mut rest);
                rest
            });
            server.stop();
            rest = reading.join().expect("it reads to the end");
        }
        bytes += chunks.feed(&rest).len();
        let is_over = chunks.is_over;
        assert!(!is_over, "{bytes} bytes of {query:?} end as if they were all");
    }
    // A complete answer does end with a final chunk.
    let server = Server::start_with_settings(&data, SETTINGS);
    let answer = server.connect().get("/v1/topics/t/records");
    assert_eq!(answer.body.iter().filter(|byte| **byte == b'\n').count(), 12_000);
    server.stop();
}
