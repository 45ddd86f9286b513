//! One page of a partition, every record checked.

use std::io;

use crate::records::{self, Id};
use crate::support::{Connection, Fetched};

pub struct Page {
    pub records: Vec<(u64, Id)>,
    pub next_offset: u64,
    pub log_start_offset: u64,
    pub end_offset: u64,
    /// The log start, if the offset lies below it.
    pub trimmed: Option<u64>,
}

/// Fetches from `offset` on; `more` are the other parameters. With `faults`, the call that fails may be the one that opens
/// the file for this fetch: the next fetch succeeds.
pub fn fetch(
    connection: &mut Connection,
    topic: &str,
    partition: u32,
    offset: u64,
    more: &str,
    faults: bool,
) -> io::Result<Page> {
    let path = format!("/v1/topics/{topic}/partitions/{partition}/records?offset={offset}&{more}");
    let mut answer = connection.get_as(&path, "application/x-ndjson")?;
    if faults && answer.status == 500 {
        answer.refusal(500, "internal", "none");
        answer = connection.get_as(&path, "application/x-ndjson")?;
    }
    if answer.status == 410 {
        let problem = answer.refusal(410, "offset-trimmed", "none");
        let number = |name: &str| problem[name].as_u64().expect("a position");
        let log_start_offset = number("log_start_offset");
        assert!(log_start_offset > offset, "{path}: {problem}");
        return Ok(Page {
            records: Vec::new(),
            next_offset: log_start_offset,
            log_start_offset,
            end_offset: number("end_offset"),
            trimmed: Some(log_start_offset),
        });
    }
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let mut records = Vec::new();
    let mut next = offset;
    for line in answer.body.split_inclusive(|byte| *byte == b'\n') {
        if line.last() != Some(&b'\n') {
            // The server was killed while it sent this line.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = || String::from_utf8_lossy(line);
        let record: Fetched =
            serde_json::from_slice(line).unwrap_or_else(|error| panic!("{path}: {error} in {}", text()));
        assert_eq!(record.partition, partition, "{path}");
        let offset = record.offset;
        assert!(offset >= next, "{path}: {offset} comes after {next}");
        next = offset + 1;
        records.push((offset, records::check(&record)));
    }
    let number = |name| {
        let value = answer.header(name).expect("a position");
        value.parse::<u64>().expect("a position")
    };
    let next_offset: u64 = number("next-offset");
    assert!(next_offset >= next, "{path}: {next_offset} after {next}");
    Ok(Page {
        records,
        next_offset,
        log_start_offset: number("log-start-offset"),
        end_offset: number("end-offset"),
        trimmed: None,
    })
}
