//! Streams that break: every record is printed, or sent on to another topic, once.

use std::io::{BufRead, Read};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::fake::{Fake, Reply, Request, fine, problem, stored};
use crate::service::values;
use crate::{Running, ended, quipu, run};

const EVENTS: &str = "text/event-stream";
const HEADERS: &str = "Content-Type: text/event-stream\r\n";

/// The event of the n-th record of partition 0; its id is `c` and n.
fn record(n: u64) -> String {
    let time = n * 1000;
    format!(
        "event: record\nid: c{n}\ndata: {{\"partition\":0,\"offset\":{n},\"timestamp\":{time},\"value\":{n}}}\n\n"
    )
}

fn end() -> String {
    "event: end\ndata: {}\n\n".to_owned()
}

/// A complete answer with these events.
fn events(events: String) -> Reply {
    Reply::Answer(200, HEADERS, events)
}

/// Each reply once, then `rest`.
fn in_turn(replies: Vec<Reply>, rest: impl Fn(&Request) -> Reply) -> impl Fn(&Request) -> Reply {
    let replies = Mutex::new(replies.into_iter());
    move |request| {
        let next = replies.lock().unwrap().next();
        next.unwrap_or_else(|| rest(request))
    }
}

/// A topic whose n-th stream is the n-th of these replies.
fn streams(replies: Vec<Reply>) -> Fake {
    let reply = in_turn(replies, |_| Reply::Nothing);
    Fake::of_topic(move |request, _| {
        let line = &request.line;
        assert!(line.starts_with("GET /v1/topics/t/records?"), "{line}");
        assert_eq!(request.header("accept"), Some(EVENTS));
        reply(request)
    })
}

/// The header of each request.
fn headers(fake: &Fake, name: &str) -> Vec<Option<String>> {
    let requests = fake.requests();
    let header = |request: &Request| request.header(name).map(str::to_owned);
    requests.iter().map(header).collect()
}

#[test]
fn a_stream_that_breaks_continues_after_the_last_whole_event() {
    let cut = record(2);
    let whole = record(0) + &record(1);
    let first = format!("retry: 1\n\nid: c\n\n: \n\n{whole}{}", &cut[..cut.len() - 1]);
    let fake = streams(vec![
        Reply::CutShort(HEADERS, first),
        // A complete answer without the stream's end event: the server was stopped in order.
        events(record(2)),
        Reply::Nothing,
        problem(503, r#""code":"shutting-down","retryable":true"#),
        events(String::new()),
        events(record(3) + &end()),
    ]);
    let ended = run(&fake.url, "consume t --follow --key k --partition 0");
    let away = ended.err.matches("trying again").count();
    assert_eq!(away, 2, "once for each time that it was away: {}", ended.err);
    assert_eq!(values(&ended.ok()), [0, 1, 2, 3]);
    let line = "GET /v1/topics/t/records?partitions=0&key=k&follow=true";
    assert!(fake.requests().iter().all(|request| request.line == line));
    let ids = [None, Some("c1"), Some("c2"), Some("c2"), Some("c2"), Some("c2")];
    let found = headers(&fake, "last-event-id");
    assert_eq!(found, ids.map(|id| id.map(str::to_owned)));
}

#[test]
fn a_cursor_that_came_before_the_first_record_is_where_a_stream_continues() {
    let fake = streams(vec![
        Reply::CutShort(HEADERS, "id: here\n\n".to_owned()),
        events(record(0) + &end()),
    ]);
    let text = run(&fake.url, "consume t --follow --from latest").ok();
    assert_eq!(values(&text), [0]);
    let line = &fake.requests()[0].line;
    assert_eq!(line, "GET /v1/topics/t/records?from=latest&follow=true");
    assert_eq!(headers(&fake, "last-event-id")[1].as_deref(), Some("here"));
}

#[test]
fn a_stream_that_does_not_follow_ends_where_the_topic_ended_whatever_comes_meanwhile() {
    // The topic had one record when the command began.
    let fake = streams(vec![
        Reply::CutShort(HEADERS, "retry: 1\n\nid: c\n\n".to_owned()),
        events(record(0) + &record(1) + &end()),
    ]);
    assert_eq!(values(&run(&fake.url, "replay t --from 0").ok()), [0]);

    let fake = streams(vec![
        Reply::CutShort(HEADERS, record(0)),
        Reply::Answer(204, "", String::new()),
    ]);
    assert_eq!(values(&run(&fake.url, "replay t --from 0 --speed 0.5").ok()), [0]);
    let line = &fake.requests()[0].line;
    assert_eq!(line, "GET /v1/topics/t/records?from=0&speed=0.5");
}

#[test]
fn an_error_in_a_stream_is_reported_after_the_records_before_it() {
    let error = "event: error\ndata: {\"code\":\"corrupt-data\",\"detail\":\"damaged\",\"partition\":0,\
                 \"damaged_offset\":1,\"damaged_until_offset\":7,\"retryable\":false}\n\n";
    let fake = streams(vec![events(record(0) + error + &record(8))]);
    let ended = run(&fake.url, "consume t --follow");
    assert_eq!(values(&ended.out), [0]);
    ended.fails_as("quipu: corrupt-data: partition 0 of t at offset 1: damaged; to read the healthy records after it: --partition 0 \
         --from offset:7; to make consumers skip the damaged ones: quipu topic skip t --partition 0 --from 1 --until 7\n");

    let retryable =
        "event: error\ndata: {\"code\":\"overloaded\",\"detail\":\"busy\",\"retryable\":true}\n\n";
    let fake = streams(vec![events(record(0) + retryable), events(record(1) + &end())]);
    assert_eq!(values(&run(&fake.url, "consume t --follow").ok()), [0, 1]);
    assert_eq!(headers(&fake, "last-event-id")[1].as_deref(), Some("c0"));
}

#[test]
fn missing_records_are_reported_on_standard_error() {
    let gap = |reason: &str| {
        let gap =
            json!({"topic": "t", "partition": 0, "from_offset": 1, "until_offset": 3, "reason": reason});
        format!("event: gap\nid: c2\ndata: {gap}\n\n")
    };
    let stream = record(0) + &gap("skipped") + &gap("trimmed") + &end();
    let ended = run(&streams(vec![events(stream)]).url, "consume t --follow");
    assert_eq!(
        ended.err,
        "quipu: warning: partition 0 of t: offsets 1 to 3 (exclusive) are damaged, and an operator chose to skip them; \
         continuing after them\nquipu: partition 0 of t: offsets 1 to 2 were deleted before they were read; continuing at \
         offset 3\n"
    );
    assert_eq!(values(&ended.ok()), [0]);
}

#[test]
fn an_answer_that_is_no_stream_is_reported_as_such() {
    let page = Reply::Answer(200, "Content-Type: text/html\r\n", "<html>".to_owned());
    run(&streams(vec![page]).url, "consume t --follow")
        .fails_with("does not answer as quipu does: a stream of type \"text/html\"");
    let members = r#""code":"cursor-expired","detail":"gone","retryable":false"#;
    let ended = run(&streams(vec![problem(410, members)]).url, "consume t --follow");
    ended.fails_as("quipu: cursor-expired: gone\n");
}

#[test]
fn a_silent_connection_holds_up_neither_ctrl_c_nor_a_closed_pipe() {
    for line in ["consume t --follow", "replay t --from 0 --speed 0.001"] {
        let silent = || Reply::Stays(EVENTS, record(0));
        let fake = streams(vec![silent(), silent()]);
        let mut running = Running::start(&fake.url, line);
        running.line();
        running.stop().quiet();

        let mut running = Running::start(&fake.url, line);
        running.line();
        running.hang_up().quiet();
    }
}

#[test]
fn the_server_chooses_the_newest_records_and_those_with_a_header() {
    for (flags, query) in [
        ("--last 5", "last=5&order=timestamp"),
        ("--last 5 --follow", "last=5&order=timestamp&follow=true"),
        ("--header 'type=a b' --follow", "header.type=a%20b&follow=true"),
    ] {
        let fake = streams(vec![events(record(0) + &end())]);
        assert_eq!(values(&run(&fake.url, &format!("consume t {flags}")).ok()), [0]);
        let line = format!("GET /v1/topics/t/records?{query}");
        assert_eq!(fake.requests()[0].line, line);
    }
}

/// A topic of one record, whose group gets the n-th of `replies` to the n-th commit after that of its start; the channel
/// reports each commit after them.
fn group_of(mut replies: Vec<Reply>) -> (Fake, std::sync::mpsc::Receiver<()>) {
    let (commit, commits) = std::sync::mpsc::channel();
    replies.insert(0, fine(r#"{"offsets":[]}"#));
    let reply = in_turn(replies, move |_| {
        commit.send(()).unwrap();
        fine(r#"{"offsets":[]}"#)
    });
    let fake = Fake::of_topic(move |request, _| {
        if request.line.starts_with("PUT ") {
            reply(request)
        } else if request.line.starts_with("GET /v1/groups/") {
            problem(404, r#""code":"unknown-group""#)
        } else if request.line.contains("offset=0") {
            let line = "{\"partition\":0,\"offset\":0,\"timestamp\":1,\"value\":0}\n";
            Reply::Answer(200, "Next-Offset: 1\r\n", line.to_owned())
        } else {
            Reply::Stays("application/x-ndjson", " ".to_owned())
        }
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
    let consumer = Running::start(&fake.url, "consume t --follow --group g");
    committed.recv().unwrap();
    let ended = consumer.stop();
    let text = &ended.err;
    assert_eq!(text.lines().count(), 1, "{text}");
    let begin = "quipu: cannot commit the offsets of group g: ";
    assert!(text.starts_with(begin), "{text}");
    assert!(text.ends_with("; trying again\n"), "{text}");
    assert_eq!(values(&ended.ok()), [0]);

    // A permanent failure ends it.
    let (fake, _committed) = group_of(vec![problem(403, r#""code":"forbidden","detail":"no""#)]);
    let ended = run(&fake.url, "consume t --follow --group g");
    ended.fails_as("quipu: cannot commit the offsets of group g: forbidden: no\n");
    let mut requests = fake.requests();
    requests.retain(|request| !request.line.starts_with("GET /v1/groups/"));
    let start = String::from_utf8_lossy(&requests[0].body).into_owned();
    let is_first = start.contains(r#""offset":0"#);
    assert!(
        is_first,
        "the start is committed before records are read: {start}"
    );
}

#[test]
fn a_watch_into_a_pipe_waits_for_a_server_that_restarts_or_is_overloaded() {
    let lag = || fine(r#"{"groups":[{"group":"g","lag":7}]}"#);
    for output in ["json", "table"] {
        let stopped = problem(503, r#""code":"shutting-down""#);
        let proxy = Reply::Answer(502, "", "a proxy".to_owned());
        let busy = problem(503, r#""code":"overloaded""#);
        // At its first look too: the server is there.
        let replies = vec![proxy, Reply::Nothing, busy, lag(), Reply::Nothing, stopped, lag()];
        let reply = in_turn(replies, move |_| lag());
        let fake = Fake::start(move |request, _| match request.line.contains("/history") {
            true => problem(404, r#""code":"not-found""#),
            false => reply(request),
        });
        let line = format!("lag --watch --interval 100ms --output {output}");
        let mut running = Running::start(&fake.url, &line);
        let mut text = String::new();
        while text.matches('7').count() < 2 {
            assert!(running.out.read_line(&mut text).unwrap() > 0, "it ended: {text}");
        }
        running.interrupt();
        running.out.read_to_string(&mut text).unwrap();
        let ended = running.end();
        assert_eq!(ended.err.matches("trying again").count(), 2, "{}", ended.err);
        ended.ok();
    }
}

/// A topic `t` of one record and a topic `u` with so many partitions; what is sent to `u` gets the n-th of `replies`.
fn source_and_target(partitions: u32, replies: Vec<Reply>) -> Fake {
    let reply = in_turn(replies, |request| stored(request.lines()));
    Fake::of_topic(move |request, _| {
        if request.line == "GET /v1/topics/u" {
            let config = json!({"dedupe_window_ms": {"value": 600_000}});
            fine(json!({"name": "u", "partition_count": partitions, "config": config}).to_string())
        } else if request.line.starts_with("GET ") {
            events(record(0) + &end())
        } else {
            reply(request)
        }
    })
}

#[test]
fn a_copy_that_is_interrupted_is_not_whole_and_ends_with_1() {
    let (arrived, arrival) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(move |request, _| {
        if request.line == "GET /v1/topics/u" {
            return fine(r#"{"name":"u","partition_count":1}"#);
        }
        if request.line.starts_with("GET ") {
            return Reply::Stays(EVENTS, record(0));
        }
        arrived.send(()).unwrap();
        stored(request.lines())
    });
    let running = Running::start(&fake.url, "replay t --from 0 --speed 1 --to u");
    arrival.recv().unwrap();
    let stopped = running.stop();
    stopped.fails_with("quipu: interrupted: 1 record replayed to u in ");
}

#[test]
fn a_replay_into_a_topic_is_sent_again_when_its_answer_is_lost() {
    let overloaded = problem(503, r#""code":"overloaded","outcome":"none""#);
    let fake = source_and_target(1, vec![Reply::Nothing, overloaded]);
    let report = run(&fake.url, "replay t --from 0 --to u --output json").ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["records"], &report["requests"]), (&1.into(), &1.into()));
    let mut posts = fake.requests();
    posts.retain(|request| request.line.starts_with("POST"));
    assert_eq!(posts.len(), 3);
    for post in &posts {
        // With as many partitions, each record stays in its own.
        assert_eq!(post.line, "POST /v1/topics/u/records");
        let body = b"{\"partition\":0,\"offset\":0,\"timestamp\":0,\"value\":0}\n";
        assert_eq!(post.body, body);
        assert_eq!(post.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(post.header("idempotency-key"), posts[0].header("idempotency-key"));
    }

    let fake = source_and_target(2, vec![]);
    let ended = run(&fake.url, "replay t --from 0 --to u --key k");
    let is_said = ended.err.starts_with("quipu: 1 record replayed to u in ");
    assert!(is_said, "{}", ended.err);
    assert_eq!(ended.ok(), "");
    let lines: Vec<String> = fake.requests().into_iter().map(|request| request.line).collect();
    let last = lines.last().unwrap();
    assert_eq!(last, "POST /v1/topics/u/records?repartition=true");
    let read = "GET /v1/topics/t/records?key=k&from=0&order=timestamp";
    assert!(lines.contains(&read.to_owned()), "{lines:?}");

    let full = r#""code":"storage-full","detail":"full","outcome":"none""#;
    let large = r#""code":"record-too-large","detail":"large","accepted":20,"outcome":"partial""#;
    for (status, members, expected) in [
        (507, full, "storage-full: full"),
        (413, large, "record-too-large: large; 20 records were sent before"),
    ] {
        let fake = source_and_target(1, vec![problem(status, members)]);
        let ended = run(&fake.url, "replay t --from 0 --to u");
        ended.fails_as(&format!("quipu: {expected}\n"));
    }
}

#[test]
fn an_address_that_refuses_is_quoted_and_the_records_in_doubt_are_counted() {
    let source = source_and_target(1, vec![]);
    let hook = Fake::start(|_, _| Reply::Answer(404, "", "no".to_owned()));
    let ended = run(&source.url, &format!("replay t --from 0 --to {}", hook.url));
    let answered = format!("quipu: {} answered with status 404 Not Found", hook.url);
    let text = format!("{answered}; whether it has taken 1 record is not known\n");
    ended.fails_as(&text);
}

#[test]
fn a_replay_to_an_address_is_posted_as_it_stands_and_without_the_token() {
    let source = source_and_target(1, vec![]);
    let replay = |line: String| {
        let mut command = quipu(&format!("replay t --from 0 {line}"));
        let command = command.env("QUIPU_SERVER", &source.url);
        ended(command.env("QUIPU_TOKEN", "secret")).ok();
    };
    let hook = Fake::start(|_, before| match before {
        0 => Reply::Answer(503, "Retry-After: 0\r\n", "later".to_owned()),
        _ => Reply::Answer(202, "", "thanks".to_owned()),
    });
    replay(format!("--speed 1000 --to {}/hook?x=y%20z", hook.url));
    let requests = hook.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.line, "POST /hook?x=y%20z");
        assert_eq!(request.header("authorization"), None);
    }
    let sent = headers(&source, "authorization").remove(0);
    assert_eq!(sent.as_deref(), Some("Bearer secret"));

    let text = format!("--to {}/v1/topics/u/records?repartition=true", source.url);
    replay(text);
    let request = source.requests().pop().unwrap();
    assert_eq!(request.line, "POST /v1/topics/u/records?repartition=true");
    let sent = request.header("authorization");
    assert_eq!(sent, Some("Bearer secret"), "the same server");
}
