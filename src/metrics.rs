//! Every metric, once.
#![allow(missing_docs, reason = "signatures first")]
use std::sync::atomic::AtomicU64;

/// Counters that the hot paths raise; atomics only.
#[derive(Default)]
pub struct Metrics {
    pub produced_records: AtomicU64,
    pub produced_bytes: AtomicU64,
    pub fetched_records: AtomicU64,
    pub fetched_bytes: AtomicU64,
}
impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }
}
