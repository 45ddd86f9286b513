//! Groups: named sets of committed offsets, with or without members.
//!
//! All durable state of a group is in entries of the engine's state: committed [`offsets`], [`subscriptions`], the kind
//! and settings ([`shared::settings`]), and the states of work queues ([`shared`]). So a commit is durable when it is
//! answered, and a group survives a restart without a file of its own.
//!
//! Members are in memory only: after a restart they join again. In an ordered group, an `ack` of an answer from before
//! the restart can still commit (see [`poll_id`]).
//!
//! - [`membership`], [`poll`], [`commit`] and [`settle`] are the calls of members, [`outside`] and [`reset`] those of others;
//!   [`alter`] changes settings.
//! - [`outputs`] are records that are appended with what a call acknowledges; [`repeats`] remembers such calls.
//! - [`classic`] is Kafka's client-side protocol: its members have calls of their own. [`consumers`] is the server-side one,
//!   whose members are members of ordered groups.
//! - `writing` makes durable what members of shared groups settle.
//! - `coordinator` holds the groups with members, one `cell` each. The state machines that decide are pure: [`members`] for both kinds
//!   of groups, [`ordered`] for partitions, [`shared`] for leases.
//! - [`expiry`] removes committed offsets that nobody has used for long, if that is configured.
//!
//! Every change takes a lock of [`Groups`] and holds its guard until it is durable, even if the client goes away.
//! Commits share the lock. Changes that read before they decide have it alone: a deletion, a reset, a group's start in
//! a topic.

pub mod alter;
mod cell;
pub mod classic;
pub mod commit;
pub mod consumers;
mod coordinator;
pub mod dead_letters;
pub mod expiry;
mod generation;
pub mod live;
pub mod members;
pub mod membership;
pub mod offsets;
pub mod ordered;
pub mod outputs;
pub mod outside;
pub mod patterns;
pub mod poll;
pub mod poll_id;
pub mod processes;
pub mod repeats;
pub mod reset;
pub mod settle;
pub mod shared;
pub mod subscriptions;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use cell::Cell;
use classic::stored;
use coordinator::Coordinator;
use live::GroupType;
use members::Ms;
use offsets::Committed;
use patterns::Candidates;
use repeats::LastCalls;
use shared::queue::{Moment, Now};
use shared::seal::Seals;
use shared::settings::GroupValue;
use shared::waiting::WaitingLetters;
use shared::{codec, letters};

use crate::broker::audit;
use crate::broker::blocking::Blocking;
use crate::broker::caller::Caller;
use crate::broker::counters::Counters;
use crate::broker::engine::{
    AppendRequest, Clock, Error, Log, Monotonic, Offset, Partition, PartitionId, StateChange, StateEntry,
    Topic, TopicId,
};
use crate::broker::fetch::Fetcher;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::state_keys::removals_of_topic;
use crate::broker::topics::Topics;
use crate::formats::partitioner::Rotation;
use crate::formats::pattern::Pattern;

/// The longest metadata of a commit, in bytes.
pub const MAX_METADATA_BYTES: usize = 4096;

/// All groups. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Groups(Arc<Parts>);

/// The fields of [`Groups`]: parts of the broker, and its own state.
pub struct Parts {
    uses: Uses,
    /// Commits hold it shared; changes that read before they decide hold it exclusively.
    changes: Arc<RwLock<()>>,
    /// The groups that have members, or had some a short time ago.
    coordinator: Coordinator,
    /// Held during a redrive, which reads the fates of dead letters and then changes them. Redrives are rare, so one lock
    /// for all groups is enough.
    redriving: parking_lot::Mutex<()>,
    /// When members last called with outputs.
    last_calls: parking_lot::Mutex<LastCalls>,
    /// The dead letters that wait, counted for the lag.
    waiting: WaitingLetters,
    /// Tells the dead letters of this server from others.
    seals: Seals,
}

/// The parts of the broker that groups use.
pub struct Uses {
    pub(super) log: Log,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) blocking: Blocking,
    pub(super) topics: Topics,
    pub(super) fetcher: Fetcher,
    /// Chooses the partition of records without keys.
    pub(super) rotation: Arc<Rotation>,
    /// Becomes true when the server begins to stop.
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) counters: Arc<Counters>,
}

impl Deref for Groups {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Deref for Parts {
    type Target = Uses;

    fn deref(&self) -> &Uses {
        &self.uses
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.coordinator.fmt(f)
    }
}

impl Groups {
    /// Groups over a log, without members. Queues look at no further records while all of them together remember
    /// `max_queue_records` unsettled ones.
    pub fn new(uses: Uses, max_queue_records: usize) -> Self {
        let coordinator = Coordinator::new(
            uses.log.directory_number(),
            uses.clock.now(),
            uses.topics.changes(),
            max_queue_records,
        );
        coordinator.load_classic(&uses.log, millis(uses.clock.monotonic()));
        Self(Arc::new(Parts {
            coordinator,
            last_calls: parking_lot::Mutex::new(LastCalls::load(&uses.log)),
            seals: Seals::load(&uses.log),
            uses,
            changes: Arc::default(),
            redriving: parking_lot::Mutex::default(),
            waiting: WaitingLetters::default(),
        }))
    }

    fn now_ms(&self) -> Ms {
        millis(self.clock.monotonic())
    }

    /// The time on both clocks. The wall clock is read first, so that no lease ends before the time in its answer.
    fn now(&self) -> Now {
        let wall = self.clock.now();
        Now {
            moment: Moment(self.now_ms()),
            wall,
        }
    }

    /// Waits until no exclusive change is running. Several commits may run at the same time.
    pub async fn commits(&self) -> CommitGuard {
        CommitGuard {
            _guard: self.changes.clone().read_owned().await,
        }
    }

    /// A partition with its topic, if both exist.
    fn find_partition(&self, id: PartitionId) -> Option<(Arc<Topic>, Arc<Partition>)> {
        let topic = self.log.topic_by_id(id.topic)?;
        let partition = topic.partition(id.index)?;
        Some((topic, partition))
    }

    /// Waits until no other change is running.
    pub async fn alone(&self) -> ExclusiveGuard {
        ExclusiveGuard {
            _guard: self.changes.clone().write_owned().await,
        }
    }

    /// The group's members and partitions at the moment; `None` where it has no members.
    pub fn live(&self, group: &str) -> Option<live::Live> {
        self.coordinator.live(group, &self.log)
    }

    /// How a group's members share the records. A group that never had members is ordered.
    pub fn kind_of(&self, group: &str) -> GroupType {
        match self.value_of(group) {
            Ok(Some(GroupValue::Shared(_))) => GroupType::Shared,
            _ if stored::is_classic(&self.log, group) => GroupType::Classic,
            _ => self.coordinator.kind_of_members(group).unwrap_or_default(),
        }
    }

    /// Begins a change of a group's committed offsets from outside the group. No member joins until the returned value
    /// is dropped. `None`: the group has members, or a former member's commit is still running.
    pub fn begin_outside(&self, group: &str) -> Option<Outside> {
        Some(Outside {
            cell: self.coordinator.begin_outside(group, self.now_ms())?,
            groups: self.clone(),
            is_closing: false,
            is_in_step: false,
        })
    }

    /// Whether the group exists.
    pub fn exists(&self, group: &str) -> bool {
        exists(&self.log, group)
    }

    /// Refuses the name of a group that does not exist: it was not created, and has no members.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`].
    pub fn check_exists(&self, group: &str) -> Result<(), Refusal> {
        if self.exists(group) || self.live(group).is_some() {
            return Ok(());
        }
        let detail = format!("the group {group} does not exist");
        Err(Refusal::new(Reason::UnknownGroup, detail))
    }

    /// All groups' names, sorted.
    pub fn names(&self) -> Vec<String> {
        let keys = self.log.state_prefix(&offsets::groups_prefix());
        let mut names: Vec<String> = keys
            .iter()
            .filter_map(|(key, _)| offsets::group_of_key(key))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        names
    }

    /// Describes a group. One whose value in the state cannot be read counts as ordered, and nobody can join it.
    pub fn overview(&self, group: &str) -> live::Overview {
        let live = self.live(group).unwrap_or_default();
        let value = self.value_of(group).ok().flatten().unwrap_or_default();
        live::Overview {
            state: live.state,
            members: live.members,
            kind: self.kind_of(group),
            value,
        }
    }

    /// What a group has subscribed to, with and without members, as far as the caller may describe it: names of topics,
    /// and patterns; sorted.
    pub fn subscribed(&self, caller: &Caller, group: &str) -> Vec<String> {
        let mut names = subscriptions::names(&self.log, group);
        names.retain(|name| patterns::is_pattern(name) || caller.sees_topic(name));
        names
    }

    /// A group's committed offsets, sorted by the names of their topics and by partition.
    pub fn committed_by_name(&self, group: &str) -> Vec<outside::NamedCommit> {
        let committed = self.committed(group).into_iter().filter_map(|(id, committed)| {
            Some(outside::NamedCommit {
                topic: self.log.topic_by_id(id.topic)?.name().to_owned(),
                partition: id.index,
                offset: committed.offset.get(),
                metadata: committed.metadata,
            })
        });
        let mut offsets: Vec<_> = committed.collect();
        offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        offsets
    }

    /// A group's committed offsets by partition, without those of deleted topics.
    ///
    /// A value that cannot be read is logged and left out, as if nothing were committed in that partition.
    pub fn committed(&self, group: &str) -> BTreeMap<PartitionId, Committed> {
        committed(&self.log, group)
    }

    /// A group's committed offset in a partition; one that cannot be read is logged and left out.
    pub fn committed_in(&self, group: &str, partition: PartitionId) -> Option<Committed> {
        let value = self.log.state_get(&offsets::offset_key(group, partition))?;
        readable(group, partition, &value)
    }

    /// The most bytes of the metadata of a group's committed offset in a partition; 0: it has none there. Copies none of it.
    pub fn metadata_bytes_in(&self, group: &str, partition: PartitionId) -> usize {
        let value = self.log.state_get(&offsets::offset_key(group, partition));
        value.map_or(0, |value| value.len())
    }

    /// How many committed offsets a group has, and the most bytes of their metadata. Copies none of it.
    pub fn metadata_bytes(&self, group: &str) -> (usize, usize) {
        let entries = self.log.state_prefix(&offsets::offsets_prefix(group));
        let bytes = entries.iter().map(|(_, value)| value.len()).sum();
        (entries.len(), bytes)
    }

    /// The topics that a group has subscribed to or committed in, and its committed offsets.
    pub fn scope(&self, group: &str) -> (BTreeSet<TopicId>, BTreeMap<PartitionId, Committed>) {
        let committed = self.committed(group);
        let mut topics = subscriptions::topics(&self.log, group);
        topics.extend(committed.keys().map(|id| id.topic));
        let patterns = subscriptions::patterns(&self.log, group);
        if !patterns.is_empty() {
            // Topics that no member has seen yet.
            let all = self.log.topics().into_iter();
            let unseen = all.filter(|topic| {
                let matches = |pattern: &Pattern| pattern.matches(topic.name().as_bytes());
                !topics.contains(&topic.id()) && patterns.iter().any(matches)
            });
            let unseen: Vec<Arc<Topic>> = unseen.collect();
            let unseen = Candidates::among(&self.log, unseen);
            for pattern in &patterns {
                topics.extend(unseen.matching(pattern).map(|topic| topic.id()));
            }
        }
        (topics, committed)
    }

    /// Commits all of `commits` or none, for nobody who is a member, creates the group if it does not exist, and returns
    /// when that is durable. An ordered group begins a new [generation].
    ///
    /// `guard` is, or contains, a [`CommitGuard`] or [`ExclusiveGuard`], taken before the commits were decided.
    ///
    /// # Errors
    /// Those of [`Log::append`] and its ticket: nothing is committed, unless the error says that nobody can know. If a
    /// topic was deleted meanwhile, the removal of its entries can fail after the commit: then the commits are durable.
    pub async fn commit<G: Send + 'static>(
        &self,
        guard: G,
        group: &str,
        commits: Vec<Commit>,
    ) -> Result<(), Error> {
        let is_ordered_before = matches!(self.value_of(group), Ok(Some(GroupValue::Ordered(_))));
        let (mut state, touched) =
            self.changes_for(group, &GroupValue::default(), &Subscribed::default(), commits);
        if is_ordered_before {
            state.push(generation::begin(group));
        }
        let groups = self.clone();
        finish(guard, async move {
            append(&groups.log, state).await?;
            groups.remove_orphans(touched).await
        })
        .await
    }

    /// Creates a group if it does not exist, subscribes it to `subscribed` and commits `commits`, all or nothing; returns
    /// when that is durable.
    ///
    /// # Errors
    /// As [`Groups::commit`].
    async fn make<G: Send + 'static>(
        &self,
        guard: G,
        group: &str,
        value: &GroupValue,
        subscribed: Subscribed,
        commits: Vec<Commit>,
    ) -> Result<(), Error> {
        let (groups, group, value) = (self.clone(), group.to_owned(), value.clone());
        finish(guard, async move {
            groups.write(&group, &value, &subscribed, commits).await
        })
        .await
    }

    /// The same as `make`, but in the caller's task, which must run to its end and hold a guard until then.
    async fn write(
        &self,
        group: &str,
        value: &GroupValue,
        subscribed: &Subscribed,
        commits: Vec<Commit>,
    ) -> Result<(), Error> {
        let (state, touched) = self.changes_for(group, value, subscribed, commits);
        append(&self.log, state).await?;
        self.remove_orphans(touched).await
    }

    /// The changes that create a group if it does not exist, subscribe it and commit; and the topics that they name.
    fn changes_for(
        &self,
        group: &str,
        value: &GroupValue,
        subscribed: &Subscribed,
        commits: Vec<Commit>,
    ) -> (Vec<StateChange>, BTreeSet<TopicId>) {
        let (log, now) = (&self.log, self.clock.now());
        let Subscribed { topics, patterns } = subscribed;
        let mut state: Vec<StateChange> = Vec::with_capacity(commits.len() + topics.len() + 1);
        if !exists(log, group) {
            state.push(StateChange::set(offsets::group_key(group), value.encode()));
            state.push(generation::begin(group));
        }
        let subscribe = |topic: &TopicId| subscriptions::subscribe(group, *topic, now);
        state.extend(topics.iter().map(subscribe));
        let subscribe = |pattern: &String| subscriptions::subscribe_to_pattern(group, pattern, now);
        state.extend(patterns.iter().map(subscribe));
        let mut touched: BTreeSet<TopicId> = topics.iter().copied().collect();
        for commit in commits {
            touched.insert(commit.partition.topic);
            let committed = Committed {
                offset: commit.offset,
                last_commit: now,
                leader_epoch: commit.leader_epoch,
                metadata: commit.metadata,
            };
            state.push(offsets::commit(group, commit.partition, &committed));
        }
        (state, touched)
    }

    /// Removes the groups' entries of those `topics` that are deleted. The deletion of a topic removes the entries that
    /// exist then; without this, entries that were appended at the same time would stay for ever.
    async fn remove_orphans(&self, topics: impl IntoIterator<Item = TopicId>) -> Result<(), Error> {
        let mut orphans = Vec::new();
        for topic in topics {
            if self.log.topic_by_id(topic).is_none() {
                orphans.extend(removals_of_topic(&self.log, topic));
            }
        }
        append(&self.log, orphans).await
    }

    /// Removes a group with all its state, and returns when that is durable.
    ///
    /// # Errors
    /// As [`Groups::commit`].
    pub async fn remove<G: Send + 'static>(
        &self,
        guard: G,
        group: &str,
        entry: Option<StateChange>,
    ) -> Result<(), Error> {
        let (log, mut state) = (self.log.clone(), changes_for_deleted_group(&self.log, group));
        state.extend(entry);
        finish(guard, async move { append(&log, state).await }).await
    }
}

/// A running change of a group's committed offsets from outside the group. Dropping it ends the change.
#[derive(Debug)]
pub struct Outside {
    groups: Groups,
    cell: Arc<Cell>,
    /// It began with [`Coordinator::begin_closing`].
    is_closing: bool,
    /// The group's memory agrees with what was changed.
    is_in_step: bool,
}

impl Drop for Outside {
    fn drop(&mut self) {
        let Self {
            groups,
            cell,
            is_closing,
            is_in_step,
        } = self;
        groups.coordinator.end_outside(cell, *is_closing, *is_in_step);
    }
}

/// Held from before a commit's checks until it is durable.
#[derive(Debug)]
pub struct CommitGuard {
    _guard: OwnedRwLockReadGuard<()>,
}

/// Held by a change that reads before it decides, from before it reads until it is durable.
#[derive(Debug)]
pub struct ExclusiveGuard {
    _guard: OwnedRwLockWriteGuard<()>,
}

/// Topics and patterns to which a group subscribes.
#[derive(Debug, Default)]
struct Subscribed {
    topics: Vec<TopicId>,
    patterns: Vec<String>,
}

/// An offset to commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The partition.
    pub partition: PartitionId,
    /// The next record to read in the partition.
    pub offset: Offset,
    /// The leader epoch that a Kafka client sends with it.
    pub leader_epoch: Option<u32>,
    /// The metadata that the consumer sends with it.
    pub metadata: Option<String>,
}

/// The keys of a group's state, without those that say that the group exists and which one it is.
fn keys_of_group(log: &Log, group: &str) -> Vec<Box<[u8]>> {
    let prefixes = [
        offsets::offsets_prefix(group),
        subscriptions::subscriptions_prefix(group),
        subscriptions::patterns_prefix(group),
        codec::states_prefix(group),
        codec::returned_prefix(group),
        repeats::group_prefix(group),
        letters::fates_prefix(group),
        stored::members_prefix(group),
    ];
    let entries = prefixes.iter().flat_map(|prefix| log.state_prefix(prefix));
    entries.map(|(key, _)| key).collect()
}

/// The changes that remove a group and all its state.
fn changes_for_deleted_group(log: &Log, group: &str) -> Vec<StateChange> {
    let own = [offsets::group_key(group), generation::key(group)];
    own.into_iter()
        .chain(stored::is_classic(log, group).then(|| stored::key(group)))
        .map(StateChange::remove)
        .chain(keys_of_group(log, group).into_iter().map(StateChange::remove))
        .collect()
}

fn millis(at: Monotonic) -> Ms {
    u64::try_from(at.0.as_millis()).unwrap_or(u64::MAX)
}

fn exists(log: &Log, group: &str) -> bool {
    log.state_get(&offsets::group_key(group)).is_some()
}

fn committed(log: &Log, group: &str) -> BTreeMap<PartitionId, Committed> {
    let mut known: Option<(TopicId, bool)> = None;
    let read = |(key, value): StateEntry| {
        let Some(id) = offsets::partition_of_key(&key) else {
            tracing::error!(group, "a key of the state is not a committed offset's");
            return None;
        };
        let is_there = match known {
            Some((topic, is_there)) if topic == id.topic => is_there,
            _ => log.topic_by_id(id.topic).is_some(),
        };
        known = Some((id.topic, is_there));
        if !is_there {
            return None;
        }
        Some((id, readable(group, id, &value)?))
    };
    log.state_prefix(&offsets::offsets_prefix(group))
        .into_iter()
        .filter_map(read)
        .collect()
}

fn readable(group: &str, partition: PartitionId, value: &[u8]) -> Option<Committed> {
    let decoded = Committed::decode(value).inspect_err(|error| {
        tracing::error!(group, %partition, %error, "a committed offset is left out");
    });
    decoded.ok()
}

/// An entry of the audit log for what was done to a group; `part` of it may be empty.
fn audited(
    log: &Log,
    caller: &Caller,
    action: &str,
    group: &str,
    part: &str,
    detail: impl Into<String>,
) -> StateChange {
    audit::entry(log, caller, action, &format!("groups/{group}{part}"), detail)
}

async fn append(log: &Log, state: Vec<StateChange>) -> Result<(), Error> {
    if state.is_empty() {
        return Ok(());
    }
    log.append(AppendRequest::of_state(state))?.await.map(drop)
}

/// Runs `change` to its end, even if the caller is dropped, and holds the guard until then.
async fn finish<G: Send + 'static>(
    guard: G,
    change: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), Error> {
    let task = tokio::spawn(async move {
        let result = change.await;
        drop(guard);
        result
    });
    // The task is never aborted, so this fails only if the task panics or the runtime ends.
    task.await.unwrap_or(Err(Error::Closed))
}
