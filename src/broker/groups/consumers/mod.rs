//! Consumers: members of ordered groups by Kafka's server-side protocol (KIP-848). The server assigns the partitions, as it
//! does to members that poll; both kinds are members of one group, and share its partitions.
//!
//! - [`calls`]: heartbeats, by which a consumer also joins and leaves, and commits.
//! - [`views`]: how a group with consumers is described.
//! - [`regex`]: expressions over names of topics.
//!
//! What a heartbeat leads to is decided in [`ordered`](super::ordered::partitions::consumers). A consumer's sessions, epochs
//! and what it subscribes to are in memory only, as those of members that poll: after a restart of the server it is not
//! known, and joins again.

pub mod calls;
pub mod regex;
pub mod views;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::members::Ms;
use crate::broker::engine::PartitionId;

/// How long a consumer may be silent, in milliseconds. Kafka's default, which clients are not told.
pub const SESSION_TIMEOUT_MS: Ms = 45_000;
/// How often a consumer is to send heartbeats, in milliseconds. Kafka's default.
pub const HEARTBEAT_INTERVAL_MS: Ms = 5_000;
/// The same, while others still have partitions that it is to get.
pub const WAITING_INTERVAL_MS: Ms = 1_000;
/// The most topics that a consumer may name.
pub const MAX_TOPICS: usize = 10_000;

/// Who a consumer is.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its id.
    pub member: &'a str,
    /// The name of a static member, if it says so.
    pub instance: Option<&'a str>,
}

/// What a consumer says of itself; `None`: what it said before.
#[derive(Clone, Debug, Default)]
pub struct Saying {
    /// The topics that it subscribes to by name; they need not exist.
    pub topics: Option<BTreeSet<String>>,
    /// An expression for further topics; empty: none.
    pub regex: Option<String>,
    /// The assignor that it would like.
    pub assignor: Option<String>,
    /// How long it may take to give partitions up.
    pub rebalance_timeout: Option<Ms>,
}

/// A consumer that joins.
#[derive(Clone, Debug)]
pub struct JoiningConsumer {
    /// Its id.
    pub member: Arc<str>,
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// What it subscribes to.
    pub saying: Saying,
}

/// A heartbeat of a consumer.
#[derive(Clone, Debug)]
pub struct Beat<'a> {
    /// The consumer.
    pub who: Who<'a>,
    /// Its epoch.
    pub epoch: i32,
    /// What has changed.
    pub saying: Saying,
    /// The partitions that it has, if it says so.
    pub owned: Option<Vec<PartitionId>>,
    /// It says everything, because an answer may be lost: it gets everything.
    pub is_whole: bool,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// The consumer's epoch.
    pub epoch: i32,
    /// When to send the next heartbeat.
    pub interval: Ms,
    /// The partitions that it is to read, if it has to be told.
    pub assignment: Option<Vec<PartitionId>>,
}
