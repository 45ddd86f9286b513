//! APIs 19 to 21 and 37: topics are created and deleted, get more partitions, and lose their oldest records.

use crate::kafka::wire::{Text, Uuid, messages};

messages! {
    /// API 19.
    pub(crate) struct CreateTopicsRequest (1..=7, flexible 5) {
        topics: Vec<CreatableTopic> [0..],
        timeout_ms: i32 [0..] = 60_000,
        validate_only: bool [1..],
    }

    /// A topic to create; -1 partitions or replicas: as the broker's settings say.
    pub(crate) struct CreatableTopic {
        name: Text [0..],
        num_partitions: i32 [0..],
        replication_factor: i16 [0..],
        assignments: Vec<CreatableReplicaAssignment> [0..],
        configs: Vec<CreatableTopicConfig> [0..],
    }

    /// The brokers of a partition.
    pub(crate) struct CreatableReplicaAssignment {
        partition_index: i32 [0..],
        broker_ids: Vec<i32> [0..],
    }

    /// A configuration key.
    pub(crate) struct CreatableTopicConfig {
        name: Text [0..],
        value: Option<Text> [0..],
    }

    /// Whether they are created.
    pub(crate) struct CreateTopicsResponse (1..=7, flexible 5) {
        throttle_time_ms: i32 [2..],
        topics: Vec<CreatableTopicResult> [0..],
    }

    /// Whether one is.
    pub(crate) struct CreatableTopicResult {
        name: Text [0..],
        topic_id: Uuid [7..],
        error_code: i16 [0..],
        error_message: Option<Text> [1..],
        topic_config_error_code: i16 [5..] tag 0,
        num_partitions: i32 [5..] = -1,
        replication_factor: i16 [5..] = -1,
        configs: Option<Vec<CreatableTopicConfigs>> [5..],
    }

    /// A configuration key that it has.
    pub(crate) struct CreatableTopicConfigs {
        name: Text [5..],
        value: Option<Text> [5..],
        read_only: bool [5..],
        config_source: i8 [5..] = -1,
        is_sensitive: bool [5..],
    }

    /// API 20.
    pub(crate) struct DeleteTopicsRequest (1..=6, flexible 4) {
        topics: Vec<DeleteTopicState> [6..],
        topic_names: Vec<Text> [0..=5],
        timeout_ms: i32 [0..],
    }

    /// A topic by its name or its id.
    pub(crate) struct DeleteTopicState {
        name: Option<Text> [6..],
        topic_id: Uuid [6..],
    }

    /// Whether they are deleted.
    pub(crate) struct DeleteTopicsResponse (1..=6, flexible 4) {
        throttle_time_ms: i32 [1..],
        responses: Vec<DeletableTopicResult> [0..],
    }

    /// Whether one is.
    pub(crate) struct DeletableTopicResult {
        name: Option<Text> [0..] null 6,
        topic_id: Uuid [6..],
        error_code: i16 [0..],
        error_message: Option<Text> [5..],
    }

    /// API 21.
    pub(crate) struct DeleteRecordsRequest (0..=2, flexible 2) {
        topics: Vec<DeleteRecordsTopic> [0..],
        timeout_ms: i32 [0..],
    }

    /// Of a topic.
    pub(crate) struct DeleteRecordsTopic {
        name: Text [0..],
        partitions: Vec<DeleteRecordsPartition> [0..],
    }

    /// What is before the offset; -1: all.
    pub(crate) struct DeleteRecordsPartition {
        partition_index: i32 [0..],
        offset: i64 [0..],
    }

    /// Whether they are deleted.
    pub(crate) struct DeleteRecordsResponse (0..=2, flexible 2) {
        throttle_time_ms: i32 [0..],
        topics: Vec<DeleteRecordsTopicResult> [0..],
    }

    /// Of a topic.
    pub(crate) struct DeleteRecordsTopicResult {
        name: Text [0..],
        partitions: Vec<DeleteRecordsPartitionResult> [0..],
    }

    /// The log start from now on.
    pub(crate) struct DeleteRecordsPartitionResult {
        partition_index: i32 [0..],
        low_watermark: i64 [0..],
        error_code: i16 [0..],
    }

    /// API 37.
    pub(crate) struct CreatePartitionsRequest (0..=3, flexible 2) {
        topics: Vec<CreatePartitionsTopic> [0..],
        timeout_ms: i32 [0..],
        validate_only: bool [0..],
    }

    /// How many a topic has from then on.
    pub(crate) struct CreatePartitionsTopic {
        name: Text [0..],
        count: i32 [0..],
        assignments: Option<Vec<CreatePartitionsAssignment>> [0..],
    }

    /// The brokers of a new partition.
    pub(crate) struct CreatePartitionsAssignment {
        broker_ids: Vec<i32> [0..],
    }

    /// Whether they have them.
    pub(crate) struct CreatePartitionsResponse (0..=3, flexible 2) {
        throttle_time_ms: i32 [0..],
        results: Vec<CreatePartitionsTopicResult> [0..],
    }

    /// Whether one has.
    pub(crate) struct CreatePartitionsTopicResult {
        name: Text [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
    }
}
