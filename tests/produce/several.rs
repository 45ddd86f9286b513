//! `POST /v1/records`: requests to several topics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

use quipu::formats::partitioner::partition_of_key;
use serde_json::{Value, json};

use crate::support::{self, Answer, Connection, has, read_partition, says};
use crate::{NDJSON, Server, Stored};

const TO_TOPICS: &str = "/v1/records";

/// A service with topics `a` of one partition and `b` of four.
fn start() -> Server {
    let server = Server::new();
    server.topic("a", 1, json!({}));
    server.topic("b", 4, json!({}));
    server
}

async fn post(server: &Server, records: Value) -> Answer {
    server
        .json(TO_TOPICS, json!({"records": records}).to_string())
        .await
}

/// How many records there are in a topic.
fn count(server: &Server, topic: &str) -> u64 {
    let topic = server.app.log.topic(topic).expect("the test made it");
    let partitions = topic.partitions();
    let ends = partitions
        .iter()
        .map(|partition| partition.positions().end_offset.get());
    ends.sum()
}

#[tokio::test]
async fn records_are_stored_in_their_topics_and_answered_in_the_order_of_the_request() {
    let server = start();
    server
        .json("/v1/topics/a/records", r#"{"records":[{},{}]}"#)
        .await
        .ok();
    let answer = post(
        &server,
        json!([
            {"topic": "b", "value": 0, "partition": 3},
            {"topic": "a", "value": 1, "key": "k", "offset": 77},
            {"topic": "b", "value": 2, "key": "key"},
            {"topic": "a", "value_base64": "/w==", "key_base64": "/w==", "timestamp": "2013-01-01T00:00:00Z"},
            {"topic": "b", "value": 4, "partition": 3, "headers": {"g": {"base64": "/w=="}, "h": "x"}},
        ]),
    )
    .await;
    let of_key = partition_of_key(b"key", 4);
    let expected = json!({"offsets": [
        {"topic": "b", "partition": 3, "offset": 0},
        {"topic": "a", "partition": 0, "offset": 2},
        {"topic": "b", "partition": of_key, "offset": 0},
        {"topic": "a", "partition": 0, "offset": 3},
        {"topic": "b", "partition": 3, "offset": 1},
    ]});
    assert_eq!(answer.ok(), expected);
    let bytes = |byte: u8| Some(vec![byte]);
    let a = &server.stored("a", 0)[2..];
    assert_eq!((a[0].value(), a[0].key.as_deref()), ("1", Some(&b"k"[..])));
    let time = 1_356_998_400_000;
    let expected = Stored {
        offset: 3,
        timestamp: time,
        key: bytes(0xff),
        value: bytes(0xff),
        headers: Vec::new(),
    };
    assert_eq!(a[1], expected);
    let b = server.stored("b", 3);
    assert_eq!((b[0].value(), b[1].value()), ("0", "4"));
    let headers = [("g".to_owned(), bytes(0xff)), ("h".to_owned(), bytes(b'x'))];
    assert_eq!(b[1].headers, headers);
}

#[tokio::test]
async fn records_without_a_key_go_together_in_each_topic_and_rotate() {
    let server = start();
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let records = json!([{"topic": "b"}, {"topic": "a"}, {"topic": "b"}]);
        let answer = post(&server, records).await.ok();
        let partition = |index: usize| answer["offsets"][index]["partition"].as_u64().unwrap();
        assert_eq!(partition(0), partition(2));
        seen.insert(partition(0));
    }
    assert_eq!(seen.len(), 4);
}

#[tokio::test]
async fn each_topics_own_rules_hold() {
    let server = start();
    server.topic("stamped", 1, json!({"timestamp_type": "log_append_time"}));
    server.topic("small", 1, json!({"max_record_bytes": 5}));
    let records = json!([
        {"topic": "stamped", "timestamp": 5},
        {"topic": "a", "timestamp": 5, "value": "longer than five"},
        {"topic": "small", "value": 12345},
    ]);
    post(&server, records).await.ok();
    assert_eq!(server.stored("stamped", 0)[0].timestamp, support::NOW);
    assert_eq!(server.stored("a", 0)[0].timestamp, 5);
    let records = json!([{"topic": "a", "value": 123_456}, {"topic": "small", "value": 123_456}]);
    let problem = post(&server, records)
        .await
        .refusal(413, "record-too-large", "none");
    assert_eq!(problem["pointer"], "/records/1");
    assert_eq!(count(&server, "a"), 1, "nothing of a refused request is stored");
}

#[tokio::test]
async fn a_refused_record_refuses_the_whole_request_and_is_named() {
    let server = start();
    let good = json!({"topic": "a", "value": 1});
    for (wrong, status, code, pointer) in [
        (json!({"topic": "none"}), 404, "unknown-topic", "/records/2/topic"),
        (
            json!({"topic": "__keys"}),
            404,
            "unknown-topic",
            "/records/2/topic",
        ),
        (json!({"topic": ""}), 404, "unknown-topic", "/records/2/topic"),
        (
            json!({"topic": "b", "partition": 4}),
            404,
            "unknown-partition",
            "/records/2/partition",
        ),
        (json!({"topic": 1}), 400, "invalid-request", "/records/2/topic"),
        (json!({"topic": null}), 400, "invalid-request", "/records/2/topic"),
        (json!({"value": 1}), 400, "invalid-request", "/records/2/topic"),
        (
            json!({"topic": "a", "key": 1}),
            400,
            "invalid-request",
            "/records/2/key",
        ),
        (
            json!({"topic": "a", "vlaue": 1}),
            400,
            "invalid-request",
            "/records/2/vlaue",
        ),
        (
            json!({"topic": "b", "key": "x".repeat(40_000)}),
            413,
            "record-too-large",
            "/records/2",
        ),
        (json!([]), 400, "invalid-request", "/records/2"),
    ] {
        let answer = post(&server, json!([good, {"topic": "b", "value": 1}, wrong, good])).await;
        let problem = answer.refusal(status, code, "none");
        assert_eq!(problem["pointer"], pointer, "{problem}");
        assert_eq!((count(&server, "a"), count(&server, "b")), (0, 0), "{problem}");
    }
    for (body, pointer) in [
        ("", ""),
        ("[]", ""),
        ("{}", "/records"),
        (r#"{"records":[]}"#, "/records"),
        (r#"{"records":{}}"#, "/records"),
        (r#"{"topic":"a","records":[{}]}"#, "/topic"),
        (r#"{"records":[{"topic":"a"}]} x"#, ""),
    ] {
        server.json(TO_TOPICS, body).await.invalid(pointer);
    }
    assert_eq!(count(&server, "a"), 0);
}

#[tokio::test]
async fn only_the_parameters_of_the_contract_are_known() {
    let server = start();
    let body = r#"{"records":[{"topic":"a"},{"topic":"b"}]}"#;
    for name in [
        "expected_offset",
        "repartition",
        "key",
        "partition",
        "topics",
        "ak",
    ] {
        let problem = server
            .json(&format!("{TO_TOPICS}?{name}=0"), body)
            .await
            .invalid(name);
        says(&problem, "known here: ack");
    }
    server
        .json(&format!("{TO_TOPICS}?ack=none"), body)
        .await
        .invalid("ack");
    assert_eq!(count(&server, "a"), 0);
    for ack in ["written", "durable"] {
        server.json(&format!("{TO_TOPICS}?ack={ack}"), body).await.ok();
    }
}

#[tokio::test]
async fn only_json_is_taken_compressed_or_not_and_within_the_limit() {
    let server = Server::with(|limits| limits.max_request_bytes = 2000);
    server.topic("a", 1, json!({}));
    let body = r#"{"records":[{"topic":"a"}]}"#;
    for media in [
        NDJSON,
        "text/plain",
        "application/octet-stream",
        "application/cloudevents+json",
        "application/vnd.apache.kafka.record-batch",
        "application/vnd.kafka.json.v2+json",
        "application/json; charset=latin1",
        "application/x-www-form-urlencoded",
    ] {
        let answer = server.post_as(TO_TOPICS, media, body).await;
        answer.refusal(415, "unsupported-media-type", "none");
        assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"));
    }
    let event = [("content-type", "application/json"), ("ce-specversion", "1.0")];
    for headers in [&event[..], &[]] {
        let answer = server.post(TO_TOPICS, headers, body).await;
        answer.problem(415, "unsupported-media-type");
    }
    let coding = |coding| [("content-type", "application/json"), ("content-encoding", coding)];
    server
        .post(TO_TOPICS, &coding("br"), body)
        .await
        .problem(415, "unsupported-media-type");
    assert_eq!(count(&server, "a"), 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    server
        .post(TO_TOPICS, &coding("gzip"), gzip.finish().unwrap())
        .await
        .ok();
    let zstd = zstd::encode_all(body.as_bytes(), 1).unwrap();
    server.post(TO_TOPICS, &coding("zstd"), zstd).await.ok();
    assert_eq!(count(&server, "a"), 2);
    let many: Vec<Value> = (0..200).map(|_| json!({"topic": "a"})).collect();
    let large = json!({"records": many}).to_string();
    let zstd = zstd::encode_all(large.as_bytes(), 1).unwrap();
    for answer in [
        server.json(TO_TOPICS, large).await,
        server.post(TO_TOPICS, &coding("zstd"), zstd).await,
    ] {
        answer.refusal(413, "request-too-large", "none");
    }
}

#[tokio::test]
async fn a_stream_over_the_topics_reads_what_was_stored_and_can_be_sent_again() {
    let server = start();
    post(
        &server,
        json!([{"topic": "b", "value": 1}, {"topic": "a", "value": 2}]),
    )
    .await
    .ok();
    let stored = server.get("/v1/records?topics=a,b").await.with_status(200);
    let lines: Vec<&str> = stored.text().lines().collect();
    let body = format!("{{\"records\":[{}]}}", lines.join(","));
    let answer = server.json(TO_TOPICS, body).await.ok();
    for place in answer["offsets"].as_array().unwrap() {
        assert_eq!(place["offset"], 1, "behind the record that it is a copy of");
    }
}

#[tokio::test]
async fn a_traceparent_is_kept_and_a_large_request_is_placed_like_a_small_one() {
    let server = start();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let value = "x".repeat(1000);
    let records: Vec<Value> = (0..600_u32)
        .map(|n| json!({"topic": if n % 3 == 0 { "a" } else { "b" }, "partition": 0, "key": n.to_string(), "value": value}))
        .collect();
    let body = json!({"records": records}).to_string();
    assert!(body.len() > 512 << 10, "it goes to a blocking thread");
    let headers = [("content-type", "application/json"), ("traceparent", trace)];
    let answer = server.post(TO_TOPICS, &headers, body).await.ok();
    let mut next = BTreeMap::from([("a", 0), ("b", 0)]);
    for (n, place) in answer["offsets"].as_array().unwrap().iter().enumerate() {
        let topic = if n % 3 == 0 { "a" } else { "b" };
        let offset = next.get_mut(topic).unwrap();
        has(place, json!({"topic": topic, "partition": 0, "offset": *offset}));
        let key = n.to_string().into_bytes();
        if n % 100 == 0 {
            let stored = &server.stored(topic, 0)[*offset];
            assert_eq!(stored.key, Some(key));
            let header = ("traceparent".to_owned(), Some(trace.as_bytes().to_vec()));
            assert_eq!(stored.headers, [header]);
        }
        *offset += 1;
    }
    // A key in a partition that is not its own is noticed, so that readers by key look everywhere.
    let elsewhere = (1..600).find(|n| n % 3 > 0 && partition_of_key(n.to_string().as_bytes(), 4) != 0);
    let uri = format!("/v1/topics/b/records?key={}", elsewhere.unwrap());
    let lines = server.get(&uri).await.with_status(200);
    assert_eq!(lines.text().lines().count(), 1);
}

const WRITERS: u64 = 6;
const KILLS: usize = 5;
/// Requests that are answered before the next kill.
const ANSWERS_A_ROUND: u64 = 40;

/// The request of a number, as it is sent each time: two records in each topic.
fn numbered(number: u64) -> String {
    let row =
        |topic: &str, key: &str| format!(r#"{{"topic":"{topic}","key":"{key}{number}","value":{number}}}"#);
    let rows = [row("a", "x"), row("b", "y"), row("b", "z"), row("a", "w")];
    format!(r#"{{"records":[{}]}}"#, rows.join(","))
}

/// Sends a number's request under its key; `None` if the server is gone.
fn send(connection: &mut Connection, number: u64) -> Option<Answer> {
    let headers = format!("Idempotency-Key: number-{number}\r\n");
    let body = numbered(number);
    let answer = connection.request_with("POST", TO_TOPICS, "application/json", &headers, body.as_bytes());
    answer.ok().map(|answer| answer.with_status(200))
}

/// How often each number is there, in each topic.
fn found(server: &support::Server) -> [BTreeMap<u64, u32>; 2] {
    [("a", 2), ("b", 3)].map(|(topic, partitions)| {
        let mut found = BTreeMap::new();
        for partition in 0..partitions {
            read_partition(&mut server.connect(), topic, partition, 0, |record| {
                let number: u64 = record.value.get().parse().expect("a number");
                *found.entry(number).or_default() += 1;
            });
        }
        found
    })
}

#[test]
fn after_kill_9_a_request_is_there_in_all_its_topics_or_in_none_and_a_retry_stores_it_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = support::Server::start(&data);
    server.create_topic("a", 2);
    server.create_topic("b", 3);
    let numbers = AtomicU64::new(0);
    let mut answered: BTreeMap<u64, Value> = BTreeMap::new();
    for _ in 0..KILLS {
        let stop = AtomicBool::new(false);
        let (outcomes, results) = channel();
        let mut unknown = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                let (outcomes, numbers, stop, address) = (outcomes.clone(), &numbers, &stop, server.address);
                scope.spawn(move || {
                    let mut connection = Connection::open(address).expect("it listens");
                    while !stop.load(Ordering::Relaxed) {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        let answer = send(&mut connection, number).map(|answer| answer.json());
                        let is_gone = answer.is_none();
                        let _ = outcomes.send((number, answer));
                        if is_gone {
                            return;
                        }
                    }
                });
            }
            drop(outcomes);
            let mut running = Some(server);
            for (answers, (number, answer)) in (1..).zip(&results) {
                match answer {
                    Some(answer) => drop(answered.insert(number, answer)),
                    None => unknown.push(number),
                }
                if answers >= ANSWERS_A_ROUND
                    && let Some(server) = running.take()
                {
                    server.kill();
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
        server = support::Server::start(&data);
        let [a, b] = found(&server);
        assert_eq!(a, b, "a request is there in one topic only");
        for number in answered.keys() {
            assert_eq!(a.get(number), Some(&2), "{number} was acknowledged");
        }
        for number in unknown {
            let times = a.get(&number).copied();
            assert!(
                matches!(times, None | Some(2)),
                "{number} is there in part: {times:?}"
            );
            let answer = send(&mut server.connect(), number).expect("an answer");
            let is_replayed = answer.header("idempotency-replayed").is_some();
            assert_eq!(is_replayed, times.is_some(), "{number}");
            answered.insert(number, answer.json());
        }
    }
    for (number, first) in &answered {
        let again = send(&mut server.connect(), *number).expect("an answer");
        assert_eq!(again.replayed(), *first, "{number}");
    }
    let [a, b] = found(&server);
    assert_eq!(a, b);
    assert_eq!(a.len(), answered.len());
    assert!(a.values().all(|times| *times == 2));
    server.stop();
}
