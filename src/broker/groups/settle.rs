//! Settles: accept, release, reject or extend records, by name or by acknowledging a poll.
//!
//! A settle counts for every unsettled record that nobody else holds: after its lease has ended, after the member's
//! session has, and after a restart. It begins under the lock of the group's cell; the group's [writer](super::writing)
//! writes it in one append with its dead letters. Once it has begun, it runs to its end in its own task: a client that
//! goes away leaves nothing half settled.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use super::cell::{Cell, Kind};
use super::live::Progress;
use super::members::Refused;
use super::membership::refused;
use super::ordered::partitions::passed::Seen;
use super::outputs::{Outgoing, Outputs, Produced};
use super::poll_id::{LeasedRange, PollId};
use super::repeats;
use super::shared::queue::{ChangeId, Claim, MAX_UNSETTLED, MemberKey, Moment, Now, Outcome, PollNumber};
use super::shared::settings::GroupValue;
use super::shared::work::{Changes, Work};
use super::writing::Burial;
use super::{Groups, generation};
use crate::broker::caller::Caller;
use crate::broker::engine::{Offset, PartitionId, TimestampMs};
use crate::broker::refusal::{self, Outcome as Stored, Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::{self, catalog};

/// How long a group that has lost unsettled records is `losing`, and how long a lease that ended unsettled counts as due.
const RECENT_MS: u64 = 60_000;

/// A record, as a settle names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: Offset,
}

/// A record to deliver again.
#[derive(Clone, Debug)]
pub struct Release {
    /// The record.
    pub place: Place,
    /// It is not delivered for so many milliseconds.
    pub delay_ms: u64,
    /// Whether the lease that ends counts as a delivery.
    pub counts: bool,
}

/// What to do with records.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    /// Records that are done.
    pub accept: Vec<Place>,
    /// Records to deliver again.
    pub release: Vec<Release>,
    /// Records that become dead letters, each with the reason.
    pub reject: Vec<(Place, String)>,
    /// Records whose lease begins again now.
    pub extend: Vec<Place>,
    /// The process that settles, as it names itself.
    pub instance: Option<String>,
}

impl Settling {
    /// Takes out what it does besides accepting and rejecting.
    fn split_rest(&mut self) -> Self {
        Self {
            release: std::mem::take(&mut self.release),
            extend: std::mem::take(&mut self.extend),
            instance: self.instance.clone(),
            ..Self::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.places().next().is_none()
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.accept
            .iter()
            .chain(&self.extend)
            .chain(self.release.iter().map(|release| &release.place))
            .chain(self.reject.iter().map(|(place, _)| place))
    }
}

/// The records for which a settle or an acknowledgement did not count, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uncounted {
    /// Somebody else holds them now, or there is no such record.
    pub lost: Vec<Place>,
    /// They were settled before.
    pub settled: Vec<Place>,
}

/// The partitions that a settle names, by topic and partition.
type Named = BTreeMap<(String, u32), PartitionId>;

/// What became of a poll's acknowledgement.
pub(super) struct AcknowledgedLeases {
    /// The records for which it did not count.
    pub(super) uncounted: Uncounted,
    /// The outputs, if it had some.
    pub(super) produced: Option<Produced>,
    /// Whether it has stored something, now or in an earlier call.
    pub(super) has_stored: bool,
}

/// The result of beginning a settle.
#[derive(Default)]
struct Begun {
    changes: Changes,
    burials: Vec<Burial>,
    uncounted: Uncounted,
    /// An earlier call has acknowledged the same, with outputs: nothing has begun.
    replayed: Option<Produced>,
}

impl Begun {
    /// Nothing of it counts.
    fn lost(uncounted: Uncounted) -> Self {
        Self {
            uncounted,
            ..Self::default()
        }
    }

    fn replayed(produced: Produced) -> Self {
        Self {
            replayed: Some(produced),
            ..Self::default()
        }
    }
}

/// What stops a settle from beginning.
enum NotYet {
    /// A change of one of its records is being written: wait for its result.
    Writing,
    /// A change from outside is running: wait for its end.
    Closed,
    /// The cell was forgotten since it was looked up: try again.
    Forgotten,
    Refused(Refusal),
}

impl Groups {
    /// Accepts the records that the answer named by `ack` delivered and that its member has neither settled nor
    /// released, unless they were leased again since.
    ///
    /// # Errors
    /// Those of the write: nothing is settled.
    pub(super) async fn acknowledge_leases(
        &self,
        group: &str,
        member: &str,
        ack: &PollId,
        outgoing: Option<Outgoing>,
    ) -> Result<AcknowledgedLeases, Refusal> {
        let identity = outgoing.as_ref().map(|outgoing| outgoing.identity);
        // In another process, polls had other numbers.
        let is_this_life = ack.life == self.coordinator.life();
        let poll = PollNumber(if is_this_life { ack.number } else { u64::MAX });
        let name = member;
        let log = &self.log;
        let begin = |work: &mut Work, room: usize| {
            let member = work.member(name);
            if ack.generation != generation::of(log, group) {
                // The records are those of an earlier group of this name.
                let lost = self.lost(&ack.leased);
                return match identity {
                    None => Ok(Begun::lost(lost)),
                    Some(_) => Err(NotYet::Refused(lost.fenced(group, name))),
                };
            }
            let mut claims: BTreeMap<PartitionId, Vec<(Offset, Claim)>> = BTreeMap::new();
            for range in &ack.leased {
                if log.topic_by_id(range.partition.topic).is_none() {
                    continue;
                }
                let claim = Claim::Poll {
                    member,
                    poll,
                    deliveries: range.deliveries,
                };
                let offsets = (range.from.get()..range.until.get()).map(|at| (Offset::new(at), claim));
                claims.entry(range.partition).or_default().extend(offsets);
            }
            for (id, claims) in &claims {
                let offsets: Vec<Offset> = claims.iter().map(|(offset, _)| *offset).collect();
                self.look(work, group, *id, &offsets, room)?;
            }
            if let Some(identity) = &identity {
                if let Some(produced) = self.recall(group, name, identity) {
                    return Ok(Begun::replayed(produced));
                }
                let is_gone = |range: &LeasedRange| log.topic_by_id(range.partition.topic).is_none();
                let has_gone = ack.leased.iter().any(is_gone);
                self.check_all_count(work, &claims, has_gone)
                    .map_err(|uncounted| NotYet::Refused(uncounted.fenced(group, name)))?;
            }
            let mut begun = Begun::default();
            for (id, claims) in claims {
                let of_queue = work.load(log, group, id).begin_settle(claims);
                begun
                    .changes
                    .extend(of_queue.change.map(|change| (id, Some(change))));
                let Some(topic) = log.topic_by_id(id.topic) else {
                    continue;
                };
                let place = |offset: Offset| Place {
                    topic: topic.name().to_owned(),
                    partition: id.index,
                    offset,
                };
                begun.uncounted.lost.extend(of_queue.lost.into_iter().map(place));
                begun
                    .uncounted
                    .settled
                    .extend(of_queue.settled.into_iter().map(place));
            }
            if identity.is_some() {
                // What the member has settled or released by name is no part of it.
                begun.uncounted = Uncounted::default();
            }
            Ok(begun)
        };
        let (cell, begun) = self.begin_in_queue(group, member, None, begin).await?;
        if begun.replayed.is_some() {
            return Ok(AcknowledgedLeases {
                uncounted: Uncounted::default(),
                produced: begun.replayed,
                has_stored: true,
            });
        }
        let has_stored = !begun.changes.is_empty();
        let produced = self
            .write_changes(&cell, begun.changes, Vec::new(), outgoing)
            .await?;
        Ok(AcknowledgedLeases {
            uncounted: begun.uncounted,
            has_stored: has_stored || produced.is_some(),
            produced,
        })
    }

    /// Leased records as lost ones, without those of deleted topics.
    fn lost(&self, leased: &[LeasedRange]) -> Uncounted {
        let mut lost = Vec::new();
        for range in leased {
            let Some(topic) = self.log.topic_by_id(range.partition.topic) else {
                continue;
            };
            lost.extend((range.from.get()..range.until.get()).map(|offset| Place {
                topic: topic.name().to_owned(),
                partition: range.partition.index,
                offset: Offset::new(offset),
            }));
        }
        lost.sort_unstable();
        Uncounted {
            lost,
            settled: Vec::new(),
        }
    }

    /// Before a settle with outputs begins: whether it counts for all of these records, and for at least one. `has_gone`: it
    /// names others whose topic is gone.
    fn check_all_count(
        &self,
        work: &Work,
        claims: &BTreeMap<PartitionId, Vec<(Offset, Claim)>>,
        has_gone: bool,
    ) -> Result<(), Uncounted> {
        let mut uncounted = Uncounted::default();
        let mut counts = false;
        for (id, claims) in claims {
            let topic = self.log.topic_by_id(id.topic);
            let name = topic.map_or_else(String::new, |topic| topic.name().to_owned());
            for (offset, claim) in claims {
                let place = Place {
                    topic: name.clone(),
                    partition: id.index,
                    offset: *offset,
                };
                let queue = work.queues.get(id);
                let outcome = queue.map(|queue| queue.outcome_with_outputs(*offset, *claim));
                counts |= outcome == Some(Outcome::Done);
                uncounted.add(outcome, &place);
            }
        }
        for list in [&mut uncounted.lost, &mut uncounted.settled] {
            list.sort_unstable();
        }
        match counts && !has_gone && uncounted == Uncounted::default() {
            true => Ok(()),
            false => Err(uncounted),
        }
    }

    /// Settles records. Returns those for which it did not count. `outputs` are appended with what it accepts and rejects,
    /// if it counts for all of that.
    ///
    /// # Errors
    /// - [`Reason::Fenced`]: with outputs, it does not count for all that it accepts and rejects; nothing was done.
    /// - [`Reason::UnknownGroup`], [`Reason::UnknownTopic`], [`Reason::UnknownPartition`], [`Reason::GroupTypeMismatch`],
    ///   [`Reason::Overloaded`]: nothing was done.
    /// - [`Reason::MemberSuperseded`]: a newer process has the member; nothing was done.
    /// - Those of an append: records whose settle was not written are as before; send the same settle again.
    pub async fn settle(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        mut settling: Settling,
        mut outputs: Option<Outputs>,
    ) -> Result<(Uncounted, Option<Produced>), Refusal> {
        caller.check_group(&[Right::Read], group)?;
        let named = self.find_named(caller, &settling)?;
        let acknowledges = !settling.accept.is_empty() || !settling.reject.is_empty();
        let nothing = Outputs::without_input(&mut outputs, acknowledges)?;
        let identity = outputs.as_ref().map(|_| {
            let accept = settling.accept.iter().map(|place| (0, place));
            let reject = settling.reject.iter().map(|(place, _)| (1, place));
            let places = accept
                .chain(reject)
                .map(|(done, place)| (done, id_of(&named, place), place.offset));
            repeats::of_places(b"settle", places)
        });
        let outgoing = outputs.zip(identity);
        let outgoing =
            outgoing.map(|(outputs, identity)| Outgoing::of(self, outputs, group, member, identity));
        let rest = match &outgoing {
            // Whether the outputs are stored is known before anything else is done.
            Some(_) => settling.split_rest(),
            None => Settling::default(),
        };
        let begin = |work: &mut Work, room: usize| {
            let mut offsets: BTreeMap<PartitionId, Vec<Offset>> = BTreeMap::new();
            for place in settling.places() {
                let id = id_of(&named, place);
                offsets.entry(id).or_default().push(place.offset);
            }
            for (id, offsets) in &offsets {
                self.look(work, group, *id, offsets, room)?;
            }
            if let Some(identity) = &identity {
                let key = work.member(member);
                let is_held = |place: &Place| {
                    let queue = work.queues.get(&id_of(&named, place));
                    queue.is_some_and(|queue| queue.is_leased_to(place.offset, key))
                };
                // After a reset or a redrive, the member may have been given the same records again.
                if !settling.places().any(is_held)
                    && let Some(produced) = self.recall(group, member, identity)
                {
                    return Ok(Begun::replayed(produced));
                }
                if let Some(Err(refusal)) = &outgoing {
                    return Err(NotYet::Refused(refusal.clone()));
                }
                let mut claims: BTreeMap<PartitionId, Vec<(Offset, Claim)>> = BTreeMap::new();
                let rejected = settling.reject.iter().map(|(place, _)| place);
                for place in settling.accept.iter().chain(rejected) {
                    let claim = (place.offset, Claim::Member(key));
                    claims.entry(id_of(&named, place)).or_default().push(claim);
                }
                self.check_all_count(work, &claims, false)
                    .map_err(|uncounted| NotYet::Refused(uncounted.fenced(group, member)))?;
            }
            Ok(begin(work, member, self.now(), &settling, &named))
        };
        let instance = settling.instance.as_deref();
        let (cell, mut begun) = self.begin_in_queue(group, member, instance, begin).await?;
        if begun.replayed.is_some() {
            return Ok((Uncounted::default(), begun.replayed));
        }
        let outgoing = outgoing.transpose()?;
        let groups = self.clone();
        let task = tokio::spawn(async move {
            let written = match outgoing {
                Some(outgoing) => {
                    groups
                        .write_together(&cell, begun.changes, begun.burials, outgoing)
                        .await
                }
                None => {
                    let accepted = groups.write_changes(&cell, begun.changes, Vec::new(), None);
                    let buried = groups.bury_all(&cell, begun.burials);
                    let (accepted, buried) = tokio::join!(accepted, buried);
                    accepted.and(buried).map(|()| None)
                }
            };
            groups.attend(&cell);
            written
        });
        let produced = task.await.unwrap_or_else(|_| Err(Refusal::stopping()))?;
        if !rest.is_empty() {
            let settled = Box::pin(self.settle(caller, group, member, rest, None)).await;
            let (uncounted, _) = settled.map_err(|refusal| match &produced {
                Some(produced) => produced.add_to(refusal).outcome(Stored::Partial),
                None => refusal,
            })?;
            begun.uncounted.lost.extend(uncounted.lost);
            begun.uncounted.settled.extend(uncounted.settled);
        }
        for list in [&mut begun.uncounted.lost, &mut begun.uncounted.settled] {
            list.sort_unstable();
            list.dedup();
        }
        Ok((begun.uncounted, produced.or(nothing)))
    }

    /// Makes a partition's queue know the records that a settle names.
    fn look(
        &self,
        work: &mut Work,
        group: &str,
        id: PartitionId,
        offsets: &[Offset],
        room: usize,
    ) -> Result<(), NotYet> {
        let end = self
            .find_partition(id)
            .map_or(Offset::ZERO, |(_, partition)| partition.positions().end_offset);
        let queue = work.load(&self.log, group, id);
        if queue.is_any_settling(offsets.iter().copied()) {
            return Err(NotYet::Writing);
        }
        let Some(last) = offsets.iter().filter(|offset| **offset < end).max() else {
            return Ok(());
        };
        match queue.look(*last, end, room) {
            true => Ok(()),
            false => {
                let detail = format!(
                    "the queue of {group} remembers as many unsettled records as it may: settle records that were \
                     delivered"
                );
                Err(NotYet::Refused(Refusal::new(Reason::Overloaded, detail)))
            }
        }
    }

    /// Runs `begin` on a shared group's queues, once no change of the records that it names is being written. Neither the
    /// member nor the process need be known, but the process must not be one that had the member before.
    async fn begin_in_queue(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        begin: impl Fn(&mut Work, usize) -> Result<Begun, NotYet>,
    ) -> Result<(Arc<Cell>, Begun), Refusal> {
        loop {
            let cell = self.queue_cell(group)?;
            // Registered before the state is read, so that no end of a write is missed.
            let mut written = pin!(cell.written.notified());
            written.as_mut().enable();
            let mut joinable = pin!(cell.joinable.notified());
            joinable.as_mut().enable();
            let begun = {
                let (now, mut core) = self.lock(&cell);
                let checked = core.members.check_instance(member, instance);
                if let Err(superseded @ Refused::MemberSuperseded) = checked {
                    return Err(refused(superseded, group, member));
                }
                // What an unknown member settles counts as well.
                let _ = core.members.touch(member, None, now);
                let room = self.coordinator.room();
                if core.is_closed() {
                    Err(NotYet::Closed)
                } else if core.is_forgotten {
                    Err(NotYet::Forgotten)
                } else {
                    let work = core.work().expect("a queue's cell is shared");
                    let begun = begin(work, room);
                    work.free();
                    // The delay of a released record may end before every lease.
                    self.coordinator.look_sooner(work.next_deadline(self.now()));
                    begun
                }
            };
            match begun {
                Ok(begun) => return Ok((Arc::clone(&cell), begun)),
                Err(NotYet::Writing) => written.await,
                Err(NotYet::Closed) => joinable.await,
                Err(NotYet::Forgotten) => {}
                Err(NotYet::Refused(refusal)) => return Err(refusal),
            }
        }
    }

    /// The cell of a shared group, with or without members.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`]; [`Reason::GroupTypeMismatch`]: the group is ordered.
    pub(super) fn queue_cell(&self, group: &str) -> Result<Arc<Cell>, Refusal> {
        let settings = || {
            let Some(value) = self.value_of(group)? else {
                let detail = format!("the group {group} does not exist");
                return Err(Refusal::new(Reason::UnknownGroup, detail));
            };
            match value {
                GroupValue::Shared(settings) => Ok(settings),
                GroupValue::Ordered(_) => Err(is_ordered(group, "commit, or acknowledge by a poll")),
            }
        };
        // No cell is made for a group that has no queue.
        settings()?;
        loop {
            let cell = self.coordinator.cell(group);
            let (_, mut core) = self.lock(&cell);
            if core.is_forgotten {
                continue;
            }
            // Read again under the lock: settings that change from here on are set in the cell as well.
            let settings = settings()?;
            if !matches!(core.kind, Kind::Shared(_)) {
                core.kind = Kind::Shared(Work::new(settings));
                core.refresh(group, &self.log, self.coordinator.change());
            }
            drop(core);
            return Ok(cell);
        }
    }

    /// How far the server has looked for an ordered group with a filter, in the partitions that members have; nothing for
    /// other groups.
    pub fn seen(&self, group: &str) -> BTreeMap<PartitionId, Seen> {
        let cell = match self.value_of(group) {
            Ok(Some(GroupValue::Ordered(filter))) if !filter.is_open() => self.coordinator.find(group),
            _ => None,
        };
        let Some(cell) = cell else { return BTreeMap::new() };
        let (_, mut core) = self.lock(&cell);
        core.ordered()
            .map(|(ordered, _)| ordered.seen().collect())
            .unwrap_or_default()
    }

    /// How far a shared group is, by partition; nothing for an ordered one.
    pub fn progress(&self, group: &str) -> BTreeMap<PartitionId, Progress> {
        let mut all = BTreeMap::new();
        let Ok(Some(GroupValue::Shared(_))) = self.value_of(group) else {
            return all;
        };
        let Ok(cell) = self.queue_cell(group) else {
            return all;
        };
        let (now, mut core) = self.lock(&cell);
        core.refresh(group, &self.log, self.coordinator.change());
        let is_full = self.coordinator.room() == 0;
        let Some(work) = core.work() else { return all };
        for (id, queue) in &mut work.queues {
            let Some((_, partition)) = self.find_partition(*id) else {
                continue;
            };
            let positions = partition.positions();
            queue.trim(Moment(now), positions.log_start_offset);
            let is_recent = |at: Moment| now.saturating_sub(at.0) < RECENT_MS;
            let progress = Progress {
                settled: queue.settled(),
                first_due: queue.first_due(),
                oldest_redrive: queue.oldest_redrive(),
                leased: queue.leased() as u64,
                delayed: queue.delayed() as u64,
                has_due: queue.has_due(positions.end_offset) || queue.expired_at().is_some_and(is_recent),
                is_losing: queue.lost_at().is_some_and(is_recent),
                is_full: is_full || queue.unsettled() >= MAX_UNSETTLED,
            };
            all.insert(*id, progress);
        }
        all
    }

    /// The partitions that a settle names.
    fn find_named(&self, caller: &Caller, settling: &Settling) -> Result<Named, Refusal> {
        let mut named = Named::new();
        for place in settling.places() {
            let key = (place.topic.clone(), place.partition);
            if let Entry::Vacant(entry) = named.entry(key) {
                caller.check_topic(Right::Read, &place.topic)?;
                let topic = catalog::find(&self.log, &place.topic)?;
                let partition = topics::partition(&topic, place.partition)?;
                entry.insert(partition.id());
            }
        }
        Ok(named)
    }
}

pub(super) fn is_ordered(group: &str, instead: &str) -> Refusal {
    Refusal::new(
        Reason::GroupTypeMismatch,
        format!("the group {group} is ordered: {instead}"),
    )
}

fn id_of(named: &Named, place: &Place) -> PartitionId {
    named[&(place.topic.clone(), place.partition)]
}

fn begin(work: &mut Work, member: &str, now: Now, settling: &Settling, named: &Named) -> Begun {
    let key = work.member(member);
    let deadline = Moment(now.moment.0.saturating_add(work.settings.lease_ms.into()));
    let mut begun = Begun::default();
    let accept = settling.accept.iter().map(|place| (place, ()));
    for (id, places) in by_partition(accept, named) {
        let change = begin_in_partition(work, id, key, places.keys(), &mut begun.uncounted).0;
        begun.changes.extend(change.map(|change| (id, Some(change))));
    }
    let reject = settling.reject.iter().map(|(place, reason)| (place, reason));
    for (id, places) in by_partition(reject, named) {
        let (change, taken) = begin_in_partition(work, id, key, places.keys(), &mut begun.uncounted);
        let reasons = places
            .into_iter()
            .map(|(place, reason)| (place.offset, reason.clone()));
        let reasons: BTreeMap<Offset, String> = reasons.collect();
        let queue = work.queues.get(&id);
        let letters = queue.map(|queue| queue.letters_of(&taken)).unwrap_or_default();
        begun.burials.extend(change.map(|change| Burial {
            partition: id,
            change,
            letters,
            taken,
            reasons,
        }));
    }
    let mut released: BTreeSet<PartitionId> = BTreeSet::new();
    for release in &settling.release {
        let id = id_of(named, &release.place);
        let due = (release.delay_ms > 0).then(|| later(now.wall, release.delay_ms));
        let outcome = work
            .queues
            .get_mut(&id)
            .map(|queue| queue.release(key, release.place.offset, due, release.counts));
        if outcome == Some(Outcome::Done) {
            released.insert(id);
        }
        begun.uncounted.add(outcome, &release.place);
    }
    // Without a change: this writes the delay and the delivery count.
    for id in released {
        if !begun.changes.iter().any(|(known, _)| *known == id) {
            begun.changes.push((id, None));
        }
    }
    for place in &settling.extend {
        let queue = work.queues.get_mut(&id_of(named, place));
        let outcome = queue.map(|queue| queue.extend(key, place.offset, deadline));
        begun.uncounted.add(outcome, place);
    }
    begun
}

/// Begins to settle the records of one partition. Returns the change, if there is one, and what it takes.
fn begin_in_partition<'p>(
    work: &mut Work,
    id: PartitionId,
    key: MemberKey,
    places: impl Iterator<Item = &'p &'p Place> + Clone,
    uncounted: &mut Uncounted,
) -> (Option<ChangeId>, Vec<(Offset, u32)>) {
    let claims = places.clone().map(|place| (place.offset, Claim::Member(key)));
    let Some(begun) = work.queues.get_mut(&id).map(|queue| queue.begin_settle(claims)) else {
        return (None, Vec::new());
    };
    for place in places {
        if begun.lost.binary_search(&place.offset).is_ok() {
            uncounted.lost.push((*place).clone());
        } else if begun.settled.binary_search(&place.offset).is_ok() {
            uncounted.settled.push((*place).clone());
        }
    }
    (begun.change, begun.taken)
}

impl Uncounted {
    /// Refuses a call with outputs.
    fn fenced(&self, group: &str, member: &str) -> Refusal {
        let place = |place: &Place| refusal::Place {
            topic: place.topic.clone(),
            partition: place.partition,
            offset: Some(place.offset),
        };
        let places = |list: &[Place]| list.iter().map(place).collect();
        let lists = [("lost", places(&self.lost)), ("settled", places(&self.settled))];
        super::outputs::fenced(group, member, lists)
    }

    fn add(&mut self, outcome: Option<Outcome>, place: &Place) {
        match outcome {
            Some(Outcome::Lost) | None => self.lost.push(place.clone()),
            Some(Outcome::Settled) => self.settled.push(place.clone()),
            Some(Outcome::Done | Outcome::Left) => {}
        }
    }
}

fn later(time: TimestampMs, ms: u64) -> TimestampMs {
    TimestampMs(time.get().saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
}

/// The places of a list by partition, each once, with what the first mention says.
fn by_partition<'p, T>(
    list: impl Iterator<Item = (&'p Place, T)>,
    named: &Named,
) -> BTreeMap<PartitionId, BTreeMap<&'p Place, T>> {
    let mut all: BTreeMap<PartitionId, BTreeMap<&Place, T>> = BTreeMap::new();
    for (place, with) in list {
        let of_partition = all.entry(id_of(named, place)).or_default();
        of_partition.entry(place).or_insert(with);
    }
    all
}
