//! `quipu export` writes topics and groups' offsets to a file, and `quipu import` makes them on another server; both over the
//! public API.
//!
//! # The file
//! JSON, one object a line, told apart by their first member:
//!
//! | line | says |
//! |---|---|
//! | `{"export":1,"made":…}` | the first line: the version of the format; when it was begun (ms) |
//! | `{"make_topic":"orders","partitions":6,"config":{…}}` | a topic, and the settings that it has of its own; before its records |
//! | `{"topic":"orders","partition":0,"offset":…,"timestamp":…,…}` | a record, as a stream over several topics has it; partition by partition, by offset |
//! | `{"group":"billing","offsets":[{"topic":…,"partition":…,"offset":…,"metadata":…}]}` | a group's committed offsets, which were read before the records; after all of them |
//! | `{"end":true,"records":n}` | the last line: without it the file is not whole |
//!
//! # Offsets
//! An imported partition begins at 0, so a record's new offset is how many records of its partition come before it in the file,
//! and a committed offset becomes the number of records below it.
//!
//! Each request of an import says which offset it expects. So nothing is stored twice, however often an import is cut short and
//! run again: what is there already is passed over, after its last record was compared with the file's.

mod export;
mod import;
mod runs;

pub(crate) use export::{Args as ExportArgs, run as export};
pub(crate) use import::{Args as ImportArgs, run as import};

/// The version of the format.
const VERSION: u64 = 1;
