//! Idempotent producers of real clients, all at once and beside one over HTTP, while the server is killed (`kill -9`) and
//! comes back: no record is lost, none is there twice, and each producer's records are in order.
//!
//! The torture test does the same with a producer of its own, and looks into more; here the clients' own retries run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::phoenix::Phoenix;
use super::*;
use crate::support::Connection;

const KILLS: usize = 4;
/// The records that each producer must have stored between two kills.
const PROGRESS: u64 = 100;

impl Phoenix {
    /// The records of a topic with one partition; 0, if it is not there yet.
    fn count(&self, topic: &str) -> u64 {
        let answer = self.server().connect().get(&format!("/v1/topics/{topic}"));
        match answer.status {
            200 => answer.json()["partitions"][0]["end_offset"]
                .as_u64()
                .expect("an offset"),
            _ => 0,
        }
    }

    /// The values of a topic, from the first to the last.
    fn values(&self, topic: &str) -> Vec<u64> {
        let (mut values, end) = (Vec::new(), self.count(topic));
        while (values.len() as u64) < end {
            let next = values.len();
            let path = format!("/v1/topics/{topic}/partitions/0/records?offset={next}&max_records=10000");
            let page = self.server().get(&path);
            let records = page["records"].as_array().expect("records");
            assert!(!records.is_empty(), "{page}");
            values.extend(
                records
                    .iter()
                    .map(|record| record["value"].as_u64().expect("a number")),
            );
        }
        values
    }
}

/// A producer over HTTP that retries each request until it is answered; returns how many records it has sent.
fn over_http(address: &Mutex<SocketAddr>, is_over: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !is_over.load(SeqCst) {
        let records: Vec<_> = (sent..sent + 10)
            .map(|n| json!({"partition": 0, "value": n}))
            .collect();
        let body = json!({ "records": records }).to_string();
        let key = format!("Idempotency-Key: {sent}\r\n");
        loop {
            let address = *address.lock().expect("no thread panics with it");
            let answer = Connection::open(address).and_then(|mut open| {
                let path = "/v1/topics/http-kills/records";
                open.request_with("POST", path, "application/json", &key, body.as_bytes())
            });
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            std::thread::yield_now();
        }
        sent += 10;
    }
    sent
}

#[test]
fn idempotent_producers_lose_nothing_and_repeat_nothing_while_the_server_is_killed() {
    let programs = [
        (
            "lrd",
            python("confluent-kafka", "confluent_kafka", "confluent.py"),
        ),
        ("new", python("kafka-python-3", "kafka", "kafka_python.py")),
        ("aio", python("aiokafka", "aiokafka", "aio.py")),
        ("kjs", node("kafkajs", "kafkajs.mjs")),
        ("franz", go()),
        ("java", java_clients()),
    ];
    let mut phoenix = Phoenix::new();
    let stop = phoenix.directory.path().join("stop");
    let mut topics = vec!["http-kills".to_owned()];
    phoenix.server().create_topic("http-kills", 1);
    let mut running = Vec::new();
    for (prefix, program) in programs {
        let Some(Program(mut command)) = program else {
            continue;
        };
        topics.push(format!("{prefix}-kills"));
        phoenix.server().create_topic(&format!("{prefix}-kills"), 1);
        let file = |end: &str| phoenix.directory.path().join(format!("{prefix}.{end}"));
        command
            .args([&phoenix.kafka.to_string(), prefix, "kills"])
            .env("QUIPU_TEST_STOP", &stop)
            .current_dir(phoenix.directory.path());
        running.push((
            prefix,
            file("out"),
            Running::start(command, file("err"), Some(&file("out"))),
        ));
    }
    let address = Mutex::new(phoenix.server().address);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let http = scope.spawn(|| over_http(&address, &is_over));
        let mut ends = topics
            .clone()
            .into_iter()
            .map(|topic| (topic, 0))
            .collect::<Vec<_>>();
        for _ in 0..KILLS {
            for (topic, end) in &mut ends {
                await_progress(&phoenix, &mut running, topic, *end + PROGRESS);
            }
            phoenix.kill();
            phoenix.rise();
            *address.lock().expect("no thread panics with it") = phoenix.server().address;
            for (topic, end) in &mut ends {
                *end = phoenix.count(topic);
            }
        }
        for (topic, end) in &ends {
            await_progress(&phoenix, &mut running, topic, end + PROGRESS);
        }
        is_over.store(true, SeqCst);
        std::fs::write(&stop, "").expect("a file");
        let sent = http.join().expect("it ends");
        let expected: Vec<u64> = (0..sent).collect();
        assert!(
            phoenix.values("http-kills") == expected,
            "http: {:?}",
            phoenix.values("http-kills")
        );
    });
    for (prefix, out, mut process) in running {
        let status = process.child.wait().expect("it ends");
        let said = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let (out, err) = (said(&out), said(&process.log));
        assert!(status.success(), "{prefix}: {status}: {out}{err}");
        let sent = out.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        let sent: u64 = sent.unwrap_or_else(|| panic!("{prefix}: {out}"));
        let values = phoenix.values(&format!("{prefix}-kills"));
        let wrong = values.iter().zip(0..).find(|(value, n)| **value != *n);
        assert_eq!(
            wrong, None,
            "{prefix}: the first value that is wrong, and the one that was sent there: {err}"
        );
        assert_eq!(values.len() as u64, sent, "{prefix}");
    }
}

/// Waits until a topic has so many records; the producers must go on.
fn await_progress(phoenix: &Phoenix, running: &mut [(&str, PathBuf, Running)], topic: &str, count: u64) {
    let begin = Instant::now();
    while phoenix.count(topic) < count {
        for (prefix, _, process) in running.iter_mut() {
            let ended = process.child.try_wait().expect("a process");
            let said = || std::fs::read_to_string(&process.log).unwrap_or_default();
            assert!(ended.is_none(), "{prefix} has ended with {ended:?}: {}", said());
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{topic} has {} of {count} records",
            phoenix.count(topic)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
