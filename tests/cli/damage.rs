//! `quipu topic damage`, `quipu topic skip`, and how `quipu consume` reports missing records.

use serde_json::json;

use crate::service::{Service, values};

/// Ten records in ten batches of partition 0 of two.
fn healthy() -> Service {
    let service = Service::start();
    service.ok("topic create t --partitions 2");
    for n in 0..10 {
        let line = format!("{{\"partition\":0,\"timestamp\":{},\"value\":{n}}}\n", n * 1000);
        service.produce("t", &line);
    }
    service
}

/// The same, with the records at offsets 3 and 4 damaged.
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

const SKIP: &str = "topic skip t --partition 0 --from 3 --until 5";
const UNDO: &str = "topic skip t --partition 0 --from 3 --until 5 --undo";

/// Checks that the damage is listed, as a table and as JSON.
#[track_caller]
fn check_listed(service: &Service, skipped: bool) {
    let word = if skipped { "yes" } else { "no" };
    let table =
        format!("PARTITION  FROM  UNTIL  OFFSETS  SKIPPED\n        0     3      5        2  {word}\n");
    assert_eq!(service.ok("topic damage t"), table);
    let row = json!({"partition": 0, "damaged_offset": 3, "damaged_until_offset": 5, "skipped": skipped});
    assert_eq!(
        service.json("topic damage t"),
        json!({"topic": "t", "damage": [row]})
    );
}

#[test]
fn damage_is_listed_and_a_consumer_that_meets_it_names_the_command_to_continue() {
    let service = healthy();
    let none = "topic t has no known damage (quipu verify reads everything, with the server stopped)\n";
    assert_eq!(service.ok("topic damage t"), none);
    let found = service.json("topic damage t");
    assert_eq!(found, json!({"topic": "t", "damage": []}));
    drop(service);

    let service = damaged();
    let ended = service.run("consume t");
    assert_eq!(values(&ended.out), [0, 1, 2]);
    let text = ended.failed();
    assert!(text.starts_with("quipu: corrupt-data: "), "{text}");
    let expected = format!("quipu {SKIP}\n");
    assert!(text.ends_with(&expected), "the command that continues: {text}");
    check_listed(&service, false);
}

#[test]
fn consumers_continue_after_a_skipped_range_with_a_warning_and_stop_there_again_after_an_undo() {
    let service = damaged();
    // No read has met the damage yet: skipping reads the records itself.
    for _ in 0..2 {
        assert_eq!(
            service.ok(SKIP),
            "offsets 3 to 5 (exclusive) of t/0 are skipped: consumers continue after them, with a warning\n"
        );
    }
    assert_eq!(service.json(SKIP)["damage"][0]["skipped"], true);
    check_listed(&service, true);

    let warning = "quipu: warning: partition 0 of t: offsets 3 to 5 (exclusive) are damaged, and an operator chose to skip \
                   them; continuing after them\n";
    for line in ["consume t", "consume t --group g"] {
        let ended = service.run(line);
        assert_eq!(ended.err, warning, "once, and nothing else");
        assert_eq!(values(&ended.ok()), [0, 1, 2, 5, 6, 7, 8, 9]);
    }
    // Records before and after it are read without a word.
    for from in ["offset:5", "latest"] {
        let text = format!("consume t --partition 0 --from {from}");
        service.run(&text).quiet();
    }
    assert_eq!(service.json("lag g")["lag"], 0);

    for _ in 0..2 {
        let found = service.ok(UNDO);
        assert_eq!(found, "offsets 3 to 5 (exclusive) of t/0 are not skipped\n");
    }
    let row = json!({"damaged_offset": 3, "damaged_until_offset": 5, "skipped": false});
    let found = service.json(UNDO);
    assert_eq!(found, json!({"topic": "t", "partition": 0, "damage": [row]}));
    let ended = service.run("consume t");
    assert_eq!(values(&ended.out), [0, 1, 2]);
    assert!(ended.failed().starts_with("quipu: corrupt-data: "));
}

#[test]
fn a_skip_that_cannot_be_is_refused_and_nothing_is_skipped() {
    let service = damaged();
    let range = |from, until| format!("topic skip t --partition 0 --from {from} --until {until}");
    // Readable records are never skipped.
    for (line, healthy) in [(range("2", "5"), "offset 2"), (range("3", "6"), "offset 5")] {
        let text = service.failed(&line);
        assert!(text.starts_with("quipu: not-damaged: "), "{text}");
        assert!(text.contains(healthy), "{text}");
    }
    let elsewhere = SKIP.replace("--partition 0", "--partition 2");
    for (line, code) in [
        (SKIP.replace(" t ", " none "), "unknown-topic"),
        (elsewhere, "unknown-partition"),
        (range("3", "11"), "not-damaged"),
        (range("3", "18446744073709551615"), "invalid-request"),
        ("topic damage none".to_owned(), "unknown-topic"),
    ] {
        service.fails(&line, &format!("quipu: {code}: "));
    }

    // Wrong usage ends with 2, a refusal of the server with 1.
    let empty = service.run(&range("3", "3")).err;
    let expected = "--until is exclusive and must be above --from: 3 is not above 3";
    assert!(empty.contains(expected), "{empty}");
    for line in [
        &*range("3", "3"),
        "topic skip t --partition 0 --from 3",
        "topic skip t",
        &range("-1", "5"),
        &range("x", "5"),
        "topic damage",
        "topic damage t --undo",
    ] {
        let ended = service.run(line);
        assert_eq!((ended.code, &*ended.out), (Some(2), ""), "{line}: {}", ended.err);
    }
    let known = service.json("topic damage t");
    let rows = known["damage"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["skipped"] == false), "{known}");
}
