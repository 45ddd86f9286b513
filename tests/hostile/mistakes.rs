//! Large mistakes of clients: each gets a clear error, and no acknowledged record is lost.

use std::ops::Range;

use serde_json::json;

use super::{Fixture, JSON, MIB, NDJSON, RECORDS};
use crate::support::{Answer, has};

/// The most memory of the server whatever clients do, without file pages: the bodies in flight, the queue, and its own.
const MAX_ANONYMOUS_BYTES: u64 = 192 << 20;

fn post(fixture: &Fixture, content_type: &str, body: &[u8]) -> Answer {
    fixture.server.connect().call("POST", RECORDS, content_type, body)
}

/// Checks that memory is bounded and that exactly `expected` is there, after a restart too.
fn finish(fixture: Fixture, expected: &[String]) {
    fixture.check_memory_below(MAX_ANONYMOUS_BYTES, "in the end");
    fixture.finish_with(|record| record.value.get().to_owned(), expected);
}

/// Lines of a stream, numbered from 1 as problems number them.
fn lines(numbers: Range<usize>) -> String {
    numbers
        .map(|number| format!("{{\"value\":{number}}}\n"))
        .collect()
}

#[test]
fn broken_json_at_line_500_000_is_named_and_all_lines_before_it_are_in() {
    const BROKEN: usize = 500_000;
    let fixture = Fixture::new(&[]);
    let mut connection = fixture.server.connect();
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    connection.begin("POST", RECORDS, headers);
    for first in (1..BROKEN).step_by(1000) {
        connection.chunk(lines(first..BROKEN.min(first + 1000)).as_bytes());
    }
    connection.chunk(b"{\"value\":nul}\n{\"value\":500001}\n");
    connection.chunk(b"");
    let problem = connection.answered().refusal(400, "invalid-request", "partial");
    has(&problem, json!({"line": BROKEN, "accepted": BROKEN - 1}));

    let expected: Vec<String> = (1..BROKEN).map(|number| number.to_string()).collect();
    finish(fixture, &expected);
}

#[test]
fn a_record_of_20_mib_is_refused_in_every_form_by_an_answer_that_its_sender_can_read() {
    let fixture = Fixture::new(&[]);
    let value = "v".repeat(20 * MIB);

    let body = format!(r#"{{"records":[{{"value":"small"}},{{"value":"{value}"}}]}}"#);
    let problem = post(&fixture, JSON, body.as_bytes()).refusal(413, "record-too-large", "none");
    let pointer = problem["pointer"].as_str();
    let is_right = pointer.is_none_or(|pointer| pointer.starts_with("/records/1"));
    assert!(is_right, "{problem}");
    post(&fixture, "text/plain", value.as_bytes()).refusal(413, "record-too-large", "none");
    post(&fixture, JSON, &vec![b' '; 33 * MIB]).refusal(413, "request-too-large", "none");

    let stream = format!("{{\"value\":1}}\n\n{{\"value\":\"{value}\"}}\n{{\"value\":2}}\n");
    let problem = post(&fixture, NDJSON, stream.as_bytes()).refusal(413, "record-too-large", "partial");
    has(&problem, json!({"line": 3, "accepted": 1}));

    let body = br#"{"records":[{"value":"good"}]}"#;
    post(&fixture, JSON, body).with_status(200);
    finish(fixture, &["1".to_owned(), "\"good\"".to_owned()]);
}
