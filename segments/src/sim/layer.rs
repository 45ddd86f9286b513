//! Disks on top of another disk that change one behaviour: they wait, lie, stop, or fail to read.
//!
//! A [`DiskLayer`] defines the change, and [`Layered`] makes a disk of it: every other call goes to the disk below.
//! [`FileLayer`] and [`LayeredFile`] are the same for files.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::io::disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode};
use crate::types::TimestampMs;

/// What a disk on top of another one changes.
pub trait DiskLayer: Send + Sync + 'static {
    /// The disk below.
    fn below(&self) -> &dyn Disk;
    /// Called before each change of names, and before each sync of a directory.
    ///
    /// # Errors
    /// The call fails with this error, and the disk below does not see it.
    fn before_change(&self) -> io::Result<()> {
        Ok(())
    }
    /// The file that the caller of `open` gets for this one.
    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile>;
}

/// A disk made of a layer and what lies below it.
#[derive(Clone)]
pub struct Layered<L>(pub L);

impl<L: DiskLayer> Disk for Layered<L> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == OpenMode::Create {
            self.0.before_change()?;
        }
        Ok(self.0.wrap(path, self.0.below().open(path, mode)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.below().list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.below().exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.before_change()?;
        self.0.below().create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.before_change()?;
        self.0.below().rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.before_change()?;
        self.0.below().hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.before_change()?;
        self.0.below().remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.before_change()?;
        self.0.below().remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.before_change()?;
        self.0.below().sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.below().lock(path)
    }
}

/// What a file on top of another one changes.
pub trait FileLayer: Send + Sync + 'static {
    /// The file below.
    fn below(&self) -> &dyn DiskFile;
    /// See [`DiskFile::write_all_at`].
    ///
    /// # Errors
    /// Those of the disk.
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.below().write_all_at(buffers, position)
    }
    /// See [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_data(&self) -> io::Result<()> {
        self.below().sync_data()
    }
    /// See [`DiskFile::set_len`].
    ///
    /// # Errors
    /// Those of the disk.
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below().set_len(len)
    }
    /// See [`DiskFile::map`].
    ///
    /// # Errors
    /// Those of the disk.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        self.below().map(len)
    }
}

/// A file made of a layer and what lies below it.
pub struct LayeredFile<L>(pub L);

impl<L: FileLayer> DiskFile for LayeredFile<L> {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.below().read_at(buffer, position)
    }
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.0.write_all_at(buffers, position)
    }
    fn reserve(&self, len: u64) -> io::Result<bool> {
        self.0.below().reserve(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.below().len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn set_modified(&self, time: TimestampMs) {
        self.0.below().set_modified(time);
    }
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        self.0.map(len)
    }
}

/// Whether this is a file of the journal.
pub fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "journal")
}
