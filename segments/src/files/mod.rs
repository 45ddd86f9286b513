//! The small files of a data directory, and the paths of all its files.
//!
//! Read `layout` first: it names every file. `sealed` is JSON with a checksum, and `description` is a topic's file of
//! that kind. `slots` overwrites two copies of a snapshot in turn, in `codec`'s frame: `checkpoint` and `state`.

pub(crate) mod checkpoint;
pub(crate) mod codec;
pub(crate) mod description;
pub(crate) mod layout;
pub(crate) mod memo;
pub(crate) mod sealed;
pub(crate) mod slots;
pub(crate) mod state;
