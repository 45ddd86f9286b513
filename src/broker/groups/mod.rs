//! Groups: named sets of committed offsets.
//!
//! Everything lies in the engine's durable state (see [`offsets`] for the keys), so a commit is durable when it is
//! answered, and a group survives a restart without a file of its own.
//!
//! A group may have members, who share its partitions: [`ordered`] and [`assign`] decide, [`members`] acts. They are
//! not durable: after a restart they join again, and what they acknowledge then still counts (see [`poll_id`]).
//!
//! [`expiry`] removes what groups committed that nobody has used for long, if that is wanted.
//!
//! Changes of groups go through [`Groups`]: commits side by side, but a deletion and a reset alone, because those decide
//! by what they read. A change runs to its end even if its client goes away, so the lock is held until it is durable.

pub mod assign;
mod coordinator;
pub mod expiry;
pub mod live;
pub mod members;
pub mod offsets;
pub mod ordered;
pub mod poll_id;
pub mod shared;
pub mod subscriptions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use coordinator::Coordinator;
pub use coordinator::Outside;
use offsets::Committed;
use shared::settings::GroupValue;

use crate::broker::engine::{
    Ack, AppendRequest, Error, Log, Offset, PartitionId, StateChange, TimestampMs, TopicId,
};

/// The longest metadata of a commit, in bytes.
pub const MAX_METADATA_BYTES: usize = 4096;

/// The groups' members, and the order of changes to what groups have committed.
#[derive(Clone, Debug)]
pub struct Groups {
    changes: Arc<RwLock<()>>,
    /// The groups that have members, or had some a short time ago.
    pub(crate) coordinator: Arc<Coordinator>,
}

impl Groups {
    /// Groups without members.
    #[must_use]
    pub fn new(now: TimestampMs) -> Self {
        Self {
            changes: Arc::default(),
            coordinator: Arc::new(Coordinator::new(now)),
        }
    }

    /// Waits until no deletion and no reset is under way; commits go on side by side.
    pub async fn commits(&self) -> CommitGuard {
        CommitGuard {
            _guard: self.changes.clone().read_owned().await,
        }
    }

    /// What is known of a group's members; `None` where it has none.
    #[must_use]
    pub fn live(&self, group: &str) -> Option<live::Live> {
        self.coordinator.live(group)
    }

    /// Waits until no other change is under way.
    pub async fn alone(&self) -> ExclusiveGuard {
        ExclusiveGuard {
            _guard: self.changes.clone().write_owned().await,
        }
    }
}

/// Held from before a commit's checks until it is durable.
#[derive(Debug)]
pub struct CommitGuard {
    _guard: OwnedRwLockReadGuard<()>,
}

/// Held by a deletion or a reset from before it reads until it is durable.
#[derive(Debug)]
pub struct ExclusiveGuard {
    _guard: OwnedRwLockWriteGuard<()>,
}

/// A position to commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The partition.
    pub partition: PartitionId,
    /// The next record to be read there.
    pub offset: Offset,
    /// What the consumer notes with it.
    pub metadata: Option<String>,
}

/// Commits all of `commits` or nothing, makes the group if it is not there, and returns when that is durable.
///
/// `guard` may be of either kind, and hold more; it must have been taken before the commits were decided.
///
/// # Errors
/// Those of [`Log::append`] and its ticket: nothing is committed, except where the error says that nobody knows.
pub async fn commit<G: Send + 'static>(
    log: &Log,
    guard: G,
    group: &str,
    commits: Vec<Commit>,
    now: TimestampMs,
) -> Result<(), Error> {
    let (log, group) = (log.clone(), group.to_owned());
    finish(
        guard,
        async move { commit_here(&log, &group, commits, now).await },
    )
    .await
}

/// The same in the caller's task, which must run to its end and hold a guard meanwhile.
async fn commit_here(log: &Log, group: &str, commits: Vec<Commit>, now: TimestampMs) -> Result<(), Error> {
    write(log, group, &GroupValue::Ordered, &[], commits, now).await
}

/// Makes the group as `value` if it is not there, subscribes it to `topics` and commits, all in one append.
async fn write(
    log: &Log,
    group: &str,
    value: &GroupValue,
    topics: &[TopicId],
    commits: Vec<Commit>,
    now: TimestampMs,
) -> Result<(), Error> {
    let mut state: Vec<StateChange> = Vec::with_capacity(commits.len() + topics.len() + 1);
    if !exists(log, group) {
        state.push(StateChange {
            key: offsets::group_key(group),
            value: Some(value.encode()),
        });
    }
    state.extend(
        topics
            .iter()
            .map(|topic| subscriptions::subscribe(group, *topic, now)),
    );
    let mut touched: BTreeSet<TopicId> = topics.iter().copied().collect();
    for commit in commits {
        touched.insert(commit.partition.topic);
        let committed = Committed {
            offset: commit.offset,
            last_commit: now,
            metadata: commit.metadata,
        };
        state.push(offsets::commit(group, commit.partition, &committed));
    }
    append(log, state).await?;
    // A topic that was deleted meanwhile took the group's entries with it; those of this append would stay for ever.
    let mut orphans = Vec::new();
    for topic in touched
        .into_iter()
        .filter(|topic| log.topic_by_id(*topic).is_none())
    {
        let committed = log.state_prefix(&offsets::topic_prefix(group, topic));
        orphans.extend(committed.into_iter().map(|(key, _)| offsets::remove(&*key)));
        orphans.push(offsets::remove(subscriptions::subscription_key(group, topic)));
    }
    append(log, orphans).await
}

/// Makes a group, subscribes it to topics that are new to it and commits where it begins there, all or nothing; returns
/// when that is durable.
///
/// # Errors
/// As [`commit`].
pub(crate) async fn make<G: Send + 'static>(
    log: &Log,
    guard: G,
    group: &str,
    value: &GroupValue,
    topics: Vec<TopicId>,
    commits: Vec<Commit>,
    now: TimestampMs,
) -> Result<(), Error> {
    let (log, group, value) = (log.clone(), group.to_owned(), value.clone());
    finish(guard, async move {
        write(&log, &group, &value, &topics, commits, now).await
    })
    .await
}

/// Deletes a group with its offsets and returns when that is durable.
///
/// # Errors
/// As [`commit`].
pub async fn delete<G: Send + 'static>(log: &Log, guard: G, group: &str) -> Result<(), Error> {
    let mut state = vec![offsets::remove(offsets::group_key(group))];
    for prefix in [
        offsets::offsets_prefix(group),
        subscriptions::subscriptions_prefix(group),
    ] {
        let keys = log.state_prefix(&prefix).into_iter();
        state.extend(keys.map(|(key, _)| offsets::remove(&*key)));
    }
    state.extend(shared::store::changes_for_deleted_group(log, group));
    let log = log.clone();
    finish(guard, async move { append(&log, state).await }).await
}

/// The changes that remove every group's committed offsets in a topic, its subscription to it, and the state of its queues
/// there: they are part of the append that deletes the topic.
///
/// Cost: a walk over the state of all groups.
#[must_use]
pub fn changes_for_deleted_topic(log: &Log, topic: TopicId) -> Vec<StateChange> {
    let committed = log.state_prefix(&offsets::all_offsets_prefix()).into_iter();
    let committed = committed.filter(|(key, _)| is_of_topic(key, topic));
    let subscribed = log
        .state_prefix(&subscriptions::all_subscriptions_prefix())
        .into_iter();
    let subscribed = subscribed.filter(|(key, _)| subscriptions::topic_of_key(key) == Some(topic));
    let mut changes: Vec<StateChange> = committed
        .chain(subscribed)
        .map(|(key, _)| offsets::remove(&*key))
        .collect();
    changes.extend(shared::store::changes_for_deleted_topic(log, topic));
    changes
}

/// Whether the group has been made.
#[must_use]
pub fn exists(log: &Log, group: &str) -> bool {
    log.state_get(&offsets::group_key(group)).is_some()
}

/// All groups' names, sorted.
#[must_use]
pub fn names(log: &Log) -> Vec<String> {
    let keys = log.state_prefix(&offsets::groups_prefix());
    let mut names: Vec<String> = keys
        .iter()
        .filter_map(|(key, _)| offsets::group_of_key(key))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names
}

/// What a group has committed, by partition; deleted topics are left out.
///
/// A value that cannot be read is logged and left out: the group goes on there as if nothing were committed.
#[must_use]
pub fn committed(log: &Log, group: &str) -> BTreeMap<PartitionId, Committed> {
    let mut all = BTreeMap::new();
    let mut known: Option<(TopicId, bool)> = None;
    for (key, value) in log.state_prefix(&offsets::offsets_prefix(group)) {
        let Some(id) = offsets::partition_of_key(&key) else {
            tracing::error!(group, "a key of the state is not a committed offset's");
            continue;
        };
        let is_there = match known {
            Some((topic, is_there)) if topic == id.topic => is_there,
            _ => log.topic_by_id(id.topic).is_some(),
        };
        known = Some((id.topic, is_there));
        if !is_there {
            continue;
        }
        match Committed::decode(&value) {
            Ok(committed) => drop(all.insert(id, committed)),
            Err(error) => tracing::error!(group, partition = %id, %error, "a committed offset is left out"),
        }
    }
    all
}

/// Whether `name` may be a group's: the rule is that of topics.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len())
        && name.bytes().all(allowed)
        && name != "."
        && name != ".."
        && !name.starts_with("__")
}

fn is_of_topic(key: &[u8], topic: TopicId) -> bool {
    offsets::partition_of_key(key).is_some_and(|id| id.topic == topic)
}

async fn append(log: &Log, state: Vec<StateChange>) -> Result<(), Error> {
    if state.is_empty() {
        return Ok(());
    }
    log.append(AppendRequest {
        parts: Vec::new(),
        state,
        ack: Ack::Durable,
        once: None,
    })?
    .await
    .map(drop)
}

/// Runs `change` to its end, also when the caller is dropped, and holds the guard until then.
async fn finish<G: Send + 'static>(
    guard: G,
    change: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), Error> {
    let task = tokio::spawn(async move {
        let result = change.await;
        drop(guard);
        result
    });
    // A task that is never aborted fails only by a panic of its own or when the runtime ends.
    task.await.unwrap_or(Err(Error::Closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_topics() {
        for good in ["a", "billing-1", "A.b_c", "_x", "...", &"a".repeat(249)] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "__x", "a b", "ä", "a/b", "a\0", &"a".repeat(250)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
