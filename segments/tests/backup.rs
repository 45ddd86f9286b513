//! Backups of an open log, and what is restored from them: what is shared, what is refused, what a full disk does.

#![allow(
    clippy::disallowed_methods,
    reason = "the tests look at files and damage them on purpose"
)]

#[path = "crash/hook.rs"]
#[allow(dead_code, reason = "the crash tests use the rest")]
mod hook;
#[path = "backup/lost.rs"]
mod lost;
#[path = "backup/rot.rs"]
mod rot;
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_segments::sim::{Fault, FaultError, IoKind, SimClock, SimDisk};
use quipu_segments::{
    Backup, BackupState, Disk, Error, IfDamaged, Log, Offset, Options, Progress, RealDisk, Restored,
    StateChange, SystemClock, TopicSettings, TopicSpec, restore, restore_on,
};
use support::{
    DIR, NOW, TOPIC, append, append_one, open, options, partition, set_state, spec, start, store, values,
};

/// On the file system of the log, and on another one.
const NEAR: &str = "/quipu/backups";
const FAR: &str = "/other/backups";

fn backup(log: &Log, dir: &str, name: &str) -> Result<Backup, Error> {
    log.backup(Path::new(dir), name, &Progress::default())
}

fn restore_at(disk: &SimDisk, copy: &str, data: &str) -> Result<Restored, Error> {
    restore_if(IfDamaged::Refuse, disk, copy, data)
}

fn restore_if(if_damaged: IfDamaged, disk: &SimDisk, copy: &str, data: &str) -> Result<Restored, Error> {
    let disk = Arc::new(disk.clone());
    let (clock, progress) = (SimClock::new(NOW), Progress::default());
    restore_on(
        disk,
        &clock,
        Path::new(copy),
        Path::new(data),
        if_damaged,
        &progress,
    )
}

fn open_at(disk: &SimDisk, data: &str) -> Result<Log, Error> {
    let disk = Arc::new(disk.clone());
    Log::open_with(disk, Arc::new(SimClock::new(NOW)), Path::new(data), options())
}

/// Every file below a directory.
fn files(disk: &SimDisk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            found.extend(files(disk, &path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A log with several segments, closed and active, in two partitions.
fn filled(seed: u64) -> (SimDisk, Log) {
    let (disk, log) = start(seed, spec(2, 4 << 10));
    for number in 0..20_u8 {
        append(&log, &[0, 1], &[number; 700]).unwrap();
    }
    set_state(&log, "group/a", b"5").unwrap();
    (disk, log)
}

#[test]
fn a_restored_directory_has_what_was_there_and_another_id_and_goes_on() {
    for dir in [NEAR, FAR] {
        let (disk, log) = filled(1);
        let before = [values(&log, 0), values(&log, 1)];
        let ids = log.topic(TOPIC).unwrap().id();
        let made = backup(&log, dir, "monday").unwrap();
        assert_eq!(made.state, BackupState::Done);
        append(&log, &[0, 1], b"later").unwrap();
        set_state(&log, "group/a", b"6").unwrap();

        let restored = restore_at(&disk, &format!("{dir}/monday"), "/new").unwrap();
        assert_eq!((restored.topics, restored.files), (1, made.files));
        // Before its first start it has no journal, and is checked all the same.
        let checked = quipu_segments::verify_on(&disk, Path::new("/new"), &mut |_| {}).unwrap();
        assert!(checked.findings.is_empty(), "{:?}", checked.findings);
        let new = open_at(&disk, "/new").unwrap();
        assert_eq!(new.health().damage, Vec::<String>::new());
        assert_eq!(new.directory_id(), restored.directory_id);
        assert_ne!(new.directory_id(), log.directory_id());
        assert_eq!([values(&new, 0), values(&new, 1)], before);
        assert_eq!(new.topic(TOPIC).unwrap().id(), ids);
        assert_eq!(new.state_get(b"group/a").as_deref(), Some(&b"5"[..]));
        // What it gives out from here on, it gives at the next offset, and keeps.
        assert_eq!(append_one(&new, &partition(&new, 0), b"new").unwrap(), 20);
        new.close().unwrap();
        drop(new);
        let new = open_at(&disk, "/new").unwrap();
        assert_eq!(values(&new, 0).last().unwrap(), b"new");
        // Nothing of this has reached the copied log or the copy.
        assert_eq!(values(&log, 0).last().unwrap(), b"later");
        restore_at(&disk, &format!("{dir}/monday"), "/second").unwrap();
        let second = open_at(&disk, "/second").unwrap();
        assert_eq!([values(&second, 0), values(&second, 1)], before);
    }
}

#[test]
fn no_topic_that_is_made_after_a_restore_has_the_number_of_one_that_was_made_after_the_copy() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "a").unwrap();
    let lost = log.create_topic("lost", spec(1, 4 << 10)).unwrap().id();
    restore_at(&disk, "/quipu/backups/a", "/new").unwrap();
    let new = open_at(&disk, "/new").unwrap();
    let made = new.create_topic("made", spec(1, 4 << 10)).unwrap().id();
    assert!(made.0 > lost.0 + 1000, "{made:?} after {lost:?}");
}

#[test]
fn a_second_backup_writes_only_what_is_new() {
    for dir in [NEAR, FAR] {
        let (_disk, log) = filled(1);
        let first = backup(&log, dir, "a").unwrap();
        let near = dir == NEAR;
        assert_eq!(first.copied_bytes < first.bytes, near, "{first:?}");
        append(&log, &[0], b"a little more").unwrap();
        let second = backup(&log, dir, "b").unwrap();
        // The active segment of one partition, at most the new indexes, and the state.
        assert!(second.copied_bytes < 8 << 10, "{second:?}");
        assert!(second.bytes > 30_000, "{second:?}");
        // A removed one takes nothing from the others.
        log.remove_backup(Path::new(dir), "a").unwrap();
        let third = backup(&log, dir, "c").unwrap();
        assert!(third.copied_bytes < 1 << 10, "{third:?}");
    }
}

#[test]
fn on_a_real_file_system_unchanged_segments_are_the_same_files() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (data, backups) = (dir.path().join("data"), dir.path().join("backups"));
    let log = Log::open(&data, Options::default()).unwrap();
    let settings = TopicSettings::segments_of(4 << 10);
    log.create_topic(TOPIC, TopicSpec::new(1, settings)).unwrap();
    for number in 0..20_u8 {
        let request = support::request(&log, &[0], NOW, &[number; 700]);
        log.append(request).unwrap().wait().unwrap();
    }
    for name in ["a", "b"] {
        log.backup(&backups, name, &Progress::default()).unwrap();
    }
    let id = log.topic(TOPIC).unwrap().id().0;
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    let names = log_names(&data.join("topics").join(TOPIC).join("0"));
    let copied = |name: &str, file: &str| backups.join(name).join(format!("topics/{id}/0/{file}"));
    let (last, closed) = names.split_last().unwrap();
    assert!(closed.len() > 2, "{names:?}");
    for name in closed {
        let original = inode(data.join("topics").join(TOPIC).join("0").join(name));
        assert_eq!(inode(copied("a", name)), original, "{name}");
        assert_eq!(inode(copied("b", name)), original, "{name}");
    }
    // The active one is written to, so the copy is another file; it has not changed between the backups.
    let original = data.join("topics").join(TOPIC).join("0").join(last);
    assert_ne!(inode(copied("a", last)), inode(original.clone()));
    assert_eq!(inode(copied("a", last)), inode(copied("b", last)));
    let expected = values(&log, 0);
    drop(log);

    let new = dir.path().join("new");
    restore(&backups.join("b"), &new, IfDamaged::Refuse, &Progress::default()).unwrap();
    // No file of the new directory is one of the copy's, and the times stay, for retention.
    let first = new.join("topics").join(TOPIC).join("0").join(&closed[0]);
    let was = std::fs::metadata(copied("b", &closed[0])).unwrap();
    let is = std::fs::metadata(&first).unwrap();
    assert_ne!(is.ino(), was.ino());
    let ms = |metadata: &std::fs::Metadata| metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    assert_eq!(ms(&is), ms(&was));
    let new = Log::open(&new, Options::default()).unwrap();
    assert_eq!(values(&new, 0), expected);
}

fn log_names(dir: &Path) -> Vec<String> {
    let entries = RealDisk::new().list(dir).unwrap().into_iter();
    let names = entries.map(|entry| entry.name);
    names.filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn a_copy_in_which_any_file_is_damaged_or_missing_is_refused_and_nothing_is_written() {
    let (disk, log) = filled(1);
    backup(&log, FAR, "a").unwrap();
    let copy = Path::new(FAR).join("a");
    let all = files(&disk, &copy);
    assert!(all.len() > 10, "{all:?}");
    for path in &all {
        let length = disk.contents(path).unwrap().len() as u64;
        for position in [0, length / 2, length - 1] {
            disk.damage(path, position, 0x10);
            let refused = restore_at(&disk, "/other/backups/a", "/new");
            assert!(
                matches!(refused, Err(Error::Directory(_))),
                "{}, byte {position}: {refused:?}",
                path.display()
            );
            assert!(!disk.exists(Path::new("/new")).unwrap(), "{}", path.display());
            disk.damage(path, position, 0x10);
        }
        let aside = Path::new("/aside");
        disk.rename(path, aside).unwrap();
        let refused = restore_at(&disk, "/other/backups/a", "/new");
        assert!(
            matches!(refused, Err(Error::Directory(_))),
            "{}: {refused:?}",
            path.display()
        );
        disk.rename(aside, path).unwrap();
    }
    restore_at(&disk, "/other/backups/a", "/new").unwrap();
}

#[test]
fn only_an_empty_directory_is_restored_into() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "a").unwrap();
    for data in [DIR, NEAR] {
        let before = files(&disk, Path::new(data));
        let refused = restore_at(&disk, "/quipu/backups/a", data);
        assert!(matches!(refused, Err(Error::Directory(_))), "{refused:?}");
        assert_eq!(files(&disk, Path::new(data)), before);
    }
    disk.create_dir_all(Path::new("/empty")).unwrap();
    restore_at(&disk, "/quipu/backups/a", "/empty").unwrap();
    // Before the backup is read.
    let progress = Progress::default();
    let refused = restore_on(
        Arc::new(disk.clone()),
        &SimClock::new(NOW),
        Path::new("/quipu/backups/a"),
        Path::new("/empty"),
        IfDamaged::Refuse,
        &progress,
    );
    assert!(matches!(refused, Err(Error::Directory(_))), "{refused:?}");
    assert_eq!(progress.bytes(), 0);
}

#[test]
fn a_restore_that_was_cut_short_is_never_opened() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "a").unwrap();
    drop(log);
    let begun = disk.calls();
    restore_at(&disk.after_kill(), "/quipu/backups/a", "/new").unwrap();
    let _ = begun;
    for stop in (1..400).step_by(7) {
        let (disk, log) = filled(2);
        backup(&log, NEAR, "a").unwrap();
        drop(log);
        disk.stop_at(stop);
        if restore_at(&disk, "/quipu/backups/a", "/new").is_ok() {
            break;
        }
        let disk = disk.after_kill();
        match open_at(&disk, "/new") {
            Err(Error::Directory(_)) => {}
            Err(error) => panic!("stop {stop}: {error}"),
            Ok(log) => {
                let topics = log.topics().len();
                let whole = topics == 1 && values(&log, 0).len() == 20 && values(&log, 1).len() == 20;
                assert!(topics == 0 || whole, "stop {stop}: a part is served");
            }
        }
    }
}

#[test]
fn a_backup_is_not_opened_as_a_data_directory() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "a").unwrap();
    let before = files(&disk, Path::new("/quipu/backups/a"));
    let refused = open_at(&disk, "/quipu/backups/a").err().unwrap().to_string();
    assert!(refused.contains("quipu restore"), "{refused}");
    let mut after = files(&disk, Path::new("/quipu/backups/a"));
    after.retain(|path| !path.ends_with("LOCK"));
    assert_eq!(after, before);
}

#[test]
fn a_name_is_taken_once_unless_its_backup_failed() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "a").unwrap();
    assert!(matches!(backup(&log, NEAR, "a"), Err(Error::BackupExists(_))));
    disk.fail(Fault::once(IoKind::Sync, 3).on("/backups/"));
    assert!(backup(&log, NEAR, "b").is_err());
    let failed = log.find_backup(Path::new(NEAR), "b").unwrap().unwrap();
    assert_eq!(failed.state, BackupState::Failed);
    assert!(failed.error.is_some());
    assert!(restore_at(&disk, "/quipu/backups/b", "/new").is_err());
    backup(&log, NEAR, "b").unwrap();
    restore_at(&disk, "/quipu/backups/b", "/new").unwrap();
    let names: Vec<_> = log
        .backups(Path::new(NEAR))
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    log.remove_backup(Path::new(NEAR), "a").unwrap();
    assert!(matches!(
        log.remove_backup(Path::new(NEAR), "a"),
        Err(Error::NotFound(_))
    ));
    assert_eq!(log.find_backup(Path::new(NEAR), "a").unwrap(), None);
}

#[test]
fn a_directory_that_is_no_backup_is_left_alone() {
    let (disk, log) = filled(1);
    disk.create_dir_all(Path::new("/quipu/backups/mine/notes"))
        .unwrap();
    assert!(matches!(backup(&log, NEAR, "mine"), Err(Error::Directory(_))));
    assert!(matches!(
        log.remove_backup(Path::new(NEAR), "mine"),
        Err(Error::Directory(_))
    ));
    assert!(disk.exists(Path::new("/quipu/backups/mine/notes")).unwrap());
    for name in ["../data", "a/b", ".", ".."] {
        assert!(
            matches!(backup(&log, NEAR, name), Err(Error::Invalid(_))),
            "{name}"
        );
        assert!(
            matches!(log.remove_backup(Path::new(NEAR), name), Err(Error::Invalid(_))),
            "{name}"
        );
        assert!(
            matches!(log.find_backup(Path::new(NEAR), name), Err(Error::Invalid(_))),
            "{name}"
        );
    }
    assert_eq!(values(&log, 0).len(), 20);
}

#[test]
fn the_files_of_another_tool_in_the_place_of_backups_are_left_alone() {
    // The last is what is left of a backup that was cut short as it began; others may have more beside it.
    for name in [
        "backup.sql.gz",
        "backup.json.gz",
        "backup.new/",
        "backup.new+dump",
    ] {
        let (disk, log) = filled(1);
        let copy = Path::new(FAR).join("2026-02-01");
        disk.create_dir_all(&copy).unwrap();
        for part in name.split('+') {
            match part.strip_suffix('/') {
                Some(dir) => disk.create_dir_all(&copy.join(dir)).unwrap(),
                None => {
                    let file = disk.open(&copy.join(part), quipu_segments::OpenMode::Create);
                    file.unwrap();
                }
            }
        }
        let before = disk.list(&copy).unwrap();
        let refused = backup(&log, FAR, "2026-02-01");
        assert!(matches!(refused, Err(Error::Directory(_))), "{name}: {refused:?}");
        let refused = log.remove_backup(Path::new(FAR), "2026-02-01");
        assert!(matches!(refused, Err(Error::Directory(_))), "{name}: {refused:?}");
        assert_eq!(disk.list(&copy).unwrap(), before, "{name}");
    }
}

#[test]
fn what_a_backup_leaves_that_was_cut_short_as_it_began_is_removed() {
    for names in [&[][..], &["backup.new"]] {
        let (disk, log) = filled(1);
        let copy = Path::new(FAR).join("a");
        disk.create_dir_all(&copy).unwrap();
        for name in names {
            disk.open(&copy.join(name), quipu_segments::OpenMode::Create)
                .unwrap();
        }
        assert_eq!(backup(&log, FAR, "a").unwrap().state, BackupState::Done);
    }
}

#[test]
fn only_their_owner_reads_the_directories_that_are_made() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let [data, backups, new] = ["data", "backups", "new"].map(|name| dir.path().join(name));
    let log = Log::open(&data, Options::default()).unwrap();
    log.backup(&backups, "a", &Progress::default()).unwrap();
    restore(&backups.join("a"), &new, IfDamaged::Refuse, &Progress::default()).unwrap();
    for made in [&data, &backups.join("a"), &new] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
    // One that somebody else has made stays as it is.
    let theirs = dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::set_permissions(&theirs, PermissionsExt::from_mode(0o750)).unwrap();
    restore(
        &backups.join("a"),
        &theirs,
        IfDamaged::Refuse,
        &Progress::default(),
    )
    .unwrap();
    assert_eq!(mode(&theirs), 0o750);
}

#[test]
fn a_disk_that_is_full_for_the_backup_stops_no_append() {
    let (disk, log) = filled(1);
    disk.fail(
        Fault::once(IoKind::Write, 2)
            .on("/backups/")
            .with(FaultError::Full)
            .onwards(),
    );
    assert!(matches!(backup(&log, FAR, "a"), Err(Error::StorageFull)));
    append(&log, &[0, 1], b"goes on").unwrap();
    assert!(!log.health().storage_full);
    disk.clear_faults();
    let failed = log.find_backup(Path::new(FAR), "a").unwrap().unwrap();
    assert_eq!(failed.state, BackupState::Failed);
    // Its files take no space any more.
    assert!(!disk.exists(Path::new("/other/backups/a/topics")).unwrap());
    assert_eq!(backup(&log, FAR, "a").unwrap().state, BackupState::Done);
}

#[test]
fn a_cancelled_backup_is_no_backup() {
    let (disk, log) = filled(1);
    let progress = Progress::default();
    progress.cancel();
    let cancelled = log.backup(Path::new(FAR), "a", &progress);
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    assert!(restore_at(&disk, "/other/backups/a", "/new").is_err());
}

#[test]
fn a_partition_whose_sync_has_failed_is_not_copied() {
    let (disk, log) = filled(1);
    append(&log, &[0], b"not synced").unwrap();
    disk.fail(Fault::once(IoKind::Sync, 0).on(".log"));
    let refused = backup(&log, NEAR, "a");
    assert!(matches!(refused, Err(Error::PartitionFailed(_))), "{refused:?}");
    drop(log);
    let log = open(&disk.after_kill());
    backup(&log, NEAR, "a").unwrap();
}

#[test]
fn records_and_state_of_one_request_are_in_a_backup_together() {
    let (disk, log) = start(1, spec(3, 4 << 10));
    for number in 0..30_u8 {
        let mut request = support::request(&log, &[0, 1, 2], NOW, &[number; 300]);
        request.state = vec![StateChange::set("last", vec![number])];
        store(&log, request).unwrap();
        let name = format!("b{number}");
        backup(&log, [NEAR, FAR][usize::from(number % 2)], &name).unwrap();
    }
    for number in 0..30_u8 {
        let dir = [NEAR, FAR][usize::from(number % 2)];
        let data = format!("/new-{number}");
        restore_at(&disk, &format!("{dir}/b{number}"), &data).unwrap();
        let log = open_at(&disk, &data).unwrap();
        assert_eq!(log.state_get(b"last").as_deref(), Some(&[number][..]));
        for index in 0..3 {
            assert_eq!(values(&log, index).len(), usize::from(number) + 1);
            assert_eq!(partition(&log, index).positions().log_start_offset, Offset::ZERO);
        }
    }
}

#[test]
fn the_clock_of_the_system_is_enough_to_restore() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "a").unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let progress = Progress::default();
    let copy = Path::new("/quipu/backups/a");
    let restored = restore_on(
        disk,
        &SystemClock::new(),
        copy,
        Path::new("/new"),
        IfDamaged::Refuse,
        &progress,
    )
    .unwrap();
    // Three passes, and the bytes of the state are not counted.
    assert_eq!(progress.bytes(), 3 * restored.bytes);
}

#[test]
fn a_topic_that_is_made_again_during_a_backup_is_not_mixed_up_with_the_deleted_one() {
    for dir in [NEAR, FAR] {
        let disk = SimDisk::new(1);
        let hooked = hook::hooked(disk.clone());
        let log = support::try_open_with(Arc::new(hooked.clone()), &SimClock::new(NOW), options()).unwrap();
        log.create_topic(TOPIC, spec(3, 4 << 10)).unwrap();
        for number in 0..20_u8 {
            append(&log, &[0, 1, 2], &[number; 700]).unwrap();
        }
        let (busy, mut calls) = (log.clone(), 0);
        hooked.0.in_backup(move || {
            calls += 1;
            // In the middle of the files.
            if calls == 12 {
                busy.delete_topic(TOPIC, Vec::new()).unwrap();
                busy.create_topic(TOPIC, spec(3, 4 << 10)).unwrap();
                for number in 100..120_u8 {
                    append(&busy, &[0, 1, 2], &[number; 700]).unwrap();
                }
            }
            true
        });
        backup(&log, dir, "a").unwrap();
        hooked.0.unhook();
        let id = log.topic(TOPIC).unwrap().id();
        restore_at(&disk, &format!("{dir}/a"), "/new").unwrap();
        let new = open_at(&disk, "/new").unwrap();
        assert_eq!(new.health().damage, Vec::<String>::new());
        assert_eq!(new.topic(TOPIC).unwrap().id(), id);
        for index in 0..3 {
            let first: Vec<u8> = values(&new, index).iter().map(|value| value[0]).collect();
            assert_eq!(first, (100..120).collect::<Vec<u8>>(), "partition {index}");
        }
    }
}

#[test]
fn backups_under_load_hold_every_request_whole_with_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&dir.path().join("data"), Options::default()).unwrap();
    let settings = TopicSettings::segments_of(16 << 10);
    // Far apart: to look at all partitions takes longer than a round does.
    let indexes = [0, 1000, 1999];
    log.create_topic(TOPIC, TopicSpec::new(2000, settings)).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let backups = dir.path().join("backups");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                let mut request = support::request(&log, &indexes, NOW, &number.to_be_bytes());
                request.state = vec![StateChange::set("last", number.to_be_bytes().to_vec())];
                log.append(request).unwrap().wait().unwrap();
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        while log.state_get(b"last").is_none() {
            std::thread::yield_now();
        }
        for number in 0..10 {
            let name = format!("b{number}");
            log.backup(&backups, &name, &Progress::default()).unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for number in 0..10 {
        let data = dir.path().join(format!("new{number}"));
        restore(
            &backups.join(format!("b{number}")),
            &data,
            IfDamaged::Refuse,
            &Progress::default(),
        )
        .unwrap();
        let new = Log::open(&data, Options::default()).unwrap();
        let last = new.state_get(b"last").unwrap();
        let last = u64::from_be_bytes(last[..].try_into().unwrap());
        for index in indexes {
            let stored = values(&new, index);
            assert_eq!(
                stored.len() as u64,
                last + 1,
                "backup {number}, partition {index}"
            );
        }
        new.close().unwrap();
        std::fs::remove_dir_all(&data).unwrap();
    }
}
