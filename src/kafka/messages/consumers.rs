//! APIs 68 and 69: members of groups by the server-side protocol (KIP-848).

use super::NO_OPERATIONS;
use crate::kafka::wire::{Text, Uuid, messages};

messages! {
    /// API 68: a member joins (epoch 0), lives, or leaves (-1; -2: a static member that comes back). Null: as before.
    pub(crate) struct ConsumerGroupHeartbeatRequest (0..=1, flexible 0) {
        group_id: Text [0..],
        member_id: Text [0..],
        member_epoch: i32 [0..],
        instance_id: Option<Text> [0..],
        rack_id: Option<Text> [0..],
        rebalance_timeout_ms: i32 [0..] = -1,
        subscribed_topic_names: Option<Vec<Text>> [0..],
        subscribed_topic_regex: Option<Text> [1..],
        server_assignor: Option<Text> [0..],
        topic_partitions: Option<Vec<TopicIdPartitions>> [0..],
    }

    /// Partitions of a topic.
    pub(crate) struct TopicIdPartitions {
        topic_id: Uuid [0..],
        partitions: Vec<i32> [0..],
    }

    /// What the member is to read; null: as before.
    pub(crate) struct ConsumerGroupHeartbeatResponse (0..=1, flexible 0) {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        member_id: Option<Text> [0..],
        member_epoch: i32 [0..],
        heartbeat_interval_ms: i32 [0..],
        assignment: Option<HeartbeatAssignment> [0..],
    }

    /// An assignment.
    pub(crate) struct HeartbeatAssignment {
        topic_partitions: Vec<TopicIdPartitions> [0..],
    }

    /// API 69: asks for groups with their members.
    pub(crate) struct ConsumerGroupDescribeRequest (0..=1, flexible 0) {
        group_ids: Vec<Text> [0..],
        include_authorized_operations: bool [0..],
    }

    /// The groups.
    pub(crate) struct ConsumerGroupDescribeResponse (0..=1, flexible 0) {
        throttle_time_ms: i32 [0..],
        groups: Vec<DescribedConsumerGroup> [0..],
    }

    /// A group.
    pub(crate) struct DescribedConsumerGroup {
        error_code: i16 [0..],
        error_message: Option<Text> [0..],
        group_id: Text [0..],
        group_state: Text [0..],
        group_epoch: i32 [0..],
        assignment_epoch: i32 [0..],
        assignor_name: Text [0..],
        members: Vec<DescribedConsumer> [0..],
        authorized_operations: i32 [0..] = NO_OPERATIONS,
    }

    /// A member.
    pub(crate) struct DescribedConsumer {
        member_id: Text [0..],
        instance_id: Option<Text> [0..],
        rack_id: Option<Text> [0..],
        member_epoch: i32 [0..],
        client_id: Text [0..],
        client_host: Text [0..],
        subscribed_topic_names: Vec<Text> [0..],
        subscribed_topic_regex: Option<Text> [0..],
        assignment: ConsumerAssignment [0..],
        target_assignment: ConsumerAssignment [0..],
        /// 0: of the client-side protocol, 1: of this one, -1: of neither.
        member_type: i8 [1..] = -1,
    }

    /// An assignment.
    pub(crate) struct ConsumerAssignment {
        topic_partitions: Vec<NamedTopicPartitions> [0..],
    }

    /// Partitions of a topic, with its name.
    pub(crate) struct NamedTopicPartitions {
        topic_id: Uuid [0..],
        topic_name: Text [0..],
        partitions: Vec<i32> [0..],
    }
}
