//! Resets: somebody who is no member sets a group's committed offsets, in one append over all its topics.
//!
//! A reset is planned from the committed offsets, while no commit runs. A dry run ends there. Its preview is a
//! fingerprint of the plan; the real call that comes with it is refused if the plan is another one by now.
//!
//! With live members, a reset
//! 1. lets nobody join, and begins no settle of a queue;
//! 2. takes each member's turn to commit, and waits until what has begun is durable: from then on nobody commits;
//! 3. plans and appends like any other reset;
//! 4. moves the group in memory, before anybody may commit again.
//!
//! So an acknowledgement lands before the reset, or it is of an answer from before it and counts nowhere that the reset
//! moved; after a restart, the group's [generation] says so. A crash leaves the whole reset or nothing of it.
//!
//! In a queue nothing is settled from the new offset on, and leases end. Whoever holds a record from before the reset
//! cannot settle it, unless it is leased again ([`Queue::disown`](super::shared::queue::Queue::disown)). Redriven records
//! below the new offset stay.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::live::Progress;
use super::offsets::Committed;
use super::ordered::partitions::passed::Seen;
use super::shared::codec;
use super::shared::settings::GroupValue;
use super::{Commit, Groups, Outside, Subscribed, append, audited, generation};
use crate::broker::blocking::Share;
use crate::broker::caller::Caller;
use crate::broker::engine::{
    Error, Log, Offset, Partition, PartitionId, Positions, StateChange, TimestampMs, Topic, TopicId,
};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::lookup::Start;
use crate::broker::topics::{self, catalog};
use crate::formats::token::{self, VERSION};

/// Where a reset moves a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To where a new group would begin.
    At(Start),
    /// To this offset.
    Offset(u64),
    /// By so many offsets from what is committed.
    Shift(i64),
}

/// A topic to reset, and the field of the request that names it.
#[derive(Clone, Debug)]
pub struct NamedTopic {
    /// The topic's name.
    pub name: String,
    /// Where the request names it.
    pub field: String,
}

/// Which partitions a reset moves, and where to.
#[derive(Clone, Debug)]
pub struct Reset {
    /// The topics; `None`: all that the group has subscribed to or committed in.
    pub topics: Option<Vec<NamedTopic>>,
    /// The partitions of the one topic; `None`: all.
    pub partitions: Option<Vec<u32>>,
    /// The target.
    pub to: Target,
    /// Change nothing, only compute.
    pub dry_run: bool,
    /// Move the group although it has live members.
    pub while_active: bool,
    /// The preview of a dry run: refuse if the plan is another one by now.
    pub preview: Option<String>,
}

/// What a reset does to a partition.
#[derive(Clone, Debug)]
pub struct Moved {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// What was committed before; `None`: nothing.
    pub old: Option<Committed>,
    /// The committed offset after.
    pub new: Offset,
    /// The timestamp of the record that would have been read next; `None` at the end, and where it cannot be read.
    pub old_timestamp: Option<TimestampMs>,
    /// The same, after.
    pub new_timestamp: Option<TimestampMs>,
    /// The records that were left to do before.
    pub old_lag: u64,
    /// The same, after.
    pub new_lag: u64,
}

/// A planned or finished reset.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The partitions, by topic and partition.
    pub moved: Vec<Moved>,
    /// Stands for the partitions, with their old and new offsets.
    pub preview: String,
}

/// A partition of a reset, with its topic.
type Chosen = (Arc<Topic>, Arc<Partition>);

impl Moved {
    fn commit(&self) -> Commit {
        Commit {
            partition: self.partition,
            offset: self.new,
            leader_epoch: None,
            metadata: self.old.as_ref().and_then(|old| old.metadata.clone()),
        }
    }
}

impl Groups {
    /// Sets a group's offsets; a dry run also works while the group has members.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`], [`Reason::UnknownTopic`], [`Reason::UnknownPartition`], [`Reason::InvalidRequest`];
    /// [`Reason::GroupActive`]: it has members, and the reset is not for live groups, or they are of Kafka's classic
    /// protocol; [`Reason::PreviewOutdated`]: nothing
    /// was changed. Those of [`Groups::commit`].
    pub async fn reset(&self, caller: &Caller, group: &str, reset: Reset) -> Result<Plan, Refusal> {
        caller.check_group(&[Right::Write], group)?;
        for NamedTopic { name, field } in reset.topics.iter().flatten() {
            let checked = caller.check_topic(Right::Read, name);
            checked.map_err(|refusal| refusal.at(field))?;
        }
        self.check_exists(group)?;
        if let Some(preview) = &reset.preview
            && token::open(preview, BESIDE).is_none()
        {
            let detail = "preview is not one that a dry run has answered";
            return Err(Refusal::invalid("/preview", detail));
        }
        // A client that goes away ends the waiting, and not the change.
        let closed = match reset.while_active && !reset.dry_run {
            true => {
                self.refuse_classic(group)?;
                let closed = self.close(group).await;
                // From now on nobody joins.
                self.refuse_classic(group)?;
                Some(closed)
            }
            false => None,
        };
        let keeps = match reset.dry_run {
            // It only reads, and nobody's commit waits for that.
            true => None,
            false => {
                let guard = self.alone().await;
                self.check_exists(group)?;
                let outside = || Ok::<_, Refusal>((self.no_members(group)?, Vec::new()));
                Some((guard, closed.map_or_else(outside, Ok)?))
            }
        };
        let (groups, name, whose) = (self.clone(), group.to_owned(), caller.clone());
        let expected = reset.preview.clone();
        let plan = move || groups.plan_reset(&whose, &name, &reset);
        let plan = self.blocking.attempt(Share::Read, plan).await?;
        if expected.is_some_and(|expected| expected != plan.preview) {
            let detail = format!(
                "the group {group} or its topics have moved since that dry run: this reset would do something else now; make the dry run again"
            );
            return Err(Refusal::new(Reason::PreviewOutdated, detail));
        }
        let Some((guard, (mut outside, turns))) = keeps else {
            return Ok(plan);
        };
        let detail = format!("{} partitions", plan.moved.len());
        let entry = audited(&self.log, caller, "group.reset", group, "/offsets", detail);
        let (groups, group) = (self.clone(), group.to_owned());
        let task = tokio::spawn(async move {
            outside.is_in_step = false;
            let touched = groups.append_reset(&group, &plan.moved, entry).await?;
            groups.move_in_memory(&mut outside, &plan.moved);
            groups.remove_orphans(touched).await?;
            drop((turns, outside, guard));
            Ok(plan)
        });
        task.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }

    /// Keeps everybody from changing the group, members too, and returns when what has begun is durable. The members'
    /// turns to commit come with it.
    async fn close(&self, group: &str) -> (Outside, Vec<tokio::sync::OwnedMutexGuard<()>>) {
        let (cell, orders) = self.coordinator.begin_closing(group, self.now_ms());
        let outside = Outside {
            groups: self.clone(),
            cell,
            is_closing: true,
            // Until something is changed. Given up before that, the group goes on as it is: what it writes meanwhile, its
            // memory has, and a look at the state might not.
            is_in_step: true,
        };
        let mut turns = Vec::with_capacity(orders.len());
        for order in orders {
            turns.push(order.lock_owned().await);
        }
        // A former member's commit, and the writer of a queue.
        loop {
            let mut written = pin!(outside.cell.written.notified());
            written.as_mut().enable();
            if self.lock(&outside.cell).1.is_idle() {
                break;
            }
            written.await;
        }
        (outside, turns)
    }

    /// Appends the new offsets, and returns the topics that it names. What a queue remembers of the partitions goes: from the
    /// new offset on, nothing is settled.
    async fn append_reset(
        &self,
        group: &str,
        moved: &[Moved],
        entry: StateChange,
    ) -> Result<BTreeSet<TopicId>, Error> {
        let commits = moved.iter().map(Moved::commit).collect();
        let value = self.value_of(group).ok().flatten().unwrap_or_default();
        let (mut state, touched) = self.changes_for(group, &value, &Subscribed::default(), commits);
        match value {
            GroupValue::Ordered(_) => state.push(generation::begin(group)),
            GroupValue::Shared(_) => {
                for row in moved {
                    let entries = self.log.state_prefix(&codec::state_key(group, row.partition));
                    state.extend(entries.into_iter().map(|(key, _)| StateChange::remove(key)));
                }
            }
        }
        state.push(entry);
        append(&self.log, state).await?;
        Ok(touched)
    }

    /// Moves what the group's memory has of these partitions.
    fn move_in_memory(&self, outside: &mut Outside, moved: &[Moved]) {
        let (_, mut core) = self.lock(&outside.cell);
        core.members.generation = generation::of(&self.log, &outside.cell.group);
        if let Some((ordered, members)) = core.ordered() {
            let to: Vec<_> = moved.iter().map(|row| (row.partition, row.new)).collect();
            ordered.move_to(members, &to);
        } else if let Some(work) = core.work() {
            for row in moved {
                work.reload(&self.log, &outside.cell.group, row.partition);
            }
        }
        drop(core);
        outside.is_in_step = true;
    }

    /// Computes a reset. May block on the disk.
    fn plan_reset(&self, caller: &Caller, group: &str, reset: &Reset) -> Result<Plan, Refusal> {
        let known = self.known_of(group);
        let mut moved = Vec::new();
        for (topic, partition) in self.chosen(caller, group, reset)? {
            moved.push(known.planned(&self.log, &topic, &partition, reset.to)?);
        }
        moved.sort_by(|a, b| (&a.topic, a.partition.index).cmp(&(&b.topic, b.partition.index)));
        let preview = preview_of(group, &moved);
        Ok(Plan { moved, preview })
    }

    /// The partitions that a reset names; of all topics of the group those that the caller may read.
    fn chosen(&self, caller: &Caller, group: &str, reset: &Reset) -> Result<Vec<Chosen>, Refusal> {
        let topics: Vec<Arc<Topic>> = match &reset.topics {
            None => {
                let ids = self.scope(group).0.into_iter();
                let known = ids.filter_map(|id| self.log.topic_by_id(id));
                known
                    .filter(|topic| caller.may_topic(Right::Read, topic.name()))
                    .collect()
            }
            Some(named) if named.is_empty() => {
                let detail = "name a topic, or leave topics out for all of the group's";
                return Err(Refusal::invalid("/topics", detail));
            }
            Some(named) => {
                let mut topics = Vec::with_capacity(named.len());
                let mut seen = BTreeSet::new();
                for NamedTopic { name, field } in named {
                    if !seen.insert(name) {
                        return Err(Refusal::invalid(
                            field,
                            format!("the topic {name} is given twice"),
                        ));
                    }
                    let topic = catalog::find(&self.log, name);
                    topics.push(topic.map_err(|refusal| refusal.at(field))?);
                }
                topics
            }
        };
        let Some(indexes) = &reset.partitions else {
            let all = topics.iter().flat_map(|topic| {
                let partitions = topic.partitions();
                let with_topic = |partition: &Arc<Partition>| (Arc::clone(topic), Arc::clone(partition));
                partitions.iter().map(with_topic).collect::<Vec<Chosen>>()
            });
            return Ok(all.collect());
        };
        let [topic] = &topics[..] else {
            let detail = "partitions are those of one topic: name it";
            return Err(Refusal::invalid("/partitions", detail));
        };
        if indexes.is_empty() {
            let detail = "name a partition, or leave partitions out for all";
            return Err(Refusal::invalid("/partitions", detail));
        }
        let mut partitions = Vec::with_capacity(indexes.len());
        let mut seen = BTreeSet::new();
        for (i, index) in indexes.iter().enumerate() {
            let field = format!("/partitions/{i}");
            if !seen.insert(*index) {
                return Err(Refusal::invalid(
                    field,
                    format!("partition {index} is given twice"),
                ));
            }
            let found = topics::partition(topic, *index);
            partitions.push((Arc::clone(topic), found.map_err(|refusal| refusal.at(field))?));
        }
        Ok(partitions)
    }

    fn known_of(&self, group: &str) -> Known {
        Known {
            committed: self.committed(group),
            progress: self.progress(group),
            seen: self.seen(group),
        }
    }
}

/// What is known of a group before a reset.
struct Known {
    committed: BTreeMap<PartitionId, Committed>,
    /// Of a queue.
    progress: BTreeMap<PartitionId, Progress>,
    /// Of a group with a filter.
    seen: BTreeMap<PartitionId, Seen>,
}

impl Known {
    fn planned(&self, log: &Log, topic: &Topic, partition: &Partition, to: Target) -> Result<Moved, Refusal> {
        let id = partition.id();
        let positions = partition.positions();
        let old = self.committed.get(&id).cloned();
        let old_offset = old.as_ref().map(|old| old.offset);
        let new = to.resolve(log, partition, positions, old_offset)?;
        let end = positions.end_offset;
        let queue = self.progress.get(&id);
        let before = old_offset.unwrap_or(Offset::ZERO).max(positions.log_start_offset);
        let old_lag = match (queue, self.seen.get(&id)) {
            (Some(queue), _) => end.since(queue.settled),
            (None, Some(seen)) => end.since(seen.done()),
            (None, None) => end.since(before),
        };
        let first_due = queue.map(|queue| queue.first_due);
        Ok(Moved {
            topic: topic.name().into(),
            partition: id,
            new,
            old_timestamp: timestamp_at(partition, first_due.unwrap_or(before), end),
            new_timestamp: timestamp_at(partition, new, end),
            old_lag,
            new_lag: end.since(new),
            old,
        })
    }
}

/// The timestamp of the first record at or after an offset.
fn timestamp_at(partition: &Partition, offset: Offset, end: Offset) -> Option<TimestampMs> {
    if offset >= end {
        return None;
    }
    let located = partition.locate(offset).ok()?;
    located.next.map(|(_, timestamp)| timestamp)
}

/// The words that the checksum of a preview covers.
const BESIDE: &[&[u8]] = &[b"reset"];

/// The string that stands for a plan: a hash of the group, and of each partition with its old and new offset. How many
/// records are left to do is not in it, since that grows with each append.
fn preview_of(group: &str, moved: &[Moved]) -> String {
    let mut hash = Xxh3::new();
    hash.update(group.as_bytes());
    for row in moved {
        let old = row.old.as_ref().map_or(u64::MAX, |old| old.offset.get());
        for number in [
            row.partition.topic.0,
            row.partition.index.into(),
            old,
            row.new.get(),
        ] {
            hash.update(&number.to_be_bytes());
        }
    }
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&hash.digest().to_be_bytes());
    token::seal(bytes, BESIDE)
}

impl Target {
    /// The offset in a partition, within `log_start_offset..=end_offset`. May block on the disk.
    fn resolve(
        self,
        log: &Log,
        partition: &Partition,
        positions: Positions,
        old: Option<Offset>,
    ) -> Result<Offset, Refusal> {
        let (start, end) = (positions.log_start_offset, positions.end_offset);
        let wanted = match self {
            Self::At(place) => place.offset(log, partition)?,
            Self::Offset(offset) => Offset::try_new(offset).unwrap_or(Offset::MAX),
            Self::Shift(by) => {
                let from = old.unwrap_or(start).get();
                Offset::try_new(from.saturating_add_signed(by)).unwrap_or(Offset::MAX)
            }
        };
        Ok(wanted.clamp(start, end))
    }
}
