//! Cursors: the position of a stream over several partitions, as an opaque string.
//!
//! A cursor holds everything, so the server stores nothing and a cursor stays valid over restarts. It is a [`token`] of:
//!
//! ```text
//! version=1  directory:u64  topics:varint  { topic_id:varint }  { place:varint next_offset:varint }  crc32:u32
//! ```
//!
//! `directory` is the identity of the data directory, so another server's cursor is refused. `place` is the partition
//! times the number of topics, plus the topic's position in the list. The places have no order, except that the
//! partition being read comes last, so that from record to record only the end of the text changes ([`CursorText`]).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crc32fast::Hasher;
use quipu_segments::{Offset, TopicId};

use super::token::{self, VERSION, push_varint, put_varint, take_varint};

/// The most partitions of one stream: each has a place in every cursor, and a wait of its own while the stream is idle.
pub const MAX_PARTITIONS: usize = 256;

/// Two varints and the checksum, behind up to two bytes that do not fill three.
const MAX_TAIL_BYTES: usize = 2 + 10 + 10 + 4;

/// The position of a stream in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The topic, as an index into the cursor's topics.
    pub topic: usize,
    /// The partition.
    pub partition: u32,
    /// The next offset.
    pub next: Offset,
}

/// The position of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The data directory.
    pub directory: u64,
    /// The topics.
    pub topics: Vec<TopicId>,
    /// The stream's partitions, in no order.
    pub reached: Vec<Reached>,
}

impl Cursor {
    /// Decodes the string; `None` if it is no cursor.
    pub fn decode(text: &str) -> Option<Self> {
        let (directory, rest) = token::open(text, &[])?;
        let mut rest = &rest[..];
        let count = take_varint(&mut rest)?;
        if count == 0 || count > MAX_PARTITIONS as u64 {
            return None;
        }
        let mut topics = Vec::new();
        for _ in 0..count {
            let id = TopicId(take_varint(&mut rest)?);
            if topics.contains(&id) {
                return None;
            }
            topics.push(id);
        }
        let mut reached: Vec<Reached> = Vec::new();
        while !rest.is_empty() {
            let place = take_varint(&mut rest)?;
            let here = Reached {
                topic: usize::try_from(place % count).ok()?,
                partition: u32::try_from(place / count).ok()?,
                next: Offset::try_new(take_varint(&mut rest)?)?,
            };
            let is_known = reached
                .iter()
                .any(|other| (other.topic, other.partition) == (here.topic, here.partition));
            if is_known || reached.len() == MAX_PARTITIONS {
                return None;
            }
            reached.push(here);
        }
        Some(Self {
            directory,
            topics,
            reached,
        })
    }

    /// Encodes the string.
    pub fn encode(&self) -> String {
        let mut text = CursorText::new(self.directory, &self.topics);
        let mut reached = self.reached.iter().copied();
        let last = reached.next_back();
        text.fix(reached);
        let mut out = Vec::new();
        text.push(&mut out, last);
        String::from_utf8(out).expect("Base64 is ASCII")
    }
}

/// Writes the cursors of one stream. All partitions but one are fixed for a while ([`CursorText::fix`]): their part is
/// encoded once, and a cursor then costs a copy of it and about twenty bytes more.
#[derive(Clone, Debug)]
pub struct CursorText {
    /// Version, directory and topics.
    head: Vec<u8>,
    topics: u64,
    /// `head` and the fixed partitions; kept for its memory.
    fixed: Vec<u8>,
    /// `fixed` in Base64, without the bytes at its end that do not fill three.
    text: Vec<u8>,
    /// Those bytes.
    rest: [u8; 2],
    rest_len: usize,
    /// The checksum so far.
    crc: Hasher,
}

impl CursorText {
    /// An encoder for a stream over `topics` of the data directory, without partitions.
    pub fn new(directory: u64, topics: &[TopicId]) -> Self {
        let mut head = vec![VERSION];
        head.extend_from_slice(&directory.to_be_bytes());
        push_varint(&mut head, topics.len() as u64);
        for topic in topics {
            push_varint(&mut head, topic.0);
        }
        let mut cursor = Self {
            head,
            topics: topics.len() as u64,
            fixed: Vec::new(),
            text: Vec::new(),
            rest: [0; 2],
            rest_len: 0,
            crc: Hasher::new(),
        };
        cursor.fix(std::iter::empty());
        cursor
    }

    /// Fixes the positions of all partitions except the one given to [`CursorText::push`].
    pub fn fix(&mut self, others: impl IntoIterator<Item = Reached>) {
        self.fixed.clear();
        self.fixed.extend_from_slice(&self.head);
        for reached in others {
            let place = self.place(reached);
            push_varint(&mut self.fixed, place);
            push_varint(&mut self.fixed, reached.next.get());
        }
        let (whole, rest) = self.fixed.split_at(self.fixed.len() / 3 * 3);
        self.text.clear();
        push_base64(&mut self.text, whole);
        self.rest_len = rest.len();
        self.rest[..rest.len()].copy_from_slice(rest);
        self.crc = Hasher::new();
        self.crc.update(&self.fixed);
    }

    /// Adds the cursor with the current position of the partition that moves.
    pub fn push(&self, out: &mut Vec<u8>, moving: Option<Reached>) {
        let mut tail = [0; MAX_TAIL_BYTES];
        tail[..self.rest_len].copy_from_slice(&self.rest[..self.rest_len]);
        let mut len = self.rest_len;
        if let Some(reached) = moving {
            len += put_varint(&mut tail[len..], self.place(reached));
            len += put_varint(&mut tail[len..], reached.next.get());
        }
        let mut crc = self.crc.clone();
        crc.update(&tail[self.rest_len..len]);
        tail[len..len + 4].copy_from_slice(&crc.finalize().to_be_bytes());
        out.extend_from_slice(&self.text);
        push_base64(out, &tail[..len + 4]);
    }

    fn place(&self, reached: Reached) -> u64 {
        u64::from(reached.partition) * self.topics + reached.topic as u64
    }
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + (bytes.len() * 4).div_ceil(3), 0);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(
        written.ok(),
        Some(out.len() - start),
        "four characters for three bytes"
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reached(topic: usize, partition: u32, next: u64) -> Reached {
        Reached {
            topic,
            partition,
            next: Offset::new(next),
        }
    }

    fn some() -> Cursor {
        Cursor {
            directory: 0x1234_5678_9abc_def0,
            topics: vec![TopicId(7), TopicId(300)],
            reached: vec![reached(0, 0, 0), reached(1, 5, 123_456), reached(0, 1, 9)],
        }
    }

    fn decode(bytes: &[u8]) -> Option<Cursor> {
        Cursor::decode(&URL_SAFE_NO_PAD.encode(bytes))
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_refused() {
        let bytes = URL_SAFE_NO_PAD.decode(some().encode()).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(decode(&changed), None, "byte {at}");
            }
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
        let text = some().encode();
        for at in 0..text.len() {
            for other in ["A", "z", "_", " ", "="] {
                let mut changed = text.clone();
                changed.replace_range(at..=at, other);
                assert!(changed == text || Cursor::decode(&changed).is_none(), "{changed}");
            }
        }
    }

    #[test]
    fn cursors_that_no_stream_writes_are_refused_despite_a_valid_checksum() {
        let sealed = |body: &[u8]| Cursor::decode(&token::seal(body.to_vec(), &[]));
        let head = [VERSION, 0, 0, 0, 0, 0, 0, 0, 9];
        let with = |rest: &[u8]| sealed(&[&head[..], rest].concat());
        assert!(with(&[1, 5, 0, 1]).is_some(), "topic 5, partition 0 at 1");
        assert!(with(&[1, 5]).is_some(), "no partition yet");
        for wrong in [
            &[0][..],
            &[2, 5, 5],
            &[1],
            &[1, 5, 0],
            &[1, 5, 0, 1, 0, 2],
            &[1, 5, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[1, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1],
        ] {
            assert_eq!(with(wrong), None, "{wrong:?}");
        }
        let found = sealed(&[2, 0, 0, 0, 0, 0, 0, 0, 9, 1, 5]);
        assert_eq!(found, None, "a later version");
        let mut many = vec![1, 5];
        for place in 0..=MAX_PARTITIONS as u64 {
            push_varint(&mut many, place);
            many.push(0);
        }
        assert_eq!(with(&many), None);
    }

    #[test]
    fn a_cursor_begins_with_a_letter_and_is_no_word_that_means_something_else() {
        let text = some().encode();
        assert!(text.starts_with('A'), "{text}");
        for word in ["earliest", "latest", "", "A", "1372636800000"] {
            assert_eq!(Cursor::decode(word), None, "{word}");
        }
    }

    #[test]
    fn few_partitions_take_tens_of_characters() {
        let cursor = Cursor {
            directory: u64::MAX,
            topics: vec![TopicId(12)],
            reached: (0..6).map(|partition| reached(0, partition, 109_311)).collect(),
        };
        assert!(cursor.encode().len() < 60, "{}", cursor.encode());
    }

    fn cursors() -> impl Strategy<Value = Cursor> {
        let topics = prop::collection::btree_set(any::<u64>(), 1..5);
        let places = prop::collection::btree_map((0..4_usize, any::<u32>()), 0..=Offset::MAX.get(), 0..20);
        (any::<u64>(), topics, places).prop_map(|(directory, topics, places)| {
            let topics: Vec<TopicId> = topics.into_iter().map(TopicId).collect();
            let mut all: Vec<Reached> = Vec::new();
            for ((topic, partition), next) in places {
                let topic = topic % topics.len();
                let is_same = |other: &Reached| (other.topic, other.partition) == (topic, partition);
                if !all.iter().any(is_same) {
                    all.push(reached(topic, partition, next));
                }
            }
            Cursor {
                directory,
                topics,
                reached: all,
            }
        })
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(cursor in cursors()) {
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        }

        #[test]
        fn moving_one_partition_writes_the_same_cursor_as_encoding_all(cursor in cursors(), next in 0..1_u64 << 40) {
            prop_assume!(!cursor.reached.is_empty());
            let mut text = CursorText::new(cursor.directory, &cursor.topics);
            let (last, others) = cursor.reached.split_last().unwrap();
            text.fix(others.iter().copied());
            for next in [next, next + 1, next * 200] {
                let moved = Reached { next: Offset::new(next), ..*last };
                let mut out = b"id: ".to_vec();
                text.push(&mut out, Some(moved));
                let whole = Cursor { reached: others.iter().copied().chain([moved]).collect(), ..cursor.clone() };
                prop_assert_eq!(String::from_utf8(out).unwrap(), format!("id: {}", whole.encode()));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Cursor::decode(&text);
            let _ = Cursor::decode(&token::seal([&[VERSION], &bytes[..]].concat(), &[]));
        }
    }
}
