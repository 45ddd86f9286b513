//! The journal, its files, and the checkpoint that says which of them are needed.

use std::path::Path;
use std::sync::Arc;

use quipu_segments::sim::{Fault, IoKind, SimClock, SimDisk};
use quipu_segments::{AppendRequest, Disk, Error, Log, OpenMode, Options};

use super::{
    DIR, NOW, SEEDS, append, change, open, options, request, set_state, spec, start, start_empty, try_open,
    try_open_with, values,
};
use crate::hook::hooked;

/// A new directory whose journal has four files.
fn start_with_four_files() -> (SimDisk, Log) {
    let disk = SimDisk::new(0);
    let options = Options {
        journal_files: 4,
        ..options()
    };
    let log = try_open_with(Arc::new(disk.clone()), &SimClock::new(NOW), options).unwrap();
    (disk, log)
}

#[test]
fn what_is_published_during_a_sync_is_in_the_checkpoint_after_the_next() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let hooked = hooked(disk.clone());
        let log = try_open_with(Arc::new(hooked.clone()), &SimClock::new(NOW), options()).unwrap();
        log.create_topic("orders", spec(1, 1 << 20)).unwrap();
        let syncing = log.clone();
        hooked.0.before_journal_sync(move || {
            syncing.sync_segments().unwrap();
            true
        });
        append(&log, &[0], b"1").unwrap();
        hooked.0.unhook();
        log.sync_segments().unwrap();
        let log = open(&disk.after_power_cut());
        assert_eq!(values(&log, 0), [b"1"], "seed {seed}");
    }
}

#[test]
fn a_checkpoint_for_a_failed_partition_names_no_journal_file_that_is_recycled_after_it() {
    // For one of these numbers, the failing partition's first round is the first in the second journal file.
    for filled in 15..30 {
        let (disk, log) = start(0, spec(2, 1 << 20));
        append(&log, &[0], b"1").unwrap();
        for _ in 0..filled {
            append(&log, &[1], &[7; 10_000]).unwrap();
        }
        log.sync_segments().unwrap();
        append(&log, &[0], &[8; 10_000]).unwrap();
        disk.fail(Fault::once(IoKind::Sync, 0).on("topics/orders/0"));
        log.sync_segments().unwrap();
        assert_eq!(log.health().failed_partitions.len(), 1);
        let log = open(&disk.after_power_cut());
        assert_eq!(log.health().damage, Vec::<String>::new(), "{filled} appends");
        assert_eq!(values(&log, 0).len(), 2);
    }
}

#[test]
fn state_changes_go_on_for_ever_on_a_disk_that_is_full_from_the_start() {
    let (disk, log) = start(0, spec(1, 1 << 20));
    disk.set_capacity(Some(disk.used_bytes()));
    let refused = append(&log, &[0], &[0; 10_000]);
    assert!(matches!(refused, Err(Error::StorageFull)));
    for n in 0..300_u32 {
        set_state(&log, "offset", &n.to_le_bytes()).unwrap();
    }
    // Journal files were reused.
    assert!(disk.calls_by_kind()[&IoKind::Rename] > 2);
    let disk = disk.after_power_cut();
    let log = open(&disk);
    let found = log.state_get(b"offset");
    assert_eq!(found.as_deref(), Some(&299_u32.to_le_bytes()[..]));
    disk.set_capacity(None);
    append(&log, &[0], &[0; 10_000]).unwrap();
}

#[test]
fn a_journal_file_that_a_full_disk_has_no_room_for_leaves_nothing_behind() {
    let (disk, log) = start_with_four_files();
    let used = disk.used_bytes();
    disk.set_capacity(Some(used + (100 << 10)));
    for n in 0..300_u32 {
        set_state(&log, "offset", &n.to_le_bytes()).unwrap();
    }
    assert_eq!(disk.used_bytes(), used);
}

#[test]
fn appends_end_with_an_answer_when_a_failed_sync_keeps_every_journal_file() {
    let (disk, log) = start(0, spec(2, 1 << 20));
    append(&log, &[0], b"1").unwrap();
    disk.fail(Fault::once(IoKind::Sync, 0).on("topics"));
    log.sync_segments().unwrap();
    let is_stored = |_: &i32| append(&log, &[1], &[7; 10_000]).is_ok();
    let stored = (0..200).take_while(is_stored).count();
    assert!((10..100).contains(&stored), "{stored} in two journal files");
    assert!(log.health().log_failed.is_some());
    let log = open(&disk.after_power_cut());
    assert_eq!((values(&log, 0).len(), values(&log, 1).len()), (1, stored));
}

#[test]
fn a_round_that_recovery_has_only_seen_in_the_cache_is_whole_or_gone_after_a_power_cut() {
    for stop in 1..90 {
        let (disk, log) = start(stop, spec(1, 1 << 20));
        // Killed before the journal's sync: the round is only in the page cache.
        disk.fail(Fault::once(IoKind::Sync, 0).on("journal"));
        let request = AppendRequest {
            state: vec![change("key", b"value")],
            ..request(&log, &[0], NOW, b"1")
        };
        let _ticket = log.append(request).unwrap();
        log.run_round().unwrap_err();
        let disk = disk.after_kill();
        disk.stop_at(stop);
        let _opened = try_open(&disk);
        let log = open(&disk.after_power_cut());
        let found = log.state_get(b"key").is_some();
        assert_eq!(found, values(&log, 0).len() == 1, "stop {stop}");
    }
}

/// A log with two records and two commits that was stopped, with the last round only in the journal.
fn stopped(seed: u64) -> SimDisk {
    let (disk, log) = start(seed, spec(1, 1 << 20));
    append(&log, &[0], b"1").unwrap();
    set_state(&log, "offset", b"1").unwrap();
    log.sync_segments().unwrap();
    set_state(&log, "offset", b"2").unwrap();
    append(&log, &[0], b"2").unwrap();
    disk.after_power_cut()
}

#[test]
fn a_bit_flipped_in_the_last_round_of_the_journal_does_not_make_it_a_torn_one() {
    for seed in 0..SEEDS {
        let disk = stopped(seed);
        let path = Path::new(DIR).join("journal");
        for bit in (0..200 * 8).step_by(7) {
            let disk = disk.after_kill();
            // The last round is the last block that is not zeros.
            let journal = disk.list(&path).unwrap().into_iter().rev().find_map(|entry| {
                let path = path.join(entry.name);
                let bytes = disk.contents(&path)?;
                let last = bytes
                    .chunks(4096)
                    .rposition(|block| block.starts_with(b"QUIPUJNL") || block[4..8] == *b"RND1")?;
                (last > 0).then_some((path, last as u64 * 4096))
            });
            let (path, position) = journal.expect("a round was written");
            disk.damage(&path, position + bit / 8, 1 << (bit % 8));
            let log = open(&disk);
            let is_right = values(&log, 0).len() == 2 || !log.health().damage.is_empty();
            assert!(is_right, "seed {seed}, bit {bit}");
            let found = log.state_get(b"offset");
            assert_eq!(found.as_deref(), Some(&b"2"[..]), "seed {seed}, bit {bit}");
        }
    }
}

#[test]
fn a_journal_file_whose_name_may_not_be_durable_is_not_written() {
    for seed in 0..SEEDS {
        for more in 4..9 {
            let (disk, log) = start_empty(seed);
            let set = |n: u8| set_state(&log, &n.to_string(), &[n; 50_000]);
            // Four rounds go into a file: the first file is no longer needed, and is renamed.
            for n in 0..5 {
                set(n).unwrap();
            }
            disk.fail(Fault::once(IoKind::SyncDir, 0).on("journal"));
            log.sync_segments().unwrap_err();
            let stored = (5..5 + more).take_while(|n| set(*n).is_ok()).count() as u8;
            let log = open(&disk.after_power_cut());
            for n in 0..5 + stored {
                let found = log.state_get(n.to_string().as_bytes());
                assert_eq!(found.as_deref(), Some(&[n; 50_000][..]), "seed {seed}, round {n}");
            }
        }
    }
}

#[test]
fn a_journal_file_that_is_missing_or_cut_is_missed_from_its_first_round_on() {
    // Four rounds go into a file: the damaged file is full, has some rounds, or is the one behind a full one.
    for rounds in 1..14_u8 {
        let (disk, log) = start_with_four_files();
        for n in 0..rounds {
            set_state(&log, "key", &[n; 50_000]).unwrap();
        }
        let disk = disk.after_power_cut();
        let dir = Path::new(DIR).join("journal");
        // The newest file with rounds. The spare files behind it are removed: they would prove that it existed.
        let has_rounds = |path: &Path| {
            disk.contents(path)
                .is_some_and(|bytes| bytes.get(4100..4104) == Some(&b"RND1"[..]))
        };
        let rows = disk.list(&dir).unwrap();
        let files: Vec<_> = rows.iter().map(|entry| dir.join(&entry.name)).collect();
        let current = files.iter().rposition(|path| has_rounds(path)).unwrap();
        for length in [None, Some(0), Some(40), Some(4096)] {
            let disk = disk.after_kill();
            for spare in &files[current + 1..] {
                disk.remove_file(spare).unwrap();
            }
            match length {
                None => disk.remove_file(&files[current]).unwrap(),
                Some(length) => {
                    let file = disk.open(&files[current], OpenMode::ReadWrite).unwrap();
                    file.set_len(length).unwrap();
                }
            }
            let log = open(&disk);
            assert!(!log.health().damage.is_empty(), "{rounds} rounds, {length:?}");
        }
    }
}
