//! Reads everything, and compares it with what was written.

use std::collections::{BTreeMap, BTreeSet};

use quipu_segments::{Error, Fetched, Log, Offset, Partition, ReadRequest};

use super::history::Model;
use super::support::values_in;

/// Offsets that are lost or may be, by partition.
pub(crate) type Lost = BTreeMap<(&'static str, u32), BTreeSet<u64>>;

/// The offsets that cannot be read; an error must name each of them. The rest is compared with the model.
pub(crate) fn read(log: &Log, model: &Model, problems: &mut Vec<String>) -> Lost {
    let mut lost = Lost::new();
    for (key, records) in &model.records {
        let (topic, index) = *key;
        let missing = match log.topic(topic).and_then(|topic| topic.partition(index)) {
            Some(partition) => read_partition(&partition, &format!("{topic}/{index}"), records, problems),
            None => (0..records.len() as u64).collect(),
        };
        lost.insert(*key, missing);
    }
    lost.retain(|_, offsets| !offsets.is_empty());
    lost
}

/// Whether more is lost now than then.
pub(crate) fn is_more(now: &Lost, then: &Lost) -> bool {
    now.iter()
        .any(|(key, offsets)| then.get(key).is_none_or(|then| !offsets.is_subset(then)))
}

fn read_partition(
    partition: &Partition,
    name: &str,
    records: &[Vec<u8>],
    problems: &mut Vec<String>,
) -> BTreeSet<u64> {
    let mut missing = BTreeSet::new();
    let end = partition.positions().end_offset;
    if end.get() < records.len() as u64 {
        problems.push(format!("{name} ends at {end}, not at {}", records.len()));
    }
    let mut from = partition.positions().log_start_offset;
    if from > Offset::ZERO {
        problems.push(format!("{name} begins at {from}"));
    }
    while from < end {
        let request = ReadRequest::new(from, 1000);
        match partition.read(request) {
            Ok(fetched) => {
                compare(&fetched, from, name, records, problems);
                if fetched.next_offset <= from {
                    problems.push(format!("{name}: stuck at {from}"));
                    break;
                }
                from = fetched.next_offset;
            }
            Err(Error::Damaged {
                damaged_from,
                damaged_until,
                ..
            }) => {
                if damaged_from > from || damaged_until <= from || damaged_until > end {
                    problems.push(format!(
                        "{name}: a read at {from} names {damaged_from} to {damaged_until} of {end}"
                    ));
                    break;
                }
                missing.extend(from.get()..damaged_until.get());
                from = damaged_until;
            }
            Err(other) => {
                problems.push(format!("{name}: {other}"));
                break;
            }
        }
    }
    // The log's health reports the same.
    let rows = partition.damaged_ranges();
    let known: BTreeSet<u64> = rows
        .iter()
        .flat_map(|range| range.from.get()..range.until.get())
        .collect();
    if known != missing {
        let text = format!("{name}: lost {missing:?}, and known to be lost {known:?}");
        problems.push(text);
    }
    missing
}

/// Compares the records that were fetched from an offset on with those that were written there.
fn compare(fetched: &Fetched, from: Offset, name: &str, records: &[Vec<u8>], problems: &mut Vec<String>) {
    let mut expected = from;
    for (offset, value) in values_in(fetched) {
        if offset < from {
            continue;
        }
        if offset != expected {
            problems.push(format!("{name}: {offset} follows, not {expected}"));
        }
        expected = offset.plus(1);
        let written = records.get(offset.get() as usize);
        if written.is_some_and(|written| *written != value) {
            problems.push(format!("{name}: offset {offset} is another record"));
        }
    }
}
