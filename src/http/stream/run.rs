//! A stream as it runs: reads, writes, waits.
//!
//! Everything here is part of the answer's body (see `chunks`): it runs as the client reads, and ends with it. What a
//! stream holds is a chunk of text and, while it reads, slices of maps; while it waits, a wait for each partition.
//!
//! Invariant: a lane's `next` is never behind what was written and never before what was not: whatever cursor is written
//! at any point says exactly what the client has by then.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lanes::Lanes;
use super::output::{Data, Output};
use super::reading::Reading;
use crate::app::App;
use crate::broker::engine::{Error, Offset, TimestampMs, WaitForData};
use crate::broker::fetch::page::{Limits, Page};
use crate::broker::fetch::{read_page, unreadable};
use crate::broker::refusal::{Reason, Refusal, Value};
use crate::broker::stream::filter::Filter;
use crate::broker::stream::merge::{Head, Merge};
use crate::broker::stream::newest::Newest;
use crate::broker::stream::pace::Pace;
use crate::broker::topics::catalog;
use crate::broker::topics::skips::Gap;
use crate::http::chunks::Chunks;
use crate::http::problem::Problem;

/// What is read of a partition before it is the next one's turn, in stored bytes.
const PAGE_BYTES: u64 = 1 << 20;
/// How many records a merge that goes on takes before it looks at the partitions that had none.
const WATCHED_RECORDS: u32 = 1000;
/// How long a stream of events is silent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long records that were found wait for more to fill a chunk, at least.
const LINGER: Duration = Duration::from_millis(100);
/// Offsets that are looked at first, from the end backwards, where not every record is wanted.
const LEAST_STEP: u64 = 1000;
/// What is read before an answer begins that may turn out to be that nothing is left, in pages.
const SILENT_PAGES: u32 = 16;

/// Why a stream ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// It cannot go on.
    #[error("the stream cannot go on: {}", .0.to_json())]
    Problem(Problem),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The client had been told everything, and nothing has come since.
    #[error("nothing is left")]
    NothingLeft,
}

impl From<Refusal> for Cut {
    fn from(refusal: Refusal) -> Self {
        Self::Problem(refusal.into())
    }
}

impl From<Problem> for Cut {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Counts a stream for as long as it lives.
struct Open(App);

impl Open {
    fn new(app: &App) -> Self {
        app.counters.streams.fetch_add(1, Ordering::Relaxed);
        Self(app.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a stream goes about it.
pub(super) struct Manner {
    pub(super) filter: Filter,
    pub(super) by_time: bool,
    pub(super) speed: Option<f64>,
    /// It waits for what comes.
    pub(super) follow: bool,
    /// Only so many of the newest records, and what comes.
    pub(super) last: Option<usize>,
    /// It began at the end: a client that lost its connection could not find that again.
    pub(super) from_latest: bool,
    /// The client had been told where it ended, and asks for what came since.
    pub(super) is_resumed: bool,
    /// It gives CloudEvents.
    pub(super) as_events: bool,
}

/// A stream.
pub(super) struct Stream {
    open: Open,
    lanes: Lanes,
    manner: Manner,
    out: Output,
    /// The waits for lanes' records, by lane, with the offset that they are for.
    waits: Vec<Option<(Offset, WaitForData)>>,
    topics_changed: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    /// The answer has begun.
    is_begun: bool,
    silent_pages: u32,
    /// Stored bytes that were read since others could work.
    unyielded_bytes: u64,
}

impl Stream {
    /// `topics_changed` was subscribed to before the lanes were found.
    pub(super) fn new(
        app: &App,
        lanes: Lanes,
        manner: Manner,
        out: Output,
        topics_changed: watch::Receiver<u64>,
    ) -> Self {
        Self {
            open: Open::new(app),
            lanes,
            manner,
            out,
            waits: Vec::new(),
            topics_changed,
            stopping: app.stopping.subscribe(),
            is_begun: false,
            silent_pages: 0,
            unyielded_bytes: 0,
        }
    }

    /// Writes it; what it returns is the rest.
    ///
    /// # Errors
    /// [`Cut`]. The client is not to take what it has for all there is.
    pub(super) async fn write(mut self, mut chunks: Chunks) -> Result<Bytes, Cut> {
        match self.run(&mut chunks).await {
            Ok(()) => {
                if !self.is_begun
                    && self.manner.is_resumed
                    && self.out.is_events()
                    && self.out.text.is_empty()
                {
                    return Err(Cut::NothingLeft);
                }
                self.begin();
                self.out.end(self.lanes.reached());
            }
            // Server-Sent Events have a word for it, or need none: the client asks again.
            Err(cut) if self.out.is_events() => {
                self.begin();
                match cut {
                    Cut::Problem(problem) => self.out.error(&problem, self.lanes.reached()),
                    Cut::Stopping | Cut::NothingLeft => {}
                }
            }
            Err(cut) => {
                if !self.out.text.is_empty() {
                    self.send(&mut chunks).await;
                }
                if self.is_begun {
                    // What was sent is on its way before the connection is cut behind it.
                    tokio::task::yield_now().await;
                }
                return Err(cut);
            }
        }
        self.count();
        Ok(Bytes::from(self.out.text))
    }

    async fn run(&mut self, chunks: &mut Chunks) -> Result<(), Cut> {
        if self.out.is_events() && !self.manner.is_resumed {
            self.begin();
            self.send(chunks).await;
        }
        if let Some(count) = self.manner.last {
            self.go_to_newest(count, chunks).await?;
        }
        if self.manner.by_time {
            self.by_time(chunks).await
        } else {
            self.in_turns(chunks).await
        }
    }

    /// Moves each lane to its first record among the newest `count` of the stream, and a lane without one to its end.
    ///
    /// Reads each partition backwards from its end, as far as it must.
    async fn go_to_newest(&mut self, count: usize, chunks: &mut Chunks) -> Result<(), Cut> {
        let mut newest = Newest::new(count);
        for lane in 0..self.lanes.lanes.len() {
            let records = self.last_of_lane(lane, count, chunks).await?;
            newest.add(lane, self.lanes.lanes[lane].rank(), records);
        }
        for (lane, first) in newest.firsts() {
            self.lanes.lanes[lane].next = first;
        }
        // Who pages back ends there, and a client that lost its connection could not find it again.
        self.out.place(self.lanes.reached());
        Ok(())
    }

    /// The last `count` records of a lane that are wanted, in order. Moves the lane to its end. Memory: twice that many
    /// places.
    async fn last_of_lane(
        &mut self,
        index: usize,
        count: usize,
        chunks: &mut Chunks,
    ) -> Result<Vec<(TimestampMs, Offset)>, Cut> {
        let lane = &mut self.lanes.lanes[index];
        let partition = lane.partition.clone();
        let end = lane.end.min(lane.as_of);
        let start = lane.next.max(partition.positions().log_start_offset);
        lane.next = lane.next.max(end);
        let mut found: Vec<(TimestampMs, Offset)> = Vec::new();
        let mut step = count as u64;
        if !self.manner.filter.is_open() {
            step = step.max(LEAST_STEP);
        }
        let mut before = end;
        while found.len() < count && before > start {
            let from = Offset::new(before.get().saturating_sub(step)).max(start);
            let mut at = from;
            let mut part = Vec::new();
            let mut damage = None;
            while at < before {
                let limits = Limits {
                    from: at,
                    until: Some(before),
                    max_records: u64::MAX,
                    max_bytes: PAGE_BYTES,
                    whole_batches: true,
                };
                let page = match read_page(&self.open.0.log, &self.open.0.blocking, &partition, limits).await
                {
                    Ok(mut page) => {
                        page.end_by(before);
                        page
                    }
                    Err(_) if partition.is_deleted() => return Err(self.deleted(index)),
                    Err(refusal) if refusal.reason == Reason::OffsetTrimmed => {
                        at = partition.positions().log_start_offset;
                        continue;
                    }
                    // Perhaps there are enough behind it.
                    Err(refusal) => match refusal.value("damaged_until_offset") {
                        Some(Value::Number(until)) => {
                            at = Offset::new(*until as u64);
                            part.clear();
                            damage = Some(refusal);
                            continue;
                        }
                        _ => return Err(refusal.into()),
                    },
                };
                for record in page.records() {
                    let (record, _) = record.map_err(unreadable)?;
                    if self.manner.filter.matches(&record) {
                        if part.len() >= count * 2 {
                            part.drain(..count);
                        }
                        part.push((record.timestamp, record.offset));
                    }
                }
                at = page.next_offset;
                self.unyielded_bytes += page.stored_bytes;
                self.breathe(chunks).await?;
            }
            part.append(&mut found);
            part.drain(..part.len().saturating_sub(count));
            found = part;
            if let Some(damage) = damage
                && found.len() < count
            {
                return Err(damage.into());
            }
            before = from;
            step = step.saturating_mul(2);
        }
        Ok(found)
    }

    /// Partitions in turns: a bounded read each, so that none waits for the whole of another.
    async fn in_turns(&mut self, chunks: &mut Chunks) -> Result<(), Cut> {
        loop {
            self.lanes.take_in()?;
            let mut is_idle = true;
            for lane in 0..self.lanes.lanes.len() {
                if let Some(page) = self.read(lane).await? {
                    is_idle = false;
                    self.write_page(lane, page, chunks).await?;
                    self.breathe(chunks).await?;
                }
            }
            if self.lanes.are_over() {
                return Ok(());
            }
            if is_idle {
                self.wait(&[], None, chunks).await?;
            }
        }
    }

    /// Writes what is wanted of a page.
    async fn write_page(&mut self, lane: usize, page: Page, chunks: &mut Chunks) -> Result<(), Cut> {
        let data = self.data(lane);
        let until = self.lanes.until;
        self.fix(lane);
        let is_open = self.manner.filter.is_open();
        let mut reached = self.lanes.lanes[lane].reached();
        let end = page.next_offset;
        let mut written = reached.next;
        self.out.reserve(page.stored_bytes);
        for record in page.records() {
            let (record, json_lines) = record.map_err(unreadable)?;
            if until.is_some_and(|until| record.timestamp >= until) {
                let lane = &mut self.lanes.lanes[lane];
                lane.next = record.offset;
                lane.end = record.offset;
                self.out.is_behind |= written != record.offset;
                return Ok(());
            }
            if !is_open && !self.manner.filter.matches(&record) {
                continue;
            }
            reached.next = record.offset.plus(1);
            written = reached.next;
            self.out.record(&data, &record, json_lines, reached);
            if self.out.is_full() {
                self.lanes.lanes[lane].next = reached.next;
                self.send(chunks).await;
                self.out.reserve(page.stored_bytes);
            }
        }
        self.lanes.lanes[lane].next = end;
        self.out.is_behind |= written != end;
        Ok(())
    }

    /// Partitions' next records in the order of their timestamps; with a speed, when they are due.
    async fn by_time(&mut self, chunks: &mut Chunks) -> Result<(), Cut> {
        let mut merge = Merge::default();
        let mut readings: Vec<Option<Reading>> = Vec::new();
        let mut pace = self.manner.speed.map(Pace::new);
        loop {
            if self.is_to_stop() {
                return Err(Cut::Stopping);
            }
            self.lanes.take_in()?;
            // The lane for which all others are fixed.
            let mut fixed = None;
            readings.resize_with(self.lanes.lanes.len(), || None);
            for (lane, reading) in readings.iter_mut().enumerate() {
                if reading.is_none() {
                    self.refill(lane, reading, &mut merge, chunks).await?;
                }
            }
            // Until a look at the others is due again: they may have got something that comes earlier.
            let is_watched = self.manner.follow || self.manner.speed.is_some();
            let mut left = if is_watched { WATCHED_RECORDS } else { u32::MAX };
            while left > 0
                && let Some(head) = merge.peek()
            {
                if let Some(due) = pace.as_ref().and_then(|pace| pace.due(head.timestamp))
                    && due > Instant::now()
                {
                    self.wait(&readings, Some(due), chunks).await?;
                    break;
                }
                left -= 1;
                merge.pop();
                if let Some(pace) = &mut pace {
                    pace.take(head.timestamp, Instant::now());
                }
                let Head { lane, .. } = head;
                if fixed != Some(lane) {
                    self.fix(lane);
                    fixed = Some(lane);
                }
                let reading = readings[lane].as_mut().expect("a lane with a head is being read");
                self.out.reserve(reading.bytes());
                if let Some((record, json_lines)) = reading.head().map_err(unreadable)? {
                    let mut reached = self.lanes.lanes[lane].reached();
                    reached.next = record.offset.plus(1);
                    self.out.record(&reading.data, &record, json_lines, reached);
                    self.lanes.lanes[lane].next = reached.next;
                }
                if self.out.is_full() {
                    self.send(chunks).await;
                }
                if !self.find(lane, reading, &mut merge)? {
                    readings[lane] = None;
                    self.refill(lane, &mut readings[lane], &mut merge, chunks).await?;
                    // A gap or a heartbeat that was written meanwhile has fixed what it needed.
                    fixed = None;
                }
            }
            if merge.peek().is_none() {
                if self.lanes.are_over() {
                    return Ok(());
                }
                self.wait(&readings, None, chunks).await?;
            }
        }
    }

    /// Reads a lane until it has a head or, for now, nothing more.
    async fn refill(
        &mut self,
        lane: usize,
        reading: &mut Option<Reading>,
        merge: &mut Merge,
        chunks: &mut Chunks,
    ) -> Result<(), Cut> {
        while let Some(page) = self.read(lane).await? {
            let mut page = Reading::new(page, self.data(lane));
            if self.find(lane, &mut page, merge)? {
                *reading = Some(page);
                return Ok(());
            }
            self.breathe(chunks).await?;
        }
        Ok(())
    }

    /// Puts a lane's next record into the merge; `false`: the page has no more, and the lane is behind it.
    fn find(&mut self, index: usize, reading: &mut Reading, merge: &mut Merge) -> Result<bool, Cut> {
        let until = self.lanes.until;
        let lane = &mut self.lanes.lanes[index];
        let next = reading
            .find(lane.next, until, &self.manner.filter)
            .map_err(unreadable)?;
        let before = lane.next;
        let found = match next {
            Some(next) if next.ends => {
                lane.next = next.offset;
                lane.end = next.offset;
                false
            }
            Some(next) => {
                lane.next = next.offset;
                merge.push(Head {
                    timestamp: next.timestamp,
                    rank: lane.rank(),
                    lane: index,
                });
                true
            }
            None => {
                lane.next = reading.behind();
                false
            }
        };
        self.out.is_behind |= lane.next != before;
        Ok(found)
    }

    /// Reads a page of a lane, and tells of what is missing before it; `None`: there is nothing more, for now.
    async fn read(&mut self, index: usize) -> Result<Option<Page>, Cut> {
        loop {
            let lane = &self.lanes.lanes[index];
            if lane.is_over() {
                return Ok(None);
            }
            if lane.partition.is_deleted() {
                return Err(self.deleted(index));
            }
            let positions = lane.partition.positions();
            if lane.next < positions.log_start_offset {
                self.trimmed(index, positions.log_start_offset)?;
                continue;
            }
            if lane.next >= positions.end_offset {
                return Ok(None);
            }
            let limits = Limits {
                from: lane.next,
                until: (lane.end < Offset::MAX).then_some(lane.end),
                max_records: u64::MAX,
                max_bytes: PAGE_BYTES,
                whole_batches: true,
            };
            let end = lane.end;
            let partition = lane.partition.clone();
            match read_page(&self.open.0.log, &self.open.0.blocking, &partition, limits).await {
                Ok(mut page) => {
                    self.lanes.lanes[index].is_fresh = false;
                    self.unyielded_bytes += page.stored_bytes;
                    for gap in std::mem::take(&mut page.gaps) {
                        self.gap(index, gap, "skipped");
                    }
                    page.end_by(end);
                    if page.runs.is_empty() {
                        let lane = &mut self.lanes.lanes[index];
                        lane.next = lane.next.max(page.next_offset);
                        continue;
                    }
                    return Ok(Some(page));
                }
                Err(problem) if problem.reason == Reason::OffsetTrimmed => {}
                Err(_) if partition.is_deleted() => return Err(self.deleted(index)),
                Err(problem) => return Err(problem.into()),
            }
        }
    }

    /// The log begins behind what a lane was to read.
    fn trimmed(&mut self, index: usize, log_start_offset: Offset) -> Result<(), Cut> {
        let lane = &mut self.lanes.lanes[index];
        let until = log_start_offset.min(lane.end);
        if lane.is_fresh {
            lane.next = until;
            return Ok(());
        }
        if !self.out.is_events() {
            let error = Error::Trimmed {
                offset: lane.next,
                log_start_offset,
                end_offset: lane.partition.positions().end_offset,
            };
            return Err(Problem::from(error).with("partition", lane.index()).into());
        }
        let gap = Gap {
            from: lane.next,
            until,
        };
        self.gap(index, gap, "trimmed");
        Ok(())
    }

    /// Goes on behind missing records, and tells so where there is a way.
    fn gap(&mut self, index: usize, gap: Gap, reason: &str) {
        let lane = &mut self.lanes.lanes[index];
        lane.next = gap.until;
        let partition = lane.index();
        let topic = self.lanes.topics[usize::from(lane.topic)].clone();
        if self.out.is_events() {
            self.begin();
        }
        self.out
            .gap(topic.name(), partition, gap, reason, self.lanes.reached());
    }

    fn deleted(&self, lane: usize) -> Cut {
        let topic = usize::from(self.lanes.lanes[lane].topic);
        catalog::unknown_topic(self.lanes.topics[topic].name()).into()
    }

    /// Between two pages: lets others work, looks whether the server stops, and says that the stream is alive.
    async fn breathe(&mut self, chunks: &mut Chunks) -> Result<(), Cut> {
        if self.is_to_stop() {
            return Err(Cut::Stopping);
        }
        if self.out.is_events() {
            self.silent_pages += 1;
            if !self.is_begun && self.silent_pages >= SILENT_PAGES {
                self.begin();
            }
            if self.out.text.is_empty() && self.out.sent.elapsed() >= HEARTBEAT {
                self.out.heartbeat(self.lanes.reached());
            }
        }
        // Where little is wanted of what is read, it does not wait until it fills a chunk.
        if !self.out.text.is_empty() && self.out.sent.elapsed() >= LINGER {
            self.send(chunks).await;
        }
        if self.unyielded_bytes >= PAGE_BYTES {
            self.unyielded_bytes = 0;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Whether the stream would go on for as long as the server runs, and that ends.
    fn is_to_stop(&self) -> bool {
        (self.manner.follow || self.manner.speed.is_some()) && *self.stopping.borrow()
    }

    /// Sends what is there, then waits for records of lanes that are not being read, for partitions, or until `due`.
    async fn wait(
        &mut self,
        readings: &[Option<Reading>],
        due: Option<Instant>,
        chunks: &mut Chunks,
    ) -> Result<(), Cut> {
        if !self.is_begun || !self.out.text.is_empty() {
            self.begin();
            self.send(chunks).await;
        }
        loop {
            let alarm = self.next_alarm(due);
            let waits = &mut self.waits;
            waits.resize_with(self.lanes.lanes.len(), || None);
            for (index, lane) in self.lanes.lanes.iter().enumerate() {
                let is_dry = readings.get(index).is_none_or(Option::is_none) && !lane.is_over();
                if !is_dry {
                    waits[index] = None;
                } else if waits[index]
                    .as_ref()
                    .is_none_or(|(offset, _)| *offset != lane.next)
                {
                    waits[index] = Some((lane.next, lane.partition.wait_for(lane.next)));
                }
            }
            let arrived = std::future::poll_fn(|context| {
                for (index, wait) in waits.iter_mut().enumerate() {
                    if let Some((_, wait)) = wait
                        && Pin::new(wait).poll(context).is_ready()
                    {
                        return Poll::Ready(index);
                    }
                }
                Poll::Pending
            });
            tokio::select! {
                index = arrived => {
                    let lane = &self.lanes.lanes[index];
                    let has_more = lane.partition.positions().end_offset > lane.next;
                    // Woken for another reason than records: the log is closing.
                    return if has_more || lane.partition.is_deleted() { Ok(()) } else { Err(Cut::Stopping) };
                }
                // An error means that nobody is left to change topics, or to stop the server: as good as stopping.
                changed = self.topics_changed.changed() => {
                    changed.map_err(|_| Cut::Stopping)?;
                    if self.lanes.known.is_some() {
                        return Ok(());
                    }
                }
                _ = self.stopping.wait_for(|stopping| *stopping) => return Err(Cut::Stopping),
                () = sleep_until(alarm) => {}
            }
            // A record that is not due for years would hide that its topic is gone, and keep its files.
            if let Some(lane) = self
                .lanes
                .lanes
                .iter()
                .position(|lane| lane.partition.is_deleted())
            {
                return Err(self.deleted(lane));
            }
            let deadline = self.lanes.deadline();
            if deadline.is_some_and(|until| self.open.0.clock.now() >= until) {
                self.lanes.end_now();
                return Ok(());
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                return Ok(());
            }
            if self.out.is_events() && self.out.sent.elapsed() >= HEARTBEAT {
                self.out.heartbeat(self.lanes.reached());
                self.send(chunks).await;
            }
        }
    }

    /// When there is something to do if nothing happens; `None`: never.
    fn next_alarm(&self, due: Option<Instant>) -> Option<Instant> {
        let heartbeat = self.out.is_events().then(|| self.out.sent + HEARTBEAT);
        let until = self.lanes.deadline().map(|until| {
            let left_ms = until.get().saturating_sub(self.open.0.clock.now().get()).max(0);
            // The wall clock may be set: looked at again from time to time.
            Instant::now() + Duration::from_millis(left_ms as u64).min(HEARTBEAT)
        });
        [heartbeat, until, due].into_iter().flatten().min()
    }

    fn data(&self, lane: usize) -> Data {
        let lane = &self.lanes.lanes[lane];
        let topic = &self.lanes.topics[usize::from(lane.topic)];
        if self.manner.as_events {
            return Data::cloud_events(topic.name(), lane.index());
        }
        let is_named = self.lanes.topics.len() > 1;
        Data::new(is_named.then(|| topic.name()), lane.index())
    }

    /// Says where all lanes are but one.
    fn fix(&mut self, lane: usize) {
        let others = self.lanes.lanes.iter().enumerate();
        self.out.fix(
            others
                .filter(|(index, _)| *index != lane)
                .map(|(_, lane)| lane.reached()),
        );
    }

    /// The answer begins with what is written next.
    fn begin(&mut self) {
        if self.is_begun {
            return;
        }
        self.is_begun = true;
        let place = self.manner.from_latest.then(|| self.lanes.reached());
        let text = std::mem::take(&mut self.out.text);
        self.out.begin(place);
        self.out.text.extend_from_slice(&text);
    }

    async fn send(&mut self, chunks: &mut Chunks) {
        self.begin();
        self.count();
        let chunk = std::mem::take(&mut self.out.text);
        chunks.send(Bytes::from(chunk)).await;
        self.out.sent = Instant::now();
    }

    fn count(&mut self) {
        let (records, bytes) = self.out.take_counts();
        let counters = &self.open.0.counters;
        counters.fetched_records.fetch_add(records, Ordering::Relaxed);
        counters.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

async fn sleep_until(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => tokio::time::sleep_until(alarm).await,
        None => std::future::pending().await,
    }
}
