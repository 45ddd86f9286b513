//! The one harness of the tests: a service in this process ([`service`]) or the real binary in its own ([`process`]), a
//! clock that a test moves by hand ([`clock`]), a disk that hangs ([`disk`]), a client over a bare socket and its
//! answers ([`client`]), a reader of Server-Sent Events ([`events`]), and what says that something is skipped ([`skipped()`]).
//!
//! Every wait is bounded by [`PATIENCE`]: it ends a test that hangs and decides nothing else.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "each test uses a part; tests look at the real files and clock"
)]

pub mod client;
pub mod clock;
pub mod disk;
pub mod events;
pub mod process;
pub mod service;
pub(crate) mod skipped;

use std::time::Duration;

pub use client::{Answer, Connection, Fetched, contains, has, read_partition, says};
pub use clock::NOW;
pub use process::{Server, python_with};
pub use service::{JSON, Sample, Service, expect, invalid, packed, refused, request};
pub(crate) use skipped::skipped;

/// Ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A process's memory that is not file pages, in bytes; `self` is this one.
pub fn anonymous_bytes(process: &str) -> u64 {
    memory(process, "RssAnon:")
}

/// A size that Linux tells of a process, in bytes.
fn memory(process: &str, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(what));
    let kib = line.expect("Linux says it").trim().trim_end_matches(" kB");
    1024 * kib.parse::<u64>().expect("a number of KiB")
}

/// A small generator of random numbers (SplitMix64); the seed is printed by its maker.
pub struct Rng(u64);

impl Rng {
    /// Seeded by `QUIPU_TEST_SEED` or the time; prints the seed.
    pub fn from_environment(test: &str) -> Self {
        let seed = std::env::var("QUIPU_TEST_SEED").ok().map_or_else(
            || {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                now.expect("the clock is past 1970").as_nanos() as u64
            },
            |seed| seed.parse().expect("QUIPU_TEST_SEED is a number"),
        );
        println!("{test}: QUIPU_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One more generator, for a thread of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
