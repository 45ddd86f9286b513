//! APIs 15, 16, 42 and 47: what tools ask of groups.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::admin::repeated;
use super::call::{Call, Hangup, Room};
use super::errors::ErrorCode;
use super::messages::NO_OPERATIONS;
use super::messages::group_offsets::{
    OffsetDeletePartitionResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteTopic,
    OffsetDeleteTopicResponse,
};
use super::messages::groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest,
    DescribeGroupsResponse, DescribedGroup, DescribedMember, ListGroupsRequest, ListGroupsResponse,
    ListedGroup,
};
use super::wire::Text;
use crate::broker::groups::classic::Denied;
use crate::broker::groups::classic::rebalance::Phase;
use crate::broker::groups::classic::views::{ClassicGroup, ClassicMember, Listed};
use crate::broker::groups::live::GroupType;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;

/// What a member takes in memory while it is described, and a group while it is listed, in bytes; what members say lies
/// in memory already.
const MEMBER_BYTES: usize = 1024;
const LISTED_BYTES: usize = 512;
/// Why a group is not described.
pub(super) const CROWDED: &str = "the group is named twice, or one of too many for an answer";
/// The most offsets that one request deletes, each of its topics counted as well.
const MAX_DELETED: usize = 100_000;
/// From this version on a group that is not there is an error.
const SAYS_MISSING: i16 = 6;
/// Kafka's numbers of what may be done with a group.
const OPERATIONS: [(Right, u32); 3] = [(Right::Read, 3), (Right::Delete, 6), (Right::Describe, 8)];

/// Describes groups with their members.
pub(crate) async fn describe(
    call: &Call,
    request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, Hangup> {
    Call::check_rows::<DescribedGroup>(request.groups.len())?;
    let again = repeated(request.groups.iter().cloned());
    let mut room = Room::new(call);
    let mut groups = Vec::with_capacity(request.groups.len());
    for group_id in request.groups {
        let mut described = match again.contains(&group_id) {
            true => crowded(call),
            false => of_group(call, &group_id),
        };
        if !room.take(described.members.len() * MEMBER_BYTES).await? {
            described = crowded(call);
        }
        let has_operations = request.include_authorized_operations && described.error_code == 0;
        groups.push(DescribedGroup {
            authorized_operations: match has_operations {
                true => operations(call, &group_id),
                false => NO_OPERATIONS,
            },
            group_id,
            ..described
        });
    }
    Ok(DescribeGroupsResponse {
        groups,
        ..DescribeGroupsResponse::default()
    })
}

/// A group that is named twice, or for which there is no room.
fn crowded(call: &Call) -> DescribedGroup {
    DescribedGroup {
        error_code: call.failed(ErrorCode::InvalidRequest),
        error_message: Some(CROWDED.into()),
        ..DescribedGroup::default()
    }
}

fn of_group(call: &Call, group_id: &str) -> DescribedGroup {
    match call.broker.groups.describe_classic(&call.caller, group_id) {
        Ok(Some(group)) => described(group),
        // Other kinds of groups have calls of their own.
        Ok(None) | Err(Denied::InconsistentProtocol) => DescribedGroup {
            error_code: match call.version >= SAYS_MISSING {
                true => call.failed(ErrorCode::GroupIdNotFound),
                false => 0,
            },
            error_message: Some(format!("Group {group_id} not found.").into()),
            group_state: Text::from("Dead"),
            ..DescribedGroup::default()
        },
        Err(denied) => DescribedGroup {
            error_code: call.failed(ErrorCode::of_denied(&denied)),
            ..DescribedGroup::default()
        },
    }
}

/// What the caller may do with a group, as Kafka numbers it.
pub(super) fn operations(call: &Call, group: &str) -> i32 {
    let may = OPERATIONS
        .into_iter()
        .filter(|(right, _)| call.caller.may_group(*right, group));
    may.fold(0, |all, (_, number)| all | 1 << number)
}

fn described(group: ClassicGroup) -> DescribedGroup {
    let member = |member: ClassicMember| DescribedMember {
        member_id: Text::from(&*member.member),
        group_instance_id: member.instance.as_deref().map(Text::from),
        client_id: member.client_id.unwrap_or_default().into(),
        client_host: host(member.address.as_deref().unwrap_or_default()),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    };
    DescribedGroup {
        group_state: Text::from(state(group.phase)),
        protocol_type: Text::from(&*group.protocol_type),
        protocol_data: Text::from(&*group.protocol),
        members: group.members.into_iter().map(member).collect(),
        ..DescribedGroup::default()
    }
}

/// An address as Kafka shows it: a slash, and no port.
pub(super) fn host(address: &str) -> Text {
    let ip = address
        .parse()
        .map(|address: SocketAddr| address.ip().to_string());
    format!("/{}", ip.unwrap_or_else(|_| address.to_owned())).into()
}

const fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "Empty",
        Phase::Preparing { .. } => "PreparingRebalance",
        Phase::Completing { .. } => "CompletingRebalance",
        Phase::Stable => "Stable",
    }
}

/// Lists the groups.
pub(crate) async fn list(call: &Call, request: ListGroupsRequest) -> Result<ListGroupsResponse, Hangup> {
    let words = |filter: &[Text]| -> HashSet<String> {
        filter.iter().map(|word| word.to_ascii_lowercase()).collect()
    };
    let (states, types) = (words(&request.states_filter), words(&request.types_filter));
    let is_asked =
        |words: &HashSet<String>, name: &str| words.is_empty() || words.contains(&name.to_ascii_lowercase());
    call.reserve(call.broker.groups.names().len() * LISTED_BYTES)
        .await?;
    let groups = call
        .broker
        .groups
        .list_for_tools(&call.caller)
        .into_iter()
        .map(listed);
    let groups =
        groups.filter(|row| is_asked(&states, &row.group_state) && is_asked(&types, &row.group_type));
    Ok(ListGroupsResponse {
        groups: groups.collect(),
        ..ListGroupsResponse::default()
    })
}

fn listed(row: Listed) -> ListedGroup {
    let (protocol_type, group_type) = match row.kind {
        GroupType::Shared => (Text::from("share"), "Share"),
        GroupType::Ordered if !row.is_empty || row.has_subscribed => (Text::from("consumer"), "Consumer"),
        // A group that only has commits is classic to Kafka.
        GroupType::Ordered | GroupType::Classic => (Text::from(&*row.protocol_type), "Classic"),
    };
    ListedGroup {
        group_id: row.group.into(),
        protocol_type,
        group_state: match row.is_reconciling {
            true => Text::from("Reconciling"),
            false => Text::from(state(row.phase)),
        },
        group_type: Text::from(group_type),
    }
}

/// Deletes groups without members.
pub(crate) async fn delete(
    call: &Call,
    request: DeleteGroupsRequest,
) -> Result<DeleteGroupsResponse, Hangup> {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let deleted = call.broker.groups.delete(&call.caller, &group_id).await;
        let error = deleted.err();
        let error_code = error
            .as_ref()
            .map_or(0, |refusal| call.failed(ErrorCode::of_group(refusal.reason)));
        call.note_change(format!("groups/{}", &*group_id), error_code);
        results.push(DeletableGroupResult {
            error_code,
            error_message: error.map(|refusal| refusal.detail.into()),
            group_id,
        });
    }
    Ok(DeleteGroupsResponse {
        results,
        ..DeleteGroupsResponse::default()
    })
}

/// Deletes committed offsets that no member needs.
pub(crate) async fn delete_offsets(
    call: &Call,
    request: OffsetDeleteRequest,
) -> Result<OffsetDeleteResponse, Hangup> {
    let rows = request.topics.iter().map(|topic| topic.partitions.len());
    let count = request.topics.len() + rows.sum::<usize>();
    let resource = format!("groups/{}/offsets", &*request.group_id);
    let refused = |code: ErrorCode| {
        let error_code = call.failed(code);
        call.note_change(&resource, error_code);
        Ok(OffsetDeleteResponse {
            error_code,
            ..OffsetDeleteResponse::default()
        })
    };
    if count > MAX_DELETED {
        return refused(ErrorCode::InvalidRequest);
    }
    let number = |index: i32| u32::try_from(index).unwrap_or(u32::MAX);
    let row = |topic: &OffsetDeleteTopic| {
        let partitions = topic.partitions.iter().map(|row| number(row.partition_index));
        (topic.name.to_string(), partitions.collect())
    };
    let again = repeated(request.topics.iter().map(|topic| topic.name.clone()));
    let is_asked = |topic: &&OffsetDeleteTopic| !topic.partitions.is_empty() && !again.contains(&topic.name);
    let rows: Vec<(String, Vec<u32>)> = request.topics.iter().filter(is_asked).map(row).collect();
    let deleted = call
        .broker
        .groups
        .delete_offsets(&call.caller, &request.group_id, &rows)
        .await;
    let results = match deleted {
        Ok(results) => results,
        Err(denied) => return refused(ErrorCode::of_denied(&denied)),
    };
    let code = |result: Option<Result<(), Refusal>>| match result {
        Some(Ok(())) => 0,
        Some(Err(refusal)) if refusal.reason == Reason::GroupActive => {
            call.failed(ErrorCode::GroupSubscribedToTopic)
        }
        Some(Err(refusal)) => call.refused(&refusal),
        // The topic is named twice.
        None => call.failed(ErrorCode::InvalidRequest),
    };
    let mut results = results.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let asked = is_asked(&topic).then(|| results.next());
        let mut results = asked.flatten().unwrap_or_default().into_iter();
        let rows = topic.partitions.iter();
        let rows = rows.map(|row| OffsetDeletePartitionResponse {
            partition_index: row.partition_index,
            error_code: code(results.next()),
        });
        let partitions: Vec<_> = rows.collect();
        let first_error = partitions.iter().find(|row| row.error_code != 0);
        if !partitions.is_empty() {
            let resource = format!("{resource}?topic={}", &*topic.name);
            call.note_change(resource, first_error.map_or(0, |row| row.error_code));
        }
        OffsetDeleteTopicResponse {
            partitions,
            name: topic.name.clone(),
        }
    });
    Ok(OffsetDeleteResponse {
        topics: topics.collect(),
        ..OffsetDeleteResponse::default()
    })
}
