//! What of a queue is durable.
//!
//! A settled state is durable before it takes effect: [`Queue::begin_write`] gives the entries to write, and
//! [`Queue::commit`] or [`Queue::abort`] reports the result. One write at a time: two in flight could end in the other
//! order, or the earlier could fail, and the later entries would then claim a change that never happened. Unsettled
//! records are written in blocks of [`BLOCK`] offsets, and a write has only the blocks that changed, so its size does
//! not grow with the number of unsettled records.
//!
//! Delays are written with the time of the wall clock at which they end. A crash ends the leases: leased records are
//! free again, with the delivery counts that were last written. Those counts may lack the newest deliveries: a lease alone
//! writes nothing, unless the record was released before.

use std::collections::BTreeSet;

use super::{BLOCK, ChangeId, Head, Letter, Offset, Queue, Slot, Unsettled, block_of};

/// What one write changes in the durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The floor, which is the group's committed offset, and the first offset that was never looked at.
    pub head: Head,
    /// The blocks that changed, each with its unsettled records in order; an empty one is removed.
    pub blocks: Vec<(u64, Vec<(Offset, Unsettled)>)>,
    /// The redriven records that changed; `None`: it is settled.
    pub returned: Vec<(Offset, Option<(Unsettled, Letter)>)>,
}

/// A write in flight.
#[derive(Debug)]
pub(super) struct Writing {
    changes: Vec<ChangeId>,
    pub(super) head: Head,
    /// The blocks that it writes; the flag: whether it leaves an entry.
    blocks: Vec<(u64, bool)>,
    returned: Vec<Offset>,
}

impl Queue {
    /// Whether a write without changes would save something.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Returns the entries that make `changes`, and everything before, durable. Its floor is the group's committed
    /// offset once it is written. [`Queue::commit`] or [`Queue::abort`] must follow.
    ///
    /// Other changes that have begun are written later.
    ///
    /// # Panics
    /// If a write is in flight, or one of `changes` is not waiting for one: the coordinator writes one at a time.
    #[must_use]
    pub fn begin_write(&mut self, changes: &[ChangeId]) -> Written {
        assert!(
            self.writing.is_none(),
            "a write of the queue at {} is in flight",
            self.floor
        );
        for change in changes {
            assert!(self.changes.contains_key(change), "there is no {change:?}");
            for offset in &self.changes[change] {
                match self.returned.contains_key(offset) {
                    true => self.dirty_returned.insert(*offset),
                    false => self.dirty.insert(block_of(*offset)),
                };
            }
        }
        // The records that were looked at since the last write are in no entry yet.
        let fresh: Vec<Offset> = self
            .open
            .range(self.stored_next.min(self.next)..)
            .map(|(offset, _)| *offset)
            .collect();
        self.dirty.extend(fresh.into_iter().map(block_of));
        let is_settled = |offset: &Offset| {
            self.settling
                .get(offset)
                .is_some_and(|change| changes.contains(change))
        };
        let floor = self.open.keys().find(|offset| !is_settled(offset));
        let head = Head {
            floor: floor.copied().unwrap_or(self.next),
            next: self.next,
        };
        // What lies below the floor has no entry.
        let below: Vec<u64> = self.stored.range(..block_of(head.floor)).copied().collect();
        self.dirty.extend(below);
        let mut blocks = Vec::with_capacity(self.dirty.len());
        let mut writes = Vec::with_capacity(self.dirty.len());
        for number in std::mem::take(&mut self.dirty) {
            let first = Offset::new(number * BLOCK);
            let rows: Vec<(Offset, Unsettled)> = self
                .open
                .range(first..first.plus(BLOCK))
                .filter(|(offset, _)| !is_settled(offset))
                .map(|(offset, slot)| (*offset, self.durable(*offset, slot)))
                .collect();
            // Also with nothing to remove the block is remembered: if this write fails, it is out of date again.
            writes.push((number, !rows.is_empty()));
            if !rows.is_empty() || self.stored.contains(&number) {
                blocks.push((number, rows));
            }
        }
        let dirty_returned = std::mem::take(&mut self.dirty_returned);
        let returned = dirty_returned.iter().map(|offset| {
            let record = self.returned.get(offset).filter(|_| !is_settled(offset));
            let entry = record.map(|(slot, letter)| (self.durable(*offset, slot), *letter));
            (*offset, entry)
        });
        let returned = returned.collect();
        self.writing = Some(Writing {
            changes: changes.to_vec(),
            head,
            blocks: writes,
            returned: dirty_returned.into_iter().collect(),
        });
        self.unsaved = false;
        Written {
            head,
            blocks,
            returned,
        }
    }

    /// Whether changes have begun that are not durable yet.
    pub fn is_settling(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether a write is in flight.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The write is durable: what it settled is settled.
    ///
    /// # Panics
    /// If no write is in flight.
    pub fn commit(&mut self) {
        let writing = self.writing.take().expect("a write ends once, after it began");
        for (number, has_entry) in writing.blocks {
            if has_entry {
                self.stored.insert(number);
            } else {
                self.stored.remove(&number);
            }
        }
        self.stored_next = writing.head.next;
        for change in writing.changes {
            for offset in self.changes.remove(&change).into_iter().flatten() {
                if self.settling.get(&offset) == Some(&change) {
                    self.forget(offset);
                }
                if let Some(letter) = self.returning.remove(&offset) {
                    self.give_back_letter(offset, letter);
                }
            }
        }
        self.advance_floor();
    }

    /// The write failed: its offsets return to their states before the change.
    ///
    /// # Panics
    /// If no write is in flight.
    pub fn abort(&mut self) {
        let writing = self.writing.take().expect("a write ends once, after it began");
        self.dirty
            .extend(writing.blocks.into_iter().map(|(number, _)| number));
        self.dirty_returned.extend(writing.returned);
        for change in writing.changes {
            self.undo(change);
        }
        self.unsaved = true;
    }

    /// Undoes a change that was not written: its offsets return to their states before it.
    ///
    /// # Panics
    /// If the change's write is in flight.
    pub fn undo(&mut self, change: ChangeId) {
        self.assert_not_in_flight(change);
        let offsets = self.changes.remove(&change).unwrap_or_default();
        self.reopen(change, offsets);
    }

    /// Moves offsets of a change that is not being written into a change of their own. `None`: it has none of them. A
    /// change that is left with no offset is gone.
    ///
    /// # Panics
    /// If the change's write is in flight.
    pub fn split_off(
        &mut self,
        change: ChangeId,
        offsets: impl IntoIterator<Item = Offset>,
    ) -> Option<ChangeId> {
        self.assert_not_in_flight(change);
        let out: BTreeSet<Offset> = offsets.into_iter().collect();
        let all = self.changes.remove(&change)?;
        let (moved, left): (Vec<Offset>, Vec<Offset>) =
            all.into_iter().partition(|offset| out.contains(offset));
        if !left.is_empty() {
            self.changes.insert(change, left);
        }
        if moved.is_empty() {
            return None;
        }
        let rest = ChangeId(self.next_change);
        self.next_change += 1;
        for offset in &moved {
            // What was trimmed may be redriven since, and in another change.
            if let Some(of) = self.settling.get_mut(offset).filter(|of| **of == change) {
                *of = rest;
            }
        }
        self.changes.insert(rest, moved);
        Some(rest)
    }

    /// The durable form: an open lease may still be given back, so it is not counted as a delivery yet. But that of a
    /// record that was released is: after a crash, the count tells its acknowledgement from that of the poll whose member
    /// released the record. Where it does not, because that release took its own delivery back, no acknowledgement from
    /// before the crash counts.
    fn durable(&self, offset: Offset, slot: &Slot) -> Unsettled {
        let record = slot.record;
        let is_leased = self.leases.contains_key(&offset);
        let deliveries = record.deliveries - u32::from(is_leased && !slot.was_released);
        let is_free_again = !is_leased && (record.is_released || slot.was_released);
        let is_mistakable = slot.released_at > 0 && deliveries <= slot.released_at;
        Unsettled {
            deliveries,
            is_released: is_free_again || is_mistakable,
            ..record
        }
    }

    /// Restores the states from before the change; offsets trimmed meanwhile are gone.
    fn reopen(&mut self, change: ChangeId, mut offsets: Vec<Offset>) {
        // What was trimmed may be redriven since, and in another change.
        offsets.retain(|offset| self.settling.get(offset) == Some(&change));
        for offset in &offsets {
            self.settling.remove(offset);
        }
        self.forget_named(&offsets);
        for offset in offsets {
            match self.leases.get(&offset).copied() {
                Some(lease) => self.lease(offset, lease),
                None => self.make_free(offset),
            }
            if let Some(letter) = self.returning.remove(&offset) {
                self.give_back_letter(offset, letter);
            }
        }
    }

    fn assert_not_in_flight(&self, change: ChangeId) {
        let in_flight = self
            .writing
            .as_ref()
            .is_some_and(|writing| writing.changes.contains(&change));
        assert!(!in_flight, "{change:?} is being written");
    }
}
