//! Clients that are slow with the head, the body or the answer. They cost only what they hold, and block nobody.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::{Fixture, JSON, MIB, NDJSON, open_files, read_to_the_end, wait_until};
use crate::support::Connection;

const FETCH: &str = "/v1/topics/t/partitions/0/records?offset=0&max_records=100000&max_bytes=33554432";

fn large(key: &str) -> String {
    format!(
        "{{\"records\":[{{\"key\":\"{key}\",\"value\":\"{}\"}}]}}{}",
        "v".repeat(MIB / 2),
        " ".repeat(2 * MIB)
    )
}

#[test]
fn bodies_that_are_declared_or_begun_and_do_not_come_keep_nobody_out() {
    let fixture = Fixture::new(&[]);
    let mut expected = Vec::new();
    // Twice the memory for all bodies.
    let headers = format!("Content-Type: {JSON}\r\nContent-Length: 33554432\r\n");
    let mut slow: Vec<Connection> = (0..4).map(|_| fixture.begin(&headers, b"{")).collect();
    for number in 0..4 {
        let key = format!("declared {number}");
        fixture.post_in_the_end(&large(&key));
        expected.push(key);
    }
    // Each wants a window of 8 MiB, for a line that does not end.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    encoder.window_log(23).expect("a window");
    let line = "{\"value\":\"".to_owned() + &"w".repeat(MIB);
    std::io::Write::write_all(&mut encoder, line.as_bytes()).expect("memory");
    std::io::Write::flush(&mut encoder).expect("memory");
    let windowed = encoder.get_ref().clone();
    let length = windowed.len() + 1000;
    let headers = format!("Content-Type: {NDJSON}\r\nContent-Encoding: zstd\r\nContent-Length: {length}\r\n");
    slow.extend((0..40).map(|_| fixture.begin(&headers, &windowed)));
    // They hold and want many times the memory that there is, and each has a second: who comes after all of them may be told
    // to come again.
    for number in 0..4 {
        let key = format!("windows {number}");
        fixture.post_in_the_end(&large(&key));
        expected.push(key);
    }
    fixture.check_memory("44 bodies that do not come");
    drop(slow);
    fixture.finish(&expected);
}

#[test]
fn two_slow_uploads_of_much_keep_nobody_out() {
    let fixture = Fixture::new(&[]);
    let headers = format!("Content-Type: {JSON}\r\nContent-Length: 33554432\r\n");
    let mut expected = Vec::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut connection = fixture.begin(&headers, b"{");
            let is_over = &is_over;
            scope.spawn(move || {
                let bytes = vec![b' '; 16 << 10];
                while !is_over.load(Relaxed) && connection.send(&bytes).is_ok() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Until both have begun.
            for number in 0..20 {
                for document in [
                    format!("{{\"records\":[{{\"key\":\"{number}\"}}]}}"),
                    large(&number.to_string()),
                ] {
                    fixture.post_in_the_end(&document);
                    expected.push(number.to_string());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }));
        is_over.store(true, Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    fixture.finish(&expected);
}

#[test]
fn producers_that_do_not_read_their_long_answers_keep_nobody_out() {
    let fixture = Fixture::new(&[
        ("QUIPU_MAX_REQUEST_BYTES", "4194304"),
        ("QUIPU_MAX_IN_FLIGHT_BYTES", "4194304"),
    ]);
    // Each answer has 12 MB, far more than socket buffers take, and its request holds its share of memory meanwhile.
    let document = format!("{{\"records\":[{{}}{}]}}", ",{}".repeat(399_999));
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut connection = fixture.upload(JSON, "", document.as_bytes());
        connection.answering();
        silent.push(connection);
    }
    for _ in 0..4 {
        fixture.post_in_the_end(&format!("{{\"records\":[{{\"value\":1}}]}}{}", " ".repeat(MIB)));
    }
    fixture.check_memory("4 producers that do not read");
}

#[test]
fn slow_heads_and_bodies_are_let_go_after_their_time() {
    let fixture = Fixture::new(&[
        ("QUIPU_HEADER_READ_TIMEOUT_MS", "3000"),
        ("QUIPU_BODY_IDLE_TIMEOUT_MS", "3000"),
        ("QUIPU_IDLE_TIMEOUT_MS", "3000"),
    ]);
    let before = open_files(&fixture.server);
    let mut dripping: Vec<Connection> = (0..100).map(|_| fixture.server.connect()).collect();
    let headers = "Content-Type: application/json\r\nContent-Length: 100\r\n";
    let mut silent: Vec<Connection> = (0..100).map(|_| fixture.begin(headers, b"{\"rec")).collect();
    let mut heads: Vec<Connection> = (0..200).map(|_| fixture.server.connect()).collect();
    for connection in &mut heads {
        connection.say(b"GET /health/live HTTP/1.1\r\nHost: localhost");
    }
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    expected.iter().for_each(|key| fixture.append(key));
    // A byte now and then does not prolong a head: the loop ends when the server has closed all of them.
    let head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    for byte in head {
        dripping.retain_mut(|connection| connection.send(&[*byte]).is_ok());
        if dripping.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for mut connection in heads {
        // The connection may get an answer or only be closed; it is not left open.
        let rest = read_to_the_end(&mut connection);
        let text = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    for connection in &mut silent {
        connection.answered().refusal(408, "request-timeout", "none");
        connection.hang_up();
        read_to_the_end(connection);
    }
    drop(silent);
    wait_until("the handles are given back", || {
        open_files(&fixture.server) <= before + 8
    });
    fixture.finish(&expected);
}

/// Fills a topic with an answer of 32 MiB; returns its records' keys.
pub(super) fn fill(fixture: &Fixture, topic: &str) -> Vec<String> {
    let path = format!("/v1/topics/{topic}/records");
    let value = "v".repeat(1000);
    let mut expected = Vec::new();
    for _ in 0..33 {
        let body = format!("{{\"key\":\"k\",\"value\":\"{value}\"}}\n").repeat(1000);
        fixture.server.expect(200, "POST", &path, NDJSON, body.as_bytes());
        expected.extend(std::iter::repeat_n("k".to_owned(), 1000));
    }
    expected
}

#[test]
fn clients_that_read_nothing_cost_little_each_and_are_let_go() {
    const READERS: usize = 300;
    let fixture = Fixture::new(&[("QUIPU_WRITE_IDLE_TIMEOUT_MS", "2000")]);
    let mut expected = fill(&fixture, "t");
    let files = open_files(&fixture.server);
    let before = fixture.server.anonymous_bytes();
    let forms = [JSON, NDJSON, "application/vnd.apache.kafka.record-batch"];
    let mut readers: Vec<Connection> = (0..READERS)
        .map(|number| {
            let mut connection = fixture.server.connect();
            let accept = format!("Accept: {}\r\n", forms[number % forms.len()]);
            connection.send_head("GET", FETCH, &accept).expect("it listens");
            connection.answering();
            connection
        })
        .collect();
    for number in 0..20 {
        fixture.append(&number.to_string());
        expected.push(number.to_string());
    }
    let during = fixture.server.anonymous_bytes();
    let each = during.saturating_sub(before) / READERS as u64;
    println!(
        "{READERS} clients that read nothing: {} KiB of anonymous memory before, {} KiB with them, {} KiB each",
        before >> 10,
        during >> 10,
        each >> 10
    );
    assert!(each < 256 << 10, "{each} bytes a client that reads nothing");
    // None of them gets its whole answer: the server does not wait for ever.
    wait_until("all of them are let go", || {
        let metrics = String::from_utf8(fixture.server.connect().get("/metrics").body).expect("text");
        metrics.contains(&format!(
            "\nquipu_stalled_connections_total{{listener=\"http\"}} {READERS}\n"
        ))
    });
    let open = open_files(&fixture.server);
    assert!(open <= files + 8, "handles are not given back");
    for connection in &mut readers {
        let rest = read_to_the_end(connection);
        assert!(rest.len() < 32 * MIB, "{} bytes", rest.len());
    }
    fixture.finish(&expected);
}

#[test]
fn clients_that_read_slowly_and_long_polls_live() {
    let fixture = Fixture::new(&[("QUIPU_WRITE_IDLE_TIMEOUT_MS", "2500")]);
    let mut expected = fill(&fixture, "t");
    let end = expected.len();
    let mut poll = fixture.ask(&format!(
        "/v1/topics/t/partitions/0/records?offset={end}&wait_ms=60000"
    ));
    let mut slow = fixture.server.connect();
    let headers = "Accept: application/vnd.apache.kafka.record-batch\r\n";
    slow.send_head("GET", FETCH, headers).expect("it listens");
    let head = slow.answer_head().expect("an answer");
    let length = head.header("content-length").expect("a length");
    let length: usize = length.parse().expect("a number");
    let mut read = 0;
    let mut buffer = vec![0; 2 * MIB];
    // Reading takes longer than the time limit, but each pause is a tenth of it.
    while read < length {
        std::thread::sleep(Duration::from_millis(250));
        let part = buffer.len().min(length - read);
        std::io::Read::read_exact(&mut slow.stream, &mut buffer[..part]).expect("the answer goes on");
        read += part;
    }
    fixture.append("awaited");
    expected.push("awaited".to_owned());
    let answer = poll.answered().with_status(200).json();
    assert_eq!(answer["records"][0]["key"], "awaited");
    fixture.finish(&expected);
}
