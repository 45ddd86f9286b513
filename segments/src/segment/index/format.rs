//! The files of an index, `.index` and `.timeindex`.
//!
//! Both have the same header and one entry per stretch of the log; integers are little-endian.
//!
//! | at | bytes | |
//! |---:|---:|---|
//! | 0 | 8 | magic: `quipuidx` or `quiputim` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC-32 of bytes 0 to 12 and 16 to 64 |
//! | 16 | 8 | base offset of the segment |
//! | 24 | 8 | end position: bytes of the log that are covered, from 0 |
//! | 32 | 8 | next offset: one past the last record covered |
//! | 40 | 8 | largest timestamp covered, ms; the smallest `i64` if there is none |
//! | 48 | 4 | entries |
//! | 52 | 4 | CRC-32 of the entries |
//! | 56 | 8 | zero |
//! | 64 | | entries |
//!
//! `.index`, 8 bytes an entry: relative offset of the stretch's first record (31 bits; bit 31 is set if every value of the
//! stretch is known to be JSON on one line), position in the log (4).
//!
//! `.timeindex`, 12 bytes an entry: the largest timestamp before the stretch (8; the smallest `i64` at the first), relative
//! offset of the stretch's first record (4).
//!
//! Each file is written whole under another name, then renamed, without a sync. After a crash they may be missing, old
//! or torn: the checksums, the base offset and the end position show it, and the log is scanned instead. An index that
//! covers only the beginning of the log is valid for that part.

use super::{Entry, Index, JSON_LINES, MAX_LOG_BYTES, MAX_RELATIVE_OFFSET, STRETCH_BYTES};
use crate::files::codec;
use crate::types::{Offset, TimestampMs};

/// The bytes before the entries.
pub(crate) const HEADER_BYTES: usize = 64;
/// No index file is larger: the largest log, with an entry for every stretch.
pub(crate) const MAX_FILE_BYTES: u64 =
    HEADER_BYTES as u64 + (MAX_LOG_BYTES / STRETCH_BYTES + 1) * TIME_ENTRY_BYTES as u64;
const OFFSET_MAGIC: &[u8; 8] = b"quipuidx";
const TIME_MAGIC: &[u8; 8] = b"quiputim";
/// The version of both files.
pub(crate) const VERSION: u32 = 1;
const OFFSET_ENTRY_BYTES: usize = 8;
const TIME_ENTRY_BYTES: usize = 12;

/// Why a file is not the index of this segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("{found} bytes, expected {expected}")]
    Length { found: usize, expected: usize },
    #[error("it does not begin as an index")]
    Magic,
    #[error("version {0}, expected 1")]
    Version(u32),
    #[error("crc32 {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("it is of the segment {found}, expected {expected}")]
    OtherSegment { found: u64, expected: u64 },
    #[error("it covers {found} bytes of a log of {expected}")]
    OtherLength { found: u64, expected: u64 },
    #[error("{0}")]
    Malformed(&'static str),
}

impl FormatError {
    /// Whether the file's bytes differ from those written. If not, a crash left a file that does not match its log.
    pub(crate) fn is_fault(&self) -> bool {
        !matches!(self, Self::Malformed(_) | Self::OtherLength { .. })
    }
}

/// What the header of either file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) base: Offset,
    pub(crate) end: u64,
    pub(crate) next_offset: Offset,
    pub(crate) max_timestamp: Option<TimestampMs>,
    entries: usize,
    entries_crc: u32,
}

/// Writes an index that begins at 0: the contents of `.index` and of `.timeindex`.
pub(crate) fn encode(index: &Index) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(index.start, 0, "a file covers its log from the beginning");
    let mut offsets = Vec::with_capacity(HEADER_BYTES + index.entries.len() * OFFSET_ENTRY_BYTES);
    let mut times = Vec::with_capacity(HEADER_BYTES + index.entries.len() * TIME_ENTRY_BYTES);
    offsets.resize(HEADER_BYTES, 0);
    times.resize(HEADER_BYTES, 0);
    for (entry, earlier) in index.entries.iter().zip(&index.earlier) {
        offsets.extend_from_slice(&entry.relative.to_le_bytes());
        offsets.extend_from_slice(&entry.position.to_le_bytes());
        times.extend_from_slice(&earlier.to_le_bytes());
        times.extend_from_slice(&(entry.relative & !JSON_LINES).to_le_bytes());
    }
    write_header(&mut offsets, OFFSET_MAGIC, index);
    write_header(&mut times, TIME_MAGIC, index);
    (offsets, times)
}

fn write_header(file: &mut [u8], magic: &[u8; 8], index: &Index) {
    let (header, entries) = file.split_at_mut(HEADER_BYTES);
    header[..8].copy_from_slice(magic);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&index.base.get().to_le_bytes());
    header[24..32].copy_from_slice(&index.end.to_le_bytes());
    header[32..40].copy_from_slice(&index.next_offset.get().to_le_bytes());
    let max_timestamp = index.max_timestamp.map_or(i64::MIN, TimestampMs::get);
    header[40..48].copy_from_slice(&max_timestamp.to_le_bytes());
    let count = u32::try_from(index.entries.len()).expect("a log of 4 GiB has 2^18 stretches");
    header[48..52].copy_from_slice(&count.to_le_bytes());
    header[52..56].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    let crc = codec::checksum(header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the header of an `.index` file. `file` is the whole file or its beginning, at least 64 bytes.
///
/// # Errors
/// [`FormatError`] unless it belongs to the segment `base` and covers no more than `log_bytes` of it.
pub(crate) fn summary(file: &[u8], base: Offset, log_bytes: u64) -> Result<Summary, FormatError> {
    read_header(file, OFFSET_MAGIC, base, log_bytes)
}

/// The version in an undamaged header of either file, if this program does not know that version. Every version has the
/// same first 64 bytes, so that a newer version can be told from damage.
pub(crate) fn version_of_another(header: &[u8]) -> Option<u32> {
    let header = header.first_chunk::<HEADER_BYTES>()?;
    let is_index = header[..8] == OFFSET_MAGIC[..] || header[..8] == TIME_MAGIC[..];
    let version = u32_at(header, 8);
    (is_index && u32_at(header, 12) == codec::checksum(header) && version != VERSION).then_some(version)
}

/// Reads both files of the segment `base`, whose log has `log_bytes`.
///
/// # Errors
/// [`FormatError`] if either is not whole, is of another segment, or covers more than `log_bytes`, or if they differ.
pub(crate) fn decode(
    offsets: &[u8],
    times: &[u8],
    base: Offset,
    log_bytes: u64,
) -> Result<Index, FormatError> {
    let header = read_header(offsets, OFFSET_MAGIC, base, log_bytes)?;
    let time_header = read_header(times, TIME_MAGIC, base, log_bytes)?;
    if (Summary {
        entries_crc: header.entries_crc,
        ..time_header
    }) != header
    {
        return Err(FormatError::Malformed("the two files differ in what they cover"));
    }
    let offset_entries = entries_of(offsets, &header, OFFSET_ENTRY_BYTES)?;
    let time_entries = entries_of(times, &time_header, TIME_ENTRY_BYTES)?;

    let mut index = Index::new(base, 0);
    index.entries.reserve_exact(header.entries);
    index.earlier.reserve_exact(header.entries);
    for (offset, time) in offset_entries
        .chunks_exact(OFFSET_ENTRY_BYTES)
        .zip(time_entries.chunks_exact(TIME_ENTRY_BYTES))
    {
        let entry = Entry {
            relative: u32_at(offset, 0),
            position: u32_at(offset, 4),
        };
        let earlier = u64_at(time, 0) as i64;
        if u64::from(u32_at(time, 8)) != entry.relative() {
            return Err(FormatError::Malformed("the two files differ in an offset"));
        }
        if let Some(last) = index.entries.last()
            && (entry.relative() <= last.relative() || entry.position <= last.position)
        {
            return Err(FormatError::Malformed("offsets or positions do not rise"));
        }
        if index.earlier.last().is_some_and(|last| earlier < *last) {
            return Err(FormatError::Malformed("running timestamps fall"));
        }
        if entry.position() >= header.end || entry.relative() >= header.next_offset.since(base) {
            return Err(FormatError::Malformed("an entry lies beyond what is covered"));
        }
        index.entries.push(entry);
        index.earlier.push(earlier);
    }
    index.end = header.end;
    index.next_offset = header.next_offset;
    index.max_timestamp = header.max_timestamp;
    Ok(index)
}

fn read_header(file: &[u8], magic: &[u8; 8], base: Offset, log_bytes: u64) -> Result<Summary, FormatError> {
    let Some(header) = file.first_chunk::<HEADER_BYTES>() else {
        return Err(FormatError::Length {
            found: file.len(),
            expected: HEADER_BYTES,
        });
    };
    if header[..8] != magic[..] {
        return Err(FormatError::Magic);
    }
    checksum(u32_at(header, 12), codec::checksum(header))?;
    let version = u32_at(header, 8);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let found = u64_at(header, 16);
    if found != base.get() {
        return Err(FormatError::OtherSegment {
            found,
            expected: base.get(),
        });
    }
    let end = u64_at(header, 24);
    if end > log_bytes || end > MAX_LOG_BYTES {
        return Err(FormatError::OtherLength {
            found: end,
            expected: log_bytes,
        });
    }
    let next_offset = Offset::try_new(u64_at(header, 32))
        .filter(|next| *next >= base)
        .ok_or(FormatError::Malformed(
            "the next offset lies outside of the segment",
        ))?;
    if base.checked_add(MAX_RELATIVE_OFFSET).is_none() {
        return Err(FormatError::Malformed(
            "the segment reaches beyond the largest offset",
        ));
    }
    let max_timestamp = Some(u64_at(header, 40) as i64)
        .filter(|time| *time != i64::MIN)
        .map(TimestampMs);
    Ok(Summary {
        base,
        end,
        next_offset,
        max_timestamp,
        entries: u32_at(header, 48) as usize,
        entries_crc: u32_at(header, 52),
    })
}

fn entries_of<'a>(file: &'a [u8], header: &Summary, entry_bytes: usize) -> Result<&'a [u8], FormatError> {
    let entries = &file[HEADER_BYTES.min(file.len())..];
    if header.entries.checked_mul(entry_bytes) != Some(entries.len()) {
        return Err(FormatError::Length {
            found: file.len(),
            expected: HEADER_BYTES.saturating_add(header.entries.saturating_mul(entry_bytes)),
        });
    }
    checksum(header.entries_crc, crc32fast::hash(entries))?;
    Ok(entries)
}

fn checksum(found: u32, expected: u32) -> Result<(), FormatError> {
    if found == expected {
        Ok(())
    } else {
        Err(FormatError::Checksum { found, expected })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    const LOG_BYTES: u64 = 100 * 4096;

    fn base() -> Offset {
        Offset::new(1000)
    }

    #[test]
    fn what_is_written_is_read() {
        let index = sample();
        let (offsets, times) = encode(&index);
        assert_eq!(decode(&offsets, &times, base(), LOG_BYTES).unwrap(), index);
        let summary = summary(&offsets[..HEADER_BYTES], base(), LOG_BYTES).unwrap();
        assert_eq!(summary.end, LOG_BYTES);
        assert_eq!(summary.next_offset, Offset::new(2000));
        assert_eq!(summary.max_timestamp, Some(TimestampMs(1099)));
    }

    #[test]
    fn an_empty_index_can_be_written() {
        let index = Index::new(base(), 0);
        let (offsets, times) = encode(&index);
        assert_eq!(decode(&offsets, &times, base(), 0).unwrap(), index);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (offsets, times) = encode(&sample());
        for (which, file) in [&offsets, &times].into_iter().enumerate() {
            for bit in 0..file.len() * 8 {
                let mut damaged = file.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let result = if which == 0 {
                    decode(&damaged, &times, base(), LOG_BYTES)
                } else {
                    decode(&offsets, &damaged, base(), LOG_BYTES)
                };
                assert!(result.is_err(), "file {which}, bit {bit}");
            }
            for bit in 8 * 8..12 * 8 {
                let mut damaged = file.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let found = version_of_another(&damaged);
                assert_eq!(found, None, "a flipped bit is no version, bit {bit}");
            }
            for len in 0..file.len() {
                let result = if which == 0 {
                    decode(&file[..len], &times, base(), LOG_BYTES)
                } else {
                    decode(&offsets, &file[..len], base(), LOG_BYTES)
                };
                assert!(result.is_err(), "file {which}, {len} bytes");
            }
        }
    }

    #[test]
    fn an_index_of_another_segment_or_another_length_is_refused() {
        let (offsets, times) = encode(&sample());
        assert_eq!(
            decode(&offsets, &times, Offset::new(999), LOG_BYTES),
            Err(FormatError::OtherSegment {
                found: 1000,
                expected: 999
            })
        );
        assert_eq!(
            decode(&offsets, &times, base(), LOG_BYTES - 1),
            Err(FormatError::OtherLength {
                found: LOG_BYTES,
                expected: LOG_BYTES - 1
            })
        );
        // An index that covers only the beginning of the log is valid for that part.
        assert!(decode(&offsets, &times, base(), LOG_BYTES + 1).is_ok());
        let found = decode(&times, &offsets, base(), LOG_BYTES);
        assert_eq!(found, Err(FormatError::Magic));
    }
}
