//! Checks and repairs a data directory that no process has open.
//!
//! Read `verify` first: it reads everything and changes nothing. `finding` is what it reports. `repair` writes again
//! what is stored elsewhere too, and gives up no record. `inspect` lists the contents of one file.

pub(crate) mod finding;
pub(crate) mod inspect;
pub(crate) mod repair;
pub(crate) mod verify;
