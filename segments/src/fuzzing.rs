//! Entry points for fuzz targets: private decoders, each followed by its encoder. Not part of the API.
//!
//! Each function decodes bytes and encodes the result again, so that a target can compare the two without knowing the
//! types in between. `None` and errors mean that the bytes were refused.

use std::path::Path;

pub use {crc32c, crc32fast};

use crate::append::keys;
use crate::append::producers;
use crate::error::Result;
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::codec::{self, FrameError};
use crate::files::description::{TOPIC_MAGIC, TopicBody};
use crate::files::layout::Layout;
use crate::files::sealed::{SealError, seal_json, unseal_json};
use crate::files::state::{self, State};
use crate::io::disk::Disk;
use crate::journal::format::{FileHeader, Item, Round, RoundBuilder};
use crate::journal::replay;
use crate::recover::identity::{FORMAT_MAGIC, Format};
use crate::segment::index;
use crate::types::{Offset, TimestampMs};

/// A small file in two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `checkpoint.*`
    Checkpoint,
    /// `state.*`
    State,
}

impl Slot {
    fn identity(self) -> ([u8; 8], u32) {
        match self {
            Self::Checkpoint => (checkpoint::MAGIC, checkpoint::VERSION),
            Self::State => (state::MAGIC, state::VERSION),
        }
    }

    /// Puts a payload into the frame that this kind of file has.
    #[must_use]
    pub fn frame(self, generation: u64, payload: &[u8]) -> Vec<u8> {
        let (magic, version) = self.identity();
        codec::frame(magic, version, generation, payload)
    }

    /// Takes generation and payload out of their frame.
    ///
    /// # Errors
    /// What is wrong.
    pub fn unframe(self, file: &[u8]) -> Result<(u64, &[u8]), String> {
        let (magic, version) = self.identity();
        codec::unframe(magic, version, file).map_err(|error| match error {
            FrameError::Damaged(what) => what.to_owned(),
            FrameError::Version(version) => format!("version {version}"),
        })
    }

    /// Decodes a payload and writes it again.
    #[must_use]
    pub fn again(self, payload: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Checkpoint => Checkpoint::decode(payload).map(|checkpoint| checkpoint.encode()),
            Self::State => State::decode(payload).map(|state| state.encode()),
        }
    }
}

/// Reads the record of an idempotency key and writes it again: the record's key and value.
///
/// # Errors
/// What is wrong.
pub fn key_entry(id: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    let entry = keys::Entry::decode(value)?;
    let (topic, key) = keys::decode_id(id).ok_or("its key names no topic")?;
    Ok((keys::encode_id(topic, key), entry.encode()))
}

/// Reads the entry of an idempotent producer in the state and writes it again: its key and value.
pub fn producer(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    producers::again(key, value)
}

/// Reads a journal file's header: sequence, directory id and length, and the block written again.
///
/// # Errors
/// What is wrong.
pub fn journal_header(block: &[u8]) -> Result<([u64; 3], Vec<u8>), String> {
    let header = FileHeader::decode(block).map_err(|error| format!("{error:?}"))?;
    let fields = [header.sequence, header.directory_id, header.file_bytes];
    Ok((fields, header.encode()))
}

/// The header block of a journal file.
pub fn write_journal_header([sequence, directory_id, file_bytes]: [u64; 3]) -> Vec<u8> {
    FileHeader {
        sequence,
        directory_id,
        file_bytes,
    }
    .encode()
}

/// A round as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRound {
    /// Its number.
    pub number: u64,
    /// The bytes that it takes in the file.
    pub file_bytes: u64,
    /// The round written again; `None` where its items are not understood.
    pub again: Option<Vec<u8>>,
}

/// Reads the round at the start of `bytes`, of the journal file `sequence`.
pub fn journal_round(bytes: &[u8], sequence: u64) -> Option<ReadRound> {
    let round = Round::decode(bytes, sequence)?;
    Some(ReadRound {
        number: round.number,
        file_bytes: round.file_bytes,
        again: round
            .items()
            .map(|items| write_round(&items, sequence, round.number)),
    })
}

fn write_round(items: &[Item<'_>], sequence: u64, number: u64) -> Vec<u8> {
    let mut builder = RoundBuilder::new(Vec::new());
    for item in items {
        match *item {
            Item::Append {
                partition,
                segment_base,
                position,
                json_lines,
                bytes,
            } => builder.append(partition, segment_base, position, json_lines, bytes),
            Item::State { key, value } => builder.state(key, value),
            Item::TopicDeleted(topic) => builder.topic_deleted(topic),
            Item::LogStart { partition, offset } => builder.log_start(partition, offset),
        }
    }
    builder.finish(sequence, number, |slices| {
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    })
}

/// What a replay of the journal found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The rounds' numbers, in the order in which they are applied. A round that is not understood ends the replay and
    /// is not listed.
    pub rounds: Vec<u64>,
    /// What is wrong.
    pub damage: Vec<String>,
    /// One more than the last round.
    pub next_round: u64,
    /// Why the replay ended early.
    pub refused: Option<String>,
}

/// Replays the journal of a data directory, beginning with the given file and round.
///
/// # Errors
/// Those of opening a log with this journal.
pub fn replay(
    disk: &dyn Disk,
    dir: &Path,
    directory_id: u64,
    first_sequence: u64,
    first_round: u64,
) -> Result<Replayed> {
    let layout = Layout::new(dir);
    let scan = replay::scan(disk, &layout, directory_id, first_sequence, first_round, true)?;
    let mut rounds = Vec::new();
    let refused = scan
        .for_each(|number, _| {
            rounds.push(number);
            Ok(())
        })
        .err()
        .map(|error| error.to_string());
    Ok(Replayed {
        rounds,
        damage: scan.damage.clone(),
        next_round: scan.next_round,
        refused,
    })
}

/// Reads both files of a segment's index, looks up `offset`, `position` and `time`, and writes both files again.
///
/// # Errors
/// What is wrong.
pub fn index(
    [offsets, times]: [&[u8]; 2],
    base: Offset,
    log_bytes: u64,
    (offset, position, time): (Offset, u64, TimestampMs),
) -> Result<[Vec<u8>; 2], String> {
    // Some readers decode the header only.
    let summary = index::summary(offsets, base, log_bytes);
    let index = index::decode(offsets, times, base, log_bytes).map_err(|error| error.to_string())?;
    let summary = summary.map_err(|error| format!("only the header is refused: {error}"))?;
    assert_eq!(
        (summary.end, summary.next_offset),
        (index.end(), index.next_offset())
    );
    if !index.is_empty() {
        let found = [
            index.find(offset.max(base)),
            index.find_position(position),
            index.find_time(time),
        ];
        for stretch in found {
            let mark = index
                .mark(stretch)
                .expect("a lookup finds a stretch that is there");
            assert!(mark.position < index.stretch_end(stretch) && mark.offset < index.next_offset());
            assert!(index.stretch_end(stretch) <= index.end());
            index.json_lines(mark.position, index.stretch_end(stretch));
        }
    }
    assert!(index.marks_from(0).count() <= offsets.len() / 8);
    let (offsets, times) = index::encode(&index);
    Ok([offsets, times])
}

/// A small JSON file with a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// `topic.json`
    Topic,
    /// `FORMAT`
    Format,
}

impl Sealed {
    /// Reads a file and writes it again.
    ///
    /// # Errors
    /// What is wrong.
    pub fn again(self, file: &[u8]) -> Result<Vec<u8>, String> {
        let refusal = |error| match error {
            SealError::Damaged(what) => what,
            SealError::Version(version) => format!("version {version}"),
        };
        match self {
            Self::Topic => unseal_json::<TopicBody>(TOPIC_MAGIC, file)
                .map(|body| seal_json(TOPIC_MAGIC, &body))
                .map_err(refusal),
            Self::Format => unseal_json::<Format>(FORMAT_MAGIC, file)
                .map(|body| seal_json(FORMAT_MAGIC, &body))
                .map_err(refusal),
        }
    }

    /// The magic of the file.
    #[must_use]
    pub fn magic(self) -> &'static str {
        match self {
            Self::Topic => TOPIC_MAGIC,
            Self::Format => FORMAT_MAGIC,
        }
    }
}
