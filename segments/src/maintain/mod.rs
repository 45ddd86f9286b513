//! What the log does beside the rounds: syncs and checkpoints, retention, topics that come and go.
//!
//! Read `syncer` first: it makes segments durable in the background, so that journal files can be used again. `retention`
//! chooses what is deleted, `key_log` keeps the idempotency keys' partition short, `topics` makes, changes and deletes
//! topics on disk. All of it queues what must be durable and leaves it to the next round.

mod key_log;
mod retention;
mod syncer;
mod topics;
