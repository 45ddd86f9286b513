//! Ordered groups: each partition is read by one member at a time, in order.
//!
//! - [`assign`]: which member gets which partition. Pure.
//! - [`partitions`]: how partitions change hands; which records were delivered, which offsets are committed. Pure.
//!   In it [`consumers`](partitions::consumers): members that fetch by themselves.

pub mod assign;
pub mod partitions;
