//! The partitions of an ordered group: who reads which, what was delivered, what is committed. A state machine without
//! I/O or clock.
//!
//! A partition (a [`Slot`]) has an owner and a target: the member that [`assign`](super::assign) gives it to. If they
//! differ, the partition changes hands as soon as one of these holds: the owner waits in a poll whose `ack` is durable
//! (its last delivery is then acknowledged or lost), no answer has told the owner of the partition yet, the owner has
//! left, or its session has ended. It never changes hands while a commit of it is on its way to the log. So a clean
//! hand-over delivers nothing twice, and a commit of the old owner never lands after the new owner has begun at an
//! earlier offset.
//!
//! If a poll does not acknowledge the last answer, that answer was lost. Its records are delivered again before any
//! others, within the limits of the polls, in the partitions that the member still has.
//!
//! Committed offsets here are copies of the durable ones: a commit begins with [`Ordered::acknowledge`] or
//! [`Ordered::begin_commit`], is made durable by the caller, and ends with [`Ordered::end_commit`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use self::consumers::{Assignor, Consumer};
use self::moved::Fresh;
use super::assign::{assign, assign_ranges};
use crate::broker::engine::{Offset, PartitionId, TopicId};
use crate::broker::groups::members::{Member, Members, Ms, Refused};
use crate::broker::groups::poll_id::{MAX_PARTITIONS, PollId, Reach};

/// The assignment and the records that its answers gave a member.
#[derive(Debug, Default)]
struct Reader {
    /// The assignment in its last answer.
    told: BTreeSet<PartitionId>,
    /// The records of its last answer, until they are acknowledged or known to be lost.
    delivery: Option<Delivery>,
    /// Partitions with records of a lost answer, in its order, and the offset where these records end: the next answers
    /// begin with them. An entry is dropped when its records are delivered again, or the partition is another member's.
    lost: Vec<(PartitionId, Offset)>,
    /// The partitions that its last `ack` lost: the answer that said so may be lost, and the `ack` come again.
    lost_with_ack: Vec<PartitionId>,
    /// The partitions that a reset has moved: see [`moved`].
    fresh: Fresh,
    /// The partition with which the next poll begins, so that no partition starves.
    turn: usize,
    /// What it has passed over is being committed: see [`passed`].
    is_passing: bool,
    /// It fetches by itself: see [`consumers`]. Then `told` is what it is to keep of what it has.
    consumer: Option<Consumer>,
}

impl Reader {
    fn forget_topics(&mut self, topics: &HashSet<TopicId>) {
        let is_kept = |id: &PartitionId| !topics.contains(&id.topic);
        if let Some(delivery) = &mut self.delivery {
            delivery.ranges.retain(|(id, ..)| is_kept(id));
            delivery.matching.retain(|(id, _)| is_kept(id));
        }
        self.lost.retain(|(id, _)| is_kept(id));
        self.fresh.partitions.retain(is_kept);
    }
}

#[derive(Debug)]
struct Delivery {
    number: u64,
    /// First and next offset of each partition.
    ranges: Vec<(PartitionId, Offset, Offset)>,
    /// In a group with a filter, the records that match, for the lag.
    matching: Vec<(PartitionId, Arc<[Offset]>)>,
}

/// A partition of a subscribed topic.
#[derive(Debug)]
struct Slot {
    /// The member that reads it. Kept after that member is gone, until another gets it: see `Ordered::standing`.
    owner: Option<Arc<str>>,
    /// Whether the owner still has it: false once the owner has given it up, or is gone.
    is_held: bool,
    /// The number, in the sequence of epochs and answers, at which this owner got it.
    owned_since: u64,
    /// The number of the owner's newest answer with records from here; 0: none yet.
    delivered: u64,
    /// Whether no other member has had it in this process.
    is_first_owner: bool,
    /// The member that is to have it.
    target: Option<Arc<str>>,
    /// The next record to deliver.
    position: Offset,
    committed: Option<Offset>,
    /// The committed offset when the newest records were delivered.
    base: Offset,
    /// The owner has committed since, by offset, within the records of that delivery.
    has_finer_commits: bool,
    /// The number, in the same sequence, at which a reset has last moved it; 0: never in this process.
    moved: u64,
    /// Commits on their way to the log.
    committing: u32,
    /// Those of them that began before the newest records were delivered.
    committing_before: u32,
    /// Everything from the committed offset to the position was passed over, because it does not match the group's
    /// filter: since when. It may be committed.
    passed: Option<Ms>,
}

/// A partition that a poll may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: PartitionId,
    /// The next record to deliver.
    pub from: Offset,
    /// Where to stop, if the records before this offset were in a lost answer: the lost records of other partitions are
    /// delivered before the records that follow here.
    pub until: Option<Offset>,
}

/// The answer that ends a poll.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Names the delivered records.
    pub poll_id: PollId,
    /// The member's epoch.
    pub epoch: u64,
    /// The partitions that the member reads.
    pub assignment: Vec<PartitionId>,
    /// Those of them that a reset has moved.
    pub moved: Vec<PartitionId>,
}

/// What an `ack` leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The commits that it begins.
    pub commits: Vec<(PartitionId, Offset)>,
    /// Partitions of the acknowledged answer in which it can no longer commit: another member was given them since, the
    /// group was reset, or nobody subscribes to their topic. Topics that are deleted by now are among them.
    pub lost: Vec<PartitionId>,
}

/// What an `ack` may do in one partition.
enum Standing {
    /// It may commit.
    Commits,
    /// It commits nothing, and the member's next answers have the records again if they are not committed.
    Redelivered,
    /// It can never commit any more.
    Lost,
}

/// The partitions of a group, and the records that its members were given.
#[derive(Debug, Default)]
pub struct Ordered {
    readers: BTreeMap<Arc<str>, Reader>,
    slots: BTreeMap<PartitionId, Slot>,
    /// Whether a partition has another owner than its target, or none.
    is_rebalancing: bool,
    /// Whether something may have been passed over that is not committed.
    has_passed: bool,
    /// How many epochs consumers were given.
    epochs: i32,
    /// Members have left since the partitions were assigned.
    is_outdated: bool,
    /// How often the partitions were assigned.
    #[cfg(test)]
    pub(crate) assignments: usize,
}

impl Ordered {
    /// Every known partition, with the member that has it.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, Option<&Arc<str>>)> {
        self.slots.iter().map(|(id, slot)| (*id, slot.holder()))
    }

    /// Whether partitions wait for their owners to give them up.
    pub fn is_rebalancing(&self) -> bool {
        self.is_rebalancing
    }

    /// Whether a commit is on its way to the log.
    pub fn is_committing(&self) -> bool {
        self.slots.values().any(|slot| slot.committing > 0)
    }

    /// Drops the partitions of topics that no member subscribes to. Returns those that stay: a commit in one of their
    /// partitions is on its way to the log, or a consumer has not given one up yet.
    pub fn forget_topics(&mut self, topics: &HashSet<TopicId>) -> HashSet<TopicId> {
        let slots = self.slots.iter().filter(|(_, slot)| slot.committing > 0);
        let committing = slots.map(|(id, _)| id.topic);
        let readers = self.readers.values();
        let consumers = readers.filter_map(|reader| reader.consumer.as_ref());
        let held = consumers.flat_map(Consumer::partitions).map(|id| id.topic);
        let kept: HashSet<TopicId> = committing.chain(held).filter(|id| topics.contains(id)).collect();
        let forgotten = topics.difference(&kept).copied().collect();
        self.slots
            .retain(|id, _| !topics.contains(&id.topic) || kept.contains(&id.topic));
        for reader in self.readers.values_mut() {
            reader.forget_topics(&forgotten);
        }
        kept
    }

    /// The partitions of records that members have in hand, and those that consumers have not given up.
    pub fn in_hand(&self) -> impl Iterator<Item = PartitionId> {
        let consumers = self
            .readers
            .values()
            .filter_map(|reader| reader.consumer.as_ref());
        let theirs = consumers.flat_map(Consumer::partitions);
        let deliveries = self
            .readers
            .values()
            .filter_map(|reader| reader.delivery.as_ref());
        let delivered = deliveries.flat_map(|delivery| delivery.ranges.iter().map(|(id, ..)| *id));
        delivered.chain(theirs)
    }

    /// Whether a partition is known.
    pub fn knows(&self, id: PartitionId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Sets the partitions of the subscribed topics, with the committed offsets of the new ones, and assigns all
    /// partitions again. Called after every join, and when topics have changed.
    pub fn refresh(
        &mut self,
        members: &mut Members,
        partitions: &BTreeSet<PartitionId>,
        committed: impl Fn(PartitionId) -> Option<Offset>,
    ) {
        self.slots
            .retain(|id, slot| partitions.contains(id) || slot.committing > 0);
        for id in partitions {
            self.slots.entry(*id).or_insert_with(|| Slot::new(committed(*id)));
        }
        for reader in self.readers.values_mut() {
            if let Some(delivery) = &mut reader.delivery {
                delivery.ranges.retain(|(id, ..)| self.slots.contains_key(id));
            }
        }
        self.rebalance(members);
    }

    /// Adds a member that has joined. The unacknowledged records of a replaced member of that name are delivered first.
    pub fn join(&mut self, name: &Arc<str>) {
        self.take_back(name);
        let before = self.readers.remove(name).unwrap_or_default();
        let reader = Reader {
            lost: before.lost,
            lost_with_ack: before.lost_with_ack,
            fresh: before.fresh,
            ..Reader::default()
        };
        self.readers.insert(Arc::clone(name), reader);
    }

    /// The epoch and assignment for a member's answer. An assignment that differs from the last one gets a new epoch.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn tell(&mut self, members: &mut Members, name: &str) -> Result<(u64, Vec<PartitionId>), Refused> {
        let assignment: BTreeSet<PartitionId> = self.held_by(name).collect();
        let reader = self.readers.get_mut(name).ok_or(Refused::Unknown)?;
        if reader.told != assignment {
            let epoch = members.next_number();
            members.get_mut(name).ok_or(Refused::Unknown)?.epoch = epoch;
            reader.told.clone_from(&assignment);
        }
        let epoch = members.get(name).ok_or(Refused::Unknown)?.epoch;
        Ok((epoch, assignment.into_iter().collect()))
    }

    /// Begins the commits that a member's `ack` requests. A last answer that it does not name was lost. `is_repeated`:
    /// it is the member's last `ack`, once more.
    pub fn acknowledge(
        &mut self,
        members: &mut Members,
        name: &str,
        ack: Option<&PollId>,
        is_repeated: bool,
    ) -> Acknowledged {
        let mut acknowledged = Acknowledged::default();
        let Some((reader, member)) = self.readers.get(name).zip(members.get(name)) else {
            return acknowledged;
        };
        let delivered = reader.delivery.as_ref().map(|delivery| delivery.number);
        let life = members.life;
        let is_of_today = |ack: &PollId| ack.life == life;
        // The delivery is kept until the commit has ended: if it fails, the same `ack` may come again.
        let is_last = ack.is_some_and(|ack| is_of_today(ack) && Some(ack.number) == delivered);
        // An `ack` of an answer to an earlier member of this name, in this process or an earlier one.
        let is_inherited = ack.is_some_and(|ack| !is_of_today(ack) || ack.epoch < member.key());
        if !is_last {
            if delivered.is_some() {
                // A commit of the delivery that is taken back may still be on its way: it comes too late.
                let epoch = members.next_number();
                if let Some(member) = members.get_mut(name) {
                    member.epoch = epoch;
                }
            }
            self.take_back(name);
        }
        let Some(ack) = ack else { return acknowledged };
        if let Some(reader) = self.readers.get_mut(name).filter(|_| is_of_today(ack)) {
            reader.fresh.arrived(ack.number);
        }
        for reach in &ack.reach {
            let standing = if is_last {
                self.standing_of_last(reach, ack.number)
            } else {
                self.standing(name, reach, ack, members)
            };
            match standing {
                Standing::Commits if is_last || is_inherited => {
                    acknowledged.commits.push((reach.partition, reach.next));
                }
                Standing::Commits | Standing::Redelivered => {}
                Standing::Lost => acknowledged.lost.push(reach.partition),
            }
        }
        if let Some(reader) = self.readers.get_mut(name) {
            if is_repeated {
                // What it committed the first time may be another member's by now, and is not lost.
                acknowledged.lost.clone_from(&reader.lost_with_ack);
            } else {
                reader.lost_with_ack.clone_from(&acknowledged.lost);
            }
        }
        for (id, next) in self.passed_by(name) {
            if acknowledged.commits.iter().all(|(other, _)| *other != id) {
                acknowledged.commits.push((id, next));
            }
        }
        acknowledged.commits.retain(|(id, next)| {
            let Some(slot) = self.slots.get_mut(id) else {
                return false;
            };
            // A committed offset never goes back, and an equal one needs no commit.
            let is_news = slot.committed.is_none_or(|committed| committed < *next);
            slot.committing += u32::from(is_news);
            is_news
        });
        acknowledged
    }

    /// What an `ack` of the last answer may do in a partition: commit, unless the group was reset.
    fn standing_of_last(&self, reach: &Reach, number: u64) -> Standing {
        match self.slots.get(&reach.partition) {
            Some(slot) if !slot.was_reset_since(reach) && slot.moved < number => Standing::Commits,
            _ => Standing::Lost,
        }
    }

    /// What an `ack` of an earlier member's answer may do in a partition. It may commit if, since that answer, no other
    /// member got the partition, this member was delivered nothing from it, and the group was neither reset nor made
    /// again; and no commit of it runs.
    fn standing(&self, name: &str, reach: &Reach, ack: &PollId, members: &Members) -> Standing {
        let Some(slot) = self.slots.get(&reach.partition) else {
            return Standing::Lost;
        };
        let is_owner = slot.owner.as_deref() == Some(name);
        let (is_its_own, is_delivered) = if ack.life == members.life {
            let is_its_own = is_owner && slot.owned_since <= ack.number && slot.moved < ack.number;
            (is_its_own, slot.delivered > ack.number)
        } else {
            let is_its_own = slot.is_first_owner && (is_owner || slot.owner.is_none());
            let is_same_group = ack.generation == members.generation;
            (is_its_own && is_same_group, slot.delivered > 0)
        };
        if !is_its_own || slot.was_reset_since(reach) {
            Standing::Lost
        } else if is_delivered || slot.committing > 0 {
            Standing::Redelivered
        } else {
            Standing::Commits
        }
    }

    /// The partitions of an acknowledged answer in which outputs must not be stored with the `ack`: it can no longer
    /// commit there, or has done so before.
    pub fn unfit_for_outputs(&self, members: &Members, name: &str, ack: &PollId) -> Vec<PartitionId> {
        let delivered = self.readers.get(name).and_then(|reader| reader.delivery.as_ref());
        let is_of_today = ack.life == members.life;
        let is_last = is_of_today && delivered.is_some_and(|delivery| delivery.number == ack.number);
        let key = members.get(name).map_or(0, Member::key);
        let is_inherited = !is_of_today || ack.epoch < key;
        let is_fit = |reach: &Reach| {
            let standing = match is_last {
                true => self.standing_of_last(reach, ack.number),
                false => self.standing(name, reach, ack, members),
            };
            // A delivery is in hand until what acknowledges it is durable.
            (is_last || is_inherited)
                && matches!(standing, Standing::Commits)
                && self
                    .slots
                    .get(&reach.partition)
                    .is_some_and(|slot| slot.is_within(reach.base, reach.next, is_last))
        };
        let is_news = |reach: &Reach| {
            let slot = self.slots.get(&reach.partition);
            slot.is_some_and(|slot| slot.committed.unwrap_or(Offset::ZERO) < reach.next)
        };
        // If nothing is left to commit, the outputs of all of it are stored.
        let acknowledges = ack.reach.iter().any(is_news);
        let unfit = ack.reach.iter().filter(|reach| !acknowledges || !is_fit(reach));
        unfit.map(|reach| reach.partition).collect()
    }

    /// The partitions in which outputs must not be stored with a commit by offset: it goes back or nowhere, beyond what the
    /// member was delivered, or the committed offset is not of this delivery.
    pub fn unfit_for_commit_outputs(
        &self,
        name: &str,
        commits: &[(PartitionId, Offset)],
    ) -> Vec<PartitionId> {
        let delivery = self.readers.get(name).and_then(|reader| reader.delivery.as_ref());
        let is_fit = |(id, offset): &(PartitionId, Offset)| {
            let (Some(delivery), Some(slot)) = (delivery, self.slots.get(id)) else {
                return false;
            };
            let Some((_, from, next)) = delivery.ranges.iter().find(|(of, ..)| of == id) else {
                return false;
            };
            (from < offset && offset <= next)
                && slot.is_held_by(name)
                && slot.committing == 0
                && slot.committed.is_none_or(|committed| committed < *offset)
                && slot.is_within(slot.base, *next, true)
        };
        let unfit = commits.iter().filter(|commit| !is_fit(commit));
        unfit.map(|(id, _)| *id).collect()
    }

    /// Checks that a member has the partitions in which it wants to commit.
    ///
    /// # Errors
    /// [`Refused::Fenced`].
    pub fn check_held(
        &self,
        name: &str,
        mut partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<(), Refused> {
        let holds = |id: PartitionId| self.slots.get(&id).is_some_and(|slot| slot.is_held_by(name));
        if partitions.all(holds) {
            Ok(())
        } else {
            Err(Refused::Fenced)
        }
    }

    /// Begins commits that a member requests by offset, in partitions that it has.
    pub fn begin_commit(&mut self, commits: &[(PartitionId, Offset)]) {
        for (id, _) in commits {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.committing += 1;
            }
        }
    }

    /// The committed offset of a partition, as far as commits have ended.
    pub fn committed(&self, id: PartitionId) -> Option<Offset> {
        self.slots.get(&id).and_then(|slot| slot.committed)
    }

    /// Ends commits: they are durable, or have failed. `is_finer`: the member named their offsets.
    pub fn end_commit(
        &mut self,
        members: &mut Members,
        commits: &[(PartitionId, Offset)],
        is_durable: bool,
        is_finer: bool,
    ) {
        for (id, next) in commits {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.committing -= 1;
                // A commit of an earlier delivery, whose records were delivered again before it ended, is not one within
                // this delivery: outputs of these records are stored with it.
                let is_earlier = slot.committing_before > 0;
                slot.committing_before -= u32::from(is_earlier);
                if is_durable {
                    slot.has_finer_commits |= is_finer && slot.delivered > 0 && !is_earlier;
                    slot.committed = slot.committed.max(Some(*next));
                    slot.position = slot.position.max(*next);
                }
                if let Some(owner) = slot.owner.as_ref().filter(|_| slot.passed.is_some()) {
                    // Its poll could not read from here during the commit.
                    members.wake(owner);
                    slot.passed = slot.passed.filter(|_| slot.committed < Some(slot.position));
                }
            }
        }
        // Another member may wait for a partition that could not change hands during the commit.
        self.release(members);
    }

    /// Continues a poll whose commits are durable ([`Members::wait`]): the last delivery is done, and the member gives
    /// up partitions that others are to have.
    pub fn go_on(&mut self, members: &mut Members, name: &str) {
        let delivery = self
            .readers
            .get_mut(name)
            .and_then(|reader| reader.delivery.take());
        for (id, ..) in delivery.into_iter().flat_map(|delivery| delivery.ranges) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.has_finer_commits = false;
            }
        }
        self.release(members);
    }

    /// Where a poll may read: first the records of lost answers, then the other partitions in turn. Also whether the
    /// assignment differs from the one in the member's last answer, or a reset has moved some of it.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn readable(&mut self, name: &str) -> Result<(Vec<Place>, bool), Refused> {
        let place = |(partition, slot): (&PartitionId, &Slot)| Place {
            partition: *partition,
            from: slot.position,
            until: None,
        };
        let held = self.slots.iter().filter(|(_, slot)| slot.is_held_by(name));
        let mut places: Vec<Place> = held.map(place).collect();
        let reader = self.readers.get_mut(name).ok_or(Refused::Unknown)?;
        reader.fresh.is_unseen = false;
        let is_new = reader.fresh.is_untold()
            || reader.told.len() != places.len()
            || places.iter().any(|place| !reader.told.contains(&place.partition));
        if !places.is_empty() {
            let count = places.len();
            places.rotate_left(reader.turn % count);
        }
        if !reader.lost.is_empty() {
            reader.lost.retain(|(id, until)| {
                places
                    .iter()
                    .any(|place| place.partition == *id && place.from < *until)
            });
            for place in &mut places {
                let lost = reader.lost.iter().find(|(id, _)| *id == place.partition);
                place.until = lost.map(|(_, until)| *until);
            }
            let rank = |place: &Place| reader.lost.iter().position(|(id, _)| *id == place.partition);
            places.sort_by_key(|place| rank(place).unwrap_or(usize::MAX));
        }
        // A delivery from such a partition would begin at a committed offset that is about to change.
        places.retain(|place| !self.slots[&place.partition].is_committing_passed());
        Ok((places, is_new))
    }

    /// Ends a poll with the ranges that were read: first and next offset of each partition, the first at or after the
    /// one from [`Ordered::readable`]. `None`: a partition has changed hands, gone on or been moved meanwhile, so read again.
    ///
    /// # Errors
    /// As [`Members::check_poll`].
    pub fn deliver(
        &mut self,
        members: &mut Members,
        name: &str,
        token: u64,
        ranges: Vec<(PartitionId, Offset, Offset)>,
        now: Ms,
    ) -> Result<Option<Answer>, Refused> {
        members.check_poll(name, token)?;
        debug_assert!(ranges.len() <= MAX_PARTITIONS);
        let is_there = |(id, from, _): &(PartitionId, Offset, Offset)| {
            let slot = self.slots.get(id);
            slot.is_some_and(|slot| {
                slot.is_held_by(name) && slot.position <= *from && !slot.is_committing_passed()
            })
        };
        let is_unseen = |reader: &Reader| reader.fresh.is_unseen;
        if !ranges.iter().all(is_there) || self.readers.get(name).is_some_and(is_unseen) {
            return Ok(None);
        }
        let (epoch, assignment) = self.tell(members, name)?;
        let number = members.next_number();
        let mut reach = Vec::with_capacity(ranges.len());
        for (id, _, next) in &ranges {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.position = *next;
                slot.delivered = number;
                slot.passed = None;
                slot.base = slot.committed.unwrap_or(Offset::ZERO);
                slot.has_finer_commits = false;
                slot.committing_before = slot.committing;
                reach.push(Reach {
                    partition: *id,
                    base: slot.base,
                    next: *next,
                });
            }
        }
        let poll_id = PollId {
            leased: Vec::new(),
            life: members.life,
            generation: members.generation,
            epoch,
            number,
            reach,
        };
        let mut moved = Vec::new();
        if let Some(reader) = self.readers.get_mut(name) {
            moved = reader.fresh.tell(number);
            reader.delivery = (!ranges.is_empty()).then_some(Delivery {
                number,
                ranges,
                matching: Vec::new(),
            });
            reader.turn = reader.turn.wrapping_add(1);
        }
        members.end_poll(name, token, now)?;
        members.answered(name, number);
        Ok(Some(Answer {
            poll_id,
            epoch,
            assignment,
            moved,
        }))
    }

    /// Removes a member that has left: its partitions go to others, which get its unacknowledged records again.
    pub fn leave(&mut self, members: &mut Members, name: &str) {
        self.remove(name);
        self.assign_again(members);
    }

    /// The same without giving its partitions to others: call [`Ordered::assign_again`] next, once for all that leave.
    pub fn remove(&mut self, name: &str) {
        self.take_back(name);
        self.readers.remove(name);
        self.is_outdated = true;
    }

    /// Gives the partitions of members that have left to others.
    pub fn assign_again(&mut self, members: &mut Members) {
        if self.is_outdated {
            self.rebalance(members);
        }
    }

    /// The partitions that a member holds.
    fn held_by(&self, name: &str) -> impl Iterator<Item = PartitionId> {
        let held = self.slots.iter().filter(move |(_, slot)| slot.is_held_by(name));
        held.map(|(id, _)| *id)
    }

    /// Marks a member's unacknowledged records: they are delivered again, before any others.
    fn take_back(&mut self, name: &str) {
        let Some(reader) = self.readers.get_mut(name) else {
            return;
        };
        let Some(delivery) = reader.delivery.take() else {
            return;
        };
        // Records of an earlier lost answer that this one did not reach come after the records of this one.
        let mut lost = Vec::with_capacity(delivery.ranges.len());
        for (id, from, next) in delivery.ranges {
            let before = reader.lost.iter().find(|(before, _)| *before == id);
            lost.push((id, before.map_or(next, |(_, until)| next.max(*until))));
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.position = slot.committed.unwrap_or(Offset::ZERO).max(from);
            }
        }
        reader
            .lost
            .retain(|(id, _)| !lost.iter().any(|(again, _)| again == id));
        lost.append(&mut reader.lost);
        reader.lost = lost;
    }

    /// Assigns all partitions again, and hands over those that can change hands at once.
    fn rebalance(&mut self, members: &mut Members) {
        let subscriptions = members
            .iter()
            .map(|(name, member)| (Arc::clone(name), member.topics.clone()))
            .collect();
        let partitions: Vec<PartitionId> = self.slots.keys().copied().collect();
        let is_member = |name: &Arc<str>| members.get(name).is_some();
        // A partition that is on its way to a member counts as that member's.
        let owners = self
            .slots
            .iter()
            .filter_map(|(id, slot)| {
                let owner = slot.target.as_ref().filter(|name| is_member(name));
                Some((*id, Arc::clone(owner.or(slot.holder())?)))
            })
            .collect();
        let mut targets = match self.assignor() {
            Assignor::Uniform => assign(&subscriptions, &partitions, &owners),
            Assignor::Range => {
                let mut ranked: Vec<_> = subscriptions.iter().collect();
                ranked.sort_by_key(|(name, _)| (self.rank(name), *name));
                assign_ranges(&ranked, &partitions)
            }
        };
        for (id, slot) in &mut self.slots {
            slot.target = targets.remove(id);
            slot.is_held &= slot.owner.as_ref().is_some_and(is_member);
        }
        (self.is_rebalancing, self.is_outdated) = (true, false);
        #[cfg(test)]
        {
            self.assignments += 1;
        }
        self.release(members);
    }

    /// Takes the partitions that others are to have from their owners: those whose owner waits in a poll with a durable
    /// `ack`, those of which no answer has told the owner, and those that a consumer has given up.
    fn release(&mut self, members: &mut Members) {
        if !self.is_rebalancing {
            return;
        }
        for (id, slot) in &mut self.slots {
            if !slot.is_held || slot.target == slot.owner || slot.committing > 0 {
                continue;
            }
            let Some(owner) = &slot.owner else { continue };
            let is_kept = self
                .readers
                .get(owner)
                .is_some_and(|reader| match &reader.consumer {
                    Some(consumer) => consumer.may_have(*id),
                    None => reader.told.contains(id),
                });
            if members.get(owner).is_some_and(Member::is_waiting) || !is_kept {
                slot.is_held = false;
                members.wake(owner);
            }
        }
        self.hand_over(members);
    }

    /// Gives partitions that nobody holds to their targets.
    fn hand_over(&mut self, members: &mut Members) {
        for slot in self.slots.values_mut() {
            if slot.is_held || slot.committing > 0 {
                continue;
            }
            let Some(target) = slot.target.clone() else {
                continue;
            };
            if slot.owner.as_ref() != Some(&target) {
                slot.is_first_owner = slot.owner.is_none();
                slot.owned_since = members.next_number();
                slot.delivered = 0;
                slot.has_finer_commits = false;
                slot.position = slot.committed.unwrap_or(Offset::ZERO);
                slot.passed = None;
                slot.owner = Some(Arc::clone(&target));
            }
            slot.is_held = true;
            members.wake(&target);
        }
        self.is_rebalancing = self
            .slots
            .values()
            .any(|slot| slot.holder() != slot.target.as_ref());
    }
}

impl Slot {
    fn new(committed: Option<Offset>) -> Self {
        Self {
            owner: None,
            is_held: false,
            owned_since: 0,
            delivered: 0,
            is_first_owner: true,
            target: None,
            position: committed.unwrap_or(Offset::ZERO),
            committed,
            base: Offset::ZERO,
            has_finer_commits: false,
            moved: 0,
            committing: 0,
            committing_before: 0,
            passed: None,
        }
    }

    /// Whether the committed offset is where a delivery began, or, in the owner's newest delivery, where its own commits
    /// within that have brought it.
    fn is_within(&self, base: Offset, next: Offset, is_newest: bool) -> bool {
        let committed = self.committed.unwrap_or(Offset::ZERO);
        committed == base
            || (is_newest
                && self.has_finer_commits
                && self.base == base
                && (base..=next).contains(&committed))
    }

    /// Whether what was passed over here is on its way to the log.
    fn is_committing_passed(&self) -> bool {
        self.passed.is_some() && self.committing > 0
    }

    /// Whether the group was reset since these records were delivered: the committed offset has gone back. A reset of this
    /// process that has not moved it back shows in [`Slot::moved`].
    fn was_reset_since(&self, reach: &Reach) -> bool {
        self.committed.unwrap_or(Offset::ZERO) < reach.base
    }

    fn holder(&self) -> Option<&Arc<str>> {
        self.owner.as_ref().filter(|_| self.is_held)
    }

    fn is_held_by(&self, name: &str) -> bool {
        self.holder().is_some_and(|owner| &**owner == name)
    }
}

#[path = "consumers.rs"]
pub mod consumers;
#[path = "moved.rs"]
pub mod moved;
#[path = "passed.rs"]
pub mod passed;

#[cfg(test)]
#[path = "history.rs"]
mod history;
