//! Against the real service: each command does what it says, and what it prints can be used.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{failed, quipu, run, stderr, stdout};

/// `quipu serve` on a free port and a fresh data directory; killed when dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
    data: Rc<TempDir>,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::start_on(Rc::new(TempDir::new().unwrap()))
    }

    /// Stops it in order, lets `change` do something to its data directory, and starts it again.
    pub(crate) fn restart_after(mut self, change: impl FnOnce(&Path)) -> Self {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        let data = Rc::clone(&self.data);
        change(&data.path().join("data"));
        Self::start_on(data)
    }

    fn start_on(data: Rc<TempDir>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_quipu"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"))
            .expect(&line)
            .to_owned();
        Self { child, url, data }
    }

    /// Runs a command that must succeed; answers what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = run(&self.url, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn produce(&self, args: &[&str], input: &str) -> Output {
        quipu(&[&["produce"], args].concat())
            .env("QUIPU_SERVER", &self.url)
            .write_stdin(input)
            .output()
            .unwrap()
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_quipu"))
            .args(args)
            .env("QUIPU_SERVER", &self.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Ten records, keys a to c in turn, one a second from 1970 on.
    pub(crate) fn with_ten(partitions: &str) -> Self {
        let service = Self::start();
        service.ok(&["topic", "create", "t", "--partitions", partitions]);
        let lines: String = (0..10).map(ten).collect();
        let output = service.produce(&["t"], &lines);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn ten(n: u32) -> String {
    let key = ["a", "b", "c"][n as usize % 3];
    format!("{{\"key\":\"{key}\",\"timestamp\":{},\"value\":{n}}}\n", n * 1000)
}

/// The values of printed records.
pub(crate) fn values(text: &str) -> Vec<u64> {
    text.lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["value"]
                .as_u64()
                .unwrap()
        })
        .collect()
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

/// Asks it to stop, as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn topics_are_created_listed_described_altered_and_deleted() {
    let service = Service::start();
    let text = service.ok(&[
        "topic",
        "create",
        "orders",
        "--partitions",
        "3",
        "--config",
        "retention_ms=5000",
    ]);
    assert_eq!(text, "topic orders with 3 partitions is made\n");
    let text = service.ok(&["topic", "create", "orders", "--partitions", "3"]);
    assert_eq!(text, "topic orders with 3 partitions exists already\n");
    assert!(
        failed(&run(
            &service.url,
            &["topic", "create", "orders", "--partitions", "4"]
        ))
        .contains("topic-exists")
    );

    let listed = service.ok(&["topic", "list"]);
    assert_eq!(listed.lines().count(), 2);
    assert!(
        listed.lines().all(|line| line == line.trim_end()),
        "plain columns in a pipe: {listed:?}"
    );
    assert_eq!(service.json(&["topic", "list"])["topics"][0]["name"], "orders");

    assert_eq!(
        service.json(&["topic", "describe", "orders"])["config"]["retention_ms"]["value"],
        5000
    );
    assert!(
        service
            .ok(&["topic", "describe", "orders"])
            .contains("retention_ms")
    );

    let altered = [
        "topic",
        "alter",
        "orders",
        "--partitions",
        "5",
        "--unset",
        "retention_ms",
    ];
    let altered = service.json(&[&altered[..], &["--config", "retention_bytes=1000000000"]].concat());
    assert_eq!(altered["partition_count"], 5);
    assert_eq!(altered["config"]["retention_ms"]["source"], "default");
    let text = failed(&run(
        &service.url,
        &["topic", "alter", "orders", "--partitions", "2"],
    ));
    assert!(text.starts_with("quipu: partitions-cannot-shrink: "), "{text}");

    service.ok(&["topic", "delete", "orders"]);
    assert!(failed(&run(&service.url, &["topic", "describe", "orders"])).contains("unknown-topic"));
    assert_eq!(
        service.json(&["topic", "list"])["topics"],
        Value::Array(Vec::new())
    );
}

#[test]
fn more_topics_than_a_page_are_all_listed() {
    let service = Service::start();
    for n in 0..103 {
        service.ok(&["topic", "create", &format!("t{n:03}")]);
    }
    assert_eq!(
        service.json(&["topic", "list"])["topics"]
            .as_array()
            .unwrap()
            .len(),
        103
    );
}

#[test]
fn what_was_produced_is_consumed() {
    let service = Service::with_ten("3");
    let text = service.ok(&["consume", "t"]);
    assert_eq!(sorted(values(&text)), (0..10).collect::<Vec<_>>());
    assert_eq!(values(&service.ok(&["consume", "t", "--key", "b"])), [1, 4, 7]);
    assert_eq!(
        values(&service.ok(&["consume", "t", "--key", "b", "--max", "2"])),
        [1, 4]
    );
    assert_eq!(service.ok(&["consume", "t", "--max", "4"]).lines().count(), 4);
    assert_eq!(service.ok(&["consume", "t", "--max", "0"]), "");
    assert_eq!(service.ok(&["consume", "t", "--from", "latest"]), "");
    assert_eq!(
        sorted(values(&service.ok(&["consume", "t", "--from", "time:6000"]))),
        [6, 7, 8, 9]
    );
    let bounded = [
        "consume",
        "t",
        "--from",
        "1970-01-01T00:00:02Z",
        "--until",
        "1970-01-01T00:00:05Z",
    ];
    assert_eq!(sorted(values(&service.ok(&bounded))), [2, 3, 4]);
    let unknown = failed(&run(&service.url, &["consume", "t", "--partition", "3"]));
    assert_eq!(
        unknown,
        "quipu: topic t has no partition 3; its partitions are 0 to 2\n"
    );

    // What was printed can be produced again.
    service.ok(&["topic", "create", "copy", "--partitions", "3"]);
    assert_eq!(service.produce(&["copy"], &text).status.code(), Some(0));
    assert_eq!(service.ok(&["consume", "copy"]), text);
}

#[test]
fn raw_lines_and_keys_come_back_as_they_were() {
    let service = Service::start();
    service.ok(&["topic", "create", "t"]);
    let output = service.produce(&["t", "--raw"], "{\"n\": 1.50}\nplain text\nnull\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = service.ok(&["consume", "t"]);
    assert!(text.contains("\"value\":{\"n\": 1.50}"), "{text}");
    assert!(text.contains("\"value_base64\":\"cGxhaW4gdGV4dA==\""), "{text}");
    assert!(text.contains("\"value_base64\":\"bnVsbA==\""), "{text}");

    let output = service.produce(
        &["t", "--key-field", "/value/aircraft"],
        "{\"value\":{\"aircraft\":\"N1\"}}\n",
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(service.ok(&["consume", "t", "--key", "N1"]).lines().count(), 1);
}

#[test]
fn compressed_files_are_produced_and_a_bad_line_is_found_in_them() {
    let service = Service::start();
    service.ok(&["topic", "create", "t", "--partitions", "2"]);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("records.ndjson.gz");
    let mut gzip =
        flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
    for n in 0..25_000 {
        if n == 20_123 {
            gzip.write_all(b"\n{\"vaule\":1}\n").unwrap();
        }
        gzip.write_all(ten(n).as_bytes()).unwrap();
    }
    gzip.finish().unwrap();
    let text = failed(&run(&service.url, &["produce", "t", path.to_str().unwrap()]));
    assert!(
        text.starts_with(&format!(
            "quipu: line 20125 of {}: invalid-request: ",
            path.display()
        )),
        "{text}"
    );
    let hint = "; 20123 records were stored; once it is mended, the same command goes on there\n";
    assert!(text.ends_with(hint), "{text}");
    assert_eq!(service.ok(&["consume", "t"]).lines().count(), 20_123);

    let text = failed(&run(&service.url, &["produce", "t", "no-such-file"]));
    assert!(text.starts_with("quipu: cannot open no-such-file: "), "{text}");
}

#[test]
fn a_bad_line_early_in_a_large_request_is_still_named() {
    let service = Service::start();
    service.ok(&["topic", "create", "t"]);
    let lines = format!("{}nonsense\n{}", ten(0), ten(1).repeat(400_000));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, lines).unwrap();
    let text = failed(&run(&service.url, &["produce", "t", path.to_str().unwrap()]));
    assert!(
        text.starts_with(&format!("quipu: line 2 of {}: invalid-request", path.display())),
        "{text}"
    );
    let hint = "; 1 record was stored; once it is mended, the same command goes on there\n";
    assert!(text.ends_with(hint), "{text}");
}

#[test]
fn a_pipe_that_stays_open_is_sent_as_it_comes() {
    let service = Service::start();
    service.ok(&["topic", "create", "t"]);
    let mut consumer = service.spawn(&["consume", "t", "--follow"]);
    let mut printed = BufReader::new(consumer.stdout.take().unwrap());
    let mut producer = service.spawn(&["produce", "t", "--output", "json"]);
    let mut input = producer.stdin.take().unwrap();
    for n in 0..3 {
        input.write_all(ten(n).as_bytes()).unwrap();
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        assert_eq!(values(&line), [u64::from(n)]);
    }
    // Ctrl-C at an idle pipe: everything it gave is stored.
    interrupt(&producer);
    let output = producer.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("\"records\":3"));

    interrupt(&consumer);
    let output = consumer.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    drop(input);
}

#[test]
fn a_group_goes_on_where_it_stopped() {
    let service = Service::with_ten("3");
    let first = values(&service.ok(&["consume", "t", "--group", "g", "--max", "4"]));
    let second = values(&service.ok(&["consume", "t", "--group", "g", "--max", "3"]));
    let third = values(&service.ok(&["consume", "t", "--group", "g"]));
    assert_eq!((first.len(), second.len(), third.len()), (4, 3, 3));
    assert_eq!(
        sorted([first, second, third].concat()),
        (0..10).collect::<Vec<_>>()
    );
    assert_eq!(service.ok(&["consume", "t", "--group", "g"]), "");

    let lag = service.json(&["lag", "g"]);
    assert_eq!(lag["lag"], 0);
    service.produce(&["t"], &ten(10));
    assert_eq!(service.json(&["lag"])["groups"][0]["lag"], 1);
    assert!(service.ok(&["lag", "g"]).contains("group g: 1 record behind"));
    assert!(service.ok(&["lag"]).lines().any(|line| line.starts_with("g ")));
    // Where something is committed, --from says nothing.
    assert_eq!(
        values(&service.ok(&["consume", "t", "--group", "g", "--from", "earliest"])),
        [10]
    );
    assert_eq!(
        service.ok(&["consume", "t", "--group", "new", "--from", "latest"]),
        ""
    );
}

#[test]
fn a_group_is_listed_described_reset_and_deleted() {
    let service = Service::with_ten("1");
    service.ok(&["consume", "t", "--group", "g", "--max", "8"]);
    assert_eq!(service.json(&["group", "list"])["groups"][0]["group"], "g");
    assert!(service.ok(&["group", "list"]).contains("empty"));
    assert_eq!(service.json(&["group", "describe", "g"])["state"], "empty");
    assert!(service.ok(&["group", "describe", "g"]).contains("COMMITTED"));

    let reset = |to: &str, more: &[&str]| {
        service.json(&[&["group", "reset", "g", "--topic", "t", "--to", to], more].concat())["offsets"][0]
            .clone()
    };
    let dry = reset("earliest", &["--dry-run"]);
    assert_eq!((&dry["old_offset"], &dry["new_offset"]), (&8.into(), &0.into()));
    assert_eq!(
        reset("shift:-3", &["--partition", "0"])["new_offset"],
        5,
        "the dry run changed nothing"
    );
    assert_eq!(
        values(&service.ok(&["consume", "t", "--group", "g", "--max", "1"])),
        [5]
    );
    assert_eq!(reset("latest", &[])["new_offset"], 10);
    assert_eq!(reset("offset:2", &[])["new_offset"], 2);
    assert_eq!(reset("1970-01-01T00:00:07Z", &[])["new_offset"], 7);
    let text = service.ok(&[
        "group",
        "reset",
        "g",
        "--topic",
        "t",
        "--to",
        "earliest",
        "--dry-run",
    ]);
    assert!(
        text.contains("OLD") && text.contains("nothing was changed"),
        "{text}"
    );

    service.ok(&["group", "delete", "g"]);
    assert!(failed(&run(&service.url, &["group", "describe", "g"])).contains("unknown-group"));
    assert!(failed(&run(&service.url, &["lag", "g"])).contains("unknown-group"));
}

/// What a client that is not the command line sends.
pub(crate) fn post(service: &Service, path: &str, body: &Value) -> Value {
    let mut answer = ureq::post(format!("{}{path}", service.url))
        .send_json(body)
        .unwrap();
    answer.body_mut().read_json().unwrap()
}

#[test]
fn the_members_of_a_group_are_shown_and_what_they_are_in_the_way_of_says_so_in_a_line() {
    let service = Service::with_ten("3");
    let join = json!({"topics": ["t"], "wait_ms": 0, "client_id": "till"});
    post(&service, "/v1/groups/g/members/one/poll", &join);
    let listed = service.ok(&["group", "list"]);
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["g", "stable", "ordered", "1", "10"], "{listed}");
    assert_eq!(service.json(&["group", "list"])["groups"][0]["members"], 1);
    let text = service.ok(&["group", "describe", "g"]);
    assert!(text.starts_with("group g: ordered, stable\n"), "{text}");
    let member = text.lines().find(|line| line.starts_with("one ")).unwrap();
    assert!(member.contains("till") && member.contains("127.0.0.1:"), "{text}");
    assert!(member.contains(" s ago") && member.ends_with("t 0-2"), "{text}");
    assert!(!text.contains("LEASED"), "{text}");

    for args in [
        &["group", "delete", "g"][..],
        &["group", "reset", "g", "--topic", "t", "--to", "latest"],
    ] {
        let text = failed(&run(&service.url, args));
        assert!(
            text.starts_with("quipu: group-active: group g has live members"),
            "{text}"
        );
        assert!(text.contains("quipu group describe g"), "{text}");
    }
    let consumed = run(&service.url, &["consume", "t", "--group", "g"]);
    let text = failed(&consumed);
    assert!(
        text.contains("choose another --group") && text.contains("/v1/groups/g/members/NAME/poll"),
        "{text}"
    );
    assert_eq!(
        stdout(&consumed),
        "",
        "nothing is printed that could not be committed"
    );
    service.ok(&[
        "group",
        "reset",
        "g",
        "--topic",
        "t",
        "--to",
        "latest",
        "--dry-run",
    ]);
}

#[test]
fn a_work_queue_is_described_with_its_settings_and_what_is_leased() {
    let service = Service::with_ten("1");
    let join = json!({"topics": ["t"], "type": "shared", "wait_ms": 0, "max_records": 4, "lease_ms": 60000});
    post(&service, "/v1/groups/q/members/one/poll", &join);
    let text = service.ok(&["group", "describe", "q"]);
    assert!(
        text.starts_with(
            "group q: shared, stable\nleases of 60000 ms, at most 5 deliveries, then to TOPIC.dlq\n"
        ),
        "{text}"
    );
    let member = text.lines().find(|line| line.starts_with("one ")).unwrap();
    assert!(text.contains("LEASED") && member.ends_with(" 4"), "{text}");
    let described = service.json(&["group", "describe", "q"]);
    assert_eq!(described["members"][0]["leased"], 4);
    assert_eq!(described["settings"]["lease_ms"], 60000);
}

#[test]
fn ctrl_c_commits_what_was_printed() {
    let service = Service::with_ten("1");
    let mut consumer = service.spawn(&["consume", "t", "--group", "g", "--follow"]);
    let mut printed = BufReader::new(consumer.stdout.take().unwrap());
    for _ in 0..10 {
        printed.read_line(&mut String::new()).unwrap();
    }
    interrupt(&consumer);
    let output = consumer.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(
        service.json(&["lag", "g"])["topics"][0]["partitions"][0]["committed_offset"],
        10
    );
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let service = Service::with_ten("3");
    // Follows for ever, has nothing more to write, and still learns that nobody reads.
    for args in [
        &["consume", "t", "--follow"][..],
        &["replay", "t", "--from", "0", "--speed", "0.001"],
    ] {
        let mut child = service.spawn(args);
        let mut first = String::new();
        BufReader::with_capacity(1, child.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        assert!(first.starts_with('{'));
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
    for args in [
        &["topic", "list"][..],
        &["topic", "describe", "t", "--output", "json"],
        &["lag"],
    ] {
        let mut child = service.spawn(args);
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn a_tail_with_a_time_as_its_end_stops_there() {
    let service = Service::start();
    service.ok(&["topic", "create", "t"]);
    let tomorrow = |n: u32| ten(n).replace("\"timestamp\":", "\"timestamp\":41024448");
    let first: String = (0..10).map(|n| tomorrow(10 + n)).collect();
    service.produce(&["t"], &first);
    for group in [&[][..], &["--group", "g"]] {
        let until = [
            &["consume", "t", "--follow", "--until", "2100-01-01T00:00:22Z"],
            group,
        ]
        .concat();
        let mut consumer = service.spawn(&until);
        let mut printed = BufReader::new(consumer.stdout.take().unwrap());
        for _ in 0..10 {
            printed.read_line(&mut String::new()).unwrap();
        }
        if group.is_empty() {
            let later: String = (20..25).map(tomorrow).collect();
            service.produce(&["t"], &later);
        }
        let mut rest = String::new();
        printed.read_to_string(&mut rest).unwrap();
        assert_eq!(values(&rest), [20, 21]);
        assert_eq!(consumer.wait().unwrap().code(), Some(0));
    }
    assert_eq!(
        values(&service.ok(&["consume", "t", "--until", "2100-01-01T00:00:22Z"])),
        (10..22).collect::<Vec<_>>(),
        "and as history"
    );
    // A time that has passed waits for nothing.
    let past = ["consume", "t", "--follow", "--until", "2020-01-01"];
    assert_eq!(service.ok(&past), "");
    assert_eq!(service.ok(&[&past[..], &["--group", "h"]].concat()), "");
}

#[test]
fn history_is_replayed_in_the_order_of_time_over_all_partitions() {
    let service = Service::with_ten("3");
    assert_eq!(
        values(&service.ok(&["replay", "t", "--from", "0"])),
        (0..10).collect::<Vec<_>>()
    );
    let part = [
        "replay",
        "t",
        "--from",
        "3000",
        "--until",
        "1970-01-01T00:00:06Z",
        "--speed",
        "1000",
    ];
    assert_eq!(values(&service.ok(&part)), [3, 4, 5]);
    assert_eq!(service.ok(&["replay", "t", "--from", "2013-01-01"]), "");

    let child = service.spawn(&["replay", "t", "--from", "0", "--speed", "0.0001"]);
    let mut child = child;
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    printed.read_line(&mut String::new()).unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn records_that_were_deleted_before_they_were_read_are_announced() {
    let service = Service::with_ten("1");
    service.ok(&["consume", "t", "--group", "g", "--max", "1"]);
    let trim = format!("{}/v1/topics/t/partitions/0/records?before=6", service.url);
    ureq::delete(&trim).call().unwrap();
    let output = run(&service.url, &["consume", "t", "--from", "offset:2"]);
    assert_eq!(values(&stdout(&output)), [6, 7, 8, 9]);
    assert!(
        stderr(&output).contains("offsets 2 to 5 were deleted"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        values(&service.ok(&["consume", "t", "--group", "g"])),
        [6, 7, 8, 9]
    );
}

/// Lines of a command that goes on until it is told to stop.
fn watch(service: &Service, args: &[&str], lines: usize) -> (Vec<String>, Output) {
    let mut child = service.spawn(args);
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let read = (0..lines)
        .map(|_| {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        })
        .collect();
    interrupt(&child);
    (read, child.wait_with_output().unwrap())
}

#[test]
fn lag_watch_goes_on_until_it_is_told_to_stop() {
    let service = Service::with_ten("2");
    service.ok(&["consume", "t", "--group", "g", "--max", "3"]);
    let args = ["lag", "g", "--watch", "--interval", "100ms", "--output", "json"];
    let (lines, output) = watch(&service, &args, 3);
    for line in lines {
        let lag: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&lag["group"], &lag["lag"]), (&"g".into(), &7.into()), "{line}");
    }
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));

    let (lines, output) = watch(
        &service,
        &["lag", "--watch", "--interval", "100ms", "--output", "json"],
        2,
    );
    let all: Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(all["groups"][0]["lag"], 7, "{all}");
    assert_eq!(output.status.code(), Some(0));

    let (lines, output) = watch(&service, &["lag", "g", "--watch", "--interval", "100ms"], 12);
    let text = lines.concat();
    assert!(
        text.starts_with("TOPIC") && text.matches("group g: 7 records behind").count() >= 2,
        "{text}"
    );
    assert!(text.contains('█') && !text.contains('\x1b'), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn lag_watch_ends_when_nobody_reads_it_and_when_there_is_nothing_to_watch() {
    let service = Service::with_ten("1");
    service.ok(&["consume", "t", "--group", "g", "--max", "3"]);
    for args in [
        &["lag", "g", "--watch"][..],
        &["lag", "--watch", "--interval", "1m", "--output", "json"],
    ] {
        let mut child = service.spawn(args);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), &*stderr(&output)),
            (Some(0), ""),
            "{args:?}"
        );
    }
    assert!(failed(&run(&service.url, &["lag", "none", "--watch"])).contains("unknown-group"));
    assert!(failed(&run("http://127.0.0.1:1", &["lag", "--watch"])).contains("cannot reach"));
}
