//! Commits of members of ordered groups: by offset, and by acknowledging an answer, with outputs or without.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::cell::Cell;
use super::members::Refused;
use super::membership::refused;
use super::offsets::{self, Committed};
use super::outputs::{Outgoing, Outputs, Produced};
use super::outside::NamedCommit;
use super::outside::check_named;
use super::repeats::{self, Identity};
use super::shared::settings::GroupValue;
use super::{Commit, Groups, Subscribed};
use crate::broker::caller::Caller;
use crate::broker::engine::{Log, Offset, PartitionId};
use crate::broker::refusal::{Place, Refusal};
use crate::broker::rights::Right;

/// Commits of a member that have begun in the group's memory.
#[derive(Default)]
pub(super) struct BegunCommits {
    offsets: Vec<(PartitionId, Offset)>,
    /// The metadata that the member sends with some of them.
    metadata: BTreeMap<PartitionId, String>,
    /// The member named the offsets.
    is_finer: bool,
}

impl BegunCommits {
    /// By the `ack` of an answer.
    pub(super) fn of_ack(offsets: Vec<(PartitionId, Offset)>) -> Self {
        Self {
            offsets,
            ..Self::default()
        }
    }
}

impl Groups {
    /// Commits offsets for a member, and returns the committed offsets of these partitions, in the same order. A committed
    /// offset never goes back, so the returned one may be higher than the requested one. `outputs` are appended with the
    /// commit.
    ///
    /// # Errors
    /// Those of [`Groups::check_commits`], [`Reason::UnknownMember`], [`Reason::Fenced`], [`Reason::MemberSuperseded`],
    /// [`Reason::GroupActive`] (members of Kafka's classic protocol): nothing was committed. Those of a commit. With outputs, [`Reason::Fenced`] also for offsets that are committed
    /// already, or that this member was not delivered.
    ///
    /// [`Reason::GroupActive`]: crate::broker::refusal::Reason::GroupActive
    /// [`Reason::UnknownMember`]: crate::broker::refusal::Reason::UnknownMember
    /// [`Reason::Fenced`]: crate::broker::refusal::Reason::Fenced
    /// [`Reason::MemberSuperseded`]: crate::broker::refusal::Reason::MemberSuperseded
    pub async fn commit_as(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        (epoch, instance): (u64, Option<&str>),
        offsets: &[NamedCommit],
        mut outputs: Option<Outputs>,
    ) -> Result<(Vec<Offset>, Option<Produced>), Refusal> {
        caller.check_group(&[Right::Read], group)?;
        check_named(caller, offsets)?;
        self.refuse_classic(group)?;
        let commits = self.check_commits(offsets)?;
        let identity = || {
            let places = commits.iter().map(|commit| (0, commit.partition, commit.offset));
            repeats::of_places(b"commit", places)
        };
        let identity = outputs.as_ref().map(|_| identity());
        let replayed = |identity: &Identity| {
            let is_in =
                |commit: &Commit| committed_offset(&self.log, group, commit.partition) >= Some(commit.offset);
            if !commits.iter().all(is_in) {
                // The group was set back since: this is another commit.
                return None;
            }
            let produced = self.recall(group, member, identity)?;
            let offset = |commit: &Commit| {
                committed_offset(&self.log, group, commit.partition).unwrap_or(commit.offset)
            };
            Some((commits.iter().map(offset).collect(), Some(produced)))
        };
        if let Some(answer) = identity.as_ref().and_then(replayed) {
            return Ok(answer);
        }
        let acknowledges = !commits.is_empty();
        let nothing = Outputs::without_input(&mut outputs, acknowledges)?;
        // The commit may be the repetition of one that runs.
        let order = self.turn_of(group, member).await?;
        if let Some(answer) = identity.as_ref().and_then(replayed) {
            return Ok(answer);
        }
        let outgoing = outputs.zip(identity);
        let outgoing =
            outgoing.map(|(outputs, identity)| Outgoing::of(self, outputs, group, member, identity));
        let outgoing = outgoing.transpose()?;
        let offsets: Vec<(PartitionId, Offset)> = commits
            .iter()
            .map(|commit| (commit.partition, commit.offset))
            .collect();
        let metadata = commits
            .into_iter()
            .filter_map(|commit| Some((commit.partition, commit.metadata?)))
            .collect();
        let refusal = |error| refused(error, group, member);
        let cell = self.cell_of(group, member)?;
        let news = {
            let (now, mut core) = self.lock(&cell);
            core.check_polls(member).map_err(refusal)?;
            core.members.check_instance(member, instance).map_err(refusal)?;
            core.members.touch(member, Some(epoch), now).map_err(refusal)?;
            let mut news = offsets.clone();
            if let Some((ordered, _)) = core.ordered() {
                let held = ordered.check_held(member, offsets.iter().map(|(id, _)| *id));
                held.map_err(refusal)?;
                if outgoing.is_some() {
                    let unfit = ordered.unfit_for_commit_outputs(member, &offsets);
                    if !unfit.is_empty() {
                        return Err(self.fenced(group, member, &unfit));
                    }
                }
                news.retain(|(id, offset)| ordered.committed(*id).is_none_or(|before| before <= *offset));
                ordered.begin_commit(&news);
            } else if !offsets.is_empty() {
                // Members of a shared group have no partitions.
                return Err(refusal(Refused::Fenced));
            }
            news
        };
        let begun = BegunCommits {
            offsets: news,
            metadata,
            is_finer: true,
        };
        let produced = self.commit_for(&cell, order, begun, outgoing).await?;
        let (_, mut core) = self.lock(&cell);
        let committed = |id| core.ordered().and_then(|(ordered, _)| ordered.committed(id));
        let mut committed = committed;
        let now = offsets
            .iter()
            .map(|(id, offset)| committed(*id).unwrap_or(*offset));
        Ok((now.collect(), produced.or(nothing)))
    }

    /// Waits for a member's turn to commit: a member's commits run one at a time, in the order in which they begin.
    pub(super) async fn turn_of(&self, group: &str, member: &str) -> Result<OwnedMutexGuard<()>, Refusal> {
        let find = || {
            let cell = self.cell_of(group, member)?;
            let (_, core) = self.lock(&cell);
            let order = core.order_of(member);
            order.ok_or_else(|| refused(Refused::Unknown, group, member))
        };
        loop {
            let order = find()?;
            let turn = Arc::clone(&order).lock_owned().await;
            // The member may have left and joined again meanwhile.
            if Arc::ptr_eq(&order, &find()?) {
                return Ok(turn);
            }
        }
    }

    /// Makes a member's commits durable, with the outputs that go with them, then updates the group in memory. Runs to
    /// its end even if the caller is dropped.
    pub(super) async fn commit_for(
        &self,
        cell: &Arc<Cell>,
        order: OwnedMutexGuard<()>,
        begun: BegunCommits,
        outgoing: Option<Outgoing>,
    ) -> Result<Option<Produced>, Refusal> {
        if begun.offsets.is_empty() && outgoing.is_none() {
            return Ok(None);
        }
        let (groups, cell) = (self.clone(), Arc::clone(cell));
        let task = tokio::spawn(async move {
            let guard = groups.commits().await;
            let mut metadata = begun.metadata;
            let change = |&(partition, offset): &(PartitionId, Offset)| Commit {
                partition,
                offset,
                leader_epoch: None,
                metadata: metadata.remove(&partition),
            };
            let changes = begun.offsets.iter().map(change).collect();
            let result = match outgoing {
                Some(outgoing) => groups.commit_with(&cell.group, changes, outgoing).await.map(Some),
                None => {
                    let nothing = Subscribed::default();
                    let ordered = GroupValue::default();
                    let written = groups.write(&cell.group, &ordered, &nothing, changes);
                    written.await.map(|()| None).map_err(Refusal::from)
                }
            };
            let is_closed = {
                let (_, mut core) = groups.lock(&cell);
                if let Some((ordered, members)) = core.ordered() {
                    ordered.end_commit(members, &begun.offsets, result.is_ok(), begun.is_finer);
                }
                core.is_closed()
            };
            if is_closed {
                // A reset waits for this.
                cell.written.notify_waiters();
            }
            drop((guard, order));
            result
        });
        task.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }

    /// Refuses a call with outputs: it cannot acknowledge all of what it names.
    pub(super) fn fenced(&self, group: &str, member: &str, lost: &[PartitionId]) -> Refusal {
        let place = |(topic, partition): (Arc<str>, u32)| Place {
            topic: topic.to_string(),
            partition,
            offset: None,
        };
        let lost = self.named(lost).into_iter().map(place).collect();
        super::outputs::fenced(group, member, [("lost", lost)])
    }
}

pub(super) fn committed_offset(log: &Log, group: &str, id: PartitionId) -> Option<Offset> {
    let value = log.state_get(&offsets::offset_key(group, id))?;
    Some(Committed::decode(&value).ok()?.offset)
}
