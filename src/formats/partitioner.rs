//! Chooses the partition of a record. Frozen, because a key must map to the same partition for ever.
//!
//! - A record with a key goes to `murmur2(key) & 0x7fffffff % partitions`, as with Kafka's Java client, so clients of
//!   both can write one topic. Vectors of an independent implementation pin the hash (`tests/fixtures/murmur2.json`).
//! - Records of a request without keys stay together, in a partition that [`Rotation`] moves on from request to
//!   request. This is a convenience, not a promise: a restart begins at 0 again.

use std::sync::atomic::{AtomicU32, Ordering};

use quipu_segments::TopicId;

/// Kafka's seed of MurmurHash2.
const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// MurmurHash2, 32 bits, with the seed that Kafka's clients use.
#[inline]
pub fn murmur2(data: &[u8]) -> u32 {
    // The length enters as 32 bits, as in Java, whose arrays are no longer.
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key in a topic of `partitions`.
///
/// # Panics
/// If `partitions` is 0, which no topic has.
#[inline]
pub fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// The key, in the log's state, that marks a topic with a keyed record outside its key's partition, because its
/// producer named another one. Set in the same append as the first such record, and never removed. Without it, and if
/// partitions were never added, all records of a key lie in [`partition_of_key`].
pub fn keyed_elsewhere(topic: TopicId) -> Vec<u8> {
    let mut key = b"keyed-elsewhere/".to_vec();
    key.extend_from_slice(&topic.0.to_be_bytes());
    key
}

/// The partition for the next request's records without keys, topic by topic.
///
/// A fixed table, so that a request takes no lock: topics whose ids agree in the lower bits share a counter, and still
/// rotate.
#[derive(Debug)]
pub struct Rotation {
    slots: Box<[AtomicU32]>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            slots: (0..Self::SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Rotation {
    const SLOTS: u64 = 1024;

    /// The partition for the records without keys of one request; the next call returns another.
    ///
    /// # Panics
    /// If `partitions` is 0, which no topic has.
    pub fn next(&self, topic: TopicId, partitions: u32) -> u32 {
        let slot = usize::try_from(topic.0 % Self::SLOTS).expect("below the number of slots");
        // The count only spreads load: no other memory depends on its order.
        self.slots[slot].fetch_add(1, Ordering::Relaxed) % partitions
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use serde_json::Value;

    use super::*;

    #[test]
    fn keys_go_where_an_independent_implementation_of_kafkas_partitioner_puts_them() {
        let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/murmur2.json")).unwrap();
        let vectors = fixture["vectors"].as_array().unwrap();
        assert!(vectors.len() > 100, "{} vectors", vectors.len());
        for vector in vectors {
            let key = vector["key_base64"].as_str().unwrap();
            let key = BASE64_STANDARD.decode(key).unwrap();
            assert_eq!(vector["hash"], murmur2(&key) & 0x7fff_ffff, "{vector}");
            for (count, partition) in vector["partitions"].as_object().unwrap() {
                let count = count.parse().unwrap();
                assert_eq!(*partition, partition_of_key(&key, count), "{vector}");
            }
        }
    }

    #[test]
    fn the_hash_is_the_one_that_kafkas_own_tests_name() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn requests_without_keys_visit_all_partitions_in_turn() {
        let rotation = Rotation::default();
        let seen: Vec<u32> = (0..7).map(|_| rotation.next(TopicId(5), 3)).collect();
        assert_eq!(seen, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(rotation.next(TopicId(6), 3), 0, "another topic has its own turn");
        assert_eq!(rotation.next(TopicId(u64::MAX), 1), 0);
    }
}
