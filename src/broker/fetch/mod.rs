//! Fetch: the records of one partition within limits. Read [`range`] first.
//!
//! - [`range`] finds the offsets that a request asks for.
//! - [`wait`] reads them, and waits if there are too few records.
//! - [`page`] is the result of one read; [`inflate`] what it does with compressed batches.
//! - [`several`] reads whole batches of several partitions at once.
//!
//! Records in memory are read on the calling worker; a read that may wait for the disk runs on a blocking thread.

pub mod inflate;
pub mod page;
pub mod range;
pub mod several;
mod wait;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use self::inflate::Room;
use self::page::{Page, PageLimits};
use super::blocking::{Blocking, Share};
use super::counters::Counters;
use super::refusal::{Outcome, Reason, Refusal};
use super::topics::skips::{Gap, Skips};
use crate::broker::engine::batch::BatchError;
use crate::broker::engine::{Error, Fetched, Log, Offset, Partition, PartitionId, ReadRequest};

/// The part of the broker that reads partitions. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    pub(super) log: Log,
    pub(super) blocking: Blocking,
    pub(super) counters: Arc<Counters>,
    /// The memory for inflated batches.
    room: Room,
    /// Becomes true when the server begins to stop.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Fetcher {
    /// A fetcher over the broker's parts.
    pub(super) fn new(
        log: &Log,
        blocking: &Blocking,
        counters: &Arc<Counters>,
        stopping: &watch::Sender<bool>,
    ) -> Self {
        Self {
            log: log.clone(),
            blocking: blocking.clone(),
            counters: Arc::clone(counters),
            room: Room::default(),
            stopping: stopping.subscribe(),
        }
    }

    /// Reads one page of a partition within the limits; goes on after damage that an operator has skipped.
    ///
    /// # Errors
    /// Those of [`Partition::read`].
    pub async fn read_page(&self, partition: &Arc<Partition>, limits: PageLimits) -> Result<Page, Refusal> {
        let page = self.read_within(partition, limits).await?;
        if page.stored_bytes > 0 {
            partition.count_read(page.stored_bytes);
        }
        Ok(page)
    }

    /// Counts records and stored bytes that are given to a reader.
    pub fn count(&self, records: u64, bytes: u64) {
        self.counters
            .fetched_records
            .fetch_add(records, Ordering::Relaxed);
        self.counters.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    async fn read_within(&self, partition: &Arc<Partition>, mut limits: PageLimits) -> Result<Page, Refusal> {
        if limits.until.is_some_and(|until| until <= limits.from) {
            let positions = partition.positions();
            let mut page = Page::empty(limits.from, positions.log_start_offset, positions.end_offset);
            page.ended = true;
            return Ok(page);
        }
        let mut gaps: Vec<Gap> = Vec::new();
        loop {
            let request = ReadRequest {
                from: limits.from,
                until: limits.until,
                max_bytes: usize::try_from(limits.max_bytes).unwrap_or(usize::MAX),
            };
            let (error, damaged_until) =
                match read(&self.blocking, &self.counters, partition, request).await? {
                    Ok(fetched) => {
                        let mut page = self.choose(partition.id(), fetched, &limits).await?;
                        page.gaps = gaps;
                        return Ok(page);
                    }
                    Err(error @ Error::Damaged { damaged_until, .. }) => (error, damaged_until),
                    Err(error) => return Err(Refusal::from(error).outcome(Outcome::None)),
                };
            let skipped = Skips::of(&self.log, partition.id()).end_of(limits.from);
            let positions = partition.positions();
            let Some(until) = skipped else {
                if gaps.is_empty() {
                    return Err(error.into());
                }
                // The next fetch begins at this damage, and is refused.
                let mut page = Page::behind(limits.from, positions, gaps);
                page.limited = true;
                return Ok(page);
            };
            let until = until.min(damaged_until).min(limits.until.unwrap_or(Offset::MAX));
            match gaps.last_mut() {
                Some(gap) => gap.until = until,
                None => gaps.push(Gap {
                    from: limits.from,
                    until,
                }),
            }
            limits.from = until;
            let ended = limits.until.is_some_and(|end| until >= end);
            if ended || until >= positions.end_offset {
                let mut page = Page::behind(until, positions, gaps);
                page.ended = ended;
                return Ok(page);
            }
        }
    }

    /// Chooses a page from what was read.
    async fn choose(
        &self,
        partition: PartitionId,
        fetched: Fetched,
        limits: &PageLimits,
    ) -> Result<Page, Refusal> {
        if let Some(page) = Page::choose(&fetched, limits).map_err(unreadable)? {
            return Ok(page);
        }
        let inflated = self
            .room
            .inflate(&self.blocking, partition, fetched, limits)
            .await?;
        let page = Page::choose(&inflated, limits).map_err(unreadable)?;
        Ok(page.expect("no batch is compressed any more"))
    }
}

/// Reads at once what is in memory; anything else on a blocking thread.
async fn read(
    blocking: &Blocking,
    counters: &Counters,
    partition: &Arc<Partition>,
    request: ReadRequest,
) -> Result<Result<Fetched, Error>, Refusal> {
    if let Some(read) = partition.try_read(request) {
        counters.memory_reads.fetch_add(1, Ordering::Relaxed);
        return Ok(read);
    }
    counters.disk_reads.fetch_add(1, Ordering::Relaxed);
    let partition = Arc::clone(partition);
    blocking.run(Share::Read, move || partition.read(request)).await
}

/// Batches are verified when they are read, so a batch that cannot be walked was stored that way.
pub fn unreadable(error: BatchError) -> Refusal {
    tracing::error!(%error, "a verified batch cannot be read");
    Refusal::new(
        Reason::Internal,
        "a stored batch cannot be read; the server's log says why",
    )
}
