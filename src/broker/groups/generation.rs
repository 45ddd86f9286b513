//! A group's generation: a random number that changes when the group is made again, and when somebody who is not a member
//! sets the committed offsets of an ordered group.
//!
//! ```text
//! key    'v' group
//! value  version=1 generation:u64 (big-endian)
//! ```
//!
//! It is written in the append that makes the change, and is part of each `poll_id`. So after a restart, too, an `ack` of an
//! answer from before the change is known, and undoes nothing. A queue keeps its generation when its offsets are set: late
//! work counts for every record that is not settled.
//!
//! Groups of earlier versions have none, which counts as 0.

use super::coordinator::Coordinator;
use crate::broker::engine::{Log, StateChange};
use crate::broker::state_keys::GENERATION;

const VERSION: u8 = 1;

/// The key of a group's generation.
pub(super) fn key(group: &str) -> Vec<u8> {
    [&[GENERATION], group.as_bytes()].concat()
}

/// The change that begins a new generation of a group.
pub(super) fn begin(group: &str) -> StateChange {
    let value = [&[VERSION][..], &Coordinator::random().to_be_bytes()].concat();
    StateChange::set(key(group), value)
}

/// A group's generation; 0 if it has none. One that cannot be read is logged, and is no earlier answer's.
pub(super) fn of(log: &Log, group: &str) -> u64 {
    let Some(value) = log.state_get(&key(group)) else {
        return 0;
    };
    match value.split_first_chunk::<9>() {
        Some(([VERSION, number @ ..], [])) => u64::from_be_bytes(*number),
        _ => {
            tracing::error!(group, "the group's generation in the state is not readable");
            Coordinator::random()
        }
    }
}
