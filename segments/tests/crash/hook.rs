//! A disk that does something just before each sync of the journal: what the syncer's thread could do at that moment.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use quipu_segments::sim::SimDisk;
use quipu_segments::{DirEntry, Disk, DiskFile, Mapping, OpenMode};

type Hook = Arc<Mutex<Option<Box<dyn FnMut() + Send>>>>;

#[derive(Clone)]
pub(crate) struct HookedDisk {
    disk: SimDisk,
    hook: Hook,
}

impl HookedDisk {
    pub(crate) fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            hook: Hook::default(),
        }
    }

    pub(crate) fn before_journal_sync(&self, hook: impl FnMut() + Send + 'static) {
        *self.hook.lock().expect("no test goes on after a panic") = Some(Box::new(hook));
    }

    /// Forgets the hook, and with it what it holds.
    pub(crate) fn unhook(&self) {
        self.hook.lock().expect("no test goes on after a panic").take();
    }
}

impl Disk for HookedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        if path.extension().is_some_and(|extension| extension == "journal") {
            return Ok(Arc::new(HookedFile {
                file,
                hook: self.hook.clone(),
                is_round: AtomicBool::new(false),
            }));
        }
        Ok(file)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
}

struct HookedFile {
    file: Arc<dyn DiskFile>,
    hook: Hook,
    is_round: AtomicBool,
}

impl DiskFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        // A file that is made or recycled gets its header last; a sync after that is not one of a round.
        self.is_round.store(position > 0, Ordering::Relaxed);
        self.file.write_all_at(buffers, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        let is_round = self.is_round.load(Ordering::Relaxed);
        let hook = self
            .hook
            .lock()
            .expect("no test goes on after a panic")
            .take_if(|_| is_round);
        if let Some(mut run) = hook {
            run();
            *self.hook.lock().expect("no test goes on after a panic") = Some(run);
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
