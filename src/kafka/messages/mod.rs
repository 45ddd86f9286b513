//! The messages of Kafka's protocol, a file for each family: declared from the schemas that Kafka 4.4 publishes (its
//! `common/message/*.json`), in the versions that Kafka 4.4 or older clients use.
//!
//! Fields have Kafka's names. Error codes are in [`errors`](super::errors), what the calls mean in the handlers.
#![allow(
    dead_code,
    reason = "messages are declared whole, a family at a time; handlers use what they need"
)]

pub(crate) mod acls;
pub(crate) mod admin;
pub(crate) mod api_versions;
pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod consumers;
pub(crate) mod coordinator;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod every;
pub(crate) mod fetch;
pub(crate) mod group_offsets;
pub(crate) mod groups;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod sasl;
#[cfg(test)]
mod tests;
pub(crate) mod transactions;

/// Stands for "not asked for" in fields with authorized operations.
pub(crate) const NO_OPERATIONS: i32 = i32::MIN;
