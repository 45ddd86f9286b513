//! API 1, Fetch: whole batches, as slices of the files that they lie in.
//!
//! There are no sessions: the answer to a client that asks for one has session id 0, and each of its requests names all
//! partitions.

use std::time::Duration;

use super::call::{Call, Hangup, LEADER_EPOCH};
use super::errors::ErrorCode;
use super::messages::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse,
};
use super::wire::Records;
use crate::broker::budget::Pace;
use crate::broker::engine::{Offset, Topic};
use crate::broker::fetch::page::Page;
use crate::broker::fetch::several::{Extent, Wanted};
use crate::broker::refusal::Refusal;
use crate::broker::rights::Right;
use crate::broker::topics;

/// The most stored bytes of an answer, as in Kafka (`fetch.max.bytes` of a broker). One batch may be larger.
const MAX_BYTES: u64 = 55 << 20;
/// The longest wait for records; clients ask again.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The same for a request with many partitions, which holds much of the memory that all requests share.
const MAX_LARGE_WAIT: Duration = Duration::from_secs(1);
/// The same holds for a request of more bytes.
const LARGE_BYTES: usize = 256 << 10;
/// More partitions than these are many.
const MANY_PARTITIONS: usize = 1000;
/// What is read of more partitions than these counts in the memory for answers.
const FEW_PARTITIONS: usize = 250;
/// What one partition of a request takes in memory while it is read and answered, in bytes.
const PARTITION_BYTES: usize = 2 * size_of::<Option<Result<Page, Refusal>>>()
    + size_of::<FetchPartitionResponse>()
    + size_of::<FetchPartition>()
    + 3 * size_of::<Wanted>();

/// Reads partitions, and waits for records.
pub(crate) async fn fetch(call: &Call, request: FetchRequest) -> Result<FetchResponse, Hangup> {
    // Epochs 0 and -1 begin or decline a session; others go on with one, and there is none.
    if request.session_id != 0 || request.session_epoch > 0 {
        return Ok(FetchResponse {
            error_code: call.failed(ErrorCode::FetchSessionIdNotFound),
            ..FetchResponse::default()
        });
    }
    let count: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let bytes_of_all = match count > FEW_PARTITIONS {
        true => count * PARTITION_BYTES,
        false => 0,
    };
    call.reserve(bytes_of_all).await?;
    let mut wanted = Vec::new();
    // Of each topic its partitions: an error, or the place in `wanted`.
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call.topic_of(Right::Read, &topic.topic, topic.topic_id);
        let look_up = |asked: &FetchPartition| {
            let topic = found.as_ref().map_err(|code| *code)?;
            let partition = want(topic, asked)?;
            wanted.push(partition);
            Ok(wanted.len() - 1)
        };
        let places: Vec<Result<usize, ErrorCode>> = topic.partitions.iter().map(look_up).collect();
        topics.push((topic, places));
    }
    let has_error = topics.iter().any(|(_, places)| places.iter().any(Result::is_err));
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let extent = Extent {
        max_bytes: bytes(request.max_bytes),
        min_bytes: bytes(request.min_bytes),
        // An error is answered at once, and so is a request for nothing, by which clients end a session.
        wait: match count {
            0 => Duration::ZERO,
            _ if has_error => Duration::ZERO,
            1..=MANY_PARTITIONS if call.frame_bytes <= LARGE_BYTES => wait.min(MAX_WAIT),
            _ => wait.min(MAX_LARGE_WAIT),
        },
    };
    let fetcher = &call.broker.fetcher;
    let [mut of_answers, mut of_requests] = [&call.answers, &call.broker.bodies].map(Pace::new);
    let read = async {
        match call.is_slowed {
            true => fetcher.fetch_nothing(&wanted).await,
            false => fetcher.fetch_several(&wanted, extent).await,
        }
    };
    let read = of_answers.wait(bytes_of_all, read);
    let read = of_requests.wait(call.session.request_bytes(), read).await;
    let pages = match read.and_then(|read| read) {
        Ok(pages) => pages,
        // Others wait for the memory: the client gets what there is, and asks again.
        Err(_) => {
            let wait = Duration::ZERO;
            fetcher.fetch_several(&wanted, Extent { wait, ..extent }).await
        }
    };
    let mut pages: Vec<Option<Result<Page, Refusal>>> = pages.into_iter().map(Some).collect();
    let mut responses = Vec::with_capacity(topics.len());
    for (topic, places) in topics {
        let mut partitions = Vec::with_capacity(places.len());
        for (asked, place) in topic.partitions.iter().zip(places) {
            partitions.push(match place.map(|place| pages[place].take()) {
                Ok(Some(Ok(page))) => records(asked.partition, page),
                Ok(Some(Err(refusal))) => failed(asked.partition, call.refused(&refusal)),
                Ok(None) => failed(asked.partition, call.failed(ErrorCode::UnknownServerError)),
                Err(code) => failed(asked.partition, call.failed(code)),
            });
        }
        responses.push(FetchTopicResponse {
            topic: topic.topic,
            topic_id: topic.topic_id,
            partitions,
        });
    }
    Ok(FetchResponse {
        responses,
        ..FetchResponse::default()
    })
}

/// A number of bytes that a client names.
fn bytes(number: i32) -> u64 {
    u64::try_from(number).unwrap_or(0).min(MAX_BYTES)
}

fn want(topic: &Topic, asked: &FetchPartition) -> Result<Wanted, ErrorCode> {
    let index = u32::try_from(asked.partition).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
    let partition = topics::partition(topic, index).map_err(|refusal| ErrorCode::from(&refusal))?;
    check_epoch(asked.current_leader_epoch)?;
    let from = u64::try_from(asked.fetch_offset).ok().and_then(Offset::try_new);
    Ok(Wanted {
        partition,
        from: from.ok_or(ErrorCode::OffsetOutOfRange)?,
        max_bytes: bytes(asked.partition_max_bytes),
    })
}

/// Checks the epoch that a client takes the leader's to be; a negative one says nothing.
pub(crate) fn check_epoch(epoch: i32) -> Result<(), ErrorCode> {
    match epoch > LEADER_EPOCH {
        true => Err(ErrorCode::UnknownLeaderEpoch),
        false => Ok(()),
    }
}

fn records(partition_index: i32, page: Page) -> FetchPartitionResponse {
    FetchPartitionResponse {
        partition_index,
        high_watermark: page.end_offset.get() as i64,
        // There are no transactions, so all is stable.
        last_stable_offset: page.end_offset.get() as i64,
        log_start_offset: page.log_start_offset.get() as i64,
        records: Records(page.runs.into_iter().map(|run| run.bytes).collect()),
        ..FetchPartitionResponse::default()
    }
}

fn failed(partition_index: i32, error_code: i16) -> FetchPartitionResponse {
    FetchPartitionResponse {
        partition_index,
        error_code,
        high_watermark: -1,
        ..FetchPartitionResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::broker::budget::Budget;
    use crate::kafka::ANSWERS_BYTES;
    use crate::kafka::call::testing;
    use crate::kafka::messages::fetch::FetchTopic;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A call to a node with an empty topic of one partition.
    fn call() -> Call {
        testing::call("Fetch", 4, &[])
    }

    /// A request that names the partition so many times, and waits for an hour.
    fn request(count: usize) -> FetchRequest {
        let partition = FetchPartition {
            current_leader_epoch: -1,
            partition_max_bytes: 1000,
            ..FetchPartition::default()
        };
        FetchRequest {
            max_wait_ms: HOUR.as_millis() as i32,
            min_bytes: 1,
            max_bytes: 1000,
            topics: vec![FetchTopic {
                topic: "t".into(),
                partitions: vec![partition; count],
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        }
    }

    #[test]
    fn no_client_asks_for_more_than_a_fetch_gives() {
        let named = [-1, 0, 1, 55 << 20, 56 << 20, i32::MAX];
        assert_eq!(named.map(bytes), [0, 0, 1, 55 << 20, 55 << 20, 55 << 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_of_many_partitions_holds_memory_that_counts_while_it_waits() {
        let call = call();
        for (count, least) in [
            (FEW_PARTITIONS, 0),
            (FEW_PARTITIONS + 1, (FEW_PARTITIONS + 1) * PARTITION_BYTES),
        ] {
            let mut fetch = pin!(fetch(&call, request(count)));
            assert!(timeout(Duration::from_secs(1), fetch.as_mut()).await.is_err());
            let held = call.answers.held_bytes() as usize;
            assert!((least..=2 * least).contains(&held), "{count} partitions: {held}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_of_many_partitions_is_answered_when_others_wait_for_its_memory() {
        let call = call();
        let mut others = Budget::unhurried(&call.answers);
        let mut fetch = pin!(fetch(&call, request(MANY_PARTITIONS)));
        assert!(timeout(Duration::from_secs(1), fetch.as_mut()).await.is_err());
        let mut other = pin!(others.cover(ANSWERS_BYTES as usize));
        let begin = Instant::now();
        let answer = tokio::select! {
            biased;
            _ = other.as_mut() => panic!("the fetch holds some of it"),
            answer = fetch => answer,
        };
        assert!(begin.elapsed() < MAX_WAIT);
        assert_eq!(answer.unwrap().responses[0].partitions.len(), MANY_PARTITIONS);
        drop(call.session.take_answer());
        other.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_fetch_is_answered_when_others_wait_for_the_memory_of_its_request() {
        let call = call();
        let requests = &call.broker.bodies;
        let mut frame = Budget::unhurried(requests);
        frame.cover(200_000).await.unwrap();
        call.session.hold_request(frame.take());
        let mut fetch = pin!(fetch(&call, request(1)));
        assert!(timeout(Duration::from_secs(10), fetch.as_mut()).await.is_err());
        let mut others = Budget::unhurried(requests);
        let mut other = pin!(others.cover(1 << 40));
        let begin = Instant::now();
        let answer = tokio::select! {
            biased;
            _ = other.as_mut() => panic!("the fetch holds some of it"),
            answer = fetch => answer,
        };
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        assert_eq!(answer.unwrap().responses[0].partitions.len(), 1);
        drop(call.session.take_request());
        other.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_waits_the_less_the_more_it_holds() {
        let mut call = call();
        for (count, frame_bytes, longest) in [
            (1, 0, MAX_WAIT),
            (MANY_PARTITIONS, LARGE_BYTES, MAX_WAIT),
            (MANY_PARTITIONS + 1, LARGE_BYTES, MAX_LARGE_WAIT),
            (1, LARGE_BYTES + 1, MAX_LARGE_WAIT),
        ] {
            call.frame_bytes = frame_bytes;
            let begin = Instant::now();
            let answer = fetch(&call, request(count)).await.unwrap();
            assert_eq!(answer.responses[0].partitions[0].error_code, 0);
            assert_eq!(begin.elapsed().as_secs(), longest.as_secs(), "{count} partitions");
            drop(call.session.take_answer());
        }
    }
}
