//! Clients of every kind, until the server is gone or they are told to stop.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use quipu_segments::TimestampMs;
use quipu_segments::batch::BatchBuilder;
use serde_json::Value;

use crate::fetch::fetch;
use crate::history::{Counts, Cuts, History, Sent};
use crate::records::{self, Id};
use crate::support::{Answer, Connection, Rng};
use crate::topics;

/// The topics that everybody writes to, each with its partitions; the last partition of each is for those who say which
/// offset they expect.
pub const TOPICS: [&str; 2] = ["short-lived", "kept"];
pub const PARTITIONS: u32 = 4;
pub const OWNED: u32 = PARTITIONS - 1;
/// A stream is cut after so many lines, or after a MiB.
pub const UNIT_LINES: u32 = 10_000;
/// A client that is refused so often in a row has seen enough.
const PATIENT_REFUSALS: u32 = 20;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A few records over several partitions, by JSON.
    Json,
    /// The same, answered when they are written.
    JsonWritten,
    /// A stream that is one unit, over several partitions.
    OneUnit,
    /// Lines so short that units end by their number of lines.
    ShortLines,
    /// Lines so long that units end by their bytes.
    LongLines,
    /// Record batches to one partition, some of them larger than a segment has left.
    Batches,
    /// Single records with `expected_offset`; two of them compete.
    Expecting,
    /// Requests with a key, sent again until they are answered and after that.
    Retrying,
    /// Follows all partitions.
    Fetching,
    /// Commits a group's offsets, and deletes records now and then.
    Committing,
    /// Makes, changes and deletes topics.
    Topics,
}

use Role::{
    Batches, Committing, Expecting, Fetching, Json, JsonWritten, LongLines, OneUnit, Retrying, ShortLines,
    Topics,
};

pub const CLIENTS: [Role; 17] = [
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
    Fetching,
    Fetching,
    Committing,
    Topics,
];

/// How a round goes.
pub struct Round<'a> {
    pub address: SocketAddr,
    pub history: &'a History,
    pub stop: &'a AtomicBool,
    /// The codes with which it may refuse what it could do otherwise, where something is made to fail.
    pub trouble: &'static [&'static str],
    pub events: Sender<Role>,
}

pub struct Client<'a> {
    pub round: &'a Round<'a>,
    pub number: u32,
    pub rng: Rng,
    pub connection: Connection,
    refusals: u32,
}

/// Why a client ends.
pub struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Runs one client; its failure is an `Err` with what it said.
pub fn run(round: &Round<'_>, number: u32, role: Role, rng: Rng) -> Result<(), String> {
    let Ok(connection) = Connection::open(round.address) else {
        return Ok(());
    };
    let mut client = Client {
        round,
        number,
        rng,
        connection,
        refusals: 0,
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // That the server is gone is what every client waits for.
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

    /// One call. With faults a broken connection is opened again, once.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Answer, Gone> {
        self.call_with(method, path, content_type, "", body)
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
        let result = self
            .connection
            .request_with(method, path, content_type, headers, body);
        if result.is_err() && !self.round.trouble.is_empty() {
            self.connection = Connection::open(self.round.address)?;
            self.refusals += 1;
        }
        Ok(result?)
    }

    /// Whether the server could not do it for a fault; the problem then says whether something was done. Anything else
    /// that is not `wanted` is wrong.
    pub fn refused(&mut self, answer: &Answer, wanted: &[u16]) -> Option<String> {
        if wanted.contains(&answer.status) {
            self.refusals = 0;
            return None;
        }
        let problem = answer.json();
        let (code, outcome) = (problem["code"].as_str(), problem["outcome"].as_str());
        assert!(
            code.is_some_and(|code| code == "overloaded" || self.round.trouble.contains(&code)),
            "{}: {problem}",
            answer.status
        );
        if matches!(code, Some("overloaded" | "storage-full")) {
            assert!(
                answer.header("retry-after").is_some(),
                "no Retry-After: {problem}"
            );
        }
        self.refusals += 1;
        Some(outcome.expect("a problem has an outcome").to_owned())
    }

    fn produce(&mut self, role: Role) -> Result<(), Gone> {
        while !self.is_over() {
            self.produce_once(role)?;
            let _ = self.round.events.send(role);
        }
        Ok(())
    }

    fn produce_once(&mut self, role: Role) -> Result<(), Gone> {
        let topic = TOPICS[self.rng.below(2) as usize];
        let (count, padding, cuts) = match role {
            Json | JsonWritten => (
                1 + self.rng.below(6) as u32,
                10 + self.rng.below(3000) as usize,
                Cuts::Whole,
            ),
            OneUnit => (
                20 + self.rng.below(200) as u32,
                10 + self.rng.below(2000) as usize,
                Cuts::Whole,
            ),
            ShortLines => (UNIT_LINES + 500, 0, Cuts::Every(UNIT_LINES)),
            LongLines => (600, 3000, Cuts::Anywhere),
            _ => (
                1 + self.rng.below(64) as u32,
                100 + self.rng.below(16_000) as usize,
                Cuts::Whole,
            ),
        };
        let one = self.rng.below(u64::from(OWNED)) as u32;
        let partitions: Vec<u32> = (0..count)
            .map(|_| {
                if role == Batches {
                    one
                } else {
                    self.rng.below(u64::from(OWNED)) as u32
                }
            })
            .collect();
        let request = self.round.history.send(self.number, |_| Sent {
            topic: topic.into(),
            partitions: partitions.clone(),
            cuts,
            must: 0,
            may: count,
            since: None,
        });
        let id = |index: usize| Id {
            request,
            index: index as u32,
        };
        let lines = || {
            partitions
                .iter()
                .enumerate()
                .map(|(index, partition)| records::line(id(index), *partition, padding))
        };
        let path = format!("/v1/topics/{topic}/records");
        let answer = match role {
            Json | JsonWritten => {
                let ack = if role == Json { "" } else { "?ack=written" };
                let body = format!(r#"{{"records":[{}]}}"#, lines().collect::<Vec<_>>().join(","));
                self.call(
                    "POST",
                    &format!("{path}{ack}"),
                    "application/json",
                    body.as_bytes(),
                )?
            }
            Batches => {
                let mut body = Vec::new();
                for batch in 0..count.div_ceil(16) {
                    let mut builder = BatchBuilder::new();
                    for index in batch * 16..count.min((batch + 1) * 16) {
                        let id = id(index as usize);
                        let (key, value) = (records::key(id), records::value(id, padding));
                        builder.push(
                            TimestampMs(records::timestamp(id)),
                            Some(key.as_bytes()),
                            Some(value.as_bytes()),
                            &[],
                        );
                    }
                    body.extend_from_slice(builder.seal().as_bytes());
                }
                let path = format!("/v1/topics/{topic}/partitions/{one}/records");
                self.call("POST", &path, "application/vnd.apache.kafka.record-batch", &body)?
            }
            _ => {
                let mut body = String::new();
                for line in lines() {
                    body += &line;
                    body.push('\n');
                }
                self.call("POST", &path, "application/x-ndjson", body.as_bytes())?
            }
        };
        if let Some(outcome) = self.refused(&answer, &[200]) {
            let accepted = answer.json()["accepted"].as_u64().unwrap_or(0) as u32;
            let may = if outcome == "unknown" { count } else { accepted };
            assert_eq!(
                outcome == "partial",
                outcome != "unknown" && accepted > 0,
                "{}",
                answer.text()
            );
            self.round.history.settle(request, accepted, may);
            return Ok(());
        }
        // A kill leaves the page cache, a failed sync may not: then only what is durable was promised.
        let is_promised = role != JsonWritten || self.round.trouble.is_empty();
        if is_promised {
            let placed = placed(&answer.json(), request, &partitions);
            if role != JsonWritten {
                self.round.history.note(topic, placed);
            }
        }
        self.round
            .history
            .settle(request, if is_promised { count } else { 0 }, count);
        Ok(())
    }

    /// Appends to the partition that it shares with one other.
    fn expect(&mut self) -> Result<(), Gone> {
        let topic = TOPICS[1];
        let mut expected = self.round.history.held(topic, OWNED, |held| held.end);
        while !self.is_over() {
            let padding = self.rng.below(2000) as usize;
            let sent = |_| Sent {
                topic: topic.into(),
                partitions: vec![OWNED],
                cuts: Cuts::Whole,
                must: 0,
                may: 1,
                since: None,
            };
            let request = self.round.history.send(self.number, sent);
            let id = Id { request, index: 0 };
            let body = format!(r#"{{"records":[{}]}}"#, records::line(id, OWNED, padding));
            let path = format!("/v1/topics/{topic}/records?expected_offset={expected}");
            let answer = self.call("POST", &path, "application/json", body.as_bytes())?;
            if answer.status == 412 {
                self.round.history.settle(request, 0, 0);
                let end = answer.json()["end_offset"].as_u64().expect("the end");
                assert!(end > expected, "expected {expected}, the end is {end}");
                // It is answered once that is durable.
                self.round
                    .history
                    .held(topic, OWNED, |held| held.end = held.end.max(end));
                expected = end;
            } else if let Some(outcome) = self.refused(&answer, &[200]) {
                self.round
                    .history
                    .settle(request, 0, u32::from(outcome == "unknown"));
            } else {
                let given = answer.json()["offsets"][0]["offset"].as_u64();
                assert_eq!(given, Some(expected), "the offset that was expected");
                self.round.history.note(topic, [(OWNED, expected, id)]);
                self.round.history.settle(request, 1, 1);
                expected += 1;
            }
            let _ = self.round.events.send(Expecting);
        }
        Ok(())
    }

    /// Reads all partitions in turn, from some place on, and notes all that it could read.
    fn follow(&mut self) -> Result<(), Gone> {
        let mut places: BTreeMap<(&str, u32), (u64, u64, u64)> = BTreeMap::new();
        for topic in TOPICS {
            for partition in 0..PARTITIONS {
                let (start, end) = self
                    .round
                    .history
                    .held(topic, partition, |held| (held.log_start, held.end));
                let from = if self.rng.below(3) == 0 { start } else { end };
                places.insert((topic, partition), (from, start, end));
            }
        }
        while !self.round.stop.load(Ordering::Relaxed) {
            for ((topic, partition), (next, start, end)) in &mut places {
                let more = format!("max_bytes=300000&wait_ms={}", self.rng.below(20));
                let faults = !self.round.trouble.is_empty();
                let page = fetch(&mut self.connection, topic, *partition, *next, &more, faults)?;
                assert!(
                    page.end_offset >= *end,
                    "{topic}/{partition}: the end went back from {end} to {}",
                    page.end_offset
                );
                assert!(
                    page.log_start_offset >= *start,
                    "{topic}/{partition}: the log start went back from {start}"
                );
                (*next, *start, *end) = (page.next_offset, page.log_start_offset, page.end_offset);
                Counts::add(
                    &self.round.history.counts.fetched_records,
                    page.records.len() as u64,
                );
                self.round.history.held(topic, *partition, |held| {
                    for (offset, id) in &page.records {
                        held.note((topic, *partition, *offset), *id);
                    }
                    held.end = held.end.max(*end);
                    held.log_start = held.log_start.max(*start);
                });
            }
            let _ = self.round.events.send(Fetching);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Gone> {
        while !self.is_over() {
            let topic = TOPICS[self.rng.below(2) as usize];
            let partition = self.rng.below(u64::from(PARTITIONS)) as u32;
            let end = self.round.history.held(topic, partition, |held| held.end);
            if self.rng.below(30) == 0 {
                self.delete_records(topic, partition, end)?;
                continue;
            }
            let key = (
                format!("group-{}", self.rng.below(3)),
                topic.to_owned(),
                partition,
            );
            let (group, before) = {
                let mut state = self.round.history.state();
                let (acknowledged, sent) = state.groups.entry(key.clone()).or_default();
                let before = *sent;
                *sent = before.max(*acknowledged + self.rng.below(end.saturating_sub(*acknowledged) + 1));
                (
                    format!(
                        r#"{{"offsets":[{{"topic":"{topic}","partition":{partition},"offset":{sent}}}]}}"#
                    ),
                    before,
                )
            };
            let path = format!("/v1/groups/{}/offsets", key.0);
            let answer = self.call("PUT", &path, "application/json", group.as_bytes())?;
            let refused = self.refused(&answer, &[200]);
            let mut state = self.round.history.state();
            let (acknowledged, sent) = state.groups.get_mut(&key).expect("made above");
            match refused.as_deref() {
                None => {
                    *acknowledged = *sent;
                    Counts::add(&self.round.history.counts.commits, 1);
                }
                Some("unknown") => {}
                Some(_) => *sent = before,
            }
            drop(state);
            let _ = self.round.events.send(Committing);
        }
        Ok(())
    }

    fn delete_records(&mut self, topic: &str, partition: u32, end: u64) -> Result<(), Gone> {
        let before = self.round.history.held(topic, partition, |held| {
            let before = held.log_start + self.rng.below((end - held.log_start.min(end)) / 4 + 1);
            held.trim_sent = held.trim_sent.max(before);
            before
        });
        let path = format!("/v1/topics/{topic}/partitions/{partition}/records?before={before}");
        let answer = self.call("DELETE", &path, "", b"")?;
        if self.refused(&answer, &[200]).is_none() {
            let start = answer.json()["log_start_offset"].as_u64().expect("a position");
            assert!(start >= before, "{path}: {start}");
            self.round.history.held(topic, partition, |held| {
                held.log_start = held.log_start.max(start)
            });
        }
        Ok(())
    }
}

/// The places that an answer names: of each record, or of the first and the last in each partition.
pub fn placed(answer: &Value, request: u64, partitions: &[u32]) -> Vec<(u32, u64, Id)> {
    let number = |value: &Value, name: &str| {
        value[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {answer}"))
    };
    let id = |index: usize| Id {
        request,
        index: index as u32,
    };
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
            let of = || {
                partitions
                    .iter()
                    .enumerate()
                    .filter(move |(_, p)| **p == partition)
            };
            assert_eq!(number(range, "records"), of().count() as u64, "{answer}");
            let (first, last) = (
                of().next().expect("it has records").0,
                of().next_back().expect("it has records").0,
            );
            placed.push((partition, number(range, "first_offset"), id(first)));
            placed.push((partition, number(range, "last_offset"), id(last)));
        }
        return placed;
    }
    let first = number(answer, "first_offset");
    assert_eq!(
        number(answer, "last_offset") + 1 - first,
        partitions.len() as u64,
        "{answer}"
    );
    (0..partitions.len())
        .map(|index| (partitions[index], first + index as u64, id(index)))
        .collect()
}
