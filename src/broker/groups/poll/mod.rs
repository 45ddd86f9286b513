//! A poll: acknowledges the last answer, then waits for records and delivers them. Both kinds of groups share one loop.
//! The kind decides what the poll takes and how it delivers it: [`assigned`] partitions, or [`leased`] records. A filter
//! decides what an ordered group's poll reads of them: [`filtered`].

mod assigned;
mod filtered;
mod leased;
mod looking;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OwnedMutexGuard;

use super::Groups;
use super::cell::{Cell, Kind};
use super::commit::BegunCommits;
use super::members::{Ms, Refused};
use super::membership::{Join, refused};
use super::outputs::{Outgoing, Outputs, Produced};
use super::poll_id::PollId;
use super::repeats;
use super::settle::Uncounted;
use super::shared::codec::Letter;
use super::shared::queue::MemberKey;
use crate::broker::caller::{Caller, Who};
use crate::broker::engine::{Offset, Partition, PartitionId, TimestampMs, Topic};
use crate::broker::fetch::page::{Page, PageLimits, Unit};
use crate::broker::filter::Filter;
use crate::broker::refusal::{Outcome, Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::skips::Gap;

use leased::Leases;

/// The most records in the answer of an ordered group, unless the poll says otherwise.
const MAX_RECORDS: u64 = 500;
/// How far a queue looks ahead at once for a record whose time has come.
const MOST_AHEAD: u64 = 10_000;

/// The parameters of a poll.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The `poll_id` of the answer whose records are done.
    pub ack: Option<String>,
    /// The most records in the answer; `None`: [`MAX_RECORDS`], or what a member of a queue can do within its leases.
    pub max_records: Option<u64>,
    /// The most stored bytes in the answer; the first record is delivered even if it is larger.
    pub max_bytes: u64,
    /// How long to wait for a record.
    pub wait: Duration,
    /// The process that polls, as it names itself.
    pub instance: Option<String>,
}

/// The answer to a poll.
pub struct Polled {
    /// Names the answer.
    pub poll_id: String,
    /// The member's epoch.
    pub epoch: u64,
    /// The partitions that the member reads, sorted by topic and partition; none in a shared group.
    pub assignment: Vec<(Arc<str>, u32)>,
    /// In a shared group, when the leases end.
    pub lease_expires: Option<TimestampMs>,
    /// The records.
    pub pages: Vec<Delivered>,
    /// In an ordered group, the partitions in which `ack` could no longer commit.
    pub lost_partitions: Vec<(Arc<str>, u32)>,
    /// In a shared group, the records for which `ack` did not count.
    pub uncounted: Uncounted,
    /// The outputs, if the poll had some.
    pub produced: Option<Produced>,
}

/// Records of one partition; in a shared group, those that were delivered equally often.
pub struct Delivered {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// In a shared group, how often they were delivered, this time included.
    pub deliveries: Option<u32>,
    /// Of a record that was redriven: how often.
    pub redriven: Option<u32>,
    pub(crate) page: Page,
}

impl Delivered {
    /// The records.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Damaged offsets that were skipped on purpose.
    pub fn gaps(&self) -> &[Gap] {
        &self.page.gaps
    }
}

/// What a poll acknowledges, and what came of it.
struct Acknowledging<'a> {
    ack: Option<&'a PollId>,
    outgoing: Option<Outgoing>,
    /// The outputs of an earlier call that acknowledged the same, or none at all.
    produced: Option<Produced>,
}

impl Acknowledging<'_> {
    fn is_replayed(&self) -> bool {
        self.produced
            .as_ref()
            .is_some_and(|produced| produced.is_replayed)
    }
}

/// A running poll; dropping it ends the poll.
struct Polling<'a> {
    groups: &'a Groups,
    /// Gets only what it may read.
    caller: &'a Caller,
    cell: Arc<Cell>,
    group: &'a str,
    member: &'a str,
    token: u64,
    /// In a shared group, the key under which the member takes leases.
    key: Option<MemberKey>,
    /// In an ordered group, the partitions in which its `ack` could no longer commit.
    lost: Vec<PartitionId>,
    /// It does not wait.
    needs_answer: bool,
    /// Whether its `ack` has stored something.
    has_stored: bool,
    uncounted: Uncounted,
    produced: Option<Produced>,
}

impl Polling<'_> {
    fn refused(&self, error: Refused) -> Refusal {
        refused(error, self.group, self.member)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let (now, mut core) = self.groups.lock(&self.cell);
        // An answered or superseded poll has ended already.
        let _ = core.members.end_poll(self.member, self.token, now);
    }
}

/// A range of a partition that a poll reads.
struct Piece {
    topic: Arc<Topic>,
    partition: Arc<Partition>,
    from: Offset,
    until: Option<Offset>,
    /// In a shared group, how often these records were delivered.
    deliveries: Option<u32>,
    /// It is one record, which is read from its dead letter.
    letter: Option<Letter>,
}

impl Piece {
    /// A refusal with the names of the piece's partition.
    fn named(&self, refusal: Refusal) -> Refusal {
        refusal
            .with("topic", self.topic.name())
            .with("partition", self.partition.id().index)
    }
}

/// What a poll of an ordered group read of a partition, whether it delivers it or not.
#[derive(Clone, Copy, Debug)]
struct Range {
    partition: PartitionId,
    from: Offset,
    /// One past the last offset that was read.
    next: Offset,
}

impl Range {
    const fn parts(&self) -> (PartitionId, Offset, Offset) {
        (self.partition, self.from, self.next)
    }
}

/// What a poll may read, and what it waits for if there is nothing.
#[derive(Default)]
struct Taken<'a> {
    pieces: Vec<Piece>,
    /// The member's assignment has changed: the poll answers at once, with or without records.
    is_new: bool,
    /// Partitions whose next record ends the wait, with its offset.
    ends: Vec<(Arc<Partition>, Offset)>,
    /// When leases or delays end, which ends the wait.
    deadline: Option<Ms>,
    /// In a shared group, the leases that were taken.
    leases: Option<Leases<'a>>,
    /// The most records in the answer.
    most: u64,
    /// How many more are looked at.
    ahead: u64,
    /// There is more to look at than a poll looks at at once.
    goes_on: bool,
    /// The first error of looking at a partition.
    fault: Option<Refusal>,
    /// In an ordered group, the records that it gets; open: all.
    filter: Arc<Filter>,
}

/// The result of reading the pieces.
#[derive(Default)]
struct Read {
    pages: Vec<Delivered>,
    /// In an ordered group, what was read of each partition.
    ranges: Vec<Range>,
    /// With a filter, the stored bytes of all that was looked at.
    looked_bytes: u64,
    /// Offsets that were leased and have no record.
    skipped: Vec<(PartitionId, Offset, Offset)>,
    /// Redriven records whose dead letters are gone.
    gone: Vec<(PartitionId, Offset)>,
    /// The first error of reading a partition.
    fault: Option<Refusal>,
    records: u64,
    bytes: u64,
}

impl Groups {
    /// Commits the records that the poll named by `ack` delivered; in a shared group, accepts those that are not
    /// settled. `outputs` are appended with that. Then waits for records and delivers them. Joins first if the member
    /// is unknown and `joining` is given.
    ///
    /// # Errors
    /// - [`Reason::UnknownMember`], [`Reason::PollSuperseded`], [`Reason::MemberSuperseded`].
    /// - [`Reason::UnknownTopic`]: a topic that the member reads is deleted.
    /// - Those of a join, a commit or a settle.
    /// - [`Reason::CorruptData`]: nothing but damaged records is left to read.
    /// - With outputs: [`Reason::InvalidRequest`] if nothing is acknowledged, [`Reason::Fenced`] if not all of it can be;
    ///   nothing is stored then.
    ///
    /// [`Outcome::Partial`]: what `ack` acknowledges is stored, with the outputs; nothing is delivered.
    pub async fn poll(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        wanted: &Wanted,
        mut outputs: Option<Outputs>,
        joining: Option<Join>,
    ) -> Result<Polled, Refusal> {
        caller.check_group(&[Right::Read], group)?;
        let ack = self.read_ack(caller, wanted.ack.as_deref(), group, member)?;
        let acknowledges = ack.as_ref().is_some_and(PollId::has_records);
        let nothing = Outputs::without_input(&mut outputs, acknowledges)?;
        let identity = outputs.as_ref().and(wanted.ack.as_deref()).map(repeats::of_poll);
        let replayed = identity.and_then(|identity| self.recall(group, member, &identity));
        let outgoing = match (outputs, identity) {
            (Some(outputs), Some(identity)) if replayed.is_none() => {
                Some(Outgoing::of(self, outputs, group, member, identity)?)
            }
            _ => None,
        };
        let acknowledging = Acknowledging {
            ack: ack.as_ref(),
            outgoing,
            produced: replayed.or(nothing),
        };
        let (is_replayed, has_outputs) = (acknowledging.is_replayed(), acknowledging.outgoing.is_some());
        let produced = acknowledging.produced.clone();
        let begun = self
            .begin_poll(caller, group, member, wanted, acknowledging, joining)
            .await;
        let mut polling = match begun {
            Ok(polling) => polling,
            Err(refusal) if is_replayed => {
                let produced = produced.unwrap_or_else(Produced::none);
                if refusal.reason == Reason::PollSuperseded {
                    return Ok(self.answer_to_stray(group, member, produced));
                }
                return Err(produced.add_to(refusal).outcome(Outcome::Partial));
            }
            // It was acknowledged before, and what came of that is forgotten.
            Err(refusal) if has_outputs && refusal.reason == Reason::PollSuperseded => {
                return Err(super::outputs::fenced(group, member, []));
            }
            Err(refusal) => return Err(refusal),
        };
        let answer = self.finish_poll(&mut polling, wanted).await;
        answer.map_err(|refusal| {
            let refusal = match &polling.produced {
                Some(produced) => produced.add_to(refusal),
                None => refusal,
            };
            match refusal.outcome {
                Outcome::None if polling.has_stored => refusal.outcome(Outcome::Partial),
                _ => refusal,
            }
        })
    }

    /// The answer to a late duplicate of a poll whose outputs are remembered. It disturbs nothing: the member's next poll
    /// gets what it would have got anyway.
    fn answer_to_stray(&self, group: &str, member: &str, produced: Produced) -> Polled {
        let (mut number, mut epoch, mut generation, mut held) = (0, 0, 0, Vec::new());
        if let Some(cell) = self.coordinator.find(group) {
            let (_, core) = self.lock(&cell);
            generation = core.members.generation;
            epoch = core.members.get(member).map_or(0, |member| member.epoch);
            number = core.members.last_acknowledged(member).unwrap_or(0);
            if let Kind::Ordered(ordered) = &core.kind {
                let of_member = |(id, owner): (PartitionId, Option<&Arc<str>>)| {
                    owner.is_some_and(|owner| **owner == *member).then_some(id)
                };
                held.extend(ordered.partitions().filter_map(of_member));
            }
        }
        let poll_id = PollId {
            life: self.coordinator.life(),
            generation,
            epoch,
            number,
            reach: Vec::new(),
            leased: Vec::new(),
        };
        Polled {
            poll_id: poll_id.encode(self.coordinator.directory(), group, member),
            epoch,
            assignment: self.named(&held),
            lease_expires: None,
            pages: Vec::new(),
            lost_partitions: Vec::new(),
            uncounted: Uncounted::default(),
            produced: Some(produced),
        }
    }

    /// Waits for records and delivers them, after what `ack` acknowledges is stored.
    async fn finish_poll(&self, polling: &mut Polling<'_>, wanted: &Wanted) -> Result<Polled, Refusal> {
        let member = polling.member;
        let wake = {
            let (_, mut core) = self.lock(&polling.cell);
            let waits = core.members.wait(member, polling.token);
            waits.map_err(|error| polling.refused(error))?;
            if let Some((ordered, members)) = core.ordered() {
                ordered.go_on(members, member);
            }
            core.wake_of(member)
        };
        let wake = wake.ok_or_else(|| polling.refused(Refused::Unknown))?;
        let mut timeout = pin!(tokio::time::sleep(wanted.wait));
        let mut stopping = self.stopping.clone();
        let mut topics = self.coordinator.topics.clone();
        // A member that has lost partitions learns it at once.
        let mut is_over = wanted.wait.is_zero() || !polling.lost.is_empty() || polling.needs_answer;
        // How many more records than wanted a queue looks at, because those that it found are for later.
        let mut ahead = 0;
        loop {
            // Registered before the state is read, so that no change of the state is missed.
            let mut woken = pin!(wake.notified());
            woken.as_mut().enable();
            topics.mark_unchanged();
            self.check_topics(polling).await?;
            let mut taken = match polling.key {
                None => self.take_assigned(polling, wanted)?,
                Some(key) => self.take_leases(polling, key, wanted, ahead).await?,
            };
            let mut read = self.read(&mut taken, wanted).await?;
            self.settle_skipped(polling, &mut read);
            if let Some(leases) = &taken.leases
                && self.put_off(leases, &mut read.pages, taken.most)?
                && read.pages.is_empty()
            {
                ahead = (ahead * 2).clamp(MAX_RECORDS, MOST_AHEAD);
                continue;
            }
            if read.pages.is_empty() && !read.ranges.is_empty() {
                if !self.pass_over(polling, &taken.filter, &read.ranges)? {
                    continue;
                }
            } else if read.pages.is_empty()
                && !taken.is_new
                && let Some(fault) = read.fault
            {
                return Err(fault);
            }
            if read.pages.is_empty() && taken.goes_on && !is_over {
                tokio::select! {
                    biased;
                    () = &mut timeout => is_over = true,
                    _ = stopping.wait_for(|stopping| *stopping) => is_over = true,
                    () = tokio::task::yield_now() => {}
                }
                continue;
            }
            if !read.pages.is_empty() || taken.is_new || is_over {
                let answer = match taken.leases.take() {
                    None => self.deliver_assigned(polling, &taken.filter, read)?,
                    Some(leases) => {
                        let answer = self.deliver_leases(polling, leases, read.pages)?;
                        let (_, mut core) = self.lock(&polling.cell);
                        core.members.answered(member, polling.token);
                        Some(answer)
                    }
                };
                match answer {
                    Some(answer) => return Ok(answer),
                    // The assignment has changed since the records were read.
                    None => continue,
                }
            }
            let Taken {
                ends,
                deadline,
                leases,
                ..
            } = taken;
            // Before the wait, give back leases on records that could not be read.
            drop(leases);
            let mut data: FuturesUnordered<_> = ends
                .iter()
                .map(|(partition, end)| partition.wait_for(*end))
                .collect();
            let due = async {
                match deadline {
                    Some(at) => {
                        let wait = at.saturating_sub(self.now_ms()).max(1);
                        tokio::time::sleep(Duration::from_millis(wait)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = data.next() => {}
                () = woken => {}
                () = due => {}
                _ = topics.changed() => {}
                () = &mut timeout => is_over = true,
                // An error means that the sender is gone, and with it the service: the poll ends as on a stop.
                _ = stopping.wait_for(|stopping| *stopping) => is_over = true,
            }
        }
    }

    /// Looks the member's topics up again. Subscribes the group durably to those that it has not subscribed to yet.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`]: one of them is deleted. Those of a commit.
    async fn check_topics(&self, polling: &Polling<'_>) -> Result<(), Refusal> {
        let unsubscribed = {
            let (_, mut core) = self.lock(&polling.cell);
            core.refresh(polling.group, &self.log, self.coordinator.change());
            if let Some(topic) = core.deleted_topic_of(polling.member) {
                let member = polling.member;
                let detail = format!(
                    "the topic {topic} that {member} reads was deleted: poll with other topics, or leave and join again"
                );
                return Err(Refusal::new(Reason::UnknownTopic, detail).with("topic", topic));
            }
            core.unsubscribed.clone()
        };
        if unsubscribed.is_empty() {
            return Ok(());
        }
        self.subscribe_to_replaced(&polling.cell, unsubscribed).await
    }

    /// Joins if needed, begins the poll, and makes durable what its `ack` acknowledges.
    async fn begin_poll<'a>(
        &'a self,
        caller: &'a Caller,
        group: &'a str,
        member: &'a str,
        wanted: &Wanted,
        mut acknowledging: Acknowledging<'_>,
        joining: Option<Join>,
    ) -> Result<Polling<'a>, Refusal> {
        let ack = acknowledging.ack;
        let (mut polling, order, commits) = loop {
            if let Some(join) = &joining {
                self.be_member(caller, group, member, ack, join).await?;
            }
            let instance = wanted.instance.as_deref();
            match self
                .enter(caller, group, member, &mut acknowledging, instance)
                .await
            {
                Ok(entered) => break entered,
                // The member's session has ended meanwhile: it joins again.
                Err(unknown) if unknown.reason == Reason::UnknownMember && joining.is_some() => {}
                Err(refusal) => return Err(refusal),
            }
        };
        let is_replayed = acknowledging.is_replayed();
        let Acknowledging {
            outgoing, produced, ..
        } = acknowledging;
        polling.produced = produced;
        match (polling.key, ack) {
            (None, _) => {
                polling.has_stored = !commits.is_empty() || is_replayed || outgoing.is_some();
                let begun = BegunCommits::of_ack(commits);
                let produced = self.commit_for(&polling.cell, order, begun, outgoing).await?;
                polling.produced = produced.or(polling.produced.take());
            }
            (Some(_), Some(_)) if is_replayed => polling.has_stored = true,
            (Some(_), Some(ack)) => {
                // The group's writer keeps the order of settles.
                drop(order);
                let acknowledged = self.acknowledge_leases(group, member, ack, outgoing).await?;
                polling.uncounted = acknowledged.uncounted;
                polling.produced = acknowledged.produced.or(polling.produced.take());
                polling.has_stored = acknowledged.has_stored;
            }
            (Some(_), None) => {}
        }
        Ok(polling)
    }

    /// Begins a member's poll in its turn to commit. Returns it, that turn's guard, and the commits that `ack`
    /// requests.
    async fn enter<'a>(
        &'a self,
        caller: &'a Caller,
        group: &'a str,
        member: &'a str,
        acknowledging: &mut Acknowledging<'_>,
        instance: Option<&str>,
    ) -> Result<(Polling<'a>, OwnedMutexGuard<()>, Vec<(PartitionId, Offset)>), Refusal> {
        let order = self.turn_of(group, member).await?;
        let cell = self.cell_of(group, member)?;
        let ack = acknowledging.ack;
        if let Some(outgoing) = &acknowledging.outgoing
            && let Some(produced) = self.recall(group, member, &outgoing.identity)
        {
            // A call with the same `ack` has ended meanwhile.
            acknowledging.produced = Some(produced);
            acknowledging.outgoing = None;
        }
        let (begun, mut acknowledged, key) = {
            let (now, mut core) = self.lock(&cell);
            if !caller.who.is_same(&Who::Anyone) {
                let mut named = core.named_topics_of(member);
                if !named.all(|topic| caller.may_topic(Right::Read, topic)) {
                    // Without their names: somebody else may have subscribed the member to them.
                    let detail =
                        format!("this needs the right read on every topic that {member} has subscribed to");
                    return Err(Refusal::new(Reason::Forbidden, detail));
                }
                drop(named);
                core.act_for(member, &caller.who);
            }
            core.refresh(group, &self.log, self.coordinator.change());
            if acknowledging.outgoing.is_some() {
                let checked = core.check_poll_of(member, ack, instance);
                checked.map_err(|error| refused(error, group, member))?;
                let unfit = core.unfit_for_outputs(member, ack);
                if !unfit.is_empty() {
                    return Err(self.fenced(group, member, &unfit));
                }
            }
            let begun = core.begin_poll(member, ack, instance, now);
            let (begun, acknowledged) = begun.map_err(|error| refused(error, group, member))?;
            (begun, acknowledged, core.work().map(|work| work.member(member)))
        };
        if begun.takes_over {
            tracing::warn!(
                group,
                member,
                "a second process polls as this member: the older one is refused"
            );
        }
        if acknowledging.is_replayed() {
            // What it committed the first time may be another member's by now, and is not lost. A group that was reset since
            // stays where it is.
            acknowledged.lost.clear();
            let commits = std::mem::take(&mut acknowledged.commits);
            if let Some((ordered, members)) = self.lock(&cell).1.ordered() {
                ordered.end_commit(members, &commits, false, false);
            }
        }
        let polling = Polling {
            groups: self,
            caller,
            cell,
            group,
            member,
            token: begun.token,
            key,
            lost: acknowledged.lost,
            needs_answer: begun.needs_answer,
            has_stored: false,
            uncounted: Uncounted::default(),
            produced: None,
        };
        Ok((polling, order, acknowledged.commits))
    }

    /// Reads the pieces in order, within the limits of the poll.
    async fn read(&self, taken: &mut Taken<'_>, wanted: &Wanted) -> Result<Read, Refusal> {
        let mut read = Read {
            fault: taken.fault.take(),
            ..Read::default()
        };
        for piece in std::mem::take(&mut taken.pieces) {
            let goes_on = if taken.filter.is_open() {
                self.read_piece(piece, taken.most + taken.ahead, wanted, &mut read)
                    .await?
            } else {
                self.read_matching(&piece, &taken.filter, taken.most, wanted, &mut read)
                    .await?
            };
            if !goes_on {
                break;
            }
        }
        self.fetcher.count(read.records, read.bytes);
        Ok(read)
    }

    /// Reads as much of a piece as it can; `false` if a limit of the poll is reached.
    async fn read_piece(
        &self,
        piece: Piece,
        most: u64,
        wanted: &Wanted,
        read: &mut Read,
    ) -> Result<bool, Refusal> {
        let id = piece.partition.id();
        let mut from = piece.from;
        if let Some(letter) = piece.letter {
            if read.records >= most || read.bytes >= wanted.max_bytes {
                return Ok(false);
            }
            self.read_letter(&piece, letter, read).await;
            return Ok(true);
        }
        loop {
            if read.records >= most || read.bytes >= wanted.max_bytes {
                return Ok(false);
            }
            let limits = PageLimits {
                from,
                until: piece.until,
                max_records: most - read.records,
                max_bytes: wanted.max_bytes - read.bytes,
                unit: Unit::Records,
            };
            let page = match self.fetcher.read_page(&piece.partition, limits).await {
                Ok(page) => page,
                // Deleted or trimmed meanwhile: the poll looks the partition up again.
                Err(refusal) if matches!(refusal.reason, Reason::UnknownTopic | Reason::OffsetTrimmed) => {
                    return Ok(true);
                }
                Err(refusal) => {
                    read.fault.get_or_insert(piece.named(refusal));
                    return Ok(true);
                }
            };
            // Only the first page of a poll may exceed the limit, so that at least one record is read.
            if !read.pages.is_empty() && read.bytes + page.stored_bytes > wanted.max_bytes {
                return Ok(false);
            }
            let next = piece
                .until
                .map_or(page.next_offset, |until| page.next_offset.min(until));
            if next <= from {
                return Ok(true);
            }
            let has_records = page.records > 0;
            if piece.deliveries.is_some() {
                read.skipped
                    .extend(page.gaps.iter().map(|gap| (id, gap.from, gap.until)));
                if !has_records {
                    read.skipped.push((id, from, next));
                }
            }
            read.records += page.records;
            read.bytes += page.stored_bytes;
            if piece.deliveries.is_none() {
                read.ranges.push(Range {
                    partition: id,
                    from: page.from,
                    next: page.next_offset,
                });
            }
            if has_records || piece.deliveries.is_none() {
                read.pages.push(Delivered {
                    topic: piece.topic.name().into(),
                    partition: id,
                    deliveries: piece.deliveries,
                    redriven: None,
                    page,
                });
            }
            // An assigned partition has one page in an answer; a leased range is read to its end.
            if piece.deliveries.is_none() || piece.until.is_some_and(|until| next >= until) {
                return Ok(true);
            }
            from = next;
        }
    }
}
