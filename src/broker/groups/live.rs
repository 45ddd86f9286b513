//! A snapshot of a group's members, for describing the group.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shared::settings::GroupValue;
use crate::broker::engine::{Offset, PartitionId, TimestampMs};

/// How a group's members share the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupType {
    /// Each partition is read by one member at a time, in order.
    #[default]
    Ordered,
    /// Each record is leased to one member at a time, in no order.
    Shared,
    /// Kafka's client-side protocol: the members assign the partitions to each other.
    Classic,
}

impl GroupType {
    /// The name in requests and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Shared => "shared",
            Self::Classic => "classic",
        }
    }
}

/// The state of a group's members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupState {
    /// The group has no members.
    #[default]
    Empty,
    /// Every member has its final assignment.
    Stable,
    /// Partitions wait for their owners to release them.
    Rebalancing,
}

impl GroupState {
    /// The name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Stable => "stable",
            Self::Rebalancing => "rebalancing",
        }
    }
}

/// A group, with or without members, as its description shows it.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The state of its members.
    pub state: GroupState,
    /// How many members there are.
    pub members: usize,
    /// How they share the records.
    pub kind: GroupType,
    /// The group's settings.
    pub value: GroupValue,
}

/// How far a shared group is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The end of the partition less the unsettled records: it moves by one with each settled record.
    pub settled: Offset,
    /// The first unsettled record that does not wait for its time.
    pub first_due: Offset,
    /// When the oldest of the redriven records was redriven that do not wait for their time.
    pub oldest_redrive: Option<TimestampMs>,
    /// Records that are leased.
    pub leased: u64,
    /// Records that wait for their time, as far as the queue has looked.
    pub delayed: u64,
    /// Something is due that nobody holds, or a lease has ended unsettled within the last minute.
    pub has_due: bool,
    /// Unsettled records were deleted within the last minute.
    pub is_losing: bool,
    /// So many records are unsettled that no further ones are looked at.
    pub is_full: bool,
}

/// A group with members.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The state of its members.
    pub state: GroupState,
    /// How they share the records.
    pub kind: GroupType,
    /// How many members there are.
    pub members: usize,
    /// Every partition of the subscribed topics, with the member that reads it, if any.
    pub partitions: BTreeMap<PartitionId, Option<Arc<str>>>,
}
