//! How many journal files there are, whatever fails while one is made.

mod support;

use std::path::Path;
use std::sync::Arc;

use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{AppendRequest, Disk, Log, Options, StateChange};
use support::{DIR, NOW, options, try_open_with};

const FILES: usize = 3;

fn open(disk: &SimDisk) -> Log {
    let options = Options {
        journal_files: FILES as u32,
        ..options()
    };
    try_open_with(Arc::new(disk.clone()), &SimClock::new(NOW), options).expect("nothing is wrong")
}

/// A round of a quarter of a journal file.
fn commit(log: &Log) -> bool {
    let state = vec![StateChange::set(b"key".to_vec(), vec![7; 60 << 10])];
    let request = AppendRequest::of_state(state);
    log.append(request).is_ok_and(|ticket| {
        while log.run_round().unwrap_or(false) {}
        ticket.wait().is_ok()
    })
}

fn assert_few_files(disk: &SimDisk, when: &str) {
    let files = disk.list(&Path::new(DIR).join("journal")).unwrap().len();
    assert!(files <= FILES, "{when}: {files}");
}

#[test]
fn files_that_cannot_be_made_do_not_pile_up() {
    use IoKind::{Create, Rename, Sync, SyncDir, Write};
    for kind in [Sync, SyncDir, Write, Rename, Create] {
        for after in 0..4 {
            let disk = SimDisk::new(after);
            let log = open(&disk);
            for _ in 0..3 {
                // One call fails at a time, as on a full disk, so that the log goes on.
                disk.fail(Fault::once(kind, after).on("journal").with(FaultError::Full));
                for _ in 0..12 {
                    // If the journal itself could not be synced, the log has failed: that is right.
                    commit(&log);
                    let _ = log.sync_segments();
                }
            }
            disk.clear_faults();
            assert_few_files(&disk, &format!("{kind:?} after {after}"));
            drop(log);
            let log = open(&disk);
            assert!(commit(&log));
            assert_few_files(&disk, &format!("{kind:?} after {after}: after a start"));
        }
    }
}

#[test]
fn a_file_that_could_not_be_recycled_is_used_again_on_a_disk_that_is_full() {
    for kind in [IoKind::Sync, IoKind::Rename] {
        let disk = SimDisk::new(1);
        let log = open(&disk);
        for _ in 0..20 {
            assert!(commit(&log));
        }
        disk.set_capacity(Some(disk.used_bytes()));
        let mut refused = 0;
        for turn in 0..40 {
            // Only calls of the syncer shall fail, not the committer's sync of a round.
            if turn % 8 == 0 && kind != IoKind::Sync {
                disk.fail(Fault::once(kind, 0).on(".journal").with(FaultError::Full));
            }
            refused += usize::from(!commit(&log));
            let _ = log.sync_segments();
        }
        // Only the file that failed may be waited for.
        assert!(refused <= 5, "{kind:?}: {refused} commits refused");
        assert!(commit(&log), "{kind:?}");
    }
}

#[test]
fn after_a_failed_sync_of_the_directory_no_file_is_made_until_a_restart() {
    let disk = SimDisk::new(1);
    let log = open(&disk);
    for _ in 0..5 {
        assert!(commit(&log));
    }
    let fault = Fault::once(IoKind::SyncDir, 0).on("journal");
    disk.fail(fault.with(FaultError::Full));
    let is_stored = |_: &i32| {
        let _ = log.sync_segments();
        commit(&log)
    };
    let stored = (0..40).take_while(is_stored).count();
    // The present file is filled first.
    assert!((1..9).contains(&stored), "{stored} rounds");
    while commit(&log) {}
    assert!(log.health().log_failed.is_some());
    drop(log);
    let log = open(&disk);
    for _ in 0..20 {
        assert!(commit(&log));
    }
}
