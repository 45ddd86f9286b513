//! Looking at records before they are leased: for groups that have an order or a filter.
//!
//! ```text
//!   floor .................... seen ..................... next ............ end
//!   what was read: wanted,     unsettled records that      never looked at
//!   with its key and its time  nobody has read yet
//! ```
//!
//! A reader reads the records in order from [`Queue::unseen`] on, and [`Queue::saw`] takes in what it saw. Only records
//! that were read are leased, so nothing is leased that is not wanted, or before its time, or before a record of its
//! key that nobody knows. What is not wanted is settled at once, and needs no memory.
//!
//! None of this is durable: after a restart, and when the settings change, the unsettled records are read again. A
//! record that was redriven is leased without a look: it has no order, and was wanted before.

use super::{KeyHash, Keys, MAX_UNSETTLED, Now, Queue, Slot};
use crate::broker::engine::{Offset, TimestampMs};

/// What a reader saw of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The record.
    pub offset: Offset,
    /// The group's filter matches it.
    pub is_wanted: bool,
    /// The time before which it is not leased.
    pub due: Option<TimestampMs>,
    /// Its key, if the group is ordered by key and the record has one.
    pub key: Option<KeyHash>,
}

impl Queue {
    /// Begins or ends to look at records before they are leased. What is known of unsettled records is forgotten: they
    /// are read again. Cost: all unsettled records.
    pub fn set_looking(&mut self, is_looking: bool) {
        self.seen = is_looking.then_some(self.floor);
        self.keys = Keys::default();
        for slot in self.open.values_mut() {
            (slot.key, slot.is_unwanted) = (None, false);
        }
        let mut free = std::mem::take(&mut self.ready);
        for list in [&mut self.behind, &mut self.unread, &mut self.exhausted] {
            free.append(list);
        }
        for offset in free {
            self.make_free(offset);
        }
    }

    /// Where a reader goes on to look, in a partition that ends at `end`. `None`: there is nothing to look at, or no
    /// more than `room` further records may be remembered.
    pub fn unseen(&self, end: Offset, room: usize) -> Option<Offset> {
        let first = self.first_unseen(self.seen?);
        let is_known = first < self.next;
        (first < end && (is_known || self.room(room) > 0)).then_some(first)
    }

    /// Takes in what a reader saw of all offsets in `from..until`; those without a record settle. Remembers up to
    /// `room` records that nobody has looked at before, and stops at the next one.
    ///
    /// Does nothing if records before `from` have not been read: [`Queue::set_looking`] was called meanwhile.
    pub fn saw(&mut self, now: Now, from: Offset, until: Offset, records: &[Seen], room: usize) {
        let Some(seen) = self.seen else { return };
        if from > self.first_unseen(seen) {
            return;
        }
        let mut room = self.room(room);
        let mut next = seen.max(from);
        for record in records {
            if record.offset < next {
                continue;
            }
            self.pass(next, record.offset);
            if record.offset == self.next && record.is_wanted {
                if room == 0 {
                    return self.advance_floor();
                }
                room -= 1;
            }
            self.see(now, record);
            next = record.offset.plus(1);
        }
        self.pass(next, until);
        self.advance_floor();
    }

    fn see(&mut self, now: Now, record: &Seen) {
        let offset = record.offset;
        self.seen = Some(offset.plus(1));
        let due = record.due.filter(|due| *due > now.wall);
        if offset == self.next {
            self.next = offset.plus(1);
            if !record.is_wanted {
                self.unsaved = true;
                return;
            }
            let mut slot = Slot::FRESH;
            (slot.key, slot.record.not_before) = (record.key, due);
            self.open.insert(offset, slot);
            return self.make_free(offset);
        }
        let Some(slot) = self.open.get_mut(&offset) else {
            return;
        };
        (slot.key, slot.is_unwanted) = (record.key, !record.is_wanted);
        if self.leases.contains_key(&offset) || self.settling.contains_key(&offset) {
            return self.hold(offset);
        }
        self.unfree(offset);
        let not_before = &mut self.slot(offset).record.not_before;
        if due > *not_before {
            *not_before = due;
            self.dirty_at(offset);
        }
        self.make_free(offset);
    }

    /// Settles offsets that have no record, after everything before was seen.
    fn pass(&mut self, from: Offset, until: Offset) {
        if from < until {
            self.settle_skipped(from, until);
        }
        self.seen = self.seen.max(Some(until));
    }

    /// The first unsettled record from `seen` on, or [`Queue::next`].
    fn first_unseen(&self, seen: Offset) -> Offset {
        let known = self.open.range(seen.min(self.next)..).next();
        known.map_or(self.next, |(offset, _)| *offset)
    }

    /// How many more records may be remembered.
    pub(super) fn room(&self, room: usize) -> usize {
        room.min(MAX_UNSETTLED.saturating_sub(self.unsettled()))
    }
}
