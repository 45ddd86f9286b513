//! The commands with the real service: each does what it says, and its output can be used.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Fake, fine, problem};
use crate::support::Server;
use crate::{Ended, Running, command, ended, file, in_the_end, quipu, run};

/// `quipu serve` on a free port and a fresh data directory; killed when dropped.
pub(crate) struct Service {
    pub(crate) server: Server,
    pub(crate) url: String,
    data: TempDir,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with settings, named as in the environment.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_on(TempDir::new().unwrap(), settings)
    }

    /// Stops it in order, lets `change` do something to its data directory, and starts it again.
    pub(crate) fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        self.server.stop();
        change(&self.data.path().join("data"));
        Self::start_on(self.data, &[])
    }

    /// On what is in `data` below this directory.
    pub(crate) fn start_on(data: TempDir, settings: &[(&str, &str)]) -> Self {
        let server = Server::start_with_settings(&data.path().join("data"), settings);
        let url = format!("http://{}", server.address);
        Self { server, url, data }
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.path().join("data")
    }

    pub(crate) fn run(&self, line: &str) -> Ended {
        run(&self.url, line)
    }

    /// Runs a command that must succeed; returns its output.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Runs a command that must fail with one line, which is returned.
    #[track_caller]
    pub(crate) fn failed(&self, line: &str) -> String {
        self.run(line).failed().to_owned()
    }

    /// Runs a command that must fail with one line that contains this.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, part: &str) {
        self.run(line).fails_with(part);
    }

    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --output json"))).unwrap()
    }

    /// The values of the records that a command prints.
    #[track_caller]
    pub(crate) fn values(&self, line: &str) -> Vec<u64> {
        values(&self.ok(line))
    }

    /// Produces the given text from standard input.
    #[track_caller]
    pub(crate) fn produce(&self, line: &str, input: &str) {
        let mut command = quipu(&format!("produce {line}"));
        ended(command.env("QUIPU_SERVER", &self.url).write_stdin(input)).ok();
    }

    pub(crate) fn spawn(&self, line: &str) -> Running {
        Running::start(&self.url, line)
    }

    /// Sends a request of another client than the command line.
    pub(crate) fn post(&self, path: &str, body: &Value) {
        let (kind, body) = ("application/json", body.to_string());
        self.server.expect(200, "POST", path, kind, body.as_bytes());
    }

    /// The same with any method and status; returns the answer.
    #[track_caller]
    pub(crate) fn call(&self, status: u16, method: &str, path: &str, body: &Value) -> Value {
        let (kind, body) = ("application/json", body.to_string());
        self.server.expect(status, method, path, kind, body.as_bytes())
    }

    /// Reads a path of the API.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.server.get(path)
    }

    /// Where it listens for Kafka clients, if it does.
    pub(crate) fn kafka(&self) -> Option<SocketAddr> {
        self.server.kafka
    }

    /// Ten records, keys a to c in turn, one a second from 1970 on.
    pub(crate) fn with_ten(partitions: u32) -> Self {
        let service = Self::start();
        service.server.create_topic("t", partitions);
        service.produce("t", &tens(0..10));
        service
    }
}

pub(crate) fn ten(n: u32) -> String {
    let key = ["a", "b", "c"][n as usize % 3];
    format!("{{\"key\":\"{key}\",\"timestamp\":{},\"value\":{n}}}\n", n * 1000)
}

pub(crate) fn tens(range: std::ops::Range<u32>) -> String {
    range.map(ten).collect()
}

/// The values of printed records.
pub(crate) fn values(text: &str) -> Vec<u64> {
    let value = |line| serde_json::from_str::<Value>(line).unwrap()["value"].as_u64();
    text.lines().map(|line| value(line).unwrap()).collect()
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

#[test]
fn topics_are_created_listed_described_altered_and_deleted() {
    let service = Service::start();
    let create = "topic create orders --partitions 3";
    let text = service.ok(&format!("{create} --config retention_ms=5000"));
    assert_eq!(text, "topic orders with 3 partitions is made\n");
    let found = service.ok(create);
    assert_eq!(found, "topic orders with 3 partitions exists already\n");
    service.fails("topic create orders --partitions 4", "topic-exists");

    let listed = service.ok("topic list");
    assert_eq!(listed.lines().count(), 2);
    let is_plain = listed.lines().all(|line| line == line.trim_end());
    assert!(is_plain, "plain columns in a pipe: {listed:?}");
    assert_eq!(service.json("topic list")["topics"][0]["name"], "orders");

    let described = service.json("topic describe orders");
    assert_eq!(described["config"]["retention_ms"]["value"], 5000);
    assert!(service.ok("topic describe orders").contains("retention_ms"));

    let alter = "topic alter orders --partitions 5 --unset retention_ms --config retention_bytes=1000000000";
    let altered = service.json(alter);
    assert_eq!(altered["partition_count"], 5);
    assert_eq!(altered["config"]["retention_ms"]["source"], "default");
    let fewer = "topic alter orders --partitions 2";
    service.fails(fewer, "quipu: partitions-cannot-shrink: ");

    let dry = service.json("topic delete orders --dry-run");
    assert_eq!((&dry["dry_run"], &dry["records"]), (&json!(true), &json!(0)));
    let dry = service.ok("topic alter orders --config retention_ms=1 --dry-run");
    assert!(
        dry.contains("would go; no group reads them; nothing was changed"),
        "{dry}"
    );
    service.ok("topic alter orders --config delete_protection=true");
    service.fails("topic delete orders", "topic-protected");
    service.fails("topic delete orders --dry-run", "topic-protected");
    service.ok("topic alter orders --unset delete_protection");
    service.ok("topic delete orders --yes");
    service.fails("topic describe orders", "unknown-topic");
    assert_eq!(service.json("topic list")["topics"], json!([]));
}

#[test]
fn more_topics_than_a_page_are_all_listed() {
    let service = Service::start();
    for n in 0..103 {
        service.server.create_topic(&format!("t{n:03}"), 1);
    }
    let listed = service.json("topic list");
    assert_eq!(listed["topics"].as_array().unwrap().len(), 103);
}

#[test]
fn what_was_produced_is_consumed() {
    let service = Service::with_ten(3);
    let text = service.ok("consume t");
    assert_eq!(sorted(values(&text)), (0..10).collect::<Vec<_>>());
    let span = "--from 1970-01-01T00:00:02Z --until 1970-01-01T00:00:05Z";
    for (flags, expected) in [
        ("--key b", &[1, 4, 7][..]),
        ("--key b --max 2", &[1, 4]),
        ("--from time:6000", &[6, 7, 8, 9]),
        (span, &[2, 3, 4]),
    ] {
        let found = service.values(&format!("consume t {flags}"));
        assert_eq!(sorted(found), expected, "{flags}");
    }
    assert_eq!(service.values("consume t --key b"), [1, 4, 7], "in order");
    assert_eq!(service.ok("consume t --max 4").lines().count(), 4);
    assert_eq!(service.ok("consume t --max 0"), "");
    assert_eq!(service.ok("consume t --from latest"), "");
    let unknown = service.run("consume t --partition 3");
    unknown.fails_as("quipu: topic t has no partition 3; its partitions are 0 to 2\n");

    // Printed records can be produced again.
    service.ok("topic create copy --partitions 3");
    service.produce("copy", &text);
    assert_eq!(service.ok("consume copy"), text);
}

#[test]
fn raw_lines_and_keys_come_back_as_they_were() {
    let service = Service::start();
    service.ok("topic create t");
    service.produce("t --raw", "{\"n\": 1.50}\nplain text\nnull\n");
    let text = service.ok("consume t");
    for part in [
        r#""value":{"n": 1.50}"#,
        r#""value_base64":"cGxhaW4gdGV4dA==""#,
        r#""value_base64":"bnVsbA==""#,
    ] {
        assert!(text.contains(part), "{text}");
    }
    let line = "{\"value\":{\"aircraft\":\"N1\"}}\n";
    service.produce("t --key-field /value/aircraft", line);
    assert_eq!(service.ok("consume t --key N1").lines().count(), 1);
}

#[test]
fn a_bad_line_is_found_in_compressed_files_and_early_in_a_large_request() {
    let service = Service::start();
    let dir = TempDir::new().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let lines = tens(0..20_123) + "\n{\"vaule\":1}\n" + &tens(20_123..25_000);
    gzip.write_all(lines.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let early = ten(0) + "nonsense\n" + &ten(1).repeat(400_000);
    for (name, content, line, stored) in [
        ("t.ndjson.gz", gzip, 20_125, "20123 records were"),
        ("early", early.into_bytes(), 2, "1 record was"),
    ] {
        service.server.create_topic(name, 2);
        let path = file(&dir, name, content);
        let text = service.failed(&format!("produce {name} {path}"));
        let begin = format!("quipu: line {line} of {path}: invalid-request: ");
        let again = "correct the line, then run the same command again to continue there";
        let end = format!("; {stored} stored; {again}\n");
        assert!(text.starts_with(&begin) && text.ends_with(&end), "{text}");
        let count = service.ok(&format!("consume {name}")).lines().count();
        assert_eq!(count.to_string(), stored.split(' ').next().unwrap());
    }
    service.fails("produce early no-such-file", "quipu: cannot open no-such-file: ");
}

#[test]
fn a_pipe_that_stays_open_is_sent_as_it_comes() {
    let service = Service::start();
    service.ok("topic create t");
    let mut consumer = service.spawn("consume t --follow");
    let mut producer = service.spawn("produce t --output json");
    let mut input = producer.child.stdin.take().unwrap();
    for n in 0..3 {
        input.write_all(ten(n).as_bytes()).unwrap();
        assert_eq!(values(&consumer.line()), [u64::from(n)]);
    }
    // Ctrl-C while the pipe is idle: all input so far is stored.
    producer.interrupt();
    assert!(producer.end().ok().contains("\"records\":3"));
    consumer.stop().quiet();
    drop(input);
}

#[test]
fn ctrl_c_says_that_a_half_written_line_of_an_open_pipe_is_not_sent() {
    let service = Service::start();
    for (topic, flags, half) in [
        ("t", "", ten(0) + "{\"value\":"),
        ("raw", "--raw", "0\n12".to_owned()),
    ] {
        service.server.create_topic(topic, 1);
        let mut consumer = service.spawn(&format!("consume {topic} --follow"));
        let mut producer = service.spawn(&format!("produce {topic} {flags}"));
        let mut input = producer.child.stdin.take().unwrap();
        input.write_all(half.as_bytes()).unwrap();
        // The pipe gives both at once, so the half line was read when the whole one is here.
        assert_eq!(values(&consumer.line()), [0]);
        producer.stop().fails_as(
            "quipu: line 2 of standard input: interrupted before its end, so it was not sent; 1 record was stored\n",
        );
        assert_eq!(service.values(&format!("consume {topic}")), [0]);
        consumer.stop().quiet();
        drop(input);
    }
}

#[test]
fn a_group_continues_where_it_stopped() {
    let service = Service::with_ten(3);
    let first = service.values("consume t --group g --max 4");
    let second = service.values("consume t --group g --max 3");
    let third = service.values("consume t --group g");
    assert_eq!((first.len(), second.len(), third.len()), (4, 3, 3));
    let all = sorted([first, second, third].concat());
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_eq!(service.ok("consume t --group g"), "");

    assert_eq!(service.json("lag g")["lag"], 0);
    service.produce("t", &ten(10));
    assert_eq!(service.json("lag")["groups"][0]["lag"], 1);
    assert!(service.ok("lag g").contains("group g: 1 record behind"));
    assert!(service.ok("lag").lines().any(|line| line.starts_with("g ")));
    // If something is committed, `--from` has no effect.
    assert_eq!(service.values("consume t --group g --from earliest"), [10]);
}

#[test]
fn where_a_group_starts_is_committed_before_the_first_record_and_what_was_printed_at_the_end() {
    let service = Service::with_ten(1);
    for (topic, partitions) in [("wide", 3), ("empty", 2), ("large", 1)] {
        service.server.create_topic(topic, partitions);
    }
    service.produce("large", &tens(0..20_000));
    let committed = |group: &str| {
        let answer = service.server.get(&format!("/v1/groups/{group}/offsets"));
        let rows = answer["offsets"].as_array().unwrap().iter();
        let rows = rows.map(|row| format!("{} {} {}", row["topic"], row["partition"], row["offset"]));
        let mut rows: Vec<String> = rows.map(|row| row.replace('"', "")).collect();
        rows.sort();
        rows.join(", ")
    };
    for (line, expected) in [
        ("t wide --max 1", "t 0 1, wide 0 0, wide 1 0, wide 2 0"),
        ("empty", "empty 0 0, empty 1 0"),
        ("t empty --from latest", "empty 0 0, empty 1 0, t 0 10"),
        ("t --from offset:7 --max 1", "t 0 8"),
        ("t --from time:4000 --max 1", "t 0 5"),
        ("wide --partition 1", "wide 1 0"),
    ] {
        let group = format!("g{}", line.len());
        service.ok(&format!("consume {line} --group {group}"));
        assert_eq!(committed(&group), expected, "{line}");
    }
    let mut killed = service.spawn("consume large t --group killed");
    killed.line();
    killed.child.kill().unwrap();
    assert!(committed("killed").ends_with("t 0 0"), "{}", committed("killed"));
    let mut interrupted = service.spawn("consume t --group interrupted --follow");
    interrupted.lines(10);
    interrupted.stop().quiet();
    assert_eq!(committed("interrupted"), "t 0 10");
    // What comes between two runs is printed by the second.
    service.ok("consume t --group late --from latest");
    service.produce("t", &ten(10));
    assert_eq!(service.values("consume t --group late --from latest"), [10]);
}

#[test]
fn a_group_is_listed_described_reset_and_deleted() {
    let service = Service::with_ten(1);
    service.ok("consume t --group g --max 8");
    assert_eq!(service.json("group list")["groups"][0]["group"], "g");
    assert!(service.ok("group list").contains("empty"));
    assert_eq!(service.json("group describe g")["state"], "empty");
    assert!(service.ok("group describe g").contains("COMMITTED"));

    let reset = |to: &str| {
        let answer = service.json(&format!("group reset g --topic t --to {to}"));
        let offset = |name: &str| answer["offsets"][0][name].as_u64().unwrap();
        (offset("old_offset"), offset("new_offset"))
    };
    assert_eq!(reset("earliest --dry-run"), (8, 0));
    // The dry run changed nothing.
    assert_eq!(reset("shift:-3 --partition 0"), (8, 5));
    assert_eq!(service.values("consume t --group g --max 1"), [5]);
    for (to, new) in [("latest", 10), ("offset:2", 2), ("1970-01-01T00:00:07Z", 7)] {
        assert_eq!(reset(to).1, new, "{to}");
    }
    let text = service.ok("group reset g --topic t --to earliest --dry-run");
    assert!(text.contains("OLD LAG"), "{text}");
    assert!(text.contains("nothing was changed"), "{text}");

    service.ok("group delete g");
    service.fails("group describe g", "unknown-group");
    service.fails("lag g", "unknown-group");
}

#[test]
fn the_members_of_a_group_are_shown_and_a_command_that_they_forbid_says_so_in_a_line() {
    let service = Service::with_ten(3);
    let join = json!({"topics": ["t"], "wait_ms": 0, "client_id": "till"});
    service.post("/v1/groups/g/members/one/poll", &join);
    let listed = service.ok("group list");
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["g", "stable", "ordered", "1", "10"], "{listed}");
    assert_eq!(service.json("group list")["groups"][0]["members"], 1);
    let text = service.ok("group describe g");
    assert!(text.starts_with("group g: ordered, stable\n"), "{text}");
    let member = text.lines().find(|line| line.starts_with("one ")).unwrap();
    assert!(member.contains("till") && member.contains("127.0.0.1:"), "{text}");
    assert!(member.contains(" s ago") && member.ends_with("t 0-2"), "{text}");
    assert!(!text.contains("LEASED"), "{text}");

    for line in ["group delete g", "group reset g --topic t --to latest"] {
        let text = service.failed(line);
        let begin = "quipu: group-active: group g has live members";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains("quipu group describe g"), "{text}");
    }
    let consumed = service.run("consume t --group g");
    let text = consumed.failed();
    assert!(text.contains("choose another --group"), "{text}");
    assert!(text.contains("/v1/groups/g/members/NAME/poll"), "{text}");
    assert_eq!(consumed.out, "", "nothing is printed that could not be committed");
    service.ok("group reset g --topic t --to latest --dry-run");
    let text = service.ok("group reset g --all-topics --to latest --while-active --yes");
    assert!(text.contains("NEW LAG") && text.contains("OLD TIME"), "{text}");
    let moved = service.json("group reset g --topic t --partition 1 --to earliest --while-active");
    assert_eq!(moved["offsets"].as_array().unwrap().len(), 1);
    assert_eq!(
        service.json("group describe g")["state"],
        "stable",
        "they are still there"
    );
}

#[test]
fn a_work_queue_is_described_with_its_settings_and_what_is_leased() {
    let service = Service::with_ten(1);
    let join = json!({"topics": ["t"], "type": "shared", "wait_ms": 0, "max_records": 4, "lease_ms": 60000});
    service.post("/v1/groups/q/members/one/poll", &join);
    let text = service.ok("group describe q");
    let begin = "group q: shared, stable\nleases of 60000 ms, at most 5 deliveries, then to TOPIC.dlq\n";
    assert!(text.starts_with(begin), "{text}");
    let member = text.lines().find(|line| line.starts_with("one ")).unwrap();
    assert!(text.contains("LEASED") && member.ends_with(" 4"), "{text}");
    let described = service.json("group describe q");
    assert_eq!(described["members"][0]["leased"], 4);
    assert_eq!(described["settings"]["lease_ms"], 60000);
}

#[test]
fn a_closed_pipe_is_a_quiet_end_and_a_full_disk_an_error() {
    let service = Service::with_ten(3);
    // The command follows for ever and has nothing more to write, but still learns that nobody reads.
    for line in ["consume t --follow", "replay t --from 0 --speed 0.001"] {
        let mut running = service.spawn(line);
        assert!(running.line().starts_with('{'));
        running.hang_up().quiet();
    }
    for line in ["topic list", "topic describe t --output json", "lag"] {
        service.spawn(line).hang_up().quiet();
    }
    // A full disk is an error.
    let lines = "consume t|consume t --follow|replay t --from 0|topic list|lag --output json|lag --watch";
    for line in lines.split('|') {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = command(line);
        let output = command.env("QUIPU_SERVER", &service.url).stdout(full).output();
        Ended::from(output.unwrap()).fails_with("quipu: cannot write to standard output: No space left");
    }
}

#[test]
fn a_tail_with_a_time_as_its_end_stops_there() {
    let service = Service::start();
    service.ok("topic create t");
    let later = |range| tens(range).replace("\"timestamp\":", "\"timestamp\":41024448");
    service.produce("t", &later(10..20));
    for group in ["", "--group g"] {
        let text = format!("consume t --follow --until 2100-01-01T00:00:22Z {group}");
        let mut consumer = service.spawn(&text);
        consumer.lines(10);
        if group.is_empty() {
            service.produce("t", &later(20..25));
        }
        assert_eq!(values(&consumer.end().ok()), [20, 21]);
    }
    let history = service.values("consume t --until 2100-01-01T00:00:22Z");
    assert_eq!(history, (10..22).collect::<Vec<_>>(), "and as history");
    // With an end in the past the command does not wait.
    for group in ["", "--group h"] {
        let found = service.ok(&format!("consume t --follow --until 2020-01-01 {group}"));
        assert_eq!(found, "");
    }
}

#[test]
fn history_is_replayed_in_the_order_of_time_over_all_partitions() {
    let service = Service::with_ten(3);
    assert_eq!(service.values("replay t --from 0"), (0..10).collect::<Vec<_>>());
    let part = "replay t --from 3000 --until 1970-01-01T00:00:06Z --speed 1000";
    assert_eq!(service.values(part), [3, 4, 5]);
    assert_eq!(service.ok("replay t --from 2013-01-01"), "");

    let mut replay = service.spawn("replay t --from 0 --speed 0.0001");
    replay.line();
    replay.stop().quiet();
}

#[test]
fn records_that_were_deleted_before_they_were_read_are_announced() {
    let service = Service::with_ten(1);
    service.ok("consume t --group g --max 1");
    service.ok("topic trim t --before offset:6");
    let ended = service.run("consume t --from offset:2");
    assert_eq!(values(&ended.out), [6, 7, 8, 9]);
    assert!(ended.err.contains("offsets 2 to 5 were deleted"), "{}", ended.err);
    assert_eq!(service.values("consume t --group g"), [6, 7, 8, 9]);
}

#[test]
fn lag_watch_continues_until_it_is_interrupted_or_nobody_reads_it() {
    let service = Service::with_ten(2);
    service.ok("consume t --group g --max 3");
    let watch = |line: &str, lines: usize| {
        let mut running = service.spawn(&format!("lag --watch --interval 100ms {line}"));
        let read = running.lines(lines);
        running.stop().quiet();
        read
    };
    for line in watch("g --output json", 3) {
        let lag: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&lag["group"], &lag["lag"]), (&"g".into(), &7.into()), "{line}");
    }
    let all: Value = serde_json::from_str(&watch("--output json", 2)[1]).unwrap();
    assert_eq!(all["groups"][0]["lag"], 7, "{all}");

    let text = watch("g", 12).concat();
    assert!(text.starts_with("TOPIC") && text.contains('█'), "{text}");
    assert!(text.matches("group g: 7 records behind").count() >= 2, "{text}");
    assert!(!text.contains('\x1b'), "{text}");

    // It ends when nobody reads it, and when there is nothing to watch.
    for line in ["lag g --watch", "lag --watch --interval 1m --output json"] {
        let mut running = service.spawn(line);
        running.line();
        running.hang_up().quiet();
    }
    service.fails("lag none --watch", "unknown-group");
    let nobody = run("http://127.0.0.1:1", "lag --watch");
    assert!(nobody.failed().contains("cannot reach"));
}

#[test]
fn health_ends_with_0_when_the_server_is_ready_and_else_with_1_and_a_line() {
    let service = Service::start();
    let ready = r#"{"degraded":[],"status":"ready"}"#;
    for (line, printed) in [
        ("health", "ready"),
        ("health --for writes", "ready"),
        ("health --for writes --output json", ready),
    ] {
        in_the_end(&format!("{printed}\n"), || service.run(line)).ok();
    }
    let wrong = service.run("health --for reads");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");

    let fake = Fake::start(|request, _| match request.line.as_str() {
        "GET /health/ready" => {
            fine(r#"{"status":"degraded","degraded":[{"what":"log-failed","detail":"x"}]}"#)
        }
        "GET /health/ready?for=writes" => problem(503, r#""code":"log-failed","detail":"appends stopped""#),
        other => panic!("{other}"),
    });
    in_the_end("degraded: log-failed\n", || run(&fake.url, "health")).ok();
    let text = "quipu: log-failed: appends stopped\n";
    in_the_end(text, || run(&fake.url, "health --for writes")).fails_as(text);
    run("http://127.0.0.1:1", "health").fails_with("cannot reach http://127.0.0.1:1");
}
