//! Changes of a group that none of its members makes: commits, and the deletion. Resets are in [`super::reset`].
//!
//! Each keeps members and other changes out from before its checks until it is durable, so what it decided by still
//! holds when it takes effect.

use std::collections::BTreeSet;

use super::commit::committed_offset;
use super::subscriptions::pattern_of_key;
use super::{Commit, Groups, MAX_METADATA_BYTES, Outside, append, audited, finish, keys_of_group};
use crate::broker::caller::{Caller, Shown};
use crate::broker::engine::{Offset, StateChange};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::state_keys::topic_of;
use crate::broker::topics::{self, catalog};

/// An offset to commit, in a partition by its names.
#[derive(Clone, Debug)]
pub struct NamedCommit {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The next record to read; at most the partition's end offset.
    pub offset: u64,
    /// What the consumer stores with it, at most [`MAX_METADATA_BYTES`].
    pub metadata: Option<String>,
}

/// Refuses commits in topics that the caller may not read.
pub(super) fn check_named(caller: &Caller, offsets: &[NamedCommit]) -> Result<(), Refusal> {
    for (i, row) in offsets.iter().enumerate() {
        let checked = caller.check_topic(Right::Read, &row.topic);
        checked.map_err(|refusal| refusal.at(format!("/offsets/{i}/topic")))?;
    }
    Ok(())
}

/// Notes in the log that somebody who is no member has moved offsets of a group back, or withdrawn them: consumers do not.
/// Those that go on are their daily work.
pub(super) fn tell_moved_back(caller: &Caller, group: &str, partitions: usize) {
    if partitions > 0 {
        tracing::info!(
            request_id = %caller.request_id,
            address = caller.address.map(|address| tracing::field::display(Shown(address))),
            principal = caller.principal().map(|name| &**name),
            group,
            partitions,
            "committed offsets were moved back by a commit from outside the group"
        );
    }
}

fn has_members(group: &str) -> Refusal {
    let detail = format!(
        "the group {group} has live members: have them leave, or wait until their sessions end; a reset also takes while_active"
    );
    Refusal::new(Reason::GroupActive, detail)
}

impl Groups {
    /// Commits offsets for a group without members, all or none, and creates the group if it does not exist.
    ///
    /// # Errors
    /// [`Reason::GroupActive`]; those of [`Groups::check_commits`]: nothing was committed. Those of [`Groups::commit`].
    pub async fn commit_outside(
        &self,
        caller: &Caller,
        group: &str,
        offsets: &[NamedCommit],
    ) -> Result<(), Refusal> {
        caller.check_group(&[Right::Write], group)?;
        check_named(caller, offsets)?;
        let guard = |groups: Self| async move { groups.commits().await };
        let (guard, outside) = self.guarded_outside(group, guard).await;
        let outside = outside.ok_or_else(|| has_members(group))?;
        let commits = self.check_commits(offsets)?;
        let moved_back = self.moved_back(group, &commits);
        self.commit((guard, outside), group, commits).await?;
        tell_moved_back(caller, group, moved_back);
        Ok(())
    }

    /// How many of these commits lower an offset.
    pub(super) fn moved_back(&self, group: &str, commits: &[Commit]) -> usize {
        let is_lower = |commit: &&Commit| {
            committed_offset(&self.log, group, commit.partition).is_some_and(|before| commit.offset < before)
        };
        commits.iter().filter(is_lower).count()
    }

    /// Deletes a group without members, with everything it committed; durable when this returns.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`], [`Reason::GroupActive`]: nothing was changed. Those of [`Groups::commit`].
    pub async fn delete(&self, caller: &Caller, group: &str) -> Result<(), Refusal> {
        caller.check_group(&[Right::Delete], group)?;
        self.check_exists(group)?;
        let guard = |groups: Self| async move { groups.alone().await };
        let (guard, outside) = self.guarded_outside(group, guard).await;
        self.check_exists(group)?;
        let outside = outside.ok_or_else(|| has_members(group))?;
        let entry = audited(&self.log, caller, "group.delete", group, "", "");
        Ok(self.remove((guard, outside), group, Some(entry)).await?)
    }

    /// Forgets a topic that the group has given up: its committed offsets, its subscription, the patterns that match it,
    /// and what it knows of the topic as a work queue; durable when this returns. A later join begins there anew.
    ///
    /// # Errors
    /// - [`Reason::UnknownGroup`]. [`Reason::UnknownTopic`]: the group knows nothing of the topic.
    /// - [`Reason::GroupActive`]: a live member subscribes to it.
    /// - Those of [`Groups::commit`].
    pub async fn forget_topic(&self, caller: &Caller, group: &str, topic: &str) -> Result<(), Refusal> {
        caller.check_group(&[Right::Write], group)?;
        caller.check_topic(Right::Read, topic)?;
        let guard = self.alone().await;
        self.check_exists(group)?;
        let id = self.log.topic(topic).map(|topic| topic.id());
        if let Some(cell) = self.coordinator.find(group)
            && !self.lock(&cell).1.forget_topic(topic, id)
        {
            let detail = format!(
                "a live member of the group {group} subscribes to {topic}: have it poll with other topics, or leave"
            );
            return Err(Refusal::new(Reason::GroupActive, detail));
        }
        let keys = keys_of_group(&self.log, group).into_iter();
        let of_topic = keys.filter(|key| {
            let pattern = pattern_of_key(key);
            id.is_some() && topic_of(key) == id
                || pattern.is_some_and(|pattern| pattern.matches(topic.as_bytes()))
        });
        let mut state: Vec<StateChange> = of_topic.map(StateChange::remove).collect();
        if state.is_empty() {
            let detail = format!("the group {group} knows nothing of a topic {topic}");
            return Err(Refusal::new(Reason::UnknownTopic, detail));
        }
        let detail = format!("topic {topic}");
        state.push(audited(
            &self.log,
            caller,
            "offsets.delete",
            group,
            "/offsets",
            detail,
        ));
        let log = self.log.clone();
        Ok(finish(guard, async move { append(&log, state).await }).await?)
    }

    /// Checks all of `offsets` and looks up their partitions; in the same order.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`], [`Reason::UnknownPartition`]; [`Reason::InvalidRequest`] for a partition that is given
    /// twice, an offset above the end, and metadata that is too long. The field is `/offsets/{index}/…`.
    pub(super) fn check_commits(&self, offsets: &[NamedCommit]) -> Result<Vec<Commit>, Refusal> {
        let mut seen = BTreeSet::new();
        let mut commits = Vec::with_capacity(offsets.len());
        for (i, row) in offsets.iter().enumerate() {
            let at = |field: &str| format!("/offsets/{i}/{field}");
            let topic = catalog::find(&self.log, &row.topic).map_err(|refusal| refusal.at(at("topic")))?;
            let partition = topics::partition(&topic, row.partition);
            let partition = partition.map_err(|refusal| refusal.at(at("partition")))?;
            if !seen.insert(partition.id()) {
                let detail = format!("partition {} of {} is given twice", row.partition, row.topic);
                return Err(Refusal::invalid(at("partition"), detail));
            }
            let end = partition.positions().end_offset;
            let Some(offset) = Offset::try_new(row.offset).filter(|offset| *offset <= end) else {
                let name = partition.name();
                let detail = format!("offset {} is above the end of {name}, {end}", row.offset);
                return Err(Refusal::invalid(at("offset"), detail));
            };
            let bytes = row.metadata.as_ref().map_or(0, String::len);
            if bytes > MAX_METADATA_BYTES {
                let detail = format!("metadata is at most {MAX_METADATA_BYTES} bytes, not {bytes}");
                return Err(Refusal::invalid(at("metadata"), detail));
            }
            commits.push(Commit {
                partition: partition.id(),
                offset,
                leader_epoch: None,
                metadata: row.metadata.clone(),
            });
        }
        Ok(commits)
    }

    /// Keeps members out of the group while the result is held.
    pub(super) fn no_members(&self, group: &str) -> Result<Outside, Refusal> {
        self.begin_outside(group).ok_or_else(|| has_members(group))
    }

    /// [`Groups::begin_outside`] with a guard. If the last classic member has left and that is being stored, waits for the end
    /// of it: without the guard, which the save may wait for.
    pub(super) async fn guarded_outside<G, F: Future<Output = G>>(
        &self,
        group: &str,
        guard: impl Fn(Self) -> F,
    ) -> (G, Option<Outside>) {
        loop {
            let cell = self.coordinator.find(group);
            if let Some(cell) = &cell {
                self.save_if_empty(cell).await;
            }
            let guard = guard(self.clone()).await;
            let outside = self.begin_outside(group);
            let is_leaving = || {
                self.coordinator
                    .find(group)
                    .is_some_and(|cell| self.is_leaving(&cell))
            };
            if outside.is_some() || !is_leaving() {
                return (guard, outside);
            }
        }
    }
}
