//! A running stream: reads, hands out records, waits.
//!
//! Memory: the unsent output of its sink; slices of mapped files while it reads; a wait for each partition while it
//! waits.
//!
//! Invariant: every record of the stream before a lane's `next` was handed out, and none from `next` on. So a cursor
//! that is written at any point says exactly what the reader has by then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::lanes::Lanes;
use super::merge::{Head, Merge};
use super::pace::Pace;
use super::reading::Reading;
use super::request::{Beginning, StreamRequest};
use super::scan::Scan;
use super::{Event, Sink};
use crate::broker::caller::Caller;
use crate::broker::engine::{Clock, Offset, TopicId, WaitForData};
use crate::broker::fetch::page::Page;
use crate::broker::fetch::{Fetcher, unreadable};
use crate::broker::refusal::Refusal;
use crate::broker::rights::Right;
use crate::broker::topics::Topics;
use crate::formats::cursor::CursorText;

/// How many stored bytes are read of a partition before the next partition's turn.
pub(super) const PAGE_BYTES: u64 = 1 << 20;
/// How many records the merge of a live stream takes before it checks the partitions that had none.
const WATCHED_RECORDS: u32 = 1000;
/// The longest silence of a stream of events.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
/// After this time since the last send, found records no longer wait for more to fill a chunk.
pub(super) const LINGER: Duration = Duration::from_millis(100);
/// How many pages a resumed stream reads before its answer begins: until then it can still answer that nothing is left.
pub(super) const SILENT_PAGES: u32 = 16;

/// Why a stream ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// It cannot go on.
    #[error("the stream cannot go on: {}", .0.detail)]
    Refused(Refusal),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// A bound of its search is reached: it ends, and says how far it has looked.
    #[error("a bound of the search is reached")]
    Bounded,
    /// The reader has everything up to the end, and nothing has come since.
    #[error("nothing is left")]
    NothingLeft,
}

impl From<Refusal> for Cut {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Counts a stream for as long as it lives.
struct Counted(Fetcher);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose partitions were found, and that has read nothing yet.
pub struct OpenStream {
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    topics_changed: watch::Receiver<u64>,
    request: StreamRequest,
    lanes: Lanes,
}

impl OpenStream {
    /// Finds the partitions and offsets of a request in the named topics, and follows `topics` from then on.
    ///
    /// # Errors
    /// As for [`Lanes::open`]; `ShuttingDown` if the server is stopping and the stream would go on until then.
    pub async fn open(
        caller: &Caller,
        fetcher: &Fetcher,
        clock: &Arc<dyn Clock>,
        topics: &Topics,
        names: &[String],
        request: StreamRequest,
    ) -> Result<Self, Refusal> {
        for name in names {
            caller.check_topic(Right::Read, name)?;
        }
        // Before the partitions are read, so that no added one is missed.
        let topics_changed = topics.changes();
        let lanes = Lanes::open(fetcher, &**clock, names, &request).await?;
        if request.goes_on() && *fetcher.stopping.borrow() {
            return Err(Refusal::stopping());
        }
        Ok(Self {
            fetcher: fetcher.clone(),
            clock: Arc::clone(clock),
            topics_changed,
            request,
            lanes,
        })
    }

    /// The writer of this stream's cursors.
    pub fn cursor(&self) -> CursorText {
        let topics: Vec<TopicId> = self.lanes.topics.iter().map(|topic| topic.id()).collect();
        CursorText::new(super::lanes::directory(&self.fetcher), &topics)
    }

    /// The stream, which counts as open from now on.
    pub fn into_stream<S: Sink>(self, out: S) -> Stream<S> {
        self.fetcher.counters.streams.fetch_add(1, Ordering::Relaxed);
        let scan = self.request.browse.map(Scan::new);
        Stream {
            stopping: self.fetcher.stopping.clone(),
            counted: Counted(self.fetcher),
            clock: self.clock,
            topics_changed: self.topics_changed,
            request: self.request,
            lanes: self.lanes,
            out,
            scan,
            records: 0,
            told: 0,
            bytes: 0,
            sent: Instant::now(),
            has_moved: false,
            waits: Vec::new(),
            is_begun: false,
            silent_pages: 0,
            unyielded_bytes: 0,
        }
    }
}

/// A stream into a sink.
pub struct Stream<S> {
    counted: Counted,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) request: StreamRequest,
    pub(super) lanes: Lanes,
    /// The sink.
    pub out: S,
    /// What it has looked at, if it browses.
    pub(super) scan: Option<Scan>,
    /// Records that were handed out, and how many of them are in the counters.
    pub(super) records: u64,
    told: u64,
    /// Bytes that were handed out and are not counted yet.
    bytes: u64,
    /// When something was last sent.
    pub(super) sent: Instant,
    /// The cursor has moved since it was last written.
    pub(super) has_moved: bool,
    /// The waits for lanes' records, by lane, with the offset that they are for.
    pub(super) waits: Vec<Option<(Offset, WaitForData)>>,
    pub(super) topics_changed: watch::Receiver<u64>,
    pub(super) stopping: watch::Receiver<bool>,
    /// The answer has begun.
    pub(super) is_begun: bool,
    pub(super) silent_pages: u32,
    /// Stored bytes that were read since the last yield to other tasks.
    pub(super) unyielded_bytes: u64,
}

impl<S: Sink> Stream<S> {
    /// Runs it to its end, once. The sink then has what was not sent yet.
    ///
    /// # Errors
    /// [`Cut`]: the reader must not take what it has for all there is.
    pub async fn run(&mut self) -> Result<(), Cut> {
        let ended = self.run_to_end().await;
        let has_nothing = !self.is_begun && self.out.is_empty();
        match ended {
            Err(Cut::Bounded) => self.end(),
            Ok(()) if has_nothing && self.request.is_resumed && self.out.has_events() => {
                return Err(Cut::NothingLeft);
            }
            Ok(()) => self.end(),
            // A format with events has one for a refusal. On a stop it ends without one: the reader asks again.
            Err(Cut::Refused(refusal)) if self.out.has_events() => self.event(Event::Refused(&refusal)),
            Err(_) if self.out.has_events() => {}
            Err(cut) => {
                if !self.out.is_empty() && (self.is_begun || !self.out.is_document()) {
                    self.send().await;
                }
                if self.is_begun {
                    // Lets the output leave before the connection is cut.
                    tokio::task::yield_now().await;
                }
                return Err(cut);
            }
        }
        self.count();
        Ok(())
    }

    async fn run_to_end(&mut self) -> Result<(), Cut> {
        if self.out.has_events() && !self.request.is_resumed {
            if self.request.from == Beginning::Latest {
                // A reader that loses its connection could not find the present end again.
                self.event(Event::Place);
            }
            self.send().await;
        }
        if let Some(count) = self.request.last {
            self.go_to_newest(count).await?;
        }
        if self.request.by_time {
            self.by_time().await
        } else {
            self.in_turns().await
        }
    }

    /// Reads the partitions in turns, a bounded read each, so that none waits until another is read to its end.
    async fn in_turns(&mut self) -> Result<(), Cut> {
        loop {
            self.lanes.take_in()?;
            let mut is_idle = true;
            for lane in 0..self.lanes.lanes.len() {
                if let Some(page) = self.read(lane).await? {
                    is_idle = false;
                    self.hand_out(lane, page).await?;
                    self.check_records()?;
                    self.breathe().await?;
                }
            }
            if self.lanes.are_over() {
                return Ok(());
            }
            if is_idle {
                self.wait(&[], None).await?;
            }
        }
    }

    /// Hands out the wanted records of a page.
    async fn hand_out(&mut self, lane: usize, page: Page) -> Result<(), Cut> {
        let writer = self.writer(lane);
        let until = self.lanes.until;
        self.fix(lane);
        let is_open = page.kept.is_some() || self.request.filter.is_open();
        let mut reached = self.lanes.lanes[lane].reached();
        let mut end = page.next_offset;
        self.out.reserve(page.stored_bytes);
        for record in page.records() {
            let (record, json_lines) = record.map_err(unreadable)?;
            if until.is_some_and(|until| record.timestamp >= until) {
                end = record.offset;
                self.lanes.lanes[lane].end = end;
                break;
            }
            if !is_open && !self.request.filter.matches(&record) {
                continue;
            }
            reached.next = record.offset.plus(1);
            self.records += 1;
            self.bytes += record_bytes(&record);
            self.out.record(&writer, &record, json_lines, reached);
            self.has_moved = false;
            if self.out.is_full() {
                self.lanes.lanes[lane].next = reached.next;
                self.send().await;
                self.out.reserve(page.stored_bytes);
            }
        }
        self.lanes.lanes[lane].next = end;
        self.has_moved |= reached.next != end;
        Ok(())
    }

    /// Hands out the partitions' next records in the order of their timestamps; with a speed, each when it is due.
    async fn by_time(&mut self) -> Result<(), Cut> {
        let mut merge = Merge::default();
        let mut readings: Vec<Option<Reading>> = Vec::new();
        let mut writers: Vec<S::Writer> = Vec::new();
        let mut pace = self.request.speed.map(Pace::new);
        loop {
            if self.is_to_stop() {
                return Err(Cut::Stopping);
            }
            self.lanes.take_in()?;
            // The lane that hands out records; in the cursor all others are fixed.
            let mut fixed = None;
            let count = self.lanes.lanes.len();
            readings.resize_with(count, || None);
            writers.extend((writers.len()..count).map(|lane| self.writer(lane)));
            for (lane, reading) in readings.iter_mut().enumerate() {
                if reading.is_none() {
                    self.refill(lane, reading, &mut merge).await?;
                }
            }
            // Records until the other partitions are checked again: they may have got records that come earlier.
            let mut left = if self.request.is_live() {
                WATCHED_RECORDS
            } else {
                u32::MAX
            };
            while left > 0
                && let Some(head) = merge.peek()
            {
                if let Some(due) = pace.as_ref().and_then(|pace| pace.due(head.timestamp))
                    && due > Instant::now()
                {
                    self.wait(&readings, Some(due)).await?;
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
                    self.records += 1;
                    self.bytes += record_bytes(&record);
                    self.out.record(&writers[lane], &record, json_lines, reached);
                    self.has_moved = false;
                    self.lanes.lanes[lane].next = reached.next;
                }
                if self.out.is_full() {
                    self.send().await;
                }
                self.check_records()?;
                if !self.find(lane, reading, &mut merge)? {
                    readings[lane] = None;
                    self.refill(lane, &mut readings[lane], &mut merge).await?;
                    // A gap or a heartbeat that was written meanwhile may have fixed other lanes.
                    fixed = None;
                }
            }
            if merge.peek().is_none() {
                if self.lanes.are_over() {
                    return Ok(());
                }
                self.wait(&readings, None).await?;
            }
        }
    }

    /// Reads a lane until it has a head or, for now, nothing more.
    async fn refill(
        &mut self,
        lane: usize,
        reading: &mut Option<Reading>,
        merge: &mut Merge,
    ) -> Result<(), Cut> {
        while let Some(page) = self.read(lane).await? {
            let mut page = Reading::new(page);
            if self.find(lane, &mut page, merge)? {
                *reading = Some(page);
                return Ok(());
            }
            self.breathe().await?;
        }
        Ok(())
    }

    /// Puts a lane's next record into the merge; `false`: the page has no more, and the lane has passed it.
    fn find(&mut self, index: usize, reading: &mut Reading, merge: &mut Merge) -> Result<bool, Cut> {
        let until = self.lanes.until;
        let lane = &mut self.lanes.lanes[index];
        let next = reading
            .find(lane.next, until, &self.request.filter)
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
        self.has_moved |= lane.next != before;
        Ok(found)
    }

    pub(super) fn fetcher(&self) -> &Fetcher {
        &self.counted.0
    }

    fn writer(&self, lane: usize) -> S::Writer {
        let lane = &self.lanes.lanes[lane];
        let topic = &self.lanes.topics[usize::from(lane.topic)];
        self.out.writer(topic.name(), lane.index())
    }

    /// Fixes the offsets of all lanes but one in the cursor.
    fn fix(&mut self, lane: usize) {
        let others = self.lanes.lanes.iter().enumerate();
        let others = others.filter(|(index, _)| *index != lane);
        self.out.fix(others.map(|(_, lane)| lane.reached()));
    }

    pub(super) fn event(&mut self, event: Event<'_>) {
        if self.out.has_events() {
            self.out.event(event, self.lanes.reached());
            self.has_moved = false;
        }
    }

    pub(super) async fn send(&mut self) {
        self.is_begun = true;
        self.count();
        self.out.send().await;
        self.sent = Instant::now();
    }

    fn count(&mut self) {
        let (records, bytes) = (self.records - self.told, std::mem::take(&mut self.bytes));
        self.told = self.records;
        self.fetcher().count(records, bytes);
    }
}

/// A record's bytes as they are counted: its key, its value, and about the bytes around them.
#[inline]
fn record_bytes(record: &crate::broker::engine::batch::Record<'_>) -> u64 {
    (8 + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64
}
