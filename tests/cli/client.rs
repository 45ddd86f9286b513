//! A server that misbehaves: nothing is stored or printed twice, and every end is one clear line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::fake::{Fake, Reply, fine, holding, problem, stored};
use crate::{Ended, Running, command, ended, file, quipu, run, run_offline};

fn produce(url: &str, flags: &str, input: &str) -> Ended {
    ended(quipu(&format!("produce t --server {url} {flags}")).write_stdin(input))
}

#[test]
fn requests_are_cut_at_lines_and_at_most_16_mib_large() {
    let dir = TempDir::new().unwrap();
    let line = |text: &str, times| format!("{{\"value\":\"{}\"}}\n", text.repeat(times));
    let content = line("x", 999).repeat(40_000) + &line("y", 12 << 20) + &line("x", 999);
    let path = file(&dir, "big.ndjson", &content);
    let fake = Fake::of_topic(|request, _| stored(request.lines()));
    let report = run(&fake.url, &format!("produce t {path} --output json")).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["records"], 40_002);
    assert_eq!(report["lines"], 40_002);
    let requests = fake.requests();
    assert!(requests.len() > 5);
    let mut sent = Vec::new();
    for request in requests {
        assert_eq!(request.line, "POST /v1/topics/t/records");
        assert_eq!(request.header("content-type"), Some("application/x-ndjson"));
        assert!(request.body.len() <= 16 << 20 && request.body.ends_with(b"}\n"));
        sent.extend(request.body);
    }
    assert!(sent == content.as_bytes(), "every byte is sent once, in order");
}

#[test]
fn a_line_that_has_no_key_stops_after_the_lines_before_it() {
    let fake = Fake::of_topic(|request, _| stored(request.lines()));
    let input = "{\"aircraft\":\"N1\"}\n{\"aircraft\":17}\n{\"plane\":3}\n";
    assert_eq!(
        produce(&fake.url, "--raw --key-field /aircraft", input).failed(),
        "quipu: line 3 of standard input: there is no /aircraft to take the key from; 2 records were stored\n"
    );
    let body = String::from_utf8(fake.requests()[0].body.clone()).unwrap();
    let one = "{\"key\":\"N1\",\"value\":{\"aircraft\":\"N1\"}}\n";
    assert_eq!(
        body,
        one.to_owned() + "{\"key\":\"17\",\"value\":{\"aircraft\":17}}\n"
    );
}

#[test]
fn a_server_that_is_not_there_is_one_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let expected = format!("cannot reach {url}: connection refused");
    for line in "topic list|produce t|consume t|replay t --from 2013-01-01|group list|lag".split('|') {
        let ended = ended(quipu(line).env("QUIPU_SERVER", &url).write_stdin("{}\n"));
        assert!(ended.failed().contains(&expected), "{line}: {}", ended.err);
    }
}

#[test]
fn a_host_that_does_not_exist_is_not_mistaken_for_a_lost_answer() {
    let ended = produce("no-such-host.invalid", "", "{}\n");
    ended.fails_with("quipu: cannot reach http://no-such-host.invalid: ");
}

#[test]
fn a_problem_and_an_answer_of_something_else_are_one_line() {
    for (line, status, headers, body, part) in [
        // An empty input still finds a mistyped topic.
        (
            "produce t",
            404,
            "",
            r#"{"code":"unknown-topic","detail":"there is no topic t"}"#,
            "quipu: unknown-topic: there is no topic t\n",
        ),
        (
            "topic create t",
            400,
            "",
            r#"{"code":"invalid-request","detail":"must be\nat least 1","pointer":"/partitions"}"#,
            "quipu: invalid-request: must be at least 1 (pointer /partitions)\n",
        ),
        (
            "topic describe t",
            200,
            "Content-Type: text/html\r\n",
            "<html>",
            "does not answer as quipu does",
        ),
        ("topic describe t", 302, "Location: /x\r\n", "<html>", "302"),
        ("topic describe t", 401, "", "<html>", "may want a --token"),
        ("topic describe t", 502, "", "<html>", "a proxy may not reach it"),
    ] {
        let fake = Fake::start(move |_, _| Reply::Answer(status, headers, body.to_owned()));
        ended(quipu(line).env("QUIPU_SERVER", &fake.url).write_stdin("")).fails_with(part);
    }
}

#[test]
fn a_setting_that_cannot_be_read_is_refused_and_not_taken_for_another() {
    for name in ["QUIPU_SERVER", "QUIPU_TOKEN", "QUIPU_CONTEXT"] {
        let ended = ended(quipu("topic list").env(name, OsStr::from_bytes(b"production\xff")));
        assert_eq!(ended.code, Some(2));
        let expected = format!("{name} is not UTF-8");
        assert!(ended.err.contains(&expected), "{}", ended.err);
    }
}

#[test]
fn the_token_is_sent_and_names_are_encoded() {
    let fake = Fake::start(|_, _| Reply::Answer(204, "", String::new()));
    let mut command = quipu("topic delete 'a/b c'");
    let command = command.env("QUIPU_SERVER", &fake.url);
    ended(command.env("QUIPU_TOKEN", "secret")).ok();
    let request = &fake.requests()[0];
    assert_eq!(request.line, "DELETE /v1/topics/a%2Fb%20c");
    assert_eq!(request.header("authorization"), Some("Bearer secret"));
}

#[test]
fn a_fetch_that_breaks_off_is_read_again_and_printed_once() {
    let fake = Fake::of_topic(|_, before| {
        let records = "{\"partition\":0,\"offset\":0,\"timestamp\":1,\"value\":1}\n".to_owned();
        match before {
            0..3 => Reply::CutShort("Next-Offset: 1\r\n", records),
            _ => Reply::Answer(200, "Next-Offset: 1\r\n", records),
        }
    });
    let ended = run(&fake.url, "consume t");
    assert!(ended.err.contains("trying again"), "{}", ended.err);
    assert_eq!(ended.ok().lines().count(), 1);
}

#[test]
fn damage_is_named_with_where_to_continue() {
    let fake = Fake::start(|request, _| {
        if request.line.contains("offset=3") {
            let range = r#""damaged_offset":3,"damaged_until_offset":7"#;
            let members = format!(r#""code":"corrupt-data","detail":"damaged",{range}"#);
            problem(500, &members)
        } else if request.line.contains("/records") {
            let records = "{\"partition\":0,\"offset\":2,\"timestamp\":1,\"value\":1}\n".to_owned();
            Reply::Answer(200, "Next-Offset: 3\r\n", records)
        } else {
            let partition = r#"{"partition":0,"log_start_offset":2,"end_offset":9}"#;
            fine(format!(
                r#"{{"name":"t","partition_count":1,"partitions":[{partition}]}}"#
            ))
        }
    });
    let ended = run(&fake.url, "consume t");
    assert_eq!(ended.out.lines().count(), 1, "the healthy part is printed");
    ended.fails_as("quipu: corrupt-data: partition 0 of t at offset 3: damaged; to read the healthy records after it: --partition 0 \
         --from offset:7; to make consumers skip the damaged ones: quipu topic skip t --partition 0 --from 3 --until 7\n");
}

#[test]
fn an_interrupted_file_finishes_its_request_and_says_where_it_stopped() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", "{\"value\":1}\n".repeat(4_000_000));
    let (fake, arrival, go_on) = holding();
    let mut command = command(&format!("produce t {path} --server {}", fake.url));
    let mut running = Running::of(command.env("XDG_STATE_HOME", dir.path()));
    arrival.recv().unwrap();
    running.interrupt();
    // The command may notice the signal after this answer, but before the last one: further requests wait a while for that.
    go_on.send(()).unwrap();
    while running.child.try_wait().unwrap().is_none() {
        if arrival.recv_timeout(Duration::from_millis(10)).is_ok() {
            std::thread::sleep(Duration::from_secs(3));
            go_on.send(()).unwrap();
        }
    }
    let ended = running.end();
    let sent: usize = fake.requests().iter().map(|request| request.lines()).sum();
    let line = sent + 1;
    let again = "run the same command again to continue there";
    let expected =
        format!("quipu: interrupted before line {line} of {path}; {sent} records were stored; {again}\n");
    assert_eq!(ended.failed(), expected);
}

#[test]
fn wrong_usage_ends_with_2() {
    for line in [
        "frobnicate",
        "topic",
        "topic create",
        "topic create t --partitions 0",
        "topic create t --config retention_ms",
        "topic create t --config retention_ms=soon",
        "topic alter t",
        "group alter g",
        "group alter g --filter key",
        "group alter g --filter key=a --unset filter",
        "group alter g --order none",
        "topic list --output xml",
        "topic list --server https://localhost --ca-file /no/such/file",
        "topic list --server ftp://localhost",
        "topic list --server http://h:99999",
        "topic list --server h:abc",
        "topic list --context no-such-context",
        "produce t --key-field value",
        "produce t --ack maybe",
        "produce t --idempotency-key 'a b'",
        "produce t --restart",
        "produce t f --restart --idempotency-key k",
        "consume t --from yesterday",
        "consume t --from 5",
        "consume t --max -1",
        "consume t --last 0",
        "consume t --last 100001",
        "consume t --last 5 --group g",
        "consume t --format %x",
        "consume t --format %v --raw",
        "consume t u --partition 0",
        "consume t --header type",
        "consume t --header 'type=or*'",
        "replay t",
        "replay t --from 2013-01-01 --speed 0",
        "replay t --from 2013-01-01 --to ''",
        "replay t --from 2013-01-01 --to https://u@localhost/x",
        "replay t --from 2013-01-01 --to http://h:7520x/y",
        "replay t --from 2013-01-02 --until 2013-01-01",
        "group reset g --topic t",
        "group reset g --topic t --to soon",
        "group reset g --topic t --to 5",
        "group seek g",
        "bench produce --record-bytes 2MiB",
        "context set c",
        "context set c --server nonsense:port",
        "lag --fail-above-time 5",
        "lag --interval 2s",
        "lag --watch --interval 1ms",
        "completions cobol",
        "--context x serve --data /dev/null",
        "serve --data /dev/null --server http://h",
        "demo --exit --token x",
        "inspect no-such-file --context x",
        "--output json completions bash",
        "demo --listen nowhere",
    ] {
        let ended = run_offline(line);
        assert_eq!(ended.code, Some(2), "{line}: {}", ended.err);
        assert!(!ended.err.is_empty(), "{line}");
    }
}

#[test]
fn completions_exist_for_every_shell_and_a_closed_pipe_is_a_quiet_end() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_offline(&format!("completions {shell}")).ok();
        assert!(script.contains("quipu"), "{shell}");
    }
    let zsh = run_offline("completions zsh").ok();
    let completes = zsh.contains("== _quipu ]]; then _quipu");
    assert!(completes, "the first TAB completes: {zsh}");
    Running::of(&mut command("completions zsh")).hang_up().quiet();
}

#[test]
fn a_server_that_is_silent_completes_no_names() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = quipu(&format!("complete -- --server {address} topic describe ''"));
    // Less than other commands wait for an answer.
    let ended = ended(command.timeout(Duration::from_secs(40)));
    assert_eq!(ended.quiet(), "");
}
