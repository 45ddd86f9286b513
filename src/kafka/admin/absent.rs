//! APIs 29 to 31, 65 and 66: access control lists and transactions, which this server does not have. Tools ask for them,
//! and learn that there are none.

use super::super::call::{Call, Hangup};
use super::super::errors::ErrorCode;
use super::super::messages::acls::{
    AclCreationResult, CreateAclsRequest, CreateAclsResponse, DeleteAclsFilterResult, DeleteAclsRequest,
    DeleteAclsResponse, DescribeAclsRequest, DescribeAclsResponse,
};
use super::super::messages::transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, DescribedTransaction, ListTransactionsRequest,
    ListTransactionsResponse,
};
use super::super::wire::Text;
use super::Failure;

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
