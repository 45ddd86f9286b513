//! The loads of `quipu bench`: one thread a connection.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Load, Sums};
use crate::cli::api::{Topic, append_route, partition_route, stream_route};
use crate::cli::client::{Client, Failure};
use crate::cli::signal::Interrupt;
use crate::cli::stream::Stream;

/// Records that `fetch` appends without `--records`.
const FETCH_RECORDS: u64 = 100_000;
/// Bytes of a page.
const PAGE_BYTES: u64 = 1 << 20;
/// How often `tail` appends.
const TICK: Duration = Duration::from_millis(10);
/// How long `tail` waits for records that were appended and not read yet.
const LATE: Duration = Duration::from_secs(10);

/// One run of a load.
pub(super) struct Run<'a> {
    pub(super) client: &'a Client,
    pub(super) topic: &'a str,
    pub(super) load: Load,
    pub(super) interrupt: &'a Interrupt,
}

impl Run<'_> {
    /// Appends requests of `batch` records.
    pub(super) fn produce(&self, batch: u64) -> anyhow::Result<Sums> {
        let left = AtomicU64::new(self.load.records.unwrap_or(u64::MAX));
        self.on_each_connection(|_, sums, ends| {
            while !ends() {
                let Some(records) = take(&left, self.load.in_one_request(batch)) else {
                    break;
                };
                let body = self.lines(records, sums.records, None);
                self.timed(sums, ends, || self.append(&body))?;
                sums.records += records;
                sums.bytes += records * self.load.record_bytes;
            }
            Ok(())
        })
    }

    /// Appends records, then reads all of them, each connection its share of the partitions; with `--duration`, reads
    /// them repeatedly.
    pub(super) fn fetch(&self) -> anyhow::Result<Sums> {
        let total = self.load.records.unwrap_or(FETCH_RECORDS);
        let mut appended = 0;
        while appended < total && self.interrupt.get().is_none() {
            let records = self.load.in_one_request((total - appended).min(5000));
            self.append(&self.lines(records, appended, None))?;
            appended += records;
        }
        let partitions = Topic::describe(self.client, self.topic)?.partitions;
        let is_repeated = self.load.duration.is_some();
        let connections = self.load.connections as usize;
        self.on_each_connection(|connection, sums, ends| {
            loop {
                // With more connections than partitions, several read the same one.
                let all = 0..partitions.len().max(connections);
                let own = all.skip(connection).step_by(connections);
                for partition in own.map(|index| &partitions[index % partitions.len()]) {
                    let route = partition_route(self.topic, partition.partition, &["records"]);
                    let mut next = partition.log_start_offset;
                    while next < partition.end_offset && !ends() {
                        let route = route
                            .clone()
                            .with("offset", next)
                            .with("max_records", 100_000)
                            .with("max_bytes", PAGE_BYTES);
                        let page = self.timed(sums, ends, || {
                            self.client.read(&route, "application/x-ndjson", Duration::ZERO)
                        })?;
                        let Some(page) = page else { break };
                        let records = memchr::memchr_iter(b'\n', &page.body).count() as u64;
                        sums.records += records;
                        sums.bytes += records * self.load.record_bytes;
                        next = page.number("next-offset").unwrap_or(next + records.max(1));
                    }
                }
                if ends() || !is_repeated {
                    return Ok(());
                }
            }
        })
    }

    /// Appends `rate` records a second, and measures when each following connection receives them.
    pub(super) fn tail(&self, rate: u64) -> anyhow::Result<Sums> {
        let topic = Topic::describe(self.client, self.topic)?;
        let started = Instant::now();
        let appended = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..self.load.connections)
                .map(|_| scope.spawn(|| self.follow(&topic, started, &appended, &is_over)))
                .collect();
            let result = self.append_at(rate, started, &appended);
            is_over.store(true, Ordering::Release);
            let mut all = add_up(readers, started)?;
            all.requests = result?;
            Ok(all)
        })
    }

    /// At each tick appends the records that are due; returns the number of requests.
    fn append_at(&self, rate: u64, started: Instant, appended: &AtomicU64) -> Result<u64, Failure> {
        let end = started + self.load.duration();
        let mut requests = 0;
        // The readers have connected by then, and if not, they read what came before.
        while self.interrupt.wait(TICK).is_none() && Instant::now() < end {
            let sent = appended.load(Ordering::Relaxed);
            let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
            let most = self.load.records.unwrap_or(u64::MAX);
            let records = due.min(most).saturating_sub(sent).min(10_000);
            let records = self.load.in_one_request(records);
            if records > 0 {
                self.append(&self.lines(records, sent, Some(started.elapsed())))?;
                requests += 1;
                appended.fetch_add(records, Ordering::Release);
            }
            if Some(sent + records) == self.load.records {
                break;
            }
        }
        Ok(requests)
    }

    fn follow(
        &self,
        topic: &Topic,
        started: Instant,
        appended: &AtomicU64,
        is_over: &AtomicBool,
    ) -> anyhow::Result<Sums> {
        let partitions = topic.choose(&[])?;
        let route = stream_route(self.topic, &[], None);
        let topics = [(topic, partitions)];
        let stream = Stream::new(self.client, &topics, route, true, Some(LATE), self.interrupt);
        let events = stream.spawn(|read| read)?;
        let mut sums = Sums::default();
        let mut quiet_since = None;
        loop {
            match events.recv_timeout(TICK) {
                Ok(records) => {
                    let records = records?;
                    let now = started.elapsed();
                    for line in records.iter() {
                        let sent: Sent = serde_json::from_slice(line)?;
                        let sent = Duration::from_micros(sent.value.sent);
                        sums.latencies.add(now.saturating_sub(sent));
                    }
                    sums.records += records.count;
                    sums.bytes += records.count * self.load.record_bytes;
                    quiet_since = None;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(sums),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let has_all = is_over.load(Ordering::Acquire) && sums.records >= appended.load(Ordering::Acquire);
            if has_all || self.interrupt.get().is_some() {
                return Ok(sums);
            }
            if is_over.load(Ordering::Acquire)
                && quiet_since.get_or_insert_with(Instant::now).elapsed() > LATE
            {
                let appended = appended.load(Ordering::Acquire);
                anyhow::bail!("a reader got {} of {appended} records", sums.records);
            }
        }
    }

    /// NDJSON records from number `first` on; `sent` is written into their values.
    fn lines(&self, records: u64, first: u64, sent: Option<Duration>) -> Vec<u8> {
        let (head, tail) = match sent {
            None => ("\"".to_owned(), "\""),
            Some(sent) => (format!("{{\"sent\":{},\"x\":\"", sent.as_micros()), "\"}"),
        };
        let bytes = self.load.record_bytes as usize;
        let filler = "x".repeat(bytes.saturating_sub(head.len() + tail.len()));
        let mut body = String::new();
        for number in first..first + records {
            body += &format!("{{\"key\":\"{number}\",\"value\":{head}{filler}{tail}}}\n");
        }
        body.into_bytes()
    }

    fn append(&self, body: &[u8]) -> Result<(), Failure> {
        self.client.post(&append_route(self.topic), &[], body).map(drop)
    }

    /// Sends until there is an answer, and counts the latency of that last attempt; `None` if the run ended before.
    fn timed<T>(
        &self,
        sums: &mut Sums,
        ends: &dyn Fn() -> bool,
        send: impl Fn() -> Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        loop {
            let begun = Instant::now();
            match send() {
                Ok(answer) => {
                    sums.latencies.add(begun.elapsed());
                    sums.requests += 1;
                    return Ok(Some(answer));
                }
                Err(failure) if failure.passes() && !ends() => {
                    sums.retries += 1;
                    self.interrupt.wait(failure.retry_after().unwrap_or(TICK * 10));
                }
                Err(failure) if ends() && failure.passes() => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Runs `work` on a thread for each connection, and adds up what they did. The first failure ends all of them.
    fn on_each_connection(
        &self,
        work: impl Fn(usize, &mut Sums, &dyn Fn() -> bool) -> Result<(), Failure> + Sync,
    ) -> anyhow::Result<Sums> {
        let started = Instant::now();
        let end = started + self.load.duration();
        let has_failed = AtomicBool::new(false);
        let ends =
            || Instant::now() >= end || has_failed.load(Ordering::Relaxed) || self.interrupt.get().is_some();
        std::thread::scope(|scope| {
            let (work, ends, has_failed) = (&work, &ends, &has_failed);
            let threads: Vec<_> = (0..self.load.connections as usize)
                .map(|connection| {
                    scope.spawn(move || {
                        let mut sums = Sums::default();
                        let result = work(connection, &mut sums, ends);
                        has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
                        Ok(result.map(|()| sums)?)
                    })
                })
                .collect();
            add_up(threads, started)
        })
    }
}

/// A record of `tail`; its value has the microseconds since the run began.
#[derive(Deserialize)]
struct Sent {
    value: SentValue,
}

#[derive(Deserialize)]
struct SentValue {
    sent: u64,
}

/// Takes up to `most` of what is left; none if nothing is.
fn take(left: &AtomicU64, most: u64) -> Option<u64> {
    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        Some(left - left.min(most))
    });
    Some(before.unwrap_or(0).min(most)).filter(|taken| *taken > 0)
}

/// What the threads did together since `started`.
fn add_up(
    threads: Vec<ScopedJoinHandle<'_, anyhow::Result<Sums>>>,
    started: Instant,
) -> anyhow::Result<Sums> {
    let mut all = Sums::default();
    for thread in threads {
        let panicked = |_| anyhow::anyhow!("a thread of the load has panicked");
        let sums = thread.join().map_err(panicked)??;
        all.records += sums.records;
        all.bytes += sums.bytes;
        all.requests += sums.requests;
        all.retries += sums.retries;
        all.latencies.merge(&sums.latencies);
    }
    all.elapsed = started.elapsed();
    Ok(all)
}
