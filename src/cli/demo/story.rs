//! The story: events in, checked, read by a group of two members, and one day of them replayed.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use serde_json::{Value, json};

use super::flights::{self, DAY_MS, Log};
use super::narrator::Narrator;
use crate::cli::api::{Topic, append_route, group_route, stream_route, topic_route};
use crate::cli::client::Client;
use crate::cli::deliver::PATIENCE;
use crate::cli::group::partitions;
use crate::cli::history::{FETCH_BYTES, MAX_RECORDS, Partition, Size, head};
use crate::cli::lag::report::print_group;
use crate::cli::output::{bytes, count, line, rate, records, time_ms, took};
use crate::cli::produce::Produced;
use crate::cli::signal::Interrupt;
use crate::cli::stream::Stream;

const TOPIC: &str = "flights";
const PARTITIONS: u32 = 6;
const GROUP: &str = "arrivals-board";
/// The size of the story's fetches.
const SIZE: Size = Size {
    records: MAX_RECORDS,
    bytes: FETCH_BYTES,
    wait: Duration::ZERO,
};

/// Records of a poll: few, so that the lag can be shown half way. With pauses polls are smaller and slower, so that a
/// user sees the rates.
const POLL_RECORDS: u64 = 2000;
const SHOWN_POLL_RECORDS: u64 = 500;
const SHOWN_POLL_PAUSE: Duration = Duration::from_millis(150);
/// Polls before the lag is shown, so that it has rates: these need samples that are a second apart.
const RATE_POLL_RECORDS: u64 = 50;
const RATE_POLL_PAUSE: Duration = Duration::from_millis(100);
const RATE_POLLS: usize = 50;

/// Tells the whole story; ends early if it is interrupted.
pub(super) fn tell(client: &Client, narrator: Narrator, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut story = Story {
        client,
        narrator: &narrator,
        interrupt,
        bundle: flights::unpack()?,
    };
    for step in [
        |story: &mut Story<'_>| story.topic(),
        |story: &mut Story<'_>| story.load(),
        |story: &mut Story<'_>| story.check(),
        |story: &mut Story<'_>| story.group(),
        |story: &mut Story<'_>| story.replay(),
        |story: &mut Story<'_>| story.addresses(),
    ] {
        if interrupt.get().is_some() {
            break;
        }
        step(&mut story)?;
    }
    Ok(())
}

struct Story<'a> {
    client: &'a Client,
    narrator: &'a Narrator,
    interrupt: &'a Interrupt,
    /// The events; the first step moves them to the last days.
    bundle: Vec<u8>,
}

impl Story<'_> {
    fn topic(&mut self) -> anyhow::Result<()> {
        let (client, narrator) = (self.client, self.narrator);
        narrator.step(format_args!("A topic with {PARTITIONS} partitions"))?;
        let body = json!({"partitions": PARTITIONS});
        client
            .send(&Method::PUT, &topic_route(TOPIC), Some(&body))
            .map_err(|failure| match failure.code() {
                Some("topic-exists") => anyhow::anyhow!(
                    "the data directory has a topic {TOPIC} of another kind; give another --data ({failure})"
                ),
                _ => failure.into(),
            })?;
        let topic = Topic::describe(client, TOPIC)?;
        let first = topic.partitions.iter().filter_map(|p| p.first_timestamp).min();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        self.bundle = flights::moved(&self.bundle, first, i64::try_from(now.as_millis())?)?;
        narrator.say(
            "Its records will be flights from New York's airports, moved to the last twelve days. The key of each is the\n\
             aircraft's tail number, so all events of an aircraft are in one partition, in order.",
        )?;
        let base = client.base();
        narrator.command(format_args!(
            "curl -X PUT {base}/v1/topics/{TOPIC} -H 'content-type: application/json' -d '{body}'"
        ))?;
        Ok(())
    }

    fn load(&mut self) -> anyhow::Result<()> {
        let (client, narrator) = (self.client, self.narrator);
        narrator.step("Events go in")?;
        let mut log = Log::expect(&self.bundle)?;
        self.read_all(&mut log)?;
        let missing = log.missing();
        if missing.is_empty() {
            narrator.say("The events of an earlier run are all there: nothing to load.")?;
        } else {
            if missing.len() < self.bundle.len() {
                narrator.say("An earlier run stopped while loading: this one continues there.")?;
            }
            let started = Instant::now();
            let answer = client.post(&append_route(TOPIC), &[], &missing)?;
            let produced: Produced = client.parse(&answer.body)?;
            let (took, rate) = speed(produced.records, started);
            let (events, bytes) = (count(produced.records), bytes(missing.len() as u64));
            narrator.check(format_args!(
                "{events} events ({bytes}) stored in {took}: {rate} a second, acknowledged when they were on stable storage"
            ))?;
        }
        Ok(())
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let narrator = self.narrator;
        narrator.step("Events come back in order")?;
        let mut log = Log::expect(&self.bundle)?;
        let started = Instant::now();
        let read = self.read_all(&mut log)?;
        let (took, rate) = speed(read, started);
        let (aircraft, found, whole) = log.summary();
        if !whole {
            anyhow::bail!(
                "of the bundled events of {aircraft} aircraft only {found} came back in their order: this must not \
                 happen; run quipu verify on the data directory"
            );
        }
        let [read, aircraft, found, others] = [read, aircraft, found, log.others].map(count);
        narrator.say(format_args!(
            "Read back over HTTP: {read} records in {took}, {rate} a second."
        ))?;
        narrator.check(format_args!(
            "{aircraft} aircraft, {found} events: each aircraft's came back in the order they were sent, byte for byte"
        ))?;
        if log.others > 0 {
            narrator.say(format_args!("({others} records of yours are there too.)"))?;
        }
        Ok(())
    }

    fn group(&mut self) -> anyhow::Result<()> {
        let (client, narrator) = (self.client, self.narrator);
        narrator.step("A consumer group of two members")?;
        let mut board = Board::default();
        let mut readers = ["board-1", "board-2"].map(|name| Reader {
            name,
            ..Reader::default()
        });
        let [one, two] = &mut readers;
        let most = match narrator.pauses {
            Some(_) => SHOWN_POLL_RECORDS,
            None => POLL_RECORDS,
        };
        let mut started = Instant::now();
        one.poll(client, &mut board, most)?;
        let total = self.lag()?;
        narrator.say(format_args!(
            "{} joins the group {GROUP} with its first poll and reads all partitions: {}.",
            one.name, one.assignment
        ))?;
        // The second member joins and waits: the first gives up its share of the partitions with its next poll.
        two.poll(client, &mut board, most)?;
        one.poll(client, &mut board, most)?;
        two.poll(client, &mut board, most)?;
        narrator.say(format_args!(
            "{} joins. With its next poll {} acknowledges what it had and gives up half:\n\
             {1} reads {}, {0} reads {}.",
            two.name, one.name, one.assignment, two.assignment
        ))?;
        let mut is_half = total == 0;
        loop {
            let mut read = 0;
            for reader in &mut readers {
                read += reader.poll(client, &mut board, most)?;
            }
            if let Some(interrupt) = &narrator.pauses {
                interrupt.wait(SHOWN_POLL_PAUSE);
            }
            if !is_half && self.lag()? <= total / 2 {
                is_half = true;
                for _ in 0..RATE_POLLS {
                    if self.has_rates()? || self.interrupt.wait(RATE_POLL_PAUSE).is_some() {
                        break;
                    }
                    // The pause does not count as reading.
                    started += RATE_POLL_PAUSE;
                    for reader in &mut readers {
                        reader.poll(client, &mut board, RATE_POLL_RECORDS)?;
                    }
                }
                narrator.say("Half way, the lag is:")?;
                line("")?;
                print_group(client, GROUP)?;
                line("")?;
                narrator.say("Behind by days: the lag in time is the age of the next event, and the oldest are twelve days old.")?;
            }
            if read == 0 || self.interrupt.get().is_some() {
                break;
            }
        }
        for reader in &readers {
            reader.leave(client)?;
        }
        let left = self.lag()?;
        let twice = match board.twice {
            0 => "none".to_owned(),
            twice => count(twice),
        };
        if total == 0 {
            narrator.say("An earlier run has read everything: the group still stands at the end.")?;
        } else {
            let [one, two] = &readers;
            let (_, rate) = speed(one.read + two.read, started);
            let (first, second, left) = (records(one.read), count(two.read), count(left));
            let (one, two) = (one.name, two.name);
            narrator.check(format_args!(
                "{first} read by {one}, {second} by {two}, {rate} a second, {twice} twice; both have left, and the lag is {left}"
            ))?;
        }
        narrator.say("Send it back to the start, and watch its lag while you read again:")?;
        self.quipu(&format!(
            "group reset {GROUP} --topic {TOPIC} --to earliest --yes"
        ))?;
        self.quipu(&format!("lag {GROUP} --watch"))
    }

    /// Shows a command of quipu to paste into another terminal.
    fn quipu(&self, words: &str) -> anyhow::Result<()> {
        let base = self.client.base();
        Ok(self
            .narrator
            .command(format_args!("quipu {words} --server {base}"))?)
    }

    /// How many records the group has not acknowledged.
    fn lag(&self) -> anyhow::Result<u64> {
        let lag: Value = self.client.get(&group_route(GROUP, &["lag"]))?;
        Ok(lag["lag"].as_u64().unwrap_or_default())
    }

    /// Whether each partition with unread records has a rate at which they are read.
    fn has_rates(&self) -> anyhow::Result<bool> {
        let lag: Value = self.client.get(&group_route(GROUP, &["lag"]))?;
        let topics = lag["topics"].as_array().into_iter().flatten();
        let mut rows = topics.flat_map(|topic| topic["partitions"].as_array().into_iter().flatten());
        Ok(rows.all(|row| row["lag"] == 0 || row["consume_rate"].as_f64() > Some(0.0)))
    }

    fn replay(&mut self) -> anyhow::Result<()> {
        let (client, narrator) = (self.client, self.narrator);
        let start = flights::fifth_day(&self.bundle)?;
        let date = |time: i64| time_ms(Some(time)).chars().take(10).collect::<String>();
        let (from, until) = (date(start), date(start + DAY_MS));
        narrator.step(format_args!("One day again: {from}"))?;
        let topic = Topic::describe(client, TOPIC)?;
        let route = stream_route(TOPIC, &[], None)
            .with("from", start)
            .with("until", start + DAY_MS)
            .with("order", "timestamp");
        let topics = [(&topic, topic.choose(&[])?)];
        let mut day = Stream::new(client, &topics, route, false, Some(PATIENCE), self.interrupt);
        let (mut records, mut last, mut ordered) = (0, i64::MIN, true);
        let started = Instant::now();
        while let Some(part) = day.next()? {
            for line in part.iter() {
                if records < 3 {
                    narrator.data(line)?;
                }
                let timestamp = head(line)?.timestamp;
                ordered &= timestamp >= last;
                last = timestamp;
                records += 1;
            }
        }
        let (took, _) = speed(records, started);
        let (events, mut merged) = (count(records), "");
        if ordered {
            merged = ", partitions merged in the order of time";
        }
        narrator.check(format_args!("{events} events of that day in {took}{merged}"))?;
        narrator.say("At 3600 times its pace, the day takes 24 seconds:")?;
        self.quipu(&format!(
            "replay {TOPIC} --from {from} --until {until} --speed 3600"
        ))
    }

    fn addresses(&mut self) -> anyhow::Result<()> {
        let (base, narrator) = (self.client.base(), self.narrator);
        narrator.step("What to open next")?;
        narrator.say("The page, with topics, groups, lag and records:")?;
        narrator.command(format_args!("{base}/"))?;
        narrator.say("The group's lag as a picture:")?;
        Ok(narrator.command(format_args!("{base}/v1/groups/{GROUP}/lag.svg"))?)
    }

    /// Reads every partition from its start to its end; returns the number of records.
    fn read_all(&self, log: &mut Log<'_>) -> anyhow::Result<u64> {
        let topic = Topic::describe(self.client, TOPIC)?;
        let mut records = 0;
        for p in topic.partitions {
            let (start, end) = (p.log_start_offset, Some(p.end_offset));
            let mut partition = Partition::new(self.client, TOPIC, p.partition, start, end);
            while !partition.is_done() {
                let chunk = partition.fetch(SIZE, self.interrupt)?;
                records += memchr::memchr_iter(b'\n', &chunk.lines).count() as u64;
                log.found(p.partition, &chunk.lines)?;
            }
        }
        Ok(records)
    }
}

/// The records that all members together were given.
#[derive(Debug, Default)]
struct Board {
    /// The next offset by partition.
    next: HashMap<u64, u64>,
    twice: u64,
}

impl Board {
    fn show(&mut self, record: &Value) {
        let number = |name: &str| record[name].as_u64().unwrap_or_default();
        let next = self.next.entry(number("partition")).or_default();
        if number("offset") < *next {
            self.twice += 1;
        } else {
            *next = number("offset") + 1;
        }
    }
}

/// The time since `started`, and the rate of `records` in it.
fn speed(records: u64, started: Instant) -> (String, String) {
    let elapsed = started.elapsed();
    (took(elapsed), rate(records, elapsed))
}

/// A member of the group; each step is one poll.
#[derive(Default)]
struct Reader {
    name: &'static str,
    ack: Value,
    /// The partitions that it reads, as text.
    assignment: String,
    read: u64,
}

impl Reader {
    /// Acknowledges the last poll's records and gets the next ones; returns their number.
    fn poll(&mut self, client: &Client, board: &mut Board, most: u64) -> anyhow::Result<u64> {
        let body = json!({"topics": [TOPIC], "ack": self.ack, "max_records": most, "wait_ms": 0});
        let route = group_route(GROUP, &["members", self.name, "poll"]);
        let mut answer = client.send(&Method::POST, &route, Some(&body))?;
        let list = |name: &str| answer[name].as_array().map_or(&[][..], Vec::as_slice);
        let read = list("records").len() as u64;
        list("records").iter().for_each(|record| board.show(record));
        self.assignment = partitions(list("assignment"));
        self.read += read;
        self.ack = answer["poll_id"].take();
        Ok(read)
    }

    fn leave(&self, client: &Client) -> anyhow::Result<()> {
        let ack = self.ack.as_str().unwrap_or_default();
        let route = group_route(GROUP, &["members", self.name]).with("ack", ack);
        client.send(&Method::DELETE, &route, None)?;
        Ok(())
    }
}
