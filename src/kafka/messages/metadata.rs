//! API 3, Metadata: the brokers, and the topics with their partitions.

use super::NO_OPERATIONS;
use crate::kafka::wire::{Text, Uuid, messages};

messages! {
    /// Asks for topics: null for all of them, which in version 0 is the empty array.
    pub(crate) struct MetadataRequest (0..=13, flexible 9) {
        topics: Option<Vec<MetadataRequestTopic>> [0..] null 1,
        allow_auto_topic_creation: bool [4..] = true,
        include_cluster_authorized_operations: bool [8..=10],
        include_topic_authorized_operations: bool [8..],
    }

    /// A topic by its id (version 12 on), or by its name.
    pub(crate) struct MetadataRequestTopic {
        topic_id: Uuid [10..],
        name: Option<Text> [0..] null 10,
    }

    /// The cluster.
    pub(crate) struct MetadataResponse (0..=13, flexible 9) {
        throttle_time_ms: i32 [3..],
        brokers: Vec<MetadataBroker> [0..],
        cluster_id: Option<Text> [2..],
        controller_id: i32 [1..] = -1,
        topics: Vec<MetadataTopic> [0..],
        cluster_authorized_operations: i32 [8..=10] = NO_OPERATIONS,
        error_code: i16 [13..],
    }

    /// A broker, and where clients reach it.
    pub(crate) struct MetadataBroker {
        node_id: i32 [0..],
        host: Text [0..],
        port: i32 [0..],
        rack: Option<Text> [1..],
    }

    /// A topic, or why it is not described.
    pub(crate) struct MetadataTopic {
        error_code: i16 [0..],
        name: Option<Text> [0..] null 12,
        topic_id: Uuid [10..],
        is_internal: bool [1..],
        partitions: Vec<MetadataPartition> [0..],
        topic_authorized_operations: i32 [8..] = NO_OPERATIONS,
    }

    /// A partition.
    pub(crate) struct MetadataPartition {
        error_code: i16 [0..],
        partition_index: i32 [0..],
        leader_id: i32 [0..],
        leader_epoch: i32 [7..] = -1,
        replica_nodes: Vec<i32> [0..],
        isr_nodes: Vec<i32> [0..],
        offline_replicas: Vec<i32> [5..],
    }
}
