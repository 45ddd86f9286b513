//! API 0, Produce, and API 22, InitProducerId.

use bytes::BytesMut;

use crate::kafka::wire::{Text, Uuid, messages};

messages! {
    /// Record batches, one for each partition.
    pub(crate) struct ProduceRequest (3..=13, flexible 9) {
        transactional_id: Option<Text> [3..],
        /// 0: no answer; 1: written; -1: durable.
        acks: i16 [0..],
        timeout_ms: i32 [0..],
        topic_data: Vec<ProduceTopic> [0..],
    }

    /// The batches for a topic.
    pub(crate) struct ProduceTopic {
        name: Text [0..=12],
        topic_id: Uuid [13..],
        partition_data: Vec<ProducePartition> [0..],
    }

    /// The batch for a partition.
    pub(crate) struct ProducePartition {
        index: i32 [0..],
        records: Option<BytesMut> [0..],
    }

    /// Where the batches lie, or why they are not stored.
    pub(crate) struct ProduceResponse (3..=13, flexible 9) {
        responses: Vec<ProduceTopicResponse> [0..],
        throttle_time_ms: i32 [1..],
        node_endpoints: Vec<ProduceNode> [10..] tag 0,
    }

    /// Of a topic.
    pub(crate) struct ProduceTopicResponse {
        name: Text [0..=12],
        topic_id: Uuid [13..],
        partition_responses: Vec<ProducePartitionResponse> [0..],
    }

    /// Of a partition.
    pub(crate) struct ProducePartitionResponse {
        index: i32 [0..],
        error_code: i16 [0..],
        base_offset: i64 [0..],
        log_append_time_ms: i64 [2..] = -1,
        log_start_offset: i64 [5..] = -1,
        record_errors: Vec<BatchIndexAndErrorMessage> [8..],
        error_message: Option<Text> [8..],
        current_leader: ProduceLeader [10..] tag 0,
    }

    /// A record that is at fault.
    pub(crate) struct BatchIndexAndErrorMessage {
        batch_index: i32 [8..],
        batch_index_error_message: Option<Text> [8..],
    }

    /// The leader, if it is another one by now.
    pub(crate) struct ProduceLeader {
        leader_id: i32 [10..] = -1,
        leader_epoch: i32 [10..] = -1,
    }

    /// Where that leader is.
    pub(crate) struct ProduceNode {
        node_id: i32 [10..],
        host: Text [10..],
        port: i32 [10..],
        rack: Option<Text> [10..],
    }

    /// Asks for a producer id.
    pub(crate) struct InitProducerIdRequest (0..=5, flexible 2) {
        transactional_id: Option<Text> [0..],
        transaction_timeout_ms: i32 [0..],
        producer_id: i64 [3..] = -1,
        producer_epoch: i16 [3..] = -1,
    }

    /// The producer id.
    pub(crate) struct InitProducerIdResponse (0..=5, flexible 2) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        producer_id: i64 [0..] = -1,
        producer_epoch: i16 [0..],
    }
}
