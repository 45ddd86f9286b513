//! Writing a round's batches at their positions in the segments: page cache only, before the journal.
//!
//! A partition's write position moves when the writes of all partitions have worked ([`Engine::write_segments`]), and
//! its end offset only when the round is durable. So the bytes that a failed round leaves after the write position are
//! overwritten by the next round; any that remain are cut when the segment is closed.
//!
//! Crash: a batch in a segment but in no round of the journal was never acknowledged as durable; recovery cuts it.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::Scratch;
use super::plan::Plan;
use crate::engine::Engine;
use crate::error::{Error, is_full, is_out_of_handles};
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
        for index in 0..plans.len() {
            let (written, rest) = plans.split_at_mut(index);
            if self.open_files.load(Ordering::Relaxed) >= self.max_open_files {
                self.give_back_handles(written)?;
            }
            let mut result = self.write_plan(&mut rest[0], now);
            if result.as_ref().is_err_and(is_out_of_handles) {
                // Other parts of the process have taken the handles that the log may use.
                self.give_back_handles(written)?;
                self.undo_plan(&mut rest[0]);
                result = self.write_plan(&mut rest[0], now);
            }
            result.map_err(|error| (index, error))?;
        }
        for plan in plans {
            self.accept_plan(plan);
        }
        Ok(())
    }

    /// Closes every file that is open for writing, also those of plans that are written already. Each is synced first:
    /// once the last handle of a file is closed, the system may forget that it could not write the file.
    fn give_back_handles(&self, written: &mut [Plan]) -> Result<(), (usize, io::Error)> {
        self.close_idle_files();
        for (index, plan) in written.iter_mut().enumerate() {
            for (base, file) in plan.written.drain(..) {
                self.stats.segment_synced();
                if let Err(error) = file.file.sync_data() {
                    plan.partition.sync_failed(&error, Some(base));
                    return Err((index, error));
                }
            }
            if let Some(active) = &mut plan.active {
                active.file = None;
            }
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
                if writer.is_active(&open.segment)
                    && writer.written_to > open.position
                    && let Some(file) = self.end_file(open)?
                {
                    note_written(&mut plan.written, open.segment.base_offset(), file);
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
            let base = active.segment.base_offset();
            active.segment.note_append(now);
            file.file.write_all_at(&slices, start.get())?;
            note_written(&mut plan.written, base, file);
            from = to;
        }
        plan.active = active;
        Ok(())
    }

    /// Cuts a segment's file where its batches end: in a closed segment no bytes of a failed round may follow the last
    /// batch. Returns the file, which must be synced before a checkpoint stops naming the segment as active.
    fn end_file(&self, closing: &Active) -> io::Result<Option<Arc<WriteFile>>> {
        let file = match &closing.file {
            Some(file) => Arc::clone(file),
            None => match self.disk.open(&closing.segment.log_path(), OpenMode::ReadWrite) {
                Ok(file) => WriteFile::new(file, &self.open_files),
                // It was already missing when the log was opened, and that was reported.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        if file.file.len()? > closing.position.get() {
            file.file.set_len(closing.position.get())?;
        }
        Ok(Some(file))
    }

    fn make_segment(
        &self,
        partition: &Partition,
        writer: &mut Writer,
        base_offset: Offset,
        first_bytes: u64,
        now: TimestampMs,
    ) -> io::Result<Active> {
        if writer.published.active.is_none() {
            // The first segment. Or all older ones were trimmed, and a power cut has taken the directory with them.
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

    /// Moves the partition's write position past the plan's batches.
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
        let before = writer.active.replace(active.clone());
        let closed = before.map(|before| before.segment).into_iter();
        let closed = closed.chain(plan.new_segments.iter().cloned());
        plan.closed_segments
            .extend(closed.filter(|segment| !Arc::ptr_eq(segment, &active.segment)));
        for (base, file) in plan.written.drain(..) {
            match writer.unsynced.iter_mut().find(|known| known.base == base) {
                Some(known) => known.writes += 1,
                None => writer.unsynced.push(Unsynced {
                    base,
                    file,
                    writes: 1,
                }),
            }
        }
    }

    /// Refuses the requests with records after a failed segment write; requests without records go on.
    pub(super) fn segments_failed(&self, scratch: &mut Scratch, index: usize, error: &io::Error) {
        let full = is_full(error);
        let out_of_handles = is_out_of_handles(error);
        let name = scratch.plans[index].partition.name().to_owned();
        if out_of_handles {
            tracing::warn!(
                partition = name,
                "no file handle is left for a segment: the round is refused"
            );
        } else if full {
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
                } else if out_of_handles {
                    Error::out_of_handles()
                } else {
                    Error::Overloaded {
                        reason: "a segment write failed in the round, and nothing of the round was stored"
                            .into(),
                    }
                });
            }
        }
        let plans = std::mem::take(&mut scratch.plans);
        // The keys and producers' sequences that go with the records are not stored either.
        scratch.forget_records();
        for mut plan in plans {
            self.undo_plan(&mut plan);
        }
    }

    /// Removes the segment files that were made for a plan: the next attempt may begin its segments at other offsets.
    fn undo_plan(&self, plan: &mut Plan) {
        plan.written.clear();
        for segment in plan.new_segments.drain(..) {
            match self.disk.remove_file(&segment.log_path()) {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(partition = plan.partition.name(), %error, "an unused segment file stays: the partition takes no more appends until a restart");
                    // Later appends would make segments around it, and give its offsets to other records. Without them,
                    // it is behind the last segment, where the next start finds and removes it.
                    plan.partition.writer.lock().failed = Some(error.to_string());
                }
            }
        }
    }
}

/// Notes a file with bytes that are not synced.
fn note_written(written: &mut Vec<(Offset, Arc<WriteFile>)>, base: Offset, file: Arc<WriteFile>) {
    if written.last().is_none_or(|(last, _)| *last != base) {
        written.push((base, file));
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
