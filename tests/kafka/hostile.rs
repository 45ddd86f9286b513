//! Hostile clients: frames of 2 GiB, halves of frames, pauses, garbage, thousands of connections. Only they are hurt.

use serde_json::json;

use super::failures::wait_until;
use super::sasl::{ADMIN, closed, scram};
use super::*;
use support::{Connection, Rng};

/// The most memory of the server whatever they do, without file pages.
const MAX_ANONYMOUS_BYTES: u64 = 256 << 20;

#[test]
fn a_length_allocates_nothing_before_its_bytes_arrive() {
    const CLIENTS: u64 = 200;
    const LENGTH: u64 = 100 << 20;
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let length = (LENGTH as u32).to_be_bytes();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.ask(API_VERSIONS, 0, Out::new());
    }
    let before = fixture.server.virtual_bytes();
    for client in &mut clients {
        client.send(&length);
        client.send(&[0; 1000]);
    }
    let mut other = fixture.client();
    assert_eq!(produce(&mut other, "t", -1, &batch(&["a"])), (0, 0));
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
    // What is allocated and not written to is no memory yet; it has addresses all the same.
    let grown = fixture.server.virtual_bytes().saturating_sub(before);
    assert!(grown < CLIENTS * LENGTH / 2, "{grown}");
}

/// A client that has signed in.
fn signed_in(fixture: &Fixture) -> Client {
    let mut client = fixture.client();
    scram(&mut client, "SCRAM-SHA-256", "admin", ADMIN).expect("signed in");
    client
}

/// The memory that requests hold.
fn held(fixture: &Fixture) -> String {
    fixture.metric("quipu_request_bodies_bytes ")
}

/// A client whose request waits for records of `t`, and the memory that requests hold with it.
fn reader(fixture: &Fixture) -> (Client, String) {
    let mut client = signed_in(fixture);
    client.send(&fetch_request("t", 0, (3_600_000, 1, 1 << 20)).frame(FETCH, 4, 7));
    let begin = Instant::now();
    loop {
        let found = held(fixture);
        if found != "quipu_request_bodies_bytes 0" {
            return (client, found);
        }
        assert!(begin.elapsed() < PATIENCE, "its request is nowhere");
    }
}

#[test]
fn a_length_of_two_gib_closes_its_connection_takes_no_memory_and_hurts_nobody() {
    let fixture = closed(&[
        ("QUIPU_MAX_REQUEST_BYTES", "1MiB"),
        ("QUIPU_MAX_IN_FLIGHT_BYTES", "1MiB"),
    ]);
    fixture.topic("t");
    let (mut reader, before) = reader(&fixture);
    // Within a request when they come.
    let mut writer = signed_in(&fixture);
    let request = produce_request("t", 0, -1, &batch(&["whole"])).frame(PRODUCE, 3, 8);
    writer.send(&request[..50]);
    for length in [i32::MAX, i32::MIN, -1, 0, (100 << 20) + 1] {
        let mut begin = length.to_be_bytes().to_vec();
        begin.resize(40_000, 7);
        let mut clients: Vec<Client> = (0..20).map(|_| fixture.client()).collect();
        clients.extend((0..3).map(|_| signed_in(&fixture)));
        for client in &mut clients {
            client.send(&begin);
        }
        assert_eq!(held(&fixture), before, "{length}");
        for client in &mut clients {
            client.is_closed();
        }
        assert_eq!(held(&fixture), before, "{length}");
    }
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
    writer.send(&request[50..]);
    let (correlation, answer) = writer.receive();
    assert_eq!((correlation, produced(answer)), (8, (0, 0)));
    let (correlation, answer) = reader.receive();
    assert_eq!((correlation, fetched(answer).0), (7, 0));
}

#[test]
fn who_pauses_within_a_request_is_closed_and_those_who_wait_or_are_silent_go_on() {
    let fixture = closed(&[("QUIPU_BODY_IDLE_TIMEOUT_MS", "500")]);
    fixture.topic("t");
    let (mut reader, before) = reader(&fixture);
    let mut silent = signed_in(&fixture);
    let value = "v".repeat(600_000);
    let frame = produce_request("t", 0, -1, &batch(&[&value])).frame(PRODUCE, 3, 1);
    // Within the length, behind it, within the header, within the records, and before the last byte.
    let cuts = [1, 3, 4, 9, 40, 100, 20_000, 300_000, frame.len() - 1];
    let mut slow: Vec<Client> = cuts
        .iter()
        .map(|cut| {
            let mut client = signed_in(&fixture);
            client.send(&frame[..*cut]);
            client
        })
        .collect();
    for client in &mut slow {
        client.is_closed();
    }
    // Nothing of what they have begun is there, and what they held is given back.
    let begin = Instant::now();
    while held(&fixture) != before {
        assert!(begin.elapsed() < PATIENCE, "{}", held(&fixture));
    }
    silent.send(&produce_request("t", 0, -1, &batch(&["first"])).frame(PRODUCE, 3, 2));
    let (correlation, answer) = silent.receive();
    assert_eq!((correlation, produced(answer)), (2, (0, 0)));
    let (correlation, answer) = reader.receive();
    assert_eq!((correlation, fetched(answer).0), (7, 0));
}

#[test]
fn a_request_that_comes_byte_by_byte_is_done_and_holds_up_nobody() {
    let fixture = closed(&[]);
    fixture.topic("slow");
    fixture.topic("t");
    let (mut slow, mut other) = (signed_in(&fixture), signed_in(&fixture));
    let frame = produce_request("slow", 0, -1, &batch(&["dripped"])).frame(PRODUCE, 3, 1);
    for (number, byte) in frame.iter().enumerate() {
        slow.send(&[*byte]);
        let sent = produce(&mut other, "t", 1, &batch(&["quick"]));
        assert_eq!(sent, (0, number as i64));
    }
    let (correlation, answer) = slow.receive();
    assert_eq!((correlation, produced(answer)), (1, (0, 0)));
}

#[test]
fn who_is_silent_between_requests_is_closed_and_who_waits_for_an_answer_is_not() {
    let fixture = Fixture::with(&[("QUIPU_IDLE_TIMEOUT_MS", "2000")]);
    fixture.server.create_topic("t", 1);
    let mut reader = fixture.client();
    reader.send(&fetch_request("t", 0, (3_600_000, 1, 1 << 20)).frame(FETCH, 4, 7));
    // Each asks at once, so that this test's own pauses do not count.
    let asking = (0..10).map(|_| {
        let mut client = fixture.client();
        client.send(&Out::new().frame(API_VERSIONS, 0, 1));
        assert_eq!(client.receive().0, 1);
        client
    });
    let mut silent: Vec<Client> = asking.collect();
    silent.extend((0..10).map(|_| fixture.client()));
    for client in &mut silent {
        client.is_closed();
    }
    // Over HTTP, so that no pause of this test's own is one between requests.
    let body = json!({"records": [{"value": 1}]}).to_string();
    let path = "/v1/topics/t/records";
    fixture
        .server
        .expect(200, "POST", path, "application/json", body.as_bytes());
    let (correlation, answer) = reader.receive();
    assert_eq!((correlation, fetched(answer).0), (7, 0));
}

#[test]
fn many_large_fetches_that_wait_hold_bounded_memory_and_keep_nobody_out() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut body = Out::new().i32(-1).i32(i32::MAX).i32(1).i32(1 << 20).i8(0);
    body = body.i32(1).text("t").i32(20_000);
    for _ in 0..20_000 {
        body = body.i32(0).i64(0).i32(1 << 20);
    }
    let frame = body.frame(FETCH, 4, 1);
    let mut clients: Vec<Client> = (0..100).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.stream.set_nonblocking(true).expect("a socket");
        client.send(&frame);
    }
    let mut other = fixture.client();
    assert_eq!(produce(&mut other, "t", -1, &batch(&["a"])), (0, 0));
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
}

/// Clients that were there before others did harm, with a topic of their own: a writer, and two readers that wait for its
/// next record, one of them over HTTP. None opens another connection.
struct Bystanders {
    writer: Client,
    reader: Client,
    http: Connection,
    end: i64,
}

impl Bystanders {
    const OF_KAFKA: usize = 2;
    const OF_HTTP: usize = 1;

    fn new(fixture: &Fixture) -> Self {
        fixture.server.create_topic("own", 1);
        let mut all = Self {
            writer: fixture.client(),
            reader: fixture.client(),
            http: fixture.server.connect(),
            end: 0,
        };
        // No other connection over HTTP has a place any more, such as that of the call above.
        let open = format!("quipu_connections{{listener=\"http\"}} {}", Self::OF_HTTP);
        let is_alone = |http: &mut Connection| http.get("/metrics").text().lines().any(|line| line == open);
        wait_until(|| is_alone(&mut all.http), || open.clone());
        all.wait();
        all
    }

    /// Both readers ask for the next record.
    fn wait(&mut self) {
        let body = fetch_request("own", self.end, (60_000, 1, 1 << 20));
        self.reader.send(&body.frame(FETCH, 4, 7));
        let path = "/v1/topics/own/partitions/0/records";
        self.http
            .ask(&format!("{path}?offset={}&wait_ms=60000", self.end));
    }

    /// The writer sends a record, both readers get it, and wait for the next one.
    fn go_on(&mut self) {
        let sent = produce(&mut self.writer, "own", -1, &batch(&["1"]));
        assert_eq!(sent, (0, self.end));
        loop {
            let (correlation, answer) = self.reader.receive();
            let (error, _, batches) = fetched(answer);
            assert_eq!((correlation, error), (7, 0));
            let page = self.http.answered().with_status(200).json();
            let records = page["records"].as_array().expect("records");
            if !batches.is_empty() && !records.is_empty() {
                break;
            }
            // A wait has its end, which may have come before the record.
            self.wait();
        }
        self.end += 1;
        self.wait();
    }
}

#[test]
fn halves_of_frames_and_garbage_hurt_nobody_else() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut bystanders = Bystanders::new(&fixture);
    let mut rng = Rng::from_environment("halves_of_frames_and_garbage_hurt_nobody_else");
    let good = produce_request("t", 0, -1, &batch(&["half"])).frame(PRODUCE, 3, 1);
    for round in 0..200 {
        let mut client = fixture.client();
        if round % 2 == 0 {
            let cut = rng.below(good.len() as u64) as usize;
            client.send(&good[..cut]);
        } else {
            let mut frame = good.clone();
            for _ in 0..1 + rng.below(8) {
                let at = 4 + rng.below(frame.len() as u64 - 4) as usize;
                frame[at] = rng.next() as u8;
            }
            client.send(&frame);
        }
        if round % 20 == 19 {
            bystanders.go_on();
        }
    }
    let mut client = fixture.client();
    let (error, end) = produce(&mut client, "t", -1, &batch(&["whole"]));
    assert_eq!(error, 0);
    let (error, _, batches) = fetch(&mut client, "t", end);
    assert_eq!(error, 0);
    assert!(!batches.is_empty());
}

#[test]
fn an_assignment_of_many_partitions_of_a_topic_with_a_long_name_costs_what_it_has() {
    const PARTITIONS: i32 = 240_000;
    let mut fixture = Fixture::new();
    let mut client = fixture.client();
    // Version 0: it joins at once, and is its own leader.
    let join = Out::new().text("g").i32(60_000).text("").text("consumer");
    let mut answer = client.ask(11, 0, join.i32(1).text("range").bytes(b""));
    assert_eq!((answer.i16(), answer.i32()), (0, 1));
    answer.text();
    answer.text();
    let member = answer.text();
    let name = "n".repeat(32_000);
    let mut assignment = Out::new().i16(1).i32(1).text(&name).i32(PARTITIONS);
    for partition in 0..PARTITIONS {
        assignment = assignment.i32(partition);
    }
    let sync = Out::new().text("g").i32(1).text(&member).i32(1);
    let sync = sync.text(&member).bytes(&assignment.0);
    assert_eq!(client.ask(14, 0, sync).i16(), 0);
    for _ in 0..2 {
        let group = fixture.server.get("/v1/groups/g");
        assert_eq!(group["members"][0]["assignment"], serde_json::json!([]));
        fixture.server.get("/v1/groups/g/lag");
        let bytes = fixture.server.anonymous_bytes();
        assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
        fixture = fixture.restart_after_kill();
    }
}

#[test]
fn two_thousand_connections_are_served_and_those_above_the_limit_closed() {
    const MOST: usize = 2040;
    // These are kept for HTTP.
    const KEPT: usize = 8;
    const ABOVE: usize = 60;
    // Connections have about five eighths of the server's files.
    let files = quipu_segments::raise_file_limit();
    if files < 4096 {
        skipped(&format!(
            "the limit of open files is {files}, and the test needs 4096 (ulimit -Hn)"
        ));
        return;
    }
    let fixture = Fixture::with(&[("QUIPU_MAX_CONNECTIONS", &MOST.to_string())]);
    let mut bystanders = Bystanders::new(&fixture);
    let idle = MOST - KEPT - Bystanders::OF_HTTP - Bystanders::OF_KAFKA;
    let mut clients = Vec::new();
    for _ in 0..idle {
        let mut client = fixture.client();
        client.ask(API_VERSIONS, 0, Out::new());
        clients.push(client);
    }
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
    let mut more: Vec<Client> = (0..ABOVE).map(|_| fixture.client()).collect();
    for client in &mut more {
        client.send(&Out::new().frame(API_VERSIONS, 0, 1));
        client.is_closed();
    }
    let refused = fixture.metric("quipu_refused_connections_total{listener=\"kafka\"}");
    assert!(refused.ends_with(&format!(" {ABOVE}")), "{refused}");
    bystanders.go_on();
    for client in &mut clients {
        client.ask(API_VERSIONS, 0, Out::new());
    }
}
