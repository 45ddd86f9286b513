//! Checking and repairing a data directory that no process has open.
//!
//! Read `verify` first: it reads everything and changes nothing. `finding` is what it reports, `repair` writes again what is
//! stored elsewhere and gives up only what it is given by name. `inspect` prints one file.

pub(crate) mod finding;
pub(crate) mod inspect;
pub(crate) mod repair;
pub(crate) mod verify;
