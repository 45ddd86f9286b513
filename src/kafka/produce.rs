//! API 0, Produce, and API 22, InitProducerId.
//!
//! The appends of a request are queued in the log before the next request of the connection is looked at, so that the
//! order of a connection's batches is the order of its requests. The answer comes when they are written or durable, as
//! `acks` says; meanwhile the next requests are answered. Without an answer (`acks` of 0), a client learns of an error by
//! the end of its connection, as in Kafka: it then asks for the topics again.

use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};

use super::apis::write;
use super::call::{Answer, Call, Hangup};
use super::errors::ErrorCode;
use super::messages::produce::{
    BatchIndexAndErrorMessage, InitProducerIdRequest, InitProducerIdResponse, ProducePartition,
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse,
};
use super::wire::Text;
use crate::broker::budget::Budget;
use crate::broker::engine::Ack;
use crate::broker::produce::Target;
use crate::broker::produce::record_batch::{
    CheckedBatch, InflateRoom, MAX_AT_FAULT, RECORDS_AT_FAULT, most_rebuilt_bytes,
};
use crate::broker::refusal::{Reason, Refusal, Value};
use crate::broker::rights::Right;

/// What the answer for one partition takes in memory, in bytes, without the records at fault.
const ROW_BYTES: usize = 256;

/// The answer for a partition, when its batch is stored.
type Stored = BoxFuture<'static, ProducePartitionResponse>;
/// A batch that may be stored, and when it is to be answered; or the answer for its partition.
type Checked = Result<(CheckedBatch, Ack), ProducePartitionResponse>;

/// The batches of a request, in the order of its partitions.
struct Batches<'a> {
    call: &'a Call,
    room: InflateRoom,
    /// How many more records at fault the answer may name.
    at_fault_left: usize,
    /// The batches that are not queued yet.
    checked: Vec<(i32, Checked)>,
    /// What these take besides the request, because their topics store them in another compression.
    rebuilt_bytes: usize,
    /// Covers these.
    budget: Budget<'a>,
    /// What was queued, or refused.
    stored: Vec<Stored>,
    has_failed: bool,
}

impl<'a> Batches<'a> {
    fn new(call: &'a Call) -> Self {
        Self {
            call,
            room: InflateRoom::default(),
            at_fault_left: MAX_AT_FAULT,
            checked: Vec::new(),
            rebuilt_bytes: 0,
            budget: Budget::unhurried(&call.rebuilt),
            stored: Vec::new(),
            has_failed: false,
        }
    }

    /// Checks the batch for a partition. All batches are checked before the first is queued, so that the log can take them
    /// in one round, unless there is no memory for that.
    async fn check(
        &mut self,
        target: &Result<(Target, Ack), (ErrorCode, &str)>,
        partition: ProducePartition,
    ) -> Result<(), Hangup> {
        let index = partition.index;
        let (target, ack) = match target {
            Ok(target) => target,
            Err((code, why)) => {
                let answer = error(self.call, index, *code, why);
                self.checked.push((index, Err(answer)));
                return Ok(());
            }
        };
        let records = partition.records.as_deref().unwrap_or_default();
        let most = most_rebuilt_bytes(target, records);
        if most > 0 && !self.budget.try_cover(self.rebuilt_bytes + most) {
            // Whoever waits for memory holds none.
            self.queue().await;
            let covered = self.budget.cover(most).await;
            covered.map_err(|_| Hangup::Overloaded)?;
        }
        let left = (&mut self.room, &mut self.at_fault_left);
        let checked = check(self.call, target, partition, left).await;
        self.rebuilt_bytes += checked.as_ref().map_or(0, CheckedBatch::rebuilt_bytes);
        self.budget.shrink(self.rebuilt_bytes);
        self.checked.push((index, checked.map(|batch| (batch, *ack))));
        Ok(())
    }

    /// Queues what was checked.
    async fn queue(&mut self) {
        for (index, checked) in self.checked.drain(..) {
            let queued = match checked {
                Ok((batch, ack)) => store(self.call, index, batch, ack).await,
                Err(answer) => Err(answer),
            };
            self.stored.push(queued.unwrap_or_else(|answer| {
                self.has_failed = true;
                Box::pin(std::future::ready(answer))
            }));
        }
        self.rebuilt_bytes = 0;
        self.budget.shrink(0);
    }
}

/// Appends the batches of a request; each partition has its own result.
pub(crate) async fn produce(call: Call, correlation: i32, request: ProduceRequest) -> Result<Answer, Hangup> {
    let ack = match (request.acks, &request.transactional_id) {
        (0 | 1, None) => Ok(Ack::Written),
        (-1, None) => Ok(Ack::Durable),
        (-1..=1, Some(_)) => Err((ErrorCode::InvalidTxnState, "transactions are not supported")),
        _ => Err((ErrorCode::InvalidRequiredAcks, "acks is 0, 1 or -1")),
    };
    if request.acks != 0 {
        let partitions = request.topic_data.iter().map(|topic| topic.partition_data.len());
        call.reserve(partitions.sum::<usize>() * ROW_BYTES).await?;
    }
    let mut batches = Batches::new(&call);
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let target = ack.and_then(|ack| {
            let found = call.topic_of(Right::Write, &topic.name, topic.topic_id);
            let target = found.map(|topic| (Target::of(&topic), ack));
            target.map_err(|code| (code, ""))
        });
        topics.push((topic.name, topic.topic_id, topic.partition_data.len()));
        for partition in topic.partition_data {
            batches.check(&target, partition).await?;
        }
    }
    batches.queue().await;
    let (stored, has_failed) = (join_all(batches.stored), batches.has_failed);
    if request.acks == 0 {
        // Nobody waits for the answer: the appends are queued, and go on by themselves.
        if has_failed {
            return Err(Hangup::Unacknowledged);
        }
        let session = Arc::clone(&call.session);
        tokio::spawn(async move {
            if stored.await.iter().any(|answer| answer.error_code != 0) {
                session.fail();
            }
        });
        return Ok(Answer::Never);
    }
    let version = call.version;
    let mut answer: BoxFuture<'static, Vec<Bytes>> = Box::pin(async move {
        let mut stored = stored.await.into_iter();
        let of_topic = |(name, topic_id, partitions)| ProduceTopicResponse {
            name,
            topic_id,
            partition_responses: stored.by_ref().take(partitions).collect(),
        };
        let message = ProduceResponse {
            responses: topics.into_iter().map(of_topic).collect(),
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
    (room, at_fault_left): (&mut InflateRoom, &mut usize),
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
        record_errors: at_fault(&refusal, at_fault_left),
        ..error(call, index, fault(&refusal), &refusal.detail)
    })
}

/// Queues the append of a batch.
async fn store(
    call: &Call,
    index: i32,
    batch: CheckedBatch,
    ack: Ack,
) -> Result<Stored, ProducePartitionResponse> {
    let partition = batch.partition();
    // Where the log starts tells a client whose producer is not known what to do: without it, Java's sends the same again
    // until its time is over.
    let failed = move |call: &Call, refusal: &Refusal| ProducePartitionResponse {
        log_start_offset: partition.positions().log_start_offset.get() as i64,
        ..error(call, index, fault(refusal), &refusal.detail)
    };
    let append = match call.broker.producer.queue_batch(batch, ack).await {
        Ok(append) => append,
        Err(refusal) => return Err(failed(call, &refusal)),
    };
    let call = call.clone();
    Ok(Box::pin(async move {
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
    }))
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

/// The records that a batch was refused for, of which so many are left; clients tell the others of the batch from them.
fn at_fault(refusal: &Refusal, left: &mut usize) -> Vec<BatchIndexAndErrorMessage> {
    let Some(Value::Indexes(records)) = refusal.value(RECORDS_AT_FAULT) else {
        return Vec::new();
    };
    let error = |record: &u32| BatchIndexAndErrorMessage {
        batch_index: i32::try_from(*record).unwrap_or(i32::MAX),
        batch_index_error_message: None,
    };
    let errors: Vec<_> = records.iter().take(*left).map(error).collect();
    *left -= errors.len();
    errors
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use bytes::BytesMut;
    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;
    use crate::broker::engine::TimestampMs;
    use crate::broker::engine::batch::{BatchBuilder, Codec};
    use crate::kafka::REBUILT_BYTES;
    use crate::kafka::call::testing;
    use crate::kafka::messages::produce::ProduceTopic;

    const PATIENCE: Duration = Duration::from_secs(300);

    /// A request with so many batches of one record.
    fn request(acks: i16, codec: Option<Codec>, count: usize) -> ProduceRequest {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(1), None, Some(&[0; 100_000]), &[]);
        let batch = builder.seal().with_codec(codec, None).unwrap();
        let partition = ProducePartition {
            records: Some(BytesMut::from(batch.as_bytes())),
            ..ProducePartition::default()
        };
        ProduceRequest {
            acks,
            topic_data: vec![ProduceTopic {
                name: "t".into(),
                partition_data: vec![partition; count],
                ..ProduceTopic::default()
            }],
            ..ProduceRequest::default()
        }
    }

    fn call(compression: &str) -> Call {
        testing::call(
            "Produce",
            3,
            &[("compression_type".to_owned(), compression.into())],
        )
    }

    /// Waits until so many records are counted.
    async fn counted(call: &Call, records: u64) {
        let counter = &call.broker.counters.produced_records;
        let counted = async {
            while counter.load(Relaxed) != records {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = timeout(PATIENCE, counted).await;
        assert!(waited.is_ok(), "{} records are counted", counter.load(Relaxed));
    }

    #[tokio::test]
    async fn a_batch_that_is_stored_in_another_compression_takes_memory_that_counts_until_it_is_queued() {
        let call = call("uncompressed");
        let mut others = Budget::unhurried(&call.rebuilt);
        others.cover(REBUILT_BYTES as usize).await.unwrap();
        // As it came, it takes none.
        produce(call.clone(), 1, request(-1, None, 1)).await.unwrap();
        let mut waiting = pin!(produce(call.clone(), 2, request(-1, Some(Codec::Zstd), 50)));
        for _ in 0..100 {
            let is_over = waiting.as_mut().now_or_never().is_some();
            assert!(!is_over, "others hold all of the memory");
            tokio::task::yield_now().await;
        }
        drop(others);
        waiting.await.unwrap();
        assert_eq!(call.rebuilt.held_bytes(), 0);
        counted(&call, 51).await;
    }

    #[tokio::test]
    async fn records_are_counted_whoever_waits_for_the_answer() {
        let call = call("producer");
        for (number, acks) in [(1, -1), (2, 1), (3, 0)] {
            drop(produce(call.clone(), 1, request(acks, None, 1)).await.unwrap());
            counted(&call, number).await;
        }
    }
}
