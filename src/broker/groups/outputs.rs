//! Outputs: records that came of what a poll, a commit or a settle acknowledges. They are appended with the
//! acknowledgement, so that after a crash both are there or neither.
//!
//! A call that is repeated, because its answer was lost, is known by what it acknowledges ([`repeats`]): it is answered
//! as the first time. If that is forgotten, the acknowledgement itself can no longer be taken, and the call is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::repeats::{self, Identity, Row};
use super::shared::settings::GroupValue;
use super::{Commit, Groups, Subscribed};
use crate::broker::engine::{Ack, AppendRequest, Log, Offset, TimestampMs};
use crate::broker::produce::whole::{Placed, Places};
use crate::broker::refusal::{Place, Reason, Refusal};

/// The outputs of a call, before it is known whether they are appended.
pub struct Outputs {
    /// How many there are.
    pub count: usize,
    /// Where they go; or why they are refused. A repeated call is answered even if they are refused now.
    pub placed: Result<Placed, Refusal>,
    /// Kept until they are appended or refused.
    pub held: Option<Held>,
}

/// A share of a bounded memory, given back when it is dropped.
pub type Held = Box<dyn Send + Sync>;

impl Outputs {
    /// Takes away the outputs of a call that acknowledges nothing. Returns the answer to an empty list of outputs.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`]: it has outputs.
    pub(super) fn without_input(
        outputs: &mut Option<Self>,
        acknowledges: bool,
    ) -> Result<Option<Produced>, Refusal> {
        match outputs.take_if(|_| !acknowledges) {
            None => Ok(None),
            Some(taken) if taken.count == 0 => Ok(Some(Produced::none())),
            Some(_) => {
                let detail = "produce is for records that came of what the call acknowledges, and it acknowledges nothing";
                Err(Refusal::invalid("/produce", detail))
            }
        }
    }
}

/// Where the outputs of a call lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    /// In the order of the call.
    pub rows: Vec<Row>,
    /// They were stored by an earlier call that acknowledged the same.
    pub is_replayed: bool,
}

impl Produced {
    pub(super) fn none() -> Self {
        Self {
            rows: Vec::new(),
            is_replayed: false,
        }
    }

    /// Adds them to a refusal of a call that has stored them.
    pub(super) fn add_to(&self, refusal: Refusal) -> Refusal {
        let place = |(topic, partition, offset): &Row| Place {
            topic: topic.to_string(),
            partition: *partition,
            offset: Some(*offset),
        };
        let places: Vec<Place> = self.rows.iter().map(place).collect();
        refusal.with("produced", places)
    }
}

/// Outputs that are about to be appended.
pub(crate) struct Outgoing {
    pub(super) member: Arc<str>,
    pub(super) identity: Identity,
    pub(super) placed: Placed,
    held: Option<Held>,
}

impl Outgoing {
    /// Outputs of a call that acknowledges what `identity` says.
    ///
    /// # Errors
    /// They are refused; [`Reason::Overloaded`]: too many members' calls are remembered.
    pub(super) fn of(
        groups: &Groups,
        outputs: Outputs,
        group: &str,
        member: &str,
        identity: Identity,
    ) -> Result<Self, Refusal> {
        let prefix = repeats::member_prefix(group, member);
        if !groups.last_calls.lock().has_room(&prefix) {
            let detail = "calls with outputs of as many members are remembered as there is room for";
            return Err(Refusal::new(Reason::Overloaded, detail));
        }
        Ok(Self {
            member: member.into(),
            identity,
            placed: outputs.placed?,
            held: outputs.held,
        })
    }

    /// Whether its append must fail: then it is not to fail for others.
    pub(crate) fn is_doomed(&self) -> bool {
        self.placed.is_doomed()
    }

    /// Bytes of its records.
    pub(crate) fn bytes(&self) -> usize {
        self.placed.bytes()
    }
}

/// Outputs of one append, of calls of one group.
#[derive(Default)]
pub(super) struct Appending {
    calls: Vec<Places>,
    held: Vec<Held>,
    /// The prefixes of the members' keys, with the numbers of their next calls.
    members: BTreeMap<Vec<u8>, u64>,
    records: u64,
    bytes: u64,
}

impl Appending {
    /// Adds the outputs of a call to the append, and what remembers them.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`]: one of their topics was deleted meanwhile; the request must not be appended.
    pub(super) fn add(
        &mut self,
        request: &mut AppendRequest,
        log: &Log,
        group: &str,
        outgoing: Outgoing,
        now: TimestampMs,
    ) -> Result<(), Refusal> {
        let prefix = repeats::member_prefix(group, &outgoing.member);
        let next = || repeats::next_number(log, &prefix);
        let number = self.members.get(&prefix).copied().unwrap_or_else(next);
        self.bytes += outgoing.bytes() as u64;
        self.held.extend(outgoing.held);
        let places = outgoing.placed.add_to(request, log, None)?;
        self.records += places.placements.len() as u64;
        let receipt = repeats::receipt(&prefix, number, now, &outgoing.identity, &places);
        request.receipts.push(receipt);
        self.members.insert(prefix, number + 1);
        self.calls.push(places);
        Ok(())
    }

    /// The append is durable, and gave its parts these offsets. Returns where the outputs of each call lie, in the order
    /// of the calls.
    pub(super) fn appended(
        self,
        groups: &Groups,
        base_offsets: &[Offset],
        now: TimestampMs,
    ) -> impl Iterator<Item = Produced> + use<> {
        let mut last = groups.last_calls.lock();
        for prefix in self.members.keys() {
            last.note(prefix, now);
        }
        drop(last);
        groups.counters.produced_records.fetch_add(self.records, Relaxed);
        groups.counters.produced_bytes.fetch_add(self.bytes, Relaxed);
        let base_offsets = base_offsets.to_vec();
        self.calls.into_iter().map(move |mut places| {
            places.appended(&base_offsets);
            Produced {
                rows: places.rows(),
                is_replayed: false,
            }
        })
    }
}

impl Groups {
    /// What a call produced that acknowledged the same, if that is remembered.
    pub(super) fn recall(&self, group: &str, member: &str, identity: &Identity) -> Option<Produced> {
        let rows = repeats::recall(&self.log, group, member, identity)?;
        self.counters.replayed_requests.fetch_add(1, Relaxed);
        Some(Produced {
            rows,
            is_replayed: true,
        })
    }

    /// Commits offsets of an ordered group and appends outputs, all or nothing; returns when that is durable. The caller
    /// holds a guard of commits.
    pub(super) async fn commit_with(
        &self,
        group: &str,
        commits: Vec<Commit>,
        outgoing: Outgoing,
    ) -> Result<Produced, Refusal> {
        let now = self.clock.now();
        let nothing = Subscribed::default();
        let (state, touched) = self.changes_for(group, &GroupValue::default(), &nothing, commits);
        let mut request = AppendRequest {
            state,
            ack: Ack::Durable,
            ..AppendRequest::default()
        };
        let mut appending = Appending::default();
        appending.add(&mut request, &self.log, group, outgoing, now)?;
        let appended = self.log.append(request)?.await?;
        let mut produced = appending.appended(self, &appended.base_offsets, now);
        let produced = produced.next().unwrap_or_else(Produced::none);
        // The outputs are stored, whatever becomes of this.
        if let Err(error) = self.remove_orphans(touched).await {
            tracing::warn!(%error, "what groups knew of a deleted topic stays until it is written over");
        }
        Ok(produced)
    }
}

/// Refuses a call with outputs that could not acknowledge all of what it names; `lists` say what.
pub(super) fn fenced<const N: usize>(
    group: &str,
    member: &str,
    lists: [(&'static str, Vec<Place>); N],
) -> Refusal {
    let detail = format!(
        "{member} can no longer acknowledge all of it in the group {group}, or it was acknowledged before: nothing is \
         stored; poll to go on"
    );
    let refusal = Refusal::new(Reason::Fenced, detail);
    let lists = lists.into_iter().filter(|(_, places)| !places.is_empty());
    lists.fold(refusal, |refusal, (name, places)| refusal.with(name, places))
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
