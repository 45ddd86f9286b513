//! Fuzz targets for every decoder that meets bytes from outside.
//!
//! A target is a module with a function `run`, which takes any bytes and panics where something is wrong: libFuzzer
//! calls it from `fuzz_targets/`, and the test `fuzz_corpora` of the main workspace with the files of `corpus/`. Beyond
//! "nothing panics" a target asserts what its module's header says.
//!
//! What a checksum guards is tried twice, as it came and with the checksum made right: otherwise nothing behind the
//! checksum would ever be reached.

pub mod batches;
pub mod coding;
pub mod descriptions;
pub mod directory;
pub mod http;
pub mod index;
pub mod journal;
pub mod json;
pub mod negotiate;
pub mod once;
pub mod query;
pub mod round_trip;
pub mod snapshots;

mod input;
mod oracle;
mod record;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 13] = [
    ("batches", batches::run),
    ("coding", coding::run),
    ("descriptions", descriptions::run),
    ("directory", directory::run),
    ("http", http::run),
    ("index", index::run),
    ("journal", journal::run),
    ("json", json::run),
    ("negotiate", negotiate::run),
    ("once", once::run),
    ("query", query::run),
    ("round_trip", round_trip::run),
    ("snapshots", snapshots::run),
];
