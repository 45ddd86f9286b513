//! What clients do wrong, done to the real binary over bare sockets: each gets its clear error, loses nothing that was
//! acknowledged, and leaves the server as it was.
#![allow(
    clippy::disallowed_methods,
    reason = "a test of the real binary lives in the real world"
)]

mod support;

use std::io::Read;
use std::ops::Range;

use support::{Answer, Connection, Server, read_partition};
use tempfile::TempDir;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const BATCHES: &str = "application/vnd.apache.kafka.record-batch";
const MIB: usize = 1 << 20;
/// What the server may hold whatever clients do, file pages not counted: the bodies in flight, the queue, and its own.
const MAX_ANONYMOUS_BYTES: u64 = 192 << 20;
/// A stream is cut into units of so many lines, where a MiB does not end them before.
const UNIT_LINES: usize = 10_000;

/// A server with a topic `t` of one partition, in which a record was acknowledged.
struct Fixture {
    server: Server,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with_settings(&[])
    }

    fn with_settings(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = Server::start_with_settings(&directory.path().join("data"), settings);
        server.create_topic("t", 1);
        let fixture = Self { server, directory };
        fixture.append_one();
        fixture
    }

    /// An acknowledged record, which tells whether the server still works.
    fn append_one(&self) {
        self.server.expect(
            200,
            "POST",
            "/v1/topics/t/records",
            JSON,
            br#"{"records":[{"value":"good"}]}"#,
        );
    }

    fn post(&self, content_type: &str, body: &[u8]) -> Answer {
        self.server
            .connect()
            .request("POST", "/v1/topics/t/records", content_type, body)
            .expect("an answer")
    }

    /// The values of the partition as JSON texts.
    fn values(&self) -> Vec<String> {
        values(&self.server)
    }

    /// Checks that the next request works, that memory is bounded, and that exactly `values` is there, after a restart too.
    fn finish(self, mut values: Vec<String>) {
        self.append_one();
        values.push("\"good\"".to_owned());
        assert!(
            self.values() == values,
            "the partition holds something else than what was accepted"
        );
        let anonymous = self.server.anonymous_bytes();
        assert!(
            anonymous < MAX_ANONYMOUS_BYTES,
            "{anonymous} bytes of anonymous memory"
        );
        self.server.stop();
        let server = Server::start(&self.directory.path().join("data"));
        assert!(
            self::values(&server) == values,
            "the partition holds something else after a restart"
        );
        server.stop();
    }
}

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
    connection
        .send_head("POST", "/v1/topics/t/records", headers)
        .expect("it listens");
    connection
}

#[test]
fn broken_json_at_line_500_000_is_named_and_all_lines_before_it_are_in() {
    const BROKEN: usize = 500_000;
    let fixture = Fixture::new();
    let mut connection = begin_stream(&fixture.server);
    for first in (1..BROKEN).step_by(1000) {
        connection
            .send_chunk(lines(first..BROKEN.min(first + 1000)).as_bytes())
            .expect("it reads");
    }
    connection
        .send_chunk(b"{\"value\":nul}\n{\"value\":500001}\n")
        .expect("it reads");
    connection.send_chunk(b"").expect("it reads");
    let problem = connection
        .answer()
        .expect("an answer")
        .refusal(400, "invalid-request", "partial");
    assert_eq!(problem["line"], BROKEN, "{problem}");
    assert_eq!(problem["accepted"], BROKEN - 1, "{problem}");

    let mut expected = good();
    expected.extend((1..BROKEN).map(|number| number.to_string()));
    assert!(
        fixture.values() == expected,
        "the partition holds something else than the lines before the broken one"
    );
    fixture.finish(expected);
}

#[test]
fn a_record_of_20_mib_is_refused_in_every_form_by_an_answer_that_its_sender_can_read() {
    let fixture = Fixture::new();
    let value = "v".repeat(20 * MIB);

    let body = format!(r#"{{"records":[{{"value":"small"}},{{"value":"{value}"}}]}}"#);
    let problem = fixture
        .post(JSON, body.as_bytes())
        .refusal(413, "record-too-large", "none");
    assert!(
        problem["pointer"]
            .as_str()
            .is_none_or(|pointer| pointer.starts_with("/records/1")),
        "{problem}"
    );
    fixture
        .post("text/plain", value.as_bytes())
        .refusal(413, "record-too-large", "none");
    fixture
        .post(JSON, &vec![b' '; 33 * MIB])
        .refusal(413, "request-too-large", "none");

    let stream = format!("{{\"value\":1}}\n\n{{\"value\":\"{value}\"}}\n{{\"value\":2}}\n");
    let problem = fixture
        .post(NDJSON, stream.as_bytes())
        .refusal(413, "record-too-large", "partial");
    assert_eq!(problem["line"], 3, "{problem}");
    assert_eq!(problem["accepted"], 1, "{problem}");

    let mut expected = good();
    expected.push("1".to_owned());
    fixture.finish(expected);
}

#[test]
fn what_is_not_there_is_named() {
    let fixture = Fixture::new();
    let ask = |path: &str| fixture.server.connect().get(path);
    let body = br#"{"records":[{"value":1}]}"#;
    let mut connection = fixture.server.connect();
    let produced = connection
        .request("POST", "/v1/topics/nobody/records", JSON, body)
        .expect("an answer");
    produced.refusal(404, "unknown-topic", "none");
    let streamed = connection.request("POST", "/v1/topics/nobody/records", NDJSON, b"{\"value\":1}\n");
    streamed.expect("an answer").refusal(404, "unknown-topic", "none");
    ask("/v1/topics/nobody").refusal(404, "unknown-topic", "none");
    ask("/v1/topics/nobody/partitions/0/records?offset=0").refusal(404, "unknown-topic", "none");
    ask("/v1/topics/t/partitions/1/records?offset=0").refusal(404, "unknown-partition", "none");
    ask("/v1/nothing").refusal(404, "not-found", "none");
    fixture.finish(good());
}

#[test]
fn an_offset_out_of_range_is_told_the_range() {
    let fixture = Fixture::new();
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
        assert_eq!(
            (&problem["log_start_offset"], &problem["end_offset"]),
            (&0.into(), &1.into()),
            "{problem}"
        );
    }
    for nonsense in ["-1", "1.5", "99999999999999999999", "first", ""] {
        ask(nonsense).refusal(400, "invalid-request", "none");
    }
    fixture.finish(good());
}

#[test]
fn a_header_that_is_not_a_string_is_pointed_at() {
    let fixture = Fixture::new();
    let body = br#"{"records":[{"value":1},{"value":2,"headers":{"type":"ok","retries":5}}]}"#;
    let problem = fixture.post(JSON, body).refusal(400, "invalid-request", "none");
    assert_eq!(problem["pointer"], "/records/1/headers/retries", "{problem}");
    let stream = b"{\"value\":1}\n{\"value\":2,\"headers\":{\"retries\":5}}\n";
    let problem = fixture
        .post(NDJSON, stream)
        .refusal(400, "invalid-request", "partial");
    assert_eq!(
        (&problem["line"], &problem["accepted"]),
        (&2.into(), &1.into()),
        "{problem}"
    );
    let mut expected = good();
    expected.push("1".to_owned());
    fixture.finish(expected);
}

#[test]
fn a_client_that_hangs_up_within_a_json_body_has_stored_nothing() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let mut connection = fixture.server.connect();
        let headers = "Content-Type: application/json\r\nContent-Length: 2000000\r\n";
        connection
            .send_head("POST", "/v1/topics/t/records", headers)
            .expect("it listens");
        // Whole records, in a body that is not.
        connection
            .send(br#"{"records":[{"value":1},{"value":2}"#)
            .expect("it reads");
        connection.send(&vec![b' '; MIB]).expect("it reads");
    }
    fixture.finish(good());
}

#[test]
fn a_client_that_hangs_up_within_a_stream_leaves_whole_units() {
    const SENT: usize = 2 * UNIT_LINES + 5000;
    let fixture = Fixture::new();
    let mut connection = begin_stream(&fixture.server);
    for first in (1..SENT).step_by(1000) {
        connection
            .send_chunk(lines(first..first + 1000).as_bytes())
            .expect("it reads");
    }
    connection.send_chunk(b"{\"value\":").expect("it reads");
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
    Fixture { server, directory }.finish(expected);
}

#[test]
fn clients_that_ask_for_much_and_read_nothing_hold_up_nobody() {
    const READERS: usize = 12;
    let fixture = Fixture::new();
    let value = format!("\"{}\"", "v".repeat(1000));
    let mut expected = good();
    for _ in 0..32 {
        let body = format!("{{\"value\":{value}}}\n").repeat(1000);
        let answer = fixture.post(NDJSON, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        expected.extend(std::iter::repeat_n(value.clone(), 1000));
    }
    let fetch = "/v1/topics/t/partitions/0/records?offset=0&max_records=100000&max_bytes=33554432";
    let forms = [JSON, NDJSON, BATCHES];
    let mut readers = Vec::new();
    for accept in forms.into_iter().cycle().take(READERS) {
        let mut connection = fixture.server.connect();
        connection
            .send_head("GET", fetch, &format!("Accept: {accept}\r\n"))
            .expect("it listens");
        // The answer has begun: what it needs is held from now on, as far as it ever will be.
        let head = connection.answer_head().expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        readers.push((connection, head));
        fixture.append_one();
        expected.push("\"good\"".to_owned());
    }
    let anonymous = fixture.server.anonymous_bytes();
    println!(
        "{READERS} slow readers: {} KiB of anonymous memory",
        anonymous >> 10
    );
    assert!(
        anonymous < MAX_ANONYMOUS_BYTES,
        "{anonymous} bytes of anonymous memory"
    );

    // One of them reads on after all, and gets everything.
    let (mut late, head) = readers.swap_remove(1);
    let body = late.answer_body(&head).expect("the answer goes on");
    let found = body.split_inclusive(|byte| *byte == b'\n').count();
    assert!(
        found > 20_000 && body.ends_with(b"\n"),
        "{found} records in {} bytes",
        body.len()
    );
    drop(readers);
    fixture.finish(expected);
}

#[test]
fn clients_that_send_their_head_slowly_are_let_go_and_hold_up_nobody() {
    let fixture = Fixture::with_settings(&[("QUIPU_HEADER_READ_TIMEOUT_MS", "1000")]);
    let mut expected = good();
    let mut slow: Vec<Connection> = (0..200)
        .map(|_| {
            let mut connection = fixture.server.connect();
            connection
                .send(b"GET /health/live HTTP/1.1\r\nHost: localhost")
                .expect("it listens");
            connection
        })
        .collect();
    for _ in 0..20 {
        fixture.append_one();
        expected.push("\"good\"".to_owned());
    }
    for connection in &mut slow {
        // It may be told why, or just closed; it is not left open.
        let mut rest = Vec::new();
        let _ = connection.stream.read_to_end(&mut rest);
        let text = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    fixture.finish(expected);
}
