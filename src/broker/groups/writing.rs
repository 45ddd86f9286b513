//! The writer of a shared group: it makes settles durable, and dead letters of records that were delivered too often.
//!
//! A group has one writer at a time. It takes all settles that wait, writes them in one append with their dead letters,
//! and answers the waiters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Groups;
use super::cell::{Cell, Kind};
use super::outputs::{Appending, Outgoing, Produced};
use super::shared::codec::Letter;
use super::shared::dead_letter::{Origin, delivered_too_often};
use super::shared::queue::ChangeId;
use super::shared::store;
use super::shared::work::{Batch, Changes, Letters, Pending, WRITE_BYTES};
use crate::broker::blocking::Share;
use crate::broker::engine::{Offset, PartitionId, Topic, TopicId};
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::json::ParsedRecord;

/// The most records of a partition that become dead letters at once because they were delivered too often.
const BURIED_AT_ONCE: usize = 256;

/// Records of one partition that are on their way to the dead letters.
pub(super) struct Burial {
    pub(super) partition: PartitionId,
    pub(super) change: ChangeId,
    /// The records, each with its delivery count.
    pub(super) taken: Vec<(Offset, u32)>,
    /// Those that were redriven, with the dead letters that they are read from.
    pub(super) letters: BTreeMap<Offset, Letter>,
    /// Why they are dead letters; a record without a reason was delivered too often.
    pub(super) reasons: BTreeMap<Offset, String>,
}

impl Groups {
    /// Has the group's writer write changes with their dead letters and outputs, and waits until they are durable.
    pub(super) async fn write_changes(
        &self,
        cell: &Arc<Cell>,
        changes: Changes,
        letters: Letters,
        outgoing: Option<Outgoing>,
    ) -> Result<Option<Produced>, Refusal> {
        if changes.is_empty() && outgoing.is_none() {
            return Ok(None);
        }
        let written = self.submit(cell, changes, letters, outgoing).await;
        written.unwrap_or_else(|_| Err(Refusal::stopping()))
    }

    /// Writes what a settle accepts and rejects, and its outputs, in one append.
    ///
    /// # Errors
    /// Those of reading the rejected records and of the append; [`Reason::RequestTooLarge`]: there are too many of them for
    /// one append. All records are as before.
    pub(super) async fn write_together(
        &self,
        cell: &Arc<Cell>,
        mut changes: Changes,
        burials: Vec<Burial>,
        outgoing: Outgoing,
    ) -> Result<Option<Produced>, Refusal> {
        changes.extend(
            burials
                .iter()
                .map(|burial| (burial.partition, Some(burial.change))),
        );
        let mut letters = Letters::new();
        for burial in burials {
            match self.find_letters(cell, burial).await {
                Ok(Some((topic, found, _))) if found.unread.is_empty() => {
                    let found = found.letters.into_iter();
                    letters.extend(found.map(|letter| (Arc::clone(&topic), letter)));
                }
                unfinished => {
                    self.undo_all(cell, &changes);
                    return Err(match unfinished {
                        Ok(Some((_, found, _))) => found.error.map_or_else(too_many_rejected, Refusal::from),
                        Ok(None) => Refusal::new(Reason::UnknownTopic, "the topic was deleted meanwhile"),
                        Err(refusal) => refusal,
                    });
                }
            }
        }
        self.write_changes(cell, changes, letters, Some(outgoing)).await
    }

    /// Undoes changes that were not written.
    fn undo_all(&self, cell: &Cell, changes: &Changes) {
        let (_, mut core) = self.lock(cell);
        let Some(work) = core.work() else { return };
        for (id, change) in changes {
            if let (Some(queue), Some(change)) = (work.queues.get_mut(id), change) {
                queue.undo(*change);
            }
        }
        work.free();
        drop(core);
        // Calls that name the same records wait for the result.
        cell.written.notify_waiters();
    }

    /// The most dead letters and outputs in one append, in bytes, unless one alone has more. The rest of the largest request
    /// is for what comes with them.
    fn write_bytes(&self) -> usize {
        WRITE_BYTES.min(self.log.max_request_bytes() / 2)
    }

    /// Queues changes for the group's writer. They are written even if the caller does not wait for the answer.
    fn submit(
        &self,
        cell: &Arc<Cell>,
        changes: Changes,
        mut letters: Letters,
        outgoing: Option<Outgoing>,
    ) -> oneshot::Receiver<Result<Option<Produced>, Refusal>> {
        let (done, answer) = oneshot::channel();
        for (topic, letter) in &mut letters {
            self.seals.seal(topic.id(), letter);
        }
        let of_letters = letters.iter().map(|(_, letter)| letter.bytes());
        let pending = Pending {
            bytes: of_letters.sum::<usize>() + outgoing.as_ref().map_or(0, Outgoing::bytes),
            changes,
            letters,
            outgoing,
            done,
        };
        let starts = {
            let (_, mut core) = self.lock(cell);
            // During and after a change from outside, unwritten changes are out of date.
            if !core.is_writable() {
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
            let (batch, is_closed) = {
                let (_, mut core) = self.lock(&cell);
                (
                    core.work().and_then(|work| work.next_batch(self.write_bytes())),
                    core.is_closed(),
                )
            };
            let Some(mut batch) = batch else {
                if is_closed {
                    // A reset waits for this.
                    cell.written.notify_waiters();
                }
                return;
            };
            let result = self.write_batch(&cell, &mut batch).await;
            let partitions = || batch.settlements.iter().map(|settlement| settlement.partition);
            if let Some(work) = self.lock(&cell).1.work() {
                work.end_batch(partitions(), result.is_ok());
            }
            cell.written.notify_waiters();
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
            for (index, (done, _)) in batch.calls.into_iter().enumerate() {
                let result = result.as_ref().map(|produced| produced.get(&index).cloned());
                // The caller may have gone away.
                let _ = done.send(result.map_err(Refusal::clone));
            }
        }
    }

    /// Writes a batch. Returns where the outputs of its calls lie, by the places of the calls.
    async fn write_batch(
        &self,
        cell: &Cell,
        batch: &mut Batch,
    ) -> Result<BTreeMap<usize, Produced>, Refusal> {
        let letters = batch.letters.iter().map(|(topic, letter)| (topic, letter));
        let now = self.clock.now();
        let mut request = store::settle(
            &self.log,
            &self.rotation,
            &cell.group,
            &batch.settlements,
            letters,
            now,
        )?;
        let mut appending = Appending::default();
        let mut with_outputs = Vec::new();
        for (index, (_, outgoing)) in batch.calls.iter_mut().enumerate() {
            if let Some(outgoing) = outgoing.take() {
                appending.add(&mut request, &self.log, &cell.group, outgoing, now)?;
                with_outputs.push(index);
            }
        }
        let keeps = (!batch.letters.is_empty())
            .then(|| self.seals.to_keep())
            .flatten();
        let is_kept = keeps.is_some();
        request.state.extend(keeps);
        let appended = self.log.append(request)?.await?;
        if is_kept {
            self.seals.kept();
        }
        let produced = appending.appended(self, &appended.base_offsets, now);
        Ok(with_outputs.into_iter().zip(produced).collect())
    }

    /// Starts the writes that a group makes without a request: records that were delivered too often become dead
    /// letters, and the delivery counts of ended leases are written; in an ordered group, what does not match its filter is
    /// committed; in a classic group, the members that are left are stored. Does not wait for them.
    pub(super) fn attend(&self, cell: &Arc<Cell>) {
        let (is_due, unsaved) = {
            let (now, core) = self.lock(cell);
            match &core.kind {
                Kind::Shared(work) if !core.is_closed() => (work.is_due(now), work.unsaved()),
                Kind::Shared(_) => return,
                Kind::Classic(_) => {
                    drop(core);
                    return self.save_classic(cell);
                }
                Kind::Ordered(_) => {
                    drop(core);
                    return self.commit_passed(cell);
                }
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
                    groups.coordinator.look_sooner(work.next_deadline(groups.now()));
                }
            }));
        }
        if !unsaved.is_empty() {
            drop(self.submit(cell, unsaved, Vec::new(), None));
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
                let queue = work.queues.get_mut(&id)?;
                let begun = queue.begin_burial(offsets);
                Some(Burial {
                    partition: id,
                    change: begun.change?,
                    letters: queue.letters_of(&begun.taken),
                    taken: begun.taken,
                    reasons: BTreeMap::new(),
                })
            };
            exhausted.into_iter().filter_map(begin).collect()
        };
        self.bury_all(cell, begun).await
    }

    /// Runs all burials, even if one fails; returns the first error.
    pub(super) async fn bury_all(&self, cell: &Arc<Cell>, burials: Vec<Burial>) -> Result<(), Refusal> {
        let mut result = Ok(());
        for burial in burials {
            let buried = self.bury(cell, burial).await;
            result = result.and(buried);
        }
        result
    }

    /// Writes the dead letters of records whose settle has begun, and settles them: in several appends, if they are too
    /// large for one. Unwritten ones are as before.
    async fn bury(&self, cell: &Arc<Cell>, mut burial: Burial) -> Result<(), Refusal> {
        let id = burial.partition;
        let undo = |change| self.undo_all(cell, &vec![(id, Some(change))]);
        loop {
            let change = burial.change;
            let (topic, found);
            (topic, found, burial) = match self.find_letters(cell, burial).await {
                Ok(Some(found)) => found,
                nothing => {
                    undo(change);
                    return nothing.map(drop);
                }
            };
            if found.letters.is_empty() && found.missing.is_empty() {
                undo(change);
                return found.error.map_or(Ok(()), |error| Err(error.into()));
            }
            let rest = self.split_off(cell, id, change, &found.unread);
            let letters = found.letters.into_iter();
            let letters = letters.map(|letter| (Arc::clone(&topic), letter)).collect();
            let written = self
                .write_changes(cell, vec![(id, Some(change))], letters, None)
                .await;
            let result = found.error.map_or(Ok(()), |error| Err(error.into()));
            let result = written.and(result);
            match (rest, result) {
                (None, result) => return result,
                (Some(rest), Ok(())) => {
                    burial.change = rest;
                    let unread: BTreeSet<Offset> = found.unread.into_iter().collect();
                    burial.taken.retain(|(offset, _)| unread.contains(offset));
                }
                (Some(rest), Err(refusal)) => {
                    undo(rest);
                    return Err(refusal);
                }
            }
        }
    }

    /// Moves offsets of a change into one of their own; `None`: it has none of them.
    fn split_off(
        &self,
        cell: &Cell,
        id: PartitionId,
        change: ChangeId,
        offsets: &[Offset],
    ) -> Option<ChangeId> {
        let (_, mut core) = self.lock(cell);
        let queue = core.work()?.queues.get_mut(&id)?;
        queue.split_off(change, offsets.iter().copied())
    }

    /// Reads the records of a burial, and finds the topic for their dead letters; `None` if the records' topic is gone.
    async fn find_letters(
        &self,
        cell: &Cell,
        burial: Burial,
    ) -> Result<Option<(Arc<Topic>, store::Found, Burial)>, Refusal> {
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
                topic_id: id.topic,
                partition: id.index,
                group: &group,
                died_at: groups.clock.now(),
                redriven: 0,
            };
            let reason = |offset: Offset, deliveries| {
                let given = burial.reasons.get(&offset).cloned();
                given.unwrap_or_else(|| delivered_too_often(deliveries))
            };
            let (returned, own): (Vec<_>, Vec<_>) = burial
                .taken
                .iter()
                .copied()
                .partition(|(offset, _)| burial.letters.contains_key(offset));
            let most = groups.write_bytes();
            let mut found = store::read_letters(&groups.log, &partition, origin, &own, reason, most);
            let mut bytes = bytes_of(&found.letters);
            let mut is_full = !found.unread.is_empty();
            for (offset, deliveries) in returned {
                if is_full {
                    found.unread.push(offset);
                    continue;
                }
                let letter = burial.letters[&offset];
                let origin = Origin {
                    redriven: letter.redriven,
                    ..origin
                };
                let reason = reason(offset, deliveries);
                let before = found.letters.len();
                found.add_returned(&groups.log, letter, offset, origin, deliveries, &reason);
                bytes += bytes_of(&found.letters[before..]);
                if bytes > most && before > 0 {
                    is_full = true;
                    found.letters.truncate(before);
                    found.unread.push(offset);
                }
            }
            Ok(Some((letters, found, burial)))
        };
        self.blocking.attempt(Share::Read, find).await
    }
}

fn bytes_of(letters: &[ParsedRecord<'_>]) -> usize {
    letters.iter().map(ParsedRecord::bytes).sum()
}

fn too_many_rejected() -> Refusal {
    let detail =
        "the rejected records are too large for one append with outputs: reject fewer of them in this call";
    Refusal::new(Reason::RequestTooLarge, detail)
}
