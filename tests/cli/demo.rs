//! The demo runs, also for a second time.

use tempfile::TempDir;

use crate::{Running, command, run, run_offline};

#[test]
fn the_story_is_told_and_told_again_without_storing_twice() {
    let dir = TempDir::new().unwrap();
    let line = format!(
        "demo --exit --listen 127.0.0.1:0 --data {}/demo",
        dir.path().display()
    );
    let text = run_offline(&line).ok();
    for part in [
        "20,000 events (4.1 MB) stored",
        "2,468 aircraft, 20,000 events: each aircraft's came back in the order",
        "board-1 joins the group arrivals-board",
        "board-1 reads flights 0-2, board-2 reads flights 3-5.",
        " records behind",
        "none twice; both have left, and the lag is 0\n",
        "The page, with topics, groups, lag and records:",
        "/v1/groups/arrivals-board/lag.svg",
        "events of that day",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    for (absent, why) in [
        (" years", "the events are of the last days"),
        ("never", "the lag drains"),
        ("\x1b", "no colours in a pipe"),
    ] {
        assert!(!text.contains(absent), "{why}: {text}");
    }
    let rows = text.lines().filter(|line| line.starts_with("flights "));
    let rows = rows.map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
    let rows: Vec<Vec<&str>> = rows.map(Iterator::collect).collect();
    assert_eq!(rows.len(), 6, "{text}");
    // LAG and OUT/S.
    let has_rate = |row: &Vec<&str>| row[4] == "0" || !["0", "-"].contains(&row[8]);
    assert!(rows.iter().all(has_rate), "{text}");
    assert_eq!(text.matches("lag.svg").count(), 1, "one address to open: {text}");
    assert!(text.lines().count() < 55, "{text}");

    let text = run_offline(&line).ok();
    for part in [
        "nothing to load",
        "2,468 aircraft, 20,000 events",
        "still stands at the end",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

#[test]
fn a_taken_default_port_is_no_obstacle_but_a_taken_chosen_one_is() {
    // Another process may have taken the default port: either way it is taken now.
    let _taken = std::net::TcpListener::bind("127.0.0.1:7420");
    let text = run_offline("demo --exit").ok();
    assert!(text.contains("127.0.0.1:7420 is taken"), "{text}");

    let chosen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = chosen.local_addr().unwrap();
    let ended = run_offline(&format!("demo --exit --listen {addr}"));
    assert!(
        ended
            .failed()
            .contains(&format!("cannot listen on {addr}: another process listens there"))
    );
}

#[test]
fn the_demo_serves_until_it_is_asked_to_stop_and_leaves_nothing_behind() {
    let temporary = TempDir::new().unwrap();
    let mut demo = Running::of(command("demo --listen 127.0.0.1:0").env("TMPDIR", temporary.path()));
    let first = demo.line();
    let url = first.split_whitespace().find(|word| word.starts_with("http://"));
    loop {
        let line = demo.line();
        assert!(!line.is_empty(), "the story ended early");
        if line.starts_with("Serving until Ctrl-C") {
            break;
        }
    }
    assert!(run(url.unwrap(), "topic list").ok().contains("flights"));
    demo.stop().quiet();
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
