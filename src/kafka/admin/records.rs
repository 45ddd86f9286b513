//! API 21, DeleteRecords: the oldest records of partitions are deleted.

use std::sync::Arc;

use super::super::call::{Call, Hangup};
use super::super::errors::ErrorCode;
use super::super::messages::admin::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};
use crate::broker::blocking::Share;
use crate::broker::engine::{Offset, Topic};
use crate::broker::rights::Right;
use crate::broker::topics;

/// Stands for the end of a partition.
const END: i64 = -1;

/// Moves the log starts of partitions.
pub(crate) async fn delete_records(
    call: &Call,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Hangup> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call
            .topic(Right::Delete, &topic.name)
            .map_err(|refusal| ErrorCode::from(&refusal));
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let moved = match &found {
                Ok(topic) => trim(call, topic, asked).await,
                Err(code) => Err(*code),
            };
            let error_code = moved.err().map_or(0, |code| call.failed(code));
            let index = asked.partition_index;
            call.note_change(
                format!("topics/{}/partitions/{index}/records", &*topic.name),
                error_code,
            );
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: index,
                low_watermark: moved.map_or(-1, |start| start.get() as i64),
                error_code,
            });
        }
        topics.push(DeleteRecordsTopicResult {
            name: topic.name,
            partitions,
        });
    }
    Ok(DeleteRecordsResponse {
        topics,
        ..DeleteRecordsResponse::default()
    })
}

async fn trim(call: &Call, topic: &Arc<Topic>, asked: &DeleteRecordsPartition) -> Result<Offset, ErrorCode> {
    let index = u32::try_from(asked.partition_index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
    let partition = topics::partition(topic, index).map_err(|refusal| ErrorCode::from(&refusal))?;
    // A producer that waits for one acknowledgement may delete its records.
    let positions = call.broker.fetcher.caught_up(&partition).await;
    let before = match asked.offset {
        END => Some(positions.end_offset),
        offset => u64::try_from(offset).ok().and_then(Offset::try_new),
    };
    let before = before.ok_or(ErrorCode::OffsetOutOfRange)?;
    let (topics, caller, topic) = (call.broker.topics.clone(), call.caller.clone(), Arc::clone(topic));
    let trim = move || topics.trim(&caller, &topic, &partition, before, None);
    let trimmed = call.broker.blocking.attempt(Share::Change, trim).await;
    trimmed.map_err(|refusal| ErrorCode::from(&refusal))
}
