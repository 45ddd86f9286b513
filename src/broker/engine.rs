//! The log that the service runs on: everything that the broker, and the wires through it, use of an engine.
//!
//! A second engine has to offer what is here: the operations of [`Log`], and the methods of topics and partitions in
//! `TOPIC` and `PARTITION` (`tests/layers.rs` compares the sources with these). They are the engine's own methods, so
//! that the hot path calls them directly: an append is queued without waiting, and `try_read` answers from memory.

use std::path::Path;
use std::sync::Arc;

#[cfg(test)]
pub use quipu_segments::sim;
pub use quipu_segments::{
    Ack, AppendRequest, Appended, Backup, BackupState, Clock, Counters, DamagedRange, Disk, DiskUsage, Error,
    Fetched, Health, JOURNAL_SYNC_BOUNDS_US, KnownProducer, Located, Monotonic, Offset, Once, Options, Part,
    Partition, PartitionId, PartitionStats, Positions, Progress, ReadRequest, RealDisk, Receipt, Records,
    Run, StateChange, StateEntry, SystemClock, Ticket, TimestampMs, Topic, TopicId, TopicSettings, TopicSpec,
    Unqueued, WaitForData, batch, raise_file_limit,
};

/// The methods of a [`Topic`] that the service calls: its name, its identity, its settings and its partitions.
pub const TOPIC: &[&str] = &[
    "name",
    "id",
    "spec",
    "partition_count",
    "partition",
    "partitions",
    "is_deleted",
];

/// The methods of a [`Partition`] that the service calls: its identity and its ends; reading from memory (`try_read`)
/// or from the disk (`read`), and waiting for records; finding an offset by time, and the bytes behind an offset
/// (`locate`, `relocate`); damage, sizes, and deletion (`trim`, with changes of the state `trim_with`, and what retention would delete); how many bytes were appended and read.
pub const PARTITION: &[&str] = &[
    "id",
    "name",
    "positions",
    "try_read",
    "read",
    "wait_for",
    "locate",
    "relocate",
    "offset_for_time",
    "offset_for_time_from",
    "damaged_ranges",
    "stats",
    "size_bytes",
    "trim",
    "trim_with",
    "would_start",
    "traffic",
    "count_read",
    "is_deleted",
];

/// An open log. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Log(quipu_segments::Log);

impl From<quipu_segments::Log> for Log {
    fn from(log: quipu_segments::Log) -> Self {
        Self(log)
    }
}

type Result<T> = std::result::Result<T, Error>;

/// Each does what the method of the same name of [`quipu_segments::Log`] does, with its errors.
#[allow(clippy::missing_errors_doc, reason = "the engine documents them")]
impl Log {
    /// Opens a data directory, and recovers it. Blocks.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        options: Options,
    ) -> Result<Self> {
        quipu_segments::Log::open_with(disk, clock, dir, options).map(Self)
    }

    /// Ends it: what is queued is answered, and everything is synced. Blocks.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }

    /// The time of the wall clock that the engine uses.
    pub fn now(&self) -> TimestampMs {
        self.0.now()
    }

    /// Copies everything that is durable into `dir/name`. Blocks for as long as that takes.
    pub fn backup(&self, dir: &Path, name: &str, progress: &Progress) -> Result<Backup> {
        self.0.backup(dir, name, progress)
    }

    /// What a backup of that name begins with.
    pub fn begun_backup(&self, name: &str) -> Backup {
        self.0.begun_backup(name)
    }

    /// The backups in a directory. Blocks.
    pub fn backups(&self, dir: &Path) -> Result<Vec<Backup>> {
        self.0.backups(dir)
    }

    /// One of them. Blocks.
    pub fn find_backup(&self, dir: &Path, name: &str) -> Result<Option<Backup>> {
        self.0.find_backup(dir, name)
    }

    /// Removes a backup. Blocks.
    pub fn remove_backup(&self, dir: &Path, name: &str) -> Result<()> {
        self.0.remove_backup(dir, name)
    }

    /// The largest append, in bytes of record batch format.
    pub fn max_request_bytes(&self) -> usize {
        self.0.max_request_bytes()
    }

    /// The identity of the data directory.
    pub fn directory_id(&self) -> String {
        self.0.directory_id()
    }

    /// The same as a number.
    pub fn directory_number(&self) -> u64 {
        u64::from_str_radix(&self.directory_id(), 16).expect("the engine gives 16 hexadecimal digits")
    }

    /// All topics, sorted by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.0.topics()
    }

    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.0.topic(name)
    }

    /// The topic with that id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.0.topic_by_id(id)
    }

    /// Makes a topic. Blocks until it is durable.
    pub fn create_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        self.0.create_topic(name, spec)
    }

    /// Changes a topic's settings, and raises its partitions. Blocks until that is durable.
    pub fn alter_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        self.0.alter_topic(name, spec)
    }

    /// Deletes a topic with its data, and changes the state in the same round. Blocks until that is durable.
    pub fn delete_topic(&self, name: &str, state: Vec<StateChange>) -> Result<()> {
        self.0.delete_topic(name, state)
    }

    /// An internal topic with one partition, made if it is not there. Blocks.
    pub fn prepare_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<Topic>> {
        self.0.prepare_topic(name, settings)
    }

    /// An internal topic that was made.
    pub fn internal_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.0.internal_topic(name)
    }

    /// Keeps bytes beside the log that the service can do without. Blocks.
    pub fn write_memo(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.0.write_memo(name, bytes)
    }

    /// What was kept last under this name. Blocks.
    pub fn read_memo(&self, name: &str) -> Option<Vec<u8>> {
        self.0.read_memo(name)
    }

    /// Creates the partition that stores idempotency keys, once in the life of a data directory. Blocks that time.
    pub fn prepare_keys(&self) -> Result<()> {
        self.0.prepare_keys()
    }

    /// The result of an earlier append with this key, if that is known without waiting.
    pub fn recall(
        &self,
        topic: Option<TopicId>,
        key: &[u8],
        fingerprint: &[u8; 16],
    ) -> Option<Result<Appended>> {
        self.0.recall(topic, key, fingerprint)
    }

    /// Queues records and changes of the state, all or nothing of them, and returns a ticket for the answer. Never blocks.
    pub fn append(&self, request: AppendRequest) -> Result<Ticket> {
        self.0.append(request)
    }

    /// The same, and gives a request back that was not queued.
    pub fn try_append(&self, request: AppendRequest) -> std::result::Result<Ticket, Box<Unqueued>> {
        self.0.try_append(request)
    }

    /// A value of the durable state.
    pub fn state_get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.0.state_get(key)
    }

    /// The entries of the durable state whose keys begin with `prefix`, sorted.
    pub fn state_prefix(&self, prefix: &[u8]) -> Vec<StateEntry> {
        self.0.state_prefix(prefix)
    }

    /// The idempotent producers that a partition knows, by id.
    pub fn producers(&self, partition: PartitionId) -> Vec<KnownProducer> {
        self.0.producers(partition)
    }

    /// The faults at the moment.
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// Whether appends are refused until a restart. Cheap.
    pub fn is_failed(&self) -> bool {
        self.0.is_failed()
    }

    /// How the disk is used. Blocks.
    pub fn disk_usage(&self) -> DiskUsage {
        self.0.disk_usage()
    }

    /// The bytes that are free on the disk, if the system says so.
    pub fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }

    /// The engine's counters.
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }
}

/// The rounds of a log without threads of its own, for tests.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[allow(clippy::missing_errors_doc, reason = "the engine documents them")]
impl Log {
    /// Runs a round, if anything is queued; says whether it did.
    pub fn run_round(&self) -> Result<bool> {
        self.0.run_round()
    }

    /// Syncs every segment that has been written to.
    pub fn sync_segments(&self) -> Result<()> {
        self.0.sync_segments()
    }
}
