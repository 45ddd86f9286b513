//! The whole log: topics, appends, state.
#![allow(
    missing_docs,
    unused_variables,
    dead_code,
    clippy::todo,
    reason = "signatures first"
)]
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::{BatchBuilder, SealedBatch};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::Result;
use crate::read::{Fetched, Located, ReadRequest};
use crate::types::{Ack, Offset, PartitionId, Positions, TimestampMs, TopicId};

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of each journal file; must hold the largest request. 64 MiB.
    pub journal_file_bytes: u64,
    /// Journal files kept (2..): 3.
    pub journal_files: u32,
    /// Largest request in record batch format. 33 MiB.
    pub max_request_bytes: usize,
    /// Bytes of queued requests above which appends are refused as overloaded. 64 MiB.
    pub queue_bytes: u64,
    /// Maps open at once. 4096.
    pub max_open_segments: usize,
    /// Files open for writing at once; None: a half of the process's limit.
    pub max_open_files: Option<usize>,
    /// How often retention looks. 10 s...
    pub retention_interval: Duration,
    /// Whether the log runs its own threads (committer, background syncer); otherwise the caller drives `run_round` etc.
    pub background: bool,
}
impl Default for Options {
    fn default() -> Self {
        todo!()
    }
}

/// What the engine needs to know of a topic's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    pub segment_bytes: u64, // 64 MiB
    pub segment_ms: u64,    // 7 days
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
}
impl Default for TopicSettings {
    fn default() -> Self {
        todo!()
    }
}

/// What a topic is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub partitions: u32,
    pub settings: TopicSettings,
    /// Kept with the topic for the caller; means nothing to the engine.
    pub properties: BTreeMap<String, serde_json::Value>,
}

/// Cheap to clone; the last clone's drop does not close (call close).
#[derive(Clone)]
pub struct Log {}

impl Log {
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        todo!()
    }
    pub fn open_with(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        options: Options,
    ) -> Result<Self> {
        todo!()
    }
    /// Answers what is queued, syncs everything, writes indexes and the checkpoint, ends the threads. Later appends: Error::Closed.
    pub fn close(&self) -> Result<()> {
        todo!()
    }

    /// A name that no other data directory has (random, given when it was made), 16 hex digits.
    pub fn directory_id(&self) -> String {
        todo!()
    }
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        todo!()
    } // sorted by name
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        todo!()
    }
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        todo!()
    }
    /// Blocking (some syncs). Durable when it returns. TopicExists.
    pub fn create_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        todo!()
    }
    /// Blocking. `partitions` never lowers (Invalid).
    pub fn alter_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        todo!()
    }
    /// Blocking. The state changes are applied in the same journal round as the deletion.
    pub fn delete_topic(&self, name: &str, state: Vec<StateChange>) -> Result<()> {
        todo!()
    }

    /// Queues; never blocks. Error::Overloaded, Closed, LogFailed, RequestTooLarge at once; the rest comes by the ticket.
    pub fn append(&self, request: AppendRequest) -> Result<Ticket> {
        todo!()
    }

    /// Durable key-value state. Values appear when they are durable.
    pub fn state_get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        todo!()
    }
    pub fn state_prefix(&self, prefix: &[u8]) -> Vec<(Box<[u8]>, Arc<[u8]>)> {
        todo!()
    }

    pub fn health(&self) -> Health {
        todo!()
    }
    pub fn counters(&self) -> Counters {
        todo!()
    }

    // for Options { background: false }
    pub fn run_round(&self) -> Result<bool> {
        todo!()
    }
    pub fn sync_segments(&self) -> Result<()> {
        todo!()
    }
    pub fn apply_retention(&self) -> Result<()> {
        todo!()
    }
}

pub struct Topic {}
impl Topic {
    pub fn name(&self) -> &str {
        todo!()
    }
    pub fn id(&self) -> TopicId {
        todo!()
    }
    pub fn spec(&self) -> Arc<TopicSpec> {
        todo!()
    }
    pub fn partition_count(&self) -> u32 {
        todo!()
    }
    pub fn partition(&self, index: u32) -> Option<Arc<Partition>> {
        todo!()
    }
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        todo!()
    }
}

pub struct Partition {}
impl Partition {
    pub fn id(&self) -> PartitionId {
        todo!()
    }
    pub fn positions(&self) -> Positions {
        todo!()
    }
    /// Never waits for the disk: `None` when something must be loaded first (then call `read` where blocking is fine).
    pub fn try_read(&self, request: ReadRequest) -> Option<Result<Fetched>> {
        todo!()
    }
    /// May block on the disk.
    pub fn read(&self, request: ReadRequest) -> Result<Fetched> {
        todo!()
    }
    /// May block. None: beyond all.
    pub fn offset_for_time(&self, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>> {
        todo!()
    }
    /// May block.
    pub fn locate(&self, offset: Offset) -> Result<Located> {
        todo!()
    }
    /// May block (first and last record are read).
    pub fn stats(&self) -> Result<PartitionStats> {
        todo!()
    }
    /// Resolves when `end_offset > offset`, or the partition is deleted or the log closes. Dropping it forgets it.
    pub fn wait_for(self: &Arc<Self>, offset: Offset) -> WaitForData {
        todo!()
    }
    /// Moves the log start to `before` (at most end_offset: OutOfRange), durably; blocking.  Returns the new log start (never lower than it was).
    pub fn trim(&self, before: Offset) -> Result<Offset> {
        todo!()
    }
    pub fn is_deleted(&self) -> bool {
        todo!()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct PartitionStats {
    pub positions: Positions,
    pub size_bytes: u64,
    pub segments: usize,
    /// timestamp of the first and the last record
    pub first_timestamp: Option<TimestampMs>,
    pub last_timestamp: Option<TimestampMs>,
}

/// Records for one partition.
pub enum Records {
    /// May be combined with those of other requests into one batch.
    Loose(BatchBuilder),
    /// Stay as they are.
    Sealed(Vec<SealedBatch>),
}

pub struct Part {
    pub partition: Arc<Partition>,
    pub records: Records,
    /// Append only if this is the next offset.
    pub expected_offset: Option<Offset>,
    /// Hint: every value is one line of valid JSON (or null = tombstone), so that readers need not look.
    pub json_lines: bool,
}

/// One request: all of it is stored, or none.
#[derive(Default)]
pub struct AppendRequest {
    /// One per partition.
    pub parts: Vec<Part>,
    pub state: Vec<StateChange>,
    pub ack: Ack,
}

/// A change of the state: `None` removes the key.
#[derive(Clone, Debug)]
pub struct StateChange {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// The answer to an append.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The first offset of each part, in order.
    pub base_offsets: Vec<Offset>,
}

/// A queued append. A future; `wait` blocks instead. Dropping it does not take the append back.
pub struct Ticket {}
impl Ticket {
    pub fn wait(self) -> Result<Appended> {
        todo!()
    }
}
impl Future for Ticket {
    type Output = Result<Appended>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}
pub struct WaitForData {}
impl WaitForData {
    pub fn wait_timeout(self, timeout: Duration) -> bool {
        todo!()
    }
}
impl Future for WaitForData {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        todo!()
    }
}

/// What is wrong, for /health/ready and metrics.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Why all appends are refused.
    pub log_failed: Option<String>,
    /// The last append met a full disk.
    pub storage_full: bool,
    /// Partitions whose appends are refused, with the reason: ("orders/3", why).
    pub failed_partitions: Vec<(String, String)>,
    /// Damage found since start or by recovery, for the operator.
    pub damage: Vec<String>,
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub appended_requests: u64,
    pub appended_records: u64,
    pub appended_bytes: u64,
    pub rounds: u64,
    pub journal_syncs: u64,
    pub journal_sync_seconds: f64,
    pub segment_syncs: u64,
    pub queued_bytes: u64,
    pub open_segments: u64,
}
