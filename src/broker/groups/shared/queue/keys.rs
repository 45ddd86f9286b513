//! The order of a key's records: which one of them may be leased.
//!
//! A key's unsettled records are *in hand* while they are leased or settling, and *in line* while they are free, also
//! when a release has delayed them. Records that wait for their `deliver_at` are neither: they hold up nobody.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::broker::engine::Offset;

/// A key, as a queue remembers it. Two keys with the same hash wait for each other, which costs only time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u64);

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The unsettled records of a partition that have a key, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Keys {
    in_line: BTreeSet<(KeyHash, Offset)>,
    in_hand: BTreeSet<(KeyHash, Offset)>,
}

impl Keys {
    /// The record of a key that may be leased: the first in line, if none is in hand.
    pub(super) fn first(&self, key: KeyHash) -> Option<Offset> {
        let of_key = (key, Offset::ZERO)..=(key, Offset::MAX);
        let is_in_hand = self.in_hand.range(of_key.clone()).next().is_some();
        let first = self.in_line.range(of_key).next().filter(|_| !is_in_hand);
        first.map(|(_, offset)| *offset)
    }

    /// The record is free.
    pub(super) fn line_up(&mut self, key: KeyHash, offset: Offset) {
        self.in_hand.remove(&(key, offset));
        self.in_line.insert((key, offset));
    }

    /// The record is leased or settling.
    pub(super) fn take(&mut self, key: KeyHash, offset: Offset) {
        self.in_line.remove(&(key, offset));
        self.in_hand.insert((key, offset));
    }

    /// The record is settled, or waits for its `deliver_at`.
    pub(super) fn leave(&mut self, key: KeyHash, offset: Offset) {
        self.in_line.remove(&(key, offset));
        self.in_hand.remove(&(key, offset));
    }
}
