//! `quipu verify` as an operator runs it: what it prints, and how it ends.

#![allow(clippy::disallowed_methods, reason = "the test damages files on purpose")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quipu::broker::limits::Limits;
use quipu::broker::topics::Topics;
use quipu::broker::topics::skips::Gap;
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Log, Offset, Options, Part, Records, TimestampMs, TopicSettings, TopicSpec,
};

fn topics(log: &Log) -> Topics {
    Topics::new(log.clone(), &Limits::default())
}

fn options() -> Options {
    Options {
        journal_file_bytes: 4 << 20,
        max_request_bytes: 1 << 20,
        ..Options::default()
    }
}

/// A closed data directory with 50 records, and its one log file.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    let spec = TopicSpec::new(1, TopicSettings::default());
    let partition = log.create_topic("orders", spec).unwrap().partition(0).unwrap();
    for number in 0..50 {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(number), None, Some(b"a value of some length"), &[]);
        let records = Records::Loose(builder);
        let part = Part::new(partition.clone(), records);
        log.append(AppendRequest::of(vec![part])).unwrap().wait().unwrap();
    }
    log.close().unwrap();
    let file = dir.path().join("topics/orders/0/00000000000000000000.log");
    (dir, file)
}

fn verify(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quipu"))
        .arg("verify")
        .arg(dir)
        .args(more)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_healthy_directory_ends_with_0_and_says_what_was_checked() {
    let (dir, _) = directory();
    let output = verify(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("50 records"), "{output:?}");
}

#[test]
fn a_damaged_directory_ends_with_1_and_names_file_position_offsets_and_what_to_do() {
    let (dir, file) = directory();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let output = verify(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stdout);
    let line = printed
        .lines()
        .find(|line| line.starts_with("damage: "))
        .expect("a line for the damage");
    for word in [&*file.display().to_string(), "at byte", "offsets", "what to do"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");

    let output = verify(dir.path(), &["--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["damaged"], true);
    assert_eq!(report["records"], 49);
    let from = report["findings"][0]["from_offset"].as_u64().unwrap();
    assert_eq!(report["findings"][0]["until_offset"], from + 1);
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was changed");
}

#[test]
fn what_is_no_data_directory_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let output = verify(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
    assert!(
        text(&output.stderr).contains("not a quipu data directory"),
        "{output:?}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_quipu"))
        .arg("verify")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn an_index_that_is_not_the_logs_is_a_fault_that_repair_mends_once() {
    let (dir, file) = directory();
    flip(&file.with_extension("index"));
    std::fs::write(dir.path().join("FORMAT"), b"").unwrap();
    let output = verify(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stdout);
    assert_eq!(
        printed.lines().filter(|line| line.starts_with("fault: ")).count(),
        2,
        "{printed}"
    );
    assert!(
        text(&output.stderr).contains("nothing is lost; nothing was changed"),
        "{output:?}"
    );

    let output = verify(dir.path(), &["--repair"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    let repaired: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("repaired: "))
        .collect();
    assert!(
        repaired.len() == 2 && repaired[0].contains("FORMAT.damaged"),
        "{printed}"
    );
    let output = verify(dir.path(), &["--repair"]);
    assert!(!text(&output.stdout).contains("repaired"), "{output:?}");
    assert_eq!(verify(dir.path(), &[]).status.code(), Some(0));
}

#[test]
fn records_are_given_up_only_where_they_are_named_and_damaged() {
    let (dir, file) = directory();
    flip(&file);
    let damaged = std::fs::read(&file).unwrap();
    let output = verify(dir.path(), &["--repair"]);
    assert_eq!(output.status.code(), Some(1), "nothing was given up: {output:?}");
    let printed = text(&output.stdout);
    let (_, command) = printed
        .split_once("quipu verify DIR --repair --skip ")
        .expect("the command that gives it up");
    let skip = command.lines().next().unwrap().trim();
    assert!(skip.starts_with("orders/0:"), "{skip}");

    for wrong in [
        "orders:1-2",
        "orders/0:2-2",
        "orders/x:1-2",
        "/0:1-2",
        "orders/0:1",
    ] {
        let output = verify(dir.path(), &["--repair", "--skip", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
    }
    let output = verify(dir.path(), &["--skip", skip]);
    assert_eq!(
        output.status.code(),
        Some(2),
        "--skip is part of --repair: {output:?}"
    );
    for (other, why) in [
        ("orders/0:0-1", "only damaged offsets"),
        ("orders/7:0-1", "no partition 7"),
        ("none/0:0-1", "no topic none"),
    ] {
        let output = verify(dir.path(), &["--repair", "--skip", other]);
        assert_eq!(output.status.code(), Some(1), "{other}");
        assert!(text(&output.stderr).contains(why), "{output:?}");
    }

    for _ in 0..2 {
        let output = verify(dir.path(), &["--repair", "--skip", skip]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stdout).contains("skipped: orders/0"), "{output:?}");
    }
    assert_eq!(
        std::fs::read(&file).unwrap(),
        damaged,
        "the evidence stays where it is"
    );
    let log = Log::open(dir.path(), Options::default()).unwrap();
    assert_eq!(log.state_prefix(b"d").len(), 1);
}

/// Copies a data directory, as a kill of whoever has it open would leave it.
fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = Command::new("cp")
        .args(["-r", "--"])
        .arg(from.join("."))
        .arg(to.path())
        .status();
    assert!(status.unwrap().success());
    to
}

fn lines<'a>(printed: &'a str, kind: &str) -> Vec<&'a str> {
    printed.lines().filter(|line| line.starts_with(kind)).collect()
}

#[test]
fn what_was_skipped_on_purpose_is_a_note_and_hides_no_other_damage() {
    let (dir, file) = directory();
    flip(&file);
    let output = verify(dir.path(), &["--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["findings"][0]["skipped"], false);
    let offset = |name: &str| Offset::new(report["findings"][0][name].as_u64().unwrap());
    let range = Gap {
        from: offset("from_offset"),
        until: offset("until_offset"),
    };

    let log = Log::open(dir.path(), options()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    topics(&log).skip(&partition, range, TimestampMs(1)).unwrap();
    // Of a process that was killed, only the journal has it.
    let killed = copied(dir.path());
    log.close().unwrap();
    drop((log, partition));
    for dir in [killed.path(), dir.path()] {
        for more in [&[][..], &["--repair"]] {
            let output = verify(dir, more);
            assert_eq!(output.status.code(), Some(0), "{more:?}: {output:?}");
            let printed = text(&output.stdout);
            let notes = lines(&printed, "note: ");
            assert!(
                lines(&printed, "damage: ").is_empty()
                    && notes.iter().any(|line| line.contains("skipped on purpose")),
                "{printed}"
            );
        }
        let output = verify(dir, &["--output", "json"]);
        assert_eq!(output.status.code(), Some(0));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["damaged"], false);
        assert_eq!(
            report["findings"][0]["damage"], true,
            "it is not said to be whole: {report}"
        );
        assert_eq!(report["findings"][0]["skipped"], true);
    }

    // Somewhere else in the file.
    let mut bytes = std::fs::read(&file).unwrap();
    let place = bytes.len() / 4;
    bytes[place] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = verify(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stdout);
    assert_eq!(
        (lines(&printed, "damage: ").len(), lines(&printed, "note: ").len()),
        (1, 1),
        "{printed}"
    );
    assert!(text(&output.stderr).contains("damaged in 1 place"), "{output:?}");

    // Taken back, it is damage again.
    let log = Log::open(dir.path(), options()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    topics(&log)
        .take_back(partition.id(), range, TimestampMs(1))
        .unwrap();
    let killed = copied(dir.path());
    log.close().unwrap();
    drop((log, partition));
    for dir in [killed.path(), dir.path()] {
        let output = verify(dir, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(lines(&text(&output.stdout), "damage: ").len(), 2, "{output:?}");
    }
}
