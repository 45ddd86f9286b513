//! APIs 19, 20, 21 and 37: topics are created and deleted, lose their oldest records, and get more partitions.
//!
//! There is one node, so a topic has one replica; one with more is refused, unless `kafka_any_replication` is on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::call::{Call, Hangup, NODE};
use super::errors::ErrorCode;
use super::messages::admin::{
    CreatableTopic, CreatableTopicResult, CreatePartitionsRequest, CreatePartitionsResponse,
    CreatePartitionsTopic, CreatePartitionsTopicResult, CreateTopicsRequest, CreateTopicsResponse,
    DeletableTopicResult, DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteRecordsTopicResult, DeleteTopicState, DeleteTopicsRequest,
    DeleteTopicsResponse,
};
use super::topic_configs;
use super::wire::{Text, Uuid};
use crate::broker::blocking::Share;
use crate::broker::engine::{Offset, Topic};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics;

/// A code, and a sentence for people.
type Refused = (ErrorCode, String);

/// Creates topics; each has its own result.
pub(crate) async fn create(
    call: &Call,
    request: CreateTopicsRequest,
) -> Result<CreateTopicsResponse, Hangup> {
    let mut counts: BTreeMap<Text, u32> = BTreeMap::new();
    for topic in &request.topics {
        *counts.entry(topic.name.clone()).or_default() += 1;
    }
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.clone();
        let result = match counts.get(&name) {
            Some(1) => create_one(call, &topic, request.validate_only).await,
            _ => Err((ErrorCode::InvalidRequest, "the topic is named twice".to_owned())),
        };
        results.push(match result {
            Ok((topic, partitions)) => CreatableTopicResult {
                name,
                topic_id: topic.as_ref().map_or(Uuid::ZERO, |topic| call.topic_id(topic)),
                num_partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
                replication_factor: 1,
                configs: Some(topic.map_or_else(Vec::new, |topic| topic_configs::created(&topic))),
                ..CreatableTopicResult::default()
            },
            Err((code, why)) => CreatableTopicResult {
                name,
                error_code: call.failed(code),
                error_message: Some(why.into()),
                ..CreatableTopicResult::default()
            },
        });
    }
    Ok(CreateTopicsResponse {
        topics: results,
        ..CreateTopicsResponse::default()
    })
}

/// The topic, unless it was only to be checked, and its number of partitions.
async fn create_one(
    call: &Call,
    asked: &CreatableTopic,
    only_checks: bool,
) -> Result<(Option<Arc<Topic>>, u32), Refused> {
    let partitions = partitions_of(call, asked)?;
    let mut config: Vec<(String, Value)> = Vec::new();
    for entry in &asked.configs {
        let changes = topic_configs::change(&entry.name, entry.value.as_deref());
        config.extend(changes.map_err(|why| (ErrorCode::InvalidConfig, why))?);
    }
    let exists = || {
        (
            ErrorCode::TopicAlreadyExists,
            format!("the topic {} exists", &*asked.name),
        )
    };
    // A topic that matches is no error of the broker, but one here.
    let (topics, caller, name) = (
        call.broker.topics.clone(),
        call.caller.clone(),
        asked.name.to_string(),
    );
    let create = move || match only_checks {
        true => topics
            .may_create(&caller, &name, Some(partitions), &config)
            .map(|()| None),
        false => topics.create(&caller, &name, Some(partitions), &config).map(Some),
    };
    match call.broker.blocking.attempt(Share::Change, create).await {
        Ok(Some((_, false))) => Err(exists()),
        Ok(created) => Ok((created.map(|(topic, _)| topic), partitions)),
        Err(refusal) if refusal.reason == Reason::InvalidRequest => {
            let code = match refusal.field.as_deref() {
                Some("partitions" | "/partitions") => ErrorCode::InvalidPartitions,
                Some(field) if field.starts_with("/config") => ErrorCode::InvalidConfig,
                _ => ErrorCode::InvalidTopic,
            };
            Err((code, refusal.detail))
        }
        Err(refusal) => Err((ErrorCode::from(&refusal), refusal.detail)),
    }
}

fn partitions_of(call: &Call, asked: &CreatableTopic) -> Result<u32, Refused> {
    let no_replicas = || {
        (
            ErrorCode::InvalidReplicationFactor,
            "there is one node, so a topic has one replica".to_owned(),
        )
    };
    let no_partitions = |why: &str| (ErrorCode::InvalidPartitions, why.to_owned());
    if !asked.assignments.is_empty() {
        if asked.num_partitions != -1 || asked.replication_factor != -1 {
            let why = "with assignments, the numbers of partitions and of replicas are -1";
            return Err((ErrorCode::InvalidRequest, why.to_owned()));
        }
        let is_here = |brokers: &[i32]| brokers == [NODE];
        let mut indexes: Vec<i32> = asked.assignments.iter().map(|row| row.partition_index).collect();
        indexes.sort_unstable();
        if !asked.assignments.iter().all(|row| is_here(&row.broker_ids))
            || !indexes.iter().copied().eq(0..indexes.len() as i32)
        {
            let why = "partitions are numbered from 0, and each has the one replica on broker 0";
            return Err((ErrorCode::InvalidReplicaAssignment, why.to_owned()));
        }
        return u32::try_from(asked.assignments.len()).map_err(|_| no_partitions("too many partitions"));
    }
    match asked.replication_factor {
        -1 | 1 => {}
        2.. if call.settings.any_replication => {}
        _ => return Err(no_replicas()),
    }
    match asked.num_partitions {
        -1 => Ok(call.settings.partitions),
        number => u32::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| no_partitions("a topic has at least 1 partition")),
    }
}

/// Deletes topics; each has its own result.
pub(crate) async fn delete(
    call: &Call,
    request: DeleteTopicsRequest,
) -> Result<DeleteTopicsResponse, Hangup> {
    let named = request.topic_names.into_iter().map(|name| DeleteTopicState {
        name: Some(name),
        topic_id: Uuid::ZERO,
    });
    let mut responses = Vec::new();
    for topic in request.topics.into_iter().chain(named) {
        let result = delete_one(call, &topic).await;
        responses.push(match result {
            Ok(name) => DeletableTopicResult {
                name: Some(name),
                topic_id: topic.topic_id,
                ..DeletableTopicResult::default()
            },
            Err((code, why)) => DeletableTopicResult {
                name: topic.name,
                topic_id: topic.topic_id,
                error_code: call.failed(code),
                error_message: Some(why.into()),
            },
        });
    }
    Ok(DeleteTopicsResponse {
        responses,
        ..DeleteTopicsResponse::default()
    })
}

async fn delete_one(call: &Call, asked: &DeleteTopicState) -> Result<Text, Refused> {
    let name = match &asked.name {
        Some(name) => name.clone(),
        None => match call.topic_by_id(Right::Delete, asked.topic_id) {
            Ok(topic) => topic.name().into(),
            Err(code) => return Err((code, String::new())),
        },
    };
    let (topics, caller, wanted) = (call.broker.topics.clone(), call.caller.clone(), name.to_string());
    let delete = move || topics.delete(&caller, &wanted, None);
    let deleted = call.broker.blocking.attempt(Share::Change, delete).await;
    deleted.map(|()| name).map_err(told)
}

/// The code and the sentence of a refusal.
fn told(refusal: Refusal) -> Refused {
    (ErrorCode::from(&refusal), refusal.detail)
}

/// Raises numbers of partitions; each topic has its own result.
pub(crate) async fn create_partitions(
    call: &Call,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, Hangup> {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let result = raise(call, &topic, request.validate_only).await;
        results.push(CreatePartitionsTopicResult {
            name: topic.name,
            error_code: result.as_ref().err().map_or(0, |(code, _)| call.failed(*code)),
            error_message: result.err().map(|(_, why)| why.into()),
        });
    }
    Ok(CreatePartitionsResponse {
        results,
        ..CreatePartitionsResponse::default()
    })
}

async fn raise(call: &Call, asked: &CreatePartitionsTopic, only_checks: bool) -> Result<(), Refused> {
    let topic = call.topic(Right::Configure, &asked.name).map_err(told)?;
    let count = u32::try_from(asked.count).unwrap_or(0);
    let added = count.saturating_sub(topic.partition_count());
    if added == 0 {
        let why = format!("the topic has {} partitions already", topic.partition_count());
        return Err((ErrorCode::InvalidPartitions, why));
    }
    let is_here = |brokers: &[i32]| brokers == [NODE];
    if let Some(assignments) = &asked.assignments
        && (assignments.len() != added as usize || !assignments.iter().all(|row| is_here(&row.broker_ids)))
    {
        let why = "each new partition has the one replica on broker 0";
        return Err((ErrorCode::InvalidReplicaAssignment, why.to_owned()));
    }
    let (topics, caller, name) = (
        call.broker.topics.clone(),
        call.caller.clone(),
        asked.name.to_string(),
    );
    let alter = move || match only_checks {
        true => topics.may_alter(&caller, &name, Some(count), &[], None).map(drop),
        false => topics.alter(&caller, &name, Some(count), &[], None).map(drop),
    };
    let altered = call.broker.blocking.attempt(Share::Change, alter).await;
    altered.map_err(|refusal| match refusal.reason {
        Reason::InvalidRequest => (ErrorCode::InvalidPartitions, refusal.detail),
        _ => told(refusal),
    })
}

/// Moves log starts; each partition has its own result.
pub(crate) async fn delete_records(
    call: &Call,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Hangup> {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call
            .topic(Right::Delete, &topic.name)
            .map_err(|refusal| ErrorCode::from(&refusal));
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let trimmed = match &found {
                Ok(topic) => trim(call, topic, asked).await,
                Err(code) => Err(*code),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: trimmed.map_or(-1, |start| start.get() as i64),
                error_code: trimmed.map_or_else(|code| call.failed(code), |_| 0),
            });
        }
        results.push(DeleteRecordsTopicResult {
            name: topic.name,
            partitions,
        });
    }
    Ok(DeleteRecordsResponse {
        topics: results,
        ..DeleteRecordsResponse::default()
    })
}

async fn trim(call: &Call, topic: &Arc<Topic>, asked: &DeleteRecordsPartition) -> Result<Offset, ErrorCode> {
    let index = u32::try_from(asked.partition_index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
    let partition = topics::partition(topic, index).map_err(|refusal| ErrorCode::from(&refusal))?;
    let positions = partition.positions();
    let before = match asked.offset {
        -1 => positions.end_offset,
        offset => u64::try_from(offset)
            .ok()
            .and_then(Offset::try_new)
            .ok_or(ErrorCode::OffsetOutOfRange)?,
    };
    if before <= positions.log_start_offset {
        return Ok(positions.log_start_offset);
    }
    let (topics, caller, topic) = (call.broker.topics.clone(), call.caller.clone(), Arc::clone(topic));
    let trim = move || topics.trim(&caller, &topic, &partition, before, None);
    let trimmed = call.broker.blocking.attempt(Share::Change, trim).await;
    trimmed.map_err(|refusal| ErrorCode::from(&refusal))
}
