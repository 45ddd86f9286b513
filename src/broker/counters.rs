//! What the broker counts, since the start of the process.

use std::sync::atomic::{AtomicI64, AtomicU64};

/// Counters that the hot paths raise; atomics only, and no other memory depends on their order.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records appended by producers.
    pub produced_records: AtomicU64,
    /// Keys, values and headers appended by producers, in bytes.
    pub produced_bytes: AtomicU64,
    /// Requests answered with the offsets of an earlier append: by their idempotency key, or as their producer's batch;
    /// units of NDJSON one by one.
    pub replayed_requests: AtomicU64,
    /// Records answered to readers.
    pub fetched_records: AtomicU64,
    /// Stored bytes answered to readers.
    pub fetched_bytes: AtomicU64,
    /// Streams open now.
    pub streams: AtomicI64,
}
