//! The appends that settle: the states of the touched partitions, the group's committed offsets and the dead letters,
//! in one atomic request. A crash leaves all of it or nothing, so no record is settled without its dead letter.
//!
//! Dead letters are placed like any producer's records: by their key, or together in a partition that rotates. Their
//! topic's limits do not apply: every stored record can become a dead letter.

use std::sync::Arc;

use super::codec::{self, Letter, Saved};
use super::dead_letter::{Origin, of_record};
use super::letters;
use super::queue::{Queue, Written};
use crate::broker::caller::Caller;
use crate::broker::engine::batch::{Record, Records};
use crate::broker::engine::{
    Ack, AppendRequest, Error, Fetched, Log, Offset, Partition, PartitionId, ReadRequest, StateChange,
    TimestampMs, Topic,
};
use crate::broker::fetch::inflate::inflated;
use crate::broker::fetch::page::PageRecords;
use crate::broker::groups::offsets::{self, Committed};
use crate::broker::produce::limits::RecordLimits;
use crate::broker::produce::several::Several;
use crate::broker::refusal::Refusal;
use crate::broker::topics::Topics;
use crate::broker::topics::skips::Skips;
use crate::formats::json::ParsedRecord;
use crate::formats::partitioner::Rotation;

/// A write for one partition, see [`Queue::begin_write`].
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The partition.
    pub partition: PartitionId,
    /// What changes in its queue's state.
    pub written: Written,
}

/// The records of a partition to dead-letter, as read.
#[derive(Debug, Default)]
pub struct Found {
    /// The dead letters, in order of offset.
    pub letters: Vec<ParsedRecord<'static>>,
    /// Offsets without a record (trimmed, or skipped damage): settled without a dead letter.
    pub missing: Vec<Offset>,
    /// Offsets that were not read: split them off the change ([`Queue::split_off`]).
    pub unread: Vec<Offset>,
    /// Why, if the reason is not `max_bytes`.
    pub error: Option<Error>,
}

impl Found {
    /// Adds the dead letter of a record that was redriven before, read from its last dead letter.
    pub fn add_returned(
        &mut self,
        log: &Log,
        letter: Letter,
        offset: Offset,
        origin: Origin<'_>,
        deliveries: u32,
        reason: &str,
    ) {
        match letters::read_original(log, letter, offset) {
            Ok(Some(batch)) => {
                let records = Records::new(batch.as_bytes()).into_iter().flatten();
                let records = records.filter_map(Result::ok);
                self.letters
                    .extend(records.map(|record| of_record(&record, origin, deliveries, reason)));
            }
            Ok(None) => self.missing.push(offset),
            Err(error) => {
                self.unread.push(offset);
                self.error.get_or_insert(error);
            }
        }
    }
}

/// The queue of a partition as last written; `None` if the group has committed nothing.
///
/// If the state is stale or unreadable (which is logged), the group continues from the committed offset, and records
/// settled beyond are delivered again.
pub fn load(log: &Log, group: &str, partition: PartitionId, max_deliveries: u32) -> Option<Queue> {
    let value = log.state_get(&offsets::offset_key(group, partition))?;
    let committed = match Committed::decode(&value) {
        Ok(committed) => committed.offset,
        Err(error) => {
            tracing::error!(group, %partition, %error, "a committed offset is left out");
            return None;
        }
    };
    let key = codec::state_key(group, partition);
    let entries = log.state_prefix(&key);
    let mut head = None;
    let mut blocks: Vec<(u64, &[u8])> = Vec::with_capacity(entries.len());
    for (found, value) in &entries {
        match &found[key.len()..] {
            [] => head = Some(value),
            rest => blocks.extend(codec::number_of(rest).map(|number| (number, &**value))),
        }
    }
    let numbers = blocks.iter().map(|(number, _)| *number).collect();
    let mut saved = match head.map(|head| Saved::decode(head, blocks)) {
        Some(Ok(saved)) if saved.head.floor == committed => saved,
        Some(Err(error)) => {
            tracing::error!(group, %partition, %error, "the group goes on from its committed offset");
            Saved::at(committed, numbers)
        }
        Some(Ok(_)) | None => Saved::at(committed, numbers),
    };
    let key = codec::returned_of(group, partition);
    for (found, value) in log.state_prefix(&key) {
        let offset = codec::number_of(&found[key.len()..]).and_then(Offset::try_new);
        match offset.map(|offset| (offset, codec::decode_returned(&value))) {
            Some((offset, Ok((record, letter)))) => saved.returned.push((offset, record, letter)),
            Some((_, Err(error))) => {
                tracing::error!(group, %partition, %error, "a redriven record is left out")
            }
            None => tracing::error!(group, %partition, "a key of the state is not a redriven record's"),
        }
    }
    Some(Queue::restore(saved, max_deliveries))
}

/// The one append of a settle: `settlements`, of different partitions, and dead letters with their destination topics.
///
/// # Errors
/// `UnknownTopic`: a dead letter topic was deleted meanwhile; create it again and retry.
pub fn settle<'r>(
    log: &Log,
    rotation: &Rotation,
    group: &str,
    settlements: &[Settlement],
    letters: impl IntoIterator<Item = (&'r Arc<Topic>, &'r ParsedRecord<'static>)>,
    now: TimestampMs,
) -> Result<AppendRequest, Refusal> {
    let mut outgoing = Outgoing::new(rotation, now);
    for (topic, letter) in letters {
        outgoing.add(topic, letter);
    }
    let mut request = outgoing.into_request(log)?;
    for settlement in settlements {
        request
            .state
            .extend(changes_of(group, settlement.partition, &settlement.written, now));
    }
    Ok(request)
}

/// The dead letter topic of that name, created with one partition and the defaults if missing. Blocks on the disk.
///
/// # Errors
/// Those of [`Topics::create`], except for a topic that another request has just created.
pub fn dead_letter_topic(log: &Log, topics: &Topics, name: &str) -> Result<Arc<Topic>, Refusal> {
    if let Some(topic) = log.topic(name) {
        return Ok(topic);
    }
    // Any topic of that name will do: this request needs no particular partitions or configuration.
    topics
        .create(&Caller::default(), name, None, &[])
        .map(|(topic, _)| topic)
}

/// Reads records to dead-letter, at least one, as many as their dead letters take no more than `max_bytes`. `offsets` come in
/// order, with their delivery counts; `reason` gives each record's reason. May wait for the disk.
pub fn read_letters(
    log: &Log,
    partition: &Partition,
    origin: Origin<'_>,
    offsets: &[(Offset, u32)],
    reason: impl Fn(Offset, u32) -> String,
    max_bytes: usize,
) -> Found {
    let mut found = Found::default();
    let (mut bytes, mut is_full) = (0, false);
    let mut left = offsets;
    while let [(from, _), ..] = left
        && !is_full
    {
        let request = ReadRequest::new(*from, 1).until(from.plus(1));
        let fetched = match read_records(partition, request) {
            Ok(fetched) if fetched.next_offset > *from => fetched,
            // The log has no such offset yet, so no record of it was leased.
            Ok(_) => break,
            Err(Error::Trimmed { log_start_offset, .. }) => {
                found.missing.extend(split(&mut left, log_start_offset));
                continue;
            }
            Err(error @ Error::Damaged { damaged_until, .. }) => {
                match Skips::of(log, partition.id()).end_of(*from) {
                    Some(skipped) => found.missing.extend(split(&mut left, skipped.min(damaged_until))),
                    None => {
                        found
                            .unread
                            .extend(split(&mut left, damaged_until.max(from.plus(1))));
                        found.error.get_or_insert(error);
                    }
                }
                continue;
            }
            Err(error) => {
                found.error.get_or_insert(error);
                break;
            }
        };
        for record in records_of(&fetched) {
            found.missing.extend(split(&mut left, record.offset));
            if let Some(&(offset, deliveries)) = left.first()
                && offset == record.offset
            {
                let reason = reason(offset, deliveries);
                let letter = of_record(&record, origin, deliveries, &reason);
                bytes += letter.bytes();
                is_full = bytes > max_bytes && !found.letters.is_empty();
                if is_full {
                    break;
                }
                found.letters.push(letter);
                left = &left[1..];
            }
        }
        if !is_full {
            found.missing.extend(split(&mut left, fetched.next_offset));
        }
    }
    found.unread.extend(left.iter().map(|(offset, _)| *offset));
    found.unread.sort_unstable();
    found
}

/// The changed state of a partition, with its committed offset.
fn changes_of<'a>(
    group: &'a str,
    partition: PartitionId,
    written: &'a Written,
    now: TimestampMs,
) -> impl Iterator<Item = StateChange> + use<'a> {
    let head = written.head;
    let committed = Committed {
        offset: head.floor,
        last_commit: now,
        leader_epoch: None,
        metadata: None,
    };
    let state = StateChange {
        key: codec::state_key(group, partition),
        // If nobody has looked beyond the floor, the committed offset is the whole state.
        value: (head.next > head.floor).then(|| head.encode()),
    };
    let blocks = written.blocks.iter().map(move |(number, records)| StateChange {
        key: codec::block_key(group, partition, *number),
        value: (!records.is_empty()).then(|| codec::encode_block(*number, records)),
    });
    let returned = written.returned.iter().map(move |(offset, entry)| StateChange {
        key: codec::returned_key(group, partition, *offset),
        value: entry.map(|(record, letter)| codec::encode_returned(record, letter)),
    });
    [offsets::commit(group, partition, &committed), state]
        .into_iter()
        .chain(blocks)
        .chain(returned)
}

/// Reads batches for [`records_of`]: compressed ones are inflated. May wait for the disk.
///
/// # Errors
/// Those of [`Partition::read`]; [`Error::Damaged`] too for a batch that cannot be inflated.
pub(super) fn read_records(partition: &Partition, request: ReadRequest) -> Result<Fetched, Error> {
    let fetched = partition.read(request)?;
    let damaged_until = fetched.next_offset;
    inflated(fetched, request.from).map_err(|error| Error::Damaged {
        place: partition.name().to_owned(),
        what: error.to_string(),
        damaged_from: request.from,
        damaged_until,
    })
}

/// The records read; they may begin before the requested offset.
pub(super) fn records_of(fetched: &Fetched) -> impl Iterator<Item = Record<'_>> {
    // The read has verified its records, so none is left out here.
    PageRecords::new(&fetched.runs, Offset::ZERO, Offset::MAX).filter_map(|record| Some(record.ok()?.0))
}

/// Removes the offsets below `until` from the front.
fn split(left: &mut &[(Offset, u32)], until: Offset) -> impl Iterator<Item = Offset> + use<> {
    let (below, rest) = left.split_at(left.partition_point(|(offset, _)| *offset < until));
    *left = rest;
    let below: Vec<Offset> = below.iter().map(|(offset, _)| *offset).collect();
    below.into_iter()
}

/// Records for one append, to any topics. They were stored before, so no limits hold.
pub(super) struct Outgoing<'a>(Several<'a>);

impl<'a> Outgoing<'a> {
    pub(super) fn new(rotation: &'a Rotation, now: TimestampMs) -> Self {
        Self(Several::new(rotation, now))
    }

    /// Adds a record to its topic: to the partition it names, if that exists.
    pub(super) fn add(&mut self, topic: &Arc<Topic>, record: &ParsedRecord<'_>) {
        let number = self.0.number_of(topic, &[]);
        let partitions = u64::from(self.0.partitions(number));
        let added = if record.partition.is_some_and(|partition| partition >= partitions) {
            let anywhere = ParsedRecord {
                partition: None,
                ..record.clone()
            };
            self.0.add(number, RecordLimits::NONE, &anywhere)
        } else {
            self.0.add(number, RecordLimits::NONE, record)
        };
        added.expect("its partition is there, and no limit holds");
    }

    /// The append of all of them.
    ///
    /// # Errors
    /// `UnknownTopic`: one was deleted meanwhile.
    pub(super) fn into_request(self, log: &Log) -> Result<AppendRequest, Refusal> {
        let mut request = AppendRequest {
            ack: Ack::Durable,
            ..AppendRequest::default()
        };
        self.0.placed().add_to(&mut request, log, None)?;
        Ok(request)
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
