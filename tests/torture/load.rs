//! Clients of every kind, which run until the server is gone or they must stop.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use quipu_segments::TimestampMs;
use quipu_segments::batch::BatchBuilder;
use serde_json::Value;

use crate::fetch::fetch;
use crate::history::{Counts, Cuts, Held, History, Sent};
use crate::records::{self, Id};
use crate::support::{Answer, Connection, Rng, Server};
use crate::topics;

/// The topics that all clients write to. The last partition of each is for the clients that send `expected_offset`.
pub const TOPICS: [&str; 2] = ["short-lived", "kept"];
pub const PARTITIONS: u32 = 4;
pub const OWNED: u32 = PARTITIONS - 1;
/// A stream is cut after so many lines, or after a MiB.
pub const UNIT_LINES: u32 = 10_000;
/// A client that is refused so often in a row ends.
const PATIENT_REFUSALS: u32 = 20;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends a few records to several partitions, as JSON.
    Json,
    /// The same, with `ack=written`.
    JsonWritten,
    /// Sends a stream that is one unit, to several partitions.
    OneUnit,
    /// Sends lines so short that units end by their number of lines.
    ShortLines,
    /// Sends lines so long that units end by their bytes.
    LongLines,
    /// Sends record batches to one partition, some larger than the rest of a segment.
    Batches,
    /// Sends single records with `expected_offset`; two such clients compete.
    Expecting,
    /// Sends requests with a key, again until they are answered, and later again.
    Retrying,
    /// Sends batches with a sequence over Kafka's protocol, several in flight, again until they are answered.
    Numbered,
    /// Follows all partitions.
    Fetching,
    /// Commits a group's offsets, and deletes records now and then.
    Committing,
    /// Creates, changes and deletes topics.
    Topics,
}

use Role::{
    Batches, Committing, Expecting, Fetching, Json, JsonWritten, LongLines, Numbered, OneUnit, Retrying,
    ShortLines, Topics,
};

pub const CLIENTS: [Role; 19] = [
    Json,
    Json,
    JsonWritten,
    OneUnit,
    OneUnit,
    ShortLines,
    LongLines,
    Batches,
    Batches,
    Expecting,
    Expecting,
    Retrying,
    Retrying,
    Numbered,
    Numbered,
    Fetching,
    Fetching,
    Committing,
    Topics,
];

/// The state that all clients of a round share.
pub struct Round<'a> {
    pub address: SocketAddr,
    /// The address for Kafka's clients.
    pub kafka: SocketAddr,
    pub history: &'a History,
    pub stop: &'a AtomicBool,
    /// The codes with which the server may refuse valid requests while faults are injected.
    pub trouble: &'static [&'static str],
}

pub struct Client<'a> {
    pub round: &'a Round<'a>,
    pub history: &'a History,
    pub events: Sender<Role>,
    pub number: u32,
    pub rng: Rng,
    pub connection: Connection,
    refusals: u32,
}

/// The end of a client: the server is gone, or the client must stop.
pub struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Runs all clients, and meanwhile `act`, which receives the role of each answered client and must make the clients
/// end. Returns the messages of failed clients.
pub fn run_all(round: &Round<'_>, rng: &mut Rng, act: impl FnOnce(&Receiver<Role>, &mut Rng)) -> Vec<String> {
    run_some(round, rng, |_| true, act)
}

/// The same with the clients of some roles alone.
pub fn run_some(
    round: &Round<'_>,
    rng: &mut Rng,
    takes_part: impl Fn(Role) -> bool,
    act: impl FnOnce(&Receiver<Role>, &mut Rng),
) -> Vec<String> {
    let (events, received) = mpsc::channel();
    std::thread::scope(|scope| {
        let start = |(number, role)| {
            let (rng, events) = (rng.fork(), events.clone());
            scope.spawn(move || run(round, events, number, role, rng))
        };
        let some = (0..).zip(CLIENTS).filter(|(_, role)| takes_part(*role));
        let clients: Vec<_> = some.map(start).collect();
        drop(events);
        act(&received, rng);
        let rows = clients.into_iter();
        let results = rows.map(|client| client.join().expect("it catches its panics"));
        results.filter_map(Result::err).collect()
    })
}

/// Fails with the messages of failed clients and the server's log, if there are any.
#[track_caller]
pub fn assert_none(failures: &[String], server: &Server) {
    let (failures, log) = (failures.join("\n"), server.log());
    assert!(failures.is_empty(), "{failures}; the log says:\n{log}");
}

/// Runs one client; if it fails, returns its message as an `Err`.
fn run(round: &Round<'_>, events: Sender<Role>, number: u32, role: Role, rng: Rng) -> Result<(), String> {
    let Ok(connection) = Connection::open(round.address) else {
        return Ok(());
    };
    let mut client = Client {
        round,
        history: round.history,
        events,
        number,
        rng,
        connection,
        refusals: 0,
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // The server is gone, as every client expects in the end.
        let Gone = client.act(role);
    }));
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        round.stop.store(true, Ordering::Relaxed);
        format!("{role:?}: {}", text.unwrap_or_default())
    })
}

impl Client<'_> {
    fn act(&mut self, role: Role) -> Gone {
        let result = match role {
            Fetching => self.follow(),
            Committing => self.commit(),
            Topics => topics::churn(self),
            Expecting => self.expect(),
            Retrying => self.retry(),
            Numbered => self.produce_numbered(),
            _ => self.produce(role),
        };
        match result {
            Ok(()) => Gone,
            Err(gone) => gone,
        }
    }

    pub fn is_over(&self) -> bool {
        self.round.stop.load(Ordering::Relaxed) || self.refusals >= PATIENT_REFUSALS
    }

    /// A call was refused for a fault.
    pub fn refuse(&mut self) {
        self.refusals += 1;
    }

    /// A call was answered.
    pub fn accept(&mut self) {
        self.refusals = 0;
    }

    /// Makes one call. With faults, a broken connection is opened again, once.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Answer, Gone> {
        self.call_with(method, path, content_type, "", body)
    }

    /// Makes a call with JSON about a topic or one of its parts.
    pub fn call_topic(&mut self, method: &str, topic: &str, body: &str) -> Result<Answer, Gone> {
        let path = format!("/v1/topics/{topic}");
        self.call(method, &path, "application/json", body.as_bytes())
    }

    /// The same with more headers, each with its line break.
    pub fn call_with(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Answer, Gone> {
        let connection = &mut self.connection;
        let result = connection.request_with(method, path, content_type, headers, body);
        if result.is_err() && !self.round.trouble.is_empty() {
            self.connection = Connection::open(self.round.address)?;
            self.refusals += 1;
        }
        Ok(result?)
    }

    /// Returns the outcome of a refusal for a fault or overload; `None` for a `wanted` status. Any other answer panics.
    pub fn refused(&mut self, answer: &Answer, wanted: &[u16]) -> Option<String> {
        if wanted.contains(&answer.status) {
            self.refusals = 0;
            return None;
        }
        let problem = answer.json();
        let (code, outcome) = (problem["code"].as_str(), problem["outcome"].as_str());
        let is_allowed = |code| code == "overloaded" || self.round.trouble.contains(&code);
        assert!(code.is_some_and(is_allowed), "{problem}");
        if matches!(code, Some("overloaded" | "storage-full")) {
            let retry_after = answer.header("retry-after");
            assert!(retry_after.is_some(), "no Retry-After: {problem}");
        }
        self.refusals += 1;
        Some(outcome.expect("a problem has an outcome").to_owned())
    }

    fn produce(&mut self, role: Role) -> Result<(), Gone> {
        while !self.is_over() {
            self.produce_once(role)?;
            let _ = self.events.send(role);
        }
        Ok(())
    }

    fn produce_once(&mut self, role: Role) -> Result<(), Gone> {
        let topic = TOPICS[self.rng.below(2) as usize];
        let cuts = match role {
            ShortLines => Cuts::Every(UNIT_LINES),
            LongLines => Cuts::Anywhere,
            _ => Cuts::Whole,
        };
        let (fewest, more, shortest, longer) = match role {
            Json | JsonWritten => (1, 6, 10, 3000),
            OneUnit => (20, 200, 10, 2000),
            ShortLines => (UNIT_LINES + 500, 1, 0, 1),
            LongLines => (600, 1, 3000, 1),
            _ => (1, 64, 100, 16_000),
        };
        let count = fewest + self.rng.below(more) as u32;
        let padding = shortest + self.rng.below(longer) as usize;
        let one = self.owned();
        let owned = (0..count).map(|_| if role == Batches { one } else { self.owned() });
        let partitions: Vec<u32> = owned.collect();
        let sent = Sent::new(topic, &partitions, cuts);
        let request = self.history.send(self.number, sent);
        let lines = || records::lines(request, &partitions, padding);
        let answer = match role {
            Json => self.call_topic("POST", &format!("{topic}/records"), &records::document(&lines()))?,
            JsonWritten => {
                let path = format!("{topic}/records?ack=written");
                self.call_topic("POST", &path, &records::document(&lines()))?
            }
            Batches => {
                let mut body = Vec::new();
                for batch in 0..count.div_ceil(16) {
                    let mut builder = BatchBuilder::new();
                    for index in batch * 16..count.min((batch + 1) * 16) {
                        let id = Id::new(request, index as usize);
                        let (key, value) = (records::key(id), records::value(id, padding));
                        let timestamp = TimestampMs(records::timestamp(id));
                        builder.push(timestamp, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
                    }
                    body.extend_from_slice(builder.seal().as_bytes());
                }
                let path = format!("/v1/topics/{topic}/partitions/{one}/records");
                self.call("POST", &path, "application/vnd.apache.kafka.record-batch", &body)?
            }
            _ => {
                let path = format!("/v1/topics/{topic}/records");
                let body = lines().join("\n") + "\n";
                self.call("POST", &path, "application/x-ndjson", body.as_bytes())?
            }
        };
        if let Some(outcome) = self.refused(&answer, &[200]) {
            let accepted = answer.json()["accepted"].as_u64().unwrap_or(0) as u32;
            let may = if outcome == "unknown" { count } else { accepted };
            let is_partial = outcome != "unknown" && accepted > 0;
            assert_eq!(outcome == "partial", is_partial, "{}", answer.text());
            self.history.settle(request, accepted, may);
            return Ok(());
        }
        // A kill leaves the page cache intact, a failed sync may not: then only durable records are promised.
        let is_promised = role != JsonWritten || self.round.trouble.is_empty();
        if is_promised {
            let placed = placed(&answer.json(), request, &partitions);
            if role != JsonWritten {
                self.history.note(topic, placed);
            }
        }
        let must = if is_promised { count } else { 0 };
        self.history.settle(request, must, count);
        Ok(())
    }

    /// One of the partitions that all clients write to.
    pub fn owned(&mut self) -> u32 {
        self.rng.below(u64::from(OWNED)) as u32
    }

    /// Appends to the partition that it shares with one other client.
    fn expect(&mut self) -> Result<(), Gone> {
        let topic = TOPICS[1];
        let mut expected = self.history.held(topic, OWNED, |held| held.end);
        while !self.is_over() {
            let padding = self.rng.below(2000) as usize;
            let sent = Sent::new(topic, &[OWNED], Cuts::Whole);
            let request = self.history.send(self.number, sent);
            let id = Id::new(request, 0);
            let body = records::document(&[records::line(id, OWNED, padding)]);
            let path = format!("{topic}/records?expected_offset={expected}");
            let answer = self.call_topic("POST", &path, &body)?;
            if answer.status == 412 {
                self.history.settle(request, 0, 0);
                let end = answer.json()["end_offset"].as_u64().expect("the end");
                assert!(end > expected, "expected {expected}, the end is {end}");
                // The end in an answer is durable.
                self.history
                    .held(topic, OWNED, |held| held.end = held.end.max(end));
                expected = end;
            } else if let Some(outcome) = self.refused(&answer, &[200]) {
                self.history.settle(request, 0, u32::from(outcome == "unknown"));
            } else {
                let given = answer.json()["offsets"][0]["offset"].as_u64();
                assert_eq!(given, Some(expected), "the offset that was expected");
                self.history.note(topic, [(OWNED, expected, id)]);
                self.history.settle(request, 1, 1);
                expected += 1;
            }
            let _ = self.events.send(Expecting);
        }
        Ok(())
    }

    /// Reads all partitions in turn, from some place on, and notes all records that it reads.
    fn follow(&mut self) -> Result<(), Gone> {
        let mut places: BTreeMap<(&str, u32), (u64, u64, u64)> = BTreeMap::new();
        for topic in TOPICS {
            for partition in 0..PARTITIONS {
                let known = |held: &mut Held| (held.log_start, held.end);
                let (start, end) = self.history.held(topic, partition, known);
                let from = if self.rng.below(3) == 0 { start } else { end };
                places.insert((topic, partition), (from, start, end));
            }
        }
        while !self.round.stop.load(Ordering::Relaxed) {
            for ((topic, partition), (next, start, end)) in &mut places {
                let more = format!("max_bytes=300000&wait_ms={}", self.rng.below(20));
                let faults = !self.round.trouble.is_empty();
                let page = fetch(&mut self.connection, topic, *partition, *next, &more, faults)?;
                let now = (page.log_start_offset, page.end_offset);
                let went_on = now.0 >= *start && now.1 >= *end;
                assert!(went_on, "{topic}/{partition}: {start} to {end}, then {now:?}");
                (*next, *start, *end) = (page.next_offset, now.0, now.1);
                let count = page.records.len() as u64;
                Counts::add(&self.history.counts.fetched_records, count);
                self.history.held(topic, *partition, |held| {
                    for (offset, id) in &page.records {
                        held.note((topic, *partition, *offset), *id);
                    }
                    held.end = held.end.max(*end);
                    held.log_start = held.log_start.max(*start);
                });
            }
            let _ = self.events.send(Fetching);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Gone> {
        while !self.is_over() {
            let topic = TOPICS[self.rng.below(2) as usize];
            let partition = self.rng.below(u64::from(PARTITIONS)) as u32;
            let end = self.history.held(topic, partition, |held| held.end);
            if self.rng.below(30) == 0 {
                self.delete_records(topic, partition, end)?;
                continue;
            }
            let group = format!("group-{}", self.rng.below(3));
            let path = format!("/v1/groups/{group}/offsets");
            let key = (group, topic.to_owned(), partition);
            let (offset, before) = {
                let mut state = self.history.state();
                let (acknowledged, sent) = state.groups.entry(key.clone()).or_default();
                let before = *sent;
                *sent = before.max(*acknowledged + self.rng.below(end.saturating_sub(*acknowledged) + 1));
                (*sent, before)
            };
            let body =
                format!(r#"{{"offsets":[{{"topic":"{topic}","partition":{partition},"offset":{offset}}}]}}"#);
            let answer = self.call("PUT", &path, "application/json", body.as_bytes())?;
            let refused = self.refused(&answer, &[200]);
            let mut state = self.history.state();
            let (acknowledged, sent) = state.groups.get_mut(&key).expect("made above");
            match refused.as_deref() {
                None => {
                    *acknowledged = *sent;
                    Counts::add(&self.history.counts.commits, 1);
                }
                Some("unknown") => {}
                Some(_) => *sent = before,
            }
            drop(state);
            let _ = self.events.send(Committing);
        }
        Ok(())
    }

    fn delete_records(&mut self, topic: &str, partition: u32, end: u64) -> Result<(), Gone> {
        let before = self.history.held(topic, partition, |held| {
            let before = held.log_start + self.rng.below((end - held.log_start.min(end)) / 4 + 1);
            held.trim_sent = held.trim_sent.max(before);
            before
        });
        let path = format!("/v1/topics/{topic}/partitions/{partition}/records?before={before}");
        let answer = self.call("DELETE", &path, "", b"")?;
        if self.refused(&answer, &[200]).is_none() {
            let start = answer.json()["log_start_offset"].as_u64().expect("a position");
            assert!(start >= before, "{path}: {start}");
            let begins = |held: &mut Held| held.log_start = held.log_start.max(start);
            self.history.held(topic, partition, begins);
        }
        Ok(())
    }
}

/// The places that an answer names: of each record, or of the first and the last in each partition.
pub fn placed(answer: &Value, request: u64, partitions: &[u32]) -> Vec<(u32, u64, Id)> {
    let number = |value: &Value, name: &str| match value[name].as_u64() {
        Some(number) => number,
        None => panic!("{name} in {answer}"),
    };
    let id = |index| Id::new(request, index);
    if let Some(offsets) = answer["offsets"].as_array() {
        assert_eq!(offsets.len(), partitions.len(), "{answer}");
        let each = offsets.iter().enumerate();
        return each
            .map(|(index, place)| {
                assert_eq!(number(place, "partition") as u32, partitions[index], "{answer}");
                (partitions[index], number(place, "offset"), id(index))
            })
            .collect();
    }
    if let Some(ranges) = answer["partitions"].as_array() {
        assert_eq!(number(answer, "records"), partitions.len() as u64, "{answer}");
        let mut placed = Vec::new();
        for range in ranges {
            let partition = number(range, "partition") as u32;
            let is_there = |index: &usize| partitions[*index] == partition;
            let there: Vec<usize> = (0..partitions.len()).filter(is_there).collect();
            assert_eq!(number(range, "records"), there.len() as u64, "{answer}");
            let (first, last) = (there[0], there[there.len() - 1]);
            placed.push((partition, number(range, "first_offset"), id(first)));
            placed.push((partition, number(range, "last_offset"), id(last)));
        }
        return placed;
    }
    let first = number(answer, "first_offset");
    let count = number(answer, "last_offset") + 1 - first;
    assert_eq!(count, partitions.len() as u64, "{answer}");
    let offsets = (first..).zip(partitions).enumerate();
    offsets
        .map(|(index, (offset, partition))| (*partition, offset, id(index)))
        .collect()
}
