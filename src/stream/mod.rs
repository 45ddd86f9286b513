//! Streams over many partitions: replay and live tail. Pure: no I/O, no clock, no HTTP.
//!
//! - [`cursor`] says how far a stream got, as an opaque string that a client hands back.
//! - [`filter`] chooses records by key and headers.
//! - [`merge`] orders the partitions' next records by timestamp.
//! - [`pace`] says when a record of a replay is due.
//!
//! What reads, waits and writes is in `http::stream`.

pub mod cursor;
pub mod filter;
pub mod merge;
pub mod pace;

/// The most partitions of one stream: each has its place in every cursor, and a wait of its own while the stream is idle.
pub const MAX_PARTITIONS: usize = 256;
