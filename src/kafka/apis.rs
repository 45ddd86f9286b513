//! The table of APIs: from it ApiVersions is answered, and requests find their handlers.
//!
//! A handler is an async function from a [`Call`] and a request to an answer. What it refuses goes into the answer as an
//! [`ErrorCode`](super::errors::ErrorCode); `Err` closes the connection. The requests of a connection are handled one after another; only `begins`
//! handlers may leave work for later ([`Answer::Later`]).
//!
//! To offer an API: declare its messages in `messages/`, write its handler, add its row here. If it changes something as an
//! administrator does, its handler notes each change in the log ([`Call::note_change`]).

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, ready};
use tokio::sync::OwnedSemaphorePermit;

use super::call::{Answer, Call, Hangup, request_id};
use super::header::{API_VERSIONS, RequestHeader, begin_answer, skip_tags};
use super::quotas::{InFlight, Slowed};
use super::session::Session;
use super::wire::{Message, Reader, Version, Writer};
use super::{
    Kafka, admin, api_versions, consumers, coordinator, fetch, group_offsets, groups, members, metadata,
    offsets, produce, sasl,
};
use crate::broker::budget::Budget;

/// The structures of a request that take no more than this are not accounted for, in bytes.
const SMALL_BYTES: usize = 16 << 10;
/// What handlers may make of a byte of the structures of a request.
const OF_STRUCTURES: usize = 16;

const PRODUCE: i16 = 0;
pub(crate) const FETCH: i16 = 1;
const JOIN_GROUP: i16 = 11;
const SYNC_GROUP: i16 = 14;
/// Those that wait for other members of a group.
const WAIT_FOR_MEMBERS: [i16; 2] = [JOIN_GROUP, SYNC_GROUP];

/// An API as it is offered.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) key: i16,
    pub(crate) name: &'static str,
    /// The versions that clients are told.
    pub(crate) versions: RangeInclusive<i16>,
    /// Whether it is open to clients that have not signed in.
    is_open: bool,
}

macro_rules! apis {
    ($($key:literal $name:ident $versions:expr, $kind:ident $handler:path $(, $open:ident)?;)*) => {
        /// Every API that is offered, by key.
        pub(crate) static APIS: &[Api] = &[
            $(Api { key: $key, name: stringify!($name), versions: $versions, is_open: open!($($open)?) },)*
        ];

        /// Handles a request. What that takes is on the heap, and as much as its API needs: in the task of the connection
        /// every request would take as much as the largest.
        fn handle(call: Call, header: &RequestHeader, reader: Reader) -> BoxFuture<'_, Result<Answer, Hangup>> {
            match header.key {
                $($key => Box::pin($kind(call, header, reader, $handler)),)*
                _ => Box::pin(ready(Err(Hangup::UnknownApi))),
            }
        }
    };
}

macro_rules! open {
    () => {
        false
    };
    (open) => {
        true
    };
}

apis! {
    // Versions 0 to 2 are told but refused: librdkafka before 2.11.1 does not compress without them.
    0 Produce 0..=13, begins produce::produce;
    1 Fetch 4..=18, answers fetch::fetch;
    2 ListOffsets 1..=11, answers offsets::list_offsets;
    3 Metadata 0..=13, answers metadata::metadata;
    8 OffsetCommit 2..=10, answers group_offsets::commit;
    9 OffsetFetch 1..=10, answers group_offsets::fetch;
    10 FindCoordinator 0..=6, answers coordinator::find_coordinator;
    11 JoinGroup 0..=9, answers members::join;
    12 Heartbeat 0..=4, answers members::heartbeat;
    13 LeaveGroup 0..=5, answers members::leave;
    14 SyncGroup 0..=5, answers members::sync;
    15 DescribeGroups 0..=6, answers groups::describe;
    16 ListGroups 0..=5, answers groups::list;
    17 SaslHandshake 0..=1, answers sasl::handshake, open;
    18 ApiVersions 0..=5, answers api_versions::api_versions, open;
    19 CreateTopics 1..=7, answers admin::topics::create_topics;
    20 DeleteTopics 1..=6, answers admin::topics::delete_topics;
    21 DeleteRecords 0..=2, answers admin::records::delete_records;
    22 InitProducerId 0..=5, answers produce::init_producer_id;
    23 OffsetForLeaderEpoch 2..=4, answers offsets::offset_for_leader_epoch;
    29 DescribeAcls 1..=3, answers admin::absent::describe_acls;
    30 CreateAcls 1..=3, answers admin::absent::create_acls;
    31 DeleteAcls 1..=3, answers admin::absent::delete_acls;
    32 DescribeConfigs 1..=4, answers admin::configs::describe_configs;
    33 AlterConfigs 0..=2, answers admin::configs::alter_configs;
    35 DescribeLogDirs 1..=5, answers admin::cluster::describe_log_dirs;
    36 SaslAuthenticate 0..=2, answers sasl::authenticate, open;
    37 CreatePartitions 0..=3, answers admin::topics::create_partitions;
    42 DeleteGroups 0..=3, answers groups::delete;
    44 IncrementalAlterConfigs 0..=1, answers admin::configs::incremental_alter_configs;
    47 OffsetDelete 0..=0, answers groups::delete_offsets;
    50 DescribeUserScramCredentials 0..=0, answers sasl::describe_scram_credentials;
    51 AlterUserScramCredentials 0..=0, answers sasl::alter_scram_credentials;
    60 DescribeCluster 0..=2, answers admin::cluster::describe_cluster;
    61 DescribeProducers 0..=0, answers admin::producers::describe_producers;
    65 DescribeTransactions 0..=0, answers admin::absent::describe_transactions;
    66 ListTransactions 0..=2, answers admin::absent::list_transactions;
    68 ConsumerGroupHeartbeat 0..=1, answers consumers::heartbeat;
    69 ConsumerGroupDescribe 0..=1, answers consumers::describe;
    74 ListConfigResources 0..=1, answers admin::configs::list_config_resources;
    75 DescribeTopicPartitions 0..=0, answers admin::cluster::describe_topic_partitions;
}

/// A request that was handled.
pub(crate) struct Answered {
    /// The name of its API.
    pub(crate) api: &'static str,
    pub(crate) answer: Answer,
    /// The count of the request by a quota.
    pub(crate) in_flight: Option<InFlight>,
    /// What the answer takes of the memory for answers.
    pub(crate) share: Option<OwnedSemaphorePermit>,
}

impl Answered {
    /// An answer that takes little and is not limited.
    fn small(api: &'static str, answer: Answer) -> Self {
        Self {
            api,
            answer,
            in_flight: None,
            share: None,
        }
    }
}

/// Whether a request is handled to its end though its client is gone: Produce, since a client that wants no answer
/// (`acks` of 0) may close its connection as soon as its records are sent.
pub(crate) fn outlives_its_client(key: Option<i16>) -> bool {
    key == Some(PRODUCE)
}

/// Whether the answer of a request waits for what other clients do. It is of no use to a client that is gone.
pub(crate) fn waits_for_others(key: Option<i16>) -> bool {
    key.is_some_and(|key| [FETCH, JOIN_GROUP, SYNC_GROUP].contains(&key))
}

/// Answers a frame, which a quota has let through.
///
/// # Errors
/// Why the connection is to be closed.
pub(crate) async fn answer(
    kafka: &Kafka,
    session: &Arc<Session>,
    (life, connection, number): (u32, u64, u32),
    (frame, begun): (BytesMut, Result<Option<InFlight>, Slowed>),
) -> Result<Answered, Hangup> {
    let bytes = frame.len();
    let call = |name, header: Option<&RequestHeader>| Call {
        kafka: kafka.clone(),
        caller: session.caller(request_id(life, connection, number)),
        session: Arc::clone(session),
        api: name,
        version: header.map_or(0, |header| header.version),
        is_slowed: begun.is_err(),
        frame_bytes: bytes,
        client_id: header.and_then(|header| header.client_id.clone()),
    };
    if session.expects_bare() {
        let api = "SaslAuthenticate";
        let answer = sasl::bare(&call(api, None), &frame).await?;
        return Ok(Answered::small(api, Answer::Now(vec![answer])));
    }
    let mut reader = Reader::new(frame);
    let mut header = RequestHeader::read(&mut reader)?;
    if WAIT_FOR_MEMBERS.contains(&header.key) {
        // A slice would keep the frame in memory for as long as the request waits.
        header.client_id = header.client_id.map(|id| Bytes::copy_from_slice(&id));
    }
    let api = APIS
        .iter()
        .find(|api| api.key == header.key)
        .ok_or(Hangup::UnknownApi)?;
    if !api.is_open && session.is_nobody() {
        return Err(Hangup::NotSignedIn);
    }
    kafka.metrics.kafka.count_request(api.name);
    let call = call(api.name, Some(&header));
    if !api.versions.contains(&header.version) {
        return match api.key {
            API_VERSIONS => Ok(Answered::small(api.name, api_versions::too_new(&call, &header))),
            _ => Err(Hangup::UnknownVersion),
        };
    }
    let answer = handle(call, &header, reader).await?;
    Ok(Answered {
        api: api.name,
        answer,
        in_flight: begun.ok().flatten(),
        share: session.take_answer(),
    })
}

/// Reads the body of a request. If its structures take much more memory than its bytes, which are accounted for already,
/// it comes with its share of the memory for requests; and its answer has a share for what may be made of them.
async fn read<'a, M: Message>(
    call: &'a Call,
    header: &RequestHeader,
    mut reader: Reader,
) -> Result<(M, Option<Budget<'a>>), Hangup> {
    let bytes = reader.remaining();
    skip_tags(&mut reader, M::version(header.version))?;
    // If there is no memory for the structures, they go, and are read again when there is some. Not so a Produce, most of
    // which is records.
    let again = (header.key != PRODUCE).then(|| reader.again());
    let mut message = M::decode(&mut reader, header.version)?;
    let charged = reader.charged();
    if charged <= SMALL_BYTES {
        return Ok((message, None));
    }
    drop(reader);
    let mut budget = Budget::beside(&call.broker.bodies, call.session.request_bytes());
    if !budget.try_cover(charged) {
        let wait = async |budget: &mut Budget<'_>| {
            let covered = budget.cover_beside(bytes, charged).await;
            covered.map_err(|_| Hangup::Overloaded)
        };
        match again {
            Some(mut again) => {
                drop(message);
                wait(&mut budget).await?;
                message = M::decode(&mut again, header.version)?;
            }
            None => wait(&mut budget).await?,
        }
    }
    // A fetch may wait, and takes what it needs itself.
    if header.key != FETCH {
        call.reserve(charged * OF_STRUCTURES).await?;
    }
    Ok((message, Some(budget)))
}

/// An answer with its header.
pub(crate) fn write<M: Message>(key: i16, correlation: i32, number: i16, message: &M) -> Vec<Bytes> {
    written(key, correlation, number, message).finish()
}

fn written<M: Message>(key: i16, correlation: i32, number: i16, message: &M) -> Writer {
    let version: Version = M::version(number);
    let mut writer = Writer::default();
    begin_answer(&mut writer, key, correlation, version);
    message.write(&mut writer, version);
    writer
}

/// Handles a request whose answer is there when the handler ends.
async fn answers<Q: Message, A: Message>(
    call: Call,
    header: &RequestHeader,
    reader: Reader,
    handler: impl AsyncFnOnce(&Call, Q) -> Result<A, Hangup>,
) -> Result<Answer, Hangup> {
    let (request, mut share) = read(&call, header, reader).await?;
    if waits_for_others(Some(header.key)) {
        // The handler gives it back with that of the frame, or gives way for both.
        call.session.hold_request(share.as_mut().and_then(Budget::take));
    }
    let message = handler(&call, request).await?;
    let writer = written(header.key, header.correlation, header.version, &message);
    drop((message, share));
    call.session.hold_answer(call.settle(writer.owned_bytes()).await?);
    Ok(Answer::Now(writer.finish()))
}

/// Handles a request whose answer may come later.
async fn begins<Q: Message>(
    call: Call,
    header: &RequestHeader,
    reader: Reader,
    handler: impl AsyncFnOnce(Call, i32, Q) -> Result<Answer, Hangup>,
) -> Result<Answer, Hangup> {
    let own = call.clone();
    let (request, _share) = read(&own, header, reader).await?;
    let answer = handler(call, header.correlation, request).await?;
    if let Some(bytes) = answer.bytes() {
        own.session.hold_answer(own.settle(bytes).await?);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::call::testing;
    use crate::kafka::messages::produce::{ProducePartition, ProduceRequest, ProduceTopic};
    use crate::kafka::wire::Field;

    /// More than anybody waits.
    const LONG: std::time::Duration = std::time::Duration::from_secs(3600);

    /// A frame of version 8 with so many partitions without records, of an `acks` that there is not.
    fn produce(partitions: usize) -> BytesMut {
        let request = ProduceRequest {
            acks: 7,
            topic_data: vec![ProduceTopic {
                name: "t".into(),
                partition_data: vec![ProducePartition::default(); partitions],
                ..ProduceTopic::default()
            }],
            ..ProduceRequest::default()
        };
        let mut writer = Writer::default();
        writer.raw(&[0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff]);
        request.write(&mut writer, ProduceRequest::version(8));
        BytesMut::from(&*writer.finish().concat())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_memory_that_it_holds_itself() {
        let call = testing::call("Produce", 8, &[]);
        let requests = &call.broker.bodies;
        let mut frame = Budget::unhurried(requests);
        frame.cover(requests.bytes() - 200_000).await.unwrap();
        call.session.hold_request(frame.take());
        let answered = answer(&call.kafka, &call.session, (1, 1, 1), (produce(10_000), Ok(None)));
        let answered = tokio::time::timeout(LONG, answered).await;
        assert!(
            answered.is_ok_and(|answered| answered.is_ok()),
            "it waits for itself"
        );
        drop(call.session.take_request());
        assert_eq!(requests.held_bytes(), 0);
    }

    #[tokio::test]
    async fn the_answer_to_a_produce_request_has_a_share() {
        let call = testing::call("Produce", 8, &[]);
        // Their structures are small.
        let answered = answer(&call.kafka, &call.session, (1, 1, 1), (produce(400), Ok(None)));
        let answered = answered.await.unwrap_or_else(|hangup| panic!("{hangup}"));
        let bytes = answered.answer.bytes().unwrap_or(0);
        let share = answered.share.map_or(0, |share| share.num_permits() * 1024);
        assert!(bytes > 16 << 10, "{bytes}");
        assert!(
            (bytes..bytes + 1024).contains(&share),
            "{bytes} bytes, a share of {share}"
        );
    }

    #[test]
    fn the_table_is_sorted_and_names_each_api_once() {
        assert!(APIS.is_sorted_by(|one, other| one.key < other.key));
    }
}
