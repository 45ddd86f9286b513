//! Ordered groups: each partition is read by one member at a time, in order.
//!
//! - [`assign`]: which member gets which partition. Pure.
//! - [`partitions`]: how partitions change hands; which records were delivered, which offsets are committed. Pure.

pub mod assign;
pub mod partitions;
