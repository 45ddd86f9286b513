//! The snapshot of the state.

use std::path::Path;

use quipu_segments::sim::{Fault, IoKind, SimDisk};

use super::{DIR, SEEDS, open, set_state, start_empty, try_open};

#[test]
fn a_first_snapshot_of_the_state_that_is_torn_is_not_damage() {
    for seed in 0..SEEDS {
        let (disk, log) = start_empty(seed);
        set_state(&log, "key", &[7; 9_000]).unwrap();
        disk.stop_at(3 + seed % 3);
        log.sync_segments().unwrap_err();
        let log = open(&disk.after_power_cut());
        assert_eq!(log.health().damage, Vec::<String>::new(), "seed {seed}");
        assert_eq!(log.state_get(b"key").as_deref(), Some(&[7; 9_000][..]));
    }
}

#[test]
fn a_newest_snapshot_of_the_state_that_is_damaged_is_reported() {
    let (disk, log) = start_empty(0);
    for value in [b"1", b"2", b"3"] {
        set_state(&log, "offset", value).unwrap();
        log.sync_segments().unwrap();
    }
    let disk = disk.after_power_cut();
    for slot in ["state.0", "state.1"] {
        let disk = disk.after_kill();
        disk.damage(&Path::new(DIR).join(slot), 40, 1);
        let log = open(&disk);
        let is_newest = log.state_get(b"offset").as_deref() == Some(b"3");
        let found = log.health().damage.is_empty();
        assert_eq!(found, is_newest, "{slot}: {:?}", log.health().damage);
    }
}

#[test]
fn a_snapshot_of_the_state_that_a_killed_process_did_not_sync_is_not_relied_on() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.fail(Fault::once(IoKind::Sync, 2).on("/state."));
        // The first snapshot is written, but its sync fails.
        assert!(try_open(&disk).is_err());
        let disk = disk.after_kill();
        drop(open(&disk));
        let log = open(&disk.after_power_cut());
        assert_eq!(log.health().damage, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_newest_snapshot_that_a_process_could_not_sync_is_durable_before_the_other_is_overwritten() {
    // Few seeds lose what was not synced, show it to the next start, and keep half of that one's write.
    for seed in 0..32 * SEEDS {
        for slots in ["/checkpoint.", "/state."] {
            for torn in 0..2 {
                let (disk, log) = start_empty(seed);
                set_state(&log, "key", b"value").unwrap();
                let disk = disk.after_kill();
                drop(log);
                disk.fail(Fault::once(IoKind::Sync, 1).on(slots));
                assert!(try_open(&disk).is_err());
                let disk = disk.after_kill();
                disk.fail(Fault::once(IoKind::Write, torn).on(slots));
                assert!(try_open(&disk).is_err());
                let log = open(&disk.after_power_cut());
                let what = format!("seed {seed}, write {torn} of {slots}");
                assert_eq!(log.health().damage, Vec::<String>::new(), "{what}");
                assert_eq!(log.state_get(b"key").as_deref(), Some(&b"value"[..]), "{what}");
            }
        }
    }
}
