//! What somebody tries who has some rights and wants more.

use serde_json::{Value, json};

use crate::world::{ADMIN, World, bearer, rule};

#[test]
fn idempotency_keys_tell_nothing_and_belong_to_whoever_used_them() {
    let world = World::new();
    world.topic("a", 0);
    world.topic("b", 0);
    let writer = world.token("writer", json!([rule("write", "a b", "")]));
    let other = world.token("other", json!([rule("write", "a", "")]));
    let send = |token: &str, topic: &str, value: u64| {
        let body = json!({"records": [{"topic": topic, "value": value}]});
        world.call_with(token, "POST", "/v1/records", "Idempotency-Key: k1\r\n", &body)
    };
    send(&writer, "b", 1).appended();
    send(&writer, "b", 1).replayed();
    send(&writer, "a", 2).problem(422, "idempotency-key-reused");
    // Rights come before the key: 403, not 422 and not the first answer.
    send(&other, "b", 1).problem(403, "forbidden");
    send(&other, "b", 2).problem(403, "forbidden");
    send(&other, "not-there", 2).problem(403, "forbidden");
    // Its own key of that name is another key.
    send(&other, "a", 1).appended();
    send(&other, "a", 1).replayed();
    // One forbidden topic anywhere refuses all of it, before anything else that is wrong is said.
    let body = json!({"records": [{"topic": "a", "value": 1}, {"topic": "b", "partition": 9, "value": 2}]});
    let refused = world
        .call(&other, "POST", "/v1/records", &body)
        .problem(403, "forbidden");
    assert_eq!(refused["pointer"], "/records/1/topic");
    let body = json!({"records": [{"topic": "a", "partition": 9, "value": 1}, {"topic": "b", "value": 2}]});
    world
        .call(&other, "POST", "/v1/records", &body)
        .problem(403, "forbidden");
    let ends = world.admin("GET", "/v1/topics/a", &Value::Null);
    assert_eq!(ends["partitions"][0]["end_offset"], 1);
}

#[test]
fn a_dead_letter_topic_is_no_way_to_write_elsewhere() {
    let world = World::new();
    world.topic("jobs", 3);
    world.topic("secrets", 0);
    let rules = json!([
        rule("read", "jobs", "q r"),
        rule("write", "jobs", "q r"),
        rule("create", "made-*", ""),
        rule("write", "made-* half", "")
    ]);
    let token = world.token("t", rules);
    let join =
        |name: &str| json!({"topics": ["jobs"], "type": "shared", "dead_letter_topic": name, "wait_ms": 0});
    let at = "/v1/groups/q/members/m/poll";
    for name in ["secrets", "not-there", "half"] {
        world
            .call(&token, "POST", at, &join(name))
            .problem(403, "forbidden");
        let joined = world.call(&token, "POST", "/v1/groups/q/members", &join(name));
        assert!([400, 403].contains(&joined.status), "{}", joined.text());
    }
    world.get(ADMIN, "/v1/groups/q").problem(404, "unknown-group");
    assert_eq!(world.call(&token, "POST", at, &join("made-by-me")).status, 200);
    for name in ["secrets", "not-there", "half"] {
        let change = world.call(
            &token,
            "PATCH",
            "/v1/groups/q",
            &json!({"dead_letter_topic": name}),
        );
        change.problem(403, "forbidden");
    }
    // The administrator names one that others must not hear of.
    let body = json!({"topics": ["jobs"], "type": "shared", "dead_letter_topic": "secrets", "wait_ms": 0});
    world.admin("POST", "/v1/groups/r/members/m/poll", &body);
    let at = "/v1/groups/r/members/x/poll";
    for name in ["made-other", "jobs-not-mine"] {
        let answer = world.call(&token, "POST", at, &join(name));
        assert!(!answer.text().contains("secrets"), "{}", answer.text());
    }
    let answer = world.call(
        &token,
        "POST",
        at,
        &json!({"topics": ["jobs"], "type": "shared", "lease_ms": 1234, "wait_ms": 0}),
    );
    let problem = answer.problem(409, "group-settings-differ");
    assert!(!problem.to_string().contains("secrets"), "{problem}");
    let seer = world.token("seer", json!([rule("describe", "jobs", "r")]));
    let group = world.get(&seer, "/v1/groups/r").ok();
    assert!(!group.to_string().contains("secrets"), "{group}");
}

#[test]
fn dead_letters_are_for_whoever_may_read_their_topic() {
    let world = World::new();
    world.topic("jobs", 2);
    let poll = json!({"topics": ["jobs"], "type": "shared", "wait_ms": 0});
    world.admin("POST", "/v1/groups/q/members/m/poll", &poll);
    let place = |offset: u64| json!({"topic": "jobs", "partition": 0, "offset": offset});
    world.admin(
        "POST",
        "/v1/groups/q/members/m/settle",
        &json!({"reject": [place(0), place(1)]}),
    );
    let both = world.token(
        "both",
        json!([
            rule("read describe", "jobs jobs.dlq", "q"),
            rule("write", "", "q")
        ]),
    );
    let one = world.token(
        "one",
        json!([rule("read describe", "jobs", "q"), rule("write", "", "q")]),
    );
    let list = |token: &str| {
        world.get(token, "/v1/groups/q/dead-letters").ok()["dead_letters"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((list(&both), list(&one)), (2, 0));
    let count = |token: &str| world.get(token, "/v1/groups/q/lag").ok()["dead_letters"].as_u64();
    assert_eq!((count(&both), count(&one)), (Some(2), Some(0)));
    let queue = |token: &str| world.get(token, "/v1/groups/q").ok()["queue"]["dead_letters"].as_u64();
    assert_eq!((queue(&both), queue(&one)), (Some(2), Some(0)));
    let redrive = |token: &str, body: Value| world.call(token, "POST", "/v1/groups/q/redrive", &body);
    redrive(&one, json!({"dead_letter_topic": "jobs.dlq"})).problem(403, "forbidden");
    assert_eq!(redrive(&one, json!({})).ok()["redriven"], 0);
    assert_eq!(redrive(&one, json!({"discard": true})).ok()["discarded"], 0);
    assert_eq!(redrive(&both, json!({})).ok()["redriven"], 2);
}

#[test]
fn acknowledgements_write_only_where_that_is_allowed() {
    let world = World::new();
    world.topic("in", 2);
    world.topic("out", 0);
    world.topic("other", 0);
    let token = world.token("t", json!([rule("read", "in", "g q"), rule("write", "out", "")]));
    let poll = |body: Value| world.call(&token, "POST", "/v1/groups/g/members/m/poll", &body);
    let first = poll(json!({"topics": ["in"], "wait_ms": 0})).ok();
    for topic in ["other", "not-there"] {
        let body = json!({"ack": first["poll_id"], "wait_ms": 0, "produce": [{"topic": "out", "value": 1}, {"topic": topic, "value": 2}]});
        assert_eq!(
            poll(body).problem(403, "forbidden")["pointer"],
            "/produce/1/topic"
        );
        let commit = json!({"epoch": first["epoch"], "offsets": [{"topic": "in", "partition": 0, "offset": 1}], "produce": [{"topic": topic, "value": 2}]});
        world
            .call(&token, "POST", "/v1/groups/g/members/m/commit", &commit)
            .problem(403, "forbidden");
    }
    let commit =
        json!({"epoch": first["epoch"], "offsets": [{"topic": "other", "partition": 0, "offset": 0}]});
    world
        .call(&token, "POST", "/v1/groups/g/members/m/commit", &commit)
        .problem(403, "forbidden");
    // Nothing was acknowledged and nothing stored.
    assert_eq!(
        world.admin("GET", "/v1/groups/g/offsets", &Value::Null)["offsets"],
        json!([])
    );
    let body = json!({"ack": first["poll_id"], "wait_ms": 0, "produce": [{"topic": "out", "value": 1}]});
    let produced = poll(body.clone()).ok();
    assert_eq!(produced["produced"].as_array().unwrap().len(), 1);
    // A repeat needs the right too.
    world.admin(
        "PATCH",
        "/v1/tokens/t",
        &json!({"rules": [rule("read", "in", "g q")]}),
    );
    poll(body).problem(403, "forbidden");
    let queue = json!({"topics": ["in"], "type": "shared", "wait_ms": 0});
    world
        .call(&token, "POST", "/v1/groups/q/members/m/poll", &queue)
        .ok();
    let settle = json!({"accept": [{"topic": "in", "partition": 0, "offset": 0}], "produce": [{"topic": "out", "value": 1}]});
    world
        .call(&token, "POST", "/v1/groups/q/members/m/settle", &settle)
        .problem(403, "forbidden");
}

#[test]
fn conditions_and_expected_offsets_are_not_told_to_whoever_may_not_write() {
    let world = World::new();
    world.topic("a", 3);
    let token = world.token("t", json!([rule("read", "b", "")]));
    let body = json!({"records": [{"value": 1}]});
    for path in [
        "/v1/topics/a/records?expected_offset=99",
        "/v1/topics/not-there/records?expected_offset=99",
        "/v1/topics/a/records?nonsense=1",
    ] {
        world.call(&token, "POST", path, &body).problem(403, "forbidden");
    }
    for path in [
        "/v1/topics/a?if_id=wrong",
        "/v1/topics/not-there",
        "/v1/topics/a?dry_run=maybe",
    ] {
        world
            .call(&token, "DELETE", path, &Value::Null)
            .problem(403, "forbidden");
    }
}

#[test]
fn changes_are_in_the_audit_log_with_who_made_them_and_without_secrets() {
    let world = World::new();
    let maker = world.token("maker", json!([{"allow": ["admin"]}]));
    let made = world
        .call(
            &maker,
            "POST",
            "/v1/tokens",
            &json!({"name": "made", "rules": []}),
        )
        .created();
    world
        .call(&maker, "POST", "/v1/tokens/made/rotate", &Value::Null)
        .ok();
    world
        .call(&maker, "DELETE", "/v1/tokens/made", &Value::Null)
        .with_status(204);
    let audit = world.admin("GET", "/v1/audit", &Value::Null);
    let rows: Vec<String> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            format!(
                "{} {} {}",
                entry["principal"].as_str().unwrap_or("-"),
                entry["action"].as_str().unwrap(),
                entry["resource"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "maker token.revoke tokens/made",
            "maker token.rotate tokens/made",
            "maker token.create tokens/made",
            "admin token.create tokens/maker",
        ]
    );
    let log = world.server.log();
    for secret in [made["token"].as_str().unwrap(), &maker, ADMIN] {
        assert!(!audit.to_string().contains(secret) && !log.contains(secret));
    }
    world
        .get("wrong-token", "/v1/topics")
        .problem(401, "unauthenticated");
    assert!(world.server.log().contains("a sign-in failed"));
}

#[test]
fn a_poll_does_not_tell_what_somebody_else_has_subscribed_the_member_to() {
    let world = World::new();
    world.topic("a", 2);
    world.topic("secret", 2);
    let weak = world.token("weak", json!([rule("read", "a", "g q")]));
    for (group, kind) in [("g", "ordered"), ("q", "shared")] {
        let at = format!("/v1/groups/{group}/members/m/poll");
        let join = json!({"topics": ["a", "secret"], "type": kind, "wait_ms": 0});
        let first = world.admin("POST", &at, &join);
        let refused = world.call(&weak, "POST", &at, &json!({"wait_ms": 0}));
        let problem = refused.problem(403, "forbidden");
        assert!(!problem.to_string().contains("secret"), "{problem}");
        // It has disturbed nothing: the member goes on as it was.
        let ack = json!({"ack": first["poll_id"], "wait_ms": 0});
        let next = world.admin("POST", &at, &ack);
        assert_eq!(next["assignment"], first["assignment"]);
        assert_eq!(next["lost"], Value::Null);
    }
}

#[test]
fn an_acknowledgement_counts_only_for_records_that_may_be_read() {
    let world = World::new();
    world.topic("a", 2);
    world.topic("secret", 2);
    let weak = world.token(
        "weak",
        json!([rule("read", "a", "g q"), rule("write", "", "g q")]),
    );
    for (group, kind) in [("g", "ordered"), ("q", "shared")] {
        let member = format!("/v1/groups/{group}/members/m");
        let at = format!("{member}/poll");
        let join = json!({"topics": ["a", "secret"], "type": kind, "wait_ms": 0, "max_records": 100});
        let first = world.admin("POST", &at, &join);
        assert_eq!(first["records"].as_array().unwrap().len(), 4, "{first}");
        let ack = first["poll_id"].as_str().unwrap();
        for topics in [json!(["a"]), json!(["*"]), Value::Null] {
            let mut body = json!({"ack": ack, "wait_ms": 0});
            if topics != Value::Null {
                body["topics"] = topics;
                body["type"] = kind.into();
            }
            let problem = world.call(&weak, "POST", &at, &body).problem(403, "forbidden");
            assert_eq!(problem["pointer"], "/ack");
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
        let leave = world.call(&weak, "DELETE", &format!("{member}?ack={ack}"), &Value::Null);
        leave.problem(403, "forbidden");
        // Nothing was acknowledged, and whoever may read it acknowledges it still.
        let lag = || world.admin("GET", &format!("/v1/groups/{group}/lag"), &Value::Null)["lag"].clone();
        assert_eq!(lag(), 4);
        world.admin("POST", &at, &json!({"ack": ack, "wait_ms": 0}));
        assert_eq!(lag(), 0);
    }
}

#[test]
fn what_is_refused_at_once_is_not_logged_in_the_name_of_whoever_came_before() {
    let world = World::with("--access-log on");
    let mut connection = world.server.connect();
    let mine = bearer(ADMIN);
    connection
        .request_with("GET", "/v1/topics", "", &mine, b"")
        .unwrap()
        .with_status(200);
    let foreign = connection.request_with(
        "DELETE",
        "/v1/topics/x",
        "",
        "Origin: https://evil.example\r\n",
        b"",
    );
    foreign.unwrap().problem(403, "forbidden");
    let lines = || {
        let log = world.server.log();
        let lines = log.lines().filter(|line| line.contains("a request was answered"));
        let lines = lines.filter(|line| !line.contains("/health/"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let begin = std::time::Instant::now();
    while lines().len() < 2 {
        assert!(begin.elapsed() < crate::support::PATIENCE, "both are logged");
    }
    let lines = lines();
    assert!(
        lines[0].contains("admin") && !lines[1].contains("admin"),
        "{lines:?}"
    );
}

#[test]
fn a_dead_letter_that_somebody_makes_up_neither_writes_elsewhere_nor_tells_names() {
    let world = World::new();
    world.topic("jobs", 3);
    world.topic("payroll", 1);
    world.topic("scratch", 0);
    let poll = json!({"topics": ["jobs"], "type": "shared", "max_records": 10, "wait_ms": 0});
    let deliver = || {
        world
            .call(ADMIN, "POST", "/v1/groups/q/members/m/poll", &poll)
            .ok()["records"]
            .clone()
    };
    let place = |offset: u64| json!({"topic": "jobs", "partition": 0, "offset": offset});
    assert_eq!(deliver().as_array().unwrap().len(), 3);
    let settled = json!({"accept": [place(0), place(1)], "reject": [place(2)]});
    world.admin("POST", "/v1/groups/q/members/m/settle", &settled);
    let token = world.token(
        "t",
        json!([
            rule("read write describe", "scratch jobs.dlq", ""),
            rule("write", "", "q")
        ]),
    );
    let produce = |topic: &str, headers: &Value| {
        let body = json!({"records": [{"value": "made up", "headers": headers}]});
        let path = format!("/v1/topics/{topic}/records");
        assert_eq!(world.call(&token, "POST", &path, &body).status, 200);
    };
    let made_up = |topic: &str| {
        json!({"dlq_topic": topic, "dlq_partition": "0", "dlq_offset": "1", "dlq_group": "q",
            "dlq_died_at": "9999999999999", "dlq_seal": "00".repeat(32)})
    };
    // One that the server has made counts only where it has put it, with all that it says.
    let list = world
        .get(&token, "/v1/topics/jobs.dlq/partitions/0/records?offset=0")
        .ok();
    let own = &list["records"][0]["headers"];
    assert_eq!(own["dlq_offset"], "2");
    let mut other = own.clone();
    other["dlq_offset"] = "1".into();
    for headers in [
        &made_up("jobs"),
        &made_up("payroll"),
        &made_up("not-there"),
        own,
        &other,
    ] {
        produce("scratch", headers);
    }
    produce("jobs.dlq", &other);
    produce("jobs.dlq", &made_up("jobs"));
    let redrive = |token: &str, body: &Value| world.call(token, "POST", "/v1/groups/q/redrive", body).ok();
    let none =
        |passed_over: u64| json!({"redriven": 0, "discarded": 0, "passed_over": passed_over, "at_end": true});
    for who in [&*token, ADMIN] {
        assert_eq!(redrive(who, &json!({"dead_letter_topic": "scratch"})), none(5));
    }
    // Whatever it says of, and whether that is there: the same answer.
    for offset in 0..5 {
        let chosen = json!({"dead_letter_topic": "scratch", "dry_run": true, "offsets": [{"partition": 0, "offset": offset}]});
        let mut answer = redrive(&token, &chosen);
        answer.as_object_mut().unwrap().remove("dry_run");
        assert_eq!(answer, none(1), "{offset}");
    }
    let expected = json!({"redriven": 1, "discarded": 0, "passed_over": 2, "at_end": true});
    assert_eq!(redrive(ADMIN, &json!({})), expected);
    let delivered = deliver();
    assert_eq!(delivered.as_array().unwrap().len(), 1, "{delivered}");
    assert_eq!(
        (&delivered[0]["offset"], &delivered[0]["redriven"]),
        (&json!(2), &json!(1))
    );
    assert!(delivered[0]["headers"].get("dlq_seal").is_none(), "{delivered}");
    // Whoever may write there anyway, and says which, may do it so.
    let chosen = json!({"dead_letter_topic": "scratch", "offsets": [{"partition": 0, "offset": 0}]});
    assert_eq!(redrive(ADMIN, &chosen)["redriven"], 1);
    assert_eq!(deliver()[0]["value"], "made up");
    // It can be discarded in any case.
    let rest = json!({"dead_letter_topic": "scratch", "discard": true});
    assert_eq!(redrive(&token, &rest)["discarded"], 4);
}

/// The dead letters of a topic, as lines: these have the headers in their order, over which the seal is.
fn letters_of(world: &World, token: &str, partitions: u32) -> Vec<String> {
    let mut letters = Vec::new();
    for partition in 0..partitions {
        let path = format!("/v1/topics/jobs.dlq/partitions/{partition}/records?offset=0");
        let headers = format!("{}Accept: application/x-ndjson\r\n", bearer(token));
        let answer = world
            .server
            .connect()
            .request_with("GET", &path, "", &headers, b"");
        let answer = answer.unwrap().with_status(200);
        letters.extend(answer.text().lines().map(str::to_owned));
    }
    letters
}

fn produce_letter(world: &World, token: &str, line: &str) {
    let (path, media) = ("/v1/topics/jobs.dlq/records", "application/x-ndjson");
    let mut connection = world.server.connect();
    let answer = connection.request_with("POST", path, media, &bearer(token), line.as_bytes());
    answer.unwrap().with_status(200);
}

/// The offsets in `jobs` that a poll of the queue delivers.
fn deliver(world: &World) -> Vec<u64> {
    let poll = json!({"topics": ["jobs"], "type": "shared", "max_records": 10, "wait_ms": 0});
    let polled = world.admin("POST", "/v1/groups/q/members/m/poll", &poll);
    let records = polled["records"].as_array().unwrap().iter();
    let mut offsets: Vec<u64> = records.map(|record| record["offset"].as_u64().unwrap()).collect();
    offsets.sort_unstable();
    offsets
}

fn settle(world: &World, accept: &[u64], reject: &[u64]) {
    let places = |offsets: &[u64]| -> Value {
        let place = |offset: &u64| json!({"topic": "jobs", "partition": 0, "offset": offset});
        offsets.iter().map(place).collect()
    };
    let body = json!({"accept": places(accept), "reject": places(reject)});
    let settled = world.admin("POST", "/v1/groups/q/members/m/settle", &body);
    assert_eq!(settled["lost"], json!([]));
}

/// How many dead letters a redrive of all of them gives back, and how many it passes over.
fn redrive_all(world: &World) -> (Option<u64>, Option<u64>) {
    let done = world.admin("POST", "/v1/groups/q/redrive", &json!({}));
    (done["redriven"].as_u64(), done["passed_over"].as_u64())
}

#[test]
fn a_copy_of_a_dead_letter_gives_nothing_back_a_second_time() {
    let world = World::new();
    world.topic("jobs", 3);
    assert_eq!(deliver(&world), [0, 1, 2]);
    settle(&world, &[], &[0, 1, 2]);
    let token = world.token("t", json!([rule("read write", "jobs.dlq", "")]));
    let letters = letters_of(&world, &token, 1);
    assert_eq!(letters.len(), 3);
    let copy = |number: usize| produce_letter(&world, &token, &letters[number]);
    copy(0);
    let discard =
        json!({"dead_letter_topic": "jobs.dlq", "discard": true, "offsets": [{"partition": 0, "offset": 2}]});
    assert_eq!(
        world.admin("POST", "/v1/groups/q/redrive", &discard)["discarded"],
        1
    );
    copy(2);
    let counted = world.admin("POST", "/v1/groups/q/redrive", &json!({"dry_run": true}));
    assert_eq!(
        (&counted["redriven"], &counted["passed_over"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(redrive_all(&world), (Some(2), Some(2)));
    assert_eq!(deliver(&world), [0, 1]);
    // One that dies again counts again.
    settle(&world, &[1], &[0]);
    copy(1);
    assert_eq!(redrive_all(&world), (Some(1), Some(3)));
    assert_eq!(deliver(&world), [0]);
    settle(&world, &[0], &[]);
    let world = world.restart();
    assert_eq!(redrive_all(&world), (Some(0), Some(3)));
    assert_eq!(deliver(&world), [] as [u64; 0]);
    // Whoever may write to the topic of origin, and says which, may give it back all the same.
    let chosen = json!({"dead_letter_topic": "jobs.dlq", "offsets": [{"partition": 0, "offset": 3}]});
    assert_eq!(
        world.admin("POST", "/v1/groups/q/redrive", &chosen)["redriven"],
        1
    );
    assert_eq!(deliver(&world), [0]);
}

#[test]
fn copies_of_a_dead_letter_in_other_partitions_of_its_topic_count_once_with_it() {
    const PARTITIONS: u32 = 4;
    let world = World::new();
    world.topic("jobs", 3);
    world.admin("PUT", "/v1/topics/jobs.dlq", &json!({"partitions": PARTITIONS}));
    assert_eq!(deliver(&world), [0, 1, 2]);
    settle(&world, &[], &[0, 1, 2]);
    let token = world.token("t", json!([rule("read write", "jobs.dlq", "")]));
    let copy_everywhere = |letters: &[String]| {
        for letter in letters {
            let (_, behind) = letter.split_once(',').unwrap();
            for partition in 0..PARTITIONS {
                let line = format!("{{\"partition\":{partition},{behind}");
                produce_letter(&world, &token, &line);
            }
        }
    };
    let letters = letters_of(&world, &token, PARTITIONS);
    assert_eq!(letters.len(), 3);
    copy_everywhere(&letters[..2]);
    assert_eq!(redrive_all(&world), (Some(3), Some(8)));
    assert_eq!(deliver(&world), [0, 1, 2]);
    settle(&world, &[0, 1, 2], &[]);
    copy_everywhere(&letters);
    assert_eq!(redrive_all(&world), (Some(0), Some(20)));
    assert_eq!(deliver(&world), [] as [u64; 0]);
}
