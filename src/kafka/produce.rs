//! API 0, Produce, and API 22, InitProducerId.
//!
//! The appends of a request are queued in the log before the next request of the connection is looked at, so that the
//! order of a connection's batches is the order of its requests. The answer comes when they are written or durable, as
//! `acks` says; meanwhile the next requests are answered.

use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, join_all};

use super::apis::write;
use super::call::{Answer, Call, Hangup};
use super::errors::ErrorCode;
use super::messages::produce::{
    BatchIndexAndErrorMessage, InitProducerIdRequest, InitProducerIdResponse, ProducePartition,
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse,
};
use super::wire::Text;
use crate::broker::engine::Ack;
use crate::broker::produce::Target;
use crate::broker::produce::record_batch::{CheckedBatch, InflateRoom, RECORDS_AT_FAULT};
use crate::broker::refusal::{Reason, Refusal, Value};
use crate::broker::rights::Right;

/// The answer for a partition, now or when its batch is stored.
type Stored = BoxFuture<'static, ProducePartitionResponse>;
/// A batch that may be stored, and when it is to be answered; or the answer for its partition.
type Checked = Result<(CheckedBatch, Ack), ProducePartitionResponse>;

/// Appends the batches of a request; each partition has its own result.
pub(crate) async fn produce(call: Call, correlation: i32, request: ProduceRequest) -> Result<Answer, Hangup> {
    let ack = match (request.acks, &request.transactional_id) {
        (0 | 1, None) => Ok(Ack::Written),
        (-1, None) => Ok(Ack::Durable),
        (-1..=1, Some(_)) => Err((ErrorCode::InvalidTxnState, "transactions are not supported")),
        _ => Err((ErrorCode::InvalidRequiredAcks, "acks is 0, 1 or -1")),
    };
    let batches = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let batches = batches.filter_map(|partition| partition.records.as_ref());
    let mut room = InflateRoom::of(batches.map(BytesMut::len).sum());
    // All batches are checked before the first is queued, so that the log can take them in one round.
    let mut all = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let target = ack.and_then(|ack| {
            let found = call.topic_of(Right::Write, &topic.name, topic.topic_id);
            let target = found.map(|topic| (Target::of(&topic), ack));
            target.map_err(|code| (code, ""))
        });
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for partition in topic.partition_data {
            let index = partition.index;
            let checked: Checked = match &target {
                Ok((target, ack)) => {
                    let batch = check(&call, target, partition, &mut room).await;
                    batch.map(|batch| (batch, *ack))
                }
                Err((code, why)) => Err(error(&call, index, *code, why)),
            };
            partitions.push((index, checked));
        }
        all.push((topic.name, topic.topic_id, partitions));
    }
    let mut topics = Vec::with_capacity(all.len());
    for (name, topic_id, partitions) in all {
        let mut stored: Vec<Stored> = Vec::with_capacity(partitions.len());
        for (index, checked) in partitions {
            stored.push(store(&call, index, checked).await);
        }
        topics.push(async move {
            ProduceTopicResponse {
                name,
                topic_id,
                partition_responses: join_all(stored).await,
            }
        });
    }
    let version = call.version;
    let topics = join_all(topics);
    if request.acks == 0 {
        // Nobody waits for it: the appends are queued, and go on by themselves.
        return Ok(Answer::Never);
    }
    let mut answer: BoxFuture<'static, Vec<Bytes>> = Box::pin(async move {
        let message = ProduceResponse {
            responses: topics.await,
            ..ProduceResponse::default()
        };
        write(0, correlation, version, &message)
    });
    let first = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
    Ok(match first {
        Poll::Ready(pieces) => Answer::Now(pieces),
        Poll::Pending => Answer::Later(answer),
    })
}

/// Checks the batch for a partition.
async fn check(
    call: &Call,
    target: &Target,
    partition: ProducePartition,
    room: &mut InflateRoom,
) -> Result<CheckedBatch, ProducePartitionResponse> {
    let index = partition.index;
    let number =
        u32::try_from(index).map_err(|_| error(call, index, ErrorCode::UnknownTopicOrPartition, ""))?;
    let batch = partition.records.unwrap_or_default();
    let checked = call
        .broker
        .producer
        .check_batch(target, number, batch, room)
        .await;
    checked.map_err(|refusal| ProducePartitionResponse {
        record_errors: at_fault(&refusal),
        ..error(call, index, fault(&refusal), &refusal.detail)
    })
}

/// Queues the append of a batch.
async fn store(call: &Call, index: i32, checked: Checked) -> Stored {
    let now = |answer| -> Stored { Box::pin(std::future::ready(answer)) };
    let (batch, ack) = match checked {
        Ok(checked) => checked,
        Err(answer) => return now(answer),
    };
    let partition = batch.partition();
    // Where the log starts tells a client whose producer is not known what to do: without it, Java's sends the same again
    // until its time is over.
    let failed = move |call: &Call, refusal: &Refusal| ProducePartitionResponse {
        log_start_offset: partition.positions().log_start_offset.get() as i64,
        ..error(call, index, fault(refusal), &refusal.detail)
    };
    let append = match call.broker.producer.queue_batch(batch, ack).await {
        Ok(append) => append,
        Err(refusal) => return now(failed(call, &refusal)),
    };
    let call = call.clone();
    Box::pin(async move {
        match append.await {
            Ok(accepted) => ProducePartitionResponse {
                index,
                base_offset: accepted.range.first_offset.get() as i64,
                log_append_time_ms: accepted.log_append_time.map_or(-1, |now| now.get()),
                log_start_offset: accepted.log_start_offset.get() as i64,
                ..ProducePartitionResponse::default()
            },
            Err(refusal) => failed(&call, &refusal),
        }
    })
}

fn error(call: &Call, index: i32, code: ErrorCode, why: &str) -> ProducePartitionResponse {
    ProducePartitionResponse {
        index,
        error_code: call.failed(code),
        base_offset: -1,
        error_message: Some(why).filter(|why| !why.is_empty()).map(Text::from),
        ..ProducePartitionResponse::default()
    }
}

/// The records that a batch was refused for; clients tell the others of the batch from them.
fn at_fault(refusal: &Refusal) -> Vec<BatchIndexAndErrorMessage> {
    let Some(Value::Indexes(records)) = refusal.value(RECORDS_AT_FAULT) else {
        return Vec::new();
    };
    let error = |record: &u32| BatchIndexAndErrorMessage {
        batch_index: i32::try_from(*record).unwrap_or(i32::MAX),
        batch_index_error_message: None,
    };
    records.iter().map(error).collect()
}

/// The code for a batch that was refused: of what this version lacks, transactions are left.
fn fault(refusal: &Refusal) -> ErrorCode {
    match refusal.reason {
        Reason::NotSupported => ErrorCode::InvalidRecord,
        reason => ErrorCode::of(reason),
    }
}

/// Gives an id to an idempotent producer. A transactional one is refused: there are no transactions.
pub(crate) async fn init_producer_id(
    call: &Call,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Hangup> {
    let failed = |error_code| InitProducerIdResponse {
        error_code,
        producer_epoch: -1,
        ..InitProducerIdResponse::default()
    };
    if let Some(id) = request.transactional_id {
        let code = match id.is_empty() {
            true => ErrorCode::InvalidRequest,
            false => ErrorCode::UnsupportedVersion,
        };
        return Ok(failed(call.failed(code)));
    }
    Ok(match call.broker.producer.new_producer_id(&call.caller).await {
        Ok(producer_id) => InitProducerIdResponse {
            producer_id,
            ..InitProducerIdResponse::default()
        },
        Err(refusal) if refusal.reason == Reason::Forbidden => {
            failed(call.failed(ErrorCode::ClusterAuthorizationFailed))
        }
        Err(refusal) => failed(call.refused(&refusal)),
    })
}
