//! A disk that hangs: syncs of the journal wait until a test lets them go on.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use quipu_segments::sim::{DiskLayer, FileLayer, Layered, LayeredFile, is_journal};
use quipu_segments::{Disk, DiskFile, RealDisk};

/// Whether syncs of the journal may go on, and how many wait for that.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    pub fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    pub fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    /// Returns once a sync waits.
    pub fn wait_until_felt(&self) {
        let mut state = self.state.lock().unwrap();
        while state.1 == 0 {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// Opens the gate when dropped, also when a check fails, so that nothing waits for ever.
pub struct Closed<'a>(pub &'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// The real disk, except for syncs of journal files.
pub struct Gated {
    disk: RealDisk,
    gate: Arc<Gate>,
}

pub fn gated(gate: &Arc<Gate>) -> Layered<Gated> {
    let (disk, gate) = (RealDisk::new(), gate.clone());
    Layered(Gated { disk, gate })
}

impl DiskLayer for Gated {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }
    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if !is_journal(path) {
            return file;
        }
        let gate = self.gate.clone();
        Arc::new(LayeredFile(GatedFile { file, gate }))
    }
}

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl FileLayer for GatedFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }
}
