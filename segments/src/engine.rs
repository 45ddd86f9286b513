//! The parts of an open log, shared by its callers, the committer and the syncer.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::append::keys::Keys;
use crate::append::queue::Queue;
use crate::error::Error;
use crate::files::layout::Layout;
use crate::files::slots::Slots;
use crate::files::state::State;
use crate::io::clock::Clock;
use crate::io::disk::Disk;
use crate::io::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::io::sync::{Condvar, Mutex, RwLock};
use crate::journal::writer::Journal;
use crate::options::Options;
use crate::segment::{Segment, SegmentPool};
use crate::topic::catalog::Catalog;
use crate::topic::partition::{Partition, Writer};

/// An open log.
pub(crate) struct Engine {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) layout: Layout,
    pub(crate) options: Options,
    pub(crate) directory_id: u64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) journal: Journal,
    /// The most bytes that the requests of one round take in the journal. A larger request has a round of its own.
    pub(crate) round_bytes: u64,
    pub(crate) catalog: Catalog,
    /// Written by the committer when a round is published.
    pub(crate) state: RwLock<State>,
    /// The remembered idempotency keys. The committer locks them while it plans a round with keys, and again when the
    /// round is durable; lookups and retention lock them briefly.
    pub(crate) keys: Mutex<Keys>,
    /// The partition that stores the keys; `None` until [`Engine::prepare_keys`] makes it or recovery finds it.
    pub(crate) key_log: RwLock<Option<Arc<Partition>>>,
    pub(crate) pool: Arc<SegmentPool>,
    /// Partitions with something to sync. Filled by the committer, emptied by the syncer.
    pub(crate) dirty: Mutex<Vec<Arc<Partition>>>,
    /// Segments below a log start, whose files are to be removed. Filled by the committer, emptied by the syncer.
    pub(crate) garbage: Mutex<Vec<(Arc<Partition>, Arc<Segment>)>>,
    /// Held by the syncer while it checks that a topic is not deleted and then makes or removes its files by name. A
    /// deletion takes it before it moves the topic's directory away, so that no such work is left under that name.
    pub(crate) removing: Mutex<()>,
    /// The slots of the snapshots. Its lock makes syncs run one after the other.
    pub(crate) snapshots: Mutex<Snapshots>,
    /// Files open for writing now.
    pub(crate) open_files: Arc<AtomicUsize>,
    pub(crate) max_open_files: usize,
    pub(crate) stats: Stats,
    /// Set once, when the journal has failed.
    failed: Mutex<Option<Error>>,
    is_failed: AtomicBool,
    /// Whether the last append failed because the disk was full. Set and cleared by the committer.
    pub(crate) storage_full: AtomicBool,
    /// What recovery found, for the operator.
    pub(crate) damage: Mutex<Vec<String>>,
    pub(crate) wake_syncer: Wakeup,
}

/// The files that the syncer writes: the checkpoint and the state's snapshot.
pub(crate) struct Snapshots {
    pub(crate) checkpoint: Slots,
    pub(crate) state: Slots,
    /// The first generation of the state's snapshot with the newest contents, which are written under two generations.
    pub(crate) state_generation: u64,
    /// The newest checkpoint covers all rounds below this one, for every healthy partition.
    pub(crate) round: u64,
    /// Directories whose sync has failed: until a restart, nobody knows which of their names are on stable storage.
    pub(crate) failed_dirs: BTreeSet<PathBuf>,
}

/// Lets a thread sleep until it is asked to work or a time has passed.
#[derive(Default)]
pub(crate) struct Wakeup {
    request: Mutex<Request>,
    changed: Condvar,
}

#[derive(Default)]
struct Request {
    asked: bool,
    ended: bool,
}

impl Wakeup {
    pub(crate) fn ask(&self) {
        self.request.lock().asked = true;
        self.changed.notify_one();
    }

    pub(crate) fn end(&self) {
        self.request.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits; returns `None` if the thread must end, else whether it was asked.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<bool> {
        let mut request = self.request.lock();
        if !request.asked && !request.ended {
            self.changed.wait_for(&mut request, timeout);
        }
        if request.ended {
            None
        } else {
            Some(std::mem::take(&mut request.asked))
        }
    }
}

impl Engine {
    #[allow(clippy::too_many_arguments, reason = "called once, by the opening of a log")]
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        layout: Layout,
        options: Options,
        directory_id: u64,
        queue: Arc<Queue>,
        journal: Journal,
        catalog: Catalog,
        state: State,
        pool: Arc<SegmentPool>,
        snapshots: Snapshots,
        damage: Vec<String>,
        max_open_files: usize,
    ) -> Self {
        // At most a quarter of a file: a round that does not fit the rest of a file leaves that rest unused.
        let round_bytes = (Journal::capacity(options.journal_file_bytes) / 4).min(8 << 20);
        let keys = Mutex::new(Keys::of(&options));
        Self {
            disk,
            clock,
            layout,
            options,
            directory_id,
            queue,
            journal,
            round_bytes,
            catalog,
            state: RwLock::new(state),
            keys,
            key_log: RwLock::new(None),
            pool,
            dirty: Mutex::new(Vec::new()),
            garbage: Mutex::new(Vec::new()),
            removing: Mutex::new(()),
            snapshots: Mutex::new(snapshots),
            open_files: Arc::new(AtomicUsize::new(0)),
            max_open_files,
            stats: Stats::default(),
            failed: Mutex::new(None),
            is_failed: AtomicBool::new(false),
            storage_full: AtomicBool::new(false),
            damage: Mutex::new(damage),
            wake_syncer: Wakeup::default(),
        }
    }

    /// Why all appends are refused.
    pub(crate) fn failure(&self) -> Option<Error> {
        if !self.is_failed.load(Ordering::Acquire) {
            return None;
        }
        self.failed.lock().clone()
    }

    /// Refuses all appends from now on. They are not stored; requests in flight may have been.
    pub(crate) fn fail(&self, error: &Error) {
        tracing::error!(%error, "the log takes no more appends until a restart");
        let reason = match error {
            Error::LogFailed { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        let refusal = Error::LogFailed {
            reason,
            in_flight: false,
        };
        self.queue.refuse(refusal.clone());
        self.failed.lock().get_or_insert(refusal);
        self.is_failed.store(true, Ordering::Release);
    }

    /// Puts a partition on the syncer's list. Called when a round is published, not when it is written: a sync in
    /// between would take it off the list and sync only what was published before; the rest would never be synced.
    pub(crate) fn mark_dirty(&self, partition: &Arc<Partition>, writer: &mut Writer) {
        if !writer.dirty {
            writer.dirty = true;
            self.dirty.lock().push(Arc::clone(partition));
        }
    }

    /// Wakes the syncer.
    pub(crate) fn request_sync(&self) {
        self.wake_syncer.ask();
    }
}

/// Counts since the log was opened. Plain atomics, not those of [`crate::io::sync`]: nothing depends on their order.
#[derive(Default)]
pub(crate) struct Stats {
    requests: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    rounds: AtomicU64,
    journal_syncs: AtomicU64,
    journal_sync_nanos: AtomicU64,
    journal_sync_buckets: [AtomicU64; JOURNAL_SYNC_BOUNDS_US.len() + 1],
    segment_syncs: AtomicU64,
    checkpoints: AtomicU64,
}

/// The upper bounds of [`Counters::journal_sync_buckets`], in microseconds.
pub const JOURNAL_SYNC_BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Counts since the log was opened, and some current values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Requests that were answered by a round, refused ones too.
    pub appended_requests: u64,
    /// Records appended.
    pub appended_records: u64,
    /// Bytes of record batches appended.
    pub appended_bytes: u64,
    /// Rounds of the committer.
    pub rounds: u64,
    /// Syncs of the journal.
    pub journal_syncs: u64,
    /// The total time of these syncs.
    pub journal_sync_time: Duration,
    /// How many syncs took at most that long, by [`JOURNAL_SYNC_BOUNDS_US`], each above the bound before; the last: longer.
    pub journal_sync_buckets: [u64; JOURNAL_SYNC_BOUNDS_US.len() + 1],
    /// Syncs of segment files.
    pub segment_syncs: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Bytes of the requests that wait for the committer now, with a fixed overhead for each request.
    pub queued_bytes: u64,
    /// Segments mapped now.
    pub open_segments: u64,
    /// Indexes that were made again because they were missing, damaged or of another log.
    pub index_rebuilds: u64,
    /// Segment files open for writing now.
    pub open_files: u64,
    /// Idempotency keys that are remembered now.
    pub remembered_keys: u64,
    /// Bytes of memory that these keys take.
    pub remembered_key_bytes: u64,
}

impl Stats {
    pub(crate) fn round(&self, requests: u64, records: u64, bytes: u64) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn journal_synced(&self, took: Duration) {
        self.journal_syncs.fetch_add(1, Ordering::Relaxed);
        self.journal_sync_nanos
            .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        let us = took.as_micros();
        let bucket = JOURNAL_SYNC_BOUNDS_US
            .iter()
            .position(|bound| us <= u128::from(*bound));
        let bucket = bucket.unwrap_or(JOURNAL_SYNC_BOUNDS_US.len());
        self.journal_sync_buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn segment_synced(&self) {
        self.segment_syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn checkpoint_written(&self) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            appended_requests: get(&self.requests),
            appended_records: get(&self.records),
            appended_bytes: get(&self.bytes),
            rounds: get(&self.rounds),
            journal_syncs: get(&self.journal_syncs),
            journal_sync_time: Duration::from_nanos(get(&self.journal_sync_nanos)),
            journal_sync_buckets: self.journal_sync_buckets.each_ref().map(get),
            segment_syncs: get(&self.segment_syncs),
            checkpoints: get(&self.checkpoints),
            ..Counters::default()
        }
    }
}
