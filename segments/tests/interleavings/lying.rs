//! A disk that reports a sync of the journal as done, but does not do it.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quipu_segments::sim::{DiskLayer, FileLayer, LayeredFile, SimDisk, is_journal};
use quipu_segments::{Disk, DiskFile};

pub(crate) struct Lying(pub(crate) SimDisk);

impl DiskLayer for Lying {
    fn below(&self) -> &dyn Disk {
        &self.0
    }
    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if !is_journal(path) {
            return file;
        }
        let holds_rounds = AtomicBool::new(false);
        Arc::new(LayeredFile(LyingFile { file, holds_rounds }))
    }
}

struct LyingFile {
    file: Arc<dyn DiskFile>,
    /// Whether the last write was a round, and not the header of a new journal file.
    holds_rounds: AtomicBool,
}

impl FileLayer for LyingFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
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
}
