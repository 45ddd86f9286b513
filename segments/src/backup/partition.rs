//! Copies the files of one partition, and fills with an earlier copy what the log has lost of them.

use std::path::Path;

use super::capture::CapturedPartition;
use super::files::{Files, Source};
use super::holes::{Hole, holes, log_name};
use super::manifest::{ActiveContents, FileContents, PartitionContents};
use crate::error::{At, Result};
use crate::files::layout::parse_log_name;
use crate::files::slots::list_if_exists;
use crate::io::disk::DirEntry;
use crate::topic::partition::Partition;
use crate::types::Offset;

const INDEXES: [&str; 2] = ["index", "timeindex"];

/// Copies what was published of a partition, to `place` below the copy's directory of topics. Also returns how many
/// ranges of offsets are missing, because neither the log nor the earlier copy has them.
///
/// If the partition is deleted meanwhile, what is returned is of no use.
///
/// # Errors
/// Those of the disk; [`crate::Error::Cancelled`].
pub(super) fn copy_partition(
    captured: &CapturedPartition,
    place: &Path,
    files: &mut Files<'_>,
) -> Result<(PartitionContents, u64)> {
    let CapturedPartition {
        partition,
        log_start_offset,
        next_offset,
        active,
        segments,
    } = captured;
    let mut contents = PartitionContents {
        log_start_offset: *log_start_offset,
        next_offset: *next_offset,
        active: active.map(|(base_offset, position, made)| ActiveContents {
            base_offset,
            position: position.get(),
            made,
        }),
        files: Vec::new(),
    };
    if segments.is_empty() && log_start_offset == next_offset {
        return Ok((contents, 0));
    }
    let from = partition.dir();
    let listed = list_if_exists(files.disk, from)?;
    let entry = |name: &str| -> Option<&DirEntry> {
        let index = listed
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
            .ok()?;
        listed.get(index)
    };
    let to = files.to.join(place);
    files.disk.create_dir_all(&to).at("making", &to)?;
    for segment in segments {
        let name = log_name(segment.base);
        let own_place = place.join(&name);
        let source = entry(&name).map(|entry| Source {
            path: from.join(&name),
            place: &own_place,
            bytes: segment.bytes,
            modified: entry.modified,
            may_be_linked: segment.is_closed && segment.is_synced && entry.len == segment.bytes,
        });
        let is_short = entry(&name).is_none_or(|entry| entry.len < segment.bytes);
        let mut made = None;
        if let Some(source) = source.as_ref().filter(|_| !is_short) {
            made = files.make(source)?;
        }
        if made.is_none() {
            if partition.is_deleted() {
                break;
            }
            if partition.positions().log_start_offset >= segment.end {
                // Trimmed since. The segments before it are, too.
                contents.log_start_offset = contents.log_start_offset.max(segment.end);
                contents
                    .active
                    .take_if(|active| active.base_offset == segment.base);
                contents.files.clear();
                continue;
            }
            let rescued = rescue(files, partition, place, segment.base, segment.bytes)?;
            if !rescued.is_empty() {
                contents.files.extend(rescued);
                continue;
            }
            if let Some(source) = source.as_ref().filter(|_| is_short) {
                made = files.make(source)?;
            }
        }
        let Some(made) = made else { continue };
        contents.files.push(made);
        for extension in INDEXES {
            let name = format!("{:020}.{extension}", segment.base);
            // That of an active segment may say more than what is copied of its log.
            if let Some(entry) = entry(&name).filter(|_| segment.is_closed) {
                let made = files.make(&Source {
                    path: from.join(&name),
                    place: &place.join(&name),
                    bytes: entry.len,
                    modified: entry.modified,
                    // Its name is given to another file when it is made again.
                    may_be_linked: false,
                })?;
                contents.files.extend(made);
            }
        }
    }
    if partition.is_deleted() {
        return Ok((contents, 0));
    }
    // The damage of these is noted in `whole_crc32`.
    let is_told = |file: &FileContents| file.whole_crc32.is_some();
    let mut missing = holes(files.disk, &to, &contents, is_told)?;
    if !missing.is_empty() && mend(files, partition, place, &mut contents, &missing)? {
        missing = holes(files.disk, &to, &contents, is_told)?;
    }
    for hole in &missing {
        tracing::error!(
            file = %from.join(&hole.file).display(),
            partition = partition.name(),
            from = hole.from.get(),
            until = hole.until.get(),
            "a file is missing or too short, in the log and in this backup: these offsets are lost"
        );
    }
    Ok((contents, missing.len() as u64))
}

/// Makes the files of a segment that the log has lost of the other copy, if that has a whole log file of this length.
fn rescue(
    files: &mut Files<'_>,
    partition: &Partition,
    place: &Path,
    base: Offset,
    bytes: u64,
) -> Result<Vec<FileContents>> {
    let name = log_name(base);
    let Some(log) = files.rescue(&place.join(&name), Some(bytes))? else {
        return Ok(Vec::new());
    };
    tracing::error!(
        file = %partition.dir().join(&name).display(),
        "a file is missing or too short: this backup has that of an earlier backup"
    );
    let mut made = vec![log];
    for extension in INDEXES {
        let name = format!("{base:020}.{extension}");
        made.extend(files.rescue(&place.join(name), None)?);
    }
    Ok(made)
}

/// Adds the log files of the other copy that lie in holes, and takes those that reach further into one than what the log
/// has of them. Returns whether there was any.
fn mend(
    files: &mut Files<'_>,
    partition: &Partition,
    place: &Path,
    contents: &mut PartitionContents,
    missing: &[Hole],
) -> Result<bool> {
    let mut is_better = false;
    for hole in missing {
        for (base, bytes) in files.earlier_logs(place) {
            let here = contents.files.iter();
            let before = here
                .filter_map(|file| parse_log_name(&file.name))
                .filter(|other| *other < hole.until)
                .max();
            // No two files may have the same offset.
            let fits = base >= hole.from || before.is_none_or(|before| before == base);
            if base >= hole.until || !fits {
                continue;
            }
            let end = files.earlier_end(&place.join(log_name(base)), base, bytes, hole.until);
            if end.is_none_or(|end| end <= hole.from || end > hole.until) {
                continue;
            }
            let rescued = rescue(files, partition, place, base, bytes)?;
            if !rescued.is_empty() {
                let stem = format!("{base:020}.");
                contents.files.retain(|file| !file.name.starts_with(&stem));
                contents.files.extend(rescued);
                is_better = true;
            }
        }
    }
    contents.files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(is_better)
}
