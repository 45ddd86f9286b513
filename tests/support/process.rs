//! The real binary in a process of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::client::Connection;
use super::{PATIENCE, anonymous_bytes, memory};

/// A running server. It is killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// The address for Kafka's clients, if it listens for them.
    pub kafka: Option<SocketAddr>,
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
        let exec = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        shell.args(["-c", &exec, env!("CARGO_BIN_EXE_quipu")]);
        Self::spawn(data, shell)
    }

    /// The same with flags, as a shell splits them.
    pub fn start_with_flags(data: &Path, flags: &str, settings: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("sh");
        let exec = format!("exec \"$0\" \"$@\" {flags}");
        shell.args(["-c", &exec, env!("CARGO_BIN_EXE_quipu")]);
        shell.envs(settings.iter().copied());
        Self::spawn(data, shell)
    }

    fn spawn(data: &Path, command: Command) -> Self {
        Self::try_start(data, command).unwrap_or_else(|log| panic!("no start; the log says:\n{log}"))
    }

    /// The same with any command that becomes the binary in the end; the arguments of the binary are appended to it.
    /// `Err` with the log and the exit status, if it ended before it was ready.
    pub fn try_start(data: &Path, mut command: Command) -> Result<Self, String> {
        remove_settings(&mut command);
        let log = data.with_extension("log");
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log can be written");
        let begin = Instant::now();
        let listens_for_kafka = command
            .get_envs()
            .any(|(name, value)| name == "QUIPU_KAFKA_LISTEN" && value.is_some());
        let mut child = command
            .args([OsStr::new("serve"), OsStr::new("--data"), data.as_os_str()])
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.as_mut().expect("piped"));
        let mut next_line = || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("standard output can be read");
            line
        };
        let named = |line: &str| -> Option<SocketAddr> {
            line.split(|c: char| c.is_whitespace() || c == '/')
                .find_map(|word| word.trim_end_matches(['.', ',']).parse().ok())
        };
        let line = next_line();
        let address = named(&line);
        let kafka = listens_for_kafka.then(|| named(&next_line())).flatten();
        let mut server = Self {
            child,
            address: address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
            kafka,
            log,
            ready_after: Duration::ZERO,
        };
        while !server.is_ready() {
            if address.is_none() || server.has_ended().is_some() {
                let status = server.wait();
                return Err(format!("{}{line}ended with {status}", server.log()));
            }
            let is_late = begin.elapsed() >= PATIENCE;
            assert!(!is_late, "not ready; the log says:\n{}", server.log());
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

    /// Sends SIGTERM; returns how the process ends.
    pub fn terminate(mut self) -> ExitStatus {
        // It may have ended by itself.
        let _ = self.try_signal(Signal::TERM);
        self.wait()
    }

    pub fn signal(&self, signal: Signal) {
        self.try_signal(signal).expect("it runs");
    }

    fn try_signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap_or_else(|error| {
            let log = self.log();
            panic!("{} does not accept: {error}; the log says:\n{log}", self.address)
        })
    }

    /// One request on a connection of its own, which must be answered with `status`.
    pub fn expect(&self, status: u16, method: &str, path: &str, content_type: &str, body: &[u8]) -> Value {
        let answer = self.connect().call(method, path, content_type, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer.json_or_null()
    }

    pub fn create_topic(&self, name: &str, partitions: u32) {
        let body = format!(r#"{{"partitions":{partitions}}}"#);
        let path = format!("/v1/topics/{name}");
        self.expect(201, "PUT", &path, "application/json", body.as_bytes());
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
        self.signal(Signal::TERM);
        let status = self.wait();
        let log = self.log();
        assert!(status.success(), "ended with {status}; the log says:\n{log}");
    }

    /// Waits until it ends by itself; returns how.
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it was started here") {
                return status;
            }
            let is_late = begin.elapsed() >= PATIENCE;
            assert!(!is_late, "does not end; the log says:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The server's memory that is not file pages, in bytes.
    pub fn anonymous_bytes(&self) -> u64 {
        anonymous_bytes(&self.pid().to_string())
    }

    /// The server's addresses in use, touched or not, in bytes: what it has allocated and never written shows here alone.
    pub fn virtual_bytes(&self) -> u64 {
        memory(&self.pid().to_string(), "VmSize:")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python of `QUIPU_TEST_PYTHON`, else `python3`, else that of a Kafka client ([`kafka_clients`]); `None` if none of
/// them can run this import.
pub fn python_with(import: &str) -> Option<OsString> {
    let python = std::env::var_os("QUIPU_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let clients = ["kafka-python-3", "kafka-python-2", "aiokafka", "confluent-kafka"];
    let clients = clients.map(|name| kafka_clients().join(name).join("bin/python").into_os_string());
    std::iter::once(python).chain(clients).find(|python| {
        let mut probe = Command::new(python);
        let status = probe.args(["-c", import]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    })
}

/// Where `tests/kafka_clients/install` has installed Kafka's clients: `QUIPU_TEST_KAFKA_CLIENTS`, else in `target`.
pub fn kafka_clients() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let given = std::env::var_os("QUIPU_TEST_KAFKA_CLIENTS").map(PathBuf::from);
    given.unwrap_or_else(|| target.expect("a directory below target").join("kafka-clients"))
}

/// Removes the settings of the tests' own environment, which are not meant for the servers that they start.
fn remove_settings(command: &mut Command) {
    let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"QUIPU_") && !given.contains(&name) {
            command.env_remove(name);
        }
    }
}
