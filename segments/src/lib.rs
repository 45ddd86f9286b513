//! An embedded, partitioned, append-only log.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod batch;
mod catalog;
mod checkpoint;
mod clock;
mod codec;
mod committer;
mod disk;
mod engine;
mod error;
mod index;
mod journal;
mod layout;
mod log;
mod map;
mod options;
mod partition;
mod read;
mod recovery;
mod request;
mod retention;
mod segment;
mod slots;
mod state;
mod syncer;
mod ticket;
mod topic;
mod types;

pub use bytes::Bytes;
pub use clock::{Clock, Monotonic, SystemClock};
pub use disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode, RealDisk, raise_file_limit};
pub use engine::Counters;
pub use error::{Error, ErrorKind, Result};
pub use log::{Health, Log};
pub use options::Options;
pub use partition::{Partition, PartitionStats, WaitForData};
pub use read::{Fetched, Located, ReadRequest, Run};
pub use request::{AppendRequest, Part, Records};
pub use state::{StateChange, StateEntry};
pub use ticket::{Appended, Ticket};
pub use topic::{Topic, TopicSettings, TopicSpec};
pub use types::{Ack, FilePos, Offset, PartitionId, Positions, ProducerId, TimestampMs, TopicId};
