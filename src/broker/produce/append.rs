//! Makes one append from placed records.

use std::sync::Arc;

use super::placing::Built;
use crate::broker::engine::batch::SealedBatch;
use crate::broker::engine::{AppendRequest, Log, Offset, Part, Records, StateChange, Topic};
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::partitioner::keyed_elsewhere;

/// Records of several calls for one partition are one batch up to this size.
const JOINED_BYTES: usize = 256 << 10;

/// Where the records for a partition are in an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The place of the part.
    pub part: u32,
    /// How many records it has before them.
    pub shift: u32,
}

/// Adds the records of a topic to an append; returns where they are there, in order. Parts that the append has already
/// are continued. `moved` says that a record with a key is placed outside its key's
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
) -> Result<Vec<At>, Refusal> {
    let before = request.parts.len();
    let mut places = Vec::with_capacity(built.len());
    request.parts.reserve_exact(built.len());
    for built in built {
        let partition = topic
            .partition(built.partition)
            .filter(|partition| !partition.is_deleted())
            .ok_or_else(|| {
                let detail = format!("the topic {} has been deleted", topic.name());
                Refusal::new(Reason::UnknownTopic, detail)
            })?;
        let mut others = request.parts[..before].iter();
        if let Some(found) = others.position(|part| Arc::ptr_eq(&part.partition, &partition)) {
            let part = &mut request.parts[found];
            places.push(At {
                part: found as u32,
                shift: count(&part.records),
            });
            let records = std::mem::replace(&mut part.records, Records::Sealed(Vec::new()));
            part.records = join(records, built.records);
            part.json_lines &= built.json_lines;
            continue;
        }
        places.push(At {
            part: request.parts.len() as u32,
            shift: 0,
        });
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
    Ok(places)
}

fn count(records: &Records) -> u32 {
    match records {
        Records::Loose(builder) => builder.record_count(),
        Records::Sealed(batches) => batches.iter().map(SealedBatch::record_count).sum(),
    }
}

fn sealed(records: Records) -> Vec<SealedBatch> {
    match records {
        Records::Loose(builder) => vec![builder.seal()],
        Records::Sealed(batches) => batches,
    }
}

fn join(first: Records, second: Records) -> Records {
    match (first, second) {
        (Records::Loose(mut first), Records::Loose(second))
            if first.len() + second.len() <= JOINED_BYTES && first.can_append(&second) =>
        {
            first.append(&second);
            Records::Loose(first)
        }
        (first, second) => {
            let mut batches = sealed(first);
            batches.extend(sealed(second));
            Records::Sealed(batches)
        }
    }
}
