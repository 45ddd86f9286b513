//! APIs 11 to 14: the calls of members of classic groups.

use std::sync::Arc;

use bytes::Bytes;

use super::call::{Call, Hangup};
use super::errors::ErrorCode;
use super::messages::groups::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupMember, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, LeavingMember, LeftMember, SyncGroupRequest, SyncGroupResponse,
};
use super::wire::Text;
use crate::broker::caller::Shown;
use crate::broker::groups::classic::calls::fresh_id;
use crate::broker::groups::classic::{
    Denied, Identity, Joined, JoinedMember, Joining, MAX_MEMBER_BYTES, Synced, Syncing,
};

/// From this version on a member gets its id before it joins.
const NEEDS_ID: i16 = 4;
/// From this version on the leader may be told that it need not assign.
const MAY_SKIP: i16 = 9;
/// The largest join or sync, in bytes: what a member may say, and the form of it.
const MAX_FRAME_BYTES: usize = MAX_MEMBER_BYTES + (64 << 10);
/// From this version on several members leave in one call.
const SEVERAL_LEAVE: i16 = 3;

/// Lets a member join, and answers when the rebalance ends.
pub(crate) async fn join(call: &Call, request: JoinGroupRequest) -> Result<JoinGroupResponse, Hangup> {
    let member_id = Text::from(&*request.member_id);
    Ok(match joined(call, request).await {
        Ok(joined) => joined_answer(joined),
        Err(denied) => JoinGroupResponse {
            error_code: call.failed(ErrorCode::of_denied(&denied)),
            member_id: match denied {
                Denied::MemberIdRequired(id) => Text::from(&*id),
                _ => member_id,
            },
            ..JoinGroupResponse::default()
        },
    })
}

async fn joined(call: &Call, request: JoinGroupRequest) -> Result<Joined, Denied> {
    check_size(call)?;
    let client_id = call.client_name();
    let instance = given(request.group_instance_id.as_deref());
    let session_timeout = u64::try_from(request.session_timeout_ms).unwrap_or(0);
    let joining = Joining {
        member: given(Some(&request.member_id)).map(Arc::from),
        fresh: fresh_id(instance.or(client_id.as_deref())),
        instance: instance.map(Arc::from),
        client_id,
        address: call.caller.address.map(|address| Shown(address).to_string()),
        protocol_type: Arc::from(&*request.protocol_type),
        protocols: request
            .protocols
            .iter()
            // A copy, because the slice would keep the whole request in memory.
            .map(|row| (Arc::from(&*row.name), Bytes::copy_from_slice(&row.metadata)))
            .collect(),
        session_timeout,
        rebalance_timeout: u64::try_from(request.rebalance_timeout_ms).unwrap_or(session_timeout),
        needs_id: call.version >= NEEDS_ID && call.broker.groups.may_promise(),
        may_skip: call.version >= MAY_SKIP,
    };
    let groups = &call.broker.groups;
    let waiting = groups
        .begin_join_classic(&call.caller, &request.group_id, &joining)
        .await?;
    // The group has a copy of what it needs, and counts that. The others may take long.
    drop((request, joining));
    call.release();
    waiting.joined().await
}

/// Refuses a request that is larger than all that a member may say.
fn check_size(call: &Call) -> Result<(), Denied> {
    match call.frame_bytes <= MAX_FRAME_BYTES {
        true => Ok(()),
        false => Err(Denied::TooLarge),
    }
}

fn joined_answer(joined: Joined) -> JoinGroupResponse {
    let member = |row: JoinedMember| JoinGroupMember {
        member_id: Text::from(&*row.member),
        group_instance_id: row.instance.as_deref().map(Text::from),
        metadata: row.metadata,
    };
    JoinGroupResponse {
        generation_id: joined.generation_id,
        protocol_type: Some(Text::from(&*joined.protocol_type)),
        protocol_name: Some(Text::from(&*joined.protocol)),
        leader: Text::from(&*joined.leader),
        skip_assignment: joined.skips_assignment,
        member_id: Text::from(&*joined.member),
        members: joined.members.into_iter().map(member).collect(),
        ..JoinGroupResponse::default()
    }
}

/// Gives a member what the leader has assigned to it.
pub(crate) async fn sync(call: &Call, request: SyncGroupRequest) -> Result<SyncGroupResponse, Hangup> {
    Ok(match synced(call, request).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: Some(Text::from(&*synced.protocol_type)),
            protocol_name: Some(Text::from(&*synced.protocol)),
            assignment: synced.assignment,
            ..SyncGroupResponse::default()
        },
        Err(denied) => SyncGroupResponse {
            error_code: call.failed(ErrorCode::of_denied(&denied)),
            ..SyncGroupResponse::default()
        },
    })
}

async fn synced(call: &Call, request: SyncGroupRequest) -> Result<Synced, Denied> {
    check_size(call)?;
    let assignments = request.assignments.iter();
    let syncing = Syncing {
        who: Identity {
            member: &request.member_id,
            instance: given(request.group_instance_id.as_deref()),
            generation_id: request.generation_id,
        },
        protocol_type: request.protocol_type.as_deref(),
        protocol: request.protocol_name.as_deref(),
        assignments: assignments
            .map(|row| {
                (
                    Arc::from(&*row.member_id),
                    Bytes::copy_from_slice(&row.assignment),
                )
            })
            .collect(),
    };
    let groups = &call.broker.groups;
    let waiting = groups.begin_sync_classic(&call.caller, &request.group_id, &syncing)?;
    drop(syncing);
    drop(request);
    call.release();
    waiting.synced().await
}

/// Keeps a member alive.
pub(crate) async fn heartbeat(call: &Call, request: HeartbeatRequest) -> Result<HeartbeatResponse, Hangup> {
    let who = Identity {
        member: &request.member_id,
        instance: given(request.group_instance_id.as_deref()),
        generation_id: request.generation_id,
    };
    let beat = call
        .broker
        .groups
        .heartbeat_classic(&call.caller, &request.group_id, &who);
    Ok(HeartbeatResponse {
        error_code: beat.map_or_else(|denied| call.failed(ErrorCode::of_denied(&denied)), |()| 0),
        ..HeartbeatResponse::default()
    })
}

/// Lets members leave.
pub(crate) async fn leave(call: &Call, request: LeaveGroupRequest) -> Result<LeaveGroupResponse, Hangup> {
    let is_alone = call.version < SEVERAL_LEAVE;
    let members = match is_alone {
        true => vec![LeavingMember {
            member_id: request.member_id,
            ..LeavingMember::default()
        }],
        false => request.members,
    };
    let named: Vec<_> = members
        .iter()
        .map(|row| {
            (
                given(Some(&row.member_id)),
                given(row.group_instance_id.as_deref()),
            )
        })
        .collect();
    let left = call
        .broker
        .groups
        .leave_classic(&call.caller, &request.group_id, &named)
        .await;
    let left = match left {
        Ok(left) => left,
        Err(denied) => {
            let error_code = call.failed(ErrorCode::of_denied(&denied));
            call.note_change(format!("groups/{}/members", &*request.group_id), error_code);
            return Ok(LeaveGroupResponse {
                error_code,
                ..LeaveGroupResponse::default()
            });
        }
    };
    let code = |result: Result<(), Denied>| {
        result.map_or_else(|denied| call.failed(ErrorCode::of_denied(&denied)), |()| 0)
    };
    let codes: Vec<i16> = left.into_iter().map(code).collect();
    for (row, code) in members.iter().zip(&codes) {
        // An administrator may name a static member by its instance alone.
        let member = given(Some(&row.member_id)).or(given(row.group_instance_id.as_deref()));
        let member = member.unwrap_or_default();
        call.note_change(format!("groups/{}/members/{member}", &*request.group_id), *code);
    }
    if is_alone {
        return Ok(LeaveGroupResponse {
            error_code: codes.first().copied().unwrap_or(0),
            ..LeaveGroupResponse::default()
        });
    }
    let rows = members
        .into_iter()
        .zip(codes)
        .map(|(row, error_code)| LeftMember {
            member_id: row.member_id,
            group_instance_id: row.group_instance_id,
            error_code,
        });
    Ok(LeaveGroupResponse {
        members: rows.collect(),
        ..LeaveGroupResponse::default()
    })
}

/// A text that says something.
pub(super) fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
