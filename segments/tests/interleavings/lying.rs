//! A disk that says it has synced the journal, and has not.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quipu_segments::sim::SimDisk;
use quipu_segments::{DirEntry, Disk, DiskFile, Mapping, OpenMode};

pub(crate) struct LyingDisk(SimDisk);

impl LyingDisk {
    pub(crate) fn new(disk: SimDisk) -> Self {
        Self(disk)
    }
}

impl Disk for LyingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.open(path, mode)?;
        if path.extension().is_some_and(|extension| extension == "journal") {
            return Ok(Arc::new(LyingFile {
                file,
                holds_rounds: AtomicBool::new(false),
            }));
        }
        Ok(file)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock(path)
    }
}

struct LyingFile {
    file: Arc<dyn DiskFile>,
    /// Whether the last write was a round, and not the header that makes the file one.
    holds_rounds: AtomicBool,
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.holds_rounds.store(position > 0, Ordering::Relaxed);
        self.file.write_all_at(buffers, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.holds_rounds.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        self.file.map(len)
    }
}
