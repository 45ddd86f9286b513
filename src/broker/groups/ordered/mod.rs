//! Ordered groups: each partition is read by one member at a time, in order.
//!
//! - [`assign`]: which member is to have which partition. Pure.
//! - [`partitions`]: how partitions change hands, what was delivered and what is committed. Pure.

pub mod assign;
pub mod partitions;
