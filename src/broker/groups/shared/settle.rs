//! What comes of leases: accepted, released, rejected, extended, and what was delivered too often.
//!
//! A settle begins under the lock of the group's cell and is written by the group's writer, in one append with its dead
//! letters. From the moment it begins it runs to its end in a task of its own: a client that goes away leaves nothing half
//! settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::dead_letter::{Origin, delivered_too_often};
use super::members::find;
use super::queue::{ChangeId, MemberKey, Moment, PollNumber, Released};
use super::store;
use super::work::{Pending, WRITE_BYTES, Work};
use crate::broker::Broker;
use crate::broker::blocking::Work as Blocking;
use crate::broker::engine::{Offset, PartitionId, Topic};
use crate::broker::groups::append;
use crate::broker::groups::coordinator::Cell;
use crate::broker::groups::members::{now_ms, refused, unknown_member};
use crate::broker::groups::poll_id::PollId;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::catalog;
use crate::formats::json::ParsedRecord;

/// Dead letters that are made at once of what was delivered too often, by partition.
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

/// What is to be done with leased records.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    /// Done with.
    pub accept: Vec<Place>,
    /// To be delivered again, after so many milliseconds.
    pub release: Vec<(Place, u64)>,
    /// To the dead letters, for this reason.
    pub reject: Vec<(Place, String)>,
    /// Leased for longer.
    pub extend: Vec<Place>,
}

/// Records of one partition that are on their way to the dead letters.
struct Burial {
    partition: PartitionId,
    change: ChangeId,
    /// With how often each was delivered.
    taken: Vec<(Offset, u32)>,
    /// Why; without one, because it was delivered too often.
    reasons: BTreeMap<Offset, String>,
}

/// What a settle names of one partition.
struct Named<T> {
    partition: PartitionId,
    places: Vec<(Place, T)>,
}

impl<T> Named<T> {
    /// The offsets, in order and each once.
    fn offsets(&self) -> Vec<Offset> {
        let mut offsets: Vec<Offset> = self.places.iter().map(|(place, _)| place.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}

/// What a settle has begun.
#[derive(Default)]
struct Begun {
    changes: Vec<(PartitionId, Option<ChangeId>)>,
    burials: Vec<Burial>,
    lost: Vec<Place>,
}

/// Accepts what the answer named by `ack` delivered and its member still has; nothing of one from before a restart, when
/// other numbers were given.
///
/// # Errors
/// What the write meets: nothing is settled.
pub(in crate::broker::groups) async fn acknowledge(
    broker: &Broker,
    cell: &Arc<Cell>,
    member: MemberKey,
    ack: &PollId,
) -> Result<(), Refusal> {
    if ack.life != broker.groups.coordinator.life() {
        return Ok(());
    }
    accept_all(broker, cell, member, PollNumber(ack.number)).await
}

/// Settles all that a poll delivered and its member still has.
async fn accept_all(
    broker: &Broker,
    cell: &Arc<Cell>,
    member: MemberKey,
    poll: PollNumber,
) -> Result<(), Refusal> {
    let mut changes = Vec::new();
    {
        let mut core = broker.groups.coordinator.lock(cell, now_ms(broker));
        if let Some(work) = &mut core.work {
            for (id, queue) in work
                .queues
                .iter_mut()
                .filter(|(_, queue)| queue.held_by(member, poll) > 0)
            {
                changes.extend(
                    queue
                        .begin_ack(member, poll)
                        .change
                        .map(|change| (*id, Some(change))),
                );
            }
        }
    }
    write(broker, cell, changes, Vec::new()).await
}

/// Has changes written, with the dead letters that belong to them, and waits until that is durable.
async fn write(
    broker: &Broker,
    cell: &Arc<Cell>,
    changes: Vec<(PartitionId, Option<ChangeId>)>,
    letters: Vec<(Arc<Topic>, ParsedRecord<'static>)>,
) -> Result<(), Refusal> {
    if changes.is_empty() {
        return Ok(());
    }
    submit(broker, cell, changes, letters)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(Reason::ShuttingDown, "the server is stopping")))
}

/// Queues changes to be written; whoever waits for the answer may go away.
fn submit(
    broker: &Broker,
    cell: &Arc<Cell>,
    changes: Vec<(PartitionId, Option<ChangeId>)>,
    letters: Vec<(Arc<Topic>, ParsedRecord<'static>)>,
) -> oneshot::Receiver<Result<(), Refusal>> {
    let (done, answer) = oneshot::channel();
    let size =
        |bytes: &Option<std::borrow::Cow<'static, [u8]>>| bytes.as_ref().map_or(0, |bytes| bytes.len());
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
        let mut core = broker.groups.coordinator.lock(cell, now_ms(broker));
        // Where somebody else changes what is committed, or has, there are no members, and what is left to be written is
        // out of date.
        if core.is_closed() || core.is_forgotten() {
            return answer;
        }
        core.work.as_mut().is_some_and(|work| work.submit(pending))
    };
    if starts {
        drop(tokio::spawn(run_writer(broker.clone(), Arc::clone(cell))));
    }
    answer
}

/// Writes what waits, until nothing does.
async fn run_writer(broker: Broker, cell: Arc<Cell>) {
    let coordinator = &broker.groups.coordinator;
    loop {
        // From before it is decided until it is durable, as all commits.
        let guard = broker.groups.commits().await;
        let batch = {
            let mut core = coordinator.lock(&cell, now_ms(&broker));
            core.work.as_mut().and_then(super::work::Work::next_batch)
        };
        let Some(batch) = batch else { return };
        let letters = batch.letters.iter().map(|(topic, letter)| (topic, letter));
        let request = store::settle(
            &broker.log,
            &broker.rotation,
            &cell.group,
            &batch.settlements,
            letters,
            broker.clock.now(),
        );
        let result = match request {
            Ok(request) => match broker.log.append(request) {
                Ok(ticket) => ticket.await.map(drop).map_err(Refusal::from),
                Err(error) => Err(error.into()),
            },
            Err(refusal) => Err(refusal),
        };
        {
            let mut core = coordinator.lock(&cell, now_ms(&broker));
            if let Some(work) = &mut core.work {
                work.end_batch(
                    batch.settlements.iter().map(|settlement| settlement.partition),
                    result.is_ok(),
                );
            }
        }
        if let Err(refusal) = &result {
            tracing::warn!(
                group = &*cell.group,
                refusal = refusal.detail,
                "what members settled could not be written: they are told"
            );
        }
        remove_orphans(&broker, &batch.settlements).await;
        drop(guard);
        for done in batch.done {
            // Whoever asked may have gone away.
            let _ = done.send(result.clone());
        }
    }
}

/// A topic that was deleted meanwhile took the group's state with it; what came after would never be removed.
async fn remove_orphans(broker: &Broker, settlements: &[store::Settlement]) {
    for settlement in settlements {
        let topic = settlement.partition.topic;
        if broker.log.topic_by_id(topic).is_none()
            && let Err(error) = append(
                &broker.log,
                crate::broker::groups::changes_for_deleted_topic(&broker.log, topic),
            )
            .await
        {
            tracing::warn!(%error, "what groups knew of a deleted topic stays until it is written over");
        }
    }
}

/// Has what was delivered too often dead-lettered, and what ended by itself written; does not wait for it.
pub(crate) fn attend(broker: &Broker, cell: &Arc<Cell>) {
    let now = now_ms(broker);
    let (is_due, unsaved) = {
        let core = broker.groups.coordinator.lock(cell, now);
        let Some(work) = core.work.as_ref().filter(|_| !core.is_closed()) else {
            return;
        };
        (work.is_due(now), work.unsaved())
    };
    if is_due {
        let (broker, cell) = (broker.clone(), Arc::clone(cell));
        drop(tokio::spawn(async move {
            if let Err(refusal) = bury_exhausted(&broker, &cell).await {
                tracing::warn!(
                    group = &*cell.group,
                    refusal = refusal.detail,
                    "records that were delivered too often wait for their dead letters"
                );
                let now = now_ms(&broker);
                let mut core = broker.groups.coordinator.lock(&cell, now);
                if let Some(work) = &mut core.work {
                    work.pause(now);
                    broker.groups.coordinator.look_sooner(work.next_deadline());
                }
            }
        }));
    }
    if !unsaved.is_empty() {
        drop(submit(broker, cell, unsaved, Vec::new()));
    }
}

async fn bury_exhausted(broker: &Broker, cell: &Arc<Cell>) -> Result<(), Refusal> {
    let begun: Vec<Burial> = {
        let mut core = broker.groups.coordinator.lock(cell, now_ms(broker));
        if core.is_closed() || core.is_forgotten() {
            return Ok(());
        }
        let Some(work) = &mut core.work else { return Ok(()) };
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
    bury_all(broker, cell, begun).await
}

/// Buries all of them, whatever becomes of one; the first error is the answer.
async fn bury_all(broker: &Broker, cell: &Arc<Cell>, burials: Vec<Burial>) -> Result<(), Refusal> {
    let mut result = Ok(());
    for burial in burials {
        let buried = bury(broker, cell, burial).await;
        result = result.and(buried);
    }
    result
}

/// Writes dead letters of records that have begun to settle, and settles them. On an error they are what they were.
async fn bury(broker: &Broker, cell: &Arc<Cell>, burial: Burial) -> Result<(), Refusal> {
    let Burial {
        partition: id,
        change,
        taken,
        reasons,
    } = burial;
    let reason = move |offset: Offset, deliveries| {
        let given = reasons.get(&offset).cloned();
        given.unwrap_or_else(|| delivered_too_often(deliveries))
    };
    let undo = |offsets: Option<Vec<Offset>>| {
        let mut core = broker.groups.coordinator.lock(cell, now_ms(broker));
        let queue = core.work.as_mut().and_then(|work| work.queues.get_mut(&id));
        queue.is_some_and(|queue| match offsets {
            Some(offsets) => queue.undo_some(change, offsets),
            None => {
                queue.undo(change);
                false
            }
        })
    };
    let name = {
        let core = broker.groups.coordinator.lock(cell, now_ms(broker));
        let topic = broker.log.topic_by_id(id.topic);
        topic
            .zip(core.work.as_ref())
            .map(|(topic, work)| work.settings.dead_letter_topic_of(topic.name()))
    };
    let Some(name) = name else {
        undo(None);
        return Ok(());
    };
    let found = {
        let (broker, group) = (broker.clone(), Arc::clone(&cell.group));
        broker
            .blocking
            .clone()
            .attempt(Blocking::Read, move || {
                let Some((topic, partition)) = find(&broker.log, id) else {
                    return Ok(None);
                };
                let is_new = broker.log.topic(&name).is_none();
                let letters = store::dead_letter_topic(&broker.log, &broker.limits, &name)?;
                if is_new {
                    broker.groups.coordinator.topics_changed();
                }
                let origin = Origin {
                    topic: topic.name(),
                    partition: id.index,
                    group: &group,
                };
                let found = store::read_letters(&broker.log, &partition, origin, &taken, reason, WRITE_BYTES);
                Ok(Some((letters, found)))
            })
            .await
    };
    let (topic, found) = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            undo(None);
            return Ok(());
        }
        Err(refusal) => {
            undo(None);
            return Err(refusal);
        }
    };
    let unread = found.unread.len();
    if unread > 0 && !undo(Some(found.unread)) {
        return match found.error {
            Some(error) => Err(error.into()),
            None => Ok(()),
        };
    }
    let letters = found
        .letters
        .into_iter()
        .map(|letter| (Arc::clone(&topic), letter))
        .collect();
    write(broker, cell, vec![(id, Some(change))], letters).await?;
    match found.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Settles what a member has leased. Returns what was not its (any more).
///
/// # Errors
/// 404 `unknown-member`, `unknown-topic`, `unknown-partition`, 409 `group-type-mismatch`: nothing was done. What the log says
/// otherwise: what could not be written is leased as before, and the same settle may be sent again.
pub async fn settle(
    broker: &Broker,
    group: &str,
    member: &str,
    settling: Settling,
) -> Result<Vec<Place>, Refusal> {
    let cell = broker
        .groups
        .coordinator
        .find(group)
        .ok_or_else(|| unknown_member(group, member))?;
    let ids = find_partitions(broker, &settling)?;
    let begun = {
        let now = now_ms(broker);
        let mut core = broker.groups.coordinator.lock(&cell, now);
        core.ordered
            .touch(member, None, now)
            .map_err(|error| refused(error, group, member))?;
        let key = core
            .ordered
            .members
            .get(member)
            .map(|member| MemberKey(member.key()));
        let (Some(key), Some(work)) = (key, core.work.as_mut()) else {
            return Err(Refusal::new(
                Reason::GroupTypeMismatch,
                format!("the group {group} is ordered: commit, or acknowledge by a poll"),
            ));
        };
        let begun = begin(work, key, now, settling, &ids);
        // A delay may be over sooner than all leases.
        broker.groups.coordinator.look_sooner(work.next_deadline());
        begun
    };
    let mut lost = begun.lost;
    let task = {
        let broker = broker.clone();
        tokio::spawn(async move {
            let accepted = write(&broker, &cell, begun.changes, Vec::new());
            let buried = bury_all(&broker, &cell, begun.burials);
            let (accepted, buried) = tokio::join!(accepted, buried);
            attend(&broker, &cell);
            accepted.and(buried)
        })
    };
    match task.await {
        Ok(settled) => settled?,
        Err(_) => return Err(Refusal::new(Reason::ShuttingDown, "the server is stopping")),
    }
    lost.sort_unstable();
    Ok(lost)
}

/// The partitions that a settle names.
fn find_partitions(
    broker: &Broker,
    settling: &Settling,
) -> Result<BTreeMap<(String, u32), PartitionId>, Refusal> {
    let mut ids = BTreeMap::new();
    let places = settling.accept.iter().chain(&settling.extend);
    let places = places.chain(settling.release.iter().map(|(place, _)| place));
    for place in places.chain(settling.reject.iter().map(|(place, _)| place)) {
        let key = (place.topic.clone(), place.partition);
        if let std::collections::btree_map::Entry::Vacant(entry) = ids.entry(key) {
            let topic = catalog::find(&broker.log, &place.topic)?;
            let partition = topic.partition(place.partition).ok_or_else(|| {
                let detail = format!("{} has no partition {}", place.topic, place.partition);
                Refusal::new(Reason::UnknownPartition, detail)
            })?;
            entry.insert(partition.id());
        }
    }
    Ok(ids)
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
                // How often it was delivered is written.
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
    work.freed.notify_waiters();
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
