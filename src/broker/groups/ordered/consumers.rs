//! Members that fetch by themselves: *consumers*, of Kafka's server-side protocol.
//!
//! A consumer does not poll. The answers to its heartbeats tell it which partitions it is to read; it reads them as
//! anybody may, and commits with its *epoch*, which each answer with another assignment raises. A partition that it was
//! told of counts as its own until a heartbeat of the newest epoch leaves it out: only then another member gets it, and only
//! then the consumer is told of others. A consumer that keeps what it was told to give up for longer than its rebalance
//! timeout is removed ([`Members::give_up_by`]).
//!
//! An answer may be lost. Then the next heartbeat comes with the epoch before, names nothing that the consumer cannot have,
//! and is answered in full. Of such a heartbeat nothing is taken for given up: it may also be an old one that came late.

use super::*;
use crate::broker::groups::members::MOST_REBALANCE_TIMEOUT_MS;

/// How the partitions of a group are shared among its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Evenly, and so that few partitions move.
    #[default]
    Uniform,
    /// For each topic, neighbouring partitions to each member.
    Range,
}

impl Assignor {
    /// Its name; Kafka's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The assignor of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Uniform, Self::Range]
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }
}

/// What a consumer says of itself.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The name of a static member, which keeps its place over restarts of its process.
    pub instance: Option<Arc<str>>,
    /// The assignor that it would like.
    pub assignor: Option<Assignor>,
    /// How long it may take to give partitions up.
    pub rebalance_timeout: Ms,
}

/// A consumer, as the group knows it.
#[derive(Debug)]
pub(super) struct Consumer {
    terms: Terms,
    /// The epoch of its last answer; 0: it has had none.
    epoch: i32,
    /// The epoch of the answer before, if the last one may be lost; 0: it has arrived.
    before: i32,
    /// It has said something else since its last answer: the next one has another epoch.
    has_changed: bool,
    /// A static member whose process has ended: its place is kept until its session ends.
    is_away: bool,
    /// The partitions that it may have: those of its last answer, and those that it has not given up yet. With the epoch
    /// since which it has them.
    has: BTreeMap<PartitionId, i32>,
    /// When it must have given up those of them that it was told to.
    gives_up: BTreeMap<PartitionId, Ms>,
}

impl Consumer {
    pub(super) fn may_have(&self, id: PartitionId) -> bool {
        self.has.contains_key(&id)
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.has.keys().copied()
    }

    /// From this epoch on it has to join again: what it has read so far may be committed no longer.
    pub(super) fn fence(&mut self, epoch: i32) {
        (self.epoch, self.before) = (epoch, 0);
        for since in self.has.values_mut() {
            *since = epoch;
        }
    }
}

/// A heartbeat of a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// Its epoch; `None`: it has just joined.
    pub epoch: Option<i32>,
    /// The partitions that it has, if it says so.
    pub owned: Option<&'a [PartitionId]>,
    /// It wants to know its assignment, changed or not.
    pub wants_all: bool,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The consumer's epoch.
    pub epoch: i32,
    /// The partitions that it is to read, if it has to be told.
    pub assignment: Option<Vec<PartitionId>>,
    /// It is to get further partitions: when it, or another member, has given some up.
    pub waits: bool,
}

/// Why a call of a consumer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// There is no such consumer.
    Unknown,
    /// Its epoch is none that it can have: it gives everything up and joins again.
    FencedEpoch,
    /// It commits with an epoch in which it did not have the partitions.
    StaleEpoch,
}

/// A consumer, for descriptions.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// Its epoch.
    pub epoch: i32,
}

impl Ordered {
    /// The newest epoch of the group's consumers.
    pub fn newest_epoch(&self) -> i32 {
        self.epochs.saturating_add(1)
    }

    fn next_epoch(&mut self) -> i32 {
        self.epochs = next(self.epochs);
        self.newest_epoch()
    }

    fn consumer(&self, name: &str) -> Option<&Consumer> {
        self.readers.get(name)?.consumer.as_ref()
    }

    fn consumer_mut(&mut self, name: &str) -> Result<&mut Consumer, Rejected> {
        let reader = self.readers.get_mut(name).ok_or(Rejected::Unknown)?;
        reader.consumer.as_mut().ok_or(Rejected::Unknown)
    }

    /// Whether a member is a consumer.
    pub fn is_consumer(&self, name: &str) -> bool {
        self.consumer(name).is_some()
    }

    /// Whether any member is one.
    pub fn has_consumers(&self) -> bool {
        self.readers.values().any(|reader| reader.consumer.is_some())
    }

    /// How a consumer is described.
    pub fn registered(&self, name: &str) -> Option<Registered> {
        let consumer = self.consumer(name)?;
        Some(Registered {
            instance: consumer.terms.instance.clone(),
            epoch: consumer.epoch,
        })
    }

    /// The static member of that name.
    pub fn member_of(&self, instance: &str) -> Option<&Arc<str>> {
        let mut readers = self.readers.iter();
        let found = readers.find(|(_, reader)| {
            let consumer = reader.consumer.as_ref();
            consumer.is_some_and(|consumer| consumer.terms.instance.as_deref() == Some(instance))
        });
        found.map(|(name, _)| name)
    }

    /// Whether the process of a static member has ended, and another may take its place.
    pub fn is_away(&self, name: &str) -> bool {
        self.consumer(name).is_some_and(|consumer| consumer.is_away)
    }

    /// The assignor that most of the consumers would like that would like one.
    pub fn assignor(&self) -> Assignor {
        let consumers = self
            .readers
            .values()
            .filter_map(|reader| reader.consumer.as_ref());
        let (mut uniform, mut range) = (0, 0);
        for consumer in consumers {
            match consumer.terms.assignor {
                Some(Assignor::Uniform) => uniform += 1,
                Some(Assignor::Range) => range += 1,
                None => {}
            }
        }
        match range > uniform {
            true => Assignor::Range,
            false => Assignor::Uniform,
        }
    }

    /// What each member's place in a range is decided by: a static member keeps its place under its new id.
    pub(super) fn rank<'a>(&'a self, name: &'a Arc<str>) -> &'a Arc<str> {
        let instance = self
            .consumer(name)
            .and_then(|consumer| consumer.terms.instance.as_ref());
        instance.unwrap_or(name)
    }

    /// Makes a member that has just joined a consumer.
    pub fn consume(&mut self, name: &str, terms: Terms) {
        if let Some(reader) = self.readers.get_mut(name) {
            reader.consumer = Some(Consumer {
                terms,
                epoch: 0,
                before: 0,
                has_changed: false,
                is_away: false,
                has: BTreeMap::new(),
                gives_up: BTreeMap::new(),
            });
        }
    }

    /// The assignor that a consumer would like.
    pub fn assignor_of(&self, name: &str) -> Option<Assignor> {
        self.consumer(name)?.terms.assignor
    }

    /// Changes what a consumer says of itself; `None` leaves it as it is. `has_changed`: this, or what it subscribes to, is
    /// something else than before.
    pub fn change_terms(
        &mut self,
        name: &str,
        assignor: Option<Assignor>,
        rebalance_timeout: Option<Ms>,
        has_changed: bool,
    ) {
        let Ok(consumer) = self.consumer_mut(name) else {
            return;
        };
        let terms = &mut consumer.terms;
        terms.rebalance_timeout = rebalance_timeout.unwrap_or(terms.rebalance_timeout);
        terms.assignor = assignor.or(terms.assignor);
        consumer.has_changed |= has_changed;
    }

    /// A static member's place becomes that of its new process; the caller removes the old member, and the new one joins.
    pub fn pass_on(&mut self, old: &str, new: &Arc<str>) {
        self.readers.remove(old);
        for slot in self.slots.values_mut() {
            for name in [&mut slot.owner, &mut slot.target] {
                if name.as_deref() == Some(old) {
                    *name = Some(Arc::clone(new));
                }
            }
        }
    }

    /// Whether a heartbeat may come with this epoch. `true`: its last answer was lost.
    ///
    /// # Errors
    /// [`Rejected::Unknown`], [`Rejected::FencedEpoch`].
    pub fn check_heard(&self, name: &str, heard: &Heard<'_>) -> Result<bool, Rejected> {
        let consumer = self.consumer(name).ok_or(Rejected::Unknown)?;
        let Some(epoch) = heard.epoch else {
            return Ok(false);
        };
        let can_have = |owned: &[PartitionId]| owned.iter().all(|id| consumer.may_have(*id));
        if consumer.is_away {
            Err(Rejected::FencedEpoch)
        } else if epoch == consumer.epoch {
            Ok(false)
        } else if epoch == consumer.before && heard.owned.is_some_and(can_have) {
            Ok(true)
        } else {
            Err(Rejected::FencedEpoch)
        }
    }

    /// Hears a heartbeat: what it leaves out changes hands, and it is told its assignment if that is another one.
    ///
    /// # Errors
    /// As [`Ordered::check_heard`]; nothing has changed.
    pub fn hear(
        &mut self,
        members: &mut Members,
        name: &str,
        heard: &Heard<'_>,
        now: Ms,
    ) -> Result<Told, Rejected> {
        let is_late = self.check_heard(name, heard)?;
        if let Some(reader) = self.readers.get_mut(name)
            && let Some(consumer) = &mut reader.consumer
            && !is_late
        {
            consumer.before = 0;
            if let Some(owned) = heard.owned.filter(|_| heard.epoch.is_some()) {
                let owned: BTreeSet<PartitionId> = owned.iter().copied().collect();
                let told = &reader.told;
                consumer
                    .has
                    .retain(|id, _| told.contains(id) || owned.contains(id));
            }
        }
        self.release(members);
        Ok(self.tell_consumer(members, name, (is_late, heard.wants_all), now))
    }

    fn tell_consumer(
        &mut self,
        members: &mut Members,
        name: &str,
        (is_late, wants_all): (bool, bool),
        now: Ms,
    ) -> Told {
        let is_its = |target: &Option<Arc<str>>| target.as_deref() == Some(name);
        let held = self.slots.iter().filter(|(_, slot)| slot.is_held_by(name));
        let held: BTreeMap<PartitionId, bool> = held.map(|(id, slot)| (*id, is_its(&slot.target))).collect();
        let assignment = held.iter().filter(|(_, stays)| **stays).map(|(id, _)| *id);
        let mut assignment: BTreeSet<PartitionId> = assignment.collect();
        let mut waits = self
            .slots
            .values()
            .any(|slot| is_its(&slot.target) && !slot.is_held_by(name));
        if let Some(consumer) = self.consumer(name)
            && consumer.partitions().any(|id| held.get(&id) == Some(&false))
        {
            // One thing after the other, as Kafka does it: a client that is told at once what to give up and what to take
            // may take that after its user has unsubscribed.
            let count = assignment.len();
            assignment.retain(|id| consumer.may_have(*id));
            waits |= assignment.len() < count;
        }
        let epoch = self.next_epoch_if(name, &assignment);
        let mut told = Told {
            epoch: epoch.unwrap_or(0),
            assignment: None,
            waits,
        };
        let Some(reader) = self.readers.get_mut(name) else {
            return told;
        };
        let Some(consumer) = &mut reader.consumer else {
            return told;
        };
        if let Some(epoch) = epoch {
            if !is_late {
                consumer.before = consumer.epoch;
            }
            consumer.epoch = epoch;
            consumer.has_changed = false;
            reader.told = assignment;
            for id in &reader.told {
                consumer.has.entry(*id).or_insert(epoch);
            }
        }
        consumer.has.retain(|id, _| held.contains_key(id));
        // Each has its own time: further assignments do not prolong it.
        let by = now.saturating_add(consumer.terms.rebalance_timeout.min(MOST_REBALANCE_TIMEOUT_MS));
        let (has, told_of) = (&consumer.has, &reader.told);
        consumer
            .gives_up
            .retain(|id, _| has.contains_key(id) && !told_of.contains(id));
        for id in consumer.has.keys().filter(|id| !told_of.contains(id)) {
            consumer.gives_up.entry(*id).or_insert(by);
        }
        members.give_up_by(name, consumer.gives_up.values().min().copied());
        told.epoch = consumer.epoch;
        let is_due = epoch.is_some() || is_late || wants_all;
        told.assignment = is_due.then(|| reader.told.iter().copied().collect());
        told
    }

    /// A new epoch, if the consumer's assignment is another one than it was told, or it has said something else.
    fn next_epoch_if(&mut self, name: &str, assignment: &BTreeSet<PartitionId>) -> Option<i32> {
        let reader = self.readers.get(name)?;
        let consumer = reader.consumer.as_ref()?;
        let is_first = consumer.epoch == 0;
        (is_first || consumer.has_changed || reader.told != *assignment).then(|| self.next_epoch())
    }

    /// Whether a consumer that is there waits to be told, or to give something up.
    pub fn is_reconciling(&self) -> bool {
        let mut kept: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for slot in self.slots.values() {
            if let Some(owner) = slot.holder().filter(|owner| slot.target.as_ref() == Some(*owner)) {
                *kept.entry(owner).or_default() += 1;
            }
        }
        let is_behind = |(name, reader): (&Arc<str>, &Reader)| {
            let Some(consumer) = &reader.consumer else {
                return false;
            };
            let kept = kept.get(name).copied().unwrap_or(0);
            !consumer.is_away && (consumer.has.len() != reader.told.len() || reader.told.len() != kept)
        };
        self.is_rebalancing || self.readers.iter().any(is_behind)
    }

    /// The partitions that each member is to have.
    pub fn targets(&self) -> impl Iterator<Item = (PartitionId, &Arc<str>)> {
        let slots = self.slots.iter();
        slots.filter_map(|(id, slot)| Some((*id, slot.target.as_ref()?)))
    }

    /// A static member's process has ended: it has nothing any more, and its place is kept.
    ///
    /// # Errors
    /// [`Rejected::Unknown`].
    pub fn go_away(&mut self, members: &mut Members, name: &str) -> Result<(), Rejected> {
        let consumer = self.consumer_mut(name)?;
        consumer.is_away = true;
        consumer.has.clear();
        consumer.gives_up.clear();
        if let Some(reader) = self.readers.get_mut(name) {
            reader.told.clear();
        }
        members.give_up_by(name, None);
        self.release(members);
        Ok(())
    }

    /// Whether a consumer may read the group's offsets with this epoch.
    ///
    /// # Errors
    /// [`Rejected::Unknown`], [`Rejected::StaleEpoch`].
    pub fn check_reads(&self, name: &str, epoch: i32) -> Result<(), Rejected> {
        let consumer = self.consumer(name).ok_or(Rejected::Unknown)?;
        match epoch == consumer.epoch && !consumer.is_away {
            true => Ok(()),
            false => Err(Rejected::StaleEpoch),
        }
    }

    /// Whether a consumer may commit with this epoch: its own; or an earlier one, if it has had the partitions ever since.
    /// Never in a partition that another member has.
    ///
    /// # Errors
    /// [`Rejected::Unknown`], [`Rejected::StaleEpoch`].
    pub fn check_commits(&self, name: &str, epoch: i32, partitions: &[PartitionId]) -> Result<(), Rejected> {
        let consumer = self.consumer(name).ok_or(Rejected::Unknown)?;
        let is_others = |id: &PartitionId| {
            let holder = self.slots.get(id).and_then(Slot::holder);
            holder.is_some_and(|holder| **holder != *name)
        };
        let has_since = |id: &PartitionId| consumer.has.get(id).is_some_and(|since| *since <= epoch);
        let is_fit = !consumer.is_away
            && (epoch == consumer.epoch
                || (epoch > 0 && epoch < consumer.epoch && partitions.iter().all(has_since)));
        match is_fit && !partitions.iter().any(is_others) {
            true => Ok(()),
            false => Err(Rejected::StaleEpoch),
        }
    }

    /// Begins commits of a consumer. Returns those of the partitions in which it has to be ended.
    pub fn begin_consumer_commit(&mut self, partitions: &[PartitionId]) -> BTreeSet<PartitionId> {
        let mut begun = BTreeSet::new();
        for id in partitions {
            if let Some(slot) = self.slots.get_mut(id)
                && begun.insert(*id)
            {
                slot.committing += 1;
            }
        }
        begun
    }

    /// Ends commits of a consumer. `committed`: what is committed by now, which may be less than before.
    pub fn end_consumer_commit(
        &mut self,
        members: &mut Members,
        begun: &BTreeSet<PartitionId>,
        committed: impl Fn(PartitionId) -> Option<Offset>,
    ) {
        for id in begun {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.committing = slot.committing.saturating_sub(1);
                slot.committed = committed(*id);
                slot.position = slot.committed.unwrap_or(Offset::ZERO);
            }
        }
        self.release(members);
    }
}

/// The number after this one; from the largest one it begins anew.
pub(super) const fn next(epochs: i32) -> i32 {
    if epochs < i32::MAX - 1 { epochs + 1 } else { 1 }
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
mod tests;
