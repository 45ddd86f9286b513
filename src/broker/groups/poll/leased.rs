//! What a poll of a shared group takes: leases on records that are free.
//!
//! The leases are taken under the lock of the group's cell, and the records are read outside it. Leases on records that
//! are not delivered are given back, even if the poll fails or its client goes away.

use std::sync::Arc;

use super::{Delivered, Piece, Polled, Polling, Taken, Wanted};
use crate::broker::engine::{Offset, PartitionId, TimestampMs};
use crate::broker::groups::Groups;
use crate::broker::groups::coordinator::{Cell, Kind};
use crate::broker::groups::members::Refused;
use crate::broker::groups::poll_id::PollId;
use crate::broker::groups::shared::queue::{Leasing, MemberKey, Moment, PollNumber};
use crate::broker::refusal::Refusal;

/// Leases that are not delivered yet. Dropping this value gives them back.
pub(super) struct Leases<'a> {
    groups: &'a Groups,
    cell: Arc<Cell>,
    member: MemberKey,
    poll: PollNumber,
    expires: TimestampMs,
    ranges: Vec<(PartitionId, Offset, Offset)>,
}

impl Drop for Leases<'_> {
    fn drop(&mut self) {
        if self.ranges.is_empty() {
            return;
        }
        let (_, mut core) = self.groups.lock(&self.cell);
        if let Some(work) = core.work() {
            for (id, from, until) in self.ranges.drain(..) {
                work.give_back(id, self.member, self.poll, from, until);
            }
        }
    }
}

impl Groups {
    /// Leases as many records as the poll asks for.
    pub(super) async fn take_leases(
        &self,
        polling: &Polling<'_>,
        member: MemberKey,
        wanted: &Wanted,
    ) -> Result<Taken<'_>, Refusal> {
        self.attend(&polling.cell);
        // Read before the monotonic clock, so that no lease ends before the time in the member's answer.
        let wall = self.clock.now().get();
        let mut taken = Taken::default();
        let mut leases = Leases {
            groups: self,
            cell: Arc::clone(&polling.cell),
            member,
            poll: PollNumber(polling.token),
            expires: TimestampMs(wall),
            ranges: Vec::new(),
        };
        let unsubscribed = {
            let (now, mut core) = self.lock(&polling.cell);
            core.refresh(polling.group, &self.log, &self.coordinator);
            let core = &mut *core;
            let known = core.members.check_poll(polling.member, polling.token);
            let topics = &known.map_err(|error| polling.refused(error))?.topics;
            let Kind::Shared(work) = &mut core.kind else {
                return Err(polling.refused(Refused::Unknown));
            };
            let lease_ms = work.settings.lease_ms;
            leases.expires = TimestampMs(wall.saturating_add(lease_ms.into()));
            let mut left = usize::try_from(wanted.max_records).unwrap_or(usize::MAX);
            for id in work.places() {
                let found = topics.contains(&id.topic).then(|| self.find_partition(id));
                let Some((topic, partition)) = found.flatten() else {
                    continue;
                };
                let positions = partition.positions();
                taken.ends.push((Arc::clone(&partition), positions.end_offset));
                if left == 0 {
                    continue;
                }
                let leasing = Leasing {
                    now: Moment(now),
                    deadline: Moment(now.saturating_add(lease_ms.into())),
                    member,
                    poll: PollNumber(polling.token),
                    log_start: positions.log_start_offset,
                    end: positions.end_offset,
                    max: left,
                };
                for acquired in work.acquire(id, &leasing) {
                    left -= usize::try_from(acquired.until.since(acquired.from)).unwrap_or(left);
                    leases.ranges.push((id, acquired.from, acquired.until));
                    taken.pieces.push(Piece {
                        topic: Arc::clone(&topic),
                        partition: Arc::clone(&partition),
                        from: acquired.from,
                        until: Some(acquired.until),
                        deliveries: Some(acquired.deliveries),
                    });
                }
            }
            taken.deadline = work.next_deadline();
            core.unsubscribed.clone()
        };
        self.coordinator.look_sooner(taken.deadline);
        taken.leases = Some(leases);
        if !unsubscribed.is_empty() {
            self.subscribe_to_replaced(&polling.cell, unsubscribed).await?;
        }
        Ok(taken)
    }

    /// Settles offsets that have no record.
    pub(super) fn settle_skipped(&self, polling: &Polling<'_>, skipped: Vec<(PartitionId, Offset, Offset)>) {
        if skipped.is_empty() {
            return;
        }
        let (_, mut core) = self.lock(&polling.cell);
        let Some(work) = core.work() else { return };
        for (id, from, until) in skipped {
            if let Some(queue) = work.queues.get_mut(&id) {
                queue.settle_skipped(from, until);
            }
        }
    }

    /// Makes the answer from the pages; leases on records that were not read are given back.
    pub(super) fn deliver_leases(
        &self,
        polling: &Polling<'_>,
        mut leases: Leases<'_>,
        pages: Vec<Delivered>,
    ) -> Result<Polled, Refusal> {
        let epoch = {
            let (now, mut core) = self.lock(&polling.cell);
            let ended = core.members.end_poll(polling.member, polling.token, now);
            ended.map_err(|error| polling.refused(error))?
        };
        leases.ranges = remaining(&leases.ranges, &pages);
        let poll_id = PollId {
            life: self.coordinator.life(),
            epoch,
            number: polling.token,
            reach: Vec::new(),
        };
        Ok(Polled {
            poll_id: poll_id.encode(polling.group, polling.member),
            epoch,
            assignment: Vec::new(),
            lease_expires: Some(leases.expires),
            pages,
            lost_partitions: Vec::new(),
        })
    }
}

/// The parts of leased ranges that are in no page.
fn remaining(
    ranges: &[(PartitionId, Offset, Offset)],
    pages: &[Delivered],
) -> Vec<(PartitionId, Offset, Offset)> {
    let mut remaining = Vec::new();
    for &(id, from, until) in ranges {
        let in_range = |delivered: &&Delivered| {
            delivered.partition == id && (from..until).contains(&delivered.page.from)
        };
        let read_to = pages
            .iter()
            .filter(in_range)
            .map(|delivered| delivered.page.next_offset)
            .max();
        let left = read_to.unwrap_or(from).max(from);
        if left < until {
            remaining.push((id, left, until));
        }
    }
    remaining
}
