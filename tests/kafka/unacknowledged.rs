//! Produce requests with `acks=0`, which have no answer.

use serde_json::Value;

use super::failures::wait_until;
use super::*;

#[test]
fn what_is_refused_without_an_answer_ends_the_connection_behind_the_answers_before_it() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let good = batch(&["a"]);
    let mut damaged = good.clone();
    *damaged.last_mut().expect("a byte") ^= 1;
    let cases = [
        ("no such topic", produce_request("none", 0, 0, &good)),
        ("no such partition", produce_request("t", 7, 0, &good)),
        ("damaged", produce_request("t", 0, 0, &damaged)),
        ("transactional", {
            let head = Out::new().text("tx").i16(0).i32(30_000).i32(1).text("t");
            head.i32(1).i32(0).bytes(&good)
        }),
    ];
    let mut stored = 0;
    for (name, wrong) in cases {
        println!("{name}");
        let mut client = fixture.client();
        let mut frames = produce_request("t", 0, -1, &good).frame(PRODUCE, 3, 1);
        frames.extend(produce_request("t", 0, 0, &good).frame(PRODUCE, 3, 2));
        frames.extend(wrong.frame(PRODUCE, 3, 3));
        frames.extend(Out::new().frame(API_VERSIONS, 0, 4));
        client.send(&frames);
        let (correlation, answer) = client.receive();
        assert_eq!((correlation, produced(answer)), (1, (0, stored)));
        client.is_closed();
        stored += 2;
    }
    let next = produce(&mut fixture.client(), "t", -1, &good);
    assert_eq!(next, (0, stored), "what was right is stored");
}

#[test]
fn what_the_log_refuses_without_an_answer_ends_the_connection() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut answer = client.ask(INIT_PRODUCER_ID, 0, Out::new().null().i32(60_000));
    answer.bytes(4 + 2);
    let producer = (answer.i64(), answer.i16());
    for (sequence, correlation) in [(0, 1), (9, 2)] {
        let sent = batch_of(&["a"], producer, sequence);
        client.send(&produce_request("t", 0, 0, &sent).frame(PRODUCE, 3, correlation));
    }
    client.is_closed();
    assert_eq!(produce(&mut fixture.client(), "t", -1, &batch(&["b"])), (0, 1));
}

#[test]
fn records_without_an_answer_are_counted() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    for number in 0..5 {
        client.send(&produce_request("t", 0, 0, &batch(&["a", "b"])).frame(PRODUCE, 3, number));
    }
    // Behind what is stored, whoever counts it late.
    assert_eq!(produce(&mut client, "t", -1, &batch(&["c"])), (0, 10));
    let metrics = || fixture.http("", "GET", "/metrics", &Value::Null);
    let counted = || {
        let metrics = metrics();
        metrics
            .text()
            .lines()
            .any(|line| line == "quipu_produced_records_total 11")
    };
    wait_until(counted, || metrics().text().to_owned());
}
