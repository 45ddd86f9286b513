//! The members of a group, of either kind, with their sessions and polls: a state machine without I/O or clock.
//!
//! A member's session ends if the member sends no request for its session timeout, or does not give up in time what it was
//! told to. It does not end during a poll. A
//! member has one poll at a time: a newer poll supersedes the older one, which is refused at its next check.
//!
//! A group's epochs, poll tokens and poll numbers come from one sequence. A member gets a new epoch when it joins, and
//! whenever an answer has another assignment than the last one; a request with an older epoch is fenced.
//!
//! Two processes under one name are told apart by their `instance`, if they name it, else by what they acknowledge
//! ([`processes`](super::processes)). The newer one goes on; the older one is refused.
//!
//! Nothing here wakes a task: [`Members::take_woken`] names the members whose waiting polls the caller must wake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::processes::{AnswerNumber, Processes};
use crate::broker::engine::TopicId;

/// How many superseded instances of a member are remembered.
const OLDER_INSTANCES: usize = 16;

/// Milliseconds on a clock that never goes back.
pub type Ms = u64;

/// The longest time that members of Kafka's protocols may take to give partitions up, or to join a rebalance, in milliseconds:
/// a day, as long as the longest session over HTTP. Some clients ask for the largest number that there is.
pub const MOST_REBALANCE_TIMEOUT_MS: Ms = 24 * 3_600_000;

/// Why a member's request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such member.
    #[error("the member is unknown")]
    Unknown,
    /// The request has an epoch, or names a partition, that the member does not have any more.
    #[error("the member is fenced")]
    Fenced,
    /// A newer poll of the same member has superseded this one.
    #[error("a newer poll has superseded this one")]
    Superseded,
    /// A newer process has taken the member over from the one that asks.
    #[error("a newer process has taken the member over")]
    MemberSuperseded,
}

/// The properties of a member that joins.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its name.
    pub member: Arc<str>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// How long it may be silent.
    pub session_timeout: Ms,
    /// The process, as it names itself.
    pub instance: Option<Arc<str>>,
}

/// How a poll identifies itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asking<'a> {
    /// The answer that it acknowledges.
    pub ack: Option<AnswerNumber>,
    /// The process that asks.
    pub instance: Option<&'a str>,
    /// Whether the group tells processes apart by what they acknowledge.
    pub is_ordered: bool,
}

/// A poll that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// Names the poll.
    pub token: u64,
    /// Its `ack` repeats the last one, whose answer was lost.
    pub is_repeated: bool,
    /// It is of a newer process than the member's polls before.
    pub takes_over: bool,
    /// It must be answered at once. It supersedes a poll without having had an answer itself, so two processes may be
    /// superseding each other: they are told apart by what they acknowledge, and for that each needs an answer.
    pub needs_answer: bool,
}

/// A member.
#[derive(Debug)]
pub struct Member {
    /// The topics that it subscribes to.
    pub topics: BTreeSet<TopicId>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// The address from which it joined.
    pub address: Option<String>,
    session_timeout: Ms,
    /// When it must have given partitions up, if it was told to.
    give_up_by: Option<Ms>,
    /// When its last request came, or its last poll ended.
    pub last_contact: Ms,
    /// The epoch with which it joined.
    joined: u64,
    /// The newest epoch that an answer gave it.
    pub epoch: u64,
    /// The poll that it is in.
    poll: Option<Poll>,
    /// The process that has it, if that names itself.
    instance: Option<Arc<str>>,
    /// Processes that had it before, newest last.
    older: VecDeque<Arc<str>>,
    /// Polls with lower tokens are of a process that had it before.
    taken_over: u64,
    processes: Processes,
}

#[derive(Clone, Copy, Debug)]
struct Poll {
    token: u64,
    /// Its `ack` is durable, so the member has no unacknowledged records.
    is_waiting: bool,
}

impl Member {
    fn deadline(&self) -> Ms {
        let silent = self.last_contact.saturating_add(self.session_timeout);
        self.give_up_by.map_or(silent, |by| by.min(silent))
    }

    /// A number that no other member of the group has or had: the epoch with which it joined.
    pub fn key(&self) -> u64 {
        self.joined
    }

    /// Whether it is in a poll.
    pub fn is_polling(&self) -> bool {
        self.poll.is_some()
    }

    fn was_instance(&self, instance: &str) -> bool {
        self.older.iter().any(|older| **older == *instance)
    }

    fn supersede_instance(&mut self) {
        if let Some(before) = self.instance.take() {
            if self.older.len() == OLDER_INSTANCES {
                self.older.pop_front();
            }
            self.older.push_back(before);
        }
    }

    /// Whether it is in a poll whose `ack` is durable: it has no unacknowledged records, and may give up partitions.
    pub fn is_waiting(&self) -> bool {
        self.poll.is_some_and(|poll| poll.is_waiting)
    }
}

/// The members of a group.
#[derive(Debug)]
pub struct Members {
    /// Names the server's process.
    pub life: u64,
    /// The group's [generation](super::generation), as its members joined it.
    pub generation: u64,
    /// The last epoch, poll token or poll number that was given.
    last: u64,
    by_name: BTreeMap<Arc<str>, Member>,
    /// No session ends before this time.
    soonest: Ms,
    /// The members whose waiting polls must be woken.
    woken: Vec<Arc<str>>,
}

impl Members {
    /// No members. `life` names the server's process; `first` is no less than any number the group gave in this
    /// process.
    pub fn new(life: u64, first: u64) -> Self {
        Self {
            life,
            generation: 0,
            last: first,
            by_name: BTreeMap::new(),
            soonest: Ms::MAX,
            woken: Vec::new(),
        }
    }

    /// The next number of the group's sequence.
    pub fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The last number that was given.
    pub fn last_number(&self) -> u64 {
        self.last
    }

    /// A member by name.
    pub fn get(&self, name: &str) -> Option<&Member> {
        self.by_name.get(name)
    }

    /// The same, to change its topics or epoch.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Member> {
        self.by_name.get_mut(name)
    }

    /// All members, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        self.by_name.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Adds a member; replaces one of the same name, and supersedes its poll. Returns the [key](Member::key) of that
    /// one. [Check](Members::check_poll_of) first that the joining process is not an older one.
    pub fn join(&mut self, joining: Joining, now: Ms) -> Option<u64> {
        let epoch = self.next_number();
        self.wake(&joining.member);
        let mut before = self.by_name.remove(&joining.member);
        let is_other = before
            .as_ref()
            .is_some_and(|before| joining.instance.is_some() && before.instance != joining.instance);
        if let Some(before) = before.as_mut().filter(|_| is_other) {
            before.supersede_instance();
            before.taken_over = epoch;
        }
        let key = before.as_ref().map(Member::key);
        // The topics stay until they are looked up again: others may be assigned partitions before that.
        let (topics, older, taken_over, processes) = before
            .map(|before| (before.topics, before.older, before.taken_over, before.processes))
            .unwrap_or_default();
        let member = Member {
            topics,
            client_id: joining.client_id,
            address: joining.address,
            session_timeout: joining.session_timeout,
            give_up_by: None,
            last_contact: now,
            joined: epoch,
            epoch,
            poll: None,
            instance: joining.instance,
            older,
            taken_over,
            processes,
        };
        self.soonest = self.soonest.min(member.deadline());
        self.by_name.insert(joining.member, member);
        key
    }

    /// Removes a member, and returns its [key](Member::key).
    pub fn leave(&mut self, name: &str) -> Option<u64> {
        self.by_name.remove(name).map(|member| member.key())
    }

    /// Notes a request of a member, and returns the member's epoch. If the request has an epoch, it must be that one.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Fenced`].
    pub fn touch(&mut self, name: &str, epoch: Option<u64>, now: Ms) -> Result<u64, Refused> {
        let member = self.by_name.get_mut(name).ok_or(Refused::Unknown)?;
        if epoch.is_some_and(|epoch| epoch != member.epoch) {
            return Err(Refused::Fenced);
        }
        member.last_contact = now;
        Ok(member.epoch)
    }

    /// Checks the process that sends a commit, a settle or a heartbeat, if it names itself: it has the member, or the
    /// process that has the member did not name itself.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::MemberSuperseded`]; [`Refused::Fenced`]: that process has neither joined nor
    /// polled.
    pub fn check_instance(&self, name: &str, instance: Option<&str>) -> Result<(), Refused> {
        let member = self.by_name.get(name).ok_or(Refused::Unknown)?;
        match (instance, member.instance.as_deref()) {
            (Some(instance), _) if member.was_instance(instance) => Err(Refused::MemberSuperseded),
            (Some(instance), Some(present)) if instance != present => Err(Refused::Fenced),
            _ => Ok(()),
        }
    }

    /// Whether a poll may begin, or a process join. Changes nothing.
    ///
    /// # Errors
    /// [`Refused::Unknown`]; [`Refused::MemberSuperseded`]: a newer process has the member; [`Refused::Superseded`]: the
    /// `ack` was acknowledged before the last one, so this is a late duplicate of a poll.
    pub fn check_poll_of(&self, name: &str, asking: Asking<'_>) -> Result<(), Refused> {
        let member = self.by_name.get(name).ok_or(Refused::Unknown)?;
        if asking
            .instance
            .is_some_and(|instance| member.was_instance(instance))
        {
            return Err(Refused::MemberSuperseded);
        }
        let is_known = asking.instance.is_some() || !asking.is_ordered;
        member.processes.check(asking.ack, is_known)
    }

    /// The number of the answer that a member's last `ack` acknowledged, in this process of the server.
    pub fn last_acknowledged(&self, name: &str) -> Option<u64> {
        self.by_name.get(name)?.processes.last_acknowledged()?.of_today()
    }

    /// Begins a poll, which supersedes the one that the member is in. A poll of a new process takes the member over: it
    /// gets a new epoch.
    ///
    /// # Errors
    /// As [`Members::check_poll_of`]; nothing is changed.
    pub fn begin_poll(&mut self, name: &str, asking: Asking<'_>, now: Ms) -> Result<Begun, Refused> {
        self.check_poll_of(name, asking)?;
        let (fresh, token) = (self.next_number(), self.next_number());
        let member = self.by_name.get_mut(name).ok_or(Refused::Unknown)?;
        let is_known = asking.instance.is_some() || !asking.is_ordered;
        let asked = member.processes.begin(asking.ack, is_known, fresh)?;
        let mut takes_over = asked.takes_over;
        if let Some(instance) = asking.instance
            && member.instance.as_deref() != Some(instance)
        {
            // A process that only now begins to name itself may be the one that has the member.
            takes_over |= member.instance.is_some();
            member.supersede_instance();
            member.instance = Some(instance.into());
        }
        if takes_over {
            (member.epoch, member.taken_over) = (fresh, fresh);
        }
        member.last_contact = now;
        let poll = Poll {
            token,
            is_waiting: false,
        };
        let supersedes = member.poll.replace(poll).is_some();
        if supersedes {
            self.wake(name);
        }
        Ok(Begun {
            token,
            is_repeated: asked.is_repeated,
            takes_over,
            needs_answer: supersedes && asking.ack.is_none() && !is_known,
        })
    }

    /// Notes the number of the answer to a member's newest poll.
    pub fn answered(&mut self, name: &str, number: u64) {
        if let Some(member) = self.by_name.get_mut(name) {
            member.processes.answered(number);
        }
    }

    /// Notes that a poll's `ack` is durable: the poll waits for records now.
    ///
    /// # Errors
    /// As [`Members::check_poll`].
    pub fn wait(&mut self, name: &str, token: u64) -> Result<(), Refused> {
        let poll = Poll {
            token,
            is_waiting: true,
        };
        self.check_poll(name, token)?.poll = Some(poll);
        Ok(())
    }

    /// The member, if it is in the poll with this token.
    ///
    /// # Errors
    /// [`Refused::Superseded`], [`Refused::MemberSuperseded`], [`Refused::Unknown`].
    pub fn check_poll(&mut self, name: &str, token: u64) -> Result<&mut Member, Refused> {
        let member = self.by_name.get_mut(name).ok_or(Refused::Unknown)?;
        match member.poll {
            Some(poll) if poll.token == token => Ok(member),
            _ if token < member.taken_over => Err(Refused::MemberSuperseded),
            _ => Err(Refused::Superseded),
        }
    }

    /// Ends a poll, answered or not: the session timeout begins again. Returns the member's epoch.
    ///
    /// # Errors
    /// As [`Members::check_poll`].
    pub fn end_poll(&mut self, name: &str, token: u64, now: Ms) -> Result<u64, Refused> {
        let member = self.check_poll(name, token)?;
        member.poll = None;
        member.last_contact = now;
        let (epoch, deadline) = (member.epoch, member.deadline());
        self.soonest = self.soonest.min(deadline);
        Ok(epoch)
    }

    /// Ends a member's session at this time, unless it has given its partitions up before: then `None` says so.
    pub fn give_up_by(&mut self, name: &str, by: Option<Ms>) {
        if let Some(member) = self.by_name.get_mut(name) {
            member.give_up_by = by;
            self.soonest = by.map_or(self.soonest, |by| by.min(self.soonest));
        }
    }

    /// The members whose sessions have ended; the caller must make each of them [leave](Members::leave).
    pub fn expired(&mut self, now: Ms) -> Vec<Arc<str>> {
        if now < self.soonest {
            return Vec::new();
        }
        let mut names = Vec::new();
        self.soonest = Ms::MAX;
        let silent = self.by_name.iter().filter(|(_, member)| !member.is_polling());
        for (name, member) in silent {
            if member.deadline() <= now {
                names.push(Arc::clone(name));
            } else {
                self.soonest = self.soonest.min(member.deadline());
            }
        }
        names
    }

    /// No session ends before this time: call [`Members::expired`] then.
    pub fn next_deadline(&self) -> Option<Ms> {
        Some(self.soonest).filter(|soonest| *soonest < Ms::MAX)
    }

    /// Notes that the member's waiting poll must be woken.
    pub fn wake(&mut self, name: &str) {
        if let Some((name, _)) = self.by_name.get_key_value(name) {
            self.woken.push(Arc::clone(name));
        }
    }

    /// The members passed to [`Members::wake`] since the last call.
    pub fn take_woken(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.woken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INSTANCES: [&str; 3] = ["first", "second", "third"];

    #[derive(Clone, Copy, Debug)]
    enum Call {
        Join,
        Poll,
        /// A commit, a settle or a heartbeat.
        Other,
    }

    fn call() -> impl Strategy<Value = Call> {
        prop::sample::select(vec![Call::Join, Call::Poll, Call::Other])
    }

    proptest! {
        #[test]
        fn the_process_that_joined_or_polled_last_has_the_member_and_the_ones_before_it_never_again(
            calls in prop::collection::vec((call(), prop::option::of(0_usize..3)), 1..40),
        ) {
            let mut members = Members::new(7, 0);
            let join = |instance: Option<&str>| Joining {
                member: "m".into(),
                client_id: None,
                address: None,
                session_timeout: 100,
                instance: instance.map(Arc::from),
            };
            members.join(join(None), 0);
            // By the rules as users read them. A call without an instance proves nothing.
            let (mut has_it, mut stopped): (Option<usize>, BTreeSet<usize>) = (None, BTreeSet::new());
            for (call, who) in calls {
                let instance = who.map(|who| INSTANCES[who]);
                let asking = Asking { ack: None, instance, is_ordered: true };
                let epoch = members.get("m").map(|member| member.epoch);
                let answer = match call {
                    Call::Join => members.check_poll_of("m", asking).map(|()| {
                        members.join(join(instance), 0);
                    }),
                    Call::Poll => members.begin_poll("m", asking, 0).map(drop),
                    Call::Other => members.check_instance("m", instance),
                };
                let is_stopped = who.is_some_and(|who| stopped.contains(&who));
                let is_stranger = has_it.is_some() && who.is_some() && who != has_it;
                let expected = match call {
                    _ if is_stopped => Err(Refused::MemberSuperseded),
                    Call::Other if is_stranger => Err(Refused::Fenced),
                    _ => Ok(()),
                };
                prop_assert_eq!(answer, expected, "{:?} of {:?}", call, instance);
                let now = members.get("m").map(|member| member.epoch);
                match call {
                    Call::Join | Call::Poll if expected.is_ok() && who.is_some() => {
                        if let Some(before) = has_it.filter(|_| is_stranger) {
                            stopped.insert(before);
                            prop_assert_ne!(now, epoch, "commits of the older one are fenced");
                        }
                        has_it = who;
                    }
                    // A member that joins without a name has no instance any more.
                    Call::Join if expected.is_ok() => has_it = None,
                    _ => {}
                }
            }
        }
    }
}
