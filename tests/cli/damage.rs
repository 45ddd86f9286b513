//! `quipu topic damage`, `quipu topic skip`, and what `quipu consume` says of what is missing.

use serde_json::{Value, json};

use crate::service::{Service, values};
use crate::{failed, run, stderr, stdout};

/// Ten records in ten batches of partition 0 of two.
fn healthy() -> Service {
    let service = Service::start();
    service.ok(&["topic", "create", "t", "--partitions", "2"]);
    for n in 0..10 {
        let line = format!("{{\"partition\":0,\"timestamp\":{},\"value\":{n}}}\n", n * 1000);
        let output = service.produce(&["t"], &line);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    service
}

/// The same, with those of offsets 3 and 4 damaged.
fn damaged() -> Service {
    healthy().restart_after(|data| {
        let path = data.join("topics/t/0/00000000000000000000.log");
        let mut bytes = std::fs::read(&path).unwrap();
        let batch = bytes.len() / 10;
        for number in [3, 4] {
            bytes[number * batch + batch - 3] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
    })
}

const SKIP: [&str; 9] = [
    "topic",
    "skip",
    "t",
    "--partition",
    "0",
    "--from",
    "3",
    "--until",
    "5",
];

fn skip(more: &[&'static str]) -> Vec<&'static str> {
    [&SKIP, more].concat()
}

fn listed(skipped: bool) -> Value {
    json!({"topic": "t", "damage": [
        {"partition": 0, "damaged_offset": 3, "damaged_until_offset": 5, "skipped": skipped}
    ]})
}

#[test]
fn damage_is_listed_and_a_consumer_that_meets_it_is_told_how_to_go_on() {
    let service = healthy();
    assert_eq!(
        service.ok(&["topic", "damage", "t"]),
        "topic t has no known damage (quipu verify reads everything, with the server stopped)\n"
    );
    assert_eq!(
        service.json(&["topic", "damage", "t"]),
        json!({"topic": "t", "damage": []})
    );
    drop(service);

    let service = damaged();
    let output = run(&service.url, &["consume", "t"]);
    assert_eq!(values(&stdout(&output)), [0, 1, 2]);
    let text = failed(&output);
    assert!(text.starts_with("quipu: corrupt-data: "), "{text}");
    assert!(
        text.ends_with("quipu topic skip t --partition 0 --from 3 --until 5\n"),
        "the command that goes on: {text}"
    );
    assert_eq!(
        service.ok(&["topic", "damage", "t"]),
        "PARTITION  FROM  UNTIL  OFFSETS  SKIPPED\n        0     3      5        2  no\n"
    );
    assert_eq!(service.json(&["topic", "damage", "t"]), listed(false));
}

#[test]
fn consumers_go_on_behind_what_is_skipped_are_warned_and_stop_there_again_when_it_is_taken_back() {
    let service = damaged();
    // No read has met it: skipping looks itself.
    for _ in 0..2 {
        assert_eq!(
            service.ok(&SKIP),
            "offsets 3 to 5 (exclusive) of t/0 are skipped: consumers go on behind them and are told\n"
        );
    }
    assert_eq!(service.json(&SKIP)["damage"][0]["skipped"], true);
    assert_eq!(
        service.ok(&["topic", "damage", "t"]),
        "PARTITION  FROM  UNTIL  OFFSETS  SKIPPED\n        0     3      5        2  yes\n"
    );
    assert_eq!(service.json(&["topic", "damage", "t"]), listed(true));

    let warning = "quipu: warning: partition 0 of t: offsets 3 to 5 (exclusive) are damaged and were skipped by the operator; \
                   going on behind them\n";
    for args in [&["consume", "t"][..], &["consume", "t", "--group", "g"]] {
        let output = run(&service.url, args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(values(&stdout(&output)), [0, 1, 2, 5, 6, 7, 8, 9]);
        assert_eq!(stderr(&output), warning, "once, and nothing else");
    }
    // What is before and behind it is read without a word.
    for from in ["offset:5", "latest"] {
        let output = run(
            &service.url,
            &["consume", "t", "--partition", "0", "--from", from],
        );
        assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""), "{from}");
    }
    assert_eq!(service.json(&["lag", "g"])["lag"], 0);

    for _ in 0..2 {
        assert_eq!(
            service.ok(&skip(&["--undo"])),
            "offsets 3 to 5 (exclusive) of t/0 are not skipped\n"
        );
    }
    assert_eq!(
        service.json(&skip(&["--undo"])),
        json!({"topic": "t", "partition": 0, "damage": [
            {"damaged_offset": 3, "damaged_until_offset": 5, "skipped": false}
        ]})
    );
    let output = run(&service.url, &["consume", "t"]);
    assert_eq!(values(&stdout(&output)), [0, 1, 2]);
    assert!(failed(&output).starts_with("quipu: corrupt-data: "));
}

#[test]
fn a_skip_that_cannot_be_is_refused_and_nothing_is_skipped() {
    let service = damaged();
    let with = |name: &str, value: &'static str| {
        let mut args = SKIP;
        let place = args.iter().position(|arg| *arg == name).unwrap();
        args[place + 1] = value;
        args
    };
    // What can be read is never skipped.
    for (args, healthy) in [
        (with("--from", "2"), "offset 2"),
        (with("--until", "6"), "offset 5"),
    ] {
        let text = failed(&run(&service.url, &args));
        assert!(
            text.starts_with("quipu: not-damaged: ") && text.contains(healthy),
            "{text}"
        );
    }
    for (args, code) in [
        (with("skip", "none"), "unknown-topic"),
        (with("--partition", "2"), "unknown-partition"),
        (with("--until", "11"), "not-damaged"),
        (with("--until", "18446744073709551615"), "invalid-request"),
    ] {
        let text = failed(&run(&service.url, &args));
        assert!(text.starts_with(&format!("quipu: {code}: ")), "{args:?}: {text}");
    }
    let text = failed(&run(&service.url, &["topic", "damage", "none"]));
    assert!(text.starts_with("quipu: unknown-topic: "), "{text}");

    // Wrong usage is told from what a server refuses.
    let empty = run(&service.url, &with("--until", "3"));
    assert_eq!(empty.status.code(), Some(2));
    assert!(
        stderr(&empty).contains("--until is exclusive and must be above --from: 3 is not above 3"),
        "{}",
        stderr(&empty)
    );
    for args in [
        &SKIP[..7],
        &SKIP[..3],
        &with("--from", "-1"),
        &with("--from", "x"),
        &["topic", "damage"],
        &["topic", "damage", "t", "--undo"],
    ] {
        let output = run(&service.url, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    let known = service.json(&["topic", "damage", "t"]);
    let rows = known["damage"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["skipped"] == false), "{known}");
}
