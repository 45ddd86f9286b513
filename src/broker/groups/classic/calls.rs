//! The calls of classic members: join, sync, heartbeat, leave.
//!
//! The state machine decides under the lock of the group's cell. Joins and syncs wait outside it for their answer; a call
//! whose client goes away is withdrawn. A task stores what the machine wants to be stored, one save at a time.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::rebalance::Classic;
use super::roster::Member;
use super::{
    Answer, CallNumber, Denied, Identity, Joined, Joining, MAX_MEMBER_BYTES, Synced, Syncing, stored,
};
use crate::broker::caller::Caller;
use crate::broker::engine::{Error, StateChange};
use crate::broker::groups::cell::{Cell, Kind};
use crate::broker::groups::coordinator::Coordinator;
use crate::broker::groups::live::GroupType;
use crate::broker::groups::shared::settings::GroupValue;
use crate::broker::groups::{Groups, Subscribed, append, finish, generation};
use crate::broker::names;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;

/// The most bytes of a client's name in the id of its member.
const MAX_NAME_BYTES: usize = 200;

/// How an attempt to join went.
enum Attempt {
    /// It waits for its answer.
    Waits(CallNumber, oneshot::Receiver<Answer>),
    /// A change from outside is running: wait for its end.
    Closed,
    /// The cell was forgotten, or the group deleted, since it was looked up: try again.
    Outdated,
}

/// A join or a sync that waits for its answer, and holds nothing of what was said. Dropping it withdraws the call.
pub struct Waiting {
    groups: Groups,
    cell: Arc<Cell>,
    call: CallNumber,
    answer: oneshot::Receiver<Answer>,
    is_answered: bool,
}

impl Waiting {
    /// What a join returns, when the rebalance ends.
    ///
    /// # Errors
    /// Those of [`Classic::join`] and [`Denied::Rebalancing`]; [`Denied::Refused`].
    pub async fn joined(self) -> Result<Joined, Denied> {
        let group = Arc::clone(&self.cell.group);
        match self.answered().await? {
            Answer::Joined(joined) => {
                let (member, generation_id) = (&*joined.member, joined.generation_id);
                tracing::debug!(
                    group = &*group,
                    member,
                    generation_id,
                    "a member of a classic group joined"
                );
                Ok(joined)
            }
            Answer::Denied(denied) => Err(denied),
            Answer::Synced(_) => Err(Denied::UnknownMember),
        }
    }

    /// What a sync returns, when the leader's assignments are durable.
    ///
    /// # Errors
    /// Those of [`Classic::sync`]; [`Denied::Refused`]: the assignments could not be stored, join again.
    pub async fn synced(self) -> Result<Synced, Denied> {
        match self.answered().await? {
            Answer::Synced(synced) => Ok(synced),
            Answer::Denied(denied) => Err(denied),
            Answer::Joined(_) => Err(Denied::UnknownMember),
        }
    }

    async fn answered(mut self) -> Result<Answer, Denied> {
        let mut stopping = self.groups.stopping.clone();
        let answer = tokio::select! {
            // What is answered already is answered while the server stops, too.
            biased;
            answer = &mut self.answer => answer,
            _ = stopping.wait_for(|stopping| *stopping) => return Err(Refusal::stopping().into()),
        };
        self.is_answered = true;
        // It fails if the group has become another kind: then it had no members.
        answer.map_err(|_| Denied::UnknownMember)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let (now, mut core) = self.groups.lock(&self.cell);
        core.waiting.remove(&self.call);
        if let Some(classic) = core.classic() {
            classic.withdraw(self.call, now);
        }
    }
}

/// By how much members may say more than before, or be assigned more, in a server that is full, in bytes.
const LITTLE_BYTES: usize = 1 << 10;

/// Refuses what only groups without classic members allow.
pub fn has_classic_members(group: &str) -> Refusal {
    let detail = format!(
        "the group {group} has live members of Kafka's classic protocol: have them leave, or wait until their sessions end"
    );
    Refusal::new(Reason::GroupActive, detail)
}

/// Refuses a member for what all groups together take: it may try again, and others may have left by then.
pub(in crate::broker::groups) fn server_is_full() -> Denied {
    let detail = "the members of all groups together are as many, or say as much, as the server takes";
    Refusal::new(Reason::Overloaded, detail).into()
}

/// A new id for a member. Kafka's clients show it, and do not read it.
pub fn fresh_id(name: Option<&str>) -> Arc<str> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("member");
    let visible = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' });
    let visible: String = visible.take(MAX_NAME_BYTES).collect();
    let (a, b) = (Coordinator::random(), Coordinator::random());
    format!("{visible}-{a:016x}{b:016x}").into()
}

pub(in crate::broker::groups) fn check_name(group: &str) -> Result<(), Denied> {
    names::GROUP.check(group).map_err(|_| Denied::InvalidName)
}

impl Groups {
    /// Whether another id can be promised to a member that has none. If not, it joins at once.
    pub fn may_promise(&self) -> bool {
        self.coordinator.may_promise()
    }

    /// Joins a classic group: the answer comes when its rebalance ends. Creates the group durably if it does not exist.
    ///
    /// # Errors
    /// Those of [`Classic::join`]; [`Denied::TooLarge`], and [`Denied::Full`]: it could not be stored; [`Denied::InconsistentProtocol`] also if the group is shared, has a filter or live
    /// members of another kind; [`Denied::InvalidName`]; [`Denied::Refused`].
    pub async fn begin_join_classic(
        &self,
        caller: &Caller,
        group: &str,
        joining: &Joining,
    ) -> Result<Waiting, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read], group)?;
        joining.check_size()?;
        let has_room = self.coordinator.has_room() && self.coordinator.has_memory();
        if !has_room && !self.says_hardly_more(group, joining) {
            return Err(server_is_full());
        }
        let (cell, call, answer) = loop {
            if joining.member.is_some() && self.coordinator.find(group).is_none() {
                return Err(Denied::UnknownMember);
            }
            let only_promises = joining.needs_id && joining.member.is_none() && joining.instance.is_none();
            if !only_promises && !self.exists(group) {
                // What is refused makes no group.
                self.check_join_classic(group, joining)?;
                let guard = self.alone().await;
                if !self.exists(group) {
                    let (value, nothing) = (GroupValue::default(), Subscribed::default());
                    let made = self.make(guard, group, &value, nothing, Vec::new()).await;
                    made.map_err(Refusal::from)?;
                }
            }
            let cell = self.coordinator.cell(group);
            // Registered before the state is checked, so that the end of a change from outside is not missed.
            let mut joinable = pin!(cell.joinable.notified());
            joinable.as_mut().enable();
            match self.try_join_classic(&cell, joining, only_promises)? {
                Attempt::Waits(call, answer) => break (Arc::clone(&cell), call, answer),
                Attempt::Closed => joinable.await,
                Attempt::Outdated => {}
            }
        };
        Ok(self.waiting(cell, call, answer))
    }

    fn waiting(&self, cell: Arc<Cell>, call: CallNumber, answer: oneshot::Receiver<Answer>) -> Waiting {
        self.save_classic(&cell);
        Waiting {
            groups: self.clone(),
            cell,
            call,
            answer,
            is_answered: false,
        }
    }

    /// Whether a member of the group joins again that says hardly more than before. It finds room in any case: others must not
    /// keep a group from its rebalances. What it says may have what it is assigned in it, as of cooperative consumers.
    fn says_hardly_more(&self, group: &str, joining: &Joining) -> bool {
        let Some(cell) = self.coordinator.find(group) else {
            return false;
        };
        let (_, mut core) = self.lock(&cell);
        core.classic().is_some_and(|classic| {
            let of_instance = || classic.member_of(joining.instance.as_deref()?);
            let member = joining.member.as_ref().or_else(of_instance);
            let before = member.and_then(|member| classic.members().get(member));
            before.is_some_and(|before| {
                let said = before.own_bytes();
                joining.own_bytes() <= self.most_bytes(said, before.assignment.len())
            })
        })
    }

    /// How much may be in the place of what takes so many bytes when the server is full, if something like it takes `other` bytes.
    fn most_bytes(&self, before: usize, other: usize) -> usize {
        match self.coordinator.has_memory_for_members() {
            true => before.max(other) + LITTLE_BYTES,
            false => before,
        }
    }

    /// Joins, and waits for the answer.
    #[cfg(test)]
    pub(in crate::broker::groups) async fn join_classic(
        &self,
        caller: &Caller,
        group: &str,
        joining: &Joining,
    ) -> Result<Joined, Denied> {
        self.begin_join_classic(caller, group, joining)
            .await?
            .joined()
            .await
    }

    /// Asks for an assignment, and waits for it.
    #[cfg(test)]
    pub(in crate::broker::groups) async fn sync_classic(
        &self,
        caller: &Caller,
        group: &str,
        syncing: &Syncing<'_>,
    ) -> Result<Synced, Denied> {
        self.begin_sync_classic(caller, group, syncing)?.synced().await
    }

    fn check_join_classic(&self, group: &str, joining: &Joining) -> Result<(), Denied> {
        let check = |classic: &Classic| {
            classic.check_join(joining)?;
            classic.check_stored(joining, self.log.max_request_bytes())
        };
        let live = self.coordinator.find(group);
        let live = live.and_then(|cell| self.lock(&cell).1.classic().map(|classic| check(classic)));
        live.unwrap_or_else(|| check(&Classic::default()))
    }

    fn try_join_classic(
        &self,
        cell: &Cell,
        joining: &Joining,
        only_promises: bool,
    ) -> Result<Attempt, Denied> {
        let (now, mut core) = self.lock(cell);
        if core.is_closed() {
            return Ok(Attempt::Closed);
        }
        if core.is_forgotten {
            return Ok(Attempt::Outdated);
        }
        match self.value_of(&cell.group)? {
            Some(GroupValue::Ordered(filter)) if filter.is_open() => {}
            None if only_promises => {}
            None => return Ok(Attempt::Outdated),
            // A queue is leased record by record, and Kafka's clients cannot filter.
            Some(GroupValue::Shared(_) | GroupValue::Ordered(_)) => return Err(Denied::InconsistentProtocol),
        }
        if core.classic().is_none() {
            if core.member_count() > 0 {
                return Err(Denied::InconsistentProtocol);
            }
            if !core.is_idle() {
                let detail = format!(
                    "a commit of a former member of the group {} is running",
                    cell.group
                );
                return Err(Refusal::new(Reason::Overloaded, detail).into());
            }
            // Who is stored as a member is none any more: that it left could not be stored.
            let before = stored::load(&self.log, &cell.group)
                .ok()
                .flatten()
                .unwrap_or_default();
            let before = stored::Generation {
                members: BTreeMap::new(),
                leader: None,
                ..before
            };
            core.become_kind(Kind::Classic(Box::new(Classic::load(before, now))));
        }
        let (sender, receiver) = oneshot::channel();
        let classic = core.classic().ok_or(Denied::UnknownMember)?;
        if let Err(denied) = classic.check_stored(joining, self.log.max_request_bytes()) {
            classic.check_join(joining)?;
            return Err(denied);
        }
        let joined = classic.join(joining, now);
        core.has_said_more = true;
        let call = joined?;
        core.waiting.insert(call, sender);
        Ok(Attempt::Waits(call, receiver))
    }

    /// Asks for a member's assignment: it comes when the leader's assignments are durable.
    ///
    /// # Errors
    /// Those of [`Classic::sync`]; [`Denied::TooLarge`]; [`Denied::Refused`].
    pub fn begin_sync_classic(
        &self,
        caller: &Caller,
        group: &str,
        syncing: &Syncing<'_>,
    ) -> Result<Waiting, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read], group)?;
        let assigned = syncing.assignments.iter();
        let assigned: usize = assigned.map(|(member, bytes)| member.len() + bytes.len()).sum();
        if assigned > MAX_MEMBER_BYTES {
            return Err(Denied::TooLarge);
        }
        let cell = self.coordinator.find(group).ok_or(Denied::UnknownMember)?;
        let (call, answer) = {
            let (now, mut core) = self.lock(&cell);
            let (sender, receiver) = oneshot::channel();
            let classic = core.classic().ok_or(Denied::UnknownMember)?;
            classic.check_assigned(syncing, self.log.max_request_bytes())?;
            // A group that has its members already shares its partitions among them all the same.
            if !self.coordinator.has_memory() {
                let members = classic.members().iter();
                let before = members
                    .map(|(id, member)| id.len() + member.assignment.len())
                    .sum();
                let said = classic.members().values().map(Member::own_bytes).sum();
                if assigned > self.most_bytes(before, said) {
                    return Err(server_is_full());
                }
            }
            let call = classic.sync(syncing, now)?;
            core.has_said_more = true;
            core.waiting.insert(call, sender);
            (call, receiver)
        };
        Ok(self.waiting(cell, call, answer))
    }

    /// Keeps a classic member alive.
    ///
    /// # Errors
    /// Those of [`Classic::heartbeat`].
    pub fn heartbeat_classic(&self, caller: &Caller, group: &str, who: &Identity<'_>) -> Result<(), Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read], group)?;
        let cell = self.coordinator.find(group).ok_or(Denied::UnknownMember)?;
        let (now, mut core) = self.lock(&cell);
        core.classic().ok_or(Denied::UnknownMember)?.heartbeat(who, now)
    }

    /// Removes members of a classic group, each by its id, its instance or both; in the same order. That the last one has
    /// left is durable when this returns.
    ///
    /// # Errors
    /// For the whole call [`Denied::InvalidName`], [`Denied::Refused`]; for each member those of [`Classic::leave`].
    pub async fn leave_classic(
        &self,
        caller: &Caller,
        group: &str,
        members: &[(Option<&str>, Option<&str>)],
    ) -> Result<Vec<Result<(), Denied>>, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read, Right::Write], group)?;
        let cell = self.coordinator.find(group);
        let Some(cell) = cell else {
            return Ok(members.iter().map(|_| Err(Denied::UnknownMember)).collect());
        };
        let left = {
            let (now, mut core) = self.lock(&cell);
            let leave = |(member, instance): &(Option<&str>, Option<&str>)| {
                let classic = core.classic().ok_or(Denied::UnknownMember)?;
                classic.leave(*member, *instance, now).map(drop)
            };
            members.iter().map(leave).collect()
        };
        self.save_if_empty(&cell).await;
        Ok(left)
    }

    /// Removes a member, if the group is classic; says whether it is.
    ///
    /// # Errors
    /// [`Reason::UnknownMember`].
    pub(in crate::broker::groups) async fn remove_classic_member(
        &self,
        group: &str,
        member: &str,
    ) -> Result<bool, Refusal> {
        let Some(cell) = self.coordinator.find(group) else {
            return Ok(false);
        };
        {
            let (now, mut core) = self.lock(&cell);
            let Some(classic) = core.classic() else {
                return Ok(false);
            };
            if classic.leave(Some(member), None, now).is_err() {
                let detail = format!("{member} is no member of the group {group}");
                return Err(Refusal::new(Reason::UnknownMember, detail));
            }
        }
        self.save_if_empty(&cell).await;
        Ok(true)
    }

    /// Refuses what a group with classic members does not allow.
    ///
    /// # Errors
    /// [`Reason::GroupActive`].
    pub(in crate::broker::groups) fn refuse_classic(&self, group: &str) -> Result<(), Refusal> {
        match self.coordinator.kind_of_members(group) {
            Some(GroupType::Classic) => Err(has_classic_members(group)),
            _ => Ok(()),
        }
    }

    /// Makes a classic group without members an ordered one; does nothing to other groups.
    ///
    /// # Errors
    /// [`Reason::GroupActive`]: it has members. Those of a commit.
    pub(in crate::broker::groups) async fn end_classic(&self, group: &str) -> Result<(), Refusal> {
        self.refuse_classic(group)?;
        if !stored::is_classic(&self.log, group) {
            return Ok(());
        }
        // No save runs meanwhile, and none of a later generation has been made.
        let guard = self.alone().await;
        self.refuse_classic(group)?;
        let keys = stored::keys(&self.log, group).into_iter();
        let mut state: Vec<StateChange> = keys.map(StateChange::remove).collect();
        state.push(generation::begin(group));
        let log = self.log.clone();
        Ok(finish(guard, async move { append(&log, state).await }).await?)
    }

    /// Stores what the group's state machine wants to be stored. Does not wait for it.
    pub(in crate::broker::groups) fn save_classic(&self, cell: &Arc<Cell>) {
        if self
            .lock(cell)
            .1
            .classic()
            .is_some_and(|classic| classic.wants_save())
        {
            drop(tokio::spawn(self.clone().run_saves(Arc::clone(cell))));
        }
    }

    /// Whether the last classic member has left, and that or a commit of it is not stored yet.
    pub(in crate::broker::groups) fn is_leaving(&self, cell: &Cell) -> bool {
        let (_, mut core) = self.lock(cell);
        core.member_count() == 0 && core.classic().is_some_and(|classic| !classic.is_idle())
    }

    /// The same, and waits for it if no member is left.
    pub(in crate::broker::groups) async fn save_if_empty(&self, cell: &Arc<Cell>) {
        self.save_classic(cell);
        loop {
            let mut saved = pin!(cell.written.notified());
            saved.as_mut().enable();
            if !self.is_leaving(cell) {
                return;
            }
            saved.await;
        }
    }

    async fn run_saves(self, cell: Arc<Cell>) {
        loop {
            // Held from before it is chosen what to store until it is durable, as for every commit.
            let guard = self.commits().await;
            let begun = {
                let (_, mut core) = self.lock(&cell);
                let begun = core.classic().and_then(Classic::begin_save);
                begun.map(|generation| {
                    let mut state = stored::save(&self.log, &cell.group, &generation);
                    if !stored::is_classic(&self.log, &cell.group) {
                        // From here on no `ack` of an ordered member counts.
                        state.push(generation::begin(&cell.group));
                    }
                    state
                })
            };
            let Some(state) = begun else {
                cell.written.notify_waiters();
                return;
            };
            let result = append(&self.log, state).await.map_err(|error| match error {
                // No fault of the member that waits: what its group says was taken.
                Error::Invalid(_) | Error::RequestTooLarge { .. } => {
                    Refusal::new(Reason::Internal, error.to_string())
                }
                error => Refusal::from(error),
            });
            if let Err(refusal) = &result {
                tracing::warn!(
                    group = &*cell.group,
                    refusal = refusal.detail,
                    "the generation of a classic group could not be stored"
                );
            }
            let (now, mut core) = self.lock(&cell);
            if let Some(classic) = core.classic() {
                classic.end_save(result, now);
            }
            drop((core, guard));
            cell.written.notify_waiters();
        }
    }
}
