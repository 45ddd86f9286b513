//! Long polls: a read that waits until there is enough.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::Fetcher;
use super::page::Page;
use super::range::{FetchRange, FetchRequest, FetchStart};
use crate::broker::engine::{Partition, Positions, Topic};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::catalog;

/// How long records that are written may take until they can be read: a sync that is slower than this is a fault of the disk.
const MAX_CATCH_UP: Duration = Duration::from_secs(5);

impl Fetcher {
    /// Waits until all that is written can be read, and returns the positions then. A writer that was answered when its
    /// records were written, and not yet durable, asks this to find its own records.
    ///
    /// Returns early, with what can be read, when the server stops, the partition is deleted, or after some seconds. Cost:
    /// nothing if all can be read; else the rest of a round.
    pub async fn caught_up(&self, partition: &Arc<Partition>) -> Positions {
        let written = partition.positions().written_offset;
        let mut timeout = pin!(tokio::time::sleep(MAX_CATCH_UP));
        let mut stopping = self.stopping.clone();
        loop {
            let positions = partition.positions();
            if positions.end_offset >= written {
                return positions;
            }
            tokio::select! {
                () = partition.wait_for(positions.end_offset) => {}
                () = &mut timeout => return positions,
                _ = stopping.wait_for(|stopping| *stopping) => return positions,
            }
            if partition.positions().end_offset == positions.end_offset {
                // Woken for another reason than records: it is deleted, or the log is closing.
                return positions;
            }
        }
    }

    /// Reads a range. If it is open and has too little, waits for more and reads again, for as long as the request
    /// waits; returns at once what it has when the server stops.
    ///
    /// # Errors
    /// Those of [`Fetcher::read_page`]; `UnknownTopic` if the topic is deleted meanwhile.
    pub async fn fetch(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        request: &FetchRequest,
        mut range: FetchRange,
    ) -> Result<Page, Refusal> {
        if range.is_closed {
            return self.read_page(partition, range.limits(request)).await;
        }
        let mut timeout = pin!(tokio::time::sleep(request.wait));
        let mut stopping = self.stopping.clone();
        loop {
            let page = match self.read_page(partition, range.limits(request)).await {
                Ok(page) => page,
                // Trimmed since "earliest" was resolved: the log begins elsewhere now.
                Err(refusal)
                    if refusal.reason == Reason::OffsetTrimmed
                        && !matches!(request.start, FetchStart::Offset(_)) =>
                {
                    range = self.resolve(partition, request).await?;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            };
            let is_complete = page.limited || (page.ended && range.open_as_of.is_none());
            let is_enough = !page.gaps.is_empty() || page.stored_bytes >= request.min_bytes;
            if request.wait.is_zero() || is_complete || is_enough {
                return Ok(page);
            }
            // Records that came after the time was looked up have not been compared with it.
            let seen = range.open_as_of.unwrap_or(page.end_offset);
            tokio::select! {
                () = partition.wait_for(seen) => {}
                () = &mut timeout => return Ok(page),
                // An error means that the sender is gone, and with it the service: end as on a stop.
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(page),
            }
            if partition.is_deleted() {
                return Err(catalog::unknown_topic(topic.name()));
            }
            let positions = partition.positions();
            if positions.end_offset <= seen {
                // Woken for another reason than records: the log is closing.
                return Ok(page);
            }
            self.resolve_until(&mut range, partition, request, positions)
                .await?;
        }
    }
}
