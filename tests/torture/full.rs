//! A disk that is full at the first start, fills up under load, stays full over a restart, and has space again.
//!
//! The disk is a small file system in memory, mounted in this test's own mount namespace: it disappears with the last
//! process in the namespace, however that process ends.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::check;
use crate::ground::{Ground, names, request, until, verify};
use crate::history::{Cuts, History, Sent};
use crate::load::{self, CLIENTS, Round, TOPICS};
use crate::records::{self, Id};
use crate::rounds::{is_long, kill_or_stop};
use crate::support::{Rng, Server, skipped};
use crate::topics;

const INSIDE: &str = "QUIPU_TEST_INSIDE";

#[test]
fn a_full_disk_stops_appends_and_nothing_else_and_they_resume_by_themselves() {
    in_a_name_space("full::inside_a_disk_that_runs_full");
}

#[test]
fn a_full_disk_at_the_first_start_is_said_in_one_line_and_leaves_nothing_half_made() {
    in_a_name_space("full::inside_a_disk_that_is_full_at_first");
}

#[test]
fn a_disk_too_small_for_another_journal_file_still_takes_every_append() {
    in_a_name_space("full::inside_a_disk_too_small_for_another_journal_file");
}

#[test]
fn a_disk_that_is_full_while_the_first_journal_file_is_short_takes_what_needs_no_space() {
    in_a_name_space("full::inside_a_disk_that_is_full_at_once");
}

/// Runs another test of this binary in a namespace where it may mount.
fn in_a_name_space(test: &str) {
    let mut words = vec!["unshare", "--mount", "--propagation", "private"];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    let can_mount = "mount -t tmpfs -o size=64k none /tmp";
    let mut probe = Command::new(words[0]);
    let probe = probe.args(&words[1..]).args(["sh", "-c", can_mount]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skipped(&format!("{test}: no right to mount here, so no disk runs full"));
        return;
    }
    let own = std::env::current_exe().expect("it runs");
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(&words)
        .arg(own)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("unshare was there before");
    assert!(status.success(), "{test}: {status}");
}

/// The place of a test in such a namespace; `None` outside of one.
fn inside() -> Option<Ground> {
    std::env::var_os(INSIDE).map(|_| Ground::new())
}

/// A file system of a size that can be changed.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn new(ground: &Ground, size: &str) -> Self {
        let dir = ground.dir().join(format!("disk-{size}"));
        fs::create_dir(&dir).expect("its name is its own");
        let disk = Self { dir };
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        // The server's own log lies beside the data, and must not fill this disk.
        let log = disk.data().with_extension("log");
        std::os::unix::fs::symlink(ground.dir().join("log"), log).expect("a short name");
        disk
    }

    fn resize(&self, size: &str) {
        self.mount(&["-o", &format!("remount,size={size}")]);
    }

    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).arg(&self.dir).output();
        let output = output.expect("mount is there");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Fills all the space that is left.
    fn fill(&self) {
        let file = File::options().create(true).append(true).open(self.ballast());
        let mut file = file.expect("a name takes no space here");
        for bytes in [1 << 20, 1 << 16, 1 << 12] {
            let block = vec![7; bytes];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).output();
    }
}

#[test]
#[ignore = "run by another test, where it may mount"]
fn inside_a_disk_that_is_full_at_first() {
    let Some(ground) = inside() else { return };
    for size in "4k 32k 128k 256k 320k 1m 4m 4400k 6m 8m".split(' ') {
        let disk = SmallDisk::new(&ground, size);
        let data = disk.data();
        let started = ground.try_start(&data, None);
        let Err(log) = started else {
            println!("{size} are enough to start");
            continue;
        };
        let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[1..], ["ended with exit status: 1"], "{size}: {log}");
        let is_full = lines[0].contains("disk is full") || lines[0].contains("No space left");
        let is_said = is_full && lines[0].contains("the journal needs 12 MiB");
        assert!(is_said, "{size}: {log}");

        disk.resize("32m");
        let server = ground.start(&data);
        server.create_topic("events", 1);
        let record = r#"{"records":[{"value":1}]}"#;
        request(&server, "POST", "/v1/topics/events/records", record).with_status(200);
        server.stop();
        verify(&data);
        // The files that the failed start left are used or removed.
        let expected = "FORMAT LOCK checkpoint.0 checkpoint.1 deleted journal staging state.0 state.1 topics";
        let found: BTreeSet<String> = names(&data).into_iter().collect();
        assert_eq!(found, expected.split(' ').map(str::to_owned).collect(), "{size}");
        let journals = names(&data.join("journal"));
        assert!(journals.len() <= 3, "{size}: {journals:?}");
    }
}

#[test]
#[ignore = "run by another test, where it may mount"]
fn inside_a_disk_too_small_for_another_journal_file() {
    let Some(ground) = inside() else { return };
    // Room for two files and the snapshots' slots; creating the third file is tried again and again.
    let disk = SmallDisk::new(&ground, "11m");
    let server = ground.start(&disk.data());
    server.create_topic("events", 1);
    let body = format!(r#"{{"records":[{{"value":"{}"}}]}}"#, "v".repeat(1000));
    for count in 0..1000 {
        let answer = request(&server, "POST", "/v1/topics/events/records", &body);
        assert_eq!(answer.status, 200, "append {count}: {}", answer.text());
    }
    let log = server.log();
    assert!(log.contains("the journal needs 12 MiB"), "{log}");
    server.stop();
}

#[test]
#[ignore = "run by another test, where it may mount"]
fn inside_a_disk_that_is_full_at_once() {
    let Some(ground) = inside() else { return };
    // Room for two files and the snapshots' slots. The first file has 4 MiB at first.
    let disk = SmallDisk::new(&ground, "20m");
    let data = disk.data();
    let history = History::default();
    let long = ("QUIPU_JOURNAL_FILE_BYTES", "8388608");
    let server = ground.start_with(&data, &[long]);
    for name in ["ballast", "committed"] {
        server.create_topic(name, 1);
        history.exists(name, 1);
    }
    server.stop();
    let mut rng = Rng::from_environment("full at once");
    for round in 0..3 {
        println!("full at once: round {round}");
        let server = ground.start_with(&data, &[long]);
        disk.fill();
        full(&server, &history, 2 * MANY_COMMITS + MANY_COMMITS / 2);
        kill_or_stop(server, &mut rng);
        verify(&data);
    }
}

#[test]
#[ignore = "run by another test, where it may mount"]
fn inside_a_disk_that_runs_full() {
    let Some(ground) = inside() else { return };
    let mut rng = Rng::from_environment("full");
    let disk = SmallDisk::new(&ground, "56m");
    let data = disk.data();
    let history = History::default();
    let server = ground.start(&data);
    let retention = TOPICS.map(|name| (name.to_owned(), 1 << 20)).into();
    topics::begin(&server, &history, [1 << 20; 2]);
    // Topics for the checks of the full disk: one takes the large appends, the other the commits.
    for name in ["ballast", "committed"] {
        server.create_topic(name, 1);
        history.exists(name, 1);
    }
    server.stop();

    for round in 0..if is_long() { 20 } else { 1 } {
        println!("full: round {round}");
        let server = ground.start(&data);
        under_load(&server, &history, &mut rng, &disk);
        disk.fill();
        full(&server, &history, MANY_COMMITS);
        // With space again, appends go on without any other action.
        disk.free();
        resumes(&server, &history);
        check::reads_go_on(&server, &history);

        // The disk stays full over a restart, clean or not.
        disk.fill();
        full(&server, &history, 20);
        kill_or_stop(server, &mut rng);
        verify(&data);
        let server = ground.start(&data);
        // The start may delete old segments.
        until("a full disk is said without an append", || {
            disk.fill();
            is_reported(&server)
        });
        full(&server, &history, MANY_COMMITS);
        check::restarted(&server, &data, &history, &retention);
        server.kill();
        let server = ground.start(&data);
        check::restarted(&server, &data, &history, &retention);
        disk.free();
        resumes(&server, &history);
        server.stop();
        verify(&data);
    }
}

/// Runs all clients at once; meanwhile the disk fills up and has space again, several times.
fn under_load(server: &Server, history: &History, rng: &mut Rng, disk: &SmallDisk) {
    let stop = AtomicBool::new(false);
    let (address, trouble) = (server.address, &["storage-full"]);
    let round = Round {
        address,
        kafka: server.kafka.expect("it listens for Kafka's clients"),
        history,
        stop: &stop,
        trouble,
    };
    let failures = load::run_all(&round, rng, |received, _| {
        for answers in [60, 60, 60] {
            received.iter().take(answers).for_each(drop);
            disk.fill();
            received.iter().take(answers).for_each(drop);
            disk.free();
        }
        stop.store(true, Ordering::Relaxed);
    });
    load::assert_none(&failures, server);
}

/// So many commits fill more than one journal file: files are reused without any free space.
const MANY_COMMITS: u32 = 1200;

/// Checks a full disk: appends are refused with nothing stored, reads and commits go on.
fn full(server: &Server, history: &History, commits: u32) {
    until("a large append is refused", || {
        !append(server, history, "ballast", 900_000)
    });
    check::reads_go_on(server, history);
    let mut connection = server.connect();
    let metadata = "m".repeat(4000);
    let body = format!(
        r#"{{"offsets":[{{"topic":"committed","partition":0,"offset":0,"metadata":"{metadata}"}}]}}"#
    );
    let path = "/v1/groups/steady/offsets";
    for _ in 0..commits {
        let answer = connection.request("PUT", path, "application/json", body.as_bytes());
        let answer = answer.expect("an answer");
        let (text, log) = (answer.text(), server.log());
        assert_eq!(answer.status, 200, "a commit: {text}; the log says:\n{log}");
    }
    // Retention may have made space meanwhile, and the audit log may have used some of it.
    until("a large append is refused, and the disk said to be full", || {
        !append(server, history, "ballast", 900_000) && is_reported(server)
    });
}

/// Whether the server says that its disk is full.
fn is_reported(server: &Server) -> bool {
    let ready = server.connect().get("/health/ready");
    assert_eq!(ready.status, 200);
    ready.text().contains(r#""what":"storage-full""#)
}

/// Appends go on by themselves once there is space.
fn resumes(server: &Server, history: &History) {
    until("an append is taken", || append(server, history, "committed", 10));
    assert!(!is_reported(server), "the disk is still said to be full");
}

/// Appends one record; `false` if it was refused because the disk is full.
fn append(server: &Server, history: &History, topic: &str, padding: usize) -> bool {
    let sent = Sent::new(topic, &[0], Cuts::Whole);
    let id = Id::new(history.send(CLIENTS.len() as u32, sent), 0);
    let body = records::document(&[records::line(id, 0, padding)]);
    let answer = request(server, "POST", &format!("/v1/topics/{topic}/records"), &body);
    if answer.status == 200 {
        let offset = answer.json()["offsets"][0]["offset"].as_u64().expect("an offset");
        history.note(topic, [(0, offset, id)]);
        history.settle(id.request, 1, 1);
        return true;
    }
    answer.refusal(507, "storage-full", "none");
    assert!(answer.header("retry-after").is_some(), "no Retry-After");
    history.settle(id.request, 0, 0);
    false
}
