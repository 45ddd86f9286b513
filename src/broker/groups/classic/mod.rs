//! Classic groups: Kafka's client-side protocol. The members join, one of them (the leader) assigns the partitions, and
//! the server hands each member its part. The server does not know what is assigned: it stores and forwards bytes.
//!
//! - [`rebalance`]: the state machine: who joins, when a rebalance ends, who may commit. No I/O, no clock.
//! - [`roster`]: a member and what it proposes; which protocol the members choose.
//! - [`stored`]: a generation in the engine's state.
//! - [`calls`]: join, sync, heartbeat, leave. [`commits`]: commits and committed offsets.
//! - [`views`]: how a classic group is described.
//!
//! A *generation* is what one rebalance leads to: its number, its members with their instances and assignments, the
//! leader and the protocol. It becomes durable in one append, when the leader has sent the assignments, and before any
//! member gets its own. So after a restart every member is still a member, with what was assigned to it, and its commits
//! count. Members that left since the last generation are there again after a crash, until their sessions end.
//!
//! A group is classic while it has a generation in the state. It can become ordered, and an ordered group classic, while
//! it has no members: both begin a new [generation number](super::generation), so that no `ack` from before counts.

pub mod calls;
pub mod commits;
pub mod rebalance;
pub mod roster;
pub mod stored;
pub mod views;

#[cfg(test)]
mod model;
#[cfg(test)]
mod restarts;

use std::sync::Arc;

use bytes::Bytes;

use super::members::Ms;
use crate::broker::refusal::Refusal;

/// The shortest session timeout that a member may ask for, in milliseconds. Kafka's default.
pub const LEAST_SESSION_TIMEOUT_MS: Ms = 6_000;
/// The longest one, in milliseconds. Kafka's default.
pub const MOST_SESSION_TIMEOUT_MS: Ms = 1_800_000;
/// How long the first rebalance of a group without members waits for further members, in milliseconds, and again for as
/// long as some came. Kafka waits 3 seconds; here a consumer that is alone begins at once, as people expect.
pub const INITIAL_DELAY_MS: Ms = 250;
/// The longest such wait in all, in milliseconds.
pub const MOST_INITIAL_DELAY_MS: Ms = 3_000;

/// The most protocols that a member supports. Clients have up to three.
pub const MAX_PROTOCOLS: usize = 20;
/// The most bytes of everything that a member says of itself when it joins, and of what a leader assigns in all.
pub const MAX_MEMBER_BYTES: usize = 4 << 20;
/// The most bytes of each name that a member gives: its instance, what the members are, a protocol. Kafka's client has at most
/// 249 for an instance, and names of some words for the rest.
pub const MAX_WORD_BYTES: usize = 1000;
/// The most members of a classic or ordered group: a join looks at all of them.
pub const MAX_GROUP_MEMBERS: usize = 5_000;
/// The most bytes that members of all groups say of themselves and are assigned, in memory. Members that are there already find
/// room for hardly more than before, up to twice as much.
pub const MAX_SAID_BYTES: usize = 64 << 20;

/// Why a call of a member is denied, by either of Kafka's protocols.
#[derive(Clone, Debug)]
pub enum Denied {
    /// The group has no such member.
    UnknownMember,
    /// The call names a generation that is not the group's.
    IllegalGeneration,
    /// The group rebalances: the member has to join again.
    Rebalancing,
    /// The group is of another kind, or its members have another protocol type or no protocol in common with this one.
    InconsistentProtocol,
    /// Another process has taken over the instance.
    FencedInstance,
    /// The member joins again with this id, which the server has made for it.
    MemberIdRequired(Arc<str>),
    /// The session timeout is out of range.
    SessionTimeout,
    /// There is no room for another member.
    Full,
    /// It says more than a member may: [`MAX_PROTOCOLS`], [`MAX_WORD_BYTES`], [`MAX_MEMBER_BYTES`].
    TooLarge,
    /// The group's name is none.
    InvalidName,
    /// A consumer's epoch is none that it can have: it gives everything up and joins again.
    FencedEpoch,
    /// A consumer commits with an epoch in which it did not have the partitions.
    StaleEpoch,
    /// The commit is of a version of the call that knows no epochs.
    NeedsEpoch,
    /// The members of the group are of another kind, or there is no such group.
    OtherKind,
    /// Another process is the static member, and has not left.
    InstanceInUse,
    /// There is no assignor of that name.
    UnsupportedAssignor,
    /// The expression for topics is wrong, or too large.
    InvalidRegex(String),
    /// What a consumer says of itself cannot be.
    Invalid(String),
    /// A consumer has no right to a topic that it names.
    Topic(Refusal),
    /// What any call can be refused for: no right, a failing disk, a server that stops.
    Refused(Refusal),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Names a call that waits, within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallNumber(pub u64);

/// The answer to a call that waited.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A join.
    Joined(Joined),
    /// A sync.
    Synced(Synced),
    /// The call is denied.
    Denied(Denied),
}

/// A member that joins.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The member's id, if it has one.
    pub member: Option<Arc<str>>,
    /// The id that it gets if it has none.
    pub fresh: Arc<str>,
    /// The name of a static member, which keeps its place over restarts of its process.
    pub instance: Option<Arc<str>>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// What the members are: `consumer`, `connect`, or anything else on which they agree.
    pub protocol_type: Arc<str>,
    /// The protocols that it supports, best first, each with what it tells the leader.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// How long it may be silent.
    pub session_timeout: Ms,
    /// How long a rebalance waits for it.
    pub rebalance_timeout: Ms,
    /// It must join with an id that the server has given it (KIP-394).
    pub needs_id: bool,
    /// It understands that a leader need not assign (KIP-814).
    pub may_skip: bool,
}

impl Joining {
    /// Refuses a member that says too much of itself.
    ///
    /// # Errors
    /// [`Denied::TooLarge`].
    pub fn check_size(&self) -> Result<(), Denied> {
        let names = self.protocols.iter().map(|(name, _)| name);
        let words = names.chain(&self.instance).chain([&self.protocol_type]);
        let are_words = words.into_iter().all(|word| word.len() <= MAX_WORD_BYTES);
        match are_words && self.protocols.len() <= MAX_PROTOCOLS && self.said_bytes() <= MAX_MEMBER_BYTES {
            true => Ok(()),
            false => Err(Denied::TooLarge),
        }
    }

    /// What it says of itself, in bytes.
    pub(super) fn said_bytes(&self) -> usize {
        self.own_bytes() + self.protocol_type.len()
    }

    /// The same without what all members say.
    fn own_bytes(&self) -> usize {
        let names = [self.instance.as_deref(), self.client_id.as_deref()];
        roster::own_bytes(&self.protocols, names)
    }
}

/// What a join returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The member's id.
    pub member: Arc<str>,
    /// The number of the generation.
    pub generation_id: i32,
    /// What the members are.
    pub protocol_type: Arc<str>,
    /// The protocol that they have chosen.
    pub protocol: Arc<str>,
    /// The member that assigns.
    pub leader: Arc<str>,
    /// For the leader: every member of the generation, with what it tells the leader. Empty for all others.
    pub members: Vec<JoinedMember>,
    /// The leader has no need to assign: the assignments are known.
    pub skips_assignment: bool,
}

/// A member of a generation, as its leader learns of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member: Arc<str>,
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// What it tells the leader under the chosen protocol.
    pub metadata: Bytes,
}

/// How a member identifies itself.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its id.
    pub member: &'a str,
    /// The name of a static member.
    pub instance: Option<&'a str>,
    /// The number of the generation that it belongs to.
    pub generation_id: i32,
}

/// What a member asks for at the end of a rebalance.
#[derive(Clone, Debug)]
pub struct Syncing<'a> {
    /// The member.
    pub who: Identity<'a>,
    /// What it takes the protocol type to be, if it says so.
    pub protocol_type: Option<&'a str>,
    /// What it takes the protocol to be, if it says so.
    pub protocol: Option<&'a str>,
    /// From the leader: what each member is assigned.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// What a sync returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// What the members are.
    pub protocol_type: Arc<str>,
    /// The protocol that they have chosen.
    pub protocol: Arc<str>,
    /// What is assigned to this member, in the leader's words.
    pub assignment: Bytes,
}
