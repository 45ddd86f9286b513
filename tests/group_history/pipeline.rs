//! A pipeline of three groups, `a → b → c → d`, whose consumers and server are killed again and again. Each group stores
//! what came of its records in the call that acknowledges them: one in its polls, one in commits, one in settles. In the
//! end each record that was fed in is in `d` once.
//!
//! `QUIPU_TEST_KILLS` is the number of kills.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::produce::{Stored, read_topic, until_drained};
use crate::support::{PATIENCE, Rng};
use crate::world::{Client, EndOnPanic, Place, World};

const KILLS: u64 = 10;
const CONSUMERS: usize = 2;
const KEYS: u64 = 9;
/// Of a request of the producer.
const RECORDS: u64 = 5;
/// The pause between two of those: debug builds are slow, and the consumers are to keep up.
const PAUSE: Duration = Duration::from_millis(8);
const TOPICS: [(&str, u32); 4] = [("a", 3), ("b", 2), ("c", 4), ("d", 2)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Poll,
    Commit,
    Settle,
}

/// A consumer group, which copies one topic to the next.
struct Stage {
    group: &'static str,
    from: &'static str,
    to: &'static str,
    how: How,
}

const STAGES: [Stage; 3] = [
    Stage {
        group: "by-poll",
        from: "a",
        to: "b",
        how: How::Poll,
    },
    Stage {
        group: "by-commit",
        from: "b",
        to: "c",
        how: How::Commit,
    },
    Stage {
        group: "by-settle",
        from: "c",
        to: "d",
        how: How::Settle,
    },
];

/// When a consumer is to die, at its next call: before it is sent, before it is answered, or before it is used.
const LIVES: u8 = 0;
const BEFORE: u8 = 1;
const UNANSWERED: u8 = 2;
const ANSWERED: u8 = 3;

struct Killed;

struct Consumer<'w> {
    world: &'w World,
    client: Client<'w>,
    stage: &'static Stage,
    name: String,
    dies: &'w AtomicU8,
    progress: Sender<()>,
}

impl Consumer<'_> {
    /// Begins anew whenever it was killed, under the same name and without memory.
    fn run(&mut self) {
        while !self.world.is_over() {
            let Err(Killed) = self.live();
            self.client.hang_up();
        }
    }

    /// Sends a call again until it is answered.
    fn ask(&mut self, path: &str, body: &Value) -> Result<(u16, Value), Killed> {
        let dies = self.dies.swap(LIVES, Ordering::SeqCst);
        let path = format!("/v1/groups/{}/members/{}{path}", self.stage.group, self.name);
        if dies == UNANSWERED {
            self.client.send("POST", &path, body);
        }
        if dies == UNANSWERED || dies == BEFORE {
            return Err(Killed);
        }
        while !self.world.is_over() {
            let Some(answered) = self.client.call("POST", &path, body) else {
                continue;
            };
            // The receiver is gone when all kills are done.
            let _ = self.progress.send(());
            let answer = answered.answer;
            return if dies == ANSWERED {
                Err(Killed)
            } else {
                Ok((answer.status, answer.json()))
            };
        }
        Err(Killed)
    }

    fn live(&mut self) -> Result<std::convert::Infallible, Killed> {
        // What it acknowledges in the next poll, with what came of it.
        let (mut ack, mut outputs) = (Value::Null, Vec::new());
        loop {
            let mut body = self.join();
            body["ack"] = ack.take();
            if !outputs.is_empty() {
                body["produce"] = std::mem::take(&mut outputs).into();
            }
            let (status, polled) = self.ask("/poll", &body)?;
            if status != 200 {
                // Somebody else has its records by now, or it is late. It begins with what it is given.
                expected(status, &polled);
                continue;
            }
            let records = polled["records"].as_array().expect("records").clone();
            let came = self.outputs(&records);
            let (path, body) = match self.stage.how {
                How::Poll => {
                    ack = polled["poll_id"].clone();
                    outputs = came;
                    continue;
                }
                _ if records.is_empty() => continue,
                How::Commit => {
                    let offsets = until(&records);
                    (
                        "/commit",
                        json!({"epoch": polled["epoch"], "offsets": offsets, "produce": came}),
                    )
                }
                How::Settle => {
                    let accept: Value = records.iter().map(|record| Place::of(record).json()).collect();
                    ("/settle", json!({"accept": accept, "produce": came}))
                }
            };
            let (status, answer) = self.ask(path, &body)?;
            if status == 200 {
                ack = polled["poll_id"].clone();
            } else {
                expected(status, &answer);
            }
        }
    }

    fn join(&self) -> Value {
        let mut body = json!({"topics": [self.stage.from], "session_timeout_ms": 400, "max_records": 40,
            "wait_ms": 100});
        if self.stage.how == How::Settle {
            body["type"] = "shared".into();
            (body["lease_ms"], body["max_deliveries"]) = (600.into(), 1000.into());
            body["order"] = "key".into();
        }
        body
    }

    fn outputs(&self, records: &[Value]) -> Vec<Value> {
        let to = self.stage.to;
        let output = |record: &Value| json!({"topic": to, "key": record["key"], "value": record["value"]});
        records.iter().map(output).collect()
    }
}

/// The offsets behind these records.
fn until(records: &[Value]) -> Vec<Value> {
    let places = records.iter().map(|record| Place::of(record).next());
    let until: BTreeMap<_, Place> = places.map(|place| (place.lane(), place)).collect();
    until.values().map(Place::json).collect()
}

/// A refusal is one that a consumer gets which was thought dead, or whose records are another's.
fn expected(status: u16, answer: &Value) {
    let code = answer["code"].as_str().unwrap_or_default();
    let is_expected = match status {
        404 => code == "unknown-member",
        409 => ["fenced", "poll-superseded", "member-superseded"].contains(&code),
        _ => false,
    };
    assert!(is_expected, "{status} {answer}");
}

/// Feeds records in until it is told to stop; a request is repeated, under its key, until it is answered.
fn feed(world: &World, stop: &AtomicU8, fed: &AtomicU64, mut rng: Rng) {
    let mut client = world.client();
    while stop.load(Ordering::SeqCst) == 0 && !world.is_over() {
        let first = fed.load(Ordering::SeqCst);
        let record =
            |id: u64, key: u64| json!({"key": format!("k{key}"), "value": {"id": format!("{id:06}")}});
        let records: Value = (first..first + RECORDS)
            .map(|id| record(id, rng.below(KEYS)))
            .collect();
        let body = json!({ "records": records });
        let headers = format!("Idempotency-Key: {first}\r\n");
        while !world.is_over() {
            if let Some(answered) = client.call_with("POST", "/v1/topics/a/records", &headers, &body) {
                assert_eq!(answered.answer.status, 200, "{}", answered.answer.text());
                break;
            }
        }
        fed.store(first + RECORDS, Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
}

/// Everything wrong with a topic that was copied: each record must be there once, in the order of its key.
fn copied(from: &BTreeMap<Place, Stored>, to: &BTreeMap<Place, Stored>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut times: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in from.values() {
        times.entry(&record.id).or_default().0 += 1;
    }
    for record in to.values() {
        times.entry(&record.id).or_default().1 += 1;
    }
    for (id, (before, after)) in times {
        if before != after {
            wrong.push(format!("record {id} is there {after} times instead of {before}"));
        }
    }
    // The records of a key are in one partition, so places are in the order of each key.
    let lines = |records: &BTreeMap<Place, Stored>| {
        let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in records.values() {
            lines
                .entry(record.key.clone())
                .or_default()
                .push(record.id.clone());
        }
        lines
    };
    let (before, after) = (lines(from), lines(to));
    for (key, line) in before {
        let copy = after.get(&key).cloned().unwrap_or_default();
        if copy != line {
            let same = line
                .iter()
                .zip(&copy)
                .take_while(|(before, after)| before == after)
                .count();
            let (before, after) = (line.get(same), copy.get(same));
            wrong.push(format!(
                "the records of {key} are in another order: {before:?}, {after:?}"
            ));
        }
    }
    wrong
}

#[test]
fn what_is_fed_into_a_pipeline_comes_out_once_whoever_is_killed() {
    let kills = std::env::var("QUIPU_TEST_KILLS");
    let kills = kills.map_or(KILLS, |kills| {
        kills.parse().expect("QUIPU_TEST_KILLS is a number")
    });
    let mut rng = Rng::from_environment("group_history, pipeline");
    let world = &World::new();
    let mut client = world.client();
    for (topic, partitions) in TOPICS {
        client.insist(
            201,
            "PUT",
            &format!("/v1/topics/{topic}"),
            &json!({"partitions": partitions}),
        );
    }
    let begin = Instant::now();
    let (stop, fed) = (AtomicU8::new(0), AtomicU64::new(0));
    let dies: Vec<AtomicU8> = (0..STAGES.len() * CONSUMERS)
        .map(|_| AtomicU8::new(LIVES))
        .collect();
    let (sender, progress) = mpsc::channel();
    let feeding = rng.fork();
    let stored = std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let _end = EndOnPanic(world);
            feed(world, &stop, &fed, feeding);
        });
        for (i, dies) in dies.iter().enumerate() {
            let mut consumer = Consumer {
                world,
                client: world.client(),
                stage: &STAGES[i % STAGES.len()],
                name: format!("consumer-{}", i / STAGES.len()),
                dies,
                progress: sender.clone(),
            };
            scope.spawn(move || {
                let _end = EndOnPanic(world);
                consumer.run();
            });
        }
        drop(sender);
        let _end = EndOnPanic(world);
        for _ in 0..kills {
            for _ in 0..(40 + rng.below(160)) {
                progress.recv_timeout(PATIENCE).expect("consumers go on");
            }
            if rng.below(3) == 0 {
                world.restart();
            } else {
                let how = [BEFORE, UNANSWERED, ANSWERED][rng.below(3) as usize];
                dies[rng.below(dies.len() as u64) as usize].store(how, Ordering::SeqCst);
            }
        }
        stop.store(1, Ordering::SeqCst);
        producer.join().expect("it feeds");
        for stage in &STAGES {
            until_drained(world, stage.group, &[stage.from]);
        }
        let stored = TOPICS.map(|(topic, _)| read_topic(&mut client, topic));
        world.end();
        stored
    });
    let fed = fed.load(Ordering::SeqCst);
    assert_eq!(stored[0].len() as u64, fed, "the producer's keys");
    for (stage, pair) in STAGES.iter().zip(stored.windows(2)) {
        let wrong = copied(&pair[0], &pair[1]);
        assert!(wrong.is_empty(), "{}: {wrong:#?}\n{}", stage.group, world.log());
    }
    let seconds = begin.elapsed().as_secs_f32();
    println!(
        "{fed} records, {kills} kills, {} lives of the server, {seconds:.1} s",
        world.life()
    );
}

#[test]
fn a_record_that_is_missing_or_doubled_or_out_of_order_is_seen() {
    use crate::check::made::{place, record};
    let topic = |ids: &[u64]| -> BTreeMap<Place, Stored> {
        (0..).map(place).zip(ids.iter().map(|id| record(*id))).collect()
    };
    let from = topic(&[0, 1, 2]);
    assert_eq!(copied(&from, &from), Vec::<String>::new());
    let wrong = |ids: &[u64]| copied(&from, &topic(ids)).join("; ");
    assert!(wrong(&[0, 2]).contains("record id-1 is there 0 times instead of 1"));
    assert!(wrong(&[0, 1, 2, 1]).contains("record id-1 is there 2 times instead of 1"));
    assert!(wrong(&[0, 1, 2, 3]).contains("record id-3 is there 1 times instead of 0"));
    assert!(wrong(&[0, 2, 1]).contains("in another order"));
}
