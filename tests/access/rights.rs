//! Rights on what the body and the query name, and what lists, sums and answers leave out.

use serde_json::{Value, json};

use crate::world::{ADMIN, World, rule};

/// Topics `a` and `b`; a group `g` that has read some of both, and a group `h` that has read some of `a`.
fn world() -> World {
    let world = World::new();
    world.topic("a", 4);
    world.topic("b", 7);
    let row = |topic: &str, offset: u64| json!({"topic": topic, "partition": 0, "offset": offset});
    world.admin(
        "PUT",
        "/v1/groups/g/offsets",
        &json!({"offsets": [row("a", 1), row("b", 1)]}),
    );
    world.admin("PUT", "/v1/groups/h/offsets", &json!({"offsets": [row("a", 2)]}));
    world
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let rows = list.as_array().expect("a list").iter();
    rows.map(|row| row[field].as_str().expect("a name").to_owned())
        .collect()
}

/// Checks that each row of a list is of that topic; returns how many there are.
#[track_caller]
fn all_of(list: &Value, topic: &str) -> usize {
    let topics = names(list, "topic");
    assert!(topics.iter().all(|found| found == topic), "{list}");
    topics.len()
}

#[test]
fn lists_and_sums_leave_out_what_may_not_be_described() {
    let world = world();
    let token = world.token("t", json!([rule("describe delete configure", "a", "g")]));
    let get = |path: &str| world.get(&token, path).ok();
    assert_eq!(names(&get("/v1/topics")["topics"], "name"), ["a"]);
    assert_eq!(get("/v1/topics")["topics"][0]["groups"], json!(["g"]));
    assert_eq!(get("/v1/topics?q=b")["topics"], json!([]));
    assert_eq!(get("/v1/topics/a")["groups"], json!(["g"]));
    assert_eq!(names(&get("/v1/groups")["groups"], "group"), ["g"]);
    assert_eq!(names(&get("/v1/groups/g/offsets")["offsets"], "topic"), ["a"]);
    let lag = get("/v1/groups/g/lag");
    assert_eq!(
        (lag["lag"].as_u64(), names(&lag["topics"], "topic")),
        (Some(3), vec!["a".to_owned()])
    );
    let all = get("/v1/lag");
    assert_eq!(names(&all["groups"], "group"), ["g"]);
    assert_eq!(all["groups"][0]["lag"], 3);
    assert_eq!(get("/v1/lag?topic=a&sort=lag")["groups"][0]["lag"], 3);
    for path in [
        "/v1/lag?topic=b",
        "/v1/lag?topic=not-there",
        "/v1/groups/g/lag/history?topic=b",
        "/v1/groups/g/lag.svg?topic=b",
    ] {
        world.get(&token, path).problem(403, "forbidden");
    }
    let series = get("/v1/lag/history");
    assert!(
        series["series"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["group"] == "g"),
        "{series}"
    );
    for path in [
        "/v1/topics/a?dry_run=true",
        "/v1/topics/a/partitions/0/records?before=4&dry_run=true",
    ] {
        let dry = world.call(&token, "DELETE", path, &Value::Null).ok();
        assert_eq!(dry["groups"], json!(["g"]), "{path}");
    }
    let everything = world.admin("GET", "/v1/groups/g/lag", &Value::Null);
    assert_eq!(everything["lag"], 9);
}

#[test]
fn members_get_only_topics_that_they_may_read_by_name_and_by_pattern() {
    let world = World::new();
    for name in ["s.a", "s.b"] {
        world.topic(name, 2);
    }
    let token = world.token("t", json!([rule("read", "s.a", "g q")]));
    let all = world.token("all", json!([rule("read", "*", "*")]));
    let join = |topics: Value| json!({"topics": topics, "wait_ms": 0});
    let poll = |token: &str, member: &str, body: &Value| {
        world.call(
            token,
            "POST",
            &format!("/v1/groups/g/members/{member}/poll"),
            body,
        )
    };
    poll(&token, "m", &join(json!(["s.b"]))).problem(403, "forbidden");
    poll(&token, "m", &join(json!(["s.a", "not-there"]))).problem(403, "forbidden");
    let members = world.call(
        &token,
        "POST",
        "/v1/groups/g/members",
        &json!({"topics": ["s.b"]}),
    );
    members.problem(403, "forbidden");
    world.get(ADMIN, "/v1/groups/g").problem(404, "unknown-group");
    // A pattern brings what may be read, and later topics too.
    let polled = poll(&token, "m", &join(json!(["s.*"]))).ok();
    assert_eq!(names(&polled["assignment"], "topic"), ["s.a"]);
    all_of(&polled["records"], "s.a");
    world.topic("s.c", 2);
    let polled = poll(&token, "m", &json!({"ack": polled["poll_id"], "wait_ms": 0})).ok();
    assert_eq!(names(&polled["assignment"], "topic"), ["s.a"]);
    // Another member that may read everything gets the rest.
    poll(&all, "n", &join(json!(["s.*"]))).ok();
    let polled = poll(&all, "n", &join(json!(["s.*"]))).ok();
    assert!(
        names(&polled["assignment"], "topic").contains(&"s.b".to_owned()),
        "{polled}"
    );
    // Whoever polls under its name does not get its records.
    let stolen = poll(&token, "n", &json!({"wait_ms": 0}));
    if stolen.status == 200 {
        all_of(&stolen.json()["records"], "s.a");
    }
    // Less rights, fewer topics: also of what is in hand.
    world.admin(
        "PATCH",
        "/v1/tokens/all",
        &json!({"rules": [rule("read", "s.c", "*")]}),
    );
    let polled = poll(&all, "n", &json!({"wait_ms": 0})).ok();
    all_of(&polled["records"], "s.c");
}

#[test]
fn a_work_queue_gives_each_member_only_what_it_may_read() {
    let world = World::new();
    world.topic("s.a", 3);
    world.topic("s.b", 3);
    let a = world.token("a", json!([rule("read", "s.a", "q")]));
    let body = json!({"topics": ["s.*"], "type": "shared", "wait_ms": 0, "max_records": 100});
    let at = "/v1/groups/q/members/m/poll";
    let polled = world.call(&a, "POST", at, &body).ok();
    assert_eq!(all_of(&polled["records"], "s.a"), 3);
    let settle = json!({"accept": [{"topic": "s.b", "partition": 0, "offset": 0}]});
    world
        .call(&a, "POST", "/v1/groups/q/members/m/settle", &settle)
        .problem(403, "forbidden");
    let settle = json!({"accept": [{"topic": "not-there", "partition": 0, "offset": 0}]});
    world
        .call(&a, "POST", "/v1/groups/q/members/m/settle", &settle)
        .problem(403, "forbidden");
    let both = world.token(
        "both",
        json!([rule("read", "s.a s.b", "q"), rule("describe", "s.a", "q")]),
    );
    let polled = world
        .call(&both, "POST", "/v1/groups/q/members/n/poll", &body)
        .ok();
    all_of(&polled["records"], "s.b");
    let leases = world.get(&both, "/v1/groups/q/leases").ok();
    all_of(&leases["leases"], "s.a");
}

#[test]
fn resets_move_only_topics_that_may_be_read() {
    let world = world();
    let token = world.token("t", json!([rule("read", "a", ""), rule("write", "", "g")]));
    let at = "/v1/groups/g/offsets/reset";
    world
        .call(&token, "POST", at, &json!({"topics": ["b"], "to": "latest"}))
        .problem(403, "forbidden");
    world
        .call(&token, "POST", at, &json!({"topic": "not-there", "to": "latest"}))
        .problem(403, "forbidden");
    let done = world.call(&token, "POST", at, &json!({"to": "latest"})).ok();
    assert_eq!(names(&done["offsets"], "topic"), ["a"]);
    let offsets = world.admin("GET", "/v1/groups/g/offsets", &Value::Null);
    assert_eq!(
        (
            offsets["offsets"][0]["offset"].as_u64(),
            offsets["offsets"][1]["offset"].as_u64()
        ),
        (Some(4), Some(1))
    );
    let row = json!({"offsets": [{"topic": "b", "partition": 0, "offset": 2}]});
    world
        .call(&token, "PUT", "/v1/groups/g/offsets", &row)
        .problem(403, "forbidden");
    world
        .call(&token, "DELETE", "/v1/groups/g/offsets?topic=b", &Value::Null)
        .problem(403, "forbidden");
}

#[test]
fn lowered_retention_needs_delete_and_a_kick_takes_either_right() {
    let world = world();
    let token = world.token(
        "t",
        json!([
            rule("configure", "a", "g"),
            rule("read", "a", "k"),
            rule("write", "", "g")
        ]),
    );
    let patch =
        |body: Value, query: &str| world.call(&token, "PATCH", &format!("/v1/topics/a{query}"), &body);
    assert_eq!(patch(json!({"config": {"ack": "written"}}), "").status, 200);
    for query in ["", "?dry_run=true"] {
        patch(json!({"config": {"retention_ms": 5}}), query).problem(403, "forbidden");
    }
    assert_eq!(patch(json!({"partitions": 2}), "").status, 200);
    let join = json!({"topics": ["a"], "wait_ms": 0});
    for (group, member) in [("g", "one"), ("k", "two")] {
        let at = format!("/v1/groups/{group}/members/{member}");
        world.admin("POST", &format!("{at}/poll"), &join);
        assert_eq!(world.call(&token, "DELETE", &at, &Value::Null).status, 204);
    }
}

#[test]
fn whoever_makes_or_changes_a_topic_is_told_of_it_only_what_it_may_look_at() {
    let world = world();
    let brief = |answer: &Value| -> Vec<String> {
        let fields = answer.as_object().expect("an object").keys();
        fields.map(String::clone).collect()
    };
    let only = ["id", "name", "partition_count"];
    let maker = world.token("maker", json!([rule("create configure", "*", "")]));
    for (topic, status) in [("a", 200), ("fresh", 201)] {
        let made = world.call(&maker, "PUT", &format!("/v1/topics/{topic}"), &json!({}));
        assert_eq!(
            (made.status, brief(&made.json())),
            (status, only.map(str::to_owned).to_vec())
        );
    }
    let changed = world.call(&maker, "PATCH", "/v1/topics/a", &json!({"config": {}}));
    assert_eq!(
        (changed.status, brief(&changed.json())),
        (200, only.map(str::to_owned).to_vec())
    );
    world.get(&maker, "/v1/topics/a").problem(403, "forbidden");
    let seer = world.token("seer", json!([rule("create describe", "*", "")]));
    let made = world.call(&seer, "PUT", "/v1/topics/a", &json!({}));
    assert_eq!(made.json(), world.get(&seer, "/v1/topics/a").json());
}

#[test]
fn streams_over_several_topics_need_the_right_on_each() {
    let world = world();
    let token = world.token("t", json!([rule("read", "a", "")]));
    assert_eq!(world.get(&token, "/v1/records?topics=a").status, 200);
    for topics in ["a,b", "b", "a,not-there"] {
        world
            .get(&token, &format!("/v1/records?topics={topics}"))
            .problem(403, "forbidden");
    }
    // A name that is written in another way is the same name.
    world
        .get(&token, "/v1/topics/%62/records")
        .problem(403, "forbidden");
    assert_eq!(
        world
            .get(&token, "/v1/topics/%61/partitions/0/records?offset=0")
            .status,
        200
    );
}

#[test]
fn wrong_rules_and_names_are_refused_where_they_are_wrong() {
    let world = World::new();
    let make = |body: Value| world.call(ADMIN, "POST", "/v1/tokens", &body);
    make(json!({"name": "a b", "rules": []})).invalid("/name");
    make(json!({"name": "__a", "rules": []})).invalid("/name");
    make(json!({"name": "a"})).problem(400, "invalid-request");
    make(json!({"name": "a", "rules": [{"allow": ["look"]}]})).invalid("/rules/0/allow/0");
    make(json!({"name": "a", "rules": [rule("read", "a/b", "")]})).invalid("/rules/0/topics/0");
    make(json!({"name": "a", "rules": [], "expires": 5})).invalid("/expires");
    make(json!({"name": "a", "rules": [], "expires": "tomorrow"})).invalid("/expires");
    make(json!({"name": "a", "rules": [{"allow": ["admin"], "topics": ["a"]}]})).invalid("/rules/0/allow");
    make(json!({"name": "admin", "rules": []})).problem(409, "principal-exists");
    world.token("a", json!([]));
    make(json!({"name": "a", "rules": []})).problem(409, "principal-exists");
    let principal = json!({"match": {"jwt": {"sub": "x"}}, "rules": []});
    world
        .call(ADMIN, "PUT", "/v1/principals/a", &principal)
        .problem(409, "principal-exists");
    assert_eq!(
        world.call(ADMIN, "PUT", "/v1/principals/b", &principal).status,
        201
    );
    assert_eq!(
        world.call(ADMIN, "PUT", "/v1/principals/b", &principal).status,
        200
    );
    let listed = world.admin("GET", "/v1/principals", &Value::Null);
    assert_eq!(listed["principals"][0]["match"], json!({"jwt": {"sub": "x"}}));
    for wrong in [json!({}), json!({"jwt": {"a": 1}, "cert": "CN=x"})] {
        let body = json!({"match": wrong, "rules": []});
        world
            .call(ADMIN, "PUT", "/v1/principals/c", &body)
            .invalid("/match");
    }
    let body = json!({"match": {"jwt": {}}, "rules": []});
    world
        .call(ADMIN, "PUT", "/v1/principals/c", &body)
        .invalid("/match/jwt");
    assert_eq!(
        world
            .call(ADMIN, "DELETE", "/v1/principals/b", &Value::Null)
            .status,
        204
    );
    world
        .call(ADMIN, "GET", "/v1/principals/b", &Value::Null)
        .problem(404, "not-found");
    let tokens = world.admin("GET", "/v1/tokens", &Value::Null);
    assert_eq!(names(&tokens["tokens"], "name"), ["a"]);
    assert!(!tokens.to_string().contains("sha256") && !tokens.to_string().contains("quipu_"));
}
