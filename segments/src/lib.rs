//! An embedded, partitioned, append-only log.

pub mod batch;
mod clock;
mod disk;
mod error;
mod log;
mod read;
mod segment;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
mod types;

pub use bytes::Bytes;
pub use clock::{Clock, Monotonic};
pub use disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode};
pub use error::{Error, ErrorKind, Result};
pub use log::{
    AppendRequest, Appended, Counters, Health, Log, Options, Part, Partition, PartitionStats, Records,
    StateChange, Ticket, Topic, TopicSettings, TopicSpec, WaitForData,
};
pub use read::{Fetched, Located, ReadRequest, Run};
pub use types::{Ack, FilePos, Offset, PartitionId, Positions, ProducerId, TimestampMs, TopicId};
