//! The journal: one file at a time takes every partition's appends, so that one sync makes them all durable.
//!
//! `format` holds the bytes, `writer` the files in turn, `replay` what is read back at recovery.

pub(crate) mod format;
pub(crate) mod replay;
pub(crate) mod writer;
