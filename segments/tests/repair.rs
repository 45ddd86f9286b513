//! A repair that is stopped at any point can be run again, and has lost nothing.

#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

mod support;

use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quipu_segments::sim::{DiskLayer, FileLayer, Layered, LayeredFile};
use quipu_segments::{
    Disk, DiskFile, Log, Offset, Options, RealDisk, SystemClock, repair, repair_on, verify,
};
use support::{NOW, TOPIC, change, partition, read_from, request, spec, store};

/// The operating system's disk, until `left` changes are made; then every call fails, as for a killed process.
struct Stopping {
    disk: RealDisk,
    left: Arc<AtomicUsize>,
}

struct StoppingFile {
    file: Arc<dyn DiskFile>,
    left: Arc<AtomicUsize>,
}

fn take(left: &AtomicUsize) -> io::Result<()> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    taken.map(drop).map_err(|_| io::Error::other("stopped"))
}

impl DiskLayer for Stopping {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }
    fn before_change(&self) -> io::Result<()> {
        take(&self.left)
    }
    fn wrap(&self, _: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let left = Arc::clone(&self.left);
        Arc::new(LayeredFile(StoppingFile { file, left }))
    }
}

impl FileLayer for StoppingFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn write_all_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        if let Err(error) = take(&self.left) {
            // Killed in the middle of the call: half of it is there.
            if let Some(first) = buffers.first() {
                let half = &first[..first.len() / 2];
                self.file.write_all_at(&[IoSlice::new(half)], position)?;
            }
            return Err(error);
        }
        self.file.write_all_at(buffers, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        take(&self.left)?;
        self.file.sync_data()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        take(&self.left)?;
        self.file.set_len(len)
    }
}

fn options() -> Options {
    Options {
        max_request_bytes: 32 << 10,
        ..support::options()
    }
}

const RECORDS: u64 = 80;

/// A directory of a killed process, with damage of each kind that a repair can undo.
fn damaged(dir: &Path) {
    let log = Log::open(dir, options()).unwrap();
    log.create_topic(TOPIC, spec(1, 4 << 10)).unwrap();
    for number in 0..RECORDS {
        if number == RECORDS / 2 {
            log.sync_segments().unwrap();
        }
        let value = format!("{number:0100}");
        let mut request = request(&log, &[0], NOW, value.as_bytes());
        request.state = vec![change("group", number.to_string().as_bytes())];
        store(&log, request).unwrap();
    }
    drop(log);
    let flip = |path: PathBuf, at: usize| {
        let mut bytes = fs::read(&path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    fs::write(dir.join("FORMAT"), b"{}").unwrap();
    fs::remove_file(dir.join("topics/orders/topic.json")).unwrap();
    flip(dir.join("checkpoint.0"), 40);
    flip(dir.join("state.1"), 40);
    let entries = fs::read_dir(dir.join("topics/orders/0")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let of_kind = |kind| move |path: &&PathBuf| path.extension().is_some_and(|extension| extension == kind);
    let index = files.iter().find(of_kind("index"));
    flip(index.expect("a segment was closed").clone(), 30);
    let last = files.iter().rfind(of_kind("log"));
    flip(last.unwrap().clone(), 80);
    fs::create_dir_all(dir.join("staging/7")).unwrap();
    fs::write(dir.join("topics/orders/topic.new"), b"torn").unwrap();
}

/// In memory if possible: there are many syncs, and they are not tested here.
fn temp() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    dir.expect("a temporary directory")
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn repair_that_is_stopped_anywhere_can_be_done_again_and_loses_nothing() {
    let base = temp();
    damaged(base.path());
    for stop in 0.. {
        let dir = temp();
        let dir = dir.path();
        copy(base.path(), dir);
        let left = Arc::new(AtomicUsize::new(stop));
        let (disk, count) = (RealDisk::new(), Arc::clone(&left));
        let disk = Layered(Stopping { disk, left: count });
        let stopped = repair_on(Arc::new(disk), &SystemClock::new(), dir, &mut |_| {});
        if let Ok(repaired) = &stopped {
            assert!(repaired.mended.len() >= 7, "{:?}", repaired.mended);
        }
        let again = repair(dir, &mut |_| {}).unwrap();
        let verified = again.verified;
        assert!(!verified.is_damaged(), "stop {stop}: {:?}", verified.findings);
        assert_eq!(repair(dir, &mut |_| {}).unwrap().mended, [], "stop {stop}");
        let faults = verify(dir, &mut |_| {}).unwrap().findings;
        let has_fault = faults.iter().any(|finding| finding.is_fault);
        assert!(!has_fault, "stop {stop}: {faults:?}");
        let log = Log::open(dir, options()).unwrap();
        let partition = partition(&log, 0);
        let mut from = Offset::ZERO;
        while from < Offset::new(RECORDS) {
            from = partition.read(read_from(from, 1 << 20)).unwrap().next_offset;
        }
        let found = log.state_get(b"group");
        assert_eq!(found.as_deref(), Some((RECORDS - 1).to_string().as_bytes()));
        if stopped.is_ok() {
            assert!(stop > 20, "{stop} places to stop at");
            break;
        }
    }
}
