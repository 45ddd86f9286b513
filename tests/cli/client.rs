//! Against a server that misbehaves: nothing is stored or printed twice, and every end is one clear line.

use std::io::Write;

use tempfile::TempDir;

use crate::fake::{Fake, Reply};
use crate::{failed, quipu, run, stderr, stdout};

pub(crate) fn stored(records: usize) -> Reply {
    let partitions = match records {
        0 => "[]".to_owned(),
        n => format!(
            r#"[{{"partition":0,"first_offset":0,"last_offset":{},"records":{n}}}]"#,
            n - 1
        ),
    };
    Reply::Answer(
        200,
        "",
        format!(r#"{{"records":{records},"partitions":{partitions}}}"#),
    )
}

pub(crate) fn problem(status: u16, rest: &str) -> Reply {
    let headers = "Content-Type: application/problem+json\r\n";
    Reply::Answer(
        status,
        headers,
        format!(r#"{{"type":"/problems/x","title":"T","status":{status},{rest}}}"#),
    )
}

pub(crate) fn file(dir: &TempDir, name: &str, content: &[u8]) -> String {
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn requests_are_cut_at_lines_and_at_most_16_mib_large() {
    let dir = TempDir::new().unwrap();
    let line = format!("{{\"value\":\"{}\"}}\n", "x".repeat(999));
    let content = line.repeat(40_000) + &format!("{{\"value\":\"{}\"}}\n", "y".repeat(12 << 20)) + &line;
    let path = file(&dir, "big.ndjson", content.as_bytes());
    let fake = Fake::of_topic(600_000, |request, _| stored(request.lines()));
    let output = run(&fake.url, &["produce", "t", &path, "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["records"], &report["lines"]),
        (&40_002.into(), &40_002.into())
    );
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
    let fake = Fake::of_topic(600_000, |request, _| stored(request.lines()));
    let output = quipu(&[
        "produce",
        "t",
        "--server",
        &fake.url,
        "--raw",
        "--key-field",
        "/aircraft",
    ])
    .write_stdin("{\"aircraft\":\"N1\"}\n{\"aircraft\":17}\n{\"plane\":3}\n")
    .output()
    .unwrap();
    let text = failed(&output);
    assert_eq!(
        text,
        "quipu: line 3 of standard input: there is no /aircraft to take the key from; 2 records were stored\n"
    );
    let body = String::from_utf8(fake.requests()[0].body.clone()).unwrap();
    assert_eq!(
        body,
        "{\"key\":\"N1\",\"value\":{\"aircraft\":\"N1\"}}\n{\"key\":\"17\",\"value\":{\"aircraft\":17}}\n"
    );
}

#[test]
fn an_empty_input_still_finds_a_mistyped_topic() {
    let fake = Fake::start(|_, _| problem(404, r#""code":"unknown-topic","detail":"there is no topic t""#));
    let output = quipu(&["produce", "t", "--server", &fake.url])
        .write_stdin("")
        .output()
        .unwrap();
    assert_eq!(failed(&output), "quipu: unknown-topic: there is no topic t\n");
}

#[test]
fn a_server_that_is_not_there_is_one_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in [
        &["topic", "list"][..],
        &["produce", "t"],
        &["consume", "t"],
        &["replay", "t", "--from", "2013-01-01"],
        &["group", "list"],
        &["lag"],
    ] {
        let text = failed(
            &quipu(args)
                .env("QUIPU_SERVER", &url)
                .write_stdin("{}\n")
                .output()
                .unwrap(),
        );
        assert!(
            text.contains(&format!("cannot reach {url}: connection refused")),
            "{args:?}: {text}"
        );
    }
}

#[test]
fn a_host_that_does_not_exist_is_not_mistaken_for_a_lost_answer() {
    let output = quipu(&["produce", "t", "--server", "no-such-host.invalid"])
        .write_stdin("{}\n")
        .output()
        .unwrap();
    let text = failed(&output);
    assert!(
        text.starts_with("quipu: cannot reach http://no-such-host.invalid: "),
        "{text}"
    );
}

#[test]
fn something_else_at_the_address_is_said_so() {
    let fake = Fake::start(|_, _| Reply::Answer(200, "Content-Type: text/html\r\n", "<html>".to_owned()));
    let text = failed(&run(&fake.url, &["topic", "describe", "t"]));
    assert!(text.contains("does not answer as quipu does"), "{text}");
    let fake = Fake::start(|_, _| Reply::Answer(302, "Location: /x\r\n", String::new()));
    assert!(failed(&run(&fake.url, &["topic", "list"])).contains("302"));
}

#[test]
fn a_problem_is_printed_on_one_line_with_its_pointer() {
    let rest = r#""code":"invalid-request","detail":"must be\nat least 1","pointer":"/partitions""#;
    let fake = Fake::start(move |_, _| problem(400, rest));
    let text = failed(&run(&fake.url, &["topic", "create", "t"]));
    assert_eq!(
        text,
        "quipu: invalid-request: must be at least 1 (pointer /partitions)\n"
    );
}

#[test]
fn the_token_is_sent_and_names_are_encoded() {
    let fake = Fake::start(|_, _| Reply::Answer(204, "", String::new()));
    let output = quipu(&["topic", "delete", "a/b c"])
        .env("QUIPU_SERVER", &fake.url)
        .env("QUIPU_TOKEN", "secret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let request = &fake.requests()[0];
    assert_eq!(request.line, "DELETE /v1/topics/a%2Fb%20c");
    assert_eq!(request.header("authorization"), Some("Bearer secret"));
}

#[test]
fn a_fetch_that_breaks_off_is_read_again_and_printed_once() {
    let fake = Fake::start(|request, before| {
        let records = "{\"partition\":0,\"offset\":0,\"timestamp\":1,\"value\":1}\n".to_owned();
        if request.line.contains("/offsets") {
            let offset = if request.line.ends_with("latest") { 1 } else { 0 };
            Reply::Answer(200, "", format!("{{\"offset\":{offset},\"timestamp\":null}}"))
        } else if !request.line.contains("/records") {
            let partition = r#"{"partition":0,"log_start_offset":0,"end_offset":1}"#;
            let topic = format!(r#"{{"name":"t","partition_count":1,"partitions":[{partition}]}}"#);
            Reply::Answer(200, "", topic)
        } else if before < 4 {
            Reply::CutShort("Next-Offset: 1\r\n", records)
        } else {
            Reply::Answer(200, "Next-Offset: 1\r\n", records)
        }
    });
    let output = run(&fake.url, &["consume", "t"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1);
    assert!(stderr(&output).contains("trying again"));
}

#[test]
fn damage_is_named_with_where_to_go_on() {
    let fake = Fake::start(|request, _| {
        if request.line.contains("offset=3") {
            problem(
                500,
                r#""code":"corrupt-data","detail":"damaged","damaged_offset":3,"damaged_until_offset":7"#,
            )
        } else if request.line.contains("/records") {
            let records = "{\"partition\":0,\"offset\":2,\"timestamp\":1,\"value\":1}\n".to_owned();
            Reply::Answer(200, "Next-Offset: 3\r\n", records)
        } else {
            let partition = r#"{"partition":0,"log_start_offset":2,"end_offset":9}"#;
            let topic = format!(r#"{{"name":"t","partition_count":1,"partitions":[{partition}]}}"#);
            Reply::Answer(200, "", topic)
        }
    });
    let output = run(&fake.url, &["consume", "t"]);
    assert_eq!(stdout(&output).lines().count(), 1, "the healthy part is printed");
    assert_eq!(
        failed(&output),
        "quipu: corrupt-data: partition 0 of t at offset 3: damaged; healthy records go on at --partition 0 --from \
         offset:7; to have consumers skip the damaged ones: quipu topic skip t --partition 0 --from 3 --until 7\n"
    );
}

#[test]
fn an_interrupted_file_finishes_its_request_and_says_where_it_stopped() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "f", "{\"value\":1}\n".repeat(4_000_000).as_bytes());
    let (arrived, arrival) = std::sync::mpsc::channel();
    let (go_on, gone_on) = std::sync::mpsc::channel();
    let fake = Fake::of_topic(600_000, move |request, _| {
        let _ = arrived.send(());
        let _ = gone_on.recv();
        stored(request.lines())
    });
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(["produce", "t", &path, "--server", &fake.url])
        .env("XDG_STATE_HOME", dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    arrival.recv().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // The signal may take until after the answer, but not until after all of them.
    go_on.send(()).unwrap();
    drop(go_on);
    let text = failed(&child.wait_with_output().unwrap());
    let sent: usize = fake.requests().iter().map(|request| request.lines()).sum();
    let expected = format!(
        "quipu: interrupted before line {} of {path}; {sent} records were stored; the same command goes on there\n",
        sent + 1
    );
    assert_eq!(text, expected);
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["frobnicate"][..],
        &["topic"],
        &["topic", "create"],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--config", "retention_ms"],
        &["topic", "alter", "t"],
        &["topic", "list", "--output", "xml"],
        &["topic", "list", "--server", "https://localhost"],
        &["topic", "list", "--server", "ftp://localhost"],
        &["produce", "t", "--key-field", "value"],
        &["produce", "t", "--ack", "maybe"],
        &["produce", "t", "--idempotency-key", "a b"],
        &["produce", "t", "--restart"],
        &["produce", "t", "f", "--restart", "--idempotency-key", "k"],
        &["consume", "t", "--from", "yesterday"],
        &["consume", "t", "--max", "-1"],
        &["replay", "t"],
        &["replay", "t", "--from", "2013-01-01", "--speed", "0"],
        &["replay", "t", "--from", "2013-01-01", "--to", ""],
        &[
            "replay",
            "t",
            "--from",
            "2013-01-01",
            "--to",
            "https://localhost/x",
        ],
        &["replay", "t", "--from", "2013-01-02", "--until", "2013-01-01"],
        &["group", "reset", "g", "--topic", "t"],
        &["group", "reset", "g", "--topic", "t", "--to", "soon"],
        &["group", "reset", "g", "--topic", "t", "--to", "5"],
        &["group", "seek", "g"],
        &["consume", "t", "--from", "5"],
        &["consume", "t", "--last", "0"],
        &["consume", "t", "--last", "5", "--group", "g"],
        &["consume", "t", "--format", "%x"],
        &["consume", "t", "--format", "%v", "--raw"],
        &["consume", "t", "u", "--partition", "0"],
        &["consume", "t", "--header", "type"],
        &["topic", "create", "t", "--config", "retention_ms=soon"],
        &["topic", "list", "--server", "http://h:99999"],
        &["topic", "list", "--context", "no-such-context"],
        &["context", "set", "c"],
        &["lag", "--fail-above-time", "5"],
        &["lag", "--interval", "2s"],
        &["lag", "--watch", "--interval", "1ms"],
        &["completions", "cobol"],
        &["demo", "--listen", "nowhere"],
    ] {
        let output = quipu(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn completions_exist_for_every_shell_and_a_closed_pipe_is_a_quiet_end() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = quipu(&["completions", shell]).output().unwrap();
        assert!(
            output.status.success() && stdout(&output).contains("quipu"),
            "{shell}"
        );
    }
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}
