//! The operating system's files.

#![allow(clippy::disallowed_methods, reason = "this is the seam to the file system")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::map::FileMap;
use super::{DirEntry, Disk, DiskFile, Mapping, OpenMode};
use crate::io::clock::wall_time;
use crate::types::TimestampMs;

/// How many buffers Linux takes in one vectored call.
const IOV_MAX: usize = 1024;

/// The unit of a file's block count, whatever the file system's own block is: stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

/// The operating system's file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    /// Whether [`DiskFile::map`] makes maps, or views that read on demand.
    maps: bool,
}

impl RealDisk {
    /// A disk that maps files for reading.
    pub fn new() -> Self {
        Self { maps: true }
    }

    /// A disk that reads by copying: for file systems on which a map would be a risk (a file on a network that may go
    /// away kills a process that has it mapped). Each open segment holds a file handle then.
    pub fn without_maps() -> Self {
        Self { maps: false }
    }
}

impl Default for RealDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(mode != OpenMode::Read)
            .create(mode == OpenMode::Create)
            .truncate(false)
            .open(path)?;
        Ok(Arc::new(RealFile {
            file: Arc::new(file),
            maps: self.maps,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry {
                name,
                is_dir,
                len: if is_dir { 0 } else { metadata.len() },
                modified: metadata.modified().ok().map(wall_time),
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn create_private_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            // Another process was faster.
            Err(_) if dir.is_dir() => Ok(()),
            made => made,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock()?;
        Ok(Box::new(file))
    }

    fn free_bytes(&self, dir: &Path) -> Option<u64> {
        let space = rustix::fs::statvfs(dir).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn total_bytes(&self, dir: &Path) -> Option<u64> {
        let space = rustix::fs::statvfs(dir).ok()?;
        Some(space.f_blocks.saturating_mul(space.f_frsize))
    }
}

struct RealFile {
    file: Arc<File>,
    maps: bool,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        read_full(&self.file, buffer, position)
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        // One call is nearly always enough; the slices are copied only after a short write.
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let written = write_some(&self.file, &buffers[..buffers.len().min(IOV_MAX)], position)?;
        if written == total {
            return Ok(());
        }
        let mut slices = buffers.to_vec();
        let mut rest = &mut slices[..];
        let mut position = position + written as u64;
        IoSlice::advance_slices(&mut rest, written);
        while !rest.is_empty() {
            let written = write_some(&self.file, &rest[..rest.len().min(IOV_MAX)], position)?;
            position += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<bool> {
        // Check first: with too little space, fallocate takes all of it before it fails, and others meet a full disk.
        let missing = len.saturating_sub(self.file.metadata()?.blocks() * STAT_BLOCK_BYTES);
        if let Ok(free) = rustix::fs::fstatvfs(&self.file)
            && free.f_bfree.saturating_mul(free.f_frsize) < missing
        {
            return Err(Errno::NOSPC.into());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, len) {
            // Not every file system can do this, and a signal may interrupt it.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    // `start_writeback` stays without effect: the call for it, sync_file_range, has no safe wrapper here, and the kernel
    // begins to write back by itself after some seconds.

    fn expect_one_read(&self) {
        // Not `DontNeed`: it would also drop what readers of the same file have in memory.
        for advice in [Advice::Sequential, Advice::NoReuse] {
            if let Err(error) = rustix::fs::fadvise(&self.file, 0, None, advice) {
                tracing::debug!(%error, "the system does not want to know how a file is read");
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn set_modified(&self, time: TimestampMs) {
        let since_epoch = Duration::from_millis(time.get().unsigned_abs());
        let time = match time.get() {
            0.. => SystemTime::UNIX_EPOCH.checked_add(since_epoch),
            _ => SystemTime::UNIX_EPOCH.checked_sub(since_epoch),
        };
        if let Some(time) = time
            && let Err(error) = self.file.set_modified(time)
        {
            tracing::debug!(%error, "the time of a file could not be set");
        }
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        if self.maps {
            return Ok(Arc::new(FileMap::new(&self.file, len)?));
        }
        Ok(Arc::new(ReadMapping {
            file: Arc::clone(&self.file),
            len,
        }))
    }
}

/// One vectored write. Writing 0 bytes is an error only if there was something to write: slices may be empty.
fn write_some(file: &File, buffers: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev(file, buffers, position) {
            Ok(0) if buffers.iter().any(|buffer| !buffer.is_empty()) => {
                return Err(io::ErrorKind::WriteZero.into());
            }
            Ok(written) => return Ok(written),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A view that reads when it is asked: each [`Mapping::bytes`] is a copy.
struct ReadMapping {
    file: Arc<File>,
    len: u64,
}

impl ReadMapping {
    fn check(&self, start: u64, end: u64) -> io::Result<()> {
        if start > end || end > self.len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("bytes {start}..{end} of a view of {} bytes", self.len),
            ));
        }
        Ok(())
    }
}

impl Mapping for ReadMapping {
    fn len(&self) -> u64 {
        self.len
    }

    fn populate(&self, start: u64, end: u64) -> io::Result<()> {
        self.check(start, end)?;
        let found = self.file.metadata()?.len();
        if found < end {
            return Err(too_short(found, end));
        }
        Ok(())
    }

    fn bytes(self: Arc<Self>, start: u64, end: u64) -> io::Result<Bytes> {
        self.check(start, end)?;
        let mut buffer = vec![0; (end - start) as usize];
        let read = read_full(&self.file, &mut buffer, start)?;
        if read < buffer.len() {
            return Err(too_short(start + read as u64, end));
        }
        Ok(Bytes::from(buffer))
    }
}

fn too_short(found: u64, expected: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the file ends at byte {found}, expected at least {expected}"),
    )
}

/// Raises this process's limit of open files to the allowed maximum, and returns it.
///
/// If the system refuses, nothing changes, and the present limit is returned.
pub fn raise_file_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
    // `None` means unlimited.
    rustix::process::getrlimit(Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> [RealDisk; 2] {
        [RealDisk::new(), RealDisk::without_maps()]
    }

    #[test]
    fn more_slices_than_one_call_takes_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        let file = disk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        let rows = (0..3000u32).map(|i| i.to_le_bytes()[..(i % 4) as usize].to_vec());
        let parts: Vec<Vec<u8>> = rows.collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_all_at(&slices, 7).unwrap();
        let expected = parts.concat();
        assert_eq!(file.len().unwrap(), 7 + expected.len() as u64);
        let mut found = vec![0; expected.len() + 10];
        assert_eq!(file.read_at(&mut found, 7).unwrap(), expected.len());
        assert_eq!(&found[..expected.len()], &expected[..]);
        file.write_all_at(&[], 0).unwrap();
        file.write_all_at(&[IoSlice::new(&[]), IoSlice::new(&[])], 0)
            .unwrap();
    }

    #[test]
    fn reserving_space_changes_neither_contents_nor_length() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk::new()
            .open(&dir.path().join("f"), OpenMode::Create)
            .unwrap();
        file.write_all_at(&[IoSlice::new(b"abc")], 0).unwrap();
        file.reserve(1 << 20).unwrap();
        let mut found = [0; 8];
        assert_eq!(file.read_at(&mut found, 0).unwrap(), 3);
        assert_eq!((&found[..3], file.len().unwrap()), (&b"abc"[..], 3));
    }

    #[test]
    fn modes_open_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        let path = dir.path().join("f");
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let error = disk.open(&path, mode).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{mode:?}");
        }
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(&[IoSlice::new(b"abc")], 0).unwrap();
        file.sync_data().unwrap();
        // Opened with `Create` again, it keeps its contents.
        assert_eq!(disk.open(&path, OpenMode::Create).unwrap().len().unwrap(), 3);
        let read_only = disk.open(&path, OpenMode::Read).unwrap();
        assert!(read_only.write_all_at(&[IoSlice::new(b"x")], 0).is_err());
        disk.open(&path, OpenMode::ReadWrite).unwrap().set_len(1).unwrap();
        assert_eq!(read_only.len().unwrap(), 1);
    }

    #[test]
    fn a_directory_is_listed_in_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        disk.create_dir_all(&dir.path().join("b/deep")).unwrap();
        disk.create_dir_all(&dir.path().join("b")).unwrap();
        for name in ["c", "a"] {
            let file = disk.open(&dir.path().join(name), OpenMode::Create).unwrap();
            file.set_len(5).unwrap();
        }
        disk.sync_dir(dir.path()).unwrap();
        let entries = disk.list(dir.path()).unwrap();
        let rows = entries.iter();
        let found: Vec<_> = rows.map(|e| (e.name.as_str(), e.is_dir, e.len)).collect();
        assert_eq!(found, [("a", false, 5), ("b", true, 0), ("c", false, 5)]);
        disk.rename(&dir.path().join("a"), &dir.path().join("c")).unwrap();
        disk.remove_dir_all(&dir.path().join("b")).unwrap();
        assert!(disk.exists(&dir.path().join("c")).unwrap());
        disk.remove_file(&dir.path().join("c")).unwrap();
        assert!(disk.list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_lock_is_held_by_one_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        let path = dir.path().join("LOCK");
        let guard = disk.lock(&path).unwrap();
        assert_eq!(disk.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        disk.lock(&path).unwrap();
    }

    #[test]
    fn both_kinds_of_view_show_the_same_and_refuse_the_same() {
        for disk in both() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            let file = disk.open(&path, OpenMode::Create).unwrap();
            let view = file.map(1 << 20).unwrap();
            assert_eq!(view.len(), 1 << 20);
            let error = view.populate(0, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{disk:?}: {error}");
            let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
            file.write_all_at(&[IoSlice::new(&data)], 0).unwrap();
            view.populate(0, 20_000).unwrap();
            assert!(view.populate(0, 40_000).is_err(), "{disk:?}");
            assert!(view.populate(0, (1 << 20) + 1).is_err(), "{disk:?}");
            let slice = Arc::clone(&view).bytes(4_000, 9_000).unwrap();
            drop(file);
            drop(view);
            disk.remove_file(&path).unwrap();
            assert_eq!(&slice[..], &data[4_000..9_000], "{disk:?}");
        }
    }

    #[test]
    fn the_file_limit_ends_at_what_is_allowed() {
        let limit = raise_file_limit();
        let now = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(limit, now.current.unwrap_or(u64::MAX));
        assert_eq!(now.current, now.maximum);
    }
}
