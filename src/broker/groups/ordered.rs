//! The members of an ordered group, and who reads which partition: a state machine without I/O or clock.
//!
//! A partition (a [`Slot`]) has an owner, and by [`assign`](super::assign) somebody who is to have it. Where the two
//! differ it changes hands, and that happens only when the owner begins a poll (what it was given before is then
//! acknowledged, or lost), waits in one with nothing in its hands, leaves, or its session ends; and never while a
//! commit of the owner is on its way to the log. So a clean hand-over delivers nothing twice, and no commit of one
//! member can land after another has gone on from the offset before it.
//!
//! Epochs are numbers of one sequence in a group. A member has a new one when it joins and whenever an answer tells it
//! another assignment; whoever acts with an older one is fenced. A poll that a newer one of the same member has
//! overtaken learns so when it wants to deliver, or is woken before.
//!
//! Committed offsets here are copies of what is durable: a commit begins with [`Ordered::begin_poll`] or
//! [`Ordered::begin_commit`], is made durable by the caller, and ends with [`Ordered::end_commit`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Mutex, Notify};

use super::assign::assign;
use super::live::GroupState;
use super::poll_id::{MAX_PARTITIONS, PollId, Reach};
use crate::broker::engine::{Offset, PartitionId, TopicId};

/// Milliseconds on a clock that never goes back.
pub type Ms = u64;

/// Why a member's request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such member.
    #[error("the member is unknown")]
    Unknown,
    /// It acts with an epoch, or for a partition, that it no longer has.
    #[error("the member is fenced")]
    Fenced,
    /// A newer poll of the same member has taken this one's place.
    #[error("a newer poll has taken this one's place")]
    Superseded,
}

/// What a member says when it joins.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its name.
    pub member: Arc<str>,
    /// What it calls itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// How long it may be silent.
    pub session_timeout: Ms,
}

/// A member.
#[derive(Debug)]
pub struct Member {
    /// The topics that it subscribes to.
    pub topics: BTreeSet<TopicId>,
    /// What it calls itself.
    pub client_id: Option<String>,
    /// Where it was heard from last.
    pub address: Option<String>,
    session_timeout: Ms,
    /// When it was heard from last.
    pub last_contact: Ms,
    /// The epoch with which it joined.
    joined: u64,
    /// The newest epoch that it was told.
    pub epoch: u64,
    /// The assignment that it was told.
    told: BTreeSet<PartitionId>,
    /// What its last poll delivered, until that is acknowledged or lost.
    delivery: Option<Delivery>,
    /// Partitions whose records a lost answer delivered, in its order, and the offset where it ended: the next answers
    /// begin with them. Entries are dropped when the records are delivered again, or the partition is another member's.
    lost: Vec<(PartitionId, Offset)>,
    /// The poll that it is in.
    poll: Option<Poll>,
    /// Wakes its waiting poll.
    pub wake: Arc<Notify>,
    /// Held from before a commit of the member begins until it has ended: commits land in the order in which they begin.
    pub order: Arc<Mutex<()>>,
    /// Where the next poll looks first, so that no partition starves.
    turn: usize,
}

#[derive(Debug)]
struct Delivery {
    number: u64,
    /// First and next offset of each partition.
    ranges: Vec<(PartitionId, Offset, Offset)>,
}

#[derive(Clone, Copy, Debug)]
struct Poll {
    token: u64,
    /// It holds nothing: its commit has ended.
    is_waiting: bool,
}

/// A partition of a subscribed topic.
#[derive(Debug)]
struct Slot {
    /// Who reads it. Stays when that member is gone, until somebody else gets it: see [`Ordered::may_commit`].
    owner: Option<Arc<str>>,
    /// Whether the owner is a member still.
    is_held: bool,
    /// The epoch since which it has had this owner.
    owned_since: u64,
    /// The epoch of the owner's newest delivery of it.
    delivered_epoch: u64,
    /// Whether nobody but the owner has had it in this process.
    is_first_owner: bool,
    /// Who is to have it.
    target: Option<Arc<str>>,
    /// The next record to deliver.
    position: Offset,
    committed: Option<Offset>,
    /// Commits on their way to the log.
    committing: u32,
}

/// Where a poll may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: PartitionId,
    /// The next record to deliver.
    pub from: Offset,
    /// Where to stop, if the records before it were in a lost answer: other partitions' lost records come before what
    /// follows here.
    pub until: Option<Offset>,
}

/// The beginning of a poll.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// Names the poll.
    pub token: u64,
    /// What to make durable first.
    pub commits: Vec<(PartitionId, Offset)>,
}

/// The end of a poll.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Names what is delivered.
    pub poll_id: PollId,
    /// The member's epoch.
    pub epoch: u64,
    /// What the member reads.
    pub assignment: Vec<PartitionId>,
}

/// A group with its members.
#[derive(Debug)]
pub struct Ordered {
    life: u64,
    /// The last epoch, poll token and poll number that was given.
    last: u64,
    /// By name.
    pub members: BTreeMap<Arc<str>, Member>,
    slots: BTreeMap<PartitionId, Slot>,
    /// Whether somebody has, or nobody has, what another is to have.
    is_unsettled: bool,
    /// No session ends before it.
    soonest: Ms,
}

impl Ordered {
    /// A group without members. `life` names the server's process; `first` is not below any number that the group gave
    /// before in this process.
    #[must_use]
    pub fn new(life: u64, first: u64) -> Self {
        Self {
            life,
            last: first,
            members: BTreeMap::new(),
            slots: BTreeMap::new(),
            is_unsettled: false,
            soonest: Ms::MAX,
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Every partition that it knows, with its owner.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, Option<&Arc<str>>)> {
        let owner = |slot: &Slot| slot.is_held;
        self.slots
            .iter()
            .map(move |(id, slot)| (*id, slot.owner.as_ref().filter(|_| owner(slot))))
    }

    /// What its members are doing.
    #[must_use]
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.is_unsettled {
            GroupState::Rebalancing
        } else {
            GroupState::Stable
        }
    }

    /// Whether a commit is on its way to the log.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.slots.values().any(|slot| slot.committing > 0)
    }

    /// No session ends before this, as far as is known now; [`Ordered::expire`] then looks closer.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Ms> {
        Some(self.soonest).filter(|soonest| *soonest < Ms::MAX)
    }

    /// Whether a partition is known.
    #[must_use]
    pub fn knows(&self, id: PartitionId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Sets what each member subscribes to, and the partitions of those topics with what is committed of the new ones; and
    /// decides anew who is to have what. Comes after every [`Ordered::join`].
    pub fn refresh(
        &mut self,
        subscriptions: &BTreeMap<Arc<str>, BTreeSet<TopicId>>,
        partitions: &BTreeSet<PartitionId>,
        committed: impl Fn(PartitionId) -> Option<Offset>,
    ) {
        for (name, topics) in subscriptions {
            if let Some(member) = self.members.get_mut(name) {
                member.topics.clone_from(topics);
            }
        }
        self.slots
            .retain(|id, slot| partitions.contains(id) || slot.committing > 0);
        for id in partitions {
            self.slots.entry(*id).or_insert_with(|| Slot::new(committed(*id)));
        }
        for member in self.members.values_mut() {
            if let Some(delivery) = &mut member.delivery {
                delivery.ranges.retain(|(id, ..)| self.slots.contains_key(id));
            }
        }
        self.rebalance();
    }

    /// Takes a member in, or in the place of the one of its name: that one's polls are superseded, and what it was
    /// delivered and did not acknowledge comes again.
    /// Returns the [key](Member::key) of the one before.
    pub fn join(&mut self, joining: Joining, now: Ms) -> Option<u64> {
        let epoch = self.next();
        self.take_back(&joining.member);
        let before = self.members.remove(&joining.member);
        let key = before.as_ref().map(Member::key);
        let (wake, order, lost) = before
            .map(|before| (before.wake, before.order, before.lost))
            .unwrap_or_default();
        // A poll of the one before finds out.
        wake.notify_waiters();
        let member = Member {
            topics: BTreeSet::new(),
            client_id: joining.client_id,
            address: joining.address,
            session_timeout: joining.session_timeout,
            last_contact: now,
            joined: epoch,
            epoch,
            told: BTreeSet::new(),
            delivery: None,
            lost,
            poll: None,
            wake,
            order,
            turn: 0,
        };
        self.soonest = self.soonest.min(member.deadline());
        self.members.insert(joining.member, member);
        key
    }

    /// The member's epoch and assignment, as it is told by the answer to its joining.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn tell(&mut self, name: &str) -> Result<(u64, Vec<PartitionId>), Refused> {
        let assignment: BTreeSet<PartitionId> = self.held_by(name).collect();
        let mut last = self.last;
        let member = self.members.get_mut(name).ok_or(Refused::Unknown)?;
        if member.told != assignment {
            last += 1;
            member.epoch = last;
            member.told.clone_from(&assignment);
        }
        let epoch = member.epoch;
        self.last = last;
        Ok((epoch, assignment.into_iter().collect()))
    }

    /// Notes that a member was heard from. With an epoch, that it must be the member's.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Fenced`].
    pub fn touch(&mut self, name: &str, epoch: Option<u64>, now: Ms) -> Result<u64, Refused> {
        let member = self.members.get_mut(name).ok_or(Refused::Unknown)?;
        if epoch.is_some_and(|epoch| epoch != member.epoch) {
            return Err(Refused::Fenced);
        }
        member.last_contact = now;
        Ok(member.epoch)
    }

    /// Begins a poll: supersedes one that waits, and says what of the last one is to be committed. Without the right
    /// `ack` the last answer was lost, and comes again.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn begin_poll(&mut self, name: &str, ack: Option<&PollId>, now: Ms) -> Result<Begun, Refused> {
        let token = self.next();
        let member = self.members.get_mut(name).ok_or(Refused::Unknown)?;
        member.last_contact = now;
        if member
            .poll
            .replace(Poll {
                token,
                is_waiting: false,
            })
            .is_some()
        {
            member.wake.notify_waiters();
        }
        let commits = self.acknowledge(name, ack);
        Ok(Begun { token, commits })
    }

    /// What an `ack` commits; begins to. A delivery that it does not name was lost.
    fn acknowledge(&mut self, name: &str, ack: Option<&PollId>) -> Vec<(PartitionId, Offset)> {
        let Some(member) = self.members.get_mut(name) else {
            return Vec::new();
        };
        // Of an answer that this member's predecessor was given, in this process or another.
        let inherited = ack.filter(|ack| ack.life != self.life || ack.epoch < member.joined);
        let is_last = |delivery: &Delivery| {
            ack.is_some_and(|ack| ack.life == self.life && ack.number == delivery.number)
        };
        let mut commits = Vec::new();
        match &member.delivery {
            // It stays until the commit has ended: if that fails, the same `ack` may come again.
            Some(delivery) if is_last(delivery) => {
                commits.extend(delivery.ranges.iter().map(|(id, _, next)| (*id, *next)));
            }
            Some(_) => self.take_back(name),
            None => {}
        }
        if let Some(ack) = inherited {
            let kept = ack.reach.iter().filter(|reach| self.may_commit(name, reach, ack));
            commits.extend(kept.map(|reach| (reach.partition, reach.next)));
        }
        commits.retain(|(id, next)| {
            let Some(slot) = self.slots.get_mut(id) else {
                return false;
            };
            // What is committed already needs no change; it never goes back.
            let is_news = slot.committed.is_none_or(|committed| committed < *next);
            slot.committing += u32::from(is_news);
            is_news
        });
        commits
    }

    /// Whether an acknowledgement of an answer that is not the last may be taken: nobody else was given the partition
    /// since, and neither has the member itself been given it again; and the group was not reset meanwhile.
    fn may_commit(&self, name: &str, reach: &Reach, ack: &PollId) -> bool {
        let Some(slot) = self.slots.get(&reach.partition) else {
            return false;
        };
        if slot.committing > 0 || slot.committed.unwrap_or(Offset::ZERO) < reach.base {
            return false;
        }
        let is_owner = slot.owner.as_deref() == Some(name);
        if ack.life == self.life {
            is_owner && slot.owned_since <= ack.epoch && slot.delivered_epoch <= ack.epoch
        } else {
            slot.is_first_owner && slot.delivered_epoch == 0 && (is_owner || slot.owner.is_none())
        }
    }

    /// Checks that a member has partitions which it wants to commit for.
    ///
    /// # Errors
    /// [`Refused::Fenced`].
    pub fn check_held(
        &self,
        name: &str,
        mut partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<(), Refused> {
        let holds = |id: PartitionId| {
            self.slots
                .get(&id)
                .and_then(Slot::holder)
                .is_some_and(|owner| &**owner == name)
        };
        if partitions.all(holds) {
            Ok(())
        } else {
            Err(Refused::Fenced)
        }
    }

    /// Begins commits that a member asks for itself, which has those partitions.
    pub fn begin_commit(&mut self, commits: &[(PartitionId, Offset)]) {
        for (id, _) in commits {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.committing += 1;
            }
        }
    }

    /// The committed offset of a partition, as far as commits have ended.
    #[must_use]
    pub fn committed(&self, id: PartitionId) -> Option<Offset> {
        self.slots.get(&id).and_then(|slot| slot.committed)
    }

    /// Ends commits: they are durable, or have failed.
    pub fn end_commit(&mut self, commits: &[(PartitionId, Offset)], is_durable: bool) {
        for (id, next) in commits {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.committing -= 1;
                if is_durable {
                    slot.committed = slot.committed.max(Some(*next));
                    slot.position = slot.position.max(*next);
                }
            }
        }
        // Somebody may wait for a partition that could not change hands meanwhile.
        self.release();
    }

    /// Goes on with a poll whose commits are durable: what it delivered last is done with, and the member gives up what
    /// others are to have.
    ///
    /// # Errors
    /// [`Refused::Superseded`], [`Refused::Unknown`].
    pub fn go_on(&mut self, name: &str, token: u64) -> Result<(), Refused> {
        let member = self.polling(name, token)?;
        member.delivery = None;
        if let Some(poll) = &mut member.poll {
            poll.is_waiting = true;
        }
        self.release();
        Ok(())
    }

    fn polling(&mut self, name: &str, token: u64) -> Result<&mut Member, Refused> {
        let member = self.members.get_mut(name).ok_or(Refused::Unknown)?;
        match member.poll {
            Some(poll) if poll.token == token => Ok(member),
            _ => Err(Refused::Superseded),
        }
    }

    /// Where a poll may read: first what a lost answer delivered, then the other partitions in turn. And whether the member
    /// is to learn another assignment.
    ///
    /// # Errors
    /// As [`Ordered::go_on`].
    pub fn readable(&mut self, name: &str, token: u64) -> Result<(Vec<Place>, bool), Refused> {
        self.polling(name, token)?;
        let mut places: Vec<Place> = self
            .held_by(name)
            .filter_map(|partition| {
                let from = self.slots.get(&partition)?.position;
                Some(Place {
                    partition,
                    from,
                    until: None,
                })
            })
            .collect();
        let member = self.polling(name, token)?;
        let is_new = member.told.len() != places.len()
            || places.iter().any(|place| !member.told.contains(&place.partition));
        if !places.is_empty() {
            let count = places.len();
            places.rotate_left(member.turn % count);
        }
        if !member.lost.is_empty() {
            member.lost.retain(|(id, until)| {
                places
                    .iter()
                    .any(|place| place.partition == *id && place.from < *until)
            });
            for place in &mut places {
                let lost = member.lost.iter().find(|(id, _)| *id == place.partition);
                place.until = lost.map(|(_, until)| *until);
            }
            let rank = |place: &Place| member.lost.iter().position(|(id, _)| *id == place.partition);
            places.sort_by_key(|place| rank(place).unwrap_or(usize::MAX));
        }
        Ok((places, is_new))
    }

    /// Ends a poll with what was read: first and next offset of each partition, as [`Ordered::readable`] gave the first.
    /// `None`: the places have changed meanwhile, and are to be read anew.
    ///
    /// # Errors
    /// As [`Ordered::go_on`].
    pub fn deliver(
        &mut self,
        name: &str,
        token: u64,
        ranges: Vec<(PartitionId, Offset, Offset)>,
        now: Ms,
    ) -> Result<Option<Answer>, Refused> {
        self.polling(name, token)?;
        debug_assert!(ranges.len() <= MAX_PARTITIONS);
        let is_there = |(id, from, _): &(PartitionId, Offset, Offset)| {
            self.slots.get(id).is_some_and(|slot| {
                slot.holder().is_some_and(|owner| &**owner == name) && slot.position <= *from
            })
        };
        if !ranges.iter().all(is_there) {
            return Ok(None);
        }
        let (epoch, assignment) = self.tell(name)?;
        let number = self.next();
        let mut reach = Vec::with_capacity(ranges.len());
        for (id, _, next) in &ranges {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.position = *next;
                slot.delivered_epoch = epoch;
                reach.push(Reach {
                    partition: *id,
                    base: slot.committed.unwrap_or(Offset::ZERO),
                    next: *next,
                });
            }
        }
        let poll_id = PollId {
            life: self.life,
            epoch,
            number,
            reach,
        };
        if let Some(member) = self.members.get_mut(name) {
            member.delivery = (!ranges.is_empty()).then_some(Delivery { number, ranges });
            member.poll = None;
            member.last_contact = now;
            member.turn = member.turn.wrapping_add(1);
            self.soonest = self.soonest.min(member.deadline());
        }
        Ok(Some(Answer {
            poll_id,
            epoch,
            assignment,
        }))
    }

    /// Ends a poll of a shared group, whose records are leased elsewhere, by the poll's token.
    ///
    /// # Errors
    /// As [`Ordered::go_on`].
    pub fn finish_poll(&mut self, name: &str, token: u64, now: Ms) -> Result<(u64, PollId), Refused> {
        let life = self.life;
        let member = self.polling(name, token)?;
        member.poll = None;
        member.last_contact = now;
        let (epoch, deadline) = (member.epoch, member.deadline());
        self.soonest = self.soonest.min(deadline);
        let poll_id = PollId {
            life,
            epoch,
            number: token,
            reach: Vec::new(),
        };
        Ok((epoch, poll_id))
    }

    /// Ends a poll without an answer: it failed, or its client went away.
    pub fn abandon(&mut self, name: &str, token: u64, now: Ms) {
        if let Ok(member) = self.polling(name, token) {
            member.poll = None;
            member.last_contact = now;
            let deadline = member.deadline();
            self.soonest = self.soonest.min(deadline);
        }
    }

    /// What a leaving member's `ack` commits; begins to. [`Ordered::leave`] comes after it.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn begin_leave(
        &mut self,
        name: &str,
        ack: Option<&PollId>,
    ) -> Result<Vec<(PartitionId, Offset)>, Refused> {
        if !self.members.contains_key(name) {
            return Err(Refused::Unknown);
        }
        Ok(self.acknowledge(name, ack))
    }

    /// Takes a member out, and returns its [key](Member::key).
    pub fn leave(&mut self, name: &str) -> Option<u64> {
        self.take_back(name);
        let member = self.members.remove(name)?;
        member.wake.notify_waiters();
        self.rebalance();
        Some(member.key())
    }

    /// Takes out the members whose sessions have ended, and names them, with their [keys](Member::key).
    pub fn expire(&mut self, now: Ms) -> Vec<(Arc<str>, u64)> {
        if now < self.soonest {
            return Vec::new();
        }
        let is_over = |member: &Member| member.poll.is_none() && member.deadline() <= now;
        let over = self.members.iter().filter(|(_, member)| is_over(member));
        let names: Vec<Arc<str>> = over.map(|(name, _)| Arc::clone(name)).collect();
        let gone = names
            .into_iter()
            .filter_map(|name| self.leave(&name).map(|key| (name, key)))
            .collect();
        let silent = self.members.values().filter(|member| member.poll.is_none());
        self.soonest = silent.map(Member::deadline).min().unwrap_or(Ms::MAX);
        gone
    }

    /// What a member holds.
    fn held_by(&self, name: &str) -> impl Iterator<Item = PartitionId> {
        let holds = move |slot: &Slot| slot.holder().is_some_and(|owner| &**owner == name);
        self.slots
            .iter()
            .filter(move |(_, slot)| holds(slot))
            .map(|(id, _)| *id)
    }

    /// Has what a member was delivered and did not acknowledge delivered again, before anything else.
    fn take_back(&mut self, name: &str) {
        let Some(member) = self.members.get_mut(name) else {
            return;
        };
        let Some(delivery) = member.delivery.take() else {
            return;
        };
        // What an answer before this one lost and this one did not reach comes after it.
        let mut lost = Vec::with_capacity(delivery.ranges.len());
        for (id, from, next) in delivery.ranges {
            let before = member.lost.iter().find(|(before, _)| *before == id);
            lost.push((id, before.map_or(next, |(_, until)| next.max(*until))));
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.position = slot.committed.unwrap_or(Offset::ZERO).max(from);
            }
        }
        member
            .lost
            .retain(|(id, _)| !lost.iter().any(|(again, _)| again == id));
        lost.append(&mut member.lost);
        member.lost = lost;
    }

    /// Decides anew who is to have what, and hands over what can be at once.
    fn rebalance(&mut self) {
        let subscriptions = self
            .members
            .iter()
            .map(|(name, member)| (Arc::clone(name), member.topics.clone()))
            .collect();
        let partitions: Vec<PartitionId> = self.slots.keys().copied().collect();
        // A partition that is on its way to somebody is as good as there.
        let of_member = |owner: &&Arc<str>| self.members.contains_key(*owner);
        let owners = self
            .slots
            .iter()
            .filter_map(|(id, slot)| {
                let owner = slot.target.as_ref().filter(of_member).or(slot.holder());
                Some((*id, Arc::clone(owner?)))
            })
            .collect();
        let mut targets = assign(&subscriptions, &partitions, &owners);
        for (id, slot) in &mut self.slots {
            slot.target = targets.remove(id);
            slot.is_held &= slot
                .owner
                .as_ref()
                .is_some_and(|owner| self.members.contains_key(owner));
        }
        self.is_unsettled = true;
        self.release();
    }

    /// Has members give up what others are to have: those that wait in a poll with nothing in their hands, and of what they
    /// were never told those that do not.
    fn release(&mut self) {
        if !self.is_unsettled {
            return;
        }
        for (id, slot) in &mut self.slots {
            if !slot.is_held || slot.target == slot.owner || slot.committing > 0 {
                continue;
            }
            let Some(member) = slot.owner.as_ref().and_then(|owner| self.members.get(owner)) else {
                continue;
            };
            if member.poll.is_some_and(|poll| poll.is_waiting) || !member.told.contains(id) {
                slot.is_held = false;
                member.wake.notify_waiters();
            }
        }
        self.hand_over();
    }

    /// Gives what nobody holds to who is to have it.
    fn hand_over(&mut self) {
        let mut last = self.last;
        for slot in self.slots.values_mut() {
            if slot.is_held || slot.committing > 0 {
                continue;
            }
            let Some(target) = slot.target.clone() else {
                continue;
            };
            if slot.owner.as_ref() != Some(&target) {
                last += 1;
                slot.is_first_owner = slot.owner.is_none();
                slot.owned_since = last;
                slot.delivered_epoch = 0;
                slot.position = slot.committed.unwrap_or(Offset::ZERO);
                slot.owner = Some(Arc::clone(&target));
            }
            slot.is_held = true;
            if let Some(member) = self.members.get(&target) {
                member.wake.notify_waiters();
            }
        }
        self.last = last;
        self.is_unsettled = self
            .slots
            .values()
            .any(|slot| slot.holder() != slot.target.as_ref());
    }

    /// The last number that it gave.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.last
    }
}

impl Member {
    fn deadline(&self) -> Ms {
        self.last_contact.saturating_add(self.session_timeout)
    }

    /// A number that no other member of the group has, or had.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.joined
    }

    /// Whether it is in a poll.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.poll.is_some()
    }
}

impl Slot {
    fn new(committed: Option<Offset>) -> Self {
        Self {
            owner: None,
            is_held: false,
            owned_since: 0,
            delivered_epoch: 0,
            is_first_owner: true,
            target: None,
            position: committed.unwrap_or(Offset::ZERO),
            committed,
            committing: 0,
        }
    }

    fn holder(&self) -> Option<&Arc<str>> {
        self.owner.as_ref().filter(|_| self.is_held)
    }
}

#[cfg(test)]
#[path = "ordered_history.rs"]
mod history;
