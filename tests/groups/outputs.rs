//! `produce` in a poll, a commit and a settle: what is acknowledged, and the records that came of it, are one append.

use crate::support::{Answer, Service, has};
use serde_json::{Value, json};

const ORDERED: &str = "/v1/groups/steps/members/a";
const SHARED: &str = "/v1/groups/workers/members/a";

/// `in` with ten records in one partition, and `out` with three partitions.
async fn world() -> Service {
    let service = Service::new();
    service.create_topic("in", 1).await;
    service.append_numbers("in", 0, 0, 10);
    service.create_topic("out", 3).await;
    service
}

fn outputs(range: std::ops::Range<u64>) -> Value {
    range
        .map(|number| json!({"topic": "out", "key": format!("k{number}"), "value": {"from": number}}))
        .collect()
}

/// The body of a poll that joins.
fn body(kind: &str, ack: &Value, most: u64) -> Value {
    json!({"topics": ["in"], "type": kind, "ack": ack, "max_records": most, "wait_ms": 0})
}

fn with(mut body: Value, produce: Value) -> Value {
    body["produce"] = produce;
    body
}

async fn poll(service: &Service, path: &str, body: Value) -> Value {
    service.post(&format!("{path}/poll"), body).await.ok()
}

fn offsets(polled: &Value) -> Vec<u64> {
    let rows = polled["records"].as_array().expect("records").iter();
    rows.map(|row| row["offset"].as_u64().unwrap()).collect()
}

fn place(offset: u64) -> Value {
    json!({"topic": "in", "partition": 0, "offset": offset})
}

fn places(offsets: &[u64]) -> Value {
    offsets.iter().map(|offset| place(*offset)).collect()
}

/// The `from` of all outputs, sorted; checks that each is where `produced` says, for those that it names.
async fn stored(service: &Service) -> Vec<u64> {
    let mut found = Vec::new();
    for index in 0..3 {
        let uri = format!("/v1/topics/out/partitions/{index}/records?offset=earliest");
        let page = service.get(&uri).await.ok();
        let rows = page["records"].as_array().unwrap().iter();
        found.extend(rows.map(|row| row["value"]["from"].as_u64().unwrap()));
    }
    found.sort_unstable();
    found
}

/// Checks that the outputs are where an answer says, in the order of the request.
async fn check_places(service: &Service, answer: &Value, numbers: std::ops::Range<u64>) {
    let produced = answer["produced"].as_array().expect("produced");
    assert_eq!(produced.len() as u64, numbers.end - numbers.start);
    for (row, number) in produced.iter().zip(numbers) {
        let (topic, partition, offset) = (&row["topic"], &row["partition"], &row["offset"]);
        let uri = format!(
            "/v1/topics/{}/partitions/{partition}/records?offset={offset}&max_records=1",
            topic.as_str().unwrap()
        );
        let page = service.get(&uri).await.ok();
        assert_eq!(page["records"][0]["value"]["from"], number, "{row}");
    }
}

async fn committed(service: &Service, group: &str) -> Value {
    let offsets = service.get(&format!("/v1/groups/{group}/offsets")).await.json();
    offsets["offsets"][0]["offset"].clone()
}

#[tokio::test]
async fn a_poll_stores_its_outputs_with_what_it_acknowledges_and_a_repeated_one_stores_nothing() {
    for (kind, path) in [("ordered", ORDERED), ("shared", SHARED)] {
        let service = world().await;
        let first = poll(&service, path, body(kind, &Value::Null, 4)).await;
        assert_eq!(offsets(&first), [0, 1, 2, 3]);
        let ack = with(body(kind, &first["poll_id"], 4), outputs(0..4));
        let second = poll(&service, path, ack.clone()).await;
        assert_eq!(offsets(&second), [4, 5, 6, 7], "{kind}");
        assert!(second.get("replayed").is_none());
        check_places(&service, &second, 0..4).await;
        assert_eq!(stored(&service).await, [0, 1, 2, 3]);
        // The answer was lost. Whatever the outputs are now: another list, or one that would be refused.
        for again in [
            outputs(0..4),
            outputs(7..9),
            json!([{"topic": "none"}]),
            json!([]),
        ] {
            let again = poll(&service, path, with(ack.clone(), again)).await;
            assert_eq!(again["produced"], second["produced"], "{kind}");
            assert_eq!(again["replayed"], true);
            if kind == "ordered" {
                assert_eq!(
                    offsets(&again),
                    [4, 5, 6, 7],
                    "the lost answer's records come again"
                );
            }
        }
        assert_eq!(stored(&service).await, [0, 1, 2, 3]);
        // Over a restart, by a member that joins again.
        let service = service.restart().await;
        let again = poll(&service, path, ack.clone()).await;
        has(&again, json!({"produced": second["produced"], "replayed": true}));
        assert!(
            again.get("lost").is_none() && again.get("settled").is_none(),
            "{again}"
        );
        assert_eq!(offsets(&again), [4, 5, 6, 7]);
        // And without membership, as far as that goes: nothing can be delivered.
        let service = service.restart().await;
        let alone = json!({"ack": first["poll_id"], "wait_ms": 0, "produce": outputs(0..4)});
        let problem = service.post(&format!("{path}/poll"), alone).await;
        let problem = problem.problem(404, "unknown-member");
        has(
            &problem,
            json!({"outcome": "partial", "produced": second["produced"]}),
        );
        assert_eq!(stored(&service).await, [0, 1, 2, 3]);
    }
}

#[tokio::test]
async fn a_call_without_something_to_acknowledge_is_refused_and_an_empty_list_is_not() {
    for (kind, path) in [("ordered", ORDERED), ("shared", SHARED)] {
        let service = world().await;
        let poll_path = format!("{path}/poll");
        let without = with(body(kind, &Value::Null, 4), outputs(0..1));
        service.post(&poll_path, without).await.invalid("/produce");
        for wrong in [json!({}), json!("x"), json!(7)] {
            let wrong = with(body(kind, &Value::Null, 4), wrong);
            service.post(&poll_path, wrong).await.invalid("/produce");
        }
        let first = poll(&service, path, with(body(kind, &Value::Null, 100), json!([]))).await;
        assert_eq!(first["produced"], json!([]));
        assert_eq!(offsets(&first).len(), 10);
        let second = poll(&service, path, with(body(kind, &first["poll_id"], 4), json!([]))).await;
        assert_eq!((offsets(&second).len(), &second["produced"]), (0, &json!([])));
        // An answer without records has nothing to acknowledge.
        let empty = with(body(kind, &second["poll_id"], 4), outputs(0..1));
        service.post(&poll_path, empty).await.invalid("/produce");
        poll(&service, path, with(body(kind, &second["poll_id"], 4), json!([]))).await;
        assert_eq!(stored(&service).await, [0; 0]);
        let (settle, commit) = (format!("{path}/settle"), format!("{path}/commit"));
        let epoch = &second["epoch"];
        if kind == "shared" {
            let body = json!({"extend": places(&[1]), "produce": outputs(0..1)});
            service.post(&settle, body).await.invalid("/produce");
        } else {
            let body = json!({"epoch": epoch, "offsets": [], "produce": outputs(0..1)});
            service.post(&commit, body).await.invalid("/produce");
            let body = json!({"epoch": epoch, "offsets": [], "produce": []});
            assert_eq!(service.post(&commit, body).await.ok()["produced"], json!([]));
        }
    }
}

#[tokio::test]
async fn a_refused_output_refuses_the_whole_call() {
    for (kind, path) in [("ordered", ORDERED), ("shared", SHARED)] {
        let service = world().await;
        let first = poll(&service, path, body(kind, &Value::Null, 4)).await;
        let good = json!({"topic": "out", "value": {"from": 1}});
        let large = "x".repeat(1 << 20);
        for (bad, status, code, pointer) in [
            (json!({"topic": "none"}), 404, "unknown-topic", "/produce/1/topic"),
            (
                json!({"topic": "out", "partition": 3}),
                404,
                "unknown-partition",
                "/produce/1/partition",
            ),
            (
                json!({"topic": "out", "value": large}),
                413,
                "record-too-large",
                "/produce/1",
            ),
            (
                json!({"topic": "out", "kee": "x"}),
                400,
                "invalid-request",
                "/produce/1/kee",
            ),
            (json!({"value": 1}), 400, "invalid-request", "/produce/1/topic"),
        ] {
            let ack = with(body(kind, &first["poll_id"], 4), json!([good, bad]));
            let problem = service
                .post(&format!("{path}/poll"), ack)
                .await
                .problem(status, code);
            has(&problem, json!({"pointer": pointer, "outcome": "none"}));
        }
        assert_eq!(stored(&service).await, [0; 0]);
        let group = if kind == "ordered" { "steps" } else { "workers" };
        assert!(
            [Value::Null, json!(0)].contains(&committed(&service, group).await),
            "{kind}"
        );
        // The same call with good outputs goes on.
        let second = poll(
            &service,
            path,
            with(body(kind, &first["poll_id"], 4), outputs(0..4)),
        )
        .await;
        assert_eq!(offsets(&second), [4, 5, 6, 7]);
        assert!(second.get("replayed").is_none());
        assert_eq!(stored(&service).await, [0, 1, 2, 3]);
    }
}

async fn commit(service: &Service, epoch: &Value, offset: u64, produce: Value) -> Answer {
    let row = json!({"topic": "in", "partition": 0, "offset": offset});
    let body = json!({"epoch": epoch, "offsets": [row], "produce": produce});
    service.post(&format!("{ORDERED}/commit"), body).await
}

#[tokio::test]
async fn a_commit_stores_its_outputs_once_and_only_for_what_the_member_was_delivered() {
    let service = world().await;
    let first = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let (epoch, on) = (&first["epoch"], &service);
    let try_commit = |offset: u64, produce: Value| commit(on, epoch, offset, produce);
    // Beyond what was delivered.
    let problem = try_commit(5, outputs(0..1)).await.problem(409, "fenced");
    has(
        &problem,
        json!({"outcome": "none", "lost": [{"topic": "in", "partition": 0}]}),
    );
    let done = try_commit(2, outputs(0..2)).await.ok();
    has(
        &done,
        json!({"offsets": [{"topic": "in", "partition": 0, "offset": 2, "metadata": null}]}),
    );
    check_places(&service, &done, 0..2).await;
    let again = try_commit(2, outputs(5..6)).await.ok();
    has(
        &again,
        json!({"produced": done["produced"], "replayed": true, "offsets": done["offsets"]}),
    );
    // What is committed already.
    try_commit(1, outputs(7..8)).await.problem(409, "fenced");
    let third = try_commit(3, outputs(2..3)).await.ok();
    check_places(&service, &third, 2..3).await;
    assert_eq!(committed(&service, "steps").await, 3);
    // The rest of the answer, by its poll_id: the member's own commits within it do no harm.
    let rest = with(body("ordered", &first["poll_id"], 4), outputs(3..4));
    let second = poll(&service, ORDERED, rest.clone()).await;
    assert_eq!(offsets(&second), [4, 5, 6, 7]);
    check_places(&service, &second, 3..4).await;
    assert_eq!(stored(&service).await, [0, 1, 2, 3]);
    // Of the records that were delivered before, nothing can be committed any more.
    try_commit(4, outputs(8..9)).await.problem(409, "fenced");
    // An offset of the newest answer can.
    let fourth = try_commit(6, outputs(4..6)).await.ok();
    check_places(&service, &fourth, 4..6).await;
    // After a restart the commit is remembered, and a new one is refused until records are delivered again.
    let service = service.restart().await;
    let on = &service;
    let again = commit(on, epoch, 6, outputs(4..6)).await.ok();
    has(&again, json!({"produced": fourth["produced"], "replayed": true}));
    commit(on, epoch, 7, outputs(6..7))
        .await
        .problem(404, "unknown-member");
    let join = json!({"topics": ["in"], "member_id": "a"});
    let joined = service.post("/v1/groups/steps/members", join).await.created();
    commit(on, &joined["epoch"], 7, outputs(6..7))
        .await
        .problem(409, "fenced");
    let polled = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    assert_eq!(offsets(&polled), [6, 7, 8, 9]);
    commit(on, &polled["epoch"], 7, outputs(6..7)).await.ok();
    assert_eq!(stored(&service).await, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_ordered_acknowledgement_stores_nothing_where_the_offset_is_not_where_it_began() {
    // Acknowledged before, without outputs.
    let service = world().await;
    let first = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let second = poll(&service, ORDERED, body("ordered", &first["poll_id"], 4)).await;
    let late = with(body("ordered", &first["poll_id"], 4), outputs(0..4));
    let problem = service
        .post(&format!("{ORDERED}/poll"), &late)
        .await
        .problem(409, "fenced");
    has(
        &problem,
        json!({"lost": [{"topic": "in", "partition": 0}], "outcome": "none"}),
    );
    // It has not disturbed the member.
    let third = poll(
        &service,
        ORDERED,
        with(body("ordered", &second["poll_id"], 4), outputs(4..8)),
    )
    .await;
    assert_eq!(offsets(&third), [8, 9]);
    assert_eq!(stored(&service).await, [4, 5, 6, 7]);
    // After a restart: the first acknowledgement is in, so an unknown repeat of it stores nothing.
    let service = service.restart().await;
    service
        .post(&format!("{ORDERED}/poll"), &late)
        .await
        .problem(409, "fenced");
    // One that is not in yet can still be taken then.
    let open = with(body("ordered", &third["poll_id"], 4), outputs(8..10));
    let taken = poll(&service, ORDERED, open).await;
    assert_eq!(taken["produced"].as_array().unwrap().len(), 2);
    assert_eq!(stored(&service).await, [4, 5, 6, 7, 8, 9]);
    assert_eq!(committed(&service, "steps").await, 10);
    // The group was set back since.
    let service = world().await;
    let first = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let second = poll(&service, ORDERED, body("ordered", &first["poll_id"], 4)).await;
    let uri = format!("{ORDERED}?ack={}", second["poll_id"].as_str().unwrap());
    service.delete(&uri).await;
    let reset = json!({"topic": "in", "to": "earliest"});
    service.post("/v1/groups/steps/offsets/reset", reset).await.ok();
    let late = with(body("ordered", &second["poll_id"], 4), outputs(4..8));
    service
        .post(&format!("{ORDERED}/poll"), late)
        .await
        .problem(409, "fenced");
    assert_eq!(stored(&service).await, [0; 0]);
}

#[tokio::test]
async fn a_settle_stores_its_outputs_with_what_it_accepts_and_rejects_or_does_nothing() {
    let service = world().await;
    let first = poll(&service, SHARED, body("shared", &Value::Null, 6)).await;
    assert_eq!(offsets(&first).len(), 6);
    let path = format!("{SHARED}/settle");
    let settle = |body: Value| service.post(&path, body);
    // Rejected records and outputs go to the same partition.
    let reject = json!([{"topic": "in", "partition": 0, "offset": 1, "reason": "bad"}]);
    let produce = json!([
        {"topic": "in.dlq", "value": {"from": 100}, "partition": 0},
        {"topic": "out", "value": {"from": 0}, "partition": 2},
    ]);
    service.create_topic("in.dlq", 1).await;
    let one = json!({"accept": places(&[0]), "reject": reject, "produce": produce, "release": [place(2)]});
    let done = settle(one.clone()).await.ok();
    has(
        &done,
        json!({"lost": [], "settled": [], "produced": [
        {"topic": "in.dlq", "partition": 0, "offset": 1}, {"topic": "out", "partition": 2, "offset": 0}]}),
    );
    let letters = service
        .get("/v1/topics/in.dlq/partitions/0/records?offset=earliest")
        .await
        .ok();
    assert_eq!(letters["records"][0]["headers"]["dlq_offset"], "1");
    assert_eq!(letters["records"][1]["value"]["from"], 100);
    // Again, with the lists in another order, by a member that left: it has stored them.
    let again = settle(one).await.ok();
    has(&again, json!({"produced": done["produced"], "replayed": true}));
    // To accept what was rejected, and the other way round, is another call.
    let swapped = json!({"accept": places(&[1]), "reject": [place(0)], "produce": outputs(0..1)});
    let problem = settle(swapped).await.problem(409, "fenced");
    has(&problem, json!({"settled": places(&[0, 1])}));
    // If one of them is settled, nothing is done.
    let mixed = json!({"accept": places(&[3, 0]), "produce": outputs(3..4), "release": [place(4)]});
    let problem = settle(mixed).await.problem(409, "fenced");
    has(&problem, json!({"settled": places(&[0]), "outcome": "none"}));
    assert!(problem.get("lost").is_none());
    // Or somebody else's.
    let other = poll(
        &service,
        "/v1/groups/workers/members/b",
        body("shared", &Value::Null, 1),
    )
    .await;
    assert_eq!(offsets(&other), [2]);
    let mixed = json!({"accept": places(&[3]), "reject": [place(2)], "produce": outputs(3..4)});
    let problem = settle(mixed).await.problem(409, "fenced");
    has(&problem, json!({"lost": places(&[2])}));
    // The poll's acknowledgement is for the rest: not for what the member has settled or released itself, whoever has it now.
    let rest = with(body("shared", &first["poll_id"], 1), outputs(3..6));
    let done = poll(&service, SHARED, rest.clone()).await;
    assert!(
        done.get("lost").is_none() && done.get("settled").is_none(),
        "{done}"
    );
    check_places(&service, &done, 3..6).await;
    let service = service.restart().await;
    let again = poll(&service, SHARED, rest).await;
    has(&again, json!({"produced": done["produced"], "replayed": true}));
    assert_eq!(stored(&service).await, [0, 3, 4, 5]);
    let lag = service.get("/v1/groups/workers/lag").await.ok();
    assert_eq!(lag["lag"], 10 - 5);
}

#[tokio::test]
async fn records_that_the_member_has_released_are_no_part_of_its_acknowledgement() {
    let service = world().await;
    let first = poll(&service, SHARED, body("shared", &Value::Null, 3)).await;
    let settle = format!("{SHARED}/settle");
    let release = json!([{"topic": "in", "partition": 0, "offset": 1, "delay_ms": 60000}]);
    service.post(&settle, json!({"release": release})).await.ok();
    let second = poll(
        &service,
        SHARED,
        with(body("shared", &first["poll_id"], 2), outputs(0..2)),
    )
    .await;
    assert_eq!(second["produced"].as_array().unwrap().len(), 2);
    assert_eq!(offsets(&second), [3, 4]);
    // Also if the member is given it again: its outputs come with that poll.
    service.post(&settle, json!({"release": [place(3)]})).await.ok();
    let third = poll(&service, SHARED, body("shared", &Value::Null, 1)).await;
    assert_eq!(offsets(&third), [3]);
    poll(
        &service,
        SHARED,
        with(body("shared", &second["poll_id"], 1), outputs(4..5)),
    )
    .await;
    poll(
        &service,
        SHARED,
        with(body("shared", &third["poll_id"], 1), outputs(3..4)),
    )
    .await;
    assert_eq!(stored(&service).await, [0, 1, 3, 4]);
    // A record whose lease has ended, and that it was given again, is part of both polls.
    let short = "/v1/groups/short/members/a";
    let mut wanted = body("shared", &Value::Null, 2);
    wanted["lease_ms"] = json!(100);
    let first = poll(&service, short, wanted.clone()).await;
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let again = poll(&service, short, wanted.clone()).await;
    assert_eq!((offsets(&first), offsets(&again)), (vec![0, 1], vec![0, 1]));
    wanted["ack"] = first["poll_id"].clone();
    let late = service
        .post(&format!("{short}/poll"), with(wanted, outputs(7..9)))
        .await;
    let problem = late.problem(409, "fenced");
    has(&problem, json!({"lost": places(&[0, 1])}));
}

#[tokio::test]
async fn the_last_16_calls_of_a_member_are_remembered_and_a_forgotten_one_is_refused() {
    let service = Service::new();
    service.create_topic("in", 1).await;
    service.append_numbers("in", 0, 0, 40);
    service.create_topic("out", 3).await;
    let mut answers = Vec::new();
    let mut ack = poll(&service, ORDERED, body("ordered", &Value::Null, 1)).await["poll_id"].clone();
    for number in 0..20 {
        let call = with(body("ordered", &ack, 1), outputs(number..number + 1));
        let answer = poll(&service, ORDERED, call.clone()).await;
        ack = answer["poll_id"].clone();
        answers.push((call, answer));
    }
    for service in [&service] {
        for (number, (call, answer)) in answers.iter().enumerate() {
            let path = format!("{ORDERED}/poll");
            if number < 4 {
                service.post(&path, call).await.problem(409, "fenced");
                continue;
            }
            let again = service.post(&path, call).await.ok();
            has(&again, json!({"produced": answer["produced"], "replayed": true}));
            // All but the last are strays of a proxy: they get no records.
            assert_eq!(offsets(&again).is_empty(), number < 19, "{number}");
        }
    }
    // The member goes on as if nothing had happened. The last answer but one was given twice.
    let last = poll(&service, ORDERED, body("ordered", &ack, 1)).await;
    assert_eq!(offsets(&last), [20]);
    let service = service.restart().await;
    let (call, answer) = &answers[18];
    let again = poll(&service, ORDERED, call.clone()).await;
    has(&again, json!({"produced": answer["produced"], "replayed": true}));
    service
        .post(&format!("{ORDERED}/poll"), &answers[2].0)
        .await
        .problem(409, "fenced");
    let expected: Vec<u64> = (0..20).collect();
    assert_eq!(stored(&service).await, expected);
}

#[tokio::test]
async fn a_client_that_acts_on_the_answer_to_a_stray_gets_what_it_would_have_got() {
    let service = world().await;
    let mut ack = poll(&service, ORDERED, body("ordered", &Value::Null, 1)).await["poll_id"].clone();
    let mut calls = Vec::new();
    for number in 0..4 {
        let call = with(body("ordered", &ack, 1), outputs(number..number + 1));
        ack = poll(&service, ORDERED, call.clone()).await["poll_id"].clone();
        calls.push(call);
    }
    let stray = poll(&service, ORDERED, calls[1].clone()).await;
    assert_eq!((offsets(&stray), &stray["replayed"]), (vec![], &json!(true)));
    let next = poll(&service, ORDERED, body("ordered", &stray["poll_id"], 1)).await;
    assert_eq!(
        offsets(&next),
        [4],
        "the last answer's records, which nobody has acknowledged"
    );
    let next = poll(&service, ORDERED, body("ordered", &next["poll_id"], 1)).await;
    assert_eq!(offsets(&next), [5]);
}

#[tokio::test]
async fn a_deleted_group_forgets_what_its_members_have_produced() {
    let service = world().await;
    let first = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let call = with(body("ordered", &first["poll_id"], 4), outputs(0..4));
    poll(&service, ORDERED, call.clone()).await;
    service.delete(ORDERED).await;
    service.delete("/v1/groups/steps").await;
    let problem = service.post(&format!("{ORDERED}/poll"), call).await;
    problem.problem(409, "fenced");
}

#[tokio::test]
async fn a_call_that_is_sent_again_while_the_first_runs_stores_its_outputs_once() {
    for (kind, path) in [("ordered", ORDERED), ("shared", SHARED)] {
        let service = world().await;
        let first = poll(&service, path, body(kind, &Value::Null, 4)).await;
        let call = with(body(kind, &first["poll_id"], 4), outputs(0..4));
        let path = format!("{path}/poll");
        let calls = (0..4).map(|_| service.post(&path, call.clone()));
        let mut produced = Vec::new();
        for answer in futures_util::future::join_all(calls).await {
            // Of the polls at once only the newest delivers; what is acknowledged is stored all the same.
            let answer = answer.json();
            assert!(
                answer.get("poll_id").is_some() || answer["code"] == "poll-superseded",
                "{answer}"
            );
            produced.push(answer["produced"].clone());
        }
        assert!(
            produced.iter().all(|places| *places == produced[0]),
            "{kind}: {produced:?}"
        );
        assert_eq!(produced[0].as_array().map(Vec::len), Some(4));
        assert_eq!(stored(&service).await, [0, 1, 2, 3], "{kind}");
    }
}

#[tokio::test]
async fn outputs_of_many_members_that_are_written_together_are_where_their_answers_say() {
    let service = world().await;
    let mut members = Vec::new();
    for number in 0..10 {
        let path = format!("/v1/groups/workers/members/m{number}");
        let polled = poll(&service, &path, body("shared", &Value::Null, 1)).await;
        members.push((path, offsets(&polled)[0]));
    }
    let calls = members.iter().map(|(path, offset)| {
        let service = &service;
        async move {
            let produce = outputs(offset * 10..offset * 10 + 5);
            let body = json!({"accept": [place(*offset)], "produce": produce});
            (offset, service.post(&format!("{path}/settle"), body).await.ok())
        }
    });
    for (offset, answer) in futures_util::future::join_all(calls).await {
        check_places(&service, &answer, offset * 10..offset * 10 + 5).await;
    }
    let expected: Vec<u64> = (0..10).flat_map(|offset| offset * 10..offset * 10 + 5).collect();
    assert_eq!(stored(&service).await, expected);
    let lag = service.get("/v1/groups/workers/lag").await.ok();
    assert_eq!(lag["lag"], 0);
}

#[tokio::test]
async fn a_poll_that_fails_after_it_has_stored_its_outputs_says_where_they_are() {
    for (kind, path) in [("ordered", ORDERED), ("shared", SHARED)] {
        let service = world().await;
        let first = poll(&service, path, body(kind, &Value::Null, 100)).await;
        let mut call = with(body(kind, &first["poll_id"], 4), outputs(0..2));
        call["wait_ms"] = json!(30_000);
        let path = format!("{path}/poll");
        let waiting = service.post(&path, call);
        let newer = async {
            while stored(&service).await.is_empty() {
                tokio::task::yield_now().await;
            }
            service.post(&path, body(kind, &Value::Null, 4)).await.ok();
        };
        let (answer, ()) = tokio::join!(waiting, newer);
        let problem = answer.problem(409, "poll-superseded");
        assert_eq!(problem["outcome"], "partial", "{kind}");
        check_places(&service, &problem, 0..2).await;
        assert_eq!(stored(&service).await, [0, 1]);
    }
}

#[tokio::test]
async fn outputs_are_counted_like_any_produced_records_and_go_to_any_topics() {
    let service = world().await;
    service.create_topic("audit", 1).await;
    let before = service.metric("quipu_produced_records_total").await;
    let first = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let produce = json!([
        {"topic": "audit", "value": {"from": 0}, "headers": {"type": "done"}, "timestamp": 77},
        {"topic": "out", "value": {"from": 1}, "partition": 1},
        {"topic": "audit", "value": null},
    ]);
    let call = with(body("ordered", &first["poll_id"], 1), produce);
    let answer = poll(&service, ORDERED, call).await;
    let at = |topic: &str, partition: u64, offset: u64| json!({"topic": topic, "partition": partition, "offset": offset});
    assert_eq!(
        answer["produced"],
        json!([at("audit", 0, 0), at("out", 1, 0), at("audit", 0, 1)])
    );
    let page = service
        .get("/v1/topics/audit/partitions/0/records?offset=earliest")
        .await
        .ok();
    has(
        &page["records"][0],
        json!({"headers": {"type": "done"}, "timestamp": 77}),
    );
    assert_eq!(service.metric("quipu_produced_records_total").await, before + 3);
}

#[tokio::test]
async fn what_is_acknowledged_again_after_a_reset_or_a_redrive_is_another_call() {
    let service = world().await;
    let polled = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let first = commit(&service, &polled["epoch"], 4, outputs(0..4)).await.ok();
    service.delete(ORDERED).await;
    let reset = json!({"topic": "in", "to": "earliest"});
    service.post("/v1/groups/steps/offsets/reset", reset).await.ok();
    let polled = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    assert_eq!(offsets(&polled), [0, 1, 2, 3]);
    let again = commit(&service, &polled["epoch"], 4, outputs(0..4)).await.ok();
    assert!(
        again.get("replayed").is_none() && again["produced"] != first["produced"],
        "{again}"
    );
    assert_eq!(committed(&service, "steps").await, 4);
    // The newest one is what is repeated now.
    let repeated = commit(&service, &polled["epoch"], 4, json!([])).await.ok();
    has(
        &repeated,
        json!({"produced": again["produced"], "replayed": true}),
    );

    let service = world().await;
    let path = format!("{SHARED}/settle");
    let first = poll(&service, SHARED, body("shared", &Value::Null, 2)).await;
    let settle = json!({"accept": [place(0)], "reject": [place(1)], "produce": outputs(0..1)});
    let stored_first = service.post(&path, settle.clone()).await.ok();
    service.post("/v1/groups/workers/redrive", json!({})).await.ok();
    // A late repeat, before anybody is given the record again.
    has(
        &service.post(&path, settle.clone()).await.ok(),
        json!({"produced": stored_first["produced"], "replayed": true}),
    );
    // An acknowledgement of the poll that delivered it first does not mean it either.
    let late = poll(&service, SHARED, body("shared", &first["poll_id"], 1)).await;
    assert_eq!(
        (offsets(&late), &late["records"][0]["redriven"]),
        (vec![1], &json!(1))
    );
    // The same record, the same settle: another time.
    let again = json!({"reject": [place(1)], "produce": outputs(1..2)});
    let again = service.post(&path, again).await.ok();
    assert!(again.get("replayed").is_none(), "{again}");
    assert_eq!(stored(&service).await, [0, 1]);
}

#[tokio::test]
async fn a_commit_of_records_that_were_taken_back_comes_too_late() {
    let service = world().await;
    let polled = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    // Its process has died, and the next one is given the same records, while the commit is on its way.
    let next = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    assert_eq!(offsets(&next), [0, 1, 2, 3]);
    commit(&service, &polled["epoch"], 2, outputs(0..2))
        .await
        .problem(409, "fenced");
    let done = with(body("ordered", &next["poll_id"], 4), outputs(0..4));
    poll(&service, ORDERED, done).await;
    assert_eq!(stored(&service).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_acknowledgement_of_what_is_committed_already_has_no_outputs() {
    let service = world().await;
    let polled = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    commit(&service, &polled["epoch"], 0, outputs(0..1))
        .await
        .problem(409, "fenced");
    commit(&service, &polled["epoch"], 4, outputs(0..4)).await.ok();
    let ack = with(body("ordered", &polled["poll_id"], 4), outputs(0..4));
    service
        .post(&format!("{ORDERED}/poll"), ack)
        .await
        .problem(409, "fenced");
    assert_eq!(stored(&service).await, [0, 1, 2, 3]);
    let next = poll(&service, ORDERED, body("ordered", &polled["poll_id"], 4)).await;
    assert_eq!(offsets(&next), [4, 5, 6, 7]);
}

#[tokio::test]
async fn a_repeated_acknowledgement_does_not_undo_a_reset() {
    let service = world().await;
    let polled = poll(&service, ORDERED, body("ordered", &Value::Null, 4)).await;
    let call = with(body("ordered", &polled["poll_id"], 4), outputs(0..4));
    let first = poll(&service, ORDERED, call.clone()).await;
    service.delete(ORDERED).await;
    let reset = json!({"topic": "in", "to": "earliest"});
    service.post("/v1/groups/steps/offsets/reset", reset).await.ok();
    let service = service.restart().await;
    let again = poll(&service, ORDERED, call).await;
    has(&again, json!({"produced": first["produced"], "replayed": true}));
    assert_eq!(offsets(&again), [0, 1, 2, 3]);
    assert_eq!(committed(&service, "steps").await, 0);
}

#[tokio::test]
async fn what_a_settle_releases_besides_is_released_once_its_outputs_are_stored() {
    let service = world().await;
    poll(&service, SHARED, body("shared", &Value::Null, 4)).await;
    let path = format!("{SHARED}/settle");
    let wrong = json!({"accept": [place(0)], "release": [place(1)], "produce": [{"topic": "none"}]});
    service.post(&path, wrong).await.problem(404, "unknown-topic");
    let other = "/v1/groups/workers/members/b";
    assert_eq!(
        offsets(&poll(&service, other, body("shared", &Value::Null, 1)).await),
        [4],
        "1 is not released"
    );
    let good = json!({"accept": [place(0)], "release": [place(1)], "extend": [place(4), place(2)], "produce": outputs(0..1)});
    let done = service.post(&path, good).await.ok();
    has(&done, json!({"lost": places(&[4]), "settled": []}));
    assert_eq!(
        offsets(&poll(&service, other, body("shared", &Value::Null, 1)).await),
        [1]
    );
}

#[tokio::test]
async fn a_queue_that_is_made_again_takes_no_acknowledgement_of_the_one_before() {
    for restarts in [false, true] {
        let service = world().await;
        let polled = poll(&service, SHARED, body("shared", &Value::Null, 2)).await;
        let last = with(body("shared", &polled["poll_id"], 1), outputs(0..2));
        assert_eq!(
            poll(&service, SHARED, last.clone()).await["produced"]
                .as_array()
                .map(Vec::len),
            Some(2)
        );
        service.delete(SHARED).await.with_status(204);
        let again = async |service: &Service| {
            service.delete("/v1/groups/workers").await.with_status(204);
            let first = poll(
                service,
                "/v1/groups/workers/members/b",
                body("shared", &Value::Null, 1),
            )
            .await;
            assert_eq!(offsets(&first), [0]);
            service
                .delete("/v1/groups/workers/members/b")
                .await
                .with_status(204);
        };
        again(&service).await;
        let service = if restarts {
            service.restart().await
        } else {
            service
        };
        // The same call again: its outputs are stored, and the queue of which that is known is gone.
        let refused = service.post(&format!("{SHARED}/poll"), last).await;
        let problem = refused.problem(409, "fenced");
        assert_eq!(problem["lost"], places(&[0, 1]));
        assert_eq!(stored(&service).await, [0, 1]);
        // Without outputs it acknowledges nothing, and says so.
        let next = poll(&service, SHARED, body("shared", &polled["poll_id"], 2)).await;
        assert_eq!((offsets(&next), &next["lost"]), (vec![0, 1], &places(&[0, 1])));
    }
}
