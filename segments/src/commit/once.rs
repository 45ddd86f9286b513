//! Idempotency keys while a round is planned: those that are remembered, and those that the round itself adds.
//!
//! A repetition of a request that an earlier round stored gets that request's answer, whatever this round's result is.
//! A repetition of a request in the same round gets this round's result. The keys that the round adds are remembered
//! when the round is durable ([`Keyed::publish`]), before anything of it is published; if its records are not stored,
//! they are dropped.

use std::collections::HashSet;
use std::sync::Arc;

use crate::append::keys::{ById, Kept, Keys, Remembered, encode_id};
use crate::append::request::{Once, Part, Records};
use crate::batch::BatchBuilder;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::io::sync::MutexGuard;
use crate::ticket::Appended;
use crate::topic::partition::Partition;
use crate::types::{Offset, TimestampMs};

/// Steps of dropping expired keys, taken at each use of the map: more than the keys that one request adds.
const TIDY_STEPS: usize = 16;

/// The keys that one round adds.
#[derive(Default)]
pub(super) struct Keyed {
    new: HashSet<ById>,
    /// Bytes of memory that `new` is going to take.
    bytes: usize,
    /// Entries that are appended again, with their new offsets.
    moved: Vec<(Arc<Remembered>, Offset)>,
    /// Records of the internal partition for all of that.
    records: u64,
}

impl Keyed {
    /// How many records of the internal partition the round has.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Remembers what the round adds: it is durable.
    pub(super) fn publish(&mut self, engine: &Engine) {
        (self.bytes, self.records) = (0, 0);
        if self.new.is_empty() && self.moved.is_empty() {
            return;
        }
        let mut keys = engine.keys.lock();
        for ById(entry) in self.new.drain() {
            keys.remember(entry);
        }
        for (entry, offset) in self.moved.drain(..) {
            keys.moved(&entry, offset);
        }
    }

    /// Drops what the round would have added: its records are not stored.
    pub(super) fn forget(&mut self) {
        self.new.clear();
        self.moved.clear();
        (self.bytes, self.records) = (0, 0);
    }
}

/// Looks keys up while a round is planned.
pub(super) struct KeyPlanner<'a> {
    engine: &'a Engine,
    /// Locked at the first request with a key.
    known: Option<MutexGuard<'a, Keys>>,
    round: &'a mut Keyed,
    looks_up: bool,
    stores: bool,
}

impl<'a> KeyPlanner<'a> {
    pub(super) fn begin(engine: &'a Engine, round: &'a mut Keyed) -> Self {
        let (looks_up, stores) = engine.options.key_precautions();
        Self {
            engine,
            known: None,
            round,
            looks_up,
            stores,
        }
    }

    fn known(&mut self, now: TimestampMs) -> &mut Keys {
        let keys = self.known.get_or_insert_with(|| self.engine.keys.lock());
        keys.tidy(now, TIDY_STEPS);
        keys
    }

    /// The partition that stores the keys.
    ///
    /// # Errors
    /// [`Error::Invalid`]: it has not been made; `Log::append` checks that before it queues a request.
    pub(super) fn log(&self) -> Result<Arc<Partition>> {
        let log = self.engine.key_log.read().clone();
        log.ok_or_else(|| Error::Invalid("a request that is appended once needs prepare_keys first".into()))
    }

    /// The key of the record that remembers `once`.
    ///
    /// # Errors
    /// Those of [`KeyPlanner::log`].
    pub(super) fn id(&self, once: &Once) -> Result<Vec<u8>> {
        let topic = match once.topic {
            Some(topic) => topic,
            None => self.log()?.id().topic,
        };
        Ok(encode_id(topic, &once.key))
    }

    /// The answer to a request whose key is known, and whether the answer is settled, whatever the round's result is.
    pub(super) fn find(
        &mut self,
        once: &Once,
        id: &[u8],
        now: TimestampMs,
    ) -> Option<(Result<Appended>, bool)> {
        if !self.looks_up {
            return None;
        }
        let of_round = self.round.new.get(id).map(|ById(entry)| Arc::clone(entry));
        let of_round = of_round.filter(|entry| !entry.is_expired(now));
        let is_settled = of_round.is_none();
        let found = of_round.or_else(|| self.known(now).get(id, now).cloned())?;
        Some((found.answer(&once.fingerprint), is_settled))
    }

    /// Adds a key to the round, its record at `offset`; returns whether that record is to be stored.
    ///
    /// # Errors
    /// [`Error::TooManyKeys`], [`Error::RequestTooLarge`]: there is no room for it.
    pub(super) fn add(&mut self, id: &[u8], value: &[u8], offset: Offset, now: TimestampMs) -> Result<bool> {
        let entry = Remembered::decode(id, value, offset)
            .map_err(|what| Error::Invalid(format!("the key cannot be remembered: {what}")))?;
        let (cost, pending) = (entry.cost(), self.round.bytes);
        self.known(now).check_room(cost, pending, now)?;
        self.round.bytes += cost;
        self.round.new.replace(ById(Arc::new(entry)));
        self.round.records += u64::from(self.stores);
        Ok(self.stores)
    }

    /// Moves an entry to `offset` with the round; `false` if its record at the old offset is not needed any more.
    pub(super) fn keep(&mut self, kept: &Kept, offset: Offset, now: TimestampMs) -> bool {
        let found = self.known(now).get(&kept.id, now).cloned();
        let Some(entry) = found.filter(|entry| entry.offset() == kept.offset) else {
            return false;
        };
        self.round.moved.push((entry, offset));
        self.round.records += 1;
        true
    }
}

/// The part that appends the record of a key.
pub(super) fn key_record(log: Arc<Partition>, id: &[u8], value: &[u8], now: TimestampMs) -> Part {
    let mut record = BatchBuilder::new();
    record.push(now, Some(id), Some(value), &[]);
    Part::new(log, Records::Loose(record))
}
