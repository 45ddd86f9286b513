//! What the tests of the real binary share: a server in a process of its own, and a plain HTTP/1.1 connection to it.
//!
//! The connection is a bare socket, so that a test can also hang up, stall and send what no client library would. Every
//! wait is bounded by a time-out of minutes: it ends a test that hangs and decides nothing else.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "each test uses a part; tests look at the real files and clock"
)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A running server. It is killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
    /// From the start of the process to the first 200 of `/health/ready`.
    pub ready_after: Duration,
}

impl Server {
    /// Starts the binary on a data directory and waits until it is ready.
    pub fn start(data: &Path) -> Self {
        Self::start_with_settings(data, &[])
    }

    /// The same with settings, named as in the environment.
    pub fn start_with_settings(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
        command.envs(settings.iter().copied());
        Self::spawn(data, command)
    }

    /// The same under `ulimit -n`, soft and hard.
    pub fn start_with_open_files(data: &Path, limit: u32) -> Self {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("ulimit -n {limit} && exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_quipu"),
        ]);
        Self::spawn(data, shell)
    }

    fn spawn(data: &Path, command: Command) -> Self {
        Self::try_start(data, command).unwrap_or_else(|log| panic!("no start; the log says:\n{log}"))
    }

    /// The same with any command that ends in being the binary, to which its arguments are added; `Err` with its log and
    /// how it ended where it did before it was ready.
    pub fn try_start(data: &Path, mut command: Command) -> Result<Self, String> {
        remove_settings(&mut command);
        let log = data.with_extension("log");
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log can be written");
        let begin = Instant::now();
        let mut child = command
            .args([OsStr::new("serve"), OsStr::new("--data"), data.as_os_str()])
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("standard output can be read");
        let address = line
            .split(|c: char| c.is_whitespace() || c == '/')
            .find_map(|word| word.trim_end_matches(['.', ',']).parse().ok());
        let mut server = Self {
            child,
            address: address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
            log,
            ready_after: Duration::ZERO,
        };
        while !server.is_ready() {
            if address.is_none() || server.has_ended().is_some() {
                let status = server.wait();
                return Err(format!("{}{line}ended with {status}", server.log()));
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "not ready; the log says:\n{}",
                server.log()
            );
            std::thread::yield_now();
        }
        server.ready_after = begin.elapsed();
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        Connection::open(self.address)
            .and_then(|mut connection| connection.request("GET", "/health/ready", "", b""))
            .is_ok_and(|answer| answer.status == 200)
    }

    /// How the process has ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it was started here")
    }

    /// SIGTERM, and how it then ends.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.wait()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap_or_else(|error| {
            panic!(
                "{} does not accept: {error}; the log says:\n{}",
                self.address,
                self.log()
            )
        })
    }

    /// One request on a connection of its own, which must be answered with `status`.
    pub fn expect(&self, status: u16, method: &str, path: &str, content_type: &str, body: &[u8]) -> Value {
        let answer = self
            .connect()
            .request(method, path, content_type, body)
            .expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        if answer.body.is_empty() {
            Value::Null
        } else {
            answer.json()
        }
    }

    pub fn create_topic(&self, name: &str, partitions: u32) {
        let body = format!(r#"{{"partitions":{partitions}}}"#);
        self.expect(
            201,
            "PUT",
            &format!("/v1/topics/{name}"),
            "application/json",
            body.as_bytes(),
        );
    }

    pub fn get(&self, path: &str) -> Value {
        self.expect(200, "GET", path, "", b"")
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started here");
    }

    /// SIGTERM; the server must end by itself with 0.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = self.wait();
        assert!(
            status.success(),
            "ended with {status}; the log says:\n{}",
            self.log()
        );
    }

    fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it was started here") {
                return status;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "does not end; the log says:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The server's memory that is not file pages, in bytes.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("Linux says it");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number of KiB")
            * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is set where the tests run is not meant for the servers that they start.
fn remove_settings(command: &mut Command) {
    let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"QUIPU_") && !given.contains(&name) {
            command.env_remove(name);
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(2000).collect()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// Checks that this is a problem with that status, code and outcome, and returns it.
    pub fn problem(&self, status: u16, code: &str, outcome: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.text()
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["outcome"], outcome, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.len() > 10),
            "{problem}"
        );
        problem
    }
}

/// A keep-alive connection.
pub struct Connection {
    pub stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::with_capacity(64 << 10, stream),
        })
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "", b"").expect("an answer")
    }

    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        self.request_with(method, path, content_type, "", body)
    }

    /// The same with more headers, each with its line break.
    pub fn request_with(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut headers = headers.to_owned();
        if !content_type.is_empty() {
            headers += &format!("Content-Type: {content_type}\r\n");
        }
        if method != "GET" {
            headers += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send_head(method, path, &headers)?;
        self.send(body)?;
        self.answer()
    }

    /// A GET with the value of `Accept`.
    pub fn get_as(&mut self, path: &str, accept: &str) -> io::Result<Answer> {
        self.send_head("GET", path, &format!("Accept: {accept}\r\n"))?;
        self.answer()
    }

    pub fn send_head(&mut self, method: &str, path: &str, headers: &str) -> io::Result<()> {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends one chunk of a chunked body; an empty one ends the body.
    pub fn send_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        self.send(bytes)?;
        self.send(b"\r\n")
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.answer_head()?;
        answer.body = self.answer_body(&answer)?;
        Ok(answer)
    }

    /// Reads the body that belongs to a head.
    pub fn answer_body(&mut self, head: &Answer) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(self.line()?.trim(), 16).map_err(|_| bad("chunk size"))?;
                (&mut self.stream).take(size as u64).read_to_end(&mut body)?;
                if self.line()? != "\r\n" {
                    return Err(bad("chunk end"));
                }
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.header("content-length") {
            let length = length.parse().map_err(|_| bad("content length"))?;
            (&mut self.stream).take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(body)
    }

    /// Reads the head of an answer; its body follows in `stream`.
    pub fn answer_head(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| bad(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok(Answer {
                    status,
                    headers,
                    body: Vec::new(),
                });
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}

/// A stored record as an NDJSON fetch gives it, with the value's bytes as they came.
#[derive(serde::Deserialize)]
pub struct Fetched {
    pub partition: u32,
    pub offset: u64,
    pub timestamp: i64,
    pub key: Option<String>,
    pub value: Box<serde_json::value::RawValue>,
}

/// Reads a partition from `offset` to its end as NDJSON and hands over each record.
pub fn read_partition(
    connection: &mut Connection,
    topic: &str,
    partition: u32,
    mut offset: u64,
    mut each: impl FnMut(Fetched),
) {
    loop {
        let path = format!(
            "/v1/topics/{topic}/partitions/{partition}/records?offset={offset}&max_records=100000&max_bytes=8388608"
        );
        let answer = connection
            .get_as(&path, "application/x-ndjson")
            .expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        for line in answer.body.split_inclusive(|byte| *byte == b'\n') {
            assert_eq!(line.last(), Some(&b'\n'), "an unfinished line");
            let record: Fetched = serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(line)));
            assert!(
                record.offset >= offset,
                "offset {} comes after {offset}",
                record.offset
            );
            assert_eq!(record.partition, partition);
            offset = record.offset + 1;
            each(record);
        }
        let number = |name: &str| {
            answer
                .header(name)
                .and_then(|v| v.parse::<u64>().ok())
                .expect("a position")
        };
        let next = number("next-offset");
        assert!(next >= offset, "next offset {next} is before {offset}");
        let at_end = next >= number("end-offset");
        assert!(
            at_end || !answer.body.is_empty(),
            "an empty page before the end, at {next}"
        );
        offset = next;
        if at_end {
            return;
        }
    }
}

/// A small generator of random numbers (SplitMix64); the seed is printed by its maker.
pub struct Rng(u64);

impl Rng {
    /// Seeded by `QUIPU_TEST_SEED` or the time, and says so.
    pub fn from_environment(test: &str) -> Self {
        let seed = std::env::var("QUIPU_TEST_SEED").ok().map_or_else(
            || {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                now.expect("the clock is past 1970").as_nanos() as u64
            },
            |seed| seed.parse().expect("QUIPU_TEST_SEED is a number"),
        );
        println!("{test}: QUIPU_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One more generator, for a thread of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
