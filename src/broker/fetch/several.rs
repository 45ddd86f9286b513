//! One read of several partitions, as consumers of a protocol with batches ask for it: whole batches, in the order in
//! which the partitions are named, within a number of bytes of each and of all.
//!
//! The first batch of the answer is given however large it is, so that a consumer never stands still; in partitions
//! after the first that has records, a batch that does not fit is left for the next read.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Fetcher;
use super::page::{Page, PageLimits};
use super::range::check_within;
use crate::broker::engine::{Offset, Partition, WaitForData};
use crate::broker::refusal::Refusal;

/// Where to read a partition.
#[derive(Clone)]
pub struct Wanted {
    /// The partition.
    pub partition: Arc<Partition>,
    /// The first offset; the batch that has it is given whole.
    pub from: Offset,
    /// The most stored bytes of it.
    pub max_bytes: u64,
}

/// How much is read in all, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The most stored bytes.
    pub max_bytes: u64,
    /// How many stored bytes end the wait.
    pub min_bytes: u64,
    /// How long to wait for these.
    pub wait: Duration,
}

impl Wanted {
    /// The result without records.
    fn nothing(&self) -> Result<Page, Refusal> {
        let positions = self.partition.positions();
        check_within(self.from, positions)?;
        Ok(Page::empty(
            self.from,
            positions.log_start_offset,
            positions.end_offset,
        ))
    }
}

impl Fetcher {
    /// Reads nothing of several partitions: their positions alone, or why their offsets cannot be read.
    pub async fn fetch_nothing(&self, wanted: &[Wanted]) -> Vec<Result<Page, Refusal>> {
        self.reach(wanted).await;
        wanted.iter().map(Wanted::nothing).collect()
    }

    /// Waits for the offsets that are written, and not yet durable.
    async fn reach(&self, wanted: &[Wanted]) {
        for Wanted { partition, from, .. } in wanted {
            let positions = partition.positions();
            if *from > positions.end_offset && *from <= positions.written_offset {
                self.caught_up(partition).await;
            }
        }
    }

    /// Reads whole batches of several partitions; one result for each, in the same order. Waits until there are
    /// `min_bytes` of them, one is refused, the time is over or the server stops. The error of a partition does not keep
    /// the others from being read. An offset behind records that are written, and not yet durable, is not above the end:
    /// these are waited for.
    ///
    /// # Errors
    /// Of each partition those of [`Fetcher::read_page`], and [`check_within`]'s.
    pub async fn fetch_several(&self, wanted: &[Wanted], extent: Extent) -> Vec<Result<Page, Refusal>> {
        self.reach(wanted).await;
        let mut timeout = pin!(tokio::time::sleep(extent.wait));
        let mut stopping = self.stopping.clone();
        loop {
            let pages = self.read_several(wanted, extent.max_bytes).await;
            let read = pages.iter().flatten();
            let bytes: u64 = read.clone().map(|page| page.stored_bytes).sum();
            let is_refused = pages.iter().any(Result::is_err);
            if extent.wait.is_zero() || is_refused || bytes >= extent.min_bytes.min(extent.max_bytes) {
                let records = read.map(|page| page.records).sum();
                self.count(records, bytes);
                return pages;
            }
            // All are there, because none is refused.
            let seen = read
                .zip(wanted)
                .map(|(page, wanted)| (page.end_offset, &wanted.partition));
            let mut waits: Vec<_> = seen.map(|(end, partition)| partition.wait_for(end)).collect();
            let arrived = std::future::poll_fn(|context| {
                let is_ready = |wait: &mut WaitForData| Pin::new(wait).poll(context).is_ready();
                match waits.iter_mut().any(is_ready) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            let is_over = tokio::select! {
                () = arrived => false,
                () = &mut timeout => true,
                // An error means that the sender is gone, and with it the service: end as on a stop.
                _ = stopping.wait_for(|stopping| *stopping) => true,
            };
            // Woken without a record: a partition is deleted, or the log is closing.
            let has_more =
                |(page, wanted): (&Page, &Wanted)| wanted.partition.positions().end_offset > page.end_offset;
            if is_over || !pages.iter().flatten().zip(wanted).any(has_more) {
                let read = pages.iter().flatten();
                self.count(read.map(|page| page.records).sum(), bytes);
                return pages;
            }
        }
    }

    /// Reads once.
    async fn read_several(&self, wanted: &[Wanted], max_bytes: u64) -> Vec<Result<Page, Refusal>> {
        let mut left = max_bytes;
        let mut is_first = true;
        let mut pages = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let nothing = match wanted.nothing() {
                Ok(nothing) => nothing,
                Err(refusal) => {
                    pages.push(Err(refusal));
                    continue;
                }
            };
            let most = left.min(wanted.max_bytes);
            if !is_first && most == 0 || wanted.from == nothing.end_offset {
                pages.push(Ok(nothing));
                continue;
            }
            pages.push(match self.read_batches(wanted, most).await {
                Ok(page) if page.stored_bytes > most && !is_first => Ok(nothing),
                Ok(page) => {
                    is_first &= page.stored_bytes == 0;
                    left = left.saturating_sub(page.stored_bytes);
                    Ok(page)
                }
                Err(refusal) => Err(refusal),
            });
        }
        pages
    }

    /// Reads a partition once. Such a consumer learns nothing of skipped damage, and goes on where its batches end; so if
    /// nothing else was read, this goes on behind it, to batches or to damage that is not skipped.
    async fn read_batches(&self, wanted: &Wanted, max_bytes: u64) -> Result<Page, Refusal> {
        let limits = |from| PageLimits::batches(from, Offset::MAX, max_bytes);
        let page = self.read_page(&wanted.partition, limits(wanted.from)).await?;
        if page.gaps.is_empty() || page.records > 0 || page.next_offset >= page.end_offset {
            return Ok(page);
        }
        self.read_page(&wanted.partition, limits(page.next_offset)).await
    }
}
