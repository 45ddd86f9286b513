//! The small files of a data directory, and the names of all of them.
//!
//! Read `layout` first: it names every file. `sealed` holds JSON with a checksum, and `description` is the one of a topic.
//! `slots` holds two snapshots that are overwritten in turn, in the frame of `codec`: the `checkpoint` and the `state`.

pub(crate) mod checkpoint;
pub(crate) mod codec;
pub(crate) mod description;
pub(crate) mod layout;
pub(crate) mod sealed;
pub(crate) mod slots;
pub(crate) mod state;
