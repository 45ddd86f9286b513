//! The log's work outside of the rounds: syncs, checkpoints, retention, and making and deleting topics.
//!
//! Read `syncer` first: it makes segments durable in the background, so that journal files can be used again.
//! `retention` chooses what is deleted, `key_log` keeps the idempotency keys' partition short, `topics` makes, changes
//! and deletes topics on disk. Changes that belong in the journal are queued for the next round.

mod key_log;
mod retention;
mod syncer;
pub(crate) mod topics;
