//! The real binary on a real disk: killed at any moment, with calls that fail, on a disk that runs full.
//!
//! A history (see `history`) remembers what every client sent, was told and has seen. After each restart what the server
//! serves is held against it (see `check`):
//! - what was acknowledged or read is there, once, byte for byte, at its offset, and no offset is given twice;
//! - what was in flight is there whole or not at all, over all its partitions (a stream: a prefix of its units);
//! - committed offsets, log starts and ends never go back; nothing is deleted that nobody wanted deleted;
//! - topics that were made exist, those that were deleted stay away.
//!
//! `QUIPU_TEST_SEED` decides what is done, `QUIPU_TEST_ROUNDS` or `QUIPU_TEST_MINUTES` for how long; `scripts/torture`
//! sets them. Where strace or the rights for a file system of one's own are missing, it is said what was skipped.
#![allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test of the real binary lives in the real world"
)]

mod check;
mod faults;
mod fetch;
mod full;
mod ground;
mod history;
mod load;
mod records;
mod retry;
mod rounds;
#[path = "../support/mod.rs"]
mod support;
mod topics;
