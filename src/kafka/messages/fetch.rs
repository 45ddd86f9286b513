//! API 1, Fetch.

use crate::kafka::wire::{Records, Text, Uuid, messages};

messages! {
    /// Asks for record batches, and waits for them.
    pub(crate) struct FetchRequest (4..=18, flexible 12) {
        cluster_id: Option<Text> [12..] tag 0,
        replica_id: i32 [0..=14] = -1,
        replica_state: ReplicaState [15..] tag 1,
        max_wait_ms: i32 [0..],
        min_bytes: i32 [0..],
        max_bytes: i32 [3..] = i32::MAX,
        isolation_level: i8 [4..],
        session_id: i32 [7..],
        session_epoch: i32 [7..] = -1,
        topics: Vec<FetchTopic> [0..],
        forgotten_topics_data: Vec<ForgottenTopic> [7..],
        rack_id: Text [11..],
    }

    /// The broker that asks, if one does.
    pub(crate) struct ReplicaState {
        replica_id: i32 [15..] = -1,
        replica_epoch: i64 [15..] = -1,
    }

    /// A topic, by name or by id.
    pub(crate) struct FetchTopic {
        topic: Text [0..=12],
        topic_id: Uuid [13..],
        partitions: Vec<FetchPartition> [0..],
    }

    /// Where to begin in a partition.
    pub(crate) struct FetchPartition {
        partition: i32 [0..],
        current_leader_epoch: i32 [9..] = -1,
        fetch_offset: i64 [0..],
        last_fetched_epoch: i32 [12..] = -1,
        log_start_offset: i64 [5..] = -1,
        partition_max_bytes: i32 [0..],
        replica_directory_id: Uuid [17..] tag 0,
        high_watermark: i64 [18..] tag 1 = i64::MAX,
    }

    /// Partitions that leave the session.
    pub(crate) struct ForgottenTopic {
        topic: Text [7..=12],
        topic_id: Uuid [13..],
        partitions: Vec<i32> [7..],
    }

    /// Record batches.
    pub(crate) struct FetchResponse (4..=18, flexible 12) {
        throttle_time_ms: i32 [1..],
        error_code: i16 [7..],
        session_id: i32 [7..],
        responses: Vec<FetchTopicResponse> [0..],
        node_endpoints: Vec<FetchNode> [16..] tag 0,
    }

    /// Of a topic.
    pub(crate) struct FetchTopicResponse {
        topic: Text [0..=12],
        topic_id: Uuid [13..],
        partitions: Vec<FetchPartitionResponse> [0..],
    }

    /// Of a partition.
    pub(crate) struct FetchPartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        high_watermark: i64 [0..],
        last_stable_offset: i64 [4..] = -1,
        log_start_offset: i64 [5..] = -1,
        diverging_epoch: EpochEndOffset [12..] tag 0,
        current_leader: FetchLeader [12..] tag 1,
        snapshot_id: SnapshotId [12..] tag 2,
        aborted_transactions: Option<Vec<AbortedTransaction>> [4..],
        preferred_read_replica: i32 [11..] = -1,
        records: Records [0..],
    }

    /// Where a larger epoch begins.
    pub(crate) struct EpochEndOffset {
        epoch: i32 [12..] = -1,
        end_offset: i64 [12..] = -1,
    }

    /// The leader, if it is another one by now.
    pub(crate) struct FetchLeader {
        leader_id: i32 [12..] = -1,
        leader_epoch: i32 [12..] = -1,
    }

    /// A snapshot of a log of brokers.
    pub(crate) struct SnapshotId {
        end_offset: i64 [0..] = -1,
        epoch: i32 [0..] = -1,
    }

    /// A transaction whose records are to be passed over.
    pub(crate) struct AbortedTransaction {
        producer_id: i64 [4..],
        first_offset: i64 [4..],
    }

    /// Where that leader is.
    pub(crate) struct FetchNode {
        node_id: i32 [16..],
        host: Text [16..],
        port: i32 [16..],
        rack: Option<Text> [16..],
    }
}
