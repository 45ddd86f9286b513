//! API 10, FindCoordinator: the one node coordinates everything.

use super::call::{Call, Hangup, NODE};
use super::errors::ErrorCode;
use super::messages::coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

/// The kinds of keys that Kafka knows.
const KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=2;

/// Names the node.
pub(crate) async fn find_coordinator(
    call: &Call,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Hangup> {
    let (host, port) = call.address();
    let code = match KEY_TYPES.contains(&request.key_type) {
        true => 0,
        false => call.failed(ErrorCode::InvalidRequest),
    };
    let coordinators = request.coordinator_keys.into_iter().map(|key| Coordinator {
        key,
        node_id: NODE,
        host: host.clone(),
        port,
        error_code: code,
        error_message: None,
    });
    Ok(FindCoordinatorResponse {
        coordinators: coordinators.collect(),
        error_code: code,
        node_id: NODE,
        host,
        port,
        ..FindCoordinatorResponse::default()
    })
}
