//! API 3, Metadata: one node that leads every partition, and the topics.

use std::collections::HashSet;
use std::sync::Arc;

use super::admin::operations;
use super::call::{Call, Hangup, LEADER_EPOCH, NODE};
use super::errors::ErrorCode;
use super::messages::NO_OPERATIONS;
use super::messages::metadata::{
    MetadataBroker, MetadataPartition, MetadataRequest, MetadataResponse, MetadataTopic,
};
use super::wire::{Text, Uuid};
use crate::broker::blocking::Share;
use crate::broker::engine::Topic;
use crate::broker::refusal::Reason;
use crate::broker::rights::Right;

/// What a topic takes in memory while it is described, and each of its partitions, in bytes.
const TOPIC_BYTES: usize = 512;
const PARTITION_BYTES: usize = 256;

/// A topic that was asked for: it, or its name or id and why it is not shown.
type Found = Result<Arc<Topic>, MetadataTopic>;

/// Describes the node and topics; creates topics that are missing, if the client and the settings want that.
pub(crate) async fn metadata(call: &Call, request: MetadataRequest) -> Result<MetadataResponse, Hangup> {
    let found: Vec<Found> = match request.topics {
        // In version 0 an empty list stands for all topics.
        Some(topics) if call.version > 0 || !topics.is_empty() => {
            let may_create = request.allow_auto_topic_creation && call.settings.auto_create;
            let mut found = Vec::with_capacity(topics.len());
            // As in Kafka, a topic is described once however often it is asked for.
            let mut seen = HashSet::new();
            for topic in topics {
                if !seen.insert((topic.name.clone(), topic.topic_id)) {
                    continue;
                }
                found.push(match topic.name {
                    // Java's client sends an empty name with an id.
                    Some(name) if topic.topic_id == Uuid::ZERO => by_name(call, name, may_create).await,
                    _ => by_id(call, topic.topic_id),
                });
            }
            let partitions = found
                .iter()
                .map(|found| found.as_ref().map_or(0, |topic| topic.partition_count()));
            call.reserve(bytes_of(partitions)).await?;
            found
        }
        _ => {
            let seen = || {
                let topics = call.broker.log.topics().into_iter();
                topics.filter(|topic| call.caller.sees_topic(topic.name()))
            };
            // Before the list is there: many such requests may wait.
            call.reserve(bytes_of(seen().map(|topic| topic.partition_count())))
                .await?;
            seen().map(Ok).collect()
        }
    };
    let describe = |found: Found| found.map_or_else(|missing| missing, |topic| described(call, &topic));
    let mut topics: Vec<MetadataTopic> = found.into_iter().map(describe).collect();
    if request.include_topic_authorized_operations {
        // As in Kafka, topics that are not there have theirs, too: a client that has asked for them may not know what it
        // means if they are missing.
        let denied = ErrorCode::TopicAuthorizationFailed.number();
        for topic in topics.iter_mut().filter(|topic| topic.error_code != denied) {
            if let Some(name) = &topic.name {
                topic.topic_authorized_operations = operations::of_topic(call, name);
            }
        }
    }
    let (host, port) = call.address();
    Ok(MetadataResponse {
        brokers: vec![MetadataBroker {
            node_id: NODE,
            host,
            port,
            rack: None,
        }],
        cluster_id: Some(call.cluster_id()),
        controller_id: NODE,
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => operations::of_cluster(call),
            false => NO_OPERATIONS,
        },
        topics,
        ..MetadataResponse::default()
    })
}

/// What topics with so many partitions take in memory while they are described.
fn bytes_of(topics: impl Iterator<Item = u32>) -> usize {
    topics
        .map(|partitions| TOPIC_BYTES + partitions as usize * PARTITION_BYTES)
        .sum()
}

async fn by_name(call: &Call, name: Text, may_create: bool) -> Found {
    let found = match call.topic(Right::Describe, &name) {
        Err(refusal) if refusal.reason == Reason::UnknownTopic && may_create => create(call, &name).await,
        found => found.map_err(|refusal| ErrorCode::of_topic(&refusal, &name)),
    };
    found.map_err(|code| MetadataTopic {
        error_code: call.failed(code),
        name: Some(name),
        ..MetadataTopic::default()
    })
}

/// Creates a topic that a client has asked for by its name; it can be used at once.
async fn create(call: &Call, name: &Text) -> Result<Arc<Topic>, ErrorCode> {
    let (topics, caller) = (call.broker.topics.clone(), call.caller.clone());
    let (wanted, partitions) = (name.to_string(), call.settings.partitions);
    let create = move || topics.create(&caller, &wanted, Some(partitions), &[]);
    match call.broker.blocking.attempt(Share::Change, create).await {
        Ok((topic, _)) => Ok(topic),
        Err(refusal) => match refusal.reason {
            Reason::InvalidRequest => Err(ErrorCode::InvalidTopic),
            // Somebody else has created it meanwhile, with another number of partitions.
            Reason::TopicExists => call
                .topic(Right::Describe, name)
                .map_err(|refusal| ErrorCode::from(&refusal)),
            reason => Err(ErrorCode::of(reason)),
        },
    }
}

fn by_id(call: &Call, id: Uuid) -> Found {
    let found = call.topic_by_id(Right::Describe, id);
    found.map_err(|code| MetadataTopic {
        error_code: call.failed(code),
        topic_id: id,
        ..MetadataTopic::default()
    })
}

fn described(call: &Call, topic: &Topic) -> MetadataTopic {
    let partition = |index: u32| MetadataPartition {
        error_code: 0,
        partition_index: index as i32,
        leader_id: NODE,
        leader_epoch: LEADER_EPOCH,
        replica_nodes: vec![NODE],
        isr_nodes: vec![NODE],
        offline_replicas: Vec::new(),
    };
    MetadataTopic {
        error_code: 0,
        name: Some(topic.name().into()),
        topic_id: call.topic_id(topic),
        is_internal: false,
        partitions: (0..topic.partition_count()).map(partition).collect(),
        topic_authorized_operations: NO_OPERATIONS,
    }
}
