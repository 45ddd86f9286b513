//! The real binary, with `kill -9`.

use crate::requests::{NDJSON, RECORDS, Sent, UNIT_LINES, kinds, lines, sent};
use crate::support::{self, Rng, Server, read_partition};

/// Sends a request over a connection of its own.
fn post(server: &Server, request: &Sent) -> std::io::Result<support::Answer> {
    let headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut connection = support::Connection::open(server.address)?;
    let length = format!("{headers}Content-Length: {}\r\n", request.body.len());
    connection.send_head("POST", &request.uri, &length)?;
    connection.send(&request.body)?;
    connection.answer()
}

#[test]
fn after_kill_9_every_kind_of_request_is_answered_as_the_first_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::start(&data);
    server.create_topic("t", 4);
    let key = |name: &str| name.replace([' ', ','], "-");
    let ask = |server: &Server, name: &str, request: Sent| {
        let answer = post(server, &request.key(&key(name))).expect("an answer");
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let replayed = answer.header("idempotency-replayed").map(str::to_owned);
        (answer.json(), replayed)
    };
    let first: Vec<_> = kinds()
        .into_iter()
        .map(|(name, request, _)| ask(&server, name, request))
        .collect();
    for _ in 0..2 {
        server.kill();
        server = Server::start(&data);
        for ((name, request, _), (body, _)) in kinds().into_iter().zip(&first) {
            assert_eq!(
                ask(&server, name, request),
                (body.clone(), Some("true".to_owned())),
                "{name}"
            );
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
        let headers: String = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        for _ in 0..rng.below(8) {
            let cut = rng.below(request.body.len() as u64) as usize;
            let mut connection = server.connect();
            let length = format!("{headers}Content-Length: {}\r\n", request.body.len());
            // The server may have been killed under it.
            let sent = connection
                .send_head("POST", RECORDS, &length)
                .and_then(|()| connection.send(&request.body[..cut]));
            assert!(sent.is_ok(), "{sent:?}");
            if rng.below(2) == 0 {
                server.kill();
                server = Server::start(&data);
            }
            drop(connection);
        }
        let answer = post(&server, &request).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["records"], count);
        let again = post(&server, &request).expect("an answer");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.json(), answer.json());
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
        assert!(
            turns <= 2,
            "partition {partition}: records of a stream are out of their order"
        );
    }
    let wrong: Vec<_> = seen
        .iter()
        .enumerate()
        .filter(|(_, times)| **times != 3)
        .take(5)
        .collect();
    assert!(
        wrong.is_empty(),
        "of three streams these lines are there so many times: {wrong:?}"
    );
    server.stop();
}
