//! APIs 35, 60 and 75: the disk, the node, and topics page by page.

use std::sync::Arc;

use super::super::call::{Call, Hangup, LEADER_EPOCH, NODE};
use super::super::errors::ErrorCode;
use super::super::messages::NO_OPERATIONS;
use super::super::messages::cluster::{
    DescribableLogDirTopic, DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribedPartition, DescribedTopic, TopicCursor,
};
use super::super::wire::Text;
use super::operations;
use crate::broker::blocking::Share;
use crate::broker::engine::{Partition, Topic};
use crate::broker::refusal::Reason;
use crate::broker::rights::Right;

/// The endpoint type of brokers, and that of controllers.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// The most partitions of an answer to API 75.
const MAX_PARTITIONS: i32 = 2000;

/// What a partition takes in memory while it is described, in bytes.
const PARTITION_BYTES: usize = 256;
/// What a topic's name takes in a list of all of them, in bytes.
const NAME_BYTES: usize = 128;
/// What a partition takes in memory while its size is told.
const SIZE_BYTES: usize = 96;

/// What stands for the data directory: clients see no paths.
const LOG_DIR: &str = "data";

/// Describes the node.
pub(crate) async fn describe_cluster(
    call: &Call,
    request: DescribeClusterRequest,
) -> Result<DescribeClusterResponse, Hangup> {
    let wrong = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some(ErrorCode::MismatchedEndpointType),
        _ => Some(ErrorCode::UnsupportedEndpointType),
    };
    if let Some(code) = wrong {
        return Ok(DescribeClusterResponse {
            error_code: call.failed(code),
            error_message: Some("this is an endpoint of brokers".into()),
            endpoint_type: BROKERS,
            ..DescribeClusterResponse::default()
        });
    }
    let (host, port) = call.address();
    Ok(DescribeClusterResponse {
        cluster_id: call.cluster_id(),
        controller_id: NODE,
        brokers: vec![DescribeClusterBroker {
            broker_id: NODE,
            host,
            port,
            rack: None,
            is_fenced: false,
        }],
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => operations::of_cluster(call),
            false => NO_OPERATIONS,
        },
        ..DescribeClusterResponse::default()
    })
}

/// Describes topics in the order of their names, so many partitions at once as the client wants.
pub(crate) async fn describe_topic_partitions(
    call: &Call,
    request: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, Hangup> {
    let mut left = request.response_partition_limit.clamp(1, MAX_PARTITIONS) as u32;
    let all = match request.topics.is_empty() {
        true => call.broker.log.topics().len(),
        false => 0,
    };
    // Before the names are there: many such requests may wait.
    call.reserve(left as usize * PARTITION_BYTES + all * NAME_BYTES)
        .await?;
    let mut names: Vec<Text> = match request.topics.is_empty() {
        true => {
            let topics = call.broker.log.topics().into_iter();
            let seen = topics.filter(|topic| call.caller.sees_topic(topic.name()));
            seen.map(|topic| topic.name().into()).collect()
        }
        false => request.topics.into_iter().map(|topic| topic.name).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let (from_name, mut from) = match request.cursor {
        Some(cursor) => (
            cursor.topic_name,
            u32::try_from(cursor.partition_index).unwrap_or(0),
        ),
        None => (Text::default(), 0),
    };
    let (mut topics, mut next_cursor) = (Vec::new(), None);
    for name in names.into_iter().filter(|name| *name >= from_name) {
        let first = if name == from_name {
            std::mem::take(&mut from)
        } else {
            0
        };
        if left == 0 {
            next_cursor = Some(TopicCursor {
                topic_name: name,
                partition_index: first as i32,
            });
            break;
        }
        let topic = match call.topic(Right::Describe, &name) {
            Ok(topic) => topic,
            Err(refusal) => {
                topics.push(DescribedTopic {
                    error_code: call.failed(ErrorCode::of_topic(&refusal, &name)),
                    topic_authorized_operations: match refusal.reason {
                        Reason::Forbidden => NO_OPERATIONS,
                        _ => operations::of_topic(call, &name),
                    },
                    name: Some(name),
                    ..DescribedTopic::default()
                });
                continue;
            }
        };
        let end = topic.partition_count();
        let first = first.min(end);
        let until = end.min(first.saturating_add(left));
        topics.push(described(call, &topic, first..until));
        left -= until - first;
        if until < end {
            next_cursor = Some(TopicCursor {
                topic_name: name,
                partition_index: until as i32,
            });
            break;
        }
    }
    Ok(DescribeTopicPartitionsResponse {
        topics,
        next_cursor,
        ..DescribeTopicPartitionsResponse::default()
    })
}

fn described(call: &Call, topic: &Topic, partitions: std::ops::Range<u32>) -> DescribedTopic {
    let partition = |index: u32| DescribedPartition {
        error_code: 0,
        partition_index: index as i32,
        leader_id: NODE,
        leader_epoch: LEADER_EPOCH,
        replica_nodes: vec![NODE],
        isr_nodes: vec![NODE],
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        offline_replicas: Vec::new(),
    };
    DescribedTopic {
        error_code: 0,
        name: Some(topic.name().into()),
        topic_id: call.topic_id(topic),
        is_internal: false,
        partitions: partitions.map(partition).collect(),
        topic_authorized_operations: operations::of_topic(call, topic.name()),
    }
}

/// Says how much partitions take on the disk, and to administrators how full that is.
pub(crate) async fn describe_log_dirs(
    call: &Call,
    request: DescribeLogDirsRequest,
) -> Result<DescribeLogDirsResponse, Hangup> {
    let topics = match request.topics {
        Some(topics) => {
            let rows = topics.iter().map(|topic| topic.partitions.len());
            Call::check_rows::<DescribeLogDirsPartition>(rows.sum())?;
            topics.iter().filter_map(|asked| sizes_of(call, asked)).collect()
        }
        None => {
            let topics = call.broker.log.topics().into_iter();
            let seen: Vec<Arc<Topic>> = topics
                .filter(|topic| call.caller.sees_topic(topic.name()))
                .collect();
            let partitions: usize = seen.iter().map(|topic| topic.partition_count() as usize).sum();
            call.reserve((partitions + seen.len()) * SIZE_BYTES).await?;
            let sizes = |topic: &Arc<Topic>| sizes(topic, 0..topic.partition_count());
            seen.iter().map(sizes).collect()
        }
    };
    let mut result = DescribeLogDirsResult {
        log_dir: LOG_DIR.into(),
        topics,
        ..DescribeLogDirsResult::default()
    };
    if call.caller.is_admin() {
        let log = call.broker.log.clone();
        let usage = call
            .broker
            .blocking
            .run(Share::Report, move || log.disk_usage())
            .await;
        let bytes = |bytes: Option<u64>| bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        if let Ok(usage) = usage {
            (result.total_bytes, result.usable_bytes) = (bytes(usage.total_bytes), bytes(usage.free_bytes));
        }
    }
    Ok(DescribeLogDirsResponse {
        results: vec![result],
        ..DescribeLogDirsResponse::default()
    })
}

/// The sizes of the partitions that a client asks for; what is not there is left out.
fn sizes_of(call: &Call, asked: &DescribableLogDirTopic) -> Option<DescribeLogDirsTopic> {
    let topic = call.topic(Right::Describe, &asked.topic).ok()?;
    let indexes = asked
        .partitions
        .iter()
        .filter_map(|index| u32::try_from(*index).ok());
    Some(sizes(&topic, indexes))
}

fn sizes(topic: &Topic, partitions: impl Iterator<Item = u32>) -> DescribeLogDirsTopic {
    let found = partitions.filter_map(|index| topic.partition(index));
    let size = |partition: Arc<Partition>| DescribeLogDirsPartition {
        partition_index: partition.id().index as i32,
        partition_size: i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX),
        offset_lag: 0,
        is_future_key: false,
    };
    DescribeLogDirsTopic {
        name: topic.name().into(),
        partitions: found.map(size).collect(),
    }
}
