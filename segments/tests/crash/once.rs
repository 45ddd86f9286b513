//! Clients that repeat requests: with a key, or as a producer that numbers its batches.
//!
//! Requests are sent again at random, whether they were answered or not, beside others that wait or after a restart,
//! with the same key and now and then with another fingerprint. Each repetition has its own records, so that the model
//! sees which one was stored, and that it was only one.

use std::sync::Arc;

use quipu_segments::{Ack, Clock, Error, Offset, Partition, ProducerId, Records, TopicId};

use super::Driver;
use crate::model::{BatchTry, Fate, KeyedTry, Name, PartKey, Rec, RequestId, Rows, Verdict};
use crate::packed::packed;

/// A key that was used.
#[derive(Clone)]
pub(super) struct Key {
    /// `None`: it is a key of the whole log.
    topic: Option<TopicId>,
    key: Vec<u8>,
    fingerprint: u8,
}

/// A producer, as it sees itself.
pub(super) struct Client {
    partition: PartKey,
    producer: i64,
    epoch: i16,
    /// The sequence of its next batch.
    next: i32,
    sent: Vec<BatchTry>,
}

impl Driver {
    /// Prepares the log for keys; returns whether requests may have them.
    pub(super) fn prepare_keys(&mut self) -> bool {
        let since = self.failures_so_far();
        match self.log().prepare_keys() {
            Ok(()) => true,
            Err(error) => {
                self.check_failure("prepare_keys", &error, since);
                false
            }
        }
    }

    pub(super) fn append_once(&mut self, mut partitions: Vec<Arc<Partition>>) {
        let topic = partitions[self.rng.index(partitions.len())].id().topic;
        let topic = (!self.rng.chance(1, 4)).then_some(topic);
        let rows = self.keys.iter();
        let known: Vec<Key> = rows.filter(|key| key.topic == topic).cloned().collect();
        let mut key = if !known.is_empty() && self.rng.chance(2, 3) {
            // Prefer one of the last keys.
            let back = self
                .rng
                .index(known.len().min([1, 4, 1_000, 1_000][self.rng.clone().index(4)]));
            known[known.len() - 1 - back].clone()
        } else {
            let key = Key {
                topic,
                key: format!("key {}", self.model.next_request).into_bytes(),
                fingerprint: 0,
            };
            self.keys.push(key.clone());
            key
        };
        let copies = [1, 1, 1, 2, 3][self.rng.index(5)];
        partitions.retain(|partition| topic.is_none_or(|topic| partition.id().topic == topic));
        for _ in 0..copies {
            if self.rng.chance(1, 10) {
                key.fingerprint = self.rng.below(3) as u8;
            }
            let window = [100, 300, 300, 1_000, 1_000, 5_000, 600_000][self.rng.index(7)];
            let once = KeyedTry {
                topic,
                key: key.key.clone(),
                fingerprint: key.fingerprint,
                expires: self.clock.now().get() + window,
            };
            // Records without a record key may go to other partitions in a repetition.
            let wanted = [1, 1, 2, 3][self.rng.index(4)];
            let mut free = partitions.clone();
            let mut parts = Vec::new();
            while parts.len() < wanted && !free.is_empty() {
                let partition = free.swap_remove(self.rng.index(free.len()));
                let (records, plan) = self.records(self.model.next_request, parts.len() as u32);
                parts.push((partition, records, plan));
            }
            self.send(parts, Some(once), None);
        }
    }

    pub(super) fn append_of_producer(&mut self, partitions: &[Arc<Partition>]) {
        let partition = Arc::clone(&partitions[self.rng.index(partitions.len())]);
        let key = (partition.id().topic, partition.id().index);
        let producer = self.rng.below(2) as i64;
        let is_it = |client: &Client| (client.partition, client.producer) == (key, producer);
        let at = self.clients.iter().position(is_it).unwrap_or_else(|| {
            self.clients.push(Client {
                partition: key,
                producer,
                epoch: 0,
                next: if self.rng.chance(1, 4) { i32::MAX - 5 } else { 0 },
                sent: Vec::new(),
            });
            self.clients.len() - 1
        });
        for _ in 0..self.rng.between(1, 3) {
            let batch = self.next_batch(at, key);
            let count = if batch.last >= batch.first {
                batch.last - batch.first + 1
            } else {
                i32::MAX - batch.first + batch.last + 2
            };
            let id = self.model.next_request;
            let name = |index| Name {
                request: id,
                part: 0,
                index,
            };
            let records: Vec<Rec> = (0..count as u32)
                .map(|index| Rec::make(name(index), self.clock.now().get(), 20, &mut self.rng))
                .collect();
            let (mut sealed, lacks) = packed(&records, id);
            sealed.set_producer(ProducerId(producer), batch.epoch, batch.first);
            let part = (
                Arc::clone(&partition),
                Records::Sealed(vec![sealed]),
                Rows { records, lacks },
            );
            self.send(vec![part], None, Some(batch));
        }
    }

    /// The next batch of a producer: the one after all that it has sent, a repeated one, or a wrong one.
    fn next_batch(&mut self, at: usize, key: PartKey) -> BatchTry {
        let client = &mut self.clients[at];
        let is_its = |id: RequestId| {
            let request = &self.model.requests[&id];
            request
                .batch
                .is_some_and(|batch| batch.producer == client.producer)
                && request.parts[0].partition == key
        };
        if !self.waiting.iter().any(|waiting| is_its(waiting.id)) {
            // The producer knows what has arrived, and continues from there.
            let stored = self.model.batches(key, client.producer, RequestId::MAX);
            if let Some((_, last)) = stored.last() {
                client.epoch = last.epoch;
                client.next = after(last.last, 1);
            }
        }
        let what = self.rng.below(10);
        if what < 4 && !client.sent.is_empty() {
            let back = self.rng.index(client.sent.len().min(6));
            return client.sent[client.sent.len() - 1 - back];
        }
        let (mut epoch, mut first) = (client.epoch, client.next);
        match what {
            7 => first = after(first, self.rng.between(1, 3) as i32),
            8 => {
                epoch += 1;
                first = [0, 0, 4][self.rng.index(3)];
            }
            9 => epoch = (epoch - 1).max(0),
            _ => {}
        }
        let batch = BatchTry {
            producer: client.producer,
            epoch,
            first,
            last: after(first, self.rng.below(4) as i32),
        };
        if matches!(what, 0..=6) {
            client.next = after(batch.last, 1);
            client.sent.push(batch);
        }
        batch
    }

    /// A request was answered with the offsets that another one has stored.
    pub(super) fn repeated(&mut self, id: RequestId, bases: &[Offset], note: &[u8]) {
        let request = self.model.requests[&id].clone();
        say!(self, "request {id} repeats what is at {bases:?}");
        if request.batch.is_some() {
            assert!(note.is_empty(), "a batch has no note");
            let verdict = self.model.verdict(id);
            assert!(
                matches!(verdict, Verdict::Repeated(base) if base.is_none_or(|base| [base] == bases)),
                "the batch of request {id}: {verdict:?}"
            );
            self.tally.repeated_batches += 1;
            self.model.refuse(id);
            return;
        }
        let once = request.once.expect("only what has a key is repeated");
        let first = RequestId::from_le_bytes(note.try_into().expect("a note is a number"));
        let stored = self.model.requests.get_mut(&first).expect("it was appended");
        if stored.is_in_flight && stored.fate == Fate::Unknown && request.ack == Ack::Written {
            (stored.fate, stored.bases) = (Fate::Written, Some(bases.to_vec()));
        }
        let stored = stored.clone();
        let twin = stored.once.as_ref().expect("it has a key, too");
        assert_eq!(
            (twin.topic, &twin.key, twin.fingerprint),
            (once.topic, &once.key, once.fingerprint),
            "request {id} is answered by request {first}"
        );
        assert!(
            twin.expires > self.clock.now().get(),
            "request {id} is answered by request {first}, whose key has expired"
        );
        assert!(
            matches!(stored.fate, Fate::Durable | Fate::Written),
            "request {id} is answered by request {first}, which is not stored"
        );
        let found = stored.bases.as_deref();
        assert_eq!(found, Some(bases), "where request {first} is stored");
        self.tally.repeated += 1;
        self.tally.repeated_at_once += u64::from(stored.fate == Fate::Written);
        if request.ack == Ack::Durable {
            // A request that was only written is durable now, because its repetition is.
            let bases: Vec<_> = bases.iter().copied().map(Some).collect();
            self.model.settle(first, &bases);
        }
        self.model.refuse(id);
    }

    /// Checks that a request that was just stored does not repeat another one.
    pub(super) fn check_is_new(&mut self, id: RequestId) {
        if self.model.requests[&id].batch.is_some() {
            let found = self.model.verdict(id);
            assert_eq!(found, Verdict::Append, "the batch of request {id}");
        }
        if let Some(once) = self.model.requests[&id].once.clone() {
            self.model.check_only_one(id, &once);
            let is_again = self.model.requests.iter().any(|(other, request)| {
                *other != id
                    && request.fate == Fate::Durable
                    && request
                        .once
                        .as_ref()
                        .is_some_and(|twin| (twin.topic, &twin.key) == (once.topic, &once.key))
            });
            self.tally.expired += u64::from(is_again);
        }
    }

    /// Whether other stored requests explain why a request was refused.
    pub(super) fn explains_refusal(&self, id: RequestId, error: &Error) -> bool {
        let request = &self.model.requests[&id];
        let now = self.clock.now().get();
        match error {
            Error::KeyReused => request.once.is_some() && self.model.is_remembered(id, true, now),
            // Expired ones may count for a second.
            Error::TooManyKeys { .. } => {
                request.once.is_some()
                    && self.options.key_bytes < 1 << 20
                    && self.model.remembered(now - 1_000) > 0
                    && !self.model.is_remembered(id, false, self.model.latest)
            }
            Error::OutOfOrderSequence { .. } => {
                request.batch.is_some() && self.model.verdict(id) == Verdict::OutOfOrder
            }
            Error::ProducerFenced { .. } => {
                request.batch.is_some() && self.model.verdict(id) == Verdict::Fenced
            }
            _ => false,
        }
    }
}

/// The sequence `count` records later.
fn after(sequence: i32, count: i32) -> i32 {
    sequence
        .checked_add(count)
        .unwrap_or_else(|| count - (i32::MAX - sequence) - 1)
}
