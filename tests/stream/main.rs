//! The contract of streams: replay and live tail, as lines and as Server-Sent Events; and over the real binary, clients that
//! [resume](resume) and a [browser].
#![allow(clippy::disallowed_methods, reason = "tests damage files and have time-outs")]

mod browse;
mod browser;
mod follow;
mod interrupted;
mod last;
mod resume;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::body::BodyDataStream;
use futures_util::StreamExt;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::events::{Event, EventReader};
use support::{Answer, Sample, Service, expect, has, request, says};
use tower::ServiceExt;

const EVENTS: &str = "text/event-stream";
const T: &str = "/v1/topics/t/records";

async fn service(partitions: u32) -> Service {
    let service = Service::new();
    service.create_topic("t", partitions).await;
    service
}

/// Appends records with these timestamps, each with the value `"partition/timestamp"`.
fn append(service: &Service, topic: &str, partition: u32, timestamps: &[i64]) {
    append_keyed(service, topic, partition, None, timestamps);
}

fn append_keyed(service: &Service, topic: &str, partition: u32, key: Option<&str>, timestamps: &[i64]) {
    let rows = timestamps.iter();
    let values: Vec<String> = rows.map(|t| format!("\"{partition}/{t}\"")).collect();
    let key = key.map(str::as_bytes);
    let rows = timestamps.iter().zip(&values);
    let rows = rows.map(|(time, value)| (*time, key, Some(value.as_bytes()), &[][..]));
    let samples: Vec<Sample<'_>> = rows.collect();
    service.append(topic, partition, true, &samples);
}

fn lines(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    parsed(text)
}

fn parsed(lines: &str) -> Vec<Value> {
    let lines = lines.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `partition/offset` of each record.
fn places(records: &[Value]) -> Vec<String> {
    let place = |record: &Value| format!("{}/{}", record["partition"], record["offset"]);
    records.iter().map(place).collect()
}

/// The places of a whole stream of lines.
async fn replay(service: &Service, query: &str) -> Vec<String> {
    let answer = service.get(&format!("{T}?{query}")).await;
    places(&lines(&answer.with_status(200)))
}

/// Checks for a refusal: a 400 that names a parameter, or another status with a code.
async fn refused(service: &Service, query: &str, status: u16, what: &str) -> Value {
    let answer = service.get(&format!("{T}?{query}")).await;
    match status {
        400 => answer.invalid(what),
        _ => answer.problem(status, what),
    }
}

/// A stream of events of `t` that is read as it comes.
async fn live_events(service: &Service, query: &str) -> Live {
    Live::open(service, &format!("{T}?{query}"), &[("accept", EVENTS)]).await
}

/// The places of a whole stream of events after the given event.
async fn places_after(service: &Service, uri: &str, last_event_id: &str) -> Vec<String> {
    places(&records(&replay_events(service, uri, last_event_id).await.0))
}

/// Deletes the records of a partition of `t` before an offset.
async fn trim(service: &Service, partition: u32, before: u64) {
    let uri = format!("/v1/topics/t/partitions/{partition}/records?before={before}");
    service.delete(&uri).await.ok();
}

/// The events of a whole stream.
async fn replay_events(service: &Service, uri: &str, last_event_id: &str) -> (Vec<Event>, EventReader) {
    let headers = [("accept", EVENTS), ("last-event-id", last_event_id)];
    let answer = expect(service.get_with(uri, &headers), 200).await;
    assert_eq!(answer.header("content-type"), Some(EVENTS));
    let mut reader = EventReader::default();
    let events = reader.feed(&answer.body);
    (events, reader)
}

#[track_caller]
fn assert_error(event: &Event, code: &str) {
    assert_eq!(event.name, "error", "{event:?}");
    assert_eq!(event.json()["code"], code);
}

fn records(events: &[Event]) -> Vec<Value> {
    let records = events.iter().filter(|event| event.name == "record");
    records.map(Event::json).collect()
}

/// The first `id`, which may come before any event.
fn first_id(text: &str) -> String {
    let id = text.lines().find_map(|line| line.strip_prefix("id: "));
    id.expect("an id").to_owned()
}

/// A stream that is read as it comes.
struct Live {
    status: StatusCode,
    body: BodyDataStream,
    reader: EventReader,
    text: Vec<u8>,
}

impl Live {
    async fn open(service: &Service, uri: &str, headers: &[(&str, &str)]) -> Self {
        let request = request(Method::GET, uri, headers, "");
        let response = service.router.clone().oneshot(request).await.unwrap();
        Self {
            status: response.status(),
            body: response.into_body().into_data_stream(),
            reader: EventReader::default(),
            text: Vec::new(),
        }
    }

    /// The next chunk that is not empty; `None` at a clean end, an error if the stream breaks off.
    async fn chunk(&mut self) -> Option<Result<Vec<u8>, axum::Error>> {
        loop {
            match self.body.next().await? {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some(Ok(bytes.to_vec())),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next events: at least one.
    async fn next_events(&mut self) -> Vec<Event> {
        loop {
            let answer = self.chunk().await;
            let chunk = answer.expect("it goes on").expect("it does not break off");
            let events = self.reader.feed(&chunk);
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// The places of the records among the next events.
    async fn next_places(&mut self) -> Vec<String> {
        places(&records(&self.next_events().await))
    }

    /// The next lines: at least one, and whole ones.
    async fn next_lines(&mut self) -> Vec<Value> {
        loop {
            if let Some(end) = self.text.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.text.split_off(end + 1);
                let whole = String::from_utf8(std::mem::replace(&mut self.text, rest)).unwrap();
                return parsed(&whole);
            }
            let answer = self.chunk().await;
            let chunk = answer.expect("it goes on").expect("it does not break off");
            self.text.extend_from_slice(&chunk);
        }
    }

    /// Reads to the end; returns the bytes, and whether it ended cleanly.
    async fn rest(mut self) -> (Vec<u8>, bool) {
        let mut all = self.text;
        loop {
            match self.body.next().await {
                None => return (all, true),
                Some(Ok(bytes)) => all.extend_from_slice(&bytes),
                Some(Err(_)) => return (all, false),
            }
        }
    }
}

#[tokio::test]
async fn a_replay_has_every_record_of_every_partition_as_a_fetch_has_it() {
    let service = service(3).await;
    service.append(
        "t",
        1,
        false,
        &[
            (5, Some(b"k"), Some(b"{\n\"a\" : 1.50}"), &[(b"type", Some(b"x"))]),
            (6, Some(b"\xff"), Some(b"no json"), &[]),
            (7, None, None, &[]),
        ],
    );
    append(&service, "t", 2, &[1]);
    let answer = service.get(T).await.with_status(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.text(),
        concat!(
            r#"{"partition":1,"offset":0,"timestamp":5,"key":"k","value":{ "a" : 1.50},"headers":{"type":"x"}}"#,
            "\n",
            r#"{"partition":1,"offset":1,"timestamp":6,"key_base64":"/w==","value_base64":"bm8ganNvbg==","headers":{}}"#,
            "\n",
            r#"{"partition":1,"offset":2,"timestamp":7,"key":null,"value":null,"headers":{}}"#,
            "\n",
            r#"{"partition":2,"offset":0,"timestamp":1,"key":null,"value":"2/1","headers":{}}"#,
            "\n"
        )
    );
    let mut fetched = String::new();
    for partition in 0..3 {
        let uri = format!("/v1/topics/t/partitions/{partition}/records?offset=0");
        fetched += service.get_as(&uri, "application/x-ndjson").await.text();
    }
    assert_eq!(answer.text(), fetched);
    let (events, reader) = replay_events(&service, T, "").await;
    let rows = events.iter();
    let data: Vec<&str> = rows.filter(|e| e.name == "record").map(|e| &*e.data).collect();
    assert_eq!(data, fetched.lines().collect::<Vec<_>>());
    assert_eq!(events.last().unwrap().name, "end");
    assert_eq!(events.last().unwrap().data, "{}");
    assert_eq!(reader.retry_ms, Some(2000));
}

#[tokio::test]
async fn a_stream_of_events_goes_on_behind_any_of_its_events_with_nothing_lost_and_nothing_twice() {
    let service = service(3).await;
    service.create_topic("u", 2).await;
    for round in 0..5 {
        for partition in 0..3 {
            append(&service, "t", partition, &[round * 10, round * 10 + 3]);
        }
        append(&service, "u", round as u32 % 2, &[round * 7]);
    }
    for uri in [
        T.to_owned(),
        format!("{T}?order=timestamp"),
        "/v1/records?topics=t,u".to_owned(),
        "/v1/records?topics=u,t&order=timestamp&until=33".to_owned(),
        format!("{T}?partitions=2,0&from=20"),
    ] {
        let (all, _) = replay_events(&service, &uri, "").await;
        assert!(all.len() > 9, "{uri}: {}", all.len());
        for (at, event) in all.iter().enumerate() {
            let first = event.id.chars().next();
            assert!(first.is_some_and(|c| c.is_ascii_alphabetic()), "{event:?}");
            if at + 2 >= all.len() {
                // Nothing is left after the last ones.
                continue;
            }
            let (rest, _) = replay_events(&service, &uri, &event.id).await;
            // Without an order, the turns of the partitions may differ.
            let of_partition = |events: &[Event]| {
                let mut sorted: BTreeMap<String, Vec<Value>> = BTreeMap::new();
                for record in records(events) {
                    let of = format!("{}/{}", record["topic"], record["partition"]);
                    sorted.entry(of).or_default().push(record);
                }
                sorted
            };
            let found = of_partition(&rest);
            assert_eq!(found, of_partition(&all[at + 1..]), "{uri} behind {at}");
            if uri.contains("order") {
                assert_eq!(records(&rest), records(&all[at + 1..]));
            }
            let as_from = uri.split('?').next().unwrap().to_owned();
            let as_from = match uri.split_once('?') {
                Some((_, query)) if !query.contains("from=") => {
                    format!("{as_from}?{query}&from={}", event.id)
                }
                Some(_) => continue,
                None => format!("{as_from}?from={}", event.id),
            };
            let found = records(&replay_events(&service, &as_from, "").await.0);
            assert_eq!(found, records(&rest));
        }
    }
}

#[tokio::test]
async fn it_begins_at_words_times_and_cursors() {
    let service = service(2).await;
    append(&service, "t", 0, &[10, 30, 20, 40]);
    append(&service, "t", 1, &[5]);
    assert_eq!(replay(&service, "").await.len(), 5);
    assert_eq!(replay(&service, "from=earliest").await.len(), 5);
    assert_eq!(replay(&service, "from=latest").await, [""; 0]);
    // Begins at the first record at or after the time, and goes on with everything behind it.
    assert_eq!(replay(&service, "from=20").await, ["0/1", "0/2", "0/3"]);
    assert_eq!(replay(&service, "from=1970-01-01T00:00:00.040Z").await, ["0/3"]);
    assert_eq!(replay(&service, "from=41").await, [""; 0]);
    trim(&service, 0, 3).await;
    assert_eq!(replay(&service, "").await, ["0/3", "1/0"]);
    assert_eq!(replay(&service, "from=1").await, ["0/3", "1/0"]);
}

#[tokio::test]
async fn it_ends_before_the_first_record_at_or_after_until() {
    let service = service(2).await;
    append(&service, "t", 0, &[10, 30, 20, 40]);
    append(&service, "t", 1, &[5, 29, 30]);
    for order in ["none", "timestamp"] {
        let until = |query: &'static str| {
            let service = &service;
            async move {
                let mut places = replay(service, &format!("order={order}&{query}")).await;
                places.sort();
                places
            }
        };
        assert_eq!(until("until=30").await, ["0/0", "1/0", "1/1"]);
        assert_eq!(until("until=1000").await.len(), 7);
        assert_eq!(until("until=latest").await.len(), 7);
        assert_eq!(until("until=0").await, [""; 0]);
        // The end lies before the beginning.
        assert_eq!(until("from=30&until=11").await, [""; 0]);
        assert_eq!(until("from=20&until=40").await, ["0/1", "0/2", "1/1", "1/2"]);
        // A stream whose end has passed ends, with `follow` too.
        assert_eq!(until("until=30&follow=true").await, ["0/0", "1/0", "1/1"]);
        assert_eq!(until("until=latest&follow=true").await.len(), 7);
        // That time is in the past.
        assert_eq!(until("until=1000&follow=true").await.len(), 7);
    }
}

#[tokio::test]
async fn of_a_value_longer_than_value_limit_only_the_beginning_is_sent() {
    let service = service(1).await;
    append(&service, "t", 0, &[1, 10]);
    // `"0/1"` has five bytes, `"0/10"` six.
    let uri = format!("{T}?value_limit=5");
    let records = lines(&service.get(&uri).await.with_status(200));
    assert_eq!(records[0]["value"], "0/1");
    has(
        &records[1],
        json!({"value_text": "\"0/10", "value_bytes": 6, "truncated": true}),
    );
    let events = service.get_as(&uri, EVENTS).await.with_status(200);
    support::contains(events.text(), r#""value_bytes":6,"truncated":true"#);
    let uri = format!("{uri}&data=cloudevents");
    service.get(&uri).await.invalid("value_limit");
    service
        .get(&format!("{T}?value_limit=-1"))
        .await
        .invalid("value_limit");
}

#[tokio::test]
async fn partitions_are_chosen_by_number() {
    let service = service(4).await;
    service.create_topic("u", 1).await;
    for partition in 0..4 {
        append(&service, "t", partition, &[1]);
    }
    assert_eq!(replay(&service, "partitions=3,1").await, ["1/0", "3/0"]);
    assert_eq!(replay(&service, "partitions=0").await, ["0/0"]);
    let one = service.get("/v1/records?topics=t&partitions=2").await;
    assert_eq!(places(&lines(&one)), ["2/0"]);
    let problem = refused(&service, "partitions=1,4", 404, "unknown-partition").await;
    assert_eq!(problem["partition_count"], 4);
    for uri in [
        format!("{T}?partitions=1,1"),
        "/v1/records?topics=t,u&partitions=0".to_owned(),
    ] {
        service.get(&uri).await.invalid("partitions");
    }
    // A cursor may have other partitions: they are ignored.
    let (events, _) = replay_events(&service, &format!("{T}?partitions=1,2"), "").await;
    let found = places_after(&service, &format!("{T}?partitions=2,3"), &events[0].id).await;
    assert_eq!(found, ["2/0", "3/0"]);
}

#[tokio::test]
async fn a_stream_over_several_topics_names_the_topic_of_each_record() {
    let service = service(1).await;
    service.create_topic("u", 2).await;
    append(&service, "t", 0, &[5, 7]);
    append(&service, "u", 0, &[5]);
    append(&service, "u", 1, &[6]);
    let answer = expect(service.get("/v1/records?topics=u,t&order=timestamp"), 200).await;
    let place = |r: &Value| format!("{}{}/{}", r["topic"], r["partition"], r["offset"]).replace('"', "");
    let of: Vec<String> = lines(&answer).iter().map(place).collect();
    // Equal timestamps come in the order of topics.
    assert_eq!(of, ["u0/0", "t0/0", "u1/0", "t0/1"]);
    assert!(answer.text().starts_with(r#"{"topic":"u","partition":0,"#));
    let alone = service.get("/v1/records?topics=t").await;
    assert!(alone.text().starts_with(r#"{"partition":0,"#), "{}", alone.text());
    let answer = service.get("/v1/records?topics=t,x").await;
    answer.problem(404, "unknown-topic");
    service.get("/v1/records").await.invalid("topics");
}

#[tokio::test]
async fn headers_are_compared_and_all_that_are_named_must_match() {
    let service = service(1).await;
    let twice: &[(&[u8], Option<&[u8]>)] = &[(b"type", Some(b"b")), (b"type", Some(b"a"))];
    service.append(
        "t",
        0,
        true,
        &[
            (1, None, Some(b"1"), &[(b"type", Some(b"a")), (b"x", Some(b"1"))]),
            (2, None, Some(b"2"), twice),
            (3, None, Some(b"3"), &[(b"x", Some(b"1"))]),
        ],
    );
    assert_eq!(replay(&service, "header.type=a").await, ["0/0", "0/1"]);
    assert_eq!(replay(&service, "header.type=a&header.x=1").await, ["0/0"]);
    let found = replay(&service, "header.type=a&order=timestamp").await;
    assert_eq!(found, ["0/0", "0/1"]);
    assert_eq!(replay(&service, "header.type=c").await, [""; 0]);
}

#[tokio::test]
async fn a_headers_value_is_a_pattern_and_repeated_ones_are_alternatives() {
    let service = service(1).await;
    let types = ["order.paid", "order", "invoice.paid", "order.paid.late", "or*"];
    for kind in types {
        let headers: &[(&[u8], Option<&[u8]>)] = &[(b"type", Some(kind.as_bytes())), (b"x", Some(b"1"))];
        service.append("t", 0, true, &[(1, Some(b"or*"), Some(b"1"), headers)]);
    }
    for (query, expected) in [
        ("header.type=order.*", &["0/0"][..]),
        ("header.type=order.%23", &["0/0", "0/1", "0/3"]),
        ("header.type=*", &["0/1", "0/4"]),
        ("header.type=%23.paid&header.type=order", &["0/0", "0/1", "0/2"]),
        ("header.type=order.*&header.type=none&header.x=1", &["0/0"]),
        ("header.type=order.*&header.x=2", &[]),
        ("header.type=order.*&header.y=%23", &[]),
        ("header.type=order&key=or*", &["0/1"]),
        ("key=*", &[]),
        ("header.type=*.*&last=1", &["0/2"]),
    ] {
        assert_eq!(replay(&service, query).await, expected, "{query}");
    }
    for wrong in ["or*", "order.%23%23", "a.b*.c"] {
        let query = format!("{T}?header.type=x&header.type={wrong}");
        let problem = service.get(&query).await.invalid("header.type");
        says(&problem, "stand alone between dots");
    }
    let many = "header.type=x&".repeat(101);
    let problem = service.get(&format!("{T}?{many}")).await.invalid("header.type");
    says(&problem, "at most 100 patterns");
}

#[tokio::test]
async fn records_of_several_partitions_come_by_time_and_those_of_one_in_their_order() {
    let service = service(3).await;
    append(&service, "t", 0, &[10, 50, 20]);
    append(&service, "t", 2, &[15, 60]);
    append(&service, "t", 1, &[15]);
    append(&service, "t", 1, &[40]);
    let found = replay(&service, "order=timestamp").await;
    assert_eq!(found, ["0/0", "1/0", "2/0", "1/1", "0/1", "0/2", "2/1"]);
    let found = replay(&service, "order=none").await;
    assert_eq!(found, ["0/0", "0/1", "0/2", "1/0", "1/1", "2/0", "2/1"]);
}

/// Damages the whole log of a partition.
fn destroy(dir: &std::path::Path, partition: u32) {
    let path = dir.join(format!("topics/t/{partition}/00000000000000000000.log"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().skip(20).for_each(|byte| *byte ^= 0x55);
    std::fs::write(&path, bytes).unwrap();
}

/// A topic of three partitions with records of two keys, placed by key; and the partitions of the two keys.
async fn keyed() -> (Service, [u32; 2]) {
    let service = service(3).await;
    let homes = ["a", "b"].map(|key| quipu::formats::partitioner::partition_of_key(key.as_bytes(), 3));
    assert_ne!(homes[0], homes[1]);
    for (key, home) in ["a", "b"].into_iter().zip(homes) {
        append_keyed(&service, "t", home, Some(key), &[1, 2]);
    }
    (service, homes)
}

#[tokio::test]
async fn a_key_is_read_from_its_partition_alone_where_the_topic_is_placed_by_key() {
    let (service, [a, b]) = keyed().await;
    let service = service.restart_after(|dir| destroy(dir, b));
    let found = replay(&service, "key=a").await;
    assert_eq!(found, [format!("{a}/0"), format!("{a}/1")]);
    assert_eq!(replay(&service, "key=a&order=timestamp").await.len(), 2);
    refused(&service, "key=b", 500, "corrupt-data").await;
    // One keyed record outside its key's partition, and all partitions must be read.
    let body = json!({"records": [{"key": "a", "value": 1,
        "partition": (0..3).find(|p| *p != a && *p != b).unwrap()}]});
    service.post(T, body).await.ok();
    let uri = format!("{T}?key=a");
    let (bytes, is_clean) = Live::open(&service, &uri, &[]).await.rest().await;
    assert!(!is_clean || String::from_utf8_lossy(&bytes).contains("corrupt-data"));
}

#[tokio::test]
async fn a_key_is_looked_for_everywhere_once_partitions_were_added_or_a_record_was_placed_elsewhere() {
    let (service, [a, _]) = keyed().await;
    let elsewhere = (a + 1) % 3;
    let body = json!({"records": [{"key": "a", "value": 3, "partition": elsewhere}]});
    service.post(T, body).await.ok();
    let found = replay(&service, "key=a").await;
    assert_eq!(found.len(), 3);
    let prefix = format!("{elsewhere}/");
    assert!(found.iter().any(|place| place.starts_with(&prefix)), "{found:?}");

    let (service, _) = keyed().await;
    expect(service.patch("/v1/topics/t", json!({"partitions": 7})), 200).await;
    append_keyed(&service, "t", 5, Some("a"), &[9]);
    assert_eq!(replay(&service, "key=a").await.len(), 3);
}

#[tokio::test]
async fn with_follow_a_key_is_watched_in_all_partitions() {
    let (service, [a, b]) = keyed().await;
    let mut live = live_events(&service, "key=a&follow=true").await;
    let mut seen = live.next_events().await;
    while seen.len() < 2 {
        seen.extend(live.next_events().await);
    }
    assert_eq!(places(&records(&seen)), [format!("{a}/0"), format!("{a}/1")]);
    let body = json!({"records": [{"key": "b", "value": 0}, {"key": "a", "value": 3, "partition": b}]});
    service.post(T, body).await.ok();
    let events = live.next_events().await;
    assert_eq!(places(&records(&events)), [format!("{b}/3")]);
    // The cursor has the places of the other partitions too.
    append_keyed(&service, "t", a, Some("a"), &[4]);
    let headers = [("accept", EVENTS), ("last-event-id", &*events[0].id)];
    let uri = format!("{T}?key=a&follow=true");
    let mut live = Live::open(&service, &uri, &headers).await;
    assert_eq!(live.next_places().await, [format!("{a}/2")]);
}

#[tokio::test]
async fn who_was_told_everything_and_asks_again_is_told_that_nothing_is_left() {
    let service = service(2).await;
    append(&service, "t", 0, &[1, 2]);
    for query in [
        "",
        "?header.type=x",
        "?order=timestamp",
        "?until=1000&follow=true",
    ] {
        let uri = format!("{T}{query}");
        let (events, _) = replay_events(&service, &uri, "").await;
        let end = events.last().unwrap();
        assert_eq!(end.name, "end");
        let headers = [("accept", EVENTS), ("last-event-id", &*end.id)];
        let answer = expect(service.get_with(&uri, &headers), 204).await;
        assert_eq!(answer.body.len(), 0);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        // With `from` it is an empty stream like any other; the same holds for lines.
        let sign = if query.is_empty() { "?" } else { "&" };
        let (events, _) = replay_events(&service, &format!("{uri}{sign}from={}", end.id), "").await;
        assert_eq!(events.len(), 1);
        let headers = [("last-event-id", &*end.id)];
        let answer = expect(service.get_with(&uri, &headers), 200).await;
        assert_eq!(answer.body, b"");
    }
    let (events, _) = replay_events(&service, T, "").await;
    append(&service, "t", 1, &[3]);
    let found = places_after(&service, T, &events.last().unwrap().id).await;
    assert_eq!(found, ["1/0"]);
    assert_eq!(events.last().unwrap().name, "end");
}

#[tokio::test]
async fn a_cursor_of_something_else_is_refused_and_one_of_a_topic_that_is_gone_has_expired() {
    let service = service(1).await;
    service.create_topic("u", 1).await;
    append(&service, "t", 0, &[1, 2]);
    let (events, _) = replay_events(&service, T, "").await;
    let id = events[0].id.clone();
    let headers = [("accept", EVENTS), ("last-event-id", &*id)];
    let answer = service.get_with("/v1/topics/u/records", &headers).await;
    answer.invalid("Last-Event-ID");
    for uri in ["/v1/records?topics=t,u", "/v1/records?topics=u"] {
        let uri = format!("{uri}&from={id}");
        service.get(&uri).await.invalid("from");
    }
    // One topic under another path is the same stream.
    let found = lines(&service.get(&format!("/v1/records?topics=t&from={id}")).await).len();
    assert_eq!(found, 1);
    let other = Service::new();
    other.create_topic("t", 1).await;
    append(&other, "t", 0, &[1, 2]);
    // It may be the same server, before its directory was restored from a backup.
    let problem = other
        .get(&format!("{T}?from={id}"))
        .await
        .problem(410, "cursor-expired");
    has(&problem, json!({"pointer": "from"}));
    // A cursor beyond the end, as after an older backup is restored.
    let (far, _) = replay_events(&service, T, "").await;
    let end = &far.last().unwrap().id;
    let mut beyond = quipu::formats::cursor::Cursor::decode(end).unwrap();
    beyond.reached[0].next = quipu_segments::Offset::new(3);
    let answer = service.get(&format!("{T}?from={}", beyond.encode())).await;
    answer.problem(416, "offset-out-of-range");
    service.delete("/v1/topics/t").await.with_status(204);
    for made_again in [false, true] {
        if made_again {
            service.create_topic("t", 1).await;
        }
        let answer = service.get_with(T, &headers).await;
        let problem = answer.problem(410, "cursor-expired");
        has(&problem, json!({"retryable": false, "outcome": "none"}));
    }
}

#[tokio::test]
async fn cursors_are_good_over_restarts() {
    let service = service(2).await;
    append(&service, "t", 0, &[1, 2]);
    append(&service, "t", 1, &[3]);
    let (events, _) = replay_events(&service, T, "").await;
    let service = service.restart().await;
    assert_eq!(places_after(&service, T, &events[0].id).await, ["0/1", "1/0"]);
}

/// A topic with so many records that their replay takes several chunks.
async fn large() -> Service {
    let service = service(2).await;
    let value = format!("\"{}\"", "x".repeat(1000));
    let rows = (0..100).map(|n| (n, None, Some(value.as_bytes()), &[][..]));
    let samples: Vec<Sample<'_>> = rows.collect();
    for _ in 0..40 {
        service.append("t", 0, true, &samples);
    }
    service
}

#[tokio::test]
async fn representations_methods_and_headers_are_those_of_the_contract() {
    let service = service(1).await;
    append(&service, "t", 0, &[1]);
    for accept in ["text/plain", "text/html", "*/*;q=0"] {
        service.get_as(T, accept).await.problem(406, "not-acceptable");
    }
    for (accept, wanted) in [
        ("*/*", "application/x-ndjson"),
        ("text/event-stream, application/cloudevents+json", EVENTS),
        ("text/event-stream;q=0.5, application/x-ndjson;q=0.4", EVENTS),
    ] {
        let answer = service.get_as(T, accept).await.with_status(200);
        assert_eq!(answer.header("content-type"), Some(wanted));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let found = answer.header("x-accel-buffering");
        assert_eq!(found, (wanted == EVENTS).then_some("no"));
    }
    // Proxies are told not to hold back a live stream, in any format.
    for query in ["follow=true", "speed=1"] {
        let live = service.head(&format!("{T}?{query}")).await;
        assert_eq!(live.header("x-accel-buffering"), Some("no"), "{query}");
    }
    for uri in [T, "/v1/records?topics=t", "/v1/topics/t/records?follow=true"] {
        let answer = service.send(Method::HEAD, uri, &[("accept", EVENTS)], "");
        let answer = expect(answer, 200).await;
        assert_eq!(answer.body.len(), 0);
        assert_eq!(answer.header("content-type"), Some(EVENTS));
        assert_eq!(answer.header("content-length"), None);
    }
    for uri in [T, "/v1/records"] {
        let answer = service.send(Method::PUT, uri, &[], "").await;
        let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "HEAD", "POST"], "{uri}");
        answer.problem(405, "method-not-allowed");
    }
    let answer = service.get("/v1/topics/x/records").await;
    answer.problem(404, "unknown-topic");
    refused(&service, "limit=5", 400, "limit").await;
    refused(&service, "speed=1&order=none", 400, "order").await;
}

#[tokio::test]
async fn a_stream_is_over_at_most_256_partitions() {
    let service = service(257).await;
    let problem = service.get(T).await.problem(400, "invalid-request");
    assert_eq!(problem["pointer"], "partitions");
    says(&problem, "choose with partitions=");
    assert_eq!(replay(&service, "key=a").await, [""; 0], "that is one partition");
    refused(&service, "key=a&follow=true", 400, "partitions").await;
    append(&service, "t", 256, &[1]);
    assert_eq!(replay(&service, "partitions=0,256").await, ["256/0"]);
    service.create_topic("u", 255).await;
    service.create_topic("v", 1).await;
    service.get("/v1/records?topics=u,v").await.with_status(200);
    service.create_topic("w", 1).await;
    let answer = service.get("/v1/records?topics=u,v,w").await;
    answer.problem(400, "invalid-request");
    // A follower whose topics get too many partitions gets an error.
    let uri = "/v1/records?topics=u,v&follow=true";
    let mut live = Live::open(&service, uri, &[("accept", EVENTS)]).await;
    expect(service.patch("/v1/topics/v", json!({"partitions": 2})), 200).await;
    let event = live.next_events().await.remove(0);
    assert_eq!(&*event.name, "error");
    assert_eq!(event.json()["pointer"], "partitions");
}

#[tokio::test]
async fn partitions_take_turns_so_that_a_large_one_holds_up_none() {
    let service = large().await;
    append(&service, "t", 1, &[1]);
    let all = lines(&service.get(T).await);
    assert_eq!(all.len(), 4001);
    let at = all.iter().position(|record| record["partition"] == 1).unwrap();
    assert!(at < 2000, "it comes behind {at} records of the other");
}

#[tokio::test]
async fn streams_are_counted_and_what_they_give_is_fetched() {
    let service = large().await;
    let mut live = Live::open(&service, &format!("{T}?follow=true"), &[]).await;
    live.chunk().await.unwrap().unwrap();
    assert_eq!(service.metric("quipu_streams").await, 1);
    drop(live);
    let before = service.metric("quipu_fetched_records_total").await;
    service.get(T).await.with_status(200);
    assert_eq!(service.metric("quipu_streams").await, 0);
    assert_eq!(service.metric("quipu_fetched_records_total").await - before, 4000);
    assert!(service.metric("quipu_fetched_bytes_total").await > 4_000_000);
}

#[tokio::test]
async fn the_document_has_every_parameter() {
    let service = service(1).await;
    let document = service.get("/openapi.json").await.json();
    for (path, more) in [("/v1/topics/{topic}/records", "topic"), ("/v1/records", "topics")] {
        let get = &document["paths"][path]["get"];
        let rows = get["parameters"].as_array().unwrap().iter();
        let all = rows.map(|parameter| parameter["name"].as_str().unwrap());
        let names: Vec<&str> = all.collect();
        let both = "from until last key partitions headers follow order speed Last-Event-ID";
        for name in both.split(' ').chain([more]) {
            assert!(names.contains(&name), "{path}: {name}");
        }
    }
    assert!(document["paths"]["/v1/topics/{topic}/records"]["post"].is_object());
}

#[tokio::test]
async fn a_record_of_megabytes_is_a_chunk_by_itself() {
    let service = service(1).await;
    let value = format!("\"{}\"", "y".repeat(1_500_000));
    append(&service, "t", 0, &[1]);
    service.append("t", 0, true, &[(2, None, Some(value.as_bytes()), &[])]);
    append(&service, "t", 0, &[3]);
    let all = lines(&service.get(T).await);
    assert_eq!(places(&all), ["0/0", "0/1", "0/2"]);
    assert_eq!(all[1]["value"].as_str().unwrap().len(), 1_500_000);
    let (events, _) = replay_events(&service, &format!("{T}?order=timestamp"), "").await;
    assert_eq!(records(&events), all);
}

#[tokio::test]
async fn a_client_that_reads_nothing_has_nothing_read_for_it() {
    let service = large().await;
    let live = Live::open(&service, &format!("{T}?follow=true"), &[]).await;
    // The counter has what was handed to the connection: the first chunk.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let counters = &service.app.counters;
    let fetched = counters.fetched_bytes.load(Relaxed);
    assert!(fetched <= 128 << 10, "{fetched}");
    drop(live);
    tokio::time::timeout(Duration::from_secs(60), async {
        while counters.streams.load(Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it ends with its client");
}
