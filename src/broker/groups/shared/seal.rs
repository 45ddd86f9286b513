//! The seal of a dead letter: that this server has made it, and out of what.
//!
//! A dead letter lies in a topic to which others may write, too. Given back, it counts as a record of the topic that it names
//! as its origin, so one that somebody has made up would be a way to write there. Each dead letter therefore has the header
//! `dlq_seal`: an HMAC-SHA-256 in hexadecimal digits, under a key that only the server's state has, of
//!
//! ```text
//! topic_id:u64 of the topic of dead letters, then of the key, the value, and each other header's name and value, in order:
//! 0x00 if there is none, else 0x01 length:u64 bytes        (numbers big-endian)
//! ```
//!
//! The timestamp is not in it, since a topic may set its own. The key is stored in the first append that needs it.
//!
//! The seal does not say at which offset the dead letter lies: that is known only when it is appended. Whoever may read and write
//! the topic can put a copy there, so each seal counts once: [`Spent`].

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ring::hmac;

use super::dead_letter::SEAL;
use crate::broker::access::secret::{self, is_same};
use crate::broker::engine::batch::Record;
use crate::broker::engine::{Log, StateChange, TopicId};
use crate::broker::state_keys;
use crate::formats::json::ParsedRecord;

const KEY_BYTES: usize = 32;

/// Seals dead letters, and knows those that it has sealed.
pub struct Seals {
    /// `None`: the system gave no random bytes. Nothing is sealed then, and nothing taken for sealed.
    key: Option<[u8; KEY_BYTES]>,
    is_kept: AtomicBool,
}

impl Seals {
    /// With the key that the state has, or a new one.
    pub fn load(log: &Log) -> Self {
        let kept = log.state_get(&[state_keys::SEAL]);
        let kept = kept.and_then(|kept| <[u8; KEY_BYTES]>::try_from(&*kept).ok());
        Self {
            is_kept: AtomicBool::new(kept.is_some()),
            key: kept.or_else(|| secret::random().ok()),
        }
    }

    /// What an append with dead letters has to store, until one of them is durable.
    pub fn to_keep(&self) -> Option<StateChange> {
        let key = self.key.filter(|_| !self.is_kept.load(Relaxed))?;
        Some(StateChange::set(vec![state_keys::SEAL], key.to_vec()))
    }

    /// An append with what was to be kept is durable.
    pub fn kept(&self) {
        self.is_kept.store(true, Relaxed);
    }

    /// Seals a dead letter for this topic.
    pub fn seal(&self, mailbox: TopicId, letter: &mut ParsedRecord<'_>) {
        let Some(key) = &self.key else { return };
        let headers = letter.headers.iter();
        let headers = headers.map(|(name, value)| (&**name, value.as_deref()));
        let of = Sealed::new(
            key,
            mailbox,
            letter.key.as_deref(),
            letter.value.as_deref(),
            headers,
        );
        let seal = Some(hex(of.0.sign().as_ref()).into_bytes().into());
        letter.headers.push((SEAL.as_bytes().into(), seal));
    }

    /// The seal of a dead letter that this server has made for this topic; `None` for any other record.
    pub fn seal_of(&self, mailbox: TopicId, letter: &Record<'_>) -> Option<Seal> {
        let headers: Vec<(&[u8], Option<&[u8]>)> = letter.headers.into_iter().collect();
        // It comes last.
        let ((name, seal), headers) = headers.split_last()?;
        let seal = seal.filter(|_| *name == SEAL.as_bytes())?;
        let key = self.key.as_ref()?;
        let of = Sealed::new(key, mailbox, letter.key, letter.value, headers.iter().copied());
        let tag = of.0.sign();
        let first = tag.as_ref().first_chunk::<8>()?;
        is_same(hex(tag.as_ref()).as_bytes(), seal).then(|| Seal(u64::from_be_bytes(*first)))
    }
}

/// Names a seal: its first 8 bytes. Should two of a topic be the same, one dead letter is taken for a copy of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seal(u64);

/// The most seals that are remembered as spent before a redrive, which adds those that it takes: 40 MB of memory in all.
const MAX_SPENT: usize = 2_500_000;

/// The seals in a topic of dead letters that count no more: those of dead letters that do not wait any longer, and
/// those that a redrive has taken.
#[derive(Debug, Default)]
pub struct Spent {
    seals: HashSet<Seal>,
    /// There are more than [`MAX_SPENT`], so none counts.
    is_full: bool,
}

impl Spent {
    /// Adds the seal of a dead letter that does not wait any longer. `false`: there are too many, and no seal counts.
    pub fn add(&mut self, seal: Seal) -> bool {
        self.is_full |= self.seals.len() >= MAX_SPENT;
        if !self.is_full {
            self.seals.insert(seal);
        }
        !self.is_full
    }

    /// Takes the seal of a dead letter that waits: whether it still counts. It does not a second time.
    pub fn take(&mut self, seal: Seal) -> bool {
        !self.is_full && self.seals.insert(seal)
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

struct Sealed(hmac::Context);

impl Sealed {
    fn new<'a>(
        key: &[u8],
        mailbox: TopicId,
        of_key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Self {
        let mut sealed = Self(hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key)));
        sealed.0.update(&mailbox.0.to_be_bytes());
        sealed.add(of_key);
        sealed.add(value);
        for (name, value) in headers {
            sealed.add(Some(name));
            sealed.add(value);
        }
        sealed
    }

    fn add(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.0.update(&[0]),
            Some(bytes) => {
                self.0.update(&[1]);
                self.0.update(&(bytes.len() as u64).to_be_bytes());
                self.0.update(bytes);
            }
        }
    }
}
