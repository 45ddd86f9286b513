//! API 8, OffsetCommit, and API 9, OffsetFetch: the offsets of groups.
//!
//! A commit without a member is taken only if the group has no members. A commit of a member needs a group with members
//! of this protocol.

use super::call::{Call, Hangup, LEADER_EPOCH};
use super::errors::ErrorCode;
use super::messages::group_offsets::{
    OffsetCommitPartition, OffsetCommitPartitionResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetCommitTopicResponse, OffsetFetchGroup, OffsetFetchGroupResponse, OffsetFetchGroupTopic,
    OffsetFetchGroupTopicResponse, OffsetFetchPartitionResponse, OffsetFetchRequest, OffsetFetchResponse,
    OffsetFetchTopicResponse,
};
use super::wire::{Text, Uuid};
use crate::broker::engine::Topic;
use crate::broker::groups::MAX_METADATA_BYTES;
use crate::broker::groups::outside::NamedCommit;
use crate::broker::refusal::Reason;
use crate::broker::rights::Right;
use crate::broker::topics;

/// Commits offsets; each partition has its own result.
pub(crate) async fn commit(
    call: &Call,
    request: OffsetCommitRequest,
) -> Result<OffsetCommitResponse, Hangup> {
    let mut commits = Vec::new();
    let mut rows = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call.topic_of(Right::Read, &topic.name, topic.topic_id);
        let check = |asked: &OffsetCommitPartition| match found.as_ref().map_err(|code| *code) {
            Ok(topic) => named(topic, asked).map(|named| commits.push(named)),
            Err(code) => Err(code),
        };
        let results: Vec<Result<(), ErrorCode>> = topic.partitions.iter().map(check).collect();
        rows.push((topic, results));
    }
    let stored = match (request.member_id.is_empty(), commits.is_empty()) {
        (_, true) => Ok(()),
        (false, _) => Err(ErrorCode::IllegalGeneration),
        (true, _) => {
            let groups = &call.broker.groups;
            let committed = groups
                .commit_outside(&call.caller, &request.group_id, &commits)
                .await;
            committed.map_err(|refusal| match refusal.reason {
                Reason::GroupActive => ErrorCode::UnknownMemberId,
                reason => ErrorCode::of_group(reason),
            })
        }
    };
    let topics = rows.into_iter().map(|(topic, results)| {
        let row = |(asked, result): (&OffsetCommitPartition, Result<(), ErrorCode>)| {
            OffsetCommitPartitionResponse {
                partition_index: asked.partition_index,
                error_code: result.and(stored).map_or_else(|code| call.failed(code), |()| 0),
            }
        };
        OffsetCommitTopicResponse {
            partitions: topic.partitions.iter().zip(results).map(row).collect(),
            name: topic.name,
            topic_id: topic.topic_id,
        }
    });
    Ok(OffsetCommitResponse {
        topics: topics.collect(),
        ..OffsetCommitResponse::default()
    })
}

fn named(topic: &Topic, asked: &OffsetCommitPartition) -> Result<NamedCommit, ErrorCode> {
    let index = u32::try_from(asked.partition_index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
    let partition = topics::partition(topic, index).map_err(|refusal| ErrorCode::from(&refusal))?;
    let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
    if metadata.len() > MAX_METADATA_BYTES {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    let offset = u64::try_from(asked.committed_offset).ok();
    let offset = offset.filter(|offset| *offset <= partition.positions().end_offset.get());
    Ok(NamedCommit {
        topic: topic.name().to_owned(),
        partition: index,
        offset: offset.ok_or(ErrorCode::OffsetOutOfRange)?,
        metadata: (!metadata.is_empty()).then(|| metadata.to_owned()),
    })
}

/// Gives the offsets of groups.
pub(crate) async fn fetch(call: &Call, request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Hangup> {
    if call.version >= 8 {
        let groups = request.groups.into_iter().map(|group| of_group(call, group));
        return Ok(OffsetFetchResponse {
            groups: groups.collect(),
            ..OffsetFetchResponse::default()
        });
    }
    let topics = request.topics.map(|topics| {
        let topic = |topic: super::messages::group_offsets::OffsetFetchTopic| OffsetFetchGroupTopic {
            name: topic.name,
            topic_id: Uuid::ZERO,
            partition_indexes: topic.partition_indexes,
        };
        topics.into_iter().map(topic).collect()
    });
    let group = of_group(
        call,
        OffsetFetchGroup {
            group_id: request.group_id,
            topics,
            ..OffsetFetchGroup::default()
        },
    );
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

fn of_group(call: &Call, asked: OffsetFetchGroup) -> OffsetFetchGroupResponse {
    if let Err(refusal) = call
        .caller
        .check_group(&[Right::Describe, Right::Read], &asked.group_id)
    {
        return OffsetFetchGroupResponse {
            group_id: asked.group_id,
            error_code: call.failed(ErrorCode::of_group(refusal.reason)),
            topics: Vec::new(),
        };
    }
    let committed = call.broker.groups.committed_by_name(&asked.group_id);
    let row = |index: i32, topic: &str| {
        let is_it = |row: &&NamedCommit| row.topic == topic && i64::from(row.partition) == i64::from(index);
        let found = committed.iter().find(is_it);
        OffsetFetchPartitionResponse {
            partition_index: index,
            committed_offset: found.map_or(-1, |row| row.offset as i64),
            committed_leader_epoch: found.map_or(-1, |_| LEADER_EPOCH),
            metadata: Some(
                found
                    .and_then(|row| row.metadata.as_deref())
                    .unwrap_or_default()
                    .into(),
            ),
            error_code: 0,
        }
    };
    let topics = match asked.topics {
        Some(topics) => {
            let topic = |topic: OffsetFetchGroupTopic| {
                let found = call.topic_of(Right::Describe, &topic.name, topic.topic_id);
                // By its name a topic that does not exist has no offsets, which is no error.
                let is_named = !topic.name.is_empty();
                let name = found.as_ref().map_or(&*topic.name, |found| found.name());
                let partition = |index: &i32| match found {
                    Err(code) if !is_named || code == ErrorCode::TopicAuthorizationFailed => {
                        OffsetFetchPartitionResponse {
                            error_code: call.failed(code),
                            ..row(*index, "")
                        }
                    }
                    _ => row(*index, name),
                };
                OffsetFetchGroupTopicResponse {
                    partitions: topic.partition_indexes.iter().map(partition).collect(),
                    name: topic.name.clone(),
                    topic_id: topic.topic_id,
                }
            };
            topics.into_iter().map(topic).collect()
        }
        None => {
            let mut topics: Vec<OffsetFetchGroupTopicResponse> = Vec::new();
            for commit in committed.iter().filter(|row| call.caller.sees_topic(&row.topic)) {
                let partition = row(commit.partition as i32, &commit.topic);
                match topics.last_mut().filter(|last| *last.name == *commit.topic) {
                    Some(last) => last.partitions.push(partition),
                    None => topics.push(OffsetFetchGroupTopicResponse {
                        topic_id: call
                            .topic(Right::Describe, &commit.topic)
                            .map_or(Uuid::ZERO, |topic| call.topic_id(&topic)),
                        name: Text::from(&*commit.topic),
                        partitions: vec![partition],
                    }),
                }
            }
            topics
        }
    };
    OffsetFetchGroupResponse {
        group_id: asked.group_id,
        topics,
        error_code: 0,
    }
}
