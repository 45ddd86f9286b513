//! The calls of consumers.
//!
//! A heartbeat first changes what the consumer says of itself, and what the group subscribes to by that is made durable;
//! then the state machine hears it. If it fails in between, the next one does the rest.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use super::regex::TopicRegex;
use super::{
    Beat, Beaten, HEARTBEAT_INTERVAL_MS, JoiningConsumer, MAX_TOPICS, SESSION_TIMEOUT_MS, Saying,
    WAITING_INTERVAL_MS, Who,
};
use crate::broker::caller::Caller;
use crate::broker::groups::cell::consumers::{MAX_EXPRESSIONS, News, Wish};
use crate::broker::groups::cell::{Cell, Core};
use crate::broker::groups::classic::Denied;
use crate::broker::groups::classic::calls::{check_name, server_is_full};
use crate::broker::groups::live::GroupType;
use crate::broker::groups::members::{Joining, Member};
use crate::broker::groups::membership::Attempt;
use crate::broker::groups::ordered::partitions::consumers::{Assignor, Heard, Rejected, Terms};
use crate::broker::groups::shared::settings::GroupValue;
use crate::broker::groups::{Groups, Subscribed};
use crate::broker::names::MEMBER;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;

impl From<Rejected> for Denied {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Unknown => Self::UnknownMember,
            Rejected::FencedEpoch => Self::FencedEpoch,
            Rejected::StaleEpoch => Self::StaleEpoch,
        }
    }
}

fn invalid(detail: impl Into<String>) -> Denied {
    Denied::Invalid(detail.into())
}

fn has_filter(group: &str) -> Denied {
    invalid(format!(
        "the group {group} has a filter, which its consumers would have to apply: remove the filter"
    ))
}

impl Groups {
    /// Whether any member of a group is a consumer.
    pub(in crate::broker::groups) fn has_consumers(&self, group: &str) -> bool {
        let cell = self.coordinator.find(group);
        cell.is_some_and(|cell| self.lock(&cell).1.has_consumers())
    }

    /// Joins a consumer; one of the same id is replaced. Creates the group durably if it does not exist.
    ///
    /// # Errors
    /// - [`Denied::OtherKind`]: the group is a queue, or has members of another kind. [`Denied::Invalid`]: it has a filter; or
    ///   the consumer says too much, or has the id of a member that polls.
    /// - [`Denied::UnsupportedAssignor`], [`Denied::InvalidRegex`], [`Denied::InvalidName`], [`Denied::Full`].
    /// - [`Denied::InstanceInUse`]: another process is the static member.
    /// - [`Denied::Refused`]. If the group's subscription could not be stored, the consumer has joined, and may do so again.
    pub async fn join_consumer(
        &self,
        caller: &Caller,
        group: &str,
        joining: &JoiningConsumer,
    ) -> Result<Beaten, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read], group)?;
        for name in [Some(&joining.member), joining.instance.as_ref()]
            .into_iter()
            .flatten()
        {
            MEMBER.check(name).map_err(|refusal| invalid(refusal.detail))?;
        }
        let news = self.check_saying(caller, group, &joining.member, &joining.saying)?;
        if !self.coordinator.has_room_for(group, &joining.member) {
            return Err(server_is_full());
        }
        let (cell, key) = loop {
            match self.end_classic(group).await {
                Err(refusal) if refusal.reason == Reason::GroupActive => return Err(Denied::OtherKind),
                ended => ended?,
            }
            let value = match self.value_of(group)? {
                Some(value) => value,
                None => {
                    let guard = self.alone().await;
                    if !self.exists(group) {
                        let (value, nothing) = (GroupValue::default(), Subscribed::default());
                        let made = self.make(guard, group, &value, nothing, Vec::new()).await;
                        made.map_err(Refusal::from)?;
                    }
                    continue;
                }
            };
            match &value {
                GroupValue::Shared(_) => return Err(Denied::OtherKind),
                GroupValue::Ordered(filter) if !filter.is_open() => return Err(has_filter(group)),
                GroupValue::Ordered(_) => {}
            }
            let cell = self.coordinator.cell(group);
            // Registered before the state is checked, so that the end of a change from outside is not missed.
            let mut joinable = pin!(cell.joinable.notified());
            joinable.as_mut().enable();
            let mut saved = pin!(cell.written.notified());
            saved.as_mut().enable();
            match self.try_join_consumer(caller, &cell, &value, joining, &news)? {
                Ok(key) => break (Arc::clone(&cell), key),
                Err(Attempt::Full) => return Err(Denied::Full),
                Err(Attempt::Closed) => joinable.await,
                Err(Attempt::Saving) => saved.await,
                Err(Attempt::Classic) => return Err(Denied::OtherKind),
                Err(Attempt::Outdated | Attempt::Done(_)) => {}
            }
        };
        self.assign_in_turn(&cell).await;
        let heard = Heard {
            epoch: None,
            owned: None,
            wants_all: true,
        };
        let beaten = self.hear(&cell, &joining.member, Some(key), &heard).await?;
        tracing::debug!(
            group,
            member = &*joining.member,
            epoch = beaten.epoch,
            "a consumer joined"
        );
        Ok(beaten)
    }

    fn try_join_consumer(
        &self,
        caller: &Caller,
        cell: &Cell,
        value: &GroupValue,
        joining: &JoiningConsumer,
        news: &News,
    ) -> Result<Result<u64, Attempt>, Denied> {
        let (now, mut core) = self.lock(cell);
        if let Err(attempt) = self.open(cell, &mut core, value) {
            return Ok(Err(attempt));
        }
        let member = &joining.member;
        let Some((ordered, members)) = core.ordered() else {
            return Err(Denied::OtherKind);
        };
        if members.get(member).is_some() && !ordered.is_consumer(member) {
            return Err(invalid(format!(
                "{member} is a member that polls: take another id"
            )));
        }
        check_expressions(&core, member, news)?;
        let Some((ordered, _)) = core.ordered() else {
            return Err(Denied::OtherKind);
        };
        let of_instance = joining
            .instance
            .as_deref()
            .and_then(|name| ordered.member_of(name));
        let replaced = match of_instance.filter(|old| *old != member).cloned() {
            Some(old) if !ordered.is_away(&old) => return Err(Denied::InstanceInUse),
            replaced => replaced,
        };
        if replaced.is_none() && core.is_full_for(member) {
            return Err(Denied::Full);
        }
        // Also if it joins once more because the answer was lost: it may as well be another process with its id, and then the
        // first one must not go on with the epoch that it has.
        let terms = Terms {
            instance: joining.instance.clone(),
            assignor: news.assignor,
            rebalance_timeout: news.rebalance_timeout.unwrap_or_default(),
        };
        let wish = Wish {
            topics: news.topics.clone().unwrap_or_default(),
            regex: news.regex.clone().flatten(),
        };
        let as_member = Joining {
            member: Arc::clone(member),
            client_id: joining.client_id.clone(),
            address: joining.address.clone(),
            session_timeout: SESSION_TIMEOUT_MS,
            instance: None,
        };
        core.join_consumer(as_member, wish, terms, replaced.as_deref(), now);
        core.act_for(member, &caller.who);
        let key = core.members.get(member).map(Member::key);
        Ok(Ok(key.ok_or(Denied::UnknownMember)?))
    }

    /// Keeps a consumer alive, hands over what it has given up, and tells it what it is to read.
    ///
    /// # Errors
    /// - [`Denied::OtherKind`]: the group does not exist, or its members are of another kind. [`Denied::UnknownMember`].
    /// - [`Denied::FencedInstance`]: another process is the static member by now.
    /// - [`Denied::FencedEpoch`]: the consumer gives everything up and joins again.
    /// - [`Denied::UnsupportedAssignor`], [`Denied::InvalidRegex`], [`Denied::InvalidName`], [`Denied::Invalid`],
    ///   [`Denied::Refused`].
    pub async fn beat_consumer(
        &self,
        caller: &Caller,
        group: &str,
        beat: &Beat<'_>,
    ) -> Result<Beaten, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read], group)?;
        let cell = self.cell_of_consumers(group)?;
        let member = beat.who.member;
        let news = self.check_saying(caller, group, member, &beat.saying)?;
        let heard = Heard {
            epoch: Some(beat.epoch),
            owned: beat.owned.as_deref(),
            wants_all: beat.is_whole,
        };
        let is_outdated = {
            let (now, mut core) = self.lock(&cell);
            check_consumer(&mut core, &beat.who)?;
            if !core.filter.is_open() {
                return Err(has_filter(group));
            }
            let (ordered, _) = core.ordered().ok_or(Denied::OtherKind)?;
            let is_late = ordered.check_heard(member, &heard)?;
            if is_late && core.says_other(member, &news) {
                // Either the answer was lost, or this is an old heartbeat that comes late: then it must not bring back what
                // the consumer said before. The consumer itself joins again, and says it anew.
                return Err(Denied::FencedEpoch);
            }
            check_expressions(&core, member, &news)?;
            let is_new = |topics: &BTreeSet<String>| !core.topics_of(member).eq(topics);
            if news.topics.as_ref().is_some_and(is_new) && !self.coordinator.may_subscribe() {
                return Err(server_is_full());
            }
            if !caller.who.is_same(&crate::broker::caller::Who::Anyone) && beat.saying.topics.is_none() {
                // The rights may be others than when it said so.
                let mut names = core.topics_of(member);
                let denied = names.find_map(|name| caller.check_topic(Right::Read, name).err());
                if let Some(refusal) = denied {
                    return Err(Denied::Topic(refusal));
                }
            }
            // What is refused does not keep a consumer alive: others would wait for its partitions for ever.
            core.members
                .touch(member, None, now)
                .map_err(|_| Denied::UnknownMember)?;
            if !is_late {
                core.change_consumer(member, news);
            }
            core.act_for(member, &caller.who);
            core.is_outdated(self.coordinator.change())
        };
        if is_outdated {
            self.assign_in_turn(&cell).await;
        }
        self.hear(&cell, member, None, &heard).await
    }

    /// Makes durable what the group subscribes to by now, and lets the state machine hear the consumer. `joined`: the key that
    /// it has got by joining. If it has another one by now, another process has joined with its id.
    async fn hear(
        &self,
        cell: &Arc<Cell>,
        member: &str,
        joined: Option<u64>,
        heard: &Heard<'_>,
    ) -> Result<Beaten, Denied> {
        let unsubscribed = self.lock(cell).1.unsubscribed.clone();
        if !unsubscribed.is_empty() {
            self.subscribe_to_replaced(cell, unsubscribed).await?;
        }
        let (now, mut core) = self.lock(cell);
        let key = core.members.get(member).map(Member::key);
        if joined.is_some() && key.is_some() && key != joined {
            return Err(Denied::FencedEpoch);
        }
        let (ordered, members) = core.ordered().ok_or(Denied::UnknownMember)?;
        let told = ordered.hear(members, member, heard, now)?;
        Ok(Beaten {
            epoch: told.epoch,
            interval: match told.waits {
                true => WAITING_INTERVAL_MS,
                false => HEARTBEAT_INTERVAL_MS,
            },
            assignment: told.assignment,
        })
    }

    /// Removes a consumer that leaves: its partitions go to others. If it `returns`, a static member's place is kept until its
    /// session ends, for another process.
    ///
    /// # Errors
    /// [`Denied::OtherKind`], [`Denied::UnknownMember`], [`Denied::FencedInstance`], [`Denied::InvalidName`],
    /// [`Denied::Refused`].
    pub async fn leave_consumer(
        &self,
        caller: &Caller,
        group: &str,
        who: &Who<'_>,
        returns: bool,
    ) -> Result<(), Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Read, Right::Write], group)?;
        let cell = self.cell_of_consumers(group)?;
        {
            let (now, mut core) = self.lock(&cell);
            check_consumer(&mut core, who)?;
            if returns {
                let (ordered, members) = core.ordered().ok_or(Denied::UnknownMember)?;
                ordered.go_away(members, who.member)?;
                let _ = members.touch(who.member, None, now);
                return Ok(());
            }
            core.leave(who.member);
        }
        self.assign_after_leave(&cell).await;
        tracing::debug!(group, member = who.member, "a consumer left");
        Ok(())
    }

    /// Whether a consumer may read the committed offsets with its epoch. Groups without members of ordered groups have no
    /// epochs: whoever asks may.
    ///
    /// # Errors
    /// [`Denied::UnknownMember`], [`Denied::StaleEpoch`].
    pub fn check_epoch(&self, group: &str, member: &str, epoch: i32) -> Result<(), Denied> {
        let Some(cell) = self.coordinator.find(group) else {
            return Ok(());
        };
        let (_, mut core) = self.lock(&cell);
        if core.member_count() == 0 {
            return Ok(());
        }
        match core.ordered() {
            Some((ordered, _)) => Ok(ordered.check_reads(member, epoch)?),
            None => Ok(()),
        }
    }

    /// The cell of a group in which consumers may be members.
    fn cell_of_consumers(&self, group: &str) -> Result<Arc<Cell>, Denied> {
        if !self.exists(group) || self.kind_of(group) != GroupType::Ordered {
            return Err(Denied::OtherKind);
        }
        self.coordinator.find(group).ok_or(Denied::UnknownMember)
    }

    /// Checks what a consumer says of itself.
    fn check_saying(
        &self,
        caller: &Caller,
        group: &str,
        member: &str,
        saying: &Saying,
    ) -> Result<News, Denied> {
        let topics = saying.topics.as_ref();
        if topics.is_some_and(|topics| topics.len() > MAX_TOPICS) {
            return Err(invalid(format!("a consumer names at most {MAX_TOPICS} topics")));
        }
        for topic in topics.into_iter().flatten() {
            if topic.len() > MAX_TOPIC_BYTES {
                return Err(invalid(format!(
                    "a topic's name has at most {MAX_TOPIC_BYTES} bytes"
                )));
            }
            caller.check_topic(Right::Read, topic).map_err(Denied::Topic)?;
        }
        let assignor = match saying.assignor.as_deref() {
            None => None,
            Some(name) => Some(Assignor::named(name).ok_or(Denied::UnsupportedAssignor)?),
        };
        let regex = match saying.regex.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(text) => {
                // Before it is compiled: most heartbeats repeat what is known, and most members of a group say the same.
                let cell = self.coordinator.find(group);
                let known = cell.and_then(|cell| self.lock(&cell).1.expression(member, text).cloned());
                Some(Some(match known {
                    Some(known) => known,
                    None => Arc::new(TopicRegex::new(text).map_err(Denied::InvalidRegex)?),
                }))
            }
        };
        Ok(News {
            topics: saying.topics.clone(),
            regex,
            assignor,
            rebalance_timeout: saying.rebalance_timeout,
        })
    }
}

/// Whether there is room for the expression that a consumer subscribes to.
fn check_expressions(core: &Core, member: &str, news: &News) -> Result<(), Denied> {
    let regex = news.regex.as_ref().and_then(Option::as_ref);
    match regex.is_some_and(|regex| core.is_full_of_expressions(member, regex.text())) {
        true => Err(Denied::InvalidRegex(format!(
            "the members of the group subscribe to {MAX_EXPRESSIONS} expressions already, which is the most"
        ))),
        false => Ok(()),
    }
}

/// The longest name of a topic.
const MAX_TOPIC_BYTES: usize = 249;

/// Whether the call is of the consumer that it names.
fn check_consumer(core: &mut Core, who: &Who<'_>) -> Result<(), Denied> {
    if core.member_count() > 0 && core.group_type() != GroupType::Ordered {
        return Err(Denied::OtherKind);
    }
    let (ordered, _) = core.ordered().ok_or(Denied::UnknownMember)?;
    if let Some(instance) = who.instance {
        let member = ordered.member_of(instance).ok_or(Denied::UnknownMember)?;
        if **member != *who.member {
            return Err(Denied::FencedInstance);
        }
    }
    match ordered.is_consumer(who.member) {
        true => Ok(()),
        false => Err(Denied::UnknownMember),
    }
}
