//! An embedded, partitioned, append-only log.
//!
//! Topics are split into partitions; a partition is a sequence of records with offsets from 0. Records are stored as
//! record batches (Kafka's version 2) in memory-mapped segments. All partitions share one journal, so one sync makes
//! the appends of every partition durable, however many partitions there are.
//!
//! # Guarantees
//! - An append that asked for [`Ack::Durable`] is answered after the sync: it survives `kill -9` and a power cut.
//! - Readers see a record only when it is durable, so nobody reads what a crash could take back.
//! - After a crash each request is stored whole or not at all, over all its partitions.
//! - Damage in acknowledged data is an error that names the offsets ([`Error::Damaged`]), never a silent gap.
//! - On a full disk appends are refused until there is space again. After a failed sync of the journal all appends are
//!   refused until a restart; after a failed sync of a segment, those to its partition.
//!
//! # Example
//! ```
//! use quipu_segments::batch::{BatchBuilder, Batches, Records as BatchRecords};
//! use quipu_segments::{AppendRequest, Log, Offset, Options, Part, ReadRequest, Records, TimestampMs};
//! use quipu_segments::{TopicSettings, TopicSpec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let log = Log::open(dir.path(), Options::default())?;
//! let spec = TopicSpec::new(1, TopicSettings::default());
//! let topic = log.create_topic("orders", spec)?;
//! let partition = topic.partition(0).expect("it has one");
//!
//! let mut records = BatchBuilder::new();
//! records.push(TimestampMs(1_357_035_420_000), Some(b"N14228"), Some(b"departed"), &[]);
//! let part = Part {
//!     partition: partition.clone(),
//!     records: Records::Loose(records),
//!     expected_offset: None,
//!     json_lines: false,
//! };
//! let appended = log.append(AppendRequest::of(vec![part]))?.wait()?;
//! assert_eq!(appended.base_offsets, [Offset::new(0)]);
//!
//! let fetched = partition.read(ReadRequest::new(Offset::new(0), 1 << 20))?;
//! for run in &fetched.runs {
//!     for batch in Batches::new(&run.bytes) {
//!         for record in BatchRecords::new(batch?.1)? {
//!             assert_eq!(record?.value, Some(&b"departed"[..]));
//!         }
//!     }
//! }
//! log.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//! Read `log` first, then `commit`. A module uses only modules below it in this table; `tests/layers.rs` checks that.
//!
//! | module | holds |
//! |---|---|
//! | `log` | the open log, as callers see it |
//! | `backup` | copies of an open log, and data directories made of them |
//! | `recover`, `offline` | opening after a crash; checking and repairing a directory that is not open |
//! | `commit` | the rounds: plan, write, journal, sync, publish |
//! | `maintain` | syncs in the background, checkpoints, retention, making and deleting topics |
//! | `engine` | what the threads of an open log share |
//! | `append` | requests, their queue, and how duplicates are found: by idempotency key, by producer sequence |
//! | `topic` | topics, partitions and their positions |
//! | `segment` | log files, their indexes, and reading over them |
//! | `journal` | the file that every round is synced in |
//! | `files` | the small files of a directory: descriptions, checkpoint, state |
//! | [`batch`] | the record batch format, without any I/O |
//! | `io` | the seams to the operating system: `disk`, `clock`, `sync` |
//! | `ticket`, `options`, `error`, `types` | the types that all of them use |

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::type_complexity,
        reason = "unit tests damage files on purpose"
    )
)]

mod append;
mod backup;
pub mod batch;
mod commit;
mod engine;
mod error;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod io;
mod journal;
mod log;
mod maintain;
mod offline;
mod options;
mod recover;
mod segment;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
mod ticket;
mod topic;
mod types;

pub use append::producers::KnownProducer;
pub use append::queue::Unqueued;
pub use append::request::{AppendRequest, Once, Part, Receipt, Records};
pub use backup::check::{VerifiedBackup, verify_backup, verify_backup_on};
pub use backup::manifest::{Backup, BackupState, is_backup};
pub use backup::progress::Progress;
pub use backup::restore::{IfDamaged, Restored, restore, restore_on};
pub use bytes::Bytes;
pub use engine::{Counters, JOURNAL_SYNC_BOUNDS_US};
pub use error::{Error, ErrorKind, Result};
pub use files::description::{TopicSettings, TopicSpec};
pub use files::state::{StateChange, StateEntry};
pub use io::clock::{Clock, Monotonic, SystemClock};
pub use io::disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode, RealDisk, raise_file_limit};
pub use log::{DiskUsage, Health, Log};
pub use offline::finding::{Finding, Verified};
pub use offline::inspect::{Inspected, InspectedPart, InspectedValue, inspect};
pub use offline::repair::{Mended, Repaired, repair, repair_on};
pub use offline::verify::{verify, verify_on};
pub use options::Options;
pub use segment::damage::DamagedRange;
pub use segment::read::{Fetched, Located, ReadRequest, Run};
pub use ticket::{Appended, Ticket};
pub use topic::Topic;
pub use topic::partition::{Partition, PartitionStats, WaitForData};
pub use types::{Ack, FilePos, Offset, PartitionId, Positions, ProducerId, TimestampMs, TopicId};
