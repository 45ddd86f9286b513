//! The formats of wire and stored texts. Pure: no I/O, no clock, no HTTP.

pub mod cloudevents;
pub mod consumer_protocol;
pub mod cursor;
pub mod json;
pub mod partitioner;
pub mod pattern;
pub mod render;
pub mod time;
pub mod token;
pub mod trace_context;
pub mod unique;
pub mod units;
