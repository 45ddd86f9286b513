//! The calls of members: join, heartbeat, leave. Commits are in [`super::commit`], polls in [`super::poll`], settles in
//! [`super::settle`].
//!
//! The state machines decide under the lock of the group's cell. A call that waits (for the disk, for records, for a
//! commit to be durable) waits outside the lock, and then checks again whether the decision still holds. A commit runs
//! to its end in its own task, even if its client goes away.
//!
//! After a crash the committed offsets are there, but no members: a poll with the fields of a join joins again.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::cell::{Cell, Core, Kind};
use super::classic::calls::has_classic_members;
use super::classic::{MAX_GROUP_MEMBERS, stored, views};
use super::commit::BegunCommits;
use super::coordinator::{Coordinator, Locked};
use super::live::{GroupState, GroupType};
use super::members::{Joining, Ms, Refused};
use super::ordered::partitions::Ordered;
use super::patterns::{Candidates, is_pattern};
use super::poll_id::{PollId, Unreadable};
use super::settle::is_ordered;
use super::shared::settings::{GroupValue, Order, Settings};
use super::shared::work::Work;
use super::subscriptions::{has_begun, knows_pattern};
use super::{Commit, Groups, Subscribed, generation, offsets};
use crate::broker::blocking::Share;
use crate::broker::caller::Caller;
use crate::broker::engine::{Offset, Partition, PartitionId, TimestampMs, Topic, TopicId};
use crate::broker::filter::Filter;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::catalog;
use crate::broker::topics::lookup::Start;

/// The parameters of a join.
#[derive(Clone, Debug)]
pub struct Join {
    /// The topics that it subscribes to: names, and [patterns](super::patterns) that were checked.
    pub topics: BTreeSet<String>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// How long the member may be silent, in milliseconds.
    pub session_timeout: Ms,
    /// Where the group starts in topics that are new to it.
    pub start: Start,
    /// How the group's members share the records.
    pub kind: GroupType,
    /// Of a shared group: how long a record is leased, in milliseconds.
    pub lease_ms: Option<u32>,
    /// Of a shared group: how often a record is delivered before it goes to the dead letters.
    pub max_deliveries: Option<u32>,
    /// Of a shared group: where the dead letters go.
    pub dead_letter_topic: Option<String>,
    /// Of a shared group: the order of the records within a partition.
    pub order: Option<Order>,
    /// The records that the group gets.
    pub filter: Option<Arc<Filter>>,
    /// The process that joins, as it names itself.
    pub instance: Option<String>,
}

#[cfg(test)]
impl Join {
    /// A join of a member that reads these topics from their start, and is there for long without a word.
    pub(super) fn of(topics: &[&str], kind: GroupType) -> Self {
        Self {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            client_id: None,
            address: None,
            session_timeout: 1_000_000,
            start: Start::Earliest,
            kind,
            lease_ms: None,
            max_deliveries: None,
            dead_letter_topic: None,
            order: None,
            filter: None,
            instance: None,
        }
    }
}

impl Join {
    /// The topics that it subscribes to by name.
    fn named_topics(&self) -> impl Iterator<Item = &String> {
        self.topics.iter().filter(|name| !is_pattern(name))
    }

    /// The kind and settings of the group, if this join creates it.
    fn value(&self, now: TimestampMs) -> Result<GroupValue, Refusal> {
        if self.kind == GroupType::Ordered {
            return Ok(GroupValue::Ordered(self.filter.clone().unwrap_or_default()));
        }
        let default = Settings::default();
        let settings = Settings {
            lease_ms: self.lease_ms.unwrap_or(default.lease_ms),
            max_deliveries: self.max_deliveries.unwrap_or(default.max_deliveries),
            dead_letter_topic: self.dead_letter_topic.clone(),
            created_at: now,
            order: self.order.unwrap_or_default(),
            filter: self.filter.clone().unwrap_or_default(),
        };
        let checked = settings.check(self.named_topics().map(String::as_str));
        checked.map_err(|unfit| Refusal::invalid(format!("/{}", unfit.field), unfit.to_string()))?;
        Ok(GroupValue::Shared(settings))
    }

    /// Whether the join fits an existing group.
    fn check(&self, caller: &Caller, group: &str, value: &GroupValue) -> Result<(), Refusal> {
        let GroupValue::Shared(settings) = value else {
            if self.kind != GroupType::Ordered {
                return Err(Refusal::new(
                    Reason::GroupTypeMismatch,
                    format!("the group {group} is ordered"),
                ));
            }
            if self.filter.as_ref().is_some_and(|given| given != value.filter()) {
                let detail = format!("the group {group} has the filter {}", value.filter());
                return Err(Refusal::new(Reason::GroupSettingsDiffer, detail));
            }
            return Ok(());
        };
        if self.kind == GroupType::Ordered {
            return Err(Refusal::new(
                Reason::GroupTypeMismatch,
                format!("the group {group} is shared"),
            ));
        }
        let differs = self.lease_ms.is_some_and(|ms| ms != settings.lease_ms)
            || self
                .max_deliveries
                .is_some_and(|most| most != settings.max_deliveries)
            || (self.dead_letter_topic.is_some() && self.dead_letter_topic != settings.dead_letter_topic)
            || self.order.is_some_and(|order| order != settings.order)
            || self
                .filter
                .as_ref()
                .is_some_and(|given| *given != settings.filter);
        if differs {
            let dead_letters = match settings.dead_letter_topic.as_deref() {
                None => "null",
                Some(topic) if caller.sees_topic(topic) => topic,
                Some(_) => "another than that of a join that names it",
            };
            let detail = format!(
                "the group {group} has lease_ms {}, max_deliveries {}, dead_letter_topic {dead_letters}, order {} and filter {}",
                settings.lease_ms,
                settings.max_deliveries,
                settings.order.name().unwrap_or("null"),
                settings.filter,
            );
            return Err(Refusal::new(Reason::GroupSettingsDiffer, detail));
        }
        let checked = settings.check(self.named_topics().map(String::as_str));
        checked.map_err(|unfit| Refusal::invalid("/topics", unfit.to_string()))
    }
}

/// Topics and patterns of a join in which the group has not begun.
#[derive(Default)]
struct Unbegun {
    /// With the place where it starts.
    topics: BTreeMap<TopicId, (Arc<Topic>, Start)>,
    patterns: Vec<String>,
}

impl Unbegun {
    fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.patterns.is_empty()
    }
}

/// What a join returns.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The member's name.
    pub member: Arc<str>,
    /// Its epoch.
    pub epoch: u64,
    /// The partitions that it reads, sorted by topic and partition.
    pub assignment: Vec<(Arc<str>, u32)>,
}

pub(super) fn refused(refused: Refused, group: &str, member: &str) -> Refusal {
    let (reason, detail) = match refused {
        Refused::Unknown => (
            Reason::UnknownMember,
            format!(
                "{member} is no member of the group {group}: join first, or poll with the fields of a join"
            ),
        ),
        Refused::Fenced => (
            Reason::Fenced,
            format!("{member} does not have that epoch or partition any more: poll to go on"),
        ),
        Refused::Superseded => (
            Reason::PollSuperseded,
            format!("a newer poll of {member} has superseded this one, which delivers nothing"),
        ),
        Refused::MemberSuperseded => (
            Reason::MemberSuperseded,
            format!(
                "a newer process has taken {member} over in the group {group}: stop this one, or give each process a member_id of its own"
            ),
        ),
    };
    Refusal::new(reason, detail)
}

/// How an attempt to join went.
pub(super) enum Attempt {
    /// It has joined; its partitions are assigned next.
    Done(Result<(), Refused>),
    /// The group has as many members as it may.
    Full,
    /// A change from outside is running: wait for its end.
    Closed,
    /// The group has members of Kafka's classic protocol.
    Classic,
    /// It had some, and that they have left is being stored: wait for its end.
    Saving,
    /// The cell was forgotten, or the group deleted or created again, since it was looked up: try again.
    Outdated,
}

impl Groups {
    /// Joins a group; a member of the same name is replaced. Creates the group durably if it does not exist.
    ///
    /// # Errors
    /// - [`Reason::UnknownTopic`]; [`Reason::Overloaded`] with too many members.
    /// - [`Reason::GroupTypeMismatch`], [`Reason::GroupSettingsDiffer`]: the group has another type or other settings.
    /// - [`Reason::GroupActive`]: the group has members of Kafka's classic protocol.
    /// - [`Reason::MemberSuperseded`]: an older process wants to take back the member that a newer one has.
    /// - Those of a commit.
    pub async fn join(
        &self,
        caller: &Caller,
        group: &str,
        member: Option<&str>,
        join: Join,
    ) -> Result<Joined, Refusal> {
        self.check_join(caller, group, &join)?;
        for topic in join.named_topics() {
            catalog::find(&self.log, topic)?;
        }
        let member: Arc<str> = match member {
            Some(member) => member.into(),
            None => {
                let prefix = join.client_id.as_deref().unwrap_or("member");
                format!("{prefix}-{:016x}", Coordinator::random()).into()
            }
        };
        if !self.coordinator.has_room_for(group, &member) {
            return Err(Refusal::new(
                Reason::Overloaded,
                "there are too many members of groups",
            ));
        }
        let joined = loop {
            self.end_classic(group).await?;
            let value = self.begin(caller, group, &join).await?;
            let cell = self.coordinator.cell(group);
            // Registered before the state is checked, so that the end of a change from outside is not missed.
            let mut joinable = pin!(cell.joinable.notified());
            joinable.as_mut().enable();
            let mut saved = pin!(cell.written.notified());
            saved.as_mut().enable();
            match self.try_join(caller, &cell, &member, (&join, &value)) {
                Attempt::Done(Err(error)) => break Err(error),
                Attempt::Done(Ok(())) => {
                    self.assign_in_turn(&cell).await;
                    break self.lock(&cell).1.tell(&member);
                }
                Attempt::Full => {
                    let detail = format!("the group has {MAX_GROUP_MEMBERS} members, which is the most");
                    return Err(Refusal::new(Reason::Overloaded, detail));
                }
                Attempt::Closed => joinable.await,
                Attempt::Classic => return Err(has_classic_members(group)),
                Attempt::Saving => saved.await,
                Attempt::Outdated => {}
            }
        };
        let (epoch, assignment) = joined.map_err(|error| refused(error, group, &member))?;
        tracing::debug!(group, member = &*member, epoch, "a member joined");
        Ok(Joined {
            member,
            epoch,
            assignment: self.named(&assignment),
        })
    }

    fn try_join(
        &self,
        caller: &Caller,
        cell: &Cell,
        member: &Arc<str>,
        (join, value): (&Join, &GroupValue),
    ) -> Attempt {
        let (now, mut core) = self.lock(cell);
        if let Err(attempt) = self.open(cell, &mut core, value) {
            return attempt;
        }
        let joining = Joining {
            member: Arc::clone(member),
            client_id: join.client_id.clone(),
            address: join.address.clone(),
            session_timeout: join.session_timeout,
            instance: join.instance.as_deref().map(Arc::from),
        };
        if let Err(superseded @ Refused::MemberSuperseded) =
            core.check_poll_of(member, None, join.instance.as_deref())
        {
            return Attempt::Done(Err(superseded));
        }
        if core.is_full_for(member) {
            return Attempt::Full;
        }
        core.join(joining, join.topics.clone(), now);
        core.act_for(member, &caller.who);
        Attempt::Done(Ok(()))
    }

    /// Assigns the partitions of a group again if members have joined or left, or topics have changed. That looks at all
    /// partitions under the lock of the group, so calls do it one after another: of many members that join or leave at the
    /// same time the first assigns for all, and the others find it done. Meanwhile nobody waits for the lock on a thread that
    /// others need.
    pub(super) async fn assign_in_turn(&self, cell: &Cell) {
        let _turn = cell.assigning.lock().await;
        let (_, mut core) = self.lock(cell);
        core.refresh(&cell.group, &self.log, self.coordinator.change());
        core.assign_again();
    }

    /// The same for members that have left: also if the caller goes away, since others wait for their partitions.
    pub(super) async fn assign_after_leave(&self, cell: &Arc<Cell>) {
        let (groups, cell) = (self.clone(), Arc::clone(cell));
        // It fails only if it panics or the runtime ends.
        let _ = tokio::spawn(async move {
            let _turn = cell.assigning.lock().await;
            groups.lock(&cell).1.assign_again();
        })
        .await;
    }

    /// Prepares a group's cell for a member that joins: makes it of the kind of the group, with these settings.
    pub(super) fn open(&self, cell: &Cell, core: &mut Core, value: &GroupValue) -> Result<(), Attempt> {
        if core.is_closed() {
            return Err(Attempt::Closed);
        }
        if core.is_forgotten || self.value_of(&cell.group).ok().flatten().as_ref() != Some(value) {
            return Err(Attempt::Outdated);
        }
        if let Kind::Classic(classic) = &core.kind {
            if !classic.members().is_empty() {
                return Err(Attempt::Classic);
            }
            if !classic.is_idle() {
                return Err(Attempt::Saving);
            }
            if stored::is_classic(&self.log, &cell.group) {
                return Err(Attempt::Outdated);
            }
            core.become_kind(Kind::Ordered(Ordered::default()));
        }
        if let (GroupValue::Shared(settings), Kind::Ordered(_)) = (value, &core.kind) {
            core.kind = Kind::Shared(Work::new(settings.clone()));
        }
        core.apply(value);
        core.members.generation = generation::of(&self.log, &cell.group);
        Ok(())
    }

    /// A group's kind and settings; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Reason::Internal`]: its entry cannot be read.
    pub(super) fn value_of(&self, group: &str) -> Result<Option<GroupValue>, Refusal> {
        let value = self.log.state_get(&offsets::group_key(group));
        let value = value.map(|value| GroupValue::decode(&value)).transpose();
        value.map_err(|error| {
            tracing::error!(group, %error, "nobody can join this group");
            let detail =
                format!("the entry of the group {group} cannot be read; delete it, or use a newer quipu");
            Refusal::new(Reason::Internal, detail)
        })
    }

    /// Creates the group if it does not exist, and subscribes it to the topics that are new to it. Unless it starts at
    /// the log start, the same append commits the offsets where it starts. Returns the group's kind and settings.
    ///
    /// Cost: nothing is written if the group has begun in all of the topics.
    async fn begin(&self, caller: &Caller, group: &str, join: &Join) -> Result<GroupValue, Refusal> {
        let fresh = join.value(self.clock.now())?;
        if let Some(value) = self.value_of(group)? {
            join.check(caller, group, &value)?;
            if self.unbegun(caller, group, join, &value)?.is_empty() {
                return Ok(value);
            }
        }
        // No other change runs meanwhile, so two members that join at once start at the same offsets.
        let guard = self.alone().await;
        let known = self.value_of(group)?;
        if let Some(value) = &known {
            join.check(caller, group, value)?;
        }
        let unbegun = self.unbegun(caller, group, join, known.as_ref().unwrap_or(&fresh))?;
        let mut commits = Vec::new();
        let starts = unbegun.topics.values();
        for (topic, start) in starts.filter(|(_, start)| *start != Start::Earliest) {
            for partition in topic.partitions().iter() {
                commits.push(Commit {
                    partition: partition.id(),
                    offset: self.starting_offset(partition, *start).await?,
                    leader_epoch: None,
                    metadata: None,
                });
            }
        }
        let is_made = known.is_some();
        let value = known.unwrap_or(fresh);
        if !is_made || !unbegun.is_empty() {
            let subscribed = Subscribed {
                topics: unbegun.topics.into_keys().collect(),
                patterns: unbegun.patterns,
            };
            self.make(guard, group, &value, subscribed, commits).await?;
            if !is_made && value.dead_letter_topic().is_some() {
                // Patterns no longer match that topic.
                self.topics.announce();
            }
        }
        Ok(value)
    }

    /// What a join names and the group has not begun.
    fn unbegun(
        &self,
        caller: &Caller,
        group: &str,
        join: &Join,
        value: &GroupValue,
    ) -> Result<Unbegun, Refusal> {
        let mut unbegun = Unbegun::default();
        for name in join.named_topics() {
            let topic = catalog::find(&self.log, name)?;
            if !has_begun(&self.log, group, topic.id()) {
                unbegun.topics.insert(topic.id(), (topic, join.start));
            }
        }
        let mut patterns = join.topics.iter().filter(|name| is_pattern(name)).peekable();
        if patterns.peek().is_none() {
            return Ok(unbegun);
        }
        let candidates = Candidates::of(&self.log).without(value.dead_letter_topic());
        for text in patterns {
            let Ok(pattern) = text.parse() else { continue };
            // What a known pattern brings was made later than the group began with the pattern.
            let is_known = knows_pattern(&self.log, group, text);
            let start = if is_known { Start::Earliest } else { join.start };
            if !is_known {
                unbegun.patterns.push(text.clone());
            }
            let matching = candidates.matching(&pattern);
            let matching = matching.filter(|topic| caller.may_topic(Right::Read, topic.name()));
            for topic in matching.filter(|topic| !has_begun(&self.log, group, topic.id())) {
                let first = || (Arc::clone(topic), start);
                unbegun.topics.entry(topic.id()).or_insert_with(first);
            }
        }
        Ok(unbegun)
    }

    /// Subscribes the group durably to topics that its members read (`unsubscribed` of the group's cell). It begins at their
    /// log starts.
    pub(super) async fn subscribe_to_replaced(
        &self,
        cell: &Cell,
        topics: Vec<TopicId>,
    ) -> Result<(), Refusal> {
        let Some(value) = self.value_of(&cell.group)? else {
            return Ok(());
        };
        let guard = self.commits().await;
        let subscribed = Subscribed {
            topics: topics.clone(),
            patterns: Vec::new(),
        };
        self.make(guard, &cell.group, &value, subscribed, Vec::new())
            .await?;
        let (_, mut core) = self.lock(cell);
        core.unsubscribed.retain(|topic| !topics.contains(topic));
        Ok(())
    }

    async fn starting_offset(&self, partition: &Arc<Partition>, start: Start) -> Result<Offset, Refusal> {
        let (log, partition) = (self.log.clone(), Arc::clone(partition));
        let find = move || Ok(start.offset(&log, &partition)?);
        match start {
            Start::Time(_) => self.blocking.attempt(Share::Read, find).await,
            Start::Earliest | Start::Latest => find(),
        }
    }

    /// Names partitions by topic, sorted.
    pub(super) fn named(&self, partitions: &[PartitionId]) -> Vec<(Arc<str>, u32)> {
        let mut names: BTreeMap<TopicId, Option<Arc<str>>> = BTreeMap::new();
        let mut named = Vec::with_capacity(partitions.len());
        for id in partitions {
            let name = names
                .entry(id.topic)
                .or_insert_with(|| self.log.topic_by_id(id.topic).map(|topic| topic.name().into()));
            named.extend(name.clone().map(|name| (name, id.index)));
        }
        named.sort();
        named
    }

    /// The current time, and the group's state, locked.
    pub(super) fn lock<'a>(&'a self, cell: &'a Cell) -> (Ms, Locked<'a>) {
        let now = self.now_ms();
        (now, self.coordinator.lock(cell, now))
    }

    /// The cell of a group that has members.
    ///
    /// # Errors
    /// [`Reason::UnknownMember`].
    pub(super) fn cell_of(&self, group: &str, member: &str) -> Result<Arc<Cell>, Refusal> {
        let cell = self.coordinator.find(group);
        cell.ok_or_else(|| refused(Refused::Unknown, group, member))
    }

    /// Joins if the member is unknown; otherwise changes its subscription if the join names other topics. A poll with
    /// this `ack` that must be refused changes nothing.
    pub(super) async fn be_member(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        ack: Option<&PollId>,
        join: &Join,
    ) -> Result<(), Refusal> {
        self.check_join(caller, group, join)?;
        let cell = self.coordinator.find(group);
        let subscribes = cell.as_ref().and_then(|cell| {
            let (_, core) = self.lock(cell);
            core.members.get(member)?;
            // One that fetches by itself is replaced by the one that polls.
            core.check_polls(member).ok()?;
            let checked = core.check_poll_of(member, ack, join.instance.as_deref());
            Some(checked.map(|()| core.subscribes(member, &join.topics)))
        });
        let subscribes = subscribes.transpose();
        let subscribes = subscribes.map_err(|error| refused(error, group, member))?;
        let (Some(cell), Some(subscribes)) = (cell, subscribes) else {
            self.join(caller, group, Some(member), join.clone()).await?;
            return Ok(());
        };
        if let Some(value) = self.value_of(group)? {
            join.check(caller, group, &value)?;
        }
        if !subscribes {
            for topic in join.named_topics() {
                catalog::find(&self.log, topic)?;
            }
            self.begin(caller, group, join).await?;
            let (_, mut core) = self.lock(&cell);
            core.subscribe(member, &join.topics);
            core.act_for(member, &caller.who);
            core.refresh(group, &self.log, self.coordinator.change());
        }
        Ok(())
    }

    /// Checks the rights on the group, and on what a join names.
    fn check_join(&self, caller: &Caller, group: &str, join: &Join) -> Result<(), Refusal> {
        caller.check_group(&[Right::Read], group)?;
        for topic in join.named_topics() {
            caller.check_topic(Right::Read, topic)?;
        }
        match &join.dead_letter_topic {
            Some(topic) => self.check_names_dead_letters(caller, topic),
            None => Ok(()),
        }
    }

    /// Checks the right to name a topic for dead letters. Without it that would be a way to write elsewhere.
    pub(super) fn check_names_dead_letters(&self, caller: &Caller, topic: &str) -> Result<(), Refusal> {
        caller.check_topic(Right::Write, topic)?;
        match self.log.topic(topic) {
            Some(_) => Ok(()),
            None => caller.check_topic(Right::Create, topic),
        }
    }

    /// Keeps a member alive. Returns its epoch, and the state of the group's members. If it `extends`, all of its leases
    /// begin anew.
    ///
    /// # Errors
    /// [`Reason::UnknownMember`]; [`Reason::Fenced`] with a stale epoch; [`Reason::MemberSuperseded`];
    /// [`Reason::GroupTypeMismatch`] if a member of an ordered group extends.
    pub fn heartbeat(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        epoch: Option<u64>,
        instance: Option<&str>,
        extends: bool,
    ) -> Result<(u64, GroupState), Refusal> {
        caller.check_group(&[Right::Read], group)?;
        let refusal = |error| refused(error, group, member);
        let cell = self.cell_of(group, member)?;
        let (now, mut core) = self.lock(&cell);
        if extends && core.work().is_none() {
            return Err(is_ordered(group, "it has no leases"));
        }
        core.check_polls(member).map_err(refusal)?;
        core.members.check_instance(member, instance).map_err(refusal)?;
        let epoch = core.members.touch(member, epoch, now).map_err(refusal)?;
        if let Some(work) = core.work().filter(|_| extends) {
            work.extend_all(member, now);
        }
        Ok((epoch, core.state()))
    }

    /// Reads an `ack`.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`]: it is not a `poll_id` of this member. [`Reason::PollExpired`]: it is, from before the
    /// data directory was restored from a backup. [`Reason::Forbidden`]: it acknowledges records that the caller may not read.
    pub(super) fn read_ack(
        &self,
        caller: &Caller,
        ack: Option<&str>,
        group: &str,
        member: &str,
    ) -> Result<Option<PollId>, Refusal> {
        let Some(text) = ack else { return Ok(None) };
        match PollId::decode(text, self.coordinator.directory(), group, member) {
            Ok(id) if id.topics().all(|topic| self.may_acknowledge(caller, topic)) => Ok(Some(id)),
            // Without their names: the string may be made up.
            Ok(_) => Err(Refusal::new(
                Reason::Forbidden,
                "this needs the right read on every topic of the poll that ack names; with ack null the member goes on without it",
            )
            .at("/ack")),
            Err(Unreadable::Foreign) => Err(Refusal::invalid(
                "/ack",
                format!("ack is not a poll_id that {member} was given in the group {group}"),
            )),
            Err(Unreadable::OtherDirectory) => Err(Refusal::new(
                Reason::PollExpired,
                "the server was restored from a backup since ack was given: poll with ack null, which goes on from the group's committed offsets",
            )
            .at("/ack")),
        }
    }

    fn may_acknowledge(&self, caller: &Caller, topic: TopicId) -> bool {
        let topic = self.log.topic_by_id(topic);
        topic.is_none_or(|topic| caller.may_topic(Right::Read, topic.name()))
    }

    /// Leaves the group. First commits the records that the poll named by `ack` delivered; in a shared group, accepts
    /// those of them that are not settled.
    ///
    /// # Errors
    /// [`Reason::UnknownMember`]; those of a commit or a settle: the member is still there.
    pub async fn leave(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        ack: Option<&str>,
    ) -> Result<(), Refusal> {
        caller.check_group(&[Right::Read, Right::Write], group)?;
        if ack.is_none() && self.remove_classic_member(group, member).await? {
            return Ok(());
        }
        let ack = self.read_ack(caller, ack, group, member)?;
        let order = self.turn_of(group, member).await?;
        let cell = self.cell_of(group, member)?;
        let (commits, is_shared) = {
            let (_, mut core) = self.lock(&cell);
            if core.members.get(member).is_none() {
                return Err(refused(Refused::Unknown, group, member));
            }
            let commits = core.acknowledge(member, ack.as_ref());
            let commits = commits.map_err(|error| refused(error, group, member))?;
            (commits, core.work().is_some())
        };
        if let Some(ack) = ack.filter(|_| is_shared) {
            self.acknowledge_leases(group, member, &ack, None).await?;
        }
        self.commit_for(&cell, order, BegunCommits::of_ack(commits), None)
            .await?;
        self.lock(&cell).1.leave(member);
        self.assign_after_leave(&cell).await;
        tracing::debug!(group, member, "a member left");
        Ok(())
    }

    /// The members of a group, sorted by name.
    pub fn describe(&self, group: &str) -> Vec<Described> {
        let Some(cell) = self.coordinator.find(group) else {
            return Vec::new();
        };
        let (now, core) = self.lock(&cell);
        if let Kind::Classic(classic) = &core.kind {
            return views::described(classic, &self.log, now);
        }
        let mut held: BTreeMap<&Arc<str>, Vec<PartitionId>> = BTreeMap::new();
        let mut epochs: BTreeMap<&Arc<str>, i32> = BTreeMap::new();
        if let Kind::Ordered(ordered) = &core.kind {
            for (id, owner) in ordered.partitions() {
                if let Some(owner) = owner {
                    held.entry(owner).or_default().push(id);
                }
            }
            let consumers = core.members.iter();
            epochs.extend(consumers.filter_map(|(name, _)| Some((name, ordered.registered(name)?.epoch))));
        }
        let epoch_of = |name: &Arc<str>| epochs.get(name).and_then(|epoch| u64::try_from(*epoch).ok());
        let described = core.members.iter().map(|(name, member)| Described {
            member: Arc::clone(name),
            client_id: member.client_id.clone(),
            address: member.address.clone(),
            epoch: epoch_of(name).unwrap_or(member.epoch),
            last_contact_ms: if member.is_polling() {
                0
            } else {
                now.saturating_sub(member.last_contact)
            },
            is_polling: member.is_polling(),
            assignment: self.named(held.get(name).map_or(&[][..], Vec::as_slice)),
            leased: match &core.kind {
                Kind::Ordered(_) | Kind::Classic(_) => None,
                Kind::Shared(work) => Some(work.known_member(name).map_or(0, |key| work.leased_to(key))),
            },
        });
        described.collect()
    }

    /// Ends sessions and leases whose time is over, until the server stops. Spawn it once.
    pub async fn end_sessions(self) {
        let mut stopping = self.stopping.clone();
        loop {
            let (next, busy) = self.coordinator.tick(self.now());
            for cell in busy {
                self.attend(&cell);
            }
            let wait = next.map(|next| Duration::from_millis(next.saturating_sub(self.now_ms()).max(5)));
            let timer = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                () = self.coordinator.sooner.notified() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }
}

/// A member of a group, for descriptions.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name.
    pub member: Arc<str>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// The address from which it joined.
    pub address: Option<String>,
    /// Its epoch.
    pub epoch: u64,
    /// Milliseconds since its last request; 0 while it is in a poll.
    pub last_contact_ms: u64,
    /// Whether it is in a poll.
    pub is_polling: bool,
    /// The partitions that it reads, sorted by topic and partition.
    pub assignment: Vec<(Arc<str>, u32)>,
    /// In a shared group, how many records are leased to it.
    pub leased: Option<usize>,
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
