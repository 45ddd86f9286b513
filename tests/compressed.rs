//! Compressed record batches: they come in and go out byte for byte, and are read as records everywhere.
#![allow(clippy::disallowed_methods, reason = "a test reads a data directory")]

mod support;

use http::Method;
use quipu::broker::limits::Limits;
use quipu::formats::partitioner::{keyed_elsewhere, partition_of_key};
use quipu::settings::Config;
use quipu_segments::batch::{BatchBuilder, BatchHeader, Codec, SealedBatch};
use quipu_segments::{AppendRequest, Part, Records, TimestampMs};
use serde_json::{Value, json};
use support::{Answer, Sample, Service, contains, packed, says};

const NDJSON: &str = "application/x-ndjson";
const BATCHES: &str = "application/vnd.apache.kafka.record-batch";
const TO_PARTITION: &str = "/v1/topics/t/partitions/0/records";

async fn service() -> Service {
    service_with(|_| {}).await
}

async fn service_with(change: impl FnOnce(&mut Limits)) -> Service {
    let mut config = Config::default();
    change(&mut config.limits);
    let service = Service::with(config);
    service.create_topic("t", 1).await;
    service
}

/// The records `first..first + count`: record `n` is of the time `1000 * n`, with the key `k` and `n` modulo 3.
fn numbers(codec: Option<Codec>, first: u64, count: u64) -> SealedBatch {
    let rows = (first..first + count).map(|n| (n, format!("k{}", n % 3), format!("{{\"n\":{n}}}")));
    let rows: Vec<_> = rows.collect();
    let headers = [(&b"type"[..], Some(&b"number"[..]))];
    let samples = rows.iter().map(|(n, key, value)| {
        let sample: Sample<'_> = (
            *n as i64 * 1000,
            Some(key.as_bytes()),
            Some(value.as_bytes()),
            &headers,
        );
        sample
    });
    packed(codec, &samples.collect::<Vec<_>>())
}

/// All codecs, and none.
fn codecs() -> impl Iterator<Item = Option<Codec>> {
    Codec::ALL.into_iter().map(Some).chain([None])
}

/// Sends five batches of ten numbers, one with each codec; returns them as they must be stored.
async fn send_all(service: &Service) -> Vec<u8> {
    let mut stored = Vec::new();
    for (codec, first) in codecs().zip((0..).step_by(10)) {
        let mut batch = numbers(codec, first, 10);
        let answer = send(service, batch.as_bytes()).await.ok();
        assert_eq!(
            answer,
            json!({"first_offset": first, "last_offset": first + 9, "records": 10})
        );
        batch.set_base_offset(quipu_segments::Offset::new(first));
        stored.extend_from_slice(batch.as_bytes());
    }
    stored
}

async fn send(service: &Service, batch: &[u8]) -> Answer {
    service.post_as(TO_PARTITION, BATCHES, batch.to_vec()).await
}

fn found(records: &Value) -> Vec<u64> {
    let records = records.as_array().expect("a list of records").iter();
    records
        .map(|record| record["value"]["n"].as_u64().expect("a number"))
        .collect()
}

/// The numbers in lines of records.
fn lines(answer: &Answer) -> Vec<u64> {
    let lines = answer
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    found(&Value::Array(lines.collect()))
}

async fn fetched(service: &Service, query: &str) -> Value {
    let answer = service.get(&format!("{TO_PARTITION}?{query}")).await;
    answer.with_status(200).json()
}

#[tokio::test]
async fn batches_come_back_byte_for_byte_and_as_json() {
    let service = service().await;
    let stored = send_all(&service).await;
    let uri = format!("{TO_PARTITION}?offset=0");
    let answer = service.get_as(&uri, BATCHES).await.with_status(200);
    assert_eq!(answer.body, stored);
    let answer = service
        .get_as(&format!("{TO_PARTITION}?offset=15"), BATCHES)
        .await;
    assert_eq!(
        answer.body,
        stored[numbers(Some(Codec::Gzip), 0, 10).as_bytes().len()..],
        "whole batches"
    );

    let all: Vec<u64> = (0..50).collect();
    let answer = service.get_as(&uri, NDJSON).await.with_status(200);
    assert_eq!(lines(&answer), all);
    let document = fetched(&service, "offset=0").await;
    assert_eq!(found(&document["records"]), all);
    let third = &document["records"][13];
    let expected = json!({"partition": 0, "offset": 13, "timestamp": 13_000, "key": "k1", "value": {"n": 13},
        "headers": {"type": "number"}});
    assert_eq!(third, &expected);
}

#[tokio::test]
async fn pages_begin_and_end_at_any_record() {
    let service = service().await;
    send_all(&service).await;
    for from in 0_u64..50 {
        for (query, until) in [
            (format!("offset={from}&max_records=7"), from + 7),
            (format!("offset={from}&until_offset={}", from + 13), from + 13),
            (format!("offset={from}&until={}", (from + 4) * 1000), from + 4),
            (
                format!("from={}&max_records=1", (from * 1000).saturating_sub(500)),
                from + 1,
            ),
        ] {
            let page = fetched(&service, &query).await;
            let until = until.min(50);
            assert_eq!(
                found(&page["records"]),
                (from..until).collect::<Vec<_>>(),
                "{query}"
            );
            assert_eq!(page["next_offset"], until, "{query}");
        }
        let uri = format!(
            "/v1/topics/t/partitions/0/offsets?at={}",
            (from * 1000).saturating_sub(1)
        );
        let at = service.get(&uri).await.ok();
        assert_eq!(at, json!({"offset": from, "timestamp": from * 1000}));
    }
    let mut from = 0;
    let mut pages = 0;
    while from < 50 {
        let page = fetched(&service, &format!("offset={from}&max_bytes=100")).await;
        let numbers = found(&page["records"]);
        assert_eq!(numbers, (from..from + numbers.len() as u64).collect::<Vec<_>>());
        from = page["next_offset"].as_u64().unwrap();
        pages += 1;
    }
    assert!(pages >= 10, "max_bytes counts what is inflated: {pages}");
}

#[tokio::test]
async fn streams_search_filter_and_page_through_them() {
    let service = service().await;
    send_all(&service).await;
    let all = "/v1/topics/t/records?from=earliest";
    for (query, expected) in [
        (String::new(), (0..50).collect::<Vec<u64>>()),
        ("&order=timestamp".to_owned(), (0..50).collect()),
        ("&key=k2".to_owned(), (0..50).filter(|n| n % 3 == 2).collect()),
        (
            "&header.type=number&until=1970-01-01T00:00:04Z".to_owned(),
            (0..4).collect(),
        ),
        ("&header.type=other".to_owned(), vec![]),
        ("&search=:47".to_owned(), vec![47]),
    ] {
        let answer = service
            .get_as(&format!("{all}{query}"), NDJSON)
            .await
            .with_status(200);
        assert_eq!(lines(&answer), expected, "{query}");
    }
    let uri = "/v1/topics/t/records?last=12";
    let page = service.get_as(uri, "application/json").await.ok();
    assert_eq!(found(&page["records"]), (38..50).collect::<Vec<_>>());
    let uri = format!("{uri}&until={}", page["cursor"].as_str().unwrap());
    let page = service.get_as(&uri, "application/json").await.ok();
    assert_eq!(found(&page["records"]), (26..38).collect::<Vec<_>>());
}

#[tokio::test]
async fn groups_of_both_kinds_read_them_and_dead_letters_keep_them() {
    let service = service().await;
    send_all(&service).await;
    let poll = "/v1/groups/ordered/members/a/poll";
    let mut ack = Value::Null;
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let body = json!({"topics": ["t"], "type": "ordered", "max_records": 8, "ack": ack});
        let answer = service.post(poll, body).await.ok();
        seen.extend(found(&answer["records"]));
        ack = answer["poll_id"].clone();
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());

    let poll = "/v1/groups/shared/members/a/poll";
    let join = json!({"topics": ["t"], "type": "shared", "max_records": 50, "dead_letter_topic": "t.dlq"});
    let answer = service.post(poll, join).await.ok();
    assert_eq!(found(&answer["records"]), (0..50).collect::<Vec<_>>());
    let settle = "/v1/groups/shared/members/a/settle";
    let rejected = [3, 17, 25, 38, 41].map(|offset| json!({"topic": "t", "partition": 0, "offset": offset}));
    service.post(settle, json!({"reject": rejected})).await.ok();
    let answer = service
        .get("/v1/topics/t.dlq/records?from=earliest")
        .await
        .with_status(200);
    assert_eq!(lines(&answer), [3, 17, 25, 38, 41]);
    let again = json!({"dead_letter_topic": "t.dlq"});
    let answer = service.post("/v1/groups/shared/redrive", again).await.ok();
    assert_eq!(answer["redriven"], 5);
}

#[tokio::test]
async fn a_compressed_batch_is_checked_as_an_uncompressed_one() {
    let service = service_with(|limits| limits.max_request_bytes = 100_000).await;
    let large = "x".repeat(2 << 20);
    for codec in Codec::ALL {
        let good = numbers(Some(codec), 0, 5);
        let changed = |change: &dyn Fn(&mut BatchHeader)| {
            let mut header = good.header();
            change(&mut header);
            sealed_again(header, &good.as_bytes()[61..])
        };
        let half = good.as_bytes().len() - 30;
        let cut = sealed_again(
            BatchHeader {
                batch_length: half as u32 - 12,
                ..good.header()
            },
            &good.as_bytes()[61..half],
        );
        for (body, part) in [
            (
                changed(&|header| (header.record_count, header.last_offset_delta) = (4, 3)),
                "bytes follow",
            ),
            (
                changed(&|header| header.last_offset_delta = 5),
                "last offset delta",
            ),
            (
                changed(&|header| (header.record_count, header.last_offset_delta) = (6, 5)),
                "does not fit",
            ),
            (changed(&|header| header.attributes.0 = 5), "compression 5"),
            (changed(&|header| header.attributes.0 = 7), "compression 7"),
            (
                changed(&|header| header.attributes.0 = header.attributes.0 % 4 + 1),
                "the records are not whole",
            ),
            (cut, ""),
        ] {
            let problem = send(&service, &body).await.invalid("");
            says(&problem, part);
            assert_eq!(problem["outcome"], "none");
        }
        let transactional = changed(&|header| header.attributes.0 |= 1 << 4);
        send(&service, &transactional).await.problem(501, "not-supported");
        let mut flipped = good.as_bytes().to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        says(&send(&service, &flipped).await.invalid(""), "crc32c");

        let bomb = packed(Some(codec), &[(0, None, Some(large.as_bytes()), &[])]);
        let bomb = if bomb.as_bytes().len() < 100_000 {
            bomb
        } else {
            continue;
        };
        let problem = send(&service, bomb.as_bytes())
            .await
            .problem(413, "request-too-large");
        says(&problem, "inflate to more than 100000 bytes");
    }
    // The batches of a body share the limit.
    let piece = packed(
        Some(Codec::Zstd),
        &[(0, None, Some(&large.as_bytes()[..60_000]), &[])],
    );
    send(&service, piece.as_bytes()).await.ok();
    let two = [piece.as_bytes(), piece.as_bytes()].concat();
    send(&service, &two).await.problem(413, "request-too-large");
    let answer = fetched(&service, "offset=0").await;
    assert_eq!(answer["end_offset"], 1, "nothing else was stored");
}

/// A batch of a header and what follows it, with the checksum set right.
fn sealed_again(header: BatchHeader, records: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0; 61], records].concat();
    header.encode(bytes.first_chunk_mut().unwrap());
    let crc = quipu_segments::fuzzing::crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[tokio::test]
async fn limits_and_keys_are_those_of_the_records_within() {
    let service = service().await;
    service
        .put("/v1/topics/small", json!({"config": {"max_record_bytes": 100}}))
        .await
        .created();
    let long = "x".repeat(101);
    for codec in Codec::ALL {
        let batch = packed(
            Some(codec),
            &[(0, None, Some(b"1"), &[]), (0, None, Some(long.as_bytes()), &[])],
        );
        let uri = "/v1/topics/small/partitions/0/records";
        let answer = service.post_as(uri, BATCHES, batch.as_bytes().to_vec()).await;
        says(&answer.problem(413, "record-too-large"), "record 1: 101 bytes");

        let name = format!("keyed-{codec}");
        service.create_topic(&name, 6).await;
        let topic = service.app.log.topic(&name).unwrap();
        let home = partition_of_key(b"k", 6);
        let batch = packed(Some(codec), &[(0, None, None, &[]), (0, Some(b"k"), None, &[])]);
        for (partition, is_marked) in [(home, false), ((home + 1) % 6, true)] {
            let uri = format!("/v1/topics/{name}/partitions/{partition}/records");
            service
                .post_as(&uri, BATCHES, batch.as_bytes().to_vec())
                .await
                .ok();
            let found = service.app.log.state_get(&keyed_elsewhere(topic.id())).is_some();
            assert_eq!(found, is_marked, "{codec}");
        }
    }
}

#[tokio::test]
async fn what_a_producer_sets_wrong_is_set_right() {
    let service = service().await;
    service
        .put(
            "/v1/topics/own",
            json!({"config": {"timestamp_type": "log_append_time"}}),
        )
        .await
        .created();
    service.set_time(77_000);
    for (codec, first) in codecs().zip((0..).step_by(3)) {
        let batch = numbers(codec, 10, 3);
        let wrong = BatchHeader {
            max_timestamp: TimestampMs(5),
            partition_leader_epoch: -1,
            ..batch.header()
        };
        let wrong = sealed_again(wrong, &batch.as_bytes()[61..]);
        send(&service, &wrong).await.ok();
        let answer = service
            .get_as(&format!("{TO_PARTITION}?offset={first}"), BATCHES)
            .await;
        assert_eq!(answer.body[8..], batch.as_bytes()[8..], "{codec:?}");
        let uri = "/v1/topics/own/partitions/0/records";
        service.post_as(uri, BATCHES, wrong).await.ok();
        let page = service.get(&format!("{uri}?offset={}", first + 1)).await.ok();
        assert_eq!(page["records"][0]["timestamp"], 77_000, "{codec:?}");
        assert_eq!(page["records"][0]["value"]["n"], 11, "{codec:?}");
        let at = service
            .get("/v1/topics/own/partitions/0/offsets?at=77000")
            .await
            .ok();
        assert_eq!(at, json!({"offset": 0, "timestamp": 77_000}));
    }
}

#[tokio::test]
async fn idempotent_producers_and_keys_know_compressed_batches_again() {
    let service = service().await;
    let mut batch = numbers(Some(Codec::Lz4), 0, 4);
    batch.set_producer(quipu_segments::ProducerId(9), 0, 0);
    for is_replayed in [false, true] {
        let answer = send(&service, batch.as_bytes()).await;
        assert_eq!(
            answer.ok(),
            json!({"first_offset": 0, "last_offset": 3, "records": 4})
        );
        assert_eq!(answer.header("idempotency-replayed").is_some(), is_replayed);
    }
    let headers = [("content-type", BATCHES), ("idempotency-key", "once")];
    for is_replayed in [false, true] {
        let body = numbers(Some(Codec::Zstd), 0, 2).into_bytes();
        let answer = service.send(Method::POST, TO_PARTITION, &headers, body).await;
        assert_eq!(answer.ok()["first_offset"], 4);
        assert_eq!(answer.header("idempotency-replayed").is_some(), is_replayed);
    }
}

/// The records of `numbers` at offsets with gaps, as compaction leaves them: the first and the last are gone.
fn gappy(codec: Option<Codec>) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for n in [2, 5, 6] {
        builder.push(
            TimestampMs(n * 1000),
            None,
            Some(format!("{{\"n\":{n}}}").as_bytes()),
            &[],
        );
    }
    let mut bytes = builder.seal().into_bytes();
    // The offset deltas follow two bytes of length and attributes and three of the timestamp delta, or one of it.
    let mut at = 61;
    for delta in [2_u8, 5, 6] {
        let len = usize::from(bytes[at] >> 1);
        let delta_at = at + 2 + bytes[at + 2..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
        bytes[delta_at] = delta << 1;
        at += 1 + len;
    }
    let header = BatchHeader {
        last_offset_delta: 9,
        ..BatchHeader::peek(&bytes).unwrap()
    };
    let bytes = sealed_again(header, &bytes[61..]);
    SealedBatch::from_validated(bytes)
        .unwrap()
        .with_codec(codec, None)
        .unwrap()
}

#[tokio::test]
async fn offsets_without_records_are_passed_over_everywhere() {
    for codec in codecs() {
        let service = service().await;
        send(&service, gappy(codec).as_bytes()).await.invalid("");
        for _ in 0..2 {
            let part = Part::new(service.partition("t", 0), Records::Sealed(vec![gappy(codec)]));
            let appended = service.app.log.append(AppendRequest::of(vec![part]));
            appended.and_then(|ticket| ticket.wait()).unwrap();
        }
        let offsets = [2, 5, 6, 12, 15, 16];
        for from in 0..=20 {
            let left: Vec<u64> = offsets.into_iter().filter(|offset| *offset >= from).collect();
            let page = fetched(&service, &format!("offset={from}")).await;
            let records = page["records"].as_array().unwrap().iter();
            let read: Vec<u64> = records.map(|record| record["offset"].as_u64().unwrap()).collect();
            assert_eq!(read, left, "from {from}, {codec:?}");
            assert_eq!(page["next_offset"], 20);
            let uri = format!("{TO_PARTITION}?offset={from}&until_offset=20");
            let whole = service.get_as(&uri, BATCHES).await.with_status(200);
            assert_eq!(whole.header("next-offset"), Some("20"));
        }
        let answer = service.get("/v1/topics/t/records?last=4").await.with_status(200);
        assert_eq!(lines(&answer), [6, 2, 5, 6]);
        let at = service
            .get("/v1/topics/t/partitions/0/offsets?at=5500")
            .await
            .ok();
        assert_eq!(at, json!({"offset": 6, "timestamp": 6000}));
        let (poll, mut ack, mut seen) = ("/v1/groups/g/members/a/poll", Value::Null, Vec::new());
        for _ in 0..7 {
            let answer = service
                .post(poll, json!({"topics": ["t"], "max_records": 1, "ack": ack}))
                .await
                .ok();
            seen.extend(found(&answer["records"]));
            ack = answer["poll_id"].clone();
        }
        assert_eq!(seen, [2, 5, 6, 2, 5, 6], "{codec:?}");
        let lag = service.get("/v1/groups/g/lag").await.ok();
        assert_eq!(lag["lag"], 0, "{lag}");
    }
}

#[tokio::test]
async fn pages_of_much_compressed_data_stay_small() {
    let service = service().await;
    let value = "x".repeat(1 << 20);
    for _ in 0..12 {
        let batch = packed(
            Some(Codec::Gzip),
            &[(0, None, Some(&value.as_bytes()[..1_000_000]), &[])],
        );
        send(&service, batch.as_bytes()).await.ok();
    }
    let uri = format!("{TO_PARTITION}?offset=0&max_bytes=33554432");
    let answer = service.get_as(&uri, NDJSON).await.with_status(200);
    let count = answer.text().lines().count();
    assert!((1..=6).contains(&count), "{count} records of a megabyte");
    assert_eq!(answer.header("next-offset"), Some(count.to_string().as_str()));
    let stored = service.get_as(&uri, BATCHES).await.with_status(200);
    assert_eq!(stored.header("next-offset"), Some("12"));
    contains(stored.header("content-type").unwrap(), "record-batch");
}

/// The codec of each stored batch.
fn stored_codecs(answer: &Answer) -> Vec<Option<Codec>> {
    let batches = quipu_segments::batch::Batches::new(&answer.body);
    let codecs = batches.map(|batch| quipu_segments::batch::validate(batch.unwrap().1).unwrap());
    codecs.map(|header| header.attributes.codec().unwrap()).collect()
}

#[tokio::test]
async fn a_topic_stores_its_batches_in_the_form_that_it_says() {
    let service = service().await;
    let names = ["gzip", "snappy", "lz4", "zstd", "uncompressed"];
    for (name, wanted) in names.into_iter().zip(codecs()) {
        let topic = format!("/v1/topics/{name}");
        let config = json!({"partitions": 1, "config": {"compression_type": name}});
        service.put(&topic, config).await.created();
        let described = service.get(&topic).await.ok();
        assert_eq!(
            described["config"]["compression_type"]["value"], name,
            "{described}"
        );
        let records = format!("{topic}/records");
        service
            .post(
                &records,
                json!({"records": [{"value": {"n": 0}}, {"value": {"n": 1}}]}),
            )
            .await
            .ok();
        service
            .post_as(&records, NDJSON, "{\"value\":{\"n\":2}}\n{\"value\":{\"n\":3}}\n")
            .await
            .ok();
        service
            .post_as(&records, "application/octet-stream", "{\"n\":4}")
            .await
            .ok();
        let several = json!({"records": [{"topic": name, "value": {"n": 5}}]});
        service.post("/v1/records", several).await.ok();
        let partition = format!("{topic}/partitions/0/records");
        let mut sent = 5;
        for codec in codecs() {
            let body = numbers(codec, 6, 2).into_bytes();
            let answer = service.post_as(&partition, BATCHES, body).await.ok();
            assert_eq!(answer["first_offset"], sent + 1);
            sent += 2;
        }
        let uri = format!("{partition}?offset=0");
        let stored = service.get_as(&uri, BATCHES).await.with_status(200);
        assert_eq!(stored_codecs(&stored), [wanted; 9], "{name}");
        let answer = service.get_as(&uri, NDJSON).await.with_status(200);
        assert_eq!(
            lines(&answer),
            [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7, 6, 7],
            "{name}"
        );
    }
    let described = service.get("/v1/topics/t").await.ok();
    let expected = json!({"value": "producer", "default": "producer", "source": "default"});
    assert_eq!(described["config"]["compression_type"], expected);
    let config = json!({"config": {"compression_type": "zstd"}});
    service
        .post("/v1/topics/t/records", json!({"records": [{"value": {"n": 0}}]}))
        .await
        .ok();
    service.patch("/v1/topics/t", config).await.ok();
    send(&service, numbers(None, 1, 1).as_bytes()).await.ok();
    service
        .patch("/v1/topics/t", json!({"config": {"compression_type": null}}))
        .await
        .ok();
    send(&service, numbers(Some(Codec::Lz4), 2, 1).as_bytes())
        .await
        .ok();
    let stored = service.get_as(&format!("{TO_PARTITION}?offset=0"), BATCHES).await;
    assert_eq!(
        stored_codecs(&stored),
        [None, Some(Codec::Zstd), Some(Codec::Lz4)]
    );
}

#[tokio::test]
async fn large_requests_are_compressed_batch_by_batch() {
    let service = service().await;
    let config = json!({"partitions": 2, "config": {"compression_type": "zstd"}});
    service.put("/v1/topics/z", config).await.created();
    let text = "departed ".repeat(100);
    let rows = (0..2000).map(|n| {
        format!(
            "{{\"partition\":{},\"value\":{{\"n\":{n},\"text\":\"{text}\"}}}}\n",
            n % 2
        )
    });
    service
        .post_as("/v1/topics/z/records", NDJSON, rows.collect::<String>())
        .await
        .ok();
    let mut all = Vec::new();
    for partition in 0..2 {
        let uri = format!(
            "/v1/topics/z/partitions/{partition}/records?offset=0&max_bytes=33554432&max_records=100000"
        );
        let stored = service.get_as(&uri, BATCHES).await.with_status(200);
        let found = stored_codecs(&stored);
        assert!(
            found.len() > 10 && found.iter().all(|codec| *codec == Some(Codec::Zstd)),
            "{found:?}"
        );
        assert!(
            stored.body.len() < 200_000,
            "a tenth of what was sent: {}",
            stored.body.len()
        );
        all.extend(lines(&service.get_as(&uri, NDJSON).await.with_status(200)));
    }
    all.sort_unstable();
    assert_eq!(all, (0..2000).collect::<Vec<_>>());
}
