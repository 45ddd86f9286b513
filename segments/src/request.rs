//! What callers hand to the committer, and the queue between them.

use std::sync::{Arc, OnceLock, Weak};

use crate::batch::{BatchBuilder, SealedBatch};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::keys::Kept;
use crate::partition::Partition;
use crate::producers;
use crate::state::{RESERVED_PREFIX, StateChange};
use crate::sync::{Condvar, Mutex};
use crate::ticket::{Answer, Ticket, ticket};
use crate::topic::Topic;
use crate::types::{Ack, Offset, TimestampMs, TopicId};

/// Records for one partition.
#[derive(Debug)]
pub enum Records {
    /// May be combined with those of other requests into one batch.
    Loose(BatchBuilder),
    /// Stay the batches that they are.
    Sealed(Vec<SealedBatch>),
}

impl Records {
    fn bytes(&self) -> usize {
        match self {
            Self::Loose(builder) => builder.len(),
            Self::Sealed(batches) => batches
                .iter()
                .map(|batch| batch.as_bytes().len() + ITEM_OVERHEAD_BYTES)
                .sum(),
        }
    }

    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Loose(builder) => u64::from(builder.record_count()),
            Self::Sealed(batches) => batches.iter().map(|batch| u64::from(batch.record_count())).sum(),
        }
    }
}

/// A request's records in one partition: consecutive offsets, readable together.
pub struct Part {
    /// Where they go.
    pub partition: Arc<Partition>,
    /// The records, at least one.
    pub records: Records,
    /// Append only if this is the next offset to be given.
    pub expected_offset: Option<Offset>,
    /// A hint that is kept in the index: every value is JSON without line breaks (or absent), so that readers need
    /// not look.
    pub json_lines: bool,
}

/// Makes a request one that is appended once, however often it is sent.
///
/// The first request with a key that is stored is remembered with what it was answered, in the very round of its records: after a
/// crash both are there, or neither. Until `expires` a request of the same topic and key with the same fingerprint appends
/// nothing and is answered as the first was. One that failed is not remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The topic whose keys these are: that of all of the request's parts, of which there is at least one.
    pub topic: TopicId,
    /// The key, from 1 byte to 1 KiB.
    pub key: Vec<u8>,
    /// What the request says, in short: another request with the same key is refused by it.
    pub fingerprint: [u8; 16],
    /// When the key is forgotten, by the wall clock of the log.
    pub expires: TimestampMs,
    /// Kept with the key for the caller, who gets it back with the answer to a repetition; at most 1 MiB.
    pub note: Vec<u8>,
}

/// One request: after a crash all of it is there, or none.
#[derive(Default)]
pub struct AppendRequest {
    /// The records, at most one part a partition.
    pub parts: Vec<Part>,
    /// Changes of the state, stored with the records.
    pub state: Vec<StateChange>,
    /// When it is answered.
    pub ack: Ack,
    /// Has it appended once, whatever its sender repeats. [`Log::prepare_keys`](crate::Log::prepare_keys) comes first.
    pub once: Option<Once>,
}

/// What a round does.
pub(crate) enum Operation {
    Append(AppendRequest),
    Trim {
        partition: Arc<Partition>,
        before: Offset,
    },
    DeleteTopic {
        topic: Arc<Topic>,
        state: Vec<StateChange>,
    },
    /// Entries of keys, to be appended again where they are still needed.
    KeepKeys(Vec<Kept>),
}

pub(crate) struct Queued {
    pub(crate) operation: Operation,
    pub(crate) answer: Answer,
    /// What it takes in the journal, at most.
    pub(crate) bytes: u64,
}

impl Queued {
    /// What it counts for in the queue: small requests are not for nothing.
    fn held_bytes(&self) -> u64 {
        self.bytes + QUEUED_OVERHEAD_BYTES
    }
}

/// About what a queued request takes in memory besides its records: itself, its parts, its ticket.
const QUEUED_OVERHEAD_BYTES: u64 = 512;

struct Queue {
    requests: Vec<Queued>,
    bytes: u64,
    /// Set once by `close` and by a failed journal: what new requests are answered.
    refusal: Option<Error>,
    /// Set by `close`: the committer ends when the queue is empty.
    closing: bool,
}

/// The way to the committer: a bounded queue.
#[derive(Clone)]
pub(crate) struct Committer {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    queue_bytes: u64,
    max_request_bytes: usize,
    /// Runs the rounds in the caller's thread where the log has no threads of its own.
    driver: OnceLock<Weak<Engine>>,
}

/// The largest key of the state, in bytes.
const MAX_STATE_KEY_BYTES: usize = 64 << 10;
/// The largest value of the state, in bytes.
const MAX_STATE_VALUE_BYTES: usize = 1 << 20;

impl Committer {
    pub(crate) fn new(queue_bytes: u64, max_request_bytes: usize) -> Self {
        let queue = Queue {
            requests: Vec::new(),
            bytes: 0,
            refusal: None,
            closing: false,
        };
        let shared = Shared {
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
            queue_bytes,
            max_request_bytes,
            driver: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn set_driver(&self, engine: &Arc<Engine>) {
        self.shared
            .driver
            .set(Arc::downgrade(engine))
            .expect("a log has one driver, set when it is opened");
    }

    /// Queues an append.
    pub(crate) fn append(&self, request: AppendRequest) -> Result<Ticket> {
        let mut bytes = 0;
        for (index, part) in request.parts.iter().enumerate() {
            if part.records.count() == 0 {
                return Err(Error::Invalid(format!(
                    "there is no record for {}",
                    part.partition.name()
                )));
            }
            if request.parts[..index]
                .iter()
                .any(|other| Arc::ptr_eq(&other.partition, &part.partition))
            {
                return Err(Error::Invalid(format!(
                    "two parts are for {}",
                    part.partition.name()
                )));
            }
            bytes += part.records.bytes() + ITEM_OVERHEAD_BYTES;
            bytes += producers::check_part(&part.records)?;
        }
        if let Some(once) = &request.once {
            let is_of_topic = |part: &Part| part.partition.id().topic == once.topic;
            if request.parts.is_empty() || !request.parts.iter().all(is_of_topic) {
                return Err(Error::Invalid(
                    "a request that is appended once has records of the topic of its key, and of no other"
                        .into(),
                ));
            }
            bytes += once.record_bytes(request.parts.len())?;
        }
        bytes += state_bytes(&request.state)?;
        if request.parts.is_empty() && request.state.is_empty() {
            return Err(Error::Invalid("a request needs a record or a change".into()));
        }
        if bytes > self.shared.max_request_bytes {
            return Err(Error::RequestTooLarge {
                size: bytes,
                limit: self.shared.max_request_bytes,
            });
        }
        self.submit(Operation::Append(request), bytes as u64)
    }

    /// Queues a move of a log start.
    pub(crate) fn trim(&self, partition: Arc<Partition>, before: Offset) -> Result<Ticket> {
        let ticket = self.submit(Operation::Trim { partition, before }, ITEM_OVERHEAD_BYTES as u64)?;
        self.drive()?;
        Ok(ticket)
    }

    /// Queues the deletion of a topic.
    pub(crate) fn delete_topic(&self, topic: Arc<Topic>, state: Vec<StateChange>) -> Result<Ticket> {
        let bytes = state_bytes(&state)? + ITEM_OVERHEAD_BYTES;
        let ticket = self.submit(Operation::DeleteTopic { topic, state }, bytes as u64)?;
        self.drive()?;
        Ok(ticket)
    }

    /// Queues entries of keys to be appended again.
    pub(crate) fn keep_keys(&self, entries: Vec<Kept>) -> Result<Ticket> {
        let bytes: usize = entries.iter().map(Kept::bytes).sum();
        let ticket = self.submit(Operation::KeepKeys(entries), bytes as u64)?;
        self.drive()?;
        Ok(ticket)
    }

    /// Runs what is queued, where no thread does.
    fn drive(&self) -> Result<()> {
        if let Some(engine) = self.shared.driver.get().and_then(Weak::upgrade) {
            while engine.run_round()? {}
        }
        Ok(())
    }

    fn submit(&self, operation: Operation, bytes: u64) -> Result<Ticket> {
        let (ticket, answer) = ticket();
        let mut queue = self.shared.queue.lock();
        if let Some(refusal) = &queue.refusal {
            return Err(refusal.clone());
        }
        let queued = Queued {
            operation,
            answer,
            bytes,
        };
        if queue.bytes > 0 && queue.bytes + queued.held_bytes() > self.shared.queue_bytes {
            return Err(Error::Overloaded {
                queued_bytes: queue.bytes,
            });
        }
        let was_empty = queue.requests.is_empty();
        queue.bytes += queued.held_bytes();
        queue.requests.push(queued);
        drop(queue);
        if was_empty {
            self.shared.arrived.notify_one();
        }
        Ok(ticket)
    }

    /// Takes requests of at most `max_bytes` together, the first whatever its size, in order of arrival.
    pub(crate) fn take(&self, max_bytes: u64, into: &mut Vec<Queued>) {
        let mut queue = self.shared.queue.lock();
        let mut bytes = 0;
        let mut held_bytes = 0;
        let mut count = 0;
        for request in &queue.requests {
            if count > 0 && bytes + request.bytes > max_bytes {
                break;
            }
            bytes += request.bytes;
            held_bytes += request.held_bytes();
            count += 1;
        }
        if count == queue.requests.len() && into.is_empty() {
            std::mem::swap(into, &mut queue.requests);
        } else {
            into.extend(queue.requests.drain(..count));
        }
        queue.bytes -= held_bytes;
    }

    /// Waits until something is queued; `false` when the log closes and nothing is.
    pub(crate) fn wait(&self) -> bool {
        let mut queue = self.shared.queue.lock();
        while queue.requests.is_empty() {
            if queue.closing {
                return false;
            }
            self.shared.arrived.wait(&mut queue);
        }
        true
    }

    /// Refuses everything from now on.
    pub(crate) fn refuse(&self, refusal: Error) {
        let mut queue = self.shared.queue.lock();
        queue.refusal.get_or_insert(refusal);
    }

    /// Refuses everything from now on and lets the committer end when it has answered what is queued.
    pub(crate) fn close(&self) {
        self.refuse(Error::Closed);
        self.shared.queue.lock().closing = true;
        self.shared.arrived.notify_all();
    }

    /// Drops what is queued, which answers it with [`Error::Closed`]: requests hold their partitions, which hold this queue.
    pub(crate) fn abandon(&self) {
        self.refuse(Error::Closed);
        let requests = std::mem::take(&mut self.shared.queue.lock().requests);
        drop(requests);
    }

    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.shared.queue.lock().bytes
    }
}

fn state_bytes(changes: &[StateChange]) -> Result<usize> {
    let mut bytes = 0;
    for change in changes {
        let value = change.value.as_ref().map_or(0, Vec::len);
        if change.key.first() == Some(&RESERVED_PREFIX) {
            return Err(Error::Invalid(
                "keys of the state that begin with a zero byte are the log's own".into(),
            ));
        }
        if change.key.len() > MAX_STATE_KEY_BYTES || value > MAX_STATE_VALUE_BYTES {
            return Err(Error::Invalid(
                "a key or a value of the state is too large".into(),
            ));
        }
        bytes += change.key.len() + value + ITEM_OVERHEAD_BYTES;
    }
    Ok(bytes)
}
