//! How a stream of the last N records finds them.
//!
//! Each partition is read backwards in slices, always the one next whose unread records are the newest, until it has N
//! wanted records, is read to its beginning, or has only older ones left than the N that were found. What was found is
//! then handed out from its place, without another search.
//!
//! A bound may end that before: then the page has what was found by then. It begins, in each partition, right behind the
//! first record that does not belong to it or was not looked at. So a reader that asks for the records before this place
//! gets all others, and none twice.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::lanes::Chosen;
use super::newest::Newest;
use super::run::{Cut, PAGE_BYTES, Stream};
use super::{Ended, Event, Looked, Sink};
use crate::broker::blocking::Share;
use crate::broker::engine::batch::BatchError;
use crate::broker::engine::{Offset, Partition, TimestampMs};
use crate::broker::fetch::page::{Page, PageLimits};
use crate::broker::fetch::unreadable;
use crate::broker::filter::Filter;
use crate::broker::refusal::{Reason, Value};
use crate::broker::topics::skips;

/// Up to so many records, what was found is compared after each slice; with more, when it has doubled.
const FEW: usize = 1000;

/// A lane that is read backwards.
struct Back {
    lane: usize,
    partition: Arc<Partition>,
    start: Offset,
    end: Offset,
    /// Everything from here to `end` was looked at.
    before: Offset,
    /// About when the record before `before` came.
    time: TimestampMs,
    /// The wanted records, in order.
    found: VecDeque<(TimestampMs, Offset)>,
    /// Behind the last wanted record that does not belong to the page: nothing before it does.
    floor: Option<Offset>,
    /// All records before it are older than those that were found; `None`: not looked up yet.
    older: Option<Offset>,
}

impl Back {
    fn is_done(&self, count: usize) -> bool {
        let start = self.older.map_or(self.start, |older| older.max(self.start));
        self.floor.is_some() || self.found.len() >= count || self.before <= start
    }

    /// Takes the first wanted records away until `count` are left.
    fn shorten(&mut self, count: usize) {
        let surplus = self.found.len().saturating_sub(count);
        if let Some((_, last)) = self.found.drain(..surplus).next_back() {
            self.floor = Some(last.plus(1));
        }
    }

    /// Where its part of the page begins.
    fn begin(&self) -> Offset {
        self.floor.map_or(self.before, |floor| floor.max(self.before))
    }
}

impl<S: Sink> Stream<S> {
    /// Chooses the newest `count` records of the stream, and moves each lane to where the page begins.
    pub(super) async fn go_to_newest(&mut self, count: usize) -> Result<(), Cut> {
        let mut backs = self.begin_backwards().await?;
        let mut oldest = None;
        let mut bound = None;
        let mut is_first = true;
        while let Some(at) = newest_first(&backs, count) {
            if let (Some(oldest), None) = (oldest, backs[at].older) {
                let older = self.first_at(&backs[at].partition, oldest).await?;
                backs[at].older = Some(older.unwrap_or(backs[at].before));
                continue;
            }
            bound = self.scan.as_ref().and_then(|scan| scan.reached(Instant::now()));
            if bound.is_some() && !is_first {
                break;
            }
            (bound, is_first) = (None, false);
            self.look_back(&mut backs[at], count).await?;
            let total: usize = backs.iter().map(|back| back.found.len()).sum();
            if total >= count && (count <= FEW || total > 2 * count) {
                oldest = Some(self.choose(&mut backs, count));
            }
            let Back { lane, before, .. } = backs[at];
            self.lanes.lanes[lane].next = before;
            self.breathe().await?;
        }
        self.choose(&mut backs, count);
        let is_all = backs.iter().all(|back| back.begin() <= back.start);
        for back in backs {
            let lane = &mut self.lanes.lanes[back.lane];
            lane.next = back.begin();
            lane.chosen = Some(Chosen {
                offsets: back.found.iter().map(|(_, offset)| *offset).collect(),
                until: back.end,
            });
        }
        if let Some(scan) = &mut self.scan {
            scan.ended = (!is_all).then(|| bound.unwrap_or(Ended::Records));
            scan.page = Some(self.lanes.reached().collect());
        }
        // A reader pages back from this place, and could not find it again if it loses its connection.
        self.event(Event::Place);
        Ok(())
    }

    /// The lanes at their ends, where they begin to be read backwards.
    async fn begin_backwards(&mut self) -> Result<Vec<Back>, Cut> {
        let lanes = self.lanes.lanes.iter_mut().enumerate();
        let mut backs: Vec<Back> = lanes
            .map(|(index, lane)| {
                let end = lane.end.min(lane.as_of).max(lane.next);
                let start = lane.next.max(lane.partition.positions().log_start_offset);
                lane.next = end;
                Back {
                    lane: index,
                    partition: Arc::clone(&lane.partition),
                    start,
                    end,
                    before: end,
                    time: TimestampMs(i64::MAX),
                    found: VecDeque::new(),
                    floor: None,
                    older: None,
                }
            })
            .collect();
        if self.scan.is_some() && backs.len() > 1 {
            let look = move || {
                for back in backs.iter_mut().filter(|back| back.before > back.start) {
                    let last = Offset::new(back.before.get() - 1);
                    // One that cannot be read is read first, and then reported.
                    let located = back.partition.locate(last).ok();
                    let next = located.and_then(|located| located.next);
                    back.time = next.map_or(back.time, |(_, time)| time);
                }
                backs
            };
            backs = self.fetcher().blocking.run(Share::Read, look).await?;
        }
        Ok(backs)
    }

    /// The first offset whose record is at or after a time.
    async fn first_at(&self, partition: &Arc<Partition>, time: TimestampMs) -> Result<Option<Offset>, Cut> {
        let (log, partition) = (self.fetcher().log.clone(), Arc::clone(partition));
        let find = move || skips::offset_for_time(&log, &partition, time);
        // If damage hides it, everything is looked at.
        let found = self.fetcher().blocking.run(Share::Read, find).await?;
        Ok(found.map_or(Some(Offset::ZERO), |found| found.map(|(offset, _)| offset)))
    }

    /// Leaves the newest `count` of what was found; returns the timestamp of the oldest of them.
    fn choose(&self, backs: &mut [Back], count: usize) -> TimestampMs {
        let mut newest = Newest::new(count);
        for back in &*backs {
            let rank = self.lanes.lanes[back.lane].rank();
            newest.add(back.lane, rank, back.found.iter().copied().collect());
        }
        let mut firsts = vec![Offset::MAX; backs.len()];
        for (lane, first) in newest.firsts() {
            firsts[lane] = first;
        }
        let mut oldest = TimestampMs(i64::MAX);
        for (back, first) in backs.iter_mut().zip(firsts) {
            let before = back.found.partition_point(|(_, offset)| *offset < first);
            back.shorten(back.found.len() - before);
            oldest = back
                .found
                .iter()
                .map(|(time, _)| *time)
                .fold(oldest, TimestampMs::min);
        }
        oldest
    }

    /// How many offsets a lane goes back in one slice.
    fn step(&self, back: &Back, count: usize) -> u64 {
        let positions = back.partition.positions();
        let offsets = positions.end_offset.since(positions.log_start_offset).max(1);
        let record_bytes = (back.partition.size_bytes() / offsets).max(1);
        let left = self.scan.as_ref().map_or(u64::MAX, |scan| scan.bytes_left());
        let step = (PAGE_BYTES.min(left) / record_bytes).max(1);
        match self.request.filter.is_open() {
            true => step.min((count - back.found.len()) as u64),
            false => step,
        }
    }

    /// Looks at the slice of a lane before what was looked at.
    async fn look_back(&mut self, back: &mut Back, count: usize) -> Result<(), Cut> {
        let start = back.start.max(back.partition.positions().log_start_offset);
        let step = self.step(back, count);
        let mut from = Offset::new(back.before.get().saturating_sub(step)).max(start);
        let mut at = from;
        let (mut part, mut bytes) = (Vec::new(), 0);
        let mut damage = None;
        while at < back.before {
            let limits = PageLimits::whole(at, back.before, PAGE_BYTES);
            let page = match self.fetcher().read_page(&back.partition, limits).await {
                Ok(page) => page,
                Err(_) if back.partition.is_deleted() => return Err(self.deleted(back.lane)),
                Err(refusal) if refusal.reason == Reason::OffsetTrimmed => {
                    at = back.partition.positions().log_start_offset;
                    (from, back.start) = (from.max(at), back.start.max(at));
                    continue;
                }
                // There may be enough records after the damage.
                Err(refusal) => match refusal.value("damaged_until_offset") {
                    Some(Value::Number(until)) => {
                        at = Offset::new(*until as u64);
                        from = at;
                        part.clear();
                        damage = Some(refusal);
                        continue;
                    }
                    _ => return Err(refusal.into()),
                },
            };
            let (before, filter) = (back.before, Arc::clone(&self.request.filter));
            let look = move || look_at(page, before, &filter);
            let seen = self.fetcher().blocking.run(Share::Search, look).await?;
            let seen = seen.map_err(unreadable)?;
            if at == from {
                back.time = seen.first.unwrap_or(back.time);
            }
            at = seen.next;
            bytes += seen.looked.bytes;
            part.extend(seen.wanted);
            if let Some(scan) = &mut self.scan {
                scan.add(seen.looked);
            }
            self.unyielded_bytes += seen.looked.bytes;
            // These records are far larger than the others: a slice of the last ones is enough.
            if bytes > 4 * PAGE_BYTES && at < back.before {
                (from, bytes) = (at, 0);
                part.clear();
            }
        }
        let found = std::mem::take(&mut back.found);
        back.found = part.into_iter().chain(found).collect();
        back.before = from.min(back.before);
        if let Some(damage) = damage {
            if back.found.len() < count {
                return Err(damage.into());
            }
            back.floor = Some(from);
        }
        back.shorten(count);
        Ok(())
    }
}

/// The lane to read next: of those that are not done, the one with the newest records.
fn newest_first(backs: &[Back], count: usize) -> Option<usize> {
    let open = backs.iter().enumerate().filter(|(_, back)| !back.is_done(count));
    let newest = open.max_by_key(|(index, back)| (back.time, std::cmp::Reverse(*index)));
    newest.map(|(index, _)| index)
}

/// What a page has.
struct Seen {
    /// The records that are wanted.
    wanted: Vec<(TimestampMs, Offset)>,
    /// When its first record came.
    first: Option<TimestampMs>,
    looked: Looked,
    next: Offset,
}

/// Looks through a page up to an offset.
fn look_at(mut page: Page, before: Offset, filter: &Filter) -> Result<Seen, BatchError> {
    page.end_by(before);
    let mut seen = Seen {
        wanted: Vec::new(),
        first: None,
        looked: Looked::default(),
        next: page.next_offset,
    };
    for record in page.records() {
        let (record, _) = record?;
        seen.first.get_or_insert(record.timestamp);
        seen.looked.add(&record);
        if filter.matches(&record) {
            seen.wanted.push((record.timestamp, record.offset));
        }
    }
    Ok(seen)
}
