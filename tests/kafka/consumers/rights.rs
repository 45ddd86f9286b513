//! What consumers may read and see, and how much they may make the server keep.

use super::*;

#[test]
fn consumers_read_what_their_rules_allow() {
    let fixture = crate::sasl::closed(&[]);
    for name in ["t", "t-secret"] {
        let body = serde_json::json!({"partitions": 1});
        let made = fixture.http(crate::sasl::ADMIN, "PUT", &format!("/v1/topics/{name}"), &body);
        made.created();
    }
    let rules = serde_json::json!([{"allow": ["read", "describe"], "topics": ["t"], "groups": ["g"]}]);
    let secret = fixture.token("app", &serde_json::json!({ "rules": rules }));
    let mut client = fixture.client();
    assert_eq!(
        crate::sasl::scram(&mut client, "SCRAM-SHA-256", "app", &secret),
        Ok(0)
    );
    let joins = Beat { member: "m", ..JOINS };
    let other = Beat {
        group: "other",
        ..joins.clone()
    };
    assert_eq!(other.send(&mut client).error, 30);
    assert_eq!(describe(&mut client, "other").error, 30);
    let secret = Beat {
        topics: Some(&["t", "t-secret"]),
        ..joins.clone()
    };
    assert_eq!(secret.send(&mut client).error, 29);
    // An expression brings only what may be read.
    let told = Beat {
        topics: None,
        regex: Some("t.*"),
        ..joins
    }
    .send(&mut client);
    assert_eq!(told.partitions(), [0]);
    assert_eq!(describe(&mut client, "g").members.len(), 1);
}

#[test]
fn a_consumer_without_its_right_is_not_kept_alive_and_others_do_not_see_what_it_reads() {
    let fixture = crate::sasl::closed(&[]);
    for name in ["t", "t-secret"] {
        let body = serde_json::json!({"partitions": 1});
        let made = fixture.http(crate::sasl::ADMIN, "PUT", &format!("/v1/topics/{name}"), &body);
        made.created();
    }
    let rules = |topics: &[&str]| serde_json::json!({"rules": [{"allow": ["read", "describe"], "topics": topics, "groups": ["g"]}]});
    let signed_in = |name: &str, secret: &str| {
        let mut client = fixture.client();
        assert_eq!(
            crate::sasl::scram(&mut client, "SCRAM-SHA-256", name, secret),
            Ok(0)
        );
        client
    };
    let secret = fixture.token("app", &rules(&["t", "t-secret"]));
    let told = Beat {
        member: "m",
        topics: Some(&["t", "t-secret"]),
        ..JOINS
    }
    .send(&mut signed_in("app", &secret));
    assert_eq!(told.error, 0);
    let other = fixture.token("other", &rules(&["t"]));
    let seen = describe(&mut signed_in("other", &other), "g").members;
    assert_eq!(seen[0].topics, ["t"]);
    assert_eq!(seen[0].assignment, [0], "of that topic");

    let changed = fixture.http(crate::sasl::ADMIN, "PATCH", "/v1/tokens/app", &rules(&["t"]));
    assert!(changed.status < 300);
    let mut client = signed_in("app", &secret);
    let wait = std::time::Duration::from_millis(300);
    std::thread::sleep(wait);
    assert_eq!(live(&mut client, "m", told.epoch).error, 29);
    let group = fixture.http(
        crate::sasl::ADMIN,
        "GET",
        "/v1/groups/g",
        &serde_json::Value::Null,
    );
    let silent = group.ok()["members"][0]["idle_ms"].as_u64();
    // What it was refused was no sign of life.
    assert!(silent >= Some(wait.as_millis() as u64), "{silent:?}");
}

#[test]
fn a_consumer_that_joins_once_more_as_a_static_member_is_one() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    assert_eq!(join(&mut client, "m").error, 0);
    let joins = Beat {
        member: "m",
        instance: Some("i"),
        ..JOINS
    };
    let told = joins.send(&mut client);
    assert_eq!(told.partitions(), [0]);
    let lives = Beat {
        member: "m",
        instance: Some("i"),
        epoch: told.epoch,
        ..LIVES
    };
    assert_eq!(lives.send(&mut client).error, 0);
}

#[test]
fn the_expressions_of_a_group_are_bounded() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut join = |number: usize, regex: String| {
        let told = Beat {
            member: &format!("m{number}"),
            topics: None,
            regex: Some(&regex),
            ..JOINS
        }
        .send(&mut client);
        (told.error, told.epoch)
    };
    for number in 0..64 {
        assert_eq!(join(number, format!("t{number}")).0, 0);
    }
    let joined = join(64, "t7".into());
    assert_eq!(joined.0, 0, "one of them once more");
    assert_eq!(join(65, "t65".into()).0, 128, "one more");
    let other = Beat {
        member: "m64",
        epoch: joined.1,
        regex: Some("t65"),
        ..LIVES
    };
    assert_eq!(other.send(&mut client).error, 128);
    // One that nobody else has makes room.
    let own = Beat {
        member: "m64",
        epoch: joined.1,
        regex: Some("t8"),
        ..LIVES
    };
    assert_eq!(own.send(&mut client).error, 0);
}

#[test]
fn a_member_keeps_the_beginning_of_the_name_of_its_client() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let name = "x".repeat(30_000);
    let body = Out::new()
        .tags()
        .compact("g")
        .compact("m")
        .i32(0)
        .maybe(None)
        .maybe(None)
        .i32(300_000)
        .length(1)
        .compact("t")
        .maybe(None)
        .maybe(None)
        .length(0)
        .tags();
    let head = Out::new()
        .i16(HEARTBEAT)
        .i16(1)
        .i32(9)
        .i16(30_000)
        .raw(name.as_bytes());
    client.send(&Out::new().bytes(&[head.0, body.0].concat()).0);
    assert_eq!(client.receive().0, 9);
    let members = describe(&mut client, "g").members;
    assert_eq!(members[0].client, name[..255]);
}
