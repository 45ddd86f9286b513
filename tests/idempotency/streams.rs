//! NDJSON, whose units are appended once each: a retry completes what was cut off.

use axum::body::Body;
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{appended, break_off, configure, count, post, refused, replayed, start};
use crate::requests::{NDJSON, RECORDS, Sent, UNIT_LINES, lines, sent};
use crate::support::{Rng, Service};

/// The end of the line with this number, counted from 0: the position of its line break.
fn end_of_line(lines: &[u8], number: usize) -> usize {
    let mut ends = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.nth(number).expect("it has so many lines").0
}

/// Sends a stream that is refused after so many of its records are stored; returns the problem.
async fn refused_after(accepted: usize, service: &Service, request: &Sent, status: u16, code: &str) -> Value {
    let problem = refused(service, request, status, code).await;
    assert_eq!(problem["accepted"], accepted);
    problem
}

/// Sends a stream in which this line, counted from 1, is too large; those before it are stored.
async fn too_large(line: usize, service: &Service, request: &Sent) {
    let problem = refused_after(line - 1, service, request, 413, "record-too-large").await;
    assert_eq!(problem["line"], line);
}

/// Lines with these fields before the value.
fn lines_with(fields: &str, count: usize) -> String {
    (0..count)
        .map(|n| format!("{{{fields}\"value\":{n}}}\n"))
        .collect()
}

/// A stream that expects the offset 0 and breaks in its second unit; returns the request that retries it.
async fn cut_off(service: &Service, fields: &str) -> Sent {
    let uri = format!("{RECORDS}?expected_offset=0");
    let begun = lines_with(fields, UNIT_LINES + 3);
    break_off(service, &uri, "k", begun.as_bytes(), UNIT_LINES).await;
    sent(&uri, NDJSON, lines_with(fields, 2 * UNIT_LINES + 7)).key("k")
}

#[tokio::test]
async fn a_stream_that_was_cut_off_is_completed_by_its_retry() {
    let service = start().await;
    let body = lines(3 * UNIT_LINES + 10);
    // Breaks in the middle of the third unit: two are stored.
    let cut = end_of_line(&body, 2 * UNIT_LINES + 100) + 4;
    break_off(&service, RECORDS, "k", &body[..cut], 2 * UNIT_LINES).await;
    assert_eq!(count(&service, "t").await, 2 * UNIT_LINES as u64);
    let whole = sent(RECORDS, NDJSON, body).key("k");
    let answer = post(&service, &whole).await;
    let total = 3 * UNIT_LINES as u64 + 10;
    assert_eq!(answer.appended()["records"], total, "not all of it was there");
    assert_eq!(count(&service, "t").await, total);
    let again = post(&service, &whole).await;
    assert_eq!(again.replayed(), answer.json());
    // The stored records are those that were sent, in their order.
    let partitions = answer.json()["partitions"].clone();
    let parts = partitions.as_array().unwrap().iter();
    let records = parts.map(|part| part["records"].as_u64().unwrap());
    assert_eq!(records.sum::<u64>(), total);
    // Another stream whose first units are the same is refused at the first unit that differs; the equal ones stay.
    let longer = sent(RECORDS, NDJSON, lines(4 * UNIT_LINES)).key("k");
    refused_after(3 * UNIT_LINES, &service, &longer, 422, "idempotency-key-reused").await;
    assert_eq!(count(&service, "t").await, total);
}

#[tokio::test]
async fn a_condition_of_a_stream_holds_for_what_its_retry_still_appends() {
    let service = start().await;
    service.create_topic("one", 1).await;
    let uri = |offset: u64| format!("/v1/topics/one/records?expected_offset={offset}");
    appended(&service, &sent(&uri(0), NDJSON, lines(5))).await;
    let body = lines(2 * UNIT_LINES + 7);
    let begun = &body[..end_of_line(&body, UNIT_LINES + 100)];
    break_off(&service, &uri(5), "k", begun, UNIT_LINES).await;
    let retry = sent(&uri(5), NDJSON, body.clone()).key("k");
    let answer = appended(&service, &retry).await;
    let total = body.iter().filter(|byte| **byte == b'\n').count() as u64;
    let all = json!({"partition": 0, "first_offset": 5, "last_offset": 4 + total, "records": total});
    assert_eq!(answer, json!({"records": total, "partitions": [all]}));
    replayed(&service, &retry).await;
    // If another writer appended between the two tries, the rest is not appended behind its records.
    let next = 5 + total;
    break_off(&service, &uri(next), "second", begun, UNIT_LINES).await;
    appended(&service, &sent("/v1/topics/one/records", NDJSON, lines(1))).await;
    let retry = sent(&uri(next), NDJSON, body.clone()).key("second");
    let problem = refused_after(UNIT_LINES, &service, &retry, 412, "offset-mismatch").await;
    assert_eq!(problem["outcome"], "partial");
}

#[tokio::test]
async fn a_wrong_line_is_named_again_and_what_is_before_it_is_there_once() {
    let service = start().await;
    let mut body = lines(UNIT_LINES + 20);
    body.extend_from_slice(b"nonsense\n{}\n");
    let request = sent(RECORDS, NDJSON, body).key("k");
    for _ in 0..2 {
        let problem = refused_after(UNIT_LINES + 20, &service, &request, 400, "invalid-request").await;
        assert_eq!(problem["line"], UNIT_LINES + 21);
        assert_eq!(count(&service, "t").await, UNIT_LINES as u64 + 20);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_allowed_any_more_is_passed_over_where_it_is_in_and_ends_where_it_is_not() {
    let service = start().await;
    let body = lines(UNIT_LINES + 20);
    let first = [b"{\"value\":\"first\"}\n", &body[..]].concat();
    appended(&service, &sent(RECORDS, NDJSON, first.clone()).key("k")).await;
    configure(&service, json!({"config": {"max_record_bytes": 6}})).await;
    replayed(&service, &sent(RECORDS, NDJSON, first.clone()).key("k")).await;
    let total = UNIT_LINES + 21;
    let longer = sent(RECORDS, NDJSON, [&first[..], &lines(UNIT_LINES)].concat()).key("k");
    refused_after(UNIT_LINES, &service, &longer, 422, "idempotency-key-reused").await;
    too_large(1, &service, &sent(RECORDS, NDJSON, first).key("new")).await;
    assert_eq!(count(&service, "t").await, total as u64);
}

#[tokio::test]
async fn a_conditional_stream_goes_on_in_the_partition_of_its_first_try() {
    let service = start().await;
    let whole = cut_off(&service, "").await;
    let answer = post(&service, &whole).await;
    let appended = answer.appended();
    let partitions = appended["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 1, "{partitions:?}");
    assert_eq!(partitions[0]["last_offset"], 2 * UNIT_LINES + 6);
    assert_eq!(replayed(&service, &whole).await, answer.json());
}

#[tokio::test]
async fn a_conditional_stream_does_not_go_on_in_another_partition_where_partitions_were_added() {
    let service = start().await;
    // A key whose partition changes when a topic of four partitions gets a fifth.
    let fields = "\"key\":\"k1\",";
    let retry = cut_off(&service, fields).await;
    configure(&service, json!({"partitions": 5})).await;
    // The new partition of the key is as long as the condition expects.
    let fill = lines_with(fields, UNIT_LINES);
    appended(&service, &sent(RECORDS, NDJSON, fill)).await;
    let problem = refused_after(UNIT_LINES, &service, &retry, 400, "invalid-request").await;
    assert_eq!(problem["pointer"], "expected_offset");
    assert_eq!(count(&service, "t").await, 2 * UNIT_LINES as u64);
}

#[tokio::test]
async fn streams_of_any_shape_cut_anywhere_and_sent_at_the_same_time_are_there_once() {
    let mut rng = Rng::from_environment("streams_of_any_shape");
    for round in 0..6_u64 {
        let service = start().await;
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
            let sends: Vec<_> = (0..3)
                .map(|_| {
                    let until = rng.below(body.len() as u64 + 1) as usize;
                    let body = pieces(&mut rng, until, true);
                    service.send(Method::POST, RECORDS, &headers, body)
                })
                .collect();
            for answer in join_all(sends).await {
                answer.problem(408, "request-timeout");
            }
            if rng.below(3) == 0 {
                let partitions = 4 + rng.below(3);
                let change = json!({"partitions": partitions}).to_string();
                service.send(Method::PATCH, "/v1/topics/t", &[], change).await;
            }
        }
        let until = body.len();
        let whole: Vec<Body> = (0..3).map(|_| pieces(&mut rng, until, false)).collect();
        let sends = whole
            .into_iter()
            .map(|body| service.send(Method::POST, RECORDS, &headers, body));
        let answers = join_all(sends).await;
        let first = answers[0].ok();
        for answer in &answers {
            assert_eq!(answer.ok(), first);
        }
        assert_eq!(first["records"], values.len(), "round {round}");
        assert_eq!(count(&service, "t").await, values.len() as u64);
        let mut seen = Vec::new();
        for partition in first["partitions"].as_array().unwrap() {
            let uri = format!(
                "/v1/topics/t/partitions/{}/records?offset=0&max_records=100000&max_bytes=33554432",
                partition["partition"]
            );
            let fetched = service.get(&uri).await.ok();
            let records = fetched["records"].as_array().unwrap();
            assert_eq!(records.len(), partition["records"].as_u64().unwrap() as usize);
            assert_eq!(records[0]["offset"], partition["first_offset"]);
            assert_eq!(records.last().unwrap()["offset"], partition["last_offset"]);
            let number = |record: &Value| record["value"][0].as_u64().unwrap();
            let of_partition: Vec<u64> = records.iter().map(number).collect();
            assert!(of_partition.is_sorted(), "{partition}");
            seen.extend(of_partition);
        }
        seen.sort_unstable();
        assert_eq!(seen, values, "round {round}");
    }
}

#[tokio::test]
async fn a_line_that_is_far_too_long_by_now_is_passed_over_where_it_is_in() {
    let service = start().await;
    let long = format!("{{\"value\":1}}\n{{\"value\":\"{}\"}}\n", "x".repeat(1_000_000));
    let request = sent(RECORDS, NDJSON, long.clone()).key("k");
    let first = post(&service, &request).await;
    first.appended();
    configure(&service, json!({"config": {"max_record_bytes": 6}})).await;
    assert_eq!(replayed(&service, &request).await, first.json());
    too_large(2, &service, &sent(RECORDS, NDJSON, long.clone()).key("new")).await;
    too_large(2, &service, &sent(RECORDS, NDJSON, long)).await;
}
