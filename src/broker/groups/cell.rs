//! A group with members: what is kept of it in memory, and what its members' calls do to that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::classic::rebalance::{Classic, Phase};
use super::classic::{Answer, CallNumber, MAX_GROUP_MEMBERS, views};
use super::consumers::regex::TopicRegex;
use super::live::{GroupState, GroupType};
use super::members::{Asking, Begun, Joining, Members, Ms, Refused};
use super::ordered::partitions::{Acknowledged, Ordered};
use super::patterns::{Candidates, is_pattern};
use super::poll_id::PollId;
use super::processes::AnswerNumber;
use super::shared::settings::GroupValue;
use super::shared::work::Work;
use super::subscriptions::{self, has_begun};
use crate::broker::caller::Who;
use crate::broker::engine::{Log, Offset, PartitionId, TopicId};
use crate::broker::filter::Filter;
use crate::broker::rights::Right;

#[path = "consumer_cells.rs"]
pub(crate) mod consumers;

/// A group.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) group: Arc<str>,
    /// Notified when an outside change has ended.
    pub(crate) joinable: Notify,
    /// Notified when a write of the group has ended.
    pub(crate) written: Notify,
    /// Held by the poll that reads records of a shared group before they are leased.
    pub(crate) looking: tokio::sync::Mutex<()>,
    /// Held by the call that assigns the partitions after members have joined or left: see [`Groups::assign_in_turn`](super::Groups::assign_in_turn).
    pub(super) assigning: tokio::sync::Mutex<()>,
    pub(super) core: Mutex<Core>,
}

impl Cell {
    /// A group without members.
    pub(super) fn new(group: Arc<str>, members: Members) -> Self {
        let core = Core {
            members,
            kind: Kind::Ordered(Ordered::default()),
            waiting: HashMap::new(),
            filter: Arc::default(),
            sessions: BTreeMap::new(),
            unsubscribed: Vec::new(),
            topics_seen: 0,
            empty_since: None,
            outside: 0,
            closing: 0,
            is_stale: false,
            is_forgotten: false,
            counted: Counted::default(),
            subscribed: 0,
            has_said_more: false,
        };
        Self {
            group,
            joinable: Notify::new(),
            written: Notify::new(),
            looking: tokio::sync::Mutex::new(()),
            assigning: tokio::sync::Mutex::new(()),
            core: Mutex::new(core),
        }
    }
}

/// How a group shares the records, with its state.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Each partition is read by one member at a time.
    Ordered(Ordered),
    /// Each record is leased to one member at a time.
    Shared(Work),
    /// The members assign the partitions to each other.
    Classic(Box<Classic>),
}

/// The content of a cell.
#[derive(Debug)]
pub(crate) struct Core {
    /// The members of an ordered or shared group. Those of a classic one are in its kind.
    pub(crate) members: Members,
    pub(crate) kind: Kind,
    /// The calls of classic members that wait for an answer.
    pub(crate) waiting: HashMap<CallNumber, oneshot::Sender<Answer>>,
    /// Of an ordered group, the records that it gets; open: all. A shared group has it in its settings.
    pub(crate) filter: Arc<Filter>,
    pub(super) sessions: BTreeMap<Arc<str>, Session>,
    /// Topics that the group reads although its durable subscription lacks them. The next poll saves them.
    pub(crate) unsubscribed: Vec<TopicId>,
    /// The number of the last topic change that the cell has seen.
    topics_seen: u64,
    /// Since when the group has no members.
    pub(super) empty_since: Option<Ms>,
    /// Running changes of the committed offsets by clients that are not members: no member may join meanwhile.
    pub(super) outside: usize,
    /// Those of them that began with live members: see [`begin_closing`](super::coordinator::Coordinator::begin_closing).
    pub(super) closing: usize,
    /// One of them has changed what the memory of the group does not know.
    pub(super) is_stale: bool,
    /// The table no longer holds this cell: look it up again.
    pub(crate) is_forgotten: bool,
    /// What of it is in the sums of all groups.
    pub(super) counted: Counted,
    /// The memory of what the members subscribe to, in bytes.
    pub(super) subscribed: usize,
    /// A classic member has said something, or was assigned something, since that was counted.
    pub(crate) has_said_more: bool,
}

/// What of a group was added to the sums of all groups.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) members: usize,
    pub(super) promised: usize,
    pub(super) said_bytes: usize,
    pub(super) subscribed: usize,
    pub(super) unsettled: usize,
}

/// The state of a member besides its place in [`Members`].
#[derive(Debug)]
pub(super) struct Session {
    /// The names of the subscribed topics, and patterns.
    topics: BTreeSet<String>,
    /// The memory of the names, in bytes, as of the last [`Core::refresh`].
    bytes: usize,
    /// The topics that had these names when the member subscribed. A topic made later under the name of a deleted one is
    /// not read: the member must subscribe again.
    bound: BTreeMap<String, Option<TopicId>>,
    /// A subscribed topic that is deleted.
    deleted: Option<String>,
    /// It fetches by itself: its topics are names alone, and need not exist.
    is_consumer: bool,
    /// It also reads the topics whose names match.
    regex: Option<Arc<TopicRegex>>,
    /// For whom it polls: it reads only what they may read.
    who: Who,
    /// Wakes the member's waiting poll. Members of a shared group share it, because any of them may take a free record.
    wake: Arc<Notify>,
    /// Held from before a commit of the member begins until it has ended, so commits land in the order they begin.
    pub(super) order: Arc<tokio::sync::Mutex<()>>,
}

impl Session {
    fn subscribe(&mut self, topics: BTreeSet<String>) {
        self.topics = topics;
        (self.is_consumer, self.regex) = (false, None);
        self.bound.clear();
    }

    /// Finds the topics of new names, and notes deleted topics.
    fn bind(&mut self, log: &Log) {
        self.deleted = None;
        // Each name is also in `bound`.
        self.bytes = self.topics.iter().map(|name| 2 * name.len() + 128).sum();
        if self.is_consumer {
            return self.follow(log);
        }
        for name in self.topics.iter().filter(|name| !is_pattern(name)) {
            let find = || log.topic(name).map(|topic| topic.id());
            let bound = self.bound.entry(name.clone()).or_insert_with(find);
            *bound = bound.filter(|id| log.topic_by_id(*id).is_some());
            if bound.is_none() {
                self.deleted.get_or_insert_with(|| name.clone());
            }
        }
    }
}

impl Core {
    /// Whether a change from outside is running: no member may join.
    pub(crate) fn is_closed(&self) -> bool {
        self.outside > 0
    }

    /// Whether what members settle may still be written: no change from outside keeps them out, or it waits for that.
    pub(crate) fn is_writable(&self) -> bool {
        !self.is_forgotten && (self.outside == 0 || self.closing > 0)
    }

    /// Whether no write of the group is on its way to the log.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.kind {
            Kind::Ordered(ordered) => !ordered.is_committing(),
            Kind::Shared(work) => work.is_idle(),
            Kind::Classic(classic) => classic.is_idle(),
        }
    }

    /// How many members it has.
    pub(crate) fn member_count(&self) -> usize {
        match &self.kind {
            Kind::Classic(classic) => classic.members().len(),
            Kind::Ordered(_) | Kind::Shared(_) => self.members.len(),
        }
    }

    /// Makes the group another kind; it has no members.
    pub(crate) fn become_kind(&mut self, kind: Kind) {
        self.kind = kind;
        self.waiting.clear();
        self.unsubscribed.clear();
        self.topics_seen = 0;
    }

    /// The state of a classic group.
    pub(crate) fn classic(&mut self) -> Option<&mut Classic> {
        match &mut self.kind {
            Kind::Classic(classic) => Some(classic),
            Kind::Ordered(_) | Kind::Shared(_) => None,
        }
    }

    /// How the group shares the records.
    pub(crate) fn group_type(&self) -> GroupType {
        match self.kind {
            Kind::Ordered(_) => GroupType::Ordered,
            Kind::Shared(_) => GroupType::Shared,
            Kind::Classic(_) => GroupType::Classic,
        }
    }

    /// The state of its members.
    pub(crate) fn state(&self) -> GroupState {
        match &self.kind {
            _ if self.member_count() == 0 => GroupState::Empty,
            Kind::Ordered(ordered) if ordered.is_rebalancing() => GroupState::Rebalancing,
            Kind::Classic(classic) if classic.phase() != Phase::Stable => GroupState::Rebalancing,
            Kind::Ordered(_) | Kind::Shared(_) | Kind::Classic(_) => GroupState::Stable,
        }
    }

    /// The state of an ordered group.
    pub(crate) fn ordered(&mut self) -> Option<(&mut Ordered, &mut Members)> {
        match &mut self.kind {
            Kind::Ordered(ordered) => Some((ordered, &mut self.members)),
            Kind::Shared(_) | Kind::Classic(_) => None,
        }
    }

    /// Applies the group's settings, after they are durable.
    pub(crate) fn apply(&mut self, value: &GroupValue) {
        match (value, &mut self.kind) {
            (GroupValue::Shared(settings), Kind::Shared(work)) => work.apply(settings.clone()),
            // An equal filter is kept as it is: what was read with it still counts.
            (GroupValue::Ordered(filter), Kind::Ordered(_)) if self.filter != *filter => {
                self.filter = Arc::clone(filter);
            }
            _ => {}
        }
    }

    /// The state of a shared group.
    pub(crate) fn work(&mut self) -> Option<&mut Work> {
        match &mut self.kind {
            Kind::Ordered(_) | Kind::Classic(_) => None,
            Kind::Shared(work) => Some(work),
        }
    }

    /// Wakes the polls that have news, and answers calls that wait.
    pub(super) fn wake(&mut self) {
        if let Kind::Classic(classic) = &mut self.kind {
            for (call, answer) in classic.take_answers() {
                if let Some(waiting) = self.waiting.remove(&call) {
                    // The caller may have gone away.
                    let _ = waiting.send(answer);
                }
            }
        }
        if let Kind::Shared(work) = &mut self.kind
            && work.take_freed()
            && let Some(session) = self.sessions.values().next()
        {
            session.wake.notify_waiters();
        }
        for member in self.members.take_woken() {
            if let Some(session) = self.sessions.get(&member) {
                session.wake.notify_waiters();
            }
        }
    }

    /// Adds a member; call [`Core::refresh`] next.
    pub(crate) fn join(&mut self, joining: Joining, topics: BTreeSet<String>, now: Ms) {
        let name = Arc::clone(&joining.member);
        self.members.join(joining, now);
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.join(&name),
            // Leases of an earlier session of this name are still its own.
            Kind::Shared(work) => drop(work.member(&name)),
            Kind::Classic(_) => debug_assert!(false, "members of a classic group join in another way"),
        }
        self.topics_seen = 0;
        if let Some(session) = self.sessions.get_mut(&name) {
            session.subscribe(topics);
            return;
        }
        let common = match self.kind {
            Kind::Ordered(_) | Kind::Classic(_) => None,
            Kind::Shared(_) => self.sessions.values().next(),
        };
        let session = Session {
            topics,
            bytes: 0,
            bound: BTreeMap::new(),
            deleted: None,
            is_consumer: false,
            regex: None,
            who: Who::Anyone,
            wake: common
                .map(|session| Arc::clone(&session.wake))
                .unwrap_or_default(),
            order: Arc::default(),
        };
        self.sessions.insert(name, session);
    }

    /// The epoch and assignment for a member's answer; a shared group assigns nothing.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub(crate) fn tell(&mut self, member: &str) -> Result<(u64, Vec<PartitionId>), Refused> {
        match &mut self.kind {
            Kind::Ordered(ordered) => ordered.tell(&mut self.members, member),
            Kind::Shared(_) | Kind::Classic(_) => {
                let member = self.members.get(member).ok_or(Refused::Unknown)?;
                Ok((member.epoch, Vec::new()))
            }
        }
    }

    /// How a poll of this group identifies itself.
    fn asking<'a>(&self, ack: Option<&PollId>, instance: Option<&'a str>) -> Asking<'a> {
        Asking {
            ack: ack.map(|ack| AnswerNumber::of(ack, self.members.life)),
            instance,
            is_ordered: matches!(self.kind, Kind::Ordered(_)),
        }
    }

    /// Whether a poll may begin, or a process join.
    ///
    /// # Errors
    /// Those of [`Members::check_poll_of`].
    pub(crate) fn check_poll_of(
        &self,
        member: &str,
        ack: Option<&PollId>,
        instance: Option<&str>,
    ) -> Result<(), Refused> {
        self.check_polls(member)?;
        self.members.check_poll_of(member, self.asking(ack, instance))
    }

    /// In an ordered group, the partitions in which outputs must not be stored with this `ack`.
    pub(crate) fn unfit_for_outputs(&self, member: &str, ack: Option<&PollId>) -> Vec<PartitionId> {
        let (Kind::Ordered(ordered), Some(ack)) = (&self.kind, ack) else {
            return Vec::new();
        };
        ordered.unfit_for_outputs(&self.members, member, ack)
    }

    /// Begins a poll. Returns it and what its `ack` leads to; leases are acknowledged elsewhere.
    ///
    /// # Errors
    /// Those of [`Members::begin_poll`].
    pub(crate) fn begin_poll(
        &mut self,
        member: &str,
        ack: Option<&PollId>,
        instance: Option<&str>,
        now: Ms,
    ) -> Result<(Begun, Acknowledged), Refused> {
        self.check_polls(member)?;
        let asking = self.asking(ack, instance);
        let begun = self.members.begin_poll(member, asking, now)?;
        let acknowledged = match &mut self.kind {
            Kind::Ordered(ordered) => ordered.acknowledge(&mut self.members, member, ack, begun.is_repeated),
            Kind::Shared(_) | Kind::Classic(_) => Acknowledged::default(),
        };
        Ok((begun, acknowledged))
    }

    /// Begins the commits that the `ack` of a leaving member requests, in an ordered group.
    ///
    /// # Errors
    /// [`Refused::MemberSuperseded`]: a process that is no longer the member wants to leave.
    pub(crate) fn acknowledge(
        &mut self,
        member: &str,
        ack: Option<&PollId>,
    ) -> Result<Vec<(PartitionId, Offset)>, Refused> {
        if self.check_poll_of(member, ack, None) == Err(Refused::MemberSuperseded) {
            return Err(Refused::MemberSuperseded);
        }
        Ok(match &mut self.kind {
            Kind::Ordered(ordered) => {
                let acknowledged = ordered.acknowledge(&mut self.members, member, ack, false);
                acknowledged.commits
            }
            Kind::Shared(_) | Kind::Classic(_) => Vec::new(),
        })
    }

    /// Removes a member that leaves: its leases go to others, and its partitions at the next [`Core::assign_again`].
    pub(crate) fn leave(&mut self, member: &str) {
        self.end_session(member);
        if let Kind::Shared(work) = &mut self.kind {
            work.leave(member);
        }
    }

    /// Removes a member: its partitions go to others at the next [`Core::assign_again`]. Its leases end when their time is
    /// over.
    pub(super) fn end_session(&mut self, member: &str) {
        if self.members.leave(member).is_none() {
            return;
        }
        if let Some(session) = self.sessions.remove(member) {
            session.wake.notify_waiters();
            self.weigh();
        }
        if let Kind::Ordered(ordered) = &mut self.kind {
            ordered.remove(member);
        }
    }

    /// Gives the partitions of members that have left to others.
    pub(super) fn assign_again(&mut self) {
        if let Kind::Ordered(ordered) = &mut self.kind {
            ordered.assign_again(&mut self.members);
        }
    }

    /// Wakes a member's waiting poll.
    pub(crate) fn wake_of(&self, member: &str) -> Option<Arc<Notify>> {
        self.sessions.get(member).map(|session| Arc::clone(&session.wake))
    }

    /// The lock that orders a member's commits.
    pub(crate) fn order_of(&self, member: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.sessions
            .get(member)
            .map(|session| Arc::clone(&session.order))
    }

    /// Whether a member subscribes to exactly these topics.
    pub(crate) fn subscribes(&self, member: &str, topics: &BTreeSet<String>) -> bool {
        self.sessions
            .get(member)
            .is_some_and(|session| session.topics == *topics)
    }

    /// Changes a member's subscription; call [`Core::refresh`] next.
    pub(crate) fn subscribe(&mut self, member: &str, topics: &BTreeSet<String>) {
        if let Some(session) = self.sessions.get_mut(member) {
            session.subscribe(topics.clone());
            self.topics_seen = 0;
        }
    }

    /// Notes for whom a member joins or polls; call [`Core::refresh`] next.
    pub(crate) fn act_for(&mut self, member: &str, who: &Who) {
        if let Some(session) = self.sessions.get_mut(member)
            && !session.who.is_same(who)
        {
            session.who = who.clone();
            self.topics_seen = 0;
        }
    }

    /// The topics that a member subscribes to by name.
    pub(crate) fn named_topics_of(&self, member: &str) -> impl Iterator<Item = &String> {
        let topics = self.sessions.get(member).map(|session| &session.topics);
        topics.into_iter().flatten().filter(|name| !is_pattern(name))
    }

    /// A topic that a member subscribes to and that is deleted, as of the last [`Core::refresh`].
    pub(crate) fn deleted_topic_of(&self, member: &str) -> Option<&str> {
        self.sessions.get(member)?.deleted.as_deref()
    }

    /// Forgets everything about a topic that no member subscribes to. `false`: a member does, by this name or under
    /// another, or a write of a former member is still running.
    pub(crate) fn forget_topic(&mut self, name: &str, topic: Option<TopicId>) -> bool {
        self.forget_topics(&BTreeMap::from([(name, topic)])).is_empty()
    }

    /// The same for several topics. Returns those that are not forgotten. Cost: one look at each member.
    pub(crate) fn forget_topics<'a>(
        &mut self,
        topics: &BTreeMap<&'a str, Option<TopicId>>,
    ) -> BTreeSet<&'a str> {
        let mut kept = match &self.kind {
            Kind::Classic(classic) => views::subscribed(classic, topics),
            Kind::Ordered(_) | Kind::Shared(_) => BTreeSet::new(),
        };
        // Whatever is fewer is looked up among the others.
        for session in self.sessions.values() {
            match topics.len() < session.topics.len() {
                true => kept.extend(topics.keys().filter(|name| session.topics.contains(**name))),
                false => {
                    let named = session.topics.iter();
                    let named = named.filter_map(|name| topics.get_key_value(&**name));
                    kept.extend(named.map(|(name, _)| *name));
                }
            }
        }
        let ids: HashMap<TopicId, &str> = topics
            .iter()
            .filter_map(|(name, id)| Some(((*id)?, *name)))
            .collect();
        for (_, member) in self.members.iter() {
            match ids.len() < member.topics.len() {
                true => {
                    let read = ids.iter().filter(|(id, _)| member.topics.contains(id));
                    kept.extend(read.map(|(_, name)| *name));
                }
                false => kept.extend(member.topics.iter().filter_map(|id| ids.get(id))),
            }
        }
        let free = ids.iter().filter(|(_, name)| !kept.contains(**name));
        let free: HashSet<TopicId> = free.map(|(id, _)| *id).collect();
        let busy: HashSet<TopicId> = match &mut self.kind {
            Kind::Classic(_) => HashSet::new(),
            Kind::Ordered(ordered) => ordered.forget_topics(&free),
            Kind::Shared(work) => {
                let mut queues: Vec<_> = work.queues.iter().collect();
                queues.retain(|(_, queue)| queue.is_writing() || queue.is_settling());
                let busy = queues.into_iter().map(|(id, _)| id.topic);
                let busy: HashSet<TopicId> = busy.filter(|id| free.contains(id)).collect();
                work.queues
                    .retain(|id, _| !free.contains(&id.topic) || busy.contains(&id.topic));
                busy
            }
        };
        kept.extend(busy.iter().filter_map(|id| ids.get(id)));
        kept
    }

    /// The topics that each subscribed pattern matches.
    fn matched(&self, log: &Log) -> BTreeMap<String, Vec<TopicId>> {
        let polling = self.sessions.values().filter(|session| !session.is_consumer);
        let subscribed = polling.flat_map(|session| &session.topics);
        let patterns: BTreeSet<&String> = subscribed.filter(|name| is_pattern(name)).collect();
        if patterns.is_empty() {
            return BTreeMap::new();
        }
        let candidates = Candidates::of(log);
        let matching = |text: &String| {
            let pattern = text.parse().ok()?;
            let ids = candidates.matching(&pattern).map(|topic| topic.id());
            Some((text.clone(), ids.collect()))
        };
        patterns.into_iter().filter_map(matching).collect()
    }

    /// Whether an ordered group has as many members as it may, and this is none of them.
    pub(super) fn is_full_for(&self, member: &str) -> bool {
        let is_ordered = matches!(self.kind, Kind::Ordered(_));
        is_ordered && self.members.len() >= MAX_GROUP_MEMBERS && self.members.get(member).is_none()
    }

    /// Whether the next [`Core::refresh`] has something to do: members have joined or subscribed anew, or topics changed.
    pub(super) fn is_outdated(&self, change: u64) -> bool {
        self.topics_seen != change
    }

    /// Looks up the subscribed topics and their partitions again, if they may have changed: `change` is the number of the
    /// last topic change.
    pub(crate) fn refresh(&mut self, group: &str, log: &Log, change: u64) {
        if std::mem::replace(&mut self.topics_seen, change) == change || matches!(self.kind, Kind::Classic(_))
        {
            return;
        }
        let mut topics: BTreeMap<TopicId, u32> = BTreeMap::new();
        let (matched, by_regex) = (self.matched(log), self.matched_by_regex(log));
        for (name, session) in &mut self.sessions {
            session.bind(log);
            let mut read: BTreeSet<TopicId> = session.bound.values().flatten().copied().collect();
            let patterns = session.topics.iter().filter(|_| !session.is_consumer);
            let patterns = patterns.filter_map(|name| matched.get(name));
            read.extend(patterns.flatten());
            let regex = session.regex.as_ref();
            read.extend(
                regex
                    .and_then(|regex| by_regex.get(regex.text()))
                    .into_iter()
                    .flatten(),
            );
            if !session.who.is_same(&Who::Anyone) {
                read.retain(|id| {
                    let topic = log.topic_by_id(*id);
                    topic.is_some_and(|topic| session.who.may_topic(Right::Read, topic.name()))
                });
            }
            for id in &read {
                let count = || log.topic_by_id(*id).map_or(0, |topic| topic.partition_count());
                topics.entry(*id).or_insert_with(count);
            }
            if let Some(member) = self.members.get_mut(name) {
                member.topics = read;
            }
        }
        self.weigh();
        let partitions = topics.iter();
        let partitions =
            partitions.flat_map(|(id, count)| (0..*count).map(|index| PartitionId::new(*id, index)));
        let mut partitions: BTreeSet<PartitionId> = partitions.collect();
        self.unsubscribed = topics.into_keys().collect();
        self.unsubscribed.retain(|topic| !has_begun(log, group, *topic));
        match &mut self.kind {
            Kind::Classic(_) => {}
            Kind::Shared(work) => {
                // Unsettled records stay when members leave.
                for id in subscriptions::topics(log, group) {
                    let count = log.topic_by_id(id).map_or(0, |topic| topic.partition_count());
                    partitions.extend((0..count).map(|index| PartitionId::new(id, index)));
                }
                work.refresh(log, group, &partitions);
            }
            Kind::Ordered(ordered) => {
                // A member that no longer subscribes to a topic may still acknowledge what it was given of it.
                let in_hand = ordered.in_hand().filter(|id| log.topic_by_id(id.topic).is_some());
                partitions.extend(in_hand);
                let is_new = partitions.iter().any(|id| !ordered.knows(*id));
                let committed = if is_new {
                    super::committed(log, group)
                } else {
                    BTreeMap::new()
                };
                let offset = |id| {
                    let committed: Option<&super::offsets::Committed> = committed.get(&id);
                    committed.map(|committed| committed.offset)
                };
                ordered.refresh(&mut self.members, &partitions, offset);
            }
        }
    }
}
