//! Streams over many partitions: replay and live tail. Pure: no I/O, no clock, no HTTP.
//!
//! - [`filter`] chooses records by key and headers.
//! - [`merge`] orders the partitions' next records by timestamp.
//! - [`newest`] says where a stream of the last N begins in each partition.
//! - [`pace`] says when a record of a replay is due.
//!
//! What reads, waits and writes is in `http::stream`.

pub mod filter;
pub mod merge;
pub mod newest;
pub mod pace;
