//! API 2, ListOffsets, and API 23, OffsetForLeaderEpoch.

use std::sync::Arc;

use super::call::{Call, Hangup, LEADER_EPOCH};
use super::errors::ErrorCode;
use super::fetch::check_epoch;
use super::messages::offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition, OffsetForLeaderPartitionResult, OffsetForLeaderTopicResult,
};
use crate::broker::blocking::Share;
use crate::broker::engine::{Offset, Partition, TimestampMs, Topic};
use crate::broker::refusal::Refusal;
use crate::broker::rights::Right;
use crate::broker::topics;
use crate::broker::topics::lookup::{self, Start};

/// What a time below 0 stands for.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const LARGEST_TIME: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// An offset and a timestamp, or none of both.
type Found = Option<(Offset, Option<TimestampMs>)>;

/// Finds offsets by time.
pub(crate) async fn list_offsets(
    call: &Call,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, Hangup> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call
            .topic(Right::Describe, &topic.name)
            .map_err(|refusal| ErrorCode::from(&refusal));
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let result = match &found {
                Ok(topic) => find(call, topic, asked).await,
                Err(code) => Err(*code),
            };
            partitions.push(match result {
                Ok(found) => ListOffsetsPartitionResponse {
                    partition_index: asked.partition_index,
                    error_code: 0,
                    timestamp: found.and_then(|(_, time)| time).map_or(-1, TimestampMs::get),
                    offset: found.map_or(-1, |(offset, _)| offset.get() as i64),
                    leader_epoch: if found.is_some() { LEADER_EPOCH } else { -1 },
                },
                Err(code) => ListOffsetsPartitionResponse {
                    partition_index: asked.partition_index,
                    error_code: call.failed(code),
                    ..ListOffsetsPartitionResponse::default()
                },
            });
        }
        topics.push(ListOffsetsTopicResponse {
            name: topic.name,
            partitions,
        });
    }
    Ok(ListOffsetsResponse {
        topics,
        ..ListOffsetsResponse::default()
    })
}

async fn find(call: &Call, topic: &Topic, asked: &ListOffsetsPartition) -> Result<Found, ErrorCode> {
    let partition = partition(topic, asked.partition_index)?;
    check_epoch(asked.current_leader_epoch)?;
    // A producer that waits for one acknowledgement finds its records.
    let positions = call.broker.fetcher.caught_up(&partition).await;
    match (asked.timestamp, call.version) {
        (LATEST, _) => Ok(Some((positions.end_offset, None))),
        (EARLIEST, _) | (EARLIEST_LOCAL, 8..) => Ok(Some((positions.log_start_offset, None))),
        // There is no second place where old segments are.
        (LATEST_TIERED, 9..) | (EARLIEST_PENDING_UPLOAD, 11..) => Ok(None),
        (LARGEST_TIME, 7..) => at(call, partition, None).await,
        (time @ 0.., _) => at(call, partition, Some(TimestampMs(time))).await,
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

/// The first record at or after a time; without a time, that with the largest.
async fn at(call: &Call, partition: Arc<Partition>, time: Option<TimestampMs>) -> Result<Found, ErrorCode> {
    let log = call.broker.log.clone();
    let find = move || -> Result<Found, Refusal> {
        let Some(time) = time else {
            return Ok(lookup::largest_time(&log, &partition)?);
        };
        let (offset, found) = Start::Time(time).find(&log, &partition)?;
        Ok(found.map(|time| (offset, Some(time))))
    };
    let found = call.broker.blocking.attempt(Share::Read, find).await;
    found.map_err(|refusal| ErrorCode::from(&refusal))
}

fn partition(topic: &Topic, index: i32) -> Result<Arc<Partition>, ErrorCode> {
    let index = u32::try_from(index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
    topics::partition(topic, index).map_err(|refusal| ErrorCode::from(&refusal))
}

/// Says where epochs end: there is one, and it ends at the end of the log.
pub(crate) async fn offset_for_leader_epoch(
    call: &Call,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Hangup> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call
            .topic(Right::Describe, &topic.topic)
            .map_err(|refusal| ErrorCode::from(&refusal));
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let end = match &found {
                Ok(topic) => end_of_epoch(call, topic, asked).await,
                Err(code) => Err(*code),
            };
            let known = end.as_ref().ok().copied().flatten();
            partitions.push(OffsetForLeaderPartitionResult {
                error_code: end.err().map_or(0, |code| call.failed(code)),
                partition: asked.partition,
                leader_epoch: known.map_or(-1, |_| LEADER_EPOCH),
                end_offset: known.map_or(-1, |end| end.get() as i64),
            });
        }
        topics.push(OffsetForLeaderTopicResult {
            partitions,
            topic: topic.topic,
        });
    }
    Ok(OffsetForLeaderEpochResponse {
        topics,
        ..OffsetForLeaderEpochResponse::default()
    })
}

/// Where an epoch ends; `None`: there has been no such epoch.
async fn end_of_epoch(
    call: &Call,
    topic: &Topic,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<Offset>, ErrorCode> {
    let partition = partition(topic, asked.partition)?;
    check_epoch(asked.current_leader_epoch)?;
    if asked.leader_epoch != LEADER_EPOCH {
        return Ok(None);
    }
    Ok(Some(call.broker.fetcher.caught_up(&partition).await.end_offset))
}
