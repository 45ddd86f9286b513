//! The log that the service runs on: everything that the broker, and the wires through it, use of an engine.
//!
//! No other file of the service names the engine's crate, the pure formats and the offline tools excepted.

#[cfg(test)]
pub use quipu_segments::sim;
pub use quipu_segments::{
    Ack, AppendRequest, Appended, Clock, DamagedRange, Disk, Error, Fetched, Health, Located, Log, Monotonic,
    Offset, Once, Options, Part, Partition, PartitionId, PartitionStats, Positions, ReadRequest, RealDisk,
    Records, Run, StateChange, StateEntry, SystemClock, Ticket, TimestampMs, Topic, TopicId, TopicSettings,
    TopicSpec, WaitForData, batch, raise_file_limit,
};
