//! The real binary on a real disk: killed at any moment, with calls that fail, on a disk that runs full.
//!
//! A history (see `history`) remembers what every client sent, what it was answered, and what it has read. After each
//! restart, what the server serves is compared with it (see `check`):
//! - a record that was acknowledged or read is there, once, byte for byte, at its offset, and no offset is given twice;
//! - a request in flight is stored whole or not at all, over all its partitions (a stream: a prefix of its units);
//! - committed offsets, log starts and ends never go back; only trims and retention delete records;
//! - created topics exist, deleted ones do not come back.
//!
//! `QUIPU_TEST_SEED` decides what is done, `QUIPU_TEST_ROUNDS` or `QUIPU_TEST_MINUTES` for how long; `scripts/torture`
//! sets them. If strace is missing, or the right to mount a file system, the tests print what they skip.
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
mod kafka;
mod load;
mod records;
mod retry;
mod rounds;
#[path = "../support/mod.rs"]
mod support;
mod topics;
