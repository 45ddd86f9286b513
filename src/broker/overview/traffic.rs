//! Counts all topics once a second: what was written to them and read from them, and the free space.
//!
//! In memory only: after a restart, rates are 0 for a second.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::rates::{Counts, Rates, Recent, Space};
use crate::broker::engine::{Clock, Log, Offset, Partition, PartitionId, TimestampMs, Topic, TopicId};

/// How often the topics are counted.
const INTERVAL: Duration = Duration::from_secs(1);
/// Samples of the topics for each one of the free space.
const SPACE_EVERY: u64 = 10;

/// What was written and read in the last seconds. Clones share it.
#[derive(Clone)]
pub struct Traffic {
    pub(super) log: Log,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<TopicId, Recent>,
    server: Recent,
    /// Counts of topics that are gone: those of the server never go back.
    gone: Counts,
    last: BTreeMap<TopicId, Counts>,
    space: Space,
    samples: u64,
    /// The timestamp of the last record of partitions, and their ends when it was looked up.
    newest: HashMap<PartitionId, (Offset, Option<TimestampMs>)>,
}

impl Traffic {
    /// Counts the topics of `log` when it is asked to.
    pub fn new(log: Log, clock: Arc<dyn Clock>) -> Self {
        Self {
            log,
            clock,
            state: Arc::default(),
        }
    }

    /// Counts all topics. Cost: a short look at every partition; the file system is asked for its space now and then.
    pub fn sample(&self) {
        let at = self.clock.monotonic();
        let topics = self.log.topics();
        let counted: BTreeMap<TopicId, Counts> =
            topics.iter().map(|topic| (topic.id(), counts(topic))).collect();
        let is_space_due = self.state.lock().samples.is_multiple_of(SPACE_EVERY);
        let free = is_space_due.then(|| self.log.free_bytes()).flatten();
        let mut state = self.state.lock();
        let state = &mut *state;
        state.samples += 1;
        state.topics.retain(|id, _| counted.contains_key(id));
        state.newest.retain(|id, _| counted.contains_key(&id.topic));
        for (id, last) in &state.last {
            if !counted.contains_key(id) {
                state.gone = state.gone.and(*last);
            }
        }
        for (id, counts) in &counted {
            state.topics.entry(*id).or_default().push(at, *counts);
        }
        let total = counted.values().fold(state.gone, |sum, counts| sum.and(*counts));
        state.server.push(at, total);
        state.last = counted;
        if let Some(free) = free {
            state.space.push(at, free);
        }
    }

    /// The rates of a topic.
    pub fn of_topic(&self, topic: &Topic) -> Rates {
        let (now, counts) = (self.clock.monotonic(), counts(topic));
        let state = self.state.lock();
        let recent = state.topics.get(&topic.id());
        recent.map_or_else(Rates::default, |recent| recent.rates(now, counts))
    }

    /// The rates of all topics together.
    pub fn of_server(&self) -> Rates {
        let now = self.clock.monotonic();
        let topics = self.log.topics();
        let state = self.state.lock();
        let total = topics
            .iter()
            .fold(state.gone, |sum, topic| sum.and(counts(topic)));
        state.server.rates(now, total)
    }

    /// Milliseconds until the disk is full at the pace of the last minutes; `None`: never, or not known yet.
    pub fn full_in_ms(&self, free_bytes: u64) -> Option<u64> {
        let now = self.clock.monotonic();
        self.state.lock().space.full_in_ms(now, free_bytes)
    }

    /// The timestamp of a topic's newest record. Looks up only what was appended since the last call; may block on the
    /// disk for that.
    pub(super) fn last_timestamp(&self, topic: &Topic) -> Option<TimestampMs> {
        topic
            .partitions()
            .iter()
            .filter_map(|partition| self.newest_of(partition))
            .max()
    }

    fn newest_of(&self, partition: &Partition) -> Option<TimestampMs> {
        let positions = partition.positions();
        let end = positions.end_offset;
        if end <= positions.log_start_offset {
            return None;
        }
        let known = self.state.lock().newest.get(&partition.id()).copied();
        if let Some((_, time)) = known.filter(|(known, _)| *known == end) {
            return time;
        }
        // Damage hides the time, and nothing else.
        let located = partition.locate(Offset::new(end.get() - 1)).ok();
        let time = located.and_then(|located| located.next).map(|(_, time)| time);
        self.state.lock().newest.insert(partition.id(), (end, time));
        time
    }
}

/// What was written to a topic and read from it.
fn counts(topic: &Topic) -> Counts {
    let of = |partition: &Arc<Partition>| {
        let (produced_bytes, fetched_bytes) = partition.traffic();
        Counts {
            produced_records: partition.positions().end_offset.get(),
            produced_bytes,
            fetched_bytes,
        }
    };
    topic
        .partitions()
        .iter()
        .map(of)
        .fold(Counts::default(), Counts::and)
}

/// Counts the topics once a second, until `stopping` becomes true.
pub async fn run(traffic: Traffic, mut stopping: watch::Receiver<bool>) {
    loop {
        let counting = traffic.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || counting.sample()).await {
            tracing::error!(%error, "counting the topics' traffic failed; the next count follows");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            // An error means that the service is gone, which also ends this loop.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}
