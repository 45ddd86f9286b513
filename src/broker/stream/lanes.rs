//! The lanes of a stream: where each of its partitions begins, how far it got, and where it ends.
//!
//! A lane is the place of one partition in one stream.
//!
//! Ends are read before anything is looked up, so a fact about all records below them stays true: that none is at or
//! after `until`, or that all records of a key lie in one partition.

use std::sync::Arc;

use super::merge::Rank;
use super::request::{Beginning, Ending, StreamRequest};
use crate::broker::blocking::Share;
use crate::broker::engine::{Clock, Error, Offset, Partition, TimestampMs, Topic};
use crate::broker::fetch::Fetcher;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::topics::{self, catalog, skips};
use crate::formats::cursor::{Cursor, MAX_PARTITIONS, Reached};

/// The place of one partition in a stream. A stream has up to [`MAX_PARTITIONS`] of these for as long as it is open.
pub(super) struct Lane {
    pub(super) partition: Arc<Partition>,
    /// The offset that comes next: everything before it was sent, filtered out, or was never part of the stream.
    pub(super) next: Offset,
    /// Exclusive; [`Offset::MAX`] if it is not known yet.
    pub(super) end: Offset,
    /// Where the log ended when the stream was opened.
    pub(super) as_of: Offset,
    /// Of a stream of the newest records, which ones.
    pub(super) chosen: Option<Chosen>,
    /// The topic's position in the stream.
    pub(super) topic: u16,
    /// Nothing was read, and the client knows no position: it may begin wherever the log does.
    pub(super) is_fresh: bool,
}

/// The records of a partition that a stream of the newest ones hands out.
pub(super) struct Chosen {
    /// In order.
    pub(super) offsets: Arc<[Offset]>,
    /// All before it were looked at.
    pub(super) until: Offset,
}

impl Lane {
    /// Whether it was read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.next >= self.end
    }

    pub(super) fn index(&self) -> u32 {
        self.partition.id().index
    }

    /// Its order among records with equal timestamps.
    pub(super) fn rank(&self) -> Rank {
        (self.topic.into(), self.index())
    }

    /// Its place in a cursor.
    pub(super) fn reached(&self) -> Reached {
        Reached {
            topic: self.topic.into(),
            partition: self.index(),
            next: self.next,
        }
    }

    /// Ends it where the log ends now.
    pub(super) fn end_now(&mut self) {
        if self.end == Offset::MAX {
            self.end = self.partition.positions().end_offset.max(self.next);
        }
    }
}

/// What a stream reads.
pub(super) struct Lanes {
    /// In the order in which the client named them.
    pub(super) topics: Vec<Arc<Topic>>,
    /// By topic and partition; partitions that were added later come last.
    pub(super) lanes: Vec<Lane>,
    /// How many partitions of each topic the stream knows: further ones join it. `None`: none join.
    pub(super) known: Option<Vec<u32>>,
    /// Lanes end before a record at or after it.
    pub(super) until: Option<TimestampMs>,
}

impl Lanes {
    /// Finds the partitions of a request, with their beginnings and ends.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`; `InvalidRequest` for too many partitions or another stream's cursor;
    /// `CursorExpired` if the cursor's topic or data directory is gone; `OffsetOutOfRange` if the cursor is beyond the end; `CorruptData`
    /// if damage hides the offset of a time.
    pub(super) async fn open(
        fetcher: &Fetcher,
        clock: &dyn Clock,
        names: &[String],
        request: &StreamRequest,
    ) -> Result<Self, Refusal> {
        let from = match &request.from {
            Beginning::Cursor(cursor) => Some(("from", cursor)),
            _ => None,
        };
        let until = match &request.until {
            Some(Ending::Cursor(cursor)) => Some(("until", cursor)),
            _ => None,
        };
        let cursors = [from, until].into_iter().flatten();
        for (pointer, cursor) in cursors.clone() {
            check_cursor(fetcher, pointer, cursor)?;
        }
        let topics = names
            .iter()
            .map(|name| catalog::find(&fetcher.log, name))
            .collect::<Result<Vec<_>, _>>()?;
        for (pointer, cursor) in cursors {
            let is_same = cursor.topics.len() == topics.len()
                && topics.iter().all(|topic| cursor.topics.contains(&topic.id()));
            if !is_same {
                return Err(wrong_cursor(pointer, "it is of a stream over other topics"));
            }
        }
        let follow = request.goes_on();
        let mut all = Self {
            known: (follow && request.partitions.is_none()).then(Vec::new),
            until: match request.until {
                Some(Ending::Time(time)) => Some(time),
                _ => None,
            },
            lanes: Vec::new(),
            topics,
        };
        for topic in 0..all.topics.len() {
            all.add_topic(fetcher, request, topic, follow)?;
        }
        all.look_up(fetcher, clock, request, follow).await?;
        Ok(all)
    }

    /// Adds the partitions of a topic, with beginnings and ends as far as these are known without reading the log.
    fn add_topic(
        &mut self,
        fetcher: &Fetcher,
        request: &StreamRequest,
        slot: usize,
        follow: bool,
    ) -> Result<(), Refusal> {
        let topic = &self.topics[slot];
        let all = topic.partitions();
        let chosen: Vec<Arc<Partition>> = match &request.partitions {
            None => all.to_vec(),
            Some(indexes) => {
                let mut indexes = indexes.clone();
                indexes.sort_unstable();
                let find = |index: &u32| {
                    topics::partition(topic, *index).map_err(|refusal| refusal.at("partitions"))
                };
                indexes.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        let first = self.lanes.len();
        for partition in chosen {
            let positions = partition.positions();
            let (next, is_fresh) = match &request.from {
                Beginning::Earliest | Beginning::Time(_) => (positions.log_start_offset, true),
                Beginning::Latest => (positions.end_offset, false),
                Beginning::Cursor(cursor) => match reached(cursor, topic, partition.id().index) {
                    Some(next) => (next, false),
                    None => (positions.log_start_offset, true),
                },
            };
            let end = match &request.until {
                Some(Ending::Cursor(cursor)) => {
                    reached(cursor, topic, partition.id().index).unwrap_or(positions.log_start_offset)
                }
                _ => positions.end_offset,
            };
            if next.max(end) > positions.end_offset {
                return Err(Error::OutOfRange {
                    offset: next.max(end),
                    log_start_offset: positions.log_start_offset,
                    end_offset: positions.end_offset,
                }
                .into());
            }
            self.lanes.push(Lane {
                partition,
                next,
                end,
                as_of: positions.end_offset,
                chosen: None,
                topic: slot as u16,
                is_fresh,
            });
        }
        // Read after the ends: a record that is placed outside its key's partition from now on lies behind them.
        let key = request.filter.key();
        if let Some(home) = key.and_then(|key| catalog::partition_of_key(&fetcher.log, topic, key.as_bytes()))
        {
            for lane in &mut self.lanes[first..] {
                if lane.index() != home {
                    lane.next = lane.end;
                    lane.is_fresh = false;
                }
            }
            if !follow {
                let mut at = 0;
                self.lanes.retain(|lane| {
                    at += 1;
                    at <= first || lane.index() == home
                });
            }
        }
        if let Some(known) = &mut self.known {
            known.push(all.len() as u32);
        }
        check_count(self.lanes.len())
    }

    /// Finds the offsets of times, and opens the ends of lanes that are followed.
    async fn look_up(
        &mut self,
        fetcher: &Fetcher,
        clock: &dyn Clock,
        request: &StreamRequest,
        follow: bool,
    ) -> Result<(), Refusal> {
        let from = match request.from {
            Beginning::Time(time) => Some(time),
            _ => None,
        };
        let until = self.until;
        if from.is_some() || until.is_some() {
            let partitions: Vec<Arc<Partition>> = self
                .lanes
                .iter()
                .map(|lane| Arc::clone(&lane.partition))
                .collect();
            let log = fetcher.log.clone();
            let look = move || {
                let find = |partition: &Partition, time: Option<TimestampMs>| {
                    let found = time.map(|time| skips::offset_for_time(&log, partition, time));
                    Ok::<_, Error>(found.transpose()?.map(|found| found.map(|(offset, _)| offset)))
                };
                let mut all = Vec::with_capacity(partitions.len());
                for partition in &partitions {
                    all.push((find(partition, from)?, find(partition, until)?));
                }
                Ok(all)
            };
            let found = fetcher.blocking.attempt(Share::Read, look).await?;
            for (lane, (from, until)) in self.lanes.iter_mut().zip(found) {
                let as_of = lane.end;
                if let Some(found) = from
                    && lane.is_fresh
                {
                    lane.next = found.map_or(as_of, |offset| offset.min(as_of));
                }
                if let Some(Some(found)) = until {
                    lane.end = found.min(as_of);
                } else if follow {
                    lane.end = Offset::MAX;
                }
            }
        } else if follow {
            self.lanes.iter_mut().for_each(|lane| lane.end = Offset::MAX);
        }
        if self.until.is_some_and(|until| clock.now() >= until) {
            self.end_now();
        }
        Ok(())
    }

    /// The places of all lanes.
    pub(super) fn reached(&self) -> impl Iterator<Item = Reached> {
        self.lanes.iter().map(Lane::reached)
    }

    /// Whether all was read.
    pub(super) fn are_over(&self) -> bool {
        self.lanes.iter().all(Lane::is_over)
    }

    /// When the clock ends the lanes whose ends are not known yet; `None`: none is open, or no time ends them.
    ///
    /// `until` itself stays: records that came before that moment may have timestamps after it.
    pub(super) fn deadline(&self) -> Option<TimestampMs> {
        self.until
            .filter(|_| self.lanes.iter().any(|lane| lane.end == Offset::MAX))
    }

    /// Ends every lane where its log ends now.
    pub(super) fn end_now(&mut self) {
        self.lanes.iter_mut().for_each(Lane::end_now);
        self.known = None;
    }

    /// Adds lanes for new partitions; returns whether there were any.
    ///
    /// # Errors
    /// `UnknownTopic` if a topic was deleted, `InvalidRequest` if there are too many partitions now.
    pub(super) fn take_in(&mut self) -> Result<bool, Refusal> {
        let Some(known) = &mut self.known else {
            return Ok(false);
        };
        let before = self.lanes.len();
        for (slot, (topic, known)) in self.topics.iter().zip(known).enumerate() {
            if topic.is_deleted() {
                return Err(catalog::unknown_topic(topic.name()));
            }
            if topic.partition_count() == *known {
                continue;
            }
            let all = topic.partitions();
            let added = all.iter().skip(*known as usize);
            self.lanes.extend(added.map(|partition| Lane {
                partition: Arc::clone(partition),
                next: Offset::ZERO,
                end: Offset::MAX,
                as_of: Offset::ZERO,
                chosen: None,
                topic: slot as u16,
                is_fresh: true,
            }));
            *known = all.len() as u32;
        }
        check_count(self.lanes.len())?;
        Ok(self.lanes.len() > before)
    }
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= MAX_PARTITIONS {
        return Ok(());
    }
    Err(Refusal::invalid(
        "partitions",
        format!(
            "a stream is over at most {MAX_PARTITIONS} partitions, and here are more: choose with partitions=0,1,2"
        ),
    ))
}

/// Where a cursor says that a partition goes on.
fn reached(cursor: &Cursor, topic: &Topic, partition: u32) -> Option<Offset> {
    let slot = cursor.topics.iter().position(|id| *id == topic.id())?;
    let reached = cursor
        .reached
        .iter()
        .find(|reached| (reached.topic, reached.partition) == (slot, partition))?;
    Some(reached.next)
}

fn check_cursor(fetcher: &Fetcher, pointer: &str, cursor: &Cursor) -> Result<(), Refusal> {
    if cursor.directory != directory(fetcher) {
        return Err(Refusal::new(
            Reason::CursorExpired,
            "the cursor is of another data directory, perhaps from before this one was restored from a backup: begin without it",
        )
        .at(pointer));
    }
    if cursor
        .topics
        .iter()
        .any(|id| fetcher.log.topic_by_id(*id).is_none())
    {
        return Err(Refusal::new(
            Reason::CursorExpired,
            "the topic of the cursor was deleted (a topic of that name now is another one): begin without the cursor",
        ));
    }
    Ok(())
}

fn wrong_cursor(pointer: &str, what: &str) -> Refusal {
    Refusal::invalid(pointer, format!("the cursor is not of this stream: {what}"))
}

/// The data directory's identity, as cursors have it.
pub(super) fn directory(fetcher: &Fetcher) -> u64 {
    fetcher.log.directory_number()
}
