//! Requests that are too large in any way that one can be.

use std::io::Write;

use super::{Fixture, JSON, MIB, NDJSON, read_to_the_end};
use crate::support::{Answer, Connection, says};

fn post(fixture: &Fixture, content_type: &str, coding: &str, body: &[u8]) -> Answer {
    let coding = match coding {
        "" => String::new(),
        coding => format!("Content-Encoding: {coding}\r\n"),
    };
    fixture.upload(content_type, &coding, body).answered()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    encoder.window_log(window_log).expect("a window");
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn heads_that_are_too_large_are_refused_and_their_connections_closed() {
    let fixture = Fixture::new(&[]);
    let long = "x".repeat(MIB);
    let many: String = (0..10_000).map(|n| format!("x{n}: y\r\n")).collect();
    let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}");
    let get = "GET /health/live";
    for (head, statuses) in [
        (head(&format!("GET /{long}"), "\r\n"), [414, 431]),
        (head(&format!("{get}?{long}"), "\r\n"), [414, 431]),
        (head(get, &format!("X: {long}\r\n\r\n")), [431, 431]),
        (head(get, &format!("{long}: x\r\n\r\n")), [431, 400]),
        (head(&format!("{long} /"), "\r\n"), [431, 400]),
        (head(get, &format!("{many}\r\n")), [431, 431]),
        // A head that never ends.
        (head(get, &format!("X: {long}")), [431, 431]),
    ] {
        let mut connection = fixture.server.connect();
        // It may be refused and closed while it is being sent.
        let _ = connection.send(head.as_bytes());
        let answer = read_to_the_end(&mut connection);
        let text = String::from_utf8_lossy(&answer);
        let is_answer = |status: &i32| text.starts_with(&format!("HTTP/1.1 {status} "));
        assert!(text.is_empty() || statuses.iter().any(is_answer), "{text}");
    }
    fixture.check_memory("after large heads");
    fixture.append("good");
    fixture.finish(&["good".to_owned()]);
}

#[test]
fn bodies_that_are_too_large_are_refused_however_they_come() {
    let fixture = Fixture::new(&[]);
    // A declared length: refused before any byte of the body.
    let headers = "Content-Type: application/json\r\nContent-Length: 1099511627776\r\n";
    let answer = fixture.begin(headers, b"").answered();
    answer.refusal(413, "request-too-large", "none");
    // A body in chunks: refused as soon as it is too large.
    let headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let mut connection = fixture.begin(headers, b"");
    let chunk = vec![b' '; MIB];
    for _ in 0..40 {
        connection.chunk(&chunk);
    }
    connection.answered().refusal(413, "request-too-large", "none");
    drop(connection);
    fixture.check_memory("after large bodies");
    fixture.append("good");
    fixture.finish(&["good".to_owned()]);
}

#[test]
fn bodies_that_unpack_to_much_more_cost_no_more() {
    let fixture = Fixture::new(&[]);
    let unpacked = vec![b' '; 80 * MIB];
    let packed = [("gzip", gzip(&unpacked)), ("zstd", zstd(&unpacked, 23))];
    drop(unpacked);
    for (coding, bomb) in &packed {
        for content_type in [JSON, "text/plain"] {
            post(&fixture, content_type, coding, bomb).refusal(413, "request-too-large", "none");
        }
        // One line that does not end.
        let problem = post(&fixture, NDJSON, coding, bomb).refusal(413, "record-too-large", "none");
        assert_eq!(problem["line"], 1, "{problem}");
        // Many compressed members in a row, read up to the limit.
        post(&fixture, JSON, coding, &bomb.repeat(20)).refusal(413, "request-too-large", "none");
    }
    // Blank lines are no records, however many.
    let blank = gzip("\n".repeat(5 * MIB).as_bytes());
    let answer = post(&fixture, NDJSON, "gzip", &blank);
    assert_eq!(answer.with_status(200).json()["records"], 0);
    // A window above what HTTP allows.
    post(&fixture, JSON, "zstd", &zstd(&[b' '; 1000], 27)).refusal(400, "invalid-request", "none");
    fixture.check_memory("after bombs");
    fixture.append("good");
    fixture.finish(&["good".to_owned()]);
}

#[test]
fn blank_lines_without_end_hold_up_nobody_and_are_refused() {
    // One worker, so that a request that keeps it stops the whole server.
    let fixture = Fixture::new(&[("TOKIO_WORKER_THREADS", "1")]);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    let line = [vec![b' '; MIB - 1], b"\n".to_vec()].concat();
    for _ in 0..20 {
        encoder.write_all(&line).expect("memory");
    }
    let bomb = encoder.finish().expect("memory");
    let begin = || fixture.upload(NDJSON, "Content-Encoding: zstd\r\n", &bomb);
    let mut keys = Vec::new();
    // Each round takes as long as the refusals, and one append may be answered behind them. On a slow disk a round has few.
    for _ in 0..10 {
        let mut uploads = [(); 16].map(|()| begin());
        std::thread::scope(|scope| {
            let refusals = scope.spawn(|| uploads.each_mut().map(Connection::answered));
            while !refusals.is_finished() {
                keys.push(keys.len().to_string());
                fixture.append(&keys[keys.len() - 1]);
            }
            for answer in refusals.join().expect("it does not panic") {
                let problem = answer.refusal(400, "invalid-request", "none");
                says(&problem, "16 MiB of blank lines");
            }
        });
        if keys.len() > 10 {
            break;
        }
    }
    assert!(keys.len() > 10, "{} others were answered meanwhile", keys.len());
    // A stopping server waits for none of them.
    let _upload = begin();
    fixture.finish(&keys);
}

#[test]
fn deep_long_and_many_is_refused_or_taken_within_bounds() {
    let fixture = Fixture::new(&[]);
    let deep = "[".repeat(MIB);
    for (open, close) in [
        (deep.clone(), String::new()),
        (deep.clone(), "]".repeat(MIB)),
        ("{\"a\":".repeat(MIB / 5), String::new()),
    ] {
        let document = format!("{{\"records\":[{{\"value\":{open}{close}}}]}}");
        post(&fixture, JSON, "", document.as_bytes()).refusal(400, "invalid-request", "none");
        let line = format!("{{\"value\":{open}{close}}}\n");
        post(&fixture, NDJSON, "", line.as_bytes());
        post(&fixture, JSON, "", open.as_bytes()).refusal(400, "invalid-request", "none");
        let path = "/v1/topics/other";
        let mut connection = fixture.server.connect();
        let small = &open.as_bytes()[..60_000];
        let answer = connection.request("PUT", path, JSON, small).expect("an answer");
        answer.refusal(400, "invalid-request", "none");
    }

    // 100,000 headers in a record are refused while they are read; 1,000 are read, and are above the limit.
    for (count, status, code) in [(100_000, 400, "invalid-request"), (1000, 413, "record-too-large")] {
        let headers: Vec<String> = (0..count).map(|n| format!("\"h{n}\":\"v\"")).collect();
        let record = format!("{{\"headers\":{{{}}}}}", headers.join(","));
        let document = format!("{{\"records\":[{record}]}}");
        post(&fixture, JSON, "", document.as_bytes()).refusal(status, code, "none");
        let line = format!("{record}\n");
        post(&fixture, NDJSON, "", line.as_bytes()).refusal(status, code, "none");
    }

    // A line of 64 MiB.
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    let mut connection = fixture.begin(headers, b"");
    connection.chunk(b"{\"value\":\"");
    let chunk = vec![b'x'; MIB];
    for _ in 0..64 {
        connection.chunk(&chunk);
    }
    let problem = connection.answered().refusal(413, "record-too-large", "none");
    assert_eq!(problem["line"], 1, "{problem}");
    fixture.check_memory("after deep, long and many");

    // A million tiny lines are a million records.
    let lines = "{}\n".repeat(1_000_000);
    let answer = post(&fixture, NDJSON, "", lines.as_bytes());
    assert_eq!(answer.with_status(200).json()["records"], 1_000_000);
    fixture.check_memory("after a million lines");
    let end = fixture.server.get("/v1/topics/t")["partitions"][0]["end_offset"].clone();
    assert_eq!(end, 1_000_000);
}

#[test]
fn answers_that_nobody_reads_are_bounded_together() {
    const CLIENTS: usize = 8;
    let fixture = Fixture::new(&[]);
    // Each answer would have 8 MB in one piece.
    const EACH: usize = 300_000;
    let document = format!("{{\"records\":[{{}}{}]}}", ",{}".repeat(EACH - 1));
    let begin = |_| {
        let mut connection = fixture.upload(JSON, "", document.as_bytes());
        let head = connection.answering();
        (connection, head)
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(begin).collect();
    fixture.check_memory("long answers of producers");
    // Reports are made whole before they are sent.
    fixture.server.create_topic("wide", 10_000);
    let ask = |n| fixture.ask(["/metrics", "/v1/topics/wide"][n % 2]);
    let mut silent: Vec<_> = (0..CLIENTS * 5).map(ask).collect();
    for connection in &mut silent {
        let head = connection.answer_head().expect("an answer");
        assert!(matches!(head.status, 200 | 503), "{head:?}");
    }
    fixture.check_memory("long reports");
    // They block nobody, and a client that reads on gets everything.
    fixture.ask("/metrics").answered().with_status(200);
    let (mut connection, head) = clients.swap_remove(0);
    let body = connection.answer_body(&head).expect("the answer goes on");
    let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(answer["offsets"].as_array().map(Vec::len), Some(EACH));
    fixture.append("good");
}
