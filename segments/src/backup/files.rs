//! The files of a copy: each is linked, or copied and synced, and its checksum is known.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::manifest::{FileContents, Sum};
use super::progress::Progress;
use crate::error::{At, Error, Result};
use crate::io::disk::{Disk, DiskFile, OpenMode};
use crate::types::TimestampMs;

const CHUNK_BYTES: u64 = 1 << 20;

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
            self.disk.remove_file(&to).at("removing", &to)?;
            self.done.remove(source.place);
            self.copied.remove(source.place);
        }
        let known = self.previous.as_ref().and_then(|(dir, files)| {
            let known = files.get(source.place).filter(is_same)?;
            Some((dir.join(source.place), known.sum))
        });
        let sum = match self.link(source, known, &to)? {
            Some(sum) => sum,
            None => match copy(self.disk, &source.path, &to, source.bytes, self.progress)? {
                Some((sum, file)) => {
                    if let Some(modified) = source.modified {
                        file.set_modified(modified);
                    }
                    file.sync_data().at("syncing", &to)?;
                    self.copied.insert(source.place.to_path_buf());
                    sum
                }
                None => return Ok(None),
            },
        };
        let name = source.place.file_name().unwrap_or_default();
        let made = FileContents {
            name: name.to_string_lossy().into_owned(),
            sum,
            modified: source.modified,
        };
        self.done.insert(source.place.to_path_buf(), made.clone());
        Ok(Some(made))
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

    /// Links the source, or the same file in the other copy; `None` if neither can be done.
    fn link(&self, source: &Source<'_>, known: Option<(PathBuf, Sum)>, to: &Path) -> Result<Option<Sum>> {
        if source.may_be_linked && self.disk.hard_link(&source.path, to).is_ok() {
            let sum = match known {
                Some((_, sum)) => {
                    self.progress.add(sum.bytes);
                    sum
                }
                None => sum_of(self.disk, to, self.progress)?,
            };
            if sum.bytes == source.bytes {
                return Ok(Some(sum));
            }
            // It is longer than what was published, which should not be: copy only that.
            self.disk.remove_file(to).at("removing", to)?;
        }
        if let Some((path, sum)) = known
            && self.disk.hard_link(&path, to).is_ok()
        {
            self.progress.add(sum.bytes);
            return Ok(Some(sum));
        }
        Ok(None)
    }
}

/// Copies the first `bytes` of a file, fewer if it is shorter; `None` if there is no such file. The caller syncs.
pub(super) fn copy(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    bytes: u64,
    progress: &Progress,
) -> Result<Option<(Sum, std::sync::Arc<dyn DiskFile>)>> {
    let source = match disk.open(from, OpenMode::Read) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::reading(format!("opening {}", from.display()), error)),
    };
    let file = disk.open(to, OpenMode::Create).at("making", to)?;
    file.set_len(0).at("making", to)?;
    let sum = walk(&*source, from, bytes, progress, |position, chunk| {
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
    walk(&*file, path, u64::MAX, progress, |_, _| Ok(()))
}

fn walk(
    file: &dyn DiskFile,
    path: &Path,
    bytes: u64,
    progress: &Progress,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Sum> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES.min(bytes) as usize];
    let mut position = 0;
    while position < bytes {
        progress.check()?;
        let wanted = (bytes - position).min(CHUNK_BYTES) as usize;
        let read = file
            .read_at(&mut buffer[..wanted], position)
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
