//! `quipu verify` as an operator runs it: its output and its exit status.

#![allow(clippy::disallowed_methods, reason = "the test damages files on purpose")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use quipu::broker::caller::Caller;
use quipu::broker::limits::Limits;
use quipu::broker::topics::Topics;
use quipu::broker::topics::skips::Gap;
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Log, Offset, Options, Part, Partition, Records, TimestampMs, TopicSettings, TopicSpec,
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

/// The output of `quipu verify`.
struct Printed {
    stdout: String,
    stderr: String,
}

impl Printed {
    fn lines(&self, kind: &str) -> Vec<&str> {
        let lines = self.stdout.lines();
        lines.filter(|line| line.starts_with(kind)).collect()
    }

    #[track_caller]
    fn assert_error(&self, words: &str) {
        assert!(self.stderr.contains(words), "{words} is not in {}", self.stderr);
    }
}

/// Runs `quipu verify`, which must end with this status.
#[track_caller]
fn ends_with(code: i32, dir: Option<&Path>, more: &[&str]) -> Printed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    let output = command.arg("verify").args(dir).args(more).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{more:?}: {output:?}");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed {
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[track_caller]
fn verify(dir: &Path, more: &[&str], code: i32) -> Printed {
    ends_with(code, Some(dir), more)
}

/// The report in JSON.
#[track_caller]
fn report_in(dir: &Path, code: i32) -> serde_json::Value {
    let printed = verify(dir, &["--output", "json"], code);
    serde_json::from_str(&printed.stdout).unwrap()
}

/// Damages a byte at one place of a file.
fn flip_at(file: &Path, place: impl Fn(usize) -> usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = place(bytes.len());
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// Damages the middle of a file.
fn flip(file: &Path) {
    flip_at(file, |length| length / 2);
}

#[test]
fn a_healthy_directory_ends_with_0_and_says_what_was_checked() {
    let (dir, _) = directory();
    let printed = verify(dir.path(), &[], 0).stdout;
    assert!(printed.contains("50 records"), "{printed}");
}

#[test]
fn a_damaged_directory_ends_with_1_and_names_file_position_offsets_and_what_to_do() {
    let (dir, file) = directory();
    flip(&file);
    let bytes = std::fs::read(&file).unwrap();
    let printed = verify(dir.path(), &[], 1);
    let line = printed.lines("damage: ")[0];
    for word in [&*file.display().to_string(), "at byte", "offsets", "what to do"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);

    let report = report_in(dir.path(), 1);
    assert_eq!(report["damaged"], true);
    assert_eq!(report["records"], 49);
    let from = report["findings"][0]["from_offset"].as_u64().unwrap();
    assert_eq!(report["findings"][0]["until_offset"], from + 1);
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was changed");
}

#[test]
fn a_directory_without_quipu_data_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let printed = verify(dir.path(), &[], 1);
    assert_eq!(printed.stderr.lines().count(), 1, "{}", printed.stderr);
    printed.assert_error("not a quipu data directory");
    ends_with(2, None, &[]);
}

#[test]
fn an_index_that_is_not_the_logs_is_a_fault_that_repair_mends_once() {
    let (dir, file) = directory();
    flip(&file.with_extension("index"));
    std::fs::write(dir.path().join("FORMAT"), b"").unwrap();
    let printed = verify(dir.path(), &[], 1);
    assert_eq!(printed.lines("fault: ").len(), 2, "{}", printed.stdout);
    printed.assert_error("nothing is lost; nothing was changed");

    let printed = verify(dir.path(), &["--repair"], 0);
    let repaired = printed.lines("repaired: ");
    assert_eq!(repaired.len(), 2, "{repaired:?}");
    assert!(repaired[0].contains("FORMAT.damaged"), "{repaired:?}");
    let printed = verify(dir.path(), &["--repair"], 0).stdout;
    assert!(!printed.contains("repaired"), "{printed}");
    verify(dir.path(), &[], 0);
}

#[test]
fn records_are_given_up_only_where_they_are_named_and_damaged() {
    let (dir, file) = directory();
    flip(&file);
    let damaged = std::fs::read(&file).unwrap();
    // A repair without `--skip` gives nothing up.
    let printed = verify(dir.path(), &["--repair"], 1).stdout;
    let (_, command) = printed
        .split_once("quipu verify DIR --repair --skip ")
        .expect("the command that gives it up");
    let skip = command.lines().next().unwrap().trim();
    assert!(skip.starts_with("orders/0:"), "{skip}");

    for wrong in "orders:1-2 orders/0:2-2 orders/x:1-2 /0:1-2 orders/0:1".split(' ') {
        verify(dir.path(), &["--repair", "--skip", wrong], 2);
    }
    // `--skip` is part of `--repair`.
    verify(dir.path(), &["--skip", skip], 2);
    for (other, why) in [
        ("orders/0:0-1", "only damaged offsets"),
        ("orders/7:0-1", "no partition 7"),
        ("none/0:0-1", "no topic none"),
    ] {
        verify(dir.path(), &["--repair", "--skip", other], 1).assert_error(why);
    }

    for _ in 0..2 {
        let printed = verify(dir.path(), &["--repair", "--skip", skip], 0).stdout;
        assert!(printed.contains("skipped: orders/0"), "{printed}");
    }
    let kept = std::fs::read(&file).unwrap();
    assert_eq!(kept, damaged, "the evidence stays where it is");
    let log = Log::open(dir.path(), Options::default()).unwrap();
    assert_eq!(log.state_prefix(b"d").len(), 1);
}

/// Opens the log of a directory and changes its skips; returns a copy as a kill would leave it, and then closes the log.
fn change_skips(dir: &Path, change: impl FnOnce(&Topics, &Arc<Partition>)) -> tempfile::TempDir {
    let log = Log::open(dir, options()).unwrap();
    let partition = log.topic("orders").unwrap().partition(0).unwrap();
    change(&topics(&log), &partition);
    // After a kill, only the journal has the change.
    let killed = copied(dir);
    log.close().unwrap();
    killed
}

/// Copies a data directory as it would be after a kill of the process that has it open.
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

#[test]
fn what_was_skipped_on_purpose_is_a_note_and_hides_no_other_damage() {
    let (dir, file) = directory();
    flip(&file);
    let report = report_in(dir.path(), 1);
    assert_eq!(report["findings"][0]["skipped"], false);
    let offset = |name: &str| Offset::new(report["findings"][0][name].as_u64().unwrap());
    let range = Gap {
        from: offset("from_offset"),
        until: offset("until_offset"),
    };

    let killed = change_skips(dir.path(), |topics, partition| {
        topics
            .skip(&Caller::default(), partition, range, TimestampMs(1))
            .unwrap();
    });
    for dir in [killed.path(), dir.path()] {
        for more in [&[][..], &["--repair"]] {
            let printed = verify(dir, more, 0);
            assert!(printed.lines("damage: ").is_empty(), "{}", printed.stdout);
            let mut notes = printed.lines("note: ").into_iter();
            let is_said = notes.any(|line| line.contains("skipped on purpose"));
            assert!(is_said, "{}", printed.stdout);
        }
        let report = report_in(dir, 0);
        assert_eq!(report["damaged"], false);
        // The report does not say that it is whole.
        assert_eq!(report["findings"][0]["damage"], true, "{report}");
        assert_eq!(report["findings"][0]["skipped"], true);
    }

    // Damage at another place of the file.
    flip_at(&file, |length| length / 4);
    let printed = verify(dir.path(), &[], 1);
    let count = |kind| printed.lines(kind).len();
    assert_eq!((count("damage: "), count("note: ")), (1, 1), "{}", printed.stdout);
    printed.assert_error("damaged in 1 place");

    // When the skip is taken back, the range counts as damage again.
    let killed = change_skips(dir.path(), |topics, partition| {
        topics
            .take_back(&Caller::default(), partition.id(), range, TimestampMs(1))
            .unwrap();
    });
    for dir in [killed.path(), dir.path()] {
        assert_eq!(verify(dir, &[], 1).lines("damage: ").len(), 2);
    }
}
