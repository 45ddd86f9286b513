//! `quipu export` writes topics and groups to a file, and `quipu import` makes them on another server; both over the
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
//! | `{"group":"billing","type":…,"settings":{…},"topics":[…],"dead_letters":[…],"offsets":[{"topic":…,"partition":…,"offset":…,"metadata":…}]}` | a group: its type and settings as `GET /v1/groups/{group}` has them, the topics and patterns that it has subscribed to, its dead letters that wait, and its committed offsets; read before the records; behind those of the topics that it reads, and before those of the topics of its dead letters |
//! | `{"end":true,"records":n}` | the last line: without it the file is not whole |
//!
//! An earlier version wrote groups with their offsets alone. They become ordered groups, if they are not there yet.
//!
//! # Offsets
//! An imported partition begins at 0, so a record's new offset is how many records of its partition come before it in the file,
//! and a committed offset becomes the number of records below it.
//!
//! Each request of an import says which offset it expects. So nothing is stored twice, however often an import is cut short and
//! run again: what is there already is passed over, after its last record was compared with the file's.
//!
//! # Groups
//! Only a member can give a group its type, settings and subscriptions: so one joins, and leaves, and then the offsets are
//! committed without membership. Of a work queue, everything below the committed offset is settled; what was settled out of
//! order above it is not known, and is given out again. [`letters`] says how dead letters come over.

mod export;
mod groups;
mod import;
mod letters;
mod runs;

pub(crate) use export::{Args as ExportArgs, run as export};
pub(crate) use import::{Args as ImportArgs, run as import};

/// The version of the format.
const VERSION: u64 = 1;
