//! Hostile clients: frames of 2 GiB, halves of frames, garbage, thousands of connections. Only they are hurt.

use std::io::Read;

use super::*;
use support::Rng;

/// The most memory of the server whatever they do, without file pages.
const MAX_ANONYMOUS_BYTES: u64 = 256 << 20;

#[test]
fn a_length_allocates_nothing_before_its_bytes_arrive() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let length = (100_i32 << 20).to_be_bytes();
    let mut clients: Vec<Client> = (0..200).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.send(&length);
        client.send(&[0; 1000]);
    }
    let mut other = fixture.client();
    assert_eq!(produce(&mut other, "t", -1, &batch(&["a"])), (0, 0));
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
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

#[test]
fn halves_of_frames_and_garbage_hurt_nobody_else() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
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
    }
    let mut client = fixture.client();
    let (error, end) = produce(&mut client, "t", -1, &batch(&["whole"]));
    assert_eq!(error, 0);
    let (error, _, batches) = fetch(&mut client, "t", end);
    assert_eq!(error, 0);
    assert!(!batches.is_empty());
}

#[test]
fn two_thousand_connections_are_served_and_those_above_the_limit_closed() {
    let fixture = Fixture::with(&[("QUIPU_MAX_CONNECTIONS", "2001")]);
    fixture.server.create_topic("t", 1);
    let mut clients = Vec::new();
    for _ in 0..1990 {
        let mut client = fixture.client();
        client.ask(API_VERSIONS, 0, Out::new());
        clients.push(client);
    }
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
    let mut more: Vec<Client> = (0..60).map(|_| fixture.client()).collect();
    let frame = Out::new().frame(API_VERSIONS, 0, 1);
    for client in &mut more {
        client.send(&frame);
    }
    let mut closed = 0;
    for client in &mut more {
        closed += usize::from(!client.stream.read(&mut [0]).is_ok_and(|read| read > 0));
    }
    assert!(closed > 0, "some are above the limit");
    assert_eq!(produce(&mut clients[0], "t", -1, &batch(&["a"])), (0, 0));
}
