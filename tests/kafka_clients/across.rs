//! One log, one truth: what one side does, the other sees.

use super::*;

/// A consumer of kafka-python or Java finds a record that was produced over HTTP in the partition that its own partitioner
/// chooses; the other way round, [`Fixture::stored`] compares the partitions of every client's records.
#[test]
fn keys_of_records_over_http_lie_where_the_clients_partitioners_look_for_them() {
    let Some(Program(mut command)) = python("kafka-python-3", "kafka", "across.py") else {
        return;
    };
    let fixture = Fixture::new();
    let body = json!({"partitions": 7}).to_string();
    fixture.server.expect(
        201,
        "PUT",
        "/v1/topics/keyed",
        "application/json",
        body.as_bytes(),
    );
    let keys = (0..200)
        .map(|n| format!("key-{n}"))
        .chain(["".into(), "Ωmega".into(), "a".repeat(300)]);
    let records: Vec<_> = keys
        .map(|key| json!({"key": key, "value": {"of": key}}))
        .collect();
    let body = json!({ "records": records }).to_string();
    fixture.server.expect(
        200,
        "POST",
        "/v1/topics/keyed/records",
        "application/json",
        body.as_bytes(),
    );
    command.args([&fixture.kafka.to_string(), "across", "keys"]);
    assert_eq!(fixture.output(command).trim(), "keys: passed");
}

/// A group that a Kafka consumer has committed: the same offsets and lag over HTTP, and a reset over HTTP is where the
/// consumer goes on.
#[test]
fn a_group_that_a_kafka_consumer_has_committed_is_reset_over_http() {
    let fixture = Fixture::new();
    let run = |part: &str| {
        let Some(Program(mut command)) = python("kafka-python-3", "kafka", "across.py") else {
            return false;
        };
        command.args([&fixture.kafka.to_string(), "across", part]);
        assert_eq!(fixture.output(command).trim(), format!("{part}: passed"));
        true
    };
    if !run("commit") {
        return;
    }
    let offsets = fixture.server.get("/v1/groups/across/offsets");
    let row =
        |offset: u64| json!({"topic": "across", "partition": 1, "offset": offset, "metadata": "so far"});
    let rows = offsets["offsets"].as_array().expect("offsets");
    assert_eq!(rows.len(), 1, "{offsets}");
    support::has(&rows[0], row(30));
    let lag = fixture.server.get("/v1/groups/across/lag");
    assert_eq!(lag["lag"], 70, "{lag}");
    let body = json!({"topic": "across", "partitions": [1], "to": {"offset": 5}}).to_string();
    let reset = fixture.server.expect(
        200,
        "POST",
        "/v1/groups/across/offsets/reset",
        "application/json",
        body.as_bytes(),
    );
    assert_eq!(reset["offsets"][0]["new_offset"], 5, "{reset}");
    assert!(run("after_reset"));
}

/// The same with Java's client.
#[test]
fn a_group_that_a_java_consumer_has_committed_is_reset_over_http() {
    let fixture = Fixture::new();
    for part in ["commits", "after_reset"] {
        let Some(program) = java_clients() else { return };
        assert_eq!(
            fixture.run(program, "java", &[part]).trim(),
            format!("{part}: passed")
        );
        let offsets = fixture.server.get("/v1/groups/java-commits/offsets");
        let row = json!({"topic": "java-commits", "partition": 1});
        support::has(&offsets["offsets"][0], row);
        if part == "commits" {
            support::has(&offsets["offsets"][0], json!({"offset": 7, "metadata": "seven"}));
            let body = json!({"topic": "java-commits", "partitions": [1], "to": {"offset": 3}}).to_string();
            let path = "/v1/groups/java-commits/offsets/reset";
            fixture
                .server
                .expect(200, "POST", path, "application/json", body.as_bytes());
        }
    }
}

/// The lag of a group: as `kafka-consumer-groups --describe` prints it, over HTTP, by `quipu lag`, and as a metric.
#[test]
fn the_lag_is_the_same_for_kafkas_tool_over_http_for_the_command_and_as_a_metric() {
    let Some(mut tool) = java() else { return };
    let fixture = Fixture::new();
    fixture.server.create_topic("lagging", 3);
    let mut expected = BTreeMap::new();
    for (partition, (records, committed)) in [(10, 4), (20, 20), (5, 0)].into_iter().enumerate() {
        let lines: Vec<_> = (0..records)
            .map(|n| json!({"partition": partition, "value": n}))
            .collect();
        let body = json!({ "records": lines }).to_string();
        let server = &fixture.server;
        server.expect(
            200,
            "POST",
            "/v1/topics/lagging/records",
            "application/json",
            body.as_bytes(),
        );
        let row = json!({"topic": "lagging", "partition": partition, "offset": committed});
        let body = json!({ "offsets": [row] }).to_string();
        server.expect(
            200,
            "PUT",
            "/v1/groups/late/offsets",
            "application/json",
            body.as_bytes(),
        );
        expected.insert(partition as u64, (committed, records, records - committed));
    }
    tool.args([
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "--bootstrap-server",
    ]);
    tool.args([&fixture.kafka.to_string(), "--describe", "--group", "late"]);
    let printed = fixture.output(tool);
    let rows = printed.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse::<i64>().ok();
        (words.first() == Some(&"late")).then_some(())?;
        Some((number(2)? as u64, (number(3)?, number(4)?, number(5)?)))
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), expected, "{printed}");
    let lag = fixture.server.get("/v1/groups/late/lag");
    let rows_of = |lag: &Value| -> BTreeMap<u64, (i64, i64, i64)> {
        let partitions = lag["topics"][0]["partitions"].as_array().expect("partitions");
        let number = |row: &Value, name: &str| row[name].as_i64().expect("a number");
        let row = |row: &Value| {
            let offsets = ["committed_offset", "end_offset", "lag"].map(|name| number(row, name));
            (number(row, "partition") as u64, offsets.into())
        };
        partitions.iter().map(row).collect()
    };
    assert_eq!(rows_of(&lag), expected, "{lag}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.args(["lag", "late", "--output", "json", "--server"]);
    command.arg(format!("http://{}", fixture.server.address));
    let printed: Value = serde_json::from_str(&fixture.output(command)).expect("JSON");
    assert_eq!(printed["lag"], 11, "{printed}");
    assert_eq!(rows_of(&printed), expected, "{printed}");
    let metrics = fixture.server.connect().get("/metrics");
    for (partition, (_, _, lag)) in expected {
        let row = format!(
            "quipu_group_lag_records{{group=\"late\",topic=\"lagging\",partition=\"{partition}\"}} {lag}\n"
        );
        assert!(metrics.text().contains(&row), "no {row} in {}", metrics.text());
    }
}

/// A live group of members over HTTP: `kafka-consumer-groups` shows its members, their partitions and its state.
#[test]
fn kafkas_tool_shows_the_members_over_http() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    fixture.server.create_topic("shared", 2);
    let body = json!({"topics": ["shared"], "member_id": "over-http", "client_id": "curl"}).to_string();
    let path = "/v1/groups/live/members";
    fixture
        .server
        .expect(201, "POST", path, "application/json", body.as_bytes());
    let words = |more: &[&str]| -> Vec<Vec<String>> {
        let mut tool = java().expect("it was there");
        tool.args([
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            "--bootstrap-server",
        ]);
        tool.args([&fixture.kafka.to_string(), "--describe", "--group", "live"]);
        tool.args(more);
        let printed = fixture.output(tool);
        let rows = printed.lines().filter(|line| line.starts_with("live "));
        rows.map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect()
    };
    let rows = words(&[]);
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in &rows {
        assert_eq!(row[6..], ["over-http", "/127.0.0.1", "curl"], "{rows:?}");
    }
    let members = words(&["--members"]);
    assert_eq!(
        members[0][1..],
        ["over-http", "/127.0.0.1", "curl", "2"],
        "{members:?}"
    );
    let state = words(&["--state"]);
    assert_eq!(
        state[0][state[0].len() - 3..],
        ["uniform", "Stable", "1"],
        "{state:?}"
    );
}
