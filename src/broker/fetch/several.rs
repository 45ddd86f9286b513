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

/// How far a partition was looked at.
struct Seen<'a> {
    partition: &'a Arc<Partition>,
    /// What was looked at ends here.
    next: Offset,
    /// The partition's end then.
    end: Offset,
    /// How many more of its bytes have a place in the answer.
    left: u64,
}

impl<'a> Seen<'a> {
    fn of(wanted: &'a Wanted, page: &Page) -> Self {
        let mut seen = Self {
            partition: &wanted.partition,
            next: wanted.from,
            end: wanted.from,
            left: wanted.max_bytes,
        };
        seen.pass(page, true);
        seen
    }

    /// Goes behind a page; returns how many bytes of it have a place in the answer. If that `is_empty`, the first batch has
    /// one, however large it is.
    fn pass(&mut self, page: &Page, is_empty: bool) -> u64 {
        self.next = page.next_offset;
        self.end = page.end_offset;
        let is_full = page.stored_bytes >= self.left || page.limited;
        let bytes = match page.stored_bytes > self.left && !is_empty {
            true => 0,
            false => page.stored_bytes,
        };
        self.left = match is_full {
            true => 0,
            false => self.left - bytes,
        };
        bytes
    }
}

/// The bytes of all pages.
fn stored_bytes(pages: &[Result<Page, Refusal>]) -> u64 {
    pages.iter().flatten().map(|page| page.stored_bytes).sum()
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
        let mut pages = self.read_several(wanted, extent.max_bytes).await;
        let missing = extent
            .min_bytes
            .min(extent.max_bytes)
            .saturating_sub(stored_bytes(&pages));
        let waits = missing > 0 && !extent.wait.is_zero() && pages.iter().all(Result::is_ok);
        if waits && self.wait_for_bytes(wanted, &pages, missing, extent.wait).await {
            pages = self.read_several(wanted, extent.max_bytes).await;
        }
        for (page, Wanted { partition, .. }) in pages.iter().zip(wanted) {
            if let Ok(page) = page
                && page.stored_bytes > 0
            {
                partition.count_read(page.stored_bytes);
            }
        }
        let records = pages.iter().flatten().map(|page| page.records).sum();
        self.count(records, stored_bytes(&pages));
        pages
    }

    /// Waits until `missing` bytes more have come than `pages` have, the time is over or the server stops. Returns whether
    /// there is more than they have.
    ///
    /// What has come is looked at once, and only counted: so a wait that is woken often costs no more than another.
    async fn wait_for_bytes(
        &self,
        wanted: &[Wanted],
        pages: &[Result<Page, Refusal>],
        mut missing: u64,
        wait: Duration,
    ) -> bool {
        let mut timeout = pin!(tokio::time::sleep(wait));
        let mut stopping = self.stopping.clone();
        let mut is_empty = stored_bytes(pages) == 0;
        let mut seen: Vec<Seen<'_>> = wanted
            .iter()
            .zip(pages.iter().flatten())
            .map(|(wanted, page)| Seen::of(wanted, page))
            .collect();
        let mut has_more = false;
        loop {
            let open = seen.iter().filter(|seen| seen.left > 0);
            let mut waits: Vec<_> = open.map(|seen| seen.partition.wait_for(seen.end)).collect();
            let arrived = std::future::poll_fn(|context| {
                let is_ready = |wait: &mut WaitForData| Pin::new(wait).poll(context).is_ready();
                match waits.iter_mut().any(is_ready) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            tokio::select! {
                () = arrived => {}
                () = &mut timeout => return has_more,
                // An error means that the sender is gone, and with it the service: end as on a stop.
                _ = stopping.wait_for(|stopping| *stopping) => return has_more,
            }
            let mut has_new = false;
            for seen in seen.iter_mut().filter(|seen| seen.left > 0) {
                if seen.partition.positions().end_offset <= seen.end {
                    continue;
                }
                has_new = true;
                let read = self.read_batches(seen.partition, seen.next, seen.left).await;
                let Ok(page) = read else {
                    // The read that follows says why.
                    return true;
                };
                let bytes = seen.pass(&page, is_empty);
                is_empty &= bytes == 0;
                missing = missing.saturating_sub(bytes);
            }
            has_more |= has_new;
            // Woken without a record: a partition is deleted, or the log is closing.
            if !has_new || missing == 0 {
                return has_more;
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
            let read = self.read_batches(&wanted.partition, wanted.from, most).await;
            pages.push(match read {
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
    async fn read_batches(
        &self,
        partition: &Arc<Partition>,
        from: Offset,
        max_bytes: u64,
    ) -> Result<Page, Refusal> {
        let limits = |from| PageLimits::batches(from, Offset::MAX, max_bytes);
        let page = self.read_within(partition, limits(from)).await?;
        if page.gaps.is_empty() || page.records > 0 || page.next_offset >= page.end_offset {
            return Ok(page);
        }
        self.read_within(partition, limits(page.next_offset)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;
    use crate::broker::caller::Caller;
    use crate::broker::engine::batch::BatchBuilder;
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::broker::engine::{AppendRequest, Part, Records, TimestampMs};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A broker with an empty topic of so many partitions.
    fn broker(partitions: u32) -> (Broker, Vec<Arc<Partition>>) {
        let clock = SimClock::new(TimestampMs(1_700_000_000_000));
        let broker = Broker::on(&SimDisk::new(1), &clock).unwrap();
        let made = broker
            .topics
            .create(&Caller::default(), "t", Some(partitions), &[]);
        made.unwrap();
        let topic = broker.log.topic("t").unwrap();
        let partitions = (0..partitions).map(|number| topic.partition(number).unwrap());
        (broker, partitions.collect())
    }

    /// Appends a batch of one record; returns its bytes.
    fn append(broker: &Broker, partition: &Arc<Partition>, value: &[u8]) -> u64 {
        let before = partition.traffic().0;
        let mut records = BatchBuilder::new();
        records.push(TimestampMs(1), None, Some(value), &[]);
        let part = Part::new(partition.clone(), Records::Loose(records));
        let ticket = broker.log.append(AppendRequest::of(vec![part])).unwrap();
        ticket.wait().unwrap();
        partition.traffic().0 - before
    }

    fn wanted(partitions: &[Arc<Partition>], max_bytes: u64) -> Vec<Wanted> {
        let wanted = partitions.iter().map(|partition| Wanted {
            partition: partition.clone(),
            from: Offset::new(0),
            max_bytes,
        });
        wanted.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_is_woken_often_reads_each_batch_a_few_times_at_most() {
        let (broker, partitions) = broker(2);
        let each = append(&broker, &partitions[0], b"value");
        let extent = Extent {
            max_bytes: 100 * each,
            min_bytes: 50 * each,
            wait: HOUR,
        };
        let wanted = wanted(&partitions, 100 * each);
        let mut fetch = pin!(broker.fetcher.fetch_several(&wanted, extent));
        for number in 1..50 {
            // It is woken for each.
            let pending = tokio::time::timeout(Duration::from_millis(1), fetch.as_mut()).await;
            assert!(pending.is_err(), "after {number} batches");
            append(&broker, &partitions[number % 2], b"value");
        }
        let pages: Vec<Page> = fetch.await.into_iter().map(Result::unwrap).collect();
        let stored = pages.iter().map(|page| page.stored_bytes);
        assert_eq!(stored.sum::<u64>(), 50 * each);
        let given = partitions.iter().map(|partition| partition.traffic().1);
        assert_eq!(given.sum::<u64>(), 50 * each, "what is given is counted once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_what_has_come() {
        let (broker, partitions) = broker(2);
        let extent = |min_bytes| Extent {
            max_bytes: 1 << 20,
            min_bytes,
            wait: HOUR,
        };
        let fetch = async |wanted: &[Wanted], min_bytes, values: &[&[u8]]| {
            let mut fetch = pin!(broker.fetcher.fetch_several(wanted, extent(min_bytes)));
            for value in values {
                let pending = tokio::time::timeout(Duration::from_millis(1), fetch.as_mut()).await;
                assert!(pending.is_err());
                append(&broker, &partitions[1], value);
            }
            let pages = fetch.await.into_iter();
            let pages: Vec<u64> = pages.map(|page| page.unwrap().records).collect();
            pages
        };
        // One batch is enough, however large.
        assert_eq!(fetch(&wanted(&partitions, 10), 1000, &[&[7; 5000]]).await, [0, 1]);
        // The time is over before there is enough; what has no place in the answer does not end it.
        append(&broker, &partitions[0], b"value");
        let got = fetch(&wanted(&partitions, 1 << 20), 1 << 20, &[b"a", b"b"]).await;
        assert_eq!(got, [1, 3]);
        let got = fetch(&wanted(&partitions, 100), 4000, &[&[7; 5000]]).await;
        assert_eq!(got, [1, 0]);
        // Nothing comes.
        let mut none = wanted(&partitions, 1 << 20);
        none[0].from = Offset::new(1);
        none[1].from = Offset::new(4);
        assert_eq!(fetch(&none, 1, &[]).await, [0, 0]);
    }
}
