//! Who may settle a record: by name, or by acknowledging a poll.
//!
//! A settle counts for every unsettled record that nobody else holds, whatever became of the lease, unless the group was
//! reset since. The acknowledgement of
//! a poll means the records that the poll delivered, but none that its member has released or was leased again since.

use super::{ChangeId, MemberKey, PollNumber, Queue};
use crate::broker::engine::Offset;

/// Who settles a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A member that names the record: it may settle what nobody else holds.
    Member(MemberKey),
    /// A member that acknowledges a poll: the same, unless it has released the record, or the record was leased again
    /// since.
    Poll {
        /// The member.
        member: MemberKey,
        /// The poll.
        poll: PollNumber,
        /// How often the record had been delivered in that poll, that time included.
        deliveries: u32,
    },
}

impl Claim {
    pub(super) const fn member(self) -> MemberKey {
        match self {
            Self::Member(member) | Self::Poll { member, .. } => member,
        }
    }
}

/// What became of a record that a settle named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As requested.
    Done,
    /// Somebody else holds it, it does not exist, or it was released and not surely by the claim's member: nothing changed.
    Lost,
    /// It was settled before: nothing changed.
    Settled,
    /// An acknowledged poll delivered it, and it was released or leased again by the same member: nothing changed.
    Left,
}

/// The offsets that a change would settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Write it and then commit it, or undo it; `None` if no offset was taken.
    pub change: Option<ChangeId>,
    /// The offsets that settle, with their delivery counts, in order.
    pub taken: Vec<(Offset, u32)>,
    /// The requested offsets that somebody else holds or that do not exist, in order.
    pub lost: Vec<Offset>,
    /// The requested offsets that were settled before, in order.
    pub settled: Vec<Offset>,
}

/// How many records that members settled or released by name are remembered, for their acknowledgements.
const MAX_NAMED: usize = 10_000;

/// A record that a member has settled or released by name, with the poll that delivered it.
pub(super) type Named = (MemberKey, PollNumber, Offset);

impl Queue {
    /// Whether one of these offsets is in a change whose result is not known yet: the caller waits for it, and asks
    /// again.
    pub fn is_any_settling(&self, offsets: impl IntoIterator<Item = Offset>) -> bool {
        !self.settling.is_empty()
            && offsets
                .into_iter()
                .any(|offset| self.settling.contains_key(&offset))
    }

    /// Begins to settle those of `offsets` that the claim covers. The caller has [looked](Queue::look) at them.
    pub fn begin_settle(&mut self, offsets: impl IntoIterator<Item = (Offset, Claim)>) -> Begun {
        let mut begun = Begun::default();
        for (offset, claim) in offsets {
            match self.outcome(offset, claim) {
                Outcome::Done => {
                    if let Claim::Member(member) = claim
                        && self.note_named(member, offset)
                    {
                        self.slot(offset).named_by = Some(member);
                    }
                    self.take(offset, &mut begun);
                }
                Outcome::Lost => begun.lost.push(offset),
                Outcome::Settled => begun.settled.push(offset),
                Outcome::Left => {}
            }
        }
        self.finish(begun)
    }

    /// Begins to settle those of `offsets` that are [exhausted](Queue::exhausted). Append their dead letters together
    /// with the write.
    pub fn begin_burial(&mut self, offsets: impl IntoIterator<Item = Offset>) -> Begun {
        let mut begun = Begun::default();
        for offset in offsets {
            if self.exhausted.contains(&offset) {
                self.take(offset, &mut begun);
            }
        }
        self.finish(begun)
    }

    /// What a claim may do with a record if outputs go with it. Of the records that an acknowledged poll delivered, those
    /// that its member has settled or released by name are left out. What was leased to it again comes with outputs once
    /// more.
    pub fn outcome_with_outputs(&self, offset: Offset, claim: Claim) -> Outcome {
        match (self.outcome(offset, claim), claim) {
            (outcome, Claim::Poll { member, poll, .. }) if outcome != Outcome::Done => {
                let is_named = self.named.contains(&(member, poll, offset));
                let is_again = outcome == Outcome::Left && self.leases.contains_key(&offset);
                match outcome {
                    _ if is_named => Outcome::Left,
                    _ if is_again => Outcome::Lost,
                    _ => outcome,
                }
            }
            (outcome, _) => outcome,
        }
    }

    /// What a claim may do with a record.
    pub(super) fn outcome(&self, offset: Offset, claim: Claim) -> Outcome {
        if self.settling.contains_key(&offset) {
            // Of this same change: the request names the record twice.
            return Outcome::Left;
        }
        let Some(slot) = self.get(offset) else {
            let was_seen = offset < self.next;
            return if was_seen { Outcome::Settled } else { Outcome::Lost };
        };
        let lease = self.leases.get(&offset);
        if lease.is_some_and(|lease| lease.member != claim.member()) {
            return Outcome::Lost;
        }
        let is_new = slot.poll == PollNumber::UNKNOWN && slot.record.deliveries == 0;
        if self.is_disowned && is_new {
            // It was leased before the reset.
            return Outcome::Lost;
        }
        let Claim::Poll { poll, deliveries, .. } = claim else {
            return Outcome::Done;
        };
        // A poll from before a redrive did not deliver the record that was redriven.
        let is_new_again = is_new && self.returned.contains_key(&offset);
        let is_of_poll = slot.is_of(poll, deliveries) && !is_new_again;
        match (is_of_poll, lease.is_some()) {
            (true, true) => Outcome::Done,
            (true, false) if slot.record.is_released => {
                // If it is not known who released it, as after a crash, the answer says that this does not count.
                let is_its_own = self.named.contains(&(claim.member(), poll, offset));
                if is_its_own { Outcome::Left } else { Outcome::Lost }
            }
            (true, false) => Outcome::Done,
            (false, true) => Outcome::Left,
            (false, false) => Outcome::Lost,
        }
    }

    /// Notes that a member settles or releases a record by name: its acknowledgement of the poll does not mean it. `false`
    /// if nothing is new.
    pub(super) fn note_named(&mut self, member: MemberKey, offset: Offset) -> bool {
        let named = (member, self.slot(offset).poll, offset);
        let is_new = named.1 != PollNumber::UNKNOWN && self.named.insert(named);
        if is_new {
            self.named_order.push_back(named);
            if self.named_order.len() > MAX_NAMED
                && let Some(oldest) = self.named_order.pop_front()
            {
                self.named.remove(&oldest);
            }
        }
        is_new
    }

    /// Forgets what the changes that settle these records have noted, because they are undone.
    pub(super) fn forget_named(&mut self, offsets: &[Offset]) {
        let before = self.named.len();
        for offset in offsets {
            let slot = self.slot(*offset);
            if let Some(member) = slot.named_by.take() {
                let named = (member, slot.poll, *offset);
                self.named.remove(&named);
            }
        }
        if self.named.len() < before {
            let named = &self.named;
            self.named_order.retain(|one| named.contains(one));
        }
    }

    fn take(&mut self, offset: Offset, begun: &mut Begun) {
        if !self.unlist_lease(offset) {
            self.unfree(offset);
        }
        self.settling.insert(offset, ChangeId(self.next_change));
        self.hold(offset);
        begun.taken.push((offset, self.slot(offset).record.deliveries));
    }

    fn finish(&mut self, mut begun: Begun) -> Begun {
        begun.taken.sort_unstable();
        for list in [&mut begun.lost, &mut begun.settled] {
            list.sort_unstable();
            list.dedup();
        }
        if !begun.taken.is_empty() {
            let change = ChangeId(self.next_change);
            self.next_change += 1;
            let taken = begun.taken.iter().map(|(offset, _)| *offset).collect();
            self.changes.insert(change, taken);
            begun.change = Some(change);
        }
        begun
    }
}
