//! A disk that does something just before each sync of the journal: something that the syncer's thread could do then.
//! And something while a backup is taken: what other threads do.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use quipu_segments::sim::{DiskLayer, FileLayer, Layered, LayeredFile, SimDisk, is_journal};
use quipu_segments::{Disk, DiskFile};

type Run = Option<Box<dyn FnMut() -> bool + Send>>;

/// What is done before a sync; clones share it.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Run>>);

impl Hook {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.0.lock().expect("no test goes on after a panic")
    }
}

#[derive(Clone)]
pub(crate) struct Hooked {
    disk: SimDisk,
    hook: Hook,
    /// Runs when a file of a backup is opened.
    in_backup: Hook,
}

pub(crate) type HookedDisk = Layered<Hooked>;

pub(crate) fn hooked(disk: SimDisk) -> HookedDisk {
    Layered(Hooked {
        disk,
        hook: Hook::default(),
        in_backup: Hook::default(),
    })
}

impl Hooked {
    /// Runs `hook` before each sync of a round; if it returns `false`, the sync is reported, but not done.
    pub(crate) fn before_journal_sync(&self, hook: impl FnMut() -> bool + Send + 'static) {
        *self.hook.run() = Some(Box::new(hook));
    }

    /// Runs `hook` whenever a file of a backup is opened.
    pub(crate) fn in_backup(&self, hook: impl FnMut() -> bool + Send + 'static) {
        *self.in_backup.run() = Some(Box::new(hook));
    }

    /// Drops the hook of backups, and everything that it holds.
    pub(crate) fn after_backup(&self) {
        self.in_backup.run().take();
    }

    /// Drops the hooks, and everything that they hold.
    pub(crate) fn unhook(&self) {
        self.hook.run().take();
        self.after_backup();
    }
}

impl DiskLayer for Hooked {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }
    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if !is_journal(path) {
            let run = self.in_backup.run().take_if(|_| is_backup(path));
            if let Some(mut run) = run {
                run();
                *self.in_backup.run() = Some(run);
            }
            return file;
        }
        let (hook, is_round) = (self.hook.clone(), AtomicBool::new(false));
        Arc::new(LayeredFile(HookedFile { file, hook, is_round }))
    }
}

fn is_backup(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "backups")
}

struct HookedFile {
    file: Arc<dyn DiskFile>,
    hook: Hook,
    is_round: AtomicBool,
}

impl FileLayer for HookedFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        // A file that is made or recycled gets its header last; a sync after that is not one of a round.
        self.is_round.store(position > 0, Ordering::Relaxed);
        self.file.write_all_at(buffers, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        let is_round = self.is_round.load(Ordering::Relaxed);
        let hook = self.hook.run().take_if(|_| is_round);
        if let Some(mut run) = hook {
            let is_done = run();
            *self.hook.run() = Some(run);
            if !is_done {
                return Ok(());
            }
        }
        self.file.sync_data()
    }
}
