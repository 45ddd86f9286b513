//! `quipu export` and `quipu import`: topics with their groups, from one server to another.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Ended;
use crate::service::Service;
use crate::support::PATIENCE;

/// Records of every kind in two topics, of which one begins behind 0; two groups.
fn source() -> Service {
    let service = Service::start();
    service.ok(
        "topic create orders --partitions 3 --config max_record_bytes=2000 --config retention_bytes=1GiB",
    );
    service.ok("topic create stamped --config timestamp_type=log_append_time");
    let mut input = String::new();
    for n in 0..300 {
        let partition = n % 3;
        input += &match n % 5 {
            0 => format!(
                "{{\"partition\":{partition},\"timestamp\":{n},\"key\":\"k{n}\",\"value\":{{\"n\":  {n}.0}}}}\n"
            ),
            1 => format!("{{\"partition\":{partition},\"timestamp\":{n},\"key\":\"k{n}\",\"value\":null}}\n"),
            2 => format!("{{\"partition\":{partition},\"timestamp\":{n},\"value_base64\":\"AP9A\"}}\n"),
            3 => format!(
                "{{\"partition\":{partition},\"timestamp\":{n},\"value\":\"é{n}\",\"headers\":{{\"a\":[\"1\",{{\"base64\":\"/w==\"}}]}}}}\n"
            ),
            _ => format!(
                "{{\"partition\":{partition},\"timestamp\":{n},\"value\":12345678901234567890.{n}}}\n"
            ),
        };
    }
    service.produce("orders", &input);
    service.produce(
        "stamped",
        "{\"timestamp\":5,\"value\":1}\n{\"timestamp\":6,\"value\":2}\n",
    );
    service.ok("topic trim orders --partition 1 --before offset:40 --yes");
    let offsets = [
        json!({"topic": "orders", "partition": 0, "offset": 30}),
        json!({"topic": "orders", "partition": 1, "offset": 90, "metadata": "m"}),
    ];
    commit(&service, "billing", &offsets);
    commit(
        &service,
        "audit",
        &[json!({"topic": "stamped", "partition": 0, "offset": 1})],
    );
    service
}

fn commit(service: &Service, group: &str, offsets: &[Value]) {
    let lines: String = offsets.iter().fold(String::new(), |all, row| {
        all + &format!(
            "{} {} {}\n",
            row["topic"].as_str().unwrap(),
            row["partition"],
            row["offset"]
        )
    });
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("offsets");
    fs::write(&path, lines).unwrap();
    service.ok(&format!("group seek {group} --to-file {}", path.display()));
}

pub(crate) fn export(service: &Service, dir: &Path, options: &str) -> PathBuf {
    let path = dir.join("export.ndjson");
    fs::write(&path, service.ok(&format!("export {options}"))).unwrap();
    path
}

pub(crate) fn import(service: &Service, path: &Path) -> Ended {
    service.run(&format!("import {} --output json", path.display()))
}

pub(crate) fn imported(service: &Service, path: &Path) -> Value {
    serde_json::from_str(&import(service, path).ok()).unwrap()
}

/// The records of a partition, without their offsets.
fn records(service: &Service, topic: &str, partition: u32) -> Vec<String> {
    let text = service.ok(&format!("consume {topic} --partition {partition}"));
    let lines = text.lines().map(|line| {
        let (start, rest) = line.split_once("\"offset\":").unwrap();
        let (_, rest) = rest.split_once(',').unwrap();
        format!("{start}{rest}")
    });
    lines.collect()
}

fn offsets(service: &Service, group: &str) -> Vec<Value> {
    let found = service.json(&format!("lag {group}"));
    let rows = found["topics"].as_array().cloned().unwrap_or_default();
    let partitions = rows.iter().flat_map(|topic| {
        let name = topic["topic"].clone();
        let rows = topic["partitions"].as_array().cloned().unwrap_or_default();
        let committed = rows.into_iter().filter(|row| !row["last_commit"].is_null());
        committed.map(move |row| json!([name, row["partition"], row["committed_offset"]]))
    });
    partitions.collect()
}

fn config(service: &Service, topic: &str) -> Value {
    let mut config = service.json(&format!("topic describe {topic}"))["config"].clone();
    config
        .as_object_mut()
        .unwrap()
        .retain(|_, setting| setting["source"] == "topic");
    config
}

#[test]
fn what_was_exported_is_on_the_other_server_in_its_partitions_with_its_settings_and_groups() {
    let (from, to, dir) = (source(), Service::start(), TempDir::new().unwrap());
    let path = export(&from, dir.path(), "");
    let answer = imported(&to, &path);
    assert_eq!(
        answer,
        json!({"topics": 2, "groups": 2, "records": 262, "already_there": 0})
    );
    for partition in 0..3 {
        let expected = records(&from, "orders", partition);
        assert_eq!(expected.len(), if partition == 1 { 60 } else { 100 });
        assert_eq!(records(&to, "orders", partition), expected);
    }
    // With their own times, although the topic gives new ones the server's.
    assert_eq!(records(&to, "stamped", 0), records(&from, "stamped", 0));
    for topic in ["orders", "stamped"] {
        assert_eq!(config(&to, topic), config(&from, topic));
    }
    // Offsets are those of the same records: partition 1 began at 40.
    assert_eq!(
        offsets(&to, "billing"),
        [json!(["orders", 0, 30]), json!(["orders", 1, 50])]
    );
    assert_eq!(offsets(&to, "audit"), [json!(["stamped", 0, 1])]);
}

#[test]
fn an_import_that_is_run_again_stores_nothing_twice_and_leaves_groups_where_they_are() {
    let (from, to, dir) = (source(), Service::start(), TempDir::new().unwrap());
    let path = export(&from, dir.path(), "");
    let whole = fs::read(&path).unwrap();
    // Cut off in the middle of a line.
    let half = dir.path().join("half.ndjson");
    fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    import(&to, &half).fails_with("is not whole");
    let before: usize = (0..3)
        .map(|partition| records(&to, "orders", partition).len())
        .sum();
    assert!(before > 50 && before < 262, "{before}");
    let answer = imported(&to, &path);
    assert_eq!(answer["records"], 262 - before);
    assert_eq!(answer["already_there"], before);
    commit(
        &to,
        "billing",
        &[json!({"topic": "orders", "partition": 0, "offset": 77})],
    );
    let answer = imported(&to, &path);
    assert_eq!(
        (&answer["records"], &answer["already_there"]),
        (&json!(0), &json!(262))
    );
    assert_eq!(
        offsets(&to, "billing"),
        [json!(["orders", 0, 77]), json!(["orders", 1, 50])]
    );
    for partition in 0..3 {
        assert_eq!(
            records(&to, "orders", partition),
            records(&from, "orders", partition)
        );
    }
}

#[test]
fn topics_and_groups_can_be_chosen() {
    let (from, to, dir) = (source(), Service::start(), TempDir::new().unwrap());
    let path = export(&from, dir.path(), "--topics stamped --groups audit");
    assert_eq!(
        imported(&to, &path),
        json!({"topics": 1, "groups": 1, "records": 2, "already_there": 0})
    );
    from.fails(
        "export --topics stamped --groups billing",
        "has committed nothing in these topics",
    );
    from.fails("export --topics missing", "unknown-topic");
    let path = export(&from, dir.path(), "--topics orders --no-groups");
    assert_eq!(
        imported(&to, &path),
        json!({"topics": 1, "groups": 0, "records": 260, "already_there": 0})
    );
}

#[test]
fn records_of_others_are_noticed_and_kept() {
    let (from, dir) = (source(), TempDir::new().unwrap());
    let path = export(&from, dir.path(), "--topics orders");
    for (count, value) in [(1, "other"), (101, "other")] {
        let to = Service::start();
        to.ok("topic create orders --partitions 3");
        let line = format!("{{\"partition\":0,\"value\":\"{value}\"}}\n");
        to.produce("orders", &line.repeat(count));
        let ended = import(&to, &path);
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.err.contains("has records that are not of this file"),
            "{}",
            ended.err
        );
        assert_eq!(records(&to, "orders", 0).len(), count);
    }
    let to = Service::start();
    to.ok("topic create orders --partitions 2");
    import(&to, &path).fails_with("is there with 2 partitions");
}

#[test]
fn an_interrupt_ends_an_import_whose_pipe_is_idle() {
    let to = Service::start();
    let mut import = to.spawn("import");
    let mut pipe = import.child.stdin.take().unwrap();
    let text =
        "{\"export\":1,\"made\":0}\n{\"make_topic\":\"t\",\"partitions\":1,\"config\":{}}\n{\"topic\":";
    pipe.write_all(text.as_bytes()).unwrap();
    // It reads, so it watches for signals.
    let begin = Instant::now();
    while to.ok("topic list").lines().count() < 2 {
        assert!(begin.elapsed() < PATIENCE);
    }
    import.interrupt();
    while import.child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < PATIENCE, "it waits for its pipe");
        std::thread::yield_now();
    }
    import
        .end()
        .fails_as("quipu: standard input: interrupted; run the same command again to go on\n");
    drop(pipe);
}

#[test]
fn what_is_not_an_export_is_refused_with_its_line() {
    let (to, dir) = (Service::start(), TempDir::new().unwrap());
    for (text, part) in [
        ("{\"value\":1}\n", "line 1: it is not of an export"),
        ("{\"export\":2,\"made\":0}\n", "version 2"),
        ("{\"export\":1}\nnot JSON\n", "line 2"),
        (
            "{\"export\":1}\n{\"topic\":\"t\",\"partition\":0,\"offset\":0,\"value\":1}\n",
            "before its topic",
        ),
        (
            "{\"export\":1}\n{\"end\":true,\"records\":7}\n",
            "says that it has 7",
        ),
        ("", "is not whole"),
    ] {
        let path = dir.path().join("file");
        fs::write(&path, text).unwrap();
        import(&to, &path).fails_with(part);
    }
}
