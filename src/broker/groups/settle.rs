//! Settles: accept, release, reject or extend leased records. Records delivered too often become dead letters.
//!
//! A settle begins under the lock of the group's cell. The group's writer writes it in one append with its dead
//! letters. Once it has begun, it runs to its end in its own task: a client that goes away leaves nothing half settled.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Groups;
use super::coordinator::{Cell, Kind};
use super::membership::refused;
use super::poll_id::PollId;
use super::shared::dead_letter::{Origin, delivered_too_often};
use super::shared::queue::{ChangeId, MemberKey, Moment, PollNumber, Released};
use super::shared::redrive::{self, Redriven};
use super::shared::settings::GroupValue;
use super::shared::store;
use super::shared::work::{Batch, Changes, Letters, Pending, WRITE_BYTES, Work};
use crate::broker::blocking::Share;
use crate::broker::engine::{Offset, PartitionId, Topic, TopicId};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::{self, catalog};

/// The most records of a partition that become dead letters at once because they were delivered too often.
const BURIED_AT_ONCE: usize = 256;

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

/// What to do with leased records.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    /// Records that are done.
    pub accept: Vec<Place>,
    /// Records to deliver again, each after so many milliseconds.
    pub release: Vec<(Place, u64)>,
    /// Records that become dead letters, each with the reason.
    pub reject: Vec<(Place, String)>,
    /// Records whose lease begins again now.
    pub extend: Vec<Place>,
}

/// Records of one partition that are on their way to the dead letters.
struct Burial {
    partition: PartitionId,
    change: ChangeId,
    /// The records, each with its delivery count.
    taken: Vec<(Offset, u32)>,
    /// Why they are dead letters; a record without a reason was delivered too often.
    reasons: BTreeMap<Offset, String>,
}

/// The records of one partition that a settle names.
struct Named<T> {
    partition: PartitionId,
    places: Vec<(Place, T)>,
}

impl<T> Named<T> {
    /// The offsets, sorted and without duplicates.
    fn offsets(&self) -> Vec<Offset> {
        let mut offsets: Vec<Offset> = self.places.iter().map(|(place, _)| place.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}

/// The result of beginning a settle.
#[derive(Default)]
struct Begun {
    changes: Changes,
    burials: Vec<Burial>,
    lost: Vec<Place>,
}

impl Groups {
    /// Accepts the records that the answer named by `ack` delivered and that its member still has leased. An answer
    /// from before a restart accepts nothing: its number means nothing in this process.
    ///
    /// # Errors
    /// Those of the write: nothing is settled.
    pub(super) async fn acknowledge_leases(
        &self,
        cell: &Arc<Cell>,
        member: MemberKey,
        ack: &PollId,
    ) -> Result<(), Refusal> {
        if ack.life != self.coordinator.life() {
            return Ok(());
        }
        let poll = PollNumber(ack.number);
        let mut changes = Vec::new();
        if let Some(work) = self.lock(cell).1.work() {
            for (id, queue) in &mut work.queues {
                if queue.held_by(member, poll) > 0 {
                    let change = queue.begin_ack(member, poll).change;
                    changes.extend(change.map(|change| (*id, Some(change))));
                }
            }
        }
        self.write_changes(cell, changes, Vec::new()).await
    }

    /// Has the group's writer write changes with their dead letters, and waits until they are durable.
    async fn write_changes(
        &self,
        cell: &Arc<Cell>,
        changes: Changes,
        letters: Letters,
    ) -> Result<(), Refusal> {
        if changes.is_empty() {
            return Ok(());
        }
        let written = self.submit(cell, changes, letters).await;
        written.unwrap_or_else(|_| Err(Refusal::stopping()))
    }

    /// Queues changes for the group's writer. They are written even if the caller does not wait for the answer.
    fn submit(
        &self,
        cell: &Arc<Cell>,
        changes: Changes,
        letters: Letters,
    ) -> oneshot::Receiver<Result<(), Refusal>> {
        let (done, answer) = oneshot::channel();
        let size = |bytes: &Option<Cow<'static, [u8]>>| bytes.as_ref().map_or(0, |bytes| bytes.len());
        let bytes = letters
            .iter()
            .map(|(_, letter)| size(&letter.key) + size(&letter.value))
            .sum();
        let pending = Pending {
            changes,
            letters,
            bytes,
            done,
        };
        let starts = {
            let (_, mut core) = self.lock(cell);
            // During and after a change from outside the group has no members, and unwritten changes are out of date.
            if core.is_closed() || core.is_forgotten {
                return answer;
            }
            core.work().is_some_and(|work| work.submit(pending))
        };
        if starts {
            drop(tokio::spawn(self.clone().run_writer(Arc::clone(cell))));
        }
        answer
    }

    /// Writes the queued changes, until none is left.
    async fn run_writer(self, cell: Arc<Cell>) {
        loop {
            // Held from before the batch is chosen until it is durable, as for every commit.
            let guard = self.commits().await;
            let batch = self.lock(&cell).1.work().and_then(Work::next_batch);
            let Some(batch) = batch else { return };
            let result = self.write_batch(&cell, &batch).await;
            let partitions = || batch.settlements.iter().map(|settlement| settlement.partition);
            if let Some(work) = self.lock(&cell).1.work() {
                work.end_batch(partitions(), result.is_ok());
            }
            if let Err(refusal) = &result {
                tracing::warn!(
                    group = &*cell.group,
                    refusal = refusal.detail,
                    "what members settled could not be written: their calls are refused"
                );
            }
            let topics: BTreeSet<TopicId> = partitions().map(|id| id.topic).collect();
            if let Err(error) = self.remove_orphans(topics).await {
                tracing::warn!(%error, "what groups knew of a deleted topic stays until it is written over");
            }
            drop(guard);
            for done in batch.done {
                // The caller may have gone away.
                let _ = done.send(result.clone());
            }
        }
    }

    async fn write_batch(&self, cell: &Cell, batch: &Batch) -> Result<(), Refusal> {
        let letters = batch.letters.iter().map(|(topic, letter)| (topic, letter));
        let now = self.clock.now();
        let request = store::settle(
            &self.log,
            &self.rotation,
            &cell.group,
            &batch.settlements,
            letters,
            now,
        )?;
        self.log.append(request)?.await?;
        Ok(())
    }

    /// Starts the writes that a group makes without a request: records that were delivered too often become dead
    /// letters, and the delivery counts of ended leases are written. Does not wait for them.
    pub(super) fn attend(&self, cell: &Arc<Cell>) {
        let (is_due, unsaved) = {
            let (now, core) = self.lock(cell);
            match &core.kind {
                Kind::Shared(work) if !core.is_closed() => (work.is_due(now), work.unsaved()),
                Kind::Ordered(_) | Kind::Shared(_) => return,
            }
        };
        if is_due {
            let (groups, cell) = (self.clone(), Arc::clone(cell));
            drop(tokio::spawn(async move {
                let Err(refusal) = groups.bury_exhausted(&cell).await else {
                    return;
                };
                tracing::warn!(
                    group = &*cell.group,
                    refusal = refusal.detail,
                    "records that were delivered too often wait for their dead letters"
                );
                let (now, mut core) = groups.lock(&cell);
                if let Some(work) = core.work() {
                    work.pause(now);
                    groups.coordinator.look_sooner(work.next_deadline());
                }
            }));
        }
        if !unsaved.is_empty() {
            drop(self.submit(cell, unsaved, Vec::new()));
        }
    }

    async fn bury_exhausted(&self, cell: &Arc<Cell>) -> Result<(), Refusal> {
        let begun: Vec<Burial> = {
            let (_, mut core) = self.lock(cell);
            if core.is_closed() || core.is_forgotten {
                return Ok(());
            }
            let Some(work) = core.work() else { return Ok(()) };
            let exhausted = work.exhausted(BURIED_AT_ONCE);
            let begin = |(id, offsets): (PartitionId, Vec<Offset>)| {
                let begun = work.queues.get_mut(&id)?.begin_dead_letter(None, offsets);
                Some(Burial {
                    partition: id,
                    change: begun.change?,
                    taken: begun.taken,
                    reasons: BTreeMap::new(),
                })
            };
            exhausted.into_iter().filter_map(begin).collect()
        };
        self.bury_all(cell, begun).await
    }

    /// Runs all burials, even if one fails; returns the first error.
    async fn bury_all(&self, cell: &Arc<Cell>, burials: Vec<Burial>) -> Result<(), Refusal> {
        let mut result = Ok(());
        for burial in burials {
            let buried = self.bury(cell, burial).await;
            result = result.and(buried);
        }
        result
    }

    /// Writes the dead letters of records whose settle has begun, and settles them. Unwritten ones are as before.
    async fn bury(&self, cell: &Arc<Cell>, burial: Burial) -> Result<(), Refusal> {
        let (id, change) = (burial.partition, burial.change);
        let undo = |offsets: Option<Vec<Offset>>| {
            let (_, mut core) = self.lock(cell);
            let queue = core.work().and_then(|work| work.queues.get_mut(&id));
            queue.is_some_and(|queue| match offsets {
                Some(offsets) => queue.undo_some(change, offsets),
                None => {
                    queue.undo(change);
                    false
                }
            })
        };
        let found = match self.find_letters(cell, burial).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Ok(())),
            Err(refusal) => Err(Err(refusal)),
        };
        let (topic, found) = match found {
            Ok(found) => found,
            Err(result) => {
                undo(None);
                return result;
            }
        };
        let result = found.error.map_or(Ok(()), |error| Err(error.into()));
        if !found.unread.is_empty() && !undo(Some(found.unread)) {
            return result;
        }
        let letters = found.letters.into_iter();
        let letters = letters.map(|letter| (Arc::clone(&topic), letter)).collect();
        self.write_changes(cell, vec![(id, Some(change))], letters)
            .await?;
        result
    }

    /// Reads the records of a burial, and finds the topic for their dead letters; `None` if the records' topic is gone.
    async fn find_letters(
        &self,
        cell: &Cell,
        burial: Burial,
    ) -> Result<Option<(Arc<Topic>, store::Found)>, Refusal> {
        let id = burial.partition;
        let name = self.log.topic_by_id(id.topic).and_then(|topic| {
            let (_, mut core) = self.lock(cell);
            Some(core.work()?.settings.dead_letter_topic_of(topic.name()))
        });
        let Some(name) = name else { return Ok(None) };
        let (groups, group) = (self.clone(), Arc::clone(&cell.group));
        let find = move || {
            let Some((topic, partition)) = groups.find_partition(id) else {
                return Ok(None);
            };
            let letters = store::dead_letter_topic(&groups.log, &groups.topics, &name)?;
            let origin = Origin {
                topic: topic.name(),
                partition: id.index,
                group: &group,
            };
            let reason = |offset: Offset, deliveries| {
                let given = burial.reasons.get(&offset).cloned();
                given.unwrap_or_else(|| delivered_too_often(deliveries))
            };
            let found = store::read_letters(
                &groups.log,
                &partition,
                origin,
                &burial.taken,
                reason,
                WRITE_BYTES,
            );
            Ok(Some((letters, found)))
        };
        self.blocking.attempt(Share::Read, find).await
    }

    /// Settles records that a member has leased. Returns those that are not (or no longer) leased to it, sorted.
    ///
    /// # Errors
    /// - [`Reason::UnknownMember`], [`Reason::UnknownTopic`], [`Reason::UnknownPartition`], [`Reason::GroupTypeMismatch`]:
    ///   nothing was done.
    /// - Those of an append: records whose settle was not written are leased as before; send the same settle again.
    pub async fn settle(&self, group: &str, member: &str, settling: Settling) -> Result<Vec<Place>, Refusal> {
        let cell = self.cell_of(group, member)?;
        let ids = self.find_named(&settling)?;
        let begun = {
            let (now, mut core) = self.lock(&cell);
            let touched = core.members.touch(member, None, now);
            touched.map_err(|error| refused(error, group, member))?;
            let key = core.members.get(member).map(|member| MemberKey(member.key()));
            let (Some(key), Some(work)) = (key, core.work()) else {
                return Err(Refusal::new(
                    Reason::GroupTypeMismatch,
                    format!("the group {group} is ordered: commit, or acknowledge by a poll"),
                ));
            };
            let begun = begin(work, key, now, settling, &ids);
            // The delay of a released record may end before every lease.
            self.coordinator.look_sooner(work.next_deadline());
            begun
        };
        let mut lost = begun.lost;
        let groups = self.clone();
        let task = tokio::spawn(async move {
            let accepted = groups.write_changes(&cell, begun.changes, Vec::new());
            let buried = groups.bury_all(&cell, begun.burials);
            let (accepted, buried) = tokio::join!(accepted, buried);
            groups.attend(&cell);
            accepted.and(buried)
        });
        task.await.unwrap_or_else(|_| Err(Refusal::stopping()))?;
        lost.sort_unstable();
        Ok(lost)
    }

    /// The partitions that a settle names.
    fn find_named(&self, settling: &Settling) -> Result<BTreeMap<(String, u32), PartitionId>, Refusal> {
        let mut ids = BTreeMap::new();
        let places = settling.accept.iter().chain(&settling.extend);
        let places = places.chain(settling.release.iter().map(|(place, _)| place));
        for place in places.chain(settling.reject.iter().map(|(place, _)| place)) {
            let key = (place.topic.clone(), place.partition);
            if let Entry::Vacant(entry) = ids.entry(key) {
                let topic = catalog::find(&self.log, &place.topic)?;
                let partition = topics::partition(&topic, place.partition)?;
                entry.insert(partition.id());
            }
        }
        Ok(ids)
    }

    /// Redrives up to `max_records` of a group's dead letters, see [`redrive::redrive`].
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`]; [`Reason::GroupTypeMismatch`]: the group is ordered; those of [`redrive::redrive`].
    pub async fn redrive(
        &self,
        group: &str,
        dead_letters: &str,
        max_records: u64,
    ) -> Result<Redriven, Refusal> {
        self.check_exists(group)?;
        if !matches!(self.value_of(group)?, Some(GroupValue::Shared(_))) {
            return Err(Refusal::new(
                Reason::GroupTypeMismatch,
                format!("the group {group} is ordered, and has no dead letters"),
            ));
        }
        // Held so that the group is not deleted meanwhile.
        let guard = self.commits().await;
        let (groups, group, dead_letters) = (self.clone(), group.to_owned(), dead_letters.to_owned());
        let send = move || {
            let _guard = guard;
            let _one_at_a_time = groups.redriving.lock();
            let (log, now) = (&groups.log, groups.clock.now());
            redrive::redrive(log, &groups.rotation, &group, &dead_letters, max_records, now)
        };
        self.blocking.attempt(Share::Change, send).await
    }
}

fn begin(
    work: &mut Work,
    key: MemberKey,
    now: u64,
    settling: Settling,
    ids: &BTreeMap<(String, u32), PartitionId>,
) -> Begun {
    let id_of = |place: &Place| ids[&(place.topic.clone(), place.partition)];
    let lease_ms = u64::from(work.settings.lease_ms);
    let mut begun = Begun::default();
    let accept = settling.accept.into_iter().map(|place| (place, ()));
    for named in by_partition(accept, id_of) {
        let offsets = named.offsets();
        let queue = work.queues.get_mut(&named.partition);
        let of_queue = queue.map(|queue| queue.begin_accept(key, offsets));
        let change = of_queue.as_ref().and_then(|of_queue| of_queue.change);
        begun
            .changes
            .extend(change.map(|change| (named.partition, Some(change))));
        let is_lost = |place: &Place| {
            of_queue
                .as_ref()
                .is_none_or(|of_queue| of_queue.lost.contains(&place.offset))
        };
        begun
            .lost
            .extend(named.places.into_iter().map(|(place, ())| place).filter(is_lost));
    }
    for named in by_partition(settling.reject.into_iter(), id_of) {
        let offsets = named.offsets();
        let Some(queue) = work.queues.get_mut(&named.partition) else {
            begun
                .lost
                .extend(named.places.into_iter().map(|(place, _)| place));
            continue;
        };
        let of_queue = queue.begin_dead_letter(Some(key), offsets);
        let mut reasons = BTreeMap::new();
        for (place, reason) in named.places {
            if of_queue.lost.contains(&place.offset) {
                begun.lost.push(place);
            } else {
                reasons.insert(place.offset, reason);
            }
        }
        begun.burials.extend(of_queue.change.map(|change| Burial {
            partition: named.partition,
            change,
            taken: of_queue.taken,
            reasons,
        }));
    }
    for (place, delay_ms) in settling.release {
        let id = id_of(&place);
        let queue = work.queues.get_mut(&id);
        match queue.map(|queue| queue.release(Moment(now), key, place.offset, delay_ms)) {
            Some(Released::Free | Released::Exhausted) => {
                // Without a change: this writes the delivery count.
                if !begun.changes.iter().any(|(known, _)| *known == id) {
                    begun.changes.push((id, None));
                }
            }
            Some(Released::Lost) | None => begun.lost.push(place),
        }
    }
    for place in settling.extend {
        let queue = work.queues.get_mut(&id_of(&place));
        if !queue.is_some_and(|queue| queue.extend(key, place.offset, Moment(now + lease_ms))) {
            begun.lost.push(place);
        }
    }
    work.free();
    begun
}

fn by_partition<T>(
    named: impl Iterator<Item = (Place, T)>,
    id_of: impl Fn(&Place) -> PartitionId,
) -> Vec<Named<T>> {
    let mut all: BTreeMap<PartitionId, Vec<(Place, T)>> = BTreeMap::new();
    for (place, with) in named {
        all.entry(id_of(&place)).or_default().push((place, with));
    }
    let named = |(partition, places)| Named { partition, places };
    all.into_iter().map(named).collect()
}
