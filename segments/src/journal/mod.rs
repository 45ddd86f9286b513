//! The journal: one file at a time takes every partition's appends, so that one sync makes them all durable.
//!
//! `format` has the bytes, `writer` writes the files in turn, `replay` reads them back at recovery.

pub(crate) mod format;
pub(crate) mod replay;
pub(crate) mod writer;
