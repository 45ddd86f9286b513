//! API 2, ListOffsets, and API 23, OffsetForLeaderEpoch.

use crate::kafka::wire::{Text, messages};

messages! {
    /// Asks for offsets by time.
    pub(crate) struct ListOffsetsRequest (1..=11, flexible 6) {
        replica_id: i32 [0..] = -1,
        isolation_level: i8 [2..],
        topics: Vec<ListOffsetsTopic> [0..],
        timeout_ms: i32 [10..],
    }

    /// Of a topic.
    pub(crate) struct ListOffsetsTopic {
        name: Text [0..],
        partitions: Vec<ListOffsetsPartition> [0..],
    }

    /// A time in a partition, or a negative number with a meaning of its own.
    pub(crate) struct ListOffsetsPartition {
        partition_index: i32 [0..],
        current_leader_epoch: i32 [4..] = -1,
        timestamp: i64 [0..],
    }

    /// The offsets.
    pub(crate) struct ListOffsetsResponse (1..=11, flexible 6) {
        throttle_time_ms: i32 [2..],
        topics: Vec<ListOffsetsTopicResponse> [0..],
    }

    /// Of a topic.
    pub(crate) struct ListOffsetsTopicResponse {
        name: Text [0..],
        partitions: Vec<ListOffsetsPartitionResponse> [0..],
    }

    /// An offset with its record's timestamp; -1 for both where there is none.
    pub(crate) struct ListOffsetsPartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        timestamp: i64 [1..] = -1,
        offset: i64 [1..] = -1,
        leader_epoch: i32 [4..] = -1,
    }

    /// Asks where epochs end.
    pub(crate) struct OffsetForLeaderEpochRequest (2..=4, flexible 4) {
        replica_id: i32 [3..] = -2,
        topics: Vec<OffsetForLeaderTopic> [0..],
    }

    /// Of a topic.
    pub(crate) struct OffsetForLeaderTopic {
        topic: Text [0..],
        partitions: Vec<OffsetForLeaderPartition> [0..],
    }

    /// Of a partition.
    pub(crate) struct OffsetForLeaderPartition {
        partition: i32 [0..],
        current_leader_epoch: i32 [2..] = -1,
        leader_epoch: i32 [0..],
    }

    /// Where they end.
    pub(crate) struct OffsetForLeaderEpochResponse (2..=4, flexible 4) {
        throttle_time_ms: i32 [2..],
        topics: Vec<OffsetForLeaderTopicResult> [0..],
    }

    /// Of a topic.
    pub(crate) struct OffsetForLeaderTopicResult {
        topic: Text [0..],
        partitions: Vec<OffsetForLeaderPartitionResult> [0..],
    }

    /// Of a partition.
    pub(crate) struct OffsetForLeaderPartitionResult {
        error_code: i16 [0..],
        partition: i32 [0..],
        leader_epoch: i32 [1..] = -1,
        end_offset: i64 [0..] = -1,
    }
}
