//! The seams to the operating system: files, clocks, and what threads share.
//!
//! Nothing else in the crate touches the file system, reads a clock or starts a thread, so tests can replace all three.
//! Read `disk` first.

pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod sync;
