//! Rounds on one data directory: load, an end by kill or fault, a restart, a check.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::check;
use crate::ground::{Ground, HAS_STRACE, Injection, verify};
use crate::history::History;
use crate::load::{self, Role, Round, TOPICS};
use crate::support::{PATIENCE, Rng, Server};
use crate::topics;

/// Rounds that `cargo test` runs.
const SHORT_ROUNDS: u64 = 8;
const RETENTION_BYTES: [u64; 2] = [2 << 20, 6 << 20];

/// The targets: a thread (`None`: any thread, from the start on; else one of a running server), its calls, and the
/// highest number of the call to hit.
const AIMS: [(Option<&str>, &str, u64); 18] = [
    (None, "rename,renameat,renameat2", 12),
    (None, "unlink,unlinkat", 20),
    (None, "mkdir,mkdirat", 10),
    (None, "rmdir", 4),
    (None, "fdatasync", 25),
    (None, "fsync", 12),
    (None, "pwritev,pwritev2,pwrite64", 40),
    (None, "ftruncate,fallocate", 3),
    (None, "openat", 60),
    (Some(COMMITTER), "fdatasync", 200),
    (Some(COMMITTER), "pwritev,pwritev2,pwrite64", 400),
    (Some(COMMITTER), "openat", 30),
    (Some(SYNCER), "fdatasync", 80),
    (Some(SYNCER), "fsync", 30),
    (Some(SYNCER), "pwritev,pwritev2,pwrite64", 60),
    (Some(SYNCER), "rename,renameat,renameat2", 8),
    (Some(SYNCER), "unlink,unlinkat", 30),
    (Some(SYNCER), "openat", 40),
];
const COMMITTER: &str = "quipu-committer";
const SYNCER: &str = "quipu-syncer";

/// How a round ends.
#[derive(Clone, Debug)]
enum End {
    /// A kill from outside.
    Kill,
    /// A kill at a call: of any thread from the start on, or of one thread of a running server.
    KillAt(Injection, Option<&'static str>),
    /// A call fails, and some time later the server is killed or stopped.
    Fault(Injection, Option<&'static str>),
}

#[test]
fn what_was_acknowledged_or_read_survives_kills_at_any_moment_and_calls_that_fail() {
    let mut rng = Rng::from_environment("torture");
    let ground = Ground::new();
    let data = ground.data();
    let history = History::default();
    let rows = TOPICS.map(str::to_owned).into_iter().zip(RETENTION_BYTES);
    let retention = rows.collect();
    let server = ground.start(&data);
    topics::begin(&server, &history, RETENTION_BYTES);
    server.stop();

    let (rounds, limit) = how_long();
    let started = Instant::now();
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    let mut round = 0;
    while limit.map_or(round < rounds, |limit| started.elapsed() < limit) {
        let end = choose(&mut rng);
        // Printed first, so that a failing round shows it.
        println!("round {round}, {} s: {end:?}", started.elapsed().as_secs());
        let hit = run(&ground, &data, &history, &end, &mut rng);
        *hits.entry(hit).or_default() += 1;
        if rng.below(4) == 0 {
            verify(&data);
        }
        // Retention does nothing during the check.
        let server = ground.start(&data);
        check::restarted(&server, &data, &history, &retention);
        kill_or_stop(server, &mut rng);
        round += 1;
    }
    // A random round may end before a Kafka producer has an answer. These two do not: the kill leaves batches without
    // one, and they get it when they are sent again.
    let mut server = ground.start(&data);
    let (answered, again) = (&history.counts.numbered_batches, &history.counts.numbered_again);
    run_numbered(&mut server, &history, &mut rng, answered, |server, _| {
        server.kill_now()
    });
    server.kill();
    let mut server = ground.start(&data);
    check::restarted(&server, &data, &history, &retention);
    run_numbered(&mut server, &history, &mut rng, again, |_, stop| {
        stop.store(true, Ordering::Relaxed);
    });
    server.stop();
    let server = ground.start(&data);
    check::restarted(&server, &data, &history, &retention);
    server.stop();
    verify(&data);

    let counts = &history.counts;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!("{round} rounds in {} s", started.elapsed().as_secs());
    for (hit, times) in hits {
        println!("  {times:5} × {hit}");
    }
    println!(
        "{} requests with {} records acknowledged, {} refused, {} in doubt and retried, {} repeated, {} batches of Kafka's producers, of which {} again, {} records fetched under load, {} read after restarts, {} commits, {} topics made, {} deleted",
        count(&counts.acknowledged_requests),
        count(&counts.acknowledged_records),
        count(&counts.refused_requests),
        count(&counts.retried_requests),
        count(&counts.repeated_requests),
        count(&counts.numbered_batches),
        count(&counts.numbered_again),
        count(&counts.fetched_records),
        count(&counts.checked_records),
        count(&counts.commits),
        count(&counts.topics_made),
        count(&counts.topics_deleted),
    );
    assert!(count(&counts.acknowledged_records) > 0, "nothing was tested");
}

/// Whether the caller asked for more rounds than `cargo test` runs.
pub fn is_long() -> bool {
    let names = ["QUIPU_TEST_ROUNDS", "QUIPU_TEST_MINUTES"];
    names.iter().any(|name| std::env::var_os(name).is_some())
}

fn how_long() -> (u64, Option<Duration>) {
    let number = |name: &str| {
        let number = std::env::var(name).ok()?.parse::<u64>();
        Some(number.unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let limit = number("QUIPU_TEST_MINUTES").map(|minutes| Duration::from_secs(minutes * 60));
    (number("QUIPU_TEST_ROUNDS").unwrap_or(SHORT_ROUNDS), limit)
}

fn choose(rng: &mut Rng) -> End {
    let kind = rng.below(10);
    if kind < 2 || !*HAS_STRACE {
        return End::Kill;
    }
    let (thread, calls, last) = AIMS[rng.below(AIMS.len() as u64) as usize];
    let when = 1 + rng.below(last);
    if kind < 7 {
        return End::KillAt(Injection::new(calls, "signal=KILL", when.to_string()), thread);
    }
    let error = ["error=EIO", "error=ENOSPC"][rng.below(2) as usize];
    // The call fails once, or from then on. If all `openat` failed, no segment could be opened for reading.
    let may_last = thread.is_some() || calls != "openat";
    let when = format!("{when}{}", if rng.below(3) == 0 && may_last { "+" } else { "" });
    End::Fault(Injection::new(calls, error, when), thread)
}

/// Runs the load until the server is gone; returns how the round ended.
fn run(ground: &Ground, data: &Path, history: &History, end: &End, rng: &mut Rng) -> String {
    let (injection, thread) = match end {
        End::Kill => (None, None),
        End::KillAt(injection, thread) | End::Fault(injection, thread) => (Some(injection), *thread),
    };
    let faults = matches!(end, End::Fault(..));
    let started = ground.try_start(data, injection.filter(|_| thread.is_none()));
    let mut server = match started {
        Ok(server) => server,
        // Killed, or ended by a failing disk: a failed start must lose nothing.
        Err(log) if injection.is_some() => {
            assert!(!log.contains("panicked"), "{log}");
            return hit("at the start: ", ground);
        }
        Err(log) => panic!("no start; the log says:\n{log}"),
    };
    let rows = injection.zip(thread);
    let _tracer = rows.map(|(injection, thread)| ground.attach(&server, Some(thread), injection));
    let stop = AtomicBool::new(false);
    let trouble: &[&str] = if faults {
        &["log-failed", "storage-full", "internal"]
    } else {
        &[]
    };
    let round = Round {
        address: server.address,
        kafka: server.kafka.expect("it listens for Kafka's clients"),
        history,
        stop: &stop,
        trouble,
    };
    // If an aimed kill does not happen, the server is killed from outside in the end.
    let most = if is_long() { 1000 } else { 400 };
    let mut left = injection.map_or_else(|| 1 + rng.below(most), |_| most);
    let mut is_hit = false;
    let failures = load::run_all(&round, rng, |received, rng| {
        while left > 0 {
            match received.recv_timeout(PATIENCE) {
                Ok(Role::Fetching) => {}
                Ok(_) => left -= 1,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no answers; the log says:\n{}", server.log()),
            }
            // After a fault the load goes on for a little.
            if faults && !is_hit && left % 16 == 0 && !ground.injected().is_empty() {
                is_hit = true;
                left = left.min(160);
            }
        }
        if faults {
            stop.store(true, Ordering::Relaxed);
        } else {
            // So that the kill is not in step with the answers.
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
            server.kill_now();
        }
    });
    load::assert_none(&failures, &server);
    if !faults {
        return injection.map_or("kill -9 from outside".into(), |_| hit("", ground));
    }
    let log = server.log();
    let goes_on = server.has_ended().is_none();
    assert!(goes_on, "a failed call ended the server; the log says:\n{log}");
    check::reads_go_on(&server, history);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    let hit = hit("", ground);
    if rng.below(2) == 0 {
        server.kill();
    } else {
        server.terminate();
    }
    hit
}

/// Runs the Kafka producers alone until this counter of theirs has grown, and then `end`, which makes them end.
fn run_numbered(
    server: &mut Server,
    history: &History,
    rng: &mut Rng,
    counter: &AtomicU64,
    end: impl FnOnce(&mut Server, &AtomicBool),
) {
    let stop = AtomicBool::new(false);
    let round = Round {
        address: server.address,
        kafka: server.kafka.expect("it listens for Kafka's clients"),
        history,
        stop: &stop,
        trouble: &[],
    };
    let is_numbered = |role| role == Role::Numbered;
    let before = counter.load(Ordering::Relaxed);
    let has_grown = || counter.load(Ordering::Relaxed) > before;
    let failures = load::run_some(&round, rng, is_numbered, |received, _| {
        while !has_grown() && received.recv_timeout(PATIENCE).is_ok() {}
        end(server, &stop);
    });
    load::assert_none(&failures, server);
    assert!(
        has_grown(),
        "no Kafka producer is answered; the log says:\n{}",
        server.log()
    );
}

/// Ends a server in one of two ways.
pub fn kill_or_stop(server: Server, rng: &mut Rng) {
    match rng.below(2) {
        0 => server.kill(),
        _ => server.stop(),
    }
}

/// The call that was hit, and the kind of file.
fn hit(before: &str, ground: &Ground) -> String {
    let injected = ground.injected();
    let Some(line) = injected.first() else {
        return "kill -9 from outside, before what was aimed at".into();
    };
    let rows = line.split(|c: char| !(c.is_ascii_alphanumeric() || ".-_".contains(c)));
    let words: Vec<&str> = rows.collect();
    let call = line.split_whitespace().find_map(|word| word.split_once('('));
    let call = call.map_or(line.as_str(), |(call, _)| call);
    let kinds = [
        (".journal", "journal"),
        (".timeindex", "timeindex"),
        (".index", "index"),
        (".log", "segment"),
        ("checkpoint.", "checkpoint"),
        ("state.", "state"),
        ("topic.new", "topic.json"),
        ("topic.json", "topic.json"),
        ("deleted", "deleted topic"),
        ("staging", "staged topic"),
        ("FORMAT", "FORMAT"),
        ("topics", "directory"),
        ("journal", "directory"),
        ("data", "directory"),
    ];
    let mut rows = kinds.iter();
    let kind = rows.find(|(part, _)| words.iter().any(|word| word.contains(part)));
    let kind = kind.map_or("something else", |(_, kind)| kind);
    let mut errors = [" EIO", " ENOSPC"].into_iter();
    let error = errors.find(|error| line.contains(error.trim_start()));
    format!("{before}{call} of {kind}{}", error.unwrap_or_default())
}

/// Kills a server with `kill -9`, without consuming it.
trait KillNow {
    fn kill_now(&mut self);
}

impl KillNow for Server {
    fn kill_now(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a process");
        // The aimed kill may have ended it already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
