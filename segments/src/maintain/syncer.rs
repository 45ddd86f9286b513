//! Makes segments durable in the background, so that journal files can be reused.
//!
//! A sync first notes the mark up to which everything is published. Then it takes the partitions that were written,
//! starts the writeback of their files, syncs each, syncs the directories with new names, writes the indexes of closed
//! segments, and only then writes a checkpoint of all this; after that the journal files below the mark are spare.
//!
//! Crash: until the new checkpoint is whole on stable storage, the previous one is valid, and the journal files that it
//! needs still exist.
//!
//! A failed sync stops the appends to that partition and keeps the journal files with the records that may be lost.
//! From then on every read verifies the segments that the sync should have written.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::{Engine, Snapshots};
use crate::error::{Error, Result, is_out_of_handles};
use crate::files::checkpoint::{Checkpoint, Entry};
use crate::journal::writer::Mark;
use crate::segment::Segment;
use crate::topic::partition::{Partition, WriteFile, Writer};
use crate::types::Offset;

/// What one sync covers in one partition.
struct Capture {
    partition: Arc<Partition>,
    files: Vec<(Offset, Arc<WriteFile>, u64)>,
    entry: Entry,
    new_names: bool,
    closed_segments: Vec<Arc<Segment>>,
}

impl Engine {
    /// Syncs everything that is published, writes a checkpoint and recycles journal files.
    ///
    /// # Errors
    /// [`Error::StorageFull`], [`Error::Overloaded`] (no file handle) or [`Error::Io`] if the checkpoint could not be written:
    /// nothing was recycled.
    pub(crate) fn sync_segments(&self) -> Result<()> {
        self.sync(false)
    }

    /// The same, as the last act before the log is closed: the next start replays nothing.
    pub(crate) fn sync_for_close(&self) -> Result<()> {
        for topic in self.catalog.list() {
            for partition in &*topic.partitions() {
                let active = partition.writer.lock().active.clone();
                if let Some(active) = active
                    && let Err(error) = active.segment.write_index()
                {
                    tracing::warn!(partition = partition.name(), %error, "an index was not written: it is rebuilt when needed");
                }
            }
        }
        self.sync(true)
    }

    fn sync(&self, closing: bool) -> Result<()> {
        let mut snapshots = self.snapshots.lock();
        let mark = self.journal.published();
        if self.sync_dirty(mark, &mut snapshots.failed_dirs).is_err() {
            // Close the synced files: that frees handles for the directories of the other partitions.
            self.close_synced_files();
            self.sync_dirty(mark, &mut snapshots.failed_dirs)?;
        }
        self.remove_garbage();

        let mut checkpoint = self.checkpoint(mark, closing, snapshots.round);
        let pinned = Some(checkpoint.round).filter(|round| *round < mark.round);
        let state = {
            let mut state = self.state.write();
            std::mem::take(&mut state.changed).then(|| state.encode())
        };
        if let Err(error) = write_twice(&mut snapshots, state.as_deref(), &mut checkpoint) {
            self.state.write().changed |= state.is_some();
            return Err(error);
        }
        snapshots.round = mark.round;
        self.stats.checkpoint_written();
        self.journal.recycle(mark, pinned)
    }

    /// Syncs every partition that was written since it was last synced.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if no file handle was left for some of them: they must still be synced before the
    /// checkpoint.
    fn sync_dirty(&self, mark: Mark, failed_dirs: &mut BTreeSet<PathBuf>) -> Result<()> {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let captures: Vec<Capture> = dirty.into_iter().map(capture).collect();
        for (_, file, _) in captures.iter().flat_map(|capture| &capture.files) {
            file.file.start_writeback();
        }
        let mut result = Ok(());
        for capture in captures {
            result = result.and(self.sync_partition(capture, mark, failed_dirs));
        }
        result
    }

    fn sync_partition(
        &self,
        capture: Capture,
        mark: Mark,
        failed_dirs: &mut BTreeSet<PathBuf>,
    ) -> Result<()> {
        let Capture {
            partition,
            files,
            entry,
            new_names,
            closed_segments,
        } = capture;
        if partition.is_deleted() {
            return Ok(());
        }
        let mut result = Ok(());
        for (_, file, _) in &files {
            result = result.and_then(|()| file.file.sync_data());
            self.stats.segment_synced();
        }
        if new_names {
            // The partition's own name as well: its directory is made with its first segment.
            let topic_dir = partition
                .dir()
                .parent()
                .expect("a partition lies in its topic's directory");
            for dir in [partition.dir(), topic_dir] {
                result = result.and_then(|()| self.sync_dir_once(dir, failed_dirs));
            }
        }
        if let Err(error) = result {
            if partition.is_deleted() {
                return Ok(());
            }
            if is_out_of_handles(&error) {
                // A directory could not be opened. The files are synced: they need not stay open for the next attempt.
                let mut writer = partition.writer.lock();
                forget_synced(&mut writer, &files);
                writer.new_names |= new_names;
                writer.closed_segments.extend(closed_segments);
                self.mark_dirty(&partition, &mut writer);
                return Err(Error::out_of_handles());
            }
            tracing::error!(partition = partition.name(), %error, "a segment sync failed: the partition takes no more appends until a restart");
            partition.sync_failed(&error, None);
            return Ok(());
        }
        let removing = self.removing.lock();
        for segment in closed_segments {
            if !partition.is_deleted()
                && let Err(error) = segment.write_index()
            {
                tracing::warn!(partition = partition.name(), %error, "an index was not written: it is rebuilt when needed");
            }
        }
        drop(removing);
        let mut writer = partition.writer.lock();
        if writer.is_unsyncable {
            return Ok(());
        }
        forget_synced(&mut writer, &files);
        writer.synced = Entry {
            round: mark.round,
            ..entry
        };
        Ok(())
    }

    /// Syncs a directory, unless a sync of it has failed before: a later success would not prove that this partition's
    /// name is durable.
    pub(crate) fn sync_dir_once(&self, dir: &Path, failed_dirs: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        if failed_dirs.contains(dir) {
            return Err(io::Error::other(format!(
                "an earlier sync of {} failed",
                dir.display()
            )));
        }
        let result = self.disk.sync_dir(dir);
        // A directory that does not exist was not synced: its topic has been deleted meanwhile, and the next topic of
        // that name has its own directory.
        let is_tried =
            |error: &io::Error| error.kind() != io::ErrorKind::NotFound && !is_out_of_handles(error);
        if result.as_ref().is_err_and(is_tried) {
            failed_dirs.insert(dir.to_path_buf());
        }
        result
    }

    /// The checkpoint of what is known to be on stable storage now. Partitions without new writes are unchanged, and
    /// failed ones keep the entry of their last sync: replay begins with the first round that one of them needs.
    fn checkpoint(&self, mark: Mark, closing: bool, last_checkpoint: u64) -> Checkpoint {
        // Read this before the topics are listed: then all topics with lower ids are in the list.
        let next_topic_id = self.catalog.next_topic_id();
        let mut partitions = Vec::new();
        let mut round = mark.round;
        let mut failed = false;
        for topic in self.catalog.list() {
            for partition in &*topic.partitions() {
                let mut writer = partition.writer.lock();
                if !writer.is_unsyncable {
                    writer.synced.round = mark.round;
                } else {
                    failed = true;
                    if writer.synced.round == 0 {
                        // It has never been synced: it was made, or recovered, no earlier than the last checkpoint.
                        writer.synced.round = last_checkpoint;
                    }
                    round = round.min(writer.synced.round);
                }
                partitions.push(writer.synced);
            }
        }
        let sequence = if failed {
            // Not simply the oldest file: the file that this checkpoint names must not be recycled after it.
            self.journal.sequence_of(round)
        } else {
            mark.sequence
        };
        let clean = closing && !failed && self.failure().is_none();
        Checkpoint {
            directory_id: self.directory_id,
            next_topic_id,
            sequence: if clean {
                self.journal.unused_sequence()
            } else {
                sequence
            },
            round,
            journal_expected: !clean,
            deleting: self.catalog.deleting(),
            partitions,
            state_generation: None,
        }
    }

    fn remove_garbage(&self) {
        let garbage = std::mem::take(&mut *self.garbage.lock());
        let _removing = self.removing.lock();
        for (partition, segment) in garbage {
            segment.close();
            if partition.is_deleted() {
                // Its files are removed with its topic; a new topic may have files of the same names by now.
                continue;
            }
            let [index, timeindex] = segment.index_paths();
            for path in [segment.log_path(), index, timeindex] {
                match self.disk.remove_file(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a trimmed segment was not removed: it is at the next start");
                    }
                }
            }
        }
    }

    /// Syncs, then closes the files that have no unsynced writes.
    pub(crate) fn close_idle_files(&self) {
        if let Err(error) = self.sync_segments() {
            tracing::warn!(%error, "syncing segments, to close files");
        }
        self.close_synced_files();
    }

    fn close_synced_files(&self) {
        for topic in self.catalog.list() {
            for partition in &*topic.partitions() {
                let mut writer = partition.writer.lock();
                if writer.unsynced.is_empty()
                    && let Some(active) = &mut writer.active
                {
                    active.file = None;
                }
            }
        }
    }

    /// What the syncer's thread does until the log closes.
    pub(crate) fn run_syncer(&self) {
        let mut last_retention = self.clock.monotonic();
        let mut last_sync = last_retention;
        self.make_spares();
        while let Some(asked) = self.wake_syncer.wait(
            self.options
                .checkpoint_interval
                .min(self.options.retention_interval),
        ) {
            let now = self.clock.monotonic();
            let is_due =
                now.since(last_sync) >= self.options.checkpoint_interval && !self.dirty.lock().is_empty();
            if asked || is_due {
                last_sync = now;
                match self.sync_segments() {
                    Ok(()) => self.journal.set_failed(None),
                    Err(error) => {
                        tracing::error!(%error, "the checkpoint was not written");
                        self.no_spares(error);
                    }
                }
            }
            self.make_spares();
            if now.since(last_retention) >= self.options.retention_interval {
                last_retention = now;
                // Do not wait for the tickets: the committer may be waiting for this thread to free a journal file.
                if let Err(error) = self.queue_retention() {
                    tracing::warn!(%error, "retention");
                }
            }
        }
    }

    fn make_spares(&self) {
        let spares = self.spare_files();
        loop {
            // The lock excludes the recycling of a sync, so that spares come in the order of their sequences.
            let snapshots = self.snapshots.lock();
            let added = self.journal.add_spare(spares);
            drop(snapshots);
            match added {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // On a full disk the existing files must suffice; the next turn tries again.
                    let mib = (u64::from(self.options.journal_files) * self.options.journal_file_bytes) >> 20;
                    tracing::warn!(%error, "a journal file could not be made: the journal needs {mib} MiB");
                    self.no_spares(error);
                    return;
                }
            }
        }
        if self.journal.is_stuck(spares) {
            self.no_spares(self.stuck());
        }
    }

    /// Tells the committer why there may be no journal file for it.
    fn no_spares(&self, error: Error) {
        self.journal.set_failed(Some(match error {
            Error::LogFailed { .. } => error,
            error if error.is_passing() => error,
            other => Error::LogFailed {
                reason: other.to_string(),
                in_flight: false,
            },
        }));
    }

    /// The number of journal files beside the one that is written.
    pub(crate) fn spare_files(&self) -> usize {
        self.options.journal_files as usize - 1
    }

    /// Why appends end when a failed partition needs every journal file until a restart.
    pub(crate) fn stuck(&self) -> Error {
        Error::LogFailed {
            reason: "a segment sync has failed, and all journal files are kept for what it may have lost"
                .into(),
            in_flight: false,
        }
    }
}

/// Writes both snapshots into both of their slots, before the journal files are recycled that only the older ones need:
/// then later damage to one slot loses nothing. The state comes first: a checkpoint may name only what it holds.
fn write_twice(snapshots: &mut Snapshots, state: Option<&[u8]>, checkpoint: &mut Checkpoint) -> Result<()> {
    if let Some(state) = state {
        snapshots.state.write(state)?;
        snapshots.state_generation = snapshots.state.generation();
    }
    checkpoint.state_generation = Some(snapshots.state_generation);
    let checkpoint = checkpoint.encode();
    snapshots.checkpoint.write(&checkpoint)?;
    if let Some(state) = state {
        snapshots.state.write(state)?;
    }
    snapshots.checkpoint.write(&checkpoint)
}

/// Removes the files from the unsynced ones whose sync covers all their writes.
fn forget_synced(writer: &mut Writer, files: &[(Offset, Arc<WriteFile>, u64)]) {
    writer.unsynced.retain(|unsynced| {
        let is_same =
            |(base, _, writes): &(Offset, _, u64)| unsynced.base == *base && unsynced.writes == *writes;
        !files.iter().any(is_same)
    });
}

fn capture(partition: Arc<Partition>) -> Capture {
    let mut writer = partition.writer.lock();
    writer.dirty = false;
    let files = writer
        .unsynced
        .iter()
        .map(|unsynced| (unsynced.base, Arc::clone(&unsynced.file), unsynced.writes))
        .collect();
    let entry = writer.published;
    let new_names = std::mem::take(&mut writer.new_names);
    let closed_segments = std::mem::take(&mut writer.closed_segments);
    drop(writer);
    Capture {
        partition,
        files,
        entry,
        new_names,
        closed_segments,
    }
}
