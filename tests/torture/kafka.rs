//! An idempotent Kafka producer that retries: batches carry its number and a sequence. Several batches are in flight, over
//! one connection. When the server is back, those without an answer are sent again, in their order, before anything new.
//!
//! However often a batch is sent, its records are stored once, in the order of the sequence, and its answer is always the
//! same offset: the check after the next restart finds records that are there twice, not at all, or in a wrong order.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::TcpStream;

use quipu_segments::batch::BatchBuilder;
use quipu_segments::{ProducerId, TimestampMs};

use crate::history::{Counts, Cuts, Sent};
use crate::load::{Client, Gone, Role, TOPICS};
use crate::records::{self, Id};
use crate::support::PATIENCE;

/// Batches in flight; the server remembers the last five of a producer.
const IN_FLIGHT: usize = 3;
const PRODUCE: (i16, i16) = (0, 3);
const INIT_PRODUCER_ID: (i16, i16) = (22, 0);
/// What an answer says while the disk fails.
const STORAGE_ERROR: i16 = 56;
/// What it says of a batch whose predecessor was refused for that.
const OUT_OF_ORDER: i16 = 45;

/// A batch for one partition.
#[derive(Clone, Debug)]
struct Batch {
    request: u64,
    topic: &'static str,
    partition: u32,
    count: u32,
    padding: usize,
    sequence: i32,
    tries: u32,
    /// The ends of the partitions when it was first sent.
    since: Vec<u64>,
}

/// What a producer remembers from round to round.
#[derive(Default)]
pub struct Producer {
    /// Its number and epoch, from the server.
    id: Option<(i64, i16)>,
    /// The next sequence of each partition.
    sequences: BTreeMap<(&'static str, u32), i32>,
    /// Sent, and not answered with an offset.
    in_doubt: VecDeque<Batch>,
}

/// A connection to the listener for Kafka's clients.
struct Wire {
    stream: TcpStream,
    correlation: i32,
    answered: i32,
}

impl Wire {
    fn open(client: &Client<'_>) -> Result<Self, Gone> {
        let stream = TcpStream::connect(client.round.kafka)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            correlation: 0,
            answered: 0,
        })
    }

    fn send(&mut self, (key, version): (i16, i16), body: &[u8]) -> io::Result<()> {
        self.correlation += 1;
        let mut frame = Vec::with_capacity(body.len() + 14);
        frame.extend_from_slice(&(body.len() as u32 + 10).to_be_bytes());
        frame.extend_from_slice(&key.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&self.correlation.to_be_bytes());
        // No client id.
        frame.extend_from_slice(&(-1_i16).to_be_bytes());
        frame.extend_from_slice(body);
        self.stream.write_all(&frame)
    }

    /// The next answer without its correlation id; answers come in the order of the requests.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut answer)?;
        self.answered += 1;
        let body = answer.split_off(4);
        assert_eq!(answer, self.answered.to_be_bytes(), "answers come in order");
        Ok(body)
    }
}

/// `N` bytes of an answer at a place.
fn at<const N: usize>(answer: &[u8], place: usize) -> [u8; N] {
    let bytes = answer.get(place..).and_then(|rest| rest.first_chunk());
    *bytes.unwrap_or_else(|| panic!("the answer ends before {place}: {answer:?}"))
}

impl Batch {
    /// The body of a Produce request, version 3, with `acks` of all.
    fn body(&self, (id, epoch): (i64, i16)) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for index in 0..self.count as usize {
            let id = Id::new(self.request, index);
            let (key, value) = (records::key(id), records::value(id, self.padding));
            let timestamp = TimestampMs(records::timestamp(id));
            builder.push(timestamp, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        }
        let mut sealed = builder.seal();
        sealed.set_producer(ProducerId(id), epoch, self.sequence);
        let batch = sealed.into_bytes();
        let mut body = Vec::with_capacity(batch.len() + 64);
        // No transaction, acks, a timeout.
        body.extend_from_slice(&(-1_i16).to_be_bytes());
        body.extend_from_slice(&(-1_i16).to_be_bytes());
        body.extend_from_slice(&30_000_i32.to_be_bytes());
        body.extend_from_slice(&1_i32.to_be_bytes());
        body.extend_from_slice(&(self.topic.len() as i16).to_be_bytes());
        body.extend_from_slice(self.topic.as_bytes());
        body.extend_from_slice(&1_i32.to_be_bytes());
        body.extend_from_slice(&self.partition.to_be_bytes());
        body.extend_from_slice(&(batch.len() as i32).to_be_bytes());
        body.extend_from_slice(&batch);
        body
    }

    /// The error and the first offset of its answer.
    fn result(&self, answer: &[u8]) -> (i16, i64) {
        let place = 4 + 2 + self.topic.len() + 4;
        assert_eq!(at(answer, place), self.partition.to_be_bytes());
        let error = i16::from_be_bytes(at(answer, place + 4));
        (error, i64::from_be_bytes(at(answer, place + 6)))
    }

    fn partitions(&self) -> Vec<u32> {
        vec![self.partition; self.count as usize]
    }
}

impl Client<'_> {
    pub fn produce_numbered(&mut self) -> Result<(), Gone> {
        let mut wire = Wire::open(self)?;
        let id = self.producer_id(&mut wire)?;
        // Those of an earlier connection, in their order.
        let mut unsent = self.producer(|producer| producer.in_doubt.len());
        while !self.is_over() {
            while unsent > 0 {
                let place = self.producer(|producer| producer.in_doubt.len()) - unsent;
                self.send_batch(&mut wire, id, place)?;
                unsent -= 1;
            }
            while self.producer(|producer| producer.in_doubt.len()) < IN_FLIGHT {
                let batch = self.new_batch();
                let place = self.producer(|producer| {
                    producer.in_doubt.push_back(batch);
                    producer.in_doubt.len() - 1
                });
                self.send_batch(&mut wire, id, place)?;
            }
            if self.receive_batch(&mut wire)? {
                let _ = self.events.send(Role::Numbered);
            } else {
                // After a refusal all are sent again, over a connection of their own.
                wire = Wire::open(self)?;
                unsent = self.producer(|producer| producer.in_doubt.len());
            }
        }
        Ok(())
    }

    fn producer<R>(&self, change: impl FnOnce(&mut Producer) -> R) -> R {
        change(self.history.state().producers.entry(self.number).or_default())
    }

    fn producer_id(&self, wire: &mut Wire) -> Result<(i64, i16), Gone> {
        if let Some(id) = self.producer(|producer| producer.id) {
            return Ok(id);
        }
        let mut body = (-1_i16).to_be_bytes().to_vec();
        body.extend_from_slice(&60_000_i32.to_be_bytes());
        wire.send(INIT_PRODUCER_ID, &body)?;
        let answer = wire.receive()?;
        let error = i16::from_be_bytes(at(&answer, 4));
        if error != 0 {
            assert!(self.may_fail(error), "no producer id: error {error}");
            return Err(Gone);
        }
        let id = (
            i64::from_be_bytes(at(&answer, 6)),
            i16::from_be_bytes(at(&answer, 14)),
        );
        self.producer(|producer| producer.id = Some(id));
        Ok(id)
    }

    fn may_fail(&self, error: i16) -> bool {
        !self.round.trouble.is_empty() && [STORAGE_ERROR, OUT_OF_ORDER].contains(&error)
    }

    fn new_batch(&mut self) -> Batch {
        let topic = TOPICS[self.rng.below(2) as usize];
        let partition = self.owned();
        let count = 1 + self.rng.below(40) as u32;
        let end = |partition| self.history.held(topic, partition, |held| held.checked_end);
        let since = (0..crate::load::OWNED).map(end).collect();
        let sent = Sent {
            may: 0,
            ..Sent::new(topic, &vec![partition; count as usize], Cuts::Whole)
        };
        let request = self.history.send(self.number, sent);
        let sequence = self.producer(|producer| {
            let next = producer.sequences.entry((topic, partition)).or_default();
            let sequence = *next;
            *next += count as i32;
            sequence
        });
        Batch {
            request,
            topic,
            partition,
            count,
            padding: self.rng.below(3000) as usize,
            sequence,
            tries: 0,
            since,
        }
    }

    /// Sends the batch at this place of those in doubt.
    fn send_batch(&self, wire: &mut Wire, id: (i64, i16), place: usize) -> Result<(), Gone> {
        let batch = self.producer(|producer| {
            let batch = &mut producer.in_doubt[place];
            batch.tries += 1;
            batch.clone()
        });
        let sent = Sent {
            since: Some(batch.since.clone()),
            ..Sent::new(batch.topic, &batch.partitions(), Cuts::Whole)
        };
        self.history.state().requests.insert(batch.request, sent);
        Ok(wire.send(PRODUCE, &batch.body(id))?)
    }

    /// Receives the answer to the oldest batch in doubt; returns whether it is stored.
    fn receive_batch(&mut self, wire: &mut Wire) -> Result<bool, Gone> {
        let batch = self.producer(|producer| producer.in_doubt[0].clone());
        let (error, offset) = batch.result(&wire.receive()?);
        if error != 0 {
            assert!(self.may_fail(error), "error {error} for {batch:?}");
            self.refuse();
            return Ok(false);
        }
        self.accept();
        let first = u64::try_from(offset).unwrap_or_else(|_| panic!("the offset {offset} of {batch:?}"));
        let ids = (0..batch.count as usize).map(|index| Id::new(batch.request, index));
        let placed = (first..)
            .zip(ids)
            .map(|(offset, id)| (batch.partition, offset, id));
        self.history.note(batch.topic, placed);
        self.history.settle(batch.request, batch.count, batch.count);
        Counts::add(&self.history.counts.numbered_batches, 1);
        if batch.tries > 1 {
            Counts::add(&self.history.counts.retried_requests, 1);
            Counts::add(&self.history.counts.numbered_again, 1);
        }
        self.producer(|producer| producer.in_doubt.pop_front());
        Ok(true)
    }
}
