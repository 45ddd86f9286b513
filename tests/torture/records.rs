//! The records of clients: every byte of one follows from the number of its request and its place in the request.

use std::fmt::Write as _;

use crate::support::Fetched;

/// A record's request, and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The client in the upper bits, its running number in the lower 32.
    pub request: u64,
    pub index: u32,
}

impl Id {
    pub fn new(request: u64, index: usize) -> Self {
        let index = index as u32;
        Self { request, index }
    }

    pub fn client(self) -> u32 {
        (self.request >> 32) as u32
    }
}

/// Keys, values and timestamps all differ, and can all be computed again from the value.
pub fn key(id: Id) -> String {
    format!("k{}", mix(id) % 40)
}

pub fn timestamp(id: Id) -> i64 {
    1_357_035_420_000 + (mix(id) >> 8) as i64 % 86_400_000
}

pub fn value(id: Id, padding: usize) -> String {
    let mut text = format!("[{},{},{padding},\"", id.request, id.index);
    let end = text.len() + padding;
    let mut word = mix(id);
    while text.len() < end {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ 0x5bd1;
        let _ = write!(text, "{word:016x}");
    }
    text.truncate(end);
    text.push_str("\"]");
    text
}

/// A record as text in a JSON or NDJSON body.
pub fn line(id: Id, partition: u32, padding: usize) -> String {
    format!(
        r#"{{"partition":{partition},"key":"{}","timestamp":{},"value":{}}}"#,
        key(id),
        timestamp(id),
        value(id, padding)
    )
}

/// All records of a request, as [`line`] has them.
pub fn lines(request: u64, partitions: &[u32], padding: usize) -> Vec<String> {
    let ids = (0..).map(|index| Id::new(request, index));
    ids.zip(partitions)
        .map(|(id, partition)| line(id, *partition, padding))
        .collect()
}

/// The body of a JSON request with these records.
pub fn document(lines: &[String]) -> String {
    format!(r#"{{"records":[{}]}}"#, lines.join(","))
}

/// Finds out which record this is, and checks every byte of it.
pub fn check(record: &Fetched) -> Id {
    let text = record.value.get();
    let mut parts = text.trim_start_matches('[').splitn(4, ',');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    let (Some(request), Some(index), Some(padding)) = (number(), number(), number()) else {
        panic!("{} is no value of this test: {text}", record.offset);
    };
    let id = Id::new(request, index as usize);
    let place = (record.partition, record.offset);
    assert!(
        text == value(id, padding as usize),
        "the value of {id:?} at {place:?} is {text}"
    );
    let found = (record.key.as_deref(), record.timestamp);
    assert_eq!(
        found,
        (Some(&*key(id)), timestamp(id)),
        "key and timestamp of {id:?} at {place:?}"
    );
    id
}

fn mix(id: Id) -> u64 {
    let mut z = (id.request ^ (u64::from(id.index) << 17)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
