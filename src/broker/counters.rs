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
    /// Reads of a partition for a reader that were answered from memory at once.
    pub memory_reads: AtomicU64,
    /// Reads of a partition for a reader that had to wait for the disk.
    pub disk_reads: AtomicU64,
    /// Streams open now.
    pub streams: AtomicI64,
    /// When the newest complete backup was begun, in milliseconds since the Unix epoch; 0: there is none. Written by
    /// whoever makes backups.
    pub last_backup_ms: AtomicI64,
    /// Backups that failed.
    pub failed_backups: AtomicU64,
    /// Spans that the trace collector took.
    pub sent_spans: AtomicU64,
    /// Spans that were dropped because the trace collector did not keep up.
    pub dropped_spans: AtomicU64,
}
