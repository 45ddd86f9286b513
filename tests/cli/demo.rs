//! The demo tells its story, again too.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{failed, quipu, stderr, stdout};

#[test]
fn the_story_is_told_and_told_again_without_storing_twice() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("demo");
    let args = [
        "demo",
        "--exit",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
    ];
    let first = quipu(&args).output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let text = stdout(&first);
    assert!(text.contains("20,000 events (4.1 MB) stored"), "{text}");
    assert!(
        text.contains("2,468 aircraft, 20,000 events: each aircraft's came back in the order"),
        "{text}"
    );
    assert!(text.contains("board-1 joins the group arrivals-board"), "{text}");
    assert!(
        text.contains("board-1 reads flights 0-2, board-2 reads flights 3-5."),
        "{text}"
    );
    assert!(text.contains(" records behind"), "{text}");
    assert!(
        text.contains("none twice; both have left, and the lag is 0\n"),
        "{text}"
    );
    assert!(text.contains("/v1/groups/arrivals-board/lag.svg"), "{text}");
    assert!(text.contains("events of that day"), "{text}");
    assert!(
        !text.contains(" years"),
        "the events are of the last days: {text}"
    );
    assert_eq!(text.matches("lag.svg").count(), 1, "one address to open: {text}");
    assert!(text.lines().count() < 55, "{text}");
    assert!(!text.contains('\x1b'), "no colours in a pipe");

    let second = quipu(&args).output().unwrap();
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    let text = stdout(&second);
    assert!(text.contains("nothing to load"), "{text}");
    assert!(text.contains("2,468 aircraft, 20,000 events"), "{text}");
    assert!(text.contains("still stands at the end"), "{text}");
}

#[test]
fn a_taken_default_port_is_no_obstacle_but_a_taken_chosen_one_is() {
    // The default port may be taken by somebody else too: either way it is taken now.
    let _taken = std::net::TcpListener::bind("127.0.0.1:7420");
    let output = quipu(&["demo", "--exit"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("127.0.0.1:7420 is taken"),
        "{}",
        stdout(&output)
    );

    let chosen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = chosen.local_addr().unwrap().to_string();
    let text = failed(&quipu(&["demo", "--exit", "--listen", &addr]).output().unwrap());
    assert!(text.contains(&format!("cannot listen on {addr}")), "{text}");
}

#[test]
fn the_demo_serves_until_it_is_asked_to_stop_and_leaves_nothing_behind() {
    let temporary = TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_quipu"))
        .args(["demo", "--listen", "127.0.0.1:0"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut url = String::new();
    out.read_line(&mut url).unwrap();
    let url = url
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap()
        .to_owned();
    let mut line = String::new();
    while !line.starts_with("Serving until Ctrl-C") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the story ended early");
    }
    let listed = quipu(&["topic", "list", "--server", &url]).output().unwrap();
    assert!(stdout(&listed).contains("flights"), "{}", stderr(&listed));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
