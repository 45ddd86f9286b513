//! Reading one partition from an offset to another, a fetch at a time.
//!
//! A fetch is read completely before any of it is used, so a broken connection is retried from the same offset: no
//! record is printed twice or left out. The bounds are offsets, chosen when the reading begins; only a live tail has
//! none.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;

use super::api::partition_route;
use super::client::{Client, Failure, Problem};
use super::deliver::PATIENCE;
use super::output::note;
use super::signal::Interrupt;

/// The most records of a fetch.
pub(crate) const MAX_RECORDS: u64 = 100_000;
/// The most bytes of a fetch.
pub(crate) const FETCH_BYTES: u64 = 1 << 20;

/// A partition being read.
#[derive(Debug)]
pub(crate) struct Partition {
    client: Client,
    topic: String,
    number: u32,
    next: u64,
    until: Option<u64>,
    /// Whether it waits for missing records up to the bound; otherwise the end is also a bound.
    pub(crate) live: bool,
}

/// The records of one fetch.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    /// One record a line, each with its line break; empty if there are none (yet).
    pub(crate) lines: Vec<u8>,
    /// The offset of the next fetch.
    pub(crate) next: u64,
}

/// The size of one fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Records, at most [`MAX_RECORDS`].
    pub(crate) records: u64,
    /// Stored bytes; at least one record is returned, however large.
    pub(crate) bytes: u64,
    /// How long to wait for the first record.
    pub(crate) wait: Duration,
}

impl Partition {
    /// The records of `topic`/`number` from offset `next` on, before `until` or for ever.
    pub(crate) fn new(client: &Client, topic: &str, number: u32, next: u64, until: Option<u64>) -> Self {
        Self {
            client: client.clone(),
            topic: topic.to_owned(),
            number,
            next,
            until,
            live: until.is_none(),
        }
    }

    /// Whether everything before its bound has been read.
    pub(crate) fn is_done(&self) -> bool {
        self.until.is_some_and(|until| self.next >= until)
    }

    /// Sets the bound: no record at or after `offset` is read.
    pub(crate) fn end_at(&mut self, offset: u64) {
        self.until = Some(self.until.map_or(offset, |until| until.min(offset)));
    }

    /// Fetches the next records and moves on. Waits for a server that restarts. If retention deleted the next records,
    /// continues at the log start, with a note.
    /// Errors: A [`Failure`] that is permanent.
    pub(crate) fn fetch(&mut self, size: Size, interrupt: &Interrupt) -> Result<Chunk, Failure> {
        let mut waited = Duration::ZERO;
        let mut delay = Duration::from_millis(100);
        loop {
            let failure = match self.try_fetch(size) {
                Ok(chunk) => {
                    self.client.is_away.store(false, Ordering::Relaxed);
                    // A bounded read that returns nothing and does not advance would repeat for ever.
                    self.next = match self.until {
                        Some(until) if !self.live && chunk.next <= self.next => until,
                        _ => chunk.next,
                    };
                    return Ok(chunk);
                }
                Err(failure) => failure,
            };
            if let Failure::Problem(problem) = &failure
                && problem.code == "offset-trimmed"
                && let Some(start) = problem.number("log_start_offset")
                && start > self.next
            {
                say_trimmed(&self.topic, self.number.into(), self.next, start);
                self.next = start;
                if self.is_done() {
                    return Ok(self.chunk(Vec::new(), start));
                }
                continue;
            }
            // A follower waits for ever.
            let passes = match self.live {
                true => failure.may_pass(),
                false => failure.passes() && waited < PATIENCE,
            };
            if !passes {
                let place = Some((self.number, self.next));
                return Err(match failure {
                    Failure::Problem(problem) => explain(*problem, &self.topic, place),
                    failure => failure,
                });
            }
            if !self.client.is_away.swap(true, Ordering::Relaxed) {
                note(format_args!("{failure}; trying again"));
            }
            if interrupt.wait(delay).is_some() {
                return Err(failure);
            }
            waited += delay;
            delay = (delay * 2).min(Duration::from_secs(2));
        }
    }

    fn try_fetch(&self, size: Size) -> Result<Chunk, Failure> {
        let mut route = partition_route(&self.topic, self.number, &["records"])
            .with("offset", self.next)
            .with("max_records", size.records.clamp(1, MAX_RECORDS))
            .with("max_bytes", size.bytes);
        if let Some(until) = self.until {
            route = route.with("until_offset", until);
        }
        if self.live && !size.wait.is_zero() {
            route = route.with("wait_ms", size.wait.as_millis());
        }
        let answer = self.client.read(&route, "application/x-ndjson", size.wait)?;
        let next = answer.number("next-offset");
        let next = next.ok_or_else(|| self.client.unexpected(&"a fetch without the header Next-Offset"))?;
        if let Some(gaps) = answer.text("gaps") {
            let range = |gap: &str| match gap.trim().split_once('-') {
                Some((from, until)) => format!("{from} to {until} (exclusive)"),
                None => gap.to_owned(),
            };
            let gaps: Vec<String> = gaps.split(',').map(range).collect();
            say_skipped(&self.topic, self.number.into(), &gaps.join(", "));
        }
        Ok(self.chunk(answer.body, next))
    }

    fn chunk(&self, lines: Vec<u8>, next: u64) -> Chunk {
        Chunk {
            topic: self.topic.clone(),
            partition: self.number,
            lines,
            next,
        }
    }
}

/// One line about damaged records that are missing: the server leaves them out silently.
pub(crate) fn say_skipped(topic: &str, partition: u64, offsets: &str) {
    note(format_args!(
        "warning: partition {partition} of {topic}: offsets {offsets} are damaged, and an operator chose to skip them; \
         continuing after them"
    ));
}

/// One line about records that retention deleted first.
pub(crate) fn say_trimmed(topic: &str, partition: u64, from: u64, start: u64) {
    note(format_args!(
        "partition {partition} of {topic}: offsets {from} to {} were deleted before they were read; continuing at offset {start}",
        start.saturating_sub(1)
    ));
}

/// Adds the place, and for damage the next healthy offset. `place` is the partition and the offset, used if the problem
/// names none.
pub(crate) fn explain(mut problem: Problem, topic: &str, place: Option<(u32, u64)>) -> Failure {
    let (partition, offset) = match place {
        Some((partition, offset)) => (Some(u64::from(partition)), Some(offset)),
        None => (problem.number("partition"), problem.number("damaged_offset")),
    };
    let (Some(partition), Some(offset)) = (partition, offset) else {
        return Failure::Problem(Box::new(problem));
    };
    let detail = problem.text("detail").unwrap_or_default();
    let mut text = format!("partition {partition} of {topic} at offset {offset}: {detail}");
    if let Some(healthy) = problem.number("damaged_until_offset") {
        let place = format!("--partition {partition} --from");
        text += &format!("; to read the healthy records after it: {place} offset:{healthy}");
        if let Some(damaged) = problem.number("damaged_offset") {
            let skip = format!("quipu topic skip {topic} {place} {damaged} --until {healthy}");
            text += &format!("; to make consumers skip the damaged ones: {skip}");
        }
    }
    problem.members.insert("detail".to_owned(), text.into());
    Failure::Problem(Box::new(problem))
}

/// The fields of a record's line that are used.
#[derive(Debug, Deserialize)]
pub(crate) struct Head<'a> {
    /// Its topic, if records come from several.
    #[serde(borrow)]
    pub(crate) topic: Option<std::borrow::Cow<'a, str>>,
    pub(crate) offset: u64,
    #[serde(default)]
    pub(crate) partition: u32,
    /// Its timestamp, milliseconds since the Unix epoch.
    pub(crate) timestamp: i64,
}

/// Reads the head of a record's line.
/// Errors: The line is no record.
pub(crate) fn head(line: &[u8]) -> anyhow::Result<Head<'_>> {
    serde_json::from_slice(line)
        .map_err(|error| anyhow::anyhow!("the server sent a line that is no record: {error}"))
}
