//! Topics: what there is, how it changes, and which damaged records an operator has given up.

pub mod catalog;
pub mod skips;
