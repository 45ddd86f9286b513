//! The partitions of a topic as its description shows them: positions, sizes, and the first damage.

use super::catalog;
use crate::broker::engine::{Error, Offset, Partition, PartitionStats, Positions, Topic};
use crate::broker::refusal::Refusal;

/// A partition as it is now.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its number.
    pub index: u32,
    /// Where its log begins and ends.
    pub positions: Positions,
    /// Sizes and timestamps; `None` if damage makes them unknown.
    pub stats: Option<PartitionStats>,
    /// The first damaged offsets found so far; the end is exclusive.
    pub damaged: Option<(Offset, Offset)>,
}

/// Describes all partitions of a topic, sorted. Blocks on the disk.
///
/// # Errors
/// [`crate::broker::refusal::Reason::UnknownTopic`] if it was deleted meanwhile; those of the engine, but not damage: a
/// topic with a damaged partition must still be described, because the operator looks for the damage.
pub fn partitions(topic: &Topic) -> Result<Vec<Described>, Refusal> {
    let all: Result<_, Error> = topic.partitions().iter().map(|it| partition(it)).collect();
    all.map_err(|error| match error {
        Error::NotFound(_) => catalog::unknown_topic(topic.name()),
        error => Refusal::from(error),
    })
}

fn partition(partition: &Partition) -> Result<Described, Error> {
    let known = partition.damaged_ranges();
    let known = known.first().map(|range| (range.from, range.until));
    let (stats, damaged) = match partition.stats() {
        Ok(stats) => (Some(stats), known),
        Err(Error::Damaged {
            damaged_from: from,
            damaged_until: until,
            ..
        }) => (None, known.or(Some((from, until)))),
        Err(error) => return Err(error),
    };
    Ok(Described {
        index: partition.id().index,
        positions: stats
            .as_ref()
            .map_or_else(|| partition.positions(), |it| it.positions),
        stats,
        damaged,
    })
}
