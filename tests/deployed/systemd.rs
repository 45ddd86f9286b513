//! The unit, and the file of settings that it names.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use quipu::settings::Config;

use crate::skipped::skipped;
use crate::{Running, found, is_setting, quipu, read};

const UNIT: &str = "deploy/systemd/quipu.service";
const SETTINGS_FILE: &str = "deploy/quipu.toml";

/// The values of a key of the unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .collect()
}

#[test]
fn the_unit_starts_a_server_that_says_when_it_is_ready_and_when_it_stops() {
    let unit = read(UNIT);
    assert_eq!(values(&unit, "Type"), ["notify"]);
    let start = values(&unit, "ExecStart");
    let start: Vec<&str> = start[0].split(' ').collect();
    assert_eq!(start[0], "/usr/bin/quipu");
    assert_eq!(start[1..], ["serve", "--config", "/etc/quipu/quipu.toml"]);

    let dir = tempfile::tempdir().expect("a directory");
    let settings = read(SETTINGS_FILE);
    let data = dir.path().join("data").display().to_string();
    let here = settings.replace("/var/lib/quipu", &data);
    let here = here.replace("127.0.0.1:7420", "127.0.0.1:0");
    assert_ne!(here, settings);
    let file = dir.path().join("quipu.toml");
    std::fs::write(&file, here).expect("a file");
    let socket = dir.path().join("notify");
    let told = UnixDatagram::bind(&socket).expect("a socket");
    let state = || {
        let mut bytes = [0; 512];
        let length = told.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };

    let mut command = quipu(&["serve", "--config"]);
    command.arg(&file).env("NOTIFY_SOCKET", &socket);
    for variable in values(&unit, "Environment") {
        let (name, value) = variable.split_once('=').expect("a variable");
        assert!(is_setting(name), "{name}");
        command.env(name, value);
    }
    // Small, so that it starts fast.
    command.env("QUIPU_JOURNAL_FILE_BYTES", "37748736");
    let server = Running::start(&mut command);
    assert!(state().starts_with("READY=1\n"));
    let health = quipu(&["health", "--for", "writes", "--server", &server.url]).output();
    assert!(health.expect("it runs").status.success(), "{}", server.address);
    server.stop();
    assert!(state().starts_with("STOPPING=1\n"));
}

#[test]
fn every_setting_of_the_settings_file_exists_those_in_comments_too() {
    let text = read(SETTINGS_FILE);
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let lines = text.lines().map(|line| line.trim_start_matches("# "));
    let settings = lines.filter(|line| line.split_once(" = ").is_some_and(|(name, _)| is_name(name)));
    // What is there twice is first the default and then the other choice.
    let mut last = std::collections::BTreeMap::new();
    for line in settings {
        let (name, _) = line.split_once(" = ").expect("a setting");
        last.insert(name, line);
    }
    assert!(last.len() >= 4, "{last:?}");
    let all: String = last.values().map(|line| format!("{line}\n")).collect();
    Config::load(Some((SETTINGS_FILE, &all)), [], &[]).unwrap_or_else(|error| panic!("{error}\n{all}"));
}

#[test]
fn systemd_finds_no_fault_in_the_unit_and_little_that_it_could_do_beyond_its_work() {
    let Some(tool) = found("systemd-analyze") else {
        skipped("there is no systemd-analyze");
        return;
    };
    // The binary is not installed here, and neither are its man pages.
    let unit = read(UNIT).replace("/usr/bin/quipu", env!("CARGO_BIN_EXE_quipu"));
    let lines = unit.lines().filter(|line| !line.starts_with("Documentation="));
    let unit: String = lines.map(|line| format!("{line}\n")).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("quipu.service");
    std::fs::write(&file, unit).expect("a file");
    let checks: [&[&str]; 2] = [
        &["verify"],
        // 1.5 of 10: what a server on a network cannot do without.
        &["security", "--offline=true", "--threshold=15", "--no-pager"],
    ];
    for check in checks {
        let output = Command::new(&tool).args(check).arg(&file).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{check:?}: {said}");
    }
}
