//! Offsets that no file of a copy has: the log had lost a file, or the end of one, before it was copied.
//!
//! A log file begins with the offset of its name. Where it ends, its index says in its header; if that does not cover
//! all of the file, or ends earlier than the next file begins, the batches say it.

use std::path::Path;

use super::manifest::{FileContents, PartitionContents};
use crate::error::Result;
use crate::files::layout::parse_log_name;
use crate::io::disk::{Disk, OpenMode};
use crate::segment::{self, Depth, index};
use crate::types::{FilePos, Offset};

/// A range of offsets that no file of a partition has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// The log file that ends too early, or else the one that is missing.
    pub(super) file: String,
    pub(super) from: Offset,
    /// Exclusive.
    pub(super) until: Offset,
}

/// The name of the log file that begins with an offset.
pub(super) fn log_name(base: Offset) -> String {
    format!("{base:020}.log")
}

/// The holes of a partition whose files lie in `dir`, in order. Nothing is said about the end of files of which
/// `is_told` says that their damage is reported otherwise.
///
/// # Errors
/// Those of the disk.
pub(super) fn holes(
    disk: &dyn Disk,
    dir: &Path,
    partition: &PartitionContents,
    is_told: impl Fn(&FileContents) -> bool,
) -> Result<Vec<Hole>> {
    let logs = partition.files.iter();
    let mut logs: Vec<_> = logs
        .filter_map(|file| Some((parse_log_name(&file.name)?, file)))
        .collect();
    logs.sort_unstable_by_key(|(base, _)| *base);
    let nexts: Vec<Offset> = logs.iter().skip(1).map(|(base, _)| *base).collect();
    let mut found = Found {
        reached: partition.log_start_offset,
        torn: None,
        holes: Vec::new(),
    };
    for ((base, file), end) in logs.iter().zip(nexts.into_iter().chain([partition.next_offset])) {
        found.up_to(*base);
        let active = partition.active.as_ref();
        let is_whole_active =
            active.is_some_and(|active| active.base_offset == *base && file.sum.bytes >= active.position);
        if is_whole_active || is_told(file) {
            found.reach(end, None);
            continue;
        }
        let (reached, is_torn) = end_of(disk, &dir.join(&file.name), *base, file.sum.bytes, end)?;
        found.reach(reached, is_torn.then_some(file.name.as_str()));
    }
    found.up_to(partition.next_offset);
    Ok(found.holes)
}

struct Found<'a> {
    /// Where the offsets end that the files so far have.
    reached: Offset,
    /// The file that ends there in the middle of a batch.
    torn: Option<&'a str>,
    holes: Vec<Hole>,
}

impl<'a> Found<'a> {
    fn reach(&mut self, end: Offset, torn: Option<&'a str>) {
        self.reached = self.reached.max(end);
        self.torn = torn;
    }

    /// What is missing before an offset is a hole.
    fn up_to(&mut self, until: Offset) {
        let from = self.reached;
        if from >= until {
            return;
        }
        let file = self.torn.map_or_else(|| log_name(from), str::to_owned);
        self.holes.push(Hole { file, from, until });
        self.reached = until;
    }
}

/// One past the last record of a log file that can be read, the base offset if there is none; and whether bytes follow
/// it. `expected`: where it ends if nothing is wrong.
///
/// # Errors
/// Those of opening it.
pub(super) fn end_of(
    disk: &dyn Disk,
    log: &Path,
    base: Offset,
    bytes: u64,
    expected: Offset,
) -> Result<(Offset, bool)> {
    if bytes == 0 {
        return Ok((base, false));
    }
    if indexed_end(disk, log, base, bytes) == Some(expected) {
        return Ok((expected, false));
    }
    let begin = (FilePos::ZERO, base);
    let checked = segment::check(disk, log, base, begin, FilePos(bytes), None, Depth::Sealed)?;
    let is_torn = checked.damage.iter().any(|stretch| stretch.until.is_none());
    Ok((checked.next_offset, is_torn))
}

/// What the index of a log file says, if it covers all of it.
fn indexed_end(disk: &dyn Disk, log: &Path, base: Offset, bytes: u64) -> Option<Offset> {
    let file = disk.open(&log.with_extension("index"), OpenMode::Read).ok()?;
    let mut header = [0; index::HEADER_BYTES];
    let read = file.read_at(&mut header, 0).ok()?;
    let summary = index::summary(&header[..read], base, bytes).ok()?;
    (summary.end == bytes).then_some(summary.next_offset)
}
