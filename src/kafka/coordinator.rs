//! API 10, FindCoordinator: the one node coordinates everything.

use super::call::{Call, Hangup, NODE};
use super::errors::ErrorCode;
use super::messages::coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use super::wire::Text;
use crate::broker::rights::Right;

/// From this version on a request has many keys.
const MANY_KEYS: i16 = 4;
/// The kinds of keys that Kafka knows.
const KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=2;
/// The kind of groups.
const GROUP: i8 = 0;
/// Whoever may do something with a group may know who coordinates it.
const RIGHTS: [Right; 4] = [Right::Describe, Right::Read, Right::Write, Right::Delete];

/// Names the node.
pub(crate) async fn find_coordinator(
    call: &Call,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Hangup> {
    let (host, port) = call.address();
    let check = |key: &str| match request.key_type {
        GROUP if call.caller.check_group(&RIGHTS, key).is_err() => Err(ErrorCode::GroupAuthorizationFailed),
        known if KEY_TYPES.contains(&known) => Ok(()),
        _ => Err(ErrorCode::InvalidRequest),
    };
    let of_key = |key: Text| match check(&key) {
        Ok(()) => Coordinator {
            key,
            node_id: NODE,
            host: host.clone(),
            port,
            ..Coordinator::default()
        },
        Err(code) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: call.failed(code),
            ..Coordinator::default()
        },
    };
    if call.version >= MANY_KEYS {
        return Ok(FindCoordinatorResponse {
            coordinators: request.coordinator_keys.into_iter().map(of_key).collect(),
            ..FindCoordinatorResponse::default()
        });
    }
    let found = of_key(request.key);
    Ok(FindCoordinatorResponse {
        error_code: found.error_code,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..FindCoordinatorResponse::default()
    })
}
