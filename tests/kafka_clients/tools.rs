//! Kafka's tools, as its scripts `kafka-topics`, `kafka-configs` and so on start them.

use super::*;

/// A tool, and what it is to do, words apart.
fn tool(fixture: &Fixture, name: &str, arguments: &str) -> Command {
    let mut command = java().expect("it was there");
    command
        .arg(format!("org.apache.kafka.tools.{name}"))
        .args(["--bootstrap-server", &fixture.kafka.to_string()])
        .args(arguments.split(' '));
    command
}

impl Fixture {
    /// Runs a tool; returns the lines that it prints, without empty ones.
    fn tool(&self, name: &str, arguments: &str) -> Vec<String> {
        let printed = self.output(tool(self, name, arguments));
        let lines = printed.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    }

    /// The last two columns of a tool's table: a partition and its offset.
    fn reset(&self, group: &str, what: &str) -> BTreeMap<u64, u64> {
        let arguments = format!("--reset-offsets --group {group} {what}");
        let lines = self.tool("consumer.group.ConsumerGroupCommand", &arguments);
        let rows = lines.iter().filter(|line| line.starts_with(group));
        let numbers = |line: &String| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse().unwrap_or_else(|_| panic!("{lines:?}"));
            (number(2), number(3))
        };
        rows.map(numbers).collect()
    }

    /// The committed offsets of a group, as they are over HTTP.
    fn committed(&self, group: &str) -> BTreeMap<u64, u64> {
        let offsets = self.server.get(&format!("/v1/groups/{group}/offsets"));
        let rows = offsets["offsets"].as_array().expect("offsets").iter();
        let number = |row: &Value, name: &str| row[name].as_u64().expect("a number");
        rows.map(|row| (number(row, "partition"), number(row, "offset")))
            .collect()
    }

    /// Sends `count` records to each partition of a topic, over HTTP.
    fn fills(&self, topic: &str, partitions: u32, count: u32) {
        let records: Vec<_> = (0..partitions * count)
            .map(|n| json!({"partition": n % partitions, "value": n, "timestamp": 1_700_000_000_000_u64 + u64::from(n / partitions)}))
            .collect();
        let body = json!({ "records": records }).to_string();
        let path = format!("/v1/topics/{topic}/records");
        self.server
            .expect(200, "POST", &path, "application/json", body.as_bytes());
    }
}

#[test]
fn topics_and_their_configurations() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let topics = |arguments: &str| fixture.tool("TopicCommand", arguments);
    topics("--create --topic made --partitions 3 --config retention.ms=3600000");
    let over_http = || fixture.server.get("/v1/topics/made");
    let retention = || over_http()["config"]["retention_ms"]["value"].clone();
    assert_eq!(over_http()["partition_count"], 3);
    assert_eq!(retention(), 3_600_000);
    assert_eq!(topics("--list"), ["made"]);
    let described = topics("--describe --topic made");
    let has = |part: &str| described.iter().any(|line| line.contains(part));
    assert!(
        has("PartitionCount: 3\tReplicationFactor: 1\tConfigs: retention.ms=3600000"),
        "{described:?}"
    );
    assert_eq!(described.len(), 4, "{described:?}");
    topics("--alter --topic made --partitions 5");
    assert_eq!(over_http()["partition_count"], 5);

    let configs = |what: &str| {
        fixture.tool(
            "ConfigCommand",
            &format!("--entity-type topics --entity-name made {what}"),
        )
    };
    configs("--alter --add-config retention.ms=7200000,cleanup.policy=compact");
    let described = configs("--describe");
    let has = |part: &str| described.iter().any(|line| line.starts_with(part));
    assert!(
        has("retention.ms=7200000") && has("cleanup.policy=compact"),
        "{described:?}"
    );
    assert_eq!(retention(), 7_200_000);
    configs("--alter --delete-config retention.ms,cleanup.policy");
    let described = configs("--describe");
    assert!(
        !described.iter().any(|line| line.contains("retention.ms")),
        "{described:?}"
    );
    assert_eq!(retention(), Value::Null);

    topics("--delete --topic made");
    assert_eq!(topics("--list"), [""; 0]);
}

#[test]
fn records_from_one_console_to_another() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let lines: Vec<String> = (0..50).map(|n| format!("key-{n}:value {n}")).collect();
    let file = fixture.directory.path().join("lines");
    std::fs::write(&file, lines.join("\n") + "\n").expect("a file");
    let send = |codec: &str, acks: &str| {
        let how = format!(
            "--topic {codec} --compression-codec {codec} --request-required-acks {acks} \
             --reader-property parse.key=true --reader-property key.separator=:"
        );
        let input = std::fs::File::open(&file).expect("it was written");
        fixture.output_of_input(tool(&fixture, "ConsoleProducer", &how), input);
        // With acks 0 and 1 the tool ends before its records can be read.
        fixture.until(codec, &mut [], || fixture.all_records(codec).len() == 50);
    };
    for (codec, acks) in [("gzip", "1"), ("snappy", "0"), ("lz4", "all")] {
        send(codec, acks);
    }
    let how = "--include gzip|snappy|lz4 --from-beginning --max-messages 150 \
               --formatter-property print.key=true --formatter-property key.separator=:";
    let mut found = fixture.tool("consumer.ConsoleConsumer", how);
    found.retain(|line| line.starts_with("key-"));
    found.sort_unstable();
    let mut sent = [lines.clone(), lines.clone(), lines.clone()].concat();
    sent.sort_unstable();
    assert_eq!(found, sent);
    for codec in ["none", "zstd"] {
        send(codec, "-1");
        for protocol in ["classic", "consumer"] {
            let how = format!(
                "--topic {codec} --from-beginning --max-messages 50 --group {codec}-{protocol} --command-property group.protocol={protocol} \
                 --formatter-property print.key=true --formatter-property key.separator=:"
            );
            let printed = fixture.tool("consumer.ConsoleConsumer", &how);
            let mut found: Vec<_> = printed
                .into_iter()
                .filter(|line| line.starts_with("key-"))
                .collect();
            let mut sent = lines.clone();
            found.sort_unstable();
            sent.sort_unstable();
            assert_eq!(found, sent);
            let committed: u64 = fixture.committed(&format!("{codec}-{protocol}")).values().sum();
            assert_eq!(committed, 50, "it commits when it ends");
        }
    }
}

#[test]
fn offsets_and_records_that_are_deleted() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    fixture.server.create_topic("trimmed", 3);
    fixture.fills("trimmed", 3, 10);
    let offsets = |more: &str| fixture.tool("GetOffsetShell", &format!("--topic trimmed {more}"));
    assert_eq!(
        offsets("--time latest"),
        ["trimmed:0:10", "trimmed:1:10", "trimmed:2:10"]
    );
    assert_eq!(
        offsets("--time 1700000000004"),
        ["trimmed:0:4", "trimmed:1:4", "trimmed:2:4"]
    );
    let rows = json!({"version": 1, "partitions": [
        {"topic": "trimmed", "partition": 0, "offset": 4}, {"topic": "trimmed", "partition": 2, "offset": -1}]});
    std::fs::write(fixture.directory.path().join("rows.json"), rows.to_string()).expect("a file");
    let deleted = fixture.tool("DeleteRecordsCommand", "--offset-json-file rows.json");
    let has = |part: &str| deleted.iter().any(|line| line.contains(part));
    assert!(
        has("trimmed-0\tlow_watermark: 4") && has("trimmed-2\tlow_watermark: 10"),
        "{deleted:?}"
    );
    assert_eq!(
        offsets("--time earliest"),
        ["trimmed:0:4", "trimmed:1:0", "trimmed:2:10"]
    );
    let described = fixture.server.get("/v1/topics/trimmed");
    let starts: Vec<_> = described["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|row| &row["log_start_offset"])
        .collect();
    assert_eq!(starts, [4, 0, 10], "{described}");
}

#[test]
fn offsets_of_groups_are_reset_and_deleted() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    fixture.server.create_topic("read", 2);
    fixture.fills("read", 2, 10);
    let rows = [0, 1].map(|partition| json!({"topic": "read", "partition": partition, "offset": 5}));
    let body = json!({ "offsets": rows }).to_string();
    let path = "/v1/groups/late/offsets";
    fixture
        .server
        .expect(200, "PUT", path, "application/json", body.as_bytes());
    let both = |offset: u64| BTreeMap::from([(0, offset), (1, offset)]);
    let groups = |arguments: &str| fixture.tool("consumer.group.ConsumerGroupCommand", arguments);
    assert_eq!(groups("--list"), ["late"]);
    assert_eq!(
        fixture.reset("late", "--all-topics --to-earliest --dry-run"),
        both(0)
    );
    assert_eq!(fixture.committed("late"), both(5), "nothing changed");
    for (how, offset) in [
        ("--to-earliest", 0),
        ("--to-latest", 10),
        ("--shift-by -3", 7),
        ("--to-datetime 2023-11-14T22:13:20.004+0000", 4),
        ("--to-offset 6", 6),
    ] {
        let what = format!("--all-topics {how} --execute");
        assert_eq!(fixture.reset("late", &what), both(offset), "{how}");
        assert_eq!(fixture.committed("late"), both(offset), "{how}");
    }
    let one = fixture.reset("late", "--topic read:1 --to-offset 2 --execute");
    assert_eq!(one, BTreeMap::from([(1, 2)]));
    let deleted = groups("--delete-offsets --group late --topic read:0");
    assert!(
        deleted.iter().any(|line| line.contains("Successful")),
        "{deleted:?}"
    );
    assert_eq!(fixture.committed("late"), BTreeMap::from([(1, 2)]));
    groups("--delete --group late");
    assert_eq!(groups("--list"), [""; 0]);
    let listed = fixture.server.get("/v1/groups");
    assert_eq!(listed["groups"], json!([]));
}
