//! The real binary, with `kill -9`.

use crate::requests::{NDJSON, RECORDS, Sent, UNIT_LINES, keyed_kinds, lines, sent};
use crate::support::{Answer, Rng, Server, read_partition};

/// Sends a request over a connection of its own.
fn post(server: &Server, request: &Sent) -> Answer {
    let mut connection = server.connect();
    connection
        .send_head("POST", &request.uri, &request.head())
        .expect("it listens");
    connection.send(&request.body).expect("it reads");
    connection.answered().with_status(200)
}

#[test]
fn after_kill_9_every_kind_of_request_is_answered_as_the_first_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic("t", 4);
    let kinds = keyed_kinds();
    let first: Vec<_> = kinds
        .iter()
        .map(|(_, request, _)| post(&server, request).json())
        .collect();
    for _ in 0..2 {
        server.kill();
        server = Server::start(&data);
        for ((name, request, _), first) in kinds.iter().zip(&first) {
            assert_eq!(post(&server, request).replayed(), *first, "{name}");
        }
    }
    server.stop();
}

#[test]
fn a_stream_that_is_cut_anywhere_and_killed_and_retried_is_there_once() {
    let mut rng = Rng::from_environment("a_stream_that_is_cut_anywhere_and_killed_and_retried_is_there_once");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic("t", 3);
    let count = 6 * UNIT_LINES + 1234;
    for stream in 0..3 {
        let body = lines(count);
        let request = sent(RECORDS, NDJSON, body).key(&format!("stream-{stream}"));
        for _ in 0..rng.below(8) {
            let cut = rng.below(request.body.len() as u64) as usize;
            let mut connection = server.connect();
            connection
                .send_head("POST", RECORDS, &request.head())
                .expect("it listens");
            connection.send(&request.body[..cut]).expect("it reads");
            if rng.below(2) == 0 {
                server.kill();
                server = Server::start(&data);
            }
            drop(connection);
        }
        let answer = post(&server, &request).json();
        assert_eq!(answer["records"], count);
        assert_eq!(post(&server, &request).replayed(), answer);
    }
    let mut seen = vec![0_u32; count];
    for partition in 0..3 {
        let mut last: Option<u64> = None;
        let mut turns = 0;
        read_partition(&mut server.connect(), "t", partition, 0, |record| {
            let n: u64 = record.value.get().parse().expect("a number");
            seen[n as usize] += 1;
            turns += u32::from(last.is_some_and(|last| n <= last));
            last = Some(n);
        });
        assert!(turns <= 2, "partition {partition}: a stream is out of order");
    }
    let wrong: Vec<_> = seen
        .iter()
        .enumerate()
        .filter(|(_, times)| **times != 3)
        .collect();
    assert!(wrong.is_empty(), "not there three times each: {wrong:?}");
    server.stop();
}
