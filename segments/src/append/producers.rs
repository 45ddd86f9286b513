//! Batches of idempotent producers: each is appended once, in its producer's order.
//!
//! A producer numbers the records that it sends to a partition, from 0 on in each epoch. For each partition and
//! producer, the epoch and the last five batches are remembered. The rules are those of Kafka's classes
//! `ProducerStateManager`, `ProducerStateEntry` and `ProducerAppendInfo`; the first row that fits counts:
//!
//! | batch | |
//! |---|---|
//! | epoch, first and last sequence of one of the last five | a repetition: not appended, its first offset answered |
//! | its epoch is older than the newest | refused: the producer is fenced |
//! | its epoch is newer | appended if it begins at sequence 0, else refused: out of order |
//! | nothing is known of its producer | appended, whatever its sequence; but refused unless it is 0, if a producer of the topic was forgotten to make room ([`super::room`]) |
//! | begins where the last one ended (after `i32::MAX` comes 0) | appended |
//! | else | refused: out of order |
//!
//! This is stored in the engine's state, under keys that callers cannot use, and changes in the same round as the
//! batch: both are stored, or neither. A later batch of a round is checked against what the round is going to store.
//! The number of producers is bounded: to make room, the topic with the most gives up the one that has been silent for
//! longest. Each is forgotten after a silent day (as with Kafka's `producer.id.expiration.ms`).
//!
//! # The state's key and value
//! | bytes | field |
//! |---|---|
//! | 1, 1 | 0, `p` |
//! | 8, 4, 8 | topic id, index of the partition, producer id (big-endian) |
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 2, 8 | epoch, time of the last batch in milliseconds since the Unix epoch |
//! | each batch, at most five, the oldest first: 4, 4, 8 | first sequence, last sequence, first offset |

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::room::{self, ByUse, Forgotten};
use crate::append::request::Records;
use crate::batch::{BatchHeader, SealedBatch};
use crate::error::{Error, Result};
use crate::files::codec::Fields;
use crate::files::state::{RESERVED_PREFIX, State, StateChange, StateEntry};
use crate::journal::format::ITEM_OVERHEAD_BYTES;
use crate::types::{Offset, PartitionId, ProducerId, TimestampMs, TopicId};

/// Batches of a producer that are remembered, as many as it may have in flight.
const BATCHES: usize = 5;
/// Producers that are remembered, counted once for each partition that they write to. Each takes about 500 bytes of
/// memory, with its entry in the state, so that all of them take 50 MB.
const MOST_PRODUCERS: usize = 100_000;
/// How long a silent producer is remembered.
const EXPIRATION_MS: i64 = 24 * 3600 * 1000;
/// The most expired producers, and the most entries of `gone`, that one round removes from the state.
const REMOVED_AT_ONCE: usize = 16;

const PREFIX: [u8; 2] = [RESERVED_PREFIX, b'p'];
const KEY_BYTES: usize = 2 + 8 + 4 + 8;
const VERSION: u8 = 1;
const VALUE_BYTES: usize = 1 + 2 + 8 + BATCHES * 16;
/// Journal bytes that a batch adds to its round: for its producer's state, for removing another's to make room, and for
/// noting that.
const CHANGE_BYTES: usize = 2 * (KEY_BYTES + ITEM_OVERHEAD_BYTES) + VALUE_BYTES + room::CHANGE_BYTES;

/// A producer in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProducerKey {
    topic: TopicId,
    index: u32,
    producer: i64,
}

impl ProducerKey {
    pub(super) const fn new(partition: PartitionId, producer: i64) -> Self {
        Self {
            topic: partition.topic,
            index: partition.index,
            producer,
        }
    }

    pub(super) const fn topic(&self) -> TopicId {
        self.topic
    }

    fn encode(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(KEY_BYTES);
        key.extend_from_slice(&PREFIX);
        key.extend_from_slice(&self.topic.0.to_be_bytes());
        key.extend_from_slice(&self.index.to_be_bytes());
        key.extend_from_slice(&self.producer.to_be_bytes());
        key
    }

    fn decode(key: &[u8]) -> Option<Self> {
        let rest: &[u8; KEY_BYTES - 2] = key.strip_prefix(&PREFIX)?.try_into().ok()?;
        let (topic, rest) = rest.split_first_chunk::<8>()?;
        let (index, producer) = rest.split_first_chunk::<4>()?;
        Some(Self {
            topic: TopicId(u64::from_be_bytes(*topic)),
            index: u32::from_be_bytes(*index),
            producer: i64::from_be_bytes(producer.try_into().ok()?),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    first: i32,
    last: i32,
    base_offset: Offset,
}

/// What is known of a producer in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    epoch: i16,
    used: TimestampMs,
    /// At least one, the oldest first.
    batches: VecDeque<Batch>,
}

/// An idempotent producer that a partition knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownProducer {
    /// Its id.
    pub id: ProducerId,
    /// The newest epoch of it.
    pub epoch: i16,
    /// The sequence number of its last record.
    pub last_sequence: i32,
    /// When the last of its batches was appended.
    pub last_append: TimestampMs,
}

/// The producers that a partition knows at this time, by id.
pub(crate) fn known_in(state: &State, partition: PartitionId, now: TimestampMs) -> Vec<KnownProducer> {
    let prefix = &ProducerKey::new(partition, 0).encode()[..KEY_BYTES - 8];
    let read = |(key, value): &StateEntry| {
        let (key, producer) = (ProducerKey::decode(key)?, Producer::decode(value)?);
        let last = producer.batches.back().filter(|_| !producer.is_expired(now))?;
        Some(KnownProducer {
            id: ProducerId(key.producer),
            epoch: producer.epoch,
            last_sequence: last.last,
            last_append: producer.used,
        })
    };
    state.prefix(prefix).iter().filter_map(read).collect()
}

/// The producer's fields of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequenced {
    producer: ProducerId,
    epoch: i16,
    first: i32,
    last: i32,
}

impl Sequenced {
    /// The producer's fields of a batch; `None` if it has no producer.
    fn of(header: &BatchHeader) -> Option<Self> {
        (header.producer_id.0 >= 0).then(|| Self {
            producer: header.producer_id,
            epoch: header.producer_epoch,
            first: header.base_sequence,
            last: follow(header.base_sequence, header.last_offset_delta),
        })
    }

    /// The producer's fields of a part's only batch. [`check_part`] refuses producers in parts of several batches.
    pub(crate) fn of_part(records: &Records) -> Option<Self> {
        match records {
            Records::Sealed(batches) => batches.first().and_then(|batch| Self::of(&batch.header())),
            Records::Loose(_) => None,
        }
    }

    pub(crate) fn key(&self, partition: PartitionId) -> ProducerKey {
        ProducerKey::new(partition, self.producer.0)
    }
}

/// The sequence `count` records later: after the largest comes 0.
fn follow(sequence: i32, count: u32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1)) as i32
}

/// Refuses batches of producers that are wrong in themselves; returns the bytes that the part adds to its round.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check_part(records: &Records) -> Result<usize> {
    let Records::Sealed(batches) = records else {
        return Ok(0);
    };
    let mut sequenced = batches
        .iter()
        .map(SealedBatch::header)
        .filter_map(|header| Sequenced::of(&header));
    let Some(batch) = sequenced.next() else {
        return Ok(0);
    };
    if batches.len() > 1 {
        return Err(Error::Invalid("a batch with a producer id goes alone".into()));
    }
    if batch.epoch < 0 || batch.first < 0 {
        return Err(Error::Invalid(format!(
            "a batch with a producer id has an epoch and a base sequence, not {} and {}",
            batch.epoch, batch.first
        )));
    }
    Ok(CHANGE_BYTES)
}

impl Producer {
    /// Checks the batch: returns its first offset if it is a repetition, `None` if it is to be appended.
    ///
    /// # Errors
    /// [`Error::ProducerFenced`], [`Error::OutOfOrderSequence`].
    fn check(&self, batch: &Sequenced) -> Result<Option<Offset>> {
        let is_same = |known: &&Batch| (known.first, known.last) == (batch.first, batch.last);
        if batch.epoch == self.epoch
            && let Some(known) = self.batches.iter().find(is_same)
        {
            return Ok(Some(known.base_offset));
        }
        if batch.epoch < self.epoch {
            return Err(Error::ProducerFenced {
                epoch: self.epoch,
                found: batch.epoch,
            });
        }
        let expected = match self.batches.back() {
            Some(last) if batch.epoch == self.epoch => follow(last.last, 1),
            _ => 0,
        };
        if batch.first != expected {
            return Err(Error::OutOfOrderSequence {
                expected,
                found: batch.first,
            });
        }
        Ok(None)
    }

    /// What is known after `batch` was appended at `base_offset`; `before` is what was known before.
    fn after(before: Option<Self>, batch: &Sequenced, base_offset: Offset, now: TimestampMs) -> Self {
        let mut batches = match before {
            Some(before) if before.epoch == batch.epoch => before.batches,
            _ => VecDeque::with_capacity(BATCHES),
        };
        if batches.len() == BATCHES {
            batches.pop_front();
        }
        batches.push_back(Batch {
            first: batch.first,
            last: batch.last,
            base_offset,
        });
        Self {
            epoch: batch.epoch,
            used: now,
            batches,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(VALUE_BYTES);
        value.push(VERSION);
        value.extend_from_slice(&self.epoch.to_le_bytes());
        value.extend_from_slice(&self.used.get().to_le_bytes());
        for batch in &self.batches {
            value.extend_from_slice(&batch.first.to_le_bytes());
            value.extend_from_slice(&batch.last.to_le_bytes());
            value.extend_from_slice(&batch.base_offset.get().to_le_bytes());
        }
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(value);
        if fields.u8()? != VERSION {
            return None;
        }
        let epoch = i16::from_le_bytes(fields.bytes(2)?.try_into().ok()?);
        let used = TimestampMs(fields.i64()?);
        let mut batches = VecDeque::with_capacity(BATCHES);
        while !fields.is_empty() {
            let (first, last) = (fields.u32()? as i32, fields.u32()? as i32);
            let base_offset = Offset::try_new(fields.u64()?)?;
            batches.push_back(Batch {
                first,
                last,
                base_offset,
            });
        }
        let is_right = (1..=BATCHES).contains(&batches.len())
            && epoch >= 0
            && batches.iter().all(|batch| batch.first >= 0 && batch.last >= 0);
        is_right.then_some(Self { epoch, used, batches })
    }

    fn is_expired(&self, now: TimestampMs) -> bool {
        self.used.get().saturating_add(EXPIRATION_MS) <= now.get()
    }
}

/// What is to be done with a batch.
pub(crate) enum Verdict {
    Append,
    /// It was appended before: its first offset, and whether it is durable.
    Repeated(Offset, bool),
}

/// All producers: those of the state, and the changes of the round that is being planned. Only the committer uses them.
pub(crate) struct Producers {
    /// How many are remembered.
    most: usize,
    known: BTreeMap<ProducerKey, Producer>,
    by_use: ByUse,
    forgotten: Forgotten,
    /// Keys that are to be removed from the state: of deleted topics, or unreadable.
    gone: BTreeSet<Vec<u8>>,
    /// What the round stores…
    round: BTreeMap<ProducerKey, Producer>,
    /// …and removes.
    removed: Vec<Vec<u8>>,
}

impl Default for Producers {
    fn default() -> Self {
        Self {
            most: MOST_PRODUCERS,
            known: BTreeMap::new(),
            by_use: ByUse::default(),
            forgotten: Forgotten::default(),
            gone: BTreeSet::new(),
            round: BTreeMap::new(),
            removed: Vec::new(),
        }
    }
}

impl Producers {
    /// Loads the producers of `topics` from the state. Unreadable entries are reported and forgotten.
    pub(crate) fn load(state: &State, topics: &HashSet<TopicId>, damage: &mut Vec<String>) -> Self {
        let mut producers = Self::default();
        let mut wrong = 0;
        for (key, value) in state.prefix(&PREFIX) {
            match (ProducerKey::decode(&key), Producer::decode(&value)) {
                (Some(key), Some(producer)) if topics.contains(&key.topic) => producers.put(key, producer),
                (Some(_), Some(_)) => drop(producers.gone.insert(key.into())),
                _ => {
                    wrong += 1;
                    producers.gone.insert(key.into());
                }
            }
        }
        let (forgotten, gone, unreadable) = Forgotten::load(state, topics);
        producers.forgotten = forgotten;
        producers.gone.extend(gone);
        wrong += unreadable;
        if wrong > 0 {
            damage.push(format!(
                "the state of {wrong} idempotent producers cannot be read: what they repeat is appended again"
            ));
        }
        producers
    }

    fn put(&mut self, key: ProducerKey, producer: Producer) {
        self.by_use.insert((producer.used, key));
        if let Some(before) = self.known.insert(key, producer.clone())
            && before.used != producer.used
        {
            self.by_use.remove(&(before.used, key));
        }
    }

    fn get(&self, key: &ProducerKey, now: TimestampMs) -> Option<(&Producer, bool)> {
        let of_round = self.round.get(key).map(|producer| (producer, false));
        of_round
            .or_else(|| self.known.get(key).map(|producer| (producer, true)))
            .filter(|(producer, _)| !producer.is_expired(now))
    }

    /// Checks a batch against what is known of its producer.
    ///
    /// # Errors
    /// [`Error::ProducerFenced`], [`Error::OutOfOrderSequence`]: perhaps because of an earlier batch of the same round.
    /// [`Error::ProducerForgotten`].
    pub(crate) fn check(&self, key: &ProducerKey, batch: &Sequenced, now: TimestampMs) -> Result<Verdict> {
        let Some((producer, is_durable)) = self.get(key, now) else {
            // One that has been silent for a day is still there until a round removes it.
            let is_unknown = !self.known.contains_key(key);
            if is_unknown && batch.first > 0 && self.forgotten.may_have(key.topic, now) {
                return Err(Error::ProducerForgotten { found: batch.first });
            }
            return Ok(Verdict::Append);
        };
        let repeated = producer.check(batch)?;
        // A batch of an earlier round is durable, even if this round has added later ones.
        let is_known = |base: Offset| {
            is_durable
                || self.known.get(key).is_some_and(|known| {
                    known.epoch == batch.epoch && known.batches.iter().any(|known| known.base_offset == base)
                })
        };
        Ok(repeated.map_or(Verdict::Append, |base| Verdict::Repeated(base, is_known(base))))
    }

    /// Notes that the round appends a batch.
    pub(crate) fn append(
        &mut self,
        key: ProducerKey,
        batch: &Sequenced,
        base_offset: Offset,
        now: TimestampMs,
    ) {
        let before = self.get(&key, now).map(|(producer, _)| producer.clone());
        self.round
            .insert(key, Producer::after(before, batch, base_offset, now));
    }

    /// Ends the planning of a round: adds its changes of the state to `out`.
    pub(crate) fn changes(&mut self, now: TimestampMs, out: &mut Vec<StateChange>) {
        if self.round.is_empty() && self.gone.is_empty() {
            return;
        }
        let added = self
            .round
            .keys()
            .filter(|key| !self.known.contains_key(key))
            .count();
        let is_used = |key: &ProducerKey| self.round.contains_key(key);
        let has_expired = |used: TimestampMs| used.get().saturating_add(EXPIRATION_MS) <= now.get();
        let silent = self.by_use.silent();
        let expired = silent.take_while(|(used, _)| has_expired(*used));
        let expired = expired.filter(|(_, key)| !is_used(key)).take(REMOVED_AT_ONCE);
        let expired: BTreeSet<ProducerKey> = expired.map(|(_, key)| *key).collect();
        let surplus = (self.known.len() + added).saturating_sub(self.most + expired.len());
        let is_kept = |key: &ProducerKey| is_used(key) || expired.contains(key);
        let crowded = self.by_use.crowded(surplus, is_kept);
        for (used, key) in &crowded {
            if !has_expired(*used) {
                let until = TimestampMs(used.get().saturating_add(EXPIRATION_MS));
                self.forgotten.forget(key.topic, until);
            }
        }
        let crowded = crowded.into_iter().map(|(_, key)| key);
        self.removed = expired
            .into_iter()
            .chain(crowded)
            .map(ProducerKey::encode)
            .collect();
        self.removed
            .extend(self.gone.iter().take(REMOVED_AT_ONCE).cloned());
        out.extend(self.removed.iter().map(|key| StateChange::remove(key.clone())));
        // After the removals, one of which may be of an unreadable mark.
        out.extend(self.forgotten.changes());
        out.extend(
            self.round
                .iter()
                .map(|(key, producer)| StateChange::set(key.encode(), producer.encode())),
        );
    }

    /// Keeps the round's changes: it is durable.
    pub(crate) fn publish(&mut self) {
        for key in std::mem::take(&mut self.removed) {
            self.gone.remove(&key);
            if let Some(key) = ProducerKey::decode(&key)
                && let Some(old) = self.known.remove(&key)
            {
                self.by_use.remove(&(old.used, key));
            }
        }
        for (key, producer) in std::mem::take(&mut self.round) {
            if !self.gone.is_empty() {
                // An unreadable entry of that key has been overwritten.
                self.gone.remove(&key.encode());
            }
            self.put(key, producer);
        }
        self.forgotten.publish();
    }

    /// Drops the round's changes: it stores no records.
    pub(crate) fn forget_round(&mut self) {
        self.forgotten.forget_round();
        self.round.clear();
        self.removed.clear();
    }

    /// Forgets the producers of a deleted topic: the next rounds remove them from the state.
    pub(crate) fn forget_topic(&mut self, topic: TopicId) {
        let from = ProducerKey {
            topic,
            index: 0,
            producer: i64::MIN,
        };
        let keys: Vec<ProducerKey> = self
            .known
            .range(from..)
            .map(|(key, _)| *key)
            .take_while(|key| key.topic == topic)
            .collect();
        for key in keys {
            let old = self.known.remove(&key).expect("it was just listed");
            self.by_use.remove(&(old.used, key));
            self.gone.insert(key.encode());
        }
        self.gone.extend(self.forgotten.forget_topic(topic));
    }
}

/// Reads a key and a value of the state, and writes them again.
#[cfg(feature = "fuzzing")]
pub(crate) fn again(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (key, producer) = (ProducerKey::decode(key)?, Producer::decode(value)?);
    Some((key.encode(), producer.encode()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
    const PARTITION: PartitionId = PartitionId::new(TopicId(3), 1);

    fn batch(producer: i64, epoch: i16, first: i32, count: u32) -> Sequenced {
        Sequenced {
            producer: ProducerId(producer),
            epoch,
            first,
            last: follow(first, count - 1),
        }
    }

    struct Partition {
        producers: Producers,
        next: u64,
        now: TimestampMs,
    }

    impl Partition {
        fn new() -> Self {
            Self {
                producers: Producers::default(),
                next: 0,
                now: NOW,
            }
        }

        /// The batch's offset, and whether it was appended now.
        fn send(&mut self, batch: Sequenced) -> Result<(u64, bool)> {
            let key = batch.key(PARTITION);
            match self.producers.check(&key, &batch, self.now)? {
                Verdict::Repeated(base, _) => Ok((base.get(), false)),
                Verdict::Append => {
                    let base = self.next;
                    self.next += 10;
                    self.producers.append(key, &batch, Offset::new(base), self.now);
                    Ok((base, true))
                }
            }
        }

        fn end_round(&mut self) -> Vec<StateChange> {
            let mut changes = Vec::new();
            self.producers.changes(self.now, &mut changes);
            self.producers.publish();
            changes
        }
    }

    #[test]
    fn batches_follow_one_another_within_a_round_and_over_rounds() {
        let mut partition = Partition::new();
        assert_eq!(partition.send(batch(7, 0, 0, 3)).unwrap(), (0, true));
        assert_eq!(partition.send(batch(7, 0, 3, 1)).unwrap(), (10, true));
        partition.end_round();
        assert_eq!(partition.send(batch(7, 0, 4, 1)).unwrap(), (20, true));
        let refused = partition.send(batch(7, 0, 6, 1)).unwrap_err();
        assert!(
            matches!(
                refused,
                Error::OutOfOrderSequence {
                    expected: 5,
                    found: 6
                }
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn of_the_last_five_batches_a_repetition_is_known_and_of_the_sixth_out_of_order() {
        let mut partition = Partition::new();
        for sequence in 0..6 {
            partition.send(batch(7, 0, sequence, 1)).unwrap();
            if sequence == 3 {
                partition.end_round();
            }
        }
        for sequence in 1..6 {
            let got = partition.send(batch(7, 0, sequence, 1)).unwrap();
            assert_eq!(got, (10 * sequence as u64, false));
        }
        assert!(matches!(
            partition.send(batch(7, 0, 0, 1)),
            Err(Error::OutOfOrderSequence {
                expected: 6,
                found: 0
            })
        ));
        // The same first sequence with another last one is another batch.
        assert!(partition.send(batch(7, 0, 5, 2)).is_err());
    }

    #[test]
    fn only_what_an_earlier_round_stored_is_repeated_for_certain() {
        let mut partition = Partition::new();
        partition.send(batch(7, 0, 0, 1)).unwrap();
        partition.end_round();
        partition.send(batch(7, 0, 1, 1)).unwrap();
        let certain = |first| {
            let batch = batch(7, 0, first, 1);
            match partition.producers.check(&batch.key(PARTITION), &batch, NOW) {
                Ok(Verdict::Repeated(_, is_durable)) => Some(is_durable),
                _ => None,
            }
        };
        assert_eq!((certain(0), certain(1)), (Some(true), Some(false)));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_one_before() {
        let mut partition = Partition::new();
        partition.send(batch(7, 3, 0, 4)).unwrap();
        assert!(matches!(
            partition.send(batch(7, 4, 4, 1)),
            Err(Error::OutOfOrderSequence {
                expected: 0,
                found: 4
            })
        ));
        assert!(partition.send(batch(7, 4, 0, 1)).unwrap().1);
        for sequence in [0, 4] {
            assert!(matches!(
                partition.send(batch(7, 3, sequence, 4)),
                Err(Error::ProducerFenced { epoch: 4, found: 3 })
            ));
        }
    }

    #[test]
    fn an_unknown_producer_begins_anywhere_and_after_the_largest_sequence_comes_zero() {
        let mut partition = Partition::new();
        assert!(partition.send(batch(7, 5, i32::MAX - 1, 4)).unwrap().1);
        assert!(!partition.send(batch(7, 5, i32::MAX - 1, 4)).unwrap().1);
        assert!(partition.send(batch(7, 5, 2, 1)).unwrap().1);
        assert_eq!(follow(i32::MAX, 1), 0);
        assert_eq!(follow(i32::MAX - 1, 1), i32::MAX);
    }

    #[test]
    fn a_round_that_stores_nothing_leaves_what_was_known() {
        let mut partition = Partition::new();
        partition.send(batch(7, 0, 0, 1)).unwrap();
        partition.end_round();
        partition.send(batch(7, 0, 1, 1)).unwrap();
        partition.producers.changes(NOW, &mut Vec::new());
        partition.producers.forget_round();
        assert!(partition.send(batch(7, 0, 2, 1)).is_err());
        assert!(partition.send(batch(7, 0, 1, 1)).unwrap().1);
    }

    #[test]
    fn the_state_holds_all_that_is_known_and_gives_it_back() {
        let mut partition = Partition::new();
        let mut state = State::default();
        for sequence in 0..7 {
            partition.send(batch(7, 2, sequence, 1)).unwrap();
            partition.send(batch(8, 0, 9 + sequence, 1)).unwrap();
            for change in partition.end_round() {
                state.apply(&change.key, change.value.as_deref());
            }
        }
        let mut damage = Vec::new();
        let topics = HashSet::from([TopicId(3)]);
        let loaded = Producers::load(&state, &topics, &mut damage);
        assert_eq!(loaded.known, partition.producers.known);
        assert_eq!(loaded.by_use, partition.producers.by_use);
        assert!(damage.is_empty());

        state.apply(&[&PREFIX[..], b"cut"].concat(), Some(b""));
        let mut orphans = Producers::load(&state, &HashSet::new(), &mut damage);
        assert_eq!((orphans.known.len(), orphans.gone.len(), damage.len()), (0, 3, 1));
        let mut changes = Vec::new();
        orphans.changes(NOW, &mut changes);
        orphans.publish();
        for change in changes {
            state.apply(&change.key, change.value.as_deref());
        }
        assert!(state.prefix(&PREFIX).is_empty() && orphans.gone.is_empty());
    }

    #[test]
    fn any_value_that_is_cut_is_none() {
        let value = Producer {
            epoch: 1,
            used: NOW,
            batches: VecDeque::from([Batch {
                first: 0,
                last: 4,
                base_offset: Offset::new(8),
            }]),
        }
        .encode();
        for length in 0..value.len() {
            assert_eq!(Producer::decode(&value[..length]), None);
        }
        assert!(Producer::decode(&value).is_some());
        assert_eq!(Producer::decode(&[&value[..], &[0]].concat()), None);
        assert_eq!(ProducerKey::decode(&PREFIX), None);
    }

    #[test]
    fn a_silent_producer_is_forgotten_after_a_day_and_leaves_the_state() {
        let mut partition = Partition::new();
        partition.send(batch(7, 5, 0, 1)).unwrap();
        partition.end_round();
        partition.now = TimestampMs(NOW.get() + EXPIRATION_MS);
        partition.send(batch(8, 0, 0, 1)).unwrap();
        let changes = partition.end_round();
        let old = batch(7, 5, 0, 1).key(PARTITION).encode();
        assert!(
            changes
                .iter()
                .any(|change| change.key == old && change.value.is_none())
        );
        assert!(partition.send(batch(7, 4, 8, 1)).unwrap().1);
    }

    #[test]
    fn the_producer_that_was_silent_for_longest_makes_room() {
        let mut partition = Partition::new();
        for producer in 0..MOST_PRODUCERS as i64 {
            partition.now = TimestampMs(NOW.get() + producer);
            partition.send(batch(producer, 0, 0, 1)).unwrap();
            partition.end_round();
        }
        partition.send(batch(0, 0, 1, 1)).unwrap();
        partition.send(batch(1 << 40, 0, 0, 1)).unwrap();
        partition.end_round();
        assert_eq!(partition.producers.known.len(), MOST_PRODUCERS);
        assert_eq!(partition.producers.by_use.len(), MOST_PRODUCERS);
        // Producer 0 was used just now.
        assert!(!partition.send(batch(0, 0, 0, 1)).unwrap().1);
        let forgotten = partition.send(batch(1, 0, 9, 1));
        assert!(
            matches!(forgotten, Err(Error::ProducerForgotten { found: 9 })),
            "{forgotten:?}"
        );
        assert!(partition.send(batch(1, 0, 0, 1)).unwrap().1);
    }

    /// What becomes of a batch, in a round of its own.
    fn send_to(producers: &mut Producers, topic: u64, batch: Sequenced, ms: i64) -> Result<bool> {
        let key = batch.key(PartitionId::new(TopicId(topic), 0));
        let now = TimestampMs(NOW.get() + ms);
        let is_new = matches!(producers.check(&key, &batch, now)?, Verdict::Append);
        if is_new {
            producers.append(key, &batch, Offset::ZERO, now);
        }
        producers.changes(now, &mut Vec::new());
        producers.publish();
        Ok(is_new)
    }

    #[test]
    fn a_topic_with_many_producers_takes_no_room_of_topics_with_few() {
        let mut producers = Producers {
            most: 100,
            ..Producers::default()
        };
        for victim in 0..40 {
            assert!(send_to(&mut producers, 1, batch(victim, 0, 0, 1), 0).unwrap());
        }
        // Whoever may write to topic 2 writes as ten thousand producers, each once.
        for ms in 1..10_000 {
            assert!(send_to(&mut producers, 2, batch(1000 + ms, 0, 0, 1), ms).unwrap());
        }
        assert_eq!((producers.known.len(), producers.by_use.len()), (100, 100));
        for victim in 0..40 {
            let is_new = send_to(&mut producers, 1, batch(victim, 0, 0, 1), 10_000);
            assert!(!is_new.unwrap(), "{victim} repeats its batch");
            assert!(send_to(&mut producers, 1, batch(victim, 0, 1, 1), 10_000).unwrap());
        }
    }

    #[test]
    fn a_forgotten_producer_is_refused_where_it_goes_on_and_may_begin_anew() {
        let mut producers = Producers {
            most: 2,
            ..Producers::default()
        };
        for sequence in 0..2 {
            send_to(&mut producers, 1, batch(7, 0, sequence, 1), 0).unwrap();
        }
        for other in 8..10 {
            send_to(&mut producers, 1, batch(other, 0, 0, 1), 1).unwrap();
        }
        for sequence in [1, 2] {
            let refused = send_to(&mut producers, 1, batch(7, 0, sequence, 1), 2);
            assert!(
                matches!(refused, Err(Error::ProducerForgotten { found }) if found == sequence),
                "it may be a repetition: {refused:?}"
            );
        }
        // In another topic nobody was forgotten.
        assert!(send_to(&mut producers, 2, batch(7, 0, 5, 1), 2).unwrap());
        assert!(send_to(&mut producers, 1, batch(7, 1, 0, 1), 2).unwrap());
        assert!(send_to(&mut producers, 1, batch(7, 1, 1, 1), 2).unwrap());
        // A day later it would have been forgotten anyway.
        let later = 2 * EXPIRATION_MS;
        assert!(send_to(&mut producers, 1, batch(9, 0, 4, 1), later).unwrap());
    }

    #[test]
    fn the_producers_of_a_deleted_topic_leave_the_state_and_no_others() {
        let mut partition = Partition::new();
        partition.send(batch(7, 0, 0, 1)).unwrap();
        partition.end_round();
        let other = PartitionId::new(TopicId(4), 0);
        let stays = batch(7, 0, 0, 1);
        partition
            .producers
            .append(stays.key(other), &stays, Offset::ZERO, NOW);
        partition.end_round();
        partition.producers.forget_topic(TopicId(3));
        let changes = partition.end_round();
        assert_eq!(changes, [StateChange::remove(stays.key(PARTITION).encode())]);
        assert!(partition.producers.known.contains_key(&stays.key(other)));
    }
}
