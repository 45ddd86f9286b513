//! Produce: from records to one append of the log.

pub mod placing;
