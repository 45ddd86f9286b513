//! What members' calls produced, so that a repeated call is answered as the first time and produces nothing.
//!
//! ```text
//! key    'a' group 0x00 member 0x00 slot:u8
//! value  version=1 number:u64 at:i64 identity:16 topics parts runs offsets      (numbers big-endian)
//! topics count:varint { length:u8 name }
//! parts  count:varint { topic:varint partition:varint shift:varint }
//! runs   count:varint { part:varint length:varint }
//! offsets { first_offset:u64 }
//! ```
//!
//! A member's calls are numbered; call `n` is in slot `n % 16`, so that the last 16 are remembered. `at` is the time of
//! the append. The records of a call lie in its parts, in the order of the runs: each takes the next records of its
//! part. A part's first record is `shift` records after the offset at its place in `offsets`, which the append itself
//! adds ([`Receipt`]).
//!
//! A call is known by its identity, a hash of what it acknowledges. All calls of a member are forgotten together, ten
//! minutes after the last of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::Groups;
use crate::broker::engine::{Error, Log, Offset, PartitionId, Receipt, StateChange, TimestampMs};
use crate::broker::produce::whole::Places;
use crate::broker::state_keys::PRODUCED;
use crate::formats::token::{push_varint, take_varint};

/// How many of a member's calls are remembered.
pub const REMEMBERED: u64 = 16;
/// How long they are remembered, after the last of them, in milliseconds.
pub const REMEMBERED_MS: i64 = 600_000;
/// The largest number of records that a call may produce.
pub const MAX_OUTPUTS: usize = 100_000;

/// The most members whose calls are forgotten in one append.
const FORGOTTEN_AT_ONCE: usize = 1000;
/// The most members whose calls are remembered.
const MAX_REMEMBERED_MEMBERS: usize = 100_000;
/// How often old calls are looked for.
const FORGETTING_INTERVAL: Duration = Duration::from_secs(60);

const VERSION: u8 = 1;

/// A hash of what a call acknowledges.
pub type Identity = [u8; 16];

/// Where a record is stored: topic, partition and offset.
pub type Row = (Arc<str>, u32, Offset);

/// The identity of a poll, by its `ack`.
pub fn of_poll(ack: &str) -> Identity {
    let mut hash = Xxh3::new();
    hash.update(b"poll");
    hash.update(ack.as_bytes());
    hash.digest128().to_be_bytes()
}

/// The identity of a commit or a settle: a `kind` of calls, and the places that it names, each with what is done there.
/// Their order does not matter.
pub fn of_places(kind: &[u8], places: impl IntoIterator<Item = (u8, PartitionId, Offset)>) -> Identity {
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable();
    places.dedup();
    let mut hash = Xxh3::new();
    hash.update(kind);
    for (done, id, offset) in places {
        hash.update(&[done]);
        for number in [id.topic.0, id.index.into(), offset.get()] {
            hash.update(&number.to_be_bytes());
        }
    }
    hash.digest128().to_be_bytes()
}

/// The keys of all calls.
pub fn all_prefix() -> [u8; 1] {
    [PRODUCED]
}

/// The keys of all calls of a group's members.
pub fn group_prefix(group: &str) -> Vec<u8> {
    [&[PRODUCED], group.as_bytes(), &[0]].concat()
}

/// The keys of a member's calls.
pub fn member_prefix(group: &str, member: &str) -> Vec<u8> {
    [&group_prefix(group)[..], member.as_bytes(), &[0]].concat()
}

/// The head of a value.
struct Head {
    number: u64,
    at: TimestampMs,
    identity: Identity,
}

fn split_head(value: &[u8]) -> Option<(Head, &[u8])> {
    let (&version, rest) = value.split_first()?;
    if version != VERSION {
        return None;
    }
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (identity, rest) = rest.split_first_chunk::<16>()?;
    let head = Head {
        number: u64::from_be_bytes(*number),
        at: TimestampMs(i64::from_be_bytes(*at)),
        identity: *identity,
    };
    Some((head, rest))
}

/// The change that remembers a member's call number `number`; the append adds the offsets.
pub fn receipt(prefix: &[u8], number: u64, at: TimestampMs, identity: &Identity, places: &Places) -> Receipt {
    let mut key = prefix.to_vec();
    key.push((number % REMEMBERED) as u8);
    let mut value = vec![VERSION];
    value.extend_from_slice(&number.to_be_bytes());
    value.extend_from_slice(&at.get().to_be_bytes());
    value.extend_from_slice(identity);
    push_varint(&mut value, places.names.len() as u64);
    for name in &places.names {
        value.push(u8::try_from(name.len()).expect("a topic's name has at most 249 bytes"));
        value.extend_from_slice(name.as_bytes());
    }
    push_varint(&mut value, places.parts.len() as u64);
    for (part, at) in places.parts.iter().zip(&places.at) {
        for number in [part.topic, part.partition, at.shift] {
            push_varint(&mut value, number.into());
        }
    }
    let runs: Vec<(u32, usize)> = places
        .placements
        .chunk_by(|a, b| a.part == b.part)
        .map(|run| (run[0].part, run.len()))
        .collect();
    push_varint(&mut value, runs.len() as u64);
    for (part, length) in runs {
        push_varint(&mut value, part.into());
        push_varint(&mut value, length as u64);
    }
    let parts = places.at.iter().map(|at| at.part).collect();
    Receipt { key, value, parts }
}

/// Where the records of a remembered call lie, in the order of the call.
fn rows(mut rest: &[u8]) -> Option<Vec<Row>> {
    let rest = &mut rest;
    let count = take_varint(rest)?;
    let mut topics: Vec<Arc<str>> = Vec::new();
    for _ in 0..count {
        let (&length, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(length.into())?;
        topics.push(std::str::from_utf8(name).ok()?.into());
        *rest = after;
    }
    let count = take_varint(rest)?;
    let mut parts: Vec<(Arc<str>, u32, u64)> = Vec::new();
    for _ in 0..count {
        let topic = topics.get(usize::try_from(take_varint(rest)?).ok()?)?;
        let partition = u32::try_from(take_varint(rest)?).ok()?;
        parts.push((Arc::clone(topic), partition, take_varint(rest)?));
    }
    let count = take_varint(rest)?;
    let mut runs: Vec<(usize, u64)> = Vec::new();
    for _ in 0..count {
        let part = usize::try_from(take_varint(rest)?).ok()?;
        runs.push((part, take_varint(rest)?));
    }
    let (offsets, rest) = rest.as_chunks::<8>();
    if offsets.len() != parts.len() || !rest.is_empty() {
        return None;
    }
    for (part, offset) in parts.iter_mut().zip(offsets) {
        part.2 = part.2.checked_add(u64::from_be_bytes(*offset))?;
    }
    let mut rows = Vec::new();
    for (part, length) in runs {
        let (topic, partition, next) = parts.get_mut(part)?;
        if length > MAX_OUTPUTS as u64 {
            return None;
        }
        for _ in 0..length {
            rows.push((Arc::clone(topic), *partition, Offset::try_new(*next)?));
            *next += 1;
        }
    }
    Some(rows)
}

/// What a member's call produced that acknowledged the same; `None` if that is not remembered.
pub fn recall(log: &Log, group: &str, member: &str, identity: &Identity) -> Option<Vec<Row>> {
    let entries = log.state_prefix(&member_prefix(group, member));
    let heads = entries.iter().filter_map(|(_, value)| split_head(value));
    let same = heads.filter(|(head, _)| head.identity == *identity);
    // After a reset or a redrive the same may be acknowledged again.
    let (_, rest) = same.max_by_key(|(head, _)| head.number)?;
    let found = rows(rest);
    if found.is_none() {
        tracing::error!(group, member, "what a call produced cannot be read");
    }
    found
}

/// The number of a member's next call.
pub fn next_number(log: &Log, prefix: &[u8]) -> u64 {
    let entries = log.state_prefix(prefix);
    let numbers = entries
        .iter()
        .filter_map(|(_, value)| Some(split_head(value)?.0.number));
    numbers.max().map_or(0, |number| number + 1)
}

/// When each member's last call was, by the prefix of its keys.
#[derive(Debug, Default)]
pub struct LastCalls(HashMap<Box<[u8]>, TimestampMs>);

impl LastCalls {
    /// Reads them from the state.
    pub fn load(log: &Log) -> Self {
        let mut last = Self::default();
        for (key, value) in log.state_prefix(&all_prefix()) {
            if let (Some((_, prefix)), Some((head, _))) = (key.split_last(), split_head(&value)) {
                last.note(prefix, head.at);
            }
        }
        last
    }

    /// Notes a call.
    pub fn note(&mut self, prefix: &[u8], at: TimestampMs) {
        match self.0.get_mut(prefix) {
            Some(known) => *known = at.max(*known),
            None => drop(self.0.insert(prefix.into(), at)),
        }
    }

    /// Whether one more call of a member can be remembered.
    pub fn has_room(&self, prefix: &[u8]) -> bool {
        self.0.len() < MAX_REMEMBERED_MEMBERS || self.0.contains_key(prefix)
    }

    fn old(&self, now: TimestampMs) -> Vec<Box<[u8]>> {
        let is_old = |at: TimestampMs| now.get().saturating_sub(at.get()) > REMEMBERED_MS;
        let old = self.0.iter().filter(|(_, at)| is_old(**at));
        old.map(|(prefix, _)| prefix.clone()).collect()
    }
}

impl Groups {
    /// Forgets the calls of members whose last one was long ago; returns how many such members there were.
    ///
    /// # Errors
    /// Those of the append: the next call of this tries again.
    pub async fn forget_repeats(&self) -> Result<usize, Error> {
        if self.last_calls.lock().old(self.clock.now()).is_empty() {
            return Ok(0);
        }
        // No member's call is under way meanwhile.
        let guard = self.alone().await;
        let mut old = self.last_calls.lock().old(self.clock.now());
        old.truncate(FORGOTTEN_AT_ONCE);
        let keys = old.iter().flat_map(|prefix| self.log.state_prefix(prefix));
        let changes: Vec<StateChange> = keys.map(|(key, _)| StateChange::remove(key)).collect();
        let log = self.log.clone();
        super::finish(guard, async move { super::append(&log, changes).await }).await?;
        let mut last = self.last_calls.lock();
        for prefix in &old {
            last.0.remove(prefix);
        }
        Ok(old.len())
    }
}

/// Forgets calls that are old, until the server stops. Spawn it once.
pub async fn run(groups: Groups) {
    let mut stopping = groups.stopping.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(FORGETTING_INTERVAL) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        loop {
            match groups.forget_repeats().await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "what members' calls produced long ago is not forgotten yet");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::produce::append::At;
    use crate::broker::produce::placing::Placement;
    use crate::broker::produce::whole::PartPlace;

    fn places() -> Places {
        let part = |topic, partition| PartPlace {
            topic,
            partition,
            base_offset: Offset::ZERO,
        };
        let placement = |part, delta| Placement { part, delta };
        Places {
            parts: vec![part(0, 2), part(0, 1), part(1, 0)],
            names: vec!["a".to_owned(), "b".to_owned()],
            placements: vec![
                placement(0, 0),
                placement(2, 0),
                placement(0, 1),
                placement(0, 2),
                placement(1, 0),
                placement(2, 1),
            ],
            is_replayed: false,
            at: vec![
                At { part: 4, shift: 0 },
                At { part: 0, shift: 7 },
                At { part: 5, shift: 0 },
            ],
        }
    }

    fn value(offsets: &[u64]) -> Vec<u8> {
        let receipt = receipt(b"p", 18, TimestampMs(77), &[9; 16], &places());
        assert_eq!(
            (&receipt.key[..], &receipt.parts[..]),
            (&b"p\x02"[..], &[4, 0, 5][..])
        );
        let mut value = receipt.value;
        value.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
        value
    }

    #[test]
    fn the_records_of_a_call_are_found_in_its_order() {
        let value = value(&[100, 200, 300]);
        let (head, rest) = split_head(&value).unwrap();
        assert_eq!(
            (head.number, head.at, head.identity),
            (18, TimestampMs(77), [9; 16])
        );
        let found = rows(rest).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(topic, partition, at)| (&**topic, *partition, at.get()))
            .collect();
        let expected = [
            ("a", 2, 100),
            ("b", 0, 300),
            ("a", 2, 101),
            ("a", 2, 102),
            ("a", 1, 207),
            ("b", 0, 301),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_cut_of_a_value_is_refused_without_a_panic() {
        let whole = value(&[100, 200, 300]);
        for length in 0..whole.len() {
            let found = split_head(&whole[..length]).and_then(|(_, rest)| rows(rest));
            assert_eq!(found, None, "{length}");
        }
        let longer = [&whole[..], &[0; 8]].concat();
        assert_eq!(split_head(&longer).and_then(|(_, rest)| rows(rest)), None);
    }

    #[test]
    fn a_call_is_known_by_what_it_acknowledges_in_any_order() {
        let id = |topic, index| PartitionId::new(crate::broker::engine::TopicId(topic), index);
        let at = Offset::new;
        let of = |places: &[(u8, PartitionId, Offset)]| of_places(b"settle", places.to_vec());
        let (a, b) = ((0, id(1, 2), at(3)), (1, id(1, 2), at(4)));
        assert_eq!(of(&[a, b]), of(&[b, a, b]));
        for other in [
            &[a][..],
            &[(1, a.1, a.2), b],
            &[(0, id(1, 3), at(3)), b],
            &[(0, a.1, at(5)), b],
        ] {
            assert_ne!(of(&[a, b]), of(other));
        }
        assert_ne!(of(&[a]), of_places(b"commit", [a]));
        assert_ne!(of_poll("x"), of_poll("y"));
    }
}
