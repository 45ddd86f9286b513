//! A page of the list of topics, by name, size or rate, each with its figures.
//!
//! Sizes, records and rates are in memory, so they are read for all topics. What costs more, the groups that read a topic
//! and the time of its newest record, is looked up for those of the page only.

use std::cmp::Reverse;
use std::sync::Arc;

use super::rates::Rates;
use super::readers;
use super::traffic::Traffic;
use crate::broker::caller::Caller;
use crate::broker::engine::{TimestampMs, Topic};
use crate::broker::groups::Groups;
use crate::broker::refusal::Refusal;

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By name.
    #[default]
    Name,
    /// The largest first.
    Size,
    /// First the one to which most records are appended.
    Rate,
}

/// What a list is to have.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only topics whose names contain it, in upper or lower case.
    pub text: Option<String>,
    /// The order.
    pub sort: Sort,
    /// What the page before said as `next`.
    pub after: Option<String>,
    /// The largest number of topics.
    pub limit: usize,
}

/// A topic with its figures.
#[derive(Clone)]
pub struct Listed {
    /// The topic.
    pub topic: Arc<Topic>,
    /// Its figures.
    pub figures: Figures,
}

/// The figures of a topic.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Stored bytes of its records.
    pub size_bytes: u64,
    /// Its records, counted by offsets.
    pub records: u64,
    /// How fast it is written and read.
    pub rates: Rates,
    /// The timestamp of its newest record.
    pub last_timestamp: Option<TimestampMs>,
    /// The groups that read it, and that the caller may describe; by name.
    pub groups: Vec<String>,
    /// Whether some of its records are known to be damaged.
    pub damaged: bool,
}

/// A topic's place in a list: what it is sorted by, and its name.
type Place = (Reverse<u64>, String);

impl Sort {
    fn place(self, traffic: &Traffic, topic: &Topic) -> Place {
        let number = match self {
            Self::Name => 0,
            Self::Size => size(topic),
            // As many digits as anybody reads.
            Self::Rate => (traffic.of_topic(topic).produce * 1000.0) as u64,
        };
        (Reverse(number), topic.name().to_owned())
    }

    /// How a place is written in `next`: a name, with a number before it if the list is not sorted by name.
    fn write(self, (Reverse(number), name): &Place) -> String {
        match self {
            Self::Name => name.clone(),
            Self::Size | Self::Rate => format!("{number}:{name}"),
        }
    }

    fn read(self, text: &str) -> Option<Place> {
        if self == Self::Name {
            return Some((Reverse(0), text.to_owned()));
        }
        let (number, name) = text.split_once(':')?;
        Some((Reverse(number.parse().ok()?), name.to_owned()))
    }
}

/// A page of the topics that the caller may describe, and what the next one begins after, if there is more. May block on the disk.
///
/// While sizes and rates change, a topic may move from one page to another.
///
/// # Errors
/// [`InvalidRequest`](crate::broker::refusal::Reason::InvalidRequest) for an `after` that no page with this order gave.
pub fn page(
    caller: &Caller,
    traffic: &Traffic,
    groups: &Groups,
    query: &Query,
) -> Result<(Vec<Listed>, Option<String>), Refusal> {
    let sort = query.sort;
    let after = query.after.as_ref().map(|after| {
        let wrong = "after is not the next of a page in this order; leave it out to begin";
        sort.read(after).ok_or_else(|| Refusal::invalid("after", wrong))
    });
    let after = after.transpose()?;
    let wanted = query.text.as_ref().map(|text| text.to_ascii_lowercase());
    let mut rows: Vec<(Place, Arc<Topic>)> = Vec::new();
    for topic in traffic.log.topics() {
        let is_wanted = |text: &String| topic.name().to_ascii_lowercase().contains(text);
        if wanted.as_ref().is_none_or(is_wanted) && caller.sees_topic(topic.name()) {
            rows.push((sort.place(traffic, &topic), topic));
        }
    }
    rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    if let Some(after) = after {
        let first = rows.partition_point(|(place, _)| *place <= after);
        rows.drain(..first);
    }
    let has_more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let last = rows.last().filter(|_| has_more);
    let next = last.map(|(place, _)| sort.write(place));
    let topics: Vec<Arc<Topic>> = rows.into_iter().map(|(_, topic)| topic).collect();
    Ok((with_figures(caller, traffic, groups, topics), next))
}

/// The topics with their figures. May block on the disk.
pub fn with_figures(
    caller: &Caller,
    traffic: &Traffic,
    groups: &Groups,
    topics: Vec<Arc<Topic>>,
) -> Vec<Listed> {
    let ids = topics.iter().map(|topic| topic.id()).collect();
    let mut readers = readers(caller, groups, &ids);
    let listed = topics.into_iter().map(|topic| Listed {
        figures: Figures {
            size_bytes: size(&topic),
            records: records(&topic),
            rates: traffic.of_topic(&topic),
            last_timestamp: traffic.last_timestamp(&topic),
            groups: readers.remove(&topic.id()).unwrap_or_default(),
            damaged: topic
                .partitions()
                .iter()
                .any(|it| !it.damaged_ranges().is_empty()),
        },
        topic,
    });
    listed.collect()
}

/// The stored bytes of a topic's records.
pub(super) fn size(topic: &Topic) -> u64 {
    topic
        .partitions()
        .iter()
        .map(|partition| partition.size_bytes())
        .sum()
}

/// How many records a topic has, counted by offsets.
pub(super) fn records(topic: &Topic) -> u64 {
    let partitions = topic.partitions();
    let records = partitions.iter().map(|partition| {
        let positions = partition.positions();
        positions.end_offset.since(positions.log_start_offset)
    });
    records.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_text_and_other_texts_are_none() {
        let place = (Reverse(42), "a.b-c".to_owned());
        for sort in [Sort::Size, Sort::Rate] {
            assert_eq!(sort.write(&place), "42:a.b-c");
            assert_eq!(sort.read("42:a.b-c"), Some(place.clone()));
            for wrong in ["a.b-c", "x:a", ":a", "", "-1:a"] {
                assert_eq!(sort.read(wrong), None, "{wrong}");
            }
        }
        assert_eq!(Sort::Name.write(&place), "a.b-c");
        assert_eq!(Sort::Name.read("a.b-c"), Some((Reverse(0), "a.b-c".to_owned())));
        assert!((Reverse(9), "b".to_owned()) < (Reverse(8), "a".to_owned()));
    }
}
