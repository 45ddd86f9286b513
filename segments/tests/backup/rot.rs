//! Disks that change bytes of files without an error: what the next backups have, and what is restored.

use quipu_segments::{VerifiedBackup, verify_backup_on};

use super::*;

/// Restores what is left.
pub(super) fn restore_rest(disk: &SimDisk, copy: &str, data: &str) -> Result<Restored, Error> {
    restore_if(IfDamaged::Take, disk, copy, data)
}

pub(super) fn check(disk: &SimDisk, copy: &str) -> VerifiedBackup {
    verify_backup_on(disk, Path::new(copy), &Progress::default()).unwrap()
}

/// The first file of [`TOPIC`]'s partition 0 in a copy, with this ending.
fn first(log: &Log, copy: &str, extension: &str) -> PathBuf {
    let id = log.topic(TOPIC).unwrap().id().0;
    PathBuf::from(format!("{copy}/topics/{id}/0/{:020}.{extension}", 0))
}

/// The same in the log.
fn first_of_log(extension: &str) -> PathBuf {
    PathBuf::from(format!("{DIR}/topics/{TOPIC}/0/{:020}.{extension}", 0))
}

/// Changes a bit in the middle of a file, and no time of it.
fn flip(disk: &SimDisk, path: &Path) {
    let length = disk.contents(path).unwrap().len() as u64;
    disk.damage(path, length / 2, 0x10);
}

fn refused(result: Result<Restored, Error>, disk: &SimDisk, data: &str) -> String {
    let Err(Error::Directory(why)) = result else {
        panic!("{result:?}")
    };
    assert!(!disk.exists(Path::new(data)).unwrap());
    why
}

/// The values of a partition that can be read, whatever is damaged between them.
pub(super) fn readable(log: &Log, index: u32) -> Vec<u8> {
    let partition = partition(log, index);
    let (mut at, end) = (
        partition.positions().log_start_offset,
        partition.positions().end_offset,
    );
    let mut found = Vec::new();
    while at < end {
        match partition.read(support::read_from(at, 1 << 20)) {
            Ok(fetched) => {
                found.extend(support::values_in(&fetched).iter().map(|(_, value)| value[0]));
                at = fetched.next_offset;
            }
            Err(Error::Damaged { damaged_until, .. }) => at = damaged_until,
            Err(error) => panic!("{error}"),
        }
    }
    found
}

pub(super) const ALL: std::ops::Range<u8> = 0..20;

#[test]
fn a_file_that_rots_in_a_backup_is_copied_anew_from_the_log() {
    for extension in ["log", "index", "timeindex"] {
        let (disk, log) = filled(1);
        backup(&log, FAR, "mon").unwrap();
        let rotten = first(&log, "/other/backups/mon", extension);
        flip(&disk, &rotten);
        let tuesday = backup(&log, FAR, "tue").unwrap();
        assert_eq!((tuesday.state, tuesday.damaged_files), (BackupState::Done, 0));
        let wednesday = backup(&log, FAR, "wed").unwrap();
        // What was copied anew is whole, so it is shared from then on.
        assert!(
            wednesday.copied_bytes < tuesday.copied_bytes,
            "{tuesday:?} {wednesday:?}"
        );
        assert!(wednesday.copied_bytes < 1 << 10, "{wednesday:?}");
        for name in ["tue", "wed"] {
            assert_eq!(check(&disk, &format!("/other/backups/{name}")).findings, []);
            let data = format!("/new-{name}");
            let restored = restore_at(&disk, &format!("/other/backups/{name}"), &data).unwrap();
            assert_eq!(restored.findings, []);
            let new = open_at(&disk, &data).unwrap();
            assert_eq!(
                [values(&new, 0), values(&new, 1)],
                [values(&log, 0), values(&log, 1)]
            );
        }
        let why = refused(restore_at(&disk, "/other/backups/mon", "/new"), &disk, "/new");
        assert!(why.contains(&rotten.display().to_string()), "{why}");
        assert!(why.contains("--damaged"), "{why}");
    }
}

#[test]
fn a_file_that_cannot_be_read_in_a_backup_is_copied_anew_from_the_log() {
    let (disk, log) = filled(1);
    backup(&log, FAR, "mon").unwrap();
    // Its link in the next backup is what is read.
    let name = format!("tue/topics/{}/0/{:020}.log", log.topic(TOPIC).unwrap().id().0, 0);
    disk.fail(Fault::once(IoKind::Read, 0).on(&name));
    let made = backup(&log, FAR, "tue").unwrap();
    assert_eq!(disk.failed_calls(), 1);
    assert_eq!(made.damaged_files, 0);
    restore_at(&disk, "/other/backups/tue", "/new").unwrap();
    let new = open_at(&disk, "/new").unwrap();
    assert_eq!(values(&new, 0), values(&log, 0));
}

#[test]
fn a_file_that_rots_in_the_log_is_in_later_backups_as_it_is_and_they_say_so() {
    let (disk, log) = filled(1);
    backup(&log, NEAR, "mon").unwrap();
    // The same file as that of the backup.
    flip(&disk, &first_of_log("log"));
    for name in ["tue", "wed"] {
        let made = backup(&log, NEAR, name).unwrap();
        assert_eq!(
            (made.state, made.damaged_files),
            (BackupState::Done, 1),
            "{made:?}"
        );
        assert!(made.copied_bytes < 8 << 10, "{made:?}");
        let copy = format!("{NEAR}/{name}");
        let restored = restore_at(&disk, &copy, &format!("/new-{name}")).unwrap();
        assert_eq!(restored.findings, check(&disk, &copy).findings);
        let [lost] = &restored.findings[..] else {
            panic!("{restored:?}")
        };
        assert!(
            lost.is_damage && lost.what.contains("when the backup was made"),
            "{lost:?}"
        );
        assert_eq!(lost.partition, Some(format!("{TOPIC}/0")));
        let (from, until) = lost.offsets.unwrap();
        let new = open_at(&disk, &format!("/new-{name}")).unwrap();
        let mut left: Vec<u8> = ALL.collect();
        left.retain(|number| !(from.get()..until.get()).contains(&u64::from(*number)));
        assert!(left.len() >= 15, "{lost:?}");
        assert_eq!(readable(&new, 0), left);
        assert_eq!(values(&new, 1), values(&log, 1));
    }
    // Of the first one nobody knows whether it was whole: it is not what it says.
    let why = refused(restore_at(&disk, "/quipu/backups/mon", "/new"), &disk, "/new");
    assert!(why.contains(".log: its checksum"), "{why}");

    // Once the file is mended, so are the backups.
    flip(&disk, &first_of_log("log"));
    let made = backup(&log, NEAR, "thu").unwrap();
    assert_eq!(made.damaged_files, 0);
    assert_eq!(check(&disk, "/quipu/backups/thu").findings, []);
}

#[test]
fn of_a_rotten_file_of_the_log_the_copy_in_an_earlier_backup_is_used() {
    let (disk, log) = filled(1);
    // All segments are full, and the last is not closed: so it is copied, and not linked.
    backup(&log, NEAR, "mon").unwrap();
    append(&log, &[0, 1], &[20; 700]).unwrap();
    let names = disk.list(Path::new(&format!("{DIR}/topics/{TOPIC}/0"))).unwrap();
    let logs: Vec<_> = names
        .iter()
        .filter(|entry| entry.name.ends_with(".log"))
        .collect();
    let closed = &logs[logs.len() - 2].name;
    let shared = first(&log, "/quipu/backups/mon", "log").with_file_name(closed);
    assert_eq!(
        disk.contents(&shared).map(|all| all.len() as u64),
        Some(logs[logs.len() - 2].len)
    );
    flip(
        &disk,
        &Path::new(DIR).join("topics").join(TOPIC).join("0").join(closed),
    );
    let made = backup(&log, NEAR, "tue").unwrap();
    assert_eq!(made.damaged_files, 0);
    restore_at(&disk, "/quipu/backups/tue", "/new").unwrap();
    let new = open_at(&disk, "/new").unwrap();
    assert_eq!(values(&new, 0).len(), 21);
}

#[test]
fn a_log_that_is_mended_from_an_old_backup_is_not_taken_for_the_damaged_one() {
    let (disk, log) = filled(1);
    backup(&log, FAR, "mon").unwrap();
    // Both rot: only then the damage gets into a backup on another disk.
    let in_copy = first(&log, "/other/backups/mon", "log");
    for path in [&first_of_log("log"), &in_copy] {
        flip(&disk, path);
    }
    for name in ["tue", "wed"] {
        assert_eq!(backup(&log, FAR, name).unwrap().damaged_files, 1);
    }
    flip(&disk, &first_of_log("log"));
    assert_eq!(backup(&log, FAR, "thu").unwrap().damaged_files, 0);
    restore_at(&disk, "/other/backups/thu", "/new").unwrap();
    assert_eq!(values(&open_at(&disk, "/new").unwrap(), 0), values(&log, 0));
}

#[test]
fn one_damaged_file_costs_only_its_own_records_when_the_rest_is_restored() {
    let (disk, log) = filled(1);
    backup(&log, FAR, "a").unwrap();
    let copy = Path::new(FAR).join("a");
    let aside = Path::new("/aside");
    let mut number = 0;
    for path in files(&disk, &copy) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("backup.") || name == "contents.json" {
            continue;
        }
        for how in ["flipped", "cut", "missing"] {
            let whole = disk.contents(&path).unwrap();
            disk.rename(&path, aside).unwrap();
            let length = match how {
                "flipped" => whole.len(),
                "cut" => whole.len() / 2,
                _ => 0,
            };
            if how != "missing" {
                let file = disk.open(&path, quipu_segments::OpenMode::Create).unwrap();
                file.write_all_at(&[std::io::IoSlice::new(&whole[..length])], 0)
                    .unwrap();
            }
            if how == "flipped" {
                flip(&disk, &path);
            }
            let what = format!("{how} {}", path.display());
            let why = refused(restore_at(&disk, "/other/backups/a", "/new"), &disk, "/new");
            assert!(why.contains(&name), "{what}: {why}");

            let data = format!("/rest-{number}");
            number += 1;
            let restored = restore_rest(&disk, "/other/backups/a", &data).unwrap();
            assert_eq!(
                restored.findings,
                check(&disk, "/other/backups/a").findings,
                "{what}"
            );
            assert!(
                restored.findings.iter().all(|found| found.path == path),
                "{what}: {restored:?}"
            );
            assert!(!restored.findings.is_empty(), "{what}");
            let new = open_at(&disk, &data).unwrap();
            let lost: Vec<_> = restored
                .findings
                .iter()
                .filter_map(|found| Some((found.partition.clone()?, found.offsets?)))
                .collect();
            assert_eq!(lost.is_empty(), !name.ends_with(".log"), "{what}: {restored:?}");
            for index in [0, 1] {
                let partition = format!("{TOPIC}/{index}");
                let is_lost = |number: u64| {
                    let mut lost = lost.iter().filter(|(name, _)| *name == partition);
                    lost.any(|(_, (from, until))| (from.get()..until.get()).contains(&number))
                };
                let left: Vec<u8> = ALL.filter(|number| !is_lost(u64::from(*number))).collect();
                assert!(left.len() >= 15, "{what}: {restored:?}");
                assert_eq!(readable(&new, index), left, "{what}");
            }
            // Lost records are found when they are read, and a lost state at the start.
            let damage = new.health().damage;
            assert_eq!(damage.is_empty(), name != "state", "{what}: {damage:?}");
            let state = new.state_get(b"group/a");
            assert_eq!(state.is_none(), name == "state", "{what}");
            // It goes on.
            append_one(&new, &super::partition(&new, 0), b"new").unwrap();
            new.close().unwrap();
            drop(new);
            disk.remove_dir_all(Path::new(&data)).unwrap();
            if how != "missing" {
                disk.remove_file(&path).unwrap();
            }
            disk.rename(aside, &path).unwrap();
        }
    }
    assert!(number > 30, "{number}");
    let restored = restore_rest(&disk, "/other/backups/a", "/new").unwrap();
    assert_eq!(restored.findings, []);
}

#[test]
fn a_refusal_names_the_first_files_and_where_the_others_are_named() {
    let (disk, log) = filled(1);
    backup(&log, FAR, "a").unwrap();
    let all = files(&disk, &Path::new(FAR).join("a"));
    let logs = all
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "log"));
    let logs: Vec<_> = logs.collect();
    assert!(logs.len() > 6, "{logs:?}");
    for path in &logs {
        flip(&disk, path);
    }
    let why = refused(restore_at(&disk, "/other/backups/a", "/new"), &disk, "/new");
    assert_eq!(why.matches(".log: its checksum").count(), 5, "{why}");
    let more = format!(
        "{} more, which quipu verify /other/backups/a names",
        logs.len() - 5
    );
    assert!(why.contains(&more), "{why}");
    assert_eq!(check(&disk, "/other/backups/a").findings.len(), logs.len());
}
