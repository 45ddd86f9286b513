//! Thousands of clients that request much, or future records, and read nothing of the answer or a byte now and then.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::many::{SOME_FILES, may_open, wait_for_files, work};
use super::slow::fill;
use super::{Fixture, JSON, NDJSON, open_files};
use crate::support::PATIENCE;

const READERS: usize = 3_000;
/// The most memory of the server for each, in bytes: the connection's buffer and one chunk, of 64 KiB each, and the
/// extra memory for rendering a chunk.
const EACH_BYTES: u64 = 192 << 10;
/// The most memory of the kernel for each, in bytes: the unsent bytes that the server allows, and one segment more.
const KERNEL_BYTES: u64 = 256 << 10;
/// The client's smallest receive buffer: unread bytes stay with the server, and the kernel's memory stays small.
const RECEIVE_BYTES: u32 = 4 << 10;
const BATCHES: &str = "application/vnd.apache.kafka.record-batch";

/// One of the clients.
struct Reader {
    stream: TcpStream,
    /// It waits for a record that does not come; the others have an answer of 32 MiB to read.
    waits: bool,
}

impl Reader {
    fn ask(runtime: &tokio::runtime::Runtime, fixture: &Fixture, number: usize) -> Self {
        // The size must be set before connecting, and the standard library cannot do that.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .set_recv_buffer_size(RECEIVE_BYTES)
            .expect("a small buffer");
        let connecting = socket.connect(fixture.server.address);
        let stream = runtime.block_on(connecting).expect("it listens");
        let mut stream = stream.into_std().expect("a socket");
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let waits = number % 4 == 3;
        let accept = [JSON, NDJSON, BATCHES, JSON][number % 4];
        let path = if waits {
            "quiet/partitions/0/records?offset=0&wait_ms=60000"
        } else {
            "much/partitions/0/records?offset=0&max_records=100000&max_bytes=33554432"
        };
        let head = format!("GET /v1/topics/{path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it listens");
        Self { stream, waits }
    }

    /// Returns once its answer has begun: from then on the server holds the memory for it.
    fn wait_for_the_answer(&mut self) {
        let mut status = [0; 12];
        self.stream.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&status));
    }

    fn read_a_byte(&mut self) {
        self.stream.read_exact(&mut [0]).expect("the answer goes on");
    }
}

/// The bytes in the kernel that this server has written and its clients have not taken.
fn unsent_bytes(fixture: &Fixture) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let port = format!(":{:04X}", fixture.server.address.port());
    let queues = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().filter(|local| local.ends_with(&port))?;
        let (unsent, _) = words.nth(2)?.split_once(':')?;
        u64::from_str_radix(unsent, 16).ok()
    });
    queues.sum()
}

#[test]
fn thousands_that_ask_for_much_and_read_nothing_or_a_byte_now_and_then_hold_up_nobody() {
    // Connections have at most five eighths of the server's files.
    if !may_open(READERS as u64 * 8 / 5 + 2000) {
        return;
    }
    let fixture = Fixture::new(&[]);
    fixture.server.create_topic("much", 1);
    fixture.server.create_topic("quiet", 1);
    fill(&fixture, "much");
    let mut keys = Vec::new();
    work(&fixture, &mut keys);
    let files = open_files(&fixture.server);
    let before = fixture.server.anonymous_bytes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");

    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(Reader::ask(&runtime, &fixture, number));
        if number % 1000 == 0 {
            work(&fixture, &mut keys);
        }
    }
    for reader in readers.iter_mut().filter(|reader| !reader.waits) {
        reader.wait_for_the_answer();
    }
    let (mut most, mut unsent) = (0, 0);
    for _ in 0..3 {
        work(&fixture, &mut keys);
        for reader in readers.iter_mut().step_by(2).filter(|reader| !reader.waits) {
            reader.read_a_byte();
        }
        assert_eq!(fixture.server.connect().get("/health/ready").status, 200);
        most = most.max(fixture.server.anonymous_bytes());
        unsent = unsent.max(unsent_bytes(&fixture));
        let open = open_files(&fixture.server);
        assert!(
            open <= files + READERS + SOME_FILES,
            "{open} files, {files} before"
        );
    }
    println!(
        "{READERS} clients that ask for much and read nothing, or a byte now and then: {} KiB of anonymous memory before, {} \
         KiB with them, {} KiB each, and {} KiB each with the kernel",
        before >> 10,
        most >> 10,
        (most.saturating_sub(before) / READERS as u64) >> 10,
        (unsent / READERS as u64) >> 10
    );
    let bound = before + READERS as u64 * EACH_BYTES;
    assert!(most < bound, "{most} bytes, {bound} allowed");
    assert!(
        unsent < READERS as u64 * KERNEL_BYTES,
        "{unsent} bytes wait in the kernel"
    );

    // The waiting clients get their record.
    let body = br#"{"records":[{"value":"awaited"}]}"#;
    let path = "/v1/topics/quiet/records";
    fixture.server.expect(200, "POST", path, JSON, body);
    for reader in readers.iter_mut().filter(|reader| reader.waits) {
        reader.wait_for_the_answer();
    }
    work(&fixture, &mut keys);
    drop(readers);
    wait_for_files(&fixture.server, files);
    work(&fixture, &mut keys);
    fixture.finish(&keys);
}
