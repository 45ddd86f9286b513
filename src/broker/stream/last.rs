//! How a stream of the last N records finds where they begin.

use super::newest::Newest;
use super::run::{Cut, PAGE_BYTES, Stream};
use super::{Event, Sink};
use crate::broker::engine::{Offset, TimestampMs};
use crate::broker::fetch::page::PageLimits;
use crate::broker::fetch::unreadable;
use crate::broker::refusal::{Reason, Value};

/// How many offsets are read first, backwards from the end, if a filter is set.
const LEAST_STEP: u64 = 1000;

impl<S: Sink> Stream<S> {
    /// Moves each lane to its first record among the newest `count` of the stream, and a lane without one to its end.
    ///
    /// Reads each partition backwards from its end, as far as it must.
    pub(super) async fn go_to_newest(&mut self, count: usize) -> Result<(), Cut> {
        let mut newest = Newest::new(count);
        for lane in 0..self.lanes.lanes.len() {
            let records = self.last_of_lane(lane, count).await?;
            newest.add(lane, self.lanes.lanes[lane].rank(), records);
        }
        for (lane, first) in newest.firsts() {
            self.lanes.lanes[lane].next = first;
        }
        // A reader pages back from this place, and could not find it again if it loses its connection.
        self.event(Event::Place);
        Ok(())
    }

    /// The last `count` wanted records of a lane, in order. Moves the lane to its end. Memory: twice that many places.
    async fn last_of_lane(&mut self, index: usize, count: usize) -> Result<Vec<(TimestampMs, Offset)>, Cut> {
        let lane = &mut self.lanes.lanes[index];
        let partition = lane.partition.clone();
        let end = lane.end.min(lane.as_of);
        let start = lane.next.max(partition.positions().log_start_offset);
        lane.next = lane.next.max(end);
        let mut found: Vec<(TimestampMs, Offset)> = Vec::new();
        let mut step = count as u64;
        if !self.request.filter.is_open() {
            step = step.max(LEAST_STEP);
        }
        let mut before = end;
        while found.len() < count && before > start {
            let from = Offset::new(before.get().saturating_sub(step)).max(start);
            let mut at = from;
            let mut part = Vec::new();
            let mut damage = None;
            while at < before {
                let limits = PageLimits::batches(at, before, PAGE_BYTES);
                let page = match self.fetcher().read_page(&partition, limits).await {
                    Ok(mut page) => {
                        page.end_by(before);
                        page
                    }
                    Err(_) if partition.is_deleted() => return Err(self.deleted(index)),
                    Err(refusal) if refusal.reason == Reason::OffsetTrimmed => {
                        at = partition.positions().log_start_offset;
                        continue;
                    }
                    // There may be enough records after the damage.
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
                    if self.request.filter.matches(&record) {
                        if part.len() >= count * 2 {
                            part.drain(..count);
                        }
                        part.push((record.timestamp, record.offset));
                    }
                }
                at = page.next_offset;
                self.unyielded_bytes += page.stored_bytes;
                self.breathe().await?;
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
}
