//! The real binary: starting, refusing to start, slow and greedy clients, stopping, being killed.
#![allow(
    clippy::disallowed_methods,
    reason = "what the binary does to files is looked at from outside"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A server that is killed if the test ends without stopping it.
struct Server {
    child: Child,
    addr: SocketAddr,
}

fn quipu(dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--journal-file-bytes",
            "4194304",
        ])
        .args(["--max-request-bytes", "1048576", "--data"])
        .arg(dir)
        .args(flags)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Server {
    fn start(dir: &Path, flags: &[&str]) -> Self {
        let mut child = quipu(dir, flags)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary runs");
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let addr = line
            .trim()
            .rsplit("http://")
            .next()
            .and_then(|addr| addr.parse().ok());
        Self {
            child,
            addr: addr.unwrap_or_else(|| panic!("no address in {line:?}")),
        }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).expect("the server accepts")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().expect("it ends").code()
    }

    fn send(&self, method: &str, path: &str, body: &str) -> String {
        exchange(self.connect(), method, path, body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends one request, and returns the answer's head and body.
fn exchange(mut stream: TcpStream, method: &str, path: &str, body: &str) -> String {
    stream
        .write_all(request(method, path, body).as_bytes())
        .expect("sent");
    read_answer(&mut BufReader::new(stream))
}

fn read_answer(stream: &mut impl BufRead) -> String {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        assert!(
            stream.read_line(&mut line).expect("a line") > 0,
            "closed within the head {head:?}"
        );
        if line == "\r\n" {
            break;
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    stream.read_exact(&mut body).expect("a body");
    head + "\n" + &String::from_utf8(body).expect("text")
}

/// Runs a server that must not start; the one line that says why.
#[track_caller]
fn refusal(command: &mut Command) -> String {
    let Output {
        status,
        stderr,
        stdout,
    } = command.output().expect("the binary runs");
    let text = String::from_utf8(stderr).expect("text");
    assert!(stdout.is_empty(), "{stdout:?}");
    assert_eq!(status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

const OFFSETS: &str = "/v1/groups/g/offsets";
const NONE: &str = "{\"offsets\":[]}";

#[test]
fn sigterm_ends_with_0_and_the_next_start_finds_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert!(server.send("PUT", OFFSETS, NONE).starts_with("http/1.1 200"));
    assert_eq!(server.stop(), Some(0));
    let server = Server::start(dir.path(), &[]);
    assert!(server.send("GET", "/v1/groups/g", "").starts_with("http/1.1 200"));
    let ready = server.send("GET", "/health/ready", "");
    assert!(ready.contains("\"degraded\":[]"), "{ready}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_was_committed_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    assert!(server.send("PUT", OFFSETS, NONE).starts_with("http/1.1 200"));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert!(server.send("GET", "/v1/groups/g", "").starts_with("http/1.1 200"));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_wrong_setting_is_named_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("quipu.toml");
    std::fs::write(&file, "log_level = \"info\"\nmax_conections = 5\n").unwrap();
    let line = refusal(quipu(&data, &["--config"]).arg(&file));
    assert!(
        line.contains("quipu.toml line 2: max_conections is not a setting"),
        "{line}"
    );
    assert!(line.contains("did you mean max_connections?"), "{line}");
    let line = refusal(quipu(&data, &[]).env("QUIPU_LOG_FORMAT", "xml"));
    assert!(
        line.contains("QUIPU_LOG_FORMAT: log_format is \"xml\", but it must be text or json"),
        "{line}"
    );
    let line = refusal(quipu(&data, &[]).env("QUIPU_LISTN", "x"));
    assert!(line.contains("QUIPU_LISTN"), "{line}");
    let line = refusal(&mut quipu(&data, &["--config", "/nowhere/quipu.toml"]));
    assert!(line.contains("/nowhere/quipu.toml"), "{line}");
    let output = quipu(&data, &["--max-connections", "many"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "wrong usage");
    assert!(String::from_utf8_lossy(&output.stderr).contains("a whole number from 1 to 1000000"));
    assert!(!data.exists());
}

#[test]
fn variables_of_the_clients_do_not_stop_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = quipu(dir.path(), &[])
        .env("QUIPU_SERVER", "http://x")
        .env("QUIPU_TOKEN", "x")
        .env("QUIPU_TEST_ANYTHING", "x")
        .env("QUIPU_SEED", "7")
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("http://127.0.0.1:"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let line = refusal(&mut quipu(dir.path(), &["--log-level", "error"]));
    assert!(line.contains("is in use by another process"), "{line}");
    assert!(server.send("GET", "/health/live", "").starts_with("http/1.1 200"));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_taken_address_is_named_and_the_data_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("a"), &[]);
    let addr = server.addr.to_string();
    let line = refusal(
        Command::new(env!("CARGO_BIN_EXE_quipu"))
            .args(["serve", "--listen", &addr, "--data"])
            .arg(dir.path().join("b"))
            .env_clear(),
    );
    assert!(line.contains(&format!("cannot listen on {addr}")), "{line}");
    assert!(!dir.path().join("b").exists());
}

#[test]
fn a_closed_standard_output_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = quipu(dir.path(), &["--log-format", "json"])
        .stdout(writer)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let addr = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the server ended");
        let entry: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        if let Some(addr) = entry["fields"]["address"].as_str() {
            break addr.parse().unwrap();
        }
    };
    let server = Server { child, addr };
    assert!(server.send("GET", "/health/live", "").starts_with("http/1.1 200"));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_connection_above_the_limit_is_told_so_and_one_that_ends_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-connections", "1"]);
    let mut first = BufReader::new(server.connect());
    first
        .get_mut()
        .write_all(request("GET", "/health/live", "").as_bytes())
        .unwrap();
    assert!(read_answer(&mut first).starts_with("http/1.1 200"));
    let second = server.send("GET", "/health/live", "");
    assert!(
        second.starts_with("http/1.1 503") && second.contains("\"code\":\"overloaded\""),
        "{second}"
    );
    assert!(
        second.contains("retry-after: 1") && second.contains("connection: close"),
        "{second}"
    );
    drop(first);
    // The server notices the end of the first in its own time.
    while !server.send("GET", "/health/live", "").starts_with("http/1.1 200") {}
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_client_that_does_not_finish_its_head_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--header-read-timeout-ms", "50"]);
    for beginning in ["", "GET /health/live HTTP/1.1\r\nhost: localhost"] {
        let mut stream = server.connect();
        stream.write_all(beginning.as_bytes()).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    // Also on a connection that has been answered before.
    let mut stream = BufReader::new(server.connect());
    stream
        .get_mut()
        .write_all(request("GET", "/health/live", "").as_bytes())
        .unwrap();
    assert!(read_answer(&mut stream).starts_with("http/1.1 200"));
    stream.get_mut().write_all(b"GET /").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_client_that_pauses_within_its_body_is_answered_408() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--body-idle-timeout-ms", "50"]);
    let mut stream = BufReader::new(server.connect());
    let head = format!(
        "PUT {OFFSETS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"off"
    );
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let answer = read_answer(&mut stream);
    assert!(
        answer.starts_with("http/1.1 408") && answer.contains("request-timeout"),
        "{answer}"
    );
    let mut rest = Vec::new();
    stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn an_idle_connection_is_closed_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--idle-timeout-ms", "50"]);
    let mut stream = BufReader::new(server.connect());
    for _ in 0..2 {
        stream
            .get_mut()
            .write_all(request("GET", "/health/live", "").as_bytes())
            .unwrap();
        assert!(read_answer(&mut stream).starts_with("http/1.1 200"));
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_body_that_is_too_large_is_refused_such_that_a_client_still_writing_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-request-bytes", "1024"]);
    let mut stream = server.connect();
    let body = " ".repeat(16 << 20);
    let answer = {
        stream
            .write_all(request("PUT", OFFSETS, &body).as_bytes())
            .expect("the server reads on");
        read_answer(&mut BufReader::new(&stream))
    };
    assert!(
        answer.starts_with("http/1.1 413") && answer.contains("request-too-large"),
        "{answer}"
    );
    drop(stream);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_body_that_is_not_http_is_the_clients_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut stream = BufReader::new(server.connect());
    let head = format!(
        "PUT {OFFSETS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nnot a length\r\n"
    );
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let answer = read_answer(&mut stream);
    assert!(
        answer.starts_with("http/1.1 400") && answer.contains("invalid-request"),
        "{answer}"
    );
    drop(stream);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-request-head-bytes", "8192"]);
    let mut stream = server.connect();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(10_000)
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 431"), "{line}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_request_in_flight_is_answered_before_the_server_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    let mut idle = BufReader::new(server.connect());
    idle.get_mut()
        .write_all(request("GET", "/health/live", "").as_bytes())
        .unwrap();
    assert!(read_answer(&mut idle).starts_with("http/1.1 200"));
    let mut stream = BufReader::new(server.connect());
    let whole = request("PUT", OFFSETS, NONE);
    let (begun, rest) = whole.split_at(whole.len() - 4);
    // The server asks for the body only once it works on the request.
    let begun = begun.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    stream.get_mut().write_all(begun.as_bytes()).unwrap();
    assert!(read_answer(&mut stream).starts_with("http/1.1 100"));
    server.signal(Signal::TERM);
    // The idle connection ends first: the server is draining then.
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).unwrap();
    stream.get_mut().write_all(rest.as_bytes()).unwrap();
    let answer = read_answer(&mut stream);
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_does_not_end_in_time_is_cut_and_a_second_signal_does_not_wait_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let begun = |server: &Server| {
        let mut stream = BufReader::new(server.connect());
        let head = format!(
            "PUT {OFFSETS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        assert!(read_answer(&mut stream).starts_with("http/1.1 100"));
        stream
    };
    let server = Server::start(dir.path(), &["--drain-timeout-ms", "20"]);
    let _stream = begun(&server);
    assert_eq!(server.stop(), Some(0));

    let mut server = Server::start(dir.path(), &["--drain-timeout-ms", "86400000"]);
    let mut idle = server.connect();
    let _stream = begun(&server);
    server.signal(Signal::TERM);
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).unwrap();
    server.signal(Signal::INT);
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_page_of_another_origin_changes_nothing_on_any_route() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--cors-origins", "https://app.example,*"]);
    let document = server.send("GET", "/openapi.json", "");
    let (_, document) = document.split_once("\n\n").expect("a head and a body");
    let document: serde_json::Value = serde_json::from_str(document).expect("JSON");
    let mut changes = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let concrete = path.replace("{partition}", "0").replace(['{', '}'], "");
        for method in operations.as_object().expect("operations").keys() {
            let method = method.to_ascii_uppercase();
            let send = |host: &str, headers: &str| {
                let head = format!(
                    "{method} {concrete} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n"
                );
                let mut stream = server.connect();
                stream.write_all(head.as_bytes()).expect("sent");
                let mut line = String::new();
                BufReader::new(stream)
                    .read_line(&mut line)
                    .expect("a status line");
                line["HTTP/1.1 ".len()..][..3].parse::<u16>().expect("a status")
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
                let status = send("localhost", headers);
                assert_eq!(
                    status == 403,
                    is_change && is_foreign,
                    "{method} {path} {headers}: {status}"
                );
            }
        }
    }
    assert!(changes >= 15, "{changes} routes that change something");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn an_answer_before_the_body_was_asked_for_says_that_the_connection_closes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for (target, status) in [
        ("PUT /nothing", 404),
        ("PUT /health/live", 405),
        ("PUT /v1/topics/t?x=1", 400),
        ("POST /v1/topics/none/records", 404),
    ] {
        let mut stream = BufReader::new(server.connect());
        let head = format!(
            "{target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        let answer = read_answer(&mut stream);
        assert!(
            answer.starts_with(&format!("http/1.1 {status}")),
            "{target}: {answer}"
        );
        assert!(answer.contains("connection: close"), "{target}: {answer}");
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn requests_sent_together_are_answered_in_order_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut stream = BufReader::new(server.connect());
    let all = [
        request("PUT", OFFSETS, NONE),
        request("GET", "/v1/groups/g", ""),
        request("GET", "/v1/groups/none", ""),
        request("GET", "/nothing", ""),
    ];
    stream.get_mut().write_all(all.concat().as_bytes()).unwrap();
    for status in ["200", "200", "404", "404"] {
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
    }
    let metrics = server.send("GET", "/metrics", "");
    for line in [
        "quipu_http_requests_total{route=\"/v1/groups/{group}/offsets\",method=\"PUT\",status=\"2xx\"} 1",
        "quipu_http_requests_total{route=\"/v1/groups/{group}\",method=\"GET\",status=\"2xx\"} 1",
        "quipu_http_requests_total{route=\"/v1/groups/{group}\",method=\"GET\",status=\"4xx\"} 1",
        "quipu_http_requests_total{route=\"unmatched\",method=\"other\",status=\"4xx\"} 1",
        "quipu_http_request_duration_seconds_count{route=\"/v1/groups/{group}\",method=\"GET\"} 2",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    assert_eq!(server.stop(), Some(0));
}
