//! Chosen system calls fail: which requests are refused, what goes on, and what is there after a restart.

use std::path::Path;

use crate::ground::{Ground, HAS_STRACE, Injection, request, until, verify};
use crate::rounds::is_long;
use crate::support::{Answer, Rng, Server, read_partition};

const WRITES: &str = "pwritev,pwritev2,pwrite64";

/// A server with a topic of two partitions with one record each, and another topic, which has nothing to do by itself;
/// `None` if no call can be made to fail here.
fn begin() -> Option<(Ground, Server)> {
    if !*HAS_STRACE {
        return None;
    }
    let ground = Ground::new();
    let server = ground.start(&ground.data());
    server.create_topic("first", 2);
    server.create_topic("second", 1);
    for partition in 0..2 {
        produce(&server, "first", partition, 10).with_status(200);
    }
    // Moves what the audit log has to say of the topics, which the server would do within a second: that sync would meet
    // the fault that is meant for a request.
    server.get("/v1/audit");
    Some((ground, server))
}

/// Ends a test: the server stops, and its directory is in order.
fn finish(ground: &Ground, server: Server) {
    server.stop();
    verify(&ground.data());
}

/// The offset that the next record of the topic's first partition gets.
fn next_offset(server: &Server, topic: &str) -> u64 {
    let answer = produce(server, topic, 0, 10).with_status(200).json();
    answer["offsets"][0]["offset"].as_u64().expect("an offset")
}

fn produce(server: &Server, topic: &str, partition: u32, bytes: usize) -> Answer {
    let value = "v".repeat(bytes);
    let body = format!(r#"{{"records":[{{"partition":{partition},"value":"{value}"}}]}}"#);
    request(server, "POST", &format!("/v1/topics/{topic}/records"), &body)
}

fn commit(server: &Server, offset: u64) -> Answer {
    let body = format!(r#"{{"offsets":[{{"topic":"first","partition":0,"offset":{offset}}}]}}"#);
    request(server, "PUT", "/v1/groups/readers/offsets", &body)
}

fn count(server: &Server, topic: &str, partition: u32) -> usize {
    let mut count = 0;
    read_partition(&mut server.connect(), topic, partition, 0, |_| count += 1);
    count
}

fn segment(data: &Path, topic: &str, partition: u32) -> std::path::PathBuf {
    data.join(format!("topics/{topic}/{partition}/{:020}.log", 0))
}

fn restart(ground: &Ground, server: Server) -> Server {
    server.kill();
    verify(&ground.data());
    ground.start(&ground.data())
}

#[test]
fn a_failed_journal_sync_ends_all_appends_until_a_restart_and_reads_go_on() {
    let cases = ["error=EIO", "error=ENOSPC"].map(|error| ["durable", "written"].map(|ack| (error, ack)));
    for (error, ack) in cases.into_iter().flatten() {
        let Some((ground, server)) = begin() else { return };
        // Fails once: a second sync would succeed, and prove nothing about the first.
        let injection = Injection::new("fdatasync", error, "1");
        let tracer = ground.attach(&server, Some("quipu-committer"), &injection);
        let path = format!("/v1/topics/first/records?ack={ack}");
        let record = r#"{"records":[{"partition":0,"value":1}]}"#;
        let in_flight = request(&server, "POST", &path, record);
        if ack == "written" {
            // It is answered once the operating system has it, as the request asks.
            assert_eq!(in_flight.status, 200, "{}", in_flight.text());
        } else {
            let problem = in_flight.refusal(503, "log-failed", "unknown");
            assert_eq!(problem["retryable"], false, "{problem}");
        }
        until("the sync has failed", || !ground.injected().is_empty());
        drop(tracer);
        produce(&server, "first", 1, 10).refusal(503, "log-failed", "none");
        produce(&server, "second", 0, 10).refusal(503, "log-failed", "none");
        commit(&server, 1).refusal(503, "log-failed", "none");
        assert_eq!(server.get("/health/ready")["status"], "degraded");
        assert_eq!(server.connect().get("/health/ready?for=writes").status, 503);
        assert_eq!(server.connect().get("/health/live").status, 200);
        // The record in flight is not readable: a crash could undo it.
        assert_eq!((count(&server, "first", 0), count(&server, "first", 1)), (1, 1));

        let server = restart(&ground, server);
        let there = count(&server, "first", 0);
        assert!((1..=2).contains(&there), "{there} records");
        assert_eq!(next_offset(&server, "first"), there as u64);
        assert_eq!(count(&server, "first", 1), 1);
        assert_eq!(count(&server, "second", 0), 0);
        commit(&server, 1).with_status(200);
        finish(&ground, server);
    }
}

#[test]
fn a_failed_journal_sync_ends_a_server_that_is_to_exit_and_the_next_start_takes_appends() {
    let Some((ground, server)) = begin() else { return };
    server.stop();
    let mut server = ground.start_with(&ground.data(), &[("QUIPU_ON_LOG_FAILED", "exit")]);
    let injection = Injection::new("fdatasync", "error=EIO", "1");
    let tracer = ground.attach(&server, Some("quipu-committer"), &injection);
    produce(&server, "first", 0, 10).refusal(503, "log-failed", "unknown");
    assert_eq!(server.wait().code(), Some(1));
    drop(tracer);
    assert!(server.log().contains("on_log_failed=exit"), "{}", server.log());
    verify(&ground.data());
    let server = ground.start(&ground.data());
    produce(&server, "first", 0, 10).with_status(200);
    finish(&ground, server);
}

#[test]
fn a_failed_segment_sync_ends_the_appends_to_that_partition_only() {
    let Some((ground, server)) = begin() else { return };
    let injection =
        Injection::new("fdatasync", "error=EIO", "1+").on(vec![segment(&ground.data(), "first", 0)]);
    let tracer = ground.attach(&server, Some("quipu-syncer"), &injection);
    // Segments are synced when a journal file is full.
    until("the sync has failed", || {
        produce(&server, "second", 0, 200_000).with_status(200);
        !ground.injected().is_empty()
    });
    until("the partition is refused", || {
        let answer = produce(&server, "first", 0, 10);
        if answer.status != 200 {
            answer.refusal(503, "log-failed", "none");
        }
        answer.status != 200
    });
    drop(tracer);
    produce(&server, "first", 1, 10).with_status(200);
    produce(&server, "second", 0, 10).with_status(200);
    commit(&server, 1).with_status(200);
    // A request is stored in all its partitions or in none.
    let both = r#"{"records":[{"partition":1,"value":1},{"partition":0,"value":1}]}"#;
    request(&server, "POST", "/v1/topics/first/records", both).refusal(503, "log-failed", "none");
    assert_eq!(server.get("/health/ready")["status"], "degraded");
    let there = count(&server, "first", 0);
    assert_eq!(count(&server, "first", 1), 2);

    let server = restart(&ground, server);
    assert_eq!(count(&server, "first", 0), there);
    assert_eq!(next_offset(&server, "first"), there as u64);
    finish(&ground, server);
}

#[test]
fn a_failed_segment_write_stores_nothing_and_ends_the_appends_to_that_partition_only() {
    let Some((ground, server)) = begin() else { return };
    let injection = Injection::new(WRITES, "error=EIO", "1").on(vec![segment(&ground.data(), "first", 0)]);
    let tracer = ground.attach(&server, Some("quipu-committer"), &injection);
    let answer = produce(&server, "first", 0, 10).with_status(503);
    assert_eq!(answer.json()["outcome"], "none");
    drop(tracer);
    produce(&server, "first", 0, 10).refusal(503, "log-failed", "none");
    produce(&server, "first", 1, 10).with_status(200);
    assert_eq!((count(&server, "first", 0), count(&server, "first", 1)), (1, 2));
    let server = restart(&ground, server);
    assert_eq!((count(&server, "first", 0), count(&server, "first", 1)), (1, 2));
    assert_eq!(next_offset(&server, "first"), 1);
    finish(&ground, server);
}

#[test]
fn a_segment_write_without_space_is_refused_and_the_next_one_goes_on() {
    let Some((ground, server)) = begin() else { return };
    let injection = Injection::new(WRITES, "error=ENOSPC", "1").on(vec![segment(&ground.data(), "first", 0)]);
    let tracer = ground.attach(&server, Some("quipu-committer"), &injection);
    let answer = produce(&server, "first", 0, 10);
    answer.refusal(507, "storage-full", "none");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(next_offset(&server, "first"), 1);
    drop(tracer);
    finish(&ground, server);
}

#[test]
fn a_topic_whose_making_changing_or_deleting_fails_is_what_the_answer_says_after_a_restart_too() {
    let mut cases = Vec::new();
    let renames = "rename,renameat,renameat2";
    for calls in [renames, "fsync", "fdatasync", WRITES, "mkdir,mkdirat", "openat"] {
        for what in ["made", "changed", "deleted"] {
            for error in ["error=EIO", "error=ENOSPC"] {
                cases.extend([1, 2].map(|when| (calls, what, error, when)));
            }
        }
    }
    if !is_long() {
        let mut rng = Rng::from_environment("topics");
        while cases.len() > 12 {
            cases.swap_remove(rng.below(cases.len() as u64) as usize);
        }
        // Cases in which an answer must not claim that nothing was done.
        cases.push((renames, "deleted", "error=EIO", 1));
        cases.push(("fsync", "made", "error=ENOSPC", 2));
    }
    for (calls, what, error, when) in cases {
        fail_a_topic(calls, what, error, when);
    }
}

fn fail_a_topic(calls: &str, what: &str, error: &str, when: u32) {
    let Some((ground, server)) = begin() else { return };
    let data = ground.data();
    let is_there = |server: &Server, name: &str| {
        let answer = server.connect().get(&format!("/v1/topics/{name}"));
        assert!([200, 404].contains(&answer.status), "{name}: {}", answer.text());
        answer.status == 200
    };
    let mut injection = Injection::new(calls, error, when.to_string());
    if calls == "fsync" || calls == "openat" {
        // Only these directories, so that other opens are not counted.
        let dirs = ["topics", "staging", "deleted", "topics/first"];
        injection = injection.on(dirs.map(|dir| data.join(dir)).into());
    }
    let tracer = ground.attach(&server, None, &injection);
    let answer = match what {
        "made" => request(&server, "PUT", "/v1/topics/third", r#"{"partitions":2}"#),
        "changed" => request(&server, "PATCH", "/v1/topics/first", r#"{"partitions":3}"#),
        _ => request(&server, "DELETE", "/v1/topics/first", ""),
    };
    drop(tracer);
    let outcome = match answer.status {
        ..300 => "done".into(),
        _ => answer.json()["outcome"].clone(),
    };
    let (status, text) = (answer.status, answer.text());
    let said = format!("{calls} {error} {when}: {what}: {status} {text}");
    // Whatever the answer was, after a restart without the fault it must prove true.
    let server = restart(&ground, server);
    let is_so = match what {
        "made" => is_there(&server, "third"),
        "changed" => server.get("/v1/topics/first")["partition_count"] == 3,
        _ => !is_there(&server, "first"),
    };
    match outcome.as_str() {
        Some("done") => assert!(is_so, "after a restart it is not so: {said}"),
        Some("none") => assert!(!is_so, "after a restart it is so: {said}"),
        Some("unknown") => {}
        other => panic!("{other:?}: {said}"),
    }
    finish(&ground, server);
}
