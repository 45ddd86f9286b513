//! Sends dead letters back to the partitions they came from.
//!
//! ```text
//! key    'r' group 0x00 topic_id:u64 partition:u32    how far a group's dead letters were sent back
//! value  version=1 offset:u64                         (numbers big-endian)
//! ```
//!
//! A request's records and the new position behind their dead letters are one atomic append, so each dead letter is
//! sent back once, even over a crash. Each group has its own positions in a dead letter topic; other groups' dead
//! letters and other records are skipped. The dead letters themselves stay in the topic.
//!
//! A record returns to its former partition, or to its key's partition if its topic was recreated with fewer. As in
//! Kafka, every group that reads the topic sees it again.

use std::sync::Arc;

use super::dead_letter::returning;
use super::store::{Outgoing, records_of};
use crate::broker::engine::batch::Record;
use crate::broker::engine::{
    AppendRequest, Error, Fetched, Log, Offset, Partition, PartitionId, ReadRequest, StateChange, Ticket,
    TimestampMs, Topic,
};
use crate::broker::groups::offsets::with_partition;
use crate::broker::refusal::{Outcome, Reason, Refusal};
use crate::broker::state_keys::REDRIVE;
use crate::broker::topics::catalog;
use crate::broker::topics::skips::Skips;
use crate::formats::partitioner::Rotation;

const VERSION: u8 = 1;

/// An append is full at this many bytes of records, or this many records.
const REQUEST_BYTES: usize = 1 << 20;
const REQUEST_RECORDS: u64 = 1000;
/// Stored bytes per read.
const READ_BYTES: usize = 1 << 20;

/// The result of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Records sent back.
    pub sent: u64,
    /// Records skipped: other groups' dead letters, and records that are no dead letters.
    pub passed: u64,
    /// Everything stored when the call began was checked; otherwise call again.
    pub at_end: bool,
}

/// Sends up to `max_records` of a group's dead letters back, oldest first in each partition, and returns once that is
/// durable. Blocks. One call at a time: each reads its positions, sends, and moves them.
///
/// # Errors
/// The member `redriven` counts the records sent before the error, which are durable; another call continues after
/// them.
/// - [`Reason::UnknownTopic`]: the dead letter topic, or the topic a record came from, does not exist. Create it again,
///   or move the dead letter topic's log start past the record.
/// - [`Reason::CorruptData`]: dead letters cannot be read; skip the damage, or repair it.
/// - [`Reason::Internal`]: a position in the state cannot be read. Nothing is sent from there: it might be sent twice.
/// - Those of the engine's append.
pub fn redrive(
    log: &Log,
    rotation: &Rotation,
    group: &str,
    dead_letters: &str,
    max_records: u64,
    now: TimestampMs,
) -> Result<Redriven, Refusal> {
    let topic = catalog::find(log, dead_letters)?;
    let partitions = topic.partitions();
    let mut run = Run {
        log,
        rotation,
        group,
        max_records,
        now,
        done: Redriven::default(),
        known: None,
    };
    let ended = run.all(&partitions);
    if topic.is_deleted() {
        // A position written after its topic's deletion would never be removed.
        remove_positions(log, group, &partitions)?;
    }
    match ended {
        Ok(at_end) => Ok(Redriven { at_end, ..run.done }),
        Err(refusal) => Err(refusal.with("redriven", run.done.sent)),
    }
}

/// The prefix of the keys of a group's positions.
pub fn positions_prefix(group: &str) -> Vec<u8> {
    [&[REDRIVE], group.as_bytes(), &[0]].concat()
}

fn position_key(group: &str, partition: PartitionId) -> Vec<u8> {
    with_partition(positions_prefix(group), partition)
}

fn decode(value: &[u8]) -> Option<Offset> {
    let (&VERSION, offset) = value.split_first()? else {
        return None;
    };
    Offset::try_new(u64::from_be_bytes(offset.try_into().ok()?))
}

fn put(group: &str, partition: PartitionId, position: Offset) -> StateChange {
    let mut value = vec![VERSION];
    value.extend_from_slice(&position.get().to_be_bytes());
    StateChange::set(position_key(group, partition), value)
}

/// Why a call ends early.
enum Stop {
    /// The next record cannot be sent back; the records before it can.
    At(Refusal),
    /// The records before it were not sent either, or that is unknown.
    Unsent(Refusal),
}

struct Run<'a> {
    log: &'a Log,
    rotation: &'a Rotation,
    group: &'a str,
    max_records: u64,
    now: TimestampMs,
    done: Redriven,
    /// The most recently looked up topic.
    known: Option<(String, Arc<Topic>)>,
}

/// A walk over one partition of dead letters.
struct Walk<'a> {
    partition: &'a Partition,
    /// The next record to check.
    position: Offset,
    /// The durable position.
    saved: Offset,
    end: Offset,
    /// The records to send back between the two.
    pending: Pending<'a>,
}

/// The content of the next append.
struct Pending<'a> {
    outgoing: Outgoing<'a>,
    sent: u64,
    passed: u64,
}

impl<'a> Run<'a> {
    fn pending(&self) -> Pending<'a> {
        Pending {
            outgoing: Outgoing::new(self.rotation, self.now),
            sent: 0,
            passed: 0,
        }
    }

    /// Sends the dead letters of all partitions; `false` if it stopped before their ends.
    fn all(&mut self, partitions: &'a [Arc<Partition>]) -> Result<bool, Refusal> {
        for partition in partitions {
            if !self.partition(partition)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends a partition's dead letters up to its current end; `false` if it stopped before that.
    fn partition(&mut self, partition: &'a Partition) -> Result<bool, Refusal> {
        let positions = partition.positions();
        let position = self.position(partition.id())?.max(positions.log_start_offset);
        let mut walk = Walk {
            partition,
            position,
            saved: position,
            end: positions.end_offset,
            pending: self.pending(),
        };
        let ended = match self.walk(&mut walk) {
            Ok(is_at_end) => self.send(&mut walk).map(|()| is_at_end),
            Err(Stop::At(refusal)) => self.send(&mut walk).and(Err(Stop::At(refusal))),
            unsent => unsent,
        };
        ended.map_err(|stop| match stop {
            Stop::At(refusal) => self.partial(refusal),
            Stop::Unsent(refusal) => refusal,
        })
    }

    /// Marks a refusal as partial if records were sent before it.
    fn partial(&self, refusal: Refusal) -> Refusal {
        if self.done.sent > 0 {
            refusal.outcome(Outcome::Partial)
        } else {
            refusal
        }
    }

    fn walk(&mut self, walk: &mut Walk<'a>) -> Result<bool, Stop> {
        while walk.position < walk.end {
            let before = walk.position;
            if let Some(fetched) = self.read(walk).map_err(Stop::At)? {
                for record in records_of(&fetched) {
                    if record.offset < walk.position || record.offset >= walk.end {
                        continue;
                    }
                    if !self.take(walk, &record).map_err(Stop::At)? {
                        return Ok(false);
                    }
                    if walk.pending.sent >= REQUEST_RECORDS || walk.pending.outgoing.bytes() >= REQUEST_BYTES
                    {
                        self.send(walk)?;
                    }
                }
                walk.position = walk.position.max(fetched.next_offset.min(walk.end));
            }
            if walk.position == before {
                break;
            }
        }
        Ok(walk.position >= walk.end)
    }

    /// Reads on; `None` if the position moved over unreadable records that may be skipped.
    fn read(&self, walk: &mut Walk<'_>) -> Result<Option<Fetched>, Refusal> {
        let request = ReadRequest::new(walk.position, READ_BYTES).until(walk.end);
        let error = match walk.partition.read(request) {
            Ok(fetched) => return Ok(Some(fetched)),
            Err(error) => error,
        };
        let behind = match &error {
            Error::Trimmed { log_start_offset, .. } => Some(*log_start_offset),
            Error::Damaged { damaged_until, .. } => Skips::of(self.log, walk.partition.id())
                .end_of(walk.position)
                .map(|skipped| skipped.min(*damaged_until)),
            _ => None,
        };
        match behind {
            Some(behind) if behind > walk.position => {
                walk.position = behind.min(walk.end);
                Ok(None)
            }
            _ => Err(error.into()),
        }
    }

    /// Adds the next record to the append, or skips it; `false` if `max_records` is reached.
    fn take(&mut self, walk: &mut Walk<'_>, record: &Record<'_>) -> Result<bool, Refusal> {
        match returning(record) {
            Ok(back) if back.group == self.group => {
                if self.done.sent + walk.pending.sent >= self.max_records {
                    return Ok(false);
                }
                let topic = self
                    .topic(back.topic)
                    .ok_or_else(|| gone(back.topic, walk.partition.name(), record))?;
                walk.pending.outgoing.add(&topic, &back.record);
                walk.pending.sent += 1;
            }
            _ => walk.pending.passed += 1,
        }
        walk.position = record.offset.plus(1);
        Ok(true)
    }

    /// Sends the collected records and moves the durable position behind them: both or neither.
    fn send(&mut self, walk: &mut Walk<'a>) -> Result<(), Stop> {
        if walk.position == walk.saved {
            return Ok(());
        }
        let pending = std::mem::replace(&mut walk.pending, self.pending());
        let mut request = pending
            .outgoing
            .into_request(self.log)
            .map_err(|refusal| Stop::Unsent(self.partial(refusal)))?;
        let moved = put(self.group, walk.partition.id(), walk.position);
        request.state.push(moved);
        let sent = self.log.append(request).and_then(Ticket::wait);
        sent.map_err(|error| {
            // If the result is unknown, the next call learns it from the position.
            let is_known = !matches!(error, Error::Closed | Error::LogFailed { in_flight: true, .. });
            let refusal = error.into();
            Stop::Unsent(if is_known { self.partial(refusal) } else { refusal })
        })?;
        walk.saved = walk.position;
        self.done.sent += pending.sent;
        self.done.passed += pending.passed;
        Ok(())
    }

    fn position(&self, partition: PartitionId) -> Result<Offset, Refusal> {
        let Some(value) = self.log.state_get(&position_key(self.group, partition)) else {
            return Ok(Offset::ZERO);
        };
        decode(&value).ok_or_else(|| {
            tracing::error!(group = self.group, %partition, "how far dead letters were sent back is not readable");
            Refusal::new(
                Reason::Internal,
                "how far dead letters were sent back is not readable in the server's state",
            )
        })
    }

    fn topic(&mut self, name: &str) -> Option<Arc<Topic>> {
        if let Some((known, topic)) = &self.known
            && known == name
            && !topic.is_deleted()
        {
            return Some(topic.clone());
        }
        let topic = self.log.topic(name)?;
        self.known = Some((name.to_owned(), topic.clone()));
        Some(topic)
    }
}

fn remove_positions(log: &Log, group: &str, partitions: &[Arc<Partition>]) -> Result<(), Error> {
    let keys = partitions
        .iter()
        .map(|partition| position_key(group, partition.id()));
    let request = AppendRequest::of_state(keys.map(|key| StateChange { key, value: None }).collect());
    log.append(request)?.wait().map(drop)
}

fn gone(topic: &str, partition: &str, record: &Record<'_>) -> Refusal {
    let topic: String = topic.chars().take(250).collect();
    let detail = format!(
        "the topic {topic} does not exist, where the dead letter at offset {} of {partition} came from",
        record.offset
    );
    Refusal::new(Reason::UnknownTopic, detail)
        .with("topic", topic)
        .with("dead_letter_offset", record.offset.get())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
