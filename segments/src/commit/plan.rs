//! Planning a round: conditions are checked and offsets assigned, in order of arrival; nothing is written.
//!
//! Duplicates are found first (`once`, and [`crate::append::producers`]): they are answered with their first offsets
//! and get no new ones. Then all conditions of a request are checked before any part gets offsets, so it is refused as
//! a whole. Small requests for one partition share a batch. Until all segment writes of the round have worked, only the
//! plan has the new offsets, and the partition's next offset stays: a failed write or a crash leaves nothing to undo.

use std::sync::Arc;

use super::once::{KeyPlanner, key_record};
use super::{Outcome, Scratch};
use crate::append::keys::{Entry, Kept};
use crate::append::producers::{Producers, Sequenced, Verdict};
use crate::append::queue::{Operation, Queued};
use crate::append::request::{AppendRequest, Once, Part, Records};
use crate::batch::{BatchBuilder, SealedBatch};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::state::StateChange;
use crate::segment::Segment;
use crate::ticket::Appended;
use crate::topic::Topic;
use crate::topic::partition::{Active, Partition, WriteFile};
use crate::types::{Ack, FilePos, Offset, TimestampMs, TopicId};

/// Small requests are combined into batches of at most this many bytes: large enough that the header costs little,
/// small enough that a reader of one record does not decode much.
const COMBINED_BYTES: usize = 256 << 10;
/// Room that is reserved ahead in a combined batch, so that it does not grow with every small request.
const COMBINE_AHEAD_BYTES: usize = 4 << 10;

/// One round's appends to one partition.
pub(super) struct Plan {
    pub(super) partition: Arc<Partition>,
    pub(super) next_offset: Offset,
    /// The batch into which small requests are combined, its first offset, and whether every value is JSON on one line.
    open: Option<(BatchBuilder, Offset, bool)>,
    pub(super) batches: Vec<Planned>,
    /// The segments that were made for the batches; filled by the write.
    pub(super) new_segments: Vec<Arc<Segment>>,
    /// The active segment after the write.
    pub(super) active: Option<Active>,
    /// The segments that the round closed.
    pub(super) closed_segments: Vec<Arc<Segment>>,
    /// The files that the batches were written to and that are not synced, each with its segment's base offset.
    pub(super) written: Vec<(Offset, Arc<WriteFile>)>,
}

/// A batch with its offsets.
pub(super) struct Planned {
    pub(super) batch: SealedBatch,
    pub(super) base_offset: Offset,
    pub(super) next_offset: Offset,
    pub(super) json_lines: bool,
    /// Where it was written.
    pub(super) place: Option<(Arc<Segment>, FilePos)>,
}

/// A change that is journalled beside the records.
pub(super) enum Control {
    /// A change, and whether its request has records: then it is stored with them or not at all.
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
            written: Vec::new(),
        }
    }

    /// Assigns a part its offsets; returns the first.
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
                    next = base.plus(u64::from(batch.offset_count()));
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
    /// Checks conditions and assigns offsets, in order of arrival; returns the changes beside the records.
    pub(super) fn plan(&self, scratch: &mut Scratch) -> Vec<Control> {
        let Scratch {
            requests,
            plans,
            outcomes,
            tag,
            keyed,
            producers,
            ..
        } = scratch;
        let mut planner = Planner {
            plans,
            tag: *tag,
            controls: Vec::new(),
            deleting: Vec::new(),
            keys: KeyPlanner::begin(self, keyed),
            producers,
            now: self.clock.now(),
        };
        outcomes.extend(requests.drain(..).map(|queued| planner.queued(queued)));
        let controls = planner.end();
        for plan in plans {
            plan.close_batch();
        }
        controls
    }
}

/// Plans a round, request by request.
struct Planner<'a> {
    plans: &'a mut Vec<Plan>,
    tag: u32,
    controls: Vec<Control>,
    /// Topics that the round deletes.
    deleting: Vec<TopicId>,
    keys: KeyPlanner<'a>,
    producers: &'a mut Producers,
    now: TimestampMs,
}

/// The result of planning a request, and whether it is settled, whatever the round's result is.
type Answered = (Result<Appended>, bool);

impl Planner<'_> {
    fn queued(&mut self, queued: Queued) -> Outcome {
        let (mut ack, mut has_records) = (Ack::Durable, false);
        let (result, is_settled) = match queued.operation {
            Operation::Append(request) => {
                (ack, has_records) = (request.ack, !request.parts.is_empty());
                self.append(request).unwrap_or_else(|error| (Err(error), false))
            }
            Operation::Trim {
                partition,
                before,
                state,
            } => {
                let result = plan_trim(&partition, before, &self.deleting);
                if result.is_ok() {
                    self.controls.push(Control::LogStart(partition, before));
                    self.change(state);
                }
                (result, false)
            }
            Operation::DeleteTopic { topic, state } => (self.delete(topic, state), false),
            Operation::KeepKeys(entries) => {
                has_records = true;
                (self.keep_keys(&entries), false)
            }
        };
        Outcome {
            answer: queued.answer,
            ack,
            has_records: has_records && !is_settled,
            is_settled,
            result,
        }
    }

    /// Ends the planning; returns the changes beside the records.
    fn end(mut self) -> Vec<Control> {
        let mut changes = Vec::new();
        self.producers.changes(self.now, &mut changes);
        self.controls
            .extend(changes.into_iter().map(|change| Control::State(change, true)));
        self.controls
    }

    fn delete(&mut self, topic: Arc<Topic>, state: Vec<StateChange>) -> Result<Appended> {
        if topic.is_deleted() || self.deleting.contains(&topic.id()) {
            return Err(Error::NotFound(format!("the topic {}", topic.name())));
        }
        // Readers have the topic until the deletion is durable; later requests to it in this round are refused.
        self.deleting.push(topic.id());
        self.controls.push(Control::DeleteTopic(topic));
        self.change(state);
        Ok(Appended::default())
    }

    /// Adds changes of a request without records.
    fn change(&mut self, state: Vec<StateChange>) {
        self.controls
            .extend(state.into_iter().map(|change| Control::State(change, false)));
    }

    /// Plans one append: looks for a repetition, then checks all of its conditions, and only then assigns offsets.
    fn append(&mut self, request: AppendRequest) -> Result<Answered> {
        let id = request.once.as_ref().map(|once| self.keys.id(once)).transpose()?;
        if let (Some(once), Some(id)) = (&request.once, &id) {
            // A key of the whole log outlives the topics of its request.
            if once.topic.is_some() {
                self.check_not_gone(&request.parts[0].partition)?;
            }
            if let Some(answer) = self.keys.find(once, id, self.now) {
                return Ok(answer);
            }
        }
        for part in &request.parts {
            if let Some(batch) = Sequenced::of_part(&part.records) {
                self.check_not_gone(&part.partition)?;
                let key = batch.key(part.partition.id());
                if let Verdict::Repeated(base, is_durable) = self.producers.check(&key, &batch, self.now)? {
                    return self.repeated(&request, id.as_deref(), base, is_durable);
                }
            }
        }
        let mut base_offsets = Vec::with_capacity(request.parts.len());
        for part in &request.parts {
            let slot = self.slot(&part.partition)?;
            let next = self.plans[slot].next_offset;
            if let Some(expected) = part.expected_offset
                && expected != next
            {
                return Err(Error::OffsetMismatch {
                    expected,
                    end_offset: next,
                });
            }
            check_offsets(&part.partition, next, part.records.count())?;
            base_offsets.push(next);
        }
        if let (Some(once), Some(id)) = (&request.once, &id) {
            self.remember(once, id, &request.parts, &base_offsets)?;
        }
        // Nothing is refused from here on.
        let has_records = !request.parts.is_empty();
        for (part, base_offset) in request.parts.into_iter().zip(&base_offsets) {
            if let Some(batch) = Sequenced::of_part(&part.records) {
                let key = batch.key(part.partition.id());
                self.producers.append(key, &batch, *base_offset, self.now);
            }
            let slot = part.partition.slot(self.tag).expect("planned above");
            let given = self.plans[slot].add(part);
            debug_assert_eq!(given, *base_offset);
        }
        let receipts = request.receipts.into_iter();
        let receipts = receipts.map(|receipt| receipt.change(&base_offsets));
        let changes = request.state.into_iter().chain(receipts);
        self.controls
            .extend(changes.map(|change| Control::State(change, has_records)));
        let appended = Appended {
            base_offsets,
            repeated: None,
        };
        Ok((Ok(appended), false))
    }

    /// The index of the round's plan for a partition, which is made if there is none.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PartitionFailed`].
    fn slot(&mut self, partition: &Arc<Partition>) -> Result<usize> {
        self.check_not_gone(partition)?;
        if let Some(slot) = partition.slot(self.tag) {
            return Ok(slot);
        }
        let writer = partition.writer.lock();
        if let Some(reason) = &writer.failed {
            return Err(Error::PartitionFailed(reason.clone()));
        }
        partition.set_slot(self.tag, self.plans.len());
        self.plans
            .push(Plan::new(Arc::clone(partition), writer.next_offset));
        Ok(self.plans.len() - 1)
    }

    fn check_not_gone(&self, partition: &Partition) -> Result<()> {
        if is_gone(partition, &self.deleting) {
            return Err(Error::NotFound(format!("partition {}", partition.name())));
        }
        Ok(())
    }

    /// Adds the record of a key to the round. The last check of a request: if it is not refused here, all of it is
    /// appended.
    ///
    /// # Errors
    /// [`Error::KeysFailed`], and those of [`KeyPlanner::add`].
    fn remember(&mut self, once: &Once, id: &[u8], parts: &[Part], base_offsets: &[Offset]) -> Result<()> {
        let log = self.keys.log()?;
        let slot = self.slot(&log).map_err(|error| match error {
            // The failed partition is not the one that the request names.
            Error::PartitionFailed(reason) => Error::KeysFailed(reason),
            other => other,
        })?;
        let offset = self.plans[slot].next_offset;
        check_offsets(&log, offset, 1)?;
        let indexes = parts.iter().map(|part| part.partition.id().index);
        let entry = Entry {
            fingerprint: once.fingerprint,
            expires: once.expires,
            parts: indexes.zip(base_offsets.iter().copied()).collect(),
            note: &once.note,
        };
        let value = entry.encode();
        if self.keys.add(id, &value, offset, self.now)? {
            self.plans[slot].add(key_record(log, id, &value, self.now));
        }
        Ok(())
    }

    /// The answer to a producer's batch that was appended before. If it comes with a key, the key is remembered
    /// nevertheless: keys may be known for longer than batches.
    fn repeated(
        &mut self,
        request: &AppendRequest,
        id: Option<&[u8]>,
        base_offset: Offset,
        is_durable: bool,
    ) -> Result<Answered> {
        if request.parts.len() > 1 {
            return Err(Error::Invalid(
                "one of the batches was appended before, and the request has others".into(),
            ));
        }
        let appended = Appended {
            base_offsets: vec![base_offset],
            repeated: Some(Vec::new()),
        };
        let (Some(once), Some(id)) = (&request.once, id) else {
            return Ok((Ok(appended), is_durable));
        };
        self.remember(once, id, &request.parts, &appended.base_offsets)?;
        Ok((Ok(appended), false))
    }

    /// Appends those records of keys again that are still needed.
    fn keep_keys(&mut self, entries: &[Kept]) -> Result<Appended> {
        let log = self.keys.log()?;
        let slot = self.slot(&log)?;
        for kept in entries {
            let offset = self.plans[slot].next_offset;
            check_offsets(&log, offset, 1)?;
            if self.keys.keep(kept, offset, self.now) {
                self.plans[slot].add(key_record(Arc::clone(&log), &kept.id, &kept.value, self.now));
            }
        }
        Ok(Appended::default())
    }
}

fn check_offsets(partition: &Partition, next: Offset, count: u64) -> Result<()> {
    if next.checked_add(count).is_none() {
        return Err(Error::Invalid(format!(
            "{} has run out of offsets",
            partition.name()
        )));
    }
    Ok(())
}

/// Whether a partition was deleted, or an earlier request of this round deletes it.
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
