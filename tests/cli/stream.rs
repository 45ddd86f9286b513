//! Streams that break: every record is printed, and sent on, once.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::client::{problem, stored};
use crate::fake::{Fake, Reply};
use crate::service::{interrupt, values};
use crate::{failed, quipu, run, stderr, stdout};

const WINDOW_MS: u64 = 600_000;
const EVENTS: &str = "text/event-stream";
const HEADERS: &str = "Content-Type: text/event-stream\r\n";

/// The event of the n-th record of partition 0, whose id is `c` and n.
fn record(n: u64) -> String {
    format!(
        "event: record\nid: c{n}\ndata: {{\"partition\":0,\"offset\":{n},\"timestamp\":{},\"value\":{n}}}\n\n",
        n * 1000
    )
}

fn end() -> String {
    "event: end\ndata: {}\n\n".to_owned()
}

/// A topic whose n-th stream is the n-th of these.
fn streams(replies: Vec<Reply>) -> Fake {
    let replies = Mutex::new(replies.into_iter());
    Fake::of_topic(WINDOW_MS, move |request, _| {
        assert!(
            request.line.starts_with("GET /v1/topics/t/records?"),
            "{}",
            request.line
        );
        assert_eq!(request.header("accept"), Some(EVENTS));
        replies.lock().unwrap().next().unwrap_or(Reply::Nothing)
    })
}

fn spawn(url: &str, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(args)
        .env("QUIPU_SERVER", url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_stream_that_breaks_goes_on_behind_the_last_event_that_was_whole() {
    let cut = record(2);
    let first = format!(
        "retry: 1\n\nid: c\n\n: \n\n{}{}{}",
        record(0),
        record(1),
        &cut[..cut.len() - 1]
    );
    let fake = streams(vec![
        Reply::CutShort(HEADERS, first),
        // Ends as a whole answer does, but not as a stream: the server was stopped in order.
        Reply::Answer(200, HEADERS, record(2)),
        Reply::Nothing,
        problem(503, r#""code":"shutting-down","retryable":true"#),
        Reply::Answer(200, HEADERS, String::new()),
        Reply::Answer(200, HEADERS, record(3) + &end()),
    ]);
    let output = run(
        &fake.url,
        &["consume", "t", "--follow", "--key", "k", "--partition", "0"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(values(&stdout(&output)), [0, 1, 2, 3]);
    let text = stderr(&output);
    assert_eq!(
        text.matches("trying again").count(),
        2,
        "once for each time that it was away: {text}"
    );
    let requests = fake.requests();
    let line = "GET /v1/topics/t/records?partitions=0&key=k&follow=true";
    assert!(
        requests.iter().all(|request| request.line == line),
        "{requests:?}"
    );
    let ids: Vec<_> = requests
        .iter()
        .map(|request| request.header("last-event-id"))
        .collect();
    assert_eq!(
        ids,
        [None, Some("c1"), Some("c2"), Some("c2"), Some("c2"), Some("c2")]
    );
}

#[test]
fn a_place_that_was_told_before_the_first_record_is_where_a_stream_goes_on() {
    let fake = streams(vec![
        Reply::CutShort(HEADERS, "id: here\n\n".to_owned()),
        Reply::Answer(200, HEADERS, record(0) + &end()),
    ]);
    let output = run(&fake.url, &["consume", "t", "--follow", "--from", "latest"]);
    assert_eq!(
        (output.status.code(), values(&stdout(&output))),
        (Some(0), vec![0])
    );
    let requests = fake.requests();
    assert_eq!(
        requests[0].line,
        "GET /v1/topics/t/records?from=latest&follow=true"
    );
    assert_eq!(requests[1].header("last-event-id"), Some("here"));
}

#[test]
fn what_is_not_followed_ends_where_the_topic_ended_whatever_comes_meanwhile() {
    // The topic had one record when the command began.
    let fake = streams(vec![
        Reply::CutShort(HEADERS, "retry: 1\n\nid: c\n\n".to_owned()),
        Reply::Answer(200, HEADERS, record(0) + &record(1) + &end()),
    ]);
    let output = run(&fake.url, &["replay", "t", "--from", "0"]);
    assert_eq!(
        (output.status.code(), values(&stdout(&output))),
        (Some(0), vec![0]),
        "{}",
        stderr(&output)
    );

    let fake = streams(vec![
        Reply::CutShort(HEADERS, record(0)),
        Reply::Answer(204, "", String::new()),
    ]);
    let output = run(&fake.url, &["replay", "t", "--from", "0", "--speed", "0.5"]);
    assert_eq!(
        (output.status.code(), values(&stdout(&output))),
        (Some(0), vec![0]),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        fake.requests()[0].line,
        "GET /v1/topics/t/records?from=0&speed=0.5"
    );
}

#[test]
fn what_the_stream_says_is_wrong_comes_after_the_records_before_it() {
    let error = concat!(
        r#"event: error"#,
        "\ndata: ",
        r#"{"code":"corrupt-data","detail":"damaged","partition":0,"damaged_offset":1,"damaged_until_offset":7,"retryable":false}"#,
        "\n\n"
    );
    let fake = streams(vec![Reply::Answer(200, HEADERS, record(0) + error + &record(8))]);
    let output = run(&fake.url, &["consume", "t", "--follow"]);
    assert_eq!(values(&stdout(&output)), [0]);
    assert_eq!(
        failed(&output),
        "quipu: corrupt-data: partition 0 of t at offset 1: damaged; healthy records go on at --partition 0 --from \
         offset:7; to have consumers skip the damaged ones: quipu topic skip t --partition 0 --from 1 --until 7\n"
    );

    let retryable =
        "event: error\ndata: {\"code\":\"overloaded\",\"detail\":\"busy\",\"retryable\":true}\n\n";
    let fake = streams(vec![
        Reply::Answer(200, HEADERS, record(0) + retryable),
        Reply::Answer(200, HEADERS, record(1) + &end()),
    ]);
    let output = run(&fake.url, &["consume", "t", "--follow"]);
    assert_eq!(
        (output.status.code(), values(&stdout(&output))),
        (Some(0), vec![0, 1])
    );
    assert_eq!(fake.requests()[1].header("last-event-id"), Some("c0"));
}

#[test]
fn what_is_missing_is_said_on_standard_error() {
    let gap = |reason: &str| {
        format!(
            "event: gap\nid: c2\ndata: {{\"topic\":\"t\",\"partition\":0,\"from_offset\":1,\"until_offset\":3,\"reason\":\"{reason}\"}}\n\n"
        )
    };
    let fake = streams(vec![Reply::Answer(
        200,
        HEADERS,
        record(0) + &gap("skipped") + &gap("trimmed") + &end(),
    )]);
    let output = run(&fake.url, &["consume", "t", "--follow"]);
    assert_eq!(
        (output.status.code(), values(&stdout(&output))),
        (Some(0), vec![0])
    );
    assert_eq!(
        stderr(&output),
        "quipu: warning: partition 0 of t: offsets 1 to 3 (exclusive) are damaged and were skipped by the operator; going \
         on behind them\nquipu: partition 0 of t: offsets 1 to 2 were deleted before they were read; going on at 3\n"
    );
}

#[test]
fn something_that_is_no_stream_is_said_so() {
    let fake = streams(vec![Reply::Answer(
        200,
        "Content-Type: text/html\r\n",
        "<html>".to_owned(),
    )]);
    let text = failed(&run(&fake.url, &["consume", "t", "--follow"]));
    assert!(
        text.contains("does not answer as quipu does: a stream of type \"text/html\""),
        "{text}"
    );
    let fake = streams(vec![problem(
        410,
        r#""code":"cursor-expired","detail":"gone","retryable":false"#,
    )]);
    assert_eq!(
        failed(&run(&fake.url, &["consume", "t", "--follow"])),
        "quipu: cursor-expired: gone\n"
    );
}

#[test]
fn a_silent_connection_holds_up_neither_ctrl_c_nor_a_closed_pipe() {
    for args in [
        &["consume", "t", "--follow"][..],
        &["replay", "t", "--from", "0", "--speed", "0.001"],
    ] {
        let fake = streams(vec![
            Reply::Stays(EVENTS, record(0)),
            Reply::Stays(EVENTS, record(0)),
        ]);
        let mut child = spawn(&fake.url, args);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        interrupt(&child);
        out.read_to_string(&mut String::new()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(0), ""),
            "{args:?}"
        );

        let mut child = spawn(&fake.url, args);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn the_newest_records_and_headers_are_asked_of_the_server() {
    for (args, line) in [
        (
            &["--last", "5"][..],
            "GET /v1/topics/t/records?last=5&order=timestamp",
        ),
        (
            &["--last", "5", "--follow"],
            "GET /v1/topics/t/records?last=5&order=timestamp&follow=true",
        ),
        (
            &["--header", "type=a b", "--follow"],
            "GET /v1/topics/t/records?header.type=a%20b&follow=true",
        ),
    ] {
        let fake = streams(vec![Reply::Answer(200, HEADERS, record(0) + &end())]);
        let output = run(&fake.url, &[&["consume", "t"], args].concat());
        assert_eq!(
            (output.status.code(), values(&stdout(&output))),
            (Some(0), vec![0]),
            "{}",
            stderr(&output)
        );
        assert_eq!(fake.requests()[0].line, line);
    }
}

/// A topic of one record, whose group gets the n-th of `replies` to its n-th commit; each commit is told.
fn group_of(replies: Vec<Reply>) -> (Fake, std::sync::mpsc::Receiver<()>) {
    let replies = Mutex::new(replies.into_iter());
    let (commit, commits) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(WINDOW_MS, move |request, _| {
        if request.line.starts_with("PUT ") {
            let reply = replies.lock().unwrap().next();
            return reply.unwrap_or_else(|| {
                commit.send(()).unwrap();
                Reply::Answer(200, "", r#"{"offsets":[]}"#.to_owned())
            });
        }
        if request.line.starts_with("GET /v1/groups/") {
            return problem(404, r#""code":"unknown-group""#);
        }
        if request.line.contains("offset=0") {
            let line = "{\"partition\":0,\"offset\":0,\"timestamp\":1,\"value\":0}\n";
            return Reply::Answer(200, "Next-Offset: 1\r\n", line.to_owned());
        }
        Reply::Stays("application/x-ndjson", " ".to_owned())
    });
    (fake, commits)
}

#[test]
fn a_commit_that_fails_while_a_group_follows_is_tried_again() {
    let (fake, committed) = group_of(vec![
        Reply::Nothing,
        problem(503, r#""code":"overloaded","detail":"busy""#),
        problem(507, r#""code":"storage-full","detail":"full""#),
        Reply::Answer(502, "", "a proxy".to_owned()),
    ]);
    let child = spawn(&fake.url, &["consume", "t", "--follow", "--group", "g"]);
    committed.recv().unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), values(&stdout(&output))),
        (Some(0), vec![0])
    );
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.starts_with("quipu: cannot commit the offsets of group g: ")
            && text.ends_with("; trying again\n"),
        "{text}"
    );

    // What does not pass ends it.
    let (fake, _committed) = group_of(vec![problem(403, r#""code":"forbidden","detail":"no""#)]);
    let text = failed(&run(&fake.url, &["consume", "t", "--follow", "--group", "g"]));
    assert_eq!(
        text,
        "quipu: cannot commit the offsets of group g: forbidden: no\n"
    );
}

#[test]
fn a_watch_into_a_pipe_goes_on_over_a_restart_of_the_server() {
    let lag = || Reply::Answer(200, "", r#"{"groups":[{"group":"g","lag":7}]}"#.to_owned());
    for output in ["json", "table"] {
        let replies = Mutex::new(
            vec![
                lag(),
                Reply::Nothing,
                problem(503, r#""code":"shutting-down""#),
                lag(),
            ]
            .into_iter(),
        );
        let fake = Fake::start(move |request, _| {
            if request.line.contains("/history") {
                return problem(404, r#""code":"not-found""#);
            }
            replies.lock().unwrap().next().unwrap_or_else(lag)
        });
        let mut child = spawn(
            &fake.url,
            &["lag", "--watch", "--interval", "100ms", "--output", output],
        );
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        while text.matches('7').count() < 2 {
            assert!(out.read_line(&mut text).unwrap() > 0, "it ended: {text}");
        }
        interrupt(&child);
        out.read_to_string(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            stderr(&output).matches("trying again").count(),
            1,
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_copy_that_is_interrupted_is_not_whole_and_ends_with_1() {
    let (arrived, arrival) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(WINDOW_MS, move |request, _| {
        if request.line == "GET /v1/topics/u" {
            return Reply::Answer(200, "", r#"{"name":"u","partition_count":1}"#.to_owned());
        }
        if request.line.starts_with("GET ") {
            return Reply::Stays(EVENTS, record(0));
        }
        arrived.send(()).unwrap();
        stored(request.lines())
    });
    let child = spawn(
        &fake.url,
        &["replay", "t", "--from", "0", "--speed", "1", "--to", "u"],
    );
    arrival.recv().unwrap();
    interrupt(&child);
    let text = failed(&child.wait_with_output().unwrap());
    assert!(
        text.starts_with("quipu: interrupted: 1 record replayed to u in "),
        "{text}"
    );
}

#[test]
fn something_before_the_server_that_refuses_is_told_apart_from_it() {
    for (status, part) in [(401, "may want a --token"), (502, "a proxy may not reach it")] {
        let fake = Fake::start(move |_, _| Reply::Answer(status, "", "<html>".to_owned()));
        assert!(failed(&run(&fake.url, &["topic", "list"])).contains(part));
    }
}

/// A topic `t` of one record and a topic `u` with so many partitions; what is sent to `u` gets the n-th of `replies`.
fn source_and_target(partitions: u32, replies: Vec<Reply>) -> Fake {
    let replies = Mutex::new(replies.into_iter());
    Fake::of_topic(WINDOW_MS, move |request, _| {
        if request.line == "GET /v1/topics/u" {
            let config = r#"{"dedupe_window_ms":{"value":600000}}"#;
            let body = format!(r#"{{"name":"u","partition_count":{partitions},"config":{config}}}"#);
            Reply::Answer(200, "", body)
        } else if request.line.starts_with("GET ") {
            Reply::Answer(200, HEADERS, record(0) + &end())
        } else {
            replies
                .lock()
                .unwrap()
                .next()
                .unwrap_or_else(|| stored(request.lines()))
        }
    })
}

#[test]
fn a_replay_into_a_topic_is_sent_again_when_its_answer_is_lost() {
    let fake = source_and_target(
        1,
        vec![
            Reply::Nothing,
            problem(503, r#""code":"overloaded","outcome":"none""#),
        ],
    );
    let output = run(
        &fake.url,
        &["replay", "t", "--from", "0", "--to", "u", "--output", "json"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["records"], &report["requests"]), (&1.into(), &1.into()));
    let posts: Vec<_> = fake
        .requests()
        .into_iter()
        .filter(|request| request.line.starts_with("POST"))
        .collect();
    assert_eq!(posts.len(), 3);
    for post in &posts {
        assert_eq!(
            post.line, "POST /v1/topics/u/records",
            "as many partitions: each record stays in its own"
        );
        assert_eq!(
            post.body,
            b"{\"partition\":0,\"offset\":0,\"timestamp\":0,\"value\":0}\n"
        );
        assert_eq!(post.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(post.header("idempotency-key"), posts[0].header("idempotency-key"));
    }

    let fake = source_and_target(2, vec![]);
    let output = run(
        &fake.url,
        &["replay", "t", "--from", "0", "--to", "u", "--key", "k"],
    );
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), ""),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).starts_with("quipu: 1 record replayed to u in "),
        "{}",
        stderr(&output)
    );
    let requests = fake.requests();
    assert_eq!(
        requests.last().unwrap().line,
        "POST /v1/topics/u/records?repartition=true"
    );
    assert!(
        requests
            .iter()
            .any(|request| request.line == "GET /v1/topics/t/records?key=k&from=0&order=timestamp")
    );

    let fake = source_and_target(
        1,
        vec![problem(
            507,
            r#""code":"storage-full","detail":"full","outcome":"none""#,
        )],
    );
    let text = failed(&run(&fake.url, &["replay", "t", "--from", "0", "--to", "u"]));
    assert_eq!(text, "quipu: storage-full: full\n");

    let fake = source_and_target(
        1,
        vec![problem(
            413,
            r#""code":"record-too-large","detail":"large","accepted":20,"outcome":"partial""#,
        )],
    );
    let text = failed(&run(&fake.url, &["replay", "t", "--from", "0", "--to", "u"]));
    assert_eq!(
        text,
        "quipu: record-too-large: large; 20 records were sent before\n"
    );
}

#[test]
fn an_address_that_takes_nothing_is_said_to_have_answered_and_what_is_in_doubt() {
    let source = source_and_target(1, vec![]);
    let hook = Fake::start(|_, _| Reply::Answer(404, "", "no".to_owned()));
    let text = failed(&run(
        &source.url,
        &["replay", "t", "--from", "0", "--to", &hook.url],
    ));
    let expected = format!(
        "quipu: {} answered with status 404 Not Found; whether it has taken 1 record is not known\n",
        hook.url
    );
    assert_eq!(text, expected);
}

#[test]
fn a_replay_to_an_address_is_posted_as_it_stands_and_without_the_token() {
    let source = source_and_target(1, vec![]);
    let seen = Arc::new(Mutex::new(0));
    let hook = Fake::start(move |_, _| {
        *seen.lock().unwrap() += 1;
        match *seen.lock().unwrap() {
            1 => Reply::Answer(503, "Retry-After: 0\r\n", "later".to_owned()),
            _ => Reply::Answer(202, "", "thanks".to_owned()),
        }
    });
    let to = format!("{}/hook?x=y%20z", hook.url);
    let args = ["replay", "t", "--from", "0", "--speed", "1000", "--to", &to];
    let output = quipu(&args)
        .env("QUIPU_SERVER", &source.url)
        .env("QUIPU_TOKEN", "secret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let requests = hook.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests
            .iter()
            .all(|request| request.line == "POST /hook?x=y%20z")
    );
    assert!(
        requests
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    assert_eq!(
        source.requests()[0].header("authorization"),
        Some("Bearer secret")
    );

    let to = format!("{}/v1/topics/u/records?repartition=true", source.url);
    let output = quipu(&["replay", "t", "--from", "0", "--to", &to])
        .env("QUIPU_SERVER", &source.url)
        .env("QUIPU_TOKEN", "secret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let request = source.requests().pop().unwrap();
    assert_eq!(request.line, "POST /v1/topics/u/records?repartition=true");
    assert_eq!(
        request.header("authorization"),
        Some("Bearer secret"),
        "the same server"
    );
}
