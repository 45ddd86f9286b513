//! A thousand partitions in the real binary: made, written, stopped, started again; also where few files may be open.
//!
//! Times are printed (`-- --nocapture`), never asserted.
#![allow(
    clippy::disallowed_methods,
    reason = "a test of the real binary lives in the real world"
)]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use support::{Server, read_partition};

const TOPIC: &str = "many";
const PARTITIONS: u32 = 1000;
/// Written to every partition by each of the two requests.
const RECORDS_EACH: u32 = 3;

#[test]
fn a_thousand_partitions_are_written_and_ready_again_after_a_restart() {
    write_and_restart("default limits", Server::start);
}

#[test]
fn a_thousand_partitions_need_no_more_than_1024_open_files() {
    write_and_restart("ulimit -n 1024", |data| Server::start_with_open_files(data, 1024));
}

fn write_and_restart(title: &str, start: fn(&Path) -> Server) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let server = start(&data);
    println!(
        "{title}: ready with an empty directory after {:?}",
        server.ready_after
    );

    let begin = Instant::now();
    server.create_topic(TOPIC, PARTITIONS);
    println!(
        "{title}: {PARTITIONS} partitions created in {:?}",
        begin.elapsed()
    );
    let begin = Instant::now();
    append(&server, 0);
    println!(
        "{title}: all partitions written for the first time in {:?}",
        begin.elapsed()
    );
    check(&server, RECORDS_EACH);
    server.stop();

    let server = start(&data);
    println!("{title}: ready after a clean stop in {:?}", server.ready_after);
    check(&server, RECORDS_EACH);
    append(&server, RECORDS_EACH);
    server.kill();

    let server = start(&data);
    println!("{title}: ready after a kill in {:?}", server.ready_after);
    check(&server, 2 * RECORDS_EACH);
    println!(
        "{title}: {} KiB of anonymous memory",
        server.anonymous_bytes() >> 10
    );
    server.stop();
}

/// One request to all partitions, each record numbered in its partition from `first` on.
fn append(server: &Server, first: u32) {
    let mut body = String::new();
    for number in first..first + RECORDS_EACH {
        for partition in 0..PARTITIONS {
            writeln!(
                body,
                r#"{{"partition":{partition},"value":[{partition},{number}]}}"#
            )
            .expect("a string takes it");
        }
    }
    let path = format!("/v1/topics/{TOPIC}/records");
    let answer = server.expect(200, "POST", &path, "application/x-ndjson", body.as_bytes());
    assert_eq!(answer["records"], PARTITIONS * RECORDS_EACH, "{answer}");
}

fn check(server: &Server, records_each: u32) {
    let begin = Instant::now();
    let description = server.get(&format!("/v1/topics/{TOPIC}"));
    println!("described in {:?}", begin.elapsed());
    let partitions = description["partitions"].as_array().expect("an array");
    assert_eq!(partitions.len(), PARTITIONS as usize);
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
