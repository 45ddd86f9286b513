//! Copies of an open log that hold one moment of it, and data directories that are made of them.
//!
//! ```text
//! {dir}/{name}/backup.json      what the copy is: `running`, `done` or `failed`; with the checksum of contents.json
//! {dir}/{name}/contents.json    every topic with its positions; every file with its length and checksum
//! {dir}/{name}/state            the key-value state, in the frame of a snapshot
//! {dir}/{name}/topics/{topic id}/{partition}/{base offset:020}.log  .index  .timeindex
//! {dir}/.removing-{name}/       a copy that is being removed
//! ```
//!
//! - `capture` notes, between two rounds of the committer, how far every partition is published, and takes the state:
//!   memory only, so appends wait no longer than for a round. What was published is durable and never changes, so the
//!   bytes below these positions can be copied while appends go on (`write`, `files`).
//! - A copy has no journal: it looks like a directory that was closed between two rounds.
//! - Segments that are closed and synced are linked if the file system can do that, and those that are the same in the
//!   newest other copy of this data directory are linked from there. The rest is copied. Linked files are read, too:
//!   one that is not what it was in the other copy is damaged, and the better one of the two is used.
//! - Files that the log has lost are linked from the other copy, too. Where a file of a copy does not begin at the offset
//!   at which the one before it ends, offsets are lost (`holes`): each such range is counted, and every check reports it.
//! - Trims during the copy move the log start in it: files that were removed meanwhile are left out. If a topic is
//!   deleted meanwhile, or the partition of the idempotency keys is trimmed, the copy goes on with a newer moment.
//! - Left out: memos, which the service can do without, indexes of active segments, and the files that a recovery has
//!   put aside because of damage (`*.damaged*`). Damaged records are copied as they are.
//!
//! Crash: `backup.json` says `done` only once every file and every name is durable. A copy without that is never
//! restored. `check` compares a copy with its checksums. `restore` marks the new directory with the file `RESTORING` until it is whole; no log opens it before.

pub(crate) mod capture;
pub(crate) mod check;
mod files;
mod holes;
pub(crate) mod manifest;
mod partition;
pub(crate) mod progress;
pub(crate) mod restore;
pub(crate) mod write;
