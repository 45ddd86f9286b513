//! A distributed worker of Kafka Connect: a source and a sink of the test's own, over Connect's group and its three
//! topics for its state, with the properties of `docs/use/kafka.md`.

use std::collections::BTreeSet;

use super::phoenix::own_address;
use super::*;
use crate::support::Connection;

pub(crate) struct Worker {
    /// Where its files are, and what its sink has written.
    directory: PathBuf,
    process: Running,
    address: SocketAddr,
}

/// The properties of the page, for a server.
pub(crate) fn properties(kafka: &str) -> String {
    page::blocks("Kafka Connect", "properties").replace("localhost:9092", kafka)
}

impl Worker {
    /// Starts it in a directory.
    pub(crate) fn start(directory: &Path, properties: &str, name: &str) -> Self {
        // Compiled once for all tests.
        static CLASSES: LazyLock<PathBuf> = LazyLock::new(|| compiled("Counter"));
        let address = own_address();
        let properties = format!(
            "{properties}listeners=http://{address}\noffset.storage.partitions=3\nstatus.storage.partitions=2\n\
             offset.flush.interval.ms=200\nplugin.discovery=only_scan\nscheduled.rebalance.max.delay.ms=0\n"
        );
        let file = directory.join(format!("{name}.properties"));
        std::fs::write(&file, properties).expect("a file");
        let jars = kafka_clients().join("java/jars/*");
        let mut command = java_with(&format!("{}:{}", CLASSES.display(), jars.display()));
        command
            .current_dir(directory)
            .arg("org.apache.kafka.connect.cli.ConnectDistributed")
            .arg(file);
        let process = Running::start(command, directory.join(format!("{name}.log")), None);
        Self {
            directory: directory.to_owned(),
            process,
            address,
        }
    }

    /// A source of so many numbers.
    pub(crate) fn counts(&mut self, count: u64) {
        let class = "tests.Counter";
        let config = json!({"connector.class": class, "topic": "counted", "count": count.to_string(), "tasks.max": "1"});
        self.configure("source", &config);
    }

    /// A sink that writes them down.
    pub(crate) fn writes(&mut self) {
        let lines = self.directory.join("lines");
        let class = "tests.Counter$Lines";
        let config = json!({"connector.class": class, "topics": "counted", "file": lines, "tasks.max": "2"});
        self.configure("sink", &config);
    }

    fn configure(&mut self, name: &str, config: &Value) {
        let path = format!("/connectors/{name}/config");
        let body = config.to_string();
        self.until(&format!("{name} is configured"), |address| {
            let connection = Connection::open(address);
            let answer = connection
                .and_then(|mut open| open.request("PUT", &path, "application/json", body.as_bytes()));
            // Not there yet, or busy with a rebalance.
            answer.is_ok_and(|answer| [200, 201].contains(&answer.status))
        });
    }

    fn until(&mut self, what: &str, holds: impl Fn(SocketAddr) -> bool) {
        let address = self.address;
        until(what, &mut [&mut self.process], String::new, || holds(address));
    }

    /// The workers that the tasks of a connector run on.
    fn runs_on(address: SocketAddr, connector: &str) -> Option<Vec<String>> {
        let path = format!("/connectors/{connector}/status");
        let mut open = Connection::open(address).ok()?;
        let status = open.request("GET", &path, "", b"").ok()?;
        let status: Value = serde_json::from_str(status.text()).ok()?;
        let tasks = status["tasks"].as_array()?.iter();
        let of_running = |task: &Value| {
            (task["state"] == "RUNNING").then(|| task["worker_id"].as_str().map(str::to_owned))
        };
        tasks.map(|task| of_running(task).flatten()).collect()
    }

    /// Waits until the source has sent so many numbers, and the sink has written them.
    pub(crate) fn has_written(&mut self, count: usize) {
        let file = self.directory.join("lines");
        self.until(&format!("{count} lines"), |_| {
            let lines = std::fs::read_to_string(&file).unwrap_or_default();
            lines.lines().collect::<BTreeSet<_>>().len() == count
        });
    }
}

impl Fixture {
    fn worker(&self, name: &str) -> Worker {
        let properties = properties(&self.kafka.to_string());
        Worker::start(self.directory.path(), &properties, name)
    }

    /// Waits until the source has sent so many numbers and the sink has written them; each is there once.
    fn has_counted_to(&self, worker: &mut Worker, count: usize) {
        worker.has_written(count);
        let mut numbers: Vec<_> = self
            .all_records("counted")
            .iter()
            .map(|record| record["value"].as_u64())
            .collect();
        numbers.sort_unstable();
        let expected: Vec<_> = (0..count as u64).map(Some).collect();
        assert_eq!(numbers, expected, "each number once");
    }
}

#[test]
fn connect_runs_a_source_and_a_sink_over_a_restart_and_shares_them_with_a_second_worker() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let mut worker = fixture.worker("first");
    worker.counts(50);
    worker.writes();
    fixture.has_counted_to(&mut worker, 50);
    drop(worker);
    let mut worker = fixture.worker("first");
    worker.counts(80);
    fixture.has_counted_to(&mut worker, 80);
    let mut second = fixture.worker("second");
    second.until("each has a task of the sink", |address| {
        let workers = Worker::runs_on(address, "sink").unwrap_or_default();
        workers.len() == 2 && workers[0] != workers[1]
    });
    second.counts(110);
    fixture.has_counted_to(&mut second, 110);
    drop(worker);
    second.until("the second has both", |address| {
        let workers = Worker::runs_on(address, "sink").unwrap_or_default();
        workers == [address.to_string(), address.to_string()]
    });
    second.counts(140);
    fixture.has_counted_to(&mut second, 140);
    let lag = fixture.server.get("/v1/groups/connect-sink/lag");
    assert_eq!(lag["topics"][0]["topic"], "counted", "{lag}");
}
