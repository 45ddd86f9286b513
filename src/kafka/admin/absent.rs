//! APIs 29 to 31, 61, 65 and 66: access control lists and transactions, which this server does not have. Tools ask for
//! them, and learn that there are none.

use super::super::call::{Call, Hangup};
use super::super::errors::ErrorCode;
use super::super::messages::acls::{
    AclCreationResult, CreateAclsRequest, CreateAclsResponse, DeleteAclsFilterResult, DeleteAclsRequest,
    DeleteAclsResponse, DescribeAclsRequest, DescribeAclsResponse,
};
use super::super::messages::transactions::{
    DescribeProducersPartition, DescribeProducersRequest, DescribeProducersResponse,
    DescribeProducersTopicResponse, DescribeTransactionsRequest, DescribeTransactionsResponse,
    DescribedTransaction, ListTransactionsRequest, ListTransactionsResponse,
};
use super::super::wire::Text;
use super::Failure;
use crate::broker::rights::Right;

/// The states of transactions in Kafka.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "PrepareEpochFence",
    "Dead",
];

fn no_lists() -> Failure {
    Failure::new(
        ErrorCode::SecurityDisabled,
        "there are no access control lists: tokens and principals have rules, over HTTP",
    )
}

/// Says that there are no lists.
pub(crate) async fn describe_acls(
    call: &Call,
    _: DescribeAclsRequest,
) -> Result<DescribeAclsResponse, Hangup> {
    let (error_code, error_message) = no_lists().answer(call);
    Ok(DescribeAclsResponse {
        error_code,
        error_message,
        ..DescribeAclsResponse::default()
    })
}

/// Says that there are no lists.
pub(crate) async fn create_acls(
    call: &Call,
    request: CreateAclsRequest,
) -> Result<CreateAclsResponse, Hangup> {
    let result = |_| {
        let (error_code, error_message) = no_lists().answer(call);
        AclCreationResult {
            error_code,
            error_message,
        }
    };
    Ok(CreateAclsResponse {
        results: request.creations.iter().map(result).collect(),
        ..CreateAclsResponse::default()
    })
}

/// Says that there are no lists.
pub(crate) async fn delete_acls(
    call: &Call,
    request: DeleteAclsRequest,
) -> Result<DeleteAclsResponse, Hangup> {
    let result = |_| {
        let (error_code, error_message) = no_lists().answer(call);
        DeleteAclsFilterResult {
            error_code,
            error_message,
            matching_acls: Vec::new(),
        }
    };
    Ok(DeleteAclsResponse {
        filter_results: request.filters.iter().map(result).collect(),
        ..DeleteAclsResponse::default()
    })
}

/// Names no producers: tools look here for transactions that hang, and none does.
pub(crate) async fn describe_producers(
    call: &Call,
    request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, Hangup> {
    let mut described = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = call.topic(Right::Read, &topic.name);
        let found = found.map_err(|refusal| ErrorCode::from(&refusal));
        let row = |index: &i32| {
            let number = u32::try_from(*index).unwrap_or(u32::MAX);
            let exists = match &found {
                Ok(topic) if topic.partition(number).is_some() => Ok(()),
                Ok(_) => Err(ErrorCode::UnknownTopicOrPartition),
                Err(code) => Err(*code),
            };
            DescribeProducersPartition {
                partition_index: *index,
                error_code: exists.err().map_or(0, |code| call.failed(code)),
                // A partition takes four bytes in a request: a sentence for each would be many times as much.
                error_message: None,
                active_producers: Vec::new(),
            }
        };
        described.push(DescribeProducersTopicResponse {
            partitions: topic.partition_indexes.iter().map(row).collect(),
            name: topic.name,
        });
    }
    Ok(DescribeProducersResponse {
        topics: described,
        ..DescribeProducersResponse::default()
    })
}

/// Says that no transaction has these ids.
pub(crate) async fn describe_transactions(
    call: &Call,
    request: DescribeTransactionsRequest,
) -> Result<DescribeTransactionsResponse, Hangup> {
    let row = |transactional_id: Text| DescribedTransaction {
        error_code: call.failed(ErrorCode::TransactionalIdNotFound),
        transactional_id,
        ..DescribedTransaction::default()
    };
    Ok(DescribeTransactionsResponse {
        transaction_states: request.transactional_ids.into_iter().map(row).collect(),
        ..DescribeTransactionsResponse::default()
    })
}

/// Lists no transactions.
pub(crate) async fn list_transactions(
    _: &Call,
    request: ListTransactionsRequest,
) -> Result<ListTransactionsResponse, Hangup> {
    let is_unknown = |state: &Text| !STATES.contains(&&**state);
    Ok(ListTransactionsResponse {
        unknown_state_filters: request.state_filters.into_iter().filter(is_unknown).collect(),
        ..ListTransactionsResponse::default()
    })
}
