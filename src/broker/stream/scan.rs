//! Browsing: a stream that looks through many records for few, within bounds, and says how far it has looked.
//!
//! A page is looked through on a thread of [`Share::Search`], of which there are few, and the next page waits for its
//! turn: however many search, the other requests find a core. A reader that goes away ends its search after the page.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::request::Bounds;
use super::run::{Cut, Stream};
use super::{Browsed, Ended, Event, Looked, Sink};
use crate::broker::blocking::Share;
use crate::broker::engine::TimestampMs;
use crate::broker::engine::batch::{BatchError, Record};
use crate::broker::fetch::page::{Kept, Page, stored_bytes};
use crate::broker::fetch::unreadable;
use crate::broker::filter::Filter;
use crate::formats::cursor::Reached;

/// How often a stream with events says how far it has looked.
const PROGRESS: Duration = Duration::from_secs(1);

/// What a stream that browses keeps beside its lanes.
pub(super) struct Scan {
    bounds: Bounds,
    /// `None`: never.
    deadline: Option<Instant>,
    looked: Looked,
    /// The lanes that were looked at.
    lanes: Vec<bool>,
    /// The bound at which it ended; `None`: it goes on, or was read to its end.
    pub(super) ended: Option<Ended>,
    /// Of a stream of the newest records: where its page begins.
    pub(super) page: Option<Vec<Reached>>,
    /// When progress was last told.
    told: Instant,
}

impl Scan {
    pub(super) fn new(bounds: Bounds) -> Self {
        let now = Instant::now();
        Self {
            bounds,
            deadline: now.checked_add(bounds.time),
            looked: Looked::default(),
            lanes: Vec::new(),
            ended: None,
            page: None,
            told: now,
        }
    }

    /// The stored bytes that it may still look at.
    pub(super) fn bytes_left(&self) -> u64 {
        self.bounds.bytes.saturating_sub(self.looked.bytes)
    }

    /// The bound that is reached, other than that of records.
    pub(super) fn reached(&self, now: Instant) -> Option<Ended> {
        if self.bytes_left() == 0 {
            return Some(Ended::Bytes);
        }
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        is_late.then_some(Ended::Time)
    }

    pub(super) fn add(&mut self, looked: Looked) {
        self.looked.records += looked.records;
        self.looked.bytes += looked.bytes;
    }

    /// Whether a lane is looked at for the first time.
    fn is_first(&mut self, lane: usize) -> bool {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, false);
        }
        !std::mem::replace(&mut self.lanes[lane], true)
    }
}

/// What is wanted of a page.
struct Wanted {
    filter: Arc<Filter>,
    until: Option<TimestampMs>,
    records: u64,
    bytes: u64,
}

impl Wanted {
    /// Leaves in a page what is wanted, and cuts it where a bound is reached: behind a record at least.
    fn keep(&self, page: &mut Page) -> Result<Looked, BatchError> {
        let (mut looked, mut kept, mut is_over) = (Looked::default(), 0, false);
        let look = |record: &Record<'_>| {
            let is_bounded = kept >= self.records || looked.bytes >= self.bytes;
            if is_over || (is_bounded && looked.records > 0) {
                return Kept::Stop;
            }
            looked.add(record);
            // The stream finds it there and ends before it.
            is_over = self.until.is_some_and(|until| record.timestamp >= until);
            if is_over || self.filter.matches(record) {
                kept += 1;
                return Kept::Yes;
            }
            Kept::No
        };
        page.retain(look)?;
        Ok(looked)
    }
}

impl Looked {
    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.bytes += stored_bytes(record);
    }
}

impl<S: Sink> Stream<S> {
    /// Ends the stream if a bound is reached; but every lane is looked at once.
    pub(super) fn check_bounds(&mut self, lane: usize) -> Result<(), Cut> {
        let Some(scan) = &mut self.scan else {
            return Ok(());
        };
        if !scan.is_first(lane)
            && let Some(ended) = scan.reached(Instant::now())
        {
            scan.ended = Some(ended);
            return Err(Cut::Bounded);
        }
        Ok(())
    }

    /// Ends the stream if it has handed out as many records as it may.
    #[inline]
    pub(super) fn check_records(&mut self) -> Result<(), Cut> {
        let follow = self.request.follow;
        if let Some(scan) = &mut self.scan
            && self.records >= scan.bounds.records
            // A page of the newest records is chosen as a whole.
            && (follow || scan.page.is_none())
        {
            scan.ended = Some(Ended::Records);
            return Err(Cut::Bounded);
        }
        Ok(())
    }

    /// Looks through a page for what is wanted.
    pub(super) async fn look_through(&mut self, mut page: Page) -> Result<Page, Cut> {
        let Some(scan) = &mut self.scan else {
            return Ok(page);
        };
        let wanted = Wanted {
            filter: Arc::clone(&self.request.filter),
            until: self.lanes.until,
            records: scan.bounds.records.saturating_sub(self.records),
            bytes: scan.bytes_left(),
        };
        let look = move || wanted.keep(&mut page).map(|looked| (page, looked));
        let looked = self.fetcher().blocking.run(Share::Search, look).await?;
        let (page, looked) = looked.map_err(unreadable)?;
        if let Some(scan) = &mut self.scan {
            scan.add(looked);
        }
        Ok(page)
    }

    /// Says how far it has looked, once a second.
    pub(super) fn tell_progress(&mut self) {
        let Some(scan) = &mut self.scan else {
            return;
        };
        if self.out.has_events() && scan.told.elapsed() >= PROGRESS {
            scan.told = Instant::now();
            let looked = scan.looked;
            let place: Vec<Reached> = self.lanes.reached().collect();
            let place = &place;
            self.event(Event::Progress { looked, place });
        }
    }

    /// Hands out the end. Of a stream that browses it says how far that has looked, in formats without events too.
    pub(super) fn end(&mut self) {
        let Some(scan) = &mut self.scan else {
            return self.event(Event::End(None));
        };
        let looked = scan.looked;
        let (place, ended) = match scan.page.take() {
            Some(page) => (page, scan.ended),
            None if self.lanes.are_over() => (self.lanes.reached().collect(), None),
            None => (self.lanes.reached().collect(), scan.ended),
        };
        let browsed = Browsed {
            looked,
            ended: ended.unwrap_or(Ended::End),
            place: &place,
        };
        self.out.event(Event::End(Some(browsed)), self.lanes.reached());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_over_when_its_bytes_or_its_time_are_used_up() {
        let scan = |bytes, time| {
            Scan::new(Bounds {
                bytes,
                time,
                ..Bounds::NONE
            })
        };
        let second = Duration::from_secs(1);
        let mut bytes = scan(10, Duration::MAX);
        assert_eq!(bytes.reached(Instant::now() + second * 1000), None);
        let looked = Looked { records: 1, bytes: 9 };
        bytes.add(looked);
        assert_eq!((bytes.bytes_left(), bytes.reached(Instant::now())), (1, None));
        bytes.add(looked);
        assert_eq!(
            (bytes.bytes_left(), bytes.reached(Instant::now())),
            (0, Some(Ended::Bytes))
        );
        let time = scan(u64::MAX, second);
        assert_eq!(time.reached(Instant::now() + second * 2), Some(Ended::Time));
        assert_eq!(time.reached(Instant::now()), None);
    }

    #[test]
    fn every_lane_is_looked_at_once() {
        let mut scan = Scan::new(Bounds::NONE);
        let found = [2, 0, 2, 0, 1].map(|lane| scan.is_first(lane));
        assert_eq!(found, [true, true, false, false, true]);
    }
}
