//! What members do: join, poll, heartbeat, commit, leave.
//!
//! Decisions are [`Ordered`](super::ordered::Ordered)'s, taken under the lock of the group's cell; what waits (for the
//! disk, for records, for a commit to be durable) waits outside it, and asks again afterwards whether it is still true.
//! A commit runs to its end in a task of its own, whether or not its client is still there.
//!
//! Crash: members are gone, what they have committed is not. A consumer goes on with the loop that it was in.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OwnedMutexGuard;

use super::coordinator::{Cell, Coordinator, Core, Outside};
use super::live::Kind;
use super::ordered::{Answer, Joining, Ms, Place, Refused};
use super::poll_id::{MAX_PARTITIONS, PollId};
use super::shared::queue::MemberKey;
use super::shared::settings::{GroupValue, Settings};
use super::shared::work::Work;
use super::subscriptions::has_begun;
use super::{Commit, commit_here, offsets, shared};
use crate::broker::Broker;
use crate::broker::blocking::Work as Blocking;
use crate::broker::engine::{Log, Offset, Partition, PartitionId, TimestampMs, Topic, TopicId};
use crate::broker::fetch::page::{Limits, Page};
use crate::broker::fetch::read_page;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::catalog;
use crate::broker::topics::skips::Gap;

/// Where a group begins in topics of which it has committed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the log start.
    #[default]
    Earliest,
    /// At the end, as of the first member's joining.
    Latest,
    /// At the first record of this time or later.
    Time(TimestampMs),
}

/// What a member joins with.
#[derive(Clone, Debug)]
pub struct Join {
    /// The topics that it subscribes to.
    pub topics: BTreeSet<String>,
    /// What it calls itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// How long it may be silent, in milliseconds.
    pub session_timeout: Ms,
    /// Where the group begins.
    pub start: Start,
    /// How the group is shared.
    pub kind: Kind,
    /// Of a shared group: how long a record is leased, in milliseconds.
    pub lease_ms: Option<u32>,
    /// Of a shared group: how often a record is delivered before it goes to the dead letters.
    pub max_deliveries: Option<u32>,
    /// Of a shared group: where the dead letters go.
    pub dead_letter_topic: Option<String>,
}

impl Join {
    /// What the group is made as, if this is its first member.
    fn value(&self) -> Result<GroupValue, Refusal> {
        if self.kind == Kind::Ordered {
            return Ok(GroupValue::Ordered);
        }
        let default = Settings::default();
        let settings = Settings {
            lease_ms: self.lease_ms.unwrap_or(default.lease_ms),
            max_deliveries: self.max_deliveries.unwrap_or(default.max_deliveries),
            dead_letter_topic: self.dead_letter_topic.clone(),
        };
        let checked = settings.check(self.topics.iter().map(String::as_str));
        checked.map_err(|unfit| Refusal::invalid(format!("/{}", unfit.field), unfit.to_string()))?;
        Ok(GroupValue::Shared(settings))
    }

    /// Whether it fits a group that is there.
    fn check(&self, group: &str, value: &GroupValue) -> Result<(), Refusal> {
        let GroupValue::Shared(settings) = value else {
            if self.kind == Kind::Ordered {
                return Ok(());
            }
            return Err(Refusal::new(
                Reason::GroupTypeMismatch,
                format!("the group {group} is ordered"),
            ));
        };
        if self.kind == Kind::Ordered {
            return Err(Refusal::new(
                Reason::GroupTypeMismatch,
                format!("the group {group} is shared"),
            ));
        }
        let differs = self.lease_ms.is_some_and(|ms| ms != settings.lease_ms)
            || self
                .max_deliveries
                .is_some_and(|most| most != settings.max_deliveries)
            || (self.dead_letter_topic.is_some() && self.dead_letter_topic != settings.dead_letter_topic);
        if differs {
            let detail = format!(
                "the group {group} was begun with lease_ms {}, max_deliveries {} and dead_letter_topic {}",
                settings.lease_ms,
                settings.max_deliveries,
                settings.dead_letter_topic.as_deref().unwrap_or("null")
            );
            return Err(Refusal::new(Reason::GroupSettingsDiffer, detail));
        }
        Ok(())
    }
}

/// A member as it is told.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its name.
    pub member: Arc<str>,
    /// Its epoch.
    pub epoch: u64,
    /// What it reads, sorted by topic and partition.
    pub assignment: Vec<(Arc<str>, u32)>,
}

/// What a poll asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The `poll_id` of the answer that is done with.
    pub ack: Option<String>,
    /// Records at most.
    pub max_records: u64,
    /// Stored bytes at most; one record is always given.
    pub max_bytes: u64,
    /// How long to wait for a record.
    pub wait: Duration,
}

/// What a poll is answered.
pub struct Polled {
    /// Names the answer.
    pub poll_id: String,
    /// The member's epoch.
    pub epoch: u64,
    /// What it reads, sorted by topic and partition.
    pub assignment: Vec<(Arc<str>, u32)>,
    /// The records.
    pub pages: Vec<Delivered>,
}

/// What a poll is answered, by the kind of the group.
pub enum Answered {
    /// Records of partitions that the member reads.
    Ordered(Polled),
    /// Records that are leased to the member.
    Shared(shared::members::Leased),
}

/// The records of one partition.
pub struct Delivered {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    pub(crate) page: Page,
}

impl Delivered {
    /// Damaged offsets that were skipped on purpose.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.page.gaps
    }
}

pub(crate) fn now_ms(broker: &Broker) -> Ms {
    u64::try_from(broker.clock.monotonic().0.as_millis()).unwrap_or(u64::MAX)
}

/// Begins a change of what a group has committed that none of its members makes. Nobody joins until it is dropped.
/// `None`: the group has members, or one that is gone has a commit on its way.
#[must_use]
pub fn begin_outside(broker: &Broker, group: &str) -> Option<Outside> {
    broker.groups.coordinator.begin_outside(group, now_ms(broker))
}

pub(crate) fn unknown_member(group: &str, member: &str) -> Refusal {
    Refusal::new(
        Reason::UnknownMember,
        format!("{member} is no member of the group {group}: join first, or poll with the fields of a join"),
    )
}

pub(crate) fn refused(refused: Refused, group: &str, member: &str) -> Refusal {
    match refused {
        Refused::Unknown => unknown_member(group, member),
        Refused::Fenced => Refusal::new(
            Reason::Fenced,
            format!("{member} acts with an epoch, or for a partition, that it no longer has: poll to go on"),
        ),
        Refused::Superseded => Refusal::new(
            Reason::PollSuperseded,
            format!("a newer poll of {member} has taken the place of this one, which delivers nothing"),
        ),
    }
}

/// The state of a group; a cell that was forgotten in between is looked for again.
fn with<T>(broker: &Broker, group: &str, work: impl FnOnce(&Arc<Cell>, &mut Core) -> T) -> T {
    let coordinator = &broker.groups.coordinator;
    loop {
        let cell = coordinator.cell(group);
        let now = now_ms(broker);
        let mut core = coordinator.lock(&cell, now);
        if core.is_forgotten() {
            continue;
        }
        let result = work(&cell, &mut core);
        coordinator.settle(&mut core, now);
        return result;
    }
}

/// Joins a group, or takes the place of the member of that name. Makes the group, durably.
///
/// # Errors
/// 404 `unknown-topic`; 503 with too many members; what a commit meets.
pub async fn join(broker: &Broker, group: &str, member: Option<&str>, join: Join) -> Result<Joined, Refusal> {
    for topic in &join.topics {
        catalog::find(&broker.log, topic)?;
    }
    if !broker.groups.coordinator.has_room() {
        return Err(Refusal::new(
            Reason::Overloaded,
            "there are too many members of groups",
        ));
    }
    let member: Arc<str> = match member {
        Some(member) => member.into(),
        None => format!(
            "{}-{:016x}",
            join.client_id.as_deref().unwrap_or("member"),
            Coordinator::random()
        )
        .into(),
    };
    let joined = loop {
        let value = begin(broker, group, &join).await?;
        let cell = broker.groups.coordinator.cell(group);
        // Registered before the state is looked at, so that its end is not missed.
        let mut joinable = pin!(cell.joinable.notified());
        joinable.as_mut().enable();
        let joined = with(broker, group, |now_there, core| {
            if core.is_closed() {
                return Err(Arc::ptr_eq(now_there, &cell));
            }
            if value_of(&broker.log, group).ok().flatten().as_ref() != Some(&value) {
                return Err(false);
            }
            if let (GroupValue::Shared(settings), None) = (&value, &core.work) {
                core.work = Some(Work::new(settings.clone()));
            }
            let joining = Joining {
                member: Arc::clone(&member),
                client_id: join.client_id.clone(),
                address: join.address.clone(),
                session_timeout: join.session_timeout,
            };
            core.join(joining, join.topics.clone(), now_ms(broker));
            core.refresh(group, &broker.log, &broker.groups.coordinator);
            Ok(core.ordered.tell(&member))
        });
        match joined {
            Ok(joined) => break joined,
            Err(true) => joinable.await,
            // Deleted since it was looked at, or made anew.
            Err(false) => {}
        }
    };
    let (epoch, assignment) = joined.map_err(|error| refused(error, group, &member))?;
    tracing::debug!(group, member = &*member, epoch, "a member joined");
    Ok(Joined {
        member,
        epoch,
        assignment: named(broker, &assignment),
    })
}

/// What a group is; `None` if it has not been made.
pub(crate) fn value_of(log: &Log, group: &str) -> Result<Option<GroupValue>, Refusal> {
    let value = log.state_get(&offsets::group_key(group));
    value
        .map(|value| GroupValue::decode(&value))
        .transpose()
        .map_err(|error| {
            tracing::error!(group, %error, "nobody can join this group");
            Refusal::new(
                Reason::Internal,
                format!("what the group {group} is cannot be read; delete it, or use a newer quipu"),
            )
        })
}

/// Makes the group and subscribes it to the topics that are new to it, with committed offsets where it begins there unless
/// that is the log start. Returns what the group is.
///
/// Cost: nothing is written where the group has begun in all of the topics.
async fn begin(broker: &Broker, group: &str, join: &Join) -> Result<GroupValue, Refusal> {
    let fresh = join.value()?;
    let known = value_of(&broker.log, group)?;
    if let Some(value) = known {
        join.check(group, &value)?;
        if new_topics(broker, group, join)?.is_empty() {
            return Ok(value);
        }
    }
    // Alone: two members that join at once begin at the same place.
    let guard = broker.groups.alone().await;
    let known = value_of(&broker.log, group)?;
    if let Some(value) = &known {
        join.check(group, value)?;
    }
    let topics = new_topics(broker, group, join)?;
    let mut commits = Vec::new();
    for topic in topics.iter().filter(|_| join.start != Start::Earliest) {
        for partition in topic.partitions().iter() {
            let offset = starting_offset(broker, partition, join.start).await?;
            commits.push(Commit {
                partition: partition.id(),
                offset,
                metadata: None,
            });
        }
    }
    let topics: Vec<TopicId> = topics.iter().map(|topic| topic.id()).collect();
    let value = known.clone().unwrap_or(fresh);
    if known.is_none() || !topics.is_empty() {
        super::make(
            &broker.log,
            guard,
            group,
            &value,
            topics,
            commits,
            broker.clock.now(),
        )
        .await?;
    }
    Ok(value)
}

/// The topics of a join in which the group has not begun.
fn new_topics(broker: &Broker, group: &str, join: &Join) -> Result<Vec<Arc<Topic>>, Refusal> {
    let topics = join.topics.iter().map(|name| catalog::find(&broker.log, name));
    topics
        .filter(|topic| {
            topic
                .as_ref()
                .map_or(true, |topic| !has_begun(&broker.log, group, topic.id()))
        })
        .collect()
}

/// Subscribes the group to topics that took the place of deleted ones under the same names ([`Core::unsubscribed`]).
pub(crate) async fn subscribe_to_replaced(
    broker: &Broker,
    cell: &Cell,
    topics: Vec<TopicId>,
) -> Result<(), Refusal> {
    let Some(value) = value_of(&broker.log, &cell.group)? else {
        return Ok(());
    };
    let guard = broker.groups.commits().await;
    let now = broker.clock.now();
    super::make(
        &broker.log,
        guard,
        &cell.group,
        &value,
        topics.clone(),
        Vec::new(),
        now,
    )
    .await?;
    let mut core = broker.groups.coordinator.lock(cell, now_ms(broker));
    core.unsubscribed.retain(|topic| !topics.contains(topic));
    Ok(())
}

/// Changes what a member subscribes to, if its poll says something new.
async fn subscribe(broker: &Broker, group: &str, member: &str, join: &Join) -> Result<(), Refusal> {
    if let Some(value) = value_of(&broker.log, group)? {
        join.check(group, &value)?;
    }
    let is_news = with(broker, group, |_, core| !core.subscribes(member, &join.topics));
    if !is_news {
        return Ok(());
    }
    for topic in &join.topics {
        catalog::find(&broker.log, topic)?;
    }
    begin(broker, group, join).await?;
    with(broker, group, |_, core| {
        core.subscribe(member, &join.topics);
        core.refresh(group, &broker.log, &broker.groups.coordinator);
    });
    Ok(())
}

async fn starting_offset(
    broker: &Broker,
    partition: &Arc<Partition>,
    start: Start,
) -> Result<Offset, Refusal> {
    let positions = partition.positions();
    match start {
        Start::Earliest => Ok(positions.log_start_offset),
        Start::Latest => Ok(positions.end_offset),
        Start::Time(time) => {
            let (broker, partition) = (broker.clone(), Arc::clone(partition));
            let threads = broker.blocking.clone();
            let found = threads.attempt(Blocking::Read, move || {
                Ok(crate::broker::topics::skips::offset_for_time(
                    &broker.log,
                    &partition,
                    time,
                )?)
            });
            Ok(found.await?.map_or(positions.end_offset, |(offset, _)| offset))
        }
    }
}

/// Names partitions by topic, sorted.
fn named(broker: &Broker, partitions: &[PartitionId]) -> Vec<(Arc<str>, u32)> {
    let mut names: BTreeMap<TopicId, Option<Arc<str>>> = BTreeMap::new();
    let mut named: Vec<(Arc<str>, u32)> = partitions
        .iter()
        .filter_map(|id| {
            let name = names
                .entry(id.topic)
                .or_insert_with(|| broker.log.topic_by_id(id.topic).map(|topic| topic.name().into()));
            name.clone().map(|name| (name, id.index))
        })
        .collect();
    named.sort();
    named
}

/// Makes what a member acknowledged or committed durable, and tells the group. Runs to its end whoever is still there.
async fn commit(
    broker: &Broker,
    cell: &Arc<Cell>,
    order: OwnedMutexGuard<()>,
    commits: Vec<(PartitionId, Offset)>,
    metadata: BTreeMap<PartitionId, String>,
) -> Result<(), Refusal> {
    if commits.is_empty() {
        return Ok(());
    }
    let (broker, cell) = (broker.clone(), Arc::clone(cell));
    let task = tokio::spawn(async move {
        let guard = broker.groups.commits().await;
        let changes = commits
            .iter()
            .map(|(id, offset)| Commit {
                partition: *id,
                offset: *offset,
                metadata: metadata.get(id).cloned(),
            })
            .collect();
        let result = commit_here(&broker.log, &cell.group, changes, broker.clock.now()).await;
        let mut core = broker.groups.coordinator.lock(&cell, now_ms(&broker));
        core.ordered.end_commit(&commits, result.is_ok());
        drop(core);
        drop((guard, order));
        result
    });
    match task.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Refusal::new(Reason::ShuttingDown, "the server is stopping")),
    }
}

/// Waits for a member's turn to commit, which its commits take in the order in which they begin.
async fn turn_of(broker: &Broker, group: &str, member: &str) -> Result<OwnedMutexGuard<()>, Refusal> {
    let find = || {
        let cell = broker.groups.coordinator.find(group)?;
        let core = broker.groups.coordinator.lock(&cell, now_ms(broker));
        core.ordered
            .members
            .get(member)
            .map(|member| Arc::clone(&member.order))
    };
    let order = find().ok_or_else(|| unknown_member(group, member))?;
    Ok(order.lock_owned().await)
}

pub(crate) fn read_ack(ack: Option<&str>, group: &str, member: &str) -> Result<Option<PollId>, Refusal> {
    let Some(text) = ack else { return Ok(None) };
    match PollId::decode(text, group, member) {
        Some(id) => Ok(Some(id)),
        None => Err(Refusal::invalid(
            "/ack",
            format!("ack is not a poll_id that {member} was given in the group {group}"),
        )),
    }
}

/// A poll that is under way; dropping it ends it.
pub(crate) struct Polling<'a> {
    broker: &'a Broker,
    pub(crate) cell: Arc<Cell>,
    pub(crate) member: &'a str,
    pub(crate) token: u64,
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let now = now_ms(self.broker);
        let coordinator = &self.broker.groups.coordinator;
        let mut core = coordinator.lock(&self.cell, now);
        core.ordered.abandon(self.member, self.token, now);
        // Its session runs again.
        coordinator.settle(&mut core, now);
    }
}

/// Joins where the member is unknown; otherwise it subscribes to what it now says.
async fn be_member(broker: &Broker, group: &str, member: &str, join: &Join) -> Result<(), Refusal> {
    let known = broker.groups.coordinator.find(group).is_some_and(|cell| {
        let core = broker.groups.coordinator.lock(&cell, now_ms(broker));
        core.ordered.members.contains_key(member)
    });
    if !known {
        self::join(broker, group, Some(member), join.clone()).await?;
        return Ok(());
    }
    subscribe(broker, group, member, join).await
}

/// Commits what the poll named by `ack` delivered, then waits for records and delivers them. Joins first where the member
/// is unknown and `joining` is there.
///
/// # Errors
/// 404 `unknown-member`, 409 `poll-superseded`; what [`join`] and commits meet; 500 `corrupt-data` where nothing but
/// damaged records is left to read.
pub async fn poll(
    broker: &Broker,
    group: &str,
    member: &str,
    wanted: &Wanted,
    joining: Option<Join>,
) -> Result<Answered, Refusal> {
    let ack = read_ack(wanted.ack.as_deref(), group, member)?;
    let refusal = |error| refused(error, group, member);
    let (order, cell, begun) = loop {
        if let Some(request) = &joining {
            be_member(broker, group, member, request).await?;
        }
        let begun = match turn_of(broker, group, member).await {
            Ok(order) => with(broker, group, |cell, core| {
                core.refresh(group, &broker.log, &broker.groups.coordinator);
                core.ordered
                    .begin_poll(member, ack.as_ref(), now_ms(broker))
                    .map(|begun| (order, Arc::clone(cell), begun))
            })
            .map_err(refusal),
            Err(unknown) => Err(unknown),
        };
        match begun {
            Ok(begun) => break begun,
            // Its session has ended since: it joins again.
            Err(unknown) if unknown.reason == Reason::UnknownMember && joining.is_some() => {}
            Err(refusal) => return Err(refusal),
        }
    };
    let polling = Polling {
        broker,
        cell,
        member,
        token: begun.token,
    };
    if broker
        .groups
        .coordinator
        .lock(&polling.cell, now_ms(broker))
        .work
        .is_some()
    {
        // Settles keep an order of their own.
        drop(order);
        return shared::members::poll(broker, &polling, group, wanted)
            .await
            .map(Answered::Shared);
    }
    commit(broker, &polling.cell, order, begun.commits, BTreeMap::new()).await?;
    let wake = {
        let mut core = broker.groups.coordinator.lock(&polling.cell, now_ms(broker));
        core.ordered.go_on(member, polling.token).map_err(refusal)?;
        core.ordered
            .members
            .get(member)
            .map(|member| Arc::clone(&member.wake))
    };
    let Some(wake) = wake else {
        return Err(unknown_member(group, member));
    };

    let mut timeout = pin!(tokio::time::sleep(wanted.wait));
    let mut stopping = broker.stopping.subscribe();
    let mut topics = broker.groups.coordinator.watch_topics();
    let mut is_over = wanted.wait.is_zero();
    loop {
        // Registered before the state is looked at, so that no change of it is missed.
        let mut woken = pin!(wake.notified());
        woken.as_mut().enable();
        topics.mark_unchanged();
        let ((places, is_new), unsubscribed) = {
            let mut core = broker.groups.coordinator.lock(&polling.cell, now_ms(broker));
            core.refresh(group, &broker.log, &broker.groups.coordinator);
            let places = core.ordered.readable(member, polling.token).map_err(refusal)?;
            (places, core.unsubscribed.clone())
        };
        if !unsubscribed.is_empty() {
            subscribe_to_replaced(broker, &polling.cell, unsubscribed).await?;
        }
        let partitions = find_partitions(broker, &places);
        let (pages, fault) = read(broker, &partitions, wanted).await?;
        if pages.is_empty()
            && !is_new
            && let Some(fault) = fault
        {
            return Err(fault);
        }
        if !pages.is_empty() || is_new || is_over {
            let ranges = pages
                .iter()
                .map(|delivered| {
                    (
                        delivered.partition,
                        delivered.page.from,
                        delivered.page.next_offset,
                    )
                })
                .collect();
            let mut core = broker.groups.coordinator.lock(&polling.cell, now_ms(broker));
            let answer = core
                .ordered
                .deliver(member, polling.token, ranges, now_ms(broker))
                .map_err(refusal)?;
            drop(core);
            match answer {
                Some(answer) => return Ok(Answered::Ordered(polled(broker, group, member, answer, pages))),
                None => continue,
            }
        }
        let mut data: FuturesUnordered<_> = partitions
            .iter()
            .map(|(_, partition, position, _)| partition.wait_for(*position))
            .collect();
        tokio::select! {
            Some(()) = data.next() => {}
            () = woken => {}
            _ = topics.changed() => {}
            () = &mut timeout => is_over = true,
            // An error means that nobody is left to stop the server: as good as stopping.
            _ = stopping.wait_for(|stopping| *stopping) => is_over = true,
        }
    }
}

fn polled(broker: &Broker, group: &str, member: &str, answer: Answer, pages: Vec<Delivered>) -> Polled {
    Polled {
        poll_id: answer.poll_id.encode(group, member),
        epoch: answer.epoch,
        assignment: named(broker, &answer.assignment),
        pages,
    }
}

/// A partition to read: from where, and until where if that is bounded.
type Reading = (Arc<Topic>, Arc<Partition>, Offset, Option<Offset>);

/// The partitions of places to read: each from the log start where that has passed the position.
fn find_partitions(broker: &Broker, places: &[Place]) -> Vec<Reading> {
    let mut topics: BTreeMap<TopicId, Option<Arc<Topic>>> = BTreeMap::new();
    let find = |place: &Place| {
        let id = place.partition;
        let topic = topics
            .entry(id.topic)
            .or_insert_with(|| broker.log.topic_by_id(id.topic))
            .clone()?;
        let partition = topic.partition(id.index)?;
        let from = partition.positions().log_start_offset.max(place.from);
        // Where the lost records are deleted, the partition is read like any other.
        let until = place.until.filter(|until| *until > from);
        Some((topic, partition, from, until))
    };
    places.iter().filter_map(find).collect()
}

/// Reads what there is, within the limits; and says what was wrong with a partition that could not be read.
async fn read(
    broker: &Broker,
    places: &[Reading],
    wanted: &Wanted,
) -> Result<(Vec<Delivered>, Option<Refusal>), Refusal> {
    let (mut records, mut bytes) = (0, 0);
    let mut pages: Vec<Delivered> = Vec::new();
    let mut fault = None;
    for (topic, partition, from, until) in places {
        if records >= wanted.max_records || bytes >= wanted.max_bytes || pages.len() == MAX_PARTITIONS {
            break;
        }
        if partition.positions().end_offset <= *from {
            continue;
        }
        let limits = Limits {
            from: *from,
            until: *until,
            max_records: wanted.max_records - records,
            max_bytes: wanted.max_bytes - bytes,
            whole_batches: false,
        };
        let page = match read_page(&broker.log, &broker.blocking, partition, limits).await {
            Ok(page) => page,
            // Deleted or trimmed meanwhile: it is looked at again.
            Err(refusal) if matches!(refusal.reason, Reason::UnknownTopic | Reason::OffsetTrimmed) => {
                continue;
            }
            Err(refusal) => {
                let place = partition.id().index;
                fault.get_or_insert(refusal.with("topic", topic.name()).with("partition", place));
                continue;
            }
        };
        // One record is always read: in a poll only the first partition's may be above the limit.
        if !pages.is_empty() && bytes + page.stored_bytes > wanted.max_bytes {
            break;
        }
        if page.next_offset <= *from {
            continue;
        }
        records += page.records;
        bytes += page.stored_bytes;
        pages.push(Delivered {
            topic: topic.name().into(),
            partition: partition.id(),
            page,
        });
    }
    broker
        .counters
        .fetched_records
        .fetch_add(records, std::sync::atomic::Ordering::Relaxed);
    broker
        .counters
        .fetched_bytes
        .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    Ok((pages, fault))
}

/// Keeps a member alive. Returns its epoch, and whether the group waits for it to poll.
///
/// # Errors
/// 404 `unknown-member`, 409 `fenced` with a stale epoch.
pub fn heartbeat(broker: &Broker, group: &str, member: &str, epoch: Option<u64>) -> Result<u64, Refusal> {
    let cell = broker
        .groups
        .coordinator
        .find(group)
        .ok_or_else(|| unknown_member(group, member))?;
    let now = now_ms(broker);
    let mut core = broker.groups.coordinator.lock(&cell, now);
    core.ordered
        .touch(member, epoch, now)
        .map_err(|error| refused(error, group, member))
}

/// Commits offsets for a member. What lies below the committed offset stays there: the answer is what is committed now.
///
/// # Errors
/// 404 `unknown-member`; 409 `fenced`: nothing was committed; what a commit meets.
pub async fn commit_as(
    broker: &Broker,
    group: &str,
    member: &str,
    epoch: u64,
    commits: Vec<Commit>,
) -> Result<BTreeMap<PartitionId, Offset>, Refusal> {
    let offsets: Vec<(PartitionId, Offset)> = commits
        .iter()
        .map(|commit| (commit.partition, commit.offset))
        .collect();
    let metadata = commits
        .into_iter()
        .filter_map(|commit| Some((commit.partition, commit.metadata?)))
        .collect();
    let refusal = |error| refused(error, group, member);
    let order = turn_of(broker, group, member).await?;
    let cell = broker
        .groups
        .coordinator
        .find(group)
        .ok_or_else(|| unknown_member(group, member))?;
    let news = {
        let now = now_ms(broker);
        let mut core = broker.groups.coordinator.lock(&cell, now);
        let mut news = offsets.clone();
        news.retain(|(id, offset)| {
            core.ordered
                .committed(*id)
                .is_none_or(|committed| committed <= *offset)
        });
        core.ordered.touch(member, Some(epoch), now).map_err(refusal)?;
        core.ordered
            .check_held(member, offsets.iter().map(|(id, _)| *id))
            .map_err(refusal)?;
        core.ordered.begin_commit(&news);
        news
    };
    commit(broker, &cell, order, news, metadata).await?;
    let core = broker.groups.coordinator.lock(&cell, now_ms(broker));
    Ok(offsets
        .iter()
        .map(|(id, offset)| (*id, core.ordered.committed(*id).unwrap_or(*offset)))
        .collect())
}

/// Leaves the group, committing what the poll named by `ack` delivered; in a shared group, accepting what of it is not
/// settled.
///
/// # Errors
/// 404 `unknown-member`; what a commit or a settle meets: the member is still there.
pub async fn leave(broker: &Broker, group: &str, member: &str, ack: Option<&str>) -> Result<(), Refusal> {
    let ack = read_ack(ack, group, member)?;
    let refusal = |error| refused(error, group, member);
    let order = turn_of(broker, group, member).await?;
    let cell = broker
        .groups
        .coordinator
        .find(group)
        .ok_or_else(|| unknown_member(group, member))?;
    let (commits, leases) = {
        let mut core = broker.groups.coordinator.lock(&cell, now_ms(broker));
        let key = core.ordered.members.get(member).map(|member| member.key());
        let leases = key.filter(|_| core.work.is_some());
        let commits = core.ordered.begin_leave(member, ack.as_ref()).map_err(refusal)?;
        (commits, leases)
    };
    if let (Some(key), Some(ack)) = (leases, &ack) {
        shared::settle::acknowledge(broker, &cell, MemberKey(key), ack).await?;
    }
    commit(broker, &cell, order, commits, BTreeMap::new()).await?;
    let now = now_ms(broker);
    let mut core = broker.groups.coordinator.lock(&cell, now);
    core.leave(member);
    broker.groups.coordinator.settle(&mut core, now);
    tracing::debug!(group, member, "a member left");
    Ok(())
}

/// A member, as it is described.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name.
    pub member: Arc<str>,
    /// What it calls itself.
    pub client_id: Option<String>,
    /// Where it was heard from.
    pub address: Option<String>,
    /// Its epoch.
    pub epoch: u64,
    /// How long ago it was heard from; 0 while it is in a poll.
    pub last_contact_ms: u64,
    /// It is in a poll.
    pub is_polling: bool,
    /// What it reads.
    pub assignment: Vec<(Arc<str>, u32)>,
    /// In a shared group, how many records are leased to it.
    pub leased: Option<usize>,
}

/// The members of a group, sorted by name.
#[must_use]
pub fn describe(broker: &Broker, group: &str) -> Vec<Described> {
    let Some(cell) = broker.groups.coordinator.find(group) else {
        return Vec::new();
    };
    let now = now_ms(broker);
    let core = broker.groups.coordinator.lock(&cell, now);
    let mut held: BTreeMap<&Arc<str>, Vec<PartitionId>> = BTreeMap::new();
    for (id, owner) in core.ordered.partitions() {
        if let Some(owner) = owner {
            held.entry(owner).or_default().push(id);
        }
    }
    core.ordered
        .members
        .iter()
        .map(|(name, member)| Described {
            member: Arc::clone(name),
            client_id: member.client_id.clone(),
            address: member.address.clone(),
            epoch: member.epoch,
            last_contact_ms: if member.is_polling() {
                0
            } else {
                now.saturating_sub(member.last_contact)
            },
            is_polling: member.is_polling(),
            assignment: named(broker, held.get(name).map_or(&[][..], Vec::as_slice)),
            leased: core
                .work
                .as_ref()
                .map(|work| work.leased_to(MemberKey(member.key()))),
        })
        .collect()
}

/// Ends sessions as they run out, until the server stops. To be spawned once.
pub async fn end_sessions(broker: Broker) {
    let mut stopping = broker.stopping.subscribe();
    loop {
        let (next, busy) = broker.groups.coordinator.tick(now_ms(&broker));
        for cell in busy {
            shared::settle::attend(&broker, &cell);
        }
        let wait = next.map(|next| Duration::from_millis(next.saturating_sub(now_ms(&broker)).max(5)));
        let timer = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {}
            () = broker.groups.coordinator.sooner.notified() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}
