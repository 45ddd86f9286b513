//! `quipu backup` and `quipu restore`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::service::Service;
use crate::{ended, quipu, run_offline};

/// A service with ten records, and the directory of its backups.
fn service() -> (Service, TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let backups = dir.path().join("backups");
    let service = Service::start_with(&[("QUIPU_BACKUP_DIR", backups.to_str().unwrap())]);
    service.ok("topic create t --partitions 2");
    service.produce("t", &crate::service::tens(0..10));
    (service, dir, backups)
}

fn restore(backup: &Path, data: &Path) -> crate::Ended {
    run_offline(&format!("restore {} --data {}", backup.display(), data.display()))
}

/// What is in a directory, by name.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_is_restored_to_a_directory_that_serves_what_was_there() {
    let (service, _dir, backups) = service();
    service.ok("consume t --group g --max 4");
    let text = service.run("backup monday").quiet();
    assert!(text.starts_with("the backup monday is done: "), "{text}");
    assert!(text.ends_with(" are new\n"), "{text}");
    // It holds one moment: what comes later is not in it.
    service.produce("t", &crate::service::tens(10..20));
    let done = service.json("backup tuesday");
    assert_eq!(
        (&done["name"], &done["state"]),
        (&"tuesday".into(), &"done".into())
    );
    assert!(done["copied_bytes"].as_u64() <= done["bytes"].as_u64(), "{done}");

    let data = TempDir::new().unwrap();
    let target = data.path().join("data");
    let text = restore(&backups.join("monday"), &target).quiet();
    assert!(text.starts_with("restored 1 topic ("), "{text}");
    let next = format!(": start it with quipu serve --data {}\n", target.display());
    assert!(text.ends_with(&next), "{text}");
    run_offline(&format!("verify {}", target.display())).ok();
    let restored = Service::start_on(data, &[]);
    let mut values = restored.values("consume t");
    values.sort_unstable();
    assert_eq!(values, (0..10).collect::<Vec<_>>());
    assert_eq!(restored.json("lag g")["lag"], 6);

    let other = TempDir::new().unwrap();
    let command = format!("restore {} --output json", backups.join("tuesday").display());
    let answer = run_offline(&format!("{command} --data {}", other.path().display())).quiet();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (&answer["topics"], &answer["started"]),
        (&1.into(), &done["started"])
    );
}

#[test]
fn a_backup_may_be_begun_without_waiting_for_its_end() {
    let (service, _dir, _backups) = service();
    let text = service.run("backup monday --no-wait").quiet();
    assert_eq!(text, "the backup monday has begun\n");
    // One is made at a time: this one waits for nothing but is made, or refused because the first one still is.
    let next = service.run("backup tuesday");
    if next.code != Some(0) {
        next.fails_with("backup-running");
    }
}

#[test]
fn a_backup_that_cannot_be_made_says_why() {
    let (service, _dir, backups) = service();
    service.ok("backup monday");
    let before = names(&backups);
    for (line, part) in [
        ("backup monday", "backup-exists: "),
        ("backup a/b", "invalid-request: "),
        ("backup ..", "invalid-request: "),
        ("backup 'two words'", "invalid-request: "),
    ] {
        service.fails(line, part);
    }
    assert_eq!(names(&backups), before);
    assert_eq!(service.run("backup").code, Some(2));
    assert_eq!(service.run("backup ''").code, Some(2));

    let without = Service::start();
    without.fails("backup monday", "set backup_dir");
    // A directory that cannot be made.
    fs::write(backups.join("file"), "").unwrap();
    let below = backups.join("file/backups");
    let blocked = Service::start_with(&[("QUIPU_BACKUP_DIR", below.to_str().unwrap())]);
    blocked.failed("backup monday");
}

#[test]
fn only_an_administrator_makes_a_backup() {
    let dir = TempDir::new().unwrap();
    let backups = dir.path().join("backups");
    let secret = "the-first-administrator";
    let service = Service::start_with(&[
        ("QUIPU_BACKUP_DIR", backups.to_str().unwrap()),
        ("QUIPU_AUTH", "tokens"),
        ("QUIPU_ADMIN_TOKEN", secret),
    ]);
    let with = |token: &str, line: &str| {
        let mut command = quipu(line);
        ended(
            command
                .env("QUIPU_SERVER", &service.url)
                .env("QUIPU_TOKEN", token),
        )
    };
    let all = "--allow read,write,create,delete,configure,describe --topics '*' --groups '*'";
    let token = with(secret, &format!("token create all {all}")).ok();
    with(token.trim(), "backup monday").fails_with("forbidden: ");
    with("no-token-of-this-server", "backup monday").fails_with("unauthenticated: ");
    service.fails("backup monday", "unauthenticated: ");
    assert!(!backups.join("monday").exists());
    with(secret, "backup monday").ok();
}

#[test]
fn a_restore_that_cannot_be_made_says_why_and_changes_nothing() {
    let (service, dir, backups) = service();
    service.ok("backup monday");
    let monday = backups.join("monday");
    let target = dir.path().join("restored");

    restore(&backups.join("sunday"), &target).fails_with("is not a backup");
    restore(dir.path(), &target).fails_with("is not a backup");
    assert!(!target.exists());

    // A directory that holds something, as that of a server does.
    fs::create_dir(&target).unwrap();
    fs::write(target.join("notes"), "mine").unwrap();
    restore(&monday, &target).fails_with("is not empty (it has notes): choose an empty directory");
    assert_eq!(names(&target), ["notes"]);
    fs::remove_file(target.join("notes")).unwrap();
    let line = format!("restore {}", monday.display());
    assert_eq!(run_offline(&line).code, Some(2), "the new directory is named");

    // A byte of a copy has changed.
    let name = names(&monday.join("topics")).remove(0);
    let log = monday.join(format!("topics/{name}/0/00000000000000000000.log"));
    let whole = fs::read(&log).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&log).unwrap();
    fs::write(&log, bytes).unwrap();
    restore(&monday, &target).fails_with("checksum");
    fs::write(&log, whole).unwrap();
    restore(&monday, &target).ok();
    restore(&monday, &target).fails_with("is not empty");
}

/// Changes a bit in the middle of a file and keeps its time, as a disk that rots does.
fn rot(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    file.write_all_at(&bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
}

/// The first log file of partition 0 of the topic `t` in a backup.
fn first_log(service: &Service, backup: &Path) -> PathBuf {
    // Topics of the server itself are in it, too.
    let mut all = names(&backup.join("topics"));
    all.retain(|topic| {
        let log = backup.join(format!("topics/{topic}/0/00000000000000000000.log"));
        let own = service.data().join("topics/t/0/00000000000000000000.log");
        fs::read(log).ok() == Some(fs::read(own).unwrap())
    });
    assert_eq!(all.len(), 1, "{all:?}");
    backup.join(format!("topics/{}/0/00000000000000000000.log", all[0]))
}

#[test]
fn a_file_that_has_rotted_in_a_backup_is_whole_in_the_next_and_costs_only_its_own_records() {
    let (service, dir, backups) = service();
    let records: Vec<Value> = (0..3).map(|n| json!({"value": n, "partition": 1})).collect();
    service.post("/v1/topics/t/records", &json!({"records": records}));
    service.ok("backup mon");
    let rotten = first_log(&service, &backups.join("mon"));
    run_offline(&format!("verify {}", backups.join("mon").display())).ok();
    // It is appended to, so the backup has a copy.
    rot(&rotten);
    let text = service.run("backup tue").quiet();
    assert!(text.ends_with(" are new\n"), "{text}");

    let checked = run_offline(&format!("verify {}", backups.join("mon").display()));
    assert_eq!(checked.code, Some(1));
    assert!(checked.out.starts_with("damage: "), "{}", checked.out);
    assert!(
        checked.out.contains(&rotten.display().to_string()),
        "{}",
        checked.out
    );
    assert!(
        checked.err.contains("mon is damaged in 1 places"),
        "{}",
        checked.err
    );
    run_offline(&format!("verify --repair {}", backups.join("mon").display()))
        .fails_with("nothing writes to a backup");
    let text = run_offline(&format!("verify {}", backups.join("tue").display())).ok();
    assert!(text.contains("tue: a backup of 1 topic, as of "), "{text}");

    let target = dir.path().join("restored");
    let refused = restore(&backups.join("mon"), &target);
    assert!(
        refused.err.contains(&rotten.display().to_string()),
        "{}",
        refused.err
    );
    refused.fails_with("with --damaged");
    assert!(!target.exists());
    restore(&backups.join("tue"), &target).ok();
    run_offline(&format!("verify {}", target.display())).ok();

    let rest = TempDir::new().unwrap();
    let target = rest.path().join("data");
    let line = format!(
        "restore {} --data {} --damaged",
        backups.join("mon").display(),
        target.display()
    );
    let text = run_offline(&line).ok();
    assert!(
        text.starts_with("damage: ") && text.contains(" at byte "),
        "{text}"
    );
    assert!(text.contains("\nrestored 1 topic ("), "{text}");
    let restored = Service::start_on(rest, &[]);
    let page = |service: &Service| {
        let page = service.server.get("/v1/topics/t/partitions/1/records?offset=0");
        page["records"].clone()
    };
    assert!(page(&service).as_array().unwrap().len() >= 3);
    assert_eq!(page(&restored), page(&service));
    let stopped = restored.run("consume t");
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert_eq!(restored.json("topic damage t")["damage"][0]["partition"], 0);
}

#[test]
fn a_file_that_has_rotted_in_the_log_is_named_by_every_backup() {
    let (service, dir, backups) = service();
    service.ok("topic create closed --config segment_bytes=1MiB");
    let big = "x".repeat(600_000);
    for _ in 0..4 {
        service.produce("closed", &format!("{{\"value\":\"{big}\"}}\n"));
    }
    service.ok("backup mon");
    rot(&service.data().join("topics/closed/0/00000000000000000000.log"));
    for name in ["tue", "wed"] {
        let text = service.run(&format!("backup {name}")).quiet();
        assert!(
            text.ends_with(
                "; 1 file in the log is damaged or missing (the server's log says which), and in the backup as well\n"
            ),
            "{text}"
        );
        let said: Value = service.server.get(&format!("/v1/backups/{name}"));
        assert_eq!(said["damaged_files"], 1);
        let target = dir.path().join(name);
        let text = restore(&backups.join(name), &target).ok();
        assert!(text.contains("it was damaged when the backup was made"), "{text}");
        assert!(text.contains("\nrestored 2 topics ("), "{text}");
    }
    let log = service.server.log();
    assert!(
        log.contains("a file is damaged, and this backup has it as it is"),
        "{log}"
    );
    assert!(log.contains("topics/closed/0/00000000000000000000.log"), "{log}");
}
