//! The real binary: starting, refusing to start, slow and greedy clients, stopping, being killed.
#![allow(clippy::disallowed_methods, reason = "it looks at the binary's files")]

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;
use support::{Connection, PATIENCE, Server, contains};
use tempfile::TempDir;

const OFFSETS: &str = "/v1/groups/g/offsets";
const NONE: &[u8] = b"{\"offsets\":[]}";
const JSON: &str = "application/json";
/// Small sizes, so that a log is created fast.
const SMALL: &str = "--journal-file-bytes 4194304 --max-request-bytes 1048576";
const LIVE: &str = "/health/live";
const RECORDS: &str = "/v1/topics/t/records";

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Starts a server with these flags on the directory `data` in `dir`.
fn start(dir: &TempDir, flags: &str) -> Server {
    let flags = format!("{SMALL} {flags}");
    Server::start_with_flags(&dir.path().join("data"), &flags, &[])
}

/// The same on a new directory.
fn started(flags: &str) -> (TempDir, Server) {
    let dir = temporary();
    let server = start(&dir, flags);
    (dir, server)
}

/// The command that starts a server, with nothing else in its environment.
fn quipu(data: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.env_clear().args(["serve", "--listen", "127.0.0.1:0"]);
    command.args(SMALL.split(' ')).arg("--data").arg(data).args(flags);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a server that must not start; returns the one line that says why.
#[track_caller]
fn refusal(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Asks whether the server lives, on a connection that stays open.
#[track_caller]
fn ask_whether_it_lives(connection: &mut Connection) {
    connection.get(LIVE).with_status(200);
}

/// A connection on which so many requests were answered, although the server soon closes those that pause: where this
/// client was too slow, it tries again.
fn answered(server: &Server, times: usize) -> Connection {
    let begin = std::time::Instant::now();
    loop {
        let mut connection = server.connect();
        let answers = (0..times).map_while(|_| connection.request("GET", LIVE, "", b"").ok());
        if answers.filter(|answer| answer.status == 200).count() == times {
            return connection;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "no connection is answered {times} times"
        );
    }
}

/// The server must close the connection without another byte; a reset counts as a close unless `in_order`.
#[track_caller]
fn is_closed(connection: &mut Connection, in_order: bool) {
    let mut rest = Vec::new();
    let read = connection.stream.read_to_end(&mut rest);
    assert!(read.is_ok() || !in_order, "{read:?}");
    assert!(rest.is_empty(), "{rest:?}");
}

/// A connection that has sent the head of a commit, whose body the server waits for.
fn begun(server: &Server, length: usize) -> Connection {
    let mut connection = server.connect();
    let headers = format!("content-type: {JSON}\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n");
    connection.begin("PUT", OFFSETS, &headers);
    assert_eq!(connection.reply_head().status, 100);
    connection
}

#[test]
fn committed_offsets_survive_signals_that_end_with_0_and_a_kill_and_a_start_logs_one_line() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let dir = temporary();
        let mut server = start(&dir, "");
        server.create_topic("t", 50);
        for partition in 0..50 {
            let path = format!("{RECORDS}?partition={partition}");
            server.expect(200, "POST", &path, "text/plain", b"x");
        }
        server.expect(200, "PUT", OFFSETS, JSON, NONE);
        server.signal(signal);
        let code = (signal != Signal::KILL).then_some(0);
        assert_eq!(server.wait().code(), code, "{signal:?}");
        let before = server.log();
        let server = start(&dir, "");
        let lines = loop {
            let log = server.log().split_off(before.len());
            if log.ends_with('\n') {
                break log;
            }
            std::thread::yield_now();
        };
        assert_eq!(lines.lines().count(), 1, "{lines}");
        contains(&lines, "the server is ready");
        server.get("/v1/groups/g");
        assert_eq!(server.get("/health/ready")["degraded"], serde_json::json!([]));
        server.stop();
    }
}

/// The state remembers such a record under a key that begins as those of tokens do.
#[test]
fn a_record_that_is_not_where_its_key_says_is_not_taken_for_a_token() {
    let (dir, server) = started("");
    server.create_topic("t", 4);
    let record = |partition| format!(r#"{{"partition":{partition},"key":"k","value":1}}"#);
    let records: Vec<String> = (0..4).map(record).collect();
    let body = format!(r#"{{"records":[{}]}}"#, records.join(","));
    server.expect(200, "POST", RECORDS, JSON, body.as_bytes());
    server.stop();
    let server = start(&dir, "");
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn a_wrong_setting_is_named_and_nothing_is_made() {
    let dir = temporary();
    let data = dir.path().join("data");
    let file = dir.path().join("quipu.toml");
    std::fs::write(&file, "log_level = \"info\"\nmax_conections = 5\n").unwrap();
    let line = refusal(quipu(&data, &["--config"]).arg(&file));
    contains(&line, "quipu.toml line 2: max_conections is not a setting");
    contains(&line, "did you mean max_connections?");
    let line = refusal(quipu(&data, &[]).env("QUIPU_LOG_FORMAT", "xml"));
    let why = "QUIPU_LOG_FORMAT: log_format is \"xml\", but it must be text or json";
    contains(&line, why);
    contains(&refusal(quipu(&data, &[]).env("QUIPU_LISTN", "x")), "QUIPU_LISTN");
    let line = refusal(quipu(&data, &[]).env("QUIPU_DATA", OsStr::from_bytes(b"elsewhere\xff")));
    contains(&line, "QUIPU_DATA is not UTF-8");
    let line = refusal(&mut quipu(&data, &["--config", "/nowhere/quipu.toml"]));
    contains(&line, "/nowhere/quipu.toml");
    let output = quipu(&data, &["--max-connections", "many"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "wrong usage");
    let text = String::from_utf8_lossy(&output.stderr);
    contains(&text, "a whole number from 1 to 1000000");
    assert!(!data.exists());
}

#[test]
fn variables_of_the_clients_do_not_stop_the_server() {
    let dir = temporary();
    let names = ["QUIPU_SERVER", "QUIPU_TOKEN", "QUIPU_TEST_ANYTHING", "QUIPU_SEED"];
    let settings = names.map(|name| (name, "x"));
    Server::start_with_settings(&dir.path().join("data"), &settings).stop();
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let dir = temporary();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Nobody can make a directory there, not even root.
    for data in [Path::new("/proc/quipu"), &file, &file.join("data")] {
        let line = refusal(&mut quipu(data, &["--log-level", "error"]));
        contains(&line, data.to_str().unwrap());
    }
}

#[test]
fn what_is_acknowledged_under_load_before_a_stop_is_what_is_stored() {
    let (dir, mut server) = started("");
    server.create_topic("t", 4);
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut connection = server.connect();
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                while let Ok(answer) = connection.request("POST", RECORDS, "text/plain", b"1") {
                    if answer.status == 200 {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        while acknowledged.load(Ordering::Relaxed) < 200 {
            std::thread::yield_now();
        }
        server.signal(Signal::TERM);
    });
    assert_eq!(server.wait().code(), Some(0));
    let topic = start(&dir, "").get("/v1/topics/t");
    let ends = topic["partitions"].as_array().unwrap().iter();
    let stored: u64 = ends.map(|row| row["end_offset"].as_u64().unwrap()).sum();
    assert_eq!(stored, acknowledged.into_inner());
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let (dir, server) = started("");
    let line = refusal(&mut quipu(&dir.path().join("data"), &["--log-level", "error"]));
    contains(&line, "is in use by another process");
    server.get(LIVE);
    server.stop();
}

#[test]
fn a_taken_address_is_named_and_the_data_directory_is_left_alone() {
    let (dir, server) = started("");
    let taken = server.address.to_string();
    let other = dir.path().join("other");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.args(["serve", "--listen", &taken, "--data"]);
    command.arg(&other).env_clear();
    contains(&refusal(&mut command), &format!("cannot listen on {taken}"));
    assert!(!other.exists());
}

#[test]
fn a_closed_standard_output_stops_nothing() {
    let dir = temporary();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = quipu(dir.path(), &["--log-format", "json"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the server ended");
        let entry: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        if let Some(address) = entry["fields"]["address"].as_str() {
            break address.parse().unwrap();
        }
    };
    ask_whether_it_lives(&mut Connection::open(address).unwrap());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn on_a_full_disk_reads_are_ready_and_writes_are_when_something_is_deleted() {
    let dir = temporary();
    // No file may be larger than 10 MiB: beyond that a write fails, as on a full disk.
    let mut shell = Command::new("sh");
    let exec = format!("trap '' XFSZ; ulimit -f 20480; exec \"$0\" \"$@\" {SMALL}");
    shell.args(["-c", &exec, env!("CARGO_BIN_EXE_quipu")]);
    let server = Server::try_start(&dir.path().join("data"), shell).expect("it starts");
    server.create_topic("t", 1);
    server.create_topic("other", 1);
    let value = vec![0; 500_000];
    let mut connection = server.connect();
    let mut send = |topic: &str| {
        let path = format!("/v1/topics/{topic}/records");
        let answer = connection.request("POST", &path, "application/octet-stream", &value);
        answer.expect("it answers")
    };
    let full = (0..100).map(|_| send("t")).find(|answer| answer.status != 200);
    full.expect("no file grows for ever")
        .refusal(507, "storage-full", "none");
    assert_eq!(server.get("/health/ready")["status"], "degraded");
    for path in ["/health/ready", "/v1/status"] {
        assert_eq!(server.get(path)["degraded"][0]["what"], "storage-full", "{path}");
    }
    let problem = server.connect().get("/health/ready?for=writes");
    problem.problem(507, "storage-full");
    let page = server.get("/v1/topics/t/partitions/0/records?offset=1&max_records=1");
    assert_eq!(page["next_offset"], 2);
    server.expect(204, "DELETE", "/v1/topics/t", JSON, b"");
    send("other").with_status(200);
    assert_eq!(server.get("/health/ready?for=writes")["status"], "ready");
    server.stop();
}

#[test]
fn a_connection_above_the_limit_is_told_so_and_one_that_ends_makes_room() {
    let (_dir, server) = started("--max-connections 1");
    // The server notices the end of a connection in its own time.
    let connected = || loop {
        let mut connection = server.connect();
        if connection.get(LIVE).status == 200 {
            return connection;
        }
    };
    let first = connected();
    let second = server.connect().get(LIVE);
    second.problem(503, "overloaded");
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(second.header("connection"), Some("close"));
    drop(first);
    connected();
    server.stop();
}

#[test]
fn a_client_that_does_not_finish_its_head_is_cut() {
    let (_dir, server) = started("--header-read-timeout-ms 200");
    for beginning in ["", "GET /health/live HTTP/1.1\r\nhost: localhost"] {
        let mut connection = server.connect();
        connection.say(beginning.as_bytes());
        is_closed(&mut connection, false);
    }
    // Also on a connection that has been answered before.
    let mut connection = answered(&server, 1);
    connection.say(b"GET /");
    is_closed(&mut connection, false);
    server.stop();
}

#[test]
fn a_client_that_pauses_within_its_body_is_answered_408() {
    let (_dir, server) = started("--body-idle-timeout-ms 50");
    let mut connection = server.connect();
    let text = format!("content-type: {JSON}\r\ncontent-length: 100\r\n");
    connection.begin("PUT", OFFSETS, &text);
    connection.say(b"{\"off");
    connection.answered().problem(408, "request-timeout");
    connection.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    connection.stream.read_to_end(&mut Vec::new()).unwrap();
    server.stop();
}

#[test]
fn an_idle_connection_is_closed_in_the_end() {
    let (_dir, server) = started("--idle-timeout-ms 200");
    let mut connection = answered(&server, 2);
    is_closed(&mut connection, true);
    server.stop();
}

#[test]
fn a_body_that_is_too_large_is_refused_such_that_a_client_still_writing_can_read_it() {
    let (_dir, server) = started("--max-request-bytes 1024");
    let mut connection = server.connect();
    let answer = connection.call("PUT", OFFSETS, JSON, &vec![b' '; 16 << 20]);
    answer.problem(413, "request-too-large");
    drop(connection);
    server.stop();
}

#[test]
fn a_body_that_is_not_http_is_the_clients_mistake() {
    let (_dir, server) = started("");
    let mut connection = server.connect();
    let text = format!("content-type: {JSON}\r\ntransfer-encoding: chunked\r\n");
    connection.begin("PUT", OFFSETS, &text);
    connection.say(b"not a length\r\n");
    connection.answered().problem(400, "invalid-request");
    drop(connection);
    server.stop();
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let (_dir, server) = started("--max-request-head-bytes 8192");
    let mut connection = server.connect();
    connection.begin("GET", "/", &format!("x: {}\r\n", "x".repeat(10_000)));
    assert_eq!(connection.reply_head().status, 431);
    server.stop();
}

#[test]
fn a_request_in_flight_is_answered_before_the_server_stops() {
    let (_dir, mut server) = started("");
    let mut idle = server.connect();
    ask_whether_it_lives(&mut idle);
    // The server asks for the body only once it works on the request.
    let mut connection = begun(&server, NONE.len());
    let (begin, rest) = NONE.split_at(NONE.len() - 4);
    connection.say(begin);
    server.signal(Signal::TERM);
    // The idle connection ends first: the server is draining then.
    idle.stream.read_to_end(&mut Vec::new()).unwrap();
    // As `timeout` does, and a terminal that closes: it means the same.
    server.signal(Signal::TERM);
    server.signal(Signal::HUP);
    connection.say(rest);
    let answer = connection.answered().with_status(200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_drain_that_takes_too_long_is_cut_and_ctrl_c_does_not_wait_for_it() {
    let (dir, server) = started("--drain-timeout-ms 20");
    let _connection = begun(&server, 9);
    server.stop();

    let mut server = start(&dir, "--drain-timeout-ms 86400000");
    let mut idle = server.connect();
    let _connection = begun(&server, 9);
    server.signal(Signal::TERM);
    idle.stream.read_to_end(&mut Vec::new()).unwrap();
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn a_page_of_another_origin_changes_nothing_on_any_route() {
    let (_dir, server) = started("--cors-origins 'https://app.example,*'");
    let document = server.get("/openapi.json");
    let mut changes = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let concrete = path.replace("{partition}", "0").replace(['{', '}'], "");
        for method in operations.as_object().expect("operations").keys() {
            let method = method.to_ascii_uppercase();
            let send = |host: &str, headers: &str| {
                let mut connection = server.connect();
                let start = format!("{method} {concrete} HTTP/1.1\r\nhost: {host}");
                connection.say(format!("{start}\r\n{headers}connection: close\r\n\r\n").as_bytes());
                connection.reply_head().status
            };
            assert_eq!(send("evil.example", ""), 403, "{method} {path}");
            assert_eq!(send("localhost\r\nhost: localhost", ""), 400, "{method} {path}");
            let is_change = !["GET", "HEAD", "OPTIONS"].contains(&&*method);
            changes += u32::from(is_change);
            for (headers, is_foreign) in [
                ("origin: https://evil.example\r\n", true),
                ("origin: null\r\n", true),
                ("origin: http://localhost:3000\r\n", true),
                ("sec-fetch-site: cross-site\r\n", true),
                ("origin: http://localhost\r\n", false),
                ("origin: https://app.example\r\n", false),
                ("sec-fetch-site: none\r\n", false),
                ("", false),
            ] {
                let is_forbidden = send("localhost", headers) == 403;
                assert_eq!(is_forbidden, is_change && is_foreign, "{method} {path} {headers}");
            }
        }
    }
    assert!(changes >= 15, "{changes} routes that change something");
    server.stop();
}

#[test]
fn an_answer_before_the_body_was_asked_for_says_that_the_connection_closes() {
    let (_dir, server) = started("");
    server.create_topic("t", 1);
    let text = "content-type: text/plain\r\ncontent-length: 9\r\n";
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 9\r\n";
    let large = "content-type: application/json\r\ncontent-length: 99999999\r\n";
    let foreign = "origin: https://elsewhere.example\r\ncontent-length: 9\r\n";
    for (path, method, headers, status) in [
        ("/nothing", "PUT", text, 404),
        (LIVE, "PUT", text, 405),
        ("/v1/topics/t?x=1", "PUT", text, 400),
        ("/v1/topics/none/records", "POST", text, 404),
        (RECORDS, "POST", form, 415),
        (RECORDS, "POST", large, 413),
        (RECORDS, "POST", foreign, 403),
        (OFFSETS, "PUT", foreign, 403),
    ] {
        let mut connection = server.connect();
        connection.begin(method, path, &format!("{headers}expect: 100-continue\r\n"));
        let answer = connection.answered().with_status(status);
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
    }
    server.stop();
}

#[test]
fn requests_sent_together_are_answered_in_order_and_counted() {
    let (_dir, server) = started("");
    let mut connection = server.connect();
    let head = |method: &str, path: &str, headers: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
    };
    let length = format!("content-type: {JSON}\r\ncontent-length: {}\r\n", NONE.len());
    let put = head("PUT", OFFSETS, &length) + std::str::from_utf8(NONE).unwrap();
    let gets = ["/v1/groups/g", "/v1/groups/none", "/nothing"].map(|path| head("GET", path, ""));
    connection.say((put + &gets.concat()).as_bytes());
    for status in [200, 200, 404, 404] {
        connection.answered().with_status(status);
    }
    let metrics = server.connect().get("/metrics");
    for line in [
        "quipu_http_requests_total{route=\"/v1/groups/{group}/offsets\",method=\"PUT\",status=\"2xx\"} 1",
        "quipu_http_requests_total{route=\"/v1/groups/{group}\",method=\"GET\",status=\"2xx\"} 1",
        "quipu_http_requests_total{route=\"/v1/groups/{group}\",method=\"GET\",status=\"4xx\"} 1",
        "quipu_http_requests_total{route=\"unmatched\",method=\"other\",status=\"4xx\"} 1",
        "quipu_http_request_duration_seconds_count{route=\"/v1/groups/{group}\",method=\"GET\",status=\"4xx\"} 1",
    ] {
        contains(metrics.text(), line);
    }
    server.stop();
}
