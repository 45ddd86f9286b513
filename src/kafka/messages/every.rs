//! Every message, for tests and fuzz targets.

use bytes::Bytes;

use super::{
    acls::*, admin::*, api_versions::*, cluster::*, configs::*, consumers::*, coordinator::*, fetch::*,
    group_offsets::*, groups::*, metadata::*, offsets::*, produce::*, sasl::*, transactions::*,
};
use crate::kafka::wire::{Malformed, Message, Reader};

/// Calls a macro with the key, the request and the answer of each API.
macro_rules! every {
    ($with:ident) => {
        $with! {
            0 ProduceRequest ProduceResponse;
            1 FetchRequest FetchResponse;
            2 ListOffsetsRequest ListOffsetsResponse;
            3 MetadataRequest MetadataResponse;
            8 OffsetCommitRequest OffsetCommitResponse;
            9 OffsetFetchRequest OffsetFetchResponse;
            10 FindCoordinatorRequest FindCoordinatorResponse;
            11 JoinGroupRequest JoinGroupResponse;
            12 HeartbeatRequest HeartbeatResponse;
            13 LeaveGroupRequest LeaveGroupResponse;
            14 SyncGroupRequest SyncGroupResponse;
            15 DescribeGroupsRequest DescribeGroupsResponse;
            16 ListGroupsRequest ListGroupsResponse;
            17 SaslHandshakeRequest SaslHandshakeResponse;
            18 ApiVersionsRequest ApiVersionsResponse;
            19 CreateTopicsRequest CreateTopicsResponse;
            20 DeleteTopicsRequest DeleteTopicsResponse;
            21 DeleteRecordsRequest DeleteRecordsResponse;
            22 InitProducerIdRequest InitProducerIdResponse;
            23 OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse;
            29 DescribeAclsRequest DescribeAclsResponse;
            30 CreateAclsRequest CreateAclsResponse;
            31 DeleteAclsRequest DeleteAclsResponse;
            32 DescribeConfigsRequest DescribeConfigsResponse;
            33 AlterConfigsRequest AlterConfigsResponse;
            35 DescribeLogDirsRequest DescribeLogDirsResponse;
            36 SaslAuthenticateRequest SaslAuthenticateResponse;
            37 CreatePartitionsRequest CreatePartitionsResponse;
            42 DeleteGroupsRequest DeleteGroupsResponse;
            44 IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse;
            47 OffsetDeleteRequest OffsetDeleteResponse;
            50 DescribeUserScramCredentialsRequest DescribeUserScramCredentialsResponse;
            51 AlterUserScramCredentialsRequest AlterUserScramCredentialsResponse;
            60 DescribeClusterRequest DescribeClusterResponse;
            61 DescribeProducersRequest DescribeProducersResponse;
            65 DescribeTransactionsRequest DescribeTransactionsResponse;
            66 ListTransactionsRequest ListTransactionsResponse;
            68 ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse;
            69 ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse;
            74 ListConfigResourcesRequest ListConfigResourcesResponse;
            75 DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse;
        }
    };
}

/// What became of bytes that were read as a message.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// The same message, written again.
    pub(crate) bytes: Vec<u8>,
    /// The bytes that were left after it.
    pub(crate) left: usize,
    /// The memory of its arrays, in bytes.
    pub(crate) charged: usize,
}

fn rewrite_as<M: Message>(bytes: Bytes, version: i16) -> Result<Rewritten, Malformed> {
    let mut reader = Reader::new(bytes.into());
    let message = M::decode(&mut reader, version)?;
    Ok(Rewritten {
        bytes: message.encode(version).concat(),
        left: reader.remaining(),
        charged: reader.charged(),
    })
}

/// Reads bytes as the request or the answer of an API, and writes it again. `None`: the API is not known.
pub(crate) fn rewrite(
    key: i16,
    version: i16,
    is_answer: bool,
    bytes: Bytes,
) -> Option<Result<Rewritten, Malformed>> {
    macro_rules! by_key {
        ($($key:literal $request:ident $answer:ident;)*) => {
            match (key, is_answer) {
                $(
                    ($key, false) => Some(rewrite_as::<$request>(bytes, version)),
                    ($key, true) => Some(rewrite_as::<$answer>(bytes, version)),
                )*
                _ => None,
            }
        };
    }
    every!(by_key)
}

#[cfg(test)]
pub(crate) use every;
