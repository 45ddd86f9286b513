//! What slow and idle clients make the server hold, and that it keeps nobody out.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::json;

use super::sasl::{self, ADMIN, authenticate, closed, handshake, scram};
use super::*;

const MIB: usize = 1 << 20;
/// The most memory of the server whatever they do, without file pages.
const MAX_ANONYMOUS_BYTES: u64 = 256 << 20;
const JOIN: i16 = 11;
const HEARTBEAT: i16 = 12;
const SYNC: i16 = 14;

impl Fixture {
    /// What requests hold of the memory that they share, in bytes.
    fn held_bytes(&self) -> usize {
        let answer = self.http("", "GET", "/metrics", &serde_json::Value::Null);
        let text = answer.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("quipu_request_bodies_bytes "));
        line.and_then(|number| number.parse().ok()).expect("a number")
    }

    fn wait_until_held(&self, least: usize) {
        let begin = Instant::now();
        while self.held_bytes() < least {
            assert!(begin.elapsed() < PATIENCE, "{} bytes are held", self.held_bytes());
            std::thread::yield_now();
        }
    }
}

/// Runs `test` while clients go on with their requests, so many bytes each now and then, as far as the server reads them.
fn while_they_trickle(clients: &[Client], bytes: usize, test: impl FnOnce()) {
    for client in clients {
        client.stream.set_nonblocking(true).expect("a socket");
    }
    let is_over = AtomicBool::new(false);
    let trickle = || {
        while !is_over.load(Relaxed) {
            for client in clients {
                let _ = std::io::Write::write(&mut &client.stream, &vec![7; bytes]);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(trickle);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        is_over.store(true, Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Joins a group alone; returns the member's id and the generation.
fn join(client: &mut Client, group: &str) -> (String, i32) {
    let head = Out::new().text(group).i32(60_000).text("").text("consumer");
    let mut answer = client.ask(JOIN, 0, head.i32(1).text("range").bytes(b"metadata"));
    assert_eq!(answer.i16(), 0);
    let generation = answer.i32();
    answer.text();
    answer.text();
    let member = answer.text();
    let body = Out::new().text(group).i32(generation).text(&member).i32(1);
    let mut answer = client.ask(SYNC, 0, body.text(&member).bytes(b"assignment"));
    assert_eq!(answer.i16(), 0);
    (member, generation)
}

fn heartbeat(client: &mut Client, group: &str, (member, generation): &(String, i32)) -> i16 {
    let body = Out::new().text(group).i32(*generation).text(member);
    client.ask(HEARTBEAT, 0, body).i16()
}

#[test]
fn a_slow_client_with_a_large_request_keeps_nobody_out() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut member = fixture.client();
    let joined = join(&mut member, "g");
    let mut slow = fixture.client();
    slow.send(&(100_i32 << 20).to_be_bytes());
    slow.send(&vec![7; 32 * MIB]);
    fixture.wait_until_held(31 * MIB);
    while_they_trickle(&[slow], 4 << 10, || {
        let mut other = fixture.client();
        for number in 0..10 {
            assert_eq!(heartbeat(&mut member, "g", &joined), 0);
            assert_eq!(produce(&mut other, "t", -1, &batch(&["a"])), (0, 2 * number));
            let large = batch(&[&"x".repeat(600_000)]);
            assert_eq!(produce(&mut other, "t", -1, &large), (0, 2 * number + 1));
        }
    });
}

#[test]
fn small_requests_pass_while_slow_ones_hold_all_of_the_memory() {
    let fixture = Fixture::with(&[
        ("QUIPU_MAX_IN_FLIGHT_BYTES", "4MiB"),
        ("QUIPU_MAX_REQUEST_BYTES", "4MiB"),
    ]);
    fixture.server.create_topic("t", 1);
    fixture.server.create_topic("u", 1);
    let mut member = fixture.client();
    let joined = join(&mut member, "g");
    // So many that they take longer one after another than anybody waits.
    let mut slow: Vec<Client> = (0..200).map(|_| fixture.client()).collect();
    for client in &mut slow {
        client.send(&(1_i32 << 20).to_be_bytes());
        client.send(&vec![7; 100_000]);
    }
    fixture.wait_until_held(4 * MIB);
    while_they_trickle(&slow, 5 << 10, || {
        let mut other = fixture.client();
        for number in 0..10 {
            assert_eq!(heartbeat(&mut member, "g", &joined), 0);
            let some = batch(&[&"x".repeat(20_000)]);
            assert_eq!(produce(&mut other, "t", -1, &some), (0, number));
            let body = br#"{"records":[{"key":"k"}]}"#;
            let json = "application/json";
            fixture
                .server
                .expect(200, "POST", "/v1/topics/u/records", json, body);
        }
    });
}

#[test]
fn what_a_quota_holds_back_takes_no_memory_from_others() {
    let fixture = closed(&[
        ("QUIPU_MAX_IN_FLIGHT_BYTES", "1MiB"),
        ("QUIPU_MAX_REQUEST_BYTES", "1MiB"),
    ]);
    fixture.topic("t");
    let more = json!({"rules": sasl::all(), "quotas": {"bytes_per_second": 1}});
    let secret = fixture.token("greedy", &more);
    let signed_in = |_| {
        let mut client = fixture.client();
        assert_eq!(scram(&mut client, "SCRAM-SHA-256", "greedy", &secret), Ok(0));
        client
    };
    let mut slowed: Vec<Client> = (0..4).map(signed_in).collect();
    // Two of these take all of the memory.
    let large = batch(&[&"x".repeat(480_000)]);
    let frame = produce_request("t", 0, -1, &large).frame(PRODUCE, 3, 1);
    let leaves = |client: &mut Client| {
        client.send(&frame[..1000]);
        client.stream.shutdown(Shutdown::Write).expect("it is open");
        client.is_closed();
    };
    // What has not come counts for nobody.
    leaves(&mut slowed[0]);
    assert_eq!(produce(&mut slowed[1], "t", -1, &large), (0, 0));
    // From now on the principal is in debt for days. Whoever is gone does not wait for that.
    leaves(&mut slowed[1]);
    let (waiting, frame) = (&slowed[2..], &frame);
    std::thread::scope(|scope| {
        for client in waiting {
            client.stream.set_write_timeout(Some(PATIENCE)).expect("a time");
            // The server does not read all of it.
            scope.spawn(move || std::io::Write::write_all(&mut &client.stream, frame));
        }
        let body = json!({"records": [{"value": "x".repeat(100_000)}]});
        for _ in 0..20 {
            fixture.http(ADMIN, "POST", "/v1/topics/t/records", &body).ok();
        }
        for client in waiting {
            client.stream.shutdown(Shutdown::Both).expect("it is open");
        }
    });
    let begin = Instant::now();
    while fixture.metric("quipu_request_bodies_bytes ") != "quipu_request_bodies_bytes 0" {
        assert!(begin.elapsed() < PATIENCE, "memory is still held");
        std::thread::yield_now();
    }
}

#[test]
fn a_fetch_of_a_client_that_is_gone_takes_no_memory_while_what_is_behind_it_waits_for_a_quota() {
    let fixture = closed(&[]);
    fixture.topic("t");
    // Its description takes more than what never waits.
    let body = json!({"partitions": 300});
    fixture.http(ADMIN, "PUT", "/v1/topics/wide", &body);
    let more = json!({"rules": sasl::all(), "quotas": {"bytes_per_second": 1}});
    let secret = fixture.token("greedy", &more);
    let mut gone = fixture.client();
    assert_eq!(scram(&mut gone, "SCRAM-SHA-256", "greedy", &secret), Ok(0));
    // As many rows as take all of the memory for answers.
    let mut many = Out::new().i32(-1).i32(60_000).i32(1).i32(1 << 20).i8(0);
    many = many.i32(1).text("t").i32(140_000);
    for _ in 0..140_000 {
        many = many.i32(0).i64(0).i32(1000);
    }
    gone.send(&many.frame(FETCH, 4, 1));
    gone.send(&produce_request("t", 0, -1, &batch(&["x"])).frame(PRODUCE, 3, 2));
    // It waits for a second, if nobody is gone.
    let held = || {
        let row = fixture.metric("quipu_request_bodies_bytes ");
        let bytes = row.split(' ').nth(1).and_then(|bytes| bytes.parse().ok());
        bytes.unwrap_or(0)
    };
    let begin = Instant::now();
    while held() < MIB && begin.elapsed().as_secs() < 3 {
        std::thread::yield_now();
    }
    gone.stream.shutdown(Shutdown::Both).expect("it is open");
    while held() >= MIB {
        assert!(begin.elapsed() < PATIENCE, "the request is still held");
        std::thread::yield_now();
    }
    let mut other = fixture.client();
    assert_eq!(scram(&mut other, "SCRAM-SHA-256", "admin", ADMIN), Ok(0));
    for _ in 0..20 {
        let mut answer = other.ask(METADATA, 1, Out::new().i32(1).text("wide"));
        assert_eq!(answer.i32(), 1, "a broker");
    }
}

#[test]
fn a_connection_does_not_keep_the_buffer_of_its_largest_request() {
    let fixture = Fixture::new();
    let padding = vec![7; 20 * MIB];
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = fixture.client();
        client.ask(API_VERSIONS, 0, Out::new().raw(&padding));
        clients.push(client);
    }
    let begin = Instant::now();
    while fixture.server.anonymous_bytes() >= MAX_ANONYMOUS_BYTES {
        assert!(
            begin.elapsed() < PATIENCE / 10,
            "{} bytes",
            fixture.server.anonymous_bytes()
        );
        std::thread::yield_now();
    }
    // They are still open.
    for client in &mut clients {
        client.ask(API_VERSIONS, 0, Out::new());
    }
}

#[test]
fn whoever_does_not_sign_in_is_not_kept_however_much_it_asks() {
    let fixture = closed(&[("QUIPU_HEADER_READ_TIMEOUT_MS", "10000")]);
    let mut client = fixture.client();
    assert_eq!(scram(&mut client, "SCRAM-SHA-256", "admin", ADMIN), Ok(0));
    let mut stranger = fixture.client();
    let begin = Instant::now();
    let mut is_kept = || {
        stranger.send(&Out::new().frame(API_VERSIONS, 0, 1));
        let mut length = [0; 4];
        std::io::Read::read_exact(&mut stranger.stream, &mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        std::io::Read::read_exact(&mut stranger.stream, &mut answer)
    };
    while is_kept().is_ok() {
        assert!(begin.elapsed() < PATIENCE / 10, "it is kept");
    }
    // Whoever has signed in stays.
    client.ask(METADATA, 1, Out::new().i32(0));
}

#[test]
fn strangers_hold_none_of_the_memory_of_requests() {
    let fixture = closed(&[]);
    let mut strangers: Vec<Client> = (0..200).map(|_| fixture.client()).collect();
    for stranger in &mut strangers {
        stranger.send(&(32_i32 << 10).to_be_bytes());
        stranger.send(&[7; (32 << 10) - 1]);
    }
    // A message of this size is answered: a JWT may have 16 KiB.
    let mut client = fixture.client();
    assert_eq!(handshake(&mut client, 1, "SCRAM-SHA-256").0, 0);
    let name = "n".repeat(17 << 10);
    let message = format!("n,,n={name},r=rOprNGfwEbeRWgbNEkqO");
    let _ = authenticate(&mut client, message.as_bytes());
    let answer = fixture.http(ADMIN, "GET", "/metrics", &serde_json::Value::Null);
    let text = answer.text();
    assert!(text.contains("\nquipu_request_bodies_bytes 0\n"), "{text}");
}
