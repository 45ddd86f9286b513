//! Damage to the files that identify the directory and its topics.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quipu_segments::{Error, TopicSettings, TopicSpec};

use super::case::{Cases, Expect};
use super::history::{History, append, copy, open, temp, value};
use super::read::{Lost, read};

#[test]
fn a_damaged_format_or_description_is_written_again_from_what_says_the_same() {
    let history = History::new();
    let mut cases = Cases::new(&history);
    for base in history.bases() {
        for name in [
            "FORMAT",
            "topics/orders/topic.json",
            "topics/orders/topic.copy.json",
        ] {
            let path = Path::new(name);
            let length = fs::read(base.join(path)).unwrap().len();
            let bits: Vec<usize> = (0..length).step_by(13).chain([11, 33, 34, length - 1]).collect();
            cases.harms(base, path, &bits, |_, range| Expect {
                evidence: (!name.contains("copy")).then(|| path.into()),
                // The line break at the end may be another white-space character, or missing.
                is_harmless: range.start + 1 == length,
                ..Expect::default()
            });
            // A directory of an earlier build has no copy, and is just as good.
            let missing = Expect {
                is_harmless: name.contains("copy"),
                ..Expect::default()
            };
            cases.missing(base, path, &missing);
        }
        others(&mut cases, &history, base);
        absent(&mut cases, &history, base);
    }
    cases.end(120);
}

/// The identity files of another directory, or of another topic.
fn others(cases: &mut Cases<'_>, history: &History, base: &Path) {
    let expect = Expect::default();
    cases.case(base, "the FORMAT of another directory", &expect, &|dir| {
        fs::copy(history.foreign.join("FORMAT"), dir.join("FORMAT")).unwrap();
    });
    cases.case(base, "the description of another topic", &expect, &|dir| {
        let [from, to] = ["flights", "orders"].map(|topic| dir.join("topics").join(topic).join("topic.json"));
        fs::copy(from, to).unwrap();
    });
}

/// What cannot be written again: both copies of a description, and directories.
fn absent(cases: &mut Cases<'_>, history: &History, base: &Path) {
    let not_served = Expect {
        not_served: Some("orders"),
        ..Expect::default()
    };
    cases.case(base, "no description at all", &not_served, &|dir| {
        fs::remove_file(dir.join("topics/orders/topic.json")).unwrap();
        fs::remove_file(dir.join("topics/orders/topic.copy.json")).unwrap();
    });
    cases.case(base, "no directory of a topic", &not_served, &|dir| {
        fs::remove_dir_all(dir.join("topics/orders")).unwrap();
    });
    let all: BTreeSet<u64> = (0..history.model.records[&("orders", 1)].len() as u64).collect();
    let partition = Expect {
        may_lose: Lost::from([(("orders", 1), all)]),
        ..Expect::default()
    };
    cases.case(base, "no directory of a partition", &partition, &|dir| {
        fs::remove_dir_all(dir.join("topics/orders/1")).unwrap();
    });
}

#[test]
fn a_description_that_is_restored_brings_its_topic_back_with_all_of_its_records() {
    let history = History::new();
    for base in history.bases() {
        let dir = temp();
        let dir = dir.path();
        copy(base, dir);
        let paths = ["topic.json", "topic.copy.json"].map(|name| dir.join("topics/orders").join(name));
        let description = fs::read(&paths[0]).unwrap();
        paths.iter().for_each(|path| fs::write(path, b"{}").unwrap());
        let log = open(dir).unwrap();
        assert!(log.topic("orders").is_none());
        assert!(!log.health().damage.is_empty());
        let refused = log.create_topic("orders", TopicSpec::new(1, TopicSettings::default()));
        assert!(matches!(refused, Err(Error::Directory(_))));
        let flights = log.topic("flights").unwrap().partition(0).unwrap();
        let mut model = history.model.clone();
        let records = model.records.get_mut(&("flights", 0)).unwrap();
        records.push(value("flights", 0, records.len()));
        append(&log, &flights, records.last().unwrap(), None).unwrap();
        log.close().unwrap();
        drop(log);
        fs::write(&paths[0], description).unwrap();
        let log = open(dir).unwrap();
        let mut problems = Vec::new();
        assert_eq!(read(&log, &model, &mut problems), Lost::new());
        assert_eq!(problems, Vec::<String>::new());
    }
}
