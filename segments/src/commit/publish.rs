//! Publishing a durable round: readers see it, and its partitions go to the syncer's list.
//!
//! Nothing here touches the disk or can fail. From here on, all of the round survives a crash.

use std::sync::Arc;

use super::plan::{Control, Plan, Planned};
use crate::append::producers::Producers;
use crate::engine::Engine;
use crate::segment::BatchNote;

impl Engine {
    /// Makes a plan's records readable. The journal's sync has returned.
    pub(super) fn publish(&self, plan: &Plan) {
        let (mut from, mut bytes) = (0, 0);
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
            bytes += notes.iter().map(|note| note.bytes).sum::<u64>();
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
        plan.partition.count_appended(bytes);
        plan.partition.publish(&plan.new_segments, plan.next_offset);
        // A sync that failed meanwhile did not find the new segments in the partition.
        if !plan.new_segments.is_empty() && plan.partition.writer.lock().is_unsyncable {
            for segment in &plan.new_segments {
                segment.distrust();
            }
        }
    }

    /// Applies the changes of the state that were journalled beside the records, before these can be read: whoever sees
    /// records must find the state that goes with them.
    pub(super) fn apply_state(&self, controls: &[Control]) {
        if controls.is_empty() {
            return;
        }
        let mut state = self.state.write();
        for control in controls {
            if let Control::State(change, _) = control {
                state.apply(&change.key, change.value.as_deref());
            }
        }
    }

    /// Applies the other journalled changes: deleted topics and moved log starts.
    pub(super) fn apply(&self, controls: &[Control], producers: &mut Producers) {
        for control in controls {
            match control {
                Control::State(..) => {}
                Control::DeleteTopic(topic) => {
                    topic.set_deleted();
                    self.catalog.forget(topic);
                    self.keys.lock().forget_topic(topic.id());
                    producers.forget_topic(topic.id());
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
