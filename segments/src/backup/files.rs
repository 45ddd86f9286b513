//! The files of a copy: each is linked, or copied and synced, and read from its beginning to its end.
//!
//! Also a file that is linked is read: disks change bytes without an error, and the times of a file do not show it. If a
//! file is not what an earlier copy had, the other of the two is used if that one is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::holes::end_of;
use super::manifest::{FileContents, Sum, damaged};
use super::progress::Progress;
use crate::error::{At, Error, Result};
use crate::files::layout::parse_log_name;
use crate::io::disk::{Disk, DiskFile, OpenMode};
use crate::types::{Offset, TimestampMs};

const CHUNK_BYTES: u64 = 1 << 20;
/// A disk fails to read no less than this.
const BLOCK_BYTES: usize = 4 << 10;
const CHANGED: &str = "it has changed since an earlier backup, although nothing was written to it";

/// Files that were made earlier, by their paths below a copy's directory of topics.
pub(super) type Known = BTreeMap<PathBuf, FileContents>;

/// Makes the files of one copy.
pub(super) struct Files<'a> {
    pub(super) disk: &'a dyn Disk,
    /// Where the files of this copy go.
    pub(super) to: PathBuf,
    /// The newest other copy of the same data directory: where its files are, and which.
    pub(super) previous: Option<(PathBuf, Known)>,
    /// What is there already, from an earlier moment of the same copy.
    pub(super) done: Known,
    pub(super) progress: &'a Progress,
    /// Those of them that share nothing with other files.
    pub(super) copied: BTreeSet<PathBuf>,
}

/// A file of the other copy that has the length and the time of the one that is made.
struct Earlier {
    path: PathBuf,
    /// What a file of this length and time holds, if it is not damaged.
    whole: Sum,
    /// Whether the other copy had that.
    is_whole: bool,
}

/// A file to be copied.
pub(super) struct Source<'a> {
    pub(super) path: PathBuf,
    /// Its place in the copy.
    pub(super) place: &'a Path,
    /// Copy so many bytes from its beginning.
    pub(super) bytes: u64,
    pub(super) modified: Option<TimestampMs>,
    /// Whether it ends there, is synced and is never written again.
    pub(super) may_be_linked: bool,
}

impl Files<'_> {
    /// Makes one file; `None` if its source is gone.
    ///
    /// # Errors
    /// Those of the disk; [`Error::Cancelled`].
    pub(super) fn make(&mut self, source: &Source<'_>) -> Result<Option<FileContents>> {
        self.progress.check()?;
        let to = self.to.join(source.place);
        // A file only grows, and the same length was never written twice at one time: so this is the same content.
        let is_same =
            |known: &&FileContents| known.sum.bytes == source.bytes && known.modified == source.modified;
        if let Some(made) = self.done.get(source.place) {
            if is_same(&made) {
                self.progress.add(made.sum.bytes);
                return Ok(Some(made.clone()));
            }
            self.forget(source.place)?;
        }
        let earlier = self.previous.as_ref().and_then(|(dir, files)| {
            let file = files.get(source.place).filter(is_same)?;
            Some(Earlier {
                path: dir.join(source.place),
                whole: file.whole(),
                is_whole: file.whole_crc32.is_none(),
            })
        });
        let Some(sum) = self.obtain(source, earlier.as_ref(), &to)? else {
            return Ok(None);
        };
        // One that has become shorter has lost offsets, which is noted elsewhere.
        let whole = earlier.map(|earlier| earlier.whole);
        let whole = whole.filter(|whole| *whole != sum && whole.bytes == sum.bytes);
        if whole.is_some() {
            tracing::error!(
                file = %source.path.display(),
                what = CHANGED,
                "a file is damaged, and this backup has it as it is; quipu verify says what is lost"
            );
        }
        let name = source.place.file_name().unwrap_or_default();
        let made = FileContents {
            name: name.to_string_lossy().into_owned(),
            sum,
            modified: source.modified,
            whole_crc32: whole.map(|whole| whole.crc32),
        };
        self.done.insert(source.place.to_path_buf(), made.clone());
        Ok(Some(made))
    }

    /// Makes a file that the log has lost of the one that the other copy has, if that is whole (and of this length, if one
    /// is given); otherwise `None`, and what was made at this place before is still there.
    ///
    /// # Errors
    /// Those of the disk; [`Error::Cancelled`].
    pub(super) fn rescue(&mut self, place: &Path, bytes: Option<u64>) -> Result<Option<FileContents>> {
        self.progress.check()?;
        let Some((dir, files)) = &self.previous else {
            return Ok(None);
        };
        let is_whole = |file: &&FileContents| {
            file.whole_crc32.is_none() && bytes.is_none_or(|bytes| file.sum.bytes == bytes)
        };
        let Some(known) = files.get(place).filter(is_whole).cloned() else {
            return Ok(None);
        };
        let (from, to) = (dir.join(place), self.to.join(place));
        // Compared before it replaces what is there.
        let before = self.progress.bytes();
        let found = sum_of(self.disk, &from, self.progress);
        self.progress.set(before);
        let what = match found {
            Ok(sum) if sum == known.sum => None,
            Ok(_) => Some(CHANGED.to_owned()),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = what {
            report(&from, &what);
            return Ok(None);
        }
        if self.done.contains_key(place) {
            self.forget(place)?;
        }
        if self.disk.hard_link(&from, &to).is_ok() {
            self.progress.add(known.sum.bytes);
        } else {
            let copied = copy(self.disk, &from, &to, u64::MAX, self.progress)?;
            let (_, file) = copied.ok_or_else(|| damaged(&from, "it has vanished"))?;
            if let Some(modified) = known.modified {
                file.set_modified(modified);
            }
            file.sync_data().at("syncing", &to)?;
            self.copied.insert(place.to_path_buf());
        }
        self.done.insert(place.to_path_buf(), known.clone());
        Ok(Some(known))
    }

    /// The whole log files that the other copy has of a partition, in order: where each begins, and its length.
    pub(super) fn earlier_logs(&self, place: &Path) -> Vec<(Offset, u64)> {
        let files = self.previous.iter().flat_map(|(_, files)| files);
        let files = files.filter(|(path, file)| path.parent() == Some(place) && file.whole_crc32.is_none());
        files
            .filter_map(|(_, file)| Some((parse_log_name(&file.name)?, file.sum.bytes)))
            .collect()
    }

    /// Where the log file at `place` ends in the other copy; `None` if it cannot be read. See [`end_of`].
    pub(super) fn earlier_end(
        &self,
        place: &Path,
        base: Offset,
        bytes: u64,
        expected: Offset,
    ) -> Option<Offset> {
        let (dir, _) = self.previous.as_ref()?;
        let end = end_of(self.disk, &dir.join(place), base, bytes, expected).ok()?;
        Some(end.0)
    }

    /// Removes what was made at a place.
    fn forget(&mut self, place: &Path) -> Result<()> {
        let path = self.to.join(place);
        self.disk.remove_file(&path).at("removing", &path)?;
        self.done.remove(place);
        self.copied.remove(place);
        Ok(())
    }

    /// Removes the files that are not kept: of segments that were trimmed after they were copied. Returns how many bytes
    /// of the others share nothing.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn keep_only(&mut self, kept: &BTreeSet<PathBuf>) -> Result<u64> {
        let mut copied_bytes = 0;
        for (place, file) in &self.done {
            if !kept.contains(place) {
                let path = self.to.join(place);
                self.disk.remove_file(&path).at("removing", &path)?;
            } else if self.copied.contains(place) {
                copied_bytes += file.sum.bytes;
            }
        }
        Ok(copied_bytes)
    }

    /// Makes the file of its source, or of the same file in the other copy; returns what it holds. `None` if the source
    /// is gone.
    fn obtain(&mut self, source: &Source<'_>, earlier: Option<&Earlier>, to: &Path) -> Result<Option<Sum>> {
        let is_whole = |sum: Sum| earlier.is_none_or(|earlier| earlier.whole == sum);
        let before = self.progress.bytes();
        let discard = || -> Result<()> {
            self.progress.set(before);
            self.disk.remove_file(to).at("removing", to)
        };
        let mut found = Ok(None);
        let mut wrong = None;
        if source.may_be_linked {
            found = self.link(&source.path, source.bytes, to);
            match &found {
                Ok(Some(sum)) if is_whole(*sum) => return found,
                Ok(Some(_)) => {
                    discard()?;
                    wrong = Some(CHANGED.to_owned());
                }
                Ok(None) => {}
                Err(Error::Cancelled) => return found,
                Err(error) => {
                    self.progress.set(before);
                    wrong = Some(error.to_string());
                }
            }
        }
        if let Some(earlier) = earlier.filter(|earlier| earlier.is_whole) {
            match self.link(&earlier.path, source.bytes, to) {
                Ok(Some(sum)) if is_whole(sum) => {
                    if let Some(what) = wrong {
                        tracing::error!(
                            file = %source.path.display(),
                            what,
                            "a file is damaged: this backup has that of an earlier backup, which is whole"
                        );
                    }
                    return Ok(Some(sum));
                }
                Ok(Some(_)) => {
                    discard()?;
                    report(&earlier.path, CHANGED);
                }
                Ok(None) => {}
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => {
                    self.progress.set(before);
                    report(&earlier.path, &error.to_string());
                }
            }
        }
        // Nothing better was found than what is there. If it is gone by now, the copy below notices.
        if let Some(sum) = found?
            && self.disk.hard_link(&source.path, to).is_ok()
        {
            self.progress.add(sum.bytes);
            return Ok(Some(sum));
        }
        let Some((sum, file)) = copy(self.disk, &source.path, to, source.bytes, self.progress)? else {
            return Ok(None);
        };
        if let Some(modified) = source.modified {
            file.set_modified(modified);
        }
        file.sync_data().at("syncing", to)?;
        self.copied.insert(source.place.to_path_buf());
        Ok(Some(sum))
    }

    /// Links a file of that length and reads it; `None` if it cannot be linked, or is of another length: then there is
    /// nothing at `to`.
    ///
    /// # Errors
    /// Those of reading it, which leave nothing at `to` either.
    fn link(&self, from: &Path, bytes: u64, to: &Path) -> Result<Option<Sum>> {
        if self.disk.hard_link(from, to).is_err() {
            return Ok(None);
        }
        let sum = sum_of(self.disk, to, self.progress);
        if sum.as_ref().is_ok_and(|sum| sum.bytes == bytes) {
            return sum.map(Some);
        }
        self.disk.remove_file(to).at("removing", to)?;
        sum.map(|_| None)
    }
}

fn report(earlier: &Path, what: &str) {
    tracing::error!(
        file = %earlier.display(),
        what,
        "a file of an earlier backup is damaged, and that backup with it: this one does without it"
    );
}

/// Copies the first `bytes` of a file, fewer if it is shorter; `None` if there is no such file. The caller syncs.
pub(super) fn copy(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    bytes: u64,
    progress: &Progress,
) -> Result<Option<(Sum, Arc<dyn DiskFile>)>> {
    copy_as(disk, from, to, bytes, read, progress)
}

/// The same for a file that is damaged: blocks that cannot be read become zeros.
pub(super) fn salvage(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    progress: &Progress,
) -> Result<Option<(Sum, Arc<dyn DiskFile>)>> {
    copy_as(disk, from, to, u64::MAX, read_or_zeros, progress)
}

fn copy_as(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    bytes: u64,
    read: Read,
    progress: &Progress,
) -> Result<Option<(Sum, Arc<dyn DiskFile>)>> {
    let source = match disk.open(from, OpenMode::Read) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::reading(format!("opening {}", from.display()), error)),
    };
    let file = disk.open(to, OpenMode::Create).at("making", to)?;
    file.set_len(0).at("making", to)?;
    let sum = walk((&*source, from), bytes, read, progress, |position, chunk| {
        file.write_all_at(&[IoSlice::new(chunk)], position)
            .at("writing", to)
    })?;
    Ok(Some((sum, file)))
}

/// The length and the checksum of a file.
///
/// # Errors
/// Those of the disk; [`Error::Cancelled`].
pub(super) fn sum_of(disk: &dyn Disk, path: &Path, progress: &Progress) -> Result<Sum> {
    let file = disk
        .open(path, OpenMode::Read)
        .map_err(|error| Error::reading(format!("opening {}", path.display()), error))?;
    walk((&*file, path), u64::MAX, read, progress, |_, _| Ok(()))
}

/// Fills a buffer from a position on; returns how much there was.
type Read = fn(&dyn DiskFile, &mut [u8], u64) -> io::Result<usize>;

fn read(file: &dyn DiskFile, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    file.read_at(buffer, position)
}

fn read_or_zeros(file: &dyn DiskFile, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    if let Ok(read) = file.read_at(buffer, position) {
        return Ok(read);
    }
    let length = file.len()?.saturating_sub(position).min(buffer.len() as u64) as usize;
    for (index, block) in buffer[..length].chunks_mut(BLOCK_BYTES).enumerate() {
        let at = position + (index * BLOCK_BYTES) as u64;
        if file.read_at(block, at).ok() != Some(block.len()) {
            block.fill(0);
        }
    }
    Ok(length)
}

fn walk(
    (file, path): (&dyn DiskFile, &Path),
    bytes: u64,
    read: Read,
    progress: &Progress,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Sum> {
    file.expect_one_read();
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES.min(bytes) as usize];
    let mut position = 0;
    while position < bytes {
        progress.check()?;
        let wanted = (bytes - position).min(CHUNK_BYTES) as usize;
        let read = read(file, &mut buffer[..wanted], position)
            .map_err(|error| Error::reading(format!("reading {}", path.display()), error))?;
        let chunk = &buffer[..read];
        hasher.update(chunk);
        take(position, chunk)?;
        position += read as u64;
        progress.add(read as u64);
        if read < wanted {
            break;
        }
    }
    Ok(Sum {
        bytes: position,
        crc32: hasher.finalize(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Fault, IoKind, SimDisk};

    #[test]
    fn only_the_blocks_that_cannot_be_read_become_zeros() {
        let disk = SimDisk::new(1);
        let [from, to] = ["/from", "/to"].map(Path::new);
        let file = disk.open(from, OpenMode::Create).unwrap();
        let written = vec![7; 2 * BLOCK_BYTES + 100];
        file.write_all_at(&[IoSlice::new(&written)], 0).unwrap();
        // All at once, and then the second block.
        for after in [0, 2] {
            disk.fail(Fault::once(IoKind::Read, after).on("/from"));
        }
        assert!(copy(&disk, from, to, u64::MAX, &Progress::default()).is_err());
        disk.clear_faults();
        for after in [0, 2] {
            disk.fail(Fault::once(IoKind::Read, after).on("/from"));
        }
        let (sum, _) = salvage(&disk, from, to, &Progress::default()).unwrap().unwrap();
        let mut expected = written;
        expected[BLOCK_BYTES..2 * BLOCK_BYTES].fill(0);
        assert_eq!(disk.contents(to).unwrap(), expected);
        assert_eq!(sum, Sum::of(&expected));
    }
}
