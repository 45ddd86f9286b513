//! API 8, OffsetCommit, and API 9, OffsetFetch: the offsets of groups.
//!
//! A commit without a member is taken only if the group has no members. A commit of a member needs its generation, or from
//! version 9 on its epoch.

use super::admin::repeated;
use super::call::{Call, Hangup, Room};
use super::errors::ErrorCode;
use super::members::given;
use super::messages::group_offsets::{
    OffsetCommitPartition, OffsetCommitPartitionResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetCommitTopicResponse, OffsetFetchGroup, OffsetFetchGroupResponse, OffsetFetchGroupTopic,
    OffsetFetchGroupTopicResponse, OffsetFetchPartitionResponse, OffsetFetchRequest, OffsetFetchResponse,
    OffsetFetchTopic, OffsetFetchTopicResponse,
};
use super::wire::{Text, Uuid};
use crate::broker::engine::{PartitionId, Topic};
use crate::broker::groups::Groups;
use crate::broker::groups::classic::commits::CommitRow;
use crate::broker::groups::classic::{Denied, Identity};
use crate::broker::groups::offsets::Committed;
use crate::broker::refusal::Reason;
use crate::broker::rights::Right;

/// From this version on a member may be one of the server-side protocol, which has an epoch in place of a generation.
const HAS_EPOCHS: i16 = 9;
/// From this version on the answer to a fetch can say that the group is refused.
const SAYS_ERROR: i16 = 2;
/// What a committed offset takes in memory while it is told, besides its metadata, in bytes.
const ROW_BYTES: usize = size_of::<OffsetFetchPartitionResponse>() + 48;

/// Commits offsets; each partition has its own result.
pub(crate) async fn commit(
    call: &Call,
    request: OffsetCommitRequest,
) -> Result<OffsetCommitResponse, Hangup> {
    let who = Identity {
        member: &request.member_id,
        instance: given(request.group_instance_id.as_deref()),
        generation_id: request.generation_id,
    };
    let mut commits = Vec::new();
    let mut rows = Vec::with_capacity(request.topics.len());
    // First, as in Kafka: what the group does not allow says nothing about topics.
    let right = Groups::right_to_commit(who.generation_id);
    let allowed = call.caller.check_group(&[right], &request.group_id);
    let allowed = allowed.map_err(|refusal| ErrorCode::of_group(refusal.reason));
    for topic in &request.topics {
        let found = allowed.and_then(|()| call.topic_of(Right::Read, &topic.name, topic.topic_id));
        let check = |asked: &OffsetCommitPartition| match &found {
            Ok(topic) => commit_row(topic, asked).map(|row| commits.push(row)),
            Err(code) => Err(*code),
        };
        let checked: Vec<Result<(), ErrorCode>> = topic.partitions.iter().map(check).collect();
        rows.push(checked);
    }
    let stored = match commits.is_empty() {
        true => Ok(Vec::new()),
        false => {
            let groups = &call.broker.groups;
            groups
                .commit_classic(
                    &call.caller,
                    &request.group_id,
                    &who,
                    call.version >= HAS_EPOCHS,
                    &commits,
                )
                .await
        }
    };
    let (stored, failed) = match stored {
        Ok(stored) => (stored, None),
        Err(Denied::Refused(refusal)) if refusal.reason == Reason::GroupTypeMismatch => {
            (Vec::new(), Some(ErrorCode::GroupIdNotFound))
        }
        Err(denied) => (Vec::new(), Some(ErrorCode::of_denied(&denied))),
    };
    // In the order of those that passed the checks.
    let mut stored = stored.into_iter();
    let mut result = |checked: Result<(), ErrorCode>| -> Result<(), ErrorCode> {
        checked?;
        match (failed, stored.next()) {
            (Some(code), _) => Err(code),
            (None, Some(Err(refusal))) if refusal.reason == Reason::InvalidRequest => {
                Err(ErrorCode::OffsetMetadataTooLarge)
            }
            (None, Some(Err(refusal))) => Err(ErrorCode::from(&refusal)),
            (None, _) => Ok(()),
        }
    };
    let topics = request.topics.into_iter().zip(rows).map(|(topic, checked)| {
        let asked = topic.partitions.iter().zip(checked);
        let row = asked.map(|(asked, checked)| OffsetCommitPartitionResponse {
            partition_index: asked.partition_index,
            error_code: result(checked).map_or_else(|code| call.failed(code), |()| 0),
        });
        OffsetCommitTopicResponse {
            partitions: row.collect(),
            name: topic.name,
            topic_id: topic.topic_id,
        }
    });
    Ok(OffsetCommitResponse {
        topics: topics.collect(),
        ..OffsetCommitResponse::default()
    })
}

fn commit_row(topic: &Topic, asked: &OffsetCommitPartition) -> Result<CommitRow, ErrorCode> {
    let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
    Ok(CommitRow {
        topic: topic.name().to_owned(),
        partition: u32::try_from(asked.partition_index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?,
        offset: u64::try_from(asked.committed_offset).ok(),
        leader_epoch: u32::try_from(asked.committed_leader_epoch).ok(),
        metadata: (!metadata.is_empty()).then(|| metadata.to_owned()),
    })
}

/// Gives the offsets of groups.
pub(crate) async fn fetch(call: &Call, request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Hangup> {
    let mut room = Room::new(call);
    if call.version >= 8 {
        let again = repeated(request.groups.iter().map(|group| group.group_id.clone()));
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            // Each look at a group is a walk over all that it has committed.
            if again.contains(&group.group_id) {
                groups.push(failed(call, group.group_id, ErrorCode::InvalidRequest));
                continue;
            }
            groups.push(of_group(call, group, &mut room).await?);
        }
        return Ok(OffsetFetchResponse {
            groups,
            ..OffsetFetchResponse::default()
        });
    }
    // Before version 2 the answer has an error only beside a partition.
    let asked = request.topics.clone().filter(|_| call.version < SAYS_ERROR);
    let topics = request.topics.map(|topics| {
        let topic = |topic: OffsetFetchTopic| OffsetFetchGroupTopic {
            name: topic.name,
            topic_id: Uuid::ZERO,
            partition_indexes: topic.partition_indexes,
        };
        topics.into_iter().map(topic).collect()
    });
    let asked_for = OffsetFetchGroup {
        group_id: request.group_id,
        topics,
        ..OffsetFetchGroup::default()
    };
    let group = of_group(call, asked_for, &mut room).await?;
    if call.version < SAYS_ERROR && group.error_code != 0 {
        return Ok(OffsetFetchResponse {
            topics: failed_rows(asked, group.error_code),
            ..OffsetFetchResponse::default()
        });
    }
    let topics = group.topics.into_iter().map(|topic| OffsetFetchTopicResponse {
        name: topic.name,
        partitions: topic.partitions,
    });
    Ok(OffsetFetchResponse {
        topics: topics.collect(),
        error_code: group.error_code,
        ..OffsetFetchResponse::default()
    })
}

fn failed_rows(asked: Option<Vec<OffsetFetchTopic>>, error_code: i16) -> Vec<OffsetFetchTopicResponse> {
    let row = |partition_index| OffsetFetchPartitionResponse {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(Text::default()),
        error_code,
    };
    let topic = |topic: OffsetFetchTopic| OffsetFetchTopicResponse {
        partitions: topic.partition_indexes.into_iter().map(row).collect(),
        name: topic.name,
    };
    asked.into_iter().flatten().map(topic).collect()
}

fn failed(call: &Call, group_id: Text, code: ErrorCode) -> OffsetFetchGroupResponse {
    OffsetFetchGroupResponse {
        group_id,
        error_code: call.failed(code),
        topics: Vec::new(),
    }
}

/// The offsets of a group; refused if the answer has no room for them.
async fn of_group(
    call: &Call,
    asked: OffsetFetchGroup,
    room: &mut Room<'_>,
) -> Result<OffsetFetchGroupResponse, Hangup> {
    if let Err(code) = check(call, &asked) {
        return Ok(failed(call, asked.group_id, code));
    }
    // Before anything is copied. More may be committed while it waits for memory.
    let mut taken = 0;
    loop {
        let bytes = bytes_of(call, &asked);
        if bytes <= taken {
            break;
        }
        if !room.take(bytes - taken).await? {
            return Ok(failed(call, asked.group_id, ErrorCode::InvalidRequest));
        }
        taken = bytes;
    }
    let topics = match &asked.topics {
        Some(topics) => topics
            .iter()
            .map(|topic| of_topic(call, &asked.group_id, topic))
            .collect(),
        None => all_topics(call, &asked.group_id),
    };
    Ok(OffsetFetchGroupResponse {
        group_id: asked.group_id,
        topics,
        error_code: 0,
    })
}

/// Whether the group's offsets may be told.
fn check(call: &Call, asked: &OffsetFetchGroup) -> Result<(), ErrorCode> {
    call.caller
        .check_group(&[Right::Describe, Right::Read], &asked.group_id)
        .map_err(|refusal| ErrorCode::of_group(refusal.reason))?;
    // Administrators, and clients that do not say who they are, name no member.
    let member = asked.member_id.as_deref().unwrap_or_default();
    if call.version >= HAS_EPOCHS && (asked.member_epoch >= 0 || !member.is_empty()) {
        call.broker
            .groups
            .check_epoch(&asked.group_id, member, asked.member_epoch)
            .map_err(|denied| ErrorCode::of_denied(&denied))?;
    }
    Ok(())
}

/// What the rows take in memory at most.
fn bytes_of(call: &Call, asked: &OffsetFetchGroup) -> usize {
    let groups = &call.broker.groups;
    let Some(topics) = &asked.topics else {
        let (rows, bytes) = groups.metadata_bytes(&asked.group_id);
        return ROW_BYTES * rows + bytes;
    };
    let of_topic = |topic: &OffsetFetchGroupTopic| {
        let found = call.topic_of(Right::Describe, &topic.name, topic.topic_id).ok();
        let of_partition = |index: &i32| {
            let id = found.as_deref().and_then(|topic| place(topic, *index));
            ROW_BYTES + id.map_or(0, |id| groups.metadata_bytes_in(&asked.group_id, id))
        };
        topic.partition_indexes.iter().map(of_partition).sum::<usize>()
    };
    topics.iter().map(of_topic).sum()
}

fn place(topic: &Topic, index: i32) -> Option<PartitionId> {
    Some(PartitionId::new(topic.id(), u32::try_from(index).ok()?))
}

fn row(index: i32, found: Option<Committed>) -> OffsetFetchPartitionResponse {
    let epoch = found
        .as_ref()
        .and_then(|found| i32::try_from(found.leader_epoch?).ok());
    OffsetFetchPartitionResponse {
        partition_index: index,
        committed_offset: found.as_ref().map_or(-1, |found| found.offset.get() as i64),
        committed_leader_epoch: epoch.unwrap_or(-1),
        metadata: Some(found.and_then(|found| found.metadata).unwrap_or_default().into()),
        error_code: 0,
    }
}

/// The offsets of a group in those partitions of a topic that are asked for.
fn of_topic(call: &Call, group: &str, topic: &OffsetFetchGroupTopic) -> OffsetFetchGroupTopicResponse {
    let found = call.topic_of(Right::Describe, &topic.name, topic.topic_id);
    // By its name a topic that does not exist has no offsets, which is no error.
    let is_named = !topic.name.is_empty();
    let partition = |index: &i32| match &found {
        Err(code) if !is_named || *code == ErrorCode::TopicAuthorizationFailed => {
            OffsetFetchPartitionResponse {
                error_code: call.failed(*code),
                ..row(*index, None)
            }
        }
        found => {
            let id = found.as_deref().ok().and_then(|topic| place(topic, *index));
            row(
                *index,
                id.and_then(|id| call.broker.groups.committed_in(group, id)),
            )
        }
    };
    OffsetFetchGroupTopicResponse {
        partitions: topic.partition_indexes.iter().map(partition).collect(),
        name: topic.name.clone(),
        topic_id: topic.topic_id,
    }
}

/// All offsets of a group, in topics that the caller may see.
fn all_topics(call: &Call, group: &str) -> Vec<OffsetFetchGroupTopicResponse> {
    let mut topics: Vec<OffsetFetchGroupTopicResponse> = Vec::new();
    for (id, committed) in call.broker.groups.committed(group) {
        let topic = call.broker.log.topic_by_id(id.topic);
        let Some(topic) = topic.filter(|topic| call.caller.sees_topic(topic.name())) else {
            continue;
        };
        let partition = row(id.index as i32, Some(committed));
        match topics.last_mut().filter(|last| *last.name == *topic.name()) {
            Some(last) => last.partitions.push(partition),
            None => topics.push(OffsetFetchGroupTopicResponse {
                topic_id: call.topic_id(&topic),
                name: Text::from(topic.name()),
                partitions: vec![partition],
            }),
        }
    }
    topics
}
