//! Records that a filter leaves out: a poll reads over them, and nobody acknowledges them.
//!
//! A poll that delivers something also acknowledges what it passed over, with its `ack`. A poll that found nothing moves
//! the positions of its partitions ([`Ordered::pass`]). The server commits these a little later
//! ([`Ordered::begin_passed`]), or the member's next `ack` does. So an offset is committed this way only while its
//! partition has nothing between the committed offset and the position that matches: a delivery from the partition ends
//! that, because from then on its `ack` decides. During such a commit nothing is delivered from its partition, so that a
//! delivery always knows the offset that is committed before it.
//!
//! Until then the position is in memory only. After a crash, or in the hands of another member, the same records are
//! read and passed over once more.

use super::*;

/// How long the server waits before it commits what a member's polls passed over: several polls share a commit.
const PASSED_MS: Ms = 500;

/// How far the server has looked in a partition of a group with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The next record to look at.
    pub next: Offset,
    /// The records before it that match and are not acknowledged.
    pub in_hand: u64,
    /// The first of these.
    pub first: Option<Offset>,
}

impl Seen {
    /// The offset that would be committed if as many records were left to do, one after the other.
    #[must_use]
    pub const fn done(&self) -> Offset {
        Offset::new(self.next.get().saturating_sub(self.in_hand))
    }
}

impl Ordered {
    /// Moves a waiting poll's partitions past what it read without a match: from the first offset read to the next one to
    /// read, by partition. Partitions that have changed hands since are left out. Returns when [`Ordered::due_passed`]
    /// names the member.
    ///
    /// # Errors
    /// As [`Members::check_poll`].
    pub fn pass(
        &mut self,
        members: &mut Members,
        name: &str,
        token: u64,
        ranges: &[(PartitionId, Offset, Offset)],
        now: Ms,
    ) -> Result<Option<Ms>, Refused> {
        members.check_poll(name, token)?;
        let mut due = None;
        if self
            .readers
            .get(name)
            .is_some_and(|reader| reader.fresh.is_unseen)
        {
            return Ok(due);
        }
        for (id, from, next) in ranges {
            let Some(slot) = self.slots.get_mut(id) else {
                continue;
            };
            if !slot.is_held_by(name) || slot.position > *from || slot.position >= *next {
                continue;
            }
            slot.position = *next;
            let since = *slot.passed.get_or_insert(now);
            due = due.into_iter().chain([since.saturating_add(PASSED_MS)]).min();
            self.has_passed = true;
        }
        if let Some(reader) = self.readers.get_mut(name) {
            reader.turn = reader.turn.wrapping_add(1);
        }
        Ok(due)
    }

    /// When something that was passed over is due to be committed.
    pub fn passed_due(&mut self) -> Option<Ms> {
        if !self.has_passed {
            return None;
        }
        self.has_passed = self.slots.values().any(|slot| slot.passed.is_some());
        let readers = &self.readers;
        let is_waiting = |slot: &&Slot| {
            let reader = slot.holder().and_then(|owner| readers.get(owner));
            reader.is_some_and(|reader| !reader.is_passing)
        };
        let waiting = self.slots.values().filter(is_waiting);
        let since = waiting.filter_map(|slot| slot.passed).min();
        since.map(|since| since.saturating_add(PASSED_MS))
    }

    /// The members that have passed over something which is due. The caller commits it for each of them, in the member's
    /// turn to commit, and then calls [`Ordered::end_passing`].
    pub fn due_passed(&mut self, now: Ms) -> Vec<Arc<str>> {
        let is_due = |slot: &&Slot| {
            slot.passed
                .is_some_and(|since| since.saturating_add(PASSED_MS) <= now)
        };
        let owners = self.slots.values().filter(is_due).filter_map(Slot::holder);
        let owners: BTreeSet<Arc<str>> = owners.cloned().collect();
        let mut due = Vec::new();
        for owner in owners {
            if let Some(reader) = self.readers.get_mut(&owner).filter(|reader| !reader.is_passing) {
                reader.is_passing = true;
                due.push(owner);
            }
        }
        due
    }

    /// Begins the commits of what a member has passed over. End them with [`Ordered::end_commit`]; those that fail are
    /// due again later.
    pub fn begin_passed(&mut self, name: &str, now: Ms) -> Vec<(PartitionId, Offset)> {
        let mut commits = Vec::new();
        for (id, slot) in &mut self.slots {
            if slot.passed.is_none() || !slot.is_held_by(name) || slot.committing > 0 {
                continue;
            }
            slot.passed = Some(now);
            slot.committing += 1;
            commits.push((*id, slot.position));
        }
        commits
    }

    /// Notes that the commits of what a member has passed over have ended.
    pub fn end_passing(&mut self, name: &str) {
        if let Some(reader) = self.readers.get_mut(name) {
            reader.is_passing = false;
        }
    }

    /// What a member has passed over and no commit of which runs, for its `ack` to commit too.
    pub(super) fn passed_by(&self, name: &str) -> Vec<(PartitionId, Offset)> {
        let passed = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.passed.is_some() && slot.committing == 0 && slot.is_held_by(name));
        passed.map(|(id, slot)| (*id, slot.position)).collect()
    }

    /// Notes which records of a member's last answer match, by partition and in order.
    pub fn note_matching(&mut self, name: &str, matching: Vec<(PartitionId, Arc<[Offset]>)>) {
        if let Some(delivery) = self
            .readers
            .get_mut(name)
            .and_then(|reader| reader.delivery.as_mut())
        {
            delivery.matching = matching;
        }
    }

    /// How far the server has looked, in the partitions that members have.
    pub fn seen(&self) -> impl Iterator<Item = (PartitionId, Seen)> {
        let held = self
            .slots
            .iter()
            .filter_map(|(id, slot)| Some((*id, slot, slot.holder()?)));
        held.map(|(id, slot, owner)| {
            let committed = slot.committed.unwrap_or(Offset::ZERO);
            let delivery = self
                .readers
                .get(owner)
                .and_then(|reader| reader.delivery.as_ref());
            let matching = delivery.into_iter().flat_map(|delivery| &delivery.matching);
            let pages = matching.filter(|(of, _)| *of == id);
            let left =
                pages.map(|(_, offsets)| &offsets[offsets.partition_point(|offset| *offset < committed)..]);
            let (mut in_hand, mut first) = (0, None);
            for offsets in left {
                in_hand += offsets.len() as u64;
                first = first.or(offsets.first().copied());
            }
            let seen = Seen {
                next: slot.position.max(committed),
                in_hand,
                first,
            };
            (id, seen)
        })
    }
}
