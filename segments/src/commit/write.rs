//! Writing a round's batches at their positions in the segments: page cache only, before the journal.
//!
//! A partition's position moves when the writes of all partitions have worked ([`Engine::write_segments`]), and its end
//! only when the round is durable. So what a failed round leaves behind a position is written over by the next one, and
//! is cut when the segment is closed.
//!
//! Crash: what is in a segment and in no round of the journal was never acknowledged; recovery cuts it.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::Scratch;
use super::plan::Plan;
use crate::engine::Engine;
use crate::error::{Error, is_full};
use crate::files::description::TopicSettings;
use crate::io::disk::OpenMode;
use crate::io::sync::atomic::Ordering;
use crate::segment::Segment;
use crate::segment::index::MAX_RELATIVE_OFFSET;
use crate::topic::partition::{Active, Partition, Unsynced, WriteFile, Writer};
use crate::types::{FilePos, Offset, TimestampMs};

/// The most offsets that lie between a segment's base and a record in it: what its index can hold.
const MAX_SEGMENT_OFFSETS: u64 = MAX_RELATIVE_OFFSET;

impl Engine {
    /// Writes every plan's batches. On an error no partition's position has moved; the index names the plan that failed.
    pub(super) fn write_segments(&self, plans: &mut [Plan]) -> Result<(), (usize, io::Error)> {
        if plans.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        for (index, plan) in plans.iter_mut().enumerate() {
            if self.open_files.load(Ordering::Relaxed) >= self.max_open_files {
                self.close_idle_files();
            }
            self.write_plan(plan, now).map_err(|error| (index, error))?;
        }
        for plan in plans {
            self.accept_plan(plan);
        }
        Ok(())
    }

    fn write_plan(&self, plan: &mut Plan, now: TimestampMs) -> io::Result<()> {
        let partition = &plan.partition;
        let settings = partition.settings();
        let mut writer = partition.writer.lock();
        let mut active = writer.active.clone();
        let mut from = 0;
        while from < plan.batches.len() {
            let first = &plan.batches[from];
            let bytes = first.batch.as_bytes().len() as u64;
            if let Some(open) = &active
                && must_roll(open, &settings, first.next_offset, bytes, now)
            {
                if writer.is_active(&open.segment) && writer.written_to > open.position {
                    plan.ended = self.end_file(open)?;
                }
                active = None;
            }
            let active = match &mut active {
                Some(active) => active,
                None => {
                    let made = self.make_segment(partition, &mut writer, first.base_offset, bytes, now)?;
                    plan.new_segments.push(Arc::clone(&made.segment));
                    active.insert(made)
                }
            };
            let file = match &active.file {
                Some(file) => Arc::clone(file),
                None => {
                    let file = self.disk.open(&active.segment.log_path(), OpenMode::Create)?;
                    let file = WriteFile::new(file, &self.open_files);
                    active.file = Some(Arc::clone(&file));
                    file
                }
            };
            // As many batches as go into this segment, in one write.
            let start = active.position;
            let mut slices = Vec::new();
            let mut to = from;
            while let Some(planned) = plan.batches.get_mut(to) {
                let bytes = planned.batch.as_bytes().len() as u64;
                if to > from && must_roll(active, &settings, planned.next_offset, bytes, now) {
                    break;
                }
                planned.place = Some((Arc::clone(&active.segment), active.position));
                active.position = active.position.plus(bytes);
                to += 1;
            }
            slices.extend(
                plan.batches[from..to]
                    .iter()
                    .map(|planned| IoSlice::new(planned.batch.as_bytes())),
            );
            if writer.is_active(&active.segment) {
                writer.written_to = writer.written_to.max(active.position);
            }
            file.file.write_all_at(&slices, start.get())?;
            from = to;
        }
        plan.active = active;
        Ok(())
    }

    /// Ends a segment's file where its batches end: bytes of a failed round must not follow the last one of a closed segment.
    /// Returns the file, to be synced before a checkpoint no longer names the segment.
    fn end_file(&self, closing: &Active) -> io::Result<Option<Arc<WriteFile>>> {
        match self.disk.open(&closing.segment.log_path(), OpenMode::ReadWrite) {
            Ok(file) => {
                if file.len()? > closing.position.get() {
                    file.set_len(closing.position.get())?;
                }
                Ok(Some(WriteFile::new(file, &self.open_files)))
            }
            // It was missing when the log was opened, which is reported.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn make_segment(
        &self,
        partition: &Partition,
        writer: &mut Writer,
        base_offset: Offset,
        first_bytes: u64,
        now: TimestampMs,
    ) -> io::Result<Active> {
        if writer.published.active.is_none() && writer.next_offset == Offset::ZERO {
            self.disk.create_dir_all(partition.dir())?;
        }
        writer.new_names = true;
        let capacity = partition.settings().segment_bytes.max(first_bytes);
        let segment = Arc::new(Segment::new(
            Arc::clone(&partition.pool),
            partition.dir(),
            base_offset,
            capacity,
            FilePos::ZERO,
        ));
        let file = self.disk.open(&segment.log_path(), OpenMode::Create)?;
        if file.len()? > 0 {
            // Left by a round that failed.
            file.set_len(0)?;
        }
        let file = Some(WriteFile::new(file, &self.open_files));
        Ok(Active {
            segment,
            position: FilePos::ZERO,
            made: now,
            capacity,
            file,
        })
    }

    /// Moves the partition's write position over what was written.
    fn accept_plan(&self, plan: &mut Plan) {
        let mut writer = plan.partition.writer.lock();
        let writer = &mut *writer;
        assert!(
            writer.next_offset <= plan.next_offset,
            "{}: offsets go back",
            plan.partition.name()
        );
        writer.next_offset = plan.next_offset;
        let Some(active) = &plan.active else { return };
        if !writer.is_active(&active.segment) {
            writer.written_to = active.position;
        }
        // Every file that this round wrote: the segment of before, if batches went there, and all that were made since.
        let before = writer.active.replace(active.clone());
        let first_base = plan
            .batches
            .first()
            .and_then(|planned| planned.place.as_ref())
            .map(|(segment, _)| segment.base_offset());
        let mut written: Vec<(Offset, Option<Arc<WriteFile>>)> = Vec::with_capacity(1);
        if let Some(before) = before {
            if before.segment.base_offset() != active.segment.base_offset() {
                plan.closed_segments.push(Arc::clone(&before.segment));
            }
            let base = before.segment.base_offset();
            if base == active.segment.base_offset() {
                written.push((base, active.file.clone()));
            } else if first_base == Some(base) || plan.ended.is_some() {
                written.push((base, before.file.or(plan.ended.take())));
            }
        }
        for segment in &plan.new_segments {
            let base = segment.base_offset();
            let is_active = base == active.segment.base_offset();
            if !is_active {
                plan.closed_segments.push(Arc::clone(segment));
            }
            written.push((base, if is_active { active.file.clone() } else { None }));
        }
        for (base, file) in written {
            self.add_unsynced(writer, &plan.partition, base, file);
        }
    }

    /// Notes that a segment was written, for the syncer.
    fn add_unsynced(
        &self,
        writer: &mut Writer,
        partition: &Partition,
        base: Offset,
        file: Option<Arc<WriteFile>>,
    ) {
        if let Some(known) = writer.unsynced.iter_mut().find(|known| known.base == base) {
            known.writes += 1;
        } else if let Some(file) = file.or_else(|| self.open_for_sync(partition, base)) {
            writer.unsynced.push(Unsynced {
                base,
                file,
                writes: 1,
            });
        } else {
            writer.failed = Some(format!("segment {base} cannot be opened for its sync"));
            writer.is_unsyncable = true;
        }
    }

    /// A segment that was made and closed within one round is opened again for its sync.
    fn open_for_sync(&self, partition: &Partition, base: Offset) -> Option<Arc<WriteFile>> {
        let path = partition.dir().join(format!("{base:020}.log"));
        let file = self.disk.open(&path, OpenMode::ReadWrite).ok()?;
        Some(WriteFile::new(file, &self.open_files))
    }

    /// Answers the requests with records after a failed segment write; what has none goes on.
    pub(super) fn segments_failed(&self, scratch: &mut Scratch, index: usize, error: &io::Error) {
        let full = is_full(error);
        let name = scratch.plans[index].partition.name().to_owned();
        if full {
            if !self.storage_full.swap(true, Ordering::Relaxed) {
                tracing::error!(partition = name, %error, "the disk is full: appends are refused until there is space");
            }
        } else {
            tracing::error!(partition = name, %error, "a segment write failed: the partition takes no more appends until a restart");
            scratch.plans[index].partition.writer.lock().failed = Some(error.to_string());
        }
        // Nothing of the round is journalled, so nothing of it is stored. Requests that did not touch the failed
        // partition share batches with ones that did: they are refused too, and may be sent again.
        for outcome in &mut scratch.outcomes {
            if outcome.has_records && (outcome.promises_the_round() || outcome.may_hang_on_the_round()) {
                outcome.result = Err(if full {
                    Error::StorageFull
                } else {
                    Error::Overloaded {
                        queued_bytes: self.queue.queued_bytes(),
                    }
                });
            }
        }
        let plans = std::mem::take(&mut scratch.plans);
        // What goes with the records is not stored either: keys, and producers' sequences.
        scratch.forget_records();
        for plan in plans {
            // A segment that was made for this round is not one: the next attempt may begin another elsewhere.
            for segment in &plan.new_segments {
                if let Err(error) = self.disk.remove_file(&segment.log_path()) {
                    tracing::error!(partition = plan.partition.name(), %error, "an unused segment file stays: the partition takes no more appends until a restart");
                    // It would lie between the segments of later appends, with offsets that they give to others. The
                    // next start finds it behind the last one, and removes it.
                    plan.partition.writer.lock().failed = Some(error.to_string());
                }
            }
        }
    }
}

fn must_roll(
    active: &Active,
    settings: &TopicSettings,
    next_offset: Offset,
    bytes: u64,
    now: TimestampMs,
) -> bool {
    let position = active.position.get();
    if position == 0 {
        // A batch larger than a segment gets one of its own, made for it.
        return bytes > active.capacity;
    }
    let age_ms = now.get().saturating_sub(active.made.get());
    position + bytes > settings.segment_bytes.min(active.capacity)
        || age_ms >= i64::try_from(settings.segment_ms).unwrap_or(i64::MAX)
        || next_offset.since(active.segment.base_offset()) > MAX_SEGMENT_OFFSETS
}
