//! What a copy holds: the positions of every partition and the state, as of one moment between two rounds.

use std::sync::Arc;

use crate::engine::Engine;
use crate::files::description::TopicSpec;
use crate::topic::Topic;
use crate::topic::catalog::is_internal;
use crate::topic::partition::Partition;
use crate::types::{FilePos, Offset, TimestampMs};

/// One moment of a log.
pub(crate) struct Capture {
    /// Every round below this one is published, and none from it on.
    pub(super) round: u64,
    pub(super) next_topic_id: u64,
    /// The encoded state.
    pub(super) state: Vec<u8>,
    /// Internal topics first.
    pub(super) topics: Vec<CapturedTopic>,
    /// How long no round could begin.
    pub(super) held: std::time::Duration,
}

pub(super) struct CapturedTopic {
    pub(super) topic: Arc<Topic>,
    pub(super) spec: Arc<TopicSpec>,
    pub(super) partitions: Vec<CapturedPartition>,
}

pub(super) struct CapturedPartition {
    pub(super) partition: Arc<Partition>,
    pub(super) log_start_offset: Offset,
    pub(super) next_offset: Offset,
    /// The segment that is appended to: its base, the position after the last published batch, when it was made.
    pub(super) active: Option<(Offset, FilePos, TimestampMs)>,
    pub(super) segments: Vec<CapturedSegment>,
}

pub(super) struct CapturedSegment {
    pub(super) base: Offset,
    /// Where its offsets end.
    pub(super) end: Offset,
    pub(super) bytes: u64,
    /// Nothing is appended to it any more.
    pub(super) is_closed: bool,
    /// All of it was synced without an error.
    pub(super) is_synced: bool,
}

/// Notes what is published. The caller keeps rounds and changes of topics away.
pub(crate) fn capture(engine: &Engine) -> Capture {
    let began = engine.clock.monotonic();
    let mut topics = engine.catalog.list();
    topics.sort_by_key(|topic| !is_internal(topic.name()));
    let topics = topics.into_iter().map(capture_topic).collect();
    let state = engine.state.read().encode();
    Capture {
        round: engine.journal.published().round,
        next_topic_id: engine.catalog.next_topic_id(),
        state,
        topics,
        held: engine.clock.monotonic().since(began),
    }
}

fn capture_topic(topic: Arc<Topic>) -> CapturedTopic {
    CapturedTopic {
        spec: topic.spec(),
        partitions: topic.partitions().iter().map(capture_partition).collect(),
        topic,
    }
}

fn capture_partition(partition: &Arc<Partition>) -> CapturedPartition {
    let writer = partition.writer.lock();
    let active = writer.published.active;
    let unsynced: Vec<Offset> = writer.unsynced.iter().map(|unsynced| unsynced.base).collect();
    drop(writer);
    let view = partition.view();
    let ends = view.segments.iter().skip(1).map(|segment| segment.base_offset());
    let ends = ends.chain([view.end_offset]);
    let segments = view.segments.iter().zip(ends).map(|(segment, end)| {
        let base = segment.base_offset();
        CapturedSegment {
            base,
            end,
            bytes: segment.readable().get(),
            is_closed: active.is_none_or(|(active, ..)| active != base),
            is_synced: !unsynced.contains(&base),
        }
    });
    CapturedPartition {
        log_start_offset: view.log_start_offset,
        next_offset: view.end_offset,
        active,
        segments: segments.collect(),
        partition: Arc::clone(partition),
    }
}
