//! What is known of a group's members at one moment, for whoever describes a group.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::engine::PartitionId;

/// How a group's members share the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupType {
    /// Each partition is read by one member at a time, in order.
    #[default]
    Ordered,
    /// Each record is leased to one member at a time, in no order.
    Shared,
}

impl GroupType {
    /// Its name in requests and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Shared => "shared",
        }
    }
}

/// What a group's members are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupState {
    /// There are none.
    #[default]
    Empty,
    /// Each has what it is to have.
    Stable,
    /// Partitions wait for their owners to give them up.
    Rebalancing,
}

impl GroupState {
    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Stable => "stable",
            Self::Rebalancing => "rebalancing",
        }
    }
}

/// A group with members.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// What its members are doing.
    pub state: GroupState,
    /// How they share the records.
    pub kind: GroupType,
    /// How many members there are.
    pub members: usize,
    /// Every partition of the topics that they subscribe to, with the member that reads it, if one does.
    pub partitions: BTreeMap<PartitionId, Option<Arc<str>>>,
}
