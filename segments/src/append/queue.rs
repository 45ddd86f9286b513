//! The queue between callers and the committer: bounded in bytes, in order of arrival.
//!
//! A request is checked here, before it is queued: what is refused here leaves nothing behind.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use super::keys::Kept;
use super::producers;
use super::request::{AppendRequest, Part};
use crate::error::{Error, Result};
use crate::files::state::{RESERVED_PREFIX, StateChange};
use crate::io::sync::{Condvar, Mutex};
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::ticket::{Answer, Ticket, ticket};
use crate::topic::Topic;
use crate::topic::partition::{Partition, TrimQueue};
use crate::types::Offset;

/// What a queued request asks a round to do.
pub(crate) enum Operation {
    Append(AppendRequest),
    Trim {
        partition: Arc<Partition>,
        before: Offset,
        state: Vec<StateChange>,
    },
    DeleteTopic {
        topic: Arc<Topic>,
        state: Vec<StateChange>,
    },
    /// Records of idempotency keys: those that are still needed are appended again.
    KeepKeys(Vec<Kept>),
}

/// An append that was not queued: nothing of it is stored.
pub struct Unqueued {
    /// Why.
    pub error: Error,
    /// What was to be queued, to be tried again.
    pub request: AppendRequest,
}

pub(crate) struct Queued {
    pub(crate) operation: Operation,
    pub(crate) answer: Answer,
    /// The most bytes that it takes in the journal.
    pub(crate) bytes: u64,
}

impl Queued {
    /// Its bytes in the queue's count: even a tiny request takes memory.
    fn held_bytes(&self) -> u64 {
        self.bytes + QUEUED_OVERHEAD_BYTES
    }
}

/// About what a queued request takes in memory besides its records: itself, its parts, its ticket.
const QUEUED_OVERHEAD_BYTES: u64 = 512;

struct Waiting {
    requests: Vec<Queued>,
    bytes: u64,
    /// The answer to new requests, once `close` or a failed journal has set it.
    refusal: Option<Error>,
    /// Set by `close`: the committer ends when the queue is empty.
    closing: bool,
}

/// Runs one round in the caller's thread; `false` if nothing was queued.
pub(crate) type Driver = Box<dyn Fn() -> Result<bool> + Send + Sync>;

/// The bounded queue between callers and the committer.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    queue_bytes: u64,
    max_request_bytes: usize,
    /// Set once, when a log without threads of its own is opened.
    driver: OnceLock<Driver>,
}

/// The largest key of the state, in bytes.
const MAX_STATE_KEY_BYTES: usize = 64 << 10;
/// The largest value of the state, in bytes.
const MAX_STATE_VALUE_BYTES: usize = 1 << 20;

impl Queue {
    pub(crate) fn new(queue_bytes: u64, max_request_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::new(Waiting {
                requests: Vec::new(),
                bytes: 0,
                refusal: None,
                closing: false,
            }),
            arrived: Condvar::new(),
            queue_bytes,
            max_request_bytes,
            driver: OnceLock::new(),
        })
    }

    pub(crate) fn set_driver(&self, driver: Driver) {
        let set = self.driver.set(driver);
        assert!(set.is_ok(), "a log has one driver, set when it is opened");
    }

    /// Queues an append, or gives it back.
    pub(crate) fn append(&self, request: AppendRequest) -> std::result::Result<Ticket, Box<Unqueued>> {
        let queued = match self.checked_bytes(&request) {
            Ok(bytes) => self.offer(Operation::Append(request), bytes),
            Err(error) => Err((error, Operation::Append(request))),
        };
        queued.map_err(|(error, operation)| {
            let request = match operation {
                Operation::Append(request) => request,
                Operation::Trim { .. } | Operation::DeleteTopic { .. } | Operation::KeepKeys(_) => {
                    unreachable!("an append was offered")
                }
            };
            Box::new(Unqueued { error, request })
        })
    }

    /// The most bytes that an append takes in the journal.
    fn checked_bytes(&self, request: &AppendRequest) -> Result<u64> {
        let mut bytes = 0;
        let mut seen = HashSet::new();
        for part in &request.parts {
            if part.records.count() == 0 {
                return Err(Error::Invalid(format!(
                    "there is no record for {}",
                    part.partition.name()
                )));
            }
            // Most requests have one part: that costs nothing here.
            if request.parts.len() > 1 && !seen.insert(Arc::as_ptr(&part.partition)) {
                return Err(Error::Invalid(format!(
                    "two parts are for {}",
                    part.partition.name()
                )));
            }
            bytes += part.records.bytes() + ITEM_OVERHEAD_BYTES;
            bytes += producers::check_part(&part.records)?;
        }
        if let Some(once) = &request.once {
            let is_within = |part: &Part| once.topic.is_none_or(|topic| part.partition.id().topic == topic);
            if request.parts.is_empty() || !request.parts.iter().all(is_within) {
                return Err(Error::Invalid(
                    "a request that is appended once has records; if its key has a topic, of no other topic"
                        .into(),
                ));
            }
            bytes += once.record_bytes(request.parts.len())?;
        }
        bytes += state_bytes(&request.state)?;
        for receipt in &request.receipts {
            if receipt
                .parts
                .iter()
                .any(|part| *part as usize >= request.parts.len())
            {
                return Err(Error::Invalid("a receipt names a part that is not there".into()));
            }
            bytes += change_bytes(&receipt.key, receipt.value_bytes())?;
        }
        if request.parts.is_empty() && request.state.is_empty() && request.receipts.is_empty() {
            return Err(Error::Invalid("a request needs a record or a change".into()));
        }
        if bytes > self.max_request_bytes {
            return Err(Error::RequestTooLarge {
                size: bytes,
                limit: self.max_request_bytes,
            });
        }
        Ok(bytes as u64)
    }

    /// Queues the deletion of a topic.
    pub(crate) fn delete_topic(&self, topic: Arc<Topic>, state: Vec<StateChange>) -> Result<Ticket> {
        let bytes = state_bytes(&state)? + ITEM_OVERHEAD_BYTES;
        let ticket = self.submit(Operation::DeleteTopic { topic, state }, bytes as u64)?;
        self.drive()?;
        Ok(ticket)
    }

    /// Queues records of keys to be appended again.
    pub(crate) fn keep_keys(&self, entries: Vec<Kept>) -> Result<Ticket> {
        let bytes: usize = entries.iter().map(Kept::bytes).sum();
        let ticket = self.submit(Operation::KeepKeys(entries), bytes as u64)?;
        self.drive()?;
        Ok(ticket)
    }

    /// Runs what is queued, if the log has no thread for it.
    fn drive(&self) -> Result<()> {
        if let Some(run_round) = self.driver.get() {
            while run_round()? {}
        }
        Ok(())
    }

    fn submit(&self, operation: Operation, bytes: u64) -> Result<Ticket> {
        self.offer(operation, bytes).map_err(|(error, _)| error)
    }

    #[allow(
        clippy::result_large_err,
        reason = "what is refused is given back without a copy"
    )]
    fn offer(&self, operation: Operation, bytes: u64) -> std::result::Result<Ticket, (Error, Operation)> {
        let (ticket, answer) = ticket();
        let mut waiting = self.waiting.lock();
        if let Some(refusal) = &waiting.refusal {
            return Err((refusal.clone(), operation));
        }
        let queued = Queued {
            operation,
            answer,
            bytes,
        };
        if waiting.bytes > 0 && waiting.bytes + queued.held_bytes() > self.queue_bytes {
            let reason = format!("{} bytes wait for the disk, which is all that may", waiting.bytes);
            return Err((Error::Overloaded { reason }, queued.operation));
        }
        let was_empty = waiting.requests.is_empty();
        waiting.bytes += queued.held_bytes();
        waiting.requests.push(queued);
        drop(waiting);
        if was_empty {
            self.arrived.notify_one();
        }
        Ok(ticket)
    }

    /// Takes requests in order of arrival: the first whatever its size, then more up to `max_bytes` in total.
    pub(crate) fn take(&self, max_bytes: u64, into: &mut Vec<Queued>) {
        let mut waiting = self.waiting.lock();
        let mut bytes = 0;
        let mut held_bytes = 0;
        let mut count = 0;
        for request in &waiting.requests {
            if count > 0 && bytes + request.bytes > max_bytes {
                break;
            }
            bytes += request.bytes;
            held_bytes += request.held_bytes();
            count += 1;
        }
        if count == waiting.requests.len() && into.is_empty() {
            std::mem::swap(into, &mut waiting.requests);
        } else {
            into.extend(waiting.requests.drain(..count));
        }
        waiting.bytes -= held_bytes;
    }

    /// Waits until something is queued; `false` if the log closes and the queue is empty.
    pub(crate) fn wait(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() {
            if waiting.closing {
                return false;
            }
            self.arrived.wait(&mut waiting);
        }
        true
    }

    /// Refuses everything from now on.
    pub(crate) fn refuse(&self, refusal: Error) {
        let mut waiting = self.waiting.lock();
        waiting.refusal.get_or_insert(refusal);
    }

    /// Refuses everything from now on and lets the committer end when it has answered what is queued.
    pub(crate) fn close(&self) {
        self.refuse(Error::Closed);
        self.waiting.lock().closing = true;
        self.arrived.notify_all();
    }

    /// Answers what is queued with [`Error::Closed`]. Breaks a cycle: requests hold partitions, which hold this queue.
    pub(crate) fn abandon(&self) {
        self.refuse(Error::Closed);
        let requests = std::mem::take(&mut self.waiting.lock().requests);
        drop(requests);
    }

    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.waiting.lock().bytes
    }
}

impl TrimQueue for Queue {
    fn trim(&self, partition: Arc<Partition>, before: Offset, state: Vec<StateChange>) -> Result<Ticket> {
        let bytes = state_bytes(&state)? + ITEM_OVERHEAD_BYTES;
        let operation = Operation::Trim {
            partition,
            before,
            state,
        };
        let ticket = self.submit(operation, bytes as u64)?;
        self.drive()?;
        Ok(ticket)
    }
}

fn state_bytes(changes: &[StateChange]) -> Result<usize> {
    let mut bytes = 0;
    for change in changes {
        bytes += change_bytes(&change.key, change.value.as_ref().map_or(0, Vec::len))?;
    }
    Ok(bytes)
}

fn change_bytes(key: &[u8], value: usize) -> Result<usize> {
    if key.first() == Some(&RESERVED_PREFIX) {
        return Err(Error::Invalid(
            "keys of the state that begin with a zero byte are the log's own".into(),
        ));
    }
    if key.len() > MAX_STATE_KEY_BYTES || value > MAX_STATE_VALUE_BYTES {
        return Err(Error::Invalid(
            "a key or a value of the state is too large".into(),
        ));
    }
    Ok(key.len() + value + ITEM_OVERHEAD_BYTES)
}
