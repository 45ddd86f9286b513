//! APIs 61, 65 and 66: producers and transactions are described.

use crate::kafka::wire::{Text, messages};

messages! {
    /// API 61.
    pub(crate) struct DescribeProducersRequest (0..=0, flexible 0) {
        topics: Vec<DescribeProducersTopic> [0..],
    }

    /// Partitions of a topic.
    pub(crate) struct DescribeProducersTopic {
        name: Text [0..],
        partition_indexes: Vec<i32> [0..],
    }

    /// The producers.
    pub(crate) struct DescribeProducersResponse (0..=0, flexible 0) {
        throttle_time_ms: i32 [0..],
        topics: Vec<DescribeProducersTopicResponse> [0..],
    }

    /// Those of a topic.
    pub(crate) struct DescribeProducersTopicResponse {
        name: Text [0..],
        partitions: Vec<DescribeProducersPartition> [0..],
    }

    /// Those of a partition.
    pub(crate) struct DescribeProducersPartition {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        active_producers: Vec<ProducerState> [0..],
    }

    /// A producer.
    pub(crate) struct ProducerState {
        producer_id: i64 [0..],
        producer_epoch: i32 [0..],
        last_sequence: i32 [0..] = -1,
        last_timestamp: i64 [0..] = -1,
        coordinator_epoch: i32 [0..],
        current_txn_start_offset: i64 [0..] = -1,
    }

    /// API 65.
    pub(crate) struct DescribeTransactionsRequest (0..=0, flexible 0) {
        transactional_ids: Vec<Text> [0..],
    }

    /// The transactions.
    pub(crate) struct DescribeTransactionsResponse (0..=0, flexible 0) {
        throttle_time_ms: i32 [0..],
        transaction_states: Vec<DescribedTransaction> [0..],
    }

    /// One of them.
    pub(crate) struct DescribedTransaction {
        error_code: i16 [0..],
        transactional_id: Text [0..],
        transaction_state: Text [0..],
        transaction_timeout_ms: i32 [0..],
        transaction_start_time_ms: i64 [0..],
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        topics: Vec<TransactionTopic> [0..],
    }

    /// The partitions of a topic that a transaction has written to.
    pub(crate) struct TransactionTopic {
        topic: Text [0..],
        partitions: Vec<i32> [0..],
    }

    /// API 66; empty filters: all.
    pub(crate) struct ListTransactionsRequest (0..=2, flexible 0) {
        state_filters: Vec<Text> [0..],
        producer_id_filters: Vec<i64> [0..],
        duration_filter: i64 [1..] = -1,
        transactional_id_pattern: Option<Text> [2..],
    }

    /// The transactions.
    pub(crate) struct ListTransactionsResponse (0..=2, flexible 0) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        unknown_state_filters: Vec<Text> [0..],
        transaction_states: Vec<ListedTransaction> [0..],
    }

    /// One of them.
    pub(crate) struct ListedTransaction {
        transactional_id: Text [0..],
        producer_id: i64 [0..],
        transaction_state: Text [0..],
    }
}
