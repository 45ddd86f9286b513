//! The members of a classic group and their rebalances: a state machine without I/O or clock.
//!
//! ```text
//!            first member joins              all have joined, or time is up
//!   Empty ──────────────────────► Preparing ──────────────────────────────► Completing
//!     ▲                            ▲     │                                   │      │
//!     │      nobody has joined     │     └─► Empty                           │      │ the leader's assignments
//!     └────────────────────────────│─────────────────────────────────────────│      ▼ are durable
//!                                  └── somebody joins, leaves or falls silent ┴── Stable
//! ```
//!
//! A join waits until the rebalance ends: when every member has joined and nobody with a promised id is missing, or when the
//! longest rebalance timeout of the members is over. Then members that have not joined are removed, except static ones,
//! whose sessions end on their own. The first rebalance of an empty group waits a short time for others instead.
//! A sync waits until the leader's assignments are durable. Members that never ask for theirs are removed as well.
//!
//! Calls that wait have numbers; [`Classic::take_answers`] gives the answers that are ready. Time passes in
//! [`Classic::advance`]. What is to be stored comes from [`Classic::begin_save`], one save at a time; its end is
//! reported to [`Classic::end_save`], and releases the answers that need it. Committed offsets are not here, only who may commit.
//! `checks` has what is refused.

mod checks;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::roster::{Member, vote};
use super::stored::{Generation, StoredMember};
use super::{
    Answer, CallNumber, Denied, INITIAL_DELAY_MS, Identity, Joined, JoinedMember, Joining,
    MOST_INITIAL_DELAY_MS, Synced, Syncing,
};
use crate::broker::groups::members::Ms;
use crate::broker::refusal::Refusal;

/// The most ids that are promised to members that have not joined with them yet.
const MAX_PROMISED: usize = 1_000;

/// Where a group is between two generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has no members.
    Empty,
    /// The members have to join.
    Preparing {
        /// When the rebalance ends without those that have not joined.
        until: Ms,
        /// It is the first rebalance of an empty group.
        first: Option<First>,
    },
    /// The members have joined; the leader has to assign.
    Completing {
        /// The leader has assigned, and that is being stored.
        is_assigned: bool,
    },
    /// Every member has, or may ask for, its assignment.
    Stable,
}

/// The wait of a first rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// It is not extended beyond this time.
    most: Ms,
    /// A member has come since it was extended last.
    has_news: bool,
}

/// A save that is on its way to the log.
#[derive(Debug)]
struct Saving {
    /// It is what makes the present generation stable.
    assigns: bool,
    generation_id: i32,
    /// Joins of static members that are answered when it is durable.
    held: Vec<(CallNumber, Joined)>,
}

/// The members of a classic group.
#[derive(Debug)]
pub struct Classic {
    phase: Phase,
    generation_id: i32,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// The ids of static members.
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were promised to members that have to join with them, and until when.
    promised: BTreeMap<Arc<str>, Ms>,
    /// When members are removed that have not asked for their assignments.
    sync_by: Option<Ms>,
    last_call: u64,
    answers: Vec<(CallNumber, Answer)>,
    /// Something has changed that is to be stored.
    is_unsaved: bool,
    saving: Option<Saving>,
    /// Joins of static members that are answered after the next save.
    held: Vec<(CallNumber, Joined)>,
    /// Commits on their way to the log.
    committing: u32,
}

impl Default for Classic {
    fn default() -> Self {
        Self::load(Generation::default(), 0)
    }
}

impl Classic {
    /// The group as it was stored. Every session begins now.
    pub fn load(generation: Generation, now: Ms) -> Self {
        let members: BTreeMap<Arc<str>, Member> = generation
            .members
            .into_iter()
            .map(|(id, stored)| (id, stored.into_member(generation.protocol.as_ref(), now)))
            .collect();
        let instances = members.iter();
        let instances = instances.filter_map(|(id, member)| Some((member.instance.clone()?, Arc::clone(id))));
        Self {
            phase: if members.is_empty() {
                Phase::Empty
            } else {
                Phase::Stable
            },
            generation_id: generation.generation_id,
            protocol_type: generation.protocol_type,
            protocol: generation.protocol,
            leader: generation.leader,
            instances: instances.collect(),
            members,
            promised: BTreeMap::new(),
            sync_by: None,
            last_call: 0,
            answers: Vec::new(),
            is_unsaved: false,
            saving: None,
            held: Vec::new(),
            committing: 0,
        }
    }

    /// Where it is between two generations.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The number of the present generation; 0: there was none yet.
    pub fn generation_id(&self) -> i32 {
        self.generation_id
    }

    /// What the members are.
    pub fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    /// The protocol of the present generation.
    pub fn protocol(&self) -> Option<&Arc<str>> {
        self.protocol.as_ref()
    }

    /// The members by id.
    pub fn members(&self) -> &BTreeMap<Arc<str>, Member> {
        &self.members
    }

    /// What the members have said of themselves and are assigned, in bytes. Cost: a look at each.
    pub fn said_bytes(&self) -> usize {
        self.members.values().map(Member::said_bytes).sum()
    }

    /// How many ids are promised.
    pub fn promised(&self) -> usize {
        self.promised.len()
    }

    /// Whether there is nothing to remember of it: there was no generation yet, and nobody is to come.
    pub fn is_blank(&self) -> bool {
        self.generation_id == 0 && self.members.is_empty() && self.promised.is_empty()
    }

    /// The id of a static member.
    pub fn member_of(&self, instance: &str) -> Option<&Arc<str>> {
        self.instances.get(instance)
    }

    /// Whether no save and no commit is on its way to the log, or due.
    pub fn is_idle(&self) -> bool {
        self.saving.is_none() && !self.is_unsaved && self.committing == 0
    }

    /// Whether something is to be stored, and no save is on its way.
    pub fn wants_save(&self) -> bool {
        self.is_unsaved && self.saving.is_none()
    }

    /// The answers that are ready.
    pub fn take_answers(&mut self) -> Vec<(CallNumber, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// Lets a member join. The answer comes when the rebalance ends.
    ///
    /// # Errors
    /// Nothing has changed, except that a promised id is promised: [`Denied::SessionTimeout`],
    /// [`Denied::InconsistentProtocol`], [`Denied::UnknownMember`], [`Denied::FencedInstance`], [`Denied::Full`],
    /// [`Denied::MemberIdRequired`].
    pub fn join(&mut self, joining: &Joining, now: Ms) -> Result<CallNumber, Denied> {
        self.check_join(joining)?;
        let of_instance = self.instance_of(joining).cloned();
        let fresh = Arc::clone(&joining.fresh);
        match (&joining.member, of_instance) {
            (None, Some(old)) => Ok(self.replace(&old, &fresh, joining, now)),
            (None, None) if joining.instance.is_none() && joining.needs_id => {
                if self.promised.len() >= MAX_PROMISED {
                    return Err(Denied::Full);
                }
                let until = now.saturating_add(joining.session_timeout);
                self.promised.insert(Arc::clone(&fresh), until);
                Err(Denied::MemberIdRequired(fresh))
            }
            (None, None) => Ok(self.add(fresh, joining, now)),
            (Some(id), _) if joining.instance.is_none() && self.promised.remove(id).is_some() => {
                Ok(self.add(Arc::clone(id), joining, now))
            }
            (Some(id), _) => Ok(self.rejoin(id, joining, now)),
        }
    }

    /// Asks for a member's assignment; the leader brings all of them. The answer comes when they are durable.
    ///
    /// # Errors
    /// Nothing has changed: [`Denied::UnknownMember`], [`Denied::FencedInstance`], [`Denied::IllegalGeneration`],
    /// [`Denied::InconsistentProtocol`]; [`Denied::Rebalancing`]: join again.
    pub fn sync(&mut self, syncing: &Syncing<'_>, now: Ms) -> Result<CallNumber, Denied> {
        self.check_identity(&syncing.who)?;
        let differs = |given: Option<&str>, own: Option<&Arc<str>>| {
            given.zip(own).is_some_and(|(given, own)| *given != **own)
        };
        if differs(syncing.protocol_type, self.protocol_type.as_ref())
            || differs(syncing.protocol, self.protocol.as_ref())
        {
            return Err(Denied::InconsistentProtocol);
        }
        let Phase::Completing { is_assigned } = self.phase else {
            if self.phase != Phase::Stable {
                return Err(Denied::Rebalancing);
            }
            let call = self.next_call();
            let member = self
                .members
                .get_mut(syncing.who.member)
                .ok_or(Denied::UnknownMember)?;
            (member.has_synced, member.last_contact) = (true, now);
            self.answer_sync(syncing.who.member, call);
            self.end_syncs();
            return Ok(call);
        };
        let call = self.next_call();
        let member = self
            .members
            .get_mut(syncing.who.member)
            .ok_or(Denied::UnknownMember)?;
        (member.has_synced, member.last_contact) = (true, now);
        if let Some(earlier) = member.syncing.replace(call) {
            self.answers.push((earlier, Answer::Denied(Denied::Rebalancing)));
        }
        if self.leader.as_deref() == Some(syncing.who.member) && !is_assigned {
            for member in self.members.values_mut() {
                member.assignment = Bytes::new();
            }
            for (id, assignment) in &syncing.assignments {
                if let Some(member) = self.members.get_mut(id) {
                    member.assignment.clone_from(assignment);
                }
            }
            self.phase = Phase::Completing { is_assigned: true };
            self.is_unsaved = true;
        }
        Ok(call)
    }

    /// Keeps a member alive.
    ///
    /// # Errors
    /// [`Denied::UnknownMember`], [`Denied::FencedInstance`], [`Denied::IllegalGeneration`]; [`Denied::Rebalancing`]: it is
    /// kept alive, and has to join again.
    pub fn heartbeat(&mut self, who: &Identity<'_>, now: Ms) -> Result<(), Denied> {
        self.check_identity(who)?;
        self.touch(who.member, now);
        match self.phase {
            Phase::Preparing { .. } => Err(Denied::Rebalancing),
            _ => Ok(()),
        }
    }

    /// Removes a member, by its id, by its instance, or by both. Returns its id.
    ///
    /// # Errors
    /// [`Denied::UnknownMember`], [`Denied::FencedInstance`].
    pub fn leave(
        &mut self,
        member: Option<&str>,
        instance: Option<&str>,
        now: Ms,
    ) -> Result<Arc<str>, Denied> {
        let id: Arc<str> = match (member, instance) {
            (Some(id), None) if self.promised.contains_key(id) => {
                self.promised.remove(id);
                self.maybe_complete(now);
                return Ok(id.into());
            }
            (Some(id), instance) => {
                self.check_member(id, instance)?;
                id.into()
            }
            (None, Some(instance)) => self
                .instances
                .get(instance)
                .cloned()
                .ok_or(Denied::UnknownMember)?,
            (None, None) => return Err(Denied::UnknownMember),
        };
        self.remove(&id, now);
        Ok(id)
    }

    /// Whether a commit may begin. It keeps the member alive.
    ///
    /// # Errors
    /// [`Denied::UnknownMember`]: no member, while there are members, included. [`Denied::FencedInstance`],
    /// [`Denied::IllegalGeneration`]; [`Denied::Rebalancing`]: the member has no assignment yet.
    pub fn check_commit(&mut self, who: &Identity<'_>, now: Ms) -> Result<(), Denied> {
        if who.generation_id < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        self.check_identity(who)?;
        self.touch(who.member, now);
        match self.phase {
            Phase::Completing { .. } => Err(Denied::Rebalancing),
            _ => Ok(()),
        }
    }

    /// Notes that a commit is on its way to the log.
    pub fn begin_commit(&mut self) {
        self.committing += 1;
    }

    /// Notes that it has ended.
    pub fn end_commit(&mut self) {
        self.committing = self.committing.saturating_sub(1);
    }

    /// Ends a call whose client has gone. A member that has no place yet is removed with its join, so that the rebalance
    /// does not wait for it.
    pub fn withdraw(&mut self, call: CallNumber, now: Ms) {
        self.answers.retain(|(other, _)| *other != call);
        self.held.retain(|(other, _)| *other != call);
        if let Some(saving) = &mut self.saving {
            saving.held.retain(|(other, _)| *other != call);
        }
        let mut waiting = self.members.iter_mut();
        let found = waiting.find(|(_, member)| member.joining == Some(call) || member.syncing == Some(call));
        let Some((id, member)) = found else { return };
        let is_join = member.joining == Some(call);
        (member.joining, member.syncing, member.last_contact) = (None, None, now);
        if is_join && member.is_new {
            let id = Arc::clone(id);
            self.remove(&id, now);
        }
    }

    /// Lets time pass. Returns the members whose sessions have ended.
    pub fn advance(&mut self, now: Ms) -> Vec<Arc<str>> {
        let promised = self.promised.len();
        self.promised.retain(|_, until| *until > now);
        if self.promised.len() < promised {
            self.maybe_complete(now);
        }
        let late = |member: &Member| member.deadline().is_some_and(|deadline| deadline <= now);
        let mut ended: Vec<Arc<str>> = Vec::new();
        while let Some((id, _)) = self.members.iter().find(|(_, member)| late(member)) {
            let id = Arc::clone(id);
            self.remove(&id, now);
            ended.push(id);
        }
        if self.sync_by.is_some_and(|by| by <= now) {
            self.sync_by = None;
            let unsynced = self.members.iter().filter(|(_, member)| !member.has_synced);
            let unsynced: Vec<Arc<str>> = unsynced.map(|(id, _)| Arc::clone(id)).collect();
            for id in &unsynced {
                self.take_out(id);
            }
            if !unsynced.is_empty() {
                self.prepare(now);
            }
            ended.extend(unsynced);
        }
        if let Phase::Preparing { until, first } = self.phase
            && until <= now
        {
            match first {
                Some(First { most, has_news: true }) if until < most => {
                    self.phase = Phase::Preparing {
                        until: now.saturating_add(INITIAL_DELAY_MS).min(most),
                        first: Some(First {
                            most,
                            has_news: false,
                        }),
                    };
                }
                _ => self.complete(now),
            }
        }
        ended
    }

    /// When to call [`Classic::advance`] next.
    pub fn next_deadline(&self) -> Option<Ms> {
        let sessions = self.members.values().filter_map(Member::deadline);
        let rebalance = match self.phase {
            Phase::Preparing { until, .. } => Some(until),
            _ => None,
        };
        let others = self.promised.values().copied();
        sessions.chain(others).chain(rebalance).chain(self.sync_by).min()
    }

    /// What is to be stored now, if anything, and no save is on its way.
    pub fn begin_save(&mut self) -> Option<Generation> {
        if !self.wants_save() {
            return None;
        }
        self.is_unsaved = false;
        let assigns = match self.phase {
            // The leader's sync will ask for it.
            Phase::Completing { is_assigned: false } => return None,
            Phase::Completing { is_assigned: true } => true,
            _ => false,
        };
        let settled = self.members.iter().filter(|(_, member)| !member.is_new);
        let generation = Generation {
            generation_id: self.generation_id,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self
                .leader
                .clone()
                .filter(|leader| self.members.get(leader).is_some_and(|member| !member.is_new)),
            members: settled
                .map(|(id, member)| (Arc::clone(id), StoredMember::of(member, self.protocol.as_deref())))
                .collect(),
        };
        self.saving = Some(Saving {
            assigns,
            generation_id: self.generation_id,
            held: std::mem::take(&mut self.held),
        });
        Some(generation)
    }

    /// Ends the save that [`Classic::begin_save`] began. If the assignments could not be stored, the members have to join
    /// again.
    pub fn end_save(&mut self, result: Result<(), Refusal>, now: Ms) {
        let Some(saving) = self.saving.take() else { return };
        let is_current = saving.generation_id == self.generation_id;
        let is_assigned = self.phase == Phase::Completing { is_assigned: true };
        match &result {
            Ok(()) if saving.assigns && is_current && is_assigned => {
                self.phase = Phase::Stable;
                let mut syncing = Vec::new();
                for (id, member) in &mut self.members {
                    if let Some(call) = member.syncing.take() {
                        member.last_contact = now;
                        syncing.push((Arc::clone(id), call));
                    }
                }
                for (id, call) in syncing {
                    self.answer_sync(&id, call);
                }
                self.end_syncs();
            }
            Err(refusal) if saving.assigns && is_current && is_assigned => {
                for member in self.members.values_mut() {
                    if let Some(call) = member.syncing.take() {
                        member.last_contact = now;
                        let denied = Answer::Denied(Denied::Refused(refusal.clone()));
                        self.answers.push((call, denied));
                    }
                }
                self.prepare(now);
            }
            _ => {}
        }
        for (call, joined) in saving.held {
            let answer = match &result {
                Err(refusal) => Answer::Denied(Denied::Refused(refusal.clone())),
                Ok(()) if is_current && self.phase == Phase::Stable => Answer::Joined(joined),
                // The group rebalances by now: the client joins again.
                Ok(()) => Answer::Denied(Denied::Rebalancing),
            };
            self.answers.push((call, answer));
        }
    }

    fn next_call(&mut self) -> CallNumber {
        self.last_call += 1;
        CallNumber(self.last_call)
    }

    fn touch(&mut self, id: &str, now: Ms) {
        if let Some(member) = self.members.get_mut(id) {
            member.last_contact = now;
        }
    }

    /// Adds a member that has no place yet.
    fn add(&mut self, id: Arc<str>, joining: &Joining, now: Ms) -> CallNumber {
        let call = self.next_call();
        let mut member = Member::new(joining, now);
        member.joining = Some(call);
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::clone(&joining.protocol_type));
        }
        self.leader.get_or_insert_with(|| Arc::clone(&id));
        if let Some(instance) = &joining.instance {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        self.members.insert(id, member);
        match &mut self.phase {
            Phase::Empty => {
                let most = MOST_INITIAL_DELAY_MS.min(joining.rebalance_timeout);
                self.phase = Phase::Preparing {
                    until: now.saturating_add(INITIAL_DELAY_MS.min(most)),
                    first: Some(First {
                        most: now.saturating_add(most),
                        has_news: false,
                    }),
                };
            }
            Phase::Preparing {
                first: Some(first), ..
            } => first.has_news = true,
            Phase::Preparing { first: None, .. } => self.maybe_complete(now),
            Phase::Completing { .. } | Phase::Stable => self.prepare(now),
        }
        call
    }

    /// Lets a member join the next generation, or repeats the answer that it may have lost.
    fn rejoin(&mut self, id: &Arc<str>, joining: &Joining, now: Ms) -> CallNumber {
        let call = self.next_call();
        let is_leader = self.leader.as_ref() == Some(id);
        let Some(member) = self.members.get_mut(id) else {
            return call;
        };
        let is_same = member.protocols == joining.protocols;
        let is_repeated = match self.phase {
            Phase::Completing { .. } => is_same,
            // A leader joins again because it wants to assign anew.
            Phase::Stable => is_same && !is_leader,
            _ => false,
        };
        member.update(joining, now);
        if is_repeated {
            self.answer_join(id, call);
            return call;
        }
        if let Some(earlier) = member.joining.replace(call) {
            self.answers.push((earlier, Answer::Denied(Denied::Rebalancing)));
        }
        match self.phase {
            Phase::Preparing { .. } => self.maybe_complete(now),
            _ => self.prepare(now),
        }
        call
    }

    /// Gives a static member that starts again a new id. If the members would choose the same protocol again, the present
    /// generation goes on.
    fn replace(&mut self, old: &Arc<str>, id: &Arc<str>, joining: &Joining, now: Ms) -> CallNumber {
        let call = self.next_call();
        let leader = self.leader.clone();
        let is_leader = leader.as_ref() == Some(old);
        self.fence_calls(old);
        let Some(mut member) = self.members.remove(old) else {
            return call;
        };
        member.update(joining, now);
        if is_leader {
            self.leader = Some(Arc::clone(id));
        }
        self.instances
            .extend(member.instance.clone().map(|instance| (instance, Arc::clone(id))));
        self.members.insert(Arc::clone(id), member);
        self.rename_in_held(old, id);
        let keeps = self.phase == Phase::Stable
            && vote(&self.members, self.leader.as_deref().unwrap_or_default()) == self.protocol;
        if keeps {
            let mut joined = self.joined(id);
            joined.skips_assignment = is_leader && joining.may_skip;
            if !joined.skips_assignment {
                // A client that took itself for the leader would have to assign, and every other keep what it has.
                joined.members.clear();
                joined.leader = leader.unwrap_or_default();
            }
            self.held.push((call, joined));
            self.is_unsaved = true;
            return call;
        }
        if let Some(member) = self.members.get_mut(id) {
            member.joining = Some(call);
        }
        match self.phase {
            Phase::Preparing { .. } => self.maybe_complete(now),
            _ => self.prepare(now),
        }
        call
    }

    /// Renames a member in the answers that wait until they are stored: their leader is to know those that are there then.
    fn rename_in_held(&mut self, old: &Arc<str>, id: &Arc<str>) {
        let saving = self.saving.as_mut().map(|saving| &mut saving.held);
        let held = saving.into_iter().chain([&mut self.held]).flatten();
        for row in held.flat_map(|(_, joined)| &mut joined.members) {
            if row.member == *old {
                row.member = Arc::clone(id);
            }
        }
    }

    /// Answers the waiting calls of a process whose instance another one has taken over.
    fn fence_calls(&mut self, id: &Arc<str>) {
        let fenced = || Answer::Denied(Denied::FencedInstance);
        if let Some(member) = self.members.get_mut(id) {
            let calls = member.joining.take().into_iter().chain(member.syncing.take());
            self.answers.extend(calls.map(|call| (call, fenced())));
        }
        let saving = self.saving.as_mut().map(|saving| &mut saving.held);
        for held in saving.into_iter().chain([&mut self.held]) {
            for (call, _) in held.extract_if(.., |(_, joined)| joined.member == *id) {
                self.answers.push((call, fenced()));
            }
        }
    }

    /// Takes a member out, and answers its calls.
    fn take_out(&mut self, id: &Arc<str>) {
        self.fence_calls_as_unknown(id);
        let Some(member) = self.members.remove(id) else {
            return;
        };
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn fence_calls_as_unknown(&mut self, id: &Arc<str>) {
        let first = self.answers.len();
        self.fence_calls(id);
        for (_, answer) in &mut self.answers[first..] {
            *answer = Answer::Denied(Denied::UnknownMember);
        }
    }

    /// Removes a member: the others rebalance.
    fn remove(&mut self, id: &Arc<str>, now: Ms) {
        self.take_out(id);
        match self.phase {
            Phase::Preparing { first: Some(_), .. } if self.members.is_empty() => {
                // Nobody has come after all: what is stored still holds. A group of which nothing is stored becomes classic,
                // so that it expires as such.
                (self.phase, self.leader) = (Phase::Empty, None);
                self.is_unsaved |= self.generation_id == 0;
            }
            Phase::Preparing { .. } => self.maybe_complete(now),
            Phase::Completing { .. } | Phase::Stable => self.prepare(now),
            Phase::Empty => {}
        }
    }

    /// Begins a rebalance: the members have to join.
    fn prepare(&mut self, now: Ms) {
        let is_unassigned = matches!(self.phase, Phase::Completing { .. });
        // Assignments that nobody was told of are not stored any more: a restart would take them for a stable generation.
        self.is_unsaved &= !is_unassigned;
        for member in self.members.values_mut() {
            if let Some(call) = member.syncing.take() {
                member.last_contact = now;
                self.answers.push((call, Answer::Denied(Denied::Rebalancing)));
            }
            if is_unassigned {
                member.assignment = Bytes::new();
            }
        }
        for (call, joined) in std::mem::take(&mut self.held) {
            match self.members.get_mut(&joined.member) {
                Some(member) if member.joining.is_none() => member.joining = Some(call),
                _ => self.answers.push((call, Answer::Denied(Denied::Rebalancing))),
            }
        }
        self.sync_by = None;
        self.phase = Phase::Preparing {
            until: now.saturating_add(self.rebalance_timeout()),
            first: None,
        };
        self.maybe_complete(now);
    }

    fn rebalance_timeout(&self) -> Ms {
        let timeouts = self.members.values().map(|member| member.rebalance_timeout);
        timeouts.max().unwrap_or(0)
    }

    /// Ends the rebalance if every member has joined, and everybody with a promised id; or if no member is left.
    fn maybe_complete(&mut self, now: Ms) {
        let is_waiting = matches!(self.phase, Phase::Preparing { first: None, .. });
        let have_joined = self.members.values().all(|member| member.joining.is_some());
        if is_waiting && have_joined && (self.promised.is_empty() || self.members.is_empty()) {
            self.complete(now);
        }
    }

    /// Ends the rebalance with those that have joined.
    fn complete(&mut self, now: Ms) {
        let is_missing = |member: &Member| member.joining.is_none() && member.instance.is_none();
        let missing = self.members.iter().filter(|(_, member)| is_missing(member));
        let missing: Vec<Arc<str>> = missing.map(|(id, _)| Arc::clone(id)).collect();
        for id in &missing {
            self.take_out(id);
        }
        let mut joined = self.members.iter().filter(|(_, member)| member.joining.is_some());
        let first = joined.next().map(|(id, _)| Arc::clone(id));
        let leads = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        if leads.is_none_or(|leader| leader.joining.is_none()) {
            if first.is_none() && !self.members.is_empty() {
                // Only static members are left, and none of them has joined: wait until one does, or their sessions end.
                self.phase = Phase::Preparing {
                    until: now.saturating_add(self.rebalance_timeout().max(1)),
                    first: None,
                };
                return;
            }
            self.leader = first;
        }
        self.generation_id = self.generation_id.checked_add(1).unwrap_or(1);
        let Some(leader) = self.leader.clone() else {
            (self.phase, self.protocol, self.is_unsaved) = (Phase::Empty, None, true);
            return;
        };
        self.protocol = vote(&self.members, &leader);
        self.phase = Phase::Completing { is_assigned: false };
        self.sync_by = Some(now.saturating_add(self.rebalance_timeout()));
        let mut calls = Vec::new();
        for (id, member) in &mut self.members {
            (member.is_new, member.has_synced) = (false, false);
            if let Some(call) = member.joining.take() {
                member.last_contact = now;
                calls.push((Arc::clone(id), call));
            }
        }
        for (id, call) in calls {
            self.answer_join(&id, call);
        }
    }

    /// What a join of the present generation returns.
    fn joined(&self, id: &Arc<str>) -> Joined {
        let (leader, protocol) = (
            self.leader.clone().unwrap_or_default(),
            self.protocol.clone().unwrap_or_default(),
        );
        let all = self.members.iter().filter(|_| leader == *id);
        let members = all.map(|(id, member)| JoinedMember {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            metadata: member.metadata(&protocol),
        });
        Joined {
            member: Arc::clone(id),
            generation_id: self.generation_id,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: members.collect(),
            protocol,
            leader,
            skips_assignment: false,
        }
    }

    fn answer_join(&mut self, id: &Arc<str>, call: CallNumber) {
        let joined = self.joined(id);
        self.answers.push((call, Answer::Joined(joined)));
    }

    fn answer_sync(&mut self, id: &str, call: CallNumber) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        let synced = Synced {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment: member.assignment.clone(),
        };
        self.answers.push((call, Answer::Synced(synced)));
    }

    /// Nobody is removed any more once every member has asked for its assignment.
    fn end_syncs(&mut self) {
        if self.phase == Phase::Stable && self.members.values().all(|member| member.has_synced) {
            self.sync_by = None;
        }
    }
}
