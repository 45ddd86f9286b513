//! What a queue says of itself: positions, counts, and what is due. Nothing here changes it.

use std::collections::BTreeSet;

use super::{MemberKey, Moment, Queue};
use crate::broker::engine::{Offset, TimestampMs};

impl Queue {
    /// All offsets below are settled. Once written, this is the group's committed offset.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// The first offset that nobody has looked at.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// How many records below [`Queue::next`] are unsettled.
    pub fn unsettled(&self) -> usize {
        self.open.len() + self.returned.len()
    }

    /// One past the last offset that was looked at, less the unsettled records below: each settled record moves it by
    /// one.
    pub fn settled(&self) -> Offset {
        Offset::new(self.next.get() - self.unsettled() as u64)
    }

    /// How many records are leased.
    pub fn leased(&self) -> usize {
        self.leases.len()
    }

    /// How many records wait for their time.
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// The records of a partition that ends at `end` that may be leased now, as far as it is known.
    pub fn waiting(&self, end: Offset) -> u64 {
        (self.ready.len() + self.unread.len()) as u64 + end.get().saturating_sub(self.next.get())
    }

    /// The first unsettled record that was not redriven and does not wait for its time; [`Queue::next`] if all of them
    /// do.
    pub fn first_due(&self) -> Offset {
        let is_own = |offset: &&Offset| self.open.contains_key(offset);
        let firsts = [
            self.ready.iter().find(is_own),
            self.behind.first(),
            self.unread.first(),
            self.exhausted.iter().find(is_own),
            self.leases.keys().find(is_own),
            self.settling.keys().find(is_own),
        ];
        firsts.into_iter().flatten().min().copied().unwrap_or(self.next)
    }

    /// Whether something is due that nobody holds, in a partition that ends at `end`. A record behind another one of its
    /// key is not due.
    pub fn has_due(&self, end: Offset) -> bool {
        let is_due = |list: &BTreeSet<Offset>| !list.is_empty();
        is_due(&self.ready) || is_due(&self.unread) || is_due(&self.exhausted) || self.next < end
    }

    /// When unsettled records were last deleted, by retention or a trim.
    pub fn lost_at(&self) -> Option<Moment> {
        self.lost_at
    }

    /// When a lease last ended with its record unsettled, because its time was over.
    pub fn expired_at(&self) -> Option<Moment> {
        self.expired_at
    }

    /// Whether a member holds a record.
    pub fn is_leased_to(&self, offset: Offset, member: MemberKey) -> bool {
        self.leases
            .get(&offset)
            .is_some_and(|lease| lease.member == member)
    }

    /// How many records all polls of a member hold together.
    pub fn leased_to(&self, member: MemberKey) -> usize {
        self.held_by(member).count()
    }

    /// The leases: each offset with its member, delivery count and end.
    pub fn leases(&self) -> impl Iterator<Item = (Offset, MemberKey, u32, Moment)> {
        self.leases.iter().map(|(offset, lease)| {
            let deliveries = self.get(*offset).map_or(0, |slot| slot.record.deliveries);
            (*offset, lease.member, deliveries, lease.deadline)
        })
    }

    /// The next end of a lease.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(moment, _)| *moment)
    }

    /// The next end of a delay.
    pub fn next_due(&self) -> Option<TimestampMs> {
        self.delayed.first().map(|(time, _)| *time)
    }

    /// At most `max` offsets that were delivered as often as allowed and would be leased now, in order: see
    /// [`Queue::begin_burial`].
    pub fn exhausted(&self, max: usize) -> Vec<Offset> {
        self.exhausted.iter().take(max).copied().collect()
    }
}
