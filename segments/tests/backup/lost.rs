//! Files of the log that are missing or too short: what an earlier backup gives back, and what backups say of the rest.

use quipu_segments::OpenMode;

use super::rot::{ALL, check, readable, restore_rest};
use super::*;

/// How a file of the log is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Missing,
    Short,
}

/// Which of the files of a partition.
#[derive(Clone, Copy, Debug)]
enum Which {
    First,
    Middle,
    Last,
}

/// The log files in a directory, with their bases, in order.
fn logs_in(disk: &SimDisk, dir: &Path) -> Vec<(u64, PathBuf)> {
    let names = disk.list(dir).unwrap().into_iter().map(|entry| entry.name);
    let logs = names.filter(|name| name.ends_with(".log"));
    logs.map(|name| (name[..20].parse().unwrap(), dir.join(name)))
        .collect()
}

/// Loses a file of partition 0, and returns the offsets that are lost: all records are of one size.
fn lose(disk: &SimDisk, dir: &Path, which: Which, how: How) -> (u64, u64) {
    let logs = logs_in(disk, dir);
    assert!(logs.len() > 2, "{logs:?}");
    let index = match which {
        Which::First => 0,
        Which::Middle => logs.len() / 2,
        Which::Last => logs.len() - 1,
    };
    let (base, path) = &logs[index];
    let until = logs.get(index + 1).map_or(u64::from(ALL.end), |(next, _)| *next);
    match how {
        How::Missing => {
            disk.remove_file(path).unwrap();
            (*base, until)
        }
        How::Short => {
            let length = disk.contents(path).unwrap().len() as u64;
            let file = disk.open(path, OpenMode::ReadWrite).unwrap();
            file.set_len(length / 2).unwrap();
            let left = (until - base) / 2;
            assert!(left > 0);
            (base + left, until)
        }
    }
}

fn dir_in_log() -> PathBuf {
    Path::new(DIR).join("topics").join(TOPIC).join("0")
}

fn offsets((from, until): (u64, u64)) -> Option<(Offset, Offset)> {
    Some((Offset::new(from), Offset::new(until)))
}

fn reopened(disk: &SimDisk, log: Log) -> Log {
    log.close().unwrap();
    drop(log);
    open(disk)
}

/// All ways to lose a file, before a backup or before a restart that a backup follows.
fn each_way(test: impl Fn(Which, How, bool)) {
    for which in [Which::First, Which::Middle, Which::Last] {
        for how in [How::Missing, How::Short] {
            for restarts in [false, true] {
                test(which, how, restarts);
            }
        }
    }
}

#[test]
fn what_the_log_has_lost_comes_from_an_earlier_backup() {
    each_way(|which, how, restarts| {
        let (disk, mut log) = filled(1);
        backup(&log, FAR, "mon").unwrap();
        if restarts {
            log.close().unwrap();
        }
        lose(&disk, &dir_in_log(), which, how);
        if restarts {
            log = reopened(&disk, log);
        }
        // The second one has only the first to take it from.
        for name in ["tue", "wed"] {
            let made = backup(&log, FAR, name).unwrap();
            let what = format!("{which:?} {how:?} {restarts} {name}");
            assert_eq!((made.state, made.damaged_files), (BackupState::Done, 0), "{what}");
            let copy = format!("{FAR}/{name}");
            assert_eq!(check(&disk, &copy).findings, [], "{what}");
            let data = format!("/new-{name}");
            assert_eq!(restore_at(&disk, &copy, &data).unwrap().findings, [], "{what}");
            let new = open_at(&disk, &data).unwrap();
            assert_eq!(readable(&new, 0), ALL.collect::<Vec<u8>>(), "{what}");
            assert_eq!(new.health().damaged_ranges, [], "{what}");
            log.remove_backup(Path::new(FAR), "mon")
                .or_else(|error| match error {
                    Error::NotFound(_) => Ok(()),
                    error => Err(error),
                })
                .unwrap();
        }
    });
}

#[test]
fn what_is_lost_is_counted_and_reported_by_every_backup_without_it() {
    each_way(|which, how, restarts| {
        let (disk, mut log) = filled(1);
        if restarts {
            log.close().unwrap();
        }
        let lost = lose(&disk, &dir_in_log(), which, how);
        if restarts {
            log = reopened(&disk, log);
        }
        for name in ["tue", "wed"] {
            let made = backup(&log, FAR, name).unwrap();
            let what = format!("{which:?} {how:?} {restarts} {name}");
            assert_eq!((made.state, made.damaged_files), (BackupState::Done, 1), "{what}");
            let copy = format!("{FAR}/{name}");
            let data = format!("/new-{name}");
            let restored = restore_at(&disk, &copy, &data).unwrap();
            assert_eq!(restored.findings, check(&disk, &copy).findings, "{what}");
            let [found] = &restored.findings[..] else {
                panic!("{what}: {restored:?}")
            };
            assert!(
                found.is_damage && found.what.contains("when the backup was made"),
                "{what}: {found:?}"
            );
            assert_eq!(found.offsets, offsets(lost), "{what}");
            assert_eq!(found.partition, Some(format!("{TOPIC}/0")), "{what}");
            let new = open_at(&disk, &data).unwrap();
            let mut left: Vec<u8> = ALL.collect();
            left.retain(|number| !(lost.0..lost.1).contains(&u64::from(*number)));
            assert_eq!(readable(&new, 0), left, "{what}");
            assert_eq!(values(&new, 1).len(), 20, "{what}");
        }
    });
}

#[test]
fn a_missing_file_is_linked_from_a_backup_on_the_same_disk() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "mon").unwrap();
    lose(&disk, &dir_in_log(), Which::Middle, How::Missing);
    let made = backup(&log, NEAR, "tue").unwrap();
    assert_eq!(made.damaged_files, 0);
    assert!(made.copied_bytes < 1 << 10, "{made:?}");
    // "Keep a week" takes the only other copy.
    log.remove_backup(Path::new(NEAR), "mon").unwrap();
    restore_at(&disk, "/quipu/backups/tue", "/new").unwrap();
    assert_eq!(values(&open_at(&disk, "/new").unwrap(), 0).len(), 20);
}

#[test]
fn of_a_lost_file_an_earlier_backup_gives_what_it_has() {
    for restarts in [false, true] {
        let (disk, mut log) = start(1, spec(1, 4 << 10));
        for number in 0..20_u8 {
            append(&log, &[0], &[number; 700]).unwrap();
            // In the middle of the second file.
            if number == 6 {
                backup(&log, FAR, "mon").unwrap();
            }
        }
        let logs = logs_in(&disk, &dir_in_log());
        let (base, until) = (logs[1].0, logs[2].0);
        assert!(base < 6 && until > 8, "{logs:?}");
        if restarts {
            log.close().unwrap();
        }
        disk.remove_file(&logs[1].1).unwrap();
        if restarts {
            log = reopened(&disk, log);
        }
        assert_eq!(backup(&log, FAR, "tue").unwrap().damaged_files, 1);
        let restored = restore_at(&disk, "/other/backups/tue", "/new").unwrap();
        assert_eq!(restored.findings.len(), 1, "{restored:?}");
        assert_eq!(restored.findings[0].offsets, offsets((7, until)));
        let mut left: Vec<u8> = ALL.collect();
        left.retain(|number| !(7..until).contains(&u64::from(*number)));
        assert_eq!(readable(&open_at(&disk, "/new").unwrap(), 0), left);
    }
}

#[test]
fn a_damaged_file_of_an_earlier_backup_is_not_taken_for_a_lost_one() {
    let (disk, log) = filled(1);
    backup(&log, FAR, "mon").unwrap();
    let topic = log.topic(TOPIC).unwrap().id().0;
    let earlier = logs_in(&disk, &Path::new(FAR).join(format!("mon/topics/{topic}/0")));
    let lost = lose(&disk, &dir_in_log(), Which::Middle, How::Missing);
    let (_, rotten) = &earlier[earlier.len() / 2];
    disk.damage(rotten, 100, 1);
    assert_eq!(backup(&log, FAR, "tue").unwrap().damaged_files, 1);
    let found = check(&disk, "/other/backups/tue").findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].offsets, offsets(lost));
}

#[test]
fn what_the_rest_of_a_damaged_backup_lacks_the_next_backup_counts() {
    for which in [Which::First, Which::Middle, Which::Last] {
        for how in [How::Missing, How::Short] {
            let (disk, log) = filled(1);
            backup(&log, FAR, "a").unwrap();
            let topic = log.topic(TOPIC).unwrap().id().0;
            let copy = Path::new(FAR).join(format!("a/topics/{topic}/0"));
            let lost = lose(&disk, &copy, which, how);
            restore_rest(&disk, "/other/backups/a", "/new").unwrap();
            let new = open_at(&disk, "/new").unwrap();
            let made = backup(&new, FAR, "b").unwrap();
            assert_eq!(made.damaged_files, 1, "{which:?} {how:?}");
            let found = check(&disk, "/other/backups/b").findings;
            assert_eq!(found.len(), 1, "{which:?} {how:?}: {found:?}");
            assert_eq!(found[0].offsets, offsets(lost), "{which:?} {how:?}");
        }
    }
}

#[test]
fn all_files_of_a_partition_can_be_lost() {
    let (disk, log) = filled(1);
    log.close().unwrap();
    disk.remove_dir_all(&dir_in_log()).unwrap();
    let log = reopened(&disk, log);
    assert_eq!(backup(&log, FAR, "tue").unwrap().damaged_files, 1);
    let found = check(&disk, "/other/backups/tue").findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].offsets, offsets((0, 20)));
    restore_at(&disk, "/other/backups/tue", "/new").unwrap();
    let new = open_at(&disk, "/new").unwrap();
    assert_eq!(readable(&new, 0), Vec::<u8>::new());
    assert_eq!(append_one(&new, &partition(&new, 0), b"new").unwrap(), 20);
}

#[test]
fn nothing_is_lost_where_a_log_was_trimmed() {
    let (disk, log) = filled(1);
    for before in [3, 7, 20] {
        partition(&log, 0).trim(Offset::new(before)).unwrap();
        let name = format!("b{before}");
        assert_eq!(backup(&log, FAR, &name).unwrap().damaged_files, 0);
        assert_eq!(check(&disk, &format!("{FAR}/{name}")).findings, []);
    }
}
