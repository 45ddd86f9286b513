//! The story: events in, checked, read by a group that stops half way, and one day of them replayed.

use std::time::Instant;

use http::Method;
use serde_json::json;

use super::super::api::{Committed, Topic, group_route, topic_route};
use super::super::client::{Client, Route};
use super::super::history::{FETCH_BYTES, MAX_RECORDS, Partition, Size};
use super::super::lag;
use super::super::output::{bytes, count, rate, took};
use super::super::position::{Position, parse_time};
use super::super::produce::Produced;
use super::super::replay;
use super::super::signal::Interrupt;
use super::flights::{self, Log};
use super::narrator::Narrator;

const TOPIC: &str = "flights";
const PARTITIONS: u32 = 6;
const GROUP: &str = "arrivals-board";
/// The day that is replayed.
const DAY: (&str, &str) = ("2013-01-05", "2013-01-06");
/// What a fetch of the story asks for.
const SIZE: Size = Size {
    records: MAX_RECORDS,
    bytes: FETCH_BYTES,
    wait: std::time::Duration::ZERO,
};

/// Tells all of it; ends early when it is asked to.
pub(super) fn tell(client: &Client, mut narrator: Narrator, interrupt: &Interrupt) -> anyhow::Result<()> {
    let bundle = flights::unpack()?;
    let mut story = Story {
        client,
        narrator: &mut narrator,
        interrupt,
        bundle: &bundle,
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
    narrator: &'a mut Narrator,
    interrupt: &'a Interrupt,
    bundle: &'a [u8],
}

impl Story<'_> {
    fn topic(&mut self) -> anyhow::Result<()> {
        self.narrator
            .step(format_args!("A topic with {PARTITIONS} partitions"))?;
        let body = json!({"partitions": PARTITIONS});
        self.client
            .send(&Method::PUT, &topic_route(TOPIC), Some(&body))
            .map_err(|failure| match failure.code() {
                Some("topic-exists") => anyhow::anyhow!(
                    "the data directory has a topic {TOPIC} of another kind; give another --data ({failure})"
                ),
                _ => failure.into(),
            })?;
        self.narrator.say(
            "Its records will be flights from New York's airports. The key of each is the aircraft's tail number,\n\
             so all events of an aircraft are in one partition, in order.",
        )?;
        let base = self.client.base();
        self.narrator.command(format_args!(
            "curl -X PUT {base}/v1/topics/{TOPIC} -H 'content-type: application/json' -d '{body}'"
        ))?;
        Ok(())
    }

    fn load(&mut self) -> anyhow::Result<()> {
        self.narrator.step("Events go in")?;
        let missing = {
            let mut log = Log::expect(self.bundle)?;
            self.read_all(&mut log)?;
            log.missing()
        };
        if missing.is_empty() {
            self.narrator
                .say("The events of an earlier run are all there: nothing to load.")?;
        } else {
            if missing.len() < self.bundle.len() {
                self.narrator
                    .say("An earlier run stopped while loading: this one goes on from there.")?;
            }
            let started = Instant::now();
            let route = Route::new(&["v1", "topics", TOPIC, "records"]);
            let produced: Produced = self.client.post(&route, "application/x-ndjson", &missing)?;
            let elapsed = started.elapsed();
            self.narrator.check(format_args!(
                "{} events ({}) stored in {}: {} a second, acknowledged when they were on stable storage",
                count(produced.records),
                bytes(missing.len() as u64),
                took(elapsed),
                rate(produced.records, elapsed),
            ))?;
        }
        let base = self.client.base();
        self.narrator.say("One more, if you like:")?;
        self.narrator.command(format_args!(
            "curl {base}/v1/topics/{TOPIC}/records -H 'content-type: application/json' \
             -d '{{\"records\":[{{\"key\":\"N14228\",\"value\":{{\"event\":\"Hello\"}}}}]}}'"
        ))?;
        Ok(())
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.narrator.step("Events come back in order")?;
        let mut log = Log::expect(self.bundle)?;
        let started = Instant::now();
        let read = self.read_all(&mut log)?;
        let elapsed = started.elapsed();
        let (aircraft, found, whole) = log.summary();
        if !whole {
            anyhow::bail!(
                "of the bundled events of {aircraft} aircraft only {found} came back in their order: this must not \
                 happen; run quipu verify on the data directory"
            );
        }
        self.narrator.say(format_args!(
            "Read back over HTTP: {} records in {}, {} a second.",
            count(read),
            took(elapsed),
            rate(read, elapsed)
        ))?;
        self.narrator.check(format_args!(
            "{} aircraft, {} events: each aircraft's came back in the order they were sent, byte for byte",
            count(aircraft),
            count(found)
        ))?;
        if log.others > 0 {
            self.narrator.say(format_args!(
                "({} records of yours are there too.)",
                count(log.others)
            ))?;
        }
        let base = self.client.base();
        self.narrator.command(format_args!(
            "curl '{base}/v1/topics/{TOPIC}/partitions/0/records?offset=earliest&max_records=3'"
        ))?;
        Ok(())
    }

    fn group(&mut self) -> anyhow::Result<()> {
        self.narrator.step("A consumer group that stops half way")?;
        let topic = Topic::describe(self.client, TOPIC)?;
        let committed = Committed::of(self.client, GROUP)?.offsets;
        let mut offsets = Vec::new();
        let mut read = 0;
        for p in &topic.partitions {
            let before = committed
                .iter()
                .find(|c| c.topic == TOPIC && c.partition == p.partition);
            let start = before.map_or(p.log_start_offset, |c| c.offset.max(p.log_start_offset));
            let half = p.log_start_offset + (p.end_offset - p.log_start_offset) / 2;
            let mut partition = Partition::new(self.client, TOPIC, p.partition, start, Some(half));
            while !partition.is_done() {
                let chunk = partition.fetch(SIZE, self.interrupt)?;
                read += memchr::memchr_iter(b'\n', &chunk.lines).count() as u64;
            }
            offsets.push(json!({"topic": TOPIC, "partition": p.partition, "offset": start.max(half)}));
        }
        let route = group_route(GROUP, &["offsets"]);
        self.client
            .send(&Method::PUT, &route, Some(&json!({"offsets": offsets})))?;
        if read > 0 {
            self.narrator.say(format_args!(
                "The group {GROUP} read {} records, committed how far it came, and went away. Its lag:",
                count(read)
            ))?;
        } else {
            self.narrator.say(format_args!(
                "The group {GROUP} still stands where it stopped. Its lag:"
            ))?;
        }
        self.narrator.gap()?;
        lag::print_group(self.client, GROUP)?;
        self.narrator.gap()?;
        self.narrator.say(
            "Behind by years: the lag in time is the age of the next event, and these happened in January 2013.\n\
             Take over where it stopped, or look at the lag:",
        )?;
        let base = self.client.base();
        self.narrator.command(format_args!(
            "quipu consume {TOPIC} --group {GROUP} --max 3 --server {base}"
        ))?;
        self.narrator
            .command(format_args!("curl {base}/v1/groups/{GROUP}/lag"))?;
        Ok(())
    }

    fn replay(&mut self) -> anyhow::Result<()> {
        let (from, until) = DAY;
        self.narrator.step(format_args!("One day again: {from}"))?;
        let times = (parse_time(from), parse_time(until));
        let (Ok(start), Ok(end)) = times else {
            anyhow::bail!("{from} and {until} are dates")
        };
        let topic = Topic::describe(self.client, TOPIC)?;
        let mut day = replay::Merge::open(
            self.client,
            TOPIC,
            &topic.choose(&[])?,
            start,
            Position::Time(end),
        )?;
        let (mut records, mut last, mut ordered) = (0, i64::MIN, true);
        let started = Instant::now();
        while let Some((timestamp, line)) = day.next(self.interrupt)? {
            if records < 3 {
                self.narrator.data(&line)?;
            }
            ordered &= timestamp >= last;
            last = timestamp;
            records += 1;
        }
        let elapsed = started.elapsed();
        self.narrator.check(format_args!(
            "{} events of that day in {}{}",
            count(records),
            took(elapsed),
            if ordered {
                ", partitions merged in the order of time"
            } else {
                ""
            }
        ))?;
        let base = self.client.base();
        self.narrator
            .say("At 3600 times its pace, the day takes 24 seconds; a partition's share with curl:")?;
        self.narrator.command(format_args!(
            "quipu replay {TOPIC} --from {from} --until {until} --speed 3600 --server {base}"
        ))?;
        self.narrator.command(format_args!(
            "curl '{base}/v1/topics/{TOPIC}/partitions/0/records?from={from}T00:00:00Z&until={until}T00:00:00Z' \
             -H 'accept: application/x-ndjson'"
        ))?;
        Ok(())
    }

    fn addresses(&mut self) -> anyhow::Result<()> {
        self.narrator.step("What to open next")?;
        let base = self.client.base();
        for (path, what) in [
            ("/v1/topics/flights", "the topic, its partitions and settings"),
            ("/v1/groups/arrivals-board/lag", "the group's lag"),
            ("/openapi.json", "every route, for your client generator"),
            ("/metrics", "for Prometheus"),
            ("/health/ready", "for whoever restarts it"),
            ("/v1/info", "version, features, limits"),
        ] {
            self.narrator
                .command(format_args!("curl {:<60} # {what}", format!("{base}{path}")))?;
        }
        Ok(())
    }

    /// Reads every partition from its start to its end; answers how many records there were.
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
