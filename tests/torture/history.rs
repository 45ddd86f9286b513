//! What clients sent, what they were answered, and what they have read: all that the server must serve.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kafka::Producer;
use crate::records::Id;
use crate::retry::Retries;

/// The knowledge of all clients of all rounds. Each entry is made before the call that it is about.
#[derive(Default)]
pub struct History {
    state: Mutex<State>,
    pub counts: Counts,
}

#[derive(Default)]
pub struct State {
    pub topics: BTreeMap<String, Topic>,
    /// Requests since the last check.
    pub requests: HashMap<u64, Sent>,
    /// By group, topic and partition: the last commit that was answered, and the last that was sent.
    pub groups: BTreeMap<(String, String, u32), (u64, u64)>,
    /// By client: the requests that it sends again.
    pub retries: BTreeMap<u32, Retries>,
    /// By client: the producers that number their batches.
    pub producers: BTreeMap<u32, Producer>,
    sequences: HashMap<u32, u64>,
}

/// For the report.
#[derive(Default)]
pub struct Counts {
    pub acknowledged_requests: AtomicU64,
    pub acknowledged_records: AtomicU64,
    pub refused_requests: AtomicU64,
    /// Requests whose first result was unknown, and that were answered when sent again.
    pub retried_requests: AtomicU64,
    /// Answered requests that were sent again, with the same answer.
    pub repeated_requests: AtomicU64,
    /// Batches of Kafka's producers that were answered with an offset.
    pub numbered_batches: AtomicU64,
    /// Those of them that had been sent before.
    pub numbered_again: AtomicU64,
    pub commits: AtomicU64,
    pub fetched_records: AtomicU64,
    pub checked_records: AtomicU64,
    pub topics_made: AtomicU64,
    pub topics_deleted: AtomicU64,
}

impl Counts {
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// Whether a topic must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Absent,
    Exists,
    /// A PUT or a DELETE of it was not answered, or was answered with `unknown`.
    Unknown,
}

pub struct Topic {
    pub presence: Presence,
    /// Its identity, once an answer had it.
    pub id: Option<String>,
    /// Number of partitions: acknowledged, and requested.
    pub partitions: (u32, u32),
    /// A value of its configuration: acknowledged, and requested.
    pub setting: (u64, u64),
    pub held: Vec<Held>,
}

/// What a partition must serve.
#[derive(Clone, Default)]
pub struct Held {
    /// Records that were acknowledged with their offset, or read.
    pub known: BTreeMap<u64, Id>,
    /// The highest log start and end in any answer.
    pub log_start: u64,
    pub end: u64,
    /// The end at the last check.
    pub checked_end: u64,
    /// The highest offset of any trim that was sent.
    pub trim_sent: u64,
}

/// A produce request.
pub struct Sent {
    pub topic: String,
    /// The partition of each record.
    pub partitions: Vec<u32>,
    pub cuts: Cuts,
    /// So many of its first records must be there.
    pub must: u32,
    /// At most so many of its first records may be there.
    pub may: u32,
    /// Where the partitions ended before it was first sent, if that was before the last check.
    pub since: Option<Vec<u64>>,
}

/// Where a request may be cut off if it was in flight.
#[derive(Clone, Copy, Debug)]
pub enum Cuts {
    /// It is stored whole or not at all.
    Whole,
    /// It is a stream whose units have so many lines.
    Every(u32),
    /// It is a stream whose units end by their bytes.
    Anywhere,
}

impl Cuts {
    /// The first place at or after `count` where it may be cut.
    pub fn next(self, count: u32, total: u32) -> u32 {
        match self {
            _ if count == 0 => 0,
            Self::Whole => total,
            Self::Every(lines) => count.next_multiple_of(lines).min(total),
            Self::Anywhere => count,
        }
    }
}

impl Sent {
    /// A request without an answer yet: any number of its records may be there.
    pub fn new(topic: &str, partitions: &[u32], cuts: Cuts) -> Self {
        Self {
            topic: topic.into(),
            partitions: partitions.to_vec(),
            cuts,
            must: 0,
            may: partitions.len() as u32,
            since: None,
        }
    }
}

impl Topic {
    pub fn new(presence: Presence, partitions: u32) -> Self {
        Self {
            presence,
            id: None,
            partitions: (partitions, partitions),
            setting: (0, 0),
            held: vec![Held::default(); partitions as usize],
        }
    }
}

impl Held {
    /// Notes that this record has this offset, for ever.
    pub fn note(&mut self, place: (&str, u32, u64), id: Id) {
        let offset = place.2;
        if offset < self.log_start {
            return;
        }
        self.end = self.end.max(offset + 1);
        let before = *self.known.entry(offset).or_insert(id);
        assert_eq!(before, id, "{place:?} was given to two records");
    }
}

impl History {
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A client that panicked reports it itself, so poisoning is ignored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a topic exists.
    pub fn exists(&self, name: &str, partitions: u32) {
        let topic = Topic::new(Presence::Exists, partitions);
        self.state().topics.insert(name.into(), topic);
    }

    /// Numbers a request and remembers that it is about to be sent.
    pub fn send(&self, client: u32, sent: Sent) -> u64 {
        let mut state = self.state();
        let sequence = state.sequences.entry(client).or_default();
        *sequence += 1;
        let request = (u64::from(client) << 32) | *sequence;
        state.requests.insert(request, sent);
        request
    }

    /// Notes an answer: at least `must` and at most `may` of the request's records are there.
    pub fn settle(&self, request: u64, must: u32, may: u32) {
        let mut state = self.state();
        let sent = state.requests.get_mut(&request).expect("it was sent");
        (sent.must, sent.may) = (must, may);
        if must > 0 {
            Counts::add(&self.counts.acknowledged_requests, 1);
            Counts::add(&self.counts.acknowledged_records, u64::from(must));
        } else if may == 0 {
            Counts::add(&self.counts.refused_requests, 1);
        }
    }

    /// Notes offsets that an answer gave.
    pub fn note(&self, topic: &str, records: impl IntoIterator<Item = (u32, u64, Id)>) {
        let mut state = self.state();
        let topic_state = state.topics.get_mut(topic).expect("a topic of this test");
        for (partition, offset, id) in records {
            topic_state.held[partition as usize].note((topic, partition, offset), id);
        }
    }

    /// Changes the knowledge of one partition.
    pub fn held<R>(&self, topic: &str, partition: u32, change: impl FnOnce(&mut Held) -> R) -> R {
        let mut state = self.state();
        let topic = state.topics.get_mut(topic).expect("a topic of this test");
        change(&mut topic.held[partition as usize])
    }

    /// Changes the knowledge of one topic.
    pub fn topic<R>(&self, topic: &str, change: impl FnOnce(&mut Topic) -> R) -> R {
        change(self.state().topics.get_mut(topic).expect("a topic of this test"))
    }
}
