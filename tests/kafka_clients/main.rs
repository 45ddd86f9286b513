//! Real Kafka clients against the real binary, unchanged. `install` beside this file brings them from their registries;
//! they are found in `target/kafka-clients`, or in `QUIPU_TEST_KAFKA_CLIENTS`. A client that is not there is skipped, by name.
//!
//! Each client has a script, which runs the parts that it is asked for and fails with a message. What a client cannot do on
//! this machine is a line that begins with `skipped: `. Its topics begin with
//! its own prefix, have four partitions, and are created by being used. The parts:
//!
//! - `records`: 100 records with each of `acks` 0, 1 and all to `PREFIX-none-ACKS`; `idempotent` the same;
//!   `codecs` the same with each codec to `PREFIX-CODEC-ACKS`. The script reads them back and compares every byte;
//!   then [`stored`] reads them over HTTP. Record n: key `key-n`, value `{"n":n,"text":"héllo xxx…"}`, timestamp
//!   1700000000000 + 1000 n, header `codec`.
//! - `read`: what `records` and `idempotent` have sent, of clients that read in groups only.
//! - `binary`: bytes that are no JSON, an empty value, a tombstone, no key.
//! - `times`: first and last offsets, offsets by time, seek. `commits`: offsets of a group without members.
//! - `seek`: a member reads again from an offset, and commits one (of clients where `times` and `groups` do not).
//! - `groups`: for each assignor two members, a rebalance to two partitions each, a member leaves, nothing comes twice
//!   (but with @platformatic/kafka, which may have read more than it has committed when a partition goes to another member).
//! - `static`: a static member comes back to what it had.
//! - `consumers`, `static_consumers`: the same by the server-side protocol. `expressions`: topics by an expression.
//!   `beside_http`: a consumer and a member over HTTP in one group.
//! - `topics`: create, list, describe, configure, grow, trim, delete. `list_groups`: list, describe, delete groups.
//! - `sign_in`, `refused`: with a secret and with a wrong one ([`sign_in`]). Where Java's signs in, all its parts do.
//! - `kills`: an idempotent producer that sends until it is told to end, while the server is killed ([`kills`]).
//! - `readers`, `server_side_readers`: two members that read and commit until they are told to end, while the server is
//!   killed ([`restarts`]).
#![allow(
    clippy::disallowed_methods,
    reason = "it runs real programs against the real binary"
)]

mod across;
mod apps;
#[allow(dead_code, reason = "of what tests of TLS share, this needs a part")]
#[path = "../tls/authority.rs"]
mod authority;
mod connect;
#[allow(dead_code, reason = "of the issuer of other tests, this needs a part")]
#[path = "../kafka/issuer.rs"]
mod issuer;
mod kcat;
mod kills;
mod page;
mod phoenix;
mod restarts;
mod sign_in;
mod spark;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "of what tests of TLS share, this needs a part")]
#[path = "../tls/secure.rs"]
mod tls_server;
mod tools;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use support::process::kafka_clients;
use support::{PATIENCE, Server, skipped};

/// The records of a topic.
const COUNT: usize = 100;
const PARTITIONS: u32 = 4;
/// What every client does.
const BASIC: &[&str] = &["records", "idempotent", "codecs", "binary", "times", "commits"];
/// What members of groups do.
const GROUPS: &[&str] = &["groups", "static", "list_groups"];

/// A server that listens for Kafka's clients.
struct Fixture {
    server: Server,
    kafka: SocketAddr,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let settings = [
            ("QUIPU_KAFKA_LISTEN", "127.0.0.1:0"),
            ("QUIPU_JOURNAL_FILE_BYTES", "37748736"),
        ];
        let server = Server::start_with_settings(&directory.path().join("data"), &settings);
        let kafka = server.kafka.expect("it listens for Kafka's clients");
        Self {
            server,
            kafka,
            directory,
        }
    }

    /// Runs a program with the parts that it is to show; returns what it printed.
    fn run(&self, program: Program, prefix: &str, parts: &[&str]) -> String {
        let mut command = program.0;
        command.args([&self.kafka.to_string(), prefix]).args(parts);
        self.output(command)
    }

    /// Runs a program to its end, which must be a success; returns what it printed.
    fn output(&self, command: Command) -> String {
        self.output_of_input(command, Stdio::null())
    }

    /// The same with a standard input.
    fn output_of_input(&self, mut command: Command, input: impl Into<Stdio>) -> String {
        let output = command
            .current_dir(self.directory.path())
            .env("QUIPU_TEST_HTTP", format!("http://{}", self.server.address))
            .stdin(input)
            .output()
            .expect("the program starts");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{command:?} ended with {}:\n{out}{err}\nthe server's log says:\n{}",
            output.status,
            self.server.log()
        );
        let of_skipped = out.lines().filter_map(|line| line.strip_prefix("skipped: "));
        of_skipped.for_each(skipped);
        out
    }

    /// Waits until something holds; the processes must not end before.
    fn until(&self, what: &str, processes: &mut [&mut Running], holds: impl FnMut() -> bool) {
        until(what, processes, || self.server.log(), holds);
    }

    fn records(&self, topic: &str, partition: u32) -> Vec<Value> {
        let path = format!("/v1/topics/{topic}/partitions/{partition}/records?offset=0&max_records=10000");
        let page = self.server.get(&path);
        page["records"].as_array().expect("records").clone()
    }

    /// All records of a topic, by partition and offset.
    fn all_records(&self, topic: &str) -> Vec<Value> {
        let described = self.server.get(&format!("/v1/topics/{topic}"));
        let count = described["partition_count"].as_u64().expect("a number") as u32;
        (0..count)
            .flat_map(|partition| self.records(topic, partition))
            .collect()
    }

    /// The partition of each key, as quipu places it over HTTP.
    fn placed(&self) -> BTreeMap<String, u64> {
        let path = "/v1/topics/placed-over-http";
        let body = json!({"partitions": PARTITIONS}).to_string();
        self.server
            .connect()
            .call("PUT", path, "application/json", body.as_bytes());
        let records: Vec<_> = (0..COUNT)
            .map(|n| json!({"key": format!("key-{n}"), "value": n}))
            .collect();
        let body = json!({ "records": records }).to_string();
        let answer = self.server.expect(
            200,
            "POST",
            &format!("{path}/records"),
            "application/json",
            body.as_bytes(),
        );
        let offsets = answer["offsets"].as_array().expect("offsets");
        let partition = |place: &Value| place["partition"].as_u64().expect("a partition");
        (0..)
            .zip(offsets)
            .map(|(n, place): (usize, _)| (format!("key-{n}"), partition(place)))
            .collect()
    }

    /// The records that a client has sent are there over HTTP, as JSON, once, in the partitions of their keys.
    fn stored(&self, topic: &str, codec: &str, placed: &BTreeMap<String, u64>) {
        let mut seen = BTreeMap::new();
        for record in self.all_records(topic) {
            let key = record["key"].as_str().expect("a key").to_owned();
            let n = key
                .strip_prefix("key-")
                .and_then(|n| n.parse::<u64>().ok())
                .expect("a key of this test");
            let text = format!("héllo {}", "x".repeat(100));
            assert_eq!(
                record["value"],
                json!({"n": n, "text": text}),
                "{topic}: {record}"
            );
            assert_eq!(
                record["timestamp"],
                1_700_000_000_000 + 1000 * n,
                "{topic}: {record}"
            );
            assert_eq!(record["headers"], json!({"codec": codec}), "{topic}: {record}");
            assert_eq!(record["partition"], placed[&key], "{topic}: {record}");
            assert_eq!(seen.insert(n, ()), None, "{topic}: {record} is there twice");
        }
        assert_eq!(seen.len(), COUNT, "{topic}");
    }

    /// What the part `binary` has sent.
    fn stored_binary(&self, topic: &str) {
        let found = self.records(topic, 1);
        let expected = [
            json!({"key_base64": "AP8=", "value_base64": "/gA="}),
            json!({"key": "empty", "value_base64": ""}),
            json!({"key": "tombstone", "value": null}),
            json!({"key": null, "value_base64": "bm8ga2V5"}),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(&expected) {
            support::has(found, expected);
        }
    }
}

/// Waits until something holds; the processes must not end before.
fn until(
    what: &str,
    processes: &mut [&mut Running],
    of_server: impl Fn() -> String,
    mut holds: impl FnMut() -> bool,
) {
    let begin = Instant::now();
    while !holds() {
        let log = |process: &Running| std::fs::read_to_string(&process.log).unwrap_or_default();
        for process in processes.iter_mut() {
            let ended = process.child.try_wait().expect("a process");
            assert!(ended.is_none(), "{what}: it has ended: {}", log(process));
        }
        let logs = || -> String { processes.iter().map(|process| log(process)).collect() };
        let is_late = begin.elapsed() >= PATIENCE;
        assert!(!is_late, "{what}: waited in vain: {}\n{}", logs(), of_server());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client's program, without the address.
struct Program(Command);

/// A process that ends with the test.
struct Running {
    child: Child,
    /// The file that has what it says.
    log: PathBuf,
}

impl Running {
    /// Starts it; what it prints goes to `out`, or to its log too.
    fn start(mut command: Command, log: PathBuf, out: Option<&Path>) -> Self {
        let create = |path: &Path| {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(path)
                .expect("a file")
        };
        command
            .stdin(Stdio::null())
            .stdout(create(out.unwrap_or(&log)))
            .stderr(create(&log));
        let child = command.spawn().expect("it starts");
        Self { child, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // `timeout` passes it on. It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kafka_clients")
        .join(path)
}

/// A command that ends in any case.
fn bounded(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg("1500").arg(program);
    command
}

fn is_missing(client: &str) {
    skipped(&format!("{client} is not installed"));
}

/// A script of Python in one of the environments.
fn python(environment: &str, module: &str, file: &str) -> Option<Program> {
    let python = kafka_clients().join(environment).join("bin/python");
    let probe = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        is_missing(environment);
        return None;
    }
    let mut command = bounded(&python);
    command
        .arg(script("python").join(file))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some(Program(command))
}

/// A script of Node.
fn node(package: &str, file: &str) -> Option<Program> {
    let home = kafka_clients().join("node");
    if !home.join("node_modules").join(package).exists() || Command::new("node").arg("-v").output().is_err() {
        is_missing(package);
        return None;
    }
    let mut command = bounded(Path::new("node"));
    command
        .arg(script("node").join(file))
        .env("QUIPU_TEST_NODE", home);
    Some(Program(command))
}

fn go() -> Option<Program> {
    let program = kafka_clients().join("go/franz-go");
    if !program.exists() {
        is_missing("franz-go");
        return None;
    }
    Some(Program(bounded(&program)))
}

/// Java with the clients' jars; a class follows.
fn java() -> Option<Command> {
    let jars = kafka_clients().join("java/jars");
    if !jars.exists() || Command::new("java").arg("-version").output().is_err() {
        is_missing("Java's clients");
        return None;
    }
    Some(java_with(&jars.join("*").display().to_string()))
}

/// Java with a class path.
fn java_with(path: &str) -> Command {
    let mut command = bounded(Path::new("java"));
    command.args([
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xmx384m",
        "-cp",
        path,
    ]);
    command
}

/// The classes of one of the sources in Java.
fn compiled(source: &str) -> PathBuf {
    let classes = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("kafka-clients-java")
        .join(source);
    let mut compiler = bounded(Path::new("javac"));
    compiler
        .arg("-cp")
        .arg(kafka_clients().join("java/jars/*"))
        .arg("-d")
        .arg(&classes)
        .arg(script("java").join(format!("{source}.java")));
    let output = compiler.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    classes
}

fn java_clients() -> Option<Program> {
    // Compiled once for all tests.
    static CLASSES: LazyLock<PathBuf> = LazyLock::new(|| compiled("Clients"));
    java()?;
    let jars = kafka_clients().join("java/jars/*");
    let mut command = java_with(&format!("{}:{}", CLASSES.display(), jars.display()));
    command.arg("Clients");
    Some(Program(command))
}

/// Runs a client, and compares what it has stored over HTTP.
fn check(program: Option<Program>, prefix: &str, parts: &[&str]) {
    let Some(program) = program else { return };
    let fixture = Fixture::new();
    let out = fixture.run(program, prefix, parts);
    let passed = out.lines().filter(|line| line.ends_with(": passed")).count();
    assert_eq!(passed, parts.len(), "{out}");
    let placed = fixture.placed();
    for (part, levels) in [
        ("records", &["0", "1", "all"][..]),
        ("idempotent", &["idempotent"]),
    ] {
        if parts.contains(&part) {
            for acks in levels {
                fixture.stored(&format!("{prefix}-none-{acks}"), "none", &placed);
            }
        }
    }
    if parts.contains(&"codecs") {
        let is_skipped = |codec: &str| out.contains(&format!("skipped: {codec} "));
        for codec in ["gzip", "snappy", "lz4", "zstd"]
            .into_iter()
            .filter(|codec| !is_skipped(codec))
        {
            for acks in ["0", "1", "all"] {
                fixture.stored(&format!("{prefix}-{codec}-{acks}"), codec, &placed);
            }
        }
    }
    if parts.contains(&"binary") {
        fixture.stored_binary(&format!("{prefix}-binary"));
    }
}

fn kafka_python(environment: &str, prefix: &str, parts: &[&str]) {
    check(python(environment, "kafka", "kafka_python.py"), prefix, parts);
}

#[test]
fn kafka_python_2() {
    // It knows neither idempotent producers nor static members.
    kafka_python(
        "kafka-python-2",
        "old",
        &["records", "codecs", "binary", "times", "commits"],
    );
}

#[test]
fn kafka_python_2_in_groups() {
    kafka_python("kafka-python-2", "old", &["groups", "list_groups"]);
}

#[test]
fn kafka_python_2_administers() {
    kafka_python("kafka-python-2", "old", &["topics"]);
}

#[test]
fn kafka_python_3() {
    kafka_python("kafka-python-3", "new", BASIC);
}

#[test]
fn kafka_python_3_in_groups() {
    kafka_python("kafka-python-3", "new", GROUPS);
}

#[test]
fn kafka_python_3_administers() {
    kafka_python("kafka-python-3", "new", &["topics"]);
}

#[test]
fn aiokafka() {
    check(python("aiokafka", "aiokafka", "aio.py"), "aio", BASIC);
}

#[test]
fn aiokafka_in_groups() {
    check(python("aiokafka", "aiokafka", "aio.py"), "aio", GROUPS);
}

#[test]
fn aiokafka_administers() {
    check(python("aiokafka", "aiokafka", "aio.py"), "aio", &["topics"]);
}

fn confluent(parts: &[&str]) {
    let program = python("confluent-kafka", "confluent_kafka", "confluent.py");
    check(program, "lrd", parts);
}

#[test]
fn confluent_kafka() {
    confluent(BASIC);
}

#[test]
fn confluent_kafka_in_groups() {
    confluent(GROUPS);
}

#[test]
fn confluent_kafka_in_groups_of_the_server_side_protocol() {
    confluent(&["consumers"]);
}

#[test]
fn confluent_kafka_administers() {
    confluent(&["topics"]);
}

#[test]
fn kafkajs() {
    let parts = &["records", "idempotent", "binary", "times"];
    check(node("kafkajs", "kafkajs.mjs"), "kjs", parts);
}

#[test]
fn kafkajs_in_groups() {
    // It consumes in groups only, and has neither static members nor assignors of its own.
    let parts = &[
        "records",
        "idempotent",
        "read",
        "codecs",
        "commits",
        "seek",
        "groups",
        "list_groups",
    ];
    check(node("kafkajs", "kafkajs.mjs"), "kjs", parts);
}

#[test]
fn kafkajs_administers() {
    check(node("kafkajs", "kafkajs.mjs"), "kjs", &["topics"]);
}

fn platformatic(parts: &[&str]) {
    check(node("@platformatic/kafka", "platformatic.mjs"), "plat", parts);
}

#[test]
fn platformatic_kafka() {
    platformatic(&["records", "idempotent", "binary", "times", "commits"]);
}

#[test]
fn platformatic_kafka_in_groups() {
    platformatic(&["records", "idempotent", "read", "codecs", "seek"]);
    platformatic(GROUPS);
}

#[test]
fn platformatic_kafka_in_groups_of_the_server_side_protocol() {
    platformatic(&["consumers"]);
}

#[test]
fn platformatic_kafka_administers() {
    platformatic(&["topics"]);
}

#[test]
fn franz_go() {
    check(go(), "franz", BASIC);
}

#[test]
fn franz_go_in_groups() {
    check(go(), "franz", &["seek"]);
    check(go(), "franz", GROUPS);
}

#[test]
fn franz_go_in_groups_of_the_server_side_protocol() {
    check(go(), "franz", &["consumers"]);
}

#[test]
fn franz_go_administers() {
    check(go(), "franz", &["topics"]);
}

#[test]
fn java_client() {
    check(java_clients(), "java", BASIC);
}

#[test]
fn java_client_in_groups() {
    check(java_clients(), "java", GROUPS);
}

#[test]
fn java_client_in_groups_of_the_server_side_protocol() {
    check(
        java_clients(),
        "java",
        &["consumers", "static_consumers", "expressions"],
    );
}

#[test]
fn java_client_beside_members_over_http() {
    check(java_clients(), "java", &["beside_http"]);
}

#[test]
fn java_client_administers() {
    check(java_clients(), "java", &["topics"]);
}

#[test]
fn java_streams_count_and_go_on_from_their_changelog() {
    check(java_clients(), "java", &["streams"]);
}
