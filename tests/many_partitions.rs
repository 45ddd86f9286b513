//! Thousands of partitions in the real binary: created, written, stopped, started again; also with few files allowed.
//!
//! Times are printed (`-- --nocapture`), never asserted.
#![allow(clippy::disallowed_methods, reason = "it tests the real binary")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use support::{Server, read_partition};

const TOPIC: &str = "many";
/// The records that each of the two requests writes to every partition.
const RECORDS_EACH: u32 = 3;

#[test]
fn a_thousand_partitions_are_written_and_ready_again_after_a_restart() {
    write_and_restart("default limits", 1000, Server::start);
}

#[test]
fn one_request_goes_to_more_partitions_than_files_may_be_open() {
    for (open_files, partitions) in [(256, 1000), (1024, 2000)] {
        let start = |data: &Path| Server::start_with_open_files(data, open_files);
        write_and_restart(&format!("ulimit -n {open_files}"), partitions, start);
    }
}

fn write_and_restart(title: &str, partitions: u32, start: impl Fn(&Path) -> Server) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let server = start(&data);
    let say = |what: &str, took: Duration| println!("{title}: {what} {took:?}");
    say("ready with an empty directory after", server.ready_after);
    let begin = Instant::now();
    server.create_topic(TOPIC, partitions);
    say(&format!("{partitions} partitions created in"), begin.elapsed());
    let begin = Instant::now();
    append(&server, partitions, 0);
    say("all partitions written for the first time in", begin.elapsed());
    check(&server, partitions, RECORDS_EACH);
    server.stop();

    let server = start(&data);
    say("ready after a clean stop in", server.ready_after);
    check(&server, partitions, RECORDS_EACH);
    append(&server, partitions, RECORDS_EACH);
    server.kill();

    let server = start(&data);
    say("ready after a kill in", server.ready_after);
    check(&server, partitions, 2 * RECORDS_EACH);
    let kib = server.anonymous_bytes() >> 10;
    println!("{title}: {kib} KiB of anonymous memory");
    server.stop();
}

/// One request to all partitions, each record numbered in its partition from `first` on.
fn append(server: &Server, partitions: u32, first: u32) {
    let mut body = String::new();
    for number in first..first + RECORDS_EACH {
        for partition in 0..partitions {
            writeln!(
                body,
                r#"{{"partition":{partition},"value":[{partition},{number}]}}"#
            )
            .expect("a string takes it");
        }
    }
    let path = format!("/v1/topics/{TOPIC}/records");
    let answer = server.expect(200, "POST", &path, "application/x-ndjson", body.as_bytes());
    assert_eq!(answer["records"], partitions * RECORDS_EACH, "{answer}");
}

fn check(server: &Server, count: u32, records_each: u32) {
    let begin = Instant::now();
    let description = server.get(&format!("/v1/topics/{TOPIC}"));
    println!("described in {:?}", begin.elapsed());
    let partitions = description["partitions"].as_array().expect("an array");
    assert_eq!(partitions.len(), count as usize);
    let mut connection = server.connect();
    for (index, partition) in partitions.iter().enumerate() {
        assert_eq!(partition["end_offset"], records_each, "partition {index}");
        let mut numbers = 0..records_each;
        read_partition(&mut connection, TOPIC, index as u32, 0, |record| {
            let number = numbers.next().expect("no more than were sent");
            assert_eq!(record.value.get(), format!("[{index},{number}]"));
        });
        assert!(numbers.is_empty(), "missing in {index}");
    }
}
