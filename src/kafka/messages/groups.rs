//! APIs 11 to 16 and 42: members of classic groups, and what others ask of groups.

use bytes::Bytes;

use super::NO_OPERATIONS;
use crate::kafka::wire::{Text, messages};

messages! {
    /// API 11: a member joins, or joins again.
    pub(crate) struct JoinGroupRequest (0..=9, flexible 6) {
        group_id: Text [0..],
        session_timeout_ms: i32 [0..],
        rebalance_timeout_ms: i32 [1..] = -1,
        member_id: Text [0..],
        group_instance_id: Option<Text> [5..],
        protocol_type: Text [0..],
        protocols: Vec<JoinGroupProtocol> [0..],
        reason: Option<Text> [8..],
    }

    /// A way of assigning that a member knows, with what it says for it.
    pub(crate) struct JoinGroupProtocol {
        name: Text [0..],
        metadata: Bytes [0..],
    }

    /// The generation; its leader gets the members.
    pub(crate) struct JoinGroupResponse (0..=9, flexible 6) {
        throttle_time_ms: i32 [2..],
        error_code: i16 [0..],
        generation_id: i32 [0..] = -1,
        protocol_type: Option<Text> [7..],
        protocol_name: Option<Text> [0..] null 7,
        leader: Text [0..],
        skip_assignment: bool [9..],
        member_id: Text [0..],
        members: Vec<JoinGroupMember> [0..],
    }

    /// A member, for the leader.
    pub(crate) struct JoinGroupMember {
        member_id: Text [0..],
        group_instance_id: Option<Text> [5..],
        metadata: Bytes [0..],
    }

    /// API 12: a member lives.
    pub(crate) struct HeartbeatRequest (0..=4, flexible 4) {
        group_id: Text [0..],
        generation_id: i32 [0..],
        member_id: Text [0..],
        group_instance_id: Option<Text> [3..],
    }

    /// Whether it is one still.
    pub(crate) struct HeartbeatResponse (0..=4, flexible 4) {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
    }

    /// API 13: members leave; one before version 3, several from then on.
    pub(crate) struct LeaveGroupRequest (0..=5, flexible 4) {
        group_id: Text [0..],
        member_id: Text [0..=2],
        members: Vec<LeavingMember> [3..],
    }

    /// A member that leaves.
    pub(crate) struct LeavingMember {
        member_id: Text [3..],
        group_instance_id: Option<Text> [3..],
        reason: Option<Text> [5..],
    }

    /// Whether they have left.
    pub(crate) struct LeaveGroupResponse (0..=5, flexible 4) {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
        members: Vec<LeftMember> [3..],
    }

    /// Whether one has left.
    pub(crate) struct LeftMember {
        member_id: Text [3..],
        group_instance_id: Option<Text> [3..],
        error_code: i16 [3..],
    }

    /// API 14: the leader says who gets what, and everybody asks for it.
    pub(crate) struct SyncGroupRequest (0..=5, flexible 4) {
        group_id: Text [0..],
        generation_id: i32 [0..],
        member_id: Text [0..],
        group_instance_id: Option<Text> [3..],
        protocol_type: Option<Text> [5..],
        protocol_name: Option<Text> [5..],
        assignments: Vec<SyncGroupAssignment> [0..],
    }

    /// What a member gets.
    pub(crate) struct SyncGroupAssignment {
        member_id: Text [0..],
        assignment: Bytes [0..],
    }

    /// What the member gets.
    pub(crate) struct SyncGroupResponse (0..=5, flexible 4) {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
        protocol_type: Option<Text> [5..],
        protocol_name: Option<Text> [5..],
        assignment: Bytes [0..],
    }

    /// API 15: asks for groups with their members.
    pub(crate) struct DescribeGroupsRequest (0..=6, flexible 5) {
        groups: Vec<Text> [0..],
        include_authorized_operations: bool [3..],
    }

    /// The groups.
    pub(crate) struct DescribeGroupsResponse (0..=6, flexible 5) {
        throttle_time_ms: i32 [1..],
        groups: Vec<DescribedGroup> [0..],
    }

    /// A group.
    pub(crate) struct DescribedGroup {
        error_code: i16 [0..],
        error_message: Option<Text> [6..],
        group_id: Text [0..],
        group_state: Text [0..],
        protocol_type: Text [0..],
        protocol_data: Text [0..],
        members: Vec<DescribedMember> [0..],
        authorized_operations: i32 [3..] = NO_OPERATIONS,
    }

    /// A member.
    pub(crate) struct DescribedMember {
        member_id: Text [0..],
        group_instance_id: Option<Text> [4..],
        client_id: Text [0..],
        client_host: Text [0..],
        member_metadata: Bytes [0..],
        member_assignment: Bytes [0..],
    }

    /// API 16: asks for all groups.
    pub(crate) struct ListGroupsRequest (0..=5, flexible 3) {
        states_filter: Vec<Text> [4..],
        types_filter: Vec<Text> [5..],
    }

    /// The groups.
    pub(crate) struct ListGroupsResponse (0..=5, flexible 3) {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
        groups: Vec<ListedGroup> [0..],
    }

    /// A group.
    pub(crate) struct ListedGroup {
        group_id: Text [0..],
        protocol_type: Text [0..],
        group_state: Text [4..],
        group_type: Text [5..],
    }

    /// API 42: deletes groups.
    pub(crate) struct DeleteGroupsRequest (0..=3, flexible 2) {
        groups_names: Vec<Text> [0..],
    }

    /// Whether they are deleted.
    pub(crate) struct DeleteGroupsResponse (0..=3, flexible 2) {
        throttle_time_ms: i32 [0..],
        results: Vec<DeletableGroupResult> [0..],
    }

    /// Whether one is.
    pub(crate) struct DeletableGroupResult {
        group_id: Text [0..],
        error_code: i16 [0..],
        error_message: Option<Text> [3..],
    }
}
