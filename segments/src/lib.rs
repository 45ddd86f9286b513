//! An embedded, partitioned, append-only log.
//!
//! Topics are split into partitions; a partition is a sequence of records with offsets from 0. Records lie in
//! memory-mapped segments as record batches (version 2, as Kafka has them), behind one journal that all partitions
//! share: one sync makes the appends of every partition durable, however many they are.
//!
//! # Guarantees
//! - An append that asked for [`Ack::Durable`] is answered after the sync: it survives `kill -9` and a power cut.
//! - Readers see a record only when it is durable, so nobody reads what a crash could take back.
//! - All of a request is there after a crash, over all its partitions, or nothing of it.
//! - Damage inside of acknowledged data is an error that names the offsets ([`Error::Damaged`]), never a silent gap.
//! - On a full disk appends are refused and go on by themselves; after a failed sync they are refused until a restart.
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
//! let spec = TopicSpec { partitions: 1, settings: TopicSettings::default(), properties: Default::default() };
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
//! let appended = log.append(AppendRequest { parts: vec![part], ..Default::default() })?.wait()?;
//! assert_eq!(appended.base_offsets, [Offset::new(0)]);
//!
//! let fetched = partition.read(ReadRequest { from: Offset::new(0), until: None, max_bytes: 1 << 20 })?;
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
//! | module | holds |
//! |---|---|
//! | `log`, `options`, `engine` | the open log and what its parts share |
//! | `request`, `ticket`, `committer` | appends: the queue, the answers, the rounds |
//! | `journal` | the file that every round is synced in |
//! | `keys`, `producers` | what is appended once: by a key, by a producer's sequence |
//! | `partition`, `topic`, `catalog` | what there is, and its positions |
//! | `segment`, `index`, `read`, `map` | log files, what finds a place in them, reading |
//! | `syncer`, `checkpoint`, `state`, `slots` | making segments durable in the background, and the snapshots |
//! | `recovery`, `retention`, `verify` | opening after a crash; deleting what is old; checking offline |
//! | [`batch`] | the record batch format, without any I/O |
//! | `disk`, `clock`, `sync` | the seams to the operating system |

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::type_complexity,
        reason = "unit tests damage files on purpose"
    )
)]

pub mod batch;
mod catalog;
mod checkpoint;
mod clock;
mod codec;
mod committer;
mod damage;
mod describe;
mod disk;
mod engine;
mod error;
mod finding;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod index;
mod journal;
mod keys;
mod layout;
mod log;
mod map;
mod options;
mod partition;
mod producers;
mod read;
mod recovery;
mod repair;
mod request;
mod retention;
mod segment;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
mod slots;
mod state;
mod sync;
mod syncer;
mod ticket;
mod topic;
mod types;
mod verify;

pub use bytes::Bytes;
pub use clock::{Clock, Monotonic, SystemClock};
pub use damage::DamagedRange;
pub use disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode, RealDisk, raise_file_limit};
pub use engine::Counters;
pub use error::{Error, ErrorKind, Result};
pub use finding::{Finding, Verified};
pub use log::{Health, Log};
pub use options::Options;
pub use partition::{Partition, PartitionStats, WaitForData};
pub use read::{Fetched, Located, ReadRequest, Run};
pub use repair::{Mended, Repaired, repair, repair_on};
pub use request::{AppendRequest, Once, Part, Records};
pub use state::{StateChange, StateEntry};
pub use ticket::{Appended, Ticket};
pub use topic::{Topic, TopicSettings, TopicSpec};
pub use types::{Ack, FilePos, Offset, PartitionId, Positions, ProducerId, TimestampMs, TopicId};
pub use verify::{verify, verify_on};
