//! Commits of Kafka's clients, members or not, and the deletion of single offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::calls::check_name;
use super::{Denied, Identity};
use crate::broker::caller::Caller;
use crate::broker::engine::{AppendRequest, Log, Offset, PartitionId, StateChange, Topic, TopicId};
use crate::broker::groups::cell::Kind;
use crate::broker::groups::commit::committed_offset;
use crate::broker::groups::offsets;
use crate::broker::groups::outside::tell_moved_back;
use crate::broker::groups::shared::settings::GroupValue;
use crate::broker::groups::{
    Commit, Groups, MAX_METADATA_BYTES, Subscribed, append, audited, finish, generation,
};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::{self, catalog};

/// An offset that a Kafka client commits.
#[derive(Clone, Debug)]
pub struct CommitRow {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The next record to read, which may lie beyond the end; `None`: nothing is committed there any more.
    pub offset: Option<u64>,
    /// The leader epoch that the client knows.
    pub leader_epoch: Option<u32>,
    /// What the client stores with it, at most [`MAX_METADATA_BYTES`].
    pub metadata: Option<String>,
}

fn find_readable(log: &Log, caller: &Caller, topic: &str) -> Result<Arc<Topic>, Refusal> {
    caller.check_topic(Right::Read, topic)?;
    catalog::find(log, topic)
}

impl Groups {
    /// The right that a commit takes which names this generation: below 0 it is one from outside the group.
    pub fn right_to_commit(generation_id: i32) -> Right {
        if generation_id < 0 {
            Right::Write
        } else {
            Right::Read
        }
    }

    /// Commits offsets for a classic member, for a consumer with its epoch, or for nobody in a group without members; creates
    /// the group if it does not exist. `knows_epochs`: the client can name an epoch. Those that cannot be committed do not keep the others from it. Returns the result of each, in the same order.
    /// A later commit counts even if its offset is lower.
    ///
    /// # Errors
    /// Nothing is committed: [`Denied::UnknownMember`], [`Denied::FencedInstance`], [`Denied::IllegalGeneration`],
    /// [`Denied::Rebalancing`], [`Denied::StaleEpoch`], [`Denied::NeedsEpoch`], [`Denied::InvalidName`]; [`Denied::Refused`], with [`Reason::GroupTypeMismatch`] if the group
    /// is shared. For an offset: [`Reason::UnknownTopic`], [`Reason::UnknownPartition`], [`Reason::Forbidden`];
    /// [`Reason::InvalidRequest`]: its metadata is too long.
    pub async fn commit_classic(
        &self,
        caller: &Caller,
        group: &str,
        who: &Identity<'_>,
        knows_epochs: bool,
        rows: &[CommitRow],
    ) -> Result<Vec<Result<(), Refusal>>, Denied> {
        check_name(group)?;
        let is_outside = who.generation_id < 0;
        caller.check_group(&[Self::right_to_commit(who.generation_id)], group)?;
        let check_kind = || match self.value_of(group)? {
            Some(GroupValue::Shared(_)) => {
                let detail = format!("the group {group} is shared: records are settled, not committed");
                Err(Refusal::new(Reason::GroupTypeMismatch, detail))
            }
            Some(GroupValue::Ordered(_)) | None => Ok(()),
        };
        check_kind()?;
        let (guard, outside) = match is_outside {
            true => {
                let guard = |groups: Groups| async move { groups.commits().await };
                self.guarded_outside(group, guard).await
            }
            false => (self.commits().await, None),
        };
        check_kind()?;
        let mut commits = Vec::with_capacity(rows.len());
        let mut withdrawn = Vec::new();
        let mut results = Vec::with_capacity(rows.len());
        for row in rows {
            let checked = self.check_row(caller, row);
            results.push(checked.map(|(partition, offset)| match offset {
                None => withdrawn.push(partition),
                Some(offset) => commits.push(Commit {
                    partition,
                    offset,
                    leader_epoch: row.leader_epoch,
                    metadata: row.metadata.clone(),
                }),
            }));
        }
        let partitions = commits.iter().map(|commit| commit.partition);
        let partitions: Vec<PartitionId> = partitions.chain(withdrawn.iter().copied()).collect();
        let (value, nothing) = (GroupValue::default(), Subscribed::default());
        let existed = self.exists(group);
        let moved_back = match is_outside {
            true => withdrawn.len() + self.moved_back(group, &commits),
            false => 0,
        };
        let (mut state, touched) = self.changes_for(group, &value, &nothing, commits);
        let remove = |id: PartitionId| StateChange::remove(offsets::offset_key(group, id));
        state.extend(withdrawn.into_iter().map(remove));
        let is_nothing = results.iter().all(Result::is_err);
        let groups = self.clone();
        if is_outside {
            let Some(outside) = outside else {
                return Err(self.denied_to_outsiders(group, who));
            };
            if is_nothing {
                return Ok(results);
            }
            if existed {
                state.push(generation::begin(group));
            }
            let change = async move {
                append(&groups.log, state).await?;
                groups.remove_orphans(touched).await
            };
            finish((guard, outside), change).await.map_err(Refusal::from)?;
            tell_moved_back(caller, group, moved_back);
            return Ok(results);
        }
        let unknown = if existed {
            Denied::UnknownMember
        } else {
            Denied::IllegalGeneration
        };
        let Some(cell) = self.coordinator.find(group) else {
            return Err(unknown);
        };
        let (ticket, of_consumer) = {
            let (now, mut core) = self.lock(&cell);
            match &mut core.kind {
                Kind::Classic(classic) => classic.check_commit(who, now)?,
                Kind::Ordered(ordered) if ordered.is_consumer(who.member) => {
                    if !knows_epochs {
                        return Err(Denied::NeedsEpoch);
                    }
                    ordered.check_commits(who.member, who.generation_id, &partitions)?;
                }
                Kind::Ordered(_) | Kind::Shared(_) => return Err(unknown),
            }
            if is_nothing {
                return Ok(results);
            }
            // Queued under the lock: what a later generation commits comes later in the log.
            let ticket = self
                .log
                .append(AppendRequest::of_state(state))
                .map_err(Refusal::from)?;
            let of_consumer = match &mut core.kind {
                Kind::Ordered(ordered) => Some(ordered.begin_consumer_commit(&partitions)),
                Kind::Classic(classic) => {
                    classic.begin_commit();
                    None
                }
                Kind::Shared(_) => None,
            };
            (ticket, of_consumer)
        };
        let cell = Arc::clone(&cell);
        let change = async move {
            let result = match ticket.await {
                Ok(_) => groups.remove_orphans(touched).await,
                Err(error) => Err(error),
            };
            {
                let (_, mut core) = groups.lock(&cell);
                match (of_consumer, core.ordered()) {
                    (Some(begun), Some((ordered, members))) => {
                        // As it is in the log by now: commits may end in another order than they were made durable in.
                        let committed = |id| committed_offset(&groups.log, &cell.group, id);
                        ordered.end_consumer_commit(members, &begun, committed);
                    }
                    (None, None) => {
                        if let Some(classic) = core.classic() {
                            classic.end_commit();
                        }
                    }
                    _ => {}
                }
            }
            cell.written.notify_waiters();
            result
        };
        finish(guard, change).await.map_err(Refusal::from)?;
        Ok(results)
    }

    /// Why somebody who names no generation may not commit: the group has members.
    fn denied_to_outsiders(&self, group: &str, who: &Identity<'_>) -> Denied {
        let denied = self.coordinator.find(group).and_then(|cell| {
            let (now, mut core) = self.lock(&cell);
            core.classic()?.check_commit(who, now).err()
        });
        denied.unwrap_or(Denied::UnknownMember)
    }

    /// Removes committed offsets that no member needs. Those that cannot be removed do not keep the others from it. Returns the
    /// result of each, by topic, in the same order; durable when this returns.
    ///
    /// # Errors
    /// For the whole call [`Denied::InvalidName`]; [`Denied::Refused`] with [`Reason::UnknownGroup`] (also for a shared
    /// group), or [`Reason::GroupActive`]: the group has classic members of another protocol type than `consumer`.
    /// For an offset: [`Reason::UnknownTopic`], [`Reason::UnknownPartition`], [`Reason::Forbidden`]; [`Reason::GroupActive`]:
    /// a member subscribes to the topic.
    pub async fn delete_offsets(
        &self,
        caller: &Caller,
        group: &str,
        rows: &[(String, Vec<u32>)],
    ) -> Result<Vec<Vec<Result<(), Refusal>>>, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Write], group)?;
        let check_kind = || {
            self.check_exists(group)?;
            match self.value_of(group)? {
                Some(GroupValue::Shared(_)) => {
                    let detail = format!("the group {group} is shared: it has no offsets of its own");
                    Err(Refusal::new(Reason::UnknownGroup, detail))
                }
                Some(GroupValue::Ordered(_)) | None => Ok(()),
            }
        };
        check_kind()?;
        // Without members, what the group remembers of the partitions is forgotten with them.
        let guard = |groups: Groups| async move { groups.alone().await };
        let (guard, outside) = self.guarded_outside(group, guard).await;
        check_kind()?;
        let topics: Vec<Result<Arc<Topic>, Refusal>> = rows
            .iter()
            .map(|(topic, _)| find_readable(&self.log, caller, topic))
            .collect();
        let subscribed = match &outside {
            Some(_) => BTreeSet::new(),
            None => {
                let found = topics.iter().flatten();
                let found: BTreeMap<&str, Option<TopicId>> =
                    found.map(|topic| (topic.name(), Some(topic.id()))).collect();
                self.subscribed_among(group, &found).ok_or_else(|| {
                    let detail = format!("the group {group} has live members that commit in every topic");
                    Refusal::new(Reason::GroupActive, detail)
                })?
            }
        };
        let mut state = Vec::new();
        let mut results = Vec::with_capacity(rows.len());
        for ((name, partitions), topic) in rows.iter().zip(&topics) {
            let mut delete = |partition: &u32| {
                let topic = topic.as_ref().map_err(Refusal::clone)?;
                let id = topics::partition(topic, *partition)?.id();
                if subscribed.contains(&**name) {
                    let detail = format!("a live member of the group {group} subscribes to {name}");
                    return Err(Refusal::new(Reason::GroupActive, detail));
                }
                state.push(StateChange::remove(offsets::offset_key(group, id)));
                Ok(())
            };
            results.push(partitions.iter().map(&mut delete).collect());
        }
        if state.is_empty() {
            return Ok(results);
        }
        let detail = format!("{} partitions", state.len());
        state.push(audited(
            &self.log,
            caller,
            "offsets.delete",
            group,
            "/offsets",
            detail,
        ));
        let log = self.log.clone();
        let change = async move { append(&log, state).await };
        finish((guard, outside), change).await.map_err(Refusal::from)?;
        Ok(results)
    }

    fn check_row(&self, caller: &Caller, row: &CommitRow) -> Result<(PartitionId, Option<Offset>), Refusal> {
        let topic = find_readable(&self.log, caller, &row.topic)?;
        let partition = topics::partition(&topic, row.partition)?;
        let bytes = row.metadata.as_ref().map_or(0, String::len);
        if bytes > MAX_METADATA_BYTES {
            let detail = format!("metadata is at most {MAX_METADATA_BYTES} bytes, not {bytes}");
            return Err(Refusal::invalid("metadata", detail));
        }
        let offset = row.offset.map(|offset| {
            let detail = || format!("no partition has an offset {offset}");
            Offset::try_new(offset).ok_or_else(|| Refusal::invalid("offset", detail()))
        });
        Ok((partition.id(), offset.transpose()?))
    }
}
