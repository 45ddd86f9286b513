//! Backups that are taken while the log works and calls fail, and what is in the directories that are made of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use quipu_segments::sim::Rng;
use quipu_segments::{Backup, BackupState, Disk, Error, IfDamaged, Log, PartitionId, Progress, restore_on};

use super::Driver;
use crate::check::{self, Restart};
use crate::model::{Fate, Model};

/// On the file system of the log, where files can be linked, and on another one.
const BACKUPS: [&str; 2] = ["/quipu/backups", "/other/backups"];

/// A backup that was begun.
pub(crate) struct Taken {
    name: String,
    /// What was known when it began: all of that must be in it.
    model: Model,
    /// Whether it was reported to be whole, so that it must be there.
    is_done: bool,
}

/// Trims that were made during a backup.
type Trims = Arc<Mutex<Vec<(PartitionId, u64)>>>;

impl Driver {
    fn backup_dir(&self) -> &'static Path {
        Path::new(BACKUPS[(self.plan.seed % 2) as usize])
    }

    pub(super) fn backup(&mut self) {
        let trims = Trims::default();
        let removes = self.rng.chance(1, 3);
        if removes {
            // Read first: a record that nobody has seen must not fall below the new log start.
            self.run_rounds();
            self.observe();
        } else {
            for _ in 0..self.rng.below(5) {
                self.append();
            }
            self.take_answers(false);
        }
        if self.disk.is_off() {
            return;
        }
        let mut model = self.model.clone();
        let name = format!("b{}", self.backups.len());
        say!(self, "backup {name}, removes: {removes}");
        let (log, mut rng, made) = (self.log(), self.rng.fork(), Arc::clone(&trims));
        let busy = self.log();
        if let Some(disk) = &self.hooked {
            disk.0.in_backup(move || {
                meanwhile(&busy, &mut rng, removes, &made);
                true
            });
        }
        let since = self.failures_so_far();
        let result = log.backup(self.backup_dir(), &name, &Progress::default());
        if let Some(disk) = &self.hooked {
            disk.0.after_backup();
        }
        for (id, before) in trims.lock().expect("no test goes on after a panic").drain(..) {
            for model in [&mut model, &mut self.model] {
                let part = model.part_mut((id.topic, id.index));
                part.start_at_most = part.start_at_most.max(before);
            }
        }
        let partitions = self.partitions();
        for model in [&mut model, &mut self.model] {
            for partition in partitions.iter().filter(|_| removes) {
                let id = partition.id();
                let is_retained = model.topics.get(&id.topic).is_some_and(|topic| topic.retention);
                let part = model.part_mut((id.topic, id.index));
                if is_retained {
                    part.start_at_most = part.start_at_most.max(partition.positions().end_offset.get());
                }
            }
        }
        let is_done = result.is_ok();
        match result {
            Ok(backup) => {
                self.tally.backups += 1;
                assert_eq!(backup.state, BackupState::Done);
                assert!(backup.copied_bytes <= backup.bytes, "{backup:?}");
            }
            Err(error) => {
                say!(self, "the backup fails: {error}");
                self.tally.failed_backups += 1;
                let calls_failed = self.failures_so_far() > since;
                let is_explained = match &error {
                    // Segments whose sync has failed, whenever that was.
                    Error::PartitionFailed(_) => self.failures_so_far() > 0,
                    Error::StorageFull => self.full || calls_failed,
                    Error::Io { .. } | Error::Overloaded { .. } => calls_failed,
                    _ => false,
                };
                assert!(is_explained || self.disk.is_off(), "backup: {error}");
            }
        }
        self.backups.push(Taken { name, model, is_done });
        self.take_answers(false);
        if !self.disk.is_off() && self.rng.chance(1, 3) {
            self.disk.pause_faults(true);
            self.restore_newest();
            self.disk.pause_faults(false);
        }
    }

    /// Restores the backup that was taken last, without a crash in between.
    fn restore_newest(&mut self) {
        if let Some(taken) = self.backups.pop() {
            self.restore(&taken);
            self.backups.push(taken);
        }
    }

    /// Restores all backups that were begun, after all that has happened since.
    pub(super) fn restore_backups(&mut self) {
        self.disk.clear_faults();
        self.disk.set_capacity(None);
        self.full = false;
        let listed = self.log().backups(self.backup_dir()).expect("no call fails");
        for taken in std::mem::take(&mut self.backups) {
            let said = listed.iter().find(|backup| backup.name == taken.name);
            let is_whole = said.is_some_and(|backup: &Backup| backup.state == BackupState::Done);
            assert!(is_whole || !taken.is_done, "{} is lost: {said:?}", taken.name);
            self.restore(&taken);
        }
        self.open_halves();
    }

    /// Makes a data directory of a backup, opens it, and compares everything.
    fn restore(&mut self, taken: &Taken) {
        if self.full {
            return;
        }
        self.restores += 1;
        let data = PathBuf::from(format!("/quipu/restored-{}", self.restores));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let copy = self.backup_dir().join(&taken.name);
        let progress = Progress::default();
        let result = restore_on(
            Arc::clone(&disk),
            &self.clock,
            &copy,
            &data,
            IfDamaged::Refuse,
            &progress,
        );
        if self.disk.is_off() {
            self.halves.push((data, taken.model.clone()));
            return;
        }
        match result {
            Ok(restored) => {
                self.tally.restored += 1;
                say!(self, "restored {}: {restored:?}", taken.name);
                // What a crash takes was never acknowledged, and is no damage.
                assert_eq!(restored.findings, [], "{}", taken.name);
                let log = self.open_restored(&data);
                if !self.disk.is_off() {
                    let log = log.unwrap_or_else(|error| panic!("{} cannot be opened: {error}", taken.name));
                    assert_ne!(log.directory_id(), self.log().directory_id());
                    self.compare(&log, &taken.model, &taken.name);
                }
            }
            // Half a copy is refused.
            Err(error) => {
                let is_refused = matches!(error, Error::Directory(_) | Error::Io { .. });
                assert!(!taken.is_done && is_refused, "restoring {}: {error}", taken.name);
            }
        }
        if !self.disk.is_off() && disk.exists(&data).unwrap_or_default() {
            let removed = disk.remove_dir_all(&data);
            assert!(removed.is_ok() || self.disk.is_off(), "{removed:?}");
        }
    }

    fn open_restored(&self, data: &Path) -> Result<Log, Error> {
        let options = quipu_segments::Options {
            journal_files: 2,
            ..self.options.clone()
        };
        let disk = Arc::new(self.disk.clone());
        Log::open_with(disk, Arc::new(self.clock.clone()), data, options)
    }

    fn compare(&self, log: &Log, model: &Model, name: &str) {
        let mut model = model.clone();
        // Keys expire while a backup lies there.
        model.latest = self.model.latest;
        let checked = check::after_restart(log, &mut model, Restart::PowerCut);
        assert!(checked.is_ok() || self.disk.is_off(), "{name}: {checked:?}");
        if !self.disk.is_off() {
            check_keys(log, &model, name);
        }
    }

    /// Opens what restores have left that were cut short by a stop: nobody serves a part of a backup.
    fn open_halves(&mut self) {
        for (data, model) in std::mem::take(&mut self.halves) {
            match self.open_restored(&data) {
                Err(Error::Directory(_)) => {}
                Err(error) => panic!("{}: {error}", data.display()),
                // Its beginning was lost, or it was whole.
                Ok(log) if log.topics().is_empty() => {}
                Ok(log) => self.compare(&log, &model, "what a stop has left of a restore"),
            }
        }
    }
}

/// What other threads of the log do while a backup is taken.
fn meanwhile(log: &Log, rng: &mut Rng, removes: bool, trims: &Mutex<Vec<(PartitionId, u64)>>) {
    // Failures are remembered by the log, and answered to those who wait.
    match rng.below(8) {
        0..3 if !removes => {
            let _result = log.run_round();
        }
        0..2 => {
            let partitions: Vec<_> = log
                .topics()
                .iter()
                .flat_map(|topic| topic.partitions().to_vec())
                .collect();
            if partitions.is_empty() {
                return;
            }
            let partition = &partitions[rng.index(partitions.len())];
            let positions = partition.positions();
            let (start, end) = (positions.log_start_offset, positions.end_offset);
            let before = quipu_segments::Offset::new(rng.between(start.get(), end.get()));
            let mut trims = trims.lock().expect("no test goes on after a panic");
            trims.push((partition.id(), before.get()));
            drop(trims);
            let _result = partition.trim(before);
        }
        2 => {
            // Of topics without retention nothing is removed, but keys are stored again, and the old ones removed.
            let _result = log.apply_retention();
        }
        3..5 => {
            let _result = log.sync_segments();
        }
        _ => {}
    }
}

/// The keys of the requests that are there must be known.
fn check_keys(log: &Log, model: &Model, name: &str) {
    for (id, request) in &model.requests {
        let Some(once) = request.once.as_ref().filter(|_| request.fate == Fate::Durable) else {
            continue;
        };
        let is_gone = once.topic.is_some_and(|topic| log.topic_by_id(topic).is_none());
        if is_gone || once.expires <= model.latest {
            continue;
        }
        let recalled = log.recall(once.topic, &once.key, &[once.fingerprint; 16]);
        assert!(
            recalled.is_some(),
            "{name} has request {id} and has forgotten its key"
        );
    }
}
