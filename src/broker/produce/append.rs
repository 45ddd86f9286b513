//! Makes one append from placed records.

use super::placing::Built;
use crate::broker::engine::{AppendRequest, Log, Offset, Part, StateChange, Topic};
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::partitioner::keyed_elsewhere;

/// Adds the records of a topic to an append. `moved` says that a record with a key is placed outside its key's
/// partition: the same append then marks the topic for good, so that readers by key search all partitions.
///
/// # Errors
/// [`Reason::UnknownTopic`] if the topic was deleted meanwhile: nothing is appended.
pub fn add_to(
    request: &mut AppendRequest,
    log: &Log,
    topic: &Topic,
    built: Vec<Built>,
    expected_offset: Option<Offset>,
    moved: bool,
) -> Result<(), Refusal> {
    request.parts.reserve_exact(built.len());
    for built in built {
        let partition = topic
            .partition(built.partition)
            .filter(|partition| !partition.is_deleted())
            .ok_or_else(|| {
                let detail = format!("the topic {} has been deleted", topic.name());
                Refusal::new(Reason::UnknownTopic, detail)
            })?;
        request.parts.push(
            Part::new(partition, built.records)
                .expecting(expected_offset)
                .json_lines(built.json_lines),
        );
    }
    if moved {
        let key = keyed_elsewhere(topic.id());
        if log.state_get(&key).is_none() {
            let value = Some(vec![1]);
            request.state.push(StateChange { key, value });
        }
    }
    Ok(())
}
