//! `/v1/groups/{group}/offsets`: committed offsets, without membership.

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::broker::caller::Caller;
use crate::broker::groups::outside::NamedCommit;
use crate::broker::names::TOPIC;
use crate::http::Answer;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::ok;
use crate::http::params::Params;
use crate::http::path::{AtGroup, GroupName, NoQuery};
use crate::http::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_offsets, commit_offsets, forget_topic))
}

/// A committed offset.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OffsetBody {
    /// The topic.
    pub(super) topic: String,
    /// The partition.
    pub(super) partition: u32,
    /// The offset of the next record to read; at most the partition's `end_offset`.
    pub(super) offset: u64,
    /// A note of the consumer, stored with the offset: at most 4096 bytes.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub(super) metadata: Option<String>,
}

/// Committed offsets.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OffsetsBody {
    /// One for each partition.
    pub(super) offsets: Vec<OffsetBody>,
}

/// Lists the committed offsets of a group
#[utoipa::path(get, path = "/v1/groups/{group}/offsets", tag = "groups",
    responses((status = 200, description = "Sorted by topic and partition", body = OffsetsBody)))]
async fn read_offsets(app: App, caller: Caller, _: NoQuery, AtGroup(group): AtGroup) -> Answer {
    let committed = app.groups.committed_by_name(&group);
    let seen = committed.into_iter().filter(|row| caller.sees_topic(&row.topic));
    let offsets = seen.map(OffsetBody::from).collect();
    ok(&OffsetsBody { offsets })
}

/// Commits offsets without membership, all or none; creates the group if it does not exist
#[utoipa::path(put, path = "/v1/groups/{group}/offsets", tag = "groups", request_body = OffsetsBody,
    responses((status = 200, description = "The committed offsets; they are durable", body = OffsetsBody),
        (status = 404, description = "`unknown-topic`, `unknown-partition`: nothing was committed"),
        (status = 409, description = "`group-active`: the group has members, and only they may commit; nothing was committed")))]
async fn commit_offsets(
    app: App,
    caller: Caller,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<OffsetsBody>,
) -> Answer {
    let offsets: Vec<NamedCommit> = body.offsets.iter().map(NamedCommit::from).collect();
    app.groups.commit_outside(&caller, &group, &offsets).await?;
    ok(&body)
}

/// Forgets a topic that the group has given up
///
/// Removes the group's committed offsets and its subscription there, and what it knows of the topic as a work queue: its
/// lag no longer counts the topic, and a member that joins later begins there anew.
#[utoipa::path(delete, path = "/v1/groups/{group}/offsets", tag = "groups",
    params(("topic" = String, Query, description = "The topic's name")),
    responses((status = 204, description = "The topic is forgotten, durably"),
        (status = 404, description = "`unknown-group`; `unknown-topic`: the group knows nothing of the topic"),
        (status = 409, description = "`group-active`: a live member subscribes to it")))]
async fn forget_topic(
    app: App,
    caller: Caller,
    RawQuery(query): RawQuery,
    GroupName(group): GroupName,
) -> Answer {
    let params = Params::parse(query.as_deref(), &["topic"], &[])?;
    let Some(topic) = params.get("topic") else {
        return Err(Problem::invalid("topic", "name the topic to forget"));
    };
    TOPIC.check(topic)?;
    app.groups.forget_topic(&caller, &group, topic).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl From<NamedCommit> for OffsetBody {
    fn from(row: NamedCommit) -> Self {
        Self {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata,
        }
    }
}

impl From<&OffsetBody> for NamedCommit {
    fn from(row: &OffsetBody) -> Self {
        Self {
            topic: row.topic.clone(),
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata.clone(),
        }
    }
}
