//! Checks all batches of a log file: for recovery, and for checks of a directory that no server has open.

use std::path::Path;

use super::intervals::Intervals;
use super::walk::{Course, Step, Walker};
use crate::batch::{self, BatchError, MAX_INFLATED_BYTES, Records};
use crate::error::{Error, Result};
use crate::io::disk::{Disk, OpenMode};
use crate::types::{FilePos, Offset};

/// A stretch of a log file that holds no healthy batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedStretch {
    pub(crate) position: FilePos,
    pub(crate) resume: FilePos,
    pub(crate) from: Offset,
    /// `None`: nothing healthy follows.
    pub(crate) until: Option<Offset>,
    pub(crate) what: String,
}

/// What a log file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) batches: u64,
    pub(crate) records: u64,
    /// One past the last healthy record; the base offset if there is none.
    pub(crate) next_offset: Offset,
    pub(crate) damage: Vec<DamagedStretch>,
}

/// How far a check goes into compressed batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Their checksums: their records were checked before they were stored. Opening a directory must not take long.
    Sealed,
    /// Their records, too.
    Inflated,
}

/// Checks every batch of `path` up to `end`: checksums, offsets, and the records themselves. `begin`: the position of
/// the first batch, and the lowest offset that it may have.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened. Bytes that the disk cannot read count as damage.
pub(crate) fn check(
    disk: &dyn Disk,
    path: &Path,
    base: Offset,
    begin: (FilePos, Offset),
    end: FilePos,
    limit: Option<Offset>,
    depth: Depth,
) -> Result<Checked> {
    let context = |error| Error::reading(format!("opening {}", path.display()), error);
    let map = disk
        .open(path, OpenMode::Read)
        .and_then(|file| file.map(end.get()))
        .map_err(context)?;
    let course = Course {
        start: begin.0.get(),
        end: end.get(),
        next_offset: begin.1,
        limit: limit.unwrap_or(Offset::MAX),
        marks: Vec::new(),
        doubted_to: 0,
    };
    let mut walker = Walker::new(map, Intervals::default(), base, course);
    let mut checked = Checked {
        next_offset: begin.1,
        ..Checked::default()
    };
    loop {
        match walker.step()? {
            Step::End => return Ok(checked),
            Step::Damage(damage) => checked.damage.push(DamagedStretch {
                position: FilePos(damage.position),
                resume: FilePos(damage.resume),
                from: damage.from,
                until: damage.until,
                what: damage.what,
            }),
            Step::Batch(position, header) => {
                let resume = position + header.total_bytes() as u64;
                checked.batches += 1;
                checked.next_offset = header.next_offset();
                let bytes = walker.bytes(position, resume).map_err(context)?;
                let count = match (header.attributes.compression(), depth) {
                    (0, _) => records(&bytes),
                    (_, Depth::Sealed) => Ok(header.record_count.into()),
                    (_, Depth::Inflated) => {
                        batch::inflate(&bytes, MAX_INFLATED_BYTES).and_then(|inflated| records(&inflated))
                    }
                };
                checked.records += *count.as_ref().unwrap_or(&0);
                if let Err(what) = count {
                    checked.damage.push(DamagedStretch {
                        position: FilePos(position),
                        resume: FilePos(resume),
                        from: header.base_offset,
                        until: Some(header.next_offset()),
                        what: what.to_string(),
                    });
                }
            }
        }
    }
}

fn records(batch: &[u8]) -> Result<u64, BatchError> {
    Records::new(batch)?.map(|record| record.map(|_| 1)).sum()
}
