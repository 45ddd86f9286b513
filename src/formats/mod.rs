//! Formats of what goes over a wire or is kept for it. Pure: no I/O, no clock, no HTTP.

pub mod cloudevents;
pub mod cursor;
pub mod json;
pub mod partitioner;
pub mod render;
pub mod time;
pub mod units;
