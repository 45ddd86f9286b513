//! Polls of shared groups. Joining, heartbeats and leaving are those of all groups; see `settle` for what comes of leases.
//!
//! Leases are decided under the lock of the group's cell, and read outside it.
//! What was leased and could not be delivered is given back, whatever happened to its poll.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::queue::{Acquired, MemberKey, Moment, PollNumber, Wanted as Leasing};
use super::settle::{acknowledge, attend};
use crate::broker::Broker;
use crate::broker::engine::{Log, Offset, Partition, PartitionId, TimestampMs, Topic};
use crate::broker::fetch::page::{Limits, Page};
use crate::broker::fetch::read_page;
use crate::broker::groups::coordinator::Cell;
use crate::broker::groups::members::{
    Polling, Wanted, now_ms, read_ack, refused, subscribe_to_replaced, unknown_member,
};
use crate::broker::refusal::{Reason, Refusal};

/// What a poll is answered.
pub struct Leased {
    /// Names the answer.
    pub poll_id: String,
    /// The member's epoch.
    pub epoch: u64,
    /// When the leases end.
    pub lease_expires: TimestampMs,
    /// The records.
    pub pages: Vec<Delivered>,
}

/// Records of one partition that were delivered as often.
pub struct Delivered {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// How often they were delivered, this time included.
    pub deliveries: u32,
    pub(crate) page: Page,
}

/// Leases that have not been delivered yet; what is left of them when it is dropped is given back.
struct Undelivered<'a> {
    broker: &'a Broker,
    cell: Arc<Cell>,
    member: MemberKey,
    poll: PollNumber,
    ranges: Vec<(PartitionId, Offset, Offset)>,
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        if self.ranges.is_empty() {
            return;
        }
        let mut core = self
            .broker
            .groups
            .coordinator
            .lock(&self.cell, now_ms(self.broker));
        if let Some(work) = &mut core.work {
            for (id, from, until) in self.ranges.drain(..) {
                work.give_back(id, self.member, self.poll, from, until);
            }
        }
    }
}

/// Accepts what the poll named by `ack` delivered and is not settled yet; then waits for records and leases them. The
/// member is known, and its poll has begun.
///
/// # Errors
/// 409 `poll-superseded`; what a settle meets; 500 `corrupt-data` where nothing but damaged records is left to lease.
pub(crate) async fn poll(
    broker: &Broker,
    polling: &Polling<'_>,
    group: &str,
    wanted: &Wanted,
) -> Result<Leased, Refusal> {
    let (member, token) = (polling.member, polling.token);
    let refusal = |error| refused(error, group, member);
    let coordinator = &broker.groups.coordinator;
    let (key, wake, freed, lease_ms) = {
        let core = coordinator.lock(&polling.cell, now_ms(broker));
        let known = core.ordered.members.get(member).zip(core.work.as_ref());
        let (known, work) = known.ok_or_else(|| unknown_member(group, member))?;
        (
            MemberKey(known.key()),
            Arc::clone(&known.wake),
            Arc::clone(&work.freed),
            work.settings.lease_ms,
        )
    };
    if let Some(ack) = read_ack(wanted.ack.as_deref(), group, member)? {
        acknowledge(broker, &polling.cell, key, &ack).await?;
    }
    {
        let mut core = coordinator.lock(&polling.cell, now_ms(broker));
        core.ordered.go_on(member, token).map_err(refusal)?;
    }
    let mut timeout = pin!(tokio::time::sleep(wanted.wait));
    let mut stopping = broker.stopping.subscribe();
    let mut topics = coordinator.watch_topics();
    let mut is_over = wanted.wait.is_zero();
    loop {
        // Registered before the state is looked at, so that no change of it is missed.
        let (mut woken, mut freed) = (pin!(wake.notified()), pin!(freed.notified()));
        woken.as_mut().enable();
        freed.as_mut().enable();
        topics.mark_unchanged();
        attend(broker, &polling.cell);
        // In this order: no lease ends before its member is told that it does.
        let lease_expires = TimestampMs(broker.clock.now().get().saturating_add(i64::from(lease_ms)));
        let now = now_ms(broker);
        let mut undelivered = Undelivered {
            broker,
            cell: Arc::clone(&polling.cell),
            member: key,
            poll: PollNumber(token),
            ranges: Vec::new(),
        };
        let (leased, ends, deadline, unsubscribed) = {
            let mut core = coordinator.lock(&polling.cell, now);
            core.ordered.readable(member, token).map_err(refusal)?;
            core.refresh(group, &broker.log, coordinator);
            let core = &mut *core;
            let known = core.ordered.members.get(member).zip(core.work.as_mut());
            let (known, work) = known.ok_or_else(|| unknown_member(group, member))?;
            let (mut leased, mut ends) = (Vec::new(), Vec::new());
            let mut left = usize::try_from(wanted.max_records).unwrap_or(usize::MAX);
            for id in work
                .places()
                .into_iter()
                .filter(|id| known.topics.contains(&id.topic))
            {
                let Some((topic, partition)) = find(&broker.log, id) else {
                    continue;
                };
                let positions = partition.positions();
                ends.push((Arc::clone(&partition), positions.end_offset));
                if left == 0 {
                    continue;
                }
                let leasing = Leasing {
                    now: Moment(now),
                    deadline: Moment(now.saturating_add(u64::from(lease_ms))),
                    member: key,
                    poll: PollNumber(token),
                    log_start: positions.log_start_offset,
                    end: positions.end_offset,
                    max: left,
                };
                for acquired in work.acquire(id, &leasing) {
                    left -= usize::try_from(acquired.until.since(acquired.from)).unwrap_or(left);
                    undelivered.ranges.push((id, acquired.from, acquired.until));
                    leased.push((Arc::clone(&topic), Arc::clone(&partition), acquired));
                }
            }
            (leased, ends, work.next_deadline(), core.unsubscribed.clone())
        };
        if !unsubscribed.is_empty() {
            subscribe_to_replaced(broker, &polling.cell, unsubscribed).await?;
        }
        coordinator.look_sooner(deadline);
        let (pages, skipped, fault) = read(broker, leased, wanted).await?;
        settle_skipped(broker, &polling.cell, skipped);
        if pages.is_empty()
            && let Some(fault) = fault
        {
            return Err(fault);
        }
        if !pages.is_empty() || is_over {
            let (epoch, poll_id) = {
                let mut core = coordinator.lock(&polling.cell, now_ms(broker));
                core.ordered
                    .finish_poll(member, token, now_ms(broker))
                    .map_err(refusal)?
            };
            // What was read is delivered; what was not is given back.
            undelivered.ranges = remaining(&undelivered.ranges, &pages);
            return Ok(Leased {
                poll_id: poll_id.encode(group, member),
                epoch,
                lease_expires,
                pages,
            });
        }
        drop(undelivered);
        let mut data: FuturesUnordered<_> = ends
            .iter()
            .map(|(partition, end)| partition.wait_for(*end))
            .collect();
        let due = async {
            match deadline {
                Some(at) => {
                    tokio::time::sleep(Duration::from_millis(at.saturating_sub(now_ms(broker)).max(1))).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = data.next() => {}
            () = woken => {}
            () = freed => {}
            () = due => {}
            _ = topics.changed() => {}
            () = &mut timeout => is_over = true,
            // An error means that nobody is left to stop the server: as good as stopping.
            _ = stopping.wait_for(|stopping| *stopping) => is_over = true,
        }
    }
}

/// Settles offsets where there is no record to be had.
fn settle_skipped(broker: &Broker, cell: &Cell, skipped: Vec<(PartitionId, Offset, Offset)>) {
    let mut core = broker.groups.coordinator.lock(cell, now_ms(broker));
    for (id, from, until) in skipped {
        let queue = core.work.as_mut().and_then(|work| work.queues.get_mut(&id));
        if let Some(queue) = queue {
            queue.settle_skipped(from, until);
        }
    }
}

/// What of the leased ranges is in no page.
fn remaining(
    ranges: &[(PartitionId, Offset, Offset)],
    pages: &[Delivered],
) -> Vec<(PartitionId, Offset, Offset)> {
    let mut remaining = Vec::new();
    for &(id, from, until) in ranges {
        let read_to = pages
            .iter()
            .filter(|delivered| {
                delivered.partition == id && delivered.page.from >= from && delivered.page.from < until
            })
            .map(|delivered| delivered.page.next_offset)
            .max();
        let left = read_to.unwrap_or(from).max(from);
        if left < until {
            remaining.push((id, left, until));
        }
    }
    remaining
}

/// A partition with its topic, if they are still there.
pub(super) fn find(log: &Log, id: PartitionId) -> Option<(Arc<Topic>, Arc<Partition>)> {
    let topic = log.topic_by_id(id.topic)?;
    let partition = topic.partition(id.index)?;
    Some((topic, partition))
}

type Read = (
    Vec<Delivered>,
    Vec<(PartitionId, Offset, Offset)>,
    Option<Refusal>,
);

/// Reads what was leased, as far as the bytes allow; and says where there is no record to be had, and what was wrong.
async fn read(
    broker: &Broker,
    leased: Vec<(Arc<Topic>, Arc<Partition>, Acquired)>,
    wanted: &Wanted,
) -> Result<Read, Refusal> {
    let (mut pages, mut skipped, mut fault): Read = (Vec::new(), Vec::new(), None);
    let mut bytes = 0;
    for (topic, partition, acquired) in leased {
        let id = partition.id();
        let mut from = acquired.from;
        while from < acquired.until && bytes < wanted.max_bytes {
            let limits = Limits {
                from,
                until: Some(acquired.until),
                max_records: wanted.max_records,
                max_bytes: wanted.max_bytes - bytes,
                whole_batches: false,
            };
            let page = match read_page(&broker.log, &broker.blocking, &partition, limits).await {
                Ok(page) => page,
                // Deleted or trimmed meanwhile: it is looked at again.
                Err(refusal) if matches!(refusal.reason, Reason::UnknownTopic | Reason::OffsetTrimmed) => {
                    break;
                }
                Err(refusal) => {
                    fault.get_or_insert(refusal.with("topic", topic.name()).with("partition", id.index));
                    break;
                }
            };
            skipped.extend(page.gaps.iter().map(|gap| (id, gap.from, gap.until)));
            let next = page.next_offset.min(acquired.until);
            if page.records == 0 {
                if next <= from {
                    break;
                }
                skipped.push((id, from, next));
            } else {
                if !pages.is_empty() && bytes + page.stored_bytes > wanted.max_bytes {
                    return Ok((pages, skipped, fault));
                }
                bytes += page.stored_bytes;
                broker
                    .counters
                    .fetched_records
                    .fetch_add(page.records, std::sync::atomic::Ordering::Relaxed);
                pages.push(Delivered {
                    topic: topic.name().into(),
                    partition: id,
                    deliveries: acquired.deliveries,
                    page,
                });
            }
            from = next;
        }
    }
    broker
        .counters
        .fetched_bytes
        .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    Ok((pages, skipped, fault))
}
