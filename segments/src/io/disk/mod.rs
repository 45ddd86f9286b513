//! The seam to the file system: everything the engine does to files goes through [`Disk`] and [`DiskFile`].
//!
//! [`RealDisk`] is the operating system's. A simulated disk implements the same traits, so that the whole engine can
//! run on one that loses what was not synced, tears writes, runs full and fails calls.
//!
//! What a crash leaves: file contents are safe after [`DiskFile::sync_data`] returned without an error, and names
//! (of new, renamed and removed files) after [`Disk::sync_dir`] of their directory did. Nothing else is promised.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::TimestampMs;

mod map;
mod real;

pub use real::{RealDisk, raise_file_limit};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    ReadWrite,
    /// For reading and writing; made if missing.
    Create,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without the directory. Names that are not UTF-8 are not the engine's and are left out.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The length of a file in bytes; 0 for a directory.
    pub len: u64,
    /// When a file was last written, if the file system knows: never earlier than it really was.
    pub modified: Option<TimestampMs>,
}

/// A file system.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether a file or directory of that name is there.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes a directory and its missing parents; fine if it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The same, but only its owner can look into it if it is made here; one that exists, and parents that are made, are as
    /// they are.
    fn create_private_dir(&self, dir: &Path) -> io::Result<()> {
        self.create_dir_all(dir)
    }
    /// Renames a file or a directory; a file at `to` is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name. Both are the same file from then on.
    ///
    /// # Errors
    /// Among others if `to` lies on another file system, or if that file system has no such links: nothing was done.
    fn hard_link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file (made if missing), held until the returned guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process (or this one) holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// The bytes that the file system of `dir` has free for this process, if it is known.
    fn free_bytes(&self, _dir: &Path) -> Option<u64> {
        None
    }
    /// The size of the file system of `dir` in bytes, if it is known.
    fn total_bytes(&self, _dir: &Path) -> Option<u64> {
        None
    }
}

#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
/// An open file. All access is positioned; there is no cursor.
pub trait DiskFile: Send + Sync {
    /// Reads at `position` until the buffer is full or the file ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `buffers`, one after the other, at `position`. After an error any part of it may be written.
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Allocates the space of `len` bytes at once; `false` if the file system cannot do that. Too little space is an
    /// error, and then the remaining space stays free for others. Neither contents nor length change.
    fn reserve(&self, _len: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Makes the contents (and the length) durable. After an error nothing is known: do not try again.
    fn sync_data(&self) -> io::Result<()>;
    /// Asks the system to begin to write the contents back; only a hint.
    fn start_writeback(&self) {}
    /// Says that all of the file is read now, from its beginning to its end, and not soon again: what it leaves in memory
    /// is to displace nothing. Only a hint.
    fn expect_one_read(&self) {}
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Sets the time that [`DirEntry::modified`] shows; only a hint.
    fn set_modified(&self, _time: TimestampMs) {}
    /// Maps the first `len` bytes for reading; `len` may be beyond the file's end, for a file that grows.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>>;
}

#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a view is empty")]
/// A read-only view of a file, which outlives the file's handle and its name.
pub trait Mapping: Send + Sync {
    /// The length of the view in bytes.
    fn len(&self) -> u64;
    /// Brings `start..end` into memory, so that [`Mapping::bytes`] finds it there. May wait for the disk.
    ///
    /// # Errors
    /// Those of the disk, or `UnexpectedEof` if the file is shorter than `end`. (A map checks whole pages: bytes
    /// between the file's end and the end of its last page read as zeros, which fail every checksum.)
    fn populate(&self, start: u64, end: u64) -> io::Result<()>;
    /// The bytes `start..end`, without a copy where the view is a map.
    ///
    /// The caller keeps `end` within both the view and what has been written to the file, and has populated the range.
    ///
    /// # Errors
    /// Only a view that reads on demand has any: those of the disk.
    fn bytes(self: Arc<Self>, start: u64, end: u64) -> io::Result<Bytes>;
}
