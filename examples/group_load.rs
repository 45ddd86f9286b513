//! What consumer groups cost and how they share work, measured from outside: it starts a server of its own, speaks
//! HTTP/1.1 by hand, and prints numbers. `scripts/groups` builds both and runs it.
//!
//! - `group_load SERVER pipeline`: records through three groups, `a → b → c → d`, with outputs in the call that
//!   acknowledges, and with a produce before the call that acknowledges; the two rates and their ratio.
//! - `group_load SERVER workers`: 400 tasks of 20 ms on a work queue with its default settings, for 1 and for 8 workers.
//! - `group_load SERVER long`: 500 tasks of 62 ms, which take one worker longer than a lease: how often each ran.
//! - `group_load SERVER settles [COUNT …]`: the time and the journal bytes of a settle, and the server's memory, with so
//!   many released records that wait; by default 10, 10000 and 990000 (a partition remembers a million).
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a load from outside reads the real clock and files"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// Of one run of the pipeline.
const RECORDS: usize = 20_000;
const RUNS: usize = 3;
/// Settles that are timed.
const SETTLES: u64 = 200;
/// So large that one file takes all that is measured.
const JOURNAL_BYTES: &str = "1073741824";
const USAGE: &str =
    "usage: group_load SERVER [pipeline|workers|long|settles [COUNT …]]; the file's head says the rest";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [binary] => {
            pipeline(binary)?;
            workers(binary)?;
            long(binary)?;
            settles(binary, &[10, 10_000, 990_000])
        }
        [binary, "pipeline"] => pipeline(binary),
        [binary, "workers"] => workers(binary),
        [binary, "long"] => long(binary),
        [binary, "settles"] => settles(binary, &[10, 10_000, 990_000]),
        [binary, "settles", ref counts @ ..] => {
            let counts: Result<Vec<u64>, _> = counts.iter().map(|count| count.parse()).collect();
            settles(binary, &counts.context(USAGE)?)
        }
        _ => bail!(USAGE),
    }
}

/// A server on a directory of its own; both are gone when it is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(binary: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let data = directory.path().join("data");
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .env("QUIPU_JOURNAL_FILE_BYTES", JOURNAL_BYTES)
            .env("QUIPU_LOG_LEVEL", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the server does not start")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("it is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let words = line.split(|c: char| c.is_whitespace() || c == '/');
        let mut addresses = words.filter_map(|word| word.trim_end_matches(['.', ',']).parse().ok());
        let address = addresses.next().context("it names no address")?;
        let server = Self {
            child,
            address,
            directory,
        };
        while !server
            .client()
            .is_ok_and(|mut client| client.get("/health/ready").is_ok())
        {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn client(&self) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let stream = BufReader::with_capacity(1 << 16, stream);
        Ok(Client { stream })
    }

    /// The memory of its process that is not file pages, in bytes.
    fn anonymous_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.context("Linux says it")?.trim().trim_end_matches(" kB");
        Ok(1024 * kib.parse::<u64>()?)
    }

    /// Where the journal ends: behind its last byte that is not zero, from a place before on.
    fn journal_end(&self, mut from: u64) -> anyhow::Result<u64> {
        let file = File::open(first_journal(&self.directory.path().join("data"))?)?;
        let mut end = from;
        let mut bytes = vec![0; 1 << 20];
        loop {
            let count = file.read_at(&mut bytes, from)?;
            let last = bytes[..count].iter().rposition(|byte| *byte != 0);
            let Some(last) = last else { return Ok(end) };
            end = from + last as u64 + 1;
            from += count as u64;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_journal(data: &Path) -> anyhow::Result<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(data.join("journal"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    files.sort();
    files.into_iter().next().context("there is a journal")
}

/// A connection that is kept.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.call("GET", path, &Value::Null)
    }

    fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call("POST", path, body)
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            is_chunked |= line == "transfer-encoding: chunked";
        }
        let mut answer = Vec::new();
        if is_chunked {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16)?;
                (&mut self.stream).take(size as u64).read_to_end(&mut answer)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            (&mut self.stream).take(length).read_to_end(&mut answer)?;
        }
        let text = String::from_utf8_lossy(&answer);
        ensure!(
            status.starts_with("HTTP/1.1 2"),
            "{method} {path}: {status} {text}"
        );
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn create(&mut self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        self.call(
            "PUT",
            &format!("/v1/topics/{topic}"),
            &json!({"partitions": partitions}),
        )?;
        Ok(())
    }

    /// Appends this many records.
    fn fill(&mut self, topic: &str, count: u64) -> anyhow::Result<()> {
        let mut next = 0;
        while next < count {
            let until = count.min(next + 5000);
            let record = |id: u64| json!({"key": format!("k{}", id % 100), "value": {"id": id}});
            let records: Value = (next..until).map(record).collect();
            self.post(
                &format!("/v1/topics/{topic}/records"),
                &json!({ "records": records }),
            )?;
            next = until;
        }
        Ok(())
    }

    /// How many records a topic has had.
    fn end(&mut self, topic: &str) -> anyhow::Result<u64> {
        let described = self.get(&format!("/v1/topics/{topic}"))?;
        let rows = described["partitions"].as_array().context("partitions")?;
        Ok(rows.iter().filter_map(|row| row["end_offset"].as_u64()).sum())
    }
}

/// Copies `count` records through three groups; returns the records in a second.
fn one_run(server: &Server, name: &str, with_outputs: bool) -> anyhow::Result<f64> {
    let topics: Vec<String> = ["a", "b", "c", "d"]
        .iter()
        .map(|topic| format!("{topic}-{name}"))
        .collect();
    let mut client = server.client()?;
    for topic in &topics {
        client.create(topic, 4)?;
    }
    client.fill(&topics[0], RECORDS as u64)?;
    let begin = Instant::now();
    thread::scope(|scope| {
        let stages = topics.windows(2).enumerate().map(|(stage, pair)| {
            let group = format!("{name}-{stage}");
            // The last one is a work queue.
            let kind = if stage == 2 { "shared" } else { "ordered" };
            scope.spawn(move || copy(server, &group, kind, &pair[0], &pair[1], with_outputs))
        });
        let stages: Vec<_> = stages.collect();
        stages
            .into_iter()
            .try_for_each(|stage| stage.join().expect("it returns"))
    })?;
    let rate = RECORDS as f64 / begin.elapsed().as_secs_f64();
    ensure!(
        client.end(&topics[3])? == RECORDS as u64,
        "each record comes out once"
    );
    Ok(rate)
}

/// Copies all records from one topic to another.
fn copy(
    server: &Server,
    group: &str,
    kind: &str,
    from: &str,
    to: &str,
    with_outputs: bool,
) -> anyhow::Result<()> {
    let mut client = server.client()?;
    let path = format!("/v1/groups/{group}/members/one/poll");
    let (mut ack, mut outputs, mut copied) = (Value::Null, Vec::new(), 0);
    loop {
        if !with_outputs && !outputs.is_empty() {
            let records = std::mem::take(&mut outputs);
            client.post(
                &format!("/v1/topics/{to}/records"),
                &json!({ "records": records }),
            )?;
        }
        let mut body =
            json!({"topics": [from], "type": kind, "ack": ack, "max_records": 500, "wait_ms": 100});
        if !outputs.is_empty() {
            body["produce"] = std::mem::take(&mut outputs).into();
        }
        if copied == RECORDS {
            // All is copied, and acknowledged with this.
            body["wait_ms"] = 0.into();
            client.post(&path, &body)?;
            return Ok(());
        }
        let mut polled = client.post(&path, &body)?;
        ack = polled["poll_id"].take();
        let records = polled["records"].as_array_mut().context("records")?;
        copied += records.len();
        for record in records {
            let mut output = json!({"key": record["key"], "value": record["value"].take()});
            if with_outputs {
                output["topic"] = to.into();
            }
            outputs.push(output);
        }
    }
}

fn pipeline(binary: &str) -> anyhow::Result<()> {
    let server = Server::start(binary)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    one_run(&server, "warm", true)?;
    for run in 0..RUNS {
        with.push(one_run(&server, &format!("with-{run}"), true)?);
        without.push(one_run(&server, &format!("without-{run}"), false)?);
    }
    let (with, without) = (median(&mut with), median(&mut without));
    println!(
        "pipeline: {with:.0} records/s with outputs in the acknowledging call, {without:.0} with a produce before it"
    );
    println!("pipeline: ratio {:.2}", with / without);
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Works on the tasks of a queue with its default settings until all are done; returns how often each ran.
fn work(
    server: &Server,
    group: &str,
    workers: usize,
    count: u64,
    task: Duration,
) -> anyhow::Result<BTreeMap<u64, u32>> {
    let done = std::sync::atomic::AtomicU64::new(0);
    let done = &done;
    let worker = |number: usize| {
        let mut client = server.client()?;
        let path = format!("/v1/groups/{group}/members/worker-{number}/poll");
        let (mut ack, mut runs) = (Value::Null, Vec::new());
        loop {
            let body = json!({"topics": [group], "type": "shared", "ack": ack, "wait_ms": 20});
            let mut polled = client.post(&path, &body)?;
            ack = polled["poll_id"].take();
            let records = polled["records"].as_array().context("records")?;
            for record in records {
                thread::sleep(task);
                runs.push(record["offset"].as_u64().context("an offset")?);
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            if records.is_empty() && done.load(std::sync::atomic::Ordering::SeqCst) >= count {
                return anyhow::Ok(runs);
            }
        }
    };
    let mut times: BTreeMap<u64, u32> = (0..count).map(|task| (task, 0)).collect();
    let runs = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|number| scope.spawn(move || worker(number)))
            .collect();
        let runs = workers
            .into_iter()
            .map(|worker| worker.join().expect("it returns"));
        runs.collect::<anyhow::Result<Vec<_>>>()
    })?;
    for offset in runs.into_iter().flatten() {
        *times.entry(offset).or_default() += 1;
    }
    Ok(times)
}

fn workers(binary: &str) -> anyhow::Result<()> {
    let server = Server::start(binary)?;
    let mut seconds = Vec::new();
    for workers in [1, 8] {
        let group = format!("tasks-{workers}");
        let mut client = server.client()?;
        client.create(&group, 1)?;
        client.fill(&group, 400)?;
        let begin = Instant::now();
        let times = work(&server, &group, workers, 400, Duration::from_millis(20))?;
        seconds.push(begin.elapsed().as_secs_f64());
        ensure!(
            times.values().all(|times| *times == 1),
            "each task runs once: {times:?}"
        );
    }
    let (one, eight) = (seconds[0], seconds[1]);
    println!(
        "workers: 400 tasks of 20 ms take 1 worker {one:.2} s, 8 workers {eight:.2} s: {:.1} times as fast",
        one / eight
    );
    Ok(())
}

fn long(binary: &str) -> anyhow::Result<()> {
    let server = Server::start(binary)?;
    let mut client = server.client()?;
    client.create("long", 1)?;
    client.fill("long", 500)?;
    let times = work(&server, "long", 1, 500, Duration::from_millis(62))?;
    let more = times.values().filter(|times| **times != 1).count();
    let dead = client.get("/v1/groups/long/dead-letters")?;
    let dead = dead["dead_letters"].as_array().context("a list")?.len();
    println!("long: of 500 tasks of 62 ms, {more} ran more than once or never; {dead} dead letters");
    Ok(())
}

/// Leases all there is and releases it for an hour, until so many records wait.
fn release(client: &mut Client, count: u64) -> anyhow::Result<()> {
    let mut released = 0;
    while released < count {
        let most = (count - released).min(1000);
        let body = json!({"topics": ["tasks"], "type": "shared", "max_records": most, "wait_ms": 1000});
        let polled = client.post("/v1/groups/queue/members/one/poll", &body)?;
        let records = polled["records"].as_array().context("records")?;
        let row = |record: &Value| json!({"topic": "tasks", "partition": 0, "offset": record["offset"], "delay_ms": 3_600_000});
        let rows: Value = records.iter().map(row).collect();
        client.post("/v1/groups/queue/members/one/settle", &json!({ "release": rows }))?;
        released += records.len() as u64;
    }
    Ok(())
}

fn settles(binary: &str, counts: &[u64]) -> anyhow::Result<()> {
    for count in counts {
        let server = Server::start(binary)?;
        let mut client = server.client()?;
        client.create("tasks", 1)?;
        client.fill("tasks", count + SETTLES)?;
        let before = server.anonymous_bytes()?;
        release(&mut client, *count)?;
        let body = json!({"topics": ["tasks"], "type": "shared", "max_records": SETTLES, "wait_ms": 1000});
        let polled = client.post("/v1/groups/queue/members/one/poll", &body)?;
        let records = polled["records"].as_array().context("records")?;
        ensure!(
            records.len() as u64 == SETTLES,
            "{} records are leased",
            records.len()
        );
        let after = server.anonymous_bytes()?;
        // The releases before have left much to write.
        std::thread::sleep(Duration::from_secs(5));
        let from = server.journal_end(0)?;
        let mut micros = Vec::new();
        for record in records {
            let place = json!({"topic": "tasks", "partition": 0, "offset": record["offset"]});
            let begin = Instant::now();
            client.post("/v1/groups/queue/members/one/settle", &json!({"accept": [place]}))?;
            micros.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        let bytes = (server.journal_end(from)? - from) as f64 / SETTLES as f64;
        let micros = median(&mut micros);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "settles: with {count} records that wait: {micros:.0} µs and {bytes:.0} journal bytes a settle (p50, mean); memory {:.0} MiB, {:.0} before",
            mib(after),
            mib(before)
        );
    }
    Ok(())
}
