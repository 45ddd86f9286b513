//! API 61, DescribeProducers: the idempotent producers that partitions know.

use std::collections::HashSet;

use super::super::call::{Call, Hangup};
use super::super::errors::ErrorCode;
use super::super::messages::transactions::{
    DescribeProducersPartition, DescribeProducersRequest, DescribeProducersResponse,
    DescribeProducersTopicResponse, ProducerState,
};
use crate::broker::blocking::Share;
use crate::broker::engine::{KnownProducer, PartitionId};
use crate::broker::rights::Right;

/// No coordinator of transactions has written to the partition.
const NO_EPOCH: i32 = -1;

/// Names the producers that have appended a batch within a day. None of them has a transaction.
pub(crate) async fn describe_producers(
    call: &Call,
    request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, Hangup> {
    let rows = request.topics.iter().map(|topic| topic.partition_indexes.len());
    Call::check_rows::<DescribeProducersPartition>(rows.sum())?;
    let mut described = Vec::with_capacity(request.topics.len());
    // A partition takes four bytes in a request, and may have many producers: they are named once.
    let mut seen = HashSet::new();
    for topic in request.topics {
        let found = call.topic(Right::Read, &topic.name);
        let found = found.map_err(|refusal| ErrorCode::from(&refusal));
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for partition_index in topic.partition_indexes {
            let number = u32::try_from(partition_index).unwrap_or(u32::MAX);
            let known = match &found {
                Ok(topic) => match topic.partition(number).map(|partition| partition.id()) {
                    Some(id) if seen.insert(id) => of_partition(call, id).await,
                    Some(_) => Err(ErrorCode::InvalidRequest),
                    None => Err(ErrorCode::UnknownTopicOrPartition),
                },
                Err(code) => Err(*code),
            };
            let error_code = known.as_ref().err().map_or(0, |code| call.failed(*code));
            partitions.push(DescribeProducersPartition {
                partition_index,
                error_code,
                // A sentence for each partition would be many times as much as the request.
                error_message: None,
                active_producers: known.unwrap_or_default(),
            });
        }
        described.push(DescribeProducersTopicResponse {
            name: topic.name,
            partitions,
        });
    }
    Ok(DescribeProducersResponse {
        topics: described,
        ..DescribeProducersResponse::default()
    })
}

async fn of_partition(call: &Call, id: PartitionId) -> Result<Vec<ProducerState>, ErrorCode> {
    let log = call.broker.log.clone();
    let producers = move || Ok(log.producers(id));
    let known = call.broker.blocking.attempt(Share::Report, producers).await;
    let known = known.map_err(|refusal| ErrorCode::from(&refusal))?;
    Ok(known.into_iter().map(state).collect())
}

fn state(known: KnownProducer) -> ProducerState {
    ProducerState {
        producer_id: known.id.0,
        producer_epoch: known.epoch.into(),
        last_sequence: known.last_sequence,
        last_timestamp: known.last_append.get(),
        coordinator_epoch: NO_EPOCH,
        ..ProducerState::default()
    }
}
