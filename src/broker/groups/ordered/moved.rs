//! Resets of a group that has members.
//!
//! A reset moves a partition for whoever has it. What was delivered from there before can no longer be acknowledged, and
//! every member that has such a partition is fenced: it gets a new epoch. Its answers name the partitions until it
//! acknowledges one that did: an answer may be lost. The caller makes sure that no commit runs. A consumer has to join
//! again, and then goes on from the committed offsets.

use super::*;

/// The partitions of a member that resets have moved, until it is known to know.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) partitions: BTreeSet<PartitionId>,
    /// The number of the first answer that named all of them.
    told: Option<u64>,
    /// Its running poll has not looked at the partitions since.
    pub(super) is_unseen: bool,
}

impl Fresh {
    fn add(&mut self, id: PartitionId) {
        self.partitions.insert(id);
        self.told = None;
        self.is_unseen = true;
    }

    /// Whether an answer is due because of them.
    pub(super) fn is_untold(&self) -> bool {
        !self.partitions.is_empty() && self.told.is_none()
    }

    /// Notes that the member has an answer of this process.
    pub(super) fn arrived(&mut self, number: u64) {
        if self.told.is_some_and(|told| told <= number) {
            (self.told, self.partitions) = (None, BTreeSet::new());
        }
    }

    /// The partitions that an answer names.
    pub(super) fn tell(&mut self, number: u64) -> Vec<PartitionId> {
        if !self.partitions.is_empty() {
            self.told.get_or_insert(number);
        }
        self.partitions.iter().copied().collect()
    }
}

impl Ordered {
    /// Moves the committed offsets of partitions, which is durable. The members that have them go on from there.
    pub fn move_to(&mut self, members: &mut Members, to: &[(PartitionId, Offset)]) {
        debug_assert!(!self.is_committing(), "a commit runs while the group is reset");
        let number = members.next_number();
        let mut moved: BTreeSet<PartitionId> = BTreeSet::new();
        for (id, offset) in to {
            moved.insert(*id);
            let Some(slot) = self.slots.get_mut(id) else {
                continue;
            };
            (slot.committed, slot.position, slot.base) = (Some(*offset), *offset, *offset);
            (slot.passed, slot.has_finer_commits) = (None, false);
            slot.moved = number;
            let owner = slot.owner.as_ref().filter(|_| slot.is_held);
            if let Some(reader) = owner.and_then(|owner| self.readers.get_mut(owner)) {
                reader.fresh.add(*id);
            }
        }
        for (name, reader) in &mut self.readers {
            reader.lost.retain(|(id, _)| !moved.contains(id));
            if let Some(delivery) = &mut reader.delivery {
                delivery.ranges.retain(|(id, ..)| !moved.contains(id));
                delivery.matching.retain(|(id, _)| !moved.contains(id));
            }
            if let Some(consumer) = &mut reader.consumer {
                if !std::mem::take(&mut reader.fresh).partitions.is_empty() {
                    self.epochs = super::consumers::next(self.epochs);
                    consumer.fence(self.epochs.saturating_add(1));
                }
            } else if reader.fresh.is_untold() {
                let epoch = members.next_number();
                if let Some(member) = members.get_mut(name) {
                    member.epoch = epoch;
                }
                members.wake(name);
            }
        }
    }
}
