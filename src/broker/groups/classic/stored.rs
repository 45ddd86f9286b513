//! A generation of a classic group, as it lies in the engine's durable state.
//!
//! ```text
//! key    'c' group
//! value  version=1 generation_id:i32 protocol_type:text protocol:text leader:text
//!
//! key    'm' group 0x00 member
//! value  version=1 session_timeout_ms:u64 rebalance_timeout_ms:u64 instance:text client_id:text address:text
//!        metadata:bytes assignment:bytes
//!
//! text   length:u16 and UTF-8; length 0xffff: none          bytes  length:u32 and the bytes
//! ```
//!
//! Numbers are big-endian. All keys of a generation are written in one append, with the removal of the members that it does not
//! have: a crash leaves the one generation or the other. A group whose first key is missing is not classic.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::roster::Member;
use crate::broker::engine::{Log, StateChange};
use crate::broker::groups::members::Ms;
use crate::broker::state_keys::{CLASSIC, CLASSIC_MEMBER};

const VERSION: u8 = 1;
const NONE: u16 = u16::MAX;

/// The most bytes of a member, the [overhead](OVERHEAD_BYTES) included: a value of the engine's state has no more.
pub const MAX_BYTES: usize = 1 << 20;
/// What a member takes besides what it says and is assigned, in bytes: its key, its numbers, and the removal of another one.
pub const OVERHEAD_BYTES: usize = 1200;

/// A generation. The default is that of a group that never had one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub generation_id: i32,
    /// What the members are.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol that they have chosen.
    pub protocol: Option<Arc<str>>,
    /// The member that assigned.
    pub leader: Option<Arc<str>>,
    /// The members by id.
    pub members: BTreeMap<Arc<str>, StoredMember>,
}

/// A member of a stored generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMember {
    /// How long it may be silent.
    pub session_timeout: Ms,
    /// How long a rebalance waits for it.
    pub rebalance_timeout: Ms,
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// What it told the leader under the chosen protocol.
    pub metadata: Bytes,
    /// What is assigned to it.
    pub assignment: Bytes,
}

/// Bytes that this version does not write: the state is damaged, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a classic group in the state is not readable: {0}")]
pub struct Unreadable(&'static str);

impl StoredMember {
    pub(super) fn of(member: &Member, protocol: Option<&str>) -> Self {
        Self {
            session_timeout: member.session_timeout,
            rebalance_timeout: member.rebalance_timeout,
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            address: member.address.clone(),
            metadata: protocol
                .map(|protocol| member.metadata(protocol))
                .unwrap_or_default(),
            assignment: member.assignment.clone(),
        }
    }

    pub(super) fn into_member(self, protocol: Option<&Arc<str>>, now: Ms) -> Member {
        Member {
            instance: self.instance,
            client_id: self.client_id,
            address: self.address,
            session_timeout: self.session_timeout,
            rebalance_timeout: self.rebalance_timeout,
            protocols: protocol
                .map(|name| (Arc::clone(name), self.metadata))
                .into_iter()
                .collect(),
            assignment: self.assignment,
            last_contact: now,
            joining: None,
            syncing: None,
            has_synced: true,
            is_new: false,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.extend_from_slice(&self.session_timeout.to_be_bytes());
        value.extend_from_slice(&self.rebalance_timeout.to_be_bytes());
        push_text(&mut value, self.instance.as_deref());
        push_text(&mut value, self.client_id.as_deref());
        push_text(&mut value, self.address.as_deref());
        push_bytes(&mut value, &self.metadata);
        push_bytes(&mut value, &self.assignment);
        value
    }

    fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = checked(value)?;
        let member = Self {
            session_timeout: u64::from_be_bytes(take(&mut rest)?),
            rebalance_timeout: u64::from_be_bytes(take(&mut rest)?),
            instance: take_text(&mut rest)?.map(Arc::from),
            client_id: take_text(&mut rest)?.map(str::to_owned),
            address: take_text(&mut rest)?.map(str::to_owned),
            metadata: take_bytes(&mut rest)?,
            assignment: take_bytes(&mut rest)?,
        };
        match rest {
            [] => Ok(member),
            _ => Err(Unreadable("bytes follow it")),
        }
    }
}

/// The key that says that a group is classic.
pub fn key(group: &str) -> Vec<u8> {
    [&[CLASSIC], group.as_bytes()].concat()
}

/// The prefix of the keys of a group's members.
pub fn members_prefix(group: &str) -> Vec<u8> {
    [&[CLASSIC_MEMBER], group.as_bytes(), &[0]].concat()
}

/// Whether a group is classic.
pub fn is_classic(log: &Log, group: &str) -> bool {
    log.state_get(&key(group)).is_some()
}

/// The names of all classic groups.
pub fn groups(log: &Log) -> Vec<String> {
    let entries = log.state_prefix(&[CLASSIC]).into_iter();
    let names = entries.filter_map(|(key, _)| Some(std::str::from_utf8(key.get(1..)?).ok()?.to_owned()));
    names.collect()
}

/// A group's generation; `None` if it is not classic.
///
/// # Errors
/// [`Unreadable`].
pub fn load(log: &Log, group: &str) -> Result<Option<Generation>, Unreadable> {
    let Some(value) = log.state_get(&key(group)) else {
        return Ok(None);
    };
    let mut rest = checked(&value)?;
    let mut generation = Generation {
        generation_id: i32::from_be_bytes(take(&mut rest)?),
        protocol_type: take_text(&mut rest)?.map(Arc::from),
        protocol: take_text(&mut rest)?.map(Arc::from),
        leader: take_text(&mut rest)?.map(Arc::from),
        members: BTreeMap::new(),
    };
    if !rest.is_empty() {
        return Err(Unreadable("bytes follow it"));
    }
    let prefix = members_prefix(group);
    for (key, value) in log.state_prefix(&prefix) {
        let id = key
            .get(prefix.len()..)
            .and_then(|id| std::str::from_utf8(id).ok());
        let id = id.ok_or(Unreadable("a member's id is not UTF-8"))?;
        generation
            .members
            .insert(id.into(), StoredMember::decode(&value)?);
    }
    Ok(Some(generation))
}

/// The changes that store a generation in place of the one before.
pub fn save(log: &Log, group: &str, generation: &Generation) -> Vec<StateChange> {
    let prefix = members_prefix(group);
    let member_key = |id: &str| [&prefix[..], id.as_bytes()].concat();
    let mut value = vec![VERSION];
    value.extend_from_slice(&generation.generation_id.to_be_bytes());
    push_text(&mut value, generation.protocol_type.as_deref());
    push_text(&mut value, generation.protocol.as_deref());
    push_text(&mut value, generation.leader.as_deref());
    let mut changes = vec![StateChange::set(key(group), value)];
    for (key, _) in log.state_prefix(&prefix) {
        let id = key
            .get(prefix.len()..)
            .and_then(|id| std::str::from_utf8(id).ok());
        if id.is_none_or(|id| !generation.members.contains_key(id)) {
            changes.push(StateChange::remove(key));
        }
    }
    let members = generation.members.iter();
    changes.extend(members.map(|(id, member)| StateChange::set(member_key(id), member.encode())));
    changes
}

/// The keys of everything that makes a group classic.
pub fn keys(log: &Log, group: &str) -> Vec<Box<[u8]>> {
    let mut keys: Vec<Box<[u8]>> = log
        .state_prefix(&members_prefix(group))
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    if is_classic(log, group) {
        keys.push(key(group).into());
    }
    keys
}

fn push_text(value: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else {
        return value.extend_from_slice(&NONE.to_be_bytes());
    };
    // A wire's texts are no longer than this; one that is loses its end.
    let mut length = text.len().min(usize::from(NONE) - 1);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    value.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
    value.extend_from_slice(&text.as_bytes()[..length]);
}

fn push_bytes(value: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a request is smaller than 4 GiB");
    value.extend_from_slice(&length.to_be_bytes());
    value.extend_from_slice(bytes);
}

fn checked(value: &[u8]) -> Result<&[u8], Unreadable> {
    match value.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some(_) => Err(Unreadable("its version is not 1")),
        None => Err(Unreadable("it is empty")),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (taken, after) = rest.split_first_chunk().ok_or(Unreadable("it is too short"))?;
    *rest = after;
    Ok(*taken)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Unreadable> {
    let (taken, after) = rest
        .split_at_checked(length)
        .ok_or(Unreadable("it is too short"))?;
    *rest = after;
    Ok(taken)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a str>, Unreadable> {
    let length = u16::from_be_bytes(take(rest)?);
    if length == NONE {
        return Ok(None);
    }
    let text = std::str::from_utf8(take_slice(rest, length.into())?);
    text.map(Some)
        .map_err(|_| Unreadable("a text in it is not UTF-8"))
}

fn take_bytes(rest: &mut &[u8]) -> Result<Bytes, Unreadable> {
    let length = u32::from_be_bytes(take(rest)?);
    let length = usize::try_from(length).map_err(|_| Unreadable("it is too short"))?;
    Ok(Bytes::copy_from_slice(take_slice(rest, length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> StoredMember {
        StoredMember {
            session_timeout: 258,
            rebalance_timeout: 772,
            instance: Some("i".into()),
            client_id: None,
            address: Some(String::new()),
            metadata: Bytes::from_static(b"me"),
            assignment: Bytes::from_static(b"as"),
        }
    }

    #[test]
    fn a_member_comes_back_as_it_was_and_every_cut_of_it_is_an_error() {
        let bytes = member().encode();
        assert_eq!(StoredMember::decode(&bytes), Ok(member()));
        for length in 0..bytes.len() {
            assert!(StoredMember::decode(&bytes[..length]).is_err(), "{length}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(StoredMember::decode(&longer), Err(Unreadable("bytes follow it")));
        let mut later = bytes;
        later[0] = 2;
        assert_eq!(
            StoredMember::decode(&later),
            Err(Unreadable("its version is not 1"))
        );
    }

    #[test]
    fn the_layout_of_a_member_does_not_change() {
        let expected = [
            &[1][..],
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[0, 0, 0, 0, 0, 0, 3, 4],
            b"\0\x01i",
            &[0xff, 0xff],
            b"\0\0",
            b"\0\0\0\x02me",
            b"\0\0\0\x02as",
        ];
        assert_eq!(member().encode(), expected.concat());
        assert_eq!(key("g"), b"cg");
        assert_eq!(members_prefix("g"), b"mg\0");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let mut value = Vec::new();
        push_text(&mut value, Some(&"ü".repeat(40_000)));
        let text = take_text(&mut &value[..]).unwrap().unwrap();
        assert_eq!(text.len(), 65_534);
        assert!(text.chars().all(|c| c == 'ü'));
    }
}
