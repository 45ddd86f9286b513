//! The open log, as its callers see it.

use std::path::Path;
use std::sync::Arc;

use crate::append::producers::{self, KnownProducer};
use crate::append::queue::Unqueued;
use crate::append::request::AppendRequest;
use crate::backup;
use crate::backup::manifest::Backup;
use crate::backup::progress::Progress;
use crate::commit::Committer;
use crate::engine::{Counters, Engine};
use crate::error::{At, Error, Result};
use crate::files::description::{TopicSettings, TopicSpec};
use crate::files::layout::Layout;
use crate::files::memo;
use crate::files::state::{RESERVED_PREFIX, StateChange, StateEntry};
use crate::io::clock::{Clock, SystemClock};
use crate::io::disk::{Disk, RealDisk, raise_file_limit};
use crate::io::sync::Mutex;
use crate::io::sync::atomic::Ordering;
use crate::io::sync::thread::{self, JoinHandle};
use crate::options::Options;
use crate::recover;
use crate::recover::identity::identify;
use crate::segment::damage::DamagedRange;
use crate::ticket::{Appended, Ticket};
use crate::topic::Topic;
use crate::topic::catalog::{INTERNAL_PREFIX, KEYS, is_internal};
use crate::types::{PartitionId, TimestampMs, TopicId};

/// An open data directory. Cheap to clone: all clones are the same log.
///
/// [`Log::close`] ends it cleanly. Without that, dropping the last clone ends its threads and frees the directory, and
/// the next opening replays the journal.
#[derive(Clone)]
pub struct Log {
    owner: Arc<Owner>,
}

struct Owner {
    engine: Arc<Engine>,
    committer: Arc<Committer>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    is_closed: Mutex<bool>,
    /// The directory's lock, freed last.
    _lock: Box<dyn Send + Sync>,
}

/// With less free space than this the disk counts as full, before an append or a new topic meets it.
const MIN_FREE_BYTES: u64 = 1 << 20;

/// What is wrong, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why all appends are refused until a restart.
    pub log_failed: Option<String>,
    /// Whether the last append met a full disk, or the disk has less than 1 MiB free.
    pub storage_full: bool,
    /// Partitions whose appends are refused until a restart, each with the reason.
    pub failed_partitions: Vec<(String, String)>,
    /// Damage found when the log was opened, other than in records: in the journal, the checkpoint, descriptions.
    pub damage: Vec<String>,
    /// Records that are known to be damaged now.
    pub damaged_ranges: Vec<DamagedRange>,
}

/// How much of the disk is free, and what this log has of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Free for this process, if the system says so.
    pub free_bytes: Option<u64>,
    /// The size of the file system, if the system says so.
    pub total_bytes: Option<u64>,
    /// The records of all topics, without indexes.
    pub topics_bytes: u64,
    /// The journal's files.
    pub journal_bytes: u64,
    /// The remembered idempotency keys.
    pub keys_bytes: u64,
    /// The records of other internal topics ([`Log::internal_topic`]).
    pub internal_bytes: u64,
    /// The checkpoints, and the snapshots of the state.
    pub state_bytes: u64,
}

impl Log {
    /// Opens a data directory on the operating system's files and clocks; makes it if it is missing or empty.
    ///
    /// Recovers first: when this returns, everything that was acknowledged is readable, and the log takes appends.
    /// The process's limit on open files is raised as far as it goes.
    ///
    /// # Errors
    /// - [`Error::Directory`]: in use by another process, not a data directory, or of a version that this program does
    ///   not know. Nothing was changed.
    /// - [`Error::Invalid`]: the options contradict each other.
    /// - [`Error::StorageFull`], [`Error::Io`]: recovery could not finish. Nothing is lost; try again.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        Self::open_with(
            Arc::new(RealDisk::new()),
            Arc::new(SystemClock::new()),
            dir,
            options,
        )
    }

    /// Opens a data directory on any disk and clock.
    ///
    /// # Errors
    /// As for [`Log::open`].
    pub fn open_with(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        options: Options,
    ) -> Result<Self> {
        options.check()?;
        let layout = Layout::new(dir);
        disk.create_private_dir(dir).at("making", dir)?;
        let lock = disk.lock(&layout.lock()).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                Error::Directory(format!("{} is in use by another process", dir.display()))
            }
            _ => Error::io(format!("locking {}", layout.lock().display()), error),
        })?;
        let (directory_id, mended) = identify(&*disk, &*clock, &layout)?;
        let limit = raise_file_limit();
        let max_open_files = options
            .max_open_files
            .unwrap_or_else(|| usize::try_from(limit / 2).unwrap_or(usize::MAX));
        let engine = recover::open(
            disk,
            clock,
            layout,
            options,
            (directory_id, mended),
            max_open_files.max(1),
        )?;
        let committer = Committer::new(Arc::clone(&engine));
        let mut threads = Vec::new();
        if engine.options.background {
            let committer = Arc::clone(&committer);
            threads.push(spawn("quipu-committer", move || committer.run())?);
            let syncer = Arc::clone(&engine);
            threads.push(spawn("quipu-syncer", move || syncer.run_syncer())?);
        } else {
            // Weak, to avoid a cycle: the engine holds the queue, and the committer holds the engine.
            let committer = Arc::downgrade(&committer);
            engine
                .queue
                .set_driver(Box::new(move || match committer.upgrade() {
                    Some(committer) => committer.run_round(),
                    None => Ok(false),
                }));
        }
        let owner = Owner {
            engine,
            committer,
            threads: Mutex::new(threads),
            is_closed: Mutex::new(false),
            _lock: lock,
        };
        Ok(Self {
            owner: Arc::new(owner),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.owner.engine
    }

    /// Answers all queued requests, syncs everything and writes a checkpoint, so that the next opening replays nothing.
    /// Later appends are refused with [`Error::Closed`]; reads still work. Closing twice is harmless. Blocks.
    ///
    /// # Errors
    /// The error of the last sync; the next opening then replays the journal.
    pub fn close(&self) -> Result<()> {
        self.owner.close(true)
    }

    /// The id of the data directory, which no other has: 16 hexadecimal digits, chosen when the directory was made.
    pub fn directory_id(&self) -> String {
        format!("{:016x}", self.engine().directory_id)
    }

    /// The largest request, in bytes of record batch format: as the options say.
    pub fn max_request_bytes(&self) -> usize {
        self.engine().options.max_request_bytes
    }

    /// The wall clock, as appends and retention see it.
    pub fn now(&self) -> TimestampMs {
        self.engine().clock.now()
    }

    /// The topics, sorted by name. Internal topics, whose names begin with `__`, are left out here and in all lookups.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        let mut topics = self.engine().catalog.list();
        topics.retain(|topic| !is_internal(topic.name()));
        topics
    }

    /// A topic by its name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.engine().catalog.get(name).filter(|_| !is_internal(name))
    }

    /// A topic by its number.
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.engine().catalog.get_by_id(id);
        topic.filter(|topic| !is_internal(topic.name()))
    }

    /// Makes a topic; it is durable when this returns. Blocks for a few syncs, whatever the number of partitions.
    ///
    /// # Errors
    /// - [`Error::TopicExists`], [`Error::Invalid`] (name or settings): nothing was made.
    /// - [`Error::StorageFull`], [`Error::Io`], [`Error::LogFailed`]: it may be there after a restart; try again.
    pub fn create_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        if is_internal(name) {
            return Err(Error::Invalid(format!(
                "names that begin with {INTERNAL_PREFIX} are for topics of the log itself"
            )));
        }
        self.engine().create_topic(name, spec)
    }

    /// Changes a topic's settings and raises its partitions; durable when this returns. Blocks.
    ///
    /// # Errors
    /// - [`Error::NotFound`], [`Error::Invalid`] (partitions would be lowered): nothing was changed.
    /// - [`Error::StorageFull`], [`Error::Io`]: it may have changed; try again.
    pub fn alter_topic(&self, name: &str, spec: TopicSpec) -> Result<Arc<Topic>> {
        check_visible(name)?;
        self.engine().alter_topic(name, spec)
    }

    /// Deletes a topic and its data, with changes of the state in the same journal round. Blocks.
    ///
    /// # Errors
    /// - [`Error::NotFound`]: there is none.
    /// - [`Error::Closed`], [`Error::LogFailed`]: it was not deleted; if `in_flight`, it may be after a restart.
    /// - [`Error::Io`]: it is deleted, its files stay until the next start.
    pub fn delete_topic(&self, name: &str, state: Vec<StateChange>) -> Result<()> {
        check_visible(name)?;
        self.engine().delete_topic(name, state)
    }

    /// An internal topic of the caller's, with one partition: makes it, if it is not there yet. Its name begins with `__`;
    /// [`Log::topics`] and all lookups leave it out, and it cannot be altered or deleted. Blocks for a few syncs the first
    /// time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another name, or that of one of the log's own; those of [`Log::create_topic`].
    pub fn prepare_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<Topic>> {
        if !is_internal(name) || name == KEYS {
            return Err(Error::Invalid(format!(
                "{name} cannot be an internal topic of a caller"
            )));
        }
        match self.internal_topic(name) {
            Some(topic) => Ok(topic),
            None => match self.engine().create_topic(name, TopicSpec::new(1, settings)) {
                Err(Error::TopicExists(_)) => self.internal_topic(name).ok_or(Error::Closed),
                other => other,
            },
        }
    }

    /// An internal topic that [`Log::prepare_topic`] has made.
    pub fn internal_topic(&self, name: &str) -> Option<Arc<Topic>> {
        let topic = self.engine().catalog.get(name);
        topic.filter(|_| is_internal(name) && name != KEYS)
    }

    /// Keeps bytes beside the log, in place of those kept under this name before (`a` to `z` and `-`). They may be lost: the
    /// caller can do without them. Blocks for a sync.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name; what the disk said: the bytes before are still there.
    pub fn write_memo(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let engine = self.engine();
        memo::write(&*engine.disk, &engine.layout, name, bytes)
    }

    /// The bytes that [`Log::write_memo`] kept last; `None` if there are none that can be read. Blocks.
    pub fn read_memo(&self, name: &str) -> Option<Vec<u8>> {
        let engine = self.engine();
        memo::read(&*engine.disk, &engine.layout, name)
    }

    /// Makes the internal topic that stores the keys of [`AppendRequest::once`]. Blocks for a few syncs the first time
    /// in the life of a data directory, and costs nothing after that.
    ///
    /// # Errors
    /// As for [`Log::create_topic`]; try again.
    pub fn prepare_keys(&self) -> Result<()> {
        self.engine().prepare_keys()
    }

    /// The answer to an append with this key, if one was stored before and is durable. Does not ask the committer, so
    /// `None` proves nothing: one may be in flight. [`AppendRequest::once`](crate::AppendRequest::once) decides.
    ///
    /// # Errors
    /// The inner error is [`Error::KeyReused`]: the key was stored with another fingerprint.
    pub fn recall(
        &self,
        topic: Option<TopicId>,
        key: &[u8],
        fingerprint: &[u8; 16],
    ) -> Option<Result<Appended>> {
        self.engine().recall(topic, key, fingerprint)
    }

    /// Queues an append and returns a ticket for its answer. Never blocks.
    ///
    /// Nothing is readable yet: the ticket completes with the offsets once they are durable (or written, if the
    /// request asks for no more). All of the request is stored, or nothing.
    ///
    /// # Errors
    /// At once, with nothing queued: [`Error::Overloaded`] (try again), [`Error::RequestTooLarge`] (split it),
    /// [`Error::Invalid`], [`Error::Closed`], [`Error::LogFailed`]. By the ticket: [`Error::Overloaded`],
    /// [`Error::OffsetMismatch`], [`Error::NotFound`], [`Error::StorageFull`], [`Error::PartitionFailed`],
    /// [`Error::LogFailed`]; with [`AppendRequest::once`] also [`Error::KeyReused`], [`Error::TooManyKeys`] and
    /// [`Error::KeysFailed`], and for batches of a producer [`Error::OutOfOrderSequence`],
    /// [`Error::ProducerForgotten`] and [`Error::ProducerFenced`].
    pub fn append(&self, request: AppendRequest) -> Result<Ticket> {
        self.try_append(request).map_err(|unqueued| unqueued.error)
    }

    /// The same, and gives a request back that was not queued. Who may wait tries again if the error is
    /// [`Error::Overloaded`].
    ///
    /// # Errors
    /// Those of [`Log::append`] that come at once.
    pub fn try_append(&self, request: AppendRequest) -> std::result::Result<Ticket, Box<Unqueued>> {
        if request.once.is_some() && !self.engine().has_keys() {
            let error = Error::Invalid("a request that is appended once needs prepare_keys first".into());
            return Err(Box::new(Unqueued { error, request }));
        }
        self.engine().queue.append(request)
    }

    /// A value of the durable state; changes appear when they are durable.
    pub fn state_get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        if key.first() == Some(&RESERVED_PREFIX) {
            return None;
        }
        self.engine().state.read().get(key)
    }

    /// All entries of the state whose keys begin with `prefix`, sorted by key.
    pub fn state_prefix(&self, prefix: &[u8]) -> Vec<StateEntry> {
        let mut entries = self.engine().state.read().prefix(prefix);
        entries.retain(|(key, _)| key.first() != Some(&RESERVED_PREFIX));
        entries
    }

    /// The idempotent producers that a partition knows, by id: those that have appended a batch within a day.
    pub fn producers(&self, partition: PartitionId) -> Vec<KnownProducer> {
        let engine = self.engine();
        producers::known_in(&engine.state.read(), partition, engine.clock.now())
    }

    /// What is wrong at the moment. Asks the file system for its free space.
    pub fn health(&self) -> Health {
        let engine = self.engine();
        let failed_partitions = engine
            .catalog
            .list()
            .iter()
            .flat_map(|topic| topic.partitions().to_vec())
            .filter_map(|partition| Some((partition.name().to_owned(), partition.failure()?)))
            .collect();
        let free = engine.disk.free_bytes(&engine.layout.topics_dir());
        let is_full = free.is_some_and(|bytes| bytes < MIN_FREE_BYTES);
        Health {
            log_failed: engine.failure().map(|error| error.to_string()),
            storage_full: engine.storage_full.load(Ordering::Relaxed) || is_full,
            failed_partitions,
            damage: engine.damage.lock().clone(),
            damaged_ranges: self.damaged_ranges(),
        }
    }

    /// How the disk is used. Lists two directories, and asks the file system for its space.
    pub fn disk_usage(&self) -> DiskUsage {
        let engine = self.engine();
        let topics = engine.catalog.list();
        let size = |is_counted: fn(&str) -> bool| -> u64 {
            let topics = topics.iter().filter(|topic| is_counted(topic.name()));
            let sizes = topics.map(|topic| topic.partitions().iter().map(|it| it.size_bytes()).sum::<u64>());
            sizes.sum()
        };
        let layout = &engine.layout;
        // What cannot be listed is left out: the log itself finds that out where it matters.
        let files = |dir: &Path, prefixes: &[&str]| -> u64 {
            let files = engine.disk.list(dir).unwrap_or_default().into_iter();
            let files = files.filter(|file| prefixes.iter().any(|prefix| file.name.starts_with(prefix)));
            files.map(|file| file.len).sum()
        };
        DiskUsage {
            free_bytes: engine.disk.free_bytes(&layout.topics_dir()),
            total_bytes: engine.disk.total_bytes(&layout.topics_dir()),
            topics_bytes: size(|name| !is_internal(name)),
            journal_bytes: files(&layout.journal_dir(), &[""]),
            keys_bytes: size(|name| name == KEYS),
            internal_bytes: size(|name| is_internal(name) && name != KEYS),
            state_bytes: files(&layout.root, &["state.", "checkpoint."]),
        }
    }

    /// The bytes that are free for this process, if the system says so.
    pub fn free_bytes(&self) -> Option<u64> {
        let engine = self.engine();
        engine.disk.free_bytes(&engine.layout.topics_dir())
    }

    /// Records that are known to be damaged, by topic and partition. Cheap if none is known.
    pub fn damaged_ranges(&self) -> Vec<DamagedRange> {
        if !self.engine().pool.has_damage.load(Ordering::Acquire) {
            return Vec::new();
        }
        let topics = self.topics();
        let partitions = topics.iter().flat_map(|topic| topic.partitions().to_vec());
        partitions
            .flat_map(|partition| partition.damaged_ranges())
            .collect()
    }

    /// Whether appends are refused until a restart. Cheap.
    pub fn is_failed(&self) -> bool {
        self.engine().failure().is_some()
    }

    /// Counts since it was opened.
    pub fn counters(&self) -> Counters {
        let engine = self.engine();
        let (remembered_keys, remembered_key_bytes) = engine.remembered_keys();
        Counters {
            remembered_keys,
            remembered_key_bytes,
            queued_bytes: engine.queue.queued_bytes(),
            open_segments: engine.pool.open_count() as u64,
            index_rebuilds: engine.pool.index_rebuilds(),
            open_files: engine.open_files.load(Ordering::Relaxed) as u64,
            ..engine.stats.read()
        }
    }

    /// Copies everything that is durable into `dir/name`, while appends go on. Blocks until the copy is whole and durable.
    ///
    /// The copy is a state between two rounds, not before this call. What has not changed since the newest other backup
    /// in `dir`, or lies on the same file system, is linked and not copied. [`restore`](crate::restore) makes a data
    /// directory of it. Call it only once at a time for each `dir`.
    ///
    /// # Errors
    /// - [`Error::Invalid`] (the name: 1 to 100 of `A-Z a-z 0-9 . _ -`, not beginning with a dot),
    ///   [`Error::BackupExists`], [`Error::Directory`] (something else lies there): nothing was done.
    /// - [`Error::StorageFull`], [`Error::PartitionFailed`], [`Error::Cancelled`], [`Error::Io`] and others: there is no
    ///   copy; the log is as before.
    pub fn backup(&self, dir: &Path, name: &str, progress: &Progress) -> Result<Backup> {
        let Owner {
            engine, committer, ..
        } = &*self.owner;
        let capture = || {
            let _changing = engine.catalog.changing.lock();
            committer.between_rounds(|| backup::capture::capture(engine))
        };
        backup::write::write(engine, &capture, dir, name, progress)
    }

    /// What [`Log::backup`] begins with: a backup of that name that is running.
    pub fn begun_backup(&self, name: &str) -> Backup {
        let engine = self.engine();
        Backup::begun(name, engine.directory_id, engine.clock.now())
    }

    /// The backups in `dir`, sorted by name; none if there is no such directory. A backup that was interrupted (by a
    /// crash) counts as failed; so does one that another thread is still writing.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn backups(&self, dir: &Path) -> Result<Vec<Backup>> {
        backup::manifest::list(&*self.engine().disk, dir)
    }

    /// One of the backups in `dir`, as [`Log::backups`] has it.
    ///
    /// # Errors
    /// As for [`Log::backups`]; [`Error::Invalid`] for the name.
    pub fn find_backup(&self, dir: &Path, name: &str) -> Result<Option<Backup>> {
        backup::manifest::check_name(name)?;
        backup::manifest::find(&*self.engine().disk, dir, name)
    }

    /// Removes a backup, whole or not. Other backups lose nothing, although they share files with it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for the name; [`Error::Io`]: it may be gone, or a part of its files.
    pub fn remove_backup(&self, dir: &Path, name: &str) -> Result<()> {
        backup::write::remove(&*self.engine().disk, dir, name)
    }

    /// Runs one round of the committer; `false` if nothing was queued. For logs without threads of their own.
    ///
    /// # Errors
    /// [`Error::LogFailed`] once the journal has failed.
    pub fn run_round(&self) -> Result<bool> {
        self.owner.committer.run_round()
    }

    /// Syncs what is published and writes a checkpoint. For logs without threads of their own.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or [`Error::Io`] if the checkpoint could not be written.
    pub fn sync_segments(&self) -> Result<()> {
        self.engine().sync_segments()
    }

    /// Deletes the segments that retention does not keep now. The log's own thread does so every
    /// [`retention_interval`](Options::retention_interval).
    ///
    /// # Errors
    /// As for [`Partition::trim`](crate::Partition::trim).
    pub fn apply_retention(&self) -> Result<()> {
        self.engine().apply_retention()
    }
}

impl Owner {
    fn close(&self, is_clean: bool) -> Result<()> {
        let mut is_closed = self.is_closed.lock();
        if std::mem::replace(&mut *is_closed, true) {
            return Ok(());
        }
        self.engine.queue.close();
        if self.engine.options.background {
            // The committer ends first, because it may wait for a journal file from the syncer.
            let mut threads = std::mem::take(&mut *self.threads.lock()).into_iter();
            if let Some(committer) = threads.next() {
                committer
                    .join()
                    .map_err(|_| Error::Invalid("the committer has panicked".into()))?;
            }
            self.engine.wake_syncer.end();
            for thread in threads {
                thread
                    .join()
                    .map_err(|_| Error::Invalid("the syncer has panicked".into()))?;
            }
        } else {
            while self.committer.run_round()? {}
        }
        for topic in self.engine.catalog.list() {
            for partition in &*topic.partitions() {
                partition.set_closed();
            }
        }
        if is_clean {
            self.engine.sync_for_close()
        } else {
            Ok(())
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.engine.options.background
            && let Err(error) = self.close(false)
        {
            tracing::warn!(%error, "ending a log that was not closed");
        }
        self.engine.queue.abandon();
    }
}

/// Refuses internal topics: for callers they do not exist.
fn check_visible(name: &str) -> Result<()> {
    if is_internal(name) {
        return Err(Error::NotFound(format!("the topic {name}")));
    }
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| Error::io(format!("starting the thread {name}"), error))
}
