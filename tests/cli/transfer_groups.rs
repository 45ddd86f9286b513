//! `quipu export` and `quipu import`: groups of each kind, whose members go on at the other server with what they ask for as ever.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Fake, fine, problem};
use crate::run;
use crate::service::Service;
use crate::support::PATIENCE;
use crate::transfer::{export, import, imported};

/// One topic with this many partitions and these records.
fn with_records(topic: &str, partitions: u32, records: &[Value]) -> Service {
    let service = Service::start();
    service.ok(&format!("topic create {topic} --partitions {partitions}"));
    let lines = records.iter().map(|record| format!("{record}\n"));
    service.produce(topic, &lines.collect::<String>());
    service
}

/// Everything of one server on a new one.
fn moved(from: &Service) -> (Service, TempDir, PathBuf) {
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    let path = export(from, dir.path(), "");
    import(&to, &path).ok();
    (to, dir, path)
}

fn about(service: &Service, group: &str) -> Value {
    service.get(&format!("/v1/groups/{group}"))
}

/// The kind, settings and subscriptions of a group are the same on both servers.
#[track_caller]
fn assert_same(from: &Service, to: &Service, group: &str) {
    let (left, right) = (about(from, group), about(to, group));
    for part in ["type", "settings", "topics"] {
        assert_eq!(left[part], right[part], "{part}");
    }
    assert_eq!(right["members"], json!([]), "the import has left");
}

/// A poll of the member `m` with these fields of a join, and this `ack`.
fn poll(service: &Service, group: &str, join: &Value, ack: &Value) -> Value {
    let mut body = join.clone();
    body["ack"] = ack.clone();
    body["wait_ms"] = json!(0);
    service.call(200, "POST", &format!("/v1/groups/{group}/members/m/poll"), &body)
}

/// Polls, acknowledging everything, until nothing is left to read; the records as (partition, offset).
fn drained(service: &Service, group: &str, join: &Value) -> Vec<(u64, u64)> {
    drained_records(service, group, join).iter().map(place).collect()
}

fn place(record: &Value) -> (u64, u64) {
    (
        record["partition"].as_u64().unwrap(),
        record["offset"].as_u64().unwrap(),
    )
}

fn drained_records(service: &Service, group: &str, join: &Value) -> Vec<Value> {
    let (mut found, mut ack) = (Vec::new(), Value::Null);
    let begin = Instant::now();
    loop {
        let answer = poll(service, group, join, &ack);
        ack = answer["poll_id"].clone();
        let records = answer["records"].as_array().unwrap();
        found.extend(records.iter().cloned());
        let lag = service.get(&format!("/v1/groups/{group}/lag"))["lag"].clone();
        if records.is_empty() && lag == 0 {
            found.sort_by_key(place);
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{lag} are left");
    }
}

fn settle(service: &Service, group: &str, body: &Value) {
    service.call(200, "POST", &format!("/v1/groups/{group}/members/m/settle"), body);
}

fn at(topic: &str, partition: u64, offset: u64) -> Value {
    json!({"topic": topic, "partition": partition, "offset": offset})
}

fn typed(partition: u32, key: &str, kind: &str) -> Value {
    json!({"partition": partition, "key": key, "value": 1, "headers": {"type": kind}})
}

#[test]
fn a_work_queue_comes_over_with_every_setting_and_gives_out_again_what_was_not_settled() {
    let records: Vec<Value> = (0..12)
        .map(|n| typed(n % 2, &format!("k{n}"), ["job.a", "other"][n as usize / 2 % 2]))
        .collect();
    let from = with_records("jobs", 2, &records);
    // Offsets 0, 2 and 4 of both partitions match.
    let join = json!({
        "topics": ["jobs"], "type": "shared", "lease_ms": 123_456, "max_deliveries": 7,
        "dead_letter_topic": "dead", "order": "key", "filter": {"header.type": ["job.*"]},
    });
    let first = poll(&from, "q", &join, &Value::Null);
    assert!(!first["records"].as_array().unwrap().is_empty());
    let accept = json!({"accept": [at("jobs", 0, 0), at("jobs", 0, 2), at("jobs", 1, 0), at("jobs", 1, 4)]});
    settle(&from, "q", &accept);

    let (to, _dir, _) = moved(&from);
    assert_same(&from, &to, "q");
    assert_eq!(about(&to, "q")["settings"]["lease_ms"], 123_456);
    // Of partition 1, the offset 4 was settled before 2: it is given out again.
    let found = drained_records(&to, "q", &join);
    let places: Vec<_> = found.iter().map(place).collect();
    assert_eq!(places, [(0, 4), (1, 2), (1, 4)]);
    assert!(found.iter().all(|record| record["delivery_count"] == 1));
    let other = json!({"topics": ["jobs"], "type": "shared", "max_deliveries": 8});
    let path = "/v1/groups/q/members";
    assert_eq!(
        to.call(409, "POST", path, &other)["code"],
        "group-settings-differ"
    );
    let other = json!({"topics": ["jobs"]});
    assert_eq!(to.call(409, "POST", path, &other)["code"], "group-type-mismatch");
}

#[test]
fn a_work_queue_that_has_settled_nothing_and_has_members_comes_over_as_a_work_queue() {
    let from = with_records("resize", 1, &[json!({"value": 1}), json!({"value": 2})]);
    let join = json!({"topics": ["resize"], "type": "shared"});
    poll(&from, "resize", &join, &Value::Null);
    let (to, _dir, path) = moved(&from);
    assert_same(&from, &to, "resize");
    assert_eq!(drained(&to, "resize", &join), [(0, 0), (0, 1)]);
    // Its workers stay when the same file is imported again, and so does what they have settled.
    assert_eq!(imported(&to, &path)["already_there"], 2);
    assert_eq!(about(&to, "resize")["members"][0]["member_id"], "m");
    assert_eq!(drained(&to, "resize", &join), []);
}

#[test]
fn an_ordered_group_with_a_filter_goes_on_with_it() {
    let records: Vec<Value> = (0..6)
        .map(|n| typed(0, "k", ["order.paid", "other"][n % 2]))
        .collect();
    let from = with_records("orders", 1, &records);
    let join =
        json!({"topics": ["orders"], "filter": {"header.type": ["order.*"], "key": ["k"]}, "max_records": 1});
    let first = poll(&from, "paid", &join, &Value::Null);
    let second = poll(&from, "paid", &join, &first["poll_id"]);
    assert_eq!(second["records"][0]["offset"], 2);
    from.ok("group kick paid m");

    let (to, _dir, _) = moved(&from);
    assert_same(&from, &to, "paid");
    assert_eq!(drained(&to, "paid", &join), [(0, 2), (0, 4)]);
}

#[test]
fn a_pattern_brings_topics_that_are_made_later_from_their_beginning() {
    let from = with_records("orders.eu", 1, &[json!({"value": 1}), json!({"value": 2})]);
    let join = json!({"topics": ["orders.*", "stock"], "start": "latest"});
    from.ok("topic create stock --partitions 1");
    poll(&from, "all", &join, &Value::Null);
    from.produce("orders.eu", "{\"value\":3}\n");
    from.ok("group kick all m");
    // Nobody of the group has seen it.
    from.ok("topic create orders.us --partitions 1");
    from.produce("orders.us", "{\"value\":4}\n");

    let (to, _dir, _) = moved(&from);
    assert_eq!(
        about(&from, "all")["topics"],
        json!(["orders.*", "orders.eu", "stock"])
    );
    assert_eq!(
        about(&to, "all")["topics"],
        json!(["orders.*", "orders.eu", "orders.us", "stock"])
    );
    to.ok("topic create orders.asia --partitions 1");
    to.produce("orders.asia", "{\"value\":5}\n");
    assert_eq!(to.get("/v1/groups/all/lag")["lag"], 3);
    let found = drained_records(&to, "all", &join);
    let mut values: Vec<u64> = found
        .iter()
        .map(|record| record["value"].as_u64().unwrap())
        .collect();
    values.sort_unstable();
    assert_eq!(values, [3, 4, 5]);
}

#[test]
fn a_group_that_has_subscribed_and_committed_nothing_keeps_its_lag() {
    let from = with_records(
        "t",
        2,
        &[
            json!({"partition": 0, "value": 1}),
            json!({"partition": 1, "value": 2}),
        ],
    );
    from.call(
        201,
        "POST",
        "/v1/groups/g/members",
        &json!({"topics": ["t"], "member_id": "m"}),
    );
    from.ok("group kick g m");
    let (to, _dir, _) = moved(&from);
    assert_same(&from, &to, "g");
    assert_eq!(to.get("/v1/groups/g/lag")["lag"], 2);
    // With one of its topics, and with none of them.
    from.ok("topic create other --partitions 1");
    from.fails(
        "export --topics other --groups g",
        "has committed nothing in these topics",
    );
    assert!(!from.ok("export --topics other").contains("\"group\""));
}

/// A call of a Kafka client: key, version, body; the answer's bytes.
fn kafka(stream: &mut TcpStream, key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let head = [
        &key.to_be_bytes()[..],
        &version.to_be_bytes(),
        &[0, 0, 0, 1, 0, 1, b'c'],
    ]
    .concat();
    let length = u32::try_from(head.len() + body.len()).unwrap();
    stream
        .write_all(&[&length.to_be_bytes()[..], &head, body].concat())
        .unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn text(text: &str) -> Vec<u8> {
    [
        &u16::try_from(text.len()).unwrap().to_be_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

/// JoinGroup 1 of a classic consumer of the topic `t` in the group `k`; the connection and the member's id.
fn joined(service: &Service) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(service.kafka().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let subscription = b"\0\0\0\0\0\x01\0\x01t\0\0\0\0";
    let mut join = text("k");
    join.extend([10_000_u32.to_be_bytes(), 10_000_u32.to_be_bytes()].concat());
    join.extend([text(""), text("consumer"), vec![0, 0, 0, 1], text("range")].concat());
    join.extend(
        [
            &u32::try_from(subscription.len()).unwrap().to_be_bytes()[..],
            subscription,
        ]
        .concat(),
    );
    let answer = kafka(&mut stream, 11, 1, &join);
    assert_eq!(answer[4..10], [0, 0, 0, 0, 0, 1], "no error, generation 1");
    // Behind the protocol: the leader's id, which is the member's.
    let length = usize::from(u16::from_be_bytes([answer[17], answer[18]]));
    let member = std::str::from_utf8(&answer[19..19 + length]).unwrap();
    (stream, member.to_owned())
}

#[test]
fn a_group_of_kafkas_classic_protocol_goes_on_from_its_commits_with_members_of_either_kind() {
    let listens = [("QUIPU_KAFKA_LISTEN", "127.0.0.1:0")];
    let (from, to) = (Service::start_with(&listens), Service::start_with(&listens));
    from.ok("topic create t --partitions 1");
    from.produce("t", "{\"value\":1}\n{\"value\":2}\n{\"value\":3}\n");
    let (mut stream, member) = joined(&from);
    // SyncGroup 0 and OffsetCommit 2 of the one member, which stays.
    let own = [text("k"), vec![0, 0, 0, 1], text(&member)].concat();
    let assignment = [vec![0, 0, 0, 1], text(&member), vec![0, 0, 0, 1, 7]].concat();
    assert_eq!(
        kafka(&mut stream, 14, 0, &[&own[..], &assignment].concat())[4..6],
        [0, 0]
    );
    let place = [text("t"), vec![0, 0, 0, 1, 0, 0, 0, 0]].concat();
    let commit = [
        &own[..],
        &[0xff; 8],
        &[0, 0, 0, 1],
        &place,
        &2_u64.to_be_bytes(),
        &text("note"),
    ]
    .concat();
    let committed = kafka(&mut stream, 8, 2, &commit);
    assert_eq!(committed[committed.len() - 2..], [0, 0]);
    assert_eq!(about(&from, "k")["type"], "classic");

    let dir = TempDir::new().unwrap();
    import(&to, &export(&from, dir.path(), "")).ok();
    let offsets = to.get("/v1/groups/k/offsets");
    assert_eq!(offsets, from.get("/v1/groups/k/offsets"));
    assert_eq!(offsets["offsets"][0]["metadata"], "note");
    let (_stream, _) = joined(&to);
    assert_eq!(about(&to, "k")["type"], "classic");
    assert_eq!(to.get("/v1/groups/k/offsets"), offsets);
    for member in about(&to, "k")["members"].as_array().unwrap() {
        to.ok(&format!("group kick k {}", member["member_id"].as_str().unwrap()));
    }
    assert_eq!(drained(&to, "k", &json!({"topics": ["t"]})), [(0, 2)]);
}

/// A queue with dead letters: of the records 0 to 5 of `jobs/0`, where offset 0 was deleted, 1 was redriven and 2 discarded, 3 and 5 wait,
/// and 4 was not settled.
fn with_dead_letters() -> Service {
    let records: Vec<Value> = (0..6)
        .map(|n| json!({"key": "k", "value": n, "headers": {"z": "1", "a": "2"}}))
        .collect();
    let from = with_records("jobs", 1, &records);
    let join = json!({"topics": ["jobs"], "type": "shared", "max_records": 6});
    poll(&from, "q", &join, &Value::Null);
    for offset in [0, 1, 2, 3, 5] {
        let reject = json!({"reject": [{"topic": "jobs", "partition": 0, "offset": offset, "reason": format!("bad {offset}")}]});
        settle(&from, "q", &reject);
    }
    from.ok("group redrive q --reason 'bad 1'");
    from.ok("group redrive q --reason 'bad 2' --discard");
    settle(
        &from,
        "q",
        &json!({"release": [{"topic": "jobs", "partition": 0, "offset": 4}]}),
    );
    from.ok("topic trim jobs --partition 0 --before offset:1 --yes");
    from
}

#[test]
fn dead_letters_that_wait_can_be_redriven_on_the_other_server() {
    let from = with_dead_letters();
    let waiting = |service: &Service| {
        let found = service.get("/v1/groups/q/dead-letters");
        let rows = found["dead_letters"].as_array().unwrap().iter();
        rows.map(|row| (row["reason"].as_str().unwrap().to_owned(), row["origin"].clone()))
            .collect::<Vec<_>>()
    };
    let all = ["bad 0", "bad 3", "bad 5"];
    assert_eq!(
        waiting(&from)
            .into_iter()
            .map(|(reason, _)| reason)
            .collect::<Vec<_>>(),
        all
    );

    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    let path = export(&from, dir.path(), "");
    let ended = import(&to, &path);
    // The record of `bad 0` is gone; that of `bad 5` is behind an unsettled one, so it comes again itself.
    assert!(
        ended
            .err
            .contains("1 dead letter of the group q cannot be redriven"),
        "{}",
        ended.err
    );
    ended.ok();
    assert_same(&from, &to, "q");
    assert_eq!(waiting(&to), [("bad 3".to_owned(), at("jobs", 0, 2))]);
    assert_eq!(about(&to, "q")["queue"]["dead_letters"], 1);
    // Everything that the letter has beside four headers.
    let letters = |service: &Service| {
        let text = service.ok("consume jobs.dlq");
        let lines = text.lines().map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let headers = record["headers"].as_object_mut().unwrap();
            headers.retain(|name, _| {
                !["dlq_offset", "dlq_topic_id", "dlq_died_at", "dlq_seal"].contains(&&**name)
            });
            record
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(letters(&to), letters(&from));

    // The same file again: nothing twice, with the letters that were changed.
    assert_eq!(imported(&to, &path)["records"], 0);
    assert_eq!(waiting(&to).len(), 1);
    to.ok("group redrive q");
    assert_eq!(imported(&to, &path)["records"], 0);
    assert_eq!(waiting(&to), []);
    let found = drained_records(&to, "q", &json!({"topics": ["jobs"], "type": "shared"}));
    let values: Vec<(u64, &Value)> = found
        .iter()
        .map(|record| (place(record).1, &record["value"]))
        .collect();
    assert_eq!(values, [(2, &json!(3)), (3, &json!(4)), (4, &json!(5))]);
    let redriven = &found[0];
    assert_eq!(redriven["redriven"], 1);
    assert_eq!(redriven["headers"].to_string(), r#"{"a":"2","z":"1"}"#);
}

#[test]
fn dead_letters_whose_topic_is_left_out_are_told_and_stay() {
    let (from, to, dir) = (with_dead_letters(), Service::start(), TempDir::new().unwrap());
    let ended = from.run("export --topics jobs");
    assert!(
        ended.err.contains("3 dead letters of the group q wait in topics"),
        "{}",
        ended.err
    );
    let path = dir.path().join("file");
    fs::write(&path, ended.ok()).unwrap();
    import(&to, &path).ok();
    assert_same(&from, &to, "q");
    assert_eq!(to.get("/v1/groups/q/dead-letters")["dead_letters"], json!([]));
}

/// A file with a topic `t` of two records, and these lines of groups.
fn file(dir: &TempDir, lines: &[Value]) -> PathBuf {
    let mut text =
        "{\"export\":1,\"made\":0}\n{\"make_topic\":\"t\",\"partitions\":1,\"config\":{}}\n".to_owned();
    for n in 0..2 {
        text += &format!(
            "{{\"topic\":\"t\",\"partition\":0,\"offset\":{n},\"timestamp\":1,\"value\":{n},\"headers\":{{}}}}\n"
        );
    }
    text.extend(lines.iter().map(|line| format!("{line}\n")));
    text += "{\"end\":true,\"records\":2}\n";
    let path = dir.path().join("file");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_file_of_an_earlier_version_makes_ordered_groups_and_leaves_other_kinds_as_they_are() {
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    let path = file(&dir, &[json!({"group": "g", "offsets": [at("t", 0, 1)]})]);
    imported(&to, &path);
    assert_eq!(about(&to, "g")["type"], "ordered");
    assert_eq!(drained(&to, "g", &json!({"topics": ["t"]})), [(0, 1)]);
    let path = file(&dir, &[json!({"group": "q", "offsets": [at("t", 0, 1)]})]);
    let join = json!({"topics": ["t"], "type": "shared", "member_id": "m"});
    to.call(201, "POST", "/v1/groups/q/members", &join);
    to.ok("group kick q m");
    imported(&to, &path);
    let join = json!({"topics": ["t"], "type": "shared"});
    assert_eq!(drained(&to, "q", &join), [(0, 1)]);
}

#[test]
fn a_group_that_is_there_with_another_type_is_refused_and_with_other_settings_told() {
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    let queue = |lease_ms: u32| {
        let line = json!({"group": "g", "type": "shared", "topics": ["t"], "offsets": [], "settings": {
            "lease_ms": lease_ms, "max_deliveries": 5, "dead_letter_topic": null, "order": null, "filter": null}});
        file(&dir, &[line])
    };
    to.ok("topic create t --partitions 1");
    to.call(200, "PUT", "/v1/groups/g/offsets", &json!({"offsets": []}));
    import(&to, &queue(1000)).fails_with("group g is there with the type ordered");
    to.ok("group delete g");
    import(&to, &queue(1000)).ok();
    let ended = import(&to, &queue(2000));
    assert!(
        ended.err.contains("group g is there with other settings"),
        "{}",
        ended.err
    );
    ended.ok();
    assert_eq!(about(&to, "g")["settings"]["lease_ms"], 1000);
}

#[test]
fn a_wrong_group_in_a_file_is_refused_and_makes_nothing() {
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    let line = |rest: &Value| {
        let mut line = json!({"group": "g", "type": "shared", "topics": ["t"], "offsets": []});
        line.as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        line
    };
    for (wrong, part) in [
        (json!({"type": "crowd"}), "type is ordered or shared"),
        (json!({"type": 7}), "it is not of an export"),
        (json!({"offsets": null}), "it is not of an export"),
        (json!({"topics": "t"}), "it is not of an export"),
        (json!({"topics": ["missing"]}), "unknown-topic"),
        (json!({"topics": ["a#"]}), "invalid-request"),
        (json!({"topics": []}), "group g has no topic"),
        (json!({"settings": []}), "it is not of an export"),
        (json!({"settings": {"lease_ms": 1}}), "lease_ms"),
        (json!({"settings": {"colour": "red"}}), "colour"),
        (
            json!({"settings": {"dead_letter_topic": "t"}}),
            "dead_letter_topic",
        ),
        (
            json!({"type": "ordered", "settings": {"filter": {"nothing": ["x"]}}}),
            "filter",
        ),
        (
            json!({"dead_letters": [{"partition": 0}]}),
            "it is not of an export",
        ),
    ] {
        let ended = import(&to, &file(&dir, &[line(&wrong)]));
        assert_eq!(ended.code, Some(1), "{wrong}");
        assert!(ended.err.contains(part), "{wrong}: {}", ended.err);
        assert_eq!(to.get("/v1/groups")["groups"], json!([]), "{wrong}");
    }
}

#[test]
fn a_server_that_does_not_tell_subscriptions_gives_a_work_queue_all_the_same() {
    let from = Fake::start(|request, _| {
        let (topic, group) = ("GET /v1/topics/t", "GET /v1/groups/q");
        let answer = match request.line.split('?').next().unwrap_or_default() {
            line if line == topic => {
                let partition = json!({"partition": 0, "log_start_offset": 0, "end_offset": 0});
                json!({"name": "t", "partition_count": 1, "partitions": [partition]})
            }
            line if line == group => json!({"type": "shared", "settings": {"lease_ms": 1234}}),
            line => match line.strip_prefix(group) {
                Some("/offsets") => json!({"offsets": []}),
                Some("/lag") => json!({"topics": [{"topic": "other"}, {"topic": "t"}]}),
                Some("/dead-letters") => json!({"dead_letters": []}),
                _ => return problem(404, "\"code\":\"not-found\""),
            },
        };
        fine(answer.to_string())
    });
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    let path = dir.path().join("file");
    fs::write(&path, run(&from.url, "export --topics t --groups q").ok()).unwrap();
    imported(&to, &path);
    let found = about(&to, "q");
    assert_eq!(
        (&found["type"], &found["topics"]),
        (&json!("shared"), &json!(["t"]))
    );
    assert_eq!(found["settings"]["lease_ms"], 1234);
}

#[test]
fn a_further_subscription_of_a_group_with_live_members_is_refused() {
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    to.ok("topic create other --partitions 1");
    let join = json!({"topics": ["other"], "member_id": "m"});
    to.call(201, "POST", "/v1/groups/g/members", &join);
    let line = json!({"group": "g", "type": "ordered", "settings": {"filter": null}, "topics": ["t"], "offsets": []});
    let path = file(&dir, &[line]);
    import(&to, &path).fails_with("group g has live members");
    to.ok("group kick g m");
    imported(&to, &path);
    assert_eq!(about(&to, "g")["topics"], json!(["other", "t"]));
}
