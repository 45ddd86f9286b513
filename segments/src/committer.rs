//! Group commit over all partitions: one round after the other, each made durable by one sync of the journal.
//!
//! A round takes the requests that wait, in order of arrival, and
//! 1. plans: checks conditions, gives offsets, seals the small requests of a partition into one batch;
//! 2. writes the batches at their positions in the segments (page cache only);
//! 3. writes the round into the journal, and answers `ack=written`;
//! 4. syncs the journal;
//! 5. publishes every partition's new end, wakes the readers, and answers `ack=durable`.
//!
//! Crash: before the journal's write is on stable storage, nothing of the round is there: what it left in segments is
//! cut by recovery. After that all of it is. Requests are in the journal's order, a round is atomic, so each is whole
//! or not there.
//!
//! A failed segment write fails the requests with records of that round (nothing was stored, and positions have not
//! moved); where the cause is a full disk they go on when there is space, else the partition takes no more appends. A
//! failed journal write or sync ends all appends.

use std::io::IoSlice;
use std::sync::Arc;

use crate::batch::{BatchBuilder, SealedBatch};
use crate::disk::OpenMode;
use crate::engine::Engine;
use crate::error::{Error, Result, is_full};
use crate::index::MAX_RELATIVE_OFFSET;
use crate::journal::format::{BLOCK_BYTES, ITEM_OVERHEAD_BYTES, ROUND_HEADER_BYTES, RoundBuilder};
use crate::partition::{Active, Partition, Unsynced, WriteFile, Writer};
use crate::request::{AppendRequest, Operation, Part, Queued, Records};
use crate::segment::{BatchNote, Segment};
use crate::state::StateChange;
use crate::sync::atomic::Ordering;
use crate::ticket::{Answer, Appended};
use crate::topic::Topic;
use crate::types::{Ack, FilePos, Offset, TimestampMs, TopicId};

/// Small requests are combined into batches of at most this many bytes: large enough that the header is nothing,
/// small enough that a reader of one record does not decode much.
const COMBINED_BYTES: usize = 256 << 10;
/// Room that a combined batch is given ahead, so that small requests do not make it grow one by one.
const COMBINE_AHEAD_BYTES: usize = 4 << 10;
/// The most offsets that lie between a segment's base and a record in it: what its index can hold.
const MAX_SEGMENT_OFFSETS: u64 = MAX_RELATIVE_OFFSET;

/// Buffers that rounds use again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    requests: Vec<Queued>,
    plans: Vec<Plan>,
    outcomes: Vec<Outcome>,
    journal: Vec<u8>,
    tag: u32,
}

/// What one round does to one partition.
struct Plan {
    partition: Arc<Partition>,
    next_offset: Offset,
    /// The batch that small requests are being combined into, with its first offset.
    open: Option<(BatchBuilder, Offset, bool)>,
    batches: Vec<Planned>,
    /// The segments that the batches needed; filled by the write.
    new_segments: Vec<Arc<Segment>>,
    /// The active segment after the write.
    active: Option<Active>,
    /// The segments that it replaced.
    closed_segments: Vec<Arc<Segment>>,
    /// The file of the segment that was active before, if it was cut.
    ended: Option<Arc<WriteFile>>,
}

struct Planned {
    batch: SealedBatch,
    base_offset: Offset,
    next_offset: Offset,
    json_lines: bool,
    /// Where it was written.
    place: Option<(Arc<Segment>, FilePos)>,
}

/// The answer to a request, until it may be given.
struct Outcome {
    answer: Answer,
    ack: Ack,
    has_records: bool,
    result: Result<Appended>,
}

impl Outcome {
    /// Whether it was refused for what may be an earlier request of the same round: for an end that would come of it, or
    /// for a topic that it deletes. If the round fails that is not so, and must not be answered.
    fn may_hang_on_the_round(&self) -> bool {
        matches!(
            self.result,
            Err(Error::OffsetMismatch { .. } | Error::NotFound(_))
        )
    }
}

/// A change that is journalled beside the records.
enum Control {
    /// With whether its request has records: it is stored with them or not at all.
    State(StateChange, bool),
    DeleteTopic(Arc<Topic>),
    LogStart(Arc<Partition>, Offset),
}

impl Plan {
    fn new(partition: Arc<Partition>, next_offset: Offset) -> Self {
        Self {
            partition,
            next_offset,
            open: None,
            batches: Vec::new(),
            new_segments: Vec::new(),
            active: None,
            closed_segments: Vec::new(),
            ended: None,
        }
    }

    /// Gives a part its offsets; returns the first.
    fn add(&mut self, part: Part) -> Offset {
        let base_offset = self.next_offset;
        self.next_offset = base_offset.plus(part.records.count());
        match part.records {
            Records::Loose(builder) => match &mut self.open {
                Some((open, _, json_lines))
                    if open.len() + builder.len() <= COMBINED_BYTES && open.can_append(&builder) =>
                {
                    open.reserve(COMBINE_AHEAD_BYTES.max(builder.len() * 2));
                    open.append(&builder);
                    *json_lines &= part.json_lines;
                }
                _ => {
                    self.close_batch();
                    self.open = Some((builder, base_offset, part.json_lines));
                }
            },
            Records::Sealed(batches) => {
                self.close_batch();
                let mut next = base_offset;
                for batch in batches {
                    let base = next;
                    next = base.plus(u64::from(batch.record_count()));
                    self.push(batch, base, next, part.json_lines);
                }
            }
        }
        base_offset
    }

    fn close_batch(&mut self) {
        if let Some((builder, base, json_lines)) = self.open.take() {
            let next = base.plus(u64::from(builder.record_count()));
            self.push(builder.seal(), base, next, json_lines);
        }
    }

    fn push(&mut self, mut batch: SealedBatch, base_offset: Offset, next_offset: Offset, json_lines: bool) {
        batch.set_base_offset(base_offset);
        self.batches.push(Planned {
            batch,
            base_offset,
            next_offset,
            json_lines,
            place: None,
        });
    }
}

impl Engine {
    /// Runs one round; `false` if nothing was queued.
    ///
    /// # Errors
    /// [`Error::LogFailed`] once the journal has failed: every request is answered with it.
    pub(crate) fn run_round(&self) -> Result<bool> {
        let mut scratch = self.scratch.lock();
        let scratch = &mut *scratch;
        self.queue.take(self.round_bytes, &mut scratch.requests);
        if scratch.requests.is_empty() {
            return Ok(false);
        }
        if let Some(error) = self.failure() {
            for request in scratch.requests.drain(..) {
                wake(request.answer.give(Err(error.clone())));
            }
            return Err(error);
        }
        scratch.tag = scratch.tag.wrapping_add(1).max(1);
        let mut controls = self.plan(scratch);
        if let Err(error) = self.make_room(&scratch.plans, &controls) {
            return self.refuse_round(scratch, error);
        }
        if let Err((index, error)) = self.write_segments(&mut scratch.plans) {
            self.segments_failed(scratch, index, &error);
            controls.retain(|control| !matches!(control, Control::State(_, true)));
        }
        let result = self.commit(scratch, &controls);
        if let Err(error) = &result {
            self.fail(error);
            for outcome in &mut scratch.outcomes {
                if outcome.result.is_ok() {
                    outcome.result = Err(error.clone());
                } else if outcome.may_hang_on_the_round() {
                    // It was refused for something that is not durable, and itself stored nothing.
                    outcome.result = Err(self.failure().unwrap_or_else(|| error.clone()));
                }
            }
        }
        scratch.plans.clear();
        let wakers: Vec<_> = scratch
            .outcomes
            .drain(..)
            .filter_map(|outcome| outcome.answer.give(outcome.result))
            .collect();
        for waker in wakers {
            waker.wake();
        }
        result.map(|()| true)
    }

    /// Makes sure that the journal has room for the round, before anything of it is written: on a full disk it can
    /// still be refused as a whole.
    fn make_room(&self, plans: &[Plan], controls: &[Control]) -> Result<()> {
        let batches = plans.iter().flat_map(|plan| &plan.batches);
        let records: usize = batches
            .map(|planned| planned.batch.as_bytes().len() + ITEM_OVERHEAD_BYTES)
            .sum();
        let changes: usize = controls
            .iter()
            .map(|control| {
                ITEM_OVERHEAD_BYTES
                    + match control {
                        Control::State(change, _) => {
                            change.key.len() + change.value.as_ref().map_or(0, Vec::len)
                        }
                        Control::DeleteTopic(_) | Control::LogStart(..) => 0,
                    }
            })
            .sum();
        let bytes = (ROUND_HEADER_BYTES + records + changes) as u64;
        if self.journal.is_full_for(bytes.next_multiple_of(BLOCK_BYTES)) {
            self.next_journal_file()?;
        }
        Ok(())
    }

    /// Answers a round of which nothing was written. A full disk is not the log's failure: the next round tries again.
    fn refuse_round(&self, scratch: &mut Scratch, error: Error) -> Result<bool> {
        let error = match error {
            Error::StorageFull | Error::LogFailed { .. } => error,
            other => Error::LogFailed {
                reason: other.to_string(),
                in_flight: false,
            },
        };
        let is_full = matches!(error, Error::StorageFull);
        if is_full {
            if !self.storage_full.swap(true, Ordering::Relaxed) {
                tracing::error!("the disk is full: there is no room for the journal");
            }
        } else {
            self.fail(&error);
        }
        scratch.plans.clear();
        for mut outcome in scratch.outcomes.drain(..) {
            if outcome.may_hang_on_the_round() {
                outcome.result = Err(error.clone());
            }
            wake(outcome.answer.give(outcome.result.and(Err(error.clone()))));
        }
        if is_full { Ok(true) } else { Err(error) }
    }

    /// Checks conditions and gives offsets, in order of arrival.
    fn plan(&self, scratch: &mut Scratch) -> Vec<Control> {
        let mut controls = Vec::new();
        let mut deleting = Vec::new();
        for Queued {
            operation, answer, ..
        } in scratch.requests.drain(..)
        {
            let plans = &mut scratch.plans;
            let (ack, has_records, result) = match operation {
                Operation::Append(request) => {
                    let (ack, has_records) = (request.ack, !request.parts.is_empty());
                    (
                        ack,
                        has_records,
                        plan_append(plans, scratch.tag, request, &mut controls, &deleting),
                    )
                }
                Operation::Trim { partition, before } => {
                    let result = plan_trim(&partition, before, &deleting);
                    if result.is_ok() {
                        controls.push(Control::LogStart(partition, before));
                    }
                    (Ack::Durable, false, result)
                }
                Operation::DeleteTopic { topic, state } => {
                    let result = if topic.is_deleted() || deleting.contains(&topic.id()) {
                        Err(Error::NotFound(format!("the topic {}", topic.name())))
                    } else {
                        // Readers have the topic until the deletion is durable; what follows in this round is refused.
                        deleting.push(topic.id());
                        controls.push(Control::DeleteTopic(topic));
                        controls.extend(state.into_iter().map(|change| Control::State(change, false)));
                        Ok(Appended::default())
                    };
                    (Ack::Durable, false, result)
                }
            };
            scratch.outcomes.push(Outcome {
                answer,
                ack,
                has_records,
                result,
            });
        }
        for plan in &mut scratch.plans {
            plan.close_batch();
        }
        controls
    }

    /// Writes every plan's batches. On an error no partition's position has moved; the index names the plan that failed.
    fn write_segments(&self, plans: &mut [Plan]) -> Result<(), (usize, std::io::Error)> {
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

    fn write_plan(&self, plan: &mut Plan, now: TimestampMs) -> std::io::Result<()> {
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
    fn end_file(&self, closing: &Active) -> std::io::Result<Option<Arc<WriteFile>>> {
        match self.disk.open(&closing.segment.log_path(), OpenMode::ReadWrite) {
            Ok(file) => {
                if file.len()? > closing.position.get() {
                    file.set_len(closing.position.get())?;
                }
                Ok(Some(WriteFile::new(file, &self.open_files)))
            }
            // It was missing when the log was opened, which is reported.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
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
    ) -> std::io::Result<Active> {
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
            if let Some(known) = writer.unsynced.iter_mut().find(|known| known.base == base) {
                known.writes += 1;
            } else {
                let file = file.or_else(|| self.open_for_sync(&plan.partition, base));
                if let Some(file) = file {
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
        }
    }

    /// A segment that was made and closed within one round is opened again for its sync.
    fn open_for_sync(&self, partition: &Partition, base: Offset) -> Option<Arc<WriteFile>> {
        let path = partition.dir().join(format!("{base:020}.log"));
        let file = self.disk.open(&path, OpenMode::ReadWrite).ok()?;
        Some(WriteFile::new(file, &self.open_files))
    }

    /// Answers the requests with records after a failed segment write; what has none goes on.
    fn segments_failed(&self, scratch: &mut Scratch, index: usize, error: &std::io::Error) {
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
            if outcome.has_records && (outcome.result.is_ok() || outcome.may_hang_on_the_round()) {
                outcome.result = Err(if full {
                    Error::StorageFull
                } else {
                    Error::Overloaded {
                        queued_bytes: self.queue.queued_bytes(),
                    }
                });
            }
        }
        for plan in scratch.plans.drain(..) {
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

    /// Journals, syncs and publishes what was planned and written.
    fn commit(&self, scratch: &mut Scratch, controls: &[Control]) -> Result<()> {
        let failed = |what: &str, error: &std::io::Error| Error::LogFailed {
            reason: format!("{what} the journal: {error}"),
            in_flight: true,
        };
        let Scratch {
            plans,
            outcomes,
            journal,
            ..
        } = scratch;
        let mut builder = RoundBuilder::new(std::mem::take(journal));
        let mut records = 0;
        let mut bytes = 0;
        for plan in &*plans {
            for planned in &plan.batches {
                let (segment, position) = planned
                    .place
                    .as_ref()
                    .expect("write_segments has placed every batch");
                let batch = planned.batch.as_bytes();
                builder.append(
                    plan.partition.id(),
                    segment.base_offset(),
                    *position,
                    planned.json_lines,
                    batch,
                );
                records += planned.next_offset.since(planned.base_offset);
                bytes += batch.len() as u64;
            }
        }
        for control in controls {
            match control {
                Control::State(change, _) => builder.state(&change.key, change.value.as_deref()),
                Control::DeleteTopic(topic) => builder.topic_deleted(topic.id()),
                Control::LogStart(partition, offset) => builder.log_start(partition.id(), *offset),
            }
        }
        if builder.is_empty() {
            *journal = builder.into_buffer();
            return Ok(());
        }
        let round = self
            .journal
            .write(&mut builder)
            .map_err(|error| failed("writing", &error))?;
        *journal = builder.into_buffer();
        for plan in &*plans {
            plan.partition.set_written(plan.next_offset);
        }
        answer_written(outcomes);

        let started = self.clock.monotonic();
        self.journal.sync().map_err(|error| failed("syncing", &error))?;
        self.stats.journal_synced(self.clock.monotonic().since(started));

        for plan in &*plans {
            self.publish(plan);
        }
        self.apply(controls);
        self.journal.set_published(round);
        if !plans.is_empty() {
            self.storage_full.store(false, Ordering::Relaxed);
        }
        self.stats.round(outcomes.len() as u64, records, bytes);
        Ok(())
    }

    /// Makes a plan's records readable. The journal's sync has returned.
    fn publish(&self, plan: &Plan) {
        let mut from = 0;
        while let Some((segment, _)) = plan.batches.get(from).and_then(|planned| planned.place.as_ref()) {
            let in_segment = |planned: &&Planned| {
                planned
                    .place
                    .as_ref()
                    .is_some_and(|(other, _)| Arc::ptr_eq(other, segment))
            };
            let notes: Vec<BatchNote> = plan.batches[from..]
                .iter()
                .take_while(in_segment)
                .map(note)
                .collect();
            segment.publish(&notes);
            from += notes.len();
        }
        {
            let mut writer = plan.partition.writer.lock();
            if let Some(active) = &plan.active {
                writer.published.active = Some((active.segment.base_offset(), active.position, active.made));
            }
            writer.published.next_offset = plan.next_offset;
            writer
                .closed_segments
                .extend(plan.closed_segments.iter().cloned());
            self.mark_dirty(&plan.partition, &mut writer);
        }
        plan.partition.publish(&plan.new_segments, plan.next_offset);
        // A sync that failed meanwhile has not seen them among the partition's.
        if !plan.new_segments.is_empty() && plan.partition.writer.lock().is_unsyncable {
            for segment in &plan.new_segments {
                segment.distrust();
            }
        }
    }

    /// Has the syncer look at a partition. Called when something is published, not when it is written: a sync between the
    /// two would take the mark away with what was published before, and never come back for the rest.
    fn mark_dirty(&self, partition: &Arc<Partition>, writer: &mut Writer) {
        if !writer.dirty {
            writer.dirty = true;
            self.dirty.lock().push(Arc::clone(partition));
        }
    }

    /// Applies what was journalled beside the records.
    fn apply(&self, controls: &[Control]) {
        if controls.is_empty() {
            return;
        }
        let mut state = self.state.write();
        for control in controls {
            match control {
                Control::State(change, _) => state.apply(&change.key, change.value.as_deref()),
                Control::DeleteTopic(topic) => {
                    topic.set_deleted();
                    self.catalog.forget(topic);
                }
                Control::LogStart(partition, offset) => {
                    let removed = partition.publish_log_start(*offset);
                    if !removed.is_empty() {
                        let garbage = removed
                            .into_iter()
                            .map(|segment| (Arc::clone(partition), segment));
                        self.garbage.lock().extend(garbage);
                        self.request_sync();
                    }
                    self.mark_dirty(partition, &mut partition.writer.lock());
                }
            }
        }
    }

    /// Goes on to the next journal file, once there is one.
    fn next_journal_file(&self) -> Result<()> {
        let no_end_mark = |error| Error::LogFailed {
            reason: format!("ending a file of the journal: {error}"),
            in_flight: false,
        };
        while !self.journal.switch().map_err(no_end_mark)? {
            if self.options.background {
                self.journal.forget_full();
                self.request_sync();
                self.journal.wait_for_spare()?;
            } else {
                self.sync_segments()?;
                if !self.journal.has_spare() && !self.journal.add_spare(self.spare_files())? {
                    return Err(self.stuck());
                }
            }
        }
        self.request_sync();
        Ok(())
    }
}

fn must_roll(
    active: &Active,
    settings: &crate::topic::TopicSettings,
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

/// Plans one append: all of its conditions are looked at before anything of it is given offsets.
fn plan_append(
    plans: &mut Vec<Plan>,
    tag: u32,
    request: AppendRequest,
    controls: &mut Vec<Control>,
    deleting: &[TopicId],
) -> Result<Appended> {
    for part in &request.parts {
        let slot = match part.partition.slot(tag) {
            Some(slot) => slot,
            None => {
                if is_gone(&part.partition, deleting) {
                    return Err(Error::NotFound(format!("partition {}", part.partition.name())));
                }
                let writer = part.partition.writer.lock();
                if let Some(reason) = &writer.failed {
                    return Err(Error::PartitionFailed(reason.clone()));
                }
                part.partition.set_slot(tag, plans.len());
                plans.push(Plan::new(Arc::clone(&part.partition), writer.next_offset));
                plans.len() - 1
            }
        };
        if is_gone(&part.partition, deleting) {
            return Err(Error::NotFound(format!("partition {}", part.partition.name())));
        }
        let next = plans[slot].next_offset;
        if let Some(expected) = part.expected_offset
            && expected != next
        {
            return Err(Error::OffsetMismatch {
                expected,
                end_offset: next,
            });
        }
        if next.checked_add(part.records.count()).is_none() {
            return Err(Error::Invalid(format!(
                "{} has run out of offsets",
                part.partition.name()
            )));
        }
    }
    let has_records = !request.parts.is_empty();
    let mut base_offsets = Vec::with_capacity(request.parts.len());
    for part in request.parts {
        let slot = part.partition.slot(tag).expect("planned above");
        base_offsets.push(plans[slot].add(part));
    }
    controls.extend(
        request
            .state
            .into_iter()
            .map(|change| Control::State(change, has_records)),
    );
    Ok(Appended { base_offsets })
}

/// Whether a partition was deleted, or is by an earlier request of this round.
fn is_gone(partition: &Partition, deleting: &[TopicId]) -> bool {
    partition.is_deleted() || deleting.contains(&partition.id().topic)
}

fn plan_trim(partition: &Partition, before: Offset, deleting: &[TopicId]) -> Result<Appended> {
    if is_gone(partition, deleting) {
        return Err(Error::NotFound(format!("partition {}", partition.name())));
    }
    let positions = partition.positions();
    if before > positions.end_offset {
        return Err(Error::OutOfRange {
            offset: before,
            log_start_offset: positions.log_start_offset,
            end_offset: positions.end_offset,
        });
    }
    Ok(Appended::default())
}

/// Answers the requests that asked for no more than the operating system.
fn answer_written(outcomes: &mut Vec<Outcome>) {
    if outcomes.iter().all(|outcome| outcome.ack == Ack::Durable) {
        return;
    }
    let answered = outcomes.extract_if(.., |outcome| {
        outcome.ack == Ack::Written && outcome.result.is_ok()
    });
    let wakers: Vec<_> = answered
        .filter_map(|outcome| outcome.answer.give(outcome.result))
        .collect();
    for waker in wakers {
        waker.wake();
    }
}

fn note(planned: &Planned) -> BatchNote {
    let (_, position) = planned.place.as_ref().expect("placed before it is published");
    BatchNote {
        base_offset: planned.base_offset,
        next_offset: planned.next_offset,
        max_timestamp: planned.batch.max_timestamp(),
        position: *position,
        bytes: planned.batch.as_bytes().len() as u64,
        json_lines: planned.json_lines,
    }
}

fn wake(waker: Option<std::task::Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
