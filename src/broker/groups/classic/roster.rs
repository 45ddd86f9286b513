//! A member of a classic group, and the choice of a protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{CallNumber, Joining, stored};
use crate::broker::groups::members::{MOST_REBALANCE_TIMEOUT_MS, Ms};

/// A member.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// How long it may be silent.
    pub session_timeout: Ms,
    /// How long a rebalance waits for it.
    pub rebalance_timeout: Ms,
    /// The protocols that it supports, best first, with what it tells the leader. After a restart only the chosen one.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// What the leader has assigned to it in the present generation.
    pub assignment: Bytes,
    /// When it last called, or a call of it ended.
    pub last_contact: Ms,
    /// Its join that waits for the end of the rebalance.
    pub(super) joining: Option<CallNumber>,
    /// Its sync that waits for the assignments.
    pub(super) syncing: Option<CallNumber>,
    /// It has asked for its assignment in the present generation.
    pub(super) has_synced: bool,
    /// It belongs to no generation yet.
    pub(super) is_new: bool,
}

impl Member {
    pub(super) fn new(joining: &Joining, now: Ms) -> Self {
        let mut member = Self {
            instance: joining.instance.clone(),
            client_id: None,
            address: None,
            session_timeout: 0,
            rebalance_timeout: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            last_contact: now,
            joining: None,
            syncing: None,
            has_synced: false,
            is_new: true,
        };
        member.update(joining, now);
        member
    }

    /// Takes over everything that a join says of it.
    pub(super) fn update(&mut self, joining: &Joining, now: Ms) {
        self.client_id.clone_from(&joining.client_id);
        self.address.clone_from(&joining.address);
        self.session_timeout = joining.session_timeout;
        self.rebalance_timeout = joining.rebalance_timeout.min(MOST_REBALANCE_TIMEOUT_MS);
        self.protocols.clone_from(&joining.protocols);
        self.last_contact = now;
    }

    /// What it has said of itself and is assigned, in bytes.
    pub(in crate::broker::groups) fn said_bytes(&self) -> usize {
        self.own_bytes() + self.assignment.len()
    }

    /// What it has said of itself, in bytes; compare [`Joining::own_bytes`].
    pub(super) fn own_bytes(&self) -> usize {
        let names = [self.instance.as_deref(), self.client_id.as_deref()];
        own_bytes(&self.protocols, names)
    }

    /// What it takes at most while its generation is stored, in bytes, whichever protocol the members choose.
    pub(super) fn stored_bytes(&self) -> usize {
        let protocols = self.protocols.iter();
        let largest = protocols
            .map(|(name, metadata)| name.len() + metadata.len())
            .max();
        let names = [
            self.instance.as_deref(),
            self.client_id.as_deref(),
            self.address.as_deref(),
        ];
        let names: usize = names.into_iter().flatten().map(str::len).sum();
        stored::OVERHEAD_BYTES + names + largest.unwrap_or(0) + self.assignment.len()
    }

    /// Whether a call of it waits: then it is alive.
    pub fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    /// When its session ends; `None` while a call of it waits.
    pub(super) fn deadline(&self) -> Option<Ms> {
        (!self.is_waiting()).then(|| self.last_contact.saturating_add(self.session_timeout))
    }

    /// What it tells the leader under a protocol.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| **name == *protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| **name == *protocol)
    }
}

/// What a member says of itself, in bytes: its protocols, and its names.
pub(super) fn own_bytes(protocols: &[(Arc<str>, Bytes)], names: [Option<&str>; 2]) -> usize {
    let protocols = protocols.iter();
    let protocols: usize = protocols
        .map(|(name, metadata)| name.len() + metadata.len())
        .sum();
    protocols + names.into_iter().flatten().map(str::len).sum::<usize>()
}

/// The protocols that all members support.
pub(super) fn common<'a>(members: impl Iterator<Item = &'a Member>) -> BTreeSet<Arc<str>> {
    let mut common: Option<BTreeSet<Arc<str>>> = None;
    for member in members {
        common = Some(match common {
            None => member
                .protocols
                .iter()
                .map(|(name, _)| Arc::clone(name))
                .collect(),
            Some(mut before) => {
                before.retain(|name| member.supports(name));
                before
            }
        });
    }
    common.unwrap_or_default()
}

/// The protocol that most members prefer, of those that all support: each has one vote. Of several with as many votes, the one
/// that the leader likes best. `None`: they have none in common.
pub(super) fn vote(members: &BTreeMap<Arc<str>, Member>, leader: &str) -> Option<Arc<str>> {
    let common = common(members.values());
    let preferred = |member: &Member| {
        let mut names = member.protocols.iter().map(|(name, _)| name);
        names.find(|name| common.contains(*name)).cloned()
    };
    let mut votes: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for name in members.values().filter_map(preferred) {
        *votes.entry(name).or_default() += 1;
    }
    let most = votes.values().max().copied()?;
    let of_leader = members.get(leader).map_or(&[][..], |member| &member.protocols);
    let mut ranked = of_leader.iter().map(|(name, _)| name);
    let chosen = ranked.find(|name| votes.get(*name) == Some(&most));
    chosen.cloned().or_else(|| {
        let mut best = votes.into_iter().filter(|(_, count)| *count == most);
        best.next().map(|(name, _)| name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(protocols: &[&str]) -> Member {
        Member::new(&joining(protocols), 0)
    }

    fn joining(protocols: &[&str]) -> Joining {
        Joining {
            member: None,
            fresh: "m".into(),
            instance: None,
            client_id: None,
            address: None,
            protocol_type: "consumer".into(),
            protocols: protocols
                .iter()
                .map(|name| (Arc::from(*name), Bytes::new()))
                .collect(),
            session_timeout: 6_000,
            rebalance_timeout: 6_000,
            needs_id: false,
            may_skip: false,
        }
    }

    #[test]
    fn nobody_may_take_more_than_a_day_for_a_rebalance() {
        let mut member = member(&["range"]);
        let mut joining = joining(&["range"]);
        for (asked, given) in [(300_000, 300_000), (i32::MAX as u64, MOST_REBALANCE_TIMEOUT_MS)] {
            joining.rebalance_timeout = asked;
            member.update(&joining, 0);
            assert_eq!(member.rebalance_timeout, given);
        }
    }

    #[test]
    fn the_protocol_is_one_that_all_support_and_most_prefer() {
        let choose = |lists: &[&[&str]]| {
            let named = lists.iter().enumerate();
            let members = named
                .map(|(i, protocols)| (Arc::from(format!("m{i}")), member(protocols)))
                .collect();
            vote(&members, "m0").map(|name| name.to_string())
        };
        assert_eq!(choose(&[&["range", "sticky"]]).as_deref(), Some("range"));
        // Two members prefer sticky to range; robin is not everybody's.
        let lists: [&[&str]; 3] = [
            &["range", "sticky"],
            &["robin", "sticky", "range"],
            &["sticky", "range"],
        ];
        assert_eq!(choose(&lists).as_deref(), Some("sticky"));
        // A tie: the leader decides.
        assert_eq!(choose(&[&["b", "a"], &["a", "b"]]).as_deref(), Some("b"));
        assert_eq!(choose(&[&["a", "b"], &["b", "a"]]).as_deref(), Some("a"));
        assert_eq!(choose(&[&["a"], &["b"]]), None);
        assert_eq!(choose(&[]), None);
    }
}
