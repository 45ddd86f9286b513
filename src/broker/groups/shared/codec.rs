//! The durable state of one partition of one shared group.
//!
//! ```text
//! key    's' group 0x00 topic_id:u64 partition:u32    (numbers big-endian)
//! value  version=1 floor:varint count:varint runs
//! run    length:varint state:varint                   (lengths add up to count)
//! ```
//!
//! A run is a number of consecutive offsets in one state; the first run starts at the floor. State 0: settled; n: not
//! settled, delivered n - 1 times. A varint has seven bits a byte, the lowest first, with the top bit set on all but
//! the last byte.
//!
//! The floor is also written as the group's committed offset ([`super::super::offsets`]), in the same request, so that
//! readers of committed offsets need no knowledge of shared groups. A value whose floor differs from the committed
//! offset is stale: the group was moved since ([`Saved::is_of`]).
//!
//! Each state has exactly one encoding, and no other is accepted: no run is empty, the first is not settled, the last
//! was delivered or is settled, neighbours differ, and no varint has a byte too many.

use super::queue::MAX_WINDOW;
use super::settings::MAX_DELIVERIES;
use crate::broker::engine::{Offset, PartitionId};
use crate::broker::groups::offsets::with_partition;
use crate::broker::state_keys::QUEUE;

const VERSION: u8 = 1;

/// The durable part of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// All offsets below are settled.
    pub floor: Offset,
    /// The offsets from the floor on, in order.
    pub runs: Vec<Run>,
}

/// Consecutive offsets in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many offsets.
    pub length: u32,
    /// Their state.
    pub state: RunState,
}

/// The durable state of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It is never delivered again.
    Settled,
    /// To be delivered (again).
    Open {
        /// How often it was delivered.
        deliveries: u32,
    },
}

/// Bytes that this version does not write: the state is damaged, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of a shared group in a partition is not readable: {0}")]
pub struct Unreadable(&'static str);

impl RunState {
    /// Never leased.
    pub(super) const NEVER_DELIVERED: Self = Self::Open { deliveries: 0 };
}

impl Saved {
    /// The encoded value: at most about 24 KiB, and a few bytes if the members settle in order.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16 + 3 * self.runs.len());
        value.push(VERSION);
        put(&mut value, self.floor.get());
        put(
            &mut value,
            self.runs.iter().map(|run| u64::from(run.length)).sum(),
        );
        for run in &self.runs {
            put(&mut value, run.length.into());
            put(
                &mut value,
                match run.state {
                    RunState::Settled => 0,
                    RunState::Open { deliveries } => u64::from(deliveries) + 1,
                },
            );
        }
        value
    }

    /// Decodes a value.
    ///
    /// # Errors
    /// [`Unreadable`]: report it and continue from the committed offset; records settled above it are delivered again.
    pub fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        let (&version, mut rest) = value.split_first().ok_or(Unreadable("it is empty"))?;
        if version != VERSION {
            return Err(Unreadable("its version is not 1"));
        }
        let floor = take(&mut rest)?;
        let mut left = take(&mut rest)?;
        if left > MAX_WINDOW {
            return Err(Unreadable("it has too many offsets"));
        }
        let floor = Offset::try_new(floor)
            .filter(|floor| floor.checked_add(left).is_some())
            .ok_or(Unreadable("its offsets are too large"))?;
        let mut runs: Vec<Run> = Vec::new();
        while left > 0 {
            let length = take(&mut rest)?;
            left = left
                .checked_sub(length)
                .ok_or(Unreadable("its runs are longer than their count says"))?;
            let state = match take(&mut rest)? {
                0 => RunState::Settled,
                state if state <= u64::from(MAX_DELIVERIES) + 1 => RunState::Open {
                    deliveries: (state - 1) as u32,
                },
                _ => return Err(Unreadable("a count of deliveries is too large")),
            };
            let is_first_settled = runs.is_empty() && state == RunState::Settled;
            if length == 0 || is_first_settled || runs.last().is_some_and(|last| last.state == state) {
                return Err(Unreadable("its runs are malformed"));
            }
            runs.push(Run {
                length: length as u32,
                state,
            });
        }
        if runs
            .last()
            .is_some_and(|last| last.state == RunState::NEVER_DELIVERED)
        {
            return Err(Unreadable("its runs are malformed"));
        }
        if !rest.is_empty() {
            return Err(Unreadable("bytes follow its runs"));
        }
        Ok(Self { floor, runs })
    }

    /// Whether this was written with the committed offset `committed`. If not, the offset was changed since: the group
    /// continues from there, with nothing settled or delivered beyond.
    pub fn is_of(&self, committed: Offset) -> bool {
        self.floor == committed
    }
}

fn put(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}

fn take(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, behind) = rest.split_first().ok_or(Unreadable("it is too short"))?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            if byte == 0 && shift > 0 {
                return Err(Unreadable("a number has a byte too many"));
            }
            return Ok(number);
        }
    }
    // Nine bytes hold 63 bits, enough for every offset.
    Err(Unreadable("a number is too large"))
}

/// The prefix of the keys of a group's states.
pub fn states_prefix(group: &str) -> Vec<u8> {
    [&[QUEUE], group.as_bytes(), &[0]].concat()
}

/// The key of a group's state in a partition.
pub fn state_key(group: &str, partition: PartitionId) -> Vec<u8> {
    with_partition(states_prefix(group), partition)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::engine::TopicId;
    use crate::broker::groups::offsets::partition_of_key;

    fn open(length: u32, deliveries: u32) -> Run {
        Run {
            length,
            state: RunState::Open { deliveries },
        }
    }

    const fn settled(length: u32) -> Run {
        Run {
            length,
            state: RunState::Settled,
        }
    }

    fn example() -> Saved {
        Saved {
            floor: Offset::new(1000),
            runs: vec![open(1, 2), settled(300), open(1, 0), open(1, 1)],
        }
    }

    /// Any runs, with equal neighbours joined as `encode` requires.
    fn any_saved() -> impl Strategy<Value = Saved> {
        let state = prop_oneof![
            Just(RunState::Settled),
            (0..=MAX_DELIVERIES).prop_map(|deliveries| RunState::Open { deliveries }),
        ];
        let floor = prop_oneof![
            0..1000_u64,
            Just(Offset::MAX.get() - MAX_WINDOW),
            any::<u32>().prop_map(u64::from)
        ];
        (floor, proptest::collection::vec((1..200_u32, state), 0..40)).prop_map(|(floor, all)| {
            let mut runs: Vec<Run> = Vec::new();
            for (length, state) in all {
                match runs.last_mut() {
                    None if state == RunState::Settled => {}
                    Some(last) if last.state == state => last.length += length,
                    _ => runs.push(Run { length, state }),
                }
            }
            if runs
                .last()
                .is_some_and(|last| last.state == RunState::NEVER_DELIVERED)
            {
                runs.pop();
            }
            Saved {
                floor: Offset::new(floor),
                runs,
            }
        })
    }

    proptest! {
        #[test]
        fn a_state_comes_back_as_it_was_and_every_cut_of_it_is_an_error(saved in any_saved()) {
            let value = saved.encode();
            prop_assert_eq!(Saved::decode(&value), Ok(saved));
            for length in 0..value.len() {
                prop_assert!(Saved::decode(&value[..length]).is_err(), "{}", length);
            }
        }

        #[test]
        fn every_state_has_one_encoding(
            saved in any_saved(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
            noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut value = saved.encode();
            let at = at.index(value.len());
            value[at] = byte;
            for bytes in [value, noise.clone(), [&[1][..], &noise].concat()] {
                if let Ok(saved) = Saved::decode(&bytes) {
                    prop_assert_eq!(saved.encode(), bytes);
                }
            }
        }
    }

    #[test]
    fn the_layout_of_version_1_does_not_change() {
        let found = example().encode();
        assert_eq!(found, [1, 0xe8, 7, 0xaf, 2, 1, 3, 0xac, 2, 0, 1, 1, 1, 2]);
        let key = state_key("jobs", PartitionId::new(TopicId(258), 3));
        assert_eq!(key, b"sjobs\0\0\0\0\0\0\0\x01\x02\0\0\0\x03");
    }

    #[test]
    fn states_that_no_queue_writes_are_refused() {
        for (bytes, what) in [
            (&[][..], "it is empty"),
            (&[2, 0, 0], "its version is not 1"),
            (&[1, 0, 0, 0], "bytes follow its runs"),
            (&[1, 0, 1, 2, 1], "its runs are longer than their count says"),
            (&[1, 0, 1, 0, 1], "its runs are malformed"),
            (&[1, 0, 1, 1, 0], "its runs are malformed"),
            (&[1, 0, 2, 1, 2, 1, 2], "its runs are malformed"),
            (&[1, 0, 1, 1, 1], "its runs are malformed"),
            (&[1, 0, 1, 1, 2, 0], "bytes follow its runs"),
            (&[1, 0x80, 0, 0], "a number has a byte too many"),
            (&[1, 0, 0x81, 0x40], "it has too many offsets"),
            (&[1, 0, 1, 1, 0xea, 7], "a count of deliveries is too large"),
            (
                &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0],
                "a number is too large",
            ),
            (
                &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 1, 1],
                "its offsets are too large",
            ),
        ] {
            assert_eq!(Saved::decode(bytes), Err(Unreadable(what)), "{bytes:?}");
        }
    }

    #[test]
    fn the_largest_state_is_far_below_the_largest_value() {
        let runs = (0..MAX_WINDOW as u32).map(|at| open(1, MAX_DELIVERIES - at % 2));
        let value = Saved {
            floor: Offset::new(u64::from(u32::MAX)),
            runs: runs.collect(),
        }
        .encode();
        assert!(value.len() < 32 << 10, "{} bytes", value.len());
        assert!(Saved::decode(&value).is_ok());
    }

    #[test]
    fn keys_give_their_partition_back_and_one_groups_keys_never_begin_anothers() {
        let id = PartitionId::new(TopicId(u64::MAX), u32::MAX);
        assert_eq!(partition_of_key(&state_key("a", id)), Some(id));
        assert!(!state_key("ab", id).starts_with(&states_prefix("a")));
        assert_eq!(partition_of_key(b"s\0short"), None);
    }
}
