//! A partition: its segments in order, its positions, and the state of its writer.
//!
//! Invariants:
//! - `log_start_offset <= end_offset <= written_offset`, asserted wherever one moves.
//! - What readers see (`view`) changes only after the journal's sync has returned, by the committer.
//! - The writer's state is set by recovery before the log is served, and then changed by the committer; the syncer
//!   takes out what it has synced, and notes a failed sync.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::{Error, Result};
use crate::files::checkpoint::Entry;
use crate::files::description::TopicSettings;
use crate::files::state::StateChange;
use crate::io::disk::DiskFile;
use crate::io::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::io::sync::{Mutex, RwLock};
use crate::segment::damage::{self, DamagedRange, Known, Notes};
use crate::segment::read::{self, Fetched, Located, ReadRequest, View};
use crate::segment::{Access, Segment, SegmentPool, log_damage};
use crate::ticket::{Ticket, Waiters, block_on};
use crate::types::{FilePos, Offset, PartitionId, Positions, TimestampMs};

/// A partition that exists, or existed when it was looked up.
pub struct Partition {
    id: PartitionId,
    /// As operators know it: `orders/3`.
    name: String,
    dir: PathBuf,
    pub(crate) pool: Arc<SegmentPool>,
    settings: RwLock<Arc<TopicSettings>>,
    /// What readers see. They hold its lock only to clone it.
    view: Mutex<View>,
    /// Stored by the committer after the journal's write, before its sync.
    written_offset: AtomicU64,
    deleted: AtomicBool,
    closed: AtomicBool,
    waiters: Waiters,
    /// Stored bytes that were published since the log was opened. Raised by the committer.
    appended_bytes: AtomicU64,
    /// Stored bytes that were given to readers since then. Raised by those who read for them.
    read_bytes: AtomicU64,
    /// Damage that reads have met and that belongs to no segment's file.
    damage: Notes,
    pub(crate) writer: Mutex<Writer>,
    /// The committer's: which round has planned something for this partition, and where (see [`Partition::slot`]).
    plan: AtomicU64,
    trims: Arc<dyn TrimQueue>,
}

/// Queues a move of a partition's log start. The queue implements it: with the trait, partitions need not know the
/// queue, whose requests hold partitions.
pub(crate) trait TrimQueue: Send + Sync {
    /// Queues a move of the log start up to `before`, with changes of the state; the ticket is answered when both are
    /// durable.
    ///
    /// # Errors
    /// Those of the queue: nothing is queued then.
    fn trim(&self, partition: Arc<Partition>, before: Offset, state: Vec<StateChange>) -> Result<Ticket>;
}

/// The write side of a partition.
pub(crate) struct Writer {
    /// The offset that the next record gets.
    pub(crate) next_offset: Offset,
    /// The segment that is appended to; `None` before the first append and after everything was trimmed.
    pub(crate) active: Option<Active>,
    /// Files with bytes that may not be on stable storage yet.
    pub(crate) unsynced: Vec<Unsynced>,
    /// Segments that were closed since the last sync: their indexes are to be written.
    pub(crate) closed_segments: Vec<Arc<Segment>>,
    /// Whether names in the partition's directory (and its own name) are to be synced.
    pub(crate) new_names: bool,
    /// Whether it is in the syncer's list.
    pub(crate) dirty: bool,
    /// Why appends are refused, once a write or a sync has failed.
    pub(crate) failed: Option<String>,
    /// Whether something that is published cannot be made durable in the segments any more: the journal keeps it.
    pub(crate) is_unsyncable: bool,
    /// How far the active segment's file may have been written: beyond its last batch, if a failed round was longer
    /// than what overwrote it since. The largest number if nobody knows: for a file from before this process.
    pub(crate) written_to: FilePos,
    /// What a checkpoint may say as soon as the files are synced. Set when a round is published.
    pub(crate) published: Entry,
    /// What the newest checkpoint says.
    pub(crate) synced: Entry,
}

impl Writer {
    /// Whether it is the segment to which accepted rounds were appended, not one that a round has just made.
    pub(crate) fn is_active(&self, segment: &Arc<Segment>) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| Arc::ptr_eq(&active.segment, segment))
    }
}

/// The segment that is appended to.
#[derive(Clone)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    /// Where the next batch goes.
    pub(crate) position: FilePos,
    /// When it was made.
    pub(crate) made: TimestampMs,
    /// The length of its map: it never grows beyond.
    pub(crate) capacity: u64,
    /// Open while it is written; closed by the syncer when files run short.
    pub(crate) file: Option<Arc<WriteFile>>,
}

/// A file that was written since it was last synced.
pub(crate) struct Unsynced {
    pub(crate) base: Offset,
    pub(crate) file: Arc<WriteFile>,
    /// Raised with each write, so that the syncer knows whether its sync covers all of them.
    pub(crate) writes: u64,
}

/// A file open for writing, counted.
pub(crate) struct WriteFile {
    pub(crate) file: Arc<dyn DiskFile>,
    count: Arc<AtomicUsize>,
}

impl WriteFile {
    pub(crate) fn new(file: Arc<dyn DiskFile>, count: &Arc<AtomicUsize>) -> Arc<Self> {
        count.fetch_add(1, Ordering::Relaxed);
        let count = Arc::clone(count);
        Arc::new(Self { file, count })
    }
}

impl Drop for WriteFile {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a partition holds at one moment.
#[derive(Clone, Copy, Debug)]
pub struct PartitionStats {
    /// Its positions.
    pub positions: Positions,
    /// Bytes of its log files, indexes not counted.
    pub size_bytes: u64,
    /// Its segments.
    pub segments: usize,
    /// The timestamp of the first record that is kept.
    pub first_timestamp: Option<TimestampMs>,
    /// The timestamp of the last record.
    pub last_timestamp: Option<TimestampMs>,
}

/// Everything that a partition begins with, new or recovered.
pub(crate) struct Beginning {
    pub(crate) id: PartitionId,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) settings: Arc<TopicSettings>,
    pub(crate) log_start_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) active: Option<Active>,
}

impl Partition {
    pub(crate) fn new(beginning: Beginning, pool: Arc<SegmentPool>, trims: Arc<dyn TrimQueue>) -> Arc<Self> {
        let Beginning {
            id,
            name,
            dir,
            settings,
            log_start_offset,
            next_offset,
            segments,
            active,
        } = beginning;
        let is_ordered = log_start_offset <= next_offset;
        assert!(
            is_ordered,
            "{name}: log start {log_start_offset}, end {next_offset}"
        );
        let entry = Entry {
            id,
            log_start_offset,
            active: active
                .as_ref()
                .map(|active| (active.segment.base_offset(), active.position, active.made)),
            next_offset,
            round: 0,
        };
        // An earlier process may have cut the file and been killed before it synced that: then a power cut brings the
        // bytes back. That must not happen once the segment is closed.
        let written_to = active.as_ref().map_or(FilePos::ZERO, |_| FilePos(u64::MAX));
        let writer = Writer {
            next_offset,
            active,
            unsynced: Vec::new(),
            closed_segments: Vec::new(),
            new_names: false,
            dirty: false,
            failed: None,
            is_unsyncable: false,
            written_to,
            published: entry,
            synced: entry,
        };
        Arc::new(Self {
            id,
            name,
            dir,
            pool,
            settings: RwLock::new(settings),
            view: Mutex::new(View {
                log_start_offset,
                end_offset: next_offset,
                segments: Arc::new(segments),
            }),
            written_offset: AtomicU64::new(next_offset.get()),
            deleted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waiters: Waiters::default(),
            appended_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            damage: Notes::default(),
            writer: Mutex::new(writer),
            plan: AtomicU64::new(0),
            trims,
        })
    }

    /// Its topic and its index.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Its name as operators know it: the topic's name, a slash, the index.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn settings(&self) -> Arc<TopicSettings> {
        Arc::clone(&self.settings.read())
    }

    pub(crate) fn set_settings(&self, settings: Arc<TopicSettings>) {
        *self.settings.write() = settings;
    }

    pub(crate) fn view(&self) -> View {
        self.view.lock().clone()
    }

    /// The three named positions, as of one moment.
    pub fn positions(&self) -> Positions {
        let (log_start_offset, end_offset) = {
            let view = self.view.lock();
            (view.log_start_offset, view.end_offset)
        };
        // Read after `end_offset`, which never passes it.
        let written_offset = Offset::new(self.written_offset.load(Ordering::Acquire)).max(end_offset);
        Positions {
            log_start_offset,
            end_offset,
            written_offset,
        }
    }

    fn readable_view(&self) -> Result<View> {
        if self.is_deleted() {
            return Err(self.not_found());
        }
        Ok(self.view())
    }

    fn not_found(&self) -> Error {
        Error::NotFound(format!("partition {}", self.name))
    }

    /// The result of a read, unless the partition was deleted meanwhile: then its closed segments and moved files may
    /// look like damage or a trim, and are neither.
    fn unless_deleted<T>(&self, result: Result<T>) -> Result<T> {
        if self.is_deleted() {
            return Err(self.not_found());
        }
        result
    }

    /// Closes all segments for good. Called when the partition is deleted, before its files are moved away: a new
    /// topic's files may get the same names, and readers of this partition must not open those.
    pub(crate) fn close_segments(&self) {
        for segment in &*self.view().segments {
            segment.close();
        }
    }

    /// Reads what is mapped and verified already; `None` when something must be loaded first: then call
    /// [`Partition::read`] where blocking is fine. Cost: no copy, no system call.
    ///
    /// # Errors
    /// As for [`Partition::read`].
    pub fn try_read(&self, request: ReadRequest) -> Option<Result<Fetched>> {
        let result = self
            .readable_view()
            .and_then(|view| read::read(&view, request, Access::Warm))
            .transpose()?;
        self.observe(request.from, &result);
        Some(result)
    }

    /// Reads whole batches from the one that holds `request.from` on. May wait for the disk.
    ///
    /// # Errors
    /// - [`Error::Trimmed`] below the log start and [`Error::OutOfRange`] above the end: go on from what they name.
    /// - [`Error::Damaged`] if the first batch cannot be read: go on from `damaged_until`.
    /// - [`Error::NotFound`] if the partition was deleted.
    pub fn read(&self, request: ReadRequest) -> Result<Fetched> {
        let view = self.readable_view()?;
        let result = read::read(&view, request, Access::Cold)
            .map(|fetched| fetched.expect("a cold read loads what is missing"));
        self.observe(request.from, &result);
        self.unless_deleted(result)
    }

    /// Updates the damage that belongs to no file: notes what a read has met, or removes what it could read.
    fn observe(&self, from: Offset, result: &Result<Fetched>) {
        match result {
            Ok(fetched) => self.damage.heal(from, fetched.next_offset),
            Err(error) => self.note(error),
        }
    }

    /// Notes damage that no segment knows of, and logs it the first time.
    fn note(&self, error: &Error) {
        let Error::Damaged {
            place,
            what,
            damaged_from,
            damaged_until,
        } = error
        else {
            return;
        };
        let is_known = self
            .damaged_ranges()
            .iter()
            .any(|range| range.from <= *damaged_from && range.until >= *damaged_until);
        if is_known || damaged_from >= damaged_until {
            return;
        }
        let known = Known {
            from: *damaged_from,
            until: Some(*damaged_until),
            bytes: 0,
            place: place.clone(),
            what: what.clone(),
        };
        if self.damage.add(known.clone()) {
            log_damage(&self.dir, &known);
            self.pool.has_damage.store(true, Ordering::Release);
        }
    }

    /// The damaged ranges that were met since the log was opened and are still there, in order. Does not touch the
    /// disk: damage that nobody has read is not among them.
    pub fn damaged_ranges(&self) -> Vec<DamagedRange> {
        if !self.pool.has_damage.load(Ordering::Acquire) {
            return Vec::new();
        }
        let view = self.view();
        let mut all = self.damage.list();
        for (index, segment) in view.segments.iter().enumerate() {
            let next = view.segments.get(index + 1);
            let end = next.map_or(view.end_offset, |next| next.base_offset());
            all.extend(segment.known_damage().into_iter().map(|known| Known {
                until: Some(known.until.map_or(end, |until| until.min(end))),
                ..known
            }));
        }
        damage::merge(all, view.log_start_offset, view.end_offset)
            .into_iter()
            .map(|(from, until, known)| DamagedRange {
                partition: self.id,
                name: self.name.clone(),
                from,
                until,
                bytes: known.bytes,
                place: known.place,
                what: known.what,
            })
            .collect()
    }

    /// The first record whose timestamp is at or after `time`, with that timestamp; `None` if all are earlier. May wait
    /// for the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NotFound`] as for [`Partition::read`].
    pub fn offset_for_time(&self, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>> {
        self.offset_for_time_from(time, Offset::ZERO)
    }

    /// The same among the records from `from` on: to continue after damage that was given up.
    ///
    /// # Errors
    /// As for [`Partition::offset_for_time`].
    pub fn offset_for_time_from(
        &self,
        time: TimestampMs,
        from: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>> {
        let mut view = self.readable_view()?;
        view.log_start_offset = view.log_start_offset.max(from);
        let result = read::offset_for_time(&view, time);
        if let Err(error) = &result {
            self.note(error);
        }
        self.unless_deleted(result)
    }

    /// Where an offset lies: how many bytes follow it, and the next record's timestamp. May wait for the disk.
    ///
    /// # Errors
    /// As for [`Partition::read`].
    pub fn locate(&self, offset: Offset) -> Result<Located> {
        let view = self.readable_view()?;
        self.unless_deleted(read::locate(&view, offset))
    }

    /// Updates an answer of [`Partition::locate`] by what was appended after that record, without reading the record
    /// again. `None` if it must be located again, for example because it was trimmed or there was none.
    pub fn relocate(&self, located: &Located) -> Option<Located> {
        read::relocate(&self.readable_view().ok()?, located)
    }

    /// What it holds. May wait for the disk: the first and the last record are read.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the partition was deleted. A damaged first or last record leaves its timestamp out.
    pub fn stats(&self) -> Result<PartitionStats> {
        let view = self.readable_view()?;
        let positions = Positions {
            log_start_offset: view.log_start_offset,
            end_offset: view.end_offset,
            written_offset: self.positions().written_offset.max(view.end_offset),
        };
        let timestamp_at = |offset| {
            let located = read::locate(&view, offset).ok()?;
            located.next.map(|(_, timestamp)| timestamp)
        };
        let last = view.end_offset.get().checked_sub(1).map(Offset::new);
        let holds_records = view.end_offset > view.log_start_offset;
        self.unless_deleted(Ok(PartitionStats {
            positions,
            size_bytes: self.size_bytes(),
            segments: view.segments.len(),
            first_timestamp: if holds_records {
                timestamp_at(view.log_start_offset)
            } else {
                None
            },
            last_timestamp: last.filter(|_| holds_records).and_then(timestamp_at),
        }))
    }

    /// Bytes of its log files up to the end, indexes not counted. Does not touch the disk.
    pub fn size_bytes(&self) -> u64 {
        let view = self.view();
        view.segments.iter().map(|segment| segment.readable().get()).sum()
    }

    /// Stored bytes that were appended to it, and given to readers, since the log was opened.
    pub fn traffic(&self) -> (u64, u64) {
        let appended = self.appended_bytes.load(Ordering::Relaxed);
        (appended, self.read_bytes.load(Ordering::Relaxed))
    }

    /// Counts stored bytes that were given to a reader.
    pub fn count_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_appended(&self, bytes: u64) {
        self.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Resolves when `end_offset` is above `offset`, the partition is deleted or the log closes. Drop it to give up.
    pub fn wait_for(self: &Arc<Self>, offset: Offset) -> WaitForData {
        WaitForData {
            partition: Arc::clone(self),
            offset,
            id: None,
        }
    }

    /// [`Partition::trim_with`] without changes of the state.
    ///
    /// # Errors
    /// Those of [`Partition::trim_with`].
    pub fn trim(self: &Arc<Self>, before: Offset) -> Result<Offset> {
        self.trim_with(before, Vec::new())
    }

    /// Moves the log start up to `before` and changes the state in the same journal round, durably; returns where the log
    /// starts then (never lower than it did). Blocks.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] above `end_offset`: nothing was moved.
    /// - [`Error::NotFound`], [`Error::Closed`], [`Error::Overloaded`], [`Error::StorageFull`]: nothing was moved.
    /// - [`Error::LogFailed`]: nothing was moved; if `in_flight`, it may be after a restart.
    pub fn trim_with(self: &Arc<Self>, before: Offset, state: Vec<StateChange>) -> Result<Offset> {
        let ticket = self.trims.trim(Arc::clone(self), before, state)?;
        block_on(ticket)?;
        Ok(self.view.lock().log_start_offset)
    }

    /// Whether its topic has been deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.waiters.wake_for_good();
    }

    /// Ends every wait; later ones end at once.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiters.wake_for_good();
    }

    /// Why appends are refused.
    pub fn failure(&self) -> Option<String> {
        self.writer.lock().failed.clone()
    }

    /// The index of the plan that the committer's round `tag` has for this partition.
    pub(crate) fn slot(&self, tag: u32) -> Option<usize> {
        let plan = self.plan.load(Ordering::Relaxed);
        ((plan >> 32) as u32 == tag).then_some(plan as u32 as usize)
    }

    pub(crate) fn set_slot(&self, tag: u32, slot: usize) {
        self.plan
            .store((u64::from(tag) << 32) | slot as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_written(&self, next: Offset) {
        let before = self.written_offset.swap(next.get(), Ordering::AcqRel);
        let name = &self.name;
        assert!(
            before <= next.get(),
            "{name}: the written offset goes back from {before} to {next}"
        );
    }

    /// Makes durable records readable: `new_segments` join the view, then the end moves. Wakes the waiters.
    pub(crate) fn publish(&self, new_segments: &[Arc<Segment>], end_offset: Offset) {
        {
            let mut view = self.view.lock();
            let (name, before) = (&self.name, view.end_offset);
            assert!(
                before <= end_offset,
                "{name}: the end goes back from {before} to {end_offset}"
            );
            let written = self.written_offset.load(Ordering::Acquire);
            assert!(end_offset.get() <= written, "{name}: unwritten end");
            if !new_segments.is_empty() {
                let mut segments = Vec::with_capacity(view.segments.len() + new_segments.len());
                segments.extend(view.segments.iter().cloned());
                segments.extend(new_segments.iter().cloned());
                view.segments = Arc::new(segments);
            }
            view.end_offset = end_offset;
        }
        self.waiters.wake_all();
    }

    /// Notes that a sync of its files has failed, also of the one at `base`, if given. It takes no more appends until a
    /// restart, and the journal keeps what cannot be made durable in the segments. The sync is never tried again: the
    /// system may have dropped what it could not write.
    pub(crate) fn sync_failed(&self, error: &io::Error, base: Option<Offset>) {
        let mut writer = self.writer.lock();
        writer.failed = Some(error.to_string());
        writer.is_unsyncable = true;
        let unsynced = std::mem::take(&mut writer.unsynced);
        drop(writer);
        let bases = unsynced.iter().map(|unsynced| unsynced.base);
        if let Some(first) = bases.chain(base).min() {
            self.distrust_from(first);
        }
    }

    /// Makes every read verify the segments from `base` on, after a failed sync: the system may drop from memory what
    /// it could not write, and then a later read finds what the medium has.
    fn distrust_from(&self, base: Offset) {
        let segments = Arc::clone(&self.view.lock().segments);
        for segment in segments.iter().filter(|segment| segment.base_offset() >= base) {
            segment.distrust();
        }
    }

    /// Moves the log start (durably journalled before) and takes the segments that lie wholly below it out of the
    /// view. Returns them: their files are to be removed.
    pub(crate) fn publish_log_start(&self, offset: Offset) -> Vec<Arc<Segment>> {
        let mut writer = self.writer.lock();
        let mut view = self.view.lock();
        view.log_start_offset = view.log_start_offset.max(offset);
        assert!(
            view.log_start_offset <= view.end_offset,
            "{}: log start above the end",
            self.name
        );
        let start = view.log_start_offset;
        writer.published.log_start_offset = start;
        let mut kept = Vec::new();
        let mut removed = Vec::new();
        for (index, segment) in view.segments.iter().enumerate() {
            // The last segment ends where the next record goes, published or not.
            let next = view.segments.get(index + 1);
            let end = next.map_or(writer.next_offset, |next| next.base_offset());
            if end <= start && end > segment.base_offset() {
                removed.push(Arc::clone(segment));
            } else {
                kept.push(Arc::clone(segment));
            }
        }
        if removed.is_empty() {
            return removed;
        }
        let is_removed = |base: Offset| removed.iter().any(|segment| segment.base_offset() == base);
        let active = writer.active.as_ref();
        if active.is_some_and(|active| is_removed(active.segment.base_offset())) {
            writer.active = None;
            writer.published.active = None;
            writer.written_to = FilePos::ZERO;
        }
        writer.unsynced.retain(|unsynced| !is_removed(unsynced.base));
        let closed = &mut writer.closed_segments;
        closed.retain(|segment| !is_removed(segment.base_offset()));
        view.segments = Arc::new(kept);
        removed
    }
}

/// A wait for records, see [`Partition::wait_for`].
pub struct WaitForData {
    partition: Arc<Partition>,
    offset: Offset,
    id: Option<u64>,
}

impl WaitForData {
    fn is_over(&self) -> bool {
        self.partition.is_deleted()
            || self.partition.closed.load(Ordering::Acquire)
            || self.partition.view.lock().end_offset > self.offset
    }

    /// Blocks until there is something to do.
    pub fn wait(self) {
        block_on(self);
    }
}

impl Future for WaitForData {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        let id = self.partition.waiters.register(self.id, context.waker());
        self.id = Some(id);
        // Looked at again after registering: a publish in between has not seen the waker.
        if self.is_over() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for WaitForData {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.partition.waiters.forget(id);
        }
    }
}
