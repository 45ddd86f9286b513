//! The current lag of a group, with the rates and status of the last minute.
//!
//! A group's scope is every partition of every topic that it has subscribed to or committed in, with or without
//! members: unread records stay when members leave. Deleted topics are left out.
//!
//! Positions are in memory. Only the age of a next record needs the disk, and only if the group has moved since the
//! last lookup (see [`Place`]).

use std::sync::Arc;

use crate::broker::caller::Caller;
use crate::broker::engine::{
    Clock, Error, Located, Log, Offset, Partition, PartitionId, Positions, TimestampMs,
};
use crate::broker::groups::Groups;
use crate::broker::groups::live::{GroupState, GroupType, Live, Progress};
use crate::broker::groups::ordered::partitions::passed::Seen;
use crate::broker::lag::history::{History, Place, Row};
use crate::broker::lag::memo::{self, Memo};
use crate::broker::lag::series::Point;
use crate::broker::lag::window::{Rates, Sample, Status, Verdict};
use crate::broker::lag::{Lag, millis_from, next_unread};

/// Computes how far groups are behind. Cheap to clone; clones share the history.
#[derive(Clone)]
pub struct Lags {
    pub(super) log: Log,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) groups: Groups,
    /// The groups' lag of the last day.
    pub history: Arc<History>,
}

/// The lag of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupLag {
    /// The state of its members.
    pub state: GroupState,
    /// How they share the records.
    pub kind: GroupType,
    /// How many members read.
    pub members: usize,
    /// Over all topics.
    pub total: Total,
    /// Of a shared group: how many dead letters wait, as far as the server has looked.
    pub dead_letters: Option<u64>,
    /// By topic, sorted by name.
    pub topics: Vec<TopicLag>,
}

/// The lag of a group in one topic.
#[derive(Clone, Debug)]
pub struct TopicLag {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Over its partitions.
    pub total: Total,
    /// By partition.
    pub partitions: Vec<PartitionLag>,
}

/// The lag of a group in one partition.
#[derive(Clone, Debug)]
pub struct PartitionLag {
    /// The partition's index.
    pub partition: u32,
    /// The committed offset; `None`: nothing is committed, the group starts at the log start.
    pub committed_offset: Option<Offset>,
    /// When it was committed.
    pub last_commit: Option<TimestampMs>,
    /// The partition's positions.
    pub positions: Positions,
    /// The member that reads it.
    pub member: Option<Arc<str>>,
    /// The group's lag and status.
    pub total: Total,
}

/// The lag and status of a group in one partition or several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// The lag.
    pub lag: Lag,
    /// The rates.
    pub rates: Rates,
    /// Milliseconds until everything is read at the current rates; `None`: never.
    pub drain_ms: Option<u64>,
    /// The status; of several partitions the worst.
    pub status: Status,
}

impl Default for Total {
    /// No partition: nothing to read.
    fn default() -> Self {
        Self {
            lag: Lag::default(),
            rates: Rates::default(),
            drain_ms: Some(0),
            status: Status::Ok,
        }
    }
}

impl Total {
    fn of_partition(lag: Lag, verdict: Verdict) -> Self {
        Self {
            lag,
            rates: verdict.rates,
            drain_ms: verdict.rates.drain_ms(lag.lag),
            status: verdict.status,
        }
    }

    /// Adds another partition. Everything is read when the last partition is.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            lag: self.lag.and(other.lag),
            rates: self.rates.and(other.rates),
            drain_ms: self.drain_ms.zip(other.drain_ms).map(|(a, b)| a.max(b)),
            status: self.status.max(other.status),
        }
    }
}

impl Lags {
    /// The lag of the groups of a log, with the history that was kept beside it. Blocks on the disk.
    pub fn new(log: Log, clock: Arc<dyn Clock>, groups: Groups) -> Self {
        let memo = log.read_memo(memo::NAME).and_then(|bytes| Memo::decode(&bytes));
        Self {
            log,
            clock,
            groups,
            history: Arc::new(memo.map_or_else(History::default, History::of)),
        }
    }

    /// Keeps the history beside the log, for the next start, if there is one. Returns how many bytes that took; blocks for
    /// a sync.
    pub fn keep_history(&self) -> u64 {
        let memo = self.history.memo();
        if memo.is_empty() {
            return 0;
        }
        let bytes = memo.encode();
        if let Err(error) = self.log.write_memo(memo::NAME, &bytes) {
            tracing::debug!(%error, "the history of the lag is not kept");
        }
        bytes.len() as u64
    }

    /// The current lag of a group. May block on the disk.
    pub fn of(&self, group: &str) -> GroupLag {
        self.seen_by(&Caller::default(), group)
    }

    /// The same, of those topics that the caller may describe: the others are in no sum.
    pub fn seen_by(&self, caller: &Caller, group: &str) -> GroupLag {
        let live = self.groups.live(group);
        let now = self.clock.now();
        let mut looks = self.looks(group, live.as_ref());
        looks.retain(|look| caller.sees_topic(&look.topic.name));
        let judged = self.judge(group, &mut looks, true);
        let mut topics: Vec<TopicLag> = Vec::new();
        for (look, verdict) in looks.into_iter().zip(judged) {
            let lag = look.lag(now);
            let verdict = look.verdict(verdict);
            // The partitions of a topic follow each other.
            let name = &look.topic.name;
            if topics.last().is_none_or(|last| last.topic != *name) {
                topics.push(TopicLag {
                    topic: name.clone(),
                    total: Total::default(),
                    partitions: Vec::new(),
                });
            }
            let topic = topics.last_mut().expect("one was pushed");
            let total = Total::of_partition(lag, verdict);
            topic.total = topic.total.and(total);
            topic.partitions.push(PartitionLag {
                partition: look.partition.id().index,
                committed_offset: look.committed_offset,
                last_commit: look.last_commit,
                positions: look.positions,
                member: look.member,
                total,
            });
        }
        topics.sort_by(|a, b| a.topic.cmp(&b.topic));
        let names = topics.iter().map(|topic| &*topic.topic);
        GroupLag {
            dead_letters: self.groups.waiting_letters(caller, group, names),
            members: live.as_ref().map_or(0, |live| live.members),
            state: live.as_ref().map_or(GroupState::Empty, |live| live.state),
            kind: live.map_or(GroupType::Ordered, |live| live.kind),
            total: topics
                .iter()
                .fold(Total::default(), |total, topic| total.and(topic.total)),
            topics,
        }
    }

    /// The current lag of every group, by name. May block on the disk.
    pub fn all(&self) -> impl Iterator<Item = (String, GroupLag)> {
        self.groups.names().into_iter().map(|name| {
            let lag = self.of(&name);
            (name, lag)
        })
    }

    /// A row for each partition in each group's scope, for the history. `with_points` may block on the disk.
    fn rows(&self, with_points: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        for name in self.groups.names() {
            // A row does not name the partition's member.
            let mut looks = self.looks(&name, None);
            // Reads the topics of dead letters on, so that nobody who asks waits for that.
            if looks.iter().any(|look| look.progress.is_some()) {
                let topics = looks.iter().map(|look| &*look.topic.name);
                let _ = self.groups.waiting_letters(&Caller::default(), &name, topics);
            }
            if with_points {
                self.judge(&name, &mut looks, false);
            }
            let group: Arc<str> = name.into();
            rows.extend(looks.into_iter().map(|look| Row {
                group: group.clone(),
                partition: look.partition.id(),
                sample: look.sample,
                point: point(&look),
            }));
        }
        rows
    }

    /// The wall clock's time.
    pub fn now(&self) -> TimestampMs {
        self.clock.now()
    }

    /// Samples every group for the history. May block on the disk, if a slot is due and a group's next record is not
    /// located.
    pub fn sample(&self) {
        let now = self.clock.now();
        let rows = self.rows(self.history.is_slot_due(now));
        self.history.sample(now, &rows);
    }

    /// The partitions in a group's scope, by id. Does not touch the disk.
    fn looks(&self, group: &str, live: Option<&Live>) -> Vec<Look> {
        let (topics, committed) = self.groups.scope(group);
        let progress = self.groups.progress(group);
        let seen = self.groups.seen(group);
        let at = self.clock.monotonic();
        let mut looks = Vec::with_capacity(committed.len());
        for topic in topics.into_iter().filter_map(|id| self.log.topic_by_id(id)) {
            let partitions = topic.partitions();
            let topic = Arc::new(TopicFacts {
                name: topic.name().into(),
                retention_ms: topic.spec().settings.retention_ms,
            });
            for partition in partitions.iter() {
                let (id, positions) = (partition.id(), partition.positions());
                let committed = committed.get(&id);
                let committed_offset = committed.map(|committed| committed.offset);
                let last_commit = committed.map(|committed| committed.last_commit);
                let progress = progress.get(&id).copied();
                let seen = seen.get(&id).copied();
                // The end less what is left to do: it moves by one with each record that is done or passed over.
                let done = progress.map(|queue| queue.settled);
                let done = done.or(seen.map(|seen| seen.done()));
                looks.push(Look {
                    topic: Arc::clone(&topic),
                    positions,
                    committed_offset,
                    last_commit,
                    sample: Sample {
                        at,
                        // A write of a queue that settles nothing is no progress.
                        committed: done.or(committed_offset),
                        last_commit: last_commit.filter(|_| progress.is_none()),
                        // Redriven records are unsettled below the log start too.
                        log_start_offset: progress.map_or(positions.log_start_offset, |_| Offset::ZERO),
                        end_offset: positions.end_offset,
                        is_idle: progress.is_some_and(|queue| !queue.has_due),
                    },
                    progress,
                    seen,
                    partition: Arc::clone(partition),
                    member: live.and_then(|live| live.partitions.get(&id)?.clone()),
                    located: None,
                });
            }
        }
        looks
    }

    /// Locates the next records and judges the last minute; in the order of `looks`.
    fn judge(&self, group: &str, looks: &mut [Look], with_verdicts: bool) -> Vec<Verdict> {
        let now: Vec<(PartitionId, Sample)> = looks
            .iter()
            .map(|look| (look.partition.id(), look.sample))
            .collect();
        let judged = self.history.judge(group, &now, with_verdicts);
        let mut found = Vec::new();
        for (look, (_, place)) in looks.iter_mut().zip(&judged) {
            if let Some(place) = look.locate(*place) {
                found.push((look.partition.id(), place));
            }
        }
        self.history.remember(group, &found);
        judged.into_iter().map(|(verdict, _)| verdict).collect()
    }
}

fn point(look: &Look) -> Point {
    let lag = look.sample.lag();
    let located = look.located.filter(|_| lag > 0);
    Point {
        lag,
        next_timestamp: located
            .and_then(|located| located.next)
            .map(|(_, timestamp)| timestamp),
        bytes: located.map_or(0, |located| look.bytes(&located)),
    }
}

/// A partition in a group's scope, with the positions of both.
struct Look {
    topic: Arc<TopicFacts>,
    partition: Arc<Partition>,
    positions: Positions,
    committed_offset: Option<Offset>,
    last_commit: Option<TimestampMs>,
    /// In a shared group, how far its queue is.
    progress: Option<Progress>,
    /// In an ordered group with a filter, how far the server has looked.
    seen: Option<Seen>,
    sample: Sample,
    member: Option<Arc<str>>,
    /// The location of the next record; `None` with nothing to read, or before [`Lags::judge`].
    located: Option<Located>,
}

/// The facts that all partitions of a topic share.
struct TopicFacts {
    name: Arc<str>,
    retention_ms: Option<u64>,
}

impl Look {
    /// The record whose age is the lag in time.
    fn next_unread(&self) -> Offset {
        next_unread(self.first_due().or(self.committed_offset), self.positions)
    }

    /// The first record that is left to do, if others beyond it may be done.
    fn first_due(&self) -> Option<Offset> {
        let of_queue = self.progress.map(|queue| queue.first_due);
        of_queue.or(self.seen.map(|seen| seen.first.unwrap_or(seen.next)))
    }

    fn lag(&self, now: TimestampMs) -> Lag {
        let mut lag = Lag::of_partition(
            self.sample.committed,
            Positions {
                log_start_offset: self.sample.log_start_offset,
                ..self.positions
            },
            self.located.as_ref(),
            self.topic.retention_ms,
            now,
        );
        if let Some(queue) = self.progress {
            let age = |redriven: TimestampMs| millis_from(redriven, now);
            lag.lag_ms = lag.lag_ms.max(queue.oldest_redrive.map_or(0, age));
            lag.leased = Some(queue.leased);
            lag.delayed = Some(queue.delayed);
        }
        lag.lag_bytes = self.located.map_or(0, |located| self.bytes(&located));
        lag
    }

    /// The stored bytes to read. In a queue, settled records lie between the others, and with a filter those that do not
    /// match: they are taken to be as large.
    fn bytes(&self, located: &Located) -> u64 {
        let Some(first_due) = self.first_due() else {
            return located.bytes_to_end;
        };
        let lag = u128::from(self.sample.lag());
        let offsets = self.positions.end_offset.since(first_due).max(1);
        let bytes = u128::from(located.bytes_to_end) * lag / u128::from(offsets);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn verdict(&self, verdict: Verdict) -> Verdict {
        match self.progress {
            Some(queue) if queue.is_losing => Verdict {
                status: Status::Losing,
                ..verdict
            },
            _ => verdict,
        }
    }

    /// Locates the next record, from `place` if that is still valid; returns a new place to save.
    fn locate(&mut self, place: Option<Place>) -> Option<Place> {
        let (next, end_offset) = (self.next_unread(), self.positions.end_offset);
        if next >= end_offset {
            return None;
        }
        if let Some(place) = place.filter(|place| place.next == next) {
            if place.end_offset == end_offset {
                self.located = Some(place.located);
                return None;
            }
            if let Some(located) = self.partition.relocate(&place.located) {
                self.located = Some(located);
                return Some(Place {
                    next,
                    end_offset,
                    located,
                });
            }
        }
        let mut located = self.partition.locate(next);
        if let Err(Error::Trimmed { .. }) = located {
            // Retention or a trim moved the log start past the next record since the positions were read: read them
            // again. If that happens a second time, the figures are left out.
            self.positions = self.partition.positions();
            if self.progress.is_none() {
                self.sample.log_start_offset = self.positions.log_start_offset;
            }
            self.sample.end_offset = self.positions.end_offset;
            located = self.partition.locate(self.next_unread());
        }
        match located {
            Ok(located) => {
                self.located = Some(located);
                Some(Place {
                    next: self.next_unread(),
                    end_offset: self.positions.end_offset,
                    located,
                })
            }
            Err(error) => {
                tracing::warn!(partition = %self.partition.id(), %error, "the next record cannot be located: lag in time and bytes is left out");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(lag: u64, drain_ms: Option<u64>, status: Status) -> Total {
        Total {
            lag: Lag {
                lag,
                ..Lag::default()
            },
            rates: Rates {
                consume: 1.0,
                produce: 2.0,
            },
            drain_ms,
            status,
        }
    }

    #[test]
    fn a_sum_drains_when_the_last_partition_does_and_is_as_bad_as_the_worst() {
        let sum = total(1, Some(5), Status::Behind).and(total(2, Some(9), Status::Ok));
        assert_eq!(sum.lag.lag, 3);
        assert_eq!(sum.drain_ms, Some(9));
        assert_eq!(sum.status, Status::Behind);
        assert_eq!((sum.rates.consume, sum.rates.produce), (2.0, 4.0));
        assert_eq!(sum.and(total(1, None, Status::Losing)).drain_ms, None);
        let one = total(1, Some(5), Status::Stalled);
        assert_eq!(Total::default().and(one).drain_ms, Some(5));
    }
}
