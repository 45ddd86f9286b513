//! Streamed records, over one connection after another.
//!
//! A stream is read as Server-Sent Events, whose `id` is its position: if the connection breaks or goes silent, or the
//! server restarts, the next connection begins after the last complete event. No record is repeated or left out. A
//! stream that does not follow ends at the topic's end when it began, whatever was appended since.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Map, Value};

use super::api::{self, Topic};
use super::client::{Client, Failure, Problem, Route};
use super::history::{explain, head, say_skipped, say_trimmed};
use super::output::say_once;
use super::signal::{Interrupt, spawn};
use super::sse::{Event, Parser};

/// Bytes per read of a connection.
const READ_BYTES: usize = 128 << 10;
/// Chunks that wait for their reader: few, because each may have up to [`READ_BYTES`] and a record.
const CHUNKS: usize = 4;
/// The wait before the first new connection; doubled for each, up to the server's `retry`.
const DELAY: Duration = Duration::from_millis(100);
/// The longest wait without a `retry`, and the longest `retry` accepted.
const MOST_DELAY: Duration = Duration::from_secs(2);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The most partitions that one stream has.
pub(crate) const MOST_PARTITIONS: usize = 256;

/// Some records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// One record a line, each with its line break.
    pub(crate) lines: Vec<u8>,
    pub(crate) count: u64,
}

impl Records {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.split_inclusive(|byte| *byte == b'\n')
    }

    /// The timestamp of the last one.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        let end = self.lines.strip_suffix(b"\n")?;
        let start = memchr::memrchr(b'\n', end).map_or(0, |before| before + 1);
        Some(head(&end[start..]).ok()?.timestamp)
    }
}

/// The end of each partition of each topic when the stream began.
type Ends = HashMap<String, HashMap<u32, u64>>;

/// A stream of the records of one topic, or of several.
pub(crate) struct Stream {
    client: Client,
    /// The topic of records that name none, if there is only one.
    topic: String,
    route: Route,
    interrupt: Interrupt,
    /// How long the server may be away; none: for ever.
    patience: Option<Duration>,
    /// The ends of partitions that are not followed: a later connection would otherwise read on to newer ends.
    ends: Option<Ends>,
    connection: Option<Box<dyn Read + Send>>,
    buffer: Vec<u8>,
    parser: Parser,
    /// The `id` of the last event.
    cursor: Option<String>,
    /// Whether this is not the first connection.
    is_resumed: bool,
    has_ended: bool,
    /// The server's error, reported after the records before it.
    failure: Option<Failure>,
    delay: Duration,
    most_delay: Duration,
    waited: Duration,
    /// Whether the user knows that the server is away.
    troubled: bool,
}

/// The meaning of an event that ends a connection.
enum Said {
    Failure(Failure),
    End,
}

impl Stream {
    /// The records of these partitions of these topics, requested with `route`. Nothing is sent yet.
    pub(crate) fn new(
        client: &Client,
        topics: &[(&Topic, Vec<&api::Partition>)],
        route: Route,
        follow: bool,
        patience: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Self {
        let ends = topics.iter().map(|(topic, partitions)| {
            let ends = partitions.iter().map(|p| (p.partition, p.end_offset));
            (topic.name.clone(), ends.collect())
        });
        let topic = topics.first().map(|(topic, _)| topic.name.clone());
        let route = match follow {
            true => route.with("follow", "true"),
            false => route,
        };
        Self {
            client: client.clone(),
            topic: topic.unwrap_or_default(),
            route,
            interrupt: interrupt.clone(),
            patience,
            ends: (!follow).then(|| ends.collect()),
            connection: None,
            buffer: vec![0; READ_BYTES],
            parser: Parser::default(),
            cursor: None,
            is_resumed: false,
            has_ended: false,
            failure: None,
            delay: DELAY,
            most_delay: MOST_DELAY,
            waited: Duration::ZERO,
            troubled: false,
        }
    }

    /// Reads on a thread of its own, so that a silent connection blocks no one, and sends the result of `event`. The
    /// thread ends with the stream, with its first failure, or when the receiver is gone.
    /// Errors: The thread cannot be started.
    pub(crate) fn spawn<E: Send + 'static>(
        mut self,
        event: impl Fn(Result<Records, Failure>) -> E + Send + 'static,
    ) -> io::Result<Receiver<E>> {
        let (sender, receiver) = sync_channel(CHUNKS);
        let run = move || {
            while let Some(read) = self.next().transpose() {
                let has_failed = read.is_err();
                if sender.send(event(read)).is_err() || has_failed {
                    return;
                }
            }
        };
        spawn("stream", run)?;
        Ok(receiver)
    }

    /// The next records, at least one; none at the end.
    /// Errors: A [`Failure`] that is permanent, or lasts too long.
    pub(crate) fn next(&mut self) -> Result<Option<Records>, Failure> {
        loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.has_ended {
                return Ok(None);
            }
            match self.read() {
                Ok(records) if records.count > 0 => return Ok(Some(records)),
                Ok(_) => {}
                Err(failure) => self.wait(failure)?,
            }
        }
    }

    /// Reads received bytes, from a new connection if need be.
    fn read(&mut self) -> Result<Records, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let Some(connection) = self.client.open(&self.route, self.cursor.as_deref())? else {
                    self.has_ended = true;
                    return Ok(Records::default());
                };
                self.parser = Parser::default();
                connection
            }
        };
        let read = match connection.read(&mut self.buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.connection = Some(connection);
                return Ok(Records::default());
            }
            read => read,
        };
        let read = read.map_err(|error| self.client.lost(&error))?;
        let mut records = Records::default();
        let mut said = None;
        let ends = self.ends.as_ref().filter(|_| self.is_resumed);
        let pushed = self.parser.push(&self.buffer[..read], |event| {
            // Events after the end, or after a failure, are ignored.
            if said.is_none() {
                said = hear(&event, &self.topic, ends, &mut records);
            }
        });
        if !self.parser.last_id.is_empty() {
            self.cursor = Some(self.parser.last_id.clone());
        }
        pushed.map_err(|error| self.client.unexpected(&error))?;
        (self.waited, self.troubled) = (Duration::ZERO, false);
        if let Some(retry) = self.parser.retry {
            self.most_delay = retry.clamp(DELAY, LONGEST_DELAY);
        }
        self.delay = DELAY;
        match said {
            None => self.connection = Some(connection),
            Some(Said::End) => self.has_ended = true,
            Some(Said::Failure(failure)) if is_retryable(&failure) => {
                // Return the records before the failure; the next read reconnects.
                self.is_resumed = true;
                if records.count == 0 {
                    return Err(failure);
                }
            }
            Some(Said::Failure(failure)) => self.failure = Some(failure),
        }
        Ok(records)
    }

    /// Waits before the next connection.
    fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        let has_begun = self.cursor.is_some() || self.is_resumed;
        let passes = match self.patience {
            Some(_) => failure.passes() || is_retryable(&failure),
            None => failure.may_pass(),
        };
        // A server that never answered is more likely mistyped than away.
        let is_too_long = self.patience.is_some_and(|patience| self.waited >= patience);
        if !passes || is_too_long || (!has_begun && matches!(failure, Failure::NotSent { .. })) {
            return Err(failure);
        }
        self.is_resumed = true;
        say_once(&mut self.troubled, format_args!("{failure}; trying again"));
        let wait = failure.retry_after().unwrap_or(self.delay);
        if self.interrupt.wait(wait).is_some() {
            return Err(failure);
        }
        self.waited += wait;
        self.delay = (self.delay * 2).min(self.most_delay);
        Ok(())
    }
}

fn is_retryable(failure: &Failure) -> bool {
    matches!(failure, Failure::Problem(problem) if problem.is_retryable())
}

/// Takes a record, and returns what an event means for the connection.
fn hear(event: &Event<'_>, topic: &str, ends: Option<&Ends>, records: &mut Records) -> Option<Said> {
    match event.kind {
        "record" => {
            let is_behind = |ends: &Ends| {
                head(event.data).is_ok_and(|head| {
                    let ends = ends.get(head.topic.as_deref().unwrap_or(topic));
                    let end = ends.and_then(|ends| ends.get(&head.partition));
                    end.is_none_or(|end| head.offset >= *end)
                })
            };
            let is_behind = ends.is_some_and(is_behind);
            if !is_behind {
                let from = records.lines.len();
                records.lines.extend_from_slice(event.data);
                // Several lines of data are still one record; between JSON tokens a space is equivalent.
                for byte in &mut records.lines[from..] {
                    if *byte == b'\n' {
                        *byte = b' ';
                    }
                }
                records.lines.push(b'\n');
                records.count += 1;
            }
            None
        }
        "gap" => {
            say_gap(topic, &members(event.data));
            None
        }
        "error" => {
            let unknown = || Map::from_iter([("code".to_owned(), "unknown".into())]);
            let problem = Problem::of(members(event.data), None).or_else(|| Problem::of(unknown(), None));
            let problem = problem.expect("it has a code");
            let topic = problem.text("topic").unwrap_or(topic).to_owned();
            Some(Said::Failure(explain(problem, &topic, None)))
        }
        "end" => Some(Said::End),
        _ => None,
    }
}

fn members(data: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(data).unwrap_or_default()
}

/// One line about missing records.
fn say_gap(topic: &str, gap: &Map<String, Value>) {
    let number = |name: &str| gap.get(name).and_then(Value::as_u64).unwrap_or_default();
    let topic = gap.get("topic").and_then(Value::as_str).unwrap_or(topic);
    let (partition, from, until) = (number("partition"), number("from_offset"), number("until_offset"));
    match gap.get("reason").and_then(Value::as_str) {
        Some("skipped") => say_skipped(topic, partition, &format!("{from} to {until} (exclusive)")),
        _ => say_trimmed(topic, partition, from, until),
    }
}
