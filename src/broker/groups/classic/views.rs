//! How a classic group is described.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::calls::check_name;
use super::rebalance::{Classic, Phase};
use super::roster::Member;
use super::{Denied, stored};
use crate::broker::caller::Caller;
use crate::broker::engine::{Log, PartitionId, Topic, TopicId};
use crate::broker::groups::Groups;
use crate::broker::groups::live::GroupType;
use crate::broker::groups::members::Ms;
use crate::broker::groups::membership::Described;
use crate::broker::groups::subscriptions;
use crate::broker::rights::Right;
use crate::formats::consumer_protocol::{assigned_topics, subscribed_topics};

/// The protocol type whose subscriptions and assignments can be read.
const CONSUMER: &str = "consumer";
/// The most partitions that are shown of what the members of a group are assigned: each may be assigned all of them.
const MAX_SHOWN: usize = 200_000;

/// A classic group, as Kafka's tools see it.
#[derive(Clone, Debug)]
pub struct ClassicGroup {
    /// Where it is between two generations.
    pub phase: Phase,
    /// What the members are; empty: the group never had members.
    pub protocol_type: Arc<str>,
    /// The protocol that they have chosen; empty while they have none.
    pub protocol: Arc<str>,
    /// The members, sorted by id.
    pub members: Vec<ClassicMember>,
}

/// A member of a [`ClassicGroup`].
#[derive(Clone, Debug)]
pub struct ClassicMember {
    /// Its id.
    pub member: Arc<str>,
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// What it told the leader; empty while the group rebalances.
    pub metadata: Bytes,
    /// What is assigned to it; empty while the group rebalances.
    pub assignment: Bytes,
}

impl ClassicMember {
    /// Leaves out what names topics that the caller may not describe, or what nobody can read.
    fn hide(&mut self, caller: &Caller) {
        let subscribed = subscribed_topics(&self.metadata);
        if !subscribed.is_some_and(|topics| topics.iter().all(|topic| caller.sees_topic(topic))) {
            self.metadata = Bytes::new();
        }
        let assigned = assigned_topics(&self.assignment);
        if !assigned.is_some_and(|topics| topics.iter().all(|topic| caller.sees_topic(topic.name))) {
            self.assignment = Bytes::new();
        }
    }
}

/// A row of a list of groups.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The group's name.
    pub group: String,
    /// How its members share the records.
    pub kind: GroupType,
    /// Whether it has, or had, members that were not classic.
    pub has_subscribed: bool,
    /// The protocol type of a classic group; empty: it has none.
    pub protocol_type: Arc<str>,
    /// Where a classic group is between two generations.
    pub phase: Phase,
    /// In an ordered group, a member waits for partitions, has to give some up, or has not been told yet.
    pub is_reconciling: bool,
    /// Whether it has members.
    pub is_empty: bool,
}

/// The existing topics and partitions that are assigned to a member. What its leader has written may be anything, and
/// long: of a topic no more is looked at than it has partitions.
fn assigned(classic: &Classic, log: &Log, member: &Member) -> impl Iterator<Item = (Arc<Topic>, Vec<u32>)> {
    let is_readable = classic.protocol_type().is_some_and(|name| **name == *CONSUMER);
    let assigned = is_readable.then(|| assigned_topics(&member.assignment));
    let topics = assigned.flatten().unwrap_or_default().into_iter();
    topics.filter_map(|assigned| {
        let topic = log.topic(assigned.name)?;
        let count = topic.partition_count();
        let indexes = assigned.partitions().take(count as usize);
        let indexes = indexes.filter(|index| *index < count).collect();
        Some((topic, indexes))
    })
}

/// The partitions that are assigned, with their members.
pub fn partitions(classic: &Classic, log: &Log) -> BTreeMap<PartitionId, Option<Arc<str>>> {
    let mut partitions = BTreeMap::new();
    for (id, member) in classic.members() {
        for (topic, indexes) in assigned(classic, log, member) {
            let ids = indexes
                .into_iter()
                .map(|index| PartitionId::new(topic.id(), index));
            partitions.extend(ids.map(|partition| (partition, Some(Arc::clone(id)))));
        }
    }
    partitions
}

/// Those of some topics that members subscribe to, as far as anybody can tell: who says nothing readable may read them all.
pub fn subscribed<'a, T>(classic: &Classic, among: &BTreeMap<&'a str, T>) -> BTreeSet<&'a str> {
    let is_readable = classic.protocol_type().is_some_and(|name| **name == *CONSUMER);
    let mut subscribed = BTreeSet::new();
    for member in classic.members().values() {
        let proposed = member.protocols.first();
        let topics = proposed.and_then(|(_, metadata)| subscribed_topics(metadata));
        let Some(topics) = topics.filter(|_| is_readable) else {
            return among.keys().copied().collect();
        };
        let found = topics.into_iter().filter_map(|topic| among.get_key_value(topic));
        subscribed.extend(found.map(|(topic, _)| *topic));
    }
    subscribed
}

/// The members, for any kind of groups. Of what is assigned to all of them at most [`MAX_SHOWN`] partitions are shown.
pub fn described(classic: &Classic, log: &Log, now: Ms) -> Vec<Described> {
    let mut room = MAX_SHOWN;
    let describe = |(id, member): (&Arc<str>, &Member)| {
        let mut assignment: Vec<(Arc<str>, u32)> = Vec::new();
        for (topic, indexes) in assigned(classic, log, member) {
            let name: Arc<str> = topic.name().into();
            let indexes = indexes.into_iter().take(room);
            room -= indexes.len();
            assignment.extend(indexes.map(|index| (Arc::clone(&name), index)));
        }
        assignment.sort();
        assignment.dedup();
        Described {
            member: Arc::clone(id),
            client_id: member.client_id.clone(),
            address: member.address.clone(),
            epoch: u64::try_from(classic.generation_id()).unwrap_or(0),
            last_contact_ms: match member.is_waiting() {
                true => 0,
                false => now.saturating_sub(member.last_contact),
            },
            is_polling: false,
            assignment,
            leased: None,
        }
    };
    classic.members().iter().map(describe).collect()
}

impl Groups {
    /// Describes a group that is classic, or has only commits. `None`: there is no such group.
    ///
    /// # Errors
    /// [`Denied::InconsistentProtocol`]: it is of another kind. [`Denied::InvalidName`], [`Denied::Refused`].
    pub fn describe_classic(&self, caller: &Caller, group: &str) -> Result<Option<ClassicGroup>, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Describe], group)?;
        let listed = self.listed(group.to_owned());
        if listed.kind == GroupType::Shared || listed.kind == GroupType::Ordered && !listed.is_empty {
            return Err(Denied::InconsistentProtocol);
        }
        let empty = ClassicGroup {
            phase: Phase::Empty,
            protocol_type: listed.protocol_type,
            protocol: Arc::default(),
            members: Vec::new(),
        };
        let live = self.coordinator.find(group).and_then(|cell| {
            let (_, mut core) = self.lock(&cell);
            let classic = core.classic()?;
            let is_stable = classic.phase() == Phase::Stable;
            let protocol = classic
                .protocol()
                .filter(|_| is_stable)
                .cloned()
                .unwrap_or_default();
            let describe = |(id, member): (&Arc<str>, &Member)| ClassicMember {
                member: Arc::clone(id),
                instance: member.instance.clone(),
                client_id: member.client_id.clone(),
                address: member.address.clone(),
                metadata: member.metadata(&protocol),
                assignment: match is_stable {
                    true => member.assignment.clone(),
                    false => Bytes::new(),
                },
            };
            Some(ClassicGroup {
                phase: classic.phase(),
                protocol_type: classic.protocol_type().cloned().unwrap_or_default(),
                members: classic.members().iter().map(describe).collect(),
                protocol,
            })
        });
        let mut live = live.filter(|live| live.phase != Phase::Empty);
        if let Some(live) = &mut live
            && *live.protocol_type == *CONSUMER
            && !caller.sees_all()
        {
            live.members.iter_mut().for_each(|member| member.hide(caller));
        }
        Ok(live.or(self.exists(group).then_some(empty)))
    }

    /// Those of some topics that members of a live group subscribe to; an ordered group forgets the others. `None`: nobody can
    /// tell, because the members share a queue or are of another protocol type than `consumer`.
    pub(super) fn subscribed_among<'a>(
        &self,
        group: &str,
        topics: &BTreeMap<&'a str, Option<TopicId>>,
    ) -> Option<BTreeSet<&'a str>> {
        let cell = self.coordinator.find(group)?;
        let (_, mut core) = self.lock(&cell);
        if core.ordered().is_some() {
            return Some(core.forget_topics(topics));
        }
        let classic = core.classic()?;
        let is_readable = classic.protocol_type().is_some_and(|name| **name == *CONSUMER);
        is_readable.then(|| subscribed(classic, topics))
    }

    /// All groups that the caller may describe, sorted by name.
    pub fn list_for_tools(&self, caller: &Caller) -> Vec<Listed> {
        let mut names = self.names();
        names.retain(|name| caller.sees_group(name));
        names.into_iter().map(|name| self.listed(name)).collect()
    }

    fn listed(&self, group: String) -> Listed {
        let kind = self.kind_of(&group);
        let live = self.coordinator.find(&group).and_then(|cell| {
            let (_, mut core) = self.lock(&cell);
            if core.member_count() == 0 {
                return None;
            }
            let is_reconciling = core
                .ordered()
                .is_some_and(|(ordered, _)| ordered.is_reconciling());
            let classic = core.classic();
            let of_classic = classic.map(|classic| (classic.phase(), classic.protocol_type().cloned()));
            let (phase, protocol_type) = of_classic.unwrap_or((Phase::Stable, None));
            Some((phase, protocol_type, is_reconciling))
        });
        let is_empty = live.is_none();
        let (phase, protocol_type, is_reconciling) = live.unwrap_or((Phase::Empty, None, false));
        let stored = || stored::load(&self.log, &group).ok().flatten()?.protocol_type;
        Listed {
            kind,
            has_subscribed: !subscriptions::topics(&self.log, &group).is_empty()
                || !subscriptions::patterns(&self.log, &group).is_empty(),
            protocol_type: protocol_type.or_else(stored).unwrap_or_default(),
            phase,
            is_reconciling,
            is_empty,
            group,
        }
    }
}
