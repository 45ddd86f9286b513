//! APIs 68 and 69: members of groups by the server-side protocol (KIP-848).

use std::sync::Arc;

use super::admin::repeated;
use super::call::{Call, Hangup, Room};
use super::errors::ErrorCode;
use super::groups::{CROWDED, host, operations};
use super::messages::NO_OPERATIONS;
use super::messages::consumers::{
    ConsumerAssignment, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, DescribedConsumer, DescribedConsumerGroup,
    HeartbeatAssignment, NamedTopicPartitions, TopicIdPartitions,
};
use super::wire::Text;
use crate::broker::caller::Shown;
use crate::broker::engine::{PartitionId, TopicId};
use crate::broker::groups::classic::Denied;
use crate::broker::groups::classic::calls::fresh_id;
use crate::broker::groups::consumers::views::{ConsumerGroup, ConsumerMember};
use crate::broker::groups::consumers::{Beat, Beaten, JoiningConsumer, Saying, Who};

/// From this version on a member makes its own id.
const MAKES_ITS_ID: i16 = 1;
/// The epochs of a heartbeat that is none.
const JOINS: i32 = 0;
const LEAVES: i32 = -1;
const LEAVES_FOR_A_WHILE: i32 = -2;

/// Lets a member join, live or leave, and tells it what it is to read.
pub(crate) async fn heartbeat(
    call: &Call,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Hangup> {
    let beaten = match wrong(call, &request) {
        Some(detail) => Err(Denied::Invalid(detail.to_owned())),
        None => beat(call, &request).await,
    };
    Ok(beaten.unwrap_or_else(|denied| ConsumerGroupHeartbeatResponse {
        error_code: call.failed(ErrorCode::of_denied(&denied)),
        error_message: message(&denied).map(Text::from),
        ..ConsumerGroupHeartbeatResponse::default()
    }))
}

/// What is wrong with the form of a heartbeat.
fn wrong(call: &Call, request: &ConsumerGroupHeartbeatRequest) -> Option<&'static str> {
    let is_blank = |text: &str| text.trim().is_empty();
    let given = |text: &Option<Text>| text.as_deref().is_some_and(is_blank);
    let epoch = request.member_epoch;
    let needs_id = call.version >= MAKES_ITS_ID || epoch != JOINS;
    if needs_id && is_blank(&request.member_id) {
        return Some("MemberId can't be empty.");
    }
    if is_blank(&request.group_id) {
        return Some("GroupId can't be empty.");
    }
    if given(&request.instance_id) {
        return Some("InstanceId can't be empty.");
    }
    if given(&request.rack_id) {
        return Some("RackId can't be empty.");
    }
    if epoch < LEAVES_FOR_A_WHILE {
        return Some("MemberEpoch is invalid.");
    }
    if epoch == LEAVES_FOR_A_WHILE && request.instance_id.is_none() {
        return Some("InstanceId can't be null.");
    }
    if epoch != JOINS {
        return None;
    }
    let names = request.subscribed_topic_names.as_deref().unwrap_or_default();
    let regex = request.subscribed_topic_regex.as_deref().unwrap_or_default();
    if request.rebalance_timeout_ms < 0 {
        Some("RebalanceTimeoutMs must be provided in first request.")
    } else if request
        .topic_partitions
        .as_ref()
        .is_none_or(|owned| !owned.is_empty())
    {
        Some("TopicPartitions must be empty when (re-)joining.")
    } else if names.is_empty() && regex.is_empty() {
        Some("Either SubscribedTopicNames or SubscribedTopicRegex must be non-empty when (re-)joining.")
    } else {
        None
    }
}

async fn beat(
    call: &Call,
    request: &ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Denied> {
    let groups = &call.broker.groups;
    let names = request.subscribed_topic_names.as_ref();
    let saying = Saying {
        topics: names.map(|names| names.iter().map(|name| name.to_string()).collect()),
        regex: request.subscribed_topic_regex.as_deref().map(str::to_owned),
        assignor: request.server_assignor.as_deref().map(str::to_owned),
        rebalance_timeout: u64::try_from(request.rebalance_timeout_ms).ok(),
    };
    let who = Who {
        member: &request.member_id,
        instance: request.instance_id.as_deref(),
    };
    match request.member_epoch {
        JOINS => {
            let client_id = call.client_name();
            let member = match request.member_id.is_empty() {
                true => fresh_id(client_id.as_deref()),
                false => Arc::from(&*request.member_id),
            };
            let joining = JoiningConsumer {
                member: Arc::clone(&member),
                instance: who.instance.map(Arc::from),
                client_id,
                address: call.caller.address.map(|address| Shown(address).to_string()),
                saying,
            };
            let joined = groups
                .join_consumer(&call.caller, &request.group_id, &joining)
                .await?;
            Ok(answer(call, &member, joined))
        }
        LEAVES | LEAVES_FOR_A_WHILE => {
            let returns = request.member_epoch == LEAVES_FOR_A_WHILE;
            let left = groups.leave_consumer(&call.caller, &request.group_id, &who, returns);
            left.await?;
            Ok(ConsumerGroupHeartbeatResponse {
                member_id: Some(request.member_id.clone()),
                member_epoch: request.member_epoch,
                ..ConsumerGroupHeartbeatResponse::default()
            })
        }
        epoch => {
            let says_what = saying.topics.is_some() || saying.regex.is_some();
            let is_whole =
                says_what && saying.rebalance_timeout.is_some() && request.topic_partitions.is_some();
            let owned = request.topic_partitions.as_deref();
            let beat = Beat {
                who,
                epoch,
                saying,
                owned: owned.map(|owned| partitions(call, owned)),
                is_whole,
            };
            let beaten = groups
                .beat_consumer(&call.caller, &request.group_id, &beat)
                .await?;
            Ok(answer(call, &request.member_id, beaten))
        }
    }
}

fn answer(call: &Call, member: &str, beaten: Beaten) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse {
        member_id: Some(member.into()),
        member_epoch: beaten.epoch,
        heartbeat_interval_ms: i32::try_from(beaten.interval).unwrap_or(i32::MAX),
        assignment: beaten.assignment.map(|assignment| HeartbeatAssignment {
            topic_partitions: by_topic(&assignment)
                .map(|(topic, partitions)| TopicIdPartitions {
                    topic_id: call.id_of(topic),
                    partitions,
                })
                .collect(),
        }),
        ..ConsumerGroupHeartbeatResponse::default()
    }
}

/// The partitions that a member names. One of another cluster becomes one that nobody has.
fn partitions(call: &Call, named: &[TopicIdPartitions]) -> Vec<PartitionId> {
    let of_topic = |topic: &TopicIdPartitions| {
        let id = call.number_of(topic.topic_id).unwrap_or(TopicId(u64::MAX));
        let number = |index: &i32| u32::try_from(*index).unwrap_or(u32::MAX);
        let partition = move |index: &i32| PartitionId::new(id, number(index));
        topic.partitions.iter().map(partition).collect::<Vec<_>>()
    };
    named.iter().flat_map(of_topic).collect()
}

/// Sorted partitions by topic.
fn by_topic(partitions: &[PartitionId]) -> impl Iterator<Item = (TopicId, Vec<i32>)> {
    let topics = partitions.chunk_by(|one, other| one.topic == other.topic);
    topics.map(|of_topic| {
        let indexes = of_topic.iter().map(|id| id.index as i32);
        (of_topic[0].topic, indexes.collect())
    })
}

fn message(denied: &Denied) -> Option<&str> {
    match denied {
        Denied::Invalid(detail) | Denied::InvalidRegex(detail) => Some(detail),
        Denied::Refused(refusal) | Denied::Topic(refusal) => Some(&refusal.detail),
        Denied::OtherKind => Some("There is no such group of consumers."),
        Denied::UnsupportedAssignor => Some("The assignors are uniform and range."),
        Denied::InstanceInUse => Some("Another member has this instance id, and has not left."),
        Denied::FencedEpoch => {
            Some("The member has another epoch: it must abandon its partitions and rejoin.")
        }
        _ => None,
    }
}

/// Describes groups with their members.
pub(crate) async fn describe(
    call: &Call,
    request: ConsumerGroupDescribeRequest,
) -> Result<ConsumerGroupDescribeResponse, Hangup> {
    let again = repeated(request.group_ids.iter().cloned());
    let mut room = Room::new(call);
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for group_id in request.group_ids {
        let described = match again.contains(&group_id) {
            true => crowded(call),
            false => of_group(call, &group_id, &mut room).await?,
        };
        let has_operations = request.include_authorized_operations && described.error_code == 0;
        groups.push(DescribedConsumerGroup {
            authorized_operations: match has_operations {
                true => operations(call, &group_id),
                false => NO_OPERATIONS,
            },
            group_id,
            ..described
        });
    }
    Ok(ConsumerGroupDescribeResponse {
        groups,
        ..ConsumerGroupDescribeResponse::default()
    })
}

/// A group that is named twice, or for which there is no room.
fn crowded(call: &Call) -> DescribedConsumerGroup {
    DescribedConsumerGroup {
        error_code: call.failed(ErrorCode::InvalidRequest),
        error_message: Some(CROWDED.into()),
        ..DescribedConsumerGroup::default()
    }
}

async fn of_group(
    call: &Call,
    group_id: &str,
    room: &mut Room<'_>,
) -> Result<DescribedConsumerGroup, Hangup> {
    let groups = &call.broker.groups;
    // Before anything is copied.
    if !room.take(groups.consumers_bytes(group_id)).await? {
        return Ok(crowded(call));
    }
    Ok(match groups.describe_consumers(&call.caller, group_id) {
        Ok(Some(group)) => match room.take(rows_bytes(call, &group)).await? {
            true => described(call, group),
            false => crowded(call),
        },
        Ok(None) | Err(Denied::OtherKind) => DescribedConsumerGroup {
            error_code: call.failed(ErrorCode::GroupIdNotFound),
            error_message: Some(format!("Group {group_id} is not a consumer group.").into()),
            ..DescribedConsumerGroup::default()
        },
        Err(denied) => DescribedConsumerGroup {
            error_code: call.failed(ErrorCode::of_denied(&denied)),
            error_message: message(&denied).map(Text::from),
            ..DescribedConsumerGroup::default()
        },
    })
}

/// What the rows of the members' assignments take in memory: each names its topic.
fn rows_bytes(call: &Call, group: &ConsumerGroup) -> usize {
    let name_bytes = |id| {
        call.broker
            .log
            .topic_by_id(id)
            .map_or(0, |topic| topic.name().len())
    };
    let row = |partitions: &[PartitionId]| {
        size_of::<NamedTopicPartitions>() + name_bytes(partitions[0].topic) + 4 * partitions.len()
    };
    let rows = |partitions: &[PartitionId]| -> usize {
        let topics = partitions.chunk_by(|one, other| one.topic == other.topic);
        topics.map(row).sum()
    };
    let members = group.members.iter();
    members
        .map(|member| rows(&member.assignment) + rows(&member.target))
        .sum()
}

fn described(call: &Call, group: ConsumerGroup) -> DescribedConsumerGroup {
    let state = match (group.members.is_empty(), group.is_reconciling) {
        (true, _) => "Empty",
        (false, true) => "Reconciling",
        (false, false) => "Stable",
    };
    let epoch = group.epoch;
    // Names of topics that the caller must not see stay out, as they do of assignments.
    let seen = |topics: Vec<String>| {
        let topics = topics.into_iter().filter(|name| call.caller.sees_topic(name));
        topics.map(Text::from).collect()
    };
    let member = |member: ConsumerMember| DescribedConsumer {
        member_id: Text::from(&*member.member),
        instance_id: member.instance.as_deref().map(Text::from),
        rack_id: None,
        member_epoch: member.epoch.unwrap_or(epoch),
        client_id: member.client_id.unwrap_or_default().into(),
        client_host: host(member.address.as_deref().unwrap_or_default()),
        subscribed_topic_names: seen(member.topics),
        subscribed_topic_regex: member.regex.map(Text::from),
        assignment: assignment(call, &member.assignment),
        target_assignment: assignment(call, &member.target),
        member_type: if member.epoch.is_some() { 1 } else { -1 },
    };
    DescribedConsumerGroup {
        group_state: Text::from(state),
        group_epoch: epoch,
        assignment_epoch: epoch,
        assignor_name: Text::from(group.assignor.name()),
        members: group.members.into_iter().map(member).collect(),
        ..DescribedConsumerGroup::default()
    }
}

/// An assignment, without the topics that the caller must not see.
fn assignment(call: &Call, partitions: &[PartitionId]) -> ConsumerAssignment {
    let named = by_topic(partitions).filter_map(|(id, partitions)| {
        let topic = call.broker.log.topic_by_id(id)?;
        call.caller
            .sees_topic(topic.name())
            .then(|| NamedTopicPartitions {
                topic_id: call.id_of(id),
                topic_name: Text::from(topic.name()),
                partitions,
            })
    });
    ConsumerAssignment {
        topic_partitions: named.collect(),
    }
}
