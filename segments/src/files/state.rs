//! The durable key-value state, beside the records: above all, the committed offsets of groups.
//!
//! Changes are journalled in the same rounds as records, so one sync makes both durable, and a change is atomic with
//! the records of its request. The whole map is in memory; a snapshot of it is written with each checkpoint that
//! follows a change. Replaying the journal over a snapshot that already holds some of it ends in the same map, because
//! each change sets a key to a value and the last one wins.
//!
//! # Snapshot payload
//! | bytes | field |
//! |---|---|
//! | 8 | count of entries |
//! | each: 4, 4, n, m | length of key, length of value, key, value |

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::files::codec::Fields;

/// Magic of a snapshot's frame.
pub(crate) const MAGIC: [u8; 8] = *b"QUIPUSTA";
/// Version of a snapshot's payload.
pub(crate) const VERSION: u32 = 1;

/// The first byte of internal keys, which callers can neither set nor see.
pub(crate) const RESERVED_PREFIX: u8 = 0;

/// A change of the state: `None` removes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The key, at most 64 KiB. The first byte is not 0.
    pub key: Vec<u8>,
    /// The new value, at most 1 MiB; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

impl StateChange {
    /// Gives a key a value.
    pub fn set(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let (key, value) = (key.into(), Some(value.into()));
        Self { key, value }
    }

    /// Removes a key.
    pub fn remove(key: impl Into<Vec<u8>>) -> Self {
        let (key, value) = (key.into(), None);
        Self { key, value }
    }
}

/// A key of the state with its value.
pub type StateEntry = (Box<[u8]>, Arc<[u8]>);

/// The map itself.
#[derive(Default)]
pub(crate) struct State {
    map: BTreeMap<Box<[u8]>, Arc<[u8]>>,
    /// Whether anything changed since the last snapshot. Set by [`State::apply`], taken by the syncer.
    pub(crate) changed: bool,
}

impl State {
    pub(crate) fn apply(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.changed = true;
        match value {
            Some(value) => {
                if let Some(slot) = self.map.get_mut(key) {
                    *slot = value.into();
                } else {
                    self.map.insert(key.into(), value.into());
                }
            }
            None => {
                self.map.remove(key);
            }
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.map.get(key).cloned()
    }

    pub(crate) fn prefix(&self, prefix: &[u8]) -> Vec<StateEntry> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.map
            .range::<[u8], _>(from)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), Arc::clone(value)))
            .collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let bytes: usize = self
            .map
            .iter()
            .map(|(key, value)| 8 + key.len() + value.len())
            .sum();
        let mut out = Vec::with_capacity(8 + bytes);
        out.extend_from_slice(&(self.map.len() as u64).to_le_bytes());
        for (key, value) in &self.map {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let count = fields.u64()?;
        let mut map = BTreeMap::new();
        for _ in 0..count {
            let (key, value) = (fields.u32()?, fields.u32()?);
            map.insert(
                fields.bytes(key as usize)?.into(),
                fields.bytes(value as usize)?.into(),
            );
        }
        fields.is_empty().then_some(Self { map, changed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_holds_every_key_and_a_cut_one_none() {
        let mut state = State::default();
        state.apply(b"a", Some(b"1"));
        state.apply(b"ab", Some(b""));
        state.apply(b"b", Some(b"3"));
        state.apply(b"b", None);
        let bytes = state.encode();
        let again = State::decode(&bytes).expect("whole");
        assert_eq!(again.map, state.map);
        assert_eq!(again.prefix(b"a").len(), 2);
        assert_eq!(again.get(b"b"), None);
        for length in 0..bytes.len() {
            assert!(State::decode(&bytes[..length]).is_none(), "length {length}");
        }
    }
}
