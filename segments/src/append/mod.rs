//! Appends before the committer takes them: requests, their queue, and what is remembered to find duplicates.
//!
//! Read `request` first, then `queue`. `keys` remembers requests by their idempotency key, `producers` remembers batches
//! by their producer's sequence, `room` decides which of them are forgotten. The committer (`commit`) takes requests from the queue.

pub(crate) mod keys;
pub(crate) mod producers;
pub(crate) mod queue;
pub(crate) mod request;
mod room;
