//! Copies of the log while it is open: one at a time, on a thread of its own, below one directory.
//!
//! What a finished backup is lies beside it on disk, so it outlives restarts. Only how far a running one has come, and why the
//! last one failed, are in memory.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::broker::audit;
use crate::broker::caller::Caller;
use crate::broker::counters::Counters;
use crate::broker::engine::{Backup, BackupState, Error, Log, Progress};
use crate::broker::refusal::{Reason, Refusal};

/// Makes and lists backups. Clones share it.
#[derive(Clone)]
pub struct Backups(Arc<Parts>);

struct Parts {
    log: Log,
    counters: Arc<Counters>,
    /// Where they go; not set: there are none.
    dir: OnceLock<PathBuf>,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    running: Option<Running>,
    /// The last one that failed, for what its directory cannot tell.
    failed: Option<Backup>,
    /// The thread of the newest one.
    thread: Option<JoinHandle<()>>,
    /// No further one begins.
    is_stopping: bool,
}

struct Running {
    backup: Backup,
    progress: Arc<Progress>,
}

impl Running {
    /// The backup, as far as it has come.
    fn so_far(&self) -> Backup {
        let mut backup = self.backup.clone();
        backup.bytes = self.progress.bytes();
        backup
    }
}

impl Backups {
    /// No backups, until [`Backups::keep_in`] says where.
    pub fn new(log: Log, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Parts {
            log,
            counters,
            dir: OnceLock::new(),
            now: Mutex::default(),
        }))
    }

    /// Sets the directory, once.
    pub fn keep_in(&self, dir: PathBuf) {
        let _already = self.0.dir.set(dir);
    }

    fn dir(&self) -> Result<&PathBuf, Refusal> {
        self.0.dir.get().ok_or_else(|| {
            Refusal::new(
                Reason::NotSupported,
                "the server makes no backups: set backup_dir to the directory where they are to be",
            )
        })
    }

    /// Begins a backup, and returns it as it begins. Blocks for an append: the entry of the audit log.
    ///
    /// # Errors
    /// [`Reason::NotSupported`] without a directory; [`Reason::InvalidRequest`] for the name; [`Reason::BackupRunning`];
    /// [`Reason::BackupExists`].
    pub fn start(&self, caller: &Caller, name: &str) -> Result<Backup, Refusal> {
        let dir = self.dir()?;
        let log = &self.0.log;
        let found = log
            .find_backup(dir, name)
            .map_err(|error| refusal(error, "/name"))?;
        let mut now = self.0.now.lock();
        if now.is_stopping {
            return Err(Refusal::stopping());
        }
        if let Some(running) = &now.running {
            let name = &running.backup.name;
            let detail = format!("the backup {name} is running: one is made at a time");
            return Err(Refusal::new(Reason::BackupRunning, detail).with("running", name.clone()));
        }
        if found.is_some_and(|found| found.state == BackupState::Done) {
            return Err(exists(name));
        }
        audit::store(
            log,
            audit::entry(log, caller, "backup.create", &format!("backups/{name}"), ""),
        )?;
        let backup = log.begun_backup(name);
        let progress = Arc::new(Progress::default());
        let (parts, dir, made) = (Arc::clone(&self.0), dir.clone(), Arc::clone(&progress));
        let named = name.to_owned();
        let thread = std::thread::Builder::new().name("quipu-backup".into());
        let thread = thread.spawn(move || {
            let result = parts.log.backup(&dir, &named, &made);
            parts.ended(&named, result);
        });
        let thread = thread.map_err(|error| {
            tracing::error!(%error, "starting a thread for a backup");
            Refusal::new(Reason::Overloaded, "the server has no thread for it")
        })?;
        tracing::info!(name, "a backup begins");
        now.thread = Some(thread);
        now.failed = None;
        now.running = Some(Running {
            backup: backup.clone(),
            progress,
        });
        Ok(backup)
    }

    /// A backup by its name. Blocks on the disk.
    ///
    /// # Errors
    /// [`Reason::NotSupported`]; [`Reason::InvalidRequest`] for the name; [`Reason::UnknownBackup`].
    pub fn find(&self, name: &str) -> Result<Backup, Refusal> {
        let dir = self.dir()?;
        // Locked while the disk is read: else one that ends meanwhile would look as if it had been interrupted.
        let now = self.0.now.lock();
        if let Some(known) = now.known(name) {
            return Ok(known);
        }
        let found = self.0.log.find_backup(dir, name);
        found
            .map_err(|error| refusal(error, "name"))?
            .ok_or_else(|| unknown(name))
    }

    /// All backups, sorted by name. Blocks on the disk.
    ///
    /// # Errors
    /// [`Reason::NotSupported`]; those of the disk.
    pub fn list(&self) -> Result<Vec<Backup>, Refusal> {
        let dir = self.dir()?;
        let now = self.0.now.lock();
        let mut all = self.0.log.backups(dir)?;
        for known in [now.running.as_ref().map(Running::so_far), now.failed.clone()] {
            let Some(known) = known else { continue };
            match all.binary_search_by(|backup| backup.name.cmp(&known.name)) {
                Ok(at) => all[at] = known,
                Err(at) => all.insert(at, known),
            }
        }
        Ok(all)
    }

    /// Removes a backup. Blocks on the disk.
    ///
    /// # Errors
    /// Those of [`Backups::find`]; [`Reason::BackupRunning`]: while one is made, none is removed.
    pub fn remove(&self, caller: &Caller, name: &str) -> Result<(), Refusal> {
        let dir = self.dir()?;
        let log = &self.0.log;
        // The lock is held until it is gone: a backup that begins meanwhile could share files with it.
        let mut now = self.0.now.lock();
        if let Some(running) = &now.running {
            let detail = format!(
                "the backup {} is running: none is removed meanwhile",
                running.backup.name
            );
            return Err(
                Refusal::new(Reason::BackupRunning, detail).with("running", running.backup.name.clone())
            );
        }
        let had_failed = now.failed.take_if(|failed| failed.name == name).is_some();
        let found = log
            .find_backup(dir, name)
            .map_err(|error| refusal(error, "name"))?;
        if found.is_none() {
            return if had_failed { Ok(()) } else { Err(unknown(name)) };
        }
        audit::store(
            log,
            audit::entry(log, caller, "backup.delete", &format!("backups/{name}"), ""),
        )?;
        log.remove_backup(dir, name)
            .map_err(|error| refusal(error, "name"))?;
        self.note_newest(dir);
        Ok(())
    }

    /// Notes when the newest whole backup was taken, for the metric. Blocks on the disk.
    pub fn look_back(&self) {
        let Some(dir) = self.0.dir.get() else { return };
        // None ends, and none is removed, meanwhile.
        let _now = self.0.now.lock();
        self.note_newest(dir);
    }

    fn note_newest(&self, dir: &Path) {
        match self.0.log.backups(dir) {
            Ok(all) => {
                let done = all.iter().filter(|backup| backup.state == BackupState::Done);
                let newest = done.map(|backup| backup.started.get()).max();
                self.0.counters.last_backup_ms.store(newest.unwrap_or(0), Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the backups cannot be listed"),
        }
    }

    /// Ends a running backup, which then has failed, and waits for its thread. Blocks for the length of a read or a write.
    pub fn stop(&self) {
        let thread = {
            let mut now = self.0.now.lock();
            now.is_stopping = true;
            if let Some(running) = &now.running {
                running.progress.cancel();
            }
            now.thread.take()
        };
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of a backup has panicked");
        }
    }
}

impl Now {
    /// What is known of a backup beside what its directory says.
    fn known(&self, name: &str) -> Option<Backup> {
        let running = self.running.iter().find(|running| running.backup.name == name);
        let failed = || self.failed.clone().filter(|failed| failed.name == name);
        running.map(Running::so_far).or_else(failed)
    }
}

impl Parts {
    fn ended(&self, name: &str, result: Result<Backup, Error>) {
        let mut now = self.now.lock();
        let running = now.running.take();
        match result {
            Ok(backup) => {
                self.counters
                    .last_backup_ms
                    .fetch_max(backup.started.get(), Relaxed);
                let (bytes, copied_bytes, held_us) = (backup.bytes, backup.copied_bytes, backup.held_us);
                tracing::info!(
                    name,
                    bytes,
                    copied_bytes,
                    files = backup.files,
                    damaged_files = backup.damaged_files,
                    held_us,
                    "a backup is whole"
                );
            }
            Err(error) => {
                self.counters.failed_backups.fetch_add(1, Relaxed);
                tracing::error!(name, %error, "a backup has failed");
                now.failed = running.map(|running| {
                    let mut backup = running.so_far();
                    backup.state = BackupState::Failed;
                    backup.finished = Some(self.log.now());
                    backup.error = Some(words(&error));
                    backup
                });
            }
        }
    }
}

/// Why a backup failed, in words without a path.
fn words(error: &Error) -> String {
    match error {
        Error::Directory(_) => {
            "something is in the way in the directory of the backups; the server's log says what".into()
        }
        other => other.without_path(),
    }
}

fn exists(name: &str) -> Refusal {
    let detail = format!("there is a backup {name}: choose another name, or delete it");
    Refusal::new(Reason::BackupExists, detail)
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(Reason::UnknownBackup, format!("there is no backup {name}"))
}

fn refusal(error: Error, field: &str) -> Refusal {
    let is_of_name = matches!(error, Error::Invalid(_));
    let refusal = Refusal::from(error);
    match is_of_name {
        true => refusal.at(field),
        false => refusal,
    }
}
