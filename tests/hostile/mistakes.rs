//! What clients do wrong, done to the real binary over bare sockets: each gets its clear error, loses nothing that was
//! acknowledged, and leaves the server as it was.

use std::io::Read;
use std::ops::Range;

use super::{Fixture, JSON, MIB, NDJSON, RECORDS};
use crate::support::{Answer, Connection, Server, read_partition};

const BATCHES: &str = "application/vnd.apache.kafka.record-batch";
/// What the server may hold whatever clients do, file pages not counted: the bodies in flight, the queue, and its own.
const MAX_ANONYMOUS_BYTES: u64 = 192 << 20;
/// A stream is cut into units of so many lines, where a MiB does not end them before.
const UNIT_LINES: usize = 10_000;

/// A server in which a record was acknowledged.
fn start(settings: &[(&str, &str)]) -> Fixture {
    let fixture = Fixture::new(settings);
    append_one(&fixture);
    fixture
}

/// An acknowledged record, which tells whether the server still works.
fn append_one(fixture: &Fixture) {
    let body = br#"{"records":[{"value":"good"}]}"#;
    fixture.server.expect(200, "POST", RECORDS, JSON, body);
}

fn post(fixture: &Fixture, content_type: &str, body: &[u8]) -> Answer {
    fixture.server.connect().call("POST", RECORDS, content_type, body)
}

/// Checks that the next request works, that memory is bounded, and that exactly `values` is there, after a restart too.
fn finish(fixture: Fixture, mut expected: Vec<String>) {
    append_one(&fixture);
    expected.push("\"good\"".to_owned());
    let is_kept = values(&fixture.server) == expected;
    assert!(
        is_kept,
        "the partition holds something else than what was accepted"
    );
    fixture.check_memory_below(MAX_ANONYMOUS_BYTES, "in the end");
    let Fixture { server, directory } = fixture;
    server.stop();
    let server = Server::start(&directory.path().join("data"));
    let is_kept = values(&server) == expected;
    assert!(is_kept, "the partition holds something else after a restart");
    server.stop();
}

/// The values of the partition as JSON texts.
fn values(server: &Server) -> Vec<String> {
    let mut values = Vec::new();
    read_partition(&mut server.connect(), "t", 0, 0, |record| {
        values.push(record.value.get().to_owned())
    });
    values
}

fn good() -> Vec<String> {
    vec!["\"good\"".to_owned()]
}

/// Lines of a stream, numbered from 1 as problems number them.
fn lines(numbers: Range<usize>) -> String {
    numbers
        .map(|number| format!("{{\"value\":{number}}}\n"))
        .collect()
}

fn begin_stream(server: &Server) -> Connection {
    let mut connection = server.connect();
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    connection.begin("POST", RECORDS, headers);
    connection
}

#[test]
fn broken_json_at_line_500_000_is_named_and_all_lines_before_it_are_in() {
    const BROKEN: usize = 500_000;
    let fixture = start(&[]);
    let mut connection = begin_stream(&fixture.server);
    for first in (1..BROKEN).step_by(1000) {
        connection.chunk(lines(first..BROKEN.min(first + 1000)).as_bytes());
    }
    connection.chunk(b"{\"value\":nul}\n{\"value\":500001}\n");
    connection.chunk(b"");
    let problem = connection.answered().refusal(400, "invalid-request", "partial");
    assert_eq!(problem["line"], BROKEN, "{problem}");
    assert_eq!(problem["accepted"], BROKEN - 1, "{problem}");

    let mut expected = good();
    expected.extend((1..BROKEN).map(|number| number.to_string()));
    assert!(
        values(&fixture.server) == expected,
        "the partition holds something else than the lines before the broken one"
    );
    finish(fixture, expected);
}

#[test]
fn a_record_of_20_mib_is_refused_in_every_form_by_an_answer_that_its_sender_can_read() {
    let fixture = start(&[]);
    let value = "v".repeat(20 * MIB);

    let body = format!(r#"{{"records":[{{"value":"small"}},{{"value":"{value}"}}]}}"#);
    let problem = post(&fixture, JSON, body.as_bytes()).refusal(413, "record-too-large", "none");
    assert!(
        problem["pointer"]
            .as_str()
            .is_none_or(|pointer| pointer.starts_with("/records/1")),
        "{problem}"
    );
    post(&fixture, "text/plain", value.as_bytes()).refusal(413, "record-too-large", "none");
    post(&fixture, JSON, &vec![b' '; 33 * MIB]).refusal(413, "request-too-large", "none");

    let stream = format!("{{\"value\":1}}\n\n{{\"value\":\"{value}\"}}\n{{\"value\":2}}\n");
    let problem = post(&fixture, NDJSON, stream.as_bytes()).refusal(413, "record-too-large", "partial");
    assert_eq!(problem["line"], 3, "{problem}");
    assert_eq!(problem["accepted"], 1, "{problem}");

    let mut expected = good();
    expected.push("1".to_owned());
    finish(fixture, expected);
}

#[test]
fn what_is_not_there_is_named() {
    let fixture = start(&[]);
    let ask = |path: &str| fixture.server.connect().get(path);
    let body = br#"{"records":[{"value":1}]}"#;
    let mut connection = fixture.server.connect();
    let produced = connection.call("POST", "/v1/topics/nobody/records", JSON, body);
    produced.refusal(404, "unknown-topic", "none");
    let streamed = connection.request("POST", "/v1/topics/nobody/records", NDJSON, b"{\"value\":1}\n");
    streamed.expect("an answer").refusal(404, "unknown-topic", "none");
    ask("/v1/topics/nobody").refusal(404, "unknown-topic", "none");
    ask("/v1/topics/nobody/partitions/0/records?offset=0").refusal(404, "unknown-topic", "none");
    ask("/v1/topics/t/partitions/1/records?offset=0").refusal(404, "unknown-partition", "none");
    ask("/v1/nothing").refusal(404, "not-found", "none");
    finish(fixture, good());
}

#[test]
fn an_offset_out_of_range_is_told_the_range() {
    let fixture = start(&[]);
    let ask = |offset: &str| {
        fixture
            .server
            .connect()
            .get(&format!("/v1/topics/t/partitions/0/records?offset={offset}"))
    };
    // At the end there is nothing yet, which is no error.
    assert_eq!(ask("1").status, 200);
    for beyond in ["2", "4611686018427387904", "9223372036854775807"] {
        let problem = ask(beyond).refusal(416, "offset-out-of-range", "none");
        assert_eq!(problem["log_start_offset"], 0, "{problem}");
        assert_eq!(problem["end_offset"], 1, "{problem}");
    }
    for nonsense in ["-1", "1.5", "99999999999999999999", "first", ""] {
        ask(nonsense).refusal(400, "invalid-request", "none");
    }
    finish(fixture, good());
}

#[test]
fn a_header_that_is_not_a_string_is_pointed_at() {
    let fixture = start(&[]);
    let body = br#"{"records":[{"value":1},{"value":2,"headers":{"type":"ok","retries":5}}]}"#;
    let problem = post(&fixture, JSON, body).refusal(400, "invalid-request", "none");
    assert_eq!(problem["pointer"], "/records/1/headers/retries", "{problem}");
    let stream = b"{\"value\":1}\n{\"value\":2,\"headers\":{\"retries\":5}}\n";
    let problem = post(&fixture, NDJSON, stream).refusal(400, "invalid-request", "partial");
    assert_eq!(problem["line"], 2, "{problem}");
    assert_eq!(problem["accepted"], 1, "{problem}");
    let mut expected = good();
    expected.push("1".to_owned());
    finish(fixture, expected);
}

#[test]
fn a_client_that_hangs_up_within_a_json_body_has_stored_nothing() {
    let fixture = start(&[]);
    for _ in 0..20 {
        let mut connection = fixture.server.connect();
        let headers = "Content-Type: application/json\r\nContent-Length: 2000000\r\n";
        connection.begin("POST", RECORDS, headers);
        // Whole records, in a body that is not.
        connection.say(br#"{"records":[{"value":1},{"value":2}"#);
        connection.say(&vec![b' '; MIB]);
    }
    finish(fixture, good());
}

#[test]
fn a_client_that_hangs_up_within_a_stream_leaves_whole_units() {
    const SENT: usize = 2 * UNIT_LINES + 5000;
    let fixture = start(&[]);
    let mut connection = begin_stream(&fixture.server);
    for first in (1..SENT).step_by(1000) {
        connection.chunk(lines(first..first + 1000).as_bytes());
    }
    connection.chunk(b"{\"value\":");
    drop(connection);
    // A stop answers what is in flight: after it nothing of the stream is still on its way.
    let Fixture { server, directory } = fixture;
    server.stop();
    let server = Server::start(&directory.path().join("data"));
    let found = values(&server);
    let count = found.len() - 1;
    assert!(
        count.is_multiple_of(UNIT_LINES) && count <= SENT,
        "{count} lines of {SENT} are there"
    );
    let mut expected = good();
    expected.extend((1..=count).map(|number| number.to_string()));
    assert!(found == expected, "what is there is not a prefix of the stream");
    finish(Fixture { server, directory }, expected);
}

#[test]
fn clients_that_ask_for_much_and_read_nothing_hold_up_nobody() {
    const READERS: usize = 12;
    let fixture = start(&[]);
    let value = format!("\"{}\"", "v".repeat(1000));
    let mut expected = good();
    for _ in 0..32 {
        let body = format!("{{\"value\":{value}}}\n").repeat(1000);
        let answer = post(&fixture, NDJSON, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        expected.extend(std::iter::repeat_n(value.clone(), 1000));
    }
    let fetch = "/v1/topics/t/partitions/0/records?offset=0&max_records=100000&max_bytes=33554432";
    let forms = [JSON, NDJSON, BATCHES];
    let mut readers = Vec::new();
    for accept in forms.into_iter().cycle().take(READERS) {
        let mut connection = fixture.server.connect();
        connection.begin("GET", fetch, &format!("Accept: {accept}\r\n"));
        // The answer has begun: what it needs is held from now on, as far as it ever will be.
        let head = connection.reply_head();
        assert_eq!(head.status, 200, "{head:?}");
        readers.push((connection, head));
        append_one(&fixture);
        expected.push("\"good\"".to_owned());
    }
    fixture.check_memory_below(MAX_ANONYMOUS_BYTES, "slow readers");

    // One of them reads on after all, and gets everything.
    let (mut late, head) = readers.swap_remove(1);
    let body = late.answer_body(&head).expect("the answer goes on");
    let found = body.split_inclusive(|byte| *byte == b'\n').count();
    assert!(found > 20_000, "{found} records in {} bytes", body.len());
    assert!(body.ends_with(b"\n"), "{found} records in {} bytes", body.len());
    drop(readers);
    finish(fixture, expected);
}

#[test]
fn clients_that_send_their_head_slowly_are_let_go_and_hold_up_nobody() {
    let fixture = start(&[("QUIPU_HEADER_READ_TIMEOUT_MS", "1000")]);
    let mut expected = good();
    let mut slow: Vec<Connection> = (0..200)
        .map(|_| {
            let mut connection = fixture.server.connect();
            connection.say(b"GET /health/live HTTP/1.1\r\nHost: localhost");
            connection
        })
        .collect();
    for _ in 0..20 {
        append_one(&fixture);
        expected.push("\"good\"".to_owned());
    }
    for connection in &mut slow {
        // It may be told why, or just closed; it is not left open.
        let mut rest = Vec::new();
        let _ = connection.stream.read_to_end(&mut rest);
        let text = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    finish(fixture, expected);
}
