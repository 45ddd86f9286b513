//! Requests that are cut off, at every byte.

use std::collections::BTreeSet;

use super::{Fixture, JSON, MIB, NDJSON, RECORDS, key, parts, read_to_the_end, wait_until};
use crate::support::{Rng, Server};

/// The lines of a unit of a stream, if a MiB does not end it earlier.
const UNIT_LINES: usize = 10_000;

fn request(content_type: &str, framing: &str, body: &str) -> Vec<u8> {
    format!("POST {RECORDS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n{body}")
        .into_bytes()
}

fn with_length(content_type: &str, body: &str) -> Vec<u8> {
    request(content_type, &format!("Content-Length: {}", body.len()), body)
}

fn chunked(content_type: &str, body: &str) -> Vec<u8> {
    let (first, second) = body.split_at(body.len() / 2);
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    let body = format!("{}{}0\r\n\r\n", chunk(first), chunk(second));
    request(content_type, "Transfer-Encoding: chunked", &body)
}

#[test]
fn a_request_cut_off_at_any_byte_stores_nothing() {
    let fixture = Fixture::new(&[]);
    let document = r#"{"records":[{"key":"a","value":{"n":[1,2]}},{"key":"b","headers":{"h":"é"}}]}"#;
    let lines = "{\"key\":\"a\",\"value\":1}\n{\"key\":\"b\"}\n";
    let wholes = [
        with_length(JSON, document),
        chunked(JSON, document),
        with_length(NDJSON, lines),
        chunked(NDJSON, lines),
        with_length("text/plain", "a value"),
        chunked("text/plain", "a value"),
    ];
    for _ in 0..20 {
        // Complete records in an incomplete body.
        let headers = "Content-Type: application/json\r\nContent-Length: 2000000\r\n";
        let mut connection = fixture.begin(headers, br#"{"records":[{"value":1},{"value":2}"#);
        connection.say(&vec![b' '; MIB]);
    }
    let mut expected = Vec::new();
    for whole in &wholes {
        for cut in 0..whole.len() {
            let mut connection = fixture.server.connect();
            connection.send(&whole[..cut]).expect("it reads");
            // Half of them hang up in order, half by a reset; for the first half, the test waits for the server's end.
            if cut % 2 == 0 {
                connection.hang_up();
                let answer = read_to_the_end(&mut connection);
                let text = String::from_utf8_lossy(&answer);
                assert!(!text.starts_with("HTTP/1.1 200"), "cut at {cut}: {text}");
            }
        }
        let mut connection = fixture.server.connect();
        connection.send(whole).expect("it reads");
        connection.answered().with_status(200);
        let is_raw = whole.windows(10).any(|bytes| bytes == b"text/plain");
        let keys: &[&str] = if is_raw { &[""] } else { &["a", "b"] };
        expected.extend(keys.iter().map(ToString::to_string));
    }
    fixture.finish(&expected);
}

#[test]
fn a_client_that_dies_before_its_answer_costs_nothing_that_was_acknowledged() {
    let fixture = Fixture::new(&[]);
    fixture.server.create_topic("pairs", 2);
    let keys = |server: &Server, partition| parts(server, "pairs", partition, key);
    let mut acknowledged = Vec::new();
    let (mut stored, mut cut) = (Vec::new(), Vec::new());
    for number in 0..60 {
        let ack = ["durable", "written"][number % 2];
        let path = format!("/v1/topics/pairs/records?ack={ack}");
        let pair = |what: &str| {
            let record = |partition| format!(r#"{{"partition":{partition},"key":"{what} {number}"}}"#);
            format!(r#"{{"records":[{},{}]}}"#, record(0), record(1))
        };
        let mut connection = fixture.server.connect();
        let answer = connection.request("POST", &path, JSON, pair("acknowledged").as_bytes());
        answer.expect("an answer").with_status(200);
        acknowledged.push(format!("acknowledged {number}"));
        // One more request on the same connection: cut off, or whole with an answer that nobody reads.
        let body = pair("unread");
        let head = format!("Content-Type: {JSON}\r\nContent-Length: {}\r\n", body.len());
        connection.send_head("POST", &path, &head).expect("it listens");
        let length = body.len() / if number % 3 == 0 { 2 } else { 1 };
        connection.send(&body.as_bytes()[..length]).expect("it reads");
        let key = format!("unread {number}");
        match number % 3 {
            0 => cut.push(key),
            1 => {
                // The answer is certainly lost, but the request is stored.
                wait_until("it is stored", || keys(&fixture.server, 1).contains(&key));
                stored.push(key);
            }
            // It may or may not arrive before its client ends.
            _ => {}
        }
    }
    let Fixture { server, directory } = fixture;
    server.kill();
    let server = Server::start(&directory.path().join("data"));
    let found = keys(&server, 0);
    let distinct: BTreeSet<&String> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "something is there twice");
    for key in acknowledged.iter().chain(&stored) {
        assert!(distinct.contains(key), "{key} is lost");
    }
    for key in &cut {
        assert!(!distinct.contains(key), "{key} was never sent to its end");
    }
    // Each request is in both partitions or in none.
    let other = keys(&server, 1);
    assert_eq!(distinct, other.iter().collect());
    server.stop();
}

#[test]
fn a_stream_cut_off_anywhere_leaves_a_prefix_of_its_units() {
    const LINES: usize = 2 * UNIT_LINES + 100;
    let fixture = Fixture::new(&[]);
    let mut rng = Rng::from_environment("a_stream_cut_off_anywhere_leaves_a_prefix_of_its_units");
    let body: String = (0..LINES)
        .map(|number| format!("{{\"key\":\"{number}\"}}\n"))
        .collect();
    let whole = chunked(NDJSON, &body);
    let mut found = Vec::new();
    for _ in 0..8 {
        let cut = rng.below(whole.len() as u64) as usize;
        let mut connection = fixture.server.connect();
        connection.send(&whole[..cut]).expect("it reads");
        connection.hang_up();
        read_to_the_end(&mut connection);
        // The connection and its upload have ended: a unit that was in flight was queued before the mark.
        fixture.append("mark");
        let keys = fixture.keys();
        let upload = &keys[found.len()..keys.len() - 1];
        assert!(upload.len().is_multiple_of(UNIT_LINES), "{} lines", upload.len());
        let is_prefix = upload
            .iter()
            .enumerate()
            .all(|(index, key)| *key == index.to_string());
        assert!(is_prefix, "what is there is not a prefix of the stream");
        found = keys;
    }
    fixture.finish(&found);
}
