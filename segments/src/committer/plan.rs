//! Planning a round: conditions are checked and offsets given, in order of arrival; nothing is written.
//!
//! All conditions of a request are looked at before anything of it is given offsets, so it is refused as a whole. A
//! partition's small requests become one batch. Offsets that are given here are a plan's own: the partition's move when
//! the round's segment writes have worked, so a crash or a failed write takes nothing back.

use std::sync::Arc;

use super::{Outcome, Scratch};
use crate::batch::{BatchBuilder, SealedBatch};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::partition::{Active, Partition, WriteFile};
use crate::request::{AppendRequest, Operation, Part, Queued, Records};
use crate::segment::Segment;
use crate::state::StateChange;
use crate::ticket::Appended;
use crate::topic::Topic;
use crate::types::{Ack, FilePos, Offset, TopicId};

/// Small requests are combined into batches of at most this many bytes: large enough that the header is nothing,
/// small enough that a reader of one record does not decode much.
const COMBINED_BYTES: usize = 256 << 10;
/// Room that a combined batch is given ahead, so that small requests do not make it grow one by one.
const COMBINE_AHEAD_BYTES: usize = 4 << 10;

/// What one round does to one partition.
pub(super) struct Plan {
    pub(super) partition: Arc<Partition>,
    pub(super) next_offset: Offset,
    /// The batch that small requests are being combined into, with its first offset.
    open: Option<(BatchBuilder, Offset, bool)>,
    pub(super) batches: Vec<Planned>,
    /// The segments that the batches needed; filled by the write.
    pub(super) new_segments: Vec<Arc<Segment>>,
    /// The active segment after the write.
    pub(super) active: Option<Active>,
    /// The segments that it replaced.
    pub(super) closed_segments: Vec<Arc<Segment>>,
    /// The file of the segment that was active before, if it was cut.
    pub(super) ended: Option<Arc<WriteFile>>,
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
    /// Checks conditions and gives offsets, in order of arrival.
    pub(super) fn plan(&self, scratch: &mut Scratch) -> Vec<Control> {
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
    Ok(Appended {
        base_offsets,
        repeated: None,
    })
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
