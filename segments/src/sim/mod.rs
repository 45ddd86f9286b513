//! A simulated disk and clock: tests run the whole engine on them, through every crash that real ones can cause.
//!
//! [`SimDisk`] is a file system in memory. Every file and directory has two states: *current*, which is what calls see,
//! and *durable*, which is what the medium holds. It is harsher than any real file system: it allows what each may do.
//!
//! - A power cut keeps, loses or tears (by 512-byte sectors) every 4 KiB page written since the file's last sync, each
//!   independently, so that later writes may be there without earlier ones. The length is old, new, or between.
//! - Syncing a file does not make its name durable; only [`crate::Disk::sync_dir`] of its directory does. Each unsynced
//!   name may appear, vanish or move independently; a rename happens whole or not at all.
//! - A failed sync drops dirty pages: reads still show them, later syncs succeed, and the medium never has them.
//! - A bit may be flipped when a page comes into memory; the page cache shows it to everybody until it reads the page again.
//! - A full disk fails a write in the middle.
//! - Every directory of the root counts as a file system of its own for hard links, and only for these.
//!
//! All chance comes from the seed and the order of calls: an engine that makes the same calls meets the same faults.
//!
//! ```
//! use std::io::IoSlice;
//! use std::path::Path;
//! use quipu_segments::sim::SimDisk;
//! use quipu_segments::{Disk, OpenMode};
//!
//! let disk = SimDisk::new(42);
//! let file = disk.open(Path::new("/a"), OpenMode::Create)?;
//! file.write_all_at(&[IoSlice::new(b"safe")], 0)?;
//! file.sync_data()?;
//! disk.sync_dir(Path::new("/"))?;
//! file.write_all_at(&[IoSlice::new(b"perhaps")], 4)?;
//!
//! let found = disk.after_power_cut();
//! assert!(file.len().is_err(), "the old machine is off");
//! assert!(found.contents(Path::new("/a")).unwrap().starts_with(b"safe"));
//! # std::io::Result::Ok(())
//! ```

mod calls;
mod clock;
mod disk;
mod faults;
mod file;
mod layer;
mod pages;
mod rng;
mod tree;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use faults::{Failed, Fault, FaultError, IoKind, Lie};
pub use layer::{DiskLayer, FileLayer, Layered, LayeredFile, is_journal};
pub use rng::Rng;
