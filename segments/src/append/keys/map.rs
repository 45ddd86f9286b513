//! The remembered keys, in memory: bounded, and no call pauses for longer because there are more keys.
//!
//! - Lookup is by topic and key, in one of many small tables. One grows at a time, so nobody waits until all keys move.
//! - Expired keys are dropped a few at a time. Keys lie in buckets of one second, and a bucket is dropped after its
//!   end. Until it is dropped, an expired key counts as memory, but is not found.
//! - Entries are counted for each block of offsets, so that retention knows below which offset none is needed.
//!
//! No key is dropped before it expires to save memory: at the bound, new keys are refused ([`Keys::check_room`]).

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::format::{Entry, decode_id};
use crate::error::{Error, Result};
use crate::ticket::Appended;
use crate::types::{Offset, TimestampMs, TopicId};

/// Tables among which the keys are spread. At the default bound, a table that grows moves some 5,000 keys.
const TABLES: usize = 256;
/// The length of an expiry bucket.
const BUCKET_MS: i64 = 1_000;
/// Offsets in a block, whose live entries are counted together. Few, because one needed entry keeps its whole block: a
/// block should take less than a segment.
pub(super) const BLOCK_OFFSETS: u64 = 16;

/// The most steps that are taken to make room for one key.
const MOST_STEPS: usize = 4_096;

/// Memory of a key beside its bytes: its two allocations, as the allocator rounds them up (64 and 24), its place in a
/// table that is as empty as it gets (21), and in a bucket that has just grown (16).
const OVERHEAD_BYTES: usize = 64 + 24 + 21 + 16;
/// Memory of a bucket: its place in the tree, and the smallest allocation of its list.
const BUCKET_BYTES: usize = 128;

/// A request that was stored and is remembered.
#[derive(Debug)]
pub(crate) struct Remembered {
    /// The offset of its record. Written by the committer when that is appended again; read under the lock of [`Keys`].
    offset: AtomicU64,
    expires: TimestampMs,
    id_bytes: u32,
    /// The key of its record, and the value.
    bytes: Box<[u8]>,
}

impl Remembered {
    /// Decodes the record at `offset`; the error says what is wrong with it.
    pub(crate) fn decode(id: &[u8], value: &[u8], offset: Offset) -> Result<Self, &'static str> {
        let entry = Entry::decode(value)?;
        decode_id(id).ok_or("its key names no topic")?;
        Ok(Self {
            offset: AtomicU64::new(offset.get()),
            expires: entry.expires,
            id_bytes: u32::try_from(id.len()).map_err(|_| "its key is too long")?,
            bytes: [id, value].concat().into_boxed_slice(),
        })
    }

    /// The key of its record.
    pub(crate) fn id(&self) -> &[u8] {
        &self.bytes[..self.id_bytes as usize]
    }

    /// The value of its record.
    pub(crate) fn value(&self) -> &[u8] {
        &self.bytes[self.id_bytes as usize..]
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry::decode(self.value()).expect("it was decoded before it was remembered")
    }

    /// The answer to a repetition.
    ///
    /// # Errors
    /// [`Error::KeyReused`]: the fingerprint is another, so the request is not a repetition.
    pub(crate) fn answer(&self, fingerprint: &[u8; 16]) -> Result<Appended> {
        let entry = self.entry();
        if entry.fingerprint != *fingerprint {
            return Err(Error::KeyReused);
        }
        Ok(Appended {
            base_offsets: entry.parts.iter().map(|(_, base_offset)| *base_offset).collect(),
            repeated: Some(entry.note.to_vec()),
        })
    }

    pub(crate) fn offset(&self) -> Offset {
        Offset::new(self.offset.load(Ordering::Relaxed))
    }

    pub(crate) fn is_expired(&self, now: TimestampMs) -> bool {
        self.expires <= now
    }

    /// The most bytes of memory that it takes.
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD_BYTES + self.bytes.len()
    }

    pub(crate) fn topic(&self) -> TopicId {
        let (topic, _) = decode_id(self.id()).expect("it was decoded before it was remembered");
        topic
    }

    fn bucket(&self) -> i64 {
        self.expires.get().div_euclid(BUCKET_MS)
    }
}

/// An entry that is hashed and compared by its id.
pub(crate) struct ById(pub(crate) Arc<Remembered>);

impl Borrow<[u8]> for ById {
    fn borrow(&self) -> &[u8] {
        self.0.id()
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for ById {}

/// All remembered keys.
pub(crate) struct Keys {
    tables: Vec<HashSet<ById>>,
    hasher: RandomState,
    /// By expiry, in units of [`BUCKET_MS`]. Also holds entries that a newer one has replaced in its table.
    buckets: BTreeMap<i64, Vec<Arc<Remembered>>>,
    /// How many entries of `tables` lie in each block of offsets, from `first_block` on. The first is not empty.
    blocks: VecDeque<u32>,
    first_block: u64,
    block_offsets: u64,
    /// Bytes of memory that all of this takes.
    bytes: usize,
    limit: usize,
    /// Bytes of keys and values in `tables`.
    live_bytes: u64,
    /// Deleted topics whose entries are being dropped, bucket by bucket.
    dropping: BTreeSet<TopicId>,
    /// How far that has come: the bucket, and the place in it.
    dropped_until: (i64, usize),
    /// Topics that were deleted after that began.
    to_drop: BTreeSet<TopicId>,
}

impl Keys {
    /// Keys that take at most `limit` bytes.
    pub(super) fn new(limit: usize, block_offsets: u64) -> Self {
        let hasher = RandomState::new();
        Self {
            tables: (0..TABLES).map(|_| HashSet::default()).collect(),
            hasher,
            buckets: BTreeMap::new(),
            blocks: VecDeque::new(),
            first_block: 0,
            block_offsets,
            bytes: 0,
            limit,
            live_bytes: 0,
            dropping: BTreeSet::new(),
            dropped_until: (i64::MIN, 0),
            to_drop: BTreeSet::new(),
        }
    }

    fn table(&self, id: &[u8]) -> usize {
        (self.hasher.hash_one(id) >> 24) as usize % TABLES
    }

    /// The entry of a key, unless it has expired.
    pub(crate) fn get(&self, id: &[u8], now: TimestampMs) -> Option<&Arc<Remembered>> {
        let found = self.tables[self.table(id)].get(id)?;
        (!found.0.is_expired(now)).then_some(&found.0)
    }

    /// Checks that `wanted` more bytes fit beside the round's `pending` ones; drops expired entries if need be.
    ///
    /// # Errors
    /// [`Error::TooManyKeys`], or [`Error::RequestTooLarge`] if they would not even fit alone.
    pub(crate) fn check_room(&mut self, wanted: usize, pending: usize, now: TimestampMs) -> Result<()> {
        let wanted = wanted + BUCKET_BYTES;
        if wanted > self.limit {
            return Err(Error::RequestTooLarge {
                size: wanted,
                limit: self.limit,
            });
        }
        for _ in 0..MOST_STEPS {
            if self.bytes + pending + wanted <= self.limit {
                return Ok(());
            }
            if !self.drop_expired(now) && !self.drop_of_deleted() {
                break;
            }
        }
        // If only the round's own keys fill the memory, there is no expiry to wait for: retry in 1 ms.
        let bucket = self.buckets.keys().next().map_or(0, |bucket| bucket + 1);
        let wait_ms = bucket.saturating_mul(BUCKET_MS).saturating_sub(now.get());
        Err(Error::TooManyKeys {
            retry_after: Duration::from_millis(wait_ms.max(1).unsigned_abs()),
        })
    }

    /// Remembers a request. It replaces an older one with the same key.
    pub(crate) fn remember(&mut self, new: Arc<Remembered>) {
        self.bytes += new.cost();
        self.live_bytes += new.bytes.len() as u64;
        self.count(new.offset(), 1);
        let bucket = self.buckets.entry(new.bucket()).or_default();
        if bucket.is_empty() {
            self.bytes += BUCKET_BYTES;
        }
        bucket.push(Arc::clone(&new));
        let table = self.table(new.id());
        // A replaced entry stays in its bucket, and counts as memory, until the bucket is dropped.
        if let Some(old) = self.tables[table].replace(ById(new)) {
            self.uncount(&old.0);
        }
    }

    /// Remembers a record that was read from the partition, in the order of offsets. If the key has an entry with the
    /// same value, the record was appended again: only that entry's offset changes.
    pub(crate) fn remember_read(&mut self, new: Remembered) {
        let table = self.table(new.id());
        let found = self.tables[table].get(new.id());
        match found.filter(|known| known.0.value() == new.value()) {
            Some(known) => {
                let known = Arc::clone(&known.0);
                self.moved(&known, new.offset());
            }
            None => self.remember(Arc::new(new)),
        }
    }

    /// Forgets a key whose newest entry has expired.
    pub(crate) fn forget(&mut self, id: &[u8]) {
        let table = self.table(id);
        if let Some(old) = self.tables[table].take(id) {
            self.uncount(&old.0);
        }
    }

    /// Notes that an entry was appended again, at `offset`.
    pub(crate) fn moved(&mut self, entry: &Remembered, offset: Offset) {
        let table = self.table(entry.id());
        let is_current = self.tables[table]
            .get(entry.id())
            .is_some_and(|current| std::ptr::eq(&*current.0, entry));
        if is_current {
            self.count(offset, 1);
            self.count(entry.offset(), -1);
            entry.offset.store(offset.get(), Ordering::Relaxed);
        }
    }

    /// Marks the entries of a deleted topic: they are dropped a few at a time.
    pub(crate) fn forget_topic(&mut self, topic: TopicId) {
        if !self.buckets.is_empty() {
            self.to_drop.insert(topic);
        }
    }

    /// Drops expired entries and those of deleted topics, in at most `steps` steps; returns whether none is left.
    pub(crate) fn tidy(&mut self, now: TimestampMs, steps: usize) -> bool {
        (0..steps).any(|_| !self.drop_expired(now) && !self.drop_of_deleted())
    }

    /// Drops one expired entry; `false` if there is none.
    fn drop_expired(&mut self, now: TimestampMs) -> bool {
        let Some(mut first) = self.buckets.first_entry() else {
            return false;
        };
        if *first.key() >= now.get().div_euclid(BUCKET_MS) {
            return false;
        }
        let old = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
            self.bytes -= BUCKET_BYTES;
        }
        self.released(&old.expect("a bucket is not empty"));
        true
    }

    /// Looks at one entry and drops it if its topic was deleted; `false` if there is none to look at.
    fn drop_of_deleted(&mut self) -> bool {
        if self.dropping.is_empty() {
            if self.to_drop.is_empty() {
                return false;
            }
            self.dropping = std::mem::take(&mut self.to_drop);
            self.dropped_until = (i64::MIN, 0);
        }
        let (from, at) = self.dropped_until;
        let Some((&key, bucket)) = self.buckets.range_mut(from..).next() else {
            self.dropping.clear();
            return !self.to_drop.is_empty();
        };
        let at = if key == from { at } else { 0 };
        match bucket.get(at).map(|entry| entry.topic()) {
            Some(topic) if self.dropping.contains(&topic) => {
                let old = bucket.swap_remove(at);
                if bucket.is_empty() {
                    self.buckets.remove(&key);
                    self.bytes -= BUCKET_BYTES;
                }
                self.dropped_until = (key, at);
                self.released(&old);
            }
            Some(_) => self.dropped_until = (key, at + 1),
            None => self.dropped_until = (key + 1, 0),
        }
        true
    }

    /// Called when an entry was taken out of its bucket: removes it from its table too, if it is the newest of its key.
    fn released(&mut self, old: &Arc<Remembered>) {
        self.bytes -= old.cost();
        let table = self.table(old.id());
        let is_current = self.tables[table]
            .get(old.id())
            .is_some_and(|current| Arc::ptr_eq(&current.0, old));
        if is_current {
            self.tables[table].remove(old.id());
            self.uncount(old);
        }
    }

    /// Stops counting an entry that is not needed any more.
    fn uncount(&mut self, old: &Remembered) {
        self.live_bytes -= old.bytes.len() as u64;
        self.count(old.offset(), -1);
    }

    /// Adds `change` to the count of the block that holds `offset`.
    fn count(&mut self, offset: Offset, change: i32) {
        let block = offset.get() / self.block_offsets;
        if self.blocks.is_empty() {
            self.first_block = block;
        }
        while block < self.first_block {
            self.blocks.push_front(0);
            self.first_block -= 1;
        }
        let at = usize::try_from(block - self.first_block).expect("blocks of entries in memory are counted");
        if at >= self.blocks.len() {
            self.blocks.resize(at + 1, 0);
        }
        self.blocks[at] = self.blocks[at]
            .checked_add_signed(change)
            .expect("an entry is counted once in its block");
        while self.blocks.front() == Some(&0) {
            self.blocks.pop_front();
            self.first_block += 1;
        }
    }

    /// An offset below which no entry is needed; `None` if none is needed at all.
    pub(crate) fn first_needed(&self) -> Option<Offset> {
        (!self.blocks.is_empty()).then(|| Offset::new(self.first_block * self.block_offsets))
    }

    /// Bytes of keys and values that are needed.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// How many keys there are, with those that have expired and are not dropped yet.
    pub(crate) fn len(&self) -> usize {
        self.tables.iter().map(HashSet::len).sum()
    }

    /// Bytes of memory that all of this takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::append::keys::format::encode_id;

    fn entry(topic: u64, key: &str, expires: i64, offset: u64) -> Arc<Remembered> {
        let value = Entry {
            fingerprint: [1; 16],
            expires: TimestampMs(expires),
            parts: vec![(0, Offset::ZERO)],
            note: b"note",
        };
        let id = encode_id(TopicId(topic), key.as_bytes());
        Arc::new(Remembered::decode(&id, &value.encode(), Offset::new(offset)).unwrap())
    }

    fn keys(limit: usize) -> Keys {
        Keys::new(limit, 4)
    }

    fn is_there(keys: &Keys, topic: u64, key: &str, now: i64) -> bool {
        keys.get(&encode_id(TopicId(topic), key.as_bytes()), TimestampMs(now))
            .is_some()
    }

    #[test]
    fn a_key_is_found_until_it_expires_and_in_its_topic_only() {
        let mut keys = keys(1 << 20);
        keys.remember(entry(1, "a", 5_000, 0));
        assert!(is_there(&keys, 1, "a", 4_999));
        assert!(!is_there(&keys, 1, "a", 5_000));
        assert!(!is_there(&keys, 2, "a", 0));
        assert!(!is_there(&keys, 1, "b", 0));
    }

    #[test]
    fn what_has_expired_is_dropped_a_few_at_a_time_and_nothing_is_left_of_it() {
        let mut keys = keys(1 << 20);
        for offset in 0..100 {
            keys.remember(entry(1, &offset.to_string(), 1_000 + offset as i64, offset));
        }
        assert!(!keys.tidy(TimestampMs(2_000), 10));
        assert_eq!(keys.len(), 90);
        assert!(keys.tidy(TimestampMs(2_000), 1_000));
        assert_eq!((keys.len(), keys.bytes(), keys.live_bytes()), (0, 0, 0));
        assert_eq!(keys.first_needed(), None);
    }

    #[test]
    fn at_the_bound_new_keys_are_refused_until_one_has_expired_and_none_is_evicted() {
        let cost = entry(1, "0", 3_500, 0).cost();
        let mut keys = keys(3 * (cost + BUCKET_BYTES));
        let now = TimestampMs(1_000);
        let mut stored = 0;
        let refusal = loop {
            let new = entry(1, &stored.to_string(), 3_500, stored);
            if let Err(error) = keys.check_room(new.cost(), 0, now) {
                break error;
            }
            keys.remember(new);
            stored += 1;
            assert!(stored < 100, "nothing is refused");
        };
        assert!(
            matches!(refusal, Error::TooManyKeys { retry_after } if retry_after == Duration::from_secs(3)),
            "{refusal:?}"
        );
        assert!((0..stored).all(|key| is_there(&keys, 1, &key.to_string(), 1_000)));
        assert!(keys.check_room(cost, 0, TimestampMs(4_000)).is_ok());
        assert!(
            keys.check_room(cost, 3 * (cost + BUCKET_BYTES), TimestampMs(4_000))
                .is_err(),
            "what is pending counts"
        );
        let huge = keys.check_room(1 << 20, 0, now);
        assert!(matches!(huge, Err(Error::RequestTooLarge { .. })), "{huge:?}");
    }

    #[test]
    fn the_newest_entry_of_a_key_counts_and_the_older_one_is_not_needed() {
        let mut keys = keys(1 << 20);
        keys.remember(entry(1, "a", 5_000, 1));
        keys.remember(entry(1, "a", 9_000, 9));
        assert_eq!(keys.first_needed(), Some(Offset::new(8)));
        assert!(keys.tidy(TimestampMs(6_000), 10));
        assert!(is_there(&keys, 1, "a", 6_000));
        assert!(keys.tidy(TimestampMs(10_000), 10));
        assert_eq!((keys.len(), keys.bytes()), (0, 0));
    }

    #[test]
    fn an_entry_that_was_appended_again_is_needed_at_its_new_place_only() {
        let mut keys = keys(1 << 20);
        let (first, second) = (entry(1, "a", 5_000, 1), entry(1, "b", 5_000, 6));
        keys.remember(Arc::clone(&first));
        keys.remember(second);
        assert_eq!(keys.first_needed(), Some(Offset::ZERO));
        keys.moved(&first, Offset::new(21));
        assert_eq!(keys.first_needed(), Some(Offset::new(4)));
        // An entry that was replaced meanwhile does not move.
        keys.remember(entry(1, "a", 7_000, 30));
        keys.moved(&first, Offset::new(40));
        keys.forget(&encode_id(TopicId(1), b"b"));
        assert_eq!(keys.first_needed(), Some(Offset::new(28)));
    }

    #[test]
    fn entries_of_deleted_topics_are_dropped_a_few_at_a_time_and_those_of_others_stay() {
        let mut keys = keys(1 << 20);
        for offset in 0..90 {
            keys.remember(entry(
                offset % 3,
                &offset.to_string(),
                1_000 * offset as i64,
                offset,
            ));
        }
        keys.forget_topic(TopicId(1));
        assert!(!keys.tidy(TimestampMs(0), 5));
        keys.forget_topic(TopicId(2));
        while !keys.tidy(TimestampMs(0), 5) {}
        assert_eq!(keys.len(), 30);
        assert!((0..90).all(|key| is_there(&keys, key % 3, &key.to_string(), -1) == (key % 3 == 0)));
    }

    proptest! {
        #[test]
        fn counts_and_offsets_are_those_of_a_plain_map(
            steps in proptest::collection::vec((0..6_u8, 0..3_u64, 0..5_u8, 0..20_i64), 1..120),
        ) {
            let mut keys = keys(1 << 20);
            let mut model: BTreeMap<(u64, u8), (i64, u64)> = BTreeMap::new();
            let (mut now, mut next) = (0, 0);
            let mut deleted = BTreeSet::new();
            for (what, topic, key, time) in steps {
                let name = key.to_string();
                match what {
                    0..=2 if !deleted.contains(&topic) => {
                        let expires = now + 1_000 * time;
                        keys.remember(entry(topic, &name, expires, next));
                        model.insert((topic, key), (expires, next));
                        next += 1;
                    }
                    3 => {
                        now += 300 * time;
                        keys.tidy(TimestampMs(now), time as usize);
                    }
                    4 => {
                        let id = encode_id(TopicId(topic), name.as_bytes());
                        if let Some(found) = keys.get(&id, TimestampMs(now)).cloned() {
                            keys.moved(&found, Offset::new(next));
                            model.get_mut(&(topic, key)).unwrap().1 = next;
                            next += 1;
                        }
                    }
                    5 if time == 0 => {
                        deleted.insert(topic);
                        keys.forget_topic(TopicId(topic));
                    }
                    _ => {}
                }
                for topic in 0..3 {
                    for key in 0..5 {
                        let expected = model.get(&(topic, key)).is_some_and(|(expires, _)| *expires > now);
                        let found = is_there(&keys, topic, &key.to_string(), now);
                        prop_assert!(found == expected || deleted.contains(&topic) && !found);
                    }
                }
                let needed = model.iter().filter(|((topic, _), (expires, _))| *expires > now && !deleted.contains(topic));
                if let Some(first) = needed.map(|(_, (_, offset))| *offset).min() {
                    prop_assert!(keys.first_needed().is_some_and(|needed| needed.get() <= first));
                }
            }
            while !keys.tidy(TimestampMs(i64::MAX), 7) {}
            prop_assert_eq!((keys.len(), keys.bytes(), keys.live_bytes(), keys.first_needed()), (0, 0, 0, None));
        }
    }
}
