//! The Kafka listener of the real binary: bare sockets with frames made by hand, and real clients where they are installed.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "some of it is for the tests of TLS alone")]
#[path = "../tls/authority.rs"]
mod authority;
#[allow(dead_code, reason = "some of it is for the tests of TLS alone")]
#[path = "../tls/secure.rs"]
mod tls_server;

mod admin;
mod admin_clients;
mod bearer;
mod by_id;
mod changes;
mod clients;
mod consumers;
mod damage;
mod dead_letters;
mod errors;
mod failures;
mod group_offsets;
mod groups;
mod hostile;
mod idempotent;
mod issuer;
mod memory;
mod mistakes;
mod overload;
mod rights;
mod sasl;
mod sasl_clients;
mod secure;
mod topics;
mod unacknowledged;
mod wire;

use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Instant;

use quipu_segments::batch::{BatchBuilder, Codec, SealedBatch};
use quipu_segments::{Offset, ProducerId, TimestampMs};
use tempfile::TempDir;

use support::{PATIENCE, Server, skipped};
use wire::{Client, In, Out};

pub(crate) const PRODUCE: i16 = 0;
pub(crate) const FETCH: i16 = 1;
pub(crate) const LIST_OFFSETS: i16 = 2;
pub(crate) const METADATA: i16 = 3;
pub(crate) const API_VERSIONS: i16 = 18;
pub(crate) const DELETE_RECORDS: i16 = 21;
pub(crate) const INIT_PRODUCER_ID: i16 = 22;
pub(crate) const OFFSET_FOR_LEADER_EPOCH: i16 = 23;

/// A server that listens for Kafka's clients.
struct Fixture {
    server: Server,
    kafka: SocketAddr,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::over(directory, settings)
    }

    fn over(directory: TempDir, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("QUIPU_JOURNAL_FILE_BYTES", "40MiB")];
        if !settings.iter().any(|(name, _)| *name == "QUIPU_KAFKA_LISTEN") {
            all.push(("QUIPU_KAFKA_LISTEN", "127.0.0.1:0"));
        }
        all.extend_from_slice(settings);
        let server = Server::start_with_settings(&directory.path().join("data"), &all);
        let kafka = address(&server);
        Self {
            server,
            kafka,
            directory,
        }
    }

    /// `kill -9`, and a start on the same data.
    fn restart_after_kill(self) -> Self {
        self.restart_after_kill_with(&[])
    }

    /// The same, with the listener for Kafka's clients at the address that they know.
    fn restart_after_kill_at(self, address: &str) -> Self {
        self.restart_after_kill_with(&[("QUIPU_KAFKA_LISTEN", address)])
    }

    /// The same with settings.
    fn restart_after_kill_with(self, settings: &[(&str, &str)]) -> Self {
        let log = self.directory.path().join("data.log");
        self.server.kill();
        std::fs::remove_file(&log).expect("the log of the first life");
        Self::over(self.directory, settings)
    }

    /// A stop, a change of the files of the data directory, and a start on them.
    fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        self.server.stop();
        std::fs::remove_file(self.directory.path().join("data.log")).expect("the log of the first life");
        change(&self.directory.path().join("data"));
        Self::over(self.directory, &[])
    }

    fn client(&self) -> Client {
        Client::to(self.kafka)
    }

    fn data(&self) -> &Path {
        self.directory.path()
    }
}

/// The address for Kafka's clients, which the log names.
fn address(server: &Server) -> SocketAddr {
    let begin = Instant::now();
    loop {
        let log = server.log();
        let line = log
            .lines()
            .find(|line| line.contains("Kafka clients are listened to"));
        if let Some(line) = line {
            let word = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix("address="));
            return word
                .and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("no address in {line}"));
        }
        assert!(begin.elapsed() < PATIENCE, "no address; the log says:\n{log}");
        std::thread::yield_now();
    }
}

/// A batch of records with these values.
fn batch(values: &[&str]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(TimestampMs(1_700_000_000_000), None, Some(value.as_bytes()), &[]);
    }
    builder.seal().into_bytes()
}

/// The same of an idempotent producer.
fn batch_of(values: &[&str], producer: (i64, i16), sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(TimestampMs(1_700_000_000_000), None, Some(value.as_bytes()), &[]);
    }
    let mut sealed = builder.seal();
    sealed.set_producer(ProducerId(producer.0), producer.1, sequence);
    sealed.set_base_offset(Offset::new(0));
    sealed.into_bytes()
}

/// A Produce request, version 3, for one partition.
fn produce_request(topic: &str, partition: i32, acks: i16, records: &[u8]) -> Out {
    let head = Out::new().null().i16(acks).i32(30_000).i32(1).text(topic);
    head.i32(1).i32(partition).bytes(records)
}

/// The error and the offset of a Produce answer, version 3.
fn produced(mut answer: In) -> (i16, i64) {
    assert_eq!(answer.i32(), 1);
    answer.text();
    assert_eq!(answer.i32(), 1);
    answer.i32();
    let result = (answer.i16(), answer.i64());
    answer.i64();
    answer.i32();
    answer.end();
    result
}

fn produce(client: &mut Client, topic: &str, acks: i16, records: &[u8]) -> (i16, i64) {
    produced(client.ask(PRODUCE, 3, produce_request(topic, 0, acks, records)))
}

/// A Fetch request, version 4, of partition 0.
fn fetch_request(topic: &str, offset: i64, (max_wait, min_bytes, max_bytes): (i32, i32, i32)) -> Out {
    let head = Out::new()
        .i32(-1)
        .i32(max_wait)
        .i32(min_bytes)
        .i32(max_bytes)
        .i8(0);
    head.i32(1).text(topic).i32(1).i32(0).i64(offset).i32(max_bytes)
}

/// The error, the high watermark and the batches of a Fetch answer, version 4.
fn fetched(mut answer: In) -> (i16, i64, Vec<u8>) {
    answer.i32();
    assert_eq!(answer.i32(), 1);
    answer.text();
    assert_eq!(answer.i32(), 1);
    answer.i32();
    let (error, high_watermark) = (answer.i16(), answer.i64());
    answer.i64();
    let aborted = answer.i32();
    assert!(aborted <= 0, "there are no transactions");
    let length = answer.i32();
    let batches = answer.bytes(length);
    answer.end();
    (error, high_watermark, batches)
}

fn fetch(client: &mut Client, topic: &str, offset: i64) -> (i16, i64, Vec<u8>) {
    fetched(client.ask(FETCH, 4, fetch_request(topic, offset, (0, 1, 1 << 20))))
}

#[test]
fn a_batch_comes_back_byte_for_byte_but_for_its_offset() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let sent = batch(&["a", "b"]);
    assert_eq!(produce(&mut client, "t", -1, &sent), (0, 0));
    assert_eq!(produce(&mut client, "t", -1, &sent), (0, 2));
    let (error, high_watermark, mut batches) = fetch(&mut client, "t", 2);
    assert_eq!((error, high_watermark), (0, 4));
    assert_eq!(batches[..8], 2_i64.to_be_bytes());
    batches[..8].fill(0);
    assert_eq!(batches, sent);
    // HTTP has the same records.
    let records = fixture.server.get("/v1/topics/t/partitions/0/records?offset=0");
    assert_eq!(records["records"].as_array().map(Vec::len), Some(4), "{records}");
}

#[test]
fn compressed_batches_come_back_byte_for_byte_and_are_json_over_http() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut next = 0;
    let mut stored = Vec::new();
    for codec in Codec::ALL.into_iter().map(Some).chain([None]) {
        let plain = SealedBatch::from_outside(batch(&["1", "2", "3"])).expect("a batch");
        let mut packed = plain.with_codec(codec, None).expect("nothing to inflate");
        assert_eq!(
            produce(&mut client, "t", -1, packed.as_bytes()),
            (0, next),
            "{codec:?}"
        );
        packed.set_base_offset(Offset::new(next as u64));
        stored.extend_from_slice(packed.as_bytes());
        next += 3;
    }
    let (code, end, records) = fetch(&mut client, "t", 0);
    assert_eq!((code, end), (0, next));
    assert!(records == stored, "byte for byte");
    // The whole batch of an offset within it.
    let (code, _, records) = fetch(&mut client, "t", next - 1);
    assert_eq!(code, 0);
    assert!(stored.ends_with(&records) && records.len() > 61);
    let page = fixture.server.get("/v1/topics/t/partitions/0/records?offset=0");
    let found = page["records"].as_array().expect("records").iter();
    let found: Vec<u64> = found
        .map(|record| record["value"].as_u64().expect("a number"))
        .collect();
    assert_eq!(found, [1, 2, 3].repeat(5));
}

#[test]
fn answers_come_in_the_order_of_the_requests_and_acks_0_has_none() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut frames = Vec::new();
    for number in 0..60 {
        let acks = [0, 1, -1][number as usize % 3];
        let value = number.to_string();
        frames.extend(produce_request("t", 0, acks, &batch(&[&value])).frame(PRODUCE, 3, number));
    }
    frames.extend(Out::new().frame(API_VERSIONS, 0, 60));
    client.send(&frames);
    for number in (0..60).filter(|number| number % 3 != 0) {
        let (correlation, answer) = client.receive();
        assert_eq!(correlation, number);
        assert_eq!(produced(answer), (0, i64::from(number)), "appended in order");
    }
    assert_eq!(client.receive().0, 60);
}

#[test]
fn a_producer_with_one_acknowledgement_finds_its_record_wherever_it_looks() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let of_partition_0 = |head: Out| head.i32(1).text("t").i32(1).i32(0);
    // An answer with one partition: its error, and what comes after that.
    let begun = |client: &mut Client, key, version, body| {
        let mut answer = client.ask(key, version, body);
        if (key, version) != (LIST_OFFSETS, 1) {
            answer.i32();
        }
        assert_eq!((answer.i32(), answer.text().as_str(), answer.i32()), (1, "t", 1));
        answer
    };
    // Each is asked at once: whoever looks at what is durable alone misses records in most of these rounds.
    let mut end = 0;
    for _ in 0..25 {
        for which in [0, 2, 3, 4, 1] {
            let value = batch(&["v"]);
            assert_eq!(produce(&mut client, "t", 1, &value), (0, end));
            end += 1;
            match which {
                0 | 1 => {
                    let time = [-1, 1_700_000_000_000][which];
                    let body = of_partition_0(Out::new().i32(-1)).i64(time);
                    let mut answer = begun(&mut client, LIST_OFFSETS, 1, body);
                    let found = (answer.i32(), answer.i16(), answer.i64(), answer.i64());
                    let first = (0, 0, 1_700_000_000_000, end - 1);
                    assert_eq!(found, [(0, 0, -1, end), first][which]);
                }
                2 => {
                    let fetched = fetch(&mut client, "t", end);
                    assert_eq!(fetched, (0, end, Vec::new()), "behind its own record");
                }
                3 => {
                    let body = of_partition_0(Out::new().i32(-1)).i32(-1).i32(0);
                    let mut answer = begun(&mut client, OFFSET_FOR_LEADER_EPOCH, 3, body);
                    let found = (answer.i16(), answer.i32(), answer.i32(), answer.i64());
                    assert_eq!(found, (0, 0, 0, end));
                }
                _ => {
                    let body = of_partition_0(Out::new()).i64(end).i32(30_000);
                    let mut answer = begun(&mut client, DELETE_RECORDS, 1, body);
                    assert_eq!((answer.i32(), answer.i64(), answer.i16()), (0, end, 0));
                }
            }
        }
    }
}

#[test]
fn a_fetch_waits_for_records_and_returns_when_they_come() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut reader = fixture.client();
    reader.send(&fetch_request("t", 0, (60_000, 1, 1 << 20)).frame(FETCH, 4, 7));
    let mut writer = fixture.client();
    assert_eq!(produce(&mut writer, "t", -1, &batch(&["late"])), (0, 0));
    let (correlation, answer) = reader.receive();
    assert_eq!(correlation, 7);
    let (error, _, batches) = fetched(answer);
    assert_eq!(error, 0);
    assert!(!batches.is_empty());
}

#[test]
fn a_fetch_of_no_partition_holds_nothing_up() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let nothing = Out::new().i32(-1).i32(60_000).i32(1).i32(1 << 20).i8(0).i32(0);
    client.send(&nothing.frame(FETCH, 4, 1));
    client.send(&produce_request("t", 0, -1, &batch(&["behind it"])).frame(PRODUCE, 3, 2));
    // It gives up long before the first one would be answered if that waited.
    let request = fetch_request("t", 0, (20_000, 1, 1 << 20));
    let (error, _, batches) = fetched(fixture.client().ask(FETCH, 4, request));
    assert_eq!(error, 0);
    assert!(!batches.is_empty(), "the request behind it is still waiting");
    assert_eq!([client.receive().0, client.receive().0], [1, 2]);
}

#[test]
fn a_request_for_several_partitions_has_a_result_for_each() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 3);
    let mut client = fixture.client();
    let mut damaged = batch(&["x"]);
    *damaged.last_mut().expect("a byte") ^= 1;
    let mut body = Out::new().null().i16(-1).i32(30_000).i32(1).text("t").i32(4);
    for (partition, records) in [
        (2, batch(&["a", "b"])),
        (0, damaged),
        (7, batch(&["c"])),
        (1, batch(&["d"])),
    ] {
        body = body.i32(partition).bytes(&records);
    }
    let mut answer = client.ask(PRODUCE, 3, body);
    assert_eq!((answer.i32(), answer.text().as_str(), answer.i32()), (1, "t", 4));
    for (partition, error, offset) in [(2, 0, 0), (0, 2, -1), (7, 3, -1), (1, 0, 0)] {
        let result = (answer.i32(), answer.i16(), answer.i64(), answer.i64());
        assert_eq!(result, (partition, error, offset, -1));
    }
    answer.i32();
    answer.end();
    let found = [0, 1, 2].map(|partition| {
        let page = fixture
            .server
            .get(&format!("/v1/topics/t/partitions/{partition}/records?offset=0"));
        page["records"].as_array().map(Vec::len)
    });
    assert_eq!(found, [Some(0), Some(1), Some(2)]);
}

#[test]
fn frames_of_all_sizes_may_follow_one_another() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut frames = Vec::new();
    let sizes = [700_000, 10, 16_300, 16_384, 90_000, 1, 32_768, 65_536, 400_000, 3];
    for (number, size) in sizes.iter().enumerate() {
        let value = number.to_string().repeat(*size);
        frames.extend(produce_request("t", 0, -1, &batch(&[&value])).frame(PRODUCE, 3, number as i32));
    }
    // In pieces whose ends fall anywhere.
    let mut stream = client.stream.try_clone().expect("a socket");
    let sending = std::thread::spawn(move || {
        for piece in frames.chunks(29_989) {
            std::io::Write::write_all(&mut stream, piece).expect("it reads");
        }
    });
    for number in 0..sizes.len() {
        let (correlation, answer) = client.receive();
        assert_eq!(correlation, number as i32);
        assert_eq!(produced(answer), (0, number as i64));
    }
    sending.join().expect("all was sent");
}

#[test]
fn the_first_batch_is_whole_however_small_the_limit() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let sent = batch(&["a", "b", "c"]);
    produce(&mut client, "t", -1, &sent);
    produce(&mut client, "t", -1, &sent);
    for max_bytes in [0, 1, 70] {
        let request = fetch_request("t", 1, (0, 0, max_bytes));
        let (error, _, batches) = fetched(client.ask(FETCH, 4, request));
        assert_eq!((error, batches.len()), (0, sent.len()), "{max_bytes}");
    }
}

#[test]
fn a_topic_that_a_client_asks_for_is_created_and_can_be_used_at_once() {
    let fixture = Fixture::with(&[("QUIPU_KAFKA_PARTITIONS", "3")]);
    let mut client = fixture.client();
    let ask = |client: &mut Client, name: &str, creates: i8| {
        let mut answer = client.ask(METADATA, 4, Out::new().i32(1).text(name).i8(creates));
        answer.i32();
        assert_eq!((answer.i32(), answer.i32()), (1, 0), "one broker, of id 0");
        let address = (answer.text(), answer.i32() as u16, answer.i16());
        assert_eq!(address, ("127.0.0.1".to_owned(), fixture.kafka.port(), -1));
        assert_eq!(answer.text().len(), 16, "the cluster's id");
        assert_eq!((answer.i32(), answer.i32()), (0, 1), "controller, topics");
        let error = answer.i16();
        assert_eq!(answer.text(), name);
        answer.i8();
        (error, answer.i32())
    };
    assert_eq!(ask(&mut client, "new", 0), (3, 0));
    assert_eq!(ask(&mut client, "new", 1), (0, 3));
    assert_eq!(produce(&mut client, "new", -1, &batch(&["x"])), (0, 0));
    assert_eq!(ask(&mut client, "not a name", 1), (17, 0));
    let fixture = Fixture::with(&[("QUIPU_KAFKA_AUTO_CREATE", "off")]);
    let mut answer = fixture
        .client()
        .ask(METADATA, 4, Out::new().i32(1).text("new").i8(1));
    answer.i32();
    answer.bytes(8 + 2 + 9 + 4 + 2 + 2 + 16 + 4 + 4);
    assert_eq!(answer.i16(), 3);
}

#[test]
fn the_address_that_clients_are_told_can_be_set() {
    let fixture = Fixture::with(&[("QUIPU_KAFKA_ADVERTISE", "log.example.org:19092")]);
    let mut answer = fixture.client().ask(METADATA, 1, Out::new().i32(0));
    assert_eq!((answer.i32(), answer.i32()), (1, 0));
    assert_eq!((answer.text().as_str(), answer.i32()), ("log.example.org", 19092));
}

#[test]
fn offsets_are_found_by_time() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let list = |client: &mut Client, version: i16, timestamp: i64| {
        let head = if version >= 2 {
            Out::new().i32(-1).i8(0)
        } else {
            Out::new().i32(-1)
        };
        let body = head.i32(1).text("t").i32(1).i32(0);
        let body = if version >= 4 { body.i32(-1) } else { body };
        let mut answer = client.ask(LIST_OFFSETS, version, body.i64(timestamp));
        if version >= 2 {
            answer.i32();
        }
        answer.i32();
        answer.text();
        answer.i32();
        answer.i32();
        (answer.i16(), answer.i64(), answer.i64())
    };
    for time in [-1, -2] {
        assert_eq!(list(&mut client, 1, time), (0, -1, 0), "{time} on empty");
    }
    assert_eq!(list(&mut client, 1, 5), (0, -1, -1));
    assert_eq!(list(&mut client, 1, -7).0, 35);
    assert_eq!(list(&mut client, 5, -4).0, 35, "not before version 8");
    let mut builder = BatchBuilder::new();
    for time in [10, 40, 20, 30] {
        builder.push(TimestampMs(time), None, Some(b"v"), &[]);
    }
    assert_eq!(produce(&mut client, "t", -1, builder.seal().as_bytes()), (0, 0));
    assert_eq!(list(&mut client, 1, -1), (0, -1, 4));
    assert_eq!(
        list(&mut client, 1, 15),
        (0, 40, 1),
        "the first record that is not earlier"
    );
    assert_eq!(list(&mut client, 1, 41), (0, -1, -1));
}

#[test]
fn api_versions_answers_what_is_too_new_with_version_0() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for version in [6, 99, i16::MAX, -1] {
        let mut answer = client.ask(API_VERSIONS, version, Out::new().raw(&[0]));
        assert_eq!((answer.i16(), answer.i32()), (35, 1), "{version}");
        assert_eq!((answer.i16(), answer.i16(), answer.i16()), (18, 0, 5));
        answer.end();
    }
    let mut answer = client.ask(API_VERSIONS, 0, Out::new());
    assert_eq!(answer.i16(), 0);
    let count = answer.i32();
    let first = (answer.i16(), answer.i16(), answer.i16());
    assert_eq!(
        first,
        (0, 0, 13),
        "librdkafka compresses only if Produce 0 is there"
    );
    assert!(count >= 10);
}

#[test]
fn a_stop_ends_waiting_fetches_with_an_answer() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut reader = fixture.client();
    reader.send(&fetch_request("t", 0, (60_000, 1, 1 << 20)).frame(FETCH, 4, 7));
    // The server has the request: what it has begun is answered.
    let is_begun = || {
        fixture
            .metric("quipu_kafka_requests_total{api=\"Fetch\"}")
            .ends_with(" 1")
    };
    failures::wait_until(is_begun, || fixture.server.log());
    fixture.server.stop();
    let (correlation, answer) = reader.receive();
    assert_eq!((correlation, fetched(answer)), (7, (0, 0, Vec::new())));
    reader.is_closed();
}

#[test]
fn how_long_requests_take_is_counted_by_api() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    client.ask(API_VERSIONS, 0, Out::new());
    client.ask(FETCH, 4, fetch_request("t", 0, (200, 1, 1 << 20)));
    let value = |name: &str| {
        let line = fixture.metric(&format!("quipu_kafka_request_duration_seconds{name}"));
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        value
    };
    assert_eq!(value("_count{api=\"ApiVersions\"}"), 1.0);
    assert_eq!(value("_count{api=\"Fetch\"}"), 1.0);
    assert_eq!(
        value("_bucket{api=\"Fetch\",le=\"0.1\"}"),
        0.0,
        "it has waited for records"
    );
    assert!(value("_sum{api=\"Fetch\"}") >= 0.2);
}

#[test]
fn nobody_who_has_not_signed_in_does_anything() {
    let settings = [
        ("QUIPU_AUTH", "tokens"),
        ("QUIPU_ADMIN_TOKEN", "the-first-administrators-token"),
    ];
    let fixture = Fixture::with(&settings);
    let mut client = fixture.client();
    client.ask(API_VERSIONS, 0, Out::new());
    client.send(&Out::new().i32(0).frame(METADATA, 0, 1));
    client.is_closed();
    for (key, version) in [(0, 3), (1, 4), (2, 1), (8, 2), (9, 1), (10, 0), (22, 0), (23, 2)] {
        let mut client = fixture.client();
        client.send(&Out::new().raw(&[0; 64]).frame(key, version, 1));
        client.is_closed();
    }
}

#[test]
fn what_a_client_sends_behind_a_call_that_waits_is_done_though_it_closes_the_connection() {
    let fixture = Fixture::new();
    for name in ["empty", "t"] {
        fixture.server.create_topic(name, 1);
    }
    let waiting = || fetch_request("empty", 0, (60_000, 1, 1 << 20));
    let sends = |acks: i16, value: &str| produce_request("t", 0, acks, &batch(&[value])).frame(PRODUCE, 3, 2);
    let mut reader = fixture.client();
    let mut end = 0;
    for acks in [-1, 1, 0] {
        for half in [true, false] {
            let mut client = fixture.client();
            let mut frames = waiting().frame(FETCH, 4, 1);
            frames.extend(sends(acks, "first"));
            frames.extend(waiting().frame(FETCH, 4, 3));
            frames.extend(sends(acks, "second"));
            // Of a request that is not whole, nothing is done.
            frames.extend(&sends(acks, "half")[..40]);
            client.send(&frames);
            if half {
                client.stream.shutdown(Shutdown::Write).expect("it is open");
                client.is_closed();
            }
            drop(client);
            for _ in 0..2 {
                let ask = fetch_request("t", end, (60_000, 1, 1));
                let (error, _, batches) = fetched(reader.ask(FETCH, 4, ask));
                assert!(error == 0 && !batches.is_empty(), "acks {acks}, half {half}");
                end += 1;
            }
        }
    }
    assert_eq!(fetch(&mut reader, "t", end), (0, end, Vec::new()));
}

#[test]
fn a_client_that_sends_no_more_still_gets_the_answers_of_calls_that_wait_for_nobody() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let mut frames = Out::new().i32(1).text("new").i8(1).frame(METADATA, 4, 1);
    frames.extend(produce_request("new", 0, -1, &batch(&["a"])).frame(PRODUCE, 3, 2));
    frames.extend(Out::new().frame(API_VERSIONS, 0, 3));
    client.send(&frames);
    client.stream.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(client.receive().0, 1);
    let (correlation, answer) = client.receive();
    assert_eq!((correlation, produced(answer)), (2, (0, 0)));
    assert_eq!(client.receive().0, 3);
    client.is_closed();
}
