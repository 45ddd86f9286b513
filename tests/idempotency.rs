//! Idempotent retries: the header `Idempotency-Key`, and the sequences of producers in record batches. Over the router with a clock that
//! the tests move, and over the real binary with `kill -9`.
#![allow(
    clippy::disallowed_methods,
    reason = "a test of the real binary lives in the real world"
)]

mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use quipu::app::App;
use quipu::config::Config;
use quipu_segments::batch::{BatchBuilder, BatchHeader, SealedBatch};
use quipu_segments::{Clock, Error, Log, Monotonic, RealDisk, TimestampMs};
use serde_json::{Value, json};
use support::{PATIENCE, Rng, Server, read_partition};
use tower::ServiceExt as _;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const EVENT: &str = "application/cloudevents+json";
const EVENTS: &str = "application/cloudevents-batch+json";
const BATCH: &str = "application/vnd.apache.kafka.record-batch";
const RECORDS: &str = "/v1/topics/t/records";
const TO_PARTITION: &str = "/v1/topics/t/partitions/1/records";
const NOW: i64 = 1_700_000_000_000;
/// Lines that make a unit of NDJSON.
const UNIT_LINES: usize = 10_000;

/// The clock of service and log, which stands still until a test moves it.
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        let passed = self.0.load(Ordering::SeqCst) - NOW;
        Monotonic(Duration::from_millis(passed.unsigned_abs()))
    }
}

struct Service {
    app: App,
    router: Router,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Service {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    /// With a topic `t` of four partitions.
    async fn with(mut config: Config) -> Self {
        config.journal_file_bytes = 8 << 20;
        config.limits.max_request_bytes = 4 << 20;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(ManualClock(AtomicI64::new(NOW)));
        let service = Self::over(dir, config, clock);
        service.topic("t", 4).await;
        service
    }

    fn over(dir: tempfile::TempDir, config: Config, clock: Arc<ManualClock>) -> Self {
        let begin = std::time::Instant::now();
        let log = loop {
            let disk = Arc::new(RealDisk::new());
            match Log::open_with(disk, clock.clone(), dir.path(), config.log_options()) {
                Ok(log) => break log,
                // A process that another test is starting has the lock of the log before, until it becomes another program.
                Err(Error::Directory(what)) if begin.elapsed() < PATIENCE => {
                    assert!(what.contains("in use"), "{what}");
                    std::thread::yield_now();
                }
                Err(error) => panic!("the log does not open: {error}"),
            }
        };
        let app = App::new(log, config, clock.clone());
        Self {
            router: quipu::http::router(app.clone()),
            app,
            clock,
            dir,
        }
    }

    fn restart(self) -> Self {
        let Self {
            app,
            router,
            clock,
            dir,
        } = self;
        app.log.close().expect("nothing is wrong with it");
        let config = app.config.clone();
        drop((app, router));
        Self::over(dir, config, clock)
    }

    fn pass(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).expect("not so long");
        self.clock.0.fetch_add(millis, Ordering::SeqCst);
    }

    async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router does not fail");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    async fn topic(&self, name: &str, partitions: u32) {
        let spec = json!({"partitions": partitions}).to_string();
        let answer = self
            .send(Method::PUT, &format!("/v1/topics/{name}"), &[], spec)
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    async fn configure(&self, change: Value) {
        let answer = self
            .send(Method::PATCH, "/v1/topics/t", &[], change.to_string())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    async fn post(&self, request: &Sent) -> Answer {
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        self.send(Method::POST, &request.uri, &headers, request.body.clone())
            .await
    }

    /// How many records there are in all partitions.
    async fn count(&self, topic: &str) -> u64 {
        let about = self
            .send(Method::GET, &format!("/v1/topics/{topic}"), &[], "")
            .await;
        let partitions = about.body["partitions"].as_array().expect("partitions");
        partitions
            .iter()
            .map(|partition| partition["end_offset"].as_u64().expect("an offset"))
            .sum()
    }

    /// Waits until there are so many: what was acknowledged as written is readable a moment later.
    async fn await_count(&self, expected: u64) {
        let begin = std::time::Instant::now();
        while self.count("t").await < expected {
            assert!(begin.elapsed() < PATIENCE, "there never are {expected} records");
            tokio::task::yield_now().await;
        }
        assert_eq!(self.count("t").await, expected);
    }

    async fn metric(&self, name: &str) -> u64 {
        let request = Request::get("/metrics").body(Body::empty()).expect("a request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router does not fail");
        let text = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(text.to_vec()).expect("text");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} is not in {text}"))
            .parse()
            .expect("a number")
    }
}

impl Answer {
    #[track_caller]
    fn appended(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.headers.get("idempotency-replayed"), None);
        &self.body
    }

    #[track_caller]
    fn replayed(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.headers["idempotency-replayed"], "true");
        &self.body
    }

    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!(
            (self.status, &self.body["code"]),
            (status, &code.into()),
            "{}",
            self.body
        );
        &self.body
    }
}

/// A produce request.
#[derive(Clone)]
struct Sent {
    uri: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn sent(uri: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Sent {
    let sent = Sent {
        uri: uri.to_owned(),
        headers: Vec::new(),
        body: body.into(),
    };
    if content_type.is_empty() {
        sent
    } else {
        sent.with("content-type", content_type)
    }
}

impl Sent {
    /// With another value of a header.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn key(self, key: &str) -> Self {
        self.with("idempotency-key", key)
    }

    fn to(mut self, uri: &str) -> Self {
        self.uri = uri.to_owned();
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

fn json_records() -> Sent {
    let records: Vec<Value> = (0..20)
        .map(|n| {
            if n % 2 == 0 {
                json!({"key": format!("k{n}"), "value": n})
            } else {
                json!({"value": n})
            }
        })
        .collect();
    sent(RECORDS, JSON, json!({"records": records}).to_string())
}

fn lines(count: usize) -> Vec<u8> {
    let line = |n: usize| match n % 3 {
        0 => format!("{{\"value\":{n}}}\n"),
        _ => format!("{{\"key\":\"k{n}\",\"value\":{n}}}\n"),
    };
    (0..count).map(line).collect::<String>().into_bytes()
}

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "partitionkey": id, "data": 1})
}

fn binary_event() -> Sent {
    sent(RECORDS, "text/plain", "hello")
        .with("ce-specversion", "1.0")
        .with("ce-id", "1")
        .with("ce-source", "/s")
        .with("ce-type", "t")
}

fn batch(values: &[&str]) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(TimestampMs(NOW), None, Some(value.as_bytes()), &[]);
    }
    builder.seal()
}

/// A batch as an idempotent producer sends it.
fn of_producer(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> Sent {
    let mut bytes = batch(values).as_bytes().to_vec();
    let mut header = BatchHeader::peek(&bytes).expect("a header");
    header.producer_id.0 = producer;
    header.producer_epoch = epoch;
    header.base_sequence = sequence;
    header.encode(bytes.first_chunk_mut().expect("a header"));
    header.crc = crc32c(&bytes[21..]);
    header.encode(bytes.first_chunk_mut().expect("a header"));
    sent(TO_PARTITION, BATCH, bytes)
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// A request of each kind, and how many records it has.
fn kinds() -> Vec<(&'static str, Sent, u64)> {
    vec![
        ("json", json_records(), 20),
        ("ndjson", sent(RECORDS, NDJSON, lines(30)), 30),
        (
            "ndjson of three units",
            sent(RECORDS, NDJSON, lines(2 * UNIT_LINES + 5)),
            2 * UNIT_LINES as u64 + 5,
        ),
        ("raw", sent(RECORDS, "text/plain", "hello"), 1),
        (
            "raw without a type",
            sent(&format!("{RECORDS}?key=a"), "", "hello"),
            1,
        ),
        (
            "raw, large",
            sent(RECORDS, "text/plain", vec![b'x'; 400 << 10]),
            1,
        ),
        ("structured", sent(RECORDS, EVENT, event("1").to_string()), 1),
        (
            "batched",
            sent(
                RECORDS,
                EVENTS,
                json!([event("1"), event("2"), event("3")]).to_string(),
            ),
            3,
        ),
        ("binary", binary_event(), 1),
        (
            "batch",
            sent(
                TO_PARTITION,
                BATCH,
                [batch(&["1", "2"]).as_bytes(), batch(&["3"]).as_bytes()].concat(),
            ),
            3,
        ),
        (
            "written",
            json_records().to(&format!("{RECORDS}?ack=written")),
            20,
        ),
    ]
}

#[tokio::test]
async fn every_kind_of_request_is_appended_once_and_answered_as_the_first_time_over_restarts() {
    let mut service = Service::start().await;
    let mut first = Vec::new();
    for (name, request, records) in kinds() {
        let before = service.count("t").await;
        let answer = service
            .post(&request.clone().key(name.replace([' ', ','], "-").as_str()))
            .await;
        first.push(answer.appended().clone());
        service.await_count(before + records).await;
    }
    let total = service.count("t").await;
    for round in 0..3 {
        for ((name, request, _), first) in kinds().into_iter().zip(&first) {
            let answer = service
                .post(&request.key(name.replace([' ', ','], "-").as_str()))
                .await;
            assert_eq!(answer.replayed(), first, "{name} in round {round}");
        }
        assert_eq!(service.count("t").await, total);
        if round == 0 {
            // Where records would go now is not where they went; what is allowed now is not what was.
            service
                .configure(json!({"partitions": 11, "config": {"max_record_bytes": 3}}))
                .await;
        }
        if round == 1 {
            service = service.restart();
        }
    }
    let units = service.metric("quipu_replayed_requests_total").await;
    assert_eq!(
        units,
        kinds().len() as u64 + 2,
        "one round since the restart, and the units of a stream one by one"
    );
    assert_eq!(
        service.metric("quipu_idempotency_keys").await,
        kinds().len() as u64 + 2
    );
    assert!(service.metric("quipu_idempotency_key_bytes").await > 0);
    assert_eq!(
        service.metric("quipu_produced_records_total").await,
        0,
        "what is replayed is not produced"
    );
}

#[tokio::test]
async fn requests_without_a_key_and_with_other_keys_are_appended_each_time() {
    let service = Service::start().await;
    for key in ["", "", "a", "b", "A", "!", "~", &"x".repeat(255)] {
        let request = json_records();
        let request = if key.is_empty() { request } else { request.key(key) };
        service.post(&request).await.appended();
    }
    assert_eq!(service.count("t").await, 8 * 20);
}

#[tokio::test]
async fn a_key_is_1_to_255_characters_of_visible_ascii_and_given_once() {
    let service = Service::start().await;
    for (_, request, _) in kinds() {
        for key in ["", "a b", "\u{e9}", &"x".repeat(256), "a\tb"] {
            let answer = service.post(&request.clone().key(key)).await;
            assert_eq!(
                answer.problem(400, "invalid-request")["pointer"],
                "idempotency-key",
                "{key:?}"
            );
        }
        let mut twice = request.key("a");
        twice.headers.push(("idempotency-key".to_owned(), "a".to_owned()));
        let answer = service.post(&twice).await;
        assert_eq!(
            answer.problem(400, "invalid-request")["pointer"],
            "idempotency-key"
        );
    }
    assert_eq!(service.count("t").await, 0);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused_in_whatever_it_differs() {
    let service = Service::start().await;
    for (name, request, records) in kinds() {
        let key = name.replace([' ', ','], "-");
        let request = request.key(&key);
        let before = service.count("t").await + records;
        service.post(&request).await.appended();
        service.await_count(before).await;
        let separator = if request.uri.contains('?') { '&' } else { '?' };
        let mut others = vec![
            request.clone().to(&format!(
                "{}{separator}ack=durable",
                request.uri.replace("?ack=written", "?repartition=false")
            )),
            request
                .clone()
                .to(&format!("{}{separator}expected_offset=0", request.uri)),
        ];
        match &request.headers.iter().find(|(name, _)| name == "content-type") {
            Some((_, content_type)) => {
                others.push(
                    request
                        .clone()
                        .with("content-type", &format!("{content_type}; x=1")),
                );
            }
            None => others.push(request.clone().with("content-type", "text/plain")),
        }
        match name {
            "json" | "structured" | "batched" | "written" | "ndjson" => {
                let mut body = request.body.clone();
                body.push(b' ');
                others.push(request.clone().body(body));
            }
            "batch" => {
                others.push(request.clone().body(batch(&["1", "2"]).as_bytes()));
                others.push(request.clone().to("/v1/topics/t/partitions/2/records"));
            }
            "ndjson of three units" => {
                let mut body = request.body.clone();
                body[9] = b'9';
                others.push(request.clone().body(body));
            }
            _ => others.push(request.clone().body(&request.body[1..])),
        }
        if name == "binary" {
            others.push(request.clone().with("ce-id", "2"));
            others.push(request.clone().with("ce-more", ""));
        }
        // The same key for another kind of request.
        others.push(sent(RECORDS, "application/other", "x").key(&key));
        others.push(sent(RECORDS, NDJSON, "{\"value\":0}").key(&key));
        for (index, other) in others.iter().enumerate() {
            let answer = service.post(other).await;
            let problem = answer.problem(422, "idempotency-key-reused");
            assert_eq!(problem["retryable"], false, "{name} {index}");
            assert_eq!(problem["outcome"], "none", "{name} {index}");
        }
        assert_eq!(service.count("t").await, before, "{name}");
        service.post(&request).await.replayed();
    }
}

#[tokio::test]
async fn what_a_request_says_is_the_same_however_it_is_written() {
    let service = Service::start().await;
    let request = sent(
        &format!("{RECORDS}?key=a%20b&partition=2&ack=durable"),
        "text/plain",
        "hello",
    )
    .key("k");
    let first = service.post(&request).await.appended().clone();
    for uri in [
        "?ack=durable&partition=2&key=a+b",
        "?%6bey=%61%20b&partition=2&ack=durable",
        "?key=a%20b&partition=2&ack=durable&",
    ] {
        let again = request.clone().to(&format!("{RECORDS}{uri}"));
        assert_eq!(service.post(&again).await.replayed(), &first, "{uri}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").unwrap();
    let gzip = request
        .clone()
        .body(gzip.finish().unwrap())
        .with("content-encoding", "gzip");
    assert_eq!(service.post(&gzip).await.replayed(), &first);
    let traced = request.with("traceparent", "00-ab-cd-01").with("user-agent", "x");
    assert_eq!(service.post(&traced).await.replayed(), &first);
    assert_eq!(service.count("t").await, 1);
}

#[tokio::test]
async fn a_key_is_the_topics_also_where_a_topic_of_the_same_name_is_made_again() {
    let service = Service::start().await;
    service.topic("other", 4).await;
    let request = json_records().key("k");
    service.post(&request).await.appended();
    service
        .post(&request.clone().to("/v1/topics/other/records"))
        .await
        .appended();
    service
        .post(&request.clone().to("/v1/topics/other/records").body("{}"))
        .await
        .problem(422, "idempotency-key-reused");
    assert_eq!(
        service.send(Method::DELETE, "/v1/topics/t", &[], "").await.status,
        204
    );
    service.post(&request).await.problem(404, "unknown-topic");
    service.topic("t", 4).await;
    service.post(&request).await.appended();
    service.post(&request).await.replayed();
    assert_eq!(service.count("t").await, 20);
}

#[tokio::test]
async fn a_key_is_remembered_for_the_window_of_its_topic_and_no_longer() {
    let service = Service::start().await;
    let request = json_records().key("k");
    service.post(&request).await.appended();
    service.pass(Duration::from_millis(599_999));
    service.post(&request).await.replayed();
    service.pass(Duration::from_millis(1));
    service.post(&request).await.appended();
    // The window begins with what was appended.
    service.pass(Duration::from_secs(599));
    service.post(&request).await.replayed();
    service
        .configure(json!({"config": {"dedupe_window_ms": 1000}}))
        .await;
    let brief = json_records().key("brief");
    service.post(&brief).await.appended();
    service.pass(Duration::from_millis(999));
    service.post(&brief).await.replayed();
    service.pass(Duration::from_millis(1));
    service
        .post(&brief.clone().body(r#"{"records":[{}]}"#))
        .await
        .appended();
    let service = service.restart();
    service.pass(Duration::from_secs(2));
    service.post(&brief).await.appended();
}

#[tokio::test]
async fn only_what_was_appended_is_remembered() {
    let service = Service::start().await;
    let conditional = |offset: u64| {
        sent(
            &format!("{RECORDS}?partition=1&expected_offset={offset}"),
            "text/plain",
            "x",
        )
        .key("k")
    };
    service
        .post(&conditional(1))
        .await
        .problem(412, "offset-mismatch");
    service
        .post(&sent(RECORDS, JSON, "{\"records\":[").key("k"))
        .await
        .problem(400, "invalid-request");
    service
        .post(&sent(RECORDS, NDJSON, "nonsense").key("k"))
        .await
        .problem(400, "invalid-request");
    service
        .post(&sent(RECORDS, BATCH, "x").key("k"))
        .await
        .problem(415, "unsupported-media-type");
    service
        .post(&sent(TO_PARTITION, BATCH, "x").key("k"))
        .await
        .problem(400, "invalid-request");
    service
        .post(&binary_event().with("ce-id", "").key("k"))
        .await
        .problem(400, "invalid-request");
    service
        .post(&sent(RECORDS, "a/b", vec![b'x'; 2 << 20]).key("k"))
        .await
        .problem(413, "record-too-large");
    service
        .post(&sent("/v1/topics/none/records", JSON, "{}").key("k"))
        .await
        .problem(404, "unknown-topic");
    let first = service.post(&conditional(0)).await.appended().clone();
    // Repeated, the condition is that of then.
    assert_eq!(service.post(&conditional(0)).await.replayed(), &first);
    service
        .post(&conditional(1))
        .await
        .problem(422, "idempotency-key-reused");
    service
        .post(&conditional(0).key("other"))
        .await
        .problem(412, "offset-mismatch");
    assert_eq!(service.count("t").await, 1);
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_append() {
    let service = Service::start().await;
    for (name, request, records) in kinds() {
        let before = service.count("t").await;
        let request = request.key(name.replace([' ', ','], "-").as_str());
        let all = join_all((0..32).map(|_| service.post(&request))).await;
        for answer in &all {
            assert_eq!((answer.status, &answer.body), (200, &all[0].body), "{name}");
        }
        service.await_count(before + records).await;
        if !name.contains("units") {
            let new = all
                .iter()
                .filter(|answer| !answer.headers.contains_key("idempotency-replayed"));
            assert_eq!(new.count(), 1, "{name}");
        }
        let other = request.clone().body([&request.body[..], b" "].concat());
        if name == "json" {
            let answers = join_all(
                [&request.clone().key("new"), &other.key("new")].map(|request| service.post(request)),
            )
            .await;
            let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 422], "one of them is first");
        }
    }
}

#[tokio::test]
async fn a_stream_that_was_cut_off_is_completed_by_its_retry() {
    let service = Service::start().await;
    let body = lines(3 * UNIT_LINES + 10);
    let ends: Vec<usize> = body
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .collect();
    // Breaks in the middle of the third unit: two are in.
    let cut = ends[2 * UNIT_LINES + 100] + 3;
    let broken = futures_util::stream::iter([Ok(body[..cut].to_vec()), Err(std::io::Error::other("gone"))]);
    let headers = [("content-type", NDJSON), ("idempotency-key", "k")];
    let answer = service
        .send(Method::POST, RECORDS, &headers, Body::from_stream(broken))
        .await;
    assert_eq!(answer.problem(408, "request-timeout")["accepted"], 2 * UNIT_LINES);
    assert_eq!(service.count("t").await, 2 * UNIT_LINES as u64);
    let whole = sent(RECORDS, NDJSON, body).key("k");
    let answer = service.post(&whole).await;
    let total = 3 * UNIT_LINES as u64 + 10;
    assert_eq!(answer.appended()["records"], total, "not all of it was there");
    assert_eq!(service.count("t").await, total);
    let again = service.post(&whole).await;
    assert_eq!(again.replayed(), &answer.body);
    // What was appended is what was sent, in its order.
    let sum: u64 = answer.body["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["records"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, total);
    // Another stream whose first unit agrees is refused where it differs, and keeps what agrees.
    let longer = sent(RECORDS, NDJSON, lines(4 * UNIT_LINES)).key("k");
    let problem = service.post(&longer).await;
    assert_eq!(
        problem.problem(422, "idempotency-key-reused")["accepted"],
        3 * UNIT_LINES
    );
    assert_eq!(service.count("t").await, total);
}

#[tokio::test]
async fn a_condition_of_a_stream_holds_for_what_its_retry_still_appends() {
    let service = Service::start().await;
    service.topic("one", 1).await;
    let uri = |offset: u64| format!("/v1/topics/one/records?expected_offset={offset}");
    let start = service.post(&sent(&uri(0), NDJSON, lines(5))).await;
    start.appended();
    let body = lines(2 * UNIT_LINES + 7);
    let at_line = |line: usize| {
        body.iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(line)
            .unwrap()
            .0
    };
    let headers = [("content-type", NDJSON), ("idempotency-key", "k")];
    let broken = || {
        let pieces = [
            Ok(body[..at_line(UNIT_LINES + 100)].to_vec()),
            Err(std::io::Error::other("gone")),
        ];
        Body::from_stream(futures_util::stream::iter(pieces))
    };
    let answer = service.send(Method::POST, &uri(5), &headers, broken()).await;
    assert_eq!(answer.problem(408, "request-timeout")["accepted"], UNIT_LINES);
    let retry = sent(&uri(5), NDJSON, body.clone()).key("k");
    let answer = service.post(&retry).await;
    let total = body.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(
        answer.appended(),
        &json!({"records": total, "partitions": [{"partition": 0, "first_offset": 5, "last_offset": 4 + total, "records": total}]})
    );
    service.post(&retry).await.replayed();
    // Where another writer came between the two tries, the rest is not appended behind it.
    let next = 5 + total;
    let headers = [("content-type", NDJSON), ("idempotency-key", "second")];
    let answer = service.send(Method::POST, &uri(next), &headers, broken()).await;
    assert_eq!(answer.problem(408, "request-timeout")["accepted"], UNIT_LINES);
    service
        .post(&sent("/v1/topics/one/records", NDJSON, lines(1)))
        .await
        .appended();
    let retry = sent(&uri(next), NDJSON, body.clone()).key("second");
    let answer = service.post(&retry).await;
    let problem = answer.problem(412, "offset-mismatch");
    assert_eq!(
        (&problem["accepted"], &problem["outcome"]),
        (&UNIT_LINES.into(), &"partial".into())
    );
}

#[tokio::test]
async fn a_wrong_line_is_named_again_and_what_is_before_it_is_there_once() {
    let service = Service::start().await;
    let mut body = lines(UNIT_LINES + 20);
    body.extend_from_slice(b"nonsense\n{}\n");
    let request = sent(RECORDS, NDJSON, body).key("k");
    for _ in 0..2 {
        let answer = service.post(&request).await;
        let problem = answer.problem(400, "invalid-request");
        assert_eq!(
            (&problem["line"], &problem["accepted"]),
            (&(UNIT_LINES + 21).into(), &(UNIT_LINES + 20).into())
        );
        assert_eq!(service.count("t").await, UNIT_LINES as u64 + 20);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_allowed_any_more_is_passed_over_where_it_is_in_and_ends_where_it_is_not() {
    let service = Service::start().await;
    let body = lines(UNIT_LINES + 20);
    let first = [b"{\"value\":\"first\"}\n", &body[..]].concat();
    service
        .post(&sent(RECORDS, NDJSON, first.clone()).key("k"))
        .await
        .appended();
    service
        .configure(json!({"config": {"max_record_bytes": 6}}))
        .await;
    service
        .post(&sent(RECORDS, NDJSON, first.clone()).key("k"))
        .await
        .replayed();
    let total = UNIT_LINES + 21;
    let longer = [&first[..], &lines(UNIT_LINES)].concat();
    let answer = service.post(&sent(RECORDS, NDJSON, longer).key("k")).await;
    assert_eq!(
        answer.problem(422, "idempotency-key-reused")["accepted"],
        UNIT_LINES
    );
    let answer = service.post(&sent(RECORDS, NDJSON, first).key("new")).await;
    let problem = answer.problem(413, "record-too-large");
    assert_eq!((&problem["line"], &problem["accepted"]), (&1.into(), &0.into()));
    assert_eq!(service.count("t").await, total as u64);
}

#[tokio::test]
async fn at_the_bound_new_keys_are_refused_and_nothing_that_is_promised_is_forgotten() {
    let config = Config {
        max_idempotency_bytes: 16 << 10,
        ..Config::default()
    };
    let service = Service::with(config).await;
    let request = |n: u32| json_records().key(&format!("key-{n}"));
    let mut taken = 0;
    let refused = loop {
        let answer = service.post(&request(taken)).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "there is no bound");
    };
    let problem = refused.problem(503, "overloaded");
    assert!(
        problem["detail"].as_str().unwrap().contains("dedupe_window_ms"),
        "{problem}"
    );
    let retry_after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((600..=602).contains(&retry_after), "{retry_after}");
    assert!(taken > 10);
    let stream = service.post(&sent(RECORDS, NDJSON, lines(5)).key("stream")).await;
    assert_eq!(stream.problem(503, "overloaded")["accepted"], 0);
    assert_eq!(service.count("t").await, u64::from(taken) * 20);
    for n in 0..taken {
        service.post(&request(n)).await.replayed();
    }
    service.post(&json_records()).await.appended();
    assert!(service.metric("quipu_idempotency_key_bytes").await <= 16 << 10);
    service.pass(Duration::from_secs(retry_after));
    service.post(&request(taken)).await.appended();
}

#[tokio::test]
async fn a_producers_batches_are_appended_once_and_in_its_order() {
    let mut service = Service::start().await;
    let offsets = |first: u64, last: u64| json!({"first_offset": first, "last_offset": last, "records": last - first + 1});
    let first = of_producer(7, 0, 0, &["a", "b"]);
    let second = of_producer(7, 0, 2, &["c"]);
    assert_eq!(service.post(&first).await.appended(), &offsets(0, 1));
    assert_eq!(
        service.post(&of_producer(8, 0, 0, &["x"])).await.appended(),
        &offsets(2, 2),
        "each has its own sequence"
    );
    assert_eq!(service.post(&second).await.appended(), &offsets(3, 3));
    for _ in 0..2 {
        assert_eq!(service.post(&first).await.replayed(), &offsets(0, 1));
        assert_eq!(service.post(&second).await.replayed(), &offsets(3, 3));
        service
            .post(&of_producer(7, 0, 4, &["e"]))
            .await
            .problem(409, "out-of-order-sequence");
        service = service.restart();
    }
    assert_eq!(
        service.post(&of_producer(7, 1, 0, &["d"])).await.appended(),
        &offsets(4, 4)
    );
    service
        .post(&of_producer(7, 0, 3, &["late"]))
        .await
        .problem(409, "fenced");
    let body = [&first.body[..], &second.body].concat();
    service
        .post(&sent(TO_PARTITION, BATCH, body))
        .await
        .problem(400, "invalid-request");
    let body = [batch(&["1"]).as_bytes(), &of_producer(9, 0, 0, &["x"]).body].concat();
    service
        .post(&sent(TO_PARTITION, BATCH, body))
        .await
        .problem(400, "invalid-request");
    assert_eq!(service.count("t").await, 5);
    assert_eq!(service.metric("quipu_replayed_requests_total").await, 0);
    let both = of_producer(9, 0, 0, &["x", "y"]).key("k");
    assert_eq!(service.post(&both).await.appended(), &offsets(5, 6));
    assert_eq!(service.post(&both).await.replayed(), &offsets(5, 6));
}

#[tokio::test]
async fn a_conditional_stream_goes_on_in_the_partition_of_its_first_try() {
    let service = Service::start().await;
    let line = |n: usize| format!("{{\"value\":{n}}}\n");
    let all: String = (0..2 * UNIT_LINES + 7).map(line).collect();
    let one: String = (0..UNIT_LINES + 3).map(line).collect();
    let uri = format!("{RECORDS}?expected_offset=0");
    let headers = [("content-type", NDJSON), ("idempotency-key", "k")];
    let pieces = [Ok(one.into_bytes()), Err(std::io::Error::other("gone"))];
    let broken = Body::from_stream(futures_util::stream::iter(pieces));
    let answer = service.send(Method::POST, &uri, &headers, broken).await;
    assert_eq!(answer.problem(408, "request-timeout")["accepted"], UNIT_LINES);
    let whole = sent(&uri, NDJSON, all).key("k");
    let answer = service.post(&whole).await;
    let partitions = answer.appended()["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 1, "{partitions:?}");
    assert_eq!(partitions[0]["last_offset"], 2 * UNIT_LINES + 6);
    assert_eq!(service.post(&whole).await.replayed(), &answer.body);
}

#[tokio::test]
async fn a_conditional_stream_does_not_go_on_in_another_partition_where_partitions_were_added() {
    let service = Service::start().await;
    // A key whose partition of four is another one than of five.
    let line = |n: usize| format!("{{\"key\":\"k1\",\"value\":{n}}}\n");
    let all: String = (0..2 * UNIT_LINES + 7).map(line).collect();
    let one: String = (0..UNIT_LINES + 3).map(line).collect();
    let uri = format!("{RECORDS}?expected_offset=0");
    let headers = [("content-type", NDJSON), ("idempotency-key", "k")];
    let pieces = [Ok(one.into_bytes()), Err(std::io::Error::other("gone"))];
    let broken = Body::from_stream(futures_util::stream::iter(pieces));
    let answer = service.send(Method::POST, &uri, &headers, broken).await;
    assert_eq!(answer.problem(408, "request-timeout")["accepted"], UNIT_LINES);
    service.configure(json!({"partitions": 5})).await;
    // The other partition is as long as the condition wants.
    let fill: String = (0..UNIT_LINES).map(line).collect();
    service.post(&sent(RECORDS, NDJSON, fill)).await.appended();
    let answer = service.post(&sent(&uri, NDJSON, all).key("k")).await;
    let problem = answer.problem(400, "invalid-request");
    assert_eq!(
        (&problem["pointer"], &problem["accepted"]),
        (&"expected_offset".into(), &UNIT_LINES.into())
    );
    assert_eq!(service.count("t").await, 2 * UNIT_LINES as u64);
}

#[tokio::test]
async fn a_key_that_comes_with_the_repetition_of_a_producers_batch_is_remembered_too() {
    let service = Service::start().await;
    let first = of_producer(7, 0, 0, &["a", "b"]);
    let body = service.post(&first).await.appended().clone();
    let keyed = first.clone().key("k");
    assert_eq!(service.post(&keyed).await.replayed(), &body);
    for n in 0..6 {
        service.post(&of_producer(7, 0, 2 + n, &["x"])).await.appended();
    }
    service.post(&first).await.problem(409, "out-of-order-sequence");
    assert_eq!(service.post(&keyed).await.replayed(), &body);
    service
        .post(&of_producer(7, 0, 8, &["y"]).key("k"))
        .await
        .problem(422, "idempotency-key-reused");
}

#[tokio::test]
async fn streams_of_any_shape_cut_anywhere_and_sent_at_the_same_time_are_there_once() {
    let mut rng = Rng::from_environment("streams_of_any_shape");
    for round in 0..6_u64 {
        let service = Service::start().await;
        let mut body = Vec::new();
        let mut values = Vec::new();
        let wanted = 1 + rng.below(3 * UNIT_LINES as u64);
        let padding = [0, 0, 0, 60, 900][rng.below(5) as usize];
        for n in 0..wanted {
            match rng.below(12) {
                0 => body.extend_from_slice([&b"\n"[..], b" \r\n", b"\t\n"][rng.below(3) as usize]),
                kind => {
                    let pad = "x".repeat(rng.below(padding + 1) as usize);
                    let record = match kind {
                        1..4 => format!("{{\"value\":[{n},\"{pad}\"]}}"),
                        4 => format!("{{\"partition\":{},\"value\":[{n},\"{pad}\"]}}", rng.below(4)),
                        _ => format!("{{\"key\":\"{}\",\"value\":[{n},\"{pad}\"]}}", rng.below(50)),
                    };
                    body.extend_from_slice(record.as_bytes());
                    body.extend_from_slice([&b"\n"[..], b"\r\n"][usize::from(rng.below(20) == 0)]);
                    values.push(n);
                }
            }
        }
        if rng.below(2) == 0 {
            while body.ends_with(b"\n") {
                body.pop();
            }
        }
        let headers = [("content-type", NDJSON), ("idempotency-key", "k")];
        let pieces = |rng: &mut Rng, until: usize, breaks: bool| {
            let mut pieces: Vec<std::io::Result<Vec<u8>>> = Vec::new();
            let mut at = 0;
            while at < until {
                let size = (1 + rng.below(100_000) as usize).min(until - at);
                pieces.push(Ok(body[at..at + size].to_vec()));
                at += size;
            }
            if breaks {
                pieces.push(Err(std::io::Error::other("gone")));
            }
            Body::from_stream(futures_util::stream::iter(pieces))
        };
        for _ in 0..3 {
            let bodies: Vec<Body> = (0..3)
                .map(|_| {
                    let until = rng.below(body.len() as u64 + 1) as usize;
                    pieces(&mut rng, until, true)
                })
                .collect();
            let answers = join_all(
                bodies
                    .into_iter()
                    .map(|body| service.send(Method::POST, RECORDS, &headers, body)),
            )
            .await;
            for answer in answers {
                answer.problem(408, "request-timeout");
            }
            if rng.below(3) == 0 {
                let partitions = 4 + rng.below(3);
                let change = json!({"partitions": partitions}).to_string();
                service.send(Method::PATCH, "/v1/topics/t", &[], change).await;
            }
        }
        let until = body.len();
        let bodies: Vec<Body> = (0..3).map(|_| pieces(&mut rng, until, false)).collect();
        let answers = join_all(
            bodies
                .into_iter()
                .map(|body| service.send(Method::POST, RECORDS, &headers, body)),
        )
        .await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(answer.body, answers[0].body);
        }
        assert_eq!(answers[0].body["records"], values.len(), "round {round}");
        assert_eq!(service.count("t").await, values.len() as u64);
        let mut seen = Vec::new();
        for partition in answers[0].body["partitions"].as_array().unwrap() {
            let uri = format!(
                "/v1/topics/t/partitions/{}/records?offset=0&max_records=100000&max_bytes=33554432",
                partition["partition"]
            );
            let fetched = service.send(Method::GET, &uri, &[], "").await;
            let records = fetched.body["records"].as_array().unwrap();
            assert_eq!(records.len(), partition["records"].as_u64().unwrap() as usize);
            assert_eq!(records[0]["offset"], partition["first_offset"]);
            assert_eq!(records.last().unwrap()["offset"], partition["last_offset"]);
            let of_partition: Vec<u64> = records
                .iter()
                .map(|record| record["value"][0].as_u64().unwrap())
                .collect();
            assert!(of_partition.is_sorted(), "{partition}");
            seen.extend(of_partition);
        }
        seen.sort_unstable();
        assert_eq!(seen, values, "round {round}");
    }
}

#[tokio::test]
async fn a_line_that_is_far_too_long_by_now_is_passed_over_where_it_is_in() {
    let service = Service::start().await;
    let long = format!("{{\"value\":1}}\n{{\"value\":\"{}\"}}\n", "x".repeat(1_000_000));
    let request = sent(RECORDS, NDJSON, long.clone()).key("k");
    let first = service.post(&request).await;
    first.appended();
    service
        .configure(json!({"config": {"max_record_bytes": 6}}))
        .await;
    assert_eq!(service.post(&request).await.replayed(), &first.body);
    let answer = service
        .post(&sent(RECORDS, NDJSON, long.clone()).key("new"))
        .await;
    let problem = answer.problem(413, "record-too-large");
    assert_eq!((&problem["line"], &problem["accepted"]), (&2.into(), &1.into()));
    let answer = service.post(&sent(RECORDS, NDJSON, long)).await;
    let problem = answer.problem(413, "record-too-large");
    assert_eq!((&problem["line"], &problem["accepted"]), (&2.into(), &1.into()));
}

// ---- the real binary

/// Sends a request over a connection of its own.
fn post(server: &Server, request: &Sent) -> std::io::Result<support::Answer> {
    let headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut connection = support::Connection::open(server.address)?;
    let length = format!("{headers}Content-Length: {}\r\n", request.body.len());
    connection.send_head("POST", &request.uri, &length)?;
    connection.send(&request.body)?;
    connection.answer()
}

#[test]
fn after_kill_9_every_kind_of_request_is_answered_as_the_first_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic("t", 4);
    let key = |name: &str| name.replace([' ', ','], "-");
    let ask = |server: &Server, name: &str, request: Sent| {
        let answer = post(server, &request.key(&key(name))).expect("an answer");
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let replayed = answer.header("idempotency-replayed").map(str::to_owned);
        (answer.json(), replayed)
    };
    let first: Vec<_> = kinds()
        .into_iter()
        .map(|(name, request, _)| ask(&server, name, request))
        .collect();
    for _ in 0..2 {
        server.kill();
        server = Server::start(&data);
        for ((name, request, _), (body, _)) in kinds().into_iter().zip(&first) {
            assert_eq!(
                ask(&server, name, request),
                (body.clone(), Some("true".to_owned())),
                "{name}"
            );
        }
    }
    server.stop();
}

#[test]
fn a_stream_that_is_cut_anywhere_and_killed_and_retried_is_there_once() {
    let mut rng = Rng::from_environment("a_stream_that_is_cut_anywhere_and_killed_and_retried_is_there_once");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic("t", 3);
    let count = 6 * UNIT_LINES + 1234;
    for stream in 0..3 {
        let body = lines(count);
        let request = sent(RECORDS, NDJSON, body).key(&format!("stream-{stream}"));
        let headers: String = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        for _ in 0..rng.below(8) {
            let cut = rng.below(request.body.len() as u64) as usize;
            let mut connection = server.connect();
            let length = format!("{headers}Content-Length: {}\r\n", request.body.len());
            // The server may have been killed under it.
            let sent = connection
                .send_head("POST", RECORDS, &length)
                .and_then(|()| connection.send(&request.body[..cut]));
            assert!(sent.is_ok(), "{sent:?}");
            if rng.below(2) == 0 {
                server.kill();
                server = Server::start(&data);
            }
            drop(connection);
        }
        let answer = post(&server, &request).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["records"], count);
        let again = post(&server, &request).expect("an answer");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.json(), answer.json());
    }
    let mut seen = vec![0_u32; count];
    for partition in 0..3 {
        let mut last: Option<u64> = None;
        let mut turns = 0;
        read_partition(&mut server.connect(), "t", partition, 0, |record| {
            let n: u64 = record.value.get().parse().expect("a number");
            seen[n as usize] += 1;
            turns += u32::from(last.is_some_and(|last| n <= last));
            last = Some(n);
        });
        assert!(
            turns <= 2,
            "partition {partition}: records of a stream are out of their order"
        );
    }
    let wrong: Vec<_> = seen
        .iter()
        .enumerate()
        .filter(|(_, times)| **times != 3)
        .take(5)
        .collect();
    assert!(
        wrong.is_empty(),
        "of three streams these lines are there so many times: {wrong:?}"
    );
    server.stop();
}
