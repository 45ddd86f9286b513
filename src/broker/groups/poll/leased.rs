//! What a poll of a shared group takes: leases on records that are free.
//!
//! The leases are taken under the lock of the group's cell, and the records are read outside it. Leases on records that
//! are not delivered are given back, even if the poll fails or its client goes away.

use std::sync::Arc;

use super::looking::{Looking, Unseen};
use super::{Delivered, Piece, Polled, Polling, Read, Taken, Wanted};
use crate::broker::blocking::Share;
use crate::broker::engine::batch::Record;
use crate::broker::engine::{Offset, PartitionId, TimestampMs, TopicId};
use crate::broker::fetch::page::Page;
use crate::broker::fetch::unreadable;
use crate::broker::groups::Groups;
use crate::broker::groups::cell::{Cell, Kind};
use crate::broker::groups::members::Refused;
use crate::broker::groups::poll_id::{LeasedRange, MAX_LEASED, PollId};
use crate::broker::groups::shared::codec::Letter;
use crate::broker::groups::shared::later::deliver_at;
use crate::broker::groups::shared::letters;
use crate::broker::groups::shared::queue::{Leasing, MemberKey, Moment, PollNumber};
use crate::broker::refusal::Refusal;

/// The records of an answer if the poll does not say how many: what a member holds it should finish within its leases.
const MAX_RECORDS: u64 = 16;

/// Leases that are not delivered yet. Dropping this value gives them back.
pub(super) struct Leases<'a> {
    groups: &'a Groups,
    cell: Arc<Cell>,
    member: MemberKey,
    poll: PollNumber,
    expires: TimestampMs,
    ranges: Vec<LeasedRange>,
}

impl Drop for Leases<'_> {
    fn drop(&mut self) {
        if self.ranges.is_empty() {
            return;
        }
        let (_, mut core) = self.groups.lock(&self.cell);
        if let Some(work) = core.work() {
            for LeasedRange {
                partition,
                from,
                until,
                ..
            } in self.ranges.drain(..)
            {
                work.give_back(partition, self.member, self.poll, offsets(from, until), None);
            }
        }
    }
}

fn offsets(from: Offset, until: Offset) -> impl Iterator<Item = Offset> {
    (from.get()..until.get()).map(Offset::new)
}

/// How many records a poll takes: no more than what waits in its partitions divided by the members, if it does not say.
fn share(wanted: &Wanted, waiting: u64, members: usize) -> u64 {
    let fair = waiting.div_ceil(members.max(1) as u64).max(1);
    match wanted.max_records {
        Some(most) => most.min(MAX_LEASED as u64),
        None => fair.min(MAX_RECORDS),
    }
}

impl Groups {
    /// Leases as many records as the poll asks for, and looks at `ahead` more. If the group has an order or a filter,
    /// looks at records before.
    pub(super) async fn take_leases(
        &self,
        polling: &Polling<'_>,
        member: MemberKey,
        wanted: &Wanted,
        ahead: u64,
    ) -> Result<Taken<'_>, Refusal> {
        let wall = self.now().wall.get();
        let mut taken = Taken {
            ahead,
            ..Taken::default()
        };
        let mut looking = Looking::default();
        let mut turn = None;
        let mut leases = Leases {
            groups: self,
            cell: Arc::clone(&polling.cell),
            member,
            poll: PollNumber(polling.token),
            expires: TimestampMs(wall),
            ranges: Vec::new(),
        };
        let unsubscribed = loop {
            let (unsubscribed, unseen) =
                self.lease(polling, member, wanted, &looking, &mut taken, &mut leases)?;
            let Some(unseen) = unseen else {
                break unsubscribed;
            };
            if looking.is_enough() {
                taken.goes_on = true;
                break unsubscribed;
            }
            if turn.is_none() {
                // Another poll may find enough meanwhile.
                turn = Some(polling.cell.looking.lock().await);
                continue;
            }
            self.look_at(polling, &unseen, &mut looking).await?;
            tokio::task::yield_now().await;
        };
        drop(turn);
        taken.fault = looking.fault;
        self.coordinator.look_sooner(taken.deadline);
        // Records that this poll would have leased once too often become dead letters.
        self.attend(&polling.cell);
        taken.leases = Some(leases);
        if !unsubscribed.is_empty() {
            self.subscribe_to_replaced(&polling.cell, unsubscribed).await?;
        }
        Ok(taken)
    }

    /// Leases what may be leased. Returns topics that are not subscribed to yet, and where to look if that is not enough.
    fn lease(
        &self,
        polling: &Polling<'_>,
        member: MemberKey,
        wanted: &Wanted,
        looking: &Looking,
        taken: &mut Taken<'_>,
        leases: &mut Leases<'_>,
    ) -> Result<(Vec<TopicId>, Option<Unseen>), Refusal> {
        let at = self.now();
        let wall = at.wall.get();
        taken.ends.clear();
        let mut unseen = None;
        let (_, mut core) = self.lock(&polling.cell);
        core.refresh(polling.group, &self.log, self.coordinator.change());
        let core = &mut *core;
        let members = core.members.len();
        let known = core.members.check_poll(polling.member, polling.token);
        let topics = &known.map_err(|error| polling.refused(error))?.topics;
        let Kind::Shared(work) = &mut core.kind else {
            return Err(polling.refused(Refused::Unknown));
        };
        let lease_ms = work.settings.lease_ms;
        // One time for all records of an answer: the end of the leases that began first.
        if leases.ranges.is_empty() {
            leases.expires = TimestampMs(wall.saturating_add(lease_ms.into()));
        }
        let mut places = Vec::new();
        for id in work.places() {
            let found = topics.contains(&id.topic).then(|| self.find_partition(id));
            places.extend(found.flatten().map(|found| (id, found)));
        }
        let waiting = places.iter().map(|(id, (_, partition))| {
            let queue = work.queues.get(id);
            queue.map_or(0, |queue| queue.waiting(partition.positions().end_offset))
        });
        // What was looked at since the first time is no other.
        if taken.most == 0 {
            taken.most = share(wanted, waiting.sum(), members);
        }
        let leased = leases
            .ranges
            .iter()
            .map(|range| range.until.since(range.from))
            .sum::<u64>();
        let left = (taken.most + taken.ahead).saturating_sub(leased);
        let mut left = usize::try_from(left).unwrap_or(usize::MAX);
        for (id, (topic, partition)) in places {
            let positions = partition.positions();
            taken.ends.push((Arc::clone(&partition), positions.end_offset));
            if left == 0 {
                continue;
            }
            let leasing = Leasing {
                now: at,
                deadline: Moment(at.moment.0.saturating_add(lease_ms.into())),
                member,
                poll: PollNumber(polling.token),
                log_start: positions.log_start_offset,
                end: positions.end_offset,
                max: left,
                room: self.coordinator.room(),
            };
            for acquired in work.acquire(id, &leasing) {
                left -= usize::try_from(acquired.until.since(acquired.from)).unwrap_or(left);
                leases.ranges.push(LeasedRange {
                    partition: id,
                    from: acquired.from,
                    until: acquired.until,
                    deliveries: acquired.deliveries,
                });
                taken.pieces.push(Piece {
                    topic: Arc::clone(&topic),
                    partition: Arc::clone(&partition),
                    from: acquired.from,
                    until: Some(acquired.until),
                    deliveries: Some(acquired.deliveries),
                    letter: acquired.letter,
                });
            }
            let from = work.queues.get(&id);
            let from = from.and_then(|queue| queue.unseen(positions.end_offset, leasing.room));
            if let Some(from) = from.filter(|_| left > 0 && !looking.faulty.contains(&id)) {
                unseen.get_or_insert(Unseen {
                    topic,
                    partition,
                    from,
                    left,
                    order: work.settings.order,
                    filter: Arc::clone(&work.settings.filter),
                });
            }
        }
        taken.deadline = work.next_deadline(at);
        let unseen = unseen.filter(|_| left > 0);
        Ok((core.unsubscribed.clone(), unseen))
    }

    /// Settles offsets that have no record.
    pub(super) fn settle_skipped(&self, polling: &Polling<'_>, read: &mut Read) {
        if read.skipped.is_empty() && read.gone.is_empty() {
            return;
        }
        let (_, mut core) = self.lock(&polling.cell);
        let Some(work) = core.work() else { return };
        for (id, from, until) in read.skipped.drain(..) {
            if let Some(queue) = work.queues.get_mut(&id) {
                queue.settle_skipped(from, until);
            }
        }
        for (id, offset) in read.gone.drain(..) {
            if let Some(queue) = work.queues.get_mut(&id) {
                queue.forget_letter(offset);
            }
        }
    }

    /// Reads a record that was redriven from its dead letter.
    pub(super) async fn read_letter(&self, piece: &Piece, letter: Letter, read: &mut Read) {
        let (log, id, offset) = (self.log.clone(), piece.partition.id(), piece.from);
        let original = move || Ok(letters::read_original(&log, letter, offset)?);
        match self.blocking.attempt(Share::Read, original).await {
            Ok(Some(batch)) => {
                let page = Page::alone(&batch, offset, piece.partition.positions());
                read.records += 1;
                read.bytes += page.stored_bytes;
                read.pages.push(Delivered {
                    topic: piece.topic.name().into(),
                    partition: id,
                    deliveries: piece.deliveries,
                    redriven: Some(letter.redriven),
                    page,
                });
            }
            Ok(None) => read.gone.push((id, offset)),
            Err(refusal) => drop(read.fault.get_or_insert(refusal)),
        }
    }

    /// Keeps the first `most` records whose time has come. Those that are for later (see [`deliver_at`]) wait for their
    /// time. Returns whether there were any.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(super) fn put_off(
        &self,
        leases: &Leases<'_>,
        pages: &mut Vec<Delivered>,
        most: u64,
    ) -> Result<bool, Refusal> {
        let now = self.now().wall;
        let mut later: Vec<(PartitionId, Offset, TimestampMs)> = Vec::new();
        let mut kept = Vec::with_capacity(pages.len());
        let mut left = most;
        for delivered in pages.drain(..) {
            let is_kept = |record: &Record<'_>| {
                let due = deliver_at(record).filter(|due| *due > now);
                later.extend(due.map(|due| (delivered.partition, record.offset, due)));
                let fits = due.is_none() && left > 0;
                left -= u64::from(fits);
                fits
            };
            let parts = delivered.page.keep(is_kept).map_err(unreadable)?;
            kept.extend(parts.into_iter().map(|page| Delivered {
                topic: Arc::clone(&delivered.topic),
                page,
                ..delivered
            }));
        }
        *pages = kept;
        if later.is_empty() {
            return Ok(false);
        }
        let (_, mut core) = self.lock(&leases.cell);
        if let Some(work) = core.work() {
            for (id, offset, due) in later {
                work.give_back(id, leases.member, leases.poll, [offset], Some(due));
            }
            self.coordinator.look_sooner(work.next_deadline(self.now()));
        }
        Ok(true)
    }

    /// Makes the answer from the pages; leases on records that are in none are given back.
    pub(super) fn deliver_leases(
        &self,
        polling: &mut Polling<'_>,
        mut leases: Leases<'_>,
        pages: Vec<Delivered>,
    ) -> Result<Polled, Refusal> {
        let (generation, epoch) = {
            let (now, mut core) = self.lock(&polling.cell);
            let ended = core.members.end_poll(polling.member, polling.token, now);
            let epoch = ended.map_err(|error| polling.refused(error))?;
            (core.members.generation, epoch)
        };
        let (delivered, left) = split(&leases.ranges, &pages);
        leases.ranges = left;
        let poll_id = PollId {
            life: self.coordinator.life(),
            generation,
            epoch,
            number: polling.token,
            reach: Vec::new(),
            leased: delivered,
        };
        Ok(Polled {
            poll_id: poll_id.encode(self.coordinator.directory(), polling.group, polling.member),
            epoch,
            assignment: Vec::new(),
            lease_expires: Some(leases.expires),
            pages,
            lost_partitions: Vec::new(),
            uncounted: std::mem::take(&mut polling.uncounted),
            produced: polling.produced.clone(),
        })
    }
}

/// The parts of leased ranges that are in a page, sorted, and those that are in none.
fn split(ranges: &[LeasedRange], pages: &[Delivered]) -> (Vec<LeasedRange>, Vec<LeasedRange>) {
    let (mut delivered, mut left) = (Vec::new(), Vec::new());
    for range in ranges {
        let mut from = range.from;
        let in_range = pages.iter().filter(|delivered| {
            delivered.partition == range.partition && (range.from..range.until).contains(&delivered.page.from)
        });
        for page in in_range.map(|delivered| &delivered.page) {
            let until = page.next_offset.min(range.until);
            left.push(LeasedRange {
                from,
                until: page.from,
                ..*range
            });
            delivered.push(LeasedRange {
                from: page.from,
                until,
                ..*range
            });
            from = until;
        }
        left.push(LeasedRange { from, ..*range });
    }
    left.retain(|range| range.from < range.until);
    delivered.sort_by_key(|range| (range.partition, range.from));
    (delivered, left)
}
