//! Fuzz targets for every decoder that meets bytes from outside.
//!
//! A target is a module with a function `run`, which takes any bytes and panics if something is wrong. libFuzzer calls
//! it from `fuzz_targets/`; the test `fuzz_corpora` of the main workspace calls it with the files of `corpus/`. Besides
//! "nothing panics", a target asserts what its module's header says.
//!
//! Input with a checksum is tried twice, as it is and with the checksum corrected: otherwise no code behind the
//! checksum would ever be reached.

pub mod batches;
pub mod coding;
pub mod compressed;
pub mod connection;
pub mod descriptions;
pub mod directory;
pub mod http;
pub mod index;
pub mod journal;
pub mod json;
pub mod jwt;
pub mod kafka;
pub mod negotiate;
pub mod once;
pub mod query;
pub mod round_trip;
pub mod snapshots;

mod input;
mod oracle;
mod record;
mod service;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 17] = [
    ("batches", batches::run),
    ("coding", coding::run),
    ("compressed", compressed::run),
    ("connection", connection::run),
    ("descriptions", descriptions::run),
    ("directory", directory::run),
    ("http", http::run),
    ("index", index::run),
    ("journal", journal::run),
    ("json", json::run),
    ("jwt", jwt::run),
    ("kafka", kafka::run),
    ("negotiate", negotiate::run),
    ("once", once::run),
    ("query", query::run),
    ("round_trip", round_trip::run),
    ("snapshots", snapshots::run),
];
