//! API 8, OffsetCommit, API 9, OffsetFetch, and API 47, OffsetDelete.

use crate::kafka::wire::{Text, Uuid, messages};

messages! {
    /// Offsets of a group, from a member, or from outside with generation -1 and no member.
    pub(crate) struct OffsetCommitRequest (2..=10, flexible 8) {
        group_id: Text [0..],
        generation_id: i32 [1..] = -1,
        member_id: Text [1..],
        group_instance_id: Option<Text> [7..],
        retention_time_ms: i64 [2..=4] = -1,
        topics: Vec<OffsetCommitTopic> [0..],
    }

    /// Of a topic.
    pub(crate) struct OffsetCommitTopic {
        name: Text [0..=9],
        topic_id: Uuid [10..],
        partitions: Vec<OffsetCommitPartition> [0..],
    }

    /// Of a partition.
    pub(crate) struct OffsetCommitPartition {
        partition_index: i32 [0..],
        committed_offset: i64 [0..],
        committed_leader_epoch: i32 [6..] = -1,
        committed_metadata: Option<Text> [0..],
    }

    /// Whether they are stored.
    pub(crate) struct OffsetCommitResponse (2..=10, flexible 8) {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetCommitTopicResponse> [0..],
    }

    /// Of a topic.
    pub(crate) struct OffsetCommitTopicResponse {
        name: Text [0..=9],
        topic_id: Uuid [10..],
        partitions: Vec<OffsetCommitPartitionResponse> [0..],
    }

    /// Of a partition.
    pub(crate) struct OffsetCommitPartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }

    /// Asks for offsets of a group, or of several from version 8 on; null for all topics.
    pub(crate) struct OffsetFetchRequest (1..=10, flexible 6) {
        group_id: Text [0..=7],
        topics: Option<Vec<OffsetFetchTopic>> [0..=7] null 2,
        groups: Vec<OffsetFetchGroup> [8..],
        require_stable: bool [7..],
    }

    /// Of a topic.
    pub(crate) struct OffsetFetchTopic {
        name: Text [0..],
        partition_indexes: Vec<i32> [0..],
    }

    /// Of a group.
    pub(crate) struct OffsetFetchGroup {
        group_id: Text [8..],
        member_id: Option<Text> [9..],
        member_epoch: i32 [9..] = -1,
        topics: Option<Vec<OffsetFetchGroupTopic>> [8..],
    }

    /// Of a topic.
    pub(crate) struct OffsetFetchGroupTopic {
        name: Text [8..=9],
        topic_id: Uuid [10..],
        partition_indexes: Vec<i32> [8..],
    }

    /// The offsets.
    pub(crate) struct OffsetFetchResponse (1..=10, flexible 6) {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetFetchTopicResponse> [0..=7],
        error_code: i16 [2..=7],
        groups: Vec<OffsetFetchGroupResponse> [8..],
    }

    /// Of a topic.
    pub(crate) struct OffsetFetchTopicResponse {
        name: Text [0..],
        partitions: Vec<OffsetFetchPartitionResponse> [0..],
    }

    /// Of a partition; offset -1 where nothing is committed.
    pub(crate) struct OffsetFetchPartitionResponse {
        partition_index: i32 [0..],
        committed_offset: i64 [0..],
        committed_leader_epoch: i32 [5..] = -1,
        metadata: Option<Text> [0..],
        error_code: i16 [0..],
    }

    /// Of a group.
    pub(crate) struct OffsetFetchGroupResponse {
        group_id: Text [8..],
        topics: Vec<OffsetFetchGroupTopicResponse> [8..],
        error_code: i16 [8..],
    }

    /// Of a topic.
    pub(crate) struct OffsetFetchGroupTopicResponse {
        name: Text [8..=9],
        topic_id: Uuid [10..],
        partitions: Vec<OffsetFetchPartitionResponse> [8..],
    }

    /// Removes offsets of a group.
    pub(crate) struct OffsetDeleteRequest (0..=0, flexible 1) {
        group_id: Text [0..],
        topics: Vec<OffsetDeleteTopic> [0..],
    }

    /// Of a topic.
    pub(crate) struct OffsetDeleteTopic {
        name: Text [0..],
        partitions: Vec<OffsetDeletePartition> [0..],
    }

    /// Of a partition.
    pub(crate) struct OffsetDeletePartition {
        partition_index: i32 [0..],
    }

    /// Whether they are removed.
    pub(crate) struct OffsetDeleteResponse (0..=0, flexible 1) {
        error_code: i16 [0..],
        throttle_time_ms: i32 [0..],
        topics: Vec<OffsetDeleteTopicResponse> [0..],
    }

    /// Of a topic.
    pub(crate) struct OffsetDeleteTopicResponse {
        name: Text [0..],
        partitions: Vec<OffsetDeletePartitionResponse> [0..],
    }

    /// Of a partition.
    pub(crate) struct OffsetDeletePartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
}
