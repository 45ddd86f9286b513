//! How a poll of an ordered group with a filter reads: on over what does not match, within bounds.
//!
//! What was looked at is acknowledged with the records that were found, or passed over if there are none: see
//! [`passed`](crate::broker::groups::ordered::partitions::passed).

use std::sync::Arc;

use super::{Delivered, Piece, Polling, Range, Read, Wanted};
use crate::broker::engine::batch::Record;
use crate::broker::fetch::page::{Kept, PageLimits, Unit, stored_bytes};
use crate::broker::fetch::unreadable;
use crate::broker::filter::Filter;
use crate::broker::groups::Groups;
use crate::broker::groups::cell::Cell;
use crate::broker::groups::commit::BegunCommits;
use crate::broker::refusal::{Reason, Refusal};

/// The stored bytes that a poll looks at before it checks again whether its wait is over and it still has its partitions.
const LOOKED_BYTES: u64 = 4 << 20;
/// The stored bytes that it looks at without giving way to other requests.
const AT_ONCE_BYTES: u64 = 1 << 20;

impl Groups {
    /// Reads the records of a piece that match; `false` if a limit of the poll is reached.
    pub(super) async fn read_matching(
        &self,
        piece: &Piece,
        filter: &Filter,
        most: u64,
        wanted: &Wanted,
        read: &mut Read,
    ) -> Result<bool, Refusal> {
        let id = piece.partition.id();
        let mut next = piece.from;
        let goes_on = loop {
            if read.records >= most || read.bytes >= wanted.max_bytes || read.looked_bytes >= LOOKED_BYTES {
                break false;
            }
            let limits = PageLimits {
                from: next,
                until: piece.until,
                max_records: u64::MAX,
                max_bytes: AT_ONCE_BYTES,
                unit: Unit::Records,
            };
            let mut page = match self.fetcher.read_page(&piece.partition, limits).await {
                Ok(page) => page,
                // Deleted or trimmed meanwhile: the poll looks the partition up again.
                Err(refusal) if matches!(refusal.reason, Reason::UnknownTopic | Reason::OffsetTrimmed) => {
                    break true;
                }
                Err(refusal) => {
                    read.fault.get_or_insert(piece.named(refusal));
                    break true;
                }
            };
            if page.next_offset <= next {
                break true;
            }
            read.looked_bytes += page.stored_bytes;
            let (mut records, mut bytes) = (read.records, read.bytes);
            let keep = |record: &Record<'_>| {
                if !filter.matches(record) {
                    return Kept::No;
                }
                let size = stored_bytes(record);
                // Only the first record of a poll may exceed the limit, so that at least one is read.
                if records >= most || (records > 0 && bytes + size > wanted.max_bytes) {
                    return Kept::Stop;
                }
                (records, bytes) = (records + 1, bytes + size);
                Kept::Yes
            };
            page.retain(keep).map_err(unreadable)?;
            (read.records, read.bytes) = (records, bytes);
            let (is_full, end) = (page.limited && page.next_offset < page.end, page.end_offset);
            next = page.next_offset;
            if page.records > 0 || !page.gaps.is_empty() {
                read.pages.push(Delivered {
                    topic: piece.topic.name().into(),
                    partition: id,
                    deliveries: None,
                    redriven: None,
                    page,
                });
            }
            if is_full {
                break false;
            }
            if next >= piece.until.unwrap_or(end) {
                break true;
            }
            tokio::task::yield_now().await;
        };
        if next > piece.from {
            read.ranges.push(Range {
                partition: id,
                from: piece.from,
                next,
            });
        }
        Ok(goes_on)
    }

    /// Passes over what a poll read without a match. `false`: the filter has changed since, so what was read must be
    /// looked at again.
    pub(super) fn pass_over(
        &self,
        polling: &Polling<'_>,
        filter: &Arc<Filter>,
        ranges: &[Range],
    ) -> Result<bool, Refusal> {
        let due = {
            let (now, mut core) = self.lock(&polling.cell);
            if !Arc::ptr_eq(&core.filter, filter) {
                return Ok(false);
            }
            let Some((ordered, members)) = core.ordered() else {
                return Ok(false);
            };
            let ranges: Vec<_> = ranges.iter().map(Range::parts).collect();
            let passed = ordered.pass(members, polling.member, polling.token, &ranges, now);
            passed.map_err(|error| polling.refused(error))?
        };
        self.coordinator.look_sooner(due);
        Ok(true)
    }

    /// Commits what members' polls have passed over and nobody has acknowledged for a while. Does not wait for it.
    pub(in crate::broker::groups) fn commit_passed(&self, cell: &Arc<Cell>) {
        let due = {
            let (now, mut core) = self.lock(cell);
            core.ordered().map(|(ordered, _)| ordered.due_passed(now))
        };
        for member in due.unwrap_or_default() {
            let (groups, cell) = (self.clone(), Arc::clone(cell));
            drop(tokio::spawn(async move {
                if let Err(refusal) = groups.commit_passed_by(&cell, &member).await {
                    tracing::warn!(
                        group = &*cell.group,
                        member = &*member,
                        refusal = refusal.detail,
                        "what does not match the group's filter is not committed yet"
                    );
                }
                let due = {
                    let (_, mut core) = groups.lock(&cell);
                    core.ordered().and_then(|(ordered, _)| {
                        ordered.end_passing(&member);
                        ordered.passed_due()
                    })
                };
                groups.coordinator.look_sooner(due);
            }));
        }
    }

    async fn commit_passed_by(&self, cell: &Arc<Cell>, member: &str) -> Result<(), Refusal> {
        let order = self.lock(cell).1.order_of(member);
        // A member that is gone has passed over nothing that counts: others look at it again.
        let Some(order) = order else { return Ok(()) };
        let order = order.lock_owned().await;
        let commits = {
            let (now, mut core) = self.lock(cell);
            core.ordered()
                .map(|(ordered, _)| ordered.begin_passed(member, now))
                .unwrap_or_default()
        };
        let begun = BegunCommits::of_ack(commits);
        self.commit_for(cell, order, begun, None).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Acknowledging;
    use super::*;
    use crate::broker::Broker;
    use crate::broker::caller::Caller;
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::broker::engine::{Offset, PartitionId, TimestampMs};
    use crate::broker::groups::alter::Alteration;
    use crate::broker::groups::live::GroupType;
    use crate::broker::groups::membership::Join;

    fn filter(key: &str) -> Arc<Filter> {
        let fields = [("key".to_owned(), vec![key.to_owned()])];
        Arc::new(Filter::from_fields(&fields.into()).unwrap())
    }

    #[tokio::test]
    async fn what_was_read_with_an_earlier_filter_is_neither_passed_over_nor_delivered() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new(TimestampMs(1_700_000_000_000)));
        let broker = Broker::on(&disk, &clock).unwrap();
        broker
            .topics
            .create(&Caller::default(), "orders", Some(1), &[])
            .unwrap();
        let topic = broker.log.topic("orders").unwrap().id();
        let join = Join {
            filter: Some(filter("a")),
            ..Join::of(&["orders"], GroupType::Ordered)
        };
        let wanted = Wanted {
            ack: None,
            max_records: None,
            max_bytes: 1 << 20,
            wait: Duration::ZERO,
            instance: None,
        };
        let groups = &broker.groups;
        let nothing = Acknowledging {
            ack: None,
            outgoing: None,
            produced: None,
        };
        let nobody = Caller::default();
        let polling = groups.begin_poll(&nobody, "g", "m", &wanted, nothing, Some(join));
        let polling = polling.await.unwrap();
        let position = || {
            let (_, mut core) = groups.lock(&polling.cell);
            let (ordered, _) = core.ordered().unwrap();
            ordered.seen().next().unwrap().1.next.get()
        };
        let old = groups.take_assigned(&polling, &wanted).unwrap().filter;
        let range = |from, next| Range {
            partition: PartitionId::new(topic, 0),
            from: Offset::new(from),
            next: Offset::new(next),
        };
        assert!(groups.pass_over(&polling, &old, &[range(0, 5)]).unwrap());
        assert_eq!(position(), 5);
        // An equal filter is no change.
        let to = |filter| Alteration {
            filter: Some(filter),
            ..Alteration::default()
        };
        groups
            .alter(&Caller::default(), "g", &to(filter("a")))
            .await
            .unwrap();
        assert!(groups.pass_over(&polling, &old, &[range(5, 7)]).unwrap());
        groups
            .alter(&Caller::default(), "g", &to(filter("b")))
            .await
            .unwrap();
        assert!(!groups.pass_over(&polling, &old, &[range(7, 9)]).unwrap());
        let answer = groups.deliver_assigned(&polling, &old, Read::default());
        assert!(answer.unwrap().is_none());
        assert_eq!(position(), 7);
        let new = groups.take_assigned(&polling, &wanted).unwrap().filter;
        assert!(groups.pass_over(&polling, &new, &[range(7, 9)]).unwrap());
        let answer = groups.deliver_assigned(&polling, &new, Read::default());
        assert!(answer.unwrap().is_some());
    }
}
