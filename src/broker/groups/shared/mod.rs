//! Shared groups: work queues, after Kafka's share groups (KIP-932). Each record is leased to one member at a time.
//!
//! - [`queue`]: one partition of one group in memory: which records are free, leased, settled. No I/O, no clock.
//! - [`codec`]: its durable form in the engine's state.
//! - [`settings`]: what the first member of a group chose, and how it is stored.
//! - [`dead_letter`]: a record on its way to the dead letters, and back.
//! - [`later`]: records that are for later.
//! - [`store`]: the appends that settle, each one atomic request.
//! - [`letters`]: what became of dead letters: waiting, redriven, discarded.
//! - [`waiting`]: how many dead letters wait.
//! - `work`: a shared group in memory. [`settle`](super::settle) and [`poll`](super::poll) work on it.
//!
//! Guarantee: a record is settled only in the append that also carries its dead letter, if it has one; and an answer
//! waits for that append. So after a crash leased records are delivered again, and settled ones never.

pub mod codec;
pub mod dead_letter;
pub mod later;
pub mod letters;
pub mod queue;
pub mod seal;
pub mod settings;
pub mod store;
pub mod waiting;
pub(crate) mod work;
