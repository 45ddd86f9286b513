//! Lists the contents of one file of a data directory: a segment, either file of its index, or a journal file.
//!
//! The content decides which kind of file it is, or the name if the content is cut or empty. A segment has no magic;
//! its name is its base offset. Nothing is changed, and nothing outside of the file is read. Damage is reported, and
//! reading continues behind it if something healthy follows.

use std::path::Path;
use std::sync::Arc;

use crate::batch::{self, BatchHeader, HEADER_BYTES};
use crate::error::{Error, Result};
use crate::files::codec::{self, Fields, FrameError};
use crate::io::disk::{Disk, OpenMode, RealDisk};
use crate::journal::format::{BLOCK_BYTES, FileHeader, Item, Round};
use crate::types::FilePos;

/// One thing in a file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedPart {
    /// What it is: `batch`, `entry`, `round`, `append`, …
    pub what: &'static str,
    /// Where in the file it begins.
    pub position: FilePos,
    /// Its fields by name; those that end in `timestamp` are milliseconds since the Unix epoch.
    pub fields: Vec<(&'static str, InspectedValue)>,
}

/// A value of an [`InspectedPart`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InspectedValue {
    /// A number.
    Number(i128),
    /// A text.
    Text(String),
    /// Nothing.
    None,
}

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// `segment`, `index`, `time index` or `journal`.
    pub kind: &'static str,
    /// Its length.
    pub bytes: u64,
    /// What is damaged, and where.
    pub damage: Vec<String>,
}

/// Reads a file and passes each part of it to `visit`; `None` if it is no segment, index or journal file.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn inspect(path: &Path, visit: &mut dyn FnMut(InspectedPart)) -> Result<Option<Inspected>> {
    let context = |error| Error::io(format!("reading {}", path.display()), error);
    let file = RealDisk::new().open(path, OpenMode::Read).map_err(context)?;
    let length = file.len().map_err(context)?;
    let bytes = if length == 0 {
        bytes::Bytes::new()
    } else {
        let map = file.map(length).map_err(context)?;
        map.populate(0, length).map_err(context)?;
        Arc::clone(&map).bytes(0, length).map_err(context)?
    };
    let mut inspection = Inspection {
        bytes: &bytes,
        visit,
        damage: Vec::new(),
    };
    let extension = path.extension().and_then(|extension| extension.to_str());
    let kind = match (bytes.get(..8), extension) {
        (Some(b"QUIPUJNL"), _) | (_, Some("journal")) => inspection.journal(),
        (Some(b"quipuidx"), _) | (_, Some("index")) => inspection.index("index", 8),
        (Some(b"quiputim"), _) | (_, Some("timeindex")) => inspection.index("time index", 12),
        (_, Some("log")) => {
            let base = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
            let first = BatchHeader::peek(&bytes).ok();
            let first = first.map(|header| header.base_offset.get());
            // A damaged first batch proves nothing; then the name alone decides.
            match (base, first) {
                (None, _) => return Ok(None),
                (Some(base), Some(first)) if first < base => return Ok(None),
                _ => inspection.segment(),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(Inspected {
        kind,
        bytes: length,
        damage: inspection.damage,
    }))
}

struct Inspection<'a> {
    bytes: &'a [u8],
    visit: &'a mut dyn FnMut(InspectedPart),
    damage: Vec<String>,
}

fn number(value: impl Into<i128>) -> InspectedValue {
    InspectedValue::Number(value.into())
}

fn text(value: impl ToString) -> InspectedValue {
    InspectedValue::Text(value.to_string())
}

impl Inspection<'_> {
    fn say(&mut self, what: &'static str, position: usize, fields: Vec<(&'static str, InspectedValue)>) {
        (self.visit)(InspectedPart {
            what,
            position: FilePos(position as u64),
            fields,
        });
    }

    fn segment(&mut self) -> &'static str {
        let bytes = self.bytes;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            // Room that was reserved and not yet written.
            if rest.iter().all(|byte| *byte == 0) {
                self.say("zeros", at, vec![("bytes", number(rest.len() as u64))]);
                break;
            }
            let verified = batch::verify(rest);
            if let Err(problem) = &verified {
                self.damage.push(format!("byte {at}: {problem}"));
            }
            let header = verified.or_else(|_| BatchHeader::peek(rest)).ok();
            let Some(header) = header.filter(|header| header.total_bytes() <= rest.len()) else {
                // Where the next one begins is not known: search for a batch that is whole.
                let next = (at + 1..bytes.len()).find(|next| is_batch(&bytes[*next..]));
                at = next.unwrap_or(bytes.len());
                continue;
            };
            let records = header.record_count;
            self.say(
                "batch",
                at,
                vec![
                    ("first_offset", number(header.base_offset.get())),
                    (
                        "last_offset",
                        number(header.base_offset.get() + u64::from(header.last_offset_delta)),
                    ),
                    ("records", number(records)),
                    ("bytes", number(header.total_bytes() as u64)),
                    ("compression", text(compression(&header))),
                    ("first_timestamp", number(header.base_timestamp.get())),
                    ("max_timestamp", number(header.max_timestamp.get())),
                    ("crc32c", text(format_args!("{:#010x}", header.crc))),
                ],
            );
            at += header.total_bytes();
        }
        "segment"
    }

    /// The layout is in [`crate::segment::index`]'s format.
    fn index(&mut self, kind: &'static str, entry_bytes: usize) -> &'static str {
        let bytes = self.bytes;
        let Some((header, rest)) = bytes.split_at_checked(64) else {
            self.damage
                .push(format!("{} bytes are too few for a header of 64", bytes.len()));
            return kind;
        };
        if u32_at(header, 12) != codec::checksum(header) {
            self.damage
                .push("byte 0: the checksum of the header does not match".to_owned());
            return kind;
        }
        let (version, base) = (u32_at(header, 8), u64_at(header, 16));
        let time = u64_at(header, 40).cast_signed();
        let fields = vec![
            ("version", number(version)),
            ("base_offset", number(base)),
            ("covered_bytes", number(u64_at(header, 24))),
            ("next_offset", number(u64_at(header, 32))),
            ("max_timestamp", timestamp(time)),
            ("entries", number(u32_at(header, 48))),
        ];
        self.say("header", 0, fields);
        if version != crate::segment::index::VERSION {
            self.damage.push(format!("version {version} is not known here"));
            return kind;
        }
        let expected = u32_at(header, 48) as usize * entry_bytes;
        if rest.len() != expected || crc32fast::hash(rest) != u32_at(header, 52) {
            self.damage.push(format!(
                "byte 64: {} bytes of entries, of which the header says {expected} with another checksum",
                rest.len()
            ));
        }
        for (index, entry) in rest.chunks_exact(entry_bytes).enumerate() {
            let fields = if entry_bytes == 8 {
                let relative = u32_at(entry, 0) & 0x7fff_ffff;
                vec![
                    ("offset", number(base.saturating_add(u64::from(relative)))),
                    ("log_position", number(u32_at(entry, 4))),
                ]
            } else {
                vec![
                    ("offset", number(base.saturating_add(u64::from(u32_at(entry, 8))))),
                    ("earlier_timestamp", timestamp(u64_at(entry, 0).cast_signed())),
                ]
            };
            self.say("entry", 64 + index * entry_bytes, fields);
        }
        kind
    }

    fn journal(&mut self) -> &'static str {
        let bytes = self.bytes;
        let header = match FileHeader::decode(bytes) {
            Ok(header) => header,
            Err(FrameError::Damaged(what)) => {
                self.damage.push(format!("byte 0: {what}"));
                return "journal";
            }
            Err(FrameError::Version(version)) => {
                self.damage.push(format!("version {version} is not known here"));
                return "journal";
            }
        };
        let fields = vec![
            ("sequence", number(header.sequence)),
            ("directory_id", text(format_args!("{:016x}", header.directory_id))),
            ("file_bytes", number(header.file_bytes)),
        ];
        self.say("header", 0, fields);
        let (found, expected) = (bytes.len() as u64, header.file_bytes);
        if found < expected {
            self.damage
                .push(format!("it has {found} bytes of {expected}: its end is missing"));
        }
        let block = BLOCK_BYTES as usize;
        let mut at = block;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(round) = Round::decode(rest, header.sequence) else {
                // Bytes from before the file was recycled are no damage, unless a present round follows behind them.
                let next = (at + block..bytes.len())
                    .step_by(block)
                    .find(|next| Round::decode(&bytes[*next..], header.sequence).is_some());
                let Some(next) = next else { break };
                self.damage.push(format!(
                    "bytes {at} to {next} are no whole round, and rounds follow them"
                ));
                at = next;
                continue;
            };
            self.round(at, &round);
            at += usize::try_from(round.file_bytes).unwrap_or(usize::MAX);
        }
        "journal"
    }

    fn round(&mut self, at: usize, round: &Round<'_>) {
        let what = if round.is_end_mark() { "end mark" } else { "round" };
        let fields = vec![
            ("number", number(round.number)),
            ("bytes", number(round.file_bytes)),
        ];
        self.say(what, at, fields);
        let Some(items) = round.items() else {
            self.damage.push(format!(
                "byte {at}: round {} has items that this version does not know",
                round.number
            ));
            return;
        };
        for item in items {
            let (what, fields) = match item {
                Item::Append {
                    partition,
                    segment_base,
                    position,
                    bytes,
                    ..
                } => {
                    let batches = batch::Batches::new(bytes).flatten();
                    let records: u64 = batches.map(|(header, _)| u64::from(header.record_count)).sum();
                    let fields = vec![
                        ("topic_id", number(partition.topic.0)),
                        ("partition", number(partition.index)),
                        ("segment", number(segment_base.get())),
                        ("log_position", number(position.get())),
                        ("records", number(records)),
                        ("bytes", number(bytes.len() as u64)),
                    ];
                    ("append", fields)
                }
                Item::State { key, value } => {
                    let value = value.map_or(InspectedValue::None, |value| number(value.len() as u64));
                    let key = String::from_utf8_lossy(key).into_owned();
                    (
                        "state",
                        vec![("key", InspectedValue::Text(key)), ("value_bytes", value)],
                    )
                }
                Item::TopicDeleted(topic) => ("topic deleted", vec![("topic_id", number(topic.0))]),
                Item::LogStart { partition, offset } => {
                    let fields = vec![
                        ("topic_id", number(partition.topic.0)),
                        ("partition", number(partition.index)),
                        ("offset", number(offset.get())),
                    ];
                    ("log start moved", fields)
                }
            };
            self.say(what, at, fields);
        }
    }
}

/// Whether a whole batch with the right checksum begins here.
fn is_batch(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && bytes[16] == 2 && batch::verify(bytes).is_ok()
}

/// Kafka's name of a batch's compression; its number, if it is none that there is.
fn compression(header: &BatchHeader) -> String {
    match header.attributes.codec() {
        Ok(codec) => codec.map_or("none", batch::Codec::name).to_owned(),
        Err(_) => header.attributes.compression().to_string(),
    }
}

/// The smallest `i64` stands for none.
fn timestamp(millis: i64) -> InspectedValue {
    if millis == i64::MIN {
        InspectedValue::None
    } else {
        number(millis)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    Fields::new(&bytes[at..]).u32().unwrap_or_default()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    Fields::new(&bytes[at..]).u64().unwrap_or_default()
}
