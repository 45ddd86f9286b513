//! How a stream reads a page of a lane, and goes on behind missing records.

use std::sync::Arc;

use super::run::{Cut, PAGE_BYTES, Stream};
use super::{Event, Sink};
use crate::broker::engine::{Error, Offset};
use crate::broker::fetch::page::{Page, PageLimits};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::catalog;
use crate::broker::topics::skips::Gap;

impl<S: Sink> Stream<S> {
    /// Reads a page of a lane, and reports missing records before it; `None`: there is nothing more, for now.
    pub(super) async fn read(&mut self, index: usize) -> Result<Option<Page>, Cut> {
        loop {
            let lane = &mut self.lanes.lanes[index];
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
            let (mut end, mut kept) = (lane.end, None);
            if let Some(chosen) = lane.chosen.as_ref().filter(|chosen| lane.next < chosen.until) {
                let next = chosen.offsets.partition_point(|offset| *offset < lane.next);
                end = chosen.until;
                let Some(next) = chosen.offsets.get(next) else {
                    lane.next = end;
                    continue;
                };
                kept = Some(Arc::clone(&chosen.offsets));
                lane.next = *next;
            }
            if kept.is_none() {
                self.check_bounds(index)?;
            }
            let lane = &self.lanes.lanes[index];
            let limits = PageLimits::whole(lane.next, end, PAGE_BYTES);
            let partition = lane.partition.clone();
            match self.fetcher().read_page(&partition, limits).await {
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
                    return match kept {
                        None => Ok(Some(self.look_through(page).await?)),
                        kept => Ok(Some(Page { kept, ..page })),
                    };
                }
                Err(refusal) if refusal.reason == Reason::OffsetTrimmed => {}
                Err(_) if partition.is_deleted() => return Err(self.deleted(index)),
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Goes on at the log start, if that lies above a lane's next offset.
    fn trimmed(&mut self, index: usize, log_start_offset: Offset) -> Result<(), Cut> {
        let lane = &mut self.lanes.lanes[index];
        let until = log_start_offset.min(lane.end);
        if lane.is_fresh {
            lane.next = until;
            return Ok(());
        }
        if !self.out.has_events() {
            let error = Error::Trimmed {
                offset: lane.next,
                log_start_offset,
                end_offset: lane.partition.positions().end_offset,
            };
            return Err(Refusal::from(error).with("partition", lane.index()).into());
        }
        let gap = Gap {
            from: lane.next,
            until,
        };
        self.gap(index, gap, "trimmed");
        Ok(())
    }

    /// Goes on behind missing records, and reports them if the format has events.
    fn gap(&mut self, index: usize, gap: Gap, reason: &'static str) {
        let lane = &mut self.lanes.lanes[index];
        lane.next = gap.until;
        let partition = lane.index();
        let topic = self.lanes.topics[usize::from(lane.topic)].clone();
        self.event(Event::Gap {
            topic: topic.name(),
            partition,
            gap,
            reason,
        });
    }

    pub(super) fn deleted(&self, lane: usize) -> Cut {
        let topic = usize::from(self.lanes.lanes[lane].topic);
        catalog::unknown_topic(self.lanes.topics[topic].name()).into()
    }
}
