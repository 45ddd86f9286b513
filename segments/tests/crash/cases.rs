//! Single crashes that once lost data. Where chance decides what a power cut takes, many seeds are tried.

#[path = "cases/journal.rs"]
mod journal;
#[path = "cases/names.rs"]
mod names;
#[path = "cases/reads.rs"]
mod reads;
#[path = "cases/segments.rs"]
mod segments;
#[path = "cases/state.rs"]
mod state;

use quipu_segments::Log;

use super::check;
use super::support::{
    DIR, NOW, append, change, open, options, partition, request, set_state, spec, start, start_empty, store,
    try_open, try_open_with,
};

const SEEDS: u64 = 16;

/// The values in a partition.
fn values(log: &Log, index: u32) -> Vec<Vec<u8>> {
    let partition = partition(log, index);
    let from = partition.positions().log_start_offset;
    let records = check::read_from(&partition, from, 1 << 20).expect("all of it is readable");
    records
        .into_iter()
        .map(|(_, record)| record.value.expect("no value is missing"))
        .collect()
}
