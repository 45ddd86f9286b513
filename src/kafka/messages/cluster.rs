//! APIs 35, 60, 74 and 75: the node, its topics, its disk and what has a configuration are described.

use super::NO_OPERATIONS;
use crate::kafka::wire::{Text, Uuid, messages};

messages! {
    /// API 35; null topics: all of them.
    pub(crate) struct DescribeLogDirsRequest (1..=5, flexible 2) {
        topics: Option<Vec<DescribableLogDirTopic>> [0..],
    }

    /// Partitions of a topic.
    pub(crate) struct DescribableLogDirTopic {
        topic: Text [0..],
        partitions: Vec<i32> [0..],
    }

    /// The log directories.
    pub(crate) struct DescribeLogDirsResponse (1..=5, flexible 2) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [3..],
        results: Vec<DescribeLogDirsResult> [0..],
    }

    /// One of them.
    pub(crate) struct DescribeLogDirsResult {
        error_code: i16 [0..],
        log_dir: Text [0..],
        topics: Vec<DescribeLogDirsTopic> [0..],
        total_bytes: i64 [4..] = -1,
        usable_bytes: i64 [4..] = -1,
        is_cordoned: bool [5..],
    }

    /// What a topic takes there.
    pub(crate) struct DescribeLogDirsTopic {
        name: Text [0..],
        partitions: Vec<DescribeLogDirsPartition> [0..],
    }

    /// What a partition takes there, in bytes.
    pub(crate) struct DescribeLogDirsPartition {
        partition_index: i32 [0..],
        partition_size: i64 [0..],
        offset_lag: i64 [0..],
        is_future_key: bool [0..],
    }

    /// API 60; endpoints: 1 of brokers, 2 of controllers.
    pub(crate) struct DescribeClusterRequest (0..=2, flexible 0) {
        include_cluster_authorized_operations: bool [0..],
        endpoint_type: i8 [1..] = 1,
        include_fenced_brokers: bool [2..],
    }

    /// The cluster.
    pub(crate) struct DescribeClusterResponse (0..=2, flexible 0) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        endpoint_type: i8 [1..] = 1,
        cluster_id: Text [0..],
        controller_id: i32 [0..] = -1,
        brokers: Vec<DescribeClusterBroker> [0..],
        cluster_authorized_operations: i32 [0..] = NO_OPERATIONS,
    }

    /// A broker, and where clients reach it.
    pub(crate) struct DescribeClusterBroker {
        broker_id: i32 [0..],
        host: Text [0..],
        port: i32 [0..],
        rack: Option<Text> [0..],
        is_fenced: bool [2..],
    }

    /// API 74; no types: all of them. Version 0 asks for the names of metrics' configurations alone.
    pub(crate) struct ListConfigResourcesRequest (0..=1, flexible 0) {
        resource_types: Vec<i8> [1..],
    }

    /// What has a configuration.
    pub(crate) struct ListConfigResourcesResponse (0..=1, flexible 0) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        config_resources: Vec<ConfigResource> [0..],
    }

    /// Something that has one.
    pub(crate) struct ConfigResource {
        resource_name: Text [0..],
        resource_type: i8 [1..] = 16,
    }

    /// API 75; no topics: all of them.
    pub(crate) struct DescribeTopicPartitionsRequest (0..=0, flexible 0) {
        topics: Vec<DescribableTopic> [0..],
        response_partition_limit: i32 [0..] = 2000,
        cursor: Option<TopicCursor> [0..],
    }

    /// A topic.
    pub(crate) struct DescribableTopic {
        name: Text [0..],
    }

    /// Where a description goes on.
    pub(crate) struct TopicCursor {
        topic_name: Text [0..],
        partition_index: i32 [0..],
    }

    /// The topics in the order of their names, and where to go on.
    pub(crate) struct DescribeTopicPartitionsResponse (0..=0, flexible 0) {
        throttle_time_ms: i32 [0..],
        topics: Vec<DescribedTopic> [0..],
        next_cursor: Option<TopicCursor> [0..],
    }

    /// A topic, or why it is not described.
    pub(crate) struct DescribedTopic {
        error_code: i16 [0..],
        name: Option<Text> [0..],
        topic_id: Uuid [0..],
        is_internal: bool [0..],
        partitions: Vec<DescribedPartition> [0..],
        topic_authorized_operations: i32 [0..] = NO_OPERATIONS,
    }

    /// A partition.
    pub(crate) struct DescribedPartition {
        error_code: i16 [0..],
        partition_index: i32 [0..],
        leader_id: i32 [0..],
        leader_epoch: i32 [0..] = -1,
        replica_nodes: Vec<i32> [0..],
        isr_nodes: Vec<i32> [0..],
        eligible_leader_replicas: Option<Vec<i32>> [0..],
        last_known_elr: Option<Vec<i32>> [0..],
        offline_replicas: Vec<i32> [0..],
    }
}
